//! Borrowed buffers as a compiled plan sees them: each one run of bytes, in one piece or in several.

use std::ops::Range;

use allhands_engine::flat::Memory;
use smallvec::SmallVec;

/// Pieces of a buffer that are kept without heap memory: a list with an entry for each rank of a small world.
const PIECES: usize = 8;

/// Buffers of a caller that waits.
pub(crate) trait Borrowed: Memory {
    /// Bytes of input and data.
    fn lens(&self) -> (usize, usize);

    /// Input and data, where each is one piece; what is not is empty here.
    fn in_one(&self) -> (&[u8], &[u8]);

    /// Whether no element of `size` bytes lies in two pieces.
    fn holds_whole(&self, size: usize) -> bool;
}

/// Buffers of one piece each.
pub(crate) struct Slices<'a> {
    pub(crate) input: &'a [u8],
    pub(crate) data: &'a mut [u8],
}

/// The longest run within bounds.
#[inline]
fn clip(len: usize, offset: usize, max: usize) -> Range<usize> {
    let from = offset.min(len);
    from..from.saturating_add(max).min(len)
}

impl Memory for Slices<'_> {
    #[inline]
    fn input(&self, offset: usize, max: usize) -> &[u8] {
        &self.input[clip(self.input.len(), offset, max)]
    }

    #[inline]
    fn data(&self, offset: usize, max: usize) -> &[u8] {
        &self.data[clip(self.data.len(), offset, max)]
    }

    #[inline]
    fn data_mut(&mut self, offset: usize, max: usize) -> &mut [u8] {
        let range = clip(self.data.len(), offset, max);
        &mut self.data[range]
    }

    #[inline]
    fn both(&mut self, input: usize, data: usize, max: usize) -> (&[u8], &mut [u8]) {
        let source = &self.input[clip(self.input.len(), input, max)];
        let target = clip(self.data.len(), data, source.len());
        (&source[..target.len()], &mut self.data[target])
    }
}

impl Borrowed for Slices<'_> {
    #[inline]
    fn lens(&self) -> (usize, usize) {
        (self.input.len(), self.data.len())
    }

    #[inline]
    fn in_one(&self) -> (&[u8], &[u8]) {
        (self.input, self.data)
    }

    #[inline]
    fn holds_whole(&self, _: usize) -> bool {
        true
    }
}

/// Buffers of several pieces, one after the other.
pub(crate) struct Pieces<'a> {
    pub(crate) inputs: SmallVec<[&'a [u8]; PIECES]>,
    pub(crate) outputs: SmallVec<[&'a mut [u8]; PIECES]>,
}

/// The piece that holds `offset`, and where in it; past the end, the last.
fn locate(lens: impl Iterator<Item = usize>, mut offset: usize) -> Option<(usize, usize)> {
    let mut found = None;
    for (piece, len) in lens.enumerate() {
        found = Some((piece, offset.min(len)));
        if offset < len {
            break;
        }
        offset -= len;
    }
    found
}

impl Pieces<'_> {
    fn output(&self, offset: usize, max: usize) -> Option<(usize, Range<usize>)> {
        let (piece, from) = locate(self.outputs.iter().map(|piece| piece.len()), offset)?;
        Some((piece, clip(self.outputs[piece].len(), from, max)))
    }
}

impl Memory for Pieces<'_> {
    fn input(&self, offset: usize, max: usize) -> &[u8] {
        match locate(self.inputs.iter().map(|piece| piece.len()), offset) {
            Some((piece, from)) => &self.inputs[piece][clip(self.inputs[piece].len(), from, max)],
            None => &[],
        }
    }

    fn data(&self, offset: usize, max: usize) -> &[u8] {
        match self.output(offset, max) {
            Some((piece, range)) => &self.outputs[piece][range],
            None => &[],
        }
    }

    fn data_mut(&mut self, offset: usize, max: usize) -> &mut [u8] {
        match self.output(offset, max) {
            Some((piece, range)) => &mut self.outputs[piece][range],
            None => &mut [],
        }
    }

    fn both(&mut self, input: usize, data: usize, max: usize) -> (&[u8], &mut [u8]) {
        let source = match locate(self.inputs.iter().map(|piece| piece.len()), input) {
            Some((piece, from)) => &self.inputs[piece][clip(self.inputs[piece].len(), from, max)],
            None => &[],
        };
        let Some((piece, range)) = self.output(data, source.len()) else {
            return (&[], &mut []);
        };
        (&source[..range.len()], &mut self.outputs[piece][range])
    }
}

impl Borrowed for Pieces<'_> {
    fn lens(&self) -> (usize, usize) {
        let input = self.inputs.iter().map(|piece| piece.len()).sum();
        (input, self.outputs.iter().map(|piece| piece.len()).sum())
    }

    fn in_one(&self) -> (&[u8], &[u8]) {
        let input: &[u8] = match self.inputs.as_slice() {
            [only] => only,
            _ => &[],
        };
        let data: &[u8] = match self.outputs.as_slice() {
            [only] => only,
            _ => &[],
        };
        (input, data)
    }

    fn holds_whole(&self, size: usize) -> bool {
        let whole = |len: usize| len.is_multiple_of(size);
        self.inputs.iter().all(|piece| whole(piece.len()))
            && self.outputs.iter().all(|piece| whole(piece.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs of every offset and length, from pieces of which some are empty.
    #[test]
    fn runs_end_where_pieces_do() {
        let whole: Vec<u8> = (0..10).collect();
        let mut outputs = whole.clone();
        let (first, rest) = outputs.split_at_mut(4);
        let (second, third) = rest.split_at_mut(1);
        let mut pieces = Pieces {
            inputs: SmallVec::from_iter([&whole[..0], &whole[..3], &whole[3..3], &whole[3..]]),
            outputs: SmallVec::from_iter([first, second, &mut [], third]),
        };
        assert_eq!(pieces.lens(), (10, 10));
        let ends = |ends: &[usize], at: usize, max: usize| {
            ends.iter().find(|&&end| end > at).map_or(0, |end| (end - at).min(max))
        };
        for at in 0..=10 {
            for max in 1..=11 {
                let input = ends(&[3, 10], at, max);
                let data = ends(&[4, 5, 10], at, max);
                assert_eq!(pieces.input(at, max), &whole[at..at + input], "{at} {max}");
                assert_eq!(pieces.data(at, max), &whole[at..at + data], "{at} {max}");
                assert_eq!(pieces.data_mut(at, max), &whole[at..at + data], "{at} {max}");
                let (source, target) = pieces.both(at, at, max);
                assert_eq!(source, &whole[at..at + input.min(data)], "{at} {max}");
                assert_eq!(source, target);
            }
        }
        assert!(pieces.holds_whole(1) && !pieces.holds_whole(2));
    }

    #[test]
    fn no_pieces_hold_nothing() {
        let mut none = Pieces { inputs: SmallVec::new(), outputs: SmallVec::new() };
        assert_eq!((none.lens(), none.in_one()), ((0, 0), (&[][..], &[][..])));
        assert!(none.input(0, 4).is_empty() && none.data_mut(3, 4).is_empty());
        assert!(none.both(0, 0, 4).1.is_empty());
    }
}
