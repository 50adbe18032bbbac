//! Recurrent cells as data: what a cell multiplies, and the formula that it applies to the products.
//!
//! ```text
//!   gates = W x + U h + b        [gates, units]: the products, in blocks of the maps' rows; a gate may lack some of the terms
//!   states' = formula(gates, states, parameters)    unit by unit; the first state is the output, which U multiplies
//! ```
//!
//! A [`CellSpec`] is all that the interpreter, training, the plan and code generation know of a cell. A new cell is an operator with attributes,
//! and the spec that is made from them.

use super::formula::{Algebra, Formula, FormulaBuilder, TermId};
use super::op::{Binary, Function};

/// The order of the gates along the rows of an LSTM's weights: input `i`, output `o`, forget `f`, cell `g` (`c` in ONNX).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GateOrder {
    /// ONNX.
    Iofc,
    /// PyTorch, and Keras (which calls the cell gate `c` and the order ifco).
    Ifgo,
}

/// One of the four gates.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Gate {
    /// Input gate.
    Input,
    /// Output gate.
    Output,
    /// Forget gate.
    Forget,
    /// Cell candidate.
    Cell,
}

impl GateOrder {
    /// Every order.
    pub const ALL: [GateOrder; 2] = [GateOrder::Iofc, GateOrder::Ifgo];

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            GateOrder::Iofc => "iofc",
            GateOrder::Ifgo => "ifgo",
        }
    }

    /// The gates in order of rows.
    pub fn gates(self) -> [Gate; 4] {
        use Gate::{Cell, Forget, Input, Output};
        match self {
            GateOrder::Iofc => [Input, Output, Forget, Cell],
            GateOrder::Ifgo => [Input, Forget, Cell, Output],
        }
    }
}

/// The maximum number of gates in a cell.
const MOST_GATES: usize = 8;

/// For each gate of a formula, in order, the block of a map's rows that computes it, if the map has rows for it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GateRows {
    count: u8,
    blocks: [u8; MOST_GATES],
}

impl GateRows {
    /// The block of a gate without rows.
    const NONE: u8 = u8::MAX;

    /// The blocks of all gates, in order; at most eight gates.
    pub fn new(blocks: impl IntoIterator<Item: Into<Option<usize>>>) -> GateRows {
        let mut rows = GateRows { count: 0, blocks: [GateRows::NONE; MOST_GATES] };
        for (to, block) in rows.blocks.iter_mut().zip(blocks) {
            *to = block.into().map_or(GateRows::NONE, |b| b as u8);
            rows.count += 1;
        }
        rows
    }

    /// How many gates, with rows or without.
    pub fn count(self) -> usize {
        self.count.into()
    }

    /// How many gates have rows.
    pub fn blocks(self) -> usize {
        (0..self.count()).filter(|&n| self.block(n).is_some()).count()
    }

    /// The blocks here and in `other` of each gate that both have rows for.
    pub fn common(self, other: GateRows) -> impl Iterator<Item = (usize, usize)> {
        (0..self.count()).filter_map(move |n| Some((self.block(n)?, other.block(n)?)))
    }

    /// The block of gate `n`.
    pub fn block(self, n: usize) -> Option<usize> {
        Some(self.blocks[n].into()).filter(|_| self.blocks[n] != GateRows::NONE)
    }
}

/// A recurrent cell.
#[derive(Clone, PartialEq, Debug)]
pub struct CellSpec {
    /// The gates that the input map has rows for: one row per unit, in blocks.
    pub input: GateRows,
    /// The gates that the recurrent map has rows for.
    pub recurrent: GateRows,
    /// The gates that the bias has elements for.
    pub bias: GateRows,
    /// The states, each one element per unit.
    pub states: usize,
    /// The cell's own vectors, each one element per unit.
    pub parameters: usize,
    /// What is computed unit by unit. Inputs: the gates, the old states, the parameters. Results: the new states.
    pub formula: Formula,
}

impl CellSpec {
    /// A cell whose formula is still empty.
    fn new(rows: [GateRows; 3], states: usize, parameters: usize) -> CellSpec {
        let [input, recurrent, bias] = rows;
        let formula = FormulaBuilder::new().build(|_| None);
        CellSpec { input, recurrent, bias, states, parameters, formula }
    }

    fn with(mut self, builder: FormulaBuilder) -> CellSpec {
        self.formula = builder.build(|state| Some(self.state_input(state)));
        self
    }

    /// The number of gates.
    pub fn gates(&self) -> usize {
        self.bias.count()
    }

    /// The position of a state among the formula's inputs.
    pub fn state_input(&self, n: usize) -> usize {
        self.gates() + n
    }

    /// The position of a parameter among the formula's inputs.
    pub fn parameter_input(&self, n: usize) -> usize {
        self.gates() + self.states + n
    }
}

/// The attributes of `lstm`.
///
/// ```text
///   i = f(clip(gate i + p_i c))      f = f(clip(gate f + p_f c))      or 1 - i if they are coupled
///   c' = f c + i g(clip(gate c))     o = f(clip(gate o + p_o c'))     h' = o h(c')
/// ```
///
/// The peepholes `p` are a separate operand: `[i, o, f]`, or `[i, o]` if gates are coupled.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Lstm {
    /// The order of the gates along the rows; if gates are coupled, the forget gate has no rows.
    pub gates: GateOrder,
    /// The forget gate is 1 minus the input gate (Greff et al. 2017, CIFG).
    pub coupled: bool,
    /// The inputs of the gates' functions are clipped to `[-clip, clip]`.
    pub clip: Option<f32>,
    /// `f, g, h`: for the gates, the cell candidate and the cell.
    pub activations: [Function; 3],
}

impl Lstm {
    /// The functions of a standard LSTM.
    pub const ACTIVATIONS: [Function; 3] = [Function::Sigmoid, Function::Tanh, Function::Tanh];

    /// A standard LSTM, without any of the variants.
    pub fn new(gates: GateOrder) -> Lstm {
        Lstm { gates, coupled: false, clip: None, activations: Lstm::ACTIVATIONS }
    }

    /// The gates that have rows, in order.
    pub fn rows(&self) -> impl Iterator<Item = Gate> + use<> {
        let coupled = self.coupled;
        self.gates.gates().into_iter().filter(move |&g| !(coupled && g == Gate::Forget))
    }

    /// The gates that peepholes belong to, in the order of the operand.
    pub fn peepholes(&self) -> impl Iterator<Item = Gate> + use<> {
        let coupled = self.coupled;
        let gates = [Gate::Input, Gate::Output, Gate::Forget];
        gates.into_iter().filter(move |&g| !(coupled && g == Gate::Forget))
    }

    /// The cell, with or without peepholes.
    pub fn spec(&self, peepholes: bool) -> CellSpec {
        // As packed, regardless of the order of the rows.
        let packed: Vec<Gate> =
            GateOrder::Iofc.gates().into_iter().filter(|g| self.rows().any(|r| r == *g)).collect();
        let block = |gate: &Gate| self.rows().position(|r| r == *gate).unwrap_or(0);
        let gates = GateRows::new(packed.iter().map(block));
        let parameters = if peepholes { self.peepholes().count() } else { 0 };
        let spec = CellSpec::new([gates; 3], 2, parameters);
        let gate = |gate: Gate| packed.iter().position(|&g| g == gate).unwrap_or(0);
        let peephole = |gate: Gate| {
            let n = self.peepholes().position(|g| g == gate)?;
            peepholes.then(|| spec.parameter_input(n))
        };
        let inputs = LstmInputs {
            gates: [Gate::Input, Gate::Output, Gate::Forget, Gate::Cell].map(gate),
            cell: spec.state_input(1),
            peepholes: [Gate::Input, Gate::Output, Gate::Forget].map(peephole),
        };
        let mut builder = FormulaBuilder::new();
        self.evaluate(&mut builder, &inputs);
        spec.with(builder)
    }

    /// What the cell computes unit by unit, in an algebra.
    #[inline(always)]
    fn evaluate<A: Algebra>(&self, a: &mut A, at: &LstmInputs) {
        let [of_gates, of_candidate, of_cell] = self.activations;
        let [of_input, of_output, of_forget] = at.peepholes;
        let early = if of_input.is_some() || of_forget.is_some() { Some(a.input(at.cell)) } else { None };
        let i = self.enters(a, at.gates[0], of_input.zip(early.as_ref()));
        let i = a.function(of_gates, &i);
        let f = if self.coupled {
            let one = a.constant(1.0);
            a.binary(Binary::Sub, &one, &i)
        } else {
            let f = self.enters(a, at.gates[2], of_forget.zip(early.as_ref()));
            a.function(of_gates, &f)
        };
        let g = self.enters(a, at.gates[3], None);
        let g = a.function(of_candidate, &g);
        let old = match early {
            Some(old) => old,
            None => a.input(at.cell),
        };
        let kept = a.binary(Binary::Mul, &f, &old);
        let new = a.mul_add(&i, &g, &kept);
        a.result(1, &new);
        let t = a.function(of_cell, &new);
        let o = self.enters(a, at.gates[1], of_output.zip(Some(&new)));
        let o = a.function(of_gates, &o);
        let out = a.binary(Binary::Mul, &o, &t);
        a.result(0, &out);
    }

    /// The input of a gate's function, with its peephole on the cell state.
    #[inline(always)]
    fn enters<A: Algebra>(&self, a: &mut A, gate: usize, peephole: Option<(usize, &A::Value)>) -> A::Value {
        let mut x = a.input(gate);
        if let Some((p, cell)) = peephole {
            let p = a.input(p);
            x = a.mul_add(&p, cell, &x);
        }
        clipped(a, self.clip, x)
    }
}

/// The formula of a standard LSTM, evaluated in an algebra term by term in the order of [`Lstm::spec`]: an algebra whose values are registers
/// becomes straight-line code.
#[inline(always)]
pub fn plain_lstm<A: Algebra>(a: &mut A) {
    let inputs = LstmInputs { gates: [0, 1, 2, 3], cell: 5, peepholes: [None; 3] };
    Lstm::new(GateOrder::Iofc).evaluate(a, &inputs);
}

/// The positions of an LSTM's inputs.
struct LstmInputs {
    /// Input, output, forget, cell; with coupled gates the third is unused.
    gates: [usize; 4],
    cell: usize,
    /// The peepholes of the input, output and forget gates.
    peepholes: [Option<usize>; 3],
}

/// What enters a gate's function.
#[inline(always)]
fn clipped<A: Algebra>(a: &mut A, clip: Option<f32>, x: A::Value) -> A::Value {
    match clip {
        Some(limit) => a.clip(&x, limit),
        None => x,
    }
}

/// Where the reset gate of a GRU is applied.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reset {
    /// To the product: `n = g(W x + b + r (U h + b'))`. PyTorch, Keras 2; ONNX's `linear_before_reset = 1`. The bias has four blocks: z, r, n, and
    /// `b'`.
    After,
    /// To the state: `n = g(W x + U (r h) + b)`. The bias has three blocks.
    Before,
}

impl Reset {
    /// Both.
    pub const ALL: [Reset; 2] = [Reset::After, Reset::Before];

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Reset::After => "after",
            Reset::Before => "before",
        }
    }
}

/// The attributes of `gru`: `h' = (1 - z) n + z h`, where `z` and `r` are `f` of the sums of their products and `n` is given by [`Reset`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Gru {
    /// Where the reset gate is applied.
    pub reset: Reset,
    /// The inputs of the gates' functions are clipped to `[-clip, clip]`.
    pub clip: Option<f32>,
    /// `f, g`: for the gates and the candidate.
    pub activations: [Function; 2],
}

impl Gru {
    /// The functions of a standard GRU.
    pub const ACTIVATIONS: [Function; 2] = [Function::Sigmoid, Function::Tanh];

    /// A standard GRU.
    pub fn new(reset: Reset) -> Gru {
        Gru { reset, clip: None, activations: Gru::ACTIVATIONS }
    }

    /// Blocks of the bias.
    pub fn biases(&self) -> usize {
        match self.reset {
            Reset::After => 4,
            Reset::Before => 3,
        }
    }

    /// The cell with [`Reset::After`]; the other kind is not one set of products and a formula. Its gates are z, r, and the candidate's terms of the
    /// input and of the state.
    pub fn spec(&self) -> CellSpec {
        let rows = [
            GateRows::new([Some(0), Some(1), Some(2), None]),
            GateRows::new([Some(0), Some(1), None, Some(2)]),
            GateRows::new(0..4),
        ];
        let spec = CellSpec::new(rows, 1, 0);
        let mut b = FormulaBuilder::new();
        let [of_x, of_h] = [b.input(2), b.input(3)];
        let z = b.input(0);
        let r = b.input(1);
        let r = self.gate(&mut b, r);
        let n = b.mul_add(&r, &of_h, &of_x);
        self.finish(&mut b, z, n, spec.state_input(0));
        spec.with(b)
    }

    /// The function of a gate.
    fn gate(&self, b: &mut FormulaBuilder, x: TermId) -> TermId {
        let x = clipped(b, self.clip, x);
        b.function(self.activations[0], &x)
    }

    /// The new state from the inputs of the functions of `z` and `n`.
    fn finish(&self, b: &mut FormulaBuilder, z: TermId, n: TermId, state: usize) {
        let z = self.gate(b, z);
        let n = clipped(b, self.clip, n);
        let n = b.function(self.activations[1], &n);
        let one = b.constant(1.0);
        let rest = b.binary(Binary::Sub, &one, &z);
        let new = b.binary(Binary::Mul, &rest, &n);
        let h = b.input(state);
        let h = b.mul_add(&z, &h, &new);
        b.result(0, &h);
    }

    /// For [`Reset::Before`]: `r h`, of the gate's terms of the input and of the state, and the state.
    pub(crate) fn reset_state(&self) -> Formula {
        let mut b = FormulaBuilder::new();
        let r = sum(&mut b, 0, 1);
        let r = self.gate(&mut b, r);
        let h = b.input(2);
        let h = b.binary(Binary::Mul, &r, &h);
        b.result(0, &h);
        b.build(|_| None)
    }

    /// For [`Reset::Before`]: the new state, of the terms of z of the input and of the state, the same of n, and the state.
    pub(crate) fn next_state(&self) -> Formula {
        let mut b = FormulaBuilder::new();
        let z = sum(&mut b, 0, 1);
        let n = sum(&mut b, 2, 3);
        self.finish(&mut b, z, n, 4);
        b.build(|_| None)
    }
}

fn sum(b: &mut FormulaBuilder, x: usize, y: usize) -> TermId {
    let (x, y) = (b.input(x), b.input(y));
    b.binary(Binary::Add, &x, &y)
}

/// The attributes of `rnn`: `h' = f(W x + U h + b)`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rnn {
    /// `f`.
    pub activation: Function,
    /// The function's input is clipped to `[-clip, clip]`.
    pub clip: Option<f32>,
}

impl Rnn {
    /// The cell.
    pub fn spec(&self) -> CellSpec {
        let spec = CellSpec::new([GateRows::new(0..1); 3], 1, 0);
        let mut b = FormulaBuilder::new();
        let x = b.input(0);
        let x = clipped(&mut b, self.clip, x);
        let h = b.function(self.activation, &x);
        b.result(0, &h);
        spec.with(b)
    }
}
