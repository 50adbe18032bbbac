//! A plan cut into layers, to look at what each costs.

use crate::backend::plan::{
    Elements, Format, Output, OutputLayer, PackedId, Packing, Plan, Product, Rows, Segment, Start, Step,
    StripValues,
};
use crate::backend::{CompileError, Jit, Options};
use crate::frontend::ir::Graph;
use std::ops::Range;

/// A layer of a plan: some of its steps.
pub(super) struct Layer {
    /// The layer's name, as its weights have it.
    pub(super) name: String,
    /// How its weights are stored, for people.
    pub(super) stored: String,
    /// What one token costs.
    pub(super) cost: Cost,
    /// The plan's steps that it takes; none in the output layer, which every part of a plan has.
    steps: Range<usize>,
}

/// What a step reads and computes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Cost {
    /// Bytes of weights.
    pub(super) bytes: usize,
    /// Multiply-adds of f32s in products; what is done element by element is not counted.
    pub(super) floats: usize,
    /// Multiply-adds of integers.
    pub(super) integers: usize,
}

impl Cost {
    /// That of both.
    pub(super) fn and(self, other: Cost) -> Cost {
        Cost {
            bytes: self.bytes + other.bytes,
            floats: self.floats + other.floats,
            integers: self.integers + other.integers,
        }
    }
}

/// The layers of a graph in language-model form in the order in which they run, the output layer last, each compiled alone: see [`Jit::in_parts`].
pub(super) fn compile(graph: &Graph, options: Options) -> Result<Vec<(Layer, Jit)>, CompileError> {
    let mut layers = vec![];
    let jits = Jit::in_parts(graph, options, |plan| {
        layers = layers_of(plan);
        layers.iter().map(|layer| layer.steps.clone()).collect()
    })?;
    Ok(layers.into_iter().zip(jits).collect())
}

fn layers_of(plan: &Plan) -> Vec<Layer> {
    // A cell's state is kept after it.
    let ends = |s: &Step| matches!(s, Step::Gather { .. } | Step::GatherTrain { .. } | Step::Delay { .. });
    let mut layers: Vec<Layer> = vec![];
    let mut first = 0;
    for steps in plan.steps.split_inclusive(ends) {
        layers.push(Layer { steps: first..first + steps.len(), ..layer(plan, steps) });
        first += steps.len();
    }
    let OutputLayer { prologue, result } = &plan.output;
    let output = match result {
        Output::Product(product) => Some(Step::Product { product: product.clone(), out: plan.logits }),
        Output::Buffer(_) => None,
    };
    let steps: Vec<Step> = prologue.iter().cloned().chain(output).collect();
    layers.push(layer(plan, &steps));
    layers
}

/// A layer of these steps, wherever they are in the plan.
fn layer(plan: &Plan, steps: &[Step]) -> Layer {
    let mut found = Found { plan, weights: vec![], cost: Cost::default() };
    steps.iter().for_each(|s| found.step(s));
    let Found { mut weights, mut cost, .. } = found;
    weights.sort_by_key(|id| id.0);
    weights.dedup();
    cost.bytes = weights.iter().map(|&id| plan.packed(id).packing.bytes_per_token()).sum();
    let name = weights.first().map_or("elementwise", |&id| &plan.packed(id).name);
    let mut stored: Vec<String> = weights.iter().filter_map(|&id| stored(&plan.packed(id).packing)).collect();
    stored.dedup();
    let name = name.split(['.', '/']).next().unwrap_or(name).to_string();
    Layer { name, stored: stored.join(", "), cost, steps: 0..0 }
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
                cell.inputs.iter().chain(&cell.recurrent).for_each(|s| self.segment(s));
                self.weights.extend(cell.gates.iter().map(|g| g.start));
                self.weights.extend(cell.parameters.map(|(id, _)| id));
            }
            Step::Map { operands, .. } => self.weights.extend(operands.iter().filter_map(|o| match o.of {
                Elements::Weight(id) => Some(id),
                Elements::Vector(_) => None,
            })),
            Step::Norm { scale, shift, .. } => self.weights.extend(scale.iter().chain(shift)),
            Step::Quantize { .. }
            | Step::Round { .. }
            | Step::Spread { .. }
            | Step::LogSoftmax { .. }
            | Step::Concat { .. }
            | Step::Delay { .. } => {}
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
                let strips = s.bytes - panels.count() * s.panel_bytes();
                let entries = strips / (s.entry_bytes() + 2 * s.inputs());
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
        Packing::Vector { .. }
        | Packing::Columns { .. }
        | Packing::GateBias { .. }
        | Packing::Parameters { .. } => return None,
    })
}

/// Layers compiled alone, run one after another, are the model.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Level;
    use crate::frontend::ir::arbitrary::{Kind, language_model, language_model_of, random_map};
    use crate::runtime::{Description, Kernels, Layout, Model, Session};
    use std::sync::Arc;

    /// All layers, one after another.
    struct Chain(Vec<(Layer, Jit)>);

    impl Chain {
        fn output(&self) -> &Jit {
            &self.0[self.0.len() - 1].1
        }
    }

    impl Kernels for Chain {
        fn layout(&self) -> &Layout {
            self.output().layout()
        }

        fn advance(&self, state: &mut [f32], scratch: &mut [u8], token: u32) {
            self.0.iter().for_each(|(_, jit)| jit.advance(state, scratch, token));
        }

        fn step(&self, state: &mut [f32], scratch: &mut [u8], token: u32, logits: &mut [f32]) {
            self.advance(state, scratch, token);
            self.output().step(state, scratch, token, logits);
        }

        fn score(&self, state: &mut [f32], scratch: &mut [u8], token: u32, target: u32) -> f32 {
            self.advance(state, scratch, token);
            self.output().score(state, scratch, token, target)
        }

        fn top_k(
            &self,
            state: &mut [f32],
            scratch: &mut [u8],
            token: u32,
            ids: &mut [u32],
            p: &mut [f32],
        ) -> usize {
            self.advance(state, scratch, token);
            self.output().top_k(state, scratch, token, ids, p)
        }
    }

    fn session(kernels: impl Kernels + 'static) -> Session {
        Model::new(Arc::new(kernels), None, Description::default()).unwrap().session()
    }

    fn check(graph: &Graph) -> Vec<(String, Cost)> {
        let costs = Level::all().into_iter().map(|level| check_at(level, graph));
        // What follows a panel's strips is not the same at all levels, and so are the bytes.
        let but_bytes = |layers: &[(String, Cost)]| -> Vec<_> {
            layers.iter().map(|(name, cost)| (name.clone(), cost.floats, cost.integers)).collect()
        };
        let same = |a: &[_], b: &[_]| but_bytes(a) == but_bytes(b);
        costs.reduce(|a, b| if same(&a, &b) { a } else { panic!("{a:?}, but {b:?}") }).unwrap()
    }

    fn check_at(level: Level, graph: &Graph) -> Vec<(String, Cost)> {
        let options = Options { level, ..Options::default() };
        let whole = Jit::new(graph, options).unwrap();
        let layers = compile(graph, options).unwrap();
        let costs: Vec<_> = layers.iter().map(|(layer, _)| (layer.name.clone(), layer.cost)).collect();
        assert_eq!(costs.iter().map(|(_, c)| c.bytes).sum::<usize>(), whole.layout().weight_bytes_per_token);
        let (mut whole, mut chain) = (session(whole), session(Chain(layers)));
        let words = whole.model().layout().vocabulary as u32;
        for token in [1, 0, 2, 2, 5].map(|t| t % words) {
            assert_eq!(whole.step(token).unwrap(), chain.step(token).unwrap());
            let best = |s: &mut Session| {
                let (mut ids, mut p) = ([0; 3], [0.0; 3]);
                let n = s.top_k_into(token, &mut ids, &mut p).unwrap();
                (n, ids, p)
            };
            assert_eq!(best(&mut whole), best(&mut chain));
            assert_eq!(whole.score(&[token, 0]).unwrap(), chain.score(&[token, 0]).unwrap());
        }
        costs
    }

    #[test]
    fn every_representation() {
        for kind in Kind::ALL {
            for seed in 0..8 {
                check(&language_model_of(13, 2, 37, |_, shape| random_map(kind, shape, seed)));
            }
        }
    }

    #[test]
    fn costs_of_a_dense_model() {
        let costs = check(&language_model(40, 2, 70, 1));
        let lstm = Cost { bytes: (80 * 160 + 160) * 4, floats: 80 * 160, integers: 0 };
        let expected = [
            ("embedding", Cost { bytes: 40 * 4, floats: 0, integers: 0 }),
            ("lstm0", lstm),
            ("lstm1", lstm),
            // Seventy words in three panels of 32.
            ("decoder", Cost { bytes: (40 * 96 + 96) * 4, floats: 40 * 70, integers: 0 }),
        ];
        assert_eq!(costs, expected.map(|(name, cost)| (name.to_string(), cost)));
    }
}
