//! The backend's output for a model, as text: plan, CLIF, machine code.

use crate::codegen::{Place, build_listed};
use crate::error::CompileError;
use crate::plan::Plan;
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_object::{ObjectBuilder, ObjectModule};
use lstmc_frontend::ir::Graph;
use std::fmt::Write;

/// The stages that can be shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Packing, buffers and steps.
    Plan,
    /// Cranelift's IR.
    Clif,
    /// Disassembly.
    Assembly,
}

/// One stage of a graph's compilation for `isa`, as text.
pub fn listing(graph: &Graph, isa: OwnedTargetIsa, stage: Stage) -> Result<String, CompileError> {
    let plan = Plan::new(graph, crate::isa::plan_target(&*isa))?;
    if stage == Stage::Plan {
        return Ok(plan.to_string());
    }
    let failed = |reason: String| CompileError::Codegen { function: "all".into(), reason };
    let builder = ObjectBuilder::new(isa.clone(), "lstmc", cranelift_module::default_libcall_names())
        .map_err(|e| failed(e.to_string()))?;
    let program = build_listed(&plan, &mut Place::new(&mut ObjectModule::new(builder), &*isa))?;
    let texts = if stage == Stage::Clif { &program.clif } else { &program.assembly };
    let mut out = String::new();
    for (entry, text) in texts {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "; {}\n{}", entry.name(), text.trim_end());
    }
    Ok(out)
}
