//! Who has joined, and with which connections. Pure: connection keys in, verdicts out.

use std::time::{Duration, Instant};

use allhands_wire::{Hello, Incumbent, Peer, Purpose};
use smallvec::SmallVec;

/// How long the mesh may still become complete after a connection that was up has ended. A peer that was
/// complete may have left already, which is for the links to tell; a dialler that lost a verdict dials
/// again within milliseconds.
const AFTER_LOSS: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Empty,
    /// Granted, with the verdict still on its way.
    Claimed(usize),
    Up(usize),
}

struct Seat {
    places: SmallVec<[Place; 2]>,
    incumbent: Option<Incumbent>,
    lost: Option<Instant>,
}

/// The places of a mesh: for each peer one for each data lane, then one for control.
pub(super) struct Seats {
    me: Peer,
    lanes: u8,
    seats: Vec<Seat>,
    joined: u32,
}

/// What a connection asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    Free,
    /// The same process has this place, with this connection.
    Held(usize),
    /// Another process has this rank.
    Duplicate(Incumbent),
}

impl Seats {
    pub(super) fn new(me: Peer, world: u32, lanes: u8) -> Self {
        let empty = || Seat {
            places: (0..=lanes).map(|_| Place::Empty).collect(),
            incumbent: None,
            lost: None,
        };
        Self { me, lanes, seats: (0..world).map(|_| empty()).collect(), joined: 1 }
    }

    /// Connections between each pair.
    pub(super) fn places(&self) -> usize {
        usize::from(self.lanes) + 1
    }

    pub(super) fn place_of(&self, purpose: Purpose) -> usize {
        match purpose {
            Purpose::Data { lane } => usize::from(lane),
            Purpose::Control => usize::from(self.lanes),
        }
    }

    pub(super) fn purpose_of(&self, place: usize) -> Purpose {
        match u8::try_from(place) {
            Ok(lane) if lane < self.lanes => Purpose::Data { lane },
            _ => Purpose::Control,
        }
    }

    /// Ranks that have joined completely, this one included.
    pub(super) fn joined(&self) -> u32 {
        self.joined
    }

    pub(super) fn is_complete(&self) -> bool {
        self.joined as usize == self.seats.len()
    }

    /// How many of a peer's connections are up.
    pub(super) fn up(&self, peer: Peer) -> usize {
        let is_up = |place: &&Place| matches!(place, Place::Up(_));
        self.seats[peer.index()].places.iter().filter(is_up).count()
    }

    pub(super) fn has_joined(&self, peer: Peer) -> bool {
        peer == self.me || self.up(peer) == self.places()
    }

    pub(super) fn judge(&self, hello: &Hello) -> Claim {
        let seat = &self.seats[hello.src.index()];
        let claimant = Incumbent { pid: hello.pid, host: hello.host };
        let in_use = seat.places.iter().any(|place| *place != Place::Empty);
        match (seat.incumbent, seat.places[self.place_of(hello.purpose)]) {
            (Some(first), _) if in_use && first != claimant => Claim::Duplicate(first),
            (_, Place::Claimed(key) | Place::Up(key)) => Claim::Held(key),
            (_, Place::Empty) => Claim::Free,
        }
    }

    /// The connection `key` gets the place.
    pub(super) fn claim(&mut self, hello: &Hello, key: usize) {
        let place = self.place_of(hello.purpose);
        let seat = &mut self.seats[hello.src.index()];
        seat.places[place] = Place::Claimed(key);
        seat.incumbent = Some(Incumbent { pid: hello.pid, host: hello.host });
    }

    /// The connection `key` is up.
    pub(super) fn seat(&mut self, peer: Peer, place: usize, key: usize) {
        let before = self.has_joined(peer);
        let seat = &mut self.seats[peer.index()];
        seat.places[place] = Place::Up(key);
        if !before && self.has_joined(peer) {
            self.joined += 1;
            self.seats[peer.index()].lost = None;
        }
    }

    /// The connection `key` gives its place up.
    pub(super) fn vacate(&mut self, peer: Peer, place: usize, key: usize) {
        let before = self.has_joined(peer);
        let seat = &mut self.seats[peer.index()];
        if matches!(seat.places[place], Place::Claimed(held) | Place::Up(held) if held == key) {
            seat.places[place] = Place::Empty;
            if before {
                self.joined -= 1;
            }
        }
    }

    /// A connection that was up has ended. It keeps its place.
    pub(super) fn lose(&mut self, peer: Peer, now: Instant) {
        self.seats[peer.index()].lost.get_or_insert(now);
    }

    /// A peer that left before the mesh was complete.
    pub(super) fn gone(&self, now: Instant) -> Option<Peer> {
        let gone = |seat: &Seat| seat.lost.is_some_and(|lost| now >= lost + AFTER_LOSS);
        self.seats.iter().position(gone).map(|peer| Peer(peer as u32))
    }

    /// When [`Seats::gone`] may next find somebody.
    pub(super) fn next_gone(&self) -> Option<Instant> {
        self.seats.iter().filter_map(|seat| seat.lost).min().map(|lost| lost + AFTER_LOSS)
    }

    /// The connections of a peer in order: data lanes, then control.
    pub(super) fn keys(&self, peer: Peer) -> impl Iterator<Item = usize> + '_ {
        self.seats[peer.index()].places.iter().filter_map(|place| match place {
            Place::Up(key) => Some(*key),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use allhands_wire::{HostHash, JobHash, Nonce};

    fn hello(src: u32, pid: u32, purpose: Purpose) -> Hello {
        Hello {
            purpose,
            lanes: 1,
            epoch: 0,
            src: Peer(src),
            dst: Peer(0),
            world: 3,
            pid,
            host: HostHash::of(b"here"),
            job: JobHash::of("job"),
            nonce: Nonce([0; 16]),
        }
    }

    const DATA: Purpose = Purpose::Data { lane: 0 };

    #[test]
    fn the_first_process_keeps_its_rank() {
        let mut seats = Seats::new(Peer(0), 3, 1);
        let first = hello(1, 100, DATA);
        assert_eq!(seats.judge(&first), Claim::Free);
        seats.claim(&first, 7);
        let taken = Incumbent { pid: 100, host: first.host };
        for purpose in [DATA, Purpose::Control] {
            assert_eq!(seats.judge(&hello(1, 200, purpose)), Claim::Duplicate(taken));
        }
        assert_eq!(seats.judge(&hello(1, 100, DATA)), Claim::Held(7));
        assert_eq!(seats.judge(&hello(1, 100, Purpose::Control)), Claim::Free);
        // A claim that failed frees the rank, and nobody is lost.
        seats.vacate(Peer(1), 0, 7);
        assert_eq!(seats.judge(&hello(1, 200, DATA)), Claim::Free);
        assert_eq!(seats.next_gone(), None);
    }

    #[test]
    fn a_peer_that_leaves_keeps_its_place_for_a_while() {
        let now = Instant::now();
        let mut seats = Seats::new(Peer(0), 3, 1);
        seats.seat(Peer(1), 0, 3);
        assert!(!seats.has_joined(Peer(1)));
        // It was complete and has left, which shows here in the wrong order.
        seats.lose(Peer(1), now);
        seats.seat(Peer(1), 1, 4);
        assert!(seats.has_joined(Peer(1)) && !seats.is_complete());
        assert_eq!(seats.keys(Peer(1)).collect::<Vec<_>>(), [3, 4]);
        seats.lose(Peer(1), now);
        assert_eq!(seats.gone(now), None);
        assert_eq!(seats.next_gone(), Some(now + AFTER_LOSS));
        assert_eq!(seats.gone(now + AFTER_LOSS), Some(Peer(1)));
    }

    #[test]
    fn a_place_can_be_taken_again_by_the_same_process() {
        let now = Instant::now();
        let mut seats = Seats::new(Peer(0), 2, 1);
        seats.seat(Peer(1), 0, 3);
        seats.seat(Peer(1), 1, 4);
        assert!(seats.is_complete());
        seats.lose(Peer(1), now);
        seats.vacate(Peer(1), 0, 99);
        assert!(seats.is_complete(), "another connection's end says nothing");
        seats.vacate(Peer(1), 0, 3);
        assert!(!seats.is_complete());
        seats.seat(Peer(1), 0, 5);
        assert!(seats.is_complete());
        assert_eq!(seats.gone(now + AFTER_LOSS), None);
    }
}
