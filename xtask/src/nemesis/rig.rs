//! Starts ranks as processes, listens to them, and leaves none behind.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::clock::now_ns;
use super::events::Event;

/// Ranks of one job.
#[derive(Debug)]
pub(crate) struct Rig {
    program: PathBuf,
    world: u32,
    port: u16,
    scenario: Vec<String>,
    children: Vec<Option<Child>>,
    sender: Sender<(u32, Event)>,
    events: Receiver<(u32, Event)>,
}

impl Rig {
    /// A job of `world` ranks, none of which runs.
    ///
    /// # Errors
    /// No port is free.
    pub(crate) fn new(program: PathBuf, world: u32, scenario: &[&str]) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let (sender, events) = mpsc::channel();
        let scenario = scenario.iter().map(|&word| word.to_owned()).collect();
        let children = (0..world).map(|_| None).collect();
        Ok(Self { program, world, port, scenario, children, sender, events })
    }

    /// The store's port.
    #[must_use]
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Starts a rank.
    ///
    /// # Errors
    /// The program cannot be started.
    pub(crate) fn start(&mut self, rank: u32) -> Result<u32> {
        let mut child = Command::new(&self.program)
            .arg("nemesis")
            .args(&self.scenario)
            .env("RANK", rank.to_string())
            .env("WORLD_SIZE", self.world.to_string())
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", self.port.to_string())
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let pid = child.id();
        let out = child.stdout.take().context("the output is piped")?;
        let sender = self.sender.clone();
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str(&line)
                    && sender.send((rank, event)).is_err()
                {
                    return;
                }
            }
        });
        self.children[rank as usize] = Some(child);
        Ok(pid)
    }

    /// Starts every rank.
    ///
    /// # Errors
    /// As [`Rig::start`].
    pub(crate) fn start_all(&mut self) -> Result<()> {
        (0..self.world).try_for_each(|rank| self.start(rank).map(drop))
    }

    /// The next thing that a rank says.
    ///
    /// # Errors
    /// Nobody says anything within `limit`.
    pub(crate) fn next(&self, limit: Duration) -> Result<(u32, Event)> {
        self.events.recv_timeout(limit).with_context(|| format!("silence for {limit:?}"))
    }

    /// What a rank has said already, if anything.
    pub(crate) fn said(&self) -> Option<(u32, Event)> {
        self.events.try_recv().ok()
    }

    /// Waits until every rank is ready.
    ///
    /// # Errors
    /// A rank says something else, or nothing within `limit`.
    pub(crate) fn all_ready(&self, limit: Duration) -> Result<()> {
        for _ in 0..self.world {
            let (rank, event) = self.next(limit)?;
            ensure!(matches!(event, Event::Ready), "rank {rank} says {event:?}");
        }
        Ok(())
    }

    /// Kills a rank; returns the moment before.
    ///
    /// # Errors
    /// It is gone already.
    pub(crate) fn kill(&mut self, rank: u32) -> Result<u64> {
        let child = self.children[rank as usize].as_mut().context("it was never started")?;
        let at = now_ns();
        child.kill()?;
        Ok(at)
    }

    /// Ends the input of every rank: those that serve come to an end.
    pub(crate) fn ask_to_end(&mut self) {
        for child in self.children.iter_mut().flatten() {
            child.stdin = None;
        }
    }

    /// Waits until every rank but those in `dead` has ended well.
    ///
    /// # Errors
    /// One ends badly, or not within `limit`.
    pub(crate) fn join(mut self, dead: &[u32], limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        for rank in 0..self.world {
            let Some(mut child) = self.children[rank as usize].take() else { continue };
            loop {
                if let Some(status) = child.try_wait()? {
                    ensure!(
                        status.success() || dead.contains(&rank),
                        "rank {rank} ended: {status}"
                    );
                    break;
                }
                if Instant::now() >= deadline {
                    child.kill()?;
                    bail!("rank {rank} did not end within {limit:?}");
                }
                thread::park_timeout(Duration::from_millis(2));
            }
        }
        Ok(())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
