//! What the fault tests share: groups between threads and processes, and how errors are told.

use std::path::{Path, PathBuf};
use std::time::Duration;

use allhands_group::env::{Launch, ProcessEnvironment};
use allhands_group::{Config, Error, OperationError, ProcessGroup, Rank};

use crate::ranks::{Ranks, free_port, leave, worker};

/// Far more than any of these tests needs; a rank that hangs is killed then.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Operations end long before this, or have not been told of a fault.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

pub(crate) fn config() -> Config {
    Config { timeout: PATIENCE, rendezvous_timeout: PATIENCE, ..Config::default() }
}

/// Joins the group that the environment names.
pub(crate) fn join(config: Config) -> ProcessGroup {
    let launch = Launch::from_variables(&ProcessEnvironment).unwrap();
    ProcessGroup::from_launch(&launch, config).unwrap()
}

/// Another group of the same ranks, through the store of the first.
pub(crate) fn again(group: &ProcessGroup, epoch: u32, config: Config) -> ProcessGroup {
    let store = group.store().unwrap().clone();
    let config = Config { epoch, ..config };
    ProcessGroup::connect(store, group.rank(), group.world_size(), &config).unwrap()
}

/// Runs `act` on `world` ranks, each a thread; returns what each says.
pub(crate) fn threads<R: Send>(
    world: u32,
    config: &Config,
    act: impl Fn(ProcessGroup) -> R + Sync,
) -> Vec<R> {
    let groups = ProcessGroup::local_with(world, config).unwrap();
    std::thread::scope(|scope| {
        let ranks: Vec<_> = groups.into_iter().map(|group| scope.spawn(|| act(group))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Runs `act` on `world` ranks, each a process over TCP, and returns what each says; `None` in those
/// processes. `name` is the calling test's.
pub(crate) fn processes(
    name: &str,
    world: u32,
    config: Config,
    act: impl Fn(ProcessGroup, &Path) -> String,
) -> Option<Vec<String>> {
    if let Some(folder) = worker() {
        let group = join(config);
        let rank = group.rank().0;
        let said = act(group, &folder);
        leave(&folder, &format!("said-{rank}"), &said);
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let ranks = Ranks::start(name, world, free_port(), folder.path(), &[]);
    let ended = ranks.join(LIMIT);
    assert!(ended.iter().all(|&well| well), "ranks ended well: {ended:?}");
    Some(heard(folder.path(), world))
}

/// What each rank has said.
pub(crate) fn heard(folder: &Path, world: u32) -> Vec<String> {
    let said = |rank| PathBuf::from(folder).join(format!("said-{rank}"));
    (0..world).map(|rank| std::fs::read_to_string(said(rank)).unwrap()).collect()
}

/// The error of an operation; anything else fails the test.
pub(crate) fn of_operation(error: &Error) -> &OperationError {
    match error {
        Error::Operation(error) => error,
        other => panic!("not an operation's error: {other}"),
    }
}

/// The kind of an error, for comparisons between processes.
pub(crate) fn kind(error: &Error) -> &'static str {
    match of_operation(error) {
        OperationError::Mismatch { .. } => "mismatch",
        OperationError::PeerFailed { .. } => "peer failed",
        OperationError::PeerSilent { .. } => "peer silent",
        OperationError::Timeout { .. } => "timeout",
        OperationError::Aborted { .. } => "aborted",
        OperationError::Invalid { .. } => "invalid",
        _ => "something else",
    }
}

pub(crate) fn ranks(list: &[u32]) -> Vec<Rank> {
    list.iter().copied().map(Rank).collect()
}

/// Small and cheap, for moments and sizes that should differ from run to run of a loop, not of a test.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
