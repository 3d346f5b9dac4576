//! Collective communication and data-parallel training for Rust.
//!
//! A job is a number of processes, its *ranks*. Each of them joins a [`ProcessGroup`] and calls the same
//! operations in the same order:
//!
//! ```no_run
//! use allhands::prelude::*;
//!
//! fn main() -> Result<(), Error> {
//!     // RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT: set by torchrun or by hand.
//!     let group = ProcessGroup::from_env()?;
//!
//!     // Blocking: borrows the slice, moves the bytes on this thread.
//!     let mut loss = [0.25f32];
//!     group.all_reduce(&mut loss, ReduceOp::Avg)?;
//!
//!     // Asynchronous: takes the tensor, and gives it back, also inside the error.
//!     let gradients = Tensor::from_slice(&[1.0f32, 2.0, 3.0]);
//!     let work = group.all_reduce_async(gradients, ReduceOp::Sum);
//!     // … compute the next batch …
//!     let gradients = work.wait()?;
//!     println!("rank {}: {loss:?} {gradients:?}", group.rank().0);
//!     Ok(())
//! }
//! ```
//!
//! This crate only gathers what its layers offer; each of them can be used alone:
//! `allhands-group` (process groups), `allhands-store` (rendezvous in PyTorch's wire format), `allhands-tensor`
//! (dtypes and reduction kernels), `allhands-plan` (collective algorithms as data), `allhands-transport` (the mesh),
//! `allhands-engine` (what runs plans) and `allhands-wire` (what travels).
//!
//! # Features
//! | feature | adds |
//! |---|---|
//! | `ndarray` | views of `ndarray` arrays as buffers |

#![forbid(unsafe_code)]

pub use allhands_group::*;

/// Stores through which ranks meet.
pub mod store {
    pub use allhands_store::*;
}

/// Dtypes, tensors, reduction kernels and the device trait.
pub mod tensor {
    pub use allhands_tensor::*;
}

/// Collective algorithms as data: plans, their checker and cost model.
pub mod plan {
    pub use allhands_plan::*;
}

/// What most programs need.
pub mod prelude {
    pub use allhands_group::{
        Config, DType, Error, ProcessGroup, Rank, ReduceOp, Tensor, TensorMut, TensorRef, Work,
    };
}

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
