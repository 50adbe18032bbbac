//! Distributing a budget over matrices.

use super::problem::Problem;
use crate::pass::{Context, PassError};
use crate::sites::{Biases, patched};
use crate::solve::{self, allocate::Choice};
use lstmc_frontend::ir::Graph;

/// How often sensitivities are measured again at the ranks from the previous round: perplexity rises faster than the error, so it
/// should be measured near the ranks that are used.
const ROUNDS: usize = 2;

/// The rank of each problem with at most `budget` numbers in total; `None` if the matrix stays as it is.
pub(super) fn allocate(
    graph: &Graph,
    problems: &mut [Problem],
    budget: usize,
    shared: Option<bool>,
    context: &mut Context<'_>,
    notes: &mut Vec<String>,
) -> Result<Vec<Option<usize>>, PassError> {
    let total: usize = problems.iter().map(Problem::size).sum();
    // Relative errors, until something better is known.
    let mut weights: Vec<f64> =
        problems.iter().map(|p| 1.0 / p.svd.error(0).max(f64::MIN_POSITIVE)).collect();
    let share = (budget as f64 / total.max(1) as f64).min(1.0);
    let mut ranks: Vec<Option<usize>> =
        problems.iter().map(|p| p.saving(((share * p.size() as f64) as usize / p.unit()).max(1))).collect();
    let Some(before) = perplexity(context, graph)? else {
        return share_out(problems, &weights, budget);
    };
    for _ in 0..ROUNDS {
        for (k, problem) in problems.iter().enumerate() {
            let Some(rank) = ranks[k] else { continue };
            let solution = problem.solve(problem.best(rank, shared)?)?;
            let mut biases = Biases::default();
            let added = biases.add(&problem.weighting, &problem.shifted, &solution.dense);
            added.map_err(|e| problem.error(e))?;
            let changes = biases.complete(graph, solution.maps, context)?;
            let after = perplexity(context, &patched(graph, &changes))?.unwrap_or(before);
            if solution.error > 0.0 {
                // A matrix whose loss is hidden by noise must still have a cost.
                weights[k] = (after / before).ln().max(MIN_RISE) / solution.error;
            }
        }
        ranks = share_out(problems, &weights, budget)?;
    }
    notes.push("errors weighed by the perplexity that each matrix alone costs".into());
    Ok(ranks)
}

/// The least rise of the logarithm of perplexity that is distinguished from zero.
const MIN_RISE: f64 = 1e-5;

fn share_out(problems: &[Problem], weights: &[f64], budget: usize) -> Result<Vec<Option<usize>>, PassError> {
    let curves: Vec<Vec<Choice>> = problems.iter().zip(weights).map(|(p, &w)| p.choices(w)).collect();
    let Some(chosen) = solve::allocate::allocate(&curves, budget as f64) else {
        let least: usize = problems.iter().map(|p| p.unit().min(p.size())).sum();
        let expected = format!("at least {least}, rank 1 everywhere");
        return Err(PassError::Options(format!("low-rank: budget: expected {expected}, found {budget}")));
    };
    // The first choice is the matrix itself.
    Ok(problems.iter().zip(chosen).map(|(p, k)| p.saving(k).filter(|_| k > 0)).collect())
}

fn perplexity(context: &mut Context<'_>, graph: &Graph) -> Result<Option<f64>, PassError> {
    let Some(evaluator) = &mut context.evaluator else { return Ok(None) };
    evaluator.perplexity(graph).map(Some).map_err(PassError::Evaluate)
}
