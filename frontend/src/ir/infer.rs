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
            expect_clip(lstm.clip)?;
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
        Op::Gru(gru) => simple_cell(operands, 3, gru.biases(), gru.clip),
        Op::Rnn(rnn) => simple_cell(operands, 1, 1, rnn.clip),
        Op::Linear => {
            // The bias is the only operand in an even place that is a vector.
            let (terms, bias) = match operands {
                [terms @ .., bias] if terms.len() % 2 == 0 => (terms, bias.as_ref()),
                terms => (terms, None),
            };
            if terms.is_empty() || terms.iter().any(Option::is_none) {
                return Err(count("x, weight, perhaps more of both, and perhaps a bias", operands));
            }
            let mut out = None;
            for term in terms.iter().flatten().collect::<Vec<_>>().chunks_exact(2) {
                let features = features("x", term[0])?;
                expect_type("weight", term[1], DType::F32, &[out.clone(), Some(features)])?;
                out = Some(term[1].ty.shape[0].clone());
            }
            if let Some(b) = bias {
                expect_type("bias", b, DType::F32, std::slice::from_ref(&out))?;
            }
            Ok(sequence(out.unwrap_or(Dim::Unknown)))
        }
        Op::Features { from, to } => {
            let [x] = exactly(operands, ["x"])?;
            let width = features("x", x)?.as_constant();
            if from >= to || width.is_none_or(|n| *to > n) {
                let expected = format!(
                    "features within {}",
                    width.map_or("a known width".into(), |n| format!("0..{n}"))
                );
                return Err(InferError::new(expected, format!("{from}..{to}")));
            }
            Ok(sequence((to - from).into()))
        }
        Op::LayerNorm { epsilon } => {
            let (x, vectors) = match operands {
                [Some(x), vectors @ ..] if vectors.len() <= 2 => (x, vectors),
                _ => return Err(count("x and perhaps a scale and a shift", operands)),
            };
            if epsilon.is_nan() || *epsilon < 0.0 {
                return Err(InferError::new("an epsilon of zero or more", epsilon.to_string()));
            }
            let width = features("x", x)?;
            for vector in vectors.iter().flatten() {
                expect_type("scale or shift", vector, DType::F32, &[Some(width.clone())])?;
            }
            Ok(sequence(width))
        }
        Op::LogSoftmaxFeatures => {
            let [x] = exactly(operands, ["x"])?;
            Ok(sequence(features("x", x)?))
        }
        Op::ConcatFeatures => {
            let mut width = 0usize;
            for x in operands {
                let x = x.as_ref().ok_or_else(|| count("sequences", operands))?;
                let known = features("a part", x)?.as_constant().and_then(|n| width.checked_add(n));
                width = known.ok_or_else(|| InferError::new("parts of known width", x.ty.to_string()))?;
            }
            if operands.is_empty() {
                return Err(count("sequences", operands));
            }
            Ok(sequence(width.into()))
        }
        other => infer_onnx::infer(other, operands),
    }
}

/// A cell of one state, with this many blocks of rows in its maps and in its bias.
fn simple_cell(
    operands: &[Option<Fact>],
    rows: usize,
    biases: usize,
    clip: Option<f32>,
) -> Result<Vec<Fact>, InferError> {
    let [x, h, input, recurrent, bias] = exactly(operands, ["x", "h", "input", "recurrent", "bias"])?;
    expect_clip(clip)?;
    expect_type("h", h, DType::F32, &[Some(streams()), None])?;
    let hidden = h.ty.shape[1].clone();
    let (blocks, features) = (hidden.times(&rows.into()), features("x", x)?);
    expect_type("input map", input, DType::F32, &[Some(blocks.clone()), Some(features)])?;
    expect_type("recurrent map", recurrent, DType::F32, &[Some(blocks), Some(hidden.clone())])?;
    expect_type("bias", bias, DType::F32, &[Some(hidden.times(&biases.into()))])?;
    let mut results = sequence(hidden.clone());
    results.push(Fact::of_type(DType::F32, vec![streams(), hidden]));
    Ok(results)
}

fn expect_clip(clip: Option<f32>) -> Result<(), InferError> {
    match clip.filter(|clip| clip.is_nan() || *clip <= 0.0) {
        Some(clip) => Err(InferError::new("a clip above zero", clip.to_string())),
        None => Ok(()),
    }
}

/// The features of a sequence.
fn features(what: &str, x: &Fact) -> Result<Dim, InferError> {
    expect_type(what, x, DType::F32, &[Some(steps()), Some(streams()), None])?;
    Ok(x.ty.shape[2].clone())
}

/// One result, a sequence.
fn sequence(features: Dim) -> Vec<Fact> {
    vec![Fact::of_type(DType::F32, vec![steps(), streams(), features])]
}

fn steps() -> Dim {
    Dim::symbol(Symbol::steps())
}

fn streams() -> Dim {
    Dim::symbol(Symbol::streams())
}

/// Checks the operands of a state of this type: none, or the vector that it starts at.
pub(super) fn check_state(ty: &Type, operands: &[Option<Fact>]) -> Result<(), InferError> {
    match operands {
        [] => Ok(()),
        [Some(initial)] => expect_type("initial value", initial, DType::F32, &[ty.shape.last().cloned()]),
        _ => Err(count("perhaps an initial value", operands)),
    }
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
