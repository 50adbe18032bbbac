//! ONNX Runtime, through its C interface.
//!
//! Inputs and outputs are bound once, to memory that stays: a step copies nothing. Two bindings take turns, so that one's outputs
//! `hn`, `cn` are the other's inputs `h0`, `c0`.

use crate::engine::{Engine, Shape};
use anyhow::Context;
use ort::environment::Environment;
use ort::memory::Allocator;
use ort::session::{IoBinding, Session};
use ort::value::Tensor;
use std::path::Path;

pub(crate) struct OnnxRuntime {
    session: Session,
    names: Names,
    shape: Shape,
    token: Tensor<i64>,            // [1, 1]
    states: [[Tensor<f32>; 2]; 2], // h and c, [layers, 1, hidden]
    logits: Tensor<f32>,           // [1, 1, vocabulary]
    bindings: [IoBinding; 2],
    turn: usize,
}

/// Names of the model's inputs and outputs, in order.
struct Names {
    inputs: Vec<String>,
    outputs: Vec<String>,
}

/// Opens the library.
pub(crate) fn open(library: &Path) -> anyhow::Result<Environment> {
    let builder = ort::init_from(library).with_context(|| format!("opening {}", library.display()))?;
    Ok(builder.build()?)
}

impl OnnxRuntime {
    pub(crate) fn load(
        environment: &Environment,
        model: &Path,
        shape: Shape,
        threads: usize,
    ) -> anyhow::Result<OnnxRuntime> {
        // The error of a builder holds the builder, which cannot go to another thread.
        let text = |e: ort::Error<_>| anyhow::anyhow!(e.to_string());
        let session = Session::builder(environment)?
            .with_intra_threads(threads)
            .map_err(text)?
            .with_inter_threads(1)
            .map_err(text)?
            .commit_from_file(model)?;
        let names = Names {
            inputs: session.inputs().iter().map(|i| i.name().to_string()).collect(),
            outputs: session.outputs().iter().map(|o| o.name().to_string()).collect(),
        };
        let memory = Allocator::default();
        let state = || Tensor::<f32>::new(&memory, [shape.layers, 1, shape.hidden]);
        let mut states = [[state()?, state()?], [state()?, state()?]];
        let token = Tensor::<i64>::new(&memory, [1usize, 1])?;
        let mut logits = Tensor::<f32>::new(&memory, [1, 1, shape.vocabulary])?;
        let mut bindings = [session.create_binding()?, session.create_binding()?];
        for (turn, binding) in bindings.iter_mut().enumerate() {
            binding.bind_input(&names.inputs[0], &token)?;
            binding.bind_output(&names.outputs[0], &mut logits)?;
            let [first, second] = &mut states;
            let (from, to) = if turn == 0 { (first, second) } else { (second, first) };
            for (n, (from, to)) in (1..).zip(from.iter().zip(to)) {
                binding.bind_input(&names.inputs[n], from)?;
                binding.bind_output(&names.outputs[n], to)?;
            }
        }
        let mut engine = OnnxRuntime { session, names, shape, token, states, logits, bindings, turn: 0 };
        engine.reset()?;
        Ok(engine)
    }
}

impl Engine for OnnxRuntime {
    fn reset(&mut self) -> anyhow::Result<()> {
        self.turn = 0;
        for state in &mut self.states[0] {
            state.extract_tensor_mut().1.fill(0.0);
        }
        Ok(())
    }

    fn step(&mut self, token: u32) -> anyhow::Result<&[f32]> {
        self.token.extract_tensor_mut().1[0] = token.into();
        self.session.run_binding(&self.bindings[self.turn])?;
        self.turn = 1 - self.turn;
        Ok(self.logits.extract_tensor().1)
    }

    fn sequence(&mut self, tokens: &[u32]) -> anyhow::Result<()> {
        let tokens: Vec<i64> = tokens[..tokens.len() - 1].iter().map(|&t| t.into()).collect();
        let tokens = Tensor::from_array(([tokens.len(), 1], tokens))?;
        let state = || {
            Tensor::from_array(([self.shape.layers, 1, self.shape.hidden], vec![0f32; self.shape.state()]))
        };
        let (h, c) = (state()?, state()?);
        let names = &self.names.inputs;
        self.session.run(ort::inputs![&names[0] => &tokens, &names[1] => &h, &names[2] => &c])?;
        Ok(())
    }
}
