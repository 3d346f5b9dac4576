//! What ARCHITECTURE.md promises about the crates, checked.
//!
//! Each rule is a function from text or parsed metadata to complaints, so that every rule is tried on a made-up workspace
//! that breaks it before it is trusted with the real one.

mod arrows;
mod source;

use std::path::{Path, PathBuf};
use std::process::Command;

use arrows::Package;

/// The root of the workspace.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// The members of the workspace as cargo sees them.
fn members() -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    arrows::parse(&output.stdout).expect("cargo metadata speaks JSON")
}

/// Every Rust file under `folder`, relative to the root of the workspace, with its text.
fn rust_files(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                if !path.ends_with("target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("Rust files are UTF-8");
                files.push((path.strip_prefix(root()).expect("below the root").into(), text));
            }
        }
    }
    files.sort();
    files
}

fn none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn arrows_point_down() {
    none(&arrows::check(&members()));
}

#[test]
fn pure_crates_have_no_input_output_clock_or_thread() {
    let mut complaints = Vec::new();
    for name in arrows::PURE.iter().map(|(name, _)| name) {
        let files = rust_files(&root().join("crates").join(name).join("src"));
        assert!(!files.is_empty(), "{name} has no sources");
        for (path, text) in files {
            complaints.extend(source::impure(&path, &text));
        }
    }
    none(&complaints);
}

#[test]
fn unsafe_code_stays_on_its_islands_and_gives_its_reasons() {
    let mut complaints = Vec::new();
    for package in members() {
        let island = arrows::ISLANDS.contains(&package.name.as_str());
        for root in package.roots() {
            let text = std::fs::read_to_string(root).expect("a crate's root exists");
            if !island && !text.contains("#![forbid(unsafe_code)]") {
                complaints.push(format!(
                    "{}: {} does not forbid unsafe code",
                    package.name,
                    root.display()
                ));
            }
        }
        for (path, text) in rust_files(package.folder()) {
            complaints.extend(if island {
                source::unargued(&path, &text)
            } else {
                source::uses_unsafe(&path, &text)
            });
        }
    }
    none(&complaints);
}

#[test]
fn files_are_short_finished_and_switched_on() {
    let mut complaints = Vec::new();
    for folder in ["crates", "xtask", "benches", "fuzz"] {
        for (path, text) in rust_files(&root().join(folder)) {
            complaints.extend(source::too_long(&path, &text));
            complaints.extend(source::unfinished(&path, &text));
        }
    }
    none(&complaints);
}

#[test]
fn every_reason_for_length_is_still_needed() {
    for (path, reason) in source::LONG {
        let text = std::fs::read_to_string(root().join(path)).expect("a listed file exists");
        assert!(
            text.lines().count() > source::LINES_MAX,
            "{path} is short now; drop its reason: {reason}"
        );
    }
}

#[test]
fn every_crate_says_what_it_is() {
    let mut complaints = Vec::new();
    let guide =
        std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md exists");
    for package in members() {
        if !guide.contains(&format!("`{}`", package.name)) {
            complaints.push(format!("ARCHITECTURE.md does not mention `{}`", package.name));
        }
        let manifest = std::fs::read_to_string(&package.manifest).expect("a manifest exists");
        let readme =
            std::fs::read_to_string(package.folder().join("README.md")).unwrap_or_default();
        complaints.extend(arrows::undescribed(&package, &manifest, &readme));
    }
    none(&complaints);
}
