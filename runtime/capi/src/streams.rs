//! Streams: many texts that a model reads together, such as the hypotheses of a beam.

use super::ffi::{Failure, Status, buffers, data, given, guarded, handle};
use super::model::ModelHandle;
use super::session::failure;
use lstmc_runtime::{SessionError, Streams};
use std::sync::{Mutex, PoisonError};

/// A fixed number of streams of text, which take steps together: a weight is loaded once for all of them. Calls on it wait for each other.
pub struct StreamsHandle(Mutex<Inner>);

struct Inner {
    streams: Streams,
    /// Numbers of streams, as the library takes them.
    numbers: Vec<usize>,
}

/// Runs a function on streams.
///
/// # Safety
/// The promise of handles: `streams` is null, or came from [`lstmc_streams_new`] and is not freed during the call.
unsafe fn with(
    streams: *const StreamsHandle,
    body: impl FnOnce(&mut Inner) -> Result<(), Failure>,
) -> Status {
    guarded(|| {
        // SAFETY: the promise of handles, which this function's caller passes on.
        let streams = unsafe { handle(streams, "streams")? };
        // After a panic, which would be a defect, the states are still valid: plain numbers.
        body(&mut streams.0.lock().unwrap_or_else(PoisonError::into_inner))
    })
}

impl Inner {
    /// A stream that exists.
    fn checked(&self, stream: usize) -> Result<usize, Failure> {
        let streams = self.streams.len();
        match stream < streams {
            true => Ok(stream),
            false => Err(failure(&SessionError::Stream { stream, streams })),
        }
    }

    /// Copies numbers of streams, all of which must exist.
    fn copy(&mut self, from: &[u32]) -> Result<(), Failure> {
        let (count, streams) = (from.len(), self.streams.len());
        if count > streams {
            let text = format!("{count} streams were named; there are {streams}");
            return Err(Failure(Status::LstmcErrorSize, text));
        }
        self.numbers.clear();
        for &stream in from {
            self.numbers.push(self.checked(stream as usize)?);
        }
        Ok(())
    }
}

/// count new streams, each at the beginning of a text. Nothing is allocated after this.
///
/// *streams: the handle, or null after an error; free it with lstmc_streams_free. Errors: NULL, MISALIGNED, SIZE (more than memory could have).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_streams_new(
    model: *const ModelHandle,
    count: usize,
    streams: *mut *mut StreamsHandle,
) -> Status {
    guarded(|| {
        let out = given(streams, "streams")?;
        // SAFETY: `given` checked it for null and alignment; by the promise of data a handle may be written there.
        unsafe { out.write(std::ptr::null_mut()) };
        // SAFETY: the promise of handles.
        let model = &unsafe { handle(model, "model")? }.model;
        let layout = model.layout();
        let each = 16 * (layout.state + layout.outputs + 64);
        if count.checked_mul(each).is_none_or(|bytes| bytes > isize::MAX as usize) {
            let text = format!("{count} streams do not fit memory");
            return Err(Failure(Status::LstmcErrorSize, text));
        }
        let inner = Inner { streams: model.streams(count), numbers: Vec::with_capacity(count) };
        let handle = Box::new(StreamsHandle(Mutex::new(inner)));
        // SAFETY: `given` checked it for null and alignment; by the promise of data a handle may be written there.
        unsafe { out.write(Box::into_raw(handle)) };
        Ok(())
    })
}

/// Frees streams; null is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_streams_free(streams: *mut StreamsHandle) {
    if !streams.is_null() {
        guarded(|| {
            // SAFETY: not null, as was checked just above. By the promise of handles it is what `Box::into_raw` gave `lstmc_streams_new`, and
            // no code uses it now or later.
            drop(unsafe { Box::from_raw(streams) });
            Ok(())
        });
    }
}

/// One stream goes back to the beginning of a text. Errors: NULL, MISALIGNED, SIZE (no such stream).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_streams_reset(streams: *mut StreamsHandle, stream: u32) -> Status {
    let body = |s: &mut Inner| {
        let stream = s.checked(stream as usize)?;
        s.streams.reset(stream);
        Ok(())
    };
    // SAFETY: the promise of handles.
    unsafe { with(streams, body) }
}

/// Copies stream from, with what may come next, to stream to: a hypothesis forks. Errors: NULL, MISALIGNED, SIZE (no such stream).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_streams_copy(streams: *mut StreamsHandle, from: u32, to: u32) -> Status {
    let body = |s: &mut Inner| {
        let (from, to) = (s.checked(from as usize)?, s.checked(to as usize)?);
        s.streams.copy(from, to);
        Ok(())
    };
    // SAFETY: the promise of handles.
    unsafe { with(streams, body) }
}

/// Makes each of the first count streams what another one is now: stream n goes on from where stream from[n] is, which may be named more than once. The
/// best hypotheses come to the front. Errors: NULL, MISALIGNED, SIZE (no such stream, or more than there are).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_streams_reorder(
    streams: *mut StreamsHandle,
    from: *const u32,
    count: usize,
) -> Status {
    let body = |s: &mut Inner| {
        // SAFETY: the promise of data.
        s.copy(unsafe { data(from, count, "from")? })?;
        s.streams.reorder(&s.numbers);
        Ok(())
    };
    // SAFETY: the promise of handles.
    unsafe { with(streams, body) }
}

/// Each of count streams, which are named once, consumes a token; the others stay. The first streams in order (0, 1, 2 ...) are fastest.
///
/// Errors: NULL, MISALIGNED, SIZE (no such stream, or one twice), TOKEN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_streams_step(
    streams: *mut StreamsHandle,
    numbers: *const u32,
    tokens: *const u32,
    count: usize,
) -> Status {
    let body = |s: &mut Inner| {
        // SAFETY: the promise of data.
        let (numbers, tokens) = unsafe { (data(numbers, count, "numbers")?, data(tokens, count, "tokens")?) };
        s.copy(numbers)?;
        s.streams.step_some(&s.numbers, tokens).map_err(|e| failure(&e))
    };
    // SAFETY: the promise of handles.
    unsafe { with(streams, body) }
}

/// Writes the natural logarithm of the probability that target comes next in a stream, after its last step. Errors: NULL, MISALIGNED, SIZE (no such
/// stream), TOKEN, NOT_FINITE, HIDDEN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_streams_score(
    streams: *mut StreamsHandle,
    stream: u32,
    target: u32,
    log_probability: *mut f32,
) -> Status {
    let body = |s: &mut Inner| {
        let out = given(log_probability, "log_probability")?;
        let stream = s.checked(stream as usize)?;
        let score = s.streams.score(stream, target).map_err(|e| failure(&e))?;
        // SAFETY: `given` checked it for null and alignment; by the promise of data a float may be written there.
        unsafe { out.write(score) };
        Ok(())
    };
    // SAFETY: the promise of handles.
    unsafe { with(streams, body) }
}

/// Writes the k likeliest next words of a stream, after its last step, best first, with their natural log-probabilities; the lower token first among
/// equals.
///
/// k: room at both ids and log_probabilities, which do not overlap, 1 to the vocabulary's size. Errors: NULL, MISALIGNED, SIZE (also no such stream),
/// NOT_FINITE, HIDDEN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_streams_top_k(
    streams: *mut StreamsHandle,
    stream: u32,
    k: usize,
    ids: *mut u32,
    log_probabilities: *mut f32,
) -> Status {
    let body = |s: &mut Inner| {
        let stream = s.checked(stream as usize)?;
        let words = s.streams.model().layout().vocabulary;
        if k == 0 || k > words {
            let text = format!("{k} words were asked for; there are 1 to {words}");
            return Err(Failure(Status::LstmcErrorSize, text));
        }
        // SAFETY: the promise of data.
        let (ids, scores) = unsafe { buffers(ids, log_probabilities, k, ["ids", "log_probabilities"])? };
        s.streams.top_k(stream, ids, scores).map_err(|e| failure(&e)).map(|_| ())
    };
    // SAFETY: the promise of handles.
    unsafe { with(streams, body) }
}

/// Writes what the model gave a stream in its last step: the logits of every word that may come next, or the hidden vector of a model without
/// probabilities (the prediction network of a transducer).
///
/// count: floats at output, at least lstmc_model_output_size. Errors: NULL, MISALIGNED, SIZE (also no such stream).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lstmc_streams_output(
    streams: *mut StreamsHandle,
    stream: u32,
    output: *mut f32,
    count: usize,
) -> Status {
    let body = |s: &mut Inner| {
        let out = given(output, "output")?;
        let from = s.streams.logits(s.checked(stream as usize)?);
        if count < from.len() {
            let text = format!("there is room for {count} floats, the model's output has {}", from.len());
            return Err(Failure(Status::LstmcErrorSize, text));
        }
        // SAFETY: `given` checked the pointer for null and alignment. By the promise of data there is room for `count` floats, which was
        // just found to be enough for the model's output, and the caller's memory does not overlap the streams'.
        unsafe { out.as_ptr().copy_from_nonoverlapping(from.as_ptr(), from.len()) };
        Ok(())
    };
    // SAFETY: the promise of handles.
    unsafe { with(streams, body) }
}
