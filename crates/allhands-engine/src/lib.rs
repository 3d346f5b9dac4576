//! Runs collective plans: pure, bytes and time in, actions out.

#![forbid(unsafe_code)]
