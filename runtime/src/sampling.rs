//! Sampling the next word, and the random number generator for it.

use crate::session::SessionError;

/// How [`Session::sample`](crate::Session::sample) chooses a word.
///
/// ```
/// let mut sampling = lstmc_runtime::Sampling::at(0.7);
/// sampling.top_k = Some(100);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Sampling {
    /// The divisor of logits before the softmax: 1 is the model's own distribution, lower is more
    /// predictable, higher is more varied, and 0 always takes the most likely word. Finite, not negative.
    pub temperature: f32,
    /// Draw only from this many most likely words, at least 1; `None` means all words.
    pub top_k: Option<usize>,
    /// Draw only from the most likely words that together have this probability, above 0 and at most 1, after temperature and `top_k`; `None` means all
    /// words (nucleus sampling: Holtzman et al. 2020).
    pub top_p: Option<f32>,
    /// Words that were seen before become less likely: their logits are divided by this if they are positive, and multiplied by it otherwise. 1 changes
    /// nothing. Finite, above 0 (Keskar et al. 2019).
    pub repetition_penalty: f32,
}

impl Sampling {
    /// All words, at this temperature.
    pub fn at(temperature: f32) -> Self {
        Sampling { temperature, top_k: None, top_p: None, repetition_penalty: 1.0 }
    }
}

impl Sampling {
    /// An error if a field is out of its range.
    pub(crate) fn check(&self) -> Result<(), SessionError> {
        let (temperature, penalty) = (self.temperature, self.repetition_penalty);
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err(SessionError::Temperature(temperature));
        }
        if self.top_k == Some(0) {
            return Err(SessionError::NoCandidates);
        }
        if let Some(p) = self.top_p.filter(|&p| !(p > 0.0 && p <= 1.0)) {
            return Err(SessionError::TopP(p));
        }
        if !(penalty.is_finite() && penalty > 0.0) {
            return Err(SessionError::Penalty(penalty));
        }
        Ok(())
    }

    /// Whether it needs all logits and the words in order of them.
    pub(crate) fn needs_order(&self) -> bool {
        self.top_p.is_some_and(|p| p < 1.0) || self.repetition_penalty != 1.0
    }

    /// Draws a word from logits, for which `ids` is memory. `None` as for [`draw`].
    pub(crate) fn draw_ordered(
        &self,
        logits: &mut [f32],
        seen: &[u32],
        ids: &mut Vec<u32>,
        rng: &mut Rng,
    ) -> Option<u32> {
        let broken = |x: &f32| x.is_nan() || *x == f32::INFINITY;
        if logits.iter().any(broken) {
            return None;
        }
        ids.clear();
        ids.extend_from_slice(seen);
        ids.sort_unstable();
        ids.dedup();
        for &id in ids.iter() {
            let logit = &mut logits[id as usize];
            *logit = if *logit > 0.0 {
                *logit / self.repetition_penalty
            } else {
                *logit * self.repetition_penalty
            };
        }
        ids.clear();
        ids.extend(0..logits.len() as u32);
        let before = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        let kept = if self.temperature == 0.0 { 1 } else { self.top_k.unwrap_or(ids.len()).min(ids.len()) };
        if kept < ids.len() {
            ids.select_nth_unstable_by(kept - 1, before);
        }
        ids.truncate(kept);
        ids.sort_unstable_by(before);
        if self.temperature == 0.0 {
            return ids.first().copied().filter(|&id| logits[id as usize].is_finite());
        }
        let largest = logits[*ids.first()? as usize];
        let weight = |&id: &u32| f64::from(((logits[id as usize] - largest) / self.temperature).exp());
        let total: f64 = ids.iter().map(weight).sum();
        let (mut sum, goal) = (0.0, f64::from(self.top_p.unwrap_or(1.0)) * total);
        let most = |&id: &u32| {
            sum += weight(&id);
            sum >= goal
        };
        let count = ids.iter().position(most).map_or(ids.len(), |last| last + 1);
        // The weights of these words in order, in the place of the logits, which are no longer needed by their ids.
        let ordered: Vec<f32> = ids[..count].iter().map(|&id| logits[id as usize]).collect();
        logits[..count].copy_from_slice(&ordered);
        draw(&mut logits[..count], self.temperature, rng).map(|index| ids[index])
    }
}

impl Default for Sampling {
    /// The model's own distribution: temperature 1, all words.
    fn default() -> Self {
        Sampling::at(1.0)
    }
}

/// A small generator of pseudo-random numbers: xoshiro256++ (Blackman and Vigna, 2019), seeded through
/// SplitMix64. A seed gives the same numbers on every machine and in every version of this crate. It is
/// not meant for cryptography.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// A generator that is fully determined by `seed`; every seed is valid, including 0.
    pub fn new(seed: u64) -> Self {
        let mut seed = seed;
        Rng { state: std::array::from_fn(|_| splitmix64(&mut seed)) }
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number in `[0, 1)`, a multiple of 2^-53.
    pub fn next_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Draws an index with probability `softmax(logits / temperature)`, for a temperature above 0.
/// Overwrites `logits` with weights in `[0, 1]`. `None` if a logit is NaN or positive infinity, or if all
/// of them are negative infinity.
pub(crate) fn draw(logits: &mut [f32], temperature: f32, rng: &mut Rng) -> Option<usize> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0.0f64;
    for logit in logits.iter_mut() {
        *logit = ((*logit - largest) / temperature).exp();
        total += f64::from(*logit);
    }
    if !total.is_finite() {
        return None;
    }
    // The sums below repeat the additions above, so they end at `total`, which `goal` is below unless
    // the product is rounded up to it.
    let goal = rng.next_f64() * total;
    let mut sum = 0.0f64;
    for (index, &weight) in logits.iter().enumerate() {
        sum += f64::from(weight);
        if sum > goal {
            return Some(index);
        }
    }
    logits.iter().rposition(|&weight| weight > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix64_gives_the_published_numbers() {
        let mut state = 1_234_567;
        let numbers: [u64; 3] = std::array::from_fn(|_| splitmix64(&mut state));
        assert_eq!(
            numbers,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn xoshiro_gives_the_published_numbers() {
        let mut rng = Rng { state: [1, 2, 3, 4] };
        let numbers: [u64; 5] = std::array::from_fn(|_| rng.next_u64());
        assert_eq!(
            numbers,
            [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386, 9_228_616_714_210_784_205]
        );
    }

    #[test]
    fn uniform_numbers_are_in_range_and_spread() {
        let mut rng = Rng::new(0);
        let numbers: Vec<f64> = (0..10_000).map(|_| rng.next_f64()).collect();
        assert!(numbers.iter().all(|x| (0.0..1.0).contains(x)));
        let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
        // Four standard errors of the mean of 10000 uniform numbers: 4 / sqrt(12 * 10000).
        assert!((mean - 0.5).abs() < 0.0116, "{mean}");
    }

    #[test]
    fn logits_that_are_no_distribution_are_refused() {
        let mut rng = Rng::new(0);
        for bad in [f32::NAN, f32::INFINITY] {
            assert_eq!(draw(&mut [0.0, bad, 1.0], 1.0, &mut rng), None);
        }
        assert_eq!(draw(&mut [f32::NEG_INFINITY; 2], 1.0, &mut rng), None);
        assert_eq!(draw(&mut [f32::NEG_INFINITY, 3.0], 1.0, &mut rng), Some(1));
    }

    #[test]
    fn a_temperature_near_zero_takes_the_largest() {
        let mut rng = Rng::new(5);
        for temperature in [f32::from_bits(1), 1e-30, 1e-3] {
            assert_eq!(draw(&mut [0.0, 1.0, -4.0], temperature, &mut rng), Some(1));
        }
    }
}
