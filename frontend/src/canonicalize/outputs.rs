//! Which output is the logits, and whether the states are returned in the order in which they are taken.

use super::draft::{Kind, StepId};
use super::error::CanonicalizeError;
use super::evaluate::{Evaluator, Result};
use super::value::{Abstract, Finals, Part, Sequence, StateSlice};
use crate::ir::{Graph, OutputRole, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// The parts of the inputs, in order of position.
type Taken = BTreeMap<ValueId, Vec<(Vec<usize>, (StepId, Part))>>;

impl Evaluator<'_> {
    /// The canonical graph, and notes for the user.
    pub(super) fn finish(self) -> Result<(Graph, Vec<String>)> {
        let mut notes = vec![];
        let logits = self.logits(&mut notes)?;
        let live = self.draft.live(logits.step);
        let embeddings =
            live.iter().filter(|&&s| matches!(self.draft.step(s).kind, Kind::Embedding { .. })).count();
        if self.draft.cells(&live).next().is_none() {
            return Err(CanonicalizeError::NoLstm);
        }
        if embeddings != 1 {
            return Err(CanonicalizeError::Embeddings { found: embeddings });
        }
        let taken = self.states(&live)?;
        self.check_order(&live, &taken)?;
        if logits.last {
            notes.push(
                "the model returns the logits of the last step only; the compiled one has them all".into(),
            );
        }
        if let Some(name) = logits.normalised {
            notes.push(format!("dropped the {name} at the end: the output is logits"));
        }
        if taken.is_empty() {
            notes.push("the model has no state inputs; its states became explicit".into());
        }
        let graph = self.draft.emit(&self.graph.name, &live, logits.step)?;
        Ok((graph, notes))
    }

    fn outputs(&self) -> impl Iterator<Item = (String, &Abstract)> {
        self.graph.outputs().iter().map(|o| {
            let name = match &o.role {
                OutputRole::Named(n) => n.clone(),
                OutputRole::State(s) => self.graph.name_of(*s).to_string(),
            };
            (name, self.value(o.value))
        })
    }

    /// The output over the vocabulary; the last if there are several.
    fn logits(&self, notes: &mut Vec<String>) -> Result<Sequence> {
        let Some(vocabulary) = self.draft.vocabulary() else {
            return Err(CanonicalizeError::Embeddings { found: 0 });
        };
        let mut found: Option<(String, Sequence)> = None;
        let mut dropped = vec![];
        for (name, value) in self.outputs() {
            match value {
                Abstract::Sequence(s) if s.features == vocabulary && s.layout.ends_in_features() => {
                    match &found {
                        Some((_, f)) if f.step == s.step => {}
                        Some((_, f)) if f.step > s.step => dropped.push(name),
                        _ => dropped.extend(found.replace((name, s.clone())).map(|f| f.0)),
                    }
                }
                Abstract::Finals(_) => {}
                _ => dropped.push(name),
            }
        }
        for name in dropped {
            notes.push(format!("dropped output `{name}`, which is neither logits nor a state"));
        }
        match found {
            Some((_, logits)) => Ok(logits),
            None => {
                let outputs = self.graph.outputs().iter().zip(self.outputs());
                let outputs = outputs
                    .map(|(o, (name, _))| format!("{name}: {}", self.graph.type_of(o.value)))
                    .collect();
                Err(CanonicalizeError::NoLogits { vocabulary, outputs })
            }
        }
    }

    /// The sources of the layers' states; each must have its own part.
    fn states(&self, live: &BTreeSet<StepId>) -> Result<Taken> {
        let mut all: Vec<(StepId, Part, &StateSlice)> = vec![];
        for (step, lstm) in self.draft.cells(live) {
            for (part, slice) in Part::ALL.into_iter().zip(&lstm.initial) {
                let Some(slice) = slice else { continue };
                if let Some((s, p, _)) = all.iter().find(|(_, _, other)| other.overlaps(slice)) {
                    return Err(CanonicalizeError::SharedState {
                        first: self.part_name(live, (*s, *p)),
                        second: self.part_name(live, (step, part)),
                        input: self.graph.name_of(slice.input).to_string(),
                    });
                }
                all.push((step, part, slice));
            }
        }
        let mut taken = Taken::new();
        for (step, part, slice) in all {
            taken.entry(slice.input).or_default().push((slice.start(), (step, part)));
        }
        taken.values_mut().for_each(|parts| parts.sort());
        Ok(taken)
    }

    /// `h0`, `c1`: the name of a layer's state in the canonical graph.
    fn part_name(&self, live: &BTreeSet<StepId>, (step, part): (StepId, Part)) -> String {
        let layer = self.draft.cells(live).position(|(s, _)| s == step);
        format!("{}{}", part.letter(), layer.map_or("?".into(), |k| k.to_string()))
    }

    /// Parts that an output and an input have in common must be in the same order: a runtime feeds one back as the other.
    fn check_order(&self, live: &BTreeSet<StepId>, taken: &Taken) -> Result<()> {
        for (output, (name, value)) in self.graph.outputs().iter().zip(self.outputs()) {
            let Abstract::Finals(Finals { parts, .. }) = value else { continue };
            for (&input, slices) in taken {
                // The next value of a declared state is all of it.
                let is_whole = output.role == OutputRole::State(input);
                let expected: Vec<_> =
                    slices.iter().map(|s| s.1).filter(|p| is_whole || parts.contains(p)).collect();
                let found: Vec<_> =
                    parts.iter().copied().filter(|p| is_whole || expected.contains(p)).collect();
                if expected != found {
                    let show = |parts: &[(StepId, Part)]| {
                        let names: Vec<String> = parts.iter().map(|&p| self.part_name(live, p)).collect();
                        names.join(", ")
                    };
                    return Err(CanonicalizeError::StateOrder {
                        output: name,
                        input: self.graph.name_of(input).to_string(),
                        expected: show(&expected),
                        found: show(&found),
                    });
                }
            }
        }
        Ok(())
    }
}
