//! Bit streams, lowest bit first: packed codes, bitmaps and Rice-coded gaps.

use crate::ir::map::CodeFormat;

/// Appends numbers of a few bits.
struct Writer {
    bytes: Vec<u8>,
    pending: u64,
    used: u32,
}

impl Writer {
    fn new(bytes: Vec<u8>) -> Writer {
        Writer { bytes, pending: 0, used: 0 }
    }

    /// The low `bits` (at most 32) of `value`; those above must be zero.
    fn push(&mut self, value: u64, bits: u32) {
        self.pending |= value << self.used;
        self.used += bits;
        while self.used >= 8 {
            self.bytes.push(self.pending as u8);
            self.pending >>= 8;
            self.used -= 8;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        if self.used > 0 {
            self.bytes.push(self.pending as u8);
        }
        self.bytes
    }
}

/// Reads what [`Writer`] wrote.
struct Reader<'a> {
    bytes: &'a [u8],
    pending: u64,
    available: u32,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, pending: 0, available: 0 }
    }

    /// Ensures that at least `bits` (at most 56) are pending, if the stream has them.
    fn fill(&mut self, bits: u32) -> bool {
        while self.available < bits {
            let Some((&first, rest)) = self.bytes.split_first() else { return false };
            self.pending |= u64::from(first) << self.available;
            self.available += 8;
            self.bytes = rest;
        }
        true
    }

    /// The next `bits` (at most 32); `None` if the stream ends before that.
    fn take(&mut self, bits: u32) -> Option<u64> {
        if !self.fill(bits) {
            return None;
        }
        let value = self.pending & ((1 << bits) - 1);
        self.pending >>= bits;
        self.available -= bits;
        Some(value)
    }

    /// The number of 0 bits before the next 1 bit, which is consumed too; the error is the number of 0 bits at the stream's end.
    fn unary(&mut self) -> Result<u64, u64> {
        let mut zeros = 0;
        loop {
            if self.pending != 0 {
                let n = self.pending.trailing_zeros();
                self.pending >>= n + 1;
                self.available -= n + 1;
                return Ok(zeros + u64::from(n));
            }
            zeros += u64::from(self.available);
            self.available = 0;
            if !self.fill(8) {
                return Err(zeros);
            }
        }
    }

    /// Whether only padding of the last byte is left.
    fn is_padding(&self) -> bool {
        self.bytes.is_empty() && self.available < 8 && self.pending == 0
    }
}

/// Codes in two's complement.
pub(super) fn pack(codes: impl Iterator<Item = i8>, format: CodeFormat) -> Vec<u8> {
    let bits = u32::from(format.bits());
    let mask = (1u64 << bits) - 1;
    let mut writer = Writer::new(vec![]);
    codes.for_each(|code| writer.push(code as u64 & mask, bits));
    writer.finish()
}

/// `count` codes; `None` if the bytes are too few, too many or padded with anything but zeros.
pub(super) fn unpack(bytes: &[u8], count: usize, format: CodeFormat) -> Option<Vec<i8>> {
    if bytes.len() != count.checked_mul(format.bits().into())?.div_ceil(8) {
        return None;
    }
    if format == CodeFormat::Int8 {
        return Some(bytemuck::cast_slice(bytes).to_vec());
    }
    let mut reader = Reader::new(bytes);
    let bits = u32::from(format.bits());
    let shift = 64 - bits;
    let mut codes = Vec::with_capacity(count);
    for _ in 0..count {
        // To the top and back: an arithmetic shift that repeats the sign.
        codes.push(((reader.take(bits)? << shift) as i64 >> shift) as i8);
    }
    reader.is_padding().then_some(codes)
}

/// One bit per flag.
pub(super) fn write_bitmap(mask: &[bool]) -> Vec<u8> {
    let byte = |flags: &[bool]| flags.iter().enumerate().fold(0, |b, (i, &flag)| b | u8::from(flag) << i);
    mask.chunks(8).map(byte).collect()
}

/// `count` flags; `None` if the bytes do not fit them.
pub(super) fn read_bitmap(bytes: &[u8], count: usize) -> Option<Vec<bool>> {
    if bytes.len() != count.div_ceil(8) {
        return None;
    }
    let mut mask: Vec<bool> = bytes.iter().flat_map(|b| (0..8).map(move |i| b >> i & 1 == 1)).collect();
    let padding = mask.split_off(count);
    (!padding.contains(&true)).then_some(mask)
}

/// The largest Rice parameter: gaps of masks that fit in memory need no more.
const MAX_RICE: u8 = 31;

fn gaps(mask: &[bool]) -> impl Iterator<Item = u64> {
    let mut dropped = 0;
    mask.iter().filter_map(move |&kept| {
        dropped += 1;
        kept.then(|| std::mem::take(&mut dropped) - 1)
    })
}

/// The Rice parameter that makes a mask smallest, and the number of bytes that results.
pub(crate) fn best_rice(mask: &[bool]) -> (u8, usize) {
    let mut quotients = [0u64; MAX_RICE as usize + 1];
    let mut count = 0u64;
    for gap in gaps(mask) {
        count += 1;
        quotients.iter_mut().enumerate().for_each(|(k, sum)| *sum += gap >> k);
    }
    let bits = |k: u8| quotients[usize::from(k)] + count * (1 + u64::from(k));
    let best = (0..=MAX_RICE).min_by_key(|&k| bits(k)).unwrap_or(0);
    (best, 1 + bits(best).div_ceil(8) as usize)
}

/// The `delta` encoding of a mask.
pub(crate) fn write_rice(mask: &[bool], k: u8) -> Vec<u8> {
    let mut writer = Writer::new(vec![k]);
    for gap in gaps(mask) {
        let mut quotient = gap >> k;
        while quotient >= 32 {
            writer.push(0, 32);
            quotient -= 32;
        }
        writer.push(1 << quotient, quotient as u32 + 1);
        writer.push(gap & ((1 << k) - 1), k.into());
    }
    writer.finish()
}

/// The mask of `count` flags that [`write_rice`] wrote; `None` if the bytes are no such mask.
pub(crate) fn read_rice(bytes: &[u8], count: usize) -> Option<Vec<bool>> {
    let (&k, bytes) = bytes.split_first()?;
    if k > MAX_RICE {
        return None;
    }
    let mut mask = vec![false; count];
    let mut reader = Reader::new(bytes);
    let mut next = 0usize;
    loop {
        let quotient = match reader.unary() {
            Ok(quotient) => quotient,
            Err(zeros) => return (zeros < 8).then_some(mask),
        };
        let gap = quotient.checked_shl(k.into()).filter(|g| g >> k == quotient)? | reader.take(k.into())?;
        let at = next.checked_add(usize::try_from(gap).ok()?)?;
        *mask.get_mut(at)? = true;
        next = at + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::arbitrary::SplitMix64;

    #[test]
    fn codes_take_their_width_and_no_more() {
        for (format, count) in CodeFormat::ALL.into_iter().flat_map(|f| [0, 4, 5, 8, 9].map(|n| (f, n))) {
            let half = 1i16 << (format.bits() - 1);
            let codes: Vec<i8> = (0..count).map(|i| ((i * 7 % (2 * half)) - half) as i8).collect();
            let packed = pack(codes.iter().copied(), format);
            assert_eq!(packed.len(), (codes.len() * usize::from(format.bits())).div_ceil(8));
            assert_eq!(unpack(&packed, codes.len(), format), Some(codes.clone()));
            assert_eq!(unpack(&packed, codes.len() + 8, format), None);
        }
        assert_eq!(pack([-1, 0, 1, -2].into_iter(), CodeFormat::Int2), [0b10_01_00_11]);
        assert_eq!(pack([-4, 3].into_iter(), CodeFormat::Int3), [0b011_100]);
        assert_eq!(unpack(&[0b1_000_000], 2, CodeFormat::Int3), None, "padding is zero");
    }

    #[test]
    fn masks_round_trip_at_every_density() {
        let mut rng = SplitMix64::new(1);
        for (count, one_in) in
            [(0, 1), (1, 1), (1, 9), (7, 2), (8, 2), (1000, 1), (1000, 3), (9999, 50), (9999, 20_000)]
        {
            let mask: Vec<bool> = (0..count).map(|_| rng.below(one_in) == 0).collect();
            assert_eq!(read_bitmap(&write_bitmap(&mask), count), Some(mask.clone()));
            let (k, size) = best_rice(&mask);
            for k in [k, 0, 3, MAX_RICE] {
                assert_eq!(
                    read_rice(&write_rice(&mask, k), count),
                    Some(mask.clone()),
                    "{count} {one_in} {k}"
                );
            }
            assert_eq!(write_rice(&mask, k).len(), size);
        }
    }

    /// The claim of the module's text: near the entropy `-d log2 d - (1 - d) log2 (1 - d)` bits per flag.
    #[test]
    fn a_random_mask_comes_close_to_its_entropy() {
        const MAX_EXCESS: f64 = 0.04;
        let mut rng = SplitMix64::new(2);
        for density in [0.3, 0.2, 0.1, 0.05, 0.01] {
            let mask: Vec<bool> = (0..200_000).map(|_| f64::from(rng.centered()) + 0.5 < density).collect();
            let entropy = -density * density.log2() - (1.0 - density) * (1.0 - density).log2();
            let bits = 8.0 * best_rice(&mask).1 as f64 / mask.len() as f64;
            assert!(bits < entropy * (1.0 + MAX_EXCESS), "density {density}: {bits} bits, entropy {entropy}");
        }
    }

    #[test]
    fn hostile_streams_are_refused() {
        assert_eq!(read_rice(&[], 4), None);
        assert_eq!(read_rice(&[32, 1], 4), None);
        assert_eq!(read_rice(&[0], 4), Some(vec![false; 4]));
        assert_eq!(read_rice(&[0, 0], 4), None, "a whole byte of padding");
        assert_eq!(read_rice(&[0, 0b1_0000], 4), None, "the fifth of four");
        assert_eq!(read_rice(&[0, 0b1_1111], 4), None, "five of four");
        assert_eq!(read_rice(&[31, 1, 0], 4), None, "the stream ends inside of a gap");
        assert_eq!(read_bitmap(&[0b10000], 4), None);
        assert_eq!(read_bitmap(&[0, 0], 4), None);
    }
}
