mod connection;
mod dial;

pub use connection::Dialect;
pub use dial::Endpoint;

use crate::auth::JobKey;
use crate::limits::{self, DEFAULT_TIMEOUT};
use crate::protocol::{INIT_KEY, KEY_PREFIX, Opcode, READY};
use crate::server::{ServerOptions, TcpStoreServer};
use crate::time::{self, Clock, Limit};
use crate::{KeyList, Store, StoreError};
use connection::{Connection, Encoder, Failure};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Connections that one client opens at most. A second one is opened only while the first is busy, for instance
/// waiting for a key on behalf of another thread. Waits leave one free for the requests that end them.
pub const CLIENT_CONNECTIONS_MAX: usize = 64;

/// After a wait has run out, the server has this long to confirm that it is taken back.
pub const CANCEL_GRACE: Duration = Duration::from_secs(5);

/// Rest between two looks for keys when all connections that may wait do so.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// After a wait has run out, the error names which of up to this many keys are missing; above it, all are listed.
const NAMED_MAX: usize = 64;

/// How a [`TcpStore`] connects.
///
/// ```
/// use allhands_store::ClientOptions;
/// use std::time::Duration;
///
/// let options = ClientOptions::new().timeout(Duration::from_secs(30)).world_size(4);
/// ```
#[derive(Debug, Clone)]
pub struct ClientOptions {
    timeout: Duration,
    world_size: u32,
    job_key: Option<JobKey>,
    dialect: Dialect,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self { timeout: DEFAULT_TIMEOUT, world_size: 0, job_key: None, dialect: Dialect::default() }
    }
}

impl ClientOptions {
    /// [`DEFAULT_TIMEOUT`], no world size, no job key, [`Dialect::Torch25`].
    pub fn new() -> Self {
        Self::default()
    }

    /// The limit for connecting, and [`Store::timeout`] afterwards.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// Announces this client on the counter `init/`, as c10d does when it is given a world size; [`TcpStore::host`]
    /// then waits until as many have. 0: neither.
    #[must_use]
    pub fn world_size(mut self, clients: u32) -> Self {
        self.world_size = clients;
        self
    }

    /// Proves and asks for this key. Only our own server understands it.
    #[must_use]
    pub fn job_key(mut self, key: impl Into<JobKey>) -> Self {
        self.job_key = Some(key.into());
        self
    }

    /// Which operations the server knows.
    #[must_use]
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }
}

/// A client of a store server, ours or PyTorch's.
///
/// Threads may share it: while one waits, the others use further connections (at most [`CLIENT_CONNECTIONS_MAX`]).
/// What `set` has returned from is on the server; PyTorch's client only sends it.
///
/// A broken connection is final ([`StoreError::Lost`]): a server that was started anew would know none of the keys.
///
/// ```
/// use allhands_store::{ClientOptions, Store, TcpStore};
/// use allhands_store::server::ServerOptions;
/// use std::time::Duration;
///
/// let options = ClientOptions::new().timeout(Duration::from_secs(10));
/// let host = TcpStore::host("127.0.0.1:0".parse().unwrap(), ServerOptions::new(), options.clone())?;
/// let other = TcpStore::connect(host.endpoint().clone(), options)?;
/// other.set("rank/1", b"ready")?;
/// assert_eq!(host.get("rank/1")?, b"ready");
/// # Ok::<(), allhands_store::StoreError>(())
/// ```
#[derive(Debug)]
pub struct TcpStore {
    endpoint: Endpoint,
    local_ip: Option<IpAddr>,
    options: ClientOptions,
    timeout: Limit,
    pool: Mutex<Pool>,
    freed: Condvar,
    // Last, so that our own connections are closed before the server ends.
    server: Option<TcpStoreServer>,
}

#[derive(Debug)]
struct Pool {
    idle: Vec<Connection>,
    /// Idle and busy ones.
    open: usize,
    /// Those in a wait.
    waiting: usize,
    /// Why the server is lost.
    lost: Option<String>,
}

impl TcpStore {
    /// Connects to the server at `endpoint`, trying until the timeout.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unreachable`] after the timeout; at once [`StoreError::WrongKey`], [`StoreError::KeyRequired`],
    /// [`StoreError::KeyNotAccepted`], or [`StoreError::Protocol`] if something else than a store answers.
    pub fn connect(
        endpoint: impl Into<Endpoint>,
        options: ClientOptions,
    ) -> Result<Self, StoreError> {
        let endpoint = endpoint.into();
        let clock = Clock::start(options.timeout);
        let connection = dial::dial(&endpoint, options.job_key.as_ref(), options.dialect, &clock)?;
        let this = Self {
            endpoint,
            local_ip: connection.local_addr().map(|address| address.ip()),
            timeout: Limit::new(options.timeout),
            pool: Mutex::new(Pool { idle: vec![connection], open: 1, waiting: 0, lost: None }),
            freed: Condvar::new(),
            server: None,
            options,
        };
        if this.options.world_size > 0 {
            let request = Encoder::new(Opcode::Add).bytes(INIT_KEY).number(1).0;
            this.ask("connect", &[], &clock, |connection, clock| {
                connection.send(&request, clock)?;
                connection.number(clock)
            })?;
        }
        Ok(this)
    }

    /// Serves a store on `address` and connects to it; with a [world size](ClientOptions::world_size) it returns when
    /// as many clients, itself included, have come. The store ends with this object.
    ///
    /// The job key of `client` is also asked of the others, unless `server` has its own.
    ///
    /// # Errors
    ///
    /// Those of [`TcpStoreServer::bind`] and [`TcpStore::connect`], and [`StoreError::WorkersMissing`].
    pub fn host(
        address: SocketAddr,
        server: ServerOptions,
        client: ClientOptions,
    ) -> Result<Self, StoreError> {
        let clock = Clock::start(client.timeout);
        let server = match &client.job_key {
            Some(key) => server.or_job_key(key),
            None => server,
        };
        let server = TcpStoreServer::bind(address, server)?;
        let mut own = server.local_addr();
        if own.ip().is_unspecified() {
            own.set_ip(match own.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        let world_size = client.world_size;
        let mut this = Self::connect(own, client)?;
        if world_size > 0 {
            server.wait_for_workers(world_size, clock.left().unwrap_or(Duration::ZERO))?;
        }
        this.server = Some(server);
        Ok(this)
    }

    /// Where the server is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The address from which this host reaches the server, if the system says so: a good address for others to reach
    /// this host, unless the server is on the same one.
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.local_ip
    }

    /// The server, if this object [hosts](TcpStore::host) it.
    pub fn server(&self) -> Option<&TcpStoreServer> {
        self.server.as_ref()
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        // The pool is consistent between calls, so a panic of another thread does not spoil it.
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An idle connection, a new one, or the first that another thread gives back.
    fn take(
        &self,
        operation: &'static str,
        keys: &[&str],
        clock: &Clock,
    ) -> Result<Connection, StoreError> {
        let mut pool = self.pool();
        loop {
            if let Some(cause) = &pool.lost {
                return Err(self.lost(operation, keys, clock, cause.clone()));
            }
            if let Some(connection) = pool.idle.pop() {
                return Ok(connection);
            }
            if pool.open < CLIENT_CONNECTIONS_MAX {
                pool.open += 1;
                drop(pool);
                let limit = clock.left().unwrap_or(Duration::ZERO).max(CANCEL_GRACE);
                let ClientOptions { job_key, dialect, .. } = &self.options;
                let dialed =
                    dial::dial(&self.endpoint, job_key.as_ref(), *dialect, &Clock::start(limit));
                return dialed.inspect_err(|_| {
                    self.pool().open -= 1;
                    self.freed.notify_one();
                });
            }
            let Some(left) = clock.left() else {
                return Err(self.no_answer(operation, keys, clock));
            };
            pool = self.freed.wait_timeout(pool, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lost(
        &self,
        operation: &'static str,
        keys: &[&str],
        clock: &Clock,
        cause: String,
    ) -> StoreError {
        StoreError::Lost {
            operation,
            keys: KeyList::new(keys),
            store: self.endpoint.to_string(),
            elapsed: clock.elapsed(),
            cause,
        }
    }

    fn no_answer(&self, operation: &'static str, keys: &[&str], clock: &Clock) -> StoreError {
        StoreError::NoAnswer {
            operation,
            keys: KeyList::new(keys),
            store: self.endpoint.to_string(),
            elapsed: clock.elapsed(),
            limit: clock.limit(),
        }
    }

    /// Runs one exchange on a connection of the pool, and turns its failure into an error that says where and what.
    fn ask<R>(
        &self,
        operation: &'static str,
        keys: &[&str],
        clock: &Clock,
        exchange: impl FnOnce(&mut Connection, &Clock) -> Result<R, Failure>,
    ) -> Result<R, StoreError> {
        let mut connection = self.take(operation, keys, clock)?;
        let result = exchange(&mut connection, clock);
        let mut pool = self.pool();
        let failure = match result {
            Ok(result) => {
                pool.idle.push(connection);
                drop(pool);
                self.freed.notify_one();
                return Ok(result);
            }
            Err(failure) => failure,
        };
        pool.open -= 1;
        let error = match failure {
            Failure::Late => self.no_answer(operation, keys, clock),
            Failure::Nonsense(what) => {
                StoreError::Protocol { operation, store: self.endpoint.to_string(), what }
            }
            Failure::Broken(error) => {
                let cause = error.to_string();
                pool.lost.get_or_insert_with(|| cause.clone());
                pool.open -= pool.idle.len();
                pool.idle.clear();
                self.lost(operation, keys, clock, cause)
            }
            Failure::WrongKey | Failure::KeyNotAccepted | Failure::KeyRequired => {
                self.lost(operation, keys, clock, "it refuses the job key".to_owned())
            }
        };
        drop(pool);
        self.freed.notify_all();
        Err(error)
    }

    /// A request with the general timeout.
    fn call<R>(
        &self,
        operation: &'static str,
        keys: &[&str],
        request: &[u8],
        reply: impl FnOnce(&mut Connection, &Clock) -> Result<R, Failure>,
    ) -> Result<R, StoreError> {
        self.ask(operation, keys, &Clock::start(self.timeout()), |connection, clock| {
            connection.send(request, clock)?;
            reply(connection, clock)
        })
    }

    /// A request without a reply.
    fn tell(
        &self,
        operation: &'static str,
        keys: &[&str],
        request: Encoder,
    ) -> Result<(), StoreError> {
        self.ask(operation, keys, &Clock::start(self.timeout()), |connection, clock| {
            connection.acknowledged(request.0, clock)
        })
    }

    /// WAIT or BARRIER: true when it came to pass, `None` when too many connections wait already.
    fn waits(
        &self,
        operation: &'static str,
        keys: &[&str],
        request: &[u8],
        clock: &Clock,
    ) -> Result<Option<bool>, StoreError> {
        {
            let mut pool = self.pool();
            if pool.waiting + 1 >= CLIENT_CONNECTIONS_MAX {
                return Ok(None);
            }
            pool.waiting += 1;
        }
        let result = self.ask(operation, keys, clock, |connection, clock| {
            connection.await_condition(request, clock, CANCEL_GRACE)
        });
        self.pool().waiting -= 1;
        result.map(Some)
    }

    fn wait_for(
        &self,
        operation: &'static str,
        keys: &[&str],
        clock: &Clock,
    ) -> Result<(), StoreError> {
        check_keys(keys)?;
        let request = Encoder::new(Opcode::Wait).keys(keys).0;
        loop {
            let found = match self.waits(operation, keys, &request, clock)? {
                Some(found) => found,
                None => self.check_within(keys, &Self::rest(clock))?,
            };
            if found {
                return Ok(());
            }
            if clock.left().is_none() {
                return Err(self.timed_out(operation, self.missing(keys), clock));
            }
            time::rest(LOOK_AGAIN, clock);
        }
    }

    fn timed_out(&self, operation: &'static str, missing: KeyList, clock: &Clock) -> StoreError {
        StoreError::Timeout {
            operation,
            missing,
            store: self.endpoint.to_string(),
            elapsed: clock.elapsed(),
            limit: clock.limit(),
        }
    }

    /// Which of `keys` are absent, for an error message; all if it cannot be found out.
    fn missing(&self, keys: &[&str]) -> KeyList {
        let mut missing = keys.to_vec();
        if keys.len() > 1 && keys.len() <= NAMED_MAX {
            let clock = Clock::start(CANCEL_GRACE);
            missing.retain(|key| !matches!(self.check_within(&[key], &clock), Ok(true)));
        }
        // The last one may have come just now.
        KeyList::new(if missing.is_empty() { keys } else { &missing })
    }

    fn check_within(&self, keys: &[&str], clock: &Clock) -> Result<bool, StoreError> {
        let request = Encoder::new(Opcode::Check).keys(keys).0;
        self.ask("check", keys, clock, |connection, clock| {
            connection.send(&request, clock)?;
            Ok(connection.byte(clock)? == READY)
        })
    }

    /// The rest of a blocking call has at least the grace: the key is there, the answer only has to arrive.
    fn rest(clock: &Clock) -> Clock {
        Clock::start(clock.left().unwrap_or(Duration::ZERO).max(CANCEL_GRACE))
    }
}

fn check_keys(keys: &[&str]) -> Result<(), StoreError> {
    limits::check_count(keys.len())?;
    keys.iter().try_for_each(|key| limits::check_key(key, 1))
}

impl Store for TcpStore {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        limits::check_key(key, 1)?;
        limits::check_value(key, value)?;
        self.tell("set", &[key], Encoder::new(Opcode::Set).key(key).bytes(value))
    }

    fn get_within(&self, key: &str, limit: Duration) -> Result<Vec<u8>, StoreError> {
        let clock = Clock::start(limit);
        self.wait_for("get", &[key], &clock)?;
        let request = Encoder::new(Opcode::Get).key(key).0;
        self.ask("get", &[key], &Self::rest(&clock), |connection, clock| {
            connection.send(&request, clock)?;
            connection.value(clock)
        })
    }

    fn add(&self, key: &str, delta: i64) -> Result<i64, StoreError> {
        limits::check_key(key, 1)?;
        let request = Encoder::new(Opcode::Add).key(key).number(delta as u64).0;
        self.call("add", &[key], &request, Connection::number)
    }

    fn compare_set(
        &self,
        key: &str,
        expected: &[u8],
        desired: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        limits::check_key(key, 1)?;
        limits::check_value(key, expected)?;
        limits::check_value(key, desired)?;
        let request = Encoder::new(Opcode::CompareSet).key(key).bytes(expected).bytes(desired).0;
        self.call("compare_set", &[key], &request, Connection::value)
    }

    fn delete_key(&self, key: &str) -> Result<bool, StoreError> {
        limits::check_key(key, 1)?;
        let request = Encoder::new(Opcode::DeleteKey).key(key).0;
        Ok(self.call("delete_key", &[key], &request, Connection::number)? > 0)
    }

    fn num_keys(&self) -> Result<u64, StoreError> {
        self.call("num_keys", &[], &Encoder::new(Opcode::NumKeys).0, Connection::count)
    }

    fn check(&self, keys: &[&str]) -> Result<bool, StoreError> {
        check_keys(keys)?;
        self.check_within(keys, &Clock::start(self.timeout()))
    }

    fn wait(&self, keys: &[&str], limit: Duration) -> Result<(), StoreError> {
        self.wait_for("wait", keys, &Clock::start(limit))
    }

    fn append(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        limits::check_key(key, 1)?;
        limits::check_value(key, value)?;
        self.tell("append", &[key], Encoder::new(Opcode::Append).key(key).bytes(value))
    }

    fn multi_get(&self, keys: &[&str]) -> Result<Vec<Vec<u8>>, StoreError> {
        let clock = Clock::start(self.timeout());
        self.wait_for("multi_get", keys, &clock)?;
        let request = Encoder::new(Opcode::MultiGet).keys(keys).0;
        self.ask("multi_get", keys, &Self::rest(&clock), |connection, clock| {
            connection.send(&request, clock)?;
            keys.iter().map(|_| connection.value(clock)).collect()
        })
    }

    fn multi_set(&self, entries: &[(&str, &[u8])]) -> Result<(), StoreError> {
        let keys: Vec<_> = entries.iter().map(|(key, _)| *key).collect();
        check_keys(&keys)?;
        let mut request = Encoder::new(Opcode::MultiSet).number(entries.len() as u64);
        for (key, value) in entries {
            limits::check_value(key, value)?;
            request = request.key(key).bytes(value);
        }
        self.tell("multi_set", &keys, request)
    }

    fn queue_push(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        limits::check_key(key, 1)?;
        limits::check_value(key, value)?;
        self.tell("queue_push", &[key], Encoder::new(Opcode::QueuePush).key(key).bytes(value))
    }

    fn queue_pop_within(&self, key: &str, limit: Duration) -> Result<Vec<u8>, StoreError> {
        let clock = Clock::start(limit);
        loop {
            self.wait_for("queue_pop", &[key], &clock)?;
            // Another client may have been faster, then we wait again.
            if let Some(value) = self.queue_try_pop(key)? {
                return Ok(value);
            }
            if clock.left().is_none() {
                return Err(self.timed_out("queue_pop", KeyList::new(&[key]), &clock));
            }
        }
    }

    fn queue_try_pop(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        limits::check_key(key, 1)?;
        let request = Encoder::new(Opcode::QueuePop).key(key).0;
        self.call("queue_pop", &[key], &request, |connection, clock| {
            let length = connection.number(clock)?;
            if length > 0 { connection.value(clock).map(Some) } else { Ok(None) }
        })
    }

    fn queue_len(&self, key: &str) -> Result<u64, StoreError> {
        limits::check_key(key, 1)?;
        let request = Encoder::new(Opcode::QueueLen).key(key).0;
        self.call("queue_len", &[key], &request, Connection::count)
    }

    fn list_keys(&self) -> Result<Vec<String>, StoreError> {
        let request = Encoder::new(Opcode::ListKeys).0;
        let raw = self.call("list_keys", &[], &request, Connection::key_list)?;
        let mut keys: Vec<_> = raw
            .iter()
            .filter_map(|key| key.strip_prefix(&[KEY_PREFIX]))
            .map(|key| String::from_utf8_lossy(key).into_owned())
            .collect();
        keys.sort_unstable();
        Ok(keys)
    }

    fn barrier(&self, key: &str, world_size: u32, limit: Duration) -> Result<(), StoreError> {
        limits::check_key(key, 1)?;
        let clock = Clock::start(limit);
        if self.options.dialect >= Dialect::Torch215 {
            let world = u64::from(world_size);
            let request = Encoder::new(Opcode::Barrier).key(key).number(world).0;
            loop {
                if self.waits("barrier", &[key], &request, &clock)? == Some(true) {
                    return Ok(());
                }
                if clock.left().is_none() {
                    return Err(self.timed_out("barrier", KeyList::new(&[key]), &clock));
                }
                // No connection was free to arrive on.
                time::rest(LOOK_AGAIN, &clock);
            }
        }
        let released = format!("{key}/released");
        if self.add(key, 1)? >= i64::from(world_size) {
            return self.set(&released, b"");
        }
        self.wait_for("barrier", &[&released], &clock)
    }

    fn timeout(&self) -> Duration {
        self.timeout.load()
    }

    fn set_timeout(&self, limit: Duration) {
        self.timeout.store(limit);
    }
}
