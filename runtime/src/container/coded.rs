//! Texts that take fewer bytes: bits of characters, predicted from the characters before, and an arithmetic coder.
//!
//! A bit has a context of each order from 1 to [`ORDERS`]: so many bytes before its own, none before a NUL, and the bits of its own byte before it. A context knows how often
//! it occurred, `n` up to [`LIMIT`], and the probability `p` of a one, which follows each bit by `1 / (n + 1.5)` of the difference. Contexts are blended from the shortest to
//! the longest, each by the more the more it has seen, as in prediction by partial matching (Cleary and Witten 1984):
//!
//! ```text
//! p <- p + (p[order] - p) * n[order] / (n[order] + 4)
//! ```
//!
//! The coder narrows an interval of 32 bits (Witten, Neal and Cleary 1987, without carries). 10,000 English words, 82 kB, take 34 kB and some
//! ten milliseconds.
//!
//! ```text
//! u32 length of the text, little-endian | bytes of the interval
//! ```

use super::MAX_HEADER_BYTES;

/// The most bytes of text per byte of code, so that a small hostile file cannot ask for much time and memory.
const MAX_EXPANSION: usize = 16;

/// The longest context, in bytes.
const ORDERS: usize = 2;

/// Contexts of each order share so many places.
const PLACE_BITS: u32 = 16;

const LIMIT: usize = 30;

/// `2^16 / (n + 1.5)`: how fast a probability follows.
const RATES: [u32; LIMIT + 1] = {
    let mut rates = [0; LIMIT + 1];
    let mut n = 0;
    while n <= LIMIT {
        rates[n] = (2 << 16) / (2 * n as u32 + 3);
        n += 1;
    }
    rates
};

/// `2^16 n / (n + 4)`: how much a context counts.
const WEIGHTS: [i32; LIMIT + 1] = {
    let mut weights = [0; LIMIT + 1];
    let mut n = 0;
    while n <= LIMIT {
        weights[n] = ((n << 16) / (n + 4)) as i32;
        n += 1;
    }
    weights
};

/// What a context has seen.
#[derive(Clone, Copy)]
struct Seen {
    /// The probability of a one, of 2^16.
    one: u16,
    times: u16,
}

/// The predictor of the next bit.
struct Model {
    places: Vec<Seen>, // [order, place]
    /// The bytes before, the last one lowest.
    before: u64,
    /// A one, and the bits of the current byte so far.
    bits: u64,
    current: [usize; ORDERS],
}

impl Model {
    fn new() -> Model {
        let places = vec![Seen { one: 1 << 15, times: 0 }; ORDERS << PLACE_BITS];
        Model { places, before: 0, bits: 1, current: [0; ORDERS] }
    }

    /// The probability that the next bit is a one: of 2^16, and neither 0 nor 1.
    fn predict(&mut self) -> u32 {
        let mut p = 1 << 15;
        for (order, current) in self.current.iter_mut().enumerate() {
            let bytes = self.before & ((256 << (8 * order)) - 1);
            // Multiplicative hashing (Knuth 1973) by 2^64 over the golden ratio.
            let hash = (bytes << 8 | self.bits).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - PLACE_BITS);
            *current = order << PLACE_BITS | hash as usize;
            let seen = self.places[*current];
            let difference = i64::from(seen.one) - i64::from(p);
            p += ((difference * i64::from(WEIGHTS[usize::from(seen.times)])) >> 16) as i32;
        }
        p.clamp(1 << 4, (1 << 16) - (1 << 4)) as u32
    }

    /// Tells the bit that was predicted.
    fn update(&mut self, bit: bool) {
        for place in self.current {
            let seen = &mut self.places[place];
            let target = if bit { i64::from(u16::MAX) } else { 0 };
            let step = (target - i64::from(seen.one)) * i64::from(RATES[usize::from(seen.times)]);
            // Between the two, as no rate is above 2^16.
            seen.one = (i64::from(seen.one) + (step >> 16)) as u16;
            seen.times = (seen.times + 1).min(LIMIT as u16);
        }
        self.bits = self.bits << 1 | u64::from(bit);
        if self.bits > 255 {
            let byte = self.bits & 255;
            self.before = if byte == 0 { 0 } else { self.before << 8 | byte };
            self.bits = 1;
        }
    }
}

/// The interval that is left, both ends included.
struct Interval {
    low: u32,
    high: u32,
}

impl Interval {
    const ALL: Interval = Interval { low: 0, high: u32::MAX };

    /// The last number of the part for a one.
    fn split(&self, p: u32) -> u32 {
        self.low + ((u64::from(self.high - self.low) * u64::from(p)) >> 16) as u32
    }

    fn narrow(&mut self, bit: bool, middle: u32) {
        if bit {
            self.high = middle;
        } else {
            self.low = middle + 1;
        }
    }

    /// Removes the first byte if both ends have the same.
    fn shift(&mut self) -> Option<u8> {
        let byte = (self.low >> 24) as u8;
        ((self.low ^ self.high) >> 24 == 0).then(|| {
            self.low <<= 8;
            self.high = self.high << 8 | 255;
            byte
        })
    }
}

/// The code of a text; `None` if it is not smaller, or so small that [`decode`] would refuse it.
pub(super) fn encode(text: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(text.len()).ok().filter(|&n| n <= MAX_HEADER_BYTES)?;
    let mut bytes = length.to_le_bytes().to_vec();
    let (mut model, mut interval) = (Model::new(), Interval::ALL);
    for bit in text.iter().flat_map(|byte| (0..8).rev().map(move |i| byte >> i & 1 == 1)) {
        let middle = interval.split(model.predict());
        interval.narrow(bit, middle);
        model.update(bit);
        while let Some(byte) = interval.shift() {
            bytes.push(byte);
        }
    }
    bytes.extend(interval.low.to_be_bytes());
    (bytes.len() < text.len() && text.len() / MAX_EXPANSION < bytes.len()).then_some(bytes)
}

/// The text of a code; `None` if it is not what [`encode`] produces.
pub(super) fn decode(bytes: &[u8]) -> Option<Vec<u8>> {
    let (length, rest) = bytes.split_first_chunk()?;
    let length = u32::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES || length as usize / MAX_EXPANSION >= bytes.len() {
        return None;
    }
    let length = length as usize;
    let (value, rest) = rest.split_first_chunk()?;
    let (mut value, mut rest) = (u32::from_be_bytes(*value), rest.iter());
    let (mut model, mut interval) = (Model::new(), Interval::ALL);
    let mut text = Vec::with_capacity(length);
    while text.len() < length {
        let mut byte = 0;
        for _ in 0..8 {
            let middle = interval.split(model.predict());
            let bit = value <= middle;
            byte = byte << 1 | u8::from(bit);
            interval.narrow(bit, middle);
            model.update(bit);
            while interval.shift().is_some() {
                value = value << 8 | u32::from(*rest.next()?);
            }
        }
        text.push(byte);
    }
    rest.next().is_none().then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_coded_is_decoded(words in prop::collection::vec("[a-e]{0,6}\0?é?", 0..200)) {
            let text = words.concat();
            if let Some(bytes) = encode(text.as_bytes()) {
                prop_assert_eq!(decode(&bytes), Some(text.into_bytes()));
            }
        }

        #[test]
        fn damaged_code_is_refused_or_decoded(words in prop::collection::vec("[a-c]{1,6}", 50..90), at: usize, to: u8, cut in 0usize..20) {
            let mut bytes = encode(words.join("\0").as_bytes()).unwrap();
            let at = at % bytes.len();
            bytes[at] = to;
            bytes.truncate(bytes.len() - cut);
            if let Some(text) = decode(&bytes) {
                prop_assert!(text.len() <= MAX_EXPANSION * (bytes.len() + 1));
            }
        }

        #[test]
        fn any_bytes_are_refused_or_decoded(bytes in prop::collection::vec(any::<u8>(), 0..100), length in 0u32..2000) {
            let _ = decode(&bytes);
            let _ = decode(&[&length.to_le_bytes()[..], &bytes].concat());
        }
    }

    #[test]
    fn code_that_is_no_text_is_refused() {
        let text = "the cat sat on the mat, and the dog sat on the cat, and the cat sat on the dog";
        let good = encode(text.as_bytes()).unwrap();
        assert_eq!(decode(&good).as_deref(), Some(text.as_bytes()));
        for n in 0..good.len() {
            assert_eq!(decode(&good[..n]), None);
        }
        assert_eq!(decode(&[&good[..], &[0]].concat()), None);
        assert_eq!(encode(b""), None);
        assert_eq!(encode(&[b'a'; 10_000]), None, "would look hostile");
        assert_eq!(decode(&[255; 400]), None, "a text that is too long");
    }
}
