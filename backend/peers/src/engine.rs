//! What is timed: an engine that holds one model and one stream of text.

use anyhow::{Context, bail, ensure};
use lstmc::Source;
use lstmc::backend::Options;
use lstmc::frontend::ir::{Dim, Op};
use lstmc::runtime::Session;
use std::path::Path;

/// Words that the suggestion measurement asks for.
pub(crate) const SUGGESTIONS: usize = 5;

/// An engine with a model loaded. A stream starts with a state of zeros.
pub(crate) trait Engine {
    /// Goes back to a state of zeros.
    fn reset(&mut self) -> anyhow::Result<()>;

    /// Consumes a token and writes the logits of all words that may come next.
    fn step(&mut self, token: u32) -> anyhow::Result<&[f32]>;

    /// Consumes all tokens but the last in one call, from a state of zeros. The engine computes the logits after each of them.
    fn sequence(&mut self, tokens: &[u32]) -> anyhow::Result<()>;

    /// Consumes a token and finds the likeliest next words. Unless an engine can do better: all logits, and one pass over them.
    fn suggest(&mut self, token: u32) -> anyhow::Result<[u32; SUGGESTIONS]> {
        Ok(best(self.step(token)?))
    }
}

/// The shape of a model's state: inputs `h0` and `c0` of an ONNX model are `[layers, batch, hidden]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) layers: usize,
    pub(crate) hidden: usize,
    pub(crate) vocabulary: usize,
}

impl Shape {
    /// f32s of `h0`, and of `c0`.
    pub(crate) fn state(self) -> usize {
        self.layers * self.hidden
    }

    /// Reads it from an ONNX model.
    pub(crate) fn of(model: &Path) -> anyhow::Result<Shape> {
        let source = Source::read(model)?;
        let inputs = source.graph.sources(&Op::Input);
        ensure!(
            inputs.len() == 3 && source.graph.outputs().len() == 3,
            "{}: expected inputs tokens, h0, c0 and outputs logits, hn, cn, found {} inputs and {} outputs",
            model.display(),
            inputs.len(),
            source.graph.outputs().len()
        );
        let h0 = source.graph.type_of(inputs[1]);
        let [Some(layers), _, Some(hidden)] = h0.shape.iter().map(Dim::as_constant).collect::<Vec<_>>()[..]
        else {
            bail!("{}: h0 is {h0}, expected [layers, batch, hidden]", model.display());
        };
        let vocabulary = source.canonical()?.graph.vocabulary.context("the model has no vocabulary")?;
        Ok(Shape { layers, hidden, vocabulary })
    }
}

/// The largest logits' words, best first.
pub(crate) fn best(logits: &[f32]) -> [u32; SUGGESTIONS] {
    let (mut ids, mut values) = ([0; SUGGESTIONS], [f32::NEG_INFINITY; SUGGESTIONS]);
    for (id, &x) in logits.iter().enumerate() {
        if x > values[SUGGESTIONS - 1] {
            let at = values.iter().position(|&v| x > v).unwrap_or(SUGGESTIONS - 1);
            values[at..].rotate_right(1);
            ids[at..].rotate_right(1);
            (values[at], ids[at]) = (x, id as u32);
        }
    }
    ids
}

/// Ours: generated code, in a session.
pub(crate) struct Lstmc(Session);

impl Lstmc {
    pub(crate) fn load(model: &Path, threads: usize) -> anyhow::Result<Lstmc> {
        let options = Options { threads, step_threads: threads, ..Options::default() };
        Ok(Lstmc(Source::read(model)?.canonical()?.compile(options)?.session()))
    }
}

impl Engine for Lstmc {
    fn reset(&mut self) -> anyhow::Result<()> {
        self.0.reset();
        Ok(())
    }

    fn step(&mut self, token: u32) -> anyhow::Result<&[f32]> {
        Ok(self.0.step(token)?)
    }

    fn sequence(&mut self, tokens: &[u32]) -> anyhow::Result<()> {
        self.0.reset();
        self.0.score(tokens)?;
        Ok(())
    }

    fn suggest(&mut self, token: u32) -> anyhow::Result<[u32; SUGGESTIONS]> {
        let (mut ids, mut scores) = ([0; SUGGESTIONS], [0.0; SUGGESTIONS]);
        self.0.top_k_into(token, &mut ids, &mut scores)?;
        Ok(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_come_first_and_the_lower_id_among_equals() {
        assert_eq!(best(&[1.0, 5.0, 3.0, 5.0, 2.0, 4.0, -1.0]), [1, 3, 5, 2, 4]);
    }
}
