//! A running error analysis: an f64 evaluation that carries, beside every number, how far an f32 evaluation may be from it.
//!
//! With unit roundoff `u = 2^-24` a dot product of `k` terms in any order, fused or not, is off by at most
//! `(k + 1) u sum |w_i x_i|` to first order (Higham 2002, section 3.1); an input that is itself off by `e_i` adds `|w_i| e_i`. A
//! sigmoid has a slope of at most 1/4, a tanh of at most 1, and their own errors are constants of the code generator. Products and sums of the
//! cell update add one rounding each. First order is enough: the bound is doubled, and its terms are far below 1.

use lstmc_backend::codegen::math::{MAX_SIGMOID_ERROR_ULPS, MAX_TANH_ERROR_ULPS};
use lstmc_frontend::ir::{
    Binary, Gate, Graph, LanguageModel, Layer, LinearMap, Op, Operand, Unary, WeightId,
};
use std::collections::HashMap;

/// Unit roundoff of f32.
const U: f64 = 1.0 / (1u64 << 24) as f64;

/// First-order bounds are doubled to cover the rest.
const SAFETY: f64 = 2.0;

/// A number and the most that f32 may be off.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Approx {
    pub(crate) value: f64,
    pub(crate) error: f64,
}

impl Approx {
    fn exact(value: f64) -> Approx {
        Approx { value, error: 0.0 }
    }

    fn rounded(value: f64, error: f64) -> Approx {
        Approx { value, error: error + U * value.abs() }
    }

    fn times(self, o: Approx) -> Approx {
        Approx::rounded(self.value * o.value, self.value.abs() * o.error + o.value.abs() * self.error)
    }

    fn plus(self, o: Approx) -> Approx {
        Approx::rounded(self.value + o.value, self.error + o.error)
    }

    fn sigmoid(self) -> Approx {
        let value = 1.0 / (1.0 + (-self.value).exp());
        Approx { value, error: self.error / 4.0 + MAX_SIGMOID_ERROR_ULPS * 2.0 * U * value }
    }

    fn tanh(self) -> Approx {
        let value = self.value.tanh();
        Approx { value, error: self.error + MAX_TANH_ERROR_ULPS * 2.0 * U * value.abs() }
    }
}

/// `W x + b`, and its error.
fn product(w: &[f32], b: f64, x: &[Approx]) -> (f64, f64) {
    let (mut sum, mut size, mut carried) = (b, b.abs(), 0.0);
    for (&w, x) in w.iter().zip(x) {
        let w = f64::from(w);
        sum += w * x.value;
        size += (w * x.value).abs();
        carried += w.abs() * x.error;
    }
    (sum, carried + (x.len() as f64 + 1.0) * U * size)
}

/// One stream of a language model with errors carried.
pub(crate) struct Reference<'g> {
    graph: &'g Graph,
    dense: HashMap<WeightId, Vec<f32>>,
    state: HashMap<String, Vec<Approx>>,
}

impl<'g> Reference<'g> {
    pub(crate) fn new(graph: &'g Graph) -> Reference<'g> {
        let dense = |map: &LinearMap| map.to_dense().unwrap().to_f32().unwrap().to_vec();
        Reference {
            graph,
            dense: graph.weights().map(|(id, w)| (id, dense(&w.map))).collect(),
            state: HashMap::new(),
        }
    }

    /// Logits after one more token.
    pub(crate) fn step(&mut self, token: u32) -> Vec<Approx> {
        let model = LanguageModel::of(self.graph).unwrap();
        let mut values: HashMap<_, Vec<Approx>> = HashMap::new();
        let mut logits = vec![];
        for layer in model.layers() {
            match layer {
                Layer::Embedding(e) => {
                    let row = &self.dense[&e.table][token as usize * e.features..][..e.features];
                    values.insert(e.result, row.iter().map(|&x| Approx::exact(x.into())).collect());
                }
                Layer::Lstm(l) => {
                    let zero = vec![Approx::default(); l.hidden];
                    let get = |v| self.state.get(self.graph.name_of(v)).cloned().unwrap_or(zero.clone());
                    let (h, c) = (get(l.h), get(l.c));
                    let x: Vec<Approx> = values[&l.x].iter().chain(&h).copied().collect();
                    let (wi, wr, b) =
                        (&self.dense[&l.input], &self.dense[&l.recurrent], &self.dense[&l.bias]);
                    let gate = |gate: Gate, unit: usize| {
                        let row = l.gates.position(gate) * l.hidden + unit;
                        let w: Vec<f32> = wi[row * l.features..][..l.features]
                            .iter()
                            .chain(&wr[row * l.hidden..][..l.hidden])
                            .copied()
                            .collect();
                        let (value, error) = product(&w, b[row].into(), &x);
                        Approx { value, error }
                    };
                    let (mut new_h, mut new_c) = (vec![], vec![]);
                    for (unit, &old) in c.iter().enumerate() {
                        let i = gate(Gate::Input, unit).sigmoid();
                        let o = gate(Gate::Output, unit).sigmoid();
                        let f = gate(Gate::Forget, unit).sigmoid();
                        let g = gate(Gate::Cell, unit).tanh();
                        let cell = f.times(old).plus(i.times(g));
                        new_h.push(o.times(cell.tanh()));
                        new_c.push(cell);
                    }
                    self.state.insert(self.graph.name_of(l.h).into(), new_h.clone());
                    self.state.insert(self.graph.name_of(l.c).into(), new_c);
                    values.insert(l.result, new_h);
                }
                Layer::Linear(l) => {
                    let w = &self.dense[&l.weight];
                    let out: Vec<Approx> = (0..l.outputs)
                        .map(|row| {
                            let b = l.bias.map_or(0.0, |b| f64::from(self.dense[&b][row]));
                            let (value, error) = product(&w[row * l.inputs..][..l.inputs], b, &values[&l.x]);
                            Approx { value, error }
                        })
                        .collect();
                    values.insert(l.result, out.clone());
                    logits = out;
                }
                Layer::Elementwise { node, result } => {
                    let node = self.graph.node(*node);
                    let operand = |at: usize, n: usize| match node.operands()[at] {
                        Operand::Value(v) => values[&v].clone(),
                        Operand::Weight(w) => {
                            let data = &self.dense[&w];
                            (0..n).map(|i| Approx::exact(data[i % data.len()].into())).collect()
                        }
                        Operand::None => vec![],
                    };
                    let width = self.graph.type_of(*result).shape[2].as_constant().unwrap();
                    let out = match node.op {
                        Op::Unary(Unary::Tanh) => operand(0, width).into_iter().map(Approx::tanh).collect(),
                        Op::Unary(Unary::Sigmoid) => {
                            operand(0, width).into_iter().map(Approx::sigmoid).collect()
                        }
                        Op::Binary(op) => operand(0, width)
                            .into_iter()
                            .zip(operand(1, width))
                            .map(|(a, b)| match op {
                                Binary::Add => a.plus(b),
                                Binary::Mul => a.times(b),
                                other => panic!("the tests' models have no {other:?}"),
                            })
                            .collect(),
                        ref other => panic!("the tests' models have no {other:?}"),
                    };
                    values.insert(*result, out);
                }
            }
        }
        logits
    }
}

/// Asserts that every logit is within its bound, and returns the largest fraction of a bound that was used.
pub(crate) fn assert_close(have: &[f32], want: &[Approx]) -> f64 {
    assert_eq!(have.len(), want.len());
    let mut worst = 0.0f64;
    for (i, (&h, w)) in have.iter().zip(want).enumerate() {
        let bound = SAFETY * w.error + f64::from(f32::MIN_POSITIVE);
        let error = (f64::from(h) - w.value).abs();
        assert!(error <= bound, "logit {i}: {h}, expected {} within {bound:e}", w.value);
        worst = worst.max(error / bound);
    }
    worst
}
