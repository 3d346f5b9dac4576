//! Plans boiled down to what takes time: a fifth of their memory.

use crate::plan::{Op, Plan, Slice};

/// What a step takes.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Send,
    Recv,
    /// Receives, then combines that many bytes.
    RecvReduce {
        bytes: u64,
    },
    /// Combines or copies that many bytes.
    Local {
        bytes: u64,
    },
}

/// A step.
pub(super) struct Work {
    pub(super) kind: Kind,
    pub(super) messages: Slice,
    /// Lane and steps; lanes count from the rank's first.
    pub(super) waits: [Option<(u32, u32)>; crate::plan::WAITS_MAX],
}

/// A message of a step.
#[derive(Clone, Copy)]
pub(super) struct Message {
    pub(super) peer: u32,
    pub(super) slot: u32,
    pub(super) bytes: u64,
}

/// The plans of some ranks, from rank 0.
#[derive(Default)]
pub(super) struct Program {
    pub(super) work: Vec<Work>,
    pub(super) messages: Vec<Message>,
    /// Steps of each lane: a run of `work`.
    pub(super) lanes: Vec<Slice>,
    /// Lanes of each rank: a run of `lanes`.
    pub(super) ranks: Vec<Slice>,
    sends: u64,
}

impl Program {
    /// Adds the next rank's plan.
    pub(super) fn add(&mut self, plan: &Plan, elem_size: u64) {
        let first_lane = self.lanes.len() as u32;
        for lane in plan.lanes() {
            let first = self.work.len() as u32;
            for step in plan.steps(lane) {
                let first_message = self.messages.len() as u32;
                let (kind, parts) = match step.op {
                    Op::Send { parts } => (Kind::Send, parts),
                    Op::Recv { parts } => (Kind::Recv, parts),
                    Op::RecvReduce { parts, local, dst, .. } => {
                        // The first operand is the one that the others are combined with.
                        let operands = u64::from(parts.len) + u64::from(local.is_some());
                        let bytes = operands.saturating_sub(1).max(1) * dst.len * elem_size;
                        (Kind::RecvReduce { bytes }, parts)
                    }
                    Op::Copy { src, .. } => {
                        (Kind::Local { bytes: src.len * elem_size }, Slice::default())
                    }
                    Op::Reduce { sources, local, dst, .. } => {
                        let operands = u64::from(sources.len) + u64::from(local.is_some());
                        let bytes = operands.saturating_sub(1).max(1) * dst.len * elem_size;
                        (Kind::Local { bytes }, Slice::default())
                    }
                };
                self.messages.extend(plan.parts(&parts).iter().map(|part| Message {
                    peer: part.peer.0,
                    slot: part.slot,
                    bytes: part.span.len * elem_size,
                }));
                if matches!(kind, Kind::Send) {
                    self.sends += u64::from(parts.len);
                }
                self.work.push(Work {
                    kind,
                    messages: Slice { start: first_message, len: parts.len },
                    waits: step.waits.map(|wait| wait.map(|w| (w.lane, w.steps))),
                });
            }
            self.lanes.push(Slice { start: first, len: self.work.len() as u32 - first });
        }
        self.ranks.push(Slice { start: first_lane, len: self.lanes.len() as u32 - first_lane });
    }

    /// Messages that the ranks send.
    pub(super) fn messages(&self) -> u64 {
        self.sends
    }
}
