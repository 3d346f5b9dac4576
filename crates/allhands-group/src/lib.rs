//! Process groups: rendezvous, every collective, blocking and async, errors that name the rank.
//!
//! [`ProcessGroup::from_env`] joins the group that a launcher describes; [`ProcessGroup::connect`] meets through any store;
//! [`ProcessGroup::local`] makes ranks of threads. Blocking verbs borrow slices, arrays, vectors and tensors; `_async` verbs
//! take tensors and return [`Work`], which gives them back and is also a future.

#![forbid(unsafe_code)]

mod config;
pub mod env;
mod error;
mod group;
mod memory;
mod scope;
mod sparse;
mod verbs;
mod work;

pub use allhands_collectives::{
    CHANNELS, CallFacts, CallOptions, Context, DEFAULT_TIMEOUT, Error as OperationError,
    FlightRecord, Invalid, Operation, RECORD_ENTRIES, RECORD_ENTRIES_MAX, RecordConfig, Refusal,
    Side, SparseSide,
};
pub use allhands_plan::{Algorithm, Determinism, Rank, Table, TableError};
/// Flight records: what [`ProcessGroup::flight_record`] gives, and what reads and merges them.
pub use allhands_record as record;
/// Stores through which ranks meet: what [`ProcessGroup::connect`] takes.
pub use allhands_store as store;
pub use allhands_tensor::{
    DType, Element, ReduceOp, SparseError, SparseTensor, Tensor, TensorMut, TensorRef,
};
/// The mesh over TCP: what [`Config::tcp`] takes and [`Error::Transport`] tells.
pub use allhands_transport as transport;
pub use allhands_wire::{JobKey, KeyError};
pub use config::{Config, DEFAULT_RENDEZVOUS_TIMEOUT, Hierarchy, TableChoice, Transport};
pub use error::Error;
pub use group::ProcessGroup;
pub use scope::Scope;
pub use work::{Work, WorkError};

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
