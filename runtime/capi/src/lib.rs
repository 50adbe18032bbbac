//! The C interface of run-time loading: `liblstmc`. Its header, `include/lstmc.h`, is generated from this crate.
//!
//! Every function checks its pointers, returns a [`Status`] and never unwinds into its caller: a panic, which would be a defect,
//! becomes [`Status::LstmcErrorInternal`]. What went wrong is kept as text, one for each thread.
//!
//! What makes the `unsafe` of this crate sound is what the header asks of its callers: handles come from this library and are freed once,
//! and pointers to data reach as far as the length beside them says.
#![expect(clippy::missing_safety_doc, reason = "callers are C, and read in the header what they owe")]

mod border;
mod model;
mod session;

pub use border::{Status, lstmc_last_error};
pub use model::{
    ModelHandle, lstmc_model_free, lstmc_model_info, lstmc_model_load, lstmc_model_token,
    lstmc_model_vocabulary_size, lstmc_model_word,
};
pub use session::{
    SessionHandle, lstmc_session_advance, lstmc_session_free, lstmc_session_new, lstmc_session_reset,
    lstmc_session_score, lstmc_session_score_text, lstmc_session_step, lstmc_session_top_k,
};

/// Version of this interface; `lstmc_abi_version` returns the library's.
pub const LSTMC_ABI_VERSION: u32 = 1;

/// The interface version of the library: LSTMC_ABI_VERSION of the header that it was made with.
#[unsafe(no_mangle)]
pub extern "C" fn lstmc_abi_version() -> u32 {
    LSTMC_ABI_VERSION
}
