//! Which algorithm a call runs: a table that is the same on all ranks decides, never a measurement.

use allhands_plan::{Algorithm, Determinism, Locality, Precision, Shape, Table, select, select_on};
use allhands_tensor::DType;

/// How algorithms are chosen for a group. Must be equal on all its ranks; a difference shows as a mismatch.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Which algorithm at which size and world.
    pub table: Table,
    /// What results must have in common.
    pub determinism: Determinism,
    /// On which hosts the ranks are, if that is to matter. One of another number of ranks is ignored.
    pub locality: Option<Locality>,
}

impl Default for Selection {
    fn default() -> Self {
        Self { table: Table::tcp_loopback(), determinism: Determinism::default(), locality: None }
    }
}

impl Selection {
    /// The algorithm for `shape`.
    #[must_use]
    pub fn choose(&self, shape: &Shape, world: u32, dtype: Option<DType>) -> Algorithm {
        let precision = match dtype {
            Some(DType::F16 | DType::BF16) => Precision::Half,
            _ => Precision::Exact,
        };
        let size = dtype.map_or(1, DType::size);
        match self.placed(world) {
            Some(hosts) => select_on(shape, hosts, size, precision, self.determinism, &self.table),
            None => select(shape, world, size, precision, self.determinism, &self.table),
        }
    }

    /// The hosts of `world` ranks.
    pub(crate) fn placed(&self, world: u32) -> Option<&Locality> {
        self.locality.as_ref().filter(|locality| locality.world() == world)
    }
}
