//! Recurrent cells as data: what a cell multiplies, and the formula that it applies to the products.
//!
//! ```text
//!   gates = W x + U h + b        [gates, units]: the products, in blocks of the maps' rows
//!   states' = formula(gates, states, parameters)    unit by unit; the first state is the output, which U multiplies
//! ```
//!
//! A [`CellSpec`] is all that the interpreter, training, the plan and code generation know of a cell. A new cell is an operator with attributes,
//! and the spec that is made from them.

use super::formula::{Algebra, Formula, FormulaBuilder};
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

/// For each gate of a formula, in order, the block of the maps' rows that computes it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GateRows {
    count: u8,
    blocks: [u8; MOST_GATES],
}

impl GateRows {
    /// The blocks of all gates, in order; at most eight.
    pub fn new(blocks: impl Iterator<Item = usize>) -> GateRows {
        let mut rows = GateRows { count: 0, blocks: [0; MOST_GATES] };
        for (to, block) in rows.blocks.iter_mut().zip(blocks) {
            *to = block as u8;
            rows.count += 1;
        }
        rows
    }

    /// How many gates.
    pub fn count(self) -> usize {
        self.count.into()
    }

    /// The block of gate `n`.
    pub fn block(self, n: usize) -> usize {
        self.blocks[n].into()
    }
}

/// A recurrent cell.
#[derive(Clone, PartialEq, Debug)]
pub struct CellSpec {
    /// The gates. Each has one row of the maps and of the bias per unit.
    pub gates: GateRows,
    /// The states, each one element per unit.
    pub states: usize,
    /// The cell's own vectors, each one element per unit.
    pub parameters: usize,
    /// What is computed unit by unit. Inputs: the gates, the old states, the parameters. Results: the new states.
    pub formula: Formula,
}

impl CellSpec {
    /// The position of a state among the formula's inputs.
    pub fn state_input(&self, n: usize) -> usize {
        self.gates.count() + n
    }

    /// The position of a parameter among the formula's inputs.
    pub fn parameter_input(&self, n: usize) -> usize {
        self.gates.count() + self.states + n
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
        let mut spec =
            CellSpec { gates, states: 2, parameters, formula: FormulaBuilder::new().build(|_| None) };
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
        spec.formula = builder.build(|state| Some(spec.state_input(state)));
        spec
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
        match self.clip {
            Some(limit) => a.clip(&x, limit),
            None => x,
        }
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
