use super::*;
use crate::solve::row_errors;
use crate::solve::samples::numbers;
use proptest::prelude::*;

fn case() -> impl Strategy<Value = ([usize; 2], Vec<f32>, Hessian)> {
    (1usize..9, 1usize..13).prop_flat_map(|(rows, cols)| {
        let matrix = |n| proptest::collection::vec(-1.0f32..1.0, n);
        (matrix(rows * cols), matrix(2 * cols * cols)).prop_map(move |(w, x)| {
            let h = Hessian::of_reader(&x, cols, 0.01).unwrap();
            ([rows, cols], w, h)
        })
    })
}

fn pattern() -> impl Strategy<Value = Pattern> {
    prop_oneof![
        (1usize..5, 1usize..5).prop_map(|(rows, cols)| Pattern::Block { rows, cols }),
        (1usize..3, 0usize..4).prop_map(|(n, more)| Pattern::NOfM { n, m: n + more }),
    ]
}

fn zero_fill(w: &[f32], keep: &[bool]) -> Vec<f32> {
    w.iter().zip(keep).map(|(&x, &k)| if k { x } else { 0.0 }).collect()
}

proptest! {
    #[test]
    fn least_squares_beats_zero_fill_in_every_row((shape, w, h) in case(), bits in any::<u64>()) {
        let keep: Vec<bool> = (0..w.len()).map(|k| bits >> (k * 7 % 64) & 1 == 1).collect();
        let v = resolve(&w, shape, &h, &keep).unwrap();
        prop_assert!(v.iter().zip(&keep).all(|(&x, &k)| k || x == 0.0));
        let solved = row_errors(&w, &v, shape, Some(&h)).unwrap();
        let filled = row_errors(&w, &zero_fill(&w, &keep), shape, Some(&h)).unwrap();
        for (s, f) in solved.iter().zip(&filled) {
            // f32 rounding of the solution: |v| eps in the norm of H, whose trace is at most 2 cols^2.
            prop_assert!(*s <= f + 1e-9 * (1.0 + f), "{s} > {f}");
        }
        // The gradient vanishes on the kept columns.
        let delta: Vec<f64> = w.iter().zip(&v).map(|(&a, &b)| f64::from(a) - f64::from(b)).collect();
        let slope = h.apply(&delta, shape[0]);
        prop_assert!(slope.iter().zip(&keep).all(|(g, &k)| !k || g.abs() < 1e-3));
    }

    #[test]
    fn both_ways_of_solving_agree((shape, w, h) in case(), density in 0.0f64..1.0) {
        // Dense masks go through the inverse; with a sparse row in front they do not.
        let s = scores(&w, shape, Some(&h), Score::Obs, None).unwrap();
        let keep = select(&s, shape, Keep { pattern: Pattern::UNSTRUCTURED, scope: Scope::Row, density }).unwrap();
        let all = resolve(&w, shape, &h, &keep).unwrap();
        for i in 0..shape[0] {
            let r = i * shape[1]..(i + 1) * shape[1];
            let kept: Vec<usize> = (0..shape[1]).filter(|&j| keep[r.start + j]).collect();
            let hw = h.apply(&w[r.clone()].iter().map(|&x| f64::from(x)).collect::<Vec<_>>(), 1);
            let mut b: Vec<f64> = kept.iter().map(|&j| hw[j]).collect();
            crate::solve::factor::solve_rows(&mut h.select(&kept), kept.len(), &mut b, 1).unwrap();
            for (x, &j) in b.iter().zip(&kept) {
                prop_assert!((x - f64::from(all[r.start + j])).abs() < 1e-3 * (1.0 + x.abs()));
            }
        }
    }

    #[test]
    fn masks_have_the_density_and_pattern(
        (shape, w, h) in case(), pattern in pattern(), by_row in any::<bool>(), density in 0.0f64..=1.0,
    ) {
        let [rows, cols] = shape;
        let scope = if by_row { Scope::Row } else { Scope::Map };
        let keep = Keep { pattern, scope, density };
        let s = scores(&w, shape, Some(&h), Score::Activation, None).unwrap();
        let (projected, v) = project(&w, shape, &h, None, keep).unwrap();
        let selected = select(&s, shape, keep).unwrap();
        for mask in [&projected, &selected] {
            let [grid_rows, grid_cols] = pattern.grid(shape);
            prop_assert_eq!(mask.len(), grid_rows * grid_cols);
            let kept = mask.iter().filter(|&&k| k).count();
            match (pattern, scope) {
                (Pattern::NOfM { n, m }, _) => {
                    for row in mask.chunks(cols) {
                        for group in row.chunks(m) {
                            let count = group.iter().filter(|&&k| k).count();
                            prop_assert!(count == n || (group.len() < m && count < n));
                        }
                    }
                }
                (_, Scope::Map) => prop_assert_eq!(kept, (density * mask.len() as f64).round() as usize),
                (_, Scope::Row) => {
                    let each = (density * grid_cols as f64).round() as usize;
                    prop_assert!(mask.chunks(grid_cols).all(|r| r.iter().filter(|&&k| k).count() == each));
                }
            }
            prop_assert_eq!(pattern.expand(shape, mask).len(), rows * cols);
        }
        let kept = pattern.expand(shape, &projected);
        prop_assert!(v.iter().zip(&kept).all(|(&x, &k)| k || x == 0.0));
    }

    #[test]
    fn sparsegpt_keeps_its_pattern_and_beats_zero_fill((shape, w, h) in case(), density in 0.2f64..1.0) {
        let keep = Keep { pattern: Pattern::UNSTRUCTURED, scope: Scope::Map, density };
        let (mask, solved) = sparsegpt(&w, shape, &h, None, keep, 4, true).unwrap();
        let (same, fed) = sparsegpt(&w, shape, &h, None, keep, 4, false).unwrap();
        prop_assert_eq!(&mask, &same);
        let error = |v: &[f32]| row_errors(&w, v, shape, Some(&h)).unwrap();
        for ((s, f), z) in error(&solved).iter().zip(error(&fed)).zip(error(&zero_fill(&w, &mask))) {
            prop_assert!(*s <= f + 1e-6 && *s <= z + 1e-6);
        }
    }

    #[test]
    fn allocation_keeps_the_total(a in proptest::collection::vec(0.0f64..1.0, 1..40), b in proptest::collection::vec(0.0f64..1.0, 1..40), density in 0.0f64..=1.0) {
        let d = allocate_density(&[(&a, 1.0), (&b, 2.0)], density, 0.1).unwrap();
        let kept = d[0] * a.len() as f64 + d[1] * b.len() as f64;
        let total = (a.len() + b.len()) as f64;
        prop_assert!((kept - (density * total).round()).abs() < 1e-6);
    }
}

#[test]
fn projection_finds_a_better_mask_than_scores() {
    // Correlated inputs: greedy scores keep twins, of which one would do.
    let (rows, cols) = (12, 16);
    let mut next = numbers(7);
    let w: Vec<f32> = (0..rows * cols).map(|_| next()).collect();
    let x: Vec<f32> = (0..100)
        .flat_map(|_| {
            let base: Vec<f32> = (0..4).map(|_| next()).collect();
            (0..cols).map(|j| base[j % 4] + 0.3 * next()).collect::<Vec<_>>()
        })
        .collect();
    let h = Hessian::of_reader(&x, cols, 0.01).unwrap();
    let shape = [rows, cols];
    let s = scores(&w, shape, Some(&h), Score::Activation, None).unwrap();
    let keep = Keep { pattern: Pattern::UNSTRUCTURED, scope: Scope::Map, density: 0.4 };
    let mask = select(&s, shape, keep).unwrap();
    let by_score = resolve(&w, shape, &h, &mask).unwrap();
    let (_, projected) = project(&w, shape, &h, None, keep).unwrap();
    let error = |v: &[f32]| row_errors(&w, v, shape, Some(&h)).unwrap().iter().sum::<f64>();
    assert!(error(&projected) < 0.9 * error(&by_score), "{} {}", error(&projected), error(&by_score));
}

#[test]
fn refusals_say_what_is_wanted() {
    let keep = |pattern, density| Keep { pattern, scope: Scope::Map, density };
    let error = select(&[1.0], [1, 1], keep(Pattern::NOfM { n: 3, m: 2 }, 0.5)).unwrap_err();
    insta::assert_snapshot!(error, @"pattern: expected blocks of at least 1x1, or n:m with 1 <= n <= m, found 3:2");
    let error = select(&[1.0], [1, 1], keep(Pattern::UNSTRUCTURED, 1.5)).unwrap_err();
    insta::assert_snapshot!(error, @"density: expected the fraction kept, from 0 to 1, found 1.5");
}
