//! Asynchronous operations: they take their tensors and give them back.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use allhands_collectives::{
    Buffers, Error as OperationError, Invalid, Message, Operation, Pending, Spec,
};
use allhands_plan::{Counts, Own, Rank, Shape};
use allhands_tensor::{ReduceOp, Tensor};

use crate::error::Error;
use crate::group::ProcessGroup;
use crate::verbs::{Check, Facts, Lengths, entries, in_place_spec, length, per_rank, same_dtype};

/// How an operation's buffers go back to the caller.
type Give<T> = fn(Buffers) -> T;

enum State<T> {
    Running(Box<Pending>, Give<T>),
    /// A call of several operations.
    Composed(Box<dyn Composed<T>>),
    /// The call made no sense and was never started.
    Refused(Box<OperationError>, Buffers, Give<T>),
    Taken,
}

/// A call of several operations, of which the later ones depend on what the earlier ones brought.
pub(crate) trait Composed<T>:
    Future<Output = (Result<(), OperationError>, T)> + Send + Sync + Unpin
{
    fn is_completed(&self) -> bool;

    fn wait(self: Box<Self>) -> (Result<(), OperationError>, T);

    fn wait_timeout(&self, patience: Duration) -> bool;

    fn error(&self) -> Option<OperationError>;
}

/// An asynchronous operation; `T` is what its call was given.
///
/// It goes on whether or not anybody waits. [`Work::wait`] moves bytes on the calling thread; as a [`Future`], or
/// while nobody waits, the group's service thread does. Dropping it at any moment is safe: its buffers
/// live until nothing uses them.
#[must_use = "an operation whose result nobody takes can fail unseen"]
pub struct Work<T> {
    state: State<T>,
    operation: Operation,
}

impl<T> fmt::Debug for Work<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work")
            .field("operation", &self.operation)
            .field("completed", &self.is_completed())
            .finish()
    }
}

/// An operation that failed, with what it was given.
pub struct WorkError<T> {
    /// Why.
    pub error: Error,
    /// The tensors of the call; outputs hold whatever had arrived.
    pub buffers: T,
}

impl<T> fmt::Debug for WorkError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkError").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<T> fmt::Display for WorkError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl<T> std::error::Error for WorkError<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.error)
    }
}

impl<T> From<WorkError<T>> for Error {
    fn from(failed: WorkError<T>) -> Self {
        failed.error
    }
}

impl<T> Work<T> {
    pub(crate) fn composed(composed: Box<dyn Composed<T>>, operation: Operation) -> Self {
        Self { state: State::Composed(composed), operation }
    }

    /// Which operation it is.
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// Whether the operation has ended, well or not.
    pub fn is_completed(&self) -> bool {
        match &self.state {
            State::Running(pending, _) => pending.is_completed(),
            State::Composed(composed) => composed.is_completed(),
            State::Refused(..) | State::Taken => true,
        }
    }

    /// Waits for the end and gives the tensors back.
    ///
    /// # Errors
    /// As the blocking verb of the same name; the tensors come back inside the error.
    ///
    /// # Panics
    /// If the work was polled to its end as a future before.
    pub fn wait(mut self) -> Result<T, WorkError<T>> {
        match std::mem::replace(&mut self.state, State::Taken) {
            State::Running(pending, give) => {
                let (result, buffers) = pending.wait();
                finish(result, buffers, give)
            }
            State::Composed(composed) => {
                let (result, buffers) = composed.wait();
                ended(result, buffers)
            }
            State::Refused(error, buffers, give) => finish(Err(*error), buffers, give),
            State::Taken => panic!("a finished operation was waited for"),
        }
    }

    /// Waits for the end at most `patience`; says whether it has come. The operation goes on if it has not.
    pub fn wait_timeout(&self, patience: Duration) -> bool {
        match &self.state {
            State::Running(pending, _) => pending.wait_timeout(patience),
            State::Composed(composed) => composed.wait_timeout(patience),
            State::Refused(..) | State::Taken => true,
        }
    }

    /// Number of the operation on its channel, as errors and the flight record have it; of a message, among those to or from
    /// its peer. `None` while the group's service thread has not begun it, for a call that was refused, and for one of several
    /// operations.
    pub fn sequence(&self) -> Option<u64> {
        self.running()?.sequence()
    }

    /// How long the operation took from the call to its end, once it has ended; not told of a call of several.
    ///
    /// ```
    /// use std::time::Duration;
    /// use allhands_group::ProcessGroup;
    ///
    /// let group = ProcessGroup::local(1)?.remove(0);
    /// let work = group.barrier_async();
    /// assert!(work.wait_timeout(Duration::from_secs(10)) && work.is_success());
    /// assert!(work.duration() < Some(Duration::from_secs(10)));
    /// assert_eq!(work.sequence(), Some(0));
    /// work.wait()?;
    /// # Ok::<(), allhands_group::Error>(())
    /// ```
    pub fn duration(&self) -> Option<Duration> {
        self.running()?.duration()
    }

    /// Why the operation failed, if it has ended and did. [`Work::wait`] tells the same, and gives the tensors back.
    pub fn error(&self) -> Option<Error> {
        match &self.state {
            State::Running(pending, _) => pending.error().map(Error::from),
            State::Composed(composed) => composed.error().map(Error::from),
            State::Refused(error, ..) => Some(Error::from((**error).clone())),
            State::Taken => None,
        }
    }

    /// Whether the operation has ended, and well.
    pub fn is_success(&self) -> bool {
        self.is_completed() && self.error().is_none()
    }

    /// Whose message this waits for, if it is a receive.
    pub fn source(&self) -> Option<Rank> {
        self.running()?.source()
    }

    fn running(&self) -> Option<&Pending> {
        match &self.state {
            State::Running(pending, _) => Some(pending),
            State::Composed(_) | State::Refused(..) | State::Taken => None,
        }
    }
}

fn finish<T>(
    result: Result<(), OperationError>,
    buffers: Buffers,
    give: Give<T>,
) -> Result<T, WorkError<T>> {
    ended(result, give(buffers))
}

fn ended<T>(result: Result<(), OperationError>, buffers: T) -> Result<T, WorkError<T>> {
    match result {
        Ok(()) => Ok(buffers),
        Err(error) => Err(WorkError { error: error.into(), buffers }),
    }
}

impl<T> Future for Work<T> {
    type Output = Result<T, WorkError<T>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let output = match &mut self.state {
            State::Running(pending, give) => {
                let give = *give;
                match Pin::new(&mut **pending).poll(context) {
                    Poll::Ready((result, buffers)) => finish(result, buffers, give),
                    Poll::Pending => return Poll::Pending,
                }
            }
            State::Composed(composed) => match Pin::new(&mut **composed).poll(context) {
                Poll::Ready((result, buffers)) => ended(result, buffers),
                Poll::Pending => return Poll::Pending,
            },
            State::Refused(..) | State::Taken => {
                match std::mem::replace(&mut self.state, State::Taken) {
                    State::Refused(error, buffers, give) => finish(Err(*error), buffers, give),
                    _ => panic!("a finished operation was polled again"),
                }
            }
        };
        self.state = State::Taken;
        Poll::Ready(output)
    }
}

fn one(mut buffers: Buffers) -> Tensor {
    buffers.outputs.pop().expect("the call had one tensor")
}

fn pair(mut buffers: Buffers) -> (Tensor, Tensor) {
    let input = buffers.inputs.pop().expect("the call had an input");
    (input, buffers.outputs.pop().expect("the call had an output"))
}

fn input_and_list(mut buffers: Buffers) -> (Tensor, Vec<Tensor>) {
    (buffers.inputs.pop().expect("the call had an input"), buffers.outputs)
}

fn list_and_output(mut buffers: Buffers) -> (Vec<Tensor>, Tensor) {
    (buffers.inputs, buffers.outputs.pop().expect("the call had an output"))
}

fn lists(buffers: Buffers) -> (Vec<Tensor>, Vec<Tensor>) {
    (buffers.inputs, buffers.outputs)
}

fn nothing(_: Buffers) {}

fn contiguous(buffer: &'static str, tensors: &[Tensor]) -> Check<()> {
    match tensors.iter().all(|tensor| tensor.as_bytes().is_ok()) {
        true => Ok(()),
        false => Err(Invalid::Strided { buffer }),
    }
}

fn alike(buffer: &'static str, tensors: &[Tensor], like: &Tensor) -> Check<()> {
    tensors.iter().try_for_each(|tensor| same_dtype(buffer, tensor.dtype(), like.dtype()))
}

fn facts(tensor: &Tensor) -> Facts {
    (tensor.dtype(), tensor.numel())
}

fn lens(tensors: &[Tensor]) -> Vec<usize> {
    tensors.iter().map(Tensor::numel).collect()
}

impl ProcessGroup {
    fn launch<T>(
        &self,
        spec: Check<Spec>,
        operation: Operation,
        buffers: Buffers,
        give: Give<T>,
    ) -> Work<T> {
        let checked = spec.and_then(|spec| {
            contiguous("an input", &buffers.inputs)?;
            contiguous("an output", &buffers.outputs)?;
            Ok(spec)
        });
        let communicator = &self.inner.communicator;
        let state = match checked {
            Ok(spec) => {
                let Buffers { inputs, outputs } = buffers;
                let pending = communicator.start(&spec, &self.options, inputs, outputs);
                State::Running(Box::new(pending), give)
            }
            Err(reason) => {
                State::Refused(Box::new(communicator.invalid(operation, reason)), buffers, give)
            }
        };
        Work { state, operation }
    }

    fn launch_in_place(
        &self,
        tensor: Tensor,
        operation: Operation,
        shape: impl FnOnce(u64) -> Check<Shape>,
        op: Option<ReduceOp>,
    ) -> Work<Tensor> {
        let len = tensor.numel() as u64;
        let spec =
            shape(len).map(|shape| in_place_spec(tensor.dtype(), tensor.shape(), |_| shape, op));
        let buffers = Buffers { inputs: Vec::new(), outputs: vec![tensor] };
        self.launch(spec, operation, buffers, one)
    }

    /// As [`ProcessGroup::broadcast`], on a tensor that comes back.
    pub fn broadcast_async(&self, tensor: Tensor, root: Rank) -> Work<Tensor> {
        let shape = |len| self.check_root(root).map(|()| Shape::Broadcast { len, root });
        self.launch_in_place(tensor, Operation::Broadcast, shape, None)
    }

    /// As [`ProcessGroup::all_reduce`], on a tensor that comes back.
    ///
    /// ```
    /// use allhands_group::{ProcessGroup, ReduceOp, Tensor};
    ///
    /// let group = ProcessGroup::local(1)?.remove(0);
    /// let gradients = Tensor::from_slice(&[1.0f32, 2.0]);
    /// let work = group.all_reduce_async(gradients, ReduceOp::Sum);
    /// // … compute something else …
    /// let gradients = work.wait()?;
    /// assert_eq!(gradients.as_slice::<f32>().unwrap(), [1.0, 2.0]);
    /// # Ok::<(), allhands_group::Error>(())
    /// ```
    pub fn all_reduce_async(&self, tensor: Tensor, op: ReduceOp) -> Work<Tensor> {
        let shape = |len| Ok(Shape::AllReduce { len });
        self.launch_in_place(tensor, Operation::AllReduce, shape, Some(op))
    }

    /// As [`ProcessGroup::reduce`], on a tensor that comes back.
    pub fn reduce_async(&self, tensor: Tensor, op: ReduceOp, root: Rank) -> Work<Tensor> {
        let shape = |len| self.check_root(root).map(|()| Shape::Reduce { len, root });
        self.launch_in_place(tensor, Operation::Reduce, shape, Some(op))
    }

    /// As [`ProcessGroup::all_gather`]; gives (input, outputs) back.
    pub fn all_gather_async(
        &self,
        input: Tensor,
        outputs: Vec<Tensor>,
    ) -> Work<(Tensor, Vec<Tensor>)> {
        self.launch_all_gather(input, outputs, Lengths::Equal)
    }

    /// As [`ProcessGroup::all_gather_v`]; gives (input, outputs) back.
    pub fn all_gather_v_async(
        &self,
        input: Tensor,
        outputs: Vec<Tensor>,
    ) -> Work<(Tensor, Vec<Tensor>)> {
        self.launch_all_gather(input, outputs, Lengths::PerRank)
    }

    fn launch_all_gather(
        &self,
        input: Tensor,
        outputs: Vec<Tensor>,
        lengths: Lengths,
    ) -> Work<(Tensor, Vec<Tensor>)> {
        let spec = (|| {
            entries("outputs", outputs.len(), self.world_size() as usize)?;
            alike("outputs", &outputs, &input)?;
            let counts = lengths.counts(&lens(&outputs), input.numel(), self.rank())?;
            let shape = Shape::AllGather { counts, own: Own::Input };
            Ok(Spec::new(shape, Some(input.dtype()), None))
        })();
        let buffers = Buffers { inputs: vec![input], outputs };
        self.launch(spec, Operation::AllGather, buffers, input_and_list)
    }

    /// As [`ProcessGroup::all_gather_into`]; gives (input, output) back.
    pub fn all_gather_into_async(&self, input: Tensor, output: Tensor) -> Work<(Tensor, Tensor)> {
        let spec = self.all_gather_into_spec(facts(&input), facts(&output));
        let buffers = Buffers { inputs: vec![input], outputs: vec![output] };
        self.launch(spec, Operation::AllGather, buffers, pair)
    }

    /// As [`ProcessGroup::gather`]; gives (input, outputs) back.
    pub fn gather_async(
        &self,
        input: Tensor,
        outputs: Vec<Tensor>,
        root: Rank,
    ) -> Work<(Tensor, Vec<Tensor>)> {
        let spec = (|| {
            self.check_root(root)?;
            self.root_list("outputs", outputs.len(), root)?;
            alike("outputs", &outputs, &input)?;
            for len in lens(&outputs) {
                length("an output", len, input.numel(), "as long as the input")?;
            }
            let counts = Counts::Equal(input.numel() as u64);
            Ok(Spec::new(Shape::Gather { counts, root }, Some(input.dtype()), None))
        })();
        let buffers = Buffers { inputs: vec![input], outputs };
        self.launch(spec, Operation::Gather, buffers, input_and_list)
    }

    /// As [`ProcessGroup::scatter`]; gives (inputs, output) back.
    pub fn scatter_async(
        &self,
        inputs: Vec<Tensor>,
        output: Tensor,
        root: Rank,
    ) -> Work<(Vec<Tensor>, Tensor)> {
        let spec = (|| {
            self.check_root(root)?;
            self.root_list("inputs", inputs.len(), root)?;
            alike("inputs", &inputs, &output)?;
            for len in lens(&inputs) {
                length("an input", len, output.numel(), "as long as the output")?;
            }
            let counts = Counts::Equal(output.numel() as u64);
            Ok(Spec::new(Shape::Scatter { counts, root }, Some(output.dtype()), None))
        })();
        let buffers = Buffers { inputs, outputs: vec![output] };
        self.launch(spec, Operation::Scatter, buffers, list_and_output)
    }

    /// As [`ProcessGroup::reduce_scatter`]; gives (inputs, output) back.
    pub fn reduce_scatter_async(
        &self,
        inputs: Vec<Tensor>,
        output: Tensor,
        op: ReduceOp,
    ) -> Work<(Vec<Tensor>, Tensor)> {
        self.launch_reduce_scatter(inputs, output, op, Lengths::Equal)
    }

    /// As [`ProcessGroup::reduce_scatter_v`]; gives (inputs, output) back.
    pub fn reduce_scatter_v_async(
        &self,
        inputs: Vec<Tensor>,
        output: Tensor,
        op: ReduceOp,
    ) -> Work<(Vec<Tensor>, Tensor)> {
        self.launch_reduce_scatter(inputs, output, op, Lengths::PerRank)
    }

    fn launch_reduce_scatter(
        &self,
        inputs: Vec<Tensor>,
        output: Tensor,
        op: ReduceOp,
        lengths: Lengths,
    ) -> Work<(Vec<Tensor>, Tensor)> {
        let spec = (|| {
            entries("inputs", inputs.len(), self.world_size() as usize)?;
            alike("inputs", &inputs, &output)?;
            let counts = lengths.counts(&lens(&inputs), output.numel(), self.rank())?;
            Ok(Spec::new(Shape::ReduceScatter { counts }, Some(output.dtype()), Some(op)))
        })();
        let buffers = Buffers { inputs, outputs: vec![output] };
        self.launch(spec, Operation::ReduceScatter, buffers, list_and_output)
    }

    /// As [`ProcessGroup::reduce_scatter_into`]; gives (input, output) back.
    pub fn reduce_scatter_into_async(
        &self,
        input: Tensor,
        output: Tensor,
        op: ReduceOp,
    ) -> Work<(Tensor, Tensor)> {
        let spec = self.reduce_scatter_into_spec(facts(&input), facts(&output), op);
        let buffers = Buffers { inputs: vec![input], outputs: vec![output] };
        self.launch(spec, Operation::ReduceScatter, buffers, pair)
    }

    /// As [`ProcessGroup::all_to_all`]; gives (inputs, outputs) back.
    pub fn all_to_all_async(
        &self,
        inputs: Vec<Tensor>,
        outputs: Vec<Tensor>,
    ) -> Work<(Vec<Tensor>, Vec<Tensor>)> {
        let spec = (|| {
            entries("inputs", inputs.len(), self.world_size() as usize)?;
            entries("outputs", outputs.len(), self.world_size() as usize)?;
            alike("inputs", &inputs, &inputs[0])?;
            alike("outputs", &outputs, &inputs[0])?;
            let (send, recv) = (per_rank(&lens(&inputs)), per_rank(&lens(&outputs)));
            Ok(Spec::new(Shape::AllToAll { send, recv }, Some(inputs[0].dtype()), None))
        })();
        self.launch(spec, Operation::AllToAll, Buffers { inputs, outputs }, lists)
    }

    /// As [`ProcessGroup::all_to_all_single_with_splits`]; gives (input, output) back.
    pub fn all_to_all_single_with_splits_async(
        &self,
        input: Tensor,
        send: &[usize],
        output: Tensor,
        recv: &[usize],
    ) -> Work<(Tensor, Tensor)> {
        let spec = (|| {
            same_dtype("output", output.dtype(), input.dtype())?;
            let send = self.splits("input", send, input.shape())?;
            let recv = self.splits("output", recv, output.shape())?;
            Ok(Spec::new(Shape::AllToAll { send, recv }, Some(input.dtype()), None))
        })();
        let buffers = Buffers { inputs: vec![input], outputs: vec![output] };
        self.launch(spec, Operation::AllToAll, buffers, pair)
    }

    /// As [`ProcessGroup::all_to_all_single`]; gives (input, output) back.
    pub fn all_to_all_single_async(&self, input: Tensor, output: Tensor) -> Work<(Tensor, Tensor)> {
        let spec = self.all_to_all_single_spec(facts(&input), facts(&output));
        let buffers = Buffers { inputs: vec![input], outputs: vec![output] };
        self.launch(spec, Operation::AllToAll, buffers, pair)
    }

    /// As [`ProcessGroup::send`], of a tensor that comes back.
    pub fn send_async(&self, tensor: Tensor, destination: Rank, tag: u32) -> Work<Tensor> {
        let message = Message { peer: destination, tag, dtype: tensor.dtype() };
        self.message(tensor, message, "destination", |tensor| {
            self.inner.communicator.start_send(&message, &self.options, tensor)
        })
    }

    /// As [`ProcessGroup::recv`], into a tensor that comes back.
    pub fn recv_async(&self, tensor: Tensor, source: Rank, tag: u32) -> Work<Tensor> {
        let message = Message { peer: source, tag, dtype: tensor.dtype() };
        self.message(tensor, message, "source", |tensor| {
            self.inner.communicator.start_recv(&message, &self.options, tensor)
        })
    }

    fn message(
        &self,
        tensor: Tensor,
        message: Message,
        what: &'static str,
        start: impl FnOnce(Tensor) -> Pending,
    ) -> Work<Tensor> {
        let checked = self
            .check_rank(what, message.peer)
            .and_then(|()| contiguous("data", std::slice::from_ref(&tensor)));
        let operation = Operation::Message;
        let state = match checked {
            Ok(()) => State::Running(Box::new(start(tensor)), one),
            Err(reason) => {
                let error = self.inner.communicator.invalid(operation, reason);
                let buffers = Buffers { inputs: Vec::new(), outputs: vec![tensor] };
                State::Refused(Box::new(error), buffers, one)
            }
        };
        Work { state, operation }
    }

    /// As [`ProcessGroup::barrier`].
    pub fn barrier_async(&self) -> Work<()> {
        let spec = Ok(Spec::new(Shape::Barrier, None, None));
        self.launch(spec, Operation::Barrier, Buffers::default(), nothing)
    }
}
