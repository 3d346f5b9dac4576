//! Tensors and their views.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use allhands_tensor::{
    ALIGNMENT, Bool, DType, Element, Tensor, TensorError, TensorMut, TensorRef, bf16, f16,
};
use proptest::prelude::*;

fn assert_send_sync<T: Send + Sync>() {}

#[test]
fn values_cross_threads() {
    assert_send_sync::<Tensor>();
    assert_send_sync::<TensorRef<'_>>();
    assert_send_sync::<TensorMut<'_>>();
    let tensor = Tensor::from_slice(&[1u64, 2, 3]);
    let back = std::thread::spawn(move || tensor).join().expect("no panic");
    assert_eq!(back.as_slice::<u64>(), Ok(&[1u64, 2, 3][..]));
}

#[test]
fn fresh_tensors_are_zero_and_aligned() {
    for dtype in DType::ALL {
        for shape in [&[][..], &[0], &[1], &[3, 0, 2], &[5, 7], &[1000]] {
            let tensor = Tensor::zeros(dtype, shape);
            assert_eq!((tensor.dtype(), tensor.shape()), (dtype, shape));
            assert_eq!(tensor.numel(), shape.iter().product::<usize>());
            let bytes = tensor.as_bytes().expect("contiguous");
            assert_eq!(bytes.len(), tensor.numel() * dtype.size());
            assert!(bytes.iter().all(|&byte| byte == 0));
            assert_eq!(bytes.as_ptr().addr() % ALIGNMENT, 0);
        }
    }
}

fn round_trip<T: Element>(values: &[T]) {
    let copied = Tensor::from_slice(values);
    let moved = Tensor::from_vec(values.to_vec());
    for tensor in [&copied, &moved, &copied.duplicate()] {
        assert_eq!((tensor.dtype(), tensor.shape()), (T::DTYPE, &[values.len()][..]));
        assert_eq!(tensor.as_slice::<T>(), Ok(values));
        assert_eq!(tensor.to_vec::<T>().as_deref(), Ok(values));
        let bytes = bytemuck::cast_slice::<T, u8>(values);
        assert_eq!(tensor.as_bytes(), Ok(bytes));
        let again = Tensor::from_bytes(T::DTYPE, &[values.len()], bytes).expect("as many bytes");
        assert_eq!(again.as_slice::<T>(), Ok(values));
    }
}

#[test]
fn every_element_type_goes_in_and_comes_out() {
    round_trip(&[1.0f32, -2.5, 0.0]);
    round_trip(&[1.0f64, -2.5, 0.0]);
    round_trip(&[f16::from_f32(1.0), f16::from_f32(-2.5)]);
    round_trip(&[bf16::from_f32(1.0), bf16::from_f32(-2.5)]);
    round_trip(&[i8::MIN, i8::MAX]);
    round_trip(&[u8::MIN, u8::MAX]);
    round_trip(&[i16::MIN, i16::MAX]);
    round_trip(&[u16::MIN, u16::MAX]);
    round_trip(&[i32::MIN, i32::MAX]);
    round_trip(&[u32::MIN, u32::MAX]);
    round_trip(&[i64::MIN, i64::MAX]);
    round_trip(&[u64::MIN, u64::MAX]);
    round_trip(&[Bool(0), Bool(1), Bool(7)]);
    round_trip::<f32>(&[]);
}

#[test]
fn a_vector_is_taken_over_without_a_copy() {
    let mut values = Vec::with_capacity(100);
    values.extend([1i16, 2, 3]);
    let address = values.as_ptr().addr();
    let mut tensor = Tensor::from_vec(values);
    assert_eq!(tensor.as_bytes().expect("contiguous").as_ptr().addr(), address);
    tensor.as_mut_slice::<i16>().expect("i16")[1] = 20;
    assert_eq!(tensor.to_vec::<i16>(), Ok(vec![1, 20, 3]));
}

#[test]
fn misreadings_are_errors_that_say_what_is_there() {
    let tensor = Tensor::zeros(DType::F32, &[2, 2]);
    let error = tensor.as_slice::<i32>().expect_err("floats");
    assert_eq!(
        error.to_string(),
        "the tensor holds f32, but was read as i32; match on dtype() first"
    );
    let error = Tensor::from_bytes(DType::F64, &[3], &[0; 20]).expect_err("too few");
    assert_eq!(error.to_string(), "shape [3] of f64 needs 24 bytes, but 20 were given");
    let error = tensor.with_shape(&[3]).expect_err("four elements");
    assert_eq!(error.to_string(), "shape [3] does not match shape [2, 2]");
    let error = Tensor::try_zeros(DType::U8, &[1; 9]).expect_err("nine dimensions");
    assert_eq!(error.to_string(), "9 dimensions are more than 8; merge some of them");
    let bytes = [0u8; 16];
    let odd = bytes.as_ptr().align_offset(4) + 1;
    let error = TensorRef::from_bytes(DType::F32, &[1], &bytes[odd..odd + 4]).expect_err("odd");
    assert!(matches!(error, TensorError::Misaligned { dtype: DType::F32, needed: 4, .. }));
}

#[test]
fn strides_that_leave_or_repeat_memory_are_refused() {
    let mut values = [0u32; 6];
    let error = TensorRef::strided(&values, &[2, 3], &[4, 1]).expect_err("reaches element 6");
    assert_eq!(error.to_string(), "shape [2, 3] of u32 needs 28 bytes, but 24 were given");
    assert!(TensorRef::strided(&values, &[2, 3], &[0, 1]).is_ok(), "reading twice is fine");
    let error = TensorMut::strided(&mut values, &[2, 3], &[0, 1]).expect_err("writing is not");
    assert!(matches!(error, TensorError::Overlapping { .. }));
    let error = Tensor::zeros_strided(DType::U8, &[2, 2], &[1, 1]).expect_err("overlap");
    assert!(matches!(error, TensorError::Overlapping { .. }));
}

#[test]
fn a_column_major_tensor_is_dense_and_keeps_its_order() {
    let mut tensor = Tensor::zeros_strided(DType::I32, &[2, 3], &[1, 2]).expect("dense");
    assert!(tensor.is_dense() && !tensor.is_contiguous());
    let packed = Tensor::from_vec(vec![1, 2, 3, 4, 5, 6]).with_shape(&[2, 3]).expect("six");
    tensor.view_mut().copy_from(&packed.view()).expect("same shape");
    let memory = [1, 4, 2, 5, 3, 6];
    assert_eq!(tensor.view().dense_bytes(), Ok(bytemuck::cast_slice::<i32, u8>(&memory)));
    assert_eq!(tensor.to_vec::<i32>(), Ok(vec![1, 2, 3, 4, 5, 6]));
    let error = tensor.as_bytes().expect_err("not row-major");
    assert!(matches!(error, TensorError::NotContiguous { .. }));
    let contiguous = tensor.contiguous();
    assert_eq!(contiguous.as_slice::<i32>(), Ok(&[1, 2, 3, 4, 5, 6][..]));
    assert_eq!(contiguous.strides(), [3, 1]);
}

#[test]
fn writing_through_strides_leaves_the_gaps_alone() {
    let mut values = [9u16; 12];
    let mut view = TensorMut::strided(&mut values, &[3, 2], &[4, 1]).expect("within");
    view.copy_from(&TensorRef::shaped(&[1u16, 2, 3, 4, 5, 6], &[3, 2]).expect("six"))
        .expect("same");
    assert_eq!(values, [1, 2, 9, 9, 3, 4, 9, 9, 5, 6, 9, 9]);
}

#[test]
fn copies_need_equal_dtypes_and_shapes() {
    let mut tensor = Tensor::zeros(DType::F32, &[4]);
    let error = tensor.view_mut().copy_from(&TensorRef::from(&[1.0f32; 3])).expect_err("shorter");
    assert_eq!(error.to_string(), "shape [3] does not match shape [4]");
    let error = tensor.view_mut().copy_from(&TensorRef::from(&[1u32; 4])).expect_err("integers");
    assert!(matches!(error, TensorError::DTypeMismatch { .. }));
}

/// Counts its drops and owns the memory of a tensor.
struct Owner {
    drops: Arc<AtomicUsize>,
    _memory: Box<[u32]>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.drops.fetch_add(1, Ordering::Relaxed);
    }
}

fn foreign(shape: &[usize]) -> (Result<Tensor, TensorError>, Arc<AtomicUsize>) {
    let mut memory = vec![7u32; 6].into_boxed_slice();
    let drops = Arc::new(AtomicUsize::new(0));
    let start = NonNull::from(&mut *memory).cast();
    let owner = Owner { drops: Arc::clone(&drops), _memory: memory };
    // SAFETY: The owner keeps the box alive, and nobody else has the pointer.
    let tensor = unsafe { Tensor::from_foreign(DType::U32, shape, start, 24, owner) };
    (tensor, drops)
}

#[test]
fn foreign_memory_lives_until_its_tensor_is_dropped() {
    let (tensor, drops) = foreign(&[2, 3]);
    let mut tensor = tensor.expect("fits");
    tensor.as_mut_slice::<u32>().expect("u32")[5] = 8;
    let tensor = std::thread::spawn(move || tensor).join().expect("no panic");
    assert_eq!(tensor.to_vec::<u32>(), Ok(vec![7, 7, 7, 7, 7, 8]));
    assert_eq!(drops.load(Ordering::Relaxed), 0);
    drop(tensor);
    assert_eq!(drops.load(Ordering::Relaxed), 1);
}

#[test]
fn foreign_memory_that_is_too_short_is_refused_and_released() {
    let (tensor, drops) = foreign(&[7]);
    assert!(matches!(tensor, Err(TensorError::LengthMismatch { needed: 28, given: 24, .. })));
    assert_eq!(drops.load(Ordering::Relaxed), 1);
}

#[test]
fn slices_arrays_and_vectors_are_views() {
    let mut vector = vec![1i64, 2];
    let mut array = [3i64, 4];
    for view in [TensorMut::from(&mut vector), TensorMut::from(&mut array)] {
        assert_eq!((view.dtype(), view.numel()), (DType::I64, 2));
        view.into_bytes().expect("contiguous").fill(0);
    }
    assert_eq!((vector, array), (vec![0, 0], [0, 0]));
}

proptest! {
    /// Any permutation and widening of strides packs to the same values as index arithmetic.
    #[test]
    fn packing_follows_the_indices(
        shape in prop::collection::vec(0usize..5, 0..5),
        order in any::<u64>(),
        gap in 0usize..3,
    ) {
        let mut strides = vec![0; shape.len()];
        let mut step = 1 + gap;
        let mut left: Vec<usize> = (0..shape.len()).collect();
        let mut order = order;
        while !left.is_empty() {
            let dimension = left.swap_remove(order as usize % left.len());
            order /= 7;
            strides[dimension] = step;
            step = step * shape[dimension].max(1) + gap;
        }
        let values: Vec<u16> = (0..step as u16 + 1).collect();
        let view = TensorRef::strided(&values, &shape, &strides).expect("within the values");
        let mut expected = Vec::new();
        for linear in 0..shape.iter().product() {
            let mut rest = linear;
            let mut offset = 0;
            for dimension in (0..shape.len()).rev() {
                offset += rest % shape[dimension] * strides[dimension];
                rest /= shape[dimension];
            }
            expected.push(values[offset]);
        }
        prop_assert_eq!(view.to_vec::<u16>(), Ok(expected.clone()));
        prop_assert_eq!(view.to_tensor().to_vec::<u16>(), Ok(expected.clone()));

        let mut target = vec![u16::MAX; values.len()];
        let mut view = TensorMut::strided(&mut target, &shape, &strides).expect("no overlap");
        view.unpack(bytemuck::cast_slice(&expected));
        prop_assert_eq!(view.as_ref().to_vec::<u16>(), Ok(expected.clone()));
        let written = target.iter().filter(|&&value| value != u16::MAX).count();
        prop_assert_eq!(written, expected.len(), "gaps were written");
    }
}
