//! Distributing a budget over weights, in bytes or another unit of size.
//!
//! A weight has a curve: a list of possible choices, each with its size and its error. Errors of different weights add up, so they must be in one
//! unit, preferably that of the loss.
//!
//! | function | for |
//! |---|---|
//! | [`allocate`] | curves whose choices are independent; any order, convex or not |
//! | [`descend`] | measured curves whose steps can be taken in part |
//! | `bisect`, `climb` | the parts of [`allocate`], for choices whose sizes depend on each other |

/// One choice for a weight.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Choice {
    /// Its size in the budget's unit: bytes, or numbers.
    pub size: f64,
    /// Its cost in loss.
    pub error: f64,
}

/// The choice of each curve, as an index, for the smallest sum of errors with a total size of at most `budget`; `None` if even the smallest choices
/// exceed it.
///
/// Bisection on the price of a unit of size: at a price, each weight takes the choice that minimises `error + price * size` (the Lagrangian relaxation;
/// Everett 1963, theorem 1), the first of equals. The rest of the budget is spent greedily: on the *next* choice of the list that lowers the error most
/// per unit and fits. A list whose errors are convex in its size should be in ascending order, so that this loses less than one step.
///
/// ```
/// use lstmc_passes::solve::allocate::{Choice, allocate};
/// let curve = |errors: [f64; 3]| -> Vec<Choice> {
///     errors.iter().zip([1.0, 2.0, 3.0]).map(|(&error, size)| Choice { size, error }).collect()
/// };
/// assert_eq!(allocate(&[curve([9.0, 2.0, 1.0]), curve([5.0, 3.5, 3.0])], 4.0), Some(vec![1, 1]));
/// assert_eq!(allocate(&[curve([9.0, 2.0, 1.0])], 0.5), None);
/// ```
pub fn allocate(curves: &[Vec<Choice>], budget: f64) -> Option<Vec<usize>> {
    let smallest = |curve: &Vec<Choice>| curve.iter().fold(f64::INFINITY, |least, c| least.min(c.size));
    let least: f64 = curves.iter().map(smallest).sum();
    if budget.is_nan() || budget < least {
        return None;
    }
    let at_price = |price: f64| -> Vec<usize> {
        let value = |c: &Choice| c.error + price * c.size;
        let best = |curve: &Vec<Choice>| {
            (1..curve.len()).fold(0, |b, k| if value(&curve[k]) < value(&curve[b]) { k } else { b })
        };
        curves.iter().map(best).collect()
    };
    let total = |chosen: &[usize]| size(curves, chosen);
    let mut chosen = at_price(0.0);
    if total(&chosen) > budget {
        let fits = |price: f64| total(&at_price(price)) <= budget;
        let mut high = 1.0;
        while !fits(high) && high < 1e300 {
            high *= 4.0;
        }
        chosen = at_price(bisect(high, 200, fits));
    }
    climb(&mut chosen, budget, total, |k, choice| {
        Some(curves[k][choice].error - curves[k].get(choice + 1)?.error)
    });
    Some(chosen)
}

/// The result of [`descend`].
#[derive(Clone, PartialEq, Debug)]
pub struct Descent {
    /// The choice of each curve.
    pub choices: Vec<usize>,
    /// The curve of the last step, and the size that the step freed beyond what was needed.
    pub last: Option<(usize, f64)>,
}

/// Descends from the first choice of each curve, which is the largest, until the total is at most `budget`: of all next steps, the one that adds least
/// error per unit, the first of equals. `None` if all curves end before that.
///
/// Unlike [`allocate`] it takes no step over a hump, so it relies on a measured curve only up to the current choice; and the last step can be taken
/// in part.
pub fn descend(curves: &[Vec<Choice>], budget: f64) -> Option<Descent> {
    let mut choices = vec![0; curves.len()];
    let mut over = size(curves, &choices) - budget;
    let mut last = None;
    while over > 0.0 {
        let step = |k: usize| {
            let (now, next) = (curves[k][choices[k]], curves[k].get(choices[k] + 1)?);
            let freed = now.size - next.size;
            Some((k, freed, (next.error - now.error) / freed))
        };
        let (k, freed, _) = (0..curves.len()).filter_map(step).min_by(|a, b| a.2.total_cmp(&b.2))?;
        choices[k] += 1;
        over -= freed;
        last = Some((k, -over));
    }
    Some(Descent { choices, last })
}

/// The size of a choice of each curve.
fn size(curves: &[Vec<Choice>], chosen: &[usize]) -> f64 {
    curves.iter().zip(chosen).map(|(curve, &k)| curve[k].size).sum()
}

/// The smallest price up to `high` that fits; `high` must fit, and so must every price above one that fits.
pub(super) fn bisect(mut high: f64, rounds: usize, fits: impl Fn(f64) -> bool) -> f64 {
    let mut low = 0.0;
    for _ in 0..rounds {
        let middle = 0.5 * (low + high);
        if fits(middle) { high = middle } else { low = middle }
    }
    high
}

/// Raises choices one by one while the budget allows: of those whose next choice fits, the one that lowers the error most per unit. `size` is that
/// of all choices together; `fall` returns how much lower the error is after a choice of a curve; `None` after the last.
pub(super) fn climb(
    chosen: &mut [usize],
    budget: f64,
    size: impl Fn(&[usize]) -> f64,
    fall: impl Fn(usize, usize) -> Option<f64>,
) {
    loop {
        let now = size(chosen);
        let mut best: Option<(f64, usize)> = None;
        for k in 0..chosen.len() {
            let Some(fall) = fall(k, chosen[k]).filter(|&fall| fall > 0.0) else { continue };
            chosen[k] += 1;
            let more = size(chosen);
            chosen[k] -= 1;
            let gain = fall / (more - now);
            if more <= budget && best.is_none_or(|(most, _)| gain > most) {
                best = Some((gain, k));
            }
        }
        match best {
            Some((_, k)) => chosen[k] += 1,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn curve(points: &[(f64, f64)]) -> Vec<Choice> {
        points.iter().map(|&(size, error)| Choice { size, error }).collect()
    }

    proptest! {
        /// Against all choices of three curves: within the budget, and no more than one step from the best.
        #[test]
        fn allocations_keep_the_budget_and_are_near_the_best(
            falls in proptest::collection::vec(proptest::collection::vec(0.0f64..10.0, 4), 3), budget in 3.0f64..15.0,
        ) {
            let curves: Vec<Vec<Choice>> = falls.iter().map(|falls| {
                let mut falls = falls.clone();
                falls.sort_by(|a, b| b.total_cmp(a));
                let error = |k: usize| falls[k..].iter().sum::<f64>();
                (0..=4).map(|k| Choice { size: 1.0 + k as f64, error: error(k) }).collect()
            }).collect();
            let error = |chosen: &[usize]| curves.iter().zip(chosen).map(|(c, &k)| c[k].error).sum::<f64>();
            let found = allocate(&curves, budget).unwrap();
            prop_assert!(size(&curves, &found) <= budget);
            let all = (0..125).map(|n| [n % 5, n / 5 % 5, n / 25]).filter(|c| size(&curves, c) <= budget);
            let best = all.map(|c| error(&c)).fold(f64::INFINITY, f64::min);
            prop_assert!(error(&found) <= best + 1e-9, "steps of one byte, convex: {} {best}", error(&found));
        }
    }

    #[test]
    fn a_choice_without_error_is_taken_where_it_is_cheapest() {
        // Whole, or in ranks of 104 and of 4.
        let steep = curve(&[(400.0, 0.0), (104.0, 1.0101), (208.0, 0.0101), (312.0, 0.0001), (416.0, 0.0)]);
        let flat = curve(&[(4.0, 0.0), (4.0, 1.0), (8.0, 0.0)]);
        assert_eq!(allocate(&[steep.clone(), flat.clone()], 220.0), Some(vec![2, 0]));
        assert_eq!(allocate(&[steep, flat], 100.0), None);
    }

    #[test]
    fn the_last_step_down_says_what_it_frees_too_much() {
        let curves = [curve(&[(10.0, 0.0), (6.0, 1.0), (2.0, 3.0)]), curve(&[(10.0, 0.0), (5.0, 2.0)])];
        assert_eq!(descend(&curves, 20.0), Some(Descent { choices: vec![0, 0], last: None }));
        assert_eq!(descend(&curves, 12.0), Some(Descent { choices: vec![1, 1], last: Some((1, 1.0)) }));
        assert_eq!(descend(&curves, 6.9), None);
    }
}
