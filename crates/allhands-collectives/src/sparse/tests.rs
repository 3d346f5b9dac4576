//! Each method by itself, whatever the formula would choose.

use std::sync::Arc;

use allhands_engine::GroupSpec;
use allhands_plan::Determinism;
use allhands_tensor::{SparseTensor, Tensor};
use allhands_transport::local;
use allhands_wire::Peer;

use super::*;
use crate::mesh::{Mesh, MeshConfig};
use crate::selection::Selection;

/// What every rank returns from `work` in a world of threads.
fn ranks<T: Send>(world: u32, work: impl Fn(&Communicator) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let start = |(links, control)| {
            scope.spawn(move || {
                let config = MeshConfig::new(crate::processors::Cores::Shared);
                let mesh = Mesh::start(Box::new(links), Box::new(control), config).unwrap();
                let members = (0..world).map(Peer).collect();
                let spec = GroupSpec { id: 1, epoch: 0, members };
                let canonical =
                    Selection { determinism: Determinism::Canonical, ..Selection::default() };
                work(&Communicator::new(Arc::new(mesh), "test", spec, canonical).unwrap())
            })
        };
        let ranks: Vec<_> = local::fabric(world).into_iter().map(start).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn tensor(seed: u64, rows: usize, shape: &[usize]) -> SparseTensor {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) + 1;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as usize % below
    };
    let indices: Vec<i64> = (0..rows).map(|_| next(shape[0]) as i64).collect();
    let values: Vec<f32> = (0..rows * shape[1]).map(|_| next(1 << 20) as f32 / 3.0 - 1e5).collect();
    let indices = Tensor::from_vec(indices).with_shape(&[1, rows]).unwrap();
    let values = Tensor::from_vec(values).with_shape(&[rows, shape[1]]).unwrap();
    SparseTensor::new(indices, values, shape).unwrap()
}

/// The first step, then the given method.
fn by(group: &Communicator, method: Method, tensor: &SparseTensor) -> (Vec<i64>, Vec<u8>) {
    let options = CallOptions::default();
    let begun = group.begin_sparse(tensor, None, ReduceOp::Sum, &options).unwrap();
    let mut call = Call::new(group, Operation::AllReduceSparse, &options, tensor.layout());
    let mut cards = call.cards(&begun.card(tensor.layout(), Manner::Blocking)).unwrap();
    call.step(&call.meeting(), [], [keys::of(&mut cards)]).unwrap();
    let (cards, _) = call.agree(&cards, false, begun.place).unwrap();
    let sum = call.sum_by(method, &cards, tensor, &begun.order, None).unwrap();
    let values = sum.values();
    (sum.indices().to_vec().unwrap(), values.as_bytes().unwrap().to_vec())
}

#[test]
fn every_method_gives_the_same_bits() {
    for (seed, world) in (0..).zip([1, 2, 3, 4, 5, 7, 8]) {
        for (rows, shape) in [(0, [50, 3]), (40, [50, 3]), (700, [3000, 2]), (500, [200, 33])] {
            let found = ranks(world, |group| {
                let rank = u64::from(group.rank().0);
                // One rank has fewer rows, one none.
                let rows = [rows, rows, rows / 3, 0][rank as usize % 4];
                let mine = tensor(seed * 100 + rank, rows, &shape);
                [Method::Gather, Method::Owners, Method::Dense]
                    .map(|method| by(group, method, &mine))
            });
            for rank in &found {
                for method in rank {
                    assert!(*method == found[0][0], "seed {seed}, world {world}, {rows} {shape:?}");
                }
            }
        }
        let found = ranks(world, |group| {
            let mut mine = tensor(seed, 90, &[70, 5]);
            let scale = group.rank().0 as f32 + 0.3;
            mine.values_mut().as_mut_slice::<f32>().unwrap().iter_mut().for_each(|x| *x *= scale);
            [Method::Aligned, Method::Gather].map(|method| by(group, method, &mine))
        });
        assert!(found.iter().flatten().all(|sum| *sum == found[0][0]), "seed {seed}");
    }
}

#[test]
fn counts_are_raised_a_little_and_to_few_values() {
    let mut different = std::collections::BTreeSet::new();
    for count in 1..=4096 {
        let more = raised(count);
        assert!(more >= count && more <= count + count.div_ceil(16), "{count}: {more}");
        assert_eq!(raised(more), more);
        different.insert(more);
    }
    assert!(different.len() < 200, "{}", different.len());
    assert_eq!(raised(0), 0);
}
