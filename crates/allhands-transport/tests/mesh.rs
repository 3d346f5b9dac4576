//! Whole meshes over the loopback interface.

mod common;

use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use allhands_transport::tcp::{Mesh, TcpConfig};
use allhands_transport::{Closed, Control, ControlEvent, Links};
use allhands_wire::{Address, Goodbye, Message, Peer};
use common::{PATIENCE, Random, Recorder, config_at, drive, form_all, loopback};

/// The bytes that `from` sends `to`; different for each pair.
fn letter(from: Peer, to: Peer) -> Vec<u8> {
    let seed = u64::from(from.0) << 32 | u64::from(to.0);
    let len = 1 + Random(!seed).below(200_000);
    Random(seed).bytes(len)
}

/// Every rank sends every other rank a letter and a control frame, and compares what it gets.
fn exchange(mesh: Mesh) {
    let Mesh { mut links, mut control, report } = mesh;
    let (me, world) = (links.peer(), links.world());
    assert_eq!((report.me, report.world), (me, world));
    let others = || (0..world).map(Peer).filter(move |peer| *peer != me);
    let mut port = Recorder::new(world, u64::from(me.0), 3000, 5000);
    for peer in others() {
        port.send(peer, &letter(me, peer));
        let address = Address { group: peer.0, src: me, ..Address::default() };
        let frame = Message::Goodbye(Goodbye::Finished).encode(address);
        control.send(peer, frame.as_bytes()).expect("the control connection is up");
        links.flush(peer, &mut port);
    }
    drive(&mut links, &mut port, "letters", |port| {
        let arrived = |peer: Peer| port.received(peer).len() >= letter(peer, me).len();
        others().all(|peer| arrived(peer) && port.unsent(peer) == 0)
    });
    for peer in others() {
        assert_eq!(port.received(peer), letter(peer, me), "from {peer} to {me}");
        // Whoever has everything may have left already.
        assert!(matches!(port.closed_by(peer), None | Some(Closed::Eof)));
    }
    let mut greeted = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while greeted.len() < world as usize - 1 {
        assert!(Instant::now() < deadline, "only {greeted:?} sent {me} a control frame");
        control.poll(Some(Duration::from_millis(50)), &mut |event| match event {
            ControlEvent::Frame { peer, header, payload } => {
                assert_eq!(header.group, me.0);
                let message = Message::decode(&header, payload).expect("a message");
                assert_eq!(message, Message::Goodbye(Goodbye::Finished));
                greeted.push(peer);
            }
            // A rank that has finished may be gone already, but only after its frame.
            ControlEvent::Closed { peer, cause } => {
                assert_eq!(cause, Closed::Eof);
                assert!(greeted.contains(&peer), "{peer} left without a word");
            }
        });
    }
    greeted.sort();
    assert_eq!(greeted, others().collect::<Vec<_>>());
    let deadline = Instant::now() + PATIENCE;
    links.shutdown(deadline, &mut port).expect("all peers close");
    control.shutdown(deadline, &mut |_| {}).expect("all frames are sent");
    for peer in others() {
        assert_eq!(port.closed_by(peer), Some(Closed::Eof), "from {peer} to {me}");
    }
}

fn meshes_at(address: IpAddr, worlds: impl Iterator<Item = u32>, lanes: u8) {
    let config = TcpConfig { lanes, ..config_at(address) };
    for world in worlds {
        let meshes = form_all(world, &config);
        thread::scope(|scope| {
            for mesh in meshes {
                scope.spawn(|| exchange(mesh));
            }
        });
    }
}

#[test]
fn meshes_of_one_to_nine_ranks_carry_every_byte() {
    meshes_at(loopback(), 1..=9, 1);
}

#[test]
fn several_lanes_keep_the_order_of_bytes() {
    meshes_at(loopback(), [2, 3].into_iter(), 3);
    meshes_at(loopback(), [2].into_iter(), 16);
}

#[test]
#[allow(clippy::print_stderr, reason = "a skipped test says why")]
fn meshes_over_ipv6_carry_every_byte() {
    let here = IpAddr::from(Ipv6Addr::LOCALHOST);
    if let Err(error) = TcpListener::bind((here, 0)) {
        assert!(std::env::var_os("ALLHANDS_REQUIRE_IPV6").is_none(), "no IPv6: {error}");
        writeln!(std::io::stderr(), "SKIP ipv6: no loopback address, {error}")
            .expect("standard error is open");
        return;
    }
    meshes_at(here, 2..=9, 1);
}
