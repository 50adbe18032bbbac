//! Processor levels: which instructions kernels and generated code may use.
//!
//! ```text
//!   plain ─ sse4.1 ─ avx2 ┬ avx2-vnni                      x86-64
//!                         └ avx512 ─ avx512-vnni
//!   plain ─ neon ─ dotprod ─ i8mm                          arm64
//! ```
//!
//! A level is a value that is chosen in one place: by default it is the best that the processor has, and a user or a test may request a
//! lower one by its name. It decides which of the kernels run, and which features generated code may use.
#![deny(unsafe_code)]

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

/// The instructions that kernels and generated code may use. A value is proof that the processor has them: only this module creates
/// one, after checking.
///
/// ```
/// use lstmc_kernels::Level;
///
/// let plain: Level = "plain".parse()?;
/// assert_eq!(plain.name(), "plain");
/// assert!(Level::all().contains(&plain) && Level::all().contains(&Level::best()));
/// assert_eq!("best".parse::<Level>()?, Level::best());
/// # Ok::<(), lstmc_kernels::LevelError>(())
/// ```
#[derive(Clone, Copy)]
pub struct Level(&'static Row);

/// The instruction sets that batched kernels are written in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Set {
    /// Plain Rust.
    Portable,
    /// NEON.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// SDOT, and those of `Neon`.
    #[cfg(target_arch = "aarch64")]
    NeonDot,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-VNNI, and those of `Avx2`.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// AVX-512 F, BW and DQ, and those of `Avx2`.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// VNNI, and those of `Avx512`.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
}

/// One level.
struct Row {
    name: &'static str,
    /// Its description, for people.
    about: &'static str,
    set: Set,
    needs: &'static [Feature],
}

/// A required feature: its name in Rust, and the function that detects it.
type Feature = (&'static str, fn() -> bool);

/// A table of levels: the name, the description, the set of its kernels, and its features with the macro that detects them.
macro_rules! rows {
    ($ask:ident: $($name:literal, $about:literal, $set:ident, [$($feature:tt)*];)*) => {
        &[$(Row {
            name: $name,
            about: $about,
            set: Set::$set,
            needs: &[$(($feature, || std::arch::$ask!($feature))),*],
        }),*]
    };
}

/// The levels of this architecture, each after those that it includes; the best one that a processor has is the last.
#[cfg(target_arch = "x86_64")]
static ROWS: &[Row] = rows! { is_x86_feature_detected:
    "plain", "SSE2, which every x86-64 has; no batched kernels", Portable, [];
    "sse4.1", "SSE4.1; no batched kernels", Portable, ["sse4.1" "ssse3" "sse3"];
    "avx2", "AVX2 and FMA", Avx2, ["avx2" "fma" "f16c" "bmi1" "bmi2" "lzcnt" "popcnt"];
    "avx2-vnni", "AVX2 and AVX-VNNI", AvxVnni,
        ["avx2" "fma" "f16c" "bmi1" "bmi2" "lzcnt" "popcnt" "avxvnni"];
    "avx512", "AVX-512 F, BW, DQ and VL", Avx512,
        ["avx2" "fma" "f16c" "bmi1" "bmi2" "lzcnt" "popcnt" "avx512f" "avx512bw" "avx512dq" "avx512vl"];
    "avx512-vnni", "AVX-512 with VNNI", Avx512Vnni,
        ["avx2" "fma" "f16c" "bmi1" "bmi2" "lzcnt" "popcnt" "avx512f" "avx512bw" "avx512dq" "avx512vl" "avx512vnni"];
};

/// The levels of this architecture, each after those that it includes; the best one that a processor has is the last.
#[cfg(target_arch = "aarch64")]
static ROWS: &[Row] = rows! { is_aarch64_feature_detected:
    "plain", "generated code as at neon; no batched kernels", Portable, [];
    "neon", "NEON, which every arm64 has", Neon, [];
    "dotprod", "SDOT and UDOT", NeonDot, ["dotprod"];
    "i8mm", "USDOT; batched kernels as at dotprod", NeonDot, ["dotprod" "i8mm"];
};

/// The levels of this architecture.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
static ROWS: &[Row] = rows! { none: "plain", "plain Rust", Portable, []; };

impl Row {
    /// The features that the processor lacks.
    fn missing(&self) -> impl Iterator<Item = &'static str> {
        self.needs.iter().filter(|(_, there)| !there()).map(|(name, _)| *name)
    }
}

impl Level {
    /// Plain Rust, and code for every processor of this architecture.
    pub const PLAIN: Level = Level(&ROWS[0]);

    /// The best that this processor has. The first call detects it; no call allocates.
    pub fn best() -> Level {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| Level::there().last().unwrap_or(Level::PLAIN))
    }

    /// The levels that this processor has, best last.
    pub fn all() -> Vec<Level> {
        Level::there().collect()
    }

    fn there() -> impl Iterator<Item = Level> {
        ROWS.iter().filter(|row| row.missing().next().is_none()).map(Level)
    }

    /// The levels of this architecture, each with its description and the level itself, if this processor has it.
    pub fn known() -> impl Iterator<Item = (&'static str, &'static str, Result<Level, LevelError>)> {
        ROWS.iter().map(|row| (row.name, row.about, row.name.parse()))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// Whether there are batched kernels, which are faster than generated code word by word; otherwise only the reference implementations run.
    pub fn has_batched_kernels(self) -> bool {
        self.set() != Set::Portable
    }

    /// The set of batched kernels that it runs.
    pub(crate) fn set(self) -> Set {
        self.0.set
    }
}

/// The best.
impl Default for Level {
    fn default() -> Level {
        Level::best()
    }
}

impl PartialEq for Level {
    fn eq(&self, other: &Level) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Level {}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a level cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LevelError {
    /// A name that is not the name of a level.
    #[error("there is no processor level `{name}`; {} has {}", std::env::consts::ARCH, .known.join(", "))]
    Unknown {
        /// The requested name.
        name: String,
        /// The levels of this architecture.
        known: Vec<&'static str>,
    },
    /// A level that this processor does not have.
    #[error("this processor does not have the level {name} (it lacks {}); it has {}", .lacks.join(", "), .have.join(", "))]
    Missing {
        /// The requested level.
        name: &'static str,
        /// The features that it lacks.
        lacks: Vec<&'static str>,
        /// The levels that it has.
        have: Vec<&'static str>,
    },
}

/// Parses the name of a level; `best` is the best that the processor has.
impl FromStr for Level {
    type Err = LevelError;

    fn from_str(name: &str) -> Result<Level, LevelError> {
        if name == "best" {
            return Ok(Level::best());
        }
        let row = ROWS.iter().find(|row| row.name == name).ok_or_else(|| LevelError::Unknown {
            name: name.into(),
            known: ROWS.iter().map(|row| row.name).collect(),
        })?;
        let lacks: Vec<_> = row.missing().collect();
        if lacks.is_empty() {
            return Ok(Level(row));
        }
        Err(LevelError::Missing { name: row.name, lacks, have: Level::there().map(Level::name).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_there_or_say_what_is_missing() {
        assert_eq!(Level::all()[0], Level::PLAIN);
        assert_eq!(*Level::all().last().unwrap(), Level::best());
        for (name, _, level) in Level::known() {
            match level {
                Ok(level) => assert!(level.name() == name && Level::all().contains(&level)),
                Err(error) => {
                    assert!(
                        error
                            .to_string()
                            .starts_with(&format!("this processor does not have the level {name}"))
                    );
                    assert!(Level::all().iter().all(|l| l.name() != name));
                }
            }
        }
        let error = "avx9".parse::<Level>().unwrap_err().to_string();
        assert!(
            error.starts_with("there is no processor level `avx9`") && error.contains("plain"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_level_is_an_error_that_lists_what_there_is() {
        let error = LevelError::Missing {
            name: "avx512",
            lacks: vec!["avx512f", "avx512bw"],
            have: vec!["plain", "avx2"],
        };
        insta::assert_snapshot!(
            error,
            @"this processor does not have the level avx512 (it lacks avx512f, avx512bw); it has plain, avx2"
        );
    }
}
