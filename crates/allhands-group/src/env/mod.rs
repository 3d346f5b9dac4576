//! What a launcher says through environment variables.
//!
//! [`Launch::from_variables`] understands torchrun, Slurm, Open MPI, MPICH and whatever else speaks PMI, PALS, Flux,
//! Kubeflow and indexed jobs of Kubernetes. What each of them sets, where the store is and who serves it stands in
//! [`docs/launchers.md`](https://github.com/allhands-rs/allhands/blob/main/docs/launchers.md).
//!
//! - `RANK` and `WORLD_SIZE` together win over every launcher, and need `MASTER_ADDR` and `MASTER_PORT`.
//! - `MASTER_ADDR` and `MASTER_PORT` alone win over what a launcher says of the store, and are needed where it says
//!   nothing: MPI's launchers, Flux and PALS across hosts.
//! - Launchers that contradict each other are an error; only Slurm yields, because it starts the daemons of others.
//!
//! [`report_error`] tells torchrun why a rank fails.
//!
//! ```
//! use allhands_group::env::{Launch, Launcher};
//!
//! let variables = |name: &str| {
//!     let value = match name {
//!         "SLURM_PROCID" => "5",
//!         "SLURM_STEP_NUM_TASKS" => "8",
//!         "SLURM_STEP_NODELIST" => "node[07-08]",
//!         "SLURM_STEP_ID" => "0",
//!         "SLURM_JOB_ID" => "4711",
//!         _ => return None,
//!     };
//!     Some(value.to_owned())
//! };
//! let launch = Launch::from_variables(&variables)?;
//! assert_eq!((launch.launcher, launch.rank.0, launch.world_size), (Launcher::Slurm, 5, 8));
//! assert_eq!(launch.master, "node07");
//! # Ok::<(), allhands_group::env::EnvError>(())
//! ```

mod error;
mod explicit;
mod flux;
mod hosts;
mod kubernetes;
mod launcher;
mod mpi;
mod pals;
mod port;
mod report;
mod settings;
mod slurm;
mod variables;

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use allhands_plan::{Rank, Table};
use allhands_transport::interface::{Family, InterfaceChoice, Reach};
use allhands_wire::JobKey;

pub use error::EnvError;
pub use launcher::Launcher;
use launcher::{Host, Told};
pub use report::{ERROR_FILE, report_error};
pub use settings::{
    FAMILY, HIERARCHY, INTERFACE, JOB_KEY, JOB_KEY_FILE, RECORD_DIR, RECORD_ENTRIES,
    RENDEZVOUS_TIMEOUT, TABLE, TABLE_BYTES_MAX, TIMEOUT, TRANSPORT,
};
pub use variables::{ProcessEnvironment, Variables};

use crate::config::{Hierarchy, Transport};

/// The variables that start a rank without a launcher: those of torchrun.
pub const REQUIRED: [&str; 4] = ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"];

/// Where ranks meet that are all on one host.
const THIS_HOST: &str = "127.0.0.1";

/// How long a name that does not resolve yet rests before it is looked up again.
const LOOK_UP_AGAIN: Duration = Duration::from_millis(200);

/// Where ranks meet, and who this one is, as the launcher says.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Launch {
    /// Whose variables were taken.
    pub launcher: Launcher,
    /// This rank.
    pub rank: Rank,
    /// Ranks of the job.
    pub world_size: u32,
    /// This rank's place among those that one launcher's daemon started on this host, if it was said: which of its
    /// devices to take.
    pub local_rank: Option<u32>,
    /// Ranks of this host, if it was said.
    pub local_world_size: Option<u32>,
    /// Host name or address of the store.
    pub master: String,
    /// Port of the store.
    pub port: u16,
    /// When the master's name is known to the resolver.
    pub names: Names,
    /// Where the ranks are, as far as the launcher says.
    pub reach: Reach,
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
    /// Which versions of IP to use, if it was said.
    pub family: Option<Family>,
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

/// When names of hosts are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// Before the ranks start: one that does not resolve is wrong.
    Known,
    /// A pod's name appears when the pod does, which may be later than this one.
    Appearing,
}

impl Launch {
    /// What `variables` say. No name is looked up.
    ///
    /// # Errors
    /// See [`EnvError`]; a half-set environment names what is missing.
    pub fn from_variables(variables: &impl Variables) -> Result<Self, EnvError> {
        let told = launcher::find(variables)?;
        check(&told)?;
        let (master, port) = store(variables, &told)?;
        Ok(Self {
            launcher: told.launcher,
            rank: Rank(told.rank.value),
            world_size: told.world_size.value,
            local_rank: told.local_rank.map(|local| local.value),
            local_world_size: told.local_world_size.map(|local| local.value),
            master,
            port,
            names: names(variables),
            reach: reach(&told),
            served_by: match told.launcher {
                Launcher::Explicit => explicit::served_by(variables),
                _ => ServedBy::RankZero,
            },
            job_id: told.job_id,
            restart: told.restart,
            key: settings::key(variables)?,
            interface: settings::interface(variables)?,
            family: settings::family(variables)?,
            timeout: settings::seconds(variables, TIMEOUT)?,
            rendezvous_timeout: settings::seconds(variables, RENDEZVOUS_TIMEOUT)?,
            transport: settings::transport(variables)?,
            hierarchy: settings::hierarchy(variables)?,
            table: settings::table(variables)?,
            record_entries: settings::record_entries(variables)?,
            record_dir: variables.value(RECORD_DIR).map(PathBuf::from),
        })
    }

    /// The store's addresses. Where names appear late, one that does not resolve is looked up again until `limit` is over.
    ///
    /// # Errors
    /// [`EnvError::Resolve`], with what the resolver said last.
    pub fn addresses(&self, limit: Duration) -> Result<Vec<SocketAddr>, EnvError> {
        let start = Instant::now();
        let mut told = false;
        loop {
            match resolve(&self.master, self.port) {
                Err(EnvError::Resolve { reason, .. })
                    if self.names == Names::Appearing && start.elapsed() < limit =>
                {
                    if !std::mem::replace(&mut told, true) {
                        let master = &self.master;
                        tracing::warn!(master, reason, ?limit, "waiting for the master's name");
                    }
                    rest(LOOK_UP_AGAIN.min(limit));
                }
                answer => return answer,
            }
        }
    }
}

impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {} by {}", self.rank.0, self.world_size, self.launcher)?;
        match (self.local_rank, self.local_world_size) {
            (Some(rank), Some(size)) => write!(f, ", {rank} of {size} on its host")?,
            (Some(rank), None) => write!(f, ", {rank} on its host")?,
            (None, Some(size)) => write!(f, ", {size} on its host")?,
            (None, None) => {}
        }
        let by = match self.served_by {
            ServedBy::RankZero => "rank 0",
            ServedBy::Launcher => "the launcher",
        };
        write!(
            f,
            ", job {:?} restart {}, store at {}:{} served by {by}",
            self.job_id.as_deref().unwrap_or("without a name"),
            self.restart,
            self.master,
            self.port
        )
    }
}

/// Refuses numbers that cannot be.
fn check(told: &Told) -> Result<(), EnvError> {
    let pairs =
        [(Some(told.rank), Some(told.world_size)), (told.local_rank, told.local_world_size)];
    for (rank, size) in pairs {
        if let (Some(rank), Some(size)) = (rank, size)
            && rank.value >= size.value
        {
            return Err(EnvError::Rank {
                variable: rank.variable,
                rank: rank.value,
                size_variable: size.variable,
                world_size: size.value,
            });
        }
    }
    match told.local_world_size {
        Some(local) if local.value > told.world_size.value => Err(EnvError::LocalWorldSize {
            variable: local.variable,
            local_world_size: local.value,
            size_variable: told.world_size.variable,
            world_size: told.world_size.value,
        }),
        _ => Ok(()),
    }
}

/// Where the store is: what `MASTER_ADDR` and `MASTER_PORT` say, else the launcher, else what follows from the job.
fn store(variables: &impl Variables, told: &Told) -> Result<(String, u16), EnvError> {
    let (master, port) = match (variables.value("MASTER_ADDR"), &told.host) {
        (Some(master), _) => (master, None),
        (None, Host::Named { host, port }) => (host.clone(), *port),
        (None, Host::This) => (THIS_HOST.to_owned(), None),
        (None, _) if told.together() => (THIS_HOST.to_owned(), None),
        (None, Host::FirstOf { variable, list }) => {
            let first = hosts::expand(list).and_then(|hosts| hosts.into_iter().next());
            let wrong =
                || EnvError::Value { variable, value: list.clone(), expected: hosts::EXPECTED };
            (first.ok_or_else(wrong)?, None)
        }
        (None, Host::Unknown) => {
            return Err(EnvError::NoMaster {
                launcher: told.launcher,
                rank: told.rank.value,
                world_size: told.world_size.value,
            });
        }
    };
    let port = match (variables.value("MASTER_PORT"), port, &told.job_id) {
        (Some(port), ..) => {
            variables::parse::<NonZeroU16>("MASTER_PORT", &port, "a port: 1 to 65535")?.get()
        }
        (None, Some(port), _) => port,
        (None, None, Some(job)) => port::of_job(job),
        (None, None, None) => port::UNNAMED,
    };
    Ok((master, port))
}

/// Where the ranks are. Two agents of torchrun may share a host, and then neither counts the other's ranks.
fn reach(told: &Told) -> Reach {
    match told.launcher {
        _ if told.together() || told.host == Host::This => Reach::ThisHost,
        Launcher::Explicit => Reach::Unknown,
        Launcher::Kubeflow | Launcher::JobSet => Reach::ManyHosts,
        _ if told.local_world_size.is_some() => Reach::ManyHosts,
        _ => Reach::Unknown,
    }
}

/// Whether this is a pod: every pod has this variable, whoever started the rank.
fn names(variables: &impl Variables) -> Names {
    match variables.value("KUBERNETES_SERVICE_HOST") {
        Some(_) => Names::Appearing,
        None => Names::Known,
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

/// Waits without an event: a resolver tells nobody when a name appears.
fn rest(length: Duration) {
    let start = Instant::now();
    while let Some(left) = length.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(master: &str, pod: bool) -> Launch {
        let variables = |name: &str| {
            let value = match name {
                "RANK" => "0",
                "WORLD_SIZE" => "2",
                "MASTER_ADDR" => master,
                "MASTER_PORT" => "29500",
                "KUBERNETES_SERVICE_HOST" if pod => "10.96.0.1",
                _ => return None,
            };
            Some(value.to_owned())
        };
        Launch::from_variables(&variables).unwrap()
    }

    #[test]
    fn addresses_need_no_resolver_and_may_stand_in_brackets() {
        for (master, address) in [("10.0.0.7", "10.0.0.7:29500"), ("[fd00::2]", "[fd00::2]:29500")]
        {
            let found = launch(master, false).addresses(Duration::ZERO).unwrap();
            assert_eq!(found, [address.parse().unwrap()]);
        }
    }

    #[test]
    fn only_the_name_of_a_pod_is_waited_for() {
        let hour = Duration::from_secs(3600);
        for (pod, limit) in [(false, hour), (true, Duration::from_millis(300))] {
            let start = Instant::now();
            let error = launch("no.such.host.invalid", pod).addresses(limit).unwrap_err();
            assert!(error.to_string().contains("does not resolve"), "{error}");
            assert_eq!(start.elapsed() >= limit, pod, "gave up after {:?}", start.elapsed());
        }
    }
}
