//! Symbolic memory: runs of elements that hold alike values.

use smallvec::SmallVec;

use super::expr::Expr;

/// What an element holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Value {
    /// How contributions were combined, for dtypes that are exact in themselves.
    pub(super) exact: Expr,
    /// The same for those that are rounded at the end of each step.
    pub(super) half: Expr,
    /// Whether a last reduction made it.
    pub(super) last: bool,
    /// Which element of the contributions.
    pub(super) index: u64,
}

/// `len` elements that hold `value`, with the index rising by one from each to the next; `None` if
/// nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) len: u64,
    pub(super) value: Option<Value>,
}

impl Run {
    fn value_at(self, skip: u64) -> Option<Value> {
        self.value.map(|v| Value { index: v.index + skip, ..v })
    }
}

/// What a span holds.
pub(super) type Runs = SmallVec<[Run; 2]>;

/// Appends a run, as part of the last one if it goes on like that.
fn append(runs: &mut Vec<(u64, Run)>, start: u64, run: Run) {
    if run.len == 0 {
        return;
    }
    if let Some((_, last)) = runs.last_mut()
        && last.value_at(last.len) == run.value
    {
        last.len += run.len;
        return;
    }
    runs.push((start, run));
}

/// One buffer.
#[derive(Debug)]
pub(super) struct Memory {
    /// Start and run, without gaps.
    runs: Vec<(u64, Run)>,
}

impl Memory {
    /// `len` elements of which nothing is known, or those of a contribution.
    pub(super) fn new(len: u64, contribution: Option<Expr>) -> Self {
        let value = contribution.map(|e| Value { exact: e, half: e, last: false, index: 0 });
        let mut runs = Vec::new();
        append(&mut runs, 0, Run { len, value });
        Self { runs }
    }

    /// Number of the run that holds element `offset`.
    fn find(&self, offset: u64) -> usize {
        self.runs.partition_point(|(start, run)| start + run.len <= offset)
    }

    /// What `len` elements from `offset` hold; they lie in the buffer.
    pub(super) fn read(&self, offset: u64, len: u64) -> Runs {
        let mut found = Runs::new();
        let (mut at, end) = (offset, offset + len);
        let mut number = self.find(offset);
        while at < end {
            let (start, run) = self.runs[number];
            let stop = end.min(start + run.len);
            found.push(Run { len: stop - at, value: run.value_at(at - start) });
            at = stop;
            number += 1;
        }
        found
    }

    /// Writes `new` from `offset` on; they lie in the buffer.
    pub(super) fn write(&mut self, offset: u64, new: &[Run]) {
        let len: u64 = new.iter().map(|run| run.len).sum();
        if len == 0 {
            return;
        }
        let end = offset + len;
        let (first, last) = (self.find(offset), self.find(end - 1));
        let mut fresh: Vec<(u64, Run)> = Vec::with_capacity(new.len() + 2);
        let (start, run) = self.runs[first];
        append(&mut fresh, start, Run { len: offset - start, value: run.value });
        let mut at = offset;
        for &run in new {
            append(&mut fresh, at, run);
            at += run.len;
        }
        let (start, run) = self.runs[last];
        let rest = start + run.len - end;
        append(&mut fresh, end, Run { len: rest, value: run.value_at(end - start) });
        self.runs.splice(first..=last, fresh);
    }
}

#[cfg(test)]
mod tests {
    use super::super::expr::Exprs;
    use super::*;
    use crate::plan::Rank;

    #[test]
    fn writes_cut_runs_and_join_those_that_go_on() {
        let one = Exprs::leaf(Rank(1));
        let mut memory = Memory::new(10, Some(Exprs::leaf(Rank(0))));
        let value = |index| Value { exact: one, half: one, last: false, index };
        memory.write(3, &[Run { len: 2, value: Some(value(7)) }]);
        memory.write(5, &[Run { len: 1, value: Some(value(9)) }]);
        let lens: Vec<u64> = memory.read(0, 10).iter().map(|run| run.len).collect();
        assert_eq!(lens, [3, 2, 1, 4]);
        memory.write(3, &[Run { len: 3, value: Some(value(7)) }]);
        let runs = memory.read(2, 5);
        assert_eq!(runs[1], Run { len: 3, value: Some(value(7)) });
        assert_eq!(runs[2].value.map(|v| v.index), Some(6));
    }
}
