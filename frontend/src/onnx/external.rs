//! External data: tensors whose bytes are in other files, inside the model's folder only.

use super::error::{Quoted, TensorProblem};
use super::proto::StringStringEntryProto;
use crate::tensor::{DType, Tensor};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

/// A folder for external data, with the data read so far.
pub(super) struct External {
    dir: Option<PathBuf>,
    /// Bytes taken from each file. They may not exceed its size, so that a small file cannot fill the memory.
    taken: BTreeMap<PathBuf, u64>,
    /// The data read: tensors that share a part of a file share their memory.
    read: BTreeMap<(PathBuf, u64, u64, DType), Tensor>,
}

/// The entries of a tensor.
struct Entries<'a> {
    location: &'a str,
    offset: u64,
    length: Option<u64>,
}

impl External {
    /// External data in `dir`, or none.
    pub(super) fn new(dir: Option<&Path>) -> External {
        External { dir: dir.map(Path::to_path_buf), taken: BTreeMap::new(), read: BTreeMap::new() }
    }

    /// The tensor that these entries point to. The shape's element count has been checked.
    pub(super) fn read(
        &mut self,
        entries: &[StringStringEntryProto],
        dtype: DType,
        shape: Vec<usize>,
    ) -> Result<Tensor, TensorProblem> {
        let Entries { location, offset, length } = Entries::new(entries)?;
        let expected = shape.iter().product::<usize>() * dtype.size();
        if let Some(found) = length.filter(|&l| l != expected as u64) {
            return Err(TensorProblem::Length {
                unit: "bytes",
                shape: shape.iter().map(|&d| d as i64).collect(),
                expected,
                found: usize::try_from(found).unwrap_or(usize::MAX),
            });
        }
        let path = self.locate(location)?;
        let wrap = |error| TensorProblem::ExternalFile { location: location.to_string(), error };
        let metadata = std::fs::metadata(&path).map_err(wrap)?;
        if !metadata.is_file() {
            return Err(wrap(io::Error::other("not a file")));
        }
        let size = metadata.len();
        let length = expected as u64;
        if offset.checked_add(length).is_none_or(|end| end > size) {
            return Err(TensorProblem::ExternalEnd { location: location.to_string(), offset, length, size });
        }
        let key = (path, offset, length, dtype);
        if let Some(known) = self.read.get(&key) {
            return Ok(known.clone().reshaped(shape).expect("the byte count was checked"));
        }
        let taken = self.taken.entry(key.0.clone()).or_default();
        *taken = taken.saturating_add(length);
        if *taken > size {
            return Err(TensorProblem::ExternalOverlap { location: location.to_string() });
        }
        let mut bytes = vec![0; expected];
        let mut file = File::open(&key.0).map_err(wrap)?;
        file.seek(SeekFrom::Start(offset)).map_err(wrap)?;
        file.read_exact(&mut bytes).map_err(wrap)?;
        let tensor = Tensor::from_le_bytes(dtype, shape, &bytes).expect("the byte count was checked");
        self.read.insert(key, tensor.clone());
        Ok(tensor)
    }

    /// The file at `location`, which is inside the folder even after symbolic links are followed.
    fn locate(&self, location: &str) -> Result<PathBuf, TensorProblem> {
        let Some(dir) = &self.dir else {
            return Err(TensorProblem::ExternalWithoutFolder { location: location.to_string() });
        };
        let outside = |reason| Err(TensorProblem::ExternalOutside { location: location.to_string(), reason });
        let relative = Path::new(location);
        for component in relative.components() {
            match component {
                Component::Normal(_) | Component::CurDir => {}
                Component::ParentDir => return outside("it contains \"..\""),
                Component::RootDir | Component::Prefix(_) => return outside("it is absolute"),
            }
        }
        let wrap = |error| TensorProblem::ExternalFile { location: location.to_string(), error };
        let dir = dir.canonicalize().map_err(wrap)?;
        let path = dir.join(relative).canonicalize().map_err(wrap)?;
        if !path.starts_with(&dir) {
            return outside("a symbolic link leads out");
        }
        Ok(path)
    }
}

impl<'a> Entries<'a> {
    fn new(entries: &'a [StringStringEntryProto]) -> Result<Entries<'a>, TensorProblem> {
        let wrong = |expected, found| TensorProblem::ExternalEntry { expected, found };
        let mut values: BTreeMap<&str, &str> = BTreeMap::new();
        for e in entries {
            // The checksum is SHA-1 and is only informative.
            if !["location", "offset", "length", "checksum"].contains(&e.key.as_str()) {
                return Err(wrong("location, offset, length and checksum", Quoted(&e.key).to_string()));
            }
            if values.insert(&e.key, &e.value).is_some() {
                return Err(wrong("each entry once", format!("{} twice", e.key)));
            }
        }
        let number = |key: &str| match values.get(key).map(|v| (v, v.parse::<u64>())) {
            None => Ok(None),
            Some((_, Ok(n))) => Ok(Some(n)),
            Some((text, Err(_))) => {
                Err(wrong("an offset and a length in bytes, zero or more", format!("{key} {}", Quoted(text))))
            }
        };
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        match values.get("location") {
            Some(location) if !location.is_empty() => Ok(Entries { location, offset, length }),
            _ => Err(wrong("a location", "none".into())),
        }
    }
}
