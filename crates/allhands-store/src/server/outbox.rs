//! Replies that are not sent yet. Large values are held, not copied.

use crate::meter::{Blob, Charge, Meter, OverQuota};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

/// Values up to this many bytes are copied between their neighbours; larger ones are shared with the table.
const INLINE_MAX: usize = 64;

/// A run of copied bytes grows up to this size.
const RUN_MAX: usize = 64 << 10;

/// Charged for each segment.
const SEGMENT_OVERHEAD: usize = 64;

#[derive(Debug)]
enum Segment {
    Run(Vec<u8>),
    Shared(Blob),
}

impl Segment {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Run(bytes) => bytes,
            Self::Shared(blob) => blob,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Outbox {
    segments: VecDeque<Segment>,
    /// Bytes of the first segment that are sent.
    sent: usize,
    pending: u64,
    charge: Charge,
}

impl Outbox {
    pub(crate) fn new(meter: &Arc<Meter>) -> Self {
        Self { segments: VecDeque::new(), sent: 0, pending: 0, charge: Charge::none(meter) }
    }

    /// Bytes waiting. Shared values count each time, though they take no memory of their own.
    pub(crate) fn pending(&self) -> u64 {
        self.pending
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), OverQuota> {
        self.charge.resize(self.charge.amount() + bytes.len())?;
        self.pending += bytes.len() as u64;
        if let Some(Segment::Run(run)) = self.segments.back_mut()
            && run.len() + bytes.len() <= RUN_MAX
        {
            run.extend_from_slice(bytes);
            return Ok(());
        }
        self.charge.resize(self.charge.amount() + SEGMENT_OVERHEAD)?;
        self.segments.push_back(Segment::Run(bytes.to_vec()));
        Ok(())
    }

    /// A length and the bytes.
    pub(crate) fn push_blob(&mut self, blob: &Blob) -> Result<(), OverQuota> {
        self.push(&(blob.len() as u64).to_le_bytes())?;
        if blob.len() <= INLINE_MAX {
            return self.push(blob);
        }
        self.charge.resize(self.charge.amount() + SEGMENT_OVERHEAD)?;
        self.pending += blob.len() as u64;
        self.segments.push_back(Segment::Shared(blob.clone()));
        Ok(())
    }

    /// Fills `slices` with what is to be sent next; returns how many were filled.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut skip = self.sent;
        let mut filled = 0;
        for segment in self.segments.iter().take(slices.len()) {
            slices[filled] = IoSlice::new(&segment.bytes()[skip..]);
            skip = 0;
            filled += 1;
        }
        filled
    }

    /// Forgets the first `count` bytes.
    pub(crate) fn consume(&mut self, mut count: usize) {
        self.pending -= (count as u64).min(self.pending);
        while let Some(first) = self.segments.front() {
            let left = first.bytes().len() - self.sent;
            if count < left {
                self.sent += count;
                return;
            }
            count -= left;
            self.sent = 0;
            let freed = SEGMENT_OVERHEAD
                + match self.segments.pop_front() {
                    Some(Segment::Run(run)) => run.len(),
                    _ => 0,
                };
            // Giving back never fails.
            let _ = self.charge.resize(self.charge.amount().saturating_sub(freed));
        }
        self.segments.shrink_to(16);
    }
}
