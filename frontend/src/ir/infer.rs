//! Type inference: derives a node's results from its operands.

use super::dim::{Dim, Symbol};
use super::graph::Type;
use super::infer_onnx;
use super::map::LinearMap;
use super::op::{Content, Op};
use crate::tensor::{DType, Data};

/// Integer tensors of at most this many elements are tracked through shape arithmetic.
pub(super) const MAX_CONTENT: usize = 64;

/// What is known about a value or weight before the model runs.
#[derive(Clone, PartialEq, Debug)]
pub struct Fact {
    /// dtype and dimensions.
    pub ty: Type,
    /// The elements of a small integer tensor of rank 0 or 1, as far as shape arithmetic determines them.
    pub content: Option<Content>,
}

impl Fact {
    /// A fact without known elements.
    pub fn of_type(dtype: DType, shape: Vec<Dim>) -> Fact {
        Fact { ty: Type::new(dtype, shape), content: None }
    }

    /// The fact of a weight.
    pub fn of_map(map: &LinearMap) -> Fact {
        let shape: Vec<Dim> = map.shape().into_iter().map(Dim::from).collect();
        let content = match map {
            LinearMap::Dense(t) if t.shape().len() <= 1 && t.len() <= MAX_CONTENT => match t.data() {
                Data::I64(v) => Some(v.iter().map(|&x| integer(x)).collect()),
                Data::I32(v) => Some(v.iter().map(|&x| integer(x.into())).collect()),
                _ => None,
            },
            _ => None,
        };
        Fact { ty: Type::new(map.dtype(), shape), content }
    }
}

fn integer(coefficient: i64) -> Dim {
    Dim::Known { coefficient, symbols: vec![] }
}

/// Why a node's types do not fit.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected {expected}, found {found}")]
pub struct InferError {
    /// What the operator takes.
    pub expected: String,
    /// What was given.
    pub found: String,
}

impl InferError {
    /// An error from these two parts.
    pub fn new(expected: impl Into<String>, found: impl Into<String>) -> InferError {
        InferError { expected: expected.into(), found: found.into() }
    }
}

/// The facts of the results of `op` on operands with these facts (`None` for an optional operand that is not given).
pub(crate) fn infer(op: &Op, operands: &[Option<Fact>]) -> Result<Vec<Fact>, InferError> {
    match op {
        Op::Input | Op::State => Err(InferError::new("a declared type", "no type")),
        Op::Embedding => {
            let [tokens, table] = exactly(operands, ["tokens", "table"])?;
            expect_type("tokens", tokens, DType::I64, &[Some(steps()), Some(streams())])?;
            expect_type("table", table, DType::F32, &[None, None])?;
            let features = table.ty.shape[1].clone();
            Ok(vec![Fact::of_type(DType::F32, vec![steps(), streams(), features])])
        }
        Op::Lstm(lstm) => {
            let (peepholes, operands) = match operands {
                [all @ .., peepholes] if operands.len() == 7 => (peepholes.as_ref(), all),
                all => (None, all),
            };
            let [x, h, c, input, recurrent, bias] =
                exactly(operands, ["x", "h", "c", "input", "recurrent", "bias"])?;
            if let Some(clip) = lstm.clip.filter(|clip| clip.is_nan() || *clip <= 0.0) {
                return Err(InferError::new("a clip above zero", clip.to_string()));
            }
            expect_type("h", h, DType::F32, &[Some(streams()), None])?;
            let hidden = h.ty.shape[1].clone();
            expect_type("c", c, DType::F32, &[Some(streams()), Some(hidden.clone())])?;
            expect_type("x", x, DType::F32, &[Some(steps()), Some(streams()), None])?;
            let features = x.ty.shape[2].clone();
            let rows = hidden.times(&lstm.rows().count().into());
            expect_type("input map", input, DType::F32, &[Some(rows.clone()), Some(features)])?;
            expect_type("recurrent map", recurrent, DType::F32, &[Some(rows.clone()), Some(hidden.clone())])?;
            expect_type("bias", bias, DType::F32, &[Some(rows)])?;
            if let Some(peepholes) = peepholes {
                let rows = hidden.times(&lstm.peepholes().count().into());
                expect_type("peepholes", peepholes, DType::F32, &[Some(rows)])?;
            }
            let state = Fact::of_type(DType::F32, vec![streams(), hidden.clone()]);
            Ok(vec![Fact::of_type(DType::F32, vec![steps(), streams(), hidden]), state.clone(), state])
        }
        Op::Linear => {
            let (x, weight, bias) = match operands {
                [Some(x), Some(w)] | [Some(x), Some(w), None] => (x, w, None),
                [Some(x), Some(w), Some(b)] => (x, w, Some(b)),
                _ => return Err(count("x, weight and perhaps a bias", operands)),
            };
            expect_type("x", x, DType::F32, &[Some(steps()), Some(streams()), None])?;
            let features = x.ty.shape[2].clone();
            expect_type("weight", weight, DType::F32, &[None, Some(features)])?;
            let out = weight.ty.shape[0].clone();
            if let Some(b) = bias {
                expect_type("bias", b, DType::F32, &[Some(out.clone())])?;
            }
            Ok(vec![Fact::of_type(DType::F32, vec![steps(), streams(), out])])
        }
        other => infer_onnx::infer(other, operands),
    }
}

fn steps() -> Dim {
    Dim::symbol(Symbol::steps())
}

fn streams() -> Dim {
    Dim::symbol(Symbol::streams())
}

/// Exactly these operands, all given.
pub(super) fn exactly<'a, const N: usize>(
    operands: &'a [Option<Fact>],
    names: [&str; N],
) -> Result<[&'a Fact; N], InferError> {
    let given: Vec<&Fact> = operands.iter().flatten().collect();
    if given.len() != operands.len() {
        return Err(count(&names.join(", "), operands));
    }
    given.try_into().map_err(|_| count(&names.join(", "), operands))
}

/// The error for a wrong number of operands.
pub(super) fn count(expected: &str, operands: &[Option<Fact>]) -> InferError {
    let given = operands.iter().flatten().count();
    InferError::new(format!("operands {expected}"), format!("{given} given of {}", operands.len()))
}

/// Checks dtype, rank and the requested dimensions.
pub(super) fn expect_type(
    what: &str,
    fact: &Fact,
    dtype: DType,
    shape: &[Option<Dim>],
) -> Result<(), InferError> {
    // A float constant may be stored in half precision; it is read as f32.
    let dtype_fits = fact.ty.dtype == dtype || (dtype == DType::F32 && fact.ty.dtype == DType::F16);
    let fits = dtype_fits
        && fact.ty.shape.len() == shape.len()
        && fact.ty.shape.iter().zip(shape).all(|(found, want)| want.as_ref().is_none_or(|w| w == found));
    if fits {
        return Ok(());
    }
    let want: Vec<String> = shape.iter().map(|d| d.as_ref().map_or("_".into(), |d| d.to_string())).collect();
    Err(InferError::new(format!("{what} of type {dtype}[{}]", want.join(", ")), fact.ty.to_string()))
}
