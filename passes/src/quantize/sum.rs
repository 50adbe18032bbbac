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
use crate::solve::quantize::{QuantizeOptions, QuantizedMatrix, quantize_watched};
use crate::solve::{Hessian, SolveError, factor};
use crate::watch::Steps;
use half::f16;
use lstmc_frontend::ir::{Granularity, LinearMap, LowRank, MapError, Part, PartId, Quantized, Sparse};
use lstmc_frontend::tensor::Tensor;
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

/// Quantizes maps, and reuses the result for a part that occurs again.
pub(super) struct Quantizer<'s> {
    options: QuantizeOptions,
    steps: Steps<'s>,
    /// The results for parts.
    done: BTreeMap<PartId, Part>,
}

/// A map that multiplies one intermediate vector: a factor that one or more low-rank maps share, or a whole map.
struct Term {
    map: Part,
    members: Vec<usize>,
    is_left: bool,
}

impl<'s> Quantizer<'s> {
    /// A quantizer that counts rows: the number that [`rows`] returns.
    pub(super) fn new(options: QuantizeOptions, steps: Steps<'s>) -> Quantizer<'s> {
        Quantizer { options, steps, done: BTreeMap::new() }
    }

    fn result_of(&self, map: &Part) -> Option<Part> {
        self.done.get(&map.id()).cloned()
    }

    /// Quantizes maps of equal height. `h`: the second moment of their stacked inputs; without it, all weights count equally.
    pub(super) fn sum(&mut self, maps: &[Part], h: Option<&Hessian>) -> Result<Vec<Part>, SumError> {
        let columns = ranges(maps)?;
        let mut terms: Vec<Term> = vec![];
        for (k, map) in maps.iter().enumerate() {
            match &**map {
                _ if self.result_of(map).is_some() => {}
                LinearMap::Quantized(_) => return Err(SumError::Found(describe(map))),
                LinearMap::TensorTrain(_) => {
                    let new = self.cores(map)?;
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
            self.factored(maps, &columns, &terms, h)?;
        } else if !terms.is_empty() {
            let chosen: Vec<usize> = terms.iter().flat_map(|t| columns[t.members[0]].clone()).collect();
            let h = h.map(|h| select(h, &chosen)).transpose()?;
            let leaves: Vec<Part> = terms.iter().map(|t| t.map.clone()).collect();
            let new = self.leaves(&leaves, h.as_ref(), None)?;
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
        h: Option<&Hessian>,
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
                let h = h.map(|h| select(h, &chosen)).transpose()?;
                let new = self.sum(&rights, h.as_ref())?;
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
        let h = match h {
            Some(h) => h,
            None => {
                identity = Hessian::identity(width);
                &identity
            }
        };
        let after_h = factor::multiply(&after, h.as_slice(), inner, width, width); // T' H
        let moment = product_transposed(&after_h, &after, inner, inner, width); // T' H T'^T
        let cross = product_transposed(&before, &after_h, inner, inner, width); // T H T'^T
        let new_h = Hessian::new(&moment, inner, 1.0, Hessian::MIN_DAMPING)?;
        let lefts: Vec<Part> = terms.iter().map(|t| t.map.clone()).collect();
        let are_leaves = lefts.iter().all(|m| matches!(**m, LinearMap::Dense(_)));
        let known = lefts.iter().any(|m| self.result_of(m).is_some());
        let new = if are_leaves && !known {
            let new = self.leaves(&lefts, Some(&new_h), Some(&cross))?;
            self.done.extend(lefts.iter().map(Part::id).zip(new.iter().cloned()));
            new
        } else {
            self.sum(&lefts, Some(&new_h))?
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

    fn cores(&mut self, train: &LinearMap) -> Result<Part, SumError> {
        let mut core =
            |core: &Part| Ok::<_, SumError>(self.sum(std::slice::from_ref(core), None)?.swap_remove(0));
        Ok(train.map_parts(&mut core)?.into())
    }

    /// Dense and sparse maps, as one problem. With `cross`, `E[x_old x^T]`, the maps are first refitted to the inputs `x` that `h` is of.
    fn leaves(
        &self,
        maps: &[Part],
        h: Option<&Hessian>,
        cross: Option<&[f64]>,
    ) -> Result<Vec<Part>, SumError> {
        let columns = ranges(maps)?;
        let rows = maps[0].matrix_shape()?[0];
        let widest = columns.iter().map(Range::len).max().unwrap_or(0).max(1);
        let group = self.options.group.unwrap_or(widest).min(widest);
        // Each map starts a new group; the last one of the previous map is padded with zeros.
        let mut starts = vec![];
        let mut width = 0;
        for c in &columns {
            starts.push(width);
            width += c.len().div_ceil(group) * group;
        }
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
        if let (Some(cross), Some(h)) = (cross, h) {
            let w64: Vec<f64> = w.iter().map(|&x| f64::from(x)).collect();
            let mut target = factor::multiply(&w64, cross, rows, cols, cols);
            factor::solve_rows(&mut h.as_slice().to_vec(), cols, &mut target, rows)?;
            w = target.iter().map(|&x| x as f32).collect();
        }
        let spread = |i: usize| {
            columns
                .iter()
                .zip(&starts)
                .flat_map(move |(c, &s)| c.clone().map(move |j| (i * cols + j, i * width + s + j - c.start)))
        };
        let (mut padded, mut padded_keep) = (vec![0.0f32; rows * width], None);
        (0..rows).flat_map(spread).for_each(|(from, to)| padded[to] = w[from]);
        if let Some(keep) = &keep {
            let mut all = vec![false; rows * width];
            (0..rows).flat_map(spread).for_each(|(from, to)| all[to] = keep[from]);
            padded_keep = Some(all);
        }
        let h = h.map(|h| pad(h, &columns, &starts, width)).transpose()?;
        let options = QuantizeOptions { group: Some(group), ..self.options.clone() };
        let keep = padded_keep.as_deref();
        let solved = quantize_watched(&padded, [rows, width], h.as_ref(), keep, &options, &self.steps)?;
        let parts = maps.iter().zip(&columns).zip(&starts);
        parts.map(|((map, c), &start)| self.part(&solved, map, start..start + c.len())).collect()
    }

    /// The map that columns of a solution represent.
    fn part(
        &self,
        solved: &QuantizedMatrix,
        map: &LinearMap,
        columns: Range<usize>,
    ) -> Result<Part, SumError> {
        let [rows, width] = solved.shape;
        let (groups, cols) = (solved.groups(), columns.len());
        let mine = columns.start / solved.group..columns.end.div_ceil(solved.group);
        let codes = (0..rows).flat_map(|i| &solved.codes[i * width + columns.start..i * width + columns.end]);
        let codes = Tensor::from_i8([rows, cols], codes.copied().collect())?;
        let scales = (0..rows).flat_map(|i| &solved.scales[i * groups + mine.start..i * groups + mine.end]);
        let shape = [rows, mine.len()];
        let scales = match self.options.f16_scales {
            true => Tensor::from_f16(shape, scales.map(|&s| f16::from_f32(s)).collect())?,
            false => Tensor::from_f32(shape, scales.copied().collect())?,
        };
        let zeros = solved.zero_points.as_ref().map(|z| {
            let mine = (0..rows).flat_map(|i| &z[i * groups + mine.start..i * groups + mine.end]);
            Tensor::from_i8(shape, mine.copied().collect())
        });
        let granularity = match self.options.group {
            Some(group) if group < cols => Granularity::Group(group),
            _ => Granularity::Row,
        };
        let quantized = Quantized::new(self.options.format, granularity, codes, scales, zeros.transpose()?)?;
        let quantized = LinearMap::Quantized(quantized);
        Ok(Part::new(match map {
            LinearMap::Sparse(s) => {
                LinearMap::Sparse(Sparse::new(s.pattern(), s.mask().clone(), quantized.into())?)
            }
            _ => quantized,
        }))
    }
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

/// The second moment of some inputs.
fn select(h: &Hessian, columns: &[usize]) -> Result<Hessian, SolveError> {
    Hessian::new(&h.select(columns), columns.len(), 1.0, 0.0)
}

/// A second moment with independent inputs of unit scale between those of the maps; nothing multiplies them.
fn pad(h: &Hessian, columns: &[Range<usize>], starts: &[usize], width: usize) -> Result<Hessian, SolveError> {
    if h.size() == width {
        return Ok(h.clone());
    }
    let to: Vec<usize> =
        columns.iter().zip(starts).flat_map(|(c, &s)| (0..c.len()).map(move |j| s + j)).collect();
    let n = h.size();
    let mean = h.diagonal_values().iter().sum::<f64>() / n.max(1) as f64;
    let mut out = vec![0.0; width * width];
    for k in 0..width {
        out[k * width + k] = mean;
    }
    for (i, &a) in to.iter().enumerate() {
        for (j, &b) in to.iter().enumerate() {
            out[a * width + b] = h.as_slice()[i * n + j];
        }
    }
    Hessian::new(&out, width, 1.0, 0.0)
}
