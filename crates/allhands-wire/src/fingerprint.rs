use std::fmt;

/// What a fingerprint is made of.
///
/// Codes are plain numbers: this crate knows no operation, no dtype and no algorithm by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FingerprintParts {
    /// Code of the collective, below 64.
    pub op: u8,
    /// Code of the reduction, below 16; 0 where nothing is reduced.
    pub reduce_op: u8,
    /// Code of the dtype, below 32; 0 where there is none.
    pub dtype: u8,
    /// The root's rank in the group, if the collective has one.
    pub root: Option<u32>,
    /// Length in elements; 0 where ranks may differ.
    pub count: u64,
    /// Code of the algorithm that was chosen: ranks that chose differently would deadlock.
    pub algorithm: u8,
    /// Bits of the factor of a scaled sum; 0 without one.
    pub premul_bits: u64,
    /// Whatever else must be equal on all ranks (tag, number of splits, hook).
    pub extra: u64,
}

/// What a rank believes an operation is, in 64 bits.
///
/// Every data frame carries it, so two ranks that call different things learn it from the first
/// message, which had to travel anyway. It is packed and not only hashed, so that the error can
/// say *what* differs with no round trip:
///
/// | bits | content |
/// |---|---|
/// | 58–63 | operation |
/// | 54–57 | reduction |
/// | 49–53 | dtype |
/// | 32–48 | root; `0x1FFFF`: none |
/// | 0–31 | hash of all parts |
///
/// The hash covers the packed fields too, so a code too large for its bits still tells two
/// operations apart. Its value is part of the wire format. It is no protection against a forger;
/// two different operations share one with probability 2⁻³².
///
/// ```
/// use allhands_wire::{Fingerprint, FingerprintParts};
///
/// let mine = FingerprintParts { op: 1, reduce_op: 1, dtype: 1, count: 4096, ..Default::default() };
/// let theirs = FingerprintParts { dtype: 3, ..mine };
/// let differences = Fingerprint::new(mine).differences(Fingerprint::new(theirs));
/// assert_eq!(differences.to_string(), "dtype");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub u64);

impl Fingerprint {
    /// No fingerprint, for frames that belong to no operation.
    pub const NONE: Self = Self(0);

    /// The root field's value for "no root".
    pub const NO_ROOT: u32 = 0x1_FFFF;

    /// Packs and hashes `parts`.
    #[inline]
    pub const fn new(parts: FingerprintParts) -> Self {
        let root = match parts.root {
            Some(root) => root,
            None => u32::MAX,
        };
        let codes = parts.op as u64
            | (parts.reduce_op as u64) << 8
            | (parts.dtype as u64) << 16
            | (parts.algorithm as u64) << 24
            | (root as u64) << 32;
        let mut hash = mix(0x2545_F491_4F6C_DD1D, codes);
        hash = mix(hash, parts.count);
        hash = mix(hash, parts.premul_bits);
        hash = mix(hash, parts.extra);
        // The last multiplication spreads the high half, which the shift folds into the low one.
        let hash = mix(hash, 0) & 0xFFFF_FFFF;
        Self(
            ((parts.op as u64) & 0x3F) << 58
                | ((parts.reduce_op as u64) & 0xF) << 54
                | ((parts.dtype as u64) & 0x1F) << 49
                | ((root & Self::NO_ROOT) as u64) << 32
                | hash,
        )
    }

    /// Code of the operation.
    #[inline]
    pub const fn op(self) -> u8 {
        (self.0 >> 58) as u8
    }

    /// Code of the reduction.
    #[inline]
    pub const fn reduce_op(self) -> u8 {
        (self.0 >> 54) as u8 & 0xF
    }

    /// Code of the dtype.
    #[inline]
    pub const fn dtype(self) -> u8 {
        (self.0 >> 49) as u8 & 0x1F
    }

    /// The root's rank in the group, if there is one.
    #[inline]
    pub const fn root(self) -> Option<u32> {
        match (self.0 >> 32) as u32 & Self::NO_ROOT {
            Self::NO_ROOT => None,
            root => Some(root),
        }
    }

    /// The hash of all parts.
    #[inline]
    pub const fn hash(self) -> u32 {
        self.0 as u32
    }

    /// The fields in which two fingerprints differ.
    pub const fn differences(self, other: Self) -> Differences {
        let mut bits = 0;
        if self.op() != other.op() {
            bits |= 1 << Field::Op as u8;
        }
        if self.reduce_op() != other.reduce_op() {
            bits |= 1 << Field::ReduceOp as u8;
        }
        if self.dtype() != other.dtype() {
            bits |= 1 << Field::Dtype as u8;
        }
        if (self.0 ^ other.0) >> 32 & Self::NO_ROOT as u64 != 0 {
            bits |= 1 << Field::Root as u8;
        }
        if bits == 0 && self.hash() != other.hash() {
            bits = 1 << Field::Details as u8;
        }
        Differences(bits)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "op {} reduction {} dtype {}", self.op(), self.reduce_op(), self.dtype())?;
        match self.root() {
            Some(root) => write!(f, " root {root}")?,
            None => f.write_str(" no root")?,
        }
        write!(f, " details {:08x}", self.hash())
    }
}

/// One step of the hash: for a given state it maps different words to different states.
const fn mix(state: u64, word: u64) -> u64 {
    let product = (state ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    product ^ (product >> 32)
}

/// A field of a [`Fingerprint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Field {
    /// The operation itself.
    Op,
    /// The reduction.
    ReduceOp,
    /// The dtype.
    Dtype,
    /// The root.
    Root,
    /// Something that is only hashed: count, algorithm, factor, tag, splits.
    ///
    /// Reported only when nothing else differs, because the hash covers the other fields too.
    Details,
}

impl Field {
    const ALL: [Self; 5] = [Self::Op, Self::ReduceOp, Self::Dtype, Self::Root, Self::Details];

    /// The name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Op => "operation",
            Self::ReduceOp => "reduction",
            Self::Dtype => "dtype",
            Self::Root => "root",
            Self::Details => "count, algorithm or other details",
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The fields in which two fingerprints differ. It prints as a list of their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Differences(u8);

impl Differences {
    /// Whether the fingerprints are equal.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The fields, most telling first.
    pub fn iter(self) -> impl Iterator<Item = Field> {
        Field::ALL.into_iter().filter(move |&field| self.0 & 1 << field as u8 != 0)
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, field) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            f.write_str(field.name())?;
        }
        Ok(())
    }
}
