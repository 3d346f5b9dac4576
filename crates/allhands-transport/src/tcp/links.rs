//! Byte streams over connected sockets, driven by one thread.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, TcpStream as StdStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use allhands_wire::Peer;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use smallvec::SmallVec;

use crate::port::{Capabilities, Closed, Links, Port, Slices, Unfinished, Wake};

/// Where bytes land that no window waits for. Large enough that hundreds of small frames cost one
/// system call, small enough that the head of a large message is copied cheaply and stays in L1/L2.
const STAGING_BYTES: usize = 64 * 1024;

/// From this length on, a window is read with [`LOOKAHEAD_BYTES`] behind it instead of the whole staging
/// buffer: the next frame is probably large too, and what is staged is copied once more.
const LARGE_WINDOW: usize = 16 * 1024;

/// Bytes staged behind a large window: the next frames' headers, in the same system call.
const LOOKAHEAD_BYTES: usize = 1024;

/// What one visit reads from a peer that always has more, before others get their turn.
const READ_BURST: usize = 1024 * 1024;

/// What one visit writes to a peer that always takes more, before others get their turn.
const WRITE_BURST: usize = 4 * 1024 * 1024;

/// Bytes of the stream that one lane carries before the next lane's turn. Below a socket buffer, so that
/// all lanes are busy at once.
pub(super) const STRIPE_BYTES: usize = 256 * 1024;

/// Slices of one system call; below every system's limit.
const SLICES_MAX: usize = 256;

/// Data connections that one pair may have.
const LANES_MAX: usize = super::LANES_MAX as usize;

/// Readiness events taken from the operating system at once.
const EVENTS: usize = 256;

/// Token of the waker; peers' tokens are `peer * LANES_MAX + lane`.
pub(super) const WAKE: Token = Token(usize::MAX);

/// With epoll a short read or write says that the socket is drained or full, and a new edge will
/// come. Other systems promise an edge only after an operation that would block.
const SHORT_ENDS: bool = cfg!(any(target_os = "linux", target_os = "android"));

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The peer has said that nothing more will come, and we are shutting down ourselves.
    PeerDone,
    /// We have said that nothing more will come.
    WeDone,
    Closed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Running,
    ShuttingDown,
}

/// Where one direction of the stream goes on.
#[derive(Clone, Copy)]
struct Cursor {
    lane: usize,
    /// Bytes until the next lane's turn.
    left: usize,
}

impl Cursor {
    fn new(lanes: usize) -> Self {
        Self { lane: 0, left: if lanes > 1 { STRIPE_BYTES } else { usize::MAX } }
    }

    /// Whether the next byte is the next lane's.
    fn advance(&mut self, bytes: usize, lanes: usize) -> bool {
        self.left -= bytes;
        if self.left > 0 {
            return false;
        }
        *self = Self { lane: (self.lane + 1) % lanes, ..Self::new(lanes) };
        lanes > 1
    }
}

struct Link {
    lanes: SmallVec<[TcpStream; 1]>,
    state: State,
    /// Bytes wait for a writable socket.
    blocked: bool,
    /// The last visit may have left bytes in the socket, and no new edge will tell.
    unread: bool,
    /// The last visit stopped writing although the socket takes more.
    unwritten: bool,
    /// The peer's end was seen, so a short read is not the last.
    hung_up: bool,
    /// What the system reported before it said that nothing is left to read.
    failure: Option<Closed>,
    /// In `Core::revisit`.
    listed: bool,
    tx: Cursor,
    rx: Cursor,
}

/// What all visits share; apart from the poll, so that events can be walked meanwhile.
struct Core {
    me: Peer,
    links: Vec<Link>,
    staging: Box<[u8]>,
    /// Peers to visit without a new edge.
    revisit: Vec<u32>,
    mode: Mode,
}

/// One rank's byte streams to all other ranks over TCP. Made by [`Listener::form`](super::Listener::form)
/// or from connected sockets.
pub struct TcpLinks {
    poll: Poll,
    events: Events,
    core: Core,
    waker: Arc<Waker>,
}

pub(super) struct Waker(mio::Waker);

impl Waker {
    /// A waker registered with `poll` under [`WAKE`].
    pub(super) fn new(poll: &Poll) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self(mio::Waker::new(poll.registry(), WAKE)?)))
    }
}

impl Wake for Waker {
    fn wake(&self) {
        // Fails only if the poll is gone, and then nobody sleeps.
        let _ = self.0.wake();
    }
}

impl TcpLinks {
    /// Links from connected sockets: `lanes[p]` are the connections to peer `p`, in the same order on both
    /// sides; empty at `me`. A peer without connections counts as closed from the start, and
    /// [`Port::closed`] is not called for it.
    ///
    /// The sockets become non-blocking; `TCP_NODELAY` and buffer sizes stay as they are.
    ///
    /// # Errors
    /// The operating system refuses a descriptor for the readiness queue, or a setting.
    ///
    /// # Panics
    /// If a peer has more than [`LANES_MAX`](super::LANES_MAX) lanes, or `me` is outside `lanes`.
    pub fn new(me: Peer, lanes: Vec<Vec<StdStream>>) -> io::Result<Self> {
        let to_mio = |stream: StdStream| {
            stream.set_nonblocking(true)?;
            Ok(TcpStream::from_std(stream))
        };
        let lanes: io::Result<Vec<_>> = lanes
            .into_iter()
            .map(|lanes| lanes.into_iter().map(to_mio).collect::<io::Result<_>>())
            .collect();
        Self::from_mio(me, lanes?)
    }

    pub(super) fn from_mio(me: Peer, lanes: Vec<SmallVec<[TcpStream; 1]>>) -> io::Result<Self> {
        assert!((me.index()) < lanes.len(), "{me} is outside a mesh of {}", lanes.len());
        let poll = Poll::new()?;
        let waker = Waker::new(&poll)?;
        let mut links = Vec::with_capacity(lanes.len());
        for (peer, mut lanes) in lanes.into_iter().enumerate() {
            assert!(lanes.len() <= LANES_MAX, "{} lanes to peer {peer}", lanes.len());
            for (lane, stream) in lanes.iter_mut().enumerate() {
                let token = Token(peer * LANES_MAX + lane);
                poll.registry().register(stream, token, Interest::READABLE | Interest::WRITABLE)?;
            }
            let state = if lanes.is_empty() { State::Closed } else { State::Open };
            let cursor = Cursor::new(lanes.len());
            links.push(Link {
                lanes,
                state,
                blocked: false,
                unread: false,
                unwritten: false,
                hung_up: false,
                failure: None,
                listed: false,
                tx: cursor,
                rx: cursor,
            });
        }
        let core = Core {
            me,
            revisit: Vec::with_capacity(links.len()),
            links,
            staging: vec![0; STAGING_BYTES].into_boxed_slice(),
            mode: Mode::Running,
        };
        Ok(Self { poll, events: Events::with_capacity(EVENTS), core, waker })
    }

    /// Lets `descriptor` end a sleeping [`Links::poll`] as the waker does, each time that it becomes readable anew. It
    /// must stay open as long as the links.
    ///
    /// # Errors
    /// The operating system refuses the descriptor.
    #[cfg(unix)]
    pub fn watch(&self, descriptor: std::os::fd::BorrowedFd<'_>) -> io::Result<()> {
        super::watch(&self.poll, descriptor)
    }

    /// Writes everything `port` still has outgoing and keeps receiving meanwhile, until nothing is left
    /// or `deadline` passes. The links stay usable.
    ///
    /// # Errors
    /// [`Unfinished`] names the peers for which bytes were left.
    pub fn drain(&mut self, deadline: Instant, port: &mut dyn Port) -> Result<(), Unfinished> {
        loop {
            let mut undelivered = Vec::new();
            for peer in 0..self.core.links.len() {
                self.core.write(peer, port);
                if self.core.links[peer].blocked || self.core.links[peer].unwritten {
                    undelivered.push(Peer(peer as u32));
                }
            }
            if undelivered.is_empty() {
                return Ok(());
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(Unfinished { undelivered, open: Vec::new() });
            }
            self.poll(Some(deadline - now), port);
        }
    }
}

impl Links for TcpLinks {
    fn peer(&self) -> Peer {
        self.core.me
    }

    fn world(&self) -> u32 {
        self.core.links.len() as u32
    }

    fn flush(&mut self, peer: Peer, port: &mut dyn Port) {
        if (peer.index()) < self.core.links.len() {
            self.core.write(peer.index(), port);
        }
    }

    fn receive(&mut self, peer: Peer, port: &mut dyn Port) -> usize {
        if (peer.index()) < self.core.links.len() { self.core.read(peer.index(), port) } else { 0 }
    }

    fn poll(&mut self, timeout: Option<Duration>, port: &mut dyn Port) -> usize {
        let Self { poll, events, core, .. } = self;
        let timeout = if core.revisit.is_empty() { timeout } else { Some(Duration::ZERO) };
        // An interrupted wait counts as a wait that saw nothing: the caller looks at its deadline again.
        if poll.poll(events, timeout).is_err() {
            events.clear();
        }
        let mut served = 0;
        for event in events.iter() {
            if event.token() == WAKE {
                continue;
            }
            let (peer, lane) = (event.token().0 / LANES_MAX, event.token().0 % LANES_MAX);
            let link = &mut core.links[peer];
            if link.state == State::Closed {
                continue;
            }
            served += 1;
            if event.is_error()
                && let Ok(Some(error)) = link.lanes[lane].take_error()
            {
                core.fail(peer, &error, port);
                continue;
            }
            if event.is_readable() || event.is_read_closed() {
                link.hung_up |= event.is_read_closed();
                core.read(peer, port);
            }
            let link = &core.links[peer];
            if event.is_writable() && link.blocked {
                core.write(peer, port);
            }
        }
        served + core.visit_again(port)
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.waker) as Arc<dyn Wake>
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn shutdown(&mut self, deadline: Instant, port: &mut dyn Port) -> Result<(), Unfinished> {
        self.core.mode = Mode::ShuttingDown;
        let drained = self.drain(deadline, port);
        loop {
            let open = self.core.finish(port);
            if open.is_empty() {
                break;
            }
            let now = Instant::now();
            if now >= deadline {
                let undelivered = drained.err().map_or_else(Vec::new, |left| left.undelivered);
                return Err(Unfinished { undelivered, open });
            }
            self.poll(Some(deadline - now), port);
        }
        drained
    }
}

impl Core {
    /// One visit for reading; at most about [`READ_BURST`] bytes.
    fn read(&mut self, index: usize, port: &mut dyn Port) -> usize {
        let Self { links, staging, .. } = self;
        let link = &mut links[index];
        if matches!(link.state, State::Closed | State::PeerDone) {
            return 0;
        }
        let peer = Peer(index as u32);
        let mut total = 0;
        link.unread = false;
        loop {
            let stream = &mut link.lanes[link.rx.lane];
            let window = port.window(peer);
            let windowed = window.len().min(link.rx.left);
            let (result, offered) = if windowed == 0 {
                let room = staging.len().min(link.rx.left);
                (stream.read(&mut staging[..room]), room)
            } else {
                let room = if windowed >= LARGE_WINDOW { LOOKAHEAD_BYTES } else { staging.len() };
                let room = room.min(link.rx.left - windowed);
                let mut buffers = [
                    IoSliceMut::new(&mut window[..windowed]),
                    IoSliceMut::new(&mut staging[..room]),
                ];
                (stream.read_vectored(&mut buffers), windowed + room)
            };
            match result {
                Ok(0) => {
                    self.peer_done(index, port);
                    return total;
                }
                Ok(bytes) => {
                    total += bytes;
                    let direct = bytes.min(windowed);
                    if direct > 0 {
                        port.filled(peer, direct);
                    }
                    if bytes > direct {
                        port.handle(peer, &staging[..bytes - direct]);
                    }
                    let turned = link.rx.advance(bytes, link.lanes.len());
                    if SHORT_ENDS && bytes < offered && !turned && !link.hung_up {
                        return total;
                    }
                    if total >= READ_BURST {
                        link.unread = true;
                        self.visit_later(index);
                        return total;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return total,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.close(index, Closed::of(&error), port);
                    return total;
                }
            }
        }
    }

    /// One visit for writing; at most about [`WRITE_BURST`] bytes.
    fn write(&mut self, index: usize, port: &mut dyn Port) {
        let link = &mut self.links[index];
        if matches!(link.state, State::Closed | State::WeDone) {
            return;
        }
        let peer = Peer(index as u32);
        let mut total = 0;
        link.blocked = false;
        link.unwritten = false;
        loop {
            let mut slices = Slices::new();
            port.outgoing(peer, &mut slices);
            let stream = &mut link.lanes[link.tx.lane];
            let (result, offered) = match write_some(stream, &mut slices, link.tx.left) {
                Some(written) => written,
                None => return,
            };
            drop(slices);
            match result {
                Ok(bytes) => {
                    total += bytes;
                    port.sent(peer, bytes);
                    let turned = link.tx.advance(bytes, link.lanes.len());
                    if SHORT_ENDS && bytes < offered && !turned {
                        link.blocked = true;
                        return;
                    }
                    if total >= WRITE_BURST {
                        link.unwritten = true;
                        self.visit_later(index);
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    link.blocked = true;
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.fail(index, &error, port);
                    return;
                }
            }
        }
    }

    /// A write failed, or the system reports an error. What the peer sent before still counts.
    fn fail(&mut self, index: usize, error: &io::Error, port: &mut dyn Port) {
        self.links[index].hung_up = true;
        self.links[index].failure.get_or_insert(Closed::of(error));
        loop {
            let bytes = self.read(index, port);
            if self.links[index].state == State::Closed {
                return;
            }
            if bytes == 0 {
                break;
            }
        }
        self.close(index, Closed::of(error), port);
    }

    /// The peer's stream has ended.
    fn peer_done(&mut self, index: usize, port: &mut dyn Port) {
        match (self.mode, self.links[index].state, self.links[index].failure) {
            (_, _, Some(cause)) => self.close(index, cause, port),
            (Mode::ShuttingDown, State::Open, None) => self.links[index].state = State::PeerDone,
            _ => self.close(index, Closed::Eof, port),
        }
    }

    fn close(&mut self, index: usize, cause: Closed, port: &mut dyn Port) {
        let link = &mut self.links[index];
        link.state = State::Closed;
        link.blocked = false;
        link.unread = false;
        link.unwritten = false;
        // Dropping a socket also takes it out of the poll.
        link.lanes.clear();
        port.closed(Peer(index as u32), cause);
    }

    fn visit_later(&mut self, index: usize) {
        let link = &mut self.links[index];
        if !link.listed {
            link.listed = true;
            self.revisit.push(index as u32);
        }
    }

    /// Visits the peers whose last visit ended early.
    fn visit_again(&mut self, port: &mut dyn Port) -> usize {
        let listed = self.revisit.len();
        let mut served = 0;
        for place in 0..listed {
            let index = self.revisit[place] as usize;
            let link = &mut self.links[index];
            link.listed = false;
            let (unread, unwritten) = (link.unread, link.unwritten);
            served += usize::from(unread || unwritten);
            if unread {
                self.read(index, port);
            }
            if unwritten {
                self.write(index, port);
            }
        }
        self.revisit.drain(..listed);
        served
    }

    /// Says to every peer that nothing more will come; returns the peers that have not said it.
    fn finish(&mut self, port: &mut dyn Port) -> Vec<Peer> {
        let mut open = Vec::new();
        for index in 0..self.links.len() {
            let link = &mut self.links[index];
            match link.state {
                State::Closed => continue,
                State::PeerDone => self.close(index, Closed::Eof, port),
                State::Open => {
                    for lane in &link.lanes {
                        // Fails where the peer is gone already; reading tells.
                        let _ = lane.shutdown(Shutdown::Write);
                    }
                    link.state = State::WeDone;
                    open.push(Peer(index as u32));
                }
                State::WeDone => open.push(Peer(index as u32)),
            }
        }
        open
    }
}

/// Writes a prefix of `slices`, at most `limit` bytes. `None`: there is nothing to write. Else the result,
/// and how many bytes were offered.
fn write_some(
    stream: &mut TcpStream,
    slices: &mut Slices<'_>,
    limit: usize,
) -> Option<(io::Result<usize>, usize)> {
    slices.truncate(SLICES_MAX);
    let mut offered = 0;
    for (index, slice) in slices.iter_mut().enumerate() {
        let room = limit - offered;
        if slice.len() > room {
            // The rest is another lane's; keep the first `room` bytes.
            return Some(write_cut(stream, &slices[..=index], room, offered));
        }
        offered += slice.len();
    }
    match slices.as_slice() {
        _ if offered == 0 => None,
        [slice] => Some((stream.write(slice), offered)),
        slices => Some((stream.write_vectored(slices), offered)),
    }
}

/// [`write_some`] where the last slice does not fit as a whole.
fn write_cut(
    stream: &mut TcpStream,
    slices: &[IoSlice<'_>],
    room: usize,
    before: usize,
) -> (io::Result<usize>, usize) {
    let (last, whole) = slices.split_last().expect("the slice that does not fit");
    let mut cut: Slices<'_> = whole.iter().map(|slice| IoSlice::new(slice)).collect();
    cut.push(IoSlice::new(&last[..room]));
    (stream.write_vectored(&cut), before + room)
}
