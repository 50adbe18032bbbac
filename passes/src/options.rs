//! Options of passes: their kinds and their values.

use crate::pass::PassError;
use crate::target::Target;
use lstmc_frontend::ir::CodeFormat;
use std::collections::BTreeMap;
use std::fmt;

/// The description of a pass's option. The parser, help, documentation and the pass itself read it here: a default is stated nowhere else.
///
/// ```
/// use lstmc_passes::options::{Kind, OptionInfo};
/// const OPTIONS: &[OptionInfo] = &[
///     OptionInfo::target("the weights, by name"),
///     OptionInfo::new("bits", Kind::CodeBits, "bits per code").required(),
///     OptionInfo::new("group", Kind::COUNT, "consecutive inputs per scale; one scale per row otherwise"),
///     OptionInfo::new("scales", Kind::Word(&["f16", "f32"]), "what scales are stored as").or("f16"),
/// ];
/// ```
#[derive(Clone, Copy, Debug)]
pub struct OptionInfo {
    /// The name, in words joined by `-`.
    pub name: &'static str,
    /// The values that it takes.
    pub kind: Kind,
    /// Whether it is required, and its default otherwise.
    pub presence: Presence,
    /// One sentence without a full stop.
    pub doc: &'static str,
}

impl OptionInfo {
    /// An optional option, whose absence has its own meaning.
    pub const fn new(name: &'static str, kind: Kind, doc: &'static str) -> OptionInfo {
        OptionInfo { name, kind, presence: Presence::Optional, doc }
    }

    /// The option `target`, all weights by default.
    pub const fn target(doc: &'static str) -> OptionInfo {
        OptionInfo::new("target", Kind::Target, doc).or("*")
    }

    /// The option, as a required one.
    pub const fn required(self) -> OptionInfo {
        OptionInfo { presence: Presence::Required, ..self }
    }

    /// The option with a default, as a pipeline spells it.
    pub const fn or(self, text: &'static str) -> OptionInfo {
        OptionInfo { presence: Presence::Default(DefaultValue::Text(text)), ..self }
    }

    /// The option with an integer default, for defaults that are constants.
    pub const fn or_integer(self, value: usize) -> OptionInfo {
        OptionInfo { presence: Presence::Default(DefaultValue::Integer(value)), ..self }
    }

    /// The option with a numeric default, for defaults that are constants.
    pub const fn or_number(self, value: f64) -> OptionInfo {
        OptionInfo { presence: Presence::Default(DefaultValue::Number(value)), ..self }
    }
}

/// Whether an option must be given.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Presence {
    /// Required.
    Required,
    /// Optional; its absence has its own meaning.
    Optional,
    /// Optional, with this default.
    Default(DefaultValue),
}

/// The value of an option that is not given. `Display` spells it as [`Kind::parse`] reads it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum DefaultValue {
    /// As a pipeline spells it.
    Text(&'static str),
    /// An integer.
    Integer(usize),
    /// A number.
    Number(f64),
}

impl fmt::Display for DefaultValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DefaultValue::Text(text) => f.write_str(text),
            DefaultValue::Integer(value) => write!(f, "{value}"),
            DefaultValue::Number(value) => write!(f, "{value}"),
        }
    }
}

/// The values that an option takes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Kind {
    /// An integer from `min` to `max`.
    Integer {
        /// The smallest value.
        min: i64,
        /// The largest value.
        max: i64,
    },
    /// A number from `min` to `max`; `2%` means 0.02.
    Number {
        /// The smallest value.
        min: f64,
        /// The largest value.
        max: f64,
    },
    /// The bits per code of a [`CodeFormat`].
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
    /// An integer of at least 1.
    pub const COUNT: Kind = Kind::Integer { min: 1, max: i64::MAX };

    /// A number from 0 to 1.
    pub const FRACTION: Kind = Kind::Number { min: 0.0, max: 1.0 };

    /// The value that `text` spells, or a description of what was expected.
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

/// A description of valid values, for messages and help.
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

/// The options of one run of a pass, with defaults filled in.
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
    /// If a default in the pass table is not of its option's kind; a test of the table excludes this.
    pub fn new(infos: &[OptionInfo], given: &[(&'static str, Value)]) -> Options {
        let mut values = BTreeMap::new();
        for info in infos {
            if let Presence::Default(value) = info.presence {
                let value = info.kind.parse(&value.to_string());
                values.insert(info.name, value.expect("the table's defaults are valid"));
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

    /// The options, and those of `others` that are not among them.
    pub(crate) fn over(mut self, others: &Options) -> Options {
        for (&name, value) in &others.0 {
            self.0.entry(name).or_insert_with(|| value.clone());
        }
        self
    }

    /// The value of an option that is required or has a default, of the type that its kind gives.
    ///
    /// ```
    /// use lstmc_passes::options::{Kind, OptionInfo, Options, Value};
    /// let infos = [
    ///     OptionInfo::new("rounds", Kind::COUNT, "").or("20"),
    ///     OptionInfo::new("rate", Kind::FRACTION, ""),
    /// ];
    /// let options = Options::new(&infos, &[]);
    /// assert_eq!(options.get::<usize>("rounds"), 20);
    /// assert_eq!(options.given::<f64>("rate"), None);
    /// ```
    ///
    /// # Panics
    /// If the pass table has no such option, no default for it, or another kind.
    pub fn get<T: OfValue>(&self, name: &str) -> T {
        self.given(name).unwrap_or_else(|| panic!("the pass table gives `{name}` no default of this type"))
    }

    /// An option as a pipeline spells it.
    pub(crate) fn spelled(&self, name: &str) -> Option<String> {
        self.0.get(name).map(Value::to_string)
    }

    /// The value of an optional option; `None` if it was not given.
    pub fn given<T: OfValue>(&self, name: &str) -> Option<T> {
        T::of(self.0.get(name)?)
    }

    /// The one value that several alternative options give; an error if none or several of them are given. `names` is for that error.
    pub(crate) fn only<T>(names: &str, values: impl IntoIterator<Item = Option<T>>) -> Result<T, PassError> {
        let mut values = values.into_iter().flatten();
        let found = match (values.next(), values.next()) {
            (Some(value), None) => return Ok(value),
            (None, _) => "none",
            (Some(_), Some(_)) => "several",
        };
        Err(PassError::Options(format!("{names}, found {found}")))
    }
}

/// The types that options have in a pass.
pub trait OfValue: Sized {
    /// The value, if its kind gives this type.
    fn of(value: &Value) -> Option<Self>;
}

macro_rules! of_value {
    ($($type:ty, $value:pat => $result:expr, $kinds:literal;)*) => {$(
        #[doc = $kinds]
        impl OfValue for $type {
            fn of(value: &Value) -> Option<Self> {
                match value {
                    $value => $result,
                    _ => None,
                }
            }
        }
    )*};
}

of_value! {
    usize, &Value::Integer(v) => v.try_into().ok(), "[`Kind::Integer`] and [`Kind::CodeBits`].";
    f64, &Value::Number(v) => Some(v), "[`Kind::Number`].";
    &'static str, &Value::Word(v) => Some(v), "[`Kind::Word`].";
    Target, Value::Target(v) => Some(v.clone()), "[`Kind::Target`].";
    Vec<usize>, Value::Sizes(v) => Some(v.clone()), "[`Kind::Sizes`].";
    (usize, usize), &Value::NOfM(n, m) => Some((n, m)), "[`Kind::NOfM`].";
    bool, &Value::Flag(v) => Some(v), "[`Kind::Flag`].";
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
