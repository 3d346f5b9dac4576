//! Links between threads of one process.
//!
//! Same meaning as the TCP links: byte streams with bounded buffers, partial writes, and an end that
//! the other side sees when links are dropped. For tests and small tools.

mod control;
mod doorbell;
mod pipe;

use std::sync::Arc;
use std::time::{Duration, Instant};

use allhands_wire::Peer;

use self::control::Exchange;
pub use self::control::LocalControl;
use self::doorbell::Doorbell;
use self::pipe::{Pipe, Taken, Written};
use crate::port::{Capabilities, Closed, Links, Port, Slices, Unfinished, Wake};

/// Bytes that one direction of a pair holds before a writer has to wait.
pub const PIPE_CAPACITY: usize = 256 * 1024;

/// The most ranks of one [`fabric`]; each pair costs two pipes.
pub const WORLD_MAX: u32 = 1024;

/// Sizes of a fabric's buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FabricOptions {
    /// Bytes that one direction of a pair holds before a writer has to wait; at least 1.
    pub pipe_capacity: usize,
}

impl Default for FabricOptions {
    fn default() -> Self {
        Self { pipe_capacity: PIPE_CAPACITY }
    }
}

impl FabricOptions {
    /// The same with another pipe capacity, in bytes. Tests use tiny ones to force partial writes.
    #[must_use]
    pub fn pipe_capacity(mut self, bytes: usize) -> Self {
        self.pipe_capacity = bytes.max(1);
        self
    }
}

/// Joins `world` ranks in this process: the links and the control connections of each, in rank order.
///
/// # Panics
/// If `world` is 0 or above [`WORLD_MAX`].
///
/// ```
/// use allhands_transport::{Links, local};
///
/// let ranks = local::fabric(3);
/// assert_eq!(ranks.len(), 3);
/// assert_eq!(ranks[2].0.peer().0, 2);
/// assert_eq!(ranks[2].0.world(), 3);
/// ```
#[must_use]
pub fn fabric(world: u32) -> Vec<(LocalLinks, LocalControl)> {
    fabric_with(world, FabricOptions::default())
}

/// [`fabric`] with buffers of another size.
///
/// # Panics
/// If `world` is 0 or above [`WORLD_MAX`].
#[must_use]
pub fn fabric_with(world: u32, options: FabricOptions) -> Vec<(LocalLinks, LocalControl)> {
    assert!((1..=WORLD_MAX).contains(&world), "world {world} is not within 1..={WORLD_MAX}");
    let n = world as usize;
    let bells: Vec<Arc<Doorbell>> = (0..n).map(|_| Arc::default()).collect();
    // pipes[from][to]
    let pipes: Vec<Vec<Arc<Pipe>>> = (0..n)
        .map(|_| (0..n).map(|_| Arc::new(Pipe::new(options.pipe_capacity))).collect())
        .collect();
    let exchange = Arc::new(Exchange::new(world));
    (0..world)
        .map(|me| {
            let links = (0..n)
                .map(|peer| Link {
                    incoming: Arc::clone(&pipes[peer][me as usize]),
                    outgoing: Arc::clone(&pipes[me as usize][peer]),
                    bell: Arc::clone(&bells[peer]),
                    state: if peer == me as usize { State::Closed } else { State::Open },
                    blocked: Blocked::No,
                })
                .collect();
            let links = LocalLinks {
                me: Peer(me),
                links,
                bell: Arc::clone(&bells[me as usize]),
                mode: Mode::Running,
            };
            (links, LocalControl::new(Peer(me), Arc::clone(&exchange)))
        })
        .collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The peer has said that nothing more will come, and we are shutting down ourselves.
    PeerDone,
    Closed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Blocked {
    No,
    Yes,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Running,
    ShuttingDown,
}

struct Link {
    incoming: Arc<Pipe>,
    outgoing: Arc<Pipe>,
    /// The peer's.
    bell: Arc<Doorbell>,
    state: State,
    blocked: Blocked,
}

/// One rank's byte streams to the other ranks of a [`fabric`].
pub struct LocalLinks {
    me: Peer,
    links: Vec<Link>,
    bell: Arc<Doorbell>,
    mode: Mode,
}

impl LocalLinks {
    fn close(&mut self, peer: Peer, port: &mut dyn Port) {
        let link = &mut self.links[peer.index()];
        link.state = State::Closed;
        link.outgoing.finish();
        link.incoming.abandon();
        link.bell.ring();
        port.closed(peer, Closed::Eof);
    }

    /// Serves every link that has something to do, once.
    fn sweep(&mut self, port: &mut dyn Port) -> usize {
        let mut served = 0;
        for index in 0..self.links.len() {
            let link = &self.links[index];
            if link.state == State::Closed {
                continue;
            }
            let peer = Peer(index as u32);
            let mut useful = false;
            if link.state == State::Open && link.incoming.has_news() {
                self.receive(peer, port);
                useful = true;
            }
            if self.links[index].blocked == Blocked::Yes {
                self.flush(peer, port);
                useful = true;
            }
            served += usize::from(useful);
        }
        served
    }
}

impl Links for LocalLinks {
    fn peer(&self) -> Peer {
        self.me
    }

    fn world(&self) -> u32 {
        self.links.len() as u32
    }

    fn flush(&mut self, peer: Peer, port: &mut dyn Port) {
        let Some(link) = self.links.get_mut(peer.index()) else { return };
        if link.state == State::Closed {
            return;
        }
        loop {
            let mut slices = Slices::new();
            port.outgoing(peer, &mut slices);
            if slices.iter().all(|slice| slice.is_empty()) {
                link.blocked = Blocked::No;
                return;
            }
            let written = link.outgoing.write(&slices);
            drop(slices);
            match written {
                Written::Bytes(bytes) => {
                    link.bell.ring();
                    port.sent(peer, bytes);
                }
                Written::Full => {
                    link.blocked = Blocked::Yes;
                    return;
                }
                Written::Abandoned => {
                    // What the peer sent before it left still counts.
                    if link.state == State::Open {
                        self.receive(peer, port);
                    }
                    if self.links[peer.index()].state != State::Closed {
                        self.close(peer, port);
                    }
                    return;
                }
            }
        }
    }

    fn receive(&mut self, peer: Peer, port: &mut dyn Port) -> usize {
        let Some(link) = self.links.get_mut(peer.index()) else { return 0 };
        if link.state != State::Open || !link.incoming.has_news() {
            return 0;
        }
        let Taken { end, writer } = link.incoming.take();
        if writer == Blocked::Yes {
            link.bell.ring();
        }
        let bytes = link.incoming.deliver(peer, port);
        if end {
            if self.mode == Mode::ShuttingDown {
                link.state = State::PeerDone;
            } else {
                self.close(peer, port);
            }
        }
        bytes
    }

    fn poll(&mut self, timeout: Option<Duration>, port: &mut dyn Port) -> usize {
        let woken = self.bell.silence();
        let served = self.sweep(port);
        if served > 0 || woken || timeout == Some(Duration::ZERO) {
            return served;
        }
        self.bell.wait(timeout);
        self.sweep(port)
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.bell) as Arc<dyn Wake>
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn shutdown(&mut self, deadline: Instant, port: &mut dyn Port) -> Result<(), Unfinished> {
        self.mode = Mode::ShuttingDown;
        loop {
            self.bell.silence();
            let mut unfinished = Unfinished { undelivered: Vec::new(), open: Vec::new() };
            for index in 0..self.links.len() {
                let peer = Peer(index as u32);
                self.flush(peer, port);
                self.receive(peer, port);
                let link = &mut self.links[index];
                match (link.state, link.blocked) {
                    (State::Closed, _) => {}
                    (_, Blocked::Yes) => unfinished.undelivered.push(peer),
                    (State::PeerDone, Blocked::No) => self.close(peer, port),
                    (State::Open, Blocked::No) => {
                        link.outgoing.finish();
                        link.bell.ring();
                        unfinished.open.push(peer);
                    }
                }
            }
            if unfinished.undelivered.is_empty() && unfinished.open.is_empty() {
                return Ok(());
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(unfinished);
            }
            self.bell.wait(Some(deadline - now));
        }
    }
}

impl Drop for LocalLinks {
    fn drop(&mut self) {
        for link in &self.links {
            link.outgoing.finish();
            link.incoming.abandon();
            link.bell.ring();
        }
    }
}
