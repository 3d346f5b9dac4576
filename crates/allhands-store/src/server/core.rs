//! The server without sockets: bytes in, bytes out.

use super::outbox::Outbox;
use super::parse::{Parser, Request};
use crate::auth::{self, CHALLENGE_LEN, HELLO_LEN, JobKey, PROOF_LEN};
use crate::limits::STORE_QUOTA;
use crate::meter::{Blob, Charge, Meter, OverQuota};
use crate::protocol::{self, INIT_KEY, MAGIC, Opcode};
use crate::table::{Refusal, Swap, Table, parse_counter};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io::IoSlice;

/// While a connection has more unsent bytes than this, its further requests wait.
pub const OUTPUT_PAUSE: u64 = 256 << 10;

/// Charged for each key that a connection waits for, beside the key.
const WAIT_OVERHEAD: usize = 256;

/// One connection of a [`Core`]. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// Why the server closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// The first bytes are neither a c10d greeting nor ours.
    #[error("no store greeting")]
    NoGreeting,
    /// A plain greeting, but a job key is configured.
    #[error("no job key given where one is asked for")]
    KeyRequired,
    /// A job-key greeting, but none is configured.
    #[error("a job key given where none is configured")]
    NoKeyHere,
    /// The proof of the job key is wrong.
    #[error("wrong job key")]
    WrongKey,
    /// An operation that does not exist.
    #[error("unknown operation {0:#04x}")]
    UnknownOperation(u8),
    /// A key above [`KEY_MAX`](crate::limits::KEY_MAX).
    #[error("key of {0} bytes")]
    KeyTooLong(u64),
    /// A value, or the result of an append, above [`VALUE_MAX`](crate::limits::VALUE_MAX).
    #[error("value of {0} bytes")]
    ValueTooLong(u64),
    /// More keys than [`KEYS_MAX`](crate::limits::KEYS_MAX) in a request.
    #[error("{0} keys in one request")]
    TooManyKeys(u64),
    /// A request above [`REQUEST_MAX`](crate::limits::REQUEST_MAX).
    #[error("request too large")]
    RequestTooLarge,
    /// The quota is used up.
    #[error("the store is full")]
    StoreFull,
    /// `add` on a value that is no number.
    #[error("add to a value that is not a number")]
    NotACounter,
}

impl From<OverQuota> for Violation {
    fn from(_: OverQuota) -> Self {
        Self::StoreFull
    }
}

/// What a [`Core`] is made of.
#[derive(Debug, Clone)]
pub struct CoreConfig {
    /// Asked of every client if present.
    pub job_key: Option<JobKey>,
    /// Secret from which the nonces of the challenges are made; draw it at random.
    pub seed: [u8; 32],
    /// Bytes that may be in use at once.
    pub quota: usize,
}

impl Default for CoreConfig {
    fn default() -> Self {
        Self { job_key: None, seed: [0; 32], quota: STORE_QUOTA }
    }
}

/// The store server without sockets, threads or clock: feed it what each connection receives, send what it answers.
///
/// Input may be split anywhere; the answers do not depend on it. Requests of one connection are answered in order; one
/// that waits holds back the later ones of its connection, except a cancellation.
///
/// ```
/// use allhands_store::server::{Core, CoreConfig};
///
/// let mut core = Core::new(CoreConfig::default());
/// let conn = core.open();
/// core.handle_bytes(conn, b"\x00\xce\xf7\x85\x3c"); // VALIDATE
/// core.handle_bytes(conn, b"\x04\x02\0\0\0\0\0\0\0/n\x05\0\0\0\0\0\0\0"); // ADD "/n" 5
/// assert_eq!(core.take_output(conn), 5i64.to_le_bytes());
/// ```
#[derive(Debug)]
pub struct Core {
    sessions: HashMap<ConnId, Session>,
    shared: Shared,
    job_key: Option<JobKey>,
    seed: [u8; 32],
    opened: u64,
    touched: VecDeque<ConnId>,
}

/// What all sessions act on.
#[derive(Debug)]
struct Shared {
    table: Table,
    /// Who waits for a key, by the order of arrival.
    waiters: HashMap<Blob, BTreeMap<u64, ConnId>>,
    /// Who stands in a barrier, and for how many arrivals.
    barriers: HashMap<Blob, BTreeMap<u64, (ConnId, i64)>>,
    tickets: u64,
    /// Sessions that one of the last requests may have released.
    released: VecDeque<Release>,
}

#[derive(Debug)]
enum Release {
    /// One of the keys it waits for is there now.
    Key(ConnId),
    /// The same, because a value was pushed to this queue; nobody else was told.
    Queue(ConnId, Blob),
    Barrier(ConnId),
}

#[derive(Debug)]
enum Phase {
    /// Collecting the first message.
    Greeting {
        bytes: [u8; HELLO_LEN],
        have: usize,
        trusted: bool,
    },
    /// Waiting for the client's proof.
    Proof {
        hello: Box<[u8; HELLO_LEN]>,
        challenge: Box<[u8; CHALLENGE_LEN]>,
        bytes: [u8; PROOF_LEN],
        have: usize,
    },
    Open,
}

#[derive(Debug)]
enum Waiting {
    No,
    Keys { ticket: u64, keys: Vec<Blob>, left: usize, _charge: Charge },
    Barrier { ticket: u64, key: Blob },
}

#[derive(Debug)]
struct Session {
    phase: Phase,
    parser: Parser,
    outbox: Outbox,
    waiting: Waiting,
    /// Input that must wait, its first unread byte, and its charge.
    held: Vec<u8>,
    held_from: usize,
    held_charge: Charge,
    /// The queue whose push woke this session; if it does not pop, the next waiter is told.
    promised: Option<Blob>,
    violation: Option<Violation>,
    touched: bool,
}

impl Core {
    /// An empty store.
    pub fn new(config: CoreConfig) -> Self {
        Self {
            sessions: HashMap::new(),
            shared: Shared {
                table: Table::new(Meter::new(config.quota)),
                waiters: HashMap::new(),
                barriers: HashMap::new(),
                tickets: 0,
                released: VecDeque::new(),
            },
            job_key: config.job_key,
            seed: config.seed,
            opened: 0,
            touched: VecDeque::new(),
        }
    }

    /// Adds a connection.
    pub fn open(&mut self) -> ConnId {
        let id = ConnId(self.opened);
        self.opened += 1;
        let meter = self.shared.table.meter();
        let session = Session {
            phase: Phase::Greeting { bytes: [0; HELLO_LEN], have: 0, trusted: false },
            parser: Parser::new(meter),
            outbox: Outbox::new(meter),
            waiting: Waiting::No,
            held: Vec::new(),
            held_from: 0,
            held_charge: Charge::none(meter),
            promised: None,
            violation: None,
            touched: false,
        };
        self.sessions.insert(id, session);
        id
    }

    /// Forgets a connection with all that it waits for. What it stored stays.
    pub fn close(&mut self, conn: ConnId) {
        let Some(mut session) = self.sessions.remove(&conn) else { return };
        self.shared.stop_waiting(&mut session.waiting);
        if let Some(queue) = session.promised {
            self.shared.wake_one(&queue);
        }
        self.settle();
    }

    /// Takes what arrived on a connection. Unknown and violating connections are ignored.
    pub fn handle_bytes(&mut self, conn: ConnId, bytes: &[u8]) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        if session.violation.is_some() {
            return;
        }
        if session.held.is_empty() {
            let used =
                session.run(bytes, conn, &mut self.shared, self.job_key.as_ref(), &self.seed);
            session.hold(&bytes[used..]);
        } else {
            session.hold(bytes);
            session.resume(conn, &mut self.shared, self.job_key.as_ref(), &self.seed);
        }
        self.settle();
    }

    /// Whether more input of this connection should be read now. If not, [`Core::poll_touched`] says when it may be.
    pub fn wants_input(&self, conn: ConnId) -> bool {
        self.sessions.get(&conn).is_some_and(|session| {
            session.violation.is_none() && session.held.is_empty() && !session.output_full()
        })
    }

    /// Whether the connection waits for a key or a barrier.
    pub fn is_waiting(&self, conn: ConnId) -> bool {
        self.sessions.get(&conn).is_some_and(|session| !matches!(session.waiting, Waiting::No))
    }

    /// Whether the connection has greeted as it must. Others should be closed after a short while.
    pub fn is_validated(&self, conn: ConnId) -> bool {
        self.sessions.get(&conn).is_some_and(|session| matches!(session.phase, Phase::Open))
    }

    /// Why the connection must be closed once its output is sent, if so.
    pub fn violation(&self, conn: ConnId) -> Option<Violation> {
        self.sessions.get(&conn)?.violation
    }

    /// Fills `slices` with what is to be sent next on a connection; returns how many were filled.
    pub fn output<'a>(&'a self, conn: ConnId, slices: &mut [IoSlice<'a>]) -> usize {
        self.sessions.get(&conn).map_or(0, |session| session.outbox.slices(slices))
    }

    /// Bytes to be sent on a connection.
    pub fn pending_output(&self, conn: ConnId) -> u64 {
        self.sessions.get(&conn).map_or(0, |session| session.outbox.pending())
    }

    /// The first `count` bytes of the output were sent. Requests that waited for room go on.
    pub fn consume_output(&mut self, conn: ConnId, count: usize) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        session.outbox.consume(count);
        if !session.held.is_empty() && session.violation.is_none() {
            session.resume(conn, &mut self.shared, self.job_key.as_ref(), &self.seed);
            self.settle();
        }
    }

    /// All output of a connection as one copy, consumed: for tests and simulations.
    pub fn take_output(&mut self, conn: ConnId) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let mut slices = [IoSlice::new(&[])];
            if self.output(conn, &mut slices) == 0 {
                return all;
            }
            let count = slices[0].len();
            all.extend_from_slice(&slices[0]);
            self.consume_output(conn, count);
        }
    }

    /// The next connection that got output, room for input, or a violation by what *another* one did.
    pub fn poll_touched(&mut self) -> Option<ConnId> {
        loop {
            let conn = self.touched.pop_front()?;
            if let Some(session) = self.sessions.get_mut(&conn) {
                session.touched = false;
                return Some(conn);
            }
        }
    }

    /// Clients with a world size that have announced themselves (the counter `init/`).
    pub fn joined(&self) -> i64 {
        self.shared.table.get(INIT_KEY).and_then(|value| parse_counter(value)).unwrap_or(0)
    }

    /// Bytes charged against the quota.
    pub fn used(&self) -> usize {
        self.shared.table.meter().used()
    }

    /// Keys stored.
    pub fn keys(&self) -> usize {
        self.shared.table.len()
    }

    /// Connections open.
    pub fn connections(&self) -> usize {
        self.sessions.len()
    }

    /// Waits registered: one for each key of each waiting connection.
    pub fn waits(&self) -> usize {
        self.shared.waiters.values().map(BTreeMap::len).sum::<usize>()
            + self.shared.barriers.values().map(BTreeMap::len).sum::<usize>()
    }

    /// Lets go whoever the last requests released; what they do next may release others.
    fn settle(&mut self) {
        while let Some(release) = self.shared.released.pop_front() {
            let (conn, promised) = match release {
                Release::Key(conn) | Release::Barrier(conn) => (conn, None),
                Release::Queue(conn, queue) => (conn, Some(queue)),
            };
            let Some(session) = self.sessions.get_mut(&conn) else {
                if let Some(queue) = promised {
                    self.shared.wake_one(&queue);
                }
                continue;
            };
            let released = match &mut session.waiting {
                Waiting::No => false,
                Waiting::Barrier { .. } => true,
                Waiting::Keys { left, .. } => {
                    *left -= 1;
                    *left == 0
                }
            };
            if !released {
                // It cannot pop yet: somebody else may.
                if let Some(queue) = promised {
                    self.shared.wake_one(&queue);
                }
            } else {
                session.promised = promised;
                session.waiting = Waiting::No;
                session.answer(|outbox| outbox.push(&[protocol::STOP_WAITING]));
                session.resume(conn, &mut self.shared, self.job_key.as_ref(), &self.seed);
                if !session.touched {
                    session.touched = true;
                    self.touched.push_back(conn);
                }
            }
        }
    }
}

impl Shared {
    /// Registers for those of `keys` that are absent; returns `None` if there are none.
    fn start_waiting(
        &mut self,
        conn: ConnId,
        keys: Vec<Blob>,
    ) -> Result<Option<Waiting>, OverQuota> {
        #[expect(
            clippy::mutable_key_type,
            reason = "only the meter behind a blob changes, never its bytes"
        )]
        let mut seen = HashSet::with_capacity(keys.len().min(1024));
        let mut missing = keys;
        missing.retain(|key| !self.table.has(key) && seen.insert(key.clone()));
        drop(seen);
        if missing.is_empty() {
            return Ok(None);
        }
        let charge = self.table.meter().charge(missing.len() * WAIT_OVERHEAD)?;
        self.tickets += 1;
        for key in &missing {
            self.waiters.entry(key.clone()).or_default().insert(self.tickets, conn);
        }
        let left = missing.len();
        Ok(Some(Waiting::Keys { ticket: self.tickets, keys: missing, left, _charge: charge }))
    }

    fn stop_waiting(&mut self, waiting: &mut Waiting) {
        match std::mem::replace(waiting, Waiting::No) {
            Waiting::No => {}
            Waiting::Keys { ticket, keys, .. } => {
                for key in &keys {
                    if let Some(list) = self.waiters.get_mut(key) {
                        list.remove(&ticket);
                        if list.is_empty() {
                            self.waiters.remove(key);
                        }
                    }
                }
            }
            Waiting::Barrier { ticket, key } => {
                if let Some(list) = self.barriers.get_mut(&key) {
                    list.remove(&ticket);
                    if list.is_empty() {
                        self.barriers.remove(&key);
                    }
                }
            }
        }
    }

    fn wake_all(&mut self, key: &[u8]) {
        if let Some(list) = self.waiters.remove(key) {
            self.released.extend(list.into_values().map(Release::Key));
        }
    }

    /// Tells the first waiter of a queue that holds something.
    fn wake_one(&mut self, queue: &Blob) {
        if self.table.queue_len(queue) == 0 {
            return;
        }
        let Some(list) = self.waiters.get_mut(queue) else { return };
        if let Some((_, conn)) = list.pop_first() {
            self.released.push_back(Release::Queue(conn, queue.clone()));
        }
        if list.is_empty() {
            self.waiters.remove(queue);
        }
    }

    fn set(&mut self, key: Blob, value: Blob) {
        self.wake_all(&key);
        self.table.set(key, value);
    }

    fn add(&mut self, key: &Blob, delta: i64) -> Result<i64, Violation> {
        let sum = self.table.add(key.clone(), delta).map_err(|refusal| refuse(refusal, 0))?;
        self.wake_all(key);
        Ok(sum)
    }

    /// Counts an arrival; returns the wait if it must wait.
    fn arrive(
        &mut self,
        conn: ConnId,
        key: Blob,
        world: i64,
    ) -> Result<Option<Waiting>, Violation> {
        let arrived = self.add(&key, 1)?;
        if let Some(list) = self.barriers.get_mut(&key) {
            let released = &mut self.released;
            list.retain(|_, (waiter, world)| {
                if *world <= arrived {
                    released.push_back(Release::Barrier(*waiter));
                }
                *world > arrived
            });
            if list.is_empty() {
                self.barriers.remove(&key);
            }
        }
        if arrived >= world {
            return Ok(None);
        }
        self.tickets += 1;
        self.barriers.entry(key.clone()).or_default().insert(self.tickets, (conn, world));
        Ok(Some(Waiting::Barrier { ticket: self.tickets, key }))
    }
}

fn refuse(refusal: Refusal, bytes: usize) -> Violation {
    match refusal {
        Refusal::OverQuota => Violation::StoreFull,
        Refusal::NotACounter => Violation::NotACounter,
        Refusal::ValueTooLong => Violation::ValueTooLong(bytes as u64),
    }
}

impl Session {
    fn output_full(&self) -> bool {
        self.outbox.pending() > OUTPUT_PAUSE
    }

    /// Keeps input for later.
    fn hold(&mut self, bytes: &[u8]) {
        if bytes.is_empty() || self.violation.is_some() {
            return;
        }
        if self.held_from > self.held.len() / 2 {
            self.held.drain(..self.held_from);
            self.held_from = 0;
        }
        self.held.extend_from_slice(bytes);
        if self.held_charge.resize(self.held.len()).is_err() {
            self.fail(Violation::StoreFull);
        }
    }

    /// Goes on with held input.
    fn resume(
        &mut self,
        conn: ConnId,
        shared: &mut Shared,
        job_key: Option<&JobKey>,
        seed: &[u8; 32],
    ) {
        if self.held.is_empty() || self.violation.is_some() {
            return;
        }
        let held = std::mem::take(&mut self.held);
        self.held_from += self.run(&held[self.held_from..], conn, shared, job_key, seed);
        if self.violation.is_none() && self.held_from < held.len() {
            self.held = held;
        } else {
            self.held_from = 0;
            // Giving back never fails.
            let _ = self.held_charge.resize(0);
        }
    }

    fn fail(&mut self, violation: Violation) {
        self.violation = Some(violation);
        self.held = Vec::new();
        self.held_from = 0;
        let _ = self.held_charge.resize(0);
    }

    fn answer(&mut self, reply: impl FnOnce(&mut Outbox) -> Result<(), OverQuota>) {
        if reply(&mut self.outbox).is_err() {
            self.fail(Violation::StoreFull);
        }
    }

    /// Carries out what `input` asks for, until something must wait; returns how much was used.
    fn run(
        &mut self,
        input: &[u8],
        conn: ConnId,
        shared: &mut Shared,
        job_key: Option<&JobKey>,
        seed: &[u8; 32],
    ) -> usize {
        let mut rest = input;
        while self.violation.is_none() && !rest.is_empty() {
            let step = if matches!(self.phase, Phase::Open) {
                if self.parser.between_requests() && !self.may_begin(rest[0]) {
                    break;
                }
                match self.parser.feed(&mut rest) {
                    Ok(Some(request)) => self.execute(request, conn, shared),
                    Ok(None) => Ok(()),
                    Err(violation) => Err(violation),
                }
            } else {
                self.greet(&mut rest, conn, job_key, seed)
            };
            if let Err(violation) = step {
                shared.stop_waiting(&mut self.waiting);
                self.fail(violation);
            }
        }
        input.len() - rest.len()
    }

    /// Answers go out in order: a request waits for the wait before it, and for room.
    fn may_begin(&self, opcode: u8) -> bool {
        let cancels = opcode == Opcode::CancelWait as u8;
        (matches!(self.waiting, Waiting::No) || cancels) && !self.output_full()
    }

    /// Handles the messages before the session is open. All of them have a fixed size.
    fn greet(
        &mut self,
        input: &mut &[u8],
        conn: ConnId,
        job_key: Option<&JobKey>,
        seed: &[u8; 32],
    ) -> Result<(), Violation> {
        match &mut self.phase {
            Phase::Greeting { bytes, have, trusted } => {
                let first = if *have > 0 { bytes[0] } else { input[0] };
                let trusted = *trusted;
                let (size, prefix) = match first {
                    0 => (5, [0; 8]),
                    0xa5 if !trusted => (HELLO_LEN, auth::HELLO_PREFIX),
                    _ => return Err(Violation::NoGreeting),
                };
                if !collect(&mut bytes[..size], have, input) {
                    return Ok(());
                }
                if size == HELLO_LEN {
                    if bytes[..8] != prefix {
                        return Err(Violation::NoGreeting);
                    }
                    let Some(key) = job_key else {
                        self.outbox.push(&auth::reply(auth::STATUS_NO_KEY))?;
                        return Err(Violation::NoKeyHere);
                    };
                    let challenge = auth::challenge(key, bytes, &auth::nonce(seed, conn.0));
                    self.outbox.push(&challenge)?;
                    self.phase = Phase::Proof {
                        hello: Box::new(*bytes),
                        challenge: Box::new(challenge),
                        bytes: [0; PROOF_LEN],
                        have: 0,
                    };
                    return Ok(());
                }
                if bytes[1..5] != MAGIC.to_le_bytes() {
                    return Err(Violation::NoGreeting);
                }
                if job_key.is_some() && !trusted {
                    self.outbox.push(&auth::reply(auth::STATUS_KEY_REQUIRED))?;
                    return Err(Violation::KeyRequired);
                }
                self.phase = Phase::Open;
                Ok(())
            }
            Phase::Proof { hello, challenge, bytes, have } => {
                if !collect(bytes, have, input) {
                    return Ok(());
                }
                let right = job_key.is_some_and(|key| auth::verify(key, hello, challenge, bytes));
                if !right {
                    return Err(Violation::WrongKey);
                }
                self.phase = Phase::Greeting { bytes: [0; HELLO_LEN], have: 0, trusted: true };
                Ok(())
            }
            Phase::Open => Ok(()),
        }
    }

    fn execute(
        &mut self,
        request: Request,
        conn: ConnId,
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        if let Some(queue) = self.promised.take() {
            let pops = matches!(&request, Request::QueuePop { key } if *key == queue);
            if !pops {
                shared.wake_one(&queue);
            }
        }
        let out = &mut self.outbox;
        match request {
            Request::Validate(magic) if magic == MAGIC => {}
            Request::Validate(_) => return Err(Violation::NoGreeting),
            Request::Ping(nonce) => out.push(&nonce.to_le_bytes())?,
            Request::Set { key, value } => shared.set(key, value),
            Request::MultiSet { keys, values } => {
                for (key, value) in keys.into_iter().zip(values) {
                    shared.set(key, value);
                }
            }
            Request::CompareSet { key, expected, desired } => {
                let (answer, swap) = shared.table.compare_set(key.clone(), expected, desired);
                if swap == Swap::Store {
                    shared.wake_all(&key);
                }
                out.push_blob(&answer)?;
            }
            Request::Append { key, value } => {
                let bytes = value.len();
                shared
                    .table
                    .append(key.clone(), value)
                    .map_err(|refusal| refuse(refusal, bytes))?;
                shared.wake_all(&key);
            }
            Request::Add { key, delta } => out.push(&shared.add(&key, delta)?.to_le_bytes())?,
            Request::Get { key } => push_value(out, shared.table.get(&key))?,
            Request::MultiGet { keys } => {
                for key in &keys {
                    push_value(out, shared.table.get(key))?;
                }
            }
            Request::Check { keys } => {
                let ready = keys.iter().all(|key| shared.table.has(key));
                out.push(&[if ready { protocol::READY } else { protocol::NOT_READY }])?;
            }
            Request::Wait { keys } => match shared.start_waiting(conn, keys)? {
                Some(waiting) => self.waiting = waiting,
                None => out.push(&[protocol::STOP_WAITING])?,
            },
            Request::Barrier { key, world } => match shared.arrive(conn, key, world)? {
                Some(waiting) => self.waiting = waiting,
                None => out.push(&[protocol::STOP_WAITING])?,
            },
            Request::CancelWait => {
                shared.stop_waiting(&mut self.waiting);
                out.push(&[protocol::WAIT_CANCELED])?;
            }
            Request::NumKeys => out.push(&(shared.table.len() as i64).to_le_bytes())?,
            Request::DeleteKey { key } => {
                out.push(&i64::from(shared.table.delete(&key)).to_le_bytes())?;
            }
            Request::QueuePush { key, value } => {
                shared.table.push(key.clone(), value);
                shared.wake_one(&key);
            }
            Request::QueuePop { key } => {
                out.push(&(shared.table.queue_len(&key) as i64).to_le_bytes())?;
                if let Some(value) = shared.table.pop(&key) {
                    out.push_blob(&value)?;
                }
            }
            Request::QueueLen { key } => {
                out.push(&(shared.table.queue_len(&key) as i64).to_le_bytes())?;
            }
            Request::ListKeys => {
                out.push(&(shared.table.len() as u64).to_le_bytes())?;
                for key in shared.table.keys() {
                    out.push_blob(key)?;
                }
            }
        }
        Ok(())
    }
}

fn push_value(out: &mut Outbox, value: Option<&Blob>) -> Result<(), OverQuota> {
    match value {
        Some(value) => out.push_blob(value),
        None => out.push(&0u64.to_le_bytes()),
    }
}

/// Fills `field` from the front of `input`; true when it is full.
fn collect(field: &mut [u8], have: &mut usize, input: &mut &[u8]) -> bool {
    let taken = (field.len() - *have).min(input.len());
    field[*have..*have + taken].copy_from_slice(&input[..taken]);
    *have += taken;
    *input = &input[taken..];
    *have == field.len()
}
