//! The recurrent layers of ONNX, with every attribute.
//!
//! ```text
//!   LSTM  i = f(x Wi' + h Ri' + Pi . c + Wbi + Rbi)        W, R, B: rows in the order i, o, f, c; P: i, o, f
//!         f = f(x Wf' + h Rf' + Pf . c + Wbf + Rbf)        or 1 - i, if input and forget gate are coupled
//!         g = g(x Wc' + h Rc' + Wbc + Rbc)
//!         c = f . c + i . g
//!         o = f(x Wo' + h Ro' + Po . c + Wbo + Rbo)        with the new c
//!         h = o . h(c)
//!   GRU   z = f(x Wz' + h Rz' + Wbz + Rbz)                 rows in the order z, r, h
//!         r = f(x Wr' + h Rr' + Wbr + Rbr)
//!         n = g(x Wh' + (r . h) Rh' + Wbh + Rbh)           or x Wh' + Wbh + r . (h Rh' + Rbh), if linear before reset
//!         h = (1 - z) . n + z . h
//!   RNN   h = f(x W' + h R' + Wb + Rb)
//! ```
//!
//! The clip bounds the inputs of the gates' activations, not the cell state that enters `h`. A stream shorter than the sequence has zeros
//! in `Y` beyond its end, and its last state is that of its end; the reverse direction starts at its end. A stream of length
//! zero keeps its initial state.

use super::elements::{integers, of_reals};
use super::formula::function;
use super::layers::update;
use super::real::Real;
use crate::ir::{CellSpec, Direction, Function, GateOrder, InferError, Lstm, OnnxLstm, OnnxRnn};
use crate::tensor::Tensor;

/// An LSTM; type inference has checked the operands.
pub(super) fn lstm<T: Real>(lstm: &OnnxLstm, operands: &[Option<Tensor>]) -> Result<Vec<Tensor>, InferError> {
    let layer = Layer {
        hidden: lstm.hidden_size,
        states: 2,
        direction: lstm.direction,
        batch_first: lstm.batch_first,
        clip: lstm.clip,
    };
    let peepholes = operands.get(7).and_then(Option::as_ref).map(T::elements).transpose()?;
    let attributes = |dir: usize| Lstm {
        gates: GateOrder::Iofc,
        coupled: lstm.input_forget,
        clip: lstm.clip,
        activations: [0, 1, 2].map(|k| lstm.activations[dir * 3 + k]),
    };
    let specs: Vec<CellSpec> =
        (0..layer.directions()).map(|dir| attributes(dir).spec(peepholes.is_some())).collect();
    layer.run::<T>(4, operands, |dir, products, states| {
        let h = lstm.hidden_size;
        let mut gates = products.all(states[0]);
        if lstm.input_forget {
            // The rows of the forget gate exist, but are unused.
            gates.drain(2 * h..3 * h);
        }
        let peepholes = peepholes.as_ref().map_or(&[][..], |p| &p[dir * 3 * h..(dir + 1) * 3 * h]);
        update(&specs[dir], &gates, peepholes, states);
    })
}

/// A GRU; type inference has checked the operands.
pub(super) fn gru<T: Real>(gru: &OnnxRnn, operands: &[Option<Tensor>]) -> Result<Vec<Tensor>, InferError> {
    let layer = Layer::of(gru);
    layer.run::<T>(3, operands, |dir, products, states| {
        let h = gru.hidden_size;
        let functions = &gru.activations[2 * dir..];
        let state = &mut *states[0];
        let [z, r] = [0, 1]
            .map(|g| layer.activate(functions[0], &sum(&products.input(g), &products.recurrent(g, state))));
        let input = products.input(2);
        let recurrent = if gru.linear_before_reset {
            let recurrent = products.recurrent(2, state);
            recurrent.iter().zip(&r).map(|(&x, &r)| r * x).collect()
        } else {
            let reset: Vec<T> = state.iter().zip(&r).map(|(&x, &r)| r * x).collect();
            products.recurrent(2, &reset)
        };
        let n = layer.activate(functions[1], &sum(&input, &recurrent));
        for k in 0..h {
            state[k] = (T::of(1.0) - z[k]) * n[k] + z[k] * state[k];
        }
    })
}

/// A plain recurrent layer; type inference has checked the operands.
pub(super) fn rnn<T: Real>(rnn: &OnnxRnn, operands: &[Option<Tensor>]) -> Result<Vec<Tensor>, InferError> {
    let layer = Layer::of(rnn);
    layer.run::<T>(1, operands, |dir, products, states| {
        let next = layer.activate(rnn.activations[dir], &products.all(states[0]));
        states[0].copy_from_slice(&next);
    })
}

fn sum<T: Real>(a: &[T], b: &[T]) -> Vec<T> {
    a.iter().zip(b).map(|(&a, &b)| a + b).collect()
}

/// What the layers have in common.
struct Layer {
    hidden: usize,
    states: usize,
    direction: Direction,
    batch_first: bool,
    clip: Option<f32>,
}

/// The products of one step of one stream.
struct Products<'a, T> {
    x: &'a [T],
    w: &'a [T],    // [gates h, i]
    r: &'a [T],    // [gates h, h]
    bias: &'a [T], // [2 gates h]: W's, then R's
    hidden: usize,
}

impl<T: Real> Products<'_, T> {
    fn apply(&self, gate: usize, x: &[T], w: &[T], bias: &[T]) -> Vec<T> {
        let dot = |a: &[T], b: &[T]| a.iter().zip(b).fold(T::default(), |s, (&x, &y)| s + x * y);
        let rows = gate * self.hidden..(gate + 1) * self.hidden;
        rows.map(|row| dot(x, &w[row * x.len()..(row + 1) * x.len()]) + bias[row]).collect()
    }

    /// `W x + Wb` of one gate.
    fn input(&self, gate: usize) -> Vec<T> {
        self.apply(gate, self.x, self.w, self.bias)
    }

    /// `R h + Rb` of one gate.
    fn recurrent(&self, gate: usize, h: &[T]) -> Vec<T> {
        self.apply(gate, h, self.r, &self.bias[self.bias.len() / 2..])
    }

    /// The inputs of all gates.
    fn all(&self, h: &[T]) -> Vec<T> {
        let gates = self.bias.len() / 2 / self.hidden;
        (0..gates).flat_map(|gate| sum(&self.input(gate), &self.recurrent(gate, h))).collect()
    }
}

impl Layer {
    fn of(rnn: &OnnxRnn) -> Layer {
        Layer {
            hidden: rnn.hidden_size,
            states: 1,
            direction: rnn.direction,
            batch_first: rnn.batch_first,
            clip: rnn.clip,
        }
    }

    fn directions(&self) -> usize {
        if self.direction == Direction::Bidirectional { 2 } else { 1 }
    }

    /// A function of clipped numbers.
    fn activate<T: Real>(&self, f: Function, x: &[T]) -> Vec<T> {
        let limit = self.clip.map_or(f64::INFINITY, f64::from);
        let (low, high) = (T::of(-limit), T::of(limit));
        let clip = |&x: &T| {
            if x < low {
                low
            } else if x > high {
                high
            } else {
                x
            }
        };
        function(f, &x.iter().map(clip).collect::<Vec<T>>())
    }

    /// Runs `step` for each direction, stream and step, on the products and the states, `[h]` each.
    fn run<T: Real>(
        &self,
        gates: usize,
        operands: &[Option<Tensor>],
        step: impl Fn(usize, &Products<'_, T>, &mut [&mut [T]]),
    ) -> Result<Vec<Tensor>, InferError> {
        let get = |i: usize| operands.get(i).and_then(Option::as_ref);
        let elements = |i: usize| get(i).map(T::elements).transpose();
        let Some(x) = get(0) else { return Err(InferError::new("X", "none")) };
        let &[a, b, i] = x.shape() else {
            return Err(InferError::new("X of rank 3", format!("{:?}", x.shape())));
        };
        let (s, b) = if self.batch_first { (b, a) } else { (a, b) };
        let (d, h, rows) = (self.directions(), self.hidden, gates * self.hidden);
        let dtype = x.dtype();

        let x = T::elements(x)?;
        let (w, r) = (elements(1)?.unwrap_or_default(), elements(2)?.unwrap_or_default());
        let bias = elements(3)?.unwrap_or_else(|| vec![T::default(); d * 2 * rows]);
        let lengths = match get(4) {
            Some(lengths) => integers(lengths)?,
            None => vec![s as i64; b],
        };
        if let Some(bad) = lengths.iter().find(|&&n| n < 0 || n > s as i64) {
            return Err(InferError::new(format!("sequence lengths of 0 to {s}"), bad.to_string()));
        }

        // States are [d, b, h], or [b, d, h] if the batch is first.
        let state_at =
            |dir: usize, stream: usize| if self.batch_first { stream * d + dir } else { dir * b + stream } * h;
        let mut states = vec![];
        for k in 0..self.states {
            states.push(elements(5 + k)?.unwrap_or_else(|| vec![T::default(); d * b * h]));
        }
        let mut y = vec![T::default(); s * d * b * h];
        for dir in 0..d {
            let reverse = self.direction == Direction::Reverse || dir == 1;
            for (stream, &length) in lengths.iter().enumerate() {
                let length = length as usize;
                let at = state_at(dir, stream);
                let mut of_stream: Vec<&mut [T]> = states.iter_mut().map(|v| &mut v[at..at + h]).collect();
                for k in 0..length {
                    let t = if reverse { length - 1 - k } else { k };
                    let from = if self.batch_first { stream * s + t } else { t * b + stream } * i;
                    let products = Products {
                        x: &x[from..from + i],
                        w: &w[dir * rows * i..(dir + 1) * rows * i],
                        r: &r[dir * rows * h..(dir + 1) * rows * h],
                        bias: &bias[dir * 2 * rows..(dir + 1) * 2 * rows],
                        hidden: h,
                    };
                    step(dir, &products, &mut of_stream);
                    let to = if self.batch_first {
                        (stream * s + t) * d + dir
                    } else {
                        (t * d + dir) * b + stream
                    } * h;
                    y[to..to + h].copy_from_slice(of_stream[0]);
                }
            }
        }
        let (y_shape, state) =
            if self.batch_first { ([b, s, d, h], [b, d, h]) } else { ([s, d, b, h], [d, b, h]) };
        let mut results = vec![of_reals(dtype, &y_shape, y)?];
        for v in states {
            results.push(of_reals(dtype, &state, v)?);
        }
        Ok(results)
    }
}
