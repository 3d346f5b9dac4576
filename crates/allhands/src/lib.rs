//! Collective communication and data-parallel training for Rust.
//!
//! A job is a number of processes, its *ranks*. Each of them joins a [`ProcessGroup`] and calls the same
//! operations in the same order:
//!
//! ```no_run
//! use allhands::prelude::*;
//!
//! fn main() -> Result<(), Error> {
//!     // Who this rank is and where it meets the others: said by torchrun, srun, mpirun …, or by hand.
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
//! This crate only gathers what its layers offer: process groups stand at its root, the rest in [`store`]
//! (rendezvous, in PyTorch's wire format), [`tensor`] (dtypes, tensors, kernels), [`transport`] (the TCP mesh and
//! its configuration) and [`plan`] (collective algorithms as data). Each layer is a crate that can be used alone.
//!
//! # Features
//! | feature | adds |
//! |---|---|
//! | `ndarray` | views of `ndarray` arrays as buffers |

#![forbid(unsafe_code)]

pub use allhands_group::*;

pub use allhands_plan as plan;
pub use allhands_tensor as tensor;

/// What most programs need.
pub mod prelude {
    pub use allhands_group::{
        Config, DType, Error, ProcessGroup, Rank, ReduceOp, SparseTensor, Tensor, TensorMut,
        TensorRef, Work, WorkError,
    };
}

/// The examples of this README and of the workspace's.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[doc = include_str!("../../../README.md")]
pub struct Readme;
