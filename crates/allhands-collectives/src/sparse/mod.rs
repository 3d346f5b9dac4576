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

use std::time::Instant;

use allhands_engine::flat::BOARD_CHANNEL;
use allhands_plan::{Counts, Own, Shape};
use allhands_tensor::{
    DType, ReduceOp, RowOrder, SparseError, SparseLayout, SparseTensor, Tensor, TensorError,
    TensorRef,
};
use smallvec::SmallVec;

pub(crate) use agree::Sides;
pub use agree::SparseSide;
use agree::{Card, Manner, WORDS};
use choose::{Method, Way};
use lanes::Place;
pub(crate) use lanes::{Lanes, SPARSE_MAX};
pub use pending::SparsePending;

use crate::communicator::{CallOptions, Communicator, Part, Spec};
use crate::error::{Error, Invalid};
use crate::operation::Operation;
use crate::primitive::lock;

/// Marks the channel on which the later steps of asynchronous sparse calls run. Channels of sparse calls are below.
pub const LATER_STEPS: u32 = 1 << 31;

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
        let begun = Instant::now();
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
        place: Place,
        tensor: &SparseTensor,
        order: &RowOrder,
        spare: Option<SparseTensor>,
    ) -> Result<SparseTensor, Error> {
        let (cards, _place) = self.agree(cards, false, place)?;
        let way = if self.on_board() { Way::Board } else { Way::Links };
        self.sum_by(choose::method(&cards, way), &cards, tensor, order, spare)
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

impl Communicator {
    /// The sum of all ranks' sparse tensors, coalesced, with the same bits on all ranks. A row that occurs on one rank only is
    /// copied. `spare` gives its memory to the result where it is large enough.
    ///
    /// All ranks tell first what they have, then evaluate the same formula and take the cheapest method. It counts bytes that
    /// the busiest rank receives, those that it reads or writes in memory at 1/4 of one, and 32 KiB for each step in which ranks
    /// wait for each other. With P ranks, N rows in all, U rows of the sum (estimated from samples of each rank's keys), R positions,
    /// v bytes of a row of values and k = 4 or 8 bytes of a key:
    ///
    /// | method | steps | received | memory |
    /// |---|---|---|---|
    /// | gather: all rows to everybody, added as they come | 2 | (P−1)/P N(v+k) | (N+U)v |
    /// | owners: rows to the owner of their range, sums to everybody; not for P = 2 | 4 | (P−1)/P (N/P+U)(v+k) | (N+U)v/P |
    /// | dense: the whole tensor, and a bit for each position | 2 | 2(P−1)/P (Rv + R/8) | (3R+U)v |
    ///
    /// Where all ranks have the same positions, their values alone are reduced. In shared memory bytes between owners count twice, since
    /// blocks of unequal length do not go through boards.
    ///
    /// # Errors
    /// See [`Error`]; reductions other than the sum are refused before anything is sent, ranks whose tensors do not fit together
    /// get an error that names them, and the group goes on in both cases.
    pub fn all_reduce_sparse(
        &self,
        tensor: &SparseTensor,
        op: ReduceOp,
        options: &CallOptions,
        spare: Option<SparseTensor>,
    ) -> Result<SparseTensor, Error> {
        let operation = Operation::AllReduceSparse;
        self.check_sparse(operation, op, options)?;
        let order = tensor.order();
        let place = self.enter(operation, options)?;
        let mut call = Call::new(self, operation, options, tensor.layout());
        let card = Card::of(tensor.layout(), order.keys(), Manner::Blocking);
        let mut cards = call.cards(&card)?;
        call.step(&call.meeting(), [], [keys::of(&mut cards)])?;
        call.sum(&cards, place, tensor, &order, spare)
    }

    /// The same where all ranks know already at which positions any of them may have rows: `indices`, i64,
    /// `[sparse dimensions, positions]`, rising. Nothing but values is reduced; where a rank has no row it counts as zeros, and the
    /// result has a row for each of these positions.
    ///
    /// # Errors
    /// As [`Communicator::all_reduce_sparse`]. Indices that do not rise or lack one of this rank's are refused before anything
    /// is sent; ranks that pass different ones get an error that names them.
    pub fn all_reduce_sparse_at(
        &self,
        tensor: &SparseTensor,
        indices: TensorRef<'_>,
        op: ReduceOp,
        options: &CallOptions,
        spare: Option<SparseTensor>,
    ) -> Result<SparseTensor, Error> {
        let operation = Operation::AllReduceSparseAt;
        self.check_sparse(operation, op, options)?;
        let agreed = self.agreed(tensor, indices)?;
        let order = tensor.order();
        if let Some(row) = aligned::stranger(order.keys(), &agreed) {
            return Err(self.invalid(operation, Invalid::SparseStranger { key: order.keys()[row] }));
        }
        let place = self.enter(operation, options)?;
        let mut call = Call::new(self, operation, options, tensor.layout());
        let card = Card::of(tensor.layout(), &agreed, Manner::Blocking);
        let mut cards = call.cards(&card)?;
        call.step(&call.meeting(), [], [keys::of(&mut cards)])?;
        call.sum_at(&cards, place, tensor, &order, &agreed, spare)
    }

    /// Starts [`Communicator::all_reduce_sparse`]. Rows that are not coalesced are sorted before this returns; a thread of the
    /// call's own does the rest.
    #[must_use]
    pub fn start_all_reduce_sparse(
        &self,
        tensor: SparseTensor,
        op: ReduceOp,
        options: &CallOptions,
    ) -> SparsePending {
        let operation = Operation::AllReduceSparse;
        let begin = || {
            self.check_sparse(operation, op, options)?;
            let order = tensor.order();
            let place = self.enter(operation, options)?;
            let call = Call::new(self, operation, options, tensor.layout());
            let card = Card::of(tensor.layout(), order.keys(), Manner::Asynchronous);
            let cards = call.cards(&card)?;
            let meeting = self.start(&call.meeting(), options, Vec::new(), vec![cards]);
            Ok((order, place, meeting, call.begun))
        };
        match begin() {
            Ok((order, place, meeting, begun)) => {
                let (group, options) = (self.another(), options.clone());
                SparsePending::spawn(tensor, move |tensor| {
                    let mut call = Call::new(&group, operation, &options, tensor.layout());
                    call.deadline = begun.checked_add(options.timeout);
                    call.begun = begun;
                    let (met, mut buffers) = meeting.wait();
                    met.map_err(|error| error.within(begun.elapsed(), options.timeout))?;
                    let cards = buffers.outputs.pop();
                    let cards = cards.ok_or_else(|| call.garbled(call.rank(), "nothing"))?;
                    call.sum(&cards, place, tensor, &order, None)
                })
                .unwrap_or_else(|refused| {
                    let (tensor, error) = *refused;
                    let reason = Invalid::Thread { reason: error.to_string() };
                    self.abort(format!("rank {} got no thread for {operation}", self.rank().0));
                    SparsePending::refused(tensor, self.invalid(operation, reason))
                })
            }
            Err(error) => SparsePending::refused(tensor, error),
        }
    }

    fn check_sparse(
        &self,
        operation: Operation,
        op: ReduceOp,
        options: &CallOptions,
    ) -> Result<(), Error> {
        let reason = if op != ReduceOp::Sum {
            Invalid::SparseReduction { op }
        } else if options.algorithm.is_some() {
            Invalid::SparseAlgorithm
        } else if options.channel >= LATER_STEPS {
            Invalid::SparseChannel { channel: options.channel }
        } else {
            return Ok(());
        };
        Err(self.invalid(operation, reason))
    }

    fn enter(&self, operation: Operation, options: &CallOptions) -> Result<Place, Error> {
        let place = self.lanes.enter(options.channel);
        place.ok_or_else(|| self.invalid(operation, Invalid::TooManySparse { limit: SPARSE_MAX }))
    }

    /// The keys of indices that all ranks know.
    fn agreed(&self, tensor: &SparseTensor, indices: TensorRef<'_>) -> Result<Vec<u64>, Error> {
        let invalid = |reason| self.invalid(Operation::AllReduceSparseAt, reason);
        let positions = indices.shape().get(1).copied().unwrap_or(0);
        let shape = tensor.layout().sparse_shape();
        let marks = Tensor::try_zeros(DType::U8, &[positions]).map_err(SparseError::from);
        let pattern = marks.and_then(|marks| SparseTensor::new(indices.to_tensor(), marks, shape));
        match pattern {
            Ok(pattern) if pattern.is_coalesced() => Ok(pattern.order().keys().to_vec()),
            Ok(_) => Err(invalid(Invalid::SparseFalling)),
            Err(error) => Err(invalid(Invalid::Sparse(error))),
        }
    }
}
