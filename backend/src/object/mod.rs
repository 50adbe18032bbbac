//! Ahead of time: a model as an object file, a static library or a file of C that any program can link, with a C header or a Rust crate.
//!
//! ```text
//!   Plan ──▶ codegen ─────────▶ interface ──┐
//!     └────▶ pack ─────────────────────────▶├──▶ ObjectModule ──▶ object ──▶ archive
//!   Tokenizer  ──▶ vocabulary ──────────────┴──▶ C
//! ```
//!
//! The code is the same as the JIT's, from the same emitters. An object adds the public functions of [`interface`], which are
//! generated too: an object needs no library, not even the C library. Everything in it is read-only.

mod archive;
mod binding;
mod interface;
mod target;
mod vocabulary;

pub use archive::archive;
pub use binding::{crate_files, header, module};
pub use interface::{ABI_VERSION, STATE_ALIGN, suffixes};
pub use target::{Cpu, TRIPLES, Target};

use crate::codegen::c::source::Source;
use crate::codegen::emit::{self, Features};
use crate::codegen::{self, build_stepwise};
pub use crate::error::{ObjectError, TargetError};

use crate::error::CompileError;
use crate::isa::{has_dot, plan_target};
use crate::pack::pack;
pub use crate::plan::Head;
use crate::plan::{self, Plan};
use cranelift_module::{DataDescription, DataId, Linkage, Module};
use cranelift_object::object::read::{Object as _, ObjectSection};
use cranelift_object::object::{self, SectionKind};
use cranelift_object::{ObjectBuilder, ObjectModule};
use interface::{Parts, Shares, Words};
use lstmc_frontend::ir::Graph;
use lstmc_kernels::PackedData;
use lstmc_runtime::Tokenizer;
use vocabulary::Tables;

/// What public functions return.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Status {
    /// Success.
    Ok = 0,
    /// A pointer is null.
    Null = 1,
    /// The state is not aligned to [`STATE_ALIGN`].
    Misaligned = 2,
    /// A buffer is too short, or the requested count is zero or too large.
    Size = 3,
    /// The memory is not a state of this model: it was never reset, or was reset by another model.
    State = 4,
    /// A token that is not in the vocabulary.
    Token = 5,
    /// The caller was compiled with the header of another version.
    Version = 6,
    /// A word that is not in the vocabulary.
    Word = 7,
    /// The model was compiled without a vocabulary.
    Vocabulary = 8,
}

/// The maximum number of characters of a name.
pub const MAX_NAME: usize = 64;

/// Reserved words of C, C++ or Rust, and libraries that linkers search for implicitly.
const RESERVED: &str = "abstract alignas alignof and asm async auto await become bool box break case catch char class concept const \
    continue core crate default delete do double dyn else enum explicit export extern false final float fn for friend goto if impl in inline int \
    let long loop macro match mod move mut mutable namespace new not nullptr operator or override priv private protected pub public ref \
    register requires restrict return self short signed sizeof static std struct super switch template test this throw trait true try type \
    typedef typename typeof union unsafe unsigned unsized use using virtual void volatile where while xor yield \
    c dl gcc m pthread rt util";

/// Checks that a name can be the prefix of C functions and the name of a Rust crate.
pub fn check_name(name: &str) -> Result<(), ObjectError> {
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic());
    let fits = starts && name.len() <= MAX_NAME;
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let reserved = RESERVED.split_whitespace().any(|word| word == name);
    if fits && plain && !reserved {
        Ok(())
    } else {
        Err(ObjectError::Name { name: name.into(), most: MAX_NAME })
    }
}

/// A model compiled to an object file, or to C.
#[derive(Debug)]
pub struct Object {
    /// The prefix of its symbols.
    pub name: String,
    /// The file.
    pub bytes: Vec<u8>,
    /// The sizes of its parts.
    pub sizes: Sizes,
    /// What a step writes.
    pub head: Head,
}

/// Sizes in bytes, except for the vocabulary's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Machine code with its constants; of C, the text of its functions.
    pub code: usize,
    /// Packed weights.
    pub weights: usize,
    /// The words and their index.
    pub words: usize,
    /// Memory that one stream of text needs.
    pub state: usize,
    /// The number of words of the model.
    pub vocabulary: usize,
    /// The number of f32s that a step writes.
    pub outputs: usize,
}

/// Compiles a graph in language-model form to an object file. `info` is what `NAME_info` returns.
pub fn compile(
    graph: &Graph,
    words: Option<&Tokenizer>,
    target: &Target,
    name: &str,
    info: &str,
) -> Result<Object, CompileError> {
    let plan = Plan::new(graph, plan_target(&**target.isa()))?;
    Prepared::new(graph, plan, words, target, name, info)?.object()
}

/// Compiles a graph in language-model form to C, whose data lie as the target's processors like them.
pub fn compile_c(
    graph: &Graph,
    words: Option<&Tokenizer>,
    target: &Target,
    name: &str,
    info: &str,
) -> Result<Object, CompileError> {
    // The compiler chooses among the instructions that multiply bytes; narrow codes it takes without their signs.
    let planned = plan_target(&**target.isa());
    let plan = Plan::new(graph, plan::Target { pairs: planned.signed_bytes, ..planned })?;
    Ok(Prepared::new(graph, plan, words, target, name, info)?.c())
}

/// A model planned and packed for a target, with all that its public functions need.
struct Prepared<'m> {
    name: &'m str,
    info: Vec<u8>,
    target: &'m Target,
    plan: Plan,
    weights: Vec<PackedData>,
    tables: Option<Tables>,
    parts: Parts,
}

impl<'m> Prepared<'m> {
    fn new(
        graph: &Graph,
        plan: Plan,
        words: Option<&Tokenizer>,
        target: &'m Target,
        name: &'m str,
        info: &str,
    ) -> Result<Prepared<'m>, CompileError> {
        check_name(name)?;
        let tables = words.map(Tables::new).transpose()?;
        if let Some(found) = words.map(|t| t.vocabulary().len())
            && found != plan.vocabulary
        {
            return Err(ObjectError::Vocabulary { found, expected: plan.vocabulary }.into());
        }
        let weights = pack(&plan, graph)?;
        let scratch = STATE_ALIGN + (plan.state_len * 4).next_multiple_of(STATE_ALIGN);
        let parts = Parts {
            words: tables.as_ref().map(|t| Words { short: t.short, unknown: t.unknown }),
            vocabulary: plan.vocabulary,
            outputs: plan.logits.len,
            starts: !plan.initial.is_empty(),
            scratch,
            size: scratch + (plan.scratch_len * 4).next_multiple_of(STATE_ALIGN),
            identity: identity(&plan, &weights),
            phases: plan.phases().iter().map(Shares::of).collect(),
        };
        let info = [info.as_bytes(), &[0]].concat();
        Ok(Prepared { name, info, target, plan, weights, tables, parts })
    }

    /// An object file.
    fn object(&self) -> Result<Object, CompileError> {
        let failed = |reason: String| CompileError::Codegen { function: self.name.into(), reason };
        let isa = self.target.isa().clone();
        let builder = ObjectBuilder::new(isa, self.name, cranelift_module::default_libcall_names())
            .map_err(|e| failed(e.to_string()))?;
        let mut module = ObjectModule::new(builder);
        let program = build_stepwise(&self.plan, &mut module)?;
        let mut data = Data { module: &mut module, failed: &failed };
        let mut known = vec![(emit::Data::Weights, data.table(&self.weights)?)];
        for (of, bytes) in self.data() {
            let align = if of == emit::Data::Info { 1 } else { WEIGHT_ALIGN };
            known.push((of, data.bytes(of.name(), bytes.to_vec(), align)?));
        }
        for function in interface::functions(self.plan.head) {
            let name = format!("{}_{}", self.name, function.suffix);
            let parameters: Vec<_> = function.parameters.iter().map(|c| interface::type_of(c)).collect();
            let signature = (&*parameters, interface::type_of(function.result));
            let calls = function.calls(self.parts.phases.len());
            let calls = (&program, &*calls);
            codegen::define_public(&mut module, &name, signature, calls, &known, |e, p| {
                interface::body(&self.parts, function, e, p)
            })?;
        }
        let bytes = module.finish().emit().map_err(|e| failed(e.to_string()))?;
        let file = object::File::parse(&*bytes).map_err(|e| failed(e.to_string()))?;
        let text = file.sections().filter(|s| s.kind() == SectionKind::Text);
        let code = text.map(|s| s.size() as usize).sum();
        Ok(self.compiled(bytes, code))
    }

    /// A file of C, which any compiler turns into such an object.
    fn c(&self) -> Object {
        let isa = &**self.target.isa();
        let signed_bytes = self.plan.target.signed_bytes;
        let features = Features { dot: has_dot(isa), signed_bytes, pairs: false, sums: true };
        let mut source = Source::new(features);
        source.weights(self.weights.iter().map(PackedData::bytes));
        self.data().into_iter().for_each(|(of, bytes)| source.data(of, bytes));
        source.program(&self.plan);
        for function in interface::functions(self.plan.head) {
            let name = format!("{}_{}", self.name, function.suffix);
            source.function(&name, function.parameters, function.result, |e, p| {
                interface::body(&self.parts, function, e, p)
            });
        }
        let mut object = self.compiled(vec![], source.code_bytes());
        object.bytes = source.finish(&binding::source(&object, self.target)).into_bytes();
        object
    }

    /// All data but the weights.
    fn data(&self) -> Vec<(emit::Data, &[u8])> {
        let mut data = vec![(emit::Data::Info, &*self.info)];
        if let Some(t) = &self.tables {
            let kinds = [emit::Data::Strings, emit::Data::Places, emit::Data::Sorted];
            data.extend(kinds.into_iter().zip([&*t.strings, &*t.places, &*t.sorted]));
        }
        data
    }

    fn compiled(&self, bytes: Vec<u8>, code: usize) -> Object {
        let sizes = Sizes {
            code,
            weights: self.weights.iter().map(|w| w.bytes().len()).sum(),
            words: self.tables.as_ref().map_or(0, Tables::bytes),
            state: self.parts.size,
            vocabulary: self.plan.vocabulary,
            outputs: self.plan.logits.len,
        };
        Object { name: self.name.into(), bytes, sizes, head: self.plan.head }
    }
}

/// Alignment of weights and words.
const WEIGHT_ALIGN: u64 = 64;

/// Data objects of a module.
struct Data<'m> {
    module: &'m mut ObjectModule,
    failed: &'m dyn Fn(String) -> CompileError,
}

impl Data<'_> {
    fn define(&mut self, name: &str, description: &DataDescription) -> Result<DataId, CompileError> {
        let failed = |e: cranelift_module::ModuleError| (self.failed)(e.to_string());
        let id = self.module.declare_data(name, Linkage::Local, false, false).map_err(failed)?;
        self.module.define_data(id, description).map_err(failed)?;
        Ok(id)
    }

    fn bytes(&mut self, name: &str, contents: Vec<u8>, align: u64) -> Result<DataId, CompileError> {
        let mut description = DataDescription::new();
        description.define(contents.into_boxed_slice());
        description.set_align(align);
        self.define(name, &description)
    }

    /// The weights, and the table of their addresses, which the linker or the loader fills in.
    fn table(&mut self, weights: &[PackedData]) -> Result<DataId, CompileError> {
        let pointer = usize::from(self.module.target_config().pointer_bytes());
        let mut description = DataDescription::new();
        // At least one entry: an empty object has no address.
        description.define(vec![0; weights.len().max(1) * pointer].into_boxed_slice());
        description.set_align(pointer as u64);
        for (n, weight) in weights.iter().enumerate() {
            let id = self.bytes(&format!("weights.{n}"), weight.bytes().to_vec(), WEIGHT_ALIGN)?;
            let global = self.module.declare_data_in_data(id, &mut description);
            // A model has some tens of weights.
            description.write_data_addr((n * pointer) as u32, global, 0);
        }
        self.define("weights", &description)
    }
}

/// A number that tells states of this model and this layout from other memory: FNV-1a of the plan's text and the weights.
fn identity(plan: &Plan, weights: &[PackedData]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |word: u64| hash = (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3);
    plan.to_string().bytes().for_each(|b| add(b.into()));
    for weight in weights {
        weight.f32s().iter().for_each(|x| add(x.to_bits().into()));
    }
    add(ABI_VERSION.into());
    // All-zero memory is not a state.
    hash.max(1)
}
