//! Runs collective plans: pure, bytes and time in, actions out.
//!
//! An [`Engine`] is one rank's half of every operation in flight. It knows neither sockets nor threads nor
//! clocks: a driver hands it bytes that came ([`Engine::handle`], [`Engine::window`]), asks it for bytes to
//! send ([`Engine::outgoing`]), tells it the time ([`Engine::handle_time`]) and collects operations that have
//! ended ([`Engine::poll_finished`]). The same code runs over TCP, between threads, and in tests that delay,
//! split and reorder.
//!
//! # Invariants
//! - An operation is named by (group, epoch, channel, sequence). Inside one channel all ranks submit the same
//!   operations in the same order; channels are independent of each other.
//! - Every frame carries its operation's fingerprint. One that names another operation than this rank runs
//!   under that number is a mismatch: both sides learn both descriptions, and every member of the group does.
//! - From submission on, every message of an operation has a place: in its buffer if its step is active, else
//!   beside it. Only frames of operations that are not submitted here use the pool, which is bounded per peer.
//! - Bytes are reduced in the order that the plan says, never in the order in which they come.
//! - An operation that has ended has given its memory back, and no frame refers to it.
//! - Any failure breaks the whole group, after a moment in which the best explanation wins.

#![forbid(unsafe_code)]

mod advance;
mod buffers;
mod config;
mod credit;
mod engine;
mod error;
mod failure;
pub mod flat;
mod footprint;
mod inbound;
mod op;
mod outbound;
mod point;
mod spare;
mod time;

pub use buffers::{REDUCE_BLOCK, Space, Storage};
pub use config::Config;
pub use engine::{Engine, Finished, GroupKey, GroupSpec, Loans, Pull};
pub use error::{Failure, Refusal, Refused, Violation};
pub use failure::ControlOut;
pub use footprint::Footprint;
pub use op::{LoanBase, OpKey, PointSubmission, Prepared, Submission};
pub use outbound::{POINT_CHANNEL, Slices};
pub use point::{Looked, SHORT_MESSAGE_MAX, ShortMessage};

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
