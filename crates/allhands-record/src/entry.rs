//! One operation of a record, under the names that PyTorch's analyser reads.

use serde::{Deserialize, Serialize};

/// How far an operation had come when the record was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Called; it waits for operations before it.
    Scheduled,
    /// It was running, or had failed: an operation that did not end well never completes.
    Started,
    /// It has ended well on this rank.
    Completed,
}

/// Whether a call keeps its thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallMode {
    /// The thread waits in the call.
    #[default]
    Blocking,
    /// The call returns at once.
    Async,
}

/// Where the times of an operation come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// The clock was read.
    #[default]
    Read,
    /// It was not: the time lies between those of the operations before and after, and is spread evenly.
    Estimated,
}

/// A line of a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Function, or what stands for it.
    pub name: String,
    /// File.
    pub filename: String,
    /// Line, counted from 1.
    pub line: u64,
}

/// What PyTorch's format has no name for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// Stream of operations inside the group.
    pub channel: u32,
    /// Name of the algorithm, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<String>,
    /// Name of the reduction, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reduction: Option<String>,
    /// Root, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<u32>,
    /// The other side of a message, as a rank of the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<u32>,
    /// Tag of a message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<u32>,
    /// The caller's name for the call; empty if there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// Elements of this rank's input.
    pub input_elements: u64,
    /// Elements of this rank's output.
    pub output_elements: u64,
    /// Whether the call keeps its thread.
    pub mode: CallMode,
    /// Where the times come from.
    pub clock: Clock,
    /// Whether the operation failed.
    pub failed: bool,
}

/// One operation. Times are nanoseconds since 1970 on this rank's wall clock.
///
/// Fields have PyTorch's names and meanings, version [`VERSION`](crate::VERSION); [`Entry::allhands`] has the rest.
/// Sizes are counts of elements: a tensor counts as flat, because only elements travel. Every number is below 2⁶³, as
/// numbers in pickles are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Number of the operation in this rank's record, counted from 0 since the group came up.
    pub record_id: u64,
    /// Number of the group.
    pub pg_id: u64,
    /// Name and description of the group.
    pub process_group: (String, String),
    /// Number of the operation in its group.
    pub collective_seq_id: u64,
    /// The same for messages, else 0.
    pub p2p_seq_id: u64,
    /// The same as `record_id`: operations are not coalesced.
    pub op_id: u64,
    /// What was called: `c10d:all_reduce`, `c10d:send 0->1`.
    pub profiling_name: String,
    /// When the operation was called.
    pub time_created_ns: u64,
    /// Sizes of the inputs.
    pub input_sizes: Vec<Vec<u64>>,
    /// Element types of the inputs, by torch's names.
    pub input_dtypes: Vec<String>,
    /// Sizes of the outputs.
    pub output_sizes: Vec<Vec<u64>>,
    /// Element types of the outputs.
    pub output_dtypes: Vec<String>,
    /// How far it has come.
    pub state: State,
    /// When it began to run, if that is known.
    pub time_discovered_started_ns: Option<u64>,
    /// When it had ended, if it has.
    pub time_discovered_completed_ns: Option<u64>,
    /// How long it took, where both ends were measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<f64>,
    /// Whether nobody waits for it any more.
    pub retired: bool,
    /// How long it may take.
    pub timeout_ms: u64,
    /// Whether it is a message between two ranks.
    pub is_p2p: bool,
    /// Where it was called, innermost first; empty where that is not recorded.
    #[serde(default)]
    pub frames: Vec<Frame>,
    /// What PyTorch's format has no name for.
    #[serde(default)]
    pub allhands: Details,
}

impl Entry {
    /// The operation's name without the library's: `all_reduce`, `send`.
    #[must_use]
    pub fn operation(&self) -> &str {
        let name = self.profiling_name.rsplit(':').next().unwrap_or_default();
        name.split(' ').next().unwrap_or_default()
    }

    /// When the operation was called and when it had ended, if both were measured.
    #[must_use]
    pub fn measured(&self) -> Option<(u64, u64)> {
        self.duration_ms?;
        Some((self.time_created_ns, self.time_discovered_completed_ns?))
    }
}
