//! Jobs that real launchers start: the `all_reduce` example under `mpirun` of Open MPI and of MPICH, under `torchrun` and
//! under `srun`. Where a launcher is missing its test prints `SKIP`, or fails if `ALLHANDS_REQUIRE_MPI=1`,
//! `ALLHANDS_REQUIRE_TORCH=1` or `ALLHANDS_REQUIRE_SLURM=1`. `ALLHANDS_TORCHRUN` names a torchrun that is not in the path.
#![allow(missing_docs, clippy::print_stderr, reason = "test code")]

use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use allhands::env::{Launcher, REQUIRED, report_error};
use allhands::prelude::*;
use serde_json::Value;

/// Far more than a launcher needs; what hangs is killed then.
const LIMIT: Duration = Duration::from_secs(180);

/// How often a wait looks again.
const LOOK: Duration = Duration::from_millis(10);

/// Says to a test that it is a rank.
const WORKER: &str = "ALLHANDS_TEST_WORKER";

/// The example, as cargo has built it. It is not built with a test that is run by its name, so cargo is asked once more.
fn example() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--offline", "--package", "allhands"])
            .args(["--example", "all_reduce", "--profile", profile])
            .args(["--message-format", "json-render-diagnostics"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo starts");
        let errors = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "cargo cannot build the example: {errors}");
        let messages = String::from_utf8_lossy(&built.stdout);
        let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        messages
            .filter(|message| message["target"]["name"] == "all_reduce")
            .find_map(|message| message["executable"].as_str().map(PathBuf::from))
            .expect("cargo names the example")
    })
}

/// A process that is killed if nobody waits for it.
struct Running {
    child: Child,
    folder: tempfile::TempDir,
}

/// What a process said and how it ended.
#[derive(Debug)]
struct Ended {
    success: bool,
    output: String,
    errors: String,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name| File::create(folder.path().join(name)).expect("a file");
        // Nothing of a launcher that runs the tests themselves.
        let markers = Launcher::ALL.map(Launcher::marker);
        for variable in markers.iter().chain(&REQUIRED[1..3]) {
            command.env_remove(variable);
        }
        command.stdin(Stdio::null()).stdout(file("output")).stderr(file("errors"));
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, folder }
    }

    fn wait(mut self) -> Ended {
        let deadline = Instant::now() + LIMIT;
        let read = |name: &str| {
            let bytes = fs::read(self.folder.path().join(name)).expect("readable");
            String::from_utf8_lossy(&bytes).into_owned()
        };
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                let (output, errors) = (read("output"), read("errors"));
                return Ended { success: status.success(), output, errors };
            }
            assert!(Instant::now() < deadline, "after {LIMIT:?}: {}", read("errors"));
            std::thread::park_timeout(LOOK);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// Asserts that `world` ranks have met and have the right results.
    fn assert_results(&self, world: u32) {
        assert!(self.success, "{self:?}");
        let mut said: Vec<_> = self.output.lines().filter(|line| !line.is_empty()).collect();
        said.sort_unstable();
        let (sum, largest) = (world * (world + 1) / 2, world - 1);
        let line = |rank| format!("rank {rank} of {world}: sum {sum}, largest {largest}");
        assert_eq!(said, (0..world).map(line).collect::<Vec<_>>(), "{}", self.errors);
    }
}

/// The first of `programs` that starts and says one of `names` of its version.
fn find(programs: &[&str], names: &[&str]) -> Option<String> {
    let is_one = |program: &&&str| {
        let version = Command::new(program).arg("--version").stdin(Stdio::null()).output();
        version.is_ok_and(|version| {
            let text = String::from_utf8_lossy(&version.stdout).into_owned();
            names.iter().any(|name| text.contains(name))
        })
    };
    programs.iter().find(is_one).map(|program| (*program).to_owned())
}

/// Says that a test is skipped, unless it has to run.
fn skip(what: &str, require: &str) {
    assert!(std::env::var(require).as_deref() != Ok("1"), "no {what}, though it is required");
    writeln!(std::io::stderr(), "SKIP no {what}").expect("standard error is open");
}

fn free_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").port().to_string()
}

fn open_mpi(program: &str, ranks: &str) -> Command {
    let mut command = Command::new(program);
    // Ranks may be more than cores, and containers run tests as root.
    command.args(["--oversubscribe", "-n", ranks]).arg(example());
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command.env_remove("MASTER_PORT");
    command
}

#[test]
fn open_mpi_starts_ranks_and_two_of_its_jobs_at_once() {
    let Some(program) = find(&["mpirun.openmpi", "mpirun"], &["Open MPI"]) else {
        return skip("mpirun of Open MPI", "ALLHANDS_REQUIRE_MPI");
    };
    let jobs = ["3", "2"].map(|ranks| Running::start(&mut open_mpi(&program, ranks)));
    let [three, two] = jobs.map(Running::wait);
    three.assert_results(3);
    two.assert_results(2);
}

#[test]
fn mpich_starts_ranks() {
    let names = ["HYDRA", "Intel(R) MPI"];
    let Some(program) = find(&["mpirun.mpich", "mpiexec.hydra", "mpirun"], &names) else {
        return skip("mpirun of MPICH", "ALLHANDS_REQUIRE_MPI");
    };
    let mut command = Command::new(program);
    command.args(["-n", "3"]).arg(example());
    // MPICH has no name for a job, so that two on one host need ports of their own.
    command.env("MASTER_PORT", free_port());
    Running::start(&mut command).wait().assert_results(3);
}

#[test]
fn slurm_starts_ranks() {
    // Where there is a cluster, a step may have to wait for longer than a test should.
    if std::env::var("ALLHANDS_REQUIRE_SLURM").as_deref() != Ok("1") {
        return skip("wish for a job of Slurm", "ALLHANDS_REQUIRE_SLURM");
    }
    let mut command = Command::new("srun");
    command.args(["--nodes=1", "--ntasks=3"]).arg(example()).env_remove("MASTER_PORT");
    Running::start(&mut command).wait().assert_results(3);
}

fn torchrun() -> Option<Command> {
    let program = std::env::var_os("ALLHANDS_TORCHRUN").unwrap_or_else(|| "torchrun".into());
    let help = Command::new(&program).arg("--help").stdin(Stdio::null()).output();
    if !help.is_ok_and(|help| help.status.success()) {
        skip("torchrun", "ALLHANDS_REQUIRE_TORCH");
        return None;
    }
    let mut command = Command::new(program);
    command.arg("--no-python").env_remove("MASTER_PORT");
    Some(command)
}

#[test]
fn torchrun_starts_ranks() {
    let Some(mut command) = torchrun() else { return };
    command.args(["--nproc-per-node", "3"]).arg(example());
    Running::start(&mut command).wait().assert_results(3);
}

#[test]
fn what_a_rank_reports_is_torchruns_root_cause() {
    let name = "what_a_rank_reports_is_torchruns_root_cause";
    if std::env::var_os(WORKER).is_some() {
        let group = ProcessGroup::from_env().expect("torchrun's variables are enough");
        group.barrier().expect("both are here");
        if group.rank() == Rank(1) {
            let error = group.broadcast(&mut [0.0f32], Rank(7)).expect_err("there is no rank 7");
            report_error(&error);
            std::process::exit(3);
        }
        return;
    }
    let Some(mut command) = torchrun() else { return };
    let program = std::env::current_exe().expect("a test has a program");
    command.args(["--nproc-per-node", "2"]).arg(program);
    command.args([name, "--exact", "--nocapture"]).env(WORKER, "1");
    let ended = Running::start(&mut command).wait();
    assert!(!ended.success, "{ended:?}");
    let summary = ended.errors.split("Root Cause").nth(1).unwrap_or_default();
    for part in ["rank      : 1", "exitcode  : 3", "root 7 is not in the group"] {
        assert!(summary.contains(part), "{part:?} is not in the summary: {}", ended.errors);
    }
}
