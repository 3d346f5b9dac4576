//! Slurm: `srun`.

use super::EnvError;
use super::launcher::{Host, Launcher, Told};
use super::variables::{Number, Variables, half, number, parse, rank, ranks};

/// Steps with a higher number are Slurm's own: batch shells, interactive shells.
const STEP_MAX: u32 = 0xFFFF_FFF0;

/// Where the tasks of each node are counted, the step's own count first.
const TASKS_PER_NODE: [&str; 2] = ["SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"];

/// Where the nodes stand, the step's own list first.
const NODES: [&str; 3] = ["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"];

/// What Slurm says of this task of a step.
///
/// Task 0 is on the first node of the step's list, unless tasks were placed by hand (`--distribution=arbitrary`):
/// `SLURM_LAUNCH_NODE_IPADDR`, which looks like what is wanted, is where `srun` runs. The step of a heterogeneous job
/// has one list and one numbering for all its components.
pub(super) fn read(variables: &impl Variables) -> Result<Option<Told>, EnvError> {
    let Some(task) = rank(variables, &["SLURM_PROCID"])? else { return Ok(None) };
    let Some(step) = step(variables)? else { return Ok(None) };
    let Some(tasks) = ranks(variables, &["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"])? else {
        return Err(half(&["SLURM_PROCID"], &["SLURM_NTASKS"]));
    };
    let job = variables.value("SLURM_JOB_ID").or_else(|| variables.value("SLURM_JOBID"));
    let list = NODES.into_iter().find_map(|name| Some((name, variables.value(name)?)));
    let host = match list {
        Some((variable, list)) => Host::FirstOf { variable, list },
        None => Host::Unknown,
    };
    Ok(Some(Told {
        launcher: Launcher::Slurm,
        rank: task,
        world_size: tasks,
        local_rank: rank(variables, &["SLURM_LOCALID"])?,
        local_world_size: tasks_here(variables)?,
        host,
        // Two steps of one job are two jobs to their ranks.
        job_id: job.map(|job| format!("{job}.{step}")),
        restart: super::variables::restarts(variables, "SLURM_RESTART_COUNT")?,
    }))
}

/// The step that `srun` made for this task, if it did.
fn step(variables: &impl Variables) -> Result<Option<u32>, EnvError> {
    let step = number(variables, &["SLURM_STEP_ID", "SLURM_STEPID"], "a step's number")?;
    Ok(step.map(|step| step.value).filter(|step| *step < STEP_MAX))
}

/// What is wrong if this process is a shell in an allocation, or a program started from one without `srun`.
pub(super) fn batch_shell(variables: &impl Variables) -> Option<EnvError> {
    let job = variables.value("SLURM_JOB_ID")?;
    matches!(step(variables), Ok(None)).then_some(EnvError::BatchShell { job })
}

/// How many tasks of the step are on this node.
fn tasks_here(variables: &impl Variables) -> Result<Option<Number>, EnvError> {
    let Some(node) = number(variables, &["SLURM_NODEID"], "a node's number")? else {
        return Ok(None);
    };
    for variable in TASKS_PER_NODE {
        if let Some(value) = variables.value(variable) {
            let tasks = tasks_on(variable, &value, node.value)?;
            return Ok(Some(Number { variable, value: tasks }));
        }
    }
    Ok(None)
}

/// The entry for `node` in counts such as `4(x2),3`: four tasks on each of two nodes, three on the next.
fn tasks_on(variable: &'static str, counts: &str, node: u32) -> Result<u32, EnvError> {
    let expected = "tasks of each node, this one among them, such as 4(x2),3";
    let wrong = || EnvError::Value { variable, value: counts.to_owned(), expected };
    let mut before = u64::from(node);
    for entry in counts.split(',') {
        let (tasks, nodes) = match entry.trim().split_once("(x") {
            Some((tasks, nodes)) => {
                let nodes = nodes.strip_suffix(')').ok_or_else(wrong)?;
                (tasks, nodes.parse().map_err(|_| wrong())?)
            }
            None => (entry, 1u32),
        };
        let tasks = parse(variable, tasks, expected).map_err(|_| wrong())?;
        match before.checked_sub(u64::from(nodes)) {
            Some(left) => before = left,
            None => return Ok(tasks),
        }
    }
    Err(wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_tasks_are_found_by_node() {
        let on = |counts, node| tasks_on("SLURM_TASKS_PER_NODE", counts, node).ok();
        let all: Vec<_> = (0..5).map(|node| on("4(x2),3,1", node)).collect();
        assert_eq!(all, [Some(4), Some(4), Some(3), Some(1), None]);
        assert_eq!(on("2(x4294967295)", u32::MAX - 1), Some(2));
        for wrong in ["", "4(x2", "4(2)", "x", "4(x-1)", ",", "4(x2)3"] {
            assert_eq!(on(wrong, 0), None, "{wrong}");
        }
    }
}
