//! Statistics as a file: safetensors, so that other tools can read them.
//!
//! | tensor | dtype and shape | what |
//! |---|---|---|
//! | `inputs.K.gram` | f64 `[width, width]` | sum of `x x^T` of the K-th group of maps |
//! | `inputs.K.sum` | f64 `[width]` | sum of `x` |
//! | `lookups.K` | f64 `[rows]` | how often each row of the K-th embedding was looked up |
//! | `predictions.targets` | f64 `[vocabulary]` | how often each word came next |
//! | `predictions.probabilities` | f64 `[vocabulary]` | `E[softmax]` |
//! | `predictions.curvature` | f64 `[vocabulary]` | `E[softmax (1 - softmax)]` |
//!
//! The metadata entry `lstmc.calibration` is a JSON object: `version`, `tokens`, `inputs` (a list of `{count, readers}`, where a reader is `{weight,
//! columns: {start, end}}`) and `lookups` (a list of weight names).

use super::{Inputs, Lookups, Predictions, Reader, Statistics};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The metadata entry that describes the tensors.
const KEY: &str = "lstmc.calibration";

/// The version that is written and read.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    tokens: usize,
    inputs: Vec<InputsHeader>,
    lookups: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct InputsHeader {
    count: u64,
    readers: Vec<Reader>,
}

/// Why bytes are not valid statistics.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Not a file of this kind.
    #[error("not calibration statistics: {0}; `lstmc calibrate` makes them")]
    Format(String),
    /// Another version.
    #[error(
        "calibration statistics of version {found}, expected {VERSION}; collect them again with `lstmc calibrate`"
    )]
    Version {
        /// The file's.
        found: u32,
    },
    /// A part that is missing or does not fit the others.
    #[error("the calibration statistics are damaged: {what}: expected {expected}, found {found}")]
    Damaged {
        /// The part.
        what: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
}

impl Statistics {
    /// Whether a file that starts with these bytes may hold statistics, as opposed to text.
    pub fn is_file(start: &[u8]) -> bool {
        // A length of 8 bytes, whose upper four are zero in any header that a reader accepts, and a JSON object.
        start.len() > 8 && start[4..8] == [0; 4] && start[8] == b'{'
    }

    /// The statistics as a safetensors file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let header = Header {
            version: VERSION,
            tokens: self.tokens,
            inputs: self
                .inputs
                .iter()
                .map(|i| InputsHeader { count: i.count, readers: i.readers.clone() })
                .collect(),
            lookups: self.lookups.iter().map(|l| l.table.clone()).collect(),
        };
        let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = vec![];
        let mut push = |name: String, shape: Vec<usize>, data: &[f64]| {
            tensors.push((name, shape, data.iter().flat_map(|x| x.to_le_bytes()).collect()));
        };
        for (k, i) in self.inputs.iter().enumerate() {
            push(format!("inputs.{k}.gram"), vec![i.width, i.width], &i.gram);
            push(format!("inputs.{k}.sum"), vec![i.width], &i.sum);
        }
        for (k, l) in self.lookups.iter().enumerate() {
            push(format!("lookups.{k}"), vec![l.counts.len()], &l.counts);
        }
        if let Some(p) = &self.predictions {
            push("predictions.targets".into(), vec![p.targets.len()], &p.targets);
            push("predictions.probabilities".into(), vec![p.probabilities.len()], &p.probabilities);
            push("predictions.curvature".into(), vec![p.curvature.len()], &p.curvature);
        }
        let views = tensors.iter().map(|(name, shape, data)| {
            let view = TensorView::new(Dtype::F64, shape.clone(), data);
            (name.as_str(), view.expect("the data has the length of its shape"))
        });
        let json = serde_json::to_string(&header).expect("a header of strings and numbers is JSON");
        let metadata = HashMap::from([(KEY.to_string(), json)]);
        safetensors::serialize(views, Some(metadata)).expect("names are unique and shapes fit")
    }

    /// The statistics in a file that [`Statistics::to_bytes`] wrote. Any other bytes are an error.
    pub fn from_bytes(bytes: &[u8]) -> Result<Statistics, FileError> {
        let format = |e: safetensors::SafeTensorError| FileError::Format(e.to_string());
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(format)?;
        let json = metadata.metadata().as_ref().and_then(|m| m.get(KEY));
        let json = json.ok_or_else(|| FileError::Format(format!("no `{KEY}` in its metadata")))?;
        let header: serde_json::Value =
            serde_json::from_str(json).map_err(|e| FileError::Format(e.to_string()))?;
        match header.get("version").and_then(serde_json::Value::as_u64) {
            Some(v) if v == u64::from(VERSION) => {}
            found => {
                return Err(FileError::Version { found: found.and_then(|v| v.try_into().ok()).unwrap_or(0) });
            }
        }
        let header: Header = serde_json::from_value(header).map_err(|e| FileError::Format(e.to_string()))?;
        let file = File(SafeTensors::deserialize(bytes).map_err(format)?);
        let mut inputs = vec![];
        for (k, h) in header.inputs.into_iter().enumerate() {
            let sum = file.vector(&format!("inputs.{k}.sum"))?;
            let name = format!("inputs.{k}.gram");
            let gram = file.tensor(&name, &[sum.len(), sum.len()])?;
            not_negative(&format!("the diagonal of {name}"), gram.iter().step_by(sum.len() + 1))?;
            let readers = h.readers;
            if let Some(r) =
                readers.iter().find(|r| r.columns.start > r.columns.end || r.columns.end > sum.len())
            {
                return Err(FileError::Damaged {
                    what: format!("columns of @{}", r.weight),
                    expected: format!("a range within 0..{}", sum.len()),
                    found: format!("{:?}", r.columns),
                });
            }
            inputs.push(Inputs { readers, width: sum.len(), sum, gram, count: h.count });
        }
        let mut lookups = vec![];
        for (k, table) in header.lookups.into_iter().enumerate() {
            let name = format!("lookups.{k}");
            let counts = file.vector(&name)?;
            not_negative(&name, &counts)?;
            lookups.push(Lookups { table, counts });
        }
        let predictions = if file.0.names().contains(&"predictions.targets") {
            let targets = file.vector("predictions.targets")?;
            let curvature = file.tensor("predictions.curvature", &[targets.len()])?;
            let probabilities = file.tensor("predictions.probabilities", &[targets.len()])?;
            not_negative("predictions.targets", &targets)?;
            not_negative("predictions.probabilities", &probabilities)?;
            Some(Predictions { targets, probabilities, curvature })
        } else {
            None
        };
        Ok(Statistics { tokens: header.tokens, inputs, lookups, predictions })
    }
}

struct File<'b>(SafeTensors<'b>);

impl File<'_> {
    fn view(&self, name: &str) -> Result<TensorView<'_>, FileError> {
        let view = self.0.tensor(name).ok().filter(|v| v.dtype() == Dtype::F64);
        view.ok_or_else(|| damaged(name, "an f64 tensor", "none".into()))
    }

    fn vector(&self, name: &str) -> Result<Vec<f64>, FileError> {
        let view = self.view(name)?;
        match view.shape() {
            [_] => finite(name, view.data()),
            shape => Err(damaged(name, "a vector", format!("shape {shape:?}"))),
        }
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f64>, FileError> {
        let view = self.view(name)?;
        if view.shape() != shape {
            return Err(damaged(name, &format!("shape {shape:?}"), format!("{:?}", view.shape())));
        }
        finite(name, view.data())
    }
}

fn damaged(what: &str, expected: &str, found: String) -> FileError {
    FileError::Damaged { what: what.into(), expected: expected.into(), found }
}

/// The numbers of a tensor; NaN and infinity are refused.
fn finite(name: &str, bytes: &[u8]) -> Result<Vec<f64>, FileError> {
    let (chunks, _) = bytes.as_chunks::<8>();
    let values: Vec<f64> = chunks.iter().map(|&c| f64::from_le_bytes(c)).collect();
    match values.iter().find(|x| !x.is_finite()) {
        None => Ok(values),
        Some(x) => Err(damaged(name, "finite numbers", x.to_string())),
    }
}

/// Refuses negative numbers in sums of squares, counts and probabilities.
fn not_negative<'v>(what: &str, values: impl IntoIterator<Item = &'v f64>) -> Result<(), FileError> {
    match values.into_iter().find(|&&x| x < 0.0) {
        None => Ok(()),
        Some(x) => Err(damaged(what, "numbers of zero or more", x.to_string())),
    }
}
