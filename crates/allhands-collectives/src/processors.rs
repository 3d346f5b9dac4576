//! Whether every rank of a host can have a processor of its own, which decides how a driver waits.

use std::num::NonZero;

/// Most processors that are told apart; as many as the system's usual call tells.
pub const PROCESSORS_MAX: usize = 1024;

const BITS: usize = u64::BITS as usize;

/// The processors on which a rank's threads may run.
///
/// Launchers bind ranks to cores, so a rank that may run on one processor only says nothing about how many there are
/// for the others. Ranks swap these sets when they meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processors {
    /// A bit for each processor, without zero words at the end.
    words: Vec<u64>,
    /// How many of them may be busy at once: fewer where a container has a share of their time.
    share: u32,
}

/// How the ranks of a host share its processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cores {
    /// Each rank can have one of its own: who waits may spin.
    OneEach,
    /// There are fewer processors than ranks, or some ranks are bound to the same: who waits lets others run.
    Shared,
}

impl Processors {
    /// Those of the calling thread, and of the threads it starts.
    #[must_use]
    pub fn here() -> Self {
        let share = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self::new(bound_to().unwrap_or_else(|| (0..share).collect()), share as u32)
    }

    /// Processors by number, of which `share` may be busy at once. Numbers from [`PROCESSORS_MAX`] on are dropped.
    #[must_use]
    pub fn new(numbers: impl IntoIterator<Item = usize>, share: u32) -> Self {
        let mut words = Vec::new();
        for number in numbers.into_iter().filter(|&number| number < PROCESSORS_MAX) {
            if words.len() <= number / BITS {
                words.resize(number / BITS + 1, 0);
            }
            words[number / BITS] |= 1 << (number % BITS);
        }
        Self { words, share }
    }

    /// As bytes, for whoever carries them to other ranks.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let words = self.words.iter().flat_map(|word| word.to_le_bytes());
        self.share.to_le_bytes().into_iter().chain(words).collect()
    }

    /// Reads what [`Processors::encode`] wrote; `None` if the bytes are anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (share, words) = bytes.split_first_chunk()?;
        let (words, rest) = words.as_chunks();
        let fits = rest.is_empty() && words.len() <= PROCESSORS_MAX / BITS;
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let share = u32::from_le_bytes(*share);
        (fits && words.last() != Some(&0)).then_some(Self { words, share })
    }

    fn numbers(&self) -> impl Iterator<Item = usize> {
        let bits = |word: u64| (0..BITS).filter(move |bit| word >> bit & 1 == 1);
        self.words
            .iter()
            .enumerate()
            .flat_map(move |(at, &word)| bits(word).map(move |bit| at * BITS + bit))
    }

    fn len(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }
}

#[cfg(target_os = "linux")]
fn bound_to() -> Option<Vec<usize>> {
    use rustix::thread::{CpuSet, sched_getaffinity};
    let set = sched_getaffinity(None).ok()?;
    Some((0..CpuSet::MAX_CPU).filter(|&number| set.is_set(number)).collect())
}

#[cfg(not(target_os = "linux"))]
fn bound_to() -> Option<Vec<usize>> {
    None
}

impl Cores {
    /// How these ranks of one host share its processors: a matching of ranks to processors, grown along augmenting paths
    /// (Berge 1957), gives each one of its own if that is possible at all.
    #[must_use]
    pub fn among(ranks: &[Processors]) -> Self {
        let limited =
            |rank: &Processors| rank.share < rank.len() && (rank.share as usize) < ranks.len();
        if ranks.iter().any(limited) {
            return Self::Shared;
        }
        let mut owners = vec![None; PROCESSORS_MAX];
        for rank in 0..ranks.len() {
            let free = ranks[rank].numbers().find(|&number| owners[number].is_none());
            let placed = match free {
                Some(number) => {
                    owners[number] = Some(rank);
                    true
                }
                None => place(rank, ranks, &mut owners, &mut [false; PROCESSORS_MAX]),
            };
            if !placed {
                return Self::Shared;
            }
        }
        Self::OneEach
    }
}

/// Gives `rank` a processor, moving those who have one where they can go; at most as deep as there are processors.
fn place(
    rank: usize,
    ranks: &[Processors],
    owners: &mut [Option<usize>],
    seen: &mut [bool; PROCESSORS_MAX],
) -> bool {
    for number in ranks[rank].numbers() {
        if std::mem::replace(&mut seen[number], true) {
            continue;
        }
        if owners[number].is_none_or(|owner| place(owner, ranks, owners, seen)) {
            owners[number] = Some(rank);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(sets: &[&[usize]]) -> Vec<Processors> {
        sets.iter().map(|set| Processors::new(set.iter().copied(), set.len() as u32)).collect()
    }

    #[test]
    fn bound_ranks_have_a_core_each_if_there_is_one_for_each() {
        let cases: [(&[&[usize]], Cores); 8] = [
            (&[&[0], &[1]], Cores::OneEach),
            (&[&[0], &[0]], Cores::Shared),
            (&[&[0, 1], &[0, 1]], Cores::OneEach),
            (&[&[0, 1], &[0, 1], &[0, 1]], Cores::Shared),
            // The first two have to make room for the third.
            (&[&[0, 1], &[1, 1000], &[0]], Cores::OneEach),
            (&[&[0, 1, 2, 3], &[0, 1], &[0, 1], &[0]], Cores::Shared),
            (&[&[70], &[]], Cores::Shared),
            (&[], Cores::OneEach),
        ];
        for (ranks, cores) in cases {
            assert_eq!(Cores::among(&sets(ranks)), cores, "{ranks:?}");
        }
    }

    /// Against every assignment there is.
    #[test]
    fn a_matching_is_found_wherever_there_is_one() {
        let mut state = 7_u64;
        let mut draw = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        };
        fn possible(sets: &[u64], taken: u64) -> bool {
            let Some((first, rest)) = sets.split_first() else { return true };
            (0..5).any(|bit| (first & !taken) >> bit & 1 == 1 && possible(rest, taken | 1 << bit))
        }
        let mut outcomes = [0; 2];
        for _ in 0..2000 {
            let masks: Vec<u64> = (0..1 + draw() % 5).map(|_| draw() & draw() & 31).collect();
            let numbers = |mask: u64| (0..5).filter(move |bit| mask >> bit & 1 == 1);
            let ranks: Vec<_> = masks
                .iter()
                .map(|&mask| Processors::new(numbers(mask), mask.count_ones()))
                .collect();
            let expected = possible(&masks, 0);
            outcomes[usize::from(expected)] += 1;
            assert_eq!(Cores::among(&ranks) == Cores::OneEach, expected, "{masks:?}");
        }
        assert!(outcomes.iter().all(|&count| count > 100), "{outcomes:?}");
    }

    #[test]
    fn a_share_of_their_time_is_not_a_core_each() {
        let ranks = vec![Processors::new(0..8, 2); 3];
        assert_eq!(Cores::among(&ranks), Cores::Shared);
        assert_eq!(Cores::among(&ranks[..2]), Cores::OneEach);
    }

    #[test]
    fn they_survive_the_store_and_nothing_else_does() {
        for set in [
            Processors::here(),
            Processors::new([], 1),
            Processors::new([0, 63, 64, 1023, 5000], 4),
        ] {
            let bytes = set.encode();
            assert_eq!(Processors::decode(&bytes), Some(set));
            assert_eq!(Processors::decode(&bytes[..bytes.len() - 1]), None);
            assert_eq!(
                Processors::decode(&[&bytes[..], &[0; 8]].concat()),
                None,
                "zeros at the end"
            );
            assert_eq!(Processors::decode(&[&bytes[..], &[1; 136]].concat()), None, "too many");
        }
        assert_eq!(Processors::new([0, 1023, 5000], 1).len(), 2);
    }
}
