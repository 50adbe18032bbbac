//! What an error of each weight costs the model: the second moment of its inputs, a weight for each of its rows, and where a bias can make up for the mean.
//!
//! | map | `H`, by which errors of its columns count | rows count by |
//! |---|---|---|
//! | output layer | second moment of its inputs | `c^0.5 p^0.2`: `c` how often the word came next, `p = E[softmax (1 - softmax)]` |
//! | embedding | `W^T W` of the map that reads it | `(c + 1)^0.5`: `c` how often the word was looked up |
//! | maps of an lstm, other linear maps | second moment of their inputs | all alike |
//!
//! Afterwards the output layer's bias is fitted so that every word is predicted as often as before, see [`refitted_output_bias`].
//!
//! Three freedoms of the model cost nothing and are used where they exist:
//! - A bias `b' = b + (W - V) E[x]` makes up for the mean error, so that `H` may be the covariance of the inputs ([`Hessian::centered`]).
//! - A softmax does not see what is added to all logits alike, so the rows of the output layer may have their weighted mean taken off.
//! - The mean row of an embedding can move into the bias of the lstm that reads it.

use crate::calibrate::Statistics;
use crate::pass::{Context, PassError};
use crate::sites::refitted_output_bias;
use crate::solve::{Hessian, SolveError};
use lstmc_frontend::ir::{Graph, LanguageModel, Layer, LinearMap, MapError, NotCanonical, Operand, WeightId};
use lstmc_frontend::tensor::Tensor;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Relative damping of second moments. A truncated SVD divides by nothing small but the Cholesky factor, for which this is ample
/// (see [`Hessian::MIN_DAMPING`]); it only has to make inputs that never vary harmless.
const DAMPING: f64 = 1e-4;

/// Exponents of the output layer's row weights, chosen on PTB's validation text. Both counts say how much a row matters; the square root of the first
/// alone (as in weighted low-rank approximation by word frequency, Chen et al. 2018, "GroupReduce") is the next best.
const TARGET_EXPONENT: f64 = 0.5;
/// See [`TARGET_EXPONENT`].
const CURVATURE_EXPONENT: f64 = 0.2;

/// A word that calibration did not meet counts as so much of a meeting, in the output layer and in the embedding.
const UNSEEN_TARGET: f64 = 0.01;
/// See [`UNSEEN_TARGET`].
const UNSEEN_LOOKUP: f64 = 1.0;

/// Rounds of refitting the output layer's bias. On ptb-small with the decoder at rank 96: 116.07, 115.73, 115.43 after none, one, two.
const REFIT_ROUNDS: usize = 2;

/// What a weight is in its model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// The table of an embedding, and the map that alone reads what it looks up.
    Embedding {
        /// That map and its bias.
        reader: Option<(WeightId, Option<WeightId>)>,
    },
    /// The output layer; `tied` where its weight is the embedding's too.
    Decoder {
        /// Whether the embedding has the same weight.
        tied: bool,
    },
    /// Another linear layer.
    Linear,
    /// The input map of an lstm, and its recurrent one.
    Input {
        /// The recurrent map.
        recurrent: WeightId,
    },
    /// The recurrent map of an lstm.
    Recurrent,
}

/// A weight's place: its role, and a bias that only this place has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) role: Role,
    pub(crate) bias: Option<WeightId>,
}

/// The places of all matrices of a model.
pub(crate) fn places(graph: &Graph) -> Result<BTreeMap<WeightId, Place>, NotCanonical> {
    let model = LanguageModel::of(graph)?;
    let uses = |id: WeightId| {
        graph.nodes().flat_map(|(_, n)| n.operands()).filter(|&&o| o == Operand::Weight(id)).count()
    };
    let own = |bias: Option<WeightId>| bias.filter(|&b| uses(b) == 1);
    let embedding = model.embedding();
    let mut places = BTreeMap::new();
    for layer in model.layers() {
        match layer {
            Layer::Embedding(e) => {
                let readers: Vec<_> = graph.users(e.node).collect();
                let reader = model.layers().iter().find_map(|l| match l {
                    Layer::Lstm(l) if readers == [l.node] && l.x == e.result => {
                        Some((l.input, own(Some(l.bias))))
                    }
                    Layer::Linear(l) if readers == [l.node] => Some((l.weight, own(l.bias))),
                    _ => None,
                });
                places.insert(e.table, Place { role: Role::Embedding { reader }, bias: None });
            }
            Layer::Linear(l) => {
                let is_last = model.decoder() == Some(l);
                let tied = l.weight == embedding.table;
                let role = if is_last { Role::Decoder { tied } } else { Role::Linear };
                places.insert(l.weight, Place { role, bias: own(l.bias) });
            }
            Layer::Lstm(l) => {
                let bias = own(Some(l.bias));
                let role = Role::Input { recurrent: l.recurrent };
                places.entry(l.input).or_insert(Place { role, bias });
                places.entry(l.recurrent).or_insert(Place { role: Role::Recurrent, bias });
            }
            Layer::Elementwise { .. } => {}
        }
    }
    Ok(places)
}

/// Refuses a weight that is not dense.
pub(crate) fn expect_dense(graph: &Graph, id: WeightId) -> Result<(), PassError> {
    let weight = graph.weight(id);
    if matches!(weight.map, LinearMap::Dense(_)) {
        return Ok(());
    }
    let why = "it must be dense; factorise first and then prune or quantize the factors, or put `decode` before this pass";
    Err(PassError::Representation {
        weight: weight.name.clone(),
        found: weight.map.describe(),
        why: why.into(),
    })
}

/// The shape and the values of a matrix.
pub(crate) fn dense_matrix(graph: &Graph, id: WeightId) -> Result<([usize; 2], Arc<Vec<f32>>), PassError> {
    let weight = graph.weight(id);
    let read = || Ok((weight.map.matrix_shape()?, weight.map.to_dense()?.to_f32()?));
    read().map_err(|source: MapError| PassError::Map { weight: weight.name.clone(), source })
}

/// How errors of one map, or of the stacked maps of an lstm, count.
#[derive(Clone, Debug, Default)]
pub(crate) struct Weighting {
    /// Second moment of the inputs; the covariance where a bias makes up for the mean.
    pub(crate) hessian: Option<Hessian>,
    /// A weight for each row.
    pub(crate) rows: Option<Vec<f64>>,
    /// The bias that makes up for the mean, and the inputs' mean.
    pub(crate) correction: Option<(WeightId, Vec<f64>)>,
    /// Whether the map makes the logits.
    pub(crate) is_output: bool,
    /// What is taken off every row, and the map and bias that make up for it, if anything has to.
    pub(crate) shift: Option<Shift>,
}

/// A row that is taken off every row of a matrix.
#[derive(Clone, Debug)]
pub(crate) struct Shift {
    /// `[in]`.
    pub(crate) row: Vec<f64>,
    /// The map that reads the embedding, to whose bias its product with the row is added; none for an output layer.
    pub(crate) reader: Option<(WeightId, WeightId)>,
}

/// Which of the means of [`Weighting`] are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Means {
    /// Rows count by how often words occur.
    pub(crate) rows: bool,
    /// Biases make up for means.
    pub(crate) bias: bool,
}

impl Weighting {
    /// The weighting of the map `id` with values `w`, or of the stacked maps of the lstm whose input map it is.
    pub(crate) fn new(
        graph: &Graph,
        id: WeightId,
        place: Place,
        is_cell: bool,
        w: &[f32],
        statistics: &Statistics,
        means: Means,
    ) -> Result<Weighting, PassError> {
        let name = &graph.weight(id).name;
        let solve = |source: SolveError| PassError::Solve { weight: name.clone(), source };
        let bias = place.bias.filter(|_| means.bias);
        let is_output = matches!(place.role, Role::Decoder { .. });
        let mut weighting = Weighting { is_output, ..Weighting::default() };
        if let Role::Embedding { reader } = place.role {
            if let Some((reader, _)) = reader {
                let (shape, dense) = dense_matrix(graph, reader)?;
                weighting.hessian = Some(Hessian::of_reader(&dense, shape[1], None, DAMPING).map_err(solve)?);
            }
        } else if let Some((inputs, columns)) = statistics.inputs_of(name) {
            let columns = if is_cell { 0..inputs.width() } else { columns };
            let gram = inputs.gram_of(columns.clone());
            let mean = inputs.mean()[columns.clone()].to_vec();
            weighting.hessian = Some(
                match bias {
                    Some(_) => Hessian::centered(&gram, &mean, inputs.count(), DAMPING),
                    None => Hessian::new(&gram, columns.len(), inputs.count(), DAMPING),
                }
                .map_err(solve)?,
            );
            weighting.correction = bias.map(|b| (b, mean));
        }
        if means.rows {
            weighting.rows = rows(name, place.role, statistics);
        }
        weighting.shift = match (place.role, &weighting.rows) {
            (Role::Decoder { tied: false }, Some(rows)) => {
                Some(Shift { row: mean_row(w, rows), reader: None })
            }
            (Role::Embedding { reader: Some((map, Some(bias))) }, Some(rows)) if means.bias => {
                Some(Shift { row: mean_row(w, rows), reader: Some((map, bias)) })
            }
            _ => None,
        };
        Ok(weighting)
    }

    /// `w: [out, in]` with the shift taken off its rows.
    pub(crate) fn shifted(&self, w: &[f32]) -> Vec<f32> {
        match &self.shift {
            None => w.to_vec(),
            Some(shift) => {
                let n = shift.row.len();
                w.iter().enumerate().map(|(k, &x)| (f64::from(x) - shift.row[k % n]) as f32).collect()
            }
        }
    }
}

/// The weights of rows; none where they count alike.
fn rows(name: &str, role: Role, statistics: &Statistics) -> Option<Vec<f64>> {
    match role {
        Role::Decoder { .. } => {
            let p = statistics.predictions()?;
            let weight = |(c, p): (&f64, &f64)| {
                (c + UNSEEN_TARGET).powf(TARGET_EXPONENT) * p.max(0.0).powf(CURVATURE_EXPONENT)
            };
            Some(p.targets.iter().zip(&p.curvature).map(weight).collect())
        }
        Role::Embedding { .. } => {
            let counts = statistics.lookups_of(name)?.counts();
            Some(counts.iter().map(|c| (c + UNSEEN_LOOKUP).sqrt()).collect())
        }
        _ => None,
    }
}

/// The weighted mean of the rows of `w`.
fn mean_row(w: &[f32], rows: &[f64]) -> Vec<f64> {
    let n = w.len() / rows.len().max(1);
    let total: f64 = rows.iter().sum();
    let mut mean = vec![0.0; n];
    for (row, weight) in w.chunks(n.max(1)).zip(rows) {
        mean.iter_mut().zip(row).for_each(|(m, &x)| *m += weight / total * f64::from(x));
    }
    mean
}

/// The graph with these maps.
pub(crate) fn patched(graph: &Graph, changed: &[(WeightId, LinearMap)]) -> Graph {
    let mut new = graph.clone();
    for (id, map) in changed {
        new.set_weight(*id, map.clone()).expect("a map of the shape of the one it replaces");
    }
    new
}

/// A dense constant with numbers added.
fn add_to_constant(graph: &Graph, id: WeightId, more: Vec<f64>) -> Result<(WeightId, LinearMap), PassError> {
    let weight = graph.weight(id);
    let sum = || {
        let old = weight.map.to_dense()?.to_f32()?;
        let sum = old.iter().zip(more).map(|(&b, m)| (f64::from(b) + m) as f32).collect();
        Ok(LinearMap::Dense(Tensor::from_f32(weight.map.shape(), sum)?))
    };
    let map = sum().map_err(|source: MapError| PassError::Map { weight: weight.name.clone(), source })?;
    Ok((id, map))
}

/// Biases with what is added to them.
#[derive(Debug, Default)]
pub(crate) struct Biases {
    added: BTreeMap<WeightId, Vec<f64>>,
    shifts: Vec<Shift>,
    /// Whether the output layer's matrix changes and its bias may.
    has_output: bool,
}

impl Biases {
    /// Takes down what the weighting's biases have to make up for once `shifted: [out, in]` has become `v`.
    pub(crate) fn add(
        &mut self,
        weighting: &Weighting,
        shifted: &[f32],
        v: &[f32],
    ) -> Result<(), SolveError> {
        if let Some((bias, mean)) = &weighting.correction {
            self.has_output |= weighting.is_output;
            self.add_to(*bias, Hessian::bias_correction(shifted, v, mean)?);
        }
        self.shifts.extend(weighting.shift.iter().filter(|s| s.reader.is_some()).cloned());
        Ok(())
    }

    fn add_to(&mut self, bias: WeightId, more: Vec<f64>) {
        let sum = self.added.entry(bias).or_insert_with(|| vec![0.0; more.len()]);
        sum.iter_mut().zip(more).for_each(|(s, m)| *s += m);
    }

    /// All that changes: the maps, the biases that make up for means, and the output layer's refitted one if its matrix is among the maps.
    pub(crate) fn complete(
        self,
        graph: &Graph,
        mut changed: Vec<(WeightId, LinearMap)>,
        context: &mut Context<'_>,
    ) -> Result<Vec<(WeightId, LinearMap)>, PassError> {
        let has_output = self.has_output;
        changed.extend(self.finish(graph, &changed)?);
        if has_output && context.calibration.is_some() {
            let statistics = context.statistics(graph, "bias=false")?;
            let before = statistics.predictions().map(|p| p.probabilities.as_slice()).unwrap_or_default();
            let now = patched(graph, &changed);
            if let Some((id, map)) = refitted_output_bias(&now, before, REFIT_ROUNDS, context)? {
                changed.retain(|(other, _)| *other != id);
                changed.push((id, map));
            }
        }
        Ok(changed)
    }

    /// The new biases of `graph`, given the maps that change.
    ///
    /// What an embedding's rows lost reaches the bias through its reader as it will be, since the reader's own correction is for
    /// the inputs as they were.
    fn finish(
        mut self,
        graph: &Graph,
        changed: &[(WeightId, LinearMap)],
    ) -> Result<Vec<(WeightId, LinearMap)>, PassError> {
        let error = |id: WeightId| {
            let weight = graph.weight(id).name.clone();
            move |source| PassError::Map { weight, source }
        };
        for shift in std::mem::take(&mut self.shifts) {
            let Some((reader, bias)) = shift.reader else { continue };
            let map = changed.iter().find(|(id, _)| *id == reader).map(|(_, m)| m);
            let dense = map.unwrap_or(&graph.weight(reader).map).to_dense().map_err(error(reader))?;
            let dense = dense.to_f32().map_err(|e| error(reader)(e.into()))?;
            let product = dense
                .chunks(shift.row.len())
                .map(|w| w.iter().zip(&shift.row).map(|(&w, m)| f64::from(w) * m).sum());
            self.add_to(bias, product.collect());
        }
        self.added.into_iter().map(|(id, more)| add_to_constant(graph, id, more)).collect()
    }
}
