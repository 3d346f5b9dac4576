//! Whether a result is near enough to the expected one.

use std::fmt;

use allhands_tensor::DType;

/// How near a result has to be to the expected one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tolerance {
    /// The same bits.
    Exact,
    /// Floats may differ by so much; infinities have to be equal, and NaN stands for every NaN.
    Within(f64),
}

impl Tolerance {
    /// The tolerance that the data's `atol` stands for: the stored result has an error of its own, so twice as much is
    /// allowed; none or zero means that every order of summation gives the same bits.
    #[must_use]
    pub fn from_atol(dtype: DType, atol: Option<f64>) -> Self {
        match atol {
            Some(atol) if dtype.is_float() && atol > 0.0 => Self::Within(2.0 * atol),
            _ => Self::Exact,
        }
    }
}

/// Compares buffers of one element type.
///
/// ```
/// use allhands_oracles::{Comparison, Tolerance};
/// use allhands_tensor::DType;
///
/// let near = Comparison::new(DType::F32, Tolerance::Within(1e-3));
/// let (one, about_one) = (1.0f32.to_ne_bytes(), 1.0001f32.to_ne_bytes());
/// near.check(&one, &about_one)?;
/// assert_eq!(near.check(&one, &2.0f32.to_ne_bytes()).unwrap_err().index, Some(0));
/// # Ok::<(), allhands_oracles::Mismatch>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    dtype: DType,
    tolerance: Tolerance,
}

/// The first element that is off, and how many there are.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Mismatch {
    /// Position of the first wrong element; `None` if the lengths differ.
    pub index: Option<usize>,
    /// Number of wrong elements.
    pub wrong: usize,
    /// Number of expected elements.
    pub total: usize,
    /// What was expected, what was found, and the limit, in words.
    pub detail: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            Some(index) => {
                write!(
                    f,
                    "{} of {} elements wrong, first at {index}: {}",
                    self.wrong, self.total, self.detail
                )
            }
            None => write!(f, "{}", self.detail),
        }
    }
}

impl std::error::Error for Mismatch {}

impl Comparison {
    /// A comparison of buffers of `dtype`.
    #[must_use]
    pub const fn new(dtype: DType, tolerance: Tolerance) -> Self {
        Self { dtype, tolerance }
    }

    /// Compares two buffers of bytes.
    ///
    /// # Errors
    /// Lengths differ, or an element is further off than the tolerance.
    pub fn check(&self, expected: &[u8], actual: &[u8]) -> Result<(), Mismatch> {
        let size = self.dtype.size();
        let total = expected.len() / size;
        if expected.len() != actual.len() {
            return Err(Mismatch {
                index: None,
                wrong: total,
                total,
                detail: format!("{} bytes expected, {} found", expected.len(), actual.len()),
            });
        }
        let mut first = None;
        let mut wrong = 0;
        for (index, (want, have)) in
            expected.chunks_exact(size).zip(actual.chunks_exact(size)).enumerate()
        {
            if !self.near(want, have) {
                wrong += 1;
                first.get_or_insert_with(|| (index, self.explain(want, have)));
            }
        }
        match first {
            None => Ok(()),
            Some((index, detail)) => Err(Mismatch { index: Some(index), wrong, total, detail }),
        }
    }

    fn near(&self, want: &[u8], have: &[u8]) -> bool {
        if want == have {
            return true;
        }
        if !self.dtype.is_float() {
            return false;
        }
        let (want, have) = (float(self.dtype, want), float(self.dtype, have));
        if want.is_nan() || have.is_nan() {
            // Which NaN comes out is not torch's promise either.
            return want.is_nan() && have.is_nan();
        }
        match self.tolerance {
            Tolerance::Exact => false,
            Tolerance::Within(_) if want.is_infinite() || have.is_infinite() => want == have,
            Tolerance::Within(limit) => (want - have).abs() <= limit,
        }
    }

    fn explain(&self, want: &[u8], have: &[u8]) -> String {
        if !self.dtype.is_float() {
            return format!("expected bytes {want:02x?}, found {have:02x?}");
        }
        let (w, h) = (float(self.dtype, want), float(self.dtype, have));
        match self.tolerance {
            Tolerance::Exact => format!("expected {w:e} ({want:02x?}), found {h:e} ({have:02x?})"),
            Tolerance::Within(limit) => {
                format!(
                    "expected {w:e}, found {h:e}, off by {:e}, allowed {limit:e}",
                    (w - h).abs()
                )
            }
        }
    }
}

/// The value of one little-endian float element; every float type fits an f64 exactly.
pub(crate) fn float(dtype: DType, bytes: &[u8]) -> f64 {
    match dtype {
        DType::F64 => f64::from_le_bytes(bytes.try_into().expect("eight bytes")),
        DType::F32 => f32::from_le_bytes(bytes.try_into().expect("four bytes")).into(),
        DType::F16 => half::f16::from_le_bytes(bytes.try_into().expect("two bytes")).into(),
        DType::BF16 => half::bf16::from_le_bytes(bytes.try_into().expect("two bytes")).into(),
        other => unreachable!("{} is not a float type", other.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f32s(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn tells_lengths_values_and_nan_apart() {
        let exact = Comparison::new(DType::F32, Tolerance::Exact);
        let near = Comparison::new(DType::F32, Tolerance::Within(0.5));
        let inf = f32::INFINITY;
        assert!(exact.check(&f32s(&[1.0, f32::NAN]), &f32s(&[1.0, -f32::NAN])).is_ok());
        assert!(exact.check(&f32s(&[0.0]), &f32s(&[-0.0])).is_err(), "the sign of zero is a bit");
        assert!(near.check(&f32s(&[0.0]), &f32s(&[-0.0])).is_ok());
        assert!(near.check(&f32s(&[inf, -inf]), &f32s(&[inf, -inf])).is_ok());
        assert!(near.check(&f32s(&[inf]), &f32s(&[-inf])).is_err());
        assert!(near.check(&f32s(&[inf]), &f32s(&[f32::MAX])).is_err());
        assert!(near.check(&f32s(&[1.0]), &f32s(&[f32::NAN])).is_err());
        assert!(near.check(&f32s(&[f32::NAN]), &f32s(&[1.0])).is_err());
        assert!(near.check(&f32s(&[1.0]), &f32s(&[1.5])).is_ok());
        let off = near.check(&f32s(&[1.0, 1.0, 1.0]), &f32s(&[1.0, 2.0, 3.0])).unwrap_err();
        assert_eq!((off.index, off.wrong, off.total), (Some(1), 2, 3));
        assert_eq!(near.check(&f32s(&[1.0]), &[]).unwrap_err().index, None);
    }

    #[test]
    fn atol_counts_twice_and_only_for_floats() {
        assert_eq!(Tolerance::from_atol(DType::F16, Some(0.25)), Tolerance::Within(0.5));
        assert_eq!(Tolerance::from_atol(DType::F16, Some(0.0)), Tolerance::Exact);
        assert_eq!(Tolerance::from_atol(DType::F16, None), Tolerance::Exact);
        assert_eq!(Tolerance::from_atol(DType::I32, Some(1.0)), Tolerance::Exact);
    }

    #[test]
    fn integers_are_compared_bit_for_bit() {
        let loose = Comparison::new(DType::I32, Tolerance::Within(10.0));
        assert!(loose.check(&1i32.to_le_bytes(), &2i32.to_le_bytes()).is_err());
    }
}
