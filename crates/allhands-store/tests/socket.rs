//! Server and client over real sockets: addresses, deadlines, losses, keys, strays.

mod common;

use allhands_store::limits::VALUE_MAX;
use allhands_store::server::GREETING_LIMIT;
use allhands_store::{
    ClientOptions, Dialect, Endpoint, ServerOptions, Store, StoreError, TcpStore, TcpStoreServer,
};
use common::{VALIDATE, eventually, number, request, text};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(30);

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

fn server() -> TcpStoreServer {
    TcpStoreServer::bind(any_port(), ServerOptions::new()).expect("serves")
}

fn options() -> ClientOptions {
    ClientOptions::new().timeout(LONG)
}

fn connect(server: &TcpStoreServer) -> TcpStore {
    TcpStore::connect(server.local_addr(), options()).expect("connects")
}

/// A plain socket that has not said anything.
fn raw(server: &TcpStoreServer) -> TcpStream {
    let stream = TcpStream::connect(server.local_addr()).expect("connects");
    stream.set_read_timeout(Some(LONG)).expect("settable");
    stream
}

/// Whether the server closes the connection, without a word, within a generous time.
fn is_closed(mut stream: TcpStream) -> bool {
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(count) => count == 0,
        Err(error) => matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
    }
}

#[test]
fn it_listens_on_the_asked_address_only() {
    let server = server();
    assert!(server.local_addr().ip().is_loopback() && server.local_addr().port() > 0);
    let elsewhere = SocketAddr::new([127, 0, 0, 2].into(), server.local_addr().port());
    let refused = TcpStream::connect(elsewhere).expect_err("nobody listens there");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_port_in_use_is_named() {
    let first = server();
    let error = TcpStoreServer::bind(first.local_addr(), ServerOptions::new())
        .expect_err("the port is taken");
    assert!(matches!(&error, StoreError::AddressInUse { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains(&first.local_addr().to_string()), "{message}");
    assert!(message.contains("port 0"), "{message}");
    // After the end the port is free at once.
    let address = first.local_addr();
    let client = connect(&first);
    drop(first);
    drop(client);
    TcpStoreServer::bind(address, ServerOptions::new()).expect("serves again");
}

#[test]
fn a_foreign_address_is_named() {
    let foreign = "192.0.2.1:0".parse().expect("an address");
    let error = TcpStoreServer::bind(foreign, ServerOptions::new()).expect_err("not ours");
    assert!(matches!(&error, StoreError::Bind { .. }), "{error}");
    assert!(error.to_string().contains("192.0.2.1:0"), "{error}");
}

#[test]
fn both_families_are_served_on_the_wildcard() {
    let wildcard = "[::]:0".parse().expect("an address");
    let Ok(server) = TcpStoreServer::bind(wildcard, ServerOptions::new()) else {
        // A machine without IPv6 has nothing to test here.
        return;
    };
    let port = server.local_addr().port();
    for host in ["127.0.0.1", "::1", "localhost"] {
        let store = TcpStore::connect(Endpoint::new(host, port), options()).expect(host);
        store.set(host, b"").expect("set");
    }
    assert!(eventually(LONG, || server.keys() == 3));
}

#[test]
fn a_client_may_come_before_the_server() {
    let free = TcpListener::bind(any_port()).expect("a port");
    let address = free.local_addr().expect("an address");
    drop(free);
    let client = std::thread::spawn(move || TcpStore::connect(address, options()));
    std::thread::park_timeout(Duration::from_millis(100));
    let _server = TcpStoreServer::bind(address, ServerOptions::new()).expect("serves");
    client.join().expect("no panic").expect("connects");
}

#[test]
fn nobody_there_is_an_error_with_address_and_time() {
    let free = TcpListener::bind(any_port()).expect("a port");
    let address = free.local_addr().expect("an address");
    drop(free);
    let limit = Duration::from_millis(200);
    let error = TcpStore::connect(address, ClientOptions::new().timeout(limit)).expect_err("none");
    let StoreError::Unreachable { store, attempts, elapsed, source, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(store, &address.to_string());
    assert!(*attempts > 1 && *elapsed >= limit, "{error}");
    assert_eq!(source.kind(), ErrorKind::ConnectionRefused);

    let nowhere = Endpoint::new("no-such-host.invalid", 29500);
    let error = TcpStore::connect(nowhere, ClientOptions::new().timeout(limit)).expect_err("none");
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("no-such-host.invalid:29500"), "{error}");
}

#[test]
fn a_server_that_never_greets_is_given_up() {
    let silent = TcpListener::bind(any_port()).expect("a port");
    let address = silent.local_addr().expect("an address");
    let limit = Duration::from_millis(200);
    let start = Instant::now();
    let error = TcpStore::connect(address, ClientOptions::new().timeout(limit)).expect_err("none");
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    assert!(start.elapsed() >= limit);
}

#[test]
fn a_server_that_stops_answering_is_given_up() {
    let stuck = TcpListener::bind(any_port()).expect("a port");
    let address = stuck.local_addr().expect("an address");
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = stuck.accept().expect("a client");
        let mut greeting = [0; 10];
        stream.read_exact(&mut greeting).expect("a greeting");
        stream.write_all(&greeting[6..]).expect("writable");
        // Reads on and answers nothing.
        drop(std::io::copy(&mut stream, &mut std::io::sink()));
    });
    let store = TcpStore::connect(address, options()).expect("connects");
    store.set_timeout(Duration::from_millis(100));
    let error = store.set("k", b"v").expect_err("no answer");
    assert!(matches!(&error, StoreError::NoAnswer { .. }) && error.is_timeout(), "{error}");
    let message = error.to_string();
    for part in ["set", "\"k\"", &address.to_string()] {
        assert!(message.contains(part), "{part} in {message}");
    }
    drop(store);
    thread.join().expect("the client hung up");
}

#[test]
fn a_wait_that_runs_out_names_what_is_missing() {
    let server = server();
    let store = connect(&server);
    store.set("rank/0", b"").expect("set");
    store.set("rank/2", b"").expect("set");
    let limit = Duration::from_millis(50);
    let start = Instant::now();
    let keys = ["rank/0", "rank/1", "rank/2", "rank/3"];
    let error = store.wait(&keys, limit).expect_err("two are missing");
    assert!(start.elapsed() >= limit);
    let message = error.to_string();
    assert!(message.contains("keys \"rank/1\", \"rank/3\""), "{message}");
    assert!(message.contains(&server.local_addr().to_string()), "{message}");
    // The connection is as good as before.
    store.set("rank/1", b"").expect("set");
    store.wait(&["rank/1"], limit).expect("it is there");
    assert!(eventually(LONG, || server.connections() == 1), "one connection was enough");
}

#[test]
fn the_end_of_the_server_is_noticed_at_once() {
    let server = server();
    let store = Arc::new(connect(&server));
    let waiter = std::thread::spawn({
        let store = Arc::clone(&store);
        move || store.get("never")
    });
    assert!(eventually(LONG, || server.connections() == 1));
    drop(server);
    let error = waiter.join().expect("no panic").expect_err("lost");
    assert!(error.is_lost(), "{error}");
    assert!(error.to_string().contains("get (key \"never\")"), "{error}");
    let error = store.set("k", b"").expect_err("lost for good");
    assert!(error.is_lost(), "{error}");
}

#[test]
fn adding_to_text_costs_the_client_its_store_but_nobody_else() {
    let server = server();
    let (one, two) = (connect(&server), connect(&server));
    one.set("text", b"1.5").expect("set");
    let error = one.add("text", 1).expect_err("not a number");
    assert!(error.is_lost() && error.to_string().contains("not a number"), "{error}");
    assert_eq!(two.get("text").expect("get"), b"1.5");
}

#[test]
fn job_keys_must_match() {
    let with = |key: u8| options().job_key([key; 32]);
    let locked = TcpStoreServer::bind(any_port(), ServerOptions::new().job_key([1; 32]));
    let locked = locked.expect("serves");
    let store = TcpStore::connect(locked.local_addr(), with(1)).expect("the right key");
    store.set("k", b"v").expect("set");
    assert_eq!(store.get("k").expect("get"), b"v");
    // Refusals come at once, not after the timeout.
    let start = Instant::now();
    let error = TcpStore::connect(locked.local_addr(), with(2)).expect_err("the wrong key");
    assert!(matches!(error, StoreError::WrongKey { .. }), "{error}");
    let error = TcpStore::connect(locked.local_addr(), options()).expect_err("no key");
    assert!(matches!(error, StoreError::KeyRequired { .. }), "{error}");
    let open = server();
    let error = TcpStore::connect(open.local_addr(), with(1)).expect_err("no key there");
    assert!(matches!(error, StoreError::KeyNotAccepted { .. }), "{error}");
    assert!(start.elapsed() < LONG);
    assert_eq!(store.num_keys().expect("undisturbed"), 1);
    // The key of the host's own client locks the server too.
    let host = TcpStore::host(any_port(), ServerOptions::new(), with(3)).expect("serves");
    let error = TcpStore::connect(host.endpoint().clone(), options()).expect_err("no key");
    assert!(matches!(error, StoreError::KeyRequired { .. }), "{error}");
}

#[test]
fn the_host_waits_for_all() {
    let free = TcpListener::bind(any_port()).expect("a port");
    let address = free.local_addr().expect("an address");
    drop(free);
    let options = || options().world_size(3);
    let clients: Vec<_> =
        (0..2).map(|_| std::thread::spawn(move || TcpStore::connect(address, options()))).collect();
    let host = TcpStore::host(address, ServerOptions::new(), options()).expect("all came");
    assert_eq!(host.num_keys().expect("num_keys"), 1, "init/ is counted");
    assert_eq!(host.list_keys().expect("list_keys"), [""; 0], "but not shown");
    let clients: Vec<_> =
        clients.into_iter().map(|client| client.join().expect("no panic").expect("in")).collect();
    let server = host.server().expect("it hosts");
    assert!(eventually(LONG, || server.connections() == 3));
    // The last to leave switches off the light.
    assert_eq!(server.drain(1, Duration::ZERO), 3);
    let leaving = std::thread::spawn(move || drop(clients));
    assert_eq!(server.drain(1, LONG), 1);
    leaving.join().expect("no panic");
}

#[test]
fn missing_workers_are_counted() {
    let limit = Duration::from_millis(100);
    let options = ClientOptions::new().timeout(limit).world_size(4);
    let error = TcpStore::host(any_port(), ServerOptions::new(), options).expect_err("alone");
    assert!(matches!(error, StoreError::WorkersMissing { joined: 1, expected: 4, .. }), "{error}");
    assert!(error.to_string().starts_with("1 of 4 clients joined"), "{error}");
}

#[test]
fn strays_are_closed() {
    let server = server();
    let start = Instant::now();
    let silent = raw(&server);
    let mut halfway = raw(&server);
    halfway.write_all(&VALIDATE[..3]).expect("writable");
    let mut garbage = raw(&server);
    garbage.write_all(&[0xee; 1000]).expect("writable");
    let mut http = raw(&server);
    http.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("writable");
    assert!(is_closed(garbage) && is_closed(http));
    assert!(start.elapsed() < GREETING_LIMIT + LONG);
    assert!(is_closed(silent) && is_closed(halfway));
    assert!(start.elapsed() >= GREETING_LIMIT, "silence is allowed for a while");
    assert!(eventually(LONG, || server.connections() == 0));
}

#[test]
fn a_greeted_client_may_be_silent() {
    let server = server();
    let mut quiet = raw(&server);
    // PyTorch's server would not take a greeting in pieces.
    for byte in VALIDATE {
        quiet.write_all(&[*byte]).expect("writable");
        quiet.set_nodelay(true).expect("settable");
    }
    let stray = raw(&server);
    assert!(is_closed(stray), "after the limit");
    quiet.write_all(&request(0x0d, &[vec![1, 2, 3, 4]])).expect("writable");
    let mut echo = [0; 4];
    quiet.read_exact(&mut echo).expect("still served");
    assert_eq!(echo, [1, 2, 3, 4]);
}

#[test]
fn waits_of_lost_clients_are_forgotten() {
    let server = server();
    let base = server.used();
    for _ in 0..20 {
        let mut stream = raw(&server);
        stream.write_all(VALIDATE).expect("writable");
        let wait = request(0x06, &[number(1), text(b"/never")]);
        // Even when more was said than could be answered.
        let more = request(0x03, &[text(b"/never")]);
        stream.write_all(&[wait, more].concat()).expect("writable");
        assert!(eventually(LONG, || server.connections() == 1));
        drop(stream);
        assert!(eventually(LONG, || server.connections() == 0));
    }
    assert!(eventually(LONG, || server.used() == base), "{} bytes stay", server.used());
}

#[test]
fn a_client_that_sends_and_hangs_up_is_heard() {
    let server = server();
    for index in 0..20 {
        let mut stream = raw(&server);
        let set = request(0x01, &[text(format!("/{index}").as_bytes()), text(b"v")]);
        stream.write_all(&[VALIDATE, &set].concat()).expect("writable");
    }
    assert!(eventually(LONG, || server.keys() == 20));
    // Half closed: the answer still comes.
    let mut stream = raw(&server);
    stream.write_all(&[VALIDATE, &request(0x03, &[text(b"/7")])].concat()).expect("writable");
    stream.shutdown(std::net::Shutdown::Write).expect("possible");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("readable");
    assert_eq!(answer, text(b"v"));
}

#[test]
fn many_threads_may_wait_on_one_client() {
    let server = server();
    let store = connect(&server);
    let waiters = allhands_store::CLIENT_CONNECTIONS_MAX + 8;
    std::thread::scope(|threads| {
        let waiting: Vec<_> =
            (0..waiters).map(|_| threads.spawn(|| store.wait(&["go"], LONG))).collect();
        assert!(eventually(LONG, || {
            server.connections() >= allhands_store::CLIENT_CONNECTIONS_MAX - 1
        }));
        // Nobody else could end the waits.
        store.set("go", b"").expect("one connection is left for this");
        for waiter in waiting {
            waiter.join().expect("no panic").expect("it came");
        }
    });
}

#[test]
fn large_values_pass_and_honest_clients_are_served_meanwhile() {
    let server = server();
    let store = connect(&server);
    let large: Vec<u8> = (0..VALUE_MAX).map(|index| (index % 251) as u8).collect();
    let keys: Vec<_> = (0..12).map(|index| format!("large/{index}")).collect();
    let entries: Vec<_> = keys[..6].iter().map(|key| (key.as_str(), large.as_slice())).collect();
    store.multi_set(&entries).expect("multi_set");
    for key in &keys[6..] {
        store.set(key, &large).expect("set");
    }
    let keys: Vec<_> = keys.iter().map(String::as_str).collect();
    let values = store.multi_get(&keys).expect("multi_get");
    assert!(values.iter().all(|value| *value == large));

    // Readers that never read, and a request that never ends.
    let stuck: Vec<_> = (0..10)
        .map(|_| {
            let mut stream = raw(&server);
            let get = request(0x0a, &[number(1), text(b"/large/0")]);
            stream.write_all(&[VALIDATE, &get, &get].concat()).expect("writable");
            stream
        })
        .collect();
    let mut endless = raw(&server);
    endless.write_all(&[VALIDATE, &request(0x0b, &[number(9)])].concat()).expect("writable");
    let entry = [text(b"/endless"), text(&vec![7; 1 << 20])].concat();
    for _ in 0..8 {
        endless.write_all(&entry).expect("writable");
        for _ in 0..20 {
            store.set("small", b"v").expect("set");
            assert_eq!(store.get("small").expect("get"), b"v");
        }
    }
    assert!(!store.check(&["endless"]).expect("check"), "an unfinished request does nothing");
    endless.write_all(&entry).expect("writable");
    store.wait(&["endless"], LONG).expect("now it is finished");
    drop(stuck);
}

#[test]
fn too_many_connections_are_turned_away() {
    let options = ServerOptions::new().connections_max(3);
    let server = TcpStoreServer::bind(any_port(), options).expect("serves");
    let clients: Vec<_> = (0..3).map(|_| connect(&server)).collect();
    assert!(is_closed(raw(&server)));
    assert_eq!(clients[0].add("n", 1).expect("add"), 1);
    drop(clients);
    // A late client gets in by trying again.
    connect(&server).set("k", b"").expect("set");
}

#[test]
fn our_barrier_and_the_servers_are_told_apart_by_the_dialect() {
    let server = server();
    let full = || {
        let options = options().dialect(Dialect::Torch215);
        TcpStore::connect(server.local_addr(), options).expect("connects")
    };
    let (one, two) = (full(), full());
    let limit = Duration::from_millis(50);
    let error = one.barrier("meet", 2, limit).expect_err("alone");
    assert!(matches!(&error, StoreError::Timeout { .. }), "{error}");
    assert!(error.to_string().contains("barrier") && error.to_string().contains("meet"), "{error}");
    two.barrier("meet", 2, LONG).expect("the first arrival counts");
    assert_eq!(two.num_keys().expect("num_keys"), 1);
}
