//! Flux: `flux run`.

use super::EnvError;
use super::launcher::{Host, Launcher, Told};
use super::variables::{Variables, half, number, rank, ranks};

/// What Flux says of this task. It names no hosts and no number of tasks on each, but whether there is one host.
pub(super) fn read(variables: &impl Variables) -> Result<Option<Told>, EnvError> {
    let Some(task) = rank(variables, &["FLUX_TASK_RANK"])? else { return Ok(None) };
    let Some(size) = ranks(variables, &["FLUX_JOB_SIZE"])? else {
        return Err(half(&["FLUX_TASK_RANK"], &["FLUX_JOB_SIZE"]));
    };
    let nodes = number(variables, &["FLUX_JOB_NNODES"], "a number of hosts")?;
    let one_host = nodes.is_some_and(|nodes| nodes.value == 1);
    Ok(Some(Told {
        launcher: Launcher::Flux,
        rank: task,
        world_size: size,
        local_rank: rank(variables, &["FLUX_TASK_LOCAL_ID"])?,
        local_world_size: one_host.then_some(size),
        host: if one_host { Host::This } else { Host::Unknown },
        job_id: variables.value("FLUX_JOB_ID"),
        restart: 0,
    }))
}
