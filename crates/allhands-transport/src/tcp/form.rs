//! Joining the mesh: all dials and all handshakes at once, on one thread, until a deadline.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use allhands_wire::{
    HandshakeError, Hello, Identity, Incumbent, Initiator, JobHash, JobKey, Nonce, Peer, Reject,
    Responder,
};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use super::config::{Membership, TcpConfig};
use super::conn::{Conn, Failure, Side, Stand, has_ended};
use super::control::TcpControl;
use super::endpoint::Endpoint;
use super::gate::{Admission, Gate, Source};
use super::links::TcpLinks;
use super::listener::{ListenReport, Listener, host_for_processes};
use super::mesh::{Mesh, MeshReport, Progress};
use super::seats::{Claim, Seats};
use super::tune;
use crate::error::{Incomplete, Missing, Reached, TransportError, TurnedAway};

/// First pause before a failed dial is repeated; it doubles each time.
const REDIAL_FIRST: Duration = Duration::from_millis(2);

/// Longest pause before a failed dial is repeated.
const REDIAL_MAX: Duration = Duration::from_millis(250);

/// A dial without result is given up and repeated after this long, at the peer's next address if it has
/// several. A peer that listens but has not begun to form the mesh lets its diallers wait.
const DIAL_LIMIT: Duration = Duration::from_secs(10);

/// Dials in flight at once, so that a large mesh does not look like a flood.
const DIALS_IN_FLIGHT: usize = 64;

/// Pause in accepting when descriptors run out.
const OUT_OF_DESCRIPTORS_PAUSE: Duration = Duration::from_millis(10);

/// Longest time between two calls of the progress callback.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Readiness events taken from the operating system at once.
const EVENTS: usize = 256;

/// A rank that cannot join goes on with its handshakes this long, so that every peer it concerns hears
/// the reason from it and not only its silence.
const FAREWELL: Duration = Duration::from_millis(200);

const LISTENER: Token = Token(usize::MAX - 1);

impl Listener {
    /// Joins the mesh of all `peers`, in rank order, this one included. The higher rank of a pair dials, and
    /// repeats refused dials until `deadline`. `progress` is called whenever a rank has joined, and at
    /// least once a second; [`ControlFlow::Break`] gives up.
    ///
    /// # Errors
    /// [`TransportError::Incomplete`] at the deadline names who is missing and how far each got. A wrong
    /// job, key, world size, epoch or rank fails at once with its own error.
    pub fn form(
        self,
        peers: &[Endpoint],
        membership: &Membership,
        deadline: Instant,
        progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<Mesh, TransportError> {
        let started = Instant::now();
        self.check(peers, membership)?;
        let mut forming = Forming::new(self, peers, membership, started)?;
        forming.run(deadline, progress)?;
        let mesh = forming.into_mesh()?;
        tracing::info!(report = %mesh.report, "mesh complete");
        Ok(mesh)
    }

    fn check(&self, peers: &[Endpoint], membership: &Membership) -> Result<(), TransportError> {
        let (me, world) = (membership.me, membership.world);
        let bad = |what| Err(TransportError::BadMembership { me, world, what });
        if peers.len() != world as usize {
            return bad("the number of endpoints is not the world size");
        }
        if me.0 >= world {
            return bad("ranks count from 0 to the world size less one");
        }
        if self.config.lanes == 0 || self.config.lanes > super::LANES_MAX {
            return bad("a pair has 1 to 16 data lanes");
        }
        let host = self.endpoint().host();
        let only_loopback =
            |endpoint: &Endpoint| endpoint.addresses().iter().all(|at| at.ip().is_loopback());
        for (peer, endpoint) in (0..).map(Peer).zip(peers) {
            if endpoint.host() == host {
                continue;
            }
            let endpoint = endpoint.clone();
            if only_loopback(&endpoint) {
                return Err(TransportError::PeerOnLoopback { peer, endpoint });
            }
            if only_loopback(&self.endpoint()) {
                let address = self.report.address.ip();
                return Err(TransportError::LoopbackWithRemote { me, address, peer, endpoint });
            }
        }
        Ok(())
    }
}

/// One connection that this rank has to make.
struct Dial {
    peer: Peer,
    place: usize,
    state: Dialled,
    dials: u32,
    pause: Duration,
    last: Option<io::ErrorKind>,
    /// The peer's host took a connection at least once.
    connected: bool,
}

#[derive(Clone, Copy)]
enum Dialled {
    Due(Instant),
    InFlight {
        until: Instant,
        key: usize,
    },
    Up,
    /// Trying again cannot help.
    Over,
}

struct Forming<'a> {
    peers: &'a [Endpoint],
    config: TcpConfig,
    listen: ListenReport,
    listener: TcpListener,
    key: JobKey,
    who: Identity,
    started: Instant,
    poll: Poll,
    conns: Vec<Option<Conn>>,
    free: Vec<usize>,
    gate: Gate,
    seats: Seats,
    dials: Vec<Dial>,
    in_flight: usize,
    redials: u32,
    turned_away: TurnedAway,
    /// Addresses that members listen on.
    members: Vec<IpAddr>,
    /// The listener may have more connections.
    accepting: bool,
    accept_after: Option<Instant>,
    /// Given up to accept and close one connection when descriptors run out.
    reserve: Option<File>,
    /// Why this rank cannot join, and when it says so.
    fatal: Option<(TransportError, Instant)>,
}

impl<'a> Forming<'a> {
    fn new(
        listener: Listener,
        peers: &'a [Endpoint],
        membership: &Membership,
        started: Instant,
    ) -> Result<Self, TransportError> {
        let Listener { mut socket, config, report, .. } = listener;
        let poll = Poll::new().map_err(system("make a readiness queue"))?;
        poll.registry()
            .register(&mut socket, LISTENER, Interest::READABLE)
            .map_err(system("watch the listener"))?;
        let Nonce([x, y, z, ..]) = nonce()?;
        let who = Identity {
            job: JobHash::of(&membership.job_id),
            epoch: membership.epoch,
            me: membership.me,
            world: membership.world,
            lanes: config.lanes,
            pid: std::process::id(),
            host: host_for_processes([x, y, z]),
        };
        let seats = Seats::new(who.me, who.world, who.lanes);
        // The nearest rank first, so that not everybody dials rank 0 at once.
        let dial = |peer, place| Dial {
            peer,
            place,
            state: Dialled::Due(started),
            dials: 0,
            pause: REDIAL_FIRST,
            last: None,
            connected: false,
        };
        let dials = (0..who.me.0)
            .rev()
            .flat_map(|peer| (0..seats.places()).map(move |place| dial(Peer(peer), place)))
            .collect();
        let members =
            peers.iter().flat_map(Endpoint::addresses).map(|address| address.ip()).collect();
        Ok(Self {
            peers,
            config,
            listen: report,
            listener: socket,
            key: membership.key.clone(),
            who,
            started,
            poll,
            conns: Vec::new(),
            free: Vec::new(),
            gate: Gate::new(),
            seats,
            dials,
            in_flight: 0,
            redials: 0,
            turned_away: TurnedAway::default(),
            members,
            accepting: true,
            accept_after: None,
            reserve: reserve(),
            fatal: None,
        })
    }

    fn run(
        &mut self,
        deadline: Instant,
        progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<(), TransportError> {
        let mut events = Events::with_capacity(EVENTS);
        let mut told = 0;
        let mut tell_at = self.started;
        loop {
            let now = Instant::now();
            if let Err(error) = self.turn(&events, now) {
                self.fatal.get_or_insert((error, now + FAREWELL));
            }
            events.clear();
            if let Some((_, until)) = self.fatal
                && (now >= until.min(deadline) || self.seats.is_complete())
                && let Some((error, _)) = self.fatal.take()
            {
                return Err(error);
            }
            if self.seats.joined() != told || now >= tell_at {
                told = self.seats.joined();
                tell_at = now + PROGRESS_INTERVAL;
                if progress(&self.progress(now)).is_break() {
                    return Err(TransportError::Cancelled { elapsed: now - self.started });
                }
            }
            if self.seats.is_complete() {
                return Ok(());
            }
            if let Some(peer) = self.seats.gone(now)
                && self.fatal.is_none()
            {
                let (me, world) = (self.who.me, self.who.world);
                return Err(TransportError::PeerLeft { me, peer, world });
            }
            if now >= deadline {
                return Err(TransportError::Incomplete(Box::new(self.incomplete(now))));
            }
            let farewell = self.fatal.as_ref().map_or(deadline, |(_, until)| *until);
            let until = self.next_event(now, deadline.min(tell_at).min(farewell));
            match self.poll.poll(&mut events, Some(until.saturating_duration_since(now))) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(system("wait for connections")(error));
                }
                Err(_) => events.clear(),
                Ok(()) => {}
            }
        }
    }

    /// Does everything that is due. The first error counts; the rest is done all the same.
    fn turn(&mut self, events: &Events, now: Instant) -> Result<(), TransportError> {
        let mut outcome = Ok(());
        for event in events {
            if event.token() == LISTENER {
                self.accepting = true;
            } else {
                outcome = outcome.and(self.work(event.token().0, now));
            }
        }
        outcome.and(self.expire(now)).and(self.dial_due(now)).and(self.accept(now))
    }

    /// When something is due although nothing happens.
    fn next_event(&self, now: Instant, latest: Instant) -> Instant {
        let room = self.in_flight < DIALS_IN_FLIGHT;
        let dial = |dial: &Dial| match dial.state {
            Dialled::Due(at) if room => Some(at),
            Dialled::InFlight { until, .. } => Some(until),
            Dialled::Due(_) | Dialled::Up | Dialled::Over => None,
        };
        let accept = if self.accepting {
            Some(self.accept_after.or(self.gate.closed_until(now)).unwrap_or(now))
        } else {
            None
        };
        [accept, self.gate.next_expiry(), self.seats.next_gone()]
            .into_iter()
            .chain(self.dials.iter().map(dial))
            .flatten()
            .fold(latest, Instant::min)
    }

    fn progress(&self, now: Instant) -> Progress {
        let missing = (0..self.who.world).map(Peer).filter(|peer| !self.seats.has_joined(*peer));
        Progress {
            joined: self.seats.joined(),
            world: self.who.world,
            missing: missing.collect(),
            elapsed: now - self.started,
        }
    }

    fn incomplete(&self, now: Instant) -> Incomplete {
        let missing = |peer: Peer| Missing {
            peer,
            endpoint: self.peers[peer.index()].clone(),
            reached: self.reached(peer),
        };
        let Progress { missing: peers, elapsed, .. } = self.progress(now);
        Incomplete {
            me: self.who.me,
            world: self.who.world,
            elapsed,
            missing: peers.into_iter().map(missing).collect(),
            turned_away: self.turned_away,
        }
    }

    fn reached(&self, peer: Peer) -> Reached {
        let up = self.seats.up(peer);
        if up > 0 {
            return Reached::Partly { up: up as u32, of: self.seats.places() as u32 };
        }
        let mut mine = self.dials.iter().filter(|dial| dial.peer == peer).peekable();
        if mine.peek().is_none() {
            return Reached::Silent;
        }
        let (mut dials, mut last, mut connected) = (0, None, false);
        for dial in mine {
            dials += dial.dials;
            last = last.or(dial.last);
            connected |= dial.connected;
        }
        if connected {
            Reached::NotGreeted { dials }
        } else {
            Reached::NotConnected { dials, last }
        }
    }

    // ---- dialling ----

    fn dial_due(&mut self, now: Instant) -> Result<(), TransportError> {
        for index in 0..self.dials.len() {
            if self.in_flight >= DIALS_IN_FLIGHT {
                return Ok(());
            }
            if matches!(self.dials[index].state, Dialled::Due(at) if at <= now) {
                self.dial(index, now)?;
            }
        }
        Ok(())
    }

    fn dial(&mut self, index: usize, now: Instant) -> Result<(), TransportError> {
        let dial = &mut self.dials[index];
        let (peer, place) = (dial.peer, dial.place);
        let addresses = self.peers[peer.index()].addresses();
        let mut address = addresses[dial.dials as usize % addresses.len()];
        // A link-local address is reached through the interface that this rank listens on.
        if let SocketAddr::V6(v6) = &mut address
            && v6.ip().is_unicast_link_local()
        {
            v6.set_scope_id(self.listen.chosen.nic.index);
        }
        dial.dials += 1;
        if dial.dials > 1 {
            self.redials += 1;
        }
        let stream =
            TcpStream::connect(address).and_then(|stream| tune::at_start(&stream).map(|()| stream));
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                self.redial(index, error.kind(), now);
                return Ok(());
            }
        };
        let purpose = self.seats.purpose_of(place);
        let initiator = Initiator::new(&self.key, &self.who, peer, purpose, nonce()?);
        let side = Side::Dialling { dial: index, initiator: Box::new(initiator), connected: false };
        let key = self.insert(Conn { stream, address, taken: 0, side })?;
        self.dials[index].state = Dialled::InFlight { until: now + DIAL_LIMIT, key };
        self.in_flight += 1;
        Ok(())
    }

    /// Plans the next try of a dial that is not in flight any more.
    fn redial(&mut self, index: usize, why: io::ErrorKind, now: Instant) {
        let dial = &mut self.dials[index];
        dial.last = Some(why);
        dial.state = Dialled::Due(now + dial.pause);
        dial.pause = (dial.pause * 2).min(REDIAL_MAX);
    }

    /// A dial failed: tries again, or gives up where trying again cannot help.
    fn dial_failed(
        &mut self,
        index: usize,
        address: SocketAddr,
        failure: &Failure,
        now: Instant,
    ) -> Result<(), TransportError> {
        let (me, peer) = (self.who.me, self.dials[index].peer);
        let this_process = Incumbent { pid: self.who.pid, host: self.who.host };
        // With several addresses some may lead elsewhere; each gets two tries.
        let tries = match self.peers[peer.index()].addresses().len() {
            1 => 1,
            several => 2 * several as u32,
        };
        match *failure {
            Failure::Lost(kind) => self.redial(index, kind, now),
            Failure::Handshake(HandshakeError::Rejected(Reject::Busy)) => {
                self.redial(index, io::ErrorKind::WouldBlock, now);
            }
            Failure::Handshake(HandshakeError::Rejected(Reject::DuplicateRank { first })) => {
                if first != this_process {
                    self.dials[index].state = Dialled::Over;
                    return Err(TransportError::DuplicateRank { me, first });
                }
                // The verdict on an earlier dial of this process was lost.
                self.redial(index, io::ErrorKind::AlreadyExists, now);
            }
            Failure::Handshake(_) if self.dials[index].dials < tries => {
                self.redial(index, io::ErrorKind::InvalidData, now);
            }
            Failure::Handshake(cause) => {
                self.dials[index].state = Dialled::Over;
                return Err(TransportError::TurnedAway { me, peer, address, cause });
            }
        }
        Ok(())
    }

    // ---- answering ----

    fn accept(&mut self, now: Instant) -> Result<(), TransportError> {
        if self.accept_after.is_some_and(|after| now < after) {
            return Ok(());
        }
        self.accept_after = None;
        while self.accepting && self.gate.closed_until(now).is_none() {
            match self.listener.accept() {
                Ok((stream, address)) => self.welcome(stream, address, now)?,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => self.accepting = false,
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => {
                        self.out_of_descriptors(&error);
                        self.accept_after = Some(now + OUT_OF_DESCRIPTORS_PAUSE);
                        return Ok(());
                    }
                },
            }
        }
        Ok(())
    }

    fn welcome(
        &mut self,
        stream: TcpStream,
        address: SocketAddr,
        now: Instant,
    ) -> Result<(), TransportError> {
        let source = address.ip().to_canonical();
        let known = if self.members.contains(&source) { Source::Member } else { Source::Stranger };
        match self.gate.judge(source, known, now) {
            Admission::Refuse => {
                self.turned_away.strays += 1;
                return Ok(());
            }
            Admission::AdmitAndEvict(old) => self.turn_out(old),
            Admission::Admit => {}
        }
        if tune::at_start(&stream).is_err() {
            // It is gone already.
            return Ok(());
        }
        let responder = Box::new(Responder::new(&self.key, &self.who, nonce()?));
        let key = self.insert(Conn {
            stream,
            address,
            taken: 0,
            side: Side::Answering { responder, claimed: None },
        })?;
        self.gate.enter(key, source, now);
        // The greeting can go at once.
        self.work(key, now)
    }

    /// Makes room for one connection, which is closed at once, so that the queue moves on.
    fn out_of_descriptors(&mut self, error: &io::Error) {
        tracing::debug!(%error, "cannot accept; closing the oldest connection without proof");
        if let Some(oldest) = self.gate.oldest() {
            self.turn_out(oldest);
        }
        self.reserve = None;
        if self.listener.accept().is_ok() {
            self.turned_away.strays += 1;
        }
        self.reserve = reserve();
    }

    /// Closes a connection that has not proved the key.
    fn turn_out(&mut self, key: usize) {
        self.turned_away.strays += 1;
        self.remove(key);
    }

    fn expire(&mut self, now: Instant) -> Result<(), TransportError> {
        while let Some(key) = self.gate.expired(now) {
            self.turn_out(key);
        }
        for index in 0..self.dials.len() {
            if let Dialled::InFlight { until, key } = self.dials[index].state
                && now >= until
                && let Some(conn) = self.remove(key)
            {
                let failure = Failure::Lost(io::ErrorKind::TimedOut);
                self.dial_failed(index, conn.address, &failure, now)?;
            }
        }
        Ok(())
    }

    // ---- connections ----

    fn insert(&mut self, conn: Conn) -> Result<usize, TransportError> {
        let key = self.free.pop().unwrap_or(self.conns.len());
        if key == self.conns.len() {
            self.conns.push(None);
        }
        let conn = self.conns[key].insert(conn);
        self.poll
            .registry()
            .register(&mut conn.stream, Token(key), Interest::READABLE | Interest::WRITABLE)
            .map_err(system("watch a connection"))?;
        Ok(key)
    }

    fn remove(&mut self, key: usize) -> Option<Conn> {
        let conn = self.conns[key].take()?;
        self.free.push(key);
        match &conn.side {
            Side::Dialling { .. } => self.in_flight -= 1,
            Side::Answering { claimed, .. } => {
                self.gate.leave(key);
                if let Some((peer, place)) = *claimed {
                    self.seats.vacate(peer, place, key);
                }
            }
            Side::Seated { .. } => {}
        }
        Some(conn)
    }

    /// Works on one connection as far as it goes.
    fn work(&mut self, key: usize, now: Instant) -> Result<(), TransportError> {
        loop {
            let Some(conn) = self.conns.get_mut(key).and_then(Option::as_mut) else {
                return Ok(());
            };
            if let Side::Seated { peer } = conn.side {
                if has_ended(&conn.stream) {
                    self.seats.lose(peer, now);
                }
                return Ok(());
            }
            match conn.advance() {
                Stand::Waiting => {
                    if let Side::Dialling { dial, connected: true, .. } = conn.side {
                        self.dials[dial].connected = true;
                    }
                    return Ok(());
                }
                Stand::Deciding(hello) => self.decide(key, &hello),
                Stand::Granted(hello) => {
                    self.seat(key, &hello, now);
                    return Ok(());
                }
                Stand::Failed(failure) => return self.failed(key, &failure, now),
            }
        }
    }

    /// A member has proved the key: grants its place, unless another has it.
    fn decide(&mut self, key: usize, hello: &Hello) {
        let mut claim = self.seats.judge(hello);
        if let Claim::Held(old) = claim {
            // The same process dials again: its earlier connection is dead, or this is a fault.
            let place = self.seats.place_of(hello.purpose);
            let ended = self.conns[old].as_ref().is_none_or(|conn| has_ended(&conn.stream));
            if ended {
                self.remove(old);
                self.seats.vacate(hello.src, place, old);
                claim = Claim::Free;
            }
        }
        let Some(Conn { side: Side::Answering { responder, claimed }, .. }) = &mut self.conns[key]
        else {
            return;
        };
        let Some(decision) = responder.decide() else { return };
        match claim {
            // The lower rank dialled the higher: it counts the ranks differently.
            _ if hello.src < self.who.me => {
                let (src, dst) = (hello.src.0, hello.dst.0);
                decision.refuse(Reject::NotMember { src, dst });
            }
            Claim::Free => {
                decision.grant();
                *claimed = Some((hello.src, self.seats.place_of(hello.purpose)));
                self.seats.claim(hello, key);
            }
            Claim::Held(_) => {
                let first = Incumbent { pid: hello.pid, host: hello.host };
                decision.refuse(Reject::DuplicateRank { first });
            }
            Claim::Duplicate(first) => decision.refuse(Reject::DuplicateRank { first }),
        }
    }

    fn seat(&mut self, key: usize, hello: &Hello, now: Instant) {
        let Some(conn) = self.conns[key].as_mut() else { return };
        let (peer, place) = (hello.src, self.seats.place_of(hello.purpose));
        match std::mem::replace(&mut conn.side, Side::Seated { peer }) {
            Side::Dialling { dial, .. } => {
                self.in_flight -= 1;
                self.dials[dial].state = Dialled::Up;
            }
            Side::Answering { .. } => self.gate.leave(key),
            Side::Seated { .. } => {}
        }
        if place == usize::from(self.who.lanes) {
            tune::control(&conn.stream);
        } else {
            tune::data(&conn.stream, &self.config);
        }
        self.seats.seat(peer, place, key);
        tracing::debug!(%peer, purpose = %hello.purpose, elapsed = ?(now - self.started), "connected");
    }

    fn failed(
        &mut self,
        key: usize,
        failure: &Failure,
        now: Instant,
    ) -> Result<(), TransportError> {
        let Some(conn) = self.remove(key) else { return Ok(()) };
        match conn.side {
            Side::Dialling { dial, connected, .. } => {
                self.dials[dial].connected |= connected;
                self.dial_failed(dial, conn.address, failure, now)
            }
            Side::Answering { .. } => {
                // So that the verdict arrives before the end.
                let _ = conn.stream.shutdown(Shutdown::Write);
                self.answer_failed(conn.address, failure)
            }
            Side::Seated { .. } => Ok(()),
        }
    }

    fn answer_failed(
        &mut self,
        address: SocketAddr,
        failure: &Failure,
    ) -> Result<(), TransportError> {
        let Failure::Handshake(cause) = *failure else {
            self.turned_away.strays += 1;
            return Ok(());
        };
        match cause {
            // A holder of the key says that this job was started with two configurations: all fail.
            HandshakeError::Refused(
                reject @ (Reject::WorldSizeMismatch { .. } | Reject::LaneMismatch { .. }),
            ) => {
                let me = self.who.me;
                return Err(TransportError::Misconfigured { me, address, reject });
            }
            HandshakeError::Refused(_) => {
                self.turned_away.refused += 1;
                self.turned_away.last = Some((address, cause));
            }
            _ => self.turned_away.strays += 1,
        }
        Ok(())
    }

    fn into_mesh(mut self) -> Result<Mesh, TransportError> {
        let report = MeshReport {
            listen: self.listen.clone(),
            me: self.who.me,
            world: self.who.world,
            lanes: self.who.lanes,
            elapsed: self.started.elapsed(),
            redials: self.redials,
            turned_away: self.turned_away,
        };
        let mut lanes = Vec::with_capacity(self.peers.len());
        let mut controls = Vec::with_capacity(self.peers.len());
        for peer in (0..self.who.world).map(Peer) {
            let keys: Vec<usize> = self.seats.keys(peer).collect();
            let mut streams = smallvec::SmallVec::new();
            for key in keys {
                let Some(mut conn) = self.conns[key].take() else { continue };
                self.poll
                    .registry()
                    .deregister(&mut conn.stream)
                    .map_err(system("hand a connection over"))?;
                streams.push(conn.stream);
            }
            controls.push(streams.pop());
            lanes.push(streams);
        }
        let links = TcpLinks::from_mio(self.who.me, lanes).map_err(system("start the links"))?;
        let control =
            TcpControl::from_mio(self.who.me, controls).map_err(system("start the control"))?;
        Ok(Mesh { links, control, report })
    }
}

fn nonce() -> Result<Nonce, TransportError> {
    let mut bytes = [0; 16];
    // The error may come from elsewhere than the system, and then has only words.
    let drawn = getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()));
    drawn.map_err(system("draw random bytes"))?;
    Ok(Nonce(bytes))
}

fn reserve() -> Option<File> {
    File::open("/dev/null").ok()
}

fn system(what: &'static str) -> impl Fn(io::Error) -> TransportError {
    move |source| TransportError::System { what, source }
}
