//! Processes that exchange numbered messages through rings and boards, in all directions at once: what arrives is what was
//! written, in order, and nobody sleeps through it. On real processors, where the model checks an abstract one.
#![cfg(target_os = "linux")]

use std::time::Duration;

use allhands_shm::board::{Board, Head};
use allhands_shm::ring::{RingReader, RingWriter};

mod host;
#[path = "../../allhands-group/tests/common/ranks.rs"]
mod ranks;

use host::{Rank, Shared, sleep};
use ranks::{Ranks, worker};

/// How many messages each rank writes to each ring and to its board.
const MESSAGES: &str = "ALLHANDS_LITMUS";
const RANK: &str = "ALLHANDS_TEST_RANK";

/// Looks in vain before a rank sleeps.
const SPINS: u32 = 200;

fn mix(seed: u64) -> u64 {
    let mixed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) ^ mixed >> 32
}

/// Word `at` of message `number` of a rank: all of a message's bytes follow from who wrote it, and when.
fn word(from: usize, number: u64, at: usize) -> u64 {
    mix(number ^ (from as u64) << 56 ^ (at as u64) << 40)
}

/// Words of a message: most fit a cache line, some a place's own buffer, a few need a long one.
fn words(number: u64) -> usize {
    match number % 4096 {
        4095 => 20_000 + number as usize / 4096 % 12_000,
        rest if rest % 16 == 15 => 5 + rest as usize % 250,
        rest => 1 + rest as usize % 4,
    }
}

fn write_words(from: usize, number: u64, room: &mut [u8]) {
    for (at, bytes) in room.chunks_exact_mut(8).enumerate() {
        bytes.copy_from_slice(&word(from, number, at).to_le_bytes());
    }
}

fn check_words(from: usize, number: u64, bytes: &[u8], what: &str) {
    for (at, found) in bytes.chunks_exact(8).enumerate() {
        let expected = word(from, number, at).to_le_bytes();
        assert!(found == expected, "{what}: message {number} of {from}, word {at}: {found:?}");
    }
}

/// One direction of a ring: what does not fit at once goes on later.
struct Stream {
    peer: usize,
    writer: RingWriter,
    reader: RingReader,
    written: u64,
    pending: Vec<u8>,
    sent: usize,
    read: u64,
    incoming: Vec<u8>,
    filled: usize,
}

/// Words of a message in a ring.
fn ring_words(number: u64) -> usize {
    1 + (number % 13) as usize
}

impl Stream {
    fn new(peer: usize, writer: RingWriter, reader: RingReader) -> Self {
        let (pending, incoming) = (Vec::new(), vec![0; 8 * ring_words(0)]);
        Self { peer, writer, reader, written: 0, pending, sent: 0, read: 0, incoming, filled: 0 }
    }

    fn write(&mut self, me: usize, messages: u64) -> bool {
        let mut useful = false;
        while self.sent < self.pending.len() || self.written < messages {
            if self.sent == self.pending.len() {
                self.pending.resize(8 * ring_words(self.written), 0);
                write_words(me, self.written, &mut self.pending);
                (self.sent, self.written) = (0, self.written + 1);
            }
            if self.writer.room().unwrap() == 0 {
                break;
            }
            self.sent += self.writer.write(&self.pending[self.sent..]);
            useful = true;
        }
        if useful {
            self.writer.commit();
        }
        useful
    }

    fn read(&mut self) -> bool {
        let mut useful = false;
        while self.reader.available().unwrap() > 0 {
            self.filled += self.reader.read(&mut self.incoming[self.filled..]);
            useful = true;
            if self.filled == self.incoming.len() {
                check_words(self.peer, self.read, &self.incoming, "ring");
                self.read += 1;
                self.filled = 0;
                self.incoming.resize(8 * ring_words(self.read), 0);
            }
        }
        if useful {
            self.reader.release();
        }
        useful
    }

    fn ended(&self, messages: u64) -> bool {
        self.sent == self.pending.len() && self.written == messages && self.read == messages
    }
}

fn publish(board: &mut Board, me: usize, messages: u64) -> bool {
    let mut useful = false;
    while board.published() < messages {
        let number = board.published();
        let len = 8 * words(number);
        let Some(room) = board.open(len) else { break };
        write_words(me, number, room);
        let (fingerprint, tile) = (mix(number), number as u32);
        board.publish(&Head { seq: number, fingerprint, len: len as u32, tile, lent: None });
        useful = true;
    }
    useful
}

fn look(board: &mut Board, from: usize, taken: &mut u64, buffer: &mut Vec<u8>) -> bool {
    let before = *taken;
    while let Some(head) = board.look(from, *taken) {
        let number = *taken;
        let expected = (number, mix(number), number as u32, 8 * words(number));
        assert_eq!((head.seq, head.fingerprint, head.tile, head.len as usize), expected);
        buffer.resize(head.len as usize, 0);
        board.copied(from, number, 0, buffer.len()).unwrap().copy_to(buffer);
        check_words(from, number, buffer, "board");
        *taken += 1;
        board.take(from, *taken);
    }
    *taken > before
}

/// Everything with everybody, until all has been written, read and taken.
fn exchange(shared: Shared, me: usize, messages: u64) {
    let Shared { mut board, wakers, hosts, .. } = shared;
    let world = hosts.len();
    let stream = |(peer, link): (usize, Option<_>)| {
        link.map(|link: allhands_shm::links::HostLink| Stream::new(peer, link.writer, link.reader))
    };
    let mut streams: Vec<_> = hosts.into_iter().enumerate().filter_map(stream).collect();
    let mut taken = vec![0; world];
    let mut buffer = Vec::new();
    let mut step = |board: &mut Board| {
        let mut useful = publish(board, me, messages);
        for stream in &mut streams {
            // Both are for the peer to see.
            if stream.read() | stream.write(me, messages) {
                wakers.wake(stream.peer);
                useful = true;
            }
            useful |= look(board, stream.peer, &mut taken[stream.peer], &mut buffer);
        }
        let read = streams.iter().all(|stream| stream.ended(messages));
        let others = (0..world).filter(|&rank| rank != me);
        let mut others = others.map(|rank| (taken[rank], board.taken(rank)));
        (useful, read && others.all(|(taken, theirs)| taken == messages && theirs == messages))
    };
    let mut spins = 0;
    loop {
        let (useful, ended) = step(&mut board);
        if ended {
            return;
        }
        spins = if useful { 0 } else { spins + 1 };
        if spins > SPINS {
            let mut over = false;
            sleep(&wakers, || {
                let (useful, ended) = step(&mut board);
                over = ended;
                useful || ended
            });
            if over {
                return;
            }
            spins = 0;
        }
    }
}

/// Runs `world` processes of the test `name`; in each of those, the exchange itself.
fn processes(name: &str, world: u32, messages: u64, limit: Duration) {
    if let Some(folder) = worker() {
        let me = std::env::var(RANK).unwrap().parse().unwrap();
        let rank = Rank::new(me, world);
        exchange(rank.meet_in(&folder), me as usize, messages);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let all: Vec<u32> = (0..world).collect();
    let ranks = Ranks::start_some(name, &all, folder.path(), |rank, command| {
        command.env(RANK, rank.to_string());
    });
    assert_eq!(ranks.join(limit), vec![true; world as usize]);
}

#[test]
fn two_processes_exchange_every_byte_in_order() {
    let messages = std::env::var(MESSAGES).map_or(1_000_000, |text| text.parse().unwrap());
    // Ten times what a slow machine takes.
    let limit = Duration::from_secs(60) + Duration::from_micros(20) * messages as u32;
    processes("two_processes_exchange_every_byte_in_order", 2, messages, limit);
}

#[test]
fn eight_processes_exchange_on_however_few_processors() {
    let limit = Duration::from_secs(120);
    processes("eight_processes_exchange_on_however_few_processors", 8, 5_000, limit);
}

#[test]
fn thirty_two_processes_exchange_on_however_few_processors() {
    let limit = Duration::from_secs(120);
    processes("thirty_two_processes_exchange_on_however_few_processors", 32, 200, limit);
}
