//! What the keys and queues of a store mean, once for the server and the in-process store.

use crate::limits::VALUE_MAX;
use crate::meter::{Blob, Meter, OverQuota};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Why the table refused an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    OverQuota,
    NotACounter,
    ValueTooLong,
}

impl From<OverQuota> for Refusal {
    fn from(_: OverQuota) -> Self {
        Self::OverQuota
    }
}

/// What `compare_set` decides, given what is stored now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Swap {
    Store,
    KeepCurrent,
    /// The key is absent and stays so; the caller gets its own expectation back.
    KeepAbsent,
}

pub(crate) fn compare(current: Option<&[u8]>, expected: &[u8]) -> Swap {
    match current {
        Some(current) if current == expected => Swap::Store,
        Some(_) => Swap::KeepCurrent,
        None if expected.is_empty() => Swap::Store,
        None => Swap::KeepAbsent,
    }
}

/// A counter is decimal text of 64 bits.
pub(crate) fn parse_counter(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[derive(Debug)]
pub(crate) struct Table {
    meter: Arc<Meter>,
    entries: HashMap<Blob, Blob>,
    queues: HashMap<Blob, VecDeque<Blob>>,
}

impl Table {
    pub(crate) fn new(meter: Arc<Meter>) -> Self {
        Self { meter, entries: HashMap::new(), queues: HashMap::new() }
    }

    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    pub(crate) fn set(&mut self, key: Blob, value: Blob) {
        self.entries.insert(key, value);
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Blob> {
        self.entries.get(key)
    }

    /// The value to answer with, and whether the key was written.
    pub(crate) fn compare_set(&mut self, key: Blob, expected: Blob, desired: Blob) -> (Blob, Swap) {
        let current = self.entries.get(&key);
        let swap = compare(current.map(|value| &**value), &expected);
        let answer = match (swap, current) {
            (Swap::Store, _) => {
                self.entries.insert(key, desired.clone());
                desired
            }
            (Swap::KeepCurrent, Some(current)) => current.clone(),
            _ => expected,
        };
        (answer, swap)
    }

    pub(crate) fn add(&mut self, key: Blob, delta: i64) -> Result<i64, Refusal> {
        let old = match self.entries.get(&key) {
            Some(value) => parse_counter(value).ok_or(Refusal::NotACounter)?,
            None => 0,
        };
        let sum = old.wrapping_add(delta);
        let value = Blob::copy(sum.to_string().as_bytes(), &self.meter)?;
        self.entries.insert(key, value);
        Ok(sum)
    }

    pub(crate) fn append(&mut self, key: Blob, value: Blob) -> Result<(), Refusal> {
        let Some(current) = self.entries.get_mut(&key) else {
            self.entries.insert(key, value);
            return Ok(());
        };
        if current.len() + value.len() > VALUE_MAX {
            return Err(Refusal::ValueTooLong);
        }
        Ok(current.append(&value, &self.meter)?)
    }

    pub(crate) fn delete(&mut self, key: &[u8]) -> bool {
        self.entries.remove(key).is_some()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &Blob> {
        self.entries.keys()
    }

    /// Whether a waiter for `key` may go on.
    pub(crate) fn has(&self, key: &[u8]) -> bool {
        self.entries.contains_key(key) || self.queue_len(key) > 0
    }

    pub(crate) fn push(&mut self, key: Blob, value: Blob) {
        self.queues.entry(key).or_default().push_back(value);
    }

    pub(crate) fn pop(&mut self, key: &[u8]) -> Option<Blob> {
        let queue = self.queues.get_mut(key)?;
        let value = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(key);
        }
        value
    }

    pub(crate) fn queue_len(&self, key: &[u8]) -> usize {
        self.queues.get(key).map_or(0, VecDeque::len)
    }
}
