//! An all_reduce of two engines in one thread, whose bytes are handed over without any link, and the same on a board in
//! plain memory: what the engine itself costs.
//!
//! `cargo bench -p allhands-benches --bench engine`
#![allow(missing_docs)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use allhands_engine::flat::{BOARD_CHANNEL, Board, FlatPlan, Found, Lent, Note, TILE_BYTES};
use allhands_engine::{
    Config, Engine, GroupKey, GroupSpec, Prepared, Slices, Space, Storage, Submission,
};
use allhands_plan::{Algorithm, Plan, Rank, Shape};
use allhands_tensor::foreign::ForeignBytes;
use allhands_tensor::{DType, Kernel, ReduceOp};
use allhands_wire::{Descriptor, HEADER_LEN, Header, Message, Peer};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Ranks.
const WORLD: u32 = 2;
const SIZES: [(&str, usize); 3] = [("4B", 4), ("4KiB", 4 << 10), ("1MiB", 1 << 20)];
/// Turns after which an operation that has not ended is taken for stuck.
const TURNS_MAX: usize = 10_000;

/// Two engines with one group, and the call that both make again and again.
struct Pair {
    engines: [Engine; 2],
    keys: [GroupKey; 2],
    plans: [Arc<Prepared>; 2],
    data: [Vec<u8>; 2],
    kernel: Kernel,
    descriptor: Descriptor,
}

impl Pair {
    fn new(bytes: usize) -> Self {
        let len = (bytes / DType::F32.size()) as u64;
        let (shape, algorithm) = (Shape::AllReduce { len }, Algorithm::Direct);
        let mut engines =
            [0, 1].map(|me| Engine::new(Peer(me), WORLD, Config::DEFAULT, Instant::now()));
        let members: Vec<Peer> = (0..WORLD).map(Peer).collect();
        let keys = engines.each_mut().map(|engine| {
            let spec = GroupSpec { id: 1, epoch: 0, members: members.clone() };
            engine.add_group(spec).expect("a sound group")
        });
        let plans = [Rank(0), Rank(1)].map(|rank| {
            let plan = Plan::build(&shape, algorithm, WORLD, rank).expect("a sound shape");
            let size = DType::F32.size();
            let flat = FlatPlan::compile(&shape, algorithm, WORLD, rank, size, TILE_BYTES);
            Arc::new(Prepared::new(plan).with_flat(flat.expect("a sound shape")))
        });
        let op = ReduceOp::Sum;
        let descriptor = Descriptor {
            op: 1,
            reduce_op: op.code(),
            dtype: DType::F32.code(),
            algorithm: algorithm.id(),
            count: len,
            ..Descriptor::default()
        };
        let kernel = Kernel::new(DType::F32, op).expect("defined");
        Self { engines, keys, plans, data: [vec![0; bytes], vec![0; bytes]], kernel, descriptor }
    }

    fn submit(&mut self) {
        for rank in 0..self.engines.len() {
            let data = std::mem::take(&mut self.data[rank]);
            let submission = Submission {
                channel: BOARD_CHANNEL,
                plan: self.plans[rank].clone(),
                kernel: Some(self.kernel),
                element_size: DType::F32.size(),
                descriptor: self.descriptor,
                fingerprint: self.descriptor.fingerprint(),
                input: Space::empty(),
                data: Space::single(Storage::Bytes(data)),
                loan: None,
                submitted: Instant::now(),
                deadline: None,
            };
            self.engines[rank].submit(self.keys[rank], submission).expect("a sound call");
        }
    }

    /// Takes back the buffers of operations that have ended; whether all have.
    fn collect(&mut self) -> bool {
        for (engine, data) in self.engines.iter_mut().zip(&mut self.data) {
            while let Some(finished) = engine.poll_finished() {
                finished.result.expect("nothing goes wrong here");
                for piece in finished.data.into_pieces() {
                    if let Storage::Bytes(bytes) = piece {
                        *data = bytes;
                    }
                }
            }
        }
        self.engines.iter().all(|engine| engine.pending() == 0)
    }

    fn over_bytes(&mut self) {
        self.submit();
        for _ in 0..TURNS_MAX {
            let [first, second] = &mut self.engines;
            hand_over(first, second);
            hand_over(second, first);
            if self.collect() {
                return;
            }
        }
        panic!("the engines are stuck");
    }

    fn over_board(&mut self, host: &mut Host) {
        self.submit();
        for _ in 0..TURNS_MAX {
            for (rank, engine) in self.engines.iter_mut().enumerate() {
                host.me = rank;
                engine.poll_board(self.keys[rank], host);
            }
            if self.collect() {
                return;
            }
        }
        panic!("the engines are stuck");
    }

    /// Zeros stay zeros, so any number of operations may be run on them; ones show that they add up.
    fn check(&mut self, run: impl FnOnce(&mut Self)) {
        let ones = 1.0_f32.to_ne_bytes();
        self.data.iter_mut().for_each(|data| data.as_chunks_mut().0.fill(ones));
        run(self);
        let twos = 2.0_f32.to_ne_bytes();
        for data in &mut self.data {
            assert!(data.as_chunks().0.iter().all(|four| *four == twos), "1 + 1 = 2");
            data.fill(0);
        }
    }
}

/// Everything that `from` has to say to `to`, as far as one turn goes.
fn hand_over(from: &mut Engine, to: &mut Engine) {
    let (source, target) = (from.me(), to.me());
    while from.poll_dirty().is_some() {}
    while from.has_outgoing(target) {
        let mut slices = Slices::new();
        from.outgoing(target, &mut slices);
        let mut total = 0;
        for slice in &slices {
            total += slice.len();
            let mut rest: &[u8] = slice;
            while !rest.is_empty() {
                // As a link reads: straight to where the bytes belong, if that is known.
                let window = to.window(source);
                let direct = rest.len().min(window.len());
                if direct == 0 {
                    to.handle(source, rest);
                    break;
                }
                window[..direct].copy_from_slice(&rest[..direct]);
                to.filled(source, direct);
                rest = &rest[direct..];
            }
        }
        drop(slices);
        if total == 0 {
            break;
        }
        from.sent(target, total);
    }
    while let Some((_, out)) = from.poll_control() {
        let frame = out.message.encode(out.address);
        let (header, payload) = frame.as_bytes().split_at(HEADER_LEN);
        let header = Header::decode(header.try_into().expect("its length")).expect("our own");
        let message = Message::decode(&header, payload).expect("our own");
        to.handle_control(source, &header, &message);
    }
}

/// Places of a rank's ring.
const PLACES: usize = 8;

/// A rank's publications.
#[derive(Default)]
struct Outbox {
    notes: [Option<Note>; PLACES],
    bytes: [Vec<u8>; PLACES],
    published: u64,
    /// How many of them the other rank has taken.
    taken: u64,
}

/// The boards of both ranks, seen by the one whose turn it is.
#[derive(Default)]
struct Host {
    me: usize,
    outboxes: [Outbox; 2],
}

impl Board for Host {
    const PLACES: u64 = PLACES as u64;

    fn open(&mut self, len: usize) -> Option<&mut [u8]> {
        let outbox = &mut self.outboxes[self.me];
        if outbox.published >= outbox.taken + Self::PLACES {
            return None;
        }
        let bytes = &mut outbox.bytes[outbox.published as usize % PLACES];
        bytes.resize(len, 0);
        Some(bytes)
    }

    fn publish(&mut self, note: &Note) {
        let outbox = &mut self.outboxes[self.me];
        outbox.notes[outbox.published as usize % PLACES] = Some(*note);
        outbox.published += 1;
    }

    fn lend(&mut self, _: &Note, _: &Lent) -> bool {
        // Nothing is lent to the engines here, so nothing is lent on.
        false
    }

    fn published(&self) -> u64 {
        self.outboxes[self.me].published
    }

    fn look(&self, rank: Rank, number: u64) -> Option<Found> {
        let outbox = &self.outboxes[rank.index()];
        let note = (number < outbox.published).then(|| outbox.notes[number as usize % PLACES]);
        note.flatten().map(|note| Found { note, lent: None })
    }

    fn copied(&self, rank: Rank, number: u64, from: usize, len: usize) -> Option<ForeignBytes<'_>> {
        let bytes = &self.outboxes[rank.index()].bytes[number as usize % PLACES];
        bytes.get(from..from + len).map(ForeignBytes::of)
    }

    fn lent(&self, _: Rank, _: u64, _: usize) -> Option<ForeignBytes<'_>> {
        None
    }

    fn is_withdrawn(&self, _: Rank) -> bool {
        false
    }

    fn take(&mut self, rank: Rank, number: u64) {
        if rank.index() != self.me {
            self.outboxes[rank.index()].taken = number;
        }
    }

    fn taken(&self, rank: Rank) -> u64 {
        let outbox = &self.outboxes[self.me];
        if rank.index() == self.me { outbox.published } else { outbox.taken }
    }
}

fn all_reduce(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("all_reduce");
    group.warm_up_time(Duration::from_millis(200));
    group.measurement_time(Duration::from_millis(800));
    for (name, bytes) in SIZES {
        group.throughput(Throughput::Bytes(bytes as u64));
        let mut pair = Pair::new(bytes);
        pair.check(Pair::over_bytes);
        group.bench_function(format!("{name}/bytes"), |bencher| {
            bencher.iter(|| pair.over_bytes());
        });
        let mut pair = Pair::new(bytes);
        let mut host = Host::default();
        for (engine, key) in pair.engines.iter_mut().zip(pair.keys) {
            engine.share(key);
        }
        pair.check(|pair| pair.over_board(&mut host));
        group.bench_function(format!("{name}/board"), |bencher| {
            bencher.iter(|| pair.over_board(&mut host));
        });
    }
    group.finish();
}

criterion_group!(benches, all_reduce);
criterion_main!(benches);
