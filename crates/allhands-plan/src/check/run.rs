//! Runs plans on symbols, without buffering.

use smallvec::SmallVec;

use super::defect::{At, Defect, STUCK_MAX, Stuck};
use super::expr::{Expr, Exprs};
use super::memory::{Memory, Run, Runs, Value};
use super::structure::{Messages, Side};
use crate::plan::{Buffer, Finish, Local, Op, Part, Plan, Rank, Span, Step};
use crate::shape::{Own, Shape};

/// What a run leaves.
pub(super) struct Outcome {
    pub(super) exprs: Exprs,
    /// For each rank.
    pub(super) data: Vec<Memory>,
    /// Messages on the longest path.
    pub(super) rounds: u32,
    /// For each rank: whose beginning it knows of. Only for barriers.
    pub(super) known: Vec<Vec<bool>>,
}

pub(super) fn run(plans: &[Plan], messages: &Messages) -> Result<Outcome, Defect> {
    let world = plans.len() as u32;
    let mut machine = Machine {
        plans,
        messages,
        exprs: Exprs::new(world),
        memory: plans.iter().map(memory).collect(),
        lanes: plans.iter().map(|plan| vec![LaneState::default(); plan.lanes.len()]).collect(),
        ends: plans.iter().map(|plan| vec![End::default(); plan.steps.len()]).collect(),
        inbox: messages.list.iter().map(|_| None).collect(),
        active: vec![[false; 2]; messages.list.len()],
        ready: Vec::new(),
        barrier: plans.iter().any(|plan| plan.shape == Shape::Barrier),
    };
    for plan in plans {
        machine.ready.extend((0..plan.lanes.len() as u32).rev().map(|lane| (plan.rank, lane)));
    }
    while let Some((rank, lane)) = machine.ready.pop() {
        machine.advance(rank, lane)?;
    }
    machine.all_ended()?;
    let rounds = machine.ends.iter().flatten().map(|end| end.depth).max().unwrap_or(0);
    let known = machine.known();
    Ok(Outcome {
        exprs: machine.exprs,
        data: machine.memory.into_iter().map(|[_, data, _]| data).collect(),
        rounds,
        known,
    })
}

/// The buffers of a rank at the start.
fn memory(plan: &Plan) -> [Memory; 3] {
    let own = Exprs::leaf(plan.rank);
    let mut data = Memory::new(plan.data_len, None);
    match &plan.shape {
        Shape::AllReduce { .. } | Shape::Reduce { .. } => {
            data = Memory::new(plan.data_len, Some(own));
        }
        Shape::Broadcast { root, .. } if *root == plan.rank => {
            data = Memory::new(plan.data_len, Some(own));
        }
        Shape::AllGather { counts, own: Own::InPlace } => {
            let value = Value { exact: own, half: own, last: false, index: 0 };
            let run = Run { len: counts.of(plan.rank), value: Some(value) };
            data.write(counts.offset(plan.rank), &[run]);
        }
        _ => {}
    }
    [Memory::new(plan.input_len, Some(own)), data, Memory::new(plan.scratch_len, None)]
}

#[derive(Clone, Copy, Default)]
struct LaneState {
    /// Steps that have ended.
    ended: u32,
    /// Whether the next one is active.
    active: bool,
    /// Its parts that are under way.
    pending: u32,
    /// Messages on the longest path to its activation.
    depth: u32,
    /// The same to the latest of its messages so far.
    latest: u32,
}

/// What is known at the end of a step.
#[derive(Clone, Default)]
struct End {
    depth: u32,
    /// Whose beginning is known of.
    known: Vec<bool>,
}

struct Machine<'a> {
    plans: &'a [Plan],
    messages: &'a Messages,
    exprs: Exprs,
    memory: Vec<[Memory; 3]>,
    lanes: Vec<Vec<LaneState>>,
    ends: Vec<Vec<End>>,
    /// Contents of messages of reductions that wait for the others.
    inbox: Vec<Option<Runs>>,
    /// For each message: whether its sender and its receiver are active.
    active: Vec<[bool; 2]>,
    ready: Vec<(Rank, u32)>,
    barrier: bool,
}

impl<'a> Machine<'a> {
    fn step(&self, rank: Rank, lane: u32, step: u32) -> (usize, &'a Step) {
        let plan = &self.plans[rank.index()];
        let index = plan.lanes[lane as usize].steps.range().start + step as usize;
        (index, &plan.steps[index])
    }

    fn advance(&mut self, rank: Rank, lane: u32) -> Result<(), Defect> {
        let plan = &self.plans[rank.index()];
        let state = self.lanes[rank.index()][lane as usize];
        if state.active || state.ended == plan.lanes[lane as usize].steps.len {
            return Ok(());
        }
        let (_, step) = self.step(rank, lane, state.ended);
        let lanes = &self.lanes[rank.index()];
        if step.waits.iter().flatten().any(|wait| lanes[wait.lane as usize].ended < wait.steps) {
            return Ok(());
        }
        let depth = self.before(rank, lane, state.ended).map(|end| end.depth).max().unwrap_or(0);
        let parts = match step.op {
            Op::Send { parts } | Op::Recv { parts } | Op::RecvReduce { parts, .. } => parts,
            Op::Copy { .. } | Op::Reduce { .. } => crate::plan::Slice::default(),
        };
        let state = &mut self.lanes[rank.index()][lane as usize];
        *state = LaneState { active: true, pending: parts.len, depth, latest: depth, ..*state };
        if parts.len == 0 {
            return self.end(rank, lane);
        }
        let side = usize::from(!matches!(step.op, Op::Send { .. }));
        for part in parts.range() {
            let message = self.messages.of_part[rank.index()][part] as usize;
            self.active[message][side] = true;
            if self.active[message] == [true; 2] {
                self.deliver(message)?;
            }
        }
        Ok(())
    }

    /// The ends of the steps that come before a step on its own rank.
    fn before(&self, rank: Rank, lane: u32, step: u32) -> impl Iterator<Item = &End> {
        let (index, this) = self.step(rank, lane, step);
        let ends = &self.ends[rank.index()];
        let previous = (step > 0).then(|| &ends[index - 1]);
        let others = this.waits.iter().flatten();
        previous
            .into_iter()
            .chain(others.map(move |w| &ends[self.step(rank, w.lane, w.steps - 1).0]))
    }

    fn deliver(&mut self, number: usize) -> Result<(), Defect> {
        let message = self.messages.list[number];
        let (from, to) = (message.sender, message.receiver);
        let span = self.part(from).span;
        let contents = self.read(self.at(from), from.rank, span)?;
        let (_, step) = self.step(to.rank, to.lane, to.step);
        if matches!(step.op, Op::RecvReduce { .. }) {
            self.inbox[number] = Some(contents);
        } else {
            let span = self.part(to).span;
            self.buffer(to.rank, span.buffer).write(span.offset, &contents);
        }
        let depth = [from, to]
            .map(|side| self.lanes[side.rank.index()][side.lane as usize].depth)
            .into_iter()
            .max()
            .unwrap_or(0)
            + 1;
        for side in [from, to] {
            let state = &mut self.lanes[side.rank.index()][side.lane as usize];
            state.latest = state.latest.max(depth);
            state.pending -= 1;
            if state.pending == 0 {
                self.end(side.rank, side.lane)?;
            }
        }
        Ok(())
    }

    /// Ends the active step of a lane.
    fn end(&mut self, rank: Rank, lane: u32) -> Result<(), Defect> {
        let number = self.lanes[rank.index()][lane as usize].ended;
        let (index, step) = self.step(rank, lane, number);
        let plan = &self.plans[rank.index()];
        let at = plan.at(lane, number);
        match step.op {
            Op::Send { .. } | Op::Recv { .. } => {}
            Op::Copy { src, dst } => {
                let contents = self.read(at, rank, src)?;
                self.buffer(rank, dst.buffer).write(dst.offset, &contents);
            }
            Op::Reduce { sources, local, dst, finish } => {
                let operands = plan
                    .sources(&sources)
                    .iter()
                    .map(|&source| self.read(at, rank, source))
                    .collect::<Result<_, _>>()?;
                self.reduce(at, operands, local, dst, finish)?;
            }
            Op::RecvReduce { parts, local, dst, finish } => {
                let operands = parts
                    .range()
                    .map(|part| {
                        let message = self.messages.of_part[rank.index()][part] as usize;
                        self.inbox[message].take().unwrap_or_default()
                    })
                    .collect();
                self.reduce(at, operands, local, dst, finish)?;
            }
        }
        if self.barrier {
            self.learn(rank, lane, number);
        }
        let state = &mut self.lanes[rank.index()][lane as usize];
        self.ends[rank.index()][index].depth = state.latest;
        state.ended += 1;
        state.active = false;
        let lanes = self.lanes[rank.index()].iter().zip(&plan.lanes);
        let waiting = lanes.enumerate().filter(|(_, (s, l))| !s.active && s.ended < l.steps.len);
        self.ready.extend(waiting.map(|(lane, _)| (rank, lane as u32)));
        Ok(())
    }

    fn reduce(
        &mut self,
        at: At,
        mut operands: Vec<Runs>,
        local: Option<Local>,
        dst: Span,
        finish: Finish,
    ) -> Result<(), Defect> {
        if let Some(local) = local {
            let contents = self.read(at, at.rank, local.span)?;
            operands.insert(local.at as usize, contents);
        }
        let mut result = Runs::new();
        // Operand by operand: the run that comes next, and how much of it is used up.
        let mut cursors: SmallVec<[(usize, u64); 8]> = operands.iter().map(|_| (0, 0)).collect();
        let (mut exact, mut half): (Vec<Expr>, Vec<Expr>) = (Vec::new(), Vec::new());
        let mut done = 0;
        while done < dst.len {
            exact.clear();
            half.clear();
            let mut index = None;
            let mut len = dst.len - done;
            for (runs, (number, used)) in operands.iter().zip(&cursors) {
                let run = runs[*number];
                len = len.min(run.len - used);
                // Reading has made sure that there is a value.
                let Some(value) = run.value else { continue };
                if value.last {
                    return Err(Defect::AfterLast { at });
                }
                let element = value.index + used;
                let one = *index.get_or_insert(element);
                if one != element {
                    return Err(Defect::Mixed { at, one, other: element });
                }
                exact.push(value.exact);
                half.push(value.half);
            }
            let combines = exact.len() > 1;
            let twice = |rank| Defect::Twice { at, rank };
            let exact = self.exprs.tree(&mut exact).map_err(twice)?;
            let half = self.exprs.tree(&mut half).map_err(twice)?;
            let half = if combines { self.exprs.round(half) } else { half };
            let last = finish == Finish::Last;
            let value = Value { exact, half, last, index: index.unwrap_or(0) };
            result.push(Run { len, value: Some(value) });
            for (runs, (number, used)) in operands.iter().zip(&mut cursors) {
                *used += len;
                if *used == runs[*number].len {
                    (*number, *used) = (*number + 1, 0);
                }
            }
            done += len;
        }
        self.buffer(at.rank, dst.buffer).write(dst.offset, &result);
        Ok(())
    }

    /// What a span holds; all of it must have been written.
    fn read(&self, at: At, rank: Rank, span: Span) -> Result<Runs, Defect> {
        let runs = self.memory[rank.index()][span.buffer as usize].read(span.offset, span.len);
        if runs.iter().any(|run| run.value.is_none()) {
            return Err(Defect::Undefined { at, span });
        }
        Ok(runs)
    }

    fn buffer(&mut self, rank: Rank, buffer: Buffer) -> &mut Memory {
        &mut self.memory[rank.index()][buffer as usize]
    }

    fn part(&self, side: Side) -> &'a Part {
        &self.plans[side.rank.index()].parts[side.part as usize]
    }

    fn at(&self, side: Side) -> At {
        self.plans[side.rank.index()].at(side.lane, side.step)
    }

    /// Who is known to have begun when a step ends, from what comes before it and from messages alone:
    /// that a send ended tells nothing, as it may have been buffered.
    fn learn(&mut self, rank: Rank, lane: u32, step: u32) {
        let mut known = self.begun(rank, lane, step);
        let (index, this) = self.step(rank, lane, step);
        if let Op::Recv { parts } | Op::RecvReduce { parts, .. } = this.op {
            for part in parts.range() {
                let message = self.messages.of_part[rank.index()][part] as usize;
                let from = self.messages.list[message].sender;
                unite(&mut known, &self.begun(from.rank, from.lane, from.step));
            }
        }
        self.ends[rank.index()][index].known = known;
    }

    /// Who is known to have begun when a step becomes active.
    fn begun(&self, rank: Rank, lane: u32, step: u32) -> Vec<bool> {
        let mut known = vec![false; self.plans.len()];
        known[rank.index()] = true;
        for end in self.before(rank, lane, step) {
            unite(&mut known, &end.known);
        }
        known
    }

    fn known(&self) -> Vec<Vec<bool>> {
        if !self.barrier {
            return Vec::new();
        }
        let all = |rank: usize| {
            let mut known = vec![false; self.plans.len()];
            known[rank] = true;
            for end in &self.ends[rank] {
                unite(&mut known, &end.known);
            }
            known
        };
        (0..self.plans.len()).map(all).collect()
    }

    fn all_ended(&self) -> Result<(), Defect> {
        let mut stuck = Vec::new();
        for plan in self.plans {
            for (number, lane) in plan.lanes.iter().enumerate() {
                let state = self.lanes[plan.rank.index()][number];
                if state.ended < lane.steps.len && stuck.len() < STUCK_MAX {
                    stuck.extend(self.why(plan, number as u32, state));
                }
            }
        }
        if stuck.is_empty() { Ok(()) } else { Err(Defect::Deadlock { stuck }) }
    }

    fn why(&self, plan: &Plan, lane: u32, state: LaneState) -> Option<Stuck> {
        let at = plan.at(lane, state.ended);
        let (_, step) = self.step(plan.rank, lane, state.ended);
        if !state.active {
            let lanes = &self.lanes[plan.rank.index()];
            let behind = |wait: &&crate::plan::Wait| lanes[wait.lane as usize].ended < wait.steps;
            return step.waits.iter().flatten().find(behind).map(|&wait| Stuck::Lane { at, wait });
        }
        let (Op::Send { parts } | Op::Recv { parts } | Op::RecvReduce { parts, .. }) = step.op
        else {
            return None;
        };
        let open = |part: &usize| {
            self.active[self.messages.of_part[plan.rank.index()][*part] as usize] != [true; 2]
        };
        let part = &plan.parts[parts.range().find(open)?];
        Some(Stuck::Peer { at, peer: part.peer, slot: part.slot })
    }
}

fn unite(all: &mut [bool], more: &[bool]) {
    for (all, more) in all.iter_mut().zip(more) {
        *all |= more;
    }
}
