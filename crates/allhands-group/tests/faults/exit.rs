//! Ranks that leave in order.

use std::time::{Duration, Instant};

use allhands_group::{Config, Error, ProcessGroup, Rank, ReduceOp, Tensor};

use crate::ranks::{find, leave, pause};
use crate::stage::{LIMIT, again, config, kind, processes, ranks, threads};

/// A peer that has nothing to do lets a leaver go at once; this is far below the time a leaver would wait
/// for one that does not answer.
const LEAVING: Duration = Duration::from_secs(3);

const REPS: u32 = 30;

/// Elements of the last message in turn: at once, as one early frame, and with credit.
const LENGTHS: [usize; 4] = [1, 16, 15_000, 500_000];

fn pattern(rep: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|at| at.wrapping_mul(2_654_435_761) ^ rep).collect()
}

/// Rank 0 sends and leaves; rank 1 comes when it likes.
fn last_words(group: ProcessGroup, rep: u32) {
    let len = LENGTHS[rep as usize % LENGTHS.len()];
    if group.rank() == Rank(0) {
        let words = pattern(rep, len);
        if rep.is_multiple_of(3) {
            // Nobody waits for it: the group does when it goes.
            drop(group.send_async(Tensor::from_slice(&words), Rank(1), rep));
        } else {
            group.send(&words, Rank(1), rep).unwrap();
        }
        drop(group);
    } else {
        pause(Duration::from_millis(u64::from(rep * 7 % 40)));
        let mut words = vec![0u32; len];
        group.recv(&mut words, Rank(0), rep).unwrap();
        assert!(words == pattern(rep, len), "rep {rep}");
    }
}

#[test]
fn what_was_sent_before_leaving_arrives_between_threads() {
    for rep in 0..REPS {
        threads(2, &config(), |group| last_words(group, rep));
    }
}

#[test]
fn what_was_sent_before_leaving_arrives_over_tcp() {
    let name = "exit::what_was_sent_before_leaving_arrives_over_tcp";
    processes(name, 2, config(), |group, _| {
        for rep in 0..REPS {
            last_words(again(&group, rep + 1, config()), rep);
        }
        String::new()
    });
}

#[test]
fn what_was_sent_before_the_process_ends_arrives() {
    let name = "exit::what_was_sent_before_the_process_ends_arrives";
    for _ in 0..5 {
        let said = processes(name, 2, config(), |group, _| {
            last_words(group, 3);
            String::new()
        });
        if said.is_none() {
            return;
        }
    }
}

#[test]
fn many_early_messages_outlive_their_sender() {
    let name = "exit::many_early_messages_outlive_their_sender";
    processes(name, 2, config(), |group, folder| {
        let messages = 50;
        if group.rank() == Rank(0) {
            for tag in 0..messages {
                group.send(&pattern(tag, 15_000), Rank(1), tag).unwrap();
            }
            drop(group);
            leave(folder, "gone", "");
        } else {
            // The receiver has nothing to do with the group until long after the sender is gone.
            find(folder, "gone", LIMIT);
            let mut words = vec![0; 15_000];
            for tag in (0..messages).rev() {
                group.recv(&mut words, Rank(0), tag).unwrap();
                assert!(words == pattern(tag, 15_000), "message {tag}");
            }
            let error = group.recv(&mut words, Rank(0), 0).unwrap_err();
            assert_eq!((kind(&error), error.ranks()), ("peer failed", ranks(&[0])), "{error}");
        }
        String::new()
    });
}

/// Ranks leave one after the other in the order of `turn`.
fn leave_in_turn(group: ProcessGroup, turn: u32) {
    let mut data = [1.0f32; 100];
    group.all_reduce(&mut data, ReduceOp::Sum).unwrap();
    pause(Duration::from_millis(u64::from(turn) * 30));
    let leaving = Instant::now();
    drop(group);
    let took = leaving.elapsed();
    assert!(took < LEAVING, "leaving took {took:?} in turn {turn}");
}

const ORDERS: [[u32; 4]; 4] = [[0, 1, 2, 3], [3, 2, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]];

#[test]
fn ranks_leave_in_any_order_between_threads() {
    for order in ORDERS {
        threads(4, &config(), |group| {
            let turn = order[group.rank().0 as usize];
            leave_in_turn(group, turn);
        });
    }
}

#[test]
fn ranks_leave_in_any_order_over_tcp() {
    let name = "exit::ranks_leave_in_any_order_over_tcp";
    processes(name, 4, config(), |group, _| {
        for (epoch, order) in ORDERS.into_iter().enumerate() {
            let turn = order[group.rank().0 as usize];
            leave_in_turn(again(&group, epoch as u32 + 1, config()), turn);
        }
        String::new()
    });
}

fn passes_it_on(group: &ProcessGroup, value: f32) -> Result<(), Error> {
    let mut data = [0.0f32];
    if group.rank() == Rank(0) {
        group.send(&[value], Rank(1), 1)?;
        group.recv(&mut data, Rank(1), 2)?;
    } else {
        group.recv(&mut data, Rank(0), 1)?;
        group.send(&data, Rank(0), 2)?;
    }
    assert_eq!(data, [value]);
    Ok(())
}

/// Rank 2 leaves early; the others go on with each other, and only what needs rank 2 fails.
fn early_leaver(group: ProcessGroup) {
    group.barrier().unwrap();
    if group.rank() == Rank(2) {
        let leaving = Instant::now();
        drop(group);
        assert!(leaving.elapsed() < LEAVING, "leaving took {:?}", leaving.elapsed());
        return;
    }
    // Longer than the silence that a peer may keep.
    let until = Instant::now() + Duration::from_millis(1500);
    let mut value = 0.0;
    loop {
        value += 1.0;
        passes_it_on(&group, value).unwrap();
        // Rank 0 decides when it is enough, so that both do the same.
        let mut more = [u8::from(Instant::now() < until)];
        if group.rank() == Rank(0) {
            group.send(&more, Rank(1), 3).unwrap();
        } else {
            group.recv(&mut more, Rank(0), 3).unwrap();
        }
        if more == [0] {
            break;
        }
        pause(Duration::from_millis(5));
    }
    let mut data = [1.0f32; 100];
    let error = group.all_reduce(&mut data, ReduceOp::Sum).unwrap_err();
    assert_eq!((kind(&error), error.ranks()), ("peer failed", ranks(&[2])), "{error}");
    // The group goes on, and rank 0 stays until rank 1 has seen the same.
    passes_it_on(&group, -1.0).unwrap();
    let error = group.send(&data, Rank(2), 0).unwrap_err();
    assert_eq!((kind(&error), error.ranks()), ("peer failed", ranks(&[2])), "{error}");
}

fn impatient() -> Config {
    let (heartbeat, peer_timeout) = (Duration::from_millis(200), Duration::from_secs(1));
    Config { heartbeat, peer_timeout, ..config() }
}

#[test]
fn only_what_needs_a_leaver_fails_between_threads() {
    threads(3, &impatient(), early_leaver);
}

#[test]
fn only_what_needs_a_leaver_fails_over_tcp() {
    let name = "exit::only_what_needs_a_leaver_fails_over_tcp";
    processes(name, 3, impatient(), |group, _| {
        early_leaver(group);
        String::new()
    });
}

#[test]
fn leaving_with_unfinished_receives_does_not_wait_for_them() {
    threads(2, &config(), |group| {
        if group.rank() == Rank(0) {
            let work = group.recv_async(Tensor::from_slice(&[0.0f32; 4]), Rank(1), 1);
            drop(work);
            let leaving = Instant::now();
            drop(group);
            assert!(leaving.elapsed() < LEAVING, "leaving took {:?}", leaving.elapsed());
        } else {
            pause(Duration::from_millis(100));
        }
    });
}
