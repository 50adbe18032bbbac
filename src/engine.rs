//! Engines: the implementations that compute a model's perplexity.

use crate::Error;
use lstmc_backend::{Jit, Options};
use lstmc_frontend::interpret;
use lstmc_frontend::ir::{Graph, Head};
use lstmc_runtime::{Description, Model};
use std::sync::Arc;

/// What computes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[non_exhaustive]
pub enum Engine {
    /// Generated code
    #[default]
    Jit,
    /// The interpreter, which defines what the IR means
    Interpreter,
}

/// Measures perplexity of graphs on one text.
pub struct Scorer<'a> {
    engine: Engine,
    options: Options,
    tokens: &'a [u32],
    progress: Box<dyn FnMut(usize) + 'a>,
    /// The first model that returns hidden vectors, which others are compared with.
    #[cfg(feature = "passes")]
    reference: Option<Graph>,
}

impl<'a> Scorer<'a> {
    /// A scorer of `tokens` (at least two). `options` say how code is generated, at which processor level it runs and on how many
    /// threads; the interpreter ignores them. `progress` gets the number of tokens consumed.
    pub fn new(
        engine: Engine,
        options: Options,
        tokens: &'a [u32],
        progress: impl FnMut(usize) + 'a,
    ) -> Scorer<'a> {
        Scorer {
            engine,
            options,
            tokens,
            progress: Box::new(progress),
            #[cfg(feature = "passes")]
            reference: None,
        }
    }

    /// Perplexity of a graph in language-model form: the exponential of the mean negative log-likelihood of `tokens[1..]`, with the state carried
    /// from zero through the whole text.
    pub fn perplexity(&mut self, graph: &Graph) -> Result<f64, Error> {
        if graph.output_named(Head::Hidden.name()).is_some() {
            return Err(interpret::InterpretError::NoPredictions.into());
        }
        match self.engine {
            Engine::Jit => {
                let jit = Jit::new(graph, self.options)?;
                let model = Model::new(Arc::new(jit), None, Description::default())?;
                Ok(model.session().perplexity_with_progress(self.tokens, &mut self.progress)?)
            }
            Engine::Interpreter => {
                if self.tokens.len() < 2 {
                    return Err(lstmc_runtime::SessionError::TooFewTokens { found: self.tokens.len() }.into());
                }
                let model = interpret::LanguageModel::<f32>::new(graph)?;
                let sum = model.log_likelihood(self.tokens, &mut self.progress)?;
                Ok((-sum / (self.tokens.len() - 1) as f64).exp())
            }
        }
    }
}

#[cfg(feature = "passes")]
impl lstmc_passes::Evaluate for Scorer<'_> {
    fn perplexity(&mut self, graph: &Graph) -> Result<f64, String> {
        if graph.output_named(Head::Hidden.name()).is_none() {
            return Scorer::perplexity(self, graph).map_err(|e| e.to_string());
        }
        let model = interpret::LanguageModel::<f32>::new;
        let reference = model(self.reference.get_or_insert_with(|| graph.clone()));
        let (reference, model) =
            (reference.map_err(|e| e.to_string())?, model(graph).map_err(|e| e.to_string())?);
        let error = model.relative_error(&reference, self.tokens, &mut self.progress);
        Ok(1.0 + error.map_err(|e| e.to_string())?)
    }
}
