//! Any requests on a few connections of the store's server: no panic, no byte beyond the quota, no
//! entry without the key, nothing left of who leaves, and the same answers however input is cut.
#![no_main]

use allhands_fuzz::{Input, pieces};
use allhands_store::limits::STORE_QUOTA;
use allhands_store::server::{ConnId, Core, CoreConfig, OUTPUT_PAUSE, Violation};
use libfuzzer_sys::fuzz_target;

/// What a connection says first unless it is asked not to: VALIDATE and PyTorch's constant.
const GREETING: &[u8] = b"\x00\xce\xf7\x85\x3c";
/// Connections of one script.
const CONNECTIONS: usize = 4;

fn core(locked: bool, quota: usize) -> Core {
    let job_key = locked.then(|| [7; 32].into());
    Core::new(CoreConfig { job_key, quota, ..CoreConfig::default() })
}

fn open(core: &mut Core, greet: bool) -> ConnId {
    let conn = core.open();
    if greet {
        core.handle_bytes(conn, GREETING);
    }
    conn
}

/// Answers in any order of keys: the server's own order is its own business.
fn answers(core: &mut Core, conn: ConnId, cut: &mut dyn Iterator<Item = &[u8]>) -> Said {
    let mut answers = core.take_output(conn);
    for piece in cut {
        core.handle_bytes(conn, piece);
        answers.extend(core.take_output(conn));
    }
    answers.sort_unstable();
    Said { answers, violation: core.violation(conn), waiting: core.is_waiting(conn) }
}

#[derive(Debug, PartialEq)]
struct Said {
    answers: Vec<u8>,
    violation: Option<Violation>,
    waiting: bool,
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let instructions = input.byte();
    let (locked, greet) = (instructions & 1 == 1, instructions & 2 == 2);
    let quota = 1 << (8 + u32::from(instructions >> 4));
    let sizes = input.sizes();
    let script = input.rest();

    // One connection: whole, and in pieces.
    let (mut one, mut other) = (core(locked, STORE_QUOTA), core(locked, STORE_QUOTA));
    let (a, b) = (open(&mut one, greet), open(&mut other, greet));
    assert_eq!(
        answers(&mut one, a, &mut std::iter::once(script)),
        answers(&mut other, b, &mut pieces(script, &sizes))
    );
    assert_eq!((one.keys(), one.joined()), (other.keys(), other.joined()));

    // Several connections, by a script of steps: action and connection, length, bytes.
    let mut core = core(locked, quota);
    let mut conns: [ConnId; CONNECTIONS] = std::array::from_fn(|_| open(&mut core, greet));
    let mut rest = script;
    while let [step, len, tail @ ..] = rest {
        let conn = &mut conns[usize::from(*step) % CONNECTIONS];
        let (bytes, later) = tail.split_at(tail.len().min(usize::from(*len)));
        rest = later;
        core.handle_bytes(*conn, bytes);
        match step >> 6 {
            0 => {}
            1 => core.consume_output(*conn, usize::from(*len)),
            2 => drop(core.take_output(*conn)),
            _ => {
                core.close(*conn);
                *conn = open(&mut core, greet);
            }
        }
        assert!(core.used() <= quota, "{} bytes of {quota} in use", core.used());
        assert!(!locked || conns.iter().all(|&conn| !core.is_validated(conn)));
        while let Some(conn) = core.poll_touched() {
            let pending = core.pending_output(conn);
            assert!(pending <= quota as u64 + OUTPUT_PAUSE);
        }
    }
    for conn in conns {
        core.close(conn);
    }
    assert_eq!((core.connections(), core.waits()), (0, 0));
});
