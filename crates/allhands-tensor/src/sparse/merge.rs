//! Adding coalesced tensors: a merge of their keys, then one pass over their rows.

use super::order::adding;
use crate::{DType, Kernel};

/// A row of a source: its key, and whose it is.
type Entry = (u64, u32);

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
/// assert_eq!(merge.keys().collect::<Vec<_>>(), [1, 4, 6]);
/// let mut sums = [0_u8; 3];
/// let mut adder = RowAdder::new(DType::U8, 1, 2);
/// let rows = adder.add(&merge, 0..merge.len(), &[&[10, 20], &[30, 40]], &mut sums);
/// assert_eq!((rows, sums), (3, [10, 50, 40]));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Merge {
    entries: Vec<Entry>,
    distinct: usize,
}

impl Merge {
    /// Merges the keys of all sources, each of which rises.
    #[must_use]
    pub fn of<K: AsRef<[u64]>>(sources: &[K]) -> Self {
        let mut lists: Vec<Vec<Entry>> = sources
            .iter()
            .zip(0..)
            .map(|(keys, source)| keys.as_ref().iter().map(|&key| (key, source)).collect())
            .collect();
        while lists.len() > 1 {
            let mut pairs = lists.into_iter();
            let mut merged = Vec::with_capacity(pairs.len().div_ceil(2));
            while let Some(first) = pairs.next() {
                merged.push(match pairs.next() {
                    Some(second) => two(&first, &second),
                    None => first,
                });
            }
            lists = merged;
        }
        let entries = lists.pop().unwrap_or_default();
        let repeated = entries.windows(2).filter(|pair| pair[0].0 == pair[1].0).count();
        let distinct = entries.len() - repeated;
        Self { entries, distinct }
    }

    /// Rows of all sources.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no source has a row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Rows of the sum.
    #[must_use]
    pub fn distinct(&self) -> usize {
        self.distinct
    }

    /// Keys of the sum, rising.
    pub fn keys(&self) -> impl Iterator<Item = u64> {
        let first = |at: &usize| *at == 0 || self.entries[at - 1].0 != self.entries[*at].0;
        (0..self.entries.len()).filter(first).map(|at| self.entries[at].0)
    }

    /// Where a part that begins with entry `from` ends if no source may have more than `most` rows in it. Parts never
    /// separate what is added. `rows` gets the rows of each source.
    ///
    /// # Panics
    /// If `most` is 0 or `rows` has no entry for a source.
    #[must_use]
    pub fn part(&self, from: usize, most: usize, rows: &mut [usize]) -> usize {
        assert!(most > 0, "a part without rows");
        rows.fill(0);
        let mut end = from;
        while end < self.entries.len() {
            let group = self.group(end);
            if self.entries[end..group].iter().any(|&(_, source)| rows[source as usize] == most) {
                break;
            }
            for &(_, source) in &self.entries[end..group] {
                rows[source as usize] += 1;
            }
            end = group;
        }
        end
    }

    /// Where the entries of the same key as that of entry `at` end.
    #[inline]
    fn group(&self, at: usize) -> usize {
        let key = self.entries[at].0;
        let mut end = at + 1;
        while end < self.entries.len() && self.entries[end].0 == key {
            end += 1;
        }
        end
    }
}

/// Merges two lists; of equal keys those of `a` come first.
fn two(a: &[Entry], b: &[Entry]) -> Vec<Entry> {
    let mut merged = Vec::with_capacity(a.len() + b.len());
    let (mut i, mut j) = (0, 0);
    // No branch depends on which is less: random keys would be mispredicted half of the time.
    while i < a.len() && j < b.len() {
        let (x, y) = (a[i], b[j]);
        let second = y.0 < x.0;
        merged.push(if second { y } else { x });
        j += usize::from(second);
        i += usize::from(!second);
    }
    merged.extend_from_slice(&a[i..]);
    merged.extend_from_slice(&b[j..]);
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

    /// Writes the sums of the entries `range` of `merge` to the beginning of `out`, one row after the other, and says how
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
        let entries = &merge.entries;
        self.done.clear();
        self.done.resize(self.sources, 0);
        let longest = self.neutral.len().checked_div(self.row).unwrap_or(1).max(1);
        let mut operands: Vec<&[u8]> = Vec::new();
        let mut at = range.start;
        let mut written = 0;
        while at < range.end {
            let group = merge.group(at);
            let size = group - at;
            // Neighbours that the same sources have are one run: their rows lie one after the other.
            let most = if size > 2 { longest } else { usize::MAX };
            let mut run = 1;
            let mut end = group;
            while run < most
                && end + size <= range.end
                && same(&entries[at..group], &entries[end..end + size])
                && merge.group(end) == end + size
            {
                end += size;
                run += 1;
            }
            let bytes = run * self.row;
            let target = &mut out[written * self.row..][..bytes];
            let source = |source: u32| {
                let from = self.done[source as usize] * self.row;
                &rows[source as usize][from..from + bytes]
            };
            match &entries[at..group] {
                [(_, only)] => target.copy_from_slice(source(*only)),
                [(_, first), (_, second)] => {
                    self.kernel.reduce(target, None, &[source(*first), source(*second)]);
                }
                several => {
                    place(several, self.sources, &mut self.places);
                    operands.clear();
                    operands.extend(self.places.iter().map(|&place| match place {
                        ABSENT => &self.neutral[..bytes],
                        place => source(place),
                    }));
                    self.kernel.reduce(target, None, &operands);
                }
            }
            for &(_, source) in &entries[at..group] {
                self.done[source as usize] += run;
            }
            at = end;
            written += run;
        }
        written
    }
}

/// Whether two groups of equal length are of the same sources, each of one key.
#[inline]
fn same(a: &[Entry], b: &[Entry]) -> bool {
    let key = b[0].0;
    a.iter().zip(b).all(|(a, b)| a.1 == b.1 && b.0 == key)
}

/// Where the contributors stand in a tree over all sources. Levels at which no two of them meet are left out, as adding
/// nothing changes nothing.
fn place(contributors: &[Entry], sources: usize, places: &mut Vec<u32>) {
    places.clear();
    places.resize(sources, ABSENT);
    for &(_, source) in contributors {
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
        assert_eq!((merge.len(), merge.distinct()), (8, 5));
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
            let entries: Vec<Entry> = contributors.iter().map(|&source| (7, source)).collect();
            let mut places = Vec::new();
            place(&entries, sources, &mut places);
            places
        };
        assert_eq!(places(&[0, 2, 5], 6), [0, 2, 5]);
        assert_eq!(places(&[0, 1, 5], 6), [0, 1, ABSENT, ABSENT, ABSENT, 5]);
        assert_eq!(places(&[0, 7, 11], 16), [0, 7, 11, ABSENT]);
        assert_eq!(places(&[1, 2, 4], 5), [1, 2, 4]);
    }
}
