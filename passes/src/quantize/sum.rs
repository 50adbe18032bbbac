//! Quantizing maps whose products are summed: `y = W1 x1 + W2 x2 + ...`, where `[x1; x2; ...]` has one joint second moment.
//!
//! ```text
//!   y = L (R1 x1) + L (R2 x2) + W3 x3
//!          ──┬──      ──┬──                 1. right factors, with the second moment of [x1; x2]: one problem if they share L
//!            └── z ─────┘                   2. second moment of [z; x3], z = R1' x1 + R2' x2 with the new R'
//!   y = L z + W3 x3                         3. [L W3], first refitted to the new z, then quantized as one problem
//! ```

use crate::pass::PassError;
use crate::sites::describe;
use crate::solve::{Hessian, SolveError, factor};
use lstmc_frontend::ir::{LinearMap, LowRank, MapError, Part, PartId, Quantized, Sparse};
use std::collections::BTreeMap;
use std::ops::Range;

/// Why maps could not be quantized.
#[derive(Debug)]
pub(super) enum SumError {
    Solve(SolveError),
    Map(MapError),
    Found(String),
}

impl SumError {
    /// The error for a pass on this weight.
    pub(super) fn of(self, weight: &str) -> PassError {
        let weight = weight.to_string();
        match self {
            SumError::Solve(source) => PassError::Solve { weight, source },
            SumError::Map(source) => PassError::Map { weight, source },
            SumError::Found(found) => PassError::Representation {
                weight,
                found,
                why: "it is quantized already; run decode on it first".into(),
            },
        }
    }
}

impl From<SolveError> for SumError {
    fn from(e: SolveError) -> SumError {
        SumError::Solve(e)
    }
}

impl<E: Into<MapError>> From<E> for SumError {
    fn from(e: E) -> SumError {
        SumError::Map(e.into())
    }
}

/// How errors of summed products count.
#[derive(Clone, Copy, Default)]
pub(super) struct Errors<'a> {
    /// The second moment of the stacked inputs; without it, all inputs count equally.
    pub(super) h: Option<&'a Hessian>,
    /// `E[x0 x^T]`, if the outputs should be those of the old maps for inputs `x0`; `h` is of the inputs `x`.
    pub(super) cross: Option<&'a [f64]>,
    /// A weight for each row.
    pub(super) rows: Option<&'a [f64]>,
}

/// Dense and sparse maps side by side.
pub(super) struct Stacked<'a> {
    pub(super) maps: &'a [Part],
    /// The columns of each map.
    pub(super) columns: Vec<Range<usize>>,
    pub(super) rows: usize,
    /// `[rows, cols]`.
    pub(super) w: Vec<f32>,
    /// What masks keep, `[rows, cols]`.
    pub(super) keep: Option<Vec<bool>>,
}

/// What converts dense and sparse maps to codes, as one problem.
pub(super) trait Leaves {
    /// A part for each map. The errors' `cross` is none: the weights are refitted already.
    fn solve(&self, stacked: &Stacked<'_>, errors: Errors<'_>) -> Result<Vec<Part>, SumError>;
}

/// Quantizes maps, and reuses the result for a part that occurs again.
pub(super) struct Quantizer<L> {
    leaves: L,
    /// The results for parts.
    done: BTreeMap<PartId, Part>,
}

/// A map that multiplies one intermediate vector: a factor that one or more low-rank maps share, or a whole map.
struct Term {
    map: Part,
    members: Vec<usize>,
    is_left: bool,
}

impl<L: Leaves> Quantizer<L> {
    pub(super) fn new(leaves: L) -> Quantizer<L> {
        Quantizer { leaves, done: BTreeMap::new() }
    }

    pub(super) fn leaves(&self) -> &L {
        &self.leaves
    }

    fn result_of(&self, map: &Part) -> Option<Part> {
        self.done.get(&map.id()).cloned()
    }

    /// Quantizes maps of equal height.
    pub(super) fn sum(&mut self, maps: &[Part], errors: Errors<'_>) -> Result<Vec<Part>, SumError> {
        let columns = ranges(maps)?;
        let mut terms: Vec<Term> = vec![];
        for (k, map) in maps.iter().enumerate() {
            match &**map {
                _ if self.result_of(map).is_some() => {}
                LinearMap::Quantized(_) => return Err(SumError::Found(describe(map))),
                LinearMap::TensorTrain(_) => {
                    let new = self.cores(map, errors)?;
                    self.done.insert(map.id(), new);
                }
                LinearMap::LowRank(l) => {
                    match terms.iter_mut().find(|t| t.is_left && t.map.id() == l.left().id()) {
                        Some(term) => term.members.push(k),
                        None => terms.push(Term { map: l.left().clone(), members: vec![k], is_left: true }),
                    }
                }
                LinearMap::Dense(_) | LinearMap::Sparse(_) => {
                    terms.push(Term { map: map.clone(), members: vec![k], is_left: false });
                }
            }
        }
        if terms.iter().any(|t| t.is_left) {
            self.factored(maps, &columns, &terms, errors)?;
        } else if !terms.is_empty() {
            let chosen: Vec<usize> = terms.iter().flat_map(|t| columns[t.members[0]].clone()).collect();
            let leaves: Vec<Part> = terms.iter().map(|t| t.map.clone()).collect();
            let new = self.stack(&leaves, Chosen::of(errors, &chosen)?.errors(errors.rows))?;
            self.done.extend(leaves.iter().map(Part::id).zip(new));
        }
        Ok(maps.iter().map(|m| self.result_of(m).expect("every map was quantized")).collect())
    }

    /// Maps of which some are low-rank: right factors first, then left ones and all others.
    fn factored(
        &mut self,
        maps: &[Part],
        columns: &[Range<usize>],
        terms: &[Term],
        errors: Errors<'_>,
    ) -> Result<(), SumError> {
        let right_of = |k: usize| match &*maps[k] {
            LinearMap::LowRank(l) => l.right().clone(),
            _ => unreachable!("members of a left term are low-rank"),
        };
        // Rows of the transform: the vector that each term multiplies, from the stacked inputs.
        let width = columns.last().map_or(0, |c| c.end);
        let (mut before, mut after): (Vec<f64>, Vec<f64>) = (vec![], vec![]);
        for term in terms {
            let rank = term.map.matrix_shape()?[1];
            let mut rows = [vec![0.0; rank * width], vec![0.0; rank * width]];
            if term.is_left {
                let rights: Vec<Part> = term.members.iter().map(|&k| right_of(k)).collect();
                let chosen: Vec<usize> = term.members.iter().flat_map(|&k| columns[k].clone()).collect();
                let weights = errors.rows.map(|f| row_weights(&term.map, f)).transpose()?;
                let new = self.sum(&rights, Chosen::of(errors, &chosen)?.errors(weights.as_deref()))?;
                for ((&k, old), new) in term.members.iter().zip(&rights).zip(&new) {
                    for (rows, map) in rows.iter_mut().zip([old, new]) {
                        place(rows, width, columns[k].start, map)?;
                    }
                }
            } else {
                let start = columns[term.members[0]].start;
                rows.iter_mut().for_each(|r| (0..rank).for_each(|i| r[i * width + start + i] = 1.0));
            }
            let [old, new] = rows;
            before.extend(old);
            after.extend(new);
        }
        let inner = after.len() / width.max(1);
        let identity;
        let h = match errors.h {
            Some(h) => h,
            None => {
                identity = Hessian::identity(width);
                &identity
            }
        };
        let after_h = factor::multiply(&after, h.as_slice(), inner, width, width); // T' H
        let moment = product_transposed(&after_h, &after, inner, inner, width); // T' H T'^T
        let cross = match errors.cross {
            // T C T'^T
            Some(cross) => {
                let before = factor::multiply(&before, cross, inner, width, width);
                product_transposed(&before, &after, inner, inner, width)
            }
            None => product_transposed(&before, &after_h, inner, inner, width), // T H T'^T
        };
        let new_h = Hessian::new(&moment, inner, 1.0, Hessian::MIN_DAMPING)?;
        let lefts: Vec<Part> = terms.iter().map(|t| t.map.clone()).collect();
        let are_leaves = lefts.iter().all(|m| matches!(**m, LinearMap::Dense(_)));
        let known = lefts.iter().any(|m| self.result_of(m).is_some());
        let new = if are_leaves && !known {
            let errors = Errors { h: Some(&new_h), cross: Some(&cross), ..errors };
            let new = self.stack(&lefts, errors)?;
            self.done.extend(lefts.iter().map(Part::id).zip(new.iter().cloned()));
            new
        } else {
            self.sum(&lefts, Errors { h: Some(&new_h), cross: None, ..errors })?
        };
        for (term, left) in terms.iter().zip(new) {
            for &k in &term.members {
                if term.is_left {
                    let right = self.result_of(&right_of(k)).expect("right factors come first");
                    let map = LinearMap::LowRank(LowRank::new(left.clone(), right)?);
                    self.done.insert(maps[k].id(), map.into());
                }
            }
        }
        Ok(())
    }

    /// Each core by itself. A relative error of a core is one of the whole matrix, so with row weights a core's are such that both count alike.
    fn cores(&mut self, train: &LinearMap, errors: Errors<'_>) -> Result<Part, SumError> {
        let square = |map: &LinearMap| -> Result<f64, MapError> {
            Ok(map.to_dense()?.to_f32()?.iter().map(|&x| f64::from(x).powi(2)).sum())
        };
        let whole = match errors.rows {
            None => None,
            Some(rows) => {
                let mean = |all: &[f64]| all.iter().sum::<f64>() / all.len().max(1) as f64;
                Some(square(train)? * mean(rows) * errors.h.map_or(1.0, |h| mean(&h.diagonal_values())))
            }
        };
        let mut core = |core: &Part| {
            let each = whole.map(|whole| Ok::<f64, MapError>(whole / square(core)?.max(f64::MIN_POSITIVE)));
            let rows = match each.transpose()? {
                None => None,
                Some(each) => Some(vec![each; core.matrix_shape()?[0]]),
            };
            let errors = Errors { rows: rows.as_deref(), ..Errors::default() };
            Ok::<_, SumError>(self.sum(std::slice::from_ref(core), errors)?.swap_remove(0))
        };
        Ok(train.map_parts(&mut core)?.into())
    }

    /// Dense and sparse maps, as one problem, first refitted to their inputs.
    fn stack(&self, maps: &[Part], errors: Errors<'_>) -> Result<Vec<Part>, SumError> {
        let mut stacked = Stacked::of(maps)?;
        if let (Some(cross), Some(h)) = (errors.cross, errors.h) {
            stacked.refit(cross, h)?;
        }
        self.leaves.solve(&stacked, Errors { cross: None, ..errors })
    }
}

impl<'a> Stacked<'a> {
    fn of(maps: &'a [Part]) -> Result<Stacked<'a>, SumError> {
        let columns = ranges(maps)?;
        let rows = maps[0].matrix_shape()?[0];
        let cols = columns.last().map_or(0, |c| c.end);
        let mut w = vec![0.0f32; rows * cols];
        let mut keep: Option<Vec<bool>> = None;
        for (map, c) in maps.iter().zip(&columns) {
            let dense = map.to_dense()?;
            let dense = dense.to_f32()?;
            for i in 0..rows {
                w[i * cols + c.start..i * cols + c.end]
                    .copy_from_slice(&dense[i * c.len()..(i + 1) * c.len()]);
            }
            if let LinearMap::Sparse(s) = &**map {
                let mask = s.element_mask()?;
                let keep = keep.get_or_insert_with(|| vec![true; rows * cols]);
                for i in 0..rows {
                    keep[i * cols + c.start..i * cols + c.end]
                        .copy_from_slice(&mask[i * c.len()..(i + 1) * c.len()]);
                }
            }
        }
        Ok(Stacked { maps, columns, rows, w, keep })
    }

    /// The number of columns.
    pub(super) fn cols(&self) -> usize {
        self.columns.last().map_or(0, |c| c.end)
    }

    /// `W := W E[x0 x^T] H^-1`: for inputs `x` the outputs nearest to those for `x0`.
    fn refit(&mut self, cross: &[f64], h: &Hessian) -> Result<(), SumError> {
        let (rows, cols) = (self.rows, self.cols());
        let w: Vec<f64> = self.w.iter().map(|&x| f64::from(x)).collect();
        let mut target = factor::multiply(&w, cross, rows, cols, cols);
        factor::solve_rows(&mut h.as_slice().to_vec(), cols, &mut target, rows)?;
        self.w = target.iter().map(|&x| x as f32).collect();
        Ok(())
    }
}

/// The matrices of [`Errors`] for some of the inputs.
struct Chosen {
    h: Option<Hessian>,
    cross: Option<Vec<f64>>,
}

impl Chosen {
    fn of(errors: Errors<'_>, columns: &[usize]) -> Result<Chosen, SolveError> {
        let n = columns.len();
        let size = errors.h.map_or(0, Hessian::size);
        Ok(Chosen {
            h: errors.h.map(|h| Hessian::new(&h.select(columns), n, 1.0, 0.0)).transpose()?,
            cross: errors.cross.map(|c| factor::select(c, size, columns)),
        })
    }

    fn errors<'a>(&'a self, rows: Option<&'a [f64]>) -> Errors<'a> {
        Errors { h: self.h.as_ref(), cross: self.cross.as_deref(), rows }
    }
}

/// The weights of a right factor's rows: `sum over i of f_i l_ik^2` for the left factor `l`.
fn row_weights(left: &LinearMap, f: &[f64]) -> Result<Vec<f64>, MapError> {
    let rank = left.matrix_shape()?[1];
    let dense = left.to_dense()?;
    let mut sums = vec![0.0; rank];
    for (row, f) in dense.to_f32()?.chunks(rank.max(1)).zip(f) {
        sums.iter_mut().zip(row).for_each(|(s, &l)| *s += f * f64::from(l).powi(2));
    }
    Ok(sums)
}

/// The quantized matrix in place of the one that `map` is, or under its mask.
pub(super) fn under_mask(map: &LinearMap, quantized: Quantized) -> Result<Part, SumError> {
    let quantized = LinearMap::Quantized(quantized);
    Ok(Part::new(match map {
        LinearMap::Sparse(s) => {
            LinearMap::Sparse(Sparse::new(s.pattern(), s.mask().clone(), quantized.into())?)
        }
        _ => quantized,
    }))
}

/// The number of rows that [`Quantizer::sum`] solves for these maps.
pub(super) fn rows(maps: &[&LinearMap]) -> usize {
    let mut lefts: Vec<&Part> = vec![];
    let (mut stacked, mut others) = (0, 0);
    for map in maps {
        match map {
            LinearMap::TensorTrain(t) => others += t.cores().iter().map(|core| rows(&[core])).sum::<usize>(),
            LinearMap::LowRank(l) if lefts.iter().any(|left| left.id() == l.left().id()) => {}
            LinearMap::LowRank(l) => {
                lefts.push(l.left());
                others += rows(&[l.right()]);
                stacked = l.left().shape()[0];
            }
            _ => stacked = map.shape()[0],
        }
    }
    stacked + others
}

/// The columns of each map in the stacked matrix.
fn ranges(maps: &[Part]) -> Result<Vec<Range<usize>>, MapError> {
    let mut start = 0;
    let mut next = |map: &Part| {
        let range = start..start + map.matrix_shape()?[1];
        start = range.end;
        Ok(range)
    };
    maps.iter().map(&mut next).collect()
}

/// Writes a matrix into `rows: [height, width]` at column `start`.
fn place(rows: &mut [f64], width: usize, start: usize, map: &LinearMap) -> Result<(), SumError> {
    let cols = map.matrix_shape()?[1];
    let dense = map.to_dense()?;
    for (row, from) in rows.chunks_mut(width).zip(dense.to_f32()?.chunks(cols)) {
        row[start..start + cols].iter_mut().zip(from).for_each(|(to, &x)| *to = f64::from(x));
    }
    Ok(())
}

/// `a b^T` with `a: [m, k]`, `b: [n, k]`.
fn product_transposed(a: &[f64], b: &[f64], m: usize, n: usize, k: usize) -> Vec<f64> {
    let mut transposed = vec![0.0; n * k];
    for i in 0..n {
        for j in 0..k {
            transposed[j * n + i] = b[i * k + j];
        }
    }
    factor::multiply(a, &transposed, m, k, n)
}
