//! The plan in phases, for several threads or streams: work for one thread, and panels that all threads share.

use super::{Cell, Format, Output, PANEL, Plan, Product, Segment, Step, UNITS};

/// Panels of a product below which sharing them costs more than it saves.
const FEW_PANELS: usize = 64;

/// A piece of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece {
    /// The whole of this one of [`Plan::all_steps`].
    Step(usize),
    /// Panels of that step, a cell or a product.
    Panels(usize),
    /// The output.
    Output,
}

/// Pieces between two barriers, at which all threads wait for each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Phase {
    /// The pieces, in order.
    pub pieces: Vec<Piece>,
    /// The number of shares of the only piece: panels, or groups of a cell's parts ([`Cell::share`]); `None` if one thread does everything.
    pub panels: Option<usize>,
    /// Bytes of weights that all shares read together; 0 without shares.
    pub bytes: usize,
}

impl Plan {
    /// The phases of a step that writes the whole output.
    pub fn phases(&self) -> Vec<Phase> {
        let panels = |step: &Step| match step {
            Step::Cell(cell) => self.cell_panels(cell),
            Step::Product { product, .. } => self.product_panels(product),
            _ => None,
        };
        let mut pieces: Vec<(Piece, Option<usize>)> = vec![];
        for (n, step) in self.all_steps().enumerate() {
            let panels = panels(step);
            pieces.push((if panels.is_some() { Piece::Panels(n) } else { Piece::Step(n) }, panels));
        }
        let panels = match &self.output.result {
            Output::Product(product) => self.product_panels(product),
            Output::Buffer(_) => None,
        };
        pieces.push((Piece::Output, panels));
        let of = |alone: &[(Piece, Option<usize>)]| Phase {
            pieces: alone.iter().map(|(piece, _)| *piece).collect(),
            panels: alone[0].1,
            bytes: alone[0].1.map_or(0, |_| self.shared_bytes(alone[0].0)),
        };
        let together = |a: &(Piece, Option<usize>), b: &(Piece, Option<usize>)| {
            a.1.is_none() && b.1.is_none() && self.is_of_output(a.0) == self.is_of_output(b.0)
        };
        pieces.chunk_by(together).map(of).collect()
    }

    /// Whether a piece computes the output, not the next state. All pieces of a phase do, or none.
    pub(crate) fn is_of_output(&self, piece: Piece) -> bool {
        match piece {
            Piece::Step(n) | Piece::Panels(n) => n >= self.steps.len(),
            Piece::Output => true,
        }
    }

    /// Bytes of the panels of a piece.
    fn shared_bytes(&self, piece: Piece) -> usize {
        let segments: Vec<&Segment> = match piece {
            Piece::Output => match &self.output.result {
                Output::Product(product) => product.segments.iter().collect(),
                Output::Buffer(_) => vec![],
            },
            Piece::Step(n) | Piece::Panels(n) => match self.all_steps().nth(n) {
                Some(Step::Cell(cell)) => cell.inputs.iter().chain(&cell.recurrent).collect(),
                Some(Step::Product { product, .. }) => product.segments.iter().collect(),
                _ => vec![],
            },
        };
        segments.iter().map(|s| self.packed(s.weights).packing.bytes()).sum()
    }

    /// The shares of a cell, if each can be located without the one before.
    fn cell_panels(&self, cell: &Cell) -> Option<usize> {
        let all = cell.inputs.iter().chain(&cell.recurrent);
        self.addressable(all).then_some(cell.units.div_ceil(cell.share() * UNITS))
    }

    fn product_panels(&self, p: &Product) -> Option<usize> {
        let panels = p.out.div_ceil(PANEL);
        (panels >= FEW_PANELS && self.addressable(p.segments.iter())).then_some(panels)
    }

    /// With strips, panels differ in length.
    fn addressable<'a>(&self, mut segments: impl Iterator<Item = &'a Segment>) -> bool {
        segments.all(|s| !matches!(self.panels(s.weights).format, Format::Strips(_)))
    }
}
