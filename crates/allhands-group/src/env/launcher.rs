//! Which launcher started the ranks, where the variables of several are set.

use std::fmt;

use super::variables::{Number, Variables};
use super::{EnvError, explicit, flux, kubernetes, mpi, pals, slurm};

/// Who started the ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Launcher {
    /// Whoever set `RANK`, `WORLD_SIZE`, `MASTER_ADDR` and `MASTER_PORT` for each rank: torchrun, or a script.
    Explicit,
    /// Flux: `flux run`, `flux submit`.
    Flux,
    /// Open MPI: `mpirun`, `prterun`.
    OpenMpi,
    /// PALS, the launcher of HPE Cray: `mpiexec`, `aprun`.
    Pals,
    /// Hydra, the launcher of MPICH and Intel MPI, or another that speaks PMI.
    Pmi,
    /// Slurm: `srun`.
    Slurm,
    /// Kubeflow Trainer, one rank a pod.
    Kubeflow,
    /// An indexed job of Kubernetes, or a JobSet with one; one rank a pod.
    JobSet,
}

impl Launcher {
    /// All of them, in the order in which they are asked.
    pub const ALL: [Self; 8] = [
        Self::Explicit,
        Self::Flux,
        Self::OpenMpi,
        Self::Pals,
        Self::Pmi,
        Self::Slurm,
        Self::Kubeflow,
        Self::JobSet,
    ];

    /// The variable that gives it away: it holds the rank.
    #[must_use]
    pub fn marker(self) -> &'static str {
        match self {
            Self::Explicit => "RANK",
            Self::Flux => "FLUX_TASK_RANK",
            Self::OpenMpi => "OMPI_COMM_WORLD_RANK",
            Self::Pmi => "PMI_RANK",
            Self::Pals => "PALS_RANKID",
            Self::Slurm => "SLURM_PROCID",
            Self::Kubeflow => "PET_NODE_RANK",
            Self::JobSet => "JOB_COMPLETION_INDEX",
        }
    }

    /// How to tell its ranks where rank 0 is.
    pub(super) fn remedy(self) -> &'static str {
        match self {
            Self::Explicit => "set MASTER_ADDR to the host of rank 0",
            Self::Flux => {
                "set MASTER_ADDR to the host of rank 0, such as \
                 `flux run --env=MASTER_ADDR=$(flux hostlist -led '\\n' | head -n1) …`"
            }
            Self::OpenMpi => {
                "set MASTER_ADDR to the host of rank 0: `mpirun -x MASTER_ADDR=HOST …`"
            }
            Self::Pmi => {
                "set MASTER_ADDR to the host of rank 0: `mpiexec -genv MASTER_ADDR HOST …`"
            }
            Self::Pals => {
                "set MASTER_ADDR to the host of rank 0, such as \
                 `mpiexec --env MASTER_ADDR=$(head -n1 $PBS_NODEFILE) …`"
            }
            Self::Slurm => {
                "set MASTER_ADDR to the host of rank 0, such as \
                 `export MASTER_ADDR=$(scontrol show hostnames | head -n1)`"
            }
            Self::Kubeflow | Self::JobSet => {
                "set MASTER_ADDR to the name of the pod of rank 0: JOBSET-JOB-0-0.JOBSET, or what its headless \
                 service says"
            }
        }
    }
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Explicit => "RANK and WORLD_SIZE",
            Self::Flux => "Flux",
            Self::OpenMpi => "Open MPI",
            Self::Pmi => "PMI (MPICH, Intel MPI)",
            Self::Pals => "PALS",
            Self::Slurm => "Slurm",
            Self::Kubeflow => "Kubeflow",
            Self::JobSet => "an indexed job of Kubernetes",
        })
    }
}

/// What one launcher says.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) launcher: Launcher,
    pub(super) rank: Number,
    pub(super) world_size: Number,
    pub(super) local_rank: Option<Number>,
    pub(super) local_world_size: Option<Number>,
    pub(super) host: Host,
    pub(super) job_id: Option<String>,
    pub(super) restart: u32,
}

/// Where rank 0 is, as far as a launcher says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// It does not say.
    Unknown,
    /// All ranks are on one host.
    This,
    /// A name or an address, and its port if that is said, too.
    Named { host: String, port: Option<u16> },
    /// The first of a list of hosts in Slurm's grammar.
    FirstOf { variable: &'static str, list: String },
}

impl Told {
    fn claim(&self) -> (u32, u32) {
        (self.rank.value, self.world_size.value)
    }

    /// Whether all ranks are on one host, as far as the numbers say.
    pub(super) fn together(&self) -> bool {
        let all = self.world_size.value;
        all == 1 || self.local_world_size.is_some_and(|local| local.value == all)
    }
}

/// What the launcher says that counts.
///
/// `RANK` with `WORLD_SIZE` wins over everything, since torchrun and scripts set them inside of what other launchers
/// start. Then come launchers that number processes, which must not contradict each other. Slurm yields to them, because
/// in an allocation it starts the daemons of theirs. What numbers pods comes last.
pub(super) fn find(variables: &impl Variables) -> Result<Told, EnvError> {
    if let Some(told) = explicit::read(variables)? {
        return Ok(told);
    }
    let mut half = None;
    let mut ask = |answer: Result<Option<Told>, EnvError>| match answer {
        // Another launcher may say all of it.
        Err(error @ EnvError::HalfSet { .. }) => {
            half.get_or_insert(error);
            Ok(None)
        }
        answer => answer,
    };
    let flux = ask(flux::read(variables))?;
    let others = [
        ask(mpi::open_mpi(variables))?,
        ask(pals::read(variables))?,
        // Flux and PALS set PMI's variables, too, and say more in their own.
        ask(mpi::pmi(variables))?,
    ];
    let mut inner: Option<Told> = None;
    for told in [flux].into_iter().chain(others).flatten() {
        match &inner {
            Some(first) if first.claim() != told.claim() => {
                return Err(contradiction(first, &told));
            }
            Some(_) => {}
            None => inner = Some(told),
        }
    }
    let told = match inner {
        Some(inner) if may_be_slurms(&inner) => match ask(slurm::read(variables))? {
            Some(slurm) if is_slurms(&inner, &slurm) => Some(slurm),
            _ => Some(inner),
        },
        Some(inner) => Some(inner),
        None => ask(slurm::read(variables))?,
    };
    let told = match told {
        Some(told) => Some(told),
        None => match ask(kubernetes::kubeflow(variables))? {
            Some(told) => Some(told),
            None => ask(kubernetes::job_set(variables))?,
        },
    };
    let Some(told) = told else {
        return Err(match (half, explicit::half_set(variables), slurm::batch_shell(variables)) {
            (Some(half), ..) | (None, Some(half), _) => half,
            (None, None, Some(batch_shell)) => batch_shell,
            (None, None, None) => EnvError::NoLauncher,
        });
    };
    explicit::agrees(variables, &told)?;
    Ok(told)
}

/// Whether Slurm itself may have set another launcher's variables (`srun --mpi=pmi2`, `srun --mpi=cray_shasta`). Hydra,
/// which Slurm may have started, says more than Slurm does in PMI's name.
fn may_be_slurms(inner: &Told) -> bool {
    match inner.launcher {
        Launcher::Pals => true,
        Launcher::Pmi => inner.local_rank.is_none(),
        _ => false,
    }
}

/// Whether it has. Then its own variables are better: they say where rank 0 is.
fn is_slurms(inner: &Told, slurm: &Told) -> bool {
    inner.launcher == Launcher::Pals || inner.claim() == slurm.claim()
}

fn contradiction(first: &Told, second: &Told) -> EnvError {
    let (rank, world_size) = first.claim();
    let (other_rank, other_world_size) = second.claim();
    EnvError::Contradiction {
        launcher: first.launcher,
        rank,
        world_size,
        other: second.launcher,
        other_rank,
        other_world_size,
    }
}
