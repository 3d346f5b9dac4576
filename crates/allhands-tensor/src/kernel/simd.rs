//! Which instructions the kernels use.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

/// The variable that overrides the choice of instructions: `generic`, `avx2` or `avx512`.
pub const SIMD_VARIABLE: &str = "ALLHANDS_SIMD";

/// A set of instructions that kernels are compiled for. All levels give the same bits.
///
/// ```
/// use allhands_tensor::SimdLevel;
/// assert!(SimdLevel::Generic.is_available());
/// assert!(SimdLevel::active() <= SimdLevel::best());
/// assert_eq!("avx2".parse(), Ok(SimdLevel::Avx2));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum SimdLevel {
    /// What the target always has (SSE2 on x86-64), as the compiler vectorises it.
    Generic,
    /// AVX2 and F16C.
    Avx2,
    /// AVX-512 F, BW, VL and DQ, with F16C.
    Avx512,
}

impl SimdLevel {
    /// Every level, the plainest first.
    pub const ALL: [SimdLevel; 3] = [SimdLevel::Generic, SimdLevel::Avx2, SimdLevel::Avx512];

    /// The name, as `ALLHANDS_SIMD` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            SimdLevel::Generic => "generic",
            SimdLevel::Avx2 => "avx2",
            SimdLevel::Avx512 => "avx512",
        }
    }

    /// Whether this processor has the level.
    pub fn is_available(self) -> bool {
        match self {
            SimdLevel::Generic => true,
            SimdLevel::Avx2 => has_avx2(),
            SimdLevel::Avx512 => has_avx512(),
        }
    }

    /// The highest level that this processor has.
    pub fn best() -> SimdLevel {
        let mut from_the_top = Self::ALL.into_iter().rev();
        from_the_top.find(|level| level.is_available()).unwrap_or(SimdLevel::Generic)
    }

    /// What `ALLHANDS_SIMD` asks for, if it is set.
    ///
    /// # Errors
    /// [`UnknownSimdLevel`] if it is set to something else than a level's name. Kernels ignore
    /// such a value, so whoever reads the configuration should ask here and complain.
    pub fn requested() -> Result<Option<SimdLevel>, UnknownSimdLevel> {
        match std::env::var_os(SIMD_VARIABLE) {
            None => Ok(None),
            Some(value) => value.to_string_lossy().parse().map(Some),
        }
    }

    /// The level that kernels use: the best one, or a lower one that `ALLHANDS_SIMD` asks for.
    ///
    /// Decided once in a process, at the first call.
    pub fn active() -> SimdLevel {
        static ACTIVE: OnceLock<SimdLevel> = OnceLock::new();
        *ACTIVE.get_or_init(|| {
            let best = Self::best();
            match Self::requested() {
                Ok(Some(level)) => level.min(best),
                Ok(None) | Err(_) => best,
            }
        })
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx2() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512() -> bool {
    false
}

impl fmt::Display for SimdLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A word that names no [`SimdLevel`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is not an instruction set; use generic, avx2 or avx512")]
pub struct UnknownSimdLevel(pub String);

impl FromStr for SimdLevel {
    type Err = UnknownSimdLevel;

    fn from_str(word: &str) -> Result<Self, UnknownSimdLevel> {
        let level = Self::ALL.into_iter().find(|level| level.name() == word);
        level.ok_or_else(|| UnknownSimdLevel(word.to_owned()))
    }
}
