//! Engines, the links between them, and a seeded hand that decides what happens next.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use allhands_engine::{
    Config, Engine, Finished, GroupKey, GroupSpec, Loans, Looked, OpKey, PointSubmission, Pull,
    Refused, ShortMessage, Submission,
};
use allhands_plan::{Buffer, Op};
use allhands_wire::{Address, Fingerprint, HEADER_LEN, Header, Message, Peer};
use smallvec::SmallVec;

use crate::rng::Rng;
use crate::rogue::Meddler;

/// The small windows that force every path of credit.
pub fn tiny() -> Config {
    Config {
        frame_payload: 256,
        eager_window: 2048,
        eager_per_operation: 192,
        loan_min: 1,
        ..Config::DEFAULT
    }
}

/// How links behave in one run.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Bytes that fit into a link.
    pub capacity: usize,
    /// Most bytes that a link takes or hands over at once.
    pub burst: usize,
    /// Fewest bytes that it takes or hands over if it can: 1 cuts everywhere.
    pub grain: usize,
    /// Percentage of links that are slow at any time.
    pub slow: usize,
    /// How long a control message takes.
    pub control_delay: Duration,
    /// How much time passes with each event.
    pub tick: Duration,
}

impl Weather {
    pub const CALM: Self = Self {
        capacity: 1 << 20,
        burst: 1 << 20,
        grain: 1,
        slow: 0,
        control_delay: Duration::from_micros(200),
        tick: Duration::from_nanos(200),
    };

    pub fn random(rng: &mut Rng) -> Self {
        Self {
            capacity: rng.size(1 << 18).max(256),
            burst: rng.size(1 << 20).max(64),
            grain: if rng.chance(30) { 1 } else { rng.size(1 << 14) },
            slow: rng.below(80),
            control_delay: Duration::from_micros(rng.below(2000) as u64),
            tick: Duration::from_nanos(rng.below(300) as u64),
        }
    }
}

/// A control frame and when it arrives.
type Late = (Duration, Vec<u8>);

/// One end of what happens next.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// The link takes bytes.
    Flush(usize, usize),
    /// Bytes arrive.
    Deliver(usize, usize),
    Control(usize, usize),
    Pull(usize),
    /// A rank makes the call at this place of its list.
    Call(usize, usize),
}

/// What a rank may do at some time.
pub struct Planned {
    pub call: Call,
    /// Calls of this rank, by their places, that must have ended before.
    pub after: Vec<usize>,
    pub outcome: Option<Finished>,
    /// The bytes of a short message that went without an operation.
    pub short: Option<Vec<u8>>,
    pub refused: Option<Box<Refused>>,
}

impl Planned {
    fn ended(&self) -> bool {
        self.outcome.is_some() || self.refused.is_some() || self.short.is_some()
    }
}

pub enum Call {
    Collective(GroupKey, Box<Submission>),
    Send(GroupKey, PointSubmission),
    Recv(GroupKey, PointSubmission),
    Made,
}

/// Sends or receives a message without an operation, if that can be done now. Returns its bytes.
fn short(engine: &mut Engine, call: &Call) -> Option<Vec<u8>> {
    let message = |call: &PointSubmission| ShortMessage {
        peer: call.peer,
        tag: call.tag,
        fingerprint: call.fingerprint,
    };
    match call {
        Call::Send(group, call) => {
            let bytes = call.buffer.run(0, usize::MAX);
            engine.send_short(*group, &message(call), bytes)?;
            Some(bytes.to_vec())
        }
        Call::Recv(group, call) => {
            engine.short_source(*group, call.peer)?;
            let mut bytes = call.buffer.run(0, usize::MAX).to_vec();
            let looked = engine.recv_short(*group, &message(call), &mut bytes);
            matches!(looked, Looked::Taken(_)).then_some(bytes)
        }
        Call::Collective(..) | Call::Made => None,
    }
}

pub struct World {
    pub rng: Rng,
    pub seed: u64,
    pub config: Config,
    pub weather: Weather,
    pub engines: Vec<Engine>,
    pub base: Instant,
    pub elapsed: Duration,
    /// Bytes under way, by source and destination.
    pub pipes: Vec<Vec<VecDeque<u8>>>,
    /// The link would take more.
    wants: Vec<Vec<bool>>,
    slow: Vec<bool>,
    pub controls: Vec<Vec<VecDeque<Late>>>,
    pub calls: Vec<Vec<Planned>>,
    /// Calls not yet made, by rank: those of one order are made one after the other.
    queues: Vec<Vec<(u64, VecDeque<usize>)>>,
    running: Vec<HashMap<OpKey, usize>>,
    /// Bytes that the running collectives receive, by rank.
    receiving: Vec<HashMap<OpKey, usize>>,
    /// Lent memory: segment to owner, operation and where its data begins.
    segments: BTreeMap<u64, (usize, OpKey, u64)>,
    pulls: Vec<VecDeque<Pulling>>,
    /// Ranks that make no move at all.
    pub dead: Vec<bool>,
    /// Connections that are cut, by source and destination: nothing more is delivered.
    pub cut: Vec<Vec<bool>>,
    pub events: u64,
    /// Bytes that links read straight to where they belong.
    pub direct: usize,
    pub loans: usize,
    /// Percentage of messages that are tried without an operation first.
    pub shorts: usize,
    held: Vec<bool>,
    held_orders: Vec<(usize, u64)>,
    called: Vec<Vec<Fingerprint>>,
    /// Changes what one rank sends, by destination.
    meddlers: Vec<Meddler>,
    rogue: Option<usize>,
    /// The latest group's keys, in rank order.
    pub keys: Vec<GroupKey>,
}

/// Bytes that a rank receives in a collective.
fn received(submission: &Submission) -> usize {
    let plan = submission.plan.plan();
    let steps = plan.lanes().iter().flat_map(|lane| plan.steps(lane));
    let elements: u64 = steps
        .map(|step| match &step.op {
            Op::Recv { parts } | Op::RecvReduce { parts, .. } => {
                plan.parts(parts).iter().map(|part| part.span.len).sum()
            }
            _ => 0,
        })
        .sum();
    elements as usize * submission.element_size
}

struct Pulling {
    pull: Pull,
    seen: Vec<u8>,
    done: usize,
}

impl World {
    pub fn new(world: usize, config: Config, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let weather = Weather::random(&mut rng);
        let base = Instant::now();
        let engine = |me| Engine::new(Peer(me as u32), world as u32, config, base);
        Self {
            rng,
            seed,
            config: config.sound(),
            weather,
            engines: (0..world).map(engine).collect(),
            base,
            elapsed: Duration::ZERO,
            pipes: vec![vec![VecDeque::new(); world]; world],
            wants: vec![vec![false; world]; world],
            slow: vec![false; world * world],
            controls: vec![vec![VecDeque::new(); world]; world],
            calls: (0..world).map(|_| Vec::new()).collect(),
            queues: vec![Vec::new(); world],
            running: vec![HashMap::new(); world],
            receiving: vec![HashMap::new(); world],
            segments: BTreeMap::new(),
            pulls: (0..world).map(|_| VecDeque::new()).collect(),
            dead: vec![false; world],
            cut: vec![vec![false; world]; world],
            events: 0,
            direct: 0,
            loans: 0,
            shorts: 0,
            held: vec![false; world],
            held_orders: Vec::new(),
            called: vec![Vec::new(); world],
            meddlers: (0..world).map(|_| Meddler::default()).collect(),
            rogue: None,
            keys: Vec::new(),
        }
    }

    pub fn size(&self) -> usize {
        self.engines.len()
    }

    pub fn now(&self) -> Instant {
        self.base + self.elapsed
    }

    /// A group of some, on each of them; the keys in rank order.
    pub fn group(&mut self, id: u32, members: &[u32]) -> Vec<GroupKey> {
        let spec = GroupSpec { id, epoch: 3, members: members.iter().copied().map(Peer).collect() };
        let add = |&m: &u32| self.engines[m as usize].add_group(spec.clone()).unwrap();
        self.keys = members.iter().map(add).collect();
        self.keys.clone()
    }

    /// Lets everybody read everybody's memory.
    pub fn lend_everywhere(&mut self) {
        for engine in &mut self.engines {
            for peer in 0..self.pipes.len() as u32 {
                engine.set_loans(Peer(peer), Loans::Accepted);
            }
        }
    }

    /// Plans a call of a rank; returns its place in the rank's list.
    pub fn plan(&mut self, rank: usize, order: u64, call: Call) -> usize {
        let (outcome, short, refused) = (None, None, None);
        self.calls[rank].push(Planned { call, after: Vec::new(), outcome, short, refused });
        let place = self.calls[rank].len() - 1;
        match self.queues[rank].iter_mut().find(|(known, _)| *known == order) {
            Some((_, queue)) => queue.push_back(place),
            None => self.queues[rank].push((order, VecDeque::from([place]))),
        }
        place
    }

    fn candidates(&self) -> Vec<Event> {
        let mut events = Vec::new();
        let world = self.size();
        for from in 0..world {
            if self.dead[from] {
                continue;
            }
            for to in 0..world {
                let room = self.pipes[from][to].len() < self.weather.capacity;
                if self.wants[from][to] && room && !self.cut[from][to] {
                    events.push(Event::Flush(from, to));
                }
                if self.dead[to] {
                    continue;
                }
                if !self.pipes[from][to].is_empty() && !self.cut[from][to] {
                    events.push(Event::Deliver(from, to));
                }
                let due =
                    self.controls[from][to].front().is_some_and(|(at, _)| *at <= self.elapsed);
                if due && !self.cut[from][to] {
                    events.push(Event::Control(from, to));
                }
            }
            if !self.pulls[from].is_empty() {
                events.push(Event::Pull(from));
            }
            for (order, queue) in &self.queues[from] {
                let held = self.held[from] || self.held_orders.contains(&(from, *order));
                let Some(&place) = queue.front().filter(|_| !held) else { continue };
                let calls = &self.calls[from];
                if calls[place].after.iter().all(|&at| calls[at].ended()) {
                    events.push(Event::Call(from, place));
                }
            }
        }
        events
    }

    /// Takes what engines have to say: dirty links, control messages, pulls, outcomes.
    fn collect(&mut self, rank: usize) {
        let engine = &mut self.engines[rank];
        while let Some(peer) = engine.poll_dirty() {
            self.wants[rank][peer.index()] = true;
        }
        while let Some((peer, out)) = engine.poll_control() {
            let frame = out.message.encode(out.address);
            let due = self.elapsed + self.weather.control_delay;
            self.controls[rank][peer.index()].push_back((due, frame.as_bytes().to_vec()));
        }
        while let Some(pull) = engine.poll_pull() {
            self.pulls[rank].push_back(Pulling { pull, seen: Vec::new(), done: 0 });
        }
        while let Some(finished) = engine.poll_finished() {
            let place = self.running[rank]
                .remove(&finished.key)
                .unwrap_or_else(|| panic!("rank {rank} ended what it never began: {finished:?}"));
            self.receiving[rank].remove(&finished.key);
            self.calls[rank][place].outcome = Some(finished);
        }
    }

    fn collect_all(&mut self) {
        for rank in 0..self.size() {
            self.collect(rank);
        }
    }

    /// What may happen next happens, once. Returns whether anything did.
    pub fn step(&mut self) -> bool {
        if self.events.is_multiple_of(64) {
            let percent = self.weather.slow;
            for at in 0..self.slow.len() {
                self.slow[at] = self.rng.chance(percent);
            }
        }
        let events = self.candidates();
        if events.is_empty() {
            return false;
        }
        self.events += 1;
        if self.events.is_multiple_of(256) {
            self.check_bounds();
        }
        let world = self.size();
        let mut event = *self.rng.pick(&events);
        for _ in 0..8 {
            let slow = match event {
                Event::Flush(from, to) | Event::Deliver(from, to) | Event::Control(from, to) => {
                    self.slow[from * world + to]
                }
                Event::Pull(rank) | Event::Call(rank, _) => self.slow[rank * world + rank],
            };
            if !slow {
                break;
            }
            event = *self.rng.pick(&events);
        }
        let rank = match event {
            Event::Flush(from, to) => {
                self.flush(from, to);
                from
            }
            Event::Deliver(from, to) => {
                self.deliver(from, to);
                to
            }
            Event::Control(from, to) => {
                self.control(from, to);
                to
            }
            Event::Pull(rank) => {
                self.pull(rank);
                rank
            }
            Event::Call(rank, place) => {
                self.call(rank, place);
                rank
            }
        };
        self.elapsed += self.weather.tick;
        let now = self.now();
        self.engines[rank].handle_time(now);
        self.collect(rank);
        true
    }

    /// What must hold at any time.
    pub fn check_bounds(&self) {
        for (engine, receiving) in self.engines.iter().zip(&self.receiving) {
            let now = engine.footprint();
            let most = self.config.eager_window;
            let pools = [now.pool, now.point_pool, now.window, now.point_window];
            assert!(
                pools.iter().all(|pool| *pool <= most),
                "seed {}: {now:?} over {most}",
                self.seed
            );
            let held = receiving.values().sum::<usize>() + 2 * most * (self.size() - 1);
            assert!(now.held <= held, "seed {}: {now:?} holds over {held}", self.seed);
        }
    }

    /// As a link writes: once, perhaps not everything.
    fn flush(&mut self, from: usize, to: usize) {
        let room = self.weather.capacity.saturating_sub(self.pipes[from][to].len());
        let most = room.min(self.weather.burst);
        let mut taken = self.rng.size(most).max(self.weather.grain).min(most);
        let mut slices = SmallVec::new();
        self.engines[from].outgoing(Peer(to as u32), &mut slices);
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        assert!(slices.iter().all(|slice| !slice.is_empty()), "an empty slice is offered");
        taken = taken.min(total);
        let bytes: Vec<u8> =
            slices.iter().flat_map(|slice| slice.iter().copied()).take(taken).collect();
        drop(slices);
        if self.rogue == Some(from) {
            self.pipes[from][to].extend(self.meddlers[to].meddle(&mut self.rng, &bytes));
        } else {
            self.pipes[from][to].extend(bytes);
        }
        if total == 0 {
            self.wants[from][to] = false;
        } else {
            self.engines[from].sent(Peer(to as u32), taken);
        }
    }

    /// As a link reads: into the window if there is one, with what is left over through staging.
    fn deliver(&mut self, from: usize, to: usize) {
        let peer = Peer(from as u32);
        let pipe = &mut self.pipes[from][to];
        let most = pipe.len().min(self.weather.burst);
        let mut bytes = self.rng.size(most).max(self.weather.grain).min(most);
        let engine = &mut self.engines[to];
        if self.rng.chance(70) {
            let window = engine.window(peer);
            let direct = bytes.min(window.len());
            if direct > 0 {
                let whole = direct == window.len();
                for (place, byte) in window[..direct].iter_mut().zip(pipe.drain(..direct)) {
                    *place = byte;
                }
                engine.filled(peer, direct);
                self.direct += direct;
                bytes -= direct;
                if !whole {
                    bytes = 0;
                }
            }
        }
        let staged: Vec<u8> = pipe.drain(..bytes).collect();
        let mut rest = staged.as_slice();
        while !rest.is_empty() {
            let n = if self.rng.chance(50) { rest.len() } else { self.rng.size(rest.len()) };
            engine.handle(peer, &rest[..n]);
            rest = &rest[n..];
        }
    }

    fn control(&mut self, from: usize, to: usize) {
        let Some((_, bytes)) = self.controls[from][to].pop_front() else { return };
        let header: [u8; HEADER_LEN] = bytes[..HEADER_LEN].try_into().unwrap();
        let header = Header::decode(&header).unwrap();
        let payload = &bytes[HEADER_LEN..HEADER_LEN + header.payload_len as usize];
        let message = Message::decode(&header, payload).unwrap();
        self.engines[to].handle_control(Peer(from as u32), &header, &message);
    }

    fn call(&mut self, rank: usize, place: usize) {
        let now = self.now();
        for (_, queue) in &mut self.queues[rank] {
            if queue.front() == Some(&place) {
                queue.pop_front();
            }
        }
        let tries = self.shorts > 0 && self.rng.chance(self.shorts);
        let planned = &mut self.calls[rank][place];
        let engine = &mut self.engines[rank];
        if tries && let Some(bytes) = short(engine, &planned.call) {
            (planned.call, planned.short) = (Call::Made, Some(bytes));
            return;
        }
        let mut segment = None;
        let mut receives = 0;
        let taken = match std::mem::replace(&mut planned.call, Call::Made) {
            Call::Collective(group, mut submission) => {
                submission.submitted = now;
                receives = received(&submission);
                self.called[rank].push(submission.fingerprint);
                if let Some(deadline) = &mut submission.deadline {
                    *deadline += self.elapsed;
                }
                segment = submission.loan.map(|loan| (loan.segment, loan.data.unwrap_or(0)));
                engine.submit(group, *submission)
            }
            Call::Send(group, submission) => {
                engine.submit_send(group, PointSubmission { submitted: now, ..submission })
            }
            Call::Recv(group, submission) => {
                engine.submit_recv(group, PointSubmission { submitted: now, ..submission })
            }
            Call::Made => panic!("call {place} of rank {rank} is made twice"),
        };
        match taken {
            Ok(key) => {
                self.running[rank].insert(key, place);
                self.receiving[rank].insert(key, receives);
                if let Some((segment, data)) = segment {
                    self.segments.insert(segment, (rank, key, data));
                }
            }
            Err(refused) => planned.refused = Some(refused),
        }
    }

    /// Reads a piece of lent memory; what was read before must still be there.
    fn pull(&mut self, rank: usize) {
        let at = self.rng.below(self.pulls[rank].len());
        let Some(mut pulling) = self.pulls[rank].swap_remove_back(at) else { return };
        let loan = pulling.pull.loan;
        let Some(&(owner, key, data)) = self.segments.get(&loan.segment) else {
            return self.engines[rank].handle_garbled(pulling.pull.peer, "a loan of no segment");
        };
        let (buffer, offset) = match loan.offset.checked_sub(data) {
            Some(offset) => (Buffer::Data, offset),
            None => (Buffer::Input, loan.offset),
        };
        // After a failure the owner has its memory back, and nobody reads it.
        let Some(space) = self.engines[owner].memory(key, buffer) else { return };
        let len = loan.len as usize;
        if (offset as usize).checked_add(len).is_none_or(|end| end > space.len()) {
            return self.engines[rank]
                .handle_garbled(pulling.pull.peer, "a loan beyond its segment");
        }
        let now: Vec<u8> = (0..len).map(|at| space.run(offset as usize + at, 1)[0]).collect();
        if pulling.seen.is_empty() {
            self.loans += 1;
            pulling.seen = now;
        } else {
            let same = pulling.seen == now || self.rogue.is_some();
            assert!(same, "lent memory changed before it came back, seed {}", self.seed);
        }
        let step = self.rng.size(len.max(1)).min(len - pulling.done);
        let chunk = &pulling.seen[pulling.done..pulling.done + step];
        self.engines[rank].handle_pulled(&pulling.pull, chunk);
        pulling.done += step;
        if pulling.done < len {
            self.pulls[rank].push_back(pulling);
        }
    }

    /// Whether every call was made and has ended.
    pub fn finished(&self) -> bool {
        self.calls
            .iter()
            .zip(&self.dead)
            .all(|(calls, dead)| *dead || calls.iter().all(Planned::ended))
    }

    /// Everybody.
    pub fn all(&self) -> Vec<u32> {
        (0..self.size() as u32).collect()
    }

    /// Runs until everything has ended. Nothing may depend on time passing.
    pub fn run(&mut self) {
        self.collect_all();
        while self.step() {}
        if !self.finished() {
            let mut stuck = String::new();
            for engine in &self.engines {
                stuck += &format!("{:?}\n", engine.footprint());
            }
            for (rank, calls) in self.calls.iter().enumerate() {
                for (place, call) in calls.iter().enumerate() {
                    if !call.ended() {
                        let made = matches!(call.call, Call::Made);
                        stuck += &format!("rank {rank} call {place} made {made}\n");
                    }
                }
            }
            panic!("seed {}: nothing can move, and these have not ended:\n{stuck}", self.seed);
        }
    }

    /// Whether the latest group has failed on every rank.
    pub fn failed(&self) -> bool {
        let mut ranks = self.engines.iter().zip(&self.keys).zip(&self.dead);
        ranks.all(|((engine, key), dead)| *dead || engine.failure(*key).is_some())
    }

    /// Lets time pass, with everything that happens in it, until `done` or `until`.
    pub fn run_while(&mut self, until: Duration, done: impl Fn(&Self) -> bool) {
        loop {
            self.collect_all();
            while self.step() {}
            if done(self) || self.elapsed >= until {
                return;
            }
            let due = self.engines.iter().zip(&self.dead).filter(|(_, dead)| !**dead);
            let due = due.filter_map(|(engine, _)| engine.next_deadline()).min();
            let mut next = due.map_or(until, |at| at.saturating_duration_since(self.base));
            for queue in self.controls.iter().flatten() {
                if let Some((at, _)) = queue.front()
                    && *at > self.elapsed
                {
                    next = next.min(*at);
                }
            }
            self.elapsed = next.max(self.elapsed + Duration::from_micros(1)).min(until);
            let now = self.now();
            for (engine, dead) in self.engines.iter_mut().zip(&self.dead) {
                if !dead {
                    engine.handle_time(now);
                }
            }
        }
    }

    /// Lets time pass until all calls have ended.
    pub fn run_until(&mut self, until: Duration) {
        self.run_while(until, Self::finished);
    }

    /// Lets time pass until all calls have ended and the latest group has failed everywhere.
    pub fn run_to_failure(&mut self, until: Duration) {
        self.run_while(until, |here| here.finished() && here.failed());
    }
}

/// Ranks that come late, and ranks that leave.
impl World {
    /// A rank makes no call until it is released.
    pub fn hold(&mut self, rank: usize) {
        self.held[rank] = true;
    }

    pub fn release(&mut self, rank: usize) {
        self.held[rank] = false;
    }

    /// A rank makes no call of one order until all are released.
    pub fn hold_order(&mut self, rank: usize, order: u64) {
        self.held_orders.push((rank, order));
    }

    pub fn release_orders(&mut self) {
        self.held_orders.clear();
    }

    /// Runs until nothing can move; some calls may be left.
    pub fn run_ready(&mut self) {
        self.collect_all();
        while self.step() {}
    }

    /// A rank says goodbye and closes its connections when all it sent has come.
    pub fn leave(&mut self, rank: usize) {
        self.engines[rank].leave();
        let on_its_way = |here: &Self| {
            here.pipes[rank].iter().all(VecDeque::is_empty)
                && here.controls[rank].iter().all(VecDeque::is_empty)
        };
        self.run_while(self.elapsed + Duration::from_secs(1), on_its_way);
        self.end_connections(rank, "the peer closed the connection");
    }

    /// A process is gone: what it wrote last may be lost, the others see its connections end.
    pub fn kill(&mut self, rank: usize) {
        for pipes in &mut self.pipes[rank] {
            pipes.clear();
        }
        self.end_connections(rank, "the peer reset the connection");
    }

    fn end_connections(&mut self, rank: usize, why: &str) {
        self.dead[rank] = true;
        let peer = Peer(rank as u32);
        for other in (0..self.size()).filter(|other| *other != rank) {
            self.engines[other].handle_closed(peer, why);
            while !self.controls[rank][other].is_empty() {
                self.control(rank, other);
            }
            self.engines[other].handle_control_closed(peer, why);
        }
    }

    /// A rank forgets the last call that it has planned.
    pub fn drop_last_call(&mut self, rank: usize) {
        let last = self.calls[rank].len() - 1;
        self.calls[rank].pop();
        for (_, queue) in &mut self.queues[rank] {
            queue.retain(|place| *place != last);
        }
    }

    /// A rank forgets all calls that it has not made.
    pub fn clear_calls(&mut self, rank: usize) {
        self.queues[rank].clear();
        let made = |planned: &Planned| matches!(planned.call, Call::Made);
        assert!(!self.calls[rank].iter().any(made), "calls are named by their places");
        self.calls[rank].clear();
    }

    /// From now on everything that `rank` sends is meddled with.
    pub fn meddle_with(&mut self, rank: usize) {
        self.rogue = Some(rank);
    }

    /// A control message that the sender's engine knows nothing of.
    pub fn tell(&mut self, from: usize, to: usize, address: Address, message: &Message) {
        let frame = message.encode(address).as_bytes().to_vec();
        self.controls[from][to].push_back((self.elapsed + self.weather.control_delay, frame));
    }

    /// Fingerprints of what a rank has called.
    pub fn fingerprints(&self, rank: usize) -> Vec<Fingerprint> {
        self.called[rank].clone()
    }

    /// Drops all calls, which have ended.
    pub fn forget_calls(&mut self) {
        assert!(self.finished());
        self.calls.iter_mut().for_each(Vec::clear);
        self.segments.clear();
    }
}
