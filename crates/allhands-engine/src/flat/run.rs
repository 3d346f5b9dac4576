//! Runs a compiled plan: instruction after instruction, as far as the other members have come.

use std::cell::Cell;
use std::sync::Arc;

use allhands_plan::{Buffer, Finish, Rank};
use allhands_tensor::Kernel;
use allhands_tensor::foreign::ForeignBytes;
use allhands_wire::{Descriptor, Fingerprint};
use smallvec::SmallVec;

use super::compile::{Await, Entries, FlatPlan, Instruction, Lending, Mine, Program, Remote, Run};
use super::{Board, Lent, Note};
use crate::buffers::Buffers;
use crate::op::{LoanBase, Prepared};

/// The two buffers of an operation in shared memory; there is no scratch.
pub trait Memory {
    /// A contiguous run of `Input` from `offset`, at most `max` bytes.
    fn input(&self, offset: usize, max: usize) -> &[u8];

    /// The same of `Data`.
    fn data(&self, offset: usize, max: usize) -> &[u8];

    /// The same of `Data`, for writing.
    fn data_mut(&mut self, offset: usize, max: usize) -> &mut [u8];

    /// A run of `Input` and one of `Data` for writing, of one length.
    fn both(&mut self, input: usize, data: usize, max: usize) -> (&[u8], &mut [u8]);
}

impl Memory for Buffers {
    fn input(&self, offset: usize, max: usize) -> &[u8] {
        self.input.run(offset, max)
    }

    fn data(&self, offset: usize, max: usize) -> &[u8] {
        self.data.run(offset, max)
    }

    fn data_mut(&mut self, offset: usize, max: usize) -> &mut [u8] {
        self.data.run_mut(offset, max)
    }

    fn both(&mut self, input: usize, data: usize, max: usize) -> (&[u8], &mut [u8]) {
        let source = self.input.run(input, max);
        let target = self.data.run_mut(data, source.len());
        (&source[..target.len()], target)
    }
}

/// How far each member's publications were used up when the current operation began.
#[derive(Debug)]
pub(crate) struct Ledger {
    base: Vec<u64>,
}

impl Ledger {
    /// For a board of `world` members on which nothing was published.
    #[must_use]
    pub(crate) fn new(world: u32) -> Self {
        Self { base: vec![0; world as usize] }
    }

    /// An operation has ended.
    #[inline]
    fn close(&mut self, plan: &FlatPlan) {
        let add = |base: &mut [u64], program: &Program, times: u64| {
            for (base, count) in base.iter_mut().zip(&program.publications) {
                *base += u64::from(*count) * times;
            }
        };
        if plan.full > 0 {
            add(&mut self.base, &plan.body, plan.full);
        }
        if let Some(tail) = &plan.tail {
            add(&mut self.base, tail, 1);
        }
    }

    /// The first publication of `rank` that no operation of this rank has used.
    #[must_use]
    pub(crate) fn next(&self, rank: Rank) -> u64 {
        self.base[rank.index()]
    }
}

/// A collective that can run on a board: everything about it but its buffers and its number.
#[derive(Debug)]
pub struct FlatCall {
    /// The plan and its compiled form.
    pub plan: Arc<Prepared>,
    /// How elements are reduced.
    pub kernel: Option<Kernel>,
    /// Bytes of one element.
    pub element_size: usize,
    /// What this call is, in full.
    pub descriptor: Descriptor,
    /// The same, packed.
    pub fingerprint: Fingerprint,
    /// A number, not 0, that no other call of the group has, or 0.
    pub identity: u64,
}

/// What is run, and with what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task<'a> {
    pub(crate) plan: &'a FlatPlan,
    pub(crate) seq: u64,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) kernel: Option<&'a Kernel>,
    /// Where the buffers lie in shared memory, if they do.
    pub(crate) loan: Option<LoanBase>,
    /// The shortest publication worth lending.
    pub(crate) loan_min: usize,
}

/// What came of going on with an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlatStep {
    /// The operation has ended here.
    Done,
    /// It goes on when `rank` has published, or taken, more.
    Waiting {
        /// Who is waited for.
        rank: Rank,
        /// Whether anything was done since the last call.
        moved: bool,
    },
    /// A member runs another operation under this number.
    Mismatch {
        /// Who.
        rank: Rank,
        /// What its publication says.
        note: Note,
    },
    /// A member's publication does not hold what it must.
    Garbled {
        /// Who.
        rank: Rank,
        /// What its publication says.
        note: Note,
    },
}

/// Tiles that a rank reduces before it fetches the others' results of the first, where all ranks lend: so far behind, the
/// results have left the second-level cache of the core that made them, from which they come slowest.
const LAG: u64 = 8;

/// Pauses between a publication and the first look at another rank's: where ranks keep step, theirs is being written, and a
/// look would fetch lines that the writer had to take back. On two cores 4 bytes take 0.35 us without and 0.29 us with two.
const PAUSES: u32 = 2;

/// Halves of tiles that are run without a look at anything else: a few milliseconds' worth at most.
const HALVES_PER_POLL: u32 = 64;

/// The two halves of a tile: until nothing more is published, and what only fetches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Half {
    #[default]
    Front,
    Back,
}

/// How far an operation has come.
#[derive(Debug, Default)]
pub(crate) struct FlatRun {
    /// Tiles whose front halves have been done, and whose back halves.
    front: u64,
    back: u64,
    /// How many tiles the back halves lie behind the front halves.
    lag: u64,
    half: Half,
    /// Where in the half.
    at: usize,
    /// Parts of the current instruction that were seen to be there.
    seen: usize,
    /// Number of this operation's first publication.
    first: u64,
    /// Number past the last publication that was lent.
    lent: u64,
    /// A member's publication was a copy.
    copied: bool,
    /// One was lent.
    borrowed: bool,
    /// Nobody was looked at since the last publication.
    fresh: bool,
    begun: bool,
    /// All halves are done, and entered in the ledger.
    ended: bool,
}

/// Why an instruction does not go on.
enum Stop {
    /// A member is behind; so many parts of the instruction are there.
    Wait {
        rank: Rank,
        seen: usize,
    },
    End(FlatStep),
}

impl FlatRun {
    /// Goes on as far as possible.
    #[inline]
    pub(crate) fn poll<B: Board, M: Memory>(
        &mut self,
        task: &Task<'_>,
        ledger: &mut Ledger,
        board: &mut B,
        memory: &mut M,
    ) -> FlatStep {
        let mut moved = false;
        if !self.begun {
            self.begun = true;
            self.first = board.published();
        }
        let plan = task.plan;
        if self.back < plan.tiles {
            let ran = match plan.tiles {
                1 => self.run_tile(task, ledger, board, memory, &mut moved),
                _ => self.run_tiles(task, ledger, board, memory, &mut moved),
            };
            if let Err(step) = ran {
                return step;
            }
        }
        if self.borrowed {
            // What a rank lent to a group that has failed since is its own again, and it may have written there. The news of
            // the failure, or this operation's deadline, ends it.
            let withdrawn = others(plan).find(|&rank| board.is_withdrawn(rank));
            if let Some(rank) = withdrawn {
                return FlatStep::Waiting { rank, moved: false };
            }
        }
        if !self.ended {
            self.ended = true;
            ledger.close(plan);
        }
        if self.lent > 0 {
            // The buffer goes back to its owner, so every reader must have done with it.
            for rank in others(task.plan) {
                if board.taken(rank) < self.lent {
                    return FlatStep::Waiting { rank, moved };
                }
            }
        }
        FlatStep::Done
    }

    /// Runs the only tile there is.
    #[inline]
    fn run_tile<B: Board, M: Memory>(
        &mut self,
        task: &Task<'_>,
        ledger: &Ledger,
        board: &mut B,
        memory: &mut M,
        moved: &mut bool,
    ) -> Result<(), FlatStep> {
        let view = View::new(task, ledger, 0, self.first);
        self.run(&view.program.instructions, &view, board, memory, moved)?;
        self.back = 1;
        Ok(())
    }

    /// Runs one half of a tile after the other.
    fn run_tiles<B: Board, M: Memory>(
        &mut self,
        task: &Task<'_>,
        ledger: &Ledger,
        board: &mut B,
        memory: &mut M,
        moved: &mut bool,
    ) -> Result<(), FlatStep> {
        let plan = task.plan;
        let mut halves = 0;
        while self.back < plan.tiles {
            if halves == HALVES_PER_POLL {
                return Err(FlatStep::Waiting { rank: plan.rank, moved: true });
            }
            halves += 1;
            let tile = if self.half == Half::Front { self.front } else { self.back };
            let view = View::new(task, ledger, tile, self.first);
            let instructions = match self.half {
                Half::Front => &view.program.instructions[..view.program.cut],
                Half::Back => &view.program.instructions[view.program.cut..],
            };
            self.run(instructions, &view, board, memory, moved)?;
            self.next_half(task, ledger, board);
        }
        Ok(())
    }

    /// Runs instructions from where this run stands among them.
    #[inline]
    fn run<B: Board, M: Memory>(
        &mut self,
        instructions: &[Instruction],
        view: &View<'_>,
        board: &mut B,
        memory: &mut M,
        moved: &mut bool,
    ) -> Result<(), FlatStep> {
        while let Some(instruction) = instructions.get(self.at) {
            match self.execute(instruction, view, board, memory) {
                Ok(()) => {
                    *moved = true;
                    self.at += 1;
                    self.seen = 0;
                }
                Err(Stop::Wait { rank, seen }) => {
                    *moved |= seen > self.seen;
                    self.seen = seen;
                    return Err(FlatStep::Waiting { rank, moved: *moved });
                }
                Err(Stop::End(step)) => return Err(step),
            }
        }
        Ok(())
    }

    /// What comes after a half.
    fn next_half<B: Board>(&mut self, task: &Task<'_>, ledger: &Ledger, board: &mut B) {
        let plan = task.plan;
        self.at = 0;
        match self.half {
            Half::Front => {
                let fetches = plan.body.cut < plan.body.instructions.len();
                // Everybody must lend everything: there is room for few copies, and they would be taken late.
                let lends = self.lent > 0 && plan.body.least >= task.loan_min.max(1);
                if self.front == 0 && fetches && lends && !self.copied {
                    // A rank that lags has its places taken late: the others must not run out of them.
                    let most = plan.body.publications.iter().max().copied().unwrap_or(1);
                    self.lag = (B::PLACES / u64::from(most.max(1))).saturating_sub(2).min(LAG);
                }
                self.front += 1;
            }
            Half::Back => {
                self.back += 1;
                if self.back < self.front {
                    // What its front half has done with could not be said while an earlier tile was not.
                    let view = View::new(task, ledger, self.back, self.first);
                    for instruction in &view.program.instructions[..view.program.cut] {
                        if let Instruction::Taken { rank, count } = instruction {
                            view.taken(*rank, *count, board);
                        }
                    }
                }
            }
        }
        let ahead = self.front - self.back;
        let more = self.front < plan.tiles;
        self.half = if more && ahead <= self.lag { Half::Front } else { Half::Back };
    }

    #[inline]
    fn execute<B: Board, M: Memory>(
        &mut self,
        instruction: &Instruction,
        view: &View<'_>,
        board: &mut B,
        memory: &mut M,
    ) -> Result<(), Stop> {
        let looks = matches!(instruction, Instruction::Take { .. } | Instruction::Combine { .. });
        if looks && std::mem::take(&mut self.fresh) {
            for _ in 0..PAUSES {
                std::hint::spin_loop();
            }
        }
        match instruction {
            Instruction::Publish { runs, len, lending } => {
                self.fresh = true;
                if let Some(lent) = view.lendable(*len, *lending) {
                    if !board.lend(&view.note(*len), &lent) {
                        return Err(view.no_room(board));
                    }
                    self.lent = board.published();
                    return Ok(());
                }
                view.publish(runs.of(&view.program.runs), *len, board, memory)
            }
            Instruction::Take { from, to, awaits } => {
                let part = view.part(from, 0, board)?;
                self.returned(view, *awaits, board)?;
                self.borrowed |= view.borrowed.get();
                view.take(part, to, memory);
                Ok(())
            }
            Instruction::Combine { remotes, mine, to, finish } => {
                let remotes = remotes.of(&view.program.remotes);
                view.combine(remotes, self.seen, mine, to, *finish, board, memory)?;
                self.copied |= view.copied.get();
                self.borrowed |= view.borrowed.get();
                Ok(())
            }
            Instruction::Copy { from, to, awaits } => {
                self.returned(view, *awaits, board)?;
                view.copy(from, to, memory);
                Ok(())
            }
            Instruction::Taken { rank, count } => {
                if self.half == Half::Back || self.back == self.front {
                    view.taken(*rank, *count, board);
                }
                Ok(())
            }
        }
    }

    /// Whether what is about to be written was given back by those to whom it was lent.
    #[inline]
    fn returned<B: Board>(&self, view: &View<'_>, awaits: Entries, board: &B) -> Result<(), Stop> {
        if self.lent <= view.first {
            return Ok(());
        }
        for &Await { publication, rank } in awaits.of(&view.program.awaits) {
            if board.taken(rank) <= view.first + u64::from(publication) {
                return Err(Stop::Wait { rank, seen: 0 });
            }
        }
        Ok(())
    }
}

/// Everybody else.
fn others(plan: &FlatPlan) -> impl Iterator<Item = Rank> {
    let me = plan.rank;
    (0..plan.world).map(Rank).filter(move |&rank| rank != me)
}

/// What an instruction looks at.
struct View<'a> {
    task: &'a Task<'a>,
    program: &'a Program,
    ledger: &'a Ledger,
    tile: u32,
    /// Bytes by which this tile's runs lie behind those of the first.
    shift: usize,
    /// Number of this rank's first publication of the tile.
    first: u64,
    /// A publication that was looked at is a copy.
    copied: Cell<bool>,
    /// One was lent.
    borrowed: Cell<bool>,
}

/// Operands that fit without heap memory.
type Parts<'a> = SmallVec<[ForeignBytes<'a>; 8]>;

impl<'a> View<'a> {
    #[inline]
    fn new(task: &'a Task<'a>, ledger: &'a Ledger, tile: u64, first: u64) -> Self {
        let plan = task.plan;
        let each = plan.body.publications.get(plan.rank.index()).copied().unwrap_or(0);
        Self {
            task,
            program: plan.program(tile),
            ledger,
            tile: tile as u32,
            shift: tile as usize * plan.step,
            first: first + tile * u64::from(each),
            copied: Cell::new(false),
            borrowed: Cell::new(false),
        }
    }

    /// Number of the first publication of `rank` in this tile.
    #[inline]
    fn base(&self, rank: Rank) -> u64 {
        let used = self.ledger.next(rank);
        if self.tile == 0 {
            return used;
        }
        let each = self.task.plan.body.publications.get(rank.index()).copied().unwrap_or(0);
        used + u64::from(self.tile) * u64::from(each)
    }

    /// Says that `count` publications of `rank` in this tile are not needed any more.
    #[inline]
    fn taken<B: Board>(&self, rank: Rank, count: u32, board: &mut B) {
        board.take(rank, self.base(rank) + u64::from(count));
    }

    #[inline]
    fn note(&self, len: usize) -> Note {
        let Task { seq, fingerprint, .. } = *self.task;
        Note { seq, fingerprint, len: len as u32, tile: self.tile }
    }

    /// Where a publication's bytes are, if all of them lie in shared memory and lending pays.
    #[inline]
    fn lendable(&self, len: usize, lending: Lending) -> Option<Lent> {
        let base = self.task.loan?;
        let Lending::Of { input, data } = lending else { return None };
        if len < self.task.loan_min.max(1) {
            return None;
        }
        let place = |used: bool, at: Option<u64>| if used { at } else { Some(Lent::NOWHERE) };
        let (data, input) = (place(data, base.data)?, place(input, base.input)?);
        Some(Lent { data, input })
    }

    #[inline]
    fn publish<B: Board, M: Memory>(
        &self,
        runs: &[Run],
        len: usize,
        board: &mut B,
        memory: &M,
    ) -> Result<(), Stop> {
        let Some(room) = board.open(len) else { return Err(self.no_room(board)) };
        let mut room = room;
        for run in runs {
            let (mut offset, mut left) = (run.at + self.shift, run.len);
            while left > 0 {
                let source = match run.buffer {
                    Buffer::Input => memory.input(offset, left),
                    Buffer::Data | Buffer::Scratch => memory.data(offset, left),
                };
                assert!(!source.is_empty(), "a publication past the end of a checked buffer");
                let (now, rest) = room.split_at_mut(source.len());
                now.copy_from_slice(source);
                offset += source.len();
                left -= source.len();
                room = rest;
            }
        }
        board.publish(&self.note(len));
        Ok(())
    }

    /// The ring is full: the slowest reader is waited for.
    #[cold]
    fn no_room<B: Board>(&self, board: &B) -> Stop {
        let slowest = others(self.task.plan).min_by_key(|&rank| board.taken(rank));
        Stop::Wait { rank: slowest.unwrap_or(self.task.plan.rank), seen: 0 }
    }

    /// A part of a publication, once it is there and says what it must. `seen` parts of the instruction are there.
    #[inline]
    fn part<'b, B: Board>(
        &self,
        remote: &Remote,
        seen: usize,
        board: &'b B,
    ) -> Result<ForeignBytes<'b>, Stop> {
        let Remote { rank, publication, from, source } = *remote;
        let number = self.base(rank) + u64::from(publication);
        let Some(found) = board.look(rank, number) else { return Err(Stop::Wait { rank, seen }) };
        let note = found.note;
        if note.fingerprint != self.task.fingerprint || note.seq != self.task.seq {
            return Err(Stop::End(FlatStep::Mismatch { rank, note }));
        }
        let part = match found.lent {
            _ if note.tile != self.tile => None,
            None => {
                self.copied.set(true);
                board.copied(rank, number, from, source.len)
            }
            Some(lent) => {
                self.borrowed.set(true);
                let base = match source.buffer {
                    Buffer::Input => lent.input,
                    Buffer::Data | Buffer::Scratch => lent.data,
                };
                base.checked_add((source.at + self.shift) as u64)
                    .and_then(|from| board.lent(rank, from, source.len))
            }
        };
        part.ok_or(Stop::End(FlatStep::Garbled { rank, note }))
    }

    fn take<M: Memory>(&self, part: ForeignBytes<'_>, to: &Run, memory: &mut M) {
        let (offset, len) = (to.at + self.shift, to.len);
        let mut done = 0;
        while done < len {
            let target = memory.data_mut(offset + done, len - done);
            let n = target.len();
            assert!(n > 0, "a take past the end of a checked buffer");
            part.sub(done, n).copy_to(target);
            done += n;
        }
    }

    #[inline]
    #[expect(clippy::too_many_arguments, reason = "one for each field of the instruction")]
    fn combine<B: Board, M: Memory>(
        &self,
        remotes: &[Remote],
        seen: usize,
        mine: &Mine,
        to: &Run,
        finish: Finish,
        board: &B,
        memory: &mut M,
    ) -> Result<(), Stop> {
        let (offset, len) = (to.at + self.shift, to.len);
        if let ([remote], Mine::InPlace(at)) = (remotes, *mine) {
            let part = [self.part(remote, 0, board)?];
            let target = memory.data_mut(offset, len);
            if target.len() == len {
                self.reduce(target, Some(at as usize), &part, finish);
            } else {
                self.combine_pieces(&part, mine, to, finish, memory);
            }
            return Ok(());
        }
        // Who was not there the last time is looked at first: the others are still there.
        if seen > 0
            && let Some(late) = remotes.get(seen)
        {
            self.part(late, seen, board)?;
        }
        let mut parts = Parts::new();
        for (seen, remote) in remotes.iter().enumerate() {
            parts.push(self.part(remote, seen, board)?);
        }
        match *mine {
            Mine::InPlace(at) => {
                let target = memory.data_mut(offset, len);
                if target.len() == len {
                    self.reduce(target, Some(at as usize), &parts, finish);
                    return Ok(());
                }
            }
            Mine::Nothing | Mine::Beside(..) => {}
        }
        self.combine_pieces(&parts, mine, to, finish, memory);
        Ok(())
    }

    #[inline]
    fn reduce(
        &self,
        target: &mut [u8],
        own: Option<usize>,
        parts: &[ForeignBytes<'_>],
        finish: Finish,
    ) {
        let kernel = self.task.kernel.expect("checked when the operation began");
        kernel.reduce_foreign(target, own, parts);
        if finish == Finish::Last {
            kernel.finish(target, self.task.plan.world);
        }
    }

    /// Combines where this rank's memory is in pieces, or its operand lies elsewhere than the result.
    fn combine_pieces<M: Memory>(
        &self,
        parts: &[ForeignBytes<'_>],
        mine: &Mine,
        to: &Run,
        finish: Finish,
        memory: &mut M,
    ) {
        let (offset, len) = (to.at + self.shift, to.len);
        let mut done = 0;
        while done < len {
            let (own, beside, target): (_, Option<(u32, &[u8])>, &mut [u8]) = match *mine {
                Mine::Nothing => (None, None, memory.data_mut(offset + done, len - done)),
                Mine::InPlace(at) => {
                    (Some(at as usize), None, memory.data_mut(offset + done, len - done))
                }
                Mine::Beside(at, run) => {
                    let from = run.at + self.shift + done;
                    let (source, target) = memory.both(from, offset + done, len - done);
                    (None, Some((at, source)), target)
                }
            };
            let n = target.len();
            assert!(n > 0, "a reduction past the end of a checked buffer");
            let mut sources: Parts<'_> = parts.iter().map(|part| part.sub(done, n)).collect();
            if let Some((at, source)) = beside {
                sources.insert(at as usize, ForeignBytes::of(source));
            }
            self.reduce(target, own, &sources, finish);
            done += n;
        }
    }

    fn copy<M: Memory>(&self, from: &Run, to: &Run, memory: &mut M) {
        let (source, target, len) = (from.at + self.shift, to.at + self.shift, to.len);
        let mut done = 0;
        while done < len {
            let (bytes, room) = memory.both(source + done, target + done, len - done);
            assert!(!room.is_empty(), "a copy past the end of a checked buffer");
            room.copy_from_slice(bytes);
            done += room.len();
        }
    }
}
