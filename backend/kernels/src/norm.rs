//! Normalisation of one vector.
#![deny(unsafe_code)]

/// `to = scale (x - mean) / sqrt(variance + epsilon) + shift`, with the sums in f64; without `scale` 1 and without `shift` 0.
///
/// # Panics
/// If a slice is shorter than `x`.
pub fn normalize(x: &[f32], scale: Option<&[f32]>, shift: Option<&[f32]>, epsilon: f32, to: &mut [f32]) {
    let n = x.len() as f64;
    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
    let inverse = 1.0 / (variance + f64::from(epsilon)).sqrt();
    for (k, (to, &x)) in to[..x.len()].iter_mut().zip(x).enumerate() {
        let y = ((f64::from(x) - mean) * inverse) as f32;
        *to = y * scale.map_or(1.0, |s| s[k]) + shift.map_or(0.0, |s| s[k]);
    }
}
