#![doc = include_str!("../README.md")]
#![cfg(target_os = "linux")]

pub mod arena;
pub mod board;
mod credentials;
pub mod host;
pub mod layout;
pub mod links;
pub mod meet;
mod primitive;
mod protocol;
pub mod ring;
pub mod segment;
pub mod wake;
