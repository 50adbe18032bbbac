//! Data objects of a module.

use crate::error::CompileError;
use cranelift_module::{DataDescription, DataId, FuncId, Linkage, Module};
use cranelift_object::ObjectModule;
use lstmc_kernels::PackedData;

/// Alignment of weights and words.
pub(super) const WEIGHT_ALIGN: u64 = 64;

/// A module whose data are defined. All are local.
pub(super) struct Data<'m> {
    pub(super) module: &'m mut ObjectModule,
    pub(super) failed: &'m dyn Fn(String) -> CompileError,
}

impl Data<'_> {
    fn define(
        &mut self,
        name: &str,
        writable: bool,
        description: &DataDescription,
    ) -> Result<DataId, CompileError> {
        let failed = |e: cranelift_module::ModuleError| (self.failed)(e.to_string());
        let id = self.module.declare_data(name, Linkage::Local, writable, false).map_err(failed)?;
        self.module.define_data(id, description).map_err(failed)?;
        Ok(id)
    }

    pub(super) fn bytes(
        &mut self,
        name: &str,
        contents: Vec<u8>,
        align: u64,
    ) -> Result<DataId, CompileError> {
        let mut description = DataDescription::new();
        description.define(contents.into_boxed_slice());
        description.set_align(align);
        self.define(name, false, &description)
    }

    /// The weights, and the table of their addresses, which the linker or the loader fills in.
    pub(super) fn weights(&mut self, weights: &[PackedData]) -> Result<DataId, CompileError> {
        let mut description = self.table(weights.len());
        for (n, weight) in weights.iter().enumerate() {
            let id = self.bytes(&format!("weights.{n}"), weight.bytes().to_vec(), WEIGHT_ALIGN)?;
            let global = self.module.declare_data_in_data(id, &mut description);
            description.write_data_addr(self.offset(n), global, 0);
        }
        self.define("weights", false, &description)
    }

    /// A table of the addresses of functions.
    pub(super) fn functions(&mut self, name: &str, functions: &[FuncId]) -> Result<DataId, CompileError> {
        let mut description = self.table(functions.len());
        for (n, &id) in functions.iter().enumerate() {
            let function = self.module.declare_func_in_data(id, &mut description);
            description.write_function_addr(self.offset(n), function);
        }
        self.define(name, false, &description)
    }

    /// Memory that starts as zeros.
    pub(super) fn variable(&mut self, name: &str, bytes: usize) -> Result<DataId, CompileError> {
        let mut description = DataDescription::new();
        description.define_zeroinit(bytes);
        description.set_align(bytes as u64);
        self.define(name, true, &description)
    }

    fn pointer(&self) -> usize {
        self.module.target_config().pointer_bytes().into()
    }

    /// Bytes from a table's start to an entry. There are some tens of entries.
    fn offset(&self, n: usize) -> u32 {
        (n * self.pointer()) as u32
    }

    fn table(&self, entries: usize) -> DataDescription {
        let mut description = DataDescription::new();
        // At least one entry: an empty object has no address.
        description.define(vec![0; entries.max(1) * self.pointer()].into_boxed_slice());
        description.set_align(self.pointer() as u64);
        description
    }
}
