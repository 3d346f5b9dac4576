//! A full mesh over TCP.

mod links;

pub use self::links::TcpLinks;

/// The most data connections a pair may have.
pub const LANES_MAX: usize = 8;
