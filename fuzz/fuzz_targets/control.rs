//! Any payload of any kind of frame: no panic, one encoding, and merging reports in any order ends
//! the same.
#![no_main]

use allhands_fuzz::Input;
use allhands_wire::{Address, HEADER_LEN, Header, Kind, Loan, Message, PAYLOAD_CRC_LEN, Report};
use libfuzzer_sys::fuzz_target;

fn merged(mut kept: Report, other: &Report) -> Report {
    kept.merge(other);
    kept
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let kind = Kind::ALL[usize::from(input.byte()) % Kind::ALL.len()];
    let cut = usize::from(input.byte()) * 4;
    let payload = input.rest();
    if let Ok(loan) = Loan::decode(payload) {
        assert_eq!(loan.encode(), payload);
        assert!(loan.offset.checked_add(loan.len).is_some());
    }
    let mut header = Header { kind, ..Header::default() };
    if let (Kind::Poison, Ok(report)) = (kind, Report::decode(payload)) {
        header.group = report.group;
        header.epoch = report.epoch;
        header.channel = report.channel;
        header.seq = report.seq;
    }
    if let Ok(message) = Message::decode(&header, payload) {
        let frame = message.encode(Address::default());
        let bytes = frame.as_bytes();
        assert_eq!(&bytes[HEADER_LEN..bytes.len() - PAYLOAD_CRC_LEN], payload);
        let _ = format!("{message:?}");
    }
    // Two reports in one input.
    let (one, other) = payload.split_at(cut.min(payload.len()));
    if let (Ok(one), Ok(other)) = (Report::decode(one), Report::decode(other)) {
        let _ = format!("{one} {other}");
        assert_eq!(merged(one, &other), merged(other, &one));
        assert_eq!(merged(one, &one), one);
        assert!([one, other].contains(&merged(one, &other)));
    }
});
