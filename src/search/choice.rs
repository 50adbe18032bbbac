//! Budgets, and the choice among points.

use super::{Found, Point};
use std::cmp::Ordering;

/// What a model may not exceed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Budget {
    /// Bytes of the weights, entropy-coded.
    Bytes(usize),
    /// The time of a step.
    Microseconds(f64),
    /// Perplexity above the model's as given, as a fraction of that.
    Increase(f64),
    /// Perplexity.
    Perplexity(f64),
}

impl Budget {
    /// The option that it is given by, and its value.
    pub fn named(&self) -> (&'static str, serde_json::Value) {
        match *self {
            Budget::Bytes(most) => ("max_bytes", most.into()),
            Budget::Microseconds(most) => ("max_latency_us", most.into()),
            Budget::Increase(most) => ("max_increase", most.into()),
            Budget::Perplexity(most) => ("max_perplexity", most.into()),
        }
    }

    /// How far a model is above it, relative to it; at most 0 if it is met. Infinite if the time that it limits is not known.
    pub fn excess(&self, found: &Found) -> f64 {
        let (value, most) = match *self {
            Budget::Bytes(most) => (found.bytes as f64, most as f64),
            Budget::Microseconds(most) => (found.microseconds.unwrap_or(f64::INFINITY), most),
            Budget::Increase(most) => (found.perplexity, found.before * (1.0 + most)),
            Budget::Perplexity(most) => (found.perplexity, most),
        };
        value / most - 1.0
    }

    /// Whether a model is within it.
    pub fn is_met(&self, found: &Found) -> bool {
        self.excess(found) <= 0.0
    }

    /// What is to be as small as possible within it: perplexity, or bytes.
    pub fn objective(&self, found: &Found) -> f64 {
        match self {
            Budget::Bytes(_) | Budget::Microseconds(_) => found.perplexity,
            Budget::Increase(_) | Budget::Perplexity(_) => found.bytes as f64,
        }
    }

    /// What the frontier trades perplexity for: bytes, or microseconds.
    pub fn cost(&self, found: &Found) -> f64 {
        match self {
            Budget::Microseconds(_) => found.microseconds.unwrap_or(f64::INFINITY),
            _ => found.bytes as f64,
        }
    }
}

/// The best point: of those within the budget the one with the least objective, or else the nearest to it. It is one of the frontier: ties are decided as there.
pub fn best<'p>(budget: &Budget, points: &'p [Point]) -> Option<&'p Point> {
    let is_of_size = matches!(budget, Budget::Increase(_) | Budget::Perplexity(_));
    let key = |p: &Point| match budget.is_met(&p.found) {
        true => (
            0.0,
            budget.objective(&p.found),
            if is_of_size { p.found.perplexity } else { budget.cost(&p.found) },
        ),
        false => (1.0, budget.excess(&p.found), budget.objective(&p.found)),
    };
    points.iter().min_by(|a, b| compare(key(a), key(b)).then_with(|| a.pipeline.cmp(&b.pipeline)))
}

fn compare(a: (f64, f64, f64), b: (f64, f64, f64)) -> Ordering {
    a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.total_cmp(&b.2))
}

/// The points that no other beats in both cost and perplexity, the most costly first; of equal ones the first.
pub fn frontier(budget: &Budget, points: &[Point]) -> Vec<Point> {
    let mut sorted: Vec<&Point> = points.iter().filter(|p| budget.cost(&p.found).is_finite()).collect();
    let key = |p: &Point| (budget.cost(&p.found), p.found.perplexity, 0.0);
    sorted.sort_by(|a, b| compare(key(a), key(b)).then_with(|| a.pipeline.cmp(&b.pipeline)));
    let mut kept: Vec<Point> = vec![];
    for point in sorted {
        if kept.last().is_none_or(|last| point.found.perplexity < last.found.perplexity) {
            kept.push(point.clone());
        }
    }
    kept.reverse();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(all: &[(usize, f64, f64)]) -> Vec<Point> {
        let point = |(k, &(bytes, perplexity, us)): (usize, &(usize, f64, f64))| Point {
            pipeline: format!("p{k}"),
            found: Found { bytes, perplexity, before: 100.0, microseconds: Some(us) },
        };
        all.iter().enumerate().map(point).collect()
    }

    #[test]
    fn the_best_within_a_budget_or_the_nearest() {
        let all = points(&[(400, 101.0, 9.0), (300, 103.0, 5.0), (200, 106.0, 8.0), (300, 102.9, 6.0)]);
        let best = |budget| best(&budget, &all).unwrap().pipeline.clone();
        assert_eq!(best(Budget::Bytes(350)), "p3");
        assert_eq!(best(Budget::Bytes(100)), "p2");
        assert_eq!(best(Budget::Increase(0.05)), "p3");
        assert_eq!(best(Budget::Perplexity(200.0)), "p2");
        assert_eq!(best(Budget::Perplexity(100.0)), "p0");
        assert_eq!(best(Budget::Microseconds(8.0)), "p3");
        assert_eq!(best(Budget::Microseconds(1.0)), "p1");
    }

    /// Times are in whole nanoseconds, so that several models may have the same.
    #[test]
    fn the_best_is_on_the_frontier() {
        let all = points(&[
            (400, 102.0, 5.0),
            (300, 101.0, 5.0),
            (300, 101.5, 5.0),
            (300, 102.0, 4.0),
            (200, 102.0, 4.0),
        ]);
        for budget in [4.5, 5.0, 1.0].map(Budget::Microseconds).into_iter().chain([
            Budget::Bytes(350),
            Budget::Bytes(100),
            Budget::Increase(0.015),
            Budget::Increase(0.001),
            Budget::Perplexity(102.0),
            Budget::Perplexity(50.0),
        ]) {
            let best = best(&budget, &all).unwrap();
            assert!(frontier(&budget, &all).contains(best), "{budget:?}: {best:?}");
        }
    }

    #[test]
    fn the_frontier_has_no_beaten_point() {
        let all = points(&[
            (400, 101.0, 9.0),
            (300, 103.0, 5.0),
            (200, 106.0, 8.0),
            (300, 102.9, 6.0),
            (200, 106.0, 7.0),
        ]);
        let names =
            |budget| -> Vec<String> { frontier(&budget, &all).iter().map(|p| p.pipeline.clone()).collect() };
        assert_eq!(names(Budget::Bytes(1)), ["p0", "p3", "p2"]);
        assert_eq!(names(Budget::Microseconds(1.0)), ["p0", "p3", "p1"]);
        let mut unknown = all.clone();
        unknown.iter_mut().for_each(|p| p.found.microseconds = None);
        assert!(frontier(&Budget::Microseconds(1.0), &unknown).is_empty());
        assert!(!Budget::Microseconds(1.0).is_met(&unknown[0].found));
    }
}
