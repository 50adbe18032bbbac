//! The plan in phases, for several threads: what one thread does alone, and panels that all share.

use super::{Cell, Format, PANEL, Plan, Product, Segment, Step};

/// Panels of a product below which sharing them costs more than it saves.
const FEW_PANELS: usize = 64;

/// A piece of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The whole step of this number.
    Step(usize),
    /// What the cell of this step does to its hidden state first.
    Prologue(usize),
    /// The panels of this step: a cell's or a product's.
    Panels(usize),
    /// The new hidden state of this step's cell replaces the old one.
    Keep(usize),
    /// What is done to the output layer's input first.
    OutputPrologue,
    /// The panels of the output layer.
    Output,
}

/// Parts between two moments at which all threads wait for each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Phase {
    /// The parts, in order.
    pub parts: Vec<Part>,
    /// How many panels the threads share, of the only part; none where one thread does all.
    pub panels: Option<usize>,
}

impl Plan {
    /// The phases of a step that writes all logits.
    pub fn phases(&self) -> Vec<Phase> {
        let mut phases = vec![];
        let mut alone = vec![];
        let share = |alone: &mut Vec<Part>, phases: &mut Vec<Phase>, part: Part, panels: usize| {
            if !alone.is_empty() {
                phases.push(Phase { parts: std::mem::take(alone), panels: None });
            }
            phases.push(Phase { parts: vec![part], panels: Some(panels) });
        };
        for (n, step) in self.steps.iter().enumerate() {
            match step {
                Step::Lstm(cell) => {
                    alone.push(Part::Prologue(n));
                    match self.cell_panels(cell) {
                        Some(panels) => share(&mut alone, &mut phases, Part::Panels(n), panels),
                        None => alone.push(Part::Panels(n)),
                    }
                    alone.push(Part::Keep(n));
                }
                Step::Product { product, .. } => match self.product_panels(product) {
                    Some(panels) => share(&mut alone, &mut phases, Part::Panels(n), panels),
                    None => alone.push(Part::Step(n)),
                },
                _ => alone.push(Part::Step(n)),
            }
        }
        alone.push(Part::OutputPrologue);
        match self.product_panels(&self.output.product) {
            Some(panels) => share(&mut alone, &mut phases, Part::Output, panels),
            None => alone.push(Part::Output),
        }
        if !alone.is_empty() {
            phases.push(Phase { parts: alone, panels: None });
        }
        phases
    }

    /// The panels of a cell, where each can be found without the one before.
    fn cell_panels(&self, cell: &Cell) -> Option<usize> {
        let all = cell.inputs.iter().chain(&cell.recurrent);
        self.addressable(all).then_some((4 * cell.h.len).div_ceil(PANEL))
    }

    fn product_panels(&self, p: &Product) -> Option<usize> {
        let panels = p.out.div_ceil(PANEL);
        (panels >= FEW_PANELS && self.addressable(p.segments.iter())).then_some(panels)
    }

    /// Strips have panels of any length.
    fn addressable<'a>(&self, mut segments: impl Iterator<Item = &'a Segment>) -> bool {
        segments.all(|s| !matches!(self.panels(s.weights).format, Format::Strips(_)))
    }
}
