//! Operations in flight over borrowed memory, all of which have ended when the scope returns.

use std::cell::RefCell;

use allhands_collectives::{Communicator, Invalid, Message, Operation, Spec};
use allhands_plan::{Rank, Shape};
use allhands_tensor::{ReduceOp, TensorMut, TensorRef};

use crate::error::Error;
use crate::group::ProcessGroup;
use crate::verbs::{Check, contiguous, in_place_spec};

/// Starts operations over borrowed slices and tensors; see [`ProcessGroup::scope`].
///
/// A verb returns at once. What it would refuse, the scope returns as its error; nothing was sent for
/// that call then.
#[derive(Debug)]
pub struct Scope<'s, 'scope, 'env> {
    group: &'env ProcessGroup,
    started: &'s allhands_collectives::Scope<'scope, 'env>,
    refused: RefCell<Option<Error>>,
}

impl ProcessGroup {
    /// Runs `body`, which starts operations over borrowed slices; all of them have ended when this returns. They
    /// overlap each other and whatever else `body` does.
    ///
    /// The operations have this handle's options; those on one channel run in the order in which they were
    /// started. If `body` panics with operations in flight, the group breaks on every rank, and the panic goes on
    /// when nothing uses the borrowed memory any more.
    ///
    /// ```
    /// use allhands_group::{ProcessGroup, ReduceOp};
    ///
    /// let group = ProcessGroup::local(1)?.remove(0);
    /// let (mut weights, mut biases) = (vec![1.0f32; 1000], [2.0f32; 10]);
    /// group.scope(|scope| {
    ///     scope.all_reduce(&mut weights, ReduceOp::Avg);
    ///     scope.all_reduce(&mut biases, ReduceOp::Avg);
    ///     // … compute something else …
    /// })?;
    /// assert_eq!((weights[0], biases[0]), (1.0, 2.0));
    /// # Ok::<(), allhands_group::Error>(())
    /// ```
    ///
    /// # Errors
    /// The first call that made no sense, else the error of the first operation, in the order of their
    /// start, that failed: see [`Error`].
    pub fn scope<'env, R>(
        &'env self,
        body: impl for<'s, 'scope> FnOnce(&Scope<'s, 'scope, 'env>) -> R,
    ) -> Result<R, Error> {
        let communicator: &'env Communicator = &self.inner.communicator;
        let (result, refused) = communicator.scope(|started| {
            let scope = Scope { group: self, started, refused: RefCell::new(None) };
            let result = body(&scope);
            (result, scope.refused.into_inner())
        })?;
        match refused {
            None => Ok(result),
            Some(error) => Err(error),
        }
    }
}

impl<'env> Scope<'_, '_, 'env> {
    /// The group.
    #[must_use]
    pub fn group(&self) -> &'env ProcessGroup {
        self.group
    }

    fn refuse(&self, operation: Operation, reason: Invalid) {
        let error = self.group.refuse(operation, reason);
        self.refused.borrow_mut().get_or_insert(error);
    }

    fn in_place(
        &self,
        operation: Operation,
        data: TensorMut<'env>,
        shape: impl FnOnce(u64) -> Check<Shape>,
        op: Option<ReduceOp>,
    ) {
        let checked = shape(data.numel() as u64).and_then(|shape| {
            let spec = in_place_spec(data.dtype(), data.shape(), |_| shape, op);
            Ok((spec, contiguous("data", data)?))
        });
        match checked {
            Ok((spec, data)) => self.started.start(&spec, &self.group.options, [], [data]),
            Err(reason) => self.refuse(operation, reason),
        }
    }

    fn out_of_place(
        &self,
        operation: Operation,
        input: &TensorRef<'env>,
        checked: Check<(Spec, &'env mut [u8])>,
    ) {
        let checked =
            checked.and_then(|(spec, output)| Ok((spec, lendable("input", input)?, output)));
        match checked {
            Ok((spec, input, output)) => {
                self.started.start(&spec, &self.group.options, [input], [output]);
            }
            Err(reason) => self.refuse(operation, reason),
        }
    }

    /// As [`ProcessGroup::broadcast`]. `data` must be contiguous.
    pub fn broadcast(&self, data: impl Into<TensorMut<'env>>, root: Rank) {
        let shape = |len| self.group.check_root(root).map(|()| Shape::Broadcast { len, root });
        self.in_place(Operation::Broadcast, data.into(), shape, None);
    }

    /// As [`ProcessGroup::all_reduce`]. `data` must be contiguous.
    pub fn all_reduce(&self, data: impl Into<TensorMut<'env>>, op: ReduceOp) {
        let shape = |len| Ok(Shape::AllReduce { len });
        self.in_place(Operation::AllReduce, data.into(), shape, Some(op));
    }

    /// As [`ProcessGroup::reduce`]. `data` must be contiguous.
    pub fn reduce(&self, data: impl Into<TensorMut<'env>>, op: ReduceOp, root: Rank) {
        let shape = |len| self.group.check_root(root).map(|()| Shape::Reduce { len, root });
        self.in_place(Operation::Reduce, data.into(), shape, Some(op));
    }

    /// As [`ProcessGroup::all_gather_into`]. Both buffers must be contiguous.
    pub fn all_gather_into(
        &self,
        input: impl Into<TensorRef<'env>>,
        output: impl Into<TensorMut<'env>>,
    ) {
        let input = input.into();
        let checked = self.group.check_all_gather_into(&input, output.into());
        self.out_of_place(Operation::AllGather, &input, checked);
    }

    /// As [`ProcessGroup::reduce_scatter_into`]. Both buffers must be contiguous.
    pub fn reduce_scatter_into(
        &self,
        input: impl Into<TensorRef<'env>>,
        output: impl Into<TensorMut<'env>>,
        op: ReduceOp,
    ) {
        let input = input.into();
        let checked = self.group.check_reduce_scatter_into(&input, output.into(), op);
        self.out_of_place(Operation::ReduceScatter, &input, checked);
    }

    /// As [`ProcessGroup::all_to_all_single`]. Both buffers must be contiguous.
    pub fn all_to_all_single(
        &self,
        input: impl Into<TensorRef<'env>>,
        output: impl Into<TensorMut<'env>>,
    ) {
        let input = input.into();
        let checked = self.group.check_all_to_all_single(&input, output.into());
        self.out_of_place(Operation::AllToAll, &input, checked);
    }

    /// As [`ProcessGroup::send`].
    pub fn send(&self, data: impl Into<TensorRef<'env>>, destination: Rank, tag: u32) {
        let data = data.into();
        let message = Message { peer: destination, tag, dtype: data.dtype() };
        let checked = self.group.check_rank("destination", destination);
        match checked.and_then(|()| lendable("data", &data)) {
            Ok(bytes) => self.started.send(&message, &self.group.options, bytes),
            Err(reason) => self.refuse(Operation::Message, reason),
        }
    }

    /// As [`ProcessGroup::recv`].
    pub fn recv(&self, data: impl Into<TensorMut<'env>>, source: Rank, tag: u32) {
        let data = data.into();
        let message = Message { peer: source, tag, dtype: data.dtype() };
        let checked = self.group.check_rank("source", source);
        match checked.and_then(|()| contiguous("data", data)) {
            Ok(bytes) => self.started.recv(&message, &self.group.options, bytes),
            Err(reason) => self.refuse(Operation::Message, reason),
        }
    }

    /// As [`ProcessGroup::barrier`].
    pub fn barrier(&self) {
        self.started.start(&Spec::new(Shape::Barrier, None, None), &self.group.options, [], []);
    }
}

/// The bytes of an input; a packed copy could not be lent for as long as the scope needs it.
fn lendable<'env>(buffer: &'static str, view: &TensorRef<'env>) -> Check<&'env [u8]> {
    view.as_bytes().map_err(|_| Invalid::Strided { buffer })
}
