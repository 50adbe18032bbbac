//! The states of a language model: what cells start from, what steps read, and what comes back.

use super::draft::{Draft, Kind, SlotId, StepId, renamed};
use super::error::CanonicalizeError;
use super::outputs::{Finder, Output, Stepwise, View, sounds_like_logits};
use super::value::{Code, Row, whole};
use crate::ir::{OutputRole, ValueId};
use std::collections::{BTreeMap, BTreeSet};

type Result<T> = std::result::Result<T, CanonicalizeError>;

impl Finder<'_> {
    /// The output that comes back to an input that steps read.
    pub(super) fn next_of(&self, input: ValueId) -> Option<usize> {
        if let Some(k) = self.outputs.iter().position(|o| o.role == OutputRole::State(input)) {
            return Some(k);
        }
        // A state comes back in as many elements; names decide among several, then the order.
        let slot = self
            .draft
            .steps()
            .find(|(_, s)| s.kind == Kind::Input(input))
            .map(|(id, _)| self.draft.first(id))?;
        let width = self.draft.width(slot);
        let fits = |o: &Output| {
            o.value
                .as_ref()
                .is_ok_and(|a| a.codes().len() == width * self.streams && a.codes().iter().all(|&c| c >= 0))
        };
        let is_logits = |o: &Output| {
            let row = o.value.as_ref().ok().and_then(View::of).map(|v| v.row);
            let slot = row.and_then(|row| whole(&row, &self.draft));
            let kind = slot.map(|s| self.draft.kind(s));
            sounds_like_logits(&o.name)
                || matches!(kind, Some(Kind::LogSoftmax { .. } | Kind::Softmax { .. }))
        };
        let outputs: Vec<usize> = (0..self.outputs.len())
            .filter(|&k| fits(&self.outputs[k]) && !is_logits(&self.outputs[k]))
            .collect();
        let of_same_width: Vec<ValueId> = self
            .draft
            .steps()
            .filter_map(|(id, s)| match s.kind {
                Kind::Input(v) if self.draft.width(self.draft.first(id)) == width => Some(v),
                _ => None,
            })
            .collect();
        let name = self.graph.name_of(input);
        let named =
            outputs.iter().copied().filter(|&k| related(name, &self.outputs[k].name)).collect::<Vec<_>>();
        if let [k] = named[..] {
            return Some(k);
        }
        // The hidden vector may be as wide as a state: it is computed from the others, or comes first.
        let place = of_same_width.iter().position(|v| *v == input)?;
        let excess = outputs.len().checked_sub(of_same_width.len())?;
        let row = |k: usize| self.outputs[k].value.as_ref().ok().and_then(View::of).map(|v| v.row);
        let depends = |k: usize| {
            let live = row(k).map(|r| self.draft.live([&r])).unwrap_or_default();
            let others = outputs.iter().filter(|&&o| o != k && row(o) != row(k)).filter_map(|&o| row(o));
            others.filter(|r| r[0].slot().is_some_and(|s| live.contains(&self.draft.source(s).0))).count()
        };
        let mut states = outputs.clone();
        states.sort_by_key(|&k| (depends(k), std::cmp::Reverse(k)));
        states.truncate(outputs.len() - excess);
        states.sort_unstable();
        states.get(place).copied()
    }

    /// Whether an output comes back to an input.
    pub(super) fn next_is(&self, output: usize) -> bool {
        let inputs = self.draft.steps().filter_map(|(_, s)| match s.kind {
            Kind::Input(v) => Some(v),
            _ => None,
        });
        inputs.into_iter().any(|v| self.next_of(v) == Some(output))
    }

    /// The states that steps read, which only a model of one step can.
    pub(super) fn stepwise(&self, inputs: &[ValueId]) -> Result<Vec<Stepwise>> {
        let mut all: Vec<Stepwise> = vec![];
        let mut todo: Vec<ValueId> = inputs.to_vec();
        while let Some(input) = todo.pop() {
            if all.iter().any(|s| s.input == input) {
                continue;
            }
            let shown = format!("%{}: {}", self.graph.name_of(input), self.graph.type_of(input));
            let Some(k) = self.next_of(input) else {
                return Err(CanonicalizeError::DependsOnInput { input: shown });
            };
            let view = self.outputs[k].value.as_ref().ok().and_then(View::of);
            let Some(view) = view.filter(|_| self.steps == 1) else {
                let why = format!("it computes with state input {shown} in more than one time step");
                return Err(CanonicalizeError::Unsupported {
                    node: format!("output `{}`", self.outputs[k].name),
                    why,
                });
            };
            let slot = self
                .draft
                .steps()
                .find(|(_, s)| s.kind == Kind::Input(input))
                .map(|(id, _)| self.draft.first(id));
            todo.extend(self.needs(&view.row).1);
            let slot = slot.expect("it is read");
            let features = (0..self.draft.width(slot)).collect();
            all.push(Stepwise { input, slot, features, next: view.row });
        }
        all.sort_by_key(|s| s.slot);
        Ok(all)
    }

    /// The parts of inputs that cells start from: each cell has its own, and they come back in the order in which they are taken.
    pub(super) fn check_states(&self, roots: &[Row]) -> Result<()> {
        let live = self.draft.live(roots);
        let cells: Vec<StepId> =
            live.iter().copied().filter(|&id| matches!(self.draft.step(id).kind, Kind::Cell(_))).collect();
        let part = |(step, result): (StepId, usize)| {
            let k = cells.iter().position(|&c| c == step);
            let Kind::Cell(cell) = &self.draft.step(step).kind else { return "?".to_string() };
            format!("{}{}", cell.op.states()[result], k.map_or("?".into(), |k| k.to_string()))
        };
        let mut taken: BTreeMap<Code, (StepId, usize)> = BTreeMap::new();
        for &id in &cells {
            let Kind::Cell(cell) = &self.draft.step(id).kind else { continue };
            for (result, initial) in cell.initial.iter().enumerate() {
                let inputs = initial.iter().filter(|c| c.slot().is_some()).count();
                if inputs > 0 && inputs < initial.len() {
                    return Err(CanonicalizeError::InitialState {
                        node: self.draft.step(id).label.clone(),
                        part: cell.op.states()[result],
                        found: "partly an input and partly a constant".into(),
                    });
                }
                for code in initial.iter().filter(|c| c.slot().is_some()) {
                    if let Some(&first) = taken.get(code)
                        && first != (id, result)
                    {
                        return Err(CanonicalizeError::SharedState {
                            first: part(first),
                            second: part((id, result)),
                            input: self.input_name(*code),
                        });
                    }
                    taken.insert(*code, (id, result));
                }
            }
        }
        // For each input, its parts in order of position.
        let mut order: BTreeMap<SlotId, Vec<(StepId, usize)>> = BTreeMap::new();
        for (code, &p) in &taken {
            let parts = order.entry(code.slot().expect("an input")).or_default();
            if parts.last() != Some(&p) {
                parts.push(p);
            }
        }
        for output in self.outputs.iter().filter(|o| self.is_final(o)) {
            let Ok(array) = &output.value else { continue };
            let mut parts: Vec<(StepId, usize)> = vec![];
            for &code in array.codes() {
                let code = Code(code);
                if code.position().is_some_and(|p| p % self.streams != 0) {
                    continue;
                }
                let of = self.draft.source(code.slot().expect("a state"));
                if !parts.contains(&of) {
                    parts.push(of);
                }
            }
            for (&slot, takes) in &order {
                let Kind::Input(input) = self.draft.kind(slot) else { continue };
                let is_whole = output.role == OutputRole::State(*input);
                let expected: Vec<_> =
                    takes.iter().copied().filter(|p| is_whole || parts.contains(p)).collect();
                let found: Vec<_> =
                    parts.iter().copied().filter(|p| is_whole || expected.contains(p)).collect();
                if expected != found {
                    let show = |parts: &[(StepId, usize)]| {
                        parts.iter().map(|&p| part(p)).collect::<Vec<_>>().join(", ")
                    };
                    return Err(CanonicalizeError::StateOrder {
                        output: output.name.clone(),
                        input: self.graph.name_of(*input).to_string(),
                        expected: show(&expected),
                        found: show(&found),
                    });
                }
            }
        }
        self.check_changed(&order)
    }

    /// A state must come back as it is.
    pub(super) fn check_changed(&self, order: &BTreeMap<SlotId, Vec<(StepId, usize)>>) -> Result<()> {
        let finals: BTreeSet<(StepId, usize)> = self
            .outputs
            .iter()
            .filter(|o| self.is_final(o))
            .flat_map(|o| o.value.iter().flat_map(|a| a.codes().iter().map(|&c| Code(c).slot())))
            .flatten()
            .map(|s| self.draft.source(s))
            .collect();
        for (&slot, parts) in order {
            let Kind::Input(input) = self.draft.kind(slot) else { continue };
            if parts.iter().any(|p| finals.contains(p)) {
                continue;
            }
            let width = self.draft.width(slot) * self.streams;
            let changed = self.outputs.iter().find(|o| {
                let rank = self.graph.type_of(*input).shape.len();
                let Ok(array) = &o.value else { return false };
                let last = |c: &i64| Code(*c).position().is_some_and(|p| p / self.streams + 1 == self.steps);
                let is_like = array.codes().len() == width && array.shape().len() == rank;
                let row: Row = array.codes().iter().map(|&c| Code(c).anywhere()).collect();
                let live = self.draft.live([&row]);
                is_like && array.codes().iter().all(last) && parts.iter().any(|(step, _)| live.contains(step))
            });
            if let Some(output) = changed {
                let (input, output) = (self.graph.name_of(*input).to_string(), output.name.clone());
                return Err(CanonicalizeError::StateChanged { input, output });
            }
        }
        Ok(())
    }

    pub(super) fn input_name(&self, code: Code) -> String {
        match code.slot().map(|s| self.draft.kind(s)) {
            Some(Kind::Input(v)) => self.graph.name_of(*v).to_string(),
            _ => "?".into(),
        }
    }
}

/// The rows in another draft.
pub(super) fn moved(
    rows: &BTreeMap<SlotId, Row>,
    row: &Row,
    stepwise: Vec<Stepwise>,
) -> (Row, Vec<Stepwise>) {
    let new = |row: &Row| renamed(rows, row);
    let stepwise = stepwise
        .into_iter()
        .map(|s| Stepwise {
            slot: rows.get(&s.slot).and_then(|r| r.first()).and_then(|c| c.slot()).unwrap_or(s.slot),
            next: new(&s.next),
            ..s
        })
        .collect();
    (new(row), stepwise)
}

/// The draft with a state for what steps read of each input, other than what cells start from; and the row in it.
pub(super) fn states_of(draft: &Draft, row: &Row, stepwise: Vec<Stepwise>) -> (Draft, Row, Vec<Stepwise>) {
    let next: BTreeMap<Code, Code> = stepwise
        .iter()
        .flat_map(|s| draft.row(s.slot).iter().copied().zip(s.next.iter().copied()).collect::<Vec<_>>())
        .collect();
    // What the row needs, and what comes back to that.
    let mut read: BTreeSet<Code> = BTreeSet::new();
    loop {
        let mut roots: Vec<Row> = vec![row.clone()];
        roots.extend(read.iter().map(|c| Row::from([next[c]])));
        let live = draft.live(&roots);
        let rows = live.iter().flat_map(|&id| draft.step(id).kind.rows());
        let codes = rows.chain(&roots).flat_map(|r| r.iter().copied());
        let found: BTreeSet<Code> = codes.filter(|c| next.contains_key(c)).collect();
        if found == read {
            break;
        }
        read = found;
    }
    let mut new = Draft::default();
    let mut replaced: BTreeMap<Code, Code> = BTreeMap::new();
    let mut kept = vec![];
    for s in stepwise {
        let features: Vec<usize> =
            (0..draft.width(s.slot)).filter(|&f| read.contains(&Code::reference(s.slot, 0, f))).collect();
        if features.is_empty() {
            continue;
        }
        let slot = new.push("a state", Kind::State(s.input), features.len());
        for (k, &f) in features.iter().enumerate() {
            replaced.insert(Code::reference(s.slot, 0, f), Code::reference(slot, 0, k));
        }
        kept.push(Stepwise { slot, features, ..s });
    }
    let mut rows: BTreeMap<SlotId, Row> = BTreeMap::new();
    let moved = |row: &Row, rows: &BTreeMap<SlotId, Row>| -> Row {
        let of = |c: &Code| match (replaced.get(c), c.slot()) {
            (Some(state), _) => *state,
            (None, Some(s)) => rows[&s][c.feature()],
            (None, None) => *c,
        };
        row.iter().map(of).collect()
    };
    for (id, step) in draft.steps() {
        let first = draft.first(id);
        let mut kind = step.kind.clone().map_rows(&mut |row| moved(row, &rows));
        let results = match (&mut kind, &step.kind) {
            (Kind::Cell(cell), Kind::Cell(old)) => {
                // A cell starts from the input itself.
                let start = |row: &Row| renamed(&rows, row);
                cell.initial = old.initial.iter().map(start).collect();
                cell.op.states().len()
            }
            _ => 1,
        };
        let slot = new.push(&step.label, kind, draft.width(first));
        for k in 0..results {
            rows.insert(SlotId(first.0 + k), new.row(SlotId(slot.0 + k)));
        }
    }
    let kept = kept
        .into_iter()
        .map(|s| {
            let back: Row = s.features.iter().map(|&f| s.next[f]).collect();
            Stepwise { next: moved(&back, &rows), ..s }
        })
        .collect();
    (new, moved(row, &rows), kept)
}

/// Whether names of an input and an output are of one state: `h` and `h_out`, `hn`, `next_h`, `state0` and `state0_next`.
pub(super) fn related(input: &str, output: &str) -> bool {
    let plain = |name: &str| {
        let lower = name.to_ascii_lowercase();
        let mut words: Vec<String> = lower
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|w| {
                ![
                    "in", "out", "input", "output", "next", "new", "prev", "previous", "old", "init",
                    "initial", "n", "0", "1", "", "state",
                ]
                .contains(w)
            })
            .map(str::to_string)
            .collect();
        words.sort();
        let joined = words.concat();
        joined.trim_end_matches("out").trim_end_matches("in").trim_end_matches(['n', '1']).to_string()
    };
    let (a, b) = (plain(input), plain(output));
    !a.is_empty() && (a == b || a.trim_end_matches('0') == b || a == b.trim_end_matches('0'))
}
