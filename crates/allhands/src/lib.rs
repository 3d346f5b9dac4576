//! Collective communication and data-parallel training for Rust.

#![forbid(unsafe_code)]
