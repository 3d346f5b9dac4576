//! What a machine may lack.

use std::io::Write as _;

use anyhow::{Result, ensure};

/// Says that `what` is skipped, because the machine lacks what it needs.
///
/// # Errors
/// The variable `require` is 1: then it must not be skipped.
pub(crate) fn skip(what: &str, require: &str, why: &str) -> Result<()> {
    ensure!(std::env::var_os(require).is_none_or(|value| value != "1"), "{require}=1, but {why}");
    Ok(writeln!(std::io::stdout(), "SKIP {what}: {why}")?)
}
