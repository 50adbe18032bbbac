//! A program's functions in any `cranelift_module::Module`.

use super::clif::Clif;
use super::emit::{self, Data, Emit};
use super::program::{Body, Entry, batched, body, linked, linked_body, stepwise};
use super::wide;
use crate::error::CompileError;
use crate::plan::Plan;
use cranelift_codegen::Context;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::{AbiParam, Function, Signature, Type, UserFuncName, Value, types};
use cranelift_codegen::isa::{CallConv, TargetIsa};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_module::{DataId, FuncId, Linkage, Module, ModuleError, ModuleReloc};

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

/// Where functions are defined.
pub(crate) struct Place<'m> {
    pub(crate) module: &'m mut dyn Module,
    /// The instructions that they may use; not necessarily the module's.
    pub(crate) isa: &'m dyn TargetIsa,
    /// What follows their local names.
    pub(crate) suffix: &'m str,
}

impl<'m> Place<'m> {
    pub(crate) fn new(module: &'m mut dyn Module, isa: &'m dyn TargetIsa) -> Place<'m> {
        Place { module, isa, suffix: "" }
    }
}

/// Defines every function of `plan` except the phases, and keeps CLIF and disassembly.
pub(crate) fn build_listed(plan: &Plan, place: &mut Place<'_>) -> Result<Program, CompileError> {
    build_entries(plan, place, true, body, stepwise(plan).chain(batched(plan)))
}

/// Defines the functions of `plan` that an engine in memory calls, with `phases` also those of several threads. What is needed from the logits is
/// computed by [`lstmc_kernels`].
pub(crate) fn build_engine(
    plan: &Plan,
    place: &mut Place<'_>,
    phases: bool,
) -> Result<Program, CompileError> {
    let phases = (0..if phases { plan.phases().len() } else { 0 }).map(Entry::Phase);
    let entries = [Entry::Advance, Entry::Logits].into_iter().chain(batched(plan)).chain(phases);
    build_entries(plan, place, false, body, entries)
}

/// Defines the functions of `plan` that are self-contained in an object.
pub(crate) fn build_stepwise(plan: &Plan, place: &mut Place<'_>) -> Result<Program, CompileError> {
    build_entries(plan, place, false, linked_body, linked(plan))
}

/// Defines functions of `plan`, in order.
fn build_entries(
    plan: &Plan,
    place: &mut Place<'_>,
    keep_text: bool,
    body: Body,
    entries: impl IntoIterator<Item = Entry>,
) -> Result<Program, CompileError> {
    let mut program = Program { functions: vec![], clif: vec![], assembly: vec![] };
    let (pointer, isa) = (place.isa.pointer_type(), place.isa);
    for (n, (wide, of)) in plan.wide().into_iter().enumerate() {
        let entry = Entry::Panels(n);
        let (bytes, text) = wide::panels(wide, of);
        program.functions.push((entry, define_bytes(place, &(entry.name() + place.suffix), &bytes)?));
        if keep_text {
            program.clif.push((entry, "; machine code".into()));
            program.assembly.push((entry, text));
        }
    }
    for entry in entries {
        let (parameters, returns) = entry.shape();
        let signature = (vec![pointer; parameters], returns.then_some(types::F32));
        let mut text = keep_text.then(<[String; 2]>::default);
        let emit = |module: &mut dyn Module, b: &mut FunctionBuilder<'_>, p: &[Value]| {
            let callees = program.functions.iter().filter(|(e, _)| entry.calls(*e));
            let callees: Vec<_> =
                callees.map(|&(e, id)| (e, module.declare_func_in_func(id, b.func))).collect();
            Clif::new(b, isa, &callees, &[]).function(p, |e, p| body(plan, entry, e, p));
        };
        let name = entry.name() + place.suffix;
        let id = define(place, &name, Linkage::Local, signature, text.as_mut(), emit)?;
        program.functions.push((entry, id));
        if let Some([clif, assembly]) = text {
            program.clif.push((entry, clif));
            program.assembly.push((entry, assembly));
        }
    }
    Ok(program)
}

/// Defines a function of [`wide`] from its bytes.
fn define_bytes(place: &mut Place<'_>, name: &str, bytes: &[u8]) -> Result<FuncId, CompileError> {
    let failed = |e: ModuleError| CompileError::Codegen { function: name.into(), reason: e.to_string() };
    // The same registers on every system.
    let mut signature = Signature::new(CallConv::SystemV);
    signature.params = vec![AbiParam::new(place.isa.pointer_type()); 3];
    let id = place.module.declare_function(name, Linkage::Local, &signature).map_err(failed)?;
    place.module.define_function_bytes(id, wide::ALIGN, bytes, &[]).map_err(failed)?;
    Ok(id)
}

/// Defines a function of the interface, which may call some functions of `program` and refer to `data`.
pub(crate) fn define_public(
    place: &mut Place<'_>,
    (name, linkage): (&str, Linkage),
    signature: (&[emit::Type], emit::Type),
    (program, calls): (&Program, &[Entry]),
    data: &[(Data, DataId)],
    body: impl FnOnce(&mut dyn Emit, &[emit::Value]) -> emit::Value,
) -> Result<FuncId, CompileError> {
    let (isa, signature) = (place.isa, public_types(place.isa, signature));
    define(place, name, linkage, signature, None, |module, b, p| {
        let callees = program.functions.iter().filter(|(e, _)| calls.contains(e));
        let callees: Vec<_> = callees.map(|&(e, id)| (e, module.declare_func_in_func(id, b.func))).collect();
        let data: Vec<_> = data.iter().map(|&(d, id)| (d, module.declare_data_in_func(id, b.func))).collect();
        Clif::new(b, isa, &callees, &data).function(p, |e, p| Some(body(e, p)));
    })
}

/// The types of parameters and result of a function of the interface.
pub(crate) fn public_types(
    isa: &dyn TargetIsa,
    (parameters, result): (&[emit::Type], emit::Type),
) -> (Vec<Type>, Option<Type>) {
    let pointer = isa.pointer_type();
    let ty = |&ty: &emit::Type| if ty == emit::Type::I32 { types::I32 } else { pointer };
    (parameters.iter().map(ty).collect(), Some(ty(&result)))
}

/// A signature with the target's usual calling convention.
pub(crate) fn signature(isa: &dyn TargetIsa, parameters: Vec<Type>, result: Option<Type>) -> Signature {
    let mut signature = Signature::new(isa.default_call_conv());
    signature.params.extend(parameters.into_iter().map(AbiParam::new));
    signature.returns.extend(result.map(AbiParam::new));
    signature
}

/// Defines a function with parameters and an optional result. `emit` gets its first block and its parameters, and terminates it. `text` receives its
/// CLIF and disassembly.
pub(crate) fn define(
    place: &mut Place<'_>,
    name: &str,
    linkage: Linkage,
    (parameters, result): (Vec<Type>, Option<Type>),
    text: Option<&mut [String; 2]>,
    emit: impl FnOnce(&mut dyn Module, &mut FunctionBuilder<'_>, &[Value]),
) -> Result<FuncId, CompileError> {
    let failed = |reason: String| CompileError::Codegen { function: name.into(), reason };
    let Place { module, isa, .. } = place;
    let signature = signature(*isa, parameters, result);
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
    emit(*module, &mut b, &parameters);
    b.finalize(isa.frontend_config());
    let clif = text.is_some().then(|| context.func.display().to_string());
    context.compile(*isa, &mut ControlPlane::default()).map_err(|e| failed(format!("{e:?}")))?;
    let compiled = context.compiled_code().expect("it was compiled");
    let buffer = &compiled.buffer;
    let relocations: Vec<_> =
        buffer.relocs().iter().map(|r| ModuleReloc::from_mach_reloc(r, &context.func, id)).collect();
    module
        .define_function_bytes(id, buffer.alignment.into(), buffer.data(), &relocations)
        .map_err(|e| failed(e.to_string()))?;
    if let (Some(text), Some(clif)) = (text, clif) {
        *text = [clif, compiled.vcode.clone().unwrap_or_default()];
    }
    Ok(id)
}
