//! The memory an operation works on: input, data and scratch, each a sequence of pieces.

use allhands_plan::{Buffer, Span};
use allhands_tensor::lend::{LentMut, LentRef};
use allhands_tensor::{Kernel, Tensor};
use smallvec::SmallVec;

/// Bytes reduced at a time, so that a block of every operand stays in the L2 cache.
pub const REDUCE_BLOCK: usize = 64 * 1024;

/// Memory that an operation owns until it ends.
#[derive(Debug, Default)]
#[non_exhaustive]
pub enum Storage {
    /// No memory.
    #[default]
    Empty,
    /// Plain bytes.
    Bytes(Vec<u8>),
    /// A dense tensor in row-major order.
    Tensor(Tensor),
    /// A slice lent for writing by a caller that waits.
    LentMut(LentMut),
    /// A slice lent for reading by a caller that waits.
    Lent(LentRef),
}

impl Storage {
    /// The bytes. A tensor that is not contiguous has none here; submitting one is refused.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Empty => &[],
            Self::Bytes(bytes) => bytes,
            Self::Tensor(tensor) => tensor.as_bytes().unwrap_or(&[]),
            Self::LentMut(lent) => lent,
            Self::Lent(lent) => lent,
        }
    }

    /// The bytes for writing; empty for memory that was lent for reading.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Empty | Self::Lent(_) => &mut [],
            Self::Bytes(bytes) => bytes,
            Self::Tensor(tensor) => tensor.as_bytes_mut().unwrap_or(&mut []),
            Self::LentMut(lent) => lent,
        }
    }

    /// Whether the memory may be written.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        !matches!(self, Self::Lent(_))
    }
}

/// One buffer of a plan: pieces of memory that the plan sees as one run of bytes.
///
/// List forms (gather into several tensors, scatter from several) need no copy: each tensor is a piece.
#[derive(Debug, Default)]
pub struct Space {
    pieces: SmallVec<[Storage; 1]>,
    /// `ends[i]` is the offset just past piece `i`; kept so that a lookup is a search, not a sum.
    ends: SmallVec<[usize; 1]>,
}

impl Space {
    /// No memory at all.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// One piece.
    #[must_use]
    pub fn single(storage: Storage) -> Self {
        let mut space = Self::default();
        space.push(storage);
        space
    }

    /// Several pieces, one after the other.
    pub fn list(pieces: impl IntoIterator<Item = Storage>) -> Self {
        let mut space = Self::default();
        for piece in pieces {
            space.push(piece);
        }
        space
    }

    fn push(&mut self, storage: Storage) {
        let end = self.len() + storage.as_bytes().len();
        self.pieces.push(storage);
        self.ends.push(end);
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Whether there is no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether every piece may be written.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.pieces.iter().all(Storage::is_writable)
    }

    /// Whether no element of `size` bytes lies in two pieces.
    pub(crate) fn holds_whole(&self, size: usize) -> bool {
        self.ends.iter().all(|end| end % size == 0)
    }

    /// All bytes, where they are one piece.
    #[must_use]
    pub fn piece(&self) -> Option<&[u8]> {
        match self.pieces.as_slice() {
            [only] => Some(only.as_bytes()),
            _ => None,
        }
    }

    /// The pieces, back in the caller's hands.
    #[must_use]
    pub fn into_pieces(self) -> SmallVec<[Storage; 1]> {
        self.pieces
    }

    /// Piece that holds `offset`, and where that piece begins.
    fn locate(&self, offset: usize) -> (usize, usize) {
        if self.pieces.len() == 1 {
            return (0, 0);
        }
        let piece = self.ends.partition_point(|&end| end <= offset);
        (piece, if piece == 0 { 0 } else { self.ends[piece - 1] })
    }

    /// The longest run in one piece from `offset`, at most `max` bytes; empty past the end.
    #[must_use]
    pub fn run(&self, offset: usize, max: usize) -> &[u8] {
        let (piece, start) = self.locate(offset);
        let Some(storage) = self.pieces.get(piece) else { return &[] };
        let bytes = storage.as_bytes();
        let from = (offset - start).min(bytes.len());
        &bytes[from..bytes.len().min(from.saturating_add(max))]
    }

    /// As [`Space::run`], for writing.
    pub fn run_mut(&mut self, offset: usize, max: usize) -> &mut [u8] {
        let (piece, start) = self.locate(offset);
        let Some(storage) = self.pieces.get_mut(piece) else { return &mut [] };
        let bytes = storage.as_bytes_mut();
        let from = (offset - start).min(bytes.len());
        let to = bytes.len().min(from.saturating_add(max));
        &mut bytes[from..to]
    }

    /// Copies `bytes` in from `offset`, over as many pieces as that takes.
    fn write(&mut self, mut offset: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let run = self.run_mut(offset, bytes.len());
            let n = run.len();
            assert!(n > 0, "a write past the end of a buffer: lengths are checked at submission");
            run.copy_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            offset += n;
        }
    }
}

/// A span in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ByteSpan {
    pub(crate) buffer: Buffer,
    pub(crate) offset: usize,
    pub(crate) len: usize,
}

impl ByteSpan {
    pub(crate) fn of(span: Span, element_size: usize) -> Self {
        // Plans are checked against the real buffers at submission, so these products fit.
        Self {
            buffer: span.buffer,
            offset: span.offset as usize * element_size,
            len: span.len as usize * element_size,
        }
    }

    fn part(self, from: usize, len: usize) -> Self {
        Self { buffer: self.buffer, offset: self.offset + from, len }
    }
}

/// One operand of a reduction.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operand<'a> {
    /// Local memory; it may be the destination itself.
    Span(ByteSpan),
    /// Bytes from elsewhere: a link's staging, an assembly area.
    Bytes(&'a [u8]),
}

/// How partial results become the result: which kernel, and over how many ranks to average.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Combine {
    pub(crate) kernel: Kernel,
    /// World size when this reduction completes its elements; `None` for a partial one.
    pub(crate) finish: Option<u32>,
}

/// The three buffers of a running plan.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    pub(crate) input: Space,
    pub(crate) data: Space,
    pub(crate) scratch: Space,
}

impl Buffers {
    pub(crate) fn space(&self, buffer: Buffer) -> &Space {
        match buffer {
            Buffer::Input => &self.input,
            Buffer::Data => &self.data,
            Buffer::Scratch => &self.scratch,
        }
    }

    fn space_mut(&mut self, buffer: Buffer) -> &mut Space {
        match buffer {
            Buffer::Input => &mut self.input,
            Buffer::Data => &mut self.data,
            Buffer::Scratch => &mut self.scratch,
        }
    }

    /// The contiguous run for writing at `from` bytes into `span`.
    pub(crate) fn window(&mut self, span: ByteSpan, from: usize) -> &mut [u8] {
        self.space_mut(span.buffer).run_mut(span.offset + from, span.len - from)
    }

    pub(crate) fn run(&self, span: ByteSpan, from: usize, max: usize) -> &[u8] {
        self.space(span.buffer).run(span.offset + from, max.min(span.len - from))
    }

    pub(crate) fn write(&mut self, span: ByteSpan, from: usize, bytes: &[u8]) {
        debug_assert!(from + bytes.len() <= span.len, "more bytes than the span holds");
        self.space_mut(span.buffer).write(span.offset + from, bytes);
    }

    /// Copies `src` to `dst`, which may lie in the same buffer but never overlap (the plan checker
    /// proves it).
    pub(crate) fn copy(&mut self, src: ByteSpan, dst: ByteSpan) {
        let mut done = 0;
        while done < dst.len {
            let room = self.window(dst, done).len();
            let run = self.run(src, done, room).len();
            let n = room.min(run);
            assert!(n > 0, "a copy past the end of a buffer: lengths are checked at submission");
            if src.buffer == dst.buffer {
                let space = self.space_mut(dst.buffer);
                if let [only] = space.pieces.as_mut_slice() {
                    let from = src.offset + done;
                    only.as_bytes_mut().copy_within(from..from + n, dst.offset + done);
                } else {
                    let bytes = self.run(src, done, n).to_vec();
                    self.write(dst, done, &bytes);
                }
            } else {
                let (source, target) = self.pair(src.buffer, dst.buffer);
                target
                    .run_mut(dst.offset + done, n)
                    .copy_from_slice(source.run(src.offset + done, n));
            }
            done += n;
        }
    }

    fn pair(&mut self, from: Buffer, to: Buffer) -> (&Space, &mut Space) {
        let Self { input, data, scratch } = self;
        match (from, to) {
            (Buffer::Input, Buffer::Data) => (input, data),
            (Buffer::Input, Buffer::Scratch) => (input, scratch),
            (Buffer::Data, Buffer::Scratch) => (data, scratch),
            (Buffer::Scratch, Buffer::Data) => (scratch, data),
            _ => unreachable!("the plan checker rejects writes to the input"),
        }
    }

    /// `dst[from..from + len] = operands in their order`, block by block.
    ///
    /// An operand that is `dst` itself contributes its old content; others must not overlap `dst`.
    /// `Operand::Bytes` begin at `from`, spans at their own start.
    pub(crate) fn reduce(
        &mut self,
        combine: Combine,
        dst: ByteSpan,
        from: usize,
        len: usize,
        operands: &[Operand<'_>],
    ) {
        let mut done = 0;
        while done < len {
            let at = from + done;
            let mut n = self.run(dst, at, (len - done).min(REDUCE_BLOCK)).len();
            for operand in operands {
                if let Operand::Span(span) = operand {
                    n = n.min(self.run(*span, at, n).len());
                }
            }
            assert!(
                n > 0,
                "a reduction past the end of a buffer: lengths are checked at submission"
            );
            self.reduce_block(combine, dst.part(at, n), at, done, operands);
            done += n;
        }
    }

    fn reduce_block(
        &mut self,
        combine: Combine,
        dst: ByteSpan,
        at: usize,
        done: usize,
        operands: &[Operand<'_>],
    ) {
        // Pieces of one list may hold destination and source at once; that case is rare enough to copy.
        let listed = self.space(dst.buffer).pieces.len() > 1;
        let mut copies: SmallVec<[Vec<u8>; 4]> = SmallVec::new();
        let is_dst = |span: &ByteSpan| span.buffer == dst.buffer && span.offset + at == dst.offset;
        if listed {
            for operand in operands {
                if let Operand::Span(span) = operand
                    && span.buffer == dst.buffer
                    && !is_dst(span)
                {
                    copies.push(self.run(*span, at, dst.len).to_vec());
                }
            }
        }
        let Self { input, data, scratch } = self;
        let (input, data, scratch) = (input, data, scratch);
        let (target, others): (&mut Space, [(Buffer, &Space); 2]) = match dst.buffer {
            Buffer::Data => (data, [(Buffer::Input, input), (Buffer::Scratch, scratch)]),
            Buffer::Scratch => (scratch, [(Buffer::Input, input), (Buffer::Data, data)]),
            Buffer::Input => unreachable!("the plan checker rejects writes to the input"),
        };
        let (piece, start) = target.locate(dst.offset);
        let bytes = target.pieces[piece].as_bytes_mut();
        let (before, rest) = bytes.split_at_mut(dst.offset - start);
        let (target, after) = rest.split_at_mut(dst.len);
        let (before, after): (&[u8], &[u8]) = (before, after);

        let mut copied = copies.iter();
        let mut sources: SmallVec<[&[u8]; 8]> = SmallVec::new();
        let mut own = None;
        for (index, operand) in operands.iter().enumerate() {
            match operand {
                Operand::Bytes(bytes) => sources.push(&bytes[done..done + dst.len]),
                Operand::Span(span) if is_dst(span) => own = Some(index),
                Operand::Span(span) if span.buffer != dst.buffer => {
                    let space = if span.buffer == others[0].0 { others[0].1 } else { others[1].1 };
                    sources.push(space.run(span.offset + at, dst.len));
                }
                Operand::Span(_) if listed => {
                    sources.push(copied.next().map_or(&[], Vec::as_slice));
                }
                Operand::Span(span) => {
                    let offset = span.offset + at;
                    if offset < dst.offset {
                        sources.push(&before[offset - start..offset - start + dst.len]);
                    } else {
                        let past = offset - (dst.offset + dst.len);
                        sources.push(&after[past..past + dst.len]);
                    }
                }
            }
        }
        match (own, sources.as_slice()) {
            (Some(_), []) => {}
            (None, [source]) => target.copy_from_slice(source),
            (own, sources) => combine.kernel.reduce(target, own, sources),
        }
        if let Some(world) = combine.finish {
            combine.kernel.finish(target, world);
        }
    }
}
