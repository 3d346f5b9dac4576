//! The launchers of MPI: Open MPI's, and those that speak PMI.
//!
//! None of them says where rank 0 is. Where all ranks are on one host, that is known; else `MASTER_ADDR` has to be set.

use super::EnvError;
use super::launcher::{Host, Launcher, Told};
use super::variables::{Variables, half, rank, ranks};

/// What `mpirun` of Open MPI says of this process.
pub(super) fn open_mpi(variables: &impl Variables) -> Result<Option<Told>, EnvError> {
    let Some(number) = rank(variables, &["OMPI_COMM_WORLD_RANK"])? else { return Ok(None) };
    let Some(size) = ranks(variables, &["OMPI_COMM_WORLD_SIZE"])? else {
        return Err(half(&["OMPI_COMM_WORLD_RANK"], &["OMPI_COMM_WORLD_SIZE"]));
    };
    Ok(Some(Told {
        launcher: Launcher::OpenMpi,
        rank: number,
        world_size: size,
        // `OMPI_COMM_WORLD_NODE_RANK` counts over all jobs of a host, and is no number of a host either.
        local_rank: rank(variables, &["OMPI_COMM_WORLD_LOCAL_RANK"])?,
        local_world_size: ranks(variables, &["OMPI_COMM_WORLD_LOCAL_SIZE"])?,
        host: Host::Unknown,
        job_id: variables.value("PMIX_NAMESPACE"),
        restart: 0,
    }))
}

/// What a launcher that speaks PMI says of this process: Hydra, which is that of MPICH and Intel MPI, above all.
pub(super) fn pmi(variables: &impl Variables) -> Result<Option<Told>, EnvError> {
    let Some(number) = rank(variables, &["PMI_RANK"])? else { return Ok(None) };
    let Some(size) = ranks(variables, &["PMI_SIZE"])? else {
        return Err(half(&["PMI_RANK"], &["PMI_SIZE"]));
    };
    Ok(Some(Told {
        launcher: Launcher::Pmi,
        rank: number,
        world_size: size,
        local_rank: rank(variables, &["MPI_LOCALRANKID", "PMI_LOCAL_RANK"])?,
        local_world_size: ranks(variables, &["MPI_LOCALNRANKS", "PMI_LOCAL_SIZE"])?,
        host: Host::Unknown,
        // Intel MPI's; MPICH has no name for a job.
        job_id: variables.value("I_MPI_HYDRA_UUID"),
        restart: 0,
    }))
}
