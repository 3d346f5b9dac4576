//! What can go wrong before a case is run.

use std::path::PathBuf;

/// Why the golden data could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OracleError {
    /// A file of the data is missing or unreadable.
    #[error(
        "reading golden data {path}: {source}; set ALLHANDS_ORACLES to the folder that holds it"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A JSON file does not have the documented fields.
    #[error("parsing golden data {path}: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// The array file is damaged.
    #[error("parsing golden arrays {path}: {source}")]
    Arrays {
        /// The file.
        path: PathBuf,
        /// Why.
        source: safetensors::SafeTensorError,
    },
    /// A case contradicts itself or the documentation.
    #[error("golden case {case}: {what}")]
    Malformed {
        /// The identifier in the data.
        case: String,
        /// What is wrong with it.
        what: String,
    },
}
