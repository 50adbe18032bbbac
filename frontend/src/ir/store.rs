//! Weights to bytes on disk, and back.
//!
//! [`store`] turns the weights of a graph into named blobs, one per tensor; together with the text form ([`print()`](super::print()))
//! they represent the whole graph. [`StoredWeights`] gives the blobs back to [`parse_with`](super::parse_with).
//!
//! | tensor                 | encoding                     | bytes                                                                    |
//! |------------------------|------------------------------|--------------------------------------------------------------------------|
//! | dense, scales          | its dtype: `f32`, `f16`, ..  | little-endian, row-major                                                 |
//! | codes, zero points     | the name of their [`CodeFormat`]: `int8`, `int4`, .. | two's complement in as many bits, without gaps, first code in the lowest ones |
//! | mask                   | `bitmap`                     | one bit per block, first in the lowest bit                               |
//! | mask                   | `delta`                      | Rice-coded gaps between kept blocks; see below                           |
//!
//! Under a mask, only the kept values and codes are stored, in row-major order; their stored shape is then `[kept]`. A mask takes
//! the smaller of its two encodings. A part that several maps share is stored once, under the path where it first occurs. Unused bits
//! in the last byte are zero. Sizes ([`stored_bytes`], [`weight_bytes`]) are exactly those of [`store`], without encoding anything.
//!
//! `delta` (Rice and Plaunt 1971): the first byte is `k`; then for each kept block, with `gap` the number of dropped blocks since
//! the last kept one, `gap >> k` zero bits, a one, and the low `k` bits of `gap`; `k` is the one that makes the blob smallest. For a
//! random mask this comes within a few percent of the entropy.
//!
//! With [`store_compressed`] a blob is entropy-coded on top, if that makes it smaller. Codes and numbers take the smaller of two ways:
//!
//! | blob            | encoding                | bytes                                                                        |
//! |-----------------|-------------------------|------------------------------------------------------------------------------|
//! | codes, numbers  | `int4+rans`, `f16+rans` | rANS with one table of the frequencies of codes, or of the bytes of numbers  |
//! | numbers         | `f16+planes`            | rANS with one table for each byte of a number                                |
//! | codes           | `int4+context`          | rANS with adaptive frequencies for each magnitude that column and row predict |
//!
//! `store/entropy.rs` and `store/context.rs` have the formats, with formulas and sources.
//!
//! A blob may represent at most this many elements per byte ([`MAX_ELEMENTS_PER_BYTE`], [`MAX_FLAGS_PER_BYTE`]), so that a small
//! hostile file cannot ask for a large allocation. If that would refuse a nearly empty map, the simpler encoding is used.

mod bits;
mod context;
mod entropy;
mod restore;

use super::graph::Graph;
use super::map::{CodeFormat, LinearMap, MapError, Part, PartId};
use super::parse::Kept;
use super::print::name;
use crate::tensor::{DType, Data, Tensor};
use half::slice::HalfFloatSliceExt;
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

pub(crate) use bits::{best_rice, read_rice, write_rice};
pub use restore::{RestoreError, StoredWeights, restore};

/// The encoding of a blob's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Encoding {
    /// Elements of a dtype, little-endian.
    Plain(DType),
    /// Signed codes.
    Packed(CodeFormat),
    /// A mask, one bit per block.
    Bitmap,
    /// A mask, gaps between kept blocks.
    Delta,
    /// An entropy-coded blob of another encoding, with one table of frequencies.
    Entropy(Inner),
    /// Elements of a dtype, entropy-coded with one table for each of their bytes.
    Planes(DType),
    /// Codes, entropy-coded in the context of their column and row.
    Context(CodeFormat),
}

/// The encodings that are worth entropy coding.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Inner {
    /// Elements of a dtype.
    Plain(DType),
    /// Signed codes.
    Packed(CodeFormat),
}

impl Encoding {
    /// The name: `f32`, `int4`, `bitmap`, ..
    pub fn name(self) -> &'static str {
        match self {
            Encoding::Plain(dtype) => dtype.name(),
            Encoding::Packed(format) => format.name(),
            Encoding::Bitmap => "bitmap",
            Encoding::Delta => "delta",
            Encoding::Context(format) => format.context_name(),
            Encoding::Planes(dtype) => match dtype {
                DType::F32 => "f32+planes",
                DType::F64 => "f64+planes",
                DType::F16 => "f16+planes",
                DType::Bf16 => "bf16+planes",
                DType::I64 => "i64+planes",
                DType::I32 => "i32+planes",
                DType::I8 => "i8+planes",
                DType::U8 => "u8+planes",
                DType::Bool => "bool+planes",
            },
            Encoding::Entropy(Inner::Packed(format)) => format.coded_name(),
            Encoding::Entropy(Inner::Plain(dtype)) => match dtype {
                DType::F32 => "f32+rans",
                DType::F64 => "f64+rans",
                DType::F16 => "f16+rans",
                DType::Bf16 => "bf16+rans",
                DType::I64 => "i64+rans",
                DType::I32 => "i32+rans",
                DType::I8 => "i8+rans",
                DType::U8 => "u8+rans",
                DType::Bool => "bool+rans",
            },
        }
    }

    /// Every encoding.
    pub fn all() -> impl Iterator<Item = Encoding> {
        let formats = || CodeFormat::ALL.into_iter().rev();
        let plain = DType::ALL.into_iter().map(Encoding::Plain).chain(formats().map(Encoding::Packed));
        let inner = DType::ALL.into_iter().map(Inner::Plain).chain(formats().map(Inner::Packed));
        let masks = [Encoding::Bitmap, Encoding::Delta];
        plain
            .chain(masks)
            .chain(inner.map(Encoding::Entropy))
            .chain(formats().map(Encoding::Context))
            .chain(DType::ALL.into_iter().map(Encoding::Planes))
    }

    /// Whether it is entropy-coded.
    pub fn is_coded(self) -> bool {
        matches!(self, Encoding::Entropy(_) | Encoding::Context(_) | Encoding::Planes(_))
    }

    /// The dtype of the tensor.
    pub fn dtype(self) -> DType {
        match self {
            Encoding::Plain(dtype) | Encoding::Entropy(Inner::Plain(dtype)) | Encoding::Planes(dtype) => {
                dtype
            }
            Encoding::Packed(_) | Encoding::Entropy(Inner::Packed(_)) | Encoding::Context(_) => DType::I8,
            Encoding::Bitmap | Encoding::Delta => DType::Bool,
        }
    }

    /// The encoding with this name, as [`Encoding::name`] spells it.
    pub fn from_name(name: &str) -> Option<Encoding> {
        Encoding::all().find(|e| e.name() == name)
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One tensor as it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored<'a> {
    /// Weight, parts, tensor: `decoder/values/codes`; the weight's name is quoted as in the text form if it is not plain.
    pub path: String,
    /// The encoding of the bytes.
    pub encoding: Encoding,
    /// The dimensions of what is stored: the tensor's, or `[kept]` under a mask.
    pub shape: Vec<usize>,
    /// The bytes; borrowed if the tensor already has them in this form.
    pub bytes: Cow<'a, [u8]>,
}

/// The maximum number of matrix elements per byte of kept values (beyond [`FREE_ELEMENTS`]).
pub const MAX_ELEMENTS_PER_BYTE: usize = 256;

/// The maximum number of blocks per byte of a `delta` mask (beyond [`FREE_ELEMENTS`]).
pub const MAX_FLAGS_PER_BYTE: usize = 1024;

/// The number of elements that any blob may represent, however small.
pub const FREE_ELEMENTS: usize = 1 << 16;

/// Whether `bytes` may represent this many elements.
fn may_expand(elements: usize, bytes: usize, per_byte: usize) -> bool {
    elements <= bytes.saturating_mul(per_byte).saturating_add(FREE_ELEMENTS)
}

/// The fewest bytes that may represent this many elements, at [`MAX_ELEMENTS_PER_BYTE`].
fn least_bytes(elements: usize) -> usize {
    elements.saturating_sub(FREE_ELEMENTS).div_ceil(MAX_ELEMENTS_PER_BYTE)
}

/// Every tensor of every weight, in the order in which the parser of the text form requests them. The data must be available.
pub fn store(graph: &Graph) -> Result<Vec<Stored<'_>>, MapError> {
    store_by(graph, |part| part.store())
}

/// As [`store`], with every blob entropy-coded that becomes smaller by it.
pub fn store_compressed(graph: &Graph) -> Result<Vec<Stored<'_>>, MapError> {
    store_by(graph, |part| part.store_compressed())
}

fn store_by<'a>(
    graph: &'a Graph,
    store: impl Fn(&Stowed<'_, 'a>) -> Result<Stored<'a>, MapError>,
) -> Result<Vec<Stored<'a>>, MapError> {
    let mut all = vec![];
    let mut seen = HashSet::new();
    for (_, weight) in graph.weights() {
        walk(&weight.map, &name(&weight.name), None, &mut seen, &mut |part| {
            all.push(store(part)?);
            Ok(())
        })?;
    }
    Ok(all)
}

/// The bytes that a map takes when stored. A mask's data must be available; other tensors' data need not be.
pub fn stored_bytes(map: &LinearMap) -> Result<usize, MapError> {
    bytes_of(map, &mut HashSet::new())
}

/// The bytes that each weight takes when stored, by name. A shared part counts for the first weight that has it.
pub fn weight_bytes(graph: &Graph) -> Result<Vec<(String, usize)>, MapError> {
    let mut seen = HashSet::new();
    graph.weights().map(|(_, w)| Ok((w.name.clone(), bytes_of(&w.map, &mut seen)?))).collect()
}

/// Whether a graph is meant to be stored by [`store_compressed`]: some of its maps have columns, as codes at a rate have, whose widths say little about
/// their bytes.
pub fn is_meant_for_coding(graph: &Graph) -> bool {
    fn has_columns(map: &LinearMap) -> bool {
        map.columns().is_some() || map.children().iter().any(|(_, child)| has_columns(child))
    }
    graph.weights().any(|(_, w)| has_columns(&w.map))
}

/// As [`weight_bytes`], with every blob entropy-coded as by [`store_compressed`]; encodes everything, so the data must be available.
pub fn compressed_weight_bytes(graph: &Graph) -> Result<Vec<(String, usize)>, MapError> {
    let bytes = compressed_bytes(graph.weights().map(|(_, w)| &w.map))?;
    Ok(graph.weights().map(|(_, w)| w.name.clone()).zip(bytes).collect())
}

/// The bytes that each of these maps takes when stored and entropy-coded; a part that several share counts for the first that has it.
pub fn compressed_bytes<'a>(maps: impl IntoIterator<Item = &'a Part>) -> Result<Vec<usize>, MapError> {
    let mut seen = HashSet::new();
    let mut bytes = |map: &Part| -> Result<usize, MapError> {
        let mut total = 0;
        walk(map, "", None, &mut seen, &mut |part| {
            total += part.store_compressed()?.bytes.len();
            Ok(())
        })?;
        Ok(total)
    };
    maps.into_iter().map(&mut bytes).collect()
}

fn bytes_of(map: &LinearMap, seen: &mut HashSet<PartId>) -> Result<usize, MapError> {
    let mut total = 0;
    walk(map, "", None, seen, &mut |part| {
        total += part.plan()?.bytes;
        Ok(())
    })?;
    Ok(total)
}

/// One tensor of a map, with everything that its encoding depends on.
struct Stowed<'p, 'a> {
    path: &'p str,
    tensor_name: &'static str,
    tensor: &'a Tensor,
    /// The width of codes and zero points.
    format: Option<CodeFormat>,
    is_mask: bool,
    /// The mask over values and codes, and the number of elements kept.
    kept: Option<(Kept<'a>, usize)>,
}

/// How a part will be stored.
struct Plan {
    encoding: Encoding,
    /// Whether only kept elements are stored.
    sparse: bool,
    elements: usize,
    bytes: usize,
    /// The parameter of a `delta` mask.
    rice: u8,
}

/// Calls `f` for each tensor of a map; children seen before are skipped.
fn walk<'a>(
    map: &'a LinearMap,
    path: &str,
    kept: Option<(Kept<'a>, usize)>,
    seen: &mut HashSet<PartId>,
    f: &mut dyn FnMut(&Stowed<'_, 'a>) -> Result<(), MapError>,
) -> Result<(), MapError> {
    for (tensor_name, tensor) in map.tensors() {
        let format = match map {
            LinearMap::Quantized(q) if matches!(tensor_name, "codes" | "zero_points") => Some(q.format()),
            _ => None,
        };
        let kept = kept.filter(|_| matches!(tensor_name, "data" | "codes"));
        let is_mask = matches!(map, LinearMap::Sparse(_));
        f(&Stowed { path, tensor_name, tensor, format, is_mask, kept })?;
    }
    let kept = match map {
        LinearMap::Sparse(s) => {
            let mask = s.mask().bools()?;
            s.kept().map(|n| (Kept { pattern: s.pattern(), mask }, n))
        }
        _ => None,
    };
    for (child_name, child) in map.children() {
        if seen.insert(child.id()) {
            walk(child, &format!("{path}/{child_name}"), kept, seen, f)?;
        }
    }
    Ok(())
}

impl<'a> Stowed<'_, 'a> {
    fn plan(&self) -> Result<Plan, MapError> {
        if self.is_mask {
            let mask = self.tensor.bools()?;
            let (rice, delta) = bits::best_rice(mask);
            let bitmap = mask.len().div_ceil(8);
            let is_delta = delta < bitmap && may_expand(mask.len(), delta, MAX_FLAGS_PER_BYTE);
            let encoding = if is_delta { Encoding::Delta } else { Encoding::Bitmap };
            let bytes = if is_delta { delta } else { bitmap };
            return Ok(Plan { encoding, sparse: false, elements: mask.len(), bytes, rice });
        }
        let (encoding, width) = match self.format {
            Some(format) => (Encoding::Packed(format), usize::from(format.bits())),
            None => (Encoding::Plain(self.tensor.dtype()), 8 * self.tensor.dtype().size()),
        };
        let bytes_of = |elements: usize| (elements * width).div_ceil(8);
        let total = self.tensor.len();
        let sparse = self
            .kept
            .map(|(_, kept)| kept)
            .filter(|&kept| may_expand(total, bytes_of(kept), MAX_ELEMENTS_PER_BYTE));
        let elements = sparse.unwrap_or(total);
        Ok(Plan { encoding, sparse: sparse.is_some(), elements, bytes: bytes_of(elements), rice: 0 })
    }

    fn store(&self) -> Result<Stored<'a>, MapError> {
        let plan = self.plan()?;
        let bytes = match (plan.encoding, self.kept.filter(|_| plan.sparse)) {
            (Encoding::Bitmap, _) => bits::write_bitmap(self.tensor.bools()?).into(),
            (Encoding::Delta, _) => bits::write_rice(self.tensor.bools()?, plan.rice).into(),
            (Encoding::Plain(_), None) => plain(self.tensor)?,
            (Encoding::Packed(CodeFormat::Int8), None) => {
                Cow::Borrowed(bytemuck::cast_slice(self.tensor.i8s()?))
            }
            (Encoding::Packed(format), None) => bits::pack(self.tensor.i8s()?.iter().copied(), format).into(),
            (Encoding::Plain(dtype), Some((kept, _))) => {
                let (all, mask) = (plain(self.tensor)?, self.expand(kept)?);
                let elements = all.chunks(dtype.size()).zip(mask).filter(|(_, keep)| *keep);
                let mut bytes = Vec::with_capacity(plan.bytes);
                elements.for_each(|(element, _)| bytes.extend_from_slice(element));
                bytes.into()
            }
            // Coding comes after this, in `store_compressed`.
            (Encoding::Entropy(_) | Encoding::Context(_) | Encoding::Planes(_), _) => {
                unreachable!("no plan entropy-codes")
            }
            (Encoding::Packed(format), Some((kept, _))) => {
                let codes = self.tensor.i8s()?.iter().zip(self.expand(kept)?).filter(|(_, keep)| *keep);
                bits::pack(codes.map(|(&code, _)| code), format).into()
            }
        };
        let shape = if plan.sparse { vec![plan.elements] } else { self.tensor.shape().to_vec() };
        debug_assert_eq!(bytes.len(), plan.bytes);
        Ok(Stored {
            path: format!("{}/{}", self.path, self.tensor_name),
            encoding: plan.encoding,
            shape,
            bytes,
        })
    }

    fn store_compressed(&self) -> Result<Stored<'a>, MapError> {
        Ok(entropy::compress(self.store()?, self.tensor.len()))
    }

    /// Whether each element is kept.
    fn expand(&self, kept: Kept<'_>) -> Result<Vec<bool>, MapError> {
        let shape = LinearMap::Dense(self.tensor.clone()).matrix_shape()?;
        Ok(kept.pattern.expand(shape, kept.mask))
    }
}

/// The elements as little-endian bytes; borrowed if memory already holds them in this form.
fn plain(t: &Tensor) -> Result<Cow<'_, [u8]>, MapError> {
    if cfg!(target_endian = "big") {
        return Ok(t.to_le_bytes()?.into());
    }
    Ok(Cow::Borrowed(match t.data() {
        Data::F32(v) => bytemuck::cast_slice(v),
        Data::F64(v) => bytemuck::cast_slice(v),
        Data::F16(v) => bytemuck::cast_slice(v.reinterpret_cast()),
        Data::Bf16(v) => bytemuck::cast_slice(v.reinterpret_cast()),
        Data::I64(v) => bytemuck::cast_slice(v),
        Data::I32(v) => bytemuck::cast_slice(v),
        Data::I8(v) => bytemuck::cast_slice(v),
        Data::U8(v) => v,
        Data::Bool(v) => bytemuck::cast_slice(v),
        Data::Elided(..) => return Ok(t.to_le_bytes()?.into()),
    }))
}

#[cfg(test)]
mod tests;
