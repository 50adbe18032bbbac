//! The layout of packed weights in memory. Generated code and the batched kernels read the same bytes.
//!
//! ```text
//!   f32       [out / 32] [in] [32] f32
//!   integer   [out / 32] ( [quads] [32 outputs x 4 inputs] , scales [32] ) of each group
//!   strips    [out / 32] [32 / height] ( counts, u16 indices, [entries] [height] values )
//! ```
//!
//! A *panel* has 32 outputs, so that eight accumulators of four lanes hide the latency of the multiply-add; the last one is padded. A *quad* is
//! four inputs.
#![deny(unsafe_code)]

use lstmc_frontend::ir::PackedWidth;

/// Output units per panel of a linear map: eight accumulators of four lanes.
pub const PANEL: usize = 32;

/// Neighbouring units of a cell whose gates are consecutive.
pub const UNITS: usize = 8;

/// Lanes of a vector register in generated code.
pub const LANES: usize = 4;

/// Inputs that an integer dot product multiplies and adds in one lane.
pub const QUAD: usize = 4;

/// The number of lanes for the gates of a cell's units, `[units / 8][gates][8]`.
#[inline]
pub fn gate_lanes(gates: usize, units: usize) -> usize {
    units.checked_next_multiple_of(UNITS).unwrap_or(usize::MAX).saturating_mul(gates)
}

/// The type that scales are stored in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scale {
    /// Four bytes.
    F32,
    /// Two bytes, widened exactly when used.
    F16,
}

impl Scale {
    /// Bytes.
    #[inline]
    pub fn size(self) -> usize {
        match self {
            Scale::F32 => 4,
            Scale::F16 => 2,
        }
    }
}

/// Inputs in groups, each padded to whole quads: the layout of integer activations and of the weights that they are multiplied by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Groups {
    /// Inputs.
    pub len: usize,
    /// Inputs per group; the last group may have fewer. At least 1.
    pub size: usize,
}

impl Groups {
    /// All inputs in one group.
    #[inline]
    pub fn one(len: usize) -> Groups {
        Groups { len, size: len.max(1) }
    }

    /// The number of groups.
    #[inline]
    pub fn count(self) -> usize {
        self.len.div_ceil(self.size)
    }

    /// Inputs of group `g`.
    #[inline]
    pub fn inputs(self, g: usize) -> usize {
        self.size.min(self.len - g * self.size)
    }

    /// Quads of group `g`.
    #[inline]
    pub fn quads(self, g: usize) -> usize {
        self.inputs(g).div_ceil(QUAD)
    }

    /// Bytes of all codes, each group's padded to quads; `usize::MAX` if there are more.
    #[inline]
    pub fn padded(self) -> usize {
        let padded = |len: usize| len.checked_next_multiple_of(QUAD).unwrap_or(usize::MAX);
        (self.len / self.size).saturating_mul(padded(self.size)).saturating_add(padded(self.len % self.size))
    }
}

/// Codes times integer activations.
///
/// A byte of the panel holds, from its low bits upwards, the codes of [`PackedWidth::per_byte`] outputs ("levels"), each offset by
/// [`PackedWidth::offset`] so that it is non-negative. Masking off the low levels and subtracting sums of neighbouring levels separates them again
/// without a shift.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Integer {
    /// The width of a packed code.
    pub width: PackedWidth,
    /// Inputs per scale.
    pub groups: Groups,
    /// The scales' type.
    pub scale: Scale,
    /// Bytes are stored XOR 0x80, for targets that multiply signed by signed.
    pub signed: bool,
}

impl Integer {
    /// Codes per byte.
    #[inline]
    pub fn levels(self) -> usize {
        self.width.per_byte()
    }

    /// Bytes of one quad of a panel.
    #[inline]
    pub fn quad_bytes(self) -> usize {
        PANEL * QUAD / self.levels()
    }

    /// Bytes of a panel: every group's quads and scales; `usize::MAX` if there are more.
    #[inline]
    pub fn panel_bytes(self) -> usize {
        let scales = self.groups.count().saturating_mul(PANEL * self.scale.size());
        (self.groups.padded() / QUAD).saturating_mul(self.quad_bytes()).saturating_add(scales)
    }

    /// The offset of a code of level `l` and all above it, in units of the lowest level, minus the part that the XOR removed.
    ///
    /// The sum of products of level `l` and above starts at minus this times the sum of the activations.
    #[inline]
    pub fn raise(self, level: usize) -> i64 {
        let base = 1i64 << self.width.bits();
        let raised: i64 = (level..self.levels()).map(|i| base.pow(i as u32) * (base / 2)).sum();
        raised - if self.signed { 128 } else { 0 }
    }

    /// The offset of a code that is separated from its byte.
    #[inline]
    pub fn raise_apart(self) -> i64 {
        if self.width == PackedWidth::Eight { self.raise(0) } else { i64::from(self.width.offset()) }
    }

    /// The mask that keeps level `l` and all above it in a byte.
    #[inline]
    pub fn mask(self, level: usize) -> u8 {
        u8::MAX << (self.width.bits() * level)
    }
}

/// The values of a sparse map.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum StripValues {
    /// One index and `height` f32s per entry.
    F32,
    /// Four indices and `[height][4]` 8-bit codes per entry; after each panel's strips an f32 scale per output, and if activations are offset,
    /// what the offset adds to each output's sum.
    Int8 {
        /// As in [`Integer::signed`]. If it is false, activations are offset by 128 instead of weights: what that adds to a sum is known
        /// when weights are packed.
        signed: bool,
    },
}

/// A sparse map: strips of `height` outputs that share the inputs they read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Strips {
    /// Outputs per strip: 4, 8, 16 or a whole panel's.
    pub height: usize,
    /// The format of the values.
    pub values: StripValues,
    /// Bytes of all strips.
    pub bytes: usize,
}

impl Strips {
    /// Inputs per entry.
    #[inline]
    pub fn inputs(self) -> usize {
        match self.values {
            StripValues::F32 => 1,
            StripValues::Int8 { .. } => QUAD,
        }
    }

    /// Entries are padded to a multiple of this: indices are loaded four at a time.
    #[inline]
    pub fn unit(self) -> usize {
        QUAD / self.inputs()
    }

    /// Bytes of one entry's values.
    #[inline]
    pub fn entry_bytes(self) -> usize {
        self.height * 4
    }

    /// Bytes after each panel's strips.
    #[inline]
    pub fn panel_bytes(self) -> usize {
        match self.values {
            StripValues::F32 => 0,
            StripValues::Int8 { signed: true } => PANEL * 4,
            StripValues::Int8 { signed: false } => 2 * PANEL * 4,
        }
    }

    /// Bytes of a strip of `entries` (a multiple of [`Strips::unit`]): a header, indices, values.
    #[inline]
    pub fn strip_bytes(self, entries: usize) -> usize {
        Strips::HEADER + self.index_bytes(entries) + entries * self.entry_bytes()
    }

    /// Bytes of the indices, padded so that the values are aligned.
    #[inline]
    pub fn index_bytes(self, entries: usize) -> usize {
        (entries * self.inputs() * 2).next_multiple_of(16)
    }

    /// Bytes before the indices: entries / unit as u32, bytes of the indices as u32, padding.
    pub const HEADER: usize = 16;
}

/// The format of panels.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Format {
    /// f32.
    F32,
    /// Integer codes and scales.
    Integer(Integer),
    /// Only the elements that a mask keeps.
    Strips(Strips),
}

impl Format {
    /// Bytes from one panel with this many inputs to the next, if all have the same size.
    #[inline]
    pub fn panel_bytes(self, input: usize) -> Option<usize> {
        match self {
            Format::F32 => Some(input * PANEL * 4),
            Format::Integer(i) => Some(i.panel_bytes()),
            Format::Strips(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_separated_by_masks_and_differences() {
        // Two codes -3 and 5 in one byte times an activation of 7.
        for signed in [false, true] {
            let groups = Groups { len: 4, size: 4 };
            let i = Integer { width: PackedWidth::Four, groups, scale: Scale::F32, signed };
            let byte = ((-3i32 + 8) | (5 + 8) << 4) as u8;
            let stored = if signed { byte ^ 0x80 } else { byte };
            let sum = |level: usize| {
                let masked = stored & i.mask(level);
                let factor = if signed { i32::from(masked as i8) } else { i32::from(masked) };
                i64::from(factor * 7) - i.raise(level) * 7
            };
            assert_eq!((sum(0) - sum(1), sum(1)), (-3 * 7, 16 * 5 * 7));
        }
    }

    #[test]
    fn groups_are_padded_to_quads() {
        let g = Groups { len: 13, size: 6 };
        assert_eq!((g.count(), g.inputs(2), g.quads(0), g.padded()), (3, 1, 2, 20));
    }
}
