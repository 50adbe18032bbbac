//! Formulas of cells and of elementwise steps, at every level.
//!
//! A formula's terms are evaluated for some elements ("units") at a time, in memory that stays in the L1 cache.

use crate::elementary::EXP_LOW;
use crate::exp::{exp_of, exp2, exp2_of};
use crate::layout::UNITS;
use crate::level::{Level, Set};
use crate::vector::{MOST_LANES, Split, lanes};
use lstmc_frontend::ir::{Algebra, Binary, Formula, GateOrder, Lstm, Primitive, Term, plain_lstm};
use std::f32::consts::LOG2_E;
use std::marker::PhantomData;
use std::sync::LazyLock;

/// Units that are updated together, so that their operations' latencies overlap.
const TOGETHER: usize = 4 * UNITS;

/// The formula of nearly all models, which has dedicated code: a sequence through 200 units is 3 % faster with it.
static PLAIN_LSTM: LazyLock<Formula> = LazyLock::new(|| Lstm::new(GateOrder::Iofc).spec(false).formula);

/// How a formula is evaluated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// Term by term, through memory.
    ByTerm,
    /// As in [`plain_lstm`], in registers.
    PlainLstm,
}

impl Way {
    /// The fastest that there is for a formula.
    pub(crate) fn of(formula: &Formula) -> Way {
        if *formula == *PLAIN_LSTM { Way::PlainLstm } else { Way::ByTerm }
    }
}

/// Memory for the terms of formulas, which is reused.
#[derive(Debug, Default)]
pub struct Terms {
    /// `[terms][TOGETHER]`
    values: Vec<f32>,
    slots: Vec<usize>,
}

impl Terms {
    /// Reserves memory for a formula, so that its evaluation allocates nothing.
    pub fn reserve(&mut self, formula: &Formula) {
        // Made here, not with the first update.
        LazyLock::force(&PLAIN_LSTM);
        let terms = formula.terms().len();
        self.values.resize(self.values.len().max(terms * TOGETHER), 0.0);
        self.slots.reserve(terms.saturating_sub(self.slots.len()));
    }
}

/// An input of a formula.
#[derive(Clone, Copy, Debug)]
pub enum Row<'a> {
    /// One element per element of the result.
    Each(&'a [f32]),
    /// The same value for all elements.
    One(f32),
}

/// A formula's only result for `to.len()` elements, a multiple of [`UNITS`].
///
/// # Panics
/// If the length is not a multiple, or an input is shorter.
pub fn map<'a>(
    level: Level,
    formula: &Formula,
    inputs: impl Iterator<Item = Row<'a>>,
    to: &mut [f32],
    terms: &mut Terms,
) {
    assert!(to.len().is_multiple_of(UNITS), "{} elements", to.len());
    let mut all = Ends::<MOST>::new();
    let mut ones = [[0.0; UNITS]; MOST];
    for (input, one) in inputs.zip(&mut ones) {
        match input {
            Row::Each(x) => all.read(&x[..to.len()], UNITS),
            Row::One(x) => {
                *one = [x; UNITS];
                all.read(one, 0);
            }
        }
    }
    all.write(to);
    check(formula, all.count);
    // SAFETY: inputs are cut to the length of the result, of which there is one.
    unsafe { evaluate(level, formula, Way::ByTerm, &all, to.len(), terms) };
}

/// Evaluates a formula for `len` units.
///
/// # Safety
/// Each input and result of `ends` has an element for each unit, and [`check`] has seen the formula and as many inputs and results.
pub(crate) unsafe fn evaluate<const N: usize>(
    level: Level,
    formula: &Formula,
    way: Way,
    ends: &Ends<N>,
    len: usize,
    terms: &mut Terms,
) {
    terms.reserve(formula);
    let Terms { values, slots } = terms;
    let (inputs, results) = (ends.inputs(), &ends.results[..]);
    let mut at = Place { inputs, results, way, values: values.as_mut_ptr(), unit: 0, next: 0 };
    match level.set() {
        Set::Portable => {
            for unit in 0..len {
                (at.unit, at.next) = (unit, 0);
                formula.evaluate(&mut Scalar(&mut at), slots);
            }
        }
        // Vectors no longer than a part, even if longer ones are available.
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every level above `plain` and `sse4.1` has AVX2 and FMA; callers have checked the lengths, and `check` the formula.
        Set::Avx2 | Set::AvxVnni | Set::Avx512 | Set::Avx512Vnni => unsafe {
            avx2(&mut at, formula, len, slots)
        },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: the level is proof that the processor has NEON; callers have checked the lengths, and `check` the formula.
        Set::Neon | Set::NeonDot => unsafe { neon(&mut at, formula, len, slots) },
    }
}

/// The maximum number of inputs of an elementwise step.
const MOST: usize = 40;

/// The maximum number of results.
const MOST_RESULTS: usize = 8;

/// The addresses of a formula's results, and of its inputs, at most `N`: for each, element `u` is at `first + u / 8 * step + u % 8`.
pub(crate) struct Ends<const N: usize> {
    inputs: [(*const f32, usize); N],
    results: [*mut f32; MOST_RESULTS],
    count: [usize; 2],
}

impl<const N: usize> Ends<N> {
    pub(crate) fn new() -> Ends<N> {
        let results = [std::ptr::null_mut(); MOST_RESULTS];
        Ends { inputs: [(std::ptr::null(), 0); N], results, count: [0; 2] }
    }

    fn inputs(&self) -> &[(*const f32, usize)] {
        &self.inputs[..self.count[0]]
    }

    /// The numbers of inputs and results.
    pub(crate) fn count(&self) -> [usize; 2] {
        self.count
    }

    /// The next input.
    pub(crate) fn read(&mut self, from: &[f32], step: usize) {
        self.inputs[self.count[0]] = (from.as_ptr(), step);
        self.count[0] += 1;
    }

    /// The next result.
    fn write(&mut self, to: &mut [f32]) {
        self.results[self.count[1]] = to.as_mut_ptr();
        self.count[1] += 1;
    }

    /// The next input, which the next result replaces.
    pub(crate) fn replace(&mut self, at: *mut f32) {
        self.inputs[self.count[0]] = (at, UNITS);
        self.results[self.count[1]] = at;
        self.count = self.count.map(|n| n + 1);
    }
}

/// Panics unless the formula has at most so many inputs and results.
pub(crate) fn check(formula: &Formula, [inputs, results]: [usize; 2]) {
    let reads = formula.terms().iter().all(|t| !matches!(t, Term::Input(n) if *n >= inputs));
    assert!(reads && formula.results().len() <= results, "inputs and results of a formula");
}

/// The ends of a formula, and the current units and term.
struct Place<'e> {
    inputs: &'e [(*const f32, usize)],
    results: &'e [*mut f32],
    way: Way,
    /// `[terms][TOGETHER]`
    values: *mut f32,
    unit: usize,
    next: usize,
}

impl Place<'_> {
    /// The address of an input's element `after` the current unit.
    ///
    /// # Safety
    /// There is such a unit.
    #[inline(always)]
    unsafe fn input(&self, n: usize, after: usize) -> *const f32 {
        let ((first, step), unit) = (self.inputs[n], self.unit + after);
        // SAFETY: inputs have an element for each unit, as callers of `evaluate` have checked.
        unsafe { first.add(unit / UNITS * step + unit % UNITS) }
    }

    /// The destination of a result's element.
    ///
    /// # Safety
    /// As [`Place::input`].
    #[inline(always)]
    unsafe fn result(&self, n: usize, after: usize) -> *mut f32 {
        // SAFETY: as for inputs; elements of results are consecutive.
        unsafe { self.results[n].add(self.unit + after) }
    }

    /// The values of the next term.
    #[inline(always)]
    fn take(&mut self) -> usize {
        self.next += 1;
        (self.next - 1) * TOGETHER
    }
}

/// One unit: the reference implementation of [`Vectors`].
struct Scalar<'p, 'e>(&'p mut Place<'e>);

impl Scalar<'_, '_> {
    fn get(&self, at: usize) -> f32 {
        // SAFETY: `at` is a term's, for which `evaluate` has made room.
        unsafe { *self.0.values.add(at) }
    }

    fn put(&mut self, x: f32) -> usize {
        let at = self.0.take();
        // SAFETY: there is room for as many terms as the formula has.
        unsafe { *self.0.values.add(at) = x };
        at
    }
}

impl Algebra for Scalar<'_, '_> {
    type Value = usize;

    fn input(&mut self, n: usize) -> usize {
        // SAFETY: `evaluate` iterates over the units.
        let x = unsafe { *self.0.input(n, 0) };
        self.put(x)
    }

    fn constant(&mut self, x: f32) -> usize {
        self.put(x)
    }

    fn binary(&mut self, op: Binary, &a: &usize, &b: &usize) -> usize {
        self.put(op.of(self.get(a), self.get(b)))
    }

    fn mul_add(&mut self, &a: &usize, &b: &usize, &c: &usize) -> usize {
        self.put(self.get(a) * self.get(b) + self.get(c))
    }

    fn select(&mut self, [&a, &b]: [&usize; 2], &then: &usize, &otherwise: &usize) -> usize {
        self.put(self.get(if self.get(a) < self.get(b) { then } else { otherwise }))
    }

    fn primitive(&mut self, f: Primitive, &x: &usize) -> usize {
        let x = self.get(x);
        self.put(match f {
            Primitive::Sigmoid => sigmoid(x),
            Primitive::Tanh => tanh(x),
            Primitive::Exp => x.clamp(EXP_LOW, -EXP_LOW).exp(),
            Primitive::Ln1p => x.ln_1p(),
            Primitive::Ln => x.ln(),
            Primitive::Sqrt => x.sqrt(),
        })
    }

    fn result(&mut self, n: usize, &value: &usize) {
        let x = self.get(value);
        // SAFETY: as above.
        unsafe { *self.0.result(n, 0) = x };
    }
}

/// Calls code that needs the instructions, which the creator of [`Registers`] and [`Vectors`] has.
macro_rules! v {
    ($e:expr) => {
        // SAFETY: only `update_some` makes these, and it is called only if the processor has the instructions; pointers are as `Place` says.
        unsafe { $e }
    };
}

/// `N` vectors of units, in registers.
struct Registers<'p, 'e, V, const N: usize>(&'p mut Place<'e>, PhantomData<V>);

impl<V: Split, const N: usize> Algebra for Registers<'_, '_, V, N> {
    type Value = [V; N];

    #[inline(always)]
    fn input(&mut self, n: usize) -> [V; N] {
        let ((first, step), mut x) = (self.0.inputs[n], v!([V::splat(0.0); N]));
        // The unit at hand is the first of a part.
        let first = v!(first.add(self.0.unit / UNITS * step));
        for (k, x) in x.iter_mut().enumerate() {
            let after = k * V::LANES;
            *x = v!(V::load(first.add(after / UNITS * step + after % UNITS)));
        }
        x
    }

    #[inline(always)]
    fn constant(&mut self, x: f32) -> [V; N] {
        v!([V::splat(x); N])
    }

    #[inline(always)]
    fn binary(&mut self, op: Binary, &(mut x): &[V; N], y: &[V; N]) -> [V; N] {
        let minus = v!(V::splat(-1.0));
        for (x, &y) in x.iter_mut().zip(y) {
            *x = v!(match op {
                Binary::Add => x.add(y),
                Binary::Sub => y.mul_add(minus, *x),
                Binary::Mul => x.mul(y),
                Binary::Div => x.div(y),
                Binary::Max => x.max(y),
                Binary::Min => x.mul(minus).max(y.mul(minus)).mul(minus),
            });
        }
        x
    }

    #[inline(always)]
    fn mul_add(&mut self, &(mut x): &[V; N], y: &[V; N], z: &[V; N]) -> [V; N] {
        for (x, (&y, &z)) in x.iter_mut().zip(y.iter().zip(z)) {
            *x = v!(x.mul_add(y, z));
        }
        x
    }

    #[inline(always)]
    fn select(&mut self, [&(mut x), y]: [&[V; N]; 2], then: &[V; N], otherwise: &[V; N]) -> [V; N] {
        for (n, x) in x.iter_mut().enumerate() {
            *x = v!(x.select_less(y[n], then[n], otherwise[n]));
        }
        x
    }

    #[inline(always)]
    fn primitive(&mut self, f: Primitive, &(mut x): &[V; N]) -> [V; N] {
        v!(match f {
            Primitive::Sigmoid => sigmoid_of(x, 1.0),
            Primitive::Tanh => tanh_of(x),
            Primitive::Exp => exp_of(x),
            // Rare enough to be computed one at a time.
            Primitive::Ln1p | Primitive::Ln => {
                for x in &mut x {
                    let mut all: [f32; MOST_LANES] = lanes(*x);
                    all.iter_mut().for_each(|x| *x = if f == Primitive::Ln { x.ln() } else { x.ln_1p() });
                    *x = V::load(all.as_ptr());
                }
                x
            }
            Primitive::Sqrt => {
                for x in &mut x {
                    *x = x.sqrt();
                }
                x
            }
        })
    }

    #[inline(always)]
    fn result(&mut self, n: usize, value: &[V; N]) {
        for (k, x) in value.iter().enumerate() {
            v!(x.store(self.0.result(n, k * V::LANES)));
        }
    }
}

/// `N` vectors of units, in memory: a value is the position of its term's vectors.
struct Vectors<'p, 'e, V, const N: usize>(&'p mut Place<'e>, PhantomData<V>);

impl<'e, V: Split, const N: usize> Vectors<'_, 'e, V, N> {
    #[inline(always)]
    fn registers(&mut self) -> Registers<'_, 'e, V, N> {
        Registers(self.0, PhantomData)
    }

    /// The vectors of a term.
    #[inline(always)]
    fn get(&self, at: usize) -> [V; N] {
        let mut x = v!([V::splat(0.0); N]);
        for (n, x) in x.iter_mut().enumerate() {
            *x = v!(V::load(self.0.values.add(at + n * V::LANES)));
        }
        x
    }

    /// The next term's vectors, for which there is room, as for all terms of the formula.
    #[inline(always)]
    fn put(&mut self, x: [V; N]) -> usize {
        let at = self.0.take();
        for (n, x) in x.into_iter().enumerate() {
            v!(x.store(self.0.values.add(at + n * V::LANES)));
        }
        at
    }
}

impl<V: Split, const N: usize> Algebra for Vectors<'_, '_, V, N> {
    type Value = usize;

    #[inline(always)]
    fn input(&mut self, n: usize) -> usize {
        let x = self.registers().input(n);
        self.put(x)
    }

    #[inline(always)]
    fn constant(&mut self, x: f32) -> usize {
        let x = self.registers().constant(x);
        self.put(x)
    }

    #[inline(always)]
    fn binary(&mut self, op: Binary, &a: &usize, &b: &usize) -> usize {
        let (a, b) = (self.get(a), self.get(b));
        let x = self.registers().binary(op, &a, &b);
        self.put(x)
    }

    #[inline(always)]
    fn mul_add(&mut self, &a: &usize, &b: &usize, &c: &usize) -> usize {
        let (a, b, c) = (self.get(a), self.get(b), self.get(c));
        let x = self.registers().mul_add(&a, &b, &c);
        self.put(x)
    }

    #[inline(always)]
    fn select(&mut self, [&a, &b]: [&usize; 2], &then: &usize, &otherwise: &usize) -> usize {
        let (a, b, then, otherwise) = (self.get(a), self.get(b), self.get(then), self.get(otherwise));
        let x = self.registers().select([&a, &b], &then, &otherwise);
        self.put(x)
    }

    #[inline(always)]
    fn primitive(&mut self, f: Primitive, &x: &usize) -> usize {
        let x = self.get(x);
        let y = self.registers().primitive(f, &x);
        self.put(y)
    }

    #[inline(always)]
    fn result(&mut self, n: usize, &value: &usize) {
        let x = self.get(value);
        self.registers().result(n, &x);
    }
}

/// The reference implementation of [`sigmoid_of`].
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp2(-LOG2_E * x))
}

/// The reference implementation of [`tanh_of`].
fn tanh(x: f32) -> f32 {
    2.0 / (1.0 + exp2(-2.0 * LOG2_E * x)) - 1.0
}

/// Lanewise `1 / (1 + e^-(n x))`.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
unsafe fn sigmoid_of<V: Split, const N: usize>(mut x: [V; N], n: f32) -> [V; N] {
    // SAFETY: the caller has the instructions; nothing else is required of a vector.
    unsafe {
        for x in &mut x {
            *x = x.mul(V::splat(-LOG2_E * n));
        }
        let mut y = exp2_of(x);
        for y in &mut y {
            *y = V::splat(1.0).div(y.add(V::splat(1.0)));
        }
        y
    }
}

/// Lanewise hyperbolic tangent, twice the sigmoid of `2 x`, minus 1.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
unsafe fn tanh_of<V: Split, const N: usize>(x: [V; N]) -> [V; N] {
    // SAFETY: the caller has the instructions; nothing else is required of a vector.
    unsafe {
        let mut y = sigmoid_of(x, 2.0);
        for y in &mut y {
            *y = y.mul_add(V::splat(2.0), V::splat(-1.0));
        }
        y
    }
}

/// `N` vectors of units.
///
/// # Safety
/// The processor has the instructions; vectors divide a part; the units exist, and the formula's inputs and results.
#[inline(always)]
unsafe fn update_some<V: Split, const N: usize>(
    at: &mut Place<'_>,
    formula: &Formula,
    unit: usize,
    slots: &mut Vec<usize>,
) {
    (at.unit, at.next) = (unit, 0);
    match at.way {
        Way::PlainLstm => plain_lstm(&mut Registers::<V, N>(at, PhantomData)),
        Way::ByTerm => formula.evaluate(&mut Vectors::<V, N>(at, PhantomData), slots),
    }
}

/// All units: `MANY` vectors at a time, which are [`TOGETHER`], then `ONE`, which fill a part.
///
/// # Safety
/// As [`update_some`].
#[inline(always)]
unsafe fn update_all<V: Split, const MANY: usize, const ONE: usize>(
    at: &mut Place<'_>,
    formula: &Formula,
    units: usize,
    slots: &mut Vec<usize>,
) {
    let many = units / TOGETHER * TOGETHER;
    for unit in (0..many).step_by(TOGETHER) {
        // SAFETY: the caller has the instructions; `unit + TOGETHER` units exist.
        unsafe { update_some::<V, MANY>(at, formula, unit, slots) };
    }
    for unit in (many..units).step_by(UNITS) {
        // SAFETY: the caller has the instructions; `unit + UNITS` units exist.
        unsafe { update_some::<V, ONE>(at, formula, unit, slots) };
    }
}

/// # Safety
/// As [`update_all`]; the instructions are those of AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(at: &mut Place<'_>, formula: &Formula, units: usize, slots: &mut Vec<usize>) {
    // SAFETY: AVX2 and FMA are enabled here; the caller has checked the lengths.
    unsafe { update_all::<std::arch::x86_64::__m256, 4, 1>(at, formula, units, slots) }
}

/// # Safety
/// As [`update_all`]; the instructions are those of NEON.
#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn neon(at: &mut Place<'_>, formula: &Formula, units: usize, slots: &mut Vec<usize>) {
    // SAFETY: NEON is enabled here; the caller has checked the lengths.
    unsafe { update_all::<std::arch::aarch64::float32x4_t, 8, 2>(at, formula, units, slots) }
}
