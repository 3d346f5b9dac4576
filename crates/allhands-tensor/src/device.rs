//! Where tensors live besides host memory: the trait that a device implements, and the host's own.
//!
//! The trait has the shape of the staging around a collective: pieces of a tensor are copied out
//! of the device into a few pinned *slots*, travel, and are copied in again, everything
//! overlapped. So copies are *queued* (a CUDA stream), a copy in flight owns its slot, and what
//! has to wait waits for an *event*, either here (by polling) or inside the device.
//!
//! A slot goes into a copy and comes out of it: no safe call can touch memory that the device is
//! still reading or writing.

use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{DType, Tensor};

/// A device, seen by what stages tensors through the host.
///
/// Copies on one queue happen in the order in which they were queued; queues are independent
/// unless one [waits](Self::wait) for an event of another.
///
/// ```
/// use allhands_tensor::{Device, DeviceError, HostDevice, Transfer};
///
/// /// Doubles every byte on the host, a piece at a time; works on any device.
/// fn double<D: Device>(device: &D, memory: &D::Memory, len: usize) -> Result<(), DeviceError> {
///     let mut queue = device.queue()?;
///     let mut slot = device.slot(4)?;
///     for start in (0..len).step_by(4) {
///         let mut out = device.copy_out(&mut queue, memory, start..start + 4, slot)?;
///         slot = loop {
///             if let Some(slot) = out.poll()? {
///                 break slot;
///             }
///         };
///         slot.iter_mut().for_each(|byte| *byte *= 2);
///         let mut back = device.copy_in(&mut queue, slot, memory, start..start + 4)?;
///         slot = loop {
///             if let Some(slot) = back.poll()? {
///                 break slot;
///             }
///         };
///     }
///     Ok(())
/// }
///
/// let device = HostDevice::new();
/// let memory = device.allocate(8)?;
/// memory.lock().copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
/// double(&device, &memory, 8)?;
/// assert_eq!(*memory.lock(), [2, 4, 6, 8, 10, 12, 14, 16]);
/// # Ok::<(), DeviceError>(())
/// ```
pub trait Device: fmt::Debug + Send + Sync + 'static {
    /// Memory of the device. Clones share it, so that a copy in flight keeps it alive.
    type Memory: Clone + fmt::Debug + Send + Sync + 'static;
    /// Host memory that the device copies from and to at full speed: pinned, where that exists.
    type Slot: DerefMut<Target = [u8]> + fmt::Debug + Send + 'static;
    /// Copies in order. CUDA calls it a stream.
    type Queue: fmt::Debug + Send + 'static;
    /// A point in a queue.
    type Event: fmt::Debug + Send + 'static;
    /// A copy that was queued, with its slot.
    type Transfer: Transfer<Slot = Self::Slot>;

    /// What messages call this device, as in `"cuda:0"`.
    fn name(&self) -> &str;

    /// Allocates `len` bytes on the device. Their content is not specified.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`], or [`DeviceError::Failed`].
    fn allocate(&self, len: usize) -> Result<Self::Memory, DeviceError>;

    /// Allocates a slot of `len` bytes. Slow where memory is pinned: keep slots and use them again.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`], or [`DeviceError::Failed`].
    fn slot(&self, len: usize) -> Result<Self::Slot, DeviceError>;

    /// Makes a queue.
    ///
    /// # Errors
    /// [`DeviceError::Failed`].
    fn queue(&self) -> Result<Self::Queue, DeviceError>;

    /// Queues a copy of `range` (in bytes) of device memory to the start of `slot`.
    ///
    /// # Errors
    /// [`DeviceError::OutOfBounds`] if the memory or the slot is too short, or
    /// [`DeviceError::Failed`]. The slot is lost then.
    fn copy_out(
        &self,
        queue: &mut Self::Queue,
        memory: &Self::Memory,
        range: Range<usize>,
        slot: Self::Slot,
    ) -> Result<Self::Transfer, DeviceError>;

    /// Queues a copy of the start of `slot` to `range` (in bytes) of device memory.
    ///
    /// # Errors
    /// As for [`copy_out`](Self::copy_out).
    fn copy_in(
        &self,
        queue: &mut Self::Queue,
        slot: Self::Slot,
        memory: &Self::Memory,
        range: Range<usize>,
    ) -> Result<Self::Transfer, DeviceError>;

    /// Marks the point after everything that was queued so far.
    ///
    /// # Errors
    /// [`DeviceError::Failed`].
    fn record(&self, queue: &mut Self::Queue) -> Result<Self::Event, DeviceError>;

    /// Lets what is queued from now on wait, on the device, for an event of another queue.
    ///
    /// # Errors
    /// [`DeviceError::Failed`].
    fn wait(&self, queue: &mut Self::Queue, event: &Self::Event) -> Result<(), DeviceError>;

    /// Looks whether an event has happened; never blocks.
    ///
    /// # Errors
    /// [`DeviceError::Failed`] if something queued before the event went wrong.
    fn poll(&self, event: &Self::Event) -> Result<Progress, DeviceError>;
}

/// A copy in flight.
///
/// An implementation keeps the slot and the device memory alive until the copy is over, also if
/// the transfer is dropped before (it may block in its `Drop`, or hand both to a reaper).
pub trait Transfer: fmt::Debug + Send + 'static {
    /// The slot that comes back.
    type Slot;

    /// The slot once the copy is over; `None` while it is not. Never blocks.
    ///
    /// # Errors
    /// [`DeviceError::Failed`] if the copy went wrong, and [`DeviceError::SlotTaken`] if the slot
    /// was handed out before.
    fn poll(&mut self) -> Result<Option<Self::Slot>, DeviceError>;
}

/// Whether an event has happened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Progress {
    /// Not yet.
    Pending,
    /// It has, and everything queued before it is over.
    Done,
}

/// What can go wrong on a device.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// There is no such device here, or its driver is missing.
    #[error("device {device} is not available: {reason}")]
    Unavailable {
        /// The device that was asked for.
        device: String,
        /// What is missing, and what to do.
        reason: String,
    },
    /// The memory is used up.
    #[error("device {device} has no {asked} bytes left; use smaller or fewer buffers")]
    OutOfMemory {
        /// The device.
        device: String,
        /// Bytes that were asked for.
        asked: usize,
    },
    /// A copy would leave its memory or its slot.
    #[error(
        "bytes {start}..{end} on device {device} do not fit memory of {memory} bytes and a slot of \
         {slot} bytes; cut the copy into pieces"
    )]
    OutOfBounds {
        /// The device.
        device: String,
        /// First byte of the copy.
        start: usize,
        /// One past its last byte.
        end: usize,
        /// Bytes of the device memory.
        memory: usize,
        /// Bytes of the slot.
        slot: usize,
    },
    /// The slot of a transfer was taken out by an earlier poll.
    #[error("the slot of a finished transfer on device {device} was taken before; poll it no more")]
    SlotTaken {
        /// The device.
        device: String,
    },
    /// The driver reports a failure.
    #[error("{call} failed on device {device}: {reason}")]
    Failed {
        /// The device.
        device: String,
        /// What was called.
        call: &'static str,
        /// The driver's words.
        reason: String,
    },
}

/// Checks that a copy fits both its ends.
///
/// # Errors
/// [`DeviceError::OutOfBounds`].
///
/// ```
/// use allhands_tensor::check_copy;
/// assert!(check_copy("cuda:0", &(4..8), 8, 4).is_ok());
/// assert!(check_copy("cuda:0", &(4..9), 8, 8).is_err());
/// ```
pub fn check_copy(
    device: &str,
    range: &Range<usize>,
    memory: usize,
    slot: usize,
) -> Result<(), DeviceError> {
    let &Range { start, end } = range;
    let fits = start <= end && end <= memory && end - start <= slot;
    if fits {
        return Ok(());
    }
    Err(DeviceError::OutOfBounds { device: device.to_owned(), start, end, memory, slot })
}

/// The host as a device: memory is memory, and a copy is over when it was queued.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct HostDevice;

impl HostDevice {
    /// The host.
    pub const fn new() -> Self {
        HostDevice
    }
}

/// The name of [`HostDevice`].
const HOST: &str = "host";

/// Memory of [`HostDevice`]. Clones share it.
#[derive(Clone)]
pub struct HostMemory {
    bytes: Arc<Mutex<HostSlot>>,
}

impl HostMemory {
    /// The bytes, exclusively, until the guard is dropped.
    pub fn lock(&self) -> impl DerefMut<Target = HostSlot> {
        self.guard()
    }

    fn guard(&self) -> MutexGuard<'_, HostSlot> {
        // Bytes have no invariant that a panic could break.
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for HostMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostMemory").field("len", &self.guard().len()).finish()
    }
}

/// A slot of [`HostDevice`]: 64-byte aligned bytes.
#[derive(Debug)]
pub struct HostSlot {
    tensor: Tensor,
}

impl Deref for HostSlot {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.tensor.bytes()
    }
}

impl DerefMut for HostSlot {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.tensor.bytes_mut()
    }
}

impl<const N: usize> PartialEq<[u8; N]> for HostSlot {
    fn eq(&self, other: &[u8; N]) -> bool {
        **self == other[..]
    }
}

/// The queue of [`HostDevice`]; always empty.
#[derive(Debug)]
pub struct HostQueue(());

/// An event of [`HostDevice`]; it has happened.
#[derive(Debug)]
pub struct HostEvent(());

/// A copy of [`HostDevice`]; it is over.
#[derive(Debug)]
pub struct HostTransfer {
    slot: Option<HostSlot>,
}

impl Transfer for HostTransfer {
    type Slot = HostSlot;

    fn poll(&mut self) -> Result<Option<HostSlot>, DeviceError> {
        match self.slot.take() {
            Some(slot) => Ok(Some(slot)),
            None => Err(DeviceError::SlotTaken { device: HOST.to_owned() }),
        }
    }
}

impl Device for HostDevice {
    type Memory = HostMemory;
    type Slot = HostSlot;
    type Queue = HostQueue;
    type Event = HostEvent;
    type Transfer = HostTransfer;

    fn name(&self) -> &str {
        HOST
    }

    fn allocate(&self, len: usize) -> Result<HostMemory, DeviceError> {
        let bytes = self.slot(len)?;
        Ok(HostMemory { bytes: Arc::new(Mutex::new(bytes)) })
    }

    fn slot(&self, len: usize) -> Result<HostSlot, DeviceError> {
        let out_of_memory = |_| DeviceError::OutOfMemory { device: HOST.to_owned(), asked: len };
        let tensor = Tensor::try_zeros(DType::U8, &[len]).map_err(out_of_memory)?;
        Ok(HostSlot { tensor })
    }

    fn queue(&self) -> Result<HostQueue, DeviceError> {
        Ok(HostQueue(()))
    }

    fn copy_out(
        &self,
        _queue: &mut HostQueue,
        memory: &HostMemory,
        range: Range<usize>,
        mut slot: HostSlot,
    ) -> Result<HostTransfer, DeviceError> {
        let memory = memory.guard();
        check_copy(HOST, &range, memory.len(), slot.len())?;
        slot[..range.len()].copy_from_slice(&memory[range]);
        Ok(HostTransfer { slot: Some(slot) })
    }

    fn copy_in(
        &self,
        _queue: &mut HostQueue,
        slot: HostSlot,
        memory: &HostMemory,
        range: Range<usize>,
    ) -> Result<HostTransfer, DeviceError> {
        let mut memory = memory.guard();
        check_copy(HOST, &range, memory.len(), slot.len())?;
        let len = range.len();
        memory[range].copy_from_slice(&slot[..len]);
        Ok(HostTransfer { slot: Some(slot) })
    }

    fn record(&self, _queue: &mut HostQueue) -> Result<HostEvent, DeviceError> {
        Ok(HostEvent(()))
    }

    fn wait(&self, _queue: &mut HostQueue, _event: &HostEvent) -> Result<(), DeviceError> {
        Ok(())
    }

    fn poll(&self, _event: &HostEvent) -> Result<Progress, DeviceError> {
        Ok(Progress::Done)
    }
}
