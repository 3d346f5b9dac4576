//! A port that records, and meshes of threads.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::{BTreeSet, VecDeque};
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use allhands_transport::interface::InterfaceChoice;
use allhands_transport::tcp::{Endpoint, Listener, Membership, Mesh, TcpConfig};
use allhands_transport::{Closed, Control, ControlEvent, Links, Port, Slices, TransportError};
use allhands_wire::{JobKey, Peer};

/// Long enough for a loaded machine; reached only where something hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A small generator of numbers that look random; the seed is all its state.
#[derive(Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// What one peer has to get and has sent.
#[derive(Default)]
struct Traffic {
    outgoing: VecDeque<u8>,
    incoming: Vec<u8>,
    closed: Option<Closed>,
    window: Vec<u8>,
    /// Length of the last window.
    offered: usize,
}

/// A port that sends from queues in pieces of any size and offers windows of any size.
pub(crate) struct Recorder {
    traffic: Vec<Traffic>,
    random: Random,
    /// Largest window; 0: everything is staged.
    window_max: usize,
    /// Largest slice offered at once.
    slice_max: usize,
}

impl Recorder {
    pub(crate) fn new(world: u32, seed: u64, window_max: usize, slice_max: usize) -> Self {
        let traffic = (0..world).map(|_| Traffic::default()).collect();
        Self { traffic, random: Random(seed), window_max, slice_max }
    }

    pub(crate) fn send(&mut self, peer: Peer, bytes: &[u8]) {
        self.traffic[peer.index()].outgoing.extend(bytes);
    }

    pub(crate) fn unsent(&self, peer: Peer) -> usize {
        self.traffic[peer.index()].outgoing.len()
    }

    pub(crate) fn received(&self, peer: Peer) -> &[u8] {
        &self.traffic[peer.index()].incoming
    }

    pub(crate) fn closed_by(&self, peer: Peer) -> Option<Closed> {
        self.traffic[peer.index()].closed
    }
}

impl Port for Recorder {
    fn outgoing<'a>(&'a mut self, peer: Peer, slices: &mut Slices<'a>) {
        assert!(slices.is_empty(), "outgoing is called with empty slices");
        let (front, back) = self.traffic[peer.index()].outgoing.as_slices();
        for half in [front, back] {
            let mut half = half;
            while !half.is_empty() && slices.len() < 40 {
                let n = 1 + self.random.below(self.slice_max.min(half.len()));
                slices.push(IoSlice::new(&half[..n]));
                half = &half[n..];
            }
            if !half.is_empty() {
                return;
            }
        }
    }

    fn sent(&mut self, peer: Peer, bytes: usize) {
        let outgoing = &mut self.traffic[peer.index()].outgoing;
        assert!(bytes > 0 && bytes <= outgoing.len(), "{bytes} sent of {}", outgoing.len());
        outgoing.drain(..bytes);
    }

    fn window(&mut self, peer: Peer) -> &mut [u8] {
        let len = self.random.below(self.window_max + 1);
        let traffic = &mut self.traffic[peer.index()];
        traffic.window.resize(self.window_max, 0xEE);
        traffic.offered = len;
        &mut traffic.window[..len]
    }

    fn filled(&mut self, peer: Peer, bytes: usize) {
        let traffic = &mut self.traffic[peer.index()];
        assert!(traffic.closed.is_none(), "bytes after the end");
        assert!(bytes > 0 && bytes <= traffic.offered, "{bytes} of a smaller window");
        traffic.incoming.extend_from_slice(&traffic.window[..bytes]);
    }

    fn handle(&mut self, peer: Peer, bytes: &[u8]) {
        let traffic = &mut self.traffic[peer.index()];
        assert!(traffic.closed.is_none(), "bytes after the end");
        assert!(!bytes.is_empty(), "an empty piece");
        traffic.incoming.extend_from_slice(bytes);
    }

    fn closed(&mut self, peer: Peer, cause: Closed) {
        let before = self.traffic[peer.index()].closed.replace(cause);
        assert_eq!(before, None, "{peer} closed twice");
    }
}

/// Drives links until `done`, or fails after [`PATIENCE`].
pub(crate) fn drive(
    links: &mut dyn Links,
    port: &mut Recorder,
    what: &str,
    mut done: impl FnMut(&Recorder) -> bool,
) {
    let deadline = Instant::now() + PATIENCE;
    while !done(port) {
        assert!(Instant::now() < deadline, "{} waited too long: {what}", links.peer());
        links.poll(Some(Duration::from_millis(50)), port);
    }
}

pub(crate) fn key() -> JobKey {
    JobKey::new([7; 32])
}

pub(crate) fn membership(me: u32, world: u32) -> Membership {
    Membership { job_id: "test".to_owned(), key: key(), epoch: 0, me: Peer(me), world }
}

pub(crate) fn config_at(address: IpAddr) -> TcpConfig {
    TcpConfig { interface: InterfaceChoice::address(address), ..TcpConfig::default() }
}

pub(crate) fn loopback() -> IpAddr {
    Ipv4Addr::LOCALHOST.into()
}

pub(crate) fn listeners(world: u32, config: &TcpConfig) -> Vec<Listener> {
    (0..world).map(|_| Listener::bind(config).expect("a loopback address")).collect()
}

pub(crate) fn endpoints(listeners: &[Listener]) -> Vec<Endpoint> {
    listeners.iter().map(Listener::endpoint).collect()
}

pub(crate) fn join(
    listener: Listener,
    peers: &[Endpoint],
    membership: &Membership,
    patience: Duration,
) -> Result<Mesh, TransportError> {
    let deadline = Instant::now() + patience;
    listener.form(peers, membership, deadline, &mut |_| ControlFlow::Continue(()))
}

/// Forms a mesh of threads; the outcome of each rank, in rank order. `change` may spoil a rank.
pub(crate) fn form_each(
    world: u32,
    config: &TcpConfig,
    patience: Duration,
    change: impl Fn(u32, &mut Membership) + Sync,
) -> Vec<Result<Mesh, TransportError>> {
    let listeners = listeners(world, config);
    let peers = endpoints(&listeners);
    thread::scope(|scope| {
        let ranks: Vec<_> = (0..world)
            .zip(listeners)
            .map(|(me, listener)| {
                let (peers, change) = (&peers, &change);
                scope.spawn(move || {
                    let mut membership = membership(me, world);
                    change(me, &mut membership);
                    let peers = &peers[..membership.world as usize];
                    join(listener, peers, &membership, patience)
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().expect("a rank panicked")).collect()
    })
}

/// Forms a mesh of threads that has to come up.
pub(crate) fn form_all(world: u32, config: &TcpConfig) -> Vec<Mesh> {
    let outcomes = form_each(world, config, PATIENCE, |_, _| {});
    outcomes.into_iter().map(|mesh| mesh.expect("the mesh forms")).collect()
}

/// One poll of the control connections; collects who has left.
pub(crate) fn control_ends(control: &mut dyn Control, told: &mut BTreeSet<Peer>) {
    control.poll(Some(Duration::from_millis(50)), &mut |event| {
        if let ControlEvent::Closed { peer, .. } = event {
            assert!(told.insert(peer), "{peer} left twice");
        }
    });
}
