//! The budget: the limit on perplexity after each lossy pass, or after the pass that directly follows it to recover its loss.

use lstmc_frontend::ir::Graph;
use serde::Serialize;

/// Measures models. The command line implements it with compiled kernels, and tests with the interpreter.
pub trait Evaluate {
    /// The perplexity of a model in language-model form on the validation text; for one that returns hidden vectors, one plus the relative error of
    /// its outputs against those of the model before compression.
    fn perplexity(&mut self, graph: &Graph) -> Result<f64, String>;
}

/// The limits on a model's perplexity.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Budget {
    /// The maximum perplexity.
    pub max_perplexity: Option<f64>,
    /// The maximum increase, as a fraction of the perplexity before the first lossy pass.
    pub max_increase: Option<f64>,
    /// Stop with an error if a pass is over the budget, instead of continuing without it.
    pub strict: bool,
}

impl Budget {
    /// Whether there is any limit.
    pub fn is_limited(&self) -> bool {
        self.max_perplexity.is_some() || self.max_increase.is_some()
    }

    /// Why `perplexity` is over the budget, if it is. `baseline` is the perplexity before the first lossy pass.
    pub fn exceeded(&self, perplexity: f64, baseline: f64) -> Option<String> {
        if !perplexity.is_finite() {
            return Some(format!("perplexity {perplexity}"));
        }
        if let Some(max) = self.max_perplexity
            && perplexity > max
        {
            return Some(format!("perplexity {perplexity:.2} > {max}"));
        }
        if let Some(increase) = self.max_increase {
            let max = baseline * (1.0 + increase);
            if perplexity > max {
                let percent = increase * 100.0;
                return Some(format!("perplexity {perplexity:.2} > {max:.2} ({baseline:.2} and {percent}%)"));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets() {
        let budget = Budget { max_perplexity: Some(120.0), max_increase: Some(0.02), strict: false };
        assert_eq!(budget.exceeded(101.9, 100.0), None);
        assert_eq!(budget.exceeded(131.2, 130.0).unwrap(), "perplexity 131.20 > 120");
        assert_eq!(budget.exceeded(103.0, 100.0).unwrap(), "perplexity 103.00 > 102.00 (100.00 and 2%)");
        assert_eq!(Budget::default().exceeded(f64::NAN, 100.0).unwrap(), "perplexity NaN");
    }
}
