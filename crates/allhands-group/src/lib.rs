//! Process groups: rendezvous, every collective, blocking and async, errors that name the rank.

#![forbid(unsafe_code)]

mod config;
pub mod env;
mod error;
mod group;
mod verbs;
mod work;

pub use allhands_collectives::{CallOptions, Context, Error as OperationError, Invalid, Operation, Side};
pub use allhands_plan::{Algorithm, Determinism, Rank, Table};
pub use allhands_tensor::{DType, Element, ReduceOp, Tensor, TensorMut, TensorRef};
pub use allhands_wire::JobKey;
pub use config::{Config, DEFAULT_RENDEZVOUS_TIMEOUT, TableChoice};
pub use error::Error;
pub use group::ProcessGroup;
pub use work::{Work, WorkError};
