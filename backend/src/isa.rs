//! Targets: the CPU that code is made for.

use crate::error::CompileError;
use cranelift_codegen::isa::{self, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable, Flags};

/// How hard Cranelift optimises. `None` keeps the order of our unrolled bodies, which is usually what is wanted: `Speed`
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

/// The machine this program runs on, with all features it has.
pub fn native(level: OptLevel) -> Result<OwnedTargetIsa, CompileError> {
    let builder = cranelift_native::builder().map_err(|e| CompileError::Target(e.to_string()))?;
    builder.finish(flags(level, false)?).map_err(|e| CompileError::Target(e.to_string()))
}

/// A target triple with Cranelift's feature flags set by name, for listings that are the same on every machine.
pub fn target(triple: &str, features: &[&str], level: OptLevel) -> Result<OwnedTargetIsa, CompileError> {
    let parsed = triple.parse().map_err(|e| CompileError::Target(format!("{triple}: {e}")))?;
    let mut builder = isa::lookup(parsed).map_err(|e| CompileError::Target(format!("{triple}: {e}")))?;
    for feature in features {
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

/// What a plan must know of a target.
pub fn plan_target(isa: &dyn isa::TargetIsa) -> crate::plan::Target {
    let arm = matches!(isa.triple().architecture, target_lexicon::Architecture::Aarch64(_));
    crate::plan::Target { signed_bytes: arm }
}
