//! Ranks as processes: the test program itself, told by variables to be one of them.
#![allow(dead_code, reason = "not every test program uses all of it")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How often a wait looks again.
const LOOK: Duration = Duration::from_millis(2);

/// Processes of a job; those that still run when it is dropped are killed.
pub(crate) struct Ranks {
    children: Vec<Child>,
}

impl Ranks {
    /// The variable that makes a test program a rank; it holds the folder for its results.
    pub(crate) const WORKER: &'static str = "ALLHANDS_TEST_WORKER";

    /// Starts `world` ranks of the test `name` that meet on `port`.
    pub(crate) fn start(
        name: &str,
        world: u32,
        port: u16,
        folder: &Path,
        more: &[(&str, &str)],
    ) -> Self {
        let ranks: Vec<u32> = (0..world).collect();
        Self::start_some(name, &ranks, folder, |rank, command| {
            command.env("WORLD_SIZE", world.to_string()).envs(more.iter().copied());
            command.env("RANK", rank.to_string());
            command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
        })
    }

    /// Starts one process of the test `name` for each of `ranks`, with what `equip` gives it.
    pub(crate) fn start_some(
        name: &str,
        ranks: &[u32],
        folder: &Path,
        equip: impl Fn(u32, &mut Command),
    ) -> Self {
        let program = std::env::current_exe().unwrap();
        let start = |&rank| {
            let mut command = Command::new(&program);
            command
                .args([name, "--exact", "--nocapture", "--test-threads=1"])
                .env(Self::WORKER, folder)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::inherit());
            equip(rank, &mut command);
            command.spawn().unwrap()
        };
        Self { children: ranks.iter().map(start).collect() }
    }

    /// Adds the processes of `other` behind these.
    pub(crate) fn join_with(&mut self, mut other: Self) {
        self.children.append(&mut other.children);
    }

    pub(crate) fn pid(&self, rank: usize) -> u32 {
        self.children[rank].id()
    }

    /// Kills a rank the hard way.
    pub(crate) fn kill(&mut self, rank: usize) {
        self.children[rank].kill().unwrap();
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, rank: usize, signal: &str) {
        let pid = self.children[rank].id().to_string();
        let status = Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap();
        assert!(status.success(), "kill -{signal} {pid}: {status}");
    }

    /// Waits for all ranks; returns which ended well.
    pub(crate) fn join(mut self, limit: Duration) -> Vec<bool> {
        let deadline = Instant::now() + limit;
        let mut ends = vec![None; self.children.len()];
        while ends.iter().any(Option::is_none) && Instant::now() < deadline {
            for (end, child) in ends.iter_mut().zip(&mut self.children) {
                if end.is_none() {
                    *end = child.try_wait().unwrap().map(|status| status.success());
                }
            }
            pause(LOOK);
        }
        ends.into_iter().map(|end| end.unwrap_or(false)).collect()
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The folder of a process that is a rank; `None` in the test itself.
pub(crate) fn worker() -> Option<PathBuf> {
    std::env::var_os(Ranks::WORKER).map(PathBuf::from)
}

/// Leaves a message of that name for the other processes of the test.
pub(crate) fn leave(folder: &Path, name: &str, text: &str) {
    let draft = folder.join(format!("draft-{name}"));
    std::fs::write(&draft, text).unwrap();
    std::fs::rename(draft, folder.join(name)).unwrap();
}

/// Waits for a message of that name.
pub(crate) fn find(folder: &Path, name: &str, limit: Duration) -> String {
    let deadline = Instant::now() + limit;
    loop {
        if let Ok(text) = std::fs::read_to_string(folder.join(name)) {
            return text;
        }
        assert!(Instant::now() < deadline, "nobody has left {name:?} within {limit:?}");
        pause(LOOK);
    }
}

/// Lets time pass.
pub(crate) fn pause(length: Duration) {
    let until = Instant::now() + length;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) {
        std::thread::park_timeout(left);
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
