//! Which plan an operation runs: chosen by a fixed table, built once, kept within a bound.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use allhands_engine::Prepared;
use allhands_plan::{Algorithm, Plan, PlanError, Rank, Shape};

/// Plans kept for one group. A training step repeats a few dozen shapes.
pub const PLANS_KEPT: usize = 256;

type Key = (Shape, Algorithm);

#[derive(Debug, Default)]
pub(crate) struct Planner {
    last: Option<(Key, Arc<Prepared>)>,
    plans: HashMap<Key, Arc<Prepared>>,
    /// Oldest first.
    order: VecDeque<Key>,
}

impl Planner {
    /// The plan of `rank` for `shape`, from the cache if it is there.
    pub(crate) fn plan(
        &mut self,
        shape: &Shape,
        algorithm: Algorithm,
        world: u32,
        rank: Rank,
    ) -> Result<Arc<Prepared>, PlanError> {
        if let Some(((last_shape, last_algorithm), plan)) = &self.last
            && last_shape == shape
            && *last_algorithm == algorithm
        {
            return Ok(plan.clone());
        }
        let key = (shape.clone(), algorithm);
        let plan = match self.plans.get(&key) {
            Some(plan) => plan.clone(),
            None => {
                let plan = Arc::new(Prepared::new(Plan::build(shape, algorithm, world, rank)?));
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
