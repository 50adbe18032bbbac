//! Memory of packed weights.

use std::sync::Arc;

/// Bytes that packed weights are aligned to: a cache line, and the widest vector.
const ALIGNMENT: usize = 64;

/// A packed weight's data: our own aligned copy, or the graph's where the layout is the same.
#[derive(Debug)]
pub struct PackedData(Memory);

#[derive(Debug)]
enum Memory {
    /// From f32 `start` on, which is aligned.
    Own {
        data: Vec<f32>,
        start: usize,
    },
    Shared(Arc<Vec<f32>>),
}

impl PackedData {
    /// `bytes`, a multiple of four, of zeros.
    pub(super) fn zeros(bytes: usize) -> PackedData {
        debug_assert_eq!(bytes % 4, 0, "layouts are of whole f32s");
        let spare = ALIGNMENT / 4;
        let mut data = vec![0.0f32; bytes / 4 + spare];
        let start = data.as_ptr().align_offset(ALIGNMENT).min(spare);
        data.truncate(start + bytes / 4);
        PackedData(Memory::Own { data, start })
    }

    pub(super) fn shared(data: Arc<Vec<f32>>) -> PackedData {
        PackedData(Memory::Shared(data))
    }

    /// As f32s, where the layout has such.
    pub fn f32s(&self) -> &[f32] {
        match &self.0 {
            Memory::Own { data, start } => &data[*start..],
            Memory::Shared(data) => data,
        }
    }

    /// All bytes, in the machine's order.
    pub fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self.f32s())
    }

    pub(super) fn f32s_mut(&mut self) -> &mut [f32] {
        match &mut self.0 {
            Memory::Own { data, start } => &mut data[*start..],
            Memory::Shared(_) => unreachable!("only our own copies are filled"),
        }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(self.f32s_mut())
    }
}
