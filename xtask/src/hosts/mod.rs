//! `cargo xtask hosts`: all-reduces of several ranks on several hosts, against what the links allow.
//!
//! Hosts are network namespaces joined by a bridge, whose links carry a given rate. A host of H must send
//! `2(H−1)/H · n` bytes of an all-reduce of n: what it holds cannot be known elsewhere otherwise. So no
//! all-reduce takes less than `2(H−1)/H · n / rate`.

mod predict;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::Command;

use allhands_oracles::hosts::Hosts;
use anyhow::{Result, anyhow, ensure};

use crate::bench::cells::{Cell, Dtype, Kind, Operation, Reduction};
use crate::bench::cli::Transport;
use crate::bench::launch::{Spec, System};
use crate::bench::machine;
use crate::bench::peers::{Peer, rank_environment};
use crate::layout::Layout;
use crate::skip::skip;
use crate::timing::{PATIENCE, Racer, race, set_up};

/// How much longer than the bound a 25 MiB all-reduce may take.
const BAR: f64 = 1.15;

/// Bytes from which the bar holds: below, latencies count.
const BAR_FROM: u64 = 25 << 20;

/// Turns the skip where there can be no hosts into a failure.
const REQUIRE: &str = "ALLHANDS_REQUIRE_NETNS";

/// The store's port: namespaces have all ports for themselves.
const PORT: u16 = 29_500;

/// `cargo xtask hosts`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Hosts and ranks on each, as in 2x2.
    #[arg(long, default_value = "2x2")]
    layout: Layout,
    /// Mbit/s of each host's link.
    #[arg(long, default_value_t = 1000)]
    mbit: u32,
    /// Bytes that are reduced.
    #[arg(long, value_delimiter = ',', default_values_t = [65_536, 1 << 20, 25 << 20])]
    sizes: Vec<u64>,
    /// How often each system is measured.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Run every algorithm instead, and compare its time with what the cost model says of such links.
    #[arg(long)]
    predict: bool,
    /// Report a figure that misses its bar, but do not fail.
    #[arg(long)]
    report_only: bool,
    /// A built `bench-rank` to use instead of building one.
    #[arg(long)]
    program: Option<PathBuf>,
}

/// The least time of an all-reduce of `bytes` between hosts whose links carry `mbit`, in seconds.
fn bound(hosts: u32, bytes: u64, mbit: u32) -> f64 {
    let hosts = f64::from(hosts);
    2.0 * (hosts - 1.0) / hosts * bytes as f64 * 8.0 / (f64::from(mbit) * 1e6)
}

/// Runs `cargo xtask hosts`.
///
/// # Errors
/// There can be no hosts here, a result is wrong, or a figure misses its bar.
pub fn main(args: &Args) -> Result<()> {
    let Layout { hosts, each } = args.layout;
    let program = match &args.program {
        Some(program) => program.clone(),
        None => crate::program::build()?,
    };
    let rig = match Hosts::start(hosts, Some(args.mbit)) {
        Ok(rig) => rig,
        Err(why) => return skip("hosts", REQUIRE, &why),
    };
    let world = hosts * each;
    if args.predict {
        return predict::run(args, &program, &rig);
    }
    let ours = |name: &str, hierarchy: &str| {
        let processes = (0..world).map(|rank| {
            let mut command = Command::new(&program);
            command.arg("group").env("ALLHANDS_HIERARCHY", hierarchy);
            rank_environment(&mut command, rank, world, PORT);
            command
        });
        Spec { name: name.to_owned(), processes: processes.collect() }
    };
    let mut specs = vec![ours("hierarchical", "auto"), ours("flat", "off")];
    match Peer::TorchGloo.find(world, Transport::Tcp, &machine::workspace().join("target"))? {
        Ok(spec) => specs.push(spec),
        Err(missing) => print(&format!("SKIP {missing}"))?,
    }
    let mut systems = Vec::new();
    for (number, spec) in (0..).zip(specs) {
        systems.push(start(&rig, args.layout, spec, number)?);
    }
    print(&format!(
        "{hosts} hosts of {each} ranks, {} Mbit/s each; bound 2(H-1)/H n / rate",
        args.mbit
    ))?;
    let mut missed = Vec::new();
    for &bytes in &args.sizes {
        missed.extend(measure(args, world, bytes, &mut systems)?);
    }
    systems.into_iter().for_each(System::finish);
    ensure!(missed.is_empty() || args.report_only, "{}", missed.join("; "));
    Ok(())
}

/// Starts a system on the hosts: number `number` of this run.
fn start(rig: &Hosts, layout: Layout, mut spec: Spec, number: u16) -> Result<System> {
    let place = |(rank, mut command): (u32, Command)| {
        command.env("MASTER_ADDR", rig.address(0)).env("GLOO_SOCKET_IFNAME", "eth0");
        // Every system meets at a store of its own.
        command.env("MASTER_PORT", (PORT + number).to_string());
        rig.on(rank / layout.each, &command)
    };
    spec.processes = (0..).zip(spec.processes).map(place).collect();
    System::start(spec, layout.hosts * layout.each, PATIENCE)
}

/// Measures one size; what misses its bar.
fn measure(args: &Args, world: u32, bytes: u64, systems: &mut [System]) -> Result<Vec<String>> {
    let kind = Kind { dtype: Dtype::F32, reduction: Reduction::Sum, root: 0 };
    let cell = Cell::sized(Operation::AllReduce, kind, world, bytes);
    let mut racers = Vec::new();
    for system in systems {
        let told = anyhow!("{} does no all-reduce", system.name());
        let passes = set_up(system, &cell)?.ok_or(told)?;
        racers.push(Racer { system, passes });
    }
    let times = race(&mut racers, args.rounds)?;
    let least = bound(args.layout.hosts, bytes, args.mbit);
    print(&format!("{bytes} bytes: bound {:.2} ms", least * 1e3))?;
    let mut missed = Vec::new();
    let ours = times[0].median;
    for (number, (racer, time)) in racers.iter().zip(&times).enumerate() {
        let (name, ratio) = (racer.system.name(), time.median / least);
        print(&format!(
            "  {name:<14} {:>9.2} ms  {ratio:.2} x bound  (from {:.2} to {:.2} ms)",
            time.median * 1e3,
            time.min * 1e3,
            time.max * 1e3
        ))?;
        if number == 0 && bytes >= BAR_FROM && ratio > BAR {
            missed.push(format!("{bytes} bytes take {ratio:.2} times the bound, not {BAR}"));
        }
        if number > 1 && bytes >= BAR_FROM && time.median < ours {
            missed.push(format!("{bytes} bytes: {name} is faster"));
        }
    }
    Ok(missed)
}

fn print(line: &str) -> Result<()> {
    Ok(writeln!(io::stdout(), "{line}")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hosts_send_what_is_reduced_once() {
        assert!((bound(2, 125_000_000, 1000) - 1.0).abs() < 1e-9);
        assert!((bound(4, 125_000_000, 1000) - 1.5).abs() < 1e-9);
    }
}
