//! The recurrent layers of ONNX.

use super::super::dim::Dim;
use super::super::infer::{Fact, InferError, count};
use super::super::op::{Direction, Function, OnnxLstm, OnnxRnn};
use super::algebra::{display, required, unify};
use crate::tensor::DType;

const NAMES: [&str; 8] = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"];

/// What the layers have in common.
pub(super) struct Layer<'a> {
    gates: usize,
    states: usize,
    /// The number of activation functions of one direction.
    functions: usize,
    hidden_size: usize,
    direction: Direction,
    batch_first: bool,
    activations: &'a [Function],
}

impl Layer<'_> {
    pub(super) fn of_lstm(lstm: &OnnxLstm) -> Layer<'_> {
        Layer {
            gates: 4,
            states: 2,
            functions: 3,
            hidden_size: lstm.hidden_size,
            direction: lstm.direction,
            batch_first: lstm.batch_first,
            activations: &lstm.activations,
        }
    }

    pub(super) fn of_rnn(rnn: &OnnxRnn, gates: usize, functions: usize) -> Layer<'_> {
        Layer {
            gates,
            states: 1,
            functions,
            hidden_size: rnn.hidden_size,
            direction: rnn.direction,
            batch_first: rnn.batch_first,
            activations: &rnn.activations,
        }
    }
}

pub(super) fn infer(layer: &Layer<'_>, operands: &[Option<Fact>]) -> Result<Vec<Fact>, InferError> {
    // An LSTM has the cell state and peepholes besides.
    let names = if layer.states == 2 { &NAMES[..] } else { &NAMES[..6] };
    if operands.len() > names.len() {
        return Err(count(&format!("{} (those after R may be absent)", names.join(", ")), operands));
    }
    let directions = if layer.direction == Direction::Bidirectional { 2 } else { 1 };
    if layer.activations.len() != layer.functions * directions {
        let (n, each) = (layer.functions * directions, ["", "one", "two", "three"][layer.functions]);
        let expected = format!("{n} activations, {each} for each direction");
        return Err(InferError::new(expected, layer.activations.len().to_string()));
    }
    let fits = |n: &usize| *n > 0 && n.checked_mul(8).is_some_and(|n| i64::try_from(n).is_ok());
    let Some(hidden) = Some(layer.hidden_size).filter(fits) else {
        return Err(InferError::new("a hidden size of at least 1", layer.hidden_size.to_string()));
    };
    let dtype = required(operands, 0, "X")?.ty.dtype;
    if !dtype.is_float() {
        return Err(InferError::new("X of a float dtype", dtype.to_string()));
    }

    let d = Dim::from(directions);
    let h = Dim::from(hidden);
    let (rows, biases) = (Dim::from(layer.gates * hidden), Dim::from(2 * layer.gates * hidden));
    let (unknown, mut steps, mut streams, mut features) =
        (Dim::Unknown, Dim::Unknown, Dim::Unknown, Dim::Unknown);

    let order = |s: &Dim, b: &Dim, rest: &Dim| {
        if layer.batch_first {
            [b.clone(), s.clone(), rest.clone()]
        } else {
            [s.clone(), b.clone(), rest.clone()]
        }
    };
    let x = check(operands, 0, dtype, &order(&unknown, &unknown, &unknown))?;
    if let Some([a, b, i]) = x.as_deref() {
        (steps, streams) = if layer.batch_first { (b.clone(), a.clone()) } else { (a.clone(), b.clone()) };
        features = i.clone();
    }
    required(operands, 1, "W")?;
    required(operands, 2, "R")?;
    check(operands, 1, dtype, &[d.clone(), rows.clone(), features])?;
    check(operands, 2, dtype, &[d.clone(), rows, h.clone()])?;
    check(operands, 3, dtype, &[d.clone(), biases])?;
    if let Some([b]) = check(operands, 4, DType::I32, &[streams.clone()])?.as_deref() {
        streams = b.clone();
    }
    for state in 5..5 + layer.states {
        let expected = order(&d, &streams, &h);
        if let Some([a, b, _]) = check(operands, state, dtype, &expected)?.as_deref() {
            streams = if layer.batch_first { a.clone() } else { b.clone() };
        }
    }
    check(operands, 7, dtype, &[d.clone(), Dim::from(3 * hidden)])?;

    let state = Fact::of_type(dtype, order(&d, &streams, &h).to_vec());
    let y = if layer.batch_first { vec![streams, steps, d, h] } else { vec![steps, d, streams, h] };
    let mut results = vec![Fact::of_type(dtype, y)];
    results.resize(1 + layer.states, state);
    Ok(results)
}

/// The dimensions of an operand that must have this dtype and these dimensions; `None` if it is not given.
fn check(
    operands: &[Option<Fact>],
    index: usize,
    dtype: DType,
    expected: &[Dim],
) -> Result<Option<Vec<Dim>>, InferError> {
    let Some(fact) = operands.get(index).and_then(Option::as_ref) else { return Ok(None) };
    // A float constant may be stored in half precision; it is read as f32.
    let dtype_fits = fact.ty.dtype == dtype || (dtype == DType::F32 && fact.ty.dtype == DType::F16);
    let dims = (fact.ty.shape.len() == expected.len() && dtype_fits)
        .then(|| fact.ty.shape.iter().zip(expected).map(|(a, b)| unify(a, b)).collect::<Option<Vec<Dim>>>())
        .flatten();
    dims.map(Some).ok_or_else(|| {
        let expected = display(expected).replace('?', "_");
        InferError::new(format!("{} of type {dtype}{expected}", NAMES[index]), fact.ty.to_string())
    })
}
