//! Byte streams to every rank: through rings to those of this host, through other links to the rest.
//!
//! The links below connect all ranks. To ranks of this host they carry no byte, but their end is the end of the peer:
//! what lies in its ring is handed over first. A peer that is killed is seen through its process descriptor as well.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use allhands_transport::{
    Capabilities, Closed, Links, Port, ProgressRequests, Slices, Unfinished, Wake,
};
use allhands_wire::Peer;
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::ring::{RingError, RingReader, RingWriter};
use crate::wake::{ProgressEvent, Wakers};

/// Bytes that are handed over at once where no window waits for them.
const STAGING_BYTES: usize = 64 * 1024;

/// What one visit reads from a peer that always has more, before others get their turn.
const READ_BURST: usize = 1024 * 1024;

/// Bytes after which the other side is told of what was written or read, so that both copy at once.
const PART_BYTES: usize = 32 * 1024;

/// How long the links below are waited for at a time while everything comes to its end; rings are served in between.
const SHUTDOWN_SLICE: Duration = Duration::from_millis(1);

/// One peer of this host.
#[derive(Debug)]
pub struct HostLink {
    /// To the peer.
    pub writer: RingWriter,
    /// From the peer.
    pub reader: RingReader,
    /// The peer's process, to see it end.
    pub process: Option<OwnedFd>,
}

struct Link {
    writer: RingWriter,
    reader: RingReader,
    process: Option<OwnedFd>,
    state: State,
    /// Bytes wait for room.
    blocked: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Closed,
}

/// One rank's byte streams, by rings where the peer is on this host.
pub struct HostLinks {
    below: Box<dyn Links>,
    rings: Rings,
    progress: Arc<ProgressEvent>,
    /// Peers wake this rank: it is asleep, or about to be.
    armed: bool,
}

struct Rings {
    links: Vec<Option<Link>>,
    wakers: Arc<Wakers>,
    staging: Box<[u8]>,
}

/// The port as the links below see it: nothing goes to ranks of this host, and their end comes after their rings'.
struct Below<'a> {
    port: &'a mut dyn Port,
    rings: &'a mut Rings,
}

impl Port for Below<'_> {
    fn outgoing<'a>(&'a mut self, peer: Peer, slices: &mut Slices<'a>) {
        if !self.rings.has(peer) {
            self.port.outgoing(peer, slices);
        }
    }

    fn sent(&mut self, peer: Peer, bytes: usize) {
        self.port.sent(peer, bytes);
    }

    fn window(&mut self, peer: Peer) -> &mut [u8] {
        if self.rings.has(peer) { &mut [] } else { self.port.window(peer) }
    }

    fn filled(&mut self, peer: Peer, bytes: usize) {
        self.port.filled(peer, bytes);
    }

    fn handle(&mut self, peer: Peer, bytes: &[u8]) {
        if self.rings.has(peer) {
            // A peer that believes it is elsewhere: its two streams cannot be put in order.
            self.rings.close(peer, Closed::Beside, self.port);
        } else {
            self.port.handle(peer, bytes);
        }
    }

    fn closed(&mut self, peer: Peer, cause: Closed) {
        if self.rings.has(peer) {
            self.rings.end(peer, cause, self.port);
        } else {
            self.port.closed(peer, cause);
        }
    }
}

impl HostLinks {
    /// Links to all ranks that `below` connects, through rings where `hosts` has one: one entry a rank, `None` at this
    /// rank's own.
    #[must_use]
    pub fn new(
        below: Box<dyn Links>,
        hosts: Vec<Option<HostLink>>,
        wakers: Arc<Wakers>,
        progress: ProgressEvent,
    ) -> Self {
        let link = |host: HostLink| {
            let HostLink { writer, reader, process } = host;
            Link { writer, reader, process, state: State::Open, blocked: false }
        };
        let links = hosts.into_iter().map(|host| host.map(link)).collect();
        let staging = vec![0; STAGING_BYTES].into_boxed_slice();
        Self {
            below,
            rings: Rings { links, wakers, staging },
            progress: Arc::new(progress),
            armed: false,
        }
    }
}

/// The end of a link whose ring's counts make no sense.
#[cold]
fn closed(lie: RingError) -> Closed {
    let RingError { claimed, mine, capacity } = lie;
    Closed::Ring { claimed, mine, capacity }
}

impl Rings {
    fn has(&self, peer: Peer) -> bool {
        matches!(self.links.get(peer.index()), Some(Some(_)))
    }

    fn flush(&mut self, peer: Peer, port: &mut dyn Port) {
        let Some(Some(link)) = self.links.get_mut(peer.index()) else { return };
        if link.state == State::Closed {
            return;
        }
        loop {
            let mut slices = Slices::new();
            port.outgoing(peer, &mut slices);
            let offered: usize = slices.iter().map(|slice| slice.len()).sum();
            if offered == 0 {
                link.blocked = false;
                return;
            }
            let room = match link.writer.room() {
                Ok(room) => room,
                Err(lie) => {
                    drop(slices);
                    return self.close(peer, closed(lie), port);
                }
            };
            if room == 0 {
                if !link.blocked {
                    link.blocked = true;
                    self.wakers.request_progress(peer.index());
                }
                return;
            }
            let mut written = 0;
            'slices: for slice in &slices {
                for part in slice.chunks(PART_BYTES) {
                    let bytes = link.writer.write(part);
                    written += bytes;
                    if bytes < part.len() {
                        break 'slices;
                    }
                    if part.len() == PART_BYTES {
                        link.writer.commit();
                    }
                }
            }
            drop(slices);
            link.writer.commit();
            // Room was found: whoever runs out of it again asks again.
            link.blocked = false;
            self.wakers.wake(peer.index());
            port.sent(peer, written);
        }
    }

    fn receive(&mut self, peer: Peer, port: &mut dyn Port) -> usize {
        let Some(Some(link)) = self.links.get_mut(peer.index()) else { return 0 };
        if link.state == State::Closed {
            return 0;
        }
        let mut total = 0;
        while total < READ_BURST {
            let available = match link.reader.available() {
                Ok(0) => break,
                Ok(available) => available,
                Err(lie) => {
                    self.close(peer, closed(lie), port);
                    return total;
                }
            };
            let window = port.window(peer);
            if window.is_empty() {
                let room = self.staging.len().min(available);
                let bytes = link.reader.read(&mut self.staging[..room]);
                port.handle(peer, &self.staging[..bytes]);
                total += bytes;
            } else {
                let part = window.len().min(PART_BYTES);
                let bytes = link.reader.read(&mut window[..part]);
                port.filled(peer, bytes);
                total += bytes;
            }
            link.reader.release();
        }
        if total > 0 {
            // The writer may wait for room.
            self.wakers.wake(peer.index());
        }
        total
    }

    /// The peer has come to its end; what it wrote before still counts.
    fn end(&mut self, peer: Peer, cause: Closed, port: &mut dyn Port) {
        // No more than was there when it ended: a peer that goes on writing after its end holds nobody up.
        let capacity = |link: &Link| link.reader.capacity();
        let mut left = self.links[peer.index()].as_ref().map_or(0, capacity);
        while left > 0 {
            match self.receive(peer, port) {
                0 => break,
                bytes => left = left.saturating_sub(bytes),
            }
        }
        self.close(peer, cause, port);
    }

    fn close(&mut self, peer: Peer, cause: Closed, port: &mut dyn Port) {
        if let Some(Some(link)) = self.links.get_mut(peer.index())
            && link.state == State::Open
        {
            link.state = State::Closed;
            link.blocked = false;
            link.process = None;
            port.closed(peer, cause);
        }
    }

    /// Serves every ring that has something to do, once.
    fn sweep(&mut self, port: &mut dyn Port) -> usize {
        let mut served = 0;
        for index in 0..self.links.len() {
            let peer = Peer(index as u32);
            let Some(link) = &mut self.links[index] else { continue };
            if link.state == State::Closed {
                continue;
            }
            let blocked = link.blocked;
            // A lie is found by `receive`.
            let readable = link.reader.available().map_or(1, |bytes| bytes) > 0;
            let mut useful = readable && self.receive(peer, port) > 0;
            if blocked {
                self.flush(peer, port);
                useful |= self.links[index].as_ref().is_some_and(|link| !link.blocked);
            }
            served += usize::from(useful);
        }
        served
    }

    /// Peers whose processes have ended are closed.
    fn reap(&mut self, port: &mut dyn Port) {
        for index in 0..self.links.len() {
            let Some(link) = &self.links[index] else { continue };
            let Some(process) = &link.process else { continue };
            let mut polled = [PollFd::new(process, PollFlags::IN)];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            let ended = rustix::event::poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0);
            if ended {
                self.end(Peer(index as u32), Closed::Reset, port);
            }
        }
    }

    fn blocked(&self) -> impl Iterator<Item = Peer> {
        let links = (0..).map(Peer).zip(&self.links);
        links.filter(|(_, link)| link.as_ref().is_some_and(|link| link.blocked)).map(|(p, _)| p)
    }
}

impl Links for HostLinks {
    fn peer(&self) -> Peer {
        self.below.peer()
    }

    fn world(&self) -> u32 {
        self.below.world()
    }

    fn flush(&mut self, peer: Peer, port: &mut dyn Port) {
        if self.rings.has(peer) {
            self.rings.flush(peer, port);
        } else {
            self.below.flush(peer, port);
        }
    }

    fn receive(&mut self, peer: Peer, port: &mut dyn Port) -> usize {
        if self.rings.has(peer) {
            self.rings.receive(peer, port)
        } else {
            self.below.receive(peer, port)
        }
    }

    fn poll(&mut self, timeout: Option<Duration>, port: &mut dyn Port) -> usize {
        let sleeps = timeout != Some(Duration::ZERO);
        // Who armed before looked at something else, and need not pay for the fence again.
        if sleeps && !self.armed {
            self.arm();
        }
        let mut served = self.rings.sweep(port);
        let timeout = if served > 0 { Some(Duration::ZERO) } else { timeout };
        let Self { below, rings, .. } = self;
        served += below.poll(timeout, &mut Below { port, rings });
        // Also where the caller armed, and found something before it slept.
        self.rings.wakers.disarm();
        self.armed = false;
        if sleeps {
            self.rings.reap(port);
            served += self.rings.sweep(port);
        }
        served
    }

    fn arm(&mut self) {
        self.armed = true;
        self.rings.wakers.arm();
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.below.waker()
    }

    fn progress_requests(&self) -> Option<Arc<dyn ProgressRequests>> {
        Some(self.progress.clone())
    }

    fn capabilities(&self) -> Capabilities {
        self.below.capabilities()
    }

    fn shutdown(&mut self, deadline: Instant, port: &mut dyn Port) -> Result<(), Unfinished> {
        // First everything goes into the rings, then the links below say that nothing more will come.
        for index in 0..self.rings.links.len() {
            self.rings.flush(Peer(index as u32), port);
        }
        while self.rings.blocked().next().is_some() && Instant::now() < deadline {
            self.poll(Some(SHUTDOWN_SLICE), port);
        }
        loop {
            self.rings.sweep(port);
            let slice = deadline.min(Instant::now() + SHUTDOWN_SLICE);
            let Self { below, rings, .. } = self;
            match below.shutdown(slice, &mut Below { port, rings }) {
                Err(_) if Instant::now() < deadline => {}
                ended => {
                    let undelivered: Vec<Peer> = self.rings.blocked().collect();
                    if undelivered.is_empty() {
                        return ended;
                    }
                    let mut left = ended
                        .err()
                        .unwrap_or(Unfinished { undelivered: Vec::new(), open: Vec::new() });
                    left.undelivered.extend(undelivered);
                    return Err(left);
                }
            }
        }
    }
}
