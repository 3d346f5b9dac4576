//! In which order rows stand once they are coalesced, and how they are brought there.

use std::ops::Range;

use super::SparseTensor;
use crate::{Kernel, ReduceOp};

/// Rows up to which the standard library sorts; above, counting digits is faster.
const COUNT_FROM: usize = 256;

/// Bits of a digit: its counts stay in the first-level cache.
const DIGIT: u32 = 11;

/// Rows of a position that are added in one call of the kernel; more are added to their sum.
const DUPLICATES_AT_ONCE: usize = 1 << 16;

/// Whether each number is more than the one before.
pub(super) fn is_rising(keys: &[u64]) -> bool {
    keys.windows(2).all(|pair| pair[0] < pair[1])
}

/// The order of a tensor's rows once it is coalesced: the positions that occur, rising, and which rows belong to each. The
/// values stay where they are until they are asked for.
///
/// ```
/// use allhands_tensor::{SparseTensor, Tensor};
///
/// let indices = Tensor::from_vec(vec![3_i64, 1, 3]).with_shape(&[1, 3])?;
/// let tensor = SparseTensor::new(indices, Tensor::from_vec(vec![1_u8, 2, 4]), &[5])?;
/// let order = tensor.order();
/// assert_eq!(order.keys(), [1, 3]);
/// let mut sum = [0];
/// order.pack(&tensor, 1..2, &mut sum);
/// assert_eq!(sum, [5]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct RowOrder {
    keys: Vec<u64>,
    /// Where the rows of a coalesced tensor are not.
    moves: Option<Moves>,
}

/// Which rows belong to each key.
#[derive(Clone, Debug)]
struct Moves {
    /// Rows in the order of their keys; those of one key in the order in which they stand.
    rows: Vec<u32>,
    /// Where the rows of each key begin, and where those of the last end.
    starts: Vec<u32>,
}

impl RowOrder {
    pub(super) fn of(tensor: &SparseTensor) -> Self {
        let keys = tensor.keys();
        if tensor.is_coalesced() {
            return Self { keys, moves: None };
        }
        let most = tensor.layout().positions().saturating_sub(1);
        let (sorted, rows) = sort(keys, most);
        let mut keys = Vec::with_capacity(sorted.len());
        let mut starts = Vec::with_capacity(sorted.len() + 1);
        for (row, key) in sorted.into_iter().enumerate() {
            if keys.last() != Some(&key) {
                keys.push(key);
                starts.push(row as u32);
            }
        }
        starts.push(rows.len() as u32);
        Self { keys, moves: Some(Moves { rows, starts }) }
    }

    /// The key of each position that occurs, rising.
    #[must_use]
    pub fn keys(&self) -> &[u64] {
        &self.keys
    }

    /// Writes the coalesced rows `range` of the tensor that this is the order of, one after the other.
    ///
    /// # Panics
    /// If there are fewer rows, or `out` does not have their bytes.
    pub fn pack(&self, tensor: &SparseTensor, range: Range<usize>, out: &mut [u8]) {
        let bytes = tensor.layout().row_bytes();
        let values = tensor.value_bytes();
        assert!(range.end <= self.keys.len(), "{range:?} of {} rows", self.keys.len());
        assert!(out.len() == range.len() * bytes, "{} bytes for {range:?}", out.len());
        let Some(Moves { rows, starts }) = &self.moves else {
            out.copy_from_slice(&values[range.start * bytes..range.end * bytes]);
            return;
        };
        if bytes == 0 {
            return;
        }
        let row = |at: u32| &values[at as usize * bytes..][..bytes];
        let mut kernel = None;
        let mut operands = Vec::new();
        for (at, target) in range.zip(out.chunks_exact_mut(bytes)) {
            match &rows[starts[at] as usize..starts[at + 1] as usize] {
                [only] => target.copy_from_slice(row(*only)),
                several => {
                    let kernel = kernel.get_or_insert_with(|| adding(tensor.dtype()));
                    let mut own = None;
                    for some in several.chunks(DUPLICATES_AT_ONCE) {
                        operands.clear();
                        operands.extend(some.iter().map(|&at| row(at)));
                        kernel.reduce(target, own, &operands);
                        own = Some(0);
                    }
                }
            }
        }
    }
}

/// The kernel of sums.
pub(super) fn adding(dtype: crate::DType) -> Kernel {
    match Kernel::new(dtype, ReduceOp::Sum) {
        Ok(kernel) => kernel,
        Err(_) => unreachable!("every element type has sums"),
    }
}

/// Sorts keys, none of which is above `most`; says which row each came from. Equal ones keep their order.
fn sort(keys: Vec<u64>, most: u64) -> (Vec<u64>, Vec<u32>) {
    if keys.is_sorted() {
        let rows = (0..keys.len() as u32).collect();
        return (keys, rows);
    }
    if keys.len() < COUNT_FROM || most > u64::from(u32::MAX) {
        let mut pairs: Vec<(u64, u32)> = keys.into_iter().zip(0..).collect();
        pairs.sort_unstable();
        return pairs.into_iter().unzip();
    }
    // Both in one number: the row in its lower half.
    let mut packed: Vec<u64> = keys.iter().zip(0_u64..).map(|(key, row)| key << 32 | row).collect();
    let mut other = keys;
    let bits = u64::BITS - most.leading_zeros();
    for digit in 0..bits.div_ceil(DIGIT) {
        count_digit(&packed, &mut other, 32 + digit * DIGIT);
        std::mem::swap(&mut packed, &mut other);
    }
    let rows = packed.iter().map(|&both| both as u32).collect();
    packed.iter_mut().for_each(|both| *both >>= 32);
    (packed, rows)
}

/// Copies `from` to `to`, ordered by the digit at `shift`; equal ones keep their order.
fn count_digit(from: &[u64], to: &mut [u64], shift: u32) {
    let digit = |number: u64| (number >> shift) as usize & ((1 << DIGIT) - 1);
    let mut ends = [0_u32; 1 << DIGIT];
    for &number in from {
        ends[digit(number)] += 1;
    }
    let mut sum = 0;
    for end in &mut ends {
        sum += std::mem::replace(end, sum);
    }
    for &number in from {
        let place = &mut ends[digit(number)];
        to[*place as usize] = number;
        *place += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorting_keeps_the_order_of_equal_keys_at_every_length_and_width() {
        let mut state = 1_u64;
        for len in [0, 1, 2, COUNT_FROM - 1, COUNT_FROM, 5000] {
            for most in [0, 1, 300, (1 << 22) + 5, u64::from(u32::MAX), 1 << 40] {
                let keys: Vec<u64> = (0..len)
                    .map(|_| {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        (state >> 20) % (most + 1)
                    })
                    .collect();
                let mut expected: Vec<(u64, u32)> = keys.iter().copied().zip(0..).collect();
                expected.sort();
                let (sorted, rows) = sort(keys, most);
                let found: Vec<(u64, u32)> = sorted.into_iter().zip(rows).collect();
                assert_eq!(found, expected, "{len} keys up to {most}");
            }
        }
    }
}
