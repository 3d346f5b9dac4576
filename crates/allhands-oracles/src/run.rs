//! Running cases on one rank.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{Action, Case, Comparison, DenseGroup, Kind, Received, WaitOrder};

/// What output buffers hold before a call, so that an element nobody wrote is found.
const UNTOUCHED: u8 = 0xa5;

/// How much later than the others the late rank of a barrier case calls. A barrier that lets ranks through early is
/// seen when they look for the late one; nothing is decided by how long it takes.
const LATENESS: Duration = Duration::from_millis(2);

/// How one case ended on one rank, or on all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As expected.
    Passed,
    /// Not as expected, and how.
    Failed(String),
    /// The implementation has no such call by design, and why.
    NotApplicable(String),
}

/// How one case ended on one rank.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CaseResult {
    /// The case.
    pub id: String,
    /// How it ended.
    pub outcome: Outcome,
    /// A hash of the bytes the rank holds, to be compared between ranks.
    pub digest: u64,
}

/// How all cases ended on one rank.
///
/// A rank in another process hands it over as text: [`to_text`](Self::to_text), [`from_text`](Self::from_text).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RankReport {
    /// The rank.
    pub rank: u32,
    /// Number of ranks.
    pub world: u32,
    /// By case, in the order in which they ran.
    pub results: Vec<CaseResult>,
}

impl RankReport {
    pub(crate) const fn new(rank: u32, world: u32) -> Self {
        Self { rank, world, results: Vec::new() }
    }

    pub(crate) fn push(&mut self, id: &str, outcome: Outcome, digest: u64) {
        self.results.push(CaseResult { id: id.into(), outcome, digest });
    }

    /// One line per case, parsed by [`from_text`](Self::from_text).
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!("rank {} of {}\n", self.rank, self.world);
        for result in &self.results {
            let (mark, words) = match &result.outcome {
                Outcome::Passed => ('+', ""),
                Outcome::Failed(words) => ('-', words.as_str()),
                Outcome::NotApplicable(words) => ('0', words.as_str()),
            };
            let words = words.replace(['\n', '\t'], " ");
            text += &format!("{mark}\t{}\t{:016x}\t{words}\n", result.id, result.digest);
        }
        text + "end\n"
    }

    /// The report that [`to_text`](Self::to_text) wrote; `None` if the text is damaged or incomplete, as that of a
    /// process that died is.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let (rank, world) = lines.next()?.strip_prefix("rank ")?.split_once(" of ")?;
        let mut report = Self::new(rank.parse().ok()?, world.parse().ok()?);
        for line in lines.by_ref() {
            if line == "end" {
                return lines.next().is_none().then_some(report);
            }
            let mut fields = line.splitn(4, '\t');
            let (mark, id) = (fields.next()?, fields.next()?);
            let digest = u64::from_str_radix(fields.next()?, 16).ok()?;
            let words = fields.next()?.to_string();
            let outcome = match mark {
                "+" => Outcome::Passed,
                "-" => Outcome::Failed(words),
                "0" => Outcome::NotApplicable(words),
                _ => return None,
            };
            report.push(id, outcome, digest);
        }
        None
    }
}

/// How ranks see each other outside the group, to judge a barrier.
#[derive(Clone, Debug)]
pub struct Witness(Seen);

#[derive(Clone, Debug)]
enum Seen {
    Shared(Arc<Mutex<BTreeMap<String, u32>>>),
    Folder(PathBuf),
}

impl Witness {
    /// For ranks that are threads: clone it into each.
    #[must_use]
    pub fn shared() -> Self {
        Self(Seen::Shared(Arc::default()))
    }

    /// For ranks that are processes: an empty folder that all of them can write.
    #[must_use]
    pub const fn folder(folder: PathBuf) -> Self {
        Self(Seen::Folder(folder))
    }

    pub(crate) fn arrive(&self, id: &str, rank: u32) -> Result<(), String> {
        match &self.0 {
            Seen::Shared(counts) => {
                *counts
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .entry(id.into())
                    .or_default() += 1;
                Ok(())
            }
            Seen::Folder(folder) => {
                let path = folder.join(format!("{id}-{rank}"));
                std::fs::write(&path, "")
                    .map_err(|error| format!("witness {}: {error}", path.display()))
            }
        }
    }

    pub(crate) fn arrived(&self, id: &str, world: u32) -> u32 {
        match &self.0 {
            Seen::Shared(counts) => {
                counts.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied().unwrap_or(0)
            }
            Seen::Folder(folder) => {
                let here = |rank: &u32| folder.join(format!("{id}-{rank}")).exists();
                u32::try_from((0..world).filter(here).count()).expect("at most world")
            }
        }
    }
}

/// Runs every case whose world is the group's on this rank, in order. All ranks of the group have to do so.
///
/// After a call that returns an error the group may be unusable, and other ranks may be at another case; so the
/// remaining cases are not run, and count as failed.
pub fn run_rank<G: DenseGroup>(cases: &[Case], group: &mut G, witness: &Witness) -> RankReport {
    let world = group.world();
    let mut report = RankReport::new(group.rank(), world);
    let mut broken: Option<String> = None;
    for case in cases.iter().filter(|case| case.world == world) {
        let skip = case.kind.out_of_scope().or_else(|| group.not_applicable(case.kind));
        if let Some(reason) = skip {
            report.push(&case.id, Outcome::NotApplicable(reason.into()), 0);
        } else if let Some(id) = &broken {
            let words = format!("not run: the group failed earlier, at {id}");
            report.push(&case.id, Outcome::Failed(words), 0);
        } else {
            match run_case(case, group, witness) {
                Ok(end) => {
                    let outcome = end.verdict.map_or_else(Outcome::Failed, |()| Outcome::Passed);
                    report.push(&case.id, outcome, digest(&end.held));
                }
                Err(words) => {
                    broken = Some(case.id.clone());
                    report.push(&case.id, Outcome::Failed(words), 0);
                }
            }
        }
    }
    report
}

/// How a call that returned no error ended.
struct End {
    /// What the rank holds, with its pieces joined.
    held: Vec<u8>,
    /// Whether that is right, else what is wrong.
    verdict: Result<(), String>,
}

/// Makes the call of one case; an error is one of the call itself.
fn run_case<G: DenseGroup>(case: &Case, group: &mut G, witness: &Witness) -> Result<End, String> {
    let failed = |error: G::Error| format!("the call failed: {error:?}");
    let (rank, world) = (group.rank() as usize, case.world as usize);
    let dtype = case.dtype;
    let input = case.inputs[rank].as_slice();
    let op = || case.reduce_op.ok_or_else(|| "the case names no reduction".to_string());
    let root = || case.root.ok_or_else(|| "the case names no root".to_string());
    let mut held = vec![UNTOUCHED; case.expected[rank].as_ref().map_or(0, Vec::len)];
    match case.kind {
        Kind::Broadcast => {
            held = input.to_vec();
            group.broadcast(dtype, &mut held, root()?).map_err(failed)?;
        }
        Kind::AllReduce => {
            held = input.to_vec();
            group.all_reduce(dtype, op()?, &mut held).map_err(failed)?;
        }
        Kind::Reduce => {
            held = input.to_vec();
            group.reduce(dtype, op()?, &mut held, root()?).map_err(failed)?;
        }
        Kind::AllGatherBase => group.all_gather(dtype, input, &mut held).map_err(failed)?,
        Kind::AllGather => {
            let mut outputs = equal_parts(&mut held, world);
            group.all_gather_list(dtype, input, &mut outputs).map_err(failed)?;
        }
        Kind::Gather => {
            let root = root()?;
            let mut outputs = (root as usize == rank).then(|| equal_parts(&mut held, world));
            group.gather(dtype, input, outputs.as_deref_mut(), root).map_err(failed)?;
        }
        Kind::Scatter => {
            let root = root()?;
            let inputs =
                (root as usize == rank).then(|| cut(input, &vec![input.len() / world; world]));
            group.scatter(dtype, inputs.as_deref(), &mut held, root).map_err(failed)?;
        }
        Kind::ReduceScatterBase => {
            group.reduce_scatter(dtype, op()?, input, &mut held).map_err(failed)?;
        }
        Kind::ReduceScatter => {
            let inputs = cut(input, &vec![input.len() / world; world]);
            group.reduce_scatter_list(dtype, op()?, &inputs, &mut held).map_err(failed)?;
        }
        Kind::AllToAllBase => group.all_to_all(dtype, input, &mut held).map_err(failed)?,
        Kind::AllToAllBaseSplits | Kind::AllToAll => {
            let splits = case.splits.as_ref().ok_or("the case has no splits")?;
            let (send, recv) = (&splits.input[rank], &splits.output[rank]);
            if case.kind == Kind::AllToAll {
                let bytes =
                    |counts: &[usize]| counts.iter().map(|c| c * dtype.size()).collect::<Vec<_>>();
                let inputs = cut(input, &bytes(send));
                let mut outputs = cut_mut(&mut held, &bytes(recv));
                group.all_to_all_list(dtype, &inputs, &mut outputs).map_err(failed)?;
            } else {
                group.all_to_all_splits(dtype, input, send, &mut held, recv).map_err(failed)?;
            }
        }
        Kind::PointToPoint | Kind::PointToPointAnySource => {
            return exchange(case, group);
        }
        Kind::Barrier => {
            if root()? as usize == rank {
                let start = Instant::now();
                while start.elapsed() < LATENESS {
                    std::thread::yield_now();
                }
            }
            witness.arrive(&case.id, group.rank())?;
            group.barrier().map_err(failed)?;
            let arrived = witness.arrived(&case.id, case.world);
            if arrived < case.world {
                let words = format!("returned when {arrived} of {world} ranks had called");
                return Ok(End { held, verdict: Err(words) });
            }
        }
        Kind::SparseAllReduce => {
            let sparse = case.sparse.as_ref().ok_or("the case has no sparse tensors")?;
            let sum =
                group.all_reduce_sparse(dtype, op()?, &sparse.inputs[rank]).map_err(failed)?;
            let verdict = sparse.expected.check(&sum, dtype, case.tolerance);
            return Ok(End { held: sum.bytes(), verdict });
        }
        Kind::SeveralTensorsPerRank | Kind::Coalesced => {
            return Err("this kind has no runner".into());
        }
    }
    let verdict = judge(case, group.rank(), &held);
    Ok(End { held, verdict })
}

/// Runs this rank's program. Where the order of receives is free, both sides are sorted.
fn exchange<G: DenseGroup>(case: &Case, group: &mut G) -> Result<End, String> {
    let rank = group.rank() as usize;
    let programs = case.programs.as_ref().ok_or("the case has no programs")?;
    let program: &[Action] = &programs.actions[rank];
    let wait: WaitOrder = programs.wait;
    let mut received = group
        .point_to_point(case.dtype, program, wait)
        .map_err(|error| format!("the call failed: {error:?}"))?;
    let mut expected = programs.received[rank].clone();
    if case.kind == Kind::PointToPointAnySource {
        received.sort();
        expected.sort();
    }
    let verdict = judge_messages(case, &expected, &received);
    Ok(End { held: received.into_iter().flat_map(|message| message.data).collect(), verdict })
}

fn judge_messages(case: &Case, expected: &[Received], received: &[Received]) -> Result<(), String> {
    if received.len() != expected.len() {
        return Err(format!("{} receives ended, {} were issued", received.len(), expected.len()));
    }
    let comparison = Comparison::new(case.dtype, case.tolerance);
    for (k, (want, have)) in expected.iter().zip(received).enumerate() {
        if want.from != have.from {
            return Err(format!(
                "receive {k} names rank {} as its source, not {}",
                have.from, want.from
            ));
        }
        comparison
            .check(&want.data, &have.data)
            .map_err(|mismatch| format!("receive {k} from rank {}: {mismatch}", want.from))?;
    }
    Ok(())
}

fn judge(case: &Case, rank: u32, held: &[u8]) -> Result<(), String> {
    match &case.expected[rank as usize] {
        Some(expected) => Comparison::new(case.dtype, case.tolerance)
            .check(expected, held)
            .map_err(|mismatch| mismatch.to_string()),
        None => Ok(()),
    }
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

pub(crate) fn cut<'a>(mut bytes: &'a [u8], lens: &[usize]) -> Vec<&'a [u8]> {
    lens.iter().map(|len| bytes.split_off(..*len).expect("parts do not exceed the whole")).collect()
}

pub(crate) fn cut_mut<'a>(mut bytes: &'a mut [u8], lens: &[usize]) -> Vec<&'a mut [u8]> {
    lens.iter()
        .map(|len| bytes.split_off_mut(..*len).expect("parts do not exceed the whole"))
        .collect()
}

fn equal_parts(bytes: &mut [u8], parts: usize) -> Vec<&mut [u8]> {
    let each = bytes.len() / parts;
    cut_mut(bytes, &vec![each; parts])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_text() {
        let mut report = RankReport::new(1, 4);
        report.push("c0001", Outcome::Passed, 7);
        report.push("c0002", Outcome::Failed("two words\tand more".into()), u64::MAX);
        report.push("c0003", Outcome::NotApplicable("no such call".into()), 0);
        let text = report.to_text();
        let back = RankReport::from_text(&text).unwrap();
        assert_eq!(back.results[1].outcome, Outcome::Failed("two words and more".into()));
        assert_eq!((back.rank, back.world, back.results.len()), (1, 4, 3));
        assert_eq!(back.results[0], report.results[0]);
        assert_eq!(back.results[2], report.results[2]);
        for cut in 0..text.len() - 1 {
            assert_eq!(RankReport::from_text(&text[..cut]), None, "cut at {cut}");
        }
    }
}
