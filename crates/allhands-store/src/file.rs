use crate::limits;
use crate::table::{self, Swap, parse_counter};
use crate::time::{self, Clock, Limit};
use crate::{KeyList, Store, StoreError};
use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The file may grow to this size. It is a log: every change makes it longer.
pub const FILE_MAX: u64 = 1 << 30;

/// Rest between two looks at the file: doubles from the first to the second.
const REST_MIN: Duration = Duration::from_millis(1);
const REST_MAX: Duration = Duration::from_millis(10);

/// Looking at the file may take this long even if a shorter limit is given: somebody may be writing.
const LOCK_GRACE: Duration = Duration::from_secs(5);

/// How long a store that is dropped waits for the lock.
const FAREWELL_LIMIT: Duration = Duration::from_secs(5);

/// Counts the users that have the file open; always the first record.
const REFCOUNT: &[u8] = b"refcount/";

/// Counts the users that have left.
const CLEANUP: &[u8] = b"cleanup/";

/// Before a user's key; before the key of a queue; before a key that is deleted or a queue that is popped.
const KEY: &[u8] = b"/";
const QUEUE: &[u8] = b"q/";
const REMOVED: u8 = b'-';

/// How many processes (or objects) will ever use the file of a [`FileStore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Users {
    /// This many: the last of them to leave removes the file.
    Exactly(u32),
    /// Not known: nobody removes the file.
    Unknown,
}

/// A store in a file that all ranks can reach, in c10d's format: PyTorch's `FileStore` may use it at the same time.
///
/// The file is a log of records (`u32` length, key, `u32` length, value, little-endian), guarded by `flock`. A record
/// that a killed process left unfinished is cut off by the next writer. Waiting looks at the file every few
/// milliseconds. Network file systems must support `flock`.
///
/// `append`, `multi_set` and queues are ours; PyTorch's processes see appended and set values, but not queues.
///
/// ```
/// use allhands_store::{FileStore, Store, Users};
///
/// let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("store");
/// let store = FileStore::open(&path, Users::Exactly(1))?;
/// store.set("color", b"blue")?;
/// assert_eq!(store.get("color")?, b"blue");
/// drop(store);
/// assert!(!path.exists());
/// # Ok::<(), allhands_store::StoreError>(())
/// ```
#[derive(Debug)]
pub struct FileStore {
    path: PathBuf,
    users: Users,
    timeout: Limit,
    log: Mutex<Log>,
    /// The process that is counted in the file: a fork copies the handle alone.
    process: u32,
}

impl FileStore {
    /// Opens the file, and makes it if it is not there.
    ///
    /// # Errors
    ///
    /// [`StoreError::File`], or [`StoreError::FileDamaged`] if it is something else than a store.
    pub fn open(path: impl Into<PathBuf>, users: Users) -> Result<Self, StoreError> {
        let path = path.into();
        let clock = Clock::start(limits::DEFAULT_TIMEOUT);
        loop {
            let mut log = Log::open(&path)?;
            match log.transact(Access::Write, &clock, |log| log.bump(REFCOUNT, 1)) {
                Ok(_) => {
                    let timeout = Limit::default();
                    let (log, process) = (Mutex::new(log), std::process::id());
                    return Ok(Self { path, users, timeout, log, process });
                }
                // The last user of an earlier job removed it between our opening and locking it.
                Err(StoreError::FileGone { .. }) if clock.left().is_some() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        // Records are applied one by one after they are written, so a panic of another thread does not spoil the log.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn transact<R>(
        &self,
        access: Access,
        action: impl FnOnce(&mut Log) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        self.log().transact(access, &Clock::start(self.timeout()), action)
    }

    /// Looks at the file until `attempt` yields or `limit` has passed.
    fn until<R>(
        &self,
        operation: &'static str,
        keys: &[&str],
        limit: Duration,
        mut attempt: impl FnMut(&mut Log) -> Option<R>,
    ) -> Result<R, StoreError> {
        limits::check_count(keys.len())?;
        let clock = Clock::start(limit);
        let mut rest = REST_MIN;
        let patience = || Clock::start(clock.left().unwrap_or(Duration::ZERO).max(LOCK_GRACE));
        let mut look = |log: &mut Log| Ok(attempt(log));
        let mut found = self.log().transact(Access::Read, &patience(), &mut look)?;
        loop {
            if let Some(result) = found {
                return Ok(result);
            }
            if clock.left().is_none() {
                let log = self.log();
                let mut missing = keys.to_vec();
                missing.retain(|key| !log.has(key));
                return Err(StoreError::Timeout {
                    operation,
                    missing: KeyList::new(if missing.is_empty() { keys } else { &missing }),
                    store: self.path.display().to_string(),
                    elapsed: clock.elapsed(),
                    limit,
                });
            }
            time::rest(rest, &clock);
            rest = (rest * 2).min(REST_MAX);
            let mut log = self.log();
            if log.grown()? {
                rest = REST_MIN;
                found = log.transact(Access::Read, &patience(), &mut look)?;
            } else {
                // Another thread of this process may have read what we wait for.
                found = look(&mut log)?;
            }
        }
    }
}

impl Drop for FileStore {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            return;
        }
        let users = self.users;
        let log = self.log.get_mut().unwrap_or_else(PoisonError::into_inner);
        let left = log.transact(Access::Write, &Clock::start(FAREWELL_LIMIT), |log| {
            let left = log.bump(CLEANUP, 1)?;
            let present = log.bump(REFCOUNT, -1)?;
            let last = match users {
                Users::Exactly(users) => present == 0 && left >= i64::from(users),
                Users::Unknown => false,
            };
            if last {
                std::fs::remove_file(&log.path).map_err(|source| log.error("remove", source))?;
            }
            Ok(())
        });
        if let Err(error) = left {
            tracing::warn!(%error, "a store file was left without taking leave");
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Access {
    Read,
    Write,
}

/// The file, and what its records up to `position` amount to.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    position: u64,
    entries: HashMap<Vec<u8>, Vec<u8>>,
    queues: HashMap<Vec<u8>, VecDeque<Vec<u8>>>,
}

fn user_key(key: &str) -> Vec<u8> {
    [KEY, key.as_bytes()].concat()
}

fn queue_key(key: &str) -> Vec<u8> {
    [QUEUE, key.as_bytes()].concat()
}

fn removal(mut key: Vec<u8>) -> Vec<u8> {
    key.insert(0, REMOVED);
    key
}

impl Log {
    fn open(path: &Path) -> Result<Self, StoreError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|source| StoreError::File { action: "open", path: path.into(), source })?;
        let (entries, queues) = (HashMap::new(), HashMap::new());
        Ok(Self { path: path.into(), file, position: 0, entries, queues })
    }

    fn error(&self, action: &'static str, source: io::Error) -> StoreError {
        StoreError::File { action, path: self.path.clone(), source }
    }

    fn length(&self) -> Result<u64, StoreError> {
        Ok(self.file.metadata().map_err(|source| self.error("look at", source))?.len())
    }

    /// Whether there is something to read. Needs no lock: a record that is half written is waited for by taking it.
    fn grown(&self) -> Result<bool, StoreError> {
        Ok(self.length()? != self.position)
    }

    fn has(&self, key: &str) -> bool {
        self.entries.contains_key(&user_key(key))
            || self.queues.get(&queue_key(key)).is_some_and(|queue| !queue.is_empty())
    }

    /// Runs `action` with the file locked and read up to its end.
    fn transact<R>(
        &mut self,
        access: Access,
        clock: &Clock,
        action: impl FnOnce(&mut Self) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        self.lock(access, clock)?;
        let result = self.catch_up(access).and_then(|()| action(self));
        let unlocked = self.file.unlock().map_err(|source| self.error("unlock", source));
        let result = result?;
        unlocked?;
        Ok(result)
    }

    fn lock(&self, access: Access, clock: &Clock) -> Result<(), StoreError> {
        let mut rest = REST_MIN;
        loop {
            let attempt = match access {
                Access::Read => self.file.try_lock_shared(),
                Access::Write => self.file.try_lock(),
            };
            match attempt {
                Ok(()) => return Ok(()),
                Err(TryLockError::WouldBlock) if clock.left().is_some() => {
                    time::rest(rest, clock);
                    rest = (rest * 2).min(REST_MAX);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(self.error("lock", io::ErrorKind::TimedOut.into()));
                }
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(TryLockError::Error(error)) => return Err(self.error("lock", error)),
            }
        }
    }

    /// Reads the records that others have written since.
    fn catch_up(&mut self, access: Access) -> Result<(), StoreError> {
        if self.removed()? {
            return Err(StoreError::FileGone { path: self.path.clone() });
        }
        let end = self.length()?;
        if end < self.position {
            return Err(self.damaged("it became shorter"));
        }
        if self.position < end {
            self.read_records(end)?;
        }
        if self.position < end && matches!(access, Access::Write) {
            // Whoever wrote this was killed: writers hold the lock to the end of a record.
            self.file.set_len(self.position).map_err(|source| self.error("repair", source))?;
        }
        Ok(())
    }

    #[cfg(unix)]
    fn removed(&self) -> Result<bool, StoreError> {
        use std::os::unix::fs::MetadataExt;
        let metadata = self.file.metadata().map_err(|source| self.error("look at", source))?;
        Ok(metadata.nlink() == 0)
    }

    #[cfg(not(unix))]
    fn removed(&self) -> Result<bool, StoreError> {
        Ok(!self.path.exists())
    }

    fn damaged(&self, what: &'static str) -> StoreError {
        StoreError::FileDamaged { path: self.path.clone(), offset: self.position, what }
    }

    /// Applies all complete records before `end`.
    fn read_records(&mut self, end: u64) -> Result<(), StoreError> {
        let failed = |source| StoreError::File { action: "read", path: self.path.clone(), source };
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.position)).map_err(failed)?;
        let mut reader = BufReader::new(file.take(end - self.position));
        let mut left = end - self.position;
        let mut records = Vec::new();
        if self.position == 0 {
            // Only what begins like a store is ever cut.
            let mut first = [0; 4 + REFCOUNT.len()];
            let size = first.len().min(left as usize);
            reader.read_exact(&mut first[..size]).map_err(failed)?;
            let expected = [&(REFCOUNT.len() as u32).to_le_bytes(), REFCOUNT].concat();
            if first[..size] != expected[..size] {
                return Err(self.damaged("it does not begin like a store"));
            }
            let mut file = &self.file;
            file.seek(SeekFrom::Start(0)).map_err(failed)?;
            reader = BufReader::new(file.take(end));
        }
        while let Some(key) = read_string(&mut reader, &mut left).map_err(failed)? {
            let Some(value) = read_string(&mut reader, &mut left).map_err(failed)? else { break };
            records.push((key, value));
        }
        for (key, value) in records {
            self.position += 8 + key.len() as u64 + value.len() as u64;
            self.apply(key, value);
        }
        Ok(())
    }

    fn apply(&mut self, key: Vec<u8>, value: Vec<u8>) {
        if let Some(target) = key.strip_prefix(&[REMOVED]) {
            if target.starts_with(QUEUE) {
                if let Some(queue) = self.queues.get_mut(target) {
                    queue.pop_front();
                }
            } else {
                self.entries.remove(target);
            }
        } else if key.starts_with(QUEUE) {
            self.queues.entry(key).or_default().push_back(value);
        } else {
            self.entries.insert(key, value);
        }
    }

    /// Writes records at the end of the file, all or none, and applies them.
    fn write(&mut self, records: &[(Vec<u8>, &[u8])]) -> Result<(), StoreError> {
        let mut bytes = Vec::new();
        for (key, value) in records {
            for part in [key.as_slice(), value] {
                // Limits keep both far below 32 bits.
                bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
                bytes.extend_from_slice(part);
            }
        }
        if self.position + bytes.len() as u64 > FILE_MAX {
            return Err(StoreError::Full {
                store: self.path.display().to_string(),
                used: self.position as usize,
                limit: FILE_MAX as usize,
            });
        }
        let written = self
            .file
            .seek(SeekFrom::Start(self.position))
            .and_then(|_| self.file.write_all(&bytes));
        if let Err(source) = written {
            // Nothing of it may stay; if this fails too, the next writer cuts what is incomplete.
            let _ = self.file.set_len(self.position);
            return Err(self.error("write to", source));
        }
        self.position += bytes.len() as u64;
        for (key, value) in records {
            self.apply(key.clone(), value.to_vec());
        }
        Ok(())
    }

    /// Adds to a counter.
    fn bump(&mut self, key: &[u8], delta: i64) -> Result<i64, StoreError> {
        let old = match self.entries.get(key) {
            Some(value) => parse_counter(value).ok_or_else(|| StoreError::NotACounter {
                key: String::from_utf8_lossy(key.strip_prefix(KEY).unwrap_or(key)).into_owned(),
                value: crate::excerpt(value),
                store: self.path.display().to_string(),
            })?,
            None => 0,
        };
        let sum = old.wrapping_add(delta);
        self.write(&[(key.to_vec(), sum.to_string().as_bytes())])?;
        Ok(sum)
    }
}

/// A length and as many bytes; `None` if the file ends before.
fn read_string(reader: &mut impl Read, left: &mut u64) -> io::Result<Option<Vec<u8>>> {
    if *left < 4 {
        return Ok(None);
    }
    let mut length = [0; 4];
    reader.read_exact(&mut length)?;
    *left -= 4;
    let length = u64::from(u32::from_le_bytes(length));
    if length > *left {
        return Ok(None);
    }
    *left -= length;
    // Not longer than what is left of the file.
    let mut bytes = vec![0; length as usize];
    reader.read_exact(&mut bytes)?;
    Ok(Some(bytes))
}

impl Store for FileStore {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.multi_set(&[(key, value)])
    }

    fn get_within(&self, key: &str, limit: Duration) -> Result<Vec<u8>, StoreError> {
        let full = user_key(key);
        self.until("get", &[key], limit, |log| log.entries.get(&full).cloned())
    }

    fn add(&self, key: &str, delta: i64) -> Result<i64, StoreError> {
        limits::check_key(key, 1)?;
        self.transact(Access::Write, |log| log.bump(&user_key(key), delta))
    }

    fn compare_set(
        &self,
        key: &str,
        expected: &[u8],
        desired: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        limits::check_key(key, 1)?;
        limits::check_value(key, expected)?;
        limits::check_value(key, desired)?;
        self.transact(Access::Write, |log| {
            let full = user_key(key);
            let current = log.entries.get(&full);
            match (table::compare(current.map(Vec::as_slice), expected), current) {
                (Swap::Store, _) => {
                    log.write(&[(full, desired)])?;
                    Ok(desired.to_vec())
                }
                (Swap::KeepCurrent, Some(current)) => Ok(current.clone()),
                _ => Ok(expected.to_vec()),
            }
        })
    }

    fn delete_key(&self, key: &str) -> Result<bool, StoreError> {
        limits::check_key(key, 1)?;
        self.transact(Access::Write, |log| {
            let full = user_key(key);
            let existed = log.entries.contains_key(&full);
            if existed {
                log.write(&[(removal(full), &[])])?;
            }
            Ok(existed)
        })
    }

    fn num_keys(&self) -> Result<u64, StoreError> {
        self.transact(Access::Read, |log| Ok(log.entries.len() as u64))
    }

    fn check(&self, keys: &[&str]) -> Result<bool, StoreError> {
        limits::check_count(keys.len())?;
        self.transact(Access::Read, |log| Ok(keys.iter().all(|key| log.has(key))))
    }

    fn wait(&self, keys: &[&str], limit: Duration) -> Result<(), StoreError> {
        self.until("wait", keys, limit, |log| keys.iter().all(|key| log.has(key)).then_some(()))
    }

    fn append(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        limits::check_key(key, 1)?;
        self.transact(Access::Write, |log| {
            let full = user_key(key);
            let mut whole = log.entries.get(&full).cloned().unwrap_or_default();
            whole.extend_from_slice(value);
            limits::check_value(key, &whole)?;
            log.write(&[(full, &whole)])
        })
    }

    fn multi_get(&self, keys: &[&str]) -> Result<Vec<Vec<u8>>, StoreError> {
        let full: Vec<_> = keys.iter().map(|key| user_key(key)).collect();
        self.until("multi_get", keys, self.timeout(), |log| {
            full.iter().map(|key| log.entries.get(key).cloned()).collect()
        })
    }

    fn multi_set(&self, entries: &[(&str, &[u8])]) -> Result<(), StoreError> {
        limits::check_count(entries.len())?;
        let mut records = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            limits::check_key(key, 1)?;
            limits::check_value(key, value)?;
            records.push((user_key(key), *value));
        }
        self.transact(Access::Write, |log| log.write(&records))
    }

    fn queue_push(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        limits::check_key(key, 2)?;
        limits::check_value(key, value)?;
        self.transact(Access::Write, |log| log.write(&[(queue_key(key), value)]))
    }

    fn queue_pop_within(&self, key: &str, limit: Duration) -> Result<Vec<u8>, StoreError> {
        let clock = Clock::start(limit);
        let full = queue_key(key);
        loop {
            let left = clock.left().unwrap_or(Duration::ZERO);
            let waited = self.until("queue_pop", &[key], left, |log| {
                log.queues.get(&full).is_some_and(|queue| !queue.is_empty()).then_some(())
            });
            if let Err(StoreError::Timeout { operation, missing, store, .. }) = waited {
                let elapsed = clock.elapsed();
                return Err(StoreError::Timeout { operation, missing, store, elapsed, limit });
            }
            waited?;
            // Another process may have been faster, then we wait again.
            if let Some(value) = self.queue_try_pop(key)? {
                return Ok(value);
            }
        }
    }

    fn queue_try_pop(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        limits::check_key(key, 2)?;
        self.transact(Access::Write, |log| {
            let full = queue_key(key);
            let first = log.queues.get(&full).and_then(|queue| queue.front()).cloned();
            if first.is_some() {
                log.write(&[(removal(full), &[])])?;
            }
            Ok(first)
        })
    }

    fn queue_len(&self, key: &str) -> Result<u64, StoreError> {
        let full = queue_key(key);
        self.transact(Access::Read, |log| Ok(log.queues.get(&full).map_or(0, VecDeque::len) as u64))
    }

    fn list_keys(&self) -> Result<Vec<String>, StoreError> {
        self.transact(Access::Read, |log| {
            let users = log.entries.keys().filter_map(|key| key.strip_prefix(KEY));
            let mut keys: Vec<_> =
                users.map(|key| String::from_utf8_lossy(key).into_owned()).collect();
            keys.sort_unstable();
            Ok(keys)
        })
    }

    fn barrier(&self, key: &str, world_size: u32, limit: Duration) -> Result<(), StoreError> {
        let world = i64::from(world_size);
        if self.add(key, 1)? >= world {
            return Ok(());
        }
        let full = user_key(key);
        self.until("barrier", &[key], limit, |log| {
            let count = log.entries.get(&full).and_then(|value| parse_counter(value));
            (count >= Some(world)).then_some(())
        })
    }

    fn timeout(&self) -> Duration {
        self.timeout.load()
    }

    fn set_timeout(&self, limit: Duration) {
        self.timeout.store(limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forked_copy_takes_no_leave() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let mut store = FileStore::open(&path, Users::Exactly(1)).unwrap();
        store.process ^= 1;
        drop(store);
        assert!(path.exists(), "the only user is still there");
    }
}
