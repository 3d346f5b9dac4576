//! Joining what all ranks found.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::refusal::Refusal;
use crate::{Case, CaseResult, Outcome, RankReport};

/// Failures that a printed tally names; the rest is only counted.
const FAILURES_SHOWN: usize = 20;

/// Cases by kind: passed, failed, not applicable and why.
///
/// Its `Display` is a table followed by the first failures.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// In the order in which kinds first appear.
    rows: Vec<Row>,
    failures: Vec<String>,
}

#[derive(Clone, Debug)]
struct Row {
    name: String,
    passed: usize,
    failed: usize,
    /// Number of cases by reason.
    not_applicable: BTreeMap<String, usize>,
}

/// What a tally needs to know of a case.
struct Subject<'a> {
    id: &'a str,
    name: &'a str,
    world: u32,
    describe: String,
    same_bits: bool,
}

impl Tally {
    /// Joins the reports of all ranks of all worlds of `cases`.
    ///
    /// A case passes if every rank of its world reports that it passed and, where all ranks hold the same result, that
    /// they hold the same bits. A case that a rank does not report has failed.
    #[must_use]
    pub fn merge(cases: &[Case], reports: &[RankReport]) -> Self {
        let subjects = cases.iter().map(|case| Subject {
            id: &case.id,
            name: case.kind.name(),
            world: case.world,
            describe: case.describe(),
            same_bits: case.kind.agrees_on_all_ranks(),
        });
        Self::join(subjects, reports)
    }

    /// The same for the reports of [`run_refusals`](crate::refusal::run_refusals).
    #[must_use]
    pub fn merge_refusals(refusals: &[Refusal], reports: &[RankReport]) -> Self {
        let subjects = refusals.iter().map(|refusal| {
            let Refusal { id, op, world, note, .. } = refusal;
            let describe = format!("{id} {op} world {world}: {note}");
            Subject { id, name: op, world: *world, describe, same_bits: false }
        });
        Self::join(subjects, reports)
    }

    fn join<'a>(subjects: impl Iterator<Item = Subject<'a>>, reports: &[RankReport]) -> Self {
        let mut found: BTreeMap<(u32, &str), Vec<(u32, &CaseResult)>> = BTreeMap::new();
        for report in reports {
            for result in &report.results {
                found.entry((report.world, &result.id)).or_default().push((report.rank, result));
            }
        }
        let mut tally = Self::default();
        for subject in subjects {
            let results = found.get(&(subject.world, subject.id)).map_or(&[][..], Vec::as_slice);
            let outcome = verdict(&subject, results);
            let row = tally.row(subject.name);
            match outcome {
                Outcome::Passed => row.passed += 1,
                Outcome::NotApplicable(reason) => {
                    *row.not_applicable.entry(reason).or_default() += 1;
                }
                Outcome::Failed(words) => {
                    row.failed += 1;
                    tally.failures.push(format!("{}: {words}", subject.describe));
                }
            }
        }
        tally
    }

    fn row(&mut self, name: &str) -> &mut Row {
        let at = self.rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
            let (name, not_applicable) = (name.into(), BTreeMap::new());
            self.rows.push(Row { name, passed: 0, failed: 0, not_applicable });
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    /// Number of cases that passed on every rank.
    #[must_use]
    pub fn passed(&self) -> usize {
        self.rows.iter().map(|row| row.passed).sum()
    }

    /// Number of cases that failed on any rank.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.rows.iter().map(|row| row.failed).sum()
    }

    /// Number of cases that the implementation leaves out by design.
    #[must_use]
    pub fn not_applicable(&self) -> usize {
        self.rows.iter().flat_map(|row| row.not_applicable.values()).sum()
    }

    /// Every failure, in the order of the cases.
    #[must_use]
    pub fn failures(&self) -> &[String] {
        &self.failures
    }
}

fn verdict(subject: &Subject<'_>, results: &[(u32, &CaseResult)]) -> Outcome {
    if let Some((rank, words)) = results.iter().find_map(|(rank, result)| match &result.outcome {
        Outcome::Failed(words) => Some((rank, words)),
        _ => None,
    }) {
        return Outcome::Failed(format!("rank {rank}: {words}"));
    }
    if let Some(reason) = results.iter().find_map(|(_, result)| match &result.outcome {
        Outcome::NotApplicable(reason) => Some(reason),
        _ => None,
    }) {
        return Outcome::NotApplicable(reason.clone());
    }
    let ranks: BTreeSet<u32> = results.iter().map(|(rank, _)| *rank).collect();
    if let Some(rank) = (0..subject.world).find(|rank| !ranks.contains(rank)) {
        return Outcome::Failed(format!("rank {rank} reported nothing"));
    }
    let (first, rest) = results.split_first().expect("every rank has reported");
    match rest.iter().find(|(_, result)| result.digest != first.1.digest) {
        Some((rank, _)) if subject.same_bits => {
            Outcome::Failed(format!("ranks {} and {rank} hold different bits", first.0))
        }
        _ => Outcome::Passed,
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max(5);
        writeln!(f, "{:width$} {:>7} {:>7} {:>15}", "kind", "passed", "failed", "not applicable")?;
        for row in &self.rows {
            let skipped: usize = row.not_applicable.values().sum();
            write!(f, "{:width$} {:>7} {:>7} {:>15}", row.name, row.passed, row.failed, skipped)?;
            let reasons =
                row.not_applicable.iter().map(|(reason, count)| format!("{count}: {reason}"));
            let reasons = reasons.collect::<Vec<_>>().join("; ");
            writeln!(f, "{}{reasons}", if reasons.is_empty() { "" } else { "  " })?;
        }
        let (passed, failed, skipped) = (self.passed(), self.failed(), self.not_applicable());
        writeln!(f, "{:width$} {passed:>7} {failed:>7} {skipped:>15}", "total")?;
        for failure in self.failures.iter().take(FAILURES_SHOWN) {
            writeln!(f, "failed: {failure}")?;
        }
        match self.failures.len().saturating_sub(FAILURES_SHOWN) {
            0 => Ok(()),
            more => writeln!(f, "and {more} more"),
        }
    }
}
