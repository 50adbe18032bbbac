//! Models: a file, compiled.

use super::ffi::{Failure, Status, data, given, guarded, handle};
use facade::Source;
use lstmc_runtime::{Model, Role};
use std::ffi::{CStr, CString, c_char};

/// A loaded model: immutable, for any number of threads and sessions.
pub struct ModelHandle {
    pub(crate) model: Model,
    /// The words, each with a NUL.
    words: Vec<u8>,
    /// The start of each word.
    starts: Vec<usize>,
    info: CString,
}

/// Reads a model file (.lstmc) and compiles it for this machine.
///
/// path: in UTF-8, ended by a NUL. *model: the handle, or null after an error; free it with lstmc_model_free.
/// Errors: NULL, MISALIGNED, MODEL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_model_load(path: *const c_char, model: *mut *mut ModelHandle) -> Status {
    guarded(|| {
        let out = given(model, "model")?;
        // SAFETY: `given` checked it for null and alignment; by the promise of data a handle may be written there.
        unsafe { out.write(std::ptr::null_mut()) };
        // SAFETY: `given` checked it for null; by the promise of data a NUL ends it, and it does not change during the call.
        let path = unsafe { CStr::from_ptr(given(path, "path")?.as_ptr()) };
        let bad = |e: &dyn std::fmt::Display| Failure::new(Status::LstmcErrorModel, e);
        let path = path.to_str().map_err(|_| bad(&"the path is not UTF-8"))?;
        let handle = load(path).map_err(|e| bad(&e))?;
        // SAFETY: `given` checked it for null and alignment; by the promise of data a handle may be written there.
        unsafe { out.write(Box::into_raw(Box::new(handle))) };
        Ok(())
    })
}

fn load(path: &str) -> Result<ModelHandle, facade::Error> {
    let source = Source::read(path)?.canonical()?;
    let model = source.compile(facade::backend::Options::default())?;
    let (mut words, mut starts) = (vec![], vec![]);
    for word in source.tokenizer.iter().flat_map(|t| t.vocabulary().words()) {
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
            // SAFETY: not null, as was checked just above. By the promise of handles it is what `Box::into_raw` gave `lstmc_model_load`, and
            // no code uses it now or later; sessions share the model, not the handle.
            drop(unsafe { Box::from_raw(model) });
            Ok(())
        });
    }
}

/// Words in the vocabulary: tokens are 0 to one less. 0 for null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_model_vocabulary_size(model: *const ModelHandle) -> u32 {
    // SAFETY: the promise of handles.
    unsafe { handle(model, "model") }.map_or(0, |m| m.model.layout().vocabulary as u32)
}

/// Floats that a step writes: a logit for each word, or the elements of the hidden vector of a model without probabilities. 0 for null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_model_output_size(model: *const ModelHandle) -> usize {
    // SAFETY: the promise of handles.
    unsafe { handle(model, "model") }.map_or(0, |m| m.model.layout().outputs)
}

/// JSON in one line: name, recipe, vocabulary and, where it was measured, perplexity. Valid until the model is freed; null for null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_model_info(model: *const ModelHandle) -> *const c_char {
    // SAFETY: the promise of handles.
    unsafe { handle(model, "model") }.map_or(std::ptr::null(), |m| m.info.as_ptr())
}

/// The word of a token, in UTF-8, ended by a NUL, valid until the model is freed. Null if there is no such token, or no vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_model_word(model: *const ModelHandle, token: u32) -> *const c_char {
    // SAFETY: the promise of handles.
    let Ok(model) = (unsafe { handle(model, "model") }) else { return std::ptr::null() };
    let word = model.starts.get(token as usize).and_then(|&start| model.words.get(start..));
    word.map_or(std::ptr::null(), |word| word.as_ptr().cast())
}

/// The token of a word of length bytes, which need not end with a NUL.
///
/// Error WORD if the vocabulary lacks it; *token is then that for unknown words, or UINT32_MAX where there is none.
/// Other errors: NULL, MISALIGNED, SIZE, VOCABULARY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_model_token(
    model: *const ModelHandle,
    word: *const c_char,
    length: usize,
    token: *mut u32,
) -> Status {
    guarded(|| {
        // SAFETY: the promise of handles.
        let model = unsafe { handle(model, "model")? };
        let out = given(token, "token")?;
        // SAFETY: the promise of data, for `word` is read only until `out` is written, which may be the same memory.
        let word = unsafe { data(word.cast::<u8>(), length, "word")? };
        let missing = || Failure::new(Status::LstmcErrorVocabulary, "the model has no vocabulary");
        let tokenizer = model.model.tokenizer().ok_or_else(missing)?;
        let found = std::str::from_utf8(word).ok().and_then(|word| tokenizer.vocabulary().id(word));
        let id = found.or(tokenizer.special().get(Role::Unknown)).unwrap_or(u32::MAX);
        let result = found.map(|_| ()).ok_or_else(|| {
            let word = String::from_utf8_lossy(word);
            Failure::new(Status::LstmcErrorWord, format_args!("`{word}` is not in the vocabulary"))
        });
        // SAFETY: `given` checked it for null and alignment; by the promise of data a token may be written there. `word` is no longer read.
        unsafe { out.write(id) };
        result
    })
}
