//! The definitions of `exp`, `ln`, `sigmoid` and `tanh`: polynomials, ranges and error bounds, for generated code and for the vectors of this crate.
//!
//! The polynomials of [`EXP`] and [`LN`] are those of the Cephes library's single-precision `expf` and `logf` (Moshier 1989), which are minimax on
//! their ranges; those of powers of two were found by iterated weighted least squares, and their errors are with rounded coefficients. The highest
//! power's coefficient comes first. `sigmoid x = 1 / (1 + 2^(-log2e x))` and `tanh x = 2 / (1 + 2^(-2 log2e x)) - 1`.
//!
//! The bounds are in units in the last place of the correctly rounded result. They are derived by measurement over *every* f32 of the range (tests
//! marked ignored, run by `just exhaustive`) and asserted over a dense sample in every test run.
#![deny(unsafe_code)]

/// Largest error of `e^x` in ULP on `[EXP_LOW, -EXP_LOW]`.
pub const MAX_EXP_ERROR_ULPS: f64 = 2.0;
/// Largest error of the vectors' `2^x` in ULP on `[LOWEST, HIGHEST]`; smaller arguments give at most `2^LOWEST`, larger ones at least `2^HIGHEST`.
pub const MAX_EXP2_ERROR_ULPS: f64 = 3.0;
/// Largest error of the sigmoid in ULP of 1.
pub const MAX_SIGMOID_ERROR_ULPS: f64 = 1.0;
/// Largest error of the hyperbolic tangent in ULP of 1. The value of a gate is added to numbers near 1, so relative accuracy near 0 would be
/// lost.
pub const MAX_TANH_ERROR_ULPS: f64 = 3.0;
/// Largest error of the natural logarithm in ULP of the result or of 1, whichever is larger, on positive normal numbers.
pub const MAX_LN_ERROR_ULPS: f64 = 2.0;

/// Arguments of `e^x` are clamped here: the result remains a normal number.
pub const EXP_LOW: f32 = -87.33;

/// log2 e minus its f32, for arguments whose rounding to powers of two would matter.
pub(crate) const LOG2_E_LOW: f32 = 1.925_963e-8;

/// Below this a power of two may not be a normal number. A term that small adds nothing to a sum of at least 1/2.
pub const LOWEST: f32 = -126.0;
/// Above this a power of two may not be finite.
pub const HIGHEST: f32 = 127.0;

/// Adding this rounds to the nearest integer, ties to even, and leaves it in the low bits of the sum, ready to be shifted into the exponent without
/// a conversion instruction.
pub const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23

/// ln 2 is the sum of this and [`LN2_LOW`]; this has few enough bits that `n * LN2_HIGH` is exact.
pub const LN2_HIGH: f32 = 355.0 / 512.0;
/// See [`LN2_HIGH`].
pub const LN2_LOW: f32 = -2.121_944_4e-4;

/// `(e^r - 1 - r) / r^2` on [-ln 2 / 2, ln 2 / 2]: Cephes expf.c.
pub const EXP: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];

/// `2^f` on [-1/2, 1/2], for exponents that are split with [`ROUND`]: minimax by relative error, degree 5 (1.5e-7).
pub const EXP2_OF_NEAREST: [f32; 6] =
    [1.327_647_2e-3, 9.675_541e-3, 5.550_713e-2, 2.402_212e-1, 6.931_469_4e-1, 1.000_000_1];

/// `2^f` on [0, 1], for exponents that are split with the floor: minimax by relative error, degree 5 (7.6e-8).
pub const EXP2_OF_FLOOR: [f32; 6] =
    [1.877_576_7e-3, 8.989_341e-3, 5.582_630_6e-2, 2.401_536e-1, 6.931_531e-1, 9.999_999_4e-1];

/// `(ln (1 + f) - f + f^2 / 2) / f^3` on [sqrt(1/2) - 1, sqrt(2) - 1]: Cephes logf.c.
pub const LN: [f32; 9] = [
    7.037_683_6e-2,
    -1.151_461e-1,
    1.167_699_9e-1,
    -1.242_014_1e-1,
    1.424_932_3e-1,
    -1.666_805_7e-1,
    2.000_071_5e-1,
    -2.499_999_4e-1,
    3.333_333e-1,
];

/// `2^f` on [0, 1/32), for implementations with a table for the rest: minimax by relative error, degree 2 with a constant of 1 (6.6e-8).
#[cfg(target_arch = "x86_64")]
pub(crate) const EXP2_OF_A_PART: [f32; 2] = [2.426_527e-1, 6.931_237_6e-1];

/// `2^(j / 32)`, by which the parts of [0, 1) differ.
#[cfg(target_arch = "x86_64")]
pub(crate) const PARTS: [f32; 32] = [
    1.0,
    1.021_897_2,
    1.044_273_7,
    1.067_140_5,
    1.090_507_7,
    1.114_386_8,
    1.138_788_6,
    1.163_724_9,
    1.189_207_1,
    1.215_247_4,
    1.241_857_8,
    1.269_051,
    1.296_839_6,
    1.325_236_7,
    1.354_255_6,
    1.383_91,
    std::f32::consts::SQRT_2,
    1.445_180_8,
    1.476_826_2,
    1.509_164_5,
    1.542_210_8,
    1.575_980_9,
    1.610_490_3,
    1.645_755_5,
    1.681_792_9,
    1.718_619_3,
    1.756_252_2,
    1.794_709_1,
    1.834_008_1,
    1.874_167_7,
    1.915_206_6,
    1.957_144_1,
];
