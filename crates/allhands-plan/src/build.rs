//! From a shape and an algorithm to a plan.

use crate::algorithm::Algorithm;
use crate::all_reduce::hierarchical;
use crate::error::{ELEMENTS_MAX, PlanError, WORLD_MAX};
use crate::locality::Locality;
use crate::plan::{Plan, Rank};
use crate::shape::{Counts, Shape};
use crate::{
    all_gather, all_reduce, all_to_all, barrier, broadcast, gather, reduce, reduce_scatter,
};

impl Plan {
    /// The part of `rank` in a collective over `world` ranks. Pure and cheap; the same arguments give the
    /// same plan on every machine.
    ///
    /// # Errors
    ///
    /// [`PlanError`] if the algorithm does not do this shape ([`Algorithm::supports`]), if a rank is not
    /// in the group, if counts have not one entry a rank, or beyond
    /// [`WORLD_MAX`] and [`ELEMENTS_MAX`].
    ///
    /// # Example
    ///
    /// ```
    /// use allhands_plan::{Algorithm, Plan, Rank, Shape};
    ///
    /// let shape = Shape::AllReduce { len: 1000 };
    /// let plan = Plan::build(&shape, Algorithm::TwoShot, 4, Rank(2))?;
    /// assert_eq!(plan.data_len(), 1000);
    /// assert_eq!(plan.scratch_len(), 0);
    /// # Ok::<(), allhands_plan::PlanError>(())
    /// ```
    pub fn build(
        shape: &Shape,
        algorithm: Algorithm,
        world: u32,
        rank: Rank,
    ) -> Result<Self, PlanError> {
        validate(shape, world, rank)?;
        match shape {
            Shape::AllReduce { .. } => all_reduce::build(shape, algorithm, world, rank),
            Shape::Broadcast { .. } => broadcast::build(shape, algorithm, world, rank),
            Shape::Reduce { .. } => reduce::build(shape, algorithm, world, rank),
            Shape::AllGather { .. } => all_gather::build(shape, algorithm, world, rank),
            Shape::Gather { .. } | Shape::Scatter { .. } => {
                gather::build(shape, algorithm, world, rank)
            }
            Shape::ReduceScatter { .. } => reduce_scatter::build(shape, algorithm, world, rank),
            Shape::AllToAll { .. } => all_to_all::build(shape, algorithm, world, rank),
            Shape::Barrier => barrier::build(shape, algorithm, world, rank),
        }
    }

    /// As [`Plan::build`], among ranks that are placed on hosts. All ranks must pass the same placement.
    ///
    /// # Errors
    ///
    /// As [`Plan::build`]; [`Algorithm::supports_on`] tells what is supported.
    pub fn build_on(
        shape: &Shape,
        algorithm: Algorithm,
        locality: &Locality,
        rank: Rank,
    ) -> Result<Self, PlanError> {
        let world = locality.world();
        if algorithm != Algorithm::Hierarchical {
            return Self::build(shape, algorithm, world, rank);
        }
        validate(shape, world, rank)?;
        match shape {
            Shape::AllReduce { len } if algorithm.supports_on(shape, locality) => {
                Ok(all_reduce::build_on(shape, *len, locality, rank, hierarchical::CHUNK))
            }
            _ => Err(PlanError::unsupported(algorithm, shape)),
        }
    }

    /// The plans of all ranks, in their order. Not for [`Shape::AllToAll`] with counts per rank, whose
    /// shape differs from rank to rank.
    ///
    /// # Errors
    ///
    /// As [`Plan::build`].
    pub fn build_all(
        shape: &Shape,
        algorithm: Algorithm,
        world: u32,
    ) -> Result<Vec<Self>, PlanError> {
        if world == 0 {
            return Err(PlanError::World { world });
        }
        (0..world).map(|rank| Self::build(shape, algorithm, world, Rank(rank))).collect()
    }

    /// As [`Plan::build_all`], among ranks that are placed on hosts.
    ///
    /// # Errors
    ///
    /// As [`Plan::build_on`].
    pub fn build_all_on(
        shape: &Shape,
        algorithm: Algorithm,
        locality: &Locality,
    ) -> Result<Vec<Self>, PlanError> {
        let world = locality.world();
        if world == 0 {
            return Err(PlanError::World { world });
        }
        (0..world).map(|rank| Self::build_on(shape, algorithm, locality, Rank(rank))).collect()
    }
}

impl Algorithm {
    /// Whether [`Plan::build`] knows this algorithm for `shape` among `world` ranks.
    #[must_use]
    pub fn supports(self, shape: &Shape, world: u32) -> bool {
        match shape {
            Shape::AllReduce { .. } => all_reduce::supports(shape, self, world),
            Shape::Broadcast { .. } => broadcast::supports(shape, self, world),
            Shape::Reduce { .. } => reduce::supports(shape, self, world),
            Shape::AllGather { .. } => all_gather::supports(shape, self, world),
            Shape::Gather { .. } | Shape::Scatter { .. } => gather::supports(shape, self, world),
            Shape::ReduceScatter { .. } => reduce_scatter::supports(shape, self, world),
            Shape::AllToAll { .. } => all_to_all::supports(shape, self, world),
            Shape::Barrier => barrier::supports(shape, self, world),
        }
    }

    /// Whether [`Plan::build_on`] knows this algorithm for `shape` among ranks so placed:
    /// [`Algorithm::Hierarchical`] needs two hosts or more.
    #[must_use]
    pub fn supports_on(self, shape: &Shape, locality: &Locality) -> bool {
        match (self, shape) {
            (Self::Hierarchical, Shape::AllReduce { .. }) => locality.hosts() > 1,
            (Self::Hierarchical, _) => false,
            _ => self.supports(shape, locality.world()),
        }
    }
}

fn validate(shape: &Shape, world: u32, rank: Rank) -> Result<(), PlanError> {
    if world == 0 || world > WORLD_MAX {
        return Err(PlanError::World { world });
    }
    let in_group = |rank: Rank| {
        if rank.0 < world { Ok(()) } else { Err(PlanError::NoSuchRank { rank, world }) }
    };
    in_group(rank)?;
    match shape {
        Shape::AllReduce { len } => short(shape, Some(*len)),
        Shape::Broadcast { len, root } | Shape::Reduce { len, root } => {
            in_group(*root)?;
            short(shape, Some(*len))
        }
        Shape::AllGather { counts, .. } | Shape::ReduceScatter { counts } => {
            fits(shape, counts, world)
        }
        Shape::Gather { counts, root } | Shape::Scatter { counts, root } => {
            in_group(*root)?;
            fits(shape, counts, world)
        }
        Shape::AllToAll { send, recv } => {
            fits(shape, send, world)?;
            fits(shape, recv, world)
        }
        Shape::Barrier => Ok(()),
    }
}

fn fits(shape: &Shape, counts: &Counts, world: u32) -> Result<(), PlanError> {
    let total = match counts {
        Counts::Equal(count) => count.checked_mul(u64::from(world)),
        Counts::PerRank(counts) if counts.len() != world as usize => {
            return Err(PlanError::Counts { shape: shape.name(), counts: counts.len(), world });
        }
        Counts::PerRank(counts) => {
            counts.iter().try_fold(0_u64, |sum, count| sum.checked_add(*count))
        }
    };
    short(shape, total)
}

fn short(shape: &Shape, elements: Option<u64>) -> Result<(), PlanError> {
    match elements {
        Some(elements) if elements <= ELEMENTS_MAX => Ok(()),
        _ => Err(PlanError::TooLong { shape: shape.name() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(shape: &Shape, algorithm: Algorithm, world: u32, rank: u32, message: &str) {
        match Plan::build(shape, algorithm, world, Rank(rank)) {
            Ok(_) => panic!("{shape:?} by {algorithm} among {world} was built"),
            Err(error) => assert_eq!(error.to_string(), message),
        }
    }

    #[test]
    fn what_cannot_be_built_is_refused_with_a_reason() {
        let shape = Shape::AllReduce { len: 8 };
        refused(
            &shape,
            Algorithm::Pat,
            4,
            0,
            "pat does not do all_reduce here; ask Algorithm::supports first",
        );
        refused(
            &shape,
            Algorithm::Ring,
            0,
            0,
            "a plan for 0 ranks was asked for; it takes 1 to 131071",
        );
        refused(
            &shape,
            Algorithm::Ring,
            4,
            4,
            "rank 4 is not in a group of 4 ranks (they count from 0)",
        );
        let rooted = Shape::Broadcast { len: 8, root: Rank(7) };
        refused(
            &rooted,
            Algorithm::Binomial,
            4,
            0,
            "rank 7 is not in a group of 4 ranks (they count from 0)",
        );
        let counts = Counts::PerRank([1, 2, 3].into());
        let uneven = Shape::ReduceScatter { counts };
        refused(
            &uneven,
            Algorithm::Ring,
            4,
            0,
            "reduce_scatter got counts of 3 ranks for a group of 4",
        );
        let endless = Shape::AllGather {
            counts: Counts::PerRank([u64::MAX, 2].into()),
            own: crate::shape::Own::Input,
        };
        refused(
            &endless,
            Algorithm::Ring,
            2,
            0,
            "all_gather over more than 1099511627776 elements; split it",
        );
        assert_eq!(Plan::build_all(&shape, Algorithm::Ring, 0), Err(PlanError::World { world: 0 }));
    }

    #[test]
    fn plans_are_built_exactly_where_they_are_supported() {
        let counts = Counts::Equal(3);
        let root = Rank(0);
        let shapes = [
            Shape::AllReduce { len: 5 },
            Shape::Broadcast { len: 5, root },
            Shape::Reduce { len: 5, root },
            Shape::AllGather { counts: counts.clone(), own: crate::shape::Own::Input },
            Shape::Gather { counts: counts.clone(), root },
            Shape::Scatter { counts: counts.clone(), root },
            Shape::ReduceScatter { counts: counts.clone() },
            Shape::AllToAll { send: counts.clone(), recv: counts },
            Shape::Barrier,
        ];
        for shape in shapes {
            for world in [1, 2, 5] {
                for algorithm in Algorithm::ALL {
                    let built = Plan::build(&shape, algorithm, world, Rank(0)).is_ok();
                    let supported = algorithm.supports(&shape, world);
                    assert_eq!(built, supported, "{shape:?} by {algorithm} among {world}");
                }
            }
        }
    }

    #[test]
    fn the_longest_buffers_of_the_largest_world_do_not_overflow() {
        let world = WORLD_MAX;
        let shape = Shape::AllReduce { len: ELEMENTS_MAX };
        let log_steps =
            [Algorithm::RecursiveDoubling, Algorithm::HalvingDoubling, Algorithm::Circulant];
        for algorithm in log_steps {
            let last = Plan::build(&shape, algorithm, world, Rank(world - 1));
            assert!(last.is_ok_and(|plan| plan.steps.len() < 200), "{algorithm}");
        }
        let direct = Plan::build(&shape, Algorithm::Direct, 1024, Rank(1023));
        assert_eq!(direct.map(|plan| plan.scratch_len()), Ok(1023 * ELEMENTS_MAX));
    }
}
