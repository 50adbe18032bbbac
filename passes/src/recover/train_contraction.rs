//! The matrix of a tensor train from its cores, and the gradients of the cores from that of the matrix.
//!
//! With `A: [rows cols, r]` of the cores so far, a core as stored is `G: [r, m n r']`, so a step is one product and a reordering:
//! `P = A G`, `A'[(i, im), (j, jn), b] = P[(i, j), (im, jn, b)]`.

use super::number::{Number, View};
use lstmc_frontend::ir::TensorTrain;

/// Modes and ranks of a tensor train.
#[derive(Clone, Debug)]
pub(super) struct Contraction {
    shape: [usize; 2],
    out_modes: Vec<usize>,
    in_modes: Vec<usize>,
    ranks: Vec<usize>,
}

/// One step: the size so far, and the core's sizes.
#[derive(Clone, Copy)]
struct Step {
    rows: usize,
    cols: usize,
    rank: usize,
    m: usize,
    n: usize,
    next: usize,
}

impl Step {
    /// Calls `f` with the position of each vector of `next` elements in the product and in its reordered form.
    fn reorder(self, mut f: impl FnMut(usize, usize)) {
        let Step { rows, cols, m, n, next, .. } = self;
        for i in 0..rows {
            for j in 0..cols {
                for im in 0..m {
                    for jn in 0..n {
                        let from = ((i * cols + j) * m + im) * n + jn;
                        let to = ((i * m + im) * cols + j) * n + jn;
                        f(from * next, to * next);
                    }
                }
            }
        }
    }

    fn before(self) -> usize {
        self.rows * self.cols
    }

    fn width(self) -> usize {
        self.m * self.n * self.next
    }
}

impl Contraction {
    pub(super) fn of(t: &TensorTrain) -> Contraction {
        Contraction {
            shape: t.shape(),
            out_modes: t.out_modes().to_vec(),
            in_modes: t.in_modes().to_vec(),
            ranks: t.ranks(),
        }
    }

    fn steps(&self) -> impl DoubleEndedIterator<Item = Step> {
        (0..self.out_modes.len()).map(|k| Step {
            rows: self.out_modes[..k].iter().product(),
            cols: self.in_modes[..k].iter().product(),
            rank: self.ranks[k],
            m: self.out_modes[k],
            n: self.in_modes[k],
            next: self.ranks[k + 1],
        })
    }

    /// Columns before cutting.
    fn whole_cols(&self) -> usize {
        self.in_modes.iter().product()
    }

    /// The product to the left of each core, and last the whole matrix.
    fn partial<T: Number>(&self, cores: &[Vec<T>]) -> Vec<Vec<T>> {
        let mut all = vec![vec![T::of(1.0)]];
        for (step, core) in self.steps().zip(cores) {
            let mut product = vec![T::of(0.0); step.before() * step.width()];
            let a = View::new(&all[all.len() - 1], step.before(), step.rank);
            a.times(View::new(core, step.rank, step.width()), &mut product);
            let mut next = vec![T::of(0.0); product.len()];
            step.reorder(|from, to| {
                next[to..to + step.next].copy_from_slice(&product[from..from + step.next]);
            });
            all.push(next);
        }
        all
    }

    /// The matrix, row-major.
    pub(super) fn contract<T: Number>(&self, cores: &[Vec<T>]) -> Vec<T> {
        let whole = self.partial(cores).pop().unwrap_or_default();
        let rows = whole.chunks_exact(self.whole_cols()).take(self.shape[0]);
        rows.flat_map(|r| &r[..self.shape[1]]).copied().collect()
    }

    /// The gradients of the cores, given that of the matrix.
    pub(super) fn gradients<T: Number>(&self, cores: &[Vec<T>], of_matrix: &[T]) -> Vec<Vec<T>> {
        let all = self.partial(cores);
        let mut d = vec![T::of(0.0); all[all.len() - 1].len()];
        for (to, from) in d.chunks_exact_mut(self.whole_cols()).zip(of_matrix.chunks_exact(self.shape[1])) {
            to[..self.shape[1]].copy_from_slice(from);
        }
        let mut out = vec![];
        for (k, step) in self.steps().enumerate().collect::<Vec<_>>().into_iter().rev() {
            let mut of_product = vec![T::of(0.0); d.len()];
            step.reorder(|from, to| {
                of_product[from..from + step.next].copy_from_slice(&d[to..to + step.next])
            });
            let of_product = View::new(&of_product, step.before(), step.width());
            let mut of_core = vec![T::of(0.0); cores[k].len()];
            View::new(&all[k], step.before(), step.rank).transposed().times(of_product, &mut of_core);
            out.push(of_core);
            d = vec![T::of(0.0); all[k].len()];
            let core = View::new(&cores[k], step.rank, step.width());
            of_product.times(core.transposed(), &mut d);
        }
        out.reverse();
        out
    }
}
