//! What several changes come to together, and where a curve meets a value: before anything is compiled.

/// The difference that a choice makes, alone, to the model without it.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Effect {
    /// Of the mean loss of a token, in nats.
    pub loss: f64,
    /// Of the time of a step, in microseconds.
    pub microseconds: f64,
}

/// Sums of effects, corrected by what sums came to when they were measured.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Additive {
    /// Measured by predicted, of loss.
    loss: f64,
    /// Measured by predicted, of time.
    microseconds: f64,
}

impl Default for Additive {
    fn default() -> Additive {
        Additive { loss: 1.0, microseconds: 1.0 }
    }
}

/// How far a correction goes, so that one noisy measurement does not lead away.
const FARTHEST: f64 = 2.0;

impl Additive {
    /// The effect of all together.
    pub fn predict(&self, effects: impl IntoIterator<Item = Effect>) -> Effect {
        let sum = sum(effects);
        Effect { loss: sum.loss * self.loss, microseconds: sum.microseconds * self.microseconds }
    }

    /// The correction that explains measured sums: each a list of effects and what they came to together. Sums of little effect tell little, so it is the ratio of the totals.
    pub fn corrected(measured: &[(Vec<Effect>, Effect)]) -> Additive {
        let predicted = sum(measured.iter().flat_map(|(effects, _)| effects.iter().copied()));
        let found = sum(measured.iter().map(|(_, found)| *found));
        let ratio = |found: f64, predicted: f64| {
            let ratio = found / predicted;
            if ratio.is_finite() && ratio > 0.0 { ratio.clamp(1.0 / FARTHEST, FARTHEST) } else { 1.0 }
        };
        Additive {
            loss: ratio(found.loss, predicted.loss),
            microseconds: ratio(found.microseconds, predicted.microseconds),
        }
    }
}

fn sum(effects: impl IntoIterator<Item = Effect>) -> Effect {
    effects.into_iter().fold(Effect::default(), |a, b| Effect {
        loss: a.loss + b.loss,
        microseconds: a.microseconds + b.microseconds,
    })
}

/// The least rise of the loss that is told from noise.
const LEAST_RISE: f64 = 1e-5;

/// The size at which a model's loss rises by `rise`, from points (bytes, rise) of the same model: the logarithm of the rise is a line in the size, as rate-distortion theory
/// has it for fine codes (six decibels a bit), between the two points around it or through the two nearest. None for fewer than two.
pub fn size_at(points: &[(f64, f64)], rise: f64) -> Option<f64> {
    let mut points: Vec<(f64, f64)> = points.iter().map(|&(x, y)| (x, y.max(LEAST_RISE).ln())).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points.dedup_by(|a, b| a.0 == b.0);
    if points.len() < 2 {
        return None;
    }
    let goal = rise.max(LEAST_RISE).ln();
    // The first interval at whose end the rise is small enough.
    let after = points.iter().position(|p| p.1 <= goal).unwrap_or(points.len() - 1).max(1);
    let [(x0, y0), (x1, y1)] = [points[after - 1], points[after]];
    let slope = (y1 - y0) / (x1 - x0);
    if slope >= 0.0 {
        return Some(x0);
    }
    // Not far outside what is known.
    let most = 2.0 * points[points.len() - 1].0;
    Some((x0 + (goal - y0) / slope).clamp(points[0].0 / 2.0, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_add_up_and_are_corrected() {
        let effect = |loss, microseconds| Effect { loss, microseconds };
        let [a, b] = [effect(0.01, -5.0), effect(0.03, -10.0)];
        assert_eq!(Additive::default().predict([a, b]), effect(0.04, -15.0));
        let corrected = Additive::corrected(&[(vec![a, b], effect(0.06, -12.0))]);
        let found = corrected.predict([a, b]);
        assert!((found.loss - 0.06).abs() < 1e-12 && (found.microseconds + 12.0).abs() < 1e-12);
        // Nothing measured, and nonsense.
        assert_eq!(Additive::corrected(&[]), Additive::default());
        assert_eq!(Additive::corrected(&[(vec![a], effect(-1.0, 0.0))]), Additive::default());
        assert_eq!(Additive::corrected(&[(vec![a], effect(1.0, -5.0))]).predict([a]), effect(0.02, -5.0));
    }

    #[test]
    fn where_a_curve_meets_a_value() {
        // Four times the error for each bit less.
        let rise = |bytes: f64| 0.1 * 4f64.powf(1.0 - bytes / 100.0);
        let points: Vec<_> = [100.0, 200.0, 300.0].map(|x| (x, rise(x))).to_vec();
        for x in [120.0, 250.0, 340.0, 80.0] {
            let found = size_at(&points, rise(x)).unwrap();
            assert!((found - x).abs() < 1e-6, "{found} {x}");
        }
        assert_eq!(size_at(&points, 1e9), Some(50.0));
        assert_eq!(size_at(&points, 0.0), Some(600.0));
        assert_eq!(size_at(&points[..1], 0.1), None);
        assert_eq!(size_at(&[(1.0, 0.1), (2.0, 0.2)], 0.05), Some(1.0));
    }
}
