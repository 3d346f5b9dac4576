//! What several algorithms go through: windows, segments and circulant distances.

use smallvec::SmallVec;

use crate::blocks::{Blocks, above, wrapped};
use crate::plan::{Buffer, Rank, Span};

/// Most messages that one step of a linear algorithm sends or receives, so that a root of a large world
/// is not flooded.
pub(crate) const WINDOW: u32 = 8;

/// Elements of a pipeline's segment: long against a message's latency, short against the pipeline.
pub(crate) const SEGMENT: u64 = 64 * 1024;

/// Most segments of a pipeline; longer buffers get longer segments, so that plans stay small.
pub(crate) const SEGMENTS_MAX: u64 = 512;

/// The segments of `len` elements of `Data`: at least one, of nearly equal lengths.
pub(crate) fn segments(len: u64) -> impl Iterator<Item = Span> {
    let count = len.div_ceil(SEGMENT).clamp(1, SEGMENTS_MAX) as u32;
    let blocks = Blocks::balanced(len, count);
    (0..count).map(move |segment| blocks.span(Buffer::Data, segment, segment + 1))
}

/// The other ranks of a window, nearest above first: those at distances `first..first + WINDOW`.
pub(crate) fn windows(rank: Rank, world: u32) -> impl Iterator<Item = impl Iterator<Item = Rank>> {
    (1..world).step_by(WINDOW as usize).map(move |first| {
        (first..world.min(first + WINDOW)).map(move |distance| above(rank, distance, world))
    })
}

/// `count` blocks of `Data` from `first` on, counted around the world: one or two spans.
pub(crate) fn around(blocks: &Blocks, world: u32, first: Rank, count: u32) -> SmallVec<[Span; 2]> {
    wrapped(first.0, count, world)
        .into_iter()
        .flatten()
        .map(|(from, to)| blocks.span(Buffer::Data, from, to))
        .collect()
}

/// The distances of the circulant pattern, farthest first: each pair `(s, s1)` says that a round covers
/// the blocks at distances `s..s1`. See Träff, "Optimal, non-pipelined reduce-scatter and allreduce
/// algorithms", arXiv 2410.14234.
pub(crate) fn skips(world: u32) -> impl Iterator<Item = (u32, u32)> {
    let mut near = world;
    std::iter::from_fn(move || {
        (near > 1).then(|| {
            let far = near;
            near = far.div_ceil(2);
            (near, far)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_have_a_bounded_number_and_length() {
        assert_eq!(segments(0).count(), 1);
        assert_eq!(segments(SEGMENT).count(), 1);
        assert_eq!(segments(SEGMENT + 1).count(), 2);
        assert_eq!(segments(1 << 40).count() as u64, SEGMENTS_MAX);
        assert!(segments(10 * SEGMENT + 3).all(|span| span.len <= SEGMENT));
        assert_eq!(segments(10 * SEGMENT + 3).map(|span| span.len).sum::<u64>(), 10 * SEGMENT + 3);
    }

    #[test]
    fn windows_hold_every_other_rank_once() {
        for world in 1..40 {
            let windows: Vec<Vec<Rank>> =
                windows(Rank(world / 2), world).map(Iterator::collect).collect();
            assert!(windows.iter().all(|window| window.len() <= WINDOW as usize));
            let mut all: Vec<u32> = windows.concat().into_iter().map(|r| r.0).collect();
            all.push(world / 2);
            all.sort_unstable();
            assert_eq!(all, (0..world).collect::<Vec<_>>());
        }
    }

    #[test]
    fn skips_halve_down_to_one() {
        assert_eq!(skips(7).collect::<Vec<_>>(), [(4, 7), (2, 4), (1, 2)]);
        assert_eq!(skips(1).count(), 0);
    }
}
