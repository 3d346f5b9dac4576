//! Sizes as people type them: `4`, `1K`, `4,64,1K`, `4..64M` and `4..64M:16`.

use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};

/// Growth from one size of a range to the next when none is given.
pub const DEFAULT_FACTOR: u64 = 4;
/// The largest size accepted: what a wire transfer may hold.
pub const MAX_SIZE: u64 = 1 << 38;

/// An ascending list of sizes in bytes without duplicates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes(Vec<u64>);

impl Sizes {
    /// The sizes, in bytes, ascending.
    #[must_use]
    pub fn bytes(&self) -> &[u64] {
        &self.0
    }
}

impl FromStr for Sizes {
    type Err = anyhow::Error;

    /// Parses a comma-separated list of sizes and ranges; a range's `:factor` is optional.
    fn from_str(text: &str) -> Result<Self> {
        let mut all = Vec::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let Some((from, rest)) = item.split_once("..") else {
                all.push(size(item)?);
                continue;
            };
            let (to, factor) = match rest.split_once(':') {
                Some((to, factor)) => (
                    to,
                    factor.parse().with_context(|| format!("`{factor}` is no growth factor"))?,
                ),
                None => (rest, DEFAULT_FACTOR),
            };
            ensure!(factor >= 2, "the growth factor in `{item}` must be at least 2");
            let (mut at, to) = (size(from)?, size(to)?);
            ensure!(at > 0 && at <= to, "the range `{item}` is empty or starts at zero");
            while at <= to {
                all.push(at);
                at = at.saturating_mul(factor);
            }
        }
        if all.is_empty() {
            bail!("no size given: try `4..64M:16` or `4,1K,1M`");
        }
        all.sort_unstable();
        all.dedup();
        Ok(Self(all))
    }
}

/// One size: digits and an optional binary suffix K, M or G (also KiB, MB, …).
fn size(text: &str) -> Result<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let number: u64 =
        number.parse().with_context(|| format!("`{text}` is no size: try 4, 16K or 64M"))?;
    let unit = match suffix.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => bail!("`{suffix}` in `{text}` is no unit: use K, M or G"),
    };
    let bytes = number.checked_mul(unit).filter(|bytes| *bytes <= MAX_SIZE);
    bytes.with_context(|| format!("`{text}` is more than {} GiB", MAX_SIZE >> 30))
}

/// A size as nccl-tests' readers like it: `4`, `1K`, `64M`; whole units only.
#[must_use]
pub fn short(bytes: u64) -> String {
    for (unit, name) in [(1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Vec<u64> {
        text.parse::<Sizes>().unwrap().0
    }

    #[test]
    fn lists_and_ranges() {
        assert_eq!(parse("4"), [4]);
        assert_eq!(parse("1M,4,1K,4"), [4, 1024, 1 << 20]);
        assert_eq!(parse("4..1K"), [4, 16, 64, 256, 1024]);
        assert_eq!(parse("4..64M:16"), [4, 64, 1024, 16384, 262_144, 4 << 20, 64 << 20]);
        assert_eq!(parse("8..9:2, 2 KiB"), [8, 2048]);
    }

    #[test]
    fn nonsense_is_refused_with_the_word_in_question() {
        for (text, word) in [
            ("", "no size"),
            ("12X", "`X`"),
            ("4..2", "4..2"),
            ("0..8", "0..8"),
            ("4..8:1", "at least 2"),
            ("4..8:x", "`x`"),
            ("-1", "`-1`"),
            ("999999999999G", "256 GiB"),
        ] {
            let err = text.parse::<Sizes>().unwrap_err().to_string();
            assert!(err.contains(word), "{text}: {err}");
        }
    }

    #[test]
    fn short_names_parse_back() {
        for bytes in [1, 4, 1000, 1024, 1536, 16384, 1 << 20, 64 << 20, 1 << 30] {
            assert_eq!(parse(&short(bytes)), [bytes]);
        }
    }
}
