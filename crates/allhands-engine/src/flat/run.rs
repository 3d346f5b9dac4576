//! Runs a compiled plan: instruction after instruction, as far as the other members have come.

use allhands_plan::{Buffer, Finish, Rank};
use allhands_tensor::Kernel;
use allhands_tensor::foreign::ForeignBytes;
use allhands_wire::Fingerprint;
use smallvec::SmallVec;

use super::compile::{Await, Entries, FlatPlan, Instruction, Lending, Mine, Program, Remote, Run};
use super::{Board, Found, Lent, Note};
use crate::buffers::{Buffers, Space};
use crate::op::LoanBase;

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
        pair(&self.input, &mut self.data, input, data, max)
    }
}

/// A run of each, of one length.
fn pair<'a>(
    input: &'a Space,
    data: &'a mut Space,
    from: usize,
    to: usize,
    max: usize,
) -> (&'a [u8], &'a mut [u8]) {
    let source = input.run(from, max);
    let target = data.run_mut(to, source.len());
    let len = target.len();
    (&source[..len], target)
}

/// How far each member's publications were used up when the current tile began.
#[derive(Debug)]
pub struct Ledger {
    base: Vec<u64>,
}

impl Ledger {
    /// For a board of `world` members on which nothing was published.
    #[must_use]
    pub fn new(world: u32) -> Self {
        Self { base: vec![0; world as usize] }
    }

    /// The first publication of `rank` that no operation of this rank has used.
    #[must_use]
    pub fn next(&self, rank: Rank) -> u64 {
        self.base[rank.index()]
    }
}

/// What is run, and with what.
#[derive(Debug)]
pub(crate) struct Task<'a> {
    pub(crate) plan: &'a FlatPlan,
    pub(crate) seq: u64,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) kernel: Option<Kernel>,
    pub(crate) element_size: usize,
    /// Where the buffers lie in shared memory, if they do.
    pub(crate) loan: Option<LoanBase>,
    /// The shortest publication worth lending.
    pub(crate) loan_min: usize,
}

/// What came of a call to [`FlatRun::poll`].
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

/// How far an operation has come.
#[derive(Debug, Default)]
pub struct FlatRun {
    tile: u64,
    at: usize,
    /// Parts of the current instruction that were seen to be there.
    seen: usize,
    /// Number of this tile's first publication.
    first: u64,
    /// Number past the last publication that was lent.
    lent: u64,
    begun: bool,
}

/// Why an instruction does not go on.
enum Stop {
    Wait(Rank),
    End(FlatStep),
}

impl FlatRun {
    /// Goes on as far as possible.
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
        while self.tile < task.plan.tiles() {
            let program = task.plan.program(self.tile);
            while let Some(instruction) = program.instructions.get(self.at) {
                let view = View { task, program, ledger, tile: self.tile };
                let seen = self.seen;
                match self.execute(instruction, &view, board, memory) {
                    Ok(()) => {
                        moved = true;
                        self.at += 1;
                        self.seen = 0;
                    }
                    Err(Stop::Wait(rank)) => {
                        moved |= self.seen > seen;
                        return FlatStep::Waiting { rank, moved };
                    }
                    Err(Stop::End(step)) => return step,
                }
            }
            for (base, count) in ledger.base.iter_mut().zip(&program.publications) {
                *base += u64::from(*count);
            }
            self.tile += 1;
            self.at = 0;
            self.first = board.published();
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

    #[inline]
    fn execute<B: Board, M: Memory>(
        &mut self,
        instruction: &Instruction,
        view: &View<'_>,
        board: &mut B,
        memory: &mut M,
    ) -> Result<(), Stop> {
        match *instruction {
            Instruction::Publish { runs, len, lending } => {
                if let Some(lent) = view.lendable(len, lending) {
                    if !board.lend(&view.note(len), &lent) {
                        return Err(view.no_room(board));
                    }
                    self.lent = board.published();
                    return Ok(());
                }
                view.publish(runs, len, board, memory)
            }
            Instruction::Take { from, to, awaits } => {
                let (number, found) = view.found(&from, board)?;
                self.returned(view, awaits, board)?;
                view.take(&from, number, &found, to, board, memory)
            }
            Instruction::Combine { remotes, mine, to, finish } => {
                let remotes = remotes.of(&view.program.remotes);
                // What was seen stays there until this rank takes it.
                while self.seen < remotes.len() {
                    view.found(&remotes[self.seen], board)?;
                    self.seen += 1;
                }
                view.combine(remotes, mine, to, finish, board, memory)
            }
            Instruction::Copy { from, to, awaits } => {
                self.returned(view, awaits, board)?;
                view.copy(from, to, memory);
                Ok(())
            }
            Instruction::Taken { rank, count } => {
                board.take(rank, view.ledger.next(rank) + u64::from(count));
                Ok(())
            }
        }
    }

    /// Whether what is about to be written was given back by those to whom it was lent.
    fn returned<B: Board>(&self, view: &View<'_>, awaits: Entries, board: &B) -> Result<(), Stop> {
        if self.lent <= self.first {
            return Ok(());
        }
        for &Await { publication, rank } in awaits.of(&view.program.awaits) {
            if board.taken(rank) <= self.first + u64::from(publication) {
                return Err(Stop::Wait(rank));
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
    tile: u64,
}

impl View<'_> {
    /// Where a run begins, in bytes.
    #[inline]
    fn offset(&self, run: Run) -> usize {
        let stride = match run.buffer {
            Buffer::Input => self.task.plan.input_stride,
            Buffer::Data | Buffer::Scratch => self.task.plan.data_stride,
        };
        let base = self.tile * self.task.plan.step;
        // Plans are checked against the buffers before they run, so these products fit.
        (u64::from(run.block) * stride + base + run.offset) as usize * self.task.element_size
    }

    #[inline]
    fn bytes(&self, elements: u64) -> usize {
        elements as usize * self.task.element_size
    }

    #[inline]
    fn note(&self, len: u64) -> Note {
        Note {
            seq: self.task.seq,
            fingerprint: self.task.fingerprint,
            len: self.bytes(len) as u32,
            tile: self.tile as u32,
        }
    }

    /// Where a publication's bytes are, if all of them lie in shared memory and lending pays.
    #[inline]
    fn lendable(&self, len: u64, lending: Lending) -> Option<Lent> {
        let base = self.task.loan?;
        let Lending::Of { input, data } = lending else { return None };
        if self.bytes(len) < self.task.loan_min.max(1) {
            return None;
        }
        let place = |used: bool, at: Option<u64>| if used { at } else { Some(Lent::NOWHERE) };
        let (data, input) = (place(data, base.data)?, place(input, base.input)?);
        Some(Lent { segment: base.segment, data, input })
    }

    #[inline]
    fn publish<B: Board, M: Memory>(
        &self,
        runs: Entries,
        len: u64,
        board: &mut B,
        memory: &M,
    ) -> Result<(), Stop> {
        let bytes = self.bytes(len);
        let Some(room) = board.open(bytes) else { return Err(self.no_room(board)) };
        let mut room = &mut room[..bytes];
        for run in runs.of(&self.program.runs) {
            let (mut offset, mut left) = (self.offset(*run), self.bytes(run.len));
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
        Stop::Wait(slowest.unwrap_or(self.task.plan.rank))
    }

    /// The publication that holds a part, once it is there and says what it must.
    #[inline]
    fn found<B: Board>(&self, remote: &Remote, board: &B) -> Result<(u64, Found), Stop> {
        let number = self.ledger.next(remote.rank) + u64::from(remote.publication);
        let Some(found) = board.look(remote.rank, number) else {
            return Err(Stop::Wait(remote.rank));
        };
        let (note, rank, task) = (found.note, remote.rank, self.task);
        if note.fingerprint != task.fingerprint || note.seq != task.seq {
            return Err(Stop::End(FlatStep::Mismatch { rank, note }));
        }
        if note.tile != self.tile as u32 {
            return Err(Stop::End(FlatStep::Garbled { rank, note }));
        }
        Ok((number, found))
    }

    /// The bytes of a part of a publication that was found.
    #[inline]
    fn part<'b, B: Board>(
        &self,
        remote: &Remote,
        number: u64,
        found: &Found,
        board: &'b B,
    ) -> Result<ForeignBytes<'b>, Stop> {
        let (rank, len) = (remote.rank, self.bytes(remote.source.len));
        let part = match found.lent {
            None => board.copied(rank, number, self.bytes(remote.from), len),
            Some(lent) => {
                let base = match remote.source.buffer {
                    Buffer::Input => lent.input,
                    Buffer::Data | Buffer::Scratch => lent.data,
                };
                base.checked_add(self.offset(remote.source) as u64)
                    .and_then(|from| board.lent(rank, lent.segment, from, len))
            }
        };
        part.ok_or(Stop::End(FlatStep::Garbled { rank, note: found.note }))
    }

    fn take<B: Board, M: Memory>(
        &self,
        from: &Remote,
        number: u64,
        found: &Found,
        to: Run,
        board: &B,
        memory: &mut M,
    ) -> Result<(), Stop> {
        let part = self.part(from, number, found, board)?;
        let (offset, len) = (self.offset(to), self.bytes(to.len));
        let mut done = 0;
        while done < len {
            let target = memory.data_mut(offset + done, len - done);
            let n = target.len();
            assert!(n > 0, "a take past the end of a checked buffer");
            part.sub(done, n).copy_to(target);
            done += n;
        }
        Ok(())
    }

    #[inline]
    fn combine<B: Board, M: Memory>(
        &self,
        remotes: &[Remote],
        mine: Mine,
        to: Run,
        finish: Finish,
        board: &B,
        memory: &mut M,
    ) -> Result<(), Stop> {
        let kernel = self.task.kernel.as_ref().expect("checked when the operation began");
        let mut parts: SmallVec<[ForeignBytes<'_>; 8]> = SmallVec::new();
        for remote in remotes {
            let (number, found) = self.found(remote, board)?;
            parts.push(self.part(remote, number, &found, board)?);
        }
        let (offset, len) = (self.offset(to), self.bytes(to.len));
        let mut done = 0;
        while done < len {
            let (own, beside, target): (_, Option<(u32, &[u8])>, &mut [u8]) = match mine {
                Mine::Nothing => (None, None, memory.data_mut(offset + done, len - done)),
                Mine::InPlace(at) => {
                    (Some(at as usize), None, memory.data_mut(offset + done, len - done))
                }
                Mine::Beside(at, run) => {
                    let from = self.offset(run) + done;
                    let (source, target) = memory.both(from, offset + done, len - done);
                    (None, Some((at, source)), target)
                }
            };
            let n = target.len();
            assert!(n > 0, "a reduction past the end of a checked buffer");
            let mut sources: SmallVec<[ForeignBytes<'_>; 8]> =
                parts.iter().map(|part| part.sub(done, n)).collect();
            if let Some((at, source)) = beside {
                sources.insert(at as usize, ForeignBytes::of(source));
            }
            kernel.reduce_foreign(target, own, &sources);
            if finish == Finish::Last {
                kernel.finish(target, self.task.plan.world);
            }
            done += n;
        }
        Ok(())
    }

    fn copy<M: Memory>(&self, from: Run, to: Run, memory: &mut M) {
        let (source, target, len) = (self.offset(from), self.offset(to), self.bytes(to.len));
        let mut done = 0;
        while done < len {
            let (bytes, room) = memory.both(source + done, target + done, len - done);
            assert!(!room.is_empty(), "a copy past the end of a checked buffer");
            room.copy_from_slice(bytes);
            done += room.len();
        }
    }
}
