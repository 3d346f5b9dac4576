//! A rank is stopped, for longer or shorter than a peer may be silent.

use std::path::Path;
use std::time::{Duration, Instant};

use allhands_group::{Config, ReduceOp};

use crate::ranks::{Ranks, find, free_port, leave, pause, worker};
use crate::stage::{LIMIT, config, join, kind, ranks};

const WORLD: u32 = 3;
const VICTIM: usize = 1;

/// How long a peer may be silent here.
const SILENCE: Duration = Duration::from_secs(1);

/// Ten times what is promised beyond that.
const PROMISE: Duration = Duration::from_secs(5);

fn watchful(peer_timeout: Duration) -> Config {
    Config { heartbeat: Duration::from_millis(250), peer_timeout, ..config() }
}

fn start(name: &str, folder: &Path) -> Ranks {
    let ranks = Ranks::start(name, WORLD, free_port(), folder, &[]);
    for rank in 0..WORLD {
        find(folder, &format!("ready-{rank}"), LIMIT);
    }
    ranks
}

#[test]
fn a_stopped_rank_is_named_as_silent() {
    if let Some(folder) = worker() {
        let group = join(watchful(SILENCE));
        let rank = group.rank().0;
        let mut data = vec![1.0f32; 1000];
        let error = loop {
            if let Err(error) = group.all_reduce(&mut data, ReduceOp::Avg) {
                break error;
            }
            if !folder.join(format!("ready-{rank}")).exists() {
                leave(&folder, &format!("ready-{rank}"), "");
            }
        };
        leave(&folder, &format!("error-{rank}"), &error.to_string());
        if rank as usize != VICTIM {
            assert_eq!(kind(&error), "peer silent", "{error}");
            assert_eq!(error.ranks(), ranks(&[VICTIM as u32]), "{error}");
            assert!(error.to_string().contains("nothing was heard for"), "{error}");
        }
        // The others stay until the stopped one has seen what it missed.
        find(&folder, &format!("error-{VICTIM}"), LIMIT);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let ranks = start("stop::a_stopped_rank_is_named_as_silent", folder.path());
    ranks.signal(VICTIM, "STOP");
    let stopped = Instant::now();
    for rank in (0..WORLD).filter(|&rank| rank as usize != VICTIM) {
        find(folder.path(), &format!("error-{rank}"), LIMIT);
    }
    let took = stopped.elapsed();
    assert!(took < SILENCE + PROMISE, "the last survivor knew after {took:?}");
    // Between two signs of life, and never before the silence has lasted.
    assert!(took > SILENCE - Duration::from_millis(300), "known after {took:?}");
    eprintln!("known {took:.1?} after the stop");
    ranks.signal(VICTIM, "CONT");
    // Who was left behind is told, too.
    find(folder.path(), &format!("error-{VICTIM}"), LIMIT);
    let ended = ranks.join(LIMIT);
    assert!(ended.iter().all(|&well| well), "ranks ended well: {ended:?}");
}

#[test]
fn a_short_stop_is_no_error() {
    if let Some(folder) = worker() {
        let group = join(watchful(Duration::from_secs(4)));
        let rank = group.rank().0;
        let mut data = vec![1.0f32; 1000];
        loop {
            data.fill(1.0);
            group.all_reduce(&mut data, ReduceOp::Sum).unwrap();
            assert!(data.iter().all(|&x| x == WORLD as f32));
            if !folder.join(format!("ready-{rank}")).exists() {
                leave(&folder, &format!("ready-{rank}"), "");
            }
            // Rank 0 decides when it is enough, so that all end with the same operation.
            let mut over = [u8::from(folder.join("enough").exists())];
            group.broadcast(&mut over, ranks(&[0])[0]).unwrap();
            if over == [1] {
                return;
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let ranks = start("stop::a_short_stop_is_no_error", folder.path());
    for _ in 0..3 {
        ranks.signal(VICTIM, "STOP");
        pause(Duration::from_millis(400));
        ranks.signal(VICTIM, "CONT");
        pause(Duration::from_millis(100));
    }
    leave(folder.path(), "enough", "");
    let ended = ranks.join(LIMIT);
    assert!(ended.iter().all(|&well| well), "ranks ended well: {ended:?}");
}
