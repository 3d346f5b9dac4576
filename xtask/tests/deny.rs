//! deny.toml, checked against the lock file with nothing but cargo: licences, banned crates, sources.
//!
//! `cargo deny` does more (advisories, licence texts); this is what a developer learns without installing it.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// What deny.toml allows and forbids.
#[derive(Debug, PartialEq)]
struct Policy {
    licences: Vec<String>,
    banned: Vec<String>,
    registries: Vec<String>,
}

impl Policy {
    /// Reads the lists that this test needs; deny.toml keeps one entry a line, or a list on one line.
    fn parse(text: &str) -> Self {
        let entries = |section: &str, list: &str| {
            let section = text.split_once(&format!("[{section}]\n")).map_or("", |(_, rest)| rest);
            let section = section.split("\n[").next().unwrap_or_default();
            let list = section.split_once(&format!("{list} = [")).map_or("", |(_, rest)| rest);
            let list = list.split("]\n").next().unwrap_or_default();
            // Every second piece between quotes; of a table, only its first value counts.
            let first = |line: &str| if line.contains('{') { 1 } else { usize::MAX };
            list.lines()
                .flat_map(|line| {
                    line.split('"').skip(1).step_by(2).take(first(line)).map(str::to_string)
                })
                .collect::<Vec<_>>()
        };
        Self {
            licences: entries("licenses", "allow"),
            banned: entries("bans", "deny"),
            registries: entries("sources", "allow-registry"),
        }
    }

    fn complaints(&self, packages: &[Value]) -> Vec<String> {
        let mut complaints = Vec::new();
        for package in packages {
            let field = |name: &str| package[name].as_str().unwrap_or_default();
            let name = field("name");
            let licence = field("license");
            if !permitted(licence, &self.licences) {
                complaints.push(format!("{name}: licence {licence:?} is not allowed"));
            }
            if self.banned.iter().any(|banned| banned == name) {
                complaints.push(format!("{name} is banned"));
            }
            // Members of the workspace have no source.
            let source = field("source");
            let known =
                self.registries.iter().any(|registry| source == format!("registry+{registry}"));
            if !package["source"].is_null() && !known {
                complaints.push(format!("{name} comes from {source}"));
            }
        }
        complaints
    }
}

/// Whether the licence expression leaves a choice that is allowed. `/` is the older way to write OR.
fn permitted(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    either(&mut words, allowed) == Some(true) && words.next().is_none()
}

type Words<'w> = std::iter::Peekable<std::str::SplitWhitespace<'w>>;

fn either(words: &mut Words<'_>, allowed: &[String]) -> Option<bool> {
    let mut any = both(words, allowed)?;
    while words.next_if_eq(&"OR").is_some() {
        any |= both(words, allowed)?;
    }
    Some(any)
}

fn both(words: &mut Words<'_>, allowed: &[String]) -> Option<bool> {
    let mut all = single(words, allowed)?;
    while words.next_if_eq(&"AND").is_some() {
        all &= single(words, allowed)?;
    }
    Some(all)
}

fn single(words: &mut Words<'_>, allowed: &[String]) -> Option<bool> {
    let word = words.next()?;
    if word == "(" {
        let inner = either(words, allowed)?;
        return (words.next()? == ")").then_some(inner);
    }
    let licence = match words.next_if_eq(&"WITH") {
        Some(_) => format!("{word} WITH {}", words.next()?),
        None => word.to_string(),
    };
    Some(allowed.contains(&licence))
}

#[test]
fn every_dependency_is_allowed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace");
    let policy =
        Policy::parse(&std::fs::read_to_string(root.join("deny.toml")).expect("deny.toml exists"));
    let host = Command::new("rustc")
        .args(["--print", "host-tuple"])
        .current_dir(root)
        .output()
        .expect("rustc runs");
    let host = String::from_utf8(host.stdout).expect("a target name");
    // Only what this machine builds: other platforms' crates are not fetched by building.
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--filter-platform", host.trim()])
        .current_dir(root)
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value =
        serde_json::from_slice(&output.stdout).expect("cargo metadata speaks JSON");
    let packages = metadata["packages"].as_array().expect("a list of packages");
    assert!(packages.len() > 50, "the lock file names {} packages", packages.len());
    let complaints = policy.complaints(packages);
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "[licenses]\nallow = [\n  \"MIT\",\n  \"Zlib\",\n  \"Apache-2.0 WITH LLVM-exception\",\n]\n\
        [bans]\nwildcards = \"deny\"\ndeny = [\n  { crate = \"bad\", reason = \"MIT\" },\n]\n\
        [sources]\nallow-registry = [\"https://example.com/index\"]\n";

    #[test]
    fn the_policy_is_read() {
        let policy = Policy::parse(POLICY);
        assert_eq!(policy.licences, ["MIT", "Zlib", "Apache-2.0 WITH LLVM-exception"]);
        assert_eq!(policy.banned, ["bad"]);
        assert_eq!(policy.registries, ["https://example.com/index"]);
    }

    #[test]
    fn expressions_are_understood() {
        let allowed = Policy::parse(POLICY).licences;
        for good in [
            "MIT",
            "GPL-3.0 OR MIT",
            "GPL-3.0/MIT",
            "(MIT OR GPL-3.0) AND Zlib",
            "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
            "GPL-3.0 AND BSL-1.0 OR Zlib",
        ] {
            assert!(permitted(good, &allowed), "{good}");
        }
        for bad in [
            "",
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "(MIT OR Zlib) AND GPL-3.0",
            "Apache-2.0",
            "MIT)",
            "(MIT",
            "OR",
        ] {
            assert!(!permitted(bad, &allowed), "{bad}");
        }
    }

    #[test]
    fn wrong_packages_are_found() {
        let package = |name: &str, license: &str, source: Option<&str>| serde_json::json!({"name": name, "license": license, "source": source});
        let registry = Some("registry+https://example.com/index");
        let complaints = |package| Policy::parse(POLICY).complaints(&[package]).len();
        assert_eq!(complaints(package("good", "MIT", registry)), 0);
        assert_eq!(complaints(package("ours", "MIT", None)), 0);
        assert_eq!(complaints(package("closed", "Proprietary", registry)), 1);
        assert_eq!(complaints(package("bad", "MIT", registry)), 1);
        assert_eq!(complaints(package("fork", "MIT", Some("git+https://example.com/fork"))), 1);
        assert_eq!(
            complaints(serde_json::json!({"name": "mute", "license": null, "source": null})),
            1
        );
    }
}
