//! Strips of sparse maps.

use super::PackedData;
use crate::plan::{Format, Groups, Integer, PANEL, Panels, QUAD, Scale, StripValues, Strips, strip_inputs};
use lstmc_frontend::ir::{MapError, Quantized};

/// Columns of f32s.
pub(super) fn floats(p: &Panels, s: Strips, kept: &[bool], values: &[f32], to: &mut [u8]) {
    let mut at = 0;
    for n in 0..p.count() {
        let rows = p.rows(n);
        let strips = strip_inputs(kept, [p.out, p.input], p.order, s.height, n);
        let turns = Strips::turns(&strips);
        at = header(s, &strips, turns, to, at);
        for turn in 0..turns {
            for (inputs, rows) in strips.iter().zip(rows.chunks(s.height)) {
                for k in turn * QUAD..(turn + 1) * QUAD {
                    for row in rows {
                        if let (Some(r), Some(&j)) = (row, inputs.get(k)) {
                            let element = r * p.input + usize::from(j);
                            let value = if kept[element] { values[element] } else { 0.0 };
                            to[at..at + 4].copy_from_slice(&value.to_ne_bytes());
                        }
                        at += 4;
                    }
                }
            }
        }
    }
}

/// Quads of codes, then each panel's scales.
pub(super) fn integers(
    p: &Panels,
    s: Strips,
    signed: bool,
    kept: &[bool],
    q: &Quantized,
    to: &mut [u8],
) -> Result<(), MapError> {
    let (codes, scales) = (q.codes().i8s()?, q.scales().to_f32()?);
    let zero = zero(signed);
    let mut at = 0;
    for n in 0..p.count() {
        let rows = p.rows(n);
        let strips = strip_inputs(kept, [p.out, p.input], p.order, s.height, n);
        let turns = Strips::turns(&strips);
        at = header(s, &strips, turns, to, at);
        for turn in 0..turns {
            for (inputs, rows) in strips.iter().zip(rows.chunks(s.height)) {
                for row in rows {
                    for k in turn * QUAD..(turn + 1) * QUAD {
                        let code = match (row, inputs.get(k)) {
                            // What is not kept has code zero.
                            (Some(r), Some(&j)) => codes[r * p.input + usize::from(j)],
                            _ => 0,
                        };
                        to[at] = (code as u8).wrapping_add(zero);
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
    }
    Ok(())
}

/// The byte that stands for code zero.
fn zero(signed: bool) -> u8 {
    if signed { 0 } else { 128 }
}

/// Writes a panel's header and indices; returns where its values start.
fn header(s: Strips, strips: &[Vec<u16>], turns: usize, to: &mut [u8], at: usize) -> usize {
    to[at..at + 4].copy_from_slice(&(turns as u32).to_ne_bytes());
    let at = at + Strips::HEADER;
    for (n, inputs) in strips.iter().enumerate() {
        for (k, &j) in inputs.iter().enumerate() {
            let index = (k / QUAD * s.count() + n) * QUAD + k % QUAD;
            to[at + 2 * index..][..2].copy_from_slice(&j.to_ne_bytes());
        }
    }
    at + s.index_bytes(turns)
}

/// Strips as the panels that they would be if zeros were stored: f32, or 8-bit codes by row.
pub(crate) fn unpack_strips(p: &Panels, s: Strips, bytes: &[u8]) -> (Panels, PackedData) {
    let format = match s.values {
        StripValues::F32 => Format::F32,
        StripValues::Int8 { signed } => {
            let groups = Groups { len: p.input, size: p.input };
            Format::Integer(Integer { bits: 8, groups, scale: Scale::F32, signed })
        }
    };
    let panels = Panels { format, ..*p };
    let mut out = PackedData::zeros(panels.bytes());
    let to = out.bytes_mut();
    // A panel is [inputs][32 lanes] of f32, or [quads][32 lanes][4] of codes and then its scales.
    let quads = p.input.next_multiple_of(QUAD);
    let panel_bytes = (panels.bytes() / p.count().max(1)).max(1);
    let u16_at = |at: usize| usize::from(u16::from_ne_bytes([bytes[at], bytes[at + 1]]));
    let mut at = 0;
    for panel in to.chunks_exact_mut(panel_bytes) {
        let turns = u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize;
        let indices = at + Strips::HEADER;
        let values = indices + s.index_bytes(turns);
        if let StripValues::Int8 { signed } = s.values {
            panel[..quads * PANEL].fill(zero(signed));
        }
        for turn in 0..turns {
            for strip in 0..s.count() {
                let (index, value) =
                    (turn * s.count() + strip, values + (turn * s.count() + strip) * s.turn_bytes());
                for k in 0..QUAD {
                    let j = u16_at(indices + 2 * (index * QUAD + k));
                    for h in 0..s.height {
                        let lane = strip * s.height + h;
                        // Padding would put its zero over what input 0 has.
                        match s.values {
                            StripValues::F32 => {
                                let x = &bytes[value + (k * s.height + h) * 4..][..4];
                                if x != [0; 4] {
                                    panel[(j * PANEL + lane) * 4..][..4].copy_from_slice(x);
                                }
                            }
                            StripValues::Int8 { signed } => {
                                let code = bytes[value + h * QUAD + k];
                                if code != zero(signed) {
                                    panel[(j / QUAD * PANEL + lane) * QUAD + j % QUAD] = code;
                                }
                            }
                        }
                    }
                }
            }
        }
        at += s.panel_bytes(turns);
        if let StripValues::Int8 { .. } = s.values {
            panel[quads * PANEL..].copy_from_slice(&bytes[at - PANEL * 4..at]);
        }
    }
    (panels, out)
}
