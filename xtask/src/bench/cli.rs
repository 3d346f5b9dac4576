//! What is asked on the command line, and what it means.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use super::cells::{self, Cell, Dtype, Kind, Operation, Reduction};
use super::models::Model;
use super::peers::Peer;
use super::sizes::Sizes;

/// Sizes of the sweep when neither sizes nor models are asked for: those of the speed targets.
const DEFAULT_SIZES: &str = "4..64M:16";
/// Sizes of a quick run.
const QUICK_SIZES: &str = "4,1K,64K,1M";
/// How long a loop should last in a round.
const BUDGET: Duration = Duration::from_millis(30);
/// The same in a quick run.
const QUICK_BUDGET: Duration = Duration::from_millis(4);
/// The largest world that is started on one machine.
const MAX_RANKS: u32 = 64;

/// `cargo xtask bench-cluster`.
///
/// Without options: four real processes, every collective on ResNet-50's and BERT-base's
/// gradient lists and on sizes from 4 B to 64 MiB, every result verified.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Ranks to start, each a process of its own.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_RANKS)))]
    pub ranks: u32,
    /// How bytes travel between them.
    #[arg(long, value_enum, default_value_t = Transport::Auto)]
    pub transport: Transport,
    /// Operations to measure: names separated by commas; without it all.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub op: Vec<Operation>,
    /// Buffer sizes in bytes: `4`, `1K,1M`, `4..64M` or `4..64M:16` (growth factor 16).
    #[arg(long)]
    pub sizes: Option<Sizes>,
    /// Element type.
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    pub dtype: Dtype,
    /// How elements are combined.
    #[arg(long, value_enum, default_value_t = Reduction::Sum)]
    pub redop: Reduction,
    /// The root of broadcast, reduce, gather and scatter.
    #[arg(long, default_value_t = 0)]
    pub root: u32,
    /// Gradient lists to run every collective on: names separated by commas, or `none`.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub model: Vec<ModelChoice>,
    /// Systems to measure in turn on the same cells; without names: all that are installed.
    #[arg(long, value_enum, value_delimiter = ',', num_args = 0..=1, default_missing_value = "all")]
    pub peers: Vec<PeerChoice>,
    /// Measure only the peers, not allhands.
    #[arg(long, requires = "peers")]
    pub only_peers: bool,
    /// Whether our ranks are bound to cores. Open MPI's launcher binds its own where they suffice.
    #[arg(long, value_enum, default_value_t = Bind::Auto)]
    pub bind: Bind,
    /// Rounds in which the systems take turns.
    #[arg(long)]
    pub rounds: Option<u32>,
    /// Milliseconds that a loop should last in each round.
    #[arg(long)]
    pub budget_ms: Option<u64>,
    /// A smoke run of a few seconds: few sizes, short loops, no models unless asked for.
    #[arg(long)]
    pub quick: bool,
    /// How results are printed on standard output.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Folder for the record; without it `benches/record/<machine>`, or below `target` if quick.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Runs every line of `benches/definitions/<NAME>.args` instead of the other options.
    #[arg(long)]
    pub definition: Option<String>,
}

/// How bytes travel between ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// What every system chooses between processes of one host.
    Auto,
    /// The same, and a failure where allhands does not share memory.
    Shm,
    /// As shm, with buffers of allhands in memory that its ranks read in place (`ProcessGroup::alloc`).
    Arena,
    /// Sockets over the loopback interface, for everybody.
    Tcp,
    /// Ranks as threads of one process; has no peers.
    Local,
}

impl Transport {
    /// The name on the command line and in records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Shm => "shm",
            Self::Arena => "arena",
            Self::Tcp => "tcp",
            Self::Local => "local",
        }
    }

    /// Whether every system is held to sockets.
    #[must_use]
    pub fn is_tcp(self) -> bool {
        self == Self::Tcp
    }
}

/// Whether our ranks are bound to cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Bind {
    /// A core for each rank where there are enough, as mpirun does it.
    Auto,
    /// Never: the scheduler decides, as it does for torch's ranks.
    None,
}

impl Bind {
    /// The core of `rank` among `cores`; `None` leaves it to the scheduler.
    #[must_use]
    pub fn core(self, rank: u32, ranks: u32, cores: u64) -> Option<u32> {
        (self == Self::Auto && u64::from(ranks) <= cores).then_some(rank)
    }
}

/// A model, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModelChoice {
    /// 161 tensors, 102 MB of f32.
    #[value(name = "resnet50")]
    ResNet50,
    /// 199 tensors, 438 MB of f32.
    #[value(name = "bert-base")]
    BertBase,
    /// 148 tensors, 498 MB of f32.
    #[value(name = "gpt2")]
    Gpt2,
    /// No gradient list.
    None,
}

/// A peer, or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PeerChoice {
    /// torch.distributed with gloo.
    #[value(alias = "torch-gloo")]
    Gloo,
    /// Open MPI.
    #[value(name = "openmpi", alias = "open-mpi")]
    OpenMpi,
    /// MPICH.
    Mpich,
    /// Every peer that is installed.
    All,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// nccl-tests' columns and ours.
    Table,
    /// The record.
    Json,
    /// One line a cell and system.
    Csv,
    /// A table for documents.
    Md,
}

/// What happens when a peer is not installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// It was asked for by name: the run fails.
    Fatal,
    /// All were asked for: it is left out with a message.
    Noted,
}

/// Who is measured first and compared with the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// allhands.
    Ours,
    /// The first peer.
    FirstPeer,
}

/// Where the record goes when no folder is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// With the project's records.
    Record,
    /// With build outputs: a smoke run is no evidence.
    Scratch,
    /// The given folder.
    Folder(PathBuf),
}

/// The arguments with every default filled in.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Number of ranks.
    pub ranks: u32,
    /// How bytes travel.
    pub transport: Transport,
    /// What all cells share.
    pub kind: Kind,
    /// What is measured.
    pub cells: Vec<Cell>,
    /// Who else is measured.
    pub peers: Vec<Peer>,
    /// What happens when one is missing.
    pub absence: Absence,
    /// Who is compared with the others.
    pub subject: Subject,
    /// Whether our ranks are bound to cores.
    pub bind: Bind,
    /// Number of rounds.
    pub rounds: u32,
    /// How long a loop should last.
    pub budget: Duration,
    /// How results are printed.
    pub format: Format,
    /// Where the record goes.
    pub keep: Keep,
}

impl Args {
    /// Fills in the defaults.
    ///
    /// # Errors
    /// The arguments contradict each other.
    pub fn settings(&self) -> Result<Settings> {
        ensure!(
            self.root < self.ranks,
            "--root {} is outside the world of {} ranks",
            self.root,
            self.ranks
        );
        let float = matches!(self.dtype, Dtype::F32 | Dtype::F64 | Dtype::F16 | Dtype::Bf16);
        ensure!(
            float || self.redop != Reduction::Avg,
            "--redop avg needs a float type, not {}",
            self.dtype.name()
        );
        ensure!(
            self.transport != Transport::Local || self.peers.is_empty(),
            "--transport local has no peers: their ranks are processes"
        );
        let kind = Kind { dtype: self.dtype, reduction: self.redop, root: self.root };
        let operations = if self.op.is_empty() { Operation::ALL.to_vec() } else { self.op.clone() };
        let newcomer = self.sizes.is_none() && self.model.is_empty();
        let sizes = match &self.sizes {
            Some(sizes) => sizes.bytes().to_vec(),
            None if newcomer && self.quick => QUICK_SIZES.parse::<Sizes>()?.bytes().to_vec(),
            None if newcomer => DEFAULT_SIZES.parse::<Sizes>()?.bytes().to_vec(),
            None => Vec::new(),
        };
        let models = match (newcomer, self.quick) {
            (true, true) => Vec::new(),
            (true, false) => vec![Model::ResNet50, Model::BertBase],
            (false, _) => self.model.iter().filter_map(|choice| choice.model()).collect(),
        };
        let cells = cells::all(&operations, kind, self.ranks, &models, &sizes);
        ensure!(!cells.is_empty(), "nothing to measure: give --sizes or --model");
        let all = self.peers.contains(&PeerChoice::All);
        let peers = Peer::ALL
            .into_iter()
            .filter(|peer| all || self.peers.iter().any(|choice| choice.peer() == Some(*peer)))
            .collect();
        let rounds = self.rounds.unwrap_or(5);
        ensure!(rounds > 0, "--rounds must be at least 1");
        let budget = match self.budget_ms {
            Some(ms) => Duration::from_millis(ms),
            None if self.quick => QUICK_BUDGET,
            None => BUDGET,
        };
        let keep = match (&self.out, self.quick) {
            (Some(folder), _) => Keep::Folder(folder.clone()),
            (None, true) => Keep::Scratch,
            (None, false) => Keep::Record,
        };
        Ok(Settings {
            ranks: self.ranks,
            transport: self.transport,
            kind,
            cells,
            peers,
            absence: if all { Absence::Noted } else { Absence::Fatal },
            subject: if self.only_peers { Subject::FirstPeer } else { Subject::Ours },
            bind: self.bind,
            rounds,
            budget,
            format: self.format,
            keep,
        })
    }

    /// The arguments on each line of a definition; `#` starts a comment.
    ///
    /// # Errors
    /// A line cannot be parsed; it is named.
    pub fn lines(text: &str) -> Result<Vec<Self>> {
        #[derive(clap::Parser)]
        #[command(no_binary_name = true)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        text.lines()
            .map(|line| line.split('#').next().unwrap_or_default().trim())
            .filter(|line| !line.is_empty())
            .map(|line| {
                let line_args = <Line as clap::Parser>::try_parse_from(line.split_whitespace())
                    .with_context(|| format!("in the definition's line `{line}`"))?;
                ensure!(
                    line_args.args.definition.is_none(),
                    "a definition cannot name another one: `{line}`"
                );
                Ok(line_args.args)
            })
            .collect()
    }
}

impl ModelChoice {
    fn model(self) -> Option<Model> {
        match self {
            Self::ResNet50 => Some(Model::ResNet50),
            Self::BertBase => Some(Model::BertBase),
            Self::Gpt2 => Some(Model::Gpt2),
            Self::None => None,
        }
    }
}

impl PeerChoice {
    fn peer(self) -> Option<Peer> {
        match self {
            Self::Gloo => Some(Peer::TorchGloo),
            Self::OpenMpi => Some(Peer::OpenMpi),
            Self::Mpich => Some(Peer::Mpich),
            Self::All => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(line: &str) -> Result<Settings> {
        Args::lines(if line.is_empty() { "--ranks 4" } else { line })?.remove(0).settings()
    }

    #[test]
    fn a_newcomer_gets_everything() {
        let s = settings("").unwrap();
        assert_eq!((s.ranks, s.rounds, s.transport), (4, 5, Transport::Auto));
        for op in Operation::ALL {
            let of_op: Vec<_> = s.cells.iter().filter(|c| c.operation == op).collect();
            let models = of_op.iter().filter(|c| c.model.is_some()).count();
            assert_eq!(models, if op.takes_models() { 2 } else { 0 }, "{op:?}");
            assert!(of_op.iter().any(|c| c.model.is_none()), "{op:?}");
        }
        assert!(s.peers.is_empty());
        assert_eq!(s.keep, Keep::Record);
    }

    #[test]
    fn quick_is_small_and_leaves_no_record() {
        let s = settings("--quick").unwrap();
        assert!(s.cells.iter().all(|c| c.model.is_none() && c.bytes(4) <= 1 << 20));
        assert_eq!(s.keep, Keep::Scratch);
    }

    #[test]
    fn peers_by_name_must_be_there_and_all_need_not() {
        let s = settings("--peers gloo,mpich").unwrap();
        assert_eq!((s.peers, s.absence), (vec![Peer::TorchGloo, Peer::Mpich], Absence::Fatal));
        for line in ["--peers", "--peers all", "--peers --quick"] {
            let s = settings(line).unwrap();
            assert_eq!((s.peers.len(), s.absence), (3, Absence::Noted), "{line}");
        }
    }

    #[test]
    fn ranks_are_bound_where_cores_suffice() {
        assert_eq!(Bind::Auto.core(1, 2, 2), Some(1));
        assert_eq!(Bind::Auto.core(1, 4, 2), None);
        assert_eq!(Bind::None.core(1, 2, 2), None);
    }

    #[test]
    fn contradictions_are_refused() {
        for (line, word) in [
            ("--ranks 2 --root 2", "outside the world"),
            ("--dtype i32 --redop avg", "float type"),
            ("--transport local --peers", "no peers"),
            ("--model none", "nothing to measure"),
            ("--rounds 0", "at least 1"),
            ("--ranks 65", "65"),
            ("--definition x", "another one"),
            ("--only-peers", "--only-peers"),
        ] {
            let err = format!("{:?}", settings(line).unwrap_err());
            assert!(err.contains(word), "{line}: {err}");
        }
    }

    #[test]
    fn definitions_are_lines_of_arguments() {
        let lines =
            Args::lines("# two worlds\n--ranks 2 --op all_reduce\n\n--ranks 4 # more\n").unwrap();
        assert_eq!(lines.iter().map(|a| a.ranks).collect::<Vec<_>>(), [2, 4]);
        assert_eq!(lines[0].op, [Operation::AllReduce]);
    }

    #[test]
    fn every_definition_in_the_repository_can_be_run() {
        let folder = crate::bench::machine::workspace().join("benches/definitions");
        let mut seen = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            for args in Args::lines(&text).unwrap() {
                seen += args.settings().unwrap().cells.len();
            }
        }
        assert!(seen > 50, "only {seen} cells");
    }
}
