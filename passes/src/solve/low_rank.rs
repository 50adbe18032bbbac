//! `W ~ left . right`, optimal for the calibration inputs.
//!
//! With `H = S S^T` (Cholesky) and row weights `D = diag(r)`, the weighted output error of any `V` is `|D^(1/2) (W - V) S|_F^2`. So the best `V` of rank `k` is the
//! truncated SVD of `A = D^(1/2) W S`, with `D` and `S` undone, and its error is exactly the sum of the squares of the singular values that were
//! dropped (Eckart and Young 1936; for layers: Wang et al. 2025, "SVD-LLM", theorem 3.2). Hence a map's [`spectrum`](Whitened::spectrum) is its
//! whole curve of error by rank: [`rank_choices`], which [`allocate`](super::allocate::allocate) trades between maps.
//!
//! An LSTM cell whose input and recurrent maps share a left factor is one matrix `[input recurrent]` here; the right factor splits by columns.

use super::allocate::Choice;
use super::{Hessian, SolveError, expect_matrix, factor, floored};
use faer::Mat;

/// The singular value decomposition of a whitened matrix, which gives the factors of every rank.
#[derive(Clone, Debug)]
pub struct Whitened {
    shape: [usize; 2],
    u: Mat<f64>,            // [out, k], k = min(out, in)
    v: Mat<f64>,            // [in, k]
    spectrum: Vec<f64>,     // [k], falling
    root: Option<Vec<f64>>, // [in, in], L of H = L L^T; none: identity
    rows: Option<Vec<f64>>, // [out], sqrt of the row weights
}

/// Two factors and what they cost.
#[derive(Clone, PartialEq, Debug)]
pub struct Factors {
    /// The inner dimension.
    pub rank: usize,
    /// `[out, rank]`.
    pub left: Vec<f32>,
    /// `[rank, in]`.
    pub right: Vec<f32>,
    /// Weighted squared output error: the sum of the squares of the singular values dropped.
    pub error: f64,
}

impl Factors {
    /// `left . right`, `[out, in]`.
    pub fn to_dense(&self) -> Vec<f32> {
        if self.rank == 0 {
            return vec![];
        }
        let (out, cols) = (self.left.len() / self.rank, self.right.len() / self.rank);
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let product = factor::multiply(&wide(&self.left), &wide(&self.right), out, self.rank, cols);
        product.into_iter().map(|x| x as f32).collect()
    }
}

impl Whitened {
    /// Decomposes `w: [out, in]`.
    ///
    /// `h`: second moment of the inputs (`None`: plain SVD). `row_weights: [out]`: how much an error of each row counts, for example word counts for
    /// an embedding or an output layer; weights below a millionth of the largest are raised to it, so that every row can be recovered.
    pub fn new(
        w: &[f32],
        shape: [usize; 2],
        h: Option<&Hessian>,
        row_weights: Option<&[f64]>,
    ) -> Result<Whitened, SolveError> {
        let [out, cols] = shape;
        expect_matrix("w", w, shape)?;
        h.map_or(Ok(()), |h| h.expect_size(cols))?;
        let rows = row_weights.map(|r| floored(r, out)).transpose()?;
        let rows = rows.map(|r| r.iter().map(|x| x.sqrt()).collect::<Vec<f64>>());
        let root = h.map(|h| factor::cholesky(h.as_slice(), cols)).transpose()?;
        let scale = |k: usize| rows.as_ref().map_or(1.0, |r| r[k / cols]);
        let mut a: Vec<f64> = w.iter().enumerate().map(|(k, &x)| f64::from(x) * scale(k)).collect();
        if let Some(root) = &root {
            a = factor::multiply(&a, root, out, cols, cols);
        }
        let svd = factor::thin_svd(&a, out, cols)?;
        let spectrum = svd.S().column_vector().iter().copied().collect();
        Ok(Whitened { shape, u: svd.U().to_owned(), v: svd.V().to_owned(), spectrum, root, rows })
    }

    /// `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Singular values of the whitened matrix, in descending order.
    pub fn spectrum(&self) -> &[f64] {
        &self.spectrum
    }

    /// The weighted error of a rank.
    pub fn error(&self, rank: usize) -> f64 {
        factor::tail(&self.spectrum, rank)
    }

    /// The smallest rank that keeps the fraction `energy` of the sum of squares.
    pub fn rank_for_energy(&self, energy: f64) -> usize {
        let total = self.error(0);
        (0..=self.spectrum.len())
            .find(|&k| self.error(k) <= (1.0 - energy.clamp(0.0, 1.0)) * total)
            .unwrap_or(self.spectrum.len())
    }

    /// The best factors of a rank (at most `min(out, in)`), of balanced norms.
    ///
    /// In whitened coordinates both factors have the columns `sqrt(s_k)` times a singular vector. After `D` and `S` are undone, each pair is scaled so that `left[:, k]` and
    /// `right[k, :]` have the same root mean square, which suits codes with one scale per row as well as per group.
    pub fn factors(&self, rank: usize) -> Factors {
        let [out, cols] = self.shape;
        let rank = rank.min(self.spectrum.len());
        let mut left = vec![0.0; out * rank];
        for (i, row) in left.chunks_mut(rank.max(1)).enumerate() {
            for (k, x) in row.iter_mut().enumerate() {
                *x = self.u[(i, k)] * self.spectrum[k] / self.rows.as_ref().map_or(1.0, |r| r[i]);
            }
        }
        let mut right = vec![0.0; rank * cols];
        for (k, row) in right.chunks_mut(cols.max(1)).enumerate() {
            row.iter_mut().enumerate().for_each(|(j, x)| *x = self.v[(j, k)]);
        }
        if let Some(root) = &self.root {
            factor::undo_right(&mut right, root, rank, cols);
        }
        for k in 0..rank {
            let l = (left.iter().skip(k).step_by(rank).map(|x| x * x).sum::<f64>() / out as f64).sqrt();
            let r = (right[k * cols..(k + 1) * cols].iter().map(|x| x * x).sum::<f64>() / cols as f64).sqrt();
            if l > 0.0 && r > 0.0 {
                let balance = (r / l).sqrt();
                left.iter_mut().skip(k).step_by(rank).for_each(|x| *x *= balance);
                right[k * cols..(k + 1) * cols].iter_mut().for_each(|x| *x /= balance);
            }
        }
        let narrow = |x: Vec<f64>| x.into_iter().map(|x| x as f32).collect();
        Factors { rank, left: narrow(left), right: narrow(right), error: self.error(rank) }
    }
}

/// The choices of a map: whole, for `dense` and at no error, if that is an option; then rank 1, rank 2 and so on, each for `unit` more. Errors are
/// those of the spectrum times `weight`, the cost of a unit in loss.
pub fn rank_choices(spectrum: &[f64], weight: f64, unit: f64, dense: Option<f64>) -> Vec<Choice> {
    let mut tails = vec![0.0];
    for s in spectrum.iter().rev() {
        tails.push(tails[tails.len() - 1] + s * s);
    }
    let ranked = tails.iter().rev().enumerate().skip(1);
    let whole = dense.map(|size| Choice { size, error: 0.0 });
    whole
        .into_iter()
        .chain(ranked.map(|(k, e)| Choice { size: k as f64 * unit, error: e * weight }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::solve::allocate::allocate;
    use crate::solve::row_errors;
    use proptest::prelude::*;

    fn case() -> impl Strategy<Value = ([usize; 2], Vec<f32>, Hessian, Vec<f64>)> {
        (1usize..12, 1usize..10).prop_flat_map(|(rows, cols)| {
            let matrix = |n| proptest::collection::vec(-1.0f32..1.0, n);
            (matrix(rows * cols), matrix(2 * cols * cols), proptest::collection::vec(0.1f64..10.0, rows))
                .prop_map(move |(w, x, r)| {
                    let h = Hessian::of_reader(&x, cols, 0.01).unwrap();
                    ([rows, cols], w, h, r)
                })
        })
    }

    proptest! {
        #[test]
        fn the_error_is_that_of_the_dropped_singular_values(
            (shape, w, h, r) in case(), rank in 1usize..10, whiten in any::<bool>(), weigh in any::<bool>(),
        ) {
            let h = whiten.then_some(&h);
            let svd = Whitened::new(&w, shape, h, weigh.then_some(&r[..])).unwrap();
            let factors = svd.factors(rank);
            let errors = row_errors(&w, &factors.to_dense(), shape, h).unwrap();
            let error: f64 = errors.iter().zip(&r).map(|(e, r)| if weigh { e * r } else { *e }).sum();
            let dropped: f64 = svd.spectrum().iter().skip(rank).map(|s| s * s).sum();
            // f32 factors: an error of eps |W| per row at most, against the whole.
            prop_assert!((error - dropped).abs() <= 1e-5 * svd.error(0), "{error} {dropped}");
            prop_assert_eq!(factors.error, svd.error(rank));
        }

        #[test]
        fn whitening_is_at_least_as_good_as_plain((shape, w, h, _) in case(), rank in 1usize..10) {
            let error = |h_used| {
                let v = Whitened::new(&w, shape, h_used, None).unwrap().factors(rank).to_dense();
                row_errors(&w, &v, shape, Some(&h)).unwrap().iter().sum::<f64>()
            };
            prop_assert!(error(Some(&h)) <= error(None) * (1.0 + 1e-4) + 1e-5);
        }

        #[test]
        fn allocation_keeps_the_budget_and_beats_uniform_ranks(
            a in proptest::collection::vec(0.01f64..10.0, 8), b in proptest::collection::vec(0.01f64..1.0, 8), uniform in 1usize..8,
        ) {
            let falling = |mut s: Vec<f64>| { s.sort_by(|x, y| y.total_cmp(x)); s };
            let (a, b) = (falling(a), falling(b));
            let maps = [&a, &b].map(|spectrum| rank_choices(spectrum, 1.0, 16.0, None));
            let budget = 2.0 * 16.0 * uniform as f64;
            let chosen = allocate(&maps, budget).unwrap();
            let [x, y] = [chosen[0] + 1, chosen[1] + 1];
            prop_assert!((x + y) as f64 * 16.0 <= budget);
            let error = |x: usize, y: usize| a[x..].iter().chain(&b[y..]).map(|s| s * s).sum::<f64>();
            prop_assert!(error(x, y) <= error(uniform, uniform) * (1.0 + 1e-9));
        }
    }

    #[test]
    fn choices_are_those_of_the_spectrum() {
        let found = rank_choices(&[4.0, 1.0], 2.0, 10.0, Some(15.0));
        let expected = [(15.0, 0.0), (10.0, 2.0), (20.0, 0.0)];
        assert_eq!(found.iter().map(|c| (c.size, c.error)).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn energy_picks_the_least_rank() {
        let svd = Whitened::new(&[3.0, 0.0, 0.0, 4.0], [2, 2], None, None).unwrap();
        assert_eq!([0.0, 0.6, 0.64, 0.7, 1.0].map(|e| svd.rank_for_energy(e)), [0, 1, 1, 2, 2]);
    }
}
