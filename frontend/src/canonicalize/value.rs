//! Abstract values: arrays whose elements are constants or references to the elements of steps.

use super::constant::Constant;
use super::draft::{Draft, SlotId};
use crate::tensor::{DType, Tensor};
use std::rc::Rc;

/// The knowledge about a generic value.
#[derive(Clone, Debug)]
pub(super) enum Abstract {
    /// A weight, or a result computed from weights.
    Constant(Constant),
    /// Elements that depend on the inputs.
    Array(Array),
    /// A value that has no abstract form; an error if it is needed.
    Poison(Rc<Reason>),
}

/// Why a value has no abstract form.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Reason {
    /// The node.
    pub(super) node: String,
    pub(super) why: Why,
}

/// What is wrong at a node.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Why {
    /// An operator that is not known, by name.
    Operator(String),
    /// A layer that reads future words, by its direction.
    NotCausal(&'static str),
    /// Axes, time steps or streams that do not fit each other: a sign of wrong sizes.
    Order(String),
    /// Something that cannot be expressed.
    Other(String),
    /// Something at another node.
    At(Rc<Reason>),
}

impl Abstract {
    pub(super) fn poison(node: &str, why: Why) -> Abstract {
        Abstract::Poison(match why {
            Why::At(reason) => reason,
            why => Rc::new(Reason { node: node.to_string(), why }),
        })
    }
}

/// Codes of elements, `i64` of any shape.
#[derive(Clone, Debug)]
pub(super) struct Array {
    pub(super) codes: Tensor,
    /// The dtype of the values that the codes stand for.
    pub(super) dtype: DType,
    /// The values are quantized here; the codes stand for what they were before.
    pub(super) is_quantized: bool,
}

impl Array {
    pub(super) fn new(codes: Tensor, dtype: DType) -> Array {
        Array { codes, dtype, is_quantized: false }
    }

    pub(super) fn shape(&self) -> &[usize] {
        self.codes.shape()
    }

    pub(super) fn codes(&self) -> &[i64] {
        self.codes.i64s().expect("codes are i64")
    }
}

/// One element: a constant, or an element of a step's result at one position (time step and stream) of the tokens.
///
/// ```text
///   constant    -1 - bits of the f32
///   reference   slot << 44 | position << 32 | feature
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct Code(pub(super) i64);

const FEATURE_BITS: u32 = 32;
const POSITION_BITS: u32 = 12;

/// The maximum number of positions: of tokens whose number is fixed in the model.
pub(super) const MOST_POSITIONS: usize = ANY;

/// The position of what is the same at all of them, such as an input without streams.
pub(super) const ANY: usize = (1 << POSITION_BITS) - 1;

impl Code {
    pub(super) fn constant(x: f32) -> Code {
        Code(-1 - i64::from(x.to_bits()))
    }

    pub(super) fn reference(slot: SlotId, position: usize, feature: usize) -> Code {
        Code(
            (slot.0 as i64) << (FEATURE_BITS + POSITION_BITS)
                | (position as i64) << FEATURE_BITS
                | feature as i64,
        )
    }

    pub(super) fn as_constant(self) -> Option<f32> {
        (self.0 < 0).then(|| f32::from_bits((-1 - self.0) as u32))
    }

    pub(super) fn slot(self) -> Option<SlotId> {
        (self.0 >= 0).then_some(SlotId((self.0 >> (FEATURE_BITS + POSITION_BITS)) as usize))
    }

    /// The position; none of a constant, or of what is the same at all.
    pub(super) fn position(self) -> Option<usize> {
        let position = (self.0 >> FEATURE_BITS) as usize & ANY;
        (self.0 >= 0 && position != ANY).then_some(position)
    }

    pub(super) fn feature(self) -> usize {
        (self.0 & ((1 << FEATURE_BITS) - 1)) as usize
    }

    /// The element without its position.
    pub(super) fn anywhere(self) -> Code {
        if self.0 < 0 { self } else { Code(self.0 & !((ANY as i64) << FEATURE_BITS)) }
    }

    /// The element at a position.
    pub(super) fn at(self, position: usize) -> Code {
        if self.0 < 0 { self } else { Code(self.anywhere().0 | (position as i64) << FEATURE_BITS) }
    }
}

/// A vector that a step reads at its own position: codes without positions.
pub(super) type Row = Rc<[Code]>;

/// A run of consecutive elements of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Run {
    /// Features `from..from + len` of a slot.
    Slot { slot: SlotId, from: usize, len: usize },
    /// Constants.
    Constants { len: usize },
}

impl Run {
    pub(super) fn len(self) -> usize {
        match self {
            Run::Slot { len, .. } | Run::Constants { len } => len,
        }
    }
}

/// The row as runs.
pub(super) fn runs(row: &[Code]) -> Vec<Run> {
    let mut runs: Vec<Run> = vec![];
    for &code in row {
        match (runs.last_mut(), code.slot()) {
            (Some(Run::Slot { slot, from, len }), Some(s))
                if s == *slot && code.feature() == *from + *len =>
            {
                *len += 1;
            }
            (Some(Run::Constants { len }), None) => *len += 1,
            (_, Some(slot)) => runs.push(Run::Slot { slot, from: code.feature(), len: 1 }),
            (_, None) => runs.push(Run::Constants { len: 1 }),
        }
    }
    runs
}

/// The slot that the row is, whole and in order.
pub(super) fn whole(row: &[Code], draft: &Draft) -> Option<SlotId> {
    match runs(row)[..] {
        [Run::Slot { slot, from: 0, len }] if len == draft.width(slot) => Some(slot),
        _ => None,
    }
}

/// The row's elements, if all are constants.
pub(super) fn constants(row: &[Code]) -> Option<Vec<f32>> {
    row.iter().map(|c| c.as_constant()).collect()
}
