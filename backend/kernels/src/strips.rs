//! Strips of sparse maps, expanded for the batched kernels: a batch reads a weight once for many steps, and is faster on stored zeros than on
//! entries with indices.
#![deny(unsafe_code)]

use crate::{Format, Groups, Integer, PANEL, PackedData, QUAD, Scale, StripValues, Strips};
use lstmc_frontend::ir::PackedWidth;

impl Strips {
    /// The packed `bytes` of `panels` panels of `input` inputs as the panels that would result if zeros were stored: f32, or 8-bit codes by row.
    pub fn expand(self, [panels, input]: [usize; 2], bytes: &[u8]) -> (Format, PackedData) {
        let format = match self.values {
            StripValues::F32 => Format::F32,
            StripValues::Int8 { signed } => {
                let groups = Groups::one(input);
                Format::Integer(Integer { width: PackedWidth::Eight, groups, scale: Scale::F32, signed })
            }
        };
        let panel_bytes = format.panel_bytes(input).expect("such panels have one length");
        let mut out = PackedData::zeros(panels * panel_bytes);
        let to = out.bytes_mut();
        // A panel is [inputs][32 lanes] of f32, or [quads][32 lanes][4] of codes followed by its scales.
        let quads = input.next_multiple_of(QUAD);
        if let StripValues::Int8 { signed: false } = self.values {
            for panel in to.chunks_exact_mut(panel_bytes) {
                panel[..quads * PANEL].fill(128);
            }
        }
        let word =
            |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize;
        let mut at = 0;
        for panel in to.chunks_exact_mut(panel_bytes.max(1)) {
            for strip in 0..PANEL / self.height {
                let (entries, indices) = (word(at) * self.unit(), at + Strips::HEADER);
                let mut value = indices + word(at + 4);
                for entry in 0..entries {
                    for lane in strip * self.height..(strip + 1) * self.height {
                        for k in 0..self.inputs() {
                            let index = indices + 2 * (entry * self.inputs() + k);
                            let j = usize::from(u16::from_ne_bytes([bytes[index], bytes[index + 1]]));
                            match self.values {
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
            if let StripValues::Int8 { .. } = self.values {
                panel[quads * PANEL..].copy_from_slice(&bytes[at..at + PANEL * 4]);
                at += self.panel_bytes();
            }
        }
        (format, out)
    }
}
