//! Shapes and strides: where the elements of a tensor lie, counted in elements.

use std::fmt;
use std::ops::Deref;

use crate::{DType, Element, TensorError};

/// The largest number of dimensions of a tensor.
pub const MAX_DIMS: usize = 8;

/// Up to [`MAX_DIMS`] numbers, without an allocation.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Dims {
    len: u8,
    values: [usize; MAX_DIMS],
}

impl Dims {
    fn new(values: &[usize]) -> Result<Dims, TensorError> {
        if values.len() > MAX_DIMS {
            let dimensions = values.len();
            return Err(TensorError::TooManyDimensions { dimensions, limit: MAX_DIMS });
        }
        let mut dims = Dims { len: values.len() as u8, values: [0; MAX_DIMS] };
        dims.values[..values.len()].copy_from_slice(values);
        Ok(dims)
    }
}

impl Deref for Dims {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.values[..usize::from(self.len)]
    }
}

impl fmt::Debug for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// A dtype, a shape and strides that were checked: no offset overflows, in elements or in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Layout {
    dtype: DType,
    numel: usize,
    form: Form,
}

/// How the elements lie. Slices are what most calls have, and are made and passed on without eight extents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    /// One dimension without gaps.
    Flat,
    /// Anything else.
    Shaped { shape: Dims, strides: Dims },
}

impl Layout {
    /// Row-major, without gaps.
    pub(crate) fn contiguous(dtype: DType, shape: &[usize]) -> Result<Layout, TensorError> {
        let shape = Dims::new(shape)?;
        let numel = checked_numel(dtype, &shape)?;
        if shape.len() == 1 {
            return Ok(Layout { dtype, numel, form: Form::Flat });
        }
        let mut strides = shape;
        let mut step = 1usize;
        for (stride, &extent) in
            strides.values[..usize::from(shape.len)].iter_mut().zip(shape.iter()).rev()
        {
            *stride = step;
            // Cannot overflow where elements exist; where none do, strides do not matter.
            step = step.saturating_mul(extent.max(1));
        }
        Ok(Layout { dtype, numel, form: Form::Shaped { shape, strides } })
    }

    /// One dimension, as long as a slice, which fits the address space.
    #[inline]
    pub(crate) fn of_slice<T: Element>(values: &[T]) -> Layout {
        Layout { dtype: T::DTYPE, numel: values.len(), form: Form::Flat }
    }

    /// The same shape, row-major without gaps.
    pub(crate) fn packed(&self) -> Layout {
        match Self::contiguous(self.dtype, self.shape()) {
            Ok(layout) => layout,
            Err(_) => unreachable!("the shape was checked when this layout was made"),
        }
    }

    /// With given strides.
    pub(crate) fn strided(
        dtype: DType,
        shape: &[usize],
        strides: &[usize],
    ) -> Result<Layout, TensorError> {
        if shape.len() != strides.len() {
            let (dimensions, strides) = (shape.len(), strides.len());
            return Err(TensorError::StrideCount { strides, dimensions });
        }
        let shape = Dims::new(shape)?;
        let strides = Dims::new(strides)?;
        let numel = checked_numel(dtype, &shape)?;
        let form = match (&*shape, &*strides) {
            ([_], [1]) => Form::Flat,
            _ => Form::Shaped { shape, strides },
        };
        let layout = Layout { dtype, numel, form };
        match layout.checked_span() {
            Some(span) if span <= bytes_max(dtype) => Ok(layout),
            _ => Err(TensorError::TooLarge { dtype, shape: shape.to_vec() }),
        }
    }

    #[inline]
    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    #[inline]
    pub(crate) fn shape(&self) -> &[usize] {
        match &self.form {
            Form::Flat => std::slice::from_ref(&self.numel),
            Form::Shaped { shape, .. } => shape,
        }
    }

    #[inline]
    pub(crate) fn strides(&self) -> &[usize] {
        match &self.form {
            Form::Flat => &[1],
            Form::Shaped { strides, .. } => strides,
        }
    }

    #[inline]
    pub(crate) fn numel(&self) -> usize {
        self.numel
    }

    /// Bytes of the elements themselves.
    #[inline]
    pub(crate) fn byte_len(&self) -> usize {
        self.numel * self.dtype.size()
    }

    /// Elements from the first to the last, gaps included; `None` if that overflows.
    fn checked_span(&self) -> Option<usize> {
        if self.numel == 0 {
            return Some(0);
        }
        let mut last = 0usize;
        for (&extent, &stride) in self.shape().iter().zip(self.strides().iter()) {
            last = last.checked_add((extent - 1).checked_mul(stride)?)?;
        }
        last.checked_add(1)
    }

    /// Bytes from the first element to the last, gaps included.
    pub(crate) fn span_bytes(&self) -> usize {
        // Checked on construction.
        self.checked_span().unwrap_or(0) * self.dtype.size()
    }

    /// Row-major without gaps. Strides of dimensions of extent 1 do not matter.
    #[inline]
    pub(crate) fn is_contiguous(&self) -> bool {
        matches!(self.form, Form::Flat) || self.has_no_gaps()
    }

    fn has_no_gaps(&self) -> bool {
        if self.numel == 0 {
            return true;
        }
        let mut step = 1;
        self.shape().iter().zip(self.strides().iter()).rev().all(|(&extent, &stride)| {
            let fits = extent == 1 || stride == step;
            step *= extent;
            fits
        })
    }

    /// Without gaps and without overlaps, in whatever order of dimensions.
    #[inline]
    pub(crate) fn is_dense(&self) -> bool {
        matches!(self.form, Form::Flat)
            || (self.checked_span() == Some(self.numel) && !self.overlaps())
    }

    /// Whether two indices may lead to one element. Sufficient for the layouts that slicing,
    /// transposing and broadcasting make; an exotic interleaving counts as an overlap.
    pub(crate) fn overlaps(&self) -> bool {
        if self.numel == 0 {
            return false;
        }
        let mut dims = [(0usize, 0usize); MAX_DIMS];
        let mut count = 0;
        for (&extent, &stride) in self.shape().iter().zip(self.strides().iter()) {
            if extent > 1 {
                dims[count] = (stride, extent);
                count += 1;
            }
        }
        let dims = &mut dims[..count];
        dims.sort_unstable();
        let mut reach = 0;
        for &(stride, extent) in dims.iter() {
            if stride <= reach {
                return true;
            }
            reach += (extent - 1) * stride;
        }
        false
    }

    /// The same elements under another shape; row-major layouts only.
    pub(crate) fn reshaped(&self, shape: &[usize]) -> Result<Layout, TensorError> {
        self.require_contiguous()?;
        let layout = Layout::contiguous(self.dtype, shape)?;
        if layout.numel == self.numel {
            Ok(layout)
        } else {
            let (expected, actual) = (self.shape().to_vec(), shape.to_vec());
            Err(TensorError::ShapeMismatch { expected, actual })
        }
    }

    #[inline]
    pub(crate) fn require_contiguous(&self) -> Result<(), TensorError> {
        if self.is_contiguous() { Ok(()) } else { Err(self.not_contiguous()) }
    }

    /// What to say where gaps or an order of dimensions are in the way.
    #[cold]
    pub(crate) fn not_contiguous(&self) -> TensorError {
        let (shape, strides) = (self.shape().to_vec(), self.strides().to_vec());
        TensorError::NotContiguous { shape, strides }
    }

    pub(crate) fn require_dtype(&self, asked: DType) -> Result<(), TensorError> {
        let actual = self.dtype;
        if asked == actual { Ok(()) } else { Err(TensorError::DTypeMismatch { asked, actual }) }
    }

    pub(crate) fn require_no_overlap(&self) -> Result<(), TensorError> {
        if self.overlaps() {
            let (shape, strides) = (self.shape().to_vec(), self.strides().to_vec());
            Err(TensorError::Overlapping { shape, strides })
        } else {
            Ok(())
        }
    }

    /// That `given` bytes are exactly the elements (`needed == byte_len`).
    pub(crate) fn require_bytes(&self, given: usize) -> Result<(), TensorError> {
        let needed = self.byte_len();
        if given == needed { Ok(()) } else { Err(self.length_mismatch(needed, given)) }
    }

    pub(crate) fn length_mismatch(&self, needed: usize, given: usize) -> TensorError {
        TensorError::LengthMismatch {
            dtype: self.dtype,
            shape: self.shape().to_vec(),
            needed,
            given,
        }
    }

    /// The runs of neighbouring elements that make up the tensor, in row-major order of the indices.
    pub(crate) fn runs(&self) -> Runs {
        let mut runs = Runs {
            run: 1,
            outer: 0,
            extents: [0; MAX_DIMS],
            steps: [0; MAX_DIMS],
            at: [0; MAX_DIMS],
            offset: 0,
            left: 0,
        };
        if self.numel == 0 {
            return runs;
        }
        // The innermost dimensions that lie without gaps make one run.
        let mut outer = self.shape().len();
        while outer > 0 {
            let (extent, stride) = (self.shape()[outer - 1], self.strides()[outer - 1]);
            if extent != 1 && stride != runs.run {
                break;
            }
            runs.run *= extent;
            outer -= 1;
        }
        runs.outer = outer;
        runs.extents[..outer].copy_from_slice(&self.shape()[..outer]);
        runs.steps[..outer].copy_from_slice(&self.strides()[..outer]);
        runs.left = self.numel / runs.run;
        runs
    }
}

/// Iterates over the offsets (in elements) at which runs of [`run`](Self::run) elements start.
pub(crate) struct Runs {
    /// Elements of each run.
    pub(crate) run: usize,
    outer: usize,
    extents: [usize; MAX_DIMS],
    steps: [usize; MAX_DIMS],
    at: [usize; MAX_DIMS],
    offset: usize,
    left: usize,
}

impl Iterator for Runs {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let offset = self.offset;
        for dimension in (0..self.outer).rev() {
            self.at[dimension] += 1;
            // Wraps back below: the step of a dimension of extent 1 may be anything.
            self.offset = self.offset.wrapping_add(self.steps[dimension]);
            if self.at[dimension] < self.extents[dimension] {
                break;
            }
            let back = self.extents[dimension].wrapping_mul(self.steps[dimension]);
            self.offset = self.offset.wrapping_sub(back);
            self.at[dimension] = 0;
        }
        Some(offset)
    }
}

/// Elements of `dtype` that an allocation can hold at most.
fn bytes_max(dtype: DType) -> usize {
    isize::MAX as usize / dtype.size()
}

fn checked_numel(dtype: DType, shape: &Dims) -> Result<usize, TensorError> {
    let too_large = || TensorError::TooLarge { dtype, shape: shape.to_vec() };
    if shape.contains(&0) {
        return Ok(0);
    }
    let product = shape.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent));
    match product {
        Some(numel) if numel <= bytes_max(dtype) => Ok(numel),
        _ => Err(too_large()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strided(shape: &[usize], strides: &[usize]) -> Layout {
        Layout::strided(DType::F32, shape, strides).expect("a valid layout")
    }

    #[test]
    fn contiguous_strides_are_row_major() {
        let layout = Layout::contiguous(DType::F32, &[2, 3, 4]).expect("small");
        assert_eq!(layout.strides(), [12, 4, 1]);
        assert_eq!((layout.numel(), layout.byte_len(), layout.span_bytes()), (24, 96, 96));
        assert!(layout.is_contiguous() && layout.is_dense() && !layout.overlaps());
    }

    /// However they were made, so that they compare equal.
    #[test]
    fn slices_are_flat() {
        let slice = Layout::of_slice(&[0_f32; 3]);
        assert_eq!(slice, strided(&[3], &[1]));
        assert_eq!(slice, Layout::contiguous(DType::F32, &[3]).expect("small"));
        assert_eq!((slice.shape(), slice.strides()), (&[3][..], &[1][..]));
        assert!(slice.is_contiguous() && slice.is_dense() && !slice.overlaps());
        assert_ne!(slice, strided(&[3], &[2]));
        assert_ne!(slice, strided(&[1, 3], &[3, 1]));
    }

    #[test]
    fn a_scalar_has_one_element_and_an_empty_shape_none() {
        let scalar = Layout::contiguous(DType::F64, &[]).expect("small");
        assert_eq!((scalar.numel(), scalar.span_bytes()), (1, 8));
        assert_eq!(scalar.runs().collect::<Vec<_>>(), [0]);
        let empty = Layout::contiguous(DType::F64, &[usize::MAX, 0, 7]).expect("no elements");
        assert_eq!((empty.numel(), empty.span_bytes()), (0, 0));
        assert_eq!(empty.runs().count(), 0);
    }

    #[test]
    fn what_does_not_fit_the_address_space_is_refused() {
        let huge = Layout::contiguous(DType::F32, &[usize::MAX, 2]);
        assert!(matches!(huge, Err(TensorError::TooLarge { .. })));
        let huge = Layout::contiguous(DType::F64, &[isize::MAX as usize / 4]);
        assert!(matches!(huge, Err(TensorError::TooLarge { .. })));
        let huge = Layout::strided(DType::U8, &[2, 2], &[usize::MAX, usize::MAX]);
        assert!(matches!(huge, Err(TensorError::TooLarge { .. })));
        let many = Layout::contiguous(DType::U8, &[1; 9]);
        assert_eq!(many, Err(TensorError::TooManyDimensions { dimensions: 9, limit: 8 }));
        let few = Layout::strided(DType::U8, &[2, 2], &[1]);
        assert_eq!(few, Err(TensorError::StrideCount { strides: 1, dimensions: 2 }));
    }

    #[test]
    fn transposed_is_dense_but_not_contiguous() {
        let layout = strided(&[3, 2], &[1, 3]);
        assert!(layout.is_dense() && !layout.is_contiguous() && !layout.overlaps());
        assert_eq!(layout.runs().collect::<Vec<_>>(), [0, 3, 1, 4, 2, 5]);
    }

    #[test]
    fn gaps_and_broadcasts_are_told_apart() {
        let gaps = strided(&[2, 2], &[4, 1]);
        assert!(!gaps.is_dense() && !gaps.overlaps());
        assert_eq!((gaps.span_bytes(), gaps.byte_len()), (24, 16));
        let runs = gaps.runs();
        assert_eq!(runs.run, 2);
        assert_eq!(runs.collect::<Vec<_>>(), [0, 4]);
        let broadcast = strided(&[3, 2], &[0, 1]);
        assert!(broadcast.overlaps() && !broadcast.is_dense());
        assert_eq!(broadcast.span_bytes(), 8);
        assert_eq!(broadcast.runs().collect::<Vec<_>>(), [0, 0, 0]);
    }

    #[test]
    fn extents_of_one_do_not_matter() {
        let layout = strided(&[1, 3, 1], &[77, 1, 0]);
        assert!(layout.is_contiguous() && layout.is_dense());
        let runs = layout.runs();
        assert_eq!((runs.run, runs.collect::<Vec<_>>()), (3, vec![0]));
        let layout = strided(&[2, 1, 2, 2], &[16, usize::MAX, 4, 1]);
        assert_eq!(layout.runs().collect::<Vec<_>>(), [0, 4, 16, 20]);
    }
}
