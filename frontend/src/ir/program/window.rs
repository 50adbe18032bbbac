//! Running a program over a window of time steps: what its steps read and write.
//!
//! ```text
//!   time step            0      1      2            rows of a sequence are ordered by time step, then stream
//!   result of step k     y0     y1     y2           [steps, streams, width]
//!   state whose next     before y0     y1           the same rows, delayed; `before` is its value before the window
//!     step is k
//! ```
//!
//! The interpreter and training run programs in this way, training in both directions: the gradients of a window are a window.

use super::{Group, Sequence, Slice, State, StepId};
use std::borrow::Cow;
use std::ops::{AddAssign, Range};
use std::sync::Arc;

/// The sizes of a program's sequences and the order in which they are computed.
#[derive(Clone, PartialEq, Debug)]
pub struct Layout {
    pub(super) widths: Vec<usize>,
    pub(super) states: Vec<State>,
    pub(super) groups: Vec<Group>,
}

impl Layout {
    /// The number of steps.
    pub fn steps(&self) -> usize {
        self.widths.len()
    }

    /// Features of a step's result.
    pub fn width(&self, step: StepId) -> usize {
        self.widths[step.index()]
    }

    /// The states.
    pub fn states(&self) -> &[State] {
        &self.states
    }

    /// All work of a window of `count` time steps, in order: each step with the time steps that it computes at once.
    pub fn schedule(&self, count: usize) -> impl DoubleEndedIterator<Item = (StepId, Range<usize>)> + '_ {
        self.groups.iter().flat_map(move |group| {
            let (each, turns) = if group.is_recurrent { (1, count) } else { (count, 1) };
            (0..turns).flat_map(move |t| group.steps().map(move |step| (step, t * each..(t + 1) * each)))
        })
    }
}

/// What a program's steps compute in a window of time steps of several streams.
#[derive(Clone, Debug)]
pub struct Window<T> {
    layout: Arc<Layout>,
    streams: usize,
    count: usize,
    /// For each step, `[time steps, streams, width]`; empty before it is computed.
    pub results: Vec<Vec<T>>,
    /// For each state, its value before the window, `[streams, width]`.
    pub before: Vec<Vec<T>>,
}

impl<T: Copy + Default + AddAssign> Window<T> {
    /// A window of `count` time steps, in which nothing is computed yet.
    pub fn new(layout: &Arc<Layout>, count: usize, streams: usize, before: Vec<Vec<T>>) -> Window<T> {
        Window { layout: layout.clone(), streams, count, results: vec![vec![]; layout.steps()], before }
    }

    /// The step behind a slice, and for a state its position.
    fn source(&self, x: Slice) -> (usize, Option<usize>) {
        match x.of {
            Sequence::Step(s) => (s.index(), None),
            Sequence::State(s) => (self.layout.states[s.index()].next.index(), Some(s.index())),
        }
    }

    /// The slice at these time steps, `[time steps, streams, width]`.
    pub fn read(&self, x: Slice, times: Range<usize>) -> Cow<'_, [T]> {
        let ((step, state), b) = (self.source(x), self.streams);
        let (whole, rows) = (self.layout.widths[step], times.start * b..times.end * b);
        let row = |r: usize| match state {
            None => &self.results[step][r * whole..][..whole],
            Some(state) if r < b => &self.before[state][r * whole..][..whole],
            Some(_) => &self.results[step][(r - b) * whole..][..whole],
        };
        if x.width == whole && (state.is_none() || times.len() == 1) {
            let all = match state {
                None => &self.results[step][rows.start * whole..rows.end * whole],
                Some(state) if times.start == 0 => &self.before[state][..],
                Some(_) => &self.results[step][(rows.start - b) * whole..rows.start * whole],
            };
            return Cow::Borrowed(all);
        }
        Cow::Owned(rows.flat_map(|r| &row(r)[x.from..x.from + x.width]).copied().collect())
    }

    /// Stores a step's result at these time steps.
    pub fn write(&mut self, step: StepId, times: Range<usize>, rows: Vec<T>) {
        let (row, result) = (self.streams * self.layout.width(step), &mut self.results[step.index()]);
        if times.len() == self.count {
            *result = rows;
        } else {
            result.resize(self.count * row, T::default());
            result[times.start * row..times.end * row].copy_from_slice(&rows);
        }
    }

    /// Adds to a slice at these time steps; what is empty counts as zero.
    pub fn add(&mut self, x: Slice, times: Range<usize>, rows: &[T]) {
        let ((step, state), b) = (self.source(x), self.streams);
        let whole = self.layout.widths[step];
        self.results[step].resize(self.count * b * whole, T::default());
        for (r, row) in (times.start * b..times.end * b).zip(rows.chunks_exact(x.width.max(1))) {
            let to = match state {
                None => &mut self.results[step][r * whole..],
                Some(state) if r < b => {
                    self.before[state].resize(b * whole, T::default());
                    &mut self.before[state][r * whole..]
                }
                Some(_) => &mut self.results[step][(r - b) * whole..],
            };
            to[x.from..].iter_mut().zip(row).for_each(|(to, &x)| *to += x);
        }
    }

    /// The values of a stepwise state after the window, `[streams, width]`.
    pub fn after(&self, state: usize) -> &[T] {
        let State { next, width, .. } = self.layout.states[state];
        let row = self.streams * width;
        match self.count.checked_sub(1) {
            None => &self.before[state],
            Some(last) => &self.results[next.index()][last * row..][..row],
        }
    }
}
