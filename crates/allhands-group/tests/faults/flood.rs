//! Strangers on the job's ports: garbage and silence, while the mesh forms and while the job runs.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use allhands_group::ReduceOp;
use allhands_store::{ClientOptions, Endpoint as StoreEndpoint, Store, TcpStore};
use allhands_transport::tcp::Endpoint;

use crate::ranks::{Ranks, find, free_port, leave, pause, worker};
use crate::stage::{Dice, LIMIT, PATIENCE, config, join, ranks};

const WORLD: u32 = 3;

/// Connections of strangers in a wave; each wave is let go before the next.
const WAVE: usize = 100;
const WAVES: usize = 4;

/// Descriptors that a rank may have beyond those of the job while a wave lasts, and kilobytes of memory.
const DESCRIPTORS: usize = 2 * WAVE + 100;
const GROWTH_KB: u64 = 8 * 1024;

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn memory_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Opens a wave of connections; every other one talks nonsense, the others say nothing.
fn wave(address: SocketAddr, dice: &mut Dice) -> Vec<TcpStream> {
    let mut open = Vec::new();
    for stranger in 0..WAVE {
        let limit = Duration::from_secs(5);
        let Ok(mut stream) = TcpStream::connect_timeout(&address, limit) else { continue };
        if stranger % 2 == 0 {
            let nonsense: Vec<u8> = (0..dice.below(4096)).map(|_| dice.below(256) as u8).collect();
            // May be cut off at once.
            let _ = stream.write_all(&nonsense);
        }
        open.push(stream);
    }
    open
}

fn act(folder: &Path) {
    let group = join(config());
    let rank = group.rank().0;
    let mut rounds = 0;
    loop {
        rounds += 1;
        let mut data = vec![rounds as f32; 1000];
        group.all_reduce(&mut data, ReduceOp::Sum).unwrap();
        assert!(data.iter().all(|&x| x == rounds as f32 * WORLD as f32));
        if rounds == 100 {
            leave(folder, &format!("ready-{rank}"), "");
        }
        let mut over = [u8::from(folder.join("enough").exists())];
        group.broadcast(&mut over, ranks(&[0])[0]).unwrap();
        if over == [1] {
            leave(folder, &format!("said-{rank}"), &rounds.to_string());
            return;
        }
    }
}

#[test]
fn strangers_do_not_disturb_a_job() {
    if let Some(folder) = worker() {
        return act(&folder);
    }
    if cfg!(not(target_os = "linux")) {
        writeln!(std::io::stderr(), "SKIP flood: figures of a process are read from /proc")
            .expect("standard error is open");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let name = "flood::strangers_do_not_disturb_a_job";
    let port = free_port();
    let mut dice = Dice::new(3);
    let equip = |rank: u32, command: &mut std::process::Command| {
        command.env("RANK", rank.to_string()).env("WORLD_SIZE", WORLD.to_string());
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
    };
    // Two ranks wait for the third, with strangers at their listeners.
    let mut job = Ranks::start_some(name, &[0, 1], folder.path(), equip);
    let options = ClientOptions::new().timeout(PATIENCE);
    let store = TcpStore::connect(StoreEndpoint::new("127.0.0.1", port), options).unwrap();
    let mut strangers = Vec::new();
    for rank in 0..2 {
        let key = format!("allhands/default/0/world/rank/{rank}");
        let entry = store.get_within(&key, PATIENCE).unwrap();
        // After the world size, the transport, and the processors behind their length.
        let endpoint = &entry[6 + usize::from(entry[5])..];
        for address in Endpoint::decode(endpoint).unwrap().addresses() {
            strangers.push(wave(*address, &mut dice));
        }
    }
    assert!(strangers.iter().any(|wave| wave.len() == WAVE), "they listen");
    job.join_with(Ranks::start_some(name, &[2], folder.path(), equip));
    for rank in 0..WORLD {
        find(folder.path(), &format!("ready-{rank}"), LIMIT);
    }
    // The mesh is complete and its listeners are closed; the store still listens.
    drop(strangers);
    let host = job.pid(0);
    let (before, memory) = (descriptors(host), memory_kb(host));
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    for _ in 0..WAVES {
        let strangers = wave(address, &mut dice);
        assert!(descriptors(host) <= before + DESCRIPTORS, "{} descriptors", descriptors(host));
        drop(strangers);
    }
    let mut tries = 0;
    while descriptors(host) > before + 2 && tries < 1000 {
        tries += 1;
        pause(Duration::from_millis(10));
    }
    let after = descriptors(host);
    assert!(after <= before + 2, "{before} descriptors, then {after}");
    let grown = memory_kb(host).saturating_sub(memory);
    assert!(grown <= GROWTH_KB, "grown by {grown} KiB");
    eprintln!(
        "rank 0 after {} strangers: {before} -> {after} descriptors, +{grown} KiB",
        WAVE * WAVES
    );
    leave(folder.path(), "enough", "");
    let ended = job.join(LIMIT);
    assert!(ended.iter().all(|&well| well), "ranks ended well: {ended:?}");
}
