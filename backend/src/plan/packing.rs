//! How a weight is laid out in memory for the generated code: products read *panels* of 32 outputs, in a [`Format`].
//!
//! Which output a lane stands for is the [`RowOrder`]'s business: plain, or the four gates of eight units in one panel.

use lstmc_frontend::ir::GateOrder;
use lstmc_kernels::{Format, Groups, LANES, PACKED_GATES, PANEL, PANEL_UNITS, Scale, StripValues};
use std::fmt;

/// Which row of a map each lane of its panels holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RowOrder {
    /// Row `32 p + l` in lane `l` of panel `p`.
    Plain,
    /// The rows are the gates of LSTM units, in this order; a panel holds four gates of eight units.
    Gates(GateOrder),
}

impl RowOrder {
    /// The row of a map of `out` rows that lane `lane` of panel `p` holds; none for padding.
    pub fn row(self, out: usize, p: usize, lane: usize) -> Option<usize> {
        match self {
            RowOrder::Plain => Some(p * PANEL + lane).filter(|&r| r < out),
            RowOrder::Gates(order) => {
                let (unit, units) = (p * PANEL_UNITS + lane % PANEL_UNITS, out / 4);
                let gate = order.position(PACKED_GATES[lane / PANEL_UNITS]);
                (unit < units).then_some(gate * units + unit)
            }
        }
    }
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
        self.out.div_ceil(PANEL)
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
        self.format.panel_bytes(self.input)
    }

    /// Bytes.
    pub fn bytes(&self) -> usize {
        match self.format {
            Format::Strips(s) => s.bytes,
            Format::F32 | Format::Integer(_) => self.panel_bytes().map_or(0, |bytes| self.count() * bytes),
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
            RowOrder::Gates(_) => format!("[4][{PANEL_UNITS}]"),
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
        hidden: usize,
        /// The gates' order in the graph.
        order: GateOrder,
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
            Packing::GateBias { hidden, .. } => (4 * hidden).next_multiple_of(PANEL) * 4,
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_share_a_panel() {
        let p = Panels { out: 40, input: 1, order: RowOrder::Gates(GateOrder::Ifgo), format: Format::F32 };
        assert_eq!((p.count(), p.lanes()), (2, 64));
        let rows = p.rows(1);
        // Units 8 and 9 of gates input, output, forget, cell, which the graph keeps as input, forget, cell, output.
        assert_eq!(rows[..4], [Some(8), Some(9), None, None]);
        assert_eq!(rows[8..10], [Some(38), Some(39)]);
    }
}
