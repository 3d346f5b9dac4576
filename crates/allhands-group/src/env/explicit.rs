//! `RANK`, `WORLD_SIZE`, `MASTER_ADDR` and `MASTER_PORT`, set by torchrun or by hand.

use super::launcher::{Host, Launcher, Told};
use super::variables::{Variables, number, rank, ranks, restarts};
use super::{EnvError, REQUIRED, ServedBy};

/// What they say, if both the rank and the world size are set.
pub(super) fn read(variables: &impl Variables) -> Result<Option<Told>, EnvError> {
    let (Some(rank_value), Some(world_size)) =
        (rank(variables, &["RANK"])?, ranks(variables, &["WORLD_SIZE"])?)
    else {
        return Ok(None);
    };
    if let Some(half) = half_set(variables) {
        return Err(half);
    }
    let local_rank = rank(variables, &["LOCAL_RANK"])?;
    if local_rank.is_none() {
        one_rank_a_pod(variables)?;
    }
    Ok(Some(Told {
        launcher: Launcher::Explicit,
        rank: rank_value,
        world_size,
        local_rank,
        local_world_size: ranks(variables, &["LOCAL_WORLD_SIZE"])?,
        // `MASTER_ADDR` is set, and comes before what a launcher says.
        host: Host::Unknown,
        // What torchrun says when it was not given a name either.
        job_id: variables.value("TORCHELASTIC_RUN_ID").filter(|id| id != "none"),
        restart: restarts(variables, "TORCHELASTIC_RESTART_COUNT")?,
    }))
}

/// Who serves the store, where the rank is explicit.
pub(super) fn served_by(variables: &impl Variables) -> ServedBy {
    match variables.value("TORCHELASTIC_USE_AGENT_STORE").as_deref() {
        Some("True" | "true" | "1") => ServedBy::Launcher,
        _ => ServedBy::RankZero,
    }
}

/// What is wrong if some of the four are set and others are not.
pub(super) fn half_set(variables: &impl Variables) -> Option<EnvError> {
    let (set, missing): (Vec<_>, Vec<_>) =
        REQUIRED.into_iter().partition(|name| variables.value(name).is_some());
    (!set.is_empty() && !missing.is_empty()).then_some(EnvError::HalfSet { set, missing })
}

/// A rank or a world size that stands alone must be the launcher's.
pub(super) fn agrees(variables: &impl Variables, told: &Told) -> Result<(), EnvError> {
    let pairs = [
        (rank(variables, &["RANK"])?, told.rank),
        (ranks(variables, &["WORLD_SIZE"])?, told.world_size),
    ];
    for (explicit, theirs) in pairs {
        if let Some(explicit) = explicit.filter(|explicit| explicit.value != theirs.value) {
            return Err(EnvError::Disagreement {
                variable: explicit.variable,
                value: explicit.value,
                other: theirs.variable,
                theirs: theirs.value,
            });
        }
    }
    Ok(())
}

/// Kubeflow's operators number pods in `RANK` and say beside it how many ranks torchrun is to start in each: a program
/// that was started without torchrun would be one rank of several with the same number.
pub(super) fn one_rank_a_pod(variables: &impl Variables) -> Result<(), EnvError> {
    for name in ["PET_NPROC_PER_NODE", "NPROC_PER_NODE"] {
        // A word (`auto`, `cpu`, `gpu`) is torchrun's to count by; without it there is one rank.
        let wanted = number(variables, &[name], "a number of ranks").ok().flatten();
        if let Some(wanted) = wanted.filter(|wanted| wanted.value > 1) {
            return Err(EnvError::RanksOfAPod { variable: name, ranks: wanted.value });
        }
    }
    Ok(())
}
