//! What shapes ask for.

use super::defect::{Defect, claim};
use super::expr::{Expr, Exprs};
use super::memory::{Memory, Value};
use super::run::Outcome;
use crate::plan::{Order, Plan, Rank};
use crate::shape::{Counts, Shape};

pub(super) fn examine(plans: &[Plan], outcome: Outcome) -> Result<(), Defect> {
    let Outcome { mut exprs, data, known, .. } = outcome;
    for (rank, known) in known.iter().enumerate() {
        if let Some(missing) = known.iter().position(|known| !known) {
            let missing = Rank(missing as u32);
            return Err(Defect::Barrier { rank: Rank(rank as u32), missing });
        }
    }
    let exact = exprs.canonical();
    let half = if plans.len() > 1 { exprs.round(exact) } else { exact };
    for (plan, data) in plans.iter().zip(&data) {
        let goal = Goal { exprs: &exprs, exact, half, plan, data };
        goal.examine(plans)?;
    }
    if let Some(Shape::AllReduce { len }) = plans.first().map(Plan::shape) {
        let first = &data[0];
        for (plan, data) in plans.iter().zip(&data).skip(1) {
            same(&exprs, plan.rank, *len, data, first)?;
        }
    }
    Ok(())
}

/// The data of one rank.
struct Goal<'a> {
    exprs: &'a Exprs,
    /// The canonical tree.
    exact: Expr,
    /// The same for dtypes that are rounded at the end of each step.
    half: Expr,
    plan: &'a Plan,
    data: &'a Memory,
}

impl Goal<'_> {
    fn examine(&self, plans: &[Plan]) -> Result<(), Defect> {
        let rank = self.plan.rank;
        match &self.plan.shape {
            Shape::AllReduce { len } => self.reduced(*len, 0),
            Shape::Reduce { len, root } if *root == rank => self.reduced(*len, 0),
            Shape::ReduceScatter { counts } => self.reduced(counts.of(rank), counts.offset(rank)),
            Shape::Broadcast { len, root } => self.moved(0, *len, *root, 0),
            Shape::AllGather { counts, .. } => self.gathered(counts),
            Shape::Gather { counts, root } if *root == rank => self.gathered(counts),
            Shape::Scatter { counts, root } => {
                self.moved(0, counts.of(rank), *root, counts.offset(rank))
            }
            Shape::AllToAll { recv, .. } => plans.iter().try_for_each(|peer| {
                let Shape::AllToAll { send, .. } = &peer.shape else { return Ok(()) };
                let (at, len) = (recv.offset(peer.rank), recv.of(peer.rank));
                self.moved(at, len, peer.rank, send.offset(rank))
            }),
            Shape::Reduce { .. } | Shape::Gather { .. } | Shape::Barrier => Ok(()),
        }
    }

    fn gathered(&self, counts: &Counts) -> Result<(), Defect> {
        (0..self.plan.world)
            .map(Rank)
            .try_for_each(|peer| self.moved(counts.offset(peer), counts.of(peer), peer, 0))
    }

    /// `len` elements from `at` on are those of `source` from its element `from` on.
    fn moved(&self, at: u64, len: u64, source: Rank, from: u64) -> Result<(), Defect> {
        let expr = Exprs::leaf(source);
        let mut done = 0;
        for run in self.data.read(at, len) {
            let expected = Value { exact: expr, half: expr, last: false, index: from + done };
            if run.value != Some(expected) {
                return Err(self.wrong(at + done, run.value, &self.write(expected)));
            }
            done += run.len;
        }
        Ok(())
    }

    /// `len` elements from the first on are the combination of all ranks' from element `from` on.
    fn reduced(&self, len: u64, from: u64) -> Result<(), Defect> {
        let plan = self.plan;
        let mut done = 0;
        for run in self.data.read(0, len) {
            let expected = || format!("element {} of all ranks, combined", from + done);
            let Some(value) = run.value else { return Err(self.wrong(done, None, &expected())) };
            if value.index != from + done || self.exprs.missing(value.exact).is_some() {
                return Err(self.wrong(done, run.value, &expected()));
            }
            if value.last != (plan.world > 1) {
                let times = u32::from(value.last);
                return Err(Defect::Last { rank: plan.rank, element: done, times });
            }
            let exact = plan.exact_order == Order::Fixed || value.exact == self.exact;
            let half = plan.half_order == Order::Fixed || value.half == self.half;
            if !(exact && half) {
                return Err(Defect::Claim {
                    rank: plan.rank,
                    element: done,
                    found: self.exprs.write(value.half),
                    claim: claim(plan.exact_order, plan.half_order),
                });
            }
            done += run.len;
        }
        Ok(())
    }

    fn write(&self, value: Value) -> String {
        format!("element {} of {}", value.index, self.exprs.write(value.exact))
    }

    fn wrong(&self, element: u64, found: Option<Value>, expected: &str) -> Defect {
        Defect::Result {
            rank: self.plan.rank,
            element,
            found: found.map_or_else(|| "nothing".to_owned(), |value| self.write(value)),
            expected: expected.to_owned(),
        }
    }
}

/// The same trees on `rank` as on rank 0, for every dtype.
fn same(exprs: &Exprs, rank: Rank, len: u64, data: &Memory, first: &Memory) -> Result<(), Defect> {
    let mut at = 0;
    while at < len {
        let (here, there) = (data.read(at, len - at), first.read(at, len - at));
        let (Some(run), Some(other)) = (here.first(), there.first()) else { break };
        if let (Some(a), Some(b)) = (run.value, other.value)
            && (a.exact, a.half) != (b.exact, b.half)
        {
            return Err(Defect::Differ {
                rank,
                element: at,
                found: exprs.write(a.half),
                first: exprs.write(b.half),
            });
        }
        at += run.len.min(other.len);
    }
    Ok(())
}
