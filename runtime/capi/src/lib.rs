//! The C interface of run-time loading: `liblstmc`. Its header, `include/lstmc.h`, is generated from this crate.
//!
//! A function returns a [`Status`] and never unwinds into its caller: a panic, which would be a defect, becomes
//! [`Status::LstmcErrorInternal`]. The error is kept as text, one per thread. The few functions that return something else
//! contain no code that panics.
//!
//! The soundness of the `unsafe` in this crate is in part checked, in [`ffi`], on every call and in every build: pointers are neither null
//! nor misaligned, no length exceeds what memory can hold, and buffers that are written do not overlap. The rest is what the header requires from
//! its callers, under the names used in the comments below:
//!
//! - the *promise of handles*: they come from this library, are freed once, and are not used during that or afterwards;
//! - the *promise of data*: a pointer is valid for the length passed with it, or for one element if there is none; memory that a function
//!   writes is writable, and no other code reads or writes it during the call.
#![expect(clippy::missing_safety_doc, reason = "callers are C, and read in the header what they owe")]

mod ffi;
mod model;
mod session;
mod streams;

pub use ffi::{Status, lstmc_last_error};
pub use model::{
    ModelHandle, lstmc_model_free, lstmc_model_info, lstmc_model_load, lstmc_model_output_size,
    lstmc_model_token, lstmc_model_vocabulary_size, lstmc_model_word,
};
pub use session::{
    SessionHandle, lstmc_session_advance, lstmc_session_free, lstmc_session_new, lstmc_session_reset,
    lstmc_session_score, lstmc_session_score_text, lstmc_session_step, lstmc_session_top_k,
    lstmc_session_top_k_prefix,
};
pub use streams::{
    StreamsHandle, lstmc_streams_copy, lstmc_streams_free, lstmc_streams_new, lstmc_streams_output,
    lstmc_streams_reorder, lstmc_streams_reset, lstmc_streams_score, lstmc_streams_step, lstmc_streams_top_k,
};

/// Version of this interface; `lstmc_abi_version` returns the library's.
pub const LSTMC_ABI_VERSION: u32 = 1;

/// The interface version of the library: LSTMC_ABI_VERSION of the header that it was made with.
#[unsafe(no_mangle)]
pub extern "C" fn lstmc_abi_version() -> u32 {
    LSTMC_ABI_VERSION
}
