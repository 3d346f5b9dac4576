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
