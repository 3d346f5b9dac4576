//! Puts the clocks of several ranks on one: what the records themselves say about them.
//!
//! In some operations no rank ends before every rank has begun: a barrier, an all-reduce, an all-gather, a
//! reduce-scatter. Each that two ranks have measured bounds the difference of their clocks from both sides, as the two
//! halves of a round trip do; the tightest bounds of all operations count. Within them the most likely difference is the
//! median of those between the ends: ranks come to an operation at different times, but leave it together.

use std::collections::HashMap;

use crate::entry::{Entry, State};
use crate::record::FlightRecord;

/// What has to be added to a rank's times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alignment {
    /// Position of the rank in the job.
    pub rank: u32,
    /// Nanoseconds to add.
    pub offset_ns: i64,
    /// The least and the most that the record allows; `None` where it says nothing, and nothing is added.
    pub bounds_ns: Option<(i64, i64)>,
}

/// Operations in which no rank ends before every rank has begun.
const MEETINGS: [&str; 4] = ["all_reduce", "all_gather", "reduce_scatter", "barrier"];

fn is_meeting(entry: &Entry) -> bool {
    let operation = entry.operation();
    // Empty operations move nothing, so nobody waits.
    let moves = operation == "barrier" || entry.allhands.input_elements > 0;
    entry.state == State::Completed && MEETINGS.contains(&operation) && moves
}

/// Measured meetings by group and number.
fn meetings(record: &FlightRecord) -> HashMap<(&str, u64), (u64, u64)> {
    let measured = |entry: &Entry| entry.measured().filter(|_| is_meeting(entry));
    record
        .entries
        .iter()
        .filter_map(|entry| {
            let key = (entry.process_group.0.as_str(), entry.collective_seq_id);
            Some((key, measured(entry)?))
        })
        .collect()
}

/// What to add to each record's times, in the order of `records`, so that nothing ends before it can. The first record's
/// clock stays as it is, and so does each that the records do not prove wrong.
#[must_use]
pub fn align(records: &[FlightRecord]) -> Vec<Alignment> {
    let Some(first) = records.first() else { return Vec::new() };
    let reference = meetings(first);
    let later = |a: u64, b: u64| a as i64 - b as i64;
    let one = |record: &FlightRecord| {
        let mut bounds: Option<(i64, i64)> = None;
        let mut ends = Vec::new();
        for (key, (begun, ended)) in meetings(record) {
            let Some(&(first_begun, first_ended)) = reference.get(&key) else { continue };
            let (least, most) = (later(first_begun, ended), later(first_ended, begun));
            let (low, high) = bounds.unwrap_or((least, most));
            bounds = Some((low.max(least), high.min(most)));
            ends.push(later(first_ended, ended));
        }
        let offset_ns = match bounds {
            Some((low, high)) if low > 0 || high < 0 => {
                ends.sort_unstable();
                // Clocks that drift can leave no room between the bounds.
                ends[ends.len() / 2].clamp(low.min(high), low.max(high))
            }
            _ => 0,
        };
        Alignment { rank: record.origin.rank, offset_ns, bounds_ns: bounds }
    };
    let mut aligned: Vec<Alignment> = records.iter().map(one).collect();
    aligned[0] = Alignment { offset_ns: 0, bounds_ns: None, ..aligned[0] };
    aligned
}
