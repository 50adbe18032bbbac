//! A program's functions in any `cranelift_module::Module`.

use super::clif::Clif;
use super::program::{Entry, STEPWISE, batched, body};
use crate::error::CompileError;
use crate::plan::Plan;
use cranelift_codegen::Context;
use cranelift_codegen::ir::{AbiParam, FuncRef, Function, UserFuncName, types};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_module::{FuncId, Linkage, Module};

/// The functions of a program, defined in a module.
#[derive(Debug)]
pub(crate) struct Program {
    /// Each function's id.
    pub(crate) functions: Vec<(Entry, FuncId)>,
    /// Each function's CLIF, where asked for.
    pub(crate) clif: Vec<(Entry, String)>,
    /// Each function's disassembly, where asked for.
    pub(crate) assembly: Vec<(Entry, String)>,
}

/// Defines every function of `plan` in `module` but the phases, and keeps CLIF and disassembly.
pub(crate) fn build_listed(plan: &Plan, module: &mut dyn Module) -> Result<Program, CompileError> {
    build_entries(plan, module, true, STEPWISE.into_iter().chain(batched(plan)))
}

/// Defines the functions of `plan` that an engine in memory calls, with `phases` also those of several threads. What is wanted of the logits is
/// found by [`lstmc_kernels`].
pub(crate) fn build_engine(
    plan: &Plan,
    module: &mut dyn Module,
    phases: bool,
) -> Result<Program, CompileError> {
    let phases = (0..if phases { plan.phases().len() } else { 0 }).map(Entry::Phase);
    let entries = [Entry::Advance, Entry::Logits].into_iter().chain(batched(plan)).chain(phases);
    build_entries(plan, module, false, entries)
}

/// Defines the functions of `plan` that stand alone in an object.
pub(crate) fn build_stepwise(plan: &Plan, module: &mut dyn Module) -> Result<Program, CompileError> {
    build_entries(plan, module, false, STEPWISE)
}

/// Defines functions of `plan`, in order.
fn build_entries(
    plan: &Plan,
    module: &mut dyn Module,
    keep_text: bool,
    entries: impl IntoIterator<Item = Entry>,
) -> Result<Program, CompileError> {
    let mut program = Program { functions: vec![], clif: vec![], assembly: vec![] };
    let mut context = Context::new();
    let mut builder_context = FunctionBuilderContext::new();
    for entry in entries {
        let failed = |reason: String| CompileError::Codegen { function: entry.name(), reason };
        let (parameters, returns) = entry.signature();
        let pointer = AbiParam::new(module.target_config().pointer_type());
        let mut signature = module.make_signature();
        signature.params.resize(parameters, pointer);
        signature.returns.extend(returns.then(|| AbiParam::new(types::F32)));
        let id = module
            .declare_function(&entry.name(), Linkage::Local, &signature)
            .map_err(|e| failed(e.to_string()))?;
        program.functions.push((entry, id));
        module.clear_context(&mut context);
        context.func = Function::with_name_signature(UserFuncName::user(0, id.as_u32()), signature);
        let callees: Vec<(Entry, FuncRef)> = program
            .functions
            .iter()
            .filter(|(e, _)| entry.callees().contains(e))
            .map(|&(e, id)| (e, module.declare_func_in_func(id, &mut context.func)))
            .collect();
        let mut builder = FunctionBuilder::new(&mut context.func, &mut builder_context);
        let mut e = Clif::new(&mut builder, module.isa(), &callees);
        let parameters = e.parameters();
        let result = body(plan, entry, &mut e, &parameters);
        e.finish(result);
        builder.finalize(module.isa().frontend_config());
        if keep_text {
            program.clif.push((entry, context.func.display().to_string()));
            context.set_disasm(true);
        }
        module.define_function(id, &mut context).map_err(|e| failed(format!("{e:?}")))?;
        if keep_text {
            let text = context.compiled_code().and_then(|c| c.vcode.clone()).unwrap_or_default();
            program.assembly.push((entry, text));
        }
    }
    Ok(program)
}
