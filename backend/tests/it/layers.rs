//! Layers compiled alone, run one after another, are the model.

use lstmc_backend::plan::{Cost, Layer};
use lstmc_backend::{Jit, Level, Options};
use lstmc_frontend::ir::Graph;
use lstmc_frontend::ir::arbitrary::{Kind, language_model, language_model_of, random_map};
use lstmc_runtime::{Description, Kernels, Layout, Model, Session};
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
    costs.reduce(|a, b| if a == b { a } else { panic!("{a:?}, but {b:?}") }).unwrap()
}

fn check_at(level: Level, graph: &Graph) -> Vec<(String, Cost)> {
    let options = Options { level, ..Options::default() };
    let whole = Jit::new(graph, options).unwrap();
    let layers = Jit::layers(graph, options).unwrap();
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
