//! Plans as a drawing, and everything there is to see of one as text.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::algorithm::Algorithm;
use crate::check::check;
use crate::cost::{Hop, Method, Network, hops, model, model_on};
use crate::error::PlanError;
use crate::locality::Locality;
use crate::plan::{Buffer, Op, Part, Plan, Rank, Slice, Span};
use crate::select::{Collective, Determinism, Precision, Table, select_on};

/// Most ranks that [`draw`] gives a column; a terminal has no more room.
pub const RANKS_DRAWN_MAX: usize = 32;

/// Most messages that [`draw`] gives a line.
pub const MESSAGES_DRAWN_MAX: usize = 256;

/// Characters between two ranks' columns.
const COLUMN: usize = 5;

/// Draws the messages of a collective: ranks are columns, every message is an arrow, and messages that
/// can travel at the same time, were each to take equally long, form a round.
///
/// Behind an arrow stands what is sent, and whether it is stored (`=`) or combined (`+=`) over there.
/// Beyond [`RANKS_DRAWN_MAX`] ranks or [`MESSAGES_DRAWN_MAX`] messages the rest is counted, not drawn;
/// anything but the plans of all ranks in their order is told instead.
///
/// # Example
///
/// ```
/// use allhands_plan::{Algorithm, Plan, Rank, Shape, draw};
///
/// let shape = Shape::Broadcast { len: 4, root: Rank(0) };
/// let plans = Plan::build_all(&shape, Algorithm::Binomial, 3)?;
/// assert!(draw(&plans).contains("o--------->"));
/// # Ok::<(), allhands_plan::PlanError>(())
/// ```
#[must_use]
pub fn draw(plans: &[Plan]) -> String {
    let mut out = String::new();
    let whole = |(rank, plan): (usize, &Plan)| {
        plan.rank().index() == rank && plan.world() as usize == plans.len()
    };
    if !plans.iter().enumerate().all(whole) {
        out.push_str("only the plans of all ranks, in their order, can be drawn\n");
        return out;
    }
    if plans.len() > RANKS_DRAWN_MAX {
        let ranks = plans.len();
        let _ = writeln!(out, "{ranks} ranks are too many to draw; at most {RANKS_DRAWN_MAX}");
        return out;
    }
    let labels = Labels::of(plans);
    let mut hops = hops(plans);
    hops.sort_by_key(|hop| (hop.round, hop.src, hop.dst, hop.slot));

    let mut header = String::from("         ");
    for rank in 0..plans.len() {
        let _ = write!(header, "{rank:<COLUMN$}");
    }
    let _ = writeln!(out, "{}", header.trim_end());
    let mut round = 0;
    for hop in hops.iter().take(MESSAGES_DRAWN_MAX) {
        let begins = if hop.round == round { "" } else { "round" };
        let number = if hop.round == round { String::new() } else { hop.round.to_string() };
        round = hop.round;
        let label = labels.of_message(hop);
        let _ = writeln!(out, "{begins:<5} {number:>2} {}  {label}", arrow(hop, plans.len()));
    }
    if let Some(more) = hops.len().checked_sub(MESSAGES_DRAWN_MAX).filter(|more| *more > 0) {
        let _ = writeln!(out, "… and {more} more messages");
    }
    if hops.is_empty() {
        let _ = writeln!(out, "no messages");
    }
    out
}

/// The line of a message, as wide as all columns.
fn arrow(hop: &Hop, world: usize) -> String {
    let mut line: Vec<char> = vec![' '; COLUMN * (world - 1) + 1];
    for rank in 0..world {
        line[rank * COLUMN] = '.';
    }
    let (src, dst) = (hop.src as usize * COLUMN, hop.dst as usize * COLUMN);
    line[src.min(dst)..src.max(dst)].fill('-');
    line[src] = 'o';
    line[dst] = if src < dst { '>' } else { '<' };
    line.into_iter().collect()
}

/// What is known of each message on both sides.
struct Labels {
    sent: HashMap<(u32, u32, u32), Span>,
    stored: HashMap<(u32, u32, u32), (&'static str, Span)>,
}

impl Labels {
    fn of(plans: &[Plan]) -> Self {
        let mut labels = Self { sent: HashMap::new(), stored: HashMap::new() };
        for plan in plans {
            let rank = plan.rank().0;
            for step in plan.lanes().iter().flat_map(|lane| plan.steps(lane)) {
                let each = |parts: &Slice| plan.parts(parts).iter();
                match &step.op {
                    Op::Send { parts } => labels.sent.extend(
                        each(parts).map(|Part { peer, slot, span }| ((rank, peer.0, *slot), *span)),
                    ),
                    Op::Recv { parts } => labels
                        .stored
                        .extend(each(parts).map(|Part { peer, slot, span }| {
                            ((peer.0, rank, *slot), ("=", *span))
                        })),
                    Op::RecvReduce { parts, dst, .. } => labels.stored.extend(
                        each(parts)
                            .map(|Part { peer, slot, .. }| ((peer.0, rank, *slot), ("+=", *dst))),
                    ),
                    Op::Copy { .. } | Op::Reduce { .. } => {}
                }
            }
        }
        labels
    }

    fn of_message(&self, hop: &Hop) -> String {
        let key = (hop.src, hop.dst, hop.slot);
        match (self.sent.get(&key), self.stored.get(&key)) {
            (Some(sent), _) if sent.len == 0 => "nothing".to_owned(),
            (Some(sent), Some((how, stored))) if sent == stored && sent.buffer == Buffer::Data => {
                format!("{how} {sent}")
            }
            (Some(sent), Some((how, stored))) => format!("{stored} {how} {sent}"),
            _ => "unmatched".to_owned(),
        }
    }
}

/// How ranks of one host reach each other, where [`describe`] models hosts: seconds, and bytes a second.
const INSIDE: (f64, f64) = (1e-6, 8e9);

/// What [`describe`] shows.
#[derive(Clone, Debug)]
pub struct Description {
    /// Which collective.
    pub collective: Collective,
    /// Elements, as [`Collective::shape`] takes them.
    pub len: u64,
    /// The root, for collectives that have one.
    pub root: Rank,
    /// By which algorithm; without one, by that of [`Table::network`].
    pub algorithm: Option<Algorithm>,
    /// Ranks, and the hosts that they are on; [`Locality::apart`] where hosts are not told apart.
    pub locality: Locality,
    /// Bytes of an element.
    pub elem_size: usize,
    /// Further sizes of groups whose cost is modelled.
    pub ranks_modelled: Vec<u32>,
}

/// Everything there is to see of a plan: the text of rank 0's and of the root's, the drawing, what the
/// checker proved, and what the cost model says.
///
/// # Errors
///
/// [`PlanError`] as [`Plan::build_on`], [`model`] and [`model_on`].
pub fn describe(wanted: &Description) -> Result<String, PlanError> {
    let Description { collective, len, root, elem_size, ref locality, .. } = *wanted;
    let mut out = String::new();
    let shape = collective.shape(len, root);
    let chosen = |locality: &Locality| {
        wanted.algorithm.unwrap_or_else(|| {
            let (precision, determinism) = (Precision::Exact, Determinism::Fixed);
            select_on(&shape, locality, elem_size, precision, determinism, &Table::network())
        })
    };
    let plans = Plan::build_all_on(&shape, chosen(locality), locality)?;
    for plan in plans.iter().filter(|p| p.rank() == Rank(0) || Some(p.rank()) == shape.root()) {
        let _ = writeln!(out, "{plan}");
    }
    let _ = writeln!(out, "{}", draw(&plans));
    let _ = match check(&plans) {
        Ok(proof) => writeln!(
            out,
            "proved: {} rounds, {} messages, {} elements sent, {} steps",
            proof.rounds, proof.messages, proof.elements, proof.steps
        ),
        Err(defect) => writeln!(out, "DEFECT: {defect}"),
    };
    let mut networks = vec![
        ("10 Gbit/s, 30 us", Network::ten_gigabit()),
        ("100 Gbit/s, 25 us", Network::hundred_gigabit()),
        ("12 GB/s, 5 us", Network::cluster()),
    ];
    let _ = write!(out, "\nmodelled, reductions overlapped, {elem_size} bytes an element");
    if locality.is_mixed() {
        let (alpha, bandwidth) = INSIDE;
        networks
            .iter_mut()
            .for_each(|(_, network)| *network = network.between_hosts(alpha, bandwidth));
        let (hosts, rate, time) = (locality.hosts(), bandwidth / 1e9, alpha * 1e6);
        let _ = write!(out, ", between {hosts} hosts, inside which {rate} GB/s, {time} us");
    } else {
        networks.push(("the same, 4:1 above 32", Network::cluster().tapered(32, 4.0)));
    }
    out.push_str(":\n");
    let further: Vec<Locality> =
        wanted.ranks_modelled.iter().map(|n| Locality::apart(*n)).collect();
    for locality in std::iter::once(locality).chain(&further) {
        let (world, algorithm) = (locality.world(), chosen(locality));
        for (name, network) in &networks {
            let network = network.overlapped();
            let told_apart = locality.is_mixed() || algorithm == Algorithm::Hierarchical;
            let cost = if told_apart {
                model_on(&shape, algorithm, locality, elem_size, &network)?
            } else {
                model(&shape, algorithm, world, elem_size, &network)?
            };
            let time = cost.seconds * 1e6;
            let how = if cost.method == Method::Mirrored { " (by symmetry)" } else { "" };
            let _ = writeln!(
                out,
                "  {world:>6} ranks  {algorithm:<18}  {name:<22} {time:>12.1} us{how}"
            );
        }
    }
    Ok(out)
}
