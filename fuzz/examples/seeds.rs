//! Writes the committed seeds: one good input and a few bad ones for each target.
//!
//! `cargo run --example seeds` in this folder; the files are the same every time.

use std::path::Path;

use allhands_fuzz::{INITIATOR_NONCE, RESPONDER_NONCE, identity, key};
use allhands_wire::{
    Address, Cause, Describe, Descriptor, Dims, Flags, Goodbye, HEADER_LEN, Header, Initiator,
    Kind, Loan, Message, PAYLOAD_CRC_LEN, Peer, Ping, Progress, Purpose, Reject, Report, Responder,
    Testimony, Text, payload_crc,
};

/// Instructions for pieces of 256 bytes.
const WHOLE: [u8; 2] = [0, 255];
/// Instructions for pieces of 1, 7 and 64 bytes.
const SPLIT: [u8; 4] = [2, 0, 6, 63];

fn main() -> std::io::Result<()> {
    header()?;
    frames()?;
    control()?;
    handshake()?;
    store()
}

fn write(target: &str, name: &str, parts: &[&[u8]]) -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join(name), parts.concat())
}

fn data(payload: &[u8], flags: Flags) -> Vec<u8> {
    let len = payload.len() as u32;
    let header =
        Header { flags, seq: 5, payload_len: len, xfer_len: len.into(), ..Header::default() };
    let mut frame = header.encode().to_vec();
    frame.extend_from_slice(payload);
    if flags.contains(Flags::PAYLOAD_CRC) {
        frame.extend_from_slice(&payload_crc(payload));
    }
    frame
}

fn messages() -> Vec<(&'static str, Message)> {
    let descriptor = Descriptor {
        op: 1,
        reduce_op: 2,
        dtype: 3,
        root: Some(1),
        count: 6,
        shape: Dims::new(&[2, 3]),
        label: Text::new("layer 2"),
        ..Descriptor::default()
    };
    let mut ping = Ping::new(17, 4);
    ping.push(Progress { group: 1, channel: 2, submitted: 9, completed: 8 });
    let report = Report {
        group: 1,
        channel: 2,
        seq: 8,
        elapsed_ms: 34,
        testimonies: [Some(Testimony { peer: Peer(1), descriptor }), None],
        text: Text::new("reset by peer"),
        ..Report::new(Cause::Mismatch, Peer(0), [Peer(1), Peer(3)])
    };
    vec![
        ("ping", Message::Ping(ping)),
        ("poison", Message::Poison(report)),
        ("death", Message::Poison(Report::new(Cause::PeerDied, Peer(2), [Peer(1)]))),
        ("goodbye", Message::Goodbye(Goodbye::Finished)),
        ("ask", Message::Describe(Describe::Ask)),
        ("tell", Message::Describe(Describe::Tell(descriptor))),
    ]
}

fn header() -> std::io::Result<()> {
    for (i, kind) in Kind::ALL.into_iter().enumerate() {
        let payload_len = if kind == Kind::Loan { 32 } else { 0 };
        let xfer_len = if kind == Kind::Loan { 4096 } else { 0 };
        let bytes = Header { kind, seq: 9, payload_len, xfer_len, ..Header::default() }.encode();
        write("header", &format!("kind-{i}"), &[&[1], &bytes])?;
    }
    let last = Header { offset: 2, xfer_len: 200, payload_len: 72, ..Header::default() };
    write("header", "last-chunk", &[&[0], &last.encode()])?;
    write("header", "damaged", &[&[0], &[0; HEADER_LEN]])
}

fn frames() -> std::io::Result<()> {
    let stream = [
        data(b"", Flags::NONE),
        data(&[7; 100], Flags::PAYLOAD_CRC),
        Header { kind: Kind::Credit, seq: 5, ..Header::default() }.encode().to_vec(),
        Header { kind: Kind::Goodbye, ..Header::default() }.encode().to_vec(),
    ]
    .concat();
    write("frames", "data-whole", &[&[1], &WHOLE, &stream])?;
    write("frames", "data-split", &[&[0], &SPLIT, &stream])?;
    write("frames", "data-too-long", &[&[1], &WHOLE, &data(&[7; 301], Flags::NONE)])?;
    write("frames", "data-cut", &[&[0], &SPLIT, &stream[..stream.len() - 70]])?;
    let control: Vec<u8> = messages()
        .iter()
        .flat_map(|(_, message)| message.encode(Address::default()).as_bytes().to_vec())
        .collect();
    write("frames", "control-whole", &[&[3], &WHOLE, &control])?;
    write("frames", "control-split", &[&[2], &SPLIT, &control])
}

fn control() -> std::io::Result<()> {
    let mut reports = Vec::new();
    for (name, message) in messages() {
        let index = Kind::ALL.iter().position(|&kind| kind == message.kind()).unwrap_or(0) as u8;
        let frame = message.encode(Address::default());
        let payload = &frame.as_bytes()[HEADER_LEN..frame.as_bytes().len() - PAYLOAD_CRC_LEN];
        write("control", name, &[&[index, 0], payload])?;
        if message.kind() == Kind::Poison {
            reports.push(payload.to_vec());
        }
    }
    // Padding the text makes the first report's length a multiple of four, where it can be cut.
    let mut padded = Report::new(Cause::Timeout, Peer(0), [Peer(1)]);
    let mut buffer = [0; allhands_wire::REPORT_MAX];
    while !padded.encode(&mut buffer).len().is_multiple_of(4) {
        padded.text = Text::new(&format!("{}x", padded.text));
    }
    let first = padded.encode(&mut buffer);
    write("control", "two-reports", &[&[5, (first.len() / 4) as u8], first, &reports[0]])?;
    let loan = Loan { segment: 1, offset: 64, len: 4096, generation: 3 };
    write("control", "loan", &[&[2, 0], &loan.encode()])
}

fn handshake() -> std::io::Result<()> {
    let verdicts = [
        ("granted", None),
        ("busy", Some(Reject::Busy)),
        ("epoch", Some(Reject::WrongEpoch { mine: 3, theirs: 2 })),
    ];
    for (name, verdict) in verdicts {
        for (lane, purpose) in [("control", Purpose::Control), ("data", Purpose::Data { lane: 1 })]
        {
            let mut responder = Responder::new(&key(), &identity(0), RESPONDER_NONCE);
            let mut initiator =
                Initiator::new(&key(), &identity(1), Peer(0), purpose, INITIATOR_NONCE);
            let greeting = responder.poll_output().to_vec();
            responder.handle_sent(greeting.len());
            initiator.handle_bytes(&greeting);
            let hello = initiator.poll_output().to_vec();
            responder.handle_bytes(&hello);
            if let Some(decision) = responder.decide() {
                match verdict {
                    None => decision.grant(),
                    Some(reject) => decision.refuse(reject),
                }
            }
            let instructions = if purpose == Purpose::Control { 2 } else { 0 };
            let answer = responder.poll_output();
            let name = format!("{name}-{lane}");
            let parts: [&[u8]; 4] = [&[instructions], &SPLIT, &greeting, answer];
            write("handshake_initiator", &name, &parts)?;
            let parts: [&[u8]; 4] = [&[instructions | 1], &WHOLE, &greeting, answer];
            write("handshake_initiator", &format!("{name}-repaired"), &parts)?;
            if verdict.is_none() {
                write("handshake_responder", lane, &[&[0], &SPLIT, &hello])?;
                write("handshake_responder", &format!("{lane}-repaired"), &[&[1], &WHOLE, &hello])?;
                write("handshake_responder", &format!("{lane}-refused"), &[&[3], &WHOLE, &hello])?;
            }
        }
    }
    write("handshake_responder", "stray", &[&[0], &WHOLE, b"GET / HTTP/1.1\r\n\r\n"])?;
    write("handshake_initiator", "stray", &[&[0], &WHOLE, b"SSH-2.0-OpenSSH_9.2p1\r\n"])
}

/// A request of the store: opcode, then keys and values with their lengths in eight bytes.
fn request(opcode: u8, count: Option<u64>, fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![opcode];
    if let Some(count) = count {
        bytes.extend_from_slice(&count.to_le_bytes());
    }
    for field in fields {
        bytes.extend_from_slice(&(field.len() as u64).to_le_bytes());
        bytes.extend_from_slice(field);
    }
    bytes
}

fn store() -> std::io::Result<()> {
    let add =
        |key: &[u8], delta: i64| [request(4, None, &[key]), delta.to_le_bytes().to_vec()].concat();
    let barrier = |world: i64| [request(18, None, &[b"/b"]), world.to_le_bytes().to_vec()].concat();
    let requests: [(&str, Vec<u8>); 18] = [
        ("set", request(1, None, &[b"/a", b"value"])),
        ("compare-set", request(2, None, &[b"/a", b"value", b"other"])),
        ("get", request(3, None, &[b"/a"])),
        ("add", add(b"/n", 5)),
        ("check", request(5, Some(2), &[b"/a", b"/n"])),
        ("wait", request(6, Some(1), &[b"/later"])),
        ("num-keys", vec![7]),
        ("delete", request(8, None, &[b"/a"])),
        ("append", request(9, None, &[b"/a", b"more"])),
        ("multi-get", request(10, Some(2), &[b"/a", b"/n"])),
        ("multi-set", request(11, Some(2), &[b"/a", b"1", b"/c", b"2"])),
        ("cancel", vec![12]),
        ("ping", [&[13][..], &7u32.to_le_bytes()].concat()),
        ("push", request(14, None, &[b"/q", b"item"])),
        ("pop", request(15, None, &[b"/q"])),
        ("queue-len", request(16, None, &[b"/q"])),
        ("list-keys", vec![17]),
        ("barrier", barrier(2)),
    ];
    // Upper four bits: the quota, 256 bytes to 8 MiB. Bit 1: greet. Bit 0: ask for a job key.
    let all: Vec<u8> = requests.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    write("store_server", "all", &[&[0xF2], &SPLIT, &all])?;
    for (name, bytes) in &requests {
        write("store_server", name, &[&[0xF2], &WHOLE, bytes])?;
    }
    // Every request as a step of its own, on alternating connections.
    let mut script = Vec::new();
    for (i, (_, bytes)) in requests.iter().enumerate() {
        script.extend_from_slice(&[(i % 4) as u8 | 0x80, bytes.len() as u8]);
        script.extend_from_slice(bytes);
    }
    write("store_server", "script", &[&[0xF2], &WHOLE, &script])?;
    write("store_server", "script-small-quota", &[&[0x32], &WHOLE, &script])?;
    write("store_server", "locked", &[&[0xF1], &WHOLE, b"\x00\xce\xf7\x85\x3c", &all])?;
    write("store_server", "no-greeting", &[&[0xF0], &WHOLE, b"GET / HTTP/1.1\r\n"])?;
    let too_long = [&[1][..], &u64::MAX.to_le_bytes()].concat();
    write("store_server", "key-too-long", &[&[0xF2], &WHOLE, &too_long])
}
