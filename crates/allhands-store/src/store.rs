use crate::StoreError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A small key-value service through which the processes of a job find each other.
///
/// Keys are text, values bytes. All methods take `&self` and may be called from several threads. The trait is
/// object safe; the process group holds an `Arc<dyn Store>`.
///
/// Every method that waits has a limit: `timeout` where the method takes one, else [`Store::timeout`].
/// Waiting with a zero limit looks once.
///
/// Limits hold for every kind of store ([`limits`](crate::limits)); what exceeds them is a typed error.
///
/// ```
/// use allhands_store::{HashStore, Store};
/// use std::sync::Arc;
///
/// let store: Arc<dyn Store> = Arc::new(HashStore::new());
/// store.set("address/0", b"10.0.0.1:4711")?;
/// assert_eq!(store.get("address/0")?, b"10.0.0.1:4711");
/// assert_eq!(store.add("arrived", 1)?, 1);
/// # Ok::<(), allhands_store::StoreError>(())
/// ```
pub trait Store: Send + Sync + fmt::Debug {
    /// Stores `value` under `key`, over what was there. When it returns, every client can see it.
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError>;

    /// The value of `key`, as soon as it exists, at most `limit` from now.
    fn get_within(&self, key: &str, limit: Duration) -> Result<Vec<u8>, StoreError>;

    /// The value of `key`, as soon as it exists, at most [`Store::timeout`] from now.
    fn get(&self, key: &str) -> Result<Vec<u8>, StoreError> {
        self.get_within(key, self.timeout())
    }

    /// Adds `delta` to the counter `key` (0 if absent) and returns the sum. Counters are stored as decimal text;
    /// sums wrap. Another value under `key` is an error.
    fn add(&self, key: &str, delta: i64) -> Result<i64, StoreError>;

    /// Stores `desired` if `key` holds `expected`, or if it is absent and `expected` is empty. Returns what is
    /// stored afterwards; if the key is absent and `expected` is not empty, nothing is stored and `expected` comes
    /// back (c10d's rule).
    fn compare_set(
        &self,
        key: &str,
        expected: &[u8],
        desired: &[u8],
    ) -> Result<Vec<u8>, StoreError>;

    /// Removes `key`; returns whether it existed. Queues are not removed.
    fn delete_key(&self, key: &str) -> Result<bool, StoreError>;

    /// How many keys the store holds. As in c10d this counts all of them: those outside the prefix too, and one
    /// that a `FileStore`, or a `TcpStore` with a world size, keeps for itself. Queues are not counted.
    fn num_keys(&self) -> Result<u64, StoreError>;

    /// Whether all `keys` exist now (a queue exists while it holds something).
    fn check(&self, keys: &[&str]) -> Result<bool, StoreError>;

    /// Returns when all `keys` exist, or with [`StoreError::Timeout`], which names those that do not, after `limit`.
    fn wait(&self, keys: &[&str], limit: Duration) -> Result<(), StoreError>;

    /// Appends to the value of `key` (empty if absent).
    fn append(&self, key: &str, value: &[u8]) -> Result<(), StoreError>;

    /// The values of `keys`, in order, when all exist, at most [`Store::timeout`] from now.
    fn multi_get(&self, keys: &[&str]) -> Result<Vec<Vec<u8>>, StoreError>;

    /// Stores all entries at once: other clients see all of them or none.
    fn multi_set(&self, entries: &[(&str, &[u8])]) -> Result<(), StoreError>;

    /// Puts `value` at the end of the queue `key`. Queues live beside the keys: the same name may be both.
    fn queue_push(&self, key: &str, value: &[u8]) -> Result<(), StoreError>;

    /// Takes the first value of the queue `key`, waiting at most `limit` for one.
    fn queue_pop_within(&self, key: &str, limit: Duration) -> Result<Vec<u8>, StoreError>;

    /// Takes the first value of the queue `key`, waiting at most [`Store::timeout`] for one.
    fn queue_pop(&self, key: &str) -> Result<Vec<u8>, StoreError> {
        self.queue_pop_within(key, self.timeout())
    }

    /// Takes the first value of the queue `key` if there is one now.
    fn queue_try_pop(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// How many values the queue `key` holds.
    fn queue_len(&self, key: &str) -> Result<u64, StoreError>;

    /// All keys, sorted, without the store's own ones and without queues.
    fn list_keys(&self) -> Result<Vec<String>, StoreError>;

    /// Returns when `world_size` callers have arrived at `key`, at most `limit` from now. Arrivals are not undone by
    /// a timeout, and whoever comes later passes at once: use a new key for each barrier.
    fn barrier(&self, key: &str, world_size: u32, limit: Duration) -> Result<(), StoreError>;

    /// How long operations without a limit of their own wait.
    fn timeout(&self) -> Duration;

    /// Changes [`Store::timeout`] for later calls, on every thread.
    fn set_timeout(&self, limit: Duration);
}

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        impl<S: Store + ?Sized> Store for $pointer {
            fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
                (**self).set(key, value)
            }
            fn get_within(&self, key: &str, limit: Duration) -> Result<Vec<u8>, StoreError> {
                (**self).get_within(key, limit)
            }
            fn add(&self, key: &str, delta: i64) -> Result<i64, StoreError> {
                (**self).add(key, delta)
            }
            fn compare_set(
                &self,
                key: &str,
                expected: &[u8],
                desired: &[u8],
            ) -> Result<Vec<u8>, StoreError> {
                (**self).compare_set(key, expected, desired)
            }
            fn delete_key(&self, key: &str) -> Result<bool, StoreError> {
                (**self).delete_key(key)
            }
            fn num_keys(&self) -> Result<u64, StoreError> {
                (**self).num_keys()
            }
            fn check(&self, keys: &[&str]) -> Result<bool, StoreError> {
                (**self).check(keys)
            }
            fn wait(&self, keys: &[&str], limit: Duration) -> Result<(), StoreError> {
                (**self).wait(keys, limit)
            }
            fn append(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
                (**self).append(key, value)
            }
            fn multi_get(&self, keys: &[&str]) -> Result<Vec<Vec<u8>>, StoreError> {
                (**self).multi_get(keys)
            }
            fn multi_set(&self, entries: &[(&str, &[u8])]) -> Result<(), StoreError> {
                (**self).multi_set(entries)
            }
            fn queue_push(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
                (**self).queue_push(key, value)
            }
            fn queue_pop_within(&self, key: &str, limit: Duration) -> Result<Vec<u8>, StoreError> {
                (**self).queue_pop_within(key, limit)
            }
            fn queue_try_pop(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
                (**self).queue_try_pop(key)
            }
            fn queue_len(&self, key: &str) -> Result<u64, StoreError> {
                (**self).queue_len(key)
            }
            fn list_keys(&self) -> Result<Vec<String>, StoreError> {
                (**self).list_keys()
            }
            fn barrier(&self, key: &str, world_size: u32, limit: Duration) -> Result<(), StoreError> {
                (**self).barrier(key, world_size, limit)
            }
            fn timeout(&self) -> Duration {
                (**self).timeout()
            }
            fn set_timeout(&self, limit: Duration) {
                (**self).set_timeout(limit);
            }
        }
    )*};
}

forward!(Arc<S>, Box<S>, &S);
