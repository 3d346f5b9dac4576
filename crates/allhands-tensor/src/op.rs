//! The ways in which operands can be combined.

use std::fmt;

/// How the elements of several ranks become one.
///
/// What is not defined (bit operations on floats, a mean of integers) is refused by
/// [`Kernel::new`](crate::Kernel::new).
///
/// ```
/// use allhands_tensor::ReduceOp;
/// assert_eq!(ReduceOp::Avg.name(), "avg");
/// assert_eq!(ReduceOp::Sum.code(), 1);
/// ```
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub enum ReduceOp {
    /// Sum. Integers wrap.
    Sum,
    /// Product. Integers wrap.
    Product,
    /// Minimum. Floats: IEEE-754 `minimum`, so a NaN wins and -0 is less than +0.
    Min,
    /// Maximum. Floats: IEEE-754 `maximum`, so a NaN wins and +0 is more than -0.
    Max,
    /// Bitwise and. Integers and booleans only.
    BitAnd,
    /// Bitwise or. Integers and booleans only.
    BitOr,
    /// Bitwise exclusive or. Integers and booleans only.
    BitXor,
    /// Sum, then divided by the number of ranks. Floats only.
    Avg,
    /// Every operand is multiplied by the factor before the sum. Floats only.
    ///
    /// The factor is rounded to f32 for f32, f16 and bf16.
    PremulSum(f64),
}

impl ReduceOp {
    /// The stable number of this operation, 1 to 9, as it goes on the wire.
    pub const fn code(self) -> u8 {
        match self {
            ReduceOp::Sum => 1,
            ReduceOp::Product => 2,
            ReduceOp::Min => 3,
            ReduceOp::Max => 4,
            ReduceOp::BitAnd => 5,
            ReduceOp::BitOr => 6,
            ReduceOp::BitXor => 7,
            ReduceOp::Avg => 8,
            ReduceOp::PremulSum(_) => 9,
        }
    }

    /// The short lower-case name, as in `"sum"`.
    pub const fn name(self) -> &'static str {
        match self {
            ReduceOp::Sum => "sum",
            ReduceOp::Product => "product",
            ReduceOp::Min => "min",
            ReduceOp::Max => "max",
            ReduceOp::BitAnd => "bit-and",
            ReduceOp::BitOr => "bit-or",
            ReduceOp::BitXor => "bit-xor",
            ReduceOp::Avg => "avg",
            ReduceOp::PremulSum(_) => "premul-sum",
        }
    }

    /// Whether this is one of the three bitwise operations.
    pub const fn is_bitwise(self) -> bool {
        matches!(self, ReduceOp::BitAnd | ReduceOp::BitOr | ReduceOp::BitXor)
    }
}

impl fmt::Display for ReduceOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReduceOp::PremulSum(factor) => write!(f, "premul-sum({factor})"),
            other => f.pad(other.name()),
        }
    }
}
