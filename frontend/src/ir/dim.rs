//! Dimensions: monomials over symbols such as `S` (time steps) and `B` (streams).

use std::fmt;
use std::sync::Arc;

/// A symbolic size, known only when a model runs: `S` and `B` in language-model form, or whatever name an exporter chose.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Symbol(Arc<str>);

impl Symbol {
    /// A symbol with this name. Characters that the text form cannot hold become `_`.
    pub fn new(name: &str) -> Symbol {
        let mut clean: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
        if !clean.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            clean.insert(0, '_');
        }
        Symbol(clean.into())
    }

    /// Time steps in language-model form.
    pub fn steps() -> Symbol {
        Symbol("S".into())
    }

    /// Streams in language-model form.
    pub fn streams() -> Symbol {
        Symbol("B".into())
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One dimension, or one element of a shape computation: `coefficient * symbol * symbol ...`, or unknown until run time.
///
/// Monomials are closed under the products that reshapes make (`S*B`, `4*B`), which is all that exporters of
/// language models compute with.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Dim {
    /// A coefficient times symbols; the symbols are sorted.
    Known {
        /// The constant factor; negative only in shape arithmetic (the `-1` of a reshape), never in a type.
        coefficient: i64,
        /// The symbolic factors, sorted, repeated for powers.
        symbols: Vec<Symbol>,
    },
    /// Known only at run time.
    Unknown,
    /// In a type, the only dimension: any number of unknown dimensions.
    Rest,
}

impl Dim {
    /// A constant.
    pub fn constant(n: usize) -> Dim {
        Dim::Known { coefficient: n as i64, symbols: vec![] }
    }

    /// A symbol.
    pub fn symbol(s: Symbol) -> Dim {
        Dim::Known { coefficient: 1, symbols: vec![s] }
    }

    /// The value, if it is a non-negative constant.
    pub fn as_constant(&self) -> Option<usize> {
        self.as_integer().and_then(|c| usize::try_from(c).ok())
    }

    /// The value, if it is a constant of either sign.
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Dim::Known { coefficient, symbols } if symbols.is_empty() => Some(*coefficient),
            _ => None,
        }
    }

    /// Whether this is the constant `n`.
    pub fn is(&self, n: usize) -> bool {
        self.as_constant() == Some(n)
    }

    /// The product; unknown if a factor is unknown or the coefficient overflows.
    pub fn times(&self, other: &Dim) -> Dim {
        match (self, other) {
            (Dim::Known { coefficient: a, symbols: s }, Dim::Known { coefficient: b, symbols: t }) => {
                let Some(coefficient) = a.checked_mul(*b) else { return Dim::Unknown };
                if coefficient == 0 {
                    return Dim::constant(0);
                }
                let mut symbols: Vec<Symbol> = s.iter().chain(t).cloned().collect();
                symbols.sort();
                Dim::Known { coefficient, symbols }
            }
            _ => Dim::Unknown,
        }
    }

    /// The exact quotient, or `None` if it is not a monomial with an integer coefficient.
    pub fn divided_by(&self, other: &Dim) -> Option<Dim> {
        match (self, other) {
            (Dim::Known { coefficient: a, symbols: s }, Dim::Known { coefficient: b, symbols: t }) => {
                if a.checked_rem(*b) != Some(0) {
                    return None;
                }
                let mut symbols = s.clone();
                for x in t {
                    let at = symbols.iter().position(|y| y == x)?;
                    symbols.remove(at);
                }
                Some(Dim::Known { coefficient: a / b, symbols })
            }
            _ => None,
        }
    }

    /// Replaces a symbol by a value.
    pub fn substitute(&self, symbol: &Symbol, value: usize) -> Dim {
        match self {
            Dim::Known { coefficient, symbols } => {
                let (hit, rest): (Vec<_>, Vec<_>) = symbols.iter().cloned().partition(|s| s == symbol);
                let factor = hit
                    .iter()
                    .try_fold(1i64, |n, _| i64::try_from(value).ok().and_then(|v| n.checked_mul(v)));
                match factor.and_then(|f| f.checked_mul(*coefficient)) {
                    Some(coefficient) => Dim::Known { coefficient, symbols: rest },
                    None => Dim::Unknown,
                }
            }
            other => other.clone(),
        }
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Dim {
        Dim::constant(n)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Unknown => f.write_str("?"),
            Dim::Rest => f.write_str(".."),
            Dim::Known { coefficient, symbols } => {
                if symbols.is_empty() {
                    return write!(f, "{coefficient}");
                }
                if *coefficient != 1 {
                    write!(f, "{coefficient}*")?;
                }
                for (i, s) in symbols.iter().enumerate() {
                    if i > 0 {
                        f.write_str("*")?;
                    }
                    write!(f, "{s}")?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_and_quotients_cancel() {
        let s = Dim::symbol(Symbol::steps());
        let b = Dim::symbol(Symbol::streams());
        let p = s.times(&b).times(&Dim::constant(4));
        assert_eq!(p.to_string(), "4*B*S");
        assert_eq!(p.divided_by(&s).unwrap().to_string(), "4*B");
        assert_eq!(p.divided_by(&p), Some(Dim::constant(1)));
        assert_eq!(s.divided_by(&b), None);
        assert_eq!(Dim::constant(7).divided_by(&Dim::constant(2)), None);
    }

    #[test]
    fn overflow_is_unknown() {
        assert_eq!(Dim::constant(i64::MAX as usize).times(&Dim::constant(2)), Dim::Unknown);
    }
}
