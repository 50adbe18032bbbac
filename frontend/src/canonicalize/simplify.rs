//! A simpler draft that computes the same: constants and sums go into products, and what is written out becomes one step.
//!
//! ```text
//!   W x + b + c, (W x) / t, W x + V y          one product
//!   log(softmax x), x - log sum exp x          log-softmax
//!   (x - mean) / sqrt(variance + e)            layer normalisation
//! ```

use super::constant::{Constant, wrong};
use super::draft::{Draft, Kind, SlotId, StepId, Term, renamed};
use super::evaluate::{Result, evaluate_one, other};
use super::value::{Code, Row, Run, constants, runs, whole};
use crate::ir::{Binary, Onnx, Op, Reduction};
use crate::tensor::Tensor;
use std::collections::{BTreeMap, HashMap, HashSet};

/// A simpler draft.
pub(super) struct Simplified {
    pub(super) draft: Draft,
    /// What each result of the old draft that is needed is now.
    pub(super) rows: BTreeMap<SlotId, Row>,
}

/// The draft of what `rows` need, simpler.
pub(super) fn simplify(draft: &Draft, rows: &[Row]) -> Result<Simplified> {
    let mut live = draft.live(rows);
    let initial = |id: &StepId| match &draft.step(*id).kind {
        Kind::Cell(cell) => cell.initial.iter().flat_map(|row| row.iter()).filter_map(|c| c.slot()).collect(),
        _ => vec![],
    };
    let starts: Vec<SlotId> = live.iter().flat_map(initial).collect();
    live.extend(starts.into_iter().map(|s| draft.source(s).0));
    let mut uses: HashMap<Code, usize> = HashMap::new();
    let mut count = |row: &[Code]| row.iter().for_each(|&c| *uses.entry(c).or_default() += 1);
    rows.iter().for_each(|row| count(row));
    for &step in &live {
        draft.step(step).kind.rows().into_iter().for_each(|row| count(row));
    }
    let mut simplifier =
        Simplifier { old: draft, new: Draft::default(), rows: BTreeMap::new(), uses, single: HashSet::new() };
    for step in live {
        simplifier.step(step)?;
    }
    Ok(Simplified { draft: simplifier.new, rows: simplifier.rows })
}

/// The row without a number that is subtracted from all of its elements.
pub(super) fn unshifted(draft: &Draft, x: &Row) -> Row {
    if let Some(Kind::Map { op: Op::Binary(Binary::Sub), operands }) = whole(x, draft).map(|s| draft.kind(s))
        && let [inner, number] = &operands[..]
        && number.iter().all(|c| *c == number[0])
    {
        return inner.clone();
    }
    x.clone()
}

/// The row as one product, if it is several side by side.
pub(super) fn joined(draft: &mut Draft, row: &Row) -> Result<Row> {
    let mut parts = vec![];
    for run in runs(row) {
        let Run::Slot { slot, from: 0, len } = run else { return Ok(row.clone()) };
        let Kind::Apply { terms, bias, width } = draft.kind(slot) else { return Ok(row.clone()) };
        if len != *width {
            return Ok(row.clone());
        }
        parts.push((terms.clone(), bias.clone(), len));
    }
    if parts.len() < 2 {
        return Ok(row.clone());
    }
    // Each part has the rows of its own terms, and zeros for those that it has not.
    let mut inputs: Vec<Row> = vec![];
    for (terms, _, _) in &parts {
        inputs.extend(terms.iter().map(|t| t.x.clone()).filter(|x| !inputs.contains(x)).collect::<Vec<_>>());
    }
    let mut terms = vec![];
    for x in inputs {
        let mut blocks = vec![];
        for (of, _, len) in &parts {
            blocks.push(match of.iter().find(|t| t.x == x) {
                Some(term) => term.weight.clone(),
                None => Tensor::from_f32([*len, x.len()], vec![0.0; len * x.len()]).map_err(wrong)?.into(),
            });
        }
        terms.push(Term { x, weight: Constant::stacked(&blocks)? });
    }
    let has_bias = parts.iter().any(|(_, b, _)| b.is_some());
    let bias = parts.iter().flat_map(|(_, b, len)| b.clone().unwrap_or_else(|| vec![0.0; *len])).collect();
    let (width, bias) = (row.len(), has_bias.then_some(bias));
    let slot = draft.push("the output", Kind::Apply { width, terms, bias }, width);
    Ok(draft.row(slot))
}

struct Simplifier<'d> {
    old: &'d Draft,
    new: Draft,
    /// What each old result is now.
    rows: BTreeMap<SlotId, Row>,
    /// Readers of the elements of old results.
    uses: HashMap<Code, usize>,
    /// Elements of new results with one reader, which may take them over.
    single: HashSet<Code>,
}

impl Simplifier<'_> {
    fn row(&self, row: &Row) -> Row {
        renamed(&self.rows, row)
    }

    fn step(&mut self, id: StepId) -> Result<()> {
        let step = self.old.step(id);
        let first = self.old.first(id);
        let width = self.old.width(first);
        let kind = step.kind.clone().map_rows(&mut |row| self.row(row));
        let result = match kind {
            Kind::Map { op, operands } => self.map(&step.label, &op, &operands, width)?,
            Kind::LogSoftmax { x } => {
                let x = self.shifted(&x);
                self.push(&step.label, Kind::LogSoftmax { x }, width)
            }
            Kind::Softmax { x } => {
                let x = self.shifted(&x);
                self.push(&step.label, Kind::Softmax { x }, width)
            }
            Kind::Apply { terms, bias, .. } => self.apply(&step.label, terms, bias, width)?,
            Kind::Cell(mut cell) => {
                if let Some(words) = self.one_hot(&cell.x) {
                    let mut one = vec![0.0; words * words];
                    one.iter_mut().step_by(words + 1).for_each(|x| *x = 1.0);
                    let table = Tensor::from_f32([words, words], one).map_err(wrong)?.into();
                    cell.x = self.embed(&step.label, table);
                }
                self.push(&step.label, Kind::Cell(cell), width)
            }
            kind => self.push(&step.label, kind, width),
        };
        for (f, &code) in result.iter().enumerate() {
            if self.uses.get(&Code::reference(first, 0, f)) == Some(&1) {
                self.single.insert(code);
            }
        }
        self.rows.insert(first, result);
        if let Kind::Cell(cell) = &step.kind {
            let new = self.rows[&first][0].slot().expect("a step");
            for k in 1..cell.op.states().len() {
                self.rows.insert(SlotId(first.0 + k), self.new.row(SlotId(new.0 + k)));
            }
        }
        Ok(())
    }

    fn push(&mut self, label: &str, kind: Kind, width: usize) -> Row {
        let slot = self.new.push(label, kind, width);
        let row = self.new.row(slot);
        // Another reader of an equal step.
        row.iter().for_each(|c| {
            self.single.remove(c);
        });
        row
    }

    /// A product that this row is, and nothing else reads.
    fn product(&self, row: &Row) -> Option<(Vec<Term>, Option<Vec<f32>>)> {
        let [Run::Slot { slot, from, len }] = runs(row)[..] else { return None };
        let Kind::Apply { terms, bias, width } = self.new.kind(slot) else { return None };
        if !row.iter().all(|c| self.single.contains(c)) {
            return None;
        }
        if len == *width {
            return Some((terms.clone(), bias.clone()));
        }
        // Some of its rows.
        let kept: Vec<usize> = (from..from + len).collect();
        let pick = |t: &Term| Some(Term { x: t.x.clone(), weight: t.weight.picked(0, &kept).ok()? });
        let bias = bias.as_ref().map(|b| b[from..from + len].to_vec());
        Some((terms.iter().map(pick).collect::<Option<_>>()?, bias))
    }

    /// The number of words, if a row is a one-hot vector.
    fn one_hot(&self, row: &Row) -> Option<usize> {
        whole(row, &self.new).filter(|s| *self.new.kind(*s) == Kind::OneHot).map(|_| row.len())
    }

    fn embed(&mut self, label: &str, table: Constant) -> Row {
        let width = table.shape()[1];
        let token = Code::reference(self.new.push(label, Kind::Tokens, 1), 0, 0);
        self.push(label, Kind::Embed { token, table }, width)
    }

    /// A product; with a one-hot vector it is a row of the transposed weight.
    fn apply(
        &mut self,
        label: &str,
        terms: Vec<Term>,
        mut bias: Option<Vec<f32>>,
        width: usize,
    ) -> Result<Row> {
        let (words, terms): (Vec<Term>, Vec<Term>) =
            terms.into_iter().partition(|t| self.one_hot(&t.x).is_some());
        let mut embedded: Vec<Row> = vec![];
        for term in words {
            let mut table = term.weight.transposed(vec![1, 0])?;
            if terms.is_empty()
                && let Some(bias) = bias.take()
            {
                let bias = Tensor::from_f32([bias.len()], bias).map_err(wrong)?;
                table = evaluate_one(&Op::Binary(Binary::Add), &[table.dense()?, bias])?.into();
            }
            embedded.push(self.embed(label, table));
        }
        if !terms.is_empty() {
            embedded.push(self.push(label, Kind::Apply { width, terms, bias }, width));
        }
        let mut sum = embedded.remove(0);
        for row in embedded {
            sum =
                self.push(label, Kind::Map { op: Op::Binary(Binary::Add), operands: vec![sum, row] }, width);
        }
        Ok(sum)
    }

    fn map(&mut self, label: &str, op: &Op, operands: &[Row], width: usize) -> Result<Row> {
        if let [a, b] = operands
            && let Op::Binary(op) = op
        {
            let made = match op {
                Binary::Add | Binary::Sub => self.sum(label, a, b, *op == Binary::Sub, width)?,
                Binary::Mul | Binary::Div => self.scaled(label, a, b, *op == Binary::Div, width)?,
                _ => None,
            };
            if let Some(row) = made {
                return Ok(row);
            }
        }
        if let Some((token, table)) = self.table(op, operands, width)? {
            // Rows of the same codes, once with their scale and once without, are of one table.
            let same = self.new.steps().find_map(|(id, step)| match &step.kind {
                Kind::Embed { token: of, table: t } if *of == token && *t != table => {
                    Some((self.new.row(self.new.first(id)), t.ratio(&table)?))
                }
                _ => None,
            });
            if let Some((row, ratio)) = same {
                let operands = vec![row, vec![Code::constant(ratio); width].into()];
                return Ok(self.push(label, Kind::Map { op: Op::Binary(Binary::Mul), operands }, width));
            }
            return Ok(self.push(label, Kind::Embed { token, table }, width));
        }
        if let Some(row) = self.softmax(label, op, operands, width) {
            return Ok(row);
        }
        if let Some(row) = self.norm(label, op, operands, width) {
            return Ok(row);
        }
        Ok(self.push(label, Kind::Map { op: op.clone(), operands: operands.to_vec() }, width))
    }

    /// The table of what is computed from rows of several tables, or of a table of codes.
    fn table(&self, op: &Op, operands: &[Row], width: usize) -> Result<Option<(Code, Constant)>> {
        let mut tables: Vec<(&Constant, Code)> = vec![];
        for code in operands.iter().flat_map(|row| row.iter()).filter(|c| c.slot().is_some()) {
            let slot = code.slot().expect("it has one");
            let Kind::Embed { token, table } = self.new.kind(slot) else { return Ok(None) };
            if !tables.iter().any(|(t, _)| *t == table) {
                tables.push((table, *token));
            }
        }
        let Some(&(first, token)) = tables.first() else { return Ok(None) };
        let is_codes = |c: &Constant| matches!(c, Constant::Tensor(t) if !t.dtype().is_float());
        let rows = first.shape()[0];
        let fits = tables.iter().all(|(t, other)| *other == token && t.shape()[0] == rows);
        if !fits || !(tables.len() > 1 || is_codes(first)) {
            return Ok(None);
        }
        let of = |row: &Row| -> Result<Constant> {
            if let Some(values) = constants(row) {
                let same = values.iter().all(|v| *v == values[0]);
                let values = if same { vec![values[0]] } else { values };
                return Ok(Tensor::from_f32([1, values.len()], values).map_err(wrong)?.into());
            }
            let slot = row[0].slot().filter(|s| row.iter().all(|c| c.slot() == Some(*s)));
            let Some(Kind::Embed { table, .. }) = slot.map(|s| self.new.kind(s)) else {
                return other("it joins rows of several tables");
            };
            let features: Vec<usize> = row.iter().map(|c| c.feature()).collect();
            let all = features.iter().copied().eq(0..table.shape()[1]);
            if all { Ok(table.clone()) } else { table.picked(1, &features) }
        };
        let read: Vec<Constant> = operands.iter().map(of).collect::<Result<_>>()?;
        // Codes and their scales stay what they are.
        let scales = match (op, &read[..]) {
            (Op::Binary(Binary::Mul), [a, b]) if is_codes(a) && !is_codes(b) => Some((a, b, None)),
            (Op::Binary(Binary::Mul), [a, b]) if is_codes(b) && !is_codes(a) => Some((b, a, None)),
            (Op::Onnx(Onnx::DequantizeLinear { .. }), [a, b]) => Some((a, b, None)),
            (Op::Onnx(Onnx::DequantizeLinear { .. }), [a, b, zero]) => Some((a, b, Some(zero))),
            _ => None,
        };
        if let Some((codes, scales, zero)) = scales {
            let scales = blocks(&scales.dense()?, width)?;
            let zero = zero.map(Constant::dense).transpose()?;
            let codes = codes.dense()?;
            let zero = zero.map(|z| evaluate_one(&Op::Cast { to: codes.dtype() }, &[z])).transpose()?;
            if let Some(made) = Constant::dequantized(&codes, &scales, zero.as_ref(), 1)? {
                return Ok(Some((token, made)));
            }
        }
        let mut dense = vec![];
        for c in &read {
            dense.push(evaluate_one(&Op::Cast { to: crate::tensor::DType::F32 }, &[c.dense()?])?);
        }
        let op = match op {
            Op::Onnx(Onnx::DequantizeLinear { .. }) => &Op::Binary(Binary::Mul),
            op => op,
        };
        Ok(Some((token, evaluate_one(op, &dense)?.into())))
    }

    /// `a + b` or `a - b` where a product takes the other side.
    fn sum(&mut self, label: &str, a: &Row, b: &Row, negate: bool, width: usize) -> Result<Option<Row>> {
        let sign = if negate { -1.0 } else { 1.0 };
        if let (Some((terms, bias)), Some(c)) = (self.product(a), constants(b)) {
            let bias = bias.unwrap_or_else(|| vec![0.0; width]);
            let bias = bias.iter().zip(&c).map(|(x, y)| x + sign * y).collect();
            return Ok(Some(self.push(label, Kind::Apply { width, terms, bias: Some(bias) }, width)));
        }
        if let (Some(c), Some((terms, bias))) = (constants(a), self.product(b)) {
            let bias = bias.unwrap_or_else(|| vec![0.0; width]);
            let bias = bias.iter().zip(&c).map(|(x, y)| sign * x + y).collect();
            let terms =
                terms.into_iter().map(|t| scale_rows(t, &vec![sign; width])).collect::<Result<_>>()?;
            return Ok(Some(self.push(label, Kind::Apply { width, terms, bias: Some(bias) }, width)));
        }
        if let (Some((mut terms, bias)), Some((more, other))) = (self.product(a), self.product(b)) {
            for term in more {
                terms.push(scale_rows(term, &vec![sign; width])?);
            }
            let bias = match (bias, other) {
                (None, None) => None,
                (x, y) => {
                    let zero = || vec![0.0; width];
                    let (x, y) = (x.unwrap_or_else(zero), y.unwrap_or_else(zero));
                    Some(x.iter().zip(&y).map(|(x, y)| x + sign * y).collect())
                }
            };
            return Ok(Some(self.push(label, Kind::Apply { width, terms, bias }, width)));
        }
        // The shift of a normalisation.
        if !negate {
            for (x, c) in [(a, b), (b, a)] {
                if let (Some(slot), Some(c)) = (self.single_norm(x), constants(c))
                    && let Kind::Norm { x, epsilon, scale, shift: None } = self.new.kind(slot).clone()
                {
                    return Ok(Some(self.push(
                        label,
                        Kind::Norm { x, epsilon, scale, shift: Some(c) },
                        width,
                    )));
                }
            }
        }
        Ok(None)
    }

    fn single_norm(&self, row: &Row) -> Option<SlotId> {
        whole(row, &self.new)
            .filter(|s| self.single.contains(&row[0]) && matches!(self.new.kind(*s), Kind::Norm { .. }))
    }

    /// `a * b` or `a / b` where one is a product and the other constant.
    fn scaled(&mut self, label: &str, a: &Row, b: &Row, divide: bool, width: usize) -> Result<Option<Row>> {
        let sides = if divide { vec![(a, b)] } else { vec![(a, b), (b, a)] };
        for (x, c) in sides {
            let Some(c) = constants(c) else { continue };
            let factors: Vec<f32> = c.iter().map(|&c| if divide { 1.0 / c } else { c }).collect();
            if let Some((terms, bias)) = self.product(x) {
                let terms = terms.into_iter().map(|t| scale_rows(t, &factors)).collect::<Result<_>>()?;
                let bias = bias.map(|b| b.iter().zip(&factors).map(|(b, f)| b * f).collect());
                return Ok(Some(self.push(label, Kind::Apply { width, terms, bias }, width)));
            }
            if let Some(slot) = self.single_norm(x)
                && let Kind::Norm { x, epsilon, scale: None, shift: None } = self.new.kind(slot).clone()
            {
                let kind = Kind::Norm { x, epsilon, scale: Some(factors), shift: None };
                return Ok(Some(self.push(label, kind, width)));
            }
        }
        Ok(None)
    }

    /// The step that an element is the only result of.
    fn single_element(&self, row: &[Code]) -> Option<&Kind> {
        let first = row.first()?;
        let slot = first.slot()?;
        (row.iter().all(|c| c == first) && self.new.width(slot) == 1).then(|| self.new.kind(slot))
    }

    /// An elementwise step that a row is, whole.
    fn elementwise(&self, row: &[Code]) -> Option<(&Op, &[Row])> {
        match self.new.kind(whole(row, &self.new)?) {
            Kind::Map { op, operands } => Some((op, operands)),
            _ => None,
        }
    }

    /// Without a number that is subtracted from all elements, which softmax does not see.
    fn shifted(&self, x: &Row) -> Row {
        unshifted(&self.new, x)
    }

    /// Whether a row is `e^x` of this row, shifted or not; the shift.
    fn exp_of(&self, row: &Row) -> Option<Row> {
        match self.elementwise(row)? {
            (Op::Onnx(Onnx::Exp {}), [x]) => Some(x.clone()),
            _ => None,
        }
    }

    /// The row whose `log sum exp` an element is.
    fn log_sum_exp(&self, number: &[Code]) -> Option<Row> {
        match self.single_element(number)? {
            Kind::Reduce { op: Op::Reduce { kind: Reduction::LogSumExp, .. }, x } => Some(x.clone()),
            Kind::Map { op: Op::Onnx(Onnx::Log {}), operands } => match self.single_element(&operands[0])? {
                Kind::Reduce { op: Op::Reduce { kind: Reduction::Sum, .. }, x } => self.exp_of(x),
                _ => None,
            },
            Kind::Reduce { op: Op::Reduce { kind: Reduction::LogSum, .. }, x } => self.exp_of(x),
            // max + log sum exp (x - max)
            Kind::Map { op: Op::Binary(Binary::Add), operands } => {
                let (a, b) = (&operands[0], &operands[1]);
                let shifted = |number: &Row, by: &Row| {
                    let x = self.log_sum_exp(number)?;
                    match self.elementwise(&x)? {
                        (Op::Binary(Binary::Sub), [x, max]) if max.iter().all(|c| *c == by[0]) => {
                            Some(x.clone())
                        }
                        _ => None,
                    }
                };
                shifted(a, b).or_else(|| shifted(b, a))
            }
            _ => None,
        }
    }

    fn softmax(&mut self, label: &str, op: &Op, operands: &[Row], width: usize) -> Option<Row> {
        let kind = match (op, operands) {
            (Op::Onnx(Onnx::Log {}), [x]) => match self.new.kind(whole(x, &self.new)?) {
                Kind::Softmax { x } => Kind::LogSoftmax { x: x.clone() },
                _ => return None,
            },
            (Op::Binary(Binary::Sub), [x, number]) => {
                let of = self.log_sum_exp(number)?;
                if of != *x {
                    return None;
                }
                Kind::LogSoftmax { x: self.shifted(x) }
            }
            (Op::Binary(Binary::Div), [x, number]) => {
                let Kind::Reduce { op: Op::Reduce { kind: Reduction::Sum, .. }, x: summed } =
                    self.single_element(number)?
                else {
                    return None;
                };
                if summed != x {
                    return None;
                }
                Kind::Softmax { x: self.shifted(&self.exp_of(x)?) }
            }
            _ => return None,
        };
        Some(self.push(label, kind, width))
    }

    /// `d / sqrt(mean(d d) + epsilon)` with `d = x - mean(x)`.
    fn norm(&mut self, label: &str, op: &Op, operands: &[Row], width: usize) -> Option<Row> {
        let ([d, by], inverse) = match (op, operands) {
            (Op::Binary(Binary::Div), [d, by]) => ([d, by], false),
            (Op::Binary(Binary::Mul), [a, b]) => {
                if self.single_element(b).is_some() {
                    ([a, b], true)
                } else {
                    ([b, a], true)
                }
            }
            _ => return None,
        };
        let mut root = self.single_element(by)?;
        if inverse {
            root = match root {
                Kind::Map { op: Op::Onnx(Onnx::Reciprocal {}), operands } => {
                    self.single_element(&operands[0])?
                }
                Kind::Map { op: Op::Binary(Binary::Div), operands } if constants(&operands[0])? == [1.0] => {
                    self.single_element(&operands[1])?
                }
                _ => return None,
            };
        }
        let sum = match root {
            Kind::Map { op: Op::Onnx(Onnx::Sqrt {}), operands } => &operands[0],
            Kind::Map { op: Op::Onnx(Onnx::Pow {}), operands } if constants(&operands[1])? == [0.5] => {
                &operands[0]
            }
            _ => return None,
        };
        let Kind::Map { op: Op::Binary(Binary::Add), operands } = self.single_element(sum)? else {
            return None;
        };
        let (variance, epsilon) = match (constants(&operands[0]), constants(&operands[1])) {
            (None, Some(e)) => (&operands[0], e[0]),
            (Some(e), None) => (&operands[1], e[0]),
            _ => return None,
        };
        let squares = self.mean_of(variance)?;
        let is_square = match self.elementwise(&squares)? {
            (Op::Binary(Binary::Mul), [a, b]) => a == d && b == d,
            (Op::Onnx(Onnx::Pow {}), [a, two]) => a == d && constants(two)?.iter().all(|&p| p == 2.0),
            _ => false,
        };
        let (Op::Binary(Binary::Sub), [x, mean]) = self.elementwise(d)? else { return None };
        if !is_square || self.mean_of(mean)? != *x {
            return None;
        }
        let kind = Kind::Norm { x: x.clone(), epsilon, scale: None, shift: None };
        Some(self.push(label, kind, width))
    }

    /// The row whose mean an element is.
    fn mean_of(&self, number: &[Code]) -> Option<Row> {
        match self.single_element(number)? {
            Kind::Reduce { op: Op::Reduce { kind: Reduction::Mean, .. }, x } => Some(x.clone()),
            Kind::Map { op, operands } => {
                let Kind::Reduce { op: Op::Reduce { kind: Reduction::Sum, .. }, x } =
                    self.single_element(&operands[0])?
                else {
                    return None;
                };
                let by = constants(&operands[1])?[0];
                let count = match op {
                    Op::Binary(Binary::Div) => by,
                    Op::Binary(Binary::Mul) => 1.0 / by,
                    _ => return None,
                };
                ((count - x.len() as f32).abs() < 1e-3 * count).then(|| x.clone())
            }
            _ => None,
        }
    }
}

/// `[rows, width]` as one column for each block of equal ones.
fn blocks(scales: &Tensor, width: usize) -> Result<Tensor> {
    let [rows, columns] = *scales.shape() else { return Ok(scales.clone()) };
    if columns != width {
        return Ok(scales.clone());
    }
    let values = scales.to_f32().map_err(wrong)?;
    let starts = |row: &[f32]| (1..width).find(|&k| row[k].to_bits() != row[0].to_bits()).unwrap_or(width);
    let size = values.chunks_exact(width).map(starts).min().unwrap_or(width);
    let is_block = |row: &[f32]| row.chunks(size).all(|b| b.iter().all(|x| x.to_bits() == b[0].to_bits()));
    if size == 1 || !values.chunks_exact(width).all(is_block) {
        return Ok(scales.clone());
    }
    let kept: Vec<f32> =
        values.chunks_exact(width).flat_map(|row| row.iter().step_by(size).copied()).collect();
    Tensor::from_f32([rows, width.div_ceil(size)], kept).map_err(wrong)
}

/// The term with each row of its weight multiplied by a factor.
fn scale_rows(term: Term, factors: &[f32]) -> Result<Term> {
    Ok(Term { weight: term.weight.scaled(factors)?, ..term })
}

/// Some rows of a product; zeros stand for the others.
pub(super) fn some_rows(
    draft: &mut Draft,
    label: &str,
    terms: &[Term],
    bias: Option<&[f32]>,
    width: usize,
    kept: &[usize],
) -> Option<Row> {
    let pick = |t: &Term| Some(Term { x: t.x.clone(), weight: t.weight.picked(0, kept).ok()? });
    let terms = terms.iter().map(pick).collect::<Option<_>>()?;
    let bias = bias.map(|b| kept.iter().map(|&k| b[k]).collect());
    let slot = draft.push(label, Kind::Apply { width: kept.len(), terms, bias }, kept.len());
    let mut row = vec![Code::constant(0.0); width];
    for (k, &f) in kept.iter().enumerate() {
        row[f] = Code::reference(slot, 0, k);
    }
    Some(row.into())
}
