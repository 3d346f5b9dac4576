//! Byte streams between ranks: a full mesh over TCP, and pipes between threads of one process.
//!
//! The layer above implements [`Port`]; a thread that drives calls [`Links`], the thread that serves the
//! control connections calls [`Control`]. [`tcp::Listener`] makes both for a mesh of processes,
//! [`local::fabric`] for ranks that are threads.
//!
//! # How bytes move
//!
//! Sending: [`Links::flush`] asks the port for everything that waits for one peer ([`Port::outgoing`]), hands it
//! to the system in one vectored write, and reports what was taken ([`Port::sent`]). When the socket is full, the
//! next [`Links::poll`] goes on as soon as it is writable.
//!
//! Receiving: before each read the link asks the port where the next bytes belong ([`Port::window`]). A large
//! remainder lands there directly, with the head of what follows in the same system call; small frames land
//! together in the link's staging buffer and are handed over ([`Port::handle`]).
//!
//! One thread at a time drives links; any thread may wake it ([`Links::waker`]).
//!
//! # Ends
//!
//! A peer that dies is reported once, after its last byte, with what the system said ([`Closed`]). What a death
//! means is for the layer above. To leave in order, call [`Links::shutdown`]: closing a socket with unread
//! bytes makes the system throw away what is on its way.

#![forbid(unsafe_code)]

mod error;
pub mod interface;
pub mod local;
mod port;
pub mod tcp;

pub use self::error::{Incomplete, Missing, Reached, TransportError, TurnedAway};
pub use self::port::{
    CONTROL_QUEUE_BYTES, Capabilities, Closed, Control, ControlEvent, ControlSendError, Links,
    Loans, Port, ProgressRequests, SLICES_INLINE, Slices, Unfinished, Wake,
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
