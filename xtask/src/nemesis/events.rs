//! What ranks under attack say, one JSON line each.

use std::fs;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Something a rank says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// It is up and works.
    Ready,
    /// An operation failed.
    Failed(Fault),
    /// A disagreement was told.
    Told {
        /// About what.
        kind: Kind,
        /// Whose fault it was.
        faulty: u32,
        /// From the call to the error.
        took_ns: u64,
    },
    /// What the process holds after so many operations.
    Holds {
        /// Operations since the warm-up.
        operations: u64,
        /// When.
        at_ns: u64,
        /// What.
        holding: Holding,
    },
    /// Times of operations since the last of these.
    Worked {
        /// Nanoseconds of each.
        took_ns: Vec<u64>,
    },
}

/// An error and when it came.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// Monotonic clock.
    pub at_ns: u64,
    /// Kind of error.
    pub kind: String,
    /// Whom it names.
    pub ranks: Vec<u32>,
    /// What it says.
    pub text: String,
}

/// What ranks disagree about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Which operation.
    Operation,
    /// The element type.
    Dtype,
    /// The number of elements.
    Count,
    /// How elements are combined.
    Reduction,
    /// The root.
    Root,
    /// Which of two comes first.
    Order,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Operation, Self::Dtype, Self::Count, Self::Reduction, Self::Root, Self::Order];
}

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// Kilobytes of memory.
    pub memory_kb: u64,
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
}

impl Holding {
    /// What the process `pid` holds.
    ///
    /// # Errors
    /// There is no such process, or no `/proc`.
    pub fn of(pid: u32) -> Result<Self> {
        let count = |part: &str| -> Result<usize> {
            let folder = format!("/proc/{pid}/{part}");
            Ok(fs::read_dir(&folder).with_context(|| folder)?.count())
        };
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let memory = memory.and_then(|line| line.split_whitespace().next());
        Ok(Self {
            memory_kb: memory.context("no VmRSS")?.parse()?,
            descriptors: count("fd")?,
            threads: count("task")?,
        })
    }
}
