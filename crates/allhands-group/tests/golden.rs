//! torch's results judge the process group: all dense golden cases, between threads and between real
//! processes, over TCP and in shared memory, and the calls that torch refuses.
#![allow(missing_docs, clippy::print_stderr, reason = "test code")]

mod common;

use std::path::PathBuf;
use std::time::Duration;

use allhands_group::{Config, ProcessGroup};
use allhands_oracles::refusal::{self, Rule, run_refusals, run_silence};
use allhands_oracles::{RankReport, Tally, Witness, golden, run_rank};
use common::Golden;
use common::ranks::{Ranks, free_port};

const WORLDS: std::ops::RangeInclusive<u32> = 2..=5;

/// Far more than all cases of one world need.
const LIMIT: Duration = Duration::from_secs(120);

fn config() -> Config {
    Config { timeout: Duration::from_secs(60), ..Config::default() }
}

fn threads(work: impl Fn(&mut Golden) -> RankReport + Sync) -> Vec<RankReport> {
    WORLDS
        .flat_map(|world| {
            let groups = ProcessGroup::local_with(world, &config()).unwrap();
            std::thread::scope(|scope| {
                let ranks: Vec<_> = groups
                    .into_iter()
                    .map(|group| scope.spawn(|| work(&mut Golden(group))))
                    .collect();
                ranks.into_iter().map(|rank| rank.join().unwrap()).collect::<Vec<_>>()
            })
        })
        .collect()
}

#[test]
fn golden_cases_between_threads() {
    let cases = golden::load().unwrap();
    let witness = Witness::shared();
    let tally = Tally::merge(&cases, &threads(|group| run_rank(&cases, group, &witness)));
    eprintln!("golden cases over local links:\n{tally}");
    assert_eq!(tally.failed(), 0, "{:#?}", tally.failures());
    assert!(tally.passed() > 960);
}

#[test]
fn calls_that_torch_refuses() {
    let refusals = refusal::load().unwrap();
    let tally = Tally::merge_refusals(&refusals, &threads(|group| run_refusals(&refusals, group)));
    eprintln!("refusals:\n{tally}");
    assert_eq!(tally.failed(), 0, "{:#?}", tally.failures());
    assert!(tally.passed() > 120);
}

#[test]
fn silent_peers_end_in_a_timeout() {
    let refusals = refusal::load().unwrap();
    for refusal in refusals.iter().filter(|refusal| refusal.rule == Rule::Timeout) {
        if refusal.inexpressible().is_some() {
            continue;
        }
        let timeout = refusal.group_timeout.expect("a silent peer needs a limit");
        let groups =
            ProcessGroup::local_with(refusal.world, &Config { timeout, ..config() }).unwrap();
        let witness = Witness::shared();
        let reports: Vec<RankReport> = std::thread::scope(|scope| {
            let ranks: Vec<_> = groups
                .into_iter()
                .map(|group| scope.spawn(|| run_silence(refusal, &mut Golden(group), &witness)))
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        let tally = Tally::merge_refusals(std::slice::from_ref(refusal), &reports);
        assert_eq!(tally.failed(), 0, "{:#?}", tally.failures());
    }
}

/// All cases in worlds of real processes that start with `more` in their environment. `name` is the calling test's.
fn processes(name: &str, more: &[(&str, &str)], shares: bool) {
    let cases = golden::load().unwrap();
    if let Some(folder) = std::env::var_os(Ranks::WORKER).map(PathBuf::from) {
        let group = ProcessGroup::from_env().unwrap();
        assert_eq!(group.shares_memory(), shares, "the log says why");
        let rank = group.rank().0;
        let witness = Witness::folder(folder.clone());
        let report = run_rank(&cases, &mut Golden(group), &witness);
        std::fs::write(folder.join(format!("report-{rank}")), report.to_text()).unwrap();
        return;
    }
    let mut reports = Vec::new();
    for world in WORLDS {
        let folder = tempfile::tempdir().unwrap();
        let ranks = Ranks::start(name, world, free_port(), folder.path(), more);
        let ended = ranks.join(LIMIT);
        assert!(ended.iter().all(|&well| well), "world {world}: ranks ended well: {ended:?}");
        for rank in 0..world {
            let text = std::fs::read_to_string(folder.path().join(format!("report-{rank}")));
            reports.push(RankReport::from_text(&text.unwrap()).unwrap());
        }
    }
    let tally = Tally::merge(&cases, &reports);
    eprintln!("{name}:\n{tally}");
    assert_eq!(tally.failed(), 0, "{:#?}", tally.failures());
    assert!(tally.passed() > 960);
}

#[test]
fn golden_cases_between_processes_over_tcp() {
    let tcp = [("ALLHANDS_TRANSPORT", "tcp")];
    processes("golden_cases_between_processes_over_tcp", &tcp, false);
}

#[test]
fn golden_cases_between_processes_in_shared_memory() {
    let name = "golden_cases_between_processes_in_shared_memory";
    processes(name, &[("ALLHANDS_TRANSPORT", "auto")], cfg!(target_os = "linux"));
}
