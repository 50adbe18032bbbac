//! Distributing panels among threads, and the destination that they write.

use crate::pool::{Pool, share};
use crate::vector::Vector;
use crate::{PANEL, Start};
use std::marker::PhantomData;
use std::ops::Range;

/// The minimum work of a thread, in f32 multiply-adds: about 20 us with AVX-512, a few times the synchronisation time of two awake threads.
pub(crate) const THREAD_WORK: usize = 1 << 20;

/// How many of the available threads `work` units in `parts` parts justify.
pub(crate) fn deserved(threads: usize, parts: usize, work: usize) -> usize {
    parts.min(work / THREAD_WORK).min(threads).max(1)
}

/// Runs `f(thread, range)` on ranges that cover `0..parts`, on at most `threads` threads (one per part), which stay awake between calls in
/// quick succession. A thread may get several ranges.
pub(crate) fn split(threads: usize, parts: usize, f: impl Fn(usize, Range<usize>) + Sync) {
    let threads = threads.min(parts).max(1);
    if threads == 1 {
        return f(0, 0..parts);
    }
    if Pool::of_all_cores()
        .is_some_and(|pool| pool.run(threads, &[parts], &|thread, _, range| f(thread, range)))
    {
        return;
    }
    // More threads than cores, or another caller has the pool.
    std::thread::scope(|scope| {
        for i in 1..threads {
            let f = &f;
            scope.spawn(move || f(i, share(parts, i, threads)));
        }
        f(0, share(parts, 0, threads));
    });
}

/// Some panels, in the order in which they are taken.
#[derive(Clone)]
pub(crate) struct PanelRange {
    pub(crate) range: Range<usize>,
    /// From last to first.
    pub(crate) reversed: bool,
}

impl PanelRange {
    pub(crate) fn each(&self) -> impl Iterator<Item = usize> {
        let PanelRange { range: Range { start, end }, reversed } = self.clone();
        (start..end).map(move |panel| if reversed { start + end - 1 - panel } else { panel })
    }
}

/// The destination of a product: rows of `out` f32s, `stride` apart, whose columns several threads write, each for its own panels.
pub(crate) struct Destination<'a> {
    to: *mut f32,
    stride: usize,
    steps: usize,
    out: usize,
    /// The panel that is written to the first column.
    first: usize,
    /// The first column's starting value, `start_stride` apart between tokens; null for zero.
    start: *const f32,
    start_stride: usize,
    /// The rows are borrowed, and so is a bias.
    rows: PhantomData<(&'a mut [f32], &'a [f32])>,
}

// SAFETY: `to` and `start` come from slices that stay borrowed for 'a. What is written through `to` is written through tiles, and each tile belongs
// to one thread (`Destination::tile`); starting values are read only there, or from a bias that no thread writes.
unsafe impl Sync for Destination<'_> {}

/// A tile of a destination: the outputs of a panel or of a part of it, from one token on.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    pub(crate) to: *mut f32,
    pub(crate) stride: usize,
    /// Null for zero.
    pub(crate) start: *const f32,
    pub(crate) start_stride: usize,
    /// Tokens that exist.
    pub(crate) tokens: usize,
    /// Columns that exist, at least one.
    pub(crate) columns: usize,
}

impl<'a> Destination<'a> {
    /// Panics if the shapes do not fit.
    pub(crate) fn new(
        steps: usize,
        to: &'a mut [f32],
        stride: usize,
        out: usize,
        start: Start<'a>,
    ) -> Destination<'a> {
        crate::check_rows("destination", steps, stride, out, to.len());
        start.check(out);
        let to = to.as_mut_ptr();
        let (start, start_stride) = match start {
            Start::Zero => (std::ptr::null(), 0),
            Start::Bias(bias) => (bias.as_ptr(), 0),
            Start::Accumulate => (to.cast_const(), stride),
        };
        Destination { to, stride, steps, out, first: 0, start, start_stride, rows: PhantomData }
    }

    /// The same destination for the panels from `first` on.
    pub(crate) fn starting_at(self, first: usize) -> Destination<'a> {
        Destination { first, ..self }
    }

    /// The same destination, whose contents are then added to.
    pub(crate) fn accumulating(&self) -> Destination<'_> {
        Destination { start: self.to.cast_const(), start_stride: self.stride, ..*self }
    }

    /// Columns of `panel`: a panel's width, or fewer in the last one.
    ///
    /// Panics if there is no such panel.
    pub(crate) fn columns(&self, panel: usize) -> usize {
        let before = panel.checked_sub(self.first).and_then(|n| n.checked_mul(PANEL));
        match before {
            Some(before) if before < self.out => PANEL.min(self.out - before),
            _ => {
                panic!("panel {panel} of a destination of {} columns from panel {} on", self.out, self.first)
            }
        }
    }

    /// The tile of `panel` of `tokens` tokens from `token` on, without its first `skip` columns.
    ///
    /// Panics if one of these does not exist.
    ///
    /// # Safety
    /// No other thread writes these columns of these tokens while the tile is in use, and no other tile of them is.
    pub(crate) unsafe fn tile(&self, token: usize, tokens: usize, panel: usize, skip: usize) -> Tile {
        assert!(
            skip < self.columns(panel) && token <= self.steps && tokens <= self.steps - token,
            "a tile of {tokens} tokens from {token} on, of panel {panel} from column {skip} on, in {} rows of {}",
            self.steps,
            self.out
        );
        let column = (panel - self.first) * PANEL + skip;
        let start = if self.start.is_null() {
            self.start
        } else {
            // SAFETY: token and column exist, as asserted; a bias has an element per column and no stride; when accumulating,
            // the start has the destination's rows (`Destination::new` checked both).
            unsafe { self.start.add(token * self.start_stride + column) }
        };
        // SAFETY: token and column exist, as asserted, in rows that `Destination::new` checked.
        let to = unsafe { self.to.add(token * self.stride + column) };
        let (stride, start_stride, columns) = (self.stride, self.start_stride, self.out - column);
        Tile { to, stride, start, start_stride, tokens, columns }
    }
}

impl Tile {
    /// `to = start + values` in the existing columns from `column` on, for token `t` of the tile.
    ///
    /// # Safety
    /// The processor has the instructions of `V`, and `t` is below the tile's tokens.
    #[inline(always)]
    pub(crate) unsafe fn store<V: Vector>(&self, t: usize, column: usize, values: V) {
        // SAFETY: as the caller promises.
        unsafe {
            if self.start.is_null() {
                self.put(t, column, values);
            } else {
                self.put(t, column, values.add(self.starts(t, column)));
            }
        }
    }

    /// [`Tile::store`] of `values * scale`, rounded once as generated code does.
    ///
    /// # Safety
    /// As [`Tile::store`].
    #[inline(always)]
    pub(crate) unsafe fn store_scaled<V: Vector>(&self, t: usize, column: usize, values: V, scale: V) {
        // SAFETY: as the caller promises.
        unsafe {
            let start = if self.start.is_null() { V::splat(0.0) } else { self.starts(t, column) };
            self.put(t, column, values.mul_add(scale, start));
        }
    }

    /// The starting values in the existing columns from `column` on; there are some.
    ///
    /// # Safety
    /// As [`Tile::store`].
    #[inline(always)]
    unsafe fn starts<V: Vector>(&self, t: usize, column: usize) -> V {
        let columns = self.columns.saturating_sub(column);
        // If there is no such column, nothing is touched.
        let start = self.start.wrapping_add(t * self.start_stride + column);
        // SAFETY: a whole vector is touched only if all of its columns exist; otherwise only the existing ones are; the token exists and the
        // processor has the instructions, as the caller promises.
        unsafe { if columns >= V::LANES { V::load(start) } else { V::load_first(start, columns) } }
    }

    /// Writes the existing columns from `column` on.
    ///
    /// # Safety
    /// As [`Tile::store`].
    #[inline(always)]
    unsafe fn put<V: Vector>(&self, t: usize, column: usize, values: V) {
        debug_assert!(t < self.tokens);
        let columns = self.columns.saturating_sub(column);
        let to = self.to.wrapping_add(t * self.stride + column);
        // SAFETY: as in `starts`.
        unsafe {
            if columns >= V::LANES {
                values.store(to);
            } else {
                values.store_first(to, columns);
            }
        }
    }

    /// The reference implementation of [`Tile::store`], for the first token. Panics if there is none.
    pub(crate) fn store_plain(&self, values: &[f32]) {
        assert!(self.tokens > 0, "a tile of no tokens");
        for (i, &v) in values.iter().enumerate().take(self.columns) {
            // SAFETY: token 0 exists, as asserted, and `i` is below the number of columns; `Destination::tile` made the pointers that way, and
            // nothing else writes there while the tile is in use, as its caller promised.
            unsafe {
                let start = if self.start.is_null() { 0.0 } else { *self.start.add(i) };
                *self.to.add(i) = start + v;
            }
        }
    }
}
