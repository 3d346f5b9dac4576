//! Tensors and ndarray arrays.
#![cfg(feature = "ndarray")]

use allhands_tensor::{DType, Tensor, TensorError, TensorMut, TensorRef};
use ndarray::{Array1, Array2, Array3, ArrayD, Axis, array, s};

#[test]
fn a_standard_array_becomes_a_tensor_without_a_copy() {
    let array = array![[1.0f64, 2.0], [3.0, 4.0], [5.0, 6.0]];
    let address = array.as_ptr().addr();
    let tensor = Tensor::from(array);
    assert_eq!((tensor.dtype(), tensor.shape()), (DType::F64, &[3, 2][..]));
    assert_eq!(tensor.as_bytes().expect("contiguous").as_ptr().addr(), address);
    assert_eq!(tensor.to_vec::<f64>(), Ok(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
}

#[test]
fn other_layouts_and_slices_of_larger_arrays_are_packed() {
    let array = Array2::from_shape_fn((4, 3), |(i, j)| (i * 3 + j) as i32);
    let tensor = Tensor::from(array.clone().reversed_axes());
    assert_eq!(tensor.shape(), [3, 4]);
    assert_eq!(tensor.to_vec::<i32>(), Ok(vec![0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]));
    let tail = array.slice_move(s![2.., ..]);
    assert_eq!(Tensor::from(tail).to_vec::<i32>(), Ok(vec![6, 7, 8, 9, 10, 11]));
}

#[test]
fn views_share_memory_and_strides() {
    let mut array = Array3::<f32>::zeros((2, 3, 4));
    let mut middle = TensorMut::try_from(array.index_axis_mut(Axis(1), 1)).expect("no overlap");
    assert_eq!((middle.shape(), middle.strides()), (&[2, 4][..], &[12, 1][..]));
    let ones = Tensor::from_slice(&[1.0f32; 8]).with_shape(&[2, 4]).expect("eight");
    middle.copy_from(&ones.view()).expect("same shape");
    assert_eq!(array.sum(), 8.0);
    assert_eq!(array.index_axis(Axis(1), 1).sum(), 8.0);
}

#[test]
fn halves_of_one_array_are_written_from_two_threads() {
    let mut array = Array2::<u16>::zeros((64, 64));
    let (left, right) = array.view_mut().split_at(Axis(1), 32);
    std::thread::scope(|scope| {
        for (value, half) in [(1u16, left), (2, right)] {
            scope.spawn(move || {
                // The two views interleave in memory: rows of one lie in the gaps of the other.
                let mut view = TensorMut::try_from(half).expect("no overlap");
                view.unpack(bytemuck::cast_slice(&vec![value; 64 * 32]));
                assert_eq!(view.as_ref().to_vec::<u16>(), Ok(vec![value; 64 * 32]));
            });
        }
    });
    assert_eq!(array.sum(), 64 * 32 * 3);
}

#[test]
fn backward_views_are_refused() {
    let array = array![1u8, 2, 3];
    let error = TensorRef::try_from(array.slice(s![..;-1])).expect_err("backwards");
    assert_eq!(error, TensorError::NegativeStride { dimension: 0, stride: -1 });
    let single = array.slice(s![..1;-1]);
    assert!(TensorRef::try_from(single).is_ok(), "one element has no direction");
}

#[test]
fn broadcast_views_are_read_and_empty_ones_have_nothing() {
    let row = array![1i64, 2];
    let broadcast = row.broadcast((3, 2)).expect("fits");
    let view = TensorRef::try_from(broadcast).expect("reading twice is fine");
    assert_eq!(view.to_vec::<i64>(), Ok(vec![1, 2, 1, 2, 1, 2]));
    let empty = Array2::<i64>::zeros((0, 3));
    assert_eq!(TensorRef::try_from(&empty).expect("empty").numel(), 0);
}

#[test]
fn tensors_become_arrays() {
    let mut tensor = Tensor::from_vec(vec![1u32, 2, 3, 4, 5, 6]).with_shape(&[2, 3]).expect("six");
    tensor.view_mut().as_ndarray_mut::<u32>().expect("u32")[[1, 2]] = 60;
    let view = tensor.view();
    let expected: ArrayD<u32> = array![[1, 2, 3], [4, 5, 60]].into_dyn();
    assert_eq!(view.as_ndarray::<u32>().expect("u32"), expected.view());
    assert_eq!(view.to_ndarray::<u32>().expect("u32"), expected);
    assert!(view.as_ndarray::<i32>().is_err());

    let column_major = Tensor::zeros_strided(DType::F32, &[2, 3], &[1, 2]).expect("dense");
    assert_eq!(column_major.view().as_ndarray::<f32>().expect("f32").shape(), [2, 3]);
    let vector: Array1<u32> = Tensor::from_vec(vec![7u32])
        .view()
        .to_ndarray()
        .expect("u32")
        .into_dimensionality()
        .expect("1-D");
    assert_eq!(vector, array![7]);
}
