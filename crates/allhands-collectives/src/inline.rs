//! Collectives in shared memory, and short messages over any link, on the calling thread: the shortest way there is.
//!
//! A blocking call on a group with a board, when nothing else is in flight, needs no other thread, no entry in the
//! engine and no memory of its own. It sits down in the driver's seat, runs its compiled plan, and gets up. Only when it
//! has to wait for long does it become an operation like any other, with a deadline and a place among those that fail
//! with their group.

use std::sync::Arc;
use std::time::{Duration, Instant};

use allhands_engine::flat::{FlatCall, FlatStep, Ticket};
use allhands_engine::{GroupKey, LoanBase, Looked, ShortMessage};
use allhands_wire::Descriptor;

use crate::cell::Cell;
use crate::communicator::{CallOptions, Spec};
use crate::core::Core;
use crate::memory::Borrowed;
use crate::mesh::Shared;
use crate::recipe::Recipe;

/// Looks at shared memory, with a pause in between, before the thread lets others run. Only where every rank has a core.
const LOOKS: u32 = 2000;

/// Looks before the thread lets others run where ranks share cores.
const LOOKS_CROWDED: u32 = 2;

/// Looks between two looks at the clock while others run in between.
const YIELDS_PER_LOOK: u32 = 16;

/// How long a call waits before it becomes an operation of the engine. Short against every deadline and every
/// answer to a failure, long against what a partner that runs needs.
const ENLIST_AFTER: Duration = Duration::from_millis(1);

/// Looks for a short message before its receive becomes an operation. Each is a system call where it comes over a socket.
const LOOKS_FOR_MESSAGE: u32 = 200;

/// How a call on the calling thread ended.
pub(crate) enum Ended {
    /// Well, under this number.
    Done(u64),
    /// It became an operation of the engine, whose outcome is in this cell.
    InCell(Arc<Cell>),
}

/// A call, and how to work out what it comes down to.
pub(crate) struct Caller<'a> {
    pub(crate) group: GroupKey,
    pub(crate) spec: &'a Spec,
    pub(crate) options: &'a CallOptions,
    pub(crate) recipe: &'a dyn Fn() -> Option<Arc<Recipe>>,
}

/// A short message, and what is recorded of it.
pub(crate) struct ShortCall {
    pub(crate) group: GroupKey,
    pub(crate) message: ShortMessage,
    /// What the message is, without its length.
    pub(crate) descriptor: Descriptor,
    pub(crate) element_size: usize,
    pub(crate) timeout: Duration,
}

/// A call that has its number.
struct Running<'a, M> {
    group: GroupKey,
    call: &'a FlatCall,
    /// Where its buffers lie in memory that peers read, if they do.
    loan: Option<LoanBase>,
    ticket: Ticket,
    memory: &'a mut M,
}

impl<M: Borrowed> Running<'_, M> {
    /// Goes on as far as the other ranks have come.
    #[inline]
    fn poll(&mut self, core: &mut Core) -> FlatStep {
        let Some(board) = &mut core.board else {
            unreachable!("a call that runs has a board");
        };
        let Self { group, call, loan, ticket, memory } = self;
        core.engine.poll_inline(*group, call, *loan, ticket, board, &mut **memory)
    }

    #[inline]
    fn finish(&self, core: &mut Core) {
        core.engine.finish_inline(self.group, self.call, &self.ticket);
    }
}

impl Shared {
    /// Runs a collective on the calling thread. `None`, and nothing done, if it has to go the ordinary way: somebody
    /// else drives, or something is in flight.
    #[inline]
    pub(crate) fn run_inline<M: Borrowed>(
        &self,
        caller: &Caller<'_>,
        memory: &mut M,
    ) -> Option<Ended> {
        if !self.try_take_seat() {
            return None;
        }
        let mut core = self.sit();
        if self.has_calls() {
            return None;
        }
        // The recipe of the last call stays with the driver: repeating it needs no other lock.
        let kept = core.recipe.take().filter(|(group, recipe)| {
            *group == caller.group && recipe.is_for(caller.spec, caller.options)
        });
        let recipe = match kept {
            Some((_, recipe)) => recipe,
            None => (caller.recipe)()?,
        };
        let ended = self.run_recipe(&mut core, caller, &recipe, memory);
        core.recipe = Some((caller.group, recipe));
        ended
    }

    /// Sends a short message on the calling thread. `false`, and nothing done, if it has to go the ordinary way.
    pub(crate) fn send_short(&self, call: &ShortCall, bytes: &[u8]) -> bool {
        if !self.try_take_seat() {
            return false;
        }
        let mut core = self.sit();
        if self.has_calls() {
            return false;
        }
        let sent = core.engine.send_short(call.group, &call.message, bytes);
        let Some((peer, sequence)) = sent else { return false };
        core.records.sent(call, bytes.len(), sequence);
        core.flush();
        if core.engine.has_outgoing(peer) || core.engine.is_restless() {
            // The link has no room, or has just died: whoever drives next goes on with it, the service thread if nobody else
            // does.
            self.finish_step(&mut core);
        }
        true
    }

    /// Receives a short message on the calling thread, if it comes at once. `false`, and nothing taken, if not.
    pub(crate) fn recv_short(&self, call: &ShortCall, target: &mut [u8]) -> bool {
        if !self.try_take_seat() {
            return false;
        }
        let mut core = self.sit();
        let source = core.engine.short_source(call.group, call.message.peer);
        let Some(peer) = source else { return false };
        let most = if self.crowded { LOOKS_CROWDED } else { LOOKS_FOR_MESSAGE };
        let mut taken = false;
        for _ in 0..most {
            if self.has_calls() {
                break;
            }
            match core.engine.recv_short(call.group, &call.message, target) {
                Looked::Absent => {}
                Looked::Unfit => break,
                Looked::Taken(sequence) => {
                    core.records.received(call, target.len(), sequence);
                    taken = true;
                    break;
                }
            }
            if core.receive_from(peer) == 0 {
                std::hint::spin_loop();
            }
        }
        // What else has come may have an answer.
        core.flush();
        self.finish_step(&mut core);
        taken
    }

    #[inline]
    fn run_recipe<M: Borrowed>(
        &self,
        core: &mut Core,
        caller: &Caller<'_>,
        recipe: &Recipe,
        memory: &mut M,
    ) -> Option<Ended> {
        if recipe.inline != Some(memory.lens()) || !memory.holds_whole(recipe.call.element_size) {
            return None;
        }
        let (group, call) = (caller.group, &recipe.call);
        let board = core.board.as_ref()?;
        let (input, data) = memory.in_one();
        let loan = core.loan(input, data);
        let ticket = core.engine.begin_inline(group, &call.plan, board)?;
        let (sequence, timeout) = (ticket.sequence(), caller.options.timeout);
        let mut run = Running { group, call, loan, ticket, memory };
        if self.spin(core, &mut run) {
            run.finish(core);
            core.records.ran(group, call, sequence, timeout);
            return Some(Ended::Done(sequence));
        }
        let begun = Instant::now();
        if self.crowd(core, &mut run, begun) {
            run.finish(core);
            core.records.waited(group, call, sequence, timeout, begun);
            return Some(Ended::Done(sequence));
        }
        let deadline = begun.checked_add(timeout);
        let cell = self.cells.take();
        let key = core.enlist(group, call, &run.ticket, begun, deadline, cell.clone());
        self.drive(core, &cell, None, &mut |core: &mut Core| {
            let step = run.poll(core);
            core.engine.settle_inline(key, step)
        });
        core.engine.release_inline(group);
        Some(Ended::InCell(cell))
    }

    /// Looks again and again, as long as a partner that runs on another core may need. Returns whether the call has ended.
    #[inline]
    fn spin<M: Borrowed>(&self, core: &mut Core, run: &mut Running<'_, M>) -> bool {
        let most = if self.crowded { LOOKS_CROWDED } else { LOOKS };
        let mut looks = 0;
        loop {
            match run.poll(core) {
                FlatStep::Done => return true,
                FlatStep::Waiting { moved: true, .. } if self.has_calls() => return false,
                FlatStep::Waiting { moved: true, .. } => looks = 0,
                FlatStep::Waiting { moved: false, .. } => {}
                FlatStep::Mismatch { .. } | FlatStep::Garbled { .. } => return false,
            }
            looks += 1;
            if looks >= most {
                return false;
            }
            std::hint::spin_loop();
        }
    }

    /// Looks, and lets other threads run in between. Returns whether the call has ended; gives up when there is something
    /// else to be seen to.
    fn crowd<M: Borrowed>(
        &self,
        core: &mut Core,
        run: &mut Running<'_, M>,
        mut since: Instant,
    ) -> bool {
        let mut yields: u32 = 0;
        while !self.has_calls() {
            std::thread::yield_now();
            match run.poll(core) {
                FlatStep::Done => return true,
                FlatStep::Waiting { moved: true, .. } => {
                    since = Instant::now();
                    yields = 0;
                }
                FlatStep::Waiting { moved: false, .. } => {}
                FlatStep::Mismatch { .. } | FlatStep::Garbled { .. } => return false,
            }
            yields += 1;
            if yields.is_multiple_of(YIELDS_PER_LOOK) && since.elapsed() >= ENLIST_AFTER {
                return false;
            }
        }
        false
    }
}
