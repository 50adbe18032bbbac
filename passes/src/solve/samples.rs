//! Matrices and inputs for the solvers' tests.

use super::Hessian;

/// Numbers in `[-1, 1)`, the same for the same seed.
pub(super) fn numbers(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// A matrix `[rows, cols]`, and inputs that share a component, three times as large as what each has alone: an error of one column is one that the others can take.
pub(super) fn correlated([rows, cols]: [usize; 2], next: &mut impl FnMut() -> f32) -> (Vec<f32>, Hessian) {
    let w = (0..rows * cols).map(|_| next()).collect();
    let mut x = vec![];
    for _ in 0..200 {
        let common = next() * 3.0;
        x.extend((0..cols).map(|_| common + next()));
    }
    (w, Hessian::of_reader(&x, cols, 0.01).unwrap())
}
