//! Measures the links between two ranks: round trips of small messages, and two streams at once.
//!
//! `cargo run --release -p allhands-transport --example link_speed -- [tcp|local] [buffer bytes] [congestion] [lanes]`
//!
//! Each rank is a thread that spins on `receive` and `flush`, as a driver does. Frames are a length
//! and a payload; bulk payloads land in the port's window.
#![forbid(unsafe_code)]

use std::io::{IoSlice, Write};
use std::net::Ipv4Addr;
use std::ops::ControlFlow;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use allhands_transport::interface::InterfaceChoice;
use allhands_transport::tcp::{
    Buffers, Congestion, Endpoint, Listener, Membership, Mesh, Progress, TcpConfig,
};
use allhands_transport::{Closed, Links, Port, Slices, local};
use allhands_wire::{JobKey, Peer};

const HEAD: usize = 64;

/// One message each way at a time, or a stream of frames.
struct Pump {
    head: [u8; HEAD],
    out: Vec<u8>,
    frame: usize,
    /// Bytes (heads and payloads) not yet sent, and the position in the current frame.
    left: usize,
    at: usize,
    room: Vec<u8>,
    /// Bytes of the current incoming frame that have arrived.
    have: usize,
    received: usize,
}

impl Pump {
    fn new(frame: usize, span: usize) -> Self {
        let (head, out, room) = ([1; HEAD], vec![2; span], vec![0; span]);
        Self { head, out, frame, left: 0, at: 0, room, have: 0, received: 0 }
    }

    fn whole(&self) -> usize {
        HEAD + self.frame
    }

    /// Where the payload of the frame after `frames` frames lies.
    fn place(&self, frames: usize) -> usize {
        frames * self.frame % self.out.len()
    }
}

impl Port for Pump {
    fn outgoing<'a>(&'a mut self, _: Peer, slices: &mut Slices<'a>) {
        let (mut left, mut at, mut done) =
            (self.left, self.at % self.whole(), self.at / self.whole());
        while left > 0 && slices.len() < 15 {
            let place = self.place(done);
            if at < HEAD {
                slices.push(IoSlice::new(&self.head[at..]));
                slices.push(IoSlice::new(&self.out[place..place + self.frame]));
            } else {
                slices.push(IoSlice::new(&self.out[place + at - HEAD..place + self.frame]));
            }
            left -= self.whole() - at;
            done += 1;
            at = 0;
        }
    }

    fn sent(&mut self, _: Peer, bytes: usize) {
        self.left -= bytes;
        self.at += bytes;
    }

    fn window(&mut self, _: Peer) -> &mut [u8] {
        let at = self.have % self.whole();
        if at < HEAD {
            return &mut [];
        }
        let place = self.place(self.have / self.whole());
        &mut self.room[place + at - HEAD..place + self.frame]
    }

    fn filled(&mut self, _: Peer, bytes: usize) {
        self.have += bytes;
        self.received += bytes;
    }

    fn handle(&mut self, _: Peer, mut bytes: &[u8]) {
        self.received += bytes.len();
        while !bytes.is_empty() {
            let at = self.have % self.whole();
            let n = if at < HEAD { HEAD - at } else { self.whole() - at }.min(bytes.len());
            if at >= HEAD {
                let place = self.place(self.have / self.whole()) + at - HEAD;
                self.room[place..place + n].copy_from_slice(&bytes[..n]);
            }
            self.have += n;
            bytes = &bytes[n..];
        }
    }

    fn closed(&mut self, peer: Peer, cause: Closed) {
        panic!("{peer}: {cause}");
    }
}

/// A mesh of `world` threads; the links, and the longest time a rank took to join.
fn mesh(world: u32, config: &TcpConfig) -> (Vec<Box<dyn Links>>, Duration) {
    let bind = |_| Listener::bind(config).expect("a loopback address");
    let listeners: Vec<Listener> = (0..world).map(bind).collect();
    let peers: Vec<Endpoint> = listeners.iter().map(Listener::endpoint).collect();
    let meshes: Vec<Mesh> = std::thread::scope(|scope| {
        let join = |(me, listener): (u32, Listener)| {
            let (peers, key) = (&peers, JobKey::new([7; 32]));
            let who = Membership { job_id: "speed".into(), key, epoch: 0, me: Peer(me), world };
            let deadline = Instant::now() + Duration::from_secs(20);
            let mut progress = |_: &Progress| ControlFlow::Continue(());
            scope.spawn(move || listener.form(peers, &who, deadline, &mut progress))
        };
        let ranks: Vec<_> = (0..).zip(listeners).map(join).collect();
        let mesh = |rank: std::thread::ScopedJoinHandle<'_, Result<Mesh, _>>| {
            rank.join().expect("a rank").expect("the mesh forms")
        };
        ranks.into_iter().map(mesh).collect()
    });
    let longest = meshes.iter().map(|mesh| mesh.report.elapsed).max().unwrap_or_default();
    (meshes.into_iter().map(|mesh| Box::new(mesh.links) as Box<dyn Links>).collect(), longest)
}

fn tcp_pair(config: &TcpConfig) -> [Box<dyn Links>; 2] {
    mesh(2, config).0.try_into().ok().expect("two ranks")
}

fn local_pair() -> [Box<dyn Links>; 2] {
    let mut ranks = local::fabric(2).into_iter();
    let mut next = || Box::new(ranks.next().expect("two ranks").0);
    [next(), next()]
}

/// Round trips; returns the time of one.
fn ping_pong(links: &mut [Box<dyn Links>; 2], bytes: usize, rounds: u32) -> Duration {
    let barrier = Barrier::new(2);
    let [near, far] = links;
    let turn = |links: &mut Box<dyn Links>, peer: Peer, first: bool| {
        let mut pump = Pump::new(bytes, bytes.max(1) * 4);
        let whole = pump.whole();
        barrier.wait();
        let start = Instant::now();
        for round in 0..rounds as usize {
            let mut wait = |pump: &mut Pump, upto: usize| {
                let mut spins = 0u32;
                while pump.received < upto {
                    links.receive(peer, pump);
                    spins += 1;
                    if spins.is_multiple_of(256) {
                        links.poll(Some(Duration::ZERO), pump);
                    }
                }
            };
            if !first {
                wait(&mut pump, (round + 1) * whole);
            }
            pump.left += whole;
            while pump.left > 0 {
                links.flush(peer, &mut pump);
            }
            let mut wait = |pump: &mut Pump, upto: usize| {
                while pump.received < upto {
                    links.receive(peer, pump);
                }
            };
            if first {
                wait(&mut pump, (round + 1) * whole);
            }
        }
        start.elapsed()
    };
    std::thread::scope(|scope| {
        scope.spawn(|| turn(far, Peer(0), false));
        turn(near, Peer(1), true)
    }) / rounds
}

/// Both ranks send `total` bytes at once; returns GB/s each way.
fn both_ways(links: &mut [Box<dyn Links>; 2], frame: usize, span: usize, total: usize) -> f64 {
    let barrier = Barrier::new(2);
    let [near, far] = links;
    let turn = |links: &mut Box<dyn Links>, peer: Peer| {
        let mut pump = Pump::new(frame, span);
        let all = total / frame * pump.whole();
        barrier.wait();
        let start = Instant::now();
        pump.left = all;
        while pump.left > 0 || pump.received < all {
            if pump.left > 0 {
                links.flush(peer, &mut pump);
            }
            links.receive(peer, &mut pump);
        }
        let elapsed = start.elapsed();
        barrier.wait();
        elapsed
    };
    let slowest = std::thread::scope(|scope| {
        let far = scope.spawn(|| turn(far, Peer(0)));
        turn(near, Peer(1)).max(far.join().expect("the far rank"))
    });
    total as f64 / slowest.as_secs_f64() / 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let mut args = std::env::args().skip(1);
    let kind = args.next().unwrap_or_else(|| "tcp".into());
    let mut config = TcpConfig {
        interface: InterfaceChoice::address(Ipv4Addr::LOCALHOST.into()),
        ..TcpConfig::default()
    };
    if let Some(text) = args.next() {
        config.buffers = Buffers::Bytes(text.parse().expect("buffer bytes"));
    }
    if let Some(name) = args.next() {
        config.congestion = Congestion::Named(name);
    }
    if let Some(text) = args.next() {
        config.lanes = text.parse().expect("lanes");
    }
    let mut out = std::io::stdout().lock();
    let pair = || if kind == "local" { local_pair() } else { tcp_pair(&config) };
    let mut say = |line: String| writeln!(out, "{line}").expect("standard output");
    if kind != "local" {
        for world in [2, 4, 8, 16] {
            let times = (0..5).map(|_| mesh(world, &config).1.as_secs_f64() * 1e3);
            say(format!("mesh of {world:>2} ranks in {:.1} ms", median(times.collect())));
        }
    }
    let mut links = pair();
    for (bytes, rounds) in [(4, 20_000), (1024, 20_000), (16 << 10, 10_000), (256 << 10, 500)] {
        let times = (0..5).map(|_| ping_pong(&mut links, bytes, rounds).as_secs_f64() * 1e6);
        let time = median(times.collect());
        say(format!("{kind} round trip {bytes:>8} B {time:>9.2} us {:>9.0}/s", 1e6 / time));
    }
    for span in [1 << 20, 64 << 20] {
        for frame in [256 << 10, 1 << 20] {
            let rates: Vec<f64> =
                (0..5).map(|_| both_ways(&mut links, frame, span, 256 << 20)).collect();
            let best = rates.iter().copied().fold(0.0, f64::max);
            say(format!(
                "{kind} both ways, frames of {frame:>7} B over {span:>8} B: {:.2} GB/s each way, best {best:.2}",
                median(rates),
            ));
        }
    }
}
