//! A fixed-size buffer that starts at a multiple of [`ALIGNMENT`] bytes.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// Bytes that tensors in a `.lstmc` file, the buffers of a [`Session`](crate::Session) and packed weights are
/// aligned to: one cache line, and the widest vector register.
pub const ALIGNMENT: usize = 64;

/// A slice on the heap whose first element, or whose end if it is empty, is at a multiple of [`ALIGNMENT`] bytes:
/// the form in which [`Kernels`](crate::Kernels) take state and scratch.
///
/// ```text
///   [ < 64 bytes ][ len elements ........ ][ < 64 bytes ]     one allocation, one alignment larger than the elements
/// ```
///
/// Elements are numbers: as aligned as they are large, and no larger than the alignment; other types do not compile. The
/// length is fixed. Moving the buffer does not move its elements.
///
/// ```
/// use lstmc_runtime::{ALIGNMENT, Aligned};
///
/// let mut state = Aligned::<f32>::zeroed(100);
/// state[99] = 1.5;
/// assert_eq!((state.len(), state[0], state[99]), (100, 0.0, 1.5));
/// assert!(state.as_ptr().addr().is_multiple_of(ALIGNMENT));
///
/// let copy = Aligned::copy_of(&state[90..]);
/// assert_eq!(copy[9], 1.5);
/// assert!(copy.as_ptr().addr().is_multiple_of(ALIGNMENT));
/// ```
pub struct Aligned<T> {
    storage: Vec<T>, // [start + len + unused]; never grows, so `start` stays right
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    /// `len` elements with their default value, which is zero for numbers.
    ///
    /// # Panics
    ///
    /// If they do not fit memory.
    pub fn zeroed(len: usize) -> Self {
        const {
            // Then every address that an allocation may have is a whole number of elements before a multiple of it.
            assert!(size_of::<T>() > 0 && size_of::<T>() == align_of::<T>() && size_of::<T>() <= ALIGNMENT);
        }
        let spare = ALIGNMENT / size_of::<T>();
        let storage = vec![T::default(); len.checked_add(spare).expect("buffer length overflows")];
        let start = storage.as_ptr().addr().wrapping_neg() % ALIGNMENT / size_of::<T>();
        Aligned { storage, start, len }
    }

    /// A copy of `source`.
    ///
    /// # Panics
    ///
    /// If it does not fit memory.
    pub fn copy_of(source: &[T]) -> Self {
        let mut buffer = Self::zeroed(source.len());
        buffer.copy_from_slice(source);
        buffer
    }
}

impl<T: Copy + Default> Clone for Aligned<T> {
    fn clone(&self) -> Self {
        Self::copy_of(self)
    }
}

impl<T: fmt::Debug> fmt::Debug for Aligned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
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

    fn check<T: Copy + Default + PartialEq + fmt::Debug>(value: T) {
        let step = ALIGNMENT / size_of::<T>();
        // Around a line, and beyond what an allocator rounds up to.
        for len in [0, 1, step - 1, step, step + 1, 2 * step, 1000, 100_000] {
            let zeros = Aligned::<T>::zeroed(len);
            let mut copy = Aligned::copy_of(&vec![value; len]);
            let clone = copy.clone();
            copy.fill(T::default());
            assert_eq!(
                (&zeros[..], &copy[..], &clone[..]),
                (&copy[..], &vec![T::default(); len][..], &vec![value; len][..])
            );
            for buffer in [&zeros, &copy, &clone, &Box::new(clone.clone())] {
                assert_eq!(
                    (buffer.len(), buffer.as_ptr().addr() % ALIGNMENT),
                    (len, 0),
                    "{len} of {value:?}"
                );
            }
        }
    }

    #[test]
    fn buffers_of_every_number_are_aligned() {
        check(7u8);
        check(7i16);
        check(1.5f32);
        check(1.5f64);
        check(7u128);
    }
}
