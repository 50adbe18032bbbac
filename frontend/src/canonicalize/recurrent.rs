//! ONNX LSTM to the canonical `lstm`.

use super::draft::{Cell, Kind};
use super::error::CanonicalizeError;
use super::evaluate::{Evaluator, Result, Site, is_zero};
use super::layout::{Axis, Layout};
use super::value::{Abstract, Finals, Part, Sequence, StateSlice};
use crate::ir::{Direction, Gate, GateOrder, Lstm, OnnxLstm};
use crate::tensor::Tensor;

impl<'g> Evaluator<'g> {
    pub(super) fn lstm(&mut self, site: &Site<'g>, lstm: &OnnxLstm) -> Result<Vec<Abstract>> {
        let op = operator(site, lstm)?;
        let x = self.lstm_input(site)?;
        let [steps, streams] = self.time_axes(site, &x.layout, lstm.batch_first)?;
        let hidden = lstm.hidden_size;
        let input = self.lstm_weight(site, 1, "W", [4 * hidden, x.features])?;
        let recurrent = self.lstm_weight(site, 2, "R", [4 * hidden, hidden])?;
        let bias = self.lstm_bias(site, hidden)?;
        let peepholes = self.peepholes(site, &op, hidden)?;
        let rows = |t| rows_of(site, &op, t);
        let [input, recurrent, bias] = [rows(input)?, rows(recurrent)?, rows(bias)?];
        let initial =
            [self.initial(site, 5, Part::Hidden, hidden)?, self.initial(site, 6, Part::Cell, hidden)?];
        let kind = Cell { op, x: x.step, hidden, input, recurrent, bias, peepholes, initial };
        let step = self.draft.push(&site.label, Kind::Cell(Box::new(kind)));

        let one = vec![];
        let (sequence, state) = if lstm.batch_first {
            (vec![streams.clone(), steps, one.clone()], vec![streams, one])
        } else {
            (vec![steps, one.clone(), streams.clone()], vec![one, streams])
        };
        let layout = |axes| Layout(axes).with_features(hidden);
        let y = Sequence { step, layout: layout(sequence), features: hidden, last: false, normalised: None };
        let last =
            |part| Abstract::Finals(Finals { parts: vec![(step, part)], layout: layout(state.clone()) });
        Ok(vec![Abstract::Sequence(y), last(Part::Hidden), last(Part::Cell)])
    }

    fn lstm_input(&self, site: &Site<'_>) -> Result<Sequence> {
        match site.operand(0) {
            Some(Abstract::Sequence(s)) if s.normalised.is_none() && !s.last => Ok(s.clone()),
            Some(Abstract::Sequence(s)) if s.last => {
                site.unsupported("it reads only the last time step of the layer before")
            }
            Some(Abstract::State(s)) => site.unsupported(format!(
                "it reads input %{}, which is not tokens; export the model with its embedding",
                self.graph.name_of(s.input)
            )),
            Some(other) => site.unsupported(format!("it reads {}", self.describe(other))),
            None => site.unsupported("its input is missing"),
        }
    }

    /// Which atoms are the steps and the streams of an LSTM's input; determines which axis of the tokens is which.
    fn time_axes(
        &mut self,
        site: &Site<'_>,
        layout: &Layout,
        batch_first: bool,
    ) -> Result<[Vec<super::layout::Atom>; 2]> {
        let expected = if batch_first { "[streams, steps, features]" } else { "[steps, streams, features]" };
        if layout.rank() != 3 || !layout.ends_in_features() {
            return site.wrong_layout(expected, layout);
        }
        let (s, b) = if batch_first { (1, 0) } else { (0, 1) };
        let token = |k: usize| match layout.0[k][..] {
            [] => Ok(None),
            [ref atom] => match atom.axis {
                Axis::Token(t) => Ok(Some(t)),
                _ => site.wrong_layout(expected, layout),
            },
            _ => site.wrong_layout(expected, layout),
        };
        let (steps, streams) = (token(s)?, token(b)?);
        let contradicts = match (self.steps_axis, steps) {
            (Some(known), Some(t)) => known != t,
            (Some(known), None) => streams == Some(known),
            (None, _) => false,
        };
        if contradicts {
            let expected = format!("{expected} with the time steps of the layer before");
            return site.wrong_layout(&expected, layout);
        }
        self.steps_axis = self.steps_axis.or(steps);
        Ok([layout.0[s].clone(), layout.0[b].clone()])
    }

    fn lstm_weight(
        &self,
        site: &Site<'_>,
        k: usize,
        operand: &'static str,
        [rows, cols]: [usize; 2],
    ) -> Result<Tensor> {
        let Some(t) = self.constant(site, k) else {
            return Err(CanonicalizeError::NotConstant { node: site.label.clone(), operand });
        };
        if t.shape() != [1, rows, cols] {
            return Err(CanonicalizeError::WeightShape {
                node: site.label.clone(),
                operand,
                expected: format!("[1, {rows}, {cols}]"),
                found: t.shape().to_vec(),
            });
        }
        t.reshaped([rows, cols])
            .map_err(|source| CanonicalizeError::Tensor { node: site.label.clone(), source })
    }

    /// ONNX keeps two biases, which are always added.
    fn lstm_bias(&self, site: &Site<'_>, hidden: usize) -> Result<Tensor> {
        let tensor = |source| CanonicalizeError::Tensor { node: site.label.clone(), source };
        let rows = 4 * hidden;
        if site.operand(3).is_none() {
            return Tensor::from_f32([rows], vec![0.0; rows]).map_err(tensor);
        }
        let Some(t) = self.constant(site, 3) else {
            return Err(CanonicalizeError::NotConstant { node: site.label.clone(), operand: "B" });
        };
        if t.shape() != [1, 2 * rows] {
            return Err(CanonicalizeError::WeightShape {
                node: site.label.clone(),
                operand: "B",
                expected: format!("[1, {}]", 2 * rows),
                found: t.shape().to_vec(),
            });
        }
        let values = t.to_f32().map_err(tensor)?;
        let (input, recurrent) = values.split_at(rows);
        Tensor::from_f32([rows], input.iter().zip(recurrent).map(|(a, b)| a + b).collect()).map_err(tensor)
    }

    /// `P: [1, 3 hidden]`, for the existing gates; zero peepholes have no effect, and converters write them.
    fn peepholes(&self, site: &Site<'_>, op: &Lstm, hidden: usize) -> Result<Option<Tensor>> {
        let tensor = |source| CanonicalizeError::Tensor { node: site.label.clone(), source };
        let Some(t) = self.constant(site, 7) else {
            return match site.operand(7) {
                None | Some(Abstract::Zeros) => Ok(None),
                Some(_) => Err(CanonicalizeError::NotConstant { node: site.label.clone(), operand: "P" }),
            };
        };
        if t.shape() != [1, 3 * hidden] {
            return Err(CanonicalizeError::WeightShape {
                node: site.label.clone(),
                operand: "P",
                expected: format!("[1, {}]", 3 * hidden),
                found: t.shape().to_vec(),
            });
        }
        let values = t.to_f32().map_err(tensor)?;
        let values = &values[..op.peepholes().count() * hidden];
        if values.iter().all(|&x| x == 0.0) {
            return Ok(None);
        }
        Tensor::from_f32([values.len()], values.to_vec()).map(Some).map_err(tensor)
    }

    fn initial(&self, site: &Site<'_>, k: usize, part: Part, hidden: usize) -> Result<Option<StateSlice>> {
        let refuse = |found: String| {
            let (node, part) = (site.label.clone(), part.name());
            Err(CanonicalizeError::InitialState { node, part, found })
        };
        match site.operand(k) {
            None | Some(Abstract::Zeros) => Ok(None),
            Some(Abstract::Constant(t)) if is_zero(t) => Ok(None),
            Some(Abstract::Constant(_)) => refuse("a constant other than zero".into()),
            Some(Abstract::State(s)) => {
                let atoms: Vec<_> = s.layout.0.iter().map(|axis| axis.len()).collect();
                let features = s.layout.0.last().and_then(|axis| axis.first());
                let fits = atoms.iter().all(|&n| n <= 1)
                    && match features {
                        Some(atom) => atom.size.is(hidden),
                        None => hidden == 1,
                    };
                if !fits {
                    return site
                        .wrong_layout(&format!("a {} state of {hidden} units", part.name()), &s.layout);
                }
                Ok(Some(s.clone()))
            }
            Some(other) => refuse(self.describe(other)),
        }
    }
}

/// The canonical operator; an error if there is none.
fn operator(site: &Site<'_>, lstm: &OnnxLstm) -> Result<Lstm> {
    let direction = match lstm.direction {
        Direction::Forward => None,
        Direction::Reverse => Some("a reverse LSTM"),
        Direction::Bidirectional => Some("a bidirectional LSTM"),
    };
    if let Some(direction) = direction {
        return Err(CanonicalizeError::NotCausal { node: site.label.clone(), direction });
    }
    if site.operand(4).is_some() {
        let hint = "; a language model reads streams of equal length: export without lengths";
        let feature = "sequence_lens".into();
        return Err(CanonicalizeError::LstmFeature { node: site.label.clone(), feature, hint });
    }
    let Ok(activations) = <[_; 3]>::try_from(&lstm.activations[..]) else {
        return site.unsupported("it has not three activations");
    };
    Ok(Lstm { gates: GateOrder::Iofc, coupled: lstm.input_forget, clip: lstm.clip, activations })
}

/// The rows of ONNX's four gates that the operator has.
fn rows_of(site: &Site<'_>, op: &Lstm, t: Tensor) -> Result<Tensor> {
    if !op.coupled {
        return Ok(t);
    }
    let tensor = |source| CanonicalizeError::Tensor { node: site.label.clone(), source };
    let values = t.to_f32().map_err(tensor)?;
    let block = values.len() / 4;
    let of = |gate: Gate| GateOrder::Iofc.gates().iter().position(|&g| g == gate).unwrap_or(0);
    let kept = op.rows().flat_map(|gate| values[of(gate) * block..][..block].iter().copied()).collect();
    let mut shape = t.shape().to_vec();
    shape[0] = shape[0] / 4 * op.rows().count();
    Tensor::from_f32(shape, kept).map_err(tensor)
}
