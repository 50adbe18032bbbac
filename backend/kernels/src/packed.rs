//! Memory of packed weights.
//!
//! A step reads all weights once. If they do not fit a cache, page tables and pages of 4 KiB, at whose ends hardware stops to prefetch, take a third of that time.
//! So large weights are in pages of 2 MiB where Linux has any to give; `/sys/kernel/mm/transparent_hugepage/enabled` says so.
#![deny(unsafe_code)]

use lstmc_runtime::Aligned;
use memmap2::MmapMut;
use std::sync::Arc;

/// Bytes of a large page.
const LARGE: usize = 2 << 20;

/// A packed weight's data: our own aligned copy, or the graph's own if the layout is the same.
#[derive(Debug)]
pub struct PackedData(Memory);

#[derive(Debug)]
enum Memory {
    Own(Aligned<f32>),
    Large(Large),
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
        PackedData(match Large::zeros(bytes) {
            Some(large) => Memory::Large(large),
            None => Memory::Own(Aligned::zeroed(bytes / 4)),
        })
    }

    /// The graph's own f32s.
    pub fn shared(data: Arc<Vec<f32>>) -> PackedData {
        PackedData(Memory::Shared(data))
    }

    /// As f32s, if the layout holds f32s.
    pub fn f32s(&self) -> &[f32] {
        match &self.0 {
            Memory::Own(data) => data,
            Memory::Large(data) => bytemuck::cast_slice(&data.map[data.start..data.end]),
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
            Memory::Large(data) => bytemuck::cast_slice_mut(&mut data.map[data.start..data.end]),
            Memory::Shared(_) => unreachable!("only our own copies are filled"),
        }
    }

    /// All bytes, to fill; panics as [`PackedData::f32s_mut`].
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(self.f32s_mut())
    }
}

/// Bytes that start at a multiple of a large page: a part of a larger range of addresses, of which only what is written takes memory.
#[derive(Debug)]
struct Large {
    map: MmapMut,
    start: usize,
    end: usize,
}

impl Large {
    /// Zeros; `None` for fewer bytes than a large page, or if the system has no such pages to ask for.
    fn zeros(bytes: usize) -> Option<Large> {
        if bytes < LARGE || cfg!(any(miri, not(target_os = "linux"))) {
            return None;
        }
        let map = MmapMut::map_anon(bytes.checked_add(LARGE)?).ok()?;
        let start = map.as_ptr().addr().wrapping_neg() % LARGE;
        // The last bytes stay in small pages: a large one would take more memory.
        #[cfg(target_os = "linux")]
        map.advise_range(memmap2::Advice::HugePage, start, bytes / LARGE * LARGE).ok()?;
        Some(Large { map, start, end: start + bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_every_size_are_aligned_zeros() {
        for bytes in if cfg!(miri) { vec![0, 4] } else { vec![0, 4, LARGE - 4, LARGE, 2 * LARGE + 4] } {
            let mut data = PackedData::zeros(bytes);
            assert!(data.bytes().len() == bytes && data.bytes().iter().all(|&b| b == 0));
            assert!(data.f32s().as_ptr().addr().is_multiple_of(lstmc_runtime::ALIGNMENT));
            data.f32s_mut().fill(1.0);
            assert!(data.f32s().iter().all(|&x| x == 1.0));
        }
    }
}
