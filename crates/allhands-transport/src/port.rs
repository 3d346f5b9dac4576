//! What a link offers, and what it needs from above.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use allhands_wire::{Header, Peer};
use smallvec::SmallVec;

/// Slices that fit one vectored write without heap memory.
pub const SLICES_INLINE: usize = 16;

/// Bytes of control frames that may wait for one peer. Enough for a minute of heartbeats and a
/// handful of reports; a peer that leaves more unread is as good as gone.
pub const CONTROL_QUEUE_BYTES: usize = 64 * 1024;

/// Bytes waiting for a peer, oldest first, borrowed from a [`Port`].
pub type Slices<'a> = SmallVec<[IoSlice<'a>; SLICES_INLINE]>;

/// What a link needs from above: bytes to send, room for bytes that arrive, and somebody to tell.
///
/// A link sees one byte stream in each direction for each peer; frames are the port's business.
/// Calls come from the thread that called [`Links::flush`], [`Links::receive`] or [`Links::poll`],
/// never from elsewhere.
pub trait Port {
    /// Appends the bytes waiting for `peer`, oldest first, to `slices` (which is empty).
    ///
    /// The link may take any prefix of them; it says how much through [`Port::sent`], then asks again
    /// until nothing is left or the link is full. Naming more than [`SLICES_INLINE`] slices works, but
    /// costs an allocation.
    fn outgoing<'a>(&'a mut self, peer: Peer, slices: &mut Slices<'a>);

    /// The first `bytes` of what [`Port::outgoing`] named are in the link's hands; their memory is free.
    fn sent(&mut self, peer: Peer, bytes: usize);

    /// Where the next bytes from `peer` should land. Empty: the link reads into its own staging
    /// buffer and calls [`Port::handle`].
    fn window(&mut self, peer: Peer) -> &mut [u8];

    /// The first `bytes` of the window hold bytes from `peer`.
    fn filled(&mut self, peer: Peer, bytes: usize);

    /// Bytes from `peer` that the link had staged. The port consumes all of them. When they follow
    /// bytes of a window, [`Port::filled`] was called for the whole window before.
    fn handle(&mut self, peer: Peer, bytes: &[u8]);

    /// Nothing more will come from `peer` or go to it. Called once a peer, after the last byte that
    /// arrived was handed over.
    fn closed(&mut self, peer: Peer, cause: Closed);
}

/// Byte streams to every peer, driven by one thread at a time.
pub trait Links: Send {
    /// This rank's place in the mesh.
    fn peer(&self) -> Peer;

    /// Peers in the mesh, this one included.
    fn world(&self) -> u32;

    /// Writes as much of `port.outgoing(peer)` as the link takes now. What does not fit goes on by
    /// itself when a later [`Links::poll`] finds the link writable; calling `flush` again tries at once.
    /// Does nothing for this rank itself and for a closed peer.
    fn flush(&mut self, peer: Peer, port: &mut dyn Port);

    /// Reads what has arrived from `peer` now, without asking for readiness first: the spinning path.
    /// Returns the bytes read; 0 says that nothing was there, or that the peer is closed.
    ///
    /// One call reads at most a bounded amount; a peer that has more is visited by the next
    /// [`Links::poll`].
    fn receive(&mut self, peer: Peer, port: &mut dyn Port) -> usize;

    /// Waits up to `timeout` (`None`: without limit, `Some(ZERO)`: not at all) until a peer is readable
    /// or writable, or until the [`Wake`] is used, and serves every peer that is. Returns the number of
    /// peers served. May return 0 before the timeout.
    fn poll(&mut self, timeout: Option<Duration>, port: &mut dyn Port) -> usize;

    /// Says that this rank is about to sleep: from now on until the next [`Links::poll`] returns, peers that write to
    /// shared memory wake it. Whoever looks at such memory arms first, looks once more, then polls.
    fn arm(&mut self) {}

    /// Ends a sleeping [`Links::poll`] from another thread. A wake that comes before the sleep is kept.
    fn waker(&self) -> Arc<dyn Wake>;

    /// Where peers ask for progress that wait for this rank to read, although nobody drives it. `None` where the operating system
    /// reads meanwhile.
    fn progress_requests(&self) -> Option<Arc<dyn ProgressRequests>> {
        None
    }

    /// What this link can do beyond bytes.
    fn capabilities(&self) -> Capabilities;

    /// Writes everything `port` still has outgoing, tells each peer that nothing more will come, and
    /// hands over what arrives until each peer has said the same or `deadline` passes.
    ///
    /// Dropping links without this may lose bytes that the port thinks are sent: an operating system
    /// answers bytes that reach a closed socket with a reset.
    ///
    /// # Errors
    /// [`Unfinished`] names the peers for which bytes were left or that had not closed their side.
    fn shutdown(&mut self, deadline: Instant, port: &mut dyn Port) -> Result<(), Unfinished>;
}

/// Small frames to every peer on connections of their own, so that they never queue behind bulk data.
pub trait Control: Send {
    /// This rank's place in the mesh.
    fn peer(&self) -> Peer;

    /// Peers in the mesh, this one included.
    fn world(&self) -> u32;

    /// Queues one frame (an encoded [`Header`] and its payload) for `peer` and tries to write it now.
    ///
    /// # Errors
    /// The queue of this peer is full, the peer is closed, or the frame is too long. Nothing of the
    /// frame is sent then.
    fn send(&mut self, peer: Peer, frame: &[u8]) -> Result<(), ControlSendError>;

    /// Waits up to `timeout` for frames and closed connections and hands each to `handler`. Returns the
    /// number of events. Also writes what is queued.
    fn poll(
        &mut self,
        timeout: Option<Duration>,
        handler: &mut dyn FnMut(ControlEvent<'_>),
    ) -> usize;

    /// Ends a sleeping [`Control::poll`] from another thread. A wake that comes before the sleep is kept.
    fn waker(&self) -> Arc<dyn Wake>;

    /// Writes what is queued until nothing is left or `deadline` passes, then tells each peer that
    /// nothing more will come. Frames that arrive meanwhile are handed to `handler`.
    ///
    /// # Errors
    /// [`Unfinished`] names the peers for which frames were left.
    fn shutdown(
        &mut self,
        deadline: Instant,
        handler: &mut dyn FnMut(ControlEvent<'_>),
    ) -> Result<(), Unfinished>;
}

/// Wakes a thread that sleeps in [`Links::poll`] or [`Control::poll`].
pub trait Wake: Send + Sync {
    /// Ends the current sleep, or the next one if nobody sleeps.
    fn wake(&self);
}

/// Tells that a peer waits for room, see [`Links::progress_requests`].
pub trait ProgressRequests: Send + Sync {
    /// Whether a peer has asked since the last call.
    fn take(&self) -> bool;
}

/// What happened on a control connection.
#[derive(Debug)]
pub enum ControlEvent<'a> {
    /// A frame has arrived.
    Frame {
        /// Who sent it, as the handshake proved it.
        peer: Peer,
        /// Its header, checked.
        header: Header,
        /// Its payload, checked where the frame carries a checksum.
        payload: &'a [u8],
    },
    /// The connection is gone. Comes once a peer, after its last frame.
    Closed {
        /// The peer.
        peer: Peer,
        /// Why.
        cause: Closed,
    },
}

/// Why a connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Closed {
    /// The peer closed its side; everything it sent has arrived.
    #[error("the peer closed the connection")]
    Eof,
    /// The peer's host answered with a reset: its process is gone, or it dropped unread bytes.
    #[error("the peer reset the connection")]
    Reset,
    /// What arrived on a control connection was not a frame.
    #[error("the peer sent bytes that are not a control frame")]
    Garbled,
    /// What a ring in shared memory counts makes no sense, so its bytes cannot be followed.
    #[error("the peer's ring claims {claimed} bytes beside {mine}, and holds {capacity}")]
    Ring {
        /// The peer's count.
        claimed: u64,
        /// This side's count.
        mine: u64,
        /// Bytes of the ring.
        capacity: usize,
    },
    /// Bytes came over the network from a peer whose bytes come through shared memory: the two cannot be put in order.
    #[error("the peer sent bytes over the network beside those in shared memory")]
    Beside,
    /// The operating system reported something else, for example a lost route.
    #[error("the connection failed: {kind}")]
    Io {
        /// What the operating system said.
        kind: io::ErrorKind,
    },
}

impl Closed {
    /// The cause that an error of a read or write stands for.
    pub(crate) fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset,
            kind => Self::Io { kind },
        }
    }
}

/// What a link can do beyond moving bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Capabilities {
    /// Whether a peer can read this rank's memory in place.
    pub loans: Loans,
}

/// Whether a send may be fulfilled by a descriptor of memory instead of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Loans {
    /// Bytes only.
    #[default]
    Never,
    /// Memory of registered segments may be lent.
    Segments,
}

/// A control frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlSendError {
    /// The peer does not read its control connection.
    #[error("control queue to {peer} is full ({bytes} bytes wait); the peer does not read")]
    Full {
        /// The peer.
        peer: Peer,
        /// Bytes that wait.
        bytes: usize,
    },
    /// The connection is gone, or the peer is this rank or outside the mesh.
    #[error("no control connection to {peer}")]
    NotConnected {
        /// The peer.
        peer: Peer,
    },
    /// Control frames have a header and a small payload.
    #[error("control frame of {bytes} bytes to {peer} is not within {least}..={limit}")]
    Length {
        /// The peer.
        peer: Peer,
        /// Length of the frame, header included.
        bytes: usize,
        /// The shortest frame: a header.
        least: usize,
        /// The longest frame taken.
        limit: usize,
    },
}

/// A shutdown reached its deadline.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shutdown deadline passed: bytes left for {undelivered:?}, still open to {open:?}")]
pub struct Unfinished {
    /// Peers for which bytes were left unsent.
    pub undelivered: Vec<Peer>,
    /// Peers that took everything but have not closed their side.
    pub open: Vec<Peer>,
}
