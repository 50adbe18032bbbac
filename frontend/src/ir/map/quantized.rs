//! Integer codes and scales.

use super::{CodeFormat, MapError, expect_shape, matrix_shape};
use crate::tensor::{DType, Tensor};
use std::fmt;

/// What one scale covers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Granularity {
    /// A row: one output unit.
    Row,
    /// This many consecutive inputs of a row; the last group of a row may be shorter.
    Group(usize),
}

impl Granularity {
    /// Inputs per scale for rows of `cols`.
    pub fn group_size(self, cols: usize) -> usize {
        match self {
            Granularity::Row => cols.max(1),
            Granularity::Group(n) => n,
        }
    }

    /// Scales per row of `cols`.
    pub fn groups(self, cols: usize) -> usize {
        cols.div_ceil(self.group_size(cols))
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Granularity::Row => f.write_str("row"),
            Granularity::Group(n) => write!(f, "group {n}"),
        }
    }
}

/// How the vector that a map multiplies enters the product.
///
/// With [`Int8`](Activations::Int8) the vector `x` is quantized at each step: symmetric, with one scale for all of it.
///
/// ```text
///   m   = max(max over j of |x_j|, 1e-30)
///   q_j = round(x_j * (127 / m))                  to the nearest integer, ties to even: in [-127, 127]
///   y_i = (m / 127) * sum over j of w_ij q_j      w as dequantized, with scales and zero points
/// ```
///
/// `m`, `127 / m`, `m / 127` and the products that are rounded are f32, regardless of the dtype of the rest, so that every implementation
/// rounds alike; [`quantize_activations`] is the definition. If some `x_j` is NaN or infinite, `y` is NaN.
///
/// This applies to products only: those of `linear`, and both of an `lstm`, each with its own input and scale. For `y = L (R x)`
/// each factor quantizes the vector that it multiplies (`R` quantizes `x`, `L` quantizes `R x`) as its own attribute says; so a left factor
/// that both maps of an `lstm` share gets two vectors, each with its own scale. A row that an `embedding` reads is dequantized,
/// regardless of the attribute.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Activations {
    /// As f32, unchanged.
    #[default]
    F32,
    /// As codes of 8 bits.
    Int8,
}

impl Activations {
    /// Every representation.
    pub const ALL: [Activations; 2] = [Activations::F32, Activations::Int8];

    /// `f32` or `int8`.
    pub fn name(self) -> &'static str {
        match self {
            Activations::F32 => "f32",
            Activations::Int8 => "int8",
        }
    }

    /// The representation with this name, as [`Activations::name`] spells it.
    pub fn from_name(name: &str) -> Option<Activations> {
        Activations::ALL.into_iter().find(|a| a.name() == name)
    }
}

impl fmt::Display for Activations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The smallest `m` of [`Activations`], so that a vector of zeros has a scale.
const MIN_ACTIVATION: f32 = 1e-30;

/// Quantizes a vector as [`Activations::Int8`] says: writes the codes `q` and returns the scale `m / 127`, NaN if `x` is not finite.
///
/// ```
/// use lstmc_frontend::ir::quantize_activations;
/// let mut codes = [0; 3];
/// let scale = quantize_activations(&[0.5, -2.54, 1.0], &mut codes);
/// assert_eq!((codes, scale), ([25, -127, 50], 2.54 / 127.0));
/// ```
///
/// # Panics
/// If `x` and `out` differ in length.
pub fn quantize_activations(x: &[f32], out: &mut [i8]) -> f32 {
    assert_eq!(x.len(), out.len(), "a code for each element");
    if x.iter().any(|x| !x.is_finite()) {
        out.fill(0);
        return f32::NAN;
    }
    let max = x.iter().fold(MIN_ACTIVATION, |m, x| m.max(x.abs()));
    let inverse = 127.0 / max;
    for (q, &x) in out.iter_mut().zip(x) {
        *q = (x * inverse).round_ties_even() as i8;
    }
    max / 127.0
}

/// `w[i][j] = scales[i][g] * (codes[i][j] - zero_points[i][g]) * columns[j]`, where `g = j / group size`; without columns, they are 1.
///
/// A product multiplies its vector by the columns first, so that kernels see codes and scales only:
///
/// ```text
///   x'_j = columns[j] x_j          rounded to f32, and then as Activations says
///   y_i  = sum over j of scales[i][g] (codes[i][j] - zero_points[i][g]) x'_j
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Quantized {
    pub(super) format: CodeFormat,
    pub(super) granularity: Granularity,
    pub(super) codes: Tensor,
    pub(super) scales: Tensor,
    pub(super) zero_points: Option<Tensor>,
    pub(super) columns: Option<Tensor>,
    pub(super) activations: Activations,
}

impl Quantized {
    /// A quantized matrix, for products with f32 vectors.
    ///
    /// `codes`: i8 `[out, in]` in [`CodeFormat::range`]; `scales`: f32 or f16 `[out, groups]`, finite;
    /// `zero_points`: i8 `[out, groups]` in the range of the codes, or `None` for symmetric codes.
    pub fn new(
        format: CodeFormat,
        granularity: Granularity,
        codes: Tensor,
        scales: Tensor,
        zero_points: Option<Tensor>,
    ) -> Result<Quantized, MapError> {
        if granularity == Granularity::Group(0) {
            return Err(MapError::Shape {
                what: "group size",
                expected: "at least 1".into(),
                found: "0".into(),
            });
        }
        let [rows, cols] = matrix_shape("codes", &codes, &[DType::I8])?;
        let groups = granularity.groups(cols);
        expect_shape("scales", matrix_shape("scales", &scales, &[DType::F32, DType::F16])?, [rows, groups])?;
        let range = format.range();
        if let Some(z) = &zero_points {
            expect_shape("zero points", matrix_shape("zero points", z, &[DType::I8])?, [rows, groups])?;
            if !z.is_elided() && z.i8s()?.iter().any(|c| !range.contains(c)) {
                return Err(MapError::Code { what: "zero point", format });
            }
        }
        if !codes.is_elided() && codes.i8s()?.iter().any(|c| !range.contains(c)) {
            return Err(MapError::Code { what: "code", format });
        }
        if !scales.is_elided() && scales.to_f32()?.iter().any(|s| !s.is_finite()) {
            return Err(MapError::NotFinite { what: "scales" });
        }
        let activations = Activations::F32;
        Ok(Quantized { format, granularity, codes, scales, zero_points, columns: None, activations })
    }

    /// The same codes and scales with a factor for each input: f32 or f16 `[in]`, finite; `None` means 1.
    pub fn with_columns(self, columns: Option<Tensor>) -> Result<Quantized, MapError> {
        if let Some(c) = &columns {
            let expected = || format!("f32 or f16 [{}]", self.codes.shape()[1]);
            if !matches!(c.dtype(), DType::F32 | DType::F16) || *c.shape() != self.codes.shape()[1..] {
                let found = format!("{} {:?}", c.dtype(), c.shape());
                return Err(MapError::Shape { what: "columns", expected: expected(), found });
            }
            if !c.is_elided() && c.to_f32()?.iter().any(|c| !c.is_finite()) {
                return Err(MapError::NotFinite { what: "columns" });
            }
        }
        Ok(Quantized { columns, ..self })
    }

    /// The same matrix, for products with vectors in this representation.
    pub fn with_activations(self, activations: Activations) -> Quantized {
        Quantized { activations, ..self }
    }

    /// The width of codes and zero points.
    pub fn format(&self) -> CodeFormat {
        self.format
    }

    /// What one scale covers.
    pub fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// How a product takes its vector.
    pub fn activations(&self) -> Activations {
        self.activations
    }

    /// i8 `[out, in]`.
    pub fn codes(&self) -> &Tensor {
        &self.codes
    }

    /// f32 or f16 `[out, groups]`.
    pub fn scales(&self) -> &Tensor {
        &self.scales
    }

    /// i8 `[out, groups]`; `None` means zero.
    pub fn zero_points(&self) -> Option<&Tensor> {
        self.zero_points.as_ref()
    }

    /// f32 or f16 `[in]`; `None` means 1.
    pub fn columns(&self) -> Option<&Tensor> {
        self.columns.as_ref()
    }

    pub(super) fn to_dense(&self) -> Result<Vec<f32>, MapError> {
        let [rows, cols] = [self.codes.shape()[0], self.codes.shape()[1]];
        let (codes, scales) = (self.codes.i8s()?, self.scales.to_f32()?);
        let zeros = self.zero_points.as_ref().map(|z| z.i8s()).transpose()?;
        let (size, groups) = (self.granularity.group_size(cols), self.granularity.groups(cols));
        let mut out = Vec::with_capacity(rows * cols);
        for i in 0..rows {
            for (g, group) in codes[i * cols..(i + 1) * cols].chunks(size).enumerate() {
                let scale = scales[i * groups + g];
                let zero = zeros.map_or(0, |z| i32::from(z[i * groups + g]));
                out.extend(group.iter().map(|&c| scale * (i32::from(c) - zero) as f32));
            }
        }
        if let Some(columns) = &self.columns {
            let columns = columns.to_f32()?;
            out.chunks_mut(cols.max(1))
                .for_each(|row| row.iter_mut().zip(&*columns).for_each(|(w, c)| *w *= c));
        }
        Ok(out)
    }
}
