//! The lending primitive under threads, panics and odd orders.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use allhands_tensor::lend::{LentMut, LentRef, lend_scope};

#[test]
fn tokens_are_send_and_a_shared_one_only_reads() {
    fn assert_send_sync<T: Send + Sync + 'static>() {}
    assert_send_sync::<LentMut>();
    assert_send_sync::<LentRef>();
}

#[test]
fn a_scope_without_tokens_returns_its_value() {
    assert_eq!(lend_scope(|scope| scope.outstanding() + 5), 5);
}

#[test]
fn writes_of_a_detached_thread_are_visible_after_the_scope() {
    for round in 0..2000u32 {
        let mut data = [0u8; 256];
        let (left, right) = data.split_at_mut(128);
        lend_scope(|scope| {
            for half in [left, right] {
                let mut token = scope.lend_mut(half);
                thread::spawn(move || token.fill(round as u8));
            }
        });
        assert_eq!(data, [round as u8; 256], "round {round}");
    }
}

#[test]
fn the_scope_waits_for_a_slow_token_by_parking() {
    let finished = Arc::new(AtomicBool::new(false));
    let mut data = [1u8; 8];
    let began = Instant::now();
    lend_scope(|scope| {
        let mut token = scope.lend_mut(&mut data);
        let finished = Arc::clone(&finished);
        thread::spawn(move || {
            // Far longer than spinning and yielding take.
            let until = Instant::now() + Duration::from_millis(80);
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                thread::park_timeout(left);
            }
            token[3] = 9;
            finished.store(true, Ordering::SeqCst);
            drop(token);
        });
    });
    assert!(finished.load(Ordering::SeqCst), "returned before the token was dropped");
    assert!(began.elapsed() >= Duration::from_millis(80));
    assert_eq!(data[3], 9);
}

#[test]
fn a_panic_in_the_body_waits_for_the_tokens_and_goes_on() {
    let mut data = vec![0u8; 1 << 16];
    let ready = Arc::new(Barrier::new(2));
    let caught = catch_unwind(AssertUnwindSafe(|| {
        lend_scope(|scope| {
            let mut token = scope.lend_mut(&mut data);
            let ready = Arc::clone(&ready);
            let theirs = Arc::clone(&ready);
            thread::spawn(move || {
                theirs.wait();
                for byte in token.iter_mut() {
                    *byte = 3;
                }
            });
            ready.wait();
            panic!("the body fails while a token is out");
        })
    }));
    let payload = caught.expect_err("the panic goes on");
    assert_eq!(payload.downcast_ref(), Some(&"the body fails while a token is out"));
    // Had the scope not waited, the thread would still be writing here.
    assert!(data.iter().all(|&byte| byte == 3));
}

#[test]
fn a_panicking_holder_gives_its_token_back() {
    let mut data = [0u8; 4];
    lend_scope(|scope| {
        let token = scope.lend_mut(&mut data);
        thread::Builder::new()
            .spawn(move || {
                let _held = token;
                std::panic::resume_unwind(Box::new("the holder fails"));
            })
            .expect("a thread")
    })
    .join()
    .expect_err("the holder panicked");
    data[0] = 1;
    assert_eq!(data, [1, 0, 0, 0]);
}

#[test]
fn many_readers_share_one_slice() {
    let data: Vec<u8> = (0..100).collect();
    let total = Arc::new(AtomicUsize::new(0));
    lend_scope(|scope| {
        for _ in 0..16 {
            let token = scope.lend(&data);
            let total = Arc::clone(&total);
            thread::spawn(move || {
                let sum: usize = token.iter().map(|&byte| usize::from(byte)).sum();
                total.fetch_add(sum, Ordering::Relaxed);
            });
        }
        assert!(scope.outstanding() <= 16);
    });
    assert_eq!(total.load(Ordering::Relaxed), 16 * 4950);
}

#[test]
fn tokens_may_be_dropped_by_their_lender_in_any_order() {
    let (mut a, mut b, c) = ([1u8; 3], [2u8; 3], [3u8; 3]);
    lend_scope(|scope| {
        let (mut first, second, third) =
            (scope.lend_mut(&mut a), scope.lend_mut(&mut b), scope.lend(&c));
        assert_eq!(scope.outstanding(), 3);
        drop(second);
        first.copy_from_slice(&third);
        drop(third);
        assert_eq!(scope.outstanding(), 1);
        drop(first);
        assert_eq!(scope.outstanding(), 0);
    });
    assert_eq!((a, b), ([3; 3], [2; 3]));
}

#[test]
fn empty_slices_and_nested_scopes_work() {
    let mut outer = [0u8; 2];
    lend_scope(|scope| {
        let mut token = scope.lend_mut(&mut outer);
        let inner = [5u8; 2];
        lend_scope(|nested| {
            let source = nested.lend(&inner);
            let empty = nested.lend(&[]);
            assert!(empty.is_empty());
            thread::spawn(move || token.copy_from_slice(&source));
        });
        assert_eq!(inner, [5; 2]);
    });
    assert_eq!(outer, [5; 2]);
}

/// A long-lived worker takes tokens from many scopes, in a queue, and drops them late: the shape in
/// which the engine uses them. Every scope dies right after its last token.
#[test]
fn a_worker_serves_thousands_of_short_scopes() {
    let (sender, receiver) = mpsc::channel::<(LentMut, LentRef)>();
    let worker = thread::spawn(move || {
        for (mut target, source) in receiver {
            for (t, s) in target.iter_mut().zip(source.iter()) {
                *t = t.wrapping_add(*s);
            }
        }
    });
    let callers: Vec<_> = (0..4u8)
        .map(|caller| {
            let sender = sender.clone();
            thread::spawn(move || {
                for round in 0..2500u32 {
                    let mut target = [round as u8; 32];
                    let source = [caller; 32];
                    lend_scope(|scope| {
                        sender
                            .send((scope.lend_mut(&mut target), scope.lend(&source)))
                            .expect("the worker lives");
                    });
                    assert_eq!(target, [(round as u8).wrapping_add(caller); 32]);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.join().expect("no caller fails");
    }
    drop(sender);
    worker.join().expect("the worker ends");
}
