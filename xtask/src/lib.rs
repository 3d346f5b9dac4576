//! Developer commands of allhands, as a library so that they can be tested.
//!
//! * [`mod@bench`]: `cargo xtask bench-cluster`, the driver's side.
//! * [`instructions`]: `cargo xtask instructions`, what the hot paths execute.
//! * [`nemesis`]: `cargo xtask nemesis`, faults against real ranks, with figures.
//! * [`plan`]: `cargo xtask plan`, a plan as text and drawing.
//! * `worker` (feature `worker`): one rank of it, the program `bench-rank`.
//!
//! Knows nothing about sockets between ranks, and judges no speed in its tests.
#![forbid(unsafe_code)]

pub mod bench;
pub mod instructions;
pub mod nemesis;
pub mod plan;
mod program;
#[cfg(feature = "worker")]
pub mod worker;
