//! The plan as text.

use super::{
    Buffer, Cell, CellInput, Codes, Elements, Input, Output, PackedId, Plan, Product, Segment, Start, Step,
    Vector,
};
use std::fmt;

fn buffer(b: &Buffer) -> String {
    format!("scratch[{}..{}]", b.offset, b.offset + b.len)
}

fn slot(offset: usize, len: usize) -> String {
    format!("state[{offset}..{}]", offset + len)
}

fn codes(c: &Codes) -> String {
    format!("codes[{}..{}]", c.offset, c.offset + c.len())
}

fn vector(v: &Vector) -> String {
    match v {
        Vector::Scratch(b) => buffer(b),
        Vector::State(b) => slot(b.offset, b.len),
    }
}

/// A cell's formula: gates `g` (and `u`, if the first state has sums of its own), states `s`, parameters `p`.
fn cell_text(cell: &Cell) -> String {
    let input = |n: usize| match cell.input(n) {
        CellInput::Gate { sums, gate } => format!("{}{gate}", ["g", "u"][sums]),
        CellInput::State(n) => format!("s{n}"),
        CellInput::Parameter(n) => format!("p{n}"),
    };
    cell.formula.text(&input, &|n| format!("s{n}"))
}

impl Plan {
    fn name(&self, id: PackedId) -> &str {
        &self.packed(id).name
    }

    fn segments(&self, segments: &[Segment]) -> String {
        let one = |s: &Segment| {
            let input = match &s.input {
                Input::Floats(v) => vector(v),
                Input::Codes(c) => codes(c),
                Input::Spread(b, _) => buffer(b),
            };
            format!("{} * {input}", self.name(s.weights))
        };
        segments.iter().map(one).collect::<Vec<_>>().join(" + ")
    }

    fn product(&self, p: &Product) -> String {
        let terms = self.segments(&p.segments);
        let terms = match &p.start {
            Start::Zero => terms,
            Start::Bias(id) => format!("{} + {terms}", self.name(*id)),
            Start::Buffer(b) => format!("{} + {terms}", buffer(b)),
        };
        terms + &self.wide_text(&p.segments)
    }

    /// Whether a product of these terms is in vectors of 256 bits.
    fn wide_text(&self, terms: &[Segment]) -> String {
        let wide = self.target.wide.filter(|_| self.wide_terms(terms).is_some());
        wide.map(|wide| format!(", in 256 bits by {}", wide.name())).unwrap_or_default()
    }

    fn step(&self, f: &mut fmt::Formatter<'_>, indent: usize, step: &Step) -> fmt::Result {
        write!(f, "{:indent$}", "")?;
        match step {
            Step::Gather { table, out } => writeln!(f, "{} = gather {}", buffer(out), self.name(*table)),
            Step::GatherTrain { cores, out, .. } => {
                let cores: Vec<&str> = cores.iter().map(|&c| self.name(c)).collect();
                writeln!(f, "{} = gather {}", buffer(out), cores.join(" . "))
            }
            Step::Quantize { x, out } => writeln!(f, "{} = quantize {}", codes(out), vector(x)),
            Step::Spread { codes: c, out } => writeln!(f, "{} = spread {}", buffer(out), codes(c)),
            Step::Round { x, out } => writeln!(f, "{} = round {}", buffer(out), vector(x)),
            Step::Product { product, out } => {
                writeln!(f, "{} = {}", buffer(out), self.product(product))
            }
            Step::Cell(cell) => {
                let states: Vec<String> = cell.states.iter().map(|s| slot(s.offset, s.len)).collect();
                let parameters =
                    cell.parameters.map(|(id, _)| format!(", {}", self.name(id))).unwrap_or_default();
                writeln!(f, "{} = cell {}{parameters}", buffer(&cell.out), states.join(", "))?;
                for (gates, terms) in cell.products() {
                    let (terms, wide) = (self.segments(&terms), self.wide_text(&terms));
                    writeln!(f, "{:indent$}  gates {} + {terms}{wide}", "", self.name(gates.start))?;
                }
                writeln!(f, "{:indent$}  {}", "", cell_text(cell))
            }
            Step::Map { formula, operands, out } => {
                let operand = |n: usize| {
                    let of = match &operands[n].of {
                        Elements::Vector(x) => vector(x),
                        Elements::Weight(id) => self.name(*id).to_string(),
                    };
                    if operands[n].is_scalar { format!("{of} (scalar)") } else { of }
                };
                writeln!(f, "{}", formula.text(&operand, &|_| buffer(out)))
            }
            Step::Norm { x, scale, shift, epsilon, out } => {
                let scale = scale.map(|id| format!(" * {}", self.name(id))).unwrap_or_default();
                let shift = shift.map(|id| format!(" + {}", self.name(id))).unwrap_or_default();
                writeln!(f, "{} = normalize({}, {epsilon:e}){scale}{shift}", buffer(out), vector(x))
            }
            Step::LogSoftmax { x, out } => writeln!(f, "{} = log_softmax({})", buffer(out), vector(x)),
            Step::Concat { parts, out } => {
                let parts: Vec<String> = parts.iter().map(vector).collect();
                writeln!(f, "{} = {}", buffer(out), parts.join(", "))
            }
            Step::Delay { x, state, out } => {
                let state = slot(state.offset, state.len);
                if let Some(out) = out {
                    write!(f, "{} = {state}; ", buffer(out))?;
                }
                writeln!(f, "{state} = {}", buffer(x))
            }
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "plan \"{}\" (vocabulary {})", self.name, self.vocabulary)?;
        let (all, read) = (self.weight_bytes(), self.weight_bytes_per_token());
        writeln!(f, "weights: {all} bytes, {read} read per token")?;
        let width = self.weights.iter().map(|w| w.name.len()).max().unwrap_or(0);
        for p in &self.weights {
            let from = match p.represented.as_str() {
                "" | "dense" => String::new(),
                other => format!(" (from {other})"),
            };
            writeln!(f, "  {:width$}  {}{from}", p.name, p.packing)?;
        }
        writeln!(f, "state: {} f32", self.state_len)?;
        for s in &self.state {
            write!(f, "  {}  {}", s.name, slot(s.offset, s.len))?;
            match self.initial.iter().find(|(at, _)| at.offset == s.offset && at.len == s.len) {
                Some((_, from)) => writeln!(f, ", at first {}", self.name(*from))?,
                None => writeln!(f)?,
            }
        }
        let head = self.head.name();
        writeln!(f, "scratch: {} f32, {head} {}", self.scratch_len, buffer(&self.logits))?;
        writeln!(f, "steps:")?;
        for (n, step) in self.steps.iter().enumerate() {
            if self.loops.iter().any(|l| !l.is_cell && l.steps.start == n) {
                writeln!(f, "  once for each time step:")?;
            }
            let is_inner = self.loops.iter().any(|l| !l.is_cell && l.steps.contains(&n));
            self.step(f, if is_inner { 4 } else { 2 }, step)?;
        }
        writeln!(f, "output:")?;
        for step in &self.output.prologue {
            self.step(f, 2, step)?;
        }
        match &self.output.result {
            Output::Product(p) => writeln!(f, "  {head} = {}", self.product(p)),
            Output::Buffer(b) => writeln!(f, "  {head} = {}", buffer(b)),
        }
    }
}
