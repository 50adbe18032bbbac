//! Linear maps as constants and the nodes that decode them.

use super::super::proto::DataType;
use super::build::{int, ints};
use super::embedded::Layout;
use super::{BLOCKS_OPSET, Exporter};
use crate::ir::{ExportedType, Granularity, LinearMap, MapError, Part, PartId, Quantized, TensorTrain};
use crate::tensor::Tensor;

/// The requested form of a matrix `[out, in]`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Form {
    /// Unchanged; also for constants of other ranks.
    Matrix,
    /// `[in, out]`, for products with rows.
    Transposed,
    /// `[1, out, in]`, for an LSTM with one direction.
    Stacked,
}

impl Form {
    fn shape(self, [out, cols]: [usize; 2]) -> Vec<usize> {
        match self {
            Form::Matrix => vec![out, cols],
            Form::Transposed => vec![cols, out],
            Form::Stacked => vec![1, out, cols],
        }
    }

    fn layout(self) -> Layout {
        if self == Form::Transposed { Layout::Transposed } else { Layout::Plain }
    }
}

/// A code's two's complement in the low half of a byte.
fn nibble(code: i8) -> u8 {
    code as u8 & 0xf
}

/// Two codes in a byte, the first in the low half.
fn pack(codes: impl IntoIterator<Item = u8>) -> Vec<u8> {
    let mut out = vec![];
    for (k, code) in codes.into_iter().enumerate() {
        match out.last_mut() {
            Some(last) if k % 2 == 1 => *last |= code << 4,
            _ => out.push(code),
        }
    }
    out
}

pub(super) fn transposed<T: Copy>(values: &[T], [rows, cols]: [usize; 2]) -> Vec<T> {
    (0..cols).flat_map(|j| (0..rows).map(move |i| values[i * cols + j])).collect()
}

impl Exporter<'_> {
    /// The f32 value of a map.
    pub(super) fn matrix(&mut self, map: &Part, name: &str, form: Form) -> Result<String, MapError> {
        let map = &self.unmasked(map)?;
        let key = (map.id(), form);
        if let Some(made) = self.made.get(&key) {
            return Ok(made.clone());
        }
        let made = match &**map {
            _ if self.options.dense => self.dense_matrix(map, name, form)?,
            LinearMap::Quantized(q) if self.has_codes(q) => self.dequantized(q, map.id(), name, form)?,
            LinearMap::LowRank(l) => {
                let left = self.matrix(l.left(), &format!("{name}.left"), Form::Matrix)?;
                let right = self.matrix(l.right(), &format!("{name}.right"), Form::Matrix)?;
                let product = self.builder.node1("MatMul", &[&left, &right], name, vec![]);
                self.formed(product, form)
            }
            LinearMap::TensorTrain(t) => {
                let matrix = self.contracted(t, name)?;
                self.formed(matrix, form)
            }
            _ => {
                if let LinearMap::Quantized(q) = &**map {
                    self.notes.push(format!(
                        "@{name}: written as f32, since opset {} has no {} codes with {}; --opset {BLOCKS_OPSET} has",
                        self.options.opset,
                        q.format().exported().name(),
                        match q.granularity() {
                            Granularity::Row => "a scale per row",
                            Granularity::Group(_) => "a scale per group",
                        },
                    ));
                }
                self.dense_matrix(map, name, form)?
            }
        };
        self.made.insert(key, made.clone());
        Ok(made)
    }

    /// The values of a map with a mask, where what the mask drops is zero without it: has the code that means zero.
    fn unmasked(&mut self, map: &Part) -> Result<Part, MapError> {
        let LinearMap::Sparse(s) = &**map else { return Ok(map.clone()) };
        let values = s.values();
        let LinearMap::Quantized(q) = &**values else { return Ok(values.clone()) };
        let (Some(zeros), None) = (q.zero_points(), self.filled.get(&map.id())) else {
            return Ok(self.filled.get(&map.id()).unwrap_or(values).clone());
        };
        let [_, cols] = values.matrix_shape()?;
        let (size, groups) = (q.granularity().group_size(cols), q.granularity().groups(cols));
        let (zeros, mut codes) = (zeros.i8s()?, q.codes().i8s()?.to_vec());
        for (k, _) in s.element_mask()?.iter().enumerate().filter(|(_, kept)| !**kept) {
            codes[k] = zeros[k / cols * groups + k % cols / size];
        }
        let codes = Tensor::from_i8(q.codes().shape(), codes)?;
        let zeros = q.zero_points().cloned();
        let filled = Quantized::new(q.format(), q.granularity(), codes, q.scales().clone(), zeros)?
            .with_columns(q.columns().cloned())?;
        let filled = Part::new(LinearMap::Quantized(filled));
        self.stands_for.insert(filled.id(), values.id());
        self.filled.insert(map.id(), filled.clone());
        Ok(filled)
    }

    /// A constant of f32.
    fn dense_matrix(&mut self, map: &Part, name: &str, form: Form) -> Result<String, MapError> {
        let t = map.to_dense()?;
        let made = if form == Form::Matrix {
            self.constant(name, &t)?
        } else {
            let shape = map.matrix_shape()?;
            let data = t.to_f32()?;
            let data = if form == Form::Transposed { transposed(&data, shape) } else { data.to_vec() };
            self.constant(name, &Tensor::from_f32(form.shape(shape), data)?)?
        };
        if matches!(**map, LinearMap::Dense(_)) {
            self.leaf(map.id(), "data", form.layout());
        }
        Ok(made)
    }

    /// A matrix value in another form.
    fn formed(&mut self, matrix: String, form: Form) -> String {
        match form {
            Form::Matrix => matrix,
            Form::Transposed => {
                self.builder.node1("Transpose", &[&matrix], "transposed", vec![ints("perm", &[1, 0])])
            }
            Form::Stacked => {
                let axis = self.builder.int_constant("axis_0", &[0]);
                self.builder.node1("Unsqueeze", &[&matrix, &axis], "stacked", vec![])
            }
        }
    }

    /// Whether the opset supports codes like these.
    fn has_codes(&self, q: &Quantized) -> bool {
        self.options.opset >= BLOCKS_OPSET
            || (q.format().exported() == ExportedType::Int8 && q.granularity() == Granularity::Row)
    }

    /// `DequantizeLinear` of codes in the requested form.
    fn dequantized(
        &mut self,
        q: &Quantized,
        part: PartId,
        name: &str,
        form: Form,
    ) -> Result<String, MapError> {
        let [out, cols] = [q.codes().shape()[0], q.codes().shape()[1]];
        let groups = q.granularity().groups(cols);
        let arrange = |codes: &[i8], cols: usize| match form {
            Form::Transposed => transposed(codes, [out, cols]),
            _ => codes.to_vec(),
        };
        let codes = arrange(q.codes().i8s()?, cols);
        let scales = q.scales().to_f32()?;
        let is_row = q.granularity() == Granularity::Row;
        let scale_shape = if is_row { vec![out] } else { form.shape([out, groups]) };
        let scales = match form {
            Form::Transposed => transposed(&scales, [out, groups]),
            _ => scales.to_vec(),
        };
        let exported = q.format().exported();
        let ty = match exported {
            ExportedType::Int8 => DataType::Int8,
            ExportedType::Int4 => DataType::Int4,
        };
        let bytes = |codes: Vec<i8>| match exported {
            ExportedType::Int8 => codes.into_iter().map(|c| c as u8).collect(),
            ExportedType::Int4 => pack(codes.into_iter().map(nibble)),
        };
        let shape = form.shape([out, cols]);
        let codes = self.builder.constant(&format!("{name}.codes"), ty, &shape, bytes(codes));
        self.leaf(part, "codes", form.layout());
        let scales = self.builder.f32_constant(&format!("{name}.scales"), &scale_shape, &scales);
        self.leaf(part, "scales", form.layout());
        let zeros = match q.zero_points() {
            Some(z) => {
                let zeros = bytes(arrange(z.i8s()?, groups));
                let zeros = self.builder.constant(&format!("{name}.zero_points"), ty, &scale_shape, zeros);
                self.leaf(part, "zero_points", form.layout());
                Some(zeros)
            }
            None => None,
        };
        // The axis of rows if scales are per row, that of inputs if they are per group.
        let axis = match (form, is_row) {
            (Form::Matrix, true) | (Form::Transposed, false) => 0,
            (Form::Matrix, false) | (Form::Transposed, true) | (Form::Stacked, true) => 1,
            (Form::Stacked, false) => 2,
        };
        let mut attributes = vec![int("axis", axis)];
        if let Granularity::Group(n) = q.granularity() {
            attributes.push(int("block_size", n.min(cols.max(1)) as i64));
        }
        let mut inputs = vec![codes.as_str(), scales.as_str()];
        inputs.extend(zeros.as_deref());
        let decoded = self.builder.node1("DequantizeLinear", &inputs, name, attributes);
        let shape = if form == Form::Transposed { vec![cols, 1] } else { vec![cols] };
        self.times_columns(decoded, q, part, name, &shape)
    }

    /// `x` times the factors of columns, if there are any, as a constant of this shape.
    fn times_columns(
        &mut self,
        x: String,
        q: &Quantized,
        part: PartId,
        name: &str,
        shape: &[usize],
    ) -> Result<String, MapError> {
        let Some(columns) = q.columns() else { return Ok(x) };
        let columns = self.builder.f32_constant(&format!("{name}.columns"), shape, &columns.to_f32()?);
        self.leaf(part, "columns", Layout::Plain);
        Ok(self.builder.node1("Mul", &[&x, &columns], name, vec![]))
    }

    /// The matrix of a tensor train: a product core by core, then the digits of rows and of columns are grouped.
    ///
    /// Core `k` is `[r(k-1) mk, nk r(k)]` in memory, which is `[r(k-1), mk nk r(k)]` too.
    fn contracted(&mut self, t: &TensorTrain, name: &str) -> Result<String, MapError> {
        let ranks = t.ranks();
        let mut acc = String::new();
        for (k, core) in t.cores().iter().enumerate() {
            let core = self.matrix(core, &format!("{name}.core{k}"), Form::Matrix)?;
            let shape = self.builder.int_constant("core_shape", &[ranks[k] as i64, -1]);
            let core = self.builder.node1("Reshape", &[&core, &shape], "core", vec![]);
            acc = if k == 0 {
                core
            } else {
                let rank = self.builder.int_constant("lead_shape", &[-1, ranks[k] as i64]);
                let lead = self.builder.node1("Reshape", &[&acc, &rank], "lead", vec![]);
                self.builder.node1("MatMul", &[&lead, &core], "chain", vec![])
            };
        }
        let d = t.cores().len() as i64;
        let digits = t.out_modes().iter().zip(t.in_modes()).flat_map(|(&m, &n)| [m as i64, n as i64]);
        let digits = self.builder.int_constant("digits", &digits.collect::<Vec<_>>());
        let split = self.builder.node1("Reshape", &[&acc, &digits], "digits_apart", vec![]);
        let perm: Vec<i64> = (0..d).map(|k| 2 * k).chain((0..d).map(|k| 2 * k + 1)).collect();
        let sorted = self.builder.node1("Transpose", &[&split], "digits_sorted", vec![ints("perm", &perm)]);
        let padded: [usize; 2] = [t.out_modes().iter().product(), t.in_modes().iter().product()];
        let whole = self.builder.int_constant("padded_shape", &padded.map(|n| n as i64));
        let matrix = self.builder.node1("Reshape", &[&sorted, &whole], name, vec![]);
        if padded == t.shape() {
            return Ok(matrix);
        }
        let starts = self.builder.int_constant("from_zero", &[0, 0]);
        let ends = self.builder.int_constant("matrix_shape", &t.shape().map(|n| n as i64));
        Ok(self.builder.node1("Slice", &[&matrix, &starts, &ends], name, vec![]))
    }

    /// `x W^T` for rows `x: [.., in]`.
    pub(super) fn apply(&mut self, map: &Part, name: &str, x: &str) -> Result<String, MapError> {
        if let (LinearMap::LowRank(l), false) = (&**map, self.options.dense) {
            let inner = self.apply(l.right(), &format!("{name}.right"), x)?;
            return self.apply(l.left(), &format!("{name}.left"), &inner);
        }
        let t = self.matrix(map, name, Form::Transposed)?;
        Ok(self.builder.node1("MatMul", &[x, &t], "product", vec![]))
    }

    /// The rows of a map that `tokens` selects, `[.., in]`.
    pub(super) fn rows(&mut self, map: &Part, name: &str, tokens: &str) -> Result<String, MapError> {
        let map = &self.unmasked(map)?;
        match &**map {
            _ if self.options.dense => {}
            LinearMap::Quantized(q) => return self.quantized_rows(q, map.id(), name, tokens),
            LinearMap::LowRank(l) => {
                let left = self.rows(l.left(), &format!("{name}.left"), tokens)?;
                let right = self.matrix(l.right(), &format!("{name}.right"), Form::Matrix)?;
                return Ok(self.builder.node1("MatMul", &[&left, &right], "embedded", vec![]));
            }
            _ => {}
        }
        let matrix = self.matrix(map, name, Form::Matrix)?;
        Ok(self.gather(&matrix, tokens, "embedded"))
    }

    fn gather(&mut self, matrix: &str, tokens: &str, result: &str) -> String {
        self.builder.node1("Gather", &[matrix, tokens], result, vec![int("axis", 0)])
    }

    /// Gathers codes and scales, then decodes them: `scale * (code - zero point) * column` in f32.
    fn quantized_rows(
        &mut self,
        q: &Quantized,
        part: PartId,
        name: &str,
        tokens: &str,
    ) -> Result<String, MapError> {
        let [out, cols] = [q.codes().shape()[0], q.codes().shape()[1]];
        let groups = q.granularity().groups(cols);
        let codes = self.gathered_codes(q, part, name, tokens)?;
        let scales = q.scales().to_f32()?;
        let scales = self.builder.f32_constant(&format!("{name}.scales"), &[out, groups], &scales);
        self.leaf(part, "scales", Layout::Plain);
        let scales = self.gather(&scales, tokens, "row_scales");
        let scales = self.per_column(scales, q.granularity(), cols);
        let centred = match q.zero_points() {
            None => codes,
            Some(z) => {
                let bytes = z.i8s()?.iter().map(|&c| c as u8).collect();
                let wish = format!("{name}.zero_points");
                let zeros = self.builder.constant(&wish, DataType::Int8, &[out, groups], bytes);
                self.leaf(part, "zero_points", Layout::Plain);
                let zeros = self.gather(&zeros, tokens, "row_zero_points");
                let zeros = self.as_f32(&zeros);
                let zeros = self.per_column(zeros, q.granularity(), cols);
                self.builder.node1("Sub", &[&codes, &zeros], "centred", vec![])
            }
        };
        let rows = self.builder.node1("Mul", &[&centred, &scales], "embedded", vec![]);
        self.times_columns(rows, q, part, name, &[cols])
    }

    fn as_f32(&mut self, value: &str) -> String {
        self.builder.node1("Cast", &[value], "as_f32", vec![int("to", DataType::Float as i64)])
    }

    /// One number per group as one per column; one for a whole row broadcasts by itself.
    fn per_column(&mut self, values: String, granularity: Granularity, cols: usize) -> String {
        if granularity.groups(cols) == 1 {
            return values;
        }
        let size = granularity.group_size(cols);
        let group_of: Vec<i64> = (0..cols).map(|j| (j / size) as i64).collect();
        let index = self.builder.int_constant("group_of_column", &group_of);
        self.builder.node1("Gather", &[&values, &index], "per_column", vec![int("axis", -1)])
    }

    /// The codes of rows, as f32 `[.., in]`.
    ///
    /// Those of `INT4`, which `Gather` does not take, are stored two per byte, the first half in the low bits, as `code + 8`: `byte = low + 16 high`.
    fn gathered_codes(
        &mut self,
        q: &Quantized,
        part: PartId,
        name: &str,
        tokens: &str,
    ) -> Result<String, MapError> {
        let [out, cols] = [q.codes().shape()[0], q.codes().shape()[1]];
        let (codes, wish) = (q.codes().i8s()?, format!("{name}.codes"));
        if q.format().exported() == ExportedType::Int8 {
            let bytes = codes.iter().map(|&c| c as u8).collect();
            let codes = self.builder.constant(&wish, DataType::Int8, &[out, cols], bytes);
            self.leaf(part, "codes", Layout::Plain);
            let row = self.gather(&codes, tokens, "row_codes");
            return Ok(self.as_f32(&row));
        }
        let width = cols.div_ceil(2);
        // The first half of a row is in the low halves of its bytes, so that decoding is a Concat.
        let shifted = |c: i8| (c + 8) as u8;
        let bytes = codes.chunks(cols.max(1)).flat_map(|row| {
            (0..width).map(move |j| shifted(row[j]) | row.get(width + j).map_or(0, |&c| shifted(c)) << 4)
        });
        let packed = self.builder.constant(&wish, DataType::Uint8, &[out, width], bytes.collect());
        self.leaf(part, "codes", Layout::Halves);
        let row = self.gather(&packed, tokens, "row_bytes");
        let sixteen = self.builder.constant("sixteen", DataType::Uint8, &[], vec![16]);
        let high = self.builder.node1("Div", &[&row, &sixteen], "high", vec![]);
        let above = self.builder.node1("Mul", &[&high, &sixteen], "above", vec![]);
        let low = self.builder.node1("Sub", &[&row, &above], "low", vec![]);
        let both = self.builder.node1("Concat", &[&low, &high], "halves", vec![int("axis", -1)]);
        let both = match cols % 2 {
            0 => both,
            _ => {
                let starts = self.builder.int_constant("from_zero", &[0]);
                let ends = self.builder.int_constant("columns", &[cols as i64]);
                let axes = self.builder.int_constant("last_axis", &[-1]);
                self.builder.node1("Slice", &[&both, &starts, &ends, &axes], "halves", vec![])
            }
        };
        let wide = self.as_f32(&both);
        let eight = self.builder.f32_constant("eight", &[], &[8.0]);
        Ok(self.builder.node1("Sub", &[&wide, &eight], "codes", vec![]))
    }
}
