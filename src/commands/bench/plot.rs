//! The roofline as a figure: a bar for each kernel, the part that its limit explains in a darker shade.

use super::roofline::Roofline;
use crate::terminal::escaped;
use std::fmt::Write;

/// Pixels.
const WIDTH: f64 = 720.0;
const NAMES: f64 = 170.0;
const NUMBERS: f64 = 150.0;
const ROW: f64 = 26.0;
const HEAD: f64 = 64.0;

/// As SVG, readable on a light and on a dark page.
pub(crate) fn svg(roofline: &Roofline, model: &str) -> String {
    let longest = roofline.rows.iter().map(|r| r.best().max(r.limit)).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - NAMES - NUMBERS) / longest;
    let height = HEAD + ROW * roofline.rows.len() as f64 + 8.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <style>text {{ fill: #222 }} @media (prefers-color-scheme: dark) {{ text {{ fill: #ddd }} }}</style>\n\
         <text x=\"8\" y=\"20\" font-weight=\"bold\">{}</text>\n\
         <rect x=\"8\" y=\"34\" width=\"12\" height=\"12\" fill=\"#2a6f97\"/><text x=\"26\" y=\"45\">the limit</text>\n\
         <rect x=\"108\" y=\"34\" width=\"12\" height=\"12\" fill=\"#e0a458\"/><text x=\"126\" y=\"45\">what it takes beyond that</text>\n",
        escaped(&roofline.title(model))
    );
    for (n, row) in roofline.rows.iter().enumerate() {
        let y = HEAD + ROW * n as f64;
        let (time, limit) = (row.best() * scale, (row.limit * scale).min(row.best() * scale));
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{NAMES}\" y=\"{y:.1}\" width=\"{time:.1}\" height=\"18\" fill=\"#e0a458\"/>\n\
             <rect x=\"{NAMES}\" y=\"{y:.1}\" width=\"{limit:.1}\" height=\"18\" fill=\"#2a6f97\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\">{:.1} us, {:.0}%</text>\n",
            NAMES - 8.0,
            y + 14.0,
            escaped(&row.name),
            NAMES + time.max(limit) + 6.0,
            y + 14.0,
            row.best(),
            100.0 * row.fraction()
        );
    }
    out + "</svg>\n"
}
