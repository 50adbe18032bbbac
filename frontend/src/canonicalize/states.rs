//! The states of a language model: what cells start from, what steps read, and what comes back.

use super::draft::{Draft, Kind, SlotId, StepId, renamed};
use super::error::CanonicalizeError;
use super::outputs::{Finder, Output, View, sounds_like_logits};
use super::value::{Code, Row, whole};
use crate::ir::{OutputRole, ValueId};
use std::collections::{BTreeMap, BTreeSet};

type Result<T> = std::result::Result<T, CanonicalizeError>;

/// A state that steps read as a sequence.
#[derive(Clone)]
pub(super) struct Stepwise {
    /// Its value before each step.
    pub(super) slot: SlotId,
    /// Before the first step: elements of inputs, or constants.
    pub(super) initial: Row,
    /// After each step.
    pub(super) next: Row,
}

/// A state of a cell or a loop.
pub(super) struct Part {
    label: String,
    /// The step that it is part of.
    node: String,
    letter: &'static str,
    pub(super) initial: Row,
    pub(super) next: Row,
}

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

    /// The states that steps read: those of loops, and inputs, if the model is one step.
    pub(super) fn stepwise(&self, row: &Row, inputs: &[ValueId]) -> Result<Vec<Stepwise>> {
        let mut all: Vec<Stepwise> = vec![];
        let mut todo: Vec<ValueId> = inputs.to_vec();
        while let Some(input) = todo.pop() {
            if all.iter().any(|s: &Stepwise| self.input_of(s.initial[0]) == Some(input)) {
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
            all.push(Stepwise { slot, initial: self.draft.row(slot), next: view.row });
        }
        let mut roots: Vec<Row> = all.iter().map(|s| s.next.clone()).collect();
        roots.push(row.clone());
        let live = self.live(&roots);
        let carried = self.carried.iter().filter(|s| live.contains(&self.draft.source(s.slot).0));
        all.extend(carried.cloned());
        all.sort_by_key(|s| s.slot);
        Ok(all)
    }

    /// The steps that rows need, of this time step and of those before.
    pub(super) fn live(&self, rows: &[Row]) -> BTreeSet<StepId> {
        let mut roots = rows.to_vec();
        loop {
            let live = self.draft.live(&roots);
            let carried = self.carried.iter().filter(|s| live.contains(&self.draft.source(s.slot).0));
            let all: Vec<Row> = rows.iter().cloned().chain(carried.map(|s| s.next.clone())).collect();
            if all.len() == roots.len() {
                return live;
            }
            roots = all;
        }
    }

    /// Cells inside loops start where the loop's state starts, and their results are what it carries.
    pub(super) fn start_cells(&mut self) -> Result<()> {
        let mut carried: BTreeMap<Code, (Code, Code)> = BTreeMap::new();
        for s in &self.carried {
            let elements = s.initial.iter().copied().zip(s.next.iter().copied());
            carried.extend(self.draft.row(s.slot).iter().copied().zip(elements));
        }
        let states = self.draft.steps().filter(|(_, s)| matches!(s.kind, Kind::State(_)));
        let states: BTreeSet<SlotId> = states.map(|(id, _)| self.draft.first(id)).collect();
        let is_state = |c: &Code| c.slot().is_some_and(|s| states.contains(&s));
        for (first, label, cell) in self.draft.cells_mut() {
            for (result, initial) in cell.initial.iter_mut().enumerate() {
                if !initial.iter().any(is_state) {
                    continue;
                }
                let start = |(unit, code): (usize, &Code)| {
                    let (start, next) = carried.get(code)?;
                    let is_next = *next == Code::reference(SlotId(first.0 + result), 0, unit);
                    is_next.then_some(*start)
                };
                match initial.iter().enumerate().map(start).collect::<Option<Vec<Code>>>() {
                    Some(start) => *initial = start.into(),
                    None => {
                        return Err(CanonicalizeError::Unsupported {
                            node: label.to_string(),
                            why: "it is a layer of one time step in a loop that changes its state between the steps".into(),
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// The states of the cells for which this holds, and of loops.
    pub(super) fn parts(&self, is_needed: impl Fn(&StepId) -> bool) -> Vec<Part> {
        let mut parts = vec![];
        let cells = self.draft.steps().filter_map(|(id, step)| match &step.kind {
            Kind::Cell(cell) if is_needed(&id) => Some((id, step, cell)),
            _ => None,
        });
        for (k, (id, step, cell)) in cells.enumerate() {
            for (result, (&letter, initial)) in cell.op.states().iter().zip(&cell.initial).enumerate() {
                let next = self.draft.row(SlotId(self.draft.first(id).0 + result));
                let (label, node) = (format!("{letter}{k}"), step.label.clone());
                parts.push(Part { label, node, letter, initial: initial.clone(), next });
            }
        }
        for (k, s) in self.carried.iter().enumerate() {
            let id = self.draft.source(s.slot).0;
            if is_needed(&id) {
                let (label, node) = (format!("s{k}"), self.draft.step(id).label.clone());
                parts.push(Part {
                    label,
                    node,
                    letter: "s",
                    initial: s.initial.clone(),
                    next: s.next.clone(),
                });
            }
        }
        parts
    }

    /// The parts of inputs that cells and loops start from: each has its own, and they come back in the order in which they are taken.
    pub(super) fn check_states(&self, roots: &[Row]) -> Result<()> {
        let live = self.live(roots);
        let parts = self.parts(|id| live.contains(id));
        let mut taken: BTreeMap<Code, usize> = BTreeMap::new();
        let mut made: BTreeMap<Code, usize> = BTreeMap::new();
        for (k, part) in parts.iter().enumerate() {
            let inputs = part.initial.iter().filter(|c| c.slot().is_some()).count();
            if inputs > 0 && inputs < part.initial.len() {
                return Err(CanonicalizeError::InitialState {
                    node: part.node.clone(),
                    part: part.letter,
                    found: "partly an input and partly a constant".into(),
                });
            }
            for code in part.initial.iter().filter(|c| c.slot().is_some()) {
                if let Some(first) = taken.insert(*code, k).filter(|&first| first != k) {
                    return Err(CanonicalizeError::SharedState {
                        first: parts[first].label.clone(),
                        second: part.label.clone(),
                        input: self.input_name(*code),
                    });
                }
            }
            for &code in part.next.iter() {
                made.entry(code).or_insert(k);
            }
        }
        // For each input, its parts in order of position.
        let mut order: BTreeMap<SlotId, Vec<usize>> = BTreeMap::new();
        for (code, &k) in &taken {
            let of_input = order.entry(code.slot().expect("an input")).or_default();
            if of_input.last() != Some(&k) {
                of_input.push(k);
            }
        }
        for output in self.outputs.iter().filter(|o| self.is_final(o)) {
            let Ok(array) = &output.value else { continue };
            let mut returned: Vec<usize> = vec![];
            for &code in array.codes() {
                let code = Code(code);
                if code.position().is_some_and(|p| p % self.streams != 0) {
                    continue;
                }
                if let Some(&k) = made.get(&code.anywhere())
                    && !returned.contains(&k)
                {
                    returned.push(k);
                }
            }
            for (&slot, takes) in &order {
                let Kind::Input(input) = self.draft.kind(slot) else { continue };
                let is_whole = output.role == OutputRole::State(*input);
                let expected: Vec<_> =
                    takes.iter().copied().filter(|k| is_whole || returned.contains(k)).collect();
                let found: Vec<_> =
                    returned.iter().copied().filter(|k| is_whole || expected.contains(k)).collect();
                if expected != found {
                    let show = |of: &[usize]| {
                        of.iter().map(|&k| parts[k].label.as_str()).collect::<Vec<_>>().join(", ")
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
        self.check_changed(&order, &parts)
    }

    /// A state must come back as it is.
    fn check_changed(&self, order: &BTreeMap<SlotId, Vec<usize>>, parts: &[Part]) -> Result<()> {
        let finals: BTreeSet<Code> = self
            .outputs
            .iter()
            .filter(|o| self.is_final(o))
            .flat_map(|o| o.value.iter().flat_map(|a| a.codes().iter().map(|&c| Code(c).anywhere())))
            .collect();
        for (&slot, of_input) in order {
            let Kind::Input(input) = self.draft.kind(slot) else { continue };
            let mut nexts = of_input.iter().flat_map(|&k| parts[k].next.iter());
            if nexts.any(|c| finals.contains(c)) {
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
                let is_live = |c: &Code| c.slot().is_some_and(|s| live.contains(&self.draft.source(s).0));
                let is_of_state = || of_input.iter().any(|&k| parts[k].next.iter().any(is_live));
                is_like && array.codes().iter().all(last) && is_of_state()
            });
            if let Some(output) = changed {
                let (input, output) = (self.graph.name_of(*input).to_string(), output.name.clone());
                return Err(CanonicalizeError::StateChanged { input, output });
            }
        }
        Ok(())
    }

    /// The input that an element is of.
    pub(super) fn input_of(&self, code: Code) -> Option<ValueId> {
        match code.slot().map(|s| self.draft.kind(s)) {
            Some(Kind::Input(v)) => Some(*v),
            _ => None,
        }
    }

    fn input_name(&self, code: Code) -> String {
        self.input_of(code).map_or("?".into(), |v| self.graph.name_of(v).to_string())
    }
}

/// The states in another draft, without those that nothing reads there.
pub(super) fn moved(rows: &BTreeMap<SlotId, Row>, stepwise: Vec<Stepwise>) -> Vec<Stepwise> {
    let new = |row: &Row| renamed(rows, row);
    let moved = |s: Stepwise| {
        let slot = rows.get(&s.slot)?.first()?.slot()?;
        Some(Stepwise { slot, initial: new(&s.initial), next: new(&s.next) })
    };
    stepwise.into_iter().filter_map(moved).collect()
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
    let numbers = draft.steps().filter_map(|(_, step)| match step.kind {
        Kind::State(k) => Some(k + 1),
        _ => None,
    });
    let unused = numbers.max().unwrap_or(0);
    for s in stepwise {
        let features: Vec<usize> =
            (0..draft.width(s.slot)).filter(|&f| read.contains(&Code::reference(s.slot, 0, f))).collect();
        if features.is_empty() {
            continue;
        }
        let slot = new.push("a state", Kind::State(unused + kept.len()), features.len());
        for (k, &f) in features.iter().enumerate() {
            replaced.insert(Code::reference(s.slot, 0, f), Code::reference(slot, 0, k));
        }
        let pick = |row: &Row| -> Row { features.iter().map(|&f| row[f]).collect() };
        kept.push(Stepwise { slot, initial: pick(&s.initial), next: pick(&s.next) });
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
    let start = |row: &Row| renamed(&rows, row);
    let kept = kept
        .into_iter()
        .map(|s| Stepwise { initial: start(&s.initial), next: moved(&s.next, &rows), ..s })
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
