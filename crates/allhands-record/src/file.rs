//! Records as files, under the names by which `torchfrtrace` finds the ranks.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::error::RecordError;
use crate::record::FlightRecord;

/// Most bytes of a file that are read.
pub const RECORD_BYTES_MAX: u64 = 256 << 20;

impl FlightRecord {
    /// The name of the record's file: `<group>_rank_<rank>`. What stands before the number is the prefix that
    /// `torchfrtrace` takes for itself from a folder of one group, or is told by `--prefix`.
    ///
    /// Letters, digits, `-` and `_` of the group's name stay; every other character becomes `_`.
    #[must_use]
    pub fn file_name(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        let group: String = self.origin.group.chars().map(plain).collect();
        format!("{group}_rank_{}", self.origin.rank)
    }

    /// Writes the record as a pickle into `folder`, which is made if it is not there. Whoever reads the file sees all
    /// of it or none. Returns its path; an older file of that name is replaced.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn write_to(&self, folder: &Path) -> Result<PathBuf, RecordError> {
        let refused = |path: &Path, error: std::io::Error| RecordError::File {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        let bytes = self.to_pickle()?;
        std::fs::create_dir_all(folder).map_err(|error| refused(folder, error))?;
        let path = folder.join(self.file_name());
        // The analyser opens every file whose name holds the prefix, so a draft has none of it.
        let draft = folder.join(format!(".draft-{}-{}", self.origin.rank, std::process::id()));
        let written = std::fs::write(&draft, bytes).and_then(|()| std::fs::rename(&draft, &path));
        if let Err(error) = written {
            // What cannot be written can often not be removed either; the first reason is the one to tell.
            let _ = std::fs::remove_file(&draft);
            return Err(refused(&path, error));
        }
        Ok(path)
    }

    /// Reads a file in either form.
    ///
    /// # Errors
    /// The operating system refuses, the file is longer than [`RECORD_BYTES_MAX`], or it holds no record.
    pub fn read(path: &Path) -> Result<Self, RecordError> {
        let mut bytes = Vec::new();
        let read = File::open(path)
            .and_then(|file| file.take(RECORD_BYTES_MAX + 1).read_to_end(&mut bytes));
        let path = path.to_owned();
        match read {
            Err(error) => Err(RecordError::File { path, reason: error.to_string() }),
            Ok(_) if bytes.len() as u64 > RECORD_BYTES_MAX => {
                Err(RecordError::TooLong { path, limit: RECORD_BYTES_MAX })
            }
            Ok(_) => Self::from_bytes(&bytes)
                .map_err(|source| RecordError::Content { path, source: Box::new(source) }),
        }
    }
}
