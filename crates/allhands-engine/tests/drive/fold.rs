//! What a reduction means, element by element and without a trick. Shares nothing with the kernels.

use allhands_tensor::{DType, ReduceOp, bf16, f16};

/// Neighbours in pairs, level by level; an odd last one is carried up.
fn tree<T: Copy>(mut row: Vec<T>, combine: impl Fn(T, T) -> T) -> T {
    while row.len() > 1 {
        row = row
            .chunks(2)
            .map(|pair| if pair.len() == 2 { combine(pair[0], pair[1]) } else { pair[0] })
            .collect();
    }
    row[0]
}

macro_rules! float {
    ($T:ty, $bytes:expr, $op:expr) => {{
        let row: Vec<$T> =
            $bytes.iter().map(|b| <$T>::from_le_bytes((*b).try_into().unwrap())).collect();
        fold_float!($T, row, $op).to_le_bytes().to_vec()
    }};
}

macro_rules! fold_float {
    ($T:ty, $row:expr, $op:expr) => {
        match $op {
            ReduceOp::Sum | ReduceOp::Avg | ReduceOp::PremulSum(_) => tree($row, |a, b| a + b),
            ReduceOp::Product => tree($row, |a, b| a * b),
            // Zeros of both signs: -0 is less than +0.
            ReduceOp::Min => tree($row, |a, b| if a.total_cmp(&b).is_lt() { a } else { b }),
            ReduceOp::Max => tree($row, |a, b| if a.total_cmp(&b).is_gt() { a } else { b }),
            other => panic!("{other} of floats"),
        }
    };
}

macro_rules! half {
    ($T:ty, $bytes:expr, $op:expr) => {{
        let row: Vec<f32> =
            $bytes.iter().map(|b| <$T>::from_le_bytes((*b).try_into().unwrap()).to_f32()).collect();
        <$T>::from_f32(fold_float!(f32, row, $op)).to_le_bytes().to_vec()
    }};
}

macro_rules! integer {
    ($T:ty, $bytes:expr, $op:expr) => {{
        let row: Vec<$T> =
            $bytes.iter().map(|b| <$T>::from_le_bytes((*b).try_into().unwrap())).collect();
        let folded = match $op {
            ReduceOp::Sum => tree(row, <$T>::wrapping_add),
            ReduceOp::Product => tree(row, <$T>::wrapping_mul),
            ReduceOp::Min => tree(row, |a, b| a.min(b)),
            ReduceOp::Max => tree(row, |a, b| a.max(b)),
            ReduceOp::BitAnd => tree(row, |a, b| a & b),
            ReduceOp::BitOr => tree(row, |a, b| a | b),
            ReduceOp::BitXor => tree(row, |a, b| a ^ b),
            other => panic!("{other} of integers"),
        };
        folded.to_le_bytes().to_vec()
    }};
}

/// One element of each rank, in canonical order.
fn element(dtype: DType, op: ReduceOp, operands: &[&[u8]]) -> Vec<u8> {
    if let [only] = operands {
        return only.to_vec();
    }
    match dtype {
        DType::F32 => float!(f32, operands, op),
        DType::F64 => float!(f64, operands, op),
        DType::F16 => half!(f16, operands, op),
        DType::BF16 => half!(bf16, operands, op),
        DType::I8 => integer!(i8, operands, op),
        DType::U8 => integer!(u8, operands, op),
        DType::I16 => integer!(i16, operands, op),
        DType::U16 => integer!(u16, operands, op),
        DType::I32 => integer!(i32, operands, op),
        DType::U32 => integer!(u32, operands, op),
        DType::I64 => integer!(i64, operands, op),
        DType::U64 => integer!(u64, operands, op),
        other => panic!("{other} is not drawn"),
    }
}

/// One element times a factor, or divided by a number of ranks, rounded once.
fn map(
    dtype: DType,
    bytes: &[u8],
    single: impl Fn(f32) -> f32,
    double: impl Fn(f64) -> f64,
) -> Vec<u8> {
    match dtype {
        DType::F32 => single(f32::from_le_bytes(bytes.try_into().unwrap())).to_le_bytes().to_vec(),
        DType::F64 => double(f64::from_le_bytes(bytes.try_into().unwrap())).to_le_bytes().to_vec(),
        DType::F16 => {
            let wide = f16::from_le_bytes(bytes.try_into().unwrap()).to_f32();
            f16::from_f32(single(wide)).to_le_bytes().to_vec()
        }
        DType::BF16 => {
            let wide = bf16::from_le_bytes(bytes.try_into().unwrap()).to_f32();
            bf16::from_f32(single(wide)).to_le_bytes().to_vec()
        }
        other => panic!("{other} is no float"),
    }
}

/// What each rank does to its own operand first.
pub fn prepare(dtype: DType, op: ReduceOp, bytes: &[u8]) -> Vec<u8> {
    let ReduceOp::PremulSum(factor) = op else { return bytes.to_vec() };
    bytes
        .chunks(dtype.size())
        .flat_map(|e| map(dtype, e, |x| x * factor as f32, |x| x * factor))
        .collect()
}

/// The reduction of all ranks' bytes.
pub fn reduce(dtype: DType, op: ReduceOp, ranks: &[Vec<u8>]) -> Vec<u8> {
    let size = dtype.size();
    let prepared: Vec<Vec<u8>> = ranks.iter().map(|bytes| prepare(dtype, op, bytes)).collect();
    (0..prepared[0].len() / size)
        .flat_map(|at| {
            let operands: Vec<&[u8]> = prepared.iter().map(|b| &b[at * size..][..size]).collect();
            let folded = element(dtype, op, &operands);
            if op == ReduceOp::Avg {
                let world = ranks.len();
                map(dtype, &folded, |x| x / world as f32, |x| x / world as f64)
            } else {
                folded
            }
        })
        .collect()
}
