//! What launchers set, and what becomes of it: `tests/environments/LAUNCHER.json` holds environments as they were recorded,
//! variants of them, and the launch or the error that each has to end in.
#![allow(missing_docs, reason = "test code")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use allhands_group::env::{EnvError, Launch};
use serde::Deserialize;
use serde_json::{Value, json};

type Variables = BTreeMap<String, String>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// Where the environments are from.
    source: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// All variables that matter; else those of another case, and what is different.
    variables: Option<Variables>,
    like: Option<String>,
    #[serde(default)]
    change: BTreeMap<String, Option<String>>,
    /// What the launch says, or all of it if the variables are listed. Port 0 stands for the one that follows from the job.
    becomes: Option<BTreeMap<String, Value>>,
    /// What the error says.
    error: Option<Vec<String>>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/environments")
}

/// Every case with its name and its variables.
fn cases() -> Vec<(String, Variables, Case)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let table: Table = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(!table.source.is_empty(), "{file}");
        let mut known: BTreeMap<String, Variables> = BTreeMap::new();
        for case in table.cases {
            let mut variables = match (&case.variables, &case.like) {
                (Some(variables), None) => variables.clone(),
                (None, Some(like)) => known[like].clone(),
                _ => panic!("{file}, {}: either `variables` or `like`", case.name),
            };
            for (name, value) in &case.change {
                match value {
                    Some(value) => variables.insert(name.clone(), value.clone()),
                    None => variables.remove(name),
                };
            }
            let name = format!("{file}, {}", case.name);
            assert!(known.insert(case.name.clone(), variables.clone()).is_none(), "{name} twice");
            all.push((name, variables, case));
        }
    }
    all
}

fn launch(variables: &Variables) -> Result<Launch, EnvError> {
    Launch::from_variables(&|name: &str| variables.get(name).cloned())
}

fn told(launch: &Launch) -> BTreeMap<String, Value> {
    let Value::Object(told) = json!({
        "launcher": format!("{:?}", launch.launcher),
        "rank": launch.rank.0,
        "world_size": launch.world_size,
        "local_rank": launch.local_rank,
        "local_world_size": launch.local_world_size,
        "master": launch.master,
        "port": launch.port,
        "names": format!("{:?}", launch.names),
        "reach": format!("{:?}", launch.reach),
        "served_by": format!("{:?}", launch.served_by),
        "job_id": launch.job_id,
        "restart": launch.restart,
    }) else {
        panic!("an object");
    };
    told.into_iter().collect()
}

#[test]
fn every_environment_becomes_what_its_table_says() {
    let mut count = 0;
    for (name, variables, case) in cases() {
        count += 1;
        match (launch(&variables), &case.becomes, &case.error) {
            (Ok(launch), Some(becomes), None) => {
                let told = told(&launch);
                if case.variables.is_some() {
                    let silent = told.keys().filter(|key| !becomes.contains_key(*key));
                    let silent: Vec<_> = silent.filter(|key| *key != "names").collect();
                    assert!(silent.is_empty(), "{name}: {silent:?} are not in the table");
                }
                for (key, value) in becomes {
                    let follows = key == "port" && value == 0;
                    if follows {
                        let job = launch.job_id.as_deref().unwrap_or_default();
                        assert!((20_000..29_391).contains(&launch.port), "{name}: {job}");
                    } else {
                        assert_eq!(&told[key], value, "{name}: {key}");
                    }
                }
                let text = launch.to_string();
                let start = format!("rank {} of {} by ", launch.rank.0, launch.world_size);
                assert!(text.starts_with(&start), "{name}: {text}");
            }
            (Err(error), None, Some(parts)) => {
                let text = error.to_string();
                for part in parts {
                    assert!(text.contains(part), "{name}: {part:?} is not in: {text}");
                }
            }
            (Ok(launch), ..) => panic!("{name}: is {launch}"),
            (Err(error), ..) => panic!("{name}: {error}"),
        }
    }
    assert!(count > 80, "{count} cases");
}

#[test]
fn all_ranks_of_a_job_meet_in_one_place() {
    let mut jobs: BTreeMap<(String, u16), String> = BTreeMap::new();
    for (name, variables, case) in cases() {
        let (Some(_), Ok(first)) = (&case.becomes, launch(&variables)) else { continue };
        // The variables in which the ranks of a job differ, as those of rank 0 would have them.
        let mut zero = variables.clone();
        for (variable, value) in &mut zero {
            let own = variable.ends_with("RANK")
                || variable.ends_with("PROCID")
                || variable.ends_with("RANKID")
                || ["SLURM_LOCALID", "FLUX_TASK_LOCAL_ID", "JOB_COMPLETION_INDEX"]
                    .contains(&variable.as_str());
            if own {
                "0".clone_into(value);
            }
        }
        let zero = launch(&zero).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(zero.rank.0, 0, "{name}");
        let place = |launch: &Launch| (launch.master.clone(), launch.port, launch.job_id.clone());
        assert_eq!(place(&zero), place(&first), "{name}");
        if let Some(job) = &first.job_id
            && !variables.contains_key("MASTER_PORT")
        {
            let other = jobs.insert((first.master.clone(), first.port), job.clone());
            assert!(other.is_none_or(|other| other == *job), "{name}: two jobs at one place");
        }
    }
    assert!(jobs.len() > 5, "{jobs:?}");
}

#[test]
fn four_variables_by_hand_win_over_every_launcher() {
    for (name, mut variables, _) in cases() {
        let explicit = [
            ("RANK", "6"),
            ("WORLD_SIZE", "7"),
            ("MASTER_ADDR", "192.0.2.1"),
            ("MASTER_PORT", "4242"),
            ("LOCAL_RANK", "0"),
            ("LOCAL_WORLD_SIZE", "1"),
            ("TORCHELASTIC_RESTART_COUNT", "1"),
        ];
        variables.extend(explicit.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let launch = launch(&variables).unwrap_or_else(|error| panic!("{name}: {error}"));
        let told = (launch.rank.0, launch.world_size, &*launch.master, launch.port, launch.restart);
        assert_eq!(told, (6, 7, "192.0.2.1", 4242, 1), "{name}");
    }
}

#[test]
fn no_variable_that_is_missing_or_broken_is_passed_over_in_a_senseless_way() {
    let broken = [None, Some(""), Some("x"), Some("-1"), Some("4294967296"), Some("0"), Some("[")];
    for (name, variables, _) in cases() {
        for variable in variables.keys() {
            for value in broken {
                let mut variables = variables.clone();
                match value {
                    Some(value) => variables.insert(variable.clone(), value.to_owned()),
                    None => variables.remove(variable),
                };
                match launch(&variables) {
                    Ok(launch) => {
                        assert!(launch.rank.0 < launch.world_size, "{name}: {variable}={value:?}");
                        assert!(launch.port > 0 && !launch.master.is_empty(), "{name}: {variable}");
                        let local = launch.local_rank.zip(launch.local_world_size);
                        assert!(local.is_none_or(|(rank, size)| rank < size), "{name}: {variable}");
                    }
                    Err(error) => {
                        let text = error.to_string();
                        assert!(text.len() > 20 && !text.contains('\n'), "{name}: {text}");
                    }
                }
            }
        }
    }
}
