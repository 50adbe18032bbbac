//! Figures of models: a cost on a logarithmic axis against perplexity, as SVG.
//!
//! ```text
//!   title
//!   perplexity
//!   |  o b                      * on the frontier, joined by a line
//!   |   *__  o d                o beaten by another
//!   |  a   *________* as given
//!   +----------------------- size, or time
//! ```
//!
//! Colours follow the reader's preference for light or dark. Labels go to the first of eight places around their points where they cover nothing, or the least.

use crate::terminal::escaped;
use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 56.0;

/// Radius of a point, and height and mean width of a character of its label.
const RADIUS: f64 = 4.5;
const TEXT_HEIGHT: f64 = 13.0;
const TEXT_WIDTH: f64 = 6.3;

/// Characters of a label; more are cut off.
const MOST: usize = 40;

/// Perplexities further apart than this are on a logarithmic axis too.
const LOG_FROM: f64 = 3.0;

const STYLE: &str = "
    text { font: 12px system-ui, sans-serif; fill: #1f2328 }
    .title { font-size: 15px; font-weight: 600 }
    .soft { fill: #59636e }
    .back { fill: #ffffff }
    .grid { stroke: #d1d9e0 }
    .line { stroke: #0969da; stroke-width: 1.5; fill: none }
    .best { stroke: #0969da; stroke-width: 1.5; fill: #0969da }
    .other { stroke: #59636e; stroke-width: 1.5; fill: #ffffff }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 }
      .soft { fill: #9198a1 }
      .back { fill: #0d1117 }
      .grid { stroke: #2f353d }
      .line { stroke: #58a6ff }
      .best { stroke: #58a6ff; fill: #58a6ff }
      .other { stroke: #9198a1; fill: #0d1117 }
    }
  ";

/// An axis: values to places.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    is_log: bool,
}

impl Axis {
    /// An axis over all values, with some room at both ends.
    fn over(values: impl Iterator<Item = f64> + Clone, [from, to]: [f64; 2], is_log: bool) -> Axis {
        const ROOM: f64 = 0.07;
        let by = |v: f64| if is_log { v.ln() } else { v };
        let low = by(values.clone().fold(f64::INFINITY, f64::min));
        let high = by(values.fold(f64::NEG_INFINITY, f64::max));
        // Of a single value, some part on both sides.
        let room = if high > low { ROOM * (high - low) } else { 0.1 * if is_log { 1.0 } else { high } };
        let back = |v: f64| if is_log { v.exp() } else { v };
        Axis { low: back(low - room), high: back(high + room), from, to, is_log }
    }

    fn at(&self, value: f64) -> f64 {
        let by = |v: f64| if self.is_log { v.ln() } else { v };
        self.from + (by(value) - by(self.low)) / (by(self.high) - by(self.low)) * (self.to - self.from)
    }

    /// Round numbers on the axis, at least a few.
    fn ticks(&self) -> Vec<f64> {
        const LEAST: usize = 4;
        const MOST: usize = 9;
        const STEPS: [&[f64]; 4] =
            [&[1.0], &[1.0, 3.0], &[1.0, 2.0, 5.0], &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0]];
        if self.is_log {
            let decades = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
            for steps in STEPS {
                let all = decades.clone().flat_map(|d| steps.iter().map(move |s| s * 10f64.powi(d)));
                let ticks: Vec<f64> = all.filter(|t| (self.low..=self.high).contains(t)).collect();
                if (LEAST..=MOST).contains(&ticks.len()) {
                    return ticks;
                }
            }
        }
        let rough = (self.high - self.low) / 6.0;
        let decade = 10f64.powf(rough.log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].map(|s| s * decade).into_iter().find(|&s| s >= rough).unwrap_or(rough);
        let first = (self.low / step).ceil() as i64;
        (first..).map(|k| k as f64 * step).take_while(|&t| t <= self.high).collect()
    }
}

/// A place that something takes.
#[derive(Clone, Copy, Debug)]
struct Area {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

impl Area {
    fn around(x: f64, y: f64, radius: f64) -> Area {
        Area { x: x - radius, y: y - radius, width: 2.0 * radius, height: 2.0 * radius }
    }

    /// How much of both is the same.
    fn overlap(&self, other: &Area) -> f64 {
        let along = |a: f64, la: f64, b: f64, lb: f64| ((a + la).min(b + lb) - a.max(b)).max(0.0);
        along(self.x, self.width, other.x, other.width) * along(self.y, self.height, other.y, other.height)
    }
}

/// The areas around a point where its label may be, the best first; with the end of the text that is next to the point.
fn places(x: f64, y: f64, width: f64) -> [(Area, &'static str, f64); 8] {
    let gap = RADIUS + 4.0;
    let (near, far) = (RADIUS + 1.0, 0.75 * TEXT_HEIGHT + RADIUS);
    let area = |x: f64, y: f64| Area { x, y: y - TEXT_HEIGHT / 2.0, width, height: TEXT_HEIGHT };
    [
        (area(x + gap, y), "start", x + gap),
        (area(x + near, y - far), "start", x + near),
        (area(x + near, y + far), "start", x + near),
        (area(x - gap - width, y), "end", x - gap),
        (area(x - near - width, y + far), "end", x - near),
        (area(x - near - width, y - far), "end", x - near),
        (area(x - width / 2.0, y - far), "middle", x),
        (area(x - width / 2.0, y + far), "middle", x),
    ]
}

/// A number without zeros at its end.
pub(crate) fn number(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

/// A model in a figure.
pub(crate) struct Dot {
    /// What it costs, above 0.
    pub(crate) cost: f64,
    pub(crate) perplexity: f64,
    /// Beside the point.
    pub(crate) label: String,
    /// Shown where a reader points at it.
    pub(crate) about: String,
    /// Whether no other is as cheap and as good.
    pub(crate) frontier: bool,
}

/// What a figure shows.
pub(crate) struct Figure {
    pub(crate) title: String,
    /// What the costs are, with their unit.
    pub(crate) cost: String,
    /// What perplexity is of.
    pub(crate) text: String,
    /// The frontier's in the order in which a line joins them; at least one.
    pub(crate) dots: Vec<Dot>,
}

/// The unit of sizes up to `largest` bytes, and how many bytes it is.
pub(crate) fn unit_of_bytes(largest: usize) -> (&'static str, f64) {
    if largest < 1_000_000 { ("kB", 1e3) } else { ("MB", 1e6) }
}

/// The figure as an SVG document.
pub(crate) fn draw(figure: &Figure) -> String {
    let Figure { title, cost, text, dots } = figure;
    let losses = dots.iter().map(|p| p.perplexity);
    let (least, most) = losses.clone().fold((f64::INFINITY, 0f64), |(a, b), p| (a.min(p), b.max(p)));
    let x = Axis::over(dots.iter().map(|p| p.cost), [LEFT, WIDTH - RIGHT], true);
    let y = Axis::over(losses, [HEIGHT - BOTTOM, TOP], most > LOG_FROM * least);
    let place = |p: &Dot| (x.at(p.cost), y.at(p.perplexity));

    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n  \
         <title>{}</title>\n  <style>{STYLE}</style>\n  \
         <rect class=\"back\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"6\"/>\n",
        escaped(title)
    );
    // Writing to a string cannot fail.
    let mut line = |text: String| _ = writeln!(out, "  {text}");
    line(format!("<text class=\"title\" x=\"{LEFT}\" y=\"26\">{}</text>", escaped(title)));
    let bottom = HEIGHT - BOTTOM;
    for tick in x.ticks() {
        let at = x.at(tick);
        line(format!("<path class=\"grid\" d=\"M{at:.1} {TOP}V{bottom}\"/>"));
        line(format!(
            "<text class=\"soft\" x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            bottom + 18.0,
            number(tick)
        ));
    }
    for tick in y.ticks() {
        let at = y.at(tick);
        line(format!("<path class=\"grid\" d=\"M{LEFT} {at:.1}H{}\"/>", WIDTH - RIGHT));
        line(format!(
            "<text class=\"soft\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            at + 4.0,
            number(tick)
        ));
    }
    line(format!(
        "<text class=\"soft\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}, logarithmic</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 14.0,
        escaped(cost)
    ));
    line(format!(
        "<text class=\"soft\" transform=\"translate(18 {}) rotate(-90)\" text-anchor=\"middle\">perplexity of {}{}</text>",
        (TOP + bottom) / 2.0,
        escaped(text),
        if y.is_log { ", logarithmic" } else { "" }
    ));

    let frontier: Vec<(f64, f64)> = dots.iter().filter(|p| p.frontier).map(place).collect();
    let path: Vec<String> = frontier.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
    line(format!("<path class=\"line\" d=\"M{}\"/>", path.join("L")));

    let mut taken: Vec<(Area, f64)> = vec![];
    for p in dots {
        let (x, y) = place(p);
        taken.push((Area::around(x, y, RADIUS + 1.5), 3.0));
    }
    for ends in frontier.windows(2) {
        let [(x0, y0), (x1, y1)] = [ends[0], ends[1]];
        let steps = ((x1 - x0).hypot(y1 - y0) / 4.0).ceil().max(1.0);
        let along = (0..=steps as usize).map(|k| k as f64 / steps);
        taken.extend(along.map(|t| (Area::around(x0 + t * (x1 - x0), y0 + t * (y1 - y0), 1.0), 1.0)));
    }
    // Points of the frontier last, over what lies below them.
    let (best, others): (Vec<&Dot>, Vec<&Dot>) = dots.iter().partition(|p| p.frontier);
    for p in others.into_iter().chain(best) {
        let (x, y) = place(p);
        let class = if p.frontier { "best" } else { "other" };
        line(format!(
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{RADIUS}\"><title>{}</title></circle>",
            escaped(&p.about)
        ));
        let label = shortened(&p.label);
        let width = TEXT_WIDTH * label.chars().count() as f64;
        let cost = |area: &Area| {
            let plot = Area { x: LEFT, y: TOP, width: WIDTH - LEFT - 4.0, height: bottom - TOP };
            let outside = area.width * area.height - area.overlap(&plot);
            outside * 10.0 + taken.iter().map(|(other, weight)| area.overlap(other) * weight).sum::<f64>()
        };
        let all = places(x, y, width);
        let chosen = all.iter().min_by(|(a, ..), (b, ..)| cost(a).total_cmp(&cost(b)));
        let (area, anchor, at) = chosen.expect("there are eight places");
        line(format!(
            "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
            area.y + TEXT_HEIGHT - 2.5,
            escaped(&label)
        ));
        taken.push((*area, 2.0));
    }
    out + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::frontier::points::tests::survey;

    #[test]
    fn a_figure() {
        insta::assert_snapshot!(draw(&survey().figure("a model <small>")));
    }

    #[test]
    fn ticks_are_round_and_few() {
        for (low, high) in [(1.4, 18.6), (2.0, 2.6), (0.002, 0.007), (1.0, 1000.0), (79.0, 80.0)] {
            for is_log in [false, true] {
                let ticks = Axis { low, high, from: 0.0, to: 1.0, is_log }.ticks();
                assert!((2..=10).contains(&ticks.len()), "{low} to {high}: {ticks:?}");
                assert!(ticks.iter().all(|t| (low..=high).contains(t)), "{low} to {high}: {ticks:?}");
            }
        }
    }

    /// Also where there is one point alone, or several in one place.
    #[test]
    fn all_is_inside() {
        let mut figure = survey().figure("one");
        figure.dots.truncate(1);
        for copies in 1..4 {
            let text = draw(&figure);
            for attribute in ["cx=\"", "cy=\"", " x=\"", " y=\""] {
                let values = text.split(attribute).skip(1).map(|rest| rest.split('"').next().unwrap());
                values.for_each(|v| assert!((0.0..=WIDTH).contains(&v.parse::<f64>().unwrap()), "{v}"));
            }
            let Dot { cost, perplexity, .. } = figure.dots[0];
            figure.dots.extend((0..copies).map(|_| Dot {
                cost,
                perplexity,
                label: "copy".into(),
                about: String::new(),
                frontier: true,
            }));
        }
    }
}
