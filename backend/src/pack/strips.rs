//! Strips of sparse maps.

use super::PackedData;
use crate::plan::{Format, Groups, Integer, PANEL, Panels, QUAD, Scale, StripValues, Strips, strip_inputs};
use lstmc_frontend::ir::{MapError, PackedWidth, Quantized};

/// One index and a column of f32s per entry; padding reads input 0 times zero.
pub(super) fn floats(p: &Panels, s: Strips, kept: &[bool], values: &[f32], to: &mut [u8]) {
    let mut at = 0;
    for n in 0..p.count() {
        let rows = p.rows(n);
        let strips = strip_inputs(kept, [p.out, p.input], p.order, s.height, n);
        for (inputs, rows) in strips.iter().zip(rows.chunks(s.height)) {
            at = header(s, inputs, to, at);
            for &j in inputs {
                for row in rows {
                    let j = usize::from(j);
                    let value =
                        row.filter(|r| kept[r * p.input + j]).map_or(0.0, |r| values[r * p.input + j]);
                    to[at..at + 4].copy_from_slice(&value.to_ne_bytes());
                    at += 4;
                }
            }
            at += (entries(s, inputs) - inputs.len()) * s.entry_bytes();
        }
    }
}

/// Four indices and `[height][4]` codes per entry, then each panel's scales, and unless `signed` what raised activations add to its sums.
pub(super) fn integers(
    p: &Panels,
    s: Strips,
    signed: bool,
    kept: &[bool],
    q: &Quantized,
    to: &mut [u8],
) -> Result<(), MapError> {
    let (codes, scales) = (q.codes().i8s()?, q.scales().to_f32()?);
    let mut at = 0;
    for n in 0..p.count() {
        let rows = p.rows(n);
        let strips = strip_inputs(kept, [p.out, p.input], p.order, s.height, n);
        for (inputs, rows) in strips.iter().zip(rows.chunks(s.height)) {
            at = header(s, inputs, to, at);
            for quad in inputs.chunks(QUAD) {
                for row in rows {
                    for k in 0..QUAD {
                        let code = match (row, quad.get(k)) {
                            // What is not kept has code zero.
                            (Some(r), Some(&j)) => codes[r * p.input + usize::from(j)],
                            _ => 0,
                        };
                        to[at] = code as u8;
                        at += 1;
                    }
                }
            }
        }
        for row in &rows {
            let scale = row.map_or(0.0, |r| scales[r]);
            to[at..at + 4].copy_from_slice(&scale.to_ne_bytes());
            at += 4;
        }
        if !signed {
            for row in &rows {
                // What is not kept has code zero, as above.
                let sum: i32 =
                    row.map_or(0, |r| codes[r * p.input..][..p.input].iter().map(|&c| i32::from(c)).sum());
                to[at..at + 4].copy_from_slice(&(128 * sum).to_ne_bytes());
                at += 4;
            }
        }
    }
    debug_assert_eq!(PANEL % s.height, 0);
    Ok(())
}

fn entries(s: Strips, inputs: &[u16]) -> usize {
    inputs.len().div_ceil(s.inputs()).next_multiple_of(s.unit())
}

/// Writes a strip's header and indices; returns where its values start.
fn header(s: Strips, inputs: &[u16], to: &mut [u8], at: usize) -> usize {
    let entries = entries(s, inputs);
    let turns = (entries / s.unit()) as u32;
    to[at..at + 4].copy_from_slice(&turns.to_ne_bytes());
    let bytes = s.index_bytes(entries);
    to[at + 4..at + 8].copy_from_slice(&(bytes as u32).to_ne_bytes());
    let at = at + Strips::HEADER;
    for (to, &j) in to[at..].chunks_exact_mut(2).zip(inputs) {
        to.copy_from_slice(&j.to_ne_bytes());
    }
    at + bytes
}

/// Strips as the panels that they would be if zeros were stored: f32, or 8-bit codes by row.
pub(crate) fn unpack_strips(p: &Panels, s: Strips, bytes: &[u8]) -> (Panels, PackedData) {
    let format = match s.values {
        StripValues::F32 => Format::F32,
        StripValues::Int8 { signed } => {
            let groups = Groups { len: p.input, size: p.input };
            Format::Integer(Integer { width: PackedWidth::Eight, groups, scale: Scale::F32, signed })
        }
    };
    let panels = Panels { format, ..*p };
    let mut out = PackedData::zeros(panels.bytes());
    let to = out.bytes_mut();
    // A panel is [inputs][32 lanes] of f32, or [quads][32 lanes][4] of codes and then its scales.
    let quads = p.input.next_multiple_of(QUAD);
    let panel_bytes = panels.bytes() / p.count().max(1);
    if let StripValues::Int8 { signed: false } = s.values {
        for panel in to.chunks_exact_mut(panel_bytes) {
            panel[..quads * PANEL].fill(128);
        }
    }
    let word =
        |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize;
    let mut at = 0;
    for panel in to.chunks_exact_mut(panel_bytes.max(1)) {
        for strip in 0..PANEL / s.height {
            let (entries, indices) = (word(at) * s.unit(), at + Strips::HEADER);
            let mut value = indices + word(at + 4);
            for entry in 0..entries {
                for lane in strip * s.height..(strip + 1) * s.height {
                    for k in 0..s.inputs() {
                        let index = indices + 2 * (entry * s.inputs() + k);
                        let j = usize::from(u16::from_ne_bytes([bytes[index], bytes[index + 1]]));
                        match s.values {
                            // Padding adds zero to input 0.
                            StripValues::F32 => {
                                let x = &bytes[value..value + 4];
                                if x != [0; 4] {
                                    panel[(j * PANEL + lane) * 4..][..4].copy_from_slice(x);
                                }
                                value += 4;
                            }
                            StripValues::Int8 { signed } => {
                                if bytes[value] != 0 {
                                    let raised = bytes[value].wrapping_add(if signed { 0 } else { 128 });
                                    panel[(j / QUAD * PANEL + lane) * QUAD + j % QUAD] = raised;
                                }
                                value += 1;
                            }
                        }
                    }
                }
            }
            at = value;
        }
        if let StripValues::Int8 { .. } = s.values {
            panel[quads * PANEL..].copy_from_slice(&bytes[at..at + PANEL * 4]);
            at += s.panel_bytes();
        }
    }
    (panels, out)
}
