//! Products of integer panels with one vector, in machine code with vectors of 256 bits: Cranelift's have 128, which multiply bytes at half the speed.
//!
//! ```text
//!   extern "sysv64" fn panels(call: *const [usize; 7], from: usize, end: usize)
//!
//!   for panel in from..end:
//!       for each group:  sums[32] = the exact sums;  values += sums * scales
//!       to = start + values * activation scale
//! ```
//!
//! There is a function for each [`Integer`] of a program. A quad of a panel is four *parts* of eight outputs, one vector each:
//!
//! ```text
//!   AVX2, 8 bits      magnitudes of positive x by w, less those of negative x by w (`vpmaddubsw`): pairs of at most 2 * 127 * 128 < 2^15, widened by `vpmaddwd`
//!   AVX2, 4, 2 bits   codes by x: eight pairs of at most 2 * 15 * 127 are added in 16 bits, then widened
//!   VNNI              codes, offset to be unsigned, by x: `vpdpbusd`
//! ```
//!
//! Codes of activations are -127 to 127, so that all of this is exact; a vector with NaN or an infinity may have others, and then any result.

mod assembler;

use crate::plan::{Integer, LANES, PANEL, QUAD, Scale, Wide};
use assembler::*;

/// Words of eight bytes of the caller's description of a product: addresses of the first panel, the codes of the activations, their sums for each group, their scale, the vector that the
/// product is added to (or zero), and the result; then the columns of the result.
pub(crate) const FIELDS: usize = 7;

/// Alignment of a function, with its constants.
pub(crate) const ALIGN: u64 = 32;

/// f32s of a vector.
const WIDE: usize = 2 * LANES;

/// Vectors of a panel.
const PARTS: usize = PANEL / WIDE;

// Registers.
const CALLER: Gpr = RDI;
const FROM: Gpr = RSI;
const PANELS: Gpr = RDX;
const WEIGHTS: Gpr = R8;
const CODES: Gpr = R9;
const SUMS: Gpr = R10;
const TO: Gpr = R11;
const START: Gpr = RCX;
const SCALE: Gpr = RBX;
const COLUMNS: Gpr = RAX;
/// The next codes and the next sum, once the arguments have been read.
const CODE: Gpr = RSI;
const SUM: Gpr = RDI;
const QUADS: Gpr = RBP;
const GROUPS: Gpr = R12;

/// The values of a panel; then its sums, by part; then temporary ones.
fn value(n: usize) -> Ymm {
    Ymm(n as u8)
}
fn sum(n: usize) -> Ymm {
    Ymm((PARTS + n) as u8)
}
fn temporary(n: usize) -> Ymm {
    Ymm((2 * PARTS + n) as u8)
}
const X: Ymm = Ymm(12);
const T: Ymm = Ymm(13);
const W: Ymm = Ymm(14);
/// A constant: the bits of a code; of whole bytes ones, or the sign bits.
const MASK: Ymm = Ymm(15);

/// A function's machine code, constants included, and the same as text.
///
/// # Panics
/// If weights of 8 bits have no sign and the processor no instruction that takes such.
pub(crate) fn panels(wide: Wide, of: Integer) -> (Vec<u8>, String) {
    assert!(of.levels() > 1 || of.signed || wide != Wide::Avx2, "AVX2 multiplies signed bytes");
    let mut a = Assembler::default();
    let mask = a.constant([u8::MAX >> (8 - of.width.bits()); 32]);
    let flip = a.constant([0x80; 32]);
    let ones = a.constant(std::array::from_fn(|i| u8::from(i % 2 == 0)));
    let iota = std::array::from_fn(|part| {
        let lane = |i: usize| ((part * WIDE + i / 4) as u32).to_le_bytes()[i % 4];
        a.constant(std::array::from_fn(lane))
    });
    Function { a, wide, of, mask, flip, ones, iota }.emit()
}

struct Function {
    a: Assembler,
    wide: Wide,
    of: Integer,
    /// The bits of a code, in each byte.
    mask: From,
    /// The sign bit of each byte.
    flip: From,
    /// 1 in each lane of 16 bits.
    ones: From,
    /// The numbers of a panel's columns.
    iota: [From; PARTS],
}

impl Function {
    fn emit(mut self) -> (Vec<u8>, String) {
        let (of, a) = (self.of, &mut self.a);
        let done = a.label();
        [RBX, RBP, R12].into_iter().for_each(|r| a.push(r));
        let fields: [Gpr; FIELDS] = [WEIGHTS, CODES, SUMS, SCALE, START, TO, COLUMNS];
        for (n, to) in fields.into_iter().enumerate() {
            a.load(to, CALLER, 8 * n as i32);
        }
        a.sub(PANELS, FROM);
        a.jump(When::LessOrEqual, done);
        // To the first panel.
        a.times(QUADS, FROM, of.panel_bytes() as i32);
        a.add(WEIGHTS, QUADS);
        a.times(QUADS, FROM, (PANEL * 4) as i32);
        a.add(TO, QUADS);
        let no_start = a.label();
        a.test(START);
        a.jump(When::Zero, no_start);
        a.add(START, QUADS);
        a.place(no_start);
        a.times(QUADS, FROM, PANEL as i32);
        a.sub(COLUMNS, QUADS);
        let mask = match (of.levels(), self.wide) {
            (1, Wide::Avx2) => self.ones,
            (1, _) => self.flip,
            _ => self.mask,
        };
        a.two(VMOVDQU, MASK, mask);

        let panel = self.a.label();
        self.a.place(panel);
        self.panel();
        self.store(done);
        self.a.count_down(PANELS);
        self.a.jump(When::NotZero, panel);
        self.a.place(done);
        [R12, RBP, RBX].into_iter().for_each(|r| self.a.pop(r));
        self.a.return_();
        self.a.finish()
    }

    /// The values of a panel, in the order of its outputs; the weights advance to the next one.
    fn panel(&mut self) {
        self.a.copy(CODE, CODES);
        self.a.copy(SUM, SUMS);
        let groups = self.of.groups;
        let (whole, count) = (groups.len / groups.size, groups.count());
        if count == 1 {
            return self.group(groups.quads(0), true);
        }
        for n in 0..PARTS {
            self.a.three(VPXOR, value(n), value(n), value(n));
        }
        let again = self.a.label();
        if whole > 1 {
            self.a.set(GROUPS, whole as u32);
            self.a.place(again);
        }
        self.group(groups.quads(0), false);
        if whole > 1 {
            self.a.count_down(GROUPS);
            self.a.jump(When::NotZero, again);
        }
        if whole < count {
            self.group(groups.quads(whole), false);
        }
    }

    /// Adds a group to the values, or sets them if it is the only one. Weights, codes and sums advance to the next one.
    fn group(&mut self, quads: usize, only: bool) {
        let a = &mut self.a;
        if self.wide == Wide::Avx2 && self.of.levels() == 1 {
            for n in 0..PARTS {
                a.three(VPXOR, sum(n), sum(n), sum(n));
            }
        } else {
            a.load_times(QUADS, SUM, -i32::from(self.of.width.offset()));
            a.broadcast_low(sum(0), QUADS);
            for n in 1..PARTS {
                a.two(VMOVDQU, sum(n), sum(0));
            }
        }
        // Narrow codes by AVX2: as many as fit 16 bits, see above.
        let unroll = if self.of.levels() == 1 { 4 } else { 8 };
        let turns = quads / unroll;
        if turns > 0 {
            let again = self.a.label();
            if turns > 1 {
                self.a.set(QUADS, turns as u32);
                self.a.place(again);
            }
            self.quads(unroll);
            if turns > 1 {
                self.a.count_down(QUADS);
                self.a.jump(When::NotZero, again);
            }
        }
        if !quads.is_multiple_of(unroll) {
            self.quads(quads % unroll);
        }
        self.scale(only);
        self.a.advance(SUM, 4);
    }

    /// Adds the products of some quads to the sums, and advances.
    fn quads(&mut self, quads: usize) {
        let row = self.of.quad_bytes() as i32;
        for q in 0..quads {
            let at = q as i32 * row;
            self.a.broadcast(X, CODE, (q * QUAD) as i32);
            match (self.wide, self.of.levels()) {
                (Wide::Avx2, 1) => self.eight(at),
                (Wide::Avx2, _) => self.narrow(at, q == 0),
                _ => self.dots(at),
            }
        }
        if self.wide == Wide::Avx2 && self.of.levels() > 1 {
            for n in 0..PARTS {
                self.a.three(VPMADDWD, temporary(n), temporary(n), self.ones);
            }
            for n in 0..PARTS {
                self.a.three(VPADDD, sum(n), sum(n), temporary(n));
            }
        }
        self.a.advance(WEIGHTS, quads as i32 * row);
        self.a.advance(CODE, (quads * QUAD) as i32);
    }

    /// A quad of signed bytes. One of each input's two products is zero.
    fn eight(&mut self, at: i32) {
        let (above, below) = (W, X);
        self.a.three(VPXOR, above, above, above);
        self.a.three(VPMAXSB, above, X, above);
        self.a.three(VPSUBB, below, above, X);
        for n in 0..PARTS {
            let w = From::Memory(WEIGHTS, at + (n * 32) as i32);
            let t = temporary(n);
            self.a.three(VPMADDUBSW, t, above, w);
            self.a.three(VPMADDUBSW, T, below, w);
            self.a.three(VPSUBW, t, t, T);
            self.a.three(VPMADDWD, t, t, MASK);
            self.a.three(VPADDD, sum(n), sum(n), t);
        }
    }

    /// The codes of a part of a quad, as bytes in a register. Parts that lie together come one after another.
    fn part(&mut self, at: i32, n: usize) -> Ymm {
        let (levels, bits) = (self.of.levels(), self.of.width.bits());
        let w = From::Memory(WEIGHTS, at + (n / levels * 32) as i32);
        match n % levels {
            0 => {
                self.a.two(VMOVDQU, W, w);
                self.a.three(VPAND, T, W, MASK);
            }
            level => {
                self.a.shift_words(T, W, (bits * level) as u8);
                self.a.three(VPAND, T, T, MASK);
            }
        }
        T
    }

    /// A quad of narrow codes: sums in 16 bits, which begin with the `first` one.
    fn narrow(&mut self, at: i32, first: bool) {
        for n in 0..PARTS {
            let w = self.part(at, n);
            if first {
                self.a.three(VPMADDUBSW, temporary(n), w, X);
            } else {
                self.a.three(VPMADDUBSW, T, w, X);
                self.a.three(VPADDW, temporary(n), temporary(n), T);
            }
        }
    }

    /// A quad by `vpdpbusd`.
    fn dots(&mut self, at: i32) {
        for n in 0..PARTS {
            let at_part = From::Memory(WEIGHTS, at + (n * 32) as i32);
            let w = match (self.of.levels(), self.of.signed) {
                (1, true) => {
                    self.a.three(VPXOR, T, MASK, at_part);
                    T
                }
                (1, false) => {
                    self.a.two(VMOVDQU, T, at_part);
                    T
                }
                _ => self.part(at, n),
            };
            if self.wide == Wide::AvxVnni {
                self.a.three(VPDPBUSD, sum(n), w, X);
            } else {
                self.a.evex_dot(sum(n), w, X);
            }
        }
    }

    /// Adds the sums, in the order of outputs, times a group's scales to the values, or sets these; advances over the scales.
    fn scale(&mut self, only: bool) {
        let a = &mut self.a;
        // The halves of a part are outputs that lie `levels` vectors of four apart.
        let (low, high) = (0x20, 0x31);
        let from: [(usize, usize, u8); PARTS] = match self.of.levels() {
            2 => [(0, 1, low), (0, 1, high), (2, 3, low), (2, 3, high)],
            4 => [(0, 1, low), (2, 3, low), (0, 1, high), (2, 3, high)],
            _ => std::array::from_fn(|n| (n, n, 0)),
        };
        for (n, (x, y, which)) in from.into_iter().enumerate() {
            let mut ordered = sum(n);
            if x != y {
                ordered = temporary(n);
                a.halves(ordered, sum(x), sum(y), which);
            }
            a.two(VCVTDQ2PS, temporary(n), ordered);
        }
        let size = self.of.scale.size();
        for n in 0..PARTS {
            let at = (n * WIDE * size) as i32;
            let scale = match self.of.scale {
                Scale::F32 => From::Memory(WEIGHTS, at),
                Scale::F16 => {
                    a.widen_halves(T, WEIGHTS, at);
                    T.into()
                }
            };
            if only {
                a.three(VMULPS, value(n), temporary(n), scale);
            } else {
                a.three(VFMADD231PS, value(n), temporary(n), scale);
            }
        }
        a.advance(WEIGHTS, (PANEL * size) as i32);
    }

    /// Stores the values, and advances; jumps to `done` after a panel that has not all its columns.
    fn store(&mut self, done: Label) {
        let a = &mut self.a;
        let [zero, part, part_zero, next] = std::array::from_fn(|_| a.label());
        let at = |n: usize| (n * WIDE * 4) as i32;
        a.broadcast(X, SCALE, 0);
        a.compare(COLUMNS, PANEL as i32);
        a.jump(When::Less, part);
        a.test(START);
        a.jump(When::Zero, zero);
        for n in 0..PARTS {
            a.three(VFMADD213PS, value(n), X, From::Memory(START, at(n)));
            a.store(TO, at(n), value(n));
        }
        a.advance(START, (PANEL * 4) as i32);
        a.jump(When::Always, next);
        a.place(zero);
        for n in 0..PARTS {
            a.three(VMULPS, value(n), value(n), X);
            a.store(TO, at(n), value(n));
        }
        a.jump(When::Always, next);
        a.place(part);
        a.broadcast_low(W, COLUMNS);
        a.test(START);
        a.jump(When::Zero, part_zero);
        for n in 0..PARTS {
            a.three(VPCMPGTD, T, W, self.iota[n]);
            a.three(VMASKMOVPS, temporary(n), T, From::Memory(START, at(n)));
            a.three(VFMADD213PS, value(n), X, temporary(n));
            a.store_masked(TO, at(n), T, value(n));
        }
        a.jump(When::Always, done);
        a.place(part_zero);
        for n in 0..PARTS {
            a.three(VPCMPGTD, T, W, self.iota[n]);
            a.three(VMULPS, value(n), value(n), X);
            a.store_masked(TO, at(n), T, value(n));
        }
        a.jump(When::Always, done);
        a.place(next);
        a.advance(TO, (PANEL * 4) as i32);
        a.advance(COLUMNS, -(PANEL as i32));
    }
}

#[cfg(test)]
mod tests;
