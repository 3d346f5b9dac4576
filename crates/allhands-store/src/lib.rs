#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod auth;
mod client;
mod error;
mod file;
mod hash;
pub mod limits;
mod meter;
mod prefix;
mod protocol;
pub mod server;
mod store;
mod table;
mod tcp;
mod time;

pub use auth::JobKey;
pub use client::{
    CANCEL_GRACE, CLIENT_CONNECTIONS_MAX, ClientOptions, Dialect, Endpoint, TcpStore,
};
pub use error::{KeyList, StoreError};
pub use file::{FILE_MAX, FileStore, Users};
pub use hash::HashStore;
pub use prefix::PrefixStore;
pub use server::{ServerOptions, TcpStoreServer};
pub use store::Store;

/// The first bytes of a value, readable, for an error message.
fn excerpt(value: &[u8]) -> String {
    String::from_utf8_lossy(&value[..value.len().min(40)]).into_owned()
}
