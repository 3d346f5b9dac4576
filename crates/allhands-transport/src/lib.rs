//! Links between ranks: a full mesh over TCP on mio, and local links between threads.

#![forbid(unsafe_code)]

mod error;
pub mod interface;
pub mod local;
mod port;
pub mod tcp;

pub use self::error::{Incomplete, Missing, Reached, TransportError, TurnedAway};
pub use self::port::{
    CONTROL_QUEUE_BYTES, Capabilities, Closed, Control, ControlEvent, ControlSendError, Links,
    Loans, Port, SLICES_INLINE, Slices, Unfinished, Wake,
};
