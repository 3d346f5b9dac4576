//! Starts the processes of one system, talks to its ranks, and leaves none behind.
//!
//! Every rank connects back to a Unix socket in a private folder. A rank whose socket closes ends
//! at once, so ranks die with the driver however it ends; on every orderly path the driver also
//! kills and reaps its children itself. What children print is kept (bounded) and shown when
//! something goes wrong.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal};

use super::protocol::{CONTROL_VARIABLE, Reply};

/// How often a wait looks whether a child has died.
const WATCH: Duration = Duration::from_millis(50);
/// How long a child may take to leave after `quit` or SIGTERM before it is killed.
const LEAVE: Duration = Duration::from_secs(5);
/// How long the other ranks may take to answer after one reported an error.
const ERROR_GRACE: Duration = Duration::from_secs(5);
/// Lines of a child's output that are kept.
const WORDS_KEPT: usize = 40;

/// What to start: one process a rank, or one launcher that starts them all.
#[derive(Debug)]
pub struct Spec {
    /// The system's name in tables.
    pub name: String,
    /// Its processes; the control socket's path is added to their environment.
    pub processes: Vec<Command>,
}

/// A running system: its processes and a control socket to every rank.
#[derive(Debug)]
pub struct System {
    name: String,
    what: String,
    children: Vec<Child>,
    ranks: Vec<UnixStream>,
    events: Receiver<(u32, Event)>,
    words: Words,
}

#[derive(Debug)]
enum Event {
    Line(String),
    Closed,
}

/// The last lines that the children printed.
#[derive(Clone, Debug, Default)]
struct Words(Arc<Mutex<VecDeque<String>>>);

impl Words {
    fn listen(&self, stream: impl Read + Send + 'static) {
        let words = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                let mut kept = words.0.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() == WORDS_KEPT {
                    kept.pop_front();
                }
                kept.push_back(String::from_utf8_lossy(&line).into_owned());
            }
        });
    }

    fn last(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_empty() {
            return "it printed nothing".into();
        }
        let lines: Vec<_> = kept.iter().map(|line| format!("  | {line}")).collect();
        format!("its last words:\n{}", lines.join("\n"))
    }
}

impl System {
    /// Starts `spec` and waits until `world` ranks have said hello.
    ///
    /// # Errors
    /// A process cannot be started, ends early, or not all ranks came within `limit`; everything
    /// that was started is killed.
    pub fn start(spec: Spec, world: u32, limit: Duration) -> Result<Self> {
        let deadline = Instant::now() + limit;
        let folder = tempfile::Builder::new().prefix("allhands-bench-").tempdir()?;
        let path = folder.path().join("control");
        let listener = UnixListener::bind(&path)
            .with_context(|| format!("cannot listen on {}", path.display()))?;
        listener.set_nonblocking(true)?;
        let (sender, events) = mpsc::channel();
        let mut system = Self {
            name: spec.name,
            what: String::new(),
            children: Vec::new(),
            ranks: Vec::new(),
            events,
            words: Words::default(),
        };
        for mut command in spec.processes {
            let mut child = command
                .env(CONTROL_VARIABLE, &path)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .with_context(|| format!("cannot start {:?}", command.get_program()))?;
            if let Some(out) = child.stdout.take() {
                system.words.listen(out);
            }
            if let Some(err) = child.stderr.take() {
                system.words.listen(err);
            }
            system.children.push(child);
        }
        system.welcome(&listener, world, deadline, &sender)?;
        // Everybody is here: the path can go, so that not even a killed driver leaves it behind.
        folder.close().context("cannot remove the control socket's folder")?;
        Ok(system)
    }

    /// Accepts connections until every rank is there.
    fn welcome(
        &mut self,
        listener: &UnixListener,
        world: u32,
        deadline: Instant,
        sender: &Sender<(u32, Event)>,
    ) -> Result<()> {
        let mut arrived: Vec<Option<UnixStream>> = (0..world).map(|_| None).collect();
        let mut missing = world;
        while missing > 0 {
            self.check_children()?;
            if Instant::now() >= deadline {
                let absent: Vec<_> =
                    (0..world).filter(|r| arrived[*r as usize].is_none()).collect();
                bail!("{}: ranks {absent:?} did not come up; {}", self.name, self.words.last());
            }
            if !readable(listener, WATCH)? {
                continue;
            }
            let (stream, _) = listener.accept()?;
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(
                deadline.saturating_duration_since(Instant::now()).max(WATCH),
            ))?;
            let mut lines = BufReader::new(stream.try_clone()?);
            let mut line = String::new();
            let read = lines.read_line(&mut line);
            if !matches!(read, Ok(n) if n > 0) {
                self.autopsy()?;
                bail!("{}: a rank left before it said hello; {}", self.name, self.words.last());
            }
            let Ok(Reply::Hello { rank, what, .. }) = serde_json::from_str(&line) else {
                bail!("{}: a rank's first line is no hello: {}", self.name, line.trim_end());
            };
            let Some(place @ None) = arrived.get_mut(rank as usize) else {
                bail!("{}: rank {rank} came twice or is outside the world of {world}", self.name);
            };
            stream.set_read_timeout(None)?;
            *place = Some(stream);
            missing -= 1;
            self.what = what;
            let sender = sender.clone();
            thread::spawn(move || {
                for line in lines.lines().map_while(Result::ok) {
                    if sender.send((rank, Event::Line(line))).is_err() {
                        return;
                    }
                }
                // The receiver is gone when the system was dropped first.
                let _ = sender.send((rank, Event::Closed));
            });
        }
        self.ranks = arrived.into_iter().flatten().collect();
        Ok(())
    }

    /// The system's name in tables.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The system's own description with its version.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Process ids of the children: ranks, or the launcher.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }

    /// Sends `line` to every rank and collects the answers, in the order of ranks.
    ///
    /// # Errors
    /// As [`Self::ask_each`].
    pub fn ask(&mut self, line: &str, limit: Duration) -> Result<Vec<Reply>> {
        let lines: Vec<_> =
            (0..).take(self.ranks.len()).map(|rank| (rank, line.to_owned())).collect();
        self.ask_each(&lines, limit)
    }

    /// Sends a line to each of the given ranks and collects their answers in the same order.
    ///
    /// # Errors
    /// A rank reported an error, died, or did not answer within `limit`. Afterwards the system
    /// must not be used any more unless every rank reported an error of its own.
    pub fn ask_each(&mut self, lines: &[(u32, String)], limit: Duration) -> Result<Vec<Reply>> {
        let mut deadline = Instant::now() + limit;
        for (rank, line) in lines {
            let stream = self.ranks.get_mut(*rank as usize).context("a rank outside the world")?;
            stream
                .write_all(format!("{line}\n").as_bytes())
                .with_context(|| format!("{}: rank {rank} is gone", self.name))?;
        }
        let mut replies: Vec<Option<Reply>> = lines.iter().map(|_| None).collect();
        let mut trouble = None;
        while let Some(open) = replies.iter().position(Option::is_none) {
            let asked = &lines[open];
            let wait = deadline.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                let (rank, line) = asked;
                let late = anyhow!(
                    "{}: rank {rank} did not answer `{}` within {limit:?}; {}",
                    self.name,
                    head(line),
                    self.words.last()
                );
                return Err(trouble.unwrap_or(late));
            }
            let (rank, event) = match self.events.recv_timeout(wait.min(WATCH)) {
                Ok(event) => event,
                Err(RecvTimeoutError::Timeout) => {
                    self.check_children()?;
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => bail!("{}: all ranks are gone", self.name),
            };
            let Event::Line(text) = event else {
                self.autopsy()?;
                bail!("{}: rank {rank} closed its socket; {}", self.name, self.words.last());
            };
            let reply: Reply = serde_json::from_str(&text)
                .with_context(|| format!("{}: rank {rank} said `{text}`", self.name))?;
            if let Reply::Error(why) = &reply {
                let what = anyhow!("{}: rank {rank}, `{}`: {why}", self.name, head(&asked.1));
                trouble.get_or_insert(what);
                deadline = deadline.min(Instant::now() + ERROR_GRACE);
            }
            let place = lines.iter().position(|(r, _)| *r == rank);
            match place.and_then(|at| replies.get_mut(at)) {
                Some(slot @ None) => *slot = Some(reply),
                _ => bail!("{}: rank {rank} spoke without being asked: {text}", self.name),
            }
        }
        match trouble {
            Some(err) => Err(err),
            None => Ok(replies.into_iter().flatten().collect()),
        }
    }

    /// Asks every rank to leave and waits for the processes; kills what does not go.
    pub fn finish(mut self) {
        for stream in &mut self.ranks {
            // A rank that is gone already needs no farewell.
            let _ = stream.write_all(b"quit\n");
        }
        let deadline = Instant::now() + LEAVE;
        for child in &mut self.children {
            wait_until(child, deadline);
        }
    }

    /// Fails with a child's exit status once it is known; a socket closes a little earlier.
    fn autopsy(&mut self) -> Result<()> {
        let deadline = Instant::now() + ERROR_GRACE;
        while Instant::now() < deadline {
            self.check_children()?;
            thread::park_timeout(WATCH);
        }
        Ok(())
    }

    /// Fails when a child has ended.
    fn check_children(&mut self) -> Result<()> {
        for (at, child) in self.children.iter_mut().enumerate() {
            if let Some(status) = child.try_wait()? {
                // Its last lines may still be on their way through the pipe.
                thread::park_timeout(WATCH);
                bail!("{}: process {at} ended with {status}; {}", self.name, self.words.last());
            }
        }
        Ok(())
    }
}

impl Drop for System {
    fn drop(&mut self) {
        for stream in &self.ranks {
            // Closing is the signal that ends a rank, also one that a launcher started.
            let _ = stream.shutdown(Shutdown::Both);
        }
        for child in &mut self.children {
            if matches!(child.try_wait(), Ok(None)) {
                // A launcher clears up after itself when it is asked politely.
                let _ = rustix::process::kill_process(Pid::from_child(child), Signal::TERM);
            }
        }
        let deadline = Instant::now() + LEAVE;
        for child in &mut self.children {
            if !wait_until(child, deadline) {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// Waits for a child until `deadline`; whether it has ended.
fn wait_until(child: &mut Child, deadline: Instant) -> bool {
    loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < deadline => thread::park_timeout(Duration::from_millis(5)),
            Ok(None) => return false,
            Ok(Some(_)) | Err(_) => return true,
        }
    }
}

/// Waits until a connection can be accepted; `false` when `limit` has passed.
fn readable(listener: &UnixListener, limit: Duration) -> Result<bool> {
    let limit = Timespec { tv_sec: limit.as_secs() as _, tv_nsec: limit.subsec_nanos().into() };
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    match rustix::event::poll(&mut fds, Some(&limit)) {
        Ok(n) => Ok(n > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(err) => Err(err).context("poll"),
    }
}

/// The beginning of a command, for messages.
fn head(line: &str) -> &str {
    line.char_indices().nth(60).map_or(line, |(at, _)| &line[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rank written in Python's standard library, with the given body of its command loop.
    fn rank(rank: u32, body: &str) -> Command {
        let script = format!(
            "import os,socket,sys,time,json\n\
             s=socket.socket(socket.AF_UNIX); s.connect(os.environ['{CONTROL_VARIABLE}'])\n\
             say=lambda x: s.sendall((json.dumps(x)+'\\n').encode())\n\
             say({{'hello':{{'rank':{rank},'pid':os.getpid(),'what':'test'}}}})\n\
             for line in s.makefile('r'):\n    line=line.strip()\n    {body}\n"
        );
        let mut command = Command::new("python3");
        command.args(["-c", &script]);
        command
    }

    fn spec(processes: Vec<Command>) -> Spec {
        Spec { name: "test".into(), processes }
    }

    fn alive(pid: u32) -> bool {
        // A zombie that nobody reaped would also have a folder.
        std::path::Path::new(&format!("/proc/{pid}")).exists()
    }

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn ranks_answer_in_order_and_are_gone_afterwards() {
        let body = "say({'elapsed':int(line)})";
        let mut system = System::start(spec(vec![rank(1, body), rank(0, body)]), 2, LIMIT).unwrap();
        assert_eq!(system.what(), "test");
        let replies = system.ask("7", LIMIT).unwrap();
        assert_eq!(replies, [Reply::Elapsed(7), Reply::Elapsed(7)]);
        let replies = system.ask_each(&[(1, "5".into()), (0, "6".into())], LIMIT).unwrap();
        assert_eq!(replies, [Reply::Elapsed(5), Reply::Elapsed(6)]);
        let pids = system.pids();
        assert!(pids.iter().all(|pid| alive(*pid)));
        drop(system);
        assert!(!pids.iter().any(|pid| alive(*pid)));
    }

    #[test]
    fn a_rank_that_ignores_everything_is_killed() {
        let body = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); say('ready'); time.sleep(600)";
        let mut system = System::start(spec(vec![rank(0, body)]), 1, LIMIT).unwrap();
        assert_eq!(system.ask("now", LIMIT).unwrap(), [Reply::Ready]);
        let err = system.ask("more", Duration::from_millis(100)).unwrap_err().to_string();
        assert!(err.contains("rank 0 did not answer `more`"), "{err}");
        let pids = system.pids();
        drop(system);
        assert!(!alive(pids[0]));
    }

    #[test]
    fn a_death_is_reported_with_its_last_words() {
        let body = "print('out of luck', file=sys.stderr); sys.exit(9)";
        let quiet = "time.sleep(600)";
        let mut system =
            System::start(spec(vec![rank(0, quiet), rank(1, body)]), 2, LIMIT).unwrap();
        let err = system.ask("go", LIMIT).unwrap_err().to_string();
        assert!(err.contains("process 1") && err.contains("out of luck"), "{err}");
    }

    #[test]
    fn an_error_of_all_ranks_leaves_the_system_usable() {
        let body = "say({'error':'no '+line} if line=='bad' else 'ready')";
        let mut system = System::start(spec(vec![rank(0, body), rank(1, body)]), 2, LIMIT).unwrap();
        let err = system.ask("bad", LIMIT).unwrap_err().to_string();
        assert!(err.contains("no bad"), "{err}");
        assert_eq!(system.ask("good", LIMIT).unwrap(), [Reply::Ready, Reply::Ready]);
        system.finish();
    }

    #[test]
    fn a_rank_that_never_comes_is_named() {
        let mut idle = Command::new("python3");
        idle.args(["-c", "import time; time.sleep(600)"]);
        let limit = Duration::from_secs(3);
        let err = System::start(spec(vec![rank(0, "pass"), idle]), 2, limit).unwrap_err();
        assert!(err.to_string().contains("ranks [1] did not come up"), "{err}");
        let mut gone = Command::new("python3");
        gone.args(["-c", "import sys; sys.exit('no reason')"]);
        let err = System::start(spec(vec![gone]), 1, LIMIT).unwrap_err().to_string();
        assert!(err.contains("exit status: 1") && err.contains("no reason"), "{err}");
    }
}
