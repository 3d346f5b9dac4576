//! Drives the engine over links: whoever waits drives, a service thread does the rest.
//!
//! A [`Mesh`] is one process's connections to its peers; a [`Communicator`] is a group of ranks on it. Every
//! collective is a [`Spec`] with buffers: borrowed for [`Communicator::run`], owned for [`Communicator::start`], lent for a
//! while in [`Communicator::scope`]. Errors say who called what, and who is missing or to blame.

#![forbid(unsafe_code)]

mod board;
mod cell;
mod communicator;
mod core;
mod describe;
mod error;
mod inline;
mod memory;
mod mesh;
mod operation;
mod pending;
mod planner;
mod primitive;
mod processors;
mod recipe;
mod record;
mod seat;
mod selection;
mod span;
mod sparse;

pub use board::Board;
pub use communicator::{CallOptions, Communicator, DEFAULT_TIMEOUT, Message, Scope, Spec};
pub use error::{Context, Error, Invalid, Side};
pub use mesh::{Mesh, MeshConfig};
pub use operation::{CallFacts, Operation};
pub use pending::{Buffers, Pending};
pub use planner::PLANS_KEPT;
pub use processors::{Cores, PROCESSORS_MAX, Processors};
pub use record::{RECORD_ENTRIES, RECORD_ENTRIES_MAX, RecordConfig};
pub use selection::Selection;
pub use sparse::{CHANNELS, SparsePending, SparseSide};

pub use allhands_engine::{Config as EngineConfig, GroupSpec, Refusal};
pub use allhands_plan::{Algorithm, Counts, Determinism, Own, Rank, Shape, Table};
pub use allhands_record::{FlightRecord, RecordError};
pub use allhands_tensor::{DType, ReduceOp, SparseTensor, Tensor};
pub use allhands_transport::{Control, Links, local};
pub use allhands_wire::{Cause, Peer};

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
