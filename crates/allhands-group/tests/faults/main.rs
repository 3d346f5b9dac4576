//! How a group fails: every fault ends in an error that names its cause, on every rank, in time.
//!
//! Ranks are threads of this process or processes started from this program. Limits are ten times what
//! is promised, or more: nothing here judges speed; `cargo xtask nemesis` does.
#![allow(missing_docs, clippy::print_stderr, reason = "test code")]

#[path = "../common/ranks.rs"]
mod ranks;
mod stage;

mod abort;
mod exit;
mod flood;
mod kill;
mod meeting;
mod mismatch;
mod soak;
mod sparse;
mod stop;
mod timeout;
