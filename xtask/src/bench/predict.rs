//! What the cost model says an operation takes, from figures that this run measured.
//!
//! The network is the machine's own: latency from the raw ping-pong, bandwidth from raw sockets
//! with as many busy processes, the cost of a byte from a memory copy. Where ranks share cores,
//! whatever a core does takes as much longer as there are ranks on it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use allhands_plan::{
    Collective, Determinism, Fabric, Network, Overlap, Precision, Rank, Table, model, select,
};

use super::cells::{Cell, Dtype};
use super::limits::{Limit, Unit, raw_rate};

/// The machine as the cost model sees it; `None` when a limit is missing.
#[must_use]
pub fn network(limits: &[Limit], world: u32, cores: u64) -> Option<Network> {
    let of = |name: &str, processes: u32, unit: Unit| {
        let found = limits.iter().filter(|l| l.name == name && l.unit == unit);
        found.filter(|l| l.processes == processes).map(|l| l.rounds.median).next_back()
    };
    let half_trip = of("tcp_pingpong_spin", 2, Unit::Microseconds)? * 1e-6;
    let copy = of("memcpy", 2, Unit::GBps)? * 1e9;
    let rate = raw_rate(limits, world.max(2))? * 1e9;
    let crowd = (f64::from(world) / cores.max(1) as f64).max(1.0);
    Some(Network {
        // Half of a trip through the loopback is the sender's system call, half the receiver's.
        alpha: half_trip / 2.0 * crowd,
        overhead: half_trip / 2.0 * crowd,
        beta: 1.0 / rate,
        gamma: crowd / copy,
        overlap: Overlap::After,
        fabric: Fabric::FullBisection,
    })
}

/// Microseconds that the selected algorithms take for one pass over `cell`; `None` for what is no
/// collective or has no plan.
#[must_use]
pub fn microseconds(cell: &Cell, world: u32, network: &Network) -> Option<f64> {
    let collective = Collective::from_name(cell.operation.name())?;
    let precision = match cell.dtype {
        Dtype::F16 | Dtype::Bf16 => Precision::Half,
        _ => Precision::Exact,
    };
    let size = usize::try_from(cell.dtype.size()).ok()?;
    // The table that a group uses unless it is configured otherwise.
    let table = Table::tcp_loopback();
    let mut known = BTreeMap::new();
    let mut seconds = 0.0;
    for &count in &cell.counts {
        if let Entry::Vacant(place) = known.entry(count) {
            let shape = collective.shape(count, Rank(cell.root));
            let algorithm = select(&shape, world, size, precision, Determinism::default(), &table);
            place.insert(model(&shape, algorithm, world, size, network).ok()?.seconds);
        }
        seconds += known[&count];
    }
    Some(seconds * 1e6)
}

#[cfg(test)]
mod tests {
    use super::super::cells::{Kind, Operation, Reduction};
    use super::super::models::Model;
    use super::super::stats::Rounds;
    use super::*;

    fn limits() -> Vec<Limit> {
        let limit = |name: &str, bytes, processes, unit, value| Limit {
            name: name.into(),
            bytes,
            processes,
            unit,
            rounds: Rounds::of(vec![value]).unwrap(),
        };
        vec![
            limit("memcpy", 64 << 20, 2, Unit::GBps, 8.0),
            limit("tcp_pingpong_spin", 4, 2, Unit::Microseconds, 3.2),
            limit("tcp_bidir_per_direction_nonblock_poll", 64 << 20, 2, Unit::GBps, 2.0),
            limit("tcp_bidir_per_direction_nonblock_poll", 64 << 20, 4, Unit::GBps, 1.0),
        ]
    }

    const KIND: Kind = Kind { dtype: Dtype::F32, reduction: Reduction::Sum, root: 0 };

    #[test]
    fn a_missing_limit_means_no_prediction() {
        assert!(network(&limits(), 2, 2).is_some());
        for left_out in 0..3 {
            let mut some = limits();
            some.remove(left_out);
            assert!(network(&some, 2, 2).is_none(), "{left_out}");
        }
    }

    #[test]
    fn predictions_grow_with_size_and_crowding() {
        let (two, four) = (network(&limits(), 2, 2).unwrap(), network(&limits(), 4, 2).unwrap());
        for operation in Operation::ALL {
            let of = |world, network, bytes| {
                microseconds(&Cell::sized(operation, KIND, world, bytes), world, network)
            };
            // Neither is one plan.
            if matches!(operation, Operation::SendRecv | Operation::AllReduceSparse) {
                assert_eq!(of(2, &two, 4), None);
                continue;
            }
            let (small, large) = (of(2, &two, 4).unwrap(), of(2, &two, 64 << 20).unwrap());
            assert!(small > 1.0 && small < 50.0, "{operation:?}: {small}");
            assert!(large > 5_000.0 || operation == Operation::Barrier, "{operation:?}: {large}");
            assert!(of(4, &four, 4).unwrap() > small, "{operation:?}");
        }
    }

    #[test]
    fn a_gradient_list_takes_the_sum_of_its_tensors() {
        let network = network(&limits(), 4, 2).unwrap();
        let list = Cell::of_model(Operation::AllReduce, KIND, 4, Model::ResNet50);
        let one = Cell::sized(Operation::AllReduce, KIND, 4, list.bytes(4));
        let (list, one) =
            (microseconds(&list, 4, &network).unwrap(), microseconds(&one, 4, &network).unwrap());
        assert!(list > one && list < 10.0 * one, "{list} {one}");
    }
}
