//! Control frames over TCP and between threads.

mod common;

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use allhands_transport::tcp::Mesh;
use allhands_transport::{
    CONTROL_QUEUE_BYTES, Closed, Control, ControlEvent, ControlSendError, local,
};
use allhands_wire::{
    Address, CONTROL_FRAME_MAX, ControlFrame, Goodbye, Header, Kind, Message, Peer, Ping,
};
use common::{PATIENCE, config_at, control_ends, form_all, loopback};

type Pair = [Box<dyn Control>; 2];

fn pairs() -> [Pair; 2] {
    let tcp = form_all(2, &config_at(loopback())).into_iter();
    let tcp: Vec<Box<dyn Control>> =
        tcp.map(|Mesh { control, .. }| Box::new(control) as Box<dyn Control>).collect();
    let local: Vec<Box<dyn Control>> =
        local::fabric(2).into_iter().map(|rank| Box::new(rank.1) as Box<dyn Control>).collect();
    [tcp, local].map(|pair| pair.try_into().ok().expect("two ranks"))
}

fn ping(from: Peer, number: u32) -> ControlFrame {
    Message::Ping(Ping::default()).encode(Address {
        group: number,
        src: from,
        ..Address::default()
    })
}

/// Polls until `enough` events came; the groups of the frames, and the end if there was one.
fn gather(control: &mut dyn Control, enough: usize) -> (Vec<u32>, Option<Closed>) {
    let (mut groups, mut end) = (Vec::new(), None);
    let deadline = Instant::now() + PATIENCE;
    while groups.len() + usize::from(end.is_some()) < enough {
        assert!(Instant::now() < deadline, "{} events of {enough}", groups.len());
        control.poll(Some(Duration::from_millis(50)), &mut |event| match event {
            ControlEvent::Frame { header, payload, .. } => {
                assert_eq!(end, None, "a frame after the end");
                assert_eq!(payload.len(), header.payload_len as usize);
                groups.push(header.group);
            }
            ControlEvent::Closed { cause, .. } => assert_eq!(end.replace(cause), None),
        });
    }
    (groups, end)
}

#[test]
fn frames_arrive_in_order_and_the_end_after_them() {
    for [mut near, mut far] in pairs() {
        for number in 0..300 {
            near.send(Peer(1), ping(Peer(0), number).as_bytes()).expect("room for 300 pings");
        }
        near.shutdown(Instant::now() + PATIENCE, &mut |_| {}).expect("all is written");
        drop(near);
        let (groups, end) = gather(far.as_mut(), 301);
        assert_eq!(groups, (0..300).collect::<Vec<_>>());
        assert_eq!(end, Some(Closed::Eof));
        let refused = far.send(Peer(0), ping(Peer(1), 0).as_bytes());
        assert_eq!(refused, Err(ControlSendError::NotConnected { peer: Peer(0) }));
        assert_eq!(far.poll(Some(Duration::ZERO), &mut |event| panic!("{event:?}")), 0);
    }
}

#[test]
fn a_peer_that_does_not_read_fills_a_bounded_queue() {
    for [mut near, mut far] in pairs() {
        let frame = ping(Peer(0), 9);
        let mut sent = 0;
        let refused = loop {
            match near.send(Peer(1), frame.as_bytes()) {
                Ok(()) => sent += 1,
                Err(refused) => break refused,
            }
            assert!(sent < 10_000_000, "no bound");
        };
        let ControlSendError::Full { peer: Peer(1), bytes } = refused else { panic!("{refused}") };
        assert!(
            bytes <= CONTROL_QUEUE_BYTES && bytes + frame.as_bytes().len() > CONTROL_QUEUE_BYTES
        );
        // A frame that was refused leaves no piece behind, and the others arrive once the peer reads.
        thread::scope(|scope| {
            let reader = scope.spawn(|| gather(far.as_mut(), sent).0.len());
            near.shutdown(Instant::now() + PATIENCE, &mut |_| {}).expect("the peer reads again");
            assert_eq!(reader.join().expect("the reader"), sent);
        });
    }
}

#[test]
fn frames_that_are_too_long_or_go_nowhere_are_refused() {
    for [mut near, far] in pairs() {
        for len in [0, 63, CONTROL_FRAME_MAX + 1] {
            let refused = near.send(Peer(1), &vec![0; len]).expect_err("no frame has this length");
            assert!(matches!(refused, ControlSendError::Length { bytes, .. } if bytes == len));
        }
        for peer in [Peer(0), Peer(2), Peer(u32::MAX)] {
            let refused = near.send(peer, ping(Peer(0), 0).as_bytes());
            assert_eq!(refused, Err(ControlSendError::NotConnected { peer }));
        }
        drop(far);
    }
}

#[test]
fn bytes_that_are_no_frame_end_the_connection() {
    let data = Header { kind: Kind::Data, src: Peer(0), ..Header::default() }.encode();
    let foreign = ping(Peer(1), 0);
    for bytes in [&[0x55; 64][..], &data[..], foreign.as_bytes()] {
        for [mut near, mut far] in pairs() {
            near.send(Peer(1), ping(Peer(0), 4).as_bytes()).expect("there is room");
            near.send(Peer(1), bytes).expect("only the receiver judges");
            let (groups, end) = gather(far.as_mut(), 2);
            assert_eq!((groups, end), (vec![4], Some(Closed::Garbled)));
        }
    }
}

#[test]
fn a_wake_ends_a_sleep() {
    for [mut near, far] in pairs() {
        near.poll(Some(Duration::ZERO), &mut |_| {});
        let waker = near.waker();
        let start = Instant::now();
        waker.wake();
        near.poll(Some(PATIENCE), &mut |_| {});
        thread::scope(|scope| {
            scope.spawn(|| waker.wake());
            near.poll(Some(PATIENCE), &mut |_| {});
        });
        assert!(start.elapsed() < PATIENCE);
        drop(far);
    }
}

#[test]
fn everybody_hears_of_everybodys_end_once() {
    for controls in [
        form_all(4, &config_at(loopback()))
            .into_iter()
            .map(|mesh| Box::new(mesh.control) as _)
            .collect(),
        local::fabric(4)
            .into_iter()
            .map(|rank| Box::new(rank.1) as _)
            .collect::<Vec<Box<dyn Control>>>(),
    ] {
        let mut controls = controls;
        let mut last = controls.pop().expect("rank 3");
        let goodbye = Message::Goodbye(Goodbye::Finished);
        for (me, mut control) in (0..).map(Peer).zip(controls) {
            let frame = goodbye.encode(Address { src: me, ..Address::default() });
            control.send(Peer(3), frame.as_bytes()).expect("there is room");
        }
        let mut told = BTreeSet::new();
        let deadline = Instant::now() + PATIENCE;
        while told.len() < 3 {
            assert!(Instant::now() < deadline, "only {told:?}");
            control_ends(last.as_mut(), &mut told);
        }
    }
}
