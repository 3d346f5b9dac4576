//! Meshes that must not form, or that form in spite of trouble.

mod common;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use allhands_transport::interface::{InterfaceChoice, InterfaceError, Reach};
use allhands_transport::tcp::{Endpoint, Listener, Mesh, TcpConfig};
use allhands_transport::{Closed, Reached, TransportError};
use allhands_wire::{HandshakeError, HostHash, JobKey, Peer, Reject};
use common::{
    PATIENCE, Recorder, config_at, drive, endpoints, form_each, join, listeners, loopback,
    membership,
};

/// A deadline for meshes that stay incomplete.
const SHORT: Duration = Duration::from_millis(700);

fn error(outcome: Result<Mesh, TransportError>) -> TransportError {
    match outcome {
        Ok(mesh) => panic!("the mesh formed: {}", mesh.report),
        Err(error) => error,
    }
}

fn incomplete(error: &TransportError) -> &allhands_transport::Incomplete {
    match error {
        TransportError::Incomplete(incomplete) => incomplete,
        other => panic!("not incomplete: {other}"),
    }
}

#[test]
fn a_wrong_key_is_refused_on_both_sides() {
    let config = config_at(loopback());
    let start = Instant::now();
    let mut outcomes = form_each(2, &config, SHORT, |me, membership| {
        if me == 1 {
            membership.key = JobKey::new([8; 32]);
        }
    });
    let dialler = error(outcomes.pop().expect("rank 1"));
    let TransportError::TurnedAway { me: Peer(1), peer: Peer(0), cause, .. } = &dialler else {
        panic!("{dialler}");
    };
    assert_eq!(*cause, HandshakeError::Rejected(Reject::AuthFailed));
    assert!(dialler.to_string().contains("job key"), "{dialler}");
    let listener = error(outcomes.pop().expect("rank 0"));
    let incomplete = incomplete(&listener);
    assert_eq!(incomplete.missing[0].peer, Peer(1));
    assert_eq!(incomplete.missing[0].reached, Reached::Silent);
    let last = incomplete.turned_away.last.map(|(_, cause)| cause);
    assert_eq!(last, Some(HandshakeError::Refused(Reject::AuthFailed)));
    assert!(listener.to_string().contains("did not prove the job key"), "{listener}");
    assert!(start.elapsed() < SHORT + PATIENCE / 2);
}

#[test]
fn jobs_that_cross_on_one_port_do_not_mix() {
    let outcomes = form_each(2, &config_at(loopback()), SHORT, |me, membership| {
        membership.job_id = format!("job {me}");
    });
    let errors: Vec<_> = outcomes.into_iter().map(error).collect();
    assert!(matches!(
        errors[1],
        TransportError::TurnedAway { cause: HandshakeError::Rejected(Reject::WrongJob), .. }
    ));
    assert!(errors[0].to_string().contains("another job"), "{}", errors[0]);
}

#[test]
fn a_stale_generation_is_told_so() {
    let outcomes =
        form_each(2, &config_at(loopback()), SHORT, |me, membership| membership.epoch = 5 - me);
    let errors: Vec<_> = outcomes.into_iter().map(error).collect();
    let expected = Reject::WrongEpoch { mine: 4, theirs: 5 };
    assert!(
        matches!(&errors[1], TransportError::TurnedAway { cause: HandshakeError::Rejected(reject), .. }
            if *reject == expected),
        "{}",
        errors[1]
    );
    assert!((1..=2).contains(&incomplete(&errors[0]).turned_away.refused));
}

#[test]
fn different_world_sizes_are_named_on_all_ranks() {
    let start = Instant::now();
    let mut listening = listeners(4, &config_at(loopback()));
    let peers = endpoints(&listening);
    // Three ranks were started; two of them with four, so their mesh stays open.
    drop(listening.pop());
    let ranks = listening.into_iter().zip([(0, 4), (1, 4), (2, 3)]);
    let errors: Vec<String> = thread::scope(|scope| {
        let ranks: Vec<_> = ranks
            .map(|(listener, (me, world))| {
                let peers = &peers[..world as usize];
                scope.spawn(move || {
                    error(join(listener, peers, &membership(me, world), PATIENCE)).to_string()
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().expect("a rank panicked")).collect()
    });
    for (error, (mine, theirs)) in errors.iter().zip([(4, 3), (4, 3), (3, 4)]) {
        let told = error.contains(&format!("world size {mine}"))
            && error.contains(&format!("with {theirs}"));
        assert!(told, "{error}");
    }
    assert!(start.elapsed() < PATIENCE / 2, "took {:?}", start.elapsed());
}

#[test]
fn different_lane_counts_are_named() {
    let here = config_at(loopback());
    let narrow = Listener::bind(&here).expect("a listener");
    let wide = Listener::bind(&TcpConfig { lanes: 4, ..here }).expect("a listener");
    let peers = [narrow.endpoint(), wide.endpoint()];
    let [narrow, wide] = thread::scope(|scope| {
        let narrow = scope.spawn(|| error(join(narrow, &peers, &membership(0, 2), PATIENCE)));
        let wide = error(join(wide, &peers, &membership(1, 2), PATIENCE));
        [narrow.join().expect("rank 0"), wide]
    });
    let reject = Reject::LaneMismatch { mine: 1, theirs: 4 };
    assert!(
        matches!(narrow, TransportError::Misconfigured { reject: r, .. } if r == reject),
        "{narrow}"
    );
    assert!(wide.to_string().contains("uses 4 data connections a pair, the other 1"), "{wide}");
}

#[test]
fn a_second_process_with_one_rank_is_told_who_was_first() {
    let mut listening = listeners(4, &config_at(loopback()));
    let peers = endpoints(&listening);
    // The last listener is a second rank 1 at its own address; rank 2 is missing, so the mesh stays open.
    let (second, first, zero) = (listening.remove(3), listening.remove(1), listening.remove(0));
    let peers = &peers[..3];
    thread::scope(|scope| {
        let zero = scope.spawn(|| error(join(zero, peers, &membership(0, 3), SHORT)));
        let first = scope.spawn(|| error(join(first, peers, &membership(1, 3), PATIENCE)));
        let second = scope.spawn(|| error(join(second, peers, &membership(1, 3), PATIENCE)));
        let [zero, first, second] =
            [zero, first, second].map(|rank| rank.join().expect("a rank panicked"));
        let missing: Vec<Peer> = incomplete(&zero).missing.iter().map(|m| m.peer).collect();
        assert_eq!(missing, [Peer(2)], "{zero}");
        let refused = incomplete(&zero).turned_away.last.expect("one was refused").1;
        let HandshakeError::Refused(Reject::DuplicateRank { first: incumbent }) = refused else {
            panic!("{refused}");
        };
        let told = |error: &TransportError| match error {
            TransportError::DuplicateRank { me: Peer(1), first } => *first == incumbent,
            // The winner waits on, and sees rank 0 give up.
            TransportError::PeerLeft { peer: Peer(0), .. } => false,
            other => panic!("{other}"),
        };
        assert!(told(&first) != told(&second), "first: {first}\nsecond: {second}");
        assert_eq!(incumbent.pid, std::process::id());
    });
}

#[test]
fn an_unreachable_rank_is_named_with_its_address() {
    let mut listening = listeners(2, &config_at(loopback()));
    let peers = endpoints(&listening);
    let one = listening.pop().expect("rank 1");
    // Rank 0 dies before it forms the mesh: its port refuses.
    drop(listening);
    let start = Instant::now();
    let error = error(join(one, &peers, &membership(1, 2), SHORT));
    assert!(start.elapsed() >= SHORT && start.elapsed() < SHORT + PATIENCE / 2);
    let incomplete = incomplete(&error);
    assert_eq!(incomplete.missing.len(), 1);
    let missing = &incomplete.missing[0];
    assert_eq!((missing.peer, &missing.endpoint), (Peer(0), &peers[0]));
    let Reached::NotConnected { dials, last } = missing.reached else {
        panic!("{:?}", missing.reached);
    };
    assert!(dials >= 4, "only {dials} dials");
    assert_eq!(last, Some(std::io::ErrorKind::ConnectionRefused));
    let text = error.to_string();
    assert!(text.contains(&peers[0].to_string()) && text.contains("1 of 2 joined"), "{text}");
}

#[test]
fn a_rank_that_listens_but_never_joins_is_told_apart() {
    let mut listening = listeners(3, &config_at(loopback()));
    let peers = endpoints(&listening);
    let one = listening.remove(1);
    // Rank 0 listens, rank 2 never dials.
    let text = error(join(one, &peers, &membership(1, 3), SHORT)).to_string();
    assert!(text.contains("peer 0") && text.contains("did not greet"), "{text}");
    assert!(text.contains("peer 2") && text.contains("has not dialled"), "{text}");
}

#[test]
fn a_late_rank_is_waited_for() {
    let mut listening = listeners(2, &config_at(loopback()));
    let peers = endpoints(&listening);
    let one = listening.pop().expect("rank 1");
    let address = listening.pop().expect("rank 0").report().address;
    let config = TcpConfig { ports: address.port()..=address.port(), ..config_at(address.ip()) };
    let refused = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let deadline = Instant::now() + PATIENCE;
            while !refused.load(Ordering::SeqCst) {
                assert!(Instant::now() < deadline, "rank 1 never began");
                thread::yield_now();
            }
            let zero = Listener::bind(&config).expect("the port is free again");
            join(zero, &peers, &membership(0, 2), PATIENCE).expect("the mesh forms");
        });
        let deadline = Instant::now() + PATIENCE;
        let mesh = one.form(&peers, &membership(1, 2), deadline, &mut |_| {
            // The first call comes after the first dials.
            refused.store(true, Ordering::SeqCst);
            ControlFlow::Continue(())
        });
        mesh.expect("the mesh forms");
    });
}

#[test]
fn a_rank_that_leaves_early_is_named() {
    let mut listening = listeners(3, &config_at(loopback()));
    let peers = endpoints(&listening);
    let (one, zero) = (listening.remove(1), listening.remove(0));
    let start = Instant::now();
    thread::scope(|scope| {
        // Gives up as soon as rank 0 has joined.
        scope.spawn(|| {
            let deadline = Instant::now() + PATIENCE;
            let outcome = one.form(&peers, &membership(1, 3), deadline, &mut |progress| {
                if progress.joined > 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            assert!(matches!(error(outcome), TransportError::Cancelled { .. }));
        });
        let left = error(join(zero, &peers, &membership(0, 3), PATIENCE));
        assert!(matches!(left, TransportError::PeerLeft { peer: Peer(1), world: 3, .. }), "{left}");
    });
    assert!(start.elapsed() < PATIENCE / 2);
}

#[test]
fn progress_counts_up_and_names_who_is_missing() {
    let mut listening = listeners(3, &config_at(loopback()));
    let peers = endpoints(&listening);
    let zero = listening.remove(0);
    thread::scope(|scope| {
        for (me, listener) in (1..).zip(listening) {
            let peers = &peers;
            scope.spawn(move || join(listener, peers, &membership(me, 3), PATIENCE).map(drop));
        }
        let mut seen = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        let mesh = zero.form(&peers, &membership(0, 3), deadline, &mut |progress| {
            assert_eq!(progress.joined as usize + progress.missing.len(), 3);
            seen.push(progress.joined);
            ControlFlow::Continue(())
        });
        mesh.expect("the mesh forms");
        assert!(seen.is_sorted() && seen.last() == Some(&3), "{seen:?}");
    });
}

#[test]
fn memberships_that_cannot_be_are_refused() {
    let config = config_at(loopback());
    for (me, world, given) in [(0, 2, 1), (2, 2, 2), (0, 0, 0)] {
        let listener = Listener::bind(&config).expect("a listener");
        let peers = vec![listener.endpoint(); given];
        let outcome = error(join(listener, &peers, &membership(me, world), SHORT));
        assert!(matches!(outcome, TransportError::BadMembership { .. }), "{outcome}");
    }
    for lanes in [0, 17] {
        let listener = Listener::bind(&TcpConfig { lanes, ..config.clone() }).expect("a listener");
        let peers = [listener.endpoint()];
        let outcome = error(join(listener, &peers, &membership(0, 1), SHORT));
        assert!(matches!(outcome, TransportError::BadMembership { .. }), "{outcome}");
    }
}

#[test]
fn a_port_in_use_is_named_and_the_next_is_tried() {
    let taken = TcpListener::bind((loopback(), 0)).expect("a free port");
    let port = taken.local_addr().expect("it is bound").port();
    let one = TcpConfig { ports: port..=port, ..config_at(loopback()) };
    let text = Listener::bind(&one).err().expect("the port is taken").to_string();
    assert!(text.contains(&format!("127.0.0.1:{port}")), "{text}");
    let last = port.saturating_add(20);
    let several = TcpConfig { ports: port..=last, ..one };
    let address = Listener::bind(&several).expect("one of them is free").report().address;
    assert!((port..=last).contains(&address.port()) && address.port() != port);
}

#[test]
fn loopback_and_remote_ranks_do_not_go_together() {
    let elsewhere = HostHash::of(b"another host");
    let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let remote = Endpoint::new(elsewhere, &[at("192.0.2.9:4000")]).expect("an endpoint");
    let hidden = Endpoint::new(elsewhere, &[at("127.0.0.1:4000")]).expect("an endpoint");
    for (peer, expected) in [(remote, "peer 0 listens on the loopback"), (hidden, "its loopback")] {
        let listener = Listener::bind(&config_at(loopback())).expect("a listener");
        let peers = [listener.endpoint(), peer];
        let text = error(join(listener, &peers, &membership(0, 2), SHORT)).to_string();
        assert!(text.contains(expected), "{text}");
    }
    let config = TcpConfig { reach: Reach::ManyHosts, ..config_at(loopback()) };
    let refused = Listener::bind(&config).err();
    assert!(
        matches!(refused, Some(TransportError::Interface(InterfaceError::OnlyLoopback { .. }))),
        "{refused:?}"
    );
    let config = TcpConfig { interface: InterfaceChoice::name("no such"), ..config };
    let text = Listener::bind(&config).err().expect("no such interface").to_string();
    assert!(text.contains("=no such") && text.contains("127.0.0.1"), "{text}");
}

#[test]
fn silent_connections_are_closed_in_time_and_cut_handshakes_do_no_harm() {
    let mut listening = listeners(2, &config_at(loopback()));
    let peers = endpoints(&listening);
    let (one, zero) = (listening.pop().expect("rank 1"), listening.pop().expect("rank 0"));
    let target = peers[0].addresses()[0];
    thread::scope(|scope| {
        let zero = scope.spawn(|| join(zero, &peers, &membership(0, 2), PATIENCE));
        // The greeting comes unasked; nothing else does, and the end comes within the limit.
        let mut silent = TcpStream::connect(target).expect("rank 0 listens");
        silent.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        let start = Instant::now();
        let mut heard = Vec::new();
        silent.read_to_end(&mut heard).expect("the end comes");
        assert_eq!(heard.len(), allhands_wire::GREETING_LEN);
        let took = start.elapsed();
        assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(6), "{took:?}");
        // A hello that is cut anywhere.
        for cut in (0..allhands_wire::PROVEN_HELLO_LEN).step_by(7) {
            let mut stream = TcpStream::connect(target).expect("rank 0 listens");
            let mut hello = b"aHs1\x01\x02\x01\x00".to_vec();
            hello.resize(allhands_wire::PROVEN_HELLO_LEN, 1);
            stream.write_all(&hello[..cut]).expect("it is taken");
        }
        join(one, &peers, &membership(1, 2), PATIENCE).expect("rank 1 joins");
        zero.join().expect("rank 0").expect("rank 0 joins");
    });
}

#[test]
fn death_is_seen_at_once_by_everybody() {
    let meshes = common::form_all(4, &config_at(loopback()));
    let mut meshes = meshes.into_iter();
    let dead = meshes.next().expect("rank 0");
    thread::scope(|scope| {
        for mesh in meshes {
            scope.spawn(move || {
                let Mesh { mut links, mut control, .. } = mesh;
                let mut port = Recorder::new(4, 1, 10, 10);
                drive(&mut links, &mut port, "a death", |port| port.closed_by(Peer(0)).is_some());
                assert_eq!(port.closed_by(Peer(0)), Some(Closed::Eof));
                let mut told = BTreeSet::new();
                let deadline = Instant::now() + PATIENCE;
                while !told.contains(&Peer(0)) {
                    assert!(Instant::now() < deadline, "control says nothing");
                    common::control_ends(&mut control, &mut told);
                }
            });
        }
        drop(dead);
    });
}
