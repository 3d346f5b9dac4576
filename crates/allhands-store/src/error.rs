use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Keys named in an error. Prints the first few and counts the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyList {
    shown: Vec<String>,
    total: usize,
}

/// How many keys an error prints.
const KEYS_SHOWN: usize = 8;

impl KeyList {
    /// Remembers the first few of `keys` and how many there are.
    pub fn new<S: AsRef<str>>(keys: &[S]) -> Self {
        let shown = keys.iter().take(KEYS_SHOWN).map(|key| key.as_ref().to_owned()).collect();
        Self { shown, total: keys.len() }
    }

    /// The keys that are printed, at most eight.
    pub fn shown(&self) -> &[String] {
        &self.shown
    }

    /// How many keys there are in all.
    pub fn total(&self) -> usize {
        self.total
    }
}

impl fmt::Display for KeyList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.total {
            0 => return f.write_str("no key"),
            1 => f.write_str("key ")?,
            _ => f.write_str("keys ")?,
        }
        for (index, key) in self.shown.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{key:?}")?;
        }
        if self.total > self.shown.len() {
            write!(f, " and {} more", self.total - self.shown.len())?;
        }
        Ok(())
    }
}

/// Why a store operation failed. Messages name the operation, the keys, the store, and how long it took.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The deadline passed before the keys were there.
    #[error(
        "{operation} on {store} ended after {elapsed:.1?} (limit {limit:.1?}), still waiting for \
         {missing}; check that every rank runs and uses the same keys and prefix"
    )]
    Timeout {
        /// The method, `"wait"` for instance.
        operation: &'static str,
        /// The keys that were still absent.
        missing: KeyList,
        /// `host:port`, a path, or the kind of store.
        store: String,
        /// Time spent.
        elapsed: Duration,
        /// Time allowed.
        limit: Duration,
    },

    /// The server did not answer within the deadline; the connection is given up.
    #[error(
        "no answer from the store at {store} to {operation} ({keys}) after {elapsed:.1?} (limit {limit:.1?}); \
         the server may be stopped or overloaded"
    )]
    NoAnswer {
        /// The method.
        operation: &'static str,
        /// The keys asked for.
        keys: KeyList,
        /// `host:port`.
        store: String,
        /// Time spent.
        elapsed: Duration,
        /// Time allowed.
        limit: Duration,
    },

    /// Fewer clients than the world size announced themselves.
    #[error(
        "{joined} of {expected} clients joined the store at {store} after {elapsed:.1?} (limit {limit:.1?}); \
         look at the ranks that are missing"
    )]
    WorkersMissing {
        /// Clients that joined.
        joined: i64,
        /// Clients expected.
        expected: u32,
        /// `host:port`.
        store: String,
        /// Time spent.
        elapsed: Duration,
        /// Time allowed.
        limit: Duration,
    },

    /// No connection could be made before the deadline.
    #[error(
        "no store reached at {store} after {elapsed:.1?} (limit {limit:.1?}, {attempts} attempts): {source}; check \
         the address and that the process that serves the store runs"
    )]
    Unreachable {
        /// `host:port` as asked for.
        store: String,
        /// How often it was tried.
        attempts: u32,
        /// Time spent.
        elapsed: Duration,
        /// Time allowed.
        limit: Duration,
        /// What the last attempt said.
        source: io::Error,
    },

    /// The connection to the server ended. The store does not reconnect: a new server would know none of the keys.
    #[error(
        "the store at {store} was lost during {operation} ({keys}) after {elapsed:.1?}: {cause}; its server ended, or \
         refused the request (limits, or a counter that is not a number)"
    )]
    Lost {
        /// The method.
        operation: &'static str,
        /// The keys asked for.
        keys: KeyList,
        /// `host:port`, or a path.
        store: String,
        /// Time since the operation began.
        elapsed: Duration,
        /// What the operating system said.
        cause: String,
    },

    /// The server answered something that the protocol does not allow.
    #[error("the server at {store} broke the protocol in {operation}: {what}; is it a store?")]
    Protocol {
        /// The method.
        operation: &'static str,
        /// `host:port`.
        store: String,
        /// What was wrong.
        what: String,
    },

    /// The server holds another job key.
    #[error("the store at {store} holds another job key; start every rank with the same one")]
    WrongKey {
        /// `host:port`.
        store: String,
    },

    /// This client has a job key, the server has none.
    #[error(
        "the store at {store} has no job key but this client was given one; give the server the key too"
    )]
    KeyNotAccepted {
        /// `host:port`.
        store: String,
    },

    /// The server asks for a job key and this client has none.
    #[error("the store at {store} asks for a job key; give this client the key of the job")]
    KeyRequired {
        /// `host:port`.
        store: String,
    },

    /// The address to listen on is taken.
    #[error(
        "cannot serve a store on {address}: the port is in use; connect as a client if it is this job's store, else \
         choose another port, or port 0 for any free one"
    )]
    AddressInUse {
        /// `host:port`.
        address: String,
    },

    /// The address to listen on cannot be used.
    #[error("cannot serve a store on {address}: {source}; the address must belong to this host")]
    Bind {
        /// `host:port`.
        address: String,
        /// What the operating system said.
        source: io::Error,
    },

    /// `add` met a value that is not a decimal number.
    #[error(
        "cannot add to key {key:?} of {store}: its value {value:?} is not a 64-bit decimal number"
    )]
    NotACounter {
        /// The key.
        key: String,
        /// Its value, lossily decoded and cut.
        value: String,
        /// Which store.
        store: String,
    },

    /// A key is too long.
    #[error("key of {bytes} bytes (with prefixes) is longer than {limit} bytes; shorten it")]
    KeyTooLong {
        /// Its length with prefixes.
        bytes: usize,
        /// [`KEY_MAX`](crate::limits::KEY_MAX).
        limit: usize,
    },

    /// A value is too long.
    #[error(
        "value of {bytes} bytes for key {key:?} is longer than {limit} bytes; split it over several keys"
    )]
    ValueTooLong {
        /// The key.
        key: String,
        /// Its length.
        bytes: usize,
        /// [`VALUE_MAX`](crate::limits::VALUE_MAX).
        limit: usize,
    },

    /// Too many keys in one request.
    #[error("{keys} keys in one request are more than {limit}; split the request")]
    TooManyKeys {
        /// How many.
        keys: usize,
        /// [`KEYS_MAX`](crate::limits::KEYS_MAX).
        limit: usize,
    },

    /// The store is full.
    #[error(
        "{store} is full: {used} of {limit} bytes are in use; delete keys that are no longer needed"
    )]
    Full {
        /// Which store.
        store: String,
        /// Bytes in use.
        used: usize,
        /// [`STORE_QUOTA`](crate::limits::STORE_QUOTA).
        limit: usize,
    },

    /// The file of a `FileStore` cannot be used.
    #[error("cannot {action} store file {path:?}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },

    /// The file of a `FileStore` was unlinked while it was in use.
    #[error("store file {path:?} was removed while in use; start the job again with a new file")]
    FileGone {
        /// The file.
        path: PathBuf,
    },

    /// The file of a `FileStore` is not one.
    #[error("store file {path:?} is damaged at byte {offset}: {what}; remove it and start again")]
    FileDamaged {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What was wrong.
        what: &'static str,
    },

    /// The operating system refused something that the store needs.
    #[error("cannot {action} for the store: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
}

impl StoreError {
    /// Whether a deadline passed (as opposed to a refusal or a loss).
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::NoAnswer { .. } | Self::WorkersMissing { .. })
    }

    /// Whether the store is gone for good, so that no later operation can succeed.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::FileGone { .. } | Self::FileDamaged { .. })
    }
}
