//! Strips of sparse maps.

use crate::plan::{PANEL, Panels, QUAD, Strips, strip_inputs};
use lstmc_frontend::ir::{MapError, Quantized};

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

/// Four indices and `[height][4]` codes per entry, then each panel's scales, and unless `signed` what offset activations add to its sums.
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
                            // Dropped elements have code zero.
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
                // Dropped elements have code zero, as above.
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
