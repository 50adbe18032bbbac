use super::*;
use crate::ir::arbitrary::SplitMix64;
use crate::ir::map::CodeFormat;
use crate::ir::store::{Encoding, Inner, Stored, bits, entropy};
use proptest::prelude::*;
use std::collections::HashMap;

/// A number between 0 and 1, but neither.
fn uniform(rng: &mut SplitMix64) -> f64 {
    ((rng.next_u64() >> 12) as f64 + 0.5) / 2f64.powi(52)
}

/// A standard normal number (Box and Muller 1958).
fn normal(rng: &mut SplitMix64) -> f64 {
    (-2.0 * uniform(rng).ln()).sqrt() * (std::f64::consts::TAU * uniform(rng)).cos()
}

/// Rounded normal numbers with a scale for each row and column, and the standard deviation of each.
fn scaled(rows: usize, columns: usize, scale: f64, spread: f64, seed: u64) -> (Vec<i8>, Vec<f64>) {
    let mut rng = SplitMix64::new(seed);
    let mut scales = |n: usize| -> Vec<f64> { (0..n).map(|_| (spread * normal(&mut rng)).exp()).collect() };
    let (of_rows, of_columns) = (scales(rows), scales(columns));
    let deviations: Vec<f64> =
        of_rows.iter().flat_map(|r| of_columns.iter().map(move |c| scale * r * c)).collect();
    let code = |d: &f64| (d * normal(&mut rng)).round().clamp(-128.0, 127.0) as i8;
    (deviations.iter().map(code).collect(), deviations)
}

/// Bits of a rounded normal number whose standard deviation is known.
fn bits_known(code: i8, deviation: f64) -> f64 {
    const POINTS: u32 = 256;
    let x = |k: u32| (f64::from(code) - 0.5 + (f64::from(k) + 0.5) / f64::from(POINTS)) / deviation;
    let density = |x: f64| (-0.5 * x * x).exp() / (std::f64::consts::TAU.sqrt() * deviation);
    let probability = (0..POINTS).map(|k| density(x(k))).sum::<f64>() / f64::from(POINTS);
    -probability.max(1e-300).log2()
}

/// The code length in the same contexts if each took the exact share of what it has seen, with 0.2 more of each code.
struct Ideal<I> {
    codes: I,
    /// Of each table, by its address: how often each code was seen, and all.
    seen: HashMap<usize, ([f64; 256], f64)>,
    alphabet: f64,
    bits: f64,
}

impl<I: Iterator<Item = i8>> Coder for Ideal<I> {
    fn code(&mut self, table: &mut Table) -> Option<i8> {
        const MORE: f64 = 0.2;
        let code = self.codes.next()?;
        let (counts, all) = self.seen.entry(std::ptr::from_ref(table).addr()).or_insert(([0.0; 256], 0.0));
        let count = &mut counts[usize::from(code as u8)];
        self.bits -= ((*count + MORE) / (*all + MORE * self.alphabet)).log2();
        *count += 1.0;
        *all += 1.0;
        Some(code)
    }
}

/// The ideal code length with columns, in bits.
fn ideal(codes: &[i8], columns: usize) -> f64 {
    let largest = codes.iter().map(|c| c.unsigned_abs()).max().unwrap();
    let alphabet = 2.0 * f64::from(largest) + 1.0;
    let all = sequence(codes, Some(columns)).into_iter();
    let mut coder = Ideal { codes: all, seen: HashMap::new(), alphabet, bits: 0.0 };
    walk(&mut coder, codes.len(), Some(columns), largest).unwrap();
    coder.bits
}

/// Bytes with one table of frequencies for all.
fn static_bytes(codes: &[i8]) -> usize {
    entropy::encode(bytemuck::cast_slice(codes)).unwrap().len()
}

/// Bits a code, and how far they are from what is possible.
#[test]
fn scales_of_rows_and_columns_cost_little() {
    let mut lines = vec![];
    for (rows, columns, scale, spread) in [
        (2000, 200, 0.6, 0.7),
        (800, 400, 0.7, 0.7),
        (2000, 200, 0.2, 1.0),
        (800, 200, 8.0, 0.5),
        (800, 200, 0.4, 0.0),
    ] {
        let (codes, deviations) = scaled(rows, columns, scale, spread, 1);
        let n = codes.len() as f64;
        let known: f64 = codes.iter().zip(deviations).map(|(&c, d)| bits_known(c, d)).sum::<f64>() / n;
        let of_all = 8.0 * static_bytes(&codes) as f64 / n;
        let adaptive = ideal(&codes, columns) / n;
        let coded = encode(&codes, &[rows, columns]).unwrap();
        let in_context = 8.0 * coded.len() as f64 / n;
        assert_eq!(decode(&coded, &[rows, columns]), Some(codes));
        assert!(in_context < 1.02 * adaptive + 80.0 / n, "{in_context} bits, ideally {adaptive}");
        lines.push(format!(
            "[{rows}, {columns}], scale {scale}, spread {spread}: one table {of_all:.2}, in context {in_context:.2}, with exact counts \
             {adaptive:.2}, with known scales {known:.2}"
        ));
    }
    insta::assert_snapshot!(lines.join("\n"));
}

/// The format: what is written today is read tomorrow.
#[test]
fn bytes_of_small_blobs() {
    let (codes, _) = scaled(12, 3, 3.0, 0.5, 1);
    let columns = encode_with(&codes, Some(3)).unwrap();
    let sequence = encode_with(&codes, None).unwrap();
    assert_eq!(decode(&columns, &[12, 3]).as_deref(), Some(&codes[..]));
    assert_eq!(decode(&sequence, &[36]).as_deref(), Some(&codes[..]));
    insta::assert_snapshot!(format!("{codes:?}\n{columns:?}\n{sequence:?}"));
}

#[test]
fn tables_are_what_their_formulas_say() {
    for (c, &ratio) in RATIOS.iter().enumerate() {
        let x = 2f64.powf((c as f64 - f64::from(UNITY)) / 3.0);
        assert_eq!(f64::from(ratio), (65536.0 * ((1.0 + x * x).sqrt() - 1.0) / x).round());
    }
    for (i, &log) in LOGARITHMS.iter().enumerate() {
        let exact = f64::from(OCTAVE) * (1.0 + i as f64 / 64.0).log2();
        assert!((f64::from(log) - exact).abs() < 0.51, "{i}");
    }
    for (i, &power) in POWERS.iter().enumerate() {
        assert_eq!(power as f64, (2f64.powf(16.0 + i as f64 / f64::from(LEVELS))).round());
    }
    for magnitude in 0..=128u32 {
        let (symbol, bits, low) = split(magnitude);
        assert_eq!(
            (u32::from(MAGNITUDES[symbol].0) + low, u32::from(MAGNITUDES[symbol].1)),
            (magnitude, bits)
        );
    }
    assert_eq!(symbols(128), SYMBOLS);
    for v in [1, 2, 3, 100, 65535, 1 << 40, u64::MAX] {
        let exact = f64::from(OCTAVE) * (v as f64).log2();
        assert!((f64::from(logarithm(v)) - exact).abs() < 5.0, "{v}");
    }
}

#[test]
fn zeros_are_next_to_nothing() {
    // All zero, one column not, and too few rows for columns.
    for shape in [[100, 1000], [8, 100], [1, 40_000]] {
        let mut codes = vec![0; shape[0] * shape[1]];
        assert!(encode(&codes, &shape).unwrap().len() < 220);
        codes.chunks_mut(shape[1]).for_each(|row| row[7] = -128);
        let coded = encode(&codes, &shape).unwrap();
        assert!(coded.len() < 260, "{}", coded.len());
        assert_eq!(decode(&coded, &shape), Some(codes));
    }
    assert_eq!(encode(&[], &[0, 4]), None);
    assert_eq!(encode(&[], &[4, 0]), None);
}

#[test]
fn hostile_blobs_are_refused() {
    let (codes, _) = scaled(40, 5, 3.0, 0.5, 1);
    let shape = [40, 5];
    let good = encode_with(&codes, Some(5)).unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    assert_eq!(decode(&with(0, 2), &shape), None, "an unknown kind");
    assert_eq!(decode(&with(1, 129), &shape), None, "a magnitude that no code has");
    assert_eq!(decode(&good, &[5, 40]), None, "columns of few rows");
    assert_eq!(decode(&good, &[200]), None);
    assert_eq!(decode(&good, &[0, 5]), None);
    assert_eq!(decode(&good, &[41, 5]), None, "too few codes");
    assert_eq!(decode(&good, &[39, 5]), None, "too many codes");
    for n in 0..good.len() {
        assert_eq!(decode(&good[..n], &shape), None);
    }
    let padded = [&good[..], &[0; 9]].concat();
    assert_eq!(decode(&padded, &shape).as_deref(), Some(&codes[..]));
    assert_eq!(decode(&[&padded[..], &[1]].concat(), &shape), None);
    // States that no encoder leaves.
    for state in [0u64, 1, u64::MAX] {
        for kind in [0, 1] {
            let bytes = [&[kind, 128][..], &state.to_le_bytes(), &[255; 4000]].concat();
            assert_eq!(decode(&bytes, &shape), None);
        }
    }
}

proptest! {
    #[test]
    fn coding_and_decoding_is_the_identity(
        rows in prop::sample::select(vec![1usize, 7, 8, 50, 300]),
        columns in prop::sample::select(vec![1usize, 2, 33, 200]),
        format in prop::sample::select(CodeFormat::ALL.to_vec()),
        scale in prop::sample::select(vec![0.01, 0.5, 3.0, 40.0, 300.0]),
        spread in prop::sample::select(vec![0.0, 0.7, 2.0]),
        seed: u64,
    ) {
        let (low, high) = format.range().into_inner();
        let codes: Vec<i8> = scaled(rows, columns, scale, spread, seed).0.iter().map(|&c| c.clamp(low, high)).collect();
        for of in [super::columns(codes.len(), &[rows, columns]), None] {
            let coded = encode_with(&codes, of).unwrap();
            prop_assert_eq!(decode(&coded, &[rows, columns]), Some(codes.clone()));
        }
        let stored = Stored {
            path: "w".into(),
            encoding: Encoding::Packed(format),
            shape: vec![rows, columns],
            bytes: bits::pack(codes.iter().copied(), format).into(),
        };
        let coded = entropy::compress(stored.clone(), codes.len());
        prop_assert!(coded.bytes.len() <= stored.bytes.len());
        prop_assert!(!matches!(coded.encoding, Encoding::Entropy(Inner::Plain(_))));
    }

    #[test]
    fn damaged_blobs_are_refused_or_decoded_but_never_panic(
        rows in 1usize..40, columns in 1usize..20, at: usize, to: u8, cut in 0usize..100, kind in 0u8..2, seed: u64,
    ) {
        let (codes, _) = scaled(rows, columns, 20.0, 1.0, seed);
        let of = super::columns(codes.len(), &[rows, columns]).filter(|_| kind == 1);
        let mut bytes = encode_with(&codes, of).unwrap();
        let at = at % bytes.len();
        bytes[at] = to;
        bytes.truncate(bytes.len().saturating_sub(cut));
        let _ = decode(&bytes, &[rows, columns]);
    }

    #[test]
    fn any_bytes_are_refused_or_decoded(bytes in prop::collection::vec(any::<u8>(), 0..300), rows in 0usize..40, columns in 0usize..20) {
        let _ = decode(&bytes, &[rows, columns]);
        let head = [&[u8::from(rows % 2 == 0), 128][..], &bytes].concat();
        let _ = decode(&head, &[rows, columns]);
    }
}
