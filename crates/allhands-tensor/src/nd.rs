//! ndarray arrays as tensors and back. Behind the feature `ndarray`.
//!
//! Views share memory; their strides may be anything that is not negative. Owned arrays in
//! standard layout become tensors without a copy.
//!
//! ```
//! use allhands_tensor::{Tensor, TensorMut, TensorRef};
//! use ndarray::{array, Array2, s};
//!
//! let mut matrix: Array2<f32> = array![[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]];
//! let transposed = TensorRef::try_from(matrix.t())?;
//! assert_eq!(transposed.to_vec::<f32>()?, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
//!
//! let mut column = TensorMut::try_from(matrix.slice_mut(s![.., 1]))?;
//! column.copy_from(&TensorRef::from(&[20.0f32, 50.0]))?;
//! assert_eq!(matrix, array![[1.0, 20.0, 3.0], [4.0, 50.0, 6.0]]);
//!
//! let tensor = Tensor::from(matrix);
//! assert_eq!(tensor.view().as_ndarray::<f32>()?[[1, 1]], 50.0);
//! # Ok::<(), allhands_tensor::TensorError>(())
//! ```

use std::ptr::NonNull;

use ndarray::{
    Array, ArrayBase, ArrayD, ArrayView, ArrayViewD, ArrayViewMut, ArrayViewMutD, Data, DataMut,
    Dimension, IxDyn, ShapeBuilder,
};

use crate::tensor::Layout;
use crate::{Element, Tensor, TensorError, TensorMut, TensorRef};

/// The layout of an array whose strides are not negative.
fn layout_of<T: Element>(shape: &[usize], strides: &[isize]) -> Result<Layout, TensorError> {
    let mut steps = Vec::with_capacity(strides.len());
    for (dimension, (&extent, &stride)) in shape.iter().zip(strides).enumerate() {
        // Nobody goes a step where there is nothing, or just one element.
        let stride = if extent > 1 { stride } else { 0 };
        let step = usize::try_from(stride);
        steps.push(step.map_err(|_| TensorError::NegativeStride { dimension, stride })?);
    }
    if shape.contains(&0) {
        return Layout::contiguous(T::DTYPE, shape);
    }
    Layout::strided(T::DTYPE, shape, &steps)
}

impl<'a, T: Element, D: Dimension> TryFrom<ArrayView<'a, T, D>> for TensorRef<'a> {
    type Error = TensorError;

    fn try_from(view: ArrayView<'a, T, D>) -> Result<Self, TensorError> {
        let layout = layout_of::<T>(view.shape(), view.strides())?;
        let Some(start) = NonNull::new(view.as_ptr().cast_mut()) else {
            unreachable!("arrays start at a non-null address");
        };
        // SAFETY: The view borrows its elements for 'a; it starts at the first of them, and they
        // lie at these strides, aligned for their type.
        Ok(unsafe { TensorRef::from_raw(start.cast(), layout) })
    }
}

impl<'a, T: Element, D: Dimension> TryFrom<ArrayViewMut<'a, T, D>> for TensorMut<'a> {
    type Error = TensorError;

    fn try_from(mut view: ArrayViewMut<'a, T, D>) -> Result<Self, TensorError> {
        let layout = layout_of::<T>(view.shape(), view.strides())?;
        layout.require_no_overlap()?;
        let Some(start) = NonNull::new(view.as_mut_ptr()) else {
            unreachable!("arrays start at a non-null address");
        };
        // SAFETY: The view borrows its elements exclusively for 'a; it starts at the first of them,
        // and they lie at these strides, aligned for their type. No two coincide.
        Ok(unsafe { TensorMut::from_raw(start.cast(), layout) })
    }
}

impl<'a, T, S, D> TryFrom<&'a ArrayBase<S, D>> for TensorRef<'a>
where
    T: Element,
    S: Data<Elem = T>,
    D: Dimension,
{
    type Error = TensorError;

    fn try_from(array: &'a ArrayBase<S, D>) -> Result<Self, TensorError> {
        array.view().try_into()
    }
}

impl<'a, T, S, D> TryFrom<&'a mut ArrayBase<S, D>> for TensorMut<'a>
where
    T: Element,
    S: DataMut<Elem = T>,
    D: Dimension,
{
    type Error = TensorError;

    fn try_from(array: &'a mut ArrayBase<S, D>) -> Result<Self, TensorError> {
        array.view_mut().try_into()
    }
}

/// Without a copy if the array is in standard layout, else packed.
///
/// # Panics
/// If the array has more than [`MAX_DIMS`](crate::MAX_DIMS) dimensions.
impl<T: Element, D: Dimension> From<Array<T, D>> for Tensor {
    fn from(array: Array<T, D>) -> Self {
        let shape = array.shape().to_vec();
        let values = if array.is_standard_layout() {
            let len = array.len();
            match array.into_raw_vec_and_offset() {
                (values, None | Some(0)) if values.len() == len => values,
                // A part of a larger allocation.
                (values, offset) => values[offset.unwrap_or(0)..][..len].to_vec(),
            }
        } else {
            array.iter().copied().collect()
        };
        match Tensor::from_vec(values).with_shape(&shape) {
            Ok(tensor) => tensor,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The strides as ndarray takes them.
fn shape_of(shape: &[usize], strides: &[usize]) -> ndarray::StrideShape<IxDyn> {
    IxDyn(shape).strides(IxDyn(strides))
}

impl<'a> TensorRef<'a> {
    /// An ndarray view of the same memory.
    ///
    /// # Errors
    /// If the tensor has another dtype, or strides that ndarray does not take.
    pub fn as_ndarray<T: Element>(&self) -> Result<ArrayViewD<'a, T>, TensorError> {
        let values = self.elements::<T>()?;
        let view = ArrayViewD::from_shape(shape_of(self.shape(), self.strides()), values);
        view.map_err(|_| self.not_contiguous())
    }

    /// A packed ndarray copy.
    ///
    /// # Errors
    /// If the tensor has another dtype.
    pub fn to_ndarray<T: Element>(&self) -> Result<ArrayD<T>, TensorError> {
        let array = ArrayD::from_shape_vec(IxDyn(self.shape()), self.to_vec::<T>()?);
        array.map_err(|_| self.not_contiguous())
    }
}

impl TensorMut<'_> {
    /// A writable ndarray view of the same memory.
    ///
    /// # Errors
    /// If the tensor has another dtype, or strides that ndarray does not take.
    pub fn as_ndarray_mut<T: Element>(&mut self) -> Result<ArrayViewMutD<'_, T>, TensorError> {
        let error = self.as_ref().not_contiguous();
        let shape = shape_of(self.shape(), self.strides());
        ArrayViewMutD::from_shape(shape, self.elements_mut::<T>()?).map_err(|_| error)
    }
}
