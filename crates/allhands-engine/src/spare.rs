//! What ended operations leave for the next ones, so that a call that was made before allocates nothing.

use crate::inbound::EarlyMessage;
use crate::op::{Body, LaneState, Marks, OpState};

/// Scratch buffers kept.
const SCRATCH_KEPT: usize = 4;

/// States of operations kept.
const OPS_KEPT: usize = 16;

/// Buffers for messages that come before their turn, and lists of such messages, kept of each.
const HELD_KEPT: usize = 32;

/// Longest of these buffers; what is longer is rare, and given back.
const HELD_BYTES_MAX: usize = 128 << 10;

/// Memory without content.
#[derive(Debug, Default)]
pub(crate) struct Spare {
    scratch: Vec<Vec<u8>>,
    held: Vec<Vec<u8>>,
    lists: Vec<Vec<EarlyMessage>>,
    /// Boxed, because they go in and out of the engine's table as they are.
    #[expect(clippy::vec_box, reason = "the boxes are what is kept")]
    ops: Vec<Box<OpState>>,
}

impl Spare {
    /// `len` bytes; their content is whatever the last user left, since nobody reads scratch that was not
    /// written.
    pub(crate) fn take_scratch(&mut self, len: usize) -> Vec<u8> {
        let best = (0..self.scratch.len()).max_by_key(|&at| self.scratch[at].capacity().min(len));
        let mut bytes = best.map(|at| self.scratch.swap_remove(at)).unwrap_or_default();
        bytes.resize(len, 0);
        bytes
    }

    pub(crate) fn keep_scratch(&mut self, bytes: Vec<u8>) {
        if self.scratch.len() < SCRATCH_KEPT && bytes.capacity() > 0 {
            self.scratch.push(bytes);
        }
    }

    /// An empty buffer for a message that comes before its turn.
    pub(crate) fn take_held(&mut self) -> Vec<u8> {
        self.held.pop().unwrap_or_default()
    }

    pub(crate) fn keep_held(&mut self, mut bytes: Vec<u8>) {
        let fits = 1..=HELD_BYTES_MAX;
        if self.held.len() < HELD_KEPT && fits.contains(&bytes.capacity()) {
            bytes.clear();
            self.held.push(bytes);
        }
    }

    /// An empty list of such messages.
    pub(crate) fn take_list(&mut self) -> Vec<EarlyMessage> {
        self.lists.pop().unwrap_or_default()
    }

    pub(crate) fn keep_list(&mut self, mut list: Vec<EarlyMessage>) {
        if self.lists.len() < HELD_KEPT && list.capacity() > 0 {
            list.clear();
            self.lists.push(list);
        }
    }

    /// `fresh`, which has no lanes and no lists, in memory that was used before, with `lanes` lanes that have not begun.
    pub(crate) fn op(&mut self, fresh: OpState, lanes: usize) -> Box<OpState> {
        let mut op = match self.ops.pop() {
            Some(mut op) => {
                let OpState { lanes, parked, begun, pulling, .. } = &mut *op;
                let (lanes, parked) = (std::mem::take(lanes), std::mem::take(parked));
                let (begun, pulling) = (std::mem::take(begun), std::mem::take(pulling));
                *op = OpState { lanes, parked, begun, pulling, ..fresh };
                op
            }
            None => Box::new(fresh),
        };
        op.lanes.resize_with(lanes, LaneState::default);
        op
    }

    /// Keeps an operation that has ended; its buffers have been taken out.
    pub(crate) fn keep_op(&mut self, mut op: Box<OpState>) {
        if self.ops.len() >= OPS_KEPT {
            return;
        }
        op.body = Body::Ended;
        op.lanes.iter_mut().for_each(LaneState::clear);
        op.parked.clear();
        op.pulling.clear();
        Marks::clear(&mut op.begun);
        self.ops.push(op);
    }

    /// Entries, and entries for which there is room.
    pub(crate) fn entries(&self) -> (usize, usize) {
        (
            self.scratch.len() + self.held.len() + self.lists.len() + self.ops.len(),
            self.scratch.capacity()
                + self.held.capacity()
                + self.lists.capacity()
                + self.ops.capacity(),
        )
    }

    /// Bytes of scratch memory.
    pub(crate) fn scratch_bytes(&self) -> usize {
        self.scratch.iter().map(Vec::capacity).sum()
    }
}
