//! Nothing is allocated per token: a session's methods on compiled kernels, counted by the allocator.
//!
//! A program of its own, because an allocator is for a whole program.
#![expect(clippy::print_stdout, reason = "measured numbers are worth a line")]

use lstmc::Source;
use lstmc::backend::{Level, Options};
use lstmc::frontend::ir::CodeFormat;
use lstmc::passes::{Pipeline, Settings, run};
use lstmc::runtime::{Rng, Sampling, SavedState, Session};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

/// The system's allocator, which counts the calls of each thread.
struct Counting;

thread_local! {
    // Constant and without a destructor, so that its use allocates nothing.
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending has no count any more, and needs none.
    let _ = COUNT.try_with(|n| n.set(n.get() + 1));
}

// SAFETY: every call goes on unchanged to `System`, so its results are `System`'s, which keeps the contract. What is done besides allocates
// nothing and does not panic: a constant thread-local number is raised.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the layout is what this function was given, whose contract is the same: it is of a size that is not zero.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the layout is what this function was given, whose contract is the same: it is of a size that is not zero.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the arguments are what this function was given, whose contract is the same; the block came from `System`, where this allocator
        // takes all its blocks.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the arguments are what this function was given, whose contract is the same; the block came from `System`, where this allocator
        // takes all its blocks.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of this thread while `f` runs.
fn allocations(f: impl FnOnce()) -> usize {
    let before = COUNT.get();
    f();
    COUNT.get() - before
}

fn session(level: Level, model: &str) -> Session {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(model).join("model.onnx");
    let source = Source::read(path).unwrap().canonical().unwrap();
    source.compile(Options { level, threads: 1, ..Options::default() }).unwrap().session()
}

/// The tiny model after a pass.
fn compressed(level: Level, passes: &str) -> Session {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/tiny/dynamo/model.onnx");
    let mut source = Source::read(path).unwrap().canonical().unwrap();
    let pipeline = Pipeline::parse(passes).unwrap();
    source.graph = run(&pipeline, source.graph, Settings::default()).unwrap().graph;
    source.compile(Options { level, threads: 1, ..Options::default() }).unwrap().session()
}

/// One of each representation, and nests of them.
const PASSES: [&str; 5] = [
    "quantize(bits=8)",
    "prune(sparsity=0.8, block=16x1, method=magnitude, resolve=false)",
    "low-rank(rank=4, method=svd), quantize(bits=4, method=nearest)",
    "tensor-train(target=embedding, rank=2, method=svd)",
    "prune(sparsity=0.8, method=magnitude, resolve=false), quantize(bits=8)",
];

const MODELS: [&str; 3] = ["tiny/dynamo", "tiny/one-layer", "ptb-small"];

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![0u8; 100]))), 1);
}

#[test]
fn nothing_is_allocated_per_token() {
    for level in Level::all() {
        for model in MODELS {
            nothing_per_token(&format!("{model} at {level}"), session(level, model));
        }
        let codes = CodeFormat::ALL.map(|f| format!("quantize(bits={}, group=8, method=nearest)", f.bits()));
        for passes in PASSES.into_iter().map(String::from).chain(codes) {
            nothing_per_token(&format!("{passes} at {level}"), compressed(level, &passes));
        }
    }
}

fn nothing_per_token(model: &str, mut session: Session) {
    let (mut ids, mut scores) = ([0; 7], [0.0; 7]);
    let mut rng = Rng::new(1);
    let nothing = |what: &str, count: usize| assert_eq!(count, 0, "{model}: {what}");
    nothing("step", allocations(|| (0..30).for_each(|t| assert!(session.step(t).is_ok()))));
    nothing("advance", allocations(|| (0..30).for_each(|t| session.advance(t).unwrap())));
    let top_k = || (0..30).for_each(|t| assert_eq!(session.top_k_into(t, &mut ids, &mut scores), Ok(7)));
    nothing("top_k_into", allocations(top_k));
    for sampling in [Sampling::at(1.0), Sampling::at(0.0)] {
        let sample = || (0..30).for_each(|t| assert!(session.sample(t, &sampling, &mut rng).is_ok()));
        nothing("sample", allocations(sample));
    }
    // The first of this `k` makes room for it.
    let mut sampling = Sampling::at(0.8);
    sampling.top_k = Some(5);
    let mut sample = || (0..30).for_each(|t| assert!(session.sample(t, &sampling, &mut rng).is_ok()));
    assert!(allocations(&mut sample) <= 1);
    nothing("sample of the five best", allocations(&mut sample));
    // One prediction at a time, as a rescorer does. The first makes room for sequences.
    assert!(session.score(&[0, 1]).is_ok());
    nothing(
        "score of one word",
        allocations(|| (0..30).for_each(|t| assert!(session.score(&[t, t + 1]).is_ok()))),
    );
    // As many as go together in every representation.
    let mut streams = session.model().streams(4);
    let step = |t: u32| assert!(streams.step(&[t, t + 1, t + 2, t + 3]).is_ok());
    nothing("streams", allocations(|| (0..28).for_each(step)));
    let mut saved = SavedState::default();
    session.save_state_into(&mut saved);
    let states = || {
        session.save_state_into(&mut saved);
        session.reset();
        session.restore_state(&saved).unwrap();
    };
    nothing("states", allocations(states));
}

/// Scoring allocates its buffers with the first text of a session, and nothing more for longer ones.
#[test]
fn buffers_of_sequences_are_allocated_once() {
    for level in Level::all() {
        let compressed = PASSES.map(|passes| (passes, compressed(level, passes)));
        for (model, mut session) in [("f32", session(level, "tiny/dynamo"))].into_iter().chain(compressed) {
            let mut score = |tokens: usize| {
                let text: Vec<u32> = (0..tokens as u32).map(|t| t % 32).collect();
                allocations(|| assert!(session.score(&text).is_ok()))
            };
            let (short, long) = (score(129), score(129 * 40));
            println!("{model} at {level}: {short} allocations for the first text, {long} for the second");
            assert_eq!(long, 0, "{model} at {level}");
        }
    }
}
