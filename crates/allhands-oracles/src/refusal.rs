//! Calls that torch refuses, and the harness that makes them.

use std::path::Path;
use std::time::{Duration, Instant};

use allhands_tensor::{DType, ReduceOp};
use serde::Deserialize;
use serde_json::Value;

use crate::golden::{dtype, folder, read, reduce_op};
use crate::run::{cut, cut_mut};
use crate::{
    Action, Coordinates, DenseGroup, OracleError, Outcome, RankReport, WaitOrder, Witness,
};

/// What is wrong with a refused call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// The root is not a rank of the group.
    Root,
    /// The tensor named as the root's is not in the list.
    RootTensor,
    /// A tag is out of range.
    Tag,
    /// A list has the wrong number of entries.
    ListLength,
    /// Two tensors that have to agree differ in type.
    Dtype,
    /// Two tensors that have to agree differ in shape or length.
    Shape,
    /// The sizes of an uneven all-to-all do not add up, or their number is not that of the ranks.
    Splits,
    /// A length does not divide evenly over the ranks.
    Indivisible,
    /// The reduction is not defined for the type, or the type is not supported.
    Reduction,
    /// The root did not pass the buffers that only the root passes, or another rank did.
    RootBuffers,
    /// A tensor is not contiguous.
    Contiguous,
    /// A tensor is sparse where only dense ones are taken.
    Sparse,
    /// A peer did not call in time.
    Timeout,
}

/// One call that torch refuses.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Refusal {
    /// The identifier in the data, such as `v0042`.
    pub id: String,
    /// torch's name of the operation.
    pub op: String,
    /// Number of ranks.
    pub world: u32,
    /// What is wrong, in words.
    pub note: String,
    /// What is wrong.
    pub rule: Rule,
    /// The ranks that make the call.
    pub called_by: Vec<u32>,
    /// Timeout of the group, for calls whose peers stay silent.
    pub group_timeout: Option<Duration>,
    /// What torch says; by rank where that differs.
    pub text: String,
    /// By rank.
    args: Vec<Args>,
}

#[derive(Clone, Debug, Deserialize)]
struct Spec {
    dtype: String,
    shape: Vec<usize>,
    layout: Option<String>,
    sparse_dim: Option<usize>,
    strides: Option<Vec<usize>>,
}

impl Spec {
    fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A list of tensors, or a list of such lists.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Tensors {
    Flat(Vec<Spec>),
    Nested(Vec<Vec<Spec>>),
}

impl Tensors {
    fn specs(&self) -> Vec<&Spec> {
        match self {
            Self::Flat(list) => list.iter().collect(),
            Self::Nested(lists) => lists.iter().flatten().collect(),
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    tensors: Option<Vec<Spec>>,
    inputs: Option<Tensors>,
    outputs: Option<Tensors>,
    input: Option<Spec>,
    output: Option<Spec>,
    root: Option<i64>,
    root_tensor: Option<i64>,
    reduce_op: Option<String>,
    input_splits: Option<Vec<usize>>,
    output_splits: Option<Vec<usize>>,
    peer: Option<u32>,
    tag: Option<i64>,
}

#[derive(Deserialize)]
struct RawFile {
    cases: Vec<RawCase>,
}

#[derive(Deserialize)]
struct RawCase {
    id: String,
    op: String,
    world: u32,
    note: String,
    args: Value,
    #[serde(default)]
    args_by_rank: serde_json::Map<String, Value>,
    called_by: Option<Vec<u32>>,
    group_timeout_ms: Option<u64>,
    error: Option<RawError>,
}

#[derive(Deserialize)]
struct RawError {
    text: String,
}

/// Every refused call of `validation.json`, from [`folder`].
///
/// # Errors
/// The file is missing, damaged, or holds a refusal whose reason has no [`Rule`].
pub fn load() -> Result<Vec<Refusal>, OracleError> {
    load_from(&folder())
}

/// [`load`] from a folder of the caller's choice.
///
/// # Errors
/// As [`load`].
pub fn load_from(folder: &Path) -> Result<Vec<Refusal>, OracleError> {
    let path = folder.join("validation.json");
    let bytes = read(&path)?;
    let file: RawFile = serde_json::from_slice(&bytes)
        .map_err(|source| OracleError::Json { path: path.clone(), source })?;
    let refusal = |raw: RawCase| {
        let rule = rule(&raw.note).ok_or_else(|| OracleError::Malformed {
            case: raw.id.clone(),
            what: format!("no rule for {:?}", raw.note),
        })?;
        let args = (0..raw.world)
            .map(|rank| {
                serde_json::from_value(merged(&raw.args, raw.args_by_rank.get(&rank.to_string())))
            })
            .collect::<Result<_, _>>()
            .map_err(|source| OracleError::Json { path: path.clone(), source })?;
        Ok(Refusal {
            rule,
            args,
            called_by: raw.called_by.unwrap_or_else(|| (0..raw.world).collect()),
            group_timeout: raw.group_timeout_ms.map(Duration::from_millis),
            text: raw.error.map(|error| error.text).unwrap_or_default(),
            id: raw.id,
            op: raw.op,
            world: raw.world,
            note: raw.note,
        })
    };
    file.cases.into_iter().map(refusal).collect()
}

/// The arguments of one rank: the common ones, of which some may be replaced.
fn merged(common: &Value, own: Option<&Value>) -> Value {
    let mut args = common.clone();
    if let (Value::Object(args), Some(Value::Object(own))) = (&mut args, own) {
        args.extend(own.clone());
    }
    args
}

/// The rule that a note of the data stands for.
fn rule(note: &str) -> Option<Rule> {
    Some(match note {
        "root rank below range" | "root rank above range" => Rule::Root,
        "root tensor below range" | "root tensor above range" | "root tensor out of range" => {
            Rule::RootTensor
        }
        "negative tag" => Rule::Tag,
        "empty list"
        | "more than one tensor"
        | "empty input list"
        | "no output list"
        | "more output lists than inputs"
        | "output list too short"
        | "output list too long"
        | "wrong number of output lists"
        | "one output list empty"
        | "list lengths differ"
        | "more than one input"
        | "empty output list"
        | "more than one output"
        | "input list too short"
        | "input list too long"
        | "no input list"
        | "no output"
        | "root with two output lists"
        | "root with two input lists" => Rule::ListLength,
        "root without output list"
        | "root without input list"
        | "non-root with outputs"
        | "non-root with inputs" => Rule::RootBuffers,
        "dtype mismatch in list"
        | "output dtype mismatch"
        | "input dtype mismatch"
        | "dtype mismatch" => Rule::Dtype,
        "size mismatch in list"
        | "output size mismatch"
        | "input size mismatch"
        | "output size is not world * input"
        | "input size is not world * output"
        | "inner size mismatch"
        | "unequal sizes in list" => Rule::Shape,
        "input splits do not sum to dim 0"
        | "output splits do not sum to dim 0"
        | "number of splits is not the world size" => Rule::Splits,
        "dim 0 not divisible by world size" => Rule::Indivisible,
        "dtype or operation not supported" | "dtype not supported" => Rule::Reduction,
        "non-contiguous" => Rule::Contiguous,
        "sparse"
        | "sparse output"
        | "sparse input"
        | "layout mismatch in list"
        | "sparse with an operation other than sum"
        | "sparse shapes differ between ranks"
        | "dense part differs between ranks"
        | "sparse dtype not supported" => Rule::Sparse,
        "peer never calls" => Rule::Timeout,
        _ => return None,
    })
}

/// Makes every refused call whose world is the group's on this rank. All ranks of the group have to do so.
///
/// A call passes if it returns an error of its [`Rule`] and the group can still be used: all ranks meet in a barrier after
/// each call. Calls that a [`DenseGroup`] cannot express, because a type rules them out or because they are accepted here
/// by design, are not applicable; so are those that end in a timeout, for which there is [`run_silence`].
pub fn run_refusals<G: DenseGroup>(refusals: &[Refusal], group: &mut G) -> RankReport {
    let (rank, world) = (group.rank(), group.world());
    let mut report = RankReport::new(rank, world);
    let mut broken: Option<String> = None;
    for refusal in refusals.iter().filter(|refusal| refusal.world == world) {
        let outcome = if refusal.rule == Rule::Timeout {
            Outcome::NotApplicable("needs a group of its own".into())
        } else if let Some(reason) = refusal.inexpressible() {
            Outcome::NotApplicable(reason.into())
        } else if let Some(id) = &broken {
            Outcome::Failed(format!("not run: the group failed earlier, after {id}"))
        } else {
            let called = refusal.called_by.contains(&rank);
            let outcome = if called { refusal.outcome(group) } else { Outcome::Passed };
            match group.barrier() {
                Ok(()) => outcome,
                Err(error) => {
                    broken = Some(refusal.id.clone());
                    Outcome::Failed(format!("the group is unusable afterwards: {error:?}"))
                }
            }
        };
        report.push(&refusal.id, outcome, 0);
    }
    report
}

/// How long silent ranks wait for the others to report their timeout.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Makes a call whose peers stay silent, on a group that was created for it with [`Refusal::group_timeout`].
///
/// Ranks in [`Refusal::called_by`] call and have to get an error of [`Rule::Timeout`]; the others keep their group alive
/// until then, so that the error is not about their death.
pub fn run_silence<G: DenseGroup>(
    refusal: &Refusal,
    group: &mut G,
    witness: &Witness,
) -> RankReport {
    let (rank, world) = (group.rank(), group.world());
    let mut report = RankReport::new(rank, world);
    let mut outcome = Outcome::Passed;
    if refusal.called_by.contains(&rank) {
        outcome = refusal.outcome(group);
        if let Err(words) = witness.arrive(&refusal.id, rank) {
            outcome = Outcome::Failed(words);
        }
    } else {
        let start = Instant::now();
        while (witness.arrived(&refusal.id, world) as usize) < refusal.called_by.len() {
            if start.elapsed() > SILENCE_MAX {
                outcome = Outcome::Failed("no timeout was reported".into());
                break;
            }
            std::thread::yield_now();
        }
    }
    report.push(&refusal.id, outcome, 0);
    report
}

impl Refusal {
    /// Why a [`DenseGroup`] cannot make this call, or may accept it.
    #[must_use]
    pub fn inexpressible(&self) -> Option<&'static str> {
        self.args.iter().find_map(|args| self.inexpressible_on(args))
    }

    fn inexpressible_on(&self, args: &Args) -> Option<&'static str> {
        let specs = args.specs();
        if specs.iter().any(|spec| spec.layout.is_some()) {
            return match (self.op.as_str(), specs.as_slice()) {
                ("allreduce", [only]) if matches!(only.dtype.as_str(), "f16" | "bool") => {
                    Some("accepted: every element type is supported")
                }
                ("allreduce", [_]) => None,
                _ => Some("only all_reduce takes sparse tensors, one per rank"),
            };
        }
        if specs.iter().any(|spec| spec.strides.is_some()) {
            return Some("buffers of bytes are contiguous");
        }
        if specs.windows(2).any(|pair| pair[0].dtype != pair[1].dtype) {
            return Some("a call has one element type");
        }
        match specs.first().map(|spec| dtype(&spec.dtype)) {
            Some(None) => return Some("this element type does not exist here"),
            Some(Some(DType::I16 | DType::U16)) => {
                return Some("accepted: every element type is supported");
            }
            Some(Some(DType::F32)) if args.reduce_op.as_deref() == Some("premul_sum") => {
                return Some("accepted: sums with a factor are supported");
            }
            _ => {}
        }
        if args.root.is_some_and(|root| root < 0) {
            return Some("a rank is unsigned");
        }
        if args.tag.is_some_and(|tag| tag < 0) {
            return Some("a tag is unsigned");
        }
        if args.root_tensor.is_some() {
            return Some("a call takes one tensor per rank");
        }
        if args.tensors.as_ref().is_some_and(|tensors| tensors.len() != 1) {
            return Some("a call takes one tensor per rank");
        }
        let one_flat = |tensors: &Option<Tensors>| match tensors {
            Some(Tensors::Flat(list)) => list.len() == 1,
            _ => false,
        };
        let one_list = |tensors: &Option<Tensors>, none_too: bool| match tensors {
            Some(Tensors::Nested(lists)) => lists.len() == 1,
            Some(Tensors::Flat(list)) => none_too && list.is_empty(),
            None => false,
        };
        let one_each = match self.op.as_str() {
            "allgather" => one_flat(&args.inputs) && one_list(&args.outputs, false),
            "gather" => one_flat(&args.inputs) && one_list(&args.outputs, true),
            "scatter" => one_flat(&args.outputs) && one_list(&args.inputs, true),
            "reduce_scatter" => one_flat(&args.outputs) && one_list(&args.inputs, true),
            "allreduce_coalesced"
            | "allgather_coalesced"
            | "allgather_into_tensor_coalesced"
            | "reduce_scatter_tensor_coalesced" => {
                return Some("coalesced calls have an interface of their own");
            }
            "alltoall" if self.rule == Rule::Shape => {
                return Some("accepted: blocks may differ in size");
            }
            _ => true,
        };
        (!one_each).then_some("a call takes one tensor or one list per rank")
    }

    fn outcome<G: DenseGroup>(&self, group: &mut G) -> Outcome {
        match self.call(group) {
            Ok(()) => Outcome::Failed("accepted".into()),
            Err(error) => match G::rule(&error) {
                Some(rule) if rule == self.rule => Outcome::Passed,
                other => Outcome::Failed(format!(
                    "refused by rule {other:?}, not {:?}: {error:?}",
                    self.rule
                )),
            },
        }
    }

    /// Makes the call on this rank. The caller has made sure that it can be expressed.
    fn call<G: DenseGroup>(&self, group: &mut G) -> Result<(), G::Error> {
        let args = &self.args[group.rank() as usize];
        let element =
            args.specs().first().and_then(|spec| dtype(&spec.dtype)).unwrap_or(DType::F32);
        let bytes = |spec: &Spec| spec.elements() * element.size();
        let lens = |list: &[Spec]| list.iter().map(bytes).collect::<Vec<_>>();
        let op = match args.reduce_op.as_deref() {
            Some("premul_sum") => ReduceOp::PremulSum(0.5),
            Some(name) => reduce_op(name).expect("the data names known reductions"),
            None => ReduceOp::Sum,
        };
        let root = args
            .root
            .map_or(0, |root| u32::try_from(root).expect("expressible roots are unsigned"));
        let tag =
            args.tag.map_or(0, |tag| u32::try_from(tag).expect("expressible tags are unsigned"));
        let inputs = list(args.inputs.as_ref()).map(lens);
        let outputs = list(args.outputs.as_ref()).map(lens);
        let input = args
            .input
            .as_ref()
            .map(bytes)
            .or(inputs.as_ref().and_then(|lens| lens.first().copied()));
        let output = args
            .output
            .as_ref()
            .map(bytes)
            .or(outputs.as_ref().and_then(|lens| lens.first().copied()));
        let input = vec![0; input.unwrap_or(0)];
        let mut output = vec![0; output.unwrap_or(0)];
        let sum = |lens: &Option<Vec<usize>>| lens.iter().flatten().sum();
        let (all_inputs, mut all_outputs): (Vec<u8>, Vec<u8>) =
            (vec![0; sum(&inputs)], vec![0; sum(&outputs)]);
        let parts_in = inputs.as_ref().map(|lens| cut(&all_inputs, lens));
        let mut parts_out = outputs.as_ref().map(|lens| cut_mut(&mut all_outputs, lens));
        let mut data = vec![0; args.tensors.iter().flatten().map(bytes).sum()];
        let receive = |from: Option<u32>, len: usize| match from {
            Some(peer) => Action::Receive { peer, tag, len },
            None => Action::ReceiveAny { tag, len },
        };
        let sparse = args.tensors.iter().flatten().find(|spec| spec.layout.is_some());
        if let Some(spec) = sparse {
            let sparse_dim = spec.sparse_dim.unwrap_or(1);
            let tensor = Coordinates::new(spec.shape.clone(), sparse_dim, Vec::new(), Vec::new());
            return group.all_reduce_sparse(element, op, &tensor).map(drop);
        }
        match self.op.as_str() {
            "broadcast" => group.broadcast(element, &mut data, root),
            "allreduce" => group.all_reduce(element, op, &mut data),
            "reduce" => group.reduce(element, op, &mut data, root),
            "allgather" => {
                group.all_gather_list(element, &input, parts_out.as_mut().expect("one list"))
            }
            "_allgather_base" => group.all_gather(element, &input, &mut output),
            "gather" => group.gather(element, &input, parts_out.as_deref_mut(), root),
            "scatter" => group.scatter(element, parts_in.as_deref(), &mut output, root),
            "_reduce_scatter_base" => group.reduce_scatter(element, op, &input, &mut output),
            "reduce_scatter" => {
                group.reduce_scatter_list(element, op, &parts_in.unwrap_or_default(), &mut output)
            }
            "alltoall_base" => match (&args.input_splits, &args.output_splits) {
                (Some(send), Some(recv)) => {
                    group.all_to_all_splits(element, &input, send, &mut output, recv)
                }
                _ => group.all_to_all(element, &input, &mut output),
            },
            "alltoall" => group.all_to_all_list(
                element,
                &parts_in.unwrap_or_default(),
                &mut parts_out.unwrap_or_default(),
            ),
            "send" => {
                let send = Action::Send { peer: args.peer.unwrap_or(0), tag, data };
                group.point_to_point(element, &[send], WaitOrder::Issued).map(drop)
            }
            "recv" | "recv_anysource" => {
                let receive = receive(args.peer, data.len());
                group.point_to_point(element, &[receive], WaitOrder::Issued).map(drop)
            }
            "barrier" => group.barrier(),
            other => unreachable!("{other} is not expressible"),
        }
    }
}

/// The list whose buffers a call with one list takes: the list itself, or the only one in a list of lists.
fn list(tensors: Option<&Tensors>) -> Option<&[Spec]> {
    match tensors? {
        Tensors::Flat(list) if list.is_empty() => None,
        Tensors::Flat(list) => Some(list),
        Tensors::Nested(lists) => lists.first().map(Vec::as_slice),
    }
}

impl Args {
    fn specs(&self) -> Vec<&Spec> {
        let mut specs: Vec<&Spec> = self.tensors.iter().flatten().collect();
        specs.extend(self.inputs.iter().flat_map(Tensors::specs));
        specs.extend(self.outputs.iter().flat_map(Tensors::specs));
        specs.extend(&self.input);
        specs.extend(&self.output);
        specs
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_refusal_has_a_rule_and_most_can_be_made() {
        let refusals = load().unwrap();
        assert_eq!(refusals.len(), 329);
        let mut made: BTreeMap<Rule, usize> = BTreeMap::new();
        for refusal in refusals.iter().filter(|refusal| refusal.inexpressible().is_none()) {
            *made.entry(refusal.rule).or_default() += 1;
        }
        let count = |rule| made.get(&rule).copied().unwrap_or(0);
        assert_eq!(count(Rule::Root), 8);
        assert_eq!(count(Rule::Splits), 6);
        assert_eq!(count(Rule::Timeout), 7);
        assert_eq!(count(Rule::Sparse), 18);
        assert_eq!(count(Rule::Tag) + count(Rule::Contiguous), 0);
    }

    #[test]
    fn arguments_of_single_ranks_replace_the_common_ones() {
        let common = serde_json::json!({"root": 0, "tag": 1});
        let own = serde_json::json!({"tag": 2});
        assert_eq!(merged(&common, Some(&own)), serde_json::json!({"root": 0, "tag": 2}));
        assert_eq!(merged(&common, None), common);
    }
}
