//! Byte exchanges of the protocol, checked on both sides. `interop.rs` holds the same bytes against a PyTorch server.

mod common;

use allhands_store::server::{Core, CoreConfig};
use allhands_store::{ClientOptions, Dialect, Store, StoreError, TcpStore};
use common::exchanges::EXCHANGES;
use common::{VALIDATE, hex};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;
use std::time::Duration;

#[test]
fn the_server_answers_as_recorded() {
    let mut core = Core::new(CoreConfig::default());
    let conn = core.open();
    core.handle_bytes(conn, VALIDATE);
    assert!(core.take_output(conn).is_empty(), "nothing answers VALIDATE");
    for (what, said, answer) in EXCHANGES {
        core.handle_bytes(conn, &hex(said));
        assert_eq!(core.take_output(conn), hex(answer), "{what}");
        assert_eq!(core.violation(conn), None, "{what}");
    }
}

#[test]
fn the_server_answers_the_same_when_every_byte_comes_alone() {
    let mut core = Core::new(CoreConfig::default());
    let conn = core.open();
    for byte in VALIDATE {
        core.handle_bytes(conn, &[*byte]);
    }
    for (what, said, answer) in EXCHANGES {
        let said = hex(said);
        let mut answered = Vec::new();
        for byte in &said {
            core.handle_bytes(conn, &[*byte]);
            answered.extend(core.take_output(conn));
        }
        assert_eq!(answered, hex(answer), "{what}");
    }
}

#[test]
fn the_server_answers_the_same_when_everything_comes_at_once() {
    let mut core = Core::new(CoreConfig::default());
    let conn = core.open();
    let mut said = VALIDATE.to_vec();
    let mut answer = Vec::new();
    for (_, request, reply) in EXCHANGES {
        said.extend(hex(request));
        answer.extend(hex(reply));
    }
    core.handle_bytes(conn, &said);
    assert_eq!(core.take_output(conn), answer);
}

/// A server that expects exactly these bytes. `ping` is the one with the client's own number.
enum Step {
    Expect(&'static str),
    Ping,
    Say(&'static str),
}
use Step::{Expect, Ping, Say};

fn script(steps: Vec<Step>) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("settable");
        for (index, step) in steps.into_iter().enumerate() {
            match step {
                Expect(text) => {
                    let expected = hex(text);
                    let mut said = vec![0; expected.len()];
                    stream.read_exact(&mut said).unwrap_or_else(|e| panic!("step {index}: {e}"));
                    assert_eq!(said, expected, "step {index}");
                }
                Ping => {
                    let mut said = [0; 5];
                    stream.read_exact(&mut said).unwrap_or_else(|e| panic!("step {index}: {e}"));
                    assert_eq!(said[0], 0x0d, "step {index}");
                    stream.write_all(&said[1..]).expect("writable");
                }
                // Byte by byte: the client must not care either.
                Say(text) => {
                    stream.set_nodelay(true).expect("settable");
                    hex(text).iter().for_each(|byte| stream.write_all(&[*byte]).expect("writable"));
                }
            }
        }
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("the client closes");
        assert_eq!(rest, b"", "nothing more is said");
    });
    (address, thread)
}

fn options() -> ClientOptions {
    ClientOptions::new().timeout(Duration::from_secs(20))
}

#[test]
fn the_client_speaks_as_recorded() {
    let (address, server) = script(vec![
        Expect("00 ce f7 85 3c"),
        Ping,
        Expect("04 05 00 00 00 00 00 00 00 'init/' 01 00 00 00 00 00 00 00"),
        Say("02 00 00 00 00 00 00 00"),
        Expect("01 02 00 00 00 00 00 00 00 '/k' 03 00 00 00 00 00 00 00 00 'v' ff"),
        Ping,
        Expect("06 01 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 '/k'"),
        Say("00"),
        Expect("03 02 00 00 00 00 00 00 00 '/k'"),
        Say("03 00 00 00 00 00 00 00 00 'v' ff"),
        Expect("04 02 00 00 00 00 00 00 00 '/n' fb ff ff ff ff ff ff ff"),
        Say("f6 ff ff ff ff ff ff ff"),
        Expect(
            "02 02 00 00 00 00 00 00 00 '/c' 00 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00 'a'",
        ),
        Say("01 00 00 00 00 00 00 00 'z'"),
        Expect("08 02 00 00 00 00 00 00 00 '/c'"),
        Say("01 00 00 00 00 00 00 00"),
        Expect("07"),
        Say("09 00 00 00 00 00 00 00"),
        Expect(
            "05 02 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 '/k' 02 00 00 00 00 00 00 00 '/n'",
        ),
        Say("01"),
        Expect("09 02 00 00 00 00 00 00 00 '/a' 01 00 00 00 00 00 00 00 'x'"),
        Ping,
        Expect(
            "0b 02 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 '/p' 01 00 00 00 00 00 00 00 '1' \
             02 00 00 00 00 00 00 00 '/q' 00 00 00 00 00 00 00 00",
        ),
        Ping,
        Expect(
            "06 02 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 '/p' 02 00 00 00 00 00 00 00 '/q'",
        ),
        Say("00"),
        Expect(
            "0a 02 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 '/p' 02 00 00 00 00 00 00 00 '/q'",
        ),
        Say("01 00 00 00 00 00 00 00 '1' 00 00 00 00 00 00 00 00"),
        Expect("0e 02 00 00 00 00 00 00 00 '/j' 02 00 00 00 00 00 00 00 'j1'"),
        Ping,
        Expect("10 02 00 00 00 00 00 00 00 '/j'"),
        Say("01 00 00 00 00 00 00 00"),
        Expect("06 01 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 '/j'"),
        Say("00"),
        Expect("0f 02 00 00 00 00 00 00 00 '/j'"),
        Say("01 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 'j1'"),
        Expect("0f 02 00 00 00 00 00 00 00 '/j'"),
        Say("00 00 00 00 00 00 00 00"),
        Expect("11"),
        Say("02 00 00 00 00 00 00 00 05 00 00 00 00 00 00 00 'init/' 02 00 00 00 00 00 00 00 '/k'"),
        Expect("12 02 00 00 00 00 00 00 00 '/b' 02 00 00 00 00 00 00 00"),
        Say("00"),
    ]);
    let store = TcpStore::connect(address, options().world_size(2).dialect(Dialect::Torch215))
        .expect("connects");
    store.set("k", b"\x00v\xff").expect("set");
    assert_eq!(store.get("k").expect("get"), b"\x00v\xff");
    assert_eq!(store.add("n", -5).expect("add"), -10);
    assert_eq!(store.compare_set("c", b"", b"a").expect("compare_set"), b"z");
    assert!(store.delete_key("c").expect("delete"));
    assert_eq!(store.num_keys().expect("num_keys"), 9);
    assert!(!store.check(&["k", "n"]).expect("check"));
    store.append("a", b"x").expect("append");
    store.multi_set(&[("p", b"1"), ("q", b"")]).expect("multi_set");
    assert_eq!(store.multi_get(&["p", "q"]).expect("multi_get"), [b"1".to_vec(), vec![]]);
    store.queue_push("j", b"j1").expect("push");
    assert_eq!(store.queue_len("j").expect("len"), 1);
    assert_eq!(store.queue_pop("j").expect("pop"), b"j1");
    assert_eq!(store.queue_try_pop("j").expect("pop"), None);
    assert_eq!(store.list_keys().expect("list_keys"), ["k"]);
    store.barrier("b", 2, Duration::from_secs(5)).expect("barrier");
    drop(store);
    server.join().expect("the script went through");
}

#[test]
fn the_oldest_dialect_needs_no_ping_and_no_barrier() {
    let (address, server) = script(vec![
        Expect("00 ce f7 85 3c 07"),
        Say("00 00 00 00 00 00 00 00"),
        Expect("01 02 00 00 00 00 00 00 00 '/k' 00 00 00 00 00 00 00 00 07"),
        Say("01 00 00 00 00 00 00 00"),
        Expect("04 02 00 00 00 00 00 00 00 '/b' 01 00 00 00 00 00 00 00"),
        Say("01 00 00 00 00 00 00 00"),
        Expect("06 01 00 00 00 00 00 00 00 0b 00 00 00 00 00 00 00 '/b/released'"),
        Say("00"),
        Expect("04 02 00 00 00 00 00 00 00 '/b' 01 00 00 00 00 00 00 00"),
        Say("02 00 00 00 00 00 00 00"),
        Expect("01 0b 00 00 00 00 00 00 00 '/b/released' 00 00 00 00 00 00 00 00 07"),
        Say("02 00 00 00 00 00 00 00"),
    ]);
    let store = TcpStore::connect(address, options().dialect(Dialect::Torch21)).expect("connects");
    store.set("k", b"").expect("set");
    store.barrier("b", 2, Duration::from_secs(5)).expect("barrier");
    store.barrier("b", 2, Duration::from_secs(5)).expect("barrier");
    drop(store);
    server.join().expect("the script went through");
}

const WAIT_K: &str = "06 01 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 '/k'";

#[test]
fn a_wait_that_runs_out_is_taken_back() {
    let (address, server) = script(vec![
        Expect("00 ce f7 85 3c"),
        Ping,
        Expect(WAIT_K),
        Expect("0c"),
        Say("01"),
        Expect("07"),
        Say("00 00 00 00 00 00 00 00"),
    ]);
    let store = TcpStore::connect(address, options()).expect("connects");
    let error = store.wait(&["k"], Duration::from_millis(20)).expect_err("nobody sets it");
    assert!(matches!(&error, StoreError::Timeout { missing, .. } if missing.shown() == ["k"]));
    assert_eq!(store.num_keys().expect("the connection is still good"), 0);
    drop(store);
    server.join().expect("the script went through");
}

#[test]
fn a_key_that_comes_with_the_cancellation_counts() {
    let (address, server) =
        script(vec![Expect("00 ce f7 85 3c"), Ping, Expect(WAIT_K), Expect("0c"), Say("00 01")]);
    let store = TcpStore::connect(address, options()).expect("connects");
    store.wait(&["k"], Duration::from_millis(20)).expect("it came");
    drop(store);
    server.join().expect("the script went through");
}

#[test]
fn nonsense_from_a_server_is_named() {
    for (reply, expected) in [
        ("ff ff ff ff ff ff ff ff", "a count of -1"),
        ("00 00 00 00 00 00 01 00", "a reply of 281474976710656 bytes"),
    ] {
        let (address, server) = script(vec![
            Expect("00 ce f7 85 3c"),
            Ping,
            Expect(WAIT_K),
            Say("00"),
            Expect("03 02 00 00 00 00 00 00 00 '/k'"),
            Say(reply),
        ]);
        let store = TcpStore::connect(address, options()).expect("connects");
        let error = store.get("k").expect_err("nonsense").to_string();
        assert!(error.contains(expected) && error.contains(&address.to_string()), "{error}");
        drop(store);
        server.join().expect("the script went through");
    }
}

#[test]
fn another_service_is_not_taken_for_a_store() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut said = [0; 10];
        stream.read_exact(&mut said).expect("a greeting");
        stream.write_all(b"HTTP/1.1 400 Bad Request").expect("writable");
    });
    let error = TcpStore::connect(address, options()).expect_err("no store");
    assert!(matches!(error, StoreError::Protocol { .. }), "{error}");
    server.join().expect("it was asked");
}
