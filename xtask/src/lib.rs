//! Developer commands of allhands, as a library so that they can be tested.
//!
//! * [`bench`]: `cargo xtask bench-cluster`, the driver's side.
//! * `worker` (feature `worker`): one rank of it, the program `bench-rank`.
//!
//! Knows nothing about sockets between ranks, and judges no speed in its tests.
#![forbid(unsafe_code)]

pub mod bench;
#[cfg(feature = "worker")]
pub mod worker;
