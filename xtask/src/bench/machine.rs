//! Where and with what a record was made.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

/// The machine, its settings and the code that was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Cores this process may use.
    pub cores: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The compiler.
    pub rustc: String,
    /// MTU of the loopback interface, in bytes; 0 where unknown.
    pub mtu: u64,
    /// TCP's congestion control.
    pub congestion_control: String,
    /// The commit that was checked out.
    pub commit: String,
    /// Whether tracked files differed from it.
    pub modified: bool,
    /// When, as `YYYY-MM-DDThh:mm:ssZ`.
    pub date: String,
}

impl Machine {
    /// Looks around.
    #[must_use]
    pub fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let cpuinfo = read("/proc/cpuinfo");
        let cpu = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
            .map_or(env::consts::ARCH, |(_, name)| name.trim());
        let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
        Self {
            cpu: cpu.into(),
            cores: cores(),
            kernel: format!("{} {}", env::consts::OS, read("/proc/sys/kernel/osrelease")),
            rustc: said(&rustc, &["--version"]),
            mtu: read("/sys/class/net/lo/mtu").parse().unwrap_or(0),
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control"),
            commit: said("git", &["rev-parse", "HEAD"]),
            modified: !said("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty(),
            date: iso(unix_seconds()),
        }
    }

    /// A folder name for this kind of machine: processor and number of cores.
    #[must_use]
    pub fn slug(&self) -> String {
        let mut slug = String::new();
        for c in self.cpu.replace("(R)", "").replace("(TM)", "").chars() {
            if c.is_ascii_alphanumeric() {
                slug.push(c.to_ascii_lowercase());
            } else if !slug.ends_with('-') && !slug.is_empty() {
                slug.push('-');
            }
        }
        format!("{}-{}c", slug.trim_end_matches('-'), self.cores)
    }
}

/// Cores this process may use.
#[must_use]
pub fn cores() -> u64 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u64)
}

/// Bytes of memory that can still be had; `None` where the system does not say.
#[must_use]
pub fn memory_available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The workspace's root.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// What a program prints on standard output, trimmed; empty when it fails.
fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .current_dir(workspace())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => String::new(),
    }
}

#[expect(clippy::disallowed_methods, reason = "a record bears a date; nothing waits on it")]
fn unix_seconds() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Seconds since 1970 as a date in UTC (Howard Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`).
fn iso(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (h, m, s) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(iso(0), "1970-01-01T00:00:00Z");
        assert_eq!(iso(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(iso(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(iso(1_798_761_599), "2026-12-31T23:59:59Z");
        assert_eq!(iso(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn a_slug_is_a_folder_name() {
        let machine = Machine {
            cpu: "Intel(R) Xeon(R) Processor @ 2.80GHz".into(),
            cores: 2,
            ..Machine::default()
        };
        assert_eq!(machine.slug(), "intel-xeon-processor-2-80ghz-2c");
    }

    #[test]
    fn this_machine_is_known() {
        let here = Machine::here();
        assert!(here.cores > 0 && !here.cpu.is_empty());
        assert!(here.rustc.starts_with("rustc "), "{}", here.rustc);
        assert!(here.date.starts_with("20"), "{}", here.date);
        assert!(workspace().join("Cargo.toml").is_file());
    }
}
