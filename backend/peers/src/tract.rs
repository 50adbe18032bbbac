//! tract. A model is optimised for one length of its input, so that there are two: for a step and for a sequence.

use crate::engine::{Engine, Shape};
use anyhow::Context;
use std::path::Path;
use std::sync::Arc;
use tract_linalg::multithread::{Executor, set_default_executor};
use tract_onnx::prelude::*;

pub(crate) struct Tract {
    step: Arc<TypedRunnableModel>,
    /// Made for sequences of `.0` tokens.
    sequence: (usize, Arc<TypedRunnableModel>),
    shape: Shape,
    state: [TValue; 2],
    logits: Option<TValue>,
}

impl Tract {
    pub(crate) fn load(model: &Path, shape: Shape, threads: usize, length: usize) -> anyhow::Result<Tract> {
        if threads > 1 {
            set_default_executor(Executor::multithread(threads));
        }
        let step = runnable(model, shape, 1)?;
        let sequence = (length, runnable(model, shape, length)?);
        Ok(Tract { step, sequence, shape, state: zeros(shape), logits: None })
    }
}

/// The model for `length` tokens of one stream.
fn runnable(model: &Path, shape: Shape, length: usize) -> anyhow::Result<Arc<TypedRunnableModel>> {
    let state = InferenceFact::dt_shape(f32::datum_type(), [shape.layers, 1, shape.hidden]);
    // Shapes that exporters write beside the graph hold names for sizes, which tract does not equate with numbers.
    tract_onnx::onnx()
        .with_ignore_output_shapes(true)
        .with_ignore_value_info(true)
        .model_for_path(model)?
        .with_input_fact(0, InferenceFact::dt_shape(i64::datum_type(), [length, 1]))?
        .with_input_fact(1, state.clone())?
        .with_input_fact(2, state)?
        .into_optimized()?
        .into_runnable()
}

/// `h0` and `c0`, `[layers, 1, hidden]`.
fn zeros(shape: Shape) -> [TValue; 2] {
    [(); 2].map(|()| {
        let zero = Tensor::zero::<f32>(&[shape.layers, 1, shape.hidden]);
        zero.expect("zeros of any shape exist").into_tvalue()
    })
}

fn tokens(tokens: &[u32]) -> anyhow::Result<TValue> {
    let ids: Vec<i64> = tokens.iter().map(|&t| t.into()).collect();
    Ok(Tensor::from_shape(&[ids.len(), 1], &ids)?.into_tvalue())
}

impl Engine for Tract {
    fn reset(&mut self) -> anyhow::Result<()> {
        self.state = zeros(self.shape);
        Ok(())
    }

    fn step(&mut self, token: u32) -> anyhow::Result<&[f32]> {
        let [h, c] = self.state.clone();
        let outputs = self.step.run(tvec![tokens(&[token])?, h, c])?;
        let [logits, h, c] = outputs.into_vec().try_into().ok().context("the model has three outputs")?;
        self.state = [h, c];
        self.logits.insert(logits).try_as_plain_ram()?.as_slice()
    }

    fn sequence(&mut self, ids: &[u32]) -> anyhow::Result<()> {
        let ids = &ids[..ids.len() - 1];
        anyhow::ensure!(ids.len() == self.sequence.0, "tract's model is for {} tokens", self.sequence.0);
        let [h, c] = zeros(self.shape);
        self.sequence.1.run(tvec![tokens(ids)?, h, c])?;
        Ok(())
    }
}
