//! f16 by the conversion instructions of x86: F16C with AVX2, and AVX-512.
//!
//! The cells here are lanes of a whole register. They are named only in the tables of levels that
//! have the features, so every function below is inlined into a function compiled with them.

use std::arch::x86_64::*;

use super::body::Raw;
use super::cell::{Cell, Divide, Fold, Format, Map, Max, Min, NAN_F32, Product, Scale, Sum};

// SAFETY: A register of bits: every pattern is a value.
unsafe impl Raw for __m128i {}
// SAFETY: A register of bits: every pattern is a value.
unsafe impl Raw for __m256i {}
// SAFETY: A register of f32: every pattern is a value.
unsafe impl Raw for __m256 {}
// SAFETY: A register of f32: every pattern is a value.
unsafe impl Raw for __m512 {}

/// Round to nearest even, whatever the mode register says.
const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;

/// One f16, converted by F16C.
pub(super) struct F16One;

impl Cell for F16One {
    type Raw = u16;
    type Acc = f32;

    #[inline(always)]
    fn load(raw: u16) -> f32 {
        // SAFETY: Only used by levels that have F16C.
        unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(raw)))) }
    }

    #[inline(always)]
    fn store(acc: f32) -> u16 {
        // SAFETY: Only used by levels that have F16C.
        unsafe { _mm_cvtsi128_si32(_mm_cvtps_ph::<NEAREST>(_mm_set_ss(acc))) as u16 }
    }
}

/// Eight f16.
pub(super) struct F16x8;

impl Cell for F16x8 {
    type Raw = __m128i;
    type Acc = __m256;

    #[inline(always)]
    fn load(raw: __m128i) -> __m256 {
        // SAFETY: Only used by levels that have F16C.
        unsafe { _mm256_cvtph_ps(raw) }
    }

    #[inline(always)]
    fn store(acc: __m256) -> __m128i {
        // SAFETY: Only used by levels that have F16C.
        unsafe { _mm256_cvtps_ph::<NEAREST>(acc) }
    }
}

/// Sixteen f16.
pub(super) struct F16x16;

impl Cell for F16x16 {
    type Raw = __m256i;
    type Acc = __m512;

    #[inline(always)]
    fn load(raw: __m256i) -> __m512 {
        // SAFETY: Only used by levels that have AVX-512 F.
        unsafe { _mm512_cvtph_ps(raw) }
    }

    #[inline(always)]
    fn store(acc: __m512) -> __m256i {
        // SAFETY: Only used by levels that have AVX-512 F.
        unsafe { _mm512_cvtps_ph::<NEAREST>(acc) }
    }
}

/// A register of f32, as it is stored.
pub(super) struct F32Register<V>(std::marker::PhantomData<V>);

impl<V: Raw> Cell for F32Register<V> {
    type Raw = V;
    type Acc = V;

    #[inline(always)]
    fn load(raw: V) -> V {
        raw
    }

    #[inline(always)]
    fn store(acc: V) -> V {
        acc
    }
}

macro_rules! format {
    ($name:ident, $wide:ty, $one:ty, $per:literal) => {
        pub(super) struct $name;

        impl Format for $name {
            type Acc = <$wide as Cell>::Acc;
            type OneAcc = f32;
            type Wide = $wide;
            type One = $one;
            const PER: usize = $per;
        }
    };
}

format!(F16Avx2, F16x8, F16One, 8);
format!(F16Avx512, F16x16, F16One, 16);
format!(PartialAvx2, F32Register<__m256>, super::cell::Plain<f32>, 8);
format!(PartialAvx512, F32Register<__m512>, super::cell::Plain<f32>, 16);

#[inline(always)]
fn settle256(value: __m256) -> __m256 {
    // SAFETY: Only used by levels that have AVX2.
    unsafe {
        let nan = _mm256_set1_ps(f32::from_bits(NAN_F32));
        _mm256_blendv_ps(value, nan, _mm256_cmp_ps::<_CMP_UNORD_Q>(value, value))
    }
}

/// Looks for NaNs in all registers at once, which is cheaper than a blend for each: a comparison
/// is unordered if either side is NaN, so it tests two.
#[inline(always)]
fn settle256_together<const N: usize>(values: &mut [__m256; N]) {
    // SAFETY: Only used by levels that have AVX2.
    let clean = unsafe {
        let mut unordered = _mm256_setzero_ps();
        let mut lane = 0;
        while lane < N {
            let other = values[if lane + 1 < N { lane + 1 } else { lane }];
            let pair = _mm256_cmp_ps::<_CMP_UNORD_Q>(values[lane], other);
            unordered = _mm256_or_ps(unordered, pair);
            lane += 2;
        }
        _mm256_movemask_ps(unordered) == 0
    };
    if !clean {
        let mut lane = 0;
        while lane < N {
            values[lane] = settle256(values[lane]);
            lane += 1;
        }
    }
}

#[inline(always)]
fn settle512(value: __m512) -> __m512 {
    /// What to do with each class of value, four bits a class: 0 takes the first argument (for the
    /// two lowest classes, quiet and signalling NaN), 1 the second.
    const CLASSES: i32 = 0x1111_1100;
    // One instruction on the port that is less busy, where a compare and a blend take two.
    // SAFETY: Only used by levels that have AVX-512 F.
    unsafe {
        let nan = _mm512_set1_ps(f32::from_bits(NAN_F32));
        _mm512_fixupimm_ps::<0>(nan, value, _mm512_set1_epi32(CLASSES))
    }
}

macro_rules! fold {
    ($op:ty, $register:ty, $settle:ident $(/ $together:ident)?, |$left:ident, $right:ident| $body:expr) => {
        impl Fold<$register> for $op {
            #[inline(always)]
            fn fold($left: $register, $right: $register) -> $register {
                // SAFETY: Only used by levels that have the registers and their instructions.
                unsafe { $body }
            }

            #[inline(always)]
            fn settle(value: $register) -> $register {
                $settle(value)
            }

            $(
                const SETTLES_TOGETHER: bool = true;

                #[inline(always)]
                fn settle_together<const N: usize>(values: &mut [$register; N]) {
                    $together(values);
                }
            )?
        }
    };
}

/// Minima and maxima are settled as they are made.
#[inline(always)]
fn settled<V>(value: V) -> V {
    value
}

fold!(Sum, __m256, settle256 / settle256_together, |left, right| _mm256_add_ps(left, right));
fold!(Product, __m256, settle256 / settle256_together, |left, right| _mm256_mul_ps(left, right));
fold!(Min, __m256, settled, |left, right| {
    // As in cell.rs: equal values keep the minus of a zero, NaN wins.
    let equal = _mm256_cmp_ps::<_CMP_EQ_OQ>(left, right);
    let less = _mm256_blendv_ps(_mm256_min_ps(left, right), _mm256_or_ps(left, right), equal);
    let nan = _mm256_set1_ps(f32::from_bits(NAN_F32));
    _mm256_blendv_ps(less, nan, _mm256_cmp_ps::<_CMP_UNORD_Q>(left, right))
});
fold!(Max, __m256, settled, |left, right| {
    // As in cell.rs: equal values drop the minus of a zero, NaN wins.
    let equal = _mm256_cmp_ps::<_CMP_EQ_OQ>(left, right);
    let more = _mm256_blendv_ps(_mm256_max_ps(left, right), _mm256_and_ps(left, right), equal);
    let nan = _mm256_set1_ps(f32::from_bits(NAN_F32));
    _mm256_blendv_ps(more, nan, _mm256_cmp_ps::<_CMP_UNORD_Q>(left, right))
});

fold!(Sum, __m512, settle512, |left, right| _mm512_add_ps(left, right));
fold!(Product, __m512, settle512, |left, right| _mm512_mul_ps(left, right));
fold!(Min, __m512, settled, |left, right| {
    let equal = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(left, right);
    let less = _mm512_mask_or_ps(_mm512_min_ps(left, right), equal, left, right);
    let nan = _mm512_set1_ps(f32::from_bits(NAN_F32));
    _mm512_mask_mov_ps(less, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(left, right), nan)
});
fold!(Max, __m512, settled, |left, right| {
    let equal = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(left, right);
    let more = _mm512_mask_and_ps(_mm512_max_ps(left, right), equal, left, right);
    let nan = _mm512_set1_ps(f32::from_bits(NAN_F32));
    _mm512_mask_mov_ps(more, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(left, right), nan)
});

macro_rules! map {
    ($op:ty, $register:ty, $settle:ident $(/ $together:ident)?, |$value:ident, $parameter:ident| $body:expr) => {
        impl Map<$register> for $op {
            #[inline(always)]
            fn map($value: $register, parameter: f64) -> $register {
                let $parameter = parameter as f32;
                // SAFETY: Only used by levels that have the registers and their instructions.
                $settle(unsafe { $body })
            }
        }
    };
}

map!(Scale, __m256, settle256, |value, by| _mm256_mul_ps(value, _mm256_set1_ps(by)));
map!(Divide, __m256, settle256, |value, by| _mm256_div_ps(value, _mm256_set1_ps(by)));
map!(Scale, __m512, settle512, |value, by| _mm512_mul_ps(value, _mm512_set1_ps(by)));
map!(Divide, __m512, settle512, |value, by| _mm512_div_ps(value, _mm512_set1_ps(by)));
