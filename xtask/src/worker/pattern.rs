//! What buffers hold when a result is verified, and what it must be: the naive oracle.
//!
//! Values are small integers, so every element type represents every sum exactly and the order of
//! additions cannot matter. The peers' programs compute the same pattern.

use half::{bf16, f16};

use crate::bench::cells::{Operation, Reduction};

/// Element `i` of rank `rank`'s buffer before the operation: 0 to 3, scattered by a hash, so that
/// a block in the wrong place shows.
#[must_use]
pub fn value(rank: u32, i: u64) -> u64 {
    let hash =
        (i as u32).wrapping_mul(2_654_435_761).wrapping_add(rank.wrapping_mul(2_246_822_519));
    u64::from(hash >> 30)
}

/// The position of row `k` of rank `rank`'s sparse tensor, among `rows`: drawn at random, some of them more than once.
#[must_use]
pub fn position(rank: u32, k: u64, rows: u64) -> u64 {
    let mixed =
        (k as u32).wrapping_mul(2_654_435_761).wrapping_add(rank.wrapping_mul(2_246_822_519));
    let mixed = (mixed ^ mixed >> 15).wrapping_mul(2_246_822_519);
    u64::from(mixed ^ mixed >> 13) % rows
}

/// What outputs hold before the operation: no result of up to 42 ranks is this.
pub const POISON: u64 = 127;

/// An element type that the pattern can be written in.
pub trait Value: allhands_tensor::Element + Copy + PartialEq {
    /// `n`, wrapped to the type's width.
    fn of(n: u64) -> Self;
    /// `n / d`, rounded once from f32 (f64 for f64); integers truncate.
    fn quotient(n: u64, d: u64) -> Self;
}

macro_rules! value {
    ($($type:ty: $of:expr, $quotient:expr;)*) => {$(
        impl Value for $type {
            fn of(n: u64) -> Self {
                $of(n)
            }
            fn quotient(n: u64, d: u64) -> Self {
                $quotient(n, d)
            }
        }
    )*};
}

value! {
    f32: |n| n as f32, |n, d| n as f32 / d as f32;
    f64: |n| n as f64, |n, d| n as f64 / d as f64;
    f16: |n| f16::from_f32(n as f32), |n, d| f16::from_f32(n as f32 / d as f32);
    bf16: |n| bf16::from_f32(n as f32), |n, d| bf16::from_f32(n as f32 / d as f32);
    i8: |n| n as i8, |n, d| (n / d) as i8;
    u8: |n| n as u8, |n, d| (n / d) as u8;
    i32: |n| n as i32, |n, d| (n / d) as i32;
    i64: |n| n as i64, |n, d| (n / d) as i64;
}

/// Who asks for the result.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The asking rank.
    pub rank: u32,
    /// Number of ranks.
    pub world: u32,
    /// The special rank.
    pub root: u32,
}

/// Element `i` of every rank's buffer, combined one rank after the other.
#[must_use]
pub fn reduced<T: Value>(reduction: Reduction, world: u32, i: u64) -> T {
    let values = (0..world).map(|rank| value(rank, i));
    match reduction {
        Reduction::Sum => T::of(values.sum()),
        Reduction::Avg => T::quotient(values.sum(), u64::from(world)),
        Reduction::Prod => T::of(values.fold(1, u64::wrapping_mul)),
        Reduction::Min => T::of(values.min().unwrap_or(0)),
        Reduction::Max => T::of(values.max().unwrap_or(0)),
    }
}

/// Element `i` of the output at `place`, for a tensor of `count` elements a block.
#[must_use]
pub fn expected<T: Value>(
    operation: Operation,
    reduction: Reduction,
    place: Place,
    count: u64,
    i: u64,
) -> T {
    let Place { rank, world, root } = place;
    let block = u64::from(rank) * count;
    match operation {
        Operation::AllReduce | Operation::Reduce => reduced(reduction, world, i),
        Operation::Broadcast => T::of(value(root, i)),
        Operation::AllGather | Operation::Gather => T::of(value((i / count) as u32, i % count)),
        Operation::Scatter => T::of(value(root, block + i)),
        Operation::ReduceScatter => reduced(reduction, world, block + i),
        Operation::AllToAll => T::of(value((i / count) as u32, block + i % count)),
        // Sparse sums have an oracle of their own.
        Operation::AllReduceSparse => T::of(POISON),
        // The even rank's message went there and back; a rank without a partner keeps its own.
        Operation::SendRecv | Operation::Barrier => {
            T::of(value(if rank ^ 1 < world { rank & !1 } else { rank }, i))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_is_small_and_scattered() {
        let mut seen = [0; 4];
        for i in 0..4096 {
            seen[value(3, i) as usize] += 1;
        }
        assert!(seen.iter().all(|n| *n > 900), "{seen:?}");
        let shifted = (0..64).filter(|i| value(0, *i) == value(0, i + 1)).count();
        let swapped = (0..64).filter(|i| value(0, *i) == value(1, *i)).count();
        assert!(shifted < 40 && swapped < 40, "{shifted} {swapped}");
        // As the peers compute it.
        assert_eq!([0, 1, 2, 3].map(|i| value(1, i)), [2, 0, 3, 1]);
    }

    #[test]
    fn positions_are_random() {
        let mut seen = std::collections::BTreeSet::new();
        let first: Vec<u64> = (0..100_000).map(|k| position(0, k, 1_000_000)).collect();
        seen.extend(&first);
        // Of 10⁵ drawn from 10⁶, 5 % are drawn again, and a tenth of what the other rank draws is among them.
        assert!((94_800..95_500).contains(&seen.len()), "{}", seen.len());
        let both = seen.len();
        seen.extend((0..100_000).map(|k| position(1, k, 1_000_000)));
        assert!((85_000..87_500).contains(&(seen.len() - both)), "{}", seen.len() - both);
        assert!(!first.is_sorted());
        // As the peers compute it.
        assert_eq!([0, 1, 2].map(|k| position(1, k, 1_000_000)), [226402, 612606, 160547]);
    }

    #[test]
    fn reductions_by_hand() {
        let values: Vec<u64> = (0..3).map(|rank| value(rank, 5)).collect();
        assert_eq!(reduced::<i32>(Reduction::Sum, 3, 5), values.iter().sum::<u64>() as i32);
        assert_eq!(
            reduced::<f16>(Reduction::Max, 3, 5).to_f32(),
            *values.iter().max().unwrap() as f32
        );
        let sum = values.iter().sum::<u64>() as f32;
        assert_eq!(reduced::<f32>(Reduction::Avg, 3, 5), sum / 3.0);
    }

    #[test]
    fn blocks_land_where_they_belong() {
        let place = Place { rank: 2, world: 4, root: 1 };
        let at = |operation, i| expected::<i64>(operation, Reduction::Sum, place, 10, i);
        assert_eq!(at(Operation::AllGather, 31), value(3, 1) as i64);
        assert_eq!(at(Operation::Scatter, 1), value(1, 21) as i64);
        assert_eq!(at(Operation::AllToAll, 31), value(3, 21) as i64);
        assert_eq!(at(Operation::ReduceScatter, 1), reduced::<i64>(Reduction::Sum, 4, 21));
        assert_eq!(at(Operation::SendRecv, 1), value(2, 1) as i64);
        let odd = Place { rank: 2, world: 3, root: 0 };
        assert_eq!(
            expected::<i64>(Operation::SendRecv, Reduction::Sum, odd, 10, 1),
            value(2, 1) as i64
        );
    }
}
