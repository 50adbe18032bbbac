//! Integer panels.
//!
//! A panel's groups are unpacked to bytes once per block of tokens (8-bit panels are read in place if their bytes are in the form that the kernel
//! needs), then every token is processed. Tiles are 12 tokens x 32 outputs with VNNI, or 6 if there are several groups, whose sums must
//! stay in registers too.

#[cfg(target_arch = "aarch64")]
mod arm;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::level::{Level, Set};
use crate::quantize::Activations;
use crate::share::{Destination, PanelRange, Tile};
use crate::{Integer, PANEL, QUAD, Scale, check_rows};
use lstmc_frontend::ir::PackedWidth;
use lstmc_runtime::Aligned;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of activations that a block of tokens may take.
const BLOCK_BYTES: usize = 256 << 10;

/// Bytes of an unpacked quad.
const QUAD_BYTES: usize = PANEL * QUAD;

/// Integer multiply-adds in the time of one f32 multiply-add.
const SPEEDUP: usize = 4;

/// A map `[out][input]` in integer panels; see the [crate](super).
#[derive(Clone, Copy, Debug)]
pub struct CodePanels<'a> {
    /// The panels.
    pub bytes: &'a [u8],
    /// Outputs.
    pub out: usize,
    /// How codes are packed, and how many inputs there are.
    pub format: Integer,
}

impl CodePanels<'_> {
    /// Bytes that the panels take; `usize::MAX` if there are more.
    pub fn size(&self) -> usize {
        self.out.div_ceil(PANEL).saturating_mul(self.format.panel_bytes())
    }

    /// The number of f32 multiply-adds that take as long as this many steps.
    pub(crate) fn work(&self, steps: usize) -> usize {
        steps.saturating_mul(self.out).saturating_mul(self.format.groups.len) / SPEEDUP
    }

    /// Whether kernels, which need bytes minus `offset`, can read panels in place, without buffers.
    fn in_place(&self, offset: u8) -> bool {
        let scales = self.format.scale == Scale::F32 && self.bytes.as_ptr().cast::<f32>().is_aligned();
        has_bytes_less(self.format, offset) && self.format.groups.count() == 1 && scales
    }
}

/// Whether packed bytes are the form that kernels need: offset codes minus `offset`.
fn has_bytes_less(format: Integer, offset: u8) -> bool {
    format.width == PackedWidth::Eight && offset == if format.signed { 0x80 } else { 0 }
}

/// A product whose shapes have been checked.
pub(crate) struct Job<'a> {
    steps: usize,
    x: Activations<'a>,
    w: CodePanels<'a>,
}

/// A panel ready for a kernel: `[groups][quads][32][4]` of one or two bytes each.
#[derive(Clone, Copy)]
struct Panel<'a> {
    weights: &'a [u8],
    /// Bytes from one group to the next.
    group_stride: usize,
    /// `[groups][32]`
    scales: &'a [f32],
}

/// The operands of a tile.
struct Operands {
    weights: *const u8,
    /// A cache line of the next panel for each quad, to be prefetched. Any address is valid.
    #[cfg_attr(target_arch = "aarch64", allow(dead_code, reason = "there is no stable instruction for it"))]
    next: *const u8,
    group_stride: usize,
    scales: *const f32,
    groups: usize,
    /// Quads per group, and in the last one.
    quads: [usize; 2],
    /// The first token's codes.
    x: *const i8,
    #[cfg_attr(target_arch = "aarch64", allow(dead_code, reason = "NEON's tiles have one token"))]
    x_stride: usize,
    /// The first token's scale.
    sx: *const f32,
    /// Sums of the first token's codes, per group, and the offset of the weights; read if weights stay unsigned.
    #[cfg_attr(target_arch = "aarch64", allow(dead_code, reason = "NEON's weights are signed"))]
    sums: *const i32,
    #[cfg_attr(target_arch = "aarch64", allow(dead_code, reason = "NEON's weights are signed"))]
    raised: i32,
}

impl<'a> Job<'a> {
    pub(crate) fn new(steps: usize, x: &Activations<'a>, w: &CodePanels<'a>) -> Job<'a> {
        let (x, w) = (*x, *w);
        check_rows("activations", steps, x.stride, w.format.groups.padded(), x.codes.len());
        assert!(x.scales.len() >= steps, "{} activation scales for {steps} tokens", x.scales.len());
        let need = w.size();
        // Saturated if it is more than any slice has.
        assert!(w.bytes.len() >= need, "integer panels take {need} bytes, not {}", w.bytes.len());
        let groups = w.format.groups.count();
        assert!(
            x.sums.len() >= steps.saturating_mul(groups),
            "{} sums for {steps} tokens of {groups} groups",
            x.sums.len()
        );
        Job { steps, x, w }
    }

    /// `to = start + x w^T` in `panels`, with buffers for panels that are not read in place. Panics if the destination lacks a panel or
    /// has other tokens.
    ///
    /// # Safety
    /// Only this thread writes these panels' columns of the destination during the call.
    pub(crate) unsafe fn run(
        &self,
        level: Level,
        buffers: &Mutex<Unpacked>,
        panels: PanelRange,
        to: &Destination<'_>,
    ) {
        let (offset, groups) = (self.w.format.width.offset(), self.w.format.groups.count());
        let set = if groups == 0 { Set::Portable } else { level.set() };
        // SAFETY: the columns are this thread's, as the caller promises. A level is proof that the processor has the instructions of its
        // kernels, which get operands and tiles with the number of tokens that they are given, and at least one group.
        unsafe {
            match set {
                Set::Portable => self.portable(level, &mut lock(buffers), panels, to),
                #[cfg(target_arch = "x86_64")]
                Set::Avx2 | Set::Avx512 => {
                    self.tiled::<1, 2>(level, buffers, panels, to, offset, |_, of, tile| {
                        x86::avx2(of, tile);
                    });
                }
                // Weights stay unsigned.
                #[cfg(target_arch = "x86_64")]
                Set::Avx512Vnni if groups == 1 => {
                    self.tiled::<{ x86::ONE_GROUP }, 1>(level, buffers, panels, to, 0, |n, of, tile| {
                        x86::one_group(n, of, tile);
                    });
                }
                #[cfg(target_arch = "x86_64")]
                Set::Avx512Vnni => {
                    self.tiled::<{ x86::GROUPS }, 1>(level, buffers, panels, to, 0, |n, of, tile| {
                        x86::groups(n, of, tile);
                    });
                }
                #[cfg(target_arch = "aarch64")]
                Set::Neon => self.tiled::<1, 1>(level, buffers, panels, to, offset, |_, of, tile| {
                    arm::neon(of, tile);
                }),
            }
        }
    }

    /// The reference implementation of the kernels below.
    ///
    /// # Safety
    /// Only this thread writes these panels' columns of the destination during the call.
    unsafe fn portable(
        &self,
        level: Level,
        unpacked: &mut Unpacked,
        panels: PanelRange,
        to: &Destination<'_>,
    ) {
        let (offset, groups) = (self.w.format.width.offset(), self.w.format.groups);
        for panel in panels.each() {
            let panel_data = unpacked.panel::<1>(level, &self.w, panel, offset);
            for t in 0..self.steps {
                let mut codes = &self.x.codes[t * self.x.stride..];
                let mut values = [0.0f32; PANEL];
                for g in 0..groups.count() {
                    let quads = groups.quads(g);
                    let (group, rest) = codes.split_at(quads * QUAD);
                    codes = rest;
                    let mut sums = [0i32; PANEL];
                    let weights = &panel_data.weights[g * panel_data.group_stride..][..quads * QUAD_BYTES];
                    for (w, x) in weights.as_chunks::<QUAD_BYTES>().0.iter().zip(group.as_chunks::<QUAD>().0)
                    {
                        for (sum, w) in sums.iter_mut().zip(w.as_chunks::<QUAD>().0) {
                            *sum += (0..QUAD).map(|i| i32::from(w[i] as i8) * i32::from(x[i])).sum::<i32>();
                        }
                    }
                    let scales = &panel_data.scales[g * PANEL..][..PANEL];
                    for ((value, sum), scale) in values.iter_mut().zip(sums).zip(scales) {
                        *value += sum as f32 * scale;
                    }
                }
                let values = values.map(|v| v * self.x.scales[t]);
                // SAFETY: the columns are this thread's, as the caller promises, and there is one tile at a time.
                unsafe { to.tile(t, 1, panel, 0) }.store_plain(&values);
            }
        }
    }

    /// Processes all tokens of `panels` of `W`-byte weights minus `offset`, with at least one group, in tiles of at most `T` tokens: `tile(n, ...)`
    /// handles `n` of them.
    ///
    /// # Safety
    /// Only this thread writes these panels' columns of the destination during the call.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[inline(always)]
    unsafe fn tiled<const T: usize, const W: usize>(
        &self,
        level: Level,
        buffers: &Mutex<Unpacked>,
        panels: PanelRange,
        to: &Destination<'_>,
        offset: u8,
        tile: impl Fn(usize, &Operands, Tile),
    ) {
        let in_place = W == 1 && self.w.in_place(offset);
        let mut unpacked = if in_place { None } else { Some(lock(buffers)) };
        let format = self.w.format;
        let groups = format.groups.count();
        let quads = [format.groups.quads(0), format.groups.quads(groups - 1)];
        let panel_len = format.panel_bytes();
        let block = (BLOCK_BYTES / self.x.stride.max(1)).next_multiple_of(T).max(T);
        for begin in (0..self.steps).step_by(block) {
            let tokens = block.min(self.steps - begin);
            let tiles = tokens.div_ceil(T);
            // Tiles of nearly equal size: a small one would be bound by the latency of its sums.
            let (least, larger) = (tokens / tiles, tokens % tiles);
            for panel in panels.each() {
                let data = match &mut unpacked {
                    Some(unpacked) => unpacked.panel::<W>(level, &self.w, panel, offset),
                    None => {
                        let panel = &self.w.bytes[panel * panel_len..][..panel_len];
                        let (weights, scales) = panel.split_at(quads[0] * QUAD_BYTES);
                        Panel { weights, group_stride: 0, scales: bytemuck::cast_slice(scales) }
                    }
                };
                let next = self.w.bytes.as_ptr().wrapping_add((panel + 1) * panel_len);
                let mut t = begin;
                for i in 0..tiles {
                    let of = Operands {
                        weights: data.weights.as_ptr(),
                        // A line is half a quad: two tiles prefetch all of it.
                        next: next.wrapping_add(i * quads[0] * QUAD_BYTES / 2),
                        group_stride: data.group_stride,
                        scales: data.scales.as_ptr(),
                        groups,
                        quads,
                        x: self.x.codes[t * self.x.stride..].as_ptr(),
                        x_stride: self.x.stride,
                        sx: self.x.scales[t..].as_ptr(),
                        sums: self.x.sums[t * groups..].as_ptr(),
                        raised: format.width.offset().into(),
                    };
                    let n = least + usize::from(i < larger);
                    // SAFETY: the columns are this thread's, as the caller promises, and there is one tile at a time.
                    tile(n, &of, unsafe { to.tile(t, n, panel, 0) });
                    t += n;
                }
            }
        }
    }
}

/// Buffers for a panel that is not read in place, and for its scales.
pub(crate) struct Unpacked {
    codes: Aligned<u8>,
    scales: Vec<f32>,
}

impl Default for Unpacked {
    fn default() -> Unpacked {
        Unpacked { codes: Aligned::zeroed(0), scales: vec![] }
    }
}

/// A thread's buffers. A panic of another thread does not matter: they hold nothing between panels.
fn lock(buffers: &Mutex<Unpacked>) -> MutexGuard<'_, Unpacked> {
    buffers.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Unpacked {
    /// Reserves memory for a panel, so that unpacking allocates nothing.
    pub(crate) fn reserve(&mut self, w: &CodePanels<'_>) {
        // At most two bytes per weight.
        let groups = w.format.groups;
        self.make_room(groups.padded().saturating_mul(2 * PANEL));
        self.scales.reserve((groups.count() * PANEL).saturating_sub(self.scales.len()));
    }

    fn make_room(&mut self, bytes: usize) {
        if self.codes.len() < bytes {
            self.codes = Aligned::zeroed(bytes);
        }
    }

    /// A panel's weights as `W`-byte numbers, minus `offset`, and its scales.
    fn panel<'a, const W: usize>(
        &'a mut self,
        level: Level,
        w: &CodePanels<'a>,
        panel: usize,
        offset: u8,
    ) -> Panel<'a> {
        let CodePanels { bytes, format, .. } = *w;
        let (panel_len, groups) = (format.panel_bytes(), format.groups);
        let bytes = &bytes[panel * panel_len..][..panel_len];
        let in_place = W == 1 && has_bytes_less(format, offset);
        let scale_bytes = PANEL * format.scale.size();
        if !in_place {
            self.make_room(groups.padded() * PANEL * W);
        }
        self.scales.resize(groups.count() * PANEL, 0.0);
        let mut at = 0;
        let mut to = 0;
        for g in 0..groups.count() {
            let packed = groups.quads(g) * format.quad_bytes();
            if !in_place {
                let len = groups.quads(g) * QUAD_BYTES * W;
                unpack::<W>(level, &bytes[at..at + packed], format, offset, &mut self.codes[to..to + len]);
                to += len;
            }
            at += packed;
            let (from, to) = (&bytes[at..at + scale_bytes], &mut self.scales[g * PANEL..][..PANEL]);
            match format.scale {
                Scale::F32 => {
                    for (to, b) in to.iter_mut().zip(from.as_chunks::<4>().0) {
                        *to = f32::from_le_bytes(*b);
                    }
                }
                Scale::F16 => {
                    for (to, b) in to.iter_mut().zip(from.as_chunks::<2>().0) {
                        *to = f16_to_f32(u16::from_le_bytes(*b));
                    }
                }
            }
            at += scale_bytes;
        }
        let unpacked = if groups.count() == 0 { 0 } else { groups.quads(0) * QUAD_BYTES * W };
        if in_place {
            Panel { weights: bytes, group_stride: unpacked + scale_bytes, scales: &self.scales }
        } else {
            Panel { weights: &self.codes, group_stride: unpacked, scales: &self.scales }
        }
    }
}

/// Whole quads of packed codes to `W`-byte numbers, minus `offset`.
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "there is one way"))]
fn unpack<const W: usize>(level: Level, packed: &[u8], format: Integer, offset: u8, to: &mut [u8]) {
    let flip = if format.signed { 0x80 } else { 0 };
    #[cfg(target_arch = "x86_64")]
    if W == 1 && offset == 0 && level.set() >= Set::Avx512 {
        // SAFETY: the level is proof that the processor has AVX-512 F.
        return unsafe { x86::unpack(packed, format.width, flip, to) };
    }
    match format.width {
        PackedWidth::Eight => unpack_levels::<W, 1>(packed, flip, offset, to),
        PackedWidth::Four => unpack_levels::<W, 2>(packed, flip, offset, to),
        PackedWidth::Two => unpack_levels::<W, 4>(packed, flip, offset, to),
    }
}

/// A vector of 16 bytes holds `L` vectors of codes.
fn unpack_levels<const W: usize, const L: usize>(packed: &[u8], flip: u8, offset: u8, to: &mut [u8]) {
    let bits = 8 / L;
    let mask = u8::MAX >> (8 - bits);
    for (v, to) in packed.as_chunks::<16>().0.iter().zip(to.chunks_exact_mut(16 * L * W)) {
        for (level, to) in to.chunks_exact_mut(16 * W).enumerate() {
            let code = v.map(|v| (((v ^ flip) >> (level * bits)) & mask).wrapping_sub(offset));
            if W == 1 {
                to.copy_from_slice(&code);
            } else {
                for (to, code) in to.as_chunks_mut::<2>().0.iter_mut().zip(code) {
                    *to = i16::from(code as i8).to_ne_bytes();
                }
            }
        }
    }
}

/// Exact conversion.
pub(crate) fn f16_to_f32(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let sign = u32::from(bits & 0x8000) << 16;
    let value = if bits & 0x7c00 == 0x7c00 {
        f32::from_bits(magnitude | 0x7f80_0000)
    } else {
        // The exponent's bias goes from 15 to 127; subnormal numbers become normal ones.
        f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23)
    };
    f32::from_bits(value.to_bits() | sign)
}
