//! A rank is killed in the middle of an operation.

use std::time::{Duration, Instant};

use allhands_group::ReduceOp;

use crate::ranks::{Ranks, find, free_port, leave, pause, worker};
use crate::stage::{Dice, LIMIT, config, join, kind, ranks};

/// Ten times what is promised for the slowest survivor.
const PROMISE: Duration = Duration::from_millis(2500);

const WORLD: u32 = 4;

fn survive(folder: &std::path::Path, len: usize) {
    let group = join(config());
    let rank = group.rank().0;
    let mut data = vec![1.0f32; len];
    let error = loop {
        data.fill(1.0);
        if let Err(error) = group.all_reduce(&mut data, ReduceOp::Sum) {
            break error;
        }
        assert!(data.iter().all(|&x| x == WORLD as f32));
        if !folder.join(format!("ready-{rank}")).exists() {
            leave(folder, &format!("ready-{rank}"), "");
        }
    };
    leave(folder, &format!("error-{rank}"), &error.to_string());
    assert_eq!(kind(&error), "peer failed", "{error}");
    let victim: u32 = find(folder, "victim", LIMIT).parse().unwrap();
    assert_eq!(error.ranks(), ranks(&[victim]), "{error}");
    let called = Instant::now();
    let again = group.all_reduce(&mut data, ReduceOp::Sum).unwrap_err();
    assert_eq!((kind(&again), again.ranks()), ("peer failed", ranks(&[victim])), "{again}");
    assert!(called.elapsed() < Duration::from_secs(1), "a broken group answers at once");
}

#[test]
fn survivors_name_a_killed_rank() {
    if let Some(folder) = worker() {
        let len = std::env::var("LEN").unwrap().parse().unwrap();
        return survive(&folder, len);
    }
    let mut dice = Dice::new(7);
    for (rep, len) in [16, 16 << 10, 4 << 20, 16].into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let name = "kill::survivors_name_a_killed_rank";
        let more = [("LEN", &*len.to_string())];
        let mut ranks = Ranks::start(name, WORLD, free_port(), folder.path(), &more);
        for rank in 0..WORLD {
            find(folder.path(), &format!("ready-{rank}"), LIMIT);
        }
        pause(Duration::from_micros(dice.below(20_000)));
        let victim = rep as u32 % WORLD;
        leave(folder.path(), "victim", &victim.to_string());
        ranks.kill(victim as usize);
        let killed = Instant::now();
        for rank in (0..WORLD).filter(|&rank| rank != victim) {
            find(folder.path(), &format!("error-{rank}"), LIMIT);
        }
        let took = killed.elapsed();
        eprintln!("{len} elements, rank {victim} killed: the last survivor knew after {took:.1?}");
        assert!(took < PROMISE, "the last survivor knew after {took:?}");
        let mut ended = ranks.join(LIMIT);
        ended.remove(victim as usize);
        assert!(ended.iter().all(|&well| well), "survivors ended well: {ended:?}");
    }
}
