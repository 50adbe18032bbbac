//! Engines: the implementations that compute the probabilities of a model's tokens.

use crate::Error;
use lstmc_backend::{Jit, Options};
use lstmc_frontend::interpret;
use lstmc_frontend::ir::{Graph, Head};
use lstmc_runtime::{Description, Model, Session, SessionError};
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

/// A model with the engine that runs it.
pub(crate) enum Machine {
    Jit(Box<Session>),
    Interpreter(Box<interpret::LanguageModel<f32>>),
}

impl Machine {
    /// For a graph in language-model form that predicts tokens.
    pub(crate) fn new(engine: Engine, options: Options, graph: &Graph) -> Result<Machine, Error> {
        if graph.output_named(Head::Hidden.name()).is_some() {
            return Err(interpret::InterpretError::NoPredictions.into());
        }
        Ok(match engine {
            Engine::Jit => {
                let jit = Jit::new(graph, options)?;
                Machine::Jit(Box::new(Model::new(Arc::new(jit), None, Description::default())?.session()))
            }
            Engine::Interpreter => Machine::Interpreter(Box::new(interpret::LanguageModel::new(graph)?)),
        })
    }

    /// The sum of the natural log-probabilities of `tokens[1..]`, each given those before it, from the initial state. `found` gets them, some at a
    /// time, in order.
    pub(crate) fn score(&mut self, tokens: &[u32], found: &mut dyn FnMut(&[f32])) -> Result<f64, Error> {
        match self {
            Machine::Jit(session) => {
                session.reset();
                Ok(session.score_each(tokens, found)?)
            }
            Machine::Interpreter(model) => {
                let mut rounded = vec![];
                let sum = model.log_likelihoods(tokens, &mut |terms| {
                    rounded.clear();
                    rounded.extend(terms.iter().map(|&term| term as f32));
                    found(&rounded);
                })?;
                Ok(sum)
            }
        }
    }

    /// [`Machine::score`] of several texts, on this many threads.
    pub(crate) fn score_all(&mut self, texts: &[Vec<u32>], threads: usize) -> Result<Vec<Vec<f32>>, Error> {
        if let Machine::Jit(session) = self {
            return Ok(session.model().batch(threads).score(texts)?);
        }
        let each = |text: &Vec<u32>| {
            let mut found = vec![];
            self.score(text, &mut |part| found.extend_from_slice(part))?;
            Ok(found)
        };
        texts.iter().map(each).collect()
    }

    /// [`Machine::score`], going on from where the last call ended; its last token is the first of this one. The interpreter cannot.
    pub(crate) fn go_on(
        &mut self,
        tokens: &[u32],
        found: &mut dyn FnMut(&[f32]),
    ) -> Option<Result<f64, Error>> {
        match self {
            Machine::Jit(session) => Some(session.score_each(tokens, found).map_err(Error::from)),
            Machine::Interpreter(_) => None,
        }
    }
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
        let mut machine = Machine::new(self.engine, self.options, graph)?;
        let found = self.tokens.len();
        if found < 2 {
            return Err(SessionError::TooFewTokens { found }.into());
        }
        let mut done = 0;
        let sum = machine.score(self.tokens, &mut |found| {
            done += found.len();
            (self.progress)(done);
        })?;
        Ok((-sum / (found - 1) as f64).exp())
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
