//! Integer kernels for x86-64.

mod avx2;
mod avx512;
pub(super) mod vnni256;

use super::{Kernel, LINE, Operands};
use crate::level::Set;
use crate::{Integer, QUAD};

/// See [`kernel`](super::kernel).
pub(super) fn kernel(set: Set, format: Integer) -> Option<(usize, Kernel)> {
    match set {
        Set::Portable => None,
        Set::Avx2 | Set::Avx512 => avx2::kernel(format),
        Set::AvxVnni => vnni256::kernel(format),
        Set::Avx512Vnni => avx512::kernel(format),
    }
}

impl Operands {
    /// The first token's widened codes of a group.
    #[inline(always)]
    fn wide_codes(&self, g: usize) -> *const i16 {
        self.wide.wrapping_add(g * self.quads[0] * QUAD)
    }
}
