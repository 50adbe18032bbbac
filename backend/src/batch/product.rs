//! Products of many vectors with the sum of packed maps, and what is made of the output layer's.

use super::level::Level;
use super::share::{Destination, Panels, deserved, split};
use super::softmax::{Sums, log_sum_exp_of};
use super::{Activations, Codes, Floats, PANEL, Start, dense, int};
use std::cell::RefCell;
use std::ops::Range;

/// Panels whose logits are kept until they are part of the log-sum-exp: 64 tokens' fit a first-level cache.
const BLOCK: usize = 4;

/// Panels whose part of the log-sum-exp is a sum of its own. These are the same on any number of threads, and so is the result.
const SECTION: usize = 8 * BLOCK;

/// Columns of a block.
const WIDTH: usize = BLOCK * PANEL;

/// Multiply-adds in the time of an exponential, as measured.
const EXP_WORK: usize = 8;

/// A packed map and the vectors, one per token, that it is multiplied with.
#[derive(Clone, Copy, Debug)]
pub enum Term<'a> {
    /// f32s.
    Floats(Floats<'a>),
    /// Integers: each group's sum is exact, an i32, which a group of 130,000 inputs cannot overflow.
    Codes(Activations<'a>, Codes<'a>),
}

/// `to[t][o] = start[t][o] + sum over terms of (w x[t])[o]` for `steps` tokens and `o < out`; `to` has rows of `out` f32s, `to_stride` apart, and
/// what lies between them is left alone. An integer term is `scales[t] sum_g scale[o][g] (sum_k code[o][k] x[t][k])`, `k` in group `g`.
///
/// # Panics
/// Where a slice is too short for its shape, a stride for its row, or codes are not of 8, 4 or 2 bits.
pub fn product<'a>(
    threads: usize,
    steps: usize,
    out: usize,
    terms: impl Iterator<Item = Term<'a>> + Clone + Sync,
    to: &mut [f32],
    to_stride: usize,
    start: Start<'_>,
) {
    first_columns(threads, steps, [out, out], terms, to, to_stride, start);
}

/// [`product`] of a map of `out` outputs, of which the first `count` are kept: rows of `count` f32s.
///
/// # Panics
/// As [`product`]; where there are fewer outputs than `count`.
pub fn first_columns<'a>(
    threads: usize,
    steps: usize,
    [out, count]: [usize; 2],
    terms: impl Iterator<Item = Term<'a>> + Clone + Sync,
    to: &mut [f32],
    to_stride: usize,
    start: Start<'_>,
) {
    assert!(count <= out, "{count} outputs of {out}");
    let product = Product { columns: count, ..Product::new(Level::best(), steps, out, terms) };
    product.run_on(deserved(threads, count.div_ceil(PANEL), product.work), to, to_stride, start);
}

/// Adds one vector's product with a map that is multiplied again and again: `to[o] += (w x)[o]`. Where the map does not fit a cache, `falling`
/// every other time, which takes the panels from the last to the first, finds there what was read last.
///
/// # Panics
/// As [`product`].
pub fn recurrent_product(threads: usize, out: usize, term: Term<'_>, to: &mut [f32], falling: bool) {
    let product = Product { falling, ..Product::new(Level::best(), 1, out, std::iter::once(term)) };
    product.run_on(deserved(threads, out.div_ceil(PANEL), product.work), to, out, Start::Accumulate);
}

/// `to[t]` becomes the log-probability of output `targets[t]` among the first `count`, of logits as [`product`] makes them: `logit - log-sum-exp of
/// all logits`. NaN where the log-sum-exp is. Logits are not kept.
///
/// # Panics
/// As [`product`]; where there are fewer places than targets, or fewer outputs than `count`, or a target is not below it; where `start` is to
/// accumulate.
pub fn log_probabilities<'a>(
    threads: usize,
    out: usize,
    count: usize,
    terms: impl Iterator<Item = Term<'a>> + Clone + Sync,
    start: Start<'_>,
    targets: &[u32],
    to: &mut [f32],
) {
    let product = Product::new(Level::best(), targets.len(), out, terms);
    let work = product.work + targets.len() * count * EXP_WORK;
    let threads = deserved(threads, count.div_ceil(SECTION * PANEL), work);
    product.log_probabilities_on(threads, count, start, targets, to);
}

/// Terms whose shapes have been checked.
pub(super) struct Product<I> {
    level: Level,
    steps: usize,
    out: usize,
    /// Outputs that are kept.
    columns: usize,
    /// Multiply-adds of f32s that take as long.
    work: usize,
    terms: I,
    /// Whether panels are taken from the last to the first.
    falling: bool,
}

impl<'a, I: Iterator<Item = Term<'a>> + Clone + Sync> Product<I> {
    pub(super) fn new(level: Level, steps: usize, out: usize, terms: I) -> Product<I> {
        let (mut work, mut count) = (0, 0);
        for term in terms.clone() {
            count += 1;
            match term {
                Term::Floats(floats) => {
                    dense::Job::new(steps, &floats, out);
                    work += floats.work(steps, out);
                }
                Term::Codes(x, weights) => {
                    assert_eq!(weights.out, out, "outputs of a term");
                    int::Job::new(steps, &x, &weights);
                    work += weights.work(steps);
                }
            }
        }
        assert!(count > 0, "a product has a term");
        Product { level, steps, out, columns: out, work, terms, falling: false }
    }

    /// On just so many threads, or one per panel.
    pub(super) fn run_on(&self, threads: usize, to: &mut [f32], to_stride: usize, start: Start<'_>) {
        let to = Destination::new(self.steps, to, to_stride, self.columns, start);
        split(threads, self.columns.div_ceil(PANEL), |panels| self.fill(panels, to));
    }

    /// Some panels of the destination.
    fn fill(&self, range: Range<usize>, mut to: Destination) {
        let panels = Panels { range, falling: self.falling };
        for term in self.terms.clone() {
            match term {
                Term::Floats(term) => {
                    dense::Job::new(self.steps, &term, self.out).run(self.level, panels.clone(), to);
                }
                Term::Codes(x, weights) => {
                    int::Job::new(self.steps, &x, &weights).run(self.level, panels.clone(), to);
                }
            }
            to = to.accumulating();
        }
    }

    /// On just so many threads, or one per section.
    pub(super) fn log_probabilities_on(
        &self,
        threads: usize,
        count: usize,
        start: Start<'_>,
        targets: &[u32],
        to: &mut [f32],
    ) {
        thread_local! {
            /// What a thread needs again for the next chunk of tokens.
            static ROWS: RefCell<Rows> = const { RefCell::new(Rows { logits: vec![], sums: vec![] }) };
            static TOTALS: RefCell<Vec<f32>> = const { RefCell::new(vec![]) };
        }
        let (steps, panels) = (self.steps, count.div_ceil(PANEL));
        let sections = panels.div_ceil(SECTION);
        assert!(
            targets.len() >= steps && to.len() >= steps,
            "a target and a place for each of {steps} tokens"
        );
        assert!(count <= self.out, "{count} outputs of {}", self.out);
        assert!(targets.iter().all(|&t| (t as usize) < count), "targets are below {count}");
        assert!(!matches!(start, Start::Accumulate), "there are no logits to add to");
        let mut totals = TOTALS.take();
        totals.resize(steps * 2 * sections, 0.0);
        let found = Found {
            logits: Destination::new(steps, to, 1, 1, Start::Zero),
            totals: Destination::new(steps, &mut totals, 2 * sections, 2 * sections, Start::Zero),
        };
        split(threads, sections, |sections| {
            ROWS.with_borrow_mut(|rows| {
                for section in sections {
                    rows.clear(steps);
                    for first in (section * SECTION..panels.min((section + 1) * SECTION)).step_by(BLOCK) {
                        let columns = first * PANEL..count.min((first + BLOCK) * PANEL);
                        let start = match start {
                            Start::Bias(bias) => Start::Bias(&bias[columns.clone()]),
                            other => other,
                        };
                        let block = Destination::new(steps, &mut rows.logits, WIDTH, columns.len(), start);
                        self.fill(first..panels.min(first + BLOCK), block.starting_at(first));
                        Sums::add_rows(self.level, &rows.logits, WIDTH, columns.len(), &mut rows.sums);
                        for (t, &target) in targets.iter().enumerate() {
                            if columns.contains(&(target as usize)) {
                                let logit = rows.logits[t * WIDTH + target as usize - columns.start];
                                // SAFETY: the token exists; its target is in this block only, and that is this thread's.
                                unsafe { found.logits.tile(t, 0, 0).store_plain(&[logit]) };
                            }
                        }
                    }
                    for (t, sums) in rows.sums.iter().enumerate() {
                        // SAFETY: the token and the section exist, and the section is this thread's.
                        unsafe { found.totals.tile(t, 0, 2 * section).store_plain(&sums.total()) };
                    }
                }
            });
        });
        for (to, totals) in to.iter_mut().zip(totals.as_chunks::<2>().0.chunks_exact(sections.max(1))) {
            *to -= log_sum_exp_of(totals);
        }
        TOTALS.set(totals);
    }
}

/// Logits of a block, and the sums of the section that it is in, by token.
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

/// Where threads leave what they find, each its own columns: the targets' logits, and the sections' sums.
struct Found {
    logits: Destination,
    totals: Destination,
}
