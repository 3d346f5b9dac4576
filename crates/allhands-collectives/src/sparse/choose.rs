//! By which algorithm sparse tensors are added.
//!
//! All ranks evaluate the same formula on what all have told, so all choose alike. Costs count bytes: those that the busiest
//! rank receives, those that it reads or writes in memory, at [`MEMORY`] of a received one, and [`STEP`] for each step in
//! which ranks wait for each other. With P ranks, N rows in all, U rows of the sum, R positions, v bytes of a row of values
//! and k bytes of a key:
//!
//! | algorithm | steps | received | memory |
//! |---|---|---|---|
//! | gather | 1 + parts | (P−1)/P N(v+k) | (N+U)v |
//! | owners | 4 | (P−1)/P (N/P+U)(v+k) | (N+U)v/P |
//! | dense | 2 | 2(P−1)/P (Rv + R/8) | (3R+U)v |
//! | aligned | 1 | 2(P−1)/P nv | 2nv |
//!
//! Blocks that depend on what each rank has do not go through boards but through rings, where a byte costs [`RING`] times as
//! much; so that is what owners receive at where the other methods would use a board.
//!
//! *Aligned* is taken whenever all ranks have the same positions: then nothing but n rows of values need be reduced. U is
//! not known before: it is estimated from the samples of each rank's keys, as if its keys were spread evenly between them and
//! independent of the others'.

use super::agree::Card;

/// What a step costs, in bytes received: about latency times bandwidth, which is 10 to 60 KiB in shared memory, over the
/// loopback, and between hosts alike.
pub(super) const STEP: f64 = 32_768.0;

/// What reading or writing a byte of memory costs, in bytes received.
pub(super) const MEMORY: f64 = 0.25;

/// What a byte through a ring costs where there is a board.
pub(super) const RING: f64 = 2.0;

/// How equal blocks travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Through a board.
    Board,
    /// As everything else.
    Links,
}

/// How sparse tensors are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// All have the same positions: their values are reduced like a dense tensor.
    Aligned,
    /// Every rank gets all rows and adds them.
    Gather,
    /// Every rank adds the rows of a range of positions, and gives the others the sums.
    Owners,
    /// The whole tensor is reduced, with a bit for each position that occurs.
    Dense,
}

/// The cheapest method for tensors of these ranks.
pub(super) fn method(cards: &[Card], way: Way) -> Method {
    let Some((first, others)) = cards.split_first() else { return Method::Gather };
    if others.iter().all(|card| card.same_keys(first)) {
        return Method::Aligned;
    }
    let costs = Costs::of(cards, way);
    let gather = (costs.gather(), Method::Gather);
    // Among two ranks a range has nobody to get sums from but the other, who could have added as well.
    let owners = (cards.len() > 2).then(|| (costs.owners(), Method::Owners));
    let dense = (costs.dense(), Method::Dense);
    let all = [Some(gather), owners, Some(dense)].into_iter().flatten();
    all.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(Method::Gather, |(_, method)| method)
}

struct Costs {
    ranks: f64,
    /// Rows of all ranks.
    rows: f64,
    /// Rows of the sum.
    union: f64,
    positions: f64,
    value: f64,
    key: f64,
    /// What a byte in blocks of any lengths costs.
    uneven: f64,
}

impl Costs {
    fn of(cards: &[Card], way: Way) -> Self {
        let layout = &cards[0].layout;
        Self {
            ranks: cards.len() as f64,
            rows: cards.iter().map(|card| card.rows).sum::<u64>() as f64,
            union: union(cards),
            positions: layout.positions() as f64,
            value: layout.row_bytes() as f64,
            key: super::keys::size(layout) as f64,
            uneven: if way == Way::Board { RING } else { 1.0 },
        }
    }

    fn others(&self) -> f64 {
        (self.ranks - 1.0) / self.ranks
    }

    fn gather(&self) -> f64 {
        let received = self.others() * self.rows * (self.value + self.key);
        2.0 * STEP + received + MEMORY * (self.rows + self.union) * self.value
    }

    fn owners(&self) -> f64 {
        let received =
            self.others() * (self.rows / self.ranks + self.union) * (self.value + self.key);
        4.0 * STEP
            + self.uneven * received
            + MEMORY * (self.rows + self.union) * self.value / self.ranks
    }

    fn dense(&self) -> f64 {
        let table = self.positions * self.value;
        let received = 2.0 * self.others() * (table + self.positions / 8.0);
        2.0 * STEP + received + MEMORY * (3.0 * table + self.union * self.value)
    }
}

/// The known points of all ranks, in order of their keys: key and rank.
fn breaks(cards: &[Card]) -> Vec<(u64, usize)> {
    let of_rank = |(rank, card): (usize, &Card)| {
        card.points().map(move |(key, _)| (key, rank)).collect::<Vec<_>>()
    };
    let mut breaks: Vec<(u64, usize)> = cards.iter().enumerate().flat_map(of_rank).collect();
    breaks.sort_unstable();
    breaks
}

/// Between two of its points: rows for each position of one rank.
struct Density {
    points: Vec<(u64, u64)>,
    /// The next point.
    next: usize,
    now: f64,
}

impl Density {
    fn of(card: &Card) -> Self {
        Self { points: card.points().collect(), next: 0, now: 0.0 }
    }

    /// Goes past the next point.
    fn advance(&mut self) {
        let at = self.points[self.next];
        self.next += 1;
        self.now = match self.points.get(self.next) {
            Some(next) if next.0 > at.0 => (next.1 - at.1) as f64 / (next.0 - at.0) as f64,
            _ => 0.0,
        };
    }
}

/// About how many positions occur.
pub(super) fn union(cards: &[Card]) -> f64 {
    let mut densities: Vec<Density> = cards.iter().map(Density::of).collect();
    let mut sum = 0.0;
    let mut from = 0;
    for (key, rank) in breaks(cards) {
        if key > from {
            let none: f64 = densities.iter().map(|density| 1.0 - density.now.min(1.0)).product();
            sum += (key - from) as f64 * (1.0 - none);
            from = key;
        }
        densities[rank].advance();
    }
    sum
}

/// Where the ranges of positions begin that each of the ranks owns, and where the last ends: about as many rows of all ranks
/// in each.
pub(super) fn ranges(cards: &[Card]) -> Vec<u64> {
    let ranks = cards.len();
    let positions = cards.first().map_or(0, |card| card.layout.positions());
    let rows = cards.iter().map(|card| card.rows).sum::<u64>() as f64;
    let mut densities: Vec<Density> = cards.iter().map(Density::of).collect();
    let mut begins = vec![0];
    let mut before = 0.0;
    let mut from = 0;
    for (key, rank) in breaks(cards) {
        if key > from {
            let density: f64 = densities.iter().map(|density| density.now).sum();
            let here = (key - from) as f64 * density;
            while begins.len() < ranks {
                let wanted = rows * begins.len() as f64 / ranks as f64;
                if density <= 0.0 || wanted > before + here {
                    break;
                }
                let inside = ((wanted - before) / density).max(0.0) as u64;
                begins.push((from + inside).min(key));
            }
            before += here;
            from = key;
        }
        densities[rank].advance();
    }
    begins.resize(ranks, positions);
    begins.push(positions);
    begins
}

#[cfg(test)]
mod tests {
    use allhands_tensor::{DType, SparseLayout};

    use super::super::agree::Manner;
    use super::*;

    fn random(rows: usize, positions: u64, seed: u64) -> Vec<u64> {
        let mut state = seed;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % positions
        };
        let mut keys: Vec<u64> = (0..rows).map(|_| next()).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    fn cards(shape: &[usize], keys: &[Vec<u64>]) -> Vec<Card> {
        let layout = SparseLayout::new(DType::F32, shape, 1).unwrap();
        keys.iter().map(|keys| Card::of(&layout, keys, Manner::Blocking)).collect()
    }

    fn exact(keys: &[Vec<u64>]) -> f64 {
        let mut all = keys.concat();
        all.sort_unstable();
        all.dedup();
        all.len() as f64
    }

    #[test]
    fn the_union_of_independent_keys_is_estimated_closely() {
        let positions = 100_000;
        let even: Vec<_> = (1..=5).map(|seed| random(20_000, positions, seed)).collect();
        // A third of the keys in a tenth of the positions.
        let skewed: Vec<_> = (1..=4)
            .map(|seed| {
                let mut keys = random(5000, positions / 10, seed);
                keys.extend(random(10_000, positions, seed + 50));
                keys.sort_unstable();
                keys.dedup();
                keys
            })
            .collect();
        let apart = vec![(0..1000).collect(), (50_000..53_000).collect(), Vec::new()];
        for keys in [even, skewed, apart] {
            let (found, exact) = (union(&cards(&[positions as usize], &keys)), exact(&keys));
            assert!((found / exact - 1.0).abs() < 0.05, "{found} for {exact}");
        }
        assert_eq!(union(&cards(&[9], &[vec![], vec![]])), 0.0);
    }

    #[test]
    fn ranges_cover_all_positions_and_share_the_rows() {
        let positions = 100_000;
        for ranks in [1_usize, 3, 8] {
            let keys: Vec<_> = (0..ranks)
                .map(|rank| random(4000 + 500 * rank, positions / 7, rank as u64 + 3))
                .collect();
            let begins = ranges(&cards(&[positions as usize], &keys));
            assert_eq!((begins.len(), begins[0], begins[ranks]), (ranks + 1, 0, positions));
            assert!(begins.is_sorted());
            let all = keys.concat();
            for range in begins.windows(2) {
                let here = all.iter().filter(|key| (range[0]..range[1]).contains(key)).count();
                let share = all.len() as f64 / ranks as f64;
                assert!((here as f64 / share - 1.0).abs() < 0.15, "{here} of {share}");
            }
        }
        assert_eq!(ranges(&cards(&[9], &[vec![], vec![], vec![]])), [0, 9, 9, 9]);
    }

    #[test]
    fn each_method_has_its_place() {
        let place = |ranks: u64, rows: usize, shape: &[usize], way| {
            let keys: Vec<_> =
                (0..ranks).map(|rank| random(rows, shape[0] as u64, rank + 1)).collect();
            method(&cards(shape, &keys), way)
        };
        for way in [Way::Links, Way::Board] {
            assert_eq!(place(2, 100_000, &[1_000_000, 64], way), Method::Gather);
            assert_eq!(place(2, 9000, &[10_000, 64], way), Method::Gather);
            assert_eq!(place(4, 200, &[1_000_000, 64], way), Method::Gather);
            assert_eq!(place(16, 90_000, &[100_000], way), Method::Dense);
            assert_eq!(place(2, 400_000, &[100_000], way), Method::Dense);
        }
        assert_eq!(place(4, 100_000, &[1_000_000, 64], Way::Links), Method::Owners);
        assert_eq!(place(4, 100_000, &[1_000_000, 64], Way::Board), Method::Gather);
        assert_eq!(place(16, 20_000, &[100_000, 64], Way::Board), Method::Owners);
        let same = vec![random(50, 1000, 3); 3];
        assert_eq!(method(&cards(&[1000, 4], &same), Way::Links), Method::Aligned);
    }
}
