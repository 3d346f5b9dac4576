//! Rings against an oracle, and against peers that lie.
#![cfg(target_os = "linux")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use allhands_shm::layout::{LINE, Layout, WORLD_MAX};
use allhands_shm::ring::{RingReader, RingWriter, ends};
use allhands_shm::segment::{OwnSegment, PeerSegment};
use proptest::prelude::*;

#[path = "../../allhands-transport/tests/common/mod.rs"]
mod common;

use common::Random;

/// Two ranks of a host in one process: each with its own segment, and the other's mapped as a peer's.
struct Pair {
    layout: Layout,
    segments: [Arc<OwnSegment>; 2],
    ends: [(RingWriter, RingReader); 2],
}

impl Pair {
    fn new(world: u32) -> Self {
        let layout = Layout::new(world).unwrap();
        let segments = [0, 1].map(|_| Arc::new(OwnSegment::create(layout.segment_len()).unwrap()));
        let ends = [0, 1].map(|me: usize| {
            let theirs = PeerSegment::map(segments[1 - me].fd(), layout.segment_len()).unwrap();
            ends(layout, &segments[me], me, &Arc::new(theirs), 1 - me)
        });
        Self { layout, segments, ends }
    }

    /// A word of rank `rank`: what a rank that lies writes over.
    fn word(&self, rank: usize, at: usize) -> &AtomicU64 {
        assert!(at + LINE <= self.layout.segment_len());
        // SAFETY: The word is inside the segment and aligned; heads and tails are only accessed as atomics.
        unsafe { self.segments[rank].base().add(at).cast::<AtomicU64>().as_ref() }
    }

    /// The head that rank 1 keeps for the ring of rank 0. See the table in `layout`.
    fn head(&self) -> &AtomicU64 {
        self.word(1, LINE)
    }

    /// The tail that rank 0 keeps for the ring to rank 1.
    fn tail(&self) -> &AtomicU64 {
        self.word(0, LINE * (1 + self.layout.world() as usize + 1))
    }
}

/// Random writes, commits, reads and releases, each beside a queue.
fn beside_an_oracle(seed: u64, world: u32, piece_max: usize, steps: usize) -> u64 {
    let mut pair = Pair::new(world);
    let capacity = pair.layout.ring_len();
    let mut random = Random(seed);
    // Written and not committed, committed and not read, read and not released.
    let (mut hidden, mut visible, mut held) = (VecDeque::new(), VecDeque::new(), 0);
    let mut moved = 0;
    for step in 0..steps {
        let context = format!("seed {seed}, step {step}");
        let [(writer, _), (_, reader)] = &mut pair.ends;
        match random.below(4) {
            0 => {
                let bytes = {
                    let len = random.below(piece_max + 1);
                    random.bytes(len)
                };
                let free = capacity - hidden.len() - visible.len() - held;
                let room = writer.room().unwrap();
                assert!(room <= free, "{context}: {room} of {free}");
                assert_eq!(room == 0, free == 0, "{context}");
                let written = writer.write(&bytes);
                assert_eq!(written, room.min(bytes.len()), "{context}");
                hidden.extend(&bytes[..written]);
            }
            1 => {
                writer.commit();
                visible.append(&mut hidden);
            }
            2 => {
                let available = reader.available().unwrap();
                assert!(available <= visible.len(), "{context}");
                assert_eq!(available == 0, visible.is_empty(), "{context}");
                let mut target = vec![0; random.below(piece_max + 1)];
                let read = reader.read(&mut target);
                assert_eq!(read, available.min(target.len()), "{context}");
                let expected: Vec<u8> = visible.drain(..read).collect();
                assert!(target[..read] == expected, "{context}: other bytes");
                held += read;
                moved += read as u64;
            }
            _ => {
                reader.release();
                held = 0;
            }
        }
    }
    moved
}

#[test]
fn bytes_go_round_and_round() {
    let mut laps = 0;
    for (world, piece_max) in [(WORLD_MAX, 9_000), (WORLD_MAX, 40_000), (2, 200_000)] {
        let capacity = Layout::new(world).unwrap().ring_len() as u64;
        laps += beside_an_oracle(1, world, piece_max, 4_000) / capacity;
    }
    assert!(laps > 100, "the rings hardly wrapped: {laps} laps");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_ring_is_a_queue(
        seed in any::<u64>(),
        world in prop_oneof![Just(2_u32), Just(16), Just(WORLD_MAX)],
        piece_max in prop_oneof![1..20_usize, 1..5_000_usize, 1..300_000_usize],
    ) {
        beside_an_oracle(seed, world, piece_max, 400);
    }

    #[test]
    fn whatever_a_peer_claims_no_more_than_the_ring_is_touched(
        seed in any::<u64>(),
        claims in prop::collection::vec(prop_oneof![0..40_000_u64, any::<u64>()], 1..40),
    ) {
        let mut pair = Pair::new(WORLD_MAX);
        let capacity = pair.layout.ring_len();
        let mut random = Random(seed);
        let mut target = vec![0; 2 * capacity];
        for claim in claims {
            pair.tail().store(claim, Ordering::Relaxed);
            pair.head().store(claim, Ordering::Relaxed);
            let [(writer, _), (_, reader)] = &mut pair.ends;
            if let Ok(available) = reader.available() {
                prop_assert!(available <= capacity);
            }
            prop_assert!(reader.read(&mut target) <= capacity);
            if let Ok(room) = writer.room() {
                prop_assert!(room <= capacity);
            }
            prop_assert!(writer.write(&random.bytes(2 * capacity)) <= capacity);
        }
        // The neighbours of the ring, in the same segment, are untouched: the next ring begins with zeros.
        let next = LINE * (1 + 2 * WORLD_MAX as usize) + 2 * capacity;
        prop_assert_eq!(pair.word(0, next).load(Ordering::Relaxed), 0);
    }
}

#[test]
fn tails_that_lie_are_errors() {
    let mut pair = Pair::new(2);
    let capacity = pair.layout.ring_len() as u64;
    pair.ends[0].0.write(&[1; 100]);
    pair.ends[0].0.commit();
    assert_eq!(pair.ends[1].1.available(), Ok(100));
    assert_eq!(pair.ends[1].1.read(&mut [0; 100]), 100);
    // One more than the ring holds; everything; back to before what was read.
    for lie in [100 + capacity + 1, u64::MAX, 99, 0] {
        pair.tail().store(lie, Ordering::Relaxed);
        let error = pair.ends[1].1.available().unwrap_err();
        assert_eq!((error.claimed, error.mine, error.capacity), (lie, 100, capacity as usize));
        assert_eq!(pair.ends[1].1.read(&mut [0; 10]), 0, "an error changes nothing");
    }
    // All that the ring holds is no lie.
    pair.tail().store(100 + capacity, Ordering::Relaxed);
    assert_eq!(pair.ends[1].1.available(), Ok(capacity as usize));
}

#[test]
fn heads_that_lie_are_errors() {
    let mut pair = Pair::new(2);
    let capacity = pair.layout.ring_len();
    let fill = |pair: &mut Pair| {
        let bytes = vec![7; capacity];
        let writer = &mut pair.ends[0].0;
        while writer.write(&bytes) > 0 {}
        writer.commit();
    };
    fill(&mut pair);
    pair.head().store(1000, Ordering::Relaxed);
    assert_eq!(pair.ends[0].0.room(), Ok(1000));
    fill(&mut pair);
    let tail = capacity as u64 + 1000;
    // Beyond what was written; back to before what was read.
    for lie in [tail + 1, u64::MAX, 999, 0] {
        pair.head().store(lie, Ordering::Relaxed);
        let error = pair.ends[0].0.room().unwrap_err();
        assert_eq!((error.claimed, error.mine, error.capacity), (lie, tail, capacity));
        assert_eq!(pair.ends[0].0.write(&[1]), 0, "an error makes no room");
    }
    pair.head().store(tail, Ordering::Relaxed);
    assert_eq!(pair.ends[0].0.room(), Ok(capacity));
}
