//! Flight records: what a rank did last, in PyTorch's format, and as Chrome traces of many ranks on one clock.
//!
//! [`FlightRecord`] is the record of one rank. [`FlightRecord::write_to`] writes it where PyTorch's analyser `torchfrtrace`
//! reads it; [`align()`] finds out how far the clocks of ranks are apart, and [`merge`] puts them into one trace.

#![forbid(unsafe_code)]

mod align;
mod chrome;
mod entry;
mod error;
mod file;
mod record;

pub use align::{Alignment, align};
pub use chrome::{merge, to_chrome_trace};
pub use entry::{CallMode, Clock, Details, Entry, Frame, State};
pub use error::RecordError;
pub use file::RECORD_BYTES_MAX;
pub use record::{FlightRecord, GroupConfig, GroupStatus, Origin, VERSION, WORLD_DESCRIPTION};

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
