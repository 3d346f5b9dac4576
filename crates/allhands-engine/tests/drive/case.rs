//! One collective with its buffers on every rank and what must come out.

use std::sync::Arc;

use allhands_engine::{LoanBase, Prepared, Space, Storage, Submission};
use allhands_plan::{Algorithm, Counts, Order, Own, Plan, Rank, Shape};
use allhands_tensor::{DType, Kernel, ReduceOp, bf16, f16};
use allhands_wire::Descriptor;
use std::time::Instant;

use crate::fold;
use crate::rng::Rng;

pub struct Case {
    pub channel: u32,
    pub shapes: Vec<Shape>,
    pub algorithm: Algorithm,
    pub dtype: DType,
    pub reduction: Option<ReduceOp>,
    pub inputs: Vec<Vec<u8>>,
    pub data: Vec<Vec<u8>>,
    /// What `Data` must be in the end; `None` where anything may be.
    pub expect: Vec<Option<Vec<u8>>>,
    pub plans: Vec<Arc<Prepared>>,
    /// Most pieces of a buffer.
    pub pieces: usize,
}

pub const DTYPES: [DType; 12] = [
    DType::F32,
    DType::I32,
    DType::F16,
    DType::U8,
    DType::F64,
    DType::BF16,
    DType::U64,
    DType::I16,
    DType::I8,
    DType::U32,
    DType::I64,
    DType::U16,
];

pub const FLOAT_OPS: [ReduceOp; 6] = [
    ReduceOp::Sum,
    ReduceOp::Avg,
    ReduceOp::Product,
    ReduceOp::Min,
    ReduceOp::Max,
    ReduceOp::PremulSum(0.5),
];

pub const INTEGER_OPS: [ReduceOp; 7] = [
    ReduceOp::Sum,
    ReduceOp::Product,
    ReduceOp::Min,
    ReduceOp::Max,
    ReduceOp::BitAnd,
    ReduceOp::BitOr,
    ReduceOp::BitXor,
];

/// Elements of a dtype. `exact`: whose sums and products are the same in every order.
pub fn elements(
    rng: &mut Rng,
    dtype: DType,
    op: Option<ReduceOp>,
    len: u64,
    exact: bool,
) -> Vec<u8> {
    let mut bytes = vec![0; len as usize * dtype.size()];
    if !dtype.is_float() || op.is_none() {
        rng.fill(&mut bytes);
        return bytes;
    }
    for element in bytes.chunks_mut(dtype.size()) {
        let sign = if rng.chance(50) { 1.0 } else { -1.0 };
        let value = match op {
            Some(ReduceOp::Product) if exact => sign,
            _ if exact => sign * rng.below(9) as f64,
            _ => sign * (1.0 + rng.below(1000) as f64) * 0.0137,
        };
        match dtype {
            DType::F32 => element.copy_from_slice(&(value as f32).to_le_bytes()),
            DType::F64 => element.copy_from_slice(&value.to_le_bytes()),
            DType::F16 => element.copy_from_slice(&f16::from_f64(value).to_le_bytes()),
            _ => element.copy_from_slice(&bf16::from_f64(value).to_le_bytes()),
        }
    }
    bytes
}

fn canonical(plan: &Plan, dtype: DType) -> bool {
    let order = if matches!(dtype, DType::F16 | DType::BF16) {
        plan.half_order()
    } else {
        plan.exact_order()
    };
    order == Order::Canonical
}

fn block<'a>(counts: &Counts, rank: u32, bytes: &'a [u8], size: usize) -> &'a [u8] {
    let from = counts.offset(Rank(rank)) as usize * size;
    &bytes[from..from + counts.of(Rank(rank)) as usize * size]
}

impl Case {
    /// A collective with random contents. `shapes`: one for each rank, or one for all.
    pub fn new(
        rng: &mut Rng,
        shapes: &[Shape],
        algorithm: Algorithm,
        world: u32,
        dtype: DType,
        op: ReduceOp,
    ) -> Self {
        let shapes: Vec<Shape> =
            (0..world).map(|r| shapes[r as usize % shapes.len()].clone()).collect();
        let plans: Vec<Plan> = (0..world)
            .map(|r| Plan::build(&shapes[r as usize], algorithm, world, Rank(r)).unwrap())
            .collect();
        let reduction = plans.iter().any(Plan::reduces).then_some(op);
        let reduction = match shapes[0] {
            Shape::AllReduce { .. } | Shape::Reduce { .. } | Shape::ReduceScatter { .. } => {
                Some(op)
            }
            _ => reduction,
        };
        let exact = !plans.iter().all(|plan| canonical(plan, dtype));
        let random =
            |rng: &mut Rng, len: u64| -> Vec<u8> { elements(rng, dtype, reduction, len, exact) };
        let mut inputs: Vec<Vec<u8>> = plans.iter().map(|p| random(rng, p.input_len())).collect();
        let mut data: Vec<Vec<u8>> = plans.iter().map(|p| random(rng, p.data_len())).collect();
        let size = dtype.size();
        let all = 0..world;
        let expect: Vec<Option<Vec<u8>>> = match &shapes[0] {
            Shape::AllReduce { .. } => {
                let result = fold::reduce(dtype, op, &data);
                all.map(|_| Some(result.clone())).collect()
            }
            Shape::Broadcast { root, .. } => {
                all.map(|_| Some(data[root.index()].clone())).collect()
            }
            Shape::Reduce { root, .. } => {
                let result = fold::reduce(dtype, op, &data);
                all.map(|r| (r == root.0).then(|| result.clone())).collect()
            }
            Shape::AllGather { counts, own } => {
                let blocks: Vec<Vec<u8>> = all
                    .clone()
                    .map(|r| match own {
                        Own::Input => inputs[r as usize].clone(),
                        Own::InPlace => block(counts, r, &data[r as usize], size).to_vec(),
                    })
                    .collect();
                all.map(|_| Some(blocks.concat())).collect()
            }
            Shape::Gather { root, .. } => {
                all.map(|r| Some(if r == root.0 { inputs.concat() } else { Vec::new() })).collect()
            }
            Shape::Scatter { counts, root } => {
                all.map(|r| Some(block(counts, r, &inputs[root.index()], size).to_vec())).collect()
            }
            Shape::ReduceScatter { counts } => {
                let whole = fold::reduce(dtype, op, &inputs);
                // Who hands over the input has scaled it; the engine scales what it works on in place.
                for input in &mut inputs {
                    *input = fold::prepare(dtype, op, input);
                }
                all.map(|r| Some(block(counts, r, &whole, size).to_vec())).collect()
            }
            Shape::AllToAll { .. } => all
                .map(|to| {
                    let from = |from: usize| match &shapes[from] {
                        Shape::AllToAll { send, .. } => {
                            block(send, to, &inputs[from], size).to_vec()
                        }
                        other => panic!("{} among all-to-all", other.name()),
                    };
                    Some((0..world as usize).flat_map(from).collect())
                })
                .collect(),
            Shape::Barrier => all.map(|_| Some(Vec::new())).collect(),
        };
        if reduction.is_none() && !matches!(shapes[0], Shape::Broadcast { .. }) {
            // What stands in an output before must not matter, except where a block is in place.
            for (rank, bytes) in data.iter_mut().enumerate() {
                if let Shape::AllGather { counts, own: Own::InPlace } = &shapes[rank] {
                    let own = block(counts, rank as u32, bytes, size).to_vec();
                    rng.fill(bytes);
                    let at = counts.offset(Rank(rank as u32)) as usize * size;
                    bytes[at..at + own.len()].copy_from_slice(&own);
                }
            }
        }
        let plans = plans.into_iter().map(|plan| Arc::new(Prepared::new(plan))).collect();
        Self {
            channel: 0,
            shapes,
            algorithm,
            dtype,
            reduction,
            inputs,
            data,
            expect,
            plans,
            pieces: 4,
        }
    }

    pub fn on(mut self, channel: u32) -> Self {
        self.channel = channel;
        self
    }

    pub fn name(&self) -> String {
        format!(
            "{} by {} of {} in a world of {} ({:?}), channel {}",
            self.shapes[0].name(),
            self.algorithm,
            self.dtype,
            self.shapes.len(),
            self.shapes[0],
            self.channel
        )
    }

    pub fn descriptor(&self, rank: usize) -> Descriptor {
        describe(&self.shapes[rank], self.algorithm, self.dtype, self.reduction)
    }

    /// A buffer in up to `pieces` pieces, some of them empty.
    fn space(&self, rng: &mut Rng, bytes: &[u8]) -> Space {
        let size = self.dtype.size();
        let elements = bytes.len() / size;
        let mut cuts: Vec<usize> =
            (1..1 + rng.below(self.pieces)).map(|_| rng.below(elements + 1) * size).collect();
        cuts.push(0);
        cuts.push(bytes.len());
        cuts.sort_unstable();
        Space::list(cuts.windows(2).map(|cut| Storage::Bytes(bytes[cut[0]..cut[1]].to_vec())))
    }

    pub fn submission(&self, rng: &mut Rng, rank: usize, now: Instant) -> Submission {
        let kernel = self.reduction.map(|op| Kernel::new(self.dtype, op).unwrap());
        let descriptor = self.descriptor(rank);
        Submission {
            channel: self.channel,
            plan: self.plans[rank].clone(),
            kernel,
            element_size: self.dtype.size(),
            descriptor,
            fingerprint: descriptor.fingerprint(),
            input: self.space(rng, &self.inputs[rank]),
            data: self.space(rng, &self.data[rank]),
            loan: None,
            submitted: now,
            deadline: None,
        }
    }
}

/// The buffers of a lent submission: the segment's number is the driver's.
pub fn lend(segment: u64, generation: u64, input_len: usize) -> LoanBase {
    LoanBase { segment, generation, data: Some(input_len as u64), input: Some(0) }
}

pub fn describe(
    shape: &Shape,
    algorithm: Algorithm,
    dtype: DType,
    reduction: Option<ReduceOp>,
) -> Descriptor {
    let of = |counts: &Counts| match counts {
        Counts::Equal(count) => (*count, 1),
        // Lengths differ by rank on purpose: they are compared message by message.
        Counts::PerRank(_) => (0, 2),
    };
    let (op, root, (count, extra)) = match shape {
        Shape::AllReduce { len } => (1, None, (*len, 0)),
        Shape::Broadcast { len, root } => (2, Some(root.0), (*len, 0)),
        Shape::Reduce { len, root } => (3, Some(root.0), (*len, 0)),
        Shape::AllGather { counts, .. } => (4, None, of(counts)),
        Shape::Gather { counts, root } => (5, Some(root.0), of(counts)),
        Shape::Scatter { counts, root } => (6, Some(root.0), of(counts)),
        Shape::ReduceScatter { counts } => (7, None, of(counts)),
        Shape::AllToAll { send, .. } => (8, None, of(send)),
        Shape::Barrier => (9, None, (0, 0)),
    };
    Descriptor {
        op,
        reduce_op: reduction.map_or(0, |op| op.code()),
        dtype: dtype.code(),
        algorithm: algorithm.id(),
        root,
        count,
        extra,
        ..Descriptor::default()
    }
}

/// Bytes of a space, its pieces joined.
pub fn joined(space: Space) -> Vec<u8> {
    space.into_pieces().iter().flat_map(|piece| piece.as_bytes().to_vec()).collect()
}

/// Every kind of collective with every algorithm that does it.
pub fn every_shape(rng: &mut Rng, world: u32, len: u64) -> Vec<(Vec<Shape>, Algorithm)> {
    let root = Rank(rng.below(world as usize) as u32);
    let mut counts =
        |_| -> u64 { if len == 0 { 0 } else { rng.below(len as usize * 2 + 1) as u64 } };
    let matrix: Vec<Vec<u64>> = (0..world).map(|_| (0..world).map(&mut counts).collect()).collect();
    let uneven = Counts::PerRank(matrix[0].clone().into());
    let equal = Counts::Equal(len);
    let own_rows = (0..world as usize)
        .map(|r| Shape::AllToAll {
            send: Counts::PerRank(matrix[r].clone().into()),
            recv: Counts::PerRank(matrix.iter().map(|row| row[r]).collect::<Vec<_>>().into()),
        })
        .collect();
    let mut shapes = vec![
        vec![Shape::AllReduce { len }],
        vec![Shape::Broadcast { len, root }],
        vec![Shape::Reduce { len, root }],
        vec![Shape::AllToAll { send: equal.clone(), recv: equal.clone() }],
        own_rows,
        vec![Shape::Barrier],
    ];
    for counts in [equal, uneven] {
        shapes.push(vec![Shape::AllGather { counts: counts.clone(), own: Own::Input }]);
        shapes.push(vec![Shape::AllGather { counts: counts.clone(), own: Own::InPlace }]);
        shapes.push(vec![Shape::Gather { counts: counts.clone(), root }]);
        shapes.push(vec![Shape::Scatter { counts: counts.clone(), root }]);
        shapes.push(vec![Shape::ReduceScatter { counts }]);
    }
    shapes
        .into_iter()
        .flat_map(|shapes| {
            let first = shapes[0].clone();
            Algorithm::ALL
                .into_iter()
                .filter(move |algorithm| algorithm.supports(&first, world))
                .map(move |algorithm| (shapes.clone(), algorithm))
        })
        .collect()
}
