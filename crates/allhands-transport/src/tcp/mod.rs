//! A full mesh over TCP.
//!
//! Every rank listens on one chosen address ([`Listener::bind`]) and publishes it ([`Endpoint`]). Then all
//! ranks call [`Listener::form`]: of each pair the higher rank dials the lower, both prove the job key,
//! and one or several data connections and one control connection come up. The listener is closed as soon
//! as the mesh is complete.

mod config;
mod conn;
mod control;
mod endpoint;
mod form;
mod gate;
mod links;
mod listener;
mod mesh;
mod seats;
mod tune;

pub use allhands_wire::LANES_MAX;

pub use self::config::{Buffers, Congestion, Membership, TcpConfig};
pub use self::control::TcpControl;
pub use self::endpoint::{ADDRESSES_MAX, ENDPOINT_LEN_MAX, Endpoint};
pub use self::links::TcpLinks;
pub use self::listener::{ListenReport, Listener};
pub use self::mesh::{Mesh, MeshReport, Progress};

/// Lets `descriptor` end a sleep of `poll` as a waker does.
#[cfg(unix)]
fn watch(poll: &mio::Poll, descriptor: std::os::fd::BorrowedFd<'_>) -> std::io::Result<()> {
    let raw = std::os::fd::AsRawFd::as_raw_fd(&descriptor);
    poll.registry().register(&mut mio::unix::SourceFd(&raw), links::WAKE, mio::Interest::READABLE)
}
