//! Byte-exact streams through rings in awkward pieces, sleep, lies, and how peers end.
#![cfg(target_os = "linux")]

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use allhands_shm::layout::{LINE, Layout};
use allhands_shm::links::HostLinks;
use allhands_shm::segment::OwnSegment;
use allhands_transport::tcp::TcpLinks;
use allhands_transport::{Closed, Links};
use allhands_wire::Peer;
use proptest::prelude::*;

#[path = "../../allhands-transport/tests/common/mod.rs"]
mod common;
mod host;
#[path = "../../allhands-group/tests/common/ranks.rs"]
mod ranks;

use common::{PATIENCE, Random, Recorder, drive};
use host::{Rank, threads};
use ranks::{Ranks, find, leave, worker};

/// Links below the rings: the connections of all pairs, on this host.
fn below(world: usize) -> Vec<TcpLinks> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut lanes: Vec<Vec<Vec<TcpStream>>> =
        (0..world).map(|_| (0..world).map(|_| Vec::new()).collect()).collect();
    let pairs = (0..world).flat_map(|a| (0..a).map(move |b| (a, b)));
    for (a, b) in pairs {
        lanes[a][b].push(TcpStream::connect(address).unwrap());
        lanes[b][a].push(listener.accept().unwrap().0);
    }
    let links = |(me, lanes)| TcpLinks::new(Peer(me), lanes).unwrap();
    (0..).zip(lanes).map(links).collect()
}

fn host_links(world: u32) -> Vec<HostLinks> {
    let ranks = threads(world).into_iter().zip(below(world as usize));
    ranks.map(|(shared, below)| shared.links(below)).collect()
}

fn pair() -> [HostLinks; 2] {
    host_links(2).try_into().ok().expect("two ranks")
}

fn letter(seed: u64, from: usize, to: usize, len: usize) -> Vec<u8> {
    Random(seed ^ (from as u64) << 40 ^ (to as u64) << 50).bytes(len)
}

/// How much, and in which pieces.
#[derive(Clone, Copy, Debug)]
struct Case {
    seed: u64,
    len_max: usize,
    window_max: usize,
    slice_max: usize,
}

impl Case {
    fn len(self, from: usize, to: usize) -> usize {
        Random(self.seed ^ 5 ^ (from * 1000 + to) as u64).below(self.len_max)
    }
}

/// One rank: sends a letter to every other in bursts, by direct calls or by polling, checks those that come, and ends.
fn talk(links: &mut dyn Links, case: Case) {
    let (me, world) = (links.peer().index(), links.world() as usize);
    let others: Vec<usize> = (0..world).filter(|&rank| rank != me).collect();
    let mut port = Recorder::new(world as u32, case.seed ^ 77, case.window_max, case.slice_max);
    let mut random = Random(case.seed ^ 99 ^ me as u64);
    let letters: Vec<_> =
        (0..world).map(|to| letter(case.seed, me, to, case.len(me, to))).collect();
    let mut given = vec![0; world];
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "{case:?}: {me} hangs");
        let to = others[random.below(others.len())];
        let left = letters[to].len() - given[to];
        if left > 0 {
            let part = 1 + random.below(left.min(50_000));
            port.send(Peer(to as u32), &letters[to][given[to]..given[to] + part]);
            given[to] += part;
            links.flush(Peer(to as u32), &mut port);
        }
        let ready = others.iter().all(|&rank| {
            let came = port.received(Peer(rank as u32)).len();
            given[rank] == letters[rank].len() && came >= case.len(rank, me)
        });
        if ready {
            break;
        }
        match random.below(3) {
            0 => drop(links.receive(Peer(to as u32), &mut port)),
            1 => drop(links.poll(Some(Duration::ZERO), &mut port)),
            _ if others.iter().any(|&rank| given[rank] < letters[rank].len()) => {}
            _ => drop(links.poll(Some(Duration::from_millis(20)), &mut port)),
        }
    }
    // What is still unsent, the end delivers.
    links.shutdown(deadline, &mut port).expect("all sides close");
    for rank in others {
        let peer = Peer(rank as u32);
        let expected = letter(case.seed, rank, me, case.len(rank, me));
        assert!(port.received(peer) == expected, "{case:?}: {me} got other bytes from {rank}");
        assert_eq!(port.closed_by(peer), Some(Closed::Eof));
        assert_eq!(port.unsent(peer), 0);
    }
}

fn all_talk(world: u32, case: Case) {
    thread::scope(|scope| {
        for mut links in host_links(world) {
            scope.spawn(move || talk(&mut links, case));
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 20, ..ProptestConfig::default() })]

    #[test]
    fn rings_carry_every_byte_in_any_pieces(
        seed in any::<u64>(),
        world in 2..5_u32,
        len_max in prop_oneof![1..1_000_usize, 1..1_500_000_usize],
        window_max in prop_oneof![Just(0_usize), 1..100_usize, 1..10_000_usize, Just(300_000)],
        slice_max in prop_oneof![100..10_000_usize, Just(1 << 20)],
    ) {
        // Not so small that the generator's cost is all that is measured.
        let window_max = if window_max == 0 { 0 } else { window_max.max(len_max / 20_000) };
        all_talk(world, Case { seed, len_max, window_max, slice_max });
    }
}

#[test]
fn eight_ranks_talk_on_however_few_processors() {
    all_talk(8, Case { seed: 8, len_max: 400_000, window_max: 5_000, slice_max: 9_000 });
}

#[test]
fn a_dropped_side_is_told_after_its_last_byte() {
    let [mut near, mut far] = pair();
    let mut port = Recorder::new(2, 1, 10, 10);
    port.send(Peer(1), b"last words");
    near.flush(Peer(1), &mut port);
    assert_eq!(port.unsent(Peer(1)), 0);
    drop(near);
    let mut port = Recorder::new(2, 2, 3, 10);
    drive(&mut far, &mut port, "the end", |port| port.closed_by(Peer(0)).is_some());
    assert_eq!(port.received(Peer(0)), b"last words");
    assert_eq!(port.closed_by(Peer(0)), Some(Closed::Eof));
    // Closed once and for all; the recorder fails on a second time.
    port.send(Peer(0), b"too late");
    far.flush(Peer(0), &mut port);
    assert_eq!(far.receive(Peer(0), &mut port), 0);
    assert_eq!(port.unsent(Peer(0)), 8);
    // This rank itself, and ranks that do not exist, are no peers.
    for stranger in [1, 2, u32::MAX] {
        far.flush(Peer(stranger), &mut port);
        assert_eq!(far.receive(Peer(stranger), &mut port), 0);
    }
}

#[test]
fn a_shutdown_that_cannot_finish_says_for_whom() {
    let [mut near, far] = pair();
    let mut port = Recorder::new(2, 1, 10, 1 << 20);
    port.send(Peer(1), &vec![0; 8 << 20]);
    let begun = Instant::now();
    let deadline = begun + Duration::from_millis(30);
    let left = near.shutdown(deadline, &mut port).expect_err("nobody reads");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(left.undelivered, [Peer(1)]);
    assert!(port.unsent(Peer(1)) > 0);
    drop(far);
}

/// A poll that ends by its timeout would show a lost wake-up: none is as short as a round.
#[test]
fn no_sleeper_is_forgotten() {
    const ROUNDS: usize = 20_000;
    let capacity = Layout::new(2).unwrap().ring_len();
    let [mut near, mut far] = pair();
    let play = |links: &mut HostLinks, first: bool| {
        let other = Peer(1 - links.peer().0);
        let mut port = Recorder::new(2, 3, 0, 1 << 20);
        let mut came = 0;
        for round in 0..ROUNDS {
            // Now and then more than the ring holds: the writer sleeps for room, and the reader must tell it.
            let len = if round % 100 == 99 { 3 * capacity } else { 1 + round % 50 };
            let say = |links: &mut HostLinks, port: &mut Recorder| {
                port.send(other, &vec![round as u8; len]);
                links.flush(other, port);
            };
            if first {
                say(links, &mut port);
            }
            came += len;
            while port.received(other).len() < came || port.unsent(other) > 0 {
                let begun = Instant::now();
                links.poll(Some(PATIENCE), &mut port);
                assert!(begun.elapsed() < PATIENCE, "round {round}: a wake-up was lost");
            }
            assert!(port.received(other)[came - len..].iter().all(|&byte| byte == round as u8));
            if !first {
                say(links, &mut port);
                while port.unsent(other) > 0 {
                    links.poll(Some(PATIENCE), &mut port);
                }
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| play(&mut far, false));
        play(&mut near, true);
    });
}

#[test]
fn a_peer_whose_ring_lies_is_closed() {
    // What rank 0 writes over of its own: the tail of its ring to rank 1, or the head of that from rank 1.
    for (what, at) in [("tail", LINE * (1 + 2 + 1)), ("head", LINE * (1 + 1))] {
        let ranks = [Rank::new(0, 2), Rank::new(1, 2)];
        let segment: Arc<OwnSegment> = ranks[0].offer.segment.clone();
        let names: Vec<_> = ranks.iter().map(|rank| Some(rank.listener.name())).collect();
        let shared: Vec<_> = thread::scope(|scope| {
            let meet = |rank: Rank| {
                let names = &names;
                scope.spawn(move || {
                    let met = rank.meet(names, PATIENCE);
                    rank.share(met)
                })
            };
            let ranks = ranks.map(meet);
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        let mut links: Vec<_> =
            shared.into_iter().zip(below(2)).map(|(shared, below)| shared.links(below)).collect();
        // SAFETY: The word is inside the segment and aligned, and only accessed as an atomic.
        let word = unsafe { segment.base().add(at).cast::<AtomicU64>().as_ref() };
        word.store(u64::MAX / 2, Ordering::Release);
        let mut port = Recorder::new(2, 1, 10, 1 << 20);
        // Enough that the writer has to look at the head.
        port.send(Peer(0), &vec![1; 1 << 20]);
        links[1].flush(Peer(0), &mut port);
        drive(&mut links[1], &mut port, what, |port| port.closed_by(Peer(0)).is_some());
        let Some(Closed::Ring { claimed, capacity, .. }) = port.closed_by(Peer(0)) else {
            panic!("{what}: {:?}", port.closed_by(Peer(0)));
        };
        assert_eq!((claimed, capacity), (u64::MAX / 2, Layout::new(2).unwrap().ring_len()));
        assert!(port.received(Peer(0)).is_empty(), "{what}");
    }
}

#[test]
fn a_peer_that_writes_to_the_network_beside_its_ring_is_closed() {
    let mut below = below(2).into_iter();
    let (mut near, mut far) =
        (threads(2).remove(0).links(below.next().unwrap()), below.next().unwrap());
    let mut port = Recorder::new(2, 1, 10, 1 << 20);
    port.send(Peer(0), &[1; 64]);
    far.flush(Peer(0), &mut port);
    let mut port = Recorder::new(2, 0, 10, 1 << 20);
    drive(&mut near, &mut port, "the stray bytes", |port| port.closed_by(Peer(1)).is_some());
    assert_eq!(port.closed_by(Peer(1)), Some(Closed::Beside));
    assert!(port.received(Peer(1)).is_empty());
}

/// What the process that is killed has written.
const LAST_WORDS: usize = 200_000;

#[test]
fn what_a_killed_process_wrote_arrives_before_its_end() {
    let name = "what_a_killed_process_wrote_arrives_before_its_end";
    if let Some(folder) = worker() {
        let port = find(&folder, "port", PATIENCE).parse().unwrap();
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let below = TcpLinks::new(Peer(1), vec![vec![stream], vec![]]).unwrap();
        let mut links = Rank::new(1, 2).meet_in(&folder).links(below);
        let mut port = Recorder::new(2, 1, 10, 1 << 20);
        port.send(Peer(0), &letter(1, 1, 0, LAST_WORDS));
        links.flush(Peer(0), &mut port);
        assert_eq!(port.unsent(Peer(0)), 0, "the ring has room");
        leave(&folder, "written", "");
        ranks::pause(PATIENCE);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut ranks = Ranks::start_some(name, &[1], folder.path(), |_, _| {});
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    leave(folder.path(), "port", &listener.local_addr().unwrap().port().to_string());
    let mut links = {
        let rank = Rank::new(0, 2);
        let shared = rank.meet_in(folder.path());
        let stream = listener.accept().unwrap().0;
        shared.links(TcpLinks::new(Peer(0), vec![vec![], vec![stream]]).unwrap())
    };
    find(folder.path(), "written", PATIENCE);
    ranks.kill(0);
    let mut port = Recorder::new(2, 1, 1000, 10);
    drive(&mut links, &mut port, "the end", |port| port.closed_by(Peer(1)).is_some());
    assert!(port.received(Peer(1)) == letter(1, 1, 0, LAST_WORDS), "other bytes");
    let closed = port.closed_by(Peer(1));
    assert!(matches!(closed, Some(Closed::Reset | Closed::Eof)), "{closed:?}");
}
