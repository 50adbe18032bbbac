//! Gradient descent steps.

use super::number::{CHUNK, Number};
use super::weights::{Gradients, Weights, sizes};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// AdamW's averages: Loshchilov and Hutter 2019, algorithm 2, with the constants of Kingma and Ba 2015.
const BETAS: [f64; 2] = [0.9, 0.999];
const EPSILON: f64 = 1e-8;

/// The update rule for parameters. AdamW's rate is relative for factors of codes that are in units of steps, `rate |w|`: they may be of any size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Method {
    Sgd,
    AdamW,
}

/// The schedule of the learning rate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Schedule {
    Linear,
    Cosine,
    Step,
    Constant,
}

impl Schedule {
    /// The fraction of the learning rate at a step out of a total.
    pub(super) fn at(self, step: usize, total: usize) -> f64 {
        let done = step as f64 / total.max(1) as f64;
        match self {
            Schedule::Linear => 1.0 - done,
            Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
            Schedule::Step if done < 0.5 => 1.0,
            Schedule::Step => 0.5f64.powi(1 + ((done - 0.5) * 8.0) as i32),
            Schedule::Constant => 1.0,
        }
    }
}

/// A method with its state.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Optimizer<T> {
    method: Method,
    decay: f64,
    steps: i32,
    /// AdamW's averages, of gradients and of their squares.
    averages: [Gradients<T>; 2],
}

impl<T: Number> Optimizer<T> {
    pub(super) fn new(method: Method, decay: f64, weights: &Weights<T>) -> Optimizer<T> {
        let averages = match method {
            Method::Sgd => [vec![], vec![]],
            Method::AdamW => [weights.gradients(), weights.gradients()],
        };
        Optimizer { method, decay, steps: 0, averages }
    }

    /// Whether this can be the state of `start` after this many steps.
    pub(super) fn is_like(&self, start: &Optimizer<T>, steps: usize) -> bool {
        let sizes = |o: &Optimizer<T>| o.averages.each_ref().map(|a| sizes(a));
        let options = |o: &Optimizer<T>| (o.method, o.decay.to_bits());
        usize::try_from(self.steps) == Ok(steps)
            && options(self) == options(start)
            && sizes(self) == sizes(start)
    }

    /// Updates the parameters, given a learning rate and a factor for the gradients; gradients are zero afterwards.
    pub(super) fn step(
        &mut self,
        weights: &mut Weights<T>,
        gradients: &mut Gradients<T>,
        rate: f64,
        factor: f64,
    ) {
        self.steps += 1;
        let shrink = T::of(1.0 - rate * self.decay);
        let is_relative: Vec<bool> = (0..gradients.len()).map(|k| weights.is_relative(k)).collect();
        for (k, parameters) in weights.parameters() {
            let chunks = parameters.par_chunks_mut(CHUNK).zip(gradients[k].par_chunks_mut(CHUNK));
            match self.method {
                Method::Sgd => {
                    let rate = T::of(rate * factor);
                    chunks.for_each(|(parameters, gradient)| {
                        for (p, g) in parameters.iter_mut().zip(gradient) {
                            *p = *p * shrink - rate * std::mem::take(g);
                        }
                    });
                }
                Method::AdamW => {
                    let [unbias1, unbias2] = BETAS.map(|b| 1.0 - b.powi(self.steps));
                    let (one, is_relative) = (T::of(1.0), is_relative[k]);
                    let (rate, unbias2) = (T::of(rate / unbias1), T::of(1.0 / unbias2));
                    let [b1, b2] = BETAS.map(T::of);
                    let [a1, a2] = BETAS.map(|b| T::of(1.0 - b));
                    let (factor, epsilon) = (T::of(factor), T::of(EPSILON));
                    let [first, second] = self.averages.each_mut().map(|a| &mut a[k]);
                    let averages = first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK));
                    chunks.zip(averages).for_each(|((parameters, gradient), (first, second))| {
                        let averages = first.iter_mut().zip(second);
                        for ((p, g), (m, v)) in parameters.iter_mut().zip(gradient).zip(averages) {
                            let g = std::mem::take(g) * factor;
                            *m = b1 * *m + a1 * g;
                            *v = b2 * *v + a2 * g * g;
                            let size = if !is_relative { one } else { p.magnitude() };
                            *p = *p * shrink - rate * size * *m / ((*v * unbias2).root() + epsilon);
                        }
                    });
                }
            }
        }
    }
}

/// The Euclidean norm of the gradients of all parameters.
pub(super) fn norm<T: Number>(weights: &mut Weights<T>, gradients: &Gradients<T>) -> f64 {
    let square = |chunk: &[T]| {
        let mut sums = [T::of(0.0); 16];
        let (lanes, rest) = chunk.as_chunks::<16>();
        for lane in lanes {
            sums.iter_mut().zip(lane).for_each(|(s, &g)| *s += g * g);
        }
        sums.iter().map(|s| s.to_f64()).sum::<f64>() + rest.iter().map(|g| g.to_f64().powi(2)).sum::<f64>()
    };
    let mut sum = 0.0;
    for (k, _) in weights.parameters() {
        // In order, so that the sum is the same on any number of threads.
        let parts: Vec<f64> = gradients[k].par_chunks(CHUNK).map(square).collect();
        sum += parts.iter().sum::<f64>();
    }
    sum.sqrt()
}
