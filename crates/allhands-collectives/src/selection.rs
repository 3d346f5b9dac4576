//! Which algorithm a call runs: a table that is the same on all ranks decides, never a measurement.

use allhands_plan::{Algorithm, Shape};
use allhands_tensor::DType;

/// How algorithms are chosen for a group. Must be equal on all its ranks; a difference shows as a mismatch.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Selection {}

impl Selection {
    /// The algorithm for `shape`.
    #[must_use]
    pub fn choose(&self, shape: &Shape, world: u32, dtype: Option<DType>) -> Algorithm {
        let _ = (world, dtype);
        match shape {
            Shape::Barrier => Algorithm::Dissemination,
            _ => Algorithm::Direct,
        }
    }
}
