//! Random but reproducible maps and models, for tests and benchmarks of every crate.
//!
//! Everything is drawn from [`SplitMix64`], so a seed gives the same data on every machine and, below [`ALL_FORMATS_FROM`], in every version.
//!
//! ```
//! use lstmc_frontend::ir::arbitrary::{Kind, language_model, random_map};
//! let map = random_map(Kind::TensorTrain, [33, 31], 7);
//! assert_eq!(map.shape(), [33, 31]);
//! let graph = language_model(8, 2, 50, 1);
//! assert!(graph.is_language_model());
//! ```

mod models;

pub use models::{Extras, Recurrence, recurrent_model, recurrent_model_of};

use super::cell::{GateOrder, Lstm};
use super::graph::{Graph, Operand, OutputRole, Type};
use super::map::{
    Activations, CodeFormat, Granularity, LinearMap, LowRank, MapError, Part, Pattern, Quantized,
    SetActivations, Sparse, TensorTrain,
};
use super::op::{Function, Op};
use crate::tensor::{DType, Data, Tensor, TensorError};
use half::{bf16, f16};
use std::sync::Arc;

/// The generator of Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014).
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// A generator.
    pub fn new(seed: u64) -> SplitMix64 {
        SplitMix64(seed)
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `[-0.5, 0.5)`, a multiple of 2^-24.
    pub fn centered(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 / (1 << 24) as f32 - 0.5
    }

    /// A number below `n`, which must not be zero.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next_u64() >> 1) as usize % n.max(1)
    }

    /// One of `all`.
    pub fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// Floats in `[-0.5, 0.5)`; integers in `[-128, 127]` (u8: `[0, 255]`); booleans. Text form: `random SEED`.
pub fn random_tensor(dtype: DType, shape: &[usize], seed: u64) -> Result<Tensor, TensorError> {
    let count = crate::tensor::element_count(shape)?;
    let mut rng = SplitMix64::new(seed);
    fn fill<T>(count: usize, f: impl FnMut(usize) -> T) -> Arc<Vec<T>> {
        Arc::new((0..count).map(f).collect())
    }
    let byte = |rng: &mut SplitMix64| (rng.next_u64() >> 56) as u8;
    let data = match dtype {
        DType::F32 => Data::F32(fill(count, |_| rng.centered())),
        DType::F64 => Data::F64(fill(count, |_| rng.centered().into())),
        DType::F16 => Data::F16(fill(count, |_| f16::from_f32(rng.centered()))),
        DType::Bf16 => Data::Bf16(fill(count, |_| bf16::from_f32(rng.centered()))),
        DType::I64 => Data::I64(fill(count, |_| i64::from(byte(&mut rng) as i8))),
        DType::I32 => Data::I32(fill(count, |_| i32::from(byte(&mut rng) as i8))),
        DType::I8 => Data::I8(fill(count, |_| byte(&mut rng) as i8)),
        DType::U8 => Data::U8(fill(count, |_| byte(&mut rng))),
        DType::Bool => Data::Bool(fill(count, |_| byte(&mut rng) >= 128)),
    };
    Tensor::new(shape.to_vec(), data)
}

/// i8 codes over the full range of a format.
pub fn random_codes(format: CodeFormat, shape: &[usize], seed: u64) -> Result<Tensor, TensorError> {
    let mut rng = SplitMix64::new(seed);
    let count = crate::tensor::element_count(shape)?;
    // The top bits as a signed number: an arithmetic shift.
    Tensor::from_i8(
        shape,
        (0..count).map(|_| (rng.next_u64() as i64 >> (64 - format.bits())) as i8).collect(),
    )
}

/// Scales in `(0, 2^-bits]` for codes of a format, so that weights are in about `[-0.5, 0.5]`. f32 or f16.
pub fn random_scales(
    format: CodeFormat,
    dtype: DType,
    shape: &[usize],
    seed: u64,
) -> Result<Tensor, TensorError> {
    let mut rng = SplitMix64::new(seed);
    let count = crate::tensor::element_count(shape)?;
    let mut scale = || (0.5 - rng.centered()) / f32::from(1u16 << format.bits());
    match dtype {
        DType::F16 => Tensor::from_f16(shape, (0..count).map(|_| f16::from_f32(scale())).collect()),
        _ => Tensor::from_f32(shape, (0..count).map(|_| scale()).collect()),
    }
}

/// Factors of columns in `(0.5, 1.5]`. f32 or f16.
pub fn random_columns(dtype: DType, count: usize, seed: u64) -> Result<Tensor, TensorError> {
    let mut rng = SplitMix64::new(seed);
    let columns = (0..count).map(|_| 1.0 - rng.centered());
    match dtype {
        DType::F16 => Tensor::from_f16([count], columns.map(f16::from_f32).collect()),
        _ => Tensor::from_f32([count], columns.collect()),
    }
}

/// A mask of the given grid. Blocks: `density` of the flags, rounded. n:m: `n` of every `m` (all of them in a last group with fewer).
pub fn random_mask(pattern: Pattern, grid: &[usize], density: f64, seed: u64) -> Result<Tensor, TensorError> {
    let mut rng = SplitMix64::new(seed);
    let count = crate::tensor::element_count(grid)?;
    let mut mask = vec![false; count];
    let mut keep = |flags: &mut [bool], n: usize| {
        let mut keys: Vec<(u64, usize)> = (0..flags.len()).map(|i| (rng.next_u64(), i)).collect();
        keys.sort_unstable();
        keys.iter().take(n).for_each(|&(_, i)| flags[i] = true);
    };
    match pattern {
        Pattern::Block { .. } => keep(&mut mask, (count as f64 * density).round() as usize),
        Pattern::NOfM { n, m } => {
            let cols = grid.last().copied().unwrap_or(1).max(1);
            mask.chunks_mut(cols).flat_map(|row| row.chunks_mut(m)).for_each(|group| keep(group, n));
        }
    }
    Tensor::from_bool(grid, mask)
}

/// A representation to draw; see [`random_map`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "the variants of LinearMap")]
pub enum Kind {
    Dense,
    Quantized,
    Sparse,
    LowRank,
    TensorTrain,
}

impl Kind {
    /// Every representation.
    pub const ALL: [Kind; 5] = [Kind::Dense, Kind::Quantized, Kind::Sparse, Kind::LowRank, Kind::TensorTrain];
}

/// The formats of codes that seeds below [`ALL_FORMATS_FROM`] draw from: those of the first version.
const FIRST_FORMATS: [CodeFormat; 4] =
    [CodeFormat::Int2, CodeFormat::Int3, CodeFormat::Int4, CodeFormat::Int8];

/// Seeds from here on draw from every format of codes and give some matrices columns, so their data changes when a format is added; that of smaller
/// seeds does not.
pub const ALL_FORMATS_FROM: u64 = 1 << 32;

/// A matrix in a representation. Widths, groups, activations, patterns, ranks, modes and the representations of parts follow from the seed, so that
/// a run over seeds covers them all (every [`CodeFormat`] from [`ALL_FORMATS_FROM`] on); elements have the magnitude of trained weights.
pub fn random_map(kind: Kind, shape: [usize; 2], seed: u64) -> LinearMap {
    let formats = if seed < ALL_FORMATS_FROM { &FIRST_FORMATS[..] } else { &CodeFormat::ALL };
    nested(kind, shape, seed, 2, formats)
}

fn nested(kind: Kind, shape: [usize; 2], seed: u64, depth: usize, formats: &[CodeFormat]) -> LinearMap {
    let mut rng = SplitMix64::new(seed ^ 0x006c_7374_6d63_u64.rotate_left(kind as u32));
    let [rows, cols] = shape;
    let part = |rng: &mut SplitMix64, shape: [usize; 2]| {
        let kinds = if depth > 1 { &Kind::ALL[..] } else { &Kind::ALL[..3] };
        Part::new(nested(rng.pick(kinds), shape, rng.next_u64(), depth - 1, formats))
    };
    let map = match kind {
        Kind::Dense => Ok(dense(shape, seed)),
        Kind::Quantized => {
            let format = rng.pick(formats);
            let grain = [Granularity::Row, Granularity::Group(32), Granularity::Group(1 + rng.below(9))];
            let (scales, asymmetric) = (rng.pick(&[DType::F32, DType::F16]), rng.below(2) == 1);
            let map = quantized(shape, format, rng.pick(&grain), scales, asymmetric, seed);
            let map = map.map(|m| SetActivations::new(rng.pick(&Activations::ALL)).set(&m.into()).into_map());
            match map {
                Ok(LinearMap::Quantized(q)) if formats.len() > FIRST_FORMATS.len() && rng.below(2) == 1 => {
                    let columns = random_columns(scales, cols, seed).expect("a row that fits in memory");
                    q.with_columns(Some(columns)).map(LinearMap::Quantized)
                }
                map => map,
            }
        }
        Kind::Sparse => {
            let block = Pattern::Block { rows: 1 + rng.below(8), cols: 1 + rng.below(8) };
            let patterns = [
                Pattern::UNSTRUCTURED,
                Pattern::Block { rows: 16, cols: 1 },
                block,
                Pattern::NOfM { n: 2, m: 4 },
            ];
            let density = rng.pick(&[0.0, 0.02, 0.1, 0.2, 0.5, 1.0]);
            let values = rng.pick(&[Kind::Dense, Kind::Quantized]);
            sparse(rng.pick(&patterns), density, nested(values, shape, rng.next_u64(), 1, formats), seed)
        }
        Kind::LowRank => {
            let rank = 1 + rng.below(rows.min(cols).max(1));
            LowRank::new(part(&mut rng, [rows, rank]), part(&mut rng, [rank, cols])).map(LinearMap::LowRank)
        }
        Kind::TensorTrain => {
            let d = 1 + rng.below(3);
            let (out_modes, in_modes) = (modes(rows, d), modes(cols, d));
            let ranks: Vec<usize> =
                (0..=d).map(|k| if k == 0 || k == d { 1 } else { 1 + rng.below(4) }).collect();
            let cores = (0..d).map(|k| {
                let core = part(&mut rng, [ranks[k] * out_modes[k], in_modes[k] * ranks[k + 1]]);
                SetActivations::new(Activations::F32).set(&core)
            });
            let cores = cores.collect();
            TensorTrain::new(shape, out_modes, in_modes, cores).map(LinearMap::TensorTrain)
        }
    };
    map.expect("parts that fit, by construction")
}

/// `d` modes of about equal size whose product is at least `n`.
fn modes(n: usize, d: usize) -> Vec<usize> {
    let mut left = n.max(1);
    (0..d)
        .map(|k| {
            let mode =
                (1..=left).find(|m| m.checked_pow((d - k) as u32).is_none_or(|p| p >= left)).unwrap_or(1);
            left = left.div_ceil(mode);
            mode
        })
        .collect()
}

/// A dense f32 matrix in `[-0.5, 0.5)`.
pub fn dense(shape: [usize; 2], seed: u64) -> LinearMap {
    LinearMap::Dense(random_tensor(DType::F32, &shape, seed).expect("a shape that fits in memory"))
}

/// A quantized matrix for products with f32 vectors. `scales`: f32 or f16; `asymmetric`: with zero points.
pub fn quantized(
    shape: [usize; 2],
    format: CodeFormat,
    granularity: Granularity,
    scales: DType,
    asymmetric: bool,
    seed: u64,
) -> Result<LinearMap, MapError> {
    let groups = [shape[0], granularity.groups(shape[1])];
    let codes = random_codes(format, &shape, seed)?;
    let scales = random_scales(format, scales, &groups, seed.wrapping_add(1))?;
    let zeros = if asymmetric { Some(random_codes(format, &groups, seed.wrapping_add(2))?) } else { None };
    Quantized::new(format, granularity, codes, scales, zeros).map(LinearMap::Quantized)
}

/// `values` (dense or quantized) under a random mask.
pub fn sparse(pattern: Pattern, density: f64, values: LinearMap, seed: u64) -> Result<LinearMap, MapError> {
    let grid = pattern.grid(values.matrix_shape()?);
    let mask = random_mask(pattern, &grid, density, seed)?;
    Sparse::new(pattern, mask, values.into()).map(LinearMap::Sparse)
}

/// A language model in canonical form with dense weights; see [`language_model_of`].
pub fn language_model(hidden: usize, layers: usize, vocabulary: usize, seed: u64) -> Graph {
    let mut rng = SplitMix64::new(seed);
    language_model_of(hidden, layers, vocabulary, |_, shape| dense(shape, rng.next_u64()))
}

/// A language model in canonical form whose matrices are made by `map` from name and shape; biases are dense.
///
/// Weights are `embedding`, `lstm0.input`, `lstm0.recurrent`, `lstm0.bias`, .., `decoder`, `decoder.bias`; gates in the order iofc.
pub fn language_model_of(
    hidden: usize,
    layers: usize,
    vocabulary: usize,
    map: impl FnMut(&str, [usize; 2]) -> LinearMap,
) -> Graph {
    language_model_of_cells(&Lstm::new(GateOrder::Iofc), false, [hidden, layers, vocabulary], map)
}

/// LSTMs of every variant, alone and combined, with and without peepholes.
pub fn lstm_variants() -> Vec<(Lstm, bool)> {
    let plain = Lstm::new(GateOrder::Iofc);
    let activations = [
        [Function::HardSigmoid { alpha: 0.3, beta: 0.4 }, Function::Softsign, Function::Relu],
        [
            Function::Sigmoid,
            Function::LeakyRelu { alpha: 0.1 },
            Function::ScaledTanh { alpha: 1.5, beta: 0.5 },
        ],
        [Function::Softplus, Function::Elu { alpha: 0.7 }, Function::Affine { alpha: 0.5, beta: 0.1 }],
        [Function::Tanh, Function::ThresholdedRelu { alpha: 0.05 }, Function::Sigmoid],
    ];
    let mut all = vec![
        (Lstm { coupled: true, ..plain }, false),
        (Lstm { coupled: true, ..Lstm::new(GateOrder::Ifgo) }, true),
        (plain, true),
        (Lstm::new(GateOrder::Ifgo), true),
        (Lstm { clip: Some(0.2), ..plain }, false),
        (Lstm { clip: Some(0.1), coupled: true, ..plain }, true),
    ];
    all.extend(activations.map(|activations| (Lstm { activations, ..plain }, false)));
    all
}

/// [`language_model_of`] with cells of this kind: `[hidden, layers, vocabulary]`.
pub fn language_model_of_cells(
    cell: &Lstm,
    peepholes: bool,
    [hidden, layers, vocabulary]: [usize; 3],
    mut map: impl FnMut(&str, [usize; 2]) -> LinearMap,
) -> Graph {
    let mut g = Graph::new("random");
    g.vocabulary = Some(vocabulary);
    let tokens = g.add_source(Op::Input, "tokens", Type::tokens());
    let states: Vec<_> = (0..layers)
        .map(|l| ["h", "c"].map(|s| g.add_source(Op::State, &format!("{s}{l}"), Type::state(hidden))))
        .collect();
    let mut weight = |g: &mut Graph, name: &str, shape: [usize; 2]| -> Operand {
        g.add_weight(name, map(name, shape)).expect("a new name").into()
    };
    let mut biases = 0;
    let mut bias = |g: &mut Graph, name: &str, n: usize| -> Operand {
        biases += 1;
        let data = random_tensor(DType::F32, &[n], biases).expect("a shape that fits in memory");
        g.add_weight(name, data).expect("a new name").into()
    };
    let add = |g: &mut Graph, op: Op, operands: &[Operand], names: &[&str]| {
        g.add(op, operands, names, "").expect("types that fit, by construction")
    };
    let table = weight(&mut g, "embedding", [vocabulary, hidden]);
    let mut x = add(&mut g, Op::Embedding, &[tokens.into(), table], &["x0"])[0];
    let mut next = vec![];
    for (l, [h, c]) in states.into_iter().enumerate() {
        let rows = cell.rows().count() * hidden;
        let input = weight(&mut g, &format!("lstm{l}.input"), [rows, hidden]);
        let recurrent = weight(&mut g, &format!("lstm{l}.recurrent"), [rows, hidden]);
        let b = bias(&mut g, &format!("lstm{l}.bias"), rows);
        let mut operands = vec![x.into(), h.into(), c.into(), input, recurrent, b];
        if peepholes {
            operands.push(bias(&mut g, &format!("lstm{l}.peepholes"), cell.peepholes().count() * hidden));
        }
        let names = [format!("x{}", l + 1), format!("h{l}.next"), format!("c{l}.next")];
        let results = add(&mut g, Op::Lstm(*cell), &operands, &names.each_ref().map(|n| n.as_str()));
        x = results[0];
        next.extend([(h, results[1]), (c, results[2])]);
    }
    let decoder = weight(&mut g, "decoder", [vocabulary, hidden]);
    let bias = bias(&mut g, "decoder.bias", vocabulary);
    let logits = add(&mut g, Op::Linear, &[x.into(), decoder, bias], &["logits"])[0];
    g.add_output(OutputRole::Named("logits".into()), logits);
    for (state, value) in next {
        g.add_output(OutputRole::State(state), value);
    }
    g
}
