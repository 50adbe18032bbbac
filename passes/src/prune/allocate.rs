//! Distributing the kept weights over several layers.

use super::{Layer, Method, Prune};
use crate::calibrate::CalibrationError;
use crate::pass::{Context, PassError};
use crate::sites::patched;
use crate::solve::allocate::{Choice, descend};
use crate::solve::prune::{Pattern, Score, allocate_density};
use crate::solve::row_errors;
use lstmc_frontend::ir::Graph;

/// Densities at which each layer is tested.
const TRIALS: [f64; 6] = [0.7, 0.5, 0.35, 0.25, 0.15, 0.07];

/// Tokens of the calibration text that a trial reads: enough to distinguish losses that matter, a few seconds each.
const TRIAL_TOKENS: usize = 8000;

/// Steps of density in the search.
const STEP: f64 = 0.005;

/// The smallest density of a layer.
const LEAST: f64 = 0.02;

/// Without a text: all weights compete by their scores. Scores of different layers are in different units, so each layer's are divided by the
/// mean square of its outputs.
pub(super) fn by_score(prune: &Prune, layers: &[Layer], density: f64) -> Result<Vec<f64>, PassError> {
    let all: Vec<Vec<f64>> = layers.iter().map(|l| prune.scores(l)).collect::<Result<_, _>>()?;
    let factor = |layer: &Layer| -> Result<f64, PassError> {
        let Some(h) = &layer.h else { return Ok(1.0) };
        let zero = vec![0.0; layer.stack.w.len()];
        let errors = row_errors(&layer.stack.w, &zero, layer.stack.shape, Some(h));
        let total: f64 = errors.map_err(|e| layer.error(e))?.iter().sum();
        Ok(if total > 0.0 { 1.0 / total } else { 1.0 })
    };
    let factors: Vec<f64> = layers.iter().map(factor).collect::<Result<_, _>>()?;
    let maps: Vec<(&[f64], f64)> = all.iter().map(Vec::as_slice).zip(factors).collect();
    allocate_density(&maps, density, LEAST.min(density)).map_err(|e| layers[0].error(e))
}

/// With a text: each layer is pruned alone at falling densities and the rise of the loss is measured. Rises are assumed to add up, and their
/// logarithms to be linear between trials; starting from full density, the layer whose next step costs least per weight is reduced, until the budget
/// is met.
pub(super) fn by_trial(
    prune: &Prune,
    graph: &Graph,
    layers: &[Layer],
    density: f64,
    context: &mut Context<'_>,
) -> Result<Vec<f64>, PassError> {
    let calibration = context.calibration.as_ref().ok_or(CalibrationError::NoText)?;
    let base = calibration.loss(graph, TRIAL_TOKENS)?;
    // The plain score with a re-solve ranks layers like the better methods do, in a fraction of their time.
    let method = match prune.method {
        Method::Alternate | Method::SparseGpt => Method::Score(Score::Activation),
        other => other,
    };
    let mut curves = vec![];
    let steps = context.steps("prune: trials", TRIALS.len() * layers.len());
    for layer in layers {
        let mut curve = vec![];
        for trial in TRIALS {
            let now = patched(graph, &prune.pruned(graph, layer, trial, method)?);
            let rise = calibration.loss(&now, TRIAL_TOKENS)? - base;
            tracing::debug!(layer = layer.site.name, density = trial, rise, "tried");
            curve.push((trial, rise));
            steps.add(1);
        }
        curves.push(Curve::new(&curve));
    }
    debug_assert!(!matches!(prune.pattern, Pattern::NOfM { .. }), "n:m says the density itself");
    let sizes: Vec<f64> = layers.iter().map(|l| l.stack.w.len() as f64).collect();
    Ok(share(&curves, &sizes, density))
}

/// The rise of the loss as a function of density.
struct Curve {
    points: Vec<(f64, f64)>, // (density, log of the rise), densities falling
}

impl Curve {
    /// Fits measured rises, made monotonically decreasing in density: deviations from that are noise.
    fn new(measured: &[(f64, f64)]) -> Curve {
        /// Below this a rise cannot be distinguished from zero.
        const NOISE: f64 = 1e-5;
        let mut most = NOISE;
        let point = |&(density, rise): &(f64, f64)| {
            most = rise.max(most * 1.01);
            (density, most.ln())
        };
        Curve { points: measured.iter().map(point).collect() }
    }

    fn rise(&self, density: f64) -> f64 {
        if density >= 1.0 {
            return 0.0;
        }
        let k = self.points.iter().position(|p| p.0 <= density).unwrap_or(self.points.len() - 1).max(1);
        let [(d1, r1), (d0, r0)] = [self.points[k - 1], self.points[k]];
        (r0 + (r1 - r0) * (density - d0) / (d1 - d0)).exp()
    }
}

/// The densities, of layers of `sizes` weights, that add up to `density` overall with the smallest sum of rises; all equal if that is below the
/// smallest densities.
fn share(curves: &[Curve], sizes: &[f64], density: f64) -> Vec<f64> {
    let falling = |d: &f64| Some(d - STEP).filter(|&d| d >= LEAST);
    let densities: Vec<f64> = std::iter::successors(Some(1.0), falling).collect();
    let choices = curves.iter().zip(sizes).map(|(curve, size)| {
        densities.iter().map(|&d| Choice { size: d * size, error: curve.rise(d) }).collect()
    });
    let budget = density * sizes.iter().sum::<f64>();
    let Some(descent) = descend(&choices.collect::<Vec<_>>(), budget) else {
        return vec![density; sizes.len()];
    };
    let mut found: Vec<f64> = descent.choices.iter().map(|&k| densities[k]).collect();
    if let Some((k, spare)) = descent.last {
        found[k] += spare / sizes[k];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(scale: f64) -> Curve {
        let rises: Vec<(f64, f64)> = TRIALS.iter().map(|&d| (d, scale * (1.0 - d).powi(3))).collect();
        Curve::new(&rises)
    }

    #[test]
    fn equal_layers_share_equally_and_the_budget_is_met() {
        let found = share(&[curve(1.0), curve(1.0)], &[100.0, 100.0], 0.3);
        assert!((found[0] - found[1]).abs() < 2.0 * STEP, "{found:?}");
        let found = share(&[curve(1.0), curve(30.0)], &[300.0, 100.0], 0.3);
        assert!(((found[0] * 300.0 + found[1] * 100.0) / 400.0 - 0.3).abs() < 1e-9, "{found:?}");
        assert!(found[0] < found[1], "the layer that minds less gives more: {found:?}");
        assert_eq!(share(&[curve(1.0), curve(1.0)], &[1.0, 1.0], 0.001), [0.001, 0.001]);
    }

    #[test]
    fn curves_fall_with_density() {
        let noisy = Curve::new(&[(0.7, -1e-3), (0.5, 0.01), (0.35, 0.005), (0.2, 0.3)]);
        let rises: Vec<f64> = (0..20).map(|k| noisy.rise(1.0 - 0.05 * f64::from(k))).collect();
        assert!(rises.windows(2).all(|w| w[0] <= w[1]), "{rises:?}");
    }
}
