//! Gather, Slice, Split and Concat: splitting states, joining them, and the last time step.

use super::draft::Kind;
use super::error::CanonicalizeError;
use super::evaluate::{Evaluator, Result, Site};
use super::layout::{Atom, Axis, Layout};
use super::value::{Abstract, Finals, Sequence, StateSlice};
use crate::ir::Dim;

/// The selection along one axis.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    All,
    Last,
    Range { start: usize, len: usize },
}

impl<'g> Evaluator<'g> {
    pub(super) fn gather(&mut self, site: &Site<'g>, axis: i64) -> Result<Abstract> {
        if let (Some(Abstract::Constant(_)), Some(Abstract::Tokens(tokens))) =
            (site.operand(0), site.operand(1))
        {
            return self.embedding(site, axis, tokens);
        }
        if let Some(Abstract::Tokens(_)) = site.operand(1) {
            return Err(CanonicalizeError::NotConstant { node: site.label.clone(), operand: "table" });
        }
        let Some([index]) =
            self.integers(site, 1).as_deref().map(|i| <[i64; 1]>::try_from(i).unwrap_or([i64::MIN]))
        else {
            return site
                .unsupported("it gathers by something that is neither the tokens nor one constant index");
        };
        if index == i64::MIN {
            return site.unsupported("it gathers several indices");
        }
        let size = self.graph.fact(site.node.operands()[0]).map(|f| f.ty.shape).unwrap_or_default();
        let k = if axis < 0 { axis + size.len() as i64 } else { axis } as usize;
        let taken = match size.get(k).and_then(Dim::as_constant) {
            Some(1) => Taken::All,
            Some(n) => {
                let at = if index < 0 { index.saturating_add(n as i64) } else { index };
                match usize::try_from(at) {
                    Ok(start) if start < n => Taken::Range { start, len: 1 },
                    _ => return site.unsupported(format!("it takes element {index} of {n}")),
                }
            }
            None if index == -1 => Taken::Last,
            None => return site.unsupported(format!("it takes element {index} of an axis of unknown size")),
        };
        let picked = self.take(site, k, taken)?;
        let shape = self.result_shape(site).to_vec();
        let regrouped = Site { node: site.node, label: site.label.clone(), operands: vec![Some(picked)] };
        self.rearrange(&regrouped, "axes that group so", |l| l.regrouped(&shape))
    }

    fn embedding(&mut self, site: &Site<'g>, axis: i64, tokens: &Layout) -> Result<Abstract> {
        let Some(table) = self.constant(site, 0) else { return site.unsupported("its table is no constant") };
        let [_, features] = table.shape()[..] else {
            return Err(CanonicalizeError::WeightShape {
                node: site.label.clone(),
                operand: "table",
                expected: "[vocabulary, features]".into(),
                found: table.shape().to_vec(),
            });
        };
        if axis != 0 && axis != -2 {
            return site.unsupported("it looks tokens up along the columns of the table");
        }
        let step = self.draft.push(&site.label, Kind::Embedding { table });
        let layout = tokens.clone().with_features(features);
        Ok(Abstract::Sequence(Sequence { step, layout, features, last: false, normalised: None }))
    }

    pub(super) fn slice(&mut self, site: &Site<'g>) -> Result<Abstract> {
        let shape = self.graph.fact(site.node.operands()[0]).map(|f| f.ty.shape).unwrap_or_default();
        let (Some(starts), Some(ends)) = (self.elements(site, 1), self.elements(site, 2)) else {
            return site.unsupported("its bounds depend on data");
        };
        let axes = match site.operand(3) {
            Some(_) => self.integers(site, 3),
            None => Some((0..starts.len() as i64).collect()),
        };
        let steps = match site.operand(4) {
            Some(_) => self.integers(site, 4),
            None => Some(vec![1; starts.len()]),
        };
        let (Some(axes), Some(steps)) = (axes, steps) else {
            return site.unsupported("its axes or steps depend on data");
        };
        if axes.len() != starts.len() || ends.len() != starts.len() || steps.iter().any(|&s| s != 1) {
            return site.unsupported("it takes a strided part");
        }
        let mut current = site.operand(0).cloned();
        for ((axis, start), end) in axes.into_iter().zip(&starts).zip(&ends) {
            let k = if axis < 0 { axis + shape.len() as i64 } else { axis } as usize;
            let Some(size) = shape.get(k) else {
                return site.unsupported("it names an axis that is not there");
            };
            let Some(taken) = range(size, start, end) else {
                return site.unsupported(format!("it takes {start}..{end} of an axis of size {size}"));
            };
            let here = Site { node: site.node, label: site.label.clone(), operands: vec![current.take()] };
            current = Some(self.take(&here, k, taken)?);
        }
        match current {
            Some(value) => Ok(value),
            None => site.unsupported("its operand is missing"),
        }
    }

    pub(super) fn split(&mut self, site: &Site<'g>, axis: i64, outputs: usize) -> Result<Vec<Abstract>> {
        if outputs == 1 {
            return Ok(vec![self.rearrange(site, "", |l| Some(l.clone()))?]);
        }
        let mut results = vec![];
        let mut start = 0;
        for &value in site.node.results() {
            let shape = &self.graph.type_of(value).shape;
            let k = if axis < 0 { axis + shape.len() as i64 } else { axis } as usize;
            let Some(len) = shape.get(k).and_then(Dim::as_constant) else {
                return site.unsupported("it splits an axis of unknown size");
            };
            results.push(self.take(site, k, Taken::Range { start, len })?);
            start += len;
        }
        Ok(results)
    }

    /// A part of the first operand along axis `k`, which stays, even with size 1.
    fn take(&self, site: &Site<'_>, k: usize, taken: Taken) -> Result<Abstract> {
        if taken == Taken::All {
            return self.rearrange(site, "", |l| Some(l.clone()));
        }
        match site.operand(0) {
            Some(Abstract::Zeros) => Ok(Abstract::Zeros),
            Some(Abstract::State(state)) => self.take_state(site, state, k, taken),
            Some(Abstract::Finals(finals)) => self.take_finals(site, finals, k, taken),
            Some(Abstract::Sequence(sequence)) => self.take_step(site, sequence, k, taken),
            Some(other) => site.unsupported(format!("it takes a part of {}", self.describe(other))),
            None => site.unsupported("its operand is missing"),
        }
    }

    fn take_state(&self, site: &Site<'_>, state: &StateSlice, k: usize, taken: Taken) -> Result<Abstract> {
        let (Taken::Range { start, len }, [Atom { axis: Axis::State(a), .. }]) =
            (taken, &state.layout.0[k][..])
        else {
            return site.wrong_layout("one axis of a state input", &state.layout);
        };
        let mut part = state.clone();
        part.ranges[*a] = (state.ranges[*a].0 + start, Some(len));
        part.layout.0[k] =
            if len == 1 { vec![] } else { vec![Atom { axis: Axis::State(*a), size: len.into() }] };
        Ok(Abstract::State(part))
    }

    fn take_finals(&self, site: &Site<'_>, finals: &Finals, k: usize, taken: Taken) -> Result<Abstract> {
        let stacks = finals.layout.0.iter().flatten().filter(|a| a.axis == Axis::Stack).count();
        let (Taken::Range { start, len }, [Atom { axis: Axis::Stack, .. }], 1) =
            (taken, &finals.layout.0[k][..], stacks)
        else {
            return site.wrong_layout("one axis of states after the last step", &finals.layout);
        };
        let Some(parts) = finals.parts.get(start..start + len) else {
            return site.unsupported("it takes a state that is not there");
        };
        let mut layout = finals.layout.clone();
        layout.0[k] = if len == 1 { vec![] } else { vec![Atom { axis: Axis::Stack, size: len.into() }] };
        Ok(Abstract::Finals(Finals { parts: parts.to_vec(), layout }))
    }

    /// The last time step of a sequence.
    fn take_step(&self, site: &Site<'_>, sequence: &Sequence, k: usize, taken: Taken) -> Result<Abstract> {
        let [Atom { axis: Axis::Token(t), size }] = &sequence.layout.0[k][..] else {
            return site.wrong_layout("the axis of time steps", &sequence.layout);
        };
        let is_last = match taken {
            Taken::Last => true,
            Taken::Range { start, len } => len == 1 && size.is(start + 1),
            Taken::All => false,
        };
        if self.steps_axis != Some(*t) || !is_last {
            return site.unsupported(
                "it takes some of the time steps or streams; only the last time step can be taken",
            );
        }
        let mut part = sequence.clone();
        part.layout.0[k] = vec![];
        part.last = true;
        Ok(Abstract::Sequence(part))
    }

    pub(super) fn concat(&mut self, site: &Site<'g>, axis: i64) -> Result<Abstract> {
        if site.operands.len() == 1 {
            return self.rearrange(site, "", |l| Some(l.clone()));
        }
        let given: Vec<&Abstract> = site.operands.iter().flatten().collect();
        if given.iter().all(|a| matches!(a, Abstract::Zeros)) {
            return Ok(Abstract::Zeros);
        }
        let mut finals = vec![];
        for value in given {
            match value {
                Abstract::Finals(f) => finals.push(f),
                other => return site.unsupported(format!("it joins {} with others", self.describe(other))),
            }
        }
        self.join(site, &finals, axis)
    }

    /// States concatenated along an axis.
    fn join(&self, site: &Site<'_>, finals: &[&Finals], axis: i64) -> Result<Abstract> {
        let first = &finals[0].layout;
        let Some(k) = first.axis(axis) else { return site.unsupported("it names an axis that is not there") };
        // The layout of one element, and the number of elements so far along the axis.
        let member = |layout: &Layout| {
            let mut axes = layout.0.clone();
            let stacked = axes[k].iter().find(|a| a.axis == Axis::Stack).and_then(|a| a.size.as_constant());
            axes[k].retain(|a| a.axis != Axis::Stack);
            (Layout(axes), stacked.unwrap_or(1))
        };
        let (one, _) = member(first);
        let mut size = 0;
        for f in finals {
            let (layout, members) = member(&f.layout);
            if layout != one {
                return site.wrong_layout(&format!("axes {first}, as of the first operand"), &f.layout);
            }
            size += members;
        }
        if one.0[..k].iter().flatten().any(|a| a.axis == Axis::Stack) {
            return site.unsupported("it joins stacks of states along an inner axis");
        }
        let mut layout = one;
        layout.0[k].insert(0, Atom { axis: Axis::Stack, size: size.into() });
        let parts = finals.iter().flat_map(|f| f.parts.iter().copied()).collect();
        Ok(Abstract::Finals(Finals { parts, layout }))
    }
}

/// The selection `start..end` of an axis; `None` if it depends on the run.
fn range(size: &Dim, start: &Dim, end: &Dim) -> Option<Taken> {
    /// Exporters write any number from here on for the end of an axis.
    const FAR: i64 = i32::MAX as i64;
    let first = start.as_integer();
    let to_the_end = end == size || end.as_integer().is_some_and(|e| e >= FAR);
    if let Some(n) = size.as_constant() {
        let clamp = |i: i64| (if i < 0 { i.saturating_add(n as i64) } else { i }).clamp(0, n as i64) as usize;
        let start = clamp(first?);
        let end = if to_the_end { n } else { clamp(end.as_integer()?) };
        return match end.checked_sub(start)? {
            0 => None,
            len if len == n => Some(Taken::All),
            len => Some(Taken::Range { start, len }),
        };
    }
    match (first?, to_the_end) {
        (0, true) => Some(Taken::All),
        (-1, true) => Some(Taken::Last),
        _ => None,
    }
}
