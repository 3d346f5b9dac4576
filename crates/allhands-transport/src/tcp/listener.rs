//! The address a rank listens on.

use std::fmt;
use std::fs;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use allhands_wire::HostHash;
use mio::net::TcpListener;
use socket2::{Domain, Protocol, Socket, Type};

use super::config::TcpConfig;
use super::endpoint::Endpoint;
use crate::error::TransportError;
use crate::interface::{self, Chosen, Surroundings};

/// Connections that wait for [`Listener::form`]; the operating system may cut it.
const BACKLOG: i32 = 1024;

/// A bound listener. Publish its [`Listener::endpoint`], gather everybody's, and [`Listener::form`] the mesh.
pub struct Listener {
    pub(super) socket: TcpListener,
    pub(super) config: TcpConfig,
    pub(super) report: ListenReport,
    endpoint: Endpoint,
}

/// Where a rank listens, and why there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenReport {
    /// The interface, and why it was chosen.
    pub chosen: Chosen,
    /// The address and port.
    pub address: SocketAddr,
}

impl fmt::Display for ListenReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Chosen { nic, why } = &self.chosen;
        write!(f, "listening on {} of interface {} ({why})", self.address, nic.name)
    }
}

impl Listener {
    /// Chooses an interface and listens on exactly its address. Says once, as an `info` event, what was
    /// chosen and why.
    ///
    /// # Errors
    /// [`TransportError::Interface`] if nothing fits, [`TransportError::Listen`] if no port is free,
    /// [`TransportError::BadEndpoint`] if too many addresses are advertised.
    pub fn bind(config: &TcpConfig) -> Result<Self, TransportError> {
        let wish = config.wish();
        let around = interface::look_around(&wish)?;
        let chosen = interface::choose(&wish, &around)?;
        let (socket, address) = listen_on_any(&chosen, config)?;
        let advertised = [address];
        let addresses =
            if config.advertise.is_empty() { &advertised[..] } else { &config.advertise };
        let endpoint = Endpoint::new(host_for_addresses(&around), addresses)?;
        let report = ListenReport { chosen, address };
        tracing::info!(address = %report.address, interface = %report.chosen.nic.name,
            why = %report.chosen.why, endpoint = %endpoint, "listening for the mesh");
        Ok(Self { socket, config: config.clone(), report, endpoint })
    }

    /// Where this rank listens, for the store.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    /// Where this rank listens, and why there.
    pub fn report(&self) -> &ListenReport {
        &self.report
    }
}

fn listen_on_any(
    chosen: &Chosen,
    config: &TcpConfig,
) -> Result<(TcpListener, SocketAddr), TransportError> {
    let mut last = None;
    for port in config.ports.clone() {
        let address = match chosen.nic.address {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => {
                SocketAddrV6::new(v6, port, 0, chosen.nic.index).into()
            }
            ip => SocketAddr::new(ip, port),
        };
        match listen(address) {
            Ok(bound) => return Ok(bound),
            Err(source) => last = Some(TransportError::Listen { address, source }),
        }
    }
    Err(last.unwrap_or(TransportError::System {
        what: "listen",
        source: std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "the range of ports is empty",
        ),
    }))
}

fn listen(address: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A port whose last connections are in TIME_WAIT may be used again; one that is in use may not.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.into());
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Names the surroundings in which a loopback address means the same: this boot of this host, and on
/// Linux this network namespace.
fn host_for_addresses(around: &Surroundings) -> HostHash {
    match boot_id() {
        Some(mut id) => {
            id.push_str(&namespace("net"));
            HostHash::of(id.as_bytes())
        }
        None => {
            let mut addresses: Vec<String> = around
                .nics
                .iter()
                .filter(|nic| !nic.address.is_loopback())
                .map(|nic| nic.address.to_string())
                .collect();
            addresses.sort();
            HostHash::of(addresses.join(",").as_bytes())
        }
    }
}

/// Names the surroundings in which a process id is unique. The last bytes are the `instance`'s, so that
/// two claims of one rank are told apart even within one process.
pub(super) fn host_for_processes(instance: [u8; 3]) -> HostHash {
    let mut id = boot_id().unwrap_or_default();
    id.push_str(&namespace("pid"));
    let HostHash([a, b, c, d, e, ..]) = HostHash::of(id.as_bytes());
    let [x, y, z] = instance;
    HostHash([a, b, c, d, e, x, y, z])
}

fn boot_id() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()
}

fn namespace(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}"))
        .map_or_else(|_| String::new(), |link| link.to_string_lossy().into_owned())
}
