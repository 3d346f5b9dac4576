//! Adding coalesced tensors: a merge of their keys, then one pass over their rows.

use super::order::adding;
use crate::{DType, Kernel};

/// A row of a source: its key, and whose it is.
type Entry = (u64, u32);

/// In a list of sources: the row has the same key as the one before.
const JOINS: u32 = 1 << 31;

/// A list of operands in which nobody stands.
const ABSENT: u32 = u32::MAX;

/// Bytes of neutral elements that are kept, at least a row of them. Longer runs of rows are cut.
const NEUTRAL_BYTES: usize = 4096;

/// The keys of several coalesced tensors in one rising sequence; a key that several have stands there once for each, in the
/// order of the sources.
///
/// Costs comparisons of the order of rows × log of sources, and no look at any value.
///
/// ```
/// use allhands_tensor::{DType, Merge, RowAdder};
///
/// let merge = Merge::of(&[vec![1, 4], vec![4, 6]]);
/// assert_eq!(merge.keys(), [1, 4, 6]);
/// let mut sums = [0_u8; 3];
/// let mut adder = RowAdder::new(DType::U8, 1, 2);
/// let rows = adder.add(&merge, 0..merge.len(), &[&[10, 20], &[30, 40]], &mut sums);
/// assert_eq!((rows, sums), (3, [10, 50, 40]));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Merge {
    /// Whose row each is, with [`JOINS`] if it is added to the one before.
    sources: Vec<u32>,
    /// Of the sum.
    keys: Vec<u64>,
}

impl Merge {
    /// Merges the keys of all sources, each of which rises.
    ///
    /// # Panics
    /// If there are 2³¹ sources or more.
    #[must_use]
    pub fn of<K: AsRef<[u64]>>(sources: &[K]) -> Self {
        assert!(sources.len() < JOINS as usize, "{} sources", sources.len());
        let numbered: Vec<(&[u64], u32)> = sources.iter().map(K::as_ref).zip(0..).collect();
        let mut lists: Vec<Vec<Entry>> = numbered
            .chunks(2)
            .map(|pair| match *pair {
                [(a, i), (b, j)] => two(a, b, |&key| (key, i), |&key| (key, j)),
                _ => pair.iter().flat_map(|&(a, i)| a.iter().map(move |&key| (key, i))).collect(),
            })
            .collect();
        while lists.len() > 1 {
            let halves = lists.chunks_mut(2).map(|pair| match pair {
                [a, b] => two(a, b, |&entry| entry, |&entry| entry),
                rest => rest.iter_mut().flat_map(std::mem::take).collect(),
            });
            lists = halves.collect();
        }
        let entries = lists.pop().unwrap_or_default();
        let mut keys = Vec::with_capacity(entries.len());
        let mut last = None;
        let marked = entries.iter().map(|&(key, source)| {
            if last == Some(key) {
                return source | JOINS;
            }
            last = Some(key);
            keys.push(key);
            source
        });
        Self { sources: marked.collect(), keys }
    }

    /// Rows of all sources.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sources.len()
    }

    /// Whether no source has a row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Keys of the sum, rising.
    #[must_use]
    pub fn keys(&self) -> &[u64] {
        &self.keys
    }

    /// Where a part that begins with row `from` ends if no source may have more than `most` rows in it. Parts never
    /// separate what is added. `rows` gets the rows of each source.
    ///
    /// # Panics
    /// If `most` is 0 or `rows` has no entry for a source.
    #[must_use]
    pub fn part(&self, from: usize, most: usize, rows: &mut [usize]) -> usize {
        assert!(most > 0, "a part without rows");
        rows.fill(0);
        let mut begun = from;
        for (at, &mark) in self.sources.iter().enumerate().skip(from) {
            if mark & JOINS == 0 {
                begun = at;
            }
            let count = &mut rows[(mark & !JOINS) as usize];
            if *count == most {
                // Back to where the rows of this key begin.
                for &mark in &self.sources[begun..at] {
                    rows[(mark & !JOINS) as usize] -= 1;
                }
                return begun;
            }
            *count += 1;
        }
        self.sources.len()
    }
}

/// Merges two lists; of equal keys those of `a` come first.
fn two<T>(a: &[T], b: &[T], of_a: impl Fn(&T) -> Entry, of_b: impl Fn(&T) -> Entry) -> Vec<Entry> {
    let mut merged = vec![(0, 0); a.len() + b.len()];
    let (mut i, mut j) = (0, 0);
    let mut places = merged.iter_mut();
    // No branch depends on which is less: random keys would be mispredicted half of the time.
    while i < a.len() && j < b.len() {
        let (x, y) = (of_a(&a[i]), of_b(&b[j]));
        let second = y.0 < x.0;
        if let Some(place) = places.next() {
            *place = if second { y } else { x };
        }
        j += usize::from(second);
        i += usize::from(!second);
    }
    let rest = a[i..].iter().map(of_a).chain(b[j..].iter().map(of_b));
    places.zip(rest).for_each(|(place, entry)| *place = entry);
    merged
}

/// Adds rows of several sources as a [`Merge`] says.
#[derive(Debug)]
pub struct RowAdder {
    kernel: Kernel,
    row: usize,
    sources: usize,
    /// Elements that change no sum: -0 for floats.
    neutral: Vec<u8>,
    /// Which source stands where among the operands.
    places: Vec<u32>,
    /// Rows of each source that were added.
    done: Vec<usize>,
}

impl RowAdder {
    /// For rows of `row_bytes` of `sources` sources.
    ///
    /// # Panics
    /// If a row is not a whole number of elements.
    #[must_use]
    pub fn new(dtype: DType, row_bytes: usize, sources: usize) -> Self {
        assert!(row_bytes.is_multiple_of(dtype.size()), "{row_bytes} bytes of {dtype}");
        let len = row_bytes.max(NEUTRAL_BYTES / dtype.size() * dtype.size());
        let mut neutral = Vec::new();
        // Two contributors need none.
        if sources > 2 {
            neutral.resize(len, 0);
            fill_neutral(dtype, &mut neutral);
        }
        let kernel = adding(dtype);
        Self { kernel, row: row_bytes, sources, neutral, places: Vec::new(), done: Vec::new() }
    }

    /// Writes the sums of the rows `range` of `merge` to the beginning of `out`, one row after the other, and says how
    /// many rows those are. `rows[s]` begins with the rows of source `s` in that range.
    ///
    /// # Panics
    /// If `rows` has not an entry for each source or one is too short, or `out` is.
    pub fn add(
        &mut self,
        merge: &Merge,
        range: std::ops::Range<usize>,
        rows: &[&[u8]],
        out: &mut [u8],
    ) -> usize {
        assert!(rows.len() == self.sources, "{} of {} sources", rows.len(), self.sources);
        let marks = &merge.sources[range];
        self.done.clear();
        self.done.resize(self.sources, 0);
        let longest = self.neutral.len().checked_div(self.row).unwrap_or(1).max(1);
        let mut operands: Vec<&[u8]> = Vec::new();
        let mut at = 0;
        let mut written = 0;
        while at < marks.len() {
            let group = group(marks, at);
            let (end, run) = match group.len() {
                1 => run_of_one(marks, at),
                2 => run_of(marks, at, 2, usize::MAX),
                // Neutral rows may stand in for others, and there are so many of them.
                size => run_of(marks, at, size, longest),
            };
            let bytes = run * self.row;
            let target = &mut out[written * self.row..][..bytes];
            let source = |mark: u32| {
                let source = (mark & !JOINS) as usize;
                &rows[source][self.done[source] * self.row..][..bytes]
            };
            match *group {
                [only] => target.copy_from_slice(source(only)),
                [first, second] => {
                    self.kernel.reduce(target, None, &[source(first), source(second)]);
                }
                _ => {
                    place(group, self.sources, &mut self.places);
                    operands.clear();
                    operands.extend(self.places.iter().map(|&place| match place {
                        ABSENT => &self.neutral[..bytes],
                        place => source(place),
                    }));
                    self.kernel.reduce(target, None, &operands);
                }
            }
            for &mark in group {
                self.done[(mark & !JOINS) as usize] += run;
            }
            at = end;
            written += run;
        }
        written
    }
}

/// The rows that have the key of row `at`, which is the first of them.
#[inline]
fn group(marks: &[u32], at: usize) -> &[u32] {
    let mut end = at + 1;
    while end < marks.len() && marks[end] & JOINS != 0 {
        end += 1;
    }
    &marks[at..end]
}

/// Where the neighbours end that one source alone has, as it has row `at`, and how many they are: their rows lie one after the other.
#[inline]
fn run_of_one(marks: &[u32], at: usize) -> (usize, usize) {
    let mut end = at + 1;
    while end < marks.len() && marks[end] == marks[at] {
        end += 1;
    }
    // The last of them may have company.
    if end < marks.len() && marks[end] & JOINS != 0 {
        end -= 1;
    }
    (end, end - at)
}

/// The same for groups of `size` sources, at most `most` of them.
fn run_of(marks: &[u32], at: usize, size: usize, most: usize) -> (usize, usize) {
    let (mut end, mut run) = (at + size, 1);
    while run < most
        && marks.get(end..end + size) == Some(&marks[at..at + size])
        && marks.get(end + size).is_none_or(|mark| mark & JOINS == 0)
    {
        end += size;
        run += 1;
    }
    (end, run)
}

/// Where the contributors stand in a tree over all sources. Levels at which no two of them meet are left out, as adding
/// nothing changes nothing.
fn place(contributors: &[u32], sources: usize, places: &mut Vec<u32>) {
    places.clear();
    places.resize(sources, ABSENT);
    for mark in contributors {
        let source = mark & !JOINS;
        places[source as usize] = source;
    }
    let meet =
        |places: &[u32]| places.chunks(2).any(|pair| !pair.contains(&ABSENT) && pair.len() == 2);
    while places.len() > contributors.len() && !meet(places) {
        let half = places.len().div_ceil(2);
        for at in 0..half {
            let second = places.get(2 * at + 1).copied().unwrap_or(ABSENT);
            places[at] = if second == ABSENT { places[2 * at] } else { second };
        }
        places.truncate(half);
    }
}

/// Fills whole elements with what changes no sum.
///
/// ```
/// let mut row = [1.0f32; 3];
/// allhands_tensor::sparse::fill_neutral(allhands_tensor::DType::F32, bytemuck::cast_slice_mut(&mut row));
/// assert!(row.iter().all(|element| (element + -0.0).to_bits() == (-0.0f32).to_bits()));
/// ```
pub fn fill_neutral(dtype: DType, bytes: &mut [u8]) {
    bytes.fill(0);
    if dtype.is_float() {
        // The sign is the highest bit of the last byte of a little-endian element.
        let at = if cfg!(target_endian = "little") { dtype.size() - 1 } else { 0 };
        bytes.chunks_exact_mut(dtype.size()).for_each(|element| element[at] = 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_separate_what_is_added() {
        let merge = Merge::of(&[vec![0, 1, 2, 9], vec![1, 2, 3], vec![2]]);
        assert_eq!((merge.len(), merge.keys()), (8, &[0, 1, 2, 3, 9][..]));
        let mut rows = [0; 3];
        let first = merge.part(0, 2, &mut rows);
        assert_eq!((first, rows), (3, [2, 1, 0]));
        let second = merge.part(first, 2, &mut rows);
        assert_eq!((second, rows), (8, [2, 2, 1]));
        assert_eq!(merge.part(second, 2, &mut rows), 8);
    }

    #[test]
    fn levels_without_a_meeting_are_left_out() {
        let places = |contributors: &[u32], sources| {
            let mut places = Vec::new();
            place(contributors, sources, &mut places);
            places
        };
        assert_eq!(places(&[0, 2, 5], 6), [0, 2, 5]);
        assert_eq!(places(&[0, 1, 5], 6), [0, 1, ABSENT, ABSENT, ABSENT, 5]);
        assert_eq!(places(&[0, 7, 11], 16), [0, 7, 11, ABSENT]);
        assert_eq!(places(&[1, 2, 4], 5), [1, 2, 4]);
    }
}
