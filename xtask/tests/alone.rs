//! Each crate on its own: the example of its README, built and run outside the workspace with nothing else but what the
//! crate itself uses, and its package.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A package larger than this holds something that does not belong in it, such as golden data.
const PACKAGE_BYTES_MAX: u64 = 1 << 20;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// Folder for what this file builds. It lives in the target folder, so that a second run has little to do.
fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("alone").join(name);
    std::fs::create_dir_all(&folder).expect("the target folder can be written");
    folder
}

/// The published members of the workspace, as `cargo metadata` describes them.
fn published() -> Vec<Value> {
    let metadata = cargo(root(), &["metadata", "--format-version=1", "--no-deps", "--offline"]);
    let metadata: Value = serde_json::from_str(&metadata).expect("cargo metadata speaks JSON");
    let packages = metadata["packages"].as_array().expect("a workspace has packages");
    packages.iter().filter(|package| package["publish"].is_null()).cloned().collect()
}

/// Runs cargo and returns what it prints.
fn cargo(folder: &Path, args: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(args)
        .current_dir(folder)
        // Nothing of the outer cargo's settings for this very test may leak into the inner one.
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("CARGO_BUILD_TARGET_DIR")
        .env_remove("CARGO_MANIFEST_DIR")
        .output()
        .expect("cargo runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {} in {}:\n{errors}", args.join(" "), folder.display());
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} is a string in {value}"))
}

/// What an example of a README may be used for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Use {
    Run,
    Build,
}

/// The first Rust example of a README that has to compile, with the lines that its readers do not see.
fn example(readme: &str) -> Option<(Use, String)> {
    let mut lines = readme.lines();
    loop {
        let attributes = lines.by_ref().find_map(|line| line.strip_prefix("```rust"))?;
        let body: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
        if attributes.contains("ignore") || attributes.contains("compile_fail") {
            continue;
        }
        let shown = |line: &&str| {
            line.strip_prefix("# ").unwrap_or(if *line == "#" { "" } else { line }).to_string()
        };
        let body = body.iter().map(shown).collect::<Vec<_>>().join("\n");
        return Some((if attributes.contains("no_run") { Use::Build } else { Use::Run }, body));
    }
}

/// The example as a program, by the rules of rustdoc.
fn program(example: &str) -> String {
    if example.contains("fn main(") {
        return example.into();
    }
    match example.rfind("Ok::<") {
        Some(_) => format!(
            "fn main() {{\n    if let Err(error) = example() {{\n        panic!(\"{{error:?}}\");\n    }}\n}}\n\n\
             fn example() -> Result<(), impl core::fmt::Debug> {{\n{example}\n}}\n"
        ),
        None => format!("fn main() {{\n{example}\n}}\n"),
    }
}

/// The manifest of a program that uses `package` and, where its example names them, the crates that `package` uses.
fn manifest(package: &Value, source: &str) -> String {
    let name = text(package, "name");
    let mut manifest = format!(
        "[package]\nname = \"alone-{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\npublish = false\n\n[dependencies]\n"
    );
    let folder =
        Path::new(text(package, "manifest_path")).parent().expect("a manifest lies in a folder");
    writeln!(manifest, "{name} = {{ path = {folder:?} }}").expect("writing to a string");
    for dependency in package["dependencies"].as_array().expect("a list of dependencies") {
        let other = text(dependency, "name");
        let named = source.contains(&format!("{}::", other.replace('-', "_")));
        if named && dependency["kind"].is_null() && other != name {
            let place = match dependency["path"].as_str() {
                Some(path) => format!("path = {path:?}"),
                None => format!("version = {:?}", text(dependency, "req")),
            };
            let features = &dependency["features"];
            writeln!(manifest, "{other} = {{ {place}, features = {features} }}")
                .expect("writing to a string");
        }
    }
    manifest
}

#[test]
fn each_crate_serves_a_program_outside_the_workspace() {
    let workspace = scratch("programs");
    let packages = published();
    assert!(packages.len() >= 9, "the workspace has at least nine published crates");
    // The same versions as in the workspace, so that nothing has to be fetched; the same profile, so that a second run
    // finds what the first one built.
    std::fs::copy(root().join("Cargo.lock"), workspace.join("Cargo.lock"))
        .expect("the lock file is there");
    std::fs::write(
        workspace.join("Cargo.toml"),
        "[workspace]\nresolver = \"3\"\nmembers = [\"alone-*\"]\n\n[profile.dev]\nopt-level = 0\ndebug = false\n",
    )
    .expect("the target folder can be written");
    let mut programs = Vec::new();
    let mut mute = Vec::new();
    for package in &packages {
        let name = text(package, "name");
        let readme = Path::new(text(package, "manifest_path")).with_file_name("README.md");
        let readme = std::fs::read_to_string(readme).unwrap_or_default();
        let folder = workspace.join(format!("alone-{name}"));
        let (usage, source) = match example(&readme) {
            Some((usage, source)) if source.contains(&name.replace('-', "_")) => (usage, source),
            _ => {
                mute.push(name);
                (Use::Build, format!("use {} as _;", name.replace('-', "_")))
            }
        };
        std::fs::create_dir_all(folder.join("src")).expect("the target folder can be written");
        std::fs::write(folder.join("Cargo.toml"), manifest(package, &source))
            .expect("a manifest is written");
        std::fs::write(folder.join("src/main.rs"), program(&source)).expect("a program is written");
        programs.push((format!("alone-{name}"), usage));
    }
    // One at a time: built together, they would share the features that each one asks for.
    for (name, usage) in programs {
        let verb = if usage == Use::Run { "run" } else { "build" };
        cargo(&workspace, &[verb, "--quiet", "--offline", "--package", &name]);
    }
    assert!(mute.is_empty(), "no example that uses the crate in the READMEs of {mute:?}");
}

#[test]
fn each_crate_can_be_packaged() {
    let target = scratch("packages");
    let packages = published();
    let target = target.to_str().expect("a target folder in UTF-8");
    let mut args = vec![
        "package",
        "--no-verify",
        "--allow-dirty",
        "--offline",
        "--quiet",
        "--target-dir",
        target,
    ];
    for package in &packages {
        args.extend(["--package", text(package, "name")]);
    }
    cargo(root(), &args);
    for package in &packages {
        let (name, version) = (text(package, "name"), text(package, "version"));
        let files =
            cargo(root(), &["package", "--list", "--allow-dirty", "--offline", "--package", name]);
        for needed in ["Cargo.toml", "README.md", "src/lib.rs"] {
            assert!(
                files.lines().any(|file| file == needed),
                "the package of {name} lacks {needed}"
            );
        }
        let archive = Path::new(target).join("package").join(format!("{name}-{version}.crate"));
        let size = std::fs::metadata(&archive).expect("cargo wrote the package").len();
        assert!(size <= PACKAGE_BYTES_MAX, "{name}: a package of {size} bytes");
    }
}

#[test]
fn examples_are_found_and_wrapped_as_rustdoc_does() {
    let readme = "# x\n```text\nno\n```\n```rust,ignore\nnever\n```\n```rust,no_run\n# hidden();\nshown();\n#\n```\n";
    assert_eq!(example(readme), Some((Use::Build, "hidden();\nshown();\n".into())));
    assert_eq!(example("```rust\na();\n```"), Some((Use::Run, "a();".into())));
    assert_eq!(example("no example"), None);
    assert_eq!(program("fn main() { a(); }"), "fn main() { a(); }");
    assert_eq!(program("a();"), "fn main() {\na();\n}\n");
    assert!(
        program("a()?;\nOk::<(), E>(())")
            .contains("fn example() -> Result<(), impl core::fmt::Debug> {\na()?;")
    );
}

#[test]
fn manifests_name_only_what_the_example_uses() {
    let package = serde_json::json!({
        "name": "top",
        "manifest_path": "/w/crates/top/Cargo.toml",
        "dependencies": [
            {"name": "low-level", "kind": null, "path": "/w/crates/low-level", "req": "*", "features": []},
            {"name": "half", "kind": null, "req": "^2.7", "features": ["bytemuck"]},
            {"name": "unused", "kind": null, "req": "^1", "features": []},
            {"name": "proptest", "kind": "dev", "req": "^1", "features": []},
        ],
    });
    let manifest = manifest(&package, "use top::x; low_level::f(); half::f16::ONE; proptest::p();");
    let dependencies = manifest.split("[dependencies]\n").nth(1).unwrap();
    assert_eq!(
        dependencies,
        "top = { path = \"/w/crates/top\" }\n\
         low-level = { path = \"/w/crates/low-level\", features = [] }\n\
         half = { version = \"^2.7\", features = [\"bytemuck\"] }\n"
    );
}
