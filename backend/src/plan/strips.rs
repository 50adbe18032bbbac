//! Strips: which inputs the outputs of a sparse map read together.

use super::{Format, LANES, PANEL, Panels, RowOrder, StripValues, Strips};
use lstmc_frontend::ir::{Pattern, Sparse};

/// The share of stored weights above which panels of the whole map are read faster than strips with their indices.
///
/// A strip of four outputs costs two loads and a quarter per vector (indices by four, the input, the weights), while a panel costs one and an
/// eighth: by that count alone the threshold is one half; taller strips, which share the input's load, pay for longer.
const MOST: f64 = 0.6;

/// The heights of strips that can be generated.
const HEIGHTS: [usize; 4] = [PANEL, 16, 8, 4];

/// The inputs that each strip of a panel reads, in ascending order: the union over its outputs.
pub(crate) fn strip_inputs(
    kept: &[bool],
    [out, input]: [usize; 2],
    order: RowOrder,
    height: usize,
    panel: usize,
) -> Vec<Vec<u16>> {
    let rows: Vec<Option<usize>> = (0..PANEL).map(|lane| order.row(out, panel, lane)).collect();
    rows.chunks(height)
        .map(|strip| {
            let reads = |j: &usize| strip.iter().flatten().any(|r| kept[r * input + j]);
            (0..input).filter(reads).map(|j| j as u16).collect()
        })
        .collect()
}

/// How the panels of a sparse map are stored: in the tallest strips that its blocks fill, or `None` if strips would not pay.
pub(crate) fn strips(
    map: &Sparse,
    kept: &[bool],
    shape: [usize; 2],
    order: RowOrder,
    integer: Option<bool>,
) -> Option<Format> {
    let [out, input] = shape;
    if input > usize::from(u16::MAX) + 1 || out == 0 || input == 0 {
        return None;
    }
    let rows = match map.pattern() {
        Pattern::Block { rows, .. } => rows,
        Pattern::NOfM { .. } => 1,
    };
    // The gates of eight units share a panel: a taller block is split there.
    let most = if matches!(order, RowOrder::Gates(_)) { 8 } else { PANEL };
    let height = HEIGHTS.into_iter().find(|&h| h <= most && rows % h == 0).unwrap_or(LANES);
    let values = match integer {
        Some(signed) => StripValues::Int8 { signed },
        None => StripValues::F32,
    };
    let mut strips = Strips { height, values, bytes: 0 };
    let panels = Panels { out, input, order, format: Format::F32 };
    let mut stored = 0;
    for p in 0..panels.count() {
        for inputs in strip_inputs(kept, shape, order, height, p) {
            let entries = inputs.len().div_ceil(strips.inputs()).next_multiple_of(strips.unit());
            stored += inputs.len() * height;
            strips.bytes += strips.strip_bytes(entries);
        }
        strips.bytes += strips.panel_bytes();
    }
    (stored as f64 <= MOST * (panels.lanes() * input) as f64).then_some(Format::Strips(strips))
}
