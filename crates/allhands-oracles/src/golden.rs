//! Reading `collectives.json` and its arrays.

use std::path::{Path, PathBuf};

use allhands_tensor::{DType, ReduceOp};
use safetensors::SafeTensors;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    Action, Case, Coordinates, Kind, OracleError, Programs, Received, SparseSum, Splits, Tolerance,
    WaitOrder,
};

/// The folder of the golden data: `ALLHANDS_ORACLES` if set, else the copy that comes with this crate.
#[must_use]
pub fn folder() -> PathBuf {
    match std::env::var_os("ALLHANDS_ORACLES") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("data"),
    }
}

/// Every golden case, in the order of the file, followed by the barrier cases, which have no data.
///
/// # Errors
/// A file is missing, damaged, or contradicts the documented format.
pub fn load() -> Result<Vec<Case>, OracleError> {
    load_from(&folder())
}

/// [`load`] from a folder of the caller's choice.
///
/// # Errors
/// As [`load`].
pub fn load_from(folder: &Path) -> Result<Vec<Case>, OracleError> {
    let path = folder.join("collectives.json");
    let file: RawFile = serde_json::from_slice(&read(&path)?)
        .map_err(|source| OracleError::Json { path, source })?;
    let path = folder.join("collectives.safetensors");
    let bytes = read(&path)?;
    let arrays =
        SafeTensors::deserialize(&bytes).map_err(|source| OracleError::Arrays { path, source })?;
    let mut cases = file
        .cases
        .iter()
        .map(|raw| Reader { raw, arrays: &arrays }.case())
        .collect::<Result<Vec<_>, _>>()?;
    cases.extend(barriers());
    Ok(cases)
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, OracleError> {
    std::fs::read(path).map_err(|source| OracleError::Read { path: path.into(), source })
}

/// Worlds of the golden data.
const WORLDS: std::ops::RangeInclusive<u32> = 2..=5;

/// A barrier with each rank as the late one, which is the `root`.
fn barriers() -> impl Iterator<Item = Case> {
    WORLDS.flat_map(|world| (0..world).map(move |late| (world, late))).map(|(world, late)| Case {
        id: format!("barrier{world}.{late}"),
        kind: Kind::Barrier,
        world,
        dtype: DType::U8,
        reduce_op: None,
        root: Some(late),
        shape: Vec::new(),
        inputs: vec![Vec::new(); world as usize],
        expected: vec![None; world as usize],
        tolerance: Tolerance::Exact,
        splits: None,
        programs: None,
        sparse: None,
    })
}

#[derive(Deserialize)]
struct RawFile {
    cases: Vec<RawCase>,
}

#[derive(Deserialize)]
struct RawMessage {
    src: u32,
    dst: u32,
    tag: u32,
    shape: Vec<usize>,
}

/// Verb, peer, tag, message; peer and message are -1 where the source is free.
type RawAction = (String, i64, u32, i64);

#[derive(Deserialize)]
struct RawCase {
    id: String,
    op: String,
    world: u32,
    dtype: String,
    reduce_op: Option<String>,
    root: Option<u32>,
    #[serde(default)]
    shape: Vec<usize>,
    #[serde(default)]
    inner_shape: Vec<usize>,
    atol: Option<f64>,
    layout: Option<String>,
    sparse_dim: Option<usize>,
    tensors_per_rank: Option<u32>,
    #[serde(rename = "in")]
    input: Option<Value>,
    out: Option<Value>,
    out_all: Option<Value>,
    out_root: Option<Value>,
    input_splits: Option<Vec<Vec<usize>>>,
    output_splits: Option<Vec<Vec<usize>>>,
    messages: Option<Vec<RawMessage>>,
    programs: Option<Vec<Vec<RawAction>>>,
    wait_reversed: Option<bool>,
    any_source: Option<bool>,
    data: Option<Vec<String>>,
}

/// The dtype that the data calls `name`; `None` for types that only refused calls use.
pub(crate) fn dtype(name: &str) -> Option<DType> {
    DType::ALL.into_iter().find(|dtype| dtype.name() == name)
}

/// The reduction that the data calls `name`.
pub(crate) fn reduce_op(name: &str) -> Option<ReduceOp> {
    Some(match name {
        "sum" => ReduceOp::Sum,
        "product" => ReduceOp::Product,
        "min" => ReduceOp::Min,
        "max" => ReduceOp::Max,
        "band" => ReduceOp::BitAnd,
        "bor" => ReduceOp::BitOr,
        "bxor" => ReduceOp::BitXor,
        "avg" => ReduceOp::Avg,
        _ => return None,
    })
}

struct Reader<'a> {
    raw: &'a RawCase,
    arrays: &'a SafeTensors<'a>,
}

impl Reader<'_> {
    fn case(&self) -> Result<Case, OracleError> {
        let raw = self.raw;
        let dtype = dtype(&raw.dtype).ok_or_else(|| self.malformed("unknown dtype"))?;
        let kind = self.kind()?;
        let world = raw.world as usize;
        let mut case = Case {
            id: raw.id.clone(),
            kind,
            world: raw.world,
            dtype,
            reduce_op: match &raw.reduce_op {
                Some(name) => {
                    Some(reduce_op(name).ok_or_else(|| self.malformed("unknown reduction"))?)
                }
                None => None,
            },
            root: raw.root,
            shape: if raw.input_splits.is_some() {
                raw.inner_shape.clone()
            } else {
                raw.shape.clone()
            },
            inputs: vec![Vec::new(); world],
            expected: vec![None; world],
            tolerance: Tolerance::from_atol(dtype, raw.atol),
            splits: None,
            programs: None,
            sparse: None,
        };
        if kind.out_of_scope().is_some() {
            return Ok(case);
        }
        if matches!(kind, Kind::PointToPoint | Kind::PointToPointAnySource) {
            case.programs = Some(self.programs(dtype)?);
            return Ok(case);
        }
        let input = self.present(raw.input.as_ref(), "in")?;
        if kind == Kind::SparseAllReduce {
            let inputs =
                input.as_array().ok_or_else(|| self.malformed("a list of tensors expected"))?;
            let inputs = inputs.iter().map(|parts| self.sparse(parts)).collect::<Result<_, _>>()?;
            let expected = self.sparse(self.present(raw.out_all.as_ref(), "out_all")?)?;
            case.sparse = Some(SparseSum { inputs, expected });
            return Ok(case);
        }
        if matches!(kind, Kind::AllToAllBaseSplits | Kind::AllToAll) {
            let inner: usize = raw.inner_shape.iter().product();
            let rows = |splits: &Option<Vec<Vec<usize>>>,
                        name|
             -> Result<Vec<Vec<usize>>, OracleError> {
                let rows = self.present(splits.as_ref(), name)?;
                Ok(rows.iter().map(|row| row.iter().map(|count| count * inner).collect()).collect())
            };
            case.splits = Some(Splits {
                input: rows(&raw.input_splits, "input_splits")?,
                output: rows(&raw.output_splits, "output_splits")?,
            });
            case.inputs = self.list(input)?;
            case.expected =
                self.list(self.present(raw.out.as_ref(), "out")?)?.into_iter().map(Some).collect();
        } else if kind == Kind::Scatter {
            let root = self.present(raw.root, "root")? as usize;
            case.inputs[root] = self.one(input)?;
            case.expected = self
                .stacked(self.present(raw.out.as_ref(), "out")?)?
                .into_iter()
                .map(Some)
                .collect();
        } else {
            case.inputs = self.stacked(input)?;
            if let Some(all) = &raw.out_all {
                case.expected = vec![Some(self.one(all)?); world];
            } else if let Some(at_root) = &raw.out_root {
                case.expected[self.present(raw.root, "root")? as usize] = Some(self.one(at_root)?);
            } else {
                let out = self.present(raw.out.as_ref(), "out")?;
                case.expected = self.stacked(out)?.into_iter().map(Some).collect();
            }
        }
        Ok(case)
    }

    fn kind(&self) -> Result<Kind, OracleError> {
        let raw = self.raw;
        if raw.layout.is_some() {
            return Ok(Kind::SparseAllReduce);
        }
        if raw.tensors_per_rank.is_some() {
            return Ok(Kind::SeveralTensorsPerRank);
        }
        Ok(match raw.op.as_str() {
            "broadcast" => Kind::Broadcast,
            "allreduce" => Kind::AllReduce,
            "reduce" => Kind::Reduce,
            "allgather" => Kind::AllGather,
            "_allgather_base" => Kind::AllGatherBase,
            "gather" => Kind::Gather,
            "scatter" => Kind::Scatter,
            "reduce_scatter" => Kind::ReduceScatter,
            "_reduce_scatter_base" => Kind::ReduceScatterBase,
            "alltoall_base" if raw.input_splits.is_some() => Kind::AllToAllBaseSplits,
            "alltoall_base" => Kind::AllToAllBase,
            "alltoall" => Kind::AllToAll,
            "p2p" if raw.any_source == Some(true) => Kind::PointToPointAnySource,
            "p2p" => Kind::PointToPoint,
            "allreduce_coalesced"
            | "reduce_scatter_tensor_coalesced"
            | "allgather_coalesced"
            | "allgather_into_tensor_coalesced" => Kind::Coalesced,
            other => return Err(self.malformed(&format!("unknown operation {other}"))),
        })
    }

    fn programs(&self, dtype: DType) -> Result<Programs, OracleError> {
        let raw = self.raw;
        let messages = self.present(raw.messages.as_ref(), "messages")?;
        let names = self.present(raw.data.as_ref(), "data")?;
        let payloads = names.iter().map(|name| self.array(name)).collect::<Result<Vec<_>, _>>()?;
        for (message, payload) in messages.iter().zip(&payloads) {
            if message.shape.iter().product::<usize>() * dtype.size() != payload.len() {
                return Err(self.malformed("a payload does not have its message's shape"));
            }
        }
        let mut actions = Vec::new();
        let mut received = Vec::new();
        for (rank, program) in (0u32..).zip(self.present(raw.programs.as_ref(), "programs")?) {
            let mut mine = Vec::new();
            let mut expected = Vec::new();
            for (verb, peer, tag, message) in program {
                let message = usize::try_from(*message).ok();
                let peer = u32::try_from(*peer);
                match (verb.as_str(), peer, message) {
                    ("isend", Ok(peer), Some(message)) => {
                        mine.push(Action::Send {
                            peer,
                            tag: *tag,
                            data: payloads[message].clone(),
                        });
                    }
                    ("irecv", Ok(peer), Some(message)) => {
                        let data = payloads[message].clone();
                        mine.push(Action::Receive { peer, tag: *tag, len: data.len() });
                        expected.push(Received { from: peer, data });
                    }
                    ("irecv_any", _, None) => {
                        let fits = |m: &RawMessage| m.dst == rank && m.tag == *tag;
                        let taken = mine
                            .iter()
                            .filter(|a| matches!(a, Action::ReceiveAny { tag: t, .. } if t == tag))
                            .count();
                        let at = (0..messages.len())
                            .filter(|k| fits(&messages[*k]))
                            .nth(taken)
                            .ok_or_else(|| self.malformed("more receives than messages"))?;
                        mine.push(Action::ReceiveAny { tag: *tag, len: payloads[at].len() });
                        expected
                            .push(Received { from: messages[at].src, data: payloads[at].clone() });
                    }
                    _ => return Err(self.malformed(&format!("unknown action {verb}"))),
                }
            }
            actions.push(mine);
            received.push(expected);
        }
        let wait =
            if raw.wait_reversed == Some(true) { WaitOrder::Reversed } else { WaitOrder::Issued };
        Ok(Programs { actions, received, wait })
    }

    /// A sparse tensor, given as the names of its indices and values.
    fn sparse(&self, parts: &Value) -> Result<Coordinates, OracleError> {
        let sparse_dim = self.present(self.raw.sparse_dim, "sparse_dim")?;
        let indices = self.one(&parts["indices"])?;
        let (indices, rest) = indices.as_chunks::<8>();
        let indices: Vec<i64> = indices.iter().map(|&index| i64::from_le_bytes(index)).collect();
        let values = self.one(&parts["values"])?;
        let size = dtype(&self.raw.dtype).map_or(1, DType::size);
        let row: usize = self.raw.shape.get(sparse_dim..).unwrap_or_default().iter().product();
        let tensor = Coordinates::new(self.raw.shape.clone(), sparse_dim, indices, values);
        if !rest.is_empty() || tensor.values.len() != tensor.rows() * row * size {
            return Err(self.malformed("the parts of a sparse tensor do not fit"));
        }
        Ok(tensor)
    }

    fn array(&self, name: &str) -> Result<Vec<u8>, OracleError> {
        let view = self
            .arrays
            .tensor(name)
            .map_err(|error| self.malformed(&format!("array {name}: {error}")))?;
        Ok(view.data().to_vec())
    }

    fn one(&self, names: &Value) -> Result<Vec<u8>, OracleError> {
        self.array(names.as_str().ok_or_else(|| self.malformed("one array expected"))?)
    }

    fn list(&self, names: &Value) -> Result<Vec<Vec<u8>>, OracleError> {
        let names = names.as_array().ok_or_else(|| self.malformed("a list of arrays expected"))?;
        names.iter().map(|name| self.one(name)).collect()
    }

    /// An array whose first dimension is the rank.
    fn stacked(&self, name: &Value) -> Result<Vec<Vec<u8>>, OracleError> {
        let bytes = self.one(name)?;
        let world = self.raw.world as usize;
        if bytes.len() % world != 0 {
            return Err(self.malformed("an array is not stacked over ranks"));
        }
        let each = bytes.len() / world;
        Ok((0..world).map(|rank| bytes[rank * each..][..each].to_vec()).collect())
    }

    fn present<T>(&self, value: Option<T>, name: &str) -> Result<T, OracleError> {
        value.ok_or_else(|| self.malformed(&format!("field {name} is missing")))
    }

    fn malformed(&self, what: &str) -> OracleError {
        OracleError::Malformed { case: self.raw.id.clone(), what: what.into() }
    }
}
