//! What is said on a control socket: command lines one way, one JSON line back for each.
//!
//! Commands are plain words, so that a rank in C can read them; see `peers/mpi_peer.c` for the list.
//! A rank that waits for its next command sleeps in the kernel, so idle systems cost the measured
//! one nothing. A rank whose socket closes ends at once.

use serde::{Deserialize, Serialize};

/// Set where a worker has to share memory with all others of its host, and to fail otherwise.
pub const SHARE_VARIABLE: &str = "ALLHANDS_BENCH_SHARE";

/// Set where a worker's buffers are to lie in shared memory.
pub const ARENA_VARIABLE: &str = "ALLHANDS_BENCH_ARENA";

/// Names the control socket's path in a rank's environment.
pub const CONTROL_VARIABLE: &str = "ALLHANDS_BENCH_CONTROL";
/// Names the core that a rank of ours binds itself to.
pub const CORE_VARIABLE: &str = "ALLHANDS_BENCH_CORE";
/// The most passes that are timed one by one in a command.
pub const MAX_SAMPLES: u64 = 20_000;

/// A rank's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The first line of every rank.
    Hello {
        /// Who speaks.
        rank: u32,
        /// Its process.
        pid: u32,
        /// The system and its version.
        what: String,
    },
    /// Done, nothing to say.
    Ready,
    /// The system cannot do this cell, and why.
    Unsupported(String),
    /// Elements that differed from the naive oracle.
    Wrong(u64),
    /// Nanoseconds that the loop took.
    Elapsed(u64),
    /// Nanoseconds of single passes, with how often each occurred.
    Samples(Vec<(u64, u64)>),
    /// The port that a limit's rank listens on.
    Port(u16),
    /// The file descriptor of a rank's memory in its own process.
    Descriptor(u32),
    /// The command failed; the rank still listens.
    Error(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_read_as_the_peers_write_them() {
        for (line, reply) in [
            (
                r#"{"hello":{"rank":1,"pid":7,"what":"Open MPI v4.1.4"}}"#,
                Reply::Hello { rank: 1, pid: 7, what: "Open MPI v4.1.4".into() },
            ),
            (r#""ready""#, Reply::Ready),
            (r#"{"unsupported":"no f16"}"#, Reply::Unsupported("no f16".into())),
            (r#"{"wrong":0}"#, Reply::Wrong(0)),
            (r#"{"elapsed":12345}"#, Reply::Elapsed(12345)),
            (r#"{"samples":[[10,1],[12,3]]}"#, Reply::Samples(vec![(10, 1), (12, 3)])),
            (r#"{"port":4242}"#, Reply::Port(4242)),
            (r#"{"descriptor":9}"#, Reply::Descriptor(9)),
            (r#"{"error":"no"}"#, Reply::Error("no".into())),
        ] {
            assert_eq!(serde_json::from_str::<Reply>(line).unwrap(), reply);
            assert_eq!(serde_json::to_string(&reply).unwrap(), line);
        }
    }
}
