//! Statistics of a site's input.

use super::{Site, dense};
use crate::calibrate::{Statistics, readers};
use crate::options::{Kind, OptionInfo};
use crate::pass::PassError;
use crate::solve::{Hessian, SolveError};
use lstmc_frontend::ir::{Graph, WeightId};

/// The option for the damping of second moments.
pub(crate) const DAMPING_OPTION: OptionInfo = OptionInfo::new(
    "damping",
    Kind::Number { min: 0.0, max: 10.0 },
    "added to the diagonal of the inputs' second moment, relative to its mean",
);

/// The second moment and mean of a part of a site's input.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    gram: Vec<f64>, // [n, n]
    mean: Vec<f64>, // [n]
    count: f64,
}

impl Moment {
    /// The moment of the columns of the maps `chosen` (indices into the site's), concatenated.
    pub(crate) fn of(
        statistics: &Statistics,
        graph: &Graph,
        site: &Site,
        chosen: &[usize],
    ) -> Result<Moment, PassError> {
        let name = &graph.weight(site.maps[0].0).name;
        let Some(inputs) = statistics.inputs_of_all(&readers(graph, &site.stacked)) else {
            return Err(PassError::Representation {
                weight: name.clone(),
                found: "not in the calibration statistics".into(),
                why: "collect them again on this model".into(),
            });
        };
        let columns: Vec<usize> = chosen.iter().flat_map(|&k| site.maps[k].1.clone()).collect();
        let width = inputs.width();
        let mean = inputs.mean();
        let row = |&i: &usize| columns.iter().map(move |&j| inputs.gram()[i * width + j]);
        Ok(Moment {
            gram: columns.iter().flat_map(row).collect(),
            mean: columns.iter().map(|&j| mean[j]).collect(),
            count: inputs.count(),
        })
    }

    /// `E[x]`.
    pub(crate) fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// `E[x x^T]`, or the covariance if the bias will be corrected.
    pub(crate) fn hessian(&self, centered: bool, damping: f64) -> Result<Hessian, SolveError> {
        match centered {
            true => Hessian::centered(&self.gram, &self.mean, self.count, damping),
            false => Hessian::new(&self.gram, self.mean.len(), self.count, damping),
        }
    }
}

/// The effect of an error in an embedding's row on the maps that read it: the sum of their `W^T W`. `None` if no map reads it directly.
pub(crate) fn reader_hessian(
    graph: &Graph,
    readers: &[WeightId],
    features: usize,
    damping: f64,
) -> Result<Option<Hessian>, PassError> {
    let mut rows: Vec<f32> = vec![];
    for &id in readers {
        rows.extend_from_slice(dense(graph, id)?.as_slice());
    }
    if rows.is_empty() {
        return Ok(None);
    }
    let made = Hessian::of_reader(&rows, features, damping);
    made.map(Some)
        .map_err(|source| PassError::Solve { weight: graph.weight(readers[0]).name.clone(), source })
}
