//! Owned tensors.

mod layout;
mod storage;
mod view;

use std::fmt;
use std::ptr::NonNull;

use storage::Storage;
use view::describe;

use crate::{DType, Element, TensorError};

pub(crate) use layout::Layout;
pub use layout::MAX_DIMS;
pub use storage::ALIGNMENT;
pub use view::{TensorMut, TensorRef};

/// An owned tensor: a dtype, a shape, strides, and memory that nobody else can reach.
///
/// Unique ownership is what lets an asynchronous operation take a tensor and hand it back: while
/// it is away, nobody can look. There is no `Clone`, because a copy of a gradient should be seen
/// in the source; use [`duplicate`](Self::duplicate).
///
/// ```
/// use allhands_tensor::{DType, Tensor};
///
/// let mut tensor = Tensor::zeros(DType::F32, &[2, 3]);
/// tensor.as_mut_slice::<f32>()?[4] = 1.5;
/// assert_eq!(tensor.to_vec::<f32>()?, [0.0, 0.0, 0.0, 0.0, 1.5, 0.0]);
/// assert_eq!((tensor.numel(), tensor.byte_len()), (6, 24));
/// # Ok::<(), allhands_tensor::TensorError>(())
/// ```
pub struct Tensor {
    // The span of the layout lies in the storage, from its start on, aligned for the dtype. The
    // layout does not overlap itself.
    storage: Storage,
    layout: Layout,
}

impl Tensor {
    describe!(layout);

    /// Zeros, contiguous, 64-byte aligned.
    ///
    /// # Panics
    /// If the shape has more than [`MAX_DIMS`] dimensions or does not fit the address space;
    /// [`try_zeros`](Self::try_zeros) says so with an error.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Tensor {
        match Self::try_zeros(dtype, shape) {
            Ok(tensor) => tensor,
            Err(error) => panic!("{error}"),
        }
    }

    /// Zeros, contiguous, 64-byte aligned.
    ///
    /// # Errors
    /// If the shape has more than [`MAX_DIMS`] dimensions or does not fit the address space.
    pub fn try_zeros(dtype: DType, shape: &[usize]) -> Result<Tensor, TensorError> {
        Layout::contiguous(dtype, shape).map(Self::zeroed)
    }

    /// Zeros with given strides, in elements.
    ///
    /// # Errors
    /// As [`try_zeros`](Self::try_zeros), or if the strides lead to one element twice.
    pub fn zeros_strided(
        dtype: DType,
        shape: &[usize],
        strides: &[usize],
    ) -> Result<Tensor, TensorError> {
        let layout = Layout::strided(dtype, shape, strides)?;
        layout.require_no_overlap()?;
        Ok(Tensor { storage: Storage::zeroed(layout.span_bytes()), layout })
    }

    /// A copy of a slice, with one dimension.
    pub fn from_slice<T: Element>(values: &[T]) -> Tensor {
        TensorRef::from(values).to_tensor()
    }

    /// Takes over a vector without copying it, with one dimension.
    ///
    /// The memory has the alignment of the vector, not the 64 bytes of fresh tensors.
    pub fn from_vec<T: Element>(values: Vec<T>) -> Tensor {
        let layout = Layout::of_slice(&values);
        Tensor { storage: Storage::of_vec(values), layout }
    }

    /// A copy of contiguous bytes.
    ///
    /// # Errors
    /// If their number is not that of the shape.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<Tensor, TensorError> {
        let layout = Layout::contiguous(dtype, shape)?;
        layout.require_bytes(bytes.len())?;
        Ok(Self::packed(layout, bytes))
    }

    /// Takes foreign memory without copying it: a shared segment, pinned memory, another
    /// library's array. `owner` is dropped with the tensor and must keep the memory alive.
    ///
    /// # Errors
    /// If the memory is shorter than the shape needs or not aligned for the dtype; `owner` is
    /// dropped then.
    ///
    /// # Safety
    /// * `start` is valid for reads and writes of `len` initialised bytes until `owner` is dropped.
    /// * Nothing else reads or writes these bytes until then.
    pub unsafe fn from_foreign(
        dtype: DType,
        shape: &[usize],
        start: NonNull<u8>,
        len: usize,
        owner: impl Send + 'static,
    ) -> Result<Tensor, TensorError> {
        let layout = Layout::contiguous(dtype, shape)?;
        let needed = layout.byte_len();
        if len < needed {
            return Err(layout.length_mismatch(needed, len));
        }
        let address = start.addr().get();
        if !address.is_multiple_of(dtype.size()) {
            return Err(TensorError::Misaligned { dtype, address, needed: dtype.size() });
        }
        // SAFETY: The caller vouches for `len` bytes, and `needed` is not more.
        let storage = unsafe { Storage::foreign(start, needed, Box::new(owner)) };
        Ok(Tensor { storage, layout })
    }

    /// The same elements under another shape, without a copy.
    ///
    /// # Errors
    /// If the number of elements differs or the tensor is not contiguous.
    ///
    /// ```
    /// use allhands_tensor::Tensor;
    /// let matrix = Tensor::from_vec(vec![1, 2, 3, 4, 5, 6]).with_shape(&[2, 3])?;
    /// assert_eq!(matrix.strides(), [3, 1]);
    /// # Ok::<(), allhands_tensor::TensorError>(())
    /// ```
    pub fn with_shape(mut self, shape: &[usize]) -> Result<Tensor, TensorError> {
        self.layout = self.layout.reshaped(shape)?;
        Ok(self)
    }

    /// Zeros under a checked layout, contiguous, whatever its strides.
    pub(crate) fn zeroed(layout: Layout) -> Tensor {
        let storage = Storage::zeroed(layout.byte_len());
        Tensor { storage, layout: layout.packed() }
    }

    /// A contiguous tensor in the memory of `spare` if that is large enough, else in fresh memory. The elements are
    /// anything.
    pub(crate) fn recycled(layout: Layout, spare: Option<Tensor>) -> Tensor {
        match spare {
            Some(Tensor { storage, .. })
                if storage.len() >= layout.byte_len()
                    && storage.bytes().as_ptr().addr().is_multiple_of(layout.dtype().size()) =>
            {
                Tensor { storage, layout: layout.packed() }
            }
            _ => Self::zeroed(layout),
        }
    }

    /// A copy of `bytes`, which are the elements of `layout` in row-major order.
    pub(crate) fn packed(layout: Layout, bytes: &[u8]) -> Tensor {
        debug_assert_eq!(bytes.len(), layout.byte_len());
        Tensor { storage: Storage::copy_of(bytes), layout: layout.packed() }
    }

    /// All bytes of the storage, gaps included.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.storage.bytes()
    }

    /// All bytes of the storage, gaps included.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.storage.bytes_mut()
    }

    /// A read-only view.
    pub fn view(&self) -> TensorRef<'_> {
        // SAFETY: The span of the layout lies in the storage, aligned, and is borrowed with `self`.
        unsafe { TensorRef::from_raw(NonNull::from(self.storage.bytes()).cast(), self.layout) }
    }

    /// A writable view.
    pub fn view_mut(&mut self) -> TensorMut<'_> {
        let layout = self.layout;
        // SAFETY: As in `view`, exclusively. The layout has no overlaps.
        unsafe { TensorMut::from_raw(NonNull::from(self.storage.bytes_mut()).cast(), layout) }
    }

    /// The bytes of a contiguous tensor.
    ///
    /// # Errors
    /// If the tensor is not contiguous.
    pub fn as_bytes(&self) -> Result<&[u8], TensorError> {
        self.view().as_bytes()
    }

    /// The bytes of a contiguous tensor.
    ///
    /// # Errors
    /// If the tensor is not contiguous.
    pub fn as_bytes_mut(&mut self) -> Result<&mut [u8], TensorError> {
        self.view_mut().into_bytes()
    }

    /// The elements of a contiguous tensor.
    ///
    /// # Errors
    /// If the tensor has another dtype or is not contiguous.
    pub fn as_slice<T: Element>(&self) -> Result<&[T], TensorError> {
        self.view().as_slice()
    }

    /// The elements of a contiguous tensor.
    ///
    /// # Errors
    /// If the tensor has another dtype or is not contiguous.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T], TensorError> {
        self.layout.require_dtype(T::DTYPE)?;
        Ok(bytemuck::cast_slice_mut(self.as_bytes_mut()?))
    }

    /// The elements, in row-major order.
    ///
    /// # Errors
    /// If the tensor has another dtype.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, TensorError> {
        self.view().to_vec()
    }

    /// This tensor if it is contiguous, else a packed copy.
    pub fn contiguous(self) -> Tensor {
        if self.is_contiguous() { self } else { self.duplicate() }
    }

    /// A copy, contiguous and 64-byte aligned.
    pub fn duplicate(&self) -> Tensor {
        self.view().to_tensor()
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tensor")
            .field("dtype", &self.dtype())
            .field("shape", &self.shape())
            .field("strides", &self.strides())
            .finish_non_exhaustive()
    }
}
