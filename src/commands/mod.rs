//! One module per command, and what they share.

pub(crate) mod bench;
pub(crate) mod build;
pub(crate) mod calibrate;
pub(crate) mod compare;
pub(crate) mod compile;
pub(crate) mod cpu;
pub(crate) mod demo;
pub(crate) mod eval;
pub(crate) mod export;
mod figure;
pub(crate) mod frontier;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod opt;
pub(crate) mod passes;
pub(crate) mod report;
pub(crate) mod rescore;
pub(crate) mod score;
pub(crate) mod search;
pub(crate) mod suggest;
mod table;
mod texts;
pub(crate) mod verify;

use crate::backend::{Level, Options};
use crate::runtime::Tokenizer;
use crate::runtime::file::WriteError;
use crate::terminal::{self, Usage};
use crate::{Source, Text, TextOptions};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// A model, and how it reads texts, where it does not say so itself.
#[derive(clap::Args, Debug)]
pub(crate) struct ModelArgs {
    /// The model: .onnx or .lstmc
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) text: TextOptions,
}

impl ModelArgs {
    /// Reads the model as it is.
    pub(crate) fn source(&self) -> anyhow::Result<Source> {
        let source = Source::read(&self.model)?.with_text(&self.text).map_err(|error| match error {
            crate::Error::Tokenizer(reason) => Usage(reason).into(),
            other => anyhow::Error::from(other),
        })?;
        for note in source.tokenizer.iter().flat_map(|t| crate::text::notes(t)) {
            terminal::note(&note);
        }
        Ok(source)
    }

    /// Reads the model into language-model form.
    pub(crate) fn read(&self) -> anyhow::Result<Source> {
        Ok(self.source()?.canonical()?)
    }
}

/// The processor level that generated code runs at.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct CpuArgs {
    /// Instructions that code may use: `best`, or a processor level that `lstmc cpu` lists
    #[arg(
        long = "cpu",
        value_name = "LEVEL",
        env = "LSTMC_CPU",
        hide_env_values = true,
        default_value = "best"
    )]
    pub(crate) level: Level,
}

impl CpuArgs {
    /// The other options by default.
    pub(crate) fn options(self) -> Options {
        Options { level: self.level, ..Options::default() }
    }
}

/// The processor's name, as far as the system tells.
pub(crate) fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        info.lines()
            .find(|l| l.starts_with(name))
            .and_then(|l| l.split(':').nth(1))
            .map(|v| v.trim().to_string())
    };
    field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_string())
}

/// The model's tokenizer, or what to do about its absence.
pub(crate) fn tokenizer(source: &Source) -> Result<&Tokenizer, Usage> {
    source.tokenizer.as_deref().ok_or_else(|| {
        Usage(format!(
            "{}: this model brings no vocabulary, which text needs; give one with --vocab FILE (one word a line)",
            source.path.display()
        ))
    })
}

/// Reads a file of text, whatever text it is.
pub(crate) fn read_utf8(path: &Path) -> anyhow::Result<String> {
    let bytes = std::fs::read(path).map_err(|reason| crate::Error::Read { path: path.into(), reason })?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|&&byte| byte == b'\n').count();
        anyhow::anyhow!("{}: line {line} is not UTF-8; expected a text in UTF-8", path.display())
    })
}

/// Notes which tokens are put around every sentence.
pub(crate) fn note_sentences(tokenizer: &Tokenizer) -> anyhow::Result<()> {
    let (begin, end) = (tokenizer.begin()?, tokenizer.end()?);
    let name = |id: u32| tokenizer.vocabulary().word(id).unwrap_or("?").escape_debug().to_string();
    terminal::note(&format!(
        "every line is a sentence, between the tokens {} and {}",
        name(begin),
        name(end)
    ));
    Ok(())
}

/// Opens a text; `-` is standard input.
pub(crate) fn open(path: &Path) -> anyhow::Result<Box<dyn BufRead>> {
    if path == Path::new("-") {
        return Ok(Box::new(std::io::stdin().lock()));
    }
    let opened = File::open(path).and_then(|file| match file.metadata()?.is_dir() {
        true => Err(std::io::Error::from(std::io::ErrorKind::IsADirectory)),
        false => Ok(file),
    });
    let file = opened.map_err(|reason| crate::Error::Read { path: path.into(), reason })?;
    Ok(Box::new(BufReader::new(file)))
}

/// Reads a text as tokens.
pub(crate) fn read_text(path: &Path, tokenizer: &Tokenizer) -> anyhow::Result<Text> {
    let text = Text::read(tokenizer, path, open(path)?)?;
    let unknown = text.info.unknown.unwrap_or_default();
    if let Some(note) = crate::text::unknown_note(unknown, text.tokens.len(), tokenizer) {
        terminal::note(&format!("{}: {note}", path.display()));
    }
    Ok(text)
}

/// Writes a file so that it is whole or not there.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    crate::terminal::uninterrupted(|| crate::runtime::file::write_bytes(path, bytes))
}
