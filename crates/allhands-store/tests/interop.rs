//! With real PyTorch processes. Needs a Python with torch: `ALLHANDS_PYTHON` names it, else `python3`.
//! Without one the tests print `SKIP`, or fail if `ALLHANDS_REQUIRE_TORCH=1`.
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

mod common;

use allhands_store::{
    ClientOptions, Dialect, FileStore, PrefixStore, ServerOptions, Store, StoreError, TcpStore,
    Users,
};
use common::exchanges::EXCHANGES;
use common::{VALIDATE, hex};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

fn interpreter() -> String {
    std::env::var("ALLHANDS_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

/// Whether there is a torch to talk to.
fn torch() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    let found = *FOUND.get_or_init(|| {
        let check = "import torch.distributed as d; assert d.is_available()";
        let output = Command::new(interpreter()).args(["-c", check]).output();
        output.is_ok_and(|output| output.status.success())
    });
    if !found {
        let why = format!("{} has no torch.distributed", interpreter());
        assert!(std::env::var("ALLHANDS_REQUIRE_TORCH").as_deref() != Ok("1"), "{why}");
        writeln!(std::io::stderr(), "SKIP {why}").expect("standard error is open");
    }
    found
}

struct Python(Child);

impl Python {
    fn start(script: &str, arguments: &[&str]) -> Self {
        let path = format!("{}/tests/torch/{script}", env!("CARGO_MANIFEST_DIR"));
        let child = Command::new(interpreter())
            .arg(path)
            .args(arguments)
            .env("OMP_NUM_THREADS", "1")
            .env("GLOO_SOCKET_IFNAME", "lo")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("python starts");
        Self(child)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let output = self.0.stdout.as_mut().expect("piped");
        BufReader::with_capacity(1, output).read_line(&mut line).expect("readable");
        if line.is_empty() {
            self.finish();
        }
        line.trim().to_owned()
    }

    /// Ends its input and checks that it ends well.
    fn finish(&mut self) {
        drop(self.0.stdin.take());
        let mut errors = String::new();
        let stderr = self.0.stderr.take().map(|mut stderr| stderr.read_to_string(&mut errors));
        assert!(matches!(stderr, Some(Ok(_))), "standard error is readable");
        let status = self.0.wait().expect("it ends");
        assert!(status.success(), "python failed with {status}:\n{errors}");
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn options() -> ClientOptions {
    ClientOptions::new().timeout(LIMIT).dialect(Dialect::Torch215)
}

#[test]
fn torch_is_a_client_of_our_server() {
    if !torch() {
        return;
    }
    let address = "127.0.0.1:0".parse().expect("an address");
    let store = TcpStore::host(address, ServerOptions::new(), options()).expect("serves");
    store.set("from-rust", b"\x00\xffbytes").expect("set");
    assert_eq!(store.add("counter", 10).expect("add"), 10);

    let port = store.endpoint().port().to_string();
    let mut python = Python::start("client.py", &["127.0.0.1", &port]);
    assert_eq!(store.get("from-torch").expect("get"), b"text");
    let store: Arc<dyn Store> = Arc::new(store);
    let group = PrefixStore::new("group/7", Arc::clone(&store));
    assert_eq!(group.get("rank").expect("get"), b"torch");
    assert_eq!(store.get("group/7/rank").expect("get"), b"torch");
    store.queue_push("jobs", b"from rust").expect("push");
    store.barrier("meet", 2, LIMIT).expect("meets torch");
    assert_eq!(python.line(), "done");
    python.finish();
    assert_eq!(store.get("counter").expect("get"), b"15");
    assert_eq!(store.get("swap").expect("get"), b"second");
}

#[test]
fn our_client_uses_the_libuv_server() {
    if torch() {
        use_torch_server("libuv");
    }
}

#[test]
fn our_client_uses_the_legacy_server() {
    if torch() {
        use_torch_server("legacy");
    }
}

fn replay(port: u16) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connects");
    stream.set_read_timeout(Some(LIMIT)).expect("settable");
    stream.write_all(VALIDATE).expect("writable");
    for (what, said, answer) in EXCHANGES {
        stream.write_all(&hex(said)).expect("writable");
        let expected = hex(answer);
        let mut answered = vec![0; expected.len()];
        stream.read_exact(&mut answered).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(answered, expected, "{what}");
    }
}

fn use_torch_server(kind: &str) {
    // The bytes that our own server is tested with are those of PyTorch's (the older server lacks some of them).
    let recorded = kind == "libuv";
    let mut python = Python::start("server.py", &[kind, if recorded { "bare" } else { "" }]);
    let port: u16 = python.line().parse().expect("a port");
    if recorded {
        replay(port);
    }
    let endpoint = allhands_store::Endpoint::new("localhost", port);
    for dialect in [Dialect::Torch21, Dialect::Torch25, Dialect::Torch215] {
        let options = options().dialect(dialect).world_size(1);
        let store = TcpStore::connect(endpoint.clone(), options).expect("connects");
        let key = |key: &str| format!("{dialect:?}/{key}");
        if !recorded {
            assert_eq!(store.get("from-torch").expect("get"), b"text");
        }
        store.set(&key("k"), b"\x00\xffv").expect("set");
        assert_eq!(store.get(&key("k")).expect("get"), b"\x00\xffv");
        assert_eq!(store.add(&key("n"), 5).expect("add"), 5);
        assert_eq!(store.add(&key("n"), -7).expect("add"), -2);
        assert_eq!(store.compare_set(&key("s"), b"", b"a").expect("swap"), b"a");
        assert_eq!(store.compare_set(&key("s"), b"x", b"b").expect("swap"), b"a");
        assert_eq!(store.compare_set(&key("s"), b"a", b"b").expect("swap"), b"b");
        assert_eq!(store.compare_set(&key("t"), b"x", b"b").expect("swap"), b"x");
        store.append(&key("a"), b"one").expect("append");
        store.append(&key("a"), b"two").expect("append");
        let (large, a) = (vec![7; 1 << 20], key("a"));
        store.multi_set(&[(&key("m"), b"m"), (&key("l"), &large)]).expect("multi_set");
        let values = store.multi_get(&[&a, &key("m"), &key("l")]).expect("multi_get");
        assert_eq!(values, [b"onetwo".to_vec(), b"m".to_vec(), large]);
        assert!(store.check(&[&a, &key("m")]).expect("check"));
        assert!(!store.check(&[&a, &key("absent")]).expect("check"));
        let limit = Duration::from_millis(50);
        match store.wait(&[&a, &key("absent")], limit) {
            Err(StoreError::Timeout { missing, .. }) => {
                assert_eq!(missing.shown(), [key("absent")]);
            }
            other => panic!("{other:?}"),
        }
        assert!(store.delete_key(&key("m")).expect("delete"));
        assert!(!store.delete_key(&key("m")).expect("delete"));
        store.barrier(&key("alone"), 1, LIMIT).expect("barrier");
        let other = TcpStore::connect(endpoint.clone(), self::options().dialect(dialect));
        let other = other.expect("connects");
        std::thread::scope(|threads| {
            threads.spawn(|| other.barrier(&key("both"), 2, LIMIT).expect("barrier"));
            store.barrier(&key("both"), 2, LIMIT).expect("barrier");
        });
        assert!(store.num_keys().expect("num_keys") > 5);
        assert!(store.list_keys().expect("list_keys").contains(&key("k")));
        if kind == "libuv" {
            store.queue_push(&key("q"), b"1").expect("push");
            assert_eq!(store.queue_len(&key("q")).expect("len"), 1);
            assert_eq!(store.queue_pop(&key("q")).expect("pop"), b"1");
            assert_eq!(store.queue_try_pop(&key("q")).expect("pop"), None);
        }
    }
    // A job key means nothing to this server; the client says so or runs out of time, it does not hang.
    let options = ClientOptions::new().timeout(Duration::from_millis(300)).job_key([1; 32]);
    let error = TcpStore::connect(endpoint.clone(), options).expect_err("no key there");
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");

    let store = TcpStore::connect(endpoint, self::options()).expect("connects");
    python.0.kill().expect("killed");
    let error = store.get_within("never", LIMIT).expect_err("the server is gone");
    assert!(error.is_lost(), "{error}");
}

#[test]
fn gloo_forms_a_group_over_our_server() {
    if !torch() {
        return;
    }
    let address = "127.0.0.1:0".parse().expect("an address");
    let store = TcpStore::host(address, ServerOptions::new(), options()).expect("serves");
    let port = store.endpoint().port().to_string();
    let mut ranks = ["0", "1"].map(|rank| Python::start("gloo.py", &["127.0.0.1", &port, rank]));
    for rank in &mut ranks {
        assert_eq!(rank.line(), "done");
        rank.finish();
    }
    assert!(store.num_keys().expect("num_keys") > 0);
}

#[test]
fn torch_shares_our_store_file() {
    if !torch() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store");
    let store = FileStore::open(&path, Users::Exactly(2)).expect("opens");
    store.set_timeout(LIMIT);
    store.append("grows", b"ru").expect("append");
    store.append("grows", b"st").expect("append");
    store.set("deleted", b"").expect("set");
    assert!(store.delete_key("deleted").expect("delete"));
    store.set("swap", b"first").expect("set");
    assert_eq!(store.add("counter", 10).expect("add"), 10);
    store.set("from-rust", b"\x00\xffbytes").expect("set");

    let mut python = Python::start("file_store.py", &[path.to_str().expect("text")]);
    assert_eq!(store.get("from-torch").expect("get"), b"text");
    assert_eq!(python.line(), "done");
    assert_eq!(store.get("counter").expect("get"), b"15");
    assert_eq!(store.get("swap").expect("get"), b"second");
    assert!(!store.check(&["grows"]).expect("check"));
    drop(store);
    assert!(path.exists(), "torch still has it open");
    python.finish();
    assert!(!path.exists(), "the last user removes it");
}

const WORKER: &str = "ALLHANDS_STORE_TORCHRUN_WORKER";

/// Not a test by itself: what `torchrun` starts in the test below.
#[test]
fn torchrun_worker() {
    if std::env::var_os(WORKER).is_none() {
        return;
    }
    let variable = |name: &str| std::env::var(name).expect(name);
    assert_eq!(variable("TORCHELASTIC_USE_AGENT_STORE"), "True", "the agent serves the store");
    let port = variable("MASTER_PORT").parse().expect("a port");
    let master = allhands_store::Endpoint::new(variable("MASTER_ADDR"), port);
    let store = TcpStore::connect(master, options()).expect("connects to the agent");
    let rank: u32 = variable("RANK").parse().expect("a rank");
    let world: u32 = variable("WORLD_SIZE").parse().expect("a world size");
    store.set(&format!("rank/{rank}"), rank.to_string().as_bytes()).expect("set");
    for other in 0..world {
        let value = store.get(&format!("rank/{other}")).expect("get");
        assert_eq!(value, other.to_string().as_bytes());
    }
    store.barrier("done", world, LIMIT).expect("barrier");
    if rank == 0 {
        std::fs::write(variable(WORKER), world.to_string()).expect("writable");
    }
}

#[test]
fn a_job_of_torchrun_meets_at_the_agents_store() {
    if !torch() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let note = folder.path().join("note");
    let output = Command::new(interpreter())
        .args(["-m", "torch.distributed.run", "--no-python", "--nproc-per-node", "3"])
        .args(["--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"])
        .arg(std::env::current_exe().expect("a path"))
        .args(["--exact", "torchrun_worker"])
        .env(WORKER, &note)
        .output()
        .expect("torchrun starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert_eq!(std::fs::read_to_string(&note).expect("rank 0 left a note"), "3");
}
