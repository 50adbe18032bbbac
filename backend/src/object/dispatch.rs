//! Functions that exist once for each level, and are chosen when the first of them is called.
//!
//! ```text
//!   NAME_step ──▶ chosen row, or ask the processor once ──▶ its column ──▶ NAME_step.avx2
//!
//!   table   [level][function] addresses, read-only
//!   chosen  the address of a row, or null: the only memory that a library writes
//! ```
//!
//! Threads that ask at the same time find and write the same row.

use super::cpu;
use super::data::Data;
use super::target::Target;
use crate::codegen::{self, Place, define};
use crate::error::CompileError;
use cranelift_codegen::ir::{BlockArg, InstBuilder, MemFlagsData, Type, Value, types};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::FunctionBuilder;
use cranelift_module::{DataId, FuncId, Linkage, Module};

/// A function's columns: its name, types of parameters and result, and the function of each level.
pub(super) struct Column {
    pub(super) name: String,
    pub(super) signature: (Vec<Type>, Option<Type>),
    pub(super) versions: Vec<FuncId>,
}

/// Defines the public functions, which call the version for the processor that they run on.
pub(super) fn define_all(
    data: &mut Data<'_>,
    target: &Target,
    columns: &[Column],
) -> Result<(), CompileError> {
    let isa = &**target.isa();
    let pointer = isa.pointer_bytes() as usize;
    let choose = defined_choice(data, isa)?;
    let rows = target.versions().len();
    let functions = (0..rows).flat_map(|row| columns.iter().map(move |column| column.versions[row]));
    let table = data.functions("dispatch", &functions.collect::<Vec<_>>())?;
    let chosen = data.variable("dispatch.chosen", pointer)?;
    let dispatch = Dispatch { isa, choose, table, chosen, row: columns.len() * pointer };
    for (n, column) in columns.iter().enumerate() {
        let mut place = Place::new(data.module, isa);
        define(&mut place, &column.name, Linkage::Export, column.signature.clone(), None, |module, b, p| {
            dispatch.body(module, b, p, column, n * pointer);
        })?;
    }
    Ok(())
}

/// The function that returns the processor's level, as a number of a version.
fn defined_choice(data: &mut Data<'_>, isa: &dyn TargetIsa) -> Result<FuncId, CompileError> {
    let failed = |e: cranelift_module::ModuleError| CompileError::Codegen {
        function: "level".into(),
        reason: e.to_string(),
    };
    let signature = codegen::signature(isa, vec![], Some(types::I32));
    let id = data.module.declare_function("level", Linkage::Local, &signature).map_err(failed)?;
    let bytes = match isa.triple().architecture {
        target_lexicon::Architecture::Aarch64(_) => cpu::AARCH64,
        target_lexicon::Architecture::X86_64 => cpu::X86_64,
        other => unreachable!("`dispatched` has one level for {other}"),
    };
    let align = isa.function_alignment().preferred.into();
    data.module.define_function_bytes(id, align, bytes, &[]).map_err(failed)?;
    Ok(id)
}

struct Dispatch<'t> {
    isa: &'t dyn TargetIsa,
    choose: FuncId,
    table: DataId,
    chosen: DataId,
    /// Bytes of a row of the table.
    row: usize,
}

impl Dispatch<'_> {
    fn body(
        &self,
        module: &mut dyn Module,
        b: &mut FunctionBuilder<'_>,
        parameters: &[Value],
        column: &Column,
        offset: usize,
    ) {
        let pointer = self.isa.pointer_type();
        let [table, chosen] = [self.table, self.chosen].map(|id| module.declare_data_in_func(id, b.func));
        let choose = module.declare_func_in_func(self.choose, b.func);
        let (first, go) = (b.create_block(), b.create_block());
        b.append_block_param(go, pointer);
        let at = b.ins().symbol_value(pointer, chosen);
        let row = b.ins().atomic_load(pointer, MemFlagsData::trusted(), at);
        b.ins().brif(row, go, &[BlockArg::Value(row)], first, &[]);
        b.switch_to_block(first);
        let call = b.ins().call(choose, &[]);
        let level = b.inst_results(call)[0];
        let level = b.ins().uextend(pointer, level);
        let down = b.ins().imul_imm_s(level, self.row as i64);
        let table = b.ins().symbol_value(pointer, table);
        let row = b.ins().iadd(table, down);
        b.ins().atomic_store(MemFlagsData::trusted(), row, at);
        b.ins().jump(go, &[BlockArg::Value(row)]);
        b.switch_to_block(go);
        b.seal_all_blocks();
        let row = b.block_params(go)[0];
        let version = b.ins().load(pointer, MemFlagsData::trusted().with_readonly(), row, offset as i32);
        let (parameter_types, result) = column.signature.clone();
        let signature = b.import_signature(codegen::signature(self.isa, parameter_types, result));
        let call = b.ins().call_indirect(signature, version, parameters);
        let results = b.inst_results(call).to_vec();
        b.ins().return_(&results);
    }
}
