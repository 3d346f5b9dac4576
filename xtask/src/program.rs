//! The programs whose processes are ranks: `bench-rank`, and `bound`, which shows what shared memory can do at best.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::bench::machine;

/// A program that cargo builds.
struct Program {
    name: &'static str,
    arguments: &'static [&'static str],
}

const RANK: Program = Program {
    name: "bench-rank",
    arguments: &["--package", "xtask", "--bin", "bench-rank", "--features", "worker"],
};
const BOUND: Program =
    Program { name: "bound", arguments: &["--package", "allhands-shm", "--example", "bound"] };

/// Builds `bench-rank` in release, whatever this program is, and says where it is.
///
/// # Errors
/// Cargo cannot build it.
pub(crate) fn build() -> Result<PathBuf> {
    RANK.build()
}

/// Builds the lower bound of shared memory in release, and says where it is.
///
/// # Errors
/// Cargo cannot build it.
pub(crate) fn build_bound() -> Result<PathBuf> {
    BOUND.build()
}

impl Program {
    fn build(&self) -> Result<PathBuf> {
        let name = self.name;
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["build", "--release", "--message-format", "json-render-diagnostics"])
            .args(self.arguments)
            .current_dir(machine::workspace())
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .context("cannot start cargo")?;
        ensure!(output.status.success(), "cargo cannot build {name}; see above");
        let messages = String::from_utf8_lossy(&output.stdout);
        messages
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|message| message["target"]["name"] == name)
            .find_map(|message| message["executable"].as_str().map(PathBuf::from))
            .with_context(|| format!("cargo named no program for {name}"))
    }
}
