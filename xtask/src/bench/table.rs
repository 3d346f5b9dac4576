//! What is shown: nccl-tests' columns, ours beside them, and the ratio to every other system.

use std::fmt::Write as _;

use super::bound;
use super::cells::{Cell, Operation};
use super::limits::raw_rate;
use super::record::{Measured, Outcome, Record};

/// Buffers from this size on are compared with raw sockets.
const RAW_FROM: u64 = 64 << 20;

/// The record as text in nccl-tests' format with more columns:
///
/// `p50`, `p99`: single operations; `latency`: an operation after a barrier; `model`: the cost
/// model's prediction; `spread`: (slowest − fastest) / median of the rounds; then a pair for each
/// other system: its time and how many times longer it took than the first one. Where the machine's bound of an operation is
/// known, a last pair: that time, and how many times longer than it the first system took.
#[must_use]
pub fn text(record: &Record) -> String {
    let mut out = String::new();
    let Some((first, others)) = record.systems.split_first() else { return out };
    head(&mut out, record);
    let cells = record.cells();
    for operation in Operation::ALL {
        let of_operation: Vec<_> =
            cells.iter().copied().filter(|c| c.operation == operation).collect();
        if of_operation.is_empty() {
            continue;
        }
        let _ = writeln!(out, "#\n# {}: {}", operation.name(), first.name);
        let bounded = of_operation.iter().any(|cell| least(record, cell).is_some());
        let names = others.iter().map(|s| s.name.as_str());
        columns(&mut out, names.chain(bounded.then_some("bound")));
        for cell in of_operation {
            row(&mut out, record, cell, &first.name);
        }
    }
    foot(&mut out, record, &first.name);
    out
}

fn head(out: &mut String, record: &Record) {
    let (m, p) = (&record.machine, &record.protocol);
    let _ = writeln!(
        out,
        "# allhands bench-cluster: {} ranks{}, {}, {} rounds of about {} ms, {}",
        p.ranks,
        if p.bound { " bound to cores" } else { "" },
        p.transport,
        p.rounds,
        p.budget_ms,
        m.date
    );
    let _ = writeln!(
        out,
        "# {}, {} cores, {}, {}, loopback MTU {}, {}",
        m.cpu, m.cores, m.kernel, m.rustc, m.mtu, m.congestion_control
    );
    let _ = writeln!(
        out,
        "# commit {}{}",
        m.commit.get(..12).unwrap_or("unknown"),
        if m.modified { ", modified" } else { "" }
    );
    for system in &record.systems {
        let _ = writeln!(out, "# {}: {}", system.name, system.what);
    }
    for limit in record.limits.iter().filter(|limit| !bound::is_one(limit)) {
        let _ = writeln!(out, "# limit {limit}");
    }
    // Of the bounds only those that hold; the record has every variant.
    for cell in record.cells() {
        if let Some(limit) = bound::fastest(&record.limits, cell, p.ranks, &p.transport) {
            let _ = writeln!(out, "# limit {limit}");
        }
    }
    for note in &record.notes {
        let _ = writeln!(out, "# note: {note}");
    }
}

fn columns<'a>(out: &mut String, others: impl Iterator<Item = &'a str>) {
    let _ = write!(
        out,
        "#{:>11} {:>12} {:>6} {:>7} {:>6} {:>10} {:>7} {:>7} {:>7} {:>10} {:>10} {:>10} {:>10} {:>7}",
        "size",
        "count",
        "type",
        "redop",
        "root",
        "time",
        "algbw",
        "busbw",
        "#wrong",
        "p50",
        "p99",
        "latency",
        "model",
        "spread"
    );
    let mut units = format!(
        "#{:>11} {:>12} {:>6} {:>7} {:>6} {:>10} {:>7} {:>7} {:>7} {:>10} {:>10} {:>10} {:>10} {:>7}",
        "(B)",
        "(elements)",
        "",
        "",
        "",
        "(us)",
        "(GB/s)",
        "(GB/s)",
        "",
        "(us)",
        "(us)",
        "(us)",
        "(us)",
        "(%)"
    );
    for name in others {
        let _ = write!(out, " | {name:>11} {:>7}", "ratio");
        let _ = write!(units, " | {:>11} {:>7}", "(us)", "");
    }
    let _ = writeln!(out, "\n{}", units.trim_end());
}

fn row(out: &mut String, record: &Record, cell: &Cell, subject: &str) {
    let ranks = record.protocol.ranks;
    let redop = if cell.operation.reduces() { cell.reduction.name() } else { "none" };
    let root = if cell.operation.rooted() { cell.root.to_string() } else { "-1".into() };
    let _ = write!(
        out,
        "{:>12} {:>12} {:>6} {:>7} {:>6}",
        cell.bytes(ranks),
        cell.elements(ranks),
        cell.dtype.name(),
        redop,
        root
    );
    let find = |name: &str| record.of_cell(cell).find(|r| r.system == name);
    let ours = find(subject);
    let times = ours.and_then(Measured::times);
    let _ = write!(
        out,
        " {:>10} {:>7} {:>7} {:>7} {:>10} {:>10} {:>10} {:>10} {:>7}",
        time(times.map(|t| t.time_us.median)),
        rate(ours.and_then(Measured::algorithm_bandwidth)),
        rate(ours.and_then(|r| r.bus_bandwidth(ranks))),
        times.map_or("N/A".into(), |t| t.wrong.to_string()),
        time(times.and_then(|t| t.p50_us)),
        time(times.and_then(|t| t.p99_us)),
        time(times.and_then(|t| t.latency_us)),
        time(times.and_then(|t| t.modelled_us)),
        times.map_or("-".into(), |t| format!("{:.0}", t.time_us.spread_percent())),
    );
    for other in record.systems.iter().skip(1) {
        let theirs = find(&other.name);
        let us = theirs.and_then(Measured::times).map(|t| t.time_us.median);
        let ratio = ratio(ours, theirs).map_or("-".into(), |r| format!("{r:.2}x"));
        let _ = write!(out, " | {:>11} {ratio:>7}", time(us));
    }
    if let Some(least) = least(record, cell) {
        let over = times.map_or("-".into(), |t| format!("{:.2}x", t.time_us.median / least));
        let _ = write!(out, " | {:>11} {over:>7}", time(Some(least)));
    }
    let label = cell.label();
    let _ = writeln!(out, "{}{label}", if label.is_empty() { "" } else { "   # " });
}

fn foot(out: &mut String, record: &Record, subject: &str) {
    let _ = writeln!(out, "#");
    for result in &record.results {
        if let Outcome::Absent(why) = &result.outcome {
            let size = result.cell.short(record.protocol.ranks);
            let _ = writeln!(
                out,
                "# {} {size}, {}: {why}",
                result.cell.operation.name(),
                result.system
            );
        }
    }
    for system in &record.systems {
        let wrong = record.wrong(&system.name);
        let verdict = if wrong == 0 { "OK" } else { "FAILED" };
        let _ = writeln!(out, "# Out of bounds values, {} : {wrong} {verdict}", system.name);
    }
    let rates: Vec<f64> = record
        .results
        .iter()
        .filter(|r| r.system == subject && r.cell.operation != Operation::Barrier)
        .filter_map(|r| r.bus_bandwidth(record.protocol.ranks))
        .collect();
    if !rates.is_empty() {
        let mean = rates.iter().sum::<f64>() / rates.len() as f64;
        let _ = writeln!(out, "# Avg bus bandwidth    : {mean:.4}");
    }
    for other in record.systems.iter().skip(1) {
        if let Some(line) = standing(record, subject, &other.name) {
            let _ = writeln!(out, "# {line}");
        }
    }
    for line in raw_shares(record, subject) {
        let _ = writeln!(out, "# {line}");
    }
}

/// The least time that the machine allows for the cell, in microseconds, where it is known.
fn least(record: &Record, cell: &Cell) -> Option<f64> {
    let p = &record.protocol;
    bound::microseconds(&record.limits, cell, p.ranks, &p.transport)
}

/// How many times longer `theirs` took than `ours`.
#[must_use]
pub fn ratio(ours: Option<&Measured>, theirs: Option<&Measured>) -> Option<f64> {
    let (ours, theirs) = (ours?.times()?.time_us.median, theirs?.times()?.time_us.median);
    (ours > 0.0).then(|| theirs / ours)
}

/// One line on `subject` against `other` over all cells.
fn standing(record: &Record, subject: &str, other: &str) -> Option<String> {
    let mut ratios: Vec<(f64, &Cell)> = Vec::new();
    for cell in record.cells() {
        let find = |name: &str| record.of_cell(cell).find(|r| r.system == name);
        if let Some(ratio) = ratio(find(subject), find(other)) {
            ratios.push((ratio, cell));
        }
    }
    ratios.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (worst, cell) = ratios.first()?;
    let ahead = ratios.iter().filter(|(r, _)| *r >= 1.0).count();
    let mean = (ratios.iter().map(|(r, _)| r.ln()).sum::<f64>() / ratios.len() as f64).exp();
    Some(format!(
        "{subject} against {other}: ahead in {ahead} of {} cells, geometric mean {mean:.2}x, least {worst:.2}x at {} {}",
        ratios.len(),
        cell.operation.name(),
        cell.short(record.protocol.ranks),
    ))
}

/// Large all_reduces as a share of what raw sockets carried in the same run.
fn raw_shares(record: &Record, subject: &str) -> Vec<String> {
    let ranks = record.protocol.ranks;
    let Some(raw) = raw_rate(&record.limits, ranks) else { return Vec::new() };
    let large = record.results.iter().filter(|r| {
        r.system == subject && r.cell.operation == Operation::AllReduce && r.bytes >= RAW_FROM
    });
    large
        .filter_map(|r| {
            let share = r.bus_bandwidth(ranks)? / raw * 100.0;
            Some(format!(
                "all_reduce {} carries {share:.0} % of the raw sockets' {raw:.2} GB/s a rank and direction",
                r.cell.short(ranks)
            ))
        })
        .collect()
}

/// The record as a Markdown table, one row a cell.
#[must_use]
pub fn markdown(record: &Record) -> String {
    let mut out = String::new();
    let Some((first, others)) = record.systems.split_first() else { return out };
    let _ = write!(out, "| op | size | type | {} us | busbw GB/s | p50 us | p99 us |", first.name);
    for other in others {
        let _ = write!(out, " {} us | ratio |", other.name);
    }
    let _ = writeln!(out, "\n|---|---|---|{}", "---:|".repeat(4 + 2 * others.len()));
    for cell in record.cells() {
        let find = |name: &str| record.of_cell(cell).find(|r| r.system == name);
        let ours = find(&first.name);
        let times = ours.and_then(Measured::times);
        let bytes = super::sizes::short(cell.bytes(record.protocol.ranks));
        let _ = write!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} |",
            cell.operation.name(),
            cell.model.as_ref().map_or(bytes, |_| cell.label()),
            cell.dtype.name(),
            time(times.map(|t| t.time_us.median)),
            rate(ours.and_then(|r| r.bus_bandwidth(record.protocol.ranks))),
            time(times.and_then(|t| t.p50_us)),
            time(times.and_then(|t| t.p99_us)),
        );
        for other in others {
            let theirs = find(&other.name);
            let us = theirs.and_then(Measured::times).map(|t| t.time_us.median);
            let ratio = ratio(ours, theirs).map_or("–".into(), |r| format!("{r:.2}×"));
            let _ = write!(out, " {} | {ratio} |", time(us));
        }
        let _ = writeln!(out);
    }
    out
}

/// Microseconds with about four digits.
fn time(us: Option<f64>) -> String {
    match us {
        None => "-".into(),
        Some(us) if us < 10.0 => format!("{us:.3}"),
        Some(us) if us < 100.0 => format!("{us:.2}"),
        Some(us) if us < 1000.0 => format!("{us:.1}"),
        Some(us) => format!("{us:.0}"),
    }
}

/// GB/s with two digits, as nccl-tests prints them.
fn rate(gbps: Option<f64>) -> String {
    gbps.map_or("-".into(), |v| format!("{v:.2}"))
}

#[cfg(test)]
mod tests {
    use super::super::record::sample;
    use super::*;

    /// Compares with a file beside the tests; `UPDATE_EXPECT=1` writes it anew.
    fn expect(name: &str, got: &str) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("snapshots").join(name);
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&path, got).unwrap();
        }
        let want = std::fs::read_to_string(&path).unwrap();
        assert!(got == want, "{name} differs; UPDATE_EXPECT=1 accepts:\n{got}");
    }

    #[test]
    fn the_table() {
        expect("table.txt", &text(&sample()));
    }

    #[test]
    fn the_markdown() {
        expect("table.md", &markdown(&sample()));
    }

    #[test]
    fn a_missing_time_is_a_dash_and_no_ratio() {
        let record = sample();
        let cell = record.results[4].cell.clone();
        let pair: Vec<_> = record.of_cell(&cell).collect();
        assert_eq!(ratio(Some(pair[0]), Some(pair[1])), None);
        assert_eq!(time(None), "-");
        assert_eq!(
            ratio(Some(&record.results[0]), Some(&record.results[1])).map(f64::round),
            Some(53.0)
        );
    }
}
