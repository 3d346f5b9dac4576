//! From the plans of all members to one member's instructions.

use allhands_plan::{
    Algorithm, Buffer, Counts, Finish, Lane, Op as Code, Own, Part, Plan, PlanError, Rank, Shape,
    Span, Step,
};
use smallvec::SmallVec;

/// Bytes that a tile publishes at most: two ranks' worth of it stays in a second-level cache.
pub const TILE_BYTES: usize = 256 * 1024;

/// Bytes to which the blocks of a tile are aligned where the tile can choose: a cache line.
const LINE: u64 = 64;

/// Publications of one rank in one tile, signals without bytes included. Fewer than a ring has places, so that a tile
/// never waits for itself.
const PUBLICATIONS_MAX: usize = 8;

/// Publications with bytes of one rank in one tile. A board has room for the bytes of that many at least.
pub const COPIES: usize = 2;

/// A run of bytes inside a block of a buffer, where it is in the first tile. Each further tile has it one step on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) buffer: Buffer,
    pub(super) at: usize,
    pub(super) len: usize,
}

impl Run {
    fn overlaps(&self, other: &Self) -> bool {
        self.buffer == other.buffer
            && self.at < other.at + other.len
            && other.at < self.at + self.len
    }
}

/// Bytes of another member: part of one of its publications.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remote {
    pub(super) rank: Rank,
    /// Number of the publication within its tile.
    pub(super) publication: u32,
    /// First byte within the publication.
    pub(super) from: usize,
    /// The same bytes in the publisher's buffers.
    pub(super) source: Run,
}

/// A condition on a lent publication: a member has taken it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Await {
    pub(super) publication: u32,
    pub(super) rank: Rank,
}

/// Entries of one of a program's tables.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Entries {
    start: u32,
    end: u32,
}

impl Entries {
    pub(super) fn of<T>(self, table: &[T]) -> &[T] {
        &table[self.start as usize..self.end as usize]
    }

    /// Appends to a table.
    fn write<T>(table: &mut Vec<T>, entries: impl IntoIterator<Item = T>) -> Self {
        let start = table.len() as u32;
        table.extend(entries);
        Self { start, end: table.len() as u32 }
    }
}

/// This rank's own operand of a reduction.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mine {
    /// There is none.
    Nothing,
    /// The destination itself, at this position.
    InPlace(u32),
    /// A run of another buffer, at this position.
    Beside(u32, Run),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Instruction {
    /// Publishes the runs, one after the other.
    Publish { runs: Entries, len: usize, lending: Lending },
    /// Copies a part of a publication here.
    Take { from: Remote, to: Run, awaits: Entries },
    /// Combines parts of publications, and this rank's own operand, in canonical order.
    Combine { remotes: Entries, mine: Mine, to: Run, finish: Finish },
    /// Copies within this rank's memory.
    Copy { from: Run, to: Run, awaits: Entries },
    /// Nothing below `count` of this member's publications in this tile is needed any more.
    Taken { rank: Rank, count: u32 },
}

/// Whether a publication may say where bytes are, instead of holding a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lending {
    /// Always a copy: the bytes are overwritten by an instruction that their readers' progress depends on.
    Never,
    /// If these buffers lie in shared memory.
    Of { input: bool, data: bool },
}

/// What one rank does in one tile.
#[derive(Debug, Default)]
pub(super) struct Program {
    pub(super) instructions: Vec<Instruction>,
    pub(super) runs: Vec<Run>,
    pub(super) remotes: Vec<Remote>,
    pub(super) awaits: Vec<Await>,
    /// Publications of each rank in this tile.
    pub(super) publications: Vec<u32>,
    /// Where the instructions begin that only fetch: nobody waits for them but this rank's caller.
    pub(super) cut: usize,
    /// Bytes of the shortest publication of any rank that has bytes; 0 if one of this rank's is never lent.
    pub(super) least: usize,
}

/// A collective compiled for members that share memory.
#[derive(Debug)]
pub struct FlatPlan {
    pub(super) rank: Rank,
    pub(super) world: u32,
    /// Bytes of each block that a full tile covers.
    pub(super) step: usize,
    /// Full tiles.
    pub(super) full: u64,
    /// Tiles in all.
    pub(super) tiles: u64,
    pub(super) body: Program,
    /// The last tile, where the length is no multiple of a tile.
    pub(super) tail: Option<Program>,
    pub(super) reduces: bool,
}

/// How a shape is cut into tiles.
struct Tiling {
    /// A tile's shape, and that of the last one.
    shape: fn(&Shape, u64) -> Shape,
    /// Elements of each block.
    len: u64,
    /// Elements of each block in one tile.
    step: u64,
    input_stride: u64,
    data_stride: u64,
}

impl FlatPlan {
    /// Compiles `algorithm` for `rank`. `None` where a shape or an algorithm is not for shared memory: counts per
    /// rank, scratch memory, more publications a tile than a ring is sure to hold.
    ///
    /// # Errors
    /// As [`Plan::build`].
    pub fn compile(
        shape: &Shape,
        algorithm: Algorithm,
        world: u32,
        rank: Rank,
        element_size: usize,
        tile_bytes: usize,
    ) -> Result<Option<Self>, PlanError> {
        let Some(tiling) = tiling(shape, world, element_size, tile_bytes) else { return Ok(None) };
        if world < 2 || !is_flat(algorithm) {
            return Ok(None);
        }
        let program = |len| -> Result<Option<Program>, PlanError> {
            let shape = (tiling.shape)(shape, len);
            let plans = Plan::build_all(&shape, algorithm, world)?;
            let scale = Scale {
                element_size,
                block: len,
                input_stride: tiling.input_stride,
                data_stride: tiling.data_stride,
            };
            Ok(Compiler::new(&plans, rank, scale).and_then(|compiler| compiler.program(rank)))
        };
        let full = tiling.len / tiling.step;
        let rest = tiling.len % tiling.step;
        let body = if full > 0 { program(tiling.step)? } else { Some(Program::default()) };
        let tail = if rest > 0 || full == 0 { Some(program(rest)?) } else { None };
        let (Some(body), tail) = (body, tail) else { return Ok(None) };
        let tail = match tail {
            Some(None) => return Ok(None),
            Some(tail) => tail,
            None => None,
        };
        let reduces = matches!(
            shape,
            Shape::AllReduce { .. } | Shape::Reduce { .. } | Shape::ReduceScatter { .. }
        );
        let step = tiling.step as usize * element_size;
        let tiles = full + u64::from(tail.is_some());
        Ok(Some(Self { rank, world, step, full, tiles, body, tail, reduces }))
    }

    /// Whether this is the part of `rank` in a group of `world` members.
    #[inline]
    pub(super) fn is_of(&self, rank: Rank, world: usize) -> bool {
        self.rank == rank && self.world as usize == world
    }

    /// Publications of `rank` in the whole operation.
    pub(super) fn publications_of(&self, rank: Rank) -> u64 {
        let of = |program: &Program| {
            program.publications.get(rank.index()).copied().map_or(0, u64::from)
        };
        of(&self.body) * self.full + self.tail.as_ref().map_or(0, of)
    }

    /// What is done in a tile.
    #[inline]
    pub(super) fn program(&self, tile: u64) -> &Program {
        match &self.tail {
            Some(tail) if tile >= self.full => tail,
            _ => &self.body,
        }
    }

    /// Whether running it needs a reduction kernel.
    #[must_use]
    pub fn reduces(&self) -> bool {
        self.reduces
    }
}

/// Algorithms in which every rank meets every other at once. Those with rounds only add steps where a publication
/// reaches everybody anyway.
fn is_flat(algorithm: Algorithm) -> bool {
    use Algorithm::{Direct, Dissemination, KAry, TwoShot};
    matches!(algorithm, Direct | TwoShot | KAry | Dissemination)
}

/// Cuts a shape into tiles of at most `tile_bytes` a publication; `None` for shapes that are not cut.
fn tiling(shape: &Shape, world: u32, element_size: usize, tile_bytes: usize) -> Option<Tiling> {
    let ranks = u64::from(world);
    // Elements that a publication of `blocks` blocks holds of each.
    let each = |blocks: u64| {
        let step = tile_bytes as u64 / element_size as u64 / blocks;
        let line = (LINE / element_size as u64).max(1);
        let aligned = step / (line * ranks) * (line * ranks);
        if aligned > 0 { aligned } else { step }
    };
    let whole = |shape: fn(&Shape, u64) -> Shape, len: u64| Tiling {
        shape,
        len,
        step: each(1),
        input_stride: 0,
        data_stride: 0,
    };
    let tiling = match shape {
        Shape::AllReduce { len } => whole(|_, len| Shape::AllReduce { len }, *len),
        Shape::Broadcast { len, .. } => whole(
            |shape, len| Shape::Broadcast { len, root: shape.root().unwrap_or_default() },
            *len,
        ),
        Shape::Reduce { len, .. } => {
            whole(|shape, len| Shape::Reduce { len, root: shape.root().unwrap_or_default() }, *len)
        }
        Shape::AllGather { counts: Counts::Equal(len), own: Own::Input } => Tiling {
            data_stride: *len,
            ..whole(|_, len| Shape::AllGather { counts: Counts::Equal(len), own: Own::Input }, *len)
        },
        Shape::AllGather { counts: Counts::Equal(len), own: Own::InPlace } => Tiling {
            data_stride: *len,
            ..whole(
                |_, len| Shape::AllGather { counts: Counts::Equal(len), own: Own::InPlace },
                *len,
            )
        },
        Shape::Gather { counts: Counts::Equal(len), .. } => Tiling {
            data_stride: *len,
            ..whole(
                |shape, len| Shape::Gather {
                    counts: Counts::Equal(len),
                    root: shape.root().unwrap_or_default(),
                },
                *len,
            )
        },
        Shape::Scatter { counts: Counts::Equal(len), .. } => Tiling {
            input_stride: *len,
            step: each(ranks),
            ..whole(
                |shape, len| Shape::Scatter {
                    counts: Counts::Equal(len),
                    root: shape.root().unwrap_or_default(),
                },
                *len,
            )
        },
        Shape::ReduceScatter { counts: Counts::Equal(len) } => Tiling {
            input_stride: *len,
            step: each(ranks),
            ..whole(|_, len| Shape::ReduceScatter { counts: Counts::Equal(len) }, *len)
        },
        Shape::AllToAll { send: Counts::Equal(len), recv: Counts::Equal(other) }
            if len == other =>
        {
            Tiling {
                input_stride: *len,
                data_stride: *len,
                step: each(ranks),
                ..whole(
                    |_, len| Shape::AllToAll { send: Counts::Equal(len), recv: Counts::Equal(len) },
                    *len,
                )
            }
        }
        Shape::Barrier => whole(|_, _| Shape::Barrier, 0),
        _ => return None,
    };
    (tiling.step > 0).then_some(tiling)
}

/// A message inside a publication.
#[derive(Clone, Copy)]
struct Message {
    to: Rank,
    slot: u32,
    span: Span,
    /// First element in the publication.
    from: u64,
}

/// One publication: send steps of a plan that follow each other.
#[derive(Default)]
struct Publication {
    messages: SmallVec<[Message; 8]>,
    /// Distinct spans in the order in which they are copied.
    spans: SmallVec<[Span; 8]>,
    len: u64,
}

impl Publication {
    /// Adds messages. Bytes that are there already serve them, too.
    fn add(&mut self, parts: &[Part]) {
        for part in parts {
            let Part { peer: to, slot, span } = *part;
            let known = self.messages.iter().find(|message| message.span == span);
            let from = match known {
                Some(message) => message.from,
                None => {
                    self.spans.push(span);
                    self.len += span.len;
                    self.len - span.len
                }
            };
            self.messages.push(Message { to, slot, span, from });
        }
    }
}

/// One rank's plan, in the order in which it runs.
struct Member<'a> {
    plan: &'a Plan,
    /// Steps; a send has the number of its publication.
    order: Vec<(&'a Step, Option<u32>)>,
    publications: Vec<Publication>,
}

impl<'a> Member<'a> {
    /// Puts the lanes into one order: sends first, since they keep nobody waiting, then the lowest lane that may
    /// go on.
    fn new(plan: &'a Plan) -> Option<Self> {
        let lanes: SmallVec<[&Lane; 4]> = plan.lanes().iter().collect();
        let mut at: SmallVec<[usize; 4]> = SmallVec::from_elem(0, lanes.len());
        let mut member = Self { plan, order: Vec::new(), publications: Vec::new() };
        loop {
            let ready = |lane: &usize| {
                let step = plan.steps(lanes[*lane]).get(at[*lane])?;
                let mut waits = step.waits.iter().flatten();
                waits
                    .all(|wait| at[wait.lane as usize] >= wait.steps as usize)
                    .then_some((*lane, step))
            };
            let is_send = |step: &Step| matches!(step.op, Code::Send { .. });
            let all = || (0..lanes.len()).filter_map(|lane| ready(&lane));
            let Some((lane, step)) = all().find(|(_, step)| is_send(step)).or_else(|| all().next())
            else {
                break;
            };
            at[lane] += 1;
            let Code::Send { parts } = &step.op else {
                member.order.push((step, None));
                continue;
            };
            // A step holds a few messages only; in a large world one after the other sends, and one publication is enough.
            if !matches!(member.order.last(), Some((_, Some(_)))) {
                member.order.push((step, Some(member.publications.len() as u32)));
                member.publications.push(Publication::default());
            }
            if let Some(last) = member.publications.last_mut() {
                last.add(plan.parts(parts));
            }
        }
        let with_bytes = member.publications.iter().filter(|p| p.len > 0).count();
        let few = member.publications.len() <= PUBLICATIONS_MAX && with_bytes <= COPIES;
        let done = (0..lanes.len()).all(|lane| at[lane] == plan.steps(lanes[lane]).len());
        (done && few).then_some(member)
    }

    /// Where the message `slot` for `to` stands: publication and message.
    fn message(&self, to: Rank, slot: u32) -> Option<(u32, &Message)> {
        (0..).zip(&self.publications).find_map(|(number, publication)| {
            let mut messages = publication.messages.iter();
            messages.find(|m| m.to == to && m.slot == slot).map(|message| (number, message))
        })
    }
}

/// A receive whose bytes are not copied: they are read where they were published.
struct Alias {
    span: Span,
    remotes: SmallVec<[Remote; 1]>,
}

/// From the elements of a tile's plan to bytes of the buffers.
#[derive(Clone, Copy)]
struct Scale {
    element_size: usize,
    /// Elements of a block in this tile.
    block: u64,
    /// Elements from one block to the next in the whole buffers.
    input_stride: u64,
    data_stride: u64,
}

impl Scale {
    /// Cuts a span at the ends of blocks.
    fn runs(&self, span: Span) -> SmallVec<[Run; 2]> {
        let (mut offset, end, buffer) = (span.offset, span.end(), span.buffer);
        if span.len == 0 || self.block == 0 {
            return SmallVec::from_iter([Run { buffer, at: 0, len: 0 }]);
        }
        let stride = match buffer {
            Buffer::Input => self.input_stride,
            Buffer::Data => self.data_stride,
            Buffer::Scratch => self.block,
        };
        let mut runs = SmallVec::new();
        while offset < end {
            let (block, within) = (offset / self.block, offset % self.block);
            let len = (self.block - within).min(end - offset);
            // Buffers of these lengths exist, so their offsets fit.
            let at = (block * stride + within) as usize * self.element_size;
            runs.push(Run { buffer, at, len: len as usize * self.element_size });
            offset += len;
        }
        runs
    }
}

struct Compiler<'a> {
    members: Vec<Member<'a>>,
    scale: Scale,
    program: Program,
    aliases: Vec<Alias>,
    /// How many publications of each rank have been used up, and how many were said to be.
    used: Vec<u32>,
    told: Vec<u32>,
}

impl<'a> Compiler<'a> {
    fn new(plans: &'a [Plan], rank: Rank, scale: Scale) -> Option<Self> {
        let members: Option<Vec<_>> = plans.iter().map(Member::new).collect();
        let world = plans.len();
        debug_assert!(rank.index() < world);
        Some(Self {
            members: members?,
            scale,
            program: Program::default(),
            aliases: Vec::new(),
            used: vec![0; world],
            told: vec![0; world],
        })
    }

    /// The one run of a span that lies in one block.
    fn run(&self, span: Span) -> Option<Run> {
        let runs = self.scale.runs(span);
        (runs.len() == 1).then(|| runs[0])
    }

    /// The parts of a publication that message `slot` from `source` to `me` is.
    fn remotes(&mut self, me: Rank, source: Rank, slot: u32) -> Option<SmallVec<[Remote; 1]>> {
        let (publication, message) = self.members[source.index()].message(me, slot)?;
        let mut from = message.from as usize * self.scale.element_size;
        let remotes = self
            .scale
            .runs(message.span)
            .into_iter()
            .map(|run| {
                from += run.len;
                Remote { rank: source, publication, from: from - run.len, source: run }
            })
            .collect();
        let used = &mut self.used[source.index()];
        *used = (*used).max(publication + 1);
        Some(remotes)
    }

    /// This rank's program; `None` if the plan is not for shared memory.
    fn program(mut self, me: Rank) -> Option<Program> {
        let order = std::mem::take(&mut self.members[me.index()].order);
        for (step, number) in order {
            match (&step.op, number) {
                (Code::Send { .. }, Some(number)) => self.publish(me, number)?,
                (Code::Recv { parts }, _) => {
                    let parts = self.members[me.index()].plan.parts(parts);
                    for part in parts {
                        self.receive(me, part)?;
                    }
                }
                (Code::RecvReduce { parts, local, dst, finish }, _) => {
                    let parts = self.members[me.index()].plan.parts(parts);
                    let mut remotes: Vec<Remote> = Vec::new();
                    for part in parts {
                        let found = self.remotes(me, part.peer, part.slot)?;
                        let [only] = found.as_slice() else { return None };
                        remotes.push(*only);
                    }
                    let local = local.map(|local| (local.at, local.span));
                    self.combine(me, remotes, local, *dst, *finish)?;
                }
                (Code::Reduce { sources, local, dst, finish }, _) => {
                    let sources = self.members[me.index()].plan.sources(sources);
                    let mut remotes = Vec::new();
                    for source in sources {
                        let alias = self.aliases.iter().find(|alias| alias.span == *source)?;
                        let [only] = alias.remotes.as_slice() else { return None };
                        remotes.push(*only);
                    }
                    let local = local.map(|local| (local.at, local.span));
                    self.combine(me, remotes, local, *dst, *finish)?;
                    self.forget_aliases(sources);
                }
                (Code::Copy { src, dst }, _) => {
                    let (from, to) = (self.scale.runs(*src), self.scale.runs(*dst));
                    if from.len() != to.len()
                        || src.buffer != Buffer::Input
                        || dst.buffer != Buffer::Data
                    {
                        return None;
                    }
                    for (from, to) in from.into_iter().zip(to) {
                        let awaits = self.awaits(me, to);
                        self.program.instructions.push(Instruction::Copy { from, to, awaits });
                    }
                }
                (Code::Send { .. }, None) => return None,
            }
            self.tell(me);
        }
        if !self.aliases.is_empty() {
            return None;
        }
        self.used = self.members.iter().map(|m| m.publications.len() as u32).collect();
        self.program.publications = self.used.clone();
        self.program.least = self.least();
        self.tell(me);
        let fetches =
            |i: &Instruction| matches!(i, Instruction::Take { .. } | Instruction::Taken { .. });
        let instructions = &self.program.instructions;
        let last = instructions.iter().rposition(|instruction| !fetches(instruction));
        self.program.cut = match last {
            // What is read once is fetched as soon as it is there: only results of a reduction are worth a delay.
            Some(last) if instructions.iter().any(|i| matches!(i, Instruction::Combine { .. })) => {
                let back = instructions[last..].iter();
                let first = back.clone().position(|i| matches!(i, Instruction::Take { .. }));
                first.map_or(instructions.len(), |first| last + first)
            }
            _ => instructions.len(),
        };
        Some(self.program)
    }

    fn publish(&mut self, me: Rank, number: u32) -> Option<()> {
        let publication = &self.members[me.index()].publications[number as usize];
        let spans = publication.spans.clone();
        let len = publication.len as usize * self.scale.element_size;
        let uses = |buffer| spans.iter().any(|span| span.buffer == buffer && span.len > 0);
        if uses(Buffer::Scratch) {
            return None;
        }
        let lending = Lending::Of { input: uses(Buffer::Input), data: uses(Buffer::Data) };
        let runs: Vec<Run> = spans.iter().flat_map(|span| self.scale.runs(*span)).collect();
        let runs = Entries::write(&mut self.program.runs, runs);
        self.program.instructions.push(Instruction::Publish { runs, len, lending });
        Some(())
    }

    /// A receive to scratch is left where it was published; any other is copied.
    fn receive(&mut self, me: Rank, part: &Part) -> Option<()> {
        let remotes = self.remotes(me, part.peer, part.slot)?;
        if part.span.buffer == Buffer::Scratch {
            self.aliases.push(Alias { span: part.span, remotes });
            return Some(());
        }
        let to = self.run(part.span)?;
        let [from] = remotes.as_slice() else { return None };
        let awaits = self.awaits(me, to);
        self.program.instructions.push(Instruction::Take { from: *from, to, awaits });
        Some(())
    }

    fn combine(
        &mut self,
        me: Rank,
        remotes: Vec<Remote>,
        local: Option<(u32, Span)>,
        dst: Span,
        finish: Finish,
    ) -> Option<()> {
        let to = self.run(dst)?;
        let mine = match local {
            None => Mine::Nothing,
            Some((at, span)) if span == dst => Mine::InPlace(at),
            Some((at, span)) if span.buffer == Buffer::Input && dst.buffer == Buffer::Data => {
                Mine::Beside(at, self.run(span)?)
            }
            Some(_) => return None,
        };
        // Peers take what this overwrites when they combine, and they may wait for this rank to combine.
        for number in self.overlapped(me, to) {
            self.keep(number);
        }
        let remotes = Entries::write(&mut self.program.remotes, remotes);
        self.program.instructions.push(Instruction::Combine { remotes, mine, to, finish });
        Some(())
    }

    /// Whether a message lies, in part, where `to` is.
    fn overlaps(&self, message: &Message, to: Run) -> bool {
        self.scale.runs(message.span).iter().any(|run| run.overlaps(&to))
    }

    /// Publications so far of which a part lies where `to` is.
    fn overlapped(&self, me: Rank, to: Run) -> SmallVec<[u32; 4]> {
        (0..self.published())
            .filter(|&number| {
                let publication = &self.members[me.index()].publications[number as usize];
                publication.messages.iter().any(|message| self.overlaps(message, to))
            })
            .collect()
    }

    /// The shortest publication that is more than a signal; 0 if one of this rank's is always a copy.
    fn least(&self) -> usize {
        let never =
            |i: &Instruction| matches!(i, Instruction::Publish { lending: Lending::Never, .. });
        if self.program.instructions.iter().any(never) {
            return 0;
        }
        let lens = self.members.iter().flat_map(|m| &m.publications).map(|p| p.len);
        lens.filter(|&len| len > 0).min().unwrap_or(0) as usize * self.scale.element_size
    }

    /// Publications in the program so far.
    fn published(&self) -> u32 {
        let is_publish = |i: &&Instruction| matches!(i, Instruction::Publish { .. });
        self.program.instructions.iter().filter(is_publish).count() as u32
    }

    /// Publication `number` is always a copy.
    fn keep(&mut self, number: u32) {
        let mut publishes = self.program.instructions.iter_mut().filter_map(|i| match i {
            Instruction::Publish { lending, .. } => Some(lending),
            _ => None,
        });
        if let Some(lending) = publishes.nth(number as usize) {
            *lending = Lending::Never;
        }
    }

    /// What a write to `to` waits for if publications were lent: every reader of a part that lies there.
    fn awaits(&mut self, me: Rank, to: Run) -> Entries {
        let mut awaits: Vec<Await> = Vec::new();
        for publication in self.overlapped(me, to) {
            let messages = &self.members[me.index()].publications[publication as usize].messages;
            for message in messages {
                let wait = Await { publication, rank: message.to };
                if self.overlaps(message, to) && !awaits.contains(&wait) {
                    awaits.push(wait);
                }
            }
        }
        Entries::write(&mut self.program.awaits, awaits)
    }

    fn forget_aliases(&mut self, spans: &[Span]) {
        self.aliases.retain(|alias| !spans.contains(&alias.span));
    }

    /// Says which publications are used up. What an alias names is still needed.
    fn tell(&mut self, me: Rank) {
        for rank in 0..self.members.len() {
            let held = self
                .aliases
                .iter()
                .flat_map(|alias| &alias.remotes)
                .filter(|remote| remote.rank.index() == rank)
                .map(|remote| remote.publication)
                .min();
            let count = held.unwrap_or(u32::MAX).min(self.used[rank]);
            if rank != me.index() && count > self.told[rank] {
                self.told[rank] = count;
                let rank = Rank(rank as u32);
                self.program.instructions.push(Instruction::Taken { rank, count });
            }
        }
    }
}
