//! Hosts on one machine: network namespaces joined by a bridge, with links of a given rate.
//!
//! Processes in different namespaces reach each other by the bridge alone; neither loopback nor shared memory
//! joins them. Making namespaces takes root and the programs `ip` and `tc`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Most hosts of a rig.
pub const HOSTS_MAX: u32 = 200;

/// How the names of all namespaces begin; the number of the process that made them follows.
const PREFIX: &str = "allhands-";

/// Rigs of this process, which need different names.
static RIGS: AtomicU32 = AtomicU32::new(0);

/// Hosts that stand until this is dropped.
#[derive(Debug)]
pub struct Hosts {
    prefix: String,
    hosts: u32,
}

impl Hosts {
    /// `hosts` hosts, each of whose links sends at most `mbit` Mbit/s if that is given.
    ///
    /// # Errors
    /// Why there can be none here: what `ip` or `tc` said. Nothing is left behind.
    pub fn start(hosts: u32, mbit: Option<u32>) -> Result<Self, String> {
        if !(1..=HOSTS_MAX).contains(&hosts) {
            return Err(format!("{hosts} hosts were asked for; there may be 1 to {HOSTS_MAX}"));
        }
        sweep();
        let number = RIGS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{PREFIX}{}-{number}", std::process::id());
        // From here on, dropping takes away whatever is there already.
        let rig = Self { prefix, hosts };
        let switch = rig.switch();
        run("ip", &["netns", "add", &switch])?;
        run("ip", &["-n", &switch, "link", "add", "bridge", "type", "bridge"])?;
        run("ip", &["-n", &switch, "link", "set", "bridge", "up"])?;
        for host in 0..hosts {
            let name = rig.name(host);
            let port = format!("port{host}");
            let address = format!("{}/24", rig.address(host));
            run("ip", &["netns", "add", &name])?;
            let pair = ["link", "add", &port, "netns", &switch, "type", "veth"];
            run("ip", &[&pair[..], &["peer", "name", "eth0", "netns", &name]].concat())?;
            run("ip", &["-n", &switch, "link", "set", &port, "master", "bridge", "up"])?;
            run("ip", &["-n", &name, "address", "add", &address, "dev", "eth0"])?;
            run("ip", &["-n", &name, "link", "set", "lo", "up"])?;
            run("ip", &["-n", &name, "link", "set", "eth0", "up"])?;
            if let Some(mbit) = mbit {
                let rate = format!("{mbit}mbit");
                // A host's own queue makes senders wait; it drops nothing.
                let limit = ["rate", &rate, "burst", "256kb", "latency", "1s"];
                let place = ["-n", &name, "qdisc", "add", "dev", "eth0", "root", "tbf"];
                run("tc", &[&place[..], &limit].concat())?;
            }
        }
        Ok(rig)
    }

    /// The address of a host.
    #[must_use]
    pub fn address(&self, host: u32) -> String {
        format!("10.77.0.{}", host + 1)
    }

    /// The same command, run on `host`. What it does with its standard streams is not carried over.
    #[must_use]
    pub fn on(&self, host: u32, command: &Command) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.name(host)]);
        inside.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }

    /// Bytes that a host has sent through its link, headers included.
    ///
    /// # Errors
    /// What the system says if it does not tell.
    pub fn sent(&self, host: u32) -> Result<u64, String> {
        let mut command = Command::new("cat");
        command.arg("/sys/class/net/eth0/statistics/tx_bytes");
        let output = self.on(host, &command).output().map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout);
        text.trim().parse().map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn name(&self, host: u32) -> String {
        format!("{}-{host}", self.prefix)
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.prefix)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in (0..self.hosts).map(|host| self.name(host)).chain([self.switch()]) {
            // What was never made cannot be taken away, and need not be.
            let _ = run("ip", &["netns", "delete", &name]);
        }
    }
}

/// Takes away what processes left that were killed.
fn sweep() {
    let Ok(output) = Command::new("ip").args(["netns", "list"]).output() else { return };
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let process = process.and_then(|number| number.parse::<u32>().ok());
        if process.is_some_and(|number| !Path::new(&format!("/proc/{number}")).exists()) {
            // Another process may be faster.
            let _ = run("ip", &["netns", "delete", name]);
        }
    }
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let told = || format!("`{program} {}`", args.join(" "));
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", told()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}: {}", told(), String::from_utf8_lossy(&output.stderr).trim()))
}
