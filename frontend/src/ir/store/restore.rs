//! From blobs back to tensors.

use super::{Encoding, MAX_ELEMENTS_PER_BYTE, MAX_FLAGS_PER_BYTE, Stored, bits, entropy, may_expand};
use crate::ir::parse::{Kept, Wanted, WeightSource};
use crate::tensor::{DType, Tensor, TensorError, element_count};

/// Why a blob is not the requested tensor.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The encoding cannot hold the dtype.
    #[error("{path}: a {dtype} tensor cannot be stored as {encoding}")]
    Encoding {
        /// The tensor.
        path: String,
        /// The requested dtype.
        dtype: DType,
        /// The blob's encoding.
        encoding: Encoding,
    },
    /// Neither the tensor's shape nor that of the elements a mask keeps.
    #[error("{path}: expected shape {expected:?}{}, found {found:?}", kept.map_or(String::new(), |n| format!(" or [{n}]")))]
    Shape {
        /// The tensor.
        path: String,
        /// The requested shape.
        expected: Vec<usize>,
        /// The elements kept, under a mask.
        kept: Option<usize>,
        /// The blob's shape.
        found: Vec<usize>,
    },
    /// The bytes are too few, too many or not what the encoding produces.
    #[error("{path}: {bytes} bytes are no {encoding} blob of {elements} elements")]
    Bytes {
        /// The tensor.
        path: String,
        /// The blob's encoding.
        encoding: Encoding,
        /// The elements that it should hold.
        elements: usize,
        /// The blob's length.
        bytes: usize,
    },
    /// The tensor is out of proportion to the blob.
    #[error("{path}: {bytes} bytes may not stand for {elements} elements")]
    Expansion {
        /// The tensor.
        path: String,
        /// The requested number of elements.
        elements: usize,
        /// The blob's length.
        bytes: usize,
    },
    /// The shape overflows.
    #[error("{path}: {error}")]
    Tensor {
        /// The tensor.
        path: String,
        /// What is wrong with it.
        error: TensorError,
    },
}

/// Restores a tensor from what [`store`](super::store) wrote; elements that a mask drops become zero.
pub fn restore(wanted: &Wanted<'_>, stored: &Stored<'_>) -> Result<Tensor, RestoreError> {
    let path = || wanted.path.to_string();
    let tensor_error = |error| RestoreError::Tensor { path: path(), error };
    let total = element_count(wanted.shape).map_err(tensor_error)?;
    let (bytes, encoding) = (&*stored.bytes, stored.encoding);
    let matrix = <[usize; 2]>::try_from(wanted.shape).ok();
    let kept = wanted.kept.zip(matrix).filter(|(kept, shape)| {
        let [rows, cols] = kept.pattern.grid(*shape);
        rows.checked_mul(cols) == Some(kept.mask.len())
    });
    let count = kept.map(|(kept, shape)| kept.pattern.count(shape, kept.mask));
    let elements = if stored.shape == wanted.shape {
        total
    } else if let Some(count) = count.filter(|&n| stored.shape == [n]) {
        count
    } else {
        let (expected, found) = (wanted.shape.to_vec(), stored.shape.clone());
        return Err(RestoreError::Shape { path: path(), expected, kept: count, found });
    };
    let kept = kept.filter(|_| stored.shape != wanted.shape);
    let per_byte = match encoding {
        Encoding::Delta => Some(MAX_FLAGS_PER_BYTE),
        _ => kept.map(|_| MAX_ELEMENTS_PER_BYTE),
    };
    if per_byte.is_some_and(|n| !may_expand(total, bytes.len(), n)) {
        return Err(RestoreError::Expansion { path: path(), elements: total, bytes: bytes.len() });
    }
    let bad_bytes = || RestoreError::Bytes { path: path(), encoding, elements, bytes: bytes.len() };
    let shape = wanted.shape;
    if encoding.dtype() != wanted.dtype {
        return Err(RestoreError::Encoding { path: path(), dtype: wanted.dtype, encoding });
    }
    if encoding.is_coded() {
        let (encoding, bytes) = entropy::expand(encoding, bytes, &stored.shape).ok_or_else(bad_bytes)?;
        let plain = Stored { path: path(), encoding, shape: stored.shape.clone(), bytes: bytes.into() };
        return restore(wanted, &plain);
    }
    match encoding {
        Encoding::Plain(dtype) => {
            if bytes.len() != elements * dtype.size()
                || (dtype == DType::Bool && bytes.iter().any(|&b| b > 1))
            {
                return Err(bad_bytes());
            }
            match kept {
                None => Tensor::from_le_bytes(dtype, shape, bytes).map_err(tensor_error),
                Some(kept) => {
                    let mut all = vec![0; total * dtype.size()];
                    scatter(kept, dtype.size(), bytes, &mut all);
                    Tensor::from_le_bytes(dtype, shape, &all).map_err(tensor_error)
                }
            }
        }
        Encoding::Packed(format) => {
            let codes = bits::unpack(bytes, elements, format).ok_or_else(bad_bytes)?;
            let codes = match kept {
                None => codes,
                Some(kept) => {
                    let mut all = vec![0; total];
                    scatter(kept, 1, &codes, &mut all);
                    all
                }
            };
            Tensor::from_i8(shape, codes).map_err(tensor_error)
        }
        Encoding::Bitmap => {
            let mask = bits::read_bitmap(bytes, elements).ok_or_else(bad_bytes)?;
            Tensor::from_bool(shape, mask).map_err(tensor_error)
        }
        Encoding::Delta => {
            let mask = bits::read_rice(bytes, elements).ok_or_else(bad_bytes)?;
            Tensor::from_bool(shape, mask).map_err(tensor_error)
        }
        Encoding::Entropy(_) | Encoding::Context(_) | Encoding::Planes(_) => {
            unreachable!("coded blobs are expanded above")
        }
    }
}

/// Puts `values`, groups of `size`, where the mask keeps an element.
fn scatter<T: Copy>((kept, shape): (Kept<'_>, [usize; 2]), size: usize, values: &[T], all: &mut [T]) {
    let mask = kept.pattern.expand(shape, kept.mask);
    let places = all.chunks_mut(size).zip(mask).filter(|(_, keep)| *keep);
    for ((place, _), value) in places.zip(values.chunks(size)) {
        place.copy_from_slice(value);
    }
}

/// Blobs as the source of a parser's data: `find` returns the blob at a path. A missing blob is an error.
///
/// ```
/// use lstmc_frontend::ir::{arbitrary, parse_with, print, store::{StoredWeights, store}};
/// let graph = arbitrary::language_model(8, 1, 20, 1);
/// let (text, blobs) = (print(&graph), store(&graph)?);
/// let mut source = StoredWeights::new(|path: &str| blobs.iter().find(|b| b.path == path).cloned());
/// let back = parse_with(&text, &mut source)?;
/// assert!(graph.weights().zip(back.weights()).all(|((_, a), (_, b))| a == b));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct StoredWeights<F> {
    find: F,
    trusted: bool,
}

impl<'a, F: FnMut(&str) -> Option<Stored<'a>>> StoredWeights<F> {
    /// Blobs by path; each tensor is checked against the hash in the text.
    pub fn new(find: F) -> StoredWeights<F> {
        StoredWeights { find, trusted: false }
    }

    /// Skips the check of the hashes, for text and blobs that a checksum already covers.
    pub fn trusted(self) -> StoredWeights<F> {
        StoredWeights { trusted: true, ..self }
    }
}

impl<'a, F: FnMut(&str) -> Option<Stored<'a>>> WeightSource for StoredWeights<F> {
    fn tensor(&mut self, wanted: &Wanted<'_>) -> Result<Option<Tensor>, String> {
        let stored = (self.find)(wanted.path).ok_or_else(|| format!("there is no tensor {}", wanted.path))?;
        restore(wanted, &stored).map(Some).map_err(|e| e.to_string())
    }

    fn is_trusted(&self) -> bool {
        self.trusted
    }
}
