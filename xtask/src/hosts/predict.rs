//! The cost model against real algorithms on links whose rate is known.

use std::fs;
use std::path::Path;
use std::process::Command;

use allhands_oracles::hosts::Hosts;
use allhands_plan::{Algorithm, Collective, Network, Overlap, Row, Shape, Table, Worlds, model_on};
use anyhow::{Context, Result};

use super::{Args, PORT, print, start};
use crate::bench::cells::{Cell, Dtype, Kind, Operation, Reduction};
use crate::bench::launch::{Spec, System};
use crate::bench::machine;
use crate::bench::peers::rank_environment;
use crate::timing::{Racer, race, set_up};

/// How far a prediction may be from the measured time.
const NEAR: f64 = 0.25;

/// Bytes on the link for each byte of payload: Ethernet, IP and TCP headers of full segments.
const HEADERS: f64 = 1514.0 / 1448.0;

/// Ranks of a host exchange and combine that many bytes a second; links are far slower.
const MEMORY: f64 = 4e9;

const KIND: Kind = Kind { dtype: Dtype::F32, reduction: Reduction::Sum, root: 0 };

/// Runs every algorithm at every size, and tells how far the model is off.
pub(super) fn run(args: &Args, program: &Path, rig: &Hosts) -> Result<()> {
    let world = args.layout.hosts * args.layout.each;
    let locality = args.layout.locality();
    let any = Shape::AllReduce { len: 1 };
    let folder = tempfile::tempdir()?;
    let mut systems = Vec::new();
    let can = Algorithm::ALL.into_iter().filter(|a| a.supports_on(&any, &locality));
    for (number, algorithm) in (0..).zip(can) {
        let path = folder.path().join(algorithm.name());
        let collective = Collective::AllReduce;
        let row = Row { collective, worlds: Worlds::ANY, bytes: u64::MAX, algorithm };
        fs::write(&path, Table::new([row]).to_string())?;
        let processes = (0..world).map(|rank| {
            let mut command = Command::new(program);
            command.arg("group").env("ALLHANDS_TABLE", &path);
            rank_environment(&mut command, rank, world, PORT);
            command
        });
        let spec = Spec { name: algorithm.name().into(), processes: processes.collect() };
        systems.push((algorithm, start(rig, args.layout, spec, number)?));
    }
    let network = network(args, world, systems.first_mut().context("no algorithm")?)?;
    let (mut near, mut cells) = (0, 0);
    for &bytes in &args.sizes {
        let cell = Cell::sized(Operation::AllReduce, KIND, world, bytes);
        let shape = Shape::AllReduce { len: bytes / 4 };
        for (algorithm, system) in &mut systems {
            if !algorithm.supports_on(&shape, &locality) {
                continue;
            }
            let Some(passes) = set_up(system, &cell)? else { continue };
            let time = race(&mut [Racer { system, passes }], args.rounds)?.remove(0).median;
            let modelled = model_on(&shape, *algorithm, &locality, 4, &network)?.seconds;
            let ratio = modelled / time;
            cells += 1;
            near += u32::from((ratio - 1.0).abs() <= NEAR);
            print(&format!(
                "{bytes:>10} bytes  {algorithm:<18} measured {:>10.1} us  modelled {:>10.1} us  {ratio:.2}",
                time * 1e6,
                modelled * 1e6
            ))?;
        }
    }
    systems.into_iter().for_each(|(_, system)| system.finish());
    print(&format!("{near} of {cells} within {:.0} % of the measured time", NEAR * 100.0))
}

/// The links as the model sees them. A message between two hosts is timed for its latency while all ranks send one;
/// half of it is spent by processors. The shaper lets short bursts pass at any rate, so the model is late where
/// little is sent at a time.
fn network(args: &Args, world: u32, system: &mut (Algorithm, System)) -> Result<Network> {
    let cell = Cell::sized(Operation::SendRecv, KIND, world, 4);
    let (_, system) = system;
    let passes = set_up(system, &cell)?.context("no messages between two ranks")?;
    let trip = race(&mut [Racer { system, passes }], args.rounds)?.remove(0).median;
    let crowd = (f64::from(world) / machine::cores().max(1) as f64).max(1.0);
    print(&format!("a message takes {:.1} us", trip * 1e6))?;
    let rate = f64::from(args.mbit) * 1e6 / 8.0 / HEADERS;
    let flat = Network::flat(trip / 2.0, rate).between_hosts(1e-6, MEMORY);
    let overhead = trip / 4.0;
    Ok(Network { overhead, gamma: crowd / MEMORY, overlap: Overlap::After, ..flat })
}
