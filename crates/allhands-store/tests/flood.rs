//! A server with few descriptors under floods of connections and garbage. It runs in a process of its own, whose
//! descriptors and memory are then its own too.
#![cfg(target_os = "linux")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the two processes talk through their output"
)]

mod common;

use allhands_store::server::STRAYS_MAX;
use allhands_store::{ClientOptions, Endpoint, ServerOptions, Store, TcpStore, TcpStoreServer};
use common::{VALIDATE, eventually, number, request};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(30);
const ROLE: &str = "ALLHANDS_STORE_FLOOD_SERVER";

/// Descriptors that the server process may have beyond those it starts with.
const DESCRIPTORS: u64 = 80;

fn descriptors(process: &str) -> u64 {
    std::fs::read_dir(format!("/proc/{process}/fd")).expect("readable").count() as u64
}

/// Kilobytes of memory that the process really has.
fn resident(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("readable");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("a line");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

/// Not a test by itself: the process that the test below starts.
#[test]
fn server_process() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let limit = descriptors("self") + DESCRIPTORS;
    let old = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(limit), ..old }).expect("settable");
    let address = "127.0.0.1:0".parse().expect("an address");
    let server = TcpStoreServer::bind(address, ServerOptions::new()).expect("serves");
    println!("port {}", server.local_addr().port());
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input).expect("readable");
}

struct Server {
    process: Child,
    /// Kept open: the test harness in the process has last words.
    output: BufReader<ChildStdout>,
    endpoint: Endpoint,
}

impl Server {
    fn start() -> Self {
        let mut process = Command::new(std::env::current_exe().expect("a path"))
            .args(["--exact", "server_process", "--nocapture", "--test-threads=1"])
            .env(ROLE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut output = BufReader::new(process.stdout.take().expect("piped"));
        let port = loop {
            let mut line = String::new();
            assert!(output.read_line(&mut line).expect("readable") > 0, "it ended early");
            // The test harness writes its own words into the same line.
            if let Some((_, port)) = line.split_once("port ") {
                break port.trim().parse().expect("a port");
            }
        };
        Self { process, output, endpoint: Endpoint::new("127.0.0.1", port) }
    }

    fn id(&self) -> String {
        self.process.id().to_string()
    }

    fn stream(&self) -> Option<TcpStream> {
        let address = (self.endpoint.host(), self.endpoint.port());
        let stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(LONG)).ok()?;
        stream.set_write_timeout(Some(LONG)).ok()?;
        Some(stream)
    }

    fn connect(&self) -> TcpStore {
        TcpStore::connect(self.endpoint.clone(), ClientOptions::new().timeout(LONG)).expect("in")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let mut last_words = String::new();
        let read = self.output.read_to_string(&mut last_words);
        let status = self.process.wait();
        if !std::thread::panicking() {
            assert!(read.is_ok(), "{read:?}");
            assert!(status.expect("it ended").success(), "it survives to the end: {last_words}");
        }
    }
}

/// An honest exchange.
fn serve_honestly(store: &TcpStore, round: i64) {
    assert_eq!(store.add("rounds", 1).expect("add"), round);
    let value = round.to_string();
    store.set("round", value.as_bytes()).expect("set");
    assert_eq!(store.get("round").expect("get"), value.as_bytes());
}

#[test]
fn floods_leave_nothing_behind() {
    let server = Server::start();
    let id = server.id();
    let store = server.connect();
    serve_honestly(&store, 1);
    let (base_fds, base_memory) = (descriptors(&id), resident(&id));
    let mut most_fds = 0;
    let mut round = 1;

    // Silent ones, kept open here as long as the server likes.
    let mut silent = Vec::new();
    for index in 0..3000 {
        silent.extend(server.stream());
        if index % 100 == 0 {
            round += 1;
            serve_honestly(&store, round);
            most_fds = most_fds.max(descriptors(&id));
        }
    }
    // A newcomer gets in among them.
    server.connect().set("newcomer", b"in").expect("set");
    drop(silent);

    // Garbage, other protocols, and those that hang up at once.
    let garbage: Vec<u8> = (0..64 << 10_u32).map(|index| ((index * 7919) >> 3) as u8 | 1).collect();
    for index in 0..600 {
        let Some(mut stream) = server.stream() else { continue };
        let words: &[u8] = match index % 4 {
            0 => &garbage,
            1 => b"GET / HTTP/1.1\r\nHost: store\r\n\r\n",
            2 => b"\x16\x03\x01\x00\xf4\x01\x00\x00\xf0\x03\x03",
            _ => b"",
        };
        // The server may close before all is written.
        let _ = stream.write_all(words);
        if index % 100 == 0 {
            round += 1;
            serve_honestly(&store, round);
            most_fds = most_fds.max(descriptors(&id));
        }
    }

    // Greeted ones that begin a large request, and leave.
    for _ in 0..200 {
        let Some(mut stream) = server.stream() else { continue };
        let begun = request(0x0b, &[number(100_000), number(2), b"/k".to_vec(), number(8 << 20)]);
        let _ = stream.write_all(&[VALIDATE, &begun, &garbage].concat());
        let _ = stream.shutdown(Shutdown::Both);
    }
    round += 1;
    serve_honestly(&store, round);

    let strays = STRAYS_MAX as u64;
    assert!(most_fds <= base_fds + strays + 8, "{most_fds} descriptors, {base_fds} before");
    assert!(eventually(LONG, || descriptors(&id) <= base_fds + 1), "{} stay", descriptors(&id));
    let memory = resident(&id).saturating_sub(base_memory);
    assert!(memory <= 4096, "{memory} kB more than before");
    eprintln!("at most {} descriptors and finally {memory} kB more", most_fds - base_fds);
    assert_eq!(store.num_keys().expect("num_keys"), 3);
}

#[test]
fn running_out_of_descriptors_is_survived() {
    let server = Server::start();
    let id = server.id();
    let store = server.connect();
    serve_honestly(&store, 1);
    // Well-behaved clients, more than there are descriptors for; none is a stray that could be closed.
    let mut greeted = Vec::new();
    for _ in 0..2 * DESCRIPTORS {
        let mut stream = server.stream().expect("the system accepts");
        if stream.write_all(VALIDATE).is_ok() {
            greeted.push(stream);
        }
    }
    let full = || descriptors(&id) >= DESCRIPTORS;
    assert!(eventually(LONG, full), "{} descriptors", descriptors(&id));
    serve_honestly(&store, 2);
    // It waits for descriptors without burning the processor.
    let ticks = || -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).expect("readable");
        let fields: Vec<_> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
        fields[11].parse::<u64>().expect("a number") + fields[12].parse::<u64>().expect("a number")
    };
    let (before, start) = (ticks(), Instant::now());
    assert!(!eventually(Duration::from_secs(1), || false));
    let (used, passed) = (ticks() - before, start.elapsed());
    // A tick is a hundredth of a second.
    assert!(used as f64 <= passed.as_secs_f64() * 20.0, "{used} ticks in {passed:?}");
    serve_honestly(&store, 3);
    drop(greeted);
    // And it recovers.
    server.connect().set("newcomer", b"in").expect("set");
    assert!(eventually(LONG, || descriptors(&id) < DESCRIPTORS / 2), "they are released");
}
