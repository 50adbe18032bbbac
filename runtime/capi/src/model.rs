//! Models: a file, compiled.

use crate::border::{Failure, Status, given, guarded};
use facade::Source;
use lstmc_runtime::Model;
use std::ffi::{CStr, CString, c_char};

/// A loaded model: immutable, for any number of threads and sessions.
pub struct ModelHandle {
    pub(crate) model: Model,
    /// The words, each with a NUL.
    words: Vec<u8>,
    /// Where each starts.
    starts: Vec<usize>,
    info: CString,
}

/// Reads a model file (.lstmc) and compiles it for this machine.
///
/// path: in UTF-8, ended by a NUL. *model: the handle, or null after an error; free it with lstmc_model_free.
/// Errors: NULL, MODEL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_model_load(path: *const c_char, model: *mut *mut ModelHandle) -> Status {
    guarded(|| {
        let out = given(model, "model")?;
        // SAFETY: not null, and the caller lets it be written.
        unsafe { out.write(std::ptr::null_mut()) };
        // SAFETY: not null, and the caller gives a C string.
        let path = unsafe { CStr::from_ptr(given(path, "path")?.as_ptr()) };
        let bad = |e: &dyn std::fmt::Display| Failure::new(Status::LstmcErrorModel, e);
        let path = path.to_str().map_err(|_| bad(&"the path is not UTF-8"))?;
        let handle = load(path).map_err(|e| bad(&e))?;
        // SAFETY: as above.
        unsafe { out.write(Box::into_raw(Box::new(handle))) };
        Ok(())
    })
}

fn load(path: &str) -> Result<ModelHandle, facade::Error> {
    let source = Source::read(path)?.canonical()?;
    let model = source.compile(facade::backend::Options::default())?;
    let (mut words, mut starts) = (vec![], vec![]);
    for word in source.vocabulary.iter().flat_map(|v| v.words()) {
        starts.push(words.len());
        words.extend_from_slice(word.as_bytes());
        words.push(0);
    }
    let report: serde_json::Value = serde_json::from_str(model.report()).unwrap_or_default();
    let info = serde_json::json!({
        "name": model.name(),
        "recipe": model.recipe(),
        "perplexity": report["after"]["perplexity"],
        "vocabulary": model.layout().vocabulary,
    });
    // JSON escapes NUL.
    let info = CString::new(info.to_string()).unwrap_or_default();
    Ok(ModelHandle { model, words, starts, info })
}

/// Frees a model; null is ignored. Sessions of it go on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_model_free(model: *mut ModelHandle) {
    if !model.is_null() {
        guarded(|| {
            // SAFETY: the handle came from `lstmc_model_load`, and the caller frees it once.
            drop(unsafe { Box::from_raw(model) });
            Ok(())
        });
    }
}

/// Words in the vocabulary: tokens are 0 to one less. 0 for null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_model_vocabulary_size(model: *const ModelHandle) -> u32 {
    // SAFETY: the caller gives null or a handle.
    unsafe { model.as_ref() }.map_or(0, |m| m.model.layout().vocabulary as u32)
}

/// JSON in one line: name, recipe, vocabulary and, where it was measured, perplexity. Valid until the model is freed; null for null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_model_info(model: *const ModelHandle) -> *const c_char {
    // SAFETY: the caller gives null or a handle.
    unsafe { model.as_ref() }.map_or(std::ptr::null(), |m| m.info.as_ptr())
}

/// The word of a token, in UTF-8, ended by a NUL, valid until the model is freed. Null if there is no such token, or no vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_model_word(model: *const ModelHandle, token: u32) -> *const c_char {
    // SAFETY: the caller gives null or a handle.
    let Some(model) = (unsafe { model.as_ref() }) else { return std::ptr::null() };
    let word = model.starts.get(token as usize).and_then(|&start| model.words.get(start..));
    word.map_or(std::ptr::null(), |word| word.as_ptr().cast())
}

/// The token of a word of length bytes, which need not end with a NUL.
///
/// Error WORD if the vocabulary lacks it; *token is then that of "<unk>", or UINT32_MAX where there is none.
/// Other errors: NULL, VOCABULARY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_model_token(
    model: *const ModelHandle,
    word: *const c_char,
    length: usize,
    token: *mut u32,
) -> Status {
    guarded(|| {
        // SAFETY: not null, and the caller gives a handle.
        let model = unsafe { given(model, "model")?.as_ref() };
        let (word, out) = (given(word, "word")?, given(token, "token")?);
        // SAFETY: not null, and the caller says how long it is.
        let word = unsafe { std::slice::from_raw_parts(word.as_ptr().cast::<u8>(), length) };
        let missing = || Failure::new(Status::LstmcErrorVocabulary, "the model has no vocabulary");
        let words = model.model.vocabulary().ok_or_else(missing)?;
        let found = std::str::from_utf8(word).ok().and_then(|word| words.id(word));
        let id = found.or(words.unknown()).unwrap_or(u32::MAX);
        // SAFETY: not null, and the caller lets it be written.
        unsafe { out.write(id) };
        match found {
            Some(_) => Ok(()),
            None => {
                let word = String::from_utf8_lossy(word);
                Err(Failure::new(Status::LstmcErrorWord, format_args!("`{word}` is not in the vocabulary")))
            }
        }
    })
}
