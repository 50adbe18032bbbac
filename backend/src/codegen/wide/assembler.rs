//! The few instructions of x86-64 that products in vectors of 256 bits need, which Cranelift does not have, as bytes and as text.
//!
//! Encodings: Intel, Software Developer's Manual, volume 2, chapters 2 and 3. A test compares them with an assembler's.

use std::fmt::Display;

/// A register for integers and addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Gpr(u8);

pub(super) const RAX: Gpr = Gpr(0);
pub(super) const RCX: Gpr = Gpr(1);
pub(super) const RDX: Gpr = Gpr(2);
pub(super) const RBX: Gpr = Gpr(3);
pub(super) const RBP: Gpr = Gpr(5);
pub(super) const RSI: Gpr = Gpr(6);
pub(super) const RDI: Gpr = Gpr(7);
pub(super) const R8: Gpr = Gpr(8);
pub(super) const R9: Gpr = Gpr(9);
pub(super) const R10: Gpr = Gpr(10);
pub(super) const R11: Gpr = Gpr(11);
/// Not for addresses.
pub(super) const R12: Gpr = Gpr(12);

impl Gpr {
    fn name(self) -> &'static str {
        ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12"]
            [usize::from(self.0)]
    }

    /// Its low 32 bits.
    fn low(self) -> &'static str {
        ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "r8d", "r9d", "r10d", "r11d", "r12d"]
            [usize::from(self.0)]
    }
}

/// A vector of 256 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ymm(pub(super) u8);

/// An operand that is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum From {
    Ymm(Ymm),
    /// At an address and some bytes.
    Memory(Gpr, i32),
    /// Among the constants, at this byte.
    Constant(usize),
}

impl std::convert::From<Ymm> for From {
    fn from(y: Ymm) -> From {
        From::Ymm(y)
    }
}

/// An instruction on vectors: its name, the prefix that its encoding replaces (0 none, 1 `66`, 2 `f3`), the map of opcodes (1 `0f`, 2 `0f38`, 3 `0f3a`), and the opcode.
#[derive(Clone, Copy)]
pub(super) struct Op(&'static str, u8, u8, u8);

pub(super) const VPADDD: Op = Op("vpaddd", 1, 1, 0xfe);
pub(super) const VPADDW: Op = Op("vpaddw", 1, 1, 0xfd);
pub(super) const VPAND: Op = Op("vpand", 1, 1, 0xdb);
pub(super) const VPCMPGTD: Op = Op("vpcmpgtd", 1, 1, 0x66);
pub(super) const VPMADDUBSW: Op = Op("vpmaddubsw", 1, 2, 0x04);
pub(super) const VPMADDWD: Op = Op("vpmaddwd", 1, 1, 0xf5);
pub(super) const VPMAXSB: Op = Op("vpmaxsb", 1, 2, 0x3c);
pub(super) const VPSUBB: Op = Op("vpsubb", 1, 1, 0xf8);
pub(super) const VPSUBW: Op = Op("vpsubw", 1, 1, 0xf9);
pub(super) const VPXOR: Op = Op("vpxor", 1, 1, 0xef);
pub(super) const VMULPS: Op = Op("vmulps", 0, 1, 0x59);
pub(super) const VFMADD213PS: Op = Op("vfmadd213ps", 1, 2, 0xa8);
pub(super) const VFMADD231PS: Op = Op("vfmadd231ps", 1, 2, 0xb8);
pub(super) const VMASKMOVPS: Op = Op("vmaskmovps", 1, 2, 0x2c);
pub(super) const VCVTDQ2PS: Op = Op("vcvtdq2ps", 0, 1, 0x5b);
pub(super) const VMOVDQU: Op = Op("vmovdqu", 2, 1, 0x6f);
/// Of AVX-VNNI; [`Assembler::evex_dot`] is that of AVX-512.
pub(super) const VPDPBUSD: Op = Op("{vex} vpdpbusd", 1, 2, 0x50);

/// A place to jump to.
#[derive(Clone, Copy)]
pub(super) struct Label(usize);

/// When to jump, by the number of the condition.
#[derive(Clone, Copy)]
pub(super) enum When {
    Always,
    Zero = 4,
    NotZero = 5,
    Less = 12,
    LessOrEqual = 14,
}

/// A function under construction.
#[derive(Default)]
pub(super) struct Assembler {
    bytes: Vec<u8>,
    text: String,
    constants: Vec<u8>,
    /// Where labels are.
    labels: Vec<Option<usize>>,
    /// Displacements of 32 bits, relative to their ends: of jumps to labels, and of constants with so many bytes after the displacement.
    jumps: Vec<(usize, Label)>,
    reads: Vec<(usize, usize, usize)>,
}

impl Assembler {
    /// The function's bytes, constants included, and its text.
    pub(super) fn finish(mut self) -> (Vec<u8>, String) {
        for (at, label) in std::mem::take(&mut self.jumps) {
            let to = self.labels[label.0].expect("every label is placed");
            self.patch(at, to as i64 - (at + 4) as i64);
        }
        // Vectors of constants need not be aligned; 32 bytes keep them within a cache line.
        self.bytes.resize(self.bytes.len().next_multiple_of(32), 0xcc);
        let pool = self.bytes.len();
        for (at, constant, after) in std::mem::take(&mut self.reads) {
            self.patch(at, (pool + constant) as i64 - (at + 4 + after) as i64);
        }
        self.line(&".balign 32, 0xcc");
        self.line(&"constants:");
        for vector in std::mem::take(&mut self.constants).chunks(32) {
            let list: Vec<String> = vector.iter().map(u8::to_string).collect();
            self.line(&format_args!(".byte {}", list.join(", ")));
            self.bytes.extend(vector);
        }
        (self.bytes, self.text)
    }

    fn patch(&mut self, at: usize, displacement: i64) {
        // A function has some kilobytes.
        self.bytes[at..at + 4].copy_from_slice(&(displacement as i32).to_le_bytes());
    }

    fn line(&mut self, text: &dyn Display) {
        self.text += &format!("    {text}\n");
    }

    /// A vector of constants.
    pub(super) fn constant(&mut self, bytes: [u8; 32]) -> From {
        let known = self.constants.chunks(32).position(|c| c == bytes);
        let n = known.unwrap_or(self.constants.len() / 32);
        if known.is_none() {
            self.constants.extend(bytes);
        }
        From::Constant(n * 32)
    }

    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    pub(super) fn place(&mut self, label: Label) {
        self.labels[label.0] = Some(self.bytes.len());
        self.text += &format!("l{}:\n", label.0);
    }

    pub(super) fn jump(&mut self, when: When, to: Label) {
        let name = match when {
            When::Always => "jmp",
            When::Less => "jl",
            When::Zero => "jz",
            When::NotZero => "jnz",
            When::LessOrEqual => "jle",
        };
        self.line(&format_args!("{{disp32}} {name} l{}", to.0));
        match when {
            When::Always => self.bytes.push(0xe9),
            _ => self.bytes.extend([0x0f, 0x80 + when as u8]),
        }
        self.jumps.push((self.bytes.len(), to));
        self.bytes.extend([0; 4]);
    }

    /// An operand in text; `size` is that of memory.
    fn operand(&self, from: From, size: &str) -> String {
        match from {
            From::Ymm(y) => format!("ymm{}", y.0),
            From::Memory(base, 0) => format!("{size} ptr [{}]", base.name()),
            From::Memory(base, bytes) => format!("{size} ptr [{}{bytes:+}]", base.name()),
            From::Constant(at) => format!("{size} ptr [rip+constants{at:+}]"),
        }
    }

    /// ModRM and what follows: a register number or an extension of the opcode, and an operand; `after` bytes of the instruction come behind.
    fn modrm(&mut self, register: u8, of: From, after: usize) {
        let register = (register & 7) << 3;
        match of {
            From::Ymm(y) => self.bytes.push(0xc0 | register | y.0 & 7),
            From::Memory(base, bytes) => {
                assert!(base.0 & 7 != 4, "a base that needs another byte");
                let base_bits = base.0 & 7;
                match i8::try_from(bytes) {
                    Ok(0) if base_bits != 5 => self.bytes.push(register | base_bits),
                    Ok(short) => self.bytes.extend([0x40 | register | base_bits, short as u8]),
                    Err(_) => {
                        self.bytes.push(0x80 | register | base_bits);
                        self.bytes.extend(bytes.to_le_bytes());
                    }
                }
            }
            From::Constant(at) => {
                self.bytes.push(register | 5);
                self.reads.push((self.bytes.len(), at, after));
                self.bytes.extend([0; 4]);
            }
        }
    }

    /// A VEX prefix and the opcode, of 256 bits unless `narrow`.
    fn vex(&mut self, Op(_, prefix, map, opcode): Op, register: u8, first: u8, second: u8, narrow: bool) {
        let pp = [0, 1, 2][usize::from(prefix)];
        let low = (!first & 15) << 3 | u8::from(!narrow) << 2 | pp;
        let r = u8::from(register < 8) << 7;
        if map == 1 && second < 8 {
            self.bytes.extend([0xc5, r | low, opcode]);
        } else {
            let b = u8::from(second < 8) << 5;
            self.bytes.extend([0xc4, r | 0x40 | b | map, low, opcode]);
        }
    }

    fn number(of: From) -> u8 {
        match of {
            From::Ymm(y) => y.0,
            From::Memory(base, _) => base.0,
            From::Constant(_) => 0,
        }
    }

    /// `to = op(a, b)`, and for the fused ones of `to` as well.
    pub(super) fn three(&mut self, op: Op, to: Ymm, a: Ymm, b: impl Into<From>) {
        let b = b.into();
        let text = format!("{} ymm{}, ymm{}, {}", op.0, to.0, a.0, self.operand(b, "ymmword"));
        self.line(&text);
        self.vex(op, to.0, a.0, Self::number(b), false);
        self.modrm(to.0, b, 0);
    }

    /// `to = op(a)`.
    pub(super) fn two(&mut self, op: Op, to: Ymm, a: impl Into<From>) {
        let a = a.into();
        let text = format!("{} ymm{}, {}", op.0, to.0, self.operand(a, "ymmword"));
        self.line(&text);
        self.vex(op, to.0, 0, Self::number(a), false);
        self.modrm(to.0, a, 0);
    }

    /// [`VPDPBUSD`] as AVX-512 encodes it, with registers only.
    pub(super) fn evex_dot(&mut self, sum: Ymm, unsigned: Ymm, signed: Ymm) {
        self.line(&format_args!("{{evex}} vpdpbusd ymm{}, ymm{}, ymm{}", sum.0, unsigned.0, signed.0));
        let bit = |register: u8, at: u8| u8::from(register < 8) << at;
        let map = bit(sum.0, 7) | 0x40 | bit(signed.0, 5) | 0x10 | 2;
        self.bytes.extend([0x62, map, (!unsigned.0 & 15) << 3 | 5, 0x28, 0x50]);
        self.modrm(sum.0, signed.into(), 0);
    }

    /// 32 bits of memory in every lane.
    pub(super) fn broadcast(&mut self, to: Ymm, base: Gpr, bytes: i32) {
        let from = From::Memory(base, bytes);
        let text = format!("vpbroadcastd ymm{}, {}", to.0, self.operand(from, "dword"));
        self.line(&text);
        self.vex(Op("", 1, 2, 0x58), to.0, 0, base.0, false);
        self.modrm(to.0, from, 0);
    }

    /// The low 32 bits of a register in every lane.
    pub(super) fn broadcast_low(&mut self, to: Ymm, from: Gpr) {
        self.line(&format_args!("vmovd xmm{}, {}", to.0, from.low()));
        self.vex(Op("", 1, 1, 0x6e), to.0, 0, from.0, true);
        self.modrm(to.0, Ymm(from.0).into(), 0);
        self.line(&format_args!("vpbroadcastd ymm{0}, xmm{0}", to.0));
        self.vex(Op("", 1, 2, 0x58), to.0, 0, to.0, false);
        self.modrm(to.0, to.into(), 0);
    }

    /// Lanes of 16 bits, shifted right.
    pub(super) fn shift_words(&mut self, to: Ymm, from: Ymm, bits: u8) {
        self.line(&format_args!("vpsrlw ymm{}, ymm{}, {bits}", to.0, from.0));
        self.vex(Op("", 1, 1, 0x71), 2, to.0, from.0, false);
        self.modrm(2, from.into(), 1);
        self.bytes.push(bits);
    }

    /// Two halves of 128 bits: `which` is 0x20 for the low ones of both, 0x31 for the high ones.
    pub(super) fn halves(&mut self, to: Ymm, a: Ymm, b: Ymm, which: u8) {
        self.line(&format_args!("vperm2i128 ymm{}, ymm{}, ymm{}, {which}", to.0, a.0, b.0));
        self.vex(Op("", 1, 3, 0x46), to.0, a.0, b.0, false);
        self.modrm(to.0, b.into(), 1);
        self.bytes.push(which);
    }

    /// Eight f16s of memory as f32s.
    pub(super) fn widen_halves(&mut self, to: Ymm, base: Gpr, bytes: i32) {
        let from = From::Memory(base, bytes);
        let text = format!("vcvtph2ps ymm{}, {}", to.0, self.operand(from, "xmmword"));
        self.line(&text);
        self.vex(Op("", 1, 2, 0x13), to.0, 0, base.0, false);
        self.modrm(to.0, from, 0);
    }

    pub(super) fn store(&mut self, base: Gpr, bytes: i32, from: Ymm) {
        let to = From::Memory(base, bytes);
        let text = format!("vmovups {}, ymm{}", self.operand(to, "ymmword"), from.0);
        self.line(&text);
        self.vex(Op("", 0, 1, 0x11), from.0, 0, base.0, false);
        self.modrm(from.0, to, 0);
    }

    /// Writes the lanes of `from` whose mask is set.
    pub(super) fn store_masked(&mut self, base: Gpr, bytes: i32, mask: Ymm, from: Ymm) {
        let to = From::Memory(base, bytes);
        let text = format!("vmaskmovps {}, ymm{}, ymm{}", self.operand(to, "ymmword"), mask.0, from.0);
        self.line(&text);
        self.vex(Op("", 1, 2, 0x2e), from.0, mask.0, base.0, false);
        self.modrm(from.0, to, 0);
    }

    fn rex(&mut self, wide: bool, register: u8, of: u8) {
        let rex = 0x40 | u8::from(wide) << 3 | u8::from(register >= 8) << 2 | u8::from(of >= 8);
        if rex != 0x40 {
            self.bytes.push(rex);
        }
    }

    /// Loads an address.
    pub(super) fn load(&mut self, to: Gpr, base: Gpr, bytes: i32) {
        let from = From::Memory(base, bytes);
        let text = format!("mov {}, {}", to.name(), self.operand(from, "qword"));
        self.line(&text);
        self.rex(true, to.0, base.0);
        self.bytes.push(0x8b);
        self.modrm(to.0, from, 0);
    }

    /// Loads 32 bits times a constant.
    pub(super) fn load_times(&mut self, to: Gpr, base: Gpr, n: i32) {
        let from = From::Memory(base, 0);
        let text = format!("imul {}, {}, {n}", to.low(), self.operand(from, "dword"));
        self.line(&text);
        self.rex(false, to.0, base.0);
        let short = i8::try_from(n);
        self.bytes.push(if short.is_ok() { 0x6b } else { 0x69 });
        self.modrm(to.0, from, if short.is_ok() { 1 } else { 4 });
        self.immediate(n);
    }

    /// `to = from * n`.
    pub(super) fn times(&mut self, to: Gpr, from: Gpr, n: i32) {
        self.line(&format_args!("imul {}, {}, {n}", to.name(), from.name()));
        self.rex(true, to.0, from.0);
        self.bytes.push(if i8::try_from(n).is_ok() { 0x6b } else { 0x69 });
        self.modrm(to.0, Ymm(from.0).into(), 0);
        self.immediate(n);
    }

    fn immediate(&mut self, n: i32) {
        match i8::try_from(n) {
            Ok(short) => self.bytes.push(short as u8),
            Err(_) => self.bytes.extend(n.to_le_bytes()),
        }
    }

    fn registers(&mut self, name: &str, opcode: u8, to: Gpr, from: Gpr) {
        self.line(&format_args!("{name} {}, {}", to.name(), from.name()));
        self.rex(true, from.0, to.0);
        self.bytes.push(opcode);
        self.modrm(from.0, Ymm(to.0).into(), 0);
    }

    pub(super) fn copy(&mut self, to: Gpr, from: Gpr) {
        self.registers("mov", 0x89, to, from);
    }

    pub(super) fn add(&mut self, to: Gpr, from: Gpr) {
        self.registers("add", 0x01, to, from);
    }

    pub(super) fn sub(&mut self, to: Gpr, from: Gpr) {
        self.registers("sub", 0x29, to, from);
    }

    /// Sets the flags by a register.
    pub(super) fn test(&mut self, of: Gpr) {
        self.registers("test", 0x85, of, of);
    }

    fn with_constant(&mut self, name: &str, extension: u8, to: Gpr, n: i32) {
        self.line(&format_args!("{name} {}, {n}", to.name()));
        self.rex(true, 0, to.0);
        let short = i8::try_from(n).is_ok();
        // What has a form of its own for rax is not used with it.
        assert!(short || to != RAX);
        self.bytes.push(if short { 0x83 } else { 0x81 });
        self.modrm(extension, Ymm(to.0).into(), 0);
        self.immediate(n);
    }

    pub(super) fn advance(&mut self, to: Gpr, bytes: i32) {
        self.with_constant("add", 0, to, bytes);
    }

    /// Compares with a constant.
    pub(super) fn compare(&mut self, of: Gpr, n: i32) {
        self.with_constant("cmp", 7, of, n);
    }

    /// Sets the register, whose high half becomes zero.
    pub(super) fn set(&mut self, to: Gpr, n: u32) {
        self.line(&format_args!("mov {}, {n}", to.low()));
        self.rex(false, 0, to.0);
        self.bytes.push(0xb8 | to.0 & 7);
        self.bytes.extend(n.to_le_bytes());
    }

    /// One less; sets the flags.
    pub(super) fn count_down(&mut self, of: Gpr) {
        self.line(&format_args!("dec {}", of.name()));
        self.rex(true, 0, of.0);
        self.bytes.push(0xff);
        self.modrm(1, Ymm(of.0).into(), 0);
    }

    pub(super) fn push(&mut self, of: Gpr) {
        self.line(&format_args!("push {}", of.name()));
        self.rex(false, 0, of.0);
        self.bytes.push(0x50 | of.0 & 7);
    }

    pub(super) fn pop(&mut self, of: Gpr) {
        self.line(&format_args!("pop {}", of.name()));
        self.rex(false, 0, of.0);
        self.bytes.push(0x58 | of.0 & 7);
    }

    /// Ends the function; what follows may be code without AVX.
    pub(super) fn return_(&mut self) {
        self.line(&"vzeroupper");
        self.line(&"ret");
        self.bytes.extend([0xc5, 0xf8, 0x77, 0xc3]);
    }
}
