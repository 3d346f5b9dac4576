//! No step touches what another may be writing at the same time.
//!
//! Only the order that a rank enforces itself counts: a step comes after its predecessor in the lane and
//! after what it waits for. That a message from elsewhere happens to order two steps does not count,
//! since a buffered or lent message may end earlier or later than it seems.

use smallvec::SmallVec;

use super::defect::Defect;
use crate::plan::{Op, Plan, Span};

/// What a step touches, in order and without overlaps.
#[derive(Default)]
struct Touched {
    reads: SmallVec<[Span; 2]>,
    writes: SmallVec<[Span; 2]>,
}

impl Touched {
    fn of(plan: &Plan, op: &Op) -> Self {
        let mut touched = Self::default();
        match op {
            Op::Send { parts } => {
                touched.reads.extend(plan.parts(parts).iter().map(|part| part.span));
            }
            Op::Recv { parts } => {
                touched.writes.extend(plan.parts(parts).iter().map(|part| part.span));
            }
            Op::RecvReduce { local, dst, .. } => {
                touched.reads.extend(local.map(|local| local.span));
                touched.writes.push(*dst);
            }
            Op::Copy { src, dst } => {
                touched.reads.push(*src);
                touched.writes.push(*dst);
            }
            Op::Reduce { sources, local, dst, .. } => {
                touched.reads.extend_from_slice(plan.sources(sources));
                touched.reads.extend(local.map(|local| local.span));
                touched.writes.push(*dst);
            }
        }
        join(&mut touched.reads);
        join(&mut touched.writes);
        touched
    }

    /// A span on which the two may not meet.
    fn race(&self, other: &Self) -> Option<Span> {
        meet(&self.writes, &other.writes)
            .or_else(|| meet(&self.writes, &other.reads))
            .or_else(|| meet(&self.reads, &other.writes))
    }
}

/// Sorts spans and joins those that overlap or touch.
fn join(spans: &mut SmallVec<[Span; 2]>) {
    spans.retain(|span| span.len > 0);
    if spans.len() < 2 {
        return;
    }
    spans.sort_unstable_by_key(|span| (span.buffer, span.offset));
    let mut kept = 0;
    for i in 1..spans.len() {
        let (span, last) = (spans[i], spans[kept]);
        if span.buffer == last.buffer && span.offset <= last.end() {
            spans[kept].len = last.end().max(span.end()) - last.offset;
        } else {
            kept += 1;
            spans[kept] = span;
        }
    }
    spans.truncate(kept + 1);
}

/// The first span of `some` that overlaps one of `others`; both are sorted.
fn meet(some: &[Span], others: &[Span]) -> Option<Span> {
    let (mut i, mut j) = (0, 0);
    while i < some.len() && j < others.len() {
        let (a, b) = (some[i], others[j]);
        if a.overlaps(b) {
            return Some(a);
        }
        if (a.buffer, a.offset) < (b.buffer, b.offset) { i += 1 } else { j += 1 }
    }
    None
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
    let touched: Vec<Touched> = plan.steps.iter().map(|step| Touched::of(plan, &step.op)).collect();
    for lane in 0..lanes {
        for step in 0..plan.lanes[lane].steps.len as usize {
            let this = index(lane, step);
            for other in lane + 1..lanes {
                // Of the other lane, the steps that surely come before are a prefix, and those that
                // surely come after are a suffix.
                let first = before[this * lanes + other] as usize;
                for rival in first..plan.lanes[other].steps.len as usize {
                    let that = index(other, rival);
                    if before[that * lanes + lane] as usize > step {
                        break;
                    }
                    if let Some(span) = touched[this].race(&touched[that]) {
                        return Err(Defect::Race {
                            first: plan.at(lane as u32, step as u32),
                            second: plan.at(other as u32, rival as u32),
                            span,
                        });
                    }
                }
            }
        }
    }
    Ok(())
}
