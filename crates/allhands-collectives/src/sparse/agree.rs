//! What every rank says of its tensor before anything else, and whether that fits together.

use std::fmt;

use allhands_plan::Rank;
use allhands_tensor::{DType, MAX_DIMS, SparseLayout};

/// Samples of its keys that a rank tells: every sixteenth part of its rows.
pub(super) const SAMPLES: usize = 16;

/// Words of a [`Card`].
pub(super) const WORDS: usize = 9 + MAX_DIMS + SAMPLES;

/// Begins each card; a number of this version, so that others are noticed.
const MARK: u64 = 0x5350_4152_5345_0001;

/// How a rank has called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// It waits for the call.
    Blocking,
    /// It has gone on, and may call something else on the same channel meanwhile.
    Asynchronous,
}

/// One rank's tensor, as the others need to know it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Card {
    pub(super) layout: SparseLayout,
    pub(super) manner: Manner,
    /// Positions that it has rows at.
    pub(super) rows: u64,
    /// Its last key; 0 without rows.
    last: u64,
    /// A hash of its keys.
    hash: u64,
    /// Key number `rows * i / SAMPLES` for each i.
    samples: [u64; SAMPLES],
}

impl Card {
    /// The card of a tensor with these keys.
    pub(super) fn of(layout: &SparseLayout, keys: &[u64], manner: Manner) -> Self {
        let sample = |i: usize| keys.get(keys.len() * i / SAMPLES).copied().unwrap_or(0);
        Self {
            layout: layout.clone(),
            manner,
            rows: keys.len() as u64,
            last: keys.last().copied().unwrap_or(0),
            hash: hash(keys),
            samples: std::array::from_fn(sample),
        }
    }

    pub(super) fn write(&self, words: &mut [u64]) {
        let layout = &self.layout;
        let shape = layout.shape();
        let manner = u64::from(self.manner == Manner::Asynchronous);
        let head = [
            MARK,
            u64::from(layout.dtype().code()),
            layout.sparse_dim() as u64,
            shape.len() as u64,
            manner,
            self.rows,
            self.last,
            self.hash,
            0,
        ];
        let dims = std::array::from_fn::<_, MAX_DIMS, _>(|i| shape.get(i).map_or(0, |&n| n as u64));
        let all = head.into_iter().chain(dims).chain(self.samples);
        words.iter_mut().zip(all).for_each(|(word, value)| *word = value);
    }

    /// The card in these words; `None` if no rank of this version wrote it.
    pub(super) fn read(words: &[u64]) -> Option<Self> {
        let [mark, dtype, sparse_dim, dimensions, manner, rows, last, hash, _, rest @ ..] = words
        else {
            return None;
        };
        let (dims, samples) = rest.split_at_checked(MAX_DIMS)?;
        let dims = dims.get(..usize::try_from(*dimensions).ok()?)?;
        let shape: Vec<usize> =
            dims.iter().map(|&extent| usize::try_from(extent).ok()).collect::<Option<_>>()?;
        let dtype = DType::from_code(u8::try_from(*dtype).ok()?)?;
        let layout = SparseLayout::new(dtype, &shape, usize::try_from(*sparse_dim).ok()?).ok()?;
        let manner = match manner {
            0 => Manner::Blocking,
            1 => Manner::Asynchronous,
            _ => return None,
        };
        let samples: [u64; SAMPLES] = samples.try_into().ok()?;
        let fits = *mark == MARK
            && *rows <= layout.positions()
            && *rows <= allhands_tensor::sparse::ROWS_MAX as u64
            && (if *rows == 0 { *last == 0 } else { *last < layout.positions() })
            && samples.is_sorted()
            && samples[SAMPLES - 1] <= *last;
        fits.then_some(Self { layout, manner, rows: *rows, last: *last, hash: *hash, samples })
    }

    /// Whether two ranks have rows at the same positions.
    pub(super) fn same_keys(&self, other: &Self) -> bool {
        (self.rows, self.last, self.hash, &self.samples)
            == (other.rows, other.last, other.hash, &other.samples)
    }

    /// Known points of how many rows have a key below a given one: keys, not falling, and rows.
    pub(super) fn points(&self) -> impl Iterator<Item = (u64, u64)> {
        let rows = self.rows;
        let known =
            self.samples.iter().zip(0..).map(move |(&key, i)| (key, rows * i / SAMPLES as u64));
        known.chain([(self.last + 1, rows)])
    }
}

/// A hash of rising keys, in which every bit of every key matters.
fn hash(keys: &[u64]) -> u64 {
    let mix = |hash: u64, key: &u64| {
        let mixed = (hash ^ key).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed ^ mixed >> 29
    };
    keys.iter().fold(keys.len() as u64, mix)
}

/// What some ranks have passed, where others have passed something else.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SparseSide {
    /// Who; the first ones if they are many.
    pub ranks: Vec<Rank>,
    /// How many they are.
    pub count: usize,
    /// Their element type.
    pub dtype: DType,
    /// Their shape.
    pub shape: Vec<usize>,
    /// How many of their dimensions are sparse.
    pub sparse_dim: usize,
    /// Positions that they have agreed on, where that was said before the call.
    pub positions: Option<u64>,
}

/// Ranks that a side names.
const RANKS_NAMED: usize = 8;

/// Sides that an error tells.
const SIDES_TOLD: usize = 4;

impl fmt::Display for SparseSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.ranks.iter().map(|rank| rank.0.to_string()).collect();
        let (plural, verb) = if self.count == 1 { ("", "has") } else { ("s", "have") };
        write!(f, "rank{plural} {}", names.join(", "))?;
        if self.count > self.ranks.len() {
            write!(f, " and {} more", self.count - self.ranks.len())?;
        }
        let Self { dtype, shape, sparse_dim, .. } = self;
        write!(f, " {verb} {dtype} {shape:?} with {sparse_dim} sparse dimension")?;
        if *sparse_dim != 1 {
            f.write_str("s")?;
        }
        match self.positions {
            Some(positions) => write!(f, " at {positions} agreed positions"),
            None => Ok(()),
        }
    }
}

/// Sides separated by commas.
pub(crate) struct Sides<'a>(pub(crate) &'a [SparseSide]);

impl fmt::Display for Sides<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, side) in self.0.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            write!(f, "{comma}{side}")?;
        }
        Ok(())
    }
}

/// The ranks by what they have; one side if they agree. Where positions were agreed on, they count, too.
pub(super) fn sides(cards: &[Card], agreed: bool) -> Vec<SparseSide> {
    let mut found: Vec<(&Card, SparseSide)> = Vec::new();
    for (rank, card) in (0..).map(Rank).zip(cards) {
        let like = |other: &Card| other.layout == card.layout && (!agreed || other.same_keys(card));
        match found.iter().position(|(other, _)| like(other)) {
            Some(at) => {
                let side = &mut found[at].1;
                side.count += 1;
                if side.ranks.len() < RANKS_NAMED {
                    side.ranks.push(rank);
                }
            }
            None if found.len() < SIDES_TOLD => {
                let side = SparseSide {
                    ranks: vec![rank],
                    count: 1,
                    dtype: card.layout.dtype(),
                    shape: card.layout.shape().to_vec(),
                    sparse_dim: card.layout.sparse_dim(),
                    positions: agreed.then_some(card.rows),
                };
                found.push((card, side));
            }
            None => {}
        }
    }
    found.into_iter().map(|(_, side)| side).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(shape: &[usize], keys: &[u64]) -> Card {
        let layout = SparseLayout::new(DType::F32, shape, 1).unwrap();
        Card::of(&layout, keys, Manner::Blocking)
    }

    #[test]
    fn cards_survive_being_written_and_nonsense_is_no_card() {
        for keys in [&[][..], &[0], &[3, 7, 8, 100], &Vec::from_iter(0..999)] {
            let card = card(&[1000, 3], keys);
            let mut words = [0; WORDS];
            card.write(&mut words);
            assert_eq!(Card::read(&words), Some(card));
            for at in [0, 1, 2, 3, 4, 5] {
                let mut spoilt = words;
                spoilt[at] = u64::MAX;
                assert_eq!(Card::read(&spoilt), None, "word {at}");
            }
            assert_eq!(Card::read(&words[1..]), None);
        }
        assert!(!card(&[9], &[1, 2]).same_keys(&card(&[9], &[1, 3])));
    }

    #[test]
    fn words_that_anybody_may_have_sent_do_no_harm() {
        let honest = card(&[1000, 3], &[3, 7, 8, 100]);
        let mut state = 7_u64;
        let mut reads = 0;
        for _ in 0..20_000 {
            let mut words = [0; WORDS];
            honest.write(&mut words);
            for _ in 0..3 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (state >> 40) as usize % WORDS;
                words[at] =
                    [0, 1, state, state >> 52, u64::MAX, 1 << 32][(state >> 33) as usize % 6];
            }
            if let Some(read) = Card::read(&words) {
                assert!(read.points().is_sorted(), "{words:?}");
                let _ = sides(&[read, honest.clone()], true);
                reads += 1;
            }
        }
        assert!((1..20_000).contains(&reads), "{reads} were read");
    }

    #[test]
    fn ranks_that_differ_are_told_apart() {
        let cards = [card(&[4, 2], &[1]), card(&[4, 3], &[1]), card(&[4, 2], &[2])];
        let told = sides(&cards, false);
        assert_eq!(
            Sides(&told).to_string(),
            "ranks 0, 2 have f32 [4, 2] with 1 sparse dimension, rank 1 has f32 [4, 3] with 1 sparse dimension"
        );
        assert_eq!(sides(&cards[..1], true).len(), 1);
        assert_eq!(sides(&cards, true).len(), 3);
        let many: Vec<Card> = (0..20).map(|_| cards[0].clone()).collect();
        assert!(sides(&many, false)[0].to_string().contains("7 and 12 more have"));
    }
}
