//! The ONNX LSTM operator, with every attribute.
//!
//! ```text
//!   i = f(x Wi' + h Ri' + Pi . c + Wbi + Rbi)        W, R, B: rows in the order i, o, f, c; P: i, o, f
//!   f = f(x Wf' + h Rf' + Pf . c + Wbf + Rbf)        or 1 - i, if input and forget gate are coupled
//!   g = g(x Wc' + h Rc' + Wbc + Rbc)
//!   c = f . c + i . g
//!   o = f(x Wo' + h Ro' + Po . c + Wbo + Rbo)        with the new c
//!   h = o . h(c)
//! ```
//!
//! The clip bounds the inputs of the gates' activations, not the cell state that enters `h`. A stream shorter than the sequence has zeros
//! in `Y` beyond its end, and its last state is that of its end; the reverse direction starts at its end. A stream of length
//! zero keeps its initial state.

use super::elements::{integers, of_reals};
use super::layers::update;
use super::real::Real;
use crate::ir::{CellSpec, Direction, GateOrder, InferError, Lstm, OnnxLstm};
use crate::tensor::Tensor;

pub(super) fn evaluate<T: Real>(
    lstm: &OnnxLstm,
    operands: &[Option<Tensor>],
) -> Result<Vec<Tensor>, InferError> {
    let get = |i: usize| operands.get(i).and_then(Option::as_ref);
    let elements = |i: usize| get(i).map(T::elements).transpose();
    let Some(x) = get(0) else { return Err(InferError::new("X", "none")) };
    let &[a, b, i] = x.shape() else {
        return Err(InferError::new("X of rank 3", format!("{:?}", x.shape())));
    };
    let (s, b) = if lstm.batch_first { (b, a) } else { (a, b) };
    let d = if lstm.direction == Direction::Bidirectional { 2 } else { 1 };
    let h = lstm.hidden_size;
    let dtype = x.dtype();

    let x = T::elements(x)?;
    let (w, r) = (elements(1)?.unwrap_or_default(), elements(2)?.unwrap_or_default());
    let bias = elements(3)?.unwrap_or_else(|| vec![T::default(); d * 8 * h]);
    let peepholes = elements(7)?;
    let lengths = match get(4) {
        Some(lengths) => integers(lengths)?,
        None => vec![s as i64; b],
    };
    if let Some(bad) = lengths.iter().find(|&&n| n < 0 || n > s as i64) {
        return Err(InferError::new(format!("sequence lengths of 0 to {s}"), bad.to_string()));
    }

    // States are [d, b, h], or [b, d, h] if the batch is first.
    let state_at =
        |dir: usize, stream: usize| if lstm.batch_first { stream * d + dir } else { dir * b + stream } * h;
    let mut hidden = elements(5)?.unwrap_or_else(|| vec![T::default(); d * b * h]);
    let mut cell = elements(6)?.unwrap_or_else(|| vec![T::default(); d * b * h]);
    let mut y = vec![T::default(); s * d * b * h];
    for dir in 0..d {
        let functions = &lstm.activations[dir * 3..(dir + 1) * 3];
        let attributes = Lstm {
            gates: GateOrder::Iofc,
            coupled: lstm.input_forget,
            clip: lstm.clip,
            activations: [functions[0], functions[1], functions[2]],
        };
        let direction = Weights {
            spec: &attributes.spec(peepholes.is_some()),
            coupled: lstm.input_forget,
            w: &w[dir * 4 * h * i..(dir + 1) * 4 * h * i],
            r: &r[dir * 4 * h * h..(dir + 1) * 4 * h * h],
            bias: &bias[dir * 8 * h..(dir + 1) * 8 * h],
            peepholes: peepholes.as_ref().map_or(&[], |p| &p[dir * 3 * h..(dir + 1) * 3 * h]),
        };
        let reverse = lstm.direction == Direction::Reverse || dir == 1;
        for (stream, &length) in lengths.iter().enumerate() {
            let length = length as usize;
            let at = state_at(dir, stream);
            for k in 0..length {
                let t = if reverse { length - 1 - k } else { k };
                let from = if lstm.batch_first { stream * s + t } else { t * b + stream } * i;
                let (h_t, c_t) = (&mut hidden[at..at + h], &mut cell[at..at + h]);
                direction.step(&x[from..from + i], h_t, c_t);
                let to =
                    if lstm.batch_first { (stream * s + t) * d + dir } else { (t * d + dir) * b + stream }
                        * h;
                y[to..to + h].copy_from_slice(h_t);
            }
        }
    }
    let (y_shape, state) =
        if lstm.batch_first { ([b, s, d, h], [b, d, h]) } else { ([s, d, b, h], [d, b, h]) };
    Ok(vec![of_reals(dtype, &y_shape, y)?, of_reals(dtype, &state, hidden)?, of_reals(dtype, &state, cell)?])
}

/// One direction's.
struct Weights<'a, T> {
    spec: &'a CellSpec,
    /// The rows of the forget gate exist, but are unused.
    coupled: bool,
    w: &'a [T],    // [4 h, i]
    r: &'a [T],    // [4 h, h]
    bias: &'a [T], // [8 h]: W's, then R's
    /// `[3 h]`: i, o, f; or none.
    peepholes: &'a [T],
}

impl<T: Real> Weights<'_, T> {
    /// One step of one stream.
    fn step(&self, x: &[T], h: &mut [T], c: &mut [T]) {
        let dot = |a: &[T], b: &[T]| a.iter().zip(b).fold(T::default(), |s, (&x, &y)| s + x * y);
        let rows = self.bias.len() / 2;
        let forget = 2 * h.len()..3 * h.len();
        let gates: Vec<T> = (0..rows)
            .filter(|row| !(self.coupled && forget.contains(row)))
            .map(|row| {
                dot(x, &self.w[row * x.len()..(row + 1) * x.len()])
                    + dot(h, &self.r[row * h.len()..(row + 1) * h.len()])
                    + self.bias[row]
                    + self.bias[rows + row]
            })
            .collect();
        update(self.spec, &gates, self.peepholes, &mut [h, c]);
    }
}
