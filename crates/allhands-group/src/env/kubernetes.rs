//! Pods of Kubernetes, each with one rank: Kubeflow Trainer, JobSets, indexed jobs.

use super::EnvError;
use super::explicit::one_rank_a_pod;
use super::launcher::{Host, Launcher, Told};
use super::variables::{Variables, half, number, rank, ranks};

/// What Kubeflow Trainer says to torchrun, for a program that is started in its place.
pub(super) fn kubeflow(variables: &impl Variables) -> Result<Option<Told>, EnvError> {
    let Some(node) = rank(variables, &["PET_NODE_RANK"])? else { return Ok(None) };
    let expected = "a number of pods (torchrun alone takes a range)";
    let Some(nodes) = number(variables, &["PET_NNODES"], expected)? else {
        return Err(half(&["PET_NODE_RANK"], &["PET_NNODES"]));
    };
    one_rank_a_pod(variables)?;
    let port = number(variables, &["PET_MASTER_PORT"], "a port: 1 to 65535")?;
    let port = match port.map(|port| (port, u16::try_from(port.value))) {
        None => None,
        Some((_, Ok(port))) if port > 0 => Some(port),
        Some((port, _)) => {
            let (variable, value) = (port.variable, port.value.to_string());
            return Err(EnvError::Value { variable, value, expected: "a port: 1 to 65535" });
        }
    };
    let host = match variables.value("PET_MASTER_ADDR") {
        Some(host) => Host::Named { host, port },
        None => Host::Unknown,
    };
    Ok(Some(Told {
        launcher: Launcher::Kubeflow,
        rank: node,
        world_size: nodes,
        local_rank: None,
        local_world_size: None,
        host,
        job_id: None,
        restart: 0,
    }))
}

/// What an indexed job says: the number of its pod. The world size and the name of the first pod are in the manifest
/// that the user writes.
pub(super) fn job_set(variables: &impl Variables) -> Result<Option<Told>, EnvError> {
    let Some(index) = rank(variables, &["JOB_COMPLETION_INDEX"])? else { return Ok(None) };
    let Some(size) = ranks(variables, &["WORLD_SIZE"])? else {
        return Err(half(&["JOB_COMPLETION_INDEX"], &["WORLD_SIZE"]));
    };
    Ok(Some(Told {
        launcher: Launcher::JobSet,
        rank: index,
        world_size: size,
        local_rank: None,
        local_world_size: None,
        host: Host::Unknown,
        job_id: None,
        restart: 0,
    }))
}
