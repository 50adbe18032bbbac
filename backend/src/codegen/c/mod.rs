//! [`Emit`] with C: structured C99 that calls the functions of `prelude.h` and `products.h`, one operation a line.
//!
//! ```text
//!   const f4 x7 = f4_load(x3 + 16u);        a value is a constant; its number is its name
//!   uintptr_t x8 = x3;                      what a loop carries, or a branch decides, is a variable
//!   do {
//!       const f4 x9 = f4_mul_add(x7, x5, x6);
//!       x8 = x8 + 64u;
//!   } while (..);
//! ```
//!
//! Addresses are `uintptr_t`, and memory is read and written through `memcpy`, so that no rule of C on types of objects is broken. What nothing
//! reads is left out: compilers would warn of it.

mod function;
pub(crate) mod source;

use super::Entry;
use super::emit::{
    Binary, Branch, Constant, Data, Emit, Features, Memory, Next, Quad, Test, Turn, Type, Unary, Value,
    WhileTurn,
};
use crate::plan::{LANES, PANEL};
use function::Lines;
use lstmc_frontend::ir::PackedWidth;
use std::fmt;

/// The type of a variable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Of {
    Float,
    F4,
    Byte,
    B16,
    Word,
    U4,
    Address,
    /// Zero or one.
    Condition,
    /// An array of a panel's sums.
    Sums,
}

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Of::Float => "float",
            Of::F4 => "f4",
            Of::Byte => "uint8_t",
            Of::B16 => "b16",
            Of::Word => "uint32_t",
            Of::U4 => "u4",
            Of::Address => "uintptr_t",
            Of::Condition => "int",
            Of::Sums => "sums",
        })
    }
}

impl Of {
    fn is_vector(self) -> bool {
        matches!(self, Of::F4 | Of::U4 | Of::B16)
    }

    /// What the names of functions on it begin with.
    fn prefix(self) -> &'static str {
        match self {
            Of::Float => "f1",
            Of::F4 => "f4",
            Of::Byte => "b1",
            Of::B16 => "b16",
            Of::Word => "u1",
            Of::U4 => "u4",
            Of::Address | Of::Condition | Of::Sums => {
                unreachable!("functions of {self:?} have names of their own")
            }
        }
    }

    /// The type of a value, and what the names of functions begin with that load it.
    fn loaded(ty: Type) -> (Of, &'static str) {
        match ty {
            Type::F32 => (Of::Float, "f1"),
            Type::F32x4 => (Of::F4, "f4"),
            Type::I8 => (Of::Byte, "b1"),
            Type::I8x16 => (Of::B16, "b16"),
            Type::I32 => (Of::Word, "u1"),
            Type::I32x4 => (Of::U4, "u4"),
            Type::U8 => (Of::Address, "b1"),
            Type::U16 => (Of::Address, "h1"),
            Type::I16x4 => (Of::U4, "h4"),
            Type::Address => unreachable!("addresses are loaded from a table"),
            Type::I16x8 => unreachable!("{ONE_SUM}"),
        }
    }
}

/// The prelude multiplies bytes as the processor does best, which only the compiler knows.
const ONE_SUM: &str = "the sums of a group are one operation in C";

/// A function under construction.
struct C {
    features: Features,
    /// Each value's type and text: its name, or a number.
    values: Vec<(Of, String)>,
    lines: Lines,
    /// The type of the function's result in C.
    result: &'static str,
}

/// A function: its text from the parameters, which are types in C, and the body.
pub(super) fn function(
    features: Features,
    head: &str,
    parameters: &[&str],
    result: &'static str,
    body: impl FnOnce(&mut dyn Emit, &[Value]) -> Option<Value>,
) -> String {
    let mut c = C { features, values: vec![], lines: Lines::default(), result };
    let p: Vec<Value> = parameters.iter().enumerate().map(|(n, ty)| c.parameter(n, ty)).collect();
    if let Some(value) = body(&mut c, &p) {
        c.leave(None, value);
    }
    let declared: Vec<String> = parameters
        .iter()
        .enumerate()
        .map(|(n, ty)| format!("{ty}{}p{n}", if ty.ends_with('*') { "" } else { " " }))
        .collect();
    let declared = if declared.is_empty() { "void".into() } else { declared.join(", ") };
    let space = if result.ends_with('*') { "" } else { " " };
    format!("{result}{space}{head}({declared}) {{\n{}}}\n", c.lines.finish())
}

impl C {
    fn of(&self, x: Value) -> Of {
        self.values[x.0 as usize].0
    }

    fn text(&self, x: Value) -> &str {
        &self.values[x.0 as usize].1
    }

    fn value(&mut self, of: Of, text: String) -> Value {
        self.values.push((of, text));
        Value(self.values.len() as u32 - 1)
    }

    /// A new name.
    fn named(&mut self, of: Of) -> Value {
        self.value(of, format!("x{}", self.values.len()))
    }

    fn parameter(&mut self, n: usize, ty: &str) -> Value {
        let of = if matches!(ty, "int" | "uint32_t") { Of::Word } else { Of::Address };
        let x = self.named(of);
        let (text, otherwise) = (format!("const {of} x{} = ({of})p{n};", x.0), format!("(void)p{n};"));
        self.lines.define(x, text, Some(otherwise), &[]);
        x
    }

    /// A constant with this value; `uses` are in `text`.
    fn define(&mut self, of: Of, text: &str, uses: &[Value]) -> Value {
        let x = self.named(of);
        self.lines.define(x, format!("const {of} x{} = {text};", x.0), None, uses);
        x
    }

    /// A constant with the value that a function of the prelude returns.
    fn apply(&mut self, of: Of, function: &str, arguments: &[Value]) -> Value {
        let texts: Vec<&str> = arguments.iter().map(|&x| self.text(x)).collect();
        let text = format!("{function}({})", texts.join(", "));
        self.define(of, &text, arguments)
    }

    /// A variable that begins as `x`.
    fn variable(&mut self, x: Value) -> Value {
        let of = self.of(x);
        let text = format!("{of} x{} = {};", self.values.len(), self.text(x));
        let y = self.named(of);
        self.lines.define(y, text, None, &[x]);
        y
    }

    /// Assigns new values to variables, all at once.
    fn assign(&mut self, variables: &[Value], values: &[Value]) {
        let moved = |n: usize, x: &Value| variables[..n].contains(x);
        let values: Vec<Value> = values
            .iter()
            .enumerate()
            .map(|(n, &x)| {
                if !moved(n, &x) {
                    return x;
                }
                let text = self.text(x).to_string();
                self.define(self.of(x), &text, &[x])
            })
            .collect();
        for (&variable, x) in variables.iter().zip(values) {
            if variable != x {
                let text = format!("{} = {};", self.text(variable), self.text(x));
                self.lines.define(variable, text, None, &[x]);
            }
        }
    }

    /// `return x`, if a condition is met.
    fn leave(&mut self, condition: Option<Value>, x: Value) {
        let test = condition.map_or(String::new(), |c| format!("if ({}) ", self.text(c)));
        let uses: Vec<Value> = condition.into_iter().chain([x]).collect();
        self.lines.effect(format!("{test}return ({}){};", self.result, self.text(x)), &uses);
    }

    fn at(&self, address: Value, bytes: usize) -> String {
        match bytes {
            0 => self.text(address).into(),
            _ => format!("{} + {bytes}u", self.text(address)),
        }
    }
}

/// The name of a function that needs aligned memory, or that does not.
fn aligned(memory: Memory, [yes, no]: [&'static str; 2]) -> &'static str {
    if matches!(memory, Memory::Weights | Memory::Buffer) { yes } else { no }
}

/// A number of 32 bits as C's compilers read it back exactly.
fn float(x: f32) -> String {
    if x.is_finite() { format!("{x:?}f") } else { format!("f1_of_u1({:#x}u)", x.to_bits()) }
}

impl Emit for C {
    fn features(&self) -> Features {
        self.features
    }

    fn size(&mut self, n: usize) -> Value {
        self.value(Of::Address, format!("(uintptr_t){n}u"))
    }

    fn i32(&mut self, n: i32) -> Value {
        self.value(Of::Word, format!("{}u", n as u32))
    }

    fn f32(&mut self, x: f32) -> Value {
        self.value(Of::Float, float(x))
    }

    fn constant(&mut self, x: f32) -> Value {
        self.define(Of::F4, &format!("f4_all({})", float(x)), &[])
    }

    fn bytes(&mut self, bytes: [u8; 16]) -> Value {
        let words = bytes.as_chunks::<4>().0.iter().map(|&b| format!("{:#x}u", u32::from_le_bytes(b)));
        let text = format!("b16_of_words({})", words.collect::<Vec<_>>().join(", "));
        self.define(Of::B16, &text, &[])
    }

    fn address(&mut self, data: Data) -> Value {
        self.value(Of::Address, format!("(uintptr_t){}", data.name()))
    }

    fn load(&mut self, ty: Type, memory: Memory, address: Value, bytes: usize) -> Value {
        let (of, prefix) = Of::loaded(ty);
        let text = format!("{prefix}_{}({})", aligned(memory, ["load", "read"]), self.at(address, bytes));
        self.define(of, &text, &[address])
    }

    fn store(&mut self, memory: Memory, value: Value, address: Value, bytes: usize) {
        let function = aligned(memory, ["store", "write"]);
        let (prefix, at) = (self.of(value).prefix(), self.at(address, bytes));
        self.lines.effect(format!("{prefix}_{function}({at}, {});", self.text(value)), &[value, address]);
    }

    fn load_address(&mut self, table: Value, n: usize) -> Value {
        let text = format!("(uintptr_t)((const void *const *){})[{n}]", self.text(table));
        self.define(Of::Address, &text, &[table])
    }

    fn load_address_at(&mut self, table: Value, n: Value) -> Value {
        let text = format!("(uintptr_t)((void *const *){})[{}]", self.text(table), self.text(n));
        self.define(Of::Address, &text, &[table, n])
    }

    fn load_halves(&mut self, address: Value, bytes: usize, factor: f32) -> Value {
        // A function of the prelude, as some processors have an instruction.
        let text = format!("f4_of_halves({}, {})", self.at(address, bytes), float(factor));
        self.define(Of::F4, &text, &[address])
    }

    fn load_indices(&mut self, address: Value) -> [Value; 4] {
        [0, 2, 4, 6].map(|bytes| self.load(Type::U16, Memory::Weights, address, bytes))
    }

    fn load_quad(&mut self, _: Value, _: usize) -> Quad {
        unreachable!("{ONE_SUM}")
    }

    fn stack(&mut self, bytes: usize) -> Value {
        let x = self.named(Of::Address);
        // A declaration has no `const`: `s` is an array of as many vectors.
        let (n, vectors) = (x.0, bytes.div_ceil(16));
        self.lines.define(
            x,
            format!("f4 ALIGNED(16) s{n}[{vectors}]; const uintptr_t x{n} = (uintptr_t)s{n};"),
            None,
            &[],
        );
        x
    }

    fn unary(&mut self, op: Unary, x: Value) -> Value {
        let of = self.of(x);
        let text = self.text(x);
        let (to, text) = match op {
            Unary::Neg if of == Of::Float => (of, format!("-({text})")),
            Unary::Neg => (of, format!("f4_neg({text})")),
            Unary::Abs => (of, format!("{}_abs({text})", of.prefix())),
            Unary::Sqrt => (of, format!("{}_sqrt({text})", of.prefix())),
            Unary::ToFloat if of == Of::Word => (Of::Float, format!("(float)(int32_t){text}")),
            Unary::ToFloat => (Of::F4, format!("f4_to_float({text})")),
            Unary::Extend => (Of::Address, format!("(uintptr_t){text}")),
            Unary::Truncate => (Of::Word, format!("(uint32_t){text}")),
            Unary::Splat => {
                let to = match of {
                    Of::Float => Of::F4,
                    Of::Word => Of::U4,
                    _ => Of::B16,
                };
                (to, format!("{}_all({text})", to.prefix()))
            }
            Unary::Any => (Of::Condition, format!("u4_any({text})")),
            Unary::IsNotZero => (Of::Condition, format!("{text} != 0")),
            Unary::IsZero => (Of::Condition, format!("{text} == 0")),
        };
        self.define(to, &text, &[x])
    }

    fn binary(&mut self, op: Binary, x: Value, y: Value) -> Value {
        let of = self.of(x);
        let (operator, name) = match op {
            Binary::Add => ("+", "add"),
            Binary::Sub => ("-", "sub"),
            Binary::Mul => ("*", "mul"),
            Binary::Div => ("/", "div"),
            Binary::And => ("&", "and"),
            Binary::Or => ("|", "or"),
            Binary::Equal => ("==", "equal"),
            Binary::Less => ("<", "less"),
            Binary::Greater => (">", "greater"),
        };
        let compares = matches!(op, Binary::Equal | Binary::Less | Binary::Greater);
        if of.is_vector() {
            let to = if compares { Of::U4 } else { of };
            return self.apply(to, &format!("{}_{name}", of.prefix()), &[x, y]);
        }
        let text = format!("{} {operator} {}", self.text(x), self.text(y));
        self.define(if compares { Of::Condition } else { of }, &text, &[x, y])
    }

    fn with_constant(&mut self, op: Constant, x: Value, n: i64) -> Value {
        let (of, text) = (self.of(x), self.text(x));
        let text = match op {
            Constant::ShiftLeft if of.is_vector() => format!("{}_shift_left({text}, {n})", of.prefix()),
            Constant::ShiftLeft => format!("{text} << {n}"),
            Constant::ShiftRight if of == Of::Address => format!("(uintptr_t)((intptr_t){text} >> {n})"),
            Constant::ShiftRight => format!("(uint32_t)((int32_t){text} >> {n})"),
            Constant::Add if n < 0 => format!("{text} - {}u", n.unsigned_abs()),
            Constant::Add => format!("{text} + {n}u"),
            // As many bits as the value has.
            Constant::Mul if of == Of::Word => format!("{text} * {}u", n as u32),
            Constant::Mul => format!("{text} * {n}u"),
            Constant::Xor if of == Of::Byte => format!("(uint8_t)({text} ^ {:#x}u)", n as u8),
            Constant::Xor => format!("{text} ^ {:#x}u", n as u32),
        };
        self.define(of, &text, &[x])
    }

    fn is_above(&mut self, x: Value, n: u32) -> Value {
        let text = format!("{} > {n}u", self.text(x));
        self.define(Of::Condition, &text, &[x])
    }

    fn select(&mut self, condition: Value, x: Value, y: Value) -> Value {
        let of = self.of(x);
        if of.is_vector() {
            return self.apply(of, &format!("{}_select", of.prefix()), &[condition, x, y]);
        }
        let text = format!("{} ? {} : {}", self.text(condition), self.text(x), self.text(y));
        self.define(of, &text, &[condition, x, y])
    }

    fn max(&mut self, x: Value, y: Value) -> Value {
        self.apply(Of::F4, "f4_max", &[x, y])
    }

    fn min(&mut self, x: Value, y: Value) -> Value {
        self.apply(Of::F4, "f4_min", &[x, y])
    }

    fn mul_add(&mut self, x: Value, y: Value, z: Value) -> Value {
        let of = self.of(x);
        self.apply(of, &format!("{}_mul_add", of.prefix()), &[x, y, z])
    }

    fn shift_right(&mut self, x: Value, bits: Value) -> Value {
        let text = format!("{} >> {}", self.text(x), self.text(bits));
        self.define(Of::Word, &text, &[x, bits])
    }

    fn divide(&mut self, x: Value, n: usize) -> [Value; 2] {
        ["/", "%"].map(|operator| {
            let text = format!("{} {operator} {n}u", self.text(x));
            self.define(Of::Address, &text, &[x])
        })
    }

    fn lane(&mut self, x: Value, lane: u8) -> Value {
        let (of, prefix) = match self.of(x) {
            Of::F4 => (Of::Float, "f4"),
            _ => (Of::Word, "u4"),
        };
        let text = format!("{prefix}_lane({}, {lane})", self.text(x));
        self.define(of, &text, &[x])
    }

    fn cast(&mut self, ty: Type, x: Value) -> Value {
        let (from, to) = (self.of(x), Of::loaded(ty).0);
        if from == to {
            return x;
        }
        self.apply(to, &format!("{}_of_{}", to.prefix(), from.prefix()), &[x])
    }

    fn widen(&mut self, bytes: Value) -> [Value; 4] {
        [0, 1, 2, 3].map(|part| {
            let text = format!("u4_widen({}, {part})", self.text(bytes));
            self.define(Of::U4, &text, &[bytes])
        })
    }

    fn narrow(&mut self, words: [Value; 4]) -> Value {
        self.apply(Of::B16, "b16_narrow", &words)
    }

    fn dot(&mut self, weights: Value, activations: Value, acc: Value) -> Value {
        self.apply(Of::U4, "u4_dot", &[weights, activations, acc])
    }

    fn dot_quad(&mut self, _: Value, _: Quad, _: Value) -> Value {
        unreachable!("{ONE_SUM}")
    }

    fn sums(&mut self, width: PackedWidth, addresses: [Value; 2], quads: usize) -> Vec<Value> {
        let [weights, codes] = addresses.map(|x| self.text(x));
        let function = format!("sums_of({}, {weights}, {codes}, {quads})", width.bits());
        let sums = self.define(Of::Sums, &function, &addresses);
        let lanes = 0..PANEL / LANES;
        lanes.map(|n| self.define(Of::U4, &format!("x{}.v[{n}]", sums.0), &[sums])).collect()
    }

    fn signs(&mut self, _: Value) -> [Value; 2] {
        unreachable!("{ONE_SUM}")
    }

    fn pairs(&mut self, _: Value, _: Value) -> Value {
        unreachable!("{ONE_SUM}")
    }

    fn add_pairs(&mut self, _: Value, _: Value) -> Value {
        unreachable!("{ONE_SUM}")
    }

    fn call(&mut self, entry: Entry, arguments: &[Value]) -> Option<Value> {
        let texts: Vec<&str> = arguments.iter().map(|&x| self.text(x)).collect();
        let call = format!("{}({})", entry.name(), texts.join(", "));
        let (_, returns) = entry.shape();
        if !returns {
            self.lines.effect(format!("{call};"), arguments);
            return None;
        }
        let x = self.named(Of::Float);
        let text = format!("const float x{} = {call};", x.0);
        self.lines.define(x, text, Some(format!("{call};")), arguments);
        Some(x)
    }

    fn repeat_from(
        &mut self,
        start: Value,
        end: Value,
        carried: &[Value],
        turn: &mut Turn<'_>,
    ) -> Vec<Value> {
        let i = self.variable(start);
        let variables: Vec<Value> = carried.iter().map(|&x| self.variable(x)).collect();
        self.lines.open("do {".into(), &[]);
        let next = turn(self, i, &variables);
        self.assign(&variables, &next);
        let test = format!("}} while (++{} < {});", self.text(i), self.text(end));
        self.lines.close(test, &[i, end]);
        variables
    }

    fn choose_from(&mut self, condition: Value, otherwise: &[Value], then: &mut Branch<'_>) -> Vec<Value> {
        let variables: Vec<Value> = otherwise.iter().map(|&x| self.variable(x)).collect();
        let test = format!("if ({}) {{", self.text(condition));
        self.lines.open(test, &[condition]);
        let values = then(self);
        self.assign(&variables, &values);
        self.lines.close("}".into(), &[]);
        variables
    }

    fn repeat_while(&mut self, carried: &[Value], turn: &mut WhileTurn<'_>) -> Vec<Value> {
        let variables: Vec<Value> = carried.iter().map(|&x| self.variable(x)).collect();
        self.lines.open("for (;;) {".into(), &[]);
        let (more, next) = turn(self, &variables);
        self.assign(&variables, &next);
        self.lines.effect(format!("if (!{}) break;", self.text(more)), &[more]);
        self.lines.close("}".into(), &[]);
        variables
    }

    fn return_if(&mut self, condition: Value, result: Value) {
        self.leave(Some(condition), result);
    }

    fn descend(&mut self, x: Value, test: &mut Test<'_>, next: &mut Next<'_>) -> Value {
        let at = self.variable(x);
        let head = format!("while ({} != 0) {{", self.text(at));
        self.lines.open(head, &[at]);
        let (go_on, found) = test(self, at);
        self.lines.effect(format!("if (!{}) break;", self.text(go_on)), &[go_on]);
        let x = next(self, &found);
        self.assign(&[at], &[x]);
        self.lines.close("}".into(), &[]);
        at
    }
}
