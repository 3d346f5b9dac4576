//! The harness judged by itself: a naive group passes everything, and a group that is wrong in one place does not.
#![allow(clippy::print_stderr, reason = "the tables are what a reader of the log looks for")]

use std::sync::OnceLock;
use std::time::Duration;

use allhands_oracles::naive::{self, NaiveError, NaiveGroup};
use allhands_oracles::refusal::{self, Rule, run_refusals, run_silence};
use allhands_oracles::{
    Action, Case, Coordinates, DenseGroup, Kind, Outcome, RankReport, Received, Tally, WaitOrder,
    Witness, golden, run_rank,
};
use allhands_tensor::{DType, ReduceOp};

fn cases() -> &'static [Case] {
    static CASES: OnceLock<Vec<Case>> = OnceLock::new();
    CASES.get_or_init(|| golden::load().expect("the golden data comes with the crate"))
}

/// Runs `run` on every rank of a naive group of each world, wrapped by `wrap`.
fn on_all_ranks<G: DenseGroup>(
    wrap: impl Fn(NaiveGroup) -> G + Sync,
    run: impl Fn(&mut G) -> RankReport + Sync,
) -> Vec<RankReport> {
    std::thread::scope(|scope| {
        let (wrap, run) = (&wrap, &run);
        let ranks: Vec<_> = (2..=5)
            .flat_map(naive::world)
            .map(|group| scope.spawn(move || run(&mut wrap(group))))
            .collect();
        ranks.into_iter().map(|rank| rank.join().expect("no rank panics")).collect()
    })
}

#[test]
fn the_naive_group_passes_every_case() {
    let witness = Witness::shared();
    let reports = on_all_ranks(|group| group, |group| run_rank(cases(), group, &witness));
    let tally = Tally::merge(cases(), &reports);
    eprintln!("{tally}");
    assert_eq!(tally.failed(), 0, "{tally}");
    // 1 030 calls of torch and one barrier for each late rank of worlds 2 to 5.
    assert_eq!(tally.passed() + tally.not_applicable(), 1030 + 14);
    // Several tensors per rank, coalesced.
    assert_eq!(tally.not_applicable(), 8 + 56);
}

#[test]
fn the_same_through_text_and_a_folder() {
    let folder = std::env::temp_dir().join(format!("allhands-oracles-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let witness = Witness::folder(folder.clone());
    let reports = on_all_ranks(|group| group, |group| run_rank(cases(), group, &witness));
    let reports: Vec<_> = reports
        .iter()
        .map(|report| RankReport::from_text(&report.to_text()).expect("a whole report"))
        .collect();
    std::fs::remove_dir_all(&folder).unwrap();
    let tally = Tally::merge(cases(), &reports);
    assert_eq!((tally.failed(), tally.not_applicable()), (0, 64), "{tally}");
}

#[test]
fn a_rank_that_reports_nothing_fails_its_cases() {
    let witness = Witness::shared();
    let mut reports = on_all_ranks(|group| group, |group| run_rank(cases(), group, &witness));
    reports.retain(|report| (report.world, report.rank) != (4, 2));
    let tally = Tally::merge(cases(), &reports);
    let of_world_4 = |case: &&Case| case.world == 4 && case.kind.out_of_scope().is_none();
    assert_eq!(tally.failed(), cases().iter().filter(of_world_4).count());
}

/// How a group is made wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// One bit of the last byte written is flipped.
    Bit,
    /// Results of rank 0 and of the others differ by the least significant bit, which no tolerance sees.
    Disagree,
    /// Nothing is written.
    Untouched,
    /// Receives name another source.
    Source,
    /// Barriers are left at once.
    Early,
    /// Every call fails.
    Failing,
}

struct Faulty {
    inner: NaiveGroup,
    fault: Fault,
}

impl Faulty {
    fn spoil(&self, data: &mut [u8]) {
        match (self.fault, data.last_mut()) {
            (Fault::Bit, Some(last)) => *last ^= 0x40,
            (Fault::Disagree, Some(_)) if self.inner.rank() == 0 => data[0] ^= 1,
            _ => {}
        }
    }

    fn spoil_list(&self, outputs: &mut [&mut [u8]]) {
        if let Some(last) = outputs.iter_mut().rfind(|output| !output.is_empty()) {
            self.spoil(last);
        }
    }

    fn write(&self) -> bool {
        self.fault != Fault::Untouched
    }

    fn enter(&self) -> Result<(), NaiveError> {
        match self.fault {
            Fault::Failing => Err(NaiveError { rank: self.inner.rank(), rule: Rule::Timeout }),
            _ => Ok(()),
        }
    }

    fn flat(
        &mut self,
        data: &mut [u8],
        call: impl FnOnce(&mut NaiveGroup, &mut [u8]) -> Result<(), NaiveError>,
    ) -> Result<(), NaiveError> {
        self.enter()?;
        let mut result = data.to_vec();
        call(&mut self.inner, &mut result)?;
        self.spoil(&mut result);
        if self.write() {
            data.copy_from_slice(&result);
        }
        Ok(())
    }
}

impl DenseGroup for Faulty {
    type Error = NaiveError;

    fn rank(&self) -> u32 {
        self.inner.rank()
    }

    fn world(&self) -> u32 {
        self.inner.world()
    }

    fn rule(error: &NaiveError) -> Option<Rule> {
        NaiveGroup::rule(error)
    }

    fn broadcast(&mut self, dtype: DType, data: &mut [u8], root: u32) -> Result<(), NaiveError> {
        self.flat(data, |inner, data| inner.broadcast(dtype, data, root))
    }

    fn all_reduce(
        &mut self,
        dtype: DType,
        op: ReduceOp,
        data: &mut [u8],
    ) -> Result<(), NaiveError> {
        self.flat(data, |inner, data| inner.all_reduce(dtype, op, data))
    }

    fn all_reduce_sparse(
        &mut self,
        dtype: DType,
        op: ReduceOp,
        tensor: &Coordinates,
    ) -> Result<Coordinates, NaiveError> {
        self.enter()?;
        let mut sum = self.inner.all_reduce_sparse(dtype, op, tensor)?;
        self.spoil(&mut sum.values);
        if self.write() {
            return Ok(sum);
        }
        sum.values.fill(0xa5);
        Ok(sum)
    }

    fn reduce(
        &mut self,
        dtype: DType,
        op: ReduceOp,
        data: &mut [u8],
        root: u32,
    ) -> Result<(), NaiveError> {
        self.flat(data, |inner, data| inner.reduce(dtype, op, data, root))
    }

    fn all_gather(
        &mut self,
        dtype: DType,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), NaiveError> {
        self.flat(output, |inner, output| inner.all_gather(dtype, input, output))
    }

    fn all_gather_list(
        &mut self,
        dtype: DType,
        input: &[u8],
        outputs: &mut [&mut [u8]],
    ) -> Result<(), NaiveError> {
        self.enter()?;
        if self.write() {
            self.inner.all_gather_list(dtype, input, outputs)?;
            self.spoil_list(outputs);
        }
        Ok(())
    }

    fn gather(
        &mut self,
        dtype: DType,
        input: &[u8],
        mut outputs: Option<&mut [&mut [u8]]>,
        root: u32,
    ) -> Result<(), NaiveError> {
        self.enter()?;
        if self.write() {
            self.inner.gather(dtype, input, outputs.as_deref_mut(), root)?;
            outputs.into_iter().for_each(|outputs| self.spoil_list(outputs));
        }
        Ok(())
    }

    fn scatter(
        &mut self,
        dtype: DType,
        inputs: Option<&[&[u8]]>,
        output: &mut [u8],
        root: u32,
    ) -> Result<(), NaiveError> {
        self.flat(output, |inner, output| inner.scatter(dtype, inputs, output, root))
    }

    fn reduce_scatter(
        &mut self,
        dtype: DType,
        op: ReduceOp,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), NaiveError> {
        self.flat(output, |inner, output| inner.reduce_scatter(dtype, op, input, output))
    }

    fn reduce_scatter_list(
        &mut self,
        dtype: DType,
        op: ReduceOp,
        inputs: &[&[u8]],
        output: &mut [u8],
    ) -> Result<(), NaiveError> {
        self.flat(output, |inner, output| inner.reduce_scatter_list(dtype, op, inputs, output))
    }

    fn all_to_all(
        &mut self,
        dtype: DType,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), NaiveError> {
        self.flat(output, |inner, output| inner.all_to_all(dtype, input, output))
    }

    fn all_to_all_splits(
        &mut self,
        dtype: DType,
        input: &[u8],
        send_counts: &[usize],
        output: &mut [u8],
        recv_counts: &[usize],
    ) -> Result<(), NaiveError> {
        self.flat(output, |inner, output| {
            inner.all_to_all_splits(dtype, input, send_counts, output, recv_counts)
        })
    }

    fn all_to_all_list(
        &mut self,
        dtype: DType,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
    ) -> Result<(), NaiveError> {
        self.enter()?;
        if self.write() {
            self.inner.all_to_all_list(dtype, inputs, outputs)?;
            self.spoil_list(outputs);
        }
        Ok(())
    }

    fn point_to_point(
        &mut self,
        dtype: DType,
        program: &[Action],
        order: WaitOrder,
    ) -> Result<Vec<Received>, NaiveError> {
        self.enter()?;
        let mut received = self.inner.point_to_point(dtype, program, order)?;
        for message in &mut received {
            self.spoil(&mut message.data);
            match self.fault {
                Fault::Source => message.from = self.inner.rank(),
                Fault::Untouched => message.data.fill(0xa5),
                _ => {}
            }
        }
        Ok(received)
    }

    fn barrier(&mut self) -> Result<(), NaiveError> {
        self.enter()?;
        if self.fault == Fault::Early { Ok(()) } else { self.inner.barrier() }
    }
}

/// Number of cases of `kind` in which some rank has a byte to be wrong in.
fn with_bytes(kind: Kind) -> usize {
    let bytes = |case: &&Case| {
        let sparse = case.sparse.as_ref().is_some_and(|sparse| !sparse.expected.values.is_empty());
        let held = sparse || case.expected.iter().flatten().any(|bytes| !bytes.is_empty());
        let sent = case
            .programs
            .iter()
            .flat_map(|programs| programs.received.iter().flatten())
            .any(|message| !message.data.is_empty());
        case.kind == kind && (held || sent)
    };
    cases().iter().filter(bytes).count()
}

/// Number of failed cases by kind of a group with `fault`.
fn failures(fault: Fault) -> impl Fn(Kind) -> usize {
    let witness = Witness::shared();
    let reports =
        on_all_ranks(|inner| Faulty { inner, fault }, |group| run_rank(cases(), group, &witness));
    let tally = Tally::merge(cases(), &reports);
    move |kind| {
        let of_kind = |case: &&Case| case.kind == kind;
        let failed =
            |case: &&Case| tally.failures().iter().any(|words| words.starts_with(&case.describe()));
        cases().iter().filter(of_kind).filter(failed).count()
    }
}

/// Every kind that moves bytes by a call that a group answers.
fn moving_kinds() -> impl Iterator<Item = Kind> {
    Kind::ALL.into_iter().filter(|kind| kind.out_of_scope().is_none() && *kind != Kind::Barrier)
}

#[test]
fn one_flipped_bit_is_caught_in_every_case() {
    let failures = failures(Fault::Bit);
    for kind in moving_kinds() {
        assert_eq!(failures(kind), with_bytes(kind), "{kind}");
    }
}

#[test]
fn an_output_that_nobody_writes_is_caught() {
    let failures = failures(Fault::Untouched);
    // Buffers that are both input and output hold other bytes than expected, except where all ranks give the same.
    for kind in moving_kinds() {
        assert!(failures(kind) > 0, "{kind}");
    }
    for kind in
        [Kind::AllGather, Kind::AllGatherBase, Kind::Gather, Kind::Scatter, Kind::AllToAllBase]
    {
        assert_eq!(failures(kind), with_bytes(kind), "{kind}");
    }
}

#[test]
fn ranks_that_disagree_within_the_tolerance_are_caught() {
    let failures = failures(Fault::Disagree);
    for kind in moving_kinds().filter(|kind| kind.agrees_on_all_ranks()) {
        assert_eq!(failures(kind), with_bytes(kind), "{kind}");
    }
}

#[test]
fn a_wrong_source_and_an_early_barrier_are_caught() {
    assert!(failures(Fault::Source)(Kind::PointToPointAnySource) > 0);
    assert!(failures(Fault::Early)(Kind::Barrier) > 0);
}

#[test]
fn after_an_error_the_rest_has_failed_too() {
    let failures = failures(Fault::Failing);
    for kind in moving_kinds() {
        assert_eq!(
            failures(kind),
            cases().iter().filter(|case| case.kind == kind).count(),
            "{kind}"
        );
    }
}

#[test]
fn the_naive_group_refuses_what_torch_refuses() {
    let refusals = refusal::load().unwrap();
    let reports = on_all_ranks(|group| group, |group| run_refusals(&refusals, group));
    let tally = Tally::merge_refusals(&refusals, &reports);
    eprintln!("{tally}");
    assert_eq!(tally.failed(), 0, "{tally}");
    assert_eq!((tally.passed(), tally.not_applicable()), (134, 195), "{tally}");
}

#[test]
fn a_group_that_accepts_or_gives_another_reason_is_caught() {
    let refusals = refusal::load().unwrap();
    let reports = on_all_ranks(
        |inner| Faulty { inner, fault: Fault::Failing },
        |group| run_refusals(&refusals, group),
    );
    let tally = Tally::merge_refusals(&refusals, &reports);
    assert_eq!(tally.passed(), 0, "{tally}");
}

#[test]
fn silence_ends_in_a_timeout() {
    for refusal in refusal::load().unwrap().iter().filter(|refusal| refusal.rule == Rule::Timeout) {
        let witness = Witness::shared();
        let group = naive::world_with_timeout(refusal.world, Duration::from_millis(20));
        let results: Vec<_> = std::thread::scope(|scope| {
            let ranks: Vec<_> = group
                .into_iter()
                .map(|mut rank| {
                    let witness = &witness;
                    scope.spawn(move || run_silence(refusal, &mut rank, witness))
                })
                .collect();
            ranks.into_iter().flat_map(|rank| rank.join().unwrap().results).collect()
        });
        assert!(
            results.iter().all(|result| result.outcome == Outcome::Passed),
            "{}: {results:?}",
            refusal.id
        );
    }
}
