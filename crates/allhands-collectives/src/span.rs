//! Spans of operations for `tracing`, at the level `TRACE` under the target `allhands::operation`.
//!
//! While nobody listens, a call compares one number. Who listens is foreign code, so nothing is told from the driver's seat:
//! a blocking call is a span on its thread, and an asynchronous one has its span with whoever holds it.

use std::time::Duration;

use allhands_tensor::DType;
use allhands_wire::Descriptor;
use tracing::field::Empty;
use tracing::{Level, Span};

use crate::communicator::{CallOptions, Communicator, Message, Side, Spec};
use crate::describe;
use crate::error::Error;

const TARGET: &str = "allhands::operation";

/// Whether somebody listens.
#[inline]
pub(crate) fn is_on() -> bool {
    tracing::enabled!(target: TARGET, Level::TRACE)
}

/// The span of a collective.
pub(crate) fn collective(group: &Communicator, spec: &Spec, options: &CallOptions) -> Span {
    if is_on() { told(group, spec, options) } else { Span::none() }
}

#[cold]
fn told(group: &Communicator, spec: &Spec, options: &CallOptions) -> Span {
    let algorithm = options.algorithm.unwrap_or_else(|| group.algorithm(spec));
    let Descriptor { count, root, .. } = describe::collective(spec, options, algorithm);
    tracing::trace_span!(
        target: TARGET,
        "collective",
        operation = spec.operation().name(),
        group = group.name(),
        rank = group.rank().0,
        world_size = group.world_size(),
        channel = options.channel,
        sequence = Empty,
        dtype = spec.dtype.map(tracing::field::display),
        elements = count,
        bytes = count * spec.dtype.map_or(1, DType::size) as u64,
        reduction = spec.reduction.map(|op| op.name()),
        root,
        algorithm = algorithm.name(),
        label = options.label,
    )
}

/// The span of a message.
pub(crate) fn message(
    group: &Communicator,
    side: Side,
    message: &Message,
    options: &CallOptions,
    bytes: &[u8],
) -> Span {
    if !is_on() {
        return Span::none();
    }
    tracing::trace_span!(
        target: TARGET,
        "message",
        operation = match side {
            Side::Send => "send",
            Side::Recv => "recv",
        },
        group = group.name(),
        rank = group.rank().0,
        peer = message.peer.0,
        tag = message.tag,
        sequence = Empty,
        dtype = %message.dtype,
        bytes = bytes.len(),
        label = options.label,
    )
}

/// An operation in `span` has ended.
#[cold]
pub(crate) fn ended(
    span: &Span,
    sequence: Option<u64>,
    took: Option<Duration>,
    result: &Result<(), Error>,
) {
    if span.is_none() {
        return;
    }
    if let Some(sequence) = sequence {
        span.record("sequence", sequence);
    }
    match result {
        Ok(()) => tracing::trace!(target: TARGET, parent: span, ?took, "completed"),
        Err(error) => tracing::debug!(target: TARGET, parent: span, %error, "failed"),
    }
}
