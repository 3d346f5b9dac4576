//! The job-key greeting through the core, where the proofs can be made by hand.

use super::*;
use crate::auth::{self, CHALLENGE_LEN};
use crate::{ClientOptions, Store as _, TcpStore};

const VALIDATE: &[u8] = b"\x00\xce\xf7\x85\x3c";
const PING: &[u8] = b"\x0d\x01\x02\x03\x04";

fn keyed(key: u8) -> Core {
    Core::new(CoreConfig { job_key: Some([key; 32].into()), seed: [9; 32], ..Default::default() })
}

fn challenge(core: &mut Core, conn: ConnId, hello: &[u8]) -> [u8; CHALLENGE_LEN] {
    core.handle_bytes(conn, hello);
    core.take_output(conn).try_into().expect("a challenge")
}

#[test]
fn the_right_key_opens_wherever_the_bytes_are_cut() {
    let hello = auth::hello(&[5; 32]);
    for cut in 0..hello.len() + 32 + VALIDATE.len() {
        let mut core = keyed(1);
        let conn = core.open();
        let first = cut.min(hello.len());
        core.handle_bytes(conn, &hello[..first]);
        let challenge = challenge(&mut core, conn, &hello[first..]);
        let proof = auth::respond(&[1; 32].into(), &hello, &challenge).expect("same key");
        let rest = [&proof[..], VALIDATE, PING].concat();
        let second = cut.saturating_sub(hello.len());
        core.handle_bytes(conn, &rest[..second]);
        core.handle_bytes(conn, &rest[second..]);
        assert!(core.is_validated(conn), "cut at {cut}");
        assert_eq!(core.take_output(conn), PING[1..]);
    }
}

#[test]
fn a_wrong_proof_closes_without_a_word() {
    let hello = auth::hello(&[5; 32]);
    let mut core = keyed(1);
    let conn = core.open();
    let challenge = challenge(&mut core, conn, &hello);
    let mut proof = auth::respond(&[1; 32].into(), &hello, &challenge).expect("same key");
    proof[31] ^= 1;
    core.handle_bytes(conn, &[&proof[..], VALIDATE, PING].concat());
    assert_eq!(core.violation(conn), Some(Violation::WrongKey));
    assert_eq!(core.take_output(conn), b"");
    assert_eq!(core.keys(), 0);
}

#[test]
fn a_recorded_greeting_is_no_use_a_second_time() {
    let hello = auth::hello(&[5; 32]);
    let mut core = keyed(1);
    let first = core.open();
    let recorded = challenge(&mut core, first, &hello);
    let proof = auth::respond(&[1; 32].into(), &hello, &recorded).expect("same key");
    core.handle_bytes(first, &[&proof[..], VALIDATE].concat());
    assert!(core.is_validated(first));

    let second = core.open();
    let fresh = challenge(&mut core, second, &hello);
    assert_ne!(fresh, recorded);
    core.handle_bytes(second, &[&proof[..], VALIDATE].concat());
    assert_eq!(core.violation(second), Some(Violation::WrongKey));
}

#[test]
fn plain_clients_are_told_that_a_key_is_asked_for() {
    let mut core = keyed(1);
    let conn = core.open();
    core.handle_bytes(conn, &[VALIDATE, PING].concat());
    assert_eq!(core.violation(conn), Some(Violation::KeyRequired));
    assert_eq!(core.take_output(conn), b"\x5aAHSTOR\x02");
}

#[test]
fn clients_with_a_key_are_told_that_there_is_none_here() {
    let mut core = Core::new(CoreConfig::default());
    let conn = core.open();
    core.handle_bytes(conn, &auth::hello(&[5; 32]));
    assert_eq!(core.violation(conn), Some(Violation::NoKeyHere));
    assert_eq!(core.take_output(conn), b"\x5aAHSTOR\x01");
}

#[test]
fn no_request_is_heard_before_the_greeting_is_complete() {
    let hello = auth::hello(&[5; 32]);
    let request = b"\x04\x02\0\0\0\0\0\0\0/n\x01\0\0\0\0\0\0\0";
    let mut core = keyed(1);
    let conn = core.open();
    let challenge = challenge(&mut core, conn, &hello);
    let proof = auth::respond(&[1; 32].into(), &hello, &challenge).expect("same key");
    core.handle_bytes(conn, &proof);
    assert!(!core.is_validated(conn), "VALIDATE is still to come");
    core.handle_bytes(conn, request);
    assert_eq!(core.violation(conn), Some(Violation::NoGreeting));
    assert_eq!(core.keys(), 0);
    // A second hello inside is not one either.
    let conn = core.open();
    let challenge = self::challenge(&mut core, conn, &hello);
    let proof = auth::respond(&[1; 32].into(), &hello, &challenge).expect("same key");
    core.handle_bytes(conn, &[&proof[..], &hello].concat());
    assert_eq!(core.violation(conn), Some(Violation::NoGreeting));
}

#[test]
fn nothing_is_charged_before_the_greeting() {
    let mut core = keyed(1);
    for _ in 0..100 {
        let conn = core.open();
        core.handle_bytes(conn, &auth::hello(&[5; 32])[..39]);
    }
    assert_eq!(core.used(), 0);
}

#[test]
fn a_forked_copy_of_the_handle_stops_nothing() {
    let address = "127.0.0.1:0".parse().unwrap();
    let mut server = TcpStoreServer::bind(address, ServerOptions::new()).unwrap();
    let address = server.local_addr();
    server.process ^= 1;
    drop(server);
    // The thread serves on, as that of the parent does.
    let store = TcpStore::connect(address, ClientOptions::new()).unwrap();
    store.set("key", b"value").unwrap();
}
