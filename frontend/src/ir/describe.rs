//! Representations in a few words, for tables and reports.

use super::map::{Activations, LinearMap};

impl LinearMap {
    /// The representation in a few words: `int4 group 40`, `low rank 64 (f32, int8 row)`; `int8 row on int8` if a
    /// product takes its vector as int8.
    ///
    /// ```
    /// use lstmc_frontend::ir::arbitrary::dense;
    /// assert_eq!(dense([4, 4], 1).describe(), "f32");
    /// ```
    pub fn describe(&self) -> String {
        match self {
            LinearMap::Dense(t) => t.dtype().to_string(),
            LinearMap::Quantized(q) => {
                let asymmetric = if q.zero_points().is_some() { " asymmetric" } else { "" };
                let activations = match q.activations() {
                    Activations::F32 => "",
                    Activations::Int8 => " on int8",
                };
                let columns = if q.columns().is_some() { " and column" } else { "" };
                format!("{} {}{columns}{asymmetric}{activations}", q.format(), q.granularity())
            }
            LinearMap::Sparse(s) => {
                let total: usize = self.shape().iter().product();
                let density =
                    s.kept().map_or(String::new(), |k| format!(" {:.0}%", 100.0 * k as f64 / total as f64));
                format!("sparse {}{density} ({})", s.pattern(), s.values().describe())
            }
            LinearMap::LowRank(l) => {
                format!("low rank {} ({}, {})", l.rank(), l.left().describe(), l.right().describe())
            }
            LinearMap::TensorTrain(t) => {
                let ranks: Vec<String> = t.ranks().iter().map(ToString::to_string).collect();
                let inner = t.cores().first().map_or(String::new(), |c| c.describe());
                format!("tensor train {} ({inner})", ranks.join("x"))
            }
        }
    }
}
