//! Abstract values: the knowledge about a generic value.

use super::draft::StepId;
use super::layout::Layout;
use crate::ir::ValueId;
use crate::tensor::Tensor;

/// The knowledge about a generic value.
#[derive(Clone, Debug)]
pub(super) enum Abstract {
    /// A weight, or a result computed from weights.
    Constant(Tensor),
    /// Shape arithmetic: the generic graph knows the elements.
    Integers,
    /// All zero, of a shape known only when the model runs.
    Zeros,
    /// The model's input.
    Tokens(Layout),
    /// The result of a canonical step.
    Sequence(Sequence),
    /// A part of a state input.
    State(StateSlice),
    /// States after the last step.
    Finals(Finals),
    /// Something that language models do not need; an error if it is used.
    Other(String),
}

/// The result of a step, under some layout.
#[derive(Clone, Debug)]
pub(super) struct Sequence {
    pub(super) step: StepId,
    pub(super) layout: Layout,
    pub(super) features: usize,
    /// Only the last time step.
    pub(super) last: bool,
    /// A softmax was applied, which the canonical step does not have.
    pub(super) normalised: Option<&'static str>,
}

/// A part of a state input.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct StateSlice {
    pub(super) input: ValueId,
    /// Per axis of the input: first element and count (`None` means all).
    pub(super) ranges: Vec<(usize, Option<usize>)>,
    pub(super) layout: Layout,
}

impl StateSlice {
    /// Whether the two share an element.
    pub(super) fn overlaps(&self, other: &StateSlice) -> bool {
        let meets = |&(a, n): &(usize, Option<usize>), &(b, m): &(usize, Option<usize>)| {
            n.is_none_or(|n| b < a + n) && m.is_none_or(|m| a < b + m)
        };
        self.input == other.input && self.ranges.iter().zip(&other.ranges).all(|(a, b)| meets(a, b))
    }

    /// Its start, to order the parts of one input.
    pub(super) fn start(&self) -> Vec<usize> {
        self.ranges.iter().map(|r| r.0).collect()
    }
}

/// The two states of an LSTM.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Part {
    Hidden,
    Cell,
}

impl Part {
    pub(super) const ALL: [Part; 2] = [Part::Hidden, Part::Cell];

    pub(super) fn name(self) -> &'static str {
        match self {
            Part::Hidden => "hidden",
            Part::Cell => "cell",
        }
    }

    /// The letter in canonical names.
    pub(super) fn letter(self) -> &'static str {
        match self {
            Part::Hidden => "h",
            Part::Cell => "c",
        }
    }
}

/// One state after the last step, or several joined.
#[derive(Clone, Debug)]
pub(super) struct Finals {
    /// In order of position in memory.
    pub(super) parts: Vec<(StepId, Part)>,
    pub(super) layout: Layout,
}
