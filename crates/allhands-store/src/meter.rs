//! Counts bytes against a quota, so that what is charged is what is alive.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Charged for each key or value beside its bytes: the allocation headers and the map slot.
pub(crate) const BLOB_OVERHEAD: usize = 96;

/// The quota is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OverQuota;

#[derive(Debug)]
pub(crate) struct Meter {
    used: AtomicUsize,
    limit: usize,
}

impl Meter {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit })
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn charge(self: &Arc<Self>, amount: usize) -> Result<Charge, OverQuota> {
        let mut charge = Charge::none(self);
        charge.resize(amount)?;
        Ok(charge)
    }
}

/// A part of the quota, given back on drop.
#[derive(Debug)]
pub(crate) struct Charge {
    meter: Arc<Meter>,
    amount: usize,
}

impl Charge {
    pub(crate) fn none(meter: &Arc<Meter>) -> Self {
        Self { meter: Arc::clone(meter), amount: 0 }
    }

    pub(crate) fn amount(&self) -> usize {
        self.amount
    }

    pub(crate) fn resize(&mut self, amount: usize) -> Result<(), OverQuota> {
        if amount > self.amount {
            let more = amount - self.amount;
            let limit = self.meter.limit;
            self.meter
                .used
                .try_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                    used.checked_add(more).filter(|sum| *sum <= limit)
                })
                .map_err(|_| OverQuota)?;
        } else {
            self.meter.used.fetch_sub(self.amount - amount, Ordering::Relaxed);
        }
        self.amount = amount;
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.meter.used.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

/// Shared, charged bytes: a key or a value. A reply that is not sent yet holds one instead of a copy.
#[derive(Debug, Clone)]
pub(crate) struct Blob(Arc<Charged>);

#[derive(Debug)]
struct Charged {
    bytes: Vec<u8>,
    charge: Charge,
}

impl Blob {
    pub(crate) fn copy(bytes: &[u8], meter: &Arc<Meter>) -> Result<Self, OverQuota> {
        let charge = meter.charge(bytes.len() + BLOB_OVERHEAD)?;
        Ok(Self(Arc::new(Charged { bytes: bytes.to_vec(), charge })))
    }

    /// Takes over bytes whose `charge` covers their capacity and the overhead.
    pub(crate) fn adopt(bytes: Vec<u8>, charge: Charge) -> Self {
        debug_assert!(charge.amount() >= bytes.capacity() + BLOB_OVERHEAD);
        Self(Arc::new(Charged { bytes, charge }))
    }

    /// Appends, in place when nobody else holds the blob.
    pub(crate) fn append(&mut self, more: &[u8], meter: &Arc<Meter>) -> Result<(), OverQuota> {
        if let Some(own) = Arc::get_mut(&mut self.0) {
            let needed = own.bytes.len() + more.len();
            if needed > own.bytes.capacity() {
                let capacity = needed.max(own.bytes.capacity() * 2);
                own.charge.resize(capacity + BLOB_OVERHEAD)?;
                own.bytes.reserve_exact(capacity - own.bytes.len());
            }
            own.bytes.extend_from_slice(more);
            return Ok(());
        }
        let charge = meter.charge(self.len() + more.len() + BLOB_OVERHEAD)?;
        let mut bytes = Vec::with_capacity(self.len() + more.len());
        bytes.extend_from_slice(self);
        bytes.extend_from_slice(more);
        *self = Self(Arc::new(Charged { bytes, charge }));
        Ok(())
    }
}

impl Deref for Blob {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl Borrow<[u8]> for Blob {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Blob {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Blob {}

impl Hash for Blob {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}
