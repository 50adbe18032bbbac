//! A matrix as a chain of small cores.
//!
//! The row and the column are written in mixed radix, `i = (i1, .., id)` over `out_modes`, `j = (j1, .., jd)` over `in_modes`, most significant digit
//! first, and `W[i, j] = G1[i1, j1] G2[i2, j2] .. Gd[id, jd]`, a product of matrices `r(k-1) x r(k)` (Novikov et al. 2015, eq. 3). TT-SVD (Oseledets
//! 2011, algorithm 1) splits one core off after another by a truncated SVD:
//!
//! ```text
//!   C: [r(k-1) mk nk, rest]  ─ SVD ─▶  U: [r(k-1) mk nk, r(k)] = Gk     and the rest, S V^T, is the next C
//! ```
//!
//! The error is at most the root of the sum of the squares of all dropped singular values (Oseledets, theorem 2.2): [`Cores::bound`].
//!
//! **Whitening.** The error that matters is `|(W - V) S|` with `H = S S^T`. Truncating `W S` and undoing `S` keeps the chain only if `S` acts on each input digit by itself, so `H` is replaced by the Kronecker
//! product of its partial traces, `H1 x H2 x .. x Hd`, one factor per input mode, each undone in its own core. That is exact where one core holds all of the input (`in_modes` like `[1, 1, 200]`), and
//! for any `H` of that form; otherwise it uses the part of `H` that it can. Row weights are treated the same way, as a product of one weight per
//! output digit.

mod modes;

pub use modes::balanced_modes;

use super::allocate::{bisect, climb};
use super::{Hessian, SolveError, expect_matrix, factor, floored};
use faer::MatRef;

/// How far to truncate.
#[derive(Clone, PartialEq, Debug)]
pub enum Truncation {
    /// The inner ranks `r(1) .. r(d-1)`; lowered if the matrix has fewer.
    Ranks(Vec<usize>),
    /// The error is at most this fraction of the norm of the (whitened) matrix.
    RelativeError(f64),
    /// The smallest bound with at most this many numbers in all cores.
    Parameters(usize),
}

/// The options of [`tensor_train`].
#[derive(Clone, Debug)]
pub struct TensorTrainOptions<'a> {
    /// Radices of the output index; their product is at least `out`.
    pub out_modes: Vec<usize>,
    /// Radices of the input index, as many as output modes; their product is at least `in`.
    pub in_modes: Vec<usize>,
    /// How far to truncate.
    pub truncation: Truncation,
    /// Second moment of the inputs.
    pub h: Option<&'a Hessian>,
    /// The weight of an error of each row.
    pub row_weights: Option<&'a [f64]>,
}

/// The cores of a matrix.
#[derive(Clone, PartialEq, Debug)]
pub struct Cores {
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// Radices of the output index.
    pub out_modes: Vec<usize>,
    /// Radices of the input index.
    pub in_modes: Vec<usize>,
    /// `r(0) .. r(d)`; the ends are 1.
    pub ranks: Vec<usize>,
    /// Core `k` is `[r(k-1) * out_modes[k], in_modes[k] * r(k)]`, with `Gk[a, i, j, b]` at element `(a * m + i, j * r + b)`.
    pub cores: Vec<Vec<f32>>,
    /// An upper bound on the norm of the error, of the whitened matrix if it was whitened.
    pub bound: f64,
    /// The norm of the matrix that was decomposed, to compare `bound` with.
    pub norm: f64,
}

impl Cores {
    /// Numbers in all cores.
    pub fn parameters(&self) -> usize {
        self.cores.iter().map(Vec::len).sum()
    }

    /// The matrix that the cores represent, `[out, in]`.
    pub fn to_dense(&self) -> Vec<f32> {
        let (mut acc, mut rank) = (vec![1.0f64], 1);
        // acc: [(i1 j1 .. ik jk), r(k)]
        for (k, core) in self.cores.iter().enumerate() {
            let core: Vec<f64> = core.iter().map(|&x| f64::from(x)).collect();
            let (lead, tail) = (acc.len() / rank, core.len() / rank);
            acc = factor::multiply(&acc, &core, lead, rank, tail);
            rank = self.ranks[k + 1];
        }
        let [out, cols] = self.shape;
        let mut w = vec![0.0f32; out * cols];
        for_each_position(&self.out_modes, &self.in_modes, |at, i, j| {
            if i < out && j < cols {
                w[i * cols + j] = acc[at] as f32;
            }
        });
        w
    }
}

/// Decomposes `w: [out, in]`.
///
/// ```
/// use lstmc_passes::solve::tensor_train::{tensor_train, TensorTrainOptions, Truncation};
/// // A Kronecker product has rank 1.
/// let w = [1.0, 2.0, 10.0, 20.0, 3.0, 4.0, 30.0, 40.0];
/// let options = TensorTrainOptions {
///     out_modes: vec![2, 1],
///     in_modes: vec![2, 2],
///     truncation: Truncation::RelativeError(1e-6),
///     h: None,
///     row_weights: None,
/// };
/// let train = tensor_train(&w, [2, 4], &options).unwrap();
/// assert_eq!(train.ranks, [1, 2, 1]);
/// ```
pub fn tensor_train(
    w: &[f32],
    shape: [usize; 2],
    options: &TensorTrainOptions<'_>,
) -> Result<Cores, SolveError> {
    let [out, cols] = shape;
    let (out_modes, in_modes) = (&options.out_modes, &options.in_modes);
    expect_matrix("w", w, shape)?;
    check_modes(options, shape)?;
    let d = out_modes.len();
    let whitening = Whitening::new(options, shape)?;
    let whitened = whitening.apply(w, shape);
    let size: usize = out_modes.iter().chain(in_modes).product();
    let mut tensor = vec![0.0; size];
    for_each_position(out_modes, in_modes, |at, i, j| {
        if i < out && j < whitening.cols {
            tensor[at] = whitened[i * whitening.cols + j];
        }
    });
    debug_assert!(whitening.cols >= cols);
    let norm = factor::dot(&tensor, &tensor).sqrt();
    let cells: Vec<usize> = out_modes.iter().zip(in_modes).map(|(m, n)| m * n).collect();
    let ranks = match &options.truncation {
        Truncation::Ranks(ranks) => Some(ranks.clone()),
        Truncation::RelativeError(_) => None,
        Truncation::Parameters(budget) => Some(ranks_for_budget(&tensor, &cells, *budget)?),
    };
    // Each of the d - 1 truncations may drop an equal share of the squared error.
    let tolerance = match options.truncation {
        Truncation::RelativeError(e) => e * norm / ((d.max(2) - 1) as f64).sqrt(),
        _ => 0.0,
    };

    let mut cores = Vec::with_capacity(d);
    let mut all_ranks = vec![1];
    let (mut rest, mut rank, mut dropped) = (tensor, 1, 0.0);
    for k in 0..d - 1 {
        let (rows, columns) = (rank * cells[k], rest.len() / (rank * cells[k]));
        let svd = factor::thin_svd(&rest, rows, columns)?;
        let spectrum: Vec<f64> = svd.S().column_vector().iter().copied().collect();
        let next = match &ranks {
            Some(ranks) => ranks[k].clamp(1, spectrum.len()),
            None => rank_for_tail(&spectrum, tolerance),
        };
        dropped += factor::tail(&spectrum, next);
        let (u, v) = (svd.U(), svd.V());
        cores.push((0..rows * next).map(|x| u[(x / next, x % next)]).collect::<Vec<f64>>());
        rest = (0..next * columns).map(|x| spectrum[x / columns] * v[(x % columns, x / columns)]).collect();
        rank = next;
        all_ranks.push(rank);
    }
    cores.push(rest);
    all_ranks.push(1);
    whitening.undo(&mut cores, out_modes, in_modes, &all_ranks);
    balance(&mut cores);
    Ok(Cores {
        shape,
        out_modes: out_modes.clone(),
        in_modes: in_modes.clone(),
        ranks: all_ranks,
        cores: cores.into_iter().map(|c| c.into_iter().map(|x| x as f32).collect()).collect(),
        bound: dropped.sqrt(),
        norm,
    })
}

/// Calls `f(position in [m1 n1, m2 n2, ..], row, column)` for each cell of the padded matrix.
fn for_each_position(out_modes: &[usize], in_modes: &[usize], mut f: impl FnMut(usize, usize, usize)) {
    let size: usize = out_modes.iter().chain(in_modes).product();
    for at in 0..size {
        let (mut left, mut i, mut j, mut row_step, mut col_step) = (at, 0, 0, 1, 1);
        for (m, n) in out_modes.iter().zip(in_modes).rev() {
            let cell = left % (m * n);
            left /= m * n;
            i += cell / n * row_step;
            j += cell % n * col_step;
            row_step *= m;
            col_step *= n;
        }
        f(at, i, j);
    }
}

/// The smallest rank, at least 1, whose tail has a norm of at most `tolerance`.
fn rank_for_tail(spectrum: &[f64], tolerance: f64) -> usize {
    let mut sum = 0.0;
    let mut rank = spectrum.len();
    while rank > 1 {
        sum += spectrum[rank - 1].powi(2);
        if sum > tolerance * tolerance {
            break;
        }
        rank -= 1;
    }
    rank
}

/// Inner ranks for which the cores have at most `budget` numbers, from the spectra of the tensor's unfoldings.
///
/// The squared error is at most the sum over `k` of the tail of unfolding `k` at rank `r(k)`. One threshold for all tails is lowered as far as the budget allows;
/// the rest goes, rank by rank, to where the bound falls most per number.
fn ranks_for_budget(tensor: &[f64], cells: &[usize], budget: usize) -> Result<Vec<usize>, SolveError> {
    let inner = cells.len() - 1;
    let mut spectra = Vec::with_capacity(inner);
    let mut rows = 1;
    for cell in &cells[..inner] {
        rows *= cell;
        spectra.push(unfolding_spectrum(tensor, rows)?);
    }
    let parameters = |ranks: &[usize]| -> usize {
        let at = |k: usize| if k == 0 || k == cells.len() { 1 } else { ranks[k - 1] };
        cells.iter().enumerate().map(|(k, cell)| at(k) * cell * at(k + 1)).sum()
    };
    let for_tolerance =
        |t: f64| -> Vec<usize> { spectra.iter().map(|s: &Vec<f64>| rank_for_tail(s, t)).collect() };
    let least = vec![1; inner];
    if parameters(&least) > budget {
        return Err(SolveError::Option {
            option: "parameters",
            expected: format!("at least {}, the numbers of a chain of rank 1", parameters(&least)),
            found: budget.to_string(),
        });
    }
    let mut ranks = for_tolerance(0.0);
    if parameters(&ranks) > budget {
        let norm = factor::dot(tensor, tensor).sqrt();
        ranks = for_tolerance(bisect(norm, 100, |t| parameters(&for_tolerance(t)) <= budget));
    }
    climb(
        &mut ranks,
        budget as f64,
        |ranks| parameters(ranks) as f64,
        |k, rank| spectra[k].get(rank).map(|s| s * s),
    );
    Ok(ranks)
}

/// Singular values of the tensor as a matrix of `rows` rows, in descending order, from the eigenvalues of its smaller Gram matrix.
///
/// Small ones are lost in rounding (below `1e-8` of the largest), which is acceptable for choosing ranks.
fn unfolding_spectrum(tensor: &[f64], rows: usize) -> Result<Vec<f64>, SolveError> {
    let columns = tensor.len() / rows;
    let a = MatRef::from_row_major_slice(tensor, rows, columns);
    let gram = if rows <= columns { a * a.transpose() } else { a.transpose() * a };
    let mut values = gram
        .self_adjoint_eigenvalues(faer::Side::Lower)
        .map_err(|e| SolveError::Factorisation { what: "eigenvalues", why: format!("{e:?}") })?;
    values.reverse();
    Ok(values.into_iter().map(|x| x.max(0.0).sqrt()).collect())
}

/// Scales cores to the same root mean square without changing their product.
fn balance(cores: &mut [Vec<f64>]) {
    let sizes: Vec<f64> =
        cores.iter().map(|c| (c.iter().map(|x| x * x).sum::<f64>() / c.len().max(1) as f64).sqrt()).collect();
    if sizes.contains(&0.0) {
        return;
    }
    let mean = (sizes.iter().map(|s| s.ln()).sum::<f64>() / sizes.len() as f64).exp();
    for (core, size) in cores.iter_mut().zip(&sizes) {
        core.iter_mut().for_each(|x| *x *= mean / size);
    }
}

fn check_modes(options: &TensorTrainOptions<'_>, [out, cols]: [usize; 2]) -> Result<(), SolveError> {
    let (out_modes, in_modes) = (&options.out_modes, &options.in_modes);
    let wrong = |option, expected: String, found: String| Err(SolveError::Option { option, expected, found });
    if out_modes.is_empty() || out_modes.len() != in_modes.len() {
        let found = format!("{} and {}", out_modes.len(), in_modes.len());
        return wrong("modes", "as many output as input modes, at least one".into(), found);
    }
    for (option, modes, size) in [("out_modes", out_modes, out), ("in_modes", in_modes, cols)] {
        let product = modes.iter().try_fold(1usize, |p, &m| p.checked_mul(m));
        if product.is_none_or(|p| p < size || p > 4 * size.max(1)) {
            return wrong(
                option,
                format!("a product of at least {size} and not over four times as much"),
                format!("{modes:?}"),
            );
        }
    }
    match &options.truncation {
        Truncation::Ranks(ranks) if ranks.len() + 1 != out_modes.len() || ranks.contains(&0) => {
            wrong("ranks", format!("{} positive numbers", out_modes.len() - 1), format!("{ranks:?}"))
        }
        Truncation::RelativeError(e) if !(0.0..=1.0).contains(e) => {
            wrong("relative error", "a number from 0 to 1".into(), e.to_string())
        }
        _ => Ok(()),
    }
}

/// One lower-triangular factor per input mode and one vector per output mode.
struct Whitening {
    cols: usize,                  // columns once padded to the product of the input modes
    roots: Option<Vec<Vec<f64>>>, // [nk, nk] each, L of Hk = L L^T
    rows: Option<Vec<Vec<f64>>>,  // [mk] each, root of a weight
}

impl Whitening {
    fn new(options: &TensorTrainOptions<'_>, [out, cols]: [usize; 2]) -> Result<Whitening, SolveError> {
        let padded: usize = options.in_modes.iter().product();
        let root = |h: &Hessian| -> Result<Vec<_>, SolveError> {
            h.expect_size(cols)?;
            let parts = partial_traces(h, &options.in_modes);
            parts.iter().zip(&options.in_modes).map(|(p, &n)| factor::cholesky(p, n)).collect()
        };
        let roots = options.h.map(root).transpose()?;
        let rows = options.row_weights.map(|r| floored(r, out)).transpose()?;
        let rows = rows.map(|r| digit_weights(&r, &options.out_modes));
        Ok(Whitening { cols: padded, roots, rows })
    }

    /// `D W S`, `[out, padded cols]`.
    fn apply(&self, w: &[f32], [out, cols]: [usize; 2]) -> Vec<f64> {
        let mut a = vec![0.0; out * self.cols];
        for (to, from) in a.chunks_mut(self.cols.max(1)).zip(w.chunks(cols.max(1))) {
            to.iter_mut().zip(from).for_each(|(a, &w)| *a = f64::from(w));
        }
        if let Some(rows) = &self.rows {
            for (i, row) in a.chunks_mut(self.cols.max(1)).enumerate() {
                let mut left = i;
                for digit in rows.iter().rev() {
                    row.iter_mut().for_each(|x| *x *= digit[left % digit.len()]);
                    left /= digit.len();
                }
            }
        }
        let mut after = 1;
        for root in self.roots.iter().flatten().rev() {
            let n = (root.len() as f64).sqrt() as usize;
            // Digits of this mode are `after` apart: x'[.., q, ..] = sum over p of x[.., p, ..] L[p, q].
            for chunk in a.chunks_mut(n * after) {
                let mut next = vec![0.0; chunk.len()];
                for p in 0..n {
                    for q in 0..=p {
                        let from = &chunk[p * after..(p + 1) * after];
                        factor::add_scaled(&mut next[q * after..(q + 1) * after], root[p * n + q], from);
                    }
                }
                chunk.copy_from_slice(&next);
            }
            after *= n;
        }
        a
    }

    /// Undoes [`apply`](Self::apply) core by core.
    fn undo(&self, cores: &mut [Vec<f64>], out_modes: &[usize], in_modes: &[usize], ranks: &[usize]) {
        for (k, core) in cores.iter_mut().enumerate() {
            let (m, n, r) = (out_modes[k], in_modes[k], ranks[k + 1]);
            for (x, block) in core.chunks_mut(n * r).enumerate() {
                // block: [n, r] for one (a, i)
                if let Some(rows) = &self.rows {
                    block.iter_mut().for_each(|v| *v /= rows[k][x % m]);
                }
                if let Some(roots) = &self.roots {
                    // Solve y L = block over the first index, from the last row of L up.
                    let l = &roots[k];
                    for q in (0..n).rev() {
                        let (before, here) = block.split_at_mut(q * r);
                        let here = &mut here[..r];
                        here.iter_mut().for_each(|v| *v /= l[q * n + q]);
                        for p in 0..q {
                            factor::add_scaled(&mut before[p * r..(p + 1) * r], -l[q * n + p], here);
                        }
                    }
                }
            }
        }
    }
}

/// `Hk[p, q] = sum over the other digits of H[(.., p, ..), (.., q, ..)]`, each of trace `nk`; a padded column has the mean diagonal.
fn partial_traces(h: &Hessian, in_modes: &[usize]) -> Vec<Vec<f64>> {
    let (n, padded) = (h.size(), in_modes.iter().product::<usize>());
    let mean = h.diagonal_values().iter().sum::<f64>() / n.max(1) as f64;
    let at = |i: usize, j: usize| match (i < n, j < n) {
        (true, true) => h.as_slice()[i * n + j],
        _ if i == j => mean,
        _ => 0.0,
    };
    // A mode that holds all of the input keeps the scale of H itself.
    let whole = in_modes.iter().position(|&m| m == padded);
    let mut after = padded;
    in_modes
        .iter()
        .enumerate()
        .map(|(k, &m)| {
            after /= m;
            let mut part = vec![0.0; m * m];
            for high in 0..padded / (m * after) {
                for low in 0..after {
                    for p in 0..m {
                        for q in 0..m {
                            let of = |digit| (high * m + digit) * after + low;
                            part[p * m + q] += at(of(p), of(q));
                        }
                    }
                }
            }
            let trace = (0..m).map(|p| part[p * m + p]).sum::<f64>();
            let scale = if Some(k) == whole { 1.0 } else { m as f64 / trace };
            part.iter_mut().for_each(|x| *x *= scale);
            part
        })
        .collect()
}

/// Roots of weights per digit, `r_i ~ product over k of weights[k][ik]^2`, by least squares of logarithms.
fn digit_weights(r: &[f64], out_modes: &[usize]) -> Vec<Vec<f64>> {
    let logs: Vec<f64> = r.iter().map(|x| x.ln()).collect();
    let mean = logs.iter().sum::<f64>() / logs.len().max(1) as f64;
    let d = out_modes.len() as f64;
    let mut after: usize = out_modes.iter().product();
    out_modes
        .iter()
        .map(|&m| {
            after /= m;
            let (mut sums, mut counts) = (vec![0.0; m], vec![0usize; m]);
            for (i, log) in logs.iter().enumerate() {
                sums[i / after % m] += log;
                counts[i / after % m] += 1;
            }
            let effect = |(s, c): (&f64, &usize)| if *c > 0 { s / *c as f64 - mean } else { 0.0 };
            sums.iter().zip(&counts).map(|x| ((effect(x) + mean / d) / 2.0).exp()).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests;
