//! The ONNX LSTM operator, with every attribute.
//!
//! ```text
//!   i = f(x Wi' + h Ri' + Pi . c + Wbi + Rbi)        W, R, B: rows in the order i, o, f, c; P: i, o, f
//!   f = f(x Wf' + h Rf' + Pf . c + Wbf + Rbf)        or 1 - i, where input and forget gate are coupled
//!   g = g(x Wc' + h Rc' + Wbc + Rbc)
//!   c = f . c + i . g
//!   o = f(x Wo' + h Ro' + Po . c + Wbo + Rbo)        with the new c
//!   h = o . h(c)
//! ```
//!
//! The clip bounds what enters the gates' activations, not the cell that enters `h`. A stream shorter than the sequence has zeros
//! in `Y` beyond its end, and its last state is that of its end; the reverse direction starts at its end. A stream of length
//! zero keeps its initial state.

use super::elements::{integers, of_reals};
use super::real::Real;
use crate::ir::{Activation, Direction, Gate, GateOrder, InferError, OnnxLstm};
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
    let peepholes = elements(7)?.unwrap_or_else(|| vec![T::default(); d * 3 * h]);
    let lengths = match get(4) {
        Some(lengths) => integers(lengths)?,
        None => vec![s as i64; b],
    };
    if let Some(bad) = lengths.iter().find(|&&n| n < 0 || n > s as i64) {
        return Err(InferError::new(format!("sequence lengths of 0 to {s}"), bad.to_string()));
    }

    // States are [d, b, h], or [b, d, h] where the batch is first.
    let state_at =
        |dir: usize, stream: usize| if lstm.batch_first { stream * d + dir } else { dir * b + stream } * h;
    let mut hidden = elements(5)?.unwrap_or_else(|| vec![T::default(); d * b * h]);
    let mut cell = elements(6)?.unwrap_or_else(|| vec![T::default(); d * b * h]);
    let mut y = vec![T::default(); s * d * b * h];
    for dir in 0..d {
        let direction = Weights {
            w: &w[dir * 4 * h * i..(dir + 1) * 4 * h * i],
            r: &r[dir * 4 * h * h..(dir + 1) * 4 * h * h],
            bias: &bias[dir * 8 * h..(dir + 1) * 8 * h],
            peepholes: &peepholes[dir * 3 * h..(dir + 1) * 3 * h],
            activations: &lstm.activations[dir * 3..(dir + 1) * 3],
        };
        let reverse = lstm.direction == Direction::Reverse || dir == 1;
        for (stream, &length) in lengths.iter().enumerate() {
            let length = length as usize;
            let at = state_at(dir, stream);
            for k in 0..length {
                let t = if reverse { length - 1 - k } else { k };
                let from = if lstm.batch_first { stream * s + t } else { t * b + stream } * i;
                let (h_t, c_t) = (&mut hidden[at..at + h], &mut cell[at..at + h]);
                direction.step(lstm, &x[from..from + i], h_t, c_t);
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
    w: &'a [T],         // [4 h, i]
    r: &'a [T],         // [4 h, h]
    bias: &'a [T],      // [8 h]: W's, then R's
    peepholes: &'a [T], // [3 h]: i, o, f
    activations: &'a [Activation],
}

impl<T: Real> Weights<'_, T> {
    /// One step of one stream.
    fn step(&self, lstm: &OnnxLstm, x: &[T], h: &mut [T], c: &mut [T]) {
        let (features, n) = (x.len(), h.len());
        let order = GateOrder::Iofc;
        let dot = |a: &[T], b: &[T]| a.iter().zip(b).fold(T::default(), |s, (&x, &y)| s + x * y);
        let before = |gate: Gate, unit: usize| {
            let row = order.position(gate) * n + unit;
            dot(x, &self.w[row * features..(row + 1) * features])
                + dot(h, &self.r[row * n..(row + 1) * n])
                + self.bias[row]
                + self.bias[4 * n + row]
        };
        let peephole = |gate: Gate, unit: usize| self.peepholes[order.position(gate) * n + unit];
        let clip = |v: T| match lstm.clip.map(|c| T::of(c.into())) {
            Some(c) if v > c => c,
            Some(c) if v < -c => -c,
            _ => v,
        };
        let gate = |v: T| activate(self.activations[0], clip(v));
        let mut next = Vec::with_capacity(n);
        for (unit, cell) in c.iter_mut().enumerate() {
            let old = *cell;
            let input = gate(before(Gate::Input, unit) + peephole(Gate::Input, unit) * old);
            let forget = if lstm.input_forget {
                T::of(1.0) - input
            } else {
                gate(before(Gate::Forget, unit) + peephole(Gate::Forget, unit) * old)
            };
            let candidate = activate(self.activations[1], clip(before(Gate::Cell, unit)));
            let new = forget * old + input * candidate;
            let output = gate(before(Gate::Output, unit) + peephole(Gate::Output, unit) * new);
            *cell = new;
            next.push(output * activate(self.activations[2], new));
        }
        h.copy_from_slice(&next);
    }
}

/// The activation functions of the ONNX specification.
fn activate<T: Real>(f: Activation, x: T) -> T {
    let (zero, one) = (T::default(), T::of(1.0));
    let c = |v: f32| T::of(v.into());
    let absolute = if x < zero { -x } else { x };
    match f {
        Activation::Sigmoid => x.sigmoid(),
        Activation::Tanh => Real::tanh(x),
        Activation::Relu => {
            if x < zero {
                zero
            } else {
                x
            }
        }
        Activation::Affine { alpha, beta } => c(alpha) * x + c(beta),
        Activation::LeakyRelu { alpha } => {
            if x < zero {
                c(alpha) * x
            } else {
                x
            }
        }
        Activation::ThresholdedRelu { alpha } => {
            if x < c(alpha) {
                zero
            } else {
                x
            }
        }
        Activation::ScaledTanh { alpha, beta } => c(alpha) * Real::tanh(c(beta) * x),
        Activation::HardSigmoid { alpha, beta } => {
            let v = c(alpha) * x + c(beta);
            if v < zero {
                zero
            } else if v > one {
                one
            } else {
                v
            }
        }
        Activation::Elu { alpha } => {
            if x < zero {
                c(alpha) * (Real::exp(x) - one)
            } else {
                x
            }
        }
        Activation::Softsign => x / (one + absolute),
        // max(x, 0) + log(1 + e^-|x|) does not overflow.
        Activation::Softplus => {
            T::of(Real::exp(-absolute).to_f64().ln_1p()) + if x < zero { zero } else { x }
        }
    }
}
