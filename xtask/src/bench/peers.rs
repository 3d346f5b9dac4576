//! The systems we are measured against, each a separate program with its own defaults.
//!
//! A peer that is not installed is named together with the command that installs it.

use std::env;
use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::cli::Transport;
use super::launch::Spec;
use super::machine::cores;

/// Names the Python interpreter that has torch.
const PYTHON_VARIABLE: &str = "ALLHANDS_PYTHON";

/// A system that is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Peer {
    /// torch.distributed with its gloo backend.
    #[value(name = "gloo", alias = "torch-gloo")]
    TorchGloo,
    /// Open MPI.
    #[value(name = "openmpi", alias = "open-mpi")]
    OpenMpi,
    /// MPICH.
    #[value(name = "mpich")]
    Mpich,
}

/// A peer that cannot be measured here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Who it is.
    pub peer: &'static str,
    /// What is not there.
    pub what: String,
    /// How to get it.
    pub how: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; to get it: {}", self.peer, self.what, self.how)
    }
}

/// A peer ready to be started, or what it lacks.
pub type Found = std::result::Result<Spec, Missing>;

impl Peer {
    /// All of them, in the order in which tables show them.
    pub const ALL: [Self; 3] = [Self::TorchGloo, Self::OpenMpi, Self::Mpich];

    /// The name in tables and records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TorchGloo => "torch-gloo",
            Self::OpenMpi => "open-mpi",
            Self::Mpich => "mpich",
        }
    }

    /// Finds the peer on this machine and prepares its processes.
    ///
    /// # Errors
    /// The peer is installed but cannot be prepared: its program does not compile, or no port is
    /// free.
    pub fn find(self, world: u32, transport: Transport, target: &Path) -> Result<Found> {
        match self {
            Self::TorchGloo => self.torch(world),
            Self::OpenMpi | Self::Mpich => self.mpi(world, transport, target),
        }
    }

    fn torch(self, world: u32) -> Result<Found> {
        let python = env::var(PYTHON_VARIABLE).unwrap_or_else(|_| "python3".into());
        let probe = "import torch.distributed as d; assert d.is_gloo_available(), 'no gloo'";
        let works = Command::new(&python)
            .args(["-c", probe])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !works {
            return Ok(Err(Missing {
                peer: self.name(),
                what: format!("`{python}` cannot import torch with gloo"),
                how: format!(
                    "python3 -m venv ~/torch && ~/torch/bin/pip install torch numpy && export {PYTHON_VARIABLE}=~/torch/bin/python"
                ),
            }));
        }
        let port = free_port()?;
        let script = peers_folder().join("torch_peer.py");
        let processes = (0..world)
            .map(|rank| {
                let mut command = Command::new(&python);
                command.arg(&script);
                rank_environment(&mut command, rank, world, port);
                // One compute thread a rank, as torchrun sets it, and the loopback interface.
                command.env("OMP_NUM_THREADS", "1").env("GLOO_SOCKET_IFNAME", loopback());
                command
            })
            .collect();
        Ok(Ok(Spec { name: self.name().into(), processes }))
    }

    fn mpi(self, world: u32, transport: Transport, target: &Path) -> Result<Found> {
        let (suffix, packages) = match self {
            Self::OpenMpi => ("openmpi", "openmpi-bin libopenmpi-dev"),
            _ => ("mpich", "mpich libmpich-dev"),
        };
        let launchers = [format!("mpiexec.{suffix}"), format!("mpirun.{suffix}")];
        let launcher = launchers.iter().find(|name| on_path(name));
        let compiler = format!("mpicc.{suffix}");
        let Some(launcher) = launcher.filter(|_| on_path(&compiler)) else {
            return Ok(Err(Missing {
                peer: self.name(),
                what: format!("`{}` or `{compiler}` is not on the path", launchers[0]),
                how: format!("apt-get install {packages}"),
            }));
        };
        let program = compile(&compiler, suffix, target)?;
        let mut command = Command::new(launcher);
        command.args(["-n", &world.to_string()]);
        match self {
            Self::OpenMpi => open_mpi_options(&mut command, world, transport, cores()),
            _ => mpich_options(&mut command, transport),
        }
        command.arg(program);
        Ok(Ok(Spec { name: self.name().into(), processes: vec![command] }))
    }
}

/// How Open MPI's bytes travel; everything else is left at its defaults.
///
/// The named transports are the only ones, so a run that cannot use them fails instead of taking others.
fn open_mpi_options(command: &mut Command, world: u32, transport: Transport, cores: u64) {
    command.arg("--allow-run-as-root");
    // Told so, its ranks yield the core while they wait; with a core each they need not.
    if u64::from(world) > cores {
        command.arg("--oversubscribe");
    }
    match transport {
        Transport::Tcp => {
            command.args(["--mca", "pml", "ob1", "--mca", "btl", "tcp,self"]);
            command.args(["--mca", "btl_tcp_if_include", loopback()]);
        }
        Transport::Shm | Transport::Arena => {
            // The byte transfer layers are ob1's: another layer above would not look at them.
            command.args(["--mca", "pml", "ob1", "--mca", "btl", "self,vader"]);
        }
        Transport::Auto | Transport::Local => {}
    }
}

/// How MPICH's bytes travel: between ranks of one host it shares memory unless told otherwise.
fn mpich_options(command: &mut Command, transport: Transport) {
    if transport.is_tcp() {
        // Debian's MPICH talks through UCX, others through libfabric: tell both.
        command.env("MPIR_CVAR_NOLOCAL", "1");
        command.env("UCX_TLS", "tcp,self").env("UCX_NET_DEVICES", loopback());
        command.env("FI_PROVIDER", "tcp");
    }
}

/// Sets what torch and `ProcessGroup::from_env` read.
pub fn rank_environment(command: &mut Command, rank: u32, world: u32, port: u16) {
    command
        .env("RANK", rank.to_string())
        .env("LOCAL_RANK", rank.to_string())
        .env("WORLD_SIZE", world.to_string())
        .env("LOCAL_WORLD_SIZE", world.to_string())
        .env("MASTER_ADDR", "127.0.0.1")
        .env("MASTER_PORT", port.to_string());
}

/// A port that was free a moment ago.
///
/// # Errors
/// The loopback interface gives none.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free loopback port")?;
    Ok(listener.local_addr()?.port())
}

/// Compiles the MPI peer unless the program is newer than its source.
fn compile(compiler: &str, suffix: &str, target: &Path) -> Result<PathBuf> {
    let source = peers_folder().join("mpi_peer.c");
    let folder = target.join("bench-peers");
    fs::create_dir_all(&folder)?;
    let program = folder.join(format!("mpi_peer.{suffix}"));
    let age = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
    if age(&program).is_some_and(|built| Some(built) > age(&source)) {
        return Ok(program);
    }
    let output = Command::new(compiler)
        .args(["-O2", "-pthread", "-o"])
        .args([&program, &source])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{compiler}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{compiler}` cannot compile {}:\n{said}", source.display());
    }
    Ok(program)
}

fn peers_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")
}

fn loopback() -> &'static str {
    if cfg!(target_os = "macos") { "lo0" } else { "lo" }
}

fn on_path(program: &str) -> bool {
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_peer_says_how_to_get_it() {
        let missing = Missing {
            peer: "mpich",
            what: "`mpicc.mpich` is not on the path".into(),
            how: "apt-get install mpich libmpich-dev".into(),
        };
        assert_eq!(
            missing.to_string(),
            "mpich: `mpicc.mpich` is not on the path; to get it: apt-get install mpich libmpich-dev"
        );
        assert!(!on_path("no-such-program-anywhere"));
        assert!(on_path("sh"));
    }

    #[test]
    fn open_mpi_is_held_to_the_transport_asked_for() {
        let options = |world, transport| {
            let mut command = Command::new("true");
            open_mpi_options(&mut command, world, transport, 2);
            let told: Vec<_> = command.get_args().filter_map(|a| a.to_str()).collect();
            told.join(" ")
        };
        assert_eq!(
            options(2, Transport::Shm),
            "--allow-run-as-root --mca pml ob1 --mca btl self,vader"
        );
        assert_eq!(options(2, Transport::Auto), "--allow-run-as-root");
        assert_eq!(options(3, Transport::Auto), "--allow-run-as-root --oversubscribe");
        assert!(options(2, Transport::Tcp).contains("--mca btl tcp,self"));
    }

    #[test]
    fn torch_gets_a_process_a_rank_with_its_place() {
        let mut command = Command::new("true");
        rank_environment(&mut command, 3, 8, 4242);
        let set: Vec<_> =
            command.get_envs().filter_map(|(k, v)| Some((k.to_str()?, v?.to_str()?))).collect();
        assert!(set.contains(&("RANK", "3")) && set.contains(&("WORLD_SIZE", "8")));
        assert!(set.contains(&("MASTER_PORT", "4242")));
    }

    #[test]
    fn free_ports_are_real() {
        assert!(free_port().unwrap() > 0);
    }
}
