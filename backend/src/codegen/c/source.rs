//! A whole file of C: prelude, functions, data.

use super::function;
use crate::codegen::emit::{Data, Emit, Features, Value};
use crate::codegen::program::{linked, linked_body};
use crate::plan::Plan;
use std::fmt::Write;

/// The functions that emitted code calls.
const PRELUDE: &str = concat!(include_str!("prelude.h"), "\n", include_str!("products.h"));

/// The bytes of a string: a compiler of C99 need not read more than 4095.
const ROW: usize = 2048;

/// A file under construction.
pub(crate) struct Source {
    features: Features,
    /// Data without their contents, which follow the functions: they are long.
    declarations: String,
    functions: String,
    data: String,
}

impl Source {
    pub(crate) fn new(features: Features) -> Source {
        let [declarations, functions, data] = Default::default();
        Source { features, declarations, functions, data }
    }

    /// The packed weights and the table of their addresses.
    pub(crate) fn weights<'w>(&mut self, weights: impl Iterator<Item = &'w [u8]>) {
        let mut names = vec![];
        for (n, bytes) in weights.enumerate() {
            names.push(format!("weights_{n}"));
            self.array(&names[n], bytes);
        }
        // C has no empty arrays.
        let table = if names.is_empty() { "0".into() } else { names.join(", ") };
        let head = format!("static const void *const {}[{}]", Data::Weights.name(), names.len().max(1));
        self.define(&head, &format!("{table}\n"));
    }

    /// Other data.
    pub(crate) fn data(&mut self, data: Data, bytes: &[u8]) {
        self.array(data.name(), bytes);
    }

    /// Bytes as rows of strings, which compilers read some ten times as fast as numbers.
    fn array(&mut self, name: &str, bytes: &[u8]) {
        let row = bytes.len().clamp(1, ROW);
        let rows = bytes.len().div_ceil(row).max(1);
        let text: String = bytes.chunks(row).map(|row| format!("\"{}\",\n", escaped(row))).collect();
        let text = if bytes.is_empty() { "\"\"\n" } else { &text };
        self.define(&format!("static const char ALIGNED(64) {name}[{rows}][{row}]"), text);
    }

    fn define(&mut self, head: &str, contents: &str) {
        self.declarations += &format!("{head};\n");
        self.data += &format!("\n{head} = {{\n{contents}}};\n");
    }

    /// The program's functions.
    pub(crate) fn program(&mut self, plan: &Plan) {
        for entry in linked(plan) {
            let (parameters, returns) = entry.shape();
            let (parameters, result) =
                (vec!["uintptr_t"; parameters], if returns { "float" } else { "void" });
            let text = function(self.features, &entry.name(), &parameters, result, |e, p| {
                linked_body(plan, entry, e, p)
            });
            self.functions += &format!("\nstatic {text}");
        }
    }

    /// A public function.
    pub(crate) fn function(
        &mut self,
        name: &str,
        parameters: &[&str],
        result: &'static str,
        body: impl FnOnce(&mut dyn Emit, &[Value]) -> Value,
    ) {
        let text = function(self.features, name, parameters, result, |e, p| Some(body(e, p)));
        self.functions += &format!("\n{text}");
    }

    /// The size of the functions' text.
    pub(crate) fn code_bytes(&self) -> usize {
        self.functions.len()
    }

    /// The file, which begins with `head`.
    pub(crate) fn finish(self, head: &str) -> String {
        let Source { features, declarations, functions, data } = self;
        let signed = u8::from(features.signed_bytes);
        format!("{head}\n#define SIGNED_BYTES {signed}\n\n{PRELUDE}\n{declarations}{functions}{data}")
    }
}

/// Bytes between the quotation marks of a string.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(3 * bytes.len());
    for (n, &byte) in bytes.iter().enumerate() {
        let is_digit_next = bytes.get(n + 1).is_some_and(u8::is_ascii_digit);
        // Two question marks may begin another character.
        let is_plain = (byte.is_ascii_graphic() || byte == b' ') && !b"\"\\?".contains(&byte);
        // Writing to a string does not fail.
        let _ = match (is_plain, is_digit_next) {
            (true, _) => write!(text, "{}", char::from(byte)),
            (false, true) => write!(text, "\\{byte:03o}"),
            (false, false) => write!(text, "\\{byte:o}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_what_c_reads() {
        assert_eq!(escaped(b"a\0b\x017\"\\??/ \xff\n9"), r#"a\0b\0017\42\134\77\77/ \377\0129"#);
    }
}
