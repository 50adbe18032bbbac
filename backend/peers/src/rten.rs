//! rten, which reads ONNX itself.

use crate::engine::{Engine, Shape};
use anyhow::Context;
use rten::{Model, NodeId, RunOptions, ThreadPool, Value};
use rten_tensor::prelude::*;
use rten_tensor::{NdTensor, Tensor};
use std::path::Path;
use std::sync::Arc;

pub(crate) struct Rten {
    model: Model,
    inputs: Vec<NodeId>,
    outputs: Vec<NodeId>,
    options: RunOptions,
    shape: Shape,
    state: [Value; 2],
    logits: Tensor<f32>,
}

impl Rten {
    pub(crate) fn load(model: &Path, shape: Shape, threads: usize) -> anyhow::Result<Rten> {
        // Weights packed ahead of time are faster, and not the default.
        let model = rten::ModelOptions::with_all_ops().prepack_weights(true).load_file(model)?;
        let (inputs, outputs) = (model.input_ids().to_vec(), model.output_ids().to_vec());
        let pool = Arc::new(ThreadPool::with_num_threads(threads));
        let options = RunOptions::default().with_thread_pool(Some(pool));
        let (state, logits) = (zeros(shape), Tensor::zeros(&[0]));
        Ok(Rten { model, inputs, outputs, options, shape, state, logits })
    }

    fn run(&mut self, tokens: Vec<i32>) -> anyhow::Result<()> {
        let tokens = NdTensor::from_data([tokens.len(), 1], tokens);
        let [h, c] = &self.state;
        let inputs =
            vec![(self.inputs[0], tokens.into()), (self.inputs[1], h.into()), (self.inputs[2], c.into())];
        let outputs = self.model.run(inputs, &self.outputs, Some(self.options.clone()))?;
        let [logits, h, c] = outputs.try_into().ok().context("the model has three outputs")?;
        self.state = [h, c];
        self.logits = logits.into_tensor().context("the logits are f32")?;
        Ok(())
    }
}

/// `h0` and `c0`, `[layers, 1, hidden]`.
fn zeros(shape: Shape) -> [Value; 2] {
    [(); 2].map(|()| NdTensor::<f32, 3>::zeros([shape.layers, 1, shape.hidden]).into())
}

impl Engine for Rten {
    fn reset(&mut self) -> anyhow::Result<()> {
        self.state = zeros(self.shape);
        Ok(())
    }

    fn step(&mut self, token: u32) -> anyhow::Result<&[f32]> {
        self.run(vec![token as i32])?;
        self.logits.data().context("the logits are contiguous")
    }

    fn sequence(&mut self, tokens: &[u32]) -> anyhow::Result<()> {
        self.reset()?;
        self.run(tokens[..tokens.len() - 1].iter().map(|&t| t as i32).collect())
    }
}
