#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(target_os = "linux"),
    allow(
        dead_code,
        unreachable_pub,
        reason = "nobody wakes, meets or counts where nothing is shared"
    )
)]

pub mod arena;
pub mod board;
mod error;
pub mod host;
pub mod layout;
mod primitive;
mod protocol;
pub mod ring;

// This file is the only place that tells systems apart.
#[cfg(target_os = "linux")]
mod credentials;
#[cfg(target_os = "linux")]
pub mod links;
#[cfg(target_os = "linux")]
pub mod meet;
#[cfg(target_os = "linux")]
mod prepared;
#[cfg(target_os = "linux")]
pub mod segment;
#[cfg(target_os = "linux")]
pub mod wake;

#[cfg(not(target_os = "linux"))]
mod unsupported;
#[cfg(not(target_os = "linux"))]
use unsupported::prepared;
#[cfg(not(target_os = "linux"))]
pub use unsupported::{segment, wake};
