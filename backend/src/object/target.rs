//! The target of an object file: an operating system's conventions and a CPU's instructions.

use crate::error::{CompileError, TargetError};
use crate::isa::{self, OptLevel};
use cranelift_codegen::isa::{Builder, LookupError, OwnedTargetIsa};
use cranelift_codegen::settings::{Configurable, SettingKind};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use target_lexicon::{Architecture, BinaryFormat, Triple};

/// The triples that object files can be compiled for.
pub const TRIPLES: [&str; 8] = [
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
    "aarch64-linux-android",
    "x86_64-apple-darwin",
    "aarch64-apple-darwin",
    "aarch64-apple-ios",
    "x86_64-pc-windows-msvc",
    "riscv64gc-unknown-linux-gnu",
];

/// The instructions that code may use.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Cpu {
    /// The features of every CPU of the architecture: SSE2, or NEON; of RISC-V, those of every CPU with vectors.
    Generic,
    /// Code for several levels, of which a program chooses one when it runs.
    #[default]
    Dispatch,
    /// The features of this machine's CPU.
    Native,
    /// These features or levels, and the features that they imply.
    Features(Vec<String>),
}

impl FromStr for Cpu {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Cpu, Self::Err> {
        Ok(match text {
            "generic" => Cpu::Generic,
            "native" => Cpu::Native,
            "dispatch" => Cpu::Dispatch,
            list => Cpu::Features(list.split(',').map(|f| f.trim().to_string()).collect()),
        })
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cpu::Generic => f.write_str("generic"),
            Cpu::Native => f.write_str("native"),
            Cpu::Dispatch => f.write_str("dispatch"),
            Cpu::Features(list) => f.write_str(&list.join(",")),
        }
    }
}

/// A target that code can be generated for.
#[derive(Debug)]
pub struct Target {
    triple: &'static str,
    versions: Vec<Version>,
}

/// Code for one level of a target's processors, or for the features that were asked for.
pub struct Version {
    name: String,
    isa: OwnedTargetIsa,
}

impl Version {
    /// The name of its level, or what was asked for.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The features that code uses, named as in Cranelift but without `has_`, in alphabetical order.
    pub fn features(&self) -> Vec<&'static str> {
        let on = self.isa.isa_flags().into_iter().filter(|f| f.as_bool() == Some(true));
        let features: BTreeSet<_> = on.filter_map(|f| f.name.strip_prefix("has_")).collect();
        features.into_iter().collect()
    }

    pub(super) fn isa(&self) -> &OwnedTargetIsa {
        &self.isa
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Version")
            .field("name", &self.name)
            .field("features", &self.features())
            .finish_non_exhaustive()
    }
}

/// The levels among which [`Cpu::Dispatch`] chooses, the simplest first, in the order of the functions in [`cpu`](super::cpu). Where a library cannot ask, it is the one that every processor has: all of
/// Apple's computers multiply bytes, not all of its telephones do.
fn dispatched(triple: &str) -> &'static [&'static str] {
    match triple {
        t if t.starts_with("x86_64") => &["plain", "sse4.1", "avx2", "avx2-vnni", "avx512-vnni"],
        t if t.ends_with("darwin") => &["dotprod"],
        t if t.ends_with("ios") => &["neon"],
        t if t.starts_with("riscv64") => &["plain"],
        _ => &["neon", "dotprod"],
    }
}

/// Features that a CPU with another one always has. The code generator would call library functions if, for example, `fma` comes
/// without `avx`.
const IMPLIED: &[(&str, &[&str])] = &[
    ("has_ssse3", &["has_sse3"]),
    ("has_sse41", &["has_ssse3"]),
    ("has_sse42", &["has_sse41"]),
    ("has_avx", &["has_sse42"]),
    ("has_avx2", &["has_avx"]),
    ("has_fma", &["has_avx"]),
    ("has_avx_vnni", &["has_avx2"]),
    ("has_avx512f", &["has_avx2", "has_fma"]),
    ("has_avx512bitalg", &["has_avx512f"]),
    ("has_avx512dq", &["has_avx512f"]),
    ("has_avx512vl", &["has_avx512f"]),
    ("has_avx512vbmi", &["has_avx512f"]),
    ("has_avx512vnni", &["has_avx512vl"]),
];

/// Names for several features, in addition to those of [`Level`](crate::Level)s: the levels of the x86-64 ABI.
const LEVELS: &[(&str, &[&str])] = &[
    ("x86-64-v2", &["has_sse42", "has_popcnt", "has_cmpxchg16b"]),
    ("x86-64-v3", &["x86-64-v2", "has_avx2", "has_fma", "has_bmi1", "has_bmi2", "has_lzcnt"]),
    ("x86-64-v4", &["x86-64-v3", "has_avx512vl", "has_avx512dq"]),
];

impl Target {
    /// A target from [`TRIPLES`] and the required features of its CPU.
    pub fn new(triple: &str, cpu: &Cpu) -> Result<Target, CompileError> {
        let unknown = || TargetError::Triple { triple: triple.into(), known: TRIPLES.to_vec() };
        let triple = *TRIPLES.iter().find(|t| **t == triple).ok_or_else(unknown)?;
        let internal = |e: &dyn fmt::Display| CompileError::Target(format!("{triple}: {e}"));
        let parsed: Triple = triple.parse().map_err(|e| internal(&e))?;
        let builder = || {
            let mut builder = cranelift_codegen::isa::lookup(parsed.clone()).map_err(|e| match e {
                LookupError::SupportDisabled => CompileError::from(TargetError::Disabled { triple }),
                LookupError::Unsupported => internal(&e),
            })?;
            for feature in isa::required(builder.triple()) {
                builder.enable(feature).map_err(|e| internal(&e))?;
            }
            Ok::<_, CompileError>(builder)
        };
        // All symbols are local to the object, and near: code addresses them relative to itself, and needs no global offset table.
        let version = |name: &str, builder: Builder| -> Result<Version, CompileError> {
            let isa = builder.finish(isa::flags(OptLevel::None, false)?).map_err(|e| internal(&e))?;
            Ok(Version { name: name.into(), isa })
        };
        let with = |name: &str, list: &[String]| -> Result<Version, CompileError> {
            let mut builder = builder()?;
            for flag in closure(triple, &builder, list)? {
                builder.enable(flag).map_err(|e| internal(&e))?;
            }
            version(name, builder)
        };
        let versions = match cpu {
            Cpu::Generic => vec![version("generic", builder()?)?],
            Cpu::Native => {
                let mut builder = builder()?;
                let host = Triple::host();
                if host.architecture != builder.triple().architecture {
                    let host = host.architecture.to_string();
                    return Err(TargetError::Native { triple: triple.into(), host }.into());
                }
                cranelift_native::infer_native_flags(&mut builder).map_err(|e| internal(&e))?;
                vec![version("native", builder)?]
            }
            Cpu::Dispatch => {
                let levels = dispatched(triple).iter();
                levels.map(|level| with(level, &[level.to_string()])).collect::<Result<_, _>>()?
            }
            Cpu::Features(list) => vec![with(&cpu.to_string(), list)?],
        };
        Ok(Target { triple, versions })
    }

    /// The target that this program was compiled for; `None` if object files are not supported for it.
    pub fn host() -> Option<&'static str> {
        let host = Triple::host();
        TRIPLES.into_iter().find(|t| {
            t.parse::<Triple>().is_ok_and(|t| {
                (t.architecture, t.operating_system, t.environment)
                    == (host.architecture, host.operating_system, host.environment)
            })
        })
    }

    /// Its triple.
    pub fn triple(&self) -> &'static str {
        self.triple
    }

    /// Its code: of several versions, a program runs the last one that the processor has.
    pub fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// The file name of a static library.
    pub fn library(&self, name: &str) -> String {
        match self.format() {
            BinaryFormat::Coff => format!("{name}.lib"),
            _ => format!("lib{name}.a"),
        }
    }

    /// The file name of an object.
    pub fn object(&self, name: &str) -> String {
        match self.format() {
            BinaryFormat::Coff => format!("{name}.obj"),
            _ => format!("{name}.o"),
        }
    }

    pub(super) fn format(&self) -> BinaryFormat {
        self.isa().triple().binary_format
    }

    /// The instructions that every processor of the target has.
    pub(super) fn isa(&self) -> &OwnedTargetIsa {
        &self.versions[0].isa
    }

    /// Rust's names of the architecture and the operating system.
    pub(super) fn rust_names(&self) -> (&'static str, &'static str) {
        let arch = match self.isa().triple().architecture {
            Architecture::Aarch64(_) => "aarch64",
            Architecture::X86_64 => "x86_64",
            Architecture::Riscv64(_) => "riscv64",
            other => unreachable!("`TRIPLES` has no target of {other}"),
        };
        let os = match self.triple {
            t if t.ends_with("linux-gnu") => "linux",
            t if t.ends_with("android") => "android",
            t if t.ends_with("darwin") => "macos",
            t if t.ends_with("ios") => "ios",
            t if t.contains("windows") => "windows",
            other => unreachable!("`TRIPLES` has no target {other}"),
        };
        (arch, os)
    }
}

/// A name normalised for different spellings.
fn plain(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    let name = name.strip_prefix("has_").unwrap_or(&name);
    name.chars().filter(|c| c.is_ascii_alphanumeric()).collect()
}

/// Cranelift's flags for a list of features, with all features that they imply.
fn closure(triple: &str, builder: &Builder, list: &[String]) -> Result<BTreeSet<&'static str>, TargetError> {
    let settings = builder.iter().filter(|s| s.kind == SettingKind::Bool);
    let flags: Vec<&'static str> = settings.map(|s| s.name).filter(|n| n.starts_with("has_")).collect();
    let x86 = matches!(builder.triple().architecture, Architecture::X86_64);
    let levels = if x86 { LEVELS } else { &[] };
    let all_levels = isa::levels(builder.triple()).iter().chain(levels);
    let mut open: Vec<&'static str> = vec![];
    for feature in list {
        // A level's name comes before a feature's: `avx2` includes everything that a processor with AVX2 has.
        if let Some((_, flags)) = all_levels.clone().find(|(name, _)| plain(name) == plain(feature)) {
            open.extend(*flags);
            continue;
        }
        let found = flags.iter().find(|name| plain(name) == plain(feature));
        open.push(*found.ok_or_else(|| {
            let features = flags.iter().map(|f| &f[4..]);
            let names = all_levels.clone().map(|(name, _)| *name);
            let names = names.filter(|name| flags.iter().all(|f| plain(f) != plain(name)));
            TargetError::Feature {
                triple: triple.into(),
                feature: feature.clone(),
                known: features.chain(names).map(str::to_string).collect(),
            }
        })?);
    }
    let mut all = BTreeSet::new();
    while let Some(name) = open.pop() {
        if let Some((_, parts)) = LEVELS.iter().find(|(level, _)| *level == name) {
            open.extend(*parts);
        } else if all.insert(name) {
            open.extend(IMPLIED.iter().filter(|(flag, _)| *flag == name).flat_map(|(_, more)| *more));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(triple: &str, cpu: &str) -> Vec<&'static str> {
        Target::new(triple, &cpu.parse().unwrap()).unwrap().versions()[0].features()
    }

    #[test]
    fn features_bring_what_they_need() {
        assert_eq!(features(TRIPLES[0], "generic"), [""; 0]);
        assert_eq!(features(TRIPLES[0], "SSE4.1"), ["sse3", "sse41", "ssse3"]);
        assert_eq!(features(TRIPLES[0], "fma"), ["avx", "fma", "sse3", "sse41", "sse42", "ssse3"]);
        assert_eq!(features(TRIPLES[0], "has_fma"), features(TRIPLES[0], "fma"));
        assert!(features(TRIPLES[0], "avx512-vnni").contains(&"avx512vl"));
        assert!(features(TRIPLES[0], "avx2").contains(&"fma"));
        assert_eq!(features(TRIPLES[0], "plain"), [""; 0]);
        assert!(features(TRIPLES[0], "avx2-vnni").contains(&"avx_vnni"));
        assert_eq!(features(TRIPLES[1], "i8mm"), ["dotprod", "i8mm"]);
        assert!(features(TRIPLES[0], "x86-64-v3, avx-vnni").contains(&"avx_vnni"));
        assert_eq!(features(TRIPLES[1], "dotprod,lse"), ["dotprod", "lse"]);
    }

    /// In the order of the numbers that the functions in `cpu` return.
    #[test]
    fn versions_are_levels_in_order() {
        for triple in TRIPLES {
            let parsed = triple.parse().unwrap();
            let all: Vec<&str> = isa::levels(&parsed).iter().map(|(name, _)| *name).collect();
            let places = dispatched(triple).iter().map(|name| all.iter().position(|of| of == name).unwrap());
            assert!(places.is_sorted(), "{triple}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let refused = |triple: &str, cpu: &str| Target::new(triple, &cpu.parse().unwrap()).unwrap_err();
        insta::assert_snapshot!(
            [
                refused("s390x-unknown-linux-gnu", "generic").to_string(),
                refused(TRIPLES[0], "dotprod").to_string(),
                refused(TRIPLES[1], "x86-64-v3").to_string(),
                refused(TRIPLES[1], "dotprod,").to_string(),
            ]
            .join("\n")
        );
    }
}
