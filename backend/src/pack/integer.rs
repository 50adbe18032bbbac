//! Codes in panels and in rows.

use crate::plan::{Groups, Integer, PANEL, Panels, QUAD, Rows, Scale};
use half::f16;
use lstmc_frontend::ir::{MapError, Quantized};

/// `[out][input]` codes to `[out / 32] ( [quads][32 x 4 codes], scales [32] ) of each group`; see [`Integer`].
pub(super) fn panels(p: &Panels, i: Integer, q: &Quantized, to: &mut [u8]) -> Result<(), MapError> {
    let (codes, scales) = (q.codes().i8s()?, q.scales().to_f32()?);
    let (levels, groups) = (i.levels(), i.groups.count());
    let offset = i16::from(i.width.offset());
    let flip = if i.signed { 0x80 } else { 0 };
    let mut at = 0;
    for n in 0..p.count() {
        let rows = p.rows(n);
        for g in 0..groups {
            let first = g * i.groups.size;
            for quad in 0..i.groups.quads(g) {
                // Padding, in lanes or inputs, is code zero.
                for (lane, row) in rows.iter().enumerate() {
                    for k in 0..QUAD {
                        let input = quad * QUAD + k;
                        let code = match row {
                            Some(r) if input < i.groups.inputs(g) => codes[r * p.input + first + input],
                            _ => 0,
                        };
                        let (byte, level) = place(lane, levels);
                        let raised = (i16::from(code) + offset) as u8;
                        to[at + byte * QUAD + k] |= raised << (i.width.bits() * level);
                    }
                }
                for byte in &mut to[at..at + i.quad_bytes()] {
                    *byte ^= flip;
                }
                at += i.quad_bytes();
            }
            for (lane, row) in rows.iter().enumerate() {
                let scale = row.map_or(0.0, |r| scales[r * groups + g]);
                match i.scale {
                    Scale::F32 => to[at + lane * 4..][..4].copy_from_slice(&scale.to_ne_bytes()),
                    Scale::F16 => {
                        let scale = f16::from_f32(scale).to_bits();
                        to[at + lane * 2..][..2].copy_from_slice(&scale.to_ne_bytes());
                    }
                }
            }
            at += PANEL * i.scale.size();
        }
    }
    Ok(())
}

/// Which of a quad's byte positions a lane's codes are in, and at which level: vectors of four lanes alternate over the levels.
fn place(lane: usize, levels: usize) -> (usize, usize) {
    let (vector, within) = (lane / 4, lane % 4);
    (vector / levels * 4 + within, vector % levels)
}

/// Rows of codes, then the scales of all rows.
pub(super) fn rows(
    q: &Quantized,
    rows: usize,
    cols: usize,
    groups: Groups,
    to: &mut [u8],
) -> Result<(), MapError> {
    let (codes, scales) = (q.codes().i8s()?, q.scales().to_f32()?);
    to[..rows * cols].copy_from_slice(bytemuck::cast_slice(&codes[..rows * cols]));
    let at = Rows::code_bytes(rows, groups);
    for (to, scale) in to[at..].chunks_exact_mut(4).zip(scales.iter()) {
        to.copy_from_slice(&scale.to_ne_bytes());
    }
    Ok(())
}
