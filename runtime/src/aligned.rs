//! A fixed-size buffer that starts at a multiple of [`ALIGNMENT`] bytes.

use std::ops::{Deref, DerefMut};

/// Bytes that tensors in a `.lstmc` file and the buffers of a [`Session`](crate::Session) are aligned
/// to: one cache line, and the widest vector register.
pub const ALIGNMENT: usize = 64;

/// `len` elements, the first of them at a multiple of [`ALIGNMENT`] bytes, in an allocation that is one
/// alignment larger. Moving the buffer does not move its elements.
#[derive(Debug)]
pub(crate) struct Aligned<T> {
    storage: Vec<T>, // [start + len + unused]; never grows, so `start` stays right
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    /// `len` elements with their default value, which is zero for numbers.
    pub(crate) fn zeroed(len: usize) -> Self {
        const { assert!(ALIGNMENT.is_multiple_of(size_of::<T>())) };
        let spare = ALIGNMENT / size_of::<T>();
        let storage = vec![T::default(); len.checked_add(spare).expect("buffer length overflows")];
        let start = storage.as_ptr().addr().wrapping_neg() % ALIGNMENT / size_of::<T>();
        Aligned { storage, start, len }
    }

    /// A copy of `source`.
    pub(crate) fn copy_of(source: &[T]) -> Self {
        let mut buffer = Self::zeroed(source.len());
        buffer.copy_from_slice(source);
        buffer
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.storage[self.start..self.start + self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.storage[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_of_the_right_length() {
        for len in [0, 1, 3, 31, 64, 65, 1000] {
            let bytes = Aligned::<u8>::zeroed(len);
            let floats = Aligned::copy_of(&vec![1.5f32; len]);
            assert_eq!((bytes.len(), floats.len()), (len, len));
            assert_eq!(bytes.as_ptr().addr() % ALIGNMENT, 0);
            assert_eq!(floats.as_ptr().addr() % ALIGNMENT, 0);
            assert!(bytes.iter().all(|&byte| byte == 0) && floats.iter().all(|&x| x == 1.5));
        }
    }
}
