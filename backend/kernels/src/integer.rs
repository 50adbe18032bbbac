//! Integer panels.
//!
//! Panels are read as they are packed: codes that share a byte are separated in registers, for every tile of tokens. Tiles have 32 outputs, and as many tokens as there are registers
//! for their sums. Sums are exact at every level; see [`CodePanels`].

#[cfg(target_arch = "aarch64")]
pub(crate) mod arm;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::level::{Level, Set};
use crate::quantize::Activations;
use crate::share::{Destination, PanelRange, Tile};
use crate::{Integer, PANEL, QUAD, Scale, check_rows};

/// Bytes of activations that a block of tokens may take.
const BLOCK_BYTES: usize = 256 << 10;

/// Integer multiply-adds in the time of one f32 multiply-add.
const SPEEDUP: usize = 4;

/// A map `[out][input]` in integer panels; see the [crate](super).
///
/// At each level there is a kernel for one form of the bytes, the one that a plan for that level chooses; all other forms are read by plain Rust.
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
}

/// A product whose shapes have been checked.
pub(crate) struct Job<'a> {
    steps: usize,
    x: Activations<'a>,
    w: CodePanels<'a>,
}

/// The operands of a tile. All pointers but `next` are valid for the tile's tokens and the panel.
#[derive(Clone, Copy)]
struct Operands {
    /// The panel.
    panel: *const u8,
    panel_bytes: usize,
    format: Integer,
    /// Bytes from one group to the next.
    group_stride: usize,
    groups: usize,
    /// Quads per group, and in the last one.
    quads: [usize; 2],
    /// What is to be prefetched, a cache line per quad. Any address is valid.
    #[cfg_attr(target_arch = "aarch64", allow(dead_code, reason = "there is no stable instruction for it"))]
    next: *const u8,
    /// The first token's codes.
    x: *const i8,
    x_stride: usize,
    /// The first token's widened codes, if the level's kernels read them.
    #[cfg_attr(target_arch = "aarch64", allow(dead_code, reason = "NEON multiplies bytes"))]
    wide: *const i16,
    /// The first token's scale.
    sx: *const f32,
    /// Sums of the first token's codes, per group.
    sums: *const i32,
}

/// Multiplies a panel with this many tokens.
type Kernel = unsafe fn(usize, &Operands, Tile);

impl Operands {
    /// Without a panel and tokens.
    #[inline(always)]
    fn new(format: Integer) -> Operands {
        let groups = format.groups.count();
        let quads =
            if groups == 0 { [0; 2] } else { [format.groups.quads(0), format.groups.quads(groups - 1)] };
        Operands {
            panel: std::ptr::null(),
            panel_bytes: format.panel_bytes(),
            format,
            group_stride: quads[0] * format.quad_bytes() + PANEL * format.scale.size(),
            groups,
            quads,
            next: std::ptr::null(),
            x: std::ptr::null(),
            x_stride: 0,
            wide: std::ptr::null(),
            sx: std::ptr::null(),
            sums: std::ptr::null(),
        }
    }

    /// Quads of a group.
    #[inline(always)]
    fn quads(&self, g: usize) -> usize {
        self.quads[usize::from(g + 1 == self.groups)]
    }

    /// What offset codes add to a token's sum of a group: the offset times the sum of the token's codes.
    ///
    /// # Safety
    /// The token and the group exist.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[inline(always)]
    unsafe fn raised(&self, t: usize, g: usize) -> i32 {
        // SAFETY: there is a sum for each group of each token, as the caller promises.
        unsafe { *self.sums.add(t * self.groups + g) * i32::from(self.format.width.offset()) }
    }

    /// A group's first quad.
    #[inline(always)]
    fn weights(&self, g: usize) -> *const u8 {
        self.panel.wrapping_add(g * self.group_stride)
    }

    /// The first token's codes of a group.
    #[inline(always)]
    fn codes(&self, g: usize) -> *const i8 {
        self.x.wrapping_add(g * self.quads[0] * QUAD)
    }

    /// A group's scales in the panel, which follow its quads. They need not be aligned.
    #[inline(always)]
    fn scales(&self, g: usize) -> *const u8 {
        self.weights(g).wrapping_add(self.quads(g) * self.format.quad_bytes())
    }

    /// A group's scales as f32s: in the panel, or converted in the given room. They need not be aligned.
    ///
    /// # Safety
    /// The group exists.
    #[inline(always)]
    unsafe fn scales_at(&self, g: usize, room: &mut [f32; PANEL]) -> *const f32 {
        let at = self.scales(g);
        match self.format.scale {
            Scale::F32 => at.cast(),
            Scale::F16 => {
                // SAFETY: a panel's scales follow the quads of their group.
                let halves = unsafe { at.cast::<[u16; PANEL]>().read_unaligned() };
                for (to, half) in room.iter_mut().zip(halves) {
                    *to = scale_of(half);
                }
                room.as_ptr()
            }
        }
    }
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

    /// `to = start + x w^T` in `panels`. Panics if the destination lacks a panel or has other tokens.
    ///
    /// # Safety
    /// Only this thread writes these panels' columns of the destination during the call.
    pub(crate) unsafe fn run(&self, level: Level, panels: PanelRange, to: &Destination<'_>) {
        // SAFETY: the columns are this thread's, as the caller promises; the kernel is one of the level.
        unsafe {
            match kernel(level, self.w.format) {
                Some((most, kernel)) if self.w.format.groups.count() > 0 => {
                    self.tiled(most, kernel, panels, to)
                }
                _ => self.portable(panels, to),
            }
        }
    }

    /// The reference implementation of all kernels, for every form of the bytes.
    ///
    /// # Safety
    /// Only this thread writes these panels' columns of the destination during the call.
    unsafe fn portable(&self, panels: PanelRange, to: &Destination<'_>) {
        let Integer { width, groups, .. } = self.w.format;
        let (levels, bits) = (self.w.format.levels(), width.bits());
        let flip = if self.w.format.signed { 0x80 } else { 0 };
        let of = Operands::new(self.w.format);
        for panel in panels.each() {
            for t in 0..self.steps {
                let of = self.operands(of, t, panel);
                let mut codes = &self.x.codes[t * self.x.stride..];
                let mut bytes = &self.w.bytes[panel * self.w.format.panel_bytes()..];
                let mut values = [0.0f32; PANEL];
                for g in 0..groups.count() {
                    let (group, rest) = codes.split_at(groups.quads(g) * QUAD);
                    let (quads, _) = bytes.split_at(groups.quads(g) * self.w.format.quad_bytes());
                    (codes, bytes) = (rest, bytes.get(of.group_stride..).unwrap_or(&[]));
                    let mut sums = [0i32; PANEL];
                    for (w, x) in
                        quads.chunks_exact(self.w.format.quad_bytes()).zip(group.as_chunks::<QUAD>().0)
                    {
                        for (o, sum) in sums.iter_mut().enumerate() {
                            // Vectors of four outputs alternate over the levels.
                            let (vector, level) = (o / 4 / levels, o / 4 % levels);
                            for (k, &x) in x.iter().enumerate() {
                                let byte = w[(vector * 4 + o % 4) * QUAD + k] ^ flip;
                                let code = byte >> (level * bits) & (u8::MAX >> (8 - bits));
                                *sum += (i32::from(code) - i32::from(width.offset())) * i32::from(x);
                            }
                        }
                    }
                    let mut room = [0.0; PANEL];
                    // SAFETY: the group exists; a panel's scales are its outputs'.
                    let scales =
                        unsafe { of.scales_at(g, &mut room).cast::<[f32; PANEL]>().read_unaligned() };
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

    /// The operands of a tile from token `t` on, of which `of` has what does not depend on token and panel.
    fn operands(&self, of: Operands, t: usize, panel: usize) -> Operands {
        let (bytes, x) = (of.panel_bytes, &self.x);
        let panel = &self.w.bytes[panel * bytes..][..bytes];
        Operands {
            panel: panel.as_ptr(),
            next: panel.as_ptr_range().end,
            x: x.codes[t * x.stride..].as_ptr(),
            x_stride: x.stride,
            wide: x.wide.as_ptr().wrapping_add(t * x.stride),
            sx: x.scales[t..].as_ptr(),
            sums: x.sums[t * of.groups..].as_ptr(),
            ..of
        }
    }

    /// Processes all tokens of `panels`, which have at least one group, in tiles of at most `most` tokens.
    ///
    /// # Safety
    /// Only this thread writes these panels' columns of the destination during the call; the processor has the kernel's instructions.
    unsafe fn tiled(&self, most: usize, kernel: Kernel, panels: PanelRange, to: &Destination<'_>) {
        let of = Operands::new(self.w.format);
        let block = (BLOCK_BYTES / self.x.stride.max(1)).next_multiple_of(most).max(most);
        for begin in (0..self.steps).step_by(block) {
            let tokens = block.min(self.steps - begin);
            let tiles = tokens.div_ceil(most);
            // Tiles of nearly equal size: a small one would be bound by the latency of its sums.
            let (least, larger) = (tokens / tiles, tokens % tiles);
            for panel in panels.each() {
                let mut t = begin;
                for i in 0..tiles {
                    let mut of = self.operands(of, t, panel);
                    // Each tile prefetches a part of the next panel.
                    of.next = of.next.wrapping_add(i * (of.groups * of.quads[0] * LINE));
                    let n = least + usize::from(i < larger);
                    // SAFETY: the columns are this thread's and the processor has the instructions, as the caller promises; there is one tile at a time, of
                    // as many tokens as the operands have from there on.
                    unsafe { kernel(n, &of, to.tile(t, n, panel, 0)) };
                    t += n;
                }
            }
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
impl Job<'_> {
    /// As [`Job::run`], with the kernels for AVX-VNNI in the encoding of AVX-512; false if there is none for this form of the bytes.
    ///
    /// # Safety
    /// As [`Job::run`]; the processor has AVX-512 VL and VNNI.
    pub(crate) unsafe fn run_evex(&self, panels: PanelRange, to: &Destination<'_>) -> bool {
        let Some((most, kernel)) = x86::vnni256::evex::kernel(self.w.format) else { return false };
        // SAFETY: as the caller promises.
        unsafe { self.tiled(most, kernel, panels, to) };
        true
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Whether the level's kernels read widened codes of activations.
pub(crate) fn needs_wide(level: Level) -> bool {
    match level.set() {
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 | Set::Avx512 => true,
        _ => false,
    }
}

/// The most tokens of a tile, and the kernel for it, if the level has one for this form of the bytes.
fn kernel(level: Level, format: Integer) -> Option<(usize, Kernel)> {
    match level.set() {
        Set::Portable => None,
        #[cfg(target_arch = "aarch64")]
        set => arm::kernel(set, format),
        #[cfg(target_arch = "x86_64")]
        set => x86::kernel(set, format),
    }
}

/// A finite f16, exactly: its bits, shifted into an f32's position and rescaled for the difference of the exponents' biases. Without branches, it compiles to vectors.
#[inline(always)]
pub(crate) fn scale_of(half: u16) -> f32 {
    let bits = (i32::from(half as i16) << 13) & 0x8fff_e000_u32 as i32;
    f32::from_bits(bits as u32) * f32::from_bits((127 + 112) << 23)
}
