//! Targets: the weights that a pass works on.

use lstmc_frontend::ir::{Graph, WeightId};
use std::fmt;

/// Patterns over weight names, separated by `|`: `*` stands for any text, `?` for one character.
///
/// ```
/// # use lstmc_passes::Target;
/// let target = Target::new("lstm*.input|decoder");
/// assert!(target.matches("lstm0.input") && target.matches("decoder"));
/// assert!(!target.matches("lstm0.bias") && !target.matches("decoder.bias"));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target(String);

impl Target {
    /// A target with these patterns.
    pub fn new(patterns: impl Into<String>) -> Target {
        Target(patterns.into())
    }

    fn patterns(&self) -> impl Iterator<Item = &str> {
        self.0.split('|').map(str::trim)
    }

    /// Whether any pattern matches the whole name.
    pub fn matches(&self, name: &str) -> bool {
        self.patterns().any(|p| glob(p.as_bytes(), name.as_bytes()))
    }

    /// The weights of any kind that match, in the graph's order. Every pattern must match one.
    pub fn weights(&self, graph: &Graph) -> Result<Vec<WeightId>, TargetError> {
        self.select(graph, false)
    }

    /// The matrices that match, in the graph's order; biases and other constants are skipped. Every pattern must match one.
    pub fn matrices(&self, graph: &Graph) -> Result<Vec<WeightId>, TargetError> {
        self.select(graph, true)
    }

    fn select(&self, graph: &Graph, matrices: bool) -> Result<Vec<WeightId>, TargetError> {
        let all: Vec<(WeightId, &str)> = graph
            .weights()
            .filter(|(_, w)| !matrices || (w.map.shape().len() == 2 && w.map.dtype().is_float()))
            .map(|(id, w)| (id, w.name.as_str()))
            .collect();
        for pattern in self.patterns() {
            if !all.iter().any(|(_, name)| glob(pattern.as_bytes(), name.as_bytes())) {
                return Err(TargetError {
                    pattern: pattern.to_string(),
                    what: if matrices { "matrices" } else { "weights" },
                    weights: all.iter().map(|(_, name)| name.to_string()).collect(),
                });
            }
        }
        Ok(all.into_iter().filter(|(_, name)| self.matches(name)).map(|(id, _)| id).collect())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A pattern that matches no weight.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("target `{pattern}` matches none of the {what}: {}", weights.join(", "))]
pub struct TargetError {
    /// The pattern.
    pub pattern: String,
    /// The candidates: weights or matrices.
    pub what: &'static str,
    /// Their names.
    pub weights: Vec<String>,
}

/// Greedy matching with one backtracking point: after the last `*`.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                back = Some((p + 1, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match back {
                Some((after, from)) => {
                    (p, t) = (after, from + 1);
                    back = Some((after, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("lstm?.input", "lstm0.input", true),
            ("lstm?.input", "lstm10.input", false),
            ("*.input*", "lstm0.input", true),
            ("l*0*t", "lstm0.input", true),
            ("l*1*t", "lstm0.input", false),
            ("decoder", "decoder.bias", false),
            ("a*a*a", "aaba", true),
            ("", "", true),
            ("?", "", false),
        ] {
            assert_eq!(Target::new(pattern).matches(text), expected, "{pattern} on {text}");
        }
    }
}
