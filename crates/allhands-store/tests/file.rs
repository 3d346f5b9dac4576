//! The file of a `FileStore`: its bytes, its users, and what becomes of damage.

mod common;

use allhands_store::limits::VALUE_MAX;
use allhands_store::{FileStore, Store, StoreError, Users};
use common::hex;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store");
    (folder, path)
}

fn open(path: &PathBuf, users: Users) -> FileStore {
    FileStore::open(path, users).expect("opens")
}

/// As PyTorch 2.15 writes it for the same calls.
#[test]
fn the_bytes_are_those_of_torch() {
    let (_folder, path) = place();
    let store = open(&path, Users::Exactly(2));
    store.set("k", b"v").expect("set");
    store.add("n", 3).expect("add");
    store.delete_key("k").expect("delete");
    store.append("k", b"w").expect("append");
    let joined = hex("09 00 00 00 'refcount/' 01 00 00 00 '1' \
         02 00 00 00 '/k' 01 00 00 00 'v' \
         02 00 00 00 '/n' 01 00 00 00 '3' \
         03 00 00 00 '-/k' 00 00 00 00 \
         02 00 00 00 '/k' 01 00 00 00 'w'");
    assert_eq!(fs::read(&path).expect("readable"), joined);
    let second = open(&path, Users::Exactly(2));
    drop(store);
    let left = hex("09 00 00 00 'refcount/' 01 00 00 00 '2' \
         08 00 00 00 'cleanup/' 01 00 00 00 '1' \
         09 00 00 00 'refcount/' 01 00 00 00 '1'");
    assert_eq!(fs::read(&path).expect("readable"), [joined, left].concat());
    drop(second);
    assert!(!path.exists());
}

#[test]
fn only_the_last_of_the_expected_users_removes_it() {
    let (_folder, path) = place();
    drop(open(&path, Users::Exactly(2)));
    assert!(path.exists(), "one is still to come");
    let second = open(&path, Users::Exactly(2));
    assert_eq!(second.num_keys().expect("num_keys"), 2, "the store's own two");
    drop(second);
    assert!(!path.exists());
    drop(open(&path, Users::Unknown));
    assert!(path.exists(), "nobody knows who is the last");
}

#[test]
fn what_one_wrote_before_the_other_came_is_seen() {
    let (_folder, path) = place();
    let one = open(&path, Users::Exactly(2));
    one.set("k", b"old").expect("set");
    one.set("k", b"new").expect("set");
    one.queue_push("jobs", b"1").expect("push");
    one.queue_push("jobs", b"2").expect("push");
    let two = open(&path, Users::Exactly(2));
    assert_eq!(two.get("k").expect("get"), b"new");
    assert_eq!(two.queue_pop("jobs").expect("pop"), b"1");
    assert_eq!(one.queue_len("jobs").expect("len"), 1);
    assert_eq!(one.queue_pop("jobs").expect("pop"), b"2");
    assert_eq!(two.queue_try_pop("jobs").expect("pop"), None);
    assert_eq!(two.list_keys().expect("list_keys"), ["k"]);
}

/// A process that was killed while it wrote.
#[test]
fn an_unfinished_record_is_ignored_and_cut_off() {
    // Longer than what is written next, so that nothing of it may stay behind that.
    let record = hex("02 00 00 00 '/t' 20 00 00 00 'torn torn torn torn torn torn to'");
    for cut in 1..record.len() {
        let (_folder, path) = place();
        let store = open(&path, Users::Exactly(1));
        store.set("k", b"v").expect("set");
        let whole = fs::read(&path).expect("readable");
        fs::write(&path, [&whole[..], &record[..cut]].concat()).expect("writable");
        assert_eq!(store.get("k").expect("get"), b"v", "cut at {cut}");
        assert!(!store.check(&["t"]).expect("check"), "cut at {cut}");
        store.set("after", b"x").expect("set");
        let after = hex("06 00 00 00 '/after' 01 00 00 00 'x'");
        assert_eq!(fs::read(&path).expect("readable"), [whole, after].concat());
        assert!(store.check(&["k", "after"]).expect("check"), "cut at {cut}");
    }
}

#[test]
fn an_unfinished_first_record_is_begun_anew() {
    let first = hex("09 00 00 00 'refcount/' 01 00 00 00 '1'");
    for cut in 0..first.len() {
        let (_folder, path) = place();
        fs::write(&path, &first[..cut]).expect("writable");
        let store = open(&path, Users::Exactly(1));
        assert_eq!(fs::read(&path).expect("readable"), first, "cut at {cut}");
        assert_eq!(store.num_keys().expect("num_keys"), 1);
    }
}

#[test]
fn a_file_that_is_no_store_is_left_alone() {
    for contents in [&b"# a precious note\n"[..], b"x", b"\x09\0\0\0refcounts", &[0; 100]] {
        let (_folder, path) = place();
        fs::write(&path, contents).expect("writable");
        let error = FileStore::open(&path, Users::Exactly(1)).expect_err("no store");
        assert!(matches!(error, StoreError::FileDamaged { .. }), "{error}");
        assert!(error.to_string().contains(path.to_str().expect("text")), "{error}");
        assert_eq!(fs::read(&path).expect("readable"), contents);
    }
}

#[test]
fn a_folder_that_is_absent_is_named() {
    let (folder, _) = place();
    let path = folder.path().join("absent/store");
    let error = FileStore::open(&path, Users::Exactly(1)).expect_err("no folder");
    assert!(matches!(error, StoreError::File { action: "open", .. }), "{error}");
}

#[test]
fn a_removed_or_shortened_file_is_noticed() {
    let (_folder, path) = place();
    let store = open(&path, Users::Exactly(1));
    store.set("k", b"v").expect("set");
    let length = fs::metadata(&path).expect("there").len();
    let file = fs::OpenOptions::new().write(true).open(&path).expect("opens");
    file.set_len(length - 1).expect("shortened");
    let error = store.get("k").expect_err("damaged");
    assert!(matches!(error, StoreError::FileDamaged { .. }) && error.is_lost(), "{error}");

    let (_folder, path) = place();
    let store = open(&path, Users::Exactly(1));
    fs::remove_file(&path).expect("removed");
    let error = store.set("k", b"v").expect_err("gone");
    assert!(matches!(error, StoreError::FileGone { .. }) && error.is_lost(), "{error}");
    // A wait notices too, instead of waiting for nothing.
    let error = store.wait(&["k"], Duration::from_secs(30)).expect_err("gone");
    assert!(error.is_lost(), "{error}");
}

/// A stopped process may hold the lock for ever.
#[test]
fn the_lock_is_not_waited_for_without_end() {
    let (_folder, path) = place();
    let store = open(&path, Users::Unknown);
    store.set_timeout(Duration::from_millis(50));
    let other = fs::OpenOptions::new().read(true).open(&path).expect("opens");
    other.lock().expect("locked");
    let error = store.set("k", b"v").expect_err("locked by another");
    assert!(matches!(error, StoreError::File { action: "lock", .. }), "{error}");
    other.unlock().expect("unlocked");
    store.set("k", b"v").expect("set");
}

#[test]
fn large_values_survive_a_second_reader() {
    let (_folder, path) = place();
    let one = open(&path, Users::Exactly(2));
    let two = open(&path, Users::Exactly(2));
    let large: Vec<u8> = (0..VALUE_MAX).map(|index| (index % 251) as u8).collect();
    one.set("large", &large).expect("set");
    one.append("large", b"x").expect_err("too long now");
    assert!(two.get("large").expect("get") == large);
}
