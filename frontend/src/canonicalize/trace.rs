//! Where the elements of a generic graph's inputs and outputs are in the canonical one, for given shapes of the inputs.

use super::draft::{Kind, SlotId};
use super::error::CanonicalizeError;
use super::outputs::{self, Found};
use super::{Canonical, evaluate};
use crate::ir::{Graph, OutputRole, ValueId};
use std::collections::BTreeMap;

/// Where the elements of inputs and of the output are.
#[derive(Clone, PartialEq, Debug)]
pub struct Trace {
    /// Time steps.
    pub steps: usize,
    /// Streams.
    pub streams: usize,
    /// The input that is the tokens.
    pub tokens: String,
    /// The elements of a one-hot vector, along the last axis of the tokens; `None` if tokens are numbers.
    pub one_hot: Option<usize>,
    /// For each token in order, its time step and its stream.
    pub places: Vec<[usize; 2]>,
    /// For each state input, its elements in order.
    pub states: Vec<(String, Vec<Option<StateElement>>)>,
    /// The output that became the canonical one, and the time step, stream and feature of each of its elements; `None` if what became the canonical
    /// output is inside the model.
    pub output: Option<(String, Vec<[usize; 3]>)>,
    /// Whether the output is the negative of log-probabilities.
    pub negated: bool,
}

/// An element of a state before the first step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateElement {
    /// The canonical state.
    pub state: String,
    /// The stream.
    pub stream: usize,
    /// The unit.
    pub unit: usize,
}

/// The places for inputs of these shapes, by name; every input must have one.
pub fn trace(
    graph: &Graph,
    canonical: &Canonical,
    shapes: &BTreeMap<ValueId, Vec<usize>>,
) -> Result<Trace, CanonicalizeError> {
    let sizes = canonical.sizes.at(shapes.clone());
    let found = outputs::find(evaluate::Evaluator::evaluated(graph, &sizes))?;
    let starts = starts(&found);
    let (steps, streams) = (sizes.steps, sizes.streams);
    let mut states = vec![];
    for (&input, shape) in shapes.iter().filter(|(v, _)| **v != sizes.tokens) {
        let axis = sizes.streams_axis(input);
        let element = |index: usize| {
            let (mut rest, mut feature, mut scale, mut stream) = (index, 0, 1, 0);
            for (k, &d) in shape.iter().enumerate().rev() {
                let i = rest % d;
                rest /= d;
                if Some(k) == axis {
                    stream = i;
                } else {
                    feature += i * scale;
                    scale *= d;
                }
            }
            let (state, unit) = starts.get(&(input, feature))?.clone();
            Some(StateElement { state, stream, unit })
        };
        let elements: Vec<_> = (0..shape.iter().product()).map(element).collect();
        if elements.iter().any(Option::is_some) {
            states.push((graph.name_of(input).to_string(), elements));
        }
    }
    let output = found.output.map(|(k, elements)| {
        let name = match &graph.outputs()[k].role {
            OutputRole::Named(n) => n.clone(),
            OutputRole::State(s) => graph.name_of(*s).to_string(),
        };
        (name, elements.into_iter().map(|(p, f)| [p / streams, p % streams, f]).collect())
    });
    Ok(Trace {
        steps,
        streams,
        tokens: graph.name_of(sizes.tokens).to_string(),
        one_hot: sizes.one_hot.then(|| sizes.shape(sizes.tokens).last().copied().unwrap_or(1)),
        places: sizes.places(),
        states,
        output,
        negated: found.negated,
    })
}

/// The canonical state and unit that each element of an input is, by its place among those of one stream.
fn starts(found: &Found) -> BTreeMap<(ValueId, usize), (String, usize)> {
    let mut starts = BTreeMap::new();
    let draft = &found.draft;
    let mut roots = vec![found.row.clone()];
    roots.extend(found.stepwise.iter().map(|s| s.next.clone()));
    let input = |slot: SlotId| match draft.kind(slot) {
        Kind::Input(v) => Some(*v),
        _ => None,
    };
    let mut cells = 0;
    for id in draft.live(&roots) {
        let Kind::Cell(cell) = &draft.step(id).kind else { continue };
        for (letter, initial) in cell.op.states().iter().zip(&cell.initial) {
            for (unit, code) in initial.iter().enumerate() {
                if let Some(v) = code.slot().and_then(input) {
                    starts.insert((v, code.feature()), (format!("{letter}{cells}"), unit));
                }
            }
        }
        cells += 1;
    }
    for (k, s) in found.stepwise.iter().enumerate() {
        for (unit, code) in s.initial.iter().enumerate() {
            if let Some(v) = code.slot().and_then(input) {
                starts.insert((v, code.feature()), (format!("s{k}"), unit));
            }
        }
    }
    starts
}
