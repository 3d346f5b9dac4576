//! Forming a mesh under a flood. Alone in its process, because it counts descriptors.

mod common;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use allhands_transport::tcp::Mesh;
use common::{PATIENCE, Random, config_at, endpoints, join, listeners, loopback, membership};

/// Connects as fast as it can and misbehaves in one of several ways, until told to stop.
fn pester(address: SocketAddr, seed: u64, stop: &AtomicBool, count: &AtomicU64) {
    let mut random = Random(seed);
    let mut silent = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        // Descriptors are shared with the ranks under test.
        if silent.len() >= 60 {
            silent.clear();
        }
        let Ok(mut stream) = TcpStream::connect(address) else {
            thread::yield_now();
            continue;
        };
        count.fetch_add(1, Ordering::SeqCst);
        match random.below(4) {
            0 => silent.push(stream),
            1 => drop(stream.write_all(b"GET / HTTP/1.1\r\nhost: rank0\r\n\r\n")),
            2 => drop(stream.write_all(&random.bytes(4096))),
            _ => {}
        }
    }
}

#[test]
fn a_mesh_forms_under_thousands_of_strays_and_frees_their_descriptors() {
    let world = 3;
    let listening = listeners(world, &config_at(loopback()));
    let peers = endpoints(&listening);
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let before = open_descriptors();
    let meshes: Vec<Mesh> = thread::scope(|scope| {
        let target = peers[0].addresses()[0];
        for seed in 0..3 {
            let (stop, count) = (&stop, &count);
            scope.spawn(move || pester(target, seed, stop, count));
        }
        let mut listening = listening.into_iter();
        let zero = listening.next().expect("rank 0");
        let zero = scope.spawn(|| join(zero, &peers, &membership(0, world), PATIENCE * 2));
        // The others come only when the flood is on.
        let deadline = Instant::now() + PATIENCE;
        while count.load(Ordering::SeqCst) < 2000 && Instant::now() < deadline {
            thread::yield_now();
        }
        let others: Vec<_> = (1..)
            .zip(listening)
            .map(|(me, listener)| {
                let peers = &peers;
                scope.spawn(move || join(listener, peers, &membership(me, world), PATIENCE * 2))
            })
            .collect();
        let outcomes: Vec<_> =
            others.into_iter().map(|rank| rank.join().expect("a rank")).collect();
        let zero = zero.join().expect("rank 0");
        stop.store(true, Ordering::SeqCst);
        [zero].into_iter().chain(outcomes).map(|mesh| mesh.expect("the mesh forms")).collect()
    });
    assert!(count.load(Ordering::SeqCst) >= 2000, "the flood was a trickle");
    assert!(meshes[0].report.turned_away.strays > 0);
    // A listener and what it queued are gone; the mesh has two connections a pair at each end, and a few
    // descriptors of its own.
    if let (Some(before), Some(now)) = (before, open_descriptors()) {
        let expected = 2 * 2 * 3 + 4 * world as usize;
        assert!(now <= before + expected, "{before} descriptors became {now}");
    }
    for mesh in meshes {
        drop(mesh);
    }
}

/// Open descriptors of this process, where the system tells.
fn open_descriptors() -> Option<usize> {
    std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count)
}
