//! Sessions: streams of text that a model reads.

use crate::border::{Failure, Status, given, guarded};
use crate::model::ModelHandle;
use lstmc_runtime::{Session, SessionError};
use std::sync::{Mutex, PoisonError};

/// One stream of text. Calls on it wait for each other.
pub struct SessionHandle(Mutex<Session>);

fn failure(error: &SessionError) -> Failure {
    let status = match error {
        SessionError::Token { .. } => Status::LstmcErrorToken,
        SessionError::NotFinite => Status::LstmcErrorNotFinite,
        _ => Status::LstmcErrorSize,
    };
    Failure::new(status, error)
}

/// Does something with a session.
///
/// # Safety
/// `session` is null or a handle.
unsafe fn with(
    session: *const SessionHandle,
    body: impl FnOnce(&mut Session) -> Result<(), Failure>,
) -> Status {
    guarded(|| {
        // SAFETY: not null, and the caller gives a handle.
        let session = unsafe { given(session, "session")?.as_ref() };
        // After a panic, which would be a defect, the state is as good as any: memory of numbers.
        body(&mut session.0.lock().unwrap_or_else(PoisonError::into_inner))
    })
}

/// A new stream, at the beginning of a text.
///
/// *session: the handle, or null after an error; free it with lstmc_session_free. Errors: NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_session_new(
    model: *const ModelHandle,
    session: *mut *mut SessionHandle,
) -> Status {
    guarded(|| {
        let out = given(session, "session")?;
        // SAFETY: not null, and the caller lets it be written.
        unsafe { out.write(std::ptr::null_mut()) };
        // SAFETY: not null, and the caller gives a handle.
        let model = unsafe { given(model, "model")?.as_ref() };
        let handle = Box::new(SessionHandle(Mutex::new(model.model.session())));
        // SAFETY: as above.
        unsafe { out.write(Box::into_raw(handle)) };
        Ok(())
    })
}

/// Frees a session; null is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_session_free(session: *mut SessionHandle) {
    if !session.is_null() {
        guarded(|| {
            // SAFETY: the handle came from `lstmc_session_new`, and the caller frees it once.
            drop(unsafe { Box::from_raw(session) });
            Ok(())
        });
    }
}

/// Goes back to the beginning of a text. Errors: NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_session_reset(session: *mut SessionHandle) -> Status {
    // SAFETY: as the caller promises.
    unsafe {
        with(session, |s| {
            s.reset();
            Ok(())
        })
    }
}

/// Consumes a token without computing what may come next: how a prompt is read. Errors: NULL, TOKEN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_session_advance(session: *mut SessionHandle, token: u32) -> Status {
    // SAFETY: as the caller promises.
    unsafe { with(session, |s| s.advance(token).map_err(|e| failure(&e))) }
}

/// Consumes a token and writes the logits of every word that may come next.
///
/// count: floats at logits, at least the vocabulary's size. Logits are before the softmax. Errors: NULL, TOKEN, SIZE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_session_step(
    session: *mut SessionHandle,
    token: u32,
    logits: *mut f32,
    count: usize,
) -> Status {
    let body = |s: &mut Session| {
        let logits = given(logits, "logits")?;
        let words = s.model().layout().vocabulary;
        if count < words {
            let text = format!("there is room for {count} logits, the model has {words}");
            return Err(Failure(Status::LstmcErrorSize, text));
        }
        let from = s.step(token).map_err(|e| failure(&e))?;
        // SAFETY: there is room for `count` floats, which are at least as many; the session's own are elsewhere.
        unsafe { logits.as_ptr().copy_from_nonoverlapping(from.as_ptr(), from.len()) };
        Ok(())
    };
    // SAFETY: as the caller promises.
    unsafe { with(session, body) }
}

/// Consumes a token and writes the natural logarithm of the probability that target comes next. Errors: NULL, TOKEN (also of target),
/// NOT_FINITE.
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
        // SAFETY: not null, and the caller lets it be written.
        unsafe { out.write(sum as f32) };
        Ok(())
    };
    // SAFETY: as the caller promises.
    unsafe { with(session, body) }
}

/// Consumes all of count tokens but the last, and writes the sum of the natural log-probabilities of all but the first: a text at once,
/// much faster than word by word. 0 for fewer than two tokens. Errors: NULL, TOKEN, NOT_FINITE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_session_score_text(
    session: *mut SessionHandle,
    tokens: *const u32,
    count: usize,
    sum: *mut f64,
) -> Status {
    let body = |s: &mut Session| {
        let (tokens, out) = (given(tokens, "tokens")?, given(sum, "sum")?);
        // SAFETY: not null, and the caller says how many there are.
        let tokens = unsafe { std::slice::from_raw_parts(tokens.as_ptr(), count) };
        let sum = s.score(tokens).map_err(|e| failure(&e))?;
        // SAFETY: not null, and the caller lets it be written.
        unsafe { out.write(sum) };
        Ok(())
    };
    // SAFETY: as the caller promises.
    unsafe { with(session, body) }
}

/// Consumes a token and writes the k likeliest next words, best first, with their natural log-probabilities; the lower token first among
/// equals.
///
/// k: room at both ids and log_probabilities, 1 to the vocabulary's size. Errors: NULL, TOKEN, SIZE, NOT_FINITE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_session_top_k(
    session: *mut SessionHandle,
    token: u32,
    k: usize,
    ids: *mut u32,
    log_probabilities: *mut f32,
) -> Status {
    let body = |s: &mut Session| {
        let (ids, scores) = (given(ids, "ids")?, given(log_probabilities, "log_probabilities")?);
        let words = s.model().layout().vocabulary;
        if k == 0 || k > words {
            let text = format!("{k} words were asked for; there are 1 to {words}");
            return Err(Failure(Status::LstmcErrorSize, text));
        }
        // SAFETY: not null, and the caller says that both have room for `k`.
        let (ids, scores) = unsafe {
            (
                std::slice::from_raw_parts_mut(ids.as_ptr(), k),
                std::slice::from_raw_parts_mut(scores.as_ptr(), k),
            )
        };
        s.top_k_into(token, ids, scores).map_err(|e| failure(&e)).map(|_| ())
    };
    // SAFETY: as the caller promises.
    unsafe { with(session, body) }
}
