//! What is measured: an operation on a list of tensors, and what it costs by definition.

use serde::{Deserialize, Serialize};

use super::models::Model;

/// A collective, or the exchange of two messages.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    clap::ValueEnum,
    Serialize,
    Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Operation {
    /// Every rank ends with the reduction of all.
    AllReduce,
    /// Every rank ends with the root's data.
    Broadcast,
    /// The root ends with the reduction of all.
    Reduce,
    /// Every rank ends with everybody's block.
    AllGather,
    /// The root ends with everybody's block.
    Gather,
    /// Every rank ends with its block of the root's data.
    Scatter,
    /// Every rank ends with its block of the reduction.
    ReduceScatter,
    /// Every rank ends with its block from everybody.
    AllToAll,
    /// Ranks 2k and 2k+1 send one message there and back; the time is per message.
    SendRecv,
    /// Nobody leaves before everybody came.
    Barrier,
    /// Every rank ends with the sum of all sparse tensors: random rows of a table of 10⁶ rows of 64 elements, in the order in
    /// which they were drawn. Bytes are those of a rank's rows.
    AllReduceSparse,
}

/// Rows of the table that sparse tensors are gradients of.
pub const TABLE_ROWS: u64 = 1_000_000;

/// Elements of each of its rows.
pub const TABLE_COLUMNS: u64 = 64;

impl Operation {
    /// All of them, in the order in which tables show them.
    pub const ALL: [Self; 11] = [
        Self::AllReduce,
        Self::Broadcast,
        Self::Reduce,
        Self::AllGather,
        Self::Gather,
        Self::Scatter,
        Self::ReduceScatter,
        Self::AllToAll,
        Self::SendRecv,
        Self::Barrier,
        Self::AllReduceSparse,
    ];

    /// The name on the command line, on control sockets and in records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AllReduce => "all_reduce",
            Self::Broadcast => "broadcast",
            Self::Reduce => "reduce",
            Self::AllGather => "all_gather",
            Self::Gather => "gather",
            Self::Scatter => "scatter",
            Self::ReduceScatter => "reduce_scatter",
            Self::AllToAll => "all_to_all",
            Self::SendRecv => "send_recv",
            Self::Barrier => "barrier",
            Self::AllReduceSparse => "all_reduce_sparse",
        }
    }

    /// Whether elements are combined.
    #[must_use]
    pub fn reduces(self) -> bool {
        matches!(self, Self::AllReduce | Self::Reduce | Self::ReduceScatter | Self::AllReduceSparse)
    }

    /// Whether one rank is special.
    #[must_use]
    pub fn rooted(self) -> bool {
        matches!(self, Self::Broadcast | Self::Reduce | Self::Gather | Self::Scatter)
    }

    /// Whether a cell's count is one block of a buffer that holds a block for every rank.
    #[must_use]
    pub fn blocked(self) -> bool {
        matches!(
            self,
            Self::AllGather | Self::Gather | Self::Scatter | Self::ReduceScatter | Self::AllToAll
        )
    }

    /// Whether the data is replaced by the result, in one buffer.
    #[must_use]
    pub fn in_place(self) -> bool {
        !self.blocked()
    }

    /// Whether a list of gradients is something to run it on.
    #[must_use]
    pub fn takes_models(self) -> bool {
        !matches!(self, Self::Barrier | Self::AllReduceSparse)
    }

    /// Whether it exists with this way of combining elements.
    #[must_use]
    pub fn knows(self, reduction: Reduction) -> bool {
        self != Self::AllReduceSparse || reduction == Reduction::Sum
    }

    /// nccl-tests' bus bandwidth over its algorithm bandwidth. Of sparse tensors every rank has to get all others' rows.
    #[must_use]
    pub fn bus_factor(self, world: u32) -> f64 {
        let n = f64::from(world);
        match self {
            Self::AllReduce => 2.0 * (n - 1.0) / n,
            Self::AllGather
            | Self::Gather
            | Self::Scatter
            | Self::ReduceScatter
            | Self::AllToAll => (n - 1.0) / n,
            Self::Broadcast | Self::Reduce | Self::SendRecv | Self::Barrier => 1.0,
            Self::AllReduceSparse => n - 1.0,
        }
    }
}

/// An element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Dtype {
    /// IEEE 754 single.
    F32,
    /// IEEE 754 double.
    F64,
    /// IEEE 754 half.
    F16,
    /// The upper half of a single.
    Bf16,
    /// Signed byte.
    I8,
    /// Unsigned byte.
    U8,
    /// 32-bit signed.
    I32,
    /// 64-bit signed.
    I64,
}

impl Dtype {
    /// The name on the command line, on control sockets and in records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::I8 => "i8",
            Self::U8 => "u8",
            Self::I32 => "i32",
            Self::I64 => "i64",
        }
    }

    /// Bytes an element.
    #[must_use]
    pub fn size(self) -> u64 {
        match self {
            Self::I8 | Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }
}

/// How elements are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Reduction {
    /// Added.
    Sum,
    /// Multiplied.
    Prod,
    /// The smallest.
    Min,
    /// The largest.
    Max,
    /// Added, then divided by the number of ranks (floats only).
    Avg,
}

impl Reduction {
    /// The name on the command line, on control sockets and in records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Prod => "prod",
            Self::Min => "min",
            Self::Max => "max",
            Self::Avg => "avg",
        }
    }
}

/// One line of the table: an operation on tensors of given counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The operation.
    pub operation: Operation,
    /// The element type.
    pub dtype: Dtype,
    /// How elements are combined, where the operation does so.
    pub reduction: Reduction,
    /// The special rank, where the operation has one.
    pub root: u32,
    /// The model whose gradients these are; `None` for a single tensor of a size sweep.
    pub model: Option<String>,
    /// Elements of each tensor; one rank's block of it where the operation is blocked.
    pub counts: Vec<u64>,
}

impl Cell {
    /// A single tensor of about `bytes`: blocked operations get the same total, split evenly, and
    /// at least one element a rank.
    #[must_use]
    pub fn sized(operation: Operation, kind: Kind, world: u32, bytes: u64) -> Self {
        let count = match operation {
            Operation::Barrier => 0,
            Operation::AllReduceSparse => {
                (bytes / kind.dtype.size()).next_multiple_of(TABLE_COLUMNS).max(TABLE_COLUMNS)
            }
            _ => share(operation, world, bytes / kind.dtype.size()),
        };
        Self::new(operation, kind, None, vec![count])
    }

    /// A model's gradients, one operation a tensor.
    #[must_use]
    pub fn of_model(operation: Operation, kind: Kind, world: u32, model: Model) -> Self {
        let counts =
            model.parameters().iter().map(|p| share(operation, world, p.elements())).collect();
        Self::new(operation, kind, Some(model.name().into()), counts)
    }

    fn new(operation: Operation, kind: Kind, model: Option<String>, counts: Vec<u64>) -> Self {
        let Kind { dtype, reduction, root } = kind;
        Self { operation, dtype, reduction, root, model, counts }
    }

    /// Elements as nccl-tests counts them: of the whole buffer, also where it is blocked.
    #[must_use]
    pub fn elements(&self, world: u32) -> u64 {
        let blocks = if self.operation.blocked() { u64::from(world) } else { 1 };
        self.counts.iter().sum::<u64>() * blocks
    }

    /// Bytes as nccl-tests counts them.
    #[must_use]
    pub fn bytes(&self, world: u32) -> u64 {
        self.elements(world) * self.dtype.size()
    }

    /// Messages that one pass times; the time of a pass is divided by it.
    #[must_use]
    pub fn messages(&self) -> u64 {
        if self.operation == Operation::SendRecv { 2 } else { 1 }
    }

    /// Bytes of memory that one system needs for it, over all ranks.
    #[must_use]
    pub fn memory(&self, world: u32) -> u64 {
        let (bytes, world) = (self.bytes(world), u64::from(world));
        match self.operation {
            Operation::AllGather | Operation::ReduceScatter => bytes * world + bytes,
            Operation::AllToAll => 2 * bytes * world,
            Operation::Gather | Operation::Scatter => 2 * bytes,
            // The rows of each rank, and everybody's sums of all.
            Operation::AllReduceSparse => bytes * world * (1 + world),
            _ => bytes * world,
        }
    }

    /// The command that makes a rank set this cell up.
    #[must_use]
    pub fn command(&self) -> String {
        let counts: Vec<_> = self.counts.iter().map(ToString::to_string).collect();
        format!(
            "cell {} {} {} {} {}",
            self.operation.name(),
            self.dtype.name(),
            self.reduction.name(),
            self.root,
            counts.join(",")
        )
    }

    /// The model's name, or the size: what tells this cell from others of its operation.
    #[must_use]
    pub fn short(&self, world: u32) -> String {
        self.model.clone().unwrap_or_else(|| super::sizes::short(self.bytes(world)))
    }

    /// What the last column says: the model, or nothing.
    #[must_use]
    pub fn label(&self) -> String {
        match &self.model {
            Some(model) => format!("{model}, {} tensors", self.counts.len()),
            None => String::new(),
        }
    }
}

/// What all cells of a run share.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// The element type.
    pub dtype: Dtype,
    /// How elements are combined.
    pub reduction: Reduction,
    /// The special rank.
    pub root: u32,
}

/// The count of a tensor with `elements`: all of them, or a rank's block of them.
fn share(operation: Operation, world: u32, elements: u64) -> u64 {
    if operation.blocked() { elements.div_ceil(u64::from(world)) } else { elements }.max(1)
}

/// All cells of a run: models first, then sizes, operation by operation; no two alike.
#[must_use]
pub fn all(
    operations: &[Operation],
    kind: Kind,
    world: u32,
    models: &[Model],
    sizes: &[u64],
) -> Vec<Cell> {
    let mut cells: Vec<Cell> = Vec::new();
    for &operation in operations.iter().filter(|operation| operation.knows(kind.reduction)) {
        let sized = sizes.iter().map(|&bytes| Cell::sized(operation, kind, world, bytes));
        let listed = models
            .iter()
            .filter(|_| operation.takes_models())
            .map(|&model| Cell::of_model(operation, kind, world, model));
        let from = cells.len();
        for cell in sized.chain(listed) {
            if !cells[from..].contains(&cell) {
                cells.push(cell);
            }
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind { dtype: Dtype::F32, reduction: Reduction::Sum, root: 0 };

    #[test]
    fn blocked_operations_share_the_same_total() {
        let cell = Cell::sized(Operation::AllGather, KIND, 4, 1024);
        assert_eq!((cell.counts[0], cell.elements(4), cell.bytes(4)), (64, 256, 1024));
        let least = Cell::sized(Operation::AllGather, KIND, 4, 4);
        assert_eq!((least.counts[0], least.bytes(4)), (1, 16));
        let plain = Cell::sized(Operation::AllReduce, KIND, 4, 1024);
        assert_eq!((plain.counts[0], plain.bytes(4)), (256, 1024));
    }

    #[test]
    fn a_barrier_has_one_cell_and_small_sizes_fall_together() {
        let cells =
            all(&[Operation::Barrier, Operation::Scatter], KIND, 8, &[Model::Gpt2], &[4, 8, 64]);
        let counts: Vec<_> = cells.iter().map(|c| (c.operation.name(), c.counts[0])).collect();
        assert_eq!(counts[..3], [("barrier", 0), ("scatter", 1), ("scatter", 2)]);
        assert_eq!(cells.len(), 4);
        assert_eq!(cells[3].label(), "gpt2, 148 tensors");
    }

    #[test]
    fn sparse_cells_have_whole_rows_and_are_sums() {
        let cell = Cell::sized(Operation::AllReduceSparse, KIND, 2, 256_000);
        assert_eq!((cell.counts[0], cell.bytes(2)), (64_000, 256_000));
        assert_eq!(Cell::sized(Operation::AllReduceSparse, KIND, 2, 4).counts, [64]);
        let max = Kind { reduction: Reduction::Max, ..KIND };
        assert!(all(&[Operation::AllReduceSparse], max, 2, &[], &[4]).is_empty());
        assert!(all(&[Operation::AllReduceSparse], KIND, 2, &[Model::Gpt2], &[]).is_empty());
    }

    #[test]
    fn bus_factors_are_nccl_tests() {
        assert_eq!(Operation::AllReduce.bus_factor(4), 1.5);
        assert_eq!(Operation::AllGather.bus_factor(4), 0.75);
        assert_eq!(Operation::Broadcast.bus_factor(4), 1.0);
    }

    #[test]
    fn the_command_is_what_the_peers_parse() {
        let cell = Cell { counts: vec![3, 5], ..Cell::sized(Operation::Reduce, KIND, 2, 4) };
        assert_eq!(cell.command(), "cell reduce f32 sum 0 3,5");
    }
}
