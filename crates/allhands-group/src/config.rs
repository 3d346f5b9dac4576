//! How a process group is made.

use std::time::Duration;

use allhands_collectives::{DEFAULT_TIMEOUT, RecordConfig, Selection};
use allhands_plan::{Determinism, Locality, Table};
use allhands_transport::tcp::TcpConfig;
use allhands_wire::JobKey;

/// How long ranks wait for each other at the start unless told otherwise, as in torch.distributed.
pub const DEFAULT_RENDEZVOUS_TIMEOUT: Duration = Duration::from_secs(300);

/// How a process group is made. All ranks use the same, but for the interface.
///
/// ```
/// use std::time::Duration;
/// use allhands_group::Config;
///
/// let config = Config { timeout: Duration::from_secs(60), ..Config::default() };
/// assert_eq!(config.name, "world");
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    /// The group's name in errors and traces.
    pub name: String,
    /// The job. Ranks of different jobs turn each other away.
    pub job_id: String,
    /// The generation of the job: a restarted job does not meet its predecessor's stragglers.
    pub epoch: u32,
    /// The job's secret. Without one, rank 0 draws a key and publishes it in the store: that keeps out
    /// strays and other jobs, but is no authentication.
    pub key: Option<JobKey>,
    /// How long an operation may take.
    pub timeout: Duration,
    /// How long ranks wait for each other at the start.
    pub rendezvous_timeout: Duration,
    /// How often a sign of life is sent to every peer.
    pub heartbeat: Duration,
    /// How long a peer may be silent before it counts as lost. A process that dies is noticed at once;
    /// this is for hosts and links that vanish and for processes that are stopped.
    pub peer_timeout: Duration,
    /// How ranks of one host reach each other. Must be equal on all ranks.
    pub transport: Transport,
    /// Interface, ports and buffers.
    pub tcp: TcpConfig,
    /// Which algorithm at which size.
    pub table: TableChoice,
    /// What the results of reductions must have in common.
    pub determinism: Determinism,
    /// Whether algorithms tell hosts apart. Must be equal on all ranks.
    pub hierarchy: Hierarchy,
    /// How many operations the flight record holds, and where it goes when the group fails.
    pub record: RecordConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "world".to_owned(),
            job_id: "default".to_owned(),
            epoch: 0,
            key: None,
            timeout: DEFAULT_TIMEOUT,
            rendezvous_timeout: DEFAULT_RENDEZVOUS_TIMEOUT,
            heartbeat: Duration::from_millis(500),
            peer_timeout: Duration::from_secs(5),
            transport: Transport::default(),
            tcp: TcpConfig::default(),
            table: TableChoice::default(),
            determinism: Determinism::default(),
            hierarchy: Hierarchy::default(),
            record: RecordConfig::default(),
        }
    }
}

/// How ranks of one host reach each other. Ranks of different hosts always use TCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transport {
    /// Shared memory where the system allows it; where it does not, TCP, with a warning in the log.
    #[default]
    Auto,
    /// TCP, as between hosts.
    Tcp,
}

impl Transport {
    /// The name that the environment has for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Tcp => "tcp",
        }
    }

    /// A stable number.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Auto => 0,
            Self::Tcp => 1,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        [Self::Auto, Self::Tcp].into_iter().find(|transport| transport.code() == code)
    }
}

/// Whether collectives of ranks on several hosts, some of which are shared, go inside the hosts first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hierarchy {
    /// Where the table says so: long all-reduces do. The order in which they combine depends on which ranks share
    /// a host, unless [`Determinism::Canonical`] is asked for.
    #[default]
    Auto,
    /// Never: every rank is treated alike.
    Off,
}

/// Which table of algorithms a group uses.
#[derive(Clone, Debug, Default)]
pub enum TableChoice {
    /// The one for where the ranks are: all on one host, each on its own, or some together.
    #[default]
    Auto,
    /// This one; all ranks must pass the same.
    Given(Table),
}

impl Config {
    pub(crate) fn selection(&self, spread: Spread, locality: Option<Locality>) -> Selection {
        let locality = match self.hierarchy {
            Hierarchy::Auto => locality,
            Hierarchy::Off => None,
        };
        let mixed = locality.as_ref().is_some_and(Locality::is_mixed);
        let table = match (&self.table, spread) {
            (TableChoice::Given(table), _) => table.clone(),
            (TableChoice::Auto, Spread::OneMemory) => Table::shared_memory(),
            (TableChoice::Auto, Spread::OneHost) => Table::tcp_loopback(),
            (TableChoice::Auto, Spread::ManyHosts) if mixed => Table::hosts(),
            (TableChoice::Auto, Spread::ManyHosts) => Table::network(),
        };
        Selection { table, determinism: self.determinism, locality }
    }
}

/// Where the ranks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spread {
    /// All on one host, sharing memory.
    OneMemory,
    OneHost,
    ManyHosts,
}
