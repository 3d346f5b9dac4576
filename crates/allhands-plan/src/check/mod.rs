//! Proves that the plans of all ranks together do what their shape says.
//!
//! [`check`] runs the plans once with symbols in place of numbers and without any buffering. A plan has
//! sequential lanes, one sender and one receiver for each message, and nothing that asks "has it arrived?":
//! it is a Kahn network, so one run stands for every order of events, provided that no step touches what
//! another may be writing at the same time. That condition is static and is checked too, from the order
//! that lanes and waits enforce on each rank alone.
//!
//! A symbol says of a run of elements whose contributions it holds, which element of them, and in which
//! tree they were combined. Trees are shared and compared by number; `a + b` and `b + a` are one tree, as
//! every reduction is commutative bit for bit. Elements that are treated alike are one run, so a million
//! elements cost as much as one.

mod defect;
#[cfg(test)]
mod execute;
mod expr;
mod goal;
mod hazard;
mod memory;
#[cfg(test)]
mod mutate;
mod run;
mod structure;
#[cfg(test)]
mod tests;

pub use defect::{At, Defect, Stuck};

use crate::plan::Plan;

/// What [`check`] has proved, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Proof {
    /// Steps of all ranks.
    pub steps: u64,
    /// Messages.
    pub messages: u64,
    /// Elements in these messages.
    pub elements: u64,
    /// Messages that follow on each other on the longest path, when every message takes equally long:
    /// the factor of α in the cost.
    pub rounds: u32,
}

/// Proves the plans of all ranks, in the order of the ranks.
///
/// With `Ok`, whatever the timing, the transport and the amount of buffering:
///
/// - the plans end, even if a send blocks until its receive is active;
/// - every rank's `Data` is what the shape asks for; reductions contain every rank's contribution exactly
///   once, in the same order on every rank, and pass [`Finish::Last`](crate::Finish::Last) exactly once;
/// - an order that a plan calls canonical is so;
/// - nothing is read before it is written, `Input` is never written, no step touches what another may be
///   writing, and all spans lie in their buffers;
/// - messages are numbered densely and both sides agree on their lengths.
///
/// # Errors
///
/// The first [`Defect`] found: it names rank, lane and step.
///
/// # Example
///
/// ```
/// use allhands_plan::{Algorithm, Plan, Shape, check};
///
/// let plans = Plan::build_all(&Shape::AllReduce { len: 1 << 30 }, Algorithm::Circulant, 6)?;
/// let proof = check(&plans)?;
/// assert_eq!(proof.rounds, 2 * 3); // twice the logarithm of 6, rounded up
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn check(plans: &[Plan]) -> Result<Proof, Defect> {
    let messages = structure::examine(plans)?;
    plans.iter().try_for_each(hazard::examine)?;
    let outcome = run::run(plans, &messages)?;
    let rounds = outcome.rounds;
    goal::examine(plans, outcome)?;
    Ok(Proof {
        steps: plans.iter().map(|plan| plan.steps.len() as u64).sum(),
        messages: messages.list.len() as u64,
        elements: messages.list.iter().map(|message| message.len).sum(),
        rounds,
    })
}
