//! Golden data of torch's gloo collectives, and the harness that runs them against an implementation.
//!
//! Reference results would be worth little if they came from the code under test, so they come from torch:
//! [`golden::load`] reads what torch 2.15 computed for about a thousand calls on worlds of two to five ranks, and
//! [`refusal::load`] what it refuses. An implementation is shown to the harness as a [`DenseGroup`]: bytes in, bytes
//! out, one value per rank. [`run_rank`] runs every case that fits the group's world on one rank, whether that rank is a
//! thread or a process, and yields a [`RankReport`]; [`Tally::merge`] joins the reports of all ranks, checks that the
//! ranks agree bit for bit where they have to, and prints one line per kind of call.
//!
//! ```
//! use allhands_oracles::{Tally, Witness, golden, naive, run_rank};
//!
//! let cases = golden::load()?;
//! let witness = Witness::shared();
//! let reports: Vec<_> = std::thread::scope(|scope| {
//!     let (cases, witness) = (&cases, &witness);
//!     let ranks: Vec<_> = (2..=5)
//!         .flat_map(naive::world)
//!         .map(|mut group| scope.spawn(move || run_rank(cases, &mut group, witness)))
//!         .collect();
//!     ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
//! });
//! let tally = Tally::merge(&cases, &reports);
//! assert_eq!(tally.failed(), 0, "{tally}");
//! # Ok::<(), allhands_oracles::OracleError>(())
//! ```
//!
//! Everything here is for tests. The crate is not published and no published crate depends on it outside its tests.

#![forbid(unsafe_code)]

mod case;
mod compare;
mod coordinates;
mod error;
pub mod golden;
mod group;
pub mod hosts;
pub mod naive;
pub mod refusal;
mod run;
mod tally;

pub use case::{Case, Kind, Programs, SparseSum, Splits};
pub use compare::{Comparison, Mismatch, Tolerance};
pub use coordinates::Coordinates;
pub use error::OracleError;
pub use group::{Action, DenseGroup, Received, WaitOrder};
pub use run::{CaseResult, Outcome, RankReport, Witness, run_rank};
pub use tally::Tally;

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
