//! One module per command, and what they share.

pub(crate) mod bench;
pub(crate) mod build;
pub(crate) mod calibrate;
pub(crate) mod compile;
pub(crate) mod cpu;
pub(crate) mod demo;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod frontier;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod opt;
pub(crate) mod passes;
pub(crate) mod suggest;
mod table;
mod texts;
pub(crate) mod verify;

use crate::Source;
use crate::backend::{Level, Options};
use crate::runtime::file::WriteError;
use crate::runtime::{Encoded, Vocabulary};
use crate::terminal::Usage;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A model, and a vocabulary for one that brings none.
#[derive(clap::Args, Debug)]
pub(crate) struct ModelArgs {
    /// The model: .onnx or .lstmc
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    /// Vocabulary, one word a line; line number from 0 = token id. A .lstmc file usually brings its own
    #[arg(long, value_name = "FILE")]
    pub(crate) vocab: Option<PathBuf>,
}

impl ModelArgs {
    /// Reads the model into language-model form.
    pub(crate) fn read(&self) -> anyhow::Result<Source> {
        Ok(Source::read(&self.model)?.with_vocabulary(self.vocab.as_deref())?.canonical()?)
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
    level: Level,
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

/// The model's vocabulary, or what to do about its absence.
pub(crate) fn vocabulary(source: &Source) -> Result<&Vocabulary, Usage> {
    source.vocabulary.as_deref().ok_or_else(|| {
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

/// Reads a text and encodes it.
pub(crate) fn read_text(path: &Path, vocabulary: &Vocabulary) -> anyhow::Result<Encoded> {
    let text = read_utf8(path)?;
    vocabulary.encode(&text).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))
}

/// Writes a file so that it is whole or not there.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let failed = |reason| WriteError::Failed { path: path.into(), reason };
    crate::terminal::uninterrupted(|| {
        crate::runtime::file::write_whole(path, |file| file.write_all(bytes).map_err(failed))
    })
}
