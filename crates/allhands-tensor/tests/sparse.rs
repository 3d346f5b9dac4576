//! Sparse tensors against a naive dense sum, and what is refused.
#![allow(missing_docs, reason = "test code")]

use std::collections::BTreeMap;

use allhands_tensor::sparse::{POSITIONS_MAX, fill_neutral};
use allhands_tensor::{
    Bool, DType, Element, Kernel, Merge, ReduceOp, RowAdder, SparseError, SparseLayout, SparseRows,
    SparseTensor, Tensor, bf16, f16,
};

/// Numbers that follow from a seed.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

fn tensor<T: Element>(
    indices: Vec<i64>,
    values: Vec<T>,
    shape: &[usize],
    sparse_dim: usize,
) -> Result<SparseTensor, SparseError> {
    let rows = indices.len() / sparse_dim;
    let mut value_shape = vec![rows];
    value_shape.extend_from_slice(&shape[sparse_dim..]);
    let indices = Tensor::from_vec(indices).with_shape(&[sparse_dim, rows])?;
    SparseTensor::new(indices, Tensor::from_vec(values).with_shape(&value_shape)?, shape)
}

/// The rows of each key, in the order in which they stand.
fn rows_by_key(sparse: &SparseTensor) -> BTreeMap<u64, Vec<Vec<u8>>> {
    let layout = sparse.layout();
    let rows = sparse.rows();
    let indices = sparse.indices().to_vec::<i64>().unwrap();
    let values = sparse.values();
    let bytes = values.as_bytes().unwrap();
    let mut found: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
    for row in 0..rows {
        let coordinate = |d: usize| indices[d * rows + row] as u64;
        let extents = layout.sparse_shape().iter().enumerate();
        let key = extents.fold(0, |key, (d, &extent)| key * extent as u64 + coordinate(d));
        let of_row = bytes[row * layout.row_bytes()..][..layout.row_bytes()].to_vec();
        found.entry(key).or_default().push(of_row);
    }
    found
}

fn add(dtype: DType, rows: &[&[u8]]) -> Vec<u8> {
    let mut sum = vec![0; rows[0].len()];
    Kernel::new(dtype, ReduceOp::Sum).unwrap().reduce(&mut sum, None, rows);
    sum
}

/// The canonical sum over all sources, where those that have no row count as nothing.
fn add_all(dtype: DType, rows: &[Option<Vec<u8>>]) -> Vec<u8> {
    let there: Vec<&Vec<u8>> = rows.iter().flatten().collect();
    let [only] = there[..] else {
        let mut nothing = vec![0; there[0].len()];
        fill_neutral(dtype, &mut nothing);
        let all: Vec<&[u8]> = rows.iter().map(|row| row.as_deref().unwrap_or(&nothing)).collect();
        return add(dtype, &all);
    };
    only.clone()
}

fn random<T: Element>(
    rng: &mut Rng,
    shape: &[usize],
    sparse_dim: usize,
    rows: usize,
    of: impl Fn(usize) -> T,
) -> SparseTensor {
    let indices = (0..sparse_dim)
        .flat_map(|d| (0..rows).map(|_| rng.below(shape[d]) as i64).collect::<Vec<_>>())
        .collect();
    let elements: usize = shape[sparse_dim..].iter().product();
    let values = (0..rows * elements).map(|_| of(rng.below(2000))).collect();
    tensor(indices, values, shape, sparse_dim).unwrap()
}

const SHAPES: &[(&[usize], usize)] = &[
    (&[10], 1),
    (&[7, 3], 1),
    (&[4, 5], 2),
    (&[3, 4, 2], 2),
    (&[40, 17], 1),
    (&[5, 0], 1),
    (&[2, 3, 4], 3),
    (&[3000, 2], 1),
];

fn check<T: Element>(of: impl Fn(usize) -> T + Copy) {
    for seed in 0..60 {
        let mut rng = Rng(seed);
        let &(shape, sparse_dim) = &SHAPES[rng.below(SHAPES.len())];
        let sources = 1 + rng.below(9);
        let tensors: Vec<SparseTensor> = (0..sources)
            .map(|_| {
                let rows = [0, 1, 5, 30, 600][rng.below(5)];
                random(&mut rng, shape, sparse_dim, rows, of)
            })
            .collect();
        let layout = tensors[0].layout().clone();
        let dtype = T::DTYPE;
        // Each by itself.
        let local: Vec<BTreeMap<u64, Vec<u8>>> = tensors
            .iter()
            .map(|tensor| {
                let sum = |rows: Vec<Vec<u8>>| match &rows[..] {
                    [only] => only.clone(),
                    several => add(dtype, &several.iter().map(Vec::as_slice).collect::<Vec<_>>()),
                };
                rows_by_key(tensor).into_iter().map(|(key, rows)| (key, sum(rows))).collect()
            })
            .collect();
        let coalesced: Vec<SparseTensor> =
            tensors.iter().map(|tensor| tensor.duplicate().coalesce().unwrap()).collect();
        for (sum, expected) in coalesced.iter().zip(&local) {
            assert!(sum.is_coalesced(), "seed {seed}");
            let found: BTreeMap<u64, Vec<u8>> =
                rows_by_key(sum).into_iter().map(|(key, mut rows)| (key, rows.remove(0))).collect();
            assert_eq!(&found, expected, "seed {seed}");
            let keys: Vec<u64> = expected.keys().copied().collect();
            assert_eq!(sum.order().keys(), keys, "seed {seed}");
        }
        // All together.
        let keys: Vec<Vec<u64>> = coalesced.iter().map(|sum| sum.order().keys().to_vec()).collect();
        let merge = Merge::of(&keys);
        let mut all = SparseRows::new(layout.clone(), merge.keys().len(), None).unwrap();
        all.set_keys(merge.keys().iter().copied()).unwrap();
        let row = layout.row_bytes();
        let mut adder = RowAdder::new(dtype, row, sources);
        let (mut at, mut written) = (0, 0);
        let mut counts = vec![0; sources];
        let mut begun = vec![0; sources];
        while at < merge.len() {
            let end = merge.part(at, 1 + rng.below(50), &mut counts);
            let values: Vec<_> = coalesced.iter().map(|sum| sum.values()).collect();
            let rows: Vec<&[u8]> = values
                .iter()
                .zip(&begun)
                .map(|(values, begun)| &values.as_bytes().unwrap()[begun * row..])
                .collect();
            written += adder.add(&merge, at..end, &rows, &mut all.values_mut()[written * row..]);
            begun.iter_mut().zip(&counts).for_each(|(begun, count)| *begun += count);
            at = end;
        }
        assert_eq!(written, merge.keys().len(), "seed {seed}");
        let all = all.finish();
        let mut expected: BTreeMap<u64, Vec<Option<Vec<u8>>>> = BTreeMap::new();
        for (source, rows) in local.iter().enumerate() {
            for (key, row) in rows {
                expected.entry(*key).or_insert_with(|| vec![None; sources])[source] =
                    Some(row.clone());
            }
        }
        let expected: BTreeMap<u64, Vec<Vec<u8>>> =
            expected.into_iter().map(|(key, rows)| (key, vec![add_all(dtype, &rows)])).collect();
        assert_eq!(rows_by_key(&all), expected, "seed {seed}: {sources} of {shape:?}");
    }
}

#[test]
fn sums_are_those_of_a_naive_oracle_for_every_kind_of_element() {
    check(|n| n as f32 / 7.0 - 100.0);
    check(|n| n as f64 / 3.0 - 300.0);
    check(|n| f16::from_f32(n as f32 / 9.0 - 100.0));
    check(|n| bf16::from_f32(n as f32 / 9.0 - 100.0));
    check(|n| n as i32 - 1000);
    check(|n| n as u8);
    check(|n| Bool(u8::from(n % 2 == 0)));
}

#[test]
fn dense_is_what_the_rows_add_up_to() {
    for seed in 0..40 {
        let mut rng = Rng(seed);
        let &(shape, sparse_dim) = &SHAPES[rng.below(SHAPES.len())];
        let rows = rng.below(40);
        let sparse = random(&mut rng, shape, sparse_dim, rows, |n| n as i64);
        let dense = sparse.to_dense().unwrap();
        assert_eq!(dense.shape(), shape);
        let mut naive = vec![0_i64; shape.iter().product()];
        let row = sparse.layout().row_len();
        for (key, rows) in rows_by_key(&sparse) {
            for bytes in rows {
                for (at, element) in bytes.chunks_exact(8).enumerate() {
                    naive[key as usize * row + at] +=
                        i64::from_ne_bytes(element.try_into().unwrap());
                }
            }
        }
        assert_eq!(dense.to_vec::<i64>().unwrap(), naive, "seed {seed}");
    }
}

#[test]
fn rows_that_occur_once_keep_their_bits() {
    let odd = [f32::from_bits(0xFFC1_2345), -0.0, f32::from_bits(1)];
    let sum = tensor(vec![2, 0, 1], odd.to_vec(), &[3], 1).unwrap().coalesce().unwrap();
    let bits: Vec<u32> =
        sum.values().to_vec::<f32>().unwrap().iter().map(|x| x.to_bits()).collect();
    assert_eq!(bits, [0x8000_0000, 1, 0xFFC1_2345]);
    let keys = [vec![1_u64], vec![], vec![]];
    let (merge, mut out) = (Merge::of(&keys), [0_u8; 4]);
    let rows: [&[u8]; 3] = [&0xFFC1_2345_u32.to_ne_bytes(), &[], &[]];
    RowAdder::new(DType::F32, 4, 3).add(&merge, 0..1, &rows, &mut out);
    assert_eq!(u32::from_ne_bytes(out), 0xFFC1_2345);
}

#[test]
fn many_duplicates_of_one_position_are_added_in_parts() {
    let rows = (1 << 16) + 3;
    let sparse = tensor(vec![0; rows], vec![1_i32; rows], &[2], 1).unwrap();
    assert_eq!(sparse.coalesce().unwrap().values().to_vec::<i32>().unwrap(), [rows as i32]);
}

#[test]
fn whether_a_tensor_is_coalesced_is_seen() {
    let of = |indices: Vec<i64>, shape: &[usize], sparse_dim| {
        let rows = indices.len() / sparse_dim;
        tensor(indices, vec![0_u8; rows], shape, sparse_dim).unwrap().is_coalesced()
    };
    assert!(of(vec![], &[3], 1) && of(vec![0, 1, 2], &[3], 1));
    assert!(!of(vec![0, 0], &[3], 1) && !of(vec![1, 0], &[3], 1));
    // Columns (0, 2), (1, 0) rise, (1, 0), (0, 2) do not.
    assert!(of(vec![0, 1, 2, 0], &[2, 3], 2) && !of(vec![1, 0, 0, 2], &[2, 3], 2));
    assert!(SparseTensor::empty(DType::F32, &[3, 2], 1).unwrap().is_coalesced());
}

#[test]
fn memory_is_used_again_where_it_suffices() {
    let layout = SparseLayout::new(DType::F32, &[100, 4], 1).unwrap();
    let mut rows = SparseRows::new(layout.clone(), 50, None).unwrap();
    rows.set_keys(0..50).unwrap();
    let start = rows.values_mut().as_ptr();
    let whole = rows.finish();
    let mut part = SparseRows::new(layout.clone(), 20, Some(whole)).unwrap();
    part.set_keys((0..20).map(|key| key * 5)).unwrap();
    assert_eq!((part.values_mut().as_ptr(), part.values_mut().len()), (start, 20 * 16));
    let part = part.finish();
    assert_eq!((part.rows(), part.values().shape()), (20, &[20, 4][..]));
    assert_eq!(part.indices().to_vec::<i64>().unwrap()[19], 95);
    // Another type, and back to all of it.
    let bytes = SparseLayout::new(DType::F64, &[100], 1).unwrap();
    let mut wide = SparseRows::new(bytes, 50, Some(part)).unwrap();
    assert_eq!((wide.values_mut().as_ptr(), wide.values_mut().len()), (start, 400));
    wide.set_keys(0..50).unwrap();
    let mut more = SparseRows::new(layout, 90, Some(wide.finish())).unwrap();
    assert_eq!(more.values_mut().len(), 90 * 16);
}

#[test]
fn large_zeros_are_aligned_and_zero() {
    for len in [(1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20] {
        let mut tensor = Tensor::zeros(DType::U8, &[len]);
        let bytes = tensor.as_bytes_mut().unwrap();
        assert!(bytes.as_ptr().addr().is_multiple_of(allhands_tensor::ALIGNMENT));
        assert!(bytes.len() == len && bytes.iter().all(|&byte| byte == 0));
        bytes.fill(7);
    }
}

#[test]
fn what_cannot_be_is_refused_with_a_reason() {
    let said = |made: Result<SparseTensor, SparseError>| made.unwrap_err().to_string();
    let one = |index: i64| tensor(vec![0, index], vec![0.0f32; 2], &[3], 1);
    assert_eq!(said(one(-1)), "index -1 of row 1 in dimension 0 is negative; indices count from 0");
    assert_eq!(
        said(one(3)),
        "index 3 of row 1 in dimension 0 is beyond the 3 entries of that dimension"
    );
    assert!(matches!(one(i64::MIN), Err(SparseError::Negative { .. })));
    assert!(matches!(one(i64::MAX), Err(SparseError::OutOfRange { .. })));
    assert!(matches!(tensor(vec![0], vec![0_u8], &[0], 1), Err(SparseError::OutOfRange { .. })));
    let made = |indices: Tensor, values: Tensor, shape: &[usize]| {
        SparseTensor::new(indices, values, shape)
    };
    let indices = || Tensor::zeros(DType::I64, &[1, 2]);
    assert!(matches!(
        made(Tensor::zeros(DType::I32, &[1, 2]), Tensor::zeros(DType::F32, &[2]), &[3]),
        Err(SparseError::IndexType { actual: DType::I32 })
    ));
    assert!(matches!(
        made(Tensor::zeros(DType::I64, &[2]), Tensor::zeros(DType::F32, &[2]), &[3]),
        Err(SparseError::IndexShape { .. })
    ));
    assert_eq!(
        said(made(indices(), Tensor::zeros(DType::F32, &[2, 4]), &[3, 5])),
        "the values have shape [2, 4], but [2, 5] is needed: a row for each column of the indices"
    );
    assert!(matches!(
        made(Tensor::zeros(DType::I64, &[2, 1]), Tensor::zeros(DType::F32, &[1]), &[3]),
        Err(SparseError::SparseDimensions { sparse_dim: 2, dimensions: 1 })
    ));
    assert!(matches!(
        SparseLayout::new(DType::F32, &[3], 0),
        Err(SparseError::SparseDimensions { .. })
    ));
    let huge = SparseLayout::new(DType::F32, &[usize::MAX, 3], 2);
    assert!(matches!(huge, Err(SparseError::TooManyPositions { limit: POSITIONS_MAX, .. })));
    assert!(
        SparseLayout::new(DType::F32, &[usize::MAX, 0], 2)
            .is_ok_and(|empty| empty.positions() == 0)
    );
    assert!(matches!(SparseLayout::new(DType::F32, &[1; 9], 1), Err(SparseError::Tensor(_))));
    assert!(matches!(
        SparseLayout::new(DType::F32, &[2, usize::MAX], 1),
        Err(SparseError::Tensor(_))
    ));
    // A table that is larger than the address space is as good as any.
    let vast = tensor(vec![5], vec![0.0f32; 4], &[1 << 62, 4], 1).unwrap();
    assert!(vast.to_dense().is_err());
    let layout = SparseLayout::new(DType::U8, &[9], 1).unwrap();
    for keys in [&[1, 1][..], &[2, 1], &[1, 9], &[1], &[1, 2, 3]] {
        let mut rows = SparseRows::new(layout.clone(), 2, None).unwrap();
        let refused = rows.set_keys(keys.iter().copied());
        assert!(matches!(refused, Err(SparseError::Keys { .. })), "{keys:?}");
    }
}
