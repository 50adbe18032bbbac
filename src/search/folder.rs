//! A search's folder: what became of each candidate, so that nothing is done twice, by whomever it was done.
//!
//! | file | |
//! |---|---|
//! | `candidates/KEY.lstmc` | the model, with its pipeline and its report |
//! | `candidates/KEY.json` | its figures, or why there is no model |
//! | `candidates/KEY.failed` | the last words of a command that failed elsewhere; becomes a `KEY.json` |
//! | `latency.json` | the time of a step of each model, by processor level: measured once |
//!
//! `KEY` is a hash of the pipeline and of all that it works on.

use super::{Found, Outcome};
use crate::{Error, Source};
use lstmc_runtime::file::write_bytes;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Names of files of this search.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    /// A hash of the model, the texts and the processor level.
    setup: u64,
}

/// FNV-1a (Fowler, Noll and Vo), 64 bits: the same on every machine and in every version.
pub fn hash(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// What [`hash`] starts with.
pub const HASH: u64 = 0xcbf2_9ce4_8422_2325;

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// A file's text; none if there is no file.
fn read(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(reason) => Err(Error::Read { path: path.into(), reason }),
    }
}

impl Folder {
    /// The folder at `path`, which is made if it is not there.
    pub fn open(path: &Path, setup: u64) -> Result<Folder, Error> {
        let candidates = path.join("candidates");
        std::fs::create_dir_all(&candidates).map_err(|reason| Error::Write { path: candidates, reason })?;
        Ok(Folder { path: path.into(), setup })
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file in it.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        Ok(write_bytes(&self.file(name), bytes)?)
    }

    /// The key of a pipeline.
    pub fn key(&self, pipeline: &str) -> String {
        format!("{:016x}", hash(self.setup, pipeline.as_bytes()))
    }

    fn candidate(&self, pipeline: &str, ending: &str) -> PathBuf {
        self.path.join("candidates").join(format!("{}.{ending}", self.key(pipeline)))
    }

    /// Where its model is or will be.
    pub fn model(&self, pipeline: &str) -> PathBuf {
        self.candidate(pipeline, "lstmc")
    }

    /// Where a command writes its messages, and their place once it has failed.
    pub fn messages(&self, pipeline: &str) -> [PathBuf; 2] {
        ["log", "failed"].map(|ending| self.candidate(pipeline, ending))
    }

    /// What became of a pipeline, if anything. A model that was made elsewhere is measured: its bytes, and what its report says.
    pub fn load(&self, pipeline: &str) -> Result<Option<Outcome>, Error> {
        let model = self.model(pipeline);
        let noted = read(&self.candidate(pipeline, "json"))?;
        if let Some(outcome) = noted.and_then(|text| outcome(&serde_json::from_str(&text).ok()?))
            && (outcome.is_err() || model.is_file())
        {
            return Ok(Some(outcome));
        }
        // A damaged file, such as one that is still being copied here, is none yet.
        let found =
            if model.is_file() { Source::read(&model).ok().map(|made| measured(&made)) } else { None };
        let outcome = match found {
            Some(outcome) => outcome,
            None => match read(&self.messages(pipeline)[1])? {
                Some(messages) => Err(reason(&messages)),
                None => return Ok(None),
            },
        };
        self.note(pipeline, &outcome)?;
        Ok(Some(outcome))
    }

    /// Keeps an outcome.
    pub fn note(&self, pipeline: &str, outcome: &Outcome) -> Result<(), Error> {
        let value = match outcome {
            Ok(f) => json!({
                "pipeline": pipeline, "bytes": f.bytes, "perplexity": f.perplexity, "before": f.before,
            }),
            Err(reason) => json!({"pipeline": pipeline, "reason": reason}),
        };
        Ok(write_bytes(&self.candidate(pipeline, "json"), &pretty(&value))?)
    }

    /// The times of steps at a processor level, by key.
    pub fn latencies(&self, level: &str) -> Result<BTreeMap<String, f64>, Error> {
        let all = read(&self.file("latency.json"))?;
        let all: Option<Value> = all.and_then(|text| serde_json::from_str(&text).ok());
        let ours = all.as_ref().and_then(|all| all[level].as_object());
        Ok(ours.into_iter().flatten().filter_map(|(key, us)| Some((key.clone(), us.as_f64()?))).collect())
    }

    /// Keeps them; those of other levels stay.
    pub fn keep_latencies(&self, level: &str, latencies: &BTreeMap<String, f64>) -> Result<(), Error> {
        let all = read(&self.file("latency.json"))?;
        let all: Option<Value> = all.and_then(|text| serde_json::from_str(&text).ok());
        let mut all = all.filter(Value::is_object).unwrap_or(json!({}));
        all[level] = json!(latencies);
        self.write("latency.json", &pretty(&all))
    }
}

/// An outcome as it was noted.
fn outcome(noted: &Value) -> Option<Outcome> {
    if let Some(reason) = noted["reason"].as_str() {
        return Some(Err(reason.into()));
    }
    let number = |name: &str| noted[name].as_f64();
    let bytes = usize::try_from(noted["bytes"].as_u64()?).ok()?;
    Some(Ok(Found {
        bytes,
        perplexity: number("perplexity")?,
        before: number("before")?,
        microseconds: None,
    }))
}

/// What a model's file says.
fn measured(made: &Source) -> Outcome {
    let bytes = made.weight_bytes().map_err(|e| e.to_string())?.iter().map(|(_, bytes)| bytes).sum();
    let report: Value = serde_json::from_str(&made.report).unwrap_or_default();
    let perplexity = |when: &str| report[when]["perplexity"].as_f64();
    match (perplexity("after"), perplexity("before")) {
        (Some(perplexity), Some(before)) if perplexity.is_finite() => {
            Ok(Found { bytes, perplexity, before, microseconds: None })
        }
        _ => Err("its report has no perplexity, or one that is not finite".into()),
    }
}

/// The error among a command's messages.
fn reason(messages: &str) -> String {
    let error = messages.lines().rev().find_map(|line| line.strip_prefix("error: "));
    let last = messages.lines().rev().find(|line| !line.trim().is_empty());
    without_position(error.or(last).unwrap_or("the command left no message")).into()
}

/// A pass's error without its position in the pipeline, which canonicalization before it would change.
pub(super) fn without_position(error: &str) -> &str {
    let rest = error.strip_prefix("pass ").and_then(|rest| rest.split_once(", "));
    rest.filter(|(n, _)| n.parse::<usize>().is_ok()).map_or(error, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_kept() {
        let dir = std::env::temp_dir().join(format!("lstmc-folder-{}", std::process::id()));
        let folder = Folder::open(&dir, HASH).unwrap();
        assert_eq!(folder.load("a").unwrap(), None);
        let failed: Outcome = Err("no such target".into());
        folder.note("a", &failed).unwrap();
        assert_eq!(folder.load("a").unwrap(), Some(failed));
        let [_, place] = folder.messages("b");
        std::fs::write(place, "note: x\nerror: too small\n").unwrap();
        assert_eq!(folder.load("b").unwrap(), Some(Err("too small".into())));
        // Figures without their model, and half a file.
        let found = Found { bytes: 10, perplexity: 100.1, before: 99.0, microseconds: None };
        folder.note("c", &Ok(found)).unwrap();
        assert_eq!(folder.load("c").unwrap(), None);
        std::fs::write(folder.model("c"), "LSTMC").unwrap();
        assert_eq!(folder.load("c").unwrap(), Some(Ok(found)));
        std::fs::write(folder.model("d"), "LSTMC").unwrap();
        assert_eq!(folder.load("d").unwrap(), None);
        let times: BTreeMap<String, f64> = [("k".to_string(), 1.5)].into();
        folder.keep_latencies("plain", &times).unwrap();
        folder.keep_latencies("other", &BTreeMap::new()).unwrap();
        assert_eq!(folder.latencies("plain").unwrap(), times);
        let other = Folder::open(&dir, hash(HASH, b"other model")).unwrap();
        assert_ne!(other.key("a"), folder.key("a"));
        assert_eq!(other.load("a").unwrap(), None);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
