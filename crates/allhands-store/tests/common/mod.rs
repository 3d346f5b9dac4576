//! Shared by the integration tests.
#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod exchanges;

use std::time::{Duration, Instant};

/// Looks until `condition` holds; false when it does not within `limit`.
pub(crate) fn eventually(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// The c10d greeting.
pub(crate) const VALIDATE: &[u8] = b"\x00\xce\xf7\x85\x3c";

/// A length or number and text, as the protocol has them.
pub(crate) fn number(value: i64) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

/// A length and bytes.
pub(crate) fn text(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes()[..], bytes].concat()
}

/// One request from parts.
pub(crate) fn request(opcode: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![opcode];
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}

/// Bytes from text such as `"01 02 ff"`; `'/key'` stands for its characters.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, part) in text.split('\'').enumerate() {
        if index % 2 == 1 {
            bytes.extend_from_slice(part.as_bytes());
            continue;
        }
        for pair in part.split_whitespace() {
            bytes.push(u8::from_str_radix(pair, 16).expect("two hexadecimal digits"));
        }
    }
    bytes
}
