//! What an all_reduce in shared memory takes at least on this machine: `bench-cluster` starts one of these a rank.
//!
//! A lower bound, not a collective: the flags are fixed, nothing is checked, nobody sleeps, and a rank that dies leaves the
//! others spinning until they give up. The sum of f32 in three ways:
//!
//! | variant | where the data is | what a rank does |
//! |---|---|---|
//! | `user_buffers_shared` | in segments that all map | reduces its slice in place, then copies the others' |
//! | `staged_oneshot` | in private memory | copies a chunk to its slot, then adds everybody's chunk to its own |
//! | `staged_slices` | in private memory | copies a chunk to its slot, reduces its slice there, copies the others' |
//!
//! It speaks the control protocol of `bench-rank`: a command a line, one line of JSON back. `open BYTES` makes a segment,
//! `peers PID:DESCRIPTOR …` maps everybody's, `check VARIANT CHUNK` compares one result with a naive sum,
//! `run VARIANT CHUNK WARM ITERATIONS` says how long the iterations took, and `close` gives the memory back.
#![cfg(target_os = "linux")]

use std::env;
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::process;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use allhands_shm::segment::{OwnSegment, PeerSegment};
use allhands_tensor::foreign::ForeignBytes;
use allhands_tensor::{DType, Kernel, ReduceOp};

/// The most ranks.
const WORLD_MAX: usize = 8;
/// Bytes of the flag's page, which the data follows.
const FLAG: usize = 4096;
/// Bytes between slots, so that two never begin at the same place of a page's lines.
const GAP: usize = 4096;
/// The longest chunk; a rank has two slots of it.
const CHUNK_MAX: usize = 512 << 10;
/// Up to here a chunk is not worth cutting into slices.
const SLICED_FROM: usize = 4096;
/// Up to here everybody sums everything.
const SHORT: usize = 1024;
/// Pauses before a wait yields: where each rank has a core, and where they share cores.
const SPIN: [u64; 2] = [20_000, 20];
/// Yields between two looks at the clock.
const LOOK: u64 = 4096;
/// How long a rank waits for another.
const PATIENCE: Duration = Duration::from_secs(60);
/// Exit codes of a rank whose driver or whose peer is gone.
const ORPHANED: i32 = 3;
const LONELY: i32 = 4;

type Failure = Box<dyn Error>;

fn main() -> Result<(), Failure> {
    let mut args = env::args().skip(1);
    let rank: usize = args.next().ok_or("which rank?")?.parse()?;
    let world: usize = args.next().ok_or("how many ranks?")?.parse()?;
    if world > WORLD_MAX || rank >= world {
        return Err(format!("rank {rank} of {world}: at most {WORLD_MAX} ranks").into());
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut set = rustix::thread::CpuSet::new();
    set.set(rank % cores);
    rustix::thread::sched_setaffinity(None, &set)?;
    let path = env::var_os("ALLHANDS_BENCH_CONTROL").ok_or("bench-cluster starts this program")?;
    let mut control = UnixStream::connect(path)?;
    let (sender, commands) = mpsc::channel();
    let lines = BufReader::new(control.try_clone()?).lines();
    // A thread of its own, so that the driver's end is noticed while this rank spins.
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
        process::exit(ORPHANED);
    });
    let pid = process::id();
    let hello = format!("{{\"hello\":{{\"rank\":{rank},\"pid\":{pid},\"what\":\"bound\"}}}}\n");
    control.write_all(hello.as_bytes())?;
    let mut place =
        Place { rank, world, spin: SPIN[usize::from(world > cores)], bytes: 0, field: None };
    loop {
        let line = commands.recv()?;
        if line == "quit" {
            return Ok(());
        }
        let reply = place.command(&line);
        let reply = reply.unwrap_or_else(|error| format!("{{\"error\":{:?}}}", error.to_string()));
        control.write_all(reply.as_bytes())?;
        control.write_all(b"\n")?;
    }
}

/// What a rank knows between commands.
struct Place {
    rank: usize,
    world: usize,
    spin: u64,
    bytes: usize,
    field: Option<Field>,
}

impl Place {
    fn command(&mut self, line: &str) -> Result<String, Failure> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["open", bytes] => {
                // The old one goes first: two may not fit.
                self.field = None;
                self.bytes = bytes.parse()?;
                if self.bytes == 0 || !self.bytes.is_multiple_of(4) {
                    return Err("an all_reduce of f32 has a multiple of 4 bytes".into());
                }
                let field = Field::open(self.rank, self.world, self.spin, self.bytes)?;
                let descriptor = field.own.fd().as_raw_fd();
                self.field = Some(field);
                Ok(format!("{{\"descriptor\":{descriptor}}}"))
            }
            ["close"] => {
                self.field = None;
                Ok("\"ready\"".into())
            }
            ["peers", all @ ..] if all.len() == self.world => {
                self.field()?.map(all)?;
                Ok("\"ready\"".into())
            }
            ["check", variant, chunk] => {
                let variant = Variant::named(variant, chunk.parse()?)?;
                let wrong = self.mapped()?.check(variant);
                Ok(format!("{{\"wrong\":{wrong}}}"))
            }
            ["run", variant, chunk, warm, iterations] => {
                let variant = Variant::named(variant, chunk.parse()?)?;
                let field = self.mapped()?;
                field.run(variant, warm.parse()?);
                let took = field.run(variant, iterations.parse()?);
                Ok(format!("{{\"elapsed\":{}}}", took.as_nanos()))
            }
            _ => Err(format!("unknown command {line}").into()),
        }
    }

    fn mapped(&mut self) -> Result<&mut Field, Failure> {
        let world = self.world;
        let field = self.field()?;
        if field.peers.len() < world { Err("`peers` comes first".into()) } else { Ok(field) }
    }

    fn field(&mut self) -> Result<&mut Field, Failure> {
        self.field.as_mut().ok_or_else(|| "`open` comes first".into())
    }
}

/// A way to do it; chunks are in bytes.
#[derive(Clone, Copy)]
enum Variant {
    Shared,
    OneShot { chunk: usize },
    Slices { chunk: usize },
}

impl Variant {
    fn named(name: &str, chunk: usize) -> Result<Self, Failure> {
        let fits = (4..=CHUNK_MAX).contains(&chunk) && chunk.is_multiple_of(64);
        match name {
            "user_buffers_shared" => Ok(Self::Shared),
            "staged_oneshot" if fits => Ok(Self::OneShot { chunk }),
            "staged_slices" if fits => Ok(Self::Slices { chunk }),
            _ => Err(format!("no variant {name} with chunks of {chunk} bytes").into()),
        }
    }
}

/// The memory of all ranks, and this rank's private buffer.
struct Field {
    data: Private,
    shared: Shared,
    own: OwnSegment,
    /// Keep the memory mapped; empty until everybody's is known.
    peers: Vec<Option<PeerSegment>>,
    bytes: usize,
    kernel: Kernel,
    /// Chunks over all operations: a slot is written again only two chunks later.
    chunks: usize,
}

/// A private buffer that begins at a page, as a large allocation does.
struct Private {
    memory: Vec<u8>,
    from: usize,
    len: usize,
}

impl Private {
    fn new(len: usize) -> Self {
        let memory = vec![0; len + 2 * GAP];
        let from = memory.as_ptr().align_offset(GAP).min(GAP);
        Self { memory, from, len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.from..self.from + self.len]
    }
}

/// Where every rank's segment is mapped here.
struct Shared {
    bases: [NonNull<u8>; WORLD_MAX],
    len: usize,
    me: usize,
    world: usize,
    spin: u64,
    phase: u32,
}

impl Shared {
    fn flag(&self, rank: usize) -> &AtomicU32 {
        // SAFETY: Every base is the beginning of a segment that `Field` keeps mapped as long as this lives, aligned to a page
        // and longer than the flag. The word is only accessed as an atomic, and read-only mappings are only read.
        unsafe { self.bases[rank].cast::<AtomicU32>().as_ref() }
    }

    /// `len` bytes of a rank's data.
    fn of(&self, rank: usize, from: usize, len: usize) -> ForeignBytes<'_> {
        assert!(from + len <= self.len);
        // SAFETY: The range is within the segment's data, which stays mapped and is sealed against shrinking. This process
        // writes only its own data, through `parts`, whose exclusive borrow excludes the one that lives here.
        unsafe { ForeignBytes::new(self.bases[rank].as_ptr().add(FLAG + from), len) }
    }

    /// Everybody's data, in the order of ranks.
    fn all(&self, from: usize, len: usize) -> [ForeignBytes<'_>; WORLD_MAX] {
        let mut all = [ForeignBytes::of(&[]); WORLD_MAX];
        for (rank, bytes) in all[..self.world].iter_mut().enumerate() {
            *bytes = self.of(rank, from, len);
        }
        all
    }

    /// This rank's own data, to be written, and beside it the same part of the others, in the order of ranks.
    fn parts(&mut self, from: usize, len: usize) -> (&mut [u8], [ForeignBytes<'_>; WORLD_MAX]) {
        let own = self.of(self.me, from, len).len();
        let mut others = self.all(from, len);
        others[self.me..self.world].rotate_left(1);
        others[self.world - 1] = ForeignBytes::of(&[]);
        // SAFETY: `of` has checked the range, which is this rank's own data, mapped writable here alone. The exclusive borrow
        // excludes every other reference of this process to it, and the array no longer holds it. The other ranks read it
        // as foreign bytes, after the flag.
        let own = unsafe {
            std::slice::from_raw_parts_mut(self.bases[self.me].as_ptr().add(FLAG + from), own)
        };
        (own, others)
    }

    fn mine(&mut self, from: usize, len: usize) -> &mut [u8] {
        self.parts(from, len).0
    }

    /// Adds the others' part to this rank's.
    fn reduce(&mut self, kernel: &Kernel, from: usize, len: usize) {
        let (me, count) = (self.me, self.world - 1);
        let (own, others) = self.parts(from, len);
        kernel.reduce_foreign(own, Some(me), &others[..count]);
    }

    /// Says that this rank has come one phase further.
    fn publish(&mut self) {
        self.phase = self.phase.wrapping_add(1);
        self.flag(self.me).store(self.phase, Ordering::Release);
    }

    /// Waits until everybody has.
    fn wait(&self) {
        for rank in 0..self.world {
            let flag = self.flag(rank);
            let mut looks = 0_u64;
            let mut since = None;
            while (flag.load(Ordering::Acquire).wrapping_sub(self.phase).cast_signed()) < 0 {
                if looks < self.spin {
                    std::hint::spin_loop();
                } else {
                    thread::yield_now();
                    if looks.is_multiple_of(LOOK)
                        && since.get_or_insert_with(Instant::now).elapsed() > PATIENCE
                    {
                        process::exit(LONELY);
                    }
                }
                looks += 1;
            }
        }
    }

    fn meet(&mut self) {
        self.publish();
        self.wait();
    }
}

/// The elements of rank `rank` in a check: whole numbers whose sums are exact.
fn sample(rank: usize, at: usize) -> f32 {
    ((at * 7 + rank * 13) % 101) as f32
}

/// Rank `rank`'s slice of `len` bytes, cut at lines.
fn slice(len: usize, rank: usize, world: usize) -> (usize, usize) {
    let most = len.div_ceil(world).next_multiple_of(128);
    let from = (rank * most).min(len);
    (from, most.min(len - from))
}

impl Field {
    fn open(me: usize, world: usize, spin: u64, bytes: usize) -> Result<Self, Failure> {
        let len = bytes.max(2 * (CHUNK_MAX + GAP));
        let own = OwnSegment::create(FLAG + len)?;
        let shared = Shared { bases: [own.base(); WORLD_MAX], len, me, world, spin, phase: 0 };
        let kernel = Kernel::new(DType::F32, ReduceOp::Sum)?;
        let data = Private::new(bytes);
        Ok(Self { data, shared, own, peers: Vec::new(), bytes, kernel, chunks: 0 })
    }

    /// Maps the segments of `all`, a process and its descriptor for each rank.
    fn map(&mut self, all: &[&str]) -> Result<(), Failure> {
        let len = self.own.len();
        self.peers.clear();
        for (rank, name) in all.iter().enumerate() {
            if rank == self.shared.me {
                self.peers.push(None);
                continue;
            }
            let (pid, descriptor) = name.split_once(':').ok_or("peers are PID:DESCRIPTOR")?;
            let (pid, descriptor): (u32, u32) = (pid.parse()?, descriptor.parse()?);
            let file = File::open(format!("/proc/{pid}/fd/{descriptor}"))?;
            let segment = PeerSegment::map(file.as_fd(), len)?;
            self.shared.bases[rank] = segment.base();
            self.peers.push(Some(segment));
        }
        Ok(())
    }

    /// Elements that a sum of samples has wrong; zeros are there afterwards.
    fn check(&mut self, variant: Variant) -> usize {
        let Shared { me, world, .. } = self.shared;
        let bytes = self.bytes;
        self.fill(variant, |at| sample(me, at));
        self.run(variant, 1);
        let wanted = |at| (0..world).map(|rank| sample(rank, at)).sum::<f32>();
        let result = match variant {
            Variant::Shared => self.shared.mine(0, bytes),
            _ => self.data.bytes(),
        };
        let found = result.as_chunks::<4>().0.iter().enumerate();
        let wrong = found.filter(|(at, four)| f32::from_ne_bytes(**four) != wanted(*at)).count();
        self.shared.meet();
        self.fill(variant, |_| 0.0);
        wrong
    }

    fn fill(&mut self, variant: Variant, value: impl Fn(usize) -> f32) {
        let data = match variant {
            Variant::Shared => self.shared.mine(0, self.bytes),
            _ => self.data.bytes(),
        };
        for (at, four) in data.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *four = value(at).to_ne_bytes();
        }
    }

    /// How long `iterations` take, from when everybody was there.
    fn run(&mut self, variant: Variant, iterations: u64) -> Duration {
        self.shared.meet();
        let start = Instant::now();
        for _ in 0..iterations {
            match variant {
                Variant::Shared if self.bytes <= SHORT => self.short(),
                Variant::Shared => self.in_place(),
                Variant::OneShot { chunk } => self.staged(chunk, usize::MAX),
                Variant::Slices { chunk } => self.staged(chunk, SLICED_FROM),
            }
        }
        start.elapsed()
    }

    fn short(&mut self) {
        let Self { shared, kernel, bytes, .. } = self;
        let mut sum = [0; SHORT];
        let sum = &mut sum[..*bytes];
        shared.meet();
        kernel.reduce_foreign(sum, None, &shared.all(0, *bytes)[..shared.world]);
        shared.meet();
        shared.mine(0, *bytes).copy_from_slice(sum);
    }

    fn in_place(&mut self) {
        let Self { shared, kernel, bytes, .. } = self;
        let (me, world) = (shared.me, shared.world);
        shared.meet();
        let (from, len) = slice(*bytes, me, world);
        shared.reduce(kernel, from, len);
        shared.meet();
        for rank in (0..world).filter(|rank| *rank != me) {
            let (from, len) = slice(*bytes, rank, world);
            let (own, others) = shared.parts(from, len);
            others[rank - usize::from(rank > me)].copy_to(own);
        }
        shared.meet();
    }

    /// Chunks of `sliced` bytes and more are reduced in slices.
    fn staged(&mut self, chunk: usize, sliced: usize) {
        let Self { data, shared, kernel, chunks, .. } = self;
        let (me, world) = (shared.me, shared.world);
        for part in data.bytes().chunks_mut(chunk) {
            let (slot, len) = ((*chunks & 1) * (chunk + GAP), part.len());
            *chunks += 1;
            shared.mine(slot, len).copy_from_slice(part);
            shared.meet();
            if len < sliced {
                let (_, others) = shared.parts(slot, len);
                kernel.reduce_foreign(part, Some(me), &others[..world - 1]);
                continue;
            }
            let (from, count) = slice(len, me, world);
            shared.reduce(kernel, slot + from, count);
            part[from..from + count].copy_from_slice(shared.mine(slot + from, count));
            shared.meet();
            for rank in (0..world).filter(|rank| *rank != me) {
                let (from, count) = slice(len, rank, world);
                shared.of(rank, slot + from, count).copy_to(&mut part[from..from + count]);
            }
        }
    }
}
