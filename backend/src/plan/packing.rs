//! How a weight is laid out in memory for the generated code.
//!
//! Products read *panels* of 32 outputs, so that eight accumulators of four lanes hide the latency of the multiply-add:
//!
//! ```text
//!   f32       [out / 32] [in] [32] f32
//!   integer   [out / 32] ( [quads] [32 outputs x 4 inputs] , scales [32] ) of each group
//!   strips    [out / 32] [32 / height] ( counts, u16 indices, [entries] [height] values )
//! ```
//!
//! The last panel is padded. Which output a lane stands for is the [`RowOrder`]'s business: plain, or the gates of eight units, then those of
//! the next.

use crate::batch::{UNITS, gate_lanes};
use lstmc_frontend::ir::{GateRows, PackedWidth};
use std::fmt;

/// Output units per panel of a linear map: eight accumulators of four lanes.
pub const PANEL: usize = 32;

/// Lanes of a vector register in generated code.
pub const LANES: usize = 4;

/// Inputs that an integer dot product multiplies and adds in one lane.
pub const QUAD: usize = 4;

/// Which row of a map each lane of its panels holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RowOrder {
    /// Row `32 p + l` in lane `l` of panel `p`.
    Plain,
    /// The rows are the gates of a cell's units, `[gates][units]`; the lanes of all panels are `[units / 8][gates][8]`.
    Gates(GateRows),
}

impl RowOrder {
    /// The row of a map of `out` rows that lane `lane` of panel `p` holds; none for padding.
    pub fn row(self, out: usize, p: usize, lane: usize) -> Option<usize> {
        match self {
            RowOrder::Plain => Some(p * PANEL + lane).filter(|&r| r < out),
            RowOrder::Gates(gates) => {
                let (part, units) = ((p * PANEL + lane) / UNITS, out / gates.count());
                let unit = part / gates.count() * UNITS + lane % UNITS;
                (unit < units).then(|| gates.block(part % gates.count()) * units + unit)
            }
        }
    }

    /// The lanes of a map of `out` rows, before the padding of the last panel.
    pub fn lanes(self, out: usize) -> usize {
        match self {
            RowOrder::Plain => out,
            RowOrder::Gates(gates) => gate_lanes(gates.count(), out / gates.count()),
        }
    }
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
    pub fn size(self) -> usize {
        match self {
            Scale::F32 => 4,
            Scale::F16 => 2,
        }
    }
}

/// Inputs in groups, each padded to whole quads: the layout of integer activations and of the weights they meet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Groups {
    /// Inputs.
    pub len: usize,
    /// Inputs per group, the last may have fewer. At least 1.
    pub size: usize,
}

impl Groups {
    /// How many.
    pub fn count(self) -> usize {
        self.len.div_ceil(self.size)
    }

    /// Inputs of group `g`.
    pub fn inputs(self, g: usize) -> usize {
        self.size.min(self.len - g * self.size)
    }

    /// Quads of group `g`.
    pub fn quads(self, g: usize) -> usize {
        self.inputs(g).div_ceil(QUAD)
    }

    /// First byte of group `g` among the padded codes.
    pub fn offset(self, g: usize) -> usize {
        g * self.size.next_multiple_of(QUAD)
    }

    /// Bytes of all padded codes.
    pub fn padded(self) -> usize {
        match self.count() {
            0 => 0,
            n => self.offset(n - 1) + self.quads(n - 1) * QUAD,
        }
    }
}

/// Codes times integer activations.
///
/// A byte of the panel holds, from its low bits up, the codes of [`PackedWidth::per_byte`] outputs ("levels"), each raised by
/// [`PackedWidth::offset`] so that it is not negative. Masking off the low levels and subtracting sums of neighbouring levels separates them again
/// without a shift.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Integer {
    /// Of a code as packed.
    pub width: PackedWidth,
    /// Inputs by scale.
    pub groups: Groups,
    /// The scales' type.
    pub scale: Scale,
    /// Bytes are stored exclusive-or 0x80, for targets that multiply signed by signed.
    pub signed: bool,
}

impl Integer {
    /// Codes per byte.
    pub fn levels(self) -> usize {
        self.width.per_byte()
    }

    /// Bytes of one quad of a panel.
    pub fn quad_bytes(self) -> usize {
        PANEL * QUAD / self.levels()
    }

    fn panel_bytes(self) -> usize {
        (0..self.groups.count())
            .map(|g| self.groups.quads(g) * self.quad_bytes() + PANEL * self.scale.size())
            .sum()
    }

    /// What raises a code of level `l` and all above it, in units of the lowest level, less what the exclusive-or took.
    ///
    /// The sum of products of level `l` and above starts at minus this times the sum of the activations.
    pub fn raise(self, level: usize) -> i64 {
        let base = 1i64 << self.width.bits();
        let raised: i64 = (level..self.levels()).map(|i| base.pow(i as u32) * (base / 2)).sum();
        raised - if self.signed { 128 } else { 0 }
    }

    /// What keeps level `l` and all above it in a byte.
    pub fn mask(self, level: usize) -> u8 {
        u8::MAX << (self.width.bits() * level)
    }
}

/// Numbers of a sparse map.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum StripValues {
    /// One index and `height` f32s per entry.
    F32,
    /// Four indices and `[height][4]` 8-bit codes per entry; after each panel's strips an f32 scale per output, and where activations are raised
    /// what that adds to each output's sum.
    Int8 {
        /// As in [`Integer::signed`]. Where it is false, activations are raised by 128 instead of weights: what that adds to a sum is known
        /// when weights are packed.
        signed: bool,
    },
}

/// A sparse map: strips of `height` outputs that share the inputs they read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Strips {
    /// Outputs per strip: 4, 8, 16 or a whole panel's.
    pub height: usize,
    /// What is stored.
    pub values: StripValues,
    /// Bytes of all strips.
    pub bytes: usize,
}

impl Strips {
    /// Inputs per entry.
    pub fn inputs(self) -> usize {
        match self.values {
            StripValues::F32 => 1,
            StripValues::Int8 { .. } => QUAD,
        }
    }

    /// Entries are padded to a multiple of this: indices are loaded four at a time.
    pub fn unit(self) -> usize {
        QUAD / self.inputs()
    }

    /// Bytes of one entry's values.
    pub fn entry_bytes(self) -> usize {
        self.height * 4
    }

    /// Bytes after each panel's strips.
    pub fn panel_bytes(self) -> usize {
        match self.values {
            StripValues::F32 => 0,
            StripValues::Int8 { signed: true } => PANEL * 4,
            StripValues::Int8 { signed: false } => 2 * PANEL * 4,
        }
    }

    /// Bytes of a strip of `entries` (a multiple of [`Strips::unit`]): a header, indices, values.
    pub fn strip_bytes(self, entries: usize) -> usize {
        Strips::HEADER + self.index_bytes(entries) + entries * self.entry_bytes()
    }

    /// Bytes of the indices, padded so that the values are aligned.
    pub fn index_bytes(self, entries: usize) -> usize {
        (entries * self.inputs() * 2).next_multiple_of(16)
    }

    /// Bytes before the indices: entries / unit as u32, bytes of the indices as u32, padding.
    pub const HEADER: usize = 16;
}

/// How the numbers of panels are stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Format {
    /// f32.
    F32,
    /// Integer codes and scales.
    Integer(Integer),
    /// Only what a mask keeps.
    Strips(Strips),
}

/// A map of products, in panels.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Panels {
    /// Rows of the map.
    pub out: usize,
    /// Columns of the map.
    pub input: usize,
    /// Which row a lane holds.
    pub order: RowOrder,
    /// How numbers are stored.
    pub format: Format,
}

impl Panels {
    /// How many; every one is [`PANEL`] lanes wide.
    pub fn count(&self) -> usize {
        self.order.lanes(self.out).div_ceil(PANEL)
    }

    /// Lanes of all panels together.
    pub fn lanes(&self) -> usize {
        self.count() * PANEL
    }

    /// The row that each lane of panel `p` holds; none for padding.
    pub fn rows(&self, p: usize) -> Vec<Option<usize>> {
        (0..PANEL).map(|lane| self.order.row(self.out, p, lane)).collect()
    }

    /// Bytes from a panel to the next, where all have the same.
    pub fn panel_bytes(&self) -> Option<usize> {
        match self.format {
            Format::F32 => Some(self.input * PANEL * 4),
            Format::Integer(i) => Some(i.panel_bytes()),
            Format::Strips(_) => None,
        }
    }

    /// Bytes.
    pub fn bytes(&self) -> usize {
        match self.format {
            Format::F32 => self.lanes() * self.input * 4,
            Format::Integer(i) => self.count() * i.panel_bytes(),
            Format::Strips(s) => s.bytes,
        }
    }
}

impl fmt::Display for Panels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gates = match self.order {
            RowOrder::Plain => "",
            RowOrder::Gates(_) => "gate ",
        };
        let lanes = match self.order {
            RowOrder::Plain => format!("[{PANEL}]"),
            RowOrder::Gates(gates) if PANEL == gates.count() * UNITS => {
                format!("[{}][{UNITS}]", gates.count())
            }
            RowOrder::Gates(_) => format!("[{PANEL}]"),
        };
        match self.format {
            Format::F32 => write!(f, "{gates}panels f32 [{}][{}]{lanes}", self.count(), self.input),
            Format::Integer(i) => {
                let scale = if i.scale == Scale::F16 { "f16" } else { "f32" };
                let Groups { len, size } = i.groups;
                write!(f, "{gates}panels {} [{}][{len}]{lanes}, {scale} scale per ", i.width, self.count())?;
                if i.groups.count() == 1 { f.write_str("row") } else { write!(f, "{size} inputs") }
            }
            Format::Strips(s) => {
                let values = if s.values == StripValues::F32 { "f32" } else { "int8" };
                write!(f, "{gates}strips {values} [{}]{lanes} of {} outputs", self.count(), s.height)
            }
        }
    }
}

/// A table whose rows are read one at a time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Rows {
    /// Row-major f32.
    F32,
    /// 8-bit codes `[rows][columns]`, padded to 16, then f32 scales `[rows][groups]`, at least 16 bytes of them: whole vectors are read,
    /// also at the end of the last row.
    Codes {
        /// Columns by scale.
        groups: Groups,
    },
}

impl Rows {
    /// Bytes of all codes of a table of `rows`, which the scales follow.
    pub fn code_bytes(rows: usize, groups: Groups) -> usize {
        (rows * groups.len).next_multiple_of(16)
    }
}

/// How a weight is laid out for the generated code.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Packing {
    /// A table read by rows.
    Rows {
        /// Rows.
        rows: usize,
        /// Columns.
        cols: usize,
        /// How numbers are stored.
        format: Rows,
    },
    /// A map of products.
    Panels(Panels),
    /// The transpose of a map, in f32 panels `[cols / 32][rows][32]`: what a factor of an embedding is multiplied by.
    Transposed(Panels),
    /// A core of a table in tensor-train form, by output mode: f32 `[out mode][left rank][in mode * right rank, padded to 4]`.
    Core {
        /// Output modes: each token selects one.
        modes: usize,
        /// Left rank.
        rank: usize,
        /// Input mode times right rank.
        width: usize,
    },
    /// An f32 vector padded with `fill` to whole panels.
    Vector {
        /// Elements.
        len: usize,
        /// What the padding holds.
        fill: Fill,
    },
    /// The bias of a cell in the order of its panels' lanes, padded with zero.
    GateBias {
        /// Units.
        units: usize,
        /// Where the gates are in the graph.
        gates: GateRows,
    },
    /// One f32 eight times.
    Scalar,
    /// A cell's own vectors, f32 `[count][units, padded to a panel]`.
    Parameters {
        /// Vectors.
        count: usize,
        /// Units.
        units: usize,
    },
}

/// What pads a vector.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fill {
    /// Zero: padded lanes compute zero.
    Zero,
    /// A number so low that a padded logit never counts in a softmax.
    Low,
}

impl Fill {
    /// The value. `Low` is finite: the difference of two infinities would be NaN.
    pub fn value(self) -> f32 {
        match self {
            Fill::Zero => 0.0,
            Fill::Low => -1e30,
        }
    }
}

impl Packing {
    /// Bytes.
    pub fn bytes(&self) -> usize {
        match *self {
            Packing::Rows { rows, cols, format: Rows::F32 } => rows * cols * 4,
            Packing::Rows { rows, format: Rows::Codes { groups }, .. } => {
                Rows::code_bytes(rows, groups) + (rows * groups.count() * 4).max(16)
            }
            Packing::Panels(p) | Packing::Transposed(p) => p.bytes(),
            Packing::Core { modes, rank, width } => modes * rank * width.next_multiple_of(LANES) * 4,
            Packing::Vector { len, .. } => len.next_multiple_of(PANEL) * 4,
            Packing::GateBias { units, gates } => {
                gate_lanes(gates.count(), units).next_multiple_of(PANEL) * 4
            }
            Packing::Scalar => UNITS * 4,
            Packing::Parameters { count, units } => count * units.next_multiple_of(PANEL) * 4,
        }
    }

    /// Bytes that one step reads.
    pub fn bytes_per_token(&self) -> usize {
        match *self {
            Packing::Rows { cols, format: Rows::F32, .. } => cols * 4,
            Packing::Rows { format: Rows::Codes { groups }, .. } => groups.len + groups.count() * 4,
            Packing::Core { modes, .. } => self.bytes() / modes.max(1),
            _ => self.bytes(),
        }
    }
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Packing::Rows { rows, cols, format: Rows::F32 } => write!(f, "rows f32 [{rows}][{cols}]"),
            Packing::Rows { rows, cols, format: Rows::Codes { groups } } => {
                write!(f, "rows int8 [{rows}][{cols}], f32 scale per ")?;
                if groups.count() == 1 { f.write_str("row") } else { write!(f, "{} columns", groups.size) }
            }
            Packing::Panels(p) => p.fmt(f),
            Packing::Transposed(p) => write!(f, "transposed {p}"),
            Packing::Core { modes, rank, width } => write!(f, "core f32 [{modes}][{rank}][{width}]"),
            Packing::Vector { len, fill } => {
                write!(f, "vector f32 [{}] of {len}", self.bytes() / 4)?;
                if *fill == Fill::Low { f.write_str(", padded low") } else { Ok(()) }
            }
            Packing::GateBias { .. } => write!(f, "gate bias f32 [{}]", self.bytes() / 4),
            Packing::Scalar => f.write_str("scalar f32"),
            Packing::Parameters { count, .. } => {
                write!(f, "vectors f32 [{count}][{}]", self.bytes() / 4 / count.max(&1))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lstmc_frontend::ir::{GateOrder, Lstm};

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
        assert_eq!((g.count(), g.inputs(2), g.quads(0), g.offset(2), g.padded()), (3, 1, 2, 16, 20));
    }

    #[test]
    fn gates_share_a_panel() {
        let gates = Lstm::new(GateOrder::Ifgo).spec(false).gates;
        let p = Panels { out: 40, input: 1, order: RowOrder::Gates(gates), format: Format::F32 };
        assert_eq!((p.count(), p.lanes()), (2, 64));
        let rows = p.rows(1);
        // Units 8 and 9 of gates input, output, forget, cell, which the graph keeps as input, forget, cell, output.
        assert_eq!(rows[..4], [Some(8), Some(9), None, None]);
        assert_eq!(rows[8..10], [Some(38), Some(39)]);
    }

    #[test]
    fn three_gates_of_eight_units_follow_one_another() {
        let gates = Lstm { coupled: true, ..Lstm::new(GateOrder::Iofc) }.spec(false).gates;
        let p = Panels { out: 3 * 10, input: 1, order: RowOrder::Gates(gates), format: Format::F32 };
        assert_eq!((p.count(), p.lanes()), (2, 64));
        // Input, output and cell gates of units 0 to 7, then of 8 and 9.
        let rows: Vec<_> = (0..2).flat_map(|n| p.rows(n)).collect();
        assert_eq!(rows[..8], [0, 1, 2, 3, 4, 5, 6, 7].map(Some));
        assert_eq!(rows[16..18], [Some(20), Some(21)]);
        assert_eq!(rows[24..27], [Some(8), Some(9), None]);
        assert_eq!(rows[40..43], [Some(28), Some(29), None]);
        assert!(rows[48..].iter().all(Option::is_none));
    }
}
