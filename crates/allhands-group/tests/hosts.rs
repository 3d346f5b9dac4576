//! Ranks on several hosts, some of which are shared: some pairs reach each other through shared memory, others
//! through the network. Hosts are network namespaces; where those cannot be made the tests print `SKIP`, or fail
//! if `ALLHANDS_REQUIRE_NETNS=1`.
#![cfg(target_os = "linux")]
#![allow(missing_docs, clippy::print_stderr, reason = "test code")]

mod common;

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use allhands_group::env::{Launch, ProcessEnvironment};
use allhands_group::{Config, Hierarchy, ProcessGroup, ReduceOp, Transport};
use allhands_oracles::hosts::Hosts;
use allhands_oracles::{RankReport, Tally, Witness, golden, run_rank};
use common::Golden;
use common::ranks::{Ranks, leave, worker};

/// Far more than all cases of one world need.
const LIMIT: Duration = Duration::from_secs(120);

/// Says which configuration a rank uses.
const CONFIG: &str = "ALLHANDS_TEST_CONFIG";

fn hosts(count: u32, mbit: Option<u32>) -> Option<Hosts> {
    match Hosts::start(count, mbit) {
        Ok(hosts) => Some(hosts),
        Err(why) if std::env::var("ALLHANDS_REQUIRE_NETNS").as_deref() == Ok("1") => {
            panic!("no hosts, though they are required: {why}");
        }
        Err(why) => {
            writeln!(std::io::stderr(), "SKIP hosts: {why}").expect("standard error is open");
            None
        }
    }
}

/// Runs the test `name` as one process for each entry of `places`, its host, and waits for all of them.
fn run(name: &str, hosts: &Hosts, places: &[u32], folder: &Path, config: &str) {
    let ranks: Vec<u32> = (0..places.len() as u32).collect();
    let ranks = Ranks::start_some(name, &ranks, folder, |rank, command| {
        command.env("WORLD_SIZE", places.len().to_string()).env("RANK", rank.to_string());
        command.env("MASTER_ADDR", hosts.address(places[0])).env("MASTER_PORT", "29500");
        command.env(CONFIG, config);
        let mut inside = hosts.on(places[rank as usize], command);
        inside.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        *command = inside;
    });
    let ended = ranks.join(LIMIT);
    assert!(ended.iter().all(|&well| well), "{places:?}: ranks ended well: {ended:?}");
}

fn join() -> ProcessGroup {
    let launch = Launch::from_variables(&ProcessEnvironment).unwrap();
    let mut config = Config { timeout: Duration::from_secs(60), ..Config::default() };
    let wanted = std::env::var(CONFIG).unwrap();
    if wanted.contains("flat") {
        config.hierarchy = Hierarchy::Off;
    }
    if wanted.contains("tcp") {
        config.transport = Transport::Tcp;
    }
    ProcessGroup::from_launch(&launch, config).unwrap()
}

#[test]
fn golden_cases_across_hosts() {
    let cases = golden::load().unwrap();
    if let Some(folder) = worker() {
        let group = join();
        assert!(!group.shares_memory(), "ranks of different hosts share memory");
        let rank = group.rank().0;
        let witness = Witness::folder(folder.clone());
        let report = run_rank(&cases, &mut Golden(group), &witness);
        leave(&folder, &format!("report-{rank}"), &report.to_text());
        return;
    }
    let Some(hosts) = hosts(3, None) else { return };
    let mut reports = Vec::new();
    for places in [&[0, 1][..], &[0, 0, 1], &[0, 1, 0, 1], &[2, 0, 0, 1, 0]] {
        let folder = tempfile::tempdir().unwrap();
        run("golden_cases_across_hosts", &hosts, places, folder.path(), "");
        for rank in 0..places.len() {
            let text = std::fs::read_to_string(folder.path().join(format!("report-{rank}")));
            reports.push(RankReport::from_text(&text.unwrap()).unwrap());
        }
    }
    let tally = Tally::merge(&cases, &reports);
    eprintln!("golden cases across hosts:\n{tally}");
    assert_eq!(tally.failed(), 0, "{:#?}", tally.failures());
    assert!(tally.passed() > 900);
}

/// Elements that are reduced: around the length from which hosts are told apart, and several chunks.
const LENS: [usize; 6] = [1, 1024, 1025, 100_003, (1 << 20) + 5, 3 << 20];

#[test]
fn all_reduces_across_hosts_go_inside_them_first() {
    const NAME: &str = "all_reduces_across_hosts_go_inside_them_first";
    if let Some(folder) = worker() {
        let group = join();
        let (rank, world) = (group.rank().0 as usize, group.world_size() as usize);
        let mut text = String::new();
        for len in LENS {
            // Thirds do not add up exactly, so another order of combination has other bits.
            let value = |rank: usize, i: usize| ((i * 7 + rank * 13) % 1000) as f32 / 3.0;
            let mut data: Vec<f32> = (0..len).map(|i| value(rank, i)).collect();
            group.all_reduce(&mut data, ReduceOp::Sum).unwrap();
            for (i, &got) in data.iter().enumerate() {
                let sum: f32 = (0..world).map(|rank| value(rank, i)).sum();
                assert!(
                    (got - sum).abs() <= sum.abs() * 1e-5,
                    "element {i} of {len}: {got}, {sum}"
                );
            }
            let mix =
                |hash: u64, x: &f32| (hash ^ u64::from(x.to_bits())).wrapping_mul(0x0100_0000_01B3);
            text += &format!("{len} {:x}\n", data.iter().fold(0xCBF2_9CE4_8422_2325, mix));
        }
        leave(&folder, &format!("bits-{rank}"), &text);
        return;
    }
    let Some(hosts) = hosts(3, None) else { return };
    let bytes = 4 * LENS.iter().sum::<usize>() as u64;
    for places in [&[0, 0, 1, 1][..], &[0, 1, 1, 0, 2], &[0, 0, 0, 1], &[2, 1, 0, 0, 1, 0, 2]] {
        let count = u64::from(*places.iter().max().unwrap() + 1);
        for config in ["", "tcp", "flat"] {
            let folder = tempfile::tempdir().unwrap();
            let before = hosts.sent(0).unwrap();
            run(NAME, &hosts, places, folder.path(), config);
            let sent = hosts.sent(0).unwrap() - before;
            let bits =
                |rank| std::fs::read_to_string(folder.path().join(format!("bits-{rank}"))).unwrap();
            for rank in 1..places.len() {
                assert_eq!(bits(0), bits(rank), "rank {rank} of {places:?} got other bits");
            }
            // What a host has to send; headers of packets and frames, short calls and meeting come on top.
            let least = 2 * (count - 1) * bytes / count;
            let times = sent as f64 / least as f64;
            eprintln!("{places:?} {config}: host 0 sent {times:.2} times the least");
            assert_eq!(times < 1.25, config != "flat", "{places:?} {config}: {times:.2} times");
            assert!(times > 0.9, "{places:?} {config}: {times:.2} times the least");
        }
    }
}
