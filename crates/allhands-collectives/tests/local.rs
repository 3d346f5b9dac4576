//! Collectives between threads: every verb against a naive oracle.
#![allow(missing_docs, reason = "test code")]

use std::sync::Arc;
use std::time::Duration;

use allhands_collectives::{CallOptions, Communicator, Mesh, MeshConfig, Selection, Spec};
use allhands_engine::GroupSpec;
use allhands_plan::{Algorithm, Shape};
use allhands_tensor::{DType, ReduceOp};
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
                    let config = MeshConfig::new(world);
                    let mesh = Mesh::start(Box::new(links), Box::new(control), config).unwrap();
                    let spec = GroupSpec { id: 7, epoch: 0, members: (0..world).map(Peer).collect() };
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
                        assert_eq!(*x, i as f32 * world as f32 + ranks, "{world} {len} {algorithm:?}");
                    }
                }
            }
        }
    }
}
