//! Wire header, fingerprint, handshake and control frames of allhands.

#![forbid(unsafe_code)]
