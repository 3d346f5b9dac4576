use crate::limits::{self, STORE_QUOTA};
use crate::meter::{Blob, Meter, OverQuota};
use crate::table::{Refusal, Table};
use crate::time::Limit;
use crate::{KeyList, Store, StoreError};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const NAME: &str = "the in-process store";

/// A store for the threads of one process: tests, tools, and ranks that are threads.
///
/// Holds at most [`STORE_QUOTA`] bytes.
///
/// ```
/// use allhands_store::{HashStore, Store};
/// use std::time::Duration;
///
/// let store = HashStore::new();
/// std::thread::scope(|threads| {
///     threads.spawn(|| store.set("ready", b"yes"));
///     assert_eq!(store.get("ready").unwrap(), b"yes");
/// });
/// let error = store.wait(&["never"], Duration::ZERO).unwrap_err();
/// assert!(error.is_timeout());
/// ```
#[derive(Debug)]
pub struct HashStore {
    table: Mutex<Table>,
    changed: Condvar,
    timeout: Limit,
}

impl Default for HashStore {
    fn default() -> Self {
        Self::new()
    }
}

impl HashStore {
    /// An empty store.
    pub fn new() -> Self {
        Self {
            table: Mutex::new(Table::new(Meter::new(STORE_QUOTA))),
            changed: Condvar::new(),
            timeout: Limit::default(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // The table is consistent between calls, so a panic of another thread does not spoil it.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write<R>(
        &self,
        key: &str,
        change: impl FnOnce(&mut Table, Blob) -> Result<R, Refusal>,
    ) -> Result<R, StoreError> {
        limits::check_key(key, 0)?;
        let mut table = self.table();
        let result = Blob::copy(key.as_bytes(), table.meter())
            .map_err(Refusal::from)
            .and_then(|blob| change(&mut table, blob))
            .map_err(|refusal| explain(refusal, key, &table))?;
        drop(table);
        self.changed.notify_all();
        Ok(result)
    }

    /// Runs `attempt` under the lock until it yields, or until `limit` has passed.
    fn until<R>(
        &self,
        operation: &'static str,
        keys: &[&str],
        limit: Duration,
        mut attempt: impl FnMut(&mut Table) -> Option<R>,
    ) -> Result<R, StoreError> {
        limits::check_count(keys.len())?;
        let clock = crate::time::Clock::start(limit);
        let mut table = self.table();
        loop {
            if let Some(result) = attempt(&mut table) {
                return Ok(result);
            }
            let Some(left) = clock.left() else {
                let mut missing = keys.to_vec();
                missing.retain(|key| !table.has(key.as_bytes()));
                // A queue of that name does not help who waits for a key, and the other way round.
                let missing = if missing.is_empty() { keys.to_vec() } else { missing };
                return Err(StoreError::Timeout {
                    operation,
                    missing: KeyList::new(&missing),
                    store: NAME.to_owned(),
                    elapsed: clock.elapsed(),
                    limit,
                });
            };
            table =
                self.changed.wait_timeout(table, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn explain(refusal: Refusal, key: &str, table: &Table) -> StoreError {
    match refusal {
        Refusal::OverQuota => StoreError::Full {
            store: NAME.to_owned(),
            used: table.meter().used(),
            limit: table.meter().limit(),
        },
        Refusal::NotACounter => StoreError::NotACounter {
            key: key.to_owned(),
            value: crate::excerpt(table.get(key.as_bytes()).map_or(&[], |value| value)),
            store: NAME.to_owned(),
        },
        Refusal::ValueTooLong => StoreError::ValueTooLong {
            key: key.to_owned(),
            bytes: table.get(key.as_bytes()).map_or(0, |value| value.len()),
            limit: limits::VALUE_MAX,
        },
    }
}

impl Store for HashStore {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.multi_set(&[(key, value)])
    }

    fn get_within(&self, key: &str, limit: Duration) -> Result<Vec<u8>, StoreError> {
        self.until("get", &[key], limit, |table| table.get(key.as_bytes()).map(|v| v.to_vec()))
    }

    fn add(&self, key: &str, delta: i64) -> Result<i64, StoreError> {
        self.write(key, |table, key| table.add(key, delta))
    }

    fn compare_set(
        &self,
        key: &str,
        expected: &[u8],
        desired: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        limits::check_value(key, expected)?;
        limits::check_value(key, desired)?;
        self.write(key, |table, key| {
            let expected = Blob::copy(expected, table.meter())?;
            let desired = Blob::copy(desired, table.meter())?;
            Ok(table.compare_set(key, expected, desired).0.to_vec())
        })
    }

    fn delete_key(&self, key: &str) -> Result<bool, StoreError> {
        Ok(self.table().delete(key.as_bytes()))
    }

    fn num_keys(&self) -> Result<u64, StoreError> {
        Ok(self.table().len() as u64)
    }

    fn check(&self, keys: &[&str]) -> Result<bool, StoreError> {
        limits::check_count(keys.len())?;
        let table = self.table();
        Ok(keys.iter().all(|key| table.has(key.as_bytes())))
    }

    fn wait(&self, keys: &[&str], limit: Duration) -> Result<(), StoreError> {
        self.until("wait", keys, limit, |table| {
            keys.iter().all(|key| table.has(key.as_bytes())).then_some(())
        })
    }

    fn append(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        limits::check_value(key, value)?;
        self.write(key, |table, key| {
            let value = Blob::copy(value, table.meter())?;
            table.append(key, value)
        })
    }

    fn multi_get(&self, keys: &[&str]) -> Result<Vec<Vec<u8>>, StoreError> {
        self.until("multi_get", keys, self.timeout(), |table| {
            keys.iter().map(|key| table.get(key.as_bytes()).map(|v| v.to_vec())).collect()
        })
    }

    fn multi_set(&self, entries: &[(&str, &[u8])]) -> Result<(), StoreError> {
        limits::check_count(entries.len())?;
        for (key, value) in entries {
            limits::check_key(key, 0)?;
            limits::check_value(key, value)?;
        }
        let mut table = self.table();
        let meter = table.meter();
        // All copies first, so that a full store keeps its old contents.
        let blobs: Result<Vec<_>, OverQuota> = entries
            .iter()
            .map(|(key, value)| Ok((Blob::copy(key.as_bytes(), meter)?, Blob::copy(value, meter)?)))
            .collect();
        let blobs = blobs.map_err(|refusal| explain(refusal.into(), "", &table))?;
        for (key, value) in blobs {
            table.set(key, value);
        }
        drop(table);
        self.changed.notify_all();
        Ok(())
    }

    fn queue_push(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        limits::check_value(key, value)?;
        self.write(key, |table, key| {
            let value = Blob::copy(value, table.meter())?;
            table.push(key, value);
            Ok(())
        })
    }

    fn queue_pop_within(&self, key: &str, limit: Duration) -> Result<Vec<u8>, StoreError> {
        self.until("queue_pop", &[key], limit, |table| {
            table.pop(key.as_bytes()).map(|value| value.to_vec())
        })
    }

    fn queue_try_pop(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.table().pop(key.as_bytes()).map(|value| value.to_vec()))
    }

    fn queue_len(&self, key: &str) -> Result<u64, StoreError> {
        Ok(self.table().queue_len(key.as_bytes()) as u64)
    }

    fn list_keys(&self) -> Result<Vec<String>, StoreError> {
        let table = self.table();
        let mut keys: Vec<_> =
            table.keys().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
        drop(table);
        keys.sort_unstable();
        Ok(keys)
    }

    fn barrier(&self, key: &str, world_size: u32, limit: Duration) -> Result<(), StoreError> {
        let arrived = self.add(key, 1)?;
        if arrived >= i64::from(world_size) {
            return Ok(());
        }
        self.until("barrier", &[key], limit, |table| {
            let count =
                table.get(key.as_bytes()).and_then(|value| crate::table::parse_counter(value));
            (count >= Some(i64::from(world_size))).then_some(())
        })
    }

    fn timeout(&self) -> Duration {
        self.timeout.load()
    }

    fn set_timeout(&self, limit: Duration) {
        self.timeout.store(limit);
    }
}
