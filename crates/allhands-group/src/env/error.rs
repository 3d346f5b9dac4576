//! What can be wrong with an environment.

use std::fmt;
use std::path::PathBuf;

use allhands_plan::TableError;
use allhands_transport::interface::InterfaceError;
use allhands_wire::KeyError;

use super::Launcher;
use super::settings::{JOB_KEY_FILE, TABLE};

/// What is wrong with the environment.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnvError {
    /// Nothing is set.
    #[error(
        "no launcher has started this process: none of {} is set; start it with torchrun --no-python, srun, mpirun, \
         flux run or in a pod, set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT for each rank, or use \
         ProcessGroup::connect",
        Markers
    )]
    NoLauncher,
    /// The process runs in an allocation of Slurm, but is no task of a step.
    #[error(
        "this process runs in Slurm job {job}, but not as a task: SLURM_STEP_ID is that of no step; start it with srun"
    )]
    BatchShell {
        /// The job.
        job: String,
    },
    /// Some variables are set and others are not.
    #[error(
        "{} set but {} not; set all of RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT for each rank",
        are(set),
        are(missing)
    )]
    HalfSet {
        /// What is set.
        set: Vec<&'static str>,
        /// What is missing.
        missing: Vec<&'static str>,
    },
    /// Two launchers say different things.
    #[error(
        "{launcher} says that this is rank {rank} of {world_size}, {other} says rank {other_rank} of {other_world_size}; \
         unset the variables of the one that is not meant ({}, {}), or set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT",
        launcher.marker(), other.marker()
    )]
    Contradiction {
        /// The one.
        launcher: Launcher,
        /// Its rank.
        rank: u32,
        /// Its world size.
        world_size: u32,
        /// The other.
        other: Launcher,
        /// Its rank.
        other_rank: u32,
        /// Its world size.
        other_world_size: u32,
    },
    /// A variable was set by hand to something else than what the launcher says.
    #[error(
        "{variable}={value}, but the launcher says {other}={theirs}; unset {variable}, or set all of RANK, WORLD_SIZE, \
         MASTER_ADDR and MASTER_PORT for each rank"
    )]
    Disagreement {
        /// What was set.
        variable: &'static str,
        /// To what.
        value: u32,
        /// The launcher's variable.
        other: &'static str,
        /// What it holds.
        theirs: u32,
    },
    /// A pod is to have several ranks, which only torchrun makes.
    #[error(
        "{variable}={ranks}: torchrun is to start {ranks} ranks in this pod, but the program was started without it; start \
         it with torchrun --no-python, or ask for one rank a pod"
    )]
    RanksOfAPod {
        /// Which variable says so.
        variable: &'static str,
        /// Ranks of each pod.
        ranks: u32,
    },
    /// A variable holds something that makes no sense.
    #[error("{variable}={value:?} is not {expected}")]
    Value {
        /// Which.
        variable: &'static str,
        /// What it holds.
        value: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// A rank is not below the number of ranks.
    #[error("{variable}={rank} does not exist in {size_variable}={world_size}; ranks count from 0")]
    Rank {
        /// Which variable holds the rank.
        variable: &'static str,
        /// The rank.
        rank: u32,
        /// Which variable holds the number of ranks.
        size_variable: &'static str,
        /// The number of ranks.
        world_size: u32,
    },
    /// More ranks are on one host than there are.
    #[error(
        "{variable}={local_world_size} ranks on this host are more than {size_variable}={world_size}"
    )]
    LocalWorldSize {
        /// Which variable holds the ranks of this host.
        variable: &'static str,
        /// Ranks of this host.
        local_world_size: u32,
        /// Which variable holds the number of ranks.
        size_variable: &'static str,
        /// The number of ranks.
        world_size: u32,
    },
    /// Nobody says where rank 0 is.
    #[error(
        "{launcher} says that this is rank {rank} of {world_size}, but not on which host rank 0 is; {}",
        launcher.remedy()
    )]
    NoMaster {
        /// The launcher.
        launcher: Launcher,
        /// This rank.
        rank: u32,
        /// The number of ranks.
        world_size: u32,
    },
    /// The master's name does not resolve.
    #[error(
        "the master's name {master:?} does not resolve: {reason}; set MASTER_ADDR to an address, or to a name known to \
         every host"
    )]
    Resolve {
        /// The name.
        master: String,
        /// What the resolver said.
        reason: String,
    },
    /// The job key is not one.
    #[error("{variable}: {source}")]
    Key {
        /// Where it came from.
        variable: &'static str,
        /// What is wrong.
        source: KeyError,
    },
    /// The key file cannot be read.
    #[error("{JOB_KEY_FILE}={}: {reason}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// The table cannot be read.
    #[error("{TABLE}={}: {reason}", path.display())]
    TableFile {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// The table makes no sense.
    #[error("{TABLE}={}: {source}", path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// What is wrong, and in which line.
        source: TableError,
    },
    /// The interface choice does not parse.
    #[error("{variable}={value:?}: {source}")]
    Interface {
        /// Which variable.
        variable: &'static str,
        /// What it holds.
        value: String,
        /// What is wrong.
        source: InterfaceError,
    },
}

fn are(names: &[&str]) -> String {
    match names {
        [one] => format!("{one} is"),
        names => format!("{} are", names.join(", ")),
    }
}

/// The variables that give launchers away.
struct Markers;

impl fmt::Display for Markers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, launcher) in Launcher::ALL.into_iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            write!(f, "{comma}{}", launcher.marker())?;
        }
        Ok(())
    }
}
