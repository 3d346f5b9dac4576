//! Drives the engine over links: the collectives as a slice and tensor API.

#![forbid(unsafe_code)]

mod cell;
mod communicator;
mod core;
mod error;
mod mesh;
mod operation;
mod pending;
mod planner;
mod primitive;
mod seat;
mod selection;

pub use communicator::{CallOptions, Communicator, DEFAULT_TIMEOUT, Message, Scope, Spec};
pub use error::{Context, Error, Invalid, Side};
pub use mesh::{Mesh, MeshConfig};
pub use operation::{CallFacts, Operation};
pub use pending::{Buffers, Pending};
pub use planner::PLANS_KEPT;
pub use selection::Selection;
