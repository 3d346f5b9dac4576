//! The secret of a job and the proofs made with it.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Bytes of a proof: one HMAC-SHA256.
pub(super) const PROOF_LEN: usize = 32;

/// The 32 secret bytes that every process of a job holds.
///
/// Draw them from the operating system's randomness. The handshake is as strong as they are: a
/// password in their place can be guessed offline by whoever listens in.
///
/// It prints no byte of itself, compares in constant time, and overwrites its memory when dropped
/// (copies that the compiler made on the way are out of its reach).
///
/// ```
/// use allhands_wire::JobKey;
///
/// let key = JobKey::new([7; 32]);
/// assert_eq!(format!("{key:?}"), "JobKey(..)");
/// assert_eq!(JobKey::from_hex(&key.to_hex())?, key);
/// # Ok::<(), allhands_wire::KeyError>(())
/// ```
#[derive(Clone)]
pub struct JobKey([u8; 32]);

impl JobKey {
    /// Bytes of a key.
    pub const LEN: usize = 32;

    /// Takes the secret bytes.
    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// Reads 64 hexadecimal digits, as an environment variable or a file holds them. Whitespace
    /// around them is ignored.
    ///
    /// # Errors
    /// [`KeyError`] if it is anything else. The message repeats nothing of the text.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        let digits = text.trim().as_bytes();
        if digits.len() != 2 * Self::LEN {
            return Err(KeyError::Length { digits: digits.len() });
        }
        let nibble = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            b'A'..=b'F' => Ok(digit - b'A' + 10),
            _ => Err(KeyError::Digit),
        };
        let mut bytes = [0; Self::LEN];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Self(bytes))
    }

    /// The key as 64 hexadecimal digits. Whoever reads them can join the job.
    pub fn to_hex(&self) -> String {
        let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble & 15)]);
        self.0.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
    }

    /// The secret bytes, for a store that publishes them or a cipher that needs them.
    pub const fn expose(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The proof that the holder of this key, in `role`, saw these bytes in this order.
    pub(super) fn prove(&self, role: Role, transcript: &[&[u8]]) -> [u8; PROOF_LEN] {
        // HMAC fills a short key up with zeros itself; doing it here needs no fallible call.
        let mut block = [0; 64];
        block[..Self::LEN].copy_from_slice(&self.0);
        let mut mac = <Hmac<Sha256> as KeyInit>::new(&block.into());
        mac.update(b"allhands handshake 1");
        mac.update(&[role as u8]);
        // Every message has one fixed size, so the concatenation is unambiguous.
        for part in transcript {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    /// Whether `proof` is that proof. Takes the same time wherever they differ.
    pub(super) fn verify(&self, role: Role, transcript: &[&[u8]], proof: &[u8]) -> bool {
        self.prove(role, transcript).ct_eq(proof).into()
    }
}

/// Whose proof it is. A proof reflected to its maker is not the one that is expected.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Role {
    Initiator = 1,
    Responder = 2,
}

impl PartialEq for JobKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for JobKey {}

impl fmt::Debug for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JobKey(..)")
    }
}

impl Drop for JobKey {
    fn drop(&mut self) {
        self.0.fill(0);
        // Without a reader the compiler may leave the zeros out.
        std::hint::black_box(&self.0);
    }
}

/// Why a text is not a job key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The wrong number of digits.
    #[error("a job key is 64 hexadecimal digits, this one has {digits}")]
    Length {
        /// How many there are.
        digits: usize,
    },
    /// A character that is no hexadecimal digit.
    #[error("a job key is 64 hexadecimal digits, this one has another character among them")]
    Digit,
}

/// A job's name, hashed to 16 bytes. It tells jobs apart; it is no secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct JobHash(pub [u8; 16]);

impl JobHash {
    /// Hashes a job's name.
    pub fn of(job_id: &str) -> Self {
        Self(hash(b"allhands job", job_id.as_bytes()))
    }
}

/// A host, hashed to 8 bytes: its boot id, so that it changes when the host restarts.
///
/// It names a host in error messages. It does not decide who shares memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HostHash(pub [u8; 8]);

impl HostHash {
    /// Hashes whatever identifies this boot of this host.
    pub fn of(boot_id: &[u8]) -> Self {
        Self(hash(b"allhands host", boot_id))
    }
}

impl fmt::Display for HostHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The first `N` bytes of a SHA-256.
fn hash<const N: usize>(domain: &[u8], bytes: &[u8]) -> [u8; N] {
    let digest: [u8; 32] = Sha256::new().chain_update(domain).chain_update(bytes).finalize().into();
    std::array::from_fn(|i| digest[i])
}

/// Sixteen bytes that are used for one handshake and never again.
///
/// Draw them from the operating system's randomness for every connection. A repeated nonce lets a
/// recorded handshake be replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Nonce(pub [u8; 16]);
