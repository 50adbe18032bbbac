//! Weights as parameters: every representation as what products read, and how gradients come back to what is trained.
//!
//! ```text
//!   map ─▶ form: a slot, or a product of two forms (low-rank)
//!          slot: a matrix that products read, made by `refresh` before each window
//!            leaf      dense, masked, or codes: `value = scale * (round(trained / scale) - zero)`
//!            train     contracted from the forms of its cores
//!   gradient of a slot ─▶ `pull` ─▶ of the cores' slots ─▶ mask
//! ```
//!
//! A factor or core that several maps share is one slot, so it gets the sum of their gradients and stays shared.

mod balance;

use super::number::{CHUNK, Number, View, vectorized};
use super::train_contraction::Contraction;
use crate::pass::PassError;
use lstmc_frontend::ir::{Graph, LinearMap, LowRank, MapError, Quantized, Sparse, TensorTrain, WeightId};
use lstmc_frontend::tensor::{DType, Data, Tensor};
use pulp::NullaryFnOnce;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How products with a map are made.
#[derive(Clone, Debug)]
pub(super) enum Form {
    /// The slot of this index.
    Slot(usize),
    /// `left . right`.
    Product(Box<Form>, Box<Form>),
}

/// A matrix that products read.
struct Slot<T> {
    shape: [usize; 2],
    value: Vec<T>,
    trained: bool,
    kind: Kind<T>,
}

enum Kind<T> {
    /// Parameters. `codes` where they are rounded; `mask` where some stay zero.
    Leaf {
        codes: Option<Codes<T>>,
        mask: Option<Vec<bool>>,
    },
    Train {
        modes: Contraction,
        cores: Vec<Form>,
    },
}

/// Parameters that are rounded to what codes can say.
struct Codes<T> {
    trained: Vec<T>,
    range: [T; 2],
    group: usize,
    groups: usize,
    scales: Vec<T>,
    zeros: Vec<T>,
}

impl<T: Number> Codes<T> {
    fn of(q: &Quantized, trained: Vec<T>) -> Result<Codes<T>, MapError> {
        let cols = q.codes().shape()[1];
        let (group, groups) = (q.granularity().group_size(cols), q.granularity().groups(cols));
        let scales: Vec<T> = T::elements(q.scales())?;
        let zeros = match q.zero_points() {
            Some(z) => z.i8s()?.iter().map(|&z| T::of(z.into())).collect(),
            None => vec![T::of(0.0); scales.len()],
        };
        let range = Quantized::range(q.bits());
        let range = [T::of((*range.start()).into()), T::of((*range.end()).into())];
        Ok(Codes { trained, range, group, groups, scales, zeros })
    }

    /// Writes what the nearest codes stand for. What is out of reach of the codes is brought back, because it would take as long to come back as it went.
    fn round(&mut self, cols: usize, values: &mut [T]) {
        let (groups, group, range) = (self.groups, self.group, self.range);
        let rows = self.trained.par_chunks_exact_mut(cols).zip(values.par_chunks_exact_mut(cols));
        let scales = self.scales.par_chunks_exact(groups).zip(self.zeros.par_chunks_exact(groups));
        rows.zip(scales).with_min_len(CHUNK.div_ceil(cols)).for_each(|((row, values), (scales, zeros))| {
            let parts = row.chunks_mut(group).zip(values.chunks_mut(group));
            for ((part, values), (&scale, &zero)) in parts.zip(scales.iter().zip(zeros)) {
                vectorized(Rounding { part, values, scale, zero, range });
            }
        });
    }

    /// The nearest codes.
    fn codes(&self, cols: usize) -> Vec<i8> {
        let code = |(k, &x): (usize, &T)| {
            let g = (k / cols) * self.groups + (k % cols) / self.group;
            Codes::code(x, self.scales[g], self.zeros[g], self.range).to_f64() as i8
        };
        self.trained.iter().enumerate().map(code).collect()
    }

    /// The code of a parameter: the nearest, as a number.
    #[inline(always)]
    fn code(x: T, scale: T, zero: T, [low, high]: [T; 2]) -> T {
        if scale == T::of(0.0) { zero } else { clamp((x / scale).nearest() + zero, low, high) }
    }
}

/// Rounds parameters with one scale.
struct Rounding<'a, T> {
    part: &'a mut [T],
    values: &'a mut [T],
    scale: T,
    zero: T,
    range: [T; 2],
}

impl<T: Number> NullaryFnOnce for Rounding<'_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Rounding { part, values, scale, zero, range } = self;
        let [a, b] = range.map(|c| (c - zero) * scale);
        let (low, high) = if a < b { (a, b) } else { (b, a) };
        for (x, value) in part.iter_mut().zip(values) {
            *x = clamp(*x, low, high);
            *value = (Codes::code(*x, scale, zero, range) - zero) * scale;
        }
    }
}

/// Zeros what is not kept.
struct Masking<'a, T>(&'a mut [T], &'a [bool]);

impl<T: Number> NullaryFnOnce for Masking<'_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (value, &kept) in self.0.iter_mut().zip(self.1) {
            *value = if kept { *value } else { T::of(0.0) };
        }
    }
}

/// Gradients of all slots; empty where a slot is not trained.
pub(super) type Gradients<T> = Vec<Vec<T>>;

/// How many numbers there are of each.
pub(super) fn sizes<T>(all: &[Vec<T>]) -> Vec<usize> {
    all.iter().map(Vec::len).collect()
}

/// The weights of a model as parameters.
pub(super) struct Weights<T> {
    slots: Vec<Slot<T>>,
    /// Leaves by where their map is.
    leaves: BTreeMap<usize, usize>,
    whole: BTreeMap<WeightId, Form>,
    shared: BTreeMap<usize, Form>,
}

/// Where a map is, which is what sharing goes by.
fn place(map: &LinearMap) -> usize {
    std::ptr::from_ref(map) as usize
}

impl<T: Number> Weights<T> {
    pub(super) fn new() -> Weights<T> {
        Weights { slots: vec![], leaves: BTreeMap::new(), whole: BTreeMap::new(), shared: BTreeMap::new() }
    }

    /// The form of a weight. `trained` holds the [`leaves`] that are trained.
    pub(super) fn add(
        &mut self,
        graph: &Graph,
        id: WeightId,
        trained: &BTreeSet<usize>,
    ) -> Result<Form, PassError> {
        if let Some(form) = self.whole.get(&id) {
            return Ok(form.clone());
        }
        let weight = graph.weight(id);
        let error = |source| PassError::Map { weight: weight.name.clone(), source };
        let form = self.form(&weight.map, trained).map_err(error)?;
        self.whole.insert(id, form.clone());
        Ok(form)
    }

    fn part(&mut self, map: &LinearMap, trained: &BTreeSet<usize>) -> Result<Form, MapError> {
        if let Some(form) = self.shared.get(&place(map)) {
            return Ok(form.clone());
        }
        let form = self.form(map, trained)?;
        self.shared.insert(place(map), form.clone());
        Ok(form)
    }

    fn form(&mut self, map: &LinearMap, trained: &BTreeSet<usize>) -> Result<Form, MapError> {
        let shape = match map.shape()[..] {
            [rows, cols] => [rows, cols],
            _ => [1, map.shape().iter().product()],
        };
        let (value, kind, is_trained) = match map {
            LinearMap::LowRank(l) => {
                let (left, right) = (self.part(l.left(), trained)?, self.part(l.right(), trained)?);
                return Ok(Form::Product(Box::new(left), Box::new(right)));
            }
            LinearMap::TensorTrain(t) => {
                let cores = t.cores().iter().map(|c| self.part(c, trained)).collect::<Result<Vec<_>, _>>()?;
                let is_trained = cores.iter().any(|c| self.is_trained(c));
                (vec![], Kind::Train { modes: Contraction::of(t), cores }, is_trained)
            }
            leaf => {
                let value: Vec<T> = T::elements(&leaf.to_dense()?)?;
                let (codes, mask) = match leaf {
                    LinearMap::Quantized(q) => (Some(q), None),
                    LinearMap::Sparse(s) => match &**s.values() {
                        LinearMap::Quantized(q) => (Some(q), Some(s.element_mask()?)),
                        _ => (None, Some(s.element_mask()?)),
                    },
                    _ => (None, None),
                };
                let codes = codes.map(|q| Codes::of(q, value.clone())).transpose()?;
                self.leaves.insert(place(map), self.slots.len());
                (value, Kind::Leaf { codes, mask }, trained.contains(&place(map)))
            }
        };
        self.slots.push(Slot { shape, value, trained: is_trained, kind });
        Ok(Form::Slot(self.slots.len() - 1))
    }

    /// Whether some parameter of a form is trained.
    pub(super) fn is_trained(&self, form: &Form) -> bool {
        match form {
            Form::Slot(s) => self.slots[*s].trained,
            Form::Product(a, b) => self.is_trained(a) || self.is_trained(b),
        }
    }

    /// Gradients of zero.
    pub(super) fn gradients(&self) -> Gradients<T> {
        let zeros = |s: &Slot<T>| vec![T::of(0.0); if s.trained { s.shape[0] * s.shape[1] } else { 0 }];
        self.slots.iter().map(zeros).collect()
    }

    /// The parameters that are trained, each with the index of its gradient.
    pub(super) fn parameters(&mut self) -> impl Iterator<Item = (usize, &mut Vec<T>)> {
        self.slots.iter_mut().enumerate().filter(|(_, s)| s.trained).filter_map(|(k, s)| match &mut s.kind {
            Kind::Leaf { codes: Some(codes), .. } => Some((k, &mut codes.trained)),
            Kind::Leaf { codes: None, .. } => Some((k, &mut s.value)),
            Kind::Train { .. } => None,
        })
    }

    /// The parameters that are trained.
    pub(super) fn values(&self) -> Vec<Vec<T>> {
        let trained = self.slots.iter().filter(|s| s.trained);
        let values = trained.filter_map(|s| match &s.kind {
            Kind::Leaf { codes: Some(codes), .. } => Some(codes.trained.clone()),
            Kind::Leaf { codes: None, .. } => Some(s.value.clone()),
            Kind::Train { .. } => None,
        });
        values.collect()
    }

    /// Takes parameters that [`Weights::values`] gave.
    pub(super) fn set(&mut self, values: Vec<Vec<T>>) {
        self.parameters().zip(values).for_each(|((_, old), new)| *old = new);
        self.refresh();
    }

    /// Whether a parameter of a slot stays zero.
    #[cfg(test)]
    pub(super) fn is_masked(&self, slot: usize, k: usize) -> bool {
        matches!(&self.slots[slot].kind, Kind::Leaf { mask: Some(mask), .. } if !mask[k])
    }

    /// Makes what products read from the parameters: rounds, and contracts cores.
    pub(super) fn refresh(&mut self) {
        for k in 0..self.slots.len() {
            let slot = &mut self.slots[k];
            match &mut slot.kind {
                Kind::Leaf { codes: Some(codes), mask } => {
                    codes.round(slot.shape[1], &mut slot.value);
                    if let Some(mask) = mask {
                        apply_mask(&mut slot.value, mask);
                    }
                }
                Kind::Leaf { .. } => {}
                Kind::Train { modes, cores } => {
                    let (modes, cores) = (modes.clone(), cores.clone());
                    let cores: Vec<Vec<T>> = cores.iter().map(|c| self.dense(c)).collect();
                    self.slots[k].value = modes.contract(&cores);
                }
            }
        }
    }

    /// Takes the gradients of what products read back to the parameters; those of what is no parameter are zero afterwards.
    pub(super) fn pull(&self, gradients: &mut Gradients<T>) {
        // Cores come before what is made of them.
        for (k, slot) in self.slots.iter().enumerate().rev().filter(|(_, s)| s.trained) {
            match &slot.kind {
                Kind::Leaf { mask: Some(mask), .. } => apply_mask(&mut gradients[k], mask),
                Kind::Leaf { .. } => {}
                Kind::Train { modes, cores } => {
                    let values: Vec<Vec<T>> = cores.iter().map(|c| self.dense(c)).collect();
                    let found = modes.gradients(&values, &gradients[k]);
                    gradients[k].fill(T::of(0.0));
                    for (core, g) in cores.iter().zip(&found) {
                        self.add_dense(core, g, gradients);
                    }
                }
            }
        }
    }

    pub(super) fn shape(&self, form: &Form) -> [usize; 2] {
        match form {
            Form::Slot(s) => self.slots[*s].shape,
            Form::Product(a, b) => [self.shape(a)[0], self.shape(b)[1]],
        }
    }

    fn view(&self, slot: usize) -> View<'_, T> {
        let slot = &self.slots[slot];
        View::new(&slot.value, slot.shape[0], slot.shape[1])
    }

    /// A vector: a bias.
    pub(super) fn vector(&self, form: &Form) -> &[T] {
        match form {
            Form::Slot(s) => &self.slots[*s].value,
            Form::Product(..) => &[],
        }
    }

    /// The matrix of a form, row-major.
    fn dense(&self, form: &Form) -> Vec<T> {
        match form {
            Form::Slot(s) => self.slots[*s].value.clone(),
            Form::Product(a, b) => {
                let ([rows, rank], [_, cols]) = (self.shape(a), self.shape(b));
                let (a, b) = (self.dense(a), self.dense(b));
                let mut out = vec![T::of(0.0); rows * cols];
                View::new(&a, rows, rank).times(View::new(&b, rank, cols), &mut out);
                out
            }
        }
    }

    /// Adds the gradient of a form's matrix.
    fn add_dense(&self, form: &Form, gradient: &[T], gradients: &mut Gradients<T>) {
        if !self.is_trained(form) {
            return;
        }
        match form {
            Form::Slot(s) => gradients[*s].iter_mut().zip(gradient).for_each(|(g, &d)| *g += d),
            Form::Product(a, b) => {
                let ([rows, rank], [_, cols]) = (self.shape(a), self.shape(b));
                let (left, right) = (self.dense(a), self.dense(b));
                let d = View::new(gradient, rows, cols);
                let mut of_left = vec![T::of(0.0); rows * rank];
                d.times(View::new(&right, rank, cols).transposed(), &mut of_left);
                let mut of_right = vec![T::of(0.0); rank * cols];
                View::new(&left, rows, rank).transposed().times(d, &mut of_right);
                self.add_dense(a, &of_left, gradients);
                self.add_dense(b, &of_right, gradients);
            }
        }
    }

    /// `y = x W^T` of `n` rows.
    pub(super) fn apply(&self, form: &Form, n: usize, x: &[T]) -> Vec<T> {
        match form {
            Form::Slot(s) => {
                let [rows, cols] = self.slots[*s].shape;
                let mut out = vec![T::of(0.0); n * rows];
                View::new(x, n, cols).times(self.view(*s).transposed(), &mut out);
                out
            }
            Form::Product(a, b) => self.apply(a, n, &self.apply(b, n, x)),
        }
    }

    /// `x = y W` of `n` rows.
    pub(super) fn apply_transposed(&self, form: &Form, n: usize, y: &[T]) -> Vec<T> {
        match form {
            Form::Slot(s) => {
                let [rows, cols] = self.slots[*s].shape;
                let mut out = vec![T::of(0.0); n * cols];
                View::new(y, n, rows).times(self.view(*s), &mut out);
                out
            }
            Form::Product(a, b) => self.apply_transposed(b, n, &self.apply_transposed(a, n, y)),
        }
    }

    /// Adds the gradient of `y = x W^T`, given that of `y`.
    pub(super) fn add_gradient(
        &self,
        form: &Form,
        n: usize,
        x: &[T],
        dy: &[T],
        gradients: &mut Gradients<T>,
    ) {
        if !self.is_trained(form) {
            return;
        }
        match form {
            Form::Slot(s) => {
                let [rows, cols] = self.slots[*s].shape;
                let dy = View::new(dy, n, rows).transposed();
                dy.add_times(View::new(x, n, cols), &mut gradients[*s]);
            }
            Form::Product(a, b) => {
                if self.is_trained(a) {
                    self.add_gradient(a, n, &self.apply(b, n, x), dy, gradients);
                }
                if self.is_trained(b) {
                    self.add_gradient(b, n, x, &self.apply_transposed(a, n, dy), gradients);
                }
            }
        }
    }

    /// The rows of a table that tokens name.
    pub(super) fn rows(&self, form: &Form, tokens: &[u32]) -> Vec<T> {
        match form {
            Form::Slot(s) => {
                let (slot, cols) = (&self.slots[*s], self.slots[*s].shape[1]);
                tokens.iter().flat_map(|&t| &slot.value[t as usize * cols..][..cols]).copied().collect()
            }
            Form::Product(a, b) => self.apply_transposed(b, tokens.len(), &self.rows(a, tokens)),
        }
    }

    /// Adds the gradient of a table, given those of the rows that tokens name.
    pub(super) fn add_rows_gradient(
        &self,
        form: &Form,
        tokens: &[u32],
        dy: &[T],
        gradients: &mut Gradients<T>,
    ) {
        if !self.is_trained(form) {
            return;
        }
        match form {
            Form::Slot(s) => {
                let cols = self.slots[*s].shape[1];
                for (&t, d) in tokens.iter().zip(dy.chunks_exact(cols)) {
                    let row = &mut gradients[*s][t as usize * cols..][..cols];
                    row.iter_mut().zip(d).for_each(|(g, &d)| *g += d);
                }
            }
            Form::Product(a, b) => {
                let n = tokens.len();
                if self.is_trained(a) {
                    self.add_rows_gradient(a, tokens, &self.apply(b, n, dy), gradients);
                }
                if self.is_trained(b) {
                    // `y = r R` is `r = .. R^T` the other way round: the gradient of `R` is `r^T dy`.
                    self.add_gradient(b, n, dy, &self.rows(a, tokens), gradients);
                }
            }
        }
    }

    /// The weights of `graph`, which these are of, that hold something trained, with what it is now.
    pub(super) fn maps(&self, graph: &Graph) -> Result<Vec<(WeightId, LinearMap)>, PassError> {
        let mut made = BTreeMap::new();
        let mut out = vec![];
        for (&id, _) in self.whole.iter().filter(|(_, form)| self.is_trained(form)) {
            let weight = graph.weight(id);
            let error = |source| PassError::Map { weight: weight.name.clone(), source };
            out.push((id, self.map(&weight.map, &mut made).map_err(error)?));
        }
        Ok(out)
    }

    fn map(&self, old: &LinearMap, made: &mut Made) -> Result<LinearMap, MapError> {
        Ok(match old {
            LinearMap::LowRank(l) => {
                LinearMap::LowRank(LowRank::new(self.child(l.left(), made)?, self.child(l.right(), made)?)?)
            }
            LinearMap::TensorTrain(t) => {
                let cores = t.cores().iter().map(|c| self.child(c, made)).collect::<Result<Vec<_>, _>>()?;
                let (out_modes, in_modes) = (t.out_modes().to_vec(), t.in_modes().to_vec());
                LinearMap::TensorTrain(TensorTrain::new(t.shape(), out_modes, in_modes, cores)?)
            }
            leaf => self.leaf(leaf)?,
        })
    }

    fn child(&self, old: &Arc<LinearMap>, made: &mut Made) -> Result<Arc<LinearMap>, MapError> {
        if let Some(new) = made.get(&place(old)) {
            return Ok(new.clone());
        }
        let new = Arc::new(self.map(old, made)?);
        made.insert(place(old), new.clone());
        Ok(new)
    }

    fn leaf(&self, old: &LinearMap) -> Result<LinearMap, MapError> {
        let Some(slot) = self.leaves.get(&place(old)).map(|&s| &self.slots[s]).filter(|s| s.trained) else {
            return Ok(old.clone());
        };
        let codes = match &slot.kind {
            Kind::Leaf { codes, .. } => codes.as_ref(),
            Kind::Train { .. } => None,
        };
        let values = |map: &LinearMap| match map {
            LinearMap::Quantized(q) => quantized(q, slot.shape[1], codes),
            LinearMap::Dense(t) => dense(t, &slot.value),
            other => Ok(other.clone()),
        };
        Ok(match old {
            LinearMap::Sparse(s) => {
                LinearMap::Sparse(Sparse::new(s.pattern(), s.mask().clone(), Arc::new(values(s.values())?))?)
            }
            other => values(other)?,
        })
    }
}

/// Parts by where the old ones are.
type Made = BTreeMap<usize, Arc<LinearMap>>;

/// The leaves of a map, by where they are.
pub(super) fn leaves(map: &LinearMap, out: &mut BTreeSet<usize>) {
    match map {
        LinearMap::LowRank(_) | LinearMap::TensorTrain(_) => {
            map.children().iter().for_each(|(_, c)| leaves(c, out));
        }
        leaf => {
            out.insert(place(leaf));
        }
    }
}

fn apply_mask<T: Number>(values: &mut [T], mask: &[bool]) {
    let chunks = values.par_chunks_mut(CHUNK).zip(mask.par_chunks(CHUNK));
    chunks.for_each(|(values, mask)| vectorized(Masking(values, mask)));
}

#[inline(always)]
fn clamp<T: Number>(x: T, low: T, high: T) -> T {
    let x = if x < low { low } else { x };
    if x > high { high } else { x }
}

/// The parameters as a tensor of the old one's dtype.
fn dense<T: Number>(old: &Tensor, values: &[T]) -> Result<LinearMap, MapError> {
    let floats = values.iter().map(|x| x.to_f64());
    let data = match old.dtype() {
        DType::F16 => Data::F16(Arc::new(floats.map(half::f16::from_f64).collect())),
        DType::Bf16 => Data::Bf16(Arc::new(floats.map(half::bf16::from_f64).collect())),
        DType::F64 => Data::F64(Arc::new(floats.collect())),
        _ => Data::F32(Arc::new(floats.map(|x| x as f32).collect())),
    };
    Ok(LinearMap::Dense(Tensor::new(old.shape().to_vec(), data)?))
}

/// The nearest codes.
fn quantized<T: Number>(
    old: &Quantized,
    cols: usize,
    codes: Option<&Codes<T>>,
) -> Result<LinearMap, MapError> {
    let Some(codes) = codes else { return Ok(LinearMap::Quantized(old.clone())) };
    let tensor = Tensor::from_i8(old.codes().shape().to_vec(), codes.codes(cols))?;
    let zeros = old.zero_points().cloned();
    let new = Quantized::new(old.bits(), old.granularity(), tensor, old.scales().clone(), zeros)?;
    Ok(LinearMap::Quantized(new.with_activations(old.activations())))
}
