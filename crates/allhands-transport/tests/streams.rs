//! Byte-exact streams in awkward pieces, and how they end.

mod common;

use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use allhands_transport::local::{FabricOptions, fabric_with};
use allhands_transport::tcp::TcpLinks;
use allhands_transport::{Closed, Links};
use allhands_wire::Peer;
use common::{PATIENCE, Random, Recorder, drive};
use proptest::prelude::*;
use socket2::SockRef;

/// Connected links of two ranks with `lanes` connections and socket buffers of about `buffer` bytes.
fn tcp_pair(lanes: usize, buffer: usize) -> [TcpLinks; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for _ in 0..lanes {
        near.push(TcpStream::connect(address).expect("loopback"));
        far.push(listener.accept().expect("loopback").0);
    }
    for stream in near.iter().chain(&far) {
        stream.set_nodelay(true).expect("a TCP option");
        let socket = SockRef::from(stream);
        socket.set_send_buffer_size(buffer).expect("a socket option");
        socket.set_recv_buffer_size(buffer).expect("a socket option");
    }
    let near = TcpLinks::new(Peer(0), vec![vec![], near]).expect("descriptors");
    let far = TcpLinks::new(Peer(1), vec![far, vec![]]).expect("descriptors");
    [near, far]
}

/// How much, in which pieces, and how it is driven.
#[derive(Clone, Debug)]
struct Case {
    seed: u64,
    lens: [usize; 2],
    window_max: usize,
    slice_max: usize,
    buffer: usize,
    lanes: usize,
}

/// Buffers in bytes, and the longest letter for each: the tiniest ones let a segment through only every
/// few milliseconds.
const TCP_BUFFERS: [(usize, usize); 3] = [(1, 4_000), (16_384, 200_000), (65_536, 1_500_000)];
const PIPE_BUFFERS: [(usize, usize); 3] = [(64, 20_000), (4096, 200_000), (65_536, 500_000)];

fn cases(buffers: [(usize, usize); 3]) -> impl Strategy<Value = Case> {
    let pieces = prop_oneof![Just(0usize), 1..100usize, 1..10_000usize, Just(300_000)];
    let slices = prop_oneof![1..100usize, 1..10_000usize, Just(1 << 20)];
    let lens = [0.0..1.0f64, 0.0..1.0f64];
    (any::<u64>(), lens, pieces, slices, proptest::sample::select(buffers.to_vec()), 1..4usize)
        .prop_map(|(seed, lens, window_max, slice_max, (buffer, longest), lanes)| {
            let lens = lens.map(|part| (part * longest as f64) as usize);
            // Not so small that the generator's cost is all that is measured.
            let slice_max = slice_max.max(lens[0].max(lens[1]) / 20_000);
            Case { seed, lens, window_max, slice_max, buffer, lanes }
        })
}

fn letter(case: &Case, from: usize) -> Vec<u8> {
    Random(case.seed ^ from as u64).bytes(case.lens[from])
}

/// One side of a pair: sends its letter in bursts, by direct calls or by polling, and checks the other's.
fn talk(links: &mut dyn Links, case: &Case) {
    let me = links.peer().index();
    let other = Peer(1 - me as u32);
    let (mine, theirs) = (letter(case, me), letter(case, 1 - me));
    let mut port = Recorder::new(2, case.seed ^ 77, case.window_max, case.slice_max);
    let mut random = Random(case.seed ^ 99 ^ me as u64);
    let deadline = Instant::now() + PATIENCE;
    let mut given = 0;
    while given < mine.len() || port.unsent(other) > 0 || port.received(other).len() < theirs.len()
    {
        assert!(Instant::now() < deadline, "seed {}: {me} hangs", case.seed);
        if given < mine.len() {
            let part = 1 + random.below((mine.len() - given).min(50_000));
            port.send(other, &mine[given..given + part]);
            given += part;
            links.flush(other, &mut port);
        }
        match random.below(3) {
            0 => drop(links.receive(other, &mut port)),
            1 => drop(links.poll(Some(Duration::ZERO), &mut port)),
            _ if given < mine.len() => {}
            _ => drop(links.poll(Some(Duration::from_millis(20)), &mut port)),
        }
    }
    links.shutdown(deadline, &mut port).expect("both sides close");
    assert!(port.received(other) == theirs, "seed {}: {me} got other bytes", case.seed);
    assert_eq!(port.closed_by(other), Some(Closed::Eof));
}

fn both_talk(pair: &mut [Box<dyn Links>; 2], case: &Case) {
    let [near, far] = pair;
    thread::scope(|scope| {
        scope.spawn(|| talk(far.as_mut(), case));
        talk(near.as_mut(), case);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 20, ..ProptestConfig::default() })]

    #[test]
    fn tcp_carries_every_byte_in_any_pieces(case in cases(TCP_BUFFERS)) {
        let [near, far] = tcp_pair(case.lanes, case.buffer);
        both_talk(&mut [Box::new(near), Box::new(far)], &case);
    }

    #[test]
    fn local_pipes_carry_every_byte_in_any_pieces(case in cases(PIPE_BUFFERS)) {
        let options = FabricOptions::default().pipe_capacity(case.buffer);
        let mut ranks = fabric_with(2, options).into_iter().map(|(links, _)| links);
        let mut next = || Box::new(ranks.next().expect("two ranks")) as Box<dyn Links>;
        both_talk(&mut [next(), next()], &case);
    }
}

/// Everything that two pairs of links have in common about their end.
fn ends_are_told([mut near, mut far]: [Box<dyn Links>; 2]) {
    let mut port = Recorder::new(2, 1, 10, 10);
    port.send(Peer(1), b"last words");
    near.flush(Peer(1), &mut port);
    assert_eq!(port.unsent(Peer(1)), 0);
    drop(near);
    let mut port = Recorder::new(2, 2, 3, 10);
    drive(far.as_mut(), &mut port, "the end", |port| port.closed_by(Peer(0)).is_some());
    assert_eq!(port.received(Peer(0)), b"last words");
    assert_eq!(port.closed_by(Peer(0)), Some(Closed::Eof));
    // Closed once and for all; the recorder fails on a second time.
    port.send(Peer(0), b"too late");
    far.flush(Peer(0), &mut port);
    assert_eq!(far.receive(Peer(0), &mut port), 0);
    assert_eq!(far.poll(Some(Duration::ZERO), &mut port), 0);
    assert_eq!(port.unsent(Peer(0)), 8);
    // This rank itself, and ranks that do not exist, are no peers.
    for stranger in [1, 2, u32::MAX] {
        far.flush(Peer(stranger), &mut port);
        assert_eq!(far.receive(Peer(stranger), &mut port), 0);
    }
}

fn boxed<L: Links + 'static>(pair: [L; 2]) -> [Box<dyn Links>; 2] {
    pair.map(|links| Box::new(links) as Box<dyn Links>)
}

fn local_pair() -> [Box<dyn Links>; 2] {
    let ranks: Vec<_> = fabric_with(2, FabricOptions::default()).into_iter().map(|r| r.0).collect();
    boxed(ranks.try_into().ok().expect("two ranks"))
}

#[test]
fn a_dropped_side_is_told_after_its_last_byte() {
    ends_are_told(boxed(tcp_pair(1, 65_536)));
    ends_are_told(boxed(tcp_pair(3, 65_536)));
    ends_are_told(local_pair());
}

#[test]
fn the_end_is_told_by_direct_reads_too() {
    for [near, mut far] in [boxed(tcp_pair(1, 65_536)), local_pair()] {
        drop(near);
        let mut port = Recorder::new(2, 2, 3, 10);
        let deadline = Instant::now() + PATIENCE;
        while port.closed_by(Peer(0)).is_none() {
            assert!(Instant::now() < deadline, "no end");
            far.receive(Peer(0), &mut port);
        }
        assert_eq!(port.closed_by(Peer(0)), Some(Closed::Eof));
    }
}

#[test]
fn a_reset_is_told_as_a_reset() {
    let [mut near, far] = tcp_pair(1, 65_536);
    let mut port = Recorder::new(2, 1, 10, 1000);
    port.send(Peer(1), &[1; 1000]);
    near.flush(Peer(1), &mut port);
    // Dropping unread bytes makes the system answer with a reset. On one host they are there when the
    // write returns.
    drop(far);
    drive(&mut near, &mut port, "the reset", |port| port.closed_by(Peer(1)).is_some());
    assert_eq!(port.closed_by(Peer(1)), Some(Closed::Reset));
}

#[test]
fn writing_to_a_dead_peer_hands_over_its_last_bytes_first() {
    let [mut near, mut far] = tcp_pair(1, 65_536);
    let mut port = Recorder::new(2, 1, 10, 1000);
    port.send(Peer(0), b"why i leave");
    far.flush(Peer(0), &mut port);
    drop(far);
    let mut port = Recorder::new(2, 1, 0, 1 << 20);
    let deadline = Instant::now() + PATIENCE;
    while port.closed_by(Peer(1)).is_none() {
        assert!(Instant::now() < deadline, "writing goes on for ever");
        port.send(Peer(1), &[0; 4096]);
        near.flush(Peer(1), &mut port);
    }
    assert_eq!(port.received(Peer(1)), b"why i leave");
}

#[test]
fn a_wake_ends_a_sleep_and_is_kept_for_the_next() {
    for [mut near, far] in [boxed(tcp_pair(1, 65_536)), local_pair()] {
        let mut port = Recorder::new(2, 1, 10, 1000);
        // The first readiness of fresh sockets.
        near.poll(Some(Duration::ZERO), &mut port);
        let waker = near.waker();
        waker.wake();
        let start = Instant::now();
        near.poll(Some(PATIENCE), &mut port);
        assert!(start.elapsed() < PATIENCE, "an early wake was lost");
        let start = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| waker.wake());
            near.poll(Some(PATIENCE), &mut port);
        });
        assert!(start.elapsed() < PATIENCE, "a wake was lost");
        near.poll(Some(Duration::ZERO), &mut port);
        let start = Instant::now();
        near.poll(Some(Duration::from_millis(5)), &mut port);
        assert!(start.elapsed() >= Duration::from_millis(5), "a wake was kept twice");
        drop(far);
    }
}

#[test]
fn a_shutdown_that_cannot_finish_says_for_whom() {
    for [mut near, far] in [boxed(tcp_pair(1, 4096)), local_pair()] {
        let mut port = Recorder::new(2, 1, 10, 1 << 20);
        port.send(Peer(1), &vec![0; 8 << 20]);
        let deadline = Instant::now() + Duration::from_millis(30);
        let left = near.shutdown(deadline, &mut port).expect_err("nobody reads");
        assert_eq!(left.undelivered, [Peer(1)]);
        assert!(port.unsent(Peer(1)) > 0);
        drop(far);
    }
}

#[test]
fn a_busy_peer_does_not_starve_another() {
    // Rank 0 of three; ranks 1 and 2 are raw sockets.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let connect = || {
        let near = TcpStream::connect(address).expect("loopback");
        (near, listener.accept().expect("loopback").0)
    };
    let ((near1, mut far1), (near2, mut far2)) = (connect(), connect());
    let mut links = TcpLinks::new(Peer(0), vec![vec![], vec![near1], vec![near2]]).expect("fds");
    let flood = 24 << 20;
    thread::scope(|scope| {
        scope.spawn(move || std::io::Write::write_all(&mut far1, &vec![1; flood]));
        std::io::Write::write_all(&mut far2, b"me too").expect("a small write");
        let mut port = Recorder::new(3, 5, 1 << 20, 1);
        let mut seen_at = None;
        drive(&mut links, &mut port, "both", |port| {
            if seen_at.is_none() && port.received(Peer(2)).len() == 6 {
                seen_at = Some(port.received(Peer(1)).len());
            }
            seen_at.is_some() && port.received(Peer(1)).len() == flood
        });
        assert!(seen_at.expect("seen") < flood, "the small message came last");
    });
}
