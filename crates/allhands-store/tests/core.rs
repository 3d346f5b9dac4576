//! The server without sockets: order, waiting, limits, accounting, and input cut anywhere.

mod common;

use allhands_store::limits::{KEY_MAX, KEYS_MAX, REQUEST_MAX, STORE_QUOTA, VALUE_MAX};
use allhands_store::server::{ConnId, Core, CoreConfig, OUTPUT_PAUSE, Violation};
use common::exchanges::EXCHANGES;
use common::{VALIDATE, hex, number, request, text};
use proptest::collection::vec;
use proptest::prelude::*;

fn core() -> Core {
    Core::new(CoreConfig::default())
}

fn client(core: &mut Core) -> ConnId {
    let conn = core.open();
    core.handle_bytes(conn, VALIDATE);
    assert!(core.is_validated(conn));
    conn
}

/// Says something and returns what comes back at once.
fn ask(core: &mut Core, conn: ConnId, bytes: &[u8]) -> Vec<u8> {
    core.handle_bytes(conn, bytes);
    core.take_output(conn)
}

fn set(key: &str, value: &[u8]) -> Vec<u8> {
    request(0x01, &[text(key.as_bytes()), text(value)])
}

fn get(key: &str) -> Vec<u8> {
    request(0x03, &[text(key.as_bytes())])
}

fn delete(key: &str) -> Vec<u8> {
    request(0x08, &[text(key.as_bytes())])
}

fn several(opcode: u8, keys: &[&str]) -> Vec<u8> {
    let keys: Vec<_> = keys.iter().map(|key| text(key.as_bytes())).collect();
    request(opcode, &[vec![number(keys.len() as i64)], keys].concat())
}

fn wait(keys: &[&str]) -> Vec<u8> {
    several(0x06, keys)
}

fn push(key: &str, value: &[u8]) -> Vec<u8> {
    request(0x0e, &[text(key.as_bytes()), text(value)])
}

fn pop(key: &str) -> Vec<u8> {
    request(0x0f, &[text(key.as_bytes())])
}

fn barrier(key: &str, world: i64) -> Vec<u8> {
    request(0x12, &[text(key.as_bytes()), number(world)])
}

const CANCEL: &[u8] = &[0x0c];

fn touched(core: &mut Core) -> Vec<ConnId> {
    std::iter::from_fn(|| core.poll_touched()).collect()
}

#[test]
fn one_cut_anywhere_changes_nothing() {
    let mut said = VALIDATE.to_vec();
    let mut answer = Vec::new();
    for (_, request, reply) in EXCHANGES {
        said.extend(hex(request));
        answer.extend(hex(reply));
    }
    for cut in 0..=said.len() {
        let mut core = core();
        let conn = core.open();
        let mut answered = ask(&mut core, conn, &said[..cut]);
        answered.extend(ask(&mut core, conn, &said[cut..]));
        assert_eq!(answered, answer, "cut at {cut}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cuts_and_interleaving_change_nothing(pieces in vec((0usize..40, any::<bool>()), 1..300)) {
        let mut core = core();
        // Two clients with keys of their own: the second's are one letter longer everywhere.
        let script = |mark: &str| {
            let mut said = VALIDATE.to_vec();
            let mut answer = Vec::new();
            for round in 0..4 {
                let key = format!("/{mark}{round}");
                let value = vec![round; 30 * usize::from(round)];
                said.extend(set(&key, &value));
                said.extend(wait(&[&key]));
                answer.push(0);
                said.extend(get(&key));
                answer.extend(text(&value));
            }
            (said, answer)
        };
        let scripts = [script("x"), script("xy")];
        let conns = [core.open(), core.open()];
        let mut done = [0, 0];
        let mut answered = [Vec::new(), Vec::new()];
        let rest = [(usize::MAX, false), (usize::MAX, true)];
        for (size, second) in pieces.into_iter().chain(rest) {
            let who = usize::from(second);
            let said = &scripts[who].0[done[who]..];
            let size = size.min(said.len());
            answered[who].extend(ask(&mut core, conns[who], &said[..size]));
            done[who] += size;
        }
        prop_assert_eq!(&answered[0], &scripts[0].1);
        prop_assert_eq!(&answered[1], &scripts[1].1);
    }

    /// The property of the fuzz target: whatever comes, nothing breaks, leaks or grows.
    #[test]
    fn garbage_is_survived(
        chunks in vec((0usize..3, vec(prop_oneof![0u8..0x14, any::<u8>()], 0..60)), 0..60),
        greeted in any::<bool>(),
    ) {
        let mut core = Core::new(CoreConfig { quota: 1 << 20, ..CoreConfig::default() });
        let mut conns: Vec<_> = (0..3).map(|_| core.open()).collect();
        if greeted {
            conns.iter().for_each(|conn| core.handle_bytes(*conn, VALIDATE));
        }
        for (who, bytes) in chunks {
            core.handle_bytes(conns[who], &bytes);
            prop_assert!(core.used() <= 1 << 20);
            if core.violation(conns[who]).is_some() {
                core.close(conns[who]);
                conns[who] = core.open();
            }
        }
        conns.iter().for_each(|conn| core.close(*conn));
        prop_assert_eq!(core.waits(), 0);
        prop_assert_eq!(core.connections(), 0);
    }

    /// Well-formed requests in any order: all that was charged is given back in the end.
    #[test]
    fn nothing_stays_charged(steps in vec((0usize..3, 0usize..9, 0usize..4, 0usize..300), 0..100)) {
        let mut core = core();
        let mut conns: Vec<_> = (0..3).map(|_| client(&mut core)).collect();
        let keys = ["/a", "/b", "/c", "/d"];
        for (who, what, key, size) in steps {
            let (key, value) = (keys[key], vec![b'1'; size % 18]);
            let bytes = match what {
                0 => set(key, &vec![7; size]),
                1 => wait(&[key, "/b"]),
                2 => CANCEL.to_vec(),
                3 => push(key, &vec![7; size]),
                4 => pop(key),
                5 => delete(key),
                6 => request(0x04, &[text(b"/n"), number(size as i64)]),
                7 => barrier("/meet", size as i64 % 3),
                _ => request(0x09, &[text(key.as_bytes()), text(&value)]),
            };
            core.handle_bytes(conns[who], &bytes);
            if size % 7 == 0 {
                core.close(conns[who]);
                conns[who] = client(&mut core);
            }
        }
        conns.iter().for_each(|conn| core.close(*conn));
        prop_assert_eq!(core.waits(), 0);
        let last = client(&mut core);
        for key in keys.iter().chain(&["/n", "/meet"]) {
            ask(&mut core, last, &delete(key));
            while ask(&mut core, last, &pop(key)) != number(0) {}
        }
        core.close(last);
        prop_assert_eq!(core.keys(), 0);
        prop_assert_eq!(core.used(), 0);
    }
}

#[test]
fn a_wait_ends_with_the_last_of_its_keys() {
    let mut core = core();
    let (a, b) = (client(&mut core), client(&mut core));
    assert_eq!(ask(&mut core, a, &wait(&["/x", "/y", "/x"])), b"");
    assert!(core.is_waiting(a));
    assert_eq!(core.waits(), 2);
    ask(&mut core, b, &set("/x", b""));
    assert_eq!(core.take_output(a), b"");
    ask(&mut core, b, &set("/x", b"again"));
    assert_eq!(touched(&mut core), []);
    ask(&mut core, b, &set("/y", b""));
    assert_eq!(touched(&mut core), [a]);
    assert_eq!(core.take_output(a), [0]);
    assert_eq!((core.waits(), core.is_waiting(a)), (0, false));
}

#[test]
fn one_write_wakes_all_waiters() {
    let mut core = core();
    let waiters: Vec<_> = (0..50).map(|_| client(&mut core)).collect();
    for conn in &waiters {
        core.handle_bytes(*conn, &wait(&["/go"]));
    }
    let writer = client(&mut core);
    ask(&mut core, writer, &request(0x0b, &[number(1), text(b"/go"), text(b"")]));
    assert_eq!(touched(&mut core), waiters);
    assert!(waiters.iter().all(|conn| core.take_output(*conn) == [0]));
}

#[test]
fn answers_keep_the_order_of_requests() {
    let mut core = core();
    let (a, b) = (client(&mut core), client(&mut core));
    let pipelined = [wait(&["/k"]), get("/k"), set("/seen", b"1"), vec![0x0d, 1, 2, 3, 4]].concat();
    assert_eq!(ask(&mut core, a, &pipelined), b"");
    assert!(!core.wants_input(a), "later requests are held back");
    assert_eq!(ask(&mut core, b, &get("/seen")), text(b""));
    ask(&mut core, b, &set("/k", b"v"));
    assert_eq!(core.take_output(a), [vec![0], text(b"v"), vec![1, 2, 3, 4]].concat());
    assert!(core.wants_input(a));
    assert_eq!(ask(&mut core, b, &get("/seen")), text(b"1"));
}

#[test]
fn released_requests_release_others() {
    let mut core = core();
    let conns: Vec<_> = (0..20).map(|_| client(&mut core)).collect();
    for (index, conn) in conns.iter().enumerate() {
        let (mine, next) = (format!("/{index}"), format!("/{}", index + 1));
        core.handle_bytes(*conn, &[wait(&[&mine]), set(&next, b"")].concat());
    }
    let starter = client(&mut core);
    ask(&mut core, starter, &set("/0", b""));
    assert!(conns.iter().all(|conn| core.take_output(*conn) == [0]));
    assert_eq!(core.keys(), 21);
}

#[test]
fn a_cancelled_wait_is_forgotten() {
    let mut core = core();
    let (a, b) = (client(&mut core), client(&mut core));
    ask(&mut core, a, &wait(&["/k"]));
    assert_eq!(ask(&mut core, a, CANCEL), [1]);
    assert_eq!(core.waits(), 0);
    ask(&mut core, b, &set("/k", b""));
    assert_eq!(core.take_output(a), b"", "nothing more is said about it");
    // The key came first: both are answered.
    ask(&mut core, a, &wait(&["/l"]));
    core.handle_bytes(b, &set("/l", b""));
    assert_eq!(ask(&mut core, a, CANCEL), [0, 1]);
}

#[test]
fn a_lost_connection_waits_no_more() {
    let mut core = core();
    let (a, b) = (client(&mut core), client(&mut core));
    ask(&mut core, a, &wait(&["/k", "/l"]));
    ask(&mut core, b, &barrier("/b", 2));
    assert_eq!(core.waits(), 3);
    core.close(a);
    core.close(b);
    assert_eq!((core.waits(), core.connections()), (0, 0));
    assert_eq!(touched(&mut core), []);
}

#[test]
fn a_pushed_value_wakes_the_first_waiter_only() {
    let mut core = core();
    let (a, b, c) = (client(&mut core), client(&mut core), client(&mut core));
    ask(&mut core, a, &wait(&["/q"]));
    ask(&mut core, b, &wait(&["/q"]));
    ask(&mut core, c, &push("/q", b"1"));
    assert_eq!((core.take_output(a), core.take_output(b)), (vec![0], vec![]));
    assert_eq!(ask(&mut core, a, &pop("/q")), [number(1), text(b"1")].concat());
    assert_eq!(core.take_output(b), b"");
    ask(&mut core, c, &push("/q", b"2"));
    assert_eq!(core.take_output(b), [0]);
}

#[test]
fn a_woken_client_that_does_not_pop_passes_it_on() {
    let mut core = core();
    let pusher = client(&mut core);
    // Does something else; is lost; waits for more than the queue.
    let other = |core: &mut Core, conn| drop(ask(core, conn, &get("/x")));
    let lost = |core: &mut Core, conn| core.close(conn);
    type Then = fn(&mut Core, ConnId);
    let cases: [(&[&str], Then); 3] =
        [(&["/q"], other), (&["/q"], lost), (&["/q", "/more"], |_, _| {})];
    for (keys, then) in cases {
        let (first, second) = (client(&mut core), client(&mut core));
        ask(&mut core, first, &wait(keys));
        ask(&mut core, second, &wait(&["/q"]));
        ask(&mut core, pusher, &push("/q", b"1"));
        then(&mut core, first);
        assert_eq!(core.take_output(second), [0], "{keys:?}");
        assert_eq!(ask(&mut core, second, &pop("/q")), [number(1), text(b"1")].concat());
    }
}

#[test]
fn a_barrier_lets_all_go_at_once_and_late_ones_pass() {
    let mut core = core();
    let conns: Vec<_> = (0..4).map(|_| client(&mut core)).collect();
    assert_eq!(ask(&mut core, conns[0], &barrier("/b", 3)), b"");
    assert_eq!(ask(&mut core, conns[1], &barrier("/b", 3)), b"");
    assert_eq!(ask(&mut core, conns[2], &barrier("/b", 3)), [0]);
    assert_eq!((core.take_output(conns[0]), core.take_output(conns[1])), (vec![0], vec![0]));
    assert_eq!(ask(&mut core, conns[3], &barrier("/b", 3)), [0]);
    assert_eq!(ask(&mut core, conns[3], &get("/b")), text(b"4"));
    // A cancelled arrival still counts, as with PyTorch.
    assert_eq!(ask(&mut core, conns[0], &barrier("/c", 2)), b"");
    assert_eq!(ask(&mut core, conns[0], CANCEL), [1]);
    assert_eq!(ask(&mut core, conns[1], &barrier("/c", 2)), [0]);
    // Who waits for the key sees the first arrival.
    assert_eq!(ask(&mut core, conns[2], &wait(&["/d"])), b"");
    ask(&mut core, conns[0], &barrier("/d", 9));
    assert_eq!(core.take_output(conns[2]), [0]);
}

#[test]
fn list_keys_has_all_keys_and_no_queue() {
    let mut core = core();
    let conn = client(&mut core);
    for key in ["init/", "/b", "/a"] {
        ask(&mut core, conn, &request(0x04, &[text(key.as_bytes()), number(1)]));
    }
    ask(&mut core, conn, &push("/q", b"1"));
    let answer = ask(&mut core, conn, &[0x11]);
    assert_eq!(answer[..8], number(3));
    let mut keys = Vec::new();
    let mut rest = &answer[8..];
    while let Some((length, tail)) = rest.split_first_chunk::<8>() {
        let (key, tail) = tail.split_at(u64::from_le_bytes(*length) as usize);
        keys.push(key.to_vec());
        rest = tail;
    }
    keys.sort();
    assert_eq!(keys, [b"/a".to_vec(), b"/b".to_vec(), b"init/".to_vec()]);
    assert_eq!(core.joined(), 1);
}

#[test]
fn what_breaks_a_rule_is_named() {
    let long = |length: usize| (length as u64).to_le_bytes().to_vec();
    let cases: Vec<(&str, Vec<u8>, Violation)> = vec![
        ("operation", vec![0x13], Violation::UnknownOperation(0x13)),
        ("key", request(0x03, &[long(KEY_MAX + 1)]), Violation::KeyTooLong(KEY_MAX as u64 + 1)),
        ("huge key", request(0x03, &[number(-1)]), Violation::KeyTooLong(u64::MAX)),
        (
            "value",
            request(0x01, &[text(b"/k"), long(VALUE_MAX + 1)]),
            Violation::ValueTooLong(VALUE_MAX as u64 + 1),
        ),
        ("keys", request(0x06, &[long(KEYS_MAX + 1)]), Violation::TooManyKeys(KEYS_MAX as u64 + 1)),
        ("greeting", b"\0abcd".to_vec(), Violation::NoGreeting),
        (
            "counter",
            [set("/t", b"1.5"), request(0x04, &[text(b"/t"), number(1)])].concat(),
            Violation::NotACounter,
        ),
        (
            "counter with a blank",
            [set("/t", b" 1"), request(0x04, &[text(b"/t"), number(1)])].concat(),
            Violation::NotACounter,
        ),
        (
            "append",
            [set("/l", &vec![0; VALUE_MAX]), request(0x09, &[text(b"/l"), text(b"x")])].concat(),
            Violation::ValueTooLong(1),
        ),
    ];
    for (what, bytes, expected) in cases {
        let mut core = core();
        let conn = client(&mut core);
        core.handle_bytes(conn, &bytes);
        assert_eq!(core.violation(conn), Some(expected), "{what}");
        assert!(!core.wants_input(conn));
        // What it says afterwards is not heard.
        core.handle_bytes(conn, &set("/late", b""));
        let other = client(&mut core);
        assert_eq!(ask(&mut core, other, &several(0x05, &["/late"])), [1], "{what}");
    }
}

#[test]
fn the_longest_of_everything_is_accepted() {
    let mut core = core();
    let conn = client(&mut core);
    let key = "k".repeat(KEY_MAX);
    let value = vec![7; VALUE_MAX];
    ask(&mut core, conn, &set(&key, &value));
    assert!(ask(&mut core, conn, &get(&key)) == text(&value));
    let keys = vec![key.as_str(); 7000];
    assert_eq!(ask(&mut core, conn, &several(0x05, &keys)), [0]);
    let keys: Vec<_> = (0..KEYS_MAX).map(|index| index.to_string()).collect();
    let keys: Vec<_> = keys.iter().map(String::as_str).collect();
    assert_eq!(ask(&mut core, conn, &wait(&keys)), b"");
    assert_eq!(core.waits(), KEYS_MAX);
    assert_eq!(ask(&mut core, conn, CANCEL), [1]);
    assert_eq!(core.waits(), 0);
}

#[test]
fn a_first_message_that_is_no_greeting_ends_it() {
    let cases: [&[u8]; 5] =
        [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00", b"\x01", b"\x0d\0\0\0\0", b"\xff"];
    for first in cases {
        let mut core = core();
        let conn = core.open();
        core.handle_bytes(conn, first);
        assert_eq!(core.violation(conn), Some(Violation::NoGreeting), "{first:02x?}");
        assert_eq!(core.take_output(conn), b"");
    }
}

#[test]
fn an_announced_length_takes_no_memory() {
    let mut core = core();
    let before = core.used();
    for _ in 0..100 {
        let conn = client(&mut core);
        let announced = (VALUE_MAX as u64).to_le_bytes().to_vec();
        core.handle_bytes(conn, &request(0x01, &[text(b"/k"), announced]));
        let conn = client(&mut core);
        core.handle_bytes(conn, &request(0x06, &[number(KEYS_MAX as i64)]));
    }
    let each = (core.used() - before) / 100;
    assert!(each < 256, "{each} bytes for a promise");
}

#[test]
fn an_endless_request_is_cut_off_and_gives_all_back() {
    let mut core = core();
    let conn = client(&mut core);
    let honest = client(&mut core);
    ask(&mut core, honest, &set("/k", b"v"));
    let base = core.used();
    core.handle_bytes(conn, &request(0x0b, &[number(KEYS_MAX as i64)]));
    let entry = [text(b"/entry"), text(&[7; 1000])].concat();
    let mut sent = 0;
    // Pieces that fit nothing. A parser that began anew each time would not finish this test.
    while core.violation(conn).is_none() {
        for piece in entry.chunks(61) {
            core.handle_bytes(conn, piece);
        }
        sent += entry.len();
        assert!(sent <= REQUEST_MAX + entry.len());
    }
    assert_eq!(core.violation(conn), Some(Violation::RequestTooLarge));
    assert!(sent > REQUEST_MAX / 2, "{sent} bytes were too few");
    assert_eq!(ask(&mut core, honest, &get("/k")), text(b"v"));
    core.close(conn);
    assert_eq!(core.used(), base);
}

#[test]
fn the_quota_holds_and_deleting_makes_room() {
    let mut core = core();
    let conn = client(&mut core);
    let value = vec![7; VALUE_MAX];
    let mut stored = 0;
    while core.violation(conn).is_none() {
        core.handle_bytes(conn, &set(&format!("/{stored}"), &value));
        stored += 1;
        assert!(core.used() <= STORE_QUOTA);
    }
    assert_eq!(core.violation(conn), Some(Violation::StoreFull));
    assert_eq!(stored, STORE_QUOTA / VALUE_MAX, "the last one did not fit with its overhead");
    core.close(conn);
    let conn = client(&mut core);
    for key in 0..2 {
        assert_eq!(ask(&mut core, conn, &delete(&format!("/{key}"))), number(1));
    }
    core.handle_bytes(conn, &set("/again", &value));
    assert_eq!(core.violation(conn), None);
}

#[test]
fn large_answers_share_memory_and_hold_back_further_requests() {
    let mut core = core();
    let conn = client(&mut core);
    core.handle_bytes(conn, &set("/k", &vec![7; 1 << 20]));
    let base = core.used();
    let many = vec!["/k"; 10_000];
    core.handle_bytes(conn, &[several(0x0a, &many), vec![0x0d, 1, 2, 3, 4]].concat());
    assert_eq!(core.pending_output(conn), 10_000 * ((1 << 20) + 8), "10 GiB to send");
    assert!(core.used() - base < 4 << 20, "{} bytes for it", core.used() - base);
    assert!(core.pending_output(conn) > OUTPUT_PAUSE && !core.wants_input(conn));
    // The value may go; what is promised stays.
    let other = client(&mut core);
    ask(&mut core, other, &set("/k", b"new"));
    let mut total = 0;
    let mut last = Vec::new();
    loop {
        let mut slices = [std::io::IoSlice::new(&[])];
        if core.output(conn, &mut slices) == 0 {
            break;
        }
        // Not the whole segment, to see that the rest of it follows.
        let count = slices[0].len().div_ceil(2);
        last = slices[0][..count].to_vec();
        total += count as u64;
        core.consume_output(conn, count);
    }
    assert_eq!(total, 10_000 * ((1 << 20) + 8) + 4);
    assert_eq!(last.last(), Some(&4), "the ping was answered last");
    assert!(core.wants_input(conn));
    assert!(core.used() < base, "the old value is gone");
}

#[test]
fn a_client_that_never_reads_cannot_pin_more_than_the_quota() {
    let mut core = core();
    let value = vec![7; VALUE_MAX];
    let mut refused = 0;
    // Each reader holds the value of its time.
    for round in 0..60_u8 {
        let (writer, reader) = (client(&mut core), client(&mut core));
        core.handle_bytes(writer, &set("/k", &value));
        refused += u32::from(core.violation(writer).is_some());
        core.handle_bytes(reader, &get("/k"));
        assert!(core.used() <= STORE_QUOTA, "round {round}");
    }
    assert!(refused > 20, "{refused}");
}
