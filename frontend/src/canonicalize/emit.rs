//! The canonical graph of a draft.

use super::constant::Constant;
use super::draft::{Cell, Draft, Kind, SlotId, StepId, renamed};
use super::error::CanonicalizeError;
use super::outputs::Found;
use super::states::Stepwise;
use super::value::{Code, Reason, Row, Run, constants, runs, whole};
use super::{simplify, spelling};
use crate::ir::{Graph, Head, Op, Operand, OutputRole, Part, Type, ValueId, WeightId};
use crate::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet, HashSet};

type Result<T> = std::result::Result<T, CanonicalizeError>;

/// Rows of more parts than this are not joined if they repeat.
const MOST_PARTS: usize = 4;

/// The graph of what was found.
pub(super) fn emit(name: &str, found: Found) -> Result<Graph> {
    let Found { mut draft, head, row, stepwise, .. } = found;
    let words = match head {
        Head::Logits => Some(row.len()),
        Head::Hidden => None,
    };
    let (row, stepwise) = prepare(&mut draft, row, stepwise);
    let mut roots = vec![row.clone()];
    roots.extend(stepwise.iter().map(|s| s.next.clone()));
    let live = draft.live(&roots);
    let is_logits = whole(&row, &draft).filter(|_| head == Head::Logits).map(|s| draft.source(s).0);
    let mut emitter = Emitter::new(name, &draft, &live, &stepwise, words)?;
    for &id in &live {
        emitter.step(&draft, id, is_logits == Some(id))?;
    }
    emitter.finish(&draft, head, &row, &stepwise)
}

/// Spells out what language-model form has no operator for.
fn prepare(draft: &mut Draft, row: Row, stepwise: Vec<Stepwise>) -> (Row, Vec<Stepwise>) {
    let mut roots = vec![row.clone()];
    roots.extend(stepwise.iter().map(|s| s.next.clone()));
    let live = draft.live(&roots);
    let read: HashSet<Code> = live
        .iter()
        .flat_map(|&id| draft.step(id).kind.rows())
        .chain(&roots)
        .flat_map(|row| row.iter().copied())
        .collect();
    let mut new = Draft::default();
    let mut rows: BTreeMap<SlotId, Row> = BTreeMap::new();
    for (id, step) in draft.steps() {
        let first = draft.first(id);
        let replace = |row: &Row| renamed(&rows, row);
        let kind = step.kind.clone().map_rows(&mut |row| replace(row));
        let spelled = match &kind {
            Kind::Map { op, operands } => spelling::spelled_out(&mut new, &step.label, op, operands),
            Kind::Reduce { op, x } => spelling::summed(&mut new, &step.label, op, x),
            Kind::Softmax { x } => Some(spelling::softmax(&mut new, &step.label, x)),
            // Rows of a product that nothing reads any more.
            Kind::Apply { terms, bias, width } => {
                let kept: Vec<usize> =
                    (0..*width).filter(|&f| read.contains(&Code::reference(first, 0, f))).collect();
                match kept.len() {
                    0 => None,
                    n if n == *width => None,
                    _ => simplify::some_rows(&mut new, &step.label, terms, bias.as_deref(), *width, &kept),
                }
            }
            _ => None,
        };
        let results = match &kind {
            Kind::Cell(cell) => cell.op.states().len(),
            _ => 1,
        };
        let row = match spelled {
            Some(row) => row,
            None => {
                let slot = new.push(&step.label, kind, draft.width(first));
                for k in 1..results {
                    rows.insert(SlotId(first.0 + k), new.row(SlotId(slot.0 + k)));
                }
                new.row(slot)
            }
        };
        rows.insert(first, row);
    }
    *draft = new;
    (renamed(&rows, &row), super::states::moved(&rows, stepwise))
}

struct Emitter {
    graph: Graph,
    tokens: ValueId,
    /// Of each cell, in order.
    states: BTreeMap<StepId, Vec<ValueId>>,
    next_states: Vec<(ValueId, ValueId)>,
    /// The value of each slot, and those that were made from several.
    values: BTreeMap<SlotId, ValueId>,
    rows: BTreeMap<Row, ValueId>,
    embedding: Option<WeightId>,
    decoder: Option<StepId>,
    /// The number of words that are predicted.
    words: Option<usize>,
    cells: usize,
    sequences: usize,
    linears: usize,
    norms: usize,
    constants: usize,
}

impl Emitter {
    fn new(
        name: &str,
        draft: &Draft,
        live: &BTreeSet<StepId>,
        stepwise: &[Stepwise],
        words: Option<usize>,
    ) -> Result<Emitter> {
        let mut graph = Graph::new(name);
        let tokens = graph.add_source(Op::Input, "tokens", Type::tokens());
        let mut states = BTreeMap::new();
        let cells = live.iter().filter_map(|&id| match &draft.step(id).kind {
            Kind::Cell(c) => Some((id, &**c)),
            _ => None,
        });
        for (k, (id, cell)) in cells.enumerate() {
            let mut of_cell = vec![];
            for (letter, initial) in cell.op.states().iter().zip(&cell.initial) {
                let (name, ty) = (format!("{letter}{k}"), Type::state(cell.units));
                let weight = format!("{}{k}.{letter}0", cell.op.name());
                of_cell.push(state(&mut graph, &draft.step(id).label, &name, ty, &weight, initial)?);
            }
            states.insert(id, of_cell);
        }
        let mut values = BTreeMap::new();
        for (k, s) in stepwise.iter().enumerate() {
            let ty = Type::sequence(draft.width(s.slot));
            let label = &draft.step(draft.source(s.slot).0).label;
            let (name, weight) = (format!("s{k}"), format!("s{k}.initial"));
            values.insert(s.slot, state(&mut graph, label, &name, ty, &weight, &s.initial)?);
        }
        let decoder = live.iter().rev().copied().find(|&s| matches!(draft.step(s).kind, Kind::Apply { .. }));
        Ok(Emitter {
            graph,
            tokens,
            states,
            next_states: vec![],
            values,
            rows: BTreeMap::new(),
            embedding: None,
            decoder,
            words,
            cells: 0,
            sequences: 0,
            linears: 0,
            norms: 0,
            constants: 0,
        })
    }

    fn weight(&mut self, label: &str, name: &str, constant: Constant) -> Result<WeightId> {
        let map = as_map(label, constant)?;
        Ok(self.graph.add_weight(name, map).unwrap_or_else(|existing| existing))
    }

    fn vector(&mut self, label: &str, name: &str, values: Vec<f32>) -> Result<WeightId> {
        let tensor = Tensor::from_f32([values.len()], values)
            .map_err(|source| CanonicalizeError::Tensor { node: label.to_string(), source })?;
        self.weight(label, name, tensor.into())
    }

    fn add(&mut self, op: Op, operands: &[Operand], name: &str) -> Result<ValueId> {
        Ok(self.graph.add(op, operands, &[name], "")?[0])
    }

    fn sequence_name(&mut self) -> String {
        self.sequences += 1;
        format!("x{}", self.sequences - 1)
    }

    /// The value that a row of references is.
    fn read(&mut self, draft: &Draft, label: &str, row: &Row) -> Result<ValueId> {
        if let Some(&value) = self.rows.get(row) {
            return Ok(value);
        }
        if let Some(value) = self.repeated(draft, label, row)? {
            self.rows.insert(row.clone(), value);
            return Ok(value);
        }
        let mut parts = vec![];
        for run in runs(row) {
            match run {
                Run::Slot { slot, from, len } => {
                    let Some(&value) = self.values.get(&slot) else {
                        let (node, why) = (label.to_string(), "it computes with tokens as numbers".into());
                        return Err(CanonicalizeError::Unsupported { node, why });
                    };
                    parts.push(if len == draft.width(slot) {
                        value
                    } else {
                        let name = self.sequence_name();
                        self.add(Op::Features { from, to: from + len }, &[value.into()], &name)?
                    });
                }
                Run::Constants { .. } => {
                    let (node, why) = (label.to_string(), "it joins features with constants".into());
                    return Err(CanonicalizeError::Unsupported { node, why });
                }
            }
        }
        let value = match parts[..] {
            [value] => value,
            _ => {
                let name = self.sequence_name();
                let operands: Vec<Operand> = parts.iter().map(|&v| v.into()).collect();
                self.add(Op::ConcatFeatures, &operands, &name)?
            }
        };
        self.rows.insert(row.clone(), value);
        Ok(value)
    }

    /// A row of few elements that come again and again, as a product with ones.
    fn repeated(&mut self, draft: &Draft, label: &str, row: &Row) -> Result<Option<ValueId>> {
        let distinct: BTreeSet<Code> = row.iter().copied().collect();
        if runs(row).len() < 2 * runs(&Row::from_iter(distinct.iter().copied())).len().max(MOST_PARTS)
            || distinct.len() >= row.len()
            || row.iter().any(|c| c.slot().is_none())
        {
            return Ok(None);
        }
        let distinct: Vec<Code> = distinct.into_iter().collect();
        let mut ones = vec![0.0; row.len() * distinct.len()];
        for (line, code) in ones.chunks_exact_mut(distinct.len()).zip(row.iter()) {
            line[distinct.partition_point(|c| c < code)] = 1.0;
        }
        let x = self.read(draft, label, &Row::from_iter(distinct.iter().copied()))?;
        let weight = Tensor::from_f32([row.len(), distinct.len()], ones)
            .map_err(|source| CanonicalizeError::Tensor { node: label.to_string(), source })?;
        self.linears += 1;
        let weight = self.weight(label, &format!("linear{}", self.linears - 1), weight.into())?;
        let name = self.sequence_name();
        Ok(Some(self.add(Op::Linear, &[x.into(), weight.into()], &name)?))
    }

    /// An operand of an elementwise operator: a sequence, one feature of one for all, or a constant.
    fn operand(&mut self, draft: &Draft, label: &str, row: &Row) -> Result<Operand> {
        if let Some(values) = constants(row) {
            self.constants += 1;
            let name = format!("constant{}", self.constants - 1);
            let one = values.iter().all(|v| v.to_bits() == values[0].to_bits());
            if one {
                let scalar = Tensor::from_f32([], vec![values[0]]);
                let scalar =
                    scalar.map_err(|source| CanonicalizeError::Tensor { node: label.to_string(), source })?;
                return Ok(self.weight(label, &name, scalar.into())?.into());
            }
            return Ok(self.vector(label, &name, values)?.into());
        }
        let row: Row = if row.iter().all(|c| *c == row[0]) { [row[0]].into() } else { row.clone() };
        Ok(self.read(draft, label, &row)?.into())
    }

    fn step(&mut self, draft: &Draft, id: StepId, is_logits: bool) -> Result<()> {
        let step = draft.step(id);
        let label = &step.label;
        let slot = draft.first(id);
        if matches!(step.kind, Kind::OneHot | Kind::Input(_) | Kind::State(_)) || draft.is_of_token(slot) {
            return Ok(());
        }
        if let Kind::Cell(cell) = &step.kind {
            return self.cell(draft, id, label, cell);
        }
        let unsupported = |why: &str| CanonicalizeError::Unsupported { node: label.clone(), why: why.into() };
        let (op, operands): (Op, Vec<Operand>) = match &step.kind {
            Kind::Embed { token, table } => {
                let table = token_table(draft, *token, table, self.words)
                    .map_err(|why| CanonicalizeError::Unsupported { node: label.clone(), why })?;
                let table = self.weight(label, "embedding", table)?;
                self.embedding = Some(table);
                (Op::Embedding, vec![self.tokens.into(), table.into()])
            }
            Kind::Apply { terms, bias, .. } => {
                let prefix = if self.decoder == Some(id) {
                    "decoder".to_string()
                } else {
                    self.linears += 1;
                    format!("linear{}", self.linears - 1)
                };
                let mut operands: Vec<Operand> = vec![];
                let mut count = 0;
                for term in terms {
                    for (x, weight) in split(&term.x, &term.weight).map_err(|why| unsupported(&why))? {
                        let weight = as_map(label, weight)?;
                        let name = if count == 0 { prefix.clone() } else { format!("{prefix}.{count}") };
                        count += 1;
                        operands.push(self.read(draft, label, &x)?.into());
                        operands.push(match self.tied(&weight) {
                            Some(table) => table.into(),
                            None => self
                                .graph
                                .add_weight(&name, weight)
                                .unwrap_or_else(|existing| existing)
                                .into(),
                        });
                    }
                }
                if let Some(bias) = bias {
                    operands.push(self.vector(label, &format!("{prefix}.bias"), bias.clone())?.into());
                }
                (Op::Linear, operands)
            }
            Kind::Map { op, operands } => {
                if !op.is_language_model_form() {
                    return Err(unsupported("it has no place in a language model"));
                }
                let mut read = vec![];
                for row in operands {
                    read.push(self.operand(draft, label, row)?);
                }
                (op.clone(), read)
            }
            Kind::LogSoftmax { x } => (Op::LogSoftmaxFeatures, vec![self.read(draft, label, x)?.into()]),
            Kind::Softmax { .. } | Kind::Reduce { .. } => {
                return Err(unsupported("a reduction over features has no place in a language model"));
            }
            Kind::Norm { x, epsilon, scale, shift } => {
                let k = self.norms;
                self.norms += 1;
                let mut operands: Vec<Operand> = vec![self.read(draft, label, x)?.into()];
                let given = [("scale", scale), ("shift", shift)];
                for (name, values) in given {
                    operands.push(match values {
                        Some(v) => self.vector(label, &format!("norm{k}.{name}"), v.clone())?.into(),
                        None => Operand::None,
                    });
                }
                while operands.last() == Some(&Operand::None) {
                    operands.pop();
                }
                (Op::LayerNorm { epsilon: *epsilon }, operands)
            }
            Kind::Tokens | Kind::OneHot | Kind::Input(_) | Kind::State(_) | Kind::Cell(_) => return Ok(()),
        };
        let name = if is_logits { "logits".to_string() } else { self.sequence_name() };
        let value = self.add(op, &operands, &name)?;
        self.values.insert(slot, value);
        Ok(())
    }

    /// The embedding's table, if `weight` is the same matrix.
    fn tied(&self, weight: &Part) -> Option<WeightId> {
        self.embedding.filter(|&table| self.graph.weight(table).map == *weight)
    }

    fn cell(&mut self, draft: &Draft, id: StepId, label: &str, cell: &Cell) -> Result<()> {
        let k = self.cells;
        self.cells += 1;
        let states = self.states[&id].clone();
        let x = self.read(draft, label, &cell.x)?;
        let mut operands: Vec<Operand> = vec![x.into()];
        operands.extend(states.iter().map(|&s| Operand::from(s)));
        for (part, tensor) in &cell.weights {
            let name = format!("{}{k}.{part}", cell.op.name());
            operands.push(self.weight(label, &name, tensor.clone())?.into());
        }
        let mut names = vec![self.sequence_name()];
        names.extend(cell.op.states().iter().map(|letter| format!("{letter}{k}.next")));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let results = self.graph.add(cell.op.op(), &operands, &names, "")?;
        let slot = draft.first(id);
        self.values.insert(slot, results[0]);
        self.next_states.extend(states.into_iter().zip(results[1..].iter().copied()));
        Ok(())
    }

    fn finish(mut self, draft: &Draft, head: Head, row: &Row, stepwise: &[Stepwise]) -> Result<Graph> {
        let output = self.read(draft, "the output", row)?;
        self.graph.add_output(OutputRole::Named(head.name().into()), output);
        for (state, next) in std::mem::take(&mut self.next_states) {
            self.graph.add_output(OutputRole::State(state), next);
        }
        for s in stepwise {
            let next = self.read(draft, "a state", &s.next)?;
            self.graph.add_output(OutputRole::State(self.values[&s.slot]), next);
        }
        self.graph.vocabulary = self.embedding.map(|e| self.graph.weight(e).map.shape()[0]);
        Ok(self.graph)
    }
}

/// A state that starts at zero, or at constants other than zero.
fn state(
    graph: &mut Graph,
    label: &str,
    name: &str,
    ty: Type,
    weight: &str,
    initial: &Row,
) -> Result<ValueId> {
    let Some(values) = constants(initial).filter(|v| v.iter().any(|&x| x != 0.0)) else {
        return Ok(graph.add_source(Op::State, name, ty));
    };
    let start = Tensor::from_f32([values.len()], values)
        .map_err(|source| CanonicalizeError::Tensor { node: label.to_string(), source })?;
    let weight = graph.add_weight(weight, start).unwrap_or_else(|existing| existing);
    graph
        .add_state(name, ty, weight)
        .map_err(|e| CanonicalizeError::Unsupported { node: label.to_string(), why: e.to_string() })
}

/// The terms of a product with a row: one for each run that it consists of.
fn split(x: &Row, weight: &Constant) -> std::result::Result<Vec<(Row, Constant)>, String> {
    let mut parts: BTreeMap<SlotId, Vec<usize>> = BTreeMap::new();
    for (k, code) in x.iter().enumerate() {
        parts.entry(code.slot().ok_or("constants among the features")?).or_default().push(k);
    }
    let mut terms = vec![];
    for (_, mut columns) in parts {
        columns.sort_by_key(|&k| x[k].feature());
        let row: Row = columns.iter().map(|&k| x[k]).collect();
        if row.windows(2).any(|w| w[0] == w[1]) {
            return Err("it reads a feature twice".into());
        }
        let in_order = columns.len() == x.len() && columns.windows(2).all(|w| w[0] < w[1]);
        let weight = match in_order {
            true => weight.clone(),
            false => weight.picked(1, &columns).map_err(|w| format!("{w:?}"))?,
        };
        // One slice per run: what lies between is not read.
        let mut from = 0;
        let found = runs(&row);
        let count = found.len();
        for run in found {
            let range: Vec<usize> = (from..from + run.len()).collect();
            let part: Row = row[from..from + run.len()].into();
            from += run.len();
            let weight = match count {
                1 => weight.clone(),
                _ => weight.picked(1, &range).map_err(|w| format!("{w:?}"))?,
            };
            terms.push((part, weight));
        }
    }
    Ok(terms)
}

/// The table by token, where what is looked up is computed from the token, or the table has rows that no token needs.
fn token_table(
    draft: &Draft,
    token: Code,
    table: &Constant,
    words: Option<usize>,
) -> std::result::Result<Constant, String> {
    let rows = table.shape()[0];
    let is_token = token.slot().is_some_and(|s| *draft.kind(s) == Kind::Tokens);
    let words = words.unwrap_or(rows);
    if is_token && words == rows {
        return Ok(table.clone());
    }
    if is_token && words > rows {
        return Err(format!("the embedding has {rows} rows and the output {words} words"));
    }
    let mut indices = vec![];
    for word in 0..words {
        let row = draft
            .token_value(token, word as f32)
            .ok_or("it computes with tokens in a way that is not known")?;
        if row < 0.0 || row as usize >= rows {
            // Of a model without logits, tokens end where the table does.
            break;
        }
        indices.push(row as usize);
    }
    table.picked(0, &indices).map_err(|w| format!("{w:?}"))
}

/// The constant as a map of f32s or codes.
fn as_map(label: &str, constant: Constant) -> Result<Part> {
    constant.into_map().map_err(|why| CanonicalizeError::of(&Reason { node: label.to_string(), why }))
}
