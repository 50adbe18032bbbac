//! Ahead-of-time building: a model as a static library with a C header, as C, or as a Rust crate; and the helper for build scripts.
//!
//! An application that contains a model compiles it in its `build.rs`, for the target that Cargo builds:
//!
//! ```no_run
//! // build.rs, with lstmc among the [build-dependencies]
//! fn main() -> Result<(), lstmc::Error> {
//!     lstmc::build::Config::new("model.lstmc").compile()
//! }
//! ```
//!
//! and includes the generated safe functions:
//!
//! ```ignore
//! // src/main.rs
//! mod model {
//!     include!(concat!(env!("OUT_DIR"), "/model.rs"));
//! }
//! ```

use crate::{Error, Source, TextOptions};
use lstmc_backend::object::{self, Cpu, Object, Sizes, Target, Version};
use std::io::Write;
use std::path::{Path, PathBuf};

/// What can be written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[non_exhaustive]
pub enum Emit {
    /// libNAME.a, or NAME.lib for Windows
    #[cfg_attr(feature = "cli", value(name = "staticlib"))]
    StaticLib,
    /// NAME.o, or NAME.obj for Windows
    Object,
    /// NAME.c, for any C99 compiler, on any little-endian processor; it includes NAME.h
    C,
    /// NAME.h, for C and C++
    Header,
    /// NAME/, a Rust crate without dependencies and `std`, with the static library inside
    Rust,
}

/// A generated file, below the folder that the caller chooses.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct File {
    /// Its path below that folder.
    pub path: PathBuf,
    /// Its contents.
    pub bytes: Vec<u8>,
}

/// The result of a build.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Built {
    /// The files, in the requested order.
    pub files: Vec<File>,
    /// The sizes of its parts.
    pub sizes: Sizes,
    /// The target's triple.
    pub target: &'static str,
    /// The levels of which the code has a version each, the simplest first; or what was asked for. None for C, whose compiler decides.
    pub levels: Vec<String>,
    /// The CPU features that the code needs, as named by the code generator.
    pub features: Vec<&'static str>,
}

/// The options of a build.
#[derive(Clone, Debug)]
pub struct Config {
    model: PathBuf,
    /// The model itself, if it was read.
    source: Option<Source>,
    text: TextOptions,
    name: Option<String>,
    target: Option<String>,
    cpu: Cpu,
}

impl Config {
    /// Builds this model (`.lstmc`, or `.onnx`).
    pub fn new(model: impl AsRef<Path>) -> Config {
        let model = model.as_ref().to_path_buf();
        let text = TextOptions::default();
        Config { model, source: None, text, name: None, target: None, cpu: Cpu::default() }
    }

    /// Builds a model that was read or made.
    pub fn of(source: Source) -> Config {
        let config = Config::new(&source.path);
        Config { source: Some(source), ..config }
    }

    /// The words, one per line, of a model without a vocabulary.
    pub fn vocabulary(mut self, path: impl AsRef<Path>) -> Config {
        self.text.vocabulary = Some(path.as_ref().to_path_buf());
        self
    }

    /// How texts become the model's tokens, vocabulary included.
    pub fn text(mut self, options: TextOptions) -> Config {
        self.text = options;
        self
    }

    /// The prefix of the functions, a C identifier. Without it, the model's file name, with `_` for characters that C does not allow.
    pub fn name(mut self, name: impl Into<String>) -> Config {
        self.name = Some(name.into());
        self
    }

    /// The target's triple. The default is Cargo's target in a build script, and this machine otherwise.
    pub fn target(mut self, triple: impl Into<String>) -> Config {
        self.target = Some(triple.into());
        self
    }

    /// The instructions that code may use. The default is [`Cpu::Dispatch`]: code that every CPU of the architecture runs, at its best.
    pub fn cpu(mut self, cpu: Cpu) -> Config {
        self.cpu = cpu;
        self
    }

    /// Builds in memory.
    pub fn build(&self, emit: &[Emit]) -> Result<Built, Error> {
        let (files, object, target) = self.compiled(emit)?;
        let versions = target.versions();
        let (levels, features) = match is_only_c(emit) {
            true => (vec![], vec![]),
            false => (versions.iter().map(|v| v.name().to_string()).collect(), versions[0].features()),
        };
        Ok(Built { files, sizes: object.sizes, target: target.triple(), levels, features })
    }

    /// Builds for a build script: writes the static library and `NAME.rs`, a module with safe functions, to Cargo's `OUT_DIR`, and tells
    /// Cargo to link the library and when to rebuild.
    pub fn compile(&self) -> Result<(), Error> {
        let out = std::env::var_os("OUT_DIR").map(PathBuf::from).ok_or(Error::NoBuildScript)?;
        let (mut files, object, target) = self.compiled(&[Emit::StaticLib, Emit::Header])?;
        let module = object::module(&object, &target).into_bytes();
        files.push(File { path: format!("{}.rs", object.name).into(), bytes: module });
        for file in files {
            let path = out.join(file.path);
            std::fs::write(&path, file.bytes).map_err(|reason| Error::Write { path, reason })?;
        }
        let mut lines = vec![
            format!("cargo:rustc-link-search=native={}", out.display()),
            format!("cargo:rustc-link-lib=static={}", object.name),
        ];
        let read = std::iter::once(&self.model).chain(&self.text.vocabulary);
        let read = read.filter(|path| !path.as_os_str().is_empty());
        lines.extend(read.map(|path| format!("cargo:rerun-if-changed={}", path.display())));
        let printed = writeln!(std::io::stdout(), "{}", lines.join("\n"));
        printed.map_err(|reason| Error::Write { path: "standard output".into(), reason })
    }

    /// The files, what headers are made of, and the target.
    fn compiled(&self, emit: &[Emit]) -> Result<(Vec<File>, Object, Target), Error> {
        // Quick checks come before a large model is read.
        let name = self.symbol_prefix();
        object::check_name(&name).map_err(lstmc_backend::CompileError::from)?;
        let target = self.resolve_target()?;
        let source = self.source.clone().map_or_else(|| Source::read(&self.model), Ok)?;
        let source = source.with_text(&self.text)?.canonical()?;
        let facts = facts(&source, &target, &self.cpu)?;
        let words = source.tokenizer.as_deref();
        let c = emit
            .contains(&Emit::C)
            .then(|| object::compile_c(&source.graph, words, &target, &name, info(&facts, None)));
        let c = c.transpose()?;
        let machine_code = match is_only_c(emit) {
            true => None,
            false => {
                let info = |version: &Version| info(&facts, Some(version));
                Some(object::compile(&source.graph, words, &target, &name, &info)?)
            }
        };
        let mut files = vec![];
        for &kind in emit {
            let object = if kind == Emit::C { &c } else { &machine_code };
            let object = object.as_ref().or(c.as_ref()).expect("what is emitted was compiled");
            files.extend(emitted(kind, object, &target)?);
        }
        let object = machine_code.or(c).expect("one of them was compiled");
        Ok((files, object, target))
    }

    fn resolve_target(&self) -> Result<Target, Error> {
        let cargo = || std::env::var("OUT_DIR").and_then(|_| std::env::var("TARGET")).ok();
        let host = || Target::host().map_or_else(|| "this machine".into(), str::to_string);
        let triple = self.target.clone().or_else(cargo).unwrap_or_else(host);
        Ok(Target::new(&triple, &self.cpu)?)
    }

    fn symbol_prefix(&self) -> String {
        let stem = || self.model.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let fits = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        self.name.clone().unwrap_or_else(|| stem().chars().map(fits).collect())
    }
}

/// Whether nothing has machine code.
fn is_only_c(emit: &[Emit]) -> bool {
    emit.contains(&Emit::C) && emit.iter().all(|kind| matches!(kind, Emit::C | Emit::Header))
}

fn emitted(kind: Emit, object: &Object, target: &Target) -> Result<Vec<File>, Error> {
    let name = &object.name;
    let library = |folder: &str| -> Result<File, Error> {
        let path = Path::new(folder).join(target.library(name));
        match object::archive(&object.bytes, name, target) {
            Ok(bytes) => Ok(File { path, bytes }),
            Err(reason) => Err(Error::Write { path, reason }),
        }
    };
    Ok(match kind {
        Emit::StaticLib => vec![library("")?],
        Emit::Object => vec![File { path: target.object(name).into(), bytes: object.bytes.clone() }],
        Emit::C => vec![File { path: format!("{name}.c").into(), bytes: object.bytes.clone() }],
        Emit::Header => vec![File {
            path: format!("{name}.h").into(),
            bytes: object::header(object, target).into_bytes(),
        }],
        Emit::Rust => {
            let mut files = vec![library(name)?];
            files.extend(
                object::crate_files(object, target)
                    .map(|(path, text)| File { path: Path::new(name).join(path), bytes: text.into_bytes() }),
            );
            files
        }
    })
}

/// What `NAME_info` returns, but for the version of the code.
fn facts(source: &Source, target: &Target, cpu: &Cpu) -> Result<serde_json::Value, Error> {
    let bytes: usize = source.weight_bytes()?.iter().map(|(_, bytes)| bytes).sum();
    let report: serde_json::Value = serde_json::from_str(&source.report).unwrap_or_default();
    Ok(serde_json::json!({
        "name": source.graph.name,
        "recipe": source.recipe,
        "perplexity": report["after"]["perplexity"],
        "bytes": bytes,
        "vocabulary": source.graph.vocabulary,
        "target": target.triple(),
        "cpu": cpu.to_string(),
        "producer": concat!("lstmc ", env!("CARGO_PKG_VERSION")),
    }))
}

/// The text that `NAME_info` returns where this version of the code runs, or in C, whose compiler decides what it uses. JSON escapes NUL, so that C sees all of it.
fn info(facts: &serde_json::Value, version: Option<&Version>) -> String {
    let mut info = facts.clone();
    match version {
        Some(version) => {
            info["level"] = version.name().into();
            info["features"] = version.features().into();
        }
        None => info["cpu"] = "as compiled".into(),
    }
    info.to_string()
}
