//! A program's functions in any `cranelift_module::Module`.

use super::clif::Clif;
use super::emit::{self, Data, Emit};
use super::program::{Entry, batched, body, linked, stepwise};
use crate::error::CompileError;
use crate::plan::Plan;
use cranelift_codegen::Context;
use cranelift_codegen::ir::{AbiParam, Function, Type, UserFuncName, Value, types};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_module::{DataId, FuncId, Linkage, Module};

/// The functions of a program, defined in a module.
#[derive(Debug)]
pub(crate) struct Program {
    /// Each function's id.
    pub(crate) functions: Vec<(Entry, FuncId)>,
    /// Each function's CLIF, if requested.
    pub(crate) clif: Vec<(Entry, String)>,
    /// Each function's disassembly, if requested.
    pub(crate) assembly: Vec<(Entry, String)>,
}

/// Defines every function of `plan` in `module` except the phases, and keeps CLIF and disassembly.
pub(crate) fn build_listed(plan: &Plan, module: &mut dyn Module) -> Result<Program, CompileError> {
    build_entries(plan, module, true, stepwise(plan).chain(batched(plan)))
}

/// Defines the functions of `plan` that an engine in memory calls, with `phases` also those of several threads. What is needed from the logits is
/// computed by [`lstmc_kernels`].
pub(crate) fn build_engine(
    plan: &Plan,
    module: &mut dyn Module,
    phases: bool,
) -> Result<Program, CompileError> {
    let phases = (0..if phases { plan.phases().len() } else { 0 }).map(Entry::Phase);
    let entries = [Entry::Advance, Entry::Logits].into_iter().chain(batched(plan)).chain(phases);
    build_entries(plan, module, false, entries)
}

/// Defines the functions of `plan` that are self-contained in an object.
pub(crate) fn build_stepwise(plan: &Plan, module: &mut dyn Module) -> Result<Program, CompileError> {
    build_entries(plan, module, false, linked(plan))
}

/// Defines functions of `plan`, in order.
fn build_entries(
    plan: &Plan,
    module: &mut dyn Module,
    keep_text: bool,
    entries: impl IntoIterator<Item = Entry>,
) -> Result<Program, CompileError> {
    let mut program = Program { functions: vec![], clif: vec![], assembly: vec![] };
    let pointer = module.target_config().pointer_type();
    for entry in entries {
        let (parameters, returns, calls) = entry.shape();
        let signature = (vec![pointer; parameters], returns.then_some(types::F32));
        let mut text = keep_text.then(<[String; 2]>::default);
        let emit = |module: &mut dyn Module, b: &mut FunctionBuilder<'_>, p: &[Value]| {
            let callees = program.functions.iter().filter(|(e, _)| calls.contains(e));
            let callees: Vec<_> =
                callees.map(|&(e, id)| (e, module.declare_func_in_func(id, b.func))).collect();
            Clif::new(b, module.isa(), &callees, &[]).function(p, |e, p| body(plan, entry, e, p));
        };
        let id = define(module, &entry.name(), Linkage::Local, signature, text.as_mut(), emit)?;
        program.functions.push((entry, id));
        if let Some([clif, assembly]) = text {
            program.clif.push((entry, clif));
            program.assembly.push((entry, assembly));
        }
    }
    Ok(program)
}

/// Defines a public function, which may call some functions of `program` and refer to `data`.
pub(crate) fn define_public(
    module: &mut dyn Module,
    name: &str,
    (parameters, result): (&[emit::Type], emit::Type),
    (program, calls): (&Program, &[Entry]),
    data: &[(Data, DataId)],
    body: impl FnOnce(&mut dyn Emit, &[emit::Value]) -> emit::Value,
) -> Result<(), CompileError> {
    let pointer = module.target_config().pointer_type();
    let ty = |&ty: &emit::Type| if ty == emit::Type::I32 { types::I32 } else { pointer };
    let signature = (parameters.iter().map(ty).collect(), Some(ty(&result)));
    define(module, name, Linkage::Export, signature, None, |module, b, p| {
        let callees = program.functions.iter().filter(|(e, _)| calls.contains(e));
        let callees: Vec<_> = callees.map(|&(e, id)| (e, module.declare_func_in_func(id, b.func))).collect();
        let data: Vec<_> = data.iter().map(|&(d, id)| (d, module.declare_data_in_func(id, b.func))).collect();
        Clif::new(b, module.isa(), &callees, &data).function(p, |e, p| Some(body(e, p)));
    })?;
    Ok(())
}

/// Defines a function with parameters and an optional result. `emit` gets its first block and its parameters, and terminates it. `text` receives its
/// CLIF and disassembly.
pub(crate) fn define(
    module: &mut dyn Module,
    name: &str,
    linkage: Linkage,
    (parameters, result): (Vec<Type>, Option<Type>),
    text: Option<&mut [String; 2]>,
    emit: impl FnOnce(&mut dyn Module, &mut FunctionBuilder<'_>, &[Value]),
) -> Result<FuncId, CompileError> {
    let failed = |reason: String| CompileError::Codegen { function: name.into(), reason };
    let mut signature = module.make_signature();
    signature.params.extend(parameters.into_iter().map(AbiParam::new));
    signature.returns.extend(result.map(AbiParam::new));
    let id = module.declare_function(name, linkage, &signature).map_err(|e| failed(e.to_string()))?;
    let mut context = Context::new();
    context.func = Function::with_name_signature(UserFuncName::user(0, id.as_u32()), signature);
    context.set_disasm(text.is_some());
    let mut builder_context = FunctionBuilderContext::new();
    let mut b = FunctionBuilder::new(&mut context.func, &mut builder_context);
    let block = b.create_block();
    b.append_block_params_for_function_params(block);
    b.switch_to_block(block);
    b.seal_block(block);
    let parameters = b.block_params(block).to_vec();
    emit(module, &mut b, &parameters);
    b.finalize(module.isa().frontend_config());
    let clif = text.is_some().then(|| context.func.display().to_string());
    module.define_function(id, &mut context).map_err(|e| failed(format!("{e:?}")))?;
    if let (Some(text), Some(clif)) = (text, clif) {
        *text = [clif, context.compiled_code().and_then(|c| c.vcode.clone()).unwrap_or_default()];
    }
    Ok(id)
}
