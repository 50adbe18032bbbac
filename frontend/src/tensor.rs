//! Tensors: a dtype, a shape and shared, immutable data.
//!
//! Data is behind an [`Arc`], so cloning a tensor (or a whole graph) never copies weights. A tensor whose
//! text form was parsed without data is *elided*: it knows its dtype, shape and content hash, and any attempt to
//! read it is an error, instead of giving zeros.

use half::{bf16, f16};
use std::fmt;
use std::sync::Arc;

/// The element type of a tensor or value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
    /// Signed 64-bit integer.
    I64,
    /// Signed 32-bit integer.
    I32,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 8-bit integer.
    U8,
    /// Boolean, one byte.
    Bool,
}

impl DType {
    /// Every dtype, in the order of declaration.
    pub const ALL: [DType; 9] = [
        DType::F32,
        DType::F64,
        DType::F16,
        DType::Bf16,
        DType::I64,
        DType::I32,
        DType::I8,
        DType::U8,
        DType::Bool,
    ];

    /// The name used in the text form.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
            DType::I64 => "i64",
            DType::I32 => "i32",
            DType::I8 => "i8",
            DType::U8 => "u8",
            DType::Bool => "bool",
        }
    }

    /// The dtype with this name, as [`DType::name`] spells it.
    pub fn from_name(name: &str) -> Option<DType> {
        DType::ALL.into_iter().find(|d| d.name() == name)
    }

    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::Bf16 => 2,
            DType::I8 | DType::U8 | DType::Bool => 1,
        }
    }

    /// Whether this is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F64 | DType::F16 | DType::Bf16)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The elements of a tensor, in row-major order.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each variant is the dtype of the same name")]
pub enum Data {
    F32(Arc<Vec<f32>>),
    F64(Arc<Vec<f64>>),
    F16(Arc<Vec<f16>>),
    Bf16(Arc<Vec<bf16>>),
    I64(Arc<Vec<i64>>),
    I32(Arc<Vec<i32>>),
    I8(Arc<Vec<i8>>),
    U8(Arc<Vec<u8>>),
    Bool(Arc<Vec<bool>>),
    /// No data available: only its dtype and content hash are known.
    Elided(DType, ContentHash),
}

/// A short hash of a tensor's dtype, shape and bytes: equal tensors print equal hashes.
///
/// A CRC-32: it distinguishes weights in reviews and tests; it is no defence against an adversary.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ContentHash(pub u32);

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{:08x}", self.0)
    }
}

/// Why a tensor could not be created or read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// The number of elements is not the product of the dimensions.
    #[error("a tensor of shape {shape:?} has {expected} elements, found {found}")]
    Length {
        /// The requested shape.
        shape: Vec<usize>,
        /// The product of its dimensions.
        expected: usize,
        /// The number of elements given.
        found: usize,
    },
    /// The product of the dimensions overflows.
    #[error("a tensor of shape {shape:?} has more elements than memory can hold")]
    Overflow {
        /// The requested shape.
        shape: Vec<usize>,
    },
    /// No elements, but so many empty rows that iterating over them would take too long.
    #[error(
        "a tensor of shape {shape:?} has no elements; its other dimensions may come to {MOST_EMPTY} at most"
    )]
    Empty {
        /// The requested shape.
        shape: Vec<usize>,
    },
    /// A dtype that the operation cannot read.
    #[error("expected {expected} data, found {found}")]
    DType {
        /// The requested dtype.
        expected: &'static str,
        /// The tensor's dtype.
        found: DType,
    },
    /// The tensor was parsed from text without its data.
    #[error(
        "the data of this {dtype}{shape:?} tensor ({hash}) is not at hand: the text it came from gives only its hash; \
         write the data inline or read the model from .onnx or .lstmc"
    )]
    Elided {
        /// The dtype.
        dtype: DType,
        /// The shape.
        shape: Vec<usize>,
        /// The content hash.
        hash: ContentHash,
    },
}

/// The maximum product of the other dimensions of a tensor with a zero dimension.
const MOST_EMPTY: usize = 1 << 20;

/// The number of elements of `shape`, or an error if it overflows, or if it is 0 with other dimensions that are too large.
pub fn element_count(shape: &[usize]) -> Result<usize, TensorError> {
    let others = shape.iter().filter(|&&d| d > 0).fold(1usize, |n, &d| n.saturating_mul(d));
    if shape.contains(&0) && others > MOST_EMPTY {
        return Err(TensorError::Empty { shape: shape.to_vec() });
    }
    shape
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .filter(|&n| n.checked_mul(8).is_some_and(|b| b <= isize::MAX as usize))
        .ok_or_else(|| TensorError::Overflow { shape: shape.to_vec() })
}

/// A shaped array of one dtype, cheap to clone.
#[derive(Clone, Debug)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Data,
}

macro_rules! conversions {
    ($($ty:ty, $variant:ident, $make:ident, $get:ident, $name:literal;)*) => {
        $(
            #[doc = concat!("A ", $name, " tensor. Errors where the length does not match the shape.")]
            pub fn $make(shape: impl Into<Vec<usize>>, data: Vec<$ty>) -> Result<Tensor, TensorError> {
                Tensor::new(shape.into(), Data::$variant(Arc::new(data)))
            }

            #[doc = concat!("The elements, which must be ", $name, ".")]
            pub fn $get(&self) -> Result<&[$ty], TensorError> {
                match &self.data {
                    Data::$variant(v) => Ok(v),
                    _ => Err(self.wrong($name)),
                }
            }
        )*
    };
}

impl Tensor {
    /// A tensor of `shape` over `data`. Returns an error if the length does not match the shape.
    pub fn new(shape: Vec<usize>, data: Data) -> Result<Tensor, TensorError> {
        let expected = element_count(&shape)?;
        let found = match &data {
            Data::F32(v) => v.len(),
            Data::F64(v) => v.len(),
            Data::F16(v) => v.len(),
            Data::Bf16(v) => v.len(),
            Data::I64(v) => v.len(),
            Data::I32(v) => v.len(),
            Data::I8(v) => v.len(),
            Data::U8(v) => v.len(),
            Data::Bool(v) => v.len(),
            Data::Elided(..) => expected,
        };
        if found != expected {
            return Err(TensorError::Length { shape, expected, found });
        }
        Ok(Tensor { shape, data })
    }

    conversions! {
        f32, F32, from_f32, f32s, "f32";
        f64, F64, from_f64, f64s, "f64";
        f16, F16, from_f16, f16s, "f16";
        bf16, Bf16, from_bf16, bf16s, "bf16";
        i64, I64, from_i64, i64s, "i64";
        i32, I32, from_i32, i32s, "i32";
        i8, I8, from_i8, i8s, "i8";
        u8, U8, from_u8, u8s, "u8";
        bool, Bool, from_bool, bools, "bool";
    }

    /// The dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        match &self.data {
            Data::F32(_) => DType::F32,
            Data::F64(_) => DType::F64,
            Data::F16(_) => DType::F16,
            Data::Bf16(_) => DType::Bf16,
            Data::I64(_) => DType::I64,
            Data::I32(_) => DType::I32,
            Data::I8(_) => DType::I8,
            Data::U8(_) => DType::U8,
            Data::Bool(_) => DType::Bool,
            Data::Elided(d, _) => *d,
        }
    }

    /// The elements.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether only the hash of the data is known.
    pub fn is_elided(&self) -> bool {
        matches!(self.data, Data::Elided(..))
    }

    /// The same elements under another shape of equal element count.
    pub fn reshaped(self, shape: impl Into<Vec<usize>>) -> Result<Tensor, TensorError> {
        Tensor::new(shape.into(), self.data)
    }

    /// The same tensor without its data: what parsing its text form gives.
    pub fn elide(&self) -> Tensor {
        Tensor { shape: self.shape.clone(), data: Data::Elided(self.dtype(), self.hash()) }
    }

    /// All elements as f32, for any dtype; borrowed if they are f32 already.
    pub fn to_f32(&self) -> Result<Arc<Vec<f32>>, TensorError> {
        Ok(match &self.data {
            Data::F32(v) => v.clone(),
            Data::F64(v) => Arc::new(v.iter().map(|&x| x as f32).collect()),
            Data::F16(v) => Arc::new(v.iter().map(|x| x.to_f32()).collect()),
            Data::Bf16(v) => Arc::new(v.iter().map(|x| x.to_f32()).collect()),
            Data::I64(v) => Arc::new(v.iter().map(|&x| x as f32).collect()),
            Data::I32(v) => Arc::new(v.iter().map(|&x| x as f32).collect()),
            Data::I8(v) => Arc::new(v.iter().map(|&x| f32::from(x)).collect()),
            Data::U8(v) => Arc::new(v.iter().map(|&x| f32::from(x)).collect()),
            Data::Bool(v) => Arc::new(v.iter().map(|&x| f32::from(u8::from(x))).collect()),
            Data::Elided(..) => return Err(self.wrong("f32")),
        })
    }

    /// All elements as f64, for any dtype.
    pub fn to_f64(&self) -> Result<Vec<f64>, TensorError> {
        Ok(match &self.data {
            Data::F64(v) => v.to_vec(),
            Data::I64(v) => v.iter().map(|&x| x as f64).collect(),
            Data::I32(v) => v.iter().map(|&x| f64::from(x)).collect(),
            _ => self.to_f32()?.iter().map(|&x| f64::from(x)).collect(),
        })
    }

    /// The elements as little-endian bytes, row-major; an error if the data is elided.
    pub fn to_le_bytes(&self) -> Result<Vec<u8>, TensorError> {
        Ok(match &self.data {
            Data::F32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::F64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::F16(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::Bf16(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::I64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::I32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::I8(v) => v.iter().map(|&x| x as u8).collect(),
            Data::U8(v) => v.as_ref().clone(),
            Data::Bool(v) => v.iter().map(|&x| u8::from(x)).collect(),
            Data::Elided(..) => return Err(self.wrong("any")),
        })
    }

    /// A tensor from little-endian bytes, row-major.
    pub fn from_le_bytes(
        dtype: DType,
        shape: impl Into<Vec<usize>>,
        bytes: &[u8],
    ) -> Result<Tensor, TensorError> {
        fn each<const N: usize, T>(bytes: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
            let (chunks, _) = bytes.as_chunks::<N>();
            chunks.iter().map(|c| f(*c)).collect()
        }
        let shape = shape.into();
        let expected = element_count(&shape)?;
        if bytes.len() != expected * dtype.size() {
            return Err(TensorError::Length { shape, expected, found: bytes.len() / dtype.size() });
        }
        let data = match dtype {
            DType::F32 => Data::F32(Arc::new(each(bytes, f32::from_le_bytes))),
            DType::F64 => Data::F64(Arc::new(each(bytes, f64::from_le_bytes))),
            DType::F16 => Data::F16(Arc::new(each(bytes, f16::from_le_bytes))),
            DType::Bf16 => Data::Bf16(Arc::new(each(bytes, bf16::from_le_bytes))),
            DType::I64 => Data::I64(Arc::new(each(bytes, i64::from_le_bytes))),
            DType::I32 => Data::I32(Arc::new(each(bytes, i32::from_le_bytes))),
            DType::I8 => Data::I8(Arc::new(bytes.iter().map(|&b| b as i8).collect())),
            DType::U8 => Data::U8(Arc::new(bytes.to_vec())),
            DType::Bool => Data::Bool(Arc::new(bytes.iter().map(|&b| b != 0).collect())),
        };
        Tensor::new(shape, data)
    }

    /// The content hash: of dtype, shape and little-endian bytes.
    pub fn hash(&self) -> ContentHash {
        if let Data::Elided(_, hash) = self.data {
            return hash;
        }
        let mut h = crc32fast::Hasher::new();
        h.update(self.dtype().name().as_bytes());
        for &d in &self.shape {
            h.update(&(d as u64).to_le_bytes());
        }
        // Chunks, so that hashing a large weight makes no second copy of it.
        fn feed<T: Copy, const N: usize>(h: &mut crc32fast::Hasher, v: &[T], f: impl Fn(T) -> [u8; N]) {
            let mut buffer = Vec::with_capacity(4096 * N);
            for chunk in v.chunks(4096) {
                buffer.clear();
                chunk.iter().for_each(|&x| buffer.extend_from_slice(&f(x)));
                h.update(&buffer);
            }
        }
        match &self.data {
            Data::F32(v) => feed(&mut h, v, f32::to_le_bytes),
            Data::F64(v) => feed(&mut h, v, f64::to_le_bytes),
            Data::F16(v) => feed(&mut h, v, f16::to_le_bytes),
            Data::Bf16(v) => feed(&mut h, v, bf16::to_le_bytes),
            Data::I64(v) => feed(&mut h, v, i64::to_le_bytes),
            Data::I32(v) => feed(&mut h, v, i32::to_le_bytes),
            Data::I8(v) => feed(&mut h, v, i8::to_le_bytes),
            Data::U8(v) => h.update(v),
            Data::Bool(v) => feed(&mut h, v, |b: bool| [u8::from(b)]),
            Data::Elided(..) => {}
        }
        ContentHash(h.finalize())
    }

    fn wrong(&self, expected: &'static str) -> TensorError {
        match &self.data {
            Data::Elided(dtype, hash) => {
                TensorError::Elided { dtype: *dtype, shape: self.shape.clone(), hash: *hash }
            }
            _ => TensorError::DType { expected, found: self.dtype() },
        }
    }
}

/// Bitwise equality of dtype, shape and elements (a NaN equals itself); elided tensors compare by hash.
impl PartialEq for Tensor {
    fn eq(&self, other: &Tensor) -> bool {
        if self.dtype() != other.dtype() || self.shape != other.shape {
            return false;
        }
        match (&self.data, &other.data) {
            (Data::F32(a), Data::F32(b)) => {
                Arc::ptr_eq(a, b) || a.iter().zip(b.iter()).all(|(x, y)| x.to_bits() == y.to_bits())
            }
            (Data::F64(a), Data::F64(b)) => a.iter().zip(b.iter()).all(|(x, y)| x.to_bits() == y.to_bits()),
            (Data::F16(a), Data::F16(b)) => a.iter().zip(b.iter()).all(|(x, y)| x.to_bits() == y.to_bits()),
            (Data::Bf16(a), Data::Bf16(b)) => a.iter().zip(b.iter()).all(|(x, y)| x.to_bits() == y.to_bits()),
            (Data::I64(a), Data::I64(b)) => a == b,
            (Data::I32(a), Data::I32(b)) => a == b,
            (Data::I8(a), Data::I8(b)) => a == b,
            (Data::U8(a), Data::U8(b)) => a == b,
            (Data::Bool(a), Data::Bool(b)) => a == b,
            _ => self.hash() == other.hash(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_that_does_not_fit_the_shape_is_an_error() {
        let e = Tensor::from_f32([2, 3], vec![0.0; 5]).unwrap_err();
        assert_eq!(e.to_string(), "a tensor of shape [2, 3] has 6 elements, found 5");
    }

    #[test]
    fn dimensions_that_overflow_are_an_error() {
        assert!(matches!(Tensor::from_f32([1 << 62, 8], vec![]), Err(TensorError::Overflow { .. })));
        assert!(matches!(element_count(&[usize::MAX, 2]), Err(TensorError::Overflow { .. })));
        assert!(matches!(element_count(&[1 << 40, 0]), Err(TensorError::Empty { .. })));
        assert_eq!(element_count(&[1 << 20, 0]), Ok(0));
    }

    #[test]
    fn bytes_round_trip_for_every_dtype() {
        for dtype in DType::ALL {
            let bytes: Vec<u8> = (0..4 * dtype.size()).map(|i| u8::from(i % 3 == 0)).collect();
            let t = Tensor::from_le_bytes(dtype, [2, 2], &bytes).unwrap();
            assert_eq!(t.to_le_bytes().unwrap(), bytes);
            assert_eq!(t.dtype(), dtype);
        }
    }

    #[test]
    fn eliding_keeps_the_hash_and_refuses_to_be_read() {
        let t = Tensor::from_f32([2], vec![1.0, 2.0]).unwrap();
        let e = t.elide();
        assert_eq!(e.hash(), t.hash());
        assert_eq!(e, t);
        assert!(matches!(e.f32s(), Err(TensorError::Elided { .. })));
    }
}
