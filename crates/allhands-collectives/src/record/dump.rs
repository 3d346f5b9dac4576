//! The record of a group that has failed, until it is written.

use std::path::PathBuf;

use allhands_wire::Peer;

use super::{RECORD_ENTRIES, Raw};
use crate::error::Who;
use crate::primitive::{Mutex, lock};

/// What is recorded, and where it goes when a group fails.
#[derive(Clone, Debug)]
pub struct RecordConfig {
    /// Operations that a group's record holds, at most [`RECORD_ENTRIES_MAX`](super::RECORD_ENTRIES_MAX); 0 records none.
    pub entries: usize,
    /// The folder into which a rank writes the record of a group that has failed; `None` writes none.
    pub folder: Option<PathBuf>,
}

impl Default for RecordConfig {
    fn default() -> Self {
        Self { entries: RECORD_ENTRIES, folder: None }
    }
}

/// Where a group's record goes when it fails.
#[derive(Debug)]
pub(crate) struct Dump {
    /// This process's position in the mesh, and how many there are.
    pub(crate) me: Peer,
    pub(crate) world: u32,
    folder: Option<PathBuf>,
    /// Taken when the group failed, and not written yet.
    pending: Mutex<Option<Raw>>,
}

impl Dump {
    pub(crate) fn new(me: Peer, world: u32, config: &RecordConfig) -> Self {
        let folder = config.folder.clone().filter(|_| config.entries > 0);
        Self { me, world, folder, pending: Mutex::new(None) }
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.folder.is_some()
    }

    /// Leaves the record for whoever writes it.
    pub(crate) fn put(&self, raw: Raw) {
        *lock(&self.pending) = Some(raw);
    }

    /// Writes the record unless that was done. Whoever comes second waits for the first: an error is told when the record
    /// is there. Not to be called from the driver's seat.
    pub(crate) fn write(&self, who: &Who) {
        let Some(folder) = &self.folder else { return };
        let mut pending = lock(&self.pending);
        let Some(raw) = pending.take() else { return };
        let written = raw.expand(who).write_to(folder);
        drop(pending);
        match written {
            Ok(path) => {
                tracing::warn!(group = who.group, path = %path.display(), "the group has failed; flight record written");
            }
            Err(error) => {
                tracing::warn!(group = who.group, %error, "the group has failed; no flight record");
            }
        }
    }
}
