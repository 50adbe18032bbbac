//! N-best lists in their usual forms.

use crate::commands::{open, read_utf8};
use anyhow::{Context, anyhow, bail};
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

/// One of several texts for an utterance.
pub(super) struct Hypothesis {
    /// The number of its utterance.
    pub(super) utterance: usize,
    pub(super) score: f64,
    pub(super) text: String,
    /// Its line in its file, from 1.
    pub(super) line: usize,
}

/// All hypotheses, in the order of the file.
#[derive(Default)]
pub(super) struct Lists {
    /// Names, in the order of their first hypotheses.
    pub(super) utterances: Vec<String>,
    pub(super) hypotheses: Vec<Hypothesis>,
    by_name: HashMap<String, usize>,
}

impl Lists {
    /// Reads a file of lines separated by tabs, a file of Kaldi's with its scores, or a folder of ESPnet's.
    pub(super) fn read(path: &Path, scores: Option<&Path>, costs: bool) -> anyhow::Result<Lists> {
        let mut lists = Lists::default();
        if path.is_dir() {
            lists.folder(path)?;
        } else {
            let mut bytes = vec![];
            open(path)?.read_to_end(&mut bytes).with_context(|| path.display().to_string())?;
            let text = String::from_utf8(bytes).map_err(|_| anyhow!("{}: not UTF-8", path.display()))?;
            let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
            match scores {
                Some(scores) => lists.kaldi(path, text, scores)?,
                None => lists.tabs(path, text)?,
            }
        }
        if lists.hypotheses.is_empty() {
            bail!("{}: there are no hypotheses in it", path.display());
        }
        if costs {
            lists.hypotheses.iter_mut().for_each(|h| h.score = -h.score);
        }
        Ok(lists)
    }

    fn push(&mut self, utterance: &str, score: f64, text: &str, line: usize) {
        let next = self.utterances.len();
        let utterance = *self.by_name.entry(utterance.to_owned()).or_insert_with(|| {
            self.utterances.push(utterance.to_owned());
            next
        });
        self.hypotheses.push(Hypothesis { utterance, score, text: text.trim().to_owned(), line });
    }

    /// `utterance TAB score TAB text`.
    fn tabs(&mut self, path: &Path, text: &str) -> anyhow::Result<()> {
        for (n, line) in lines(text) {
            let mut fields = line.splitn(3, '\t');
            let (Some(name), Some(score), Some(words)) = (fields.next(), fields.next(), fields.next()) else {
                bail!(
                    "{}:{n}: expected utterance, score and text, separated by tabs (or Kaldi's text, with --scores)",
                    path.display()
                );
            };
            self.push(name, number(score).with_context(|| format!("{}:{n}", path.display()))?, words, n);
        }
        Ok(())
    }

    /// `key words` in one file, and `key score` in another.
    fn keyed<'k>(
        &mut self,
        (path, text): (&Path, &'k str),
        scores: &Path,
        utterance: impl Fn(&'k str) -> &'k str,
    ) -> anyhow::Result<()> {
        let mut by_key = HashMap::new();
        let of_scores = read_utf8(scores)?;
        for (n, line) in lines(&of_scores) {
            let place = || format!("{}:{n}", scores.display());
            let fields = line.split_once([' ', '\t']);
            let (key, score) = fields.ok_or_else(|| anyhow!("{}: expected a name and a score", place()))?;
            by_key.insert(key, number(score).with_context(place)?);
        }
        for (n, line) in lines(text) {
            let (key, words) = line.split_once([' ', '\t']).unwrap_or((line, ""));
            let score = by_key.get(key);
            let score = score.ok_or_else(|| {
                anyhow!("{}:{n}: {key} has no score in {}", path.display(), scores.display())
            })?;
            self.push(utterance(key), *score, words, n);
        }
        Ok(())
    }

    /// `utterance-N words` in one file, and `utterance-N score` in another.
    fn kaldi(&mut self, path: &Path, text: &str, scores: &Path) -> anyhow::Result<()> {
        let is_number = |n: &str| n.bytes().all(|b| b.is_ascii_digit());
        let utterance = |key| match str::rsplit_once(key, '-') {
            Some((name, n)) if is_number(n) => name,
            _ => key,
        };
        self.keyed((path, text), scores, utterance)
    }

    /// Folders `1best_recog`, `2best_recog` and so on, with `utterance words` in `text` and `utterance tensor(score)` in `score`.
    fn folder(&mut self, path: &Path) -> anyhow::Result<()> {
        for rank in 1.. {
            let folder = path.join(format!("{rank}best_recog"));
            if !folder.is_dir() {
                if rank == 1 {
                    bail!(
                        "{}: a folder without 1best_recog; expected one of ESPnet's, or a file",
                        path.display()
                    );
                }
                return Ok(());
            }
            let text = folder.join("text");
            self.keyed((&text, &read_utf8(&text)?), &folder.join("score"), |name| name)?;
        }
        Ok(())
    }
}

/// Lines that are not empty, with their numbers from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(n, line)| (n + 1, line)).filter(|(_, line)| !line.trim().is_empty())
}

/// A finite number, bare or in PyTorch's `tensor(...)`.
fn number(text: &str) -> anyhow::Result<f64> {
    let bare = text.trim();
    let inner = bare.strip_prefix("tensor(").and_then(|t| t.split([',', ')']).next()).unwrap_or(bare);
    let value: Option<f64> = inner.parse().ok().filter(|v: &f64| v.is_finite());
    value.ok_or_else(|| anyhow!("{bare:?} is no score"))
}
