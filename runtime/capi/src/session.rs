//! Sessions: streams of text that a model reads.

use super::ffi::{Failure, Status, buffers, data, given, guarded, handle};
use super::model::ModelHandle;
use lstmc_runtime::{Session, SessionError};
use std::ffi::c_char;
use std::sync::{Mutex, PoisonError};

/// One stream of text. Calls on it wait for each other.
pub struct SessionHandle(Mutex<Session>);

pub(crate) fn failure(error: &SessionError) -> Failure {
    let status = match error {
        SessionError::Token { .. } => Status::LstmcErrorToken,
        SessionError::NotFinite => Status::LstmcErrorNotFinite,
        SessionError::Hidden { .. } => Status::LstmcErrorHidden,
        _ => Status::LstmcErrorSize,
    };
    Failure::new(status, error)
}

/// Runs a function on a session.
///
/// # Safety
/// The promise of handles: `session` is null, or came from [`lstmc_session_new`] and is not freed during the call.
unsafe fn with(
    session: *const SessionHandle,
    body: impl FnOnce(&mut Session) -> Result<(), Failure>,
) -> Status {
    guarded(|| {
        // SAFETY: the promise of handles, which this function's caller passes on.
        let session = unsafe { handle(session, "session")? };
        // After a panic, which would be a defect, the state is still valid: plain numbers.
        body(&mut session.0.lock().unwrap_or_else(PoisonError::into_inner))
    })
}

/// A new stream, at the beginning of a text.
///
/// *session: the handle, or null after an error; free it with lstmc_session_free. Errors: NULL, MISALIGNED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_session_new(
    model: *const ModelHandle,
    session: *mut *mut SessionHandle,
) -> Status {
    guarded(|| {
        let out = given(session, "session")?;
        // SAFETY: `given` checked it for null and alignment; by the promise of data a handle may be written there.
        unsafe { out.write(std::ptr::null_mut()) };
        // SAFETY: the promise of handles.
        let model = unsafe { handle(model, "model")? };
        let handle = Box::new(SessionHandle(Mutex::new(model.model.session())));
        // SAFETY: `given` checked it for null and alignment; by the promise of data a handle may be written there.
        unsafe { out.write(Box::into_raw(handle)) };
        Ok(())
    })
}

/// Frees a session; null is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_session_free(session: *mut SessionHandle) {
    if !session.is_null() {
        guarded(|| {
            // SAFETY: not null, as was checked just above. By the promise of handles it is what `Box::into_raw` gave `lstmc_session_new`, and
            // no code uses it now or later.
            drop(unsafe { Box::from_raw(session) });
            Ok(())
        });
    }
}

/// Goes back to the beginning of a text. Errors: NULL, MISALIGNED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_session_reset(session: *mut SessionHandle) -> Status {
    // SAFETY: the promise of handles.
    unsafe {
        with(session, |s| {
            s.reset();
            Ok(())
        })
    }
}

/// Consumes a token without computing what may come next: how a prompt is read. Errors: NULL, MISALIGNED, TOKEN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_session_advance(session: *mut SessionHandle, token: u32) -> Status {
    // SAFETY: the promise of handles.
    unsafe { with(session, |s| s.advance(token).map_err(|e| failure(&e))) }
}

/// Consumes a token and writes the logits of every word that may come next, or the hidden vector of a model without probabilities.
///
/// count: floats at logits, at least lstmc_model_output_size. Logits are before the softmax. Errors: NULL, MISALIGNED,
/// TOKEN, SIZE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_session_step(
    session: *mut SessionHandle,
    token: u32,
    logits: *mut f32,
    count: usize,
) -> Status {
    let body = |s: &mut Session| {
        let logits = given(logits, "logits")?;
        let outputs = s.model().layout().outputs;
        if count < outputs {
            let text = format!("there is room for {count} floats, the model's output has {outputs}");
            return Err(Failure(Status::LstmcErrorSize, text));
        }
        let from = s.step(token).map_err(|e| failure(&e))?;
        // SAFETY: `given` checked the pointer for null and alignment. By the promise of data there is room for `count` floats, which was
        // just found to be enough for the model's output, and the caller's memory does not overlap the session's.
        unsafe { logits.as_ptr().copy_from_nonoverlapping(from.as_ptr(), from.len()) };
        Ok(())
    };
    // SAFETY: the promise of handles.
    unsafe { with(session, body) }
}

/// Consumes a token and writes the natural logarithm of the probability that target comes next. Errors: NULL, MISALIGNED, TOKEN
/// (also of target), NOT_FINITE, HIDDEN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_session_score(
    session: *mut SessionHandle,
    token: u32,
    target: u32,
    log_probability: *mut f32,
) -> Status {
    let body = |s: &mut Session| {
        let out = given(log_probability, "log_probability")?;
        let sum = s.score(&[token, target]).map_err(|e| failure(&e))?;
        // SAFETY: `given` checked it for null and alignment; by the promise of data a float may be written there.
        unsafe { out.write(sum as f32) };
        Ok(())
    };
    // SAFETY: the promise of handles.
    unsafe { with(session, body) }
}

/// Consumes all of count tokens but the last, and writes the sum of the natural log-probabilities of all but the first: a text at once,
/// much faster than word by word. 0 for fewer than two tokens. Errors: NULL, MISALIGNED, SIZE, TOKEN, NOT_FINITE,
/// HIDDEN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_session_score_text(
    session: *mut SessionHandle,
    tokens: *const u32,
    count: usize,
    sum: *mut f64,
) -> Status {
    let body = |s: &mut Session| {
        let out = given(sum, "sum")?;
        // SAFETY: the promise of data.
        let tokens = unsafe { data(tokens, count, "tokens")? };
        let sum = s.score(tokens).map_err(|e| failure(&e))?;
        // SAFETY: `given` checked it for null and alignment; by the promise of data a double may be written there. The tokens, which
        // may be in the same memory, are no longer read.
        unsafe { out.write(sum) };
        Ok(())
    };
    // SAFETY: the promise of handles.
    unsafe { with(session, body) }
}

/// Consumes a token and writes the k likeliest next words, best first, with their natural log-probabilities; the lower token first among
/// equals.
///
/// k: room at both ids and log_probabilities, which do not overlap, 1 to the vocabulary's size. Errors: NULL, MISALIGNED, TOKEN, SIZE,
/// NOT_FINITE, HIDDEN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_session_top_k(
    session: *mut SessionHandle,
    token: u32,
    k: usize,
    ids: *mut u32,
    log_probabilities: *mut f32,
) -> Status {
    let body = |s: &mut Session| {
        let words = s.model().layout().vocabulary;
        if k == 0 || k > words {
            let text = format!("{k} words were asked for; there are 1 to {words}");
            return Err(Failure(Status::LstmcErrorSize, text));
        }
        // Before the buffers are touched.
        if token as usize >= words {
            return Err(failure(&SessionError::Token { token, vocabulary: words }));
        }
        // SAFETY: the promise of data.
        let (ids, scores) = unsafe { buffers(ids, log_probabilities, k, ["ids", "log_probabilities"])? };
        s.top_k_into(token, ids, scores).map_err(|e| failure(&e)).map(|_| ())
    };
    // SAFETY: the promise of handles.
    unsafe { with(session, body) }
}

/// lstmc_session_top_k among the words that begin with prefix, of length bytes: what a keyboard suggests while a word is typed. *found: how many
/// there are, at most k; probabilities are among all words.
///
/// Errors: as lstmc_session_top_k, VOCABULARY, WORD (the prefix is not UTF-8).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_session_top_k_prefix(
    session: *mut SessionHandle,
    token: u32,
    prefix: *const c_char,
    length: usize,
    k: usize,
    ids: *mut u32,
    log_probabilities: *mut f32,
    found: *mut usize,
) -> Status {
    let body = |s: &mut Session| {
        let out = given(found, "found")?;
        let words = s.model().layout().vocabulary;
        if k == 0 || k > words {
            let text = format!("{k} words were asked for; there are 1 to {words}");
            return Err(Failure(Status::LstmcErrorSize, text));
        }
        if token as usize >= words {
            return Err(failure(&SessionError::Token { token, vocabulary: words }));
        }
        let missing = || Failure::new(Status::LstmcErrorVocabulary, "the model has no vocabulary");
        let vocabulary = s.model().vocabulary().cloned().ok_or_else(missing)?;
        // SAFETY: the promise of data; the prefix is read only before the buffers, which may be the same memory, are written.
        let prefix = std::str::from_utf8(unsafe { data(prefix.cast::<u8>(), length, "prefix")? });
        let prefix = prefix.map_err(|_| Failure::new(Status::LstmcErrorWord, "the prefix is not UTF-8"))?;
        let among = vocabulary.with_prefix(prefix);
        // SAFETY: the promise of data.
        let (ids, scores) = unsafe { buffers(ids, log_probabilities, k, ["ids", "log_probabilities"])? };
        let count = s.top_k_among(token, among, ids, scores).map_err(|e| failure(&e))?;
        // SAFETY: `given` checked it for null and alignment; by the promise of data a number may be written there.
        unsafe { out.write(count) };
        Ok(())
    };
    // SAFETY: the promise of handles.
    unsafe { with(session, body) }
}
