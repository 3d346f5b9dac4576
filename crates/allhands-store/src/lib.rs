//! Rendezvous stores: HashStore, FileStore, PrefixStore and TcpStore in PyTorch's wire format.

#![forbid(unsafe_code)]

mod error;
mod hash;
pub mod limits;
mod meter;
mod prefix;
mod store;
mod table;
mod time;

pub use error::{KeyList, StoreError};
pub use hash::HashStore;
pub use prefix::PrefixStore;
pub use store::Store;

/// The first bytes of a value, readable, for an error message.
fn excerpt(value: &[u8]) -> String {
    String::from_utf8_lossy(&value[..value.len().min(40)]).into_owned()
}
