//! Any 64 bytes: no panic, and what is accepted keeps every limit and is the only encoding.
#![no_main]

use allhands_fuzz::{Input, repair_header};
use allhands_wire::{HEADER_LEN, Header, HeaderError, Kind, PAYLOAD_CAP, TRANSFER_MAX};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let repair = input.byte() & 1 == 1;
    let Some(bytes) = input.rest().first_chunk::<HEADER_LEN>() else { return };
    let mut bytes = *bytes;
    if repair {
        repair_header(&mut bytes);
    }
    match Header::decode(&bytes) {
        Ok(header) => {
            assert!(header.payload_len <= PAYLOAD_CAP && header.xfer_len <= TRANSFER_MAX);
            if header.kind == Kind::Data {
                let end = header.byte_offset() + u64::from(header.payload_len);
                assert!(end <= header.xfer_len);
            }
            assert_eq!(header.encode(), bytes);
        }
        Err(HeaderError::Checksum { .. }) => assert!(!repair),
        Err(_) => {}
    }
});
