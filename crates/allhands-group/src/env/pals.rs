//! PALS, the launcher of HPE Cray systems without Slurm.

use super::EnvError;
use super::launcher::{Host, Launcher, Told};
use super::variables::{Variables, half, rank, ranks};

/// What PALS says of this process.
///
/// The world size is PMI's. With `--pmi=pmix` it is not set, and `WORLD_SIZE` has to be.
pub(super) fn read(variables: &impl Variables) -> Result<Option<Told>, EnvError> {
    let Some(number) = rank(variables, &["PALS_RANKID"])? else { return Ok(None) };
    let Some(size) = ranks(variables, &["PMI_SIZE", "WORLD_SIZE"])? else {
        return Err(half(&["PALS_RANKID"], &["PMI_SIZE", "WORLD_SIZE"]));
    };
    Ok(Some(Told {
        launcher: Launcher::Pals,
        rank: number,
        world_size: size,
        local_rank: rank(variables, &["PALS_LOCAL_RANKID", "PMI_LOCAL_RANK"])?,
        local_world_size: ranks(variables, &["PALS_LOCAL_SIZE", "PMI_LOCAL_SIZE"])?,
        host: Host::Unknown,
        job_id: variables.value("PALS_APID"),
        restart: 0,
    }))
}
