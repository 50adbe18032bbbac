//! Models as files: ONNX in, `.lstmc` in and out.

use crate::{Error, TextOptions};
use lstmc_backend::{Jit, Options};
use lstmc_frontend::canonicalize::canonicalize;
use lstmc_frontend::ir::store::{
    Encoding, Stored, StoredWeights, compressed_weight_bytes, is_meant_for_coding, store, store_compressed,
    weight_bytes,
};
use lstmc_frontend::ir::{Graph, parse_with, print, verify};
use lstmc_frontend::onnx;
use lstmc_runtime::{BlobOut, Container, ContainerError, Contents, Description, MAGIC, Model, Tokenizer};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The two kinds of file a model is read from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Format {
    /// An ONNX model.
    Onnx,
    /// An lstmc container.
    Lstmc,
}

impl Format {
    /// The kind according to a file's first bytes; anything that is not a container is read as ONNX, whose reader reports errors.
    fn of(start: &[u8]) -> Format {
        // Also if a transfer in text mode changed the rest of the magic: the container's reader detects that.
        if start.starts_with(&MAGIC[..5]) { Format::Lstmc } else { Format::Onnx }
    }
}

/// A model read from a file, with the data stored in it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Source {
    /// Its path.
    pub path: PathBuf,
    /// The kind of the file.
    pub format: Format,
    /// The graph: as imported, or in language-model form, which an ONNX file that lstmc exported has at once.
    pub graph: Graph,
    /// How a text becomes tokens, and their names, if they are known.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// The pipeline that made it, as text; empty for an ONNX model.
    pub recipe: String,
    /// The report of that pipeline, as JSON; empty for an ONNX model.
    pub report: String,
    /// Notes of import and canonicalisation: what was dropped or assumed.
    pub notes: Vec<String>,
    /// Whether weights, texts and words are entropy-coded in the file: smaller, and decoded when it is read.
    pub entropy: bool,
}

impl Source {
    /// Reads a model; the file's first bytes determine its kind.
    pub fn read(path: impl AsRef<Path>) -> Result<Source, Error> {
        let path = path.as_ref();
        match format(path)? {
            Format::Onnx => Ok(Source::imported(path, onnx::read_exported(path)?)),
            Format::Lstmc => Source::restored(path, &Container::open(path)?),
        }
    }

    /// Reads a model from the bytes of its file. `path` names the file in errors and need not exist; an ONNX model is named after it, and must not
    /// have external data.
    ///
    /// ```
    /// let error = lstmc::Source::from_bytes(b"LSTMC\r\n\x1a", "short.lstmc").unwrap_err();
    /// assert!(error.to_string().contains("short.lstmc"));
    /// ```
    pub fn from_bytes(bytes: &[u8], path: impl AsRef<Path>) -> Result<Source, Error> {
        let path = path.as_ref();
        match Format::of(bytes) {
            Format::Onnx => {
                let name = path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
                Ok(Source::imported(path, onnx::import_exported(bytes.to_vec().into(), None, &name)?))
            }
            Format::Lstmc => {
                let container = Container::from_bytes(bytes)
                    .map_err(|flaw| ContainerError::Flawed { path: path.into(), flaw })?;
                Source::restored(path, &container)
            }
        }
    }

    /// A model built in memory, in language-model form.
    pub fn of_graph(graph: Graph) -> Source {
        Source {
            path: PathBuf::new(),
            format: Format::Lstmc,
            graph,
            tokenizer: None,
            recipe: String::new(),
            report: String::new(),
            notes: vec![],
            entropy: false,
        }
    }

    fn imported(path: &Path, imported: onnx::Imported) -> Source {
        let notes = imported.notes;
        Source { path: path.into(), format: Format::Onnx, notes, ..Source::of_graph(imported.graph) }
    }

    fn restored(path: &Path, container: &Container) -> Result<Source, Error> {
        let damaged = |reason: String| Error::Contents { path: path.into(), reason };
        if let Some(blob) = container.tensors().find(|blob| Encoding::from_name(blob.encoding).is_none()) {
            let reason = format!("tensor {} has the unknown encoding `{}`", blob.name, blob.encoding);
            return Err(damaged(reason));
        }
        // The container's checksum covers both text and tensors.
        let mut weights = StoredWeights::new(|name: &str| stored(container, name)).trusted();
        let graph = parse_with(container.ir(), &mut weights).map_err(|e| damaged(e.to_string()))?;
        verify(&graph).map_err(|e| damaged(e.to_string()))?;
        if let (Some(words), Some(expected)) = (container.tokenizer(), graph.vocabulary) {
            words.vocabulary().check_len(expected).map_err(|e| damaged(e.to_string()))?;
        }
        let is_coded = |name| Encoding::from_name(name).is_some_and(Encoding::is_coded);
        Ok(Source {
            path: path.into(),
            tokenizer: container.tokenizer().cloned(),
            recipe: container.recipe().into(),
            report: container.report().into(),
            entropy: container.is_coded() || container.tensors().any(|blob| is_coded(blob.encoding)),
            ..Source::of_graph(graph)
        })
    }

    /// Reads a vocabulary file and attaches it, replacing the container's own. Its length is checked when the model is canonical.
    pub fn with_vocabulary(self, path: Option<&Path>) -> Result<Source, Error> {
        self.with_text(&path.map(TextOptions::vocabulary).unwrap_or_default())
    }

    /// The same model with the graph that passes made of its own; entropy-coded in a file if that is what the graph is meant for.
    pub fn with_graph(self, graph: Graph) -> Source {
        Source { entropy: self.entropy || is_meant_for_coding(&graph), graph, ..self }
    }

    /// The model in language-model form, with its vocabulary checked against it.
    pub fn canonical(mut self) -> Result<Source, Error> {
        if self.format == Format::Onnx
            && let Some(canonical) = canonicalize(&self.graph)?
        {
            self.graph = canonical.graph;
            self.notes.extend(canonical.notes);
        }
        if let (Some(tokenizer), Some(expected)) = (&self.tokenizer, self.graph.vocabulary) {
            tokenizer.vocabulary().check_len(expected)?;
        }
        Ok(self)
    }

    /// Compiles a canonical model for this machine.
    pub fn compile(&self, options: Options) -> Result<Model, Error> {
        let jit = Jit::new(&self.graph, options)?;
        let mut description = Description::default();
        description.name.clone_from(&self.graph.name);
        description.recipe.clone_from(&self.recipe);
        description.report.clone_from(&self.report);
        Ok(Model::new(Arc::new(jit), self.tokenizer.clone(), description)?)
    }

    /// The bytes that each weight takes in a `.lstmc` file, by name.
    pub fn weight_bytes(&self) -> Result<Vec<(String, usize)>, Error> {
        let bytes =
            if self.entropy { compressed_weight_bytes(&self.graph) } else { weight_bytes(&self.graph) };
        bytes.map_err(|e| self.incomplete(&e))
    }

    fn incomplete(&self, reason: &dyn std::fmt::Display) -> Error {
        Error::Contents { path: self.path.clone(), reason: reason.to_string() }
    }

    /// Writes a canonical model to a `.lstmc` file, through a temporary one next to it. Returns the file's size in bytes.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<u64, Error> {
        self.with_contents(|contents| Ok(contents.write(path)?))
    }

    /// The bytes of that file.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        self.with_contents(|contents| contents.to_bytes().map_err(|flaw| self.incomplete(&flaw)))
    }

    fn with_contents<T>(&self, write: impl FnOnce(&Contents<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let stored = if self.entropy { store_compressed(&self.graph) } else { store(&self.graph) };
        let stored = stored.map_err(|e| self.incomplete(&e))?;
        let tensors: Vec<BlobOut<'_>> = stored
            .iter()
            .map(|s| {
                let shape: Vec<u64> = s.shape.iter().map(|&d| d as u64).collect();
                BlobOut::new(s.path.as_str(), s.encoding.name(), shape, &s.bytes[..])
            })
            .collect();
        let ir = print(&self.graph);
        let mut contents = Contents::new(&ir, &tensors);
        contents.name = &self.graph.name;
        contents.tokenizer = self.tokenizer.as_deref();
        contents.recipe = &self.recipe;
        contents.report = &self.report;
        contents.coded = self.entropy;
        write(&contents)
    }
}

/// A tensor of a container as the store's decoder takes it; `None` if it is missing or has an unknown encoding.
fn stored<'c>(container: &'c Container, name: &str) -> Option<Stored<'c>> {
    let blob = container.tensor(name)?;
    Some(Stored {
        path: name.into(),
        encoding: Encoding::from_name(blob.encoding)?,
        shape: blob.shape.iter().map(|&d| usize::try_from(d).ok()).collect::<Option<_>>()?,
        bytes: blob.bytes.into(),
    })
}

/// The kind of this file.
fn format(path: &Path) -> Result<Format, Error> {
    let mut start = [0u8; MAGIC.len()];
    let read = File::open(path).and_then(|mut f| {
        let mut n = 0;
        while n < start.len() {
            match f.read(&mut start[n..])? {
                0 => break,
                k => n += k,
            }
        }
        Ok(n)
    });
    match read {
        Ok(n) => Ok(Format::of(&start[..n])),
        // On some systems a folder can be opened but not read; the ONNX reader has the better message.
        Err(e) if e.kind() == std::io::ErrorKind::IsADirectory => Ok(Format::Onnx),
        Err(reason) => Err(Error::Read { path: path.into(), reason }),
    }
}
