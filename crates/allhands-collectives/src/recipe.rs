//! Calls that were made before: everything that does not depend on the buffers, worked out once.

use std::sync::Arc;

use allhands_engine::Prepared;
use allhands_engine::flat::FlatCall;
use allhands_plan::Algorithm;
use allhands_tensor::{DType, Kernel, ReduceOp};
use allhands_wire::Descriptor;

use crate::communicator::{CallOptions, Spec};

/// Recipes kept for one group. A training step repeats a few dozen calls; each recipe is found by comparison, the
/// latest first.
const RECIPES_KEPT: usize = 64;

/// What a call comes down to.
#[derive(Debug)]
pub(crate) struct Recipe {
    spec: Spec,
    asked: Option<Algorithm>,
    label: String,
    pub(crate) call: FlatCall,
    /// Bytes of input and output of a call that can run on the calling thread as it is.
    pub(crate) inline: Option<(usize, usize)>,
}

impl Recipe {
    pub(crate) fn new(
        spec: &Spec,
        options: &CallOptions,
        kernel: Option<Kernel>,
        plan: Arc<Prepared>,
        descriptor: Descriptor,
        identity: u64,
    ) -> Self {
        let element_size = spec.dtype.map_or(1, DType::size);
        let bytes = |elements: u64| (elements as usize).checked_mul(element_size);
        let lens = bytes(plan.plan().input_len()).zip(bytes(plan.plan().data_len()));
        // What is scaled first needs another copy of its input.
        let scales = matches!(spec.reduction, Some(ReduceOp::PremulSum(_)));
        let complete = kernel.is_some() || !plan.reduces();
        let inline = lens.filter(|_| plan.flat().is_some() && complete && !scales);
        let fingerprint = descriptor.fingerprint();
        let call = FlatCall { plan, kernel, element_size, descriptor, fingerprint, identity };
        let (asked, label) = (options.algorithm, options.label.clone());
        Self { spec: spec.clone(), asked, label, call, inline }
    }

    #[inline]
    pub(crate) fn is_for(&self, spec: &Spec, options: &CallOptions) -> bool {
        let same_label = is_same(self.label.as_bytes(), options.label.as_bytes());
        let mine = &self.spec;
        let same_call = mine.shape == spec.shape
            && mine.dtype == spec.dtype
            && mine.reduction == spec.reduction
            && mine.part == spec.part
            && is_same(&mine.dims, &spec.dims);
        let same_factor = match (self.spec.reduction, spec.reduction) {
            // Zeros of both signs are equal, and give other bits.
            (Some(ReduceOp::PremulSum(mine)), Some(ReduceOp::PremulSum(other))) => {
                mine.to_bits() == other.to_bits()
            }
            _ => true,
        };
        same_call && same_factor && self.asked == options.algorithm && same_label
    }
}

/// Whether two lists are equal. Empty ones are the rule, and comparing bytes at the address of an empty list is slow:
/// some libraries read there with a mask, which the processor has to sort out.
#[inline]
fn is_same<T: PartialEq>(mine: &[T], other: &[T]) -> bool {
    mine.len() == other.len() && (mine.is_empty() || mine == other)
}

/// The recipes of a group's latest calls, the last one first.
#[derive(Debug, Default)]
pub(crate) struct Recipes {
    latest: Vec<Arc<Recipe>>,
    made: u64,
}

impl Recipes {
    /// The recipe for a call, if one like it was made lately.
    #[inline]
    pub(crate) fn find(&mut self, spec: &Spec, options: &CallOptions) -> Option<Arc<Recipe>> {
        match self.latest.first() {
            Some(last) if last.is_for(spec, options) => Some(last.clone()),
            _ => self.search(spec, options),
        }
    }

    fn search(&mut self, spec: &Spec, options: &CallOptions) -> Option<Arc<Recipe>> {
        let at = self.latest.iter().position(|recipe| recipe.is_for(spec, options))?;
        self.latest[..=at].rotate_right(1);
        Some(self.latest[0].clone())
    }

    /// A number for a new recipe.
    pub(crate) fn number(&mut self) -> u64 {
        self.made += 1;
        self.made
    }

    /// Keeps a recipe, and forgets the one that was not asked for the longest.
    pub(crate) fn keep(&mut self, recipe: Arc<Recipe>) {
        self.latest.truncate(RECIPES_KEPT - 1);
        self.latest.insert(0, recipe);
    }
}

#[cfg(test)]
mod tests {
    use allhands_plan::{Plan, Rank, Shape};
    use smallvec::SmallVec;

    use super::*;
    use crate::communicator::Part;
    use crate::operation::Operation;

    fn recipe(spec: &Spec) -> Recipe {
        let kernel = Kernel::new(DType::F32, ReduceOp::Sum).unwrap();
        let plan = Plan::build(&spec.shape, Algorithm::Ring, 2, Rank(0)).unwrap();
        let plan = Arc::new(Prepared::new(plan));
        Recipe::new(spec, &CallOptions::default(), Some(kernel), plan, Descriptor::default(), 1)
    }

    /// Each field of a call, and of its options, makes another one of it.
    #[test]
    fn a_recipe_is_for_one_call() {
        let reduction = Some(ReduceOp::PremulSum(0.0));
        let spec = Spec::new(Shape::AllReduce { len: 8 }, Some(DType::F32), reduction);
        let (recipe, plain) = (recipe(&spec), CallOptions::default());
        assert!(recipe.is_for(&spec, &plain));
        let operation = Operation::AllReduceSparse;
        let part = Some(Part { operation, dtype: Some(DType::F32), step: 0 });
        let others = [
            Spec { shape: Shape::AllReduce { len: 9 }, ..spec.clone() },
            Spec { dtype: Some(DType::I32), ..spec.clone() },
            Spec { reduction: Some(ReduceOp::Max), ..spec.clone() },
            Spec { reduction: Some(ReduceOp::PremulSum(-0.0)), ..spec.clone() },
            Spec { dims: SmallVec::from_slice(&[2, 4]), ..spec.clone() },
            Spec { part, ..spec.clone() },
        ];
        for other in &others {
            assert!(!recipe.is_for(other, &plain), "{other:?}");
        }
        assert!(!recipe.is_for(&spec, &plain.clone().by(Algorithm::Direct)));
        assert!(!recipe.is_for(&spec, &CallOptions { label: "other".to_owned(), ..plain }));
    }
}
