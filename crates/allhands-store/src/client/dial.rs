//! Finding and reaching the server.

use super::connection::{Connection, Dialect, Failure};
use crate::StoreError;
use crate::auth::JobKey;
use crate::time::{self, Clock};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::time::Duration;

/// Rest between two attempts: doubles from the first to the second.
const REST_MIN: Duration = Duration::from_millis(10);
const REST_MAX: Duration = Duration::from_millis(500);

/// An attempt that hangs longer than this is given up for a new one.
const ATTEMPT_MAX: Duration = Duration::from_secs(10);

/// Where a server is: `host:port`, resolved anew for each attempt, since names may appear late on a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
}

impl Endpoint {
    /// A host name or address, and a port.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// The host name or address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::new(address.ip().to_string(), address.port())
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Tries until there is a connection or the time is over.
pub(super) fn dial(
    endpoint: &Endpoint,
    job_key: Option<&JobKey>,
    dialect: Dialect,
    clock: &Clock,
) -> Result<Connection, StoreError> {
    let mut attempts = 0;
    let mut rest = REST_MIN;
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    let mut addresses = Vec::new();
    loop {
        match resolve(endpoint, clock) {
            Ok(found) => addresses = found,
            // What was right a moment ago is still worth a try.
            Err(error) if addresses.is_empty() => last = error,
            Err(_) => {}
        }
        for address in &addresses {
            let Some(left) = clock.left() else { break };
            attempts += 1;
            match Connection::open(address, job_key, dialect, &Clock::start(left.min(ATTEMPT_MAX)))
            {
                Ok(connection) => return Ok(connection),
                Err(Failure::Broken(error)) => last = error,
                Err(Failure::Late) => last = io::ErrorKind::TimedOut.into(),
                Err(Failure::WrongKey) => {
                    return Err(StoreError::WrongKey { store: endpoint.to_string() });
                }
                Err(Failure::KeyNotAccepted) => {
                    return Err(StoreError::KeyNotAccepted { store: endpoint.to_string() });
                }
                Err(Failure::KeyRequired) => {
                    return Err(StoreError::KeyRequired { store: endpoint.to_string() });
                }
                Err(Failure::Nonsense(what)) => {
                    return Err(StoreError::Protocol {
                        operation: "connect",
                        store: endpoint.to_string(),
                        what,
                    });
                }
            }
        }
        time::rest(rest, clock);
        if clock.left().is_none() {
            return Err(StoreError::Unreachable {
                store: endpoint.to_string(),
                attempts,
                elapsed: clock.elapsed(),
                limit: clock.limit(),
                source: last,
            });
        }
        rest = (rest * 2).min(REST_MAX);
    }
}

/// Asks the resolver on a thread of its own, because it cannot be given a deadline.
fn resolve(endpoint: &Endpoint, clock: &Clock) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = endpoint.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, endpoint.port)]);
    }
    let left = clock.left().ok_or(io::ErrorKind::TimedOut)?;
    let (sender, receiver) = mpsc::sync_channel(1);
    let name = (endpoint.host.clone(), endpoint.port);
    std::thread::Builder::new().name("allhands-resolve".to_owned()).spawn(move || {
        // Nobody listens any more when the deadline has passed.
        let _ = sender.send(name.to_socket_addrs().map(Iterator::collect));
    })?;
    receiver.recv_timeout(left).map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
