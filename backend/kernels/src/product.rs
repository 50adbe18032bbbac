//! Products of many vectors with the sum of packed maps, and what is computed from the output layer's products.

use crate::level::Level;
use crate::pool::MOST_WORKERS;
use crate::share::{Destination, PanelRange, deserved, split};
use crate::softmax::{Sums, log_sum_exp_of};
use crate::{Activations, CodePanels, Floats, PANEL, Start, dense, integer};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Panels whose logits are kept until they are added to the log-sum-exp: those of 64 tokens fit a first-level cache.
const BLOCK: usize = 4;

/// Panels per separate partial sum of the log-sum-exp. The sections are the same on any number of threads, and so is the result.
const SECTION: usize = 8 * BLOCK;

/// Columns of a block.
const WIDTH: usize = BLOCK * PANEL;

/// Multiply-adds in the time of an exponential, as measured.
const EXP_WORK: usize = 8;

/// A packed map and the vectors, one per token, that it is multiplied by.
#[derive(Clone, Copy, Debug)]
pub enum Term<'a> {
    /// f32s.
    Floats(Floats<'a>),
    /// Integers: each group's sum is exact, an i32, which a group of 130,000 inputs cannot overflow.
    Codes(Activations<'a>, CodePanels<'a>),
}

/// The resources of products: the processor level, the number of threads, and each thread's memory, which is reused.
///
/// Products of one `Products` may run at the same time, but then wait for each other's memory.
pub struct Products {
    level: Level,
    /// Each thread's.
    rows: Vec<Mutex<Rows>>,
    /// `[steps][sections][reference, sum]` of the sections' log-sum-exps.
    totals: Mutex<Vec<f32>>,
}

impl std::fmt::Debug for Products {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Products")
            .field("level", &self.level)
            .field("threads", &self.threads())
            .finish_non_exhaustive()
    }
}

impl Products {
    /// At a level, on at most this many threads, and no more than a pool may have; 0 means all cores.
    pub fn new(level: Level, threads: usize) -> Products {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n.min(MOST_WORKERS),
        };
        let rows = (0..threads).map(|_| Mutex::default()).collect();
        Products { level, rows, totals: Mutex::default() }
    }

    /// The level.
    pub fn level(&self) -> Level {
        self.level
    }

    fn threads(&self) -> usize {
        self.rows.len()
    }

    /// Reserves memory for the log-probabilities of `steps` tokens among `count` outputs.
    pub fn reserve_log_probabilities(&mut self, steps: usize, count: usize) {
        for rows in &mut self.rows {
            rows.get_mut().unwrap_or_else(PoisonError::into_inner).clear(steps);
        }
        let totals = self.totals.get_mut().unwrap_or_else(PoisonError::into_inner);
        totals.resize(steps * 2 * sections(count), 0.0);
    }

    /// `to[t][o] = start[t][o] + sum over terms of (w x[t])[o]` for `steps` tokens and `o < out`; `to` has rows of `out` f32s, `to_stride` apart,
    /// and the memory between rows is not touched. An integer term is `scales[t] sum_g scale[o][g] (sum_k code[o][k] x[t][k])`, `k` in group `g`.
    ///
    /// # Panics
    /// If a slice is too short for its shape, or a stride for its row.
    pub fn product<'a>(
        &self,
        steps: usize,
        out: usize,
        terms: impl Iterator<Item = Term<'a>> + Clone + Sync,
        to: &mut [f32],
        to_stride: usize,
        start: Start<'_>,
    ) {
        self.first_columns(steps, [out, out], terms, to, to_stride, start);
    }

    /// [`Products::product`] of a map of `out` outputs, of which the first `count` are kept: rows of `count` f32s.
    ///
    /// # Panics
    /// As [`Products::product`]; if there are fewer outputs than `count`.
    pub fn first_columns<'a>(
        &self,
        steps: usize,
        [out, count]: [usize; 2],
        terms: impl Iterator<Item = Term<'a>> + Clone + Sync,
        to: &mut [f32],
        to_stride: usize,
        start: Start<'_>,
    ) {
        assert!(count <= out, "{count} outputs of {out}");
        let product = Product { columns: count, ..Product::new(self, steps, out, terms) };
        let threads = deserved(self.threads(), count.div_ceil(PANEL), product.work);
        product.run_on(threads, to, to_stride, start);
    }

    /// Adds one vector's product with a map that is multiplied repeatedly: `to[o] += (w x)[o]`. If the map does not fit a cache, set `reversed`
    /// every other time: the panels are then taken from last to first, and those read last are still in the cache.
    ///
    /// # Panics
    /// As [`Products::product`].
    pub fn recurrent_product(&self, out: usize, term: Term<'_>, to: &mut [f32], reversed: bool) {
        let product = Product { reversed, ..Product::new(self, 1, out, std::iter::once(term)) };
        let threads = deserved(self.threads(), out.div_ceil(PANEL), product.work);
        product.run_on(threads, to, out, Start::Accumulate);
    }

    /// `to[t]` becomes the log-probability of output `targets[t]` among the first `count`, of logits as [`Products::product`] computes them: `logit -
    /// log-sum-exp of all logits`. NaN if the log-sum-exp is NaN. Logits are not kept.
    ///
    /// # Panics
    /// As [`Products::product`]; if `to` is shorter than `targets`, there are fewer outputs than `count`, or a target is not below it; if
    /// `start` is [`Start::Accumulate`].
    pub fn log_probabilities<'a>(
        &self,
        [out, count]: [usize; 2],
        terms: impl Iterator<Item = Term<'a>> + Clone + Sync,
        start: Start<'_>,
        targets: &[u32],
        to: &mut [f32],
    ) {
        let product = Product::new(self, targets.len(), out, terms);
        let exponentials = targets.len().saturating_mul(count).saturating_mul(EXP_WORK);
        let work = product.work.saturating_add(exponentials);
        let threads = deserved(self.threads(), sections(count), work);
        product.log_probabilities_on(threads, count, start, targets, to);
    }
}

/// The number of sections for this many outputs.
fn sections(count: usize) -> usize {
    count.div_ceil(SECTION * PANEL)
}

/// Terms whose shapes have been checked.
pub(crate) struct Product<'p, I> {
    with: &'p Products,
    steps: usize,
    out: usize,
    /// The number of outputs that are kept.
    columns: usize,
    /// The number of f32 multiply-adds that take as long.
    work: usize,
    terms: I,
    /// Whether panels are taken from last to first.
    reversed: bool,
}

impl<'a, 'p, I: Iterator<Item = Term<'a>> + Clone + Sync> Product<'p, I> {
    pub(crate) fn new(with: &'p Products, steps: usize, out: usize, terms: I) -> Product<'p, I> {
        let (mut work, mut count) = (0usize, 0);
        for term in terms.clone() {
            count += 1;
            match term {
                Term::Floats(floats) => {
                    dense::Job::new(steps, &floats, out);
                    work = work.saturating_add(floats.work(steps, out));
                }
                Term::Codes(x, weights) => {
                    assert_eq!(weights.out, out, "outputs of a term");
                    integer::Job::new(steps, &x, &weights);
                    work = work.saturating_add(weights.work(steps));
                }
            }
        }
        assert!(count > 0, "a product has a term");
        Product { with, steps, out, columns: out, work, terms, reversed: false }
    }

    /// On exactly this many threads, or one per panel.
    pub(crate) fn run_on(&self, threads: usize, to: &mut [f32], to_stride: usize, start: Start<'_>) {
        let to = Destination::new(self.steps, to, to_stride, self.columns, start);
        let all = self.columns.div_ceil(PANEL);
        split(threads, all, |_, panels| {
            // The ranges are also taken from last to first.
            let panels = if self.reversed { all - panels.end..all - panels.start } else { panels };
            // SAFETY: `split` gives each panel to one thread.
            unsafe { self.fill(panels, &to) }
        });
    }

    /// Some panels of the destination.
    ///
    /// # Safety
    /// Only this thread writes these panels' columns of the destination during the call.
    unsafe fn fill(&self, range: Range<usize>, to: &Destination<'_>) {
        let (level, panels) = (self.with.level, PanelRange { range, reversed: self.reversed });
        let added = to.accumulating();
        for (n, term) in self.terms.clone().enumerate() {
            let to = if n == 0 { to } else { &added };
            // SAFETY: the columns are this thread's, as the caller promises; terms are processed one after another.
            unsafe {
                match term {
                    Term::Floats(term) => {
                        dense::Job::new(self.steps, &term, self.out).run(level, panels.clone(), to);
                    }
                    Term::Codes(x, weights) => {
                        integer::Job::new(self.steps, &x, &weights).run(level, panels.clone(), to);
                    }
                }
            }
        }
    }

    /// On exactly this many threads, or one per section.
    pub(crate) fn log_probabilities_on(
        &self,
        threads: usize,
        count: usize,
        start: Start<'_>,
        targets: &[u32],
        to: &mut [f32],
    ) {
        let (steps, panels) = (self.steps, count.div_ceil(PANEL));
        let sections = sections(count);
        assert!(
            targets.len() >= steps && to.len() >= steps,
            "a target and a place for each of {steps} tokens"
        );
        assert!(count <= self.out, "{count} outputs of {}", self.out);
        assert!(targets.iter().all(|&t| (t as usize) < count), "targets are below {count}");
        assert!(!matches!(start, Start::Accumulate), "there are no logits to add to");
        start.check(count);
        let mut totals = self.with.totals.lock().unwrap_or_else(PoisonError::into_inner);
        totals.clear();
        totals.resize(steps * 2 * sections, 0.0);
        let found = Found {
            logits: Destination::new(steps, to, 1, 1, Start::Zero),
            totals: Destination::new(steps, &mut totals, 2 * sections, 2 * sections, Start::Zero),
        };
        split(threads, sections, |thread, sections| {
            let rows = &mut *self.with.rows[thread].lock().unwrap_or_else(PoisonError::into_inner);
            for section in sections {
                rows.clear(steps);
                for first in (section * SECTION..panels.min((section + 1) * SECTION)).step_by(BLOCK) {
                    let columns = first * PANEL..count.min((first + BLOCK) * PANEL);
                    let start = match start {
                        Start::Bias(bias) => Start::Bias(&bias[columns.clone()]),
                        other => other,
                    };
                    let block = Destination::new(steps, &mut rows.logits, WIDTH, columns.len(), start);
                    // SAFETY: the block is this thread's.
                    unsafe { self.fill(first..panels.min(first + BLOCK), &block.starting_at(first)) };
                    Sums::add_rows(self.with.level, &rows.logits, WIDTH, columns.len(), &mut rows.sums);
                    for (t, &target) in targets.iter().enumerate() {
                        if columns.contains(&(target as usize)) {
                            let logit = rows.logits[t * WIDTH + target as usize - columns.start];
                            // SAFETY: a token's target is in one block only, which belongs to one thread.
                            unsafe { found.logits.tile(t, 1, 0, 0) }.store_plain(&[logit]);
                        }
                    }
                }
                let column = 2 * section;
                for (t, sums) in rows.sums.iter().enumerate() {
                    // SAFETY: a section's two columns belong to the thread that has the section.
                    unsafe { found.totals.tile(t, 1, column / PANEL, column % PANEL) }
                        .store_plain(&sums.total());
                }
            }
        });
        for (to, totals) in to.iter_mut().zip(totals.as_chunks::<2>().0.chunks_exact(sections.max(1))) {
            *to -= log_sum_exp_of(totals);
        }
    }
}

/// Logits of a block, and the sums of its section, by token.
#[derive(Default)]
struct Rows {
    logits: Vec<f32>,
    sums: Vec<Sums>,
}

impl Rows {
    fn clear(&mut self, steps: usize) {
        self.logits.resize(steps * WIDTH, 0.0);
        self.sums.clear();
        self.sums.resize(steps, Sums::NOTHING);
    }
}

/// The threads' results, each in its own columns: the targets' logits and the sections' sums.
struct Found<'a> {
    logits: Destination<'a>,
    totals: Destination<'a>,
}
