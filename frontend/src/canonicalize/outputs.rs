//! Which output is the logits, what the states are, and how they come back.

use super::cells;
use super::draft::{Draft, Kind, SlotId, StepId, renamed};
use super::error::{CanonicalizeError, label};
use super::evaluate::Evaluator;
use super::loops::body_of;
use super::simplify::{Simplified, joined, simplify, unshifted};
use super::sizes::Sizes;
use super::states::{Stepwise, moved, related, states_of};
use super::value::{Abstract, Array, Code, Reason, Row, Why, constants, whole};
use crate::ir::{Binary, Graph, Head, Onnx, Op, Operand, OutputRole, Reduction, ValueId};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

type Result<T> = std::result::Result<T, CanonicalizeError>;

/// An output of the generic graph.
pub(super) struct Output {
    pub(super) name: String,
    pub(super) role: OutputRole,
    pub(super) value: std::result::Result<Array, Rc<Reason>>,
}

/// A language model found in a draft.
pub(super) struct Found {
    pub(super) draft: Draft,
    pub(super) head: Head,
    /// Logits, or the hidden vector.
    pub(super) row: Row,
    /// The states that steps read.
    pub(super) stepwise: Vec<Stepwise>,
    pub(super) notes: Vec<String>,
    /// The output, by position among the graph's, and its elements: the position and the feature of each.
    pub(super) output: Option<(usize, Vec<(usize, usize)>)>,
    /// Whether the output is the negative of log-probabilities.
    pub(super) negated: bool,
}

/// An output as one vector at some positions.
pub(super) struct View {
    pub(super) row: Row,
    /// Of each element: its position, and where it is in the vector.
    elements: Vec<(usize, usize)>,
}

impl View {
    pub(super) fn of(array: &Array) -> Option<View> {
        let mut rows: BTreeMap<usize, Vec<Code>> = BTreeMap::new();
        let mut elements = vec![];
        for &code in array.codes() {
            let code = Code(code);
            let position = code.position()?;
            let row = rows.entry(position).or_default();
            elements.push((position, row.len()));
            row.push(code.anywhere());
        }
        let mut rows = rows.into_values();
        let row = rows.next()?;
        rows.all(|r| r == row).then(|| View { row: row.into(), elements })
    }

    /// Only the last of several time steps.
    fn is_last(&self, steps: usize, streams: usize) -> bool {
        steps > 1 && self.elements.iter().all(|(p, _)| p / streams + 1 == steps)
    }
}

/// What an evaluation came to.
pub(super) fn find(evaluator: Evaluator<'_>) -> Result<Found> {
    let graph = evaluator.graph;
    let sizes = evaluator.sizes;
    let outputs = graph.outputs().iter().map(|o| {
        let name = match &o.role {
            OutputRole::Named(n) => n.clone(),
            OutputRole::State(s) => graph.name_of(*s).to_string(),
        };
        let value = match evaluator.value(o.value) {
            Abstract::Array(a) => Ok(a.clone()),
            Abstract::Constant(_) => Err(Rc::new(Reason {
                node: format!("output `{name}`"),
                why: Why::Other("it is a constant".into()),
            })),
            Abstract::Poison(reason) => Err(reason.clone()),
        };
        Output { name, role: o.role.clone(), value }
    });
    let outputs: Vec<Output> = outputs.collect();
    let (steps, streams) = (sizes.steps, sizes.streams);
    let Evaluator { draft, carried, .. } = evaluator;
    let mut finder = Finder { graph, sizes, steps, streams, draft, outputs, carried };
    finder.simplify()?;
    finder.start_cells()?;
    finder.find()
}

pub(super) struct Finder<'g> {
    pub(super) graph: &'g Graph,
    pub(super) sizes: &'g Sizes,
    pub(super) steps: usize,
    pub(super) streams: usize,
    pub(super) draft: Draft,
    pub(super) outputs: Vec<Output>,
    /// The states of loops over the time steps.
    pub(super) carried: Vec<Stepwise>,
}

/// A vector over the vocabulary, or a hidden one.
struct Candidate {
    /// The output that is, if any is.
    output: Option<usize>,
    row: Row,
}

impl Finder<'_> {
    /// Makes the draft simpler, and the outputs' codes those of the new one.
    fn simplify(&mut self) -> Result<()> {
        let mut rows: Vec<Row> = vec![];
        for output in &self.outputs {
            if let Ok(array) = &output.value {
                let codes: BTreeSet<Code> = array.codes().iter().map(|&c| Code(c).anywhere()).collect();
                rows.push(codes.into_iter().collect());
            }
        }
        // What no output shows may be inside a loss.
        let inside = self
            .draft
            .steps()
            .filter(|(_, s)| matches!(s.kind, Kind::LogSoftmax { .. } | Kind::Softmax { .. }));
        rows.extend(inside.map(|(id, _)| self.draft.row(self.draft.first(id))));
        rows.extend(self.carried.iter().flat_map(|s| [s.initial.clone(), s.next.clone()]));
        let Simplified { draft, rows } =
            simplify(&self.draft, &rows).map_err(|why| wrong("simplifying", why))?;
        for output in &mut self.outputs {
            if let Ok(array) = &mut output.value {
                let codes = array.codes().iter().map(|&c| {
                    let c = Code(c);
                    match (c.slot(), c.position()) {
                        (Some(slot), Some(position)) => rows[&slot][c.feature()].at(position).0,
                        _ => c.0,
                    }
                });
                let codes = super::evaluate::tensor(array.shape(), codes.collect());
                array.codes = codes.map_err(|why| wrong("simplifying", why))?;
            }
        }
        self.carried = moved(&rows, std::mem::take(&mut self.carried));
        self.draft = draft;
        Ok(())
    }

    fn is_cell(&self, slot: SlotId) -> bool {
        matches!(self.draft.kind(slot), Kind::Cell(_))
    }

    /// Whether an element is the next value of a loop's state.
    fn is_carried(&self, code: Code) -> bool {
        self.carried.iter().any(|s| s.next.contains(&code))
    }

    /// Whether an output is states after the last step: of cells, and of an input's form if they could be the vectors of this step too.
    pub(super) fn is_final(&self, output: &Output) -> bool {
        let Ok(array) = &output.value else { return false };
        let is_state = |c: &i64| {
            let c = Code(*c);
            let last = c.position().is_some_and(|p| p / self.streams + 1 == self.steps);
            last && (c.slot().is_some_and(|s| self.is_cell(s)) || self.is_carried(c.anywhere()))
        };
        let mut codes = array.codes().iter();
        codes.all(is_state)
            && (self.steps > 1 || matches!(output.role, OutputRole::State(_)) || self.comes_back(output))
    }

    /// Whether an output has the next values of all of an input, and no other output has them in the input's shape.
    fn comes_back(&self, output: &Output) -> bool {
        let next = |input: ValueId| {
            let parts = self.parts(|_| true);
            let elements = parts.iter().flat_map(|p| p.initial.iter().zip(p.next.iter()));
            let starts = |c: &Code| c.slot().is_some_and(|s| *self.draft.kind(s) == Kind::Input(input));
            elements.filter(|(start, _)| starts(start)).map(|(_, &next)| next).collect::<BTreeSet<Code>>()
        };
        let all = |o: &Output| -> BTreeSet<Code> {
            o.value.iter().flat_map(|a| a.codes().iter().map(|&c| Code(c).anywhere())).collect()
        };
        let shape = |o: &Output| o.value.as_ref().map(|a| a.shape().to_vec()).unwrap_or_default();
        let found = all(output);
        let inputs = self.draft.steps().filter_map(|(_, s)| match s.kind {
            Kind::Input(v) => Some(v),
            _ => None,
        });
        inputs.into_iter().any(|input| {
            let like = self.sizes.shape(input);
            let others = self.outputs.iter().filter(|o| !std::ptr::eq(*o, output));
            let better = others.filter(|o| all(o) == found && shape(o) == like).count();
            if next(input) != found {
                return false;
            }
            // Of two that are the same, the one that is named after the input, or else the last, is the state.
            let twins: Vec<&Output> =
                self.outputs.iter().filter(|o| all(o) == found && shape(o) == shape(output)).collect();
            let named = |o: &&Output| related(self.graph.name_of(input), &o.name);
            let state = twins.iter().copied().find(named).or(twins.last().copied());
            state.is_some_and(|s| std::ptr::eq(s, output)) && (shape(output) == like || better == 0)
        })
    }

    /// The embeddings that a row needs, each with its number of words; the inputs; and whether a cell is among the steps.
    pub(super) fn needs(&self, row: &Row) -> (Vec<(StepId, usize)>, Vec<ValueId>, bool) {
        let (mut tables, mut inputs, mut has_cell) = (vec![], vec![], false);
        for id in self.live(std::slice::from_ref(row)) {
            match &self.draft.step(id).kind {
                Kind::Embed { token, table } => tables.push((id, self.draft.words(*token, table.shape()[0]))),
                Kind::OneHot => tables.push((id, self.draft.width(self.draft.first(id)))),
                Kind::Input(v) => inputs.push(*v),
                Kind::Cell(_) | Kind::State(_) => has_cell = true,
                _ => {}
            }
        }
        (tables, inputs, has_cell)
    }

    /// The model: its output, its states, and notes of what was dropped.
    fn find(mut self) -> Result<Found> {
        let mut notes = vec![];
        let Candidate { output, row } = self.candidate(&mut notes)?;
        let view = output.and_then(|k| View::of(self.outputs[k].value.as_ref().ok()?));
        let (row, head, negated) = self.peel(row, &mut notes);
        if let (Some(view), Head::Logits) = (&view, head)
            && view.is_last(self.steps, self.streams)
        {
            notes.push(
                "the model returns the logits of the last step only; the compiled one has them all".into(),
            );
        }
        let (tables, inputs, _) = self.needs(&row);
        if tables.len() != 1 {
            return Err(CanonicalizeError::Embeddings { found: tables.len() });
        }
        let words = row.len();
        match (head, tables[0].1) {
            // A vector of features instead of a one-hot vector.
            (_, rows) if self.sizes.one_hot && rows != words => return Err(self.no_tokens()),
            (Head::Hidden, rows) if output.is_some_and(|k| sounds_like_logits(&self.outputs[k].name)) => {
                let output = output.map_or(String::new(), |k| self.outputs[k].name.clone());
                return Err(CanonicalizeError::Named { output, features: words, vocabulary: rows });
            }
            (Head::Hidden, rows) => notes.push(format!(
                "the output has {words} features and the vocabulary {rows} words: the model gives a vector, not probabilities of words"
            )),
            (Head::Logits, rows) if rows > words => notes.push(format!(
                "{words} words are predicted, and the embedding has {rows} rows: the others were dropped"
            )),
            _ => {}
        }
        let stepwise = self.stepwise(&row, &inputs)?;
        let mut roots: Vec<Row> = vec![row.clone()];
        roots.extend(stepwise.iter().map(|s| s.next.clone()));
        self.check_states(&roots)?;
        for (k, other) in self.outputs.iter().enumerate() {
            let mut starts = stepwise.iter().filter_map(|s| self.input_of(*s.initial.first()?));
            let is_next = starts.any(|input| self.next_of(input) == Some(k));
            if output.is_some() && Some(k) != output && !is_next && !self.is_final(other) {
                notes.push(format!("dropped output `{}`, which is neither logits nor a state", other.name));
            }
        }
        let mut draft = self.draft;
        let (mut row, mut stepwise) = (row, stepwise);
        if let Some((recognised, rows)) =
            cells::recognise(&draft, &stepwise).map_err(|why| wrong("recognising cells", why))?
        {
            (row, stepwise) = (renamed(&rows, &row), moved(&rows, stepwise));
            draft = recognised;
        }
        let (draft, row, stepwise) = states_of(&draft, &row, stepwise);
        let mut roots: Vec<Row> = vec![row.clone()];
        roots.extend(stepwise.iter().flat_map(|s| [s.initial.clone(), s.next.clone()]));
        let Simplified { mut draft, rows } =
            simplify(&draft, &roots).map_err(|why| wrong("simplifying", why))?;
        let (mut row, stepwise) = (renamed(&rows, &row), moved(&rows, stepwise));
        if head == Head::Logits {
            row = joined(&mut draft, &row).map_err(|why| wrong("the output", why))?;
        }
        let starts_at_input = |id: StepId| match &draft.step(id).kind {
            Kind::Cell(cell) => cell.initial.iter().any(|row| row.iter().any(|c| c.slot().is_some())),
            _ => false,
        };
        let has_input = stepwise.iter().any(|s| s.initial.iter().any(|c| c.slot().is_some()));
        if !has_input && !draft.steps().any(|(id, _)| starts_at_input(id)) {
            notes.push("the model has no state inputs; its states became explicit".into());
        }
        let output = output.zip(view).map(|(k, v)| (k, v.elements));
        Ok(Found { draft, head, row, stepwise, notes, output, negated })
    }

    /// Without a softmax at the end, or the sign of costs.
    fn peel(&mut self, row: Row, notes: &mut Vec<String>) -> (Row, Head, bool) {
        let (tables, ..) = self.needs(&row);
        let mut negated = false;
        let mut inner = row.clone();
        let is_logits = tables.iter().any(|(_, rows)| *rows == row.len());
        if is_logits && let Some(x) = self.exponent(&row) {
            notes.push("dropped the exponential at the end: the output is logits".into());
            inner = x;
        } else if is_logits
            && !whole(&row, &self.draft).is_some_and(|s| matches!(self.draft.kind(s), Kind::Softmax { .. }))
            && row.iter().all(|&c| self.is_probability(c, row.len()))
        {
            notes.push("the output is the logarithm of the probabilities that the model computes".into());
            let kind = Kind::Map { op: Op::Onnx(Onnx::Log {}), operands: vec![row.clone()] };
            let slot = self.draft.push("the output", kind, row.len());
            return (self.draft.row(slot), Head::Logits, false);
        }
        if let Some(Kind::Map { op, operands }) = whole(&row, &self.draft).map(|s| self.draft.kind(s)) {
            let x = match (op, &operands[..]) {
                (Op::Onnx(Onnx::Neg {}), [x]) => Some(x),
                (Op::Binary(Binary::Sub), [zero, x])
                    if constants(zero).is_some_and(|z| z.iter().all(|&z| z == 0.0)) =>
                {
                    Some(x)
                }
                (Op::Binary(Binary::Mul), [a, b]) if is_minus_one(a) || is_minus_one(b) => {
                    Some(if is_minus_one(a) { b } else { a })
                }
                _ => None,
            };
            if let Some(x) = x
                && matches!(whole(x, &self.draft).map(|s| self.draft.kind(s)), Some(Kind::LogSoftmax { .. }))
            {
                notes.push(
                    "the model returns costs, the negative of log-probabilities; the output is logits".into(),
                );
                (inner, negated) = (x.clone(), true);
            }
        }
        match whole(&inner, &self.draft).map(|s| self.draft.kind(s)) {
            Some(Kind::LogSoftmax { x }) => {
                notes.push("dropped the log_softmax at the end: the output is logits".into());
                (x.clone(), Head::Logits, negated)
            }
            Some(Kind::Softmax { x }) => {
                notes.push("dropped the softmax at the end: the output is logits".into());
                (x.clone(), Head::Logits, negated)
            }
            // What is subtracted from all logits changes no probability.
            _ if is_logits => (unshifted(&self.draft, &inner), Head::Logits, false),
            _ => (row, Head::Hidden, false),
        }
    }

    /// The row whose exponential a row is.
    fn exponent(&self, row: &Row) -> Option<Row> {
        match self.draft.kind(whole(row, &self.draft)?) {
            Kind::Map { op: Op::Onnx(Onnx::Exp {}), operands } => Some(operands[0].clone()),
            _ => None,
        }
    }

    /// Whether an element is computed from exponentials, and from softmaxes of at least so many features, by weighting and adding them, as the
    /// probabilities of a mixture or of classes of words are.
    fn is_probability(&self, code: Code, least: usize) -> bool {
        let Some(slot) = code.slot() else { return false };
        match self.draft.kind(slot) {
            Kind::Softmax { x } => x.len() >= least,
            Kind::Reduce { op: Op::Reduce { kind: Reduction::Sum, .. }, x } => {
                x.iter().all(|&c| self.is_probability(c, least))
            }
            Kind::Map { op, operands } => {
                let mut of = operands.iter().map(|row| row[code.feature()]).filter(|c| c.slot().is_some());
                let is = |c: Code| self.is_probability(c, least);
                match op {
                    Op::Onnx(Onnx::Exp {}) => true,
                    // A word's probability by any weight, or a class's by that of the word in it.
                    Op::Binary(Binary::Mul) => of.clone().any(is) || of.all(|c| self.is_probability(c, 0)),
                    Op::Binary(Binary::Div) => is(operands[0][code.feature()]),
                    Op::Binary(Binary::Add | Binary::Max | Binary::Min) | Op::Onnx(Onnx::Clip {}) => {
                        of.all(is)
                    }
                    _ => false,
                }
            }
            _ => false,
        }
    }

    /// The output over the vocabulary; a hidden vector if there is none.
    fn candidate(&self, notes: &mut Vec<String>) -> Result<Candidate> {
        let mut best: Option<((bool, i32, SlotId), Candidate)> = None;
        let (mut hidden, mut depends): (Option<Candidate>, Option<ValueId>) = (None, None);
        let mut without_cell = false;
        let mut last: Option<Candidate> = None;
        let has_inputs = self.draft.steps().any(|(_, s)| matches!(s.kind, Kind::Input(_)));
        for (k, output) in self.outputs.iter().enumerate() {
            if self.next_is(k) {
                continue;
            }
            if self.is_final(output) {
                // The last output may be returned by itself besides the states.
                let view = output.value.as_ref().ok().and_then(View::of);
                let is_output = |c: &Code| c.slot().is_some_and(|s| self.draft.source(s).1 == 0);
                let codes = |o: &Output| o.value.as_ref().map(|a| a.codes().to_vec()).ok();
                let shape = output.value.as_ref().map_or(&[][..], |a| a.shape());
                let like = |v: ValueId| v != self.sizes.tokens && self.sizes.shape(v) == shape;
                let is_twin =
                    |o: &Output| !std::ptr::eq(o, output) && codes(o) == codes(output) && self.comes_back(o);
                let is_state = self.comes_back(output)
                    || self.sizes.inputs().any(like) && !self.outputs.iter().any(is_twin);
                // Of a model without state inputs it is the last layer's.
                let is_read = |row: &Row| {
                    let slots: BTreeSet<_> = row.iter().filter_map(|c| c.slot()).collect();
                    let reads = |row: &&Row| row.iter().any(|c| c.slot().is_some_and(|s| slots.contains(&s)));
                    slots.len() > 1 || self.draft.steps().any(|(_, s)| s.kind.rows().iter().any(reads))
                };
                if let Some(view) = view.filter(|v| !is_state && v.row.iter().all(is_output))
                    && (has_inputs || last.is_none() && !is_read(&view.row))
                {
                    last = Some(Candidate { output: Some(k), row: view.row });
                }
                continue;
            }
            let Some(view) = output.value.as_ref().ok().and_then(View::of) else { continue };
            let (tables, inputs, has_cell) = self.needs(&view.row);
            if tables.is_empty() {
                continue;
            }
            if let Some(&extra) = inputs.iter().find(|v| self.next_of(**v).is_none()) {
                depends = Some(extra);
                continue;
            }
            if !has_cell && inputs.is_empty() {
                without_cell = true;
                continue;
            }
            let slot = view.row.iter().filter_map(|c| c.slot()).max().unwrap_or(SlotId(0));
            let is_normalised =
                |s: SlotId| matches!(self.draft.kind(s), Kind::LogSoftmax { .. } | Kind::Softmax { .. });
            let width = view.row.len();
            let more = usize::from(whole(&view.row, &self.draft).is_some_and(is_normalised));
            let fits = tables.iter().any(|(_, rows)| (width..=width + more).contains(rows));
            let candidate = Candidate { output: Some(k), row: view.row };
            if !fits {
                hidden = Some(candidate);
                continue;
            }
            let key = (true, name_score(&output.name), slot);
            if best.as_ref().is_none_or(|(b, _)| key > *b) {
                best = Some((key, candidate));
            }
        }
        if let Some((_, candidate)) = best {
            return Ok(candidate);
        }
        if let Some(row) = self.inside()? {
            let names: Vec<&str> =
                self.outputs.iter().filter(|o| !self.is_final(o)).map(|o| o.name.as_str()).collect();
            notes.push(format!(
                "the model returns no logits but what is computed from them ({}): the language model inside was taken",
                names.join(", ")
            ));
            return Ok(Candidate { output: None, row });
        }
        if let Some(candidate) = hidden.or(last) {
            return Ok(candidate);
        }
        if let Some(input) = depends {
            let input = format!("%{}: {}", self.graph.name_of(input), self.graph.type_of(input));
            return Err(CanonicalizeError::DependsOnInput { input });
        }
        if let Some(error) = self.reason() {
            return Err(error);
        }
        if without_cell {
            return Err(CanonicalizeError::NoCell);
        }
        Err(self.no_logits())
    }

    fn no_tokens(&self) -> CanonicalizeError {
        let inputs = self.graph.sources(&Op::Input);
        let show = |v: &ValueId| format!("%{}: {}", self.graph.name_of(*v), self.graph.type_of(*v));
        CanonicalizeError::NoTokens { inputs: inputs.iter().map(show).collect() }
    }

    fn no_logits(&self) -> CanonicalizeError {
        let vocabulary = self.draft.steps().find_map(|(_, s)| match &s.kind {
            Kind::Embed { table, .. } => Some(table.shape()[0]),
            _ => None,
        });
        let outputs = self.graph.outputs().iter().zip(&self.outputs);
        let outputs =
            outputs.map(|(o, out)| format!("{}: {}", out.name, self.graph.type_of(o.value))).collect();
        CanonicalizeError::NoLogits { vocabulary: vocabulary.unwrap_or(0), outputs }
    }

    /// The first reason why an output has no form.
    fn reason(&self) -> Option<CanonicalizeError> {
        let reason = self.outputs.iter().find_map(|o| o.value.as_ref().err())?;
        Some(self.explained(reason))
    }

    /// A reason, with all operators that are not known if it is one.
    fn explained(&self, reason: &Reason) -> CanonicalizeError {
        let Why::Operator(_) = reason.why else { return CanonicalizeError::of(reason) };
        let mut found: BTreeMap<String, (usize, String)> = BTreeMap::new();
        unknown(self.graph, &mut found);
        let show = |(name, (count, first)): (String, (usize, String))| match count {
            1 => format!("{name} ({first})"),
            n => format!("{name} ({n} times, first {first})"),
        };
        CanonicalizeError::Operators { operators: found.into_iter().map(show).collect() }
    }

    /// The only softmax over the vocabulary, if no output shows it.
    fn inside(&self) -> Result<Option<Row>> {
        let (mut found, mut seen): (Vec<Row>, Vec<&Row>) = (vec![], vec![]);
        for (id, step) in self.draft.steps() {
            let (Kind::LogSoftmax { x } | Kind::Softmax { x }) = &step.kind else { continue };
            let (tables, inputs, has_cell) = self.needs(x);
            let fits = tables.iter().any(|(_, rows)| *rows == x.len());
            // A softmax and its logarithm are one.
            if fits && has_cell && inputs.is_empty() && !seen.contains(&x) {
                seen.push(x);
                found.push(self.draft.row(self.draft.first(id)));
            }
        }
        match found.len() {
            0 => Ok(None),
            1 => Ok(found.pop()),
            n => Err(CanonicalizeError::Unsupported {
                node: "the model".into(),
                why: format!(
                    "it computes {n} softmaxes over the vocabulary, such as of a mixture or an ensemble"
                ),
            }),
        }
    }
}

/// The unknown operators that a graph's outputs need, by name, with the number of nodes and the first one.
fn unknown(graph: &Graph, found: &mut BTreeMap<String, (usize, String)>) {
    let (mut seen, mut stack) = (BTreeSet::new(), vec![]);
    stack.extend(graph.outputs().iter().map(|o| o.value));
    while let Some(v) = stack.pop() {
        let id = graph.producer(v);
        if !seen.insert(id) {
            continue;
        }
        let node = graph.node(id);
        if let Op::Unknown { name, .. } = &node.op {
            found.entry(name.clone()).or_insert_with(|| (0, label(graph, node))).0 += 1;
        }
        if let Some((body, _)) = body_of(&node.op) {
            unknown(body, found);
        }
        stack.extend(node.operands().iter().filter_map(|o| match o {
            Operand::Value(v) => Some(*v),
            _ => None,
        }));
    }
}

fn is_minus_one(row: &Row) -> bool {
    constants(row).is_some_and(|c| c.iter().all(|&c| c == -1.0))
}

/// Whether a name says that the output is about words.
pub(super) fn sounds_like_logits(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["logit", "prob", "score"].iter().any(|part| name.contains(part))
}

/// How much a name sounds like logits.
fn name_score(name: &str) -> i32 {
    let name = name.to_ascii_lowercase();
    if name == "logits" {
        return 3;
    }
    sounds_like_logits(&name).into()
}

fn wrong(node: &str, why: Why) -> CanonicalizeError {
    let reason = Reason { node: node.to_string(), why };
    CanonicalizeError::of(&reason)
}
