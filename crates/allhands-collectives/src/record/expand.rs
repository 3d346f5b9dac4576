//! From entries as they are recorded to a record as it is read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use allhands_plan::{Algorithm, Rank};
use allhands_record::{
    Clock, Details, Entry, FlightRecord, GroupConfig, GroupStatus, Origin, State, WORLD_DESCRIPTION,
};
use allhands_tensor::DType;
use allhands_wire::Report;

use super::{Facts, Part, Phase, Slot, operation};
use crate::error::Who;
use crate::operation::{Operation, reduction_name};

/// What a recorder held at a moment.
#[derive(Debug, Default)]
pub(crate) struct Raw {
    /// Oldest first.
    pub(super) slots: Vec<Slot>,
    /// Numbers in the record of operations that wait for others before them.
    pub(super) queued: Vec<u64>,
    pub(super) capacity: usize,
    pub(super) taken: Option<Instant>,
    pub(super) failure: Option<String>,
}

/// Why a group failed, in one line.
pub(super) fn why(report: &Report) -> String {
    let mut why = format!("{} of {}", report.cause, report.culprits);
    if !report.text.is_empty() {
        why.push_str(&format!(": {}", report.text));
    }
    why
}

/// One operation, out of a run or not.
#[derive(Clone, Copy)]
struct One<'a> {
    slot: &'a Slot,
    id: u64,
    sequence: u64,
    created: Option<Instant>,
    ended: Option<Instant>,
    clock: Clock,
}

/// Both clocks at one moment: what turns one's times into the other's.
#[derive(Clone, Copy)]
struct Wall {
    at: Instant,
    ns: u64,
}

impl Wall {
    #[expect(
        clippy::disallowed_methods,
        reason = "records of several machines are compared; nothing waits for this clock"
    )]
    fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { at: Instant::now(), ns: nanos(since) }
    }

    fn time(self, at: Instant) -> u64 {
        match at.checked_duration_since(self.at) {
            Some(later) => self.ns.saturating_add(nanos(later)),
            None => self.ns.saturating_sub(nanos(self.at.duration_since(at))),
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Raw {
    /// The record of the group that `who` is about.
    pub(crate) fn expand(&self, who: &Who) -> FlightRecord {
        let wall = Wall::now();
        let taken = self.taken.unwrap_or(wall.at);
        let mut record = FlightRecord::new(Origin {
            group: who.group.clone(),
            rank: who.dump.me.0,
            world_size: who.dump.world,
            taken_ns: wall.time(taken),
            failure: self.failure.clone(),
        });
        let mut groups = Groups { who, numbers: BTreeMap::new() };
        // The group itself is there although nothing may have been called.
        groups.enter(&mut record, 0, Part::Collective);
        for one in self.unrolled(taken) {
            let group = groups.enter(&mut record, one.slot.facts.channel, one.slot.facts.part);
            let entry = self.entry(&one, wall, group, who);
            if let Some(status) = record.pg_status.get_mut(&entry.pg_id.to_string()) {
                follow(status, &entry);
            }
            record.entries.push(entry);
        }
        record
    }

    /// The last operations, each by itself, with a time.
    fn unrolled(&self, taken: Instant) -> Vec<One<'_>> {
        let mut ones = Vec::with_capacity(self.capacity.min(self.slots.len() * 2));
        for slot in self.slots.iter().rev() {
            for at in (0..slot.count).rev() {
                if ones.len() == self.capacity {
                    break;
                }
                let first = at == 0;
                ones.push(One {
                    slot,
                    id: slot.id + at,
                    sequence: slot.sequence + at,
                    created: slot.created.filter(|_| first),
                    ended: slot.ended.filter(|_| first),
                    clock: Clock::Read,
                });
            }
        }
        ones.reverse();
        estimate(&mut ones, taken);
        ones
    }

    fn entry(&self, one: &One<'_>, wall: Wall, group: Group, who: &Who) -> Entry {
        let facts = &one.slot.facts;
        let state = match one.slot.phase {
            Phase::Ended => State::Completed,
            Phase::Running if self.queued.contains(&one.id) => State::Scheduled,
            Phase::Running | Phase::Failed => State::Started,
        };
        let ended = one.ended.filter(|_| one.slot.phase == Phase::Ended);
        let created = one.created.or(one.ended).unwrap_or(wall.at);
        let begun = (state != State::Scheduled).then(|| wall.time(created));
        let took = one.created.zip(ended).map(|(from, to)| to.saturating_duration_since(from));
        let sizes = Sizes::of(facts, who);
        let is_p2p = facts.part != Part::Collective;
        Entry {
            record_id: one.id,
            pg_id: group.number,
            process_group: (group.name, group.description),
            collective_seq_id: one.sequence,
            p2p_seq_id: if is_p2p { one.sequence } else { 0 },
            op_id: one.id,
            profiling_name: format!("c10d:{}", name(facts, who)),
            time_created_ns: wall.time(created),
            input_sizes: vec![sizes.input],
            input_dtypes: sizes.dtypes.clone(),
            output_sizes: vec![sizes.output],
            output_dtypes: sizes.dtypes,
            state,
            time_discovered_started_ns: begun,
            time_discovered_completed_ns: ended.map(|ended| wall.time(ended)),
            duration_ms: took.map(|took| took.as_secs_f64() * 1e3),
            retired: one.slot.phase != Phase::Running,
            timeout_ms: i64::try_from(facts.timeout.as_millis()).unwrap_or(i64::MAX) as u64,
            is_p2p,
            frames: Vec::new(),
            allhands: Details {
                channel: facts.channel,
                algorithm: Algorithm::from_id(facts.algorithm).map(|found| found.name().to_owned()),
                reduction: reduction_name(facts.reduction).map(str::to_owned),
                root: facts.root,
                peer: match facts.part {
                    Part::Send(peer, _) | Part::Recv(peer, _) => Some(peer.0),
                    Part::Collective => None,
                },
                tag: match facts.part {
                    Part::Send(_, tag) | Part::Recv(_, tag) => Some(tag),
                    Part::Collective => None,
                },
                label: facts.label.as_str().to_owned(),
                input_elements: sizes.input_elements,
                output_elements: sizes.output_elements,
                mode: facts.mode,
                clock: one.clock,
                failed: one.slot.phase == Phase::Failed,
            },
        }
    }
}

/// Gives a time to operations that have none, spread evenly between those around them.
fn estimate(ones: &mut [One<'_>], taken: Instant) {
    let known = |one: &One<'_>| one.ended.or(one.created);
    let mut at = 0;
    while at < ones.len() {
        if known(&ones[at]).is_some() {
            at += 1;
            continue;
        }
        let len = ones[at..].iter().take_while(|one| known(one).is_none()).count();
        let after = ones.get(at + len).and_then(|one| one.created.or(one.ended)).unwrap_or(taken);
        let before = at.checked_sub(1).and_then(|last| known(&ones[last])).unwrap_or(after);
        let gap = after.saturating_duration_since(before);
        for (step, one) in ones[at..at + len].iter_mut().enumerate() {
            let part = (step + 1) as f64 / (len + 1) as f64;
            one.ended = Some(before + gap.mul_f64(part));
            one.clock = Clock::Estimated;
        }
        at += len;
    }
}

fn follow(status: &mut GroupStatus, entry: &Entry) {
    let seq = i64::try_from(entry.collective_seq_id).unwrap_or(i64::MAX);
    let reach = |last: &mut i64| *last = (*last).max(seq);
    reach(&mut status.last_enqueued_collective);
    if entry.state != State::Scheduled {
        reach(&mut status.last_started_collective);
    }
    if entry.state == State::Completed {
        reach(&mut status.last_completed_collective);
    }
}

/// A group as the analyser sees it: operations with numbers of their own.
struct Group {
    number: u64,
    name: String,
    description: String,
}

struct Groups<'a> {
    who: &'a Who,
    numbers: BTreeMap<String, u64>,
}

impl Groups<'_> {
    /// The group of operations on a channel, or of messages in one direction between two ranks.
    fn enter(&mut self, record: &mut FlightRecord, channel: u32, part: Part) -> Group {
        let who = self.who;
        let whole = who.members.len() as u32 == who.dump.world;
        let position = |rank: Rank| who.members.get(rank.index()).map_or(rank.0, |peer| peer.0);
        let everybody = || who.members.iter().map(|peer| peer.0).collect();
        let between = |from: Rank, to: Rank| {
            let mut ranks = vec![position(from), position(to)];
            ranks.sort_unstable();
            let name = format!("{}/{}->{}", who.group, from.0, to.0);
            (name, format!("messages from rank {} to rank {}", from.0, to.0), ranks)
        };
        let (name, description, ranks) = match (part, channel) {
            (Part::Collective, 0) if whole => {
                (who.group.clone(), WORLD_DESCRIPTION.to_owned(), everybody())
            }
            (Part::Collective, 0) => (who.group.clone(), who.group.clone(), everybody()),
            (Part::Collective, channel) => {
                let name = format!("{}/channel-{channel}", who.group);
                (name, format!("channel {channel}"), everybody())
            }
            (Part::Send(to, _), _) => between(who.rank, to),
            (Part::Recv(from, _), _) => between(from, who.rank),
        };
        let next = self.numbers.len() as u64;
        let number = *self.numbers.entry(name.clone()).or_insert(next);
        if number == next {
            let config = GroupConfig::new(name.clone(), description.clone(), &ranks);
            record.pg_config.insert(name.clone(), config);
            record.pg_status.insert(number.to_string(), GroupStatus::default());
        }
        Group { number, name, description }
    }
}

/// The operation's name in torch. Ranks of a message count inside its group, which has two.
fn name(facts: &Facts, who: &Who) -> String {
    let uneven = if facts.uneven { "_v" } else { "" };
    let pair = |peer: Rank| if who.rank < peer { (0, 1) } else { (1, 0) };
    match (facts.part, operation(facts)) {
        (Part::Send(peer, _), _) => {
            let (me, peer) = pair(peer);
            format!("send {me}->{peer}")
        }
        (Part::Recv(peer, _), _) => {
            let (me, peer) = pair(peer);
            format!("recv {me}<-{peer}")
        }
        (_, Some(both @ (Operation::AllGather | Operation::ReduceScatter))) => {
            format!("{both}{uneven}")
        }
        // The analyser stops at a name that it does not know, and knows nothing of sparse tensors.
        (_, Some(Operation::AllReduceSparse | Operation::AllReduceSparseAt)) => {
            Operation::AllReduce.name().to_owned()
        }
        (_, Some(other)) => other.name().to_owned(),
        (_, None) => format!("operation_{}", facts.operation),
    }
}

/// Sizes as the analyser compares them between ranks, and as they are.
struct Sizes {
    input: Vec<u64>,
    output: Vec<u64>,
    dtypes: Vec<String>,
    input_elements: u64,
    output_elements: u64,
}

impl Sizes {
    fn of(facts: &Facts, who: &Who) -> Self {
        let world = (who.members.len() as u64).max(1);
        let (mut input, mut output) = (facts.input, facts.output);
        match operation(facts) {
            // What works in place has one buffer.
            Some(Operation::AllReduce | Operation::Broadcast | Operation::Reduce) => input = output,
            Some(Operation::AllGather) if input == 0 && !facts.uneven => input = output / world,
            _ => {}
        }
        let (input_elements, output_elements) = (input, output);
        let size = |elements: u64, side: Operation| match operation(facts) {
            Some(found) if facts.uneven && found == side => Vec::new(),
            // The steps of a sparse sum move what each rank has.
            Some(Operation::AllReduceSparse | Operation::AllReduceSparseAt) => Vec::new(),
            _ => vec![elements],
        };
        let dtypes = DType::from_code(facts.dtype).map(torch_name).map(str::to_owned);
        // The side of a message that is not here is as long as the other: the analyser compares both.
        if facts.part != Part::Collective {
            (input, output) = (input.max(output), input.max(output));
        }
        Self {
            input: size(input, Operation::AllGather),
            output: size(output, Operation::ReduceScatter),
            dtypes: dtypes.into_iter().collect(),
            input_elements,
            output_elements,
        }
    }
}

fn torch_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "Float",
        DType::F64 => "Double",
        DType::F16 => "Half",
        DType::BF16 => "BFloat16",
        DType::I8 => "Char",
        DType::U8 => "Byte",
        DType::I16 => "Short",
        DType::U16 => "UInt16",
        DType::I32 => "Int",
        DType::U32 => "UInt32",
        DType::I64 => "Long",
        DType::U64 => "UInt64",
        DType::Bool => "Bool",
    }
}
