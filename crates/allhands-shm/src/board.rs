//! Boards: a ring of publications for each rank, written by it alone and read by all others in place.
//!
//! A rank's board lies at the end of its own segment:
//!
//! | part | bytes | content |
//! |---|---|---|
//! | withdrawn | a line | whether what this rank has lent may have changed since |
//! | taken | 8 a rank, rounded up to lines | how many publications of each rank this one has taken |
//! | heads | [`PLACES`] × 64 | one cache line a publication: stamp, what it is, and up to [`INLINE`] bytes of it |
//! | short | [`PLACES`] × [`SHORT`] | bytes of publications that do not fit their head |
//! | long | [`LONGS`] × [`LONG`] | bytes of those that do not fit there either |
//!
//! # The protocol
//! Publication `n` of a rank goes to place `n mod PLACES`. Its bytes are written first, its stamp (`n + 1`) last, with
//! release; a reader that sees the stamp, with acquire, sees the bytes. A reader that has done with everything below
//! `n` says so by storing `n` to its own `taken` word of that rank, with release. A place is written again only
//! when every reader's word, read with acquire, says that it was taken; a long buffer likewise.
//!
//! A small publication is one line: one transfer between two cores.
//!
//! # Trust
//! A reader copies a head's words before it looks at them, and uses none before it is checked against the layout.
//! Whatever a peer writes, nothing outside its own segments is read, and nothing is written at all.

use std::ptr::NonNull;
use std::sync::Arc;

use allhands_tensor::foreign::ForeignBytes;

use crate::arena::Arena;
use crate::layout::LINE;
use crate::primitive::{AtomicU64, Ordering};
use crate::protocol::{self, Published};
use crate::segment::{OwnSegment, PeerSegment};
use crate::wake::Wakers;

/// Publications that a rank can be ahead of its slowest reader.
pub const PLACES: usize = 32;

/// Bytes that travel in the head itself.
pub const INLINE: usize = 32;

/// Bytes of a place's own buffer.
pub const SHORT: usize = 2048;

/// Long buffers of a rank.
pub const LONGS: usize = 4;

/// Bytes of a long buffer: the longest publication by copy.
pub const LONG: usize = 256 * 1024;

/// Words of a head.
const STAMP: usize = 0;
const FINGERPRINT: usize = 1;
const SEQUENCE: usize = 2;
const FORM: usize = 3;
const DATA: usize = 4;
const INPUT: usize = 5;

/// A head's `FORM` word: the form itself, the long buffer, the length and the tile.
const FORM_MASK: u64 = 3;
const LONG_SHIFT: u32 = 2;
const LONG_MASK: u64 = 0xF;
const LEN_SHIFT: u32 = 8;
const LEN_MASK: u32 = 0xFF_FFFF;
const TILE_SHIFT: u32 = 32;

/// Where a publication's bytes are.
const FORM_INLINE: u64 = 0;
const FORM_SHORT: u64 = 1;
const FORM_LONG: u64 = 2;
const FORM_LENT: u64 = 3;

/// What a head says of a publication, apart from its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Number of the operation.
    pub seq: u64,
    /// What the operation is.
    pub fingerprint: u64,
    /// Bytes published.
    pub len: u32,
    /// Which tile of the operation.
    pub tile: u32,
    /// Where the bytes are, if the publication holds no copy.
    pub lent: Option<LentAt>,
}

/// Where lent buffers begin in the publisher's arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LentAt {
    /// Offset of the output buffer.
    pub data: u64,
    /// Offset of the input buffer.
    pub input: u64,
}

/// Bytes of a board for `world` ranks.
#[must_use]
pub const fn board_len(world: u32) -> usize {
    heads_at(world) + PLACES * (LINE + SHORT) + LONGS * LONG
}

const fn heads_at(world: u32) -> usize {
    LINE + (world as usize * size_of::<u64>()).next_multiple_of(LINE)
}

/// A rank's part of the memory: where it is mapped here.
#[derive(Clone, Copy)]
struct Place {
    withdrawn: NonNull<u8>,
    taken: NonNull<u8>,
    heads: NonNull<u8>,
    short: NonNull<u8>,
    long: NonNull<u8>,
}

impl Place {
    /// The parts of a board that begins at `base`.
    ///
    /// # Safety
    /// * `base` is aligned to a line, and [`board_len`] bytes from it are mapped in one piece.
    unsafe fn new(base: NonNull<u8>, world: u32) -> Self {
        let heads_at = heads_at(world);
        // SAFETY: All offsets are below `board_len`, which the caller vouches for.
        unsafe {
            let heads = base.add(heads_at);
            let short = heads.add(PLACES * LINE);
            let taken = base.add(LINE);
            Self { withdrawn: base, taken, heads, short, long: short.add(PLACES * SHORT) }
        }
    }

    /// A word of a head.
    #[inline]
    fn word(&self, place: usize, word: usize) -> &AtomicU64 {
        debug_assert!(place < PLACES && word < LINE / size_of::<u64>());
        // SAFETY: Both are within the heads, which are mapped and aligned; words of heads are only accessed as
        // atomics once they are shared. Read-only mappings are only read.
        unsafe {
            self.heads.add(place * LINE + word * size_of::<u64>()).cast::<AtomicU64>().as_ref()
        }
    }

    /// Not zero once the owner's lent memory is its own again.
    fn withdrawn(&self) -> &AtomicU64 {
        // SAFETY: The word is the board's first, mapped and aligned, and only accessed as an atomic.
        unsafe { self.withdrawn.cast::<AtomicU64>().as_ref() }
    }

    /// How many publications of `rank` this board's owner has taken.
    #[inline]
    fn taken(&self, rank: usize) -> &AtomicU64 {
        // SAFETY: Ranks are below the world for which the board was laid out; the words are aligned.
        unsafe { self.taken.add(rank * size_of::<u64>()).cast::<AtomicU64>().as_ref() }
    }

    /// Where the bytes of a publication begin.
    #[inline]
    fn bytes(&self, place: usize, form: u64, long: usize) -> NonNull<u8> {
        debug_assert!(place < PLACES && long < LONGS);
        // SAFETY: Each arm stays within its part, by the bounds that the callers check.
        unsafe {
            match form {
                FORM_INLINE => self.heads.add(place * LINE + (LINE - INLINE)),
                FORM_SHORT => self.short.add(place * SHORT),
                _ => self.long.add(long * LONG),
            }
        }
    }
}

/// Room that was opened for the next publication.
#[derive(Clone, Copy)]
struct Room {
    form: u64,
    long: usize,
}

/// This rank's view of the boards of all ranks of its host.
pub struct Board {
    me: usize,
    mine: Place,
    /// By rank; this rank's own entry is its own board.
    theirs: Vec<Place>,
    counts: Published,
    room: Option<Room>,
    /// For each long buffer, the number past the publication that used it last.
    long_used: [u64; LONGS],
    long_next: usize,
    wakers: Arc<Wakers>,
    /// This rank's arena: what lies there can be lent.
    arena: Option<Arc<Arena>>,
    /// Those of the others.
    arenas: Vec<Option<Arc<PeerSegment>>>,
    /// Keep the memory mapped.
    _own: Arc<OwnSegment>,
    _peers: Vec<Option<Arc<PeerSegment>>>,
}

// SAFETY: The pointers lead to mappings that the board keeps alive, and one thread at a time has the board.
unsafe impl Send for Board {}

/// How far the slowest reader of the publications of `me` is; nobody at all has taken everything.
#[cold]
fn slowest(boards: &[Place], me: usize) -> u64 {
    let others = boards.iter().enumerate().filter(|&(rank, _)| rank != me);
    others.map(|(_, board)| protocol::taken(board.taken(me))).min().unwrap_or(u64::MAX)
}

impl Board {
    /// Room for the bytes of the next publication, at most [`LONG`]; `None` while readers still have what is there,
    /// and for more.
    #[inline]
    pub fn open(&mut self, len: usize) -> Option<&mut [u8]> {
        if !self.has_place() {
            return None;
        }
        let place = self.counts.next() as usize % PLACES;
        let room = if len <= INLINE {
            Room { form: FORM_INLINE, long: 0 }
        } else if len <= SHORT {
            Room { form: FORM_SHORT, long: 0 }
        } else if len <= LONG && self.is_taken(self.long_used[self.long_next]) {
            Room { form: FORM_LONG, long: self.long_next }
        } else {
            return None;
        };
        self.room = Some(room);
        let bytes = self.mine.bytes(place, room.form, room.long);
        // SAFETY: The place is within this rank's own board and has `len` bytes, as the branches above see to. This
        // process alone writes there, no other reference to it exists while `self` is borrowed, and readers in other
        // processes have taken what was there: they look again only after the stamp.
        Some(unsafe { std::slice::from_raw_parts_mut(bytes.as_ptr(), len) })
    }

    /// Publishes what was written to the room that was opened last.
    #[inline]
    pub fn publish(&mut self, head: &Head) {
        let Some(room) = self.room.take() else { return };
        if room.form == FORM_LONG {
            self.long_used[room.long] = self.counts.next() + 1;
            self.long_next = (room.long + 1) % LONGS;
        }
        self.stamp(head, room.form | (room.long as u64) << LONG_SHIFT);
    }

    /// Publishes where bytes are. `false`, and nothing done, while there is no place.
    #[inline]
    pub fn lend(&mut self, head: &Head, lent: LentAt) -> bool {
        if !self.has_place() {
            return false;
        }
        // Room that was opened was for this place.
        self.room = None;
        let place = self.counts.next() as usize % PLACES;
        self.mine.word(place, DATA).store(lent.data, Ordering::Relaxed);
        self.mine.word(place, INPUT).store(lent.input, Ordering::Relaxed);
        self.stamp(head, FORM_LENT);
        true
    }

    #[inline]
    fn stamp(&mut self, head: &Head, form: u64) {
        let place = self.counts.next() as usize % PLACES;
        let form =
            form | u64::from(head.len & LEN_MASK) << LEN_SHIFT | u64::from(head.tile) << TILE_SHIFT;
        self.mine.word(place, FINGERPRINT).store(head.fingerprint, Ordering::Relaxed);
        self.mine.word(place, SEQUENCE).store(head.seq, Ordering::Relaxed);
        self.mine.word(place, FORM).store(form, Ordering::Relaxed);
        self.counts.stamp(self.mine.word(place, STAMP));
        self.wakers.wake_all();
    }

    /// How many publications this rank has made.
    #[inline]
    #[must_use]
    pub fn published(&self) -> u64 {
        self.counts.next()
    }

    /// Whether the next place has been taken by every reader.
    #[inline]
    fn has_place(&mut self) -> bool {
        let Self { counts, theirs, me, .. } = self;
        counts.has_place(PLACES as u64, || slowest(theirs, *me))
    }

    /// Whether every reader has taken all publications below `number`.
    #[inline]
    fn is_taken(&mut self, number: u64) -> bool {
        let Self { counts, theirs, me, .. } = self;
        counts.is_taken(number, || slowest(theirs, *me))
    }

    /// How many of this rank's publications `rank` has taken.
    ///
    /// # Panics
    /// If there is no such rank.
    #[inline]
    #[must_use]
    pub fn taken(&self, rank: usize) -> u64 {
        protocol::taken(self.theirs[rank].taken(self.me))
    }

    /// Says that this rank needs no publication of `rank` below `number` any more.
    ///
    /// # Panics
    /// If there is no such rank.
    #[inline]
    pub fn take(&mut self, rank: usize, number: u64) {
        // The word lies in this rank's own board, whose layout knows as many ranks.
        assert!(rank < self.theirs.len(), "rank {rank} of {}", self.theirs.len());
        protocol::take(self.mine.taken(rank), number);
        self.wakers.wake(rank);
    }

    /// Says that what this rank has lent may change from now on, whoever may still read it: its group has failed.
    pub fn withdraw(&mut self) {
        protocol::withdraw(self.mine.withdrawn());
        self.wakers.wake_all();
    }

    /// Whether `rank` has withdrawn what it lent. If not, what was read of it before is what it lent.
    ///
    /// # Panics
    /// If there is no such rank.
    #[must_use]
    pub fn is_withdrawn(&self, rank: usize) -> bool {
        protocol::is_withdrawn(self.theirs[rank].withdrawn())
    }

    /// The publication `number` of a rank, if it is there.
    ///
    /// # Panics
    /// If there is no such rank.
    #[inline]
    #[must_use]
    pub fn look(&self, rank: usize, number: u64) -> Option<Head> {
        let board = &self.theirs[rank];
        let place = number as usize % PLACES;
        if !protocol::is_stamped(board.word(place, STAMP), number) {
            return None;
        }
        let word = |word| board.word(place, word).load(Ordering::Relaxed);
        let form = word(FORM);
        let lent = (form & FORM_MASK == FORM_LENT)
            .then(|| LentAt { data: word(DATA), input: word(INPUT) });
        Some(Head {
            seq: word(SEQUENCE),
            fingerprint: word(FINGERPRINT),
            len: (form >> LEN_SHIFT) as u32 & LEN_MASK,
            tile: (form >> TILE_SHIFT) as u32,
            lent,
        })
    }

    /// Bytes `from..from + len` of a publication by copy; `None` if it does not hold them.
    #[inline]
    #[must_use]
    pub fn copied(
        &self,
        rank: usize,
        number: u64,
        from: usize,
        len: usize,
    ) -> Option<ForeignBytes<'_>> {
        let board = &self.theirs[rank];
        let place = number as usize % PLACES;
        let word = board.word(place, FORM).load(Ordering::Relaxed);
        let (form, long) = (word & FORM_MASK, (word >> LONG_SHIFT & LONG_MASK) as usize);
        let published = ((word >> LEN_SHIFT) as u32 & LEN_MASK) as usize;
        let (room, long) = match form {
            FORM_INLINE => (INLINE, 0),
            FORM_SHORT => (SHORT, 0),
            FORM_LONG if long < LONGS => (LONG, long),
            _ => return None,
        };
        let end = from.checked_add(len)?;
        if end > published || end > room {
            return None;
        }
        let bytes = board.bytes(place, form, long);
        // SAFETY: The bytes are within the place's room, which was checked, in a mapping that lives as long as the
        // board; the segment is sealed against shrinking. They are never written through a reference of this process,
        // unless they are this rank's own, which nobody looks at.
        Some(unsafe { ForeignBytes::new(bytes.as_ptr().add(from), len) })
    }
}

impl Board {
    /// The board of rank `me`, at `at` in its own segment, beside those at the same place in its peers' segments.
    ///
    /// # Panics
    /// If a segment is too short for a board at `at`, `at` is not aligned to a line, that part has an owner already, or there is
    /// no rank `me`: whoever maps segments sees to that.
    #[must_use]
    pub fn new(
        own: Arc<OwnSegment>,
        peers: Vec<Option<Arc<PeerSegment>>>,
        me: usize,
        at: usize,
        wakers: Arc<Wakers>,
    ) -> Self {
        let world = peers.len() as u32;
        assert!(me < peers.len(), "rank {me} of {world}");
        let fits = |len: usize| at.is_multiple_of(LINE) && at + board_len(world) <= len;
        assert!(fits(own.len()), "a board at {at} in a segment of {} bytes", own.len());
        own.claim(at..at + board_len(world));
        // SAFETY: Mappings begin at a page, and `fits` has seen that the board is inside.
        let place = |base: NonNull<u8>| unsafe { Place::new(base.add(at), world) };
        let mine = place(own.base());
        let theirs = peers
            .iter()
            .map(|peer| match peer {
                Some(peer) => {
                    assert!(fits(peer.len()), "a board at {at} in {} bytes of a peer", peer.len());
                    place(peer.base())
                }
                None => mine,
            })
            .collect();
        Self {
            me,
            mine,
            theirs,
            counts: Published::default(),
            room: None,
            long_used: [0; LONGS],
            long_next: 0,
            wakers,
            arena: None,
            arenas: vec![None; peers.len()],
            _own: own,
            _peers: peers,
        }
    }

    /// Makes this rank's arena known: what lies there can be lent.
    pub fn set_arena(&mut self, arena: Arc<Arena>) {
        self.arena = Some(arena);
    }

    /// This rank's arena.
    #[must_use]
    pub fn arena(&self) -> Option<&Arc<Arena>> {
        self.arena.as_ref()
    }

    /// Makes the arena of `rank` known: what it lends lies there.
    pub fn add_arena(&mut self, rank: usize, arena: Arc<PeerSegment>) {
        self.arenas[rank] = Some(arena);
    }

    /// Bytes of the arena of `rank`; `None` where it has none, or it is too short.
    #[inline]
    #[must_use]
    pub fn lent(&self, rank: usize, from: u64, len: usize) -> Option<ForeignBytes<'_>> {
        let arena = self.arenas[rank].as_ref()?;
        let from = usize::try_from(from).ok()?;
        if from.checked_add(len)? > arena.len() {
            return None;
        }
        // SAFETY: The range is inside a mapping that lives as long as the board, of a segment that cannot shrink. It is
        // written by its owner alone, which is another process, or another thread through another mapping.
        Some(unsafe { ForeignBytes::new(arena.base().as_ptr().add(from), len) })
    }
}
