//! The kernels' entry points, once per SIMD level, and the table that finds them.

use super::simd::SimdLevel;
use crate::{DType, ReduceOp};

/// Combines 1 to [`Table::group`] operands of `count` elements each.
///
/// # Safety
/// * The processor has the level's features.
/// * As for [`fold`](super::body::fold); the number of sources is 1 to the table's `group`.
pub(super) type FoldFn = unsafe fn(dst: *mut u8, sources: &[*const u8], count: usize);

/// Changes `count` elements in place.
///
/// # Safety
/// * The processor has the level's features.
/// * As for [`map`](super::body::map).
pub(super) type MapFn = unsafe fn(dst: *mut u8, count: usize, parameter: f64);

/// What a reduction needs. A partial is an unrounded result: f32 for the halves, else the element.
#[derive(Clone, Copy)]
pub(super) struct Table {
    /// Elements to elements.
    pub(super) fold: FoldFn,
    /// Elements to partials.
    pub(super) partial: FoldFn,
    /// Partials to partials.
    pub(super) merge: FoldFn,
    /// Partials to elements.
    pub(super) close: FoldFn,
    /// Bytes of a partial.
    pub(super) partial_size: usize,
    /// Operands that `fold` and `partial` take at most: 4 or 8.
    pub(super) group: usize,
}

/// The functions of one level: how f16 is converted, and what they are compiled with.
macro_rules! level {
    ($name:ident, $wide:literal, $f16:ty, $partial16:ty $(, $feature:literal)?) => {
        pub(super) mod $name {
            use super::super::body;
            use super::super::cell::*;
            use super::{FoldFn, MapFn, Table};
            use crate::{DType, ReduceOp};

            /// The group of float sums: what training lives on.
            const WIDE: usize = $wide;
            /// The group of everything else. It is rarely needed at speed, and code has a price.
            const NARROW: usize = 4;

            /// # Safety
            /// * As for `FoldFn`, with `GROUP` as the group.
            $(#[target_feature(enable = $feature)])?
            unsafe fn fold<I, O, F, const GROUP: usize>(
                dst: *mut u8,
                sources: &[*const u8],
                count: usize,
            ) where
                I: Format,
                O: Format<Acc = I::Acc, OneAcc = I::OneAcc>,
                F: Fold<I::Acc> + Fold<I::OneAcc>,
            {
                macro_rules! arm {
                    ($k:literal) => {
                        // A function of a smaller group is not compiled for more operands.
                        if const { $k <= GROUP }
                            && let Ok(sources) = <&[*const u8; $k]>::try_from(sources)
                        {
                            // SAFETY: The caller vouches for the operands.
                            return unsafe { body::fold::<I, O, F, $k>(dst, sources, count) };
                        }
                    };
                }
                arm!(2);
                arm!(3);
                arm!(4);
                arm!(8);
                arm!(5);
                arm!(6);
                arm!(7);
                arm!(1);
                unreachable!("{} operands in a group of {GROUP}", sources.len());
            }

            /// # Safety
            /// * As for `MapFn`.
            $(#[target_feature(enable = $feature)])?
            unsafe fn map<I, M>(dst: *mut u8, count: usize, parameter: f64)
            where
                I: Format,
                M: Map<I::Acc> + Map<I::OneAcc>,
            {
                // SAFETY: The caller vouches for the elements.
                unsafe { body::map::<I, M>(dst, count, parameter) };
            }

            fn plain<T, F, const GROUP: usize>() -> Table
            where
                T: body::Raw,
                F: Fold<T>,
            {
                let fold: FoldFn = fold::<Plain<T>, Plain<T>, F, GROUP>;
                Table {
                    fold,
                    partial: fold,
                    merge: fold,
                    close: fold,
                    partial_size: size_of::<T>(),
                    group: GROUP,
                }
            }

            /// Partials of the halves `H` are f32 in lanes `P`.
            fn half<H, P, F, const GROUP: usize>() -> Table
            where
                H: Format<OneAcc = f32>,
                P: Format<Acc = H::Acc, OneAcc = f32>,
                F: Fold<H::Acc> + Fold<f32>,
            {
                Table {
                    fold: fold::<H, H, F, GROUP>,
                    partial: fold::<H, P, F, GROUP>,
                    merge: fold::<Plain<f32>, Plain<f32>, F, GROUP>,
                    close: fold::<P, H, F, 2>,
                    partial_size: size_of::<f32>(),
                    group: GROUP,
                }
            }

            /// The functions for a reduction; `None` where it is not defined.
            pub(in super::super) fn table(dtype: DType, op: ReduceOp) -> Option<Table> {
                macro_rules! float {
                    ($op:ty, $group:ident) => {
                        match dtype {
                            DType::F32 => Some(plain::<f32, $op, $group>()),
                            DType::F64 => Some(plain::<f64, $op, $group>()),
                            DType::F16 => Some(half::<$f16, $partial16, $op, $group>()),
                            DType::BF16 => Some(half::<Bf16, Wide32, $op, $group>()),
                            _ => None,
                        }
                    };
                }
                macro_rules! either_sign {
                    ($op:ty, $group:ident) => {
                        match dtype {
                            DType::I8 | DType::U8 | DType::Bool => Some(plain::<u8, $op, NARROW>()),
                            DType::I16 | DType::U16 => Some(plain::<u16, $op, NARROW>()),
                            DType::I32 | DType::U32 => Some(plain::<u32, $op, NARROW>()),
                            DType::I64 | DType::U64 => Some(plain::<u64, $op, NARROW>()),
                            _ => float!($op, $group),
                        }
                    };
                }
                macro_rules! ordered {
                    ($op:ty) => {
                        match dtype {
                            DType::I8 => Some(plain::<i8, $op, NARROW>()),
                            DType::I16 => Some(plain::<i16, $op, NARROW>()),
                            DType::I32 => Some(plain::<i32, $op, NARROW>()),
                            DType::I64 => Some(plain::<i64, $op, NARROW>()),
                            DType::U8 | DType::Bool => Some(plain::<u8, $op, NARROW>()),
                            DType::U16 => Some(plain::<u16, $op, NARROW>()),
                            DType::U32 => Some(plain::<u32, $op, NARROW>()),
                            DType::U64 => Some(plain::<u64, $op, NARROW>()),
                            _ => float!($op, NARROW),
                        }
                    };
                }
                match op {
                    ReduceOp::Sum => either_sign!(Sum, WIDE),
                    ReduceOp::Product => either_sign!(Product, NARROW),
                    ReduceOp::Min => ordered!(Min),
                    ReduceOp::Max => ordered!(Max),
                    ReduceOp::Avg | ReduceOp::PremulSum(_) => float!(Sum, WIDE),
                    // Bits have no width: the caller counts in bytes.
                    _ if dtype.is_float() => None,
                    ReduceOp::BitAnd => Some(plain::<u8, And, NARROW>()),
                    ReduceOp::BitOr => Some(plain::<u8, Or, NARROW>()),
                    ReduceOp::BitXor => Some(plain::<u8, Xor, NARROW>()),
                }
            }

            /// The function that multiplies by the parameter; `None` for integers.
            pub(in super::super) fn scale(dtype: DType) -> Option<MapFn> {
                match dtype {
                    DType::F32 => Some(map::<Plain<f32>, Scale>),
                    DType::F64 => Some(map::<Plain<f64>, Scale>),
                    DType::F16 => Some(map::<$f16, Scale>),
                    DType::BF16 => Some(map::<Bf16, Scale>),
                    _ => None,
                }
            }

            /// The function that divides by the parameter; `None` for integers.
            pub(in super::super) fn divide(dtype: DType) -> Option<MapFn> {
                match dtype {
                    DType::F32 => Some(map::<Plain<f32>, Divide>),
                    DType::F64 => Some(map::<Plain<f64>, Divide>),
                    DType::F16 => Some(map::<$f16, Divide>),
                    DType::BF16 => Some(map::<Bf16, Divide>),
                    _ => None,
                }
            }
        }
    };
}

level!(generic, 4, F16, Wide32);

#[cfg(target_arch = "x86_64")]
level!(avx2, 8, super::super::x86::F16Avx2, super::super::x86::PartialAvx2, "avx2,f16c");

#[cfg(target_arch = "x86_64")]
level!(
    avx512,
    8,
    super::super::x86::F16Avx512,
    super::super::x86::PartialAvx512,
    "avx512f,avx512bw,avx512vl,avx512dq,avx2,f16c"
);

/// The functions of a level that the processor has.
#[derive(Clone, Copy)]
pub(super) struct Functions {
    pub(super) table: fn(DType, ReduceOp) -> Option<Table>,
    pub(super) scale: fn(DType) -> Option<MapFn>,
    pub(super) divide: fn(DType) -> Option<MapFn>,
}

impl Functions {
    /// Levels of other architectures are never available, so they may as well be the generic one.
    pub(super) fn of(level: SimdLevel) -> Functions {
        match level {
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx2 => {
                Functions { table: avx2::table, scale: avx2::scale, divide: avx2::divide }
            }
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx512 => {
                Functions { table: avx512::table, scale: avx512::scale, divide: avx512::divide }
            }
            _ => {
                Functions { table: generic::table, scale: generic::scale, divide: generic::divide }
            }
        }
    }
}

/// Bytes or elements: the bit operations work on bytes, whatever the dtype.
pub(super) fn lane_size(dtype: DType, op: ReduceOp) -> usize {
    if op.is_bitwise() { 1 } else { dtype.size() }
}
