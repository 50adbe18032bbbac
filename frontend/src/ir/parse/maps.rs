//! Weights: maps, their tensors and their shared parts.

use super::error::{Located, ParseError, unknown};
use super::lexer::Kind;
use super::parser::{Parser, plural};
use super::source::{Kept, Wanted};
use crate::ir::arbitrary;
use crate::ir::map::{
    Activations, CodeFormat, Granularity, LinearMap, LowRank, Part, Pattern, Quantized, Sparse, TensorTrain,
};
use crate::ir::print;
use crate::tensor::{ContentHash, DType, Data, Tensor, element_count};
use half::{bf16, f16};
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

/// The maximum nesting depth of maps.
const MAX_NESTING: usize = 16;

/// The largest dimension of a weight.
const MAX_DIMENSION: usize = u32::MAX as usize;

/// The words that begin a map, in addition to the dtypes of dense maps and the formats of codes.
const KINDS: [&str; 3] = ["sparse", "low_rank", "tensor_train"];

/// The mask over the values being read.
type Mask<'m> = Option<(Pattern, &'m Tensor)>;

/// What a tensor is for: which numbers `random` may draw.
#[derive(Clone, Copy)]
enum Role {
    Plain,
    Codes(CodeFormat),
    Scales(CodeFormat),
    Columns,
    Mask(Pattern, f64),
}

impl Parser<'_, '_> {
    /// A map; `path` is its weight's name and the parts that lead to it.
    pub(super) fn map(&mut self, path: &str, depth: usize, mask: Mask<'_>) -> Result<LinearMap, ParseError> {
        if depth > MAX_NESTING {
            return Err(self.error(self.here(), format!("maps nest at most {MAX_NESTING} deep")));
        }
        let (word, at) = self.word("a representation")?;
        let map = if let Some(dtype) = DType::from_name(word) {
            let shape = self.shape()?;
            LinearMap::Dense(self.data(path, "data", dtype, &shape, mask, Role::Plain)?)
        } else if let Some(format) = CodeFormat::from_name(word) {
            self.quantized(path, format, at, mask)?
        } else {
            match word {
                "sparse" => self.sparse(path, depth, at)?,
                "low_rank" => self.low_rank(path, depth, at)?,
                "tensor_train" => self.tensor_train(path, depth, at)?,
                _ => {
                    let dtypes = DType::ALL.into_iter().map(DType::name);
                    let formats = CodeFormat::ALL.into_iter().rev().map(CodeFormat::name);
                    let known: Vec<&str> = dtypes.chain(formats).chain(KINDS).collect();
                    return Err(self.error(at, unknown("representation", word, &known)));
                }
            }
        };
        element_count(&map.shape()).map_err(|e| self.error(at, e.to_string()))?;
        Ok(map)
    }

    fn quantized(
        &mut self,
        path: &str,
        format: CodeFormat,
        at: Located,
        mask: Mask<'_>,
    ) -> Result<LinearMap, ParseError> {
        let (word, word_at) = self.word("`row` or `group N`")?;
        let granularity = match word {
            "row" => Granularity::Row,
            "group" => Granularity::Group(self.positive("the size of a group")?),
            _ => return Err(self.error(word_at, unknown("granularity", word, &["row", "group"]))),
        };
        let mut activations = Activations::F32;
        if self.at_word("activations") {
            self.bump()?;
            let (word, word_at) = self.word("`f32` or `int8`")?;
            activations = Activations::from_name(word).ok_or_else(|| {
                self.error(word_at, unknown("activations", word, &Activations::ALL.map(Activations::name)))
            })?;
        }
        let shape = self.matrix()?;
        let groups = [shape[0], granularity.groups(shape[1])];
        self.expect_punct('{')?;
        self.field("codes")?;
        let codes = self.data(path, "codes", DType::I8, &shape, mask, Role::Codes(format))?;
        self.expect_punct(',')?;
        self.field("scales")?;
        let dtype = self.half_or_single()?;
        let scales = self.data(path, "scales", dtype, &groups, None, Role::Scales(format))?;
        let (mut zero_points, mut columns) = (None, None);
        let mut more = self.eat_punct(',')?;
        if more && self.at_word("zero_points") {
            self.field("zero_points")?;
            zero_points =
                Some(self.data(path, "zero_points", DType::I8, &groups, None, Role::Codes(format))?);
            more = self.eat_punct(',')?;
        }
        if more {
            self.field("columns")?;
            let dtype = self.half_or_single()?;
            columns = Some(self.data(path, "columns", dtype, &shape[1..], None, Role::Columns)?);
        }
        self.expect_punct('}')?;
        let map = Quantized::new(format, granularity, codes, scales, zero_points);
        let map = map.and_then(|q| q.with_activations(activations).with_columns(columns));
        map.map(LinearMap::Quantized).map_err(|e| self.error(at, e.to_string()))
    }

    /// `f16` before data, or nothing for f32.
    fn half_or_single(&mut self) -> Result<DType, ParseError> {
        let half = self.at_word(DType::F16.name());
        if half {
            self.bump()?;
        }
        Ok(if half { DType::F16 } else { DType::F32 })
    }

    fn sparse(&mut self, path: &str, depth: usize, at: Located) -> Result<LinearMap, ParseError> {
        let pattern = self.pattern()?;
        let mut density = None;
        let density_at = self.here();
        if self.at_word("density") {
            self.bump()?;
            let share: f64 = self.number("a density")?;
            if !(0.0..=1.0).contains(&share) {
                return Err(self.error(density_at, "expected a density between 0 and 1"));
            }
            density = Some(share);
        }
        let shape = self.matrix()?;
        self.expect_punct('{')?;
        self.field("mask")?;
        let random = self.at_word("random");
        let role = Role::Mask(pattern, density.unwrap_or(0.5));
        let mask = self.data(path, "mask", DType::Bool, &pattern.grid(shape), None, role)?;
        self.expect_punct(',')?;
        let values = self.child(path, "values", depth, Some((pattern, &mask)))?;
        self.expect_punct('}')?;
        let error = |e: &dyn Display| self.error(at, e.to_string());
        if values.shape() != shape {
            return Err(error(&format!("the values' shape is {:?}, the map's {shape:?}", values.shape())));
        }
        let map = Sparse::new(pattern, mask, values).map_err(|e| error(&e))?;
        let total = shape[0] * shape[1];
        let Some(stated) = density.map(|d| print::kept_of(d, total)) else {
            return Ok(LinearMap::Sparse(map));
        };
        match map.kept() {
            Some(kept) if kept != stated && !random => {
                let found = print::density(kept, total);
                Err(self.error(density_at, format!("the mask keeps {kept} of {total}: density {found}")))
            }
            _ => Ok(LinearMap::Sparse(map.with_kept(stated))),
        }
    }

    fn pattern(&mut self) -> Result<Pattern, ParseError> {
        let (word, at) = self.word("a pattern")?;
        Ok(match word {
            "unstructured" => Pattern::UNSTRUCTURED,
            "block" => {
                let block_at = self.here();
                let [rows, cols] = self.product("a block such as 16x1")?[..] else {
                    return Err(self.error(block_at, "expected a block such as 16x1"));
                };
                Pattern::Block { rows, cols }
            }
            n if n.starts_with(|c: char| c.is_ascii_digit()) => {
                let n = self.parsed(n, at, "n:m such as 2:4")?;
                self.expect_punct(':')?;
                let m = self.number("n:m such as 2:4")?;
                if n == 0 || n > m {
                    return Err(self.error(at, "expected n:m with 1 <= n <= m"));
                }
                Pattern::NOfM { n, m }
            }
            _ => return Err(self.error(at, unknown("pattern", word, &["unstructured", "block", "n:m"]))),
        })
    }

    fn low_rank(&mut self, path: &str, depth: usize, at: Located) -> Result<LinearMap, ParseError> {
        let shape = self.matrix()?;
        let rank_at = self.here();
        let mut rank = None;
        if self.at_word("rank") {
            self.bump()?;
            rank = Some(self.number("a rank")?);
        }
        self.expect_punct('{')?;
        let left = self.child(path, "left", depth, None)?;
        self.expect_punct(',')?;
        let right = self.child(path, "right", depth, None)?;
        self.expect_punct('}')?;
        let map = LowRank::new(left, right).map_err(|e| self.error(at, e.to_string()))?;
        if rank.is_some_and(|r: usize| r != map.rank()) {
            return Err(self.error(rank_at, format!("the factors' rank is {}", map.rank())));
        }
        let map = LinearMap::LowRank(map);
        if map.shape() != shape {
            return Err(self.error(at, format!("the factors make {:?}, not {shape:?}", map.shape())));
        }
        Ok(map)
    }

    fn tensor_train(&mut self, path: &str, depth: usize, at: Located) -> Result<LinearMap, ParseError> {
        let shape = self.matrix()?;
        self.expect_word("modes")?;
        let out_modes = self.product("output modes such as 10x10x10")?;
        self.expect_word("by")?;
        let in_modes = self.product("input modes such as 5x5x8")?;
        let ranks_at = self.here();
        let mut ranks = None;
        if self.at_word("ranks") {
            self.bump()?;
            ranks = Some(self.product("ranks such as 1x8x8x1")?);
        }
        self.expect_punct('{')?;
        let mut cores = vec![];
        while cores.len() < out_modes.len() {
            if !cores.is_empty() {
                self.expect_punct(',')?;
            }
            cores.push(self.child(path, &format!("core{}", cores.len()), depth, None)?);
        }
        self.expect_punct('}')?;
        let map =
            TensorTrain::new(shape, out_modes, in_modes, cores).map_err(|e| self.error(at, e.to_string()))?;
        if ranks.is_some_and(|r| r != map.ranks()) {
            return Err(self.error(ranks_at, format!("the cores' ranks are {:?}", map.ranks())));
        }
        Ok(LinearMap::TensorTrain(map))
    }

    /// `name: map`, or `name: @weight/part` for a part read before.
    fn child(&mut self, path: &str, name: &str, depth: usize, mask: Mask<'_>) -> Result<Part, ParseError> {
        self.field(name)?;
        let path = format!("{path}/{name}");
        let Kind::Weight(weight) = self.peek() else {
            let child = Part::new(self.map(&path, depth + 1, mask)?);
            self.parts.insert(path, child.clone());
            return Ok(child);
        };
        let mut shared = print::name(weight);
        let at = self.bump()?.at;
        while self.eat_punct('/')? {
            let (part, _) = self.word("the name of a part")?;
            shared = format!("{shared}/{part}");
        }
        self.parts.get(&shared).cloned().ok_or_else(|| {
            let message =
                format!("@{shared} is no part of an earlier weight; a part is such as `@lstm0.input/left`");
            self.error(at, message)
        })
    }

    fn field(&mut self, name: &str) -> Result<(), ParseError> {
        if !self.at_word(name) {
            return Err(self.unexpected(&format!("`{name}:`")));
        }
        self.bump()?;
        self.expect_punct(':')
    }

    fn positive(&mut self, what: &str) -> Result<usize, ParseError> {
        let at = self.here();
        match self.number(what)? {
            0 => Err(self.error(at, format!("expected {what}, at least 1"))),
            n => Ok(n),
        }
    }

    /// `10x5x5`: positive numbers.
    fn product(&mut self, what: &str) -> Result<Vec<usize>, ParseError> {
        let (word, at) = self.word(what)?;
        let numbers = word.split('x').map(|n| n.parse().ok().filter(|n| (1..=MAX_DIMENSION).contains(n)));
        let numbers: Option<Vec<usize>> = numbers.collect();
        numbers.ok_or_else(|| self.error(at, format!("expected {what}: positive numbers joined by `x`")))
    }

    /// `[2, 3]`.
    fn shape(&mut self) -> Result<Vec<usize>, ParseError> {
        let start = self.here();
        self.expect_punct('[')?;
        let mut shape = vec![];
        while !self.eat_punct(']')? {
            if !shape.is_empty() {
                self.expect_punct(',')?;
            }
            let at = self.here();
            let n = self.number("a dimension")?;
            if n > MAX_DIMENSION {
                return Err(self.error(at, format!("the dimensions of weights are at most {MAX_DIMENSION}")));
            }
            shape.push(n);
        }
        element_count(&shape).map_err(|e| self.error(start, e.to_string()))?;
        Ok(shape)
    }

    fn matrix(&mut self) -> Result<[usize; 2], ParseError> {
        let at = self.here();
        let shape = self.shape()?;
        shape.as_slice().try_into().map_err(|_| self.error(at, "expected the shape of a matrix, [out, in]"))
    }

    /// A tensor's data: a hash, its elements or `random`.
    fn data(
        &mut self,
        path: &str,
        name: &str,
        dtype: DType,
        shape: &[usize],
        mask: Mask<'_>,
        role: Role,
    ) -> Result<Tensor, ParseError> {
        let at = self.here();
        if self.eat_punct('#')? {
            let (word, word_at) = self.word("a hash of 8 hexadecimal digits")?;
            let is_hash = word.len() == 8 && word.bytes().all(|b| b.is_ascii_hexdigit());
            let Some(hash) = u32::from_str_radix(word, 16).ok().filter(|_| is_hash) else {
                return Err(self.error(word_at, "expected a hash of 8 hexadecimal digits"));
            };
            return self.sourced(&format!("{path}/{name}"), dtype, shape, mask, ContentHash(hash), at);
        }
        let count = element_count(shape).map_err(|e| self.error(at, e.to_string()))?;
        if *self.peek() == Kind::Punct('[') {
            let data = self.elements(dtype, count)?;
            return Tensor::new(shape.to_vec(), data).map_err(|e| self.error(at, e.to_string()));
        }
        if !self.at_word("random") {
            return Err(self.unexpected("data: `#hash`, `[numbers]` or `random SEED`"));
        }
        self.bump()?;
        let seed = self.number("a seed")?;
        let Some(left) = self.random_budget.checked_sub(count) else {
            return Err(self.error(at, "this text asks for too much random data"));
        };
        self.random_budget = left;
        let tensor = match role {
            Role::Plain => arbitrary::random_tensor(dtype, shape, seed),
            Role::Codes(format) => arbitrary::random_codes(format, shape, seed),
            Role::Scales(format) => arbitrary::random_scales(format, dtype, shape, seed),
            Role::Columns => arbitrary::random_columns(dtype, count, seed),
            Role::Mask(pattern, density) => arbitrary::random_mask(pattern, shape, density, seed),
        };
        tensor.map_err(|e| self.error(at, e.to_string()))
    }

    fn sourced(
        &mut self,
        path: &str,
        dtype: DType,
        shape: &[usize],
        mask: Mask<'_>,
        hash: ContentHash,
        at: Located,
    ) -> Result<Tensor, ParseError> {
        // A mask of another shape than the tensor's: an error when the map is built.
        let fits = |pattern: Pattern, mask: &Tensor| {
            <[usize; 2]>::try_from(shape).is_ok_and(|shape| mask.shape() == pattern.grid(shape))
        };
        let mask = mask.filter(|(pattern, mask)| fits(*pattern, mask));
        let kept = mask.and_then(|(pattern, mask)| Some(Kept { pattern, mask: mask.bools().ok()? }));
        let found = self.source.tensor(&Wanted { path, dtype, shape, kept });
        let Some(tensor) = found.map_err(|e| self.error(at, e))? else {
            let elided = Tensor::new(shape.to_vec(), Data::Elided(dtype, hash));
            return elided.map_err(|e| self.error(at, e.to_string()));
        };
        if tensor.dtype() != dtype || tensor.shape() != shape {
            let found = format!("{}{:?}", tensor.dtype(), tensor.shape());
            return Err(self.error(at, format!("{path} should be {dtype}{shape:?}, its data is {found}")));
        }
        if !self.source.is_trusted() && tensor.hash() != hash {
            return Err(self.error(at, format!("the data of {path} has hash {}", tensor.hash())));
        }
        Ok(tensor)
    }

    fn elements(&mut self, dtype: DType, count: usize) -> Result<Data, ParseError> {
        Ok(match dtype {
            DType::F32 => Data::F32(self.list(count, "a number", |x: f32| x)?),
            DType::F64 => Data::F64(self.list(count, "a number", |x: f64| x)?),
            DType::F16 => Data::F16(self.list(count, "a number", f16::from_f32)?),
            DType::Bf16 => Data::Bf16(self.list(count, "a number", bf16::from_f32)?),
            DType::I64 => Data::I64(self.list(count, "an integer", |x: i64| x)?),
            DType::I32 => Data::I32(self.list(count, "an integer", |x: i32| x)?),
            DType::I8 => Data::I8(self.list(count, "an integer of 8 bits", |x: i8| x)?),
            DType::U8 => Data::U8(self.list(count, "an integer from 0 to 255", |x: u8| x)?),
            DType::Bool => Data::Bool(self.list(count, "0 or 1", |Bit(x)| x)?),
        })
    }

    fn list<N, T>(
        &mut self,
        count: usize,
        what: &str,
        convert: impl Fn(N) -> T,
    ) -> Result<Arc<Vec<T>>, ParseError>
    where
        N: FromStr<Err: Display>,
    {
        let start = self.here();
        self.expect_punct('[')?;
        // Each element except the last takes at least two bytes of text.
        let mut all = Vec::with_capacity(count.min(self.remaining() / 2 + 1));
        while !self.eat_punct(']')? {
            if !all.is_empty() {
                self.expect_punct(',')?;
            }
            if all.len() == count {
                return Err(self.unexpected(&format!("`]` after {count} element{}", plural(count))));
            }
            all.push(convert(self.number(what)?));
        }
        if all.len() != count {
            let found = all.len();
            return Err(
                self.error(start, format!("expected {count} element{}, found {found}", plural(count)))
            );
        }
        Ok(Arc::new(all))
    }
}

struct Bit(bool);

impl FromStr for Bit {
    type Err = &'static str;

    fn from_str(s: &str) -> Result<Bit, Self::Err> {
        match s {
            "0" => Ok(Bit(false)),
            "1" => Ok(Bit(true)),
            _ => Err("no other truth value"),
        }
    }
}
