//! Medians, spreads and percentiles.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Values from several rounds, reduced to what is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rounds {
    /// The middle value (the lower one of two).
    pub median: f64,
    /// The smallest value.
    pub min: f64,
    /// The largest value.
    pub max: f64,
    /// Every round's value, in the order in which they were measured.
    pub all: Vec<f64>,
}

impl Rounds {
    /// Sums up `all`; `None` when there is no value.
    #[must_use]
    pub fn of(all: Vec<f64>) -> Option<Self> {
        let mut sorted = all.clone();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        Some(Self { median: sorted[(sorted.len() - 1) / 2], min, max, all })
    }

    /// `(max - min) / median`, in percent.
    #[must_use]
    pub fn spread_percent(&self) -> f64 {
        if self.median > 0.0 { (self.max - self.min) / self.median * 100.0 } else { 0.0 }
    }
}

/// The longest time a histogram holds: ten minutes.
const HISTOGRAM_MAX_NS: u64 = 600_000_000_000;

/// Times in nanoseconds with three significant digits, merged over ranks and rounds.
#[derive(Clone, Debug)]
pub struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        // The bounds are constants that the crate documents as valid.
        Self(Histogram::new_with_bounds(1, HISTOGRAM_MAX_NS, 3).expect("valid bounds"))
    }
}

impl Times {
    /// Adds `count` times of `ns` nanoseconds; longer ones count as the longest.
    pub fn add(&mut self, ns: u64, count: u64) {
        self.0.saturating_record_n(ns.max(1), count);
    }

    /// Adds everything `other` holds.
    pub fn merge(&mut self, other: &Self) {
        for (ns, count) in other.pairs() {
            self.add(ns, count);
        }
    }

    /// Whether nothing was added yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The given quantile (0 to 1) in microseconds; `None` when empty.
    #[must_use]
    pub fn quantile_us(&self, quantile: f64) -> Option<f64> {
        (!self.is_empty()).then(|| self.0.value_at_quantile(quantile) as f64 / 1e3)
    }

    /// What was recorded, as pairs of nanoseconds and counts.
    #[must_use]
    pub fn pairs(&self) -> Vec<(u64, u64)> {
        self.0.iter_recorded().map(|v| (v.value_iterated_to(), v.count_at_value())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_spread() {
        let rounds = Rounds::of(vec![3.0, 1.0, 2.0, 5.0, 4.0]).unwrap();
        assert_eq!((rounds.median, rounds.min, rounds.max), (3.0, 1.0, 5.0));
        assert!((rounds.spread_percent() - 400.0 / 3.0).abs() < 1e-9);
        assert_eq!(Rounds::of(vec![]), None);
        assert_eq!(Rounds::of(vec![7.0, 9.0]).unwrap().median, 7.0);
    }

    #[test]
    fn quantiles_survive_the_trip_as_pairs() {
        let mut times = Times::default();
        assert_eq!(times.quantile_us(0.5), None);
        for ns in 1..=1000 {
            times.add(ns * 1000, 1);
        }
        let mut merged = Times::default();
        for (ns, count) in times.pairs() {
            merged.add(ns, count);
        }
        let p50 = merged.quantile_us(0.50).unwrap();
        let p99 = merged.quantile_us(0.99).unwrap();
        assert!((499.0..=501.5).contains(&p50), "{p50}");
        assert!((989.0..=991.5).contains(&p99), "{p99}");
        times.merge(&merged);
        assert_eq!(times.pairs().iter().map(|(_, n)| n).sum::<u64>(), 2000);
    }

    #[test]
    fn extremes_are_clamped() {
        let mut times = Times::default();
        times.add(0, 1);
        times.add(u64::MAX, 1);
        assert!(times.quantile_us(1.0).unwrap() >= 599_000_000.0);
    }
}
