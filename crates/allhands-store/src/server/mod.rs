//! The server: [`TcpStoreServer`] on a thread, or [`Core`] alone, which is pure.
//!
//! # Limits
//!
//! Nothing that a client sends makes the server grow without bound. Lengths are checked before anything is allocated,
//! memory follows the bytes that arrived, and everything alive (keys, values, queues, unfinished requests, waits,
//! replies) is charged against one quota. Each byte is looked at once, wherever the network cuts it. Who exceeds a
//! limit is closed; the protocol has no error replies. Who does not greet within [`GREETING_LIMIT`] is closed; of those
//! at most [`STRAYS_MAX`] are kept, and the oldest goes first.
//!
//! # Trust
//!
//! PyTorch's protocol has no authentication: whoever reaches the port reads and writes all keys. With a
//! [job key](ServerOptions::job_key) the server asks each client for proof of it, before anything else; PyTorch's own
//! clients cannot give one and are refused. The challenge authenticates the peer at connection time. What follows is
//! neither encrypted nor signed.

mod core;
mod driver;
mod outbox;
mod parse;
#[cfg(test)]
mod tests;

pub use self::core::{ConnId, Core, CoreConfig, OUTPUT_PAUSE, Violation};

use crate::StoreError;
use crate::auth::JobKey;
use crate::limits::STORE_QUOTA;
use crate::time::Clock;
use driver::{Driver, LISTENER, WAKER};
use mio::{Interest, Poll, Waker};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A connection that has not sent its greeting after this long is closed.
pub const GREETING_LIMIT: Duration = Duration::from_secs(2);

/// Connections without a greeting that are kept at once.
pub const STRAYS_MAX: usize = 48;

/// Connections kept at once unless told otherwise.
pub const CONNECTIONS_MAX: usize = 65_536;

/// Bytes read from one connection before the next has its turn.
pub const READ_BUDGET: usize = 256 << 10;

/// Bytes written to one connection before the next has its turn.
pub const WRITE_BUDGET: usize = 1 << 20;

/// Connections accepted before the others have their turn.
pub const ACCEPT_BUDGET: usize = 64;

/// Rest after accepting failed for want of descriptors.
pub const ACCEPT_BACKOFF: Duration = Duration::from_millis(10);

/// At most one log line about refused connections in this time.
pub const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Connections that may wait to be accepted; the system cuts it to its own maximum.
const BACKLOG: i32 = 65_535;

/// How a [`TcpStoreServer`] behaves.
///
/// ```
/// use allhands_store::server::ServerOptions;
///
/// let options = ServerOptions::new().job_key([7; 32]).quota(64 << 20).connections_max(1000);
/// ```
#[derive(Debug, Clone)]
pub struct ServerOptions {
    job_key: Option<JobKey>,
    quota: usize,
    connections_max: usize,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self { job_key: None, quota: STORE_QUOTA, connections_max: CONNECTIONS_MAX }
    }
}

impl ServerOptions {
    /// No job key, [`STORE_QUOTA`], [`CONNECTIONS_MAX`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks every client for this key. PyTorch's clients are refused then.
    #[must_use]
    pub fn job_key(mut self, key: impl Into<JobKey>) -> Self {
        self.job_key = Some(key.into());
        self
    }

    /// Asks for `key` if no other is set.
    pub(crate) fn or_job_key(mut self, key: &JobKey) -> Self {
        self.job_key.get_or_insert_with(|| key.clone());
        self
    }

    /// Bytes in use at once.
    #[must_use]
    pub fn quota(mut self, bytes: usize) -> Self {
        self.quota = bytes;
        self
    }

    /// Connections at once.
    #[must_use]
    pub fn connections_max(mut self, connections: usize) -> Self {
        self.connections_max = connections;
        self
    }
}

/// A store server on its own thread, for our clients and for PyTorch's. Ends when dropped.
///
/// ```
/// use allhands_store::server::{ServerOptions, TcpStoreServer};
/// use allhands_store::{ClientOptions, Store, TcpStore};
///
/// let server = TcpStoreServer::bind("127.0.0.1:0".parse().unwrap(), ServerOptions::new())?;
/// let store = TcpStore::connect(server.local_addr(), ClientOptions::new())?;
/// store.set("hello", b"world")?;
/// assert_eq!(store.get("hello")?, b"world");
/// # Ok::<(), allhands_store::StoreError>(())
/// ```
#[derive(Debug)]
pub struct TcpStoreServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
    /// The process that has the thread: a fork copies the handle alone.
    process: u32,
}

/// What the thread and the handle share.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    connections: AtomicUsize,
    used: AtomicUsize,
    keys: AtomicUsize,
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Debug, Default, Clone, Copy)]
struct Progress {
    joined: i64,
    connections: usize,
    ended: bool,
}

impl Shared {
    fn joined(&self, joined: i64) {
        let connections = self.connections.load(Ordering::Relaxed);
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if progress.joined != joined || progress.connections != connections {
            progress.joined = joined;
            progress.connections = connections;
            drop(progress);
            self.changed.notify_all();
        }
    }

    fn ended(&self) {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.changed.notify_all();
    }
}

impl TcpStoreServer {
    /// Listens on exactly `address`; port 0 takes any free one. `[::]` serves IPv4 clients too where the system allows.
    ///
    /// # Errors
    ///
    /// [`StoreError::AddressInUse`], [`StoreError::Bind`], or [`StoreError::System`].
    pub fn bind(address: SocketAddr, options: ServerOptions) -> Result<Self, StoreError> {
        let listener = listen(address).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => StoreError::AddressInUse { address: address.to_string() },
            _ => StoreError::Bind { address: address.to_string(), source },
        })?;
        let system = |action| move |source| StoreError::System { action, source };
        let bound = listener.local_addr().map_err(system("learn the bound address"))?;
        let mut listener = mio::net::TcpListener::from_std(listener);
        let poll = Poll::new().map_err(system("make a poll"))?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(system("make a waker"))?;
        poll.registry()
            .register(&mut listener, LISTENER, Interest::READABLE)
            .map_err(system("watch the listener"))?;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| system("draw random bytes")(error.into()))?;
        let ServerOptions { job_key, quota, connections_max } = options;
        let core = Core::new(CoreConfig { job_key, seed, quota });
        let shared = Arc::new(Shared::default());
        let driver = Driver::new(poll, listener, core, Arc::clone(&shared), connections_max);
        let thread = std::thread::Builder::new()
            .name("allhands-store".to_owned())
            .spawn(move || driver.run())
            .map_err(system("start the server thread"))?;
        tracing::info!(address = %bound, "store server listens");
        Ok(Self {
            address: bound,
            shared,
            waker,
            thread: Some(thread),
            process: std::process::id(),
        })
    }

    /// Where it listens, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Connections that have greeted.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Bytes charged against the quota.
    pub fn used(&self) -> usize {
        self.shared.used.load(Ordering::Relaxed)
    }

    /// Keys stored, of all prefixes.
    pub fn keys(&self) -> usize {
        self.shared.keys.load(Ordering::Relaxed)
    }

    /// Returns when `expected` clients with a world size have announced themselves, at most `limit` from now.
    ///
    /// # Errors
    ///
    /// [`StoreError::WorkersMissing`] says how many came.
    pub fn wait_for_workers(&self, expected: u32, limit: Duration) -> Result<(), StoreError> {
        let clock = Clock::start(limit);
        let reached = |progress: &Progress| progress.joined >= i64::from(expected);
        let joined = self.wait_until(&clock, reached);
        joined.map(drop).map_err(|progress| StoreError::WorkersMissing {
            joined: progress.joined,
            expected,
            store: self.address.to_string(),
            elapsed: clock.elapsed(),
            limit,
        })
    }

    /// Returns when at most `rest` connections are left, at most `limit` from now; says how many are. The process that
    /// serves the store calls it before it exits, so that slower ranks do not lose the store under their feet.
    pub fn drain(&self, rest: usize, limit: Duration) -> usize {
        match self.wait_until(&Clock::start(limit), |progress| progress.connections <= rest) {
            Ok(progress) | Err(progress) => progress.connections,
        }
    }

    fn wait_until(
        &self,
        clock: &Clock,
        reached: impl Fn(&Progress) -> bool,
    ) -> Result<Progress, Progress> {
        let mut progress = self.shared.progress.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if reached(&progress) {
                return Ok(*progress);
            }
            let Some(left) = clock.left().filter(|_| !progress.ended) else {
                return Err(*progress);
            };
            progress = self
                .shared
                .changed
                .wait_timeout(progress, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Drop for TcpStoreServer {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // A forked copy has no thread to stop, and would wait for one.
            std::mem::forget(self.thread.take());
            return;
        }
        self.shared.stop.store(true, Ordering::Release);
        let woken = self.waker.wake();
        if let Some(thread) = self.thread.take()
            && woken.is_ok()
        {
            // A panic of the thread has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // On Windows this option would let a second server take the port over.
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
