//! The stupid implementation: every call puts everything on one table, and each rank works out its own answer.
//!
//! It shares nothing with the plans, kernels and links under test, so that the harness itself can be tested, and it shows
//! how little a [`DenseGroup`] has to be.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use allhands_tensor::{DType, ReduceOp};

use crate::compare::float;
use crate::refusal::Rule;
use crate::{Action, Coordinates, DenseGroup, Received, WaitOrder};

/// How long a call waits for the other ranks by default.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// The ranks of a naive group of `world` ranks, each to be moved to a thread of its own.
#[must_use]
pub fn world(world: u32) -> Vec<NaiveGroup> {
    world_with_timeout(world, TIMEOUT)
}

/// [`world`] with another timeout.
#[must_use]
pub fn world_with_timeout(world: u32, timeout: Duration) -> Vec<NaiveGroup> {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            given: vec![None; world as usize],
            round: 0,
            table: Arc::default(),
            mail: BTreeMap::new(),
        }),
        changed: Condvar::new(),
        timeout,
    });
    (0..world).map(|rank| NaiveGroup { rank, world, shared: Arc::clone(&shared) }).collect()
}

/// One rank of a naive group.
#[derive(Debug)]
pub struct NaiveGroup {
    rank: u32,
    world: u32,
    shared: Arc<Shared>,
}

/// Why a naive call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("naive rank {rank}: rule {rule:?}")]
pub struct NaiveError {
    /// The rank that called.
    pub rank: u32,
    /// The rule that was broken.
    pub rule: Rule,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    timeout: Duration,
}

#[derive(Debug)]
struct State {
    /// What each rank has put on the table in this round.
    given: Vec<Option<Vec<u8>>>,
    round: u64,
    /// The table of the last finished round.
    table: Arc<Vec<Vec<u8>>>,
    /// Messages under way, by source, destination and tag.
    mail: BTreeMap<(u32, u32, u32), VecDeque<Vec<u8>>>,
}

impl NaiveGroup {
    fn refuse<T>(&self, rule: Rule) -> Result<T, NaiveError> {
        Err(NaiveError { rank: self.rank, rule })
    }

    fn require(&self, holds: bool, rule: Rule) -> Result<(), NaiveError> {
        if holds { Ok(()) } else { self.refuse(rule) }
    }

    fn require_root(&self, root: u32) -> Result<(), NaiveError> {
        self.require(root < self.world, Rule::Root)
    }

    fn require_reduction(&self, dtype: DType, op: ReduceOp) -> Result<(), NaiveError> {
        let mean_or_factor = matches!(op, ReduceOp::Avg | ReduceOp::PremulSum(_));
        let bits = matches!(op, ReduceOp::BitAnd | ReduceOp::BitOr | ReduceOp::BitXor);
        self.require(if dtype.is_float() { !bits } else { !mean_or_factor }, Rule::Reduction)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `mine` on the table and returns what all ranks have put there.
    fn exchange(&self, mine: &[u8]) -> Result<Arc<Vec<Vec<u8>>>, NaiveError> {
        let mut state = self.lock();
        let round = state.round;
        state.given[self.rank as usize] = Some(mine.to_vec());
        if state.given.iter().all(Option::is_some) {
            state.table = Arc::new(state.given.iter_mut().filter_map(Option::take).collect());
            state.round += 1;
            self.shared.changed.notify_all();
        }
        let (state, late) = self
            .shared
            .changed
            .wait_timeout_while(state, self.shared.timeout, |state| state.round == round)
            .unwrap_or_else(PoisonError::into_inner);
        if late.timed_out() { self.refuse(Rule::Timeout) } else { Ok(Arc::clone(&state.table)) }
    }

    /// The reduction over ranks of what `block` picks from each rank's bytes.
    fn reduced<'t>(
        &self,
        dtype: DType,
        op: ReduceOp,
        table: &'t [Vec<u8>],
        block: impl Fn(&'t [u8]) -> &'t [u8],
    ) -> Vec<u8> {
        let blocks: Vec<&[u8]> = table.iter().map(|bytes| block(bytes)).collect();
        let size = dtype.size();
        (0..blocks[0].len() / size)
            .flat_map(|at| {
                let operands: Vec<&[u8]> =
                    blocks.iter().map(|bytes| &bytes[at * size..][..size]).collect();
                if dtype.is_float() {
                    reduce_floats(dtype, op, &operands)
                } else {
                    reduce_integers(dtype, op, &operands)
                }
            })
            .collect()
    }

    fn take(&self, from: Option<u32>, tag: u32) -> Result<Received, NaiveError> {
        let deadline = Instant::now() + self.shared.timeout;
        let mut state = self.lock();
        loop {
            let senders = from.map_or(0..self.world, |peer| peer..peer + 1);
            for peer in senders {
                let queue = state.mail.get_mut(&(peer, self.rank, tag));
                if let Some(data) = queue.and_then(VecDeque::pop_front) {
                    return Ok(Received { from: peer, data });
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return self.refuse(Rule::Timeout);
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

fn reduce_floats(dtype: DType, op: ReduceOp, operands: &[&[u8]]) -> Vec<u8> {
    let values = operands.iter().map(|bytes| float(dtype, bytes));
    let nan = values.clone().any(f64::is_nan);
    let result = match op {
        ReduceOp::Min | ReduceOp::Max if nan => f64::NAN,
        ReduceOp::Min => values.fold(f64::INFINITY, f64::min),
        ReduceOp::Max => values.fold(f64::NEG_INFINITY, f64::max),
        ReduceOp::Sum => values.fold(-0.0, |sum, value| sum + value),
        ReduceOp::Product => values.product(),
        ReduceOp::Avg => values.fold(-0.0, |sum, value| sum + value) / operands.len() as f64,
        ReduceOp::PremulSum(factor) => {
            values.map(|value| value * factor).fold(-0.0, |sum, value| sum + value)
        }
        other => unreachable!("{} of floats is refused", other.name()),
    };
    match dtype {
        DType::F64 => result.to_le_bytes().to_vec(),
        DType::F32 => (result as f32).to_le_bytes().to_vec(),
        DType::F16 => half::f16::from_f64(result).to_le_bytes().to_vec(),
        _ => half::bf16::from_f64(result).to_le_bytes().to_vec(),
    }
}

fn reduce_integers(dtype: DType, op: ReduceOp, operands: &[&[u8]]) -> Vec<u8> {
    let signed = matches!(dtype, DType::I8 | DType::I16 | DType::I32 | DType::I64);
    let widen = |bytes: &[u8]| {
        let fill = if signed && bytes[bytes.len() - 1] >= 0x80 { 0xff } else { 0 };
        let mut wide = [fill; 16];
        wide[..bytes.len()].copy_from_slice(bytes);
        i128::from_le_bytes(wide)
    };
    let combine = |a: i128, b: i128| match op {
        ReduceOp::Sum => a.wrapping_add(b),
        ReduceOp::Product => a.wrapping_mul(b),
        ReduceOp::Min => a.min(b),
        ReduceOp::Max => a.max(b),
        ReduceOp::BitAnd => a & b,
        ReduceOp::BitOr => a | b,
        ReduceOp::BitXor => a ^ b,
        other => unreachable!("{} of integers is refused", other.name()),
    };
    // Low bits of sums and products do not depend on high ones, so wrapping once at the end is wrapping throughout.
    let result =
        operands.iter().map(|bytes| widen(bytes)).reduce(combine).expect("a group has ranks");
    result.to_le_bytes()[..dtype.size()].to_vec()
}

impl DenseGroup for NaiveGroup {
    type Error = NaiveError;

    fn rank(&self) -> u32 {
        self.rank
    }

    fn world(&self) -> u32 {
        self.world
    }

    fn rule(error: &NaiveError) -> Option<Rule> {
        Some(error.rule)
    }

    fn broadcast(&mut self, _: DType, data: &mut [u8], root: u32) -> Result<(), NaiveError> {
        self.require_root(root)?;
        let table = self.exchange(data)?;
        data.copy_from_slice(&table[root as usize]);
        Ok(())
    }

    fn all_reduce(
        &mut self,
        dtype: DType,
        op: ReduceOp,
        data: &mut [u8],
    ) -> Result<(), NaiveError> {
        self.require_reduction(dtype, op)?;
        let table = self.exchange(data)?;
        data.copy_from_slice(&self.reduced(dtype, op, &table, |bytes| bytes));
        Ok(())
    }

    fn all_reduce_sparse(
        &mut self,
        dtype: DType,
        op: ReduceOp,
        tensor: &Coordinates,
    ) -> Result<Coordinates, NaiveError> {
        self.require(op == ReduceOp::Sum, Rule::Sparse)?;
        let (shape, sparse_dim) = (&tensor.shape, tensor.sparse_dim);
        let layout = format!("{dtype} {shape:?} {sparse_dim}");
        let layouts = self.exchange(layout.as_bytes())?;
        self.require(layouts.iter().all(|other| *other == layouts[0]), Rule::Sparse)?;
        let indices: Vec<u8> = tensor.indices.iter().flat_map(|i| i.to_le_bytes()).collect();
        let (indices, values) = (self.exchange(&indices)?, self.exchange(&tensor.values)?);
        let all: Vec<Coordinates> = indices
            .iter()
            .zip(values.iter())
            .map(|(indices, values)| {
                let indices = indices.as_chunks::<8>().0.iter().map(|&i| i64::from_le_bytes(i));
                Coordinates::new(shape.clone(), sparse_dim, indices.collect(), values.clone())
            })
            .collect();
        let mut rows: BTreeMap<Vec<i64>, Vec<Vec<u8>>> = BTreeMap::new();
        for (position, row) in all.iter().flat_map(Coordinates::entries) {
            rows.entry(position).or_default().push(row.to_vec());
        }
        let indices = (0..sparse_dim).flat_map(|d| rows.keys().map(move |position| position[d]));
        let sums = rows.values().flat_map(|rows| self.reduced(dtype, op, rows, |row| row));
        Ok(Coordinates::new(shape.clone(), sparse_dim, indices.collect(), sums.collect()))
    }

    fn reduce(
        &mut self,
        dtype: DType,
        op: ReduceOp,
        data: &mut [u8],
        root: u32,
    ) -> Result<(), NaiveError> {
        self.require_root(root)?;
        self.require_reduction(dtype, op)?;
        let table = self.exchange(data)?;
        if root == self.rank {
            data.copy_from_slice(&self.reduced(dtype, op, &table, |bytes| bytes));
        }
        Ok(())
    }

    fn all_gather(&mut self, _: DType, input: &[u8], output: &mut [u8]) -> Result<(), NaiveError> {
        self.require(output.len() == self.world as usize * input.len(), Rule::Shape)?;
        output.copy_from_slice(&self.exchange(input)?.concat());
        Ok(())
    }

    fn all_gather_list(
        &mut self,
        _: DType,
        input: &[u8],
        outputs: &mut [&mut [u8]],
    ) -> Result<(), NaiveError> {
        self.require(outputs.len() == self.world as usize, Rule::ListLength)?;
        self.require(outputs.iter().all(|output| output.len() == input.len()), Rule::Shape)?;
        for (output, bytes) in outputs.iter_mut().zip(&*self.exchange(input)?) {
            output.copy_from_slice(bytes);
        }
        Ok(())
    }

    fn gather(
        &mut self,
        _: DType,
        input: &[u8],
        outputs: Option<&mut [&mut [u8]]>,
        root: u32,
    ) -> Result<(), NaiveError> {
        self.require_root(root)?;
        self.require(outputs.is_some() == (root == self.rank), Rule::RootBuffers)?;
        if let Some(outputs) = &outputs {
            self.require(outputs.len() == self.world as usize, Rule::ListLength)?;
            self.require(outputs.iter().all(|output| output.len() == input.len()), Rule::Shape)?;
        }
        let table = self.exchange(input)?;
        for (output, bytes) in outputs.into_iter().flatten().zip(&*table) {
            output.copy_from_slice(bytes);
        }
        Ok(())
    }

    fn scatter(
        &mut self,
        _: DType,
        inputs: Option<&[&[u8]]>,
        output: &mut [u8],
        root: u32,
    ) -> Result<(), NaiveError> {
        self.require_root(root)?;
        self.require(inputs.is_some() == (root == self.rank), Rule::RootBuffers)?;
        if let Some(inputs) = inputs {
            self.require(inputs.len() == self.world as usize, Rule::ListLength)?;
            self.require(inputs.iter().all(|input| input.len() == output.len()), Rule::Shape)?;
        }
        let table = self.exchange(&inputs.unwrap_or_default().concat())?;
        let len = output.len();
        output.copy_from_slice(&table[root as usize][self.rank as usize * len..][..len]);
        Ok(())
    }

    fn reduce_scatter(
        &mut self,
        dtype: DType,
        op: ReduceOp,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), NaiveError> {
        self.require_reduction(dtype, op)?;
        let len = output.len();
        self.require(input.len() == self.world as usize * len, Rule::Shape)?;
        let table = self.exchange(input)?;
        let start = self.rank as usize * len;
        output.copy_from_slice(&self.reduced(dtype, op, &table, |bytes| &bytes[start..][..len]));
        Ok(())
    }

    fn reduce_scatter_list(
        &mut self,
        dtype: DType,
        op: ReduceOp,
        inputs: &[&[u8]],
        output: &mut [u8],
    ) -> Result<(), NaiveError> {
        self.require(inputs.len() == self.world as usize, Rule::ListLength)?;
        self.require(inputs.iter().all(|input| input.len() == output.len()), Rule::Shape)?;
        self.reduce_scatter(dtype, op, &inputs.concat(), output)
    }

    fn all_to_all(
        &mut self,
        dtype: DType,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), NaiveError> {
        let world = self.world as usize;
        let even = |len: usize| (len / dtype.size()).is_multiple_of(world);
        self.require(even(input.len()) && even(output.len()), Rule::Indivisible)?;
        let counts = |len: usize| vec![len / dtype.size() / world; world];
        let (send, recv) = (counts(input.len()), counts(output.len()));
        self.all_to_all_splits(dtype, input, &send, output, &recv)
    }

    fn all_to_all_splits(
        &mut self,
        dtype: DType,
        input: &[u8],
        send_counts: &[usize],
        output: &mut [u8],
        recv_counts: &[usize],
    ) -> Result<(), NaiveError> {
        let (world, size) = (self.world as usize, dtype.size());
        let fits = |counts: &[usize], bytes: &[u8]| {
            counts.len() == world && counts.iter().sum::<usize>() * size == bytes.len()
        };
        self.require(fits(send_counts, input) && fits(recv_counts, output), Rule::Splits)?;
        // A rank puts its counts before its bytes, so that the others can find their blocks.
        let mut mine: Vec<u8> =
            send_counts.iter().flat_map(|count| (count * size).to_le_bytes()).collect();
        mine.extend_from_slice(input);
        let word = size_of::<usize>();
        let mut at = 0;
        for (bytes, expected) in self.exchange(&mine)?.iter().zip(recv_counts) {
            let (head, body) = bytes.split_at(world * word);
            let lens: Vec<usize> = head
                .chunks_exact(word)
                .map(|len| usize::from_le_bytes(len.try_into().expect("a word")))
                .collect();
            let me = self.rank as usize;
            self.require(lens[me] == expected * size, Rule::Splits)?;
            let start = lens[..me].iter().sum::<usize>();
            output[at..][..lens[me]].copy_from_slice(&body[start..][..lens[me]]);
            at += lens[me];
        }
        Ok(())
    }

    fn all_to_all_list(
        &mut self,
        dtype: DType,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
    ) -> Result<(), NaiveError> {
        let world = self.world as usize;
        self.require(inputs.len() == world && outputs.len() == world, Rule::ListLength)?;
        let size = dtype.size();
        let send: Vec<usize> = inputs.iter().map(|input| input.len() / size).collect();
        let recv: Vec<usize> = outputs.iter().map(|output| output.len() / size).collect();
        let mut joined = vec![0; recv.iter().sum::<usize>() * size];
        self.all_to_all_splits(dtype, &inputs.concat(), &send, &mut joined, &recv)?;
        let mut rest = joined.as_slice();
        for output in outputs {
            output.copy_from_slice(rest.split_off(..output.len()).expect("the sum of all outputs"));
        }
        Ok(())
    }

    fn point_to_point(
        &mut self,
        _: DType,
        program: &[Action],
        order: WaitOrder,
    ) -> Result<Vec<Received>, NaiveError> {
        for action in program {
            if let Action::Send { peer, tag, data } = action {
                self.require(*peer < self.world && *peer != self.rank, Rule::Root)?;
                let key = (self.rank, *peer, *tag);
                self.lock().mail.entry(key).or_default().push_back(data.clone());
                self.shared.changed.notify_all();
            }
        }
        // Messages that match several receives go to the one issued first, in whatever order the rank waits.
        let _ = order;
        let mut received = Vec::new();
        for action in program {
            match action {
                Action::Send { .. } => {}
                Action::Receive { peer, tag, .. } => received.push(self.take(Some(*peer), *tag)?),
                Action::ReceiveAny { tag, .. } => received.push(self.take(None, *tag)?),
            }
        }
        Ok(received)
    }

    fn barrier(&mut self) -> Result<(), NaiveError> {
        self.exchange(&[]).map(drop)
    }
}
