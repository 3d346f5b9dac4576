//! What can go wrong with a record.

use std::path::PathBuf;

/// Why a record could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The operating system refused.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
    /// A file is longer than any record.
    #[error("{}: longer than {limit} bytes, so it is no flight record", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The most bytes that are read.
        limit: u64,
    },
    /// A file does not hold a record.
    #[error("{}: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<RecordError>,
    },
    /// Neither JSON nor a pickle.
    #[error("neither JSON nor a pickle; a flight record is one of them")]
    NoRecord,
    /// Wrong JSON, or JSON of something else.
    #[error("not a flight record in JSON: {0}")]
    Json(serde_json::Error),
    /// A wrong pickle, or a pickle of something else.
    #[error("not a flight record in a pickle: {0}")]
    Pickle(serde_pickle::Error),
}
