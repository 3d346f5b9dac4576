//! The memory of an owned tensor.

use std::alloc::{self, Layout as Allocation, handle_alloc_error};
use std::any::Any;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use crate::Element;

/// Where heap storage starts: a multiple of a cache line and of the widest vector.
pub const ALIGNMENT: usize = 64;

/// From this length on, zeros are left to the allocator: large memory comes from the system as zeros, and writing
/// them again would touch every page twice. The allocator takes that way for its own alignment only.
const LARGE: usize = 1 << 20;

/// What every allocator aligns to at least.
const LEAST_ALIGNMENT: usize = align_of::<usize>();

/// Uniquely owned, initialised bytes.
pub(super) struct Storage {
    start: NonNull<u8>,
    len: usize,
    owner: Owner,
}

enum Owner {
    /// The global allocator's, to be freed with this layout; size 0: nothing to free.
    Heap(Allocation),
    /// The same with a gap of so many bytes before the start.
    HeapBefore(Allocation, usize),
    /// Somebody else's: memory lives as long as this value.
    Foreign { _keep: Box<dyn Any + Send> },
}

// SAFETY: The bytes are uniquely owned and plain. The foreign owner is Send.
unsafe impl Send for Storage {}
// SAFETY: A shared Storage gives read access to the bytes only; its owner is never reached before
// the drop, which needs exclusive access.
unsafe impl Sync for Storage {}

impl Storage {
    /// `len` zero bytes, 64-byte aligned.
    pub(super) fn zeroed(len: usize) -> Storage {
        if len >= LARGE
            && let Ok(layout) = Allocation::from_size_align(len + ALIGNMENT, LEAST_ALIGNMENT)
        {
            // SAFETY: The size of the layout is not zero.
            let base = unsafe { alloc::alloc_zeroed(layout) };
            let base = NonNull::new(base).unwrap_or_else(|| handle_alloc_error(layout));
            let gap = base.addr().get().next_multiple_of(ALIGNMENT) - base.addr().get();
            // SAFETY: The gap is shorter than ALIGNMENT, by which the allocation is longer than `len`.
            let start = unsafe { base.add(gap) };
            return Storage { start, len, owner: Owner::HeapBefore(layout, gap) };
        }
        // SAFETY: `alloc_zeroed` is called with a layout of a size that is not zero.
        Self::allocate(len, |layout| unsafe { alloc::alloc_zeroed(layout) })
    }

    /// A copy of `bytes`, 64-byte aligned.
    pub(super) fn copy_of(bytes: &[u8]) -> Storage {
        Self::allocate(bytes.len(), |layout| {
            // SAFETY: `alloc` is called with a layout of a size that is not zero. The new memory has
            // room for `bytes` and is apart from it; all of it is written.
            unsafe {
                let start = alloc::alloc(layout);
                if !start.is_null() {
                    start.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
                }
                start
            }
        })
    }

    /// Memory from `allocate`, which must initialise all of it; null means that there is none.
    fn allocate(len: usize, allocate: impl FnOnce(Allocation) -> *mut u8) -> Storage {
        let Ok(layout) = Allocation::from_size_align(len, ALIGNMENT) else {
            unreachable!("layouts are checked against isize::MAX when they are made");
        };
        let start = if len == 0 {
            layout.dangling_ptr()
        } else {
            NonNull::new(allocate(layout)).unwrap_or_else(|| handle_alloc_error(layout))
        };
        Storage { start, len, owner: Owner::Heap(layout) }
    }

    /// Takes over the memory of a vector, without a copy.
    pub(super) fn of_vec<T: Element>(values: Vec<T>) -> Storage {
        let mut values = ManuallyDrop::new(values);
        let Ok(layout) = Allocation::array::<T>(values.capacity()) else {
            unreachable!("the vector was allocated with this layout");
        };
        let len = size_of_val(values.as_slice());
        // A vector's pointer is never null.
        let start = NonNull::from(values.as_mut_slice()).cast::<u8>();
        Storage { start, len, owner: Owner::Heap(layout) }
    }

    /// Takes memory that `owner` keeps alive.
    ///
    /// # Safety
    /// * `start` is valid for reads and writes of `len` initialised bytes until `owner` is dropped.
    /// * Nothing else reads or writes them until then.
    pub(super) unsafe fn foreign(
        start: NonNull<u8>,
        len: usize,
        owner: Box<dyn Any + Send>,
    ) -> Storage {
        Storage { start, len, owner: Owner::Foreign { _keep: owner } }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: `len` initialised bytes from `start` on are ours while `self` lives.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: As in `bytes`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        match &self.owner {
            Owner::Heap(layout) if layout.size() > 0 => {
                // SAFETY: The memory came from the global allocator with exactly this layout
                // (a vector's is that of an array of its capacity), and is freed once.
                unsafe { alloc::dealloc(self.start.as_ptr(), *layout) };
            }
            Owner::HeapBefore(layout, gap) => {
                // SAFETY: The allocation began `gap` bytes before the start and had this layout; it is freed once.
                unsafe { alloc::dealloc(self.start.as_ptr().sub(*gap), *layout) };
            }
            Owner::Heap(_) | Owner::Foreign { .. } => {}
        }
    }
}
