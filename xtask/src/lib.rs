//! Developer commands of allhands, as a library so that they can be tested.
//!
//! * [`mod@bench`]: `cargo xtask bench-cluster`, the driver's side.
//! * [`instructions`]: `cargo xtask instructions`, what the hot paths execute.
//! * [`nemesis`]: `cargo xtask nemesis`, faults against real ranks, with figures.
//! * [`hosts`]: `cargo xtask hosts`, all-reduces on several hosts against what the links allow.
//! * [`plan`]: `cargo xtask plan`, a plan as text and drawing.
//! * [`scale`]: `cargo xtask scale`, all-reduces of very many ranks by the cost model.
//! * [`trace`]: `cargo xtask trace`, flight records of many ranks as one Chrome trace.
//! * [`tune`]: `cargo xtask tune`, a table of algorithms made by measurement.
//! * `worker` (feature `worker`): one rank of it, the program `bench-rank`.
//!
//! Knows nothing about sockets between ranks, and judges no speed in its tests.
#![forbid(unsafe_code)]

pub mod bench;
pub mod hosts;
pub mod instructions;
mod layout;
pub mod nemesis;
pub mod plan;
mod program;
pub mod scale;
mod skip;
mod timing;
pub mod trace;
pub mod tune;
#[cfg(feature = "worker")]
pub mod worker;
