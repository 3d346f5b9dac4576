//! Every message for a human: lower case, no final period, who, what, and what now.

use allhands_wire::{
    Address, Cause, Culprits, Descriptor, Dims, Fingerprint, FingerprintParts, FrameDecoder,
    FrameError, Goodbye, HandshakeError, HeaderError, HostHash, Identity, Incumbent, Initiator,
    JobHash, JobKey, KeyError, Kind, Lane, Message, Nonce, PayloadError, Peer, Purpose, Reject,
    Report, Responder, Testimony, Text, WireError,
};

/// Compares all at once, so that a failure shows the whole list.
fn check(found: &[String], expected: &[&str]) {
    assert_eq!(found.join("\n"), expected.join("\n"));
}

#[test]
fn header_errors() {
    let kind = Kind::Loan;
    let errors = [
        HeaderError::Checksum { sent: 1, computed: 0xABCD },
        HeaderError::Magic { found: 0x2054_4547 },
        HeaderError::Version { theirs: 2 },
        HeaderError::Kind { code: 9 },
        HeaderError::Flags { bits: 2 },
        HeaderError::PayloadTooLong { kind: Kind::Data, len: 1 << 25 },
        HeaderError::TransferTooLong { kind: Kind::Data, len: 1 << 39 },
        HeaderError::Overrun { end: 65, xfer_len: 64 },
        HeaderError::Lengths { kind, payload_len: 1, xfer_len: 2, offset: 3 },
    ];
    check(
        &errors.map(|error| error.to_string()),
        &[
            "header checksum is 0x0000abcd, the sender computed 0x00000001",
            "frame starts with 0x20544547, not with the magic of this protocol",
            "peer speaks frame version 2, this process 1; run one version everywhere",
            "frame kind 9 is not defined",
            "frame flags 0x0002 are not all defined",
            "data frame claims a payload of 33554432 bytes; the limit is 16777216",
            "data frame claims a transfer of 549755813888 bytes; the limit is 274877906944",
            "payload ends at byte 65 of a transfer of 64 bytes",
            "loan frame cannot have payload 1, transfer 2, offset 3",
        ],
    );
}

#[test]
fn payload_and_frame_errors() {
    let errors: [WireError; 10] = [
        PayloadError::Truncated { field: "label" }.into(),
        PayloadError::Trailing { bytes: 3 }.into(),
        PayloadError::Value { field: "cause", value: 99 }.into(),
        PayloadError::TooLong { field: "shape", len: 9, limit: 8 }.into(),
        PayloadError::Text { field: "label" }.into(),
        PayloadError::NotControl { kind: Kind::LoanReturn }.into(),
        FrameError::WrongLane { kind: Kind::Describe, lane: Lane::Data }.into(),
        FrameError::PayloadTooLong { kind: Kind::Poison, len: 2000, limit: 1024 }.into(),
        FrameError::PayloadChecksum { kind: Kind::Goodbye, sent: 1, computed: 2 }.into(),
        FrameError::from(HeaderError::Kind { code: 9 }).into(),
    ];
    check(
        &errors.map(|error| error.to_string()),
        &[
            "payload ends before its label; the sender speaks another dialect or is broken",
            "payload has 3 bytes after its last field",
            "payload field cause holds 99, which is not defined",
            "payload field shape claims 9 entries; the limit is 8",
            "payload field label is not printable text",
            "a loan return frame carries no control message",
            "a describe frame does not belong on a data connection",
            "a poison frame claims 2000 payload bytes; this connection takes 1024",
            "payload checksum of a goodbye frame is 0x00000002, the sender computed 0x00000001",
            "frame kind 9 is not defined",
        ],
    );
}

#[test]
fn handshake_errors() {
    let first = Incumbent { pid: 77, host: HostHash([0xAB; 8]) };
    let rejects = [
        Reject::WrongJob,
        Reject::Version { mine: 1, theirs: 2 },
        Reject::Suite { mine: 1, theirs: 2 },
        Reject::AuthFailed,
        Reject::DuplicateRank { first },
        Reject::WorldSizeMismatch { mine: 2, theirs: 3 },
        Reject::WrongEpoch { mine: 4, theirs: 5 },
        Reject::LaneMismatch { mine: 1, theirs: 2 },
        Reject::NotMember { src: 9, dst: 0 },
        Reject::Busy,
    ];
    let rejected = rejects.map(|reject| HandshakeError::Rejected(reject).to_string());
    check(
        &rejected,
        &[
            "turned away: the other process belongs to another job; check the address and the job \
             id",
            "turned away: this process speaks handshake version 1, the other 2; run one version \
             everywhere",
            "turned away: this process uses handshake suite 1, the other 2; configure one \
             everywhere",
            "turned away: the initiator did not prove the job key; give every process the same key",
            "turned away: the rank is already taken by process 77 on host abababababababab; two \
             processes were started with one rank",
            "turned away: this process was started with world size 2, the other with 3",
            "turned away: this process is in epoch 4, the other in epoch 5; the older one must \
             rejoin",
            "turned away: this process uses 1 data connections a pair, the other 2; configure one \
             number",
            "turned away: peer 9 dialled peer 0, which is no pair of this mesh",
            "turned away: the responder is busy; dial again later",
        ],
    );
    let errors: [WireError; 7] = [
        HandshakeError::NotOurs.into(),
        HandshakeError::Version { mine: 1, theirs: 2 }.into(),
        HandshakeError::Suite { mine: 1, theirs: 2 }.into(),
        HandshakeError::Malformed { field: "lanes" }.into(),
        HandshakeError::Unproven.into(),
        HandshakeError::WrongPeer { dialled: Peer(1), found: Peer(2) }.into(),
        HandshakeError::Refused(Reject::Busy).into(),
    ];
    check(
        &errors.map(|error| error.to_string()),
        &[
            "the other side does not speak this handshake",
            "this process speaks handshake version 1, the other 2; run one version everywhere",
            "this process uses handshake suite 1, the other 2; configure one everywhere",
            "handshake message with impossible lanes",
            "the responder did not prove the job key; give every process the same key",
            "dialled peer 1, but peer 2 answered; the address in the store is stale",
            "turned the initiator away: the responder is busy; dial again later",
        ],
    );
    check(
        &[KeyError::Length { digits: 3 }.to_string(), KeyError::Digit.to_string()],
        &[
            "a job key is 64 hexadecimal digits, this one has 3",
            "a job key is 64 hexadecimal digits, this one has another character among them",
        ],
    );
}

#[test]
fn names() {
    check(
        &Kind::ALL.map(|kind| format!("{kind} on {}", kind.lane())),
        &[
            "data on data",
            "credit on data",
            "loan on data",
            "loan return on data",
            "ping on control",
            "poison on control",
            "goodbye on control",
            "describe on control",
        ],
    );
    check(
        &Cause::ALL.map(|cause| cause.to_string()),
        &[
            "mismatched operations",
            "panic in a hook",
            "panic of a driver",
            "abort by the user",
            "death of a process",
            "silence",
            "timeout",
            "lost connection",
            "protocol violation",
        ],
    );
    check(
        &[
            Peer(3).to_string(),
            Purpose::Control.to_string(),
            Purpose::Data { lane: 2 }.to_string(),
            Culprits::none().to_string(),
            [Peer(4)].into_iter().collect::<Culprits>().to_string(),
        ],
        &["peer 3", "control", "data lane 2", "no peer", "peer 4"],
    );
}

#[test]
fn operations_and_reports() {
    let descriptor = Descriptor {
        op: 1,
        reduce_op: 2,
        dtype: 3,
        root: Some(4),
        count: 6,
        algorithm: 5,
        shape: Dims::new(&[2, 3]),
        label: Text::new("layer 2"),
        ..Descriptor::default()
    };
    let plain = Descriptor { root: None, label: Text::default(), ..descriptor };
    let report = Report {
        seq: 8,
        testimonies: [
            Some(Testimony { peer: Peer(0), descriptor }),
            Some(Testimony { peer: Peer(1), descriptor: plain }),
        ],
        ..Report::new(Cause::Mismatch, Peer(0), [Peer(0), Peer(1)])
    };
    let rooted = Fingerprint(1 << 58 | 2 << 54 | 3 << 49 | 4 << 32 | 0xAB);
    let rootless = Fingerprint::new(FingerprintParts::default()).to_string();
    assert!(rootless.starts_with("op 0 reduction 0 dtype 0 no root details "), "{rootless}");
    check(
        &[report.to_string(), rooted.to_string(), format!("{:?}", descriptor.label)],
        &[
            "mismatched operations by peers 0, 1 in group 0 epoch 0, channel 0, operation 8, after \
             0 ms, seen by peer 0; \
             peer 0 calls op 1 reduction 2 dtype 3 root 4 count 6 shape [2, 3] algorithm 5 label \
             \"layer 2\"; \
             peer 1 calls op 1 reduction 2 dtype 3 count 6 shape [2, 3] algorithm 5",
            "op 1 reduction 2 dtype 3 root 4 details 000000ab",
            "\"layer 2\"",
        ],
    );
}

#[test]
fn debugging_shows_progress_and_no_buffers() {
    let key = JobKey::new([7; 32]);
    let who = Identity {
        job: JobHash::of("job"),
        epoch: 0,
        me: Peer(0),
        world: 2,
        lanes: 1,
        pid: 1,
        host: HostHash::of(b"host"),
    };
    let responder = Responder::new(&key, &who, Nonce([1; 16]));
    let mut initiator = Initiator::new(
        &key,
        &Identity { me: Peer(1), ..who },
        Peer(0),
        Purpose::Control,
        Nonce([2; 16]),
    );
    initiator.handle_bytes(&responder.poll_output()[..20]);
    let shown = format!("{responder:?} {initiator:?}");
    assert!(shown.contains("0 of 32 bytes out"), "{shown}");
    assert!(shown.contains("20 of 32 bytes in"), "{shown}");
    assert!(shown.contains("key: JobKey(..)"), "{shown}");

    let frame = Message::Goodbye(Goodbye::Finished).encode(Address::default());
    assert_eq!(frame.as_ref(), frame.as_bytes());
    let mut decoder = FrameDecoder::control();
    assert_eq!(decoder.handle_bytes(frame.as_ref()), Ok(frame.as_bytes().len()));
}
