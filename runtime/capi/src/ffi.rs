//! The common entry and exit code of every function.

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

/// What functions return. After an error nothing has changed, but where it says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub enum Status {
    /// All went well.
    LstmcOk = 0,
    /// A pointer is null.
    LstmcErrorNull = 1,
    /// A pointer is not aligned to what it points to.
    LstmcErrorMisaligned = 2,
    /// A buffer is too short, overlaps another, or is longer than memory; or nothing or more words than there are were asked for.
    LstmcErrorSize = 3,
    /// A token that is not in the vocabulary.
    LstmcErrorToken = 5,
    /// A word that is not in the vocabulary.
    LstmcErrorWord = 7,
    /// The model has no vocabulary.
    LstmcErrorVocabulary = 8,
    /// A model that cannot be read, is damaged, or cannot be compiled.
    LstmcErrorModel = 9,
    /// The model's output is not finite. The tokens were consumed: reset the session.
    LstmcErrorNotFinite = 10,
    /// A defect of the library.
    LstmcErrorInternal = 11,
    /// The model's output is a hidden vector, which gives no probabilities of words.
    LstmcErrorHidden = 12,
}

/// Why a function fails: the status, and a text for people.
pub(crate) struct Failure(pub(crate) Status, pub(crate) String);

impl Failure {
    pub(crate) fn new(status: Status, what: impl Display) -> Failure {
        Failure(status, what.to_string())
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::new(CString::default());
}

/// What the last failed call on this thread has to say; empty if there was none. Valid until the next call fails on this thread.
#[unsafe(no_mangle)]
pub extern "C" fn lstmc_last_error() -> *const c_char {
    LAST.try_with(|last| last.try_borrow().map_or(std::ptr::null(), |last| last.as_ptr()))
        .unwrap_or(std::ptr::null())
}

fn remember(text: &str) {
    let text = CString::new(text.replace('\0', "?")).unwrap_or_default();
    // A thread that is ending has no storage for it.
    let _ = LAST.try_with(|last| last.replace(text));
}

/// Runs the body of a function; neither an error nor a panic leaves it.
pub(crate) fn guarded(body: impl FnOnce() -> Result<(), Failure>) -> Status {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Status::LstmcOk,
        Ok(Err(Failure(status, text))) => {
            remember(&text);
            status
        }
        Err(_) => {
            remember("a panic inside liblstmc: this is a defect, please report it");
            Status::LstmcErrorInternal
        }
    }
}

/// A pointer that must be neither null nor misaligned.
pub(crate) fn given<T>(pointer: *const T, name: &str) -> Result<NonNull<T>, Failure> {
    let null = || Failure::new(Status::LstmcErrorNull, format_args!("`{name}` is null"));
    let pointer = NonNull::new(pointer.cast_mut()).ok_or_else(null)?;
    if !pointer.is_aligned() {
        let text = format!("`{name}` is not at a multiple of {} bytes", align_of::<T>());
        return Err(Failure(Status::LstmcErrorMisaligned, text));
    }
    Ok(pointer)
}

/// A pointer to `count` elements, which must be no more than memory can have.
pub(crate) fn given_all<T>(pointer: *const T, count: usize, name: &str) -> Result<NonNull<T>, Failure> {
    let pointer = given(pointer, name)?;
    // The limits of a slice; they also keep its end from wrapping around.
    let bytes = count.checked_mul(size_of::<T>()).filter(|&bytes| bytes <= isize::MAX as usize);
    match bytes.and_then(|bytes| pointer.addr().get().checked_add(bytes)) {
        Some(_) => Ok(pointer),
        None => {
            let text = format!("`{name}` cannot have {count} elements: no memory is that long");
            Err(Failure(Status::LstmcErrorSize, text))
        }
    }
}

/// The object behind a handle.
///
/// # Safety
/// The promise of handles: `pointer` is null, or was returned by this library and is not freed before `'a` ends.
pub(crate) unsafe fn handle<'a, T>(pointer: *const T, name: &str) -> Result<&'a T, Failure> {
    let pointer = given(pointer, name)?;
    // SAFETY: it is neither null nor misaligned, as `given` checked. By the promise of handles it is what `Box::into_raw` returned, which
    // lives as long as `'a`; handles are only ever shared.
    Ok(unsafe { pointer.as_ref() })
}

/// Elements that the caller passes for reading.
///
/// # Safety
/// The promise of data: `pointer` is null, or points to `count` initialised elements, which no code writes before `'a` ends.
pub(crate) unsafe fn data<'a, T>(pointer: *const T, count: usize, name: &str) -> Result<&'a [T], Failure> {
    let pointer = given_all(pointer, count, name)?;
    // SAFETY: it is neither null nor misaligned, and `count` elements are at most `isize::MAX` bytes that do not wrap around, as `given_all`
    // checked. That they exist and do not change is the promise of data.
    Ok(unsafe { std::slice::from_raw_parts(pointer.as_ptr(), count) })
}

/// Two buffers of `count` numbers that the caller passes for writing. They are zeroed, since C may not have initialised them.
///
/// # Safety
/// The promise of data: each pointer is null, or has room for `count` elements, which no other code reads or writes before `'a` ends.
pub(crate) unsafe fn buffers<'a>(
    ids: *mut u32,
    scores: *mut f32,
    count: usize,
    names: [&str; 2],
) -> Result<(&'a mut [u32], &'a mut [f32]), Failure> {
    let (ids, scores) = (given_all(ids, count, names[0])?, given_all(scores, count, names[1])?);
    // Both have elements of four bytes.
    if ids.addr().get().abs_diff(scores.addr().get()) < 4 * count {
        let text = format!("`{}` and `{}` overlap", names[0], names[1]);
        return Err(Failure(Status::LstmcErrorSize, text));
    }
    // SAFETY: neither is null or misaligned, and `count` elements are at most `isize::MAX` bytes that do not wrap around, as `given_all`
    // checked; the two do not overlap, as was checked just above. Zeros are initialised numbers. That there is room, for this call only, is the
    // promise of data.
    unsafe {
        ids.write_bytes(0, count);
        scores.write_bytes(0, count);
        Ok((
            std::slice::from_raw_parts_mut(ids.as_ptr(), count),
            std::slice::from_raw_parts_mut(scores.as_ptr(), count),
        ))
    }
}
