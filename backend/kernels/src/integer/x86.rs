//! Integer kernels for x86-64.

mod avx2;
mod avx512;
pub(super) mod vnni256;

use super::{Kernel, LINE, Operands, PanelCall, PanelProduct};
use crate::level::Set;
use crate::share::Tile;
use crate::{Groups, Integer, PANEL, QUAD, Scale};
use lstmc_frontend::ir::PackedWidth;

/// See [`kernel`](super::kernel).
pub(super) fn kernel(set: Set, format: Integer) -> Option<(usize, Kernel)> {
    match set {
        Set::Portable => None,
        Set::Avx2 | Set::Avx512 => avx2::kernel(format),
        Set::AvxVnni => vnni256::kernel(format),
        Set::Avx512Vnni => avx512::kernel(format),
    }
}

/// See [`panel_product`](super::panel_product).
pub(super) fn panel_product(set: Set, format: Integer) -> Option<PanelProduct> {
    match set {
        Set::Portable | Set::AvxVnni => None,
        Set::Avx2 | Set::Avx512 => avx2::panel_product(format),
        Set::Avx512Vnni => avx512::panel_product(format),
    }
}

impl Operands {
    /// What offset codes add to a token's sum of a group: the offset times the sum of the token's codes.
    ///
    /// # Safety
    /// The token and the group exist.
    #[inline(always)]
    unsafe fn raised(&self, t: usize, g: usize) -> i32 {
        // SAFETY: there is a sum for each group of each token, as the caller promises.
        unsafe { *self.sums.add(t * self.groups + g) * i32::from(self.format.width.offset()) }
    }

    /// The first token's widened codes of a group.
    #[inline(always)]
    fn wide_codes(&self, g: usize) -> *const i16 {
        self.wide.wrapping_add(g * self.quads[0] * QUAD)
    }
}

impl PanelCall {
    /// Calls `f` for each panel, with its columns.
    ///
    /// # Safety
    /// As [`PanelProduct`].
    #[inline(always)]
    unsafe fn each(&self, width: PackedWidth, [from, end]: [usize; 2], mut f: impl FnMut(&Operands, Tile)) {
        let groups = Groups { len: self.groups[0], size: self.groups[1] };
        let scale = if self.half == 0 { Scale::F32 } else { Scale::F16 };
        let mut of = Operands::new(Integer { width, groups, scale, signed: width == PackedWidth::Eight });
        (of.x, of.sx, of.sums) = (self.codes, self.scale, self.sums);
        for panel in from..end {
            of.panel = self.weights.wrapping_add(panel * of.panel_bytes);
            let column = panel * PANEL;
            let start = if self.start.is_null() { self.start } else { self.start.wrapping_add(column) };
            let (to, columns) = (self.to.wrapping_add(column), self.columns - column);
            f(&of, Tile { to, stride: 0, start, start_stride: 0, tokens: 1, columns });
        }
    }
}
