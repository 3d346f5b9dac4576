//! The size sweep as a picture: one panel an operation, one line a system, both axes logarithmic.

use std::fmt::Write as _;

use super::cells::Operation;
use super::record::{Measured, Record};
use super::sizes::short;

/// Panels side by side.
const COLUMNS: usize = 3;
/// A panel's size in pixels, and the space around its axes.
const WIDTH: f64 = 380.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 28.0;
const BOTTOM: f64 = 34.0;
/// Space above the panels for the title and the legend.
const HEAD: f64 = 52.0;
/// Line colours (Okabe and Ito's palette, distinguishable with any colour vision).
const COLOURS: [&str; 5] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"];

/// A point of a line: bytes and microseconds.
type Point = (f64, f64);

/// Draws the record's sweep; `None` when it holds fewer than two sizes of any operation.
#[must_use]
pub fn svg(record: &Record) -> Option<String> {
    let panels: Vec<(Operation, Vec<Vec<Point>>)> = Operation::ALL
        .into_iter()
        .map(|operation| (operation, lines(record, operation)))
        .filter(|(_, lines)| lines.iter().any(|line| line.len() > 1))
        .collect();
    if panels.is_empty() {
        return None;
    }
    let columns = panels.len().min(COLUMNS);
    let rows = panels.len().div_ceil(COLUMNS);
    let (width, height) = (columns as f64 * WIDTH, HEAD + rows as f64 * HEIGHT);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    head(&mut out, record);
    for (at, (operation, lines)) in panels.iter().enumerate() {
        let (x, y) = ((at % COLUMNS) as f64 * WIDTH, HEAD + (at / COLUMNS) as f64 * HEIGHT);
        panel(&mut out, x, y, *operation, lines);
    }
    out.push_str("</svg>\n");
    Some(out)
}

fn lines(record: &Record, operation: Operation) -> Vec<Vec<Point>> {
    let of = |system: &str| {
        let results = record.results.iter().filter(|r| r.system == system);
        let sweep = results.filter(|r| r.cell.operation == operation && r.cell.model.is_none());
        let point = |r: &Measured| Some((r.bytes as f64, r.times()?.time_us.median));
        let mut line: Vec<Point> =
            sweep.filter_map(point).filter(|(bytes, us)| *bytes > 0.0 && *us > 0.0).collect();
        line.sort_by(|a, b| a.0.total_cmp(&b.0));
        line
    };
    record.systems.iter().map(|system| of(&system.name)).collect()
}

fn head(out: &mut String, record: &Record) {
    let (m, p) = (&record.machine, &record.protocol);
    let title = format!(
        "{} ranks over {}: time per operation. {}, {} cores, {}",
        p.ranks,
        p.transport,
        m.cpu,
        m.cores,
        m.date.get(..10).unwrap_or_default()
    );
    let _ = writeln!(out, "<text x=\"12\" y=\"20\" font-size=\"14\">{}</text>", escape(&title));
    for (at, system) in record.systems.iter().enumerate() {
        let (x, colour) = (12.0 + at as f64 * 130.0, COLOURS[at % COLOURS.len()]);
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"32\" width=\"18\" height=\"4\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"39\">{}</text>",
            x + 24.0,
            escape(&system.name)
        );
    }
}

fn panel(out: &mut String, x: f64, y: f64, operation: Operation, lines: &[Vec<Point>]) {
    let all = || lines.iter().flatten();
    let reach = |values: &mut dyn Iterator<Item = f64>, base: f64| {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
        let low = low.log(base).floor();
        (low, high.log(base).ceil().max(low + 1.0))
    };
    let (left, right) = reach(&mut all().map(|p| p.0), 2.0);
    let (low, high) = reach(&mut all().map(|p| p.1), 10.0);
    let (inner_w, inner_h) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let at_x = |bytes: f64| x + LEFT + (bytes.log2() - left) / (right - left) * inner_w;
    let at_y = |us: f64| y + TOP + (high - us.log10()) / (high - low) * inner_h;
    let bottom = y + TOP + inner_h;
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" font-weight=\"bold\">{}</text>",
        x + LEFT,
        y + 18.0,
        operation.name()
    );
    for decade in low as i32..=high as i32 {
        let us = 10_f64.powi(decade);
        let _ = writeln!(
            out,
            "<line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{2:.1}\" y2=\"{2:.1}\" stroke=\"#dddddd\"/>\
             <text x=\"{3:.1}\" y=\"{4:.1}\" text-anchor=\"end\">{5}</text>",
            x + LEFT,
            x + LEFT + inner_w,
            at_y(us),
            x + LEFT - 5.0,
            at_y(us) + 4.0,
            decade_name(decade)
        );
    }
    let step = (((right - left) / 6.0).ceil() as i32).max(1);
    for power in (left as i32..=right as i32).step_by(step as usize) {
        let bytes = 2_f64.powi(power);
        let _ = writeln!(
            out,
            "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1:.1}\" y2=\"{2:.1}\" stroke=\"#eeeeee\"/>\
             <text x=\"{0:.1}\" y=\"{3:.1}\" text-anchor=\"middle\">{4}</text>",
            at_x(bytes),
            y + TOP,
            bottom,
            bottom + 16.0,
            short(bytes as u64)
        );
    }
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let points: Vec<String> =
            line.iter().map(|(b, us)| format!("{:.1},{:.1}", at_x(*b), at_y(*us))).collect();
        let _ = writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
            points.join(" ")
        );
    }
}

fn decade_name(decade: i32) -> String {
    match decade {
        i32::MIN..=-1 => format!("{} us", 10_f64.powi(decade)),
        0..=2 => format!("{} us", 10_i64.pow(decade as u32)),
        3..=5 => format!("{} ms", 10_i64.pow(decade as u32 - 3)),
        _ => format!("{} s", 10_f64.powi(decade - 6)),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::record::sample;
    use super::*;

    #[test]
    fn one_panel_for_every_operation_with_a_sweep() {
        let record = sample();
        let picture = svg(&record).unwrap();
        assert!(picture.contains(">all_reduce</text>"));
        assert!(!picture.contains(">barrier</text>"), "a single point is no line");
        assert_eq!(picture.matches("<polyline").count(), 2);
        assert!(picture.contains(">torch-gloo</text>"));
        let mut empty = record;
        empty.results.truncate(2);
        assert_eq!(svg(&empty), None);
    }

    #[test]
    fn every_point_lies_inside_its_panel() {
        let picture = svg(&sample()).unwrap();
        for points in picture.split("points=\"").skip(1) {
            for point in points.split('"').next().unwrap().split(' ') {
                let (x, y) = point.split_once(',').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!((LEFT..=WIDTH - RIGHT + 0.1).contains(&x), "{x}");
                assert!((HEAD + TOP - 0.1..=HEAD + HEIGHT - BOTTOM + 0.1).contains(&y), "{y}");
            }
        }
    }

    #[test]
    fn decades_have_units() {
        let names: Vec<_> = (-1..=6).map(decade_name).collect();
        assert_eq!(names, ["0.1 us", "1 us", "10 us", "100 us", "1 ms", "10 ms", "100 ms", "1 s"]);
        assert_eq!(escape("a<b&c"), "a&lt;b&amp;c");
    }
}
