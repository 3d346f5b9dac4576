//! Sums of sparse tensors: several plans in a row, of which the later ones depend on what the earlier ones brought.
//!
//! # Steps
//! Every rank first tells what it has: layout, number of rows, a hash and samples of its keys. All ranks then know whether
//! they agree, and by which [method](choose) they go on. All of that is one call for the caller:
//! * Each step is an operation on the call's channel, so a call takes several consecutive sequence numbers, the same on all
//!   ranks. Errors and fingerprints name the call, not the plan.
//! * The call's timeout is that of all steps together.
//! * What a step needs of memory is known before it begins, and the same on all ranks where it has to be.
//!
//! # Asynchronous calls
//! A rank that does not wait may call something else on the channel before the call's later steps are under way. So if any
//! rank has called asynchronously, which all learn in the first step, all run the later steps on a channel that is the
//! call's own channel with [`LATER_STEPS`], one sparse call after the other in the order in which they were called.
//!
//! # Memory
//! Rows go through a stage of at most [`STAGE_BOARD`] or [`STAGE_LINKS`] for each rank, so that what arrives is added while it is in
//! cache. Limits of physics for two ranks of n rows of b bytes and a sum of U rows: each rank reads its own n·b, writes U·b, and n·b
//! cross between the two. With 10⁵ rows of 256 B (U = 1.9·10⁵, no rank having the rows of the other before), that is 26 MB read,
//! 49 MB written, which costs as much again because a line is read before it is written, and 26 MB handed over: about 125 MB of memory
//! traffic a rank, 12 ms at 10 GB/s; 1/10 and 1/100 of that for 10⁴ and 10³ rows, where a step's latency (2 to 30 µs) is still small.
//! A result in fresh memory costs a page fault and zeros for each page in addition: pass one that is there.

mod agree;
mod aligned;
mod choose;
mod dense;
mod gather;
mod keys;
mod lanes;
mod owners;
mod pending;
#[cfg(test)]
mod tests;
mod verbs;

use std::time::Instant;

use allhands_engine::flat::BOARD_CHANNEL;
use allhands_plan::{Counts, Own, Shape};
use allhands_tensor::{
    DType, ReduceOp, RowOrder, SparseError, SparseLayout, SparseTensor, Tensor, TensorError,
};
use smallvec::SmallVec;

pub(crate) use agree::Sides;
pub use agree::SparseSide;
use agree::{Card, Manner, WORDS};
use choose::{Method, Way};
pub(crate) use lanes::Lanes;
use lanes::Place;
pub use pending::SparsePending;

use crate::communicator::{CallOptions, Communicator, Part, Spec};
use crate::error::{Error, Invalid};
use crate::operation::Operation;
use crate::primitive::lock;

/// Marks the channel on which the later steps of asynchronous sparse calls run. Channels of sparse calls are below.
pub(crate) const LATER_STEPS: u32 = 1 << 31;

/// Channels that callers may name: the last one's later steps would be point-to-point messages.
pub const CHANNELS: u32 = LATER_STEPS - 1;

/// Bytes of rows of each rank that are staged at a time in shared memory: two tiles, which stay in the second-level cache.
const STAGE_BOARD: usize = 512 * 1024;

/// The same over links, where waiting for each other costs more.
const STAGE_LINKS: usize = 2 * 1024 * 1024;

/// Bytes that the stage of all ranks may take, though a row of each always fits.
const STAGE_ALL: usize = 64 * 1024 * 1024;

/// Bytes of blocks of unequal length that are filled up to the longest rather than sent exactly, in shared memory, where only
/// equal blocks go the shortest way.
const FILL_UP: usize = 64 * 1024;

/// Parts of four that unequal blocks have to fill of equal ones to be sent as such there: a byte through a ring costs about two,
/// and one more copy for each further reader.
const FILLED_QUARTERS: usize = 3;

/// The steps of a sparse call. The numbers ride in fingerprints, so they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Step {
    /// Everybody tells what it has.
    Meet = 1,
    /// Keys go to everybody, or to those who own them with their rows.
    Keys = 2,
    /// Rows of values.
    Rows = 3,
    /// How much there is in the next step.
    Counts = 4,
    /// Sums go to everybody.
    Sums = 5,
    /// Which positions occur.
    Positions = 6,
}

/// A call that makes sense on this rank.
struct Begun {
    order: RowOrder,
    /// Keys that all ranks know, where the call names them.
    agreed: Option<Vec<u64>>,
    place: Place,
}

impl Begun {
    fn card(&self, layout: &SparseLayout, manner: Manner) -> Card {
        Card::of(layout, self.agreed.as_deref().unwrap_or(self.order.keys()), manner)
    }
}

/// One call, on its way.
struct Call<'a> {
    group: &'a Communicator,
    operation: Operation,
    options: CallOptions,
    /// Of the rank's tensor.
    layout: &'a SparseLayout,
    /// Told once all agree on it.
    dtype: Option<DType>,
    begun: Instant,
    deadline: Option<Instant>,
}

/// Equal or exact blocks of bytes, one for each rank.
struct Blocks {
    counts: Counts,
    /// Where each begins, and where the last ends.
    begins: Vec<usize>,
}

impl Blocks {
    fn all_gather(&self) -> Shape {
        Shape::AllGather { counts: self.counts.clone(), own: Own::InPlace }
    }

    fn total(&self) -> usize {
        self.begins.last().copied().unwrap_or(0)
    }
}

/// `count`, raised so little that few different counts are left: plans for them are kept.
fn raised(count: usize) -> usize {
    count.next_multiple_of((count.next_power_of_two() / 32).max(1))
}

impl<'a> Call<'a> {
    fn new(
        group: &'a Communicator,
        operation: Operation,
        options: &CallOptions,
        layout: &'a SparseLayout,
    ) -> Self {
        Self::since(Instant::now(), group, operation, options, layout)
    }

    /// A call that has begun before.
    fn since(
        begun: Instant,
        group: &'a Communicator,
        operation: Operation,
        options: &CallOptions,
        layout: &'a SparseLayout,
    ) -> Self {
        let deadline = begun.checked_add(options.timeout);
        Self { group, operation, options: options.clone(), layout, dtype: None, begun, deadline }
    }

    fn ranks(&self) -> usize {
        self.group.world_size() as usize
    }

    fn rank(&self) -> usize {
        self.group.rank().index()
    }

    fn spec(&self, step: Step, shape: Shape, dtype: DType, reduction: Option<ReduceOp>) -> Spec {
        let part = Part { operation: self.operation, dtype: self.dtype, step: step as u8 };
        let dims: SmallVec<[u64; 8]> = self.layout.shape().iter().map(|&n| n as u64).collect();
        Spec { dims, part: Some(part), ..Spec::new(shape, Some(dtype), reduction) }
    }

    /// Runs one step in what is left of the call's time.
    fn step<'b>(
        &mut self,
        spec: &Spec,
        inputs: impl IntoIterator<Item = &'b [u8]>,
        outputs: impl IntoIterator<Item = &'b mut [u8]>,
    ) -> Result<(), Error> {
        let limit = self.options.timeout;
        let mut options = self.options.clone();
        if let Some(deadline) = self.deadline {
            options.timeout = deadline.saturating_duration_since(Instant::now());
        }
        let ended = self.group.run(spec, &options, inputs, outputs);
        ended.map_err(|error| error.within(self.begun.elapsed(), limit))
    }

    /// Runs a step on bytes that are neither read nor added.
    fn exchange<'b>(
        &mut self,
        step: Step,
        shape: Shape,
        inputs: impl IntoIterator<Item = &'b [u8]>,
        outputs: impl IntoIterator<Item = &'b mut [u8]>,
    ) -> Result<(), Error> {
        let spec = self.spec(step, shape, DType::U8, None);
        self.step(&spec, inputs, outputs)
    }

    /// Adds up all ranks' `data`.
    fn all_reduce(
        &mut self,
        step: Step,
        data: &mut [u8],
        dtype: DType,
        op: ReduceOp,
    ) -> Result<(), Error> {
        let shape = Shape::AllReduce { len: (data.len() / dtype.size()) as u64 };
        let spec = self.spec(step, shape, dtype, Some(op));
        self.step(&spec, [], [data])
    }

    /// One number of each rank, for everybody.
    fn all_gather_number(&mut self, mine: u64) -> Result<Vec<u64>, Error> {
        let mut numbers = self.memory(Tensor::try_zeros(DType::U64, &[self.ranks()]))?;
        if let Ok(words) = numbers.as_mut_slice::<u64>() {
            words[self.rank()] = mine;
        }
        let shape = Shape::AllGather { counts: Counts::Equal(1), own: Own::InPlace };
        let spec = self.spec(Step::Counts, shape, DType::U64, None);
        self.step(&spec, [], [keys::of(&mut numbers)])?;
        self.memory(numbers.to_vec())
    }

    /// Whether steps go through a board now.
    fn on_board(&self) -> bool {
        self.group.shares_memory() && self.options.channel == BOARD_CHANNEL
    }

    /// Blocks of so many rows of `bytes` bytes: exact ones, or in shared memory equal ones that hold a little more.
    fn blocks(&self, rows: &[usize], bytes: usize) -> Blocks {
        let most = rows.iter().copied().max().unwrap_or(0);
        let sum: usize = rows.iter().sum();
        let equal = if self.on_board() { raised(most) } else { most };
        let full = equal.saturating_mul(rows.len());
        let small = full.saturating_mul(bytes) <= FILL_UP;
        let even = rows.iter().all(|&count| count == most);
        if even || self.on_board() && (small || sum >= full / 4 * FILLED_QUARTERS) {
            let begins = (0..=rows.len()).map(|rank| rank * equal * bytes).collect();
            return Blocks { counts: Counts::Equal((equal * bytes) as u64), begins };
        }
        let mut begins = vec![0];
        let mut end = 0;
        for count in rows {
            end += count * bytes;
            begins.push(end);
        }
        let counts = Counts::PerRank(rows.iter().map(|count| (count * bytes) as u64).collect());
        Blocks { counts, begins }
    }

    fn invalid(&self, reason: Invalid) -> Error {
        self.group.invalid(self.operation, reason)
    }

    /// Ends the group: a rank has said what no rank of this version says.
    fn garbled(&self, rank: usize, what: &str) -> Error {
        self.group.abort(format!("rank {rank} sent {what} for {}", self.operation));
        self.group.broken(self.operation, rank as u32, self.options.timeout, what)
    }

    fn sparse<T>(&self, made: Result<T, SparseError>) -> Result<T, Error> {
        made.map_err(|error| self.invalid(Invalid::Sparse(error)))
    }

    fn memory<T>(&self, made: Result<T, TensorError>) -> Result<T, Error> {
        made.map_err(|error| self.invalid(Invalid::Sparse(error.into())))
    }

    /// This rank's card, in a place for those of all ranks.
    fn cards(&self, card: &Card) -> Result<Tensor, Error> {
        let mut cards = self.memory(Tensor::try_zeros(DType::U64, &[self.ranks(), WORDS]))?;
        if let Ok(words) = cards.as_mut_slice::<u64>() {
            card.write(&mut words[self.rank() * WORDS..][..WORDS]);
        }
        Ok(cards)
    }

    fn meeting(&self) -> Spec {
        let shape = Shape::AllGather { counts: Counts::Equal(WORDS as u64), own: Own::InPlace };
        self.spec(Step::Meet, shape, DType::U64, None)
    }

    /// Reads everybody's card. From here on the later steps have their channel.
    fn agree(
        &mut self,
        cards: &Tensor,
        agreed: bool,
        place: Place,
    ) -> Result<(Vec<Card>, Option<Place>), Error> {
        let words = self.memory(cards.as_slice::<u64>())?;
        let mut read = Vec::with_capacity(self.ranks());
        for (rank, words) in words.chunks_exact(WORDS).enumerate() {
            read.push(
                Card::read(words)
                    .ok_or_else(|| self.garbled(rank, "no description of a tensor"))?,
            );
        }
        let sides = agree::sides(&read, agreed);
        if sides.len() > 1 {
            return Err(self.invalid(Invalid::SparseTensors { sides }));
        }
        self.dtype = Some(self.layout.dtype());
        if read.iter().all(|card| card.manner == Manner::Blocking) {
            return Ok((read, None));
        }
        self.options.channel |= LATER_STEPS;
        place.wait(self.deadline);
        Ok((read, Some(place)))
    }

    /// The steps after the first one.
    fn sum(
        mut self,
        cards: &Tensor,
        begun: Begun,
        tensor: &SparseTensor,
        spare: Option<SparseTensor>,
    ) -> Result<SparseTensor, Error> {
        let Begun { order, agreed, place } = begun;
        let (cards, _place) = self.agree(cards, agreed.is_some(), place)?;
        if let Some(agreed) = agreed {
            return self.sum_at(tensor, &order, &agreed, spare);
        }
        let way = if self.on_board() { Way::Board } else { Way::Links };
        self.sum_by(choose::method(&cards, way), &cards, tensor, &order, spare)
    }

    /// The steps of one method.
    fn sum_by(
        &mut self,
        method: Method,
        cards: &[Card],
        tensor: &SparseTensor,
        order: &RowOrder,
        spare: Option<SparseTensor>,
    ) -> Result<SparseTensor, Error> {
        match method {
            Method::Aligned => self.aligned(tensor, order, spare),
            Method::Gather => self.gather(cards, tensor, order, spare),
            Method::Owners => self.owners(cards, tensor, order, spare),
            Method::Dense => self.dense(tensor, order, spare),
        }
    }
}
