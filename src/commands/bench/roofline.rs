//! `lstmc bench --roofline`: what bounds each layer, and how near to that it runs.
//!
//! A layer can be no faster than its weights are read, nor faster than its multiply-adds are done:
//!
//! ```text
//!   limit = max(bytes / read rate, f32 multiply-adds / f32 rate + integer multiply-adds / integer rate)
//! ```
//!
//! All three rates are measured on the core at hand, in the same rounds as the layers: the read rate over as many bytes as the model reads per
//! token, from first to last and again, so that it meets the same caches. Layers are timed where they stand, one after another within a step:
//! alone, a small one's weights would stay in a cache that the others push them out of.

use super::layers::{self, Cost, Layer};
use super::{SEQUENCE, SUGGESTIONS, Spread, micros, rate, round, tokens};
use crate::Source;
use crate::backend::kernels::{PackedData, limits};
use crate::backend::{Jit, Level, Options};
use crate::runtime::{Description, Kernels, Layout, Model, Session, SessionError};
use crate::terminal::{self, thousands};
use serde_json::json;
use std::hint::black_box;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Sizes of which the read rate is shown, in bytes.
const SIZES: [usize; 5] = [128 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20];

/// Bytes that one measurement of the read rate reads at least.
const READ: usize = 32 << 20;

/// Turns of a loop of multiply-adds: a tenth of a millisecond or so.
const TURNS: usize = 50_000;

/// What bounds a layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bound {
    Memory,
    Arithmetic,
}

impl Bound {
    fn name(self) -> &'static str {
        match self {
            Bound::Memory => "memory",
            Bound::Arithmetic => "arithmetic",
        }
    }
}

/// What this core can do, per second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes read, of as many as the model reads per token.
    read: f64,
    /// Multiply-adds of f32s; none where there is no loop to measure it.
    floats: Option<f64>,
    /// Multiply-adds of bytes.
    integers: Option<f64>,
}

impl Limits {
    /// The least time, in microseconds, and what bounds it.
    fn of(&self, bytes: f64, cost: Cost) -> (f64, Bound) {
        let time = |n: usize, rate: Option<f64>| rate.map_or(0.0, |rate| n as f64 / rate * 1e6);
        let memory = bytes / self.read * 1e6;
        let arithmetic = time(cost.floats, self.floats) + time(cost.integers, self.integers);
        if arithmetic > memory { (arithmetic, Bound::Arithmetic) } else { (memory, Bound::Memory) }
    }
}

/// One line of the table.
pub(super) struct Row {
    pub(super) name: String,
    stored: String,
    cost: Cost,
    time: Spread,
    /// Microseconds.
    pub(super) limit: f64,
    bound: Bound,
}

impl Row {
    fn new(name: String, stored: &str, cost: Cost, time: Spread, limits: &Limits) -> Row {
        let (limit, bound) = limits.of(cost.bytes as f64, cost);
        Row { name, stored: stored.into(), cost, time, limit, bound }
    }

    pub(super) fn best(&self) -> f64 {
        micros(self.time.best)
    }

    /// 1 where the limit is reached.
    pub(super) fn fraction(&self) -> f64 {
        self.limit / self.best().max(f64::MIN_POSITIVE)
    }
}

/// What was measured.
pub(crate) struct Roofline {
    limits: Limits,
    sizes: Vec<(usize, f64)>,
    /// One reading of the clock, which is not counted in the layers' times.
    clock: Duration,
    pub(super) rows: Vec<Row>,
}

/// A model's layers, run one after another and timed.
struct Layers {
    all: Vec<(Layer, Jit)>,
    laps: Mutex<Vec<Duration>>,
}

impl Layers {
    /// Times of all layers since last asked.
    fn take(&self) -> Vec<Duration> {
        let mut laps = self.laps.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *laps, vec![Duration::ZERO; self.all.len()])
    }

    /// All layers but the output, then the output as `last` has it.
    fn run<T>(
        &self,
        state: &mut [f32],
        scratch: &mut [u8],
        token: u32,
        last: impl FnOnce(&Jit, &mut [f32], &mut [u8]) -> T,
    ) -> T {
        let mut laps = self.laps.lock().unwrap_or_else(PoisonError::into_inner);
        let (output, before) = self.all.split_last().expect("every plan has an output layer");
        let mut started = Instant::now();
        let mut lap = |n: usize| {
            let now = Instant::now();
            laps[n] += now - started;
            started = now;
        };
        for (n, (_, jit)) in before.iter().enumerate() {
            jit.advance(state, scratch, token);
            lap(n);
        }
        let result = last(&output.1, state, scratch);
        lap(before.len());
        result
    }
}

impl Kernels for Layers {
    fn layout(&self) -> &Layout {
        self.all[0].1.layout()
    }

    fn step(&self, state: &mut [f32], scratch: &mut [u8], token: u32, logits: &mut [f32]) {
        self.run(state, scratch, token, |jit, state, scratch| jit.step(state, scratch, token, logits));
    }

    fn score(&self, state: &mut [f32], scratch: &mut [u8], token: u32, target: u32) -> f32 {
        self.run(state, scratch, token, |jit, state, scratch| jit.score(state, scratch, token, target))
    }

    fn top_k(
        &self,
        state: &mut [f32],
        scratch: &mut [u8],
        token: u32,
        ids: &mut [u32],
        scores: &mut [f32],
    ) -> usize {
        self.run(state, scratch, token, |jit, state, scratch| jit.top_k(state, scratch, token, ids, scores))
    }

    fn advance(&self, state: &mut [f32], scratch: &mut [u8], token: u32) {
        self.run(state, scratch, token, |_, _, _| ());
    }
}

/// Numbers to read, in such memory as packed weights.
struct Memory(PackedData);

impl Memory {
    fn new(bytes: usize) -> Memory {
        // Not zeros, which the system may keep in one page.
        let mut data = PackedData::zeros((bytes / 4).max(1) * 4);
        data.f32s_mut().fill(1.0);
        Memory(data)
    }

    /// Bytes per second, in vectors as wide as is fastest here.
    fn rate(&self) -> f64 {
        let numbers = self.0.f32s();
        let passes = READ.div_ceil(numbers.len() * 4);
        let time = |level: &Level| {
            let started = Instant::now();
            for _ in 0..passes {
                black_box(limits::read(*level, black_box(numbers)));
            }
            started.elapsed().as_secs_f64()
        };
        let best = Level::all().iter().map(time).fold(f64::INFINITY, f64::min);
        (passes * numbers.len() * 4) as f64 / best
    }
}

/// Multiply-adds per second.
fn arithmetic(level: Level, run: fn(Level, usize) -> Option<usize>) -> Option<f64> {
    let started = Instant::now();
    let done = run(level, TURNS)?;
    Some(done as f64 / started.elapsed().as_secs_f64())
}

/// The larger; none is less than any.
fn raise(best: &mut Option<f64>, found: Option<f64>) {
    if found > *best {
        *best = found;
    }
}

/// What it takes to read the clock.
fn clock() -> Duration {
    const READINGS: u32 = 1000;
    let started = Instant::now();
    for _ in 0..READINGS {
        black_box(Instant::now());
    }
    started.elapsed() / READINGS
}

pub(crate) fn measure(source: &Source, level: Level, rounds: u32) -> anyhow::Result<Roofline> {
    let options = Options { level, threads: 1, ..Options::default() };
    let layers = Arc::new(Layers { all: layers::compile(&source.graph, options)?, laps: Mutex::default() });
    layers.take();
    let whole = source.compile(options)?;
    let tokens = tokens(&whole);
    let bytes = whole.layout().weight_bytes_per_token;
    let mut session = whole.session();
    let mut split = Model::new(layers.clone(), None, Description::default())?.session();
    let memory = Memory::new(bytes);
    let others = SIZES.map(Memory::new);

    let mut limits = Limits { read: 0.0, floats: None, integers: None };
    let mut sizes = SIZES.map(|size| (size, 0f64)).to_vec();
    let mut laps: Vec<Vec<Duration>> = vec![vec![]; layers.all.len() + 2];
    let (mut step, mut sequence, mut clocks) = (vec![], vec![], vec![]);
    let (mut ids, mut scores) = ([0; SUGGESTIONS], [0.0; SUGGESTIONS]);
    let last = layers.all.len() - 1;
    let bar = terminal::progress(rounds as usize, "measuring layers");
    for _ in 0..rounds {
        let timed = |session: &mut Session, call: &mut dyn FnMut(&mut Session, u32, u32)| {
            let calls = round(session, |s, i| {
                call(s, tokens[i % SEQUENCE], tokens[i % SEQUENCE + 1]);
                Ok::<(), std::convert::Infallible>(())
            });
            let Ok(_) = calls;
            layers.take().into_iter().map(|lap| lap / super::CALLS as u32).collect::<Vec<_>>()
        };
        let mut failed: Result<(), SessionError> = Ok(());
        let found = timed(&mut split, &mut |s, token, _| {
            failed = failed.clone().and(s.step(token).map(|_| ()));
        });
        found.into_iter().enumerate().for_each(|(n, lap)| laps[n].push(lap));
        let found = timed(&mut split, &mut |s, token, _| {
            failed = failed.clone().and(s.top_k_into(token, &mut ids, &mut scores).map(|_| ()));
        });
        laps[last + 1].push(found[last]);
        let found = timed(&mut split, &mut |s, token, next| {
            failed = failed.clone().and(s.score(&[token, next]).map(|_| ()));
        });
        laps[last + 2].push(found[last]);
        failed?;
        step.push(round(&mut session, |s, i| s.step(tokens[i % SEQUENCE]).map(|_| ()))?);
        session.reset();
        let started = Instant::now();
        session.score(&tokens)?;
        sequence.push(started.elapsed() / SEQUENCE as u32);
        clocks.push(clock());
        limits.read = limits.read.max(memory.rate());
        raise(&mut limits.floats, arithmetic(level, limits::multiply_floats));
        raise(&mut limits.integers, arithmetic(level, limits::multiply_integers));
        for ((_, best), memory) in sizes.iter_mut().zip(&others) {
            *best = best.max(memory.rate());
        }
        bar.inc(1);
    }
    bar.finish_and_clear();

    let clock = Spread::of(clocks).best;
    let mut laps = laps.into_iter().map(|mut laps| {
        laps.iter_mut().for_each(|lap| *lap = lap.saturating_sub(clock).max(Duration::from_nanos(1)));
        Spread::of(laps)
    });
    let mut rows = vec![];
    for (n, (layer, _)) in layers.all.iter().enumerate() {
        let name = if n == last { format!("{}: logits", layer.name) } else { layer.name.clone() };
        rows.extend(laps.next().map(|time| Row::new(name, &layer.stored, layer.cost, time, &limits)));
    }
    let output = &layers.all[last].0;
    for (what, time) in ["five best", "log-probability"].into_iter().zip(laps) {
        rows.push(Row::new(format!("{}: {what}", output.name), &output.stored, output.cost, time, &limits));
    }
    let all = layers.all.iter().fold(Cost::default(), |sum, (layer, _)| sum.and(layer.cost));
    rows.push(Row::new("one step".into(), "", all, Spread::of(step), &limits));
    // A weight that is read once serves the whole sequence.
    let mut row = Row::new("a word of a sequence".into(), "", all, Spread::of(sequence), &limits);
    (row.limit, row.bound) = limits.of(bytes as f64 / SEQUENCE as f64, all);
    rows.push(row);
    Ok(Roofline { limits, sizes, clock, rows })
}

impl Roofline {
    pub(super) fn json(&self) -> serde_json::Value {
        let giga = |rate: Option<f64>| rate.map(|r| r / 1e9);
        let sizes: Vec<_> = self
            .sizes
            .iter()
            .map(|(bytes, rate)| json!({ "bytes": bytes, "gb_per_second": rate / 1e9 }))
            .collect();
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "name": row.name,
                    "stored": row.stored,
                    "bytes": row.cost.bytes,
                    "float_multiply_adds": row.cost.floats,
                    "integer_multiply_adds": row.cost.integers,
                    "us": row.best(),
                    "median_us": micros(row.time.median),
                    "limit_us": row.limit,
                    "bound": row.bound.name(),
                    "fraction": row.fraction(),
                })
            })
            .collect();
        json!({
            "read_gb_per_second": self.limits.read / 1e9,
            "float_multiply_adds_g_per_second": giga(self.limits.floats),
            "integer_multiply_adds_g_per_second": giga(self.limits.integers),
            "read_by_size": sizes,
            "clock_us": micros(self.clock),
            "kernels": rows,
        })
    }

    pub(super) fn text(&self, out: &mut dyn Write) -> std::io::Result<()> {
        writeln!(out, "What one core can do at most")?;
        writeln!(out, "  {:38} {:>10.1} GB/s", "reads, over the bytes of a step", self.limits.read / 1e9)?;
        for (bytes, rate) in &self.sizes {
            let what = format!("reads, over {} KiB", thousands(bytes >> 10));
            writeln!(out, "  {what:38} {:>10.1} GB/s", rate / 1e9)?;
        }
        for (what, rate) in [("f32", self.limits.floats), ("int8", self.limits.integers)] {
            let what = format!("{what} multiply-adds");
            match rate {
                Some(rate) => writeln!(out, "  {what:38} {:>10.1} G/s", rate / 1e9)?,
                None => writeln!(out, "  {what:38} {:>10}", "unknown")?,
            }
        }
        writeln!(out)?;
        writeln!(
            out,
            "{:24} {:12} {:>11} {:>11} {:>8} {:>8} {:>7} {:>8}  {:10} {:>5}",
            "kernel",
            "stored",
            "bytes",
            "mult-adds",
            "best us",
            "median",
            "GB/s",
            "limit",
            "bound by",
            "of it"
        )?;
        for row in &self.rows {
            let sequence = row.bound == Bound::Arithmetic && row.stored.is_empty();
            let speed =
                if sequence { "-".into() } else { format!("{:.1}", rate(row.cost.bytes, row.time.best)) };
            writeln!(
                out,
                "{:24} {:12} {:>11} {:>11} {:>8.2} {:>8.2} {speed:>7} {:>8.2}  {:10} {:>4.0}%",
                row.name,
                row.stored,
                thousands(row.cost.bytes),
                thousands(row.cost.floats + row.cost.integers),
                row.best(),
                micros(row.time.median),
                row.limit,
                row.bound.name(),
                100.0 * row.fraction()
            )?;
        }
        Ok(())
    }

    /// For the figure.
    pub(super) fn title(&self, name: &str) -> String {
        format!("{name}, one thread, {}", crate::commands::processor())
    }
}
