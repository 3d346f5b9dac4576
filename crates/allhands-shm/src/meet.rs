//! How the ranks of one host find each other and swap descriptors.
//!
//! Whether two ranks share a host is not asked of names or addresses: two processes can share memory if one can
//! reach the other's Unix socket. Each rank has a [`Listener`], an abstract socket with a random name, and tells its name
//! to all ranks through whatever they meet in. Abstract names belong to a network namespace, so ranks in different ones
//! do not find each other, and go by the network between them.
//!
//! 1. Each rank dials all lower ranks ([`dial`]); a listener is open before its name is known, so
//!    one that does not answer is elsewhere.
//! 2. All tell each other whom they reached; so each knows who will come to its own listener.
//! 3. Each pair proves the job's key to each other, by the handshake of the mesh, swaps the descriptors of its memory and of
//!    the event that wakes it, maps what it got, and says whether that worked ([`Listener::meet`]). Both sides use
//!    a pair's memory, or neither.
//!
//! Lower ranks are met first, in order, then those that dialled are let in: so nobody waits in a circle.
//!
//! A stranger, of another user or without the key, is turned away; a few of them delay the start, many
//! end in the network being used.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use allhands_transport::tcp::Membership;
use allhands_wire::{
    HandshakeState, Identity, Initiator, JobHash, Nonce, Peer, Purpose, Reject, Responder,
};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use rustix::process::{PidfdFlags, pidfd_open};

pub use crate::error::MeetError;
pub use crate::host::{NAME_LEN, Name};

use crate::credentials::Credentials;
use crate::layout::{Layout, WORLD_MAX};
use crate::segment::{OwnSegment, PeerSegment};
use crate::wake::{Barrier, PeerWaker};

/// Connections that may wait at a listener: those of all ranks of a host, and as many strangers.
const QUEUE: i32 = 2 * WORLD_MAX as i32;

/// Strangers that are turned away before the listener is given up.
const STRANGERS_MAX: u32 = 64;

/// The longest that one visitor, one lower rank, or reaching all of them may take.
const VISIT_MAX: Duration = Duration::from_secs(5);

/// Descriptors of a rank: segment, wake, progress, arena.
const DESCRIPTORS: usize = 4;

/// What goes with the descriptors: format, barrier, arena length.
const OFFER_LEN: usize = 16;
const OFFER_FORMAT: u8 = 1;

fn system(what: &'static str) -> impl FnOnce(io::Error) -> MeetError {
    move |source| MeetError::System { what, source }
}

/// What a failed read or write of a visit that began at `begun` says of `peer`.
fn broken(peer: Peer, begun: Instant) -> impl Fn(io::Error) -> MeetError + Copy {
    move |source| match source.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
            MeetError::Late { peer, waited: begun.elapsed() }
        }
        _ => MeetError::Lost { peer, source },
    }
}

/// What this rank brings: its segment, how it is woken, and its arena if it has one.
#[derive(Debug)]
pub struct Offer {
    /// Its segment.
    pub segment: Arc<OwnSegment>,
    /// The event it sleeps on.
    pub wake: OwnedFd,
    /// The event by which it is asked to read.
    pub progress: OwnedFd,
    /// Whether it fences for those who write to it.
    pub barrier: Barrier,
    /// Memory that it lends from.
    pub arena: Option<Arc<OwnSegment>>,
}

/// A rank of this host, as it was met.
#[derive(Debug)]
pub struct HostPeer {
    /// Its segment.
    pub segment: Arc<PeerSegment>,
    /// How it is woken.
    pub waker: PeerWaker,
    /// Memory that it lends from.
    pub arena: Option<Arc<PeerSegment>>,
    /// Its process.
    pub process: Option<OwnedFd>,
}

/// Who a rank is, for the handshake.
fn identity(member: &Membership) -> Identity {
    Identity {
        // A job of its own: nobody takes a mesh's connection for one of these.
        job: JobHash::of(&format!("{}/memory", member.job_id)),
        epoch: member.epoch,
        me: member.me,
        world: member.world,
        lanes: 1,
        pid: std::process::id(),
        host: Default::default(),
    }
}

/// Dials the ranks below `me`; `None` where there is none to be reached. A listener at which too many wait counts as out of
/// reach after a while.
#[must_use]
pub fn dial(names: &[Option<Name>], me: Peer) -> Vec<Option<UnixStream>> {
    let deadline = Instant::now() + VISIT_MAX;
    let connect = |name: &Option<Name>| connect(name.as_ref()?, deadline).ok();
    names.iter().take(me.index()).map(connect).collect()
}

/// A rank's socket, to which others of its host come.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    name: Name,
}

impl Listener {
    /// Listens under a random name.
    ///
    /// # Errors
    /// The system has no randomness or no sockets.
    pub fn open() -> Result<Self, MeetError> {
        let mut name = [0; NAME_LEN];
        getrandom::fill(&mut name).map_err(io::Error::from).map_err(system("draw a name"))?;
        let socket = SocketAddr::from_abstract_name(label(&name))
            .and_then(|address| UnixListener::bind_addr(&address))
            .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
            .and_then(|socket| Ok(rustix::net::listen(&socket, QUEUE).map(|()| socket)?))
            .map_err(system("open a Unix socket"))?;
        Ok(Self { socket, name })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> Name {
        self.name
    }

    /// Meets the ranks that were reached, and then those above that reached this one. One result a rank: `None` for
    /// this rank itself and for those elsewhere.
    pub fn meet(
        &self,
        member: &Membership,
        layout: Layout,
        offer: &Offer,
        reached: Vec<Option<UnixStream>>,
        reached_by: &[bool],
        deadline: Instant,
    ) -> Vec<Option<Result<HostPeer, MeetError>>> {
        let mut met: Vec<Option<Result<HostPeer, MeetError>>> = Vec::new();
        met.resize_with(member.world as usize, || None);
        for (rank, stream) in reached.into_iter().enumerate() {
            if let Some(stream) = stream {
                let peer = Peer(rank as u32);
                let visit = Visit { member, layout, offer, peer, deadline: within(deadline) };
                met[rank] = Some(visit.call(&stream));
            }
        }
        let mut expected: Vec<Peer> = (member.me.0 + 1..member.world)
            .map(Peer)
            .filter(|peer| reached_by.get(peer.index()).copied().unwrap_or(false))
            .collect();
        let (mut strangers, begun) = (0, Instant::now());
        while let Some(&next) = expected.first() {
            let give_up = match self.admit(member, layout, offer, &expected, deadline) {
                Ok((peer, result)) => {
                    expected.retain(|&other| other != peer);
                    met[peer.index()] = Some(result);
                    continue;
                }
                Err(Admission::Stranger) if strangers < STRANGERS_MAX => {
                    strangers += 1;
                    continue;
                }
                Err(Admission::Stranger) => MeetError::Crowded { strangers, peer: next },
                Err(Admission::Failed(error)) => error,
            };
            met[next.index()] = Some(Err(give_up));
            for peer in expected.drain(1..) {
                let waited = begun.elapsed();
                met[peer.index()] = Some(Err(MeetError::Late { peer, waited }));
            }
            break;
        }
        met
    }

    /// Lets the next visitor in.
    fn admit(
        &self,
        member: &Membership,
        layout: Layout,
        offer: &Offer,
        expected: &[Peer],
        deadline: Instant,
    ) -> Result<(Peer, Result<HostPeer, MeetError>), Admission> {
        let begun = Instant::now();
        let deadline = within(deadline);
        let stream = loop {
            match self.socket.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !ready(self.socket.as_fd(), deadline) {
                        let (peer, waited) = (expected[0], begun.elapsed());
                        return Err(Admission::Failed(MeetError::Late { peer, waited }));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Admission::Failed(system("accept")(error))),
            }
        };
        if !matches!(other_user(&stream), Ok(None)) {
            return Err(Admission::Stranger);
        }
        let mut nonce = Nonce([0; 16]);
        getrandom::fill(&mut nonce.0).map_err(|_| Admission::Stranger)?;
        let mut responder = Responder::new(&member.key, &identity(member), nonce);
        let hello = loop {
            match responder.state() {
                HandshakeState::Granted(hello) if responder.poll_output().is_empty() => {
                    break hello;
                }
                HandshakeState::Failed(_) if responder.poll_output().is_empty() => {
                    return Err(Admission::Stranger);
                }
                HandshakeState::Deciding(hello) => {
                    let wanted = expected.contains(&hello.src);
                    match responder.decide() {
                        Some(decision) if wanted && hello.purpose == Purpose::Control => {
                            decision.grant();
                        }
                        Some(decision) => {
                            let (src, dst) = (hello.src.0, hello.dst.0);
                            decision.refuse(Reject::NotMember { src, dst });
                        }
                        None => {}
                    }
                }
                _ => {}
            }
            let output = responder.poll_output().to_vec();
            let talked = talk(&stream, deadline, &output, |step| match step {
                Talk::Sent(bytes) => responder.handle_sent(bytes),
                Talk::Came(bytes) => {
                    responder.handle_bytes(bytes);
                }
            });
            if talked.is_err() {
                return Err(Admission::Stranger);
            }
        };
        let visit = Visit { member, layout, offer, peer: hello.src, deadline };
        Ok((hello.src, visit.swap(&stream)))
    }
}

enum Admission {
    Stranger,
    Failed(MeetError),
}

/// One step of a handshake.
enum Talk<'a> {
    Sent(usize),
    Came(&'a [u8]),
}

/// Writes what is to be written; where there is nothing, reads one byte after the other: what follows the handshake
/// is not the handshake's.
fn talk(
    mut stream: &UnixStream,
    deadline: Instant,
    output: &[u8],
    mut step: impl FnMut(Talk<'_>),
) -> io::Result<()> {
    patient(stream, deadline)?;
    if !output.is_empty() {
        // A signal ends a call that has a timeout, whatever its handler says.
        let bytes = persist(|| stream.write(output))?;
        step(Talk::Sent(bytes));
        return Ok(());
    }
    let mut byte = [0];
    match persist(|| stream.read(&mut byte))? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => {
            step(Talk::Came(&byte));
            Ok(())
        }
    }
}

/// Repeats a call that a signal ended.
fn persist<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn within(deadline: Instant) -> Instant {
    deadline.min(Instant::now() + VISIT_MAX)
}

fn label(name: &Name) -> String {
    let mut text = String::from("allhands-");
    for byte in name {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Connects to a listener. A blocking connection waits as long as a socket may write: here, until the deadline.
fn connect(name: &Name, deadline: Instant) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let stream = UnixStream::from(socket);
    let address = SocketAddrUnix::new_abstract_name(label(name).as_bytes())?;
    loop {
        patient(&stream, deadline)?;
        match rustix::net::connect(&stream, &address) {
            Err(rustix::io::Errno::INTR) => {}
            connected => return connected.map(|()| stream).map_err(Into::into),
        }
    }
}

/// Waits until a descriptor is readable.
fn ready(descriptor: BorrowedFd<'_>, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
    let mut polled = [PollFd::new(&descriptor, PollFlags::IN)];
    matches!(rustix::event::poll(&mut polled, Some(&left)), Ok(1..)) || Instant::now() < deadline
}

/// The user of the process on the other side, if it is not this one's.
fn other_user(stream: &UnixStream) -> io::Result<Option<u32>> {
    let uid = Credentials::of(stream)?.uid;
    Ok((uid != rustix::process::geteuid().as_raw()).then_some(uid))
}

/// Lets the next read or write take until the deadline; each of a visit's, or those that come in drops have no end.
fn patient(stream: &UnixStream, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    // The system counts in microseconds, and takes none for no limit.
    let left = left.max(Duration::from_micros(1));
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(left))?;
    stream.set_write_timeout(Some(left))
}

/// Two ranks on one connection.
struct Visit<'a> {
    member: &'a Membership,
    layout: Layout,
    offer: &'a Offer,
    peer: Peer,
    deadline: Instant,
}

impl Visit<'_> {
    /// At the listener of a lower rank.
    fn call(&self, stream: &UnixStream) -> Result<HostPeer, MeetError> {
        let peer = self.peer;
        if let Some(uid) = other_user(stream).map_err(system("tell a peer's user"))? {
            return Err(MeetError::OtherUser { peer, uid });
        }
        let mut nonce = Nonce([0; 16]);
        getrandom::fill(&mut nonce.0).map_err(io::Error::from).map_err(system("draw a nonce"))?;
        let who = identity(self.member);
        let mut initiator = Initiator::new(&self.member.key, &who, peer, Purpose::Control, nonce);
        let begun = Instant::now();
        loop {
            match initiator.state() {
                HandshakeState::Granted(_) => return self.swap(stream),
                HandshakeState::Failed(source) => {
                    return Err(MeetError::Unproven { peer, source });
                }
                HandshakeState::Working | HandshakeState::Deciding(_) => {}
            }
            let output = initiator.poll_output().to_vec();
            talk(stream, self.deadline, &output, |step| match step {
                Talk::Sent(bytes) => initiator.handle_sent(bytes),
                Talk::Came(bytes) => {
                    initiator.handle_bytes(bytes);
                }
            })
            .map_err(broken(peer, begun))?;
        }
    }

    /// Swaps descriptors with a rank that has proved who it is, and agrees with it whether to use them.
    fn swap(&self, stream: &UnixStream) -> Result<HostPeer, MeetError> {
        let peer = self.peer;
        let broken = broken(peer, Instant::now());
        let in_time = || patient(stream, self.deadline);
        in_time().and_then(|()| self.send_offer(stream)).map_err(broken)?;
        in_time().map_err(broken)?;
        let offer = self.receive_offer(stream, broken);
        let mapped = offer.and_then(|offer| self.map(stream, offer));
        // Both must have succeeded, or neither uses it.
        let mut stream = stream;
        stream.write_all(&[u8::from(mapped.is_ok())]).map_err(broken)?;
        let mut theirs = [0];
        in_time().and_then(|()| stream.read_exact(&mut theirs)).map_err(broken)?;
        match mapped {
            Ok(_) if theirs != [1] => Err(MeetError::Refused { peer }),
            mapped => mapped,
        }
    }

    fn send_offer(&self, stream: &UnixStream) -> io::Result<()> {
        let arena = self.offer.arena.as_deref();
        let mut offer = [0; OFFER_LEN];
        offer[0] = OFFER_FORMAT;
        offer[1] = u8::from(self.offer.barrier == Barrier::Remote);
        let arena_len = arena.map_or(0, OwnSegment::len) as u64;
        offer[8..].copy_from_slice(&arena_len.to_le_bytes());
        let Offer { segment, wake, progress, .. } = self.offer;
        let mut descriptors = vec![segment.fd(), wake.as_fd(), progress.as_fd()];
        descriptors.extend(arena.map(OwnSegment::fd));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        if !rights.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let offer = [IoSlice::new(&offer)];
        let send = || Ok(rustix::net::sendmsg(stream, &offer, &mut rights, SendFlags::NOSIGNAL)?);
        let sent = persist(send)?;
        // So few bytes go as a whole.
        if sent == OFFER_LEN { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    fn receive_offer(
        &self,
        stream: &UnixStream,
        broken: impl Fn(io::Error) -> MeetError,
    ) -> Result<Offered, MeetError> {
        let garbled = || MeetError::Garbled { peer: self.peer };
        let mut offer = [0; OFFER_LEN];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        let mut target = [IoSliceMut::new(&mut offer)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let receive = || Ok(rustix::net::recvmsg(stream, &mut target, &mut rights, flags)?);
        let came = persist(receive).map_err(broken)?;
        let mut descriptors: Vec<OwnedFd> = Vec::new();
        for message in rights.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if came.bytes != OFFER_LEN || offer[0] != OFFER_FORMAT {
            return Err(garbled());
        }
        let mut length = [0; 8];
        length.copy_from_slice(&offer[8..]);
        let arena_len = usize::try_from(u64::from_le_bytes(length)).map_err(|_| garbled())?;
        let expected = DESCRIPTORS - usize::from(arena_len == 0);
        if descriptors.len() != expected {
            return Err(garbled());
        }
        let barrier = if offer[1] == 1 { Barrier::Remote } else { Barrier::Local };
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next();
        match (next(), next(), next(), next()) {
            (Some(segment), Some(wake), Some(progress), arena) => {
                let arena = arena.map(|fd| (fd, arena_len));
                Ok(Offered { segment, wake, progress, arena, barrier })
            }
            _ => Err(garbled()),
        }
    }

    fn map(&self, stream: &UnixStream, offer: Offered) -> Result<HostPeer, MeetError> {
        let unmapped = |source| MeetError::Unmapped { peer: self.peer, source };
        // Whoever wakes a rank must not wait for it.
        let events = [&offer.wake, &offer.progress];
        if !events.into_iter().all(|event| {
            rustix::fs::fcntl_getfl(event).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK))
        }) {
            return Err(MeetError::Garbled { peer: self.peer });
        }
        let segment = PeerSegment::map(offer.segment.as_fd(), self.layout.segment_len());
        let segment = Arc::new(segment.map_err(unmapped)?);
        let arena = match offer.arena {
            Some((fd, len)) => Some(Arc::new(PeerSegment::map(fd.as_fd(), len).map_err(unmapped)?)),
            None => None,
        };
        // The process that made the connection is alive, so its number is not another's yet.
        let pid = Credentials::of(stream).ok().and_then(|credentials| credentials.pid);
        let process = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::NONBLOCK).ok());
        let Offered { wake, progress, barrier, .. } = offer;
        let waker = PeerWaker { segment: segment.clone(), wake, progress, barrier };
        if let Some(arena) = &arena {
            arena.advise_huge_pages();
        }
        Ok(HostPeer { segment, waker, arena, process })
    }
}

/// What a rank sends of itself.
struct Offered {
    segment: OwnedFd,
    wake: OwnedFd,
    progress: OwnedFd,
    arena: Option<(OwnedFd, usize)>,
    barrier: Barrier,
}
