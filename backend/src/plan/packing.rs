//! How a weight is laid out in memory for the generated code: products read *panels* of 32 outputs, in a [`Format`].
//!
//! The [`RowOrder`] says which output a lane holds: plain order, or the gates of eight units, then those of the next eight.

use lstmc_frontend::ir::GateRows;
use lstmc_kernels::{Format, Groups, LANES, PANEL, Scale, StripValues, UNITS, gate_lanes};
use std::fmt;

/// Which row of a map each lane of its panels holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RowOrder {
    /// Row `32 p + l` in lane `l` of panel `p`.
    Plain,
    /// The rows are the gates of a cell's units, `[gates][units]`; the lanes of all panels are `[units / 8][gates][8]`. Each gate has rows.
    Gates(GateRows),
}

impl RowOrder {
    /// The row of a map of `out` rows that lane `lane` of panel `p` holds; `None` for padding.
    pub fn row(self, out: usize, p: usize, lane: usize) -> Option<usize> {
        match self {
            RowOrder::Plain => Some(p * PANEL + lane).filter(|&r| r < out),
            RowOrder::Gates(gates) => gate_row(gates, out / gates.count(), p * PANEL + lane),
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

/// The row that a lane holds; `None` for padding, and for a gate without rows.
pub(crate) fn gate_row(gates: GateRows, units: usize, lane: usize) -> Option<usize> {
    let part = lane / UNITS;
    let unit = part / gates.count() * UNITS + lane % UNITS;
    gates.block(part % gates.count()).filter(|_| unit < units).map(|block| block * units + unit)
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
    /// The number of panels; each is [`PANEL`] lanes wide.
    pub fn count(&self) -> usize {
        self.order.lanes(self.out).div_ceil(PANEL)
    }

    /// The total number of lanes of all panels.
    pub fn lanes(&self) -> usize {
        self.count() * PANEL
    }

    /// The row that each lane of panel `p` holds; `None` for padding.
    pub fn rows(&self, p: usize) -> Vec<Option<usize>> {
        (0..PANEL).map(|lane| self.order.row(self.out, p, lane)).collect()
    }

    /// Bytes from one panel to the next, if all have the same size.
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
    /// 8-bit codes `[rows][columns]`, padded to 16, then f32 scales `[rows][groups]`, at least 16 bytes of them: whole vectors are read
    /// even at the end of the last row.
    Codes {
        /// Columns per scale.
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
    /// An f32 vector padded with zero to whole panels.
    Vector {
        /// Elements.
        len: usize,
    },
    /// The factors of a map's columns, an f32 vector padded with zero to whole panels.
    Columns {
        /// Columns.
        len: usize,
    },
    /// The bias of a cell in the order of its panels' lanes, padded with zero.
    GateBias {
        /// Units.
        units: usize,
        /// The order of the gates in the graph; a gate without elements gets zeros.
        gates: GateRows,
    },
    /// A cell's own vectors, f32 `[count][units, padded to a panel]`.
    Parameters {
        /// The number of vectors.
        count: usize,
        /// Units.
        units: usize,
    },
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
            Packing::Vector { len } | Packing::Columns { len } => len.next_multiple_of(PANEL) * 4,
            Packing::GateBias { units, gates } => {
                gate_lanes(gates.count(), units).next_multiple_of(PANEL) * 4
            }
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
            Packing::Vector { len } | Packing::Columns { len } => {
                write!(f, "vector f32 [{}] of {len}", self.bytes() / 4)
            }
            Packing::GateBias { .. } => write!(f, "gate bias f32 [{}]", self.bytes() / 4),
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
    fn gates_share_a_panel() {
        let gates = Lstm::new(GateOrder::Ifgo).spec(false).input;
        let p = Panels { out: 40, input: 1, order: RowOrder::Gates(gates), format: Format::F32 };
        assert_eq!((p.count(), p.lanes()), (2, 64));
        let rows = p.rows(1);
        // Units 8 and 9 of gates input, output, forget, cell, which the graph keeps as input, forget, cell, output.
        assert_eq!(rows[..4], [Some(8), Some(9), None, None]);
        assert_eq!(rows[8..10], [Some(38), Some(39)]);
    }

    #[test]
    fn three_gates_of_eight_units_follow_one_another() {
        let gates = Lstm { coupled: true, ..Lstm::new(GateOrder::Iofc) }.spec(false).input;
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
