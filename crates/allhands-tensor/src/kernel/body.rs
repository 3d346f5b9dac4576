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
/// So many elements at the end are combined one by one; more are worth a padded chunk.
const ALONE_MAX: usize = 4;

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

/// One result: loads a lane of every operand and combines.
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
    tree::<I::Acc, F, K>(values)
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
    if const { F::SETTLES_TOGETHER } {
        let mut values = [MaybeUninit::<I::Acc>::uninit(); N];
        let mut lane = 0;
        while lane < N {
            // SAFETY: `first + lane` is among the lanes that the contract names.
            values[lane] = MaybeUninit::new(unsafe { result::<I, F, K>(sources, first + lane) });
            lane += 1;
        }
        // SAFETY: All N values were written by the loop, and the two arrays have the same layout.
        let mut values = unsafe { std::mem::transmute_copy::<_, [I::Acc; N]>(&values) };
        F::settle_together(&mut values);
        let mut lane = 0;
        while lane < N {
            out[lane] = MaybeUninit::new(O::store(values[lane]));
            lane += 1;
        }
    } else {
        let mut lane = 0;
        while lane < N {
            // SAFETY: `first + lane` is among the lanes that the contract names.
            let value = unsafe { result::<I, F, K>(sources, first + lane) };
            out[lane] = MaybeUninit::new(O::store(F::settle(value)));
            lane += 1;
        }
    }
    // SAFETY: The lanes are writable by the contract; what is written was set by the loop. All
    // reads of these lanes are over, so `dst` may be one of the sources.
    unsafe {
        dst.cast::<O::Raw>().add(first).cast::<[MaybeUninit<O::Raw>; N]>().write_unaligned(out);
    };
}

/// The last `count` elements, fewer than fill a chunk: through zero-padded copies, in one chunk.
///
/// # Safety
/// * As for [`fold`], with `first` and `count`; `count` elements fit `N` lanes.
#[inline(always)]
unsafe fn padded<I, O, F, const K: usize, const N: usize>(
    dst: *mut u8,
    sources: &[*const u8; K],
    first: usize,
    count: usize,
) where
    I: Format,
    O: Format<Acc = I::Acc, OneAcc = I::OneAcc>,
    F: Fold<I::Acc>,
{
    // Zeros: lanes that nobody asked for are computed too, and must be values.
    let mut copies = [[MaybeUninit::<<I::Wide as Cell>::Raw>::zeroed(); N]; K];
    let mut starts = *sources;
    let mut j = 0;
    while j < K {
        let copy = copies[j].as_mut_ptr().cast::<<I::One as Cell>::Raw>();
        // SAFETY: The elements are readable by the contract and fit the N lanes of the copy.
        unsafe {
            let source = sources[j].cast::<<I::One as Cell>::Raw>().add(first);
            copy.cast::<u8>().copy_from_nonoverlapping(
                source.cast::<u8>(),
                count * size_of::<<I::One as Cell>::Raw>(),
            );
        }
        starts[j] = copy.cast_const().cast::<u8>();
        j += 1;
    }
    let mut out = MaybeUninit::<[<O::Wide as Cell>::Raw; N]>::uninit();
    let out = out.as_mut_ptr().cast::<u8>();
    // SAFETY: The copies have N lanes each, and so has `out`. The elements of `dst` are writable by
    // the contract, and `out` holds as many.
    unsafe {
        chunk::<I::Wide, O::Wide, F, K, N>(out, &starts, 0);
        let dst = dst.cast::<<O::One as Cell>::Raw>().add(first);
        dst.cast::<u8>()
            .copy_from_nonoverlapping(out.cast_const(), count * size_of::<<O::One as Cell>::Raw>());
    }
}

/// The loop over chunks of `N` lanes, and what is left over.
///
/// # Safety
/// * As for [`fold`].
#[inline(always)]
unsafe fn chunks<I, O, F, const K: usize, const N: usize>(
    dst: *mut u8,
    sources: &[*const u8; K],
    count: usize,
) where
    I: Format,
    O: Format<Acc = I::Acc, OneAcc = I::OneAcc>,
    F: Fold<I::Acc> + Fold<I::OneAcc>,
{
    let lanes = count / I::PER;
    let mut lane = 0;
    while lanes - lane >= N {
        // SAFETY: The condition leaves N lanes from `lane` on.
        unsafe { chunk::<I::Wide, O::Wide, F, K, N>(dst, sources, lane) };
        lane += N;
    }
    let mut at = lane * I::PER;
    if count - at > ALONE_MAX {
        // SAFETY: Fewer than N lanes are left, and they start at element `at`.
        unsafe { padded::<I, O, F, K, N>(dst, sources, at, count - at) };
        return;
    }
    while at < count {
        // SAFETY: `at` is less than `count`, so the element exists on both sides.
        unsafe { chunk::<I::One, O::One, F, K, 1>(dst, sources, at) };
        // Opaque, lest the compiler unrolls and vectorises a loop of four turns at most.
        at = std::hint::black_box(at + 1);
    }
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
    macro_rules! chunks_of {
        ($lanes:literal) => {
            // SAFETY: The caller's contract is the same.
            unsafe { chunks::<I, O, F, K, $lanes>(dst, sources, count) };
        };
    }
    // A chunk is a few AVX-512 registers of elements, or what the compiler may hold in registers while it is still a
    // loop. Some lengths make it unroll into something six times slower where `dst` is none of the sources; these
    // do not, for any operation and level. The sizes are known when this is compiled: one arm remains.
    if const { size_of::<<O::Wide as Cell>::Raw>() == 1 } {
        chunks_of!(128);
    } else if const { matches!(size_of::<<O::Wide as Cell>::Raw>(), 2 | 4) } {
        chunks_of!(64);
    } else if const { size_of::<<O::Wide as Cell>::Raw>() == 8 } {
        chunks_of!(24);
    } else {
        // A lane is a register already.
        chunks_of!(4);
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
