//! Shared memory between two ranks, both played by one thread: what its steps cost without any waiting.
//!
//! `cargo bench -p allhands-benches --bench ring`
#![allow(missing_docs)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use allhands_shm::board::{Board, Head};
use allhands_shm::layout::Layout;
use allhands_shm::ring::ends;
use allhands_shm::segment::{OwnSegment, PeerSegment};
use allhands_shm::wake::{Barrier, PeerWaker, Wakers, event};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// What each rank of two has mapped.
struct Memory {
    layout: Layout,
    own: [Arc<OwnSegment>; 2],
    /// Rank 0's view of rank 1, and the other way round.
    peers: [Arc<PeerSegment>; 2],
}

impl Memory {
    fn new() -> Self {
        let layout = Layout::new(2).expect("two ranks share memory");
        let make = || OwnSegment::create(layout.segment_len()).map(Arc::new).expect("memory");
        let own = [make(), make()];
        let map = |of: usize| PeerSegment::map(own[of].fd(), own[of].len()).expect("sealed");
        let peers = [Arc::new(map(1)), Arc::new(map(0))];
        Self { layout, own, peers }
    }

    fn board(&self, me: usize) -> Board {
        let event = || event().expect("descriptors");
        let own = self.own[me].clone();
        let peer = self.peers[me].clone();
        let barrier = Barrier::Remote;
        let waker = PeerWaker { segment: peer.clone(), wake: event(), progress: event(), barrier };
        let mut others = vec![None, None];
        others[1 - me] = Some(waker);
        let wakers = Arc::new(Wakers::new(self.layout, own.clone(), event(), barrier, others));
        let mut peers = vec![None, None];
        peers[1 - me] = Some(peer);
        Board::new(own, peers, me, self.layout.board_at(), wakers)
    }
}

fn rings(criterion: &mut Criterion) {
    let memory = Memory::new();
    let (mut writer, _) = ends(memory.layout, &memory.own[0], 0, &memory.peers[0], 1);
    let (_, mut reader) = ends(memory.layout, &memory.own[1], 1, &memory.peers[1], 0);
    let mut group = criterion.benchmark_group("ring");
    group.warm_up_time(Duration::from_millis(200));
    group.measurement_time(Duration::from_millis(800));
    for (name, len) in [("64B", 64), ("64KiB", 64 << 10)] {
        let (source, mut target) = (vec![1_u8; len], vec![0_u8; len]);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                assert!(writer.room().expect("an honest reader") >= len, "the ring is empty");
                assert_eq!(writer.write(black_box(&source)), len);
                writer.commit();
                assert_eq!(reader.available().expect("an honest writer"), len);
                assert_eq!(reader.read(black_box(&mut target)), len);
                reader.release();
            });
        });
        assert_eq!(source, target);
    }
    group.finish();
}

fn boards(criterion: &mut Criterion) {
    let memory = Memory::new();
    let (mut publisher, mut reader) = (memory.board(0), memory.board(1));
    let mut group = criterion.benchmark_group("board");
    group.warm_up_time(Duration::from_millis(200));
    group.measurement_time(Duration::from_millis(800));
    // In the head, in the place's own buffer, in a long buffer.
    for (name, len) in [("4B", 4), ("1KiB", 1 << 10), ("64KiB", 64 << 10)] {
        let (source, mut target) = (vec![1_u8; len], vec![0_u8; len]);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let seq = publisher.published();
                let room = publisher.open(len).expect("everything was taken");
                room.copy_from_slice(black_box(&source));
                let head = Head { seq, fingerprint: 1, len: len as u32, tile: 0, lent: None };
                publisher.publish(&head);
                assert_eq!(reader.look(0, seq), Some(head));
                let bytes = reader.copied(0, seq, 0, len).expect("it is there");
                bytes.copy_to(black_box(&mut target));
                reader.take(0, seq + 1);
            });
        });
        assert_eq!(source, target);
    }
    group.finish();
}

criterion_group!(benches, rings, boards);
criterion_main!(benches);
