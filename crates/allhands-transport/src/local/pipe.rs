//! One direction of a pair: a bounded queue of bytes.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use allhands_wire::Peer;

use super::Blocked;
use crate::port::Port;

pub(super) struct Pipe {
    capacity: usize,
    /// Bytes or the end are in `shared`; lets a spinning reader look without the lock.
    news: AtomicBool,
    shared: Mutex<Shared>,
    /// The reader's alone; swapped with `Shared::bytes`, so that the port works without the lock.
    taken: Mutex<VecDeque<u8>>,
}

#[derive(Default)]
struct Shared {
    bytes: VecDeque<u8>,
    finished: bool,
    abandoned: bool,
    writer_waits: bool,
}

pub(super) enum Written {
    Bytes(usize),
    Full,
    Abandoned,
}

pub(super) struct Taken {
    /// Nothing follows what was taken.
    pub(super) end: bool,
    /// Whether the writer waits for room and has to be told.
    pub(super) writer: Blocked,
}

impl Pipe {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            news: AtomicBool::new(false),
            shared: Mutex::default(),
            taken: Mutex::default(),
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a prefix of `slices`; at least one of them is not empty.
    pub(super) fn write(&self, slices: &[IoSlice<'_>]) -> Written {
        let mut shared = self.shared();
        if shared.abandoned {
            return Written::Abandoned;
        }
        let mut room = self.capacity - shared.bytes.len();
        if room == 0 {
            shared.writer_waits = true;
            return Written::Full;
        }
        let mut total = 0;
        for slice in slices {
            let part = &slice[..slice.len().min(room)];
            shared.bytes.extend(part);
            room -= part.len();
            total += part.len();
            if room == 0 {
                break;
            }
        }
        self.news.store(true, Ordering::Release);
        Written::Bytes(total)
    }

    /// The writer sends nothing more.
    pub(super) fn finish(&self) {
        self.shared().finished = true;
        self.news.store(true, Ordering::Release);
    }

    /// The reader reads nothing more.
    pub(super) fn abandon(&self) {
        let mut shared = self.shared();
        shared.abandoned = true;
        shared.bytes = VecDeque::new();
    }

    pub(super) fn has_news(&self) -> bool {
        self.news.load(Ordering::Acquire)
    }

    /// Takes everything that has arrived; [`Pipe::deliver`] hands it over.
    pub(super) fn take(&self) -> Taken {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut shared = self.shared();
        std::mem::swap(&mut *taken, &mut shared.bytes);
        self.news.store(false, Ordering::Release);
        let writer = if shared.writer_waits { Blocked::Yes } else { Blocked::No };
        shared.writer_waits = false;
        Taken { end: shared.finished, writer }
    }

    pub(super) fn deliver(&self, peer: Peer, port: &mut dyn Port) -> usize {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let total = taken.len();
        let (front, back) = taken.as_slices();
        for mut bytes in [front, back] {
            while !bytes.is_empty() {
                let window = port.window(peer);
                if window.is_empty() {
                    port.handle(peer, bytes);
                    break;
                }
                let n = window.len().min(bytes.len());
                window[..n].copy_from_slice(&bytes[..n]);
                port.filled(peer, n);
                bytes = &bytes[n..];
            }
        }
        taken.clear();
        total
    }
}
