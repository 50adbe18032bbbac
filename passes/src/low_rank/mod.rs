//! `low-rank`: replaces a matrix by the product of two thin ones.
//!
//! *Lossy.* `W: [out, in]` becomes `left: [out, rank]` times `right: [rank, in]`, which saves numbers and multiply-adds as long as `rank (out + in) < out in`.
//!
//! With calibration, the factors are those that change the layer's *outputs* least on the calibration inputs: with `H = S S^T` and row weights `D`,
//! the truncated SVD of `D^(1/2) W S`, both undone (see [`solve::low_rank`](crate::solve::low_rank)); its error is the sum of the squares of the
//! singular values dropped. Without calibration, it is the truncated SVD of `W` (Eckart and Young 1936). See `sites/weighting.rs` for the weights of
//! errors and for the biases that compensate means.
//!
//! The two maps of an lstm are one matrix `[input recurrent]` if they are factorised together: one left factor, which both
//! maps share, and a right factor for each. Otherwise each map has its own factors. By default, the variant with the smaller loss for the same number
//! of parameters is used.
//!
//! One of `rank`, `energy`, `parameters` and `bytes` must be given. For a budget, errors of different matrices are put on one scale by
//! measuring perplexity with each matrix alone factorised, if there is a validation text, and by their own norms otherwise.
//!
//! Matrices must be dense: run it before `prune` and `quantize`, which then work on the factors.

mod allocate;
mod problem;

use crate::info::PassInfo;
use crate::options::{Kind, OptionInfo, Options};
use crate::pass::{Context, Outcome, Pass, PassError, Patch};
use crate::sites::{Biases, Means, SiteKind, expect_dense, sites};
use crate::target::Target;
use lstmc_frontend::ir::Graph;
use problem::Problem;

/// The pass table's line.
pub(crate) const INFO: PassInfo = PassInfo {
    name: "low-rank",
    summary: "replace matrices by products of two thin ones",
    options: &[
        OptionInfo::target("the matrices, by name"),
        OptionInfo::new("rank", Kind::COUNT, "the rank of every factorisation"),
        OptionInfo::new("energy", Kind::FRACTION, "the fraction of the sum of squares to keep"),
        OptionInfo::new("parameters", Kind::COUNT, "numbers in all matrices of the target together"),
        OptionInfo::new("bytes", Kind::COUNT, "bytes of all matrices of the target together, as f32"),
        OptionInfo::new(
            "method",
            Kind::Word(&["whitened", "svd"]),
            "whitened: least error of the outputs on calibration text; svd: of the matrix",
        ),
        Means::ROWS,
        OptionInfo::new("shared", Kind::Flag, "whether an lstm's two maps share a left factor"),
        Means::BIAS,
    ],
    lossy: true,
    recovers: false,
    needs_calibration: |options| options.given("method") == Some("whitened"),
    make: |options| Ok(Box::new(LowRankPass::new(options)?)),
};

/// How far to truncate.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Size {
    Rank(usize),
    Energy(f64),
    Parameters(usize),
}

struct LowRankPass {
    target: Target,
    size: Size,
    method: Option<&'static str>,
    shared: Option<bool>,
    means: Means,
}

impl LowRankPass {
    fn new(options: &Options) -> Result<LowRankPass, PassError> {
        let sizes = [
            options.given("rank").map(Size::Rank),
            options.given("energy").map(Size::Energy),
            options.given("parameters").map(Size::Parameters),
            options.given("bytes").map(|b: usize| Size::Parameters(b / size_of::<f32>())),
        ];
        Ok(LowRankPass {
            target: options.get("target"),
            size: Options::only("low-rank: expected one of rank, energy, parameters and bytes", sizes)?,
            method: options.given("method"),
            shared: options.given("shared"),
            means: Means::of(options),
        })
    }

    /// The requested rank; `None` if a budget decides.
    fn rank(&self, problem: &Problem) -> Option<usize> {
        match self.size {
            Size::Rank(rank) => Some(rank),
            Size::Energy(energy) => Some(problem.svd.rank_for_energy(energy).max(1)),
            Size::Parameters(_) => None,
        }
    }

    /// The factorisations of the target: one for each matrix, or one for the two of an lstm.
    fn problems(
        &self,
        graph: &Graph,
        context: &mut Context<'_>,
    ) -> Result<(Vec<Problem>, Vec<String>), PassError> {
        let sites = sites(graph)?;
        let ids = self.target.matrices(graph)?;
        let is_whitened = self.method.map_or(context.calibration.is_some(), |m| m == "whitened");
        let statistics = if is_whitened { Some(context.statistics(graph, "method=svd")?) } else { None };
        let (mut problems, mut notes, mut taken) = (vec![], vec![], vec![]);
        let steps = context.steps(INFO.name, ids.len());
        for &id in &ids {
            let weight = graph.weight(id);
            expect_dense(graph, id)?;
            let found = sites.iter().find_map(|site| Some((site, site.position(id)?)));
            let Some((site, position)) = found else {
                notes.push(format!("@{} is no layer's matrix; left as it is", weight.name));
                continue;
            };
            if taken.contains(&id) {
                continue;
            }
            let is_cell = site.kind == SiteKind::Cell;
            let has_partner = is_cell && position == 0 && {
                let recurrent = site.maps[1].0;
                ids.contains(&recurrent) && !taken.contains(&recurrent)
            };
            if self.shared == Some(true) && is_cell && !has_partner {
                return Err(PassError::Options(format!(
                    "low-rank: shared=true needs both maps of an lstm in the target, found @{} alone",
                    weight.name
                )));
            }
            let chosen = match has_partner && self.shared != Some(false) {
                true => vec![0, 1],
                false => vec![position],
            };
            taken.extend(chosen[1..].iter().map(|&k| site.maps[k].0));
            problems.push(Problem::new(graph, site, &chosen, statistics.as_deref(), self.means)?);
            steps.add(chosen.len());
        }
        Ok((problems, notes))
    }
}

impl Pass for LowRankPass {
    fn run(&self, graph: &Graph, context: &mut Context<'_>) -> Result<Outcome, PassError> {
        let (mut problems, mut notes) = self.problems(graph, context)?;
        let ranks: Vec<Option<usize>> = match self.size {
            Size::Rank(_) | Size::Energy(_) => {
                problems.iter().map(|p| self.rank(p).and_then(|r| p.saving(r))).collect()
            }
            Size::Parameters(budget) => {
                allocate::allocate(graph, &mut problems, budget, self.shared, context, &mut notes)?
            }
        };
        let mut changes = vec![];
        let mut biases = Biases::default();
        for (problem, rank) in problems.iter().zip(&ranks) {
            match rank {
                None => notes.push(problem.left_dense(self.rank(problem))),
                &Some(rank) => {
                    let solution = problem.solve(problem.best(rank, self.shared)?)?;
                    notes.push(problem.describe(&solution));
                    biases
                        .add(&problem.weighting, &problem.shifted, &solution.dense)
                        .map_err(|e| problem.error(e))?;
                    changes.extend(solution.maps);
                }
            }
        }
        if changes.is_empty() {
            return Ok(Outcome::NoEffect(notes.join("; ")));
        }
        let changes = biases.complete(graph, changes, context)?;
        Ok(Outcome::Patch(Patch::weights(changes).with_notes(notes)))
    }
}
