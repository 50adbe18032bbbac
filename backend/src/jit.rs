//! Code in memory: compile a model for this machine and call it.
//!
//! Its `unsafe` is sound because function pointers live in [`Jit`] next to the code they point to and never leave it; every call passes
//! buffers whose lengths were checked against the plan.
#![allow(
    unsafe_code,
    reason = "generated code is called through function pointers; see the module's documentation"
)]

use crate::codegen::{Entry, Place, build_engine};
use crate::error::CompileError;
use crate::execution::{Buffers, Execution, Generated, Model};
use crate::isa::{self, OptLevel};
use crate::pack::pack;
use crate::plan::{Head, Plan};
use cranelift_jit::{JITBuilder, JITModule};
use lstmc_frontend::ir::Graph;
use lstmc_kernels::{Level, PackedData, Pool, log_sum_exp, top_k};
use lstmc_runtime::{Kernels, Layout, Workspace, score_apart, score_stepwise};
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// Texts of at most this many tokens are scored step by step: batched products of one or two rows gain nothing and need buffers.
const STEPWISE: usize = 3;

type Advance = unsafe extern "C" fn(*const usize, *mut f32, *mut f32, usize);
type Logits = unsafe extern "C" fn(*const usize, *mut f32, *mut f32);
type Recurrent = unsafe extern "C" fn(*const usize, *const f32, *mut f32, *mut f32);
type Phase = unsafe extern "C" fn(*const usize, *mut f32, *mut f32, usize, *mut f32, usize, usize);
type Gather = unsafe extern "C" fn(*const usize, *mut f32, usize);

/// How to compile.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Which of the processor's instructions generated code and batched kernels use; all of them by default.
    pub level: Level,
    /// Cranelift's optimisation level.
    pub opt_level: OptLevel,
    /// Threads that score a sequence; 0 means all cores.
    pub threads: usize,
    /// Threads that take a step together, writing all logits; 0 and 1 mean only the caller. They spin for a while after each
    /// step, so they pay if steps follow each other closely and the weights do not fit one core's caches.
    pub step_threads: usize,
}

/// A model compiled for this machine.
pub struct Jit {
    plan: Plan,
    layout: Layout,
    weights: Arc<Vec<PackedData>>,
    /// Addresses of `weights`, as generated code reads them.
    table: Vec<usize>,
    /// Lanes of the gates that each loop takes.
    lanes: Vec<usize>,
    execution: Execution,
    entries: Entries,
    workers: Option<Workers>,
    /// Owns the code; not used again until it is dropped.
    module: Mutex<Option<JITModule>>,
}

/// Threads that take a step together, and its phases with the panels that they share.
struct Workers {
    count: usize,
    /// Present if there are more workers than the machine has cores; otherwise the program's pool is used.
    own: Option<Pool>,
    phases: Vec<Phase>,
    /// The number of parts of each phase.
    parts: Vec<usize>,
}

struct Entries {
    advance: Advance,
    logits: Logits,
    recurrent: Vec<Recurrent>,
    gather: Gather,
}

impl std::fmt::Debug for Jit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jit")
            .field("plan", &self.plan.name)
            .field("layout", &self.layout)
            .field("level", &self.level())
            .finish_non_exhaustive()
    }
}

impl Jit {
    /// Plans, packs and compiles a graph in language-model form for this machine.
    pub fn new(graph: &Graph, options: Options) -> Result<Jit, CompileError> {
        let (plan, weights) = Jit::prepare(graph, options)?;
        Jit::compile(plan, weights, options)
    }

    /// As [`Jit::new`], but in parts. Each part runs the plan's steps in its own range, and has the whole output layer.
    /// The parts share the weights and have the same buffers: advancing one after another, then computing logits with the last one, is one step of
    /// the whole model, if the ranges are consecutive and cover all steps. They take no sequences.
    ///
    /// # Panics
    /// If the plan has no such steps.
    pub fn in_parts(
        graph: &Graph,
        options: Options,
        ranges: impl FnOnce(&Plan) -> Vec<Range<usize>>,
    ) -> Result<Vec<Jit>, CompileError> {
        let (plan, weights) = Jit::prepare(graph, options)?;
        let part =
            |range: Range<usize>| Plan { steps: plan.steps[range].to_vec(), loops: vec![], ..plan.clone() };
        ranges(&plan).into_iter().map(|r| Jit::compile(part(r), weights.clone(), options)).collect()
    }

    fn prepare(graph: &Graph, options: Options) -> Result<(Plan, Arc<Vec<PackedData>>), CompileError> {
        let target = isa::plan_target(&*isa::host(options.level, options.opt_level)?);
        let plan = Plan::new(graph, target)?;
        let weights = Arc::new(pack(&plan, graph)?);
        Ok((plan, weights))
    }

    /// Compiles a plan whose weights are packed.
    fn compile(plan: Plan, weights: Arc<Vec<PackedData>>, options: Options) -> Result<Jit, CompileError> {
        let isa = isa::host(options.level, options.opt_level)?;
        let mut module =
            JITModule::new(JITBuilder::with_isa(isa.clone(), cranelift_module::default_libcall_names()));
        let program = build_engine(&plan, &mut Place::new(&mut module, &*isa), options.step_threads > 1)?;
        module
            .finalize_definitions()
            .map_err(|e| CompileError::Codegen { function: "all".into(), reason: e.to_string() })?;
        let Options { level, threads, step_threads, .. } = options;
        let address = |entry: Entry| {
            // `build` defines every entry it lists.
            let id = program.functions.iter().find(|(e, _)| *e == entry).expect("every entry is built").1;
            module.get_finalized_function(id)
        };
        // SAFETY: each address is that of a function which `codegen::program` built with exactly this signature in the
        // target's default calling convention, which is the C one; the code lives as long as `module`, which this `Jit` owns.
        let entries = unsafe {
            Entries {
                advance: std::mem::transmute::<*const u8, Advance>(address(Entry::Advance)),
                logits: std::mem::transmute::<*const u8, Logits>(address(Entry::Logits)),
                recurrent: (0..plan.loops.len())
                    .map(|n| std::mem::transmute::<*const u8, Recurrent>(address(Entry::Recurrent(n))))
                    .collect(),
                gather: std::mem::transmute::<*const u8, Gather>(address(Entry::Gather)),
            }
        };
        let table: Vec<usize> = weights.iter().map(|w| w.bytes().as_ptr().expose_provenance()).collect();
        let workers = if step_threads > 1 {
            let parts: Vec<usize> = plan.phases().iter().map(|phase| phase.panels.unwrap_or(1)).collect();
            let phases = (0..parts.len())
                .map(|n| {
                    // SAFETY: `codegen::program` builds these entries with the signature `Phase` in the C calling convention; the code lives as
                    // long as `module`, which this `Jit` owns.
                    unsafe { std::mem::transmute::<*const u8, Phase>(address(Entry::Phase(n))) }
                })
                .collect();
            let enough = Pool::of_all_cores().is_some_and(|pool| pool.workers() >= step_threads);
            let failed = |e| CompileError::Target(format!("{step_threads} threads cannot be started: {e}"));
            let own = if enough { None } else { Some(Pool::new(step_threads).map_err(failed)?) };
            Some(Workers { count: step_threads, own, phases, parts })
        } else {
            None
        };
        let mut initial = vec![0.0; if plan.initial.is_empty() { 0 } else { plan.state_len }];
        for &(slot, from) in &plan.initial {
            initial[slot.offset..][..slot.len].copy_from_slice(&weights[from.0].f32s()[..slot.len]);
        }
        let layout = Layout::new(plan.vocabulary);
        let layout = match plan.head {
            Head::Logits => layout,
            Head::Hidden => layout.with_hidden(plan.logits.len),
        };
        let layout = layout
            .with_state(plan.state_len, plan.state.clone())
            .with_initial(initial)
            .with_scratch(plan.scratch_len * 4)
            .with_weight_bytes_per_token(plan.weight_bytes_per_token());
        let module = Mutex::new(Some(module));
        let execution = Execution::new(&plan, level, threads);
        let lanes = |of| plan.cell(of).map_or(0, |(cell, _)| cell.gates[0].sums.padded());
        let lanes = plan.loops.iter().map(lanes).collect();
        Ok(Jit { plan, layout, weights, table, lanes, execution, entries, workers, module })
    }

    /// The plan that was compiled.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The processor level it was compiled for.
    pub fn level(&self) -> Level {
        self.execution.level
    }

    /// Packed weights, in the plan's order.
    pub fn weights(&self) -> &[PackedData] {
        &self.weights
    }

    /// The state and scratch as generated code takes them.
    ///
    /// # Panics
    /// If the state's length differs from the one in [`Layout`], scratch is shorter, or either is not aligned.
    fn check(&self, state: &mut [f32], scratch: &mut [u8]) -> (*mut f32, *mut f32) {
        assert_eq!(state.len(), self.layout.state, "length of the state");
        let state = state.as_mut_ptr();
        assert!(state.addr().is_multiple_of(64), "the state is aligned to 64 bytes");
        (state, self.check_scratch(scratch))
    }

    fn check_scratch(&self, scratch: &mut [u8]) -> *mut f32 {
        let (have, need) = (scratch.len(), self.layout.scratch);
        assert!(have >= need, "scratch of {have} bytes; at least {need} are needed");
        let scratch = scratch.as_mut_ptr();
        assert!(scratch.addr().is_multiple_of(64), "scratch is aligned to 64 bytes");
        scratch.cast()
    }

    fn word(&self, token: u32) -> usize {
        assert!((token as usize) < self.layout.vocabulary, "token {token} is in the vocabulary");
        token as usize
    }

    /// Takes a step and writes its output; `state` and `scratch` as [`Jit::check`] returns them, `logits` has room for all of it.
    fn logits(&self, state: *mut f32, scratch: *mut f32, token: usize, logits: *mut f32) {
        if self
            .workers
            .as_ref()
            .is_some_and(|workers| workers.run(&self.table, state, scratch, token, logits))
        {
            return;
        }
        // SAFETY: lengths, alignment and the token were checked by the caller against the plan that the code was made from; the code
        // reads and writes within them.
        unsafe {
            (self.entries.advance)(self.table.as_ptr(), state, scratch, token);
            (self.entries.logits)(self.table.as_ptr(), scratch, logits);
        }
    }

    /// Whether this many streams take a step together.
    fn together(&self, streams: usize) -> bool {
        self.execution.fewest_streams.is_some_and(|fewest| streams >= fewest)
    }

    /// Takes a step and returns its logits, which stay in scratch.
    fn logits_in_scratch<'s>(&self, state: &mut [f32], scratch: &'s mut [u8], token: u32) -> &'s [f32] {
        assert_eq!(self.plan.head, Head::Logits, "the output of a step");
        let token = self.word(token);
        let (state, to) = self.check(state, scratch);
        let at = self.plan.logits.offset;
        self.logits(state, to, token, to.wrapping_add(at));
        bytemuck::cast_slice(&scratch[4 * at..4 * (at + self.plan.vocabulary)])
    }

    /// The model as batched kernels execute it.
    fn model(&self) -> Model<'_> {
        Model { plan: &self.plan, weights: &self.weights, code: self }
    }
}

impl Generated for Jit {
    fn gather(&self, token: u32, scratch: &mut [u8]) {
        let token = self.word(token);
        let scratch = self.check_scratch(scratch);
        // SAFETY: length, alignment and the token were checked just above.
        unsafe { (self.entries.gather)(self.table.as_ptr(), scratch, token) }
    }

    fn recurrent(&self, of: usize, gates: &[f32], state: &mut [f32], scratch: &mut [u8]) {
        assert!(gates.len() >= self.lanes[of], "length of the gates");
        let (state, scratch) = self.check(state, scratch);
        // SAFETY: lengths and alignment were checked just above against the plan that the code was made from.
        unsafe { (self.entries.recurrent[of])(self.table.as_ptr(), gates.as_ptr(), state, scratch) }
    }
}

impl Kernels for Jit {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn step(&self, state: &mut [f32], scratch: &mut [u8], token: u32, logits: &mut [f32]) {
        assert_eq!(logits.len(), self.layout.outputs, "length of the output");
        let token = self.word(token);
        let (state, scratch) = self.check(state, scratch);
        self.logits(state, scratch, token, logits.as_mut_ptr());
    }

    fn advance(&self, state: &mut [f32], scratch: &mut [u8], token: u32) {
        let token = self.word(token);
        let (state, scratch) = self.check(state, scratch);
        // SAFETY: lengths, alignment and the token were checked just above against the plan that the code was made from; the code reads and
        // writes within them.
        unsafe { (self.entries.advance)(self.table.as_ptr(), state, scratch, token) }
    }

    fn streams_workspace(&self, streams: usize) -> Workspace {
        if !self.together(streams) {
            return Workspace::none();
        }
        Workspace::new(Buffers::new(&self.execution, self.model(), streams))
    }

    fn batch_workspace(&self, texts: usize) -> Workspace {
        if !self.together(texts) {
            return self.sequence_workspace();
        }
        Workspace::new(self.execution.batch_buffers(self.model(), texts))
    }

    fn score_batch(
        &self,
        states: &mut [f32],
        scratch: &mut [u8],
        workspace: &mut Workspace,
        texts: &[&[u32]],
        found: &mut [&mut [f32]],
    ) {
        assert_eq!(self.plan.head, Head::Logits, "the output of a step");
        let each = self.layout.state;
        assert_eq!(states.len(), texts.len() * each, "length of the states");
        assert_eq!(texts.len(), found.len(), "places for texts");
        for (n, (text, found)) in texts.iter().zip(&*found).enumerate() {
            assert_eq!(text.len().saturating_sub(1), found.len(), "places for log-probabilities");
            assert!(n == 0 || texts[n - 1].len() >= text.len(), "no text is longer than the one before it");
            text.iter().for_each(|&token| _ = self.word(token));
        }
        match workspace.get::<Buffers>() {
            Some(buffers) if self.together(texts.len()) => {
                self.execution.score_batch(self.model(), buffers, states, scratch, texts, found);
            }
            _ => score_apart(self, states, scratch, workspace, texts, found),
        }
    }

    fn sequence_workspace(&self) -> Workspace {
        if self.execution.fewest_streams.is_none() {
            return Workspace::none();
        }
        Workspace::new(self.execution.sequence_buffers(self.model()))
    }

    fn step_streams(
        &self,
        states: &mut [f32],
        scratch: &mut [u8],
        workspace: &mut Workspace,
        tokens: &[u32],
        logits: &mut [f32],
    ) {
        let streams = tokens.len();
        assert_eq!(states.len(), streams * self.layout.state, "length of the states");
        assert_eq!(logits.len(), streams * self.layout.outputs, "length of the output");
        for &token in tokens {
            self.word(token);
        }
        if self.together(streams) {
            let buffers = workspace
                .get::<Buffers>()
                .expect("the workspace is one of `streams_workspace`, of as many streams");
            return self.execution.step(self.model(), buffers, states, scratch, tokens, logits);
        }
        let Layout { state: each, outputs, .. } = self.layout;
        for (n, &token) in tokens.iter().enumerate() {
            let logits = &mut logits[n * outputs..][..outputs];
            self.step(&mut states[n * each..][..each], scratch, token, logits);
        }
    }

    fn score(&self, state: &mut [f32], scratch: &mut [u8], token: u32, target: u32) -> f32 {
        let target = self.word(target);
        let logits = self.logits_in_scratch(state, scratch, token);
        logits[target] - log_sum_exp(self.level(), logits)
    }

    fn top_k(
        &self,
        state: &mut [f32],
        scratch: &mut [u8],
        token: u32,
        ids: &mut [u32],
        log_probabilities: &mut [f32],
    ) -> usize {
        let logits = self.logits_in_scratch(state, scratch, token);
        self.best_of(logits, ids, log_probabilities)
    }

    fn best_of(&self, logits: &[f32], ids: &mut [u32], log_probabilities: &mut [f32]) -> usize {
        assert_eq!(logits.len(), self.layout.vocabulary, "length of the logits");
        let k = ids.len().min(log_probabilities.len()).min(logits.len());
        assert!(k > 0, "at least one word is asked for");
        top_k(self.level(), logits, &mut ids[..k], &mut log_probabilities[..k]);
        k
    }

    fn log_sum_exp(&self, logits: &[f32]) -> f32 {
        log_sum_exp(self.level(), logits)
    }

    fn score_sequence(
        &self,
        state: &mut [f32],
        scratch: &mut [u8],
        workspace: &mut Workspace,
        tokens: &[u32],
        found: &mut dyn FnMut(&[f32]),
    ) -> f64 {
        assert_eq!(self.plan.head, Head::Logits, "the output of a step");
        for &token in tokens {
            self.word(token);
        }
        if tokens.len() <= STEPWISE || self.execution.fewest_streams.is_none() {
            return score_stepwise(self, state, scratch, tokens, found);
        }
        let buffers = workspace.get::<Buffers>().expect("the workspace is one of `sequence_workspace`");
        self.execution.score(self.model(), buffers, state, scratch, tokens, found)
    }
}

impl Workers {
    /// Takes a step in phases; returns false and does nothing if the pool is already busy. Arguments as in [`Jit::logits`].
    fn run(
        &self,
        table: &[usize],
        state: *mut f32,
        scratch: *mut f32,
        token: usize,
        logits: *mut f32,
    ) -> bool {
        let pool = match &self.own {
            Some(pool) => Some(pool),
            None => Pool::of_all_cores(),
        };
        let Some(pool) = pool else { return false };
        let (table, state, scratch, logits) = (
            table.as_ptr().expose_provenance(),
            state.expose_provenance(),
            scratch.expose_provenance(),
            logits.expose_provenance(),
        );
        pool.run(self.count, &self.parts, &|_, n, panels| {
            let at = std::ptr::with_exposed_provenance_mut::<f32>;
            let (state, scratch, logits) = (at(state), at(scratch), at(logits));
            let table = std::ptr::with_exposed_provenance::<usize>(table);
            // SAFETY: the leader, who waits until all are done, has checked what it passes, and borrows the `Jit` that owns table and code;
            // ranges of a phase's panels do not overlap, and a phase begins when the one before is done.
            unsafe { self.phases[n](table, state, scratch, token, logits, panels.start, panels.end) }
        })
    }
}

impl Drop for Jit {
    fn drop(&mut self) {
        let module = match self.module.get_mut() {
            Ok(m) => m.take(),
            Err(poisoned) => poisoned.into_inner().take(),
        };
        if let Some(module) = module {
            // SAFETY: no function of the module can run: calling one needs a borrow of this `Jit`, which is being dropped.
            unsafe { module.free_memory() }
        }
    }
}
