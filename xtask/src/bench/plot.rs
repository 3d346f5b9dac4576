//! The size sweep as a picture: two panels an operation (time, and bus bandwidth), one line a system, both axes logarithmic;
//! the machine's bound, where it is known, as a dashed line.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::{Context, Result};
use resvg::{tiny_skia, usvg};

use super::bound;
use super::cells::Operation;
use super::record::{Measured, Record};
use super::sizes::short;

/// Panels side by side: a pair an operation.
const COLUMNS: usize = 4;
/// A panel's size in pixels, and the space around its axes.
const WIDTH: f64 = 380.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 18.0;
const TOP: f64 = 28.0;
const BOTTOM: f64 = 34.0;
/// Space above the panels for the title and the legend.
const HEAD: f64 = 52.0;
/// Pixels of the PNG for one of the SVG's.
const SCALE: f32 = 2.0;
/// Line colours (Okabe and Ito's palette, distinguishable with any colour vision).
const COLOURS: [&str; 5] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"];

/// A point of a line: bytes, and microseconds or GB/s.
type Point = (f64, f64);

/// What a panel shows over the bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quantity {
    Time,
    BusBandwidth,
}

/// The lines of a panel: one a system, then the bound.
struct Panel {
    operation: Operation,
    quantity: Quantity,
    systems: Vec<Vec<Point>>,
    bound: Vec<Point>,
}

/// Draws the record's sweep; `None` when it holds fewer than two sizes of any operation.
#[must_use]
pub fn svg(record: &Record) -> Option<String> {
    let swept = |panel: &Panel| panel.systems.iter().any(|line| line.len() > 1);
    let panels: Vec<Panel> = Operation::ALL
        .into_iter()
        .flat_map(|operation| {
            let of = |quantity| Panel::new(record, operation, quantity);
            [of(Quantity::Time), of(Quantity::BusBandwidth)]
        })
        .filter(swept)
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
    head(&mut out, record, panels.iter().any(|panel| !panel.bound.is_empty()));
    for (at, panel) in panels.iter().enumerate() {
        let (x, y) = ((at % COLUMNS) as f64 * WIDTH, HEAD + (at / COLUMNS) as f64 * HEIGHT);
        panel.draw(&mut out, x, y);
    }
    out.push_str("</svg>\n");
    Some(out)
}

/// The same picture in pixels. Its letters come with the program: a machine without fonts draws them, too.
///
/// # Errors
/// The picture is too large for memory, or no picture.
pub fn png(svg: &str) -> Result<Vec<u8>> {
    let mut fonts = usvg::fontdb::Database::new();
    fonts.load_font_data(dejavu::sans::regular().to_vec());
    fonts.load_font_data(dejavu::sans::bold().to_vec());
    fonts.set_sans_serif_family("DejaVu Sans");
    let options = usvg::Options { fontdb: Arc::new(fonts), ..usvg::Options::default() };
    let tree = usvg::Tree::from_str(svg, &options).context("the plot is no picture")?;
    let size = tree.size().to_int_size().scale_by(SCALE).context("the plot is empty")?;
    let mut pixels =
        tiny_skia::Pixmap::new(size.width(), size.height()).context("the plot is too large")?;
    let scale = tiny_skia::Transform::from_scale(SCALE, SCALE);
    resvg::render(&tree, scale, &mut pixels.as_mut());
    pixels.encode_png().context("cannot write a PNG")
}

fn head(out: &mut String, record: &Record, bounded: bool) {
    let (m, p) = (&record.machine, &record.protocol);
    let title = format!(
        "{} ranks over {}. {}, {} cores, {}",
        p.ranks,
        p.transport,
        m.cpu,
        m.cores,
        m.date.get(..10).unwrap_or_default()
    );
    let _ = writeln!(out, "<text x=\"12\" y=\"20\" font-size=\"14\">{}</text>", escape(&title));
    for (at, system) in record.systems.iter().enumerate() {
        legend(out, at, &system.name, COLOURS[at % COLOURS.len()], "");
    }
    if bounded {
        legend(out, record.systems.len(), "the machine's bound", "#000000", DASHED);
    }
}

/// How the bound's line is drawn.
const DASHED: &str = " stroke-dasharray=\"5 4\"";

fn legend(out: &mut String, at: usize, name: &str, colour: &str, dash: &str) {
    let x = 12.0 + at as f64 * 130.0;
    let _ = writeln!(
        out,
        "<line x1=\"{x}\" x2=\"{}\" y1=\"35\" y2=\"35\" stroke=\"{colour}\" stroke-width=\"3\"{dash}/>\
         <text x=\"{}\" y=\"39\">{}</text>",
        x + 18.0,
        x + 24.0,
        escape(name)
    );
}

impl Panel {
    fn new(record: &Record, operation: Operation, quantity: Quantity) -> Self {
        let ranks = record.protocol.ranks;
        let value = |bytes: f64, us: f64| match quantity {
            Quantity::Time => us,
            Quantity::BusBandwidth => bytes / us / 1e3 * operation.bus_factor(ranks),
        };
        let line = |points: &mut dyn Iterator<Item = Point>| {
            let positive = points.filter(|(bytes, us)| *bytes > 0.0 && *us > 0.0);
            let mut line: Vec<Point> = positive.map(|(b, us)| (b, value(b, us))).collect();
            line.sort_by(|a, b| a.0.total_cmp(&b.0));
            line
        };
        let sweep = |r: &&Measured| r.cell.operation == operation && r.cell.model.is_none();
        let of = |system: &str| {
            let results = record.results.iter().filter(|r| r.system == system).filter(sweep);
            let point = |r: &Measured| Some((r.bytes as f64, r.times()?.time_us.median));
            line(&mut results.filter_map(point))
        };
        let systems = record.systems.iter().map(|system| of(&system.name)).collect();
        let cells = record.cells();
        let swept = cells.iter().filter(|c| c.operation == operation && c.model.is_none());
        let least =
            |cell| bound::microseconds(&record.limits, cell, ranks, &record.protocol.transport);
        let mut points = swept.filter_map(|cell| Some((cell.bytes(ranks) as f64, least(cell)?)));
        let bound = line(&mut points);
        Self { operation, quantity, systems, bound }
    }

    fn title(&self) -> String {
        match self.quantity {
            Quantity::Time => self.operation.name().to_owned(),
            Quantity::BusBandwidth => format!("{}: bus bandwidth", self.operation.name()),
        }
    }

    fn unit(&self, decade: i32) -> String {
        match (self.quantity, decade) {
            (Quantity::Time, _) => decade_name(decade),
            (Quantity::BusBandwidth, ..=-4) => format!("{} kB/s", 10_f64.powi(decade + 6)),
            (Quantity::BusBandwidth, -3..=-1) => format!("{} MB/s", 10_f64.powi(decade + 3)),
            (Quantity::BusBandwidth, _) => format!("{} GB/s", 10_f64.powi(decade)),
        }
    }

    fn draw(&self, out: &mut String, x: f64, y: f64) {
        let all = || self.systems.iter().flatten().chain(&self.bound);
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
            self.title()
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
                self.unit(decade)
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
        let drawn = self
            .systems
            .iter()
            .zip(COLOURS.iter().cycle())
            .map(|(line, colour)| (line, *colour, ""));
        for (line, colour, dash) in drawn.chain([(&self.bound, "#000000", DASHED)]) {
            let points: Vec<String> =
                line.iter().map(|(b, us)| format!("{:.1},{:.1}", at_x(*b), at_y(*us))).collect();
            if !points.is_empty() {
                let _ = writeln!(
                    out,
                    "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash} points=\"{}\"/>",
                    points.join(" ")
                );
            }
        }
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
        assert_eq!(picture.matches("<polyline").count(), 4, "two systems, time and bandwidth");
        assert!(!picture.contains("the machine's bound"));
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
                assert!((LEFT..=WIDTH - RIGHT + 0.1).contains(&(x % WIDTH)), "{x}");
                assert!((HEAD + TOP - 0.1..=HEAD + HEIGHT - BOTTOM + 0.1).contains(&y), "{y}");
            }
        }
    }

    #[test]
    fn pixels_hold_the_letters() {
        let picture = svg(&sample()).unwrap();
        let dark = |svg: &str| {
            let pixels = tiny_skia::Pixmap::decode_png(&png(svg).unwrap()).unwrap();
            assert_eq!(pixels.width(), (2.0 * WIDTH) as u32 * SCALE as u32);
            pixels.pixels().iter().filter(|p| p.red() < 80 && p.blue() < 80).count()
        };
        let bare: String =
            picture.lines().filter(|line| !line.contains("<text")).collect::<Vec<_>>().join("\n");
        let (with, without) = (dark(&picture), dark(&bare));
        assert!(with > without + 1000, "{with} dark pixels with letters, {without} without");
        assert!(png("no picture").is_err());
    }

    #[test]
    fn decades_have_units() {
        let names: Vec<_> = (-1..=6).map(decade_name).collect();
        assert_eq!(names, ["0.1 us", "1 us", "10 us", "100 us", "1 ms", "10 ms", "100 ms", "1 s"]);
        assert_eq!(escape("a<b&c"), "a&lt;b&amp;c");
    }
}
