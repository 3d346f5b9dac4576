//! `bench-rank`, the program whose processes are ranks.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::bench::machine;

/// Builds it in release, whatever this program is, and says where it is.
///
/// # Errors
/// Cargo cannot build it.
pub(crate) fn build() -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--release", "--package", "xtask", "--bin", "bench-rank"])
        .args(["--features", "worker", "--message-format", "json-render-diagnostics"])
        .current_dir(machine::workspace())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(output.status.success(), "cargo cannot build bench-rank; see above");
    let messages = String::from_utf8_lossy(&output.stdout);
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "bench-rank")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo named no program for bench-rank")
}
