//! The plan in phases, for several threads: work for one thread, and panels that all threads share.

use super::{Cell, Format, PANEL, Plan, Product, Segment, Step};

/// Panels of a product below which sharing them costs more than it saves.
const FEW_PANELS: usize = 64;

/// A piece of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece {
    /// The whole step with this number.
    Step(usize),
    /// The preparation of the first state of this step's cell.
    Prologue(usize),
    /// The panels of this step: a cell's or a product's.
    Panels(usize),
    /// The new first state of this step's cell replaces the old one.
    Keep(usize),
    /// The preparation of the output layer's input.
    OutputPrologue,
    /// The panels of the output layer.
    Output,
}

/// Pieces between two barriers, at which all threads wait for each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Phase {
    /// The pieces, in order.
    pub pieces: Vec<Piece>,
    /// The number of shares of the only piece: panels, or groups of a cell's panels ([`Cell::share`]); `None` if one thread does everything.
    pub panels: Option<usize>,
}

impl Plan {
    /// The phases of a step that writes all logits.
    pub fn phases(&self) -> Vec<Phase> {
        let mut phases = vec![];
        let mut alone = vec![];
        let share = |alone: &mut Vec<Piece>, phases: &mut Vec<Phase>, piece: Piece, panels: usize| {
            if !alone.is_empty() {
                phases.push(Phase { pieces: std::mem::take(alone), panels: None });
            }
            phases.push(Phase { pieces: vec![piece], panels: Some(panels) });
        };
        for (n, step) in self.steps.iter().enumerate() {
            match step {
                Step::Cell(cell) => {
                    alone.push(Piece::Prologue(n));
                    match self.cell_panels(cell) {
                        Some(panels) => share(&mut alone, &mut phases, Piece::Panels(n), panels),
                        None => alone.push(Piece::Panels(n)),
                    }
                    alone.push(Piece::Keep(n));
                }
                Step::Product { product, .. } => match self.product_panels(product) {
                    Some(panels) => share(&mut alone, &mut phases, Piece::Panels(n), panels),
                    None => alone.push(Piece::Step(n)),
                },
                _ => alone.push(Piece::Step(n)),
            }
        }
        alone.push(Piece::OutputPrologue);
        match self.product_panels(&self.output.product) {
            Some(panels) => share(&mut alone, &mut phases, Piece::Output, panels),
            None => alone.push(Piece::Output),
        }
        if !alone.is_empty() {
            phases.push(Phase { pieces: alone, panels: None });
        }
        phases
    }

    /// The shares of a cell, if each can be located without the one before.
    fn cell_panels(&self, cell: &Cell) -> Option<usize> {
        let all = cell.inputs.iter().chain(&cell.recurrent);
        let [panels, _] = cell.share();
        self.addressable(all).then_some((cell.lanes() / PANEL).div_ceil(panels))
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
