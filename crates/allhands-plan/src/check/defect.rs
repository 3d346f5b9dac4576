//! What can be wrong with plans.

use std::fmt;

use crate::plan::{Order, Plan, Rank, Span, Wait};

/// A step of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct At {
    /// Whose.
    pub rank: Rank,
    /// Which lane.
    pub lane: u32,
    /// Which of the lane's steps, from 0.
    pub step: u32,
    /// The step's label.
    pub label: &'static str,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, lane {}, step {} ({})", self.rank, self.lane, self.step, self.label)
    }
}

/// A step that cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stuck {
    /// A lane does not get as far as the step wants.
    Lane {
        /// The step.
        at: At,
        /// What it waits for.
        wait: Wait,
    },
    /// The other side of a message is never active.
    Peer {
        /// The step.
        at: At,
        /// The other side.
        peer: Rank,
        /// Number of the message.
        slot: u32,
    },
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lane { at, wait } => {
                write!(f, "{at} waits for {} steps of lane {}", wait.steps, wait.lane)
            }
            Self::Peer { at, peer, slot } => write!(f, "{at} waits for message {slot} with {peer}"),
        }
    }
}

/// Stuck steps that [`Defect::Deadlock`] lists.
pub(crate) const STUCK_MAX: usize = 8;

fn list(stuck: &[Stuck]) -> String {
    stuck.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What is wrong with plans.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Defect {
    /// There is nothing to check.
    #[error("no plans to check; pass those of all ranks")]
    NoPlans,
    /// A plan differs from that of rank 0, or stands in the wrong place.
    #[error("the plan of {rank} disagrees with the others in its {what}")]
    Disagree {
        /// Whose plan.
        rank: Rank,
        /// In what.
        what: &'static str,
    },
    /// The lanes do not divide the table of steps among them.
    #[error("the lanes of {rank} do not follow each other through all of its steps")]
    Lanes {
        /// Whose plan.
        rank: Rank,
    },
    /// A run of table entries lies outside its table.
    #[error("{at} refers to {what} that the plan does not have")]
    Table {
        /// The step.
        at: At,
        /// Which table.
        what: &'static str,
    },
    /// A span lies outside its buffer.
    #[error("{at} uses {span:?}, which lies outside the buffer of {len} elements")]
    Bounds {
        /// The step.
        at: At,
        /// The span.
        span: Span,
        /// Length of its buffer.
        len: u64,
    },
    /// `Input` is written.
    #[error("{at} writes {span:?}, which belongs to the caller")]
    InputWritten {
        /// The step.
        at: At,
        /// The span.
        span: Span,
    },
    /// Spans that must be of one length are not.
    #[error("{at} combines or copies {len} elements into {dst:?}")]
    StepLength {
        /// The step.
        at: At,
        /// The destination.
        dst: Span,
        /// Length of the other span.
        len: u64,
    },
    /// A part of a reduction does not carry the destination.
    #[error("{at} has a part that lands in {span:?} and not in its destination")]
    PartSpan {
        /// The step.
        at: At,
        /// The part's span.
        span: Span,
    },
    /// Spans of one step overlap in a way that has no meaning.
    #[error("{at} writes {written:?} and uses {other:?} at the same time")]
    Overlap {
        /// The step.
        at: At,
        /// What is written.
        written: Span,
        /// What overlaps it.
        other: Span,
    },
    /// A reduction has no operand, or its local operand a position past the last.
    #[error("{at} has {operands} operands and a local one at position {local}")]
    Operands {
        /// The step.
        at: At,
        /// Operands, without the local one.
        operands: u32,
        /// Position of the local one.
        local: u32,
    },
    /// A message goes to nobody in the group, or to the rank itself.
    #[error("{at} has a message with {peer}")]
    Peer {
        /// The step.
        at: At,
        /// The other side.
        peer: Rank,
    },
    /// A step waits for something that cannot be meant.
    #[error("{at} waits for {} steps of lane {}", wait.steps, wait.lane)]
    Wait {
        /// The step.
        at: At,
        /// The wait.
        wait: Wait,
    },
    /// Messages of one side are not numbered 0, 1, 2, ….
    #[error("{at} has a message number {slot} with {peer}, where number {expected} should be")]
    Slot {
        /// The step.
        at: At,
        /// The other side.
        peer: Rank,
        /// Its number.
        slot: u32,
        /// What it should be.
        expected: u32,
    },
    /// Only one side of a message exists.
    #[error("{at} has a message number {slot} that {peer} does not know of")]
    Unmatched {
        /// The step.
        at: At,
        /// The other side.
        peer: Rank,
        /// Number of the message.
        slot: u32,
    },
    /// The sides of a message disagree about its length.
    #[error("{sender} sends {sent} elements, {receiver} expects {expected}")]
    MessageLength {
        /// The sending step.
        sender: At,
        /// The receiving step.
        receiver: At,
        /// What is sent.
        sent: u64,
        /// What is expected.
        expected: u64,
    },
    /// Two steps of a rank may run at the same time, and one writes what the other uses.
    #[error("{first} and {second} may run at the same time on {span:?}")]
    Race {
        /// One step.
        first: At,
        /// The other.
        second: At,
        /// What the first of them uses there.
        span: Span,
    },
    /// Without buffering the plans do not end.
    #[error("deadlock: {}", list(stuck))]
    Deadlock {
        /// Some of the steps that cannot go on.
        stuck: Vec<Stuck>,
    },
    /// Something is read that nobody wrote.
    #[error("{at} reads {span:?} before all of it is written")]
    Undefined {
        /// The step.
        at: At,
        /// What it reads.
        span: Span,
    },
    /// Different elements are combined with each other.
    #[error("{at} combines element {one} with element {other}")]
    Mixed {
        /// The step.
        at: At,
        /// Number of one element in its contribution.
        one: u64,
        /// Number of the other.
        other: u64,
    },
    /// A contribution is combined twice.
    #[error("{at} combines the contribution of {rank} with itself")]
    Twice {
        /// The step.
        at: At,
        /// Whose contribution.
        rank: Rank,
    },
    /// A result is combined with something more.
    #[error("{at} combines what is already marked as the result")]
    AfterLast {
        /// The step.
        at: At,
    },
    /// An element of `Data` is not what the shape asks for.
    #[error("element {element} of the data of {rank} holds {found}; it should hold {expected}")]
    Result {
        /// Whose data.
        rank: Rank,
        /// Which element.
        element: u64,
        /// What it holds.
        found: String,
        /// What it should hold.
        expected: String,
    },
    /// A result was never marked as such, or something that is no reduction was.
    #[error("element {element} of the data of {rank} went through {times} last reductions")]
    Last {
        /// Whose data.
        rank: Rank,
        /// Which element.
        element: u64,
        /// How many.
        times: u32,
    },
    /// Two ranks combined in different orders.
    #[error("element {element} is combined as {found} on {rank} and as {first} on rank 0")]
    Differ {
        /// Who differs from rank 0.
        rank: Rank,
        /// Which element.
        element: u64,
        /// Its order.
        found: String,
        /// That of rank 0.
        first: String,
    },
    /// An order is called canonical and is not.
    #[error("element {element} on {rank} is combined as {found}, which {claim} does not allow")]
    Claim {
        /// Where.
        rank: Rank,
        /// Which element.
        element: u64,
        /// The order.
        found: String,
        /// Which claim.
        claim: &'static str,
    },
    /// A rank leaves a barrier without news of another.
    #[error("{rank} may leave the barrier before {missing} has come")]
    Barrier {
        /// Who leaves.
        rank: Rank,
        /// Who may not have come.
        missing: Rank,
    },
}

/// What an order claims, for messages.
pub(crate) fn claim(exact: Order, half: Order) -> &'static str {
    match (exact, half) {
        (Order::Canonical, Order::Canonical) => "the canonical order of every dtype",
        (Order::Canonical, Order::Fixed) => "the canonical order of exact dtypes",
        (Order::Fixed, Order::Canonical) => "the canonical order of f16 and bf16",
        (Order::Fixed, Order::Fixed) => "no claim",
    }
}

impl Plan {
    pub(crate) fn at(&self, lane: u32, step: u32) -> At {
        let first = self.lanes[lane as usize].steps.start;
        At { rank: self.rank, lane, step, label: self.steps[(first + step) as usize].label }
    }
}
