//! One matrix to factorise, or the stacked two of an lstm.

use crate::calibrate::Statistics;
use crate::pass::PassError;
use crate::sites::{Means, Site, Weighting, dense};
use crate::solve::allocate::{Choice, allocate};
use crate::solve::low_rank::{Factors, Whitened, rank_choices};
use crate::solve::{SolveError, row_errors};
use lstmc_frontend::ir::{Graph, LinearMap, LowRank, MapError, Part, WeightId};
use lstmc_frontend::tensor::Tensor;

/// A matrix, how its errors count, and its singular values.
pub(super) struct Problem {
    pub(super) ids: Vec<WeightId>,
    names: Vec<String>,
    /// Columns of each of the maps in `ids`.
    cols: Vec<usize>,
    shape: [usize; 2],
    /// The matrix minus its weighting's shift; two maps are side by side.
    pub(super) shifted: Vec<f32>,
    pub(super) weighting: Weighting,
    pub(super) svd: Whitened,
    /// The singular values of each of the two maps of an lstm.
    apart: Vec<Whitened>,
}

/// The ranks that a problem is solved with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ranks {
    /// One factorisation; two maps share one left factor.
    One(usize),
    /// One for each of two maps.
    Apart([usize; 2]),
}

/// Factors that replace a problem's maps.
pub(super) struct Solution {
    ranks: Ranks,
    pub(super) maps: Vec<(WeightId, Part)>,
    /// The matrix that they represent, in the layout of `shifted`.
    pub(super) dense: Vec<f32>,
    /// Weighted squared error.
    pub(super) error: f64,
}

impl Problem {
    pub(super) fn new(
        graph: &Graph,
        site: &Site,
        chosen: &[usize],
        statistics: Option<&Statistics>,
        means: Means,
    ) -> Result<Problem, PassError> {
        let ids: Vec<WeightId> = chosen.iter().map(|&k| site.maps[k].0).collect();
        let mut parts = vec![];
        for &id in &ids {
            let shape = graph.weight(id).map.shape();
            parts.push(([shape[0], shape[1]], dense(graph, id)?));
        }
        let rows = parts[0].0[0];
        let cols: Vec<usize> = parts.iter().map(|(shape, _)| shape[1]).collect();
        let shape = [rows, cols.iter().sum()];
        let mut w = Vec::with_capacity(shape[0] * shape[1]);
        for i in 0..rows {
            parts.iter().for_each(|([_, n], data)| w.extend_from_slice(&data[i * n..(i + 1) * n]));
        }
        let name = graph.weight(ids[0]).name.clone();
        let solve = |source: SolveError| PassError::Solve { weight: name.clone(), source };
        let weighting = match statistics {
            None => Weighting::default(),
            Some(s) => Weighting::new(graph, site, chosen, &w, s, means)?,
        };
        let shifted = weighting.shifted(&w);
        let (h, row_weights) = (weighting.hessian.as_ref(), weighting.rows.as_deref());
        let svd = Whitened::new(&shifted, shape, h, row_weights).map_err(solve)?;
        let mut apart = vec![];
        if ids.len() > 1 {
            let mut start = 0;
            for (shape, data) in &parts {
                let h = h.map(|h| h.slice(start..start + shape[1]));
                apart.push(Whitened::new(data, *shape, h.as_ref(), row_weights).map_err(solve)?);
                start += shape[1];
            }
        }
        let names = ids.iter().map(|&id| format!("@{}", graph.weight(id).name)).collect();
        Ok(Problem { ids, names, cols, shape, shifted, weighting, svd, apart })
    }

    pub(super) fn error(&self, source: SolveError) -> PassError {
        PassError::Solve { weight: self.names[0].trim_start_matches('@').to_string(), source }
    }

    /// Numbers of one factorisation per unit of rank.
    pub(super) fn unit(&self) -> usize {
        self.shape[0] + self.shape[1]
    }

    /// Numbers of the matrix itself.
    pub(super) fn size(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// Its choices: itself, or factors of each rank. A unit of its error costs `weight` in loss.
    pub(super) fn choices(&self, weight: f64) -> Vec<Choice> {
        rank_choices(self.svd.spectrum(), weight, self.unit() as f64, Some(self.size() as f64))
    }

    /// The rank, if factors of this rank have fewer numbers than the matrix.
    pub(super) fn saving(&self, rank: usize) -> Option<usize> {
        rank.checked_mul(self.unit()).filter(|&n| n < self.size()).map(|_| rank)
    }

    /// For one rank, the ranks with the smallest loss for the size of one factorisation.
    pub(super) fn best(&self, rank: usize, shared: Option<bool>) -> Result<Ranks, PassError> {
        let [a, b] = &self.apart[..] else { return Ok(Ranks::One(rank)) };
        if shared == Some(true) {
            return Ok(Ranks::One(rank));
        }
        let unit = |k: usize| (self.shape[0] + self.cols[k]) as f64;
        let curves = [(a, 0), (b, 1)].map(|(svd, k)| rank_choices(svd.spectrum(), 1.0, unit(k), None));
        let Some(chosen) = allocate(&curves, (rank * self.unit()) as f64) else {
            return Ok(Ranks::One(rank));
        };
        let ranks = Ranks::Apart([chosen[0] + 1, chosen[1] + 1]);
        // Errors of the two maps add up with signs; only their product with the whole second moment shows this.
        let better = self.solve(ranks)?.error < self.svd.error(rank);
        Ok(if better { ranks } else { Ranks::One(rank) })
    }

    pub(super) fn solve(&self, ranks: Ranks) -> Result<Solution, PassError> {
        let error = |source| PassError::Map { weight: self.names[0].trim_start_matches('@').into(), source };
        let (maps, dense) = match ranks {
            Ranks::One(rank) => {
                let factors = self.svd.factors(rank);
                (self.shared(&factors).map_err(error)?, factors.to_dense())
            }
            Ranks::Apart(ranks) => {
                let factors: Vec<Factors> = self.apart.iter().zip(ranks).map(|(s, r)| s.factors(r)).collect();
                let mut maps = vec![];
                for (k, f) in factors.iter().enumerate() {
                    let left = stored([self.shape[0], f.rank], f.left.clone()).map_err(error)?;
                    let right = stored([f.rank, self.cols[k]], f.right.clone()).map_err(error)?;
                    let map = LowRank::new(left.into(), right.into()).map_err(error)?;
                    maps.push((self.ids[k], LinearMap::LowRank(map).into()));
                }
                let [a, b] = [factors[0].to_dense(), factors[1].to_dense()];
                let rows = a.chunks(self.cols[0]).zip(b.chunks(self.cols[1]));
                (maps, rows.flat_map(|(a, b)| [a, b].concat()).collect())
            }
        };
        let h = self.weighting.hessian.as_ref();
        let errors = row_errors(&self.shifted, &dense, self.shape, h).map_err(|e| self.error(e))?;
        let weight = |i: usize| self.weighting.rows.as_ref().map_or(1.0, |r| r[i]);
        let error = errors.iter().enumerate().map(|(i, e)| e * weight(i)).sum();
        Ok(Solution { ranks, maps, dense, error })
    }

    /// One left factor for all maps, and for each its columns of the right one.
    fn shared(&self, factors: &Factors) -> Result<Vec<(WeightId, Part)>, MapError> {
        let left = Part::new(stored([self.shape[0], factors.rank], factors.left.clone())?);
        let mut start = 0;
        let mut maps = vec![];
        for (&id, &cols) in self.ids.iter().zip(&self.cols) {
            let rows = factors.right.chunks(self.shape[1]);
            let right: Vec<f32> = rows.flat_map(|row| row[start..start + cols].iter().copied()).collect();
            let right = Part::new(stored([factors.rank, cols], right)?);
            maps.push((id, LinearMap::LowRank(LowRank::new(left.clone(), right)?).into()));
            start += cols;
        }
        Ok(maps)
    }

    /// A solution's description, for the report.
    pub(super) fn describe(&self, solution: &Solution) -> String {
        let (ranks, numbers) = match solution.ranks {
            Ranks::One(rank) if self.ids.len() == 1 => (format!("rank {rank}"), rank * self.unit()),
            Ranks::One(rank) => (format!("rank {rank} with one left factor"), rank * self.unit()),
            Ranks::Apart([a, b]) => (
                format!("ranks {a} and {b}"),
                a * (self.shape[0] + self.cols[0]) + b * (self.shape[0] + self.cols[1]),
            ),
        };
        let total = self.svd.error(0);
        let lost = if total > 0.0 { 100.0 * solution.error / total } else { 0.0 };
        format!(
            "{}: {ranks}, {numbers} of {} numbers, {lost:.2}% of the sum of squares lost",
            self.name(),
            self.size()
        )
    }

    pub(super) fn name(&self) -> String {
        self.names.join(" and ")
    }

    /// Why the matrix stays as it is.
    pub(super) fn left_dense(&self, rank: Option<usize>) -> String {
        match rank {
            Some(rank) => format!(
                "{}: factors of rank {rank} have {} numbers, not fewer than the matrix's {}; left as it is",
                self.name(),
                rank.saturating_mul(self.unit()),
                self.size()
            ),
            None => format!("{}: left as it is, which costs least here", self.name()),
        }
    }
}

fn stored(shape: [usize; 2], data: Vec<f32>) -> Result<LinearMap, MapError> {
    Ok(LinearMap::Dense(Tensor::from_f32(shape, data)?))
}
