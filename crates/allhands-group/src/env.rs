//! What a launcher says through environment variables.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use allhands_collectives::RECORD_ENTRIES_MAX;
use allhands_plan::{Rank, Table, TableError};
use allhands_transport::interface::{InterfaceChoice, InterfaceError};
use allhands_wire::{JobKey, KeyError};

use crate::config::{Hierarchy, Transport};

/// The variables that a launcher must set: those of torchrun.
pub const REQUIRED: [&str; 4] = ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"];

/// The job key as 64 hexadecimal digits.
pub const JOB_KEY: &str = "ALLHANDS_JOB_KEY";

/// A file that holds the job key as 64 hexadecimal digits.
pub const JOB_KEY_FILE: &str = "ALLHANDS_JOB_KEY_FILE";

/// Which interface to use, in NCCL's grammar or as a network; then `GLOO_SOCKET_IFNAME`, then
/// `NCCL_SOCKET_IFNAME` are looked at.
pub const INTERFACE: [&str; 3] =
    ["ALLHANDS_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"];

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

/// Where ranks meet, and who this one is, as the launcher says.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Launch {
    /// This rank.
    pub rank: Rank,
    /// Ranks of the job.
    pub world_size: u32,
    /// Host name or address of the store.
    pub master: String,
    /// Port of the store.
    pub port: u16,
    /// The store's addresses, resolved.
    pub addresses: Vec<SocketAddr>,
    /// Whether the launcher serves the store; else rank 0 does.
    pub served_by: ServedBy,
    /// Name of the job, if it was said: ranks of different jobs turn each other away.
    pub job_id: Option<String>,
    /// How often the job was restarted.
    pub restart: u32,
    /// The configured key, if there is one.
    pub key: Option<JobKey>,
    /// Which interface to use, if it was said.
    pub interface: Option<InterfaceChoice>,
    /// How long an operation may take, if it was said.
    pub timeout: Option<Duration>,
    /// How long ranks wait for each other, if it was said.
    pub rendezvous_timeout: Option<Duration>,
    /// How ranks of one host reach each other, if it was said.
    pub transport: Option<Transport>,
    /// Whether algorithms tell hosts apart, if it was said.
    pub hierarchy: Option<Hierarchy>,
    /// Which algorithm at which size, if a file was named.
    pub table: Option<Table>,
    /// How many operations the flight record holds, if it was said.
    pub record_entries: Option<usize>,
    /// Where the flight record goes when the group fails, if it was said.
    pub record_dir: Option<PathBuf>,
}

/// Who runs the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServedBy {
    /// Rank 0 of the job.
    RankZero,
    /// The launcher: every rank is a client.
    Launcher,
}

/// What is wrong with the environment.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnvError {
    /// Nothing is set.
    #[error(
        "none of RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT is set; start this program with a launcher \
         (`torchrun --no-python`), set the four variables for each rank, or use ProcessGroup::connect"
    )]
    NoLauncher,
    /// Some variables are set and others are not.
    #[error(
        "{} set but {} not; set all of RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT for each rank",
        are(set),
        are(missing)
    )]
    HalfSet {
        /// What is set.
        set: Vec<&'static str>,
        /// What is missing.
        missing: Vec<&'static str>,
    },
    /// A variable holds something that makes no sense.
    #[error("{variable}={value:?} is not {expected}")]
    Value {
        /// Which.
        variable: &'static str,
        /// What it holds.
        value: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// The rank is not below the world size.
    #[error("RANK={rank} does not exist in WORLD_SIZE={world_size}; ranks count from 0")]
    Rank {
        /// The rank.
        rank: u32,
        /// The world size.
        world_size: u32,
    },
    /// The master's name does not resolve.
    #[error(
        "MASTER_ADDR={master:?} does not resolve: {reason}; use an address, or a name known to every host"
    )]
    Resolve {
        /// The name.
        master: String,
        /// What the resolver said.
        reason: String,
    },
    /// The job key is not one.
    #[error("{variable}: {source}")]
    Key {
        /// Where it came from.
        variable: &'static str,
        /// What is wrong.
        source: KeyError,
    },
    /// The key file cannot be read.
    #[error("{JOB_KEY_FILE}={}: {reason}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// The table cannot be read.
    #[error("{TABLE}={}: {reason}", path.display())]
    TableFile {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// The table makes no sense.
    #[error("{TABLE}={}: {source}", path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// What is wrong, and in which line.
        source: TableError,
    },
    /// The interface choice does not parse.
    #[error("{variable}={value:?}: {source}")]
    Interface {
        /// Which variable.
        variable: &'static str,
        /// What it holds.
        value: String,
        /// What is wrong.
        source: InterfaceError,
    },
}

fn are(names: &[&str]) -> String {
    match names {
        [one] => format!("{one} is"),
        names => format!("{} are", names.join(", ")),
    }
}

/// Reads a variable; `None` if it is not set or empty.
pub trait Variables {
    /// The value of `name`.
    fn value(&self, name: &str) -> Option<String>;
}

/// The variables of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnvironment;

impl Variables for ProcessEnvironment {
    fn value(&self, name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|value| !value.is_empty())
    }
}

impl<F: Fn(&str) -> Option<String>> Variables for F {
    fn value(&self, name: &str) -> Option<String> {
        self(name).filter(|value| !value.is_empty())
    }
}

fn number<T: std::str::FromStr>(
    variable: &'static str,
    value: &str,
    expected: &'static str,
) -> Result<T, EnvError> {
    value.trim().parse().map_err(|_| EnvError::Value {
        variable,
        value: value.to_owned(),
        expected,
    })
}

fn seconds(variables: &impl Variables, name: &'static str) -> Result<Option<Duration>, EnvError> {
    let Some(value) = variables.value(name) else { return Ok(None) };
    let expected = "a number of seconds above 0";
    let seconds: f64 = number(name, &value, expected)?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(limit) if !limit.is_zero() => Ok(Some(limit)),
        _ => Err(EnvError::Value { variable: name, value, expected }),
    }
}

impl Launch {
    /// What `variables` say.
    ///
    /// # Errors
    /// See [`EnvError`]; a half-set environment names what is missing.
    pub fn from_variables(variables: &impl Variables) -> Result<Self, EnvError> {
        let values = REQUIRED.map(|name| variables.value(name));
        let [Some(rank), Some(world_size), Some(master), Some(port)] = &values else {
            let (mut set, mut missing) = (Vec::new(), Vec::new());
            for (name, value) in REQUIRED.into_iter().zip(&values) {
                if value.is_some() { &mut set } else { &mut missing }.push(name);
            }
            return Err(match set.is_empty() {
                true => EnvError::NoLauncher,
                false => EnvError::HalfSet { set, missing },
            });
        };
        let rank: u32 = number("RANK", rank, "a rank: a whole number from 0")?;
        let world_size: u32 = number("WORLD_SIZE", world_size, "a number of ranks")?;
        let port: u16 = number("MASTER_PORT", port, "a port: 1 to 65535")?;
        if rank >= world_size {
            return Err(EnvError::Rank { rank, world_size });
        }
        let addresses = resolve(master, port)?;
        let served_by = match variables.value("TORCHELASTIC_USE_AGENT_STORE").as_deref() {
            Some("True" | "true" | "1") => ServedBy::Launcher,
            _ => ServedBy::RankZero,
        };
        let restart = match variables.value("TORCHELASTIC_RESTART_COUNT") {
            Some(value) => number("TORCHELASTIC_RESTART_COUNT", &value, "a whole number")?,
            None => 0,
        };
        Ok(Self {
            rank: Rank(rank),
            world_size,
            master: master.clone(),
            port,
            addresses,
            served_by,
            // What torchrun says when it was not given a name either.
            job_id: variables.value("TORCHELASTIC_RUN_ID").filter(|id| id != "none"),
            restart,
            key: key(variables)?,
            interface: interface(variables)?,
            timeout: seconds(variables, TIMEOUT)?,
            rendezvous_timeout: seconds(variables, RENDEZVOUS_TIMEOUT)?,
            transport: transport(variables)?,
            hierarchy: hierarchy(variables)?,
            table: table(variables)?,
            record_entries: record_entries(variables)?,
            record_dir: variables.value(RECORD_DIR).map(PathBuf::from),
        })
    }

    /// The store's first address.
    #[must_use]
    pub fn master_address(&self) -> Option<IpAddr> {
        self.addresses.first().map(SocketAddr::ip)
    }
}

impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = match self.served_by {
            ServedBy::RankZero => "rank 0",
            ServedBy::Launcher => "the launcher",
        };
        write!(
            f,
            "rank {} of {}, job {:?} restart {}, store at {}:{} served by {by}",
            self.rank.0,
            self.world_size,
            self.job_id.as_deref().unwrap_or("without a name"),
            self.restart,
            self.master,
            self.port
        )
    }
}

fn resolve(master: &str, port: u16) -> Result<Vec<SocketAddr>, EnvError> {
    let failed = |reason: String| EnvError::Resolve { master: master.to_owned(), reason };
    let bare = master.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let found: Vec<_> =
        (master, port).to_socket_addrs().map_err(|error| failed(error.to_string()))?.collect();
    if found.is_empty() { Err(failed("no address".to_owned())) } else { Ok(found) }
}

fn key(variables: &impl Variables) -> Result<Option<JobKey>, EnvError> {
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

fn transport(variables: &impl Variables) -> Result<Option<Transport>, EnvError> {
    let choices = [Transport::Auto, Transport::Tcp].map(|transport| (transport.name(), transport));
    choice(variables, TRANSPORT, &choices, "auto or tcp")
}

fn hierarchy(variables: &impl Variables) -> Result<Option<Hierarchy>, EnvError> {
    let choices = [("auto", Hierarchy::Auto), ("off", Hierarchy::Off)];
    choice(variables, HIERARCHY, &choices, "auto or off")
}

fn record_entries(variables: &impl Variables) -> Result<Option<usize>, EnvError> {
    let Some(value) = variables.value(RECORD_ENTRIES) else { return Ok(None) };
    let expected = "a number of operations up to 1048576";
    match number(RECORD_ENTRIES, &value, expected)? {
        entries if entries <= RECORD_ENTRIES_MAX => Ok(Some(entries)),
        _ => Err(EnvError::Value { variable: RECORD_ENTRIES, value, expected }),
    }
}

fn table(variables: &impl Variables) -> Result<Option<Table>, EnvError> {
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

fn interface(variables: &impl Variables) -> Result<Option<InterfaceChoice>, EnvError> {
    for variable in INTERFACE {
        if let Some(value) = variables.value(variable) {
            return value.parse().map(Some).map_err(|source| EnvError::Interface {
                variable,
                value: value.clone(),
                source,
            });
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(pairs: &[(&str, &str)]) -> Result<Launch, EnvError> {
        let find = |name: &str| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        Launch::from_variables(&find)
    }

    const TORCHRUN: [(&str, &str); 7] = [
        ("RANK", "2"),
        ("WORLD_SIZE", "4"),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", "29500"),
        ("TORCHELASTIC_USE_AGENT_STORE", "True"),
        ("TORCHELASTIC_RESTART_COUNT", "3"),
        ("TORCHELASTIC_RUN_ID", "job-7"),
    ];

    #[test]
    fn torchrun_serves_the_store_itself() {
        let launch = launch(&TORCHRUN).unwrap();
        assert_eq!((launch.rank, launch.world_size, launch.port), (Rank(2), 4, 29500));
        assert_eq!(launch.served_by, ServedBy::Launcher);
        assert_eq!((launch.job_id.as_deref(), launch.restart), (Some("job-7"), 3));
    }

    #[test]
    fn plain_variables_leave_the_store_to_rank_zero_and_the_rest_to_the_config() {
        let launch = launch(&TORCHRUN[..4]).unwrap();
        assert_eq!(launch.served_by, ServedBy::RankZero);
        assert_eq!((launch.job_id, launch.interface), (None, None));
    }

    #[test]
    fn a_half_set_environment_names_what_is_missing() {
        let error = launch(&TORCHRUN[..2]).unwrap_err().to_string();
        assert!(error.contains("MASTER_ADDR, MASTER_PORT are not"), "{error}");
        assert!(matches!(launch(&[]), Err(EnvError::NoLauncher)));
    }

    #[test]
    fn nonsense_is_refused_with_its_value() {
        let with = |name: &'static str, value: &'static str| {
            let mut pairs = TORCHRUN.to_vec();
            pairs.retain(|(key, _)| *key != name);
            pairs.push((name, value));
            launch(&pairs).unwrap_err().to_string()
        };
        assert!(with("RANK", "4").contains("RANK=4 does not exist in WORLD_SIZE=4"));
        assert!(with("RANK", "-1").contains("\"-1\""));
        assert!(with("WORLD_SIZE", "many").contains("\"many\""));
        assert!(with("MASTER_PORT", "70000").contains("MASTER_PORT"));
        assert!(with("MASTER_ADDR", "no.such.host.invalid").contains("does not resolve"));
        assert!(with("ALLHANDS_JOB_KEY", "abc").contains("ALLHANDS_JOB_KEY"));
        assert!(with("ALLHANDS_TIMEOUT_SECONDS", "0").contains("above 0"));
        assert!(with("ALLHANDS_TRANSPORT", "pigeon").contains("\"pigeon\" is not auto or tcp"));
        assert!(with("ALLHANDS_HIERARCHY", "on").contains("\"on\" is not auto or off"));
        assert!(
            with("ALLHANDS_RECORD_ENTRIES", "-1").contains("\"-1\" is not a number of operations")
        );
        assert!(with("ALLHANDS_RECORD_ENTRIES", "1048577").contains("up to 1048576"));
        assert!(with("GLOO_SOCKET_IFNAME", "10.0.0.0/40").contains("GLOO_SOCKET_IFNAME"));
    }

    #[test]
    fn the_flight_record_is_as_long_and_goes_where_the_variables_say() {
        let mut pairs = TORCHRUN.to_vec();
        let before = launch(&pairs).unwrap();
        assert_eq!((before.record_entries, before.record_dir), (None, None));
        pairs.extend([("ALLHANDS_RECORD_ENTRIES", "0"), ("ALLHANDS_RECORD_DIR", "/var/records")]);
        let said = launch(&pairs).unwrap();
        assert_eq!(said.record_entries, Some(0));
        assert_eq!(said.record_dir.as_deref(), Some(std::path::Path::new("/var/records")));
    }

    #[test]
    fn a_table_comes_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("table");
        let path = file.to_str().unwrap();
        let with_table = || {
            let mut pairs = TORCHRUN.to_vec();
            pairs.push(("ALLHANDS_TABLE", path));
            launch(&pairs)
        };
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
        assert_eq!(launch(&TORCHRUN).unwrap().table, None);
    }
}
