//! The blocking verbs: they borrow their buffers and return when the operation has ended.

use allhands_collectives::{Invalid, Message, Operation, Spec};
use allhands_plan::{Counts, Own, Rank, Shape};
use allhands_tensor::{DType, ReduceOp, Tensor, TensorMut, TensorRef};
use smallvec::SmallVec;

use crate::error::Error;
use crate::group::ProcessGroup;

/// What is wrong with a buffer, before it is known which call it belongs to.
pub(crate) type Check<T> = Result<T, Invalid>;

pub(crate) fn same_dtype(buffer: &'static str, found: DType, expected: DType) -> Check<()> {
    if found == expected { Ok(()) } else { Err(Invalid::Dtype { buffer, found, expected }) }
}

pub(crate) fn length(
    buffer: &'static str,
    found: usize,
    expected: usize,
    why: &'static str,
) -> Check<()> {
    if found == expected { Ok(()) } else { Err(Invalid::Length { buffer, found, expected, why }) }
}

pub(crate) fn entries(list: &'static str, found: usize, expected: usize) -> Check<()> {
    if found == expected { Ok(()) } else { Err(Invalid::Entries { list, found, expected }) }
}

/// A list with an entry for each rank, without an allocation in small worlds.
type List<T> = SmallVec<[T; 8]>;

/// What the entries of a list have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lengths {
    /// All are as long as this rank's own buffer.
    Equal,
    /// Each rank's entry has its own length.
    PerRank,
}

impl Lengths {
    /// The counts of a list whose own entry belongs to a buffer of `own` elements.
    pub(crate) fn counts(self, lens: &[usize], own: usize, rank: Rank) -> Check<Counts> {
        match self {
            Self::Equal => {
                for &len in lens {
                    length("an entry of the list", len, own, "as long as the other buffer")?;
                }
                Ok(Counts::Equal(own as u64))
            }
            Self::PerRank => {
                let found = lens[rank.index()];
                length("the own entry of the list", found, own, "as long as the other buffer")?;
                Ok(per_rank(lens))
            }
        }
    }
}

/// Elements of a shape; extents beside a zero may be too large to be multiplied.
#[inline]
fn elements(shape: &[usize]) -> usize {
    shape.iter().fold(1, |elements: usize, &extent| elements.saturating_mul(extent))
}

/// Elements of a block of `rows` rows of a tensor.
pub(crate) fn row_len(shape: &[usize]) -> usize {
    elements(shape.get(1..).unwrap_or_default())
}

/// What a check needs to know of a buffer: its element type and its elements.
pub(crate) type Facts = (DType, usize);

/// A borrowed input: as it lies in memory if it is contiguous, else a packed copy.
enum Input<'a> {
    Borrowed(&'a [u8]),
    /// Boxed, since lists of inputs are moved, and copies are rare.
    Packed(Box<Tensor>),
}

impl<'a> Input<'a> {
    fn of(view: &TensorRef<'a>) -> Self {
        match view.as_bytes() {
            Ok(bytes) => Self::Borrowed(bytes),
            Err(_) => Self::Packed(Box::new(view.to_tensor())),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            // A packed copy is contiguous.
            Self::Packed(tensor) => tensor.as_bytes().unwrap_or_default(),
        }
    }
}

/// The bytes of a result; they must lie one after the other.
pub(crate) fn contiguous<'a>(buffer: &'static str, view: TensorMut<'a>) -> Check<&'a mut [u8]> {
    view.into_bytes().map_err(|_| Invalid::Strided { buffer })
}

impl ProcessGroup {
    pub(crate) fn refuse(&self, operation: Operation, reason: Invalid) -> Error {
        Error::Operation(self.inner.communicator.invalid(operation, reason))
    }

    pub(crate) fn check_root(&self, root: Rank) -> Check<()> {
        self.check_rank("root", root)
    }

    pub(crate) fn check_rank(&self, what: &'static str, rank: Rank) -> Check<()> {
        let world_size = self.world_size();
        if rank.0 < world_size {
            return Ok(());
        }
        Err(Invalid::Rank { what, rank, world_size })
    }

    fn run<'i, 'o>(
        &self,
        spec: &Spec,
        inputs: impl IntoIterator<Item = &'i [u8]>,
        outputs: impl IntoIterator<Item = &'o mut [u8]>,
    ) -> Result<(), Error> {
        self.inner.communicator.run(spec, &self.options, inputs, outputs).map_err(Error::from)
    }

    /// In-place operations take any dense layout: elements are combined where they lie.
    fn in_place(
        &self,
        mut data: TensorMut<'_>,
        shape: impl FnOnce(u64) -> Shape,
        op: Option<ReduceOp>,
    ) -> Result<(), Error> {
        let spec = in_place_spec(data.dtype(), data.shape(), shape, op);
        let operation = Operation::of(&spec.shape);
        let bytes = data
            .dense_bytes_mut()
            .map_err(|_| self.refuse(operation, Invalid::Strided { buffer: "data" }))?;
        self.run(&spec, [], [bytes])
    }

    /// Every rank gets the root's elements. All ranks pass the same number of elements.
    ///
    /// # Errors
    /// See [`Error`]; a root outside the group is refused before anything is sent.
    pub fn broadcast<'a>(&self, data: impl Into<TensorMut<'a>>, root: Rank) -> Result<(), Error> {
        self.check_root(root).map_err(|reason| self.refuse(Operation::Broadcast, reason))?;
        self.in_place(data.into(), |len| Shape::Broadcast { len, root }, None)
    }

    /// Every rank gets the element-wise reduction of all ranks' data, with the same bits everywhere.
    ///
    /// # Errors
    /// See [`Error`]; a reduction that the element type does not have is refused before anything is sent.
    pub fn all_reduce<'a>(
        &self,
        data: impl Into<TensorMut<'a>>,
        op: ReduceOp,
    ) -> Result<(), Error> {
        self.in_place(data.into(), |len| Shape::AllReduce { len }, Some(op))
    }

    /// The root gets the element-wise reduction of all ranks' data. On the other ranks `data` holds
    /// partial results afterwards.
    ///
    /// # Errors
    /// As [`ProcessGroup::all_reduce`] and [`ProcessGroup::broadcast`].
    pub fn reduce<'a>(
        &self,
        data: impl Into<TensorMut<'a>>,
        op: ReduceOp,
        root: Rank,
    ) -> Result<(), Error> {
        self.check_root(root).map_err(|reason| self.refuse(Operation::Reduce, reason))?;
        self.in_place(data.into(), |len| Shape::Reduce { len, root }, Some(op))
    }

    /// Every rank gets every rank's `input`: `outputs[r]` that of rank `r`. All are equally long.
    ///
    /// # Errors
    /// See [`Error`]; not one output for each rank, another element type or another length than the input
    /// are refused before anything is sent.
    pub fn all_gather<'a, M: Into<TensorMut<'a>>>(
        &self,
        input: impl Into<TensorRef<'a>>,
        outputs: impl IntoIterator<Item = M>,
    ) -> Result<(), Error> {
        self.all_gather_list(input.into(), outputs, Lengths::Equal)
    }

    /// As [`ProcessGroup::all_gather`], with a length for each rank: those of `outputs`, which must be the same
    /// on all ranks.
    ///
    /// # Errors
    /// As [`ProcessGroup::all_gather`]; only the own output must be as long as the input. Lengths that ranks
    /// do not agree on are a mismatch on all ranks.
    pub fn all_gather_v<'a, M: Into<TensorMut<'a>>>(
        &self,
        input: impl Into<TensorRef<'a>>,
        outputs: impl IntoIterator<Item = M>,
    ) -> Result<(), Error> {
        self.all_gather_list(input.into(), outputs, Lengths::PerRank)
    }

    fn all_gather_list<'a, M: Into<TensorMut<'a>>>(
        &self,
        input: TensorRef<'a>,
        outputs: impl IntoIterator<Item = M>,
        lengths: Lengths,
    ) -> Result<(), Error> {
        let prepared = (|| {
            let (outputs, lens) = self.list("outputs", input.dtype(), outputs)?;
            let counts = lengths.counts(&lens, input.numel(), self.rank())?;
            Ok((outputs, counts))
        })();
        let (outputs, counts) = prepared.map_err(|e| self.refuse(Operation::AllGather, e))?;
        let spec =
            Spec::new(Shape::AllGather { counts, own: Own::Input }, Some(input.dtype()), None);
        let input = Input::of(&input);
        self.run(&spec, [input.bytes()], outputs)
    }

    /// Every rank gets every rank's `input`, one after the other in `output`.
    ///
    /// # Errors
    /// See [`Error`]; `output` must have world-size times the elements of `input`.
    pub fn all_gather_into<'a>(
        &self,
        input: impl Into<TensorRef<'a>>,
        output: impl Into<TensorMut<'a>>,
    ) -> Result<(), Error> {
        let input = input.into();
        let checked = self.check_all_gather_into(&input, output.into());
        let (spec, output) = checked.map_err(|e| self.refuse(Operation::AllGather, e))?;
        self.run(&spec, [Input::of(&input).bytes()], [output])
    }

    pub(crate) fn check_all_gather_into<'a>(
        &self,
        input: &TensorRef<'_>,
        output: TensorMut<'a>,
    ) -> Check<(Spec, &'a mut [u8])> {
        let facts = (output.dtype(), output.numel());
        let spec = self.all_gather_into_spec((input.dtype(), input.numel()), facts)?;
        Ok((spec, contiguous("output", output)?))
    }

    pub(crate) fn all_gather_into_spec(&self, input: Facts, output: Facts) -> Check<Spec> {
        let (dtype, len) = input;
        same_dtype("output", output.0, dtype)?;
        let expected = len * self.world_size() as usize;
        length("output", output.1, expected, "world size times the input")?;
        let counts = Counts::Equal(len as u64);
        Ok(Spec::new(Shape::AllGather { counts, own: Own::Input }, Some(dtype), None))
    }

    /// The root gets every rank's `input` in `outputs`; the other ranks pass no outputs.
    ///
    /// # Errors
    /// See [`Error`]; the root must pass one output of the input's length for each rank, others none.
    pub fn gather<'a, M: Into<TensorMut<'a>>>(
        &self,
        input: impl Into<TensorRef<'a>>,
        outputs: impl IntoIterator<Item = M>,
        root: Rank,
    ) -> Result<(), Error> {
        let input = input.into();
        let prepared = (|| {
            self.check_root(root)?;
            if self.rank() != root {
                self.root_list("outputs", outputs.into_iter().count(), root)?;
                return Ok(List::new());
            }
            let (outputs, lens) =
                self.list("outputs", input.dtype(), outputs).map_err(needed_on_root)?;
            for len in lens {
                length("an output", len, input.numel(), "as long as the input")?;
            }
            Ok(outputs)
        })();
        let outputs = prepared.map_err(|e| self.refuse(Operation::Gather, e))?;
        let counts = Counts::Equal(input.numel() as u64);
        let spec = Spec::new(Shape::Gather { counts, root }, Some(input.dtype()), None);
        let input = Input::of(&input);
        self.run(&spec, [input.bytes()], outputs)
    }

    /// Every rank gets its entry of the root's `inputs` in `output`; the other ranks pass no inputs.
    ///
    /// # Errors
    /// See [`Error`]; the root must pass one input of the output's length for each rank, others none.
    pub fn scatter<'a, R: Into<TensorRef<'a>>>(
        &self,
        inputs: impl IntoIterator<Item = R>,
        output: impl Into<TensorMut<'a>>,
        root: Rank,
    ) -> Result<(), Error> {
        let result = output.into();
        let (dtype, len) = (result.dtype(), result.numel());
        let prepared = (|| {
            self.check_root(root)?;
            if self.rank() != root {
                self.root_list("inputs", inputs.into_iter().count(), root)?;
                return Ok(List::new());
            }
            let (inputs, lens) =
                self.input_list("inputs", dtype, inputs).map_err(needed_on_root)?;
            for found in lens {
                length("an input", found, len, "as long as the output")?;
            }
            Ok(inputs)
        })();
        let prepared = prepared.and_then(|inputs| Ok((inputs, contiguous("output", result)?)));
        let (inputs, result) = prepared.map_err(|e| self.refuse(Operation::Scatter, e))?;
        let counts = Counts::Equal(len as u64);
        let spec = Spec::new(Shape::Scatter { counts, root }, Some(dtype), None);
        self.run(&spec, inputs.iter().map(Input::bytes), [result])
    }

    /// Every rank gets the reduction of its entry of all ranks' `inputs`. All are equally long.
    ///
    /// # Errors
    /// See [`Error`]; not one input for each rank, or one of another length than the output, are refused
    /// before anything is sent.
    pub fn reduce_scatter<'a, R: Into<TensorRef<'a>>>(
        &self,
        inputs: impl IntoIterator<Item = R>,
        output: impl Into<TensorMut<'a>>,
        op: ReduceOp,
    ) -> Result<(), Error> {
        self.reduce_scatter_list(inputs, output.into(), op, Lengths::Equal)
    }

    /// As [`ProcessGroup::reduce_scatter`], with a length for each rank: those of `inputs`, which must be the same
    /// on all ranks.
    ///
    /// # Errors
    /// As [`ProcessGroup::reduce_scatter`]; only the own input must be as long as the output.
    pub fn reduce_scatter_v<'a, R: Into<TensorRef<'a>>>(
        &self,
        inputs: impl IntoIterator<Item = R>,
        output: impl Into<TensorMut<'a>>,
        op: ReduceOp,
    ) -> Result<(), Error> {
        self.reduce_scatter_list(inputs, output.into(), op, Lengths::PerRank)
    }

    fn reduce_scatter_list<'a, R: Into<TensorRef<'a>>>(
        &self,
        inputs: impl IntoIterator<Item = R>,
        result: TensorMut<'a>,
        op: ReduceOp,
        lengths: Lengths,
    ) -> Result<(), Error> {
        let (dtype, len) = (result.dtype(), result.numel());
        let prepared = (|| {
            let (inputs, lens) = self.input_list("inputs", dtype, inputs)?;
            let counts = lengths.counts(&lens, len, self.rank())?;
            Ok((inputs, counts, contiguous("output", result)?))
        })();
        let (inputs, counts, result) =
            prepared.map_err(|e| self.refuse(Operation::ReduceScatter, e))?;
        let spec = Spec::new(Shape::ReduceScatter { counts }, Some(dtype), Some(op));
        self.run(&spec, inputs.iter().map(Input::bytes), [result])
    }

    /// Every rank gets its block of the reduction of all ranks' `input`: block `r` is that of rank `r`.
    ///
    /// # Errors
    /// See [`Error`]; `input` must have world-size times the elements of `output`.
    pub fn reduce_scatter_into<'a>(
        &self,
        input: impl Into<TensorRef<'a>>,
        output: impl Into<TensorMut<'a>>,
        op: ReduceOp,
    ) -> Result<(), Error> {
        let input = input.into();
        let checked = self.check_reduce_scatter_into(&input, output.into(), op);
        let (spec, output) = checked.map_err(|e| self.refuse(Operation::ReduceScatter, e))?;
        self.run(&spec, [Input::of(&input).bytes()], [output])
    }

    pub(crate) fn check_reduce_scatter_into<'a>(
        &self,
        input: &TensorRef<'_>,
        output: TensorMut<'a>,
        op: ReduceOp,
    ) -> Check<(Spec, &'a mut [u8])> {
        let facts = (output.dtype(), output.numel());
        let spec = self.reduce_scatter_into_spec((input.dtype(), input.numel()), facts, op)?;
        Ok((spec, contiguous("output", output)?))
    }

    pub(crate) fn reduce_scatter_into_spec(
        &self,
        input: Facts,
        output: Facts,
        op: ReduceOp,
    ) -> Check<Spec> {
        let (dtype, len) = output;
        same_dtype("input", input.0, dtype)?;
        let expected = len * self.world_size() as usize;
        length("input", input.1, expected, "world size times the output")?;
        let counts = Counts::Equal(len as u64);
        Ok(Spec::new(Shape::ReduceScatter { counts }, Some(dtype), Some(op)))
    }

    /// Every rank sends `inputs[r]` to rank `r` and gets its message in `outputs[r]`. Lengths are free.
    ///
    /// # Errors
    /// See [`Error`]; lengths that two ranks do not agree on are a mismatch on all ranks.
    pub fn all_to_all<'a, R: Into<TensorRef<'a>>, M: Into<TensorMut<'a>>>(
        &self,
        inputs: impl IntoIterator<Item = R>,
        outputs: impl IntoIterator<Item = M>,
    ) -> Result<(), Error> {
        let inputs: Vec<TensorRef<'a>> = inputs.into_iter().map(Into::into).collect();
        let dtype = inputs.first().map_or(DType::U8, TensorRef::dtype);
        let prepared = (|| {
            let (inputs, send) = self.input_list("inputs", dtype, inputs)?;
            let (outputs, recv) = self.list("outputs", dtype, outputs)?;
            Ok((inputs, outputs, per_rank(&send), per_rank(&recv)))
        })();
        let (inputs, outputs, send, recv) =
            prepared.map_err(|e| self.refuse(Operation::AllToAll, e))?;
        let spec = Spec::new(Shape::AllToAll { send, recv }, Some(dtype), None);
        self.run(&spec, inputs.iter().map(Input::bytes), outputs)
    }

    /// Every rank sends block `r` of `input` to rank `r` and gets its block in block `r` of `output`. Blocks are
    /// equal.
    ///
    /// # Errors
    /// See [`Error`]; both buffers must divide evenly by the world size and be equally long.
    pub fn all_to_all_single<'a>(
        &self,
        input: impl Into<TensorRef<'a>>,
        output: impl Into<TensorMut<'a>>,
    ) -> Result<(), Error> {
        let input = input.into();
        let checked = self.check_all_to_all_single(&input, output.into());
        let (spec, output) = checked.map_err(|e| self.refuse(Operation::AllToAll, e))?;
        self.run(&spec, [Input::of(&input).bytes()], [output])
    }

    pub(crate) fn check_all_to_all_single<'a>(
        &self,
        input: &TensorRef<'_>,
        output: TensorMut<'a>,
    ) -> Check<(Spec, &'a mut [u8])> {
        let facts = (output.dtype(), output.numel());
        let spec = self.all_to_all_single_spec((input.dtype(), input.numel()), facts)?;
        Ok((spec, contiguous("output", output)?))
    }

    pub(crate) fn all_to_all_single_spec(&self, input: Facts, output: Facts) -> Check<Spec> {
        let (dtype, len) = input;
        same_dtype("output", output.0, dtype)?;
        self.divisible("input", len)?;
        self.divisible("output", output.1)?;
        length("output", output.1, len, "as long as the input")?;
        let block = Counts::Equal((len / self.world_size() as usize) as u64);
        Ok(Spec::new(Shape::AllToAll { send: block.clone(), recv: block }, Some(dtype), None))
    }

    /// As [`ProcessGroup::all_to_all_single`], with blocks of `send[r]` and `recv[r]` rows (entries of the first
    /// dimension; for a slice: elements).
    ///
    /// # Errors
    /// See [`Error`]; splits must have one entry for each rank and add up to the buffer's rows.
    pub fn all_to_all_single_with_splits<'a>(
        &self,
        input: impl Into<TensorRef<'a>>,
        send: &[usize],
        output: impl Into<TensorMut<'a>>,
        recv: &[usize],
    ) -> Result<(), Error> {
        let (input, result) = (input.into(), output.into());
        let dtype = input.dtype();
        let prepared = (|| {
            same_dtype("output", result.dtype(), dtype)?;
            let send = self.splits("input", send, input.shape())?;
            let recv = self.splits("output", recv, result.shape())?;
            Ok((send, recv, contiguous("output", result)?))
        })();
        let (send, recv, result) = prepared.map_err(|e| self.refuse(Operation::AllToAll, e))?;
        let spec = Spec::new(Shape::AllToAll { send, recv }, Some(dtype), None);
        let input = Input::of(&input);
        self.run(&spec, [input.bytes()], [result])
    }

    /// Sends `data` to a rank; returns when it may be changed, which may be before it arrives. Messages with
    /// equal destination and tag arrive in order.
    ///
    /// # Errors
    /// See [`Error`]; a rank outside the group or this one is refused.
    pub fn send<'a>(
        &self,
        data: impl Into<TensorRef<'a>>,
        destination: Rank,
        tag: u32,
    ) -> Result<(), Error> {
        let data = data.into();
        let message = Message { peer: destination, tag, dtype: data.dtype() };
        let bytes = data
            .as_bytes()
            .map_err(|_| self.refuse(Operation::Message, Invalid::Strided { buffer: "data" }))?;
        self.inner.communicator.send(&message, &self.options, bytes).map_err(Error::from)
    }

    /// Receives the next message with this tag from a rank. It must have exactly the length and element
    /// type of `data`.
    ///
    /// # Errors
    /// As [`ProcessGroup::send`]; another length or element type is a mismatch on both ranks.
    pub fn recv<'a>(
        &self,
        data: impl Into<TensorMut<'a>>,
        source: Rank,
        tag: u32,
    ) -> Result<(), Error> {
        let data = data.into();
        let message = Message { peer: source, tag, dtype: data.dtype() };
        let bytes =
            contiguous("data", data).map_err(|reason| self.refuse(Operation::Message, reason))?;
        self.inner.communicator.recv(&message, &self.options, bytes).map_err(Error::from)
    }

    /// Returns when every rank has called it.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn barrier(&self) -> Result<(), Error> {
        self.run(&Spec::new(Shape::Barrier, None, None), [], [])
    }

    fn list<'a, M: Into<TensorMut<'a>>>(
        &self,
        name: &'static str,
        dtype: DType,
        views: impl IntoIterator<Item = M>,
    ) -> Check<(List<&'a mut [u8]>, List<usize>)> {
        let mut lens = List::new();
        let mut bytes = List::new();
        let mut wrong = Ok(());
        for view in views {
            let view: TensorMut<'a> = view.into();
            wrong = wrong.and(same_dtype(name, view.dtype(), dtype));
            lens.push(view.numel());
            match contiguous(name, view) {
                Ok(view) => bytes.push(view),
                Err(reason) => wrong = wrong.and(Err(reason)),
            }
        }
        // How many there are is told first.
        entries(name, lens.len(), self.world_size() as usize)?;
        wrong.map(|()| (bytes, lens))
    }

    fn input_list<'a, R: Into<TensorRef<'a>>>(
        &self,
        name: &'static str,
        dtype: DType,
        views: impl IntoIterator<Item = R>,
    ) -> Check<(List<Input<'a>>, List<usize>)> {
        let mut lens = List::new();
        let mut inputs = List::new();
        let mut wrong = Ok(());
        for view in views {
            let view: TensorRef<'a> = view.into();
            wrong = wrong.and(same_dtype(name, view.dtype(), dtype));
            lens.push(view.numel());
            if wrong.is_ok() {
                inputs.push(Input::of(&view));
            }
        }
        // How many there are is told first.
        entries(name, lens.len(), self.world_size() as usize)?;
        wrong.map(|()| (inputs, lens))
    }

    pub(crate) fn divisible(&self, buffer: &'static str, elements: usize) -> Check<()> {
        let world_size = self.world_size();
        if elements.is_multiple_of(world_size as usize) {
            return Ok(());
        }
        Err(Invalid::Indivisible { buffer, elements, world_size })
    }

    pub(crate) fn splits(
        &self,
        buffer: &'static str,
        splits: &[usize],
        shape: &[usize],
    ) -> Check<Counts> {
        let world_size = self.world_size();
        let rows = shape.first().copied().unwrap_or(1);
        let sum = splits.iter().fold(0_usize, |sum, &rows| sum.saturating_add(rows));
        if splits.len() != world_size as usize || sum != rows {
            let entries = splits.len();
            return Err(Invalid::Splits { buffer, entries, sum, world_size, rows });
        }
        let row = row_len(shape);
        let blocks = splits.iter().map(|&rows| rows.saturating_mul(row) as u64);
        Ok(Counts::PerRank(blocks.collect()))
    }

    /// Only the root passes a list, with one entry for each rank.
    pub(crate) fn root_list(&self, buffer: &'static str, found: usize, root: Rank) -> Check<()> {
        match (self.rank() == root, found) {
            (true, 0) => Err(Invalid::RootOnly { buffer, rule: ROOT_MUST }),
            (true, found) => entries(buffer, found, self.world_size() as usize),
            (false, 0) => Ok(()),
            (false, _) => Err(Invalid::RootOnly { buffer, rule: OTHERS_MUST_NOT }),
        }
    }
}

/// What is wrong with a list that only the root has.
fn needed_on_root(reason: Invalid) -> Invalid {
    match reason {
        Invalid::Entries { list, found: 0, .. } => {
            Invalid::RootOnly { buffer: list, rule: ROOT_MUST }
        }
        other => other,
    }
}

const ROOT_MUST: &str = "are needed on the root, one for each rank";
const OTHERS_MUST_NOT: &str = "belong to the root; pass none here";

/// Uneven on purpose even where all lengths are equal: the other ranks' may not be.
pub(crate) fn per_rank(lens: &[usize]) -> Counts {
    Counts::PerRank(lens.iter().map(|&len| len as u64).collect())
}

#[inline]
pub(crate) fn in_place_spec(
    dtype: DType,
    dims: &[usize],
    shape: impl FnOnce(u64) -> Shape,
    op: Option<ReduceOp>,
) -> Spec {
    let len = elements(dims) as u64;
    let mut spec = Spec::new(shape(len), Some(dtype), op);
    // One dimension says no more than the length.
    if dims.len() != 1 {
        spec.dims = dims.iter().map(|&dim| dim as u64).collect();
    }
    spec
}
