//! Options of passes: what they may be, and what they are.

use crate::target::Target;
use lstmc_frontend::ir::CodeFormat;
use std::collections::BTreeMap;
use std::fmt;

/// What an option of a pass is.
#[derive(Clone, Copy, Debug)]
pub struct OptionInfo {
    /// The name, in words joined by `-`.
    pub name: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// Whether it must be given, and what it is otherwise.
    pub presence: Presence,
    /// One sentence without a full stop.
    pub doc: &'static str,
}

/// Whether an option must be given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// It must.
    Required,
    /// It may be left out, which means something of its own.
    Optional,
    /// It may be left out, which means this value.
    Default(&'static str),
}

/// The values that an option takes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Kind {
    /// An integer from `min` to `max`.
    Integer {
        /// The smallest.
        min: i64,
        /// The largest.
        max: i64,
    },
    /// A number from `min` to `max`; `2%` means 0.02.
    Number {
        /// The smallest.
        min: f64,
        /// The largest.
        max: f64,
    },
    /// The bits of a code of some [`CodeFormat`].
    CodeBits,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Patterns over weight names.
    Target,
    /// Positive integers joined by `x`: `1x16`, `4x5x10`.
    Sizes,
    /// `n:m` with `1 <= n <= m`.
    NOfM,
    /// `true` or `false`.
    Flag,
}

impl Kind {
    /// The value that `text` spells, or what was expected instead.
    pub fn parse(self, text: &str) -> Result<Value, String> {
        let value = match self {
            Kind::Integer { min, max } => {
                text.parse().ok().filter(|v| (min..=max).contains(v)).map(Value::Integer)
            }
            Kind::Number { min, max } => number(text).filter(|v| (min..=max).contains(v)).map(Value::Number),
            Kind::CodeBits => {
                let bits = text.parse().ok().filter(|&bits| CodeFormat::of_bits(bits).is_some());
                bits.map(|bits| Value::Integer(bits.into()))
            }
            Kind::Word(words) => words.iter().find(|&&w| w == text).map(|&w| Value::Word(w)),
            Kind::Target => {
                let fits = text.split('|').all(|p| !p.trim().is_empty());
                fits.then(|| Value::Target(Target::new(text)))
            }
            Kind::Sizes => {
                let sizes: Option<Vec<usize>> =
                    text.split('x').map(|n| n.parse().ok().filter(|&n| n > 0)).collect();
                sizes.map(Value::Sizes)
            }
            Kind::NOfM => text.split_once(':').and_then(|(n, m)| {
                let (n, m) = (n.parse().ok()?, m.parse().ok()?);
                (1 <= n && n <= m).then_some(Value::NOfM(n, m))
            }),
            Kind::Flag => text.parse().ok().map(Value::Flag),
        };
        value.ok_or_else(|| self.to_string())
    }
}

fn number(text: &str) -> Option<f64> {
    let value = match text.strip_suffix('%') {
        Some(percent) => percent.trim_end().parse::<f64>().ok()? / 100.0,
        None => text.parse().ok()?,
    };
    value.is_finite().then_some(value)
}

/// What is expected, for messages and help.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Kind::Integer { min, max: i64::MAX } => write!(f, "an integer of at least {min}"),
            Kind::Integer { min, max } => write!(f, "an integer from {min} to {max}"),
            Kind::Number { min, max } if max == f64::MAX => write!(f, "a number of at least {min}"),
            Kind::Number { min, max } => write!(f, "a number from {min} to {max}"),
            Kind::CodeBits => f.write_str(&CodeFormat::widths()),
            Kind::Word(words) => write!(f, "one of {}", words.join(", ")),
            Kind::Target => f.write_str("weight names, with * and ?, separated by |"),
            Kind::Sizes => f.write_str("sizes such as 1x16"),
            Kind::NOfM => f.write_str("a pattern such as 2:4"),
            Kind::Flag => f.write_str("true or false"),
        }
    }
}

/// The value of an option. `Display` spells it as [`Kind::parse`] reads it.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// Of [`Kind::Integer`] and [`Kind::CodeBits`].
    Integer(i64),
    /// Of [`Kind::Number`].
    Number(f64),
    /// Of [`Kind::Word`].
    Word(&'static str),
    /// Of [`Kind::Target`].
    Target(Target),
    /// Of [`Kind::Sizes`].
    Sizes(Vec<usize>),
    /// Of [`Kind::NOfM`].
    NOfM(usize, usize),
    /// Of [`Kind::Flag`].
    Flag(bool),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Integer(v) => write!(f, "{v}"),
            Value::Number(v) => write!(f, "{v}"),
            Value::Word(v) => f.write_str(v),
            Value::Target(v) => write!(f, "{v}"),
            Value::Sizes(v) => {
                let sizes: Vec<String> = v.iter().map(usize::to_string).collect();
                f.write_str(&sizes.join("x"))
            }
            Value::NOfM(n, m) => write!(f, "{n}:{m}"),
            Value::Flag(v) => write!(f, "{v}"),
        }
    }
}

/// The options of one run of a pass, defaults filled in.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Options(BTreeMap<&'static str, Value>);

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        f.write_str(&options.join(", "))
    }
}

impl Options {
    /// The values given, and the defaults of `infos` for the others.
    ///
    /// # Panics
    /// Where a default in the pass table is not of its option's kind, which a test of the table excludes.
    pub fn new(infos: &[OptionInfo], given: &[(&'static str, Value)]) -> Options {
        let mut values = BTreeMap::new();
        for info in infos {
            if let Presence::Default(text) = info.presence {
                values.insert(info.name, info.kind.parse(text).expect("the table's defaults are valid"));
            }
        }
        values.extend(given.iter().cloned());
        Options(values)
    }

    /// The options with another value for one of them.
    pub(crate) fn with(mut self, name: &'static str, value: Value) -> Options {
        self.0.insert(name, value);
        self
    }

    /// A value of any kind.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// An integer.
    pub fn integer(&self, name: &str) -> Option<i64> {
        match self.get(name) {
            Some(Value::Integer(v)) => Some(*v),
            _ => None,
        }
    }

    /// An integer that is not negative.
    pub fn size(&self, name: &str) -> Option<usize> {
        self.integer(name).and_then(|v| usize::try_from(v).ok())
    }

    /// A number.
    pub fn number(&self, name: &str) -> Option<f64> {
        match self.get(name) {
            Some(Value::Number(v)) => Some(*v),
            _ => None,
        }
    }

    /// A word.
    pub fn word(&self, name: &str) -> Option<&'static str> {
        match self.get(name) {
            Some(Value::Word(v)) => Some(v),
            _ => None,
        }
    }

    /// A target.
    pub fn target(&self, name: &str) -> Option<Target> {
        match self.get(name) {
            Some(Value::Target(v)) => Some(v.clone()),
            _ => None,
        }
    }

    /// Sizes.
    pub fn sizes(&self, name: &str) -> Option<&[usize]> {
        match self.get(name) {
            Some(Value::Sizes(v)) => Some(v),
            _ => None,
        }
    }

    /// `n` and `m` of a pattern `n:m`.
    pub fn n_of_m(&self, name: &str) -> Option<(usize, usize)> {
        match self.get(name) {
            Some(Value::NOfM(n, m)) => Some((*n, *m)),
            _ => None,
        }
    }

    /// A flag; false where it is not there.
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some(Value::Flag(true)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_print_as_they_parse() {
        let kinds = [
            (Kind::Integer { min: 1, max: 9 }, "7"),
            (Kind::CodeBits, "4"),
            (Kind::Number { min: 0.0, max: 1.0 }, "0.8"),
            (Kind::Word(&["a", "b"]), "b"),
            (Kind::Target, "lstm*|decoder"),
            (Kind::Sizes, "1x16"),
            (Kind::NOfM, "2:4"),
            (Kind::Flag, "true"),
        ];
        for (kind, text) in kinds {
            assert_eq!(kind.parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Kind::Number { min: 0.0, max: 1.0 }.parse("2%"), Ok(Value::Number(0.02)));
    }

    #[test]
    fn what_does_not_fit_says_what_would() {
        for (kind, text, expected) in [
            (Kind::Integer { min: 1, max: 9 }, "0", "an integer from 1 to 9"),
            (Kind::Integer { min: 1, max: i64::MAX }, "x", "an integer of at least 1"),
            (Kind::Number { min: 0.0, max: 1.0 }, "NaN", "a number from 0 to 1"),
            (Kind::CodeBits, "7", &CodeFormat::widths()),
            (Kind::Word(&["obs", "wanda"]), "magnitude", "one of obs, wanda"),
            (Kind::Sizes, "0x16", "sizes such as 1x16"),
            (Kind::NOfM, "4:2", "a pattern such as 2:4"),
            (Kind::Target, "a||b", "weight names, with * and ?, separated by |"),
        ] {
            assert_eq!(kind.parse(text), Err(expected.to_string()));
        }
    }
}
