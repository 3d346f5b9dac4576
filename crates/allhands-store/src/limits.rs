//! Named limits. The first three are those of PyTorch's own server, so what one side accepts the other does too.

use crate::StoreError;
use std::time::Duration;

/// Longest key in bytes as it travels, that is with every prefix and the leading `/`.
pub const KEY_MAX: usize = 8192;

/// Longest value in bytes; also the longest result of `append`.
pub const VALUE_MAX: usize = 8 << 20;

/// Most keys in one request (`wait`, `check`, `multi_get`, `multi_set`).
pub const KEYS_MAX: usize = 131_072;

/// Most bytes that one unfinished request may hold on the server. A `multi_set` above it is refused, so that a
/// single client cannot use up the whole quota with a request it never ends.
pub const REQUEST_MAX: usize = 64 << 20;

/// Bytes a store keeps in all: keys, values, queues, unfinished requests, waiters, unsent replies.
pub const STORE_QUOTA: usize = 256 << 20;

/// How long operations wait unless told otherwise (c10d's default).
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);

pub(crate) fn check_key(key: &str, extra: usize) -> Result<(), StoreError> {
    if key.len() + extra > KEY_MAX {
        return Err(StoreError::KeyTooLong { bytes: key.len() + extra, limit: KEY_MAX });
    }
    Ok(())
}

pub(crate) fn check_value(key: &str, value: &[u8]) -> Result<(), StoreError> {
    if value.len() > VALUE_MAX {
        return Err(StoreError::ValueTooLong {
            key: key.to_owned(),
            bytes: value.len(),
            limit: VALUE_MAX,
        });
    }
    Ok(())
}

pub(crate) fn check_count(keys: usize) -> Result<(), StoreError> {
    if keys > KEYS_MAX {
        return Err(StoreError::TooManyKeys { keys, limit: KEYS_MAX });
    }
    Ok(())
}
