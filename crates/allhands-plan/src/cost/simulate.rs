//! The event loop.

use std::cmp::Ordering;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use super::Hop;
use super::network::{Fabric, Network, Overlap};
use super::program::{Kind, Program};
use super::symmetry::Symmetry;
use crate::locality::Locality;
use crate::plan::Rank;

/// Where a message travels.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Network,
    /// Between ranks of one host, which have further ports for that.
    Inside,
}

/// A message on its way.
#[derive(Clone, Copy)]
struct Flight {
    src: u32,
    dst: u32,
    /// Whose message it is for the receiver: the sender, or its mirror image.
    from: u32,
    slot: u32,
    bytes: f64,
    /// Lane to tell when the message has left.
    lane: u32,
    /// Part of the uplinks that it occupies.
    share: f64,
    way: Way,
    /// When its last byte has passed the links so far.
    passed: f64,
    /// When its first byte is at the receiver.
    first: f64,
}

#[derive(Clone, Copy)]
enum Event {
    /// The first byte is at the receiver's switch.
    Head(u32),
    /// A port is free again.
    Port(u32),
    /// The last byte has left.
    Sent(u32),
    /// The last byte has arrived.
    Arrived(u32),
    /// A lane's local work is done.
    Worked { rank: u32, lane: u32 },
}

struct Timed {
    at: f64,
    number: u64,
    event: Event,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Timed {}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timed {
    /// The earliest is the greatest, so that the heap yields it first; then the one that came first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.total_cmp(&self.at).then(other.number.cmp(&self.number))
    }
}

#[derive(Clone, Copy, Default)]
struct Lane {
    done: u32,
    running: bool,
    /// Messages of the running step that are still to come or to leave.
    open: u32,
    /// When the running step's first byte came, and when the step began.
    first: f64,
    began: f64,
}

/// What is known about a message at its receiver.
#[derive(Clone, Copy)]
enum Place {
    /// A lane's running step waits for it.
    Awaited { lane: u32 },
    /// It stands before the receiver's port, because its receive is not active.
    Early { flight: u32 },
}

#[derive(Default)]
struct Port {
    queue: VecDeque<u32>,
    busy: bool,
    ingress_free: f64,
    processor_free: f64,
}

pub(super) struct Simulation<'a> {
    program: &'a Program,
    network: &'a Network,
    mirror: Option<(Symmetry, u32)>,
    /// Where the ranks are, if that matters.
    locality: Option<&'a Locality>,
    lanes: Vec<Lane>,
    ports: Vec<Port>,
    up_free: Vec<f64>,
    down_free: Vec<f64>,
    flights: Vec<Flight>,
    unused: Vec<u32>,
    places: HashMap<(u32, u32, u32), Place>,
    events: BinaryHeap<Timed>,
    number: u64,
    now: f64,
    /// Messages as they arrive, if anyone asks.
    log: Option<Vec<Hop>>,
}

impl<'a> Simulation<'a> {
    /// All ranks of a world.
    pub(super) fn new(program: &'a Program, network: &'a Network) -> Self {
        Self::with(program, network, None, None)
    }

    /// All ranks of a world that are placed on hosts.
    pub(super) fn placed(
        program: &'a Program,
        network: &'a Network,
        locality: &'a Locality,
    ) -> Self {
        Self::with(program, network, None, Some(locality))
    }

    /// One rank of `world`, which stands for all of them.
    pub(super) fn mirrored(
        program: &'a Program,
        network: &'a Network,
        world: u32,
        symmetry: Symmetry,
    ) -> Self {
        Self::with(program, network, Some((symmetry, world)), None)
    }

    fn with(
        program: &'a Program,
        network: &'a Network,
        mirror: Option<(Symmetry, u32)>,
        locality: Option<&'a Locality>,
    ) -> Self {
        let switches = match network.fabric {
            Fabric::FatTree { ranks_per_switch, .. } => {
                program.ranks.len().div_ceil(ranks_per_switch.max(1) as usize)
            }
            Fabric::Hosts { .. } => locality.map_or(0, |locality| locality.hosts() as usize),
            Fabric::FullBisection => 0,
        };
        // Those to the network, then those inside hosts.
        let ports = program.ranks.len() * if locality.is_some() { 2 } else { 1 };
        Self {
            program,
            network,
            mirror,
            locality,
            lanes: vec![Lane::default(); program.lanes.len()],
            ports: (0..ports).map(|_| Port::default()).collect(),
            up_free: vec![0.0; switches],
            down_free: vec![0.0; switches],
            flights: Vec::new(),
            unused: Vec::new(),
            places: HashMap::new(),
            events: BinaryHeap::new(),
            number: 0,
            now: 0.0,
            log: None,
        }
    }

    /// Runs to the end; seconds. Plans that cannot end, which the checker rejects, take forever.
    pub(super) fn run(mut self) -> f64 {
        self.play();
        let ended = self.lanes.iter().zip(&self.program.lanes).all(|(l, run)| l.done == run.len);
        if ended { self.now } else { f64::INFINITY }
    }

    /// Runs to the end; all messages, in rounds of one second.
    pub(super) fn hops(mut self) -> Vec<Hop> {
        self.log = Some(Vec::new());
        self.play();
        self.log.unwrap_or_default()
    }

    fn play(&mut self) {
        for rank in 0..self.program.ranks.len() as u32 {
            self.advance(rank);
        }
        while let Some(Timed { at, event, .. }) = self.events.pop() {
            self.now = at;
            match event {
                Event::Head(flight) => self.head(flight),
                Event::Port(port) => {
                    self.ports[port as usize].busy = false;
                    self.transmit(port);
                }
                Event::Sent(flight) => {
                    let Flight { src, lane, .. } = self.flights[flight as usize];
                    self.leave(src, lane);
                }
                Event::Arrived(flight) => self.arrived(flight),
                Event::Worked { rank, lane } => self.finish(rank, lane),
            }
        }
    }

    fn at(&mut self, at: f64, event: Event) {
        self.number += 1;
        self.events.push(Timed { at, number: self.number, event });
    }

    /// Begins every step of `rank` that can begin.
    fn advance(&mut self, rank: u32) {
        let program = self.program;
        loop {
            let mut begun = false;
            for lane in program.ranks[rank as usize].range() {
                let Lane { done, running, .. } = self.lanes[lane];
                let run = program.lanes[lane];
                if running || done == run.len {
                    continue;
                }
                let first_lane = program.ranks[rank as usize].start;
                let work = &program.work[(run.start + done) as usize];
                let met = |&(lane, steps): &(u32, u32)| {
                    self.lanes[(first_lane + lane) as usize].done >= steps
                };
                if work.waits.iter().flatten().all(met) {
                    begun |= self.begin(rank, lane as u32);
                }
            }
            if !begun {
                return;
            }
        }
    }

    /// Begins the next step of a lane; true if it ended at once.
    fn begin(&mut self, rank: u32, lane: u32) -> bool {
        let program = self.program;
        let run = program.lanes[lane as usize];
        let work = &program.work[(run.start + self.lanes[lane as usize].done) as usize];
        let messages = &program.messages[work.messages.range()];
        self.lanes[lane as usize] = Lane {
            running: true,
            open: work.messages.len,
            first: f64::INFINITY,
            began: self.now,
            ..self.lanes[lane as usize]
        };
        match work.kind {
            Kind::Send => {
                for message in messages {
                    let (dst, from, share) = self.route(rank, message.peer);
                    let way = self.way(rank, message.peer);
                    let flight = Flight {
                        src: rank,
                        dst,
                        from,
                        slot: message.slot,
                        bytes: message.bytes as f64,
                        lane,
                        share,
                        way,
                        passed: 0.0,
                        first: 0.0,
                    };
                    let number = match self.unused.pop() {
                        Some(number) => {
                            self.flights[number as usize] = flight;
                            number
                        }
                        None => {
                            self.flights.push(flight);
                            self.flights.len() as u32 - 1
                        }
                    };
                    let port = self.port(rank, way);
                    self.ports[port as usize].queue.push_back(number);
                    self.transmit(port);
                }
            }
            Kind::Recv | Kind::RecvReduce { .. } => {
                for message in messages {
                    let key = (rank, message.peer, message.slot);
                    let place = self.places.insert(key, Place::Awaited { lane });
                    if let Some(Place::Early { flight }) = place {
                        self.enter(flight);
                    }
                }
            }
            Kind::Local { bytes } => {
                let end = self.process(rank, self.now, bytes);
                self.at(end, Event::Worked { rank, lane });
                return false;
            }
        }
        self.lanes[lane as usize].open == 0 && self.complete(rank, lane)
    }

    fn way(&self, rank: u32, peer: u32) -> Way {
        let host = |rank| self.locality.and_then(|locality| locality.host(Rank(rank)));
        match (host(rank), host(peer)) {
            (Some(here), Some(there)) if here == there => Way::Inside,
            _ => Way::Network,
        }
    }

    /// The port through which a rank's messages go that way.
    fn port(&self, rank: u32, way: Way) -> u32 {
        match way {
            Way::Network => rank,
            Way::Inside => self.program.ranks.len() as u32 + rank,
        }
    }

    /// Latency, and seconds a byte through a port, on that way.
    fn pace(&self, way: Way) -> (f64, f64) {
        match (way, self.network.fabric) {
            (Way::Inside, Fabric::Hosts { alpha, beta }) => (alpha, beta),
            _ => (self.network.alpha, self.network.beta),
        }
    }

    /// Receiver, whom it knows as the sender, and the part of the uplinks that the message uses.
    fn route(&self, rank: u32, peer: u32) -> (u32, u32, f64) {
        let Fabric::FatTree { ranks_per_switch, taper } = self.network.fabric else {
            return match self.mirror {
                Some((symmetry, world)) => (0, symmetry.opposite(peer, world), 0.0),
                // The ranks of a host share one link.
                None if self.locality.is_some() && self.way(rank, peer) == Way::Network => {
                    (peer, rank, 1.0)
                }
                None => (peer, rank, 0.0),
            };
        };
        let below = ranks_per_switch.max(1);
        match self.mirror {
            // All ranks of a switch do the same: as many as the distance reaches over its edge share
            // the links.
            Some((symmetry, world)) => {
                let crossing = symmetry.distance(peer, world).min(below);
                let share = taper * f64::from(crossing) / f64::from(below);
                (0, symmetry.opposite(peer, world), share)
            }
            None if rank / below == peer / below => (peer, rank, 0.0),
            None => (peer, rank, taper / f64::from(below)),
        }
    }

    /// Puts the next message of a port on the wire if it is free.
    fn transmit(&mut self, number: u32) {
        let port = &mut self.ports[number as usize];
        if port.busy {
            return;
        }
        let Some(flight) = port.queue.pop_front() else { return };
        port.busy = true;
        let Flight { src: rank, bytes, share, way, .. } = self.flights[flight as usize];
        let (alpha, beta) = self.pace(way);
        let leaves = self.now + self.network.overhead;
        let free = leaves + bytes * beta;
        let (mut head, mut sent) = (leaves, free);
        if share > 0.0 {
            let up = self.switch(rank);
            head = leaves.max(self.up_free[up]);
            self.up_free[up] = head + bytes * beta * share;
            sent = free.max(self.up_free[up]);
        }
        self.flights[flight as usize].passed = sent;
        self.at(head + alpha, Event::Head(flight));
        self.at(free, Event::Port(number));
        self.at(sent, Event::Sent(flight));
    }

    fn switch(&self, rank: u32) -> usize {
        match self.network.fabric {
            Fabric::FatTree { ranks_per_switch, .. } => (rank / ranks_per_switch.max(1)) as usize,
            Fabric::Hosts { .. } => {
                let host = self.locality.and_then(|locality| locality.host(Rank(rank)));
                host.unwrap_or(0) as usize
            }
            Fabric::FullBisection => 0,
        }
    }

    fn head(&mut self, number: u32) {
        let down = self.switch(self.flights[number as usize].dst);
        let (alpha, _) = self.pace(self.flights[number as usize].way);
        let flight = &mut self.flights[number as usize];
        flight.first = self.now;
        flight.passed += alpha;
        if flight.share > 0.0 {
            flight.first = flight.first.max(self.down_free[down]);
            self.down_free[down] = flight.first + flight.bytes * self.network.beta * flight.share;
            flight.passed = flight.passed.max(self.down_free[down]);
        }
        let key = (flight.dst, flight.from, flight.slot);
        match self.places.entry(key) {
            Entry::Occupied(_) => self.enter(number),
            Entry::Vacant(place) => {
                place.insert(Place::Early { flight: number });
            }
        }
    }

    /// A message whose receive is active goes through the receiver's port.
    fn enter(&mut self, number: u32) {
        let Flight { dst, way, .. } = self.flights[number as usize];
        let (port, (_, beta)) = (self.port(dst, way), self.pace(way));
        let flight = &mut self.flights[number as usize];
        let port = &mut self.ports[port as usize];
        let begins = flight.first.max(self.now).max(port.ingress_free);
        flight.first = begins + self.network.overhead;
        port.ingress_free = flight.first + flight.bytes * beta;
        let last = port.ingress_free.max(flight.passed + self.network.overhead);
        self.at(last, Event::Arrived(number));
    }

    fn arrived(&mut self, flight: u32) {
        let Flight { dst, from, slot, first, .. } = self.flights[flight as usize];
        self.unused.push(flight);
        if let Some(log) = &mut self.log {
            log.push(Hop { round: first as u32, src: from, dst, slot });
        }
        if let Some(Place::Awaited { lane }) = self.places.remove(&(dst, from, slot)) {
            let state = &mut self.lanes[lane as usize];
            state.first = state.first.min(first);
            self.leave(dst, lane);
        }
    }

    /// One message of a lane's running step has come or gone.
    fn leave(&mut self, rank: u32, lane: u32) {
        let state = &mut self.lanes[lane as usize];
        state.open -= 1;
        if state.open == 0 && self.complete(rank, lane) {
            self.advance(rank);
        }
    }

    /// All messages of a step are through; true if the step has ended.
    fn complete(&mut self, rank: u32, lane: u32) -> bool {
        let Lane { done, first, began, .. } = self.lanes[lane as usize];
        let work = &self.program.work[(self.program.lanes[lane as usize].start + done) as usize];
        if let Kind::RecvReduce { bytes } = work.kind {
            let start = match self.network.overlap {
                Overlap::After => self.now,
                Overlap::WhileReceiving => first.max(began),
            };
            let end = self.process(rank, start, bytes).max(self.now);
            if end > self.now {
                self.at(end, Event::Worked { rank, lane });
                return false;
            }
        }
        let state = &mut self.lanes[lane as usize];
        state.done += 1;
        state.running = false;
        true
    }

    fn finish(&mut self, rank: u32, lane: u32) {
        let state = &mut self.lanes[lane as usize];
        state.done += 1;
        state.running = false;
        self.advance(rank);
    }

    /// Occupies a rank's processor from `start` on, or from when it is free; when it is done.
    fn process(&mut self, rank: u32, start: f64, bytes: u64) -> f64 {
        let port = &mut self.ports[rank as usize];
        let end = start.max(port.processor_free) + bytes as f64 * self.network.gamma;
        port.processor_free = end;
        end
    }
}
