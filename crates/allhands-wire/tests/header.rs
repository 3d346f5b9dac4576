//! The header: its exact bytes, its limits, and what becomes of bytes that are none.

use allhands_wire::{
    FRAME_MAGIC, Fingerprint, Flags, HEADER_LEN, Header, HeaderError, Kind, LOAN_LEN, OFFSET_UNIT,
    PAYLOAD_CAP, Peer, TRANSFER_MAX, WIRE_VERSION,
};
use proptest::prelude::*;

/// Headers that pass every check.
fn valid() -> impl Strategy<Value = Header> {
    let lengths = prop_oneof![
        (0u32..=u32::MAX, 0u32..=PAYLOAD_CAP, any::<bool>()).prop_map(|(offset, len, last)| {
            let len = if last { len } else { len - len % OFFSET_UNIT as u32 };
            let room = ((TRANSFER_MAX - u64::from(len)) / OFFSET_UNIT) as u32;
            let offset = offset.min(room);
            let end = u64::from(offset) * OFFSET_UNIT + u64::from(len);
            (Kind::Data, offset, if last { end } else { TRANSFER_MAX }, len)
        }),
        Just((Kind::Credit, 0, 0, 0)),
        (0u32..1 << 20).prop_map(|o| (Kind::Loan, o, 1 << 26, LOAN_LEN as u32)),
        (0u32..1 << 20).prop_map(|o| (Kind::LoanReturn, o, 1 << 26, 0)),
        (
            prop::sample::select(vec![Kind::Ping, Kind::Poison, Kind::Goodbye, Kind::Describe]),
            0u32..=1024
        )
            .prop_map(|(kind, len)| (kind, 0, u64::from(len), len)),
    ];
    let flags = (any::<bool>(), any::<u8>()).prop_map(|(crc, upper)| {
        Flags::upper(upper).with(if crc { Flags::PAYLOAD_CRC } else { Flags::NONE })
    });
    let names = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>());
    (lengths, flags, names, any::<u64>(), any::<u64>()).prop_map(
        |((kind, offset, xfer_len, payload_len), flags, names, seq, fingerprint)| {
            let (group, epoch, src, channel, slot) = names;
            Header {
                kind,
                flags,
                group,
                epoch,
                src: Peer(src),
                channel,
                seq,
                fingerprint: Fingerprint(fingerprint),
                slot,
                offset,
                xfer_len,
                payload_len,
            }
        },
    )
}

/// Puts the right checksum on bytes that may be anything.
fn with_crc(mut bytes: [u8; HEADER_LEN]) -> [u8; HEADER_LEN] {
    let crc = crc32c::crc32c(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn layout_is_the_documented_one() {
    let header = Header {
        kind: Kind::Data,
        flags: Flags::PAYLOAD_CRC.with(Flags::upper(0xA5)),
        group: 0x0302_0100,
        epoch: 0x0706_0504,
        src: Peer(0x0B0A_0908),
        channel: 0x0F0E_0D0C,
        seq: 0x1716_1514_1312_1110,
        fingerprint: Fingerprint(0x1F1E_1D1C_1B1A_1918),
        slot: 0x2322_2120,
        offset: 0x0000_2524,
        xfer_len: 0x0000_0003_2A29_2827,
        payload_len: 0x0001_2E40,
    };
    let bytes = header.encode();
    #[rustfmt::skip]
    let expected: [u8; 60] = [
        b'a', b'H', b'c', b'1', 1, 1, 0x01, 0xA5,
        0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07,
        0x08, 0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x0E, 0x0F,
        0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17,
        0x18, 0x19, 0x1A, 0x1B, 0x1C, 0x1D, 0x1E, 0x1F,
        0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x00, 0x00,
        0x27, 0x28, 0x29, 0x2A, 0x03, 0x00, 0x00, 0x00,
        0x40, 0x2E, 0x01, 0x00,
    ];
    assert_eq!(bytes[..60], expected);
    // CRC-32C computed bit by bit, independently of the library.
    let mut crc = !0u32;
    for &byte in &expected {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 };
        }
    }
    assert_eq!(bytes[60..], (!crc).to_le_bytes());
    assert_eq!(Header::decode(&bytes), Ok(header));
    assert_eq!(header.frame_len(), 64 + 0x0001_2E40 + 4);
    assert_eq!(header.byte_offset(), 0x2524 * 64);
}

#[test]
fn every_flipped_bit_is_refused() {
    let bytes = Header { seq: 9, xfer_len: 12, payload_len: 12, ..Header::default() }.encode();
    for bit in 0..HEADER_LEN * 8 {
        let mut flipped = bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(
            matches!(Header::decode(&flipped), Err(HeaderError::Checksum { .. })),
            "bit {bit} was not noticed"
        );
    }
}

#[test]
fn checksum_comes_before_magic_version_and_kind() {
    let good = Header::default().encode();
    let with = |at: usize, value: u8| {
        let mut bytes = good;
        bytes[at] = value;
        bytes
    };
    let decode = |bytes| Header::decode(&with_crc(bytes));
    assert!(matches!(Header::decode(&with(0, b'b')), Err(HeaderError::Checksum { .. })));
    let found = FRAME_MAGIC & !0xFF | u32::from(b'b');
    assert_eq!(decode(with(0, b'b')), Err(HeaderError::Magic { found }));
    let theirs = WIRE_VERSION + 1;
    assert_eq!(decode(with(4, theirs)), Err(HeaderError::Version { theirs }));
    for code in (0..=u8::MAX).filter(|&code| Kind::from_code(code).is_none()) {
        assert_eq!(decode(with(5, code)), Err(HeaderError::Kind { code }));
    }
    for bit in 1..8 {
        assert_eq!(decode(with(6, 1 << bit)), Err(HeaderError::Flags { bits: 1 << bit }));
    }
}

#[test]
fn codes_and_kinds_are_one_to_one() {
    for kind in Kind::ALL {
        assert_eq!(Kind::from_code(kind.code()), Some(kind));
    }
    assert_eq!((0..=u8::MAX).filter_map(Kind::from_code).count(), Kind::ALL.len());
}

#[test]
fn limits_hold_at_their_edge() {
    let base = Header::default();
    let frame = |kind, offset, xfer_len, payload_len| {
        Header { kind, offset, xfer_len, payload_len, ..base }.check()
    };
    let cap = u64::from(PAYLOAD_CAP);
    assert_eq!(frame(Kind::Data, 0, cap, PAYLOAD_CAP), Ok(()));
    assert_eq!(
        frame(Kind::Data, 0, 2 * cap, PAYLOAD_CAP + 1),
        Err(HeaderError::PayloadTooLong { kind: Kind::Data, len: PAYLOAD_CAP + 1 })
    );
    assert_eq!(frame(Kind::Data, 0, TRANSFER_MAX, 64), Ok(()));
    assert_eq!(
        frame(Kind::Data, 0, TRANSFER_MAX + 1, 64),
        Err(HeaderError::TransferTooLong { kind: Kind::Data, len: TRANSFER_MAX + 1 })
    );
    // The largest offset reaches the last unit of the largest transfer, and no further.
    assert_eq!(frame(Kind::Data, u32::MAX, TRANSFER_MAX, 64), Ok(()));
    assert_eq!(
        frame(Kind::Data, u32::MAX, TRANSFER_MAX, 65),
        Err(HeaderError::Overrun { end: TRANSFER_MAX + 1, xfer_len: TRANSFER_MAX })
    );
    // A chunk in the middle ends where the next one's offset can point to.
    assert_eq!(frame(Kind::Data, 0, 200, 128), Ok(()));
    assert!(matches!(frame(Kind::Data, 0, 200, 100), Err(HeaderError::Lengths { .. })));
    assert_eq!(frame(Kind::Data, 2, 200, 72), Ok(()));
    // An empty transfer is a message too.
    assert_eq!(frame(Kind::Data, 0, 0, 0), Ok(()));
    for (kind, offset, xfer_len, payload_len, ok) in [
        (Kind::Credit, 0, 0, 0, true),
        (Kind::Credit, 0, 0, 1, false),
        (Kind::Credit, 0, 4096, 0, true),
        (Kind::Credit, 1, 0, 0, false),
        (Kind::Loan, 0, 1 << 20, 32, true),
        (Kind::Loan, 0, 1 << 20, 31, false),
        (Kind::Loan, 2, 127, 32, false),
        (Kind::LoanReturn, 0, 1 << 20, 0, true),
        (Kind::LoanReturn, 0, 1 << 20, 32, false),
        (Kind::Ping, 0, 1024, 1024, true),
        (Kind::Ping, 0, 1025, 1025, false),
        (Kind::Poison, 0, 1024, 1000, false),
        (Kind::Describe, 1, 64, 64, false),
    ] {
        assert_eq!(frame(kind, offset, xfer_len, payload_len).is_ok(), ok, "{kind}");
    }
}

#[test]
fn errors_say_what_now() {
    let wrong = HeaderError::Version { theirs: 9 }.to_string();
    assert_eq!(wrong, "peer speaks frame version 9, this process 1; run one version everywhere");
    let overrun = HeaderError::Overrun { end: 65, xfer_len: 64 }.to_string();
    assert_eq!(overrun, "payload ends at byte 65 of a transfer of 64 bytes");
}

proptest! {
    #[test]
    fn round_trip(header in valid()) {
        prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn a_tampered_byte_is_refused(header in valid(), at in 0..HEADER_LEN, change in 1u8..) {
        let mut bytes = header.encode();
        bytes[at] ^= change;
        prop_assert!(Header::decode(&bytes).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in any::<[u8; HEADER_LEN]>()) {
        // 2^-32 of them have the right checksum by chance; all others are refused.
        prop_assert!(Header::decode(&bytes).is_err());
    }

    /// Past the checksum: whatever is accepted keeps every limit and is the only encoding.
    #[test]
    fn what_is_accepted_keeps_the_limits(
        header in valid(),
        noise in any::<[u8; HEADER_LEN]>(),
        mask in any::<u64>(),
        thin in any::<u64>(),
    ) {
        let mut bytes = header.encode();
        for at in 0..HEADER_LEN {
            if mask & thin >> at & 1 == 1 {
                bytes[at] = noise[at];
            }
        }
        let bytes = with_crc(bytes);
        if let Ok(accepted) = Header::decode(&bytes) {
            prop_assert!(accepted.payload_len <= PAYLOAD_CAP);
            prop_assert!(accepted.xfer_len <= TRANSFER_MAX);
            let payload = if accepted.kind == Kind::Loan { 0 } else { accepted.payload_len };
            prop_assert!(accepted.byte_offset() + u64::from(payload) <= accepted.xfer_len);
            prop_assert_eq!(accepted.encode(), bytes);
        }
    }
}
