//! How errors of each site's maps count, in nats.

use super::{INSTEAD, solve_error};
use crate::calibrate::{Drift, Sensitivity, Statistics, readers};
use crate::pass::{Context, PassError};
use crate::sites::{Moment, Site, SiteKind};
use crate::solve::{Hessian, SolveError};
use lstmc_frontend::ir::{Graph, WeightId};

/// The exponent of the row weights of tables and output layers, by which rare words get more than their part of the calibration text: what they are
/// worth on other text is not known from so few occurrences. Best of 0.25, 0.35, 0.45 and 1 on PTB's validation text.
const ROW_EXPONENT: f64 = 0.35;

/// The steps of tables and output layers, relative to the others'. Best of 1, 1.2, 1.6 on PTB's validation text.
const BALANCE: f64 = 1.2;

/// Weights of rows that never occur, and never are predicted.
const FLOOR: f64 = 1e-8;

/// A site with the statistics of the model before the pass.
#[derive(Clone)]
pub(super) struct Layer {
    pub(super) site: Site,
    /// Indices into its maps.
    pub(super) chosen: Vec<usize>,
    /// `[out]`.
    pub(super) rows: Vec<f64>,
    /// Of the chosen maps' inputs.
    pub(super) inputs: Seen,
}

/// The inputs of a site's chosen maps.
#[derive(Clone)]
pub(super) struct Seen {
    pub(super) h: Hessian,
    /// `E[x0 x^T]`, where the inputs were `x0` before.
    pub(super) cross: Option<Vec<f64>>,
    /// `E[x0]` and `E[x]`, if the bias takes over the mean error.
    pub(super) means: Option<[Vec<f64>; 2]>,
}

impl Layer {
    pub(super) fn new(
        graph: &Graph,
        (site, chosen): (Site, Vec<usize>),
        corrects: bool,
        damping: f64,
        statistics: &Statistics,
        sensitivity: &Sensitivity,
    ) -> Result<Layer, PassError> {
        let name = &graph.weight(site.maps[chosen[0]].0).name;
        let error = |e: SolveError| solve_error(name, e);
        let of_rows = |table: &str| sensitivity.of_rows(table).unwrap_or_default();
        let width = chosen.iter().map(|&k| site.maps[k].1.len()).sum();
        let (rows, inputs) = match &site.kind {
            SiteKind::Embedding { .. } => {
                let gram = of_rows(name);
                let h = Hessian::new(gram, width, 1.0, damping).map_err(error)?;
                (powered(&lookups(name, statistics)), Seen { h, cross: None, means: None })
            }
            kind => {
                let moment = Moment::of(statistics, graph, &site, &chosen)?;
                let h = moment.hessian(corrects, damping).map_err(error)?;
                let means = corrects.then(|| [moment.mean().to_vec(), moment.mean().to_vec()]);
                let curvature = statistics.predictions().map(|p| &p.curvature);
                match (kind, curvature) {
                    (SiteKind::Output { is_tied: true }, Some(curvature)) => {
                        let both =
                            [(&curvature[..], h.as_slice()), (&lookups(name, statistics), of_rows(name))];
                        let (rows, gram) = sum_of_two(both);
                        let h = Hessian::new(&gram, width, 1.0, 0.0).map_err(error)?;
                        (powered(&rows), Seen { h, cross: None, means })
                    }
                    (SiteKind::Output { .. }, Some(curvature)) => {
                        (powered(curvature), Seen { h, cross: None, means })
                    }
                    _ => {
                        let rows = sensitivity.of_sum(name).unwrap_or_default().to_vec();
                        (rows, Seen { h, cross: None, means })
                    }
                }
            }
        };
        Ok(Layer { site, chosen, rows, inputs })
    }

    /// Whether its inputs change when maps before it do, in a way that the maps can make up for.
    pub(super) fn drifts(&self) -> bool {
        !matches!(self.site.kind, SiteKind::Embedding { .. } | SiteKind::Output { is_tied: true })
    }

    /// The inputs in a changed model.
    pub(super) fn drifted(
        &self,
        graph: &Graph,
        now: &Graph,
        damping: f64,
        context: &mut Context<'_>,
    ) -> Result<Seen, PassError> {
        let drift = context.drift(graph, now, &readers(graph, &self.site.stacked), INSTEAD)?;
        let columns: Vec<usize> = self.chosen.iter().flat_map(|&k| self.site.maps[k].1.clone()).collect();
        self.seen(&drift, &columns, damping).map_err(|e| solve_error(&self.site.name, e))
    }

    fn seen(&self, drift: &Drift, columns: &[usize], damping: f64) -> Result<Seen, SolveError> {
        let [_, width] = drift.widths();
        let (gram, mut cross) = (drift.gram(), drift.cross());
        let n = columns.len();
        let select = |all: &[f64]| crate::solve::factor::select(all, width, columns);
        let mut gram = select(&gram);
        cross = select(&cross);
        let means = self
            .inputs
            .means
            .is_some()
            .then(|| drift.means().map(|mean| columns.iter().map(|&j| mean[j]).collect::<Vec<f64>>()));
        if let Some([before, now]) = &means {
            for k in 0..n * n {
                gram[k] -= now[k / n] * now[k % n];
                cross[k] -= before[k / n] * now[k % n];
            }
        }
        let h = Hessian::new(&gram, n, 1.0, damping)?.definite()?;
        // What damps the inputs' moment damps this one too, so that without drift nothing changes.
        for j in 0..n {
            cross[j * n + j] += h.as_slice()[j * n + j] - gram[j * n + j];
        }
        Ok(Seen { h, cross: Some(cross), means })
    }

    /// Powers of two for the elements of its bias, each the step of a weight of its row with an input of 1; zero for elements without a row.
    pub(super) fn bias_steps(&self, alpha: f64) -> Vec<f64> {
        let step = |f: &f64| match *f > 0.0 {
            true => (alpha / f.sqrt()).log2().round().exp2(),
            false => 0.0,
        };
        self.site.bias_rows().spread(self.rows.iter().map(step).collect())
    }

    /// Its maps.
    pub(super) fn ids(&self) -> impl Iterator<Item = WeightId> {
        self.chosen.iter().map(|&k| self.site.maps[k].0)
    }
}

/// How often each word is looked up, as a fraction: by the text's words, and half as much by what the model predicts, which knows more words.
fn lookups(table: &str, statistics: &Statistics) -> Vec<f64> {
    let counts = statistics.lookups_of(table).map_or(&[][..], |l| l.counts());
    let total = counts.iter().sum::<f64>().max(1.0);
    let predicted = statistics.predictions().map(|p| &p.probabilities);
    let of = |(word, count): (usize, &f64)| match predicted.and_then(|p| p.get(word)) {
        Some(p) => (count / total + p / 2.0) / 1.5,
        None => (count + 1.0) / (total + counts.len() as f64),
    };
    counts.iter().enumerate().map(of).collect()
}

/// Row weights to the power of [`ROW_EXPONENT`], with the same sum, for steps that are [`BALANCE`] times as large.
fn powered(rows: &[f64]) -> Vec<f64> {
    let power = |f: &f64| f.max(FLOOR).powf(ROW_EXPONENT);
    let ratio = rows.iter().sum::<f64>() / rows.iter().map(power).sum::<f64>();
    rows.iter().map(|f| power(f) * ratio / BALANCE.powi(2)).collect()
}

/// `sum of f_i H`, of two such terms, as one product: rows count by the traces of their sums.
fn sum_of_two(terms: [(&[f64], &[f64]); 2]) -> (Vec<f64>, Vec<f64>) {
    let trace = |h: &[f64]| {
        let n = h.len().isqrt();
        (0..n).map(|i| h[i * n + i]).sum::<f64>()
    };
    let [(a, h), (b, g)] = terms;
    let (traces, sums) = ([trace(h), trace(g)], [a.iter().sum::<f64>(), b.iter().sum()]);
    let total = (sums[0] * traces[0] + sums[1] * traces[1]).max(f64::MIN_POSITIVE);
    let rows = a.iter().zip(b).map(|(a, b)| (a * traces[0] + b * traces[1]) / total);
    (rows.collect(), h.iter().zip(g).map(|(h, g)| sums[0] * h + sums[1] * g).collect())
}
