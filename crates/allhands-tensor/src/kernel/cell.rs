//! What one lane of a kernel loads, combines and stores.
//!
//! Everything here is plain arithmetic on single values, written so that the compiler turns the
//! loops of `body.rs` into vectors: no branches, only selects. The halves come as pairs in one
//! 32-bit word; the two are widened into two f32 without any shuffle.

use super::body::Raw;

/// The one NaN that kernels write, in each format: quiet, positive, no payload.
pub(super) const NAN_F32: u32 = 0x7fc0_0000;
pub(super) const NAN_F64: u64 = 0x7ff8_0000_0000_0000;

/// A lane: how it lies in memory and what it becomes in registers.
pub(super) trait Cell {
    /// In memory. Any bit pattern is valid.
    type Raw: Raw;
    /// In registers.
    type Acc: Copy;
    fn load(raw: Self::Raw) -> Self::Acc;
    /// Rounds, once.
    fn store(acc: Self::Acc) -> Self::Raw;
}

/// A dtype as kernels see it.
pub(super) trait Format {
    /// What a lane of the wide loop becomes in registers.
    type Acc: Copy;
    /// What one element becomes in registers.
    type OneAcc: Copy;
    /// The lane of the wide loop; it holds `PER` elements.
    type Wide: Cell<Acc = Self::Acc>;
    /// The lane of what is left over: one element.
    type One: Cell<Acc = Self::OneAcc>;
    const PER: usize;
}

/// A dtype that is combined as it is stored.
pub(super) struct Plain<T>(std::marker::PhantomData<T>);

impl<T: Raw> Cell for Plain<T> {
    type Raw = T;
    type Acc = T;

    #[inline(always)]
    fn load(raw: T) -> T {
        raw
    }

    #[inline(always)]
    fn store(acc: T) -> T {
        acc
    }
}

impl<T: Raw> Format for Plain<T> {
    type Acc = T;
    type OneAcc = T;
    type Wide = Plain<T>;
    type One = Plain<T>;
    const PER: usize = 1;
}

/// Two neighbours, widened.
#[derive(Clone, Copy)]
pub(super) struct Two(pub(super) f32, pub(super) f32);

/// bfloat16.
pub(super) struct Bf16;
pub(super) struct Bf16Pair;
pub(super) struct Bf16One;

impl Format for Bf16 {
    type Acc = Two;
    type OneAcc = f32;
    type Wide = Bf16Pair;
    type One = Bf16One;
    const PER: usize = 2;
}

/// Rounds to nearest even at bit 16; the result stands in the upper half, the lower is rubbish.
#[inline(always)]
pub(super) fn round_bf16(value: f32) -> u32 {
    let bits = value.to_bits();
    bits.wrapping_add(0x7fff).wrapping_add((bits >> 16) & 1)
}

impl Cell for Bf16Pair {
    type Raw = u32;
    type Acc = Two;

    #[inline(always)]
    fn load(raw: u32) -> Two {
        Two(f32::from_bits(raw << 16), f32::from_bits(raw & 0xffff_0000))
    }

    #[inline(always)]
    fn store(acc: Two) -> u32 {
        (round_bf16(acc.0) >> 16) | (round_bf16(acc.1) & 0xffff_0000)
    }
}

impl Cell for Bf16One {
    type Raw = u16;
    type Acc = f32;

    #[inline(always)]
    fn load(raw: u16) -> f32 {
        f32::from_bits(u32::from(raw) << 16)
    }

    #[inline(always)]
    fn store(acc: f32) -> u16 {
        (round_bf16(acc) >> 16) as u16
    }
}

/// binary16, converted by integer arithmetic.
pub(super) struct F16;
pub(super) struct F16Pair;
pub(super) struct F16One;

impl Format for F16 {
    type Acc = Two;
    type OneAcc = f32;
    type Wide = F16Pair;
    type One = F16One;
    const PER: usize = 2;
}

/// The f32 of the f16 in the lower 16 bits of `half`; the upper ones are zero.
#[inline(always)]
pub(super) fn widen_f16(half: u32) -> f32 {
    /// What the exponent gains: the difference of the biases.
    const REBIAS: u32 = (127 - 15) << 23;
    let magnitude = half & 0x7fff;
    let sign = (half & 0x8000) << 16;
    let shifted = magnitude << 13;
    let normal = shifted.wrapping_add(REBIAS);
    // Infinity and NaN take the largest exponent, so they gain the difference twice.
    let special = normal.wrapping_add(REBIAS);
    // A subnormal is its mantissa times 2^-24, exactly. Through i32, which has a vector form.
    let subnormal = (magnitude as i32 as f32 * f32::from_bits((127 - 24) << 23)).to_bits();
    let bits = if magnitude >= 0x7c00 { special } else { normal };
    let bits = if magnitude < 0x0400 { subnormal } else { bits };
    f32::from_bits(bits | sign)
}

/// The f16 nearest to `value`, ties to even, in the lower 16 bits. A NaN must be the canonical one.
#[inline(always)]
pub(super) fn narrow_f16(value: f32) -> u32 {
    /// From here on the result is infinite or NaN: 2^16.
    const OVERFLOW: u32 = (127 + 16) << 23;
    /// Below it the result is subnormal or zero: 2^-14.
    const NORMAL_MIN: u32 = (127 - 14) << 23;
    let bits = value.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    // Rounding may carry into the exponent, up to infinity, which is right.
    let rebiased = magnitude.wrapping_sub((127 - 15) << 23);
    let normal = rebiased.wrapping_add(0x0fff).wrapping_add((rebiased >> 13) & 1) >> 13;
    // One half has an ulp of 2^-24, the smallest subnormal: the addition rounds for us.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let special = if magnitude > 0x7f80_0000 { 0x7e00 } else { 0x7c00 };
    let half = if magnitude < NORMAL_MIN { subnormal } else { normal };
    let half = if magnitude >= OVERFLOW { special } else { half };
    half | sign
}

impl Cell for F16Pair {
    type Raw = u32;
    type Acc = Two;

    #[inline(always)]
    fn load(raw: u32) -> Two {
        Two(widen_f16(raw & 0xffff), widen_f16(raw >> 16))
    }

    #[inline(always)]
    fn store(acc: Two) -> u32 {
        narrow_f16(acc.0) | (narrow_f16(acc.1) << 16)
    }
}

impl Cell for F16One {
    type Raw = u16;
    type Acc = f32;

    #[inline(always)]
    fn load(raw: u16) -> f32 {
        widen_f16(u32::from(raw))
    }

    #[inline(always)]
    fn store(acc: f32) -> u16 {
        narrow_f16(acc) as u16
    }
}

/// Partial results of the halves: f32 that are loaded and stored two by two.
pub(super) struct Wide32;
pub(super) struct Wide32Pair;

impl Format for Wide32 {
    type Acc = Two;
    type OneAcc = f32;
    type Wide = Wide32Pair;
    type One = Plain<f32>;
    const PER: usize = 2;
}

impl Cell for Wide32Pair {
    type Raw = [f32; 2];
    type Acc = Two;

    #[inline(always)]
    fn load(raw: [f32; 2]) -> Two {
        if cfg!(target_endian = "little") { Two(raw[0], raw[1]) } else { Two(raw[1], raw[0]) }
    }

    #[inline(always)]
    fn store(acc: Two) -> [f32; 2] {
        if cfg!(target_endian = "little") { [acc.0, acc.1] } else { [acc.1, acc.0] }
    }
}

/// How two accumulators become one.
pub(super) trait Fold<A> {
    /// Commutative to the bit, up to the payload of a NaN.
    fn fold(left: A, right: A) -> A;
    /// The last touch before a result is stored: makes NaNs equal.
    fn settle(value: A) -> A;

    /// Whether a chunk is better settled by one `settle_together`.
    const SETTLES_TOGETHER: bool = false;

    /// Settles a chunk.
    #[inline(always)]
    fn settle_together<const N: usize>(values: &mut [A; N])
    where
        A: Copy,
    {
        let mut lane = 0;
        while lane < N {
            values[lane] = Self::settle(values[lane]);
            lane += 1;
        }
    }
}

pub(super) struct Sum;
pub(super) struct Product;
pub(super) struct Min;
pub(super) struct Max;
pub(super) struct And;
pub(super) struct Or;
pub(super) struct Xor;

macro_rules! fold_floats {
    ($($float:ty, $nan:expr;)*) => {$(
        impl Fold<$float> for Sum {
            #[inline(always)]
            fn fold(left: $float, right: $float) -> $float {
                left + right
            }

            #[inline(always)]
            fn settle(value: $float) -> $float {
                // Which payload survives an addition depends on the order in which the compiler
                // put the operands, so it must not reach the result.
                if value.is_nan() { <$float>::from_bits($nan) } else { value }
            }
        }

        impl Fold<$float> for Product {
            #[inline(always)]
            fn fold(left: $float, right: $float) -> $float {
                left * right
            }

            #[inline(always)]
            fn settle(value: $float) -> $float {
                <Sum as Fold<$float>>::settle(value)
            }
        }

        impl Fold<$float> for Min {
            #[inline(always)]
            fn fold(left: $float, right: $float) -> $float {
                let less = if left < right { left } else { right };
                // Equal values differ at most in the sign of a zero; or keeps the minus.
                let equal = <$float>::from_bits(left.to_bits() | right.to_bits());
                let less = if left == right { equal } else { less };
                let unordered = left.is_nan() | right.is_nan();
                if unordered { <$float>::from_bits($nan) } else { less }
            }

            #[inline(always)]
            fn settle(value: $float) -> $float {
                value
            }
        }

        impl Fold<$float> for Max {
            #[inline(always)]
            fn fold(left: $float, right: $float) -> $float {
                let more = if left > right { left } else { right };
                // Equal values differ at most in the sign of a zero; and drops the minus.
                let equal = <$float>::from_bits(left.to_bits() & right.to_bits());
                let more = if left == right { equal } else { more };
                let unordered = left.is_nan() | right.is_nan();
                if unordered { <$float>::from_bits($nan) } else { more }
            }

            #[inline(always)]
            fn settle(value: $float) -> $float {
                value
            }
        }
    )*};
}

fold_floats! {
    f32, NAN_F32;
    f64, NAN_F64;
}

macro_rules! fold_pairs {
    ($($op:ty),*) => {$(
        impl Fold<Two> for $op {
            #[inline(always)]
            fn fold(left: Two, right: Two) -> Two {
                Two(<$op>::fold(left.0, right.0), <$op>::fold(left.1, right.1))
            }

            #[inline(always)]
            fn settle(value: Two) -> Two {
                Two(<$op as Fold<f32>>::settle(value.0), <$op as Fold<f32>>::settle(value.1))
            }
        }
    )*};
}

fold_pairs!(Sum, Product, Min, Max);

macro_rules! fold_ints {
    ($($op:ty, |$left:ident, $right:ident| $body:expr, [$($int:ty),*];)*) => {$($(
        impl Fold<$int> for $op {
            #[inline(always)]
            fn fold($left: $int, $right: $int) -> $int {
                $body
            }

            #[inline(always)]
            fn settle(value: $int) -> $int {
                value
            }
        }
    )*)*};
}

// Wrapping addition, multiplication and the bit operations do not see the sign.
fold_ints! {
    Sum, |a, b| a.wrapping_add(b), [u8, u16, u32, u64];
    Product, |a, b| a.wrapping_mul(b), [u8, u16, u32, u64];
    Min, |a, b| if a < b { a } else { b }, [i8, u8, i16, u16, i32, u32, i64, u64];
    Max, |a, b| if a > b { a } else { b }, [i8, u8, i16, u16, i32, u32, i64, u64];
    And, |a, b| a & b, [u8];
    Or, |a, b| a | b, [u8];
    Xor, |a, b| a ^ b, [u8];
}

/// An operation on each float by itself, with a parameter.
pub(super) trait Map<A> {
    fn map(value: A, parameter: f64) -> A;
}

pub(super) struct Scale;
pub(super) struct Divide;

macro_rules! map_floats {
    ($($float:ty, $nan:expr;)*) => {$(
        impl Map<$float> for Scale {
            #[inline(always)]
            fn map(value: $float, parameter: f64) -> $float {
                <Sum as Fold<$float>>::settle(value * parameter as $float)
            }
        }

        impl Map<$float> for Divide {
            #[inline(always)]
            fn map(value: $float, parameter: f64) -> $float {
                <Sum as Fold<$float>>::settle(value / parameter as $float)
            }
        }
    )*};
}

map_floats! {
    f32, NAN_F32;
    f64, NAN_F64;
}

impl Map<Two> for Scale {
    #[inline(always)]
    fn map(value: Two, parameter: f64) -> Two {
        Two(Scale::map(value.0, parameter), Scale::map(value.1, parameter))
    }
}

impl Map<Two> for Divide {
    #[inline(always)]
    fn map(value: Two, parameter: f64) -> Two {
        Two(Divide::map(value.0, parameter), Divide::map(value.1, parameter))
    }
}
