//! The pen with which algorithms write plans: numbers messages, keeps tables flat.

use smallvec::SmallVec;

use crate::algorithm::Algorithm;
use crate::plan::{
    Finish, Lane, Local, Op, Order, Part, Plan, Rank, Slice, Span, Step, WAITS_MAX, Wait,
};
use crate::shape::Shape;

/// Steps for which there is room from the start: enough for eight ranks or so.
const STEPS_EXPECTED: usize = 12;

/// Writes one rank's plan. Messages of a (source, destination) pair are numbered in the order in which
/// they are written, so both sides must write them in the same order.
pub(crate) struct Builder {
    plan: Plan,
    /// The steps as they are written, each with its lane.
    written: Vec<(u32, Step)>,
    /// Steps of each lane.
    lanes: SmallVec<[u32; 8]>,
    sent: SmallVec<[(Rank, u32); 8]>,
    received: SmallVec<[(Rank, u32); 8]>,
}

/// Shorthand for the wait lists of a step.
pub(crate) fn after(waits: &[(u32, u32)]) -> [Option<Wait>; WAITS_MAX] {
    let mut all = [None; WAITS_MAX];
    for (slot, &(lane, steps)) in all.iter_mut().zip(waits) {
        *slot = Some(Wait { lane, steps });
    }
    all
}

fn next_slot(counters: &mut SmallVec<[(Rank, u32); 8]>, peer: Rank) -> u32 {
    // The latest partner is the likeliest.
    if let Some((_, slot)) = counters.iter_mut().rev().find(|(rank, _)| *rank == peer) {
        *slot += 1;
        return *slot;
    }
    counters.push((peer, 0));
    0
}

/// Appends messages to the table of parts, numbered within their pair.
fn number(
    parts: &mut Vec<Part>,
    counters: &mut SmallVec<[(Rank, u32); 8]>,
    messages: impl IntoIterator<Item = (Rank, Span)>,
) -> Slice {
    let start = parts.len();
    for (peer, span) in messages {
        let slot = next_slot(counters, peer);
        parts.push(Part { peer, slot, span });
    }
    Slice { start: start as u32, len: (parts.len() - start) as u32 }
}

impl Builder {
    /// Begins a plan with `lanes` empty lanes and no scratch. Where nothing is combined, or two operands
    /// at most, the order is canonical whatever the algorithm; else it is not until [`Builder::order`].
    pub(crate) fn new(
        shape: &Shape,
        algorithm: Algorithm,
        world: u32,
        rank: Rank,
        lanes: usize,
    ) -> Self {
        let (input_len, data_len) = shape.lens(world, rank);
        let reduces = matches!(
            shape,
            Shape::AllReduce { .. } | Shape::Reduce { .. } | Shape::ReduceScatter { .. }
        );
        let order = if reduces && world > 2 { Order::Fixed } else { Order::Canonical };
        Self {
            plan: Plan {
                shape: shape.clone(),
                algorithm,
                world,
                rank,
                input_len,
                data_len,
                scratch_len: 0,
                exact_order: order,
                half_order: order,
                lanes: SmallVec::new(),
                steps: Vec::new(),
                parts: Vec::new(),
                sources: Vec::new(),
            },
            written: Vec::with_capacity(STEPS_EXPECTED),
            lanes: SmallVec::from_elem(0, lanes),
            sent: SmallVec::new(),
            received: SmallVec::new(),
        }
    }

    pub(crate) fn rank(&self) -> Rank {
        self.plan.rank
    }

    pub(crate) fn world(&self) -> u32 {
        self.plan.world
    }

    /// Reserves scratch and returns where it begins.
    pub(crate) fn scratch(&mut self, len: u64) -> u64 {
        let at = self.plan.scratch_len;
        self.plan.scratch_len += len;
        at
    }

    /// Declares in which order operands are combined, for more than two ranks.
    pub(crate) fn order(&mut self, exact: Order, half: Order) {
        if self.plan.world > 2 {
            self.plan.exact_order = exact;
            self.plan.half_order = half;
        }
    }

    /// Steps written to `lane` so far: what another lane waits for to come after them.
    pub(crate) fn steps_in(&self, lane: u32) -> u32 {
        self.lanes[lane as usize]
    }

    fn push(&mut self, lane: u32, label: &'static str, waits: &[(u32, u32)], op: Op) {
        self.lanes[lane as usize] += 1;
        self.written.push((lane, Step { op, waits: after(waits), label }));
    }

    pub(crate) fn send(
        &mut self,
        lane: u32,
        label: &'static str,
        waits: &[(u32, u32)],
        messages: impl IntoIterator<Item = (Rank, Span)>,
    ) {
        let parts = number(&mut self.plan.parts, &mut self.sent, messages);
        self.push(lane, label, waits, Op::Send { parts });
    }

    pub(crate) fn recv(
        &mut self,
        lane: u32,
        label: &'static str,
        waits: &[(u32, u32)],
        messages: impl IntoIterator<Item = (Rank, Span)>,
    ) {
        let parts = number(&mut self.plan.parts, &mut self.received, messages);
        self.push(lane, label, waits, Op::Recv { parts });
    }

    #[expect(clippy::too_many_arguments, reason = "one for each field of the step")]
    pub(crate) fn recv_reduce(
        &mut self,
        lane: u32,
        label: &'static str,
        waits: &[(u32, u32)],
        peers: impl IntoIterator<Item = Rank>,
        local: Option<Local>,
        dst: Span,
        finish: Finish,
    ) {
        let start = self.plan.parts.len();
        for peer in peers {
            let slot = next_slot(&mut self.received, peer);
            self.plan.parts.push(Part { peer, slot, span: dst });
        }
        let parts = self.slice(start);
        self.push(lane, label, waits, Op::RecvReduce { parts, local, dst, finish });
    }

    pub(crate) fn copy(
        &mut self,
        lane: u32,
        label: &'static str,
        waits: &[(u32, u32)],
        src: Span,
        dst: Span,
    ) {
        self.push(lane, label, waits, Op::Copy { src, dst });
    }

    #[expect(clippy::too_many_arguments, reason = "one for each field of the step")]
    pub(crate) fn reduce(
        &mut self,
        lane: u32,
        label: &'static str,
        waits: &[(u32, u32)],
        sources: impl IntoIterator<Item = Span>,
        local: Option<Local>,
        dst: Span,
        finish: Finish,
    ) {
        let start = self.plan.sources.len();
        self.plan.sources.extend(sources);
        let sources = Slice { start: start as u32, len: (self.plan.sources.len() - start) as u32 };
        self.push(lane, label, waits, Op::Reduce { sources, local, dst, finish });
    }

    fn slice(&self, start: usize) -> Slice {
        Slice { start: start as u32, len: (self.plan.parts.len() - start) as u32 }
    }

    /// The plan.
    pub(crate) fn build(mut self) -> Plan {
        // Not every rank needs every lane.
        while self.lanes.last() == Some(&0) {
            self.lanes.pop();
        }
        let Some(&(_, any)) = self.written.first() else { return self.plan };
        let mut start = 0;
        for len in &mut self.lanes {
            self.plan.lanes.push(Lane { steps: Slice { start, len: *len } });
            start += *len;
            // From now on: where the lane's next step goes.
            *len = start - *len;
        }
        self.plan.steps = vec![any; self.written.len()];
        for (lane, step) in self.written {
            let next = &mut self.lanes[lane as usize];
            self.plan.steps[*next as usize] = step;
            *next += 1;
        }
        self.plan
    }
}
