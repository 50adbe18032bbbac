//! The plan as text.

use super::{Buffer, Codes, Input, PackedId, Plan, Product, Segment, Source, Start, Step, Vector};
use lstmc_frontend::ir::CellSpec;
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

/// A cell's formula: gates `g`, states `s`, parameters `p`.
fn cell_text(spec: &CellSpec) -> String {
    let input = |n: usize| match n.checked_sub(spec.gates.count()) {
        None => format!("g{n}"),
        Some(k) if k < spec.states => format!("s{k}"),
        Some(k) => format!("p{}", k - spec.states),
    };
    spec.formula.text(&input, &|n| format!("s{n}"))
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
        match &p.start {
            Start::Zero => terms,
            Start::Bias(id) => format!("{} + {terms}", self.name(*id)),
            Start::Buffer(b) => format!("{} + {terms}", buffer(b)),
        }
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
                let parameters = cell.parameters.map(|id| format!(", {}", self.name(id))).unwrap_or_default();
                writeln!(f, "{} = cell {}{parameters}", buffer(&cell.out), states.join(", "))?;
                for s in &cell.prologue {
                    self.step(f, indent + 2, s)?;
                }
                let terms: Vec<String> = [&cell.inputs, &cell.recurrent]
                    .into_iter()
                    .filter(|s| !s.is_empty())
                    .map(|s| self.segments(s))
                    .collect();
                writeln!(f, "{:indent$}  gates {} + {}", "", self.name(cell.bias), terms.join(" + "))?;
                writeln!(f, "{:indent$}  {}", "", cell_text(&cell.spec))
            }
            Step::Map { formula, operands, out } => {
                let operand = |source: &Source| match source {
                    Source::Buffer(x) => buffer(x),
                    Source::Weight(id) => self.name(*id).to_string(),
                    Source::Scalar(id) => format!("{} (scalar)", self.name(*id)),
                };
                let operands: Vec<String> = operands.iter().map(operand).collect();
                writeln!(f, "{}", formula.text(&|n| operands[n].clone(), &|_| buffer(out)))
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
            writeln!(f, "  {}  {}", s.name, slot(s.offset, s.len))?;
        }
        writeln!(f, "scratch: {} f32, logits {}", self.scratch_len, buffer(&self.logits))?;
        writeln!(f, "steps:")?;
        for step in &self.steps {
            self.step(f, 2, step)?;
        }
        writeln!(f, "output:")?;
        for step in &self.output.prologue {
            self.step(f, 2, step)?;
        }
        writeln!(f, "  logits = {}", self.product(&self.output.product))
    }
}
