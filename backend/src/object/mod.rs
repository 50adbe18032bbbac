//! Ahead of time: a model as an object file, a static library or a file of C that any program can link, with a C header or a Rust crate.
//!
//! ```text
//!   Plan ──▶ codegen ─────────▶ interface ──┐
//!     └────▶ pack ─────────────────────────▶├──▶ ObjectModule ──▶ object ──▶ archive
//!   Tokenizer  ──▶ vocabulary ──────────────┴──▶ C
//! ```
//!
//! The code is the same as the JIT's, from the same emitters. An object adds the public functions of [`interface`], which are
//! generated too: an object needs no library, not even the C library. Everything in it is read-only, but for a variable where [`dispatch`] chooses.

mod archive;
mod binding;
mod cpu;
mod data;
mod dispatch;
mod interface;
mod target;
mod vocabulary;

pub use archive::archive;
pub use binding::{crate_files, header, module};
pub use interface::{ABI_VERSION, STATE_ALIGN, suffixes};
pub use target::{Cpu, TRIPLES, Target, Version};

use crate::codegen::c::source::Source;
use crate::codegen::emit::{self, Features};
use crate::codegen::{Place, build_stepwise, define_public, public_types};
pub use crate::error::{ObjectError, TargetError};

use crate::error::CompileError;
use crate::isa::plan_target;
use crate::pack::pack;
pub use crate::plan::Head;
use crate::plan::{self, Plan};
use cranelift_module::Linkage;
use cranelift_object::object::read::{Object as _, ObjectSection};
use cranelift_object::object::{self, SectionKind};
use cranelift_object::{ObjectBuilder, ObjectModule};
use data::{Data, WEIGHT_ALIGN};
use dispatch::Column;
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

/// Compiles a graph in language-model form to an object file. `info` makes what `NAME_info` returns where a version of the code runs.
pub fn compile(
    graph: &Graph,
    words: Option<&Tokenizer>,
    target: &Target,
    name: &str,
    info: &dyn Fn(&Version) -> String,
) -> Result<Object, CompileError> {
    let versions = target.versions();
    // All versions read the same weights.
    let several = versions.len() > 1;
    let plan = |v: &Version| {
        let target = plan_target(&**v.isa());
        Plan::new(graph, plan::Target { shared: several && !target.signed_bytes, ..target })
    };
    let plans = versions.iter().map(plan).collect::<Result<Vec<_>, _>>()?;
    let infos = versions.iter().map(info).collect();
    Prepared::new(graph, plans, words, target, name, infos)?.object()
}

/// Compiles a graph in language-model form to C, whose data lie as the target's processors like them. `info` is what `NAME_info` returns.
pub fn compile_c(
    graph: &Graph,
    words: Option<&Tokenizer>,
    target: &Target,
    name: &str,
    info: String,
) -> Result<Object, CompileError> {
    // The compiler chooses among the instructions that multiply bytes; narrow codes it takes without their signs.
    let planned = plan_target(&**target.isa());
    let plan = Plan::new(graph, plan::Target { pairs: planned.signed_bytes, wide: None, ..planned })?;
    Ok(Prepared::new(graph, vec![plan], words, target, name, vec![info])?.c())
}

/// A model planned and packed for a target, with all that its public functions need.
struct Prepared<'m> {
    name: &'m str,
    target: &'m Target,
    /// For each version of the code what `NAME_info` returns, and the plan; all have the same weights and the same memory.
    infos: Vec<Vec<u8>>,
    plans: Vec<Plan>,
    weights: Vec<PackedData>,
    tables: Option<Tables>,
    parts: Parts,
}

impl<'m> Prepared<'m> {
    fn new(
        graph: &Graph,
        plans: Vec<Plan>,
        words: Option<&Tokenizer>,
        target: &'m Target,
        name: &'m str,
        infos: Vec<String>,
    ) -> Result<Prepared<'m>, CompileError> {
        check_name(name)?;
        let tables = words.map(Tables::new).transpose()?;
        let plan = &plans[0];
        assert!(
            plans.iter().all(|p| p.shares_memory(plan)),
            "versions of one program share weights and memory"
        );
        if let Some(found) = words.map(|t| t.vocabulary().len())
            && found != plan.vocabulary
        {
            return Err(ObjectError::Vocabulary { found, expected: plan.vocabulary }.into());
        }
        let weights = pack(plan, graph)?;
        let scratch = STATE_ALIGN + (plan.state_len * 4).next_multiple_of(STATE_ALIGN);
        let parts = Parts {
            words: tables.as_ref().map(|t| Words { short: t.short, unknown: t.unknown }),
            vocabulary: plan.vocabulary,
            outputs: plan.logits.len,
            starts: !plan.initial.is_empty(),
            scratch,
            size: scratch + (plan.scratch_len * 4).next_multiple_of(STATE_ALIGN),
            identity: identity(plan, &weights),
            phases: plan.phases().iter().map(Shares::of).collect(),
        };
        let infos = infos.iter().map(|info| [info.as_bytes(), &[0]].concat()).collect();
        Ok(Prepared { name, target, infos, plans, weights, tables, parts })
    }

    /// The plan of the version for the simplest processors.
    fn plan(&self) -> &Plan {
        &self.plans[0]
    }

    /// An object file.
    fn object(&self) -> Result<Object, CompileError> {
        let failed = |reason: String| CompileError::Codegen { function: self.name.into(), reason };
        let isa = self.target.isa();
        let builder = ObjectBuilder::new(isa.clone(), self.name, cranelift_module::default_libcall_names())
            .map_err(|e| failed(e.to_string()))?;
        let mut module = ObjectModule::new(builder);
        let mut data = Data { module: &mut module, failed: &failed };
        let mut known = vec![(emit::Data::Weights, data.weights(&self.weights)?)];
        for (of, bytes) in self.words() {
            known.push((of, data.bytes(of.name(), bytes.to_vec(), WEIGHT_ALIGN)?));
        }
        let versions = self.target.versions();
        let several = versions.len() > 1;
        let mut columns: Vec<Column> = vec![];
        for (n, (version, plan)) in versions.iter().zip(&self.plans).enumerate() {
            let suffix = if several { format!(".{}", version.name()) } else { String::new() };
            let info = emit::Data::Info;
            let at = data.bytes(&format!("{}{suffix}", info.name()), self.infos[n].clone(), 1)?;
            let known: Vec<_> = known.iter().copied().chain([(info, at)]).collect();
            let mut place = Place { suffix: &suffix, ..Place::new(data.module, &**version.isa()) };
            let program = build_stepwise(plan, &mut place)?;
            let (mut differ, all) = (0, interface::functions(plan.head));
            for function in all.filter(|f| n == 0 || f.differs()) {
                let name = format!("{}_{}", self.name, function.suffix);
                let parameters: Vec<_> = function.parameters.iter().map(|c| interface::type_of(c)).collect();
                let signature = (&*parameters, interface::type_of(function.result));
                let calls = function.calls(self.parts.phases.len());
                let local = format!("{name}{suffix}");
                let symbol = match several && function.differs() {
                    true => (&*local, Linkage::Local),
                    false => (&*name, Linkage::Export),
                };
                let id = define_public(&mut place, symbol, signature, (&program, &calls), &known, |e, p| {
                    interface::body(&self.parts, function, e, p)
                })?;
                if symbol.1 == Linkage::Local {
                    if n == 0 {
                        let signature = public_types(&**isa, signature);
                        columns.push(Column { name, signature, versions: vec![] });
                    }
                    columns[differ].versions.push(id);
                    differ += 1;
                }
            }
        }
        if several {
            dispatch::define_all(&mut data, self.target, &columns)?;
        }
        let bytes = module.finish().emit().map_err(|e| failed(e.to_string()))?;
        let file = object::File::parse(&*bytes).map_err(|e| failed(e.to_string()))?;
        let text = file.sections().filter(|s| s.kind() == SectionKind::Text);
        let code = text.map(|s| s.size() as usize).sum();
        Ok(self.compiled(bytes, code))
    }

    /// A file of C, which any compiler turns into such an object.
    fn c(&self) -> Object {
        let signed_bytes = self.plan().target.signed_bytes;
        let features = Features { dot: false, signed_bytes, pairs: false, sums: true };
        let mut source = Source::new(features);
        source.weights(self.weights.iter().map(PackedData::bytes));
        let info = (emit::Data::Info, &*self.infos[0]);
        [info].into_iter().chain(self.words()).for_each(|(of, bytes)| source.data(of, bytes));
        source.program(self.plan());
        for function in interface::functions(self.plan().head) {
            let name = format!("{}_{}", self.name, function.suffix);
            source.function(&name, function.parameters, function.result, |e, p| {
                interface::body(&self.parts, function, e, p)
            });
        }
        let mut object = self.compiled(vec![], source.code_bytes());
        object.bytes = source.finish(&binding::source(&object, self.target)).into_bytes();
        object
    }

    /// The vocabulary's data.
    fn words(&self) -> Vec<(emit::Data, &[u8])> {
        let kinds = [emit::Data::Strings, emit::Data::Places, emit::Data::Sorted];
        let tables = self.tables.iter().flat_map(|t| [&*t.strings, &*t.places, &*t.sorted]);
        kinds.into_iter().zip(tables).collect()
    }

    fn compiled(&self, bytes: Vec<u8>, code: usize) -> Object {
        let sizes = Sizes {
            code,
            weights: self.weights.iter().map(|w| w.bytes().len()).sum(),
            words: self.tables.as_ref().map_or(0, Tables::bytes),
            state: self.parts.size,
            vocabulary: self.plan().vocabulary,
            outputs: self.plan().logits.len,
        };
        Object { name: self.name.into(), bytes, sizes, head: self.plan().head }
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
