//! Recurrent layers.

use super::constant::{Constant, wrong};
use super::draft::{Cell, CellOp, Kind};
use super::evaluate::{Evaluator, Result, Site, other, tensor};
use super::value::{Abstract, Array, Code, Row, Why};
use crate::ir::{Direction, Gate, GateOrder, Gru, Lstm, OnnxLstm, OnnxRnn, Reset, Rnn};
use crate::tensor::Tensor;

/// An ONNX layer: what it has in common with the others.
struct Layer {
    op: CellOp,
    units: usize,
    batch_first: bool,
    /// Blocks of rows of its weights.
    blocks: usize,
    /// Operands that are initial states.
    states: &'static [usize],
}

impl<'g> Evaluator<'g> {
    pub(super) fn lstm(&mut self, site: &Site<'g>, lstm: &OnnxLstm) -> Result<Vec<Abstract>> {
        causal(lstm.direction, "LSTM")?;
        let Ok(activations) = <[_; 3]>::try_from(&lstm.activations[..]) else {
            return other("it has not three activations");
        };
        let op = Lstm { gates: GateOrder::Iofc, coupled: lstm.input_forget, clip: lstm.clip, activations };
        let units = lstm.hidden_size;
        let layer =
            Layer { op: CellOp::Lstm(op), units, batch_first: lstm.batch_first, blocks: 4, states: &[5, 6] };
        let [input, recurrent, bias] = self.weights(site, &layer, |bias| sum_of_halves(&bias))?;
        let activations = |c: Constant| if lstm.dynamic { c.with_int8_activations() } else { c };
        let mut weights = vec![
            ("input", activations(rows_of(&op, input)?)),
            ("recurrent", activations(rows_of(&op, recurrent)?)),
            ("bias", rows_of(&op, bias)?),
        ];
        weights.extend(peepholes(site, &op, units)?.map(|p| ("peepholes", p)));
        self.layer(site, layer, weights)
    }

    pub(super) fn gru(&mut self, site: &Site<'g>, gru: &OnnxRnn) -> Result<Vec<Abstract>> {
        causal(gru.direction, "GRU")?;
        let Ok(activations) = <[_; 2]>::try_from(&gru.activations[..]) else {
            return other("it has not two activations");
        };
        let reset = if gru.linear_before_reset { Reset::After } else { Reset::Before };
        let op = Gru { reset, clip: gru.clip, activations };
        let units = gru.hidden_size;
        let layer =
            Layer { op: CellOp::Gru(op), units, batch_first: gru.batch_first, blocks: 3, states: &[5] };
        let [input, recurrent, bias] = self.weights(site, &layer, |bias| {
            let both = 2 * units;
            let (of_input, of_recurrent) = bias.split_at(3 * units);
            let mut sum: Vec<f32> = of_input.iter().zip(of_recurrent).map(|(a, b)| a + b).collect();
            if op.reset == Reset::After {
                sum.truncate(both);
                sum.extend_from_slice(&of_input[both..]);
                sum.extend_from_slice(&of_recurrent[both..]);
            }
            sum
        })?;
        self.layer(site, layer, vec![("input", input), ("recurrent", recurrent), ("bias", bias)])
    }

    pub(super) fn rnn(&mut self, site: &Site<'g>, rnn: &OnnxRnn) -> Result<Vec<Abstract>> {
        causal(rnn.direction, "RNN")?;
        let [activation] = rnn.activations[..] else { return other("it has not one activation") };
        let op = Rnn { clip: rnn.clip, activation };
        let units = rnn.hidden_size;
        let layer =
            Layer { op: CellOp::Rnn(op), units, batch_first: rnn.batch_first, blocks: 1, states: &[5] };
        let [input, recurrent, bias] = self.weights(site, &layer, |bias| sum_of_halves(&bias))?;
        self.layer(site, layer, vec![("input", input), ("recurrent", recurrent), ("bias", bias)])
    }

    /// `W`, `R` as matrices, and `B` as one vector, which `join` makes of the two biases.
    fn weights(
        &self,
        site: &Site<'_>,
        layer: &Layer,
        join: impl Fn(Vec<f32>) -> Vec<f32>,
    ) -> Result<[Constant; 3]> {
        let rows = layer.blocks * layer.units;
        let matrix = |k: usize, name: &str, columns: Option<usize>| {
            let t = site.known(k, name)?;
            match *t.shape() {
                [1, r, c] if r == rows && columns.is_none_or(|n| n == c) => t.clone().reshaped(&[r, c]),
                _ => other(format!("{name}: expected shape [1, {rows}, _], found {:?}", t.shape())),
            }
        };
        let bias = match site.is_given(3) {
            true => {
                let t = site.known(3, "B")?;
                if t.shape() != [1, 2 * rows] {
                    return other(format!("B: expected shape [1, {}], found {:?}", 2 * rows, t.shape()));
                }
                t.values()?
            }
            false => vec![0.0; 2 * rows],
        };
        let bias = join(bias);
        let bias = Tensor::from_f32([bias.len()], bias).map_err(wrong)?.into();
        Ok([matrix(1, "W", None)?, matrix(2, "R", Some(layer.units))?, bias])
    }

    fn layer(
        &mut self,
        site: &Site<'g>,
        layer: Layer,
        weights: Vec<(&'static str, Constant)>,
    ) -> Result<Vec<Abstract>> {
        let x = site.array(0)?;
        let [a, b, features] = *x.shape() else {
            return other(format!("expected three axes, found shape {:?}", x.shape()));
        };
        let [steps, streams] = if layer.batch_first { [b, a] } else { [a, b] };
        self.check_lengths(site, steps, streams)?;
        // In a loop, a layer of one step is at the time step of the iteration.
        let at = x.codes().iter().find_map(|&c| Code(c).position()).map_or(0, |p| p / self.sizes.streams);
        let from = if steps == 1 { at } else { 0 };
        let mut initial: Vec<Row> = vec![];
        for &k in layer.states {
            initial.push(self.initial(site, k, &layer, streams, from)?);
        }
        let mut row: Option<Row> = None;
        for (k, line) in x.codes().chunks_exact(features.max(1)).enumerate() {
            let (outer, inner) = (k / b, k % b);
            let (step, stream) = if layer.batch_first { (inner, outer) } else { (outer, inner) };
            let line: Vec<Code> = line.iter().map(|&c| Code(c)).collect();
            let position = self.position(line.iter().copied())?;
            if let Some(p) = position
                && (p / self.sizes.streams, p % self.sizes.streams) != (from + step, stream)
            {
                return Err(Why::Order(
                    "the order of its time steps or streams is not that of the tokens".into(),
                ));
            }
            let here: Row = line.iter().map(|c| c.anywhere()).collect();
            match &row {
                Some(row) if *row != here => {
                    return Err(Why::Order("its input differs between time steps or streams".into()));
                }
                _ => row = Some(here),
            }
        }
        let in_loop = [steps, streams] == [1, self.sizes.streams]
            && initial.iter().flat_map(|r| r.iter()).any(|&c| self.draft.is_state(c));
        if (steps, streams) != (self.sizes.steps, self.sizes.streams) && !in_loop {
            let why =
                format!("it reads {steps} time steps of {streams} streams, not all of those of the tokens");
            return Err(Why::Order(why));
        }
        let Some(x) = row else { return other("its input is empty") };
        let columns = weights[0].1.shape()[1];
        if columns != x.len() {
            return other(format!("W: expected {} inputs, found {columns}", x.len()));
        }
        let (units, op) = (layer.units, layer.op);
        let results = op.states().len();
        let cell = Cell { op, x, units, weights, initial };
        let first = self.draft.push(&site.label, Kind::Cell(Box::new(cell)), units);
        let reference = |result: usize, step: usize, stream: usize, unit: usize| {
            let slot = super::draft::SlotId(first.0 + result);
            Code::reference(slot, (from + step) * self.sizes.streams + stream, unit).0
        };
        let dtype = site.array(0)?.dtype;
        let mut values = vec![];
        let all = (0..a).flat_map(|i| (0..b).map(move |j| if layer.batch_first { (j, i) } else { (i, j) }));
        let y = all.flat_map(|(s, b)| (0..units).map(move |u| reference(0, s, b, u))).collect();
        let shape = if layer.batch_first { [a, b, 1, units] } else { [a, 1, b, units] };
        values.push(Abstract::Array(Array::new(tensor(&shape, y)?, dtype)));
        for result in 0..results {
            let last = (0..streams).flat_map(|b| (0..units).map(move |u| reference(result, steps - 1, b, u)));
            let shape = if layer.batch_first { [streams, 1, units] } else { [1, streams, units] };
            values.push(Abstract::Array(Array::new(tensor(&shape, last.collect())?, dtype)));
        }
        Ok(values)
    }

    /// The lengths of the texts, if they are given, are the number of steps.
    fn check_lengths(&self, site: &Site<'_>, steps: usize, streams: usize) -> Result<()> {
        if !site.is_given(4) {
            return Ok(());
        }
        let whole = |c: &Constant| {
            c.values().is_ok_and(|v| v.len() == streams && v.iter().all(|&n| n == steps as f32))
        };
        match site.constant(4) {
            Some(t) if whole(t) => Ok(()),
            _ => other(
                "it has sequence_lens other than the number of time steps; a language model reads streams of equal length",
            ),
        }
    }

    /// A state before the first step, the same for all streams but for the stream's own part of an input.
    fn initial(&self, site: &Site<'_>, k: usize, layer: &Layer, streams: usize, step: usize) -> Result<Row> {
        if !site.is_given(k) {
            return Ok(vec![Code::constant(0.0); layer.units].into());
        }
        let state = site.array(k)?;
        if state.codes().len() != streams * layer.units {
            return Err(Why::Order(format!(
                "its initial state: expected {streams} streams of {} units, found shape {:?}",
                layer.units,
                state.shape()
            )));
        }
        let mut row: Option<Row> = None;
        for (stream, line) in state.codes().chunks_exact(layer.units.max(1)).enumerate() {
            let line: Vec<Code> = line.iter().map(|&c| Code(c)).collect();
            for code in &line {
                let Some(slot) = code.slot() else { continue };
                let expected = match self.draft.kind(slot) {
                    Kind::Input(_) => (streams > 1).then_some(stream),
                    Kind::State(_) => Some(step * streams + stream),
                    _ => {
                        return other(
                            "its initial state is computed: expected zero, a constant or a state input",
                        );
                    }
                };
                if expected.is_some() && code.position() != expected {
                    return Err(Why::Order(
                        "its initial states are in another order than the streams".into(),
                    ));
                }
            }
            let line: Row = line.iter().map(|c| c.anywhere()).collect();
            match &row {
                Some(row) if *row != line => {
                    return Err(Why::Order("its initial state differs between streams".into()));
                }
                _ => row = Some(line),
            }
        }
        row.map_or_else(|| other("its initial state is empty"), Ok)
    }
}

fn causal(direction: Direction, layer: &'static str) -> Result<()> {
    let direction = match (direction, layer) {
        (Direction::Forward, _) => return Ok(()),
        (Direction::Reverse, "LSTM") => "a reverse LSTM",
        (Direction::Reverse, "GRU") => "a reverse GRU",
        (Direction::Reverse, _) => "a reverse RNN",
        (Direction::Bidirectional, "LSTM") => "a bidirectional LSTM",
        (Direction::Bidirectional, "GRU") => "a bidirectional GRU",
        (Direction::Bidirectional, _) => "a bidirectional RNN",
    };
    Err(Why::NotCausal(direction))
}

/// ONNX keeps two biases, which are always added.
fn sum_of_halves(bias: &[f32]) -> Vec<f32> {
    let (input, recurrent) = bias.split_at(bias.len() / 2);
    input.iter().zip(recurrent).map(|(a, b)| a + b).collect()
}

/// `P: [1, 3 units]`, for the existing gates; zero peepholes have no effect, and converters write them.
fn peepholes(site: &Site<'_>, op: &Lstm, units: usize) -> Result<Option<Constant>> {
    if !site.is_given(7) {
        return Ok(None);
    }
    let t = site.known(7, "P")?;
    if t.shape() != [1, 3 * units] {
        return other(format!("P: expected shape [1, {}], found {:?}", 3 * units, t.shape()));
    }
    let values = t.values()?;
    let values = &values[..op.peepholes().count() * units];
    if values.iter().all(|&x| x == 0.0) {
        return Ok(None);
    }
    Ok(Some(Tensor::from_f32([values.len()], values.to_vec()).map_err(wrong)?.into()))
}

/// The rows of ONNX's four gates that the operator has.
fn rows_of(op: &Lstm, c: Constant) -> Result<Constant> {
    if !op.coupled {
        return Ok(c);
    }
    let block = c.shape()[0] / 4;
    let of = |gate: Gate| GateOrder::Iofc.gates().iter().position(|&g| g == gate).unwrap_or(0);
    let rows: Vec<usize> = op.rows().flat_map(|g| of(g) * block..(of(g) + 1) * block).collect();
    c.picked(0, &rows)
}
