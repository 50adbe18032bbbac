//! Targets: the CPU that code is generated for.

use crate::error::CompileError;
use crate::plan::Wide;
use cranelift_codegen::isa::{self, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable, Flags};
use lstmc_kernels::Level;
use target_lexicon::{Architecture, Triple};

/// How hard Cranelift optimises. `None` keeps the order of our unrolled bodies, which is usually better: `Speed`
/// moves their loads together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OptLevel {
    /// Keep program order.
    #[default]
    None,
    /// Run Cranelift's own optimiser.
    Speed,
}

pub(crate) fn flags(level: OptLevel, pic: bool) -> Result<Flags, CompileError> {
    let target = |e: settings::SetError| CompileError::Target(e.to_string());
    let mut b = settings::builder();
    let level = match level {
        OptLevel::None => "none",
        OptLevel::Speed => "speed",
    };
    b.set("opt_level", level).map_err(target)?;
    b.set("is_pic", if pic { "true" } else { "false" }).map_err(target)?;
    b.set("use_colocated_libcalls", "false").map_err(target)?;
    // The verifier of Cranelift is for its own developers; ours runs on the IR.
    b.set("enable_verifier", if cfg!(debug_assertions) { "true" } else { "false" }).map_err(target)?;
    Ok(Flags::new(b))
}

/// The machine this program runs on, with the features of a level.
pub fn host(level: Level, opt_level: OptLevel) -> Result<OwnedTargetIsa, CompileError> {
    let target = |e: &dyn std::fmt::Display| CompileError::Target(e.to_string());
    let mut builder = cranelift_native::builder_with_options(false).map_err(|e| target(&e))?;
    let triple = builder.triple().clone();
    for flag in required(&triple).iter().chain(level_flags(&triple, level.name()).unwrap_or_default()) {
        builder.enable(flag).map_err(|e| target(&e))?;
    }
    builder.finish(flags(opt_level, false)?).map_err(|e| target(&e))
}

/// A target triple with Cranelift's feature flags set by name, for listings that are the same on every machine.
pub fn target(triple: &str, features: &[&str], level: OptLevel) -> Result<OwnedTargetIsa, CompileError> {
    let parsed = triple.parse().map_err(|e| CompileError::Target(format!("{triple}: {e}")))?;
    let mut builder = isa::lookup(parsed).map_err(|e| CompileError::Target(format!("{triple}: {e}")))?;
    let required = required(builder.triple());
    for feature in required.iter().chain(features) {
        builder.enable(feature).map_err(|e| CompileError::Target(format!("{triple}, {feature}: {e}")))?;
    }
    builder.finish(flags(level, false)?).map_err(|e| CompileError::Target(e.to_string()))
}

/// The features of an x86-64 server core with AVX-512, as Cranelift names them.
pub const X86_SERVER: &[&str] = &[
    "has_sse3",
    "has_ssse3",
    "has_sse41",
    "has_sse42",
    "has_popcnt",
    "has_avx",
    "has_avx2",
    "has_fma",
    "has_bmi1",
    "has_bmi2",
    "has_lzcnt",
    "has_avx512f",
    "has_avx512vl",
    "has_avx512dq",
    "has_avx512vnni",
];

/// The features of an x86-64 core with AVX2 and AVX-VNNI.
const X86_AVX_VNNI: &[&str] = &[
    "has_sse3",
    "has_ssse3",
    "has_sse41",
    "has_sse42",
    "has_popcnt",
    "has_avx",
    "has_avx2",
    "has_fma",
    "has_bmi1",
    "has_bmi2",
    "has_lzcnt",
    "has_avx_vnni",
];

/// The features that generated code may use at each [`Level`], by the level's name.
pub(crate) const X86_LEVELS: &[(&str, &[&str])] = &[
    ("plain", &[]),
    ("sse4.1", X86_SERVER.split_at(3).0),
    ("avx2", X86_SERVER.split_at(11).0),
    ("avx2-vnni", X86_AVX_VNNI),
    ("avx512", X86_SERVER.split_at(14).0),
    ("avx512-vnni", X86_SERVER),
];

/// The same for arm64.
pub(crate) const ARM_LEVELS: &[(&str, &[&str])] =
    &[("plain", &[]), ("neon", &[]), ("dotprod", &["has_dotprod"]), ("i8mm", &["has_dotprod", "has_i8mm"])];

/// Features without which there is no code: vectors of 128 bits.
pub(crate) fn required(triple: &Triple) -> &'static [&'static str] {
    match triple.architecture {
        Architecture::Riscv64(_) => &["has_v"],
        _ => &[],
    }
}

/// The levels of an architecture.
pub(crate) fn levels(triple: &Triple) -> &'static [(&'static str, &'static [&'static str])] {
    match triple.architecture {
        Architecture::X86_64 => X86_LEVELS,
        Architecture::Aarch64(_) => ARM_LEVELS,
        _ => &[("plain", &[])],
    }
}

/// The features that code for a target may use at a level.
fn level_flags(triple: &Triple, level: &str) -> Option<&'static [&'static str]> {
    levels(triple).iter().find(|(name, _)| *name == level).map(|(_, flags)| *flags)
}

/// What a plan must know about a target.
pub fn plan_target(isa: &dyn isa::TargetIsa) -> crate::plan::Target {
    let signed_bytes =
        matches!(isa.triple().architecture, Architecture::Aarch64(_) | Architecture::Riscv64(_));
    let pairs = !has_dot(isa) && has(isa, "has_ssse3") && has(isa, "has_sse41");
    // Every processor with AVX2 also converts f16s (F16C), as such products do.
    let wide = match () {
        () if !(has(isa, "has_avx2") && has(isa, "has_fma")) => None,
        () if has(isa, "has_avx512vl") && has(isa, "has_avx512vnni") => Some(Wide::Avx512Vnni),
        () if has(isa, "has_avx_vnni") => Some(Wide::AvxVnni),
        () => Some(Wide::Avx2),
    };
    crate::plan::Target { signed_bytes, pairs, wide, shared: false }
}

fn has(isa: &dyn isa::TargetIsa, flag: &str) -> bool {
    isa.isa_flags().iter().any(|f| f.name == flag && f.as_bool() == Some(true))
}

/// Whether fused multiply-add is an instruction; otherwise it would be a library call.
pub(crate) fn has_fma(isa: &dyn isa::TargetIsa) -> bool {
    !matches!(isa.triple().architecture, Architecture::X86_64) || has(isa, "has_fma")
}

/// Whether a product of bytes is an instruction.
pub(crate) fn has_dot(isa: &dyn isa::TargetIsa) -> bool {
    has(isa, "has_dotprod")
        || has(isa, "has_avx_vnni")
        || has(isa, "has_avx512vl") && has(isa, "has_avx512vnni")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_has_its_flags() {
        for (name, _, level) in Level::known() {
            assert!(level_flags(&Triple::host(), name).is_some(), "{name}");
            if let Ok(level) = level {
                let isa = host(level, OptLevel::None).unwrap();
                let dot = has_dot(&*isa);
                assert_eq!(dot, name.contains("vnni") || ["dotprod", "i8mm"].contains(&name), "{name}");
            }
        }
    }
}
