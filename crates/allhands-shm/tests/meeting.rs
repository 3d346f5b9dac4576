//! Who meets whom and what strangers, silence and poverty come to.
#![cfg(target_os = "linux")]

use std::error::Error;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use allhands_shm::meet::{MeetError, Name, dial};
use allhands_shm::segment::OwnSegment;
use allhands_wire::{Initiator, JobKey, Nonce, Peer, Purpose};
use rustix::event::EventfdFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

mod host;
#[path = "../../allhands-group/tests/common/ranks.rs"]
mod ranks;

use host::{Met, PATIENCE, Rank};

/// The variable that makes this program the process that has few descriptors.
const POOR: &str = "ALLHANDS_TEST_POOR";

/// What a visit may take by itself, and as much again for a loaded machine.
const VISIT: Duration = Duration::from_secs(5);

fn ranks(world: u32) -> Vec<Rank> {
    (0..world).map(|me| Rank::new(me, world)).collect()
}

fn names(ranks: &[Rank]) -> Vec<Option<Name>> {
    ranks.iter().map(|rank| Some(rank.listener.name())).collect()
}

/// All meet, each in its own thread; the outcomes of each.
fn all_meet(ranks: &[Rank], patience: Duration) -> Vec<Met> {
    let names = &names(ranks);
    thread::scope(|scope| {
        let meet = |rank| scope.spawn(move || Rank::meet(rank, names, patience));
        let ranks: Vec<_> = ranks.iter().map(meet).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Both sides of each pair use its memory, or neither.
fn agree(met: &[Met]) {
    for (a, row) in met.iter().enumerate() {
        for (b, result) in row.iter().enumerate() {
            let word = |result: &Option<Result<_, MeetError>>| {
                result.as_ref().map(|result| result.as_ref().map(|_| ()).map_err(|e| e.to_string()))
            };
            let (here, there) = (word(result), word(&met[b][a]));
            assert_eq!(here.is_none(), a == b);
            let same = here.as_ref().map(Result::is_ok) == there.as_ref().map(Result::is_ok);
            assert!(same, "{a} says {here:?} of {b}, which says {there:?}");
        }
    }
}

fn stranger_at(rank: &Rank) -> UnixStream {
    let reached = dial(&[Some(rank.listener.name())], Peer(1));
    reached.into_iter().next().flatten().expect("it listens")
}

#[test]
fn all_pairs_meet_and_see_each_others_memory() {
    for world in 2..=4 {
        let mut ranks = ranks(world);
        for rank in &mut ranks {
            // Ranks with an arena and without.
            if rank.index() % 2 == 1 {
                let len = 4096 * (1 + rank.index());
                rank.offer.arena = Some(Arc::new(OwnSegment::create(len).unwrap()));
            }
            // SAFETY: The first byte is inside the segment, and nobody has mapped it yet.
            unsafe { rank.offer.segment.base().write_volatile(100 + rank.index() as u8) };
        }
        let met = all_meet(&ranks, PATIENCE);
        agree(&met);
        for row in &met {
            for (rank, peer) in row.iter().enumerate() {
                let Some(peer) = peer else { continue };
                let peer = peer.as_ref().unwrap();
                // SAFETY: The first byte is inside the segment.
                let seen = unsafe { peer.segment.base().read_volatile() };
                assert_eq!(seen, 100 + rank as u8);
                let arena = peer.arena.as_ref().map(|arena| arena.len());
                assert_eq!(arena, (rank % 2 == 1).then_some(4096 * (1 + rank)));
                assert!(peer.process.is_some());
            }
        }
    }
}

#[test]
fn a_listener_that_is_not_there_is_elsewhere() {
    let gone = Rank::new(0, 3).listener.name();
    assert!(dial(&[Some(gone), None, Some(gone)], Peer(2)).iter().all(Option::is_none));
    // Only lower ranks are reached.
    assert_eq!(dial(&[None, None, None], Peer(2)).len(), 2);
}

#[test]
fn strangers_are_turned_away_and_the_rank_behind_them_is_let_in() {
    let ranks = ranks(2);
    let mut babbler = stranger_at(&ranks[0]);
    babbler.write_all(&[0xAB; 500]).unwrap();
    drop(stranger_at(&ranks[0]));
    thread::scope(|scope| {
        for what in ["another key", "another job", "another generation", "another world"] {
            let world = if what == "another world" { 3 } else { 2 };
            let mut stranger = Rank::new(1, world);
            match what {
                "another key" => stranger.member.key = JobKey::new([8; 32]),
                "another job" => "other".clone_into(&mut stranger.member.job_id),
                "another generation" => stranger.member.epoch = 1,
                _ => {}
            }
            let name = ranks[0].listener.name();
            scope.spawn(move || {
                let mut met = stranger.meet(&[Some(name), None], PATIENCE);
                let error = met.swap_remove(0).unwrap().unwrap_err();
                // It is told, or the connection is closed.
                // Who is not served before the last one is let in is late.
                let known = match error {
                    MeetError::Unproven { .. } | MeetError::Lost { .. } => error.source().is_some(),
                    MeetError::Late { .. } => true,
                    _ => false,
                };
                assert!(known, "{what}: {error}");
            });
        }
        let met = all_meet(&ranks, PATIENCE);
        agree(&met);
        met[0][1].as_ref().unwrap().as_ref().unwrap();
    });
}

#[test]
fn a_listener_in_a_crowd_is_given_up() {
    let ranks = ranks(2);
    for _ in 0..70 {
        drop(stranger_at(&ranks[0]));
    }
    let met = all_meet(&ranks, Duration::from_secs(2));
    agree(&met);
    let error = met[0][1].as_ref().unwrap().as_ref().unwrap_err();
    assert!(matches!(error, MeetError::Crowded { peer: Peer(1), .. }), "{error}");
    let error = met[1][0].as_ref().unwrap().as_ref().unwrap_err();
    assert!(matches!(error, MeetError::Late { peer: Peer(0), .. }), "{error}");
}

#[test]
fn a_silent_stranger_costs_time_within_bounds() {
    let ranks = ranks(2);
    let _silent = stranger_at(&ranks[0]);
    let begun = Instant::now();
    agree(&all_meet(&ranks, Duration::from_millis(500)));
    assert!(begun.elapsed() < VISIT, "{:?}", begun.elapsed());
}

#[test]
fn a_stranger_that_drips_does_not_hold_the_listener_beyond_the_deadline() {
    let ranks = ranks(2);
    let mut stranger = stranger_at(&ranks[0]);
    let other = host::member(1, 2);
    let (key, nonce) = (JobKey::new([7; 32]), Nonce([3; 16]));
    let identity = allhands_wire::Identity {
        job: allhands_wire::JobHash::of(&format!("{}/memory", other.job_id)),
        epoch: 0,
        me: Peer(1),
        world: 2,
        lanes: 1,
        pid: 1,
        host: Default::default(),
    };
    let mut initiator = Initiator::new(&key, &identity, Peer(0), Purpose::Control, nonce);
    let begun = Instant::now();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut challenge = [0];
            while initiator.poll_output().is_empty() {
                stranger.read_exact(&mut challenge).unwrap();
                initiator.handle_bytes(&challenge);
            }
            let hello = initiator.poll_output();
            assert!(hello.len() > 20, "the hello has to last longer than the deadline");
            for &byte in hello {
                ranks::pause(Duration::from_millis(100));
                if stranger.write_all(&[byte]).is_err() {
                    return;
                }
            }
        });
        let names = [Some(ranks[0].listener.name()), None];
        let met = ranks[0].meet(&names, Duration::from_millis(700));
        let took = begun.elapsed();
        let error = met[1].as_ref().unwrap().as_ref().unwrap_err();
        assert!(matches!(error, MeetError::Late { peer: Peer(1), .. }), "{error}");
        assert!(took < VISIT, "{took:?}");
    });
}

#[test]
fn a_rank_that_never_comes_is_late() {
    let ranks = ranks(3);
    let begun = Instant::now();
    let met = ranks[1].meet(&names(&ranks), Duration::from_millis(300));
    assert!(begun.elapsed() < VISIT, "{:?}", begun.elapsed());
    for rank in [0, 2] {
        let error = met[rank].as_ref().unwrap().as_ref().unwrap_err();
        assert!(matches!(error, MeetError::Late { peer, .. } if peer.index() == rank), "{error}");
    }
}

#[test]
fn a_listener_with_a_long_queue_is_out_of_reach_after_a_while() {
    let rank = Rank::new(0, 2);
    let mut queue = Vec::new();
    let begun = Instant::now();
    loop {
        let mut reached = dial(&[Some(rank.listener.name())], Peer(1));
        match reached.swap_remove(0) {
            Some(stream) => queue.push(stream),
            None => break,
        }
        assert!(queue.len() < 700, "the queue has no end");
    }
    assert!(queue.len() > 10, "{} descriptors are few", queue.len());
    assert!(begun.elapsed() < 10 * VISIT, "{:?}", begun.elapsed());
}

#[test]
fn what_one_side_cannot_use_neither_does() {
    // A segment shorter than agreed, and an event that would block who writes it.
    for flaw in ["segment", "wake", "progress"] {
        let mut ranks = ranks(2);
        let blocking = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        match flaw {
            "segment" => ranks[1].offer.segment = Arc::new(OwnSegment::create(4096).unwrap()),
            "wake" => ranks[1].offer.wake = blocking,
            _ => ranks[1].offer.progress = blocking,
        }
        let met = all_meet(&ranks, PATIENCE);
        agree(&met);
        let error = met[0][1].as_ref().unwrap().as_ref().unwrap_err();
        let known = matches!(error, MeetError::Unmapped { .. } | MeetError::Garbled { .. });
        assert!(known, "{flaw}: {error}");
        let error = met[1][0].as_ref().unwrap().as_ref().unwrap_err();
        assert!(matches!(error, MeetError::Refused { peer: Peer(0) }), "{flaw}: {error}");
    }
}

#[test]
fn without_descriptors_both_sides_hear_of_it() {
    if std::env::var_os(POOR).is_some() {
        return be_poor();
    }
    let program = std::env::current_exe().unwrap();
    let status = Command::new(program)
        .args(["without_descriptors_both_sides_hear_of_it", "--exact", "--test-threads=1"])
        .env(POOR, "1")
        .status();
    assert!(status.unwrap().success(), "the process that ran out of descriptors failed");
}

/// Two ranks meet with fewer and fewer descriptors to spare.
fn be_poor() {
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count() as u64 - 1;
    let before = getrlimit(Resource::Nofile);
    let (mut failed, mut worked) = (0, 0);
    for spare in (0..14).rev() {
        let ranks = ranks(2);
        let used = descriptors();
        let limit = Rlimit { current: Some(used + spare), maximum: before.maximum };
        setrlimit(Resource::Nofile, limit).unwrap();
        let begun = Instant::now();
        let met = all_meet(&ranks, Duration::from_millis(400));
        let took = begun.elapsed();
        setrlimit(Resource::Nofile, before).unwrap();
        assert!(took < 2 * VISIT, "{took:?} with {spare} descriptors to spare");
        if spare > 0 {
            let ok = |row: usize, rank: usize| matches!(&met[row][rank], Some(Ok(_)));
            assert_eq!(ok(0, 1), ok(1, 0), "with {spare} descriptors to spare");
            worked += u32::from(ok(0, 1));
            failed += u32::from(!ok(0, 1));
        }
        drop(met);
        assert_eq!(descriptors(), used, "descriptors were lost");
    }
    assert!(failed > 0 && worked > 0, "{failed} failed, {worked} worked");
}
