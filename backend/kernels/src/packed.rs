//! Memory of packed weights.
#![deny(unsafe_code)]

use lstmc_runtime::Aligned;
use std::sync::Arc;

/// A packed weight's data: our own aligned copy, or the graph's own if the layout is the same.
#[derive(Debug)]
pub struct PackedData(Memory);

#[derive(Debug)]
enum Memory {
    Own(Aligned<f32>),
    /// Data of any alignment. Only tables of f32 rows use this; their rows may start at any address anyway: `codegen::gather` declares that for its
    /// loads, and nothing else reads them.
    Shared(Arc<Vec<f32>>),
}

impl PackedData {
    /// Zeros.
    ///
    /// # Panics
    /// Unless `bytes` is a multiple of four.
    pub fn zeros(bytes: usize) -> PackedData {
        assert!(bytes.is_multiple_of(4), "layouts are of whole f32s");
        PackedData(Memory::Own(Aligned::zeroed(bytes / 4)))
    }

    /// The graph's own f32s.
    pub fn shared(data: Arc<Vec<f32>>) -> PackedData {
        PackedData(Memory::Shared(data))
    }

    /// As f32s, if the layout holds f32s.
    pub fn f32s(&self) -> &[f32] {
        match &self.0 {
            Memory::Own(data) => data,
            Memory::Shared(data) => data,
        }
    }

    /// All bytes, in the machine's order.
    pub fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self.f32s())
    }

    /// As f32s, to fill.
    ///
    /// # Panics
    /// If the data is the graph's.
    pub fn f32s_mut(&mut self) -> &mut [f32] {
        match &mut self.0 {
            Memory::Own(data) => data,
            Memory::Shared(_) => unreachable!("only our own copies are filled"),
        }
    }

    /// All bytes, to fill; panics as [`PackedData::f32s_mut`].
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(self.f32s_mut())
    }
}
