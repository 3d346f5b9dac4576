//! Any stream in any pieces: the decoder yields what a naive reader of the whole does.
#![no_main]

use allhands_fuzz::{Input, Read, pieces, read_naively, repair_stream};
use allhands_wire::{CONTROL_PAYLOAD_MAX, FrameDecoder, Lane};
use libfuzzer_sys::fuzz_target;

/// Payload limit of the data decoder: small, so that inputs reach it.
const LIMIT: u32 = 300;

fn read_in_pieces(mut decoder: FrameDecoder, bytes: &[u8], sizes: &[usize]) -> Read {
    let mut frames = Vec::new();
    for mut piece in pieces(bytes, sizes) {
        while !piece.is_empty() {
            match decoder.handle_bytes(piece) {
                Ok(taken) => piece = &piece[taken..],
                Err(error) => {
                    assert_eq!(decoder.handle_bytes(b"more"), Err(error));
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

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let instructions = input.byte();
    let sizes = input.sizes();
    let mut bytes = input.rest().to_vec();
    if instructions & 1 == 1 {
        repair_stream(&mut bytes);
    }
    let (decoder, lane, limit) = if instructions & 2 == 2 {
        (FrameDecoder::control(), Lane::Control, CONTROL_PAYLOAD_MAX as u32)
    } else {
        (FrameDecoder::data(LIMIT), Lane::Data, LIMIT)
    };
    assert_eq!(read_in_pieces(decoder, &bytes, &sizes), read_naively(&bytes, lane, limit));
});
