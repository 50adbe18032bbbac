//! Coordinates in which the rows of a table or of an output layer are cheap to code.
//!
//! ```text
//!   H = L L^T,  V: eigenvectors of L^T (sum of f_i W_i^T W_i) L,  A = L V         errors in W A count alike, its columns are uncorrelated
//!   output layer:   W x = (W A) (A^-1 x)                                          two factors
//!   table:          the map R that reads its rows becomes R A^-T                  nothing more to store; two factors if others read them too
//! ```
//!
//! A Karhunen-Loeve transform: at low rates many of its columns get no bits at all, which error feedback in the original ones cannot imitate
//! (reverse water-filling: Cover and Thomas 2006, section 10.3.3).

use super::layers::{Layer, Seen};
use super::solve_error;
use crate::pass::PassError;
use crate::sites::{Draft, SiteKind, dense};
use crate::solve::{Hessian, SolveError, factor};
use lstmc_frontend::ir::{Graph, LinearMap, LowRank, Part, Program, WeightId};
use lstmc_frontend::tensor::Tensor;
use std::ops::Range;

/// A change of coordinates of rows.
struct Rotation {
    n: usize,
    forth: Vec<f64>, // A, [n, n]
    back: Vec<f64>,  // A^-1
}

impl Rotation {
    fn new(w: &[f32], h: &Hessian, rows: &[f64]) -> Result<Rotation, SolveError> {
        let n = h.size();
        let lower = factor::cholesky(h.as_slice(), n)?;
        let weighted = w.chunks(n.max(1)).zip(rows);
        let weighted: Vec<f64> =
            weighted.flat_map(|(row, f)| row.iter().map(move |&x| f.sqrt() * f64::from(x))).collect();
        let turned = factor::multiply(&weighted, &lower, rows.len(), n, n);
        let vectors = factor::eigenvectors(&factor::gram(&turned, rows.len(), n), n)?;
        let forth = factor::multiply(&lower, &vectors, n, n, n);
        let mut back = transposed(&vectors, n);
        factor::undo_right(&mut back, &lower, n, n);
        Ok(Rotation { n, forth, back })
    }
}

/// What reads a table that is rotated, if its map takes over the inverse: the layer, the map, and its part of the layer's stacked input.
fn reader(graph: &Graph, layer: &Layer, layers: &[Layer]) -> Option<(usize, WeightId, Range<usize>)> {
    let SiteKind::Embedding { takes_over: Some((map, _)), .. } = layer.site.kind else { return None };
    let program = Program::of(graph).ok()?;
    let is_own = program.uses(map) == 1 && program.uses(layer.site.maps[0].0) == 1;
    let is_plain = is_own && matches!(&*graph.weight(map).map, LinearMap::Dense(_));
    layers.iter().enumerate().filter(|_| is_plain).find_map(|(k, layer)| {
        let mut start = 0;
        for &chosen in &layer.chosen {
            let (id, columns) = &layer.site.maps[chosen];
            if *id == map {
                return Some((k, map, start..start + columns.len()));
            }
            start += columns.len();
        }
        None
    })
}

/// The layers whose cost a rotation of this one changes; none if it cannot be rotated.
pub(super) fn concerned(graph: &Graph, layers: &[Layer], k: usize) -> Vec<usize> {
    let site = &layers[k].site;
    let is_dense = |id: &WeightId| matches!(&*graph.weight(*id).map, LinearMap::Dense(_));
    if site.maps.len() != 1 || !is_dense(&site.maps[0].0) {
        return vec![];
    }
    match site.kind {
        SiteKind::Embedding { .. } => {
            [k].into_iter().chain(reader(graph, &layers[k], layers).map(|(reader, ..)| reader)).collect()
        }
        SiteKind::Output { is_tied: false } => vec![k],
        _ => vec![],
    }
}

/// The model with layer `k` rotated, and the layers' statistics in the new coordinates.
pub(super) fn rotate(graph: &Graph, layers: &mut [Layer], k: usize) -> Result<Graph, PassError> {
    let id = layers[k].site.maps[0].0;
    let name = graph.weight(id).name.clone();
    let error = |e: SolveError| solve_error(&name, e);
    let w = dense(graph, id)?;
    let layer = &layers[k];
    let rotation = Rotation::new(&w, &layer.inputs.h, &layer.rows).map_err(error)?;
    let n = rotation.n;
    let product = |w: &[f32], by: &[f64]| -> Vec<f64> {
        let w: Vec<f64> = w.iter().map(|&x| f64::from(x)).collect();
        factor::multiply(&w, by, w.len() / n.max(1), n, n)
    };
    let matrix = |values: Vec<f64>| -> Result<Part, PassError> {
        let tensor =
            Tensor::from_f32([values.len() / n.max(1), n], values.iter().map(|&x| x as f32).collect());
        Ok(tensor.map_err(|e| PassError::Map { weight: name.clone(), source: e.into() })?.into())
    };
    let left = matrix(product(&w, &rotation.forth))?;
    let mut draft = Draft::of(graph);
    match reader(graph, layer, layers) {
        Some((reader, map, columns)) => {
            draft.set(map, matrix(product(&dense(graph, map)?, &transposed(&rotation.back, n)))?);
            draft.set(id, left);
            layers[k].inputs.h = turned(&layers[k].inputs.h, &rotation.back, 0..n).map_err(error)?;
            let Seen { h, means, .. } = &mut layers[reader].inputs;
            // x' = A^T x
            let forth = transposed(&rotation.forth, n);
            *h = turned(h, &forth, columns.clone()).map_err(error)?;
            for mean in means.iter_mut().flatten() {
                let new = factor::multiply(&mean[columns.clone()], &rotation.forth, 1, n, n);
                mean[columns.clone()].copy_from_slice(&new);
            }
        }
        None => {
            let low_rank = LowRank::new(left, matrix(rotation.back)?);
            let low_rank = low_rank.map_err(|source| PassError::Map { weight: name.clone(), source })?;
            draft.set(id, LinearMap::LowRank(low_rank).into());
        }
    }
    Ok(draft.graph)
}

/// `T H T^T`, where `T` is `t: [n, n]` in some rows and columns and otherwise the identity.
fn turned(h: &Hessian, t: &[f64], columns: Range<usize>) -> Result<Hessian, SolveError> {
    let (size, n) = (h.size(), columns.len());
    let mut out = h.as_slice().to_vec();
    for _ in 0..2 {
        // Rows, then transposed, so that the second time they are the columns.
        let rows = factor::multiply(t, &out[columns.start * size..columns.end * size], n, n, size);
        out[columns.start * size..columns.end * size].copy_from_slice(&rows);
        out = transposed(&out, size);
    }
    Hessian::new(&out, size, 1.0, 0.0)
}

fn transposed(a: &[f64], n: usize) -> Vec<f64> {
    (0..n * n).map(|k| a[k % n * n + k / n]).collect()
}
