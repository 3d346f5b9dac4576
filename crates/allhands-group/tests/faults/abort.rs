//! Aborts, dropped works, and many ways to wait at once.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use allhands_group::{OperationError, ProcessGroup, Rank, ReduceOp, Tensor, Work};

use crate::ranks::pause;
use crate::stage::{Dice, again, config, of_operation, processes, ranks, threads};

/// Ten times what is promised.
const PROMISE: Duration = Duration::from_millis(500);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        let left = until.checked_duration_since(Instant::now()).expect("the future was not woken");
        std::thread::park_timeout(left);
    }
}

#[derive(Clone, Copy, Debug)]
enum Wait {
    Blocking,
    Work,
    Polling,
    Future,
}

const WAITS: [Wait; 4] = [Wait::Blocking, Wait::Work, Wait::Polling, Wait::Future];

fn reduce(group: &ProcessGroup, wait: Wait, len: usize) -> Result<(), allhands_group::Error> {
    let mut tensor = Tensor::from_slice(&vec![1.0f32; len]);
    if let Wait::Blocking = wait {
        group.all_reduce(&mut tensor, ReduceOp::Sum)?;
        assert_eq!(tensor.as_slice::<f32>().unwrap()[len - 1], group.world_size() as f32);
        return Ok(());
    }
    let work = group.all_reduce_async(tensor, ReduceOp::Sum);
    let ended = match wait {
        Wait::Blocking | Wait::Work => work.wait(),
        Wait::Polling => {
            while !work.wait_timeout(Duration::from_millis(1)) {}
            assert!(work.is_completed());
            work.wait()
        }
        Wait::Future => block_on(work),
    };
    let tensor = ended.map_err(|failed| {
        assert_eq!(failed.buffers.numel(), len);
        failed.error
    })?;
    assert_eq!(tensor.as_slice::<f32>().unwrap()[len - 1], group.world_size() as f32);
    Ok(())
}

/// All ranks but the last wait, each in several ways at once; `aborter` ends it.
fn abort(group: &ProcessGroup, aborter: u32) {
    let rank = group.rank().0;
    let check = |error: allhands_group::Error| {
        let OperationError::Aborted { reason, .. } = of_operation(&error) else {
            panic!("rank {rank}: {error}");
        };
        assert_eq!(error.ranks(), ranks(&[aborter]), "{error}");
        assert!(reason.contains("enough of it"), "{error}");
    };
    group.barrier().unwrap();
    std::thread::scope(|scope| {
        if rank < 2 {
            for (channel, wait) in WAITS.into_iter().enumerate() {
                scope.spawn(move || {
                    let group = group.on_channel(channel as u32);
                    check(reduce(&group, wait, 1000).expect_err("aborted"));
                });
            }
        }
        pause(Duration::from_millis(100));
        if rank == aborter {
            group.abort("enough of it");
        }
    });
    // The rank that waits for nothing is told too.
    let until = Instant::now() + Duration::from_secs(10);
    let called = Instant::now();
    let error = loop {
        if rank != 2 || aborter == 2 {
            break group.barrier().expect_err("aborted");
        }
        pause(PROMISE);
        match group.barrier() {
            Err(error) => break error,
            Ok(()) => assert!(Instant::now() < until),
        }
    };
    assert!(called.elapsed() < PROMISE + Duration::from_secs(1), "a broken group answers at once");
    check(error);
}

#[test]
fn an_abort_ends_every_wait_between_threads() {
    for aborter in 0..3 {
        let took = threads(3, &config(), |group| {
            let began = Instant::now();
            abort(&group, aborter);
            began.elapsed()
        });
        let slowest = took.into_iter().max().unwrap();
        assert!(slowest < Duration::from_secs(5), "aborting took {slowest:?}");
    }
}

#[test]
fn an_abort_ends_every_wait_over_tcp() {
    let name = "abort::an_abort_ends_every_wait_over_tcp";
    processes(name, 3, config(), |group, _| {
        for aborter in 0..3 {
            let began = Instant::now();
            abort(&again(&group, aborter + 1, config()), aborter);
            assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        }
        String::new()
    });
}

#[test]
fn aborting_twice_or_from_two_ranks_tells_one_cause() {
    for _ in 0..20 {
        let told = threads(3, &config(), |group| {
            std::thread::scope(|scope| {
                if group.rank() != Rank(2) {
                    scope.spawn(|| group.abort("one"));
                    scope.spawn(|| group.abort("two"));
                }
                let error = loop {
                    if let Err(error) = group.barrier() {
                        break error;
                    }
                };
                assert!(matches!(of_operation(&error), OperationError::Aborted { .. }), "{error}");
                error.ranks()
            })
        });
        assert!(told.iter().all(|one| *one == told[0] && one.len() == 1), "{told:?}");
    }
}

/// Works are dropped at any moment; everything else stays right.
fn drop_works(group: &ProcessGroup) {
    let mut dice = Dice::new(11);
    let mut moments = Dice::new(u64::from(group.rank().0) + 5);
    for round in 0..150 {
        // The same on all ranks; when each drops is its own affair.
        let channel = 1 + dice.below(3) as u32;
        let len = [10, 1000, 100_000][dice.below(3) as usize];
        let tensor = Tensor::from_slice(&vec![1.0f32; len]);
        let work = group.on_channel(channel).all_reduce_async(tensor, ReduceOp::Sum);
        match moments.below(4) {
            0 => drop(work),
            1 => {
                work.wait_timeout(Duration::from_micros(moments.below(300)));
                drop(work);
            }
            2 => {
                std::thread::yield_now();
                drop(work);
            }
            _ => drop(work.wait().unwrap()),
        }
        let mut data = [round as f32; 8];
        group.all_reduce(&mut data, ReduceOp::Sum).unwrap();
        assert_eq!(data, [round as f32 * group.world_size() as f32; 8]);
    }
    group.barrier().unwrap();
}

#[test]
fn dropped_works_harm_nobody_between_threads() {
    threads(3, &config(), |group| drop_works(&group));
}

#[test]
fn dropped_works_harm_nobody_over_tcp() {
    let name = "abort::dropped_works_harm_nobody_over_tcp";
    processes(name, 3, config(), |group, _| {
        drop_works(&group);
        String::new()
    });
}

/// Several threads of a rank, each with a channel and a way to wait of its own.
fn crowd(group: &ProcessGroup) {
    std::thread::scope(|scope| {
        for (channel, wait) in WAITS.into_iter().chain(WAITS).enumerate() {
            let group = group.on_channel(channel as u32);
            scope.spawn(move || {
                for round in 0..60 {
                    reduce(&group, wait, [1, 100, 20_000][round % 3]).unwrap();
                }
            });
        }
    });
}

#[test]
fn threads_share_a_group_between_threads() {
    threads(2, &config(), |group| crowd(&group));
}

#[test]
fn threads_share_a_group_over_tcp() {
    let name = "abort::threads_share_a_group_over_tcp";
    processes(name, 2, config(), |group, _| {
        crowd(&group);
        String::new()
    });
}

#[test]
fn a_future_is_woken_although_another_thread_drives_for_long() {
    threads(2, &config(), |group| {
        std::thread::scope(|scope| {
            let slow = group.on_channel(1);
            let held = scope.spawn(move || {
                if slow.rank() == Rank(1) {
                    pause(Duration::from_millis(400));
                }
                slow.barrier().unwrap();
            });
            pause(Duration::from_millis(50));
            for _ in 0..20 {
                reduce(&group, Wait::Future, 100).unwrap();
            }
            let mut works = Vec::new();
            for _ in 0..20 {
                let tensor = Tensor::from_slice(&[1.0f32; 10]);
                works.push(group.all_reduce_async(tensor, ReduceOp::Sum));
            }
            for work in works.into_iter().rev() {
                let tensor = block_on(work).unwrap();
                assert_eq!(tensor.as_slice::<f32>().unwrap(), [2.0; 10]);
            }
            held.join().unwrap();
        });
    });
}

#[test]
fn a_call_that_the_engine_refuses_is_answered_while_another_thread_drives() {
    threads(2, &config(), |group| {
        std::thread::scope(|scope| {
            let slow = group.on_channel(1);
            scope.spawn(move || {
                if slow.rank() == Rank(1) {
                    pause(Duration::from_millis(600));
                }
                slow.barrier().unwrap();
            });
            pause(Duration::from_millis(100));
            // The channel of messages is not for collectives.
            let called = Instant::now();
            let error = group.on_channel(u32::MAX).barrier().unwrap_err();
            assert!(error.to_string().contains("reserved"), "{error}");
            assert!(called.elapsed() < PROMISE, "answered after {:?}", called.elapsed());
        });
    });
}

/// A task that ends when it is woken, and takes the last handles of its group with it.
struct Task {
    held: Mutex<Option<(ProcessGroup, Work<Tensor>)>>,
    ended: Mutex<Option<mpsc::Sender<()>>>,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        // The group's own threads call this.
        drop(self.held.lock().unwrap().take());
        drop(self.ended.lock().unwrap().take());
    }
}

#[test]
fn the_last_handles_may_go_inside_a_task_that_is_woken() {
    threads(2, &config(), |group| {
        // The other rank comes late, so that the future must wait.
        if group.rank() == Rank(1) {
            pause(Duration::from_millis(50));
        }
        let work = group.all_reduce_async(Tensor::from_slice(&[1.0f32]), ReduceOp::Sum);
        let (sender, ended) = mpsc::channel();
        let held = Mutex::new(Some((group, work)));
        let task = Arc::new(Task { held, ended: Mutex::new(Some(sender)) });
        let waker = Waker::from(task.clone());
        let polled = {
            let mut held = task.held.lock().unwrap();
            let (_, work) = held.as_mut().unwrap();
            Pin::new(work).poll(&mut Context::from_waker(&waker))
        };
        if polled.is_pending() {
            let end = ended.recv_timeout(Duration::from_secs(20));
            assert_eq!(end, Err(mpsc::RecvTimeoutError::Disconnected), "the task was not woken");
        }
    });
}
