//! The frame decoder: however a stream is split, it yields what a naive reader of the whole does.

use allhands_wire::{
    Address, CONTROL_PAYLOAD_MAX, FrameDecoder, FrameError, Goodbye, HEADER_LEN, Header, Kind,
    Lane, Message, Peer, Ping, payload_crc,
};
use proptest::prelude::*;

/// A frame as the naive reader and the tests keep it.
type Owned = (Header, Vec<u8>);

/// Payload limit of the data decoders here.
const LIMIT: u32 = 300;

fn encode(header: Header, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header.encode().to_vec();
    bytes.extend_from_slice(payload);
    if header.flags.contains(allhands_wire::Flags::PAYLOAD_CRC) {
        bytes.extend_from_slice(&payload_crc(payload));
    }
    bytes
}

fn data_frame() -> impl Strategy<Value = Owned> {
    (prop::collection::vec(any::<u8>(), 0..=LIMIT as usize), any::<bool>(), any::<u64>()).prop_map(
        |(payload, crc, seq)| {
            let flags =
                if crc { allhands_wire::Flags::PAYLOAD_CRC } else { allhands_wire::Flags::NONE };
            let len = payload.len() as u32;
            let header =
                Header { flags, seq, payload_len: len, xfer_len: len.into(), ..Header::default() };
            (header, payload)
        },
    )
}

/// Reads all of a stream that is in memory.
fn naive(mut bytes: &[u8], lane: Lane, limit: u32) -> (Vec<Owned>, Option<FrameError>) {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<HEADER_LEN>() {
        let header = match Header::decode(head) {
            Ok(header) => header,
            Err(error) => return (frames, Some(error.into())),
        };
        let kind = header.kind;
        if kind.lane() != lane && !(kind == Kind::Goodbye && header.payload_len == 0) {
            return (frames, Some(FrameError::WrongLane { kind, lane }));
        }
        let len = header.payload_len;
        if len > limit {
            return (frames, Some(FrameError::PayloadTooLong { kind, len, limit }));
        }
        let Some((body, rest)) = rest.split_at_checked(header.body_len()) else { break };
        let (payload, trailer) = body.split_at(len as usize);
        if !trailer.is_empty() && trailer != payload_crc(payload) {
            let sent = u32::from_le_bytes(trailer.try_into().expect("a trailer has four bytes"));
            let computed = crc32c::crc32c(payload);
            return (frames, Some(FrameError::PayloadChecksum { kind, sent, computed }));
        }
        frames.push((header, payload.to_vec()));
        bytes = rest;
    }
    (frames, None)
}

/// Feeds `bytes` in pieces of these sizes, over and over.
fn decode_split(
    mut decoder: FrameDecoder,
    bytes: &[u8],
    sizes: &[usize],
) -> (Vec<Owned>, Option<FrameError>) {
    let mut frames = Vec::new();
    let mut pieces = sizes.iter().cycle();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (mut piece, later) =
            rest.split_at(rest.len().min(*pieces.next().expect("at least one size")));
        rest = later;
        while !piece.is_empty() {
            match decoder.handle_bytes(piece) {
                Ok(taken) => piece = &piece[taken..],
                Err(error) => {
                    assert_eq!(decoder.handle_bytes(&[0]), Err(error), "an error is for ever");
                    assert!(decoder.poll_frame().is_none());
                    return (frames, Some(error));
                }
            }
            if let Some(frame) = decoder.poll_frame() {
                frames.push((frame.header, frame.payload.to_vec()));
            }
        }
    }
    (frames, None)
}

fn stream_of(frames: &[Owned]) -> Vec<u8> {
    frames.iter().flat_map(|(header, payload)| encode(*header, payload)).collect()
}

#[test]
fn it_takes_no_byte_beyond_a_frame_that_waits() {
    let frame = Message::Goodbye(Goodbye::Exiting).encode(Address::default());
    let two = [frame.as_bytes(), frame.as_bytes()].concat();
    let mut decoder = FrameDecoder::control();
    assert!(decoder.is_between_frames());
    assert_eq!(decoder.handle_bytes(&two), Ok(frame.as_bytes().len()));
    assert_eq!(decoder.handle_bytes(&two), Ok(0));
    assert!(!decoder.is_between_frames());
    assert!(decoder.poll_frame().is_some());
    assert!(decoder.poll_frame().is_none());
    assert!(decoder.is_between_frames());
    assert_eq!(decoder.handle_bytes(&two[..10]), Ok(10));
    assert!(!decoder.is_between_frames(), "an end here would lose a frame");
}

#[test]
fn kinds_stay_on_their_lane() {
    let control = Message::Ping(Ping::new(1, 2)).encode(Address::default());
    let (_, error) = decode_split(FrameDecoder::data(LIMIT), control.as_bytes(), &[1000]);
    assert_eq!(error, Some(FrameError::WrongLane { kind: Kind::Ping, lane: Lane::Data }));
    let data = Header { kind: Kind::Credit, ..Header::default() }.encode();
    let (_, error) = decode_split(FrameDecoder::control(), &data, &[7]);
    assert_eq!(error, Some(FrameError::WrongLane { kind: Kind::Credit, lane: Lane::Control }));
    // The end of a data connection is a bare goodbye; with a reason it belongs to control.
    let bare = Header { kind: Kind::Goodbye, ..Header::default() }.encode();
    let (frames, error) = decode_split(FrameDecoder::data(LIMIT), &bare, &[9]);
    assert_eq!((frames.len(), error), (1, None));
    let told = Message::Goodbye(Goodbye::Finished).encode(Address::default());
    let (_, error) = decode_split(FrameDecoder::data(LIMIT), told.as_bytes(), &[9]);
    assert_eq!(error, Some(FrameError::WrongLane { kind: Kind::Goodbye, lane: Lane::Data }));
}

#[test]
fn a_payload_at_the_limit_passes_and_one_byte_more_does_not() {
    let header = |len: u32| Header { payload_len: len, xfer_len: len.into(), ..Header::default() };
    let at_limit = encode(header(LIMIT), &[7; LIMIT as usize]);
    let (frames, error) = decode_split(FrameDecoder::data(LIMIT), &at_limit, &[11]);
    assert_eq!((frames.len(), error), (1, None));
    // The header alone decides: no payload byte is needed to refuse it.
    let (_, error) = decode_split(FrameDecoder::data(LIMIT), &header(LIMIT + 1).encode(), &[64]);
    let kind = Kind::Data;
    assert_eq!(error, Some(FrameError::PayloadTooLong { kind, len: LIMIT + 1, limit: LIMIT }));
}

#[test]
fn every_flipped_bit_of_a_control_frame_is_refused() {
    let address = Address { src: Peer(1), seq: 3, ..Address::default() };
    let mut ping = Ping::new(1, 2);
    assert!(ping.push(allhands_wire::Progress::default()));
    let frame = Message::Ping(ping).encode(address);
    for bit in 0..frame.as_bytes().len() * 8 {
        let mut flipped = frame.as_bytes().to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let (frames, error) = decode_split(FrameDecoder::control(), &flipped, &[4096]);
        assert!(frames.is_empty() && error.is_some(), "bit {bit} was not noticed");
    }
}

proptest! {
    #[test]
    fn split_anywhere_equals_whole(
        frames in prop::collection::vec(data_frame(), 0..6),
        sizes in prop::collection::vec(1usize..200, 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let stream = stream_of(&frames);
        prop_assert_eq!(
            decode_split(FrameDecoder::data(LIMIT), &stream, &sizes),
            (frames, None)
        );
        let cut = &stream[..cut.index(stream.len() + 1)];
        prop_assert_eq!(
            decode_split(FrameDecoder::data(LIMIT), cut, &sizes),
            naive(cut, Lane::Data, LIMIT)
        );
    }

    #[test]
    fn damaged_streams_equal_the_naive_reader(
        frames in prop::collection::vec(data_frame(), 1..5),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        sizes in prop::collection::vec(1usize..200, 1..8),
    ) {
        let mut stream = stream_of(&frames);
        for (at, value) in edits {
            let at = at.index(stream.len());
            stream[at] = value;
        }
        prop_assert_eq!(
            decode_split(FrameDecoder::data(LIMIT), &stream, &sizes),
            naive(&stream, Lane::Data, LIMIT)
        );
    }

    #[test]
    fn arbitrary_streams_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..3000),
        sizes in prop::collection::vec(1usize..200, 1..8),
    ) {
        for (decoder, lane, limit) in [
            (FrameDecoder::data(LIMIT), Lane::Data, LIMIT),
            (FrameDecoder::control(), Lane::Control, CONTROL_PAYLOAD_MAX as u32),
        ] {
            prop_assert_eq!(decode_split(decoder, &bytes, &sizes), naive(&bytes, lane, limit));
        }
    }
}
