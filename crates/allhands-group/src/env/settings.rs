//! What variables say about how a group is made, whoever started its ranks.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use allhands_collectives::RECORD_ENTRIES_MAX;
use allhands_plan::Table;
use allhands_transport::interface::{Family, InterfaceChoice};
use allhands_wire::JobKey;

use super::EnvError;
use super::variables::{Variables, parse};
use crate::config::{Hierarchy, Transport};

/// The job key as 64 hexadecimal digits.
pub const JOB_KEY: &str = "ALLHANDS_JOB_KEY";

/// A file that holds the job key as 64 hexadecimal digits.
pub const JOB_KEY_FILE: &str = "ALLHANDS_JOB_KEY_FILE";

/// Gloo's own choice of an interface.
const GLOO_INTERFACE: &str = "GLOO_SOCKET_IFNAME";

/// Which interface to use, in NCCL's grammar or as a network: the first of these that is set. Plain names in
/// `GLOO_SOCKET_IFNAME` are whole names, as they are for gloo, and not the start of one.
pub const INTERFACE: [&str; 3] = ["ALLHANDS_SOCKET_IFNAME", GLOO_INTERFACE, "NCCL_SOCKET_IFNAME"];

/// Which version of IP to use, `AF_INET` or `AF_INET6`: the first of these that is set.
pub const FAMILY: [&str; 2] = ["ALLHANDS_SOCKET_FAMILY", "NCCL_SOCKET_FAMILY"];

/// How long an operation may take, in seconds.
pub const TIMEOUT: &str = "ALLHANDS_TIMEOUT_SECONDS";

/// How long ranks wait for each other at the start, in seconds.
pub const RENDEZVOUS_TIMEOUT: &str = "ALLHANDS_RENDEZVOUS_TIMEOUT_SECONDS";

/// How ranks of one host reach each other: `auto` or `tcp`.
pub const TRANSPORT: &str = "ALLHANDS_TRANSPORT";

/// Whether algorithms tell hosts apart: `auto` or `off`.
pub const HIERARCHY: &str = "ALLHANDS_HIERARCHY";

/// The file with the table of algorithms, as `cargo xtask tune` writes it. The same on all ranks.
pub const TABLE: &str = "ALLHANDS_TABLE";

/// Most bytes of such a file that are read.
pub const TABLE_BYTES_MAX: u64 = 1 << 20;

/// How many operations the flight record holds; 0 turns it off.
pub const RECORD_ENTRIES: &str = "ALLHANDS_RECORD_ENTRIES";

/// The folder into which each rank writes its flight record when the group fails.
pub const RECORD_DIR: &str = "ALLHANDS_RECORD_DIR";

pub(super) fn seconds(
    variables: &impl Variables,
    name: &'static str,
) -> Result<Option<Duration>, EnvError> {
    let Some(value) = variables.value(name) else { return Ok(None) };
    let expected = "a number of seconds above 0";
    let seconds: f64 = parse(name, &value, expected)?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(limit) if !limit.is_zero() => Ok(Some(limit)),
        _ => Err(EnvError::Value { variable: name, value, expected }),
    }
}

pub(super) fn key(variables: &impl Variables) -> Result<Option<JobKey>, EnvError> {
    if let Some(hex) = variables.value(JOB_KEY) {
        let key = JobKey::from_hex(hex.trim());
        return key.map(Some).map_err(|source| EnvError::Key { variable: JOB_KEY, source });
    }
    let Some(path) = variables.value(JOB_KEY_FILE).map(PathBuf::from) else { return Ok(None) };
    let text = std::fs::read_to_string(&path)
        .map_err(|error| EnvError::KeyFile { path, reason: error.to_string() })?;
    let key = JobKey::from_hex(text.trim());
    key.map(Some).map_err(|source| EnvError::Key { variable: JOB_KEY_FILE, source })
}

/// The choice that a variable names, among those that there are.
fn choice<T: Copy>(
    variables: &impl Variables,
    variable: &'static str,
    choices: &[(&str, T)],
    expected: &'static str,
) -> Result<Option<T>, EnvError> {
    let Some(value) = variables.value(variable) else { return Ok(None) };
    match choices.iter().find(|(name, _)| *name == value.trim()) {
        Some(&(_, chosen)) => Ok(Some(chosen)),
        None => Err(EnvError::Value { variable, value, expected }),
    }
}

pub(super) fn transport(variables: &impl Variables) -> Result<Option<Transport>, EnvError> {
    let choices = [Transport::Auto, Transport::Tcp].map(|transport| (transport.name(), transport));
    choice(variables, TRANSPORT, &choices, "auto or tcp")
}

pub(super) fn hierarchy(variables: &impl Variables) -> Result<Option<Hierarchy>, EnvError> {
    let choices = [("auto", Hierarchy::Auto), ("off", Hierarchy::Off)];
    choice(variables, HIERARCHY, &choices, "auto or off")
}

pub(super) fn record_entries(variables: &impl Variables) -> Result<Option<usize>, EnvError> {
    let Some(value) = variables.value(RECORD_ENTRIES) else { return Ok(None) };
    let expected = "a number of operations up to 1048576";
    match parse(RECORD_ENTRIES, &value, expected)? {
        entries if entries <= RECORD_ENTRIES_MAX => Ok(Some(entries)),
        _ => Err(EnvError::Value { variable: RECORD_ENTRIES, value, expected }),
    }
}

pub(super) fn table(variables: &impl Variables) -> Result<Option<Table>, EnvError> {
    let Some(path) = variables.value(TABLE).map(PathBuf::from) else { return Ok(None) };
    let mut text = String::new();
    let read =
        File::open(&path).and_then(|file| file.take(TABLE_BYTES_MAX + 1).read_to_string(&mut text));
    let reason = match read {
        Err(error) => error.to_string(),
        Ok(_) if text.len() as u64 > TABLE_BYTES_MAX => {
            format!("it is longer than {TABLE_BYTES_MAX} bytes")
        }
        Ok(_) => {
            let table = text.parse().map(Some);
            return table.map_err(|source| EnvError::Table { path, source });
        }
    };
    Err(EnvError::TableFile { path, reason })
}

pub(super) fn interface(variables: &impl Variables) -> Result<Option<InterfaceChoice>, EnvError> {
    for variable in INTERFACE {
        if let Some(value) = variables.value(variable) {
            let choice = match exact(variable, &value) {
                Some(names) => names.parse(),
                None => value.parse(),
            };
            return choice.map(Some).map_err(|source| EnvError::Interface {
                variable,
                value: value.clone(),
                source,
            });
        }
    }
    Ok(None)
}

/// Names in gloo's variable are whole, as gloo has it: its `eth1` is not `eth10`.
fn exact(variable: &str, value: &str) -> Option<String> {
    let plain = !value.trim_start().starts_with(['^', '=']);
    (variable == GLOO_INTERFACE && plain).then(|| format!("={}", value.trim()))
}

pub(super) fn family(variables: &impl Variables) -> Result<Option<Family>, EnvError> {
    let choices = [("AF_INET", Family::V4), ("AF_INET6", Family::V6)];
    for variable in FAMILY {
        let family = choice(variables, variable, &choices, "AF_INET or AF_INET6")?;
        if family.is_some() {
            return Ok(family);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Launch;

    const RANK: [(&str, &str); 4] = [
        ("RANK", "2"),
        ("WORLD_SIZE", "4"),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", "29500"),
    ];

    /// The launch of a rank that has these variables, too.
    fn with(more: &[(&str, &str)]) -> Result<Launch, EnvError> {
        Launch::from_variables(&|name: &str| {
            let found = RANK.iter().chain(more).find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn what_is_not_set_is_left_to_the_config() {
        let launch = with(&[]).unwrap();
        assert_eq!((launch.interface, launch.family, launch.timeout), (None, None, None));
        assert_eq!((launch.rendezvous_timeout, launch.transport), (None, None));
        assert_eq!((launch.hierarchy, launch.table), (None, None));
        assert!(launch.key.is_none());
    }

    #[test]
    fn the_flight_record_is_as_long_and_goes_where_the_variables_say() {
        let before = with(&[]).unwrap();
        assert_eq!((before.record_entries, before.record_dir), (None, None));
        let said = with(&[(RECORD_ENTRIES, "0"), (RECORD_DIR, "/var/records")]).unwrap();
        assert_eq!(said.record_entries, Some(0));
        assert_eq!(said.record_dir.as_deref(), Some(std::path::Path::new("/var/records")));
    }

    #[test]
    fn nonsense_is_refused_with_its_value() {
        let refused = |name, value| with(&[(name, value)]).unwrap_err().to_string();
        assert!(refused("ALLHANDS_JOB_KEY", "abc").contains("ALLHANDS_JOB_KEY"));
        assert!(refused("ALLHANDS_JOB_KEY_FILE", "/no/file").contains("ALLHANDS_JOB_KEY_FILE"));
        assert!(refused("ALLHANDS_TIMEOUT_SECONDS", "0").contains("above 0"));
        assert!(refused("ALLHANDS_TRANSPORT", "pigeon").contains("\"pigeon\" is not auto or tcp"));
        assert!(refused("ALLHANDS_HIERARCHY", "on").contains("\"on\" is not auto or off"));
        assert!(refused("ALLHANDS_RECORD_ENTRIES", "-1").contains("\"-1\" is not a number of"));
        assert!(refused("ALLHANDS_RECORD_ENTRIES", "1048577").contains("up to 1048576"));
        assert!(refused("GLOO_SOCKET_IFNAME", "10.0.0.0/40").contains("GLOO_SOCKET_IFNAME"));
        let error = refused("NCCL_SOCKET_FAMILY", "IPv6");
        assert!(
            error.contains("NCCL_SOCKET_FAMILY=\"IPv6\" is not AF_INET or AF_INET6"),
            "{error}"
        );
    }

    #[test]
    fn interfaces_are_read_in_the_grammar_of_their_variable() {
        let choice = |pairs: &[(&str, &str)]| with(pairs).unwrap().interface.unwrap().to_string();
        let (ours, gloo, nccl) = (INTERFACE[0], INTERFACE[1], INTERFACE[2]);
        assert_eq!(choice(&[(nccl, "eth,ib")]), "eth,ib");
        assert_eq!(choice(&[(gloo, "eth1, ib0"), (nccl, "eth")]), "=eth1,ib0");
        assert_eq!(choice(&[(gloo, "^docker")]), "^docker");
        assert_eq!(choice(&[(gloo, "=eth1")]), "=eth1");
        assert_eq!(choice(&[(gloo, "10.0.0.0/8")]), "10.0.0.0/8");
        assert_eq!(choice(&[(ours, "eth"), (gloo, "ib0")]), "eth");
        let family = |pairs: &[(&str, &str)]| with(pairs).unwrap().family;
        assert_eq!(family(&[(FAMILY[1], "AF_INET6")]), Some(Family::V6));
        assert_eq!(family(&[(FAMILY[0], "AF_INET"), (FAMILY[1], "AF_INET6")]), Some(Family::V4));
    }

    #[test]
    fn a_table_comes_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("table");
        let with_table = || with(&[("ALLHANDS_TABLE", file.to_str().unwrap())]);
        let error = with_table().unwrap_err();
        assert!(matches!(error, EnvError::TableFile { .. }), "{error}");
        std::fs::write(&file, Table::network().to_string()).unwrap();
        assert_eq!(with_table().unwrap().table, Some(Table::network()));
        std::fs::write(&file, "allhands-table 1\nall_reduce any any rings").unwrap();
        let error = with_table().unwrap_err().to_string();
        assert!(error.contains("line 2: \"rings\" is not an algorithm"), "{error}");
        std::fs::write(&file, "#".repeat(TABLE_BYTES_MAX as usize + 1)).unwrap();
        let error = with_table().unwrap_err().to_string();
        assert!(error.contains("longer than 1048576 bytes"), "{error}");
    }
}
