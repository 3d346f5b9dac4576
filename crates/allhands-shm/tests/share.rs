//! The ranks of a mesh find out who shares memory, and nobody believes otherwise.
#![cfg(target_os = "linux")]

use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::Instant;

use allhands_shm::host::{Exchange, Round, ShareError, Shared, share};
use allhands_tensor::DType;
use allhands_wire::Peer;

#[path = "../../allhands-transport/tests/common/mod.rs"]
mod common;

use common::{PATIENCE, Recorder, config_at, drive, form_all, loopback, membership};

/// What each rank has told, in each round.
#[derive(Default)]
struct Table {
    told: Mutex<Vec<(Round, usize, Vec<u8>)>>,
    changed: Condvar,
}

/// One rank at the table. It may hear something else than was told.
struct Seat<'a> {
    table: &'a Table,
    me: usize,
    world: usize,
    garble: &'a (dyn Fn(Round, &mut [Vec<u8>]) + Sync),
    rounds: Vec<Round>,
}

#[derive(Debug, thiserror::Error)]
#[error("the table is gone")]
struct Gone;

impl Exchange for Seat<'_> {
    type Error = Gone;

    fn all_gather(&mut self, round: Round, mine: &[u8]) -> Result<Vec<Vec<u8>>, Gone> {
        self.rounds.push(round);
        let mut told = self.table.told.lock().unwrap();
        told.push((round, self.me, mine.to_vec()));
        self.table.changed.notify_all();
        let mut all = vec![Vec::new(); self.world];
        loop {
            let of_round = || told.iter().filter(|(other, ..)| *other == round);
            if of_round().count() == self.world {
                of_round().for_each(|(_, rank, bytes)| all[*rank].clone_from(bytes));
                (self.garble)(round, &mut all);
                return Ok(all);
            }
            let (guard, late) = self.table.changed.wait_timeout(told, PATIENCE).unwrap();
            told = guard;
            if late.timed_out() {
                return Err(Gone);
            }
        }
    }
}

/// All ranks of a mesh, each in its own thread.
fn all_share(
    world: u32,
    garble: impl Fn(Round, &mut [Vec<u8>]) + Sync,
) -> Vec<Result<Shared, ShareError<Gone>>> {
    let (table, garble) = (&Table::default(), &garble);
    thread::scope(|scope| {
        let ranks: Vec<_> = (0..world)
            .zip(form_all(world, &config_at(loopback())))
            .map(|(me, mesh)| {
                scope.spawn(move || {
                    let (me, world) = (me as usize, world as usize);
                    let mut seat = Seat { table, me, world, garble, rounds: Vec::new() };
                    let membership = membership(me as u32, world as u32);
                    let deadline = Instant::now() + PATIENCE;
                    let shared = share(&mut seat, &membership, mesh.links, &mesh.control, deadline);
                    let [
                        Round::Names,
                        Round::Reached { session: a },
                        Round::Swapped { session: b },
                    ] = seat.rounds[..]
                    else {
                        panic!("rank {me} told {:?}", seat.rounds);
                    };
                    assert_eq!(a, b);
                    shared
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Who shares with how many, and whether there are boards.
fn summary(shared: &[Result<Shared, ShareError<Gone>>]) -> Vec<(u32, bool)> {
    shared
        .iter()
        .map(|shared| {
            let shared = shared.as_ref().unwrap();
            assert_eq!(shared.board.is_some(), shared.arena.is_some());
            (shared.ranks, shared.board.is_some())
        })
        .collect()
}

#[test]
fn ranks_of_one_host_share_everything() {
    for world in 1..=4 {
        let shared = all_share(world, |_, _| {});
        assert_eq!(summary(&shared), vec![(world, world > 1); world as usize]);
        for shared in shared.into_iter().flatten() {
            assert!(shared.unavailable.is_none() && shared.failed.is_empty());
            if let Some(arena) = shared.arena {
                let tensor = arena.tensor(DType::F32, &[3]).unwrap();
                assert_eq!(tensor.as_slice::<f32>().unwrap(), [0.0; 3]);
            }
        }
    }
}

#[test]
fn bytes_go_whichever_way_a_pair_shares() {
    // Rank 1 cannot be dialled: with rank 0, which it dials itself, it shares all the same.
    let mut shared = all_share(3, |round, all| {
        if round == Round::Names {
            all[1].truncate(3);
        }
    });
    assert_eq!(summary(&shared), [(3, false), (2, false), (2, false)]);
    let mut links: Vec<_> = shared.drain(..).map(|shared| shared.unwrap().links).collect();
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        let (mut near, mut far) = (Recorder::new(3, 1, 10, 10), Recorder::new(3, 2, 10, 10));
        let (from_peer, to_peer) = (Peer(from as u32), Peer(to as u32));
        near.send(to_peer, b"a letter of some length");
        links[from].flush(to_peer, &mut near);
        drive(&mut *links[to], &mut far, "the letter", |port| port.received(from_peer).len() == 23);
        assert_eq!(far.received(from_peer), b"a letter of some length");
    }
}

#[test]
fn a_pair_shares_only_if_both_say_so() {
    // Everybody hears that rank 2 has swapped with nobody, although it has.
    let shared = all_share(3, |round, all| {
        if let Round::Swapped { .. } = round {
            all[2].fill(0);
        }
    });
    assert_eq!(summary(&shared), [(2, false), (2, false), (1, false)]);
}

#[test]
fn short_and_absent_answers_are_nobodys() {
    let shared = all_share(2, |round, all| {
        if round != Round::Names {
            all[0].clear();
        }
    });
    assert_eq!(summary(&shared), [(1, false), (1, false)]);
}

#[test]
fn what_ranks_tell_each_other_by_may_fail() {
    struct Dead;
    impl Exchange for Dead {
        type Error = Gone;

        fn all_gather(&mut self, _: Round, _: &[u8]) -> Result<Vec<Vec<u8>>, Gone> {
            Err(Gone)
        }
    }
    let mesh = form_all(1, &config_at(loopback())).remove(0);
    let failed = share(&mut Dead, &membership(0, 1), mesh.links, &mesh.control, Instant::now());
    assert!(matches!(failed, Err(ShareError::Exchange(Gone))));
}
