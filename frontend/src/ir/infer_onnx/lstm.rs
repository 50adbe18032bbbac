//! The ONNX LSTM.

use super::super::dim::Dim;
use super::super::infer::{Fact, InferError, count};
use super::super::op::{Direction, OnnxLstm};
use super::algebra::{display, required, unify};
use crate::tensor::DType;

const NAMES: [&str; 8] = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"];

pub(super) fn infer(lstm: &OnnxLstm, operands: &[Option<Fact>]) -> Result<Vec<Fact>, InferError> {
    if operands.len() > NAMES.len() {
        return Err(count(&format!("{} (those after R may be absent)", NAMES.join(", ")), operands));
    }
    let directions = if lstm.direction == Direction::Bidirectional { 2 } else { 1 };
    if lstm.activations.len() != 3 * directions {
        let expected = format!("{} activations, three for each direction", 3 * directions);
        return Err(InferError::new(expected, lstm.activations.len().to_string()));
    }
    let Some(gates) = lstm.hidden_size.checked_mul(8).filter(|&n| n > 0 && i64::try_from(n).is_ok()) else {
        return Err(InferError::new("a hidden size of at least 1", lstm.hidden_size.to_string()));
    };
    let dtype = required(operands, 0, "X")?.ty.dtype;
    if !dtype.is_float() {
        return Err(InferError::new("X of a float dtype", dtype.to_string()));
    }

    let d = Dim::from(directions);
    let h = Dim::from(lstm.hidden_size);
    let (four, eight, three) = (Dim::from(gates / 2), Dim::from(gates), Dim::from(gates / 8 * 3));
    let (unknown, mut steps, mut streams, mut features) =
        (Dim::Unknown, Dim::Unknown, Dim::Unknown, Dim::Unknown);

    let order = |s: &Dim, b: &Dim, rest: &Dim| {
        if lstm.batch_first {
            [b.clone(), s.clone(), rest.clone()]
        } else {
            [s.clone(), b.clone(), rest.clone()]
        }
    };
    let x = check(operands, 0, dtype, &order(&unknown, &unknown, &unknown))?;
    if let Some([a, b, i]) = x.as_deref() {
        (steps, streams) = if lstm.batch_first { (b.clone(), a.clone()) } else { (a.clone(), b.clone()) };
        features = i.clone();
    }
    required(operands, 1, "W")?;
    required(operands, 2, "R")?;
    check(operands, 1, dtype, &[d.clone(), four.clone(), features])?;
    check(operands, 2, dtype, &[d.clone(), four, h.clone()])?;
    check(operands, 3, dtype, &[d.clone(), eight])?;
    if let Some([b]) = check(operands, 4, DType::I32, &[streams.clone()])?.as_deref() {
        streams = b.clone();
    }
    for state in [5, 6] {
        let expected = order(&d, &streams, &h);
        if let Some([a, b, _]) = check(operands, state, dtype, &expected)?.as_deref() {
            streams = if lstm.batch_first { a.clone() } else { b.clone() };
        }
    }
    check(operands, 7, dtype, &[d.clone(), three])?;

    let state = Fact::of_type(dtype, order(&d, &streams, &h).to_vec());
    let y = if lstm.batch_first { vec![streams, steps, d, h] } else { vec![steps, d, streams, h] };
    Ok(vec![Fact::of_type(dtype, y), state.clone(), state])
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
