//! The texts that a compression uses.

use super::{read_text, tokenizer};
use crate::backend::Options;
use crate::compress::file_name;
use crate::passes::{Calibration, Statistics, TextInfo};
use crate::terminal::{self, Usage};
use crate::{Engine, Scorer, Source, Text};
use anyhow::{anyhow, bail};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes that tell statistics from text.
const START: u64 = 16;

/// Reads a text of at least two tokens; `what` is what needs them.
pub(crate) fn text(path: &Path, source: &Source, what: &str) -> anyhow::Result<Text> {
    let text = read_text(path, tokenizer(source)?)?;
    if text.tokens.len() < 2 {
        return Err(Usage(format!("{}: {what} needs at least two tokens", path.display())).into());
    }
    Ok(text)
}

/// The texts that passes work with.
#[derive(clap::Args, Debug)]
pub(crate) struct TextArgs {
    /// Text that passes collect statistics on, or statistics that `lstmc calibrate` collected
    #[arg(long, value_name = "TEXT|STATS", help_heading = "Measuring")]
    calibrate: Option<PathBuf>,
    /// Text that the passes `recover` and `refit`, and `prune` with `steps`, train on
    #[arg(long, value_name = "TEXT", help_heading = "Training")]
    train: Option<PathBuf>,
    /// Model with the same words that `recover(distill=.., teacher=given)` learns from: ONNX or .lstmc
    #[arg(long, value_name = "MODEL", requires = "train", help_heading = "Training")]
    teacher: Option<PathBuf>,
    /// Text on which perplexity is measured before and after each lossy pass, and by which passes share out a budget
    #[arg(long, value_name = "TEXT", help_heading = "Measuring")]
    validate: Option<PathBuf>,
}

/// What [`TextArgs`] name.
pub(crate) struct Texts {
    pub(crate) calibration: Option<(Calibration<'static>, TextInfo)>,
    pub(crate) training: Option<Text>,
    pub(crate) teacher: Option<Source>,
    pub(crate) validation: Option<Text>,
}

impl TextArgs {
    /// Reads them, for a model.
    pub(crate) fn read(&self, source: &Source) -> anyhow::Result<Texts> {
        let read = |path: &Option<PathBuf>, what: &str| {
            path.as_deref().map(|path| text(path, source, what)).transpose()
        };
        Ok(Texts {
            validation: read(&self.validate, "perplexity")?,
            calibration: self.calibrate.as_deref().map(|path| calibration(path, source)).transpose()?,
            training: read(&self.train, "training")?,
            teacher: self.teacher.as_deref().map(|path| with_words_of(path, source)).transpose()?,
        })
    }
}

/// Reads a model in language-model form whose words, if it has them, are those of another one.
pub(crate) fn with_words_of(path: &Path, source: &Source) -> anyhow::Result<Source> {
    let model = Source::read(path)?.canonical()?;
    if let (Some(own), Some(words)) = (&model.tokenizer, &source.tokenizer)
        && own.vocabulary() != words.vocabulary()
    {
        bail!("{}: its vocabulary is not that of {}", path.display(), source.path.display());
    }
    Ok(model)
}

fn calibration(path: &Path, source: &Source) -> anyhow::Result<(Calibration<'static>, TextInfo)> {
    if is_statistics(path)? {
        let bytes = std::fs::read(path).map_err(|reason| crate::Error::Read { path: path.into(), reason })?;
        let statistics = Statistics::from_bytes(&bytes).map_err(|e| anyhow!("{}: {e}", path.display()))?;
        let info = TextInfo { file: file_name(path), tokens: statistics.tokens(), unknown: None };
        return Ok((Calibration::of_statistics(statistics), info));
    }
    let text = text(path, source, "calibration")?;
    Ok((Calibration::of_text(text.tokens), text.info))
}

pub(crate) fn is_statistics(path: &Path) -> anyhow::Result<bool> {
    let mut start = vec![];
    let read = File::open(path).and_then(|f| f.take(START).read_to_end(&mut start));
    read.map_err(|reason| crate::Error::Read { path: path.into(), reason })?;
    Ok(Statistics::is_file(&start))
}

/// What measures perplexity on a text, with a bar that says `what`.
pub(crate) fn scorer<'t>(engine: Engine, options: Options, tokens: &'t [u32], what: &str) -> Scorer<'t> {
    let (mut show, total) = (terminal::bar(what), tokens.len() - 1);
    Scorer::new(engine, options, tokens, move |n| show(n, total))
}
