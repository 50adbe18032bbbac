//! The lines of a function, without those that compute what nothing reads.

use super::Value;

#[derive(Debug)]
struct Line {
    depth: usize,
    text: String,
    /// The value that it defines or assigns: the line is left out if nothing reads that.
    defines: Option<Value>,
    /// What stands there then, with the same `uses`.
    otherwise: Option<String>,
    uses: Vec<Value>,
}

/// The lines of a function under construction.
#[derive(Debug, Default)]
pub(super) struct Lines {
    lines: Vec<Line>,
    depth: usize,
}

impl Lines {
    fn push(&mut self, text: String, defines: Option<Value>, otherwise: Option<String>, uses: &[Value]) {
        self.lines.push(Line { depth: self.depth, text, defines, otherwise, uses: uses.to_vec() });
    }

    /// A definition of a value, or an assignment.
    pub(super) fn define(&mut self, x: Value, text: String, otherwise: Option<String>, uses: &[Value]) {
        self.push(text, Some(x), otherwise, uses);
    }

    /// A line that stays.
    pub(super) fn effect(&mut self, text: String, uses: &[Value]) {
        self.push(text, None, None, uses);
    }

    /// A line that opens a block.
    pub(super) fn open(&mut self, text: String, uses: &[Value]) {
        self.effect(text, uses);
        self.depth += 1;
    }

    /// A line that closes a block.
    pub(super) fn close(&mut self, text: String, uses: &[Value]) {
        self.depth -= 1;
        self.effect(text, uses);
    }

    /// The text.
    pub(super) fn finish(mut self) -> String {
        let most =
            self.lines.iter().flat_map(|line| line.uses.iter().chain(&line.defines)).map(|x| x.0).max();
        let mut reads = vec![0usize; most.map_or(0, |x| x as usize + 1)];
        self.lines.iter().flat_map(|line| &line.uses).for_each(|x| reads[x.0 as usize] += 1);
        // Values are read after their definitions, except by the next turn of a loop: then there is another round.
        let mut goes_on = true;
        while std::mem::take(&mut goes_on) {
            for line in self.lines.iter_mut().rev() {
                if line.defines.is_some_and(|x| reads[x.0 as usize] == 0) {
                    line.defines = None;
                    match line.otherwise.take() {
                        Some(otherwise) => line.text = otherwise,
                        None => {
                            line.text.clear();
                            line.uses.drain(..).for_each(|x| reads[x.0 as usize] -= 1);
                        }
                    }
                    goes_on = true;
                }
            }
        }
        let kept = self.lines.iter().filter(|line| !line.text.is_empty());
        kept.map(|line| format!("{}{}\n", "    ".repeat(line.depth + 1), line.text)).collect()
    }
}
