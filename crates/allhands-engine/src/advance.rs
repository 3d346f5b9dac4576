//! How lanes advance: steps begin when what they wait for is done, and end when all their parts are.

use allhands_plan::{Op as Code, Rank};
use allhands_wire::{LOAN_LEN, Loan};
use smallvec::SmallVec;

use crate::buffers::{ByteSpan, Combine, Operand, REDUCE_BLOCK};
use crate::engine::{DONE, Engine, Loans, Pull};
use crate::op::{Body, Content, LoanBase, OpKey, OpState, PartAt};
use crate::outbound::Message;

impl Engine {
    /// Begins every step that may begin, until none may.
    pub(crate) fn advance(&mut self, op: &mut OpState) {
        let Body::Collective(prepared) = &op.body else { return };
        let prepared = prepared.clone();
        let plan = prepared.plan();
        loop {
            let mut changed = false;
            for (lane, steps) in plan.lanes().iter().enumerate() {
                let steps = plan.steps(steps);
                while !op.lanes[lane].active && (op.lanes[lane].at as usize) < steps.len() {
                    let step = &steps[op.lanes[lane].at as usize];
                    let ready = step
                        .waits
                        .iter()
                        .flatten()
                        .all(|wait| op.lanes[wait.lane as usize].at >= wait.steps);
                    if !ready {
                        break;
                    }
                    self.begin(op, lane);
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
        op.lanes_done = plan
            .lanes()
            .iter()
            .zip(&op.lanes)
            .filter(|(steps, state)| state.at as usize >= plan.steps(steps).len())
            .count();
    }

    /// Begins the current step of `lane`; local work is done at once.
    fn begin(&mut self, op: &mut OpState, lane: usize) {
        let Body::Collective(prepared) = &op.body else { return };
        let prepared = prepared.clone();
        let plan = prepared.plan();
        let size = op.element_size;
        let step = &plan.steps(&plan.lanes()[lane])[op.lanes[lane].at as usize];
        match &step.op {
            Code::Send { parts } => {
                let parts = plan.parts(parts);
                self.open(op, lane, parts.len());
                for (at, part) in parts.iter().enumerate() {
                    let span = ByteSpan::of(part.span, size);
                    let at = PartAt { lane: lane as u8, part: at as u32 };
                    self.post_send(op, at, part.peer, part.slot, span);
                }
            }
            Code::Recv { parts } | Code::RecvReduce { parts, .. } => {
                let reduces = matches!(step.op, Code::RecvReduce { .. });
                let parts = plan.parts(parts);
                self.open(op, lane, parts.len());
                if reduces && parts.len() > 1 {
                    let each = parts[0].span.len as usize * size;
                    op.lanes[lane].assembly = self.spare.take_scratch(each * parts.len());
                }
                op.lanes[lane].reduced = 0;
                for (at, part) in parts.iter().enumerate() {
                    let place = PartAt { lane: lane as u8, part: at as u32 };
                    self.take_parked(op, place, part.peer, part.slot);
                }
            }
            Code::Copy { src, dst } => {
                op.buffers.copy(ByteSpan::of(*src, size), ByteSpan::of(*dst, size));
                op.lanes[lane].at += 1;
            }
            Code::Reduce { sources, local, dst, finish } => {
                let mut operands: SmallVec<[Operand<'_>; 8]> = plan
                    .sources(sources)
                    .iter()
                    .map(|span| Operand::Span(ByteSpan::of(*span, size)))
                    .collect();
                if let Some(local) = local {
                    operands
                        .insert(local.at as usize, Operand::Span(ByteSpan::of(local.span, size)));
                }
                let dst = ByteSpan::of(*dst, size);
                let combine = combine(op, *finish);
                op.buffers.reduce(combine, dst, 0, dst.len, &operands);
                op.lanes[lane].at += 1;
            }
        }
    }

    /// Marks the step of `lane` as begun; a step without parts ends at once.
    fn open(&mut self, op: &mut OpState, lane: usize, parts: usize) {
        let state = &mut op.lanes[lane];
        state.moved.clear();
        state.moved.resize(parts, 0);
        state.carried = 0;
        state.open = parts as u32;
        if parts == 0 {
            state.at += 1;
        } else {
            state.active = true;
        }
    }

    fn post_send(&mut self, op: &mut OpState, at: PartAt, to: Rank, slot: u32, span: ByteSpan) {
        let peer = self.group_ref(op.group).peer_of(to);
        let state = &mut self.peers[peer.index()];
        let loan = op
            .loan
            .filter(|_| state.loans == Loans::Accepted && span.len >= self.config.loan_min.max(1))
            .and_then(|base| describe_loan(base, span));
        state.out.messages.push_back(Message {
            op: op.key,
            at,
            group: op.group,
            channel: op.channel,
            seq: op.seq,
            slot,
            fingerprint: op.fingerprint,
            total: span.len,
            framed: 0,
            announced: false,
            eager: 0,
            loan,
            granted: false,
        });
        self.mark_dirty(peer);
    }

    /// Hands a newly active receive what has come of its message already.
    fn take_parked(&mut self, op: &mut OpState, at: PartAt, source: Rank, slot: u32) {
        let Some(found) = op.parked.iter().position(|p| p.source == source && p.slot == slot)
        else {
            return;
        };
        let parked = op.parked.swap_remove(found);
        match parked.content {
            Content::Bytes(bytes) if bytes.is_empty() && parked.len > 0 => {}
            Content::Bytes(bytes) => {
                self.land(op, at, &bytes);
                self.spare.keep_held(bytes);
            }
            Content::Loan(loan) => {
                let peer = self.group_ref(op.group).peer_of(source);
                op.pulling.push(at);
                self.pulls.push_back(Pull { peer, loan, op: op.key, at, slot });
            }
        }
    }

    /// Bytes for an active receive, in the order in which they were sent. Returns whether its step ended.
    pub(crate) fn land(&mut self, op: &mut OpState, at: PartAt, bytes: &[u8]) -> bool {
        let lane = usize::from(at.lane);
        let part = at.part as usize;
        let span = op.span(at);
        let size = op.element_size;
        enum How {
            Copy,
            Stream,
            Assemble,
        }
        let how = match op.step(lane).map(|step| &step.op) {
            Some(Code::RecvReduce { .. }) if op.lanes[lane].moved.len() == 1 => How::Stream,
            Some(Code::RecvReduce { .. }) => How::Assemble,
            _ => How::Copy,
        };
        match how {
            How::Copy => {
                op.buffers.write(span, op.lanes[lane].moved[part], bytes);
                op.lanes[lane].moved[part] += bytes.len();
            }
            How::Assemble => {
                let state = &mut op.lanes[lane];
                let from = part * span.len + state.moved[part];
                state.assembly[from..from + bytes.len()].copy_from_slice(bytes);
                state.moved[part] += bytes.len();
                reduce_assembled(op, lane, span);
            }
            How::Stream => {
                let mut bytes = bytes;
                if op.lanes[lane].carried > 0 {
                    let state = &mut op.lanes[lane];
                    let have = usize::from(state.carried);
                    let take = bytes.len().min(size - have);
                    state.carry[have..have + take].copy_from_slice(&bytes[..take]);
                    state.carried += take as u8;
                    bytes = &bytes[take..];
                    if usize::from(state.carried) == size {
                        let whole = state.carry;
                        state.carried = 0;
                        reduce_stream(op, lane, span, &whole[..size]);
                    }
                }
                let whole = bytes.len() / size * size;
                if whole > 0 {
                    reduce_stream(op, lane, span, &bytes[..whole]);
                }
                let rest = &bytes[whole..];
                let state = &mut op.lanes[lane];
                if !rest.is_empty() {
                    state.carry[..rest.len()].copy_from_slice(rest);
                    state.carried = rest.len() as u8;
                }
            }
        }
        self.part_done_if_full(op, at, span.len)
    }

    /// Bytes that a link put straight into the window of an active receive.
    pub(crate) fn landed(&mut self, op: &mut OpState, at: PartAt, bytes: usize) -> bool {
        let lane = usize::from(at.lane);
        let span = op.span(at);
        op.lanes[lane].moved[at.part as usize] += bytes;
        if !op.lanes[lane].assembly.is_empty() {
            reduce_assembled(op, lane, span);
        }
        self.part_done_if_full(op, at, span.len)
    }

    /// Where the next bytes of an active receive may be put without a copy; empty where they must pass
    /// through [`Engine::land`].
    pub(crate) fn landing(op: &mut OpState, at: PartAt) -> &mut [u8] {
        let lane = usize::from(at.lane);
        let part = at.part as usize;
        let span = op.span(at);
        let reduces = matches!(op.step(lane).map(|s| &s.op), Some(Code::RecvReduce { .. }));
        let state = &mut op.lanes[lane];
        let moved = state.moved[part];
        if moved >= span.len {
            &mut []
        } else if !reduces {
            op.buffers.window(span, moved)
        } else if state.moved.len() > 1 {
            &mut state.assembly[part * span.len + moved..(part + 1) * span.len]
        } else {
            &mut []
        }
    }

    fn part_done_if_full(&mut self, op: &mut OpState, at: PartAt, len: usize) -> bool {
        let state = &mut op.lanes[usize::from(at.lane)];
        if state.moved[at.part as usize] < len {
            return false;
        }
        state.moved[at.part as usize] = DONE;
        state.open -= 1;
        if state.open == 0 {
            state.active = false;
            state.at += 1;
            let assembly = std::mem::take(&mut state.assembly);
            self.spare.keep_scratch(assembly);
            if !matches!(op.body, Body::Collective(_)) {
                op.lanes_done = 1;
            }
            return true;
        }
        false
    }

    /// Bytes of an active send are in the link's hands, or a loan has come back.
    pub(crate) fn part_moved(&mut self, key: OpKey, at: PartAt, bytes: usize) {
        let Some(mut op) = self.take_op(key) else { return };
        let span = op.span(at);
        op.lanes[usize::from(at.lane)].moved[at.part as usize] += bytes;
        if self.part_done_if_full(&mut op, at, span.len) {
            self.advance(&mut op);
        }
        self.settle_op(op);
    }
}

fn combine(op: &OpState, finish: allhands_plan::Finish) -> Combine {
    let kernel = op.kernel.expect("a plan that reduces is refused without a kernel");
    let finish = matches!(finish, allhands_plan::Finish::Last).then_some(op.world);
    Combine { kernel, finish }
}

/// One peer's message, reduced as it comes.
fn reduce_stream(op: &mut OpState, lane: usize, span: ByteSpan, bytes: &[u8]) {
    let Some(Code::RecvReduce { local, finish, .. }) = op.step(lane).map(|step| &step.op) else {
        return;
    };
    let mut operands: SmallVec<[Operand<'_>; 2]> = SmallVec::new();
    operands.push(Operand::Bytes(bytes));
    if let Some(local) = local {
        let local_span = Operand::Span(ByteSpan::of(local.span, op.element_size));
        operands.insert(local.at as usize, local_span);
    }
    let combine = combine(op, *finish);
    let from = op.lanes[lane].moved[0];
    op.buffers.reduce(combine, span, from, bytes.len(), &operands);
    op.lanes[lane].moved[0] += bytes.len();
}

/// Several peers' messages: reduces the stretch that all of them have reached, in canonical order.
fn reduce_assembled(op: &mut OpState, lane: usize, span: ByteSpan) {
    let size = op.element_size;
    let state = &op.lanes[lane];
    let reached =
        state.moved.iter().map(|&m| if m == DONE { span.len } else { m }).min().unwrap_or(0);
    let reached = reached / size * size;
    let from = state.reduced;
    if reached == from || (reached < span.len && reached - from < REDUCE_BLOCK) {
        return;
    }
    let Some(Code::RecvReduce { local, finish, .. }) = op.step(lane).map(|step| &step.op) else {
        return;
    };
    let (local, combine) = (*local, combine(op, *finish));
    let assembly = std::mem::take(&mut op.lanes[lane].assembly);
    let mut operands: SmallVec<[Operand<'_>; 8]> = assembly
        .chunks_exact(span.len)
        .map(|message| Operand::Bytes(&message[from..reached]))
        .collect();
    if let Some(local) = local {
        let local_span = Operand::Span(ByteSpan::of(local.span, size));
        operands.insert(local.at as usize, local_span);
    }
    op.buffers.reduce(combine, span, from, reached - from, &operands);
    drop(operands);
    op.lanes[lane].assembly = assembly;
    op.lanes[lane].reduced = reached;
}

fn describe_loan(base: LoanBase, span: ByteSpan) -> Option<[u8; LOAN_LEN]> {
    let begin = match span.buffer {
        allhands_plan::Buffer::Data => base.data?,
        allhands_plan::Buffer::Input => base.input?,
        allhands_plan::Buffer::Scratch => return None,
    };
    let loan = Loan {
        segment: base.segment,
        offset: begin + span.offset as u64,
        len: span.len as u64,
        generation: base.generation,
    };
    Some(loan.encode())
}
