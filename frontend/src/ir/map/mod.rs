//! Linear maps: how a weight is represented. Compressing a model is changing representations.
//!
//! ```text
//! LinearMap = Dense(tensor)                       y = W x, W: [out, in]
//!           | Quantized { codes, scales, .. }     w = scale * (code - zero point) * column; scales per row or per group along `in`
//!           | Sparse { mask, values }             values is again a map; elements that the mask drops are zero and not stored
//!           | LowRank { left, right }             W = left . right; each side again a map
//!           | TensorTrain { cores, modes }        W[(i1..id), (j1..jd)] = G1[i1, j1] . G2[i2, j2] ... Gd[id, jd]
//! ```
//!
//! A product with a quantized map may take its vector as int8 instead of f32: see [`Activations`].
//!
//! A map inside a map is a [`Part`]. Two maps that hold the *same* part share it: it is stored, printed, packed and counted
//! once (an LSTM cell whose input and recurrent maps have one left factor). A bias or any other constant is a
//! `Dense` tensor of any rank: there is no second kind of weight.
//!
//! In memory, each code takes a byte and a sparse map's values keep their full shape, which keeps every pass simple;
//! the container stores them packed, see [`super::store`], and all reported sizes are the packed ones.

mod activations;
mod codes;
mod error;
mod low_rank;
mod part;
mod quantized;
mod sparse;
mod tensor_train;

pub use activations::SetActivations;
pub use codes::{CodeFormat, ExportedType, PackedWidth};
pub use error::{MAX_MULTIPLIED_OUT, MapError};
pub use low_rank::LowRank;
pub use part::{Part, PartId, Rewrite};
pub use quantized::{Activations, Granularity, Quantized, quantize_activations};
pub use sparse::{Pattern, Sparse};
pub use tensor_train::TensorTrain;

use crate::tensor::{DType, Tensor};

/// A weight in one of five representations. Logical shape `[out, in]`, except for `Dense` constants of other ranks.
#[derive(Clone, PartialEq, Debug)]
pub enum LinearMap {
    /// The matrix itself, or a constant of any rank.
    Dense(Tensor),
    /// Integer codes and scales.
    Quantized(Quantized),
    /// A mask and the values it keeps.
    Sparse(Sparse),
    /// A product of two maps.
    LowRank(LowRank),
    /// A chain of cores.
    TensorTrain(TensorTrain),
}

impl LinearMap {
    /// The representation's name, as the text form spells it.
    pub fn kind(&self) -> &'static str {
        match self {
            LinearMap::Dense(_) => "dense",
            LinearMap::Quantized(_) => "quantized",
            LinearMap::Sparse(_) => "sparse",
            LinearMap::LowRank(_) => "low_rank",
            LinearMap::TensorTrain(_) => "tensor_train",
        }
    }

    /// The logical dimensions.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            LinearMap::Dense(t) => t.shape().to_vec(),
            LinearMap::Quantized(q) => q.codes.shape().to_vec(),
            LinearMap::Sparse(s) => s.values.shape(),
            LinearMap::LowRank(l) => vec![l.left.shape()[0], l.right.shape()[1]],
            LinearMap::TensorTrain(t) => t.shape.to_vec(),
        }
    }

    /// `[out, in]`, or an error for a constant of another rank.
    pub fn matrix_shape(&self) -> Result<[usize; 2], MapError> {
        let shape = self.shape();
        <[usize; 2]>::try_from(shape.as_slice()).map_err(|_| MapError::Shape {
            what: "map",
            expected: "a matrix".into(),
            found: format!("rank {}", shape.len()),
        })
    }

    /// How a product with this map takes its vector: as its codes say, if it (or the values under its mask) is quantized. Each factor of a
    /// low-rank map takes its own vector as its own codes say; everything else takes f32.
    pub fn activations(&self) -> Activations {
        match self {
            LinearMap::Quantized(q) => q.activations,
            LinearMap::Sparse(s) => s.values.activations(),
            LinearMap::Dense(_) | LinearMap::LowRank(_) | LinearMap::TensorTrain(_) => Activations::F32,
        }
    }

    /// Whether some product inside this map takes its vector as int8.
    pub fn has_int8_activations(&self) -> bool {
        self.activations() == Activations::Int8
            || self.children().iter().any(|(_, part)| part.has_int8_activations())
    }

    /// The dtype of an element as it is read: the tensor's dtype if dense, f32 otherwise.
    pub fn dtype(&self) -> DType {
        match self {
            LinearMap::Dense(t) => t.dtype(),
            _ => DType::F32,
        }
    }

    /// The matrix that this map represents, as a dense f32 tensor (of the same dtype if it is a constant that is not f16). An error if factors or
    /// cores would multiply out to more than [`MAX_MULTIPLIED_OUT`] elements.
    pub fn to_dense(&self) -> Result<Tensor, MapError> {
        let shape = self.shape();
        Ok(match self {
            LinearMap::Dense(t) if t.dtype() == DType::F16 => Tensor::from_f32(shape, t.to_f32()?.to_vec())?,
            LinearMap::Dense(t) => {
                if t.is_elided() {
                    t.to_f32()?;
                }
                t.clone()
            }
            LinearMap::Quantized(q) => Tensor::from_f32(shape, q.to_dense()?)?,
            LinearMap::Sparse(s) => {
                let values = s.values.to_dense()?;
                let mask = s.element_mask()?;
                let kept = values.f32s()?.iter().zip(&mask).map(|(&v, &k)| if k { v } else { 0.0 });
                Tensor::from_f32(shape, kept.collect())?
            }
            LinearMap::LowRank(l) => {
                error::check_multiplied_out(&shape)?;
                let (left, right) = (l.left.to_dense()?, l.right.to_dense()?);
                let (m, k, n) = (shape[0], l.rank(), shape[1]);
                let mut out = vec![0.0f32; m * n];
                crate::product::multiply([m, k, n], left.f32s()?, right.f32s()?, &mut out);
                Tensor::from_f32(shape, out)?
            }
            LinearMap::TensorTrain(t) => Tensor::from_f32(shape, t.to_dense()?)?,
        })
    }

    /// Numbers stored: weights, codes or factors' elements that a mask keeps; scales and indices do not count as parameters.
    pub fn parameters(&self) -> usize {
        match self {
            LinearMap::Dense(t) => t.len(),
            LinearMap::Quantized(q) => q.codes.len(),
            LinearMap::Sparse(s) => s.kept().unwrap_or_else(|| s.values.parameters()),
            LinearMap::LowRank(l) => l.left.parameters() + l.right.parameters(),
            LinearMap::TensorTrain(t) => t.cores.iter().map(|c| c.parameters()).sum(),
        }
    }

    /// Multiply-adds of one product with a vector.
    pub fn multiply_adds(&self) -> usize {
        match self {
            LinearMap::TensorTrain(t) => t.multiply_adds(),
            LinearMap::LowRank(l) => l.left.multiply_adds().saturating_add(l.right.multiply_adds()),
            _ => self.parameters(),
        }
    }

    /// The maps directly inside this one, each with the name that its path uses.
    pub fn children(&self) -> Vec<(String, &Part)> {
        match self {
            LinearMap::Dense(_) | LinearMap::Quantized(_) => vec![],
            LinearMap::Sparse(s) => vec![("values".into(), &s.values)],
            LinearMap::LowRank(l) => vec![("left".into(), &l.left), ("right".into(), &l.right)],
            LinearMap::TensorTrain(t) => {
                t.cores.iter().enumerate().map(|(k, c)| (format!("core{k}"), c)).collect()
            }
        }
    }

    /// The map with other parts instead of those directly inside.
    pub fn map_parts<E: From<MapError>>(
        &self,
        mut f: impl FnMut(&Part) -> Result<Part, E>,
    ) -> Result<LinearMap, E> {
        Ok(match self {
            LinearMap::Dense(_) | LinearMap::Quantized(_) => self.clone(),
            LinearMap::Sparse(s) => LinearMap::Sparse(Sparse::new(s.pattern, s.mask.clone(), f(&s.values)?)?),
            LinearMap::LowRank(l) => LinearMap::LowRank(LowRank::new(f(&l.left)?, f(&l.right)?)?),
            LinearMap::TensorTrain(t) => {
                let cores = t.cores.iter().map(f).collect::<Result<Vec<_>, E>>()?;
                let (out_modes, in_modes) = (t.out_modes.clone(), t.in_modes.clone());
                LinearMap::TensorTrain(TensorTrain::new(t.shape, out_modes, in_modes, cores)?)
            }
        })
    }

    /// The tensors directly inside this one, each with the name that its path uses.
    pub fn tensors(&self) -> Vec<(&'static str, &Tensor)> {
        match self {
            LinearMap::Dense(t) => vec![("data", t)],
            LinearMap::Quantized(q) => {
                let mut all = vec![("codes", &q.codes), ("scales", &q.scales)];
                all.extend(q.zero_points.as_ref().map(|z| ("zero_points", z)));
                all.extend(q.columns.as_ref().map(|c| ("columns", c)));
                all
            }
            LinearMap::Sparse(s) => vec![("mask", &s.mask)],
            LinearMap::LowRank(_) | LinearMap::TensorTrain(_) => vec![],
        }
    }

    /// The factors by which a product first multiplies its vector, `[in]`; `None` without [`Quantized::columns`].
    pub fn columns(&self) -> Option<&Tensor> {
        match self {
            LinearMap::Quantized(q) => q.columns(),
            LinearMap::Sparse(s) => s.values.columns(),
            _ => None,
        }
    }

    /// The map that a product applies after it has multiplied its vector by [`LinearMap::columns`].
    pub fn without_columns(&self) -> LinearMap {
        match self {
            LinearMap::Quantized(q) => LinearMap::Quantized(Quantized { columns: None, ..q.clone() }),
            LinearMap::Sparse(s) if self.columns().is_some() => {
                LinearMap::Sparse(Sparse { values: s.values.without_columns().into(), ..s.clone() })
            }
            other => other.clone(),
        }
    }

    /// Whether any tensor inside lacks its data.
    pub fn is_elided(&self) -> bool {
        self.tensors().iter().any(|(_, t)| t.is_elided())
            || self.children().iter().any(|(_, c)| c.is_elided())
    }
}

impl From<Tensor> for LinearMap {
    fn from(t: Tensor) -> LinearMap {
        LinearMap::Dense(t)
    }
}

pub(super) fn matrix_shape(what: &'static str, t: &Tensor, dtypes: &[DType]) -> Result<[usize; 2], MapError> {
    if !dtypes.contains(&t.dtype()) {
        let expected = dtypes.iter().map(|d| d.name()).collect::<Vec<_>>().join(" or ");
        return Err(MapError::Shape { what, expected, found: t.dtype().to_string() });
    }
    <[usize; 2]>::try_from(t.shape()).map_err(|_| MapError::Shape {
        what,
        expected: "a matrix".into(),
        found: format!("shape {:?}", t.shape()),
    })
}

pub(super) fn expect_shape(
    what: &'static str,
    found: [usize; 2],
    expected: [usize; 2],
) -> Result<(), MapError> {
    if found == expected {
        return Ok(());
    }
    Err(MapError::Shape { what, expected: format!("{expected:?}"), found: format!("{found:?}") })
}
