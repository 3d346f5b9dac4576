//! Reduction kernels: a number of operands in, one result out, in one pass over memory.
//!
//! # What is promised
//! * **One order.** Operands are combined in the canonical balanced tree: neighbours in pairs,
//!   level by level, an odd last one carried up, as in `((0+1)+(2+3))+4`. Where the destination
//!   stands among the operands is an argument, so in-place and out-of-place agree.
//! * **One rounding.** f16 and bf16 are widened to f32, combined in f32, and rounded once per call,
//!   to nearest even. f64 stays f64. Integers wrap. `mul_add` is never used.
//! * **The same bits** for every alignment, length, SIMD level and cut into chunks.
//! * **NaN and zero.** An arithmetic result that is NaN is the positive quiet NaN without payload
//!   (`0x7fc00000`, `0x7ff8000000000000`, `0x7e00`, `0x7fc0`). Min and max are IEEE-754 `minimum`
//!   and `maximum`: a NaN wins, and -0 is less than +0. A single operand is copied, bit by bit.
//! * Booleans are unsigned bytes, as in torch: the sum of two trues is 2.
//!
//! The processor's default floating-point mode is assumed (round to nearest, subnormals kept).

mod body;
mod cell;
mod level;
mod simd;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::fmt;
use std::mem::MaybeUninit;

use body::GROUP_MAX;
use level::{Functions, MapFn, Table};

use crate::foreign::ForeignBytes;
use crate::{DType, ReduceOp, UnsupportedReduction};

pub use simd::{SIMD_VARIABLE, SimdLevel, UnknownSimdLevel};

/// Elements that are combined at a time when there are more operands than one
/// function takes, so that the
/// partial results stay in the first-level cache.
const BLOCK: usize = 256;
/// Partial results that can wait at once. They hold 2^level groups, so this is never reached.
const PARTIALS: usize = 24;
/// The largest number of operands of one call, 2^25.
pub const OPERANDS_MAX: usize = 4 << (PARTIALS - 1);

/// The reduction of one dtype by one operation, with the functions already chosen.
///
/// ```
/// use allhands_tensor::{DType, Kernel, ReduceOp};
///
/// let kernel = Kernel::new(DType::F32, ReduceOp::Sum)?;
/// let mut mine = 3.0f32.to_ne_bytes();
/// let (a, c) = (1.0f32.to_ne_bytes(), 5.0f32.to_ne_bytes());
/// // My own value is operand 1 of three: (a + mine) + c.
/// kernel.reduce(&mut mine, Some(1), &[&a, &c]);
/// assert_eq!(f32::from_ne_bytes(mine), 9.0);
/// # Ok::<(), allhands_tensor::UnsupportedReduction>(())
/// ```
#[derive(Clone, Copy)]
pub struct Kernel {
    dtype: DType,
    op: ReduceOp,
    level: SimdLevel,
    /// The bytes of a lane are 1 << lane_shift.
    lane_shift: u32,
    table: Table,
}

impl Kernel {
    /// The kernel for the instructions that [`SimdLevel::active`] names.
    ///
    /// # Errors
    /// [`UnsupportedReduction`]: bit operations on floats, means and scaled sums of integers.
    pub fn new(dtype: DType, op: ReduceOp) -> Result<Kernel, UnsupportedReduction> {
        Self::with_level(dtype, op, SimdLevel::active())
    }

    /// The kernel for given instructions; a level that the processor lacks is replaced by the
    /// best one that it has. For tests and measurements: the results are the same.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn with_level(
        dtype: DType,
        op: ReduceOp,
        level: SimdLevel,
    ) -> Result<Kernel, UnsupportedReduction> {
        let level = if level.is_available() { level } else { SimdLevel::best() };
        let table = (Functions::of(level).table)(dtype, op);
        let Some(table) = table else {
            return Err(UnsupportedReduction { dtype, op, advice: advice(op) });
        };
        Ok(Kernel {
            dtype,
            op,
            level,
            lane_shift: level::lane_size(dtype, op).trailing_zeros(),
            table,
        })
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The operation.
    pub fn op(&self) -> ReduceOp {
        self.op
    }

    /// The instructions that this kernel uses.
    pub fn level(&self) -> SimdLevel {
        self.level
    }

    /// Combines all operands into `dst`, in one pass.
    ///
    /// The operands are `sources`, in order, with the old content of `dst` inserted at position
    /// `at`; with `None`, `dst` is only written. A single operand is copied. Any alignment will do.
    ///
    /// # Panics
    /// If there is no operand at all or more than [`OPERANDS_MAX`], if `at` is beyond the last
    /// position, if a source is not as long as `dst`, or if that length is not a multiple of the
    /// element's size.
    pub fn reduce(&self, dst: &mut [u8], at: Option<usize>, sources: &[&[u8]]) {
        self.reduce_any(dst, at, sources);
    }

    /// As [`reduce`](Self::reduce), with sources that other processes may write. What they write meanwhile comes
    /// out mixed; bytes that stay as they are give the same bits as `reduce`.
    ///
    /// # Panics
    /// As [`reduce`](Self::reduce).
    pub fn reduce_foreign(&self, dst: &mut [u8], at: Option<usize>, sources: &[ForeignBytes<'_>]) {
        self.reduce_any(dst, at, sources);
    }

    #[inline]
    fn reduce_any<S: Source>(&self, dst: &mut [u8], at: Option<usize>, sources: &[S]) {
        self.check(dst, at, sources);
        let operands = sources.len() + usize::from(at.is_some());
        let lanes = dst.len() >> self.lane_shift;
        match (operands, at) {
            (1, Some(_)) => {}
            (1, None) => sources[0].copy_to(dst),
            _ if operands <= self.table.group => {
                let out = dst.as_mut_ptr();
                let mut group = [std::ptr::null(); GROUP_MAX];
                Operands { dst: out, at, sources }.starts(0, 0, &mut group[..operands]);
                // SAFETY: `with_level` chose functions for a level that the processor has. `check`
                // has seen that all operands are `lanes` lanes long. `dst` is exclusively borrowed,
                // so the sources do not overlap it, except for the one that is `dst` itself.
                unsafe { (self.table.fold)(out, &group[..operands], lanes) };
            }
            _ => self.reduce_many(dst, at, sources),
        }
    }

    /// More operands than one function takes: groups, combined like the digits of a binary
    /// counter, which is the canonical tree again because a group is a power of two.
    // Apart, because its scratch makes a large frame.
    #[inline(never)]
    fn reduce_many<S: Source>(&self, dst: &mut [u8], at: Option<usize>, sources: &[S]) {
        let operands = sources.len() + usize::from(at.is_some());
        let lanes = dst.len() >> self.lane_shift;
        let width = self.table.group;
        let groups = operands.div_ceil(width);
        let out = dst.as_mut_ptr();
        let all = Operands { dst: out, at, sources };
        let mut scratch = MaybeUninit::<[[u64; BLOCK]; PARTIALS]>::uninit();
        let scratch = scratch.as_mut_ptr().cast::<[u64; BLOCK]>();
        debug_assert!(self.table.partial_size <= size_of::<u64>());

        let mut first = 0;
        while first < lanes {
            let count = BLOCK.min(lanes - first);
            let skip = first << self.lane_shift;
            let mut depth = 0;
            for index in 0..groups {
                let begin = index * width;
                let width = width.min(operands - begin);
                let mut group = [std::ptr::null(); GROUP_MAX];
                all.starts(begin, skip, &mut group[..width]);
                // SAFETY: The functions suit the processor. Each operand has `count` lanes from
                // `skip` on. `depth` is at most log2 of the groups, which `check` has bounded by
                // PARTIALS - 1, so the scratch row exists; it has room for `count` partials.
                unsafe { (self.table.partial)(scratch.add(depth).cast(), &group[..width], count) };
                depth += 1;
                // As many merges as the counter carries; at the last group, all that remain but one.
                let last = index + 1 == groups;
                let mut carries = (index + 1).trailing_zeros();
                while depth > if last { 2 } else { 1 } && (last || carries > 0) {
                    // SAFETY: Rows `depth - 2` and `depth - 1` hold `count` partials each. The
                    // first is both source and destination, exactly; the other does not overlap.
                    unsafe { self.merge(scratch, depth, count) };
                    depth -= 1;
                    carries = carries.saturating_sub(1);
                }
            }
            // SAFETY: More operands than a group are two groups at least, so two rows remain, with
            // `count` partials each. `dst` has `count` lanes from `skip` on, and its old content
            // has been read.
            unsafe {
                let rows = [scratch.cast_const().cast(), scratch.add(1).cast_const().cast()];
                (self.table.close)(out.add(skip), &rows, count);
            }
            first += count;
        }
    }

    /// Combines the two topmost rows into the lower of them.
    ///
    /// # Safety
    /// * Rows `depth - 2` and `depth - 1` exist and hold `count` partials.
    unsafe fn merge(&self, scratch: *mut [u64; BLOCK], depth: usize, count: usize) {
        // SAFETY: By the contract both rows are there; the functions suit the processor.
        unsafe {
            let low = scratch.add(depth - 2);
            let high = scratch.add(depth - 1);
            let rows = [low.cast_const().cast(), high.cast_const().cast()];
            (self.table.merge)(low.cast(), &rows, count);
        }
    }

    /// What each rank does to its own operand before the first reduction: multiplies by the factor
    /// of [`ReduceOp::PremulSum`]. Nothing for other operations.
    ///
    /// f16 and bf16 are multiplied in f32 and rounded once.
    ///
    /// # Panics
    /// If the length of `dst` is not a multiple of the element's size.
    pub fn prepare(&self, dst: &mut [u8]) {
        if let ReduceOp::PremulSum(factor) = self.op {
            let map = (Functions::of(self.level).scale)(self.dtype);
            self.map(map, dst, factor);
        }
    }

    /// What is done once to each element of the final result: [`ReduceOp::Avg`] divides by `world`.
    /// Nothing for other operations.
    ///
    /// f16 and bf16 are divided in f32 and rounded once more.
    ///
    /// # Panics
    /// If the length of `dst` is not a multiple of the element's size.
    pub fn finish(&self, dst: &mut [u8], world: u32) {
        if self.op == ReduceOp::Avg {
            let map = (Functions::of(self.level).divide)(self.dtype);
            self.map(map, dst, f64::from(world));
        }
    }

    fn map(&self, map: Option<MapFn>, dst: &mut [u8], parameter: f64) {
        self.check_len(dst.len());
        if let Some(map) = map {
            // SAFETY: The function suits the processor; `dst` holds that many whole elements.
            unsafe { map(dst.as_mut_ptr(), dst.len() / self.dtype.size(), parameter) };
        }
    }

    fn check_len(&self, len: usize) {
        // Sizes are powers of two, and a division would cost more than a small reduction.
        let size = self.dtype.size();
        assert!(len & (size - 1) == 0, "{len} bytes are not a whole number of {}", self.dtype);
    }

    /// Panics unless the operands fit; everything unsafe rests on this.
    fn check<S: Source>(&self, dst: &[u8], at: Option<usize>, sources: &[S]) {
        self.check_len(dst.len());
        assert!(at.is_some() || !sources.is_empty(), "a reduction needs an operand, got none");
        assert!(sources.len() < OPERANDS_MAX, "{} operands are too many", sources.len());
        if let Some(at) = at {
            let last = sources.len();
            assert!(at <= last, "position {at} is beyond the last of {} operands", last + 1);
        }
        for (index, source) in sources.iter().enumerate() {
            let (len, wanted) = (source.bytes(), dst.len());
            assert!(len == wanted, "source {index} has {len} bytes, the destination {wanted}");
        }
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel")
            .field("dtype", &self.dtype)
            .field("op", &self.op)
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}

/// The operands of a call, in order.
struct Operands<'a, S> {
    dst: *const u8,
    at: Option<usize>,
    sources: &'a [S],
}

/// Bytes that are only read.
trait Source: Copy {
    fn bytes(self) -> usize;
    fn start(self) -> *const u8;
    fn copy_to(self, dst: &mut [u8]);
}

impl Source for &[u8] {
    fn bytes(self) -> usize {
        self.len()
    }

    fn start(self) -> *const u8 {
        self.as_ptr()
    }

    fn copy_to(self, dst: &mut [u8]) {
        dst.copy_from_slice(self);
    }
}

impl Source for ForeignBytes<'_> {
    fn bytes(self) -> usize {
        self.len()
    }

    fn start(self) -> *const u8 {
        self.as_ptr()
    }

    fn copy_to(self, dst: &mut [u8]) {
        ForeignBytes::copy_to(self, dst);
    }
}

impl<S: Source> Operands<'_, S> {
    /// Where the operands from `begin` on start, `skip` bytes in.
    #[inline]
    fn starts(&self, begin: usize, skip: usize, starts: &mut [*const u8]) {
        for (index, entry) in (begin..).zip(starts) {
            let start = match self.at {
                Some(at) if index == at => self.dst,
                Some(at) if index > at => self.sources[index - 1].start(),
                _ => self.sources[index].start(),
            };
            *entry = start.wrapping_add(skip);
        }
    }
}

/// What to do instead of a reduction that is not defined.
fn advice(op: ReduceOp) -> &'static str {
    if op.is_bitwise() {
        "bit operations need integers or booleans; reinterpret the bytes as an unsigned type"
    } else {
        "it needs a floating-point type; sum, then divide or scale the integers yourself"
    }
}
