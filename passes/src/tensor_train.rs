//! `tensor-train`: replaces a matrix by a chain of small cores.
//!
//! *Lossy.* The row and the column are written in mixed radix, `i = (i1, .., id)`, `j = (j1, .., jd)`, and
//! `W[i, j] = G1[i1, j1] G2[i2, j2] .. Gd[id, jd]`, a product of small matrices (Novikov et al. 2015, "Tensorizing Neural Networks", eq. 3; for
//! embeddings Hrinchuk et al. 2020). The cores come from TT-SVD (Oseledets 2011, algorithm 1), whose error is at most the root of the sum of the
//! squares dropped (theorem 2.2); see [`solve::tensor_train`](crate::solve::tensor_train).
//!
//! With calibration the matrix is whitened first, as far as the chain allows: by one factor per input mode, so modes that put the
//! whole input into one core (`in-modes=1x200`) use all of the second moment.
//!
//! One of `rank`, `ranks`, `error`, `parameters` and `bytes` must be given. Matrices must be dense.

use crate::calibrate::Statistics;
use crate::info::PassInfo;
use crate::options::{Kind, OptionInfo, Options};
use crate::pass::{Context, Outcome, Pass, PassError, Patch};
use crate::sites::{Biases, Means, Site, Weighting, dense, expect_dense, sites};
use crate::solve::SolveError;
use crate::solve::tensor_train::{Cores, TensorTrainOptions, Truncation, balanced_modes, tensor_train};
use crate::target::Target;
use lstmc_frontend::ir::{Graph, LinearMap, MapError, TensorTrain, WeightId};
use lstmc_frontend::tensor::Tensor;

/// The pass table's line.
pub(crate) const INFO: PassInfo = PassInfo {
    name: "tensor-train",
    summary: "replace matrices by chains of small cores",
    options: &[
        OptionInfo::target("the matrices, by name"),
        OptionInfo::new("out-modes", Kind::Sizes, "radices of the rows"),
        OptionInfo::new("in-modes", Kind::Sizes, "radices of the columns, as many"),
        OptionInfo::new(
            "cores",
            Kind::Integer { min: 1, max: 16 },
            "the number of cores where no modes are given",
        )
        .or("3"),
        OptionInfo::new("rank", Kind::COUNT, "every inner rank"),
        OptionInfo::new("ranks", Kind::Sizes, "each inner rank"),
        OptionInfo::new("error", Kind::FRACTION, "the greatest error as a fraction of the norm"),
        OptionInfo::new("parameters", Kind::COUNT, "numbers in all matrices of the target together"),
        OptionInfo::new("bytes", Kind::COUNT, "bytes of all matrices of the target together, as f32"),
        OptionInfo::new(
            "method",
            Kind::Word(&["whitened", "svd"]),
            "whitened: least error of the outputs on calibration text, as far as a chain can; svd: of the matrix",
        ),
        Means::ROWS,
        Means::BIAS,
    ],
    lossy: true,
    recovers: false,
    needs_calibration: |options| options.given("method") == Some("whitened"),
    make: |options| Ok(Box::new(TensorTrainPass::new(options)?)),
};

/// How far to truncate.
#[derive(Clone, PartialEq, Debug)]
enum Size {
    Rank(usize),
    Ranks(Vec<usize>),
    Error(f64),
    Parameters(usize),
}

struct TensorTrainPass {
    target: Target,
    out_modes: Option<Vec<usize>>,
    in_modes: Option<Vec<usize>>,
    cores: usize,
    size: Size,
    method: Option<&'static str>,
    means: Means,
}

impl TensorTrainPass {
    fn new(options: &Options) -> Result<TensorTrainPass, PassError> {
        let sizes = [
            options.given("rank").map(Size::Rank),
            options.given("ranks").map(Size::Ranks),
            options.given("error").map(Size::Error),
            options.given("parameters").map(Size::Parameters),
            options.given("bytes").map(|b: usize| Size::Parameters(b / size_of::<f32>())),
        ];
        let expected = "tensor-train: expected one of rank, ranks, error, parameters and bytes";
        let size = Options::only(expected, sizes)?;
        let (out_modes, in_modes): (Option<Vec<usize>>, Option<Vec<usize>>) =
            (options.given("out-modes"), options.given("in-modes"));
        if let (Some(o), Some(i)) = (&out_modes, &in_modes)
            && o.len() != i.len()
        {
            return Err(PassError::Options(format!(
                "tensor-train: expected as many out-modes as in-modes, found {} and {}; fill up with 1",
                o.len(),
                i.len()
            )));
        }
        let given = out_modes.as_ref().or(in_modes.as_ref()).map(Vec::len);
        let cores = given.unwrap_or_else(|| options.get("cores"));
        if let Size::Ranks(r) = &size
            && r.len() + 1 != cores
        {
            return Err(PassError::Options(format!(
                "tensor-train: expected {} ranks between {cores} cores, found {}",
                cores - 1,
                r.len()
            )));
        }
        Ok(TensorTrainPass {
            target: options.get("target"),
            out_modes,
            in_modes,
            cores,
            size,
            method: options.given("method"),
            means: Means::of(options),
        })
    }

    /// How far to truncate a matrix of `size` numbers, one of several with `total`.
    fn truncation(&self, size: usize, total: usize) -> Truncation {
        match &self.size {
            Size::Rank(rank) => Truncation::Ranks(vec![*rank; self.cores - 1]),
            Size::Ranks(ranks) => Truncation::Ranks(ranks.clone()),
            Size::Error(error) => Truncation::RelativeError(*error),
            Size::Parameters(budget) => {
                let share = *budget as f64 * size as f64 / total.max(1) as f64;
                Truncation::Parameters(share as usize)
            }
        }
    }

    fn decompose(
        &self,
        graph: &Graph,
        (site, position): (&Site, usize),
        total: usize,
        statistics: Option<&Statistics>,
        biases: &mut Biases,
    ) -> Result<(Cores, LinearMap), PassError> {
        let id = site.maps[position].0;
        let weight = graph.weight(id);
        let (name, shape) = (&weight.name, weight.map.shape());
        let shape = [shape[0], shape[1]];
        let w = dense(graph, id)?;
        let weighting = match statistics {
            None => Weighting::default(),
            Some(s) => Weighting::new(graph, site, &[position], &w, s, self.means)?,
        };
        let shifted = weighting.shifted(&w);
        let options = TensorTrainOptions {
            out_modes: self.out_modes.clone().unwrap_or_else(|| balanced_modes(shape[0], self.cores)),
            // Ascending against descending, so that the cores have similar sizes.
            in_modes: self.in_modes.clone().unwrap_or_else(|| {
                let mut modes = balanced_modes(shape[1], self.cores);
                modes.reverse();
                modes
            }),
            truncation: self.truncation(w.len(), total),
            h: weighting.hessian.as_ref(),
            row_weights: weighting.rows.as_deref(),
        };
        let solve = |source: SolveError| PassError::Solve { weight: name.clone(), source };
        let cores = tensor_train(&shifted, shape, &options).map_err(solve)?;
        let map = map(&cores).map_err(|source| PassError::Map { weight: name.clone(), source })?;
        if cores.parameters() < w.len() {
            biases.add(&weighting, &shifted, &cores.to_dense()).map_err(solve)?;
        }
        Ok((cores, map))
    }
}

impl Pass for TensorTrainPass {
    fn run(&self, graph: &Graph, context: &mut Context<'_>) -> Result<Outcome, PassError> {
        let sites = sites(graph)?;
        let place = |id: WeightId| sites.iter().find_map(|site| Some((site, site.position(id)?)));
        let ids = self.target.matrices(graph)?;
        ids.iter().try_for_each(|&id| expect_dense(graph, id))?;
        let is_whitened = self.method.map_or(context.calibration.is_some(), |m| m == "whitened");
        let statistics = if is_whitened { Some(context.statistics(graph, "method=svd")?) } else { None };
        let size = |id: WeightId| graph.weight(id).map.parameters();
        let total = ids.iter().filter(|&&id| place(id).is_some()).map(|&id| size(id)).sum();
        let (mut changes, mut notes, mut biases) = (vec![], vec![], Biases::default());
        let steps = context.steps(INFO.name, ids.len());
        for id in ids {
            let name = &graph.weight(id).name;
            let Some(place) = place(id) else {
                notes.push(format!("@{name} is no layer's matrix; left as it is"));
                continue;
            };
            let (cores, map) = self.decompose(graph, place, total, statistics.as_deref(), &mut biases)?;
            steps.add(1);
            let (numbers, whole) = (cores.parameters(), size(id));
            if numbers >= whole {
                notes.push(format!(
                    "@{name}: the cores have {numbers} numbers, not fewer than the matrix's {whole}; left as it is"
                ));
                continue;
            }
            notes.push(describe(name, &cores, whole));
            changes.push((id, map.into()));
        }
        drop(steps);
        if changes.is_empty() {
            return Ok(Outcome::NoEffect(notes.join("; ")));
        }
        let changes = biases.complete(graph, changes, context)?;
        Ok(Outcome::Patch(Patch::weights(changes).with_notes(notes)))
    }
}

fn map(cores: &Cores) -> Result<LinearMap, MapError> {
    let mut maps = vec![];
    for (k, core) in cores.cores.iter().enumerate() {
        let shape = [cores.ranks[k] * cores.out_modes[k], cores.in_modes[k] * cores.ranks[k + 1]];
        maps.push(Tensor::from_f32(shape, core.clone())?.into());
    }
    let train = TensorTrain::new(cores.shape, cores.out_modes.clone(), cores.in_modes.clone(), maps)?;
    Ok(LinearMap::TensorTrain(train))
}

fn describe(name: &str, cores: &Cores, whole: usize) -> String {
    let join = |sizes: &[usize]| sizes.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
    let inner = &cores.ranks[1..cores.ranks.len() - 1];
    let ranks = if inner.is_empty() { "none".to_string() } else { join(inner) };
    let bound = if cores.norm > 0.0 { 100.0 * cores.bound / cores.norm } else { 0.0 };
    format!(
        "@{name}: out-modes {}, in-modes {}, ranks {ranks}, {} of {whole} numbers, error at most {bound:.1}% of the norm",
        join(&cores.out_modes),
        join(&cores.in_modes),
        cores.parameters(),
    )
}
