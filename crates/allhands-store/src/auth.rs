//! The job-key extension: a challenge in front of the plain protocol, told apart by its first byte.
//!
//! ```text
//! client -> server   a5 "AHSTOR" 01 | 32 bytes nonce                                     40 bytes
//! server -> client   5a "AHSTOR" 00 | 32 bytes nonce | 32 bytes proof of the server      72 bytes
//!                    5a "AHSTOR" 01                    the server has no job key          8 bytes
//!                    5a "AHSTOR" 02                    the server asks for a job key      8 bytes
//! client -> server   32 bytes proof of the client, then VALIDATE and so on
//! ```
//!
//! A proof is HMAC-SHA256 under the job key over a role label and all that was said before. The server proves itself
//! first, so a client with another key learns so by itself and the server never answers a wrong proof.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;

pub(crate) const HELLO_PREFIX: [u8; 8] = *b"\xa5AHSTOR\x01";
pub(crate) const HELLO_LEN: usize = 40;
pub(crate) const REPLY_PREFIX: [u8; 7] = *b"\x5aAHSTOR";
pub(crate) const REPLY_LEN: usize = 8;
pub(crate) const CHALLENGE_LEN: usize = 72;
pub(crate) const PROOF_LEN: usize = 32;

/// Last byte of the server's first answer.
pub(crate) const STATUS_CHALLENGE: u8 = 0;
pub(crate) const STATUS_NO_KEY: u8 = 1;
pub(crate) const STATUS_KEY_REQUIRED: u8 = 2;

/// The secret of a job: 32 bytes that every rank holds. `Debug` does not show it.
///
/// ```
/// use allhands_store::JobKey;
///
/// let key = JobKey::from([7; 32]);
/// assert_eq!(format!("{key:?}"), "JobKey(..)");
/// ```
#[derive(Clone)]
pub struct JobKey([u8; 32]);

impl From<[u8; 32]> for JobKey {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JobKey(..)")
    }
}

fn mac(key: &[u8; 32], parts: &[&[u8]]) -> Hmac<Sha256> {
    // HMAC pads a key to the block of its hash with zeros.
    let mut block = [0; 64];
    block[..32].copy_from_slice(key);
    let mut mac = <Hmac<Sha256> as KeyInit>::new(&block.into());
    for part in parts {
        mac.update(part);
    }
    mac
}

fn finish(mac: Hmac<Sha256>) -> [u8; PROOF_LEN] {
    mac.finalize().into_bytes().into()
}

pub(crate) fn hello(nonce: &[u8; 32]) -> [u8; HELLO_LEN] {
    let mut hello = [0; HELLO_LEN];
    hello[..8].copy_from_slice(&HELLO_PREFIX);
    hello[8..].copy_from_slice(nonce);
    hello
}

pub(crate) fn reply(status: u8) -> [u8; REPLY_LEN] {
    let mut reply = [status; REPLY_LEN];
    reply[..7].copy_from_slice(&REPLY_PREFIX);
    reply
}

/// What a server answers to a client's hello.
pub(crate) fn challenge(
    key: &JobKey,
    hello: &[u8; HELLO_LEN],
    nonce: &[u8; 32],
) -> [u8; CHALLENGE_LEN] {
    let head = reply(STATUS_CHALLENGE);
    let proof = finish(mac(&key.0, &[b"allhands-store/1 server", hello, &head, nonce]));
    let mut challenge = [0; CHALLENGE_LEN];
    challenge[..8].copy_from_slice(&head);
    challenge[8..40].copy_from_slice(nonce);
    challenge[40..].copy_from_slice(&proof);
    challenge
}

/// Checks the server's proof and returns the client's, or `None` if the keys differ.
pub(crate) fn respond(
    key: &JobKey,
    hello: &[u8; HELLO_LEN],
    challenge: &[u8; CHALLENGE_LEN],
) -> Option<[u8; PROOF_LEN]> {
    let (said, proof) = challenge.split_at(40);
    mac(&key.0, &[b"allhands-store/1 server", hello, said]).verify_slice(proof).ok()?;
    Some(finish(mac(&key.0, &[b"allhands-store/1 client", hello, challenge])))
}

/// Whether the client's proof is right; compared in constant time.
pub(crate) fn verify(
    key: &JobKey,
    hello: &[u8; HELLO_LEN],
    challenge: &[u8; CHALLENGE_LEN],
    proof: &[u8; PROOF_LEN],
) -> bool {
    mac(&key.0, &[b"allhands-store/1 client", hello, challenge]).verify_slice(proof).is_ok()
}

/// Nonces that nobody can foresee and none of which comes twice, from one secret seed.
pub(crate) fn nonce(seed: &[u8; 32], counter: u64) -> [u8; 32] {
    finish(mac(seed, &[b"nonce", &counter.to_le_bytes()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_agree_and_only_with_the_same_key() {
        let (key, other) = (JobKey::from([1; 32]), JobKey::from([2; 32]));
        let hello = hello(&[3; 32]);
        let challenge = challenge(&key, &hello, &[4; 32]);
        assert_eq!(challenge[..8], *b"\x5aAHSTOR\x00");
        let proof = respond(&key, &hello, &challenge).expect("same key");
        assert!(verify(&key, &hello, &challenge, &proof));
        assert!(!verify(&other, &hello, &challenge, &proof));
        assert!(respond(&other, &hello, &challenge).is_none());
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let key = JobKey::from([1; 32]);
        let hello = hello(&[3; 32]);
        let good = challenge(&key, &hello, &[4; 32]);
        let proof = respond(&key, &hello, &good).expect("same key");
        for bit in 0..8 * CHALLENGE_LEN {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(respond(&key, &hello, &bad).is_none(), "challenge bit {bit}");
            assert!(!verify(&key, &hello, &bad, &proof), "transcript bit {bit}");
        }
        for bit in 0..8 * PROOF_LEN {
            let mut bad = proof;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!verify(&key, &hello, &good, &bad), "proof bit {bit}");
        }
    }

    #[test]
    fn a_server_proof_reflected_is_no_client_proof() {
        let key = JobKey::from([1; 32]);
        let hello = hello(&[3; 32]);
        let challenge = challenge(&key, &hello, &[4; 32]);
        let mut reflected = [0; PROOF_LEN];
        reflected.copy_from_slice(&challenge[40..]);
        assert!(!verify(&key, &hello, &challenge, &reflected));
    }
}
