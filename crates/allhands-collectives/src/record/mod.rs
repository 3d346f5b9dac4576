//! The flight recorder: what a group did last, always on and bounded.
//!
//! A record belongs to whoever drives, like the engine, so writing it takes no lock. What runs through the engine has an
//! entry from its call on. A blocking call in shared memory that ends while its thread looks has none of its own: a
//! run of equal calls is one entry, and going on with a run costs a dozen instructions. Such a call is over sooner than ten
//! readings of the clock would be, so only one in [`TIMED_EVERY`] reads it; the times between are estimates, and say so.

mod dump;
mod expand;

use std::sync::Arc;
use std::time::{Duration, Instant};

use allhands_engine::flat::FlatCall;
use allhands_engine::{Engine, Finished, GroupKey, OpKey, PointSubmission, Submission};
use allhands_plan::Rank;
use allhands_record::CallMode;
use allhands_wire::{Descriptor, LABEL_MAX, Text};

use crate::core::Begin;
use crate::error::Who;
use crate::inline::ShortCall;
use crate::operation::Operation;

pub(crate) use dump::Dump;
pub use dump::RecordConfig;
pub(crate) use expand::Raw;

/// Operations that a group's record holds unless told otherwise: as many as PyTorch's.
pub const RECORD_ENTRIES: usize = 2000;

/// The largest record: a group keeps this many entries of about 200 bytes.
pub const RECORD_ENTRIES_MAX: usize = 1 << 20;

/// Calls of which one reads the clock, where all end while their threads look.
const TIMED_EVERY: u64 = 64;

/// This rank's part in an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// All ranks take part.
    Collective,
    /// A message to a rank, with a tag.
    Send(Rank, u32),
    /// A message from a rank, with a tag.
    Recv(Rank, u32),
}

/// What an operation is, whenever and under whatever number it runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    operation: u8,
    reduction: u8,
    dtype: u8,
    algorithm: u8,
    part: Part,
    root: Option<u32>,
    channel: u32,
    /// Ranks have lengths of their own.
    uneven: bool,
    /// Elements that this rank brings and gets.
    input: u64,
    output: u64,
    mode: CallMode,
    timeout: Duration,
    label: Text<LABEL_MAX>,
}

impl Facts {
    fn new(descriptor: &Descriptor, input: u64, output: u64) -> Self {
        Self {
            operation: descriptor.op,
            reduction: descriptor.reduce_op,
            dtype: descriptor.dtype,
            algorithm: descriptor.algorithm,
            part: Part::Collective,
            root: descriptor.root,
            channel: 0,
            uneven: descriptor.extra == PER_RANK,
            input,
            output,
            mode: CallMode::Blocking,
            timeout: Duration::MAX,
            label: descriptor.label,
        }
    }

    /// A blocking call on the board.
    fn of_call(call: &FlatCall, timeout: Duration) -> Self {
        let plan = call.plan.plan();
        Self { timeout, ..Self::new(&call.descriptor, plan.input_len(), plan.data_len()) }
    }

    fn of_collective(call: &Submission) -> Self {
        let plan = call.plan.plan();
        let facts = Self::new(&call.descriptor, plan.input_len(), plan.data_len());
        let timeout = limit(call.submitted, call.deadline);
        Self { channel: call.channel, timeout, ..facts }
    }

    fn of_message(call: &PointSubmission, part: Part) -> Self {
        let elements = call.descriptor.count;
        let (input, output) = match part {
            Part::Recv(..) => (0, elements),
            _ => (elements, 0),
        };
        let timeout = limit(call.submitted, call.deadline);
        Self { part, timeout, ..Self::new(&call.descriptor, input, output) }
    }

    fn of(begin: &Begin, mode: CallMode) -> Self {
        let facts = match begin {
            Begin::Collective(call) => Self::of_collective(call),
            Begin::Send(call) => Self::of_message(call, Part::Send(call.peer, call.tag)),
            Begin::Recv(call) => Self::of_message(call, Part::Recv(call.peer, call.tag)),
        };
        Self { mode, ..facts }
    }
}

/// How descriptors mark operations whose lengths differ by rank.
pub(crate) const PER_RANK: u64 = 2;

fn limit(submitted: Instant, deadline: Option<Instant>) -> Duration {
    deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(submitted))
}

/// How far the operations of an entry have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Ended,
    Failed,
}

/// One operation, or a run of equal ones without a clock of their own.
#[derive(Clone, Copy, Debug)]
struct Slot {
    facts: Facts,
    /// Number of the first operation in the record, and on its channel.
    id: u64,
    sequence: u64,
    count: u64,
    created: Option<Instant>,
    /// When the first had ended.
    ended: Option<Instant>,
    phase: Phase,
}

/// The run of equal calls that goes on. Whatever else gets a number of its channel ends it.
#[derive(Debug)]
struct Run {
    /// The call's number, or 0 while there is no run.
    identity: u64,
    /// Number that the next call has on its channel.
    next: u64,
    /// Its entry.
    slot: usize,
    /// Number of the next call that reads the clock, in this run or another.
    timed: u64,
}

/// The last operations of one group.
#[derive(Debug)]
struct Recorder {
    who: Arc<Who>,
    key: GroupKey,
    capacity: usize,
    /// A ring, once it is full.
    slots: Vec<Slot>,
    /// Where the next entry goes.
    next: usize,
    /// Operations recorded so far.
    made: u64,
    run: Run,
    /// The group's failure has been seen.
    failed: bool,
}

impl Recorder {
    fn new(who: Arc<Who>, key: GroupKey, capacity: usize) -> Self {
        let run = Run { identity: 0, next: 0, slot: 0, timed: 0 };
        let (slots, next) = (Vec::with_capacity(capacity), 0);
        Self { who, key, capacity, slots, next, made: 0, run, failed: false }
    }

    /// Writes down how long the run was.
    fn close_run(&mut self) {
        if self.run.identity == 0 {
            return;
        }
        self.run.identity = 0;
        if let Some(slot) = self.slots.get_mut(self.run.slot) {
            slot.count = self.run.next - slot.sequence;
            self.made = slot.id + slot.count;
        }
    }

    /// Writes an entry over the oldest. Returns where it is.
    fn push(&mut self, slot: Slot) -> usize {
        self.close_run();
        let slot = Slot { id: self.made, ..slot };
        self.made += slot.count;
        let at = self.next;
        match self.slots.get_mut(at) {
            Some(oldest) => *oldest = slot,
            None if self.capacity == 0 => return 0,
            None => self.slots.push(slot),
        }
        self.next = if at + 1 == self.capacity { 0 } else { at + 1 };
        at
    }

    /// The first call of a run, or the first after many whose clock was not read.
    #[inline(never)]
    fn begin_run(&mut self, call: &FlatCall, sequence: u64, timeout: Duration) {
        let ended = (sequence >= self.run.timed).then(|| {
            self.run.timed = sequence + TIMED_EVERY;
            Instant::now()
        });
        let slot = self.push(Slot {
            facts: Facts::of_call(call, timeout),
            id: 0,
            sequence,
            count: 1,
            created: None,
            ended,
            phase: Phase::Ended,
        });
        let (identity, next) = (call.identity, sequence + 1);
        self.run = Run { identity, next, slot, ..self.run };
    }
}

/// A call before the engine has taken it.
#[derive(Debug)]
pub(crate) struct Call {
    group: GroupKey,
    facts: Facts,
    submitted: Instant,
    /// Number that a collective gets on its channel.
    next: Option<u64>,
}

/// An operation in flight: whose it is, and its entry.
#[derive(Clone, Copy, Debug)]
struct Open {
    group: GroupKey,
    key: OpKey,
    slot: usize,
    id: u64,
    submitted: Instant,
}

/// The records of a mesh's groups.
#[derive(Debug)]
pub(crate) struct Records {
    capacity: usize,
    /// By the groups' numbers.
    groups: Vec<Recorder>,
    /// By the operations' indices.
    open: Vec<Option<Open>>,
}

impl Records {
    /// Room for records of `entries` each.
    pub(crate) fn new(entries: usize) -> Self {
        let capacity = entries.min(RECORD_ENTRIES_MAX);
        Self { capacity, groups: Vec::new(), open: Vec::new() }
    }

    /// A new group, the next one of the engine.
    pub(crate) fn add(&mut self, who: Arc<Who>, key: GroupKey) {
        self.groups.push(Recorder::new(who, key, self.capacity));
    }

    /// A call on the board has ended while its thread looked. One that goes on with a run shares the limit of the run's first.
    #[inline]
    pub(crate) fn ran(
        &mut self,
        group: GroupKey,
        call: &FlatCall,
        sequence: u64,
        timeout: Duration,
    ) {
        let Some(recorder) = self.groups.get_mut(group.index()) else { return };
        let run = &mut recorder.run;
        if run.identity == call.identity && sequence < run.timed {
            debug_assert_eq!(run.next, sequence, "what gets a number is recorded");
            run.next = sequence + 1;
        } else {
            recorder.begin_run(call, sequence, timeout);
        }
    }

    /// A call on the board has ended after a wait, in which its thread has read the clock.
    pub(crate) fn waited(
        &mut self,
        group: GroupKey,
        call: &FlatCall,
        sequence: u64,
        timeout: Duration,
        begun: Instant,
    ) {
        let Some(recorder) = self.groups.get_mut(group.index()) else { return };
        recorder.push(Slot {
            facts: Facts::of_call(call, timeout),
            id: 0,
            sequence,
            count: 1,
            created: Some(begun),
            ended: Some(Instant::now()),
            phase: Phase::Ended,
        });
    }

    /// A short message has been sent without an operation.
    pub(crate) fn sent(&mut self, call: &ShortCall, bytes: usize, sequence: u64) {
        let elements = (bytes / call.element_size) as u64;
        let part = Part::Send(call.message.peer, call.message.tag);
        self.short(call, part, (elements, 0), sequence);
    }

    /// One has been received.
    pub(crate) fn received(&mut self, call: &ShortCall, bytes: usize, sequence: u64) {
        let elements = (bytes / call.element_size) as u64;
        let part = Part::Recv(call.message.peer, call.message.tag);
        self.short(call, part, (0, elements), sequence);
    }

    /// It is over sooner than a reading of the clock would pay, so one entry in [`TIMED_EVERY`] has one.
    fn short(&mut self, call: &ShortCall, part: Part, elements: (u64, u64), sequence: u64) {
        let Some(recorder) = self.groups.get_mut(call.group.index()) else { return };
        let facts = Facts::new(&call.descriptor, elements.0, elements.1);
        let ended = recorder.made.is_multiple_of(TIMED_EVERY).then(Instant::now);
        recorder.push(Slot {
            facts: Facts { part, timeout: call.timeout, ..facts },
            id: 0,
            sequence,
            count: 1,
            created: None,
            ended,
            phase: Phase::Ended,
        });
    }

    /// A call on the board has become an operation of the engine.
    pub(crate) fn enlisted(
        &mut self,
        group: GroupKey,
        key: OpKey,
        call: &FlatCall,
        sequence: u64,
        submitted: Instant,
        deadline: Option<Instant>,
    ) {
        let facts = Facts::of_call(call, limit(submitted, deadline));
        self.enter(group, key, facts, sequence, submitted);
    }

    /// What is known of a call before the engine takes it.
    pub(crate) fn call(
        &self,
        group: GroupKey,
        begin: &Begin,
        mode: CallMode,
        engine: &Engine,
    ) -> Call {
        let facts = Facts::of(begin, mode);
        let (submitted, next) = match begin {
            Begin::Collective(call) => (call.submitted, Some(engine.next_seq(group, call.channel))),
            Begin::Send(call) | Begin::Recv(call) => (call.submitted, None),
        };
        Call { group, facts, submitted, next }
    }

    /// The engine has taken a call. Returns its number.
    pub(crate) fn begun(&mut self, key: OpKey, call: &Call, engine: &Engine) -> u64 {
        let sequence = match call.next {
            Some(next) => next,
            // One that has ended at once tells its number then.
            None => engine.sequence(key).unwrap_or_default(),
        };
        let channel = call.facts.channel;
        // In a group that is about to fail calls get no number any more, and the other ranks know nothing of them.
        let numbered = call.next.is_none_or(|next| engine.next_seq(call.group, channel) > next);
        if numbered {
            self.enter(call.group, key, call.facts, sequence, call.submitted);
        }
        sequence
    }

    fn enter(
        &mut self,
        group: GroupKey,
        key: OpKey,
        facts: Facts,
        sequence: u64,
        submitted: Instant,
    ) {
        let Some(recorder) = self.groups.get_mut(group.index()) else { return };
        let slot = recorder.push(Slot {
            facts,
            id: 0,
            sequence,
            count: 1,
            created: Some(submitted),
            ended: None,
            phase: Phase::Running,
        });
        if self.open.len() <= key.index() {
            self.open.resize(key.index() + 1, None);
        }
        let id = recorder.made - 1;
        self.open[key.index()] = Some(Open { group, key, slot, id, submitted });
    }

    /// An operation of the engine has ended. Returns how long it took.
    pub(crate) fn ended(&mut self, finished: &Finished, now: Instant) -> Duration {
        let open = self.open.get_mut(finished.key.index()).and_then(Option::take);
        let Some(open) = open.filter(|open| open.key == finished.key) else {
            return Duration::ZERO;
        };
        let took = now.saturating_duration_since(open.submitted);
        let recorder = self.groups.get_mut(open.group.index());
        let slot = recorder.and_then(|recorder| recorder.slots.get_mut(open.slot));
        // A long one may have outlived its entry.
        if let Some(slot) = slot.filter(|slot| slot.id == open.id) {
            slot.sequence = finished.seq;
            slot.ended = Some(now);
            slot.phase = if finished.result.is_ok() { Phase::Ended } else { Phase::Failed };
        }
        took
    }

    /// What is recorded of a group.
    pub(crate) fn take(&mut self, group: GroupKey, engine: &Engine) -> Raw {
        let Some(recorder) = self.groups.get_mut(group.index()) else {
            return Raw::default();
        };
        recorder.close_run();
        let (newest, oldest) = recorder.slots.split_at(recorder.next.min(recorder.slots.len()));
        let open = self.open.iter().flatten();
        Raw {
            slots: oldest.iter().chain(newest).copied().collect(),
            queued: open
                .filter(|open| open.group == group && engine.is_queued(open.key))
                .map(|open| open.id)
                .collect(),
            capacity: recorder.capacity,
            taken: Some(Instant::now()),
            failure: engine.failure(group).map(|report| expand::why(&report)),
        }
    }

    /// Takes the records of groups that have failed since the last time, where a record is to be written then; returns
    /// whose they are.
    pub(crate) fn take_failed(&mut self, engine: &Engine, failed: &mut Vec<Arc<Who>>) {
        for at in 0..self.groups.len() {
            let recorder = &mut self.groups[at];
            if recorder.failed || !engine.has_failed(recorder.key) {
                continue;
            }
            recorder.failed = true;
            let (key, who) = (recorder.key, recorder.who.clone());
            if who.dump.is_wanted() {
                who.dump.put(self.take(key, engine));
                failed.push(who);
            }
        }
    }
}

/// What of a call's name an operation's record says.
fn operation(facts: &Facts) -> Option<Operation> {
    Operation::from_code(facts.operation)
}

#[cfg(test)]
mod tests;
