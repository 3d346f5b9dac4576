//! Where ranks cannot share memory: all bytes go over the network.

use std::time::Instant;

use allhands_tensor::{DType, Tensor, TensorError};
use allhands_transport::tcp::{Membership, TcpControl, TcpLinks};

use crate::error::Error;
use crate::group::{Joined, Meeting};

/// Memory that ranks of a host read in place: there is none.
#[derive(Debug)]
pub(crate) enum Memory {}

impl Memory {
    /// A tensor in an arena.
    pub(crate) fn alloc(&self, _: DType, _: &[usize]) -> Result<Tensor, TensorError> {
        match *self {}
    }
}

/// Shares nothing.
///
/// # Errors
/// None; the signature is that of systems where ranks meet.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere it fails")]
pub(crate) fn share(
    _: &Meeting,
    _: &Membership,
    links: TcpLinks,
    _: &TcpControl,
    on_host: u32,
    _: Instant,
) -> Result<Joined, Error> {
    Ok(Joined::over(Box::new(links), on_host))
}
