use crate::{Store, StoreError};
use std::sync::Arc;
use std::time::Duration;

/// A view of another store in which every key is `<prefix>/<key>`, as c10d's `PrefixStore`.
///
/// Jobs, restarts and groups that share one store are kept apart by it. The timeout is that of the store below.
///
/// ```
/// use allhands_store::{HashStore, PrefixStore, Store};
/// use std::sync::Arc;
///
/// let all = Arc::new(HashStore::new());
/// let job = PrefixStore::new("job-7/attempt-2", all.clone());
/// job.set("rank/0", b"here")?;
/// assert_eq!(all.get("job-7/attempt-2/rank/0")?, b"here");
/// assert_eq!(job.list_keys()?, ["rank/0"]);
/// # Ok::<(), allhands_store::StoreError>(())
/// ```
#[derive(Debug, Clone)]
pub struct PrefixStore {
    prefix: String,
    store: Arc<dyn Store>,
}

impl PrefixStore {
    /// Puts `prefix` and a `/` before every key of `store`.
    pub fn new(prefix: impl Into<String>, store: Arc<dyn Store>) -> Self {
        Self { prefix: prefix.into(), store }
    }

    /// The prefix, without the `/`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The store below.
    pub fn inner(&self) -> &Arc<dyn Store> {
        &self.store
    }

    fn key(&self, key: &str) -> String {
        let mut full = String::with_capacity(self.prefix.len() + 1 + key.len());
        full.push_str(&self.prefix);
        full.push('/');
        full.push_str(key);
        full
    }

    fn keys(&self, keys: &[&str]) -> Vec<String> {
        keys.iter().map(|key| self.key(key)).collect()
    }
}

fn borrowed(keys: &[String]) -> Vec<&str> {
    keys.iter().map(String::as_str).collect()
}

impl Store for PrefixStore {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.store.set(&self.key(key), value)
    }

    fn get_within(&self, key: &str, limit: Duration) -> Result<Vec<u8>, StoreError> {
        self.store.get_within(&self.key(key), limit)
    }

    fn add(&self, key: &str, delta: i64) -> Result<i64, StoreError> {
        self.store.add(&self.key(key), delta)
    }

    fn compare_set(
        &self,
        key: &str,
        expected: &[u8],
        desired: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        self.store.compare_set(&self.key(key), expected, desired)
    }

    fn delete_key(&self, key: &str) -> Result<bool, StoreError> {
        self.store.delete_key(&self.key(key))
    }

    fn num_keys(&self) -> Result<u64, StoreError> {
        self.store.num_keys()
    }

    fn check(&self, keys: &[&str]) -> Result<bool, StoreError> {
        self.store.check(&borrowed(&self.keys(keys)))
    }

    fn wait(&self, keys: &[&str], limit: Duration) -> Result<(), StoreError> {
        self.store.wait(&borrowed(&self.keys(keys)), limit)
    }

    fn append(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.store.append(&self.key(key), value)
    }

    fn multi_get(&self, keys: &[&str]) -> Result<Vec<Vec<u8>>, StoreError> {
        self.store.multi_get(&borrowed(&self.keys(keys)))
    }

    fn multi_set(&self, entries: &[(&str, &[u8])]) -> Result<(), StoreError> {
        let keys: Vec<_> = entries.iter().map(|(key, _)| self.key(key)).collect();
        let entries: Vec<_> =
            keys.iter().zip(entries).map(|(key, (_, value))| (key.as_str(), *value)).collect();
        self.store.multi_set(&entries)
    }

    fn queue_push(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.store.queue_push(&self.key(key), value)
    }

    fn queue_pop_within(&self, key: &str, limit: Duration) -> Result<Vec<u8>, StoreError> {
        self.store.queue_pop_within(&self.key(key), limit)
    }

    fn queue_try_pop(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.queue_try_pop(&self.key(key))
    }

    fn queue_len(&self, key: &str) -> Result<u64, StoreError> {
        self.store.queue_len(&self.key(key))
    }

    fn list_keys(&self) -> Result<Vec<String>, StoreError> {
        let prefix = self.key("");
        let keys = self.store.list_keys()?;
        Ok(keys.iter().filter_map(|key| key.strip_prefix(&prefix)).map(str::to_owned).collect())
    }

    fn barrier(&self, key: &str, world_size: u32, limit: Duration) -> Result<(), StoreError> {
        self.store.barrier(&self.key(key), world_size, limit)
    }

    fn timeout(&self) -> Duration {
        self.store.timeout()
    }

    fn set_timeout(&self, limit: Duration) {
        self.store.set_timeout(limit);
    }
}
