//! Socket options.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::time::Duration;

use mio::net::TcpStream;
use socket2::SockRef;

use super::config::{Buffers, Congestion, TcpConfig};

/// Buffer of a data connection within one host, in bytes each way. On the reference machine from 256 KiB
/// on the rate hardly changes; the operating system's tuning starts lower and has to grow first.
const SAME_HOST_BUFFER: usize = 1 << 20;

/// A control connection whose bytes stay unacknowledged this long is dead: its peer's host is gone. (A
/// stopped process does not count: its host acknowledges.) Never set on data connections, where a peer
/// that does not read for a while is healthy.
#[cfg(any(target_os = "linux", target_os = "android"))]
const CONTROL_UNACKNOWLEDGED_LIMIT: Duration = Duration::from_secs(10);

/// What every connection needs at once: no waiting for more bytes to send.
pub(super) fn at_start(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)
}

/// Whether a connection leads to an address of its own host.
pub(super) fn is_same_host(stream: &TcpStream) -> bool {
    let (near, far) = (stream.local_addr(), stream.peer_addr());
    let ip = |at: io::Result<SocketAddr>| -> Option<IpAddr> { Some(at.ok()?.ip()) };
    match (ip(near), ip(far)) {
        (Some(near), Some(far)) => near == far || (near.is_loopback() && far.is_loopback()),
        _ => false,
    }
}

/// Options of a data connection whose peer is proven. All are wishes: a connection works without.
pub(super) fn data(stream: &TcpStream, config: &TcpConfig) {
    let socket = SockRef::from(stream);
    let same_host = is_same_host(stream);
    let bytes = match config.buffers {
        Buffers::Auto if same_host && largest_buffer() >= SAME_HOST_BUFFER => SAME_HOST_BUFFER,
        Buffers::Auto | Buffers::System => 0,
        Buffers::Bytes(bytes) => bytes,
    };
    if bytes > 0 {
        let set = socket.set_send_buffer_size(bytes).and(socket.set_recv_buffer_size(bytes));
        if let Err(error) = set {
            tracing::warn!(bytes, %error, "socket buffer size not set");
        }
    }
    set_congestion(&socket, &config.congestion, same_host);
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn set_congestion(socket: &SockRef<'_>, wanted: &Congestion, same_host: bool) {
    let (name, named) = match wanted {
        Congestion::Auto if same_host => ("reno", false),
        Congestion::Auto | Congestion::System => return,
        Congestion::Named(name) => (name.as_str(), true),
    };
    if let Err(error) = socket.set_tcp_congestion(name.as_bytes()) {
        static TOLD: OnceLock<()> = OnceLock::new();
        if named && TOLD.set(()).is_ok() {
            tracing::warn!(name, %error, "congestion control not available, the system's is used");
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn set_congestion(_: &SockRef<'_>, _: &Congestion, _: bool) {}

/// Options of a control connection whose peer is proven.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn control(stream: &TcpStream) {
    let limit = Some(CONTROL_UNACKNOWLEDGED_LIMIT);
    if let Err(error) = SockRef::from(stream).set_tcp_user_timeout(limit) {
        tracing::debug!(%error, "TCP_USER_TIMEOUT not set");
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn control(_: &TcpStream) {}

/// The largest buffer that a process without privileges gets, in bytes.
fn largest_buffer() -> usize {
    static LARGEST: OnceLock<usize> = OnceLock::new();
    let limit = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/core/{name}")).ok()?;
        text.trim().parse::<usize>().ok()
    };
    *LARGEST.get_or_init(|| match (limit("rmem_max"), limit("wmem_max")) {
        (Some(read), Some(write)) => read.min(write),
        _ => 0,
    })
}
