//! What a model's probabilities say about a text.

use crate::engine::Machine;
use crate::{Engine, Error, text};
use lstmc_backend::Options;
use lstmc_frontend::ir::Graph;
use lstmc_runtime::{Encoded, Role, TextReader, Tokenizer};
use std::io::BufRead;
use std::path::Path;

/// Tokens of a stream that are in memory at once.
const TOGETHER: usize = 1 << 20;

/// Tokens of sentences that are sorted by length and scored together.
pub(crate) const SENTENCES: usize = 1 << 17;

/// How a text is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Reading {
    /// As one stream from the initial state, which is carried through the whole text: its first token is not predicted.
    #[default]
    Stream,
    /// Line by line: each from the initial state, after a token for a sentence's beginning, and with one for its end.
    Sentences,
}

/// What was found. Logarithms are natural.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Evaluation {
    /// The sum of the negative log-probabilities of all predicted tokens.
    pub loss: f64,
    /// The part of it that is the unknown token's.
    pub unknown_loss: f64,
    /// Predicted tokens.
    pub predicted: usize,
    /// Tokens of the text, those before sentences not counted.
    pub tokens: usize,
    /// Units of the text that the vocabulary lacks.
    pub unknown: usize,
    /// Words between white space, and lines' ends, of what was predicted.
    pub words: usize,
    /// Characters of what was predicted, lines' ends included.
    pub characters: usize,
    /// Bytes of what was predicted, in UTF-8, lines' ends included.
    pub bytes: usize,
    /// Lines.
    pub lines: usize,
}

impl Evaluation {
    /// `exp` of the mean loss of a predicted token.
    pub fn perplexity(&self) -> f64 {
        (self.loss / self.predicted as f64).exp()
    }

    /// `exp` of the loss per word, whatever the tokens are.
    pub fn word_perplexity(&self) -> f64 {
        (self.loss / self.words as f64).exp()
    }

    /// Bits per character.
    pub fn bits_per_character(&self) -> f64 {
        self.loss / std::f64::consts::LN_2 / self.characters as f64
    }

    /// Bits per byte of UTF-8.
    pub fn bits_per_byte(&self) -> f64 {
        self.loss / std::f64::consts::LN_2 / self.bytes as f64
    }

    fn count(&mut self, encoded: &Encoded) {
        self.unknown += encoded.unknown;
        self.words += encoded.words;
        self.characters += encoded.characters;
        self.bytes += encoded.bytes;
    }
}

/// One line's part.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Line {
    /// Its tokens that were predicted.
    pub tokens: usize,
    /// The sum of their natural log-probabilities.
    pub log_probability: f64,
    /// Its units that the vocabulary lacks.
    pub unknown: usize,
}

/// Reads a text from `input` (`path` names it in errors) and measures how well a model in language-model form predicts it. `each` gets every line's part, in order;
/// `progress` the number of tokens so far.
pub fn evaluate(
    (engine, options): (Engine, Options),
    graph: &Graph,
    tokenizer: &Tokenizer,
    reading: Reading,
    (path, input): (&Path, impl BufRead),
    each: &mut dyn FnMut(Line) -> Result<(), Error>,
    progress: &mut dyn FnMut(usize),
) -> Result<Evaluation, Error> {
    let threads = options.threads;
    // Sentences are shared out among threads, which then need none for their products.
    let options = Options { threads: if reading == Reading::Sentences { 1 } else { threads }, ..options };
    let machine = Machine::new(engine, options, graph)?;
    let reader = TextReader::new(tokenizer, input);
    let unknown = tokenizer.special().get(Role::Unknown);
    let mut run =
        Run { machine, reader, path, unknown, threads, each, progress, result: Evaluation::default() };
    match reading {
        Reading::Stream => run.stream(tokenizer)?,
        Reading::Sentences => run.sentences()?,
    }
    Ok(run.result)
}

struct Run<'r, R> {
    machine: Machine,
    reader: TextReader<'r, R>,
    path: &'r Path,
    unknown: Option<u32>,
    threads: usize,
    each: &'r mut dyn FnMut(Line) -> Result<(), Error>,
    progress: &'r mut dyn FnMut(usize),
    result: Evaluation,
}

impl<R: BufRead> Run<'_, R> {
    fn stream(&mut self, tokenizer: &Tokenizer) -> Result<(), Error> {
        let (mut encoded, mut first) = (Encoded::default(), true);
        // Where lines end among the tokens that are not yet scored, and their unknown units.
        let (mut lines, mut unknown, mut within) = (vec![], 0, false);
        // What is scored of the line so far.
        let mut rest = Line::default();
        let limit = if matches!(self.machine, Machine::Jit(_)) { TOGETHER } else { usize::MAX };
        loop {
            let before = (encoded.tokens.len(), encoded.unknown);
            let line = self.reader.line();
            let more = self.reader.stream(&mut encoded).map_err(|e| text::in_file(self.path, e))?;
            self.result.tokens += encoded.tokens.len() - before.0;
            unknown += encoded.unknown - before.1;
            let ended = self.reader.line() != line;
            if ended || !more && within {
                lines.push((encoded.tokens.len(), std::mem::take(&mut unknown)));
                self.result.lines += 1;
            }
            within = more && !ended;
            if more && encoded.tokens.len() < limit {
                continue;
            }
            if first && encoded.tokens.len() < 2 && !more {
                return Ok(());
            }
            let mut found = vec![];
            let (done, progress) = (self.result.predicted, &mut *self.progress);
            let mut collect = |part: &[f32]| {
                found.extend_from_slice(part);
                progress(done + found.len());
            };
            let sum = if first {
                // The first token is not predicted.
                let start = tokenizer.decode(&encoded.tokens[..1]);
                encoded.words -= start.split_whitespace().count().min(encoded.words);
                encoded.characters -= start.chars().count().min(encoded.characters);
                encoded.bytes -= start.len().min(encoded.bytes);
                self.machine.score(&encoded.tokens, &mut collect)?
            } else {
                self.machine.go_on(&encoded.tokens, &mut collect).expect("all is read at once otherwise")?
            };
            self.result.loss -= sum;
            self.add(&encoded.tokens[1..], &found);
            // Of each line, its part of what was found; the first token is not there.
            let mut at = 0;
            for (end, unknown) in lines.drain(..) {
                let part = &found[at..end.saturating_sub(1).max(at)];
                rest.tokens += part.len();
                rest.log_probability += part.iter().map(|&p| f64::from(p)).sum::<f64>();
                at += part.len();
                (self.each)(Line { unknown, ..std::mem::take(&mut rest) })?;
            }
            rest.tokens += found.len() - at;
            rest.log_probability += found[at..].iter().map(|&p| f64::from(p)).sum::<f64>();
            self.result.count(&encoded);
            if !more {
                return Ok(());
            }
            let last = encoded.tokens.last().copied();
            encoded = Encoded::default();
            encoded.tokens.extend(last);
            first = false;
        }
    }

    fn sentences(&mut self) -> Result<(), Error> {
        loop {
            let (mut lines, mut texts, mut tokens) = (vec![], vec![], 0);
            while tokens < SENTENCES {
                let read = self.reader.sentence().map_err(|e| text::in_file(self.path, e))?;
                let Some((mut encoded, _)) = read else { break };
                tokens += encoded.tokens.len();
                texts.push(std::mem::take(&mut encoded.tokens));
                lines.push(encoded);
            }
            if texts.is_empty() {
                return Ok(());
            }
            let found = self.machine.score_all(&texts, self.threads)?;
            for ((encoded, tokens), found) in lines.iter().zip(&texts).zip(&found) {
                let sum = found.iter().map(|&p| f64::from(p)).sum::<f64>();
                self.result.loss -= sum;
                self.result.lines += 1;
                self.result.tokens += found.len();
                self.add(&tokens[1..], found);
                self.result.count(encoded);
                (self.each)(Line { tokens: found.len(), log_probability: sum, unknown: encoded.unknown })?;
            }
            (self.progress)(self.result.predicted);
        }
    }

    /// Counts predicted tokens.
    fn add(&mut self, targets: &[u32], found: &[f32]) {
        self.result.predicted += found.len();
        let unknown = targets.iter().zip(found).filter(|(target, _)| Some(**target) == self.unknown);
        self.result.unknown_loss -= unknown.map(|(_, &p)| f64::from(p)).sum::<f64>();
    }
}

/// Writes lines' parts as a table: number, tokens, log-probability, unknown, separated by tabs.
#[cfg(feature = "cli")]
pub(crate) fn table(out: &mut impl std::io::Write) -> impl FnMut(Line) -> std::io::Result<()> + '_ {
    let mut number = 0;
    move |line: Line| {
        if number == 0 {
            writeln!(out, "line\ttokens\tlog_probability\tunknown")?;
        }
        number += 1;
        writeln!(out, "{number}\t{}\t{}\t{}", line.tokens, line.log_probability, line.unknown)
    }
}
