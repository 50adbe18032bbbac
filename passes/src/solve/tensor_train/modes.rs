//! Choosing the modes of a dimension.

/// `d` modes whose product is `size` or a little more, as equal as possible, in ascending order.
///
/// A size that does not split evenly is padded by up to a twentieth; padding has a cost, so that it is used only if it reduces the
/// sum of the modes, hence the cores, by more. Pair ascending output modes with descending input modes (reverse one list), so that all cores have
/// similar sizes.
///
/// ```
/// use lstmc_passes::solve::tensor_train::balanced_modes;
/// assert_eq!(balanced_modes(10000, 4), [10, 10, 10, 10]);
/// assert_eq!(balanced_modes(200, 3), [5, 5, 8]);
/// assert_eq!(balanced_modes(2600, 3), [11, 14, 17]); // 2618
/// ```
pub fn balanced_modes(size: usize, d: usize) -> Vec<usize> {
    let (size, d) = (size.max(1), d.max(1));
    let mut best: Option<(f64, Vec<usize>)> = None;
    for padded in size..=size + size / 20 {
        let Some(modes) = split(padded, d, 1) else { continue };
        let cost = modes.iter().sum::<usize>() as f64 * (1.0 + 2.0 * (padded - size) as f64 / size as f64);
        if best.as_ref().is_none_or(|(c, _)| cost < *c) {
            best = Some((cost, modes));
        }
    }
    best.map(|(_, m)| m).unwrap_or_else(|| vec![size; 1])
}

/// The `d` ascending factors of `size`, none below `least`, with the smallest sum.
fn split(size: usize, d: usize, least: usize) -> Option<Vec<usize>> {
    if d == 1 {
        return (size >= least).then(|| vec![size]);
    }
    let mut best: Option<Vec<usize>> = None;
    let mut first = least;
    while first.checked_pow(d as u32).is_some_and(|p| p <= size) {
        if size.is_multiple_of(first)
            && let Some(mut rest) = split(size / first, d - 1, first)
        {
            rest.insert(0, first);
            if best.as_ref().is_none_or(|b| rest.iter().sum::<usize>() < b.iter().sum()) {
                best = Some(rest);
            }
        }
        first += 1;
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_of_real_sizes() {
        let all: Vec<String> = [
            (10000, 2),
            (10000, 3),
            (10000, 4),
            (200, 2),
            (200, 4),
            (800, 3),
            (650, 3),
            (650, 4),
            (2600, 4),
            (7, 3),
            (1, 2),
            (97, 2),
        ]
        .iter()
        .map(|&(n, d)| format!("{n} in {d}: {:?}", balanced_modes(n, d)))
        .collect();
        insta::assert_snapshot!(all.join("\n"));
    }

    #[test]
    fn products_are_at_least_the_size_and_little_more() {
        for size in 1..400 {
            for d in 1..5 {
                let modes = balanced_modes(size, d);
                let product: usize = modes.iter().product();
                assert_eq!(modes.len(), d);
                assert!(product >= size && product <= size + size / 20, "{size} {modes:?}");
            }
        }
    }
}
