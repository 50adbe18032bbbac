//! Integer codes and scales.

use super::{MapError, expect_shape, matrix_shape};
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

/// `w[i][j] = scales[i][g] * (codes[i][j] - zero_points[i][g])`, where `g = j / group size`.
#[derive(Clone, PartialEq, Debug)]
pub struct Quantized {
    pub(super) bits: u8,
    pub(super) granularity: Granularity,
    pub(super) codes: Tensor,
    pub(super) scales: Tensor,
    pub(super) zero_points: Option<Tensor>,
}

impl Quantized {
    /// The widths that can be stored, in bits.
    pub const BITS: [u8; 4] = [2, 3, 4, 8];

    /// A quantized matrix.
    ///
    /// `codes`: i8 `[out, in]` in `[-2^(bits-1), 2^(bits-1) - 1]`; `scales`: f32 or f16 `[out, groups]`, finite;
    /// `zero_points`: i8 `[out, groups]` in the range of the codes, or none for symmetric codes.
    pub fn new(
        bits: u8,
        granularity: Granularity,
        codes: Tensor,
        scales: Tensor,
        zero_points: Option<Tensor>,
    ) -> Result<Quantized, MapError> {
        if !Self::BITS.contains(&bits) {
            return Err(MapError::Bits { bits });
        }
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
        let range = Self::range(bits);
        if let Some(z) = &zero_points {
            expect_shape("zero points", matrix_shape("zero points", z, &[DType::I8])?, [rows, groups])?;
            if !z.is_elided() && z.i8s()?.iter().any(|c| !range.contains(c)) {
                return Err(MapError::Code { what: "zero point", bits });
            }
        }
        if !codes.is_elided() && bits < 8 && codes.i8s()?.iter().any(|c| !range.contains(c)) {
            return Err(MapError::Code { what: "code", bits });
        }
        if !scales.is_elided() && scales.to_f32()?.iter().any(|s| !s.is_finite()) {
            return Err(MapError::NotFinite { what: "scales" });
        }
        Ok(Quantized { bits, granularity, codes, scales, zero_points })
    }

    /// The codes of `bits` bits.
    pub fn range(bits: u8) -> std::ops::RangeInclusive<i8> {
        let half = 1i16 << (bits - 1);
        (-half) as i8..=(half - 1) as i8
    }

    /// Bits per code.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// What one scale covers.
    pub fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// i8 `[out, in]`.
    pub fn codes(&self) -> &Tensor {
        &self.codes
    }

    /// f32 or f16 `[out, groups]`.
    pub fn scales(&self) -> &Tensor {
        &self.scales
    }

    /// i8 `[out, groups]`; none means zero.
    pub fn zero_points(&self) -> Option<&Tensor> {
        self.zero_points.as_ref()
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
        Ok(out)
    }
}
