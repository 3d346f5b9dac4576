//! A group's operations on bytes: every verb comes through here, blocking or not.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use allhands_engine::flat::BOARD_CHANNEL;
use allhands_engine::{
    GroupKey, GroupSpec, PointSubmission, Refusal, SHORT_MESSAGE_MAX, ShortMessage, Space, Storage,
    Submission,
};
use allhands_plan::{Algorithm, Rank, Shape};
use allhands_record::{CallMode, FlightRecord};
use allhands_tensor::lend::{LendScope, lend_scope};
use allhands_tensor::{DType, Kernel, ReduceOp, Tensor};
use allhands_wire::{Cause, Descriptor, Peer};
use smallvec::SmallVec;
use tracing::Span;

use crate::cell::{Cell, Outcome};
use crate::core::{Begin, Call, Medium};
use crate::describe;
use crate::error::{Error, Invalid, Who};
use crate::inline::{Caller, Ended, ShortCall};
use crate::memory::{Borrowed, Pieces, Slices};
use crate::mesh::Mesh;
use crate::operation::Operation;
use crate::pending::{Pending, judge};
use crate::planner::Planner;
use crate::primitive::{Mutex, lock};
use crate::recipe::{Recipe, Recipes};
use crate::record::Dump;
use crate::selection::Selection;
use crate::span;
use crate::sparse::{CHANNELS, Lanes};

/// How one call differs from the group's defaults.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CallOptions {
    /// How long the operation may take.
    pub timeout: Duration,
    /// Stream of operations inside the group: all ranks issue the same operations on it in the same order;
    /// different channels are independent. Below [`CHANNELS`].
    pub channel: u32,
    /// Algorithm to use instead of the table's choice. All ranks must say the same.
    pub algorithm: Option<Algorithm>,
    /// A name for errors and traces, at most 64 bytes.
    pub label: String,
}

/// How long an operation may take unless told otherwise: as in torch.distributed.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30 * 60);

impl Default for CallOptions {
    fn default() -> Self {
        Self { timeout: DEFAULT_TIMEOUT, channel: 0, algorithm: None, label: String::new() }
    }
}

impl CallOptions {
    /// These options with another timeout.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// These options on another channel.
    #[must_use]
    pub fn on_channel(mut self, channel: u32) -> Self {
        self.channel = channel;
        self
    }

    /// These options with a given algorithm.
    #[must_use]
    pub fn by(mut self, algorithm: Algorithm) -> Self {
        self.algorithm = Some(algorithm);
        self
    }
}

/// A call, before it has buffers.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// What is computed, in elements.
    pub shape: Shape,
    /// Element type; `None` for a barrier.
    pub dtype: Option<DType>,
    /// How elements are combined, for operations that combine.
    pub reduction: Option<ReduceOp>,
    /// Dimensions of the caller's tensor, for errors only; none if there is one.
    pub dims: SmallVec<[u64; 8]>,
    /// Of which call this is one step, if it is.
    pub(crate) part: Option<Part>,
}

/// The call that errors and fingerprints name instead of one of its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) operation: Operation,
    /// Element type of the call's tensor, once all ranks are known to have the same.
    pub(crate) dtype: Option<DType>,
    /// Which step; tells steps apart that would look alike.
    pub(crate) step: u8,
}

impl Spec {
    /// A call on flat elements.
    #[inline]
    #[must_use]
    pub fn new(shape: Shape, dtype: Option<DType>, reduction: Option<ReduceOp>) -> Self {
        Self { shape, dtype, reduction, dims: SmallVec::new(), part: None }
    }

    /// What the caller called.
    pub(crate) fn operation(&self) -> Operation {
        self.part.map_or_else(|| Operation::of(&self.shape), |part| part.operation)
    }

    /// Whether a call like it will hardly come again: its lengths depend on what ranks had.
    fn is_passing(&self) -> bool {
        use allhands_plan::Counts::PerRank;
        let uneven = matches!(
            self.shape,
            Shape::AllGather { counts: PerRank(_), .. } | Shape::AllToAll { send: PerRank(_), .. }
        );
        self.part.is_some() && uneven
    }
}

/// A group of ranks that run operations together, on bytes.
///
/// Typed slices and tensors are one layer up; here a buffer is bytes with a [`DType`] in the [`Spec`].
#[derive(Debug)]
pub struct Communicator {
    mesh: Arc<Mesh>,
    key: GroupKey,
    who: Arc<Who>,
    /// How its ranks reach each other.
    medium: Medium,
    planner: Mutex<Planner>,
    recipes: Mutex<Recipes>,
    selection: Selection,
    /// Sparse calls under way.
    pub(crate) lanes: Arc<Lanes>,
}

impl Communicator {
    /// A group of `members`, in rank order, on a mesh. All members must add the group with the same
    /// number before any of them uses it.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn new(
        mesh: Arc<Mesh>,
        name: impl Into<String>,
        spec: GroupSpec,
        selection: Selection,
    ) -> Result<Self, Refusal> {
        let members = spec.members.clone();
        let world = members.len() as u32;
        let at = members.iter().position(|&peer| peer == mesh.me());
        let rank = Rank(at.map_or(0, |at| at as u32));
        let dump = Dump::new(mesh.me(), mesh.world(), mesh.record_config());
        let who = Arc::new(Who { group: name.into(), rank, members, dump });
        let (key, medium) = mesh.add_group(spec, who.clone())?;
        let planner =
            Mutex::new(Planner::new(world, rank, medium, selection.placed(world).cloned()));
        let (recipes, lanes) = (Mutex::default(), Arc::default());
        Ok(Self { mesh, key, who, medium, planner, recipes, selection, lanes })
    }

    /// The same group for a thread of its own, with plans of its own.
    pub(crate) fn another(&self) -> Self {
        let selection = self.selection.clone();
        let (world, rank) = (self.world_size(), self.rank());
        let placed = selection.placed(world).cloned();
        Self {
            mesh: self.mesh.clone(),
            key: self.key,
            who: self.who.clone(),
            medium: self.medium,
            planner: Mutex::new(Planner::new(world, rank, self.medium, placed)),
            recipes: Mutex::default(),
            selection,
            lanes: self.lanes.clone(),
        }
    }

    /// This process's rank.
    #[must_use]
    pub fn rank(&self) -> Rank {
        self.who.rank
    }

    /// Ranks of the group.
    #[must_use]
    pub fn world_size(&self) -> u32 {
        self.who.members.len() as u32
    }

    /// The group's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.who.group
    }

    /// Positions of the members in the mesh, in rank order.
    #[must_use]
    pub fn members(&self) -> &[Peer] {
        &self.who.members
    }

    /// Whether its members share memory, through which their collectives on channel 0 go.
    #[must_use]
    pub fn shares_memory(&self) -> bool {
        self.medium == Medium::Board
    }

    /// The mesh below.
    #[must_use]
    pub fn mesh(&self) -> &Arc<Mesh> {
        &self.mesh
    }

    /// An error about a call that was never started.
    #[must_use]
    pub fn invalid(&self, operation: Operation, reason: Invalid) -> Error {
        self.who.invalid(operation, reason)
    }

    /// The error of a call in which `peer` broke the protocol.
    pub(crate) fn broken(
        &self,
        operation: Operation,
        peer: u32,
        limit: Duration,
        what: &str,
    ) -> Error {
        self.who.broken(operation, Rank(peer), limit, what)
    }

    /// The algorithm that a call of this shape runs.
    #[must_use]
    pub fn algorithm(&self, spec: &Spec) -> Algorithm {
        self.selection.choose(&spec.shape, self.world_size(), spec.dtype)
    }

    /// Breaks the group: every operation in flight and every later one ends with an error that names this
    /// rank and `why`, on every member.
    pub fn abort(&self, why: impl Into<String>) {
        self.mesh.shared().post(Call::Abort(self.key, Cause::UserAbort, why.into()));
    }

    /// What this rank did last in the group. Safe from any thread, also while others wait in operations.
    #[must_use]
    pub fn flight_record(&self) -> FlightRecord {
        self.mesh.shared().record(self.key).expand(&self.who)
    }

    /// What a call comes down to, from those made lately if it is among them.
    fn recipe(&self, spec: &Spec, options: &CallOptions) -> Result<Arc<Recipe>, Invalid> {
        if let Some(recipe) = lock(&self.recipes).find(spec, options) {
            return Ok(recipe);
        }
        let size = spec.dtype.map_or(1, DType::size);
        let algorithm = options.algorithm.unwrap_or_else(|| self.algorithm(spec));
        let kernel = match (spec.dtype, spec.reduction) {
            (Some(dtype), Some(op)) => Some(Kernel::new(dtype, op)?),
            _ => None,
        };
        let plan = if spec.is_passing() {
            lock(&self.planner).passing(&spec.shape, algorithm, size)?
        } else {
            lock(&self.planner).plan(&spec.shape, algorithm, size)?
        };
        let descriptor = describe::collective(spec, options, algorithm);
        let mut recipes = lock(&self.recipes);
        let number = recipes.number();
        let recipe = Arc::new(Recipe::new(spec, options, kernel, plan, descriptor, number));
        if !spec.is_passing() {
            recipes.keep(recipe.clone());
        }
        Ok(recipe)
    }

    fn submission(
        &self,
        spec: &Spec,
        options: &CallOptions,
        input: Space,
        data: Space,
    ) -> Result<(Submission, Option<Space>), Box<Unstarted>> {
        let channel = options.channel;
        let reserved = spec.part.is_none() && channel >= CHANNELS;
        let recipe = if reserved {
            Err(Invalid::ReservedChannel { channel })
        } else {
            self.recipe(spec, options)
        };
        let recipe = match recipe {
            Ok(recipe) => recipe,
            Err(reason) => {
                let error = self.who.invalid(spec.operation(), reason);
                return Err(Box::new(Unstarted { error, input, data }));
            }
        };
        let now = Instant::now();
        let call = &recipe.call;
        let (input, kept) = scaled(spec, call.kernel, input);
        let submission = Submission {
            channel: options.channel,
            plan: call.plan.clone(),
            kernel: call.kernel,
            element_size: call.element_size,
            descriptor: call.descriptor,
            fingerprint: call.fingerprint,
            input,
            data,
            loan: None,
            submitted: now,
            deadline: now.checked_add(options.timeout),
        };
        Ok((submission, kept))
    }

    /// Runs a call in shared memory, on this thread, if it is one that can be.
    #[inline]
    fn inline(
        &self,
        spec: &Spec,
        options: &CallOptions,
        memory: &mut impl Borrowed,
        span: Option<&Span>,
    ) -> Option<Result<(), Error>> {
        if self.medium != Medium::Board || options.channel != BOARD_CHANNEL {
            return None;
        }
        let caller =
            Caller { group: self.key, spec, options, recipe: &|| self.recipe(spec, options).ok() };
        match self.mesh.shared().run_inline(&caller, memory)? {
            Ended::Done(sequence) => {
                if let Some(span) = span {
                    span::ended(span, Some(sequence), None, &Ok(()));
                }
                Some(Ok(()))
            }
            Ended::InCell(cell) => Some(self.settle(cell, spec.operation(), options, span)),
        }
    }

    /// Runs a collective on borrowed bytes and returns when it has ended. `inputs` and `outputs` are the
    /// pieces of the shape's `Input` and `Data`, in order.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn run<'i, 'o>(
        &self,
        spec: &Spec,
        options: &CallOptions,
        inputs: impl IntoIterator<Item = &'i [u8]>,
        outputs: impl IntoIterator<Item = &'o mut [u8]>,
    ) -> Result<(), Error> {
        if span::is_on() {
            return self.run_told(spec, options, inputs, outputs);
        }
        self.run_in(spec, options, inputs, outputs, None)
    }

    /// Runs a collective in a span of its own.
    #[cold]
    fn run_told<'i, 'o>(
        &self,
        spec: &Spec,
        options: &CallOptions,
        inputs: impl IntoIterator<Item = &'i [u8]>,
        outputs: impl IntoIterator<Item = &'o mut [u8]>,
    ) -> Result<(), Error> {
        let span = span::collective(self, spec, options).entered();
        self.run_in(spec, options, inputs, outputs, Some(&span))
    }

    // Always: its arguments are many, and passing them on costs more than what they are for.
    #[inline(always)]
    fn run_in<'i, 'o>(
        &self,
        spec: &Spec,
        options: &CallOptions,
        inputs: impl IntoIterator<Item = &'i [u8]>,
        outputs: impl IntoIterator<Item = &'o mut [u8]>,
        span: Option<&Span>,
    ) -> Result<(), Error> {
        let (mut inputs, mut outputs) = (inputs.into_iter().fuse(), outputs.into_iter().fuse());
        let (input, output) = (inputs.next(), outputs.next());
        let (more_input, more_output) = (inputs.next(), outputs.next());
        let mut output = output;
        let single = more_input.is_none() && more_output.is_none();
        if single {
            let data = output.as_deref_mut().unwrap_or(&mut []);
            let mut memory = Slices { input: input.unwrap_or(&[]), data };
            if let Some(ended) = self.inline(spec, options, &mut memory, span) {
                return ended;
            }
        }
        // One by one, since the two lists live for different times.
        let mut pieces = Pieces { inputs: SmallVec::new(), outputs: SmallVec::new() };
        for input in input.into_iter().chain(more_input).chain(inputs) {
            pieces.inputs.push(input);
        }
        for output in output.into_iter().chain(more_output).chain(outputs) {
            pieces.outputs.push(output);
        }
        self.run_pieces(spec, options, pieces, span)
    }

    /// As [`Communicator::run`], for what is in several pieces or has to wait for others.
    fn run_pieces(
        &self,
        spec: &Spec,
        options: &CallOptions,
        mut pieces: Pieces<'_>,
        span: Option<&Span>,
    ) -> Result<(), Error> {
        let single = pieces.inputs.len() <= 1 && pieces.outputs.len() <= 1;
        if !single && let Some(ended) = self.inline(spec, options, &mut pieces, span) {
            return ended;
        }
        let Pieces { inputs, outputs } = pieces;
        lend_scope(|scope| {
            let input = Space::list(inputs.into_iter().map(|b| Storage::Lent(scope.lend(b))));
            let data =
                Space::list(outputs.into_iter().map(|b| Storage::LentMut(scope.lend_mut(b))));
            let (submission, _kept) =
                self.submission(spec, options, input, data).map_err(|unstarted| unstarted.error)?;
            let cell = self.mesh.shared().cells.take();
            self.mesh.shared().run(self.key, Begin::Collective(submission), &cell);
            self.settle(cell, spec.operation(), options, span)
        })
    }

    fn settle(
        &self,
        cell: Arc<Cell>,
        operation: Operation,
        options: &CallOptions,
        span: Option<&Span>,
    ) -> Result<(), Error> {
        let (outcome, sequence) = (cell.take(), cell.sequence());
        self.mesh.shared().cells.keep(cell);
        let Some(outcome) = outcome else { return Ok(()) };
        let took = outcome.took();
        let result = judge(outcome, &self.who, operation, options.timeout).0;
        if let Some(span) = span {
            span::ended(span, sequence, took, &result);
        }
        result
    }

    /// Starts a collective on owned tensors.
    #[must_use]
    pub fn start(
        &self,
        spec: &Spec,
        options: &CallOptions,
        inputs: Vec<Tensor>,
        outputs: Vec<Tensor>,
    ) -> Pending {
        let own = |tensors: Vec<Tensor>| Space::list(tensors.into_iter().map(Storage::Tensor));
        self.launch(spec, options, own(inputs), own(outputs))
    }

    fn launch(&self, spec: &Spec, options: &CallOptions, input: Space, data: Space) -> Pending {
        let cell = Arc::new(Cell::default());
        let operation = spec.operation();
        let span = span::collective(self, spec, options);
        match self.submission(spec, options, input, data) {
            Ok((submission, kept)) => {
                let begin = Box::new(Begin::Collective(submission));
                let call = Call::Begin(self.key, begin, CallMode::Async, cell.clone());
                self.mesh.shared().post(call);
                Pending { kept, ..self.pending(cell, operation, options, span) }
            }
            Err(unstarted) => {
                let Unstarted { error, input, data } = *unstarted;
                let _nobody_waits_yet = cell.put(Outcome::Invalid(error, input, data));
                self.pending(cell, operation, options, span)
            }
        }
    }

    fn pending(
        &self,
        cell: Arc<Cell>,
        operation: Operation,
        options: &CallOptions,
        span: Span,
    ) -> Pending {
        Pending {
            span,
            mesh: self.mesh.clone(),
            who: self.who.clone(),
            cell,
            operation,
            limit: options.timeout,
            source: None,
            kept: None,
        }
    }

    /// A point-to-point call.
    fn point(
        &self,
        side: Side,
        message: &Message,
        options: &CallOptions,
        storage: Storage,
    ) -> Begin {
        let buffer = Space::single(storage);
        let count = (buffer.len() / message.dtype.size()) as u64;
        let whole = Descriptor { count, ..describe::message(message, options) };
        let now = Instant::now();
        let submission = PointSubmission {
            peer: message.peer,
            tag: message.tag,
            descriptor: whole,
            fingerprint: Descriptor { count: 0, ..whole }.fingerprint(),
            buffer,
            submitted: now,
            deadline: now.checked_add(options.timeout),
        };
        match side {
            Side::Send => Begin::Send(submission),
            Side::Recv => Begin::Recv(submission),
        }
    }

    /// A message as it goes without an operation.
    fn short(&self, message: &Message, options: &CallOptions) -> ShortCall {
        let Message { peer, tag, dtype } = *message;
        let descriptor = describe::message(message, options);
        ShortCall {
            group: self.key,
            message: ShortMessage { peer, tag, fingerprint: descriptor.fingerprint() },
            descriptor,
            element_size: dtype.size(),
            timeout: options.timeout,
        }
    }

    fn run_point(
        &self,
        side: Side,
        message: &Message,
        options: &CallOptions,
        storage: Storage,
    ) -> Result<(), Error> {
        let span = span::message(self, side, message, options, storage.as_bytes());
        let entered = span.enter();
        let begin = self.point(side, message, options, storage);
        let cell = self.mesh.shared().cells.take();
        self.mesh.shared().run(self.key, begin, &cell);
        drop(entered);
        self.settle(cell, Operation::Message, options, Some(&span))
    }

    fn start_point(
        &self,
        side: Side,
        message: &Message,
        options: &CallOptions,
        storage: Storage,
    ) -> Pending {
        let span = span::message(self, side, message, options, storage.as_bytes());
        let begin = Box::new(self.point(side, message, options, storage));
        let cell = Arc::new(Cell::default());
        let call = Call::Begin(self.key, begin, CallMode::Async, cell.clone());
        self.mesh.shared().post(call);
        let source = matches!(side, Side::Recv).then_some(message.peer);
        Pending { source, ..self.pending(cell, Operation::Message, options, span) }
    }

    fn check_peer(&self, what: &'static str, rank: Rank) -> Result<(), Error> {
        let world_size = self.world_size();
        if rank.0 < world_size {
            return Ok(());
        }
        Err(self.invalid(Operation::Message, Invalid::Rank { what, rank, world_size }))
    }

    /// Sends bytes to a rank; returns when they may be changed.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn send(
        &self,
        message: &Message,
        options: &CallOptions,
        bytes: &[u8],
    ) -> Result<(), Error> {
        self.check_peer("destination", message.peer)?;
        // Whoever follows operations gets a span for each.
        let short = bytes.len() <= SHORT_MESSAGE_MAX && !span::is_on();
        if short && self.mesh.shared().send_short(&self.short(message, options), bytes) {
            return Ok(());
        }
        lend_scope(|scope| {
            self.run_point(Side::Send, message, options, Storage::Lent(scope.lend(bytes)))
        })
    }

    /// Receives bytes from a rank; the message must have exactly this length.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn recv(
        &self,
        message: &Message,
        options: &CallOptions,
        bytes: &mut [u8],
    ) -> Result<(), Error> {
        self.check_peer("source", message.peer)?;
        let short = bytes.len() <= SHORT_MESSAGE_MAX && !span::is_on();
        if short && self.mesh.shared().recv_short(&self.short(message, options), bytes) {
            return Ok(());
        }
        lend_scope(|scope| {
            self.run_point(Side::Recv, message, options, Storage::LentMut(scope.lend_mut(bytes)))
        })
    }

    /// Starts a send of an owned tensor.
    #[must_use]
    pub fn start_send(&self, message: &Message, options: &CallOptions, tensor: Tensor) -> Pending {
        self.start_point(Side::Send, message, options, Storage::Tensor(tensor))
    }

    /// Starts a receive into an owned tensor.
    #[must_use]
    pub fn start_recv(&self, message: &Message, options: &CallOptions, tensor: Tensor) -> Pending {
        self.start_point(Side::Recv, message, options, Storage::Tensor(tensor))
    }

    /// Runs `body`, which may start operations over borrowed bytes; all of them have ended when this
    /// returns.
    ///
    /// # Errors
    /// The first error of an operation, in the order in which they were started.
    ///
    /// # Panics
    /// If `body` does. The group is broken then unless everything started had ended: the other ranks would
    /// wait for operations that this one never starts.
    pub fn scope<'env, R>(
        &'env self,
        body: impl for<'scope> FnOnce(&Scope<'scope, 'env>) -> R,
    ) -> Result<R, Error> {
        lend_scope(|lend| {
            let scope = Scope { communicator: self, lend, pending: RefCell::new(Vec::new()) };
            let guard = Unwinding { scope: &scope };
            let result = body(&scope);
            drop(guard);
            let mut first = Ok(());
            for pending in scope.pending.into_inner() {
                let (ended, _) = pending.wait();
                first = first.and(ended);
            }
            first.map(|()| result)
        })
    }
}

/// A call that made no sense, with its buffers.
struct Unstarted {
    error: Error,
    input: Space,
    data: Space,
}

/// This rank's part in a point-to-point message.
#[derive(Clone, Copy)]
pub(crate) enum Side {
    Send,
    Recv,
}

/// Who a point-to-point message goes to or comes from.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// The other side.
    pub peer: Rank,
    /// Messages with equal source, destination and tag arrive in the order in which they were sent.
    pub tag: u32,
    /// Element type; both sides must say the same.
    pub dtype: DType,
}

/// Starts operations over borrowed bytes, see [`Communicator::scope`].
#[derive(Debug)]
pub struct Scope<'scope, 'env> {
    communicator: &'env Communicator,
    lend: &'scope LendScope<'scope, 'env>,
    pending: RefCell<Vec<Pending>>,
}

/// Breaks the group if the body of a scope panics with operations in flight: the memory they use must not
/// be held until their timeout.
struct Unwinding<'a, 'scope, 'env> {
    scope: &'a Scope<'scope, 'env>,
}

impl Drop for Unwinding<'_, '_, '_> {
    fn drop(&mut self) {
        let running = || self.scope.pending.borrow().iter().any(|p| !p.is_completed());
        if std::thread::panicking() && running() {
            let group = self.scope.communicator;
            let why = "the body of a scope panicked".to_owned();
            group.mesh.shared().post(Call::Abort(group.key, Cause::HookPanic, why));
        }
    }
}

impl<'env> Scope<'_, 'env> {
    /// The group.
    #[must_use]
    pub fn communicator(&self) -> &'env Communicator {
        self.communicator
    }

    /// Starts a collective over borrowed bytes.
    pub fn start(
        &self,
        spec: &Spec,
        options: &CallOptions,
        inputs: impl IntoIterator<Item = &'env [u8]>,
        outputs: impl IntoIterator<Item = &'env mut [u8]>,
    ) {
        let input = Space::list(inputs.into_iter().map(|b| Storage::Lent(self.lend.lend(b))));
        let data = outputs.into_iter().map(|b| Storage::LentMut(self.lend.lend_mut(b)));
        let pending = self.communicator.launch(spec, options, input, Space::list(data));
        self.pending.borrow_mut().push(pending);
    }

    /// Starts a send of borrowed bytes.
    pub fn send(&self, message: &Message, options: &CallOptions, bytes: &'env [u8]) {
        let storage = Storage::Lent(self.lend.lend(bytes));
        let pending = self.communicator.start_point(Side::Send, message, options, storage);
        self.pending.borrow_mut().push(pending);
    }

    /// Starts a receive into borrowed bytes.
    pub fn recv(&self, message: &Message, options: &CallOptions, bytes: &'env mut [u8]) {
        let storage = Storage::LentMut(self.lend.lend_mut(bytes));
        let pending = self.communicator.start_point(Side::Recv, message, options, storage);
        self.pending.borrow_mut().push(pending);
    }
}

/// A reduction that scales first and does not work in place needs a scaled copy of the input; the
/// original is kept to be given back.
fn scaled(spec: &Spec, kernel: Option<Kernel>, input: Space) -> (Space, Option<Space>) {
    match (kernel, spec.reduction) {
        (Some(kernel), Some(ReduceOp::PremulSum(_)))
            // A part of an element is refused by its length later.
            if !input.is_empty() && input.len().is_multiple_of(kernel.dtype().size()) =>
        {
            let mut bytes = Vec::with_capacity(input.len());
            while bytes.len() < input.len() {
                let from = bytes.len();
                bytes.extend_from_slice(input.run(from, usize::MAX));
            }
            kernel.prepare(&mut bytes);
            (Space::single(Storage::Bytes(bytes)), Some(input))
        }
        _ => (input, None),
    }
}
