//! What a plan is: lanes of steps over spans of three buffers.
//!
//! A plan is immutable and holds neither addresses nor bytes: the same plan serves every buffer, dtype
//! and transport. All lengths are in **elements**.
//!
//! # The instruction set
//!
//! Five opcodes, and no more than eight ever:
//!
//! | opcode | meaning |
//! |---|---|
//! | [`Op::Send`] | each part's span goes to its peer, by bytes or by a loan that the peer reads in place |
//! | [`Op::Recv`] | each part's message lands in its span |
//! | [`Op::RecvReduce`] | messages of several peers, and optionally a local operand, are combined in canonical order |
//! | [`Op::Copy`] | local copy |
//! | [`Op::Reduce`] | local operands are combined in canonical order |
//!
//! A lane runs its steps in order. The parts of one step run at the same time; the step ends when all of
//! them have. A step may also wait for other lanes ([`Wait`]). A send ends when its span may be written
//! again; it may block until the receiver's step is active (no buffering is assumed).
//!
//! # Canonical order
//!
//! Operands `o0, o1, …` are combined as a balanced tree: neighbours are paired level by level and an odd
//! last one is carried up, so five operands give `((o0+o1)+(o2+o3))+o4`.

use std::ops::Range;

use smallvec::SmallVec;

use crate::{Algorithm, Shape};

/// A rank: the position of a process in its group, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank(pub u32);

impl Rank {
    /// The rank as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl std::fmt::Display for Rank {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {}", self.0)
    }
}

/// Which memory a span lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Buffer {
    /// What the caller contributes; never written.
    Input,
    /// What the caller gets; also the input of operations that work in place.
    Data,
    /// Memory of the operation itself; undefined until written.
    Scratch,
}

/// A run of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// The memory.
    pub buffer: Buffer,
    /// First element.
    pub offset: u64,
    /// Elements.
    pub len: u64,
}

impl Span {
    /// `len` elements of `buffer` from `offset`.
    #[must_use]
    pub const fn new(buffer: Buffer, offset: u64, len: u64) -> Self {
        Self { buffer, offset, len }
    }

    /// First element past the span.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.offset + self.len
    }

    /// Whether two spans share an element.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.buffer as u8 == other.buffer as u8
            && self.offset < other.offset + other.len
            && other.offset < self.offset + self.len
            && self.len > 0
            && other.len > 0
    }
}

/// One message of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Part {
    /// The other side.
    pub peer: Rank,
    /// Number of this message among those of its (source, destination) pair in the plan, from 0.
    pub slot: u32,
    /// What is sent, or where the message lands. Parts of [`Op::RecvReduce`] all carry its `dst`.
    pub span: Span,
}

/// A local operand of a reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Local {
    /// Where it is; may be the destination itself, else it does not overlap the destination.
    pub span: Span,
    /// Its position among all operands.
    pub at: u32,
}

/// Whether a reduction completes its elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finish {
    /// More operands will follow elsewhere.
    Keep,
    /// The result: averaging divides here, once.
    Last,
}

/// A run of entries in one of a plan's tables: parts or sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Slice {
    /// First entry.
    pub start: u32,
    /// Entries.
    pub len: u32,
}

impl Slice {
    /// The run as a range of indices.
    #[must_use]
    pub const fn range(self) -> Range<usize> {
        self.start as usize..(self.start + self.len) as usize
    }
}

/// What a step does. See the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Sends each part.
    Send {
        /// Messages, see [`Plan::parts`].
        parts: Slice,
    },
    /// Receives each part.
    Recv {
        /// Messages, see [`Plan::parts`].
        parts: Slice,
    },
    /// Receives each part and combines: operands are the messages in the order of `parts`, with `local`
    /// inserted at its position. All have the length of `dst`.
    RecvReduce {
        /// Messages, see [`Plan::parts`].
        parts: Slice,
        /// This rank's own operand.
        local: Option<Local>,
        /// Where the result goes.
        dst: Span,
        /// Whether this completes the elements.
        finish: Finish,
    },
    /// Copies `src` to `dst`, which do not overlap and are of one length.
    Copy {
        /// From here.
        src: Span,
        /// To here.
        dst: Span,
    },
    /// As [`Op::RecvReduce`], with local operands only.
    Reduce {
        /// Operands, see [`Plan::sources`].
        sources: Slice,
        /// One more operand, usually `dst` itself.
        local: Option<Local>,
        /// Where the result goes.
        dst: Span,
        /// Whether this completes the elements.
        finish: Finish,
    },
}

/// A condition on another lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Wait {
    /// The lane.
    pub lane: u32,
    /// How many of its steps must have finished.
    pub steps: u32,
}

/// Most other lanes that one step may wait for.
pub const WAITS_MAX: usize = 3;

/// One step of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// What it does.
    pub op: Op,
    /// What it waits for besides its predecessor in the lane; unused entries are `None`.
    pub waits: [Option<Wait>; WAITS_MAX],
    /// What a trace prints.
    pub label: &'static str,
}

/// Steps that run one after the other: a run of entries of the plan's table of steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lane {
    /// The steps, see [`Plan::steps`].
    pub steps: Slice,
}

/// In which order operands are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// The canonical balanced tree over all ranks: the same bits as every other canonical plan.
    Canonical,
    /// Some fixed order: the same bits on all ranks and in every run.
    Fixed,
}

/// One rank's part of a collective.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub(crate) shape: Shape,
    pub(crate) algorithm: Algorithm,
    pub(crate) world: u32,
    pub(crate) rank: Rank,
    pub(crate) input_len: u64,
    pub(crate) data_len: u64,
    pub(crate) scratch_len: u64,
    pub(crate) exact_order: Order,
    pub(crate) half_order: Order,
    pub(crate) lanes: SmallVec<[Lane; 4]>,
    pub(crate) steps: Vec<Step>,
    pub(crate) parts: Vec<Part>,
    pub(crate) sources: Vec<Span>,
}

impl Plan {
    /// What is computed.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// How.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Ranks that take part.
    #[must_use]
    pub fn world(&self) -> u32 {
        self.world
    }

    /// Whose plan this is.
    #[must_use]
    pub fn rank(&self) -> Rank {
        self.rank
    }

    /// Elements of [`Buffer::Input`].
    #[must_use]
    pub fn input_len(&self) -> u64 {
        self.input_len
    }

    /// Elements of [`Buffer::Data`].
    #[must_use]
    pub fn data_len(&self) -> u64 {
        self.data_len
    }

    /// Elements of [`Buffer::Scratch`].
    #[must_use]
    pub fn scratch_len(&self) -> u64 {
        self.scratch_len
    }

    /// Order of combination for dtypes whose partial results are exact in the dtype itself: everything but
    /// f16 and bf16.
    #[must_use]
    pub fn exact_order(&self) -> Order {
        self.exact_order
    }

    /// The same for f16 and bf16, which are rounded once per reduction step: canonical only where one step
    /// combines all operands.
    #[must_use]
    pub fn half_order(&self) -> Order {
        self.half_order
    }

    /// The lanes.
    #[must_use]
    pub fn lanes(&self) -> &[Lane] {
        &self.lanes
    }

    /// The steps of a lane.
    #[must_use]
    pub fn steps(&self, lane: &Lane) -> &[Step] {
        &self.steps[lane.steps.range()]
    }

    /// The messages of a step.
    #[must_use]
    pub fn parts(&self, parts: &Slice) -> &[Part] {
        &self.parts[parts.range()]
    }

    /// The operands of a [`Op::Reduce`].
    #[must_use]
    pub fn sources(&self, sources: &Slice) -> &[Span] {
        &self.sources[sources.range()]
    }

    /// Whether any step combines operands, so that running the plan needs a reduction kernel.
    #[must_use]
    pub fn reduces(&self) -> bool {
        self.steps.iter().any(|s| matches!(s.op, Op::Reduce { .. } | Op::RecvReduce { .. }))
    }
}
