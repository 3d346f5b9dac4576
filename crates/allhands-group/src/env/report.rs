//! Telling torchrun why a rank fails.

use std::error::Error;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{ProcessEnvironment, Variables};

/// The file in which torchrun looks for the error of a rank that fails.
pub const ERROR_FILE: &str = "TORCHELASTIC_ERROR_FILE";

/// Tells torchrun why this rank fails: its summary then shows `error` and what is behind it as the root cause, in place
/// of the exit code alone. The program still has to end with a code other than 0.
///
/// Without torchrun, which names the file in `TORCHELASTIC_ERROR_FILE`, nothing happens. The file appears whole or not at all.
/// If it cannot be written, the log says so: whoever reports an error has one to deal with already.
///
/// ```no_run
/// use allhands_group::{Error, ProcessGroup, ReduceOp, env::report_error};
///
/// fn train() -> Result<(), Error> {
///     let group = ProcessGroup::from_env()?;
///     group.all_reduce(&mut [1.0f32], ReduceOp::Sum)
/// }
///
/// fn main() -> Result<(), Error> {
///     train().inspect_err(|error| report_error(error))
/// }
/// ```
pub fn report_error(error: &(dyn Error + 'static)) {
    // Torchrun compares the times of all ranks to find the first, so they are those of the wall clock.
    #[expect(clippy::disallowed_methods, reason = "nothing waits for it")]
    let now = SystemTime::now();
    if let Err((path, reason)) = report(&ProcessEnvironment, error, now) {
        tracing::warn!(path = %path.display(), %reason, "cannot tell torchrun of an error");
    }
}

/// Writes `error` to the file that `variables` name, if they do.
fn report(
    variables: &impl Variables,
    error: &(dyn Error + 'static),
    now: SystemTime,
) -> Result<(), (PathBuf, io::Error)> {
    let Some(path) = variables.value(ERROR_FILE).map(PathBuf::from) else { return Ok(()) };
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let report = serde_json::json!({
        "message": {
            "message": chain(error),
            // A `py_callstack`, even an empty one, would be shown in place of the message.
            "extraInfo": { "timestamp": seconds.to_string() },
        },
    });
    write(&path, report.to_string().as_bytes()).map_err(|reason| (path, reason))
}

/// The error, and those behind it that its own text does not tell.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut behind = error.source();
    while let Some(error) = behind {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        behind = error.source();
    }
    text
}

/// Writes a file that nobody sees half-written.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut draft = OsString::from(path);
    draft.push(format!(".{}", std::process::id()));
    let written = File::create(&draft)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&draft, path));
    written.inspect_err(|_| {
        let _ = fs::remove_file(&draft);
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::env::EnvError;

    fn report_to(path: &Path, error: &(dyn Error + 'static)) -> Result<(), (PathBuf, io::Error)> {
        let path = path.to_str().unwrap().to_owned();
        let variables = |name: &str| (name == ERROR_FILE).then(|| path.clone());
        report(&variables, error, SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000))
    }

    #[test]
    fn the_report_is_what_torchrun_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("error.json");
        let value = "\"many\"\n\u{1}ß".to_owned();
        let error = EnvError::Value { variable: "WORLD_SIZE", value, expected: "a number" };
        report_to(&path, &error).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["message"]["message"], error.to_string());
        assert_eq!(read["message"]["extraInfo"]["timestamp"], "1800000000");
        assert!(read["message"]["extraInfo"].get("py_callstack").is_none());
        let again = EnvError::NoLauncher;
        report_to(&path, &again).unwrap();
        assert!(fs::read_to_string(&path).unwrap().contains("no launcher"));
        // No draft stays behind.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn without_a_file_nothing_happens_and_a_bad_one_is_told() {
        report(&|_: &str| None, &EnvError::NoLauncher, SystemTime::UNIX_EPOCH).unwrap();
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        report(&|_: &str| None, &EnvError::NoLauncher, before).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("no such folder").join("error.json");
        let (told, reason) = report_to(&path, &EnvError::NoLauncher).unwrap_err();
        assert_eq!((told, reason.kind()), (path, io::ErrorKind::NotFound));
        // A folder of that name: the draft is removed again.
        let taken = folder.path().join("taken");
        fs::create_dir(&taken).unwrap();
        report_to(&taken, &EnvError::NoLauncher).unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_behind_an_error_is_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] Middle);
        #[derive(Debug, thiserror::Error)]
        #[error("middle: {0}")]
        struct Middle(#[source] std::num::ParseIntError);
        let error = Outer(Middle("x".parse::<u8>().unwrap_err()));
        assert_eq!(chain(&error), "outer: middle: invalid digit found in string");
    }
}
