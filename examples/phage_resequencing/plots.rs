//! Plots as SVG. Colours and fonts are classes, which the page defines for light and dark.

use std::fmt::Write as _;

use crate::report::{Orf, Position};

/// The two sizes in which every plot is made: a plot that is shrunk cannot be read on a phone.
pub(crate) const WIDE: Size = Size {
    width: 880.0,
    height: 300.0,
    ticks: 9.0,
};
pub(crate) const NARROW: Size = Size {
    width: 350.0,
    height: 240.0,
    ticks: 4.0,
};

/// How large a plot is, in pixels, and about how many numbers its axis has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) width: f64,
    pub(crate) height: f64,
    ticks: f64,
}

const LEFT: f64 = 52.0;
const RIGHT: f64 = 18.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 44.0;

/// A plot that is being drawn.
struct Plot {
    size: Size,
    x: (f64, f64),
    y: (f64, f64),
    svg: String,
}

impl Plot {
    fn new(size: Size, title: &str, x: (f64, f64), y: (f64, f64)) -> Self {
        let Size { width, height, .. } = size;
        let svg = format!(
            "<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
             role=\"img\" aria-label=\"{title}\"><title>{title}</title>\n"
        );
        Self { size, x, y, svg }
    }

    fn px(&self, x: f64) -> f64 {
        let room = self.size.width - LEFT - RIGHT;
        LEFT + room * (x - self.x.0) / (self.x.1 - self.x.0)
    }

    fn py(&self, y: f64) -> f64 {
        let room = self.size.height - TOP - BOTTOM;
        self.size.height - BOTTOM - room * (y - self.y.0) / (self.y.1 - self.y.0)
    }

    /// Lines behind the data, with numbers, and what the numbers are.
    fn axes(&mut self, x_label: &str, y_label: &str, y_ticks: &[(f64, String)]) {
        let (left, right) = (LEFT, self.size.width - RIGHT);
        let (top, bottom) = (TOP, self.size.height - BOTTOM);
        for (value, text) in y_ticks {
            let y = self.py(*value);
            self.line("grid", (left, y), (right, y));
            self.text("tick end", left - 6.0, y + 4.0, text);
        }
        for value in ticks(self.x, self.size.ticks) {
            let x = self.px(value);
            self.line("axis", (x, bottom), (x, bottom + 5.0));
            self.text("tick middle", x, bottom + 18.0, &number(value));
        }
        self.line("axis", (left, bottom), (right, bottom));
        let middle = f64::midpoint(left, right);
        self.text("label middle", middle, self.size.height - 8.0, x_label);
        let (x, y) = (14.0, f64::midpoint(top, bottom));
        let _ = writeln!(
            self.svg,
            "<text class=\"label middle\" transform=\"translate({x:.1} {y:.1}) rotate(-90)\">{y_label}</text>"
        );
    }

    fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let _ = writeln!(
            self.svg,
            "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
            from.0, from.1, to.0, to.1
        );
    }

    fn text(&mut self, class: &str, x: f64, y: f64, text: &str) {
        let _ = writeln!(
            self.svg,
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>"
        );
    }

    /// A line or an area through points of the data.
    fn shape(&mut self, element: &str, class: &str, points: impl Iterator<Item = (f64, f64)>) {
        let points: Vec<String> = points
            .map(|(x, y)| format!("{:.1},{:.1}", self.px(x), self.py(y)))
            .collect();
        let points = points.join(" ");
        let _ = writeln!(
            self.svg,
            "<{element} class=\"{class}\" points=\"{points}\"/>"
        );
    }

    fn finish(mut self) -> String {
        self.svg.push_str("</svg>\n");
        self.svg
    }
}

/// Round numbers between two values, about so many.
fn ticks((from, to): (f64, f64), count: f64) -> Vec<f64> {
    let rough = (to - from) / count;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= rough)
        .unwrap_or(rough);
    let first = (from / step).ceil();
    let mut ticks = Vec::new();
    let mut place = first;
    while place * step <= to + step * 1e-6 {
        ticks.push(place * step);
        place += 1.0;
    }
    ticks
}

fn labelled(values: Vec<f64>) -> Vec<(f64, String)> {
    values
        .into_iter()
        .map(|value| (value, number(value)))
        .collect()
}

/// A large number in a few letters: `100k`.
fn short(value: f64) -> String {
    match value {
        _ if value >= 1e6 => format!("{}M", number(value / 1e6)),
        _ if value >= 1e3 => format!("{}k", number(value / 1e3)),
        _ => number(value),
    }
}

/// A number without needless zeros.
fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The qualities by position: median, the middle half, and all but the best and worst tenth.
pub(crate) fn quality(size: Size, name: &str, positions: &[Position]) -> String {
    let last = positions.len().max(2) as f64;
    let top = positions
        .iter()
        .map(|position| position.high)
        .fold(40.0, f64::max);
    let title = format!("Quality by position, {name}");
    let mut plot = Plot::new(size, &title, (1.0, last), (0.0, top));
    plot.axes(
        "position in the read (bases)",
        "quality (Phred)",
        &labelled(ticks((0.0, top), 5.0)),
    );
    let at = |value: fn(&Position) -> f64| {
        let values = positions.iter().enumerate();
        values.map(move |(index, position)| (index as f64 + 1.0, value(position)))
    };
    plot.shape(
        "polygon",
        "tenths",
        at(|p| p.low).chain(at(|p| p.high).rev()),
    );
    plot.shape("polygon", "half", at(|p| p.q1).chain(at(|p| p.q3).rev()));
    plot.shape("polyline", "curve", at(|p| p.median));
    plot.finish()
}

/// How many k-mers occur how often, on a logarithmic axis.
pub(crate) fn spectrum(size: Size, spectrum: &[(u64, u64)]) -> String {
    let last = spectrum.last().map_or(1, |(times, _)| *times).max(2) as f64;
    let most = spectrum
        .iter()
        .map(|(_, kmers)| *kmers)
        .max()
        .unwrap_or(1)
        .max(10);
    let top = (most as f64).log10().ceil();
    let mut plot = Plot::new(size, "Spectrum of k-mers", (0.0, last + 1.0), (0.0, top));
    let mut powers = Vec::new();
    let mut power = 0.0;
    while power <= top {
        powers.push((power, short(10_f64.powf(power))));
        power += 1.0;
    }
    plot.axes("times that a k-mer occurs", "distinct k-mers", &powers);
    let width = ((plot.px(2.0) - plot.px(1.0)) * 0.8).max(1.0);
    let bottom = plot.py(0.0);
    for (times, kmers) in spectrum {
        // One is zero on this axis; a little of its bar is shown all the same.
        let y = plot.py((*kmers as f64).log10()).min(bottom - 1.5);
        let x = plot.px(*times as f64) - width / 2.0;
        let _ = writeln!(
            plot.svg,
            "<rect class=\"bar\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\"/>",
            bottom - y
        );
    }
    plot.finish()
}

/// The depth along the genome: of as many bases as share a place of the plot, the mean as a line and
/// the range as an area.
pub(crate) fn coverage(size: Size, depth: &[u64]) -> String {
    let places = (size.width - LEFT - RIGHT) as usize;
    let bases = depth.len().div_ceil(places).max(1);
    let top = depth.iter().max().copied().unwrap_or(1).max(1) as f64 * 1.05;
    let kilobases = depth.len() as f64 / 1000.0;
    let mut plot = Plot::new(size, "Depth along the genome", (0.0, kilobases), (0.0, top));
    plot.axes(
        "position (kb)",
        "depth (reads)",
        &labelled(ticks((0.0, top), 5.0)),
    );
    let groups: Vec<(f64, [f64; 3])> = depth
        .chunks(bases)
        .enumerate()
        .map(|(place, group)| {
            let middle = (place * bases) as f64 + group.len() as f64 / 2.0;
            let sum: u64 = group.iter().sum();
            let (least, most) = (group.iter().min(), group.iter().max());
            let [least, most] = [least, most].map(|depth| depth.copied().unwrap_or(0) as f64);
            (
                middle / 1000.0,
                [least, sum as f64 / group.len() as f64, most],
            )
        })
        .collect();
    let at = |which: usize| groups.iter().map(move |(x, depths)| (*x, depths[which]));
    plot.shape("polygon", "tenths", at(0).chain(at(2).rev()));
    plot.shape("polyline", "curve", at(1));
    plot.finish()
}

/// The open reading frames in six lanes, as arrows in their direction.
pub(crate) fn orfs(size: Size, length: u64, orfs: &[Orf]) -> String {
    const LANES: [i64; 6] = [3, 2, 1, -1, -2, -3];
    let kilobases = length as f64 / 1000.0;
    let mut plot = Plot::new(size, "Open reading frames", (0.0, kilobases), (0.0, 6.0));
    let middle = |frame: i64| {
        let lane = LANES.iter().position(|lane| *lane == frame);
        5.5 - lane.unwrap_or(0) as f64
    };
    let lanes = LANES.map(|frame| (middle(frame), format!("{frame:+}")));
    plot.axes("position (kb)", "frame", &lanes);
    for orf in orfs {
        let (from, to) = (
            plot.px(orf.start as f64 / 1000.0),
            plot.px(orf.stop as f64 / 1000.0),
        );
        let y = plot.py(middle(orf.frame));
        let (half, forward) = ((size.height - TOP - BOTTOM) / 6.0 * 0.32, orf.strand == "+");
        let head = (to - from).min(6.0);
        let (tail, neck, tip) = match forward {
            true => (from, to - head, to),
            false => (to, from + head, from),
        };
        let (class, title) = (
            if forward { "forward" } else { "reverse" },
            format!(
                "{}..{} ({}), {} codons",
                orf.start,
                orf.stop,
                orf.strand,
                orf.length / 3
            ),
        );
        let (top, bottom) = (y - half, y + half);
        let _ = writeln!(
            plot.svg,
            "<polygon class=\"{class}\" points=\"{tail:.1},{top:.1} {neck:.1},{top:.1} {tip:.1},{y:.1} \
             {neck:.1},{bottom:.1} {tail:.1},{bottom:.1}\"><title>{title}</title></polygon>"
        );
    }
    plot.finish()
}
