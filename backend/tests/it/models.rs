//! Models whose maps are all of one representation.

use half::f16;
use lstmc_frontend::ir::arbitrary::{Kind, SplitMix64};
use lstmc_frontend::ir::arbitrary::{language_model_of, random_codes, random_map, random_tensor};
use lstmc_frontend::ir::{
    Activations, CodeFormat, Granularity, Graph, LinearMap, LowRank, Part, Pattern, Quantized, Sparse,
};
use lstmc_frontend::tensor::{DType, Data, Tensor};
use std::sync::Arc;

/// A representation with a kernel of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form {
    /// Codes, by row or by groups of so many inputs, times integer activations.
    Codes(CodeFormat, Granularity),
    /// One in `n` blocks kept, of f32s or of codes by row.
    Sparse { pattern: Pattern, keep: usize, integer: bool },
    /// Two factors of codes of four bits.
    Factors,
    /// Cores for the embedding, dense elsewhere.
    Train,
}

const BLOCK_16X1: Pattern = Pattern::Block { rows: 16, cols: 1 };

/// Every format of codes, by row and by groups of a quad, of several and of a part of one.
pub(crate) fn code_forms() -> Vec<Form> {
    let groups = [4, 6, 32, 5].into_iter().cycle();
    let formats = CodeFormat::ALL.into_iter().zip(groups);
    formats.flat_map(|(f, n)| [Granularity::Row, Granularity::Group(n)].map(|g| Form::Codes(f, g))).collect()
}

/// The other kernels.
pub(crate) const OTHER_FORMS: [Form; 6] = [
    Form::Sparse { pattern: BLOCK_16X1, keep: 5, integer: false },
    Form::Sparse { pattern: Pattern::Block { rows: 8, cols: 3 }, keep: 4, integer: false },
    Form::Sparse { pattern: Pattern::UNSTRUCTURED, keep: 9, integer: false },
    Form::Sparse { pattern: BLOCK_16X1, keep: 5, integer: true },
    Form::Factors,
    Form::Train,
];

/// One of each kernel.
pub(crate) fn forms() -> Vec<Form> {
    code_forms().into_iter().chain(OTHER_FORMS).collect()
}

/// Codes and scales, f16 by group and f32 by row.
pub(crate) fn codes(
    format: CodeFormat,
    granularity: Granularity,
    [rows, cols]: [usize; 2],
    seed: u64,
) -> LinearMap {
    let codes = random_codes(format, &[rows, cols], seed).unwrap();
    // Small, so that activation functions are not saturated.
    let scales = random_tensor(DType::F32, &[rows, granularity.groups(cols)], seed + 1).unwrap();
    let unit = 1.0 / f32::from(1u16 << (format.bits() - 1));
    let scales: Vec<f32> = scales.to_f32().unwrap().iter().map(|s| s * unit).collect();
    let data = match granularity {
        Granularity::Row => Data::F32(Arc::new(scales)),
        Granularity::Group(_) => Data::F16(Arc::new(scales.into_iter().map(f16::from_f32).collect())),
    };
    let scales = Tensor::new(vec![rows, granularity.groups(cols)], data).unwrap();
    let q = Quantized::new(format, granularity, codes, scales, None).unwrap();
    LinearMap::Quantized(q.with_activations(Activations::Int8))
}

/// A map of this form.
pub(crate) fn map(form: Form, name: &str, shape: [usize; 2], seed: u64) -> LinearMap {
    let dense = |shape: [usize; 2]| LinearMap::Dense(random_tensor(DType::F32, &shape, seed + 2).unwrap());
    match form {
        Form::Codes(format, granularity) => codes(format, granularity, shape, seed),
        Form::Sparse { pattern, keep, integer } => {
            let values =
                if integer { codes(CodeFormat::Int8, Granularity::Row, shape, seed) } else { dense(shape) };
            let grid = pattern.grid(shape);
            let mut rng = SplitMix64::new(seed);
            let mask: Vec<bool> = (0..grid[0] * grid[1]).map(|_| rng.below(keep) == 0).collect();
            let mask = Tensor::new(grid.to_vec(), Data::Bool(Arc::new(mask))).unwrap();
            LinearMap::Sparse(Sparse::new(pattern, mask, Part::new(values)).unwrap())
        }
        Form::Factors => {
            let rank = shape[0].min(shape[1]).div_ceil(2).max(1);
            let left = codes(CodeFormat::Int4, Granularity::Group(3), [shape[0], rank], seed);
            let right = codes(CodeFormat::Int4, Granularity::Row, [rank, shape[1]], seed + 5);
            LinearMap::LowRank(LowRank::new(Part::new(left), Part::new(right)).unwrap())
        }
        Form::Train if name == "embedding" => random_map(Kind::TensorTrain, shape, seed),
        Form::Train => dense(shape),
    }
}

/// A language model whose matrices are all of one form.
pub(crate) fn model(form: Form, hidden: usize, layers: usize, vocabulary: usize, seed: u64) -> Graph {
    let mut n = seed;
    language_model_of(hidden, layers, vocabulary, |name, shape| {
        n += 10;
        map(form, name, shape, n)
    })
}
