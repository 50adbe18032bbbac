//! Sharing panels out among threads, and the destination they write.

use super::vector::Vector;
use super::{PANEL, Start};
use crate::team::{Team, share};
use std::ops::Range;

/// Least work of a thread, in multiply-adds of f32s: about 20 us with AVX-512, a few times what two threads that are awake take to meet.
pub(super) const THREAD_WORK: usize = 1 << 20;

/// How many threads `work` units in `parts` parts deserve, of those asked for (0: all cores).
pub(super) fn deserved(asked: usize, parts: usize, work: usize) -> usize {
    // Small work first: asking for the number of cores is a system call.
    let most = parts.min(work / THREAD_WORK).max(1);
    if most == 1 || asked == 1 {
        return 1;
    }
    let have = if asked == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { asked };
    most.min(have)
}

/// Runs `f` on `0..parts` cut into `threads` ranges (at most one per part), on threads that are awake where work follows work.
pub(super) fn split(threads: usize, parts: usize, f: impl Fn(Range<usize>) + Sync) {
    let threads = threads.min(parts).max(1);
    if threads == 1 {
        return f(0..parts);
    }
    let work = |member: usize, _: &dyn Fn()| f(share(parts, member, threads));
    if Team::of_all_cores().is_some_and(|team| team.run(threads, &work)) {
        return;
    }
    // More threads than cores, or another caller has the team.
    std::thread::scope(|scope| {
        for i in 1..threads {
            let f = &f;
            scope.spawn(move || f(share(parts, i, threads)));
        }
        f(share(parts, 0, threads));
    });
}

/// Some panels, in the order that they are taken in.
#[derive(Clone)]
pub(super) struct Panels {
    pub(super) range: Range<usize>,
    /// From the last to the first.
    pub(super) falling: bool,
}

impl Panels {
    pub(super) fn each(&self) -> impl Iterator<Item = usize> {
        let Panels { range: Range { start, end }, falling } = self.clone();
        (start..end).map(move |panel| if falling { start + end - 1 - panel } else { panel })
    }
}

/// Where a product goes: rows of `out` f32s, `stride` apart, whose columns several threads write, each its own panels.
#[derive(Clone, Copy)]
pub(super) struct Destination {
    to: *mut f32,
    stride: usize,
    out: usize,
    /// The panel that goes to the first column.
    first: usize,
    /// The first column's starting value, `start_stride` apart from token to token; null for zero.
    start: *const f32,
    start_stride: usize,
}

// SAFETY: the pointers come from slices that outlive the product, and threads write the columns of distinct panels.
unsafe impl Sync for Destination {}

/// A tile of a destination: the outputs of a panel or of a part of it, from one token on.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) to: *mut f32,
    pub(super) stride: usize,
    /// Null for zero.
    pub(super) start: *const f32,
    pub(super) start_stride: usize,
    /// Columns that exist.
    pub(super) columns: usize,
}

impl Destination {
    /// Panics where the shapes do not fit.
    pub(super) fn new(
        steps: usize,
        to: &mut [f32],
        stride: usize,
        out: usize,
        start: Start<'_>,
    ) -> Destination {
        super::check_rows("destination", steps, stride, out, to.len());
        start.check(out);
        let to = to.as_mut_ptr();
        let to = Destination { to, stride, out, first: 0, start: std::ptr::null(), start_stride: 0 };
        match start {
            Start::Zero => to,
            Start::Bias(bias) => Destination { start: bias.as_ptr(), ..to },
            Start::Accumulate => to.accumulating(),
        }
    }

    /// The same for the panels from `first` on.
    pub(super) fn starting_at(self, first: usize) -> Destination {
        Destination { first, ..self }
    }

    /// The same, to be added to what it then holds.
    pub(super) fn accumulating(self) -> Destination {
        Destination { start: self.to.cast_const(), start_stride: self.stride, ..self }
    }

    /// The tile of `panel` from `token` on, without its first `skip` columns.
    ///
    /// # Safety
    /// The token and the column must exist.
    pub(super) unsafe fn tile(&self, token: usize, panel: usize, skip: usize) -> Tile {
        let column = (panel - self.first) * PANEL + skip;
        let start = if self.start.is_null() {
            self.start
        } else {
            // SAFETY: as the caller promises, and the starting values were checked to have an element per column.
            unsafe { self.start.add(token * self.start_stride + column) }
        };
        // SAFETY: as the caller promises, and the rows were checked.
        let to = unsafe { self.to.add(token * self.stride + column) };
        Tile { to, stride: self.stride, start, start_stride: self.start_stride, columns: self.out - column }
    }
}

impl Tile {
    /// `to = start + values` in as many columns from `column` on as there are, of token `t` of the tile.
    ///
    /// # Safety
    /// The processor has the instructions of `V`, the token exists, and the tile is this thread's.
    #[inline(always)]
    pub(super) unsafe fn store<V: Vector>(&self, t: usize, column: usize, values: V) {
        let columns = self.columns.saturating_sub(column);
        let to = self.to.wrapping_add(t * self.stride + column);
        let start = self.start.wrapping_add(t * self.start_stride + column);
        // SAFETY: whole vectors are touched only where their columns exist; else as the caller promises.
        unsafe {
            if columns >= V::LANES {
                let values = if self.start.is_null() { values } else { values.add(V::load(start)) };
                values.store(to);
            } else {
                let values =
                    if self.start.is_null() { values } else { values.add(V::load_first(start, columns)) };
                values.store_first(to, columns);
            }
        }
    }

    /// The plain twin of [`Tile::store`], of the first token.
    ///
    /// # Safety
    /// The tile is this thread's.
    pub(super) unsafe fn store_plain(&self, values: &[f32]) {
        for (i, &v) in values.iter().enumerate().take(self.columns) {
            // SAFETY: i is a column that exists, and no other thread writes it.
            unsafe {
                let start = if self.start.is_null() { 0.0 } else { *self.start.add(i) };
                *self.to.add(i) = start + v;
            }
        }
    }
}
