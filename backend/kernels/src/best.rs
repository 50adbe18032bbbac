//! The best few of a row of logits.
//!
//! A row is scanned in blocks, and a block is examined in detail only if it holds something larger than the least that is kept: after the first
//! blocks, this is rare.

use crate::level::{Level, Set};
use crate::softmax::{Sums, log_sum_exp_of};
use crate::vector::{Vector, with_vectors};

/// Vectors per block.
const BLOCK: usize = 4;

/// Logits that are scanned and then summed while they are in the L1 cache.
const PIECE: usize = 1024;

/// Fills `ids` and `log_probabilities` with the best words of a row of logits, best first, ties in order of id.
///
/// # Panics
/// Unless both have the same length, from 1 to that of the row.
pub fn top_k(level: Level, row: &[f32], ids: &mut [u32], log_probabilities: &mut [f32]) {
    assert_eq!(ids.len(), log_probabilities.len(), "as many ids as log-probabilities");
    assert!((1..=row.len()).contains(&ids.len()), "{} best words of {}", ids.len(), row.len());
    log_probabilities.fill(f32::NEG_INFINITY);
    ids.fill(0);
    let mut sums = [Sums::NOTHING];
    for (n, piece) in row.chunks(PIECE).enumerate() {
        select(level, piece, n * PIECE, log_probabilities, ids);
        Sums::add_rows(level, piece, piece.len(), piece.len(), &mut sums);
    }
    let total = log_sum_exp_of(&sums.map(|s| s.total()));
    log_probabilities.iter_mut().for_each(|x| *x -= total);
}

/// Inserts elements larger than the least of `values`, which are in descending order, and their ids in `ids`: `first` plus the index in the row.
fn select(level: Level, row: &[f32], first: usize, values: &mut [f32], ids: &mut [u32]) {
    // SAFETY: nothing but instructions is required.
    unsafe {
        with_vectors!(
            level,
            "avx512f",
            insert(row, first, values, ids),
            select_of(row: &[f32] = row, first: usize = first, values: &mut [f32] = values, ids: &mut [u32] = ids)
        )
    }
}

/// The reference implementation of [`select_of`], and its fallback for a block that matters; the first element's id is `first`.
fn insert(block: &[f32], first: usize, values: &mut [f32], ids: &mut [u32]) {
    let last = values.len() - 1;
    for (i, &x) in block.iter().enumerate() {
        if x > values[last] {
            let mut at = last;
            while at > 0 && x > values[at - 1] {
                (values[at], ids[at]) = (values[at - 1], ids[at - 1]);
                at -= 1;
            }
            (values[at], ids[at]) = (x, (first + i) as u32);
        }
    }
}

/// The lanewise maximum of the elements of a block that are not NaN.
///
/// # Safety
/// The processor has the instructions, and a block can be read.
#[inline(always)]
unsafe fn maximum<V: Vector>(block: *const f32) -> V {
    // SAFETY: the caller has the instructions, and a block is `BLOCK` vectors.
    unsafe { (0..BLOCK).fold(V::splat(f32::NEG_INFINITY), |m, v| V::load(block.add(v * V::LANES)).max(m)) }
}

/// # Safety
/// The processor has the instructions.
#[inline(always)]
unsafe fn select_of<V: Vector>(row: &[f32], mut first: usize, values: &mut [f32], ids: &mut [u32]) {
    for block in row.chunks(BLOCK * V::LANES) {
        let last = values[values.len() - 1];
        // SAFETY: only whole blocks are read as blocks; the caller has the instructions.
        let matters = block.len() < BLOCK * V::LANES
            || unsafe { maximum::<V>(block.as_ptr()).any_above(V::splat(last)) };
        if matters {
            insert(block, first, values, ids);
        }
        first += block.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]
        #[test]
        fn every_level_selects_what_sorting_does(
            // Few values, so that some are equal.
            row in proptest::collection::vec((-40i8..40).prop_map(f32::from), 1..400),
            k in 1usize..12,
        ) {
            let k = k.min(row.len());
            let mut order: Vec<u32> = (0..row.len() as u32).collect();
            order.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]).then(a.cmp(&b)));
            for level in Level::all() {
                let (mut values, mut ids) = (vec![f32::NEG_INFINITY; k], vec![0; k]);
                select(level, &row, 0, &mut values, &mut ids);
                prop_assert_eq!(&ids, &order[..k]);
                prop_assert!(ids.iter().zip(&values).all(|(&id, &x)| row[id as usize] == x));
            }
        }
    }

    #[test]
    fn numbers_that_are_not_are_never_the_best() {
        let mut row = vec![f32::NAN; 200];
        (row[70], row[150]) = (-2.0, 3.0);
        for level in Level::all() {
            let (mut values, mut ids) = ([f32::NEG_INFINITY; 2], [0; 2]);
            select(level, &row, 0, &mut values, &mut ids);
            assert_eq!((values, ids), ([3.0, -2.0], [150, 70]));
        }
    }
}
