//! Every kind of store against a naive model, with random operations; and with threads.

mod common;

use allhands_store::{
    ClientOptions, Dialect, FileStore, HashStore, PrefixStore, ServerOptions, Store, StoreError,
    TcpStore, Users,
};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

#[derive(Debug, Clone)]
enum Op {
    Set(usize, Vec<u8>),
    Get(usize),
    Add(usize, i64),
    CompareSet(usize, Vec<u8>, Vec<u8>),
    /// Expects what is stored, so that it often succeeds.
    CompareSetRight(usize, Vec<u8>),
    Delete(usize),
    NumKeys,
    Check(Vec<usize>),
    Wait(Vec<usize>),
    Append(usize, Vec<u8>),
    MultiGet(Vec<usize>),
    MultiSet(Vec<(usize, Vec<u8>)>),
    Push(usize, Vec<u8>),
    Pop(usize),
    TryPop(usize),
    QueueLen(usize),
    ListKeys,
    Barrier(usize, u32),
}

const KEYS: [&str; 6] = ["a", "b", "deep/er/key", "", "ключ", "/slash"];
const QUEUES: [&str; 2] = ["queue", "q/2"];
const BARRIERS: [&str; 2] = ["meet", "meet/again"];

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => vec(any::<u8>(), 0..6),
        3 => any::<i8>().prop_map(|number| number.to_string().into_bytes()),
        // Above the size that the server copies.
        1 => vec(any::<u8>(), 60..200),
        1 => (any::<u8>(), 9_000usize..30_000).prop_map(|(byte, size)| vec![byte; size]),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0..KEYS.len();
    let keys = vec(0..KEYS.len(), 0..4);
    prop_oneof![
        (key.clone(), value()).prop_map(|(k, v)| Op::Set(k, v)),
        key.clone().prop_map(Op::Get),
        (key.clone(), any::<i32>()).prop_map(|(k, d)| Op::Add(k, i64::from(d))),
        (key.clone(), value(), value()).prop_map(|(k, e, d)| Op::CompareSet(k, e, d)),
        (key.clone(), value()).prop_map(|(k, d)| Op::CompareSetRight(k, d)),
        key.clone().prop_map(Op::Delete),
        Just(Op::NumKeys),
        keys.clone().prop_map(Op::Check),
        keys.clone().prop_map(Op::Wait),
        (key.clone(), value()).prop_map(|(k, v)| Op::Append(k, v)),
        keys.prop_map(Op::MultiGet),
        vec((key, value()), 0..4).prop_map(Op::MultiSet),
        (0..QUEUES.len(), value()).prop_map(|(q, v)| Op::Push(q, v)),
        (0..QUEUES.len()).prop_map(Op::Pop),
        (0..QUEUES.len()).prop_map(Op::TryPop),
        (0..QUEUES.len()).prop_map(Op::QueueLen),
        Just(Op::ListKeys),
        (0..BARRIERS.len(), 0u32..4).prop_map(|(b, world)| Op::Barrier(b, world)),
    ]
}

/// What a store should be.
#[derive(Default)]
struct Model {
    keys: BTreeMap<String, Vec<u8>>,
    queues: BTreeMap<String, VecDeque<Vec<u8>>>,
}

impl Model {
    fn counter(&self, key: &str) -> Option<i64> {
        let Some(value) = self.keys.get(key) else { return Some(0) };
        String::from_utf8(value.clone()).ok()?.parse().ok()
    }

    fn add(&mut self, key: &str, delta: i64) -> Option<i64> {
        let sum = self.counter(key)?.wrapping_add(delta);
        self.keys.insert(key.to_owned(), sum.to_string().into_bytes());
        Some(sum)
    }

    fn compare_set(&mut self, key: &str, expected: &[u8], desired: &[u8]) -> Vec<u8> {
        match self.keys.get(key) {
            None if !expected.is_empty() => return expected.to_vec(),
            Some(current) if current != expected => return current.clone(),
            _ => {}
        }
        self.keys.insert(key.to_owned(), desired.to_vec());
        desired.to_vec()
    }

    fn all(&self, keys: &[&str]) -> bool {
        keys.iter().all(|key| self.keys.contains_key(*key))
    }
}

/// What differs between stores.
struct Subject<'a> {
    store: &'a dyn Store,
    /// Keys that the store keeps for itself.
    own_keys: u64,
    /// Whether adding to something else than a number ends the connection.
    add_is_fatal: bool,
    /// Whether `barrier` uses no key but its own.
    plain_barrier: bool,
}

fn timed_out<R: std::fmt::Debug>(result: Result<R, StoreError>, operation: &str) {
    match result {
        Err(error @ StoreError::Timeout { .. }) => {
            assert!(error.to_string().contains(operation), "{error}");
        }
        other => panic!("{operation} should time out, not {other:?}"),
    }
}

fn run(subject: &Subject<'_>, ops: &[Op]) {
    let store = subject.store;
    // What waits now, waits in vain.
    store.set_timeout(Duration::ZERO);
    let mut model = Model::default();
    for op in ops {
        // Requests that must be answered need time.
        let patient = !matches!(op, Op::MultiGet(_));
        store.set_timeout(if patient { Duration::from_secs(30) } else { Duration::ZERO });
        step(subject, &mut model, op);
    }
}

fn step(subject: &Subject<'_>, model: &mut Model, op: &Op) {
    let store = subject.store;
    let names = |keys: &[usize]| keys.iter().map(|key| KEYS[*key]).collect::<Vec<_>>();
    match op {
        Op::Set(key, value) => {
            store.set(KEYS[*key], value).expect("set");
            model.keys.insert(KEYS[*key].to_owned(), value.clone());
        }
        Op::Get(key) => match model.keys.get(KEYS[*key]) {
            Some(value) => {
                assert_eq!(
                    &store.get_within(KEYS[*key], Duration::from_secs(30)).expect("get"),
                    value
                );
            }
            None => timed_out(store.get_within(KEYS[*key], Duration::ZERO), "get"),
        },
        Op::Add(key, delta) => match model.counter(KEYS[*key]) {
            Some(_) => {
                let sum = model.add(KEYS[*key], *delta);
                assert_eq!(Some(store.add(KEYS[*key], *delta).expect("add")), sum);
            }
            None if subject.add_is_fatal => {}
            None => {
                let error = store.add(KEYS[*key], *delta).expect_err("not a number");
                assert!(matches!(error, StoreError::NotACounter { .. }), "{error}");
            }
        },
        Op::CompareSet(key, expected, desired) => {
            let result = store.compare_set(KEYS[*key], expected, desired).expect("compare_set");
            assert_eq!(result, model.compare_set(KEYS[*key], expected, desired));
        }
        Op::CompareSetRight(key, desired) => {
            let expected = model.keys.get(KEYS[*key]).cloned().unwrap_or_default();
            let result = store.compare_set(KEYS[*key], &expected, desired).expect("compare_set");
            assert_eq!(&result, desired);
            model.keys.insert(KEYS[*key].to_owned(), desired.clone());
        }
        Op::Delete(key) => {
            let existed = model.keys.remove(KEYS[*key]).is_some();
            assert_eq!(store.delete_key(KEYS[*key]).expect("delete"), existed);
        }
        Op::NumKeys => {
            let keys = store.num_keys().expect("num_keys");
            assert_eq!(keys, model.keys.len() as u64 + subject.own_keys);
        }
        Op::Check(keys) => {
            let keys = names(keys);
            assert_eq!(store.check(&keys).expect("check"), model.all(&keys));
        }
        Op::Wait(keys) => {
            let keys = names(keys);
            let result = store.wait(&keys, Duration::ZERO);
            if model.all(&keys) {
                result.expect("all are there");
                return;
            }
            let Err(StoreError::Timeout { missing, .. }) = &result else {
                panic!("wait should time out, not {result:?}");
            };
            let absent: Vec<_> = keys.iter().filter(|key| !model.all(&[key])).collect();
            assert_eq!(missing.total(), absent.len());
            assert!(missing.shown().iter().zip(&absent).all(|(shown, key)| shown.ends_with(**key)));
        }
        Op::Append(key, value) => {
            store.append(KEYS[*key], value).expect("append");
            model.keys.entry(KEYS[*key].to_owned()).or_default().extend_from_slice(value);
        }
        Op::MultiGet(keys) => {
            let keys = names(keys);
            let result = store.multi_get(&keys);
            if model.all(&keys) {
                let values: Vec<_> = keys.iter().map(|key| model.keys[*key].clone()).collect();
                assert_eq!(result.expect("multi_get"), values);
            } else {
                timed_out(result, "multi_get");
            }
        }
        Op::MultiSet(entries) => {
            let borrowed: Vec<_> =
                entries.iter().map(|(key, value)| (KEYS[*key], value.as_slice())).collect();
            store.multi_set(&borrowed).expect("multi_set");
            for (key, value) in entries {
                model.keys.insert(KEYS[*key].to_owned(), value.clone());
            }
        }
        Op::Push(queue, value) => {
            store.queue_push(QUEUES[*queue], value).expect("push");
            model.queues.entry(QUEUES[*queue].to_owned()).or_default().push_back(value.clone());
        }
        Op::Pop(queue) => {
            let first = model.queues.get_mut(QUEUES[*queue]).and_then(VecDeque::pop_front);
            let result = store.queue_pop_within(QUEUES[*queue], Duration::ZERO);
            match first {
                // A zero limit is enough when there is something.
                Some(value) => assert_eq!(result.expect("pop"), value),
                None => timed_out(result, "queue_pop"),
            }
        }
        Op::TryPop(queue) => {
            let first = model.queues.get_mut(QUEUES[*queue]).and_then(VecDeque::pop_front);
            assert_eq!(store.queue_try_pop(QUEUES[*queue]).expect("pop"), first);
        }
        Op::QueueLen(queue) => {
            let length = model.queues.get(QUEUES[*queue]).map_or(0, VecDeque::len);
            assert_eq!(store.queue_len(QUEUES[*queue]).expect("len"), length as u64);
        }
        Op::ListKeys => {
            let keys: Vec<_> = model.keys.keys().cloned().collect();
            assert_eq!(store.list_keys().expect("list_keys"), keys);
        }
        Op::Barrier(barrier, world) => {
            if !subject.plain_barrier {
                return;
            }
            let key = BARRIERS[*barrier];
            let arrived = model.add(key, 1).expect("only barriers use this key");
            let result = store.barrier(key, *world, Duration::ZERO);
            if arrived >= i64::from(*world) {
                result.expect("all are there");
            } else {
                timed_out(result, "barrier");
            }
        }
    }
}

fn local_server() -> TcpStore {
    let address = "127.0.0.1:0".parse().expect("an address");
    let options = ClientOptions::new().dialect(Dialect::Torch215);
    TcpStore::host(address, ServerOptions::new(), options).expect("serves")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hash_store_follows_the_model(ops in vec(op(), 1..80)) {
        let store = HashStore::new();
        run(&Subject { store: &store, own_keys: 0, add_is_fatal: false, plain_barrier: true }, &ops);
    }

    #[test]
    fn file_store_follows_the_model(ops in vec(op(), 1..60)) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store");
        let store = FileStore::open(&path, Users::Exactly(1)).expect("opens");
        run(&Subject { store: &store, own_keys: 1, add_is_fatal: false, plain_barrier: true }, &ops);
    }

    #[test]
    fn tcp_store_follows_the_model(ops in vec(op(), 1..80)) {
        let store = local_server();
        run(&Subject { store: &store, own_keys: 0, add_is_fatal: true, plain_barrier: true }, &ops);
    }

    #[test]
    fn every_dialect_follows_the_model(ops in vec(op(), 1..60), oldest in any::<bool>()) {
        let server = local_server();
        let dialect = if oldest { Dialect::Torch21 } else { Dialect::Torch25 };
        let options = ClientOptions::new().dialect(dialect);
        let store = TcpStore::connect(server.endpoint().clone(), options).expect("connects");
        run(&Subject { store: &store, own_keys: 0, add_is_fatal: true, plain_barrier: false }, &ops);
    }

    #[test]
    fn prefix_store_follows_the_model(ops in vec(op(), 1..60)) {
        let below = Arc::new(HashStore::new());
        below.set("other/a", b"not ours").expect("set");
        below.set("outer/inner", b"nor this").expect("set");
        let outer = Arc::new(PrefixStore::new("outer", below.clone() as Arc<dyn Store>));
        let store = PrefixStore::new("inner", outer as Arc<dyn Store>);
        run(&Subject { store: &store, own_keys: 2, add_is_fatal: false, plain_barrier: true }, &ops);
        prop_assert_eq!(below.get("other/a").expect("get"), b"not ours");
    }
}

/// Each kind of store, as several users would see it.
fn for_each_kind(test: impl Fn(&str, &[Arc<dyn Store>])) {
    let one = Arc::new(HashStore::new());
    test("hash", &[one.clone(), one.clone(), one.clone(), one]);

    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store");
    let open = || Arc::new(FileStore::open(&path, Users::Exactly(4)).expect("opens"));
    test("file", &[open(), open(), open(), open()]);
    assert!(!path.exists(), "the last user removes the file");

    for dialect in [Dialect::Torch21, Dialect::Torch25, Dialect::Torch215] {
        let connect = |host: &TcpStore| {
            let options = ClientOptions::new().dialect(dialect);
            Arc::new(TcpStore::connect(host.endpoint().clone(), options).expect("connects"))
        };
        let host = local_server();
        test("tcp", &[connect(&host), connect(&host), connect(&host), connect(&host)]);
        // One client that four threads share.
        let host = local_server();
        let one = connect(&host);
        test("tcp, shared", &[one.clone(), one.clone(), one.clone(), one]);
    }
}

const LONG: Duration = Duration::from_secs(30);

#[test]
fn counters_lose_nothing() {
    for_each_kind(|kind, stores| {
        std::thread::scope(|threads| {
            for store in stores {
                threads.spawn(|| {
                    for _ in 0..50 {
                        store.add("sum", 3).expect("add");
                    }
                });
            }
        });
        assert_eq!(stores[0].add("sum", 0).expect("add"), 600, "{kind}");
    });
}

#[test]
fn one_of_several_wins_a_compare_set() {
    for_each_kind(|kind, stores| {
        for round in 0..10 {
            let key = format!("leader/{round}");
            let winners = AtomicU32::new(0);
            std::thread::scope(|threads| {
                for (index, store) in stores.iter().enumerate() {
                    let (key, winners) = (&key, &winners);
                    threads.spawn(move || {
                        let own = index.to_string().into_bytes();
                        let winner = store.compare_set(key, b"", &own).expect("swap");
                        if winner == own {
                            winners.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            });
            assert_eq!(winners.into_inner(), 1, "{kind}, round {round}");
        }
    });
}

#[test]
fn waiters_wake_when_the_last_key_comes() {
    for_each_kind(|kind, stores| {
        std::thread::scope(|threads| {
            for store in &stores[1..] {
                threads.spawn(|| store.wait(&["w/1", "w/2", "w/1"], LONG).expect("both come"));
                threads.spawn(|| assert_eq!(store.get("w/2").expect("it comes"), b"2"));
            }
            stores[0].set("w/1", b"1").expect("set");
            stores[0].multi_set(&[("w/2", b"2")]).expect("multi_set");
        });
        assert!(stores[0].check(&["w/1", "w/2"]).expect("check"), "{kind}");
    });
}

#[test]
fn every_way_to_write_wakes_a_waiter() {
    type Write = fn(&dyn Store, &str) -> Result<(), StoreError>;
    let ways: [(&str, Write); 6] = [
        ("set", |store, key| store.set(key, b"1")),
        ("add", |store, key| store.add(key, 1).map(drop)),
        ("compare_set", |store, key| store.compare_set(key, b"", b"1").map(drop)),
        ("append", |store, key| store.append(key, b"1")),
        ("multi_set", |store, key| store.multi_set(&[("x", b""), (key, b"1")])),
        ("queue_push", |store, key| store.queue_push(key, b"1")),
    ];
    for_each_kind(|kind, stores| {
        for (name, write) in ways {
            std::thread::scope(|threads| {
                let waiter = threads.spawn(move || stores[1].wait(&[name], LONG));
                write(&*stores[0], name).expect(name);
                waiter.join().expect("no panic").unwrap_or_else(|error| panic!("{kind}: {error}"));
            });
        }
    });
}

#[test]
fn a_queue_hands_each_value_to_one() {
    for_each_kind(|kind, stores| {
        let taken = AtomicU32::new(0);
        std::thread::scope(|threads| {
            for store in &stores[1..] {
                let taken = &taken;
                threads.spawn(move || {
                    for _ in 0..8 {
                        let value = store.queue_pop_within("jobs", LONG).expect("one for me");
                        taken.fetch_add(u32::from(value[0]), Ordering::Relaxed);
                    }
                });
            }
            for value in 0..24 {
                stores[0].queue_push("jobs", &[value]).expect("push");
            }
        });
        assert_eq!(taken.into_inner(), (0..24).sum::<u32>(), "{kind}");
        assert_eq!(stores[0].queue_try_pop("jobs").expect("pop"), None, "{kind}");
    });
}

#[test]
fn nobody_leaves_a_barrier_early() {
    for_each_kind(|kind, stores| {
        let world = stores.len() as u32;
        for round in 0..5 {
            let key = format!("barrier/{round}");
            let arrived = AtomicU32::new(0);
            std::thread::scope(|threads| {
                for store in stores {
                    threads.spawn(|| {
                        arrived.fetch_add(1, Ordering::SeqCst);
                        store.barrier(&key, world, LONG).expect("all come");
                        assert_eq!(arrived.load(Ordering::SeqCst), world, "{kind}");
                    });
                }
            });
            // Late, but not too late.
            stores[0].barrier(&key, world, LONG).expect("passes at once");
        }
    });
}

#[test]
fn a_limit_may_be_as_long_as_one_likes() {
    for_each_kind(|kind, stores| {
        let store = &stores[0];
        store.set_timeout(Duration::MAX);
        std::thread::scope(|threads| {
            threads.spawn(|| assert_eq!(store.get("k").expect("it comes"), b"v", "{kind}"));
            threads.spawn(|| store.wait(&["k", "l"], Duration::MAX).expect("they come"));
            threads.spawn(|| store.barrier("b", 2, Duration::MAX).expect("both come"));
            stores[1].multi_set(&[("k", b"v"), ("l", b"")]).expect("multi_set");
            stores[1].barrier("b", 2, Duration::MAX).expect("both come");
        });
        store.set_timeout(LONG);
        assert_eq!(store.timeout(), LONG);
    });
}

#[test]
fn limits_are_errors_and_change_nothing() {
    for_each_kind(|kind, stores| {
        let store = &stores[0];
        let long = "k".repeat(allhands_store::limits::KEY_MAX + 1);
        let large = vec![0; allhands_store::limits::VALUE_MAX + 1];
        let many = vec!["k"; allhands_store::limits::KEYS_MAX + 1];
        assert!(matches!(store.set(&long, b""), Err(StoreError::KeyTooLong { .. })), "{kind}");
        assert!(matches!(store.add(&long, 1), Err(StoreError::KeyTooLong { .. })), "{kind}");
        assert!(matches!(store.set("k", &large), Err(StoreError::ValueTooLong { .. })), "{kind}");
        let entries: [(&str, &[u8]); 2] = [("k", b"fine"), ("l", &large)];
        assert!(matches!(store.multi_set(&entries), Err(StoreError::ValueTooLong { .. })));
        assert!(matches!(store.check(&many), Err(StoreError::TooManyKeys { .. })), "{kind}");
        assert!(matches!(store.wait(&many, LONG), Err(StoreError::TooManyKeys { .. })), "{kind}");
        assert!(matches!(store.multi_get(&many), Err(StoreError::TooManyKeys { .. })), "{kind}");
        assert!(!store.check(&["k"]).expect("still works"), "{kind}");
        // The longest value there may be goes through.
        store.set("k", &large[1..]).expect("set");
        assert!(store.get("k").expect("get") == large[1..], "{kind}");
    });
}
