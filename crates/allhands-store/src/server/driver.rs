//! The thread that moves bytes between sockets and the core.

use super::core::{ConnId, Core};
use super::{
    ACCEPT_BACKOFF, ACCEPT_BUDGET, GREETING_LIMIT, LOG_INTERVAL, READ_BUDGET, STRAYS_MAX, Shared,
    WRITE_BUDGET,
};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

pub(super) const LISTENER: Token = Token(usize::MAX - 1);
pub(super) const WAKER: Token = Token(usize::MAX - 2);

/// Bytes taken by one `read`.
const READ_SIZE: usize = 64 << 10;

/// Segments given to one `writev`.
const WRITE_SLICES: usize = 32;

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    /// Readiness as last reported; the poll is edge-triggered, so it stays until the socket says otherwise.
    readable: bool,
    writable: bool,
    /// The peer has sent all it will, as reported by the poll, and as found by reading up to the end.
    hung_up: bool,
    ended: bool,
    queued: bool,
}

pub(super) struct Driver {
    poll: Poll,
    listener: TcpListener,
    core: Core,
    shared: Arc<Shared>,
    connections: HashMap<ConnId, Connection>,
    connections_max: usize,
    /// Connections that have not greeted yet; the first is the oldest.
    strays: BTreeMap<ConnId, Instant>,
    /// Connections with something to do, in turn.
    ready: VecDeque<ConnId>,
    acceptable: bool,
    accept_again: Option<Instant>,
    /// Given up for a moment to take, and close, a connection when descriptors run out.
    spare: Option<File>,
    buffer: Box<[u8]>,
    log: LogGate,
}

/// Lets one line through per interval and counts the rest.
struct LogGate {
    next: Instant,
    held_back: u64,
}

impl LogGate {
    fn open(&mut self, now: Instant) -> Option<u64> {
        if now < self.next {
            self.held_back += 1;
            return None;
        }
        self.next = now + LOG_INTERVAL;
        Some(std::mem::take(&mut self.held_back))
    }
}

impl Driver {
    pub(super) fn new(
        poll: Poll,
        listener: TcpListener,
        core: Core,
        shared: Arc<Shared>,
        connections_max: usize,
    ) -> Self {
        Self {
            poll,
            listener,
            core,
            shared,
            connections: HashMap::new(),
            connections_max,
            strays: BTreeMap::new(),
            ready: VecDeque::new(),
            acceptable: false,
            accept_again: None,
            spare: spare(),
            buffer: vec![0; READ_SIZE].into_boxed_slice(),
            log: LogGate { next: Instant::now(), held_back: 0 },
        }
    }

    /// Serves until the handle is dropped.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(256);
        loop {
            let timeout = self.timeout(Instant::now());
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!(%error, "the store server stops: its poll failed");
                    break;
                }
            }
            if self.shared.stop.load(Ordering::Acquire) {
                break;
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.acceptable = true,
                    WAKER => {}
                    Token(token) => self.note(ConnId(token as u64), event),
                }
            }
            let now = Instant::now();
            self.accept(now);
            for _ in 0..self.ready.len() {
                if let Some(conn) = self.ready.pop_front() {
                    self.serve(conn, now);
                }
            }
            self.expire(now);
            self.publish();
        }
        // Before the keys, which may take a while: the clients should know at once.
        self.connections.clear();
        self.shared.ended();
    }

    fn timeout(&self, now: Instant) -> Option<Duration> {
        if !self.ready.is_empty() || (self.acceptable && self.accept_again.is_none()) {
            return Some(Duration::ZERO);
        }
        let accept = self.accept_again;
        let stray = self.strays.first_key_value().map(|(_, since)| *since + GREETING_LIMIT);
        let next = accept.into_iter().chain(stray).min()?;
        // Rounded up, lest the poll returns just before the moment and spins.
        Some(next.saturating_duration_since(now) + Duration::from_millis(1))
    }

    fn note(&mut self, conn: ConnId, event: &mio::event::Event) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.readable |= event.is_readable();
        connection.writable |= event.is_writable() || event.is_error();
        connection.hung_up |= event.is_read_closed();
        connection.ended |= event.is_error();
        self.enqueue(conn);
    }

    fn enqueue(&mut self, conn: ConnId) {
        if let Some(connection) = self.connections.get_mut(&conn)
            && !connection.queued
        {
            connection.queued = true;
            self.ready.push_back(conn);
        }
    }

    fn accept(&mut self, now: Instant) {
        if !self.acceptable || self.accept_again.is_some_and(|again| now < again) {
            return;
        }
        self.accept_again = None;
        for _ in 0..ACCEPT_BUDGET {
            match self.listener.accept() {
                Ok((stream, _)) => self.welcome(stream, now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.acceptable = false;
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The peer gave up between connecting and now.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    self.warn(now, "cannot accept a connection", &error);
                    if !self.make_room() {
                        self.accept_again = Some(now + ACCEPT_BACKOFF);
                        return;
                    }
                }
            }
        }
    }

    /// Descriptors have run out: close the oldest stray, else take one connection off the queue and close it.
    fn make_room(&mut self) -> bool {
        if let Some((stray, _)) = self.strays.pop_first() {
            self.close(stray);
            return true;
        }
        if self.spare.take().is_none() {
            self.spare = spare();
            return false;
        }
        drop(self.listener.accept());
        self.spare = spare();
        false
    }

    fn welcome(&mut self, mut stream: TcpStream, now: Instant) {
        if self.connections.len() >= self.connections_max {
            let limit = self.connections_max;
            self.warn(now, "too many connections", &limit);
            return;
        }
        // Only latency is at stake.
        let _ = stream.set_nodelay(true);
        keep_alive(&stream);
        let conn = self.core.open();
        let token = Token(conn.0 as usize);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut stream, token, interest) {
            self.core.close(conn);
            self.warn(now, "cannot watch a connection", &error);
            return;
        }
        // The greeting has often arrived already: look at once, so that an honest client is hardly ever a stray.
        let connection = Connection {
            stream,
            readable: true,
            writable: true,
            hung_up: false,
            ended: false,
            queued: false,
        };
        self.connections.insert(conn, connection);
        self.strays.insert(conn, now);
        self.serve(conn, now);
        if self.strays.len() > STRAYS_MAX
            && let Some((oldest, _)) = self.strays.pop_first()
        {
            self.close(oldest);
        }
    }

    /// Reads, answers and writes for one connection, then for those that its requests released.
    fn serve(&mut self, conn: ConnId, now: Instant) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.queued = false;
        }
        self.read(conn);
        self.finish(conn, now);
        while let Some(other) = self.core.poll_touched() {
            self.finish(other, now);
        }
    }

    fn read(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let mut budget = READ_BUDGET;
        while connection.readable && budget > 0 && self.core.wants_input(conn) {
            match connection.stream.read(&mut self.buffer) {
                Ok(0) => {
                    connection.readable = false;
                    connection.ended = true;
                }
                Ok(count) => {
                    budget = budget.saturating_sub(count);
                    self.core.handle_bytes(conn, &self.buffer[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    connection.readable = false;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    connection.readable = false;
                    connection.ended = true;
                }
            }
        }
    }

    /// Writes what there is, and decides whether the connection stays.
    fn finish(&mut self, conn: ConnId, now: Instant) {
        let alive = self.write(conn);
        let Some(connection) = self.connections.get(&conn) else { return };
        let sent = self.core.pending_output(conn) == 0;
        let waiting = self.core.is_waiting(conn);
        // A peer that is gone while its later requests are held back would never be noticed by a read.
        let deaf = connection.hung_up && waiting && !self.core.wants_input(conn);
        if !alive || deaf || (connection.ended && (sent || waiting)) {
            self.close(conn);
            return;
        }
        if let Some(violation) = self.core.violation(conn) {
            if let Ok(peer) = connection.stream.peer_addr()
                && let Some(more) = self.log.open(now)
            {
                tracing::warn!(%peer, %violation, more, "store connection closed");
            }
            self.close(conn);
            return;
        }
        let more_to_read = connection.readable && self.core.wants_input(conn);
        let more_to_write = connection.writable && !sent;
        if more_to_read || more_to_write {
            self.enqueue(conn);
        }
        if !self.strays.is_empty() && self.core.is_validated(conn) {
            self.strays.remove(&conn);
        }
    }

    /// Returns false when the connection is broken.
    fn write(&mut self, conn: ConnId) -> bool {
        let Some(connection) = self.connections.get_mut(&conn) else { return true };
        let mut budget = WRITE_BUDGET;
        while connection.writable && budget > 0 {
            let mut slices = [IoSlice::new(&[]); WRITE_SLICES];
            let count = self.core.output(conn, &mut slices);
            if count == 0 {
                return true;
            }
            match connection.stream.write_vectored(&slices[..count]) {
                Ok(0) => return false,
                Ok(written) => {
                    budget = budget.saturating_sub(written);
                    self.core.consume_output(conn, written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    connection.writable = false;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    fn expire(&mut self, now: Instant) {
        while let Some((conn, since)) = self.strays.first_key_value() {
            if now.saturating_duration_since(*since) < GREETING_LIMIT {
                return;
            }
            let conn = *conn;
            self.close(conn);
        }
    }

    fn close(&mut self, conn: ConnId) {
        self.strays.remove(&conn);
        if let Some(mut connection) = self.connections.remove(&conn) {
            // Dropping the stream ends the registration too.
            let _ = self.poll.registry().deregister(&mut connection.stream);
        }
        self.core.close(conn);
        while let Some(other) = self.core.poll_touched() {
            self.enqueue(other);
        }
    }

    fn publish(&self) {
        let shared = &self.shared;
        shared.connections.store(self.connections.len() - self.strays.len(), Ordering::Relaxed);
        shared.used.store(self.core.used(), Ordering::Relaxed);
        shared.keys.store(self.core.keys(), Ordering::Relaxed);
        shared.joined(self.core.joined());
    }

    fn warn(&mut self, now: Instant, what: &'static str, detail: &dyn std::fmt::Display) {
        if let Some(more) = self.log.open(now) {
            tracing::warn!(%detail, more, "store server: {what}");
        }
    }
}

fn spare() -> Option<File> {
    File::open(if cfg!(windows) { "NUL" } else { "/dev/null" }).ok()
}

/// A host that vanished must not hold its connections for ever.
fn keep_alive(stream: &TcpStream) {
    let options = crate::tcp::keepalive();
    // Without it the server only forgets later.
    let _ = socket2::SockRef::from(stream).set_tcp_keepalive(&options);
}
