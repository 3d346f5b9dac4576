#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

pub mod device;
#[allow(unsafe_code, reason = "reads what other processes write")]
pub mod foreign;
#[allow(unsafe_code, reason = "carries borrows across threads")]
pub mod lend;
#[cfg(feature = "ndarray")]
#[allow(unsafe_code, reason = "views of foreign arrays")]
pub mod nd;

mod dtype;
mod error;
#[allow(unsafe_code, reason = "vector instructions and unaligned loads")]
mod kernel;
mod op;
pub mod sparse;
#[allow(unsafe_code, reason = "owns and borrows raw memory")]
mod tensor;

pub use device::{
    Device, DeviceError, HostDevice, HostEvent, HostMemory, HostQueue, HostSlot, HostTransfer,
    Progress, Transfer, check_copy,
};
pub use dtype::{Bool, DType, Element};
pub use error::{TensorError, UnsupportedReduction};
pub use half::{bf16, f16};
pub use kernel::{Kernel, OPERANDS_MAX, SIMD_VARIABLE, SimdLevel, UnknownSimdLevel};
pub use op::ReduceOp;
pub use sparse::{Merge, RowAdder, RowOrder, SparseError, SparseLayout, SparseRows, SparseTensor};
pub use tensor::{ALIGNMENT, MAX_DIMS, Tensor, TensorMut, TensorRef};
