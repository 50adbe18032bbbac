//! The model and its nodes.

use super::attributes;
use super::error::{Located, ParseError, distance, unknown};
use super::lexer::{Kind, Lexer, Token};
use super::source::WeightSource;
use crate::ir::dim::{Dim, Symbol};
use crate::ir::graph::{Graph, Operand, OutputRole, Type, ValueId};
use crate::ir::map::Part;
use crate::ir::op::Op;
use crate::ir::print;
use crate::tensor::DType;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::str::FromStr;

/// Reads tokens into a graph.
pub(in crate::ir) struct Parser<'a, 's> {
    lexer: Lexer<'a>,
    next: Token<'a>,
    pub(super) source: &'s mut dyn WeightSource,
    /// The children of maps read so far, by path.
    pub(super) parts: HashMap<String, Part>,
    /// The number of elements that `random` may still produce.
    pub(super) random_budget: usize,
}

/// The number of elements that `random` may produce in one text: more than any test needs, few enough to cost little memory.
const MAX_RANDOM: usize = 1 << 24;

struct Defined<'a> {
    name: Cow<'a, str>,
    at: Located,
    ty: Option<(Type, Located)>,
}

enum Read<'a> {
    Value(Cow<'a, str>),
    Weight(Cow<'a, str>),
    None,
}

struct Statement<'a> {
    results: Vec<Defined<'a>>,
    op: Op,
    at: Located,
    operands: Vec<(Read<'a>, Located)>,
    origin: Cow<'a, str>,
}

struct Returned<'a> {
    state: Option<(Cow<'a, str>, Located)>,
    name: Cow<'a, str>,
    value: (Cow<'a, str>, Located),
}

impl<'a, 's> Parser<'a, 's> {
    pub(super) fn new(text: &'a str, source: &'s mut dyn WeightSource) -> Result<Self, ParseError> {
        let mut lexer = Lexer::new(text);
        let next = lexer.next()?;
        Ok(Parser { lexer, next, source, parts: HashMap::new(), random_budget: MAX_RANDOM })
    }

    /// The whole text.
    pub(super) fn graph(mut self) -> Result<Graph, ParseError> {
        self.expect_word("model")?;
        let (name, _) = self.string("the model's name in quotes")?;
        let mut graph = Graph::new(name);
        if self.eat_punct('(')? {
            self.expect_word("vocabulary")?;
            graph.vocabulary = Some(self.number("the number of words")?);
            self.expect_punct(')')?;
        }
        self.expect_punct('{')?;
        let mut statements = vec![];
        while !self.at_word("return") {
            if !matches!(self.next.kind, Kind::Value(_)) {
                return Err(self.unexpected("a node (`%name: type = operator ...`) or `return`"));
            }
            self.expect_line_start("a node")?;
            statements.push(self.statement()?);
        }
        let outputs = self.returned()?;
        self.expect_punct('}')?;
        while self.next.kind != Kind::End {
            let Kind::Weight(name) = self.next.kind.clone() else {
                return Err(self.unexpected("a weight (`@name: ...`) or the end of the text"));
            };
            self.expect_line_start("a weight")?;
            let at = self.bump()?.at;
            self.expect_punct(':')?;
            let map = self.map(&print::name(&name), 0, None)?;
            if graph.add_weight(&name, map).is_err() {
                return Err(self.error(at, format!("the weight @{} is defined twice", print::name(&name))));
            }
        }
        self.build(&mut graph, statements)?;
        self.build_outputs(&mut graph, outputs)?;
        Ok(graph)
    }

    fn statement(&mut self) -> Result<Statement<'a>, ParseError> {
        let mut results = vec![];
        loop {
            let Kind::Value(name) = self.next.kind.clone() else {
                return Err(self.unexpected("the name of a result (`%name`)"));
            };
            let at = self.bump()?.at;
            let place = self.next.at;
            let ty = if self.eat_punct(':')? { Some((self.ty()?, self.since(place))) } else { None };
            results.push(Defined { name, at, ty });
            if !self.eat_punct(',')? {
                break;
            }
        }
        self.expect_punct('=')?;
        let (word, at) = self.word("an operator")?;
        let mut known = attributes::prototypes();
        let Some(index) = known.iter().position(|op| op.name() == word) else {
            let is_generic = word.starts_with("onnx.");
            let family = known.iter().filter(|op| op.is_language_model_form() != is_generic);
            let names: Vec<&str> = family.map(Op::name).collect();
            return Err(self.error(at, unknown("operator", word, &names)));
        };
        let mut op = known.swap_remove(index);
        let mut operands = vec![];
        while !self.next.starts_line || !operands.is_empty() {
            let read = match &self.next.kind {
                Kind::Value(name) => Read::Value(name.clone()),
                Kind::Weight(name) => Read::Weight(name.clone()),
                Kind::Word("none") => Read::None,
                _ if operands.is_empty() => break,
                _ => return Err(self.unexpected("an operand (`%value`, `@weight` or `none`)")),
            };
            let at = self.bump()?.at;
            operands.push((read, at));
            if !self.eat_punct(',')? {
                break;
            }
        }
        attributes::read(self, &mut op, at)?;
        let origin = if self.at_word("from") {
            self.bump()?;
            self.string("the name of the ONNX node in quotes")?.0
        } else {
            "".into()
        };
        Ok(Statement { results, op, at, operands, origin })
    }

    fn returned(&mut self) -> Result<Vec<Returned<'a>>, ParseError> {
        self.expect_line_start("`return`")?;
        self.expect_word("return")?;
        let mut outputs = vec![];
        while self.next.kind != Kind::Punct('}') {
            if !outputs.is_empty() {
                self.expect_punct(',')?;
            }
            let (name, is_state) = match self.next.kind.clone() {
                Kind::Word(w) => (Cow::Borrowed(w), w == "state"),
                Kind::String(s) => (s, false),
                _ => return Err(self.unexpected("an output (`name %value` or `state %state = %value`)")),
            };
            self.bump()?;
            let mut value = self.value_name()?;
            let mut state = None;
            if is_state {
                self.expect_punct('=')?;
                state = Some(std::mem::replace(&mut value, self.value_name()?));
            }
            outputs.push(Returned { state, name, value });
        }
        Ok(outputs)
    }

    fn value_name(&mut self) -> Result<(Cow<'a, str>, Located), ParseError> {
        let Kind::Value(name) = self.next.kind.clone() else {
            return Err(self.unexpected("the name of a value (`%name`)"));
        };
        Ok((name, self.bump()?.at))
    }

    fn build(&self, graph: &mut Graph, statements: Vec<Statement<'a>>) -> Result<(), ParseError> {
        let mut values: HashMap<String, ValueId> = HashMap::new();
        let all: HashSet<&str> =
            statements.iter().flat_map(|s| s.results.iter().map(|r| r.name.as_ref())).collect();
        let mut defined = HashSet::new();
        let weights: HashMap<String, _> = graph.weights().map(|(id, w)| (w.name.clone(), id)).collect();
        for statement in &statements {
            let mut operands = vec![];
            for (read, at) in &statement.operands {
                operands.push(match read {
                    Read::None => Operand::None,
                    Read::Value(name) => match values.get(name.as_ref()) {
                        Some(&id) => Operand::Value(id),
                        None if all.contains(name.as_ref()) => {
                            let name = print::name(name);
                            return Err(self.error(*at, format!("%{name} is used before its definition")));
                        }
                        None => return Err(self.unknown_name("value", '%', name, *at, values.keys())),
                    },
                    Read::Weight(name) => match weights.get(name.as_ref()) {
                        Some(&id) => Operand::Weight(id),
                        None => return Err(self.unknown_name("weight", '@', name, *at, weights.keys())),
                    },
                });
            }
            for result in &statement.results {
                if !defined.insert(result.name.as_ref()) {
                    let name = print::name(&result.name);
                    return Err(self.error(result.at, format!("%{name} is defined twice")));
                }
            }
            let ids = self.add(graph, statement, &operands)?;
            values.extend(statement.results.iter().zip(ids).map(|(r, id)| (r.name.to_string(), id)));
        }
        Ok(())
    }

    fn add(
        &self,
        graph: &mut Graph,
        statement: &Statement<'a>,
        operands: &[Operand],
    ) -> Result<Vec<ValueId>, ParseError> {
        let (op, results) = (&statement.op, &statement.results);
        let wrong_count = |expected: usize| {
            let message = format!(
                "{} has {expected} result{}, the text names {}",
                op.name(),
                plural(expected),
                results.len()
            );
            self.error(results[0].at, message)
        };
        if matches!(op, Op::Input | Op::State) {
            let (result, initial) = match (results.as_slice(), operands) {
                ([result], []) => (result, None),
                ([result], [Operand::Weight(initial)]) if *op == Op::State => (result, Some(*initial)),
                _ => {
                    let takes =
                        if *op == Op::State { "at most one operand, a weight" } else { "no operands" };
                    return Err(self.error(statement.at, format!("{} has one result and {takes}", op.name())));
                }
            };
            let Some((ty, _)) = &result.ty else {
                let message = format!("{} needs a type: `%name: f32[S, B, 8] = {}`", op.name(), op.name());
                return Err(self.error(result.at, message));
            };
            if !statement.origin.is_empty() {
                return Err(self.error(statement.at, format!("{} has no origin", op.name())));
            }
            let value = match initial {
                None => Ok(graph.add_source(op.clone(), &result.name, ty.clone())),
                Some(initial) => graph.add_state(&result.name, ty.clone(), initial),
            };
            return Ok(vec![value.map_err(|e| self.error(statement.at, format!("{}: {e}", op.name())))?]);
        }
        // Before inference, which would create that many facts.
        if let Op::Split { outputs, .. } | Op::Unknown { outputs, .. } = op
            && *outputs != results.len()
        {
            return Err(wrong_count(*outputs));
        }
        let facts =
            graph.infer(op, operands).map_err(|e| self.error(statement.at, format!("{}: {e}", op.name())))?;
        if facts.len() != results.len() {
            return Err(wrong_count(facts.len()));
        }
        for (result, fact) in results.iter().zip(&facts) {
            if let Some((ty, at)) = &result.ty
                && *ty != fact.ty
            {
                let message = format!("the type is {} by inference, the text says {ty}", fact.ty);
                return Err(self.error(*at, message));
            }
        }
        let names: Vec<&str> = results.iter().map(|r| r.name.as_ref()).collect();
        graph
            .add(op.clone(), operands, &names, &statement.origin)
            .map_err(|e| self.error(statement.at, e.to_string()))
    }

    fn build_outputs(&self, graph: &mut Graph, outputs: Vec<Returned<'a>>) -> Result<(), ParseError> {
        let values: HashMap<String, ValueId> = graph.values().map(|(id, v)| (v.name.clone(), id)).collect();
        let find = |(name, at): &(Cow<'a, str>, Located)| match values.get(name.as_ref()) {
            Some(&id) => Ok(id),
            None => Err(self.unknown_name("value", '%', name, *at, values.keys())),
        };
        let mut returned = HashSet::new();
        for output in outputs {
            let value = find(&output.value)?;
            let role = match &output.state {
                Some(state) => OutputRole::State(find(state)?),
                None => OutputRole::Named(output.name.to_string()),
            };
            if !returned.insert((output.state.as_ref().map(|(s, _)| s.clone()), output.name.clone())) {
                let at = output.state.as_ref().unwrap_or(&output.value).1;
                return Err(self.error(at, "this output is returned twice"));
            }
            graph.add_output(role, value);
        }
        Ok(())
    }

    fn unknown_name<'n>(
        &self,
        what: &str,
        sigil: char,
        name: &str,
        at: Located,
        known: impl Iterator<Item = &'n String>,
    ) -> ParseError {
        let mut known: Vec<String> = known.map(|n| format!("{sigil}{}", print::name(n))).collect();
        known.sort();
        let mut known: Vec<&str> = known.iter().map(String::as_str).collect();
        let found = format!("{sigil}{}", print::name(name));
        if known.len() > 12 {
            // The nearest dozen: a long list does not help.
            known.sort_by_cached_key(|k| (distance(&found, k), *k));
            known.truncate(12);
        }
        self.error(at, unknown(what, &found, &known))
    }

    /// A value's type.
    fn ty(&mut self) -> Result<Type, ParseError> {
        let dtype = self.one_of("dtype", &DType::ALL, |d| d.name())?;
        self.expect_punct('[')?;
        if self.at_word("..") {
            self.bump()?;
            self.expect_punct(']')?;
            return Ok(Type::unranked(dtype));
        }
        let mut shape = vec![];
        while !self.eat_punct(']')? {
            if !shape.is_empty() {
                self.expect_punct(',')?;
            }
            shape.push(self.dim()?);
        }
        Ok(Type::new(dtype, shape))
    }

    fn dim(&mut self) -> Result<Dim, ParseError> {
        if self.eat_punct('?')? {
            return Ok(Dim::Unknown);
        }
        let mut dim = Dim::constant(1);
        loop {
            let (word, at) = self.word("a dimension (a number, a symbol, `4*B` or `?`)")?;
            let factor = if word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
                let symbol = Symbol::new(word);
                if symbol.name() != word {
                    return Err(self.error(at, "a symbol has letters, digits and `_` only"));
                }
                Dim::symbol(symbol)
            } else {
                let n: u64 = self.parsed(word, at, "a dimension")?;
                let n = i64::try_from(n).ok().and_then(|n| usize::try_from(n).ok());
                Dim::constant(n.ok_or_else(|| self.error(at, "a dimension this large is not supported"))?)
            };
            dim = dim.times(&factor);
            if dim == Dim::Unknown {
                return Err(self.error(at, "a dimension this large is not supported"));
            }
            if !self.eat_punct('*')? {
                return Ok(dim);
            }
        }
    }
}

pub(super) fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}

/// Tokens.
impl<'a> Parser<'a, '_> {
    /// The next token.
    pub(super) fn peek(&self) -> &Kind<'a> {
        &self.next.kind
    }

    /// The position of the next token.
    pub(super) fn here(&self) -> Located {
        self.next.at
    }

    /// From `start` to before the next token.
    fn since(&self, start: Located) -> Located {
        let text = &self.lexer.text[start.start..self.next.at.start];
        let skip = text.len() - text.trim_start_matches([':', ' ']).len();
        Located { start: start.start + skip, len: text.trim_end().len().saturating_sub(skip) }
    }

    /// Bytes of text not yet read: an upper bound on its remaining content.
    pub(super) fn remaining(&self) -> usize {
        self.lexer.text.len() - self.next.at.start
    }

    pub(super) fn error(&self, at: Located, message: impl Into<String>) -> ParseError {
        ParseError::new(self.lexer.text, at, message)
    }

    /// Consumes the next token.
    pub(super) fn bump(&mut self) -> Result<Token<'a>, ParseError> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.next, next))
    }

    /// The error that the next token is not `expected`.
    pub(super) fn unexpected(&self, expected: &str) -> ParseError {
        self.error(self.next.at, format!("expected {expected}, found {}", self.next.kind))
    }

    fn expect_line_start(&self, what: &str) -> Result<(), ParseError> {
        if self.next.starts_line {
            return Ok(());
        }
        Err(self.unexpected(&format!("the end of the line before {what}")))
    }

    pub(super) fn at_word(&self, word: &str) -> bool {
        self.next.kind == Kind::Word(word)
    }

    pub(super) fn eat_punct(&mut self, c: char) -> Result<bool, ParseError> {
        let hit = self.next.kind == Kind::Punct(c);
        if hit {
            self.bump()?;
        }
        Ok(hit)
    }

    pub(super) fn expect_punct(&mut self, c: char) -> Result<(), ParseError> {
        if self.eat_punct(c)? { Ok(()) } else { Err(self.unexpected(&format!("`{c}`"))) }
    }

    pub(super) fn expect_word(&mut self, word: &str) -> Result<(), ParseError> {
        if !self.at_word(word) {
            return Err(self.unexpected(&format!("`{word}`")));
        }
        self.bump().map(|_| ())
    }

    pub(super) fn word(&mut self, what: &str) -> Result<(&'a str, Located), ParseError> {
        let Kind::Word(word) = self.next.kind else { return Err(self.unexpected(what)) };
        Ok((word, self.bump()?.at))
    }

    pub(super) fn string(&mut self, what: &str) -> Result<(Cow<'a, str>, Located), ParseError> {
        let Kind::String(text) = self.next.kind.clone() else { return Err(self.unexpected(what)) };
        Ok((text, self.bump()?.at))
    }

    /// A word that parses as `T`.
    pub(super) fn number<T: FromStr<Err: Display>>(&mut self, what: &str) -> Result<T, ParseError> {
        let (word, at) = self.word(what)?;
        self.parsed(word, at, what)
    }

    pub(super) fn parsed<T: FromStr<Err: Display>>(
        &self,
        word: &str,
        at: Located,
        what: &str,
    ) -> Result<T, ParseError> {
        word.parse().map_err(|e| self.error(at, format!("expected {what}: {e}")))
    }

    /// A word that names one of `all`.
    pub(super) fn one_of<T: Clone>(
        &mut self,
        what: &str,
        all: &[T],
        name: impl Fn(&T) -> &'static str,
    ) -> Result<T, ParseError> {
        let (word, at) = self.word(what)?;
        if let Some(x) = all.iter().find(|x| name(x) == word) {
            return Ok(x.clone());
        }
        let names: Vec<&str> = all.iter().map(name).collect();
        Err(self.error(at, unknown(what, word, &names)))
    }
}
