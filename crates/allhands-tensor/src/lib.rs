//! Dtypes, dense tensors, reduction kernels and the device trait of allhands.
pub mod lend;

mod dtype;
mod error;
mod kernel;
mod op;
mod tensor;

pub use dtype::{Bool, DType, Element};
pub use error::{TensorError, UnsupportedReduction};
pub use half::{bf16, f16};
pub use kernel::{Kernel, OPERANDS_MAX, SIMD_VARIABLE, SimdLevel, UnknownSimdLevel};
pub use op::ReduceOp;
pub use tensor::{ALIGNMENT, MAX_DIMS, Tensor, TensorMut, TensorRef};
