//! Entropy coding of blobs: the last step of Deep Compression (Han, Mao and Dally 2016, section 4), with rANS instead of Huffman codes.
//!
//! Codes of a quantized map are far from uniform: a bell around zero, in which a good 4-bit quantization has some 3.3 bits of entropy.
//! Range asymmetric numeral systems (Duda 2013) come within a hundredth of a bit of that.
//!
//! ```text
//! u32 count | u16 symbols - 1 | symbols x (u8 symbol, u16 frequency) | u32 state | renormalisation bytes
//! ```
//!
//! All little-endian. Frequencies sum up to 2^12. A symbol is one code if the inner blob is packed, and one byte otherwise. The
//! decoder runs forward: symbols come out in order. A blob is coded only if that makes it smaller.
//!
//! Exponents and mantissas of numbers differ: `f16+planes` has a table for each byte of an element, lowest first:
//!
//! ```text
//! (u32 length | as above, of this byte of all elements)  or  (u32 0 | this byte of all elements)
//! ```

use super::{Encoding, Inner, MAX_ELEMENTS_PER_BYTE, Stored, bits, context, least_bytes, may_expand};
use crate::ir::map::CodeFormat;

/// Frequencies sum up to `1 << SCALE`.
const SCALE: u32 = 12;
const TOTAL: u32 = 1 << SCALE;
/// The state stays in `[LOW, LOW << 8)`.
const LOW: u32 = 1 << 23;

/// Codes a blob of a tensor of `total` elements, the smaller way, if that makes it smaller; otherwise returns it unchanged.
pub(super) fn compress(stored: Stored<'_>, total: usize) -> Stored<'_> {
    let coded = match stored.encoding {
        Encoding::Packed(format) => {
            let codes = bits::unpack(&stored.bytes, stored.shape.iter().product(), format);
            codes.and_then(|codes| compress_codes(&codes, format, &stored.shape, total))
        }
        Encoding::Plain(dtype) => {
            let least = least_bytes(total.max(stored.bytes.len()));
            let of_all = encode(&stored.bytes).map(|bytes| (Encoding::Entropy(Inner::Plain(dtype)), bytes));
            let planes = (Encoding::Planes(dtype), encode_planes(&stored.bytes, dtype.size()));
            let ways = of_all.into_iter().chain([planes]).filter(|(_, bytes)| bytes.len() >= least);
            ways.min_by_key(|(_, bytes)| bytes.len())
        }
        _ => None,
    };
    match coded.filter(|(_, bytes)| bytes.len() < stored.bytes.len()) {
        Some((encoding, bytes)) => Stored { encoding, bytes: bytes.into(), ..stored },
        None => stored,
    }
}

fn compress_codes(
    codes: &[i8],
    format: CodeFormat,
    shape: &[usize],
    total: usize,
) -> Option<(Encoding, Vec<u8>)> {
    let least = least_bytes(total.max(codes.len()));
    // Symbols are codes counted from the lowest.
    let lowest = *format.range().start();
    let symbols: Vec<u8> = codes.iter().map(|&c| c.wrapping_sub(lowest) as u8).collect();
    let of_all = encode(&symbols).filter(|bytes| bytes.len() >= least);
    let in_context = context::encode(codes, shape).map(|mut bytes| {
        bytes.resize(bytes.len().max(least), 0);
        bytes
    });
    let of_all = of_all.map(|bytes| (Encoding::Entropy(Inner::Packed(format)), bytes));
    let in_context = in_context.map(|bytes| (Encoding::Context(format), bytes));
    of_all.into_iter().chain(in_context).min_by_key(|(_, bytes)| bytes.len())
}

/// The blob that was coded, or `None` if the bytes are not what [`compress`] produces for a blob of this shape. Codes come as `int8`.
pub(super) fn expand(encoding: Encoding, bytes: &[u8], shape: &[usize]) -> Option<(Encoding, Vec<u8>)> {
    let size = match encoding {
        Encoding::Entropy(Inner::Plain(dtype)) | Encoding::Planes(dtype) => dtype.size(),
        _ => 1,
    };
    let count = shape.iter().try_fold(size, |n, &d| n.checked_mul(d))?;
    if !may_expand(count, bytes.len(), MAX_ELEMENTS_PER_BYTE) {
        return None;
    }
    let (format, codes) = match encoding {
        Encoding::Entropy(Inner::Plain(dtype)) => {
            return Some((Encoding::Plain(dtype), decode(bytes, count)?));
        }
        Encoding::Planes(dtype) => {
            return Some((Encoding::Plain(dtype), decode_planes(bytes, count, dtype.size())?));
        }
        Encoding::Entropy(Inner::Packed(format)) => {
            let lowest = *format.range().start();
            (format, decode(bytes, count)?.into_iter().map(|s| lowest.wrapping_add_unsigned(s)).collect())
        }
        Encoding::Context(format) => (format, context::decode(bytes, shape)?),
        Encoding::Plain(_) | Encoding::Packed(_) | Encoding::Bitmap | Encoding::Delta => return None,
    };
    let is_code = |code: &i8| format.range().contains(code);
    let is_valid = codes.iter().all(is_code);
    is_valid.then(|| (Encoding::Packed(CodeFormat::Int8), codes.into_iter().map(|c| c as u8).collect()))
}

/// Each byte of elements of this size on its own.
fn encode_planes(bytes: &[u8], size: usize) -> Vec<u8> {
    let mut out = vec![];
    for k in 0..size {
        let plane: Vec<u8> = bytes.iter().skip(k).step_by(size).copied().collect();
        let coded = encode(&plane).filter(|coded| coded.len() < plane.len());
        // Less than the plane's length, which `encode` counts in a u32.
        out.extend(coded.as_ref().map_or(0, |coded| coded.len() as u32).to_le_bytes());
        out.extend(coded.unwrap_or(plane));
    }
    out
}

/// All `count` bytes of [`encode_planes`].
fn decode_planes(bytes: &[u8], count: usize, size: usize) -> Option<Vec<u8>> {
    let (mut all, mut rest) = (vec![0; count], bytes);
    for k in 0..size {
        let (length, after) = rest.split_first_chunk()?;
        let length = u32::from_le_bytes(*length) as usize;
        let (plane, after) = after.split_at_checked(if length == 0 { count / size } else { length })?;
        let plane = if length == 0 { plane.to_vec() } else { decode(plane, count / size)? };
        all.iter_mut().skip(k).step_by(size).zip(plane).for_each(|(byte, of)| *byte = of);
        rest = after;
    }
    rest.is_empty().then_some(all)
}

/// Frequencies of the symbols that occur, at least 1 each, scaled to a sum of `TOTAL`.
fn frequencies(symbols: &[u8]) -> [u32; 256] {
    let mut counts = [0u64; 256];
    symbols.iter().for_each(|&s| counts[usize::from(s)] += 1);
    let total = symbols.len() as u64;
    let mut scaled = counts.map(|c| if c == 0 { 0 } else { ((c * u64::from(TOTAL) / total) as u32).max(1) });
    // The rounding surplus or deficit goes to or comes from the largest, where it matters least.
    loop {
        let sum: u32 = scaled.iter().sum();
        if sum == TOTAL {
            return scaled;
        }
        let largest = (0..256).max_by_key(|&s| scaled[s]).unwrap_or(0);
        if sum < TOTAL {
            scaled[largest] += TOTAL - sum;
        } else {
            scaled[largest] -= (sum - TOTAL).min(scaled[largest] - 1).min(scaled[largest] / 2).max(1);
        }
    }
}

fn starts(frequencies: &[u32; 256]) -> [u32; 256] {
    let mut starts = [0; 256];
    let mut sum = 0;
    for (start, f) in starts.iter_mut().zip(frequencies) {
        *start = sum;
        sum += f;
    }
    starts
}

pub(super) fn encode(symbols: &[u8]) -> Option<Vec<u8>> {
    let count = u32::try_from(symbols.len()).ok().filter(|&n| n > 0)?;
    let frequencies = frequencies(symbols);
    let starts = starts(&frequencies);
    // The coder runs backwards, so that the decoder runs forwards.
    let mut tail = vec![];
    let mut state = LOW;
    for &s in symbols.iter().rev() {
        let f = frequencies[usize::from(s)];
        let limit = ((LOW >> SCALE) << 8) * f;
        while state >= limit {
            tail.push(state as u8);
            state >>= 8;
        }
        state = ((state / f) << SCALE) + state % f + starts[usize::from(s)];
    }
    let used: Vec<u8> = (0..=255).filter(|&s| frequencies[usize::from(s)] > 0).collect();
    let mut out = Vec::with_capacity(tail.len() + 3 * used.len() + 10);
    out.extend(count.to_le_bytes());
    out.extend((used.len() as u16 - 1).to_le_bytes());
    for &s in &used {
        out.push(s);
        out.extend((frequencies[usize::from(s)] as u16).to_le_bytes());
    }
    out.extend(state.to_le_bytes());
    out.extend(tail.iter().rev());
    Some(out)
}

fn decode(bytes: &[u8], count: usize) -> Option<Vec<u8>> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*head) as usize != count || count == 0 {
        return None;
    }
    let (used, mut rest) = rest.split_first_chunk::<2>()?;
    let mut frequencies = [0u32; 256];
    for _ in 0..=u16::from_le_bytes(*used) {
        let (entry, after) = rest.split_first_chunk::<3>()?;
        frequencies[usize::from(entry[0])] = u32::from(u16::from_le_bytes([entry[1], entry[2]]));
        rest = after;
    }
    if frequencies.iter().sum::<u32>() != TOTAL {
        return None;
    }
    let starts = starts(&frequencies);
    let mut symbol_at = vec![0u8; TOTAL as usize];
    for s in 0..256 {
        symbol_at[starts[s] as usize..(starts[s] + frequencies[s]) as usize].fill(s as u8);
    }
    let (state, mut rest) = rest.split_first_chunk::<4>()?;
    let mut state = u32::from_le_bytes(*state);
    let mut out = Vec::with_capacity(count);
    for _ in 0..count {
        let slot = state & (TOTAL - 1);
        let s = symbol_at[slot as usize];
        // At most 2^31: the state was below 2^31 and the frequency is at most 2^12 of 2^12.
        state = frequencies[usize::from(s)]
            .checked_mul(state >> SCALE)?
            .checked_add(slot - starts[usize::from(s)])?;
        while state < LOW {
            let (&next, after) = rest.split_first()?;
            state = state << 8 | u32::from(next);
            rest = after;
        }
        out.push(s);
    }
    (rest.is_empty() && state == LOW).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::arbitrary::SplitMix64;
    use crate::tensor::DType;
    use proptest::prelude::*;

    /// Codes in a bell: the sum of a few uniform numbers.
    fn bell(n: usize, seed: u64) -> Vec<i8> {
        let mut rng = SplitMix64::new(seed);
        (0..n).map(|_| (0..4).map(|_| (rng.next_u64() >> 62) as i8).sum::<i8>() - 6).collect()
    }

    fn blob(codes: &[i8], format: CodeFormat) -> Stored<'static> {
        let bytes = bits::pack(codes.iter().copied(), format);
        Stored {
            path: "w/codes".into(),
            encoding: Encoding::Packed(format),
            shape: vec![codes.len()],
            bytes: bytes.into(),
        }
    }

    #[test]
    fn a_bell_of_codes_comes_close_to_its_entropy() {
        let codes = bell(100_000, 1);
        let mut counts = [0f64; 256];
        codes.iter().for_each(|&c| counts[c as u8 as usize] += 1.0);
        let n = codes.len() as f64;
        let entropy: f64 = counts.iter().filter(|&&c| c > 0.0).map(|c| -(c / n) * (c / n).log2()).sum();
        let symbols: Vec<u8> = codes.iter().map(|&c| c as u8).collect();
        let coded =
            [encode(&symbols).unwrap(), compress(blob(&codes, CodeFormat::Int4), codes.len()).bytes.to_vec()];
        for bytes in coded {
            let per_code = 8.0 * bytes.len() as f64 / n;
            assert!(per_code < entropy + 0.02, "{per_code} bits, entropy {entropy}");
        }
    }

    #[test]
    fn what_cannot_be_made_smaller_is_left_alone() {
        let mut rng = SplitMix64::new(2);
        let bytes: Vec<u8> = (0..1000).map(|_| rng.next_u64() as u8).collect();
        let plain = Stored {
            path: "w/data".into(),
            encoding: Encoding::Plain(DType::U8),
            shape: vec![1000],
            bytes: bytes.into(),
        };
        assert_eq!(compress(plain.clone(), 1000), plain);
    }

    /// Exponents are few, mantissas of any kind or, of scales on a grid, few as well.
    #[test]
    fn bytes_of_numbers_have_tables_of_their_own() {
        let mut rng = SplitMix64::new(3);
        for (low, at_most) in [(255, 0.71), (3, 0.33)] {
            let bytes: Vec<u8> = (0..10_000)
                .flat_map(|_| [rng.next_u64() as u8 & low, 0x20 + (rng.next_u64() % 9) as u8])
                .collect();
            let plain = Stored {
                path: "w/scales".into(),
                encoding: Encoding::Plain(DType::F16),
                shape: vec![10_000, 1],
                bytes: bytes.clone().into(),
            };
            let coded = compress(plain, 10_000);
            assert_eq!(coded.encoding.name(), "f16+planes");
            assert!((coded.bytes.len() as f64) < at_most * bytes.len() as f64, "{} bytes", coded.bytes.len());
            let back = expand(coded.encoding, &coded.bytes, &coded.shape);
            assert_eq!(back, Some((Encoding::Plain(DType::F16), bytes)));
            for n in (0..coded.bytes.len()).step_by(97) {
                assert_eq!(expand(coded.encoding, &coded.bytes[..n], &coded.shape), None);
            }
        }
    }

    proptest! {
        #[test]
        fn coding_and_decoding_is_the_identity(n in 1usize..3000, format in prop::sample::select(CodeFormat::ALL.to_vec()), seed: u64) {
            let (low, high) = format.range().into_inner();
            let codes: Vec<i8> = bell(n, seed).iter().map(|&c| c.clamp(low, high)).collect();
            let plain = blob(&codes, format);
            let coded = compress(plain.clone(), n);
            if coded.encoding.is_coded() {
                let (encoding, bytes) = expand(coded.encoding, &coded.bytes, &[n]).unwrap();
                prop_assert_eq!(encoding, Encoding::Packed(CodeFormat::Int8));
                prop_assert_eq!(bytes, bytemuck::cast_slice::<i8, u8>(&codes));
            }
        }

        #[test]
        fn damaged_blobs_are_refused_or_decoded_but_never_panic(n in 1usize..500, at: usize, to: u8, cut in 0usize..600, seed: u64) {
            let coded = compress(blob(&bell(n + 500, seed), CodeFormat::Int4), n + 500);
            let mut bytes = coded.bytes.to_vec();
            let at = at % bytes.len();
            bytes[at] = to;
            bytes.truncate(bytes.len().saturating_sub(cut));
            for encoding in Encoding::all().filter(|e| e.is_coded()) {
                let _ = expand(encoding, &bytes, &[n + 500]);
            }
        }
    }
}
