//! The texts that a compression uses.

use super::{read_text, vocabulary};
use crate::Source;
use crate::passes::{Calibration, Statistics, TextInfo};
use crate::terminal::Usage;
use anyhow::anyhow;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Bytes that tell statistics from text.
const START: u64 = 16;

/// A text that perplexity is measured or a model trained on.
pub(crate) struct Text {
    pub(crate) tokens: Vec<u32>,
    pub(crate) info: TextInfo,
}

/// Where passes get statistics from.
pub(crate) struct CalibrationSource {
    pub(crate) calibration: Calibration<'static>,
    pub(crate) info: TextInfo,
}

/// The text that perplexity is measured on.
pub(crate) fn validation(path: &Path, source: &Source) -> anyhow::Result<Text> {
    text(path, source, "perplexity")
}

/// The text that passes train on.
pub(crate) fn training(path: &Path, source: &Source) -> anyhow::Result<Text> {
    text(path, source, "training")
}

fn text(path: &Path, source: &Source, what: &str) -> anyhow::Result<Text> {
    let text = read_text(path, vocabulary(source)?)?;
    if text.tokens.len() < 2 {
        return Err(Usage(format!("{}: {what} needs at least two tokens", path.display())).into());
    }
    let info = TextInfo { file: name(path), tokens: text.tokens.len(), unknown: Some(text.unknown) };
    Ok(Text { tokens: text.tokens, info })
}

pub(crate) fn calibration(path: &Path, source: &Source) -> anyhow::Result<CalibrationSource> {
    if is_statistics(path)? {
        let bytes = std::fs::read(path).map_err(|reason| crate::Error::Read { path: path.into(), reason })?;
        let statistics = Statistics::from_bytes(&bytes).map_err(|e| anyhow!("{}: {e}", path.display()))?;
        let info = TextInfo { file: name(path), tokens: statistics.tokens(), unknown: None };
        return Ok(CalibrationSource { calibration: Calibration::of_statistics(statistics), info });
    }
    let text = read_text(path, vocabulary(source)?)?;
    if text.tokens.len() < 2 {
        return Err(Usage(format!("{}: calibration needs at least two tokens", path.display())).into());
    }
    let info = TextInfo { file: name(path), tokens: text.tokens.len(), unknown: Some(text.unknown) };
    Ok(CalibrationSource { calibration: Calibration::of_text(text.tokens), info })
}

fn is_statistics(path: &Path) -> anyhow::Result<bool> {
    let mut start = vec![];
    let read = File::open(path).and_then(|f| f.take(START).read_to_end(&mut start));
    read.map_err(|reason| crate::Error::Read { path: path.into(), reason })?;
    Ok(Statistics::is_file(&start))
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
