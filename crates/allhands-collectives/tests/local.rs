//! Collectives between threads: every verb against a naive oracle.
#![allow(missing_docs, reason = "test code")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use allhands_collectives::{
    CallOptions, Communicator, Cores, Error, Mesh, MeshConfig, Message, Selection, Spec,
};
use allhands_engine::GroupSpec;
use allhands_plan::{Algorithm, Rank, Shape};
use allhands_tensor::{DType, ReduceOp, Tensor};
use allhands_transport::local;
use allhands_wire::Peer;

fn on_ranks<R: Send>(world: u32, work: impl Fn(&Communicator) -> R + Sync) -> Vec<R> {
    let links = local::fabric(world);
    std::thread::scope(|scope| {
        let threads: Vec<_> = links
            .into_iter()
            .map(|(links, control)| {
                let work = &work;
                scope.spawn(move || {
                    let config = MeshConfig::new(Cores::Shared);
                    let mesh = Mesh::start(Box::new(links), Box::new(control), config).unwrap();
                    let spec =
                        GroupSpec { id: 7, epoch: 0, members: (0..world).map(Peer).collect() };
                    let group =
                        Communicator::new(Arc::new(mesh), "test", spec, Selection::default());
                    work(&group.unwrap())
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn options() -> CallOptions {
    CallOptions::default().with_timeout(Duration::from_secs(20))
}

#[test]
fn all_reduce_sums_on_every_rank() {
    for world in 1..=5 {
        for len in [0_usize, 1, 3, 1000, 100_003] {
            for algorithm in [Algorithm::Direct, Algorithm::TwoShot, Algorithm::RecursiveDoubling] {
                let results = on_ranks(world, |group| {
                    let rank = group.rank().0;
                    let mut data: Vec<f32> = (0..len).map(|i| (i as f32) + rank as f32).collect();
                    let spec = Spec::new(
                        Shape::AllReduce { len: len as u64 },
                        Some(DType::F32),
                        Some(ReduceOp::Sum),
                    );
                    for _ in 0..3 {
                        data = (0..len).map(|i| (i as f32) + rank as f32).collect();
                        let bytes = bytemuck::cast_slice_mut(&mut data);
                        group.run(&spec, &options().by(algorithm), [], [bytes]).unwrap();
                    }
                    data
                });
                let ranks: f32 = (0..world).map(|r| r as f32).sum();
                for data in results {
                    for (i, x) in data.iter().enumerate() {
                        assert_eq!(
                            *x,
                            i as f32 * world as f32 + ranks,
                            "{world} {len} {algorithm:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_group_is_added_while_another_thread_drives() {
    let (added, hears) = std::sync::mpsc::channel();
    let (added, hears) = (std::sync::Mutex::new(added), std::sync::Mutex::new(hears));
    on_ranks(2, |group| {
        let message = |peer| Message { peer: Rank(peer), tag: 3, dtype: DType::U8 };
        if group.rank() == Rank(1) {
            let heard = hears.lock().unwrap().recv_timeout(Duration::from_secs(10));
            group.send(&message(0), &options(), &[7]).unwrap();
            return heard.expect("the group was not added before the message came");
        }
        std::thread::scope(|scope| {
            let drives = scope.spawn(|| {
                let mut byte = [0];
                group.recv(&message(1), &options(), &mut byte).unwrap();
                byte
            });
            // Long enough that the other thread sits in the seat.
            std::thread::park_timeout(Duration::from_millis(50));
            let spec = GroupSpec { id: 8, epoch: 0, members: vec![Peer(0)] };
            let mesh = group.mesh().clone();
            let alone = Communicator::new(mesh, "alone", spec, Selection::default()).unwrap();
            let barrier = Spec::new(Shape::Barrier, None, None);
            alone.run(&barrier, &options(), [], []).unwrap();
            added.lock().unwrap().send(()).unwrap();
            assert_eq!(drives.join().unwrap(), [7]);
        });
    });
}

#[test]
fn parts_of_elements_are_refused() {
    let spec = Spec::new(
        Shape::ReduceScatter { counts: allhands_plan::Counts::Equal(1) },
        Some(DType::F32),
        Some(ReduceOp::PremulSum(2.0)),
    );
    on_ranks(1, |group| {
        let refused = group.run(&spec, &options(), [&[0_u8; 3][..]], [&mut [0_u8; 4][..]]);
        assert!(refused.is_err());
    });
}

#[test]
fn a_panic_in_a_scope_breaks_the_group_at_once() {
    let begun = Instant::now();
    on_ranks(2, |group| {
        let mut bytes = [1u8; 8];
        let sum = Spec::new(Shape::AllReduce { len: 8 }, Some(DType::U8), Some(ReduceOp::Sum));
        let options = CallOptions::default().with_timeout(Duration::from_secs(600));
        if group.rank().0 == 0 {
            let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                group.scope(|scope| {
                    scope.start(&sum, &options, [], [&mut bytes[..]]);
                    panic!("the body gives up");
                })
            }));
            assert!(panicked.is_err());
        }
        // A message that never comes: it has nothing to do with the operation that was given up.
        let peer = allhands_plan::Rank(1 - group.rank().0);
        let message = Message { peer, tag: 0, dtype: DType::U8 };
        let error = group.recv(&message, &options, &mut [0]).unwrap_err();
        assert!(matches!(error, Error::HookPanicked { .. }), "{error}");
        assert_eq!(error.ranks(), [allhands_plan::Rank(0)]);
    });
    assert!(begun.elapsed() < Duration::from_secs(60), "the timeout was waited for");
}

/// Short messages go their own way, long ones and asynchronous ones another: their order is that of the sends.
#[test]
fn messages_keep_their_order_whichever_way_they_go() {
    const LENGTHS: [usize; 6] = [0, 1, 8, 1024, 1025, 100_000];
    for seed in 1..=20_u64 {
        let mut state = seed;
        let mut draw = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        // Tag, length, and whether either side waits.
        let plan: Vec<(u32, usize, bool, bool)> = (0..60)
            .map(|_| {
                let (tag, len) = (draw(2) as u32, LENGTHS[draw(6) as usize]);
                (tag, len, draw(2) == 0, draw(2) == 0)
            })
            .collect();
        on_ranks(2, |group| {
            let peer = Rank(1 - group.rank().0);
            let fill = |index: usize, len: usize| vec![index as u8; len];
            let mut pending = Vec::new();
            for (index, &(tag, len, sender_waits, receiver_waits)) in plan.iter().enumerate() {
                let message = Message { peer, tag, dtype: DType::U8 };
                let tensor = |bytes: Vec<u8>| Tensor::from_vec(bytes);
                if group.rank() == Rank(0) {
                    if sender_waits && receiver_waits {
                        group.send(&message, &options(), &fill(index, len)).unwrap();
                    } else {
                        let work = group.start_send(&message, &options(), tensor(fill(index, len)));
                        pending.push((index, work));
                    }
                } else if receiver_waits {
                    let mut bytes = vec![255; len];
                    group.recv(&message, &options(), &mut bytes).unwrap();
                    assert_eq!(bytes, fill(index, len), "seed {seed}, message {index}");
                } else {
                    let work = group.start_recv(&message, &options(), tensor(vec![255; len]));
                    pending.push((index, work));
                }
            }
            for (index, work) in pending {
                let (ended, buffers) = work.wait();
                ended.unwrap();
                if group.rank() == Rank(1) {
                    let bytes = &buffers.outputs[0];
                    let len = plan[index].1;
                    assert_eq!(
                        bytes.as_slice::<u8>().unwrap(),
                        fill(index, len),
                        "seed {seed}, message {index}"
                    );
                }
            }
        });
    }
}
