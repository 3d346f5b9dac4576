//! No step touches what another may be writing at the same time.
//!
//! Only the order that a rank enforces itself counts: a step comes after its predecessor in the lane and
//! after what it waits for. That a message from elsewhere happens to order two steps does not count,
//! since a buffered or lent message may end earlier or later than it seems.

use smallvec::SmallVec;

use super::defect::Defect;
use crate::plan::{Op, Plan, Span};

/// What a step uses.
#[derive(Clone, Copy)]
struct Use {
    span: Span,
    writes: bool,
    lane: u32,
    step: u32,
}

/// All that a rank's steps use.
fn uses(plan: &Plan) -> Vec<Use> {
    let mut all = Vec::with_capacity(plan.steps.len() * 2);
    for (number, lane) in plan.lanes.iter().enumerate() {
        for (step, this) in plan.steps(lane).iter().enumerate() {
            let mut note = |span: Span, writes| {
                if span.len > 0 {
                    all.push(Use { span, writes, lane: number as u32, step: step as u32 });
                }
            };
            match &this.op {
                Op::Send { parts } => {
                    let mut last = None;
                    for part in plan.parts(parts) {
                        // Often one span goes to many.
                        if last.replace(part.span) != Some(part.span) {
                            note(part.span, false);
                        }
                    }
                }
                Op::Recv { parts } => plan.parts(parts).iter().for_each(|p| note(p.span, true)),
                Op::Copy { src, dst } => {
                    note(*src, false);
                    note(*dst, true);
                }
                Op::RecvReduce { local, dst, .. } => {
                    note(*dst, true);
                    local.iter().for_each(|local| note(local.span, false));
                }
                Op::Reduce { sources, local, dst, .. } => {
                    note(*dst, true);
                    local.iter().for_each(|local| note(local.span, false));
                    plan.sources(sources).iter().for_each(|source| note(*source, false));
                }
            }
        }
    }
    all
}

/// The steps of a rank (lane, number in the lane), each after those that it waits for. Those that wait for
/// each other are left out: running the plans shows the deadlock.
fn order(plan: &Plan) -> Vec<(u32, u32)> {
    let mut ended: SmallVec<[u32; 8]> = SmallVec::from_elem(0, plan.lanes.len());
    let mut order = Vec::with_capacity(plan.steps.len());
    loop {
        let before = order.len();
        for (number, lane) in plan.lanes.iter().enumerate() {
            for step in &plan.steps(lane)[ended[number] as usize..] {
                if step.waits.iter().flatten().any(|w| ended[w.lane as usize] < w.steps) {
                    break;
                }
                order.push((number as u32, ended[number]));
                ended[number] += 1;
            }
        }
        if order.len() == before {
            return order;
        }
    }
}

/// Checks one rank.
pub(super) fn examine(plan: &Plan) -> Result<(), Defect> {
    let lanes = plan.lanes.len();
    if lanes < 2 {
        return Ok(());
    }
    let starts: SmallVec<[usize; 8]> = plan.lanes.iter().map(|l| l.steps.range().start).collect();
    let index = |lane: usize, step: usize| starts[lane] + step;
    // For each step and lane: how many of the lane's steps have surely ended when the step begins.
    let mut before = vec![0_u32; plan.steps.len() * lanes];
    let order = order(plan);
    if order.len() < plan.steps.len() {
        return Ok(());
    }
    for (lane, step) in order {
        let this = index(lane as usize, step as usize);
        let mut clock: SmallVec<[u32; 8]> = SmallVec::from_elem(0, lanes);
        let mut include = |other: usize, lane: usize, steps: u32| {
            for (mine, theirs) in clock.iter_mut().zip(&before[other * lanes..]) {
                *mine = (*mine).max(*theirs);
            }
            clock[lane] = clock[lane].max(steps);
        };
        if step > 0 {
            include(this - 1, lane as usize, step);
        }
        for wait in plan.steps[this].waits.iter().flatten() {
            let (lane, steps) = (wait.lane as usize, wait.steps as usize);
            include(index(lane, steps - 1), lane, wait.steps);
        }
        before[this * lanes..(this + 1) * lanes].copy_from_slice(&clock);
    }
    let comes_before = |a: &Use, b: &Use| {
        before[index(b.lane as usize, b.step as usize) * lanes + a.lane as usize] > a.step
    };
    let mut uses = uses(plan);
    uses.sort_unstable_by_key(|u| (u.span.buffer, u.span.offset));
    // Those that reach up to the current one.
    let mut open: Vec<Use> = Vec::new();
    for this in uses {
        open.retain(|other| other.span.overlaps(this.span));
        for other in &open {
            let alike = other.lane == this.lane || !(other.writes || this.writes);
            if !alike && !comes_before(other, &this) && !comes_before(&this, other) {
                let (first, second) =
                    if other.lane < this.lane { (other, &this) } else { (&this, other) };
                return Err(Defect::Race {
                    first: plan.at(first.lane, first.step),
                    second: plan.at(second.lane, second.step),
                    span: first.span,
                });
            }
        }
        open.push(this);
    }
    Ok(())
}
