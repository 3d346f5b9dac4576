//! Strangers on every port of a job.

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::events::{Event, Holding};
use super::rig::Rig;
use super::{Dice, PATIENCE, Spread, print};

/// Strangers that are connected at once; the oldest go when new ones come.
const AT_ONCE: usize = 500;

/// Kilobytes by which a rank may grow.
const GROWTH_BAR_KB: u64 = 4096;

/// Descriptors that a rank may have left when the strangers are gone.
const LEFT_BAR: usize = 2;

/// The longest nonsense of a stranger.
const NONSENSE_MAX: u64 = 4096;

/// How long a stranger tries to connect.
const DIAL: Duration = Duration::from_millis(50);

/// So many strangers in vain, one after the other, say that the listeners are full: those behind have nothing
/// to dial.
const IN_VAIN_MAX: usize = 40;

/// Strangers come in turn to each of `ports`; every other one talks nonsense. Returns how many got in.
fn strangers(ports: &[u16], count: usize, dice: &mut Dice, mut look: impl FnMut()) -> usize {
    let mut open = VecDeque::new();
    let (mut came, mut in_vain) = (0, 0);
    for stranger in 0..count {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports[stranger % ports.len()]));
        if let Ok(mut stream) = TcpStream::connect_timeout(&address, DIAL) {
            came += 1;
            in_vain = 0;
            if dice.below(2) == 0 {
                let nonsense: Vec<u8> =
                    (0..dice.below(NONSENSE_MAX)).map(|_| dice.below(256) as u8).collect();
                // It may be cut off at once.
                let _ = stream.write_all(&nonsense);
            }
            open.push_back(stream);
        } else {
            in_vain += 1;
            if in_vain > IN_VAIN_MAX {
                return came;
            }
        }
        if open.len() > AT_ONCE {
            open.pop_front();
        }
        if stranger % 100 == 0 {
            look();
        }
    }
    came
}

/// Ports on which a process listens.
fn listening(pid: u32) -> Result<Vec<u16>> {
    let mut own = HashSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let Ok(target) = fs::read_link(entry?.path()) else { continue };
        let name = target.to_string_lossy().into_owned();
        if let Some(inode) = name.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
            own.insert(inode.to_owned());
        }
    }
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp"))?;
    let mut ports = Vec::new();
    for line in table.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (Some(local), Some(&state), Some(inode)) = (words.get(1), words.get(3), words.get(9))
        else {
            continue;
        };
        // 0A is LISTEN.
        if state == "0A"
            && own.contains(*inode)
            && let Some((_, port)) = local.rsplit_once(':')
        {
            ports.push(u16::from_str_radix(port, 16)?);
        }
    }
    Ok(ports)
}

/// The ports of a process once it listens on `count` of them.
fn await_listening(pid: u32, count: usize) -> Result<Vec<u16>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ports = listening(pid)?;
        if ports.len() >= count {
            return Ok(ports);
        }
        ensure!(Instant::now() < deadline, "process {pid} listens on {ports:?} only");
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// What ranks have said of their work meanwhile.
fn worked(rig: &Rig) -> Result<Vec<u64>> {
    let mut took = Vec::new();
    while let Some((rank, event)) = rig.said() {
        match event {
            Event::Worked { took_ns } if rank == 0 => took.extend(took_ns),
            Event::Worked { .. } | Event::Ready => {}
            other => bail!("rank {rank} says {other:?}"),
        }
    }
    Ok(took)
}

/// Runs `cargo xtask nemesis flood`.
pub(super) fn run(program: &Path, ranks: u32, connections: usize) -> Result<()> {
    ensure!(ranks > 1, "a job of one rank has no mesh");
    let mut dice = Dice::new(1);
    let mut rig = Rig::new(program.to_path_buf(), ranks, &["serve"])?;
    // All but the last rank wait for it, listening.
    let host = rig.start(0)?;
    let mut ports = await_listening(host, 2)?;
    for rank in 1..ranks - 1 {
        let pid = rig.start(rank)?;
        ports.extend(await_listening(pid, 1)?);
    }
    ports.retain(|&port| port != rig.port());
    ensure!(!ports.is_empty(), "nobody waits for the last rank");
    let forming = Holding::of(host)?;
    let mut most = forming;
    let mut look = || {
        if let Ok(now) = Holding::of(host) {
            most.descriptors = most.descriptors.max(now.descriptors);
            most.memory_kb = most.memory_kb.max(now.memory_kb);
        }
    };
    let half = connections / 2;
    let mut came = strangers(&ports, half, &mut dice, &mut look);
    rig.start(ranks - 1)?;
    let began = Instant::now();
    let formed = thread::scope(|scope| -> Result<Duration> {
        let others = scope.spawn(|| strangers(&ports, connections - half, &mut dice, || {}));
        rig.all_ready(PATIENCE).context("the mesh did not form")?;
        let formed = began.elapsed();
        came += others.join().unwrap_or_default();
        Ok(formed)
    })?;
    look();
    print(&format!(
        "while the mesh formed: {came} strangers came to {} listeners, until nobody was let in or {connections} had \
         tried; it stood {formed:.1?} after the last rank was started",
        ports.len()
    ))?;
    let quiet = Holding::of(host)?;
    let pause = Instant::now();
    while pause.elapsed() < Duration::from_secs(3) {
        thread::park_timeout(Duration::from_millis(100));
    }
    let before = Spread::of(worked(&rig)?);
    let came = strangers(&[rig.port()], connections, &mut dice, &mut look);
    let during = Spread::of(worked(&rig)?);
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut after = Holding::of(host)?;
    while after.descriptors > quiet.descriptors + LEFT_BAR && Instant::now() < deadline {
        thread::park_timeout(Duration::from_millis(20));
        after = Holding::of(host)?;
    }
    rig.ask_to_end();
    rig.join(&[], PATIENCE)?;
    print(&format!("while the job ran: {came} of {connections} strangers came to the store"))?;
    print(&format!("  all-reduce of 64 KiB before: {before}"))?;
    print(&format!("  all-reduce of 64 KiB during: {during}"))?;
    print(&format!(
        "  rank 0: {} -> {} descriptors (most {}), {} -> {} KiB (most {})",
        quiet.descriptors,
        after.descriptors,
        most.descriptors,
        forming.memory_kb.max(quiet.memory_kb),
        after.memory_kb,
        most.memory_kb
    ))?;
    ensure!(after.descriptors <= quiet.descriptors + LEFT_BAR, "descriptors are left");
    let grown = after.memory_kb.saturating_sub(quiet.memory_kb);
    ensure!(grown <= GROWTH_BAR_KB, "rank 0 grew by {grown} KiB, above {GROWTH_BAR_KB}");
    Ok(())
}
