//! Weights as parameters: the matrices that products read, for every representation, and the way gradients return to the trained parameters.
//!
//! ```text
//!   map ─▶ form: a slot, or a product of two forms (low-rank)
//!          slot: a matrix that products read, computed by `refresh` before each window
//!            leaf      dense, masked, or codes, which are rounded
//!            scales    of codes
//!            train     contracted from the forms of its cores
//!   gradient of a slot ─▶ `pull` ─▶ of the cores' slots ─▶ mask
//! ```
//!
//! A factor or core that several maps share is one slot, so it gets the sum of their gradients and stays shared.

mod balance;
mod codes;

use super::number::{CHUNK, Number, View, vectorized};
use super::train_contraction::Contraction;
use crate::pass::PassError;
use codes::Codes;
use lstmc_frontend::ir::{Graph, LinearMap, MapError, Part, PartId, Quantized, Rewrite, Sparse, WeightId};
use lstmc_frontend::tensor::{DType, Data, Tensor};
use pulp::NullaryFnOnce;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How products with a map are computed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
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
    /// Parameters. `codes` if they are rounded; `mask` if some stay zero.
    Leaf { codes: Option<Codes<T>>, mask: Option<Vec<bool>> },
    /// Scales of codes; no product reads them.
    Scales,
    /// Contracted from cores.
    Train { modes: Contraction, cores: Vec<Form> },
}

/// Sets dropped elements to zero.
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

/// Gradients of all slots; empty if a slot is not trained.
pub(super) type Gradients<T> = Vec<Vec<T>>;

/// What the backward pass gives the gradients of products to.
pub(super) trait Receive<T> {
    /// `dy` of `y = x W^T`, `n` rows each.
    fn product(&mut self, w: &Weights<T>, form: &Form, n: usize, x: &[T], dy: &[T]);

    /// `dy` of the rows of a table that tokens select.
    fn rows(&mut self, w: &Weights<T>, form: &Form, tokens: &[u32], dy: &[T]);

    /// `dy` of a vector that is added to, or multiplied with, every row.
    fn vector(&mut self, w: &Weights<T>, form: &Form, dy: &[T]);
}

impl<T: Number> Receive<T> for Gradients<T> {
    fn product(&mut self, w: &Weights<T>, form: &Form, n: usize, x: &[T], dy: &[T]) {
        w.add_gradient(form, n, x, dy, self);
    }

    fn rows(&mut self, w: &Weights<T>, form: &Form, tokens: &[u32], dy: &[T]) {
        w.add_rows_gradient(form, tokens, dy, self);
    }

    fn vector(&mut self, w: &Weights<T>, form: &Form, dy: &[T]) {
        w.add_vector_gradient(form, dy, self);
    }
}

/// All parameters that are trained.
pub(super) type Values<T> = Vec<Vec<T>>;

/// The number of elements of each.
pub(super) fn sizes<T>(all: &[Vec<T>]) -> Vec<usize> {
    all.iter().map(Vec::len).collect()
}

/// The weights of a model as parameters.
pub(super) struct Weights<T> {
    slots: Vec<Slot<T>>,
    /// Leaves, by part.
    leaves: BTreeMap<PartId, usize>,
    whole: BTreeMap<WeightId, Form>,
    shared: BTreeMap<PartId, Form>,
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
        trained: &BTreeSet<PartId>,
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

    fn part(&mut self, map: &Part, trained: &BTreeSet<PartId>) -> Result<Form, MapError> {
        if let Some(form) = self.shared.get(&map.id()) {
            return Ok(form.clone());
        }
        let form = self.form(map, trained)?;
        self.shared.insert(map.id(), form.clone());
        Ok(form)
    }

    fn form(&mut self, map: &Part, trained: &BTreeSet<PartId>) -> Result<Form, MapError> {
        let shape = match map.shape()[..] {
            [rows, cols] => [rows, cols],
            _ => [1, map.shape().iter().product()],
        };
        let (value, kind, is_trained) = match &**map {
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
                let is_trained = trained.contains(&map.id());
                let codes = match codes {
                    Some(q) => Some(Codes::of(q, value.clone(), self.add_scales(q, is_trained)?)?),
                    None => None,
                };
                self.leaves.insert(map.id(), self.slots.len());
                (value, Kind::Leaf { codes, mask }, is_trained)
            }
        };
        self.slots.push(Slot { shape, value, trained: is_trained, kind });
        Ok(Form::Slot(self.slots.len() - 1))
    }

    /// The slot of the scales of codes.
    fn add_scales(&mut self, q: &Quantized, trained: bool) -> Result<usize, MapError> {
        let shape = [q.scales().shape()[0], q.scales().shape()[1]];
        self.slots.push(Slot { shape, value: T::elements(q.scales())?, trained, kind: Kind::Scales });
        Ok(self.slots.len() - 1)
    }

    /// Whether any parameter of a form is trained.
    pub(super) fn is_trained(&self, form: &Form) -> bool {
        match form {
            Form::Slot(s) => self.slots[*s].trained,
            Form::Product(a, b) => self.is_trained(a) || self.is_trained(b),
        }
    }

    /// Zero gradients.
    pub(super) fn gradients(&self) -> Gradients<T> {
        let zeros = |s: &Slot<T>| vec![T::of(0.0); if s.trained { s.shape[0] * s.shape[1] } else { 0 }];
        self.slots.iter().map(zeros).collect()
    }

    /// The parameters that are trained, each with the index of its gradient.
    pub(super) fn parameters(&mut self) -> impl Iterator<Item = (usize, &mut Vec<T>)> {
        self.slots.iter_mut().enumerate().filter(|(_, s)| s.trained).filter_map(|(k, s)| match &mut s.kind {
            Kind::Leaf { codes: Some(codes), .. } => Some((k, &mut codes.trained)),
            Kind::Leaf { codes: None, .. } | Kind::Scales => Some((k, &mut s.value)),
            Kind::Train { .. } => None,
        })
    }

    /// The parameters that are trained.
    pub(super) fn values(&self) -> Values<T> {
        let trained = self.slots.iter().filter(|s| s.trained);
        let values = trained.filter_map(|s| match &s.kind {
            Kind::Leaf { codes: Some(codes), .. } => Some(codes.trained.clone()),
            Kind::Leaf { codes: None, .. } | Kind::Scales => Some(s.value.clone()),
            Kind::Train { .. } => None,
        });
        values.collect()
    }

    /// Sets parameters from the result of [`Weights::values`].
    pub(super) fn set(&mut self, values: Values<T>) {
        self.parameters().zip(values).for_each(|((_, old), new)| *old = new);
        self.refresh();
    }

    /// Whether a slot has scales of codes.
    #[cfg(test)]
    pub(super) fn is_scales(&self, slot: usize) -> bool {
        matches!(self.slots[slot].kind, Kind::Scales)
    }

    /// Whether some parameter of a slot stays zero.
    #[cfg(test)]
    pub(super) fn is_masked(&self, slot: usize, k: usize) -> bool {
        matches!(&self.slots[slot].kind, Kind::Leaf { mask: Some(mask), .. } if !mask[k])
    }

    /// Computes the matrices that products read from the parameters: rounds, and contracts cores.
    pub(super) fn refresh(&mut self) {
        for k in 0..self.slots.len() {
            let scales = match &self.slots[k].kind {
                Kind::Leaf { codes: Some(codes), .. } => self.slots[codes.scales].value.clone(),
                _ => vec![],
            };
            let slot = &mut self.slots[k];
            match &mut slot.kind {
                Kind::Leaf { codes: Some(codes), mask } => {
                    codes.round(&scales, &mut slot.value);
                    if let Some(mask) = mask {
                        apply_mask(&mut slot.value, mask);
                    }
                }
                Kind::Leaf { .. } | Kind::Scales => {}
                Kind::Train { modes, cores } => {
                    let (modes, cores) = (modes.clone(), cores.clone());
                    let cores: Vec<Vec<T>> = cores.iter().map(|c| self.dense(c)).collect();
                    self.slots[k].value = modes.contract(&cores);
                }
            }
        }
    }

    /// Carries the gradients of the products' matrices back to the parameters; gradients of slots that are not parameters are zero afterwards.
    pub(super) fn pull(&self, gradients: &mut Gradients<T>) {
        // Cores come before the slots made of them.
        for (k, slot) in self.slots.iter().enumerate().rev().filter(|(_, s)| s.trained) {
            match &slot.kind {
                Kind::Leaf { codes, mask } => {
                    if let Some(mask) = mask {
                        apply_mask(&mut gradients[k], mask);
                    }
                    if let Some(codes) = codes {
                        let mut of_scales = std::mem::take(&mut gradients[codes.scales]);
                        codes.add_scale_gradients(
                            &self.slots[codes.scales].value,
                            &gradients[k],
                            &mut of_scales,
                        );
                        gradients[codes.scales] = of_scales;
                    }
                }
                Kind::Scales => {}
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
    fn add_gradient(&self, form: &Form, n: usize, x: &[T], dy: &[T], gradients: &mut Gradients<T>) {
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

    /// The rows of a table that tokens select.
    pub(super) fn rows(&self, form: &Form, tokens: &[u32]) -> Vec<T> {
        match form {
            Form::Slot(s) => {
                let (slot, cols) = (&self.slots[*s], self.slots[*s].shape[1]);
                tokens.iter().flat_map(|&t| &slot.value[t as usize * cols..][..cols]).copied().collect()
            }
            Form::Product(a, b) => self.apply_transposed(b, tokens.len(), &self.rows(a, tokens)),
        }
    }

    /// Adds the gradient of a table, given those of the rows that tokens select.
    fn add_rows_gradient(&self, form: &Form, tokens: &[u32], dy: &[T], gradients: &mut Gradients<T>) {
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

    /// Adds the gradient of a vector that was added to (or multiplied with) every row.
    fn add_vector_gradient(&self, form: &Form, dy: &[T], gradients: &mut Gradients<T>) {
        /// Columns that one thread sums.
        const COLUMNS: usize = 1024;
        let (Form::Slot(slot), true) = (form, self.is_trained(form)) else { return };
        let gradient = &mut gradients[*slot];
        if gradient.len() == 1 {
            dy.iter().for_each(|&d| gradient[0] += d);
            return;
        }
        let width = gradient.len();
        gradient.par_chunks_mut(COLUMNS).enumerate().for_each(|(k, columns)| {
            for row in dy.chunks_exact(width) {
                columns.iter_mut().zip(&row[k * COLUMNS..]).for_each(|(g, &d)| *g += d);
            }
        });
    }

    /// The weights, each with its form.
    pub(super) fn forms(&self) -> impl Iterator<Item = (WeightId, &Form)> {
        self.whole.iter().map(|(&id, form)| (id, form))
    }

    /// The weights of `graph` that hold something trained, with their current maps. `graph` is the one that these parameters are from.
    pub(super) fn maps(&self, graph: &Graph) -> Result<Vec<(WeightId, Part)>, PassError> {
        let mut rewrite = Rewrite::default();
        let mut out = vec![];
        for (&id, _) in self.whole.iter().filter(|(_, form)| self.is_trained(form)) {
            let weight = graph.weight(id);
            let error = |source| PassError::Map { weight: weight.name.clone(), source };
            out.push((id, rewrite.part(&weight.map, &mut |part| self.leaf(part)).map_err(error)?));
        }
        Ok(out)
    }

    /// The current map of a leaf; `None` for other maps.
    fn leaf(&self, old: &Part) -> Result<Option<Part>, MapError> {
        let Some(slot) = self.leaves.get(&old.id()).map(|&s| &self.slots[s]) else { return Ok(None) };
        if !slot.trained {
            return Ok(Some(old.clone()));
        }
        let values = |map: &LinearMap| match (map, &slot.kind) {
            (LinearMap::Quantized(q), Kind::Leaf { codes: Some(codes), .. }) => {
                quantized(q, codes, &self.slots[codes.scales].value)
            }
            (LinearMap::Dense(t), _) => tensor(t, &slot.value).map(LinearMap::Dense),
            (other, _) => Ok(other.clone()),
        };
        let new = match &**old {
            LinearMap::Sparse(s) => {
                LinearMap::Sparse(Sparse::new(s.pattern(), s.mask().clone(), values(s.values())?.into())?)
            }
            other => values(other)?,
        };
        Ok(Some(new.into()))
    }
}

/// The leaves of a map.
pub(super) fn leaves(map: &Part, out: &mut BTreeSet<PartId>) {
    match &**map {
        LinearMap::LowRank(_) | LinearMap::TensorTrain(_) => {
            map.children().iter().for_each(|(_, c)| leaves(c, out));
        }
        _ => {
            out.insert(map.id());
        }
    }
}

fn apply_mask<T: Number>(values: &mut [T], mask: &[bool]) {
    let chunks = values.par_chunks_mut(CHUNK).zip(mask.par_chunks(CHUNK));
    chunks.for_each(|(values, mask)| vectorized(Masking(values, mask)));
}

/// The parameters as a tensor of the old one's dtype.
fn tensor<T: Number>(old: &Tensor, values: &[T]) -> Result<Tensor, MapError> {
    let floats = values.iter().map(|x| x.to_f64());
    let data = match old.dtype() {
        DType::F16 => Data::F16(Arc::new(floats.map(half::f16::from_f64).collect())),
        DType::Bf16 => Data::Bf16(Arc::new(floats.map(half::bf16::from_f64).collect())),
        DType::F64 => Data::F64(Arc::new(floats.collect())),
        _ => Data::F32(Arc::new(floats.map(|x| x as f32).collect())),
    };
    Ok(Tensor::new(old.shape().to_vec(), data)?)
}

/// The nearest codes.
fn quantized<T: Number>(old: &Quantized, codes: &Codes<T>, scales: &[T]) -> Result<LinearMap, MapError> {
    let zeros = old.zero_points().cloned();
    let tensor_of_codes = Tensor::from_i8(old.codes().shape().to_vec(), codes.codes(scales))?;
    let scales = tensor(old.scales(), scales)?;
    let new = Quantized::new(old.format(), old.granularity(), tensor_of_codes, scales, zeros)?;
    Ok(LinearMap::Quantized(new.with_activations(old.activations())))
}
