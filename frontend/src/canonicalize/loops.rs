//! Loops over the time steps: Scan and Loop, and nodes that are repeated for each step.
//!
//! ```text
//!   h = 0
//!   for t:  h = tanh(W x[t] + U h);  y[t] = h        state: its slot is read at position t, it starts at 0, and what comes next is the tanh
//! ```
//!
//! The body is evaluated for each step. What it computes with and carries on is a *state* with a slot of its own, and an iteration reads the slot at its own
//! time step; so all that it computes is at one position, as anywhere else. That is right if what it carries on is the same function of every position, which
//! is checked. Other values that are carried, such as a counter or the outputs so far, are known or only moved, and stay what they are.

use super::arithmetic::axis_of;
use super::constant::wrong;
use super::draft::{Kind, SlotId};
use super::evaluate::{
    Evaluator, MOST_ELEMENTS, Result, Site, constant_or_array, encode, evaluate_one, other, tensor,
};
use super::states::Stepwise;
use super::value::{Abstract, Array, Code, MOST_POSITIONS, Row, Why};
use crate::ir::{Graph, Loop, Op, Scan};
use crate::tensor::Tensor;

/// Iterations of all loops of a model together.
const MOST_ITERATIONS: usize = 1 << 16;

/// A state that a loop carries.
#[derive(Clone)]
pub(super) struct Carried {
    pub(super) slot: SlotId,
    initial: Row,
    /// As which array it is read.
    like: Array,
    /// The stream and the feature of each element.
    places: Vec<[usize; 2]>,
}

/// What one iteration makes.
struct Turn {
    carried: Vec<Abstract>,
    stacked: Vec<Abstract>,
    goes_on: bool,
}

/// What a loop makes.
struct Turns {
    /// After each iteration.
    carried: Vec<Vec<Abstract>>,
    /// In each iteration.
    stacked: Vec<Vec<Abstract>>,
}

/// One iteration: its number, and what is carried to it.
type Body<'a, 'g> = dyn FnMut(&mut Evaluator<'g>, usize, Vec<Abstract>) -> Result<Turn> + 'a;

impl Carried {
    /// What is read at a time step.
    pub(super) fn at(&self, step: usize, streams: usize) -> Result<Abstract> {
        let code =
            |&[stream, feature]: &[usize; 2]| Code::reference(self.slot, step * streams + stream, feature).0;
        let codes = tensor(self.like.shape(), self.places.iter().map(code).collect())?;
        Ok(Abstract::Array(Array { codes, ..self.like }))
    }

    /// The state, by its value after each step.
    pub(super) fn finish<'a>(
        &self,
        nexts: impl Iterator<Item = &'a Abstract>,
        streams: usize,
    ) -> Result<Stepwise> {
        let mut row: Vec<Option<Code>> = vec![None; self.initial.len()];
        for (step, next) in nexts.enumerate() {
            let next = array(next)?;
            if next.shape() != self.like.shape() || next.is_quantized != self.like.is_quantized {
                let found = format!("{:?} before a step and {:?} after it", self.like.shape(), next.shape());
                return Err(Why::Order(format!(
                    "what it carries to the next time step has the shape {found}"
                )));
            }
            for (&code, &[stream, feature]) in next.codes().iter().zip(&self.places) {
                let code = Code(code);
                let is_here = code.position().is_none_or(|p| p == step * streams + stream);
                if !is_here || *row[feature].get_or_insert(code.anywhere()) != code.anywhere() {
                    return Err(Why::Order(
                        "what it carries on differs between time steps or streams".into(),
                    ));
                }
            }
        }
        match row.into_iter().collect::<Option<Vec<Code>>>() {
            Some(next) => Ok(Stepwise { slot: self.slot, initial: self.initial.clone(), next: next.into() }),
            None => other("it carries nothing"),
        }
    }
}

/// The number of elements.
fn size(value: &Abstract) -> usize {
    let product = |shape: &[usize]| shape.iter().product();
    match value {
        Abstract::Array(a) => product(a.shape()),
        Abstract::Constant(c) => product(c.shape()),
        Abstract::Poison(_) => 0,
    }
}

/// A value as an array, constant or not.
fn array(value: &Abstract) -> Result<Array> {
    match value {
        Abstract::Array(a) => Ok(a.clone()),
        Abstract::Constant(c) => encode(&c.dense()?),
        Abstract::Poison(reason) => Err(Why::At(reason.clone())),
    }
}

fn given(operands: &[Option<Abstract>]) -> Result<Vec<Abstract>> {
    operands.iter().cloned().collect::<Option<_>>().map_or_else(|| other("an operand is missing"), Ok)
}

impl<'g> Evaluator<'g> {
    /// A state that starts as this value; none if a state cannot: it starts at constants or at an input, and has features of each stream.
    pub(super) fn carry(&mut self, label: &str, initial: &Abstract) -> Option<Carried> {
        let start = array(initial).ok().filter(|a| a.dtype.is_float())?;
        let is_input = |s: SlotId| matches!(self.draft.kind(s), Kind::Input(_));
        if !start.codes().iter().all(|&c| Code(c).slot().is_none_or(is_input)) {
            return None;
        }
        let streams = self.sizes.streams;
        let (shape, rank) = (start.shape().to_vec(), start.shape().len());
        let mut axes: Vec<Option<usize>> = (0..rank).filter(|&k| shape[k] == streams).map(Some).collect();
        // Streams come before units, and these are last.
        axes.sort_by_key(|axis| axis.map(|k| (k + 1 == rank, k + 2 != rank)));
        if streams == 1 {
            axes = vec![None];
        }
        let width = start.codes().len() / streams;
        let (initial, places) = axes.into_iter().find_map(|axis| {
            let inner: usize = axis.map_or(1, |k| shape[k + 1..].iter().product());
            let place = |k: usize| match axis {
                Some(_) => [k / inner % streams, k / (inner * streams) * inner + k % inner],
                None => [0, k],
            };
            let places: Vec<[usize; 2]> = (0..start.codes().len()).map(place).collect();
            let mut row: Vec<Option<Code>> = vec![None; width];
            for (&code, &[stream, feature]) in start.codes().iter().zip(&places) {
                let code = Code(code);
                let is_here = code.slot().is_none() || code.position().map_or(streams == 1, |p| p == stream);
                if !is_here || *row[feature].get_or_insert(code.anywhere()) != code.anywhere() {
                    return None;
                }
            }
            Some((row.into_iter().collect::<Option<Vec<Code>>>()?, places))
        })?;
        let number = self.draft.steps().count();
        let slot = self.draft.push(label, Kind::State(number), width);
        Some(Carried { slot, initial: initial.into(), like: start, places })
    }

    /// Whether a state is more than a constant.
    pub(super) fn changes(&self, state: &Stepwise) -> bool {
        let is_constant = state.next.iter().all(|c| c.as_constant().is_some());
        state.next != self.draft.row(state.slot) && !(is_constant && state.next == state.initial)
    }

    /// Whether a step computes with a result.
    pub(super) fn is_read(&self, slot: SlotId) -> bool {
        let reads = |row: &Row| row.iter().any(|c| c.slot() == Some(slot));
        self.draft.steps().any(|(_, s)| match &s.kind {
            Kind::Cell(c) => c.initial.iter().any(reads) || reads(&c.x),
            kind => kind.rows().into_iter().any(reads),
        })
    }

    pub(super) fn scan(&mut self, site: &Site<'g>, scan: &'g Scan) -> Result<Vec<Abstract>> {
        if scan.input_reversed.iter().chain(&scan.output_reversed).any(|&r| r) {
            return Err(Why::NotCausal("a reverse Scan"));
        }
        let all = given(&site.operands)?;
        let (initial, rest) = all.split_at(scan.states.min(all.len()));
        let (scanned, captured) = rest.split_at(scan.scanned.min(rest.len()));
        let mut parts: Vec<(Array, usize)> = vec![];
        for (value, &axis) in scanned.iter().zip(&scan.input_axes) {
            let value = array(value)?;
            let axis = axis_of(axis, value.shape().len())?;
            parts.push((value, axis));
        }
        let count = parts.first().map_or(0, |(a, axis)| a.shape()[*axis]);
        if parts.iter().any(|(a, axis)| a.shape()[*axis] != count) {
            return other("what it scans differs in length");
        }
        let graph = &*scan.body.0;
        self.iterate(site, initial, count, &scan.output_axes, &mut |this, step, carried| {
            let mut inputs = carried;
            for (whole, axis) in &parts {
                let at = Tensor::from_i64([], vec![step as i64]).map_err(wrong)?;
                let codes = evaluate_one(&Op::Gather { axis: *axis as i64 }, &[whole.codes.clone(), at])?;
                inputs.push(constant_or_array(Array { codes, ..*whole }));
            }
            inputs.extend_from_slice(captured);
            let mut carried = this.body(graph, inputs)?;
            let stacked = carried.split_off(scan.states.min(carried.len()));
            Ok(Turn { carried, stacked, goes_on: step + 1 < count })
        })
    }

    pub(super) fn repeat(&mut self, site: &Site<'g>, repeat: &'g Loop) -> Result<Vec<Abstract>> {
        let number = |k: usize, what: &str, otherwise: f32| match site.is_given(k) {
            true => Ok(site.known(k, what)?.values()?.first().copied().unwrap_or(otherwise)),
            false => Ok(otherwise),
        };
        let count = number(0, "number of iterations", f32::INFINITY)? as usize;
        let starts = number(1, "condition", 1.0)? != 0.0;
        let all = given(site.operands.get(2..).unwrap_or(&[]))?;
        let (initial, captured) = all.split_at(repeat.carried.min(all.len()));
        let graph = &*repeat.body.0;
        let axes = vec![0; graph.outputs().len().saturating_sub(1 + repeat.carried)];
        self.iterate(site, initial, if starts { count } else { 0 }, &axes, &mut |this, step, carried| {
            let number = Tensor::from_i64([], vec![step as i64]).map_err(wrong)?;
            let condition = Tensor::from_bool([], vec![true]).map_err(wrong)?;
            let mut inputs = vec![Abstract::Constant(number.into()), Abstract::Constant(condition.into())];
            inputs.extend(carried);
            inputs.extend_from_slice(captured);
            let mut results = this.body(graph, inputs)?;
            let stacked = results.split_off((1 + repeat.carried).min(results.len()));
            let carried = results.split_off(1.min(results.len()));
            let goes_on = match results.first() {
                Some(Abstract::Constant(c)) => c.values()?.first().is_some_and(|&x| x != 0.0),
                Some(Abstract::Poison(reason)) => return Err(Why::At(reason.clone())),
                _ => return other("it ends by what it computes, not after a number of time steps"),
            };
            Ok(Turn { carried, stacked, goes_on: goes_on && step + 1 < count })
        })
    }

    /// The results of a graph for these inputs.
    fn body(&mut self, graph: &'g Graph, inputs: Vec<Abstract>) -> Result<Vec<Abstract>> {
        let names = graph.sources(&Op::Input);
        if names.len() != inputs.len() {
            return other("its body has another number of inputs");
        }
        Ok(self.within(graph, names.into_iter().zip(inputs)))
    }

    /// All iterations: over the time steps with states, otherwise one after the other.
    fn iterate(
        &mut self,
        site: &Site<'g>,
        initial: &[Abstract],
        count: usize,
        axes: &[i64],
        body: &mut Body<'_, 'g>,
    ) -> Result<Vec<Abstract>> {
        if count == 0 {
            return other("it has no iterations");
        }
        let mut is_state = vec![true; initial.len()];
        let (mut over_time, streams) = (None, self.sizes.streams);
        loop {
            let mut states: Vec<Option<Carried>> = vec![];
            for (start, is_state) in initial.iter().zip(&mut is_state) {
                let state = if *is_state { self.carry(&site.label, start) } else { None };
                *is_state = state.is_some();
                states.push(state);
            }
            let turns = self.turns(initial, &states, body);
            if !is_state.contains(&true) {
                // Of two errors, that of the loop over time.
                return match (turns.and_then(|t| t.results(axes)), over_time) {
                    (Ok(results), Some(e)) if results.iter().any(|r| matches!(r, Abstract::Poison(_))) => {
                        Err(e)
                    }
                    (Err(_), Some(e)) => Err(e),
                    (results, _) => results,
                };
            }
            let made = turns.and_then(|turns| {
                if turns.carried.len() != self.sizes.steps {
                    let (found, steps) = (turns.carried.len(), self.sizes.steps);
                    return Err(Why::Order(format!("it has {found} iterations for {steps} time steps")));
                }
                let mut kept = is_state.clone();
                let mut found = vec![];
                for (k, state) in states.iter().enumerate() {
                    let Some(state) = state else { continue };
                    let poison = turns.carried.iter().find_map(|c| match &c[k] {
                        Abstract::Poison(reason) => Some(reason.clone()),
                        _ => None,
                    });
                    if let Some(reason) = poison {
                        return Err(Why::At(reason));
                    }
                    kept[k] = self.is_read(state.slot);
                    if kept[k] {
                        let next = state.finish(turns.carried.iter().map(|c| &c[k]), streams)?;
                        kept[k] = self.changes(&next);
                        found.push(next);
                    }
                }
                Ok((turns, kept, found))
            });
            match made {
                Ok((turns, kept, found)) if kept == is_state => {
                    self.carried.extend(found);
                    return turns.results(axes);
                }
                Ok((_, kept, _)) => is_state = kept,
                Err(e) => {
                    over_time = Some(e);
                    is_state.fill(false);
                }
            }
        }
    }

    fn turns(
        &mut self,
        initial: &[Abstract],
        states: &[Option<Carried>],
        body: &mut Body<'_, 'g>,
    ) -> Result<Turns> {
        let mut turns = Turns { carried: vec![], stacked: vec![] };
        let mut elements = 0;
        let nothing = Tensor::from_i64([], vec![0]).map_err(wrong)?;
        for step in 0..MOST_POSITIONS {
            let mut carried = turns.carried.last().map_or(initial, |c| c).to_vec();
            for (value, state) in carried.iter_mut().zip(states) {
                if let Some(state) = state {
                    *value = state.at(step, self.sizes.streams)?;
                }
            }
            let turn = body(self, step, carried)?;
            if turn.carried.len() != initial.len() {
                return other("its body carries on another number of values");
            }
            // Of values that are no states, only the last is needed.
            if let Some(last) = turns.carried.last_mut() {
                let others = last.iter_mut().zip(states).filter(|(_, state)| state.is_none());
                others.for_each(|(value, _)| *value = Abstract::Constant(nothing.clone().into()));
            }
            elements += turn.carried.iter().chain(&turn.stacked).map(size).sum::<usize>();
            self.iterations += 1;
            if elements > MOST_ELEMENTS || self.iterations > MOST_ITERATIONS {
                return other(
                    "it makes more elements, or more iterations, than a language model does in a few time steps",
                );
            }
            turns.carried.push(turn.carried);
            turns.stacked.push(turn.stacked);
            if !turn.goes_on {
                return Ok(turns);
            }
        }
        other(format!("it has {MOST_POSITIONS} iterations or more"))
    }
}

impl Turns {
    /// What is carried after the last iteration, and what all of them made.
    fn results(mut self, axes: &[i64]) -> Result<Vec<Abstract>> {
        let mut results = self.carried.pop().unwrap_or_default();
        for (k, &axis) in axes.iter().enumerate() {
            let parts: Vec<&Abstract> = self.stacked.iter().filter_map(|s| s.get(k)).collect();
            let poison = parts.iter().find(|p| matches!(p, Abstract::Poison(_)));
            results.push(match poison {
                Some(&poison) => poison.clone(),
                None => stack(&parts, axis)?,
            });
        }
        Ok(results)
    }
}

/// The parts along a new axis.
fn stack(parts: &[&Abstract], axis: i64) -> Result<Abstract> {
    let parts: Vec<Array> = parts.iter().map(|p| array(p)).collect::<Result<_>>()?;
    let Some(first) = parts.first().cloned() else { return other("it makes nothing") };
    let axis = axis_of(axis, first.shape().len() + 1)?;
    let mut shape = first.shape().to_vec();
    shape.insert(axis, 1);
    let codes: Vec<Tensor> =
        parts.into_iter().map(|p| p.codes.reshaped(shape.clone()).map_err(wrong)).collect::<Result<_>>()?;
    let codes = evaluate_one(&Op::Concat { axis: axis as i64 }, &codes)?;
    Ok(constant_or_array(Array { codes, ..first }))
}

/// The body of a loop, and the number of its inputs that are not operands.
pub(super) fn body_of(op: &Op) -> Option<(&Graph, usize)> {
    match op {
        Op::Loop(l) => Some((&l.body.0, 2)),
        Op::Scan(s) => Some((&s.body.0, 0)),
        _ => None,
    }
}
