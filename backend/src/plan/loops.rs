//! Steps that cannot run for many time steps at once.

use super::{Buffer, Cell, Output, Plan, Step, Vector};
use std::ops::Range;

/// Steps that must run together, once for each time step: a cell, after the preparation of its first state, with the [`Step::Delay`] of that state;
/// or a recurrent group of the program. What it reads from outside, and what is read of it outside, are not codes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loop {
    /// Positions in [`Plan::steps`].
    pub steps: Range<usize>,
    /// Whether it is a cell.
    pub is_cell: bool,
    /// What it reads of scratch that is filled outside.
    pub reads: Vec<Buffer>,
    /// What it fills that is read outside.
    pub writes: Vec<Buffer>,
    /// The states that steps in it read, in whole.
    pub states: Vec<Buffer>,
}

impl Loop {
    /// A loop over these steps, before [`Plan::connect`].
    pub(super) fn new(steps: Range<usize>, is_cell: bool) -> Loop {
        Loop { steps, is_cell, reads: vec![], writes: vec![], states: vec![] }
    }
}

impl Plan {
    /// The cell of a loop that is one, and the preparation of its first state.
    pub fn cell(&self, of: &Loop) -> Option<(&Cell, &[Step])> {
        match &self.steps[of.steps.clone()] {
            [prologue @ .., Step::Cell(cell), _] if of.is_cell => Some((cell, prologue)),
            _ => None,
        }
    }

    /// Finds what loops read and what is read of them.
    pub(super) fn connect(&mut self) {
        let scratch = |v: Vector| match v {
            Vector::Scratch(b) => Some(b),
            Vector::State(_) => None,
        };
        for n in 0..self.loops.len() {
            let range = self.loops[n].steps.clone();
            let inside = &self.steps[range.clone()];
            let made: Vec<Buffer> = inside.iter().filter_map(Step::out).collect();
            let reads = inside.iter().flat_map(Step::reads);
            let states: Vec<Buffer> =
                reads.clone().filter(|v| scratch(*v).is_none()).map(Vector::buffer).collect();
            let mut reads: Vec<Buffer> =
                reads.filter_map(scratch).filter(|b| !made.iter().any(|m| m.has(*b))).collect();
            reads.sort_by_key(|b| (b.offset, b.len));
            reads.dedup();
            let others = self.steps[..range.start].iter().chain(&self.steps[range.end..]);
            let mut outside: Vec<Buffer> =
                others.chain(&self.output.prologue).flat_map(Step::reads).filter_map(scratch).collect();
            match &self.output.result {
                Output::Product(p) => {
                    let step = Step::Product { product: p.clone(), out: self.logits };
                    outside.extend(step.reads().into_iter().filter_map(scratch));
                }
                Output::Buffer(b) => outside.push(*b),
            }
            let writes = made.into_iter().filter(|m| outside.iter().any(|b| m.has(*b))).collect();
            let slots = self.state.iter().map(|slot| Buffer { offset: slot.offset, len: slot.len });
            let states = slots.filter(|slot| states.iter().any(|s| slot.has(*s))).collect();
            let of = &mut self.loops[n];
            (of.reads, of.writes, of.states) = (reads, writes, states);
        }
    }
}
