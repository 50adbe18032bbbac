//! What every function does on its way in and out.

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
    /// A buffer is too short, or nothing or more words than there are were asked for.
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
}

/// Why a function fails: the status, and for people.
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
    // A thread that is ending has no place for it.
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

/// A pointer that must not be null.
pub(crate) fn given<T>(pointer: *const T, name: &str) -> Result<NonNull<T>, Failure> {
    NonNull::new(pointer.cast_mut())
        .ok_or_else(|| Failure::new(Status::LstmcErrorNull, format_args!("`{name}` is null")))
}
