//! The kernels' entry points, once per SIMD level, and the table that finds them.

use crate::{DType, ReduceOp};

/// Combines 1 to [`GROUP`](super::body::GROUP) operands of `count` elements each.
///
/// # Safety
/// * The processor has the level's features.
/// * As for [`fold`](super::body::fold); the number of sources is 1 to `GROUP`.
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
}

/// The functions of one level. `$feature` is what they are compiled with.
macro_rules! level {
    ($name:ident $(, $feature:literal)?) => {
        pub(super) mod $name {
            use super::super::body;
            use super::super::cell::*;
            use super::{FoldFn, MapFn, Table};
            use crate::{DType, ReduceOp};

            /// # Safety
            /// * As for `FoldFn`.
            $(#[target_feature(enable = $feature)])?
            unsafe fn fold<I, O, F>(dst: *mut u8, sources: &[*const u8], count: usize)
            where
                I: Format,
                O: Format,
                O::Wide: Cell<Acc = <I::Wide as Cell>::Acc>,
                O::One: Cell<Acc = <I::One as Cell>::Acc>,
                F: Fold<<I::Wide as Cell>::Acc> + Fold<<I::One as Cell>::Acc>,
            {
                macro_rules! arms {
                    ($sources:ident: $k:literal) => {
                        if let Ok(sources) = <&[*const u8; $k]>::try_from($sources) {
                            // SAFETY: The caller vouches for the operands.
                            return unsafe { body::fold::<I, O, F, $k>(dst, sources, count) };
                        }
                    };
                }
                match sources.len() {
                    1 => arms!(sources: 1),
                    2 => arms!(sources: 2),
                    3 => arms!(sources: 3),
                    4 => arms!(sources: 4),
                    5 => arms!(sources: 5),
                    6 => arms!(sources: 6),
                    7 => arms!(sources: 7),
                    8 => arms!(sources: 8),
                    _ => {}
                }
                unreachable!("a group has 1 to 8 operands");
            }

            /// # Safety
            /// * As for `FoldFn`, with one or two sources.
            $(#[target_feature(enable = $feature)])?
            unsafe fn pair<I, O, F>(dst: *mut u8, sources: &[*const u8], count: usize)
            where
                I: Format,
                O: Format,
                O::Wide: Cell<Acc = <I::Wide as Cell>::Acc>,
                O::One: Cell<Acc = <I::One as Cell>::Acc>,
                F: Fold<<I::Wide as Cell>::Acc> + Fold<<I::One as Cell>::Acc>,
            {
                let Ok(sources) = <&[*const u8; 2]>::try_from(sources) else {
                    unreachable!("partials are combined two by two");
                };
                // SAFETY: The caller vouches for the operands.
                unsafe { body::fold::<I, O, F, 2>(dst, sources, count) };
            }

            /// # Safety
            /// * As for `MapFn`.
            $(#[target_feature(enable = $feature)])?
            unsafe fn map<I, M>(dst: *mut u8, count: usize, parameter: f64)
            where
                I: Format,
                M: Map<<I::Wide as Cell>::Acc> + Map<<I::One as Cell>::Acc>,
            {
                // SAFETY: The caller vouches for the elements.
                unsafe { body::map::<I, M>(dst, count, parameter) };
            }

            fn plain<T, F>() -> Table
            where
                T: body::Raw,
                F: Fold<T>,
            {
                let fold: FoldFn = fold::<Plain<T>, Plain<T>, F>;
                Table {
                    fold,
                    partial: fold,
                    merge: fold,
                    close: fold,
                    partial_size: size_of::<T>(),
                }
            }

            fn half<H, F>() -> Table
            where
                H: Format,
                H::Wide: Cell<Acc = Two>,
                H::One: Cell<Acc = f32>,
                F: Fold<Two> + Fold<f32>,
                Wide32: Format,
            {
                Table {
                    fold: fold::<H, H, F>,
                    partial: partial::<H, F>,
                    merge: pair::<Plain<f32>, Plain<f32>, F>,
                    close: close::<H, F>,
                    partial_size: size_of::<f32>(),
                }
            }

            /// # Safety
            /// * As for `FoldFn`.
            $(#[target_feature(enable = $feature)])?
            unsafe fn partial<H, F>(dst: *mut u8, sources: &[*const u8], count: usize)
            where
                H: Format,
                H::Wide: Cell<Acc = Two>,
                H::One: Cell<Acc = f32>,
                F: Fold<Two> + Fold<f32>,
            {
                // SAFETY: The caller vouches for the operands.
                unsafe { fold::<H, Wide32, F>(dst, sources, count) };
            }

            /// # Safety
            /// * As for `FoldFn`, with two sources.
            $(#[target_feature(enable = $feature)])?
            unsafe fn close<H, F>(dst: *mut u8, sources: &[*const u8], count: usize)
            where
                H: Format,
                H::Wide: Cell<Acc = Two>,
                H::One: Cell<Acc = f32>,
                F: Fold<Two> + Fold<f32>,
            {
                // SAFETY: The caller vouches for the operands.
                unsafe { pair::<Wide32, H, F>(dst, sources, count) };
            }

            /// The functions for a reduction; `None` where it is not defined.
            pub(in super::super) fn table(dtype: DType, op: ReduceOp) -> Option<Table> {
                macro_rules! float {
                    ($op:ty) => {
                        match dtype {
                            DType::F32 => Some(plain::<f32, $op>()),
                            DType::F64 => Some(plain::<f64, $op>()),
                            DType::F16 => Some(half::<F16, $op>()),
                            DType::BF16 => Some(half::<Bf16, $op>()),
                            _ => None,
                        }
                    };
                }
                macro_rules! either_sign {
                    ($op:ty) => {
                        match dtype {
                            DType::I8 | DType::U8 | DType::Bool => Some(plain::<u8, $op>()),
                            DType::I16 | DType::U16 => Some(plain::<u16, $op>()),
                            DType::I32 | DType::U32 => Some(plain::<u32, $op>()),
                            DType::I64 | DType::U64 => Some(plain::<u64, $op>()),
                            _ => float!($op),
                        }
                    };
                }
                macro_rules! ordered {
                    ($op:ty) => {
                        match dtype {
                            DType::I8 => Some(plain::<i8, $op>()),
                            DType::I16 => Some(plain::<i16, $op>()),
                            DType::I32 => Some(plain::<i32, $op>()),
                            DType::I64 => Some(plain::<i64, $op>()),
                            DType::U8 | DType::Bool => Some(plain::<u8, $op>()),
                            DType::U16 => Some(plain::<u16, $op>()),
                            DType::U32 => Some(plain::<u32, $op>()),
                            DType::U64 => Some(plain::<u64, $op>()),
                            _ => float!($op),
                        }
                    };
                }
                match op {
                    ReduceOp::Sum => either_sign!(Sum),
                    ReduceOp::Product => either_sign!(Product),
                    ReduceOp::Min => ordered!(Min),
                    ReduceOp::Max => ordered!(Max),
                    ReduceOp::Avg | ReduceOp::PremulSum(_) => float!(Sum),
                    // Bits have no width: the caller counts in bytes.
                    _ if dtype.is_float() => None,
                    ReduceOp::BitAnd => Some(plain::<u8, And>()),
                    ReduceOp::BitOr => Some(plain::<u8, Or>()),
                    ReduceOp::BitXor => Some(plain::<u8, Xor>()),
                }
            }

            /// The function that multiplies by the parameter; `None` for integers.
            pub(in super::super) fn scale(dtype: DType) -> Option<MapFn> {
                match dtype {
                    DType::F32 => Some(map::<Plain<f32>, Scale>),
                    DType::F64 => Some(map::<Plain<f64>, Scale>),
                    DType::F16 => Some(map::<F16, Scale>),
                    DType::BF16 => Some(map::<Bf16, Scale>),
                    _ => None,
                }
            }

            /// The function that divides by the parameter; `None` for integers.
            pub(in super::super) fn divide(dtype: DType) -> Option<MapFn> {
                match dtype {
                    DType::F32 => Some(map::<Plain<f32>, Divide>),
                    DType::F64 => Some(map::<Plain<f64>, Divide>),
                    DType::F16 => Some(map::<F16, Divide>),
                    DType::BF16 => Some(map::<Bf16, Divide>),
                    _ => None,
                }
            }
        }
    };
}

level!(generic);

/// Bytes or elements: the bit operations work on bytes, whatever the dtype.
pub(super) fn lane_size(dtype: DType, op: ReduceOp) -> usize {
    if op.is_bitwise() { 1 } else { dtype.size() }
}
