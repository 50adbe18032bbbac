//! How sensitive the loss is to the results of a model's maps.

use super::collect::finite;
use super::{CalibrationError, Progress, Shape, check_tokens};
use crate::pass::PassError;
use crate::recover::fisher::{self, Moment};
use lstmc_frontend::interpret::InterpretError;
use lstmc_frontend::ir::{Graph, Head, Program};

/// Second moments of the gradients `g` of the text's loss, the sum over its tokens of `-log p(word)`, at the results of maps.
///
/// The words are drawn from the model's own predictions. So an error `d` in a result, independent of `g` at other tokens, raises the loss of a token by
/// `1/2 E[(g . d)^2]` (the Fisher information is the expectation of the loss's second derivative).
#[derive(Clone, PartialEq, Debug)]
pub struct Sensitivity {
    tokens: usize,
    squares: Vec<Moment>,
    grams: Vec<Moment>,
}

impl Sensitivity {
    /// Reads `tokens` with the model, in streams that run side by side from the state at a text's start.
    pub fn collect(
        graph: &Graph,
        tokens: &[u32],
        progress: &mut Progress<'_>,
    ) -> Result<Sensitivity, CalibrationError> {
        let program = Program::of(graph).map_err(InterpretError::Form)?;
        if program.head() == Head::Hidden {
            return Err(InterpretError::NoPredictions.into());
        }
        check_tokens(tokens, program.vocabulary())?;
        let gradients = |error: PassError| CalibrationError::Gradients(Box::new(error));
        let found = fisher::moments(graph, tokens, progress).map_err(gradients)?;
        for moment in found.squares.iter().chain(&found.grams) {
            finite(&moment.values, || format!("gradients at the results of @{}", moment.weight))?;
        }
        Ok(Sensitivity { tokens: found.tokens, squares: found.squares, grams: found.grams })
    }

    /// Tokens read.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// `E[g_i^2]` at each row of a map's product, before a bias is added: of the sum of products where the map is one of several. If several steps
    /// multiply with the map, the sum of theirs.
    pub fn of_sum(&self, weight: &str) -> Option<&[f64]> {
        self.of_factor(weight, &[])
    }

    /// The same at the results of a factor of a low-rank map: `["right"]` is the vector between the two, `["left"]` the map's result.
    pub fn of_factor(&self, weight: &str, path: &[&str]) -> Option<&[f64]> {
        find(&self.squares, weight, path)
    }

    /// `E[g g^T]` at the rows that an embedding returns, `[width, width]`, row-major.
    pub fn of_rows(&self, table: &str) -> Option<&[f64]> {
        self.of_rows_of_factor(table, &[])
    }

    /// The same at the rows of a factor: `["left"]` of an embedding in two factors, `[rank, rank]`.
    pub fn of_rows_of_factor(&self, table: &str, path: &[&str]) -> Option<&[f64]> {
        find(&self.grams, table, path)
    }

    /// Refuses a model whose maps have other names or numbers of rows.
    pub(super) fn check(&self, graph: &Graph) -> Result<(), CalibrationError> {
        let shape = Shape::of(graph)?;
        let readers = shape.inputs.iter().flat_map(|(_, readers)| readers);
        let names = readers.map(|r| (&r.weight, 0)).chain(shape.lookups.iter().map(|(table, _)| (table, 1)));
        for (name, axis) in names {
            let size = graph.weight_named(name).map_or(0, |id| graph.weight(id).map.shape()[axis]);
            let (found, expected) = match axis {
                0 => (self.of_sum(name), size),
                _ => (self.of_rows(name), size * size),
            };
            if found.is_none_or(|values| values.len() != expected) {
                return Err(CalibrationError::Mismatch {
                    what: format!("gradients at the results of @{name}"),
                    expected: format!("{expected} numbers"),
                    found: found.map_or("none".into(), |values| format!("{} numbers", values.len())),
                });
            }
        }
        Ok(())
    }
}

fn find<'m>(moments: &'m [Moment], weight: &str, path: &[&str]) -> Option<&'m [f64]> {
    let moment = moments.iter().find(|m| m.weight == weight && m.path == path)?;
    Some(&moment.values)
}
