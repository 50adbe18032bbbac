//! Models of every kind of recurrent layer.

use super::{SplitMix64, dense, lstm_variants};
use crate::ir::cell::{GateOrder, Gru, Lstm, Reset, Rnn};
use crate::ir::graph::{Graph, WeightId};
use crate::ir::map::LinearMap;
use crate::ir::op::{Function, Op};
use crate::ir::parse::{attributes, parse};
use crate::ir::program::Head;
use std::fmt::Write;

/// A kind of recurrent layer: a cell, or general steps with stepwise states.
#[derive(Clone, PartialEq, Debug)]
pub enum Recurrence {
    /// `lstm`, with or without peepholes.
    Lstm(Lstm, bool),
    /// `gru`.
    Gru(Gru),
    /// `rnn`.
    Rnn(Rnn),
    /// A GRU with [`Reset::After`] in steps. Its `bias` and `state_bias` are those of the two products.
    GruSteps,
    /// An RNN in steps: a sum of two products.
    RnnSteps,
    /// An LSTM whose output is projected to half the units, rounded up (Sak et al. 2014).
    ProjectedLstm,
    /// An LSTM with layer normalisation of both products and of the cell (Ba et al. 2016).
    NormedLstm,
    /// `h' = (1 - z) h + z n` where `z` and `n` depend on the input alone (Feng et al. 2024).
    MinGru,
    /// An LSTM whose input gate is an exponential and whose state is normalised, with a stabiliser (Beck et al. 2024); its output is chosen by
    /// comparing.
    ExponentialLstm,
    /// A layer that reads its input and that of the step before, which is not recurrent.
    Delayed,
}

impl Recurrence {
    /// Every kind, and every variant of the cells.
    pub fn all() -> Vec<Recurrence> {
        let mut all: Vec<Recurrence> = Recurrence::general();
        all.extend(lstm_variants().into_iter().map(|(lstm, peepholes)| Recurrence::Lstm(lstm, peepholes)));
        for reset in Reset::ALL {
            let activations = [Function::HardSigmoid { alpha: 0.3, beta: 0.4 }, Function::Relu];
            let plain = Gru::new(reset);
            all.extend([Gru { clip: Some(0.3), ..plain }, Gru { activations, ..plain }].map(Recurrence::Gru));
        }
        let rnn = Rnn { activation: Function::Softsign, clip: Some(0.5) };
        all.push(Recurrence::Rnn(rnn));
        all
    }

    /// Every kind, without the variants of the cells.
    pub fn general() -> Vec<Recurrence> {
        vec![
            Recurrence::Lstm(Lstm::new(GateOrder::Iofc), false),
            Recurrence::Gru(Gru::new(Reset::After)),
            Recurrence::Gru(Gru::new(Reset::Before)),
            Recurrence::Rnn(Rnn { activation: Function::Tanh, clip: None }),
            Recurrence::GruSteps,
            Recurrence::RnnSteps,
            Recurrence::ProjectedLstm,
            Recurrence::NormedLstm,
            Recurrence::MinGru,
            Recurrence::ExponentialLstm,
            Recurrence::Delayed,
        ]
    }
}

/// What a model has besides its recurrent layers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extras {
    /// Learned initial states.
    pub starts: bool,
    /// A gate of one feature, a sum of two products, a concatenation, a layer normalisation and a log-softmax.
    pub decorated: bool,
    /// The output: logits, or a vector as long as the last layer's.
    pub head: Head,
}

impl Extras {
    /// None: a linear layer computes logits.
    pub const NONE: Extras = Extras { starts: false, decorated: false, head: Head::Logits };

    /// All of them, with logits.
    pub const ALL: Extras = Extras { starts: true, decorated: true, head: Head::Logits };
}

/// A model with layers of this kind: `[hidden, layers, vocabulary]`. Its matrices are made by `map` from name and shape; vectors are dense.
pub fn recurrent_model_of(
    kind: &Recurrence,
    [hidden, layers, vocabulary]: [usize; 3],
    extras: Extras,
    mut map: impl FnMut(&str, [usize; 2]) -> LinearMap,
) -> Graph {
    let mut text = Text { width: hidden, starts: extras.starts, ..Text::default() };
    let table = text.weight("embedding", &[vocabulary, hidden]);
    let mut x = text.node("x0", &format!("embedding %tokens, {table}"));
    for k in 0..layers {
        x = text.layer(kind, k, &x);
    }
    if extras.decorated {
        x = text.decorations(&x, hidden);
    }
    let output = match extras.head {
        Head::Hidden => x,
        Head::Logits => {
            let (decoder, bias) = (
                text.weight("decoder", &[vocabulary, text.width]),
                text.weight("decoder.bias", &[vocabulary]),
            );
            let name = if extras.decorated { "scores" } else { "logits" };
            let y = text.node(name, &format!("linear {x}, {decoder}, {bias}"));
            if extras.decorated { text.node("logits", &format!("log_softmax {y}")) } else { y }
        }
    };
    let Text { sources, nodes, weights, returns, .. } = text;
    let returns: String = returns.iter().map(|r| format!(", {r}")).collect();
    let text = format!(
        "model \"random\" (vocabulary {vocabulary}) {{\n  %tokens: i64[S, B] = input\n{sources}{nodes}  return {} {output}{returns}\n}}\n{weights}",
        extras.head.name()
    );
    let mut graph = parse(&text).expect("types that fit, by construction");
    let matrices: Vec<(WeightId, String, Vec<usize>)> =
        graph.weights().map(|(id, w)| (id, w.name.clone(), w.map.shape())).collect();
    for (id, name, shape) in matrices {
        if let [rows, cols] = shape[..] {
            graph.set_weight(id, map(&name, [rows, cols]).into()).expect("a map of this shape");
        }
    }
    graph
}

/// [`recurrent_model_of`] with dense matrices.
pub fn recurrent_model(kind: &Recurrence, sizes: [usize; 3], extras: Extras, seed: u64) -> Graph {
    let mut rng = SplitMix64::new(seed);
    recurrent_model_of(kind, sizes, extras, |_, shape| dense(shape, rng.next_u64()))
}

/// A model's text.
#[derive(Default)]
struct Text {
    sources: String,
    nodes: String,
    weights: String,
    returns: Vec<String>,
    /// Features of the last sequence.
    width: usize,
    starts: bool,
    drawn: u64,
    made: u64,
}

impl Text {
    fn weight(&mut self, name: &str, shape: &[usize]) -> String {
        self.drawn += 1;
        let _ = writeln!(self.weights, "@{name}: f32{shape:?} random {}", self.drawn);
        format!("@{name}")
    }

    /// The number one.
    fn one(&mut self) -> &'static str {
        if !self.weights.contains("@one:") {
            self.weights.push_str("@one: f32[1] [1]\n");
        }
        "@one"
    }

    fn node(&mut self, name: &str, node: &str) -> String {
        let _ = writeln!(self.nodes, "  %{name} = {node}");
        format!("%{name}")
    }

    /// A node with a name of its own.
    fn op(&mut self, node: &str) -> String {
        self.made += 1;
        self.node(&format!("v{}", self.made), node)
    }

    fn state(&mut self, name: &str, of_type: &str, width: usize) -> String {
        let initial =
            if self.starts { self.weight(&format!("{name}.initial"), &[width]) } else { String::new() };
        let node = format!("  %{name}: f32[{of_type}, {width}] = state {initial}");
        let _ = writeln!(self.sources, "{}", node.trim_end());
        format!("%{name}")
    }

    fn stepwise(&mut self, name: &str, width: usize) -> String {
        self.state(name, "S, B", width)
    }

    fn returns(&mut self, state: &str, next: &str) {
        self.returns.push(format!("state {state} = {next}"));
    }

    /// The parts of `n` features of a sequence.
    fn parts<const N: usize>(&mut self, x: &str, n: usize) -> [String; N] {
        std::array::from_fn(|k| self.op(&format!("features {x} {{from = {}, to = {}}}", k * n, (k + 1) * n)))
    }

    fn layer(&mut self, kind: &Recurrence, k: usize, x: &str) -> String {
        let n = self.width;
        match kind {
            Recurrence::Lstm(lstm, peepholes) => {
                let rows = lstm.rows().count();
                let peepholes = peepholes.then(|| lstm.peepholes().count());
                self.cell(&Op::Lstm(*lstm), k, x, ["h", "c"].as_slice(), [rows, rows], peepholes)
            }
            Recurrence::Gru(gru) => self.cell(&Op::Gru(*gru), k, x, &["h"], [3, gru.biases()], None),
            Recurrence::Rnn(rnn) => self.cell(&Op::Rnn(*rnn), k, x, &["h"], [1, 1], None),
            Recurrence::GruSteps => {
                let h = self.stepwise(&format!("h{k}"), n);
                let of_x = self.product(&format!("gru{k}"), &[("input", x, n)], 3 * n, Some("bias"));
                let of_h =
                    self.product(&format!("gru{k}"), &[("recurrent", &h, n)], 3 * n, Some("state_bias"));
                let ([zx, rx, nx], [zh, rh, nh]) = (self.parts(&of_x, n), self.parts(&of_h, n));
                let z = self.op(&format!("add {zx}, {zh}"));
                let z = self.op(&format!("sigmoid {z}"));
                let r = self.op(&format!("add {rx}, {rh}"));
                let r = self.op(&format!("sigmoid {r}"));
                let m = self.op(&format!("mul {r}, {nh}"));
                let m = self.op(&format!("add {m}, {nx}"));
                let m = self.op(&format!("tanh {m}"));
                let next = self.mix(&z, &m, &h);
                self.returns(&h, &next);
                next
            }
            Recurrence::RnnSteps => {
                let h = self.stepwise(&format!("h{k}"), n);
                let terms = [("input", x, n), ("recurrent", &*h, n)];
                let y = self.product(&format!("rnn{k}"), &terms, n, Some("bias"));
                let y = self.op(&format!("tanh {y}"));
                self.returns(&h, &y);
                y
            }
            Recurrence::ProjectedLstm => {
                let p = n.div_ceil(2);
                let (h, c) = (self.stepwise(&format!("h{k}"), p), self.stepwise(&format!("c{k}"), n));
                let terms = [("input", x, n), ("recurrent", &*h, p)];
                let gates = self.product(&format!("lstm{k}"), &terms, 4 * n, Some("bias"));
                let (y, new) = self.lstm(&gates, &c, n, None);
                let y = self.product(&format!("lstm{k}"), &[("projection", &y, n)], p, None);
                self.returns(&h, &y);
                self.returns(&c, &new);
                self.width = p;
                y
            }
            Recurrence::NormedLstm => {
                let (h, c) = (self.stepwise(&format!("h{k}"), n), self.stepwise(&format!("c{k}"), n));
                let name = format!("lstm{k}");
                let mut products = vec![];
                for (map, x) in [("input", x), ("recurrent", &*h)] {
                    let y = self.product(&name, &[(map, x, n)], 4 * n, None);
                    let scale = self.weight(&format!("{name}.{map}.scale"), &[4 * n]);
                    products.push(self.op(&format!("layer_norm {y}, {scale} {{epsilon = 1e-5}}")));
                }
                let gates = self.op(&format!("add {}, {}", products[0], products[1]));
                let bias = self.weight(&format!("{name}.bias"), &[4 * n]);
                let gates = self.op(&format!("add {gates}, {bias}"));
                let norm = [
                    self.weight(&format!("{name}.scale"), &[n]),
                    self.weight(&format!("{name}.shift"), &[n]),
                ];
                let (y, new) = self.lstm(&gates, &c, n, Some(norm));
                self.returns(&h, &y);
                self.returns(&c, &new);
                y
            }
            Recurrence::MinGru => {
                let h = self.stepwise(&format!("h{k}"), n);
                let both = self.product(&format!("gru{k}"), &[("input", x, n)], 2 * n, Some("bias"));
                let [z, m] = self.parts(&both, n);
                let z = self.op(&format!("sigmoid {z}"));
                let next = self.mix(&z, &h, &m);
                self.returns(&h, &next);
                next
            }
            Recurrence::ExponentialLstm => {
                let [h, c, total, most] = ["h", "c", "n", "m"].map(|s| self.stepwise(&format!("{s}{k}"), n));
                let terms = [("input", x, n), ("recurrent", &*h, n)];
                let gates = self.product(&format!("lstm{k}"), &terms, 4 * n, Some("bias"));
                let [i, f, z, o] = self.parts(&gates, n);
                let [f, o] = [f, o].map(|x| self.op(&format!("sigmoid {x}")));
                let z = self.op(&format!("tanh {z}"));
                let f = self.op(&format!("log {f}"));
                let kept = self.op(&format!("add {f}, {most}"));
                let new_most = self.op(&format!("max {kept}, {i}"));
                let [i, f] = [&i, &kept].map(|x| {
                    let x = self.op(&format!("sub {x}, {new_most}"));
                    self.op(&format!("exp {x}"))
                });
                let iz = self.op(&format!("mul {i}, {z}"));
                let [new_total, new_c] = [(&total, &i), (&c, &iz)].map(|(state, new)| {
                    let kept = self.op(&format!("mul {f}, {state}"));
                    self.op(&format!("add {kept}, {new}"))
                });
                // Not one, which the total is after the first step: there a maximum has no derivative.
                if !self.weights.contains("@least:") {
                    self.weights.push_str("@least: f32[1] [0.75]\n");
                }
                let least = self.op(&format!("max {new_total}, @least"));
                let y = self.op(&format!("div {new_c}, {least}"));
                let shown = self.op(&format!("mul {y}, {o}"));
                let y = self.op(&format!("select {y}, {shown}, {y}, {shown}"));
                for (state, next) in [(h, &y), (c, &new_c), (total, &new_total), (most, &new_most)] {
                    self.returns(&state, next);
                }
                y
            }
            Recurrence::Delayed => {
                let before = self.stepwise(&format!("x{k}.before"), n);
                let terms = [("now", x, n), ("before", &*before, n)];
                let y = self.product(&format!("delayed{k}"), &terms, n, Some("bias"));
                self.returns(&before, x);
                self.op(&format!("tanh {y}"))
            }
        }
    }

    /// A cell with these states, and blocks of rows in its maps and bias.
    fn cell(
        &mut self,
        op: &Op,
        k: usize,
        x: &str,
        states: &[&str],
        [rows, biases]: [usize; 2],
        peepholes: Option<usize>,
    ) -> String {
        let (n, name) = (self.width, format!("{}{k}", op.name()));
        let states: Vec<String> = states.iter().map(|s| self.state(&format!("{s}{k}"), "B", n)).collect();
        let mut operands = vec![x.to_string()];
        operands.extend(states.iter().cloned());
        operands.push(self.weight(&format!("{name}.input"), &[rows * n, n]));
        operands.push(self.weight(&format!("{name}.recurrent"), &[rows * n, n]));
        operands.push(self.weight(&format!("{name}.bias"), &[biases * n]));
        if let Some(count) = peepholes {
            operands.push(self.weight(&format!("{name}.peepholes"), &[count * n]));
        }
        let mut results = vec![format!("%y{k}")];
        results.extend(states.iter().map(|s| format!("{s}.next")));
        let _ = writeln!(
            self.nodes,
            "  {} = {} {}{}",
            results.join(", "),
            op.name(),
            operands.join(", "),
            attributes::write(op)
        );
        states.iter().for_each(|s| self.returns(s, &format!("{s}.next")));
        results.swap_remove(0)
    }

    /// A sum of products, of `(name, x, width of x)`.
    fn product(&mut self, of: &str, terms: &[(&str, &str, usize)], out: usize, bias: Option<&str>) -> String {
        let mut operands = vec![];
        for (map, x, width) in terms {
            operands.push(x.to_string());
            operands.push(self.weight(&format!("{of}.{map}"), &[out, *width]));
        }
        operands.extend(bias.map(|b| self.weight(&format!("{of}.{b}"), &[out])));
        self.op(&format!("linear {}", operands.join(", ")))
    }

    /// `(1 - z) x + z y`.
    fn mix(&mut self, z: &str, x: &str, y: &str) -> String {
        let one = self.one();
        let rest = self.op(&format!("sub {one}, {z}"));
        let a = self.op(&format!("mul {rest}, {x}"));
        let b = self.op(&format!("mul {z}, {y}"));
        self.op(&format!("add {a}, {b}"))
    }

    /// The output and the new cell of an LSTM in steps, gates in the order i, o, f, c.
    fn lstm(&mut self, gates: &str, c: &str, n: usize, norm: Option<[String; 2]>) -> (String, String) {
        let [i, o, f, g] = self.parts(gates, n);
        let [i, o, f] = [i, o, f].map(|x| self.op(&format!("sigmoid {x}")));
        let g = self.op(&format!("tanh {g}"));
        let kept = self.op(&format!("mul {f}, {c}"));
        let added = self.op(&format!("mul {i}, {g}"));
        let new = self.op(&format!("add {kept}, {added}"));
        let shown = match norm {
            Some([scale, shift]) => {
                self.op(&format!("layer_norm {new}, {scale}, {shift} {{epsilon = 1e-3}}"))
            }
            None => new.clone(),
        };
        let t = self.op(&format!("tanh {shown}"));
        (self.op(&format!("mul {o}, {t}")), new)
    }

    fn decorations(&mut self, x: &str, embedded: usize) -> String {
        let n = self.width;
        let gate = self.product("gate", &[("weight", x, n)], 1, Some("bias"));
        let gate = self.op(&format!("sigmoid {gate}"));
        let gated = self.op(&format!("mul {x}, {gate}"));
        let sum = self.product("skip", &[("high", &gated, n), ("low", "%x0", embedded)], n, Some("bias"));
        let shift = self.weight("norm.shift", &[n]);
        let normal = self.op(&format!("layer_norm {sum}, none, {shift} {{epsilon = 1e-2}}"));
        let last = self.op(&format!("features %x0 {{from = {}, to = {embedded}}}", embedded - 1));
        self.width = n + 1;
        self.op(&format!("concat {normal}, {last}"))
    }
}
