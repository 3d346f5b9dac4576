//! What can be said about plans without running them.

use super::defect::{At, Defect};
use crate::plan::{Buffer, Op, Plan, Rank, Slice, Span};
use crate::shape::Shape;

/// One side of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side {
    pub(super) rank: Rank,
    pub(super) lane: u32,
    pub(super) step: u32,
    /// Its part, as an index into the plan's table.
    pub(super) part: u32,
}

/// A message, known to both sides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    pub(super) sender: Side,
    pub(super) receiver: Side,
    pub(super) len: u64,
}

/// All messages.
pub(super) struct Messages {
    pub(super) list: Vec<Message>,
    /// For each rank and part: number of its message.
    pub(super) of_part: Vec<Vec<u32>>,
}

pub(super) fn examine(plans: &[Plan]) -> Result<Messages, Defect> {
    agree(plans)?;
    let mut sent = Vec::new();
    let mut received = Vec::new();
    for plan in plans {
        for (number, lane) in plan.lanes.iter().enumerate() {
            let lane_number = number as u32;
            for (step, index) in lane.steps.range().enumerate() {
                let at = plan.at(lane_number, step as u32);
                let parts = examine_step(plan, index, at)?;
                let sends = matches!(plan.steps[index].op, Op::Send { .. });
                for part in parts.range() {
                    let peer = plan.parts[part].peer;
                    if peer == plan.rank || peer.0 >= plan.world {
                        return Err(Defect::Peer { at, peer });
                    }
                    let slot = plan.parts[part].slot;
                    let side = Side {
                        rank: plan.rank,
                        lane: lane_number,
                        step: step as u32,
                        part: part as u32,
                    };
                    if sends {
                        sent.push((plan.rank, peer, slot, side));
                    } else {
                        received.push((peer, plan.rank, slot, side));
                    }
                }
            }
        }
    }
    match_messages(plans, sent, received)
}

fn agree(plans: &[Plan]) -> Result<(), Defect> {
    let Some(first) = plans.first() else { return Err(Defect::NoPlans) };
    for (number, plan) in plans.iter().enumerate() {
        let disagree = |what| Err(Defect::Disagree { rank: Rank(number as u32), what });
        if plan.rank.index() != number {
            return disagree("rank");
        }
        if plan.world as usize != plans.len() {
            return disagree("world size");
        }
        if plan.algorithm != first.algorithm {
            return disagree("algorithm");
        }
        let same = match (&plan.shape, &first.shape) {
            // Each rank knows its own counts; messages compare them.
            (Shape::AllToAll { .. }, Shape::AllToAll { .. }) => true,
            (shape, first) => shape == first,
        };
        if !same {
            return disagree("shape");
        }
        if (plan.exact_order, plan.half_order) != (first.exact_order, first.half_order) {
            return disagree("order");
        }
        let mut steps = 0;
        for lane in &plan.lanes {
            if lane.steps.start != steps {
                return Err(Defect::Lanes { rank: plan.rank });
            }
            steps += lane.steps.len;
        }
        if plan.steps.len() != steps as usize {
            return Err(Defect::Lanes { rank: plan.rank });
        }
        if (plan.input_len, plan.data_len) != plan.shape.lens(plan.world, plan.rank) {
            return disagree("buffer lengths");
        }
    }
    Ok(())
}

type Labelled = (Rank, Rank, u32, Side);

fn match_messages(
    plans: &[Plan],
    mut sent: Vec<Labelled>,
    mut received: Vec<Labelled>,
) -> Result<Messages, Defect> {
    let at = |side: &Side| plans[side.rank.index()].at(side.lane, side.step);
    for (labelled, sending) in [(&mut sent, true), (&mut received, false)] {
        labelled.sort_unstable_by_key(|l| (l.0, l.1, l.2));
        let mut pair = None;
        let mut expected = 0;
        for (from, to, slot, side) in &*labelled {
            if pair != Some((from, to)) {
                pair = Some((from, to));
                expected = 0;
            }
            if *slot != expected {
                let (at, peer) = (at(side), if sending { *to } else { *from });
                return Err(Defect::Slot { at, peer, slot: *slot, expected });
            }
            expected += 1;
        }
    }
    let mut messages = Messages {
        list: Vec::with_capacity(sent.len()),
        of_part: plans.iter().map(|plan| vec![u32::MAX; plan.parts.len()]).collect(),
    };
    let mut receivers = received.iter().peekable();
    for &(from, to, slot, sender) in &sent {
        let key = (from, to, slot);
        let known = receivers.next_if(|r| (r.0, r.1, r.2) <= key);
        let Some(&(rfrom, rto, rslot, receiver)) = known else {
            return Err(Defect::Unmatched { at: at(&sender), peer: to, slot });
        };
        if (rfrom, rto, rslot) != key {
            return Err(Defect::Unmatched { at: at(&receiver), peer: rfrom, slot: rslot });
        }
        let len = |side: &Side| plans[side.rank.index()].parts[side.part as usize].span.len;
        if len(&sender) != len(&receiver) {
            return Err(Defect::MessageLength {
                sender: at(&sender),
                receiver: at(&receiver),
                sent: len(&sender),
                expected: len(&receiver),
            });
        }
        let number = messages.list.len() as u32;
        messages.of_part[from.index()][sender.part as usize] = number;
        messages.of_part[to.index()][receiver.part as usize] = number;
        messages.list.push(Message { sender, receiver, len: len(&sender) });
    }
    if let Some((from, _, slot, receiver)) = receivers.next() {
        return Err(Defect::Unmatched { at: at(receiver), peer: *from, slot: *slot });
    }
    Ok(messages)
}

/// Examines one step and returns its parts.
fn examine_step(plan: &Plan, index: usize, at: At) -> Result<Slice, Defect> {
    let step = &plan.steps[index];
    for wait in step.waits.iter().flatten() {
        let steps = plan.lanes.get(wait.lane as usize).map_or(0, |lane| lane.steps.len);
        // A lane follows itself anyway.
        if wait.lane == at.lane || wait.steps == 0 || wait.steps > steps {
            return Err(Defect::Wait { at, wait: *wait });
        }
    }
    let parts = match step.op {
        Op::Send { parts } | Op::Recv { parts } | Op::RecvReduce { parts, .. } => parts,
        Op::Copy { .. } | Op::Reduce { .. } => Slice::default(),
    };
    if parts.range().end > plan.parts.len() {
        return Err(Defect::Table { at, what: "parts" });
    }
    let messages = plan.parts(&parts);
    match step.op {
        Op::Send { .. } => {
            for part in messages {
                inside(plan, at, part.span)?;
            }
        }
        Op::Recv { .. } => {
            for part in messages {
                writable(plan, at, part.span)?;
            }
            apart(at, messages.iter().map(|part| part.span).collect())?;
        }
        Op::RecvReduce { local, dst, .. } => {
            if let Some(part) = messages.iter().find(|part| part.span != dst) {
                return Err(Defect::PartSpan { at, span: part.span });
            }
            reduction(plan, at, messages.len(), local, dst)?;
        }
        Op::Copy { src, dst } => {
            inside(plan, at, src)?;
            writable(plan, at, dst)?;
            if src.len != dst.len {
                return Err(Defect::StepLength { at, dst, len: src.len });
            }
            if src.overlaps(dst) {
                return Err(Defect::Overlap { at, written: dst, other: src });
            }
        }
        Op::Reduce { sources, local, dst, .. } => {
            if sources.range().end > plan.sources.len() {
                return Err(Defect::Table { at, what: "sources" });
            }
            let sources = plan.sources(&sources);
            for &span in sources {
                inside(plan, at, span)?;
                if span.len != dst.len {
                    return Err(Defect::StepLength { at, dst, len: span.len });
                }
                if span.overlaps(dst) {
                    return Err(Defect::Overlap { at, written: dst, other: span });
                }
            }
            reduction(plan, at, sources.len(), local, dst)?;
        }
    }
    Ok(parts)
}

fn reduction(
    plan: &Plan,
    at: At,
    operands: usize,
    local: Option<crate::plan::Local>,
    dst: Span,
) -> Result<(), Defect> {
    writable(plan, at, dst)?;
    if operands == 0 || local.is_some_and(|local| local.at as usize > operands) {
        let local = local.map_or(0, |local| local.at);
        return Err(Defect::Operands { at, operands: operands as u32, local });
    }
    if let Some(local) = local {
        inside(plan, at, local.span)?;
        if local.span.len != dst.len {
            return Err(Defect::StepLength { at, dst, len: local.span.len });
        }
        if local.span != dst && local.span.overlaps(dst) {
            return Err(Defect::Overlap { at, written: dst, other: local.span });
        }
    }
    Ok(())
}

fn inside(plan: &Plan, at: At, span: Span) -> Result<(), Defect> {
    let len = match span.buffer {
        Buffer::Input => plan.input_len,
        Buffer::Data => plan.data_len,
        Buffer::Scratch => plan.scratch_len,
    };
    match span.offset.checked_add(span.len) {
        Some(end) if end <= len => Ok(()),
        _ => Err(Defect::Bounds { at, span, len }),
    }
}

fn writable(plan: &Plan, at: At, span: Span) -> Result<(), Defect> {
    inside(plan, at, span)?;
    if span.buffer == Buffer::Input {
        return Err(Defect::InputWritten { at, span });
    }
    Ok(())
}

/// Parts that are written at the same time must not overlap.
fn apart(at: At, mut spans: Vec<Span>) -> Result<(), Defect> {
    spans.retain(|span| span.len > 0);
    spans.sort_unstable_by_key(|span| (span.buffer, span.offset));
    match spans.windows(2).find(|pair| pair[0].overlaps(pair[1])) {
        Some(pair) => Err(Defect::Overlap { at, written: pair[0], other: pair[1] }),
        None => Ok(()),
    }
}
