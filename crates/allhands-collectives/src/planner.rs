//! Which plan an operation runs: chosen by a fixed table, built once, kept within a bound.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use allhands_engine::Prepared;
use allhands_engine::flat::{FlatPlan, TILE_BYTES};
use allhands_plan::{Algorithm, Locality, Plan, PlanError, Rank, Shape};

use crate::core::Medium;

/// Plans kept for one group. A training step repeats a few dozen shapes.
pub const PLANS_KEPT: usize = 256;

type Key = (Shape, Algorithm, usize);

#[derive(Debug)]
pub(crate) struct Planner {
    world: u32,
    rank: Rank,
    medium: Medium,
    /// One for as long as the group lives, so no plan's key needs it.
    locality: Option<Locality>,
    last: Option<(Key, Arc<Prepared>)>,
    plans: HashMap<Key, Arc<Prepared>>,
    /// Oldest first.
    order: VecDeque<Key>,
}

impl Planner {
    pub(crate) fn new(world: u32, rank: Rank, medium: Medium, locality: Option<Locality>) -> Self {
        let (plans, order) = (HashMap::new(), VecDeque::new());
        Self { world, rank, medium, locality, last: None, plans, order }
    }

    fn prepare(
        &self,
        shape: &Shape,
        algorithm: Algorithm,
        element_size: usize,
    ) -> Result<Prepared, PlanError> {
        let (world, rank) = (self.world, self.rank);
        let plan = match &self.locality {
            Some(locality) => Plan::build_on(shape, algorithm, locality, rank)?,
            None => Plan::build(shape, algorithm, world, rank)?,
        };
        let plan = Prepared::new(plan);
        let flat = match self.medium {
            Medium::Board => {
                FlatPlan::compile(shape, algorithm, world, rank, element_size, TILE_BYTES)?
            }
            Medium::Links => None,
        };
        Ok(plan.with_flat(flat))
    }

    /// A plan that will hardly be asked for again, so it is not kept.
    pub(crate) fn passing(
        &self,
        shape: &Shape,
        algorithm: Algorithm,
        element_size: usize,
    ) -> Result<Arc<Prepared>, PlanError> {
        self.prepare(shape, algorithm, element_size).map(Arc::new)
    }

    /// The plan of `rank` for `shape`, from the cache if it is there.
    pub(crate) fn plan(
        &mut self,
        shape: &Shape,
        algorithm: Algorithm,
        element_size: usize,
    ) -> Result<Arc<Prepared>, PlanError> {
        if let Some(((last_shape, last_algorithm, last_size), plan)) = &self.last
            && last_shape == shape
            && *last_algorithm == algorithm
            && *last_size == element_size
        {
            return Ok(plan.clone());
        }
        let key = (shape.clone(), algorithm, element_size);
        let plan = match self.plans.get(&key) {
            Some(plan) => plan.clone(),
            None => {
                let plan = Arc::new(self.prepare(shape, algorithm, element_size)?);
                if self.order.len() == PLANS_KEPT
                    && let Some(oldest) = self.order.pop_front()
                {
                    self.plans.remove(&oldest);
                }
                self.order.push_back(key.clone());
                self.plans.insert(key.clone(), plan.clone());
                plan
            }
        };
        self.last = Some((key, plan.clone()));
        Ok(plan)
    }
}
