//! Borrowed tensors.

use std::marker::PhantomData;
use std::ptr::NonNull;

use super::Tensor;
use super::layout::Layout;
use crate::{DType, Element, TensorError};

/// A borrowed, read-only tensor: of a slice, of a [`Tensor`], of an ndarray view.
///
/// ```
/// use allhands_tensor::TensorRef;
/// let values = [1i32, 2, 3, 4, 5, 6];
/// // Every second column of a 2 x 3 matrix would need a copy; its transpose does not.
/// let transposed = TensorRef::strided(&values, &[3, 2], &[1, 3])?;
/// assert_eq!(transposed.to_vec::<i32>()?, [1, 4, 2, 5, 3, 6]);
/// # Ok::<(), allhands_tensor::TensorError>(())
/// ```
#[derive(Clone, Copy)]
pub struct TensorRef<'a> {
    start: NonNull<u8>,
    layout: Layout,
    bytes: PhantomData<&'a [u8]>,
}

/// A borrowed, writable tensor. No two of its indices lead to the same element.
///
/// ```
/// use allhands_tensor::{DType, TensorMut};
/// let mut loss = [0.25f32];
/// let view = TensorMut::from(&mut loss);
/// assert_eq!((view.dtype(), view.shape()), (DType::F32, &[1usize][..]));
/// ```
pub struct TensorMut<'a> {
    start: NonNull<u8>,
    layout: Layout,
    bytes: PhantomData<&'a mut [u8]>,
}

// SAFETY: It is a `&[u8]` with a shape.
unsafe impl Send for TensorRef<'_> {}
// SAFETY: It is a `&[u8]` with a shape.
unsafe impl Sync for TensorRef<'_> {}
// SAFETY: It is a `&mut [u8]` with a shape.
unsafe impl Send for TensorMut<'_> {}
// SAFETY: It is a `&mut [u8]` with a shape.
unsafe impl Sync for TensorMut<'_> {}

/// What both views and [`Tensor`] say about themselves.
macro_rules! describe {
    ($layout:ident) => {
        /// The type of the elements.
        #[inline]
        pub fn dtype(&self) -> DType {
            self.$layout.dtype()
        }

        /// The extents, in elements.
        #[inline]
        pub fn shape(&self) -> &[usize] {
            self.$layout.shape()
        }

        /// The distances between neighbours, in elements.
        pub fn strides(&self) -> &[usize] {
            self.$layout.strides()
        }

        /// The number of elements.
        #[inline]
        pub fn numel(&self) -> usize {
            self.$layout.numel()
        }

        /// The bytes of the elements, without gaps.
        pub fn byte_len(&self) -> usize {
            self.$layout.byte_len()
        }

        /// Whether the elements lie in row-major order without gaps.
        pub fn is_contiguous(&self) -> bool {
            self.$layout.is_contiguous()
        }

        /// Whether the elements lie without gaps, in whatever order of the dimensions.
        pub fn is_dense(&self) -> bool {
            self.$layout.is_dense()
        }
    };
}
pub(super) use describe;

impl<'a> TensorRef<'a> {
    describe!(layout);

    /// A view of contiguous bytes.
    ///
    /// # Errors
    /// If the length is not that of the shape, or the address is not aligned for `dtype`.
    pub fn from_bytes(
        dtype: DType,
        shape: &[usize],
        bytes: &'a [u8],
    ) -> Result<TensorRef<'a>, TensorError> {
        let layout = Layout::contiguous(dtype, shape)?;
        layout.require_bytes(bytes.len())?;
        let start = NonNull::from(bytes).cast::<u8>();
        require_aligned(dtype, start)?;
        Ok(TensorRef { start, layout, bytes: PhantomData })
    }

    /// A view of a slice under a shape of as many elements.
    ///
    /// # Errors
    /// If the shape does not have as many elements as the slice.
    pub fn shaped<T: Element>(
        values: &'a [T],
        shape: &[usize],
    ) -> Result<TensorRef<'a>, TensorError> {
        Self::from_bytes(T::DTYPE, shape, bytemuck::cast_slice(values))
    }

    /// A view of a slice with strides, in elements. Overlaps are allowed; a stride of 0 repeats.
    ///
    /// # Errors
    /// If the strides reach beyond the slice.
    pub fn strided<T: Element>(
        values: &'a [T],
        shape: &[usize],
        strides: &[usize],
    ) -> Result<TensorRef<'a>, TensorError> {
        let layout = Layout::strided(T::DTYPE, shape, strides)?;
        let (needed, given) = (layout.span_bytes(), size_of_val(values));
        if needed > given {
            return Err(layout.length_mismatch(needed, given));
        }
        Ok(TensorRef { start: NonNull::from(values).cast(), layout, bytes: PhantomData })
    }

    /// A view of memory that the caller vouches for.
    ///
    /// # Safety
    /// * `start` is valid for reads of the elements of `layout`, which are initialised, and aligned
    ///   for the dtype; nobody writes these elements for `'a`.
    pub(crate) unsafe fn from_raw(start: NonNull<u8>, layout: Layout) -> TensorRef<'a> {
        TensorRef { start, layout, bytes: PhantomData }
    }

    /// The bytes of a contiguous view.
    ///
    /// # Errors
    /// If the view is not contiguous.
    #[inline]
    pub fn as_bytes(&self) -> Result<&'a [u8], TensorError> {
        self.layout.require_contiguous()?;
        Ok(self.packed_bytes())
    }

    /// The bytes in the order in which they lie in memory; for dense views.
    ///
    /// # Errors
    /// If there are gaps or overlaps.
    pub fn dense_bytes(&self) -> Result<&'a [u8], TensorError> {
        require_dense(&self.layout)?;
        Ok(self.packed_bytes())
    }

    /// The bytes of a view without gaps.
    fn packed_bytes(&self) -> &'a [u8] {
        // SAFETY: The callers have seen that there are no gaps, so all these bytes are elements of
        // the view, and those are borrowed for 'a.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.byte_len()) }
    }

    /// The elements of a contiguous view.
    ///
    /// # Errors
    /// If the view has another dtype or is not contiguous.
    pub fn as_slice<T: Element>(&self) -> Result<&'a [T], TensorError> {
        self.layout.require_dtype(T::DTYPE)?;
        // Each constructor has seen that the start is aligned for the dtype.
        Ok(bytemuck::cast_slice(self.as_bytes()?))
    }

    /// The elements of a view without gaps, in the order in which they lie in memory.
    #[cfg(feature = "ndarray")]
    pub(crate) fn elements<T: Element>(&self) -> Result<&'a [T], TensorError> {
        self.layout.require_dtype(T::DTYPE)?;
        Ok(bytemuck::cast_slice(self.dense_bytes()?))
    }

    /// What to say where gaps or an order of dimensions are in the way.
    #[cfg(feature = "ndarray")]
    pub(crate) fn not_contiguous(&self) -> TensorError {
        self.layout.not_contiguous()
    }

    /// The elements, in row-major order.
    ///
    /// # Errors
    /// If the view has another dtype.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, TensorError> {
        self.layout.require_dtype(T::DTYPE)?;
        let mut values = vec![T::zeroed(); self.numel()];
        self.pack(bytemuck::cast_slice_mut(&mut values));
        Ok(values)
    }

    /// An owned, contiguous copy.
    pub fn to_tensor(&self) -> Tensor {
        match self.as_bytes() {
            Ok(bytes) => Tensor::packed(self.layout, bytes),
            Err(_) => {
                let mut copy = Tensor::zeroed(self.layout);
                self.pack(copy.bytes_mut());
                copy
            }
        }
    }

    /// Copies the elements, in row-major order, into `packed`.
    ///
    /// # Panics
    /// If `packed` does not have [`byte_len`](Self::byte_len) bytes.
    pub fn pack(&self, packed: &mut [u8]) {
        let (given, needed) = (packed.len(), self.byte_len());
        assert!(given == needed, "packing {needed} bytes into a buffer of {given}");
        let size = self.dtype().size();
        let runs = self.layout.runs();
        let run = runs.run * size;
        for (offset, target) in runs.zip(packed.chunks_exact_mut(run)) {
            // SAFETY: A run consists of elements of this view only, which are borrowed, and is as
            // long as `target`. Gaps, which may belong to somebody else, are not touched.
            unsafe {
                let source = self.start.as_ptr().add(offset * size);
                target.as_mut_ptr().copy_from_nonoverlapping(source, run);
            }
        }
    }
}

impl<'a> TensorMut<'a> {
    describe!(layout);

    /// A view of contiguous bytes.
    ///
    /// # Errors
    /// If the length is not that of the shape, or the address is not aligned for `dtype`.
    pub fn from_bytes(
        dtype: DType,
        shape: &[usize],
        bytes: &'a mut [u8],
    ) -> Result<TensorMut<'a>, TensorError> {
        let layout = Layout::contiguous(dtype, shape)?;
        layout.require_bytes(bytes.len())?;
        let start = NonNull::from(bytes).cast::<u8>();
        require_aligned(dtype, start)?;
        Ok(TensorMut { start, layout, bytes: PhantomData })
    }

    /// A view of a slice under a shape of as many elements.
    ///
    /// # Errors
    /// If the shape does not have as many elements as the slice.
    pub fn shaped<T: Element>(
        values: &'a mut [T],
        shape: &[usize],
    ) -> Result<TensorMut<'a>, TensorError> {
        Self::from_bytes(T::DTYPE, shape, bytemuck::cast_slice_mut(values))
    }

    /// A view of a slice with strides, in elements.
    ///
    /// # Errors
    /// If the strides reach beyond the slice, or reach one element twice.
    pub fn strided<T: Element>(
        values: &'a mut [T],
        shape: &[usize],
        strides: &[usize],
    ) -> Result<TensorMut<'a>, TensorError> {
        let layout = Layout::strided(T::DTYPE, shape, strides)?;
        layout.require_no_overlap()?;
        let (needed, given) = (layout.span_bytes(), size_of_val(values));
        if needed > given {
            return Err(layout.length_mismatch(needed, given));
        }
        Ok(TensorMut { start: NonNull::from(values).cast(), layout, bytes: PhantomData })
    }

    /// A view of memory that the caller vouches for.
    ///
    /// # Safety
    /// * `start` is valid for reads and writes of the elements of `layout`, which are initialised,
    ///   and aligned for the dtype; nobody else touches these elements for `'a`.
    /// * If the layout is contiguous or dense, that holds for its whole span. No overlaps.
    pub(crate) unsafe fn from_raw(start: NonNull<u8>, layout: Layout) -> TensorMut<'a> {
        TensorMut { start, layout, bytes: PhantomData }
    }

    /// The same view for a shorter time.
    pub fn reborrow(&mut self) -> TensorMut<'_> {
        TensorMut { start: self.start, layout: self.layout, bytes: PhantomData }
    }

    /// A read-only view.
    pub fn as_ref(&self) -> TensorRef<'_> {
        TensorRef { start: self.start, layout: self.layout, bytes: PhantomData }
    }

    /// The bytes of a contiguous view, for as long as the memory is borrowed.
    ///
    /// # Errors
    /// If the view is not contiguous.
    pub fn into_bytes(self) -> Result<&'a mut [u8], TensorError> {
        self.layout.require_contiguous()?;
        // SAFETY: Each constructor has seen that a contiguous span is exclusively borrowed for 'a,
        // and `self` is gone.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.byte_len()) })
    }

    /// The bytes of a contiguous view.
    ///
    /// # Errors
    /// If the view is not contiguous.
    pub fn as_bytes_mut(&mut self) -> Result<&mut [u8], TensorError> {
        self.reborrow().into_bytes()
    }

    /// The bytes in the order in which they lie in memory; for dense views.
    ///
    /// # Errors
    /// If there are gaps.
    #[inline]
    pub fn dense_bytes_mut(&mut self) -> Result<&mut [u8], TensorError> {
        require_dense(&self.layout)?;
        // SAFETY: Each constructor has seen that a dense span is exclusively borrowed, and the
        // result borrows `self`.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.byte_len()) })
    }

    /// The elements of a contiguous view.
    ///
    /// # Errors
    /// If the view has another dtype or is not contiguous.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T], TensorError> {
        self.layout.require_dtype(T::DTYPE)?;
        // Each constructor has seen that the start is aligned for the dtype.
        Ok(bytemuck::cast_slice_mut(self.as_bytes_mut()?))
    }

    /// The elements of a view without gaps, in the order in which they lie in memory.
    #[cfg(feature = "ndarray")]
    pub(crate) fn elements_mut<T: Element>(&mut self) -> Result<&mut [T], TensorError> {
        self.layout.require_dtype(T::DTYPE)?;
        Ok(bytemuck::cast_slice_mut(self.dense_bytes_mut()?))
    }

    /// Copies all elements of `source`.
    ///
    /// # Errors
    /// If the dtypes or the shapes differ.
    pub fn copy_from(&mut self, source: &TensorRef<'_>) -> Result<(), TensorError> {
        self.layout.require_dtype(source.dtype())?;
        if self.shape() != source.shape() {
            let (expected, actual) = (self.shape().to_vec(), source.shape().to_vec());
            return Err(TensorError::ShapeMismatch { expected, actual });
        }
        if let Ok(bytes) = source.as_bytes() {
            self.unpack(bytes);
        } else if let Ok(bytes) = self.as_bytes_mut() {
            source.pack(bytes);
        } else {
            self.unpack(source.to_tensor().bytes());
        }
        Ok(())
    }

    /// Sets the elements from `packed`, which holds them in row-major order.
    ///
    /// # Panics
    /// If `packed` does not have [`byte_len`](Self::byte_len) bytes.
    pub fn unpack(&mut self, packed: &[u8]) {
        let (given, needed) = (packed.len(), self.byte_len());
        assert!(given == needed, "unpacking {given} bytes into {needed}");
        let size = self.dtype().size();
        let runs = self.layout.runs();
        let run = runs.run * size;
        for (offset, source) in runs.zip(packed.chunks_exact(run)) {
            // SAFETY: A run consists of elements of this view only, which are exclusively ours, and
            // is as long as `source`. Gaps, which may belong to somebody else, are not touched.
            unsafe {
                let target = self.start.as_ptr().add(offset * size);
                target.copy_from_nonoverlapping(source.as_ptr(), run);
            }
        }
    }
}

fn require_aligned(dtype: DType, start: NonNull<u8>) -> Result<(), TensorError> {
    let (address, needed) = (start.addr().get(), dtype.size());
    if address.is_multiple_of(needed) {
        Ok(())
    } else {
        Err(TensorError::Misaligned { dtype, address, needed })
    }
}

#[inline]
fn require_dense(layout: &Layout) -> Result<(), TensorError> {
    if layout.is_dense() { Ok(()) } else { Err(layout.not_contiguous()) }
}

/// A slice as a tensor of one dimension.
impl<'a, T: Element> From<&'a [T]> for TensorRef<'a> {
    #[inline]
    fn from(values: &'a [T]) -> Self {
        let layout = Layout::of_slice(values);
        TensorRef { start: NonNull::from(values).cast(), layout, bytes: PhantomData }
    }
}

impl<'a, T: Element> From<&'a mut [T]> for TensorMut<'a> {
    #[inline]
    fn from(values: &'a mut [T]) -> Self {
        let layout = Layout::of_slice(values);
        TensorMut { start: NonNull::from(values).cast(), layout, bytes: PhantomData }
    }
}

impl<'a, T: Element, const N: usize> From<&'a [T; N]> for TensorRef<'a> {
    fn from(values: &'a [T; N]) -> Self {
        values.as_slice().into()
    }
}

impl<'a, T: Element, const N: usize> From<&'a mut [T; N]> for TensorMut<'a> {
    fn from(values: &'a mut [T; N]) -> Self {
        values.as_mut_slice().into()
    }
}

impl<'a, T: Element> From<&'a Vec<T>> for TensorRef<'a> {
    fn from(values: &'a Vec<T>) -> Self {
        values.as_slice().into()
    }
}

impl<'a, T: Element> From<&'a mut Vec<T>> for TensorMut<'a> {
    fn from(values: &'a mut Vec<T>) -> Self {
        values.as_mut_slice().into()
    }
}

impl<'a> From<&'a Tensor> for TensorRef<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        tensor.view()
    }
}

impl<'a> From<&'a mut Tensor> for TensorMut<'a> {
    fn from(tensor: &'a mut Tensor) -> Self {
        tensor.view_mut()
    }
}

impl<'a> From<TensorMut<'a>> for TensorRef<'a> {
    fn from(view: TensorMut<'a>) -> Self {
        TensorRef { start: view.start, layout: view.layout, bytes: PhantomData }
    }
}

macro_rules! debug {
    ($view:ident) => {
        impl std::fmt::Debug for $view<'_> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($view))
                    .field("dtype", &self.dtype())
                    .field("shape", &self.shape())
                    .field("strides", &self.strides())
                    .finish_non_exhaustive()
            }
        }
    };
}

debug!(TensorRef);
debug!(TensorMut);
