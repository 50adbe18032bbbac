//! The cost of an error of each weight to the model: the second moment of its inputs, a weight for each row, and where a bias can compensate for the
//! mean.
//!
//! | map | `H`, by which errors of its columns count | rows count by |
//! |---|---|---|
//! | output layer | second moment of its inputs | `(c + 0.01)^0.5 p^0.2`: `c` is how often the word came next, `p = E[softmax (1 - softmax)]` |
//! | embedding | `W^T W` of the map that reads it | `(c + 1)^0.5`: `c` is how often the word was looked up |
//! | maps of an lstm, other linear maps | second moment of their inputs | equally |
//!
//! Afterwards the output layer's bias is fitted so that every word is predicted as often as before, see [`refitted_output_bias`](super::refitted_output_bias).
//!
//! Three freedoms of the model cost nothing and are used where they exist:
//! - A bias `b' = b + (W - V) E[x]` compensates for the mean error, so that `H` may be the covariance of the inputs ([`Hessian::centered`]).
//! - A softmax is invariant to a constant added to all logits, so the weighted mean may be subtracted from the rows of the output layer.
//! - The mean row of an embedding can move into the bias of the lstm that reads it.

use super::{BiasRows, Moment, Site, SiteKind, reader_hessian};
use crate::calibrate::Statistics;
use crate::options::{Kind, OptionInfo, Options};
use crate::pass::PassError;
use crate::solve::{Hessian, SolveError};
use lstmc_frontend::ir::{Graph, WeightId};

/// Relative damping of second moments. The only small divisor of a truncated SVD is the Cholesky factor, for which this is ample
/// (see [`Hessian::MIN_DAMPING`]); it only has to make inputs that never vary harmless.
const DAMPING: f64 = 1e-4;

/// Exponents of the output layer's row weights, chosen on PTB's validation text. Both counts show how much a row matters; the square root of the
/// first alone (as in weighted low-rank approximation by word frequency, Chen et al. 2018, "GroupReduce") is the next best.
const TARGET_EXPONENT: f64 = 0.5;
/// See [`TARGET_EXPONENT`].
const CURVATURE_EXPONENT: f64 = 0.2;

/// A word that does not occur in calibration counts as this many occurrences, in the output layer and in the embedding.
const UNSEEN_TARGET: f64 = 0.01;
/// See [`UNSEEN_TARGET`].
const UNSEEN_LOOKUP: f64 = 1.0;

/// How errors of one map, or of the stacked maps of an lstm, count.
#[derive(Clone, Debug, Default)]
pub(crate) struct Weighting {
    /// Second moment of the inputs; the covariance if a bias compensates for the mean.
    pub(crate) hessian: Option<Hessian>,
    /// A weight for each row.
    pub(crate) rows: Option<Vec<f64>>,
    /// The bias that compensates for the mean, and the inputs' mean.
    pub(crate) correction: Option<(WeightId, Vec<f64>)>,
    /// The elements of that bias that the rows are added to.
    pub(crate) bias_rows: BiasRows,
    /// Whether the map computes the logits.
    pub(crate) is_output: bool,
    /// The row that is subtracted from every row, and the map and bias that compensate for it, if needed.
    pub(crate) shift: Option<Shift>,
}

/// A row that is subtracted from every row of a matrix.
#[derive(Clone, Debug)]
pub(crate) struct Shift {
    /// `[in]`.
    pub(crate) row: Vec<f64>,
    /// The map that reads the embedding, to whose bias its product with the row is added; `None` for an output layer.
    pub(crate) reader: Option<(WeightId, WeightId)>,
}

/// Which of the techniques of [`Weighting`] are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Means {
    /// Rows count by how often words occur.
    pub(crate) rows: bool,
    /// Biases compensate for means.
    pub(crate) bias: bool,
}

impl Means {
    /// The option for `rows`.
    pub(crate) const ROWS: OptionInfo = OptionInfo::new(
        "rows",
        Kind::Word(&["counts", "alike"]),
        "whether the rows of embedding and output layer count by how often words occur",
    )
    .or("counts");

    /// The option for `bias`.
    pub(crate) const BIAS: OptionInfo =
        OptionInfo::new("bias", Kind::Flag, "whether biases make up for mean errors").or("true");

    pub(crate) fn of(options: &Options) -> Means {
        Means { rows: options.get::<&str>("rows") == "counts", bias: options.get("bias") }
    }
}

impl Weighting {
    /// The weighting of the maps `chosen` (indices into the site's), whose values side by side are `w`.
    pub(crate) fn new(
        graph: &Graph,
        site: &Site,
        chosen: &[usize],
        w: &[f32],
        statistics: &Statistics,
        means: Means,
    ) -> Result<Weighting, PassError> {
        let name = &graph.weight(site.maps[chosen[0]].0).name;
        let mut weighting =
            Weighting { is_output: site.is_output(), bias_rows: site.bias_rows(), ..Weighting::default() };
        if let SiteKind::Embedding { readers, .. } = &site.kind {
            weighting.hessian = reader_hessian(graph, readers, site.maps[0].1.len(), DAMPING)?;
        } else {
            let moment = Moment::of(statistics, graph, site, chosen)?;
            let bias = site.bias.filter(|_| means.bias);
            let h = moment.hessian(bias.is_some(), DAMPING);
            let solve = |source: SolveError| PassError::Solve { weight: name.clone(), source };
            weighting.hessian = Some(h.map_err(solve)?);
            weighting.correction = bias.map(|b| (b, moment.mean().to_vec()));
        }
        if means.rows {
            weighting.rows = rows(name, &site.kind, statistics);
        }
        let shift = |rows: &Vec<f64>, reader| Some(Shift { row: mean_row(w, rows), reader });
        weighting.shift = match (&site.kind, &weighting.rows) {
            (SiteKind::Output { is_tied: false }, Some(rows)) => shift(rows, None),
            (SiteKind::Embedding { takes_over: Some(reader), .. }, Some(rows)) if means.bias => {
                shift(rows, Some(*reader))
            }
            _ => None,
        };
        Ok(weighting)
    }

    /// `w: [out, in]` with the shift subtracted from its rows.
    pub(crate) fn shifted(&self, w: &[f32]) -> Vec<f32> {
        match &self.shift {
            None => w.to_vec(),
            Some(shift) => {
                let n = shift.row.len();
                w.iter().enumerate().map(|(k, &x)| (f64::from(x) - shift.row[k % n]) as f32).collect()
            }
        }
    }
}

/// The weights of rows; `None` if they count equally.
fn rows(name: &str, kind: &SiteKind, statistics: &Statistics) -> Option<Vec<f64>> {
    match kind {
        SiteKind::Output { .. } => {
            let p = statistics.predictions()?;
            let weight = |(c, p): (&f64, &f64)| {
                (c + UNSEEN_TARGET).powf(TARGET_EXPONENT) * p.max(0.0).powf(CURVATURE_EXPONENT)
            };
            Some(p.targets.iter().zip(&p.curvature).map(weight).collect())
        }
        SiteKind::Embedding { .. } => {
            let counts = statistics.lookups_of(name)?.counts();
            Some(counts.iter().map(|c| (c + UNSEEN_LOOKUP).sqrt()).collect())
        }
        _ => None,
    }
}

/// The weighted mean of the rows of `w`.
fn mean_row(w: &[f32], rows: &[f64]) -> Vec<f64> {
    let n = w.len() / rows.len().max(1);
    let total: f64 = rows.iter().sum();
    let mut mean = vec![0.0; n];
    for (row, weight) in w.chunks(n.max(1)).zip(rows) {
        mean.iter_mut().zip(row).for_each(|(m, &x)| *m += weight / total * f64::from(x));
    }
    mean
}
