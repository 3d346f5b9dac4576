//! A rank's record, and its two forms: pickle and JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::entry::Entry;
use crate::error::RecordError;

/// Version of PyTorch's format that is written.
pub const VERSION: &str = "2.10";

/// The description that PyTorch gives the group of all ranks, by which its analyser knows it.
pub const WORLD_DESCRIPTION: &str = "default_pg";

/// A group of ranks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupConfig {
    /// Name.
    pub name: String,
    /// Description; [`WORLD_DESCRIPTION`] for all ranks.
    pub desc: String,
    /// Its ranks as text, `[0, 1]`: so PyTorch writes it.
    pub ranks: String,
}

impl GroupConfig {
    /// A group of `ranks`, positions in the job.
    #[must_use]
    pub fn new(name: impl Into<String>, desc: impl Into<String>, ranks: &[u32]) -> Self {
        Self { name: name.into(), desc: desc.into(), ranks: format!("{ranks:?}") }
    }

    /// How many ranks it has.
    #[must_use]
    pub fn size(&self) -> usize {
        self.ranks.split(',').filter(|rank| rank.contains(|c: char| c.is_ascii_digit())).count()
    }
}

/// How far a rank has come in a group. Numbers are those of `collective_seq_id`; -1 before the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// The last collective that was called.
    pub last_enqueued_collective: i64,
    /// The last that has begun to run.
    pub last_started_collective: i64,
    /// The last that has ended well.
    pub last_completed_collective: i64,
}

impl Default for GroupStatus {
    fn default() -> Self {
        let none = -1;
        Self {
            last_enqueued_collective: none,
            last_started_collective: none,
            last_completed_collective: none,
        }
    }
}

/// Whose record it is, and when it was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Name of the group.
    pub group: String,
    /// Position of the rank in the job.
    pub rank: u32,
    /// Ranks of the job.
    pub world_size: u32,
    /// When the record was taken: nanoseconds since 1970 on the rank's wall clock.
    pub taken_ns: u64,
    /// Why the group had failed by then, if it had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// The last operations of a rank, oldest first, in PyTorch's format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlightRecord {
    /// [`VERSION`].
    pub version: String,
    /// The groups that entries name, by name.
    pub pg_config: BTreeMap<String, GroupConfig>,
    /// How far this rank is in each group of collectives, by number of the group.
    pub pg_status: BTreeMap<String, GroupStatus>,
    /// Name and version of the library.
    pub comm_lib_version: String,
    /// The operations.
    pub entries: Vec<Entry>,
    /// Whose record it is.
    #[serde(rename = "allhands")]
    pub origin: Origin,
}

impl FlightRecord {
    /// A record without operations.
    #[must_use]
    pub fn new(origin: Origin) -> Self {
        Self {
            version: VERSION.to_owned(),
            pg_config: BTreeMap::new(),
            pg_status: BTreeMap::new(),
            comm_lib_version: concat!("allhands ", env!("CARGO_PKG_VERSION")).to_owned(),
            entries: Vec::new(),
            origin,
        }
    }

    /// The record as JSON.
    ///
    /// # Errors
    /// None that is known: every value of a record has a form in JSON.
    pub fn to_json(&self) -> Result<String, RecordError> {
        serde_json::to_string(self).map_err(RecordError::Json)
    }

    /// The record as a pickle (protocol 2), which is what `torchfrtrace` reads.
    ///
    /// # Errors
    /// None that is known, as [`FlightRecord::to_json`].
    pub fn to_pickle(&self) -> Result<Vec<u8>, RecordError> {
        let options = serde_pickle::SerOptions::new().proto_v2();
        serde_pickle::to_vec(self, options).map_err(RecordError::Pickle)
    }

    /// Reads either form. A pickle is read as data: nothing in it is called.
    ///
    /// # Errors
    /// The bytes are neither, or not a record.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        match bytes.first() {
            Some(b'{') => serde_json::from_slice(bytes).map_err(RecordError::Json),
            Some(&PICKLE) => {
                let options = serde_pickle::DeOptions::new();
                serde_pickle::from_slice(bytes, options).map_err(RecordError::Pickle)
            }
            _ => Err(RecordError::NoRecord),
        }
    }
}

/// The first byte of every pickle since protocol 2.
const PICKLE: u8 = 0x80;
