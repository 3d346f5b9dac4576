//! Which crate may use which: the table of ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Each crate and those that stand directly below it. A crate may use whatever it reaches by going down.
pub(crate) const ARROWS: &[(&str, &[&str])] = &[
    ("allhands", &["allhands-group"]),
    ("allhands-group", &["allhands-collectives", "allhands-store", "allhands-tensor"]),
    ("allhands-collectives", &["allhands-engine", "allhands-record", "allhands-shm"]),
    ("allhands-engine", &["allhands-plan", "allhands-wire", "allhands-tensor"]),
    ("allhands-shm", &["allhands-tensor", "allhands-transport"]),
    ("allhands-transport", &["allhands-wire"]),
    ("allhands-store", &[]),
    ("allhands-record", &[]),
    ("allhands-plan", &[]),
    ("allhands-wire", &[]),
    ("allhands-tensor", &[]),
];

/// Packages for developers, which may use everything and which nothing published may use.
const TOOLS: &[&str] = &["xtask", "allhands-benches"];

/// The golden data: for tests, so it may stand in `dev-dependencies`, and only there.
const ORACLES: (&str, &[&str]) = ("allhands-oracles", &["allhands-tensor"]);

/// Crates without input, output, clock or thread, and the foreign crates they may use.
pub(crate) const PURE: &[(&str, &[&str])] = &[
    ("allhands-plan", &["smallvec", "thiserror"]),
    ("allhands-wire", &["crc32c", "hmac", "sha2", "subtle", "thiserror"]),
    ("allhands-engine", &["smallvec", "thiserror"]),
];

/// Crates that may hold `unsafe`.
pub(crate) const ISLANDS: &[&str] = &["allhands-shm", "allhands-tensor"];

/// What the rules need to know of a package.
#[derive(Clone, Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) manifest: PathBuf,
    pub(crate) published: bool,
    pub(crate) description: Option<String>,
    pub(crate) license: Option<String>,
    pub(crate) repository: Option<String>,
    pub(crate) dependencies: Vec<Dependency>,
    /// Kind and source of every target.
    pub(crate) targets: Vec<(String, PathBuf)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) dev: bool,
}

impl Package {
    pub(crate) fn folder(&self) -> &Path {
        self.manifest.parent().expect("a manifest lies in a folder")
    }

    /// The root files of what others can use or run.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &Path> {
        let counts = |kind: &str| matches!(kind, "lib" | "bin" | "proc-macro" | "example");
        self.targets.iter().filter(move |(kind, _)| counts(kind)).map(|(_, path)| path.as_path())
    }
}

/// The packages in the output of `cargo metadata`.
pub(crate) fn parse(metadata: &[u8]) -> serde_json::Result<Vec<Package>> {
    let metadata: Value = serde_json::from_slice(metadata)?;
    let text = |value: &Value| value.as_str().map(str::to_string);
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let package = |value: Value| Package {
        name: text(&value["name"]).unwrap_or_default(),
        manifest: text(&value["manifest_path"]).unwrap_or_default().into(),
        // `publish = false` is an empty list of registries.
        published: value["publish"].is_null(),
        description: text(&value["description"]),
        license: text(&value["license"]),
        repository: text(&value["repository"]),
        dependencies: list(&value["dependencies"])
            .iter()
            .map(|dependency| Dependency {
                name: text(&dependency["name"]).unwrap_or_default(),
                dev: dependency["kind"] == "dev",
            })
            .collect(),
        targets: list(&value["targets"])
            .iter()
            .filter_map(|target| {
                Some((text(&target["kind"][0])?, text(&target["src_path"])?.into()))
            })
            .collect(),
    };
    Ok(list(&metadata["packages"]).into_iter().map(package).collect())
}

/// Everything below a crate of the table; `None` for a crate that is not in it.
fn below(name: &str) -> Option<BTreeSet<&'static str>> {
    let table: BTreeMap<_, _> = ARROWS.iter().chain([&ORACLES]).copied().collect();
    let mut open: Vec<&'static str> = table.get(name)?.to_vec();
    let mut reached = BTreeSet::new();
    while let Some(next) = open.pop() {
        if reached.insert(next) {
            open.extend(table[next]);
        }
    }
    Some(reached)
}

/// Complaints about edges between the crates of the workspace, and from pure crates to foreign ones.
pub(crate) fn check(packages: &[Package]) -> Vec<String> {
    let ours: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut complaints = Vec::new();
    for package in packages {
        let name = package.name.as_str();
        if TOOLS.contains(&name) {
            continue;
        }
        let Some(below) = below(name) else {
            complaints.push(format!("{name} has no place in the table of crates"));
            continue;
        };
        for dependency in &package.dependencies {
            let to = dependency.name.as_str();
            let pure = PURE.iter().find(|(pure, _)| *pure == name);
            if ours.contains(to) {
                let oracle = to == ORACLES.0 && dependency.dev;
                if !below.contains(to) && !oracle {
                    complaints.push(format!("{name} uses {to}, which does not stand below it"));
                }
            } else if !dependency.dev
                && let Some((_, allowed)) = pure
                && !allowed.contains(&to)
            {
                complaints.push(format!("{name} is pure and uses {to}"));
            }
        }
        if package.published && name == ORACLES.0 {
            complaints.push(format!("{name} is for tests and must not be published"));
        }
    }
    complaints
}

/// Complaints about what a package does not say about itself.
pub(crate) fn undescribed(package: &Package, manifest: &str, readme: &str) -> Vec<String> {
    let name = &package.name;
    let mut complaints = Vec::new();
    let mut require = |holds: bool, what: &str| {
        if !holds {
            complaints.push(format!("{name}: {what}"));
        }
    };
    require(package.description.as_ref().is_some_and(|text| text.len() > 20), "no description");
    require(package.license.is_some(), "no licence");
    require(manifest.contains("[lints]\nworkspace = true"), "does not use the workspace's lints");
    if package.published {
        require(package.repository.is_some(), "no repository");
        require(manifest.contains("readme = \"README.md\""), "does not name its README");
        require(
            readme.starts_with(&format!("# {name}\n")),
            "the README does not start with its name",
        );
        require(readme.contains("```rust"), "the README has no example");
        require(readme.contains("nvariant"), "the README has no invariants");
        require(
            readme.to_lowercase().contains("feature"),
            "the README says nothing about features",
        );
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A workspace with every crate of the table and one more edge, as `cargo metadata` prints it.
    fn workspace(from: &str, to: &str, kind: Option<&str>) -> Vec<Package> {
        let names =
            ARROWS.iter().chain([&ORACLES]).map(|(name, _)| *name).chain(TOOLS.iter().copied());
        let packages: Vec<Value> = names
            .map(|name| {
                let edge = serde_json::json!({"name": to, "kind": kind});
                serde_json::json!({
                    "name": name,
                    "manifest_path": format!("/w/crates/{name}/Cargo.toml"),
                    "publish": if name == ORACLES.0 { Some(Vec::<String>::new()) } else { None },
                    "dependencies": if name == from { vec![edge] } else { vec![] },
                    "targets": [{"kind": ["lib"], "src_path": format!("/w/crates/{name}/src/lib.rs")}],
                })
            })
            .collect();
        parse(serde_json::json!({ "packages": packages }).to_string().as_bytes()).unwrap()
    }

    fn complaints(from: &str, to: &str, kind: Option<&str>) -> usize {
        check(&workspace(from, to, kind)).len()
    }

    #[test]
    fn downward_edges_pass() {
        for (from, to) in [
            ("allhands", "allhands-wire"),
            ("allhands-group", "allhands-collectives"),
            ("allhands-group", "allhands-plan"),
            ("allhands-collectives", "allhands-transport"),
            ("allhands-engine", "allhands-tensor"),
            ("allhands-oracles", "allhands-tensor"),
            ("xtask", "allhands"),
            ("allhands-benches", "allhands-engine"),
        ] {
            assert_eq!(complaints(from, to, None), 0, "{from} -> {to}");
        }
    }

    #[test]
    fn upward_and_sideways_edges_are_found_also_for_tests() {
        for (from, to) in [
            ("allhands-tensor", "allhands-plan"),
            ("allhands-plan", "allhands-wire"),
            ("allhands-wire", "allhands-engine"),
            ("allhands-store", "allhands-wire"),
            ("allhands-transport", "allhands-engine"),
            ("allhands-engine", "allhands-transport"),
            ("allhands-collectives", "allhands-store"),
            ("allhands-collectives", "allhands-group"),
            ("allhands-group", "allhands"),
            ("allhands-group", "xtask"),
            ("allhands-plan", "allhands-benches"),
        ] {
            for kind in [None, Some("dev"), Some("build")] {
                assert_eq!(complaints(from, to, kind), 1, "{from} -> {to}, {kind:?}");
            }
        }
    }

    #[test]
    fn golden_data_is_for_tests_only() {
        assert_eq!(complaints("allhands-group", "allhands-oracles", Some("dev")), 0);
        assert_eq!(complaints("allhands-group", "allhands-oracles", None), 1);
        let mut packages = workspace("", "", None);
        packages.iter_mut().for_each(|package| package.published = true);
        assert_eq!(check(&packages).len(), 1);
    }

    #[test]
    fn pure_crates_take_only_listed_foreign_crates() {
        for name in ["mio", "socket2", "tracing", "rustix", "getrandom"] {
            for (pure, _) in PURE {
                assert_eq!(complaints(pure, name, None), 1, "{pure} -> {name}");
            }
            assert_eq!(complaints("allhands-transport", name, None), 0);
        }
        assert_eq!(complaints("allhands-plan", "thiserror", None), 0);
        assert_eq!(complaints("allhands-plan", "proptest", Some("dev")), 0);
        assert_eq!(complaints("allhands-plan", "proptest", Some("build")), 1);
    }

    #[test]
    fn a_crate_without_a_place_is_found() {
        let mut packages = workspace("", "", None);
        packages[0].name = "allhands-extra".into();
        assert_eq!(check(&packages), ["allhands-extra has no place in the table of crates"]);
    }

    #[test]
    fn the_table_has_no_cycle() {
        for (name, _) in ARROWS {
            assert!(!below(name).unwrap().contains(name), "{name} stands below itself");
        }
    }

    #[test]
    fn a_mute_package_is_found() {
        let mut package = workspace("", "", None).remove(0);
        assert_eq!(undescribed(&package, "", "").len(), 9);
        package.published = false;
        assert_eq!(undescribed(&package, "", "").len(), 3);
        package.published = true;
        package.description = Some("More than twenty letters.".into());
        package.license = Some("MIT".into());
        package.repository = Some("https://example.com".into());
        let manifest = "readme = \"README.md\"\n[lints]\nworkspace = true\n";
        let readme = "# allhands\n```rust\n```\nInvariants: none.\nFeatures: none.\n";
        assert_eq!(undescribed(&package, manifest, readme), Vec::<String>::new());
        assert_eq!(undescribed(&package, manifest, &readme.replace("allhands", "other")).len(), 1);
    }
}
