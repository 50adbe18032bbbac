//! Entropy coding of codes in context: each code gets a distribution that its column and the row before it choose.
//!
//! Rows and columns of a quantized matrix differ in scale, most of all where steps follow what the loss needs. One table of frequencies
//! ([`entropy`](super::entropy)) cannot use that. Here the magnitude of code `q[i, j]` is predicted first:
//!
//! ```text
//! x[i, j] = m[j] * (1 + sum over k < j of |q[i, k]|) / (1 + sum over k < j of m[k])      m[j]: the mean of |q| in column j, sent
//! context = round(3 log2 x[i, j]) + 18, between 0 and 39                                 a third of an octave each, from 2^-6 to 2^7
//! ```
//!
//! so that columns need a number each, and rows none. Where there are no columns (under a mask the kept codes are one sequence), the
//! prediction is a mean of the codes before, `x <- x + (|q| - x) / 16`. The encoder takes the smaller of the two.
//!
//! Each context counts its codes. Its distribution is that of its counts and of a prior, 64 observations of a two-sided geometric
//! distribution whose mean magnitude is the context's `x`:
//!
//! ```text
//! P(q) ~ t^|q|     t = (sqrt(1 + x^2) - 1) / x     so that the mean of |q|, 2 t / (1 - t^2), is x
//! ```
//!
//! A symbol is the sign with the magnitude up to 15, and from 16 on with its octave's eighth, in which all codes are equally probable. Counts
//! become frequencies, of sum 2^16, not after each symbol but after an eighth more of them (the quasi-static model of Schindler 1997), and
//! range asymmetric numeral systems (Duda 2013) code the symbols by them. The decoder needs no division: 60 to 80 million codes a second on one
//! core of a server. An arithmetic coder (Martin 1979; Witten, Neal and Cleary 1987) of binary decisions with adaptive probabilities, as in LZMA
//! and CABAC, with the same contexts, was slower (68 instead of 80 million at 1.3 bits a code, 38 at 3 bits), and its result larger by up to a
//! hundredth.
//!
//! All is integer arithmetic, so that every machine decodes the same.
//!
//! ```text
//! u8 1 if columns are sent, otherwise 0 | u8 largest magnitude | u64 state | renormalisation, u32 each | padding
//! ```
//!
//! All little-endian. The symbols are, with columns, the difference of each column's level to that of the column before (the first: to 64), as
//! a code in context 23 with a table of its own, and then the codes in row-major order. Columns are those of the tensor's last dimension; of
//! less than 8 rows they are never sent. Level `l` stands
//! for a mean of `2^((l - 65) / 8)`; the codes of a column of level 0 are all zero and are not coded. Padding is zeros: a blob may be so small
//! that it could not stand for its elements ([`MAX_ELEMENTS_PER_BYTE`](super::MAX_ELEMENTS_PER_BYTE)).

/// Frequencies sum up to `1 << SCALE`.
const SCALE: u32 = 16;
const TOTAL: u32 = 1 << SCALE;
/// The state stays in `[LOW, LOW << 32)`.
const LOW: u64 = 1 << 31;

const CONTEXTS: usize = 40;
/// The context of the columns' levels.
const LEVEL_CONTEXT: usize = 23;
/// The context of `x = 1`.
const UNITY: i32 = 18;
/// Zero, and two signs of 15 + 3 * 8 + 1 magnitudes.
const SYMBOLS: usize = 81;
/// Bits of a slot that are looked up; the symbols after that are compared.
const FAST: u32 = 9;

/// The weight of a prior, and that of an observation.
const PRIOR: u64 = 64;
const OBSERVATION: u32 = 32;
/// Observations at which all are halved.
const MEMORY: u32 = 60_000;

/// The logarithm's unit: contexts are 64 of it, octaves three times as much.
const OCTAVE: i32 = 192;
/// The first level, the level of a mean of 1, and the levels of an octave.
const FIRST_LEVEL: i32 = 64;
const UNIT_LEVEL: i32 = 65;
const LEVELS: i32 = 8;
/// Rows that make columns worth sending.
const MIN_ROWS: usize = 8;
/// The mean without columns has these fractional bits, and follows its codes by `2^-RATE`.
const FRACTION: u32 = 8;
const RATE: u32 = 4;

/// `2^16 t` of each context's prior.
const RATIOS: [u16; CONTEXTS] = [
    512, 645, 813, 1024, 1290, 1624, 2046, 2576, 3243, 4080, 5129, 6439, 8068, 10077, 12529, 15471, 18922,
    22847, 27146, 31654, 36171, 40503, 44500, 48068, 51169, 53810, 56022, 57854, 59356, 60578, 61568, 62366,
    63006, 63520, 63931, 64259, 64520, 64728, 64894, 65026,
];

/// `192 log2(1 + i / 64)`.
const LOGARITHMS: [u8; 64] = {
    let mut table = [0; 64];
    let mut i = 0;
    while i < 64 {
        // One bit of the logarithm for each time that it is doubled, which squares its argument, of 30 fractional bits.
        let (mut x, mut log, mut bit) = ((64 + i as u64) << 24, 0u64, 0);
        while bit < 16 {
            x = (x * x) >> 30;
            let is_two = x >> 31;
            x >>= is_two;
            log = log << 1 | is_two;
            bit += 1;
        }
        table[i] = ((log * OCTAVE as u64 + (1 << 15)) >> 16) as u8;
        i += 1;
    }
    table
};

/// `2^16 * 2^(i / 8)`.
const POWERS: [u64; LEVELS as usize] = [65536, 71468, 77936, 84990, 92682, 101070, 110218, 120194];

/// `192 log2 v` of a positive number.
#[inline(always)]
fn logarithm(v: u64) -> i32 {
    let zeros = v.leading_zeros();
    OCTAVE * (63 - zeros as i32) + i32::from(LOGARITHMS[((v << zeros) >> 57 & 63) as usize])
}

/// The context of a magnitude's logarithm.
#[inline(always)]
fn context(log: i32) -> usize {
    ((log + UNITY * 64 + 32) >> 6).clamp(0, CONTEXTS as i32 - 1) as usize
}

/// The mean of a column, `2^16` times; the column's level is in `1..=127`.
fn mean(level: i32) -> u64 {
    let above = level - 1;
    (POWERS[(above % LEVELS) as usize] << (above / LEVELS)) >> ((UNIT_LEVEL - 1) / LEVELS)
}

/// Magnitudes as symbols: the symbol, the bits that follow it, and their value.
fn split(magnitude: u32) -> (usize, u32, u32) {
    match magnitude {
        0..16 => (magnitude as usize, 0, 0),
        128.. => (40, 0, 0),
        _ => {
            let octave = magnitude.ilog2();
            let bits = octave - 3;
            let eighth = (magnitude >> bits) - 8;
            (16 + 8 * (octave - 4) as usize + eighth as usize, bits, magnitude & ((1 << bits) - 1))
        }
    }
}

/// The smallest magnitude of each symbol, and the bits that follow it.
const MAGNITUDES: [(u8, u8); SYMBOLS / 2 + 1] = {
    let mut table = [(0, 0); SYMBOLS / 2 + 1];
    let mut i = 0;
    while i < table.len() {
        table[i] = match i {
            0..16 => (i as u8, 0),
            40 => (128, 0),
            _ => ((8 + i as u8 % 8) << ((i - 16) / 8 + 1), (i as u8 - 16) / 8 + 1),
        };
        i += 1;
    }
    table
};

/// The symbols that occur with magnitudes up to `largest`.
fn symbols(largest: u8) -> usize {
    2 * split(largest.into()).0 + 1
}

/// The distribution of one context.
#[derive(Clone)]
struct Table {
    /// Where each symbol's slots start; after the last one, `TOTAL`.
    starts: [u32; SYMBOLS + 1],
    /// The symbol in which every `1 << (SCALE - FAST)`th slot is.
    fast: [u8; 1 << FAST],
    counts: [u32; SYMBOLS],
    symbols: usize,
    seen: u32,
    /// Symbols until the frequencies are computed again.
    left: u32,
}

impl Table {
    fn new(context: usize, symbols: usize) -> Table {
        let mut weights = [0u64; SYMBOLS];
        let mut weight = 1 << 32;
        for magnitude in 0..=128 {
            let (symbol, ..) = split(magnitude);
            match symbol {
                0 => weights[0] += weight,
                _ => [2 * symbol - 1, 2 * symbol].into_iter().for_each(|s| weights[s] += weight),
            }
            weight = (weight * u64::from(RATIOS[context])) >> 16;
        }
        let total: u64 = weights[..symbols].iter().sum();
        let mut table = Table {
            starts: [TOTAL; SYMBOLS + 1],
            fast: [0; 1 << FAST],
            // One more, so that nothing is impossible.
            counts: weights.map(|w| (w * PRIOR * u64::from(OBSERVATION) / total) as u32 + 1),
            symbols,
            seen: 0,
            left: 0,
        };
        table.rebuild();
        table
    }

    /// Frequencies from counts.
    #[inline(never)]
    fn rebuild(&mut self) {
        if self.seen > MEMORY {
            self.seen /= 2;
            self.counts.iter_mut().for_each(|c| *c -= *c / 2);
        }
        let counts = &self.counts[..self.symbols];
        let sum: u64 = counts.iter().map(|&c| u64::from(c)).sum();
        // Each symbol has at least one slot; those that rounding leaves over go to the symbol where they matter least.
        let scale = (u64::from(TOTAL) - counts.len() as u64) << 32;
        let scale = scale / sum;
        let frequency = |count: u32| 1 + ((u64::from(count) * scale) >> 32) as u32;
        let over = TOTAL - counts.iter().map(|&c| frequency(c)).sum::<u32>();
        let largest = (0..counts.len()).max_by_key(|&s| counts[s]).unwrap_or(0);
        let mut start = 0;
        for (s, &count) in counts.iter().enumerate() {
            let end = start + frequency(count) + if s == largest { over } else { 0 };
            self.starts[s] = start;
            let first = |slot: u32| slot.div_ceil(1 << (SCALE - FAST)) as usize;
            self.fast[first(start)..first(end)].fill(s as u8);
            start = end;
        }
        self.left = (self.seen / 8).clamp(4, 4096);
    }

    #[inline(always)]
    fn count(&mut self, symbol: usize) {
        self.counts[symbol] += OBSERVATION;
        self.seen += 1;
        self.left -= 1;
        if self.left == 0 {
            self.rebuild();
        }
    }

    /// The symbol of a slot.
    #[inline(always)]
    fn find(&self, slot: u32) -> usize {
        let mut symbol = usize::from(self.fast[(slot >> (SCALE - FAST)) as usize]);
        while slot >= self.starts[symbol + 1] {
            symbol += 1;
        }
        symbol
    }
}

/// One that writes or reads codes, of which [`walk`] says the context.
trait Coder {
    /// The next code; `None` if there is none.
    fn code(&mut self, table: &mut Table) -> Option<i8>;
}

/// The blob's codes, or `None` where the coder has none. It is the model: all that coding and decoding have in common.
fn walk(coder: &mut impl Coder, count: usize, columns: Option<usize>, largest: u8) -> Option<Vec<i8>> {
    let mut tables: Vec<Table> = (0..CONTEXTS).map(|c| Table::new(c, symbols(largest))).collect();
    let mut codes = vec![0; count];
    let Some(columns) = columns else {
        let unit = FRACTION + RATE;
        let mut sum = 1u64 << unit;
        for code in &mut codes {
            *code = coder.code(&mut tables[context(logarithm(sum) - OCTAVE * unit as i32)])?;
            // Never zero, as what is subtracted is zero before.
            sum = sum - (sum >> RATE) + (u64::from(code.unsigned_abs()) << FRACTION) + 1;
        }
        return Some(codes);
    };
    // Columns that are not zero throughout, with the part of the prediction's logarithm that all rows have in common.
    let mut live = vec![];
    let mut table = Table::new(LEVEL_CONTEXT, SYMBOLS);
    let (mut level, mut sum) = (FIRST_LEVEL, 1u64 << 16);
    for j in 0..columns {
        level += i32::from(coder.code(&mut table)?);
        match level {
            0 => {}
            1..128 => {
                let mean = mean(level);
                live.push((j, logarithm(mean) - logarithm(sum)));
                sum += mean;
            }
            _ => return None,
        }
    }
    for row in codes.chunks_mut(columns) {
        let mut sum = 1;
        for &(j, log) in &live {
            let code = coder.code(&mut tables[context(log + logarithm(sum))])?;
            sum += u64::from(code.unsigned_abs());
            row[j] = code;
        }
    }
    Some(codes)
}

/// Slots of a symbol, in the order of symbols; the state takes them backwards, so that the decoder runs forwards.
struct Encoder<I> {
    codes: I,
    intervals: Vec<(u32, u32)>,
}

impl<I: Iterator<Item = i8>> Coder for Encoder<I> {
    fn code(&mut self, table: &mut Table) -> Option<i8> {
        let code = self.codes.next()?;
        let (symbol, bits, low) = split(code.unsigned_abs().into());
        let symbol = (2 * symbol).saturating_sub(usize::from(code > 0));
        let start = table.starts[symbol];
        self.intervals.push((start, table.starts[symbol + 1] - start));
        if bits > 0 {
            self.intervals.push((low << (SCALE - bits), 1 << (SCALE - bits)));
        }
        table.count(symbol);
        Some(code)
    }
}

struct Decoder<'a> {
    state: u64,
    rest: &'a [u8],
}

impl Decoder<'_> {
    #[inline(always)]
    fn slot(&self) -> u32 {
        self.state as u32 & (TOTAL - 1)
    }

    /// Removes the symbol with these slots, of which one is the state's.
    #[inline(always)]
    fn advance(&mut self, start: u32, frequency: u32) -> Option<()> {
        // No overflow: `2^16 * (2^48 - 1)`, and less than 2^16 more.
        self.state = u64::from(frequency) * (self.state >> SCALE) + u64::from(self.slot() - start);
        if self.state < LOW {
            let (word, rest) = self.rest.split_first_chunk::<4>()?;
            self.state = self.state << 32 | u64::from(u32::from_le_bytes(*word));
            self.rest = rest;
        }
        Some(())
    }
}

impl Coder for Decoder<'_> {
    #[inline(always)]
    fn code(&mut self, table: &mut Table) -> Option<i8> {
        let symbol = table.find(self.slot());
        let (start, end) = (table.starts[symbol], table.starts[symbol + 1]);
        self.advance(start, end - start)?;
        table.count(symbol);
        let (least, bits) = MAGNITUDES[symbol.div_ceil(2)];
        let mut magnitude = i16::from(least);
        if bits > 0 {
            let shift = SCALE - u32::from(bits);
            let low = self.slot() >> shift;
            self.advance(low << shift, 1 << shift)?;
            magnitude += low as i16;
        }
        // There is no code of 128.
        i8::try_from(if symbol % 2 == 1 { magnitude } else { -magnitude }).ok()
    }
}

/// The columns of a tensor that may have levels.
fn columns(count: usize, shape: &[usize]) -> Option<usize> {
    shape.last().copied().filter(|&columns| columns > 0 && count / columns >= MIN_ROWS)
}

/// The blob of a tensor's codes; `None` if there are none.
pub(super) fn encode(codes: &[i8], shape: &[usize]) -> Option<Vec<u8>> {
    [columns(codes.len(), shape), None]
        .into_iter()
        .filter_map(|columns| encode_with(codes, columns))
        .min_by_key(Vec::len)
}

fn encode_with(codes: &[i8], columns: Option<usize>) -> Option<Vec<u8>> {
    let largest = codes.iter().map(|c| c.unsigned_abs()).max()?;
    let intervals = Vec::with_capacity(codes.len());
    let mut encoder = Encoder { codes: sequence(codes, columns).into_iter(), intervals };
    walk(&mut encoder, codes.len(), columns, largest)?;
    let (mut state, mut words) = (LOW, vec![]);
    for &(start, frequency) in encoder.intervals.iter().rev() {
        let frequency = u64::from(frequency);
        if state >= ((LOW >> SCALE) << 32) * frequency {
            words.push(state as u32);
            state >>= 32;
        }
        state = ((state / frequency) << SCALE) + state % frequency + u64::from(start);
    }
    let mut bytes = vec![u8::from(columns.is_some()), largest];
    bytes.extend(state.to_le_bytes());
    bytes.extend(words.iter().rev().flat_map(|word| word.to_le_bytes()));
    Some(bytes)
}

/// All that is coded: differences of levels, and codes of columns that are not zero.
fn sequence(codes: &[i8], columns: Option<usize>) -> Vec<i8> {
    let Some(columns) = columns else { return codes.to_vec() };
    let levels = levels(codes, columns);
    let before = std::iter::once(&FIRST_LEVEL).chain(&levels);
    let mut all: Vec<i8> = levels.iter().zip(before).map(|(level, before)| (level - before) as i8).collect();
    for row in codes.chunks(columns) {
        all.extend(row.iter().zip(&levels).filter(|&(_, &level)| level > 0).map(|(&code, _)| code));
    }
    all
}

/// The level of each column.
fn levels(codes: &[i8], columns: usize) -> Vec<i32> {
    let rows = codes.len() / columns;
    let mut sums = vec![0u64; columns];
    for row in codes.chunks(columns) {
        sums.iter_mut().zip(row).for_each(|(sum, code)| *sum += u64::from(code.unsigned_abs()));
    }
    let step = OCTAVE / LEVELS;
    let level = |sum: u64| {
        let log = logarithm(sum) - logarithm(rows as u64);
        (UNIT_LEVEL + (log + step / 2).div_euclid(step)).clamp(1, 127)
    };
    sums.into_iter().map(|sum| if sum == 0 { 0 } else { level(sum) }).collect()
}

/// The codes of a blob; `None` if the bytes are not what [`encode`] produces for a tensor of this shape.
pub(super) fn decode(bytes: &[u8], shape: &[usize]) -> Option<Vec<i8>> {
    let (&[has_columns, largest], rest) = bytes.split_first_chunk()?;
    let (state, rest) = rest.split_first_chunk()?;
    let count: usize = shape.iter().product();
    let columns = match has_columns {
        0 => None,
        1 => Some(columns(count, shape)?),
        _ => return None,
    };
    if count == 0 || largest > 128 {
        return None;
    }
    let mut decoder = Decoder { state: u64::from_le_bytes(*state), rest };
    let codes = walk(&mut decoder, count, columns, largest)?;
    (decoder.state == LOW && decoder.rest.iter().all(|&b| b == 0)).then_some(codes)
}

#[cfg(test)]
mod tests;
