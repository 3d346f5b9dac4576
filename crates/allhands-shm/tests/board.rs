//! Boards: what fits where, when a place is free again, and peers that lie.
#![cfg(target_os = "linux")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use allhands_shm::board::{Board, Head, INLINE, LONG, LONGS, LentAt, PLACES, SHORT, board_len};
use allhands_shm::layout::{LINE, Layout};
use allhands_shm::segment::{OwnSegment, PeerSegment};
use allhands_shm::wake::{Barrier, Wakers, event};
use proptest::prelude::*;

/// The boards of some ranks in one process, each with its own mappings of the others'.
struct Host {
    layout: Layout,
    segments: Vec<Arc<OwnSegment>>,
    boards: Vec<Board>,
}

impl Host {
    fn new(world: u32) -> Self {
        let layout = Layout::new(world).unwrap();
        let len = layout.segment_len();
        let segments: Vec<_> =
            (0..world).map(|_| Arc::new(OwnSegment::create(len).unwrap())).collect();
        let ranks = 0..world as usize;
        let board = |me: usize| {
            let map = |rank: usize| {
                let other = rank != me;
                other.then(|| Arc::new(PeerSegment::map(segments[rank].fd(), len).unwrap()))
            };
            let nobody = (0..world).map(|_| None).collect();
            let wake = event().unwrap();
            let wakers = Wakers::new(layout, segments[me].clone(), wake, Barrier::Local, nobody);
            let peers = ranks.clone().map(map).collect();
            Board::new(segments[me].clone(), peers, me, layout.board_at(), Arc::new(wakers))
        };
        let boards = ranks.clone().map(board).collect();
        Self { layout, segments, boards }
    }

    /// A word of the board of `rank`, `at` bytes from its beginning: what a rank that lies writes over.
    fn word(&self, rank: usize, at: usize) -> &AtomicU64 {
        assert!(at + 8 <= board_len(self.layout.world()) && at.is_multiple_of(8));
        let at = self.layout.board_at() + at;
        // SAFETY: The word is inside the segment and aligned, and the tests below use it only for words of heads and of
        // `taken`, which are accessed as atomics.
        unsafe { self.segments[rank].base().add(at).cast::<AtomicU64>().as_ref() }
    }

    /// Word `word` of the head in `place` of the board of `rank`: see the table in `board`.
    fn head_word(&self, rank: usize, place: usize, word: usize) -> &AtomicU64 {
        let heads = LINE + (self.layout.world() as usize * 8).next_multiple_of(LINE);
        self.word(rank, heads + place * LINE + word * 8)
    }
}

fn head(seq: u64, len: usize) -> Head {
    Head { seq, fingerprint: seq ^ 0xF00D, len: len as u32, tile: seq as u32 + 3, lent: None }
}

/// Bytes that tell a publication from others.
fn content(seq: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| (seq as usize * 31 + at) as u8).collect()
}

fn publish(board: &mut Board, seq: u64, len: usize) -> bool {
    let Some(room) = board.open(len) else { return false };
    room.copy_from_slice(&content(seq, len));
    board.publish(&head(seq, len));
    true
}

fn read(board: &Board, rank: usize, number: u64, from: usize, len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len];
    board.copied(rank, number, from, len)?.copy_to(&mut bytes);
    Some(bytes)
}

#[test]
fn publications_of_every_size_are_read_by_all() {
    let mut host = Host::new(3);
    let lens = [0, 1, INLINE, INLINE + 1, SHORT, SHORT + 1, LONG - 1, LONG];
    for (number, len) in lens.into_iter().cycle().take(5 * PLACES).enumerate() {
        let number = number as u64;
        assert!(publish(&mut host.boards[1], number, len));
        for reader in [0, 2] {
            let board = &host.boards[reader];
            assert_eq!(board.look(1, number), Some(head(number, len)));
            assert_eq!(board.look(1, number + 1), None);
            assert_eq!(read(board, 1, number, 0, len), Some(content(number, len)));
            let half = len / 2;
            let back = content(number, len)[half..].to_vec();
            assert_eq!(read(board, 1, number, half, len - half), Some(back));
            // Not a byte more than was published.
            assert_eq!(read(board, 1, number, 0, len + 1), None);
            assert_eq!(read(board, 1, number, len, 1), None);
            assert_eq!(read(board, 1, number, usize::MAX, 2), None);
            host.boards[reader].take(1, number + 1);
        }
        assert_eq!(host.boards[1].published(), number + 1);
    }
    assert!(host.boards[1].open(LONG + 1).is_none(), "longer than any buffer");
}

#[test]
fn a_full_board_waits_for_its_slowest_reader() {
    let mut host = Host::new(3);
    for number in 0..PLACES as u64 {
        assert!(publish(&mut host.boards[0], number, 8));
    }
    let lent = LentAt { data: 0, input: 0 };
    host.boards[1].take(0, PLACES as u64);
    for taken in 0..3 {
        host.boards[2].take(0, taken);
        assert_eq!(host.boards[0].taken(2), taken);
        // Each publication that both have taken makes room for one.
        assert_eq!(publish(&mut host.boards[0], 99, 8), taken > 0, "{taken} taken");
        assert!(!publish(&mut host.boards[0], 99, 8), "{taken} taken");
        assert!(!host.boards[0].lend(&head(99, 8), lent), "{taken} taken");
    }
    // What was not taken is still there.
    assert_eq!(read(&host.boards[2], 0, 2, 0, 8), Some(content(2, 8)));
    assert_eq!(host.boards[2].look(0, 1), None, "the place holds a later one");
}

#[test]
fn long_buffers_run_out_before_places() {
    let mut host = Host::new(2);
    for number in 0..LONGS as u64 {
        assert!(publish(&mut host.boards[0], number, LONG));
    }
    assert!(!publish(&mut host.boards[0], 4, LONG), "all long buffers are in use");
    assert!(publish(&mut host.boards[0], 4, SHORT), "short ones have their own room");
    host.boards[1].take(0, 1);
    assert!(publish(&mut host.boards[0], 5, LONG), "the first was taken");
    assert!(!publish(&mut host.boards[0], 6, LONG));
    for number in 1..LONGS as u64 {
        assert_eq!(read(&host.boards[1], 0, number, 0, LONG), Some(content(number, LONG)));
    }
    assert_eq!(read(&host.boards[1], 0, 5, 0, LONG), Some(content(5, LONG)));
}

#[test]
fn a_reader_that_claims_too_much_or_goes_back_harms_itself_only() {
    let mut host = Host::new(2);
    for lie in [u64::MAX, 1 << 40, 0, 7, u64::MAX] {
        // The first word after the line of withdrawals: what this reader has taken of rank 0.
        host.word(1, LINE).store(lie, Ordering::Relaxed);
        let mut made = 0;
        while made < 3 * PLACES && publish(&mut host.boards[0], 1, LONG) {
            made += 1;
        }
        if lie >= 1 << 40 {
            assert_eq!(made, 3 * PLACES, "who takes all never holds anybody up");
        } else {
            assert!(made <= PLACES, "{made} publications over those that were not taken");
        }
    }
}

#[test]
fn room_that_was_opened_and_not_used_is_forgotten_by_a_loan() {
    let mut host = Host::new(2);
    let _ = host.boards[0].open(8).unwrap();
    assert!(host.boards[0].lend(&head(0, 8), LentAt { data: 64, input: 128 }));
    host.boards[0].publish(&head(1, 8));
    assert_eq!(host.boards[0].published(), 1, "the room was for the place that the loan took");
    let found = host.boards[1].look(0, 0).unwrap();
    assert_eq!(found.lent, Some(LentAt { data: 64, input: 128 }));
    assert_eq!(read(&host.boards[1], 0, 0, 0, 1), None, "a loan holds no copy");
}

#[test]
fn heads_that_lie_give_nothing() {
    let host = Host::new(2);
    let at = |form: u64, long: u64, len: u64| form | long << 2 | len << 8;
    host.head_word(0, 0, 0).store(1, Ordering::Release);
    let forms = [
        ("inline beyond its room", at(0, 0, INLINE as u64 + 1), INLINE + 1),
        ("short beyond its room", at(1, 0, SHORT as u64 + 1), SHORT + 1),
        ("long beyond its room", at(2, 0, LONG as u64 + 1), LONG + 1),
        ("a long buffer that is none", at(2, LONGS as u64, 8), 8),
        ("the last long buffer that can be named", at(2, 15, 8), 8),
        ("a loan", at(3, 0, 8), 8),
    ];
    for (what, form, len) in forms {
        host.head_word(0, 0, 3).store(form, Ordering::Relaxed);
        assert!(host.boards[1].look(0, 0).is_some());
        assert!(host.boards[1].copied(0, 0, 0, len).is_none(), "{what}");
    }
    // A number of a long buffer where there is none is not used.
    for form in [at(0, 15, 8), at(1, 15, 8)] {
        host.head_word(0, 0, 3).store(form, Ordering::Relaxed);
        assert_eq!(read(&host.boards[1], 0, 0, 0, 8), Some(vec![0; 8]));
    }
}

proptest! {
    #[test]
    fn no_head_leads_out_of_the_board(
        words in prop::array::uniform8(any::<u64>()),
        from in prop_oneof![0..300_000_usize, any::<usize>()],
        len in prop_oneof![0..300_000_usize, any::<usize>()],
    ) {
        let host = Host::new(2);
        for place in 0..PLACES {
            for (at, word) in words.into_iter().enumerate().skip(1) {
                host.head_word(0, place, at).store(word.rotate_left(place as u32), Ordering::Relaxed);
            }
            host.head_word(0, place, 0).store(place as u64 + 1, Ordering::Relaxed);
            let found = host.boards[1].look(0, place as u64);
            prop_assert!(found.is_some());
            if let Some(bytes) = host.boards[1].copied(0, place as u64, from, len) {
                prop_assert!(from + len <= LONG);
                // Reads all of them: an address outside would fault at the segment's end.
                bytes.copy_to(&mut vec![0; len]);
            }
        }
    }
}

#[test]
fn loans_stay_inside_the_arena() {
    let mut host = Host::new(2);
    assert!(host.boards[1].lent(0, 0, 1).is_none(), "no arena is known");
    let arena = OwnSegment::create(10_000).unwrap();
    let mapped = Arc::new(PeerSegment::map(arena.fd(), 10_000).unwrap());
    host.boards[1].add_arena(0, mapped);
    for (from, len) in [(0, 10_000), (9_999, 1), (10_000, 0), (17, 400)] {
        let bytes = host.boards[1].lent(0, from, len).unwrap();
        let mut out = vec![1; len];
        bytes.copy_to(&mut out);
        assert!(out.iter().all(|&byte| byte == 0));
    }
    for (from, len) in [(0, 10_001), (9_999, 2), (10_001, 0), (u64::MAX, 1), (1, usize::MAX)] {
        assert!(host.boards[1].lent(0, from, len).is_none(), "{len} from {from}");
    }
}
