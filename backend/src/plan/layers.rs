//! A plan cut into layers, to look at what each costs.

use super::{
    Format, OutputLayer, PackedId, Packing, Plan, Product, Rows, Segment, Source, Start, Step, StripValues,
};

/// A layer of a plan: some of its steps.
#[derive(Clone, PartialEq, Debug)]
pub struct Layer {
    /// The layer's name, as its weights have it.
    pub name: String,
    /// How its weights are stored, for people.
    pub stored: String,
    /// What one token costs.
    pub cost: Cost,
    /// The whole plan but for the other layers' steps. The output layer is part of every plan, and all that the last layer is.
    pub plan: Plan,
}

/// What a step reads and computes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Cost {
    /// Bytes of weights.
    pub bytes: usize,
    /// Multiply-adds of f32s in products; what is done element by element is not counted.
    pub floats: usize,
    /// Multiply-adds of integers.
    pub integers: usize,
}

impl Cost {
    /// That of both.
    pub fn and(self, other: Cost) -> Cost {
        Cost {
            bytes: self.bytes + other.bytes,
            floats: self.floats + other.floats,
            integers: self.integers + other.integers,
        }
    }
}

impl Plan {
    /// The plan's layers in the order in which they run, the output layer last. All have the same buffers: run one after
    /// another, they do what the plan does.
    pub fn layers(&self) -> Vec<Layer> {
        let ends = |s: &Step| matches!(s, Step::Gather { .. } | Step::GatherTrain { .. } | Step::Cell(_));
        let mut groups: Vec<Vec<Step>> = vec![];
        let mut open = vec![];
        for step in &self.steps {
            open.push(step.clone());
            if ends(step) {
                groups.push(std::mem::take(&mut open));
            }
        }
        // What follows the last layer prepares the output.
        let rest = open.len();
        if rest > 0 {
            groups.push(open);
        }
        let mut layers: Vec<Layer> = groups.into_iter().map(|steps| self.layer(steps)).collect();
        let OutputLayer { prologue, product } = &self.output;
        let output = Step::Product { product: product.clone(), out: self.logits };
        let steps: Vec<Step> = prologue.iter().cloned().chain([output]).collect();
        layers.push(Layer { plan: Plan { steps: vec![], ..self.clone() }, ..self.layer(steps) });
        layers
    }

    fn layer(&self, steps: Vec<Step>) -> Layer {
        let mut found = Found { plan: self, weights: vec![], cost: Cost::default() };
        steps.iter().for_each(|s| found.step(s));
        let Found { mut weights, mut cost, .. } = found;
        weights.sort_by_key(|id| id.0);
        weights.dedup();
        cost.bytes = weights.iter().map(|&id| self.packed(id).packing.bytes_per_token()).sum();
        let name = weights.first().map_or("elementwise", |&id| &self.packed(id).name);
        let mut stored: Vec<String> =
            weights.iter().filter_map(|&id| stored(&self.packed(id).packing)).collect();
        stored.dedup();
        Layer {
            name: name.split(['.', '/']).next().unwrap_or(name).to_string(),
            stored: stored.join(", "),
            cost,
            plan: Plan { steps, ..self.clone() },
        }
    }
}

/// What was found in steps.
struct Found<'p> {
    plan: &'p Plan,
    weights: Vec<PackedId>,
    cost: Cost,
}

impl Found<'_> {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Gather { table, .. } => self.weights.push(*table),
            Step::GatherTrain { cores, .. } => {
                let shape = |id: &PackedId| match self.plan.packed(*id).packing {
                    Packing::Core { rank, width, .. } => (rank, width),
                    ref other => panic!("{other} is no core"),
                };
                // `rows` vectors of `rank` times the next slice, whose columns are rows and ranks again.
                let shapes: Vec<_> = cores.iter().map(shape).collect();
                let mut rows = 1;
                for (n, &(rank, width)) in shapes.iter().enumerate() {
                    if n > 0 {
                        self.cost.floats += rows * rank * width;
                    }
                    rows *= width / shapes.get(n + 1).map_or(1, |&(rank, _)| rank.max(1));
                }
                self.weights.extend(cores);
            }
            Step::Product { product, .. } => self.product(product),
            Step::Cell(cell) => {
                cell.prologue.iter().for_each(|s| self.step(s));
                cell.inputs.iter().chain(&cell.recurrent).for_each(|s| self.segment(s));
                self.weights.push(cell.bias);
                self.weights.extend(cell.parameters);
            }
            Step::Map { operands, .. } => self.weights.extend(operands.iter().filter_map(|o| match *o {
                Source::Weight(id) | Source::Scalar(id) => Some(id),
                Source::Buffer(_) => None,
            })),
            Step::Quantize { .. } | Step::Round { .. } | Step::Spread { .. } => {}
        }
    }

    fn product(&mut self, product: &Product) {
        product.segments.iter().for_each(|s| self.segment(s));
        if let Start::Bias(id) = product.start {
            self.weights.push(id);
        }
    }

    fn segment(&mut self, segment: &Segment) {
        self.weights.push(segment.weights);
        let panels = self.plan.panels(segment.weights);
        let all = panels.out * panels.input;
        match panels.format {
            Format::F32 => self.cost.floats += all,
            Format::Integer(_) => self.cost.integers += all,
            Format::Strips(s) => {
                // Padding and the few bytes of headers are counted as entries.
                let entries = s.bytes / (s.entry_bytes() + 2 * s.inputs());
                let kept = entries * s.height * s.inputs();
                match s.values {
                    StripValues::F32 => self.cost.floats += kept,
                    StripValues::Int8 { .. } => self.cost.integers += kept,
                }
            }
        }
    }
}

/// The kind of numbers of a weight that is more than a vector.
fn stored(packing: &Packing) -> Option<String> {
    Some(match packing {
        Packing::Rows { format: Rows::F32, .. } => "f32".into(),
        Packing::Rows { format: Rows::Codes { .. }, .. } => "int8".into(),
        Packing::Panels(p) | Packing::Transposed(p) => match p.format {
            Format::F32 => "f32".into(),
            Format::Integer(i) => i.width.to_string(),
            Format::Strips(s) if s.values == StripValues::F32 => "sparse f32".into(),
            Format::Strips(_) => "sparse int8".into(),
        },
        Packing::Core { .. } => "f32 cores".into(),
        Packing::Vector { .. } | Packing::GateBias { .. } | Packing::Scalar | Packing::Parameters { .. } => {
            return None;
        }
    })
}
