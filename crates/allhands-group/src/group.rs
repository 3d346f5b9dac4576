//! A process group: how it comes up, and what it knows of itself.

use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use allhands_collectives::{
    Board, CallOptions, Communicator, Cores, FlightRecord, Mesh, MeshConfig, Processors,
};
use allhands_engine::GroupSpec;
use allhands_plan::{Locality, Rank, WORLD_MAX};
use allhands_store::{
    ClientOptions, Endpoint as StoreEndpoint, PrefixStore, ServerOptions, Store, StoreError,
    TcpStore,
};
use allhands_tensor::{DType, Tensor, TensorError};
use allhands_transport::interface::{Reach, Wish, choose, look_around};
use allhands_transport::tcp::{Endpoint, Listener, Membership, TcpConfig};
use allhands_transport::{Control, Links, TransportError, local};
use allhands_wire::{JobKey, Peer};

use crate::config::{Config, Spread, TableChoice, Transport};
use crate::env::{Launch, ProcessEnvironment, ServedBy};
use crate::error::Error;
use crate::memory::{self, Memory};

/// Longest wait that a moment is computed for; a longer limit means "never".
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Ranks that run operations together.
///
/// A cheap handle: clones name the same group, and [`ProcessGroup::with_timeout`] gives one whose operations have
/// another limit. When the last handle and the last [`Work`](crate::Work) are gone, everything sent is
/// delivered, the peers are told, and the connections close.
///
/// Blocking verbs borrow their buffers and move the bytes on the calling thread; `_async` verbs take tensors
/// and give them back. All ranks must issue the same operations in the same order.
///
/// # Forks
/// Running another program ([`std::process::Command`]) concerns no group: it inherits nothing of one. A fork without `exec` copies the
/// handles, but not the threads behind them, and shares connections and memory with its parent. It must not call operations,
/// whose bytes would mix with its parent's, nor write to tensors from [`ProcessGroup::alloc`]. It may drop its copies, which does
/// nothing. As long as it lives, it holds its parent's connections open: over TCP its parent's death shows as silence
/// ([`Config::peer_timeout`]), and not at once.
///
/// ```
/// use allhands_group::{ProcessGroup, ReduceOp};
///
/// let groups = ProcessGroup::local(2)?;
/// std::thread::scope(|scope| {
///     for group in &groups {
///         scope.spawn(move || {
///             let mut loss = [group.rank().0 as f32];
///             group.all_reduce(&mut loss, ReduceOp::Avg).unwrap();
///             assert_eq!(loss, [0.5]);
///         });
///     }
/// });
/// # Ok::<(), allhands_group::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ProcessGroup {
    pub(crate) inner: Arc<Inner>,
    pub(crate) options: CallOptions,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) communicator: Communicator,
    /// Kept so that a store served by rank 0 lives as long as the group.
    store: Option<Arc<dyn Store>>,
    /// Memory that ranks of this host read in place, if there is any.
    memory: Option<Memory>,
}

impl ProcessGroup {
    /// Joins the group that the launcher's environment variables describe: those of torchrun, Slurm's `srun`, `mpirun` of
    /// Open MPI, MPICH and Intel MPI, PALS, Flux, Kubeflow and indexed jobs of Kubernetes, or `RANK`, `WORLD_SIZE`,
    /// `MASTER_ADDR` and `MASTER_PORT`, set by hand.
    ///
    /// [`env`](crate::env) says which of them counts where several are set, and what else is read. Whoever needs this rank's
    /// place on its host, to choose a device, asks [`Launch`] for it and joins with [`ProcessGroup::from_launch`]:
    ///
    /// ```no_run
    /// use allhands_group::env::{Launch, ProcessEnvironment};
    /// use allhands_group::{Config, ProcessGroup};
    ///
    /// let launch = Launch::from_variables(&ProcessEnvironment)?;
    /// let device = launch.local_rank.unwrap_or(0);
    /// let ranks_of_this_host = launch.local_world_size;
    /// let group = ProcessGroup::from_launch(&launch, Config::default())?;
    /// # Ok::<(), allhands_group::Error>(())
    /// ```
    ///
    /// # Errors
    /// A missing or senseless variable, launchers that contradict each other, an unreachable store, ranks that do not
    /// come in time: see [`Error`].
    pub fn from_env() -> Result<Self, Error> {
        Self::from_launch(&Launch::from_variables(&ProcessEnvironment)?, Config::default())
    }

    /// Joins the group that `launch` describes; what it says wins over `config`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn from_launch(launch: &Launch, mut config: Config) -> Result<Self, Error> {
        tracing::info!(%launch, "joining");
        config.job_id = launch.job_id.clone().unwrap_or(config.job_id);
        config.epoch = launch.restart;
        config.key = launch.key.clone().or(config.key);
        config.timeout = launch.timeout.unwrap_or(config.timeout);
        config.rendezvous_timeout = launch.rendezvous_timeout.unwrap_or(config.rendezvous_timeout);
        config.transport = launch.transport.unwrap_or(config.transport);
        config.hierarchy = launch.hierarchy.unwrap_or(config.hierarchy);
        config.table = launch.table.clone().map_or(config.table, TableChoice::Given);
        config.record.entries = launch.record_entries.unwrap_or(config.record.entries);
        config.record.folder = launch.record_dir.clone().or(config.record.folder);
        config.tcp.interface = launch.interface.clone().unwrap_or(config.tcp.interface);
        config.tcp.family = launch.family.unwrap_or(config.tcp.family);
        config.tcp.reach = match launch.reach {
            Reach::Unknown => config.tcp.reach,
            known => known,
        };
        let addresses = launch.addresses(config.rendezvous_timeout)?;
        let master = outside(&addresses);
        config.tcp.master = master.map(|master| master.ip());
        let store = Arc::new(store(launch, master, &config)?);
        let joined = Self::connect(store.clone(), launch.rank, launch.world_size, &config);
        if let (Err(_), Some(server)) = (&joined, store.server()) {
            // Others find out why for themselves, unless the store goes under their feet.
            server.drain(OWN_CONNECTIONS, FAREWELL);
        }
        joined
    }

    /// Joins a group through any store that all its ranks share.
    ///
    /// # Errors
    /// The store fails, ranks do not come in time, or the mesh cannot be formed: see [`Error`].
    pub fn connect(
        store: Arc<dyn Store>,
        rank: Rank,
        world_size: u32,
        config: &Config,
    ) -> Result<Self, Error> {
        if rank.0 >= world_size {
            return Err(Error::NoSuchRank { rank, world_size });
        }
        if world_size > WORLD_MAX {
            return Err(Error::World { world_size, limit: WORLD_MAX });
        }
        let deadline = Instant::now() + config.rendezvous_timeout.min(FAR);
        let listener = Listener::bind(&config.tcp)?;
        let meeting = Meeting {
            store: PrefixStore::new(
                format!("allhands/{}/{}/{}", config.job_id, config.epoch, config.name),
                store.clone(),
            ),
            rank,
            world_size,
            deadline,
            limit: config.rendezvous_timeout,
        };
        let key = meeting.key(config.key.as_ref())?;
        let (peers, processors) = meeting.exchange(&listener.endpoint(), config.transport)?;
        let here = peers[rank.index()].host();
        let on_host = peers.iter().filter(|peer| peer.host() == here).count() as u32;
        // All ranks have read the same endpoints, so all know the same placement. It says whose bytes share a
        // link to other hosts, whether or not those ranks come to share memory.
        let locality = Locality::new(peers.iter().map(Endpoint::host));
        let membership = Membership {
            job_id: config.job_id.clone(),
            key,
            epoch: config.epoch,
            me: Peer(rank.0),
            world: world_size,
        };
        let mesh = listener.form(&peers, &membership, deadline, &mut |progress| {
            tracing::debug!(joined = progress.joined, world = progress.world, "forming the mesh");
            ControlFlow::Continue(())
        })?;
        let joined = match config.transport {
            Transport::Tcp => Joined::over(Box::new(mesh.links), on_host),
            Transport::Auto => {
                memory::share(&meeting, &membership, mesh.links, &mesh.control, on_host, deadline)?
            }
        };
        meeting.clear();
        // Ranks that share memory are on one host, whatever they call it.
        let beside = |peer: &Endpoint| peer.host() == here || joined.on_host > on_host;
        let beside = peers.iter().zip(processors).filter(|(peer, _)| beside(peer));
        let cores = Cores::among(&beside.map(|(_, rank)| rank).collect::<Vec<_>>());
        Self::over(joined, Box::new(mesh.control), cores, config, Some(store), Some(locality))
    }

    /// Groups of `world_size` ranks in this process, one for each thread: for tests and small tools.
    ///
    /// # Errors
    /// A world of nobody or of more ranks than [`local::WORLD_MAX`], or the operating system refuses a thread.
    pub fn local(world_size: u32) -> Result<Vec<Self>, Error> {
        Self::local_with(world_size, &Config::default())
    }

    /// As [`ProcessGroup::local`], with a configuration.
    ///
    /// # Errors
    /// As [`ProcessGroup::local`].
    pub fn local_with(world_size: u32, config: &Config) -> Result<Vec<Self>, Error> {
        if !(1..=local::WORLD_MAX).contains(&world_size) {
            return Err(Error::World { world_size, limit: local::WORLD_MAX });
        }
        let cores = Cores::among(&vec![Processors::here(); world_size as usize]);
        local::fabric(world_size)
            .into_iter()
            .map(|(links, control)| {
                let joined = Joined::over(Box::new(links), world_size);
                Self::over(joined, Box::new(control), cores, config, None, None)
            })
            .collect()
    }

    fn over(
        joined: Joined,
        control: Box<dyn Control>,
        cores: Cores,
        config: &Config,
        store: Option<Arc<dyn Store>>,
        locality: Option<Locality>,
    ) -> Result<Self, Error> {
        let Joined { links, board, memory, on_host } = joined;
        let world = links.world();
        let spread = match board {
            Some(_) => Spread::OneMemory,
            None if on_host == world => Spread::OneHost,
            None => Spread::ManyHosts,
        };
        let mesh_config = MeshConfig {
            heartbeat: config.heartbeat,
            peer_timeout: config.peer_timeout,
            record: config.record.clone(),
            ..MeshConfig::new(cores)
        };
        let mesh = match board {
            Some(board) => Mesh::start_shared(links, control, board, mesh_config),
            None => Mesh::start(links, control, mesh_config),
        };
        let mesh = mesh.map_err(|error| Error::System {
            what: "a service thread",
            reason: error.to_string(),
        })?;
        let spec = GroupSpec {
            id: group_id(&config.job_id, &config.name),
            epoch: config.epoch,
            members: (0..world).map(Peer).collect(),
        };
        let communicator = Communicator::new(
            Arc::new(mesh),
            config.name.clone(),
            spec,
            config.selection(spread, locality),
        )?;
        Ok(Self {
            inner: Arc::new(Inner { communicator, store, memory }),
            options: CallOptions::default().with_timeout(config.timeout),
        })
    }

    /// This process's rank.
    #[must_use]
    pub fn rank(&self) -> Rank {
        self.inner.communicator.rank()
    }

    /// Ranks of the group.
    #[must_use]
    pub fn world_size(&self) -> u32 {
        self.inner.communicator.world_size()
    }

    /// The group's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.inner.communicator.name()
    }

    /// A tensor of zeros, contiguous, in memory that the ranks of this host read in place where they share any: collectives
    /// on it copy less. The tensor is like any other in all else, and may outlive the group.
    ///
    /// Where no memory is shared, or none is left, it comes from the heap; the latter is told once in the log.
    ///
    /// # Errors
    /// If the shape has too many dimensions or does not fit the address space.
    ///
    /// ```
    /// use allhands_group::{DType, ProcessGroup, ReduceOp};
    ///
    /// let group = ProcessGroup::local(1)?.remove(0);
    /// let mut bucket = group.alloc(DType::F32, &[1024])?;
    /// group.all_reduce(bucket.as_mut_slice::<f32>()?, ReduceOp::Sum)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn alloc(&self, dtype: DType, shape: &[usize]) -> Result<Tensor, TensorError> {
        match &self.inner.memory {
            Some(memory) => memory.alloc(dtype, shape),
            None => Tensor::try_zeros(dtype, shape),
        }
    }

    /// Whether all ranks are on one host and share memory, so that collectives go through it.
    #[must_use]
    pub fn shares_memory(&self) -> bool {
        self.inner.communicator.shares_memory()
    }

    /// The store through which the ranks met, if there was one.
    #[must_use]
    pub fn store(&self) -> Option<&Arc<dyn Store>> {
        self.inner.store.as_ref()
    }

    /// The options of this handle's operations.
    #[must_use]
    pub fn options(&self) -> &CallOptions {
        &self.options
    }

    /// A handle on the same group whose operations have other options.
    #[must_use]
    pub fn with_options(&self, options: CallOptions) -> Self {
        Self { inner: self.inner.clone(), options }
    }

    /// A handle on the same group whose operations may take this long.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        self.with_options(self.options.clone().with_timeout(timeout))
    }

    /// A handle on the same group for another stream of operations: on one channel all ranks issue the same
    /// operations in the same order; channels are independent of each other. A channel below
    /// [`CHANNELS`](crate::CHANNELS); calls on others are refused.
    #[must_use]
    pub fn on_channel(&self, channel: u32) -> Self {
        self.with_options(self.options.clone().on_channel(channel))
    }

    /// What this rank did last in the group, oldest first: see [`FlightRecord`]. Safe from any thread, also while others wait
    /// in operations.
    ///
    /// [`Config::record`](crate::Config::record) says how many operations it holds, and into which folder each rank writes
    /// its own when the group fails. A blocking call in shared memory that hardly waits has no clock of its own: its times
    /// are estimated from those around it, and marked so.
    ///
    /// ```
    /// use allhands_group::{ProcessGroup, ReduceOp};
    ///
    /// let group = ProcessGroup::local(1)?.remove(0);
    /// group.all_reduce(&mut [1.0f32; 8], ReduceOp::Sum)?;
    /// let record = group.flight_record();
    /// assert_eq!(record.entries[0].profiling_name, "c10d:all_reduce");
    /// assert_eq!(record.entries[0].input_sizes, [[8]]);
    /// # Ok::<(), allhands_group::Error>(())
    /// ```
    #[must_use]
    pub fn flight_record(&self) -> FlightRecord {
        self.inner.communicator.flight_record()
    }

    /// Breaks the group on every rank: operations in flight and later ones fail with an error that names
    /// this rank and `why`. Safe from any thread.
    pub fn abort(&self, why: impl Into<String>) {
        self.inner.communicator.abort(why);
    }
}

/// The group's number on the wire: FNV-1a of job and name. Two groups of one mesh with the same number
/// are refused when the second is made.
fn group_id(job_id: &str, name: &str) -> u32 {
    let fold = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    let hash = job_id.as_bytes().iter().fold(0x811C_9DC5, fold);
    [0xFF].iter().chain(name.as_bytes()).fold(hash, fold)
}

/// The first of a host's addresses that other hosts can reach, else the first of all.
fn outside(addresses: &[SocketAddr]) -> Option<SocketAddr> {
    let outside = addresses.iter().find(|address| !address.ip().is_loopback());
    outside.or(addresses.first()).copied()
}

/// Connects to the launcher's store, or serves one in rank 0.
fn store(launch: &Launch, master: Option<SocketAddr>, config: &Config) -> Result<TcpStore, Error> {
    let mut options = ClientOptions::new().timeout(config.rendezvous_timeout);
    if let Some(key) = &config.key {
        options = options.job_key(*key.expose());
    }
    let serves = launch.rank == Rank(0) && launch.served_by == ServedBy::RankZero;
    let own = match master {
        Some(master) => own_address(launch, master, &config.tcp)?,
        None => None,
    };
    let store = match own.or(master) {
        Some(address) if serves => TcpStore::host(address, ServerOptions::new(), options),
        _ => {
            // A name with several addresses is tried at each.
            let named = || StoreEndpoint::new(launch.master.clone(), launch.port);
            TcpStore::connect(own.map_or_else(named, StoreEndpoint::from), options)
        }
    };
    let (rank, world_size) = (launch.rank, launch.world_size);
    store.map_err(|source| Error::Store { rank, world_size, source })
}

/// Where the store is for ranks of the master's host, if that is not where its name leads: some systems give a host's
/// own name a loopback address, which ranks of other hosts cannot reach. Then all ranks of this host meet the others at
/// the address that it has for them.
fn own_address(
    launch: &Launch,
    master: SocketAddr,
    tcp: &TcpConfig,
) -> Result<Option<SocketAddr>, TransportError> {
    let said = launch.master.parse::<IpAddr>().is_ok() || launch.master == "localhost";
    if said || !master.ip().is_loopback() || tcp.reach != Reach::ManyHosts {
        return Ok(None);
    }
    let wish = Wish {
        choice: tcp.interface.clone(),
        family: tcp.family,
        master: Some(master.ip()),
        reach: tcp.reach,
    };
    let chosen = choose(&wish, &look_around(&wish)?)?;
    Ok(Some(SocketAddr::new(chosen.nic.address, master.port())))
}

/// How long a rank that serves the store and cannot join keeps it for the others.
const FAREWELL: Duration = Duration::from_secs(1);

/// Connections of such a rank to its own store.
const OWN_CONNECTIONS: usize = 1;

/// Where rank 0 publishes the key that it has drawn.
const KEY: &str = "key";

/// Where a rank publishes its address.
fn entry_of(rank: u32) -> String {
    format!("rank/{rank}")
}

/// How this rank reaches the others.
pub(crate) struct Joined {
    pub(crate) links: Box<dyn Links>,
    /// Memory that all of them share, if they do.
    pub(crate) board: Option<Board>,
    /// This rank's part that its tensors can lie in.
    pub(crate) memory: Option<Memory>,
    /// Ranks on this host, this one included.
    pub(crate) on_host: u32,
}

impl Joined {
    /// By links alone.
    pub(crate) fn over(links: Box<dyn Links>, on_host: u32) -> Self {
        Self { links, board: None, memory: None, on_host }
    }
}

/// Ranks meeting in a store.
pub(crate) struct Meeting {
    pub(crate) store: PrefixStore,
    pub(crate) rank: Rank,
    pub(crate) world_size: u32,
    deadline: Instant,
    limit: Duration,
}

impl Meeting {
    pub(crate) fn failed(&self, source: StoreError) -> Error {
        Error::Store { rank: self.rank, world_size: self.world_size, source }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// The same meeting under a name of its own.
    pub(crate) fn within(&self, name: &str) -> Self {
        let store = PrefixStore::new(name.to_owned(), Arc::new(self.store.clone()));
        let Self { rank, world_size, deadline, limit, .. } = *self;
        Self { store, rank, world_size, deadline, limit }
    }

    /// Publishes `value` under `key`.
    pub(crate) fn set(&self, key: &str, value: &[u8]) -> Result<(), Error> {
        self.store.set(key, value).map_err(|e| self.failed(e))
    }

    /// What `rank` publishes under `key`.
    pub(crate) fn fetch(&self, key: &str, rank: u32) -> Result<Vec<u8>, Error> {
        match self.store.get_within(key, self.left()) {
            Ok(value) => Ok(value),
            Err(error) if error.is_timeout() => Err(self.missing(vec![Rank(rank)])),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// The configured key, or the one that rank 0 draws and publishes.
    fn key(&self, configured: Option<&JobKey>) -> Result<JobKey, Error> {
        if let Some(key) = configured {
            return Ok(key.clone());
        }
        if self.rank == Rank(0) {
            tracing::info!(
                "no job key is configured: a published one keeps out strays, but does not authenticate"
            );
            let mut bytes = [0; JobKey::LEN];
            getrandom::fill(&mut bytes).map_err(|error| Error::System {
                what: "random bytes",
                reason: error.to_string(),
            })?;
            self.set(KEY, &bytes)?;
            return Ok(JobKey::new(bytes));
        }
        let bytes = self.fetch(KEY, 0)?;
        match <[u8; JobKey::LEN]>::try_from(bytes.as_slice()) {
            Ok(bytes) => Ok(JobKey::new(bytes)),
            Err(_) => Err(Error::PublishedKey { bytes: bytes.len(), expected: JobKey::LEN }),
        }
    }

    /// Takes this rank's entry out of the store: a complete mesh says that everybody has read it, and the
    /// next group of this name must not. A store that is gone by now has nothing to be cleared.
    fn clear(&self) {
        let _ = self.store.delete_key(&entry_of(self.rank.0));
        if self.rank == Rank(0) {
            let _ = self.store.delete_key(KEY);
        }
    }

    fn missing(&self, missing: Vec<Rank>) -> Error {
        Error::Rendezvous {
            rank: self.rank,
            world_size: self.world_size,
            missing,
            limit: self.limit,
        }
    }

    /// Publishes this rank's address, processors and idea of the world, and collects everybody's. A rank with another
    /// idea would wait for ranks that never come.
    fn exchange(
        &self,
        mine: &Endpoint,
        transport: Transport,
    ) -> Result<(Vec<Endpoint>, Vec<Processors>), Error> {
        let key = entry_of;
        let mut entry = self.world_size.to_le_bytes().to_vec();
        entry.push(transport.code());
        let processors = Processors::here().encode();
        // At most 132 bytes.
        entry.push(processors.len() as u8);
        entry.extend_from_slice(&processors);
        entry.extend_from_slice(&mine.encode());
        self.store.set(&key(self.rank.0), &entry).map_err(|e| self.failed(e))?;
        let mut peers = Vec::with_capacity(self.world_size as usize);
        let mut processors = Vec::with_capacity(self.world_size as usize);
        for rank in 0..self.world_size {
            match self.store.get_within(&key(rank), self.left()) {
                Ok(entry) => {
                    let (world, endpoint) = entry.split_first_chunk().unwrap_or((&[0; 4], &[]));
                    let theirs = u32::from_le_bytes(*world);
                    if theirs != self.world_size {
                        let (rank, mine, other) = (self.rank, self.world_size, Rank(rank));
                        return Err(Error::WorldSize { rank, mine, other, theirs });
                    }
                    let (code, endpoint) = endpoint.split_first().unwrap_or((&u8::MAX, &[]));
                    let theirs = Transport::from_code(*code);
                    if theirs != Some(transport) {
                        let (rank, mine, other) = (self.rank, transport, Rank(rank));
                        return Err(Error::TransportChoice { rank, mine, other, theirs });
                    }
                    let (len, rest) = endpoint.split_first().unwrap_or((&0, &[]));
                    let (theirs, endpoint) =
                        rest.split_at_checked(usize::from(*len)).unwrap_or((&[], &[]));
                    // What does not decode makes nobody spin.
                    processors.push(Processors::decode(theirs).unwrap_or(Processors::new([], 1)));
                    peers.push(Endpoint::decode(endpoint)?);
                }
                Err(error) if error.is_timeout() => {
                    let gone = |rank: &u32| !self.store.check(&[&key(*rank)]).unwrap_or(false);
                    let missing = (rank..self.world_size).filter(gone).map(Rank).collect();
                    return Err(self.missing(missing));
                }
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok((peers, processors))
    }
}

#[cfg(test)]
mod tests {
    use allhands_store::HashStore;
    use allhands_transport::interface::InterfaceError;

    use super::*;

    #[test]
    fn worlds_that_cannot_be_are_refused_and_limits_may_be_endless() {
        for world_size in [0, local::WORLD_MAX + 1, u32::MAX] {
            let error = ProcessGroup::local(world_size).unwrap_err();
            assert!(matches!(error, Error::World { .. }), "{error}");
        }
        let endless = Config {
            timeout: Duration::MAX,
            rendezvous_timeout: Duration::MAX,
            heartbeat: Duration::MAX,
            peer_timeout: Duration::MAX,
            ..Config::default()
        };
        let store = Arc::new(HashStore::new());
        let huge = ProcessGroup::connect(store.clone(), Rank(0), u32::MAX, &endless);
        assert!(matches!(huge.unwrap_err(), Error::World { .. }));
        let alone = ProcessGroup::connect(store, Rank(0), 1, &endless).unwrap();
        alone.barrier().unwrap();
        assert!(alone.barrier_async().wait_timeout(Duration::MAX));
    }

    #[test]
    fn a_master_whose_name_leads_to_its_own_loopback_is_met_at_another_address() {
        let launch = |master: &str, list: &str| {
            let variables = |name: &str| {
                let value = match name {
                    "SLURM_PROCID" => "0",
                    "SLURM_NTASKS" => "4",
                    "SLURM_STEP_ID" | "SLURM_NODEID" => "0",
                    "SLURM_TASKS_PER_NODE" => list,
                    "MASTER_ADDR" => master,
                    _ => return None,
                };
                Some(value.to_owned())
            };
            Launch::from_variables(&variables).unwrap()
        };
        let loopback: SocketAddr = "127.0.1.1:20000".parse().unwrap();
        let other: SocketAddr = "192.0.2.9:20000".parse().unwrap();
        let own = |launch: &Launch, master| {
            let tcp = TcpConfig { reach: launch.reach, ..TcpConfig::default() };
            own_address(launch, master, &tcp)
        };
        for (launch, master) in [
            (launch("node1", "2(x2)"), other),
            (launch("localhost", "2(x2)"), loopback),
            (launch("127.0.1.1", "2(x2)"), loopback),
            (launch("node1", "4"), loopback),
        ] {
            assert_eq!(own(&launch, master).unwrap(), None, "{launch}");
        }
        match own(&launch("node1", "2(x2)"), loopback) {
            Ok(Some(address)) => {
                assert!(!address.ip().is_loopback() && address.port() == 20000, "{address}");
            }
            // A host without a network cannot have ranks on others.
            Err(TransportError::Interface(InterfaceError::OnlyLoopback { .. })) => {}
            answer => panic!("{answer:?}"),
        }
        assert_eq!(outside(&[loopback, other]), Some(other));
        assert_eq!(outside(&[loopback]), Some(loopback));
    }

    #[test]
    fn a_shape_without_elements_may_have_any_extents() {
        let group = ProcessGroup::local(1).unwrap().remove(0);
        let shape = [usize::MAX, 7, 0];
        let mut empty: [f32; 0] = [];
        let data = allhands_tensor::TensorMut::shaped(&mut empty, &shape).unwrap();
        group.all_reduce(data, allhands_tensor::ReduceOp::Sum).unwrap();
        let input = allhands_tensor::TensorRef::shaped::<f32>(&[], &[0, usize::MAX, 7]).unwrap();
        let output = allhands_tensor::TensorMut::shaped(&mut empty, &[0, usize::MAX, 7]).unwrap();
        group.all_to_all_single_with_splits(input, &[0], output, &[0]).unwrap();
    }
}
