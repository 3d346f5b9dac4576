//! Where ranks cannot share memory: there are no boards.

use allhands_engine::flat::{self, Found, Lent, Note};
use allhands_plan::Rank;
use allhands_tensor::foreign::ForeignBytes;

/// Memory that ranks share: on Linux only.
#[derive(Debug)]
pub enum Board {}

/// A board behind the engine's trait.
pub(crate) struct Shelf(pub(crate) Board);

impl Shelf {
    pub(crate) fn place(&self, _: &[u8]) -> Option<u64> {
        match self.0 {}
    }

    pub(crate) fn withdraw(&mut self) {
        match self.0 {}
    }
}

impl flat::Board for Shelf {
    const PLACES: u64 = 0;

    fn open(&mut self, _: usize) -> Option<&mut [u8]> {
        match self.0 {}
    }

    fn publish(&mut self, _: &Note) {
        match self.0 {}
    }

    fn lend(&mut self, _: &Note, _: &Lent) -> bool {
        match self.0 {}
    }

    fn published(&self) -> u64 {
        match self.0 {}
    }

    fn look(&self, _: Rank, _: u64) -> Option<Found> {
        match self.0 {}
    }

    fn copied(&self, _: Rank, _: u64, _: usize, _: usize) -> Option<ForeignBytes<'_>> {
        match self.0 {}
    }

    fn lent(&self, _: Rank, _: u64, _: usize) -> Option<ForeignBytes<'_>> {
        match self.0 {}
    }

    fn is_withdrawn(&self, _: Rank) -> bool {
        match self.0 {}
    }

    fn take(&mut self, _: Rank, _: u64) {
        match self.0 {}
    }

    fn taken(&self, _: Rank) -> u64 {
        match self.0 {}
    }
}
