//! Runs plans on numbers, in a random order and with random buffering: a second opinion on the checker,
//! which shares no code with it.
//!
//! A step writes its destinations from the moment it is active: they are spoilt then. Messages are read
//! from the sender's buffer at any time before the send ends. So a race that the checker overlooks spoils
//! a result sooner or later.

use crate::plan::{Finish, Op, Order, Plan, Rank, Span};
use crate::shape::{Own, Shape};

/// A deterministic generator (SplitMix64).
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// An element. What was never written, or is being written, is not sound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cell {
    sound: bool,
    /// Sum of random numbers, one for each contribution.
    sum: u64,
    /// Digest of the order of combination.
    tree: u64,
    /// The same with a mark at the end of each step.
    half: u64,
    /// Last reductions it went through.
    last: u32,
}

fn contribution(rank: Rank, index: u64) -> Cell {
    let sum = mix(mix(u64::from(rank.0) + 1).wrapping_add(index));
    Cell { sound: true, sum, tree: mix(sum), half: mix(sum), last: 0 }
}

fn add(a: Cell, b: Cell) -> Cell {
    let both = |a: u64, b: u64| mix(mix(a).wrapping_add(mix(b)));
    Cell {
        sound: a.sound && b.sound,
        sum: a.sum.wrapping_add(b.sum),
        tree: both(a.tree, b.tree),
        half: both(a.half, b.half),
        last: a.last + b.last,
    }
}

/// The canonical tree.
fn combine(operands: &[Cell]) -> Cell {
    let mut level = operands.to_vec();
    while level.len() > 1 {
        level = level.chunks(2).map(|p| if let [a, b] = p { add(*a, *b) } else { p[0] }).collect();
    }
    let mut result = level[0];
    if operands.len() > 1 {
        result.half = mix(result.half ^ 0x5555);
    }
    result
}

#[derive(Clone, Copy, Default)]
struct Lane {
    ended: usize,
    active: bool,
    pending: usize,
}

/// A message, from the moment one side is active.
struct Flight {
    key: (u32, u32, u32),
    sender: Option<(usize, usize, Span)>,
    receiver: Option<(usize, usize, usize)>,
    taken: Option<Vec<Cell>>,
}

#[derive(Clone, Copy)]
enum Event {
    Activate(usize, usize),
    Take(usize),
    Land(usize),
}

struct World<'a> {
    plans: &'a [Plan],
    buffers: Vec<[Vec<Cell>; 3]>,
    lanes: Vec<Vec<Lane>>,
    inbox: Vec<Vec<Vec<Vec<Cell>>>>,
    flights: Vec<Flight>,
    buffered: bool,
    /// Which ranks have begun a step.
    begun: Vec<bool>,
}

/// Runs the plans once in an order that `dice` chooses; says what went wrong.
pub(super) fn execute(plans: &[Plan], dice: &mut Dice) -> Result<(), String> {
    let mut world = World {
        plans,
        buffers: plans.iter().map(start).collect(),
        lanes: plans.iter().map(|p| vec![Lane::default(); p.lanes().len()]).collect(),
        inbox: plans.iter().map(|p| vec![Vec::new(); p.lanes().len()]).collect(),
        flights: Vec::new(),
        buffered: dice.below(2) == 0,
        begun: vec![false; plans.len()],
    };
    loop {
        let events = world.events();
        if events.is_empty() {
            break;
        }
        world.happen(events[dice.below(events.len())])?;
    }
    world.judge()
}

fn start(plan: &Plan) -> [Vec<Cell>; 3] {
    let rank = plan.rank();
    let own = |len: u64| (0..len).map(|i| contribution(rank, i)).collect::<Vec<_>>();
    let mut data = vec![Cell::default(); plan.data_len() as usize];
    match plan.shape() {
        Shape::AllReduce { len } | Shape::Reduce { len, .. } => data = own(*len),
        Shape::Broadcast { len, root } if *root == rank => data = own(*len),
        Shape::AllGather { counts, own: Own::InPlace } => {
            let at = counts.offset(rank) as usize;
            data[at..at + counts.of(rank) as usize].copy_from_slice(&own(counts.of(rank)));
        }
        _ => {}
    }
    [own(plan.input_len()), data, vec![Cell::default(); plan.scratch_len() as usize]]
}

impl World<'_> {
    fn op(&self, rank: usize, lane: usize) -> Option<Op> {
        let plan = &self.plans[rank];
        plan.steps(&plan.lanes()[lane]).get(self.lanes[rank][lane].ended).map(|step| step.op)
    }

    fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (rank, plan) in self.plans.iter().enumerate() {
            for (number, lane) in plan.lanes().iter().enumerate() {
                let state = self.lanes[rank][number];
                if let (false, Some(step)) = (state.active, plan.steps(lane).get(state.ended)) {
                    let met =
                        |lane: u32| self.lanes[rank].get(lane as usize).map_or(0, |l| l.ended);
                    if step.waits.iter().flatten().all(|w| met(w.lane) >= w.steps as usize) {
                        events.push(Event::Activate(rank, number));
                    }
                }
            }
        }
        for (number, flight) in self.flights.iter().enumerate() {
            if flight.sender.is_some()
                && flight.taken.is_none()
                && (self.buffered || flight.receiver.is_some())
            {
                events.push(Event::Take(number));
            }
            if flight.taken.is_some() && flight.receiver.is_some() {
                events.push(Event::Land(number));
            }
        }
        events
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Activate(rank, lane) => self.activate(rank, lane),
            Event::Take(number) => {
                let Some((rank, lane, span)) = self.flights[number].sender else { return Ok(()) };
                self.flights[number].taken = Some(self.read(rank, span)?);
                self.part_ended(rank, lane)
            }
            Event::Land(number) => {
                let flight = self.flights.swap_remove(number);
                let (Some((rank, lane, part)), Some(cells)) = (flight.receiver, flight.taken)
                else {
                    return Ok(());
                };
                match self.op(rank, lane) {
                    Some(Op::Recv { parts }) => {
                        let span = self.plans[rank].parts(&parts)[part].span;
                        self.write(rank, span, &cells)?;
                    }
                    _ => self.inbox[rank][lane][part] = cells,
                }
                self.part_ended(rank, lane)
            }
        }
    }

    fn flight(&mut self, key: (u32, u32, u32)) -> &mut Flight {
        let known = self.flights.iter().position(|flight| flight.key == key);
        let number = known.unwrap_or_else(|| {
            self.flights.push(Flight { key, sender: None, receiver: None, taken: None });
            self.flights.len() - 1
        });
        &mut self.flights[number]
    }

    fn activate(&mut self, rank: usize, lane: usize) -> Result<(), String> {
        let plan = &self.plans[rank];
        let Some(op) = self.op(rank, lane) else { return Ok(()) };
        self.lanes[rank][lane].active = true;
        self.begun[rank] = true;
        let me = plan.rank().0;
        match op {
            Op::Send { parts } => {
                self.lanes[rank][lane].pending = parts.len as usize;
                for part in plan.parts(&parts) {
                    let flight = self.flight((me, part.peer.0, part.slot));
                    if flight.sender.replace((rank, lane, part.span)).is_some() {
                        return Err("a message is sent twice".to_owned());
                    }
                }
            }
            Op::Recv { parts } | Op::RecvReduce { parts, .. } => {
                self.lanes[rank][lane].pending = parts.len as usize;
                self.inbox[rank][lane] = vec![Vec::new(); parts.len as usize];
                for (number, part) in plan.parts(&parts).iter().enumerate() {
                    let flight = self.flight((part.peer.0, me, part.slot));
                    if flight.receiver.replace((rank, lane, number)).is_some() {
                        return Err("a message is received twice".to_owned());
                    }
                }
                match op {
                    Op::RecvReduce { local, dst, .. } if local.is_none_or(|l| l.span != dst) => {
                        self.spoil(rank, dst)?;
                    }
                    Op::RecvReduce { .. } => {}
                    _ => plan.parts(&parts).iter().try_for_each(|p| self.spoil(rank, p.span))?,
                }
            }
            Op::Copy { .. } | Op::Reduce { .. } => {}
        }
        if self.lanes[rank][lane].pending == 0 { self.end(rank, lane) } else { Ok(()) }
    }

    fn part_ended(&mut self, rank: usize, lane: usize) -> Result<(), String> {
        self.lanes[rank][lane].pending -= 1;
        if self.lanes[rank][lane].pending == 0 { self.end(rank, lane) } else { Ok(()) }
    }

    fn end(&mut self, rank: usize, lane: usize) -> Result<(), String> {
        let plan = &self.plans[rank];
        match self.op(rank, lane) {
            Some(Op::Copy { src, dst }) => {
                let cells = self.read(rank, src)?;
                self.write(rank, dst, &cells)?;
            }
            Some(Op::Reduce { sources, local, dst, finish }) => {
                let sources = plan.sources(&sources).iter();
                let operands = sources.map(|s| self.read(rank, *s)).collect::<Result<_, _>>()?;
                self.reduce(rank, operands, local, dst, finish)?;
            }
            Some(Op::RecvReduce { local, dst, finish, .. }) => {
                let operands = std::mem::take(&mut self.inbox[rank][lane]);
                self.reduce(rank, operands, local, dst, finish)?;
            }
            _ => {}
        }
        self.lanes[rank][lane].active = false;
        self.lanes[rank][lane].ended += 1;
        let left = (0..self.lanes[rank].len()).any(|lane| self.op(rank, lane).is_some());
        if *plan.shape() == Shape::Barrier && !left && self.begun.contains(&false) {
            return Err(format!("rank {rank} left the barrier too early"));
        }
        Ok(())
    }

    fn reduce(
        &mut self,
        rank: usize,
        mut operands: Vec<Vec<Cell>>,
        local: Option<crate::plan::Local>,
        dst: Span,
        finish: Finish,
    ) -> Result<(), String> {
        if let Some(local) = local {
            let cells = self.read(rank, local.span)?;
            if local.at as usize > operands.len() {
                return Err("a local operand past the last".to_owned());
            }
            operands.insert(local.at as usize, cells);
        }
        if operands.is_empty() || operands.iter().any(|o| o.len() as u64 != dst.len) {
            return Err("operands of different lengths".to_owned());
        }
        let cells: Vec<Cell> = (0..dst.len as usize)
            .map(|i| {
                let column: Vec<Cell> = operands.iter().map(|o| o[i]).collect();
                let mut cell = combine(&column);
                cell.last += u32::from(finish == Finish::Last);
                cell
            })
            .collect();
        self.write(rank, dst, &cells)
    }

    fn range(&self, rank: usize, span: Span) -> Result<std::ops::Range<usize>, String> {
        let len = self.buffers[rank][span.buffer as usize].len() as u64;
        match span.offset.checked_add(span.len) {
            Some(end) if end <= len => Ok(span.offset as usize..end as usize),
            _ => Err("a span outside its buffer".to_owned()),
        }
    }

    fn read(&self, rank: usize, span: Span) -> Result<Vec<Cell>, String> {
        let range = self.range(rank, span)?;
        Ok(self.buffers[rank][span.buffer as usize][range].to_vec())
    }

    fn write(&mut self, rank: usize, span: Span, cells: &[Cell]) -> Result<(), String> {
        let range = self.range(rank, span)?;
        let target = &mut self.buffers[rank][span.buffer as usize][range];
        if target.len() != cells.len() {
            return Err("a message of the wrong length".to_owned());
        }
        target.copy_from_slice(cells);
        Ok(())
    }

    fn spoil(&mut self, rank: usize, span: Span) -> Result<(), String> {
        let cells = vec![Cell::default(); span.len as usize];
        self.write(rank, span, &cells)
    }

    fn judge(&self) -> Result<(), String> {
        for (rank, plan) in self.plans.iter().enumerate() {
            for (number, lane) in plan.lanes().iter().enumerate() {
                if self.lanes[rank][number].ended < plan.steps(lane).len() {
                    return Err(format!("rank {rank} is stuck in lane {number}"));
                }
            }
            let input = &self.buffers[rank][0];
            if (0..).zip(input).any(|(i, cell)| *cell != contribution(plan.rank(), i)) {
                return Err(format!("rank {rank} lost its input"));
            }
            for (element, wanted) in self.wanted(plan) {
                let found = self.buffers[rank][1][element as usize];
                wanted.judge(found, self.plans).map_err(|why| {
                    format!("rank {rank}, element {element}: {why}, found {found:?}")
                })?;
            }
            if matches!(plan.shape(), Shape::AllReduce { .. })
                && self.buffers[rank][1] != self.buffers[0][1]
            {
                return Err(format!("rank {rank} got other bits than rank 0"));
            }
        }
        if self.flights.is_empty() { Ok(()) } else { Err("a message is left".to_owned()) }
    }

    /// What each element of a rank's data should be.
    fn wanted(&self, plan: &Plan) -> Vec<(u64, Wanted)> {
        let rank = plan.rank();
        let moved = |at: u64, len: u64, source: Rank, from: u64| {
            (0..len).map(move |i| (at + i, Wanted::Moved(source, from + i)))
        };
        let reduced =
            |len: u64, from: u64| (0..len).map(move |i| (i, Wanted::Reduced(from + i))).collect();
        let gathered = |counts: &crate::shape::Counts| {
            (0..plan.world())
                .map(Rank)
                .flat_map(|peer| moved(counts.offset(peer), counts.of(peer), peer, 0))
                .collect()
        };
        match plan.shape() {
            Shape::AllReduce { len } => reduced(*len, 0),
            Shape::Reduce { len, root } if *root == rank => reduced(*len, 0),
            Shape::ReduceScatter { counts } => reduced(counts.of(rank), counts.offset(rank)),
            Shape::Broadcast { len, root } => moved(0, *len, *root, 0).collect(),
            Shape::AllGather { counts, .. } => gathered(counts),
            Shape::Gather { counts, root } if *root == rank => gathered(counts),
            Shape::Scatter { counts, root } => {
                moved(0, counts.of(rank), *root, counts.offset(rank)).collect()
            }
            Shape::AllToAll { recv, .. } => (self.plans.iter())
                .flat_map(|peer| {
                    let Shape::AllToAll { send, .. } = peer.shape() else { return Vec::new() };
                    let (at, len) = (recv.offset(peer.rank()), recv.of(peer.rank()));
                    moved(at, len, peer.rank(), send.offset(rank)).collect()
                })
                .collect(),
            Shape::Reduce { .. } | Shape::Gather { .. } | Shape::Barrier => Vec::new(),
        }
    }
}

#[derive(Clone, Copy)]
enum Wanted {
    Moved(Rank, u64),
    Reduced(u64),
}

impl Wanted {
    fn judge(self, found: Cell, plans: &[Plan]) -> Result<(), &'static str> {
        match self {
            Self::Moved(source, index) if found == contribution(source, index) => Ok(()),
            Self::Moved(..) => Err("not what was to be moved here"),
            Self::Reduced(index) => {
                let all: Vec<Cell> =
                    plans.iter().map(|plan| contribution(plan.rank(), index)).collect();
                let canonical = combine(&all);
                if !found.sound || found.sum != canonical.sum {
                    return Err("not the sum of all");
                }
                if found.last != u32::from(plans.len() > 1) {
                    return Err("not finished once");
                }
                let plan = &plans[0];
                if plan.exact_order() == Order::Canonical && found.tree != canonical.tree {
                    return Err("not in canonical order");
                }
                if plan.half_order() == Order::Canonical && found.half != canonical.half {
                    return Err("rounded too often for the canonical order");
                }
                Ok(())
            }
        }
    }
}
