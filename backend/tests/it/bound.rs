//! A running error analysis: an f64 evaluation that carries, beside every number, how far an f32 evaluation may be from it.
//!
//! With unit roundoff `u = 2^-24` a dot product of `k` terms in any order, fused or not, is off by at most
//! `(k + 1) u sum |w_i x_i|` to first order (Higham 2002, section 3.1); an input that is itself off by `e_i` adds `|w_i| e_i`. A
//! sigmoid has a slope of at most 1/4, a tanh of at most 1, and their own errors are constants of the code generator. Products and sums of the
//! cell update add one rounding each. First order is enough: the bound is doubled, and its terms are far below 1.

use lstmc_backend::Level;
use lstmc_backend::kernels::elementary::{
    MAX_EXP_ERROR_ULPS, MAX_LN_ERROR_ULPS, MAX_SIGMOID_ERROR_ULPS, MAX_TANH_ERROR_ULPS,
};
use lstmc_frontend::ir::{
    Activations, Algebra, Binary, Formula, GateRows, Graph, LinearMap, Part, Primitive, Program, Sequence,
    Slice, Source, StepKind, TensorTrain, WeightId, quantize_activations,
};
use lstmc_frontend::tensor::Tensor;
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

    fn over(self, o: Approx) -> Approx {
        let value = self.value / o.value;
        Approx::rounded(value, (self.error + value.abs() * o.error) / o.value.abs())
    }

    /// One of two, which may be the other one where they are near.
    fn choose(self, o: Approx, is_self: bool, near: bool) -> Approx {
        let (chosen, other) = if is_self { (self, o) } else { (o, self) };
        let error = if near {
            chosen.error.max((chosen.value - other.value).abs() + other.error)
        } else {
            chosen.error
        };
        Approx { value: chosen.value, error }
    }
}

/// A formula of numbers that carry their errors.
struct Bounds<'a> {
    inputs: &'a [Approx],
    results: Vec<Approx>,
}

impl Bounds<'_> {
    fn of(formula: &Formula, inputs: &[Approx]) -> Vec<Approx> {
        let mut bounds = Bounds { inputs, results: vec![Approx::default(); formula.results().len()] };
        formula.evaluate(&mut bounds, &mut vec![]);
        bounds.results
    }
}

impl Algebra for Bounds<'_> {
    type Value = Approx;

    fn input(&mut self, n: usize) -> Approx {
        self.inputs[n]
    }

    fn constant(&mut self, x: f32) -> Approx {
        Approx::exact(x.into())
    }

    fn binary(&mut self, op: Binary, &a: &Approx, &b: &Approx) -> Approx {
        let near = (a.value - b.value).abs() <= a.error + b.error;
        match op {
            Binary::Add => a.plus(b),
            Binary::Sub => a.plus(Approx { value: -b.value, ..b }),
            Binary::Mul => a.times(b),
            Binary::Div => a.over(b),
            Binary::Max => a.choose(b, b.value < a.value, near),
            Binary::Min => a.choose(b, a.value < b.value, near),
        }
    }

    fn mul_add(&mut self, &a: &Approx, &b: &Approx, &c: &Approx) -> Approx {
        a.times(b).plus(c)
    }

    fn select(&mut self, [a, b]: [&Approx; 2], &then: &Approx, &otherwise: &Approx) -> Approx {
        then.choose(otherwise, a.value < b.value, (a.value - b.value).abs() <= a.error + b.error)
    }

    fn primitive(&mut self, f: Primitive, &x: &Approx) -> Approx {
        match f {
            Primitive::Sqrt => return root(x),
            Primitive::Exp => return exponential(x),
            Primitive::Ln => return logarithm(x),
            _ => {}
        }
        // Errors of functions are in units of 2 U, the last place of numbers from 1 to 2.
        let (value, slope, ulps) = match f {
            Primitive::Sigmoid => (1.0 / (1.0 + (-x.value).exp()), 0.25, MAX_SIGMOID_ERROR_ULPS),
            Primitive::Tanh => (x.value.tanh(), 1.0, MAX_TANH_ERROR_ULPS),
            Primitive::Ln1p => (x.value.ln_1p(), 1.0, 2.0 * MAX_LN_ERROR_ULPS),
            Primitive::Sqrt | Primitive::Exp | Primitive::Ln => unreachable!("returned above"),
        };
        Approx { value, error: slope * x.error + ulps * 2.0 * U }
    }

    fn result(&mut self, n: usize, &value: &Approx) {
        self.results[n] = value;
    }
}

/// Roundings of an integer product besides its sums, which are exact: code to float, two scales, the sum over groups, the bias.
const INTEGER_ROUNDINGS: f64 = 5.0;

/// A sum of products whose terms may be added in any order, one by one to whatever else it has been added to.
#[derive(Clone, Copy, Default)]
struct Sum {
    value: f64,
    /// Sum of magnitudes.
    size: f64,
    /// Error that the factors bring.
    carried: f64,
    terms: f64,
}

impl Sum {
    fn of(x: f64) -> Sum {
        Sum { value: x, size: x.abs(), carried: 0.0, terms: 1.0 }
    }

    fn plus(self, o: Sum) -> Sum {
        Sum {
            value: self.value + o.value,
            size: self.size + o.size,
            carried: self.carried + o.carried,
            terms: self.terms + o.terms,
        }
    }

    /// What has error in the factors goes through; the sum's own is that of a dot product.
    fn done(self) -> Approx {
        Approx { value: self.value, error: self.carried + (self.terms + 1.0) * U * self.size }
    }
}

/// A map, decoded as far as kernels decode it.
enum Map {
    /// Row-major, without columns.
    Dense { data: Vec<f32>, cols: usize, int8: bool, columns: Option<Vec<f32>> },
    /// Two products; a row of the first factor meets the second decoded, then its columns.
    Product { left: Box<Map>, right: Box<Map>, decoded: Vec<f32>, columns: Option<Vec<f32>> },
    /// The dense matrix and its rows' errors where they are multiplied out of cores.
    Train { dense: Box<Map>, errors: Vec<f64> },
}

impl Map {
    fn of(map: &LinearMap) -> Map {
        let decoded = |map: &LinearMap| map.without_columns().to_dense().unwrap().to_f32().unwrap().to_vec();
        let columns = |map: &LinearMap| map.columns().map(|c| c.to_f32().unwrap().to_vec());
        match map {
            LinearMap::LowRank(l) => Map::Product {
                left: Box::new(Map::of(l.left())),
                right: Box::new(Map::of(l.right())),
                decoded: decoded(l.right()),
                columns: columns(l.right()),
            },
            LinearMap::TensorTrain(t) => {
                // Each element is a chain of small products: as many roundings as ranks, of the sum of magnitudes; the dense
                // row that stands for the exact one has had as many.
                let magnitudes = |c: &LinearMap| {
                    let dense = c.to_dense().unwrap();
                    let data = dense.to_f32().unwrap().iter().map(|x| x.abs()).collect();
                    Part::from(Tensor::from_f32(dense.shape().to_vec(), data).unwrap())
                };
                let cores = t.cores().iter().map(|c| magnitudes(c)).collect();
                let sizes = TensorTrain::new(t.shape(), t.out_modes().to_vec(), t.in_modes().to_vec(), cores)
                    .unwrap();
                let sizes = LinearMap::TensorTrain(sizes).to_dense().unwrap();
                let roundings = 2.0 * t.ranks().iter().map(|r| *r as f64 + 1.0).sum::<f64>();
                let dense = map.to_dense().unwrap();
                let data = dense.to_f32().unwrap().to_vec();
                Map::Train {
                    dense: Box::new(Map::Dense { data, cols: t.shape()[1], int8: false, columns: None }),
                    errors: sizes.to_f32().unwrap().iter().map(|&s| roundings * U * f64::from(s)).collect(),
                }
            }
            _ => Map::Dense {
                data: decoded(map),
                cols: map.shape().last().copied().unwrap_or(1),
                int8: map.activations() == Activations::Int8,
                columns: columns(map),
            },
        }
    }

    /// `W x`, one sum per row.
    fn sums(&self, x: &[Approx]) -> Vec<Sum> {
        match self {
            Map::Product { left, right, .. } => left.sums(&right.apply(x)),
            Map::Train { dense, .. } => dense.sums(x),
            Map::Dense { data, cols, int8, columns } => {
                let x = scaled(x.to_vec(), columns);
                let x = if *int8 { quantized(&x) } else { x };
                let terms = x.len() as f64 + if *int8 { INTEGER_ROUNDINGS } else { 0.0 };
                data.chunks_exact((*cols).max(1))
                    .map(|w| {
                        let mut sum = Sum { terms, ..Sum::default() };
                        for (&w, x) in w.iter().zip(&x) {
                            let w = f64::from(w);
                            sum.value += w * x.value;
                            sum.size += (w * x.value).abs();
                            sum.carried += w.abs() * x.error;
                        }
                        sum
                    })
                    .collect()
            }
        }
    }

    /// `W x`.
    fn apply(&self, x: &[Approx]) -> Vec<Approx> {
        self.sums(x).into_iter().map(Sum::done).collect()
    }

    /// One row of a table. A factor's row times the other factor is a product.
    fn row(&self, n: usize) -> Vec<Approx> {
        match self {
            Map::Dense { data, cols, columns, .. } => {
                let row = data[n * cols..][..*cols].iter().map(|&x| Approx::exact(x.into()));
                scaled(row.collect(), columns)
            }
            Map::Train { dense, errors } => {
                let row = dense.row(n);
                let errors = &errors[n * row.len()..][..row.len()];
                row.iter().zip(errors).map(|(x, &error)| Approx { error, ..*x }).collect()
            }
            Map::Product { left, decoded: data, columns, .. } => {
                let left = left.row(n);
                let cols = data.len() / left.len().max(1);
                let row = (0..cols).map(|j| {
                    let (mut sum, mut size, mut carried) = (0.0, 0.0, 0.0);
                    for (a, x) in left.iter().enumerate() {
                        let w = f64::from(data[a * cols + j]);
                        sum += w * x.value;
                        size += (w * x.value).abs();
                        carried += w.abs() * x.error;
                    }
                    Approx { value: sum, error: carried + (left.len() as f64 + 1.0) * U * size }
                });
                scaled(row.collect(), columns)
            }
        }
    }
}

/// A vector times a map's columns.
fn scaled(x: Vec<Approx>, columns: &Option<Vec<f32>>) -> Vec<Approx> {
    match columns {
        Some(columns) => x.iter().zip(columns).map(|(x, &c)| x.times(Approx::exact(c.into()))).collect(),
        None => x,
    }
}

/// Activations as codes times a scale. Where the error of an element could change its code, its own error becomes the steps between
/// the codes that are possible.
fn quantized(x: &[Approx]) -> Vec<Approx> {
    let values: Vec<f32> = x.iter().map(|x| x.value as f32).collect();
    let mut codes = vec![0i8; x.len()];
    let scale = f64::from(quantize_activations(&values, &mut codes));
    let m = scale * 127.0;
    // The largest magnitude is off by no more than the largest error.
    let off = x.iter().fold(0.0f64, |e, x| e.max(x.error)) + 4.0 * U * m;
    let step = |v: f64, m: f64| (v * 127.0 / m).clamp(-127.0, 127.0);
    x.iter()
        .zip(codes)
        .map(|(x, code)| {
            let e = x.error + 4.0 * U * x.value.abs();
            let ends = [
                step(x.value - e, m + off),
                step(x.value - e, (m - off).max(1e-30)),
                step(x.value + e, m + off),
                step(x.value + e, (m - off).max(1e-30)),
            ];
            let low = ends.iter().fold(f64::MAX, |a, &b| a.min(b)).round_ties_even();
            let high = ends.iter().fold(f64::MIN, |a, &b| a.max(b)).round_ties_even();
            let code = f64::from(code);
            let steps = (high - code).max(code - low).max(0.0);
            Approx { value: code * scale, error: steps * scale + code.abs() / 127.0 * off }
        })
        .collect()
}

/// `scale (x - mean) / sqrt(variance + epsilon) + shift`.
fn normalized(x: &[Approx], scale: Option<&[f32]>, shift: Option<&[f32]>, epsilon: f32) -> Vec<Approx> {
    let count = Approx::exact(x.len() as f64);
    let total = |of: &[Approx]| {
        let terms =
            of.iter().fold(Sum::default(), |sum, x| sum.plus(Sum { carried: x.error, ..Sum::of(x.value) }));
        terms.done().over(count)
    };
    let mean = total(x);
    let minus = Approx { value: -mean.value, ..mean };
    let centred: Vec<Approx> = x.iter().map(|x| x.plus(minus)).collect();
    let squares: Vec<Approx> = centred.iter().map(|d| d.times(*d)).collect();
    let deviation = root(total(&squares).plus(Approx::exact(epsilon.into())));
    let one = |(k, d): (usize, &Approx)| {
        let y = d.over(deviation).times(Approx::exact(scale.map_or(1.0, |s| s[k].into())));
        // Divided, or multiplied by the inverse.
        Approx { error: y.error + 2.0 * U * y.value.abs(), ..y }
            .plus(Approx::exact(shift.map_or(0.0, |s| s[k].into())))
    };
    centred.iter().enumerate().map(one).collect()
}

fn root(x: Approx) -> Approx {
    let value = x.value.sqrt();
    Approx::rounded(value, (x.error / value).min(x.error.sqrt()))
}

/// Its error is relative; below the range of the kernels it is the smallest number there.
fn exponential(x: Approx) -> Approx {
    let value = x.value.exp();
    let relative = x.error.exp_m1() + 2.0 * MAX_EXP_ERROR_ULPS * 2.0 * U;
    Approx { value, error: value * relative + f64::from(f32::MIN_POSITIVE) }
}

fn logarithm(x: Approx) -> Approx {
    let value = x.value.ln();
    let carried = x.error / (x.value - x.error).max(f64::MIN_POSITIVE);
    Approx { value, error: carried + 2.0 * MAX_LN_ERROR_ULPS * 2.0 * U * value.abs().max(1.0) }
}

/// `x - log-sum-exp of x`, whose error is that of a log-probability.
fn log_softmax(x: &[Approx]) -> Vec<Approx> {
    let top = x.iter().fold(f64::MIN, |m, x| m.max(x.value));
    let total = top + x.iter().map(|x| (x.value - top).exp()).sum::<f64>().ln();
    let values: Vec<f32> = x.iter().map(|x| x.value as f32).collect();
    let carried = x.iter().fold(0.0f64, |m, x| m.max(x.error));
    let error = carried + score_bound(&values);
    x.iter().map(|x| x.plus(Approx { value: -total, error })).collect()
}

/// A log-probability's error: the logits' own roundings, one exponential (2 ULP) and a tree of sums over panels of 32, in units of
/// 2^-24 times the magnitudes involved. Eight is the depth within a panel and the few operations after it.
pub(crate) fn score_bound(logits: &[f32]) -> f64 {
    let size = logits.iter().fold(1.0f32, |m, &x| m.max(x.abs()));
    (8.0 + logits.len() as f64 / 32.0 + 8.0 * f64::from(size)) / f64::from(1 << 24)
}

/// One stream of a language model with errors carried.
pub(crate) struct Reference<'g> {
    program: Program<'g>,
    maps: HashMap<WeightId, Map>,
    dense: HashMap<WeightId, Vec<f32>>,
    /// By state.
    states: Vec<Vec<Approx>>,
}

impl<'g> Reference<'g> {
    pub(crate) fn new(graph: &'g Graph) -> Reference<'g> {
        let program = Program::of(graph).unwrap();
        let dense = |map: &LinearMap| map.to_dense().unwrap().to_f32().unwrap().to_vec();
        let dense: HashMap<_, _> = graph.weights().map(|(id, w)| (id, dense(&w.map))).collect();
        let states = program.states().iter().map(|s| match s.initial {
            Some(w) => dense[&w].iter().map(|&x| Approx::exact(x.into())).collect(),
            None => vec![Approx::default(); s.width],
        });
        let states: Vec<_> = states.collect();
        // Maps of all but vectors.
        let matrices = graph.weights().filter(|(_, w)| w.map.shape().len() == 2);
        Reference { maps: matrices.map(|(id, w)| (id, Map::of(&w.map))).collect(), dense, states, program }
    }

    /// The output after one more token.
    pub(crate) fn step(&mut self, token: u32) -> Vec<Approx> {
        let program = self.program.clone();
        let mut values: Vec<Vec<Approx>> = vec![];
        // Of stepwise states; those of cells are replaced at once.
        let old = self.states.clone();
        for (_, step) in program.steps() {
            let slice = |x: &Slice| {
                let of = match x.of {
                    Sequence::Step(s) => &values[s.index()],
                    Sequence::State(s) => &old[s.index()],
                };
                of[x.from..x.from + x.width].to_vec()
            };
            let value = match &step.kind {
                StepKind::Embed(e) => self.maps[&e.table].row(token as usize),
                StepKind::Cell(cell) => {
                    let states: Vec<&Vec<Approx>> = cell.states.iter().map(|s| &old[s.index()]).collect();
                    let of_x = self.maps[&cell.input].sums(&slice(&cell.x));
                    let of_h = self.maps[&cell.recurrent].sums(states[0]);
                    let bias = &self.dense[&cell.bias];
                    let mut next = vec![vec![]; states.len()];
                    for unit in 0..step.width {
                        let row = |rows: GateRows, g: usize| Some(rows.block(g)? * step.width + unit);
                        let gate = |g: usize| {
                            let terms = [
                                row(cell.spec.input, g).map(|row| of_x[row]),
                                row(cell.spec.recurrent, g).map(|row| of_h[row]),
                                row(cell.spec.bias, g).map(|row| Sum::of(bias[row].into())),
                            ];
                            terms.into_iter().flatten().fold(Sum::default(), Sum::plus).done()
                        };
                        let mut inputs: Vec<Approx> = (0..cell.spec.gates()).map(gate).collect();
                        inputs.extend(states.iter().map(|s| s[unit]));
                        inputs.extend((0..cell.spec.parameters).map(|p| {
                            let all = &self.dense[&cell.parameters.unwrap()];
                            Approx::exact(all[p * step.width + unit].into())
                        }));
                        let results = Bounds::of(&cell.spec.formula, &inputs);
                        next.iter_mut().zip(results).for_each(|(all, x)| all.push(x));
                    }
                    for (s, next) in cell.states.iter().zip(&next) {
                        self.states[s.index()] = next.clone();
                    }
                    next.swap_remove(0)
                }
                StepKind::Apply(a) => {
                    let mut sums = vec![Sum::default(); step.width];
                    let mut add = |terms: Vec<Sum>| {
                        sums.iter_mut().zip(terms).for_each(|(y, x)| *y = y.plus(x));
                    };
                    a.terms.iter().for_each(|(x, w)| add(self.maps[w].sums(&slice(x))));
                    a.bias
                        .iter()
                        .for_each(|b| add(self.dense[b].iter().map(|&b| Sum::of(b.into())).collect()));
                    sums.into_iter().map(Sum::done).collect()
                }
                StepKind::Map(map) => {
                    let operands: Vec<Vec<Approx>> = map
                        .operands
                        .iter()
                        .map(|source| match source {
                            Source::Slice(x) => slice(x),
                            Source::Constant(w) => {
                                self.dense[w].iter().map(|&x| Approx::exact(x.into())).collect()
                            }
                        })
                        .collect();
                    let one = |i| {
                        let inputs: Vec<Approx> = operands.iter().map(|o| o[i % o.len()]).collect();
                        Bounds::of(&map.formula, &inputs)[0]
                    };
                    (0..step.width).map(one).collect()
                }
                StepKind::Norm(norm) => {
                    let [scale, shift] = [norm.scale, norm.shift].map(|w| w.map(|w| &self.dense[&w][..]));
                    normalized(&slice(&norm.x), scale, shift, norm.epsilon)
                }
                StepKind::LogSoftmax(x) => log_softmax(&slice(x)),
                StepKind::Concat(parts) => parts.iter().flat_map(slice).collect(),
            };
            values.push(value);
        }
        for (k, state) in program.states().iter().enumerate().filter(|(_, s)| s.is_stepwise) {
            self.states[k] = values[state.next.index()].clone();
        }
        values.swap_remove(program.output().index())
    }
}

/// Asserts that every logit is within its bound.
pub(crate) fn assert_close(level: Level, have: &[f32], want: &[Approx]) {
    assert_eq!(have.len(), want.len());
    for (i, (&h, w)) in have.iter().zip(want).enumerate() {
        let bound = SAFETY * w.error + f64::from(f32::MIN_POSITIVE);
        let error = (f64::from(h) - w.value).abs();
        assert!(error <= bound, "{level}: logit {i}: {h}, expected {} within {bound:e}", w.value);
    }
}
