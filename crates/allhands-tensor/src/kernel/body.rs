//! The loops. Each is compiled once per SIMD level, by being inlined into a function that has the
//! level's target features.
//!
//! A loop works in chunks: it computes a chunk into a local array, then stores the chunk. The
//! local array cannot overlap the operands, so the compiler vectorises without asking, also where
//! the destination is one of the operands; in the machine code the array is a handful of registers.

use std::mem::MaybeUninit;

use super::cell::{Cell, Fold, Format, Map};

/// Plain data of which every bit pattern is valid.
///
/// # Safety
/// * No padding, no invalid bit pattern, no pointers.
pub(super) unsafe trait Raw: Copy {}

macro_rules! raw {
    ($($t:ty),*) => {$(
        // SAFETY: A primitive number, or an array of them: every bit pattern is a value.
        unsafe impl Raw for $t {}
    )*};
}

raw!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64, [f32; 2]);

/// The largest number of operands that one function combines.
pub(super) const GROUP_MAX: usize = 8;

/// Combines pairs of neighbours, level by level; an odd last one is carried up.
#[inline(always)]
pub(super) fn tree<A: Copy, F: Fold<A>, const K: usize>(mut values: [A; K]) -> A {
    let mut count = K;
    while count > 1 {
        let pairs = count / 2;
        let mut i = 0;
        while i < pairs {
            values[i] = F::fold(values[2 * i], values[2 * i + 1]);
            i += 1;
        }
        if count % 2 == 1 {
            values[pairs] = values[count - 1];
        }
        count -= pairs;
    }
    values[0]
}

/// One result: loads a lane of every operand, combines, settles.
///
/// # Safety
/// * Lane `lane` of each source is readable. Any alignment will do.
#[inline(always)]
unsafe fn result<I: Cell, F: Fold<I::Acc>, const K: usize>(
    sources: &[*const u8; K],
    lane: usize,
) -> I::Acc {
    let mut values = [MaybeUninit::<I::Acc>::uninit(); K];
    let mut j = 0;
    while j < K {
        // SAFETY: By the contract the lane is readable, and Raw allows every bit pattern.
        let raw = unsafe { sources[j].cast::<I::Raw>().add(lane).read_unaligned() };
        values[j] = MaybeUninit::new(I::load(raw));
        j += 1;
    }
    // SAFETY: All K values were written by the loop, and the two arrays have the same layout.
    let values = unsafe { std::mem::transmute_copy::<_, [I::Acc; K]>(&values) };
    F::settle(tree::<I::Acc, F, K>(values))
}

/// A chunk of `N` results, from lane `first` on.
///
/// # Safety
/// * Lanes `first..first + N` are readable in each source and writable in `dst`.
#[inline(always)]
unsafe fn chunk<I: Cell, O: Cell<Acc = I::Acc>, F: Fold<I::Acc>, const K: usize, const N: usize>(
    dst: *mut u8,
    sources: &[*const u8; K],
    first: usize,
) {
    let mut out = [MaybeUninit::<O::Raw>::uninit(); N];
    let mut lane = 0;
    while lane < N {
        // SAFETY: `first + lane` is among the lanes that the contract names.
        let value = unsafe { result::<I, F, K>(sources, first + lane) };
        out[lane] = MaybeUninit::new(O::store(value));
        lane += 1;
    }
    // SAFETY: The lanes are writable by the contract; what is written was set by the loop. All
    // reads of these lanes are over, so `dst` may be one of the sources.
    unsafe {
        dst.cast::<O::Raw>().add(first).cast::<[MaybeUninit<O::Raw>; N]>().write_unaligned(out)
    };
}

/// Loops over `lanes` lanes of one cell type.
///
/// # Safety
/// * As for [`fold`], with lanes in place of elements.
#[inline(always)]
unsafe fn lanes<I: Cell, O: Cell<Acc = I::Acc>, F: Fold<I::Acc>, const K: usize>(
    dst: *mut u8,
    sources: &[*const u8; K],
    count: usize,
) {
    macro_rules! chunks_of {
        ($lanes:literal, $at:ident) => {
            while count - $at >= $lanes {
                // SAFETY: The condition leaves `$lanes` lanes from `$at` on.
                unsafe { chunk::<I, O, F, K, $lanes>(dst, sources, $at) };
                $at += $lanes;
            }
        };
    }
    let mut at = 0;
    // First chunks of four AVX-512 registers, then of half a one, then single lanes.
    if const { size_of::<O::Raw>() == 1 } {
        chunks_of!(256, at);
        chunks_of!(32, at);
    } else if const { size_of::<O::Raw>() == 2 } {
        chunks_of!(128, at);
        chunks_of!(16, at);
    } else if const { size_of::<O::Raw>() == 4 } {
        chunks_of!(64, at);
        chunks_of!(8, at);
    } else if const { size_of::<O::Raw>() == 8 } {
        chunks_of!(32, at);
        chunks_of!(4, at);
    } else {
        // A lane is a register already.
        chunks_of!(4, at);
    }
    chunks_of!(1, at);
}

/// Combines `K` operands of `count` elements each into `dst`.
///
/// # Safety
/// * Each source has `count` elements of format `I`, readable; any alignment.
/// * `dst` has room for `count` elements of format `O`, writable; any alignment. It may be exactly
///   one of the sources if the formats are equal; otherwise it overlaps none.
#[inline(always)]
pub(super) unsafe fn fold<I, O, F, const K: usize>(
    dst: *mut u8,
    sources: &[*const u8; K],
    count: usize,
) where
    I: Format,
    O: Format<Acc = I::Acc, OneAcc = I::OneAcc>,
    F: Fold<I::Acc> + Fold<I::OneAcc>,
{
    const { assert!(I::PER == O::PER) };
    // SAFETY: `count / PER` lanes of PER elements are within the `count` elements.
    unsafe { lanes::<I::Wide, O::Wide, F, K>(dst, sources, count / I::PER) };
    let mut at = count / I::PER * I::PER;
    while at < count {
        // SAFETY: `at` is less than `count`, so the element exists on both sides.
        unsafe { chunk::<I::One, O::One, F, K, 1>(dst, sources, at) };
        at += 1;
    }
}

/// Applies `M` to each of `count` elements in place.
///
/// # Safety
/// * `dst` has `count` elements of format `I`, readable and writable; any alignment.
#[inline(always)]
pub(super) unsafe fn map<I, M>(dst: *mut u8, count: usize, parameter: f64)
where
    I: Format,
    M: Map<I::Acc> + Map<I::OneAcc>,
{
    // SAFETY: As in `fold`.
    unsafe { map_lanes::<I::Wide, M>(dst, count / I::PER, parameter) };
    let done = count / I::PER * I::PER;
    // SAFETY: What is left starts at element `done`, within bounds or one past the end.
    unsafe {
        let rest = dst.cast::<<I::One as Cell>::Raw>().add(done).cast::<u8>();
        map_lanes::<I::One, M>(rest, count - done, parameter);
    }
}

/// Applies `M` to each of `count` lanes.
///
/// # Safety
/// * `dst` has `count` lanes, readable and writable; any alignment.
#[inline(always)]
unsafe fn map_lanes<C: Cell, M: Map<C::Acc>>(dst: *mut u8, count: usize, parameter: f64) {
    let dst = dst.cast::<C::Raw>();
    let mut at = 0;
    while at < count {
        // SAFETY: `at` is less than `count`.
        unsafe {
            let value = C::load(dst.add(at).read_unaligned());
            dst.add(at).write_unaligned(C::store(M::map(value, parameter)));
        }
        at += 1;
    }
}
