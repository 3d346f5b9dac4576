//! Payloads: descriptors, reports, loans and the control messages.

use allhands_wire::{
    Address, CONTROL_FRAME_MAX, CULPRITS_MAX, Cause, Culprits, DESCRIPTOR_MAX, Describe,
    Descriptor, Dims, Fingerprint, FingerprintParts, Goodbye, HEADER_LEN, Header, Kind, LOAN_LEN,
    Loan, Merged, Message, PAYLOAD_CRC_LEN, PING_PROGRESS_MAX, PayloadError, Peer, Ping, Progress,
    REPORT_MAX, Report, Testimony, Text, payload_crc,
};
use proptest::prelude::*;

fn descriptor() -> impl Strategy<Value = Descriptor> {
    let codes = any::<(u8, u8, u8, u8)>();
    let words = any::<(u64, u64, u64)>();
    let shape = prop::collection::vec(any::<u64>(), 0..10);
    (codes, prop::option::of(0..u32::MAX), words, shape, ".{0,40}").prop_map(
        |((op, reduce_op, dtype, algorithm), root, (count, premul_bits, extra), shape, label)| {
            Descriptor {
                op,
                reduce_op,
                dtype,
                algorithm,
                root,
                count,
                premul_bits,
                extra,
                shape: Dims::new(&shape),
                label: Text::new(&label),
            }
        },
    )
}

fn report() -> impl Strategy<Value = Report> {
    let testimony = || {
        prop::option::of(
            (0u32..20, descriptor())
                .prop_map(|(peer, descriptor)| Testimony { peer: Peer(peer), descriptor }),
        )
    };
    let culprits = prop::collection::vec((0u32..40).prop_map(Peer), 0..30);
    let place = (0u32..3, 0u32..2, 0u32..3, 0u64..4, any::<u64>());
    let cause = prop::sample::select(Cause::ALL.to_vec());
    (cause, 0u32..20, culprits, place, [testimony(), testimony()], ".{0,200}").prop_map(
        |(cause, origin, culprits, place, testimonies, text)| {
            let (group, epoch, channel, seq, elapsed_ms) = place;
            Report {
                group,
                epoch,
                channel,
                seq,
                elapsed_ms,
                testimonies,
                text: Text::new(&text),
                ..Report::new(cause, Peer(origin), culprits)
            }
        },
    )
}

fn ping() -> impl Strategy<Value = Ping> {
    let progress = (any::<u32>(), any::<u32>(), any::<u64>(), any::<u64>()).prop_map(
        |(group, channel, a, b)| Progress {
            group,
            channel,
            submitted: a.max(b),
            completed: a.min(b),
        },
    );
    (any::<u64>(), any::<u64>(), prop::collection::vec(progress, 0..40)).prop_map(
        |(stamp, echo, progress)| {
            let mut ping = Ping::new(stamp, echo);
            for (i, progress) in progress.into_iter().enumerate() {
                assert_eq!(ping.push(progress), i < PING_PROGRESS_MAX);
            }
            ping
        },
    )
}

fn message() -> impl Strategy<Value = Message> {
    let goodbye = vec![Goodbye::Finished, Goodbye::Rebuilding, Goodbye::Exiting];
    prop_oneof![
        ping().prop_map(Message::Ping),
        report().prop_map(Message::Poison),
        prop::sample::select(goodbye).prop_map(Message::Goodbye),
        prop::sample::select(vec![Describe::Ask, Describe::Unknown]).prop_map(Message::Describe),
        descriptor().prop_map(|descriptor| Message::Describe(Describe::Tell(descriptor))),
    ]
}

/// Every field at its longest.
fn largest_report() -> Report {
    let descriptor = Descriptor {
        shape: Dims::new(&[u64::MAX; 8]),
        label: Text::new(&"x".repeat(64)),
        ..Descriptor::default()
    };
    let testimony = Some(Testimony { peer: Peer(1), descriptor });
    Report {
        testimonies: [testimony; 2],
        text: Text::new(&"y".repeat(256)),
        ..Report::new(Cause::Mismatch, Peer(0), (0..100).map(Peer))
    }
}

fn header_of(frame: &[u8]) -> Header {
    Header::decode(frame.first_chunk::<HEADER_LEN>().expect("a frame has a header"))
        .expect("an encoded header is valid")
}

fn payload_of(frame: &[u8]) -> &[u8] {
    &frame[HEADER_LEN..frame.len() - PAYLOAD_CRC_LEN]
}

#[test]
fn the_largest_report_fits_a_frame() {
    let report = largest_report();
    let frame = Message::Poison(report).encode(Address::default());
    assert!(frame.as_bytes().len() <= CONTROL_FRAME_MAX);
    let header = header_of(frame.as_bytes());
    assert_eq!(Message::decode(&header, payload_of(frame.as_bytes())), Ok(Message::Poison(report)));
}

#[test]
fn every_cut_and_every_surplus_is_refused() {
    let report = largest_report();
    let mut buffer = [0; REPORT_MAX];
    let bytes = report.encode(&mut buffer).to_vec();
    for len in 0..bytes.len() {
        assert!(Report::decode(&bytes[..len]).is_err(), "accepted {len} of {}", bytes.len());
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(Report::decode(&longer), Err(PayloadError::Trailing { bytes: 1 }));
}

#[test]
fn lengths_above_their_limit_are_refused() {
    let mut buffer = [0; DESCRIPTOR_MAX];
    let mut bytes = Descriptor::default().encode(&mut buffer).to_vec();
    // The number of dimensions stands after 4 codes, the root and three words.
    bytes[32] = 9;
    assert_eq!(
        Descriptor::decode(&bytes),
        Err(PayloadError::TooLong { field: "shape", len: 9, limit: 8 })
    );
    bytes[32..36].copy_from_slice(&[0, 0, 65, 0]);
    assert_eq!(
        Descriptor::decode(&bytes),
        Err(PayloadError::TooLong { field: "label", len: 65, limit: 64 })
    );
}

#[test]
fn a_peer_cannot_forge_a_log_line() {
    let mut buffer = [0; DESCRIPTOR_MAX];
    let told = Descriptor { label: Text::new("ab"), ..Descriptor::default() };
    let mut bytes = told.encode(&mut buffer).to_vec();
    let label = bytes.len() - 2;
    for forged in [b"a\n", b"\x1b[", b"\xff\xff"] {
        bytes[label..].copy_from_slice(forged);
        assert_eq!(Descriptor::decode(&bytes), Err(PayloadError::Text { field: "label" }));
    }
    assert_eq!(Text::<8>::new("a\nb").as_str(), "a b");
}

#[test]
fn culprits_beyond_the_limit_are_counted() {
    let culprits: Culprits = (0..20).rev().map(Peer).collect();
    let lowest: Vec<Peer> = (0..CULPRITS_MAX as u32).map(Peer).collect();
    assert_eq!(culprits.listed(), lowest);
    assert_eq!(culprits.total(), 20);
    assert!(culprits.to_string().ends_with("14, 15 and 4 more"), "{culprits}");
}

#[test]
fn a_descriptor_has_the_fingerprint_of_its_parts() {
    let descriptor =
        Descriptor { op: 1, reduce_op: 2, dtype: 3, count: 4, extra: 5, ..Descriptor::default() };
    let parts = FingerprintParts {
        op: 1,
        reduce_op: 2,
        dtype: 3,
        count: 4,
        extra: 5,
        ..Default::default()
    };
    assert_eq!(descriptor.fingerprint(), Fingerprint::new(parts));
}

#[test]
fn a_report_reads_as_one_line() {
    let report = Report {
        group: 1,
        channel: 2,
        seq: 812,
        elapsed_ms: 34,
        text: Text::new("connection reset"),
        ..Report::new(Cause::PeerDied, Peer(0), [Peer(3)])
    };
    assert_eq!(
        report.to_string(),
        "death of a process by peer 3 in group 1 epoch 0, channel 2, operation 812, after 34 ms, \
         seen by peer 0; connection reset"
    );
}

#[test]
fn a_report_must_speak_of_its_own_group() {
    let report = Report { group: 1, ..Report::new(Cause::Timeout, Peer(0), []) };
    let frame = Message::Poison(report).encode(Address::default());
    let header = header_of(frame.as_bytes());
    assert_eq!(header.group, 1);
    let elsewhere = Header { group: 2, ..header };
    assert_eq!(
        Message::decode(&elsewhere, payload_of(frame.as_bytes())),
        Err(PayloadError::Value { field: "group", value: 1 })
    );
}

#[test]
fn loans_do_not_wrap() {
    let loan = Loan { segment: 1, offset: u64::MAX - 4, len: 4, generation: 2 };
    assert_eq!(Loan::decode(&loan.encode()), Ok(loan));
    let wrapping = Loan { len: 5, ..loan };
    assert_eq!(
        Loan::decode(&wrapping.encode()),
        Err(PayloadError::Value { field: "length", value: 5 })
    );
    assert!(Loan::decode(&loan.encode()[..LOAN_LEN - 1]).is_err());
}

#[test]
fn data_frames_carry_no_message() {
    for kind in [Kind::Data, Kind::Credit, Kind::Loan, Kind::LoanReturn] {
        let header = Header { kind, ..Header::default() };
        assert_eq!(Message::decode(&header, &[1]), Err(PayloadError::NotControl { kind }));
    }
}

#[test]
fn causes_are_ordered_as_documented() {
    let codes: Vec<u8> = Cause::ALL.iter().map(|cause| cause.code()).collect();
    assert_eq!(codes, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert!(Cause::ALL.is_sorted());
    for cause in Cause::ALL {
        assert_eq!(Cause::from_code(cause.code()), Some(cause));
    }
    assert_eq!((Cause::from_code(0), Cause::from_code(10)), (None, None));
}

proptest! {
    #[test]
    fn descriptors_round_trip(descriptor in descriptor()) {
        let mut buffer = [0; DESCRIPTOR_MAX];
        prop_assert_eq!(Descriptor::decode(descriptor.encode(&mut buffer)), Ok(descriptor));
    }

    #[test]
    fn messages_round_trip(message in message(), src in any::<u32>(), seq in any::<u64>()) {
        let address = Address { src: Peer(src), seq, ..Address::default() };
        let frame = message.encode(address);
        let header = header_of(frame.as_bytes());
        let payload = payload_of(frame.as_bytes());
        prop_assert_eq!(header.frame_len(), frame.as_bytes().len());
        prop_assert_eq!(header.kind, message.kind());
        prop_assert_eq!(header.src, Peer(src));
        prop_assert_eq!(&frame.as_bytes()[HEADER_LEN + payload.len()..], payload_crc(payload));
        prop_assert_eq!(Message::decode(&header, payload), Ok(message));
    }

    /// Whatever is accepted has exactly one encoding, so relays cannot change a report unnoticed.
    #[test]
    fn accepted_payloads_are_canonical(
        message in message(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let frame = message.encode(Address::default());
        let header = header_of(frame.as_bytes());
        let mut payload = payload_of(frame.as_bytes()).to_vec();
        for (at, value) in edits {
            let at = at.index(payload.len());
            payload[at] = value;
        }
        if let Some(cut) = cut {
            payload.truncate(cut.index(payload.len() + 1));
        }
        if let Ok(accepted) = Message::decode(&header, &payload) {
            let again = accepted.encode(Address::default());
            prop_assert_eq!(payload_of(again.as_bytes()), &payload[..]);
        }
    }

    #[test]
    fn arbitrary_payloads_never_panic(
        payload in prop::collection::vec(any::<u8>(), 0..1100),
        kind in prop::sample::select(Kind::ALL.to_vec()),
    ) {
        let header = Header { kind, ..Header::default() };
        if let Ok(accepted) = Message::decode(&header, &payload) {
            let again = accepted.encode(Address::default());
            prop_assert_eq!(payload_of(again.as_bytes()), &payload[..]);
        }
        let _ = Loan::decode(&payload);
        let _ = Descriptor::decode(&payload);
    }

    #[test]
    fn merging_is_commutative_associative_and_idempotent(
        a in report(), b in report(), c in report(),
    ) {
        let merge = |x: Report, y: &Report| { let mut kept = x; kept.merge(y); kept };
        prop_assert_eq!(merge(a, &b), merge(b, &a));
        prop_assert_eq!(merge(merge(a, &b), &c), merge(a, &merge(b, &c)));
        prop_assert_eq!(merge(a, &a), a);
        let mut kept = a;
        prop_assert_eq!(kept.merge(&b) == Merged::Replaced, kept == b && a != b);
    }

    #[test]
    fn merging_keeps_the_most_telling(reports in prop::collection::vec(report(), 1..8)) {
        let mut kept = reports[0];
        for report in &reports[1..] {
            kept.merge(report);
        }
        let rank = |report: &Report| {
            let culprit = report.culprits.listed().first().map_or(u32::MAX, |peer| peer.0);
            (report.cause, report.seq, culprit)
        };
        prop_assert_eq!(reports.iter().map(rank).min(), Some(rank(&kept)));
        prop_assert!(reports.contains(&kept));
    }

    #[test]
    fn culprits_are_the_lowest_in_order(peers in prop::collection::vec(0u32..12, 0..40)) {
        // Twelve at most, so none is only counted and every duplicate is seen.
        let culprits: Culprits = peers.iter().copied().map(Peer).collect();
        let expected: std::collections::BTreeSet<Peer> = peers.into_iter().map(Peer).collect();
        prop_assert_eq!(culprits.total() as usize, expected.len());
        prop_assert_eq!(culprits.listed().to_vec(), expected.into_iter().collect::<Vec<_>>());
    }
}
