//! Calls of the C interface.

use super::cursor::Cursor;
use lstmc::Source;
use lstmc::frontend::canonicalize::canonicalize;
use lstmc::frontend::onnx;
use lstmc::runtime::{Tokenizer, Vocabulary};
use std::ffi::{CStr, CString};
use std::ptr::{null, null_mut};
use std::sync::{Arc, OnceLock};

/// The interface's sources, which are built for no crate in Rust to use.
#[allow(
    clippy::enum_variant_names,
    unfulfilled_lint_expectations,
    reason = "lints see an interface in its own crate, and not in this module"
)]
#[path = "../../runtime/capi/src/lib.rs"]
mod library;

use library::{ModelHandle, SessionHandle, Status};

const MODEL: &[u8] = include_bytes!("../../testdata/tiny/dynamo/model.onnx");
const WORDS: &[u8] = include_bytes!("../../testdata/tiny/vocab.txt");

/// Streams that are open at a time.
const SLOTS: usize = 4;

/// A session reads at most so many tokens, so that a check at its end does not take long.
const MOST_TOKENS: usize = 64;

/// What logits may differ by between a text that was scored at once and one that was read word by word: sums of at most some hundred f32 products below
/// 1 in another order, 1e2 * f32::EPSILON = 1e-5, and a recurrence that carries the difference on.
const TOLERANCE: f32 = 1e-3;

/// A loaded model, for all inputs.
struct Loaded {
    handle: *mut ModelHandle,
    words: Vocabulary,
}

// SAFETY: the header allows calls from any thread, and the handle is never freed.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Sync for Loaded {}

fn loaded() -> &'static Loaded {
    static LOADED: OnceLock<Loaded> = OnceLock::new();
    LOADED.get_or_init(|| {
        let words = Vocabulary::from_bytes(WORDS).expect("the bundled words");
        let graph = onnx::import(MODEL.into(), None, "tiny").expect("the bundled model");
        let graph = canonicalize(&graph).expect("the bundled model").expect("a generic graph").graph;
        let mut source = Source::from_bytes(MODEL, "tiny.onnx").expect("the bundled model");
        (source.graph, source.tokenizer) = (graph, Some(Arc::new(Tokenizer::words(words.clone()))));
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("tiny.lstmc");
        source.write(&path).expect("a model that is written");
        let path = CString::new(path.to_str().expect("a path in UTF-8")).expect("a path without NUL");
        let mut handle = null_mut();
        // SAFETY: a C string, and room for a handle.
        let status = unsafe { library::lstmc_model_load(path.as_ptr(), &mut handle) };
        assert_eq!(status, Status::LstmcOk, "{}", last_error());
        Loaded { handle, words }
    })
}

fn last_error() -> String {
    let text = library::lstmc_last_error();
    assert!(!text.is_null());
    // SAFETY: not null, a C string until the next call on this thread fails.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// A status must be that of one of the errors that hold, and fine only where none does.
fn expect(status: Status, errors: &[(bool, Status)]) -> bool {
    let holding: Vec<Status> = errors.iter().filter(|(holds, _)| *holds).map(|&(_, status)| status).collect();
    if status == Status::LstmcOk {
        assert!(holding.is_empty(), "the call succeeded; expected one of {holding:?}");
        return true;
    }
    assert!(holding.contains(&status), "{status:?}, expected one of {holding:?}: {}", last_error());
    assert!(!last_error().is_empty(), "{status:?} without a text");
    false
}

/// A stream, with the tokens that it has read.
struct Stream {
    handle: *mut SessionHandle,
    read: Vec<u32>,
}

impl Stream {
    fn open() -> Stream {
        let mut handle = null_mut();
        // SAFETY: a handle, and room for one.
        let status = unsafe { library::lstmc_session_new(loaded().handle, &mut handle) };
        assert!(status == Status::LstmcOk && !handle.is_null(), "{}", last_error());
        Stream { handle, read: vec![] }
    }

    fn step(&mut self, token: u32, logits: &mut [f32]) {
        // SAFETY: a handle, and as many floats as are said to be there.
        let status =
            unsafe { library::lstmc_session_step(self.handle, token, logits.as_mut_ptr(), logits.len()) };
        assert_eq!(status, Status::LstmcOk, "{}", last_error());
    }

    /// Compares the stream with one that reads the same tokens one by one, and frees both.
    fn close(mut self) {
        let mut plain = Stream::open();
        let words = loaded().words.len();
        let (mut expected, mut found) = (vec![0.0; words], vec![0.0; words]);
        for &token in &self.read {
            plain.step(token, &mut expected);
        }
        plain.step(0, &mut expected);
        self.step(0, &mut found);
        for (e, f) in expected.iter().zip(&found) {
            assert!(e.is_finite() && (e - f).abs() <= TOLERANCE, "logits {e} and {f} after {:?}", self.read);
        }
        for handle in [plain.handle, self.handle] {
            // SAFETY: a handle that is not used again.
            unsafe { library::lstmc_session_free(handle) };
        }
    }
}

/// Sequences of calls: a byte for the function, one for its session, then its arguments. Bits of the session's byte put null where a pointer should be.
pub fn capi(bytes: &[u8]) {
    let Loaded { handle: model, words } = loaded();
    let model = *model;
    let mut cursor = Cursor::new(bytes);
    let mut streams: [Option<Stream>; SLOTS] = Default::default();
    while !cursor.is_empty() {
        let (function, which) = (cursor.byte(), cursor.byte());
        let slot = &mut streams[usize::from(which) % SLOTS];
        // One for the handle and one for each of up to two pointers.
        let nulls = [4, 5, 6].map(|bit| which >> bit & 1 == 1);
        match function % 12 {
            0 => model_calls(model, words, &mut cursor, nulls),
            1 => word_calls(model, words, &mut cursor, nulls),
            2 => {
                let mut handle = null_mut();
                // SAFETY: null or a handle; null or room for one.
                let status = unsafe {
                    library::lstmc_session_new(unless(nulls[0], model), unless(nulls[1], &mut handle))
                };
                if expect(status, &[(nulls[0] || nulls[1], Status::LstmcErrorNull)]) {
                    let new = Stream { handle, read: vec![] };
                    if let Some(old) = slot.replace(new) {
                        old.close();
                    }
                } else {
                    assert!(handle.is_null(), "a handle after an error");
                }
            }
            3 => {
                if let Some(stream) = slot.take() {
                    stream.close();
                }
            }
            11 => streams_calls(model, words.len(), &mut cursor),
            function => session_call(function, slot.as_mut(), words.len(), &mut cursor, nulls),
        }
    }
    streams.into_iter().flatten().for_each(Stream::close);
}

/// The pointer, or null.
fn unless<T>(is_null: bool, pointer: *mut T) -> *mut T {
    if is_null { null_mut() } else { pointer }
}

/// A token: of the vocabulary, just outside it, or far from it.
fn token(cursor: &mut Cursor<'_>) -> u32 {
    match cursor.byte() {
        255 => u32::MAX,
        254 => i32::MAX as u32 + 1,
        byte => byte.into(),
    }
}

fn model_calls(model: *mut ModelHandle, words: &Vocabulary, cursor: &mut Cursor<'_>, nulls: [bool; 3]) {
    // SAFETY: null or a handle.
    let (size, outputs, info) = unsafe {
        let model = unless(nulls[0], model);
        let (size, outputs) =
            (library::lstmc_model_vocabulary_size(model), library::lstmc_model_output_size(model));
        (size, outputs, library::lstmc_model_info(model))
    };
    assert_eq!(outputs, size as usize);
    assert_eq!((size, info.is_null()), if nulls[0] { (0, true) } else { (words.len() as u32, false) });
    if !info.is_null() {
        // SAFETY: a C string that lives as long as the model.
        let info = unsafe { CStr::from_ptr(info) };
        let info: serde_json::Value =
            serde_json::from_slice(info.to_bytes()).expect("the information is JSON");
        assert_eq!(info["vocabulary"], size);
    }
    assert_eq!(library::lstmc_abi_version(), library::LSTMC_ABI_VERSION);
    // A path that names no file, and none at all.
    let path: Vec<u8> = cursor.take(8).iter().copied().filter(|&b| b != 0).collect();
    let path = CString::new([b"missing/", &path[..]].concat()).expect("a path without NUL");
    let mut handle = model;
    // SAFETY: null or a C string; null or room for a handle.
    let status = unsafe {
        library::lstmc_model_load(
            if nulls[1] { null() } else { path.as_ptr() },
            unless(nulls[2], &mut handle),
        )
    };
    expect(status, &[(nulls[1] || nulls[2], Status::LstmcErrorNull), (true, Status::LstmcErrorModel)]);
    assert!(nulls[2] || handle.is_null(), "a handle after an error");
    // SAFETY: null is ignored.
    unsafe {
        library::lstmc_model_free(null_mut());
        library::lstmc_session_free(null_mut());
    }
}

fn word_calls(model: *mut ModelHandle, words: &Vocabulary, cursor: &mut Cursor<'_>, nulls: [bool; 3]) {
    let token = token(cursor);
    // SAFETY: null or a handle.
    let found = unsafe { library::lstmc_model_word(unless(nulls[0], model), token) };
    let expected = words.word(token).filter(|_| !nulls[0]);
    // SAFETY: a C string that lives as long as the model.
    let found = (!found.is_null()).then(|| unsafe { CStr::from_ptr(found) }.to_bytes());
    assert_eq!(found, expected.map(str::as_bytes));
    // A word of the vocabulary, or any bytes.
    let length = usize::from(cursor.byte());
    let word = match expected {
        Some(word) if length == 0 => word.as_bytes(),
        _ => cursor.take(length),
    };
    // Exactly as long as is said, so that one byte too many is seen.
    let word = word.to_vec();
    let mut id = 7;
    // SAFETY: null or a handle; null or as many bytes as are said to be there; null or room for a token.
    let status = unsafe {
        let word_at = if nulls[1] { null() } else { word.as_ptr().cast() };
        library::lstmc_model_token(unless(nulls[0], model), word_at, word.len(), unless(nulls[2], &mut id))
    };
    let known = str::from_utf8(&word).ok().and_then(|word| words.id(word));
    let errors = [(nulls.contains(&true), Status::LstmcErrorNull), (known.is_none(), Status::LstmcErrorWord)];
    expect(status, &errors);
    let unknown = words.id("<unk>").unwrap_or(u32::MAX);
    assert_eq!(id, if nulls.contains(&true) { 7 } else { known.unwrap_or(unknown) });
    assert!(words.id("<eos>").is_some());
}

/// A call of a function of sessions; of a null session where the slot is empty. An error leaves the stream as it was, which its end shows.
fn session_call(
    function: u8,
    stream: Option<&mut Stream>,
    words: usize,
    cursor: &mut Cursor<'_>,
    nulls: [bool; 3],
) {
    let mut nobody = Stream { handle: null_mut(), read: vec![] };
    let stream = stream.unwrap_or(&mut nobody);
    let handle = unless(nulls[0], stream.handle);
    let no_session = handle.is_null();
    let outside = |token: u32| token as usize >= words;
    if function % 12 == 4 || stream.read.len() > MOST_TOKENS {
        // SAFETY: null or a handle.
        let status = unsafe { library::lstmc_session_reset(handle) };
        if expect(status, &[(no_session, Status::LstmcErrorNull)]) {
            stream.read.clear();
        }
        return;
    }
    let first = token(cursor);
    match function % 12 {
        5 | 6 => {
            // SAFETY: null or a handle.
            let status = unsafe { library::lstmc_session_advance(handle, first) };
            let errors = [(no_session, Status::LstmcErrorNull), (outside(first), Status::LstmcErrorToken)];
            if expect(status, &errors) {
                stream.read.push(first);
            }
        }
        7 => {
            let mut logits = vec![f32::NAN; usize::from(cursor.byte())];
            let pointer = unless(nulls[1], logits.as_mut_ptr());
            // SAFETY: null or a handle; null or as many floats as are said to be there.
            let status = unsafe { library::lstmc_session_step(handle, first, pointer, logits.len()) };
            let errors = [
                (no_session || nulls[1], Status::LstmcErrorNull),
                (logits.len() < words, Status::LstmcErrorSize),
                (outside(first), Status::LstmcErrorToken),
            ];
            let written = if expect(status, &errors) {
                stream.read.push(first);
                words
            } else {
                0
            };
            assert!(logits[..written].iter().all(|x| x.is_finite()), "logits were not written");
            assert!(logits[written..].iter().all(|x| x.is_nan()), "more was written than there are logits");
        }
        8 => {
            let (target, mut score) = (token(cursor), f32::NAN);
            // SAFETY: null or a handle; null or room for a number.
            let status =
                unsafe { library::lstmc_session_score(handle, first, target, unless(nulls[1], &mut score)) };
            let errors = [
                (no_session || nulls[1], Status::LstmcErrorNull),
                (outside(first) || outside(target), Status::LstmcErrorToken),
            ];
            if expect(status, &errors) {
                stream.read.push(first);
                assert!(score < 0.0, "a log-probability of {score}");
            }
        }
        9 => {
            let count = usize::from(cursor.byte()) % MOST_TOKENS;
            let mut tokens: Vec<u32> = (0..count).map(|_| token(cursor)).collect();
            let mut sum = f64::NAN;
            // SAFETY: null or a handle; null or as many tokens as are said to be there; null or room for a number.
            let status = unsafe {
                let tokens_at = unless(nulls[1], tokens.as_mut_ptr());
                library::lstmc_session_score_text(handle, tokens_at, count, unless(nulls[2], &mut sum))
            };
            let errors = [
                (no_session || nulls[1] || nulls[2], Status::LstmcErrorNull),
                (tokens.iter().any(|&t| outside(t)), Status::LstmcErrorToken),
            ];
            if expect(status, &errors) {
                assert!(if count < 2 { sum == 0.0 } else { sum < 0.0 }, "log-probabilities of {sum}");
                tokens.pop();
                stream.read.append(&mut tokens);
            }
        }
        _ => {
            let k = usize::from(cursor.byte()) % (words + 3);
            let (mut ids, mut scores) = (vec![u32::MAX; k], vec![f32::NAN; k]);
            // SAFETY: null or a handle; null or room for `k` of each.
            let status = unsafe {
                let (ids, scores) =
                    (unless(nulls[1], ids.as_mut_ptr()), unless(nulls[2], scores.as_mut_ptr()));
                library::lstmc_session_top_k(handle, first, k, ids, scores)
            };
            let errors = [
                (no_session || nulls[1] || nulls[2], Status::LstmcErrorNull),
                (k == 0 || k > words, Status::LstmcErrorSize),
                (outside(first), Status::LstmcErrorToken),
            ];
            if expect(status, &errors) {
                stream.read.push(first);
                assert!(scores.is_sorted_by(|a, b| a >= b) && scores[0] <= 0.0, "scores {scores:?}");
                ids.sort_unstable();
                ids.dedup();
                assert!(ids.len() == k && !outside(ids[k - 1]), "words {ids:?}");
            }
        }
    }
}

/// A few streams, some calls on them, and a comparison with sessions that read the same.
fn streams_calls(model: *mut ModelHandle, words: usize, cursor: &mut Cursor<'_>) {
    let count = usize::from(cursor.byte()) % 5;
    let mut handle: *mut library::StreamsHandle = null_mut();
    // SAFETY: a handle, and room for one.
    let status = unsafe { library::lstmc_streams_new(model, count, &mut handle) };
    assert!(status == Status::LstmcOk && !handle.is_null(), "{}", last_error());
    let mut read = vec![vec![]; count];
    for _ in 0..usize::from(cursor.byte()) % 8 {
        let [one, other] = [(); 2].map(|()| u32::from(cursor.byte()) % 6);
        let outside = |stream: u32| stream as usize >= count;
        match cursor.byte() % 4 {
            0 => {
                let tokens = [token(cursor), token(cursor)];
                // SAFETY: a handle, and two numbers each.
                let status =
                    unsafe { library::lstmc_streams_step(handle, [one, other].as_ptr(), tokens.as_ptr(), 2) };
                let errors = [
                    (count < 2 || outside(one) || outside(other) || one == other, Status::LstmcErrorSize),
                    (tokens.iter().any(|&t| t as usize >= words), Status::LstmcErrorToken),
                ];
                if expect(status, &errors) {
                    [one, other].iter().zip(tokens).for_each(|(&s, token)| read[s as usize].push(token));
                }
            }
            1 => {
                // SAFETY: a handle.
                let status = unsafe { library::lstmc_streams_copy(handle, one, other) };
                if expect(status, &[(outside(one) || outside(other), Status::LstmcErrorSize)]) {
                    read[other as usize] = read[one as usize].clone();
                }
            }
            2 => {
                // SAFETY: a handle, and two numbers.
                let status = unsafe { library::lstmc_streams_reorder(handle, [one, other].as_ptr(), 2) };
                if expect(status, &[(count < 2 || outside(one) || outside(other), Status::LstmcErrorSize)]) {
                    let moved = [one, other].map(|s| read[s as usize].clone());
                    read[..2].clone_from_slice(&moved);
                }
            }
            _ => {
                // SAFETY: a handle.
                let status = unsafe { library::lstmc_streams_reset(handle, one) };
                if expect(status, &[(outside(one), Status::LstmcErrorSize)]) {
                    read[one as usize].clear();
                }
            }
        }
    }
    let (mut output, mut logits) = (vec![f32::NAN; words], vec![0.0; words]);
    for (stream, read) in read.iter().enumerate() {
        let (at, zero) = (stream as u32, 0u32);
        let (mut id, mut best, mut score) = (0, 0.0, 0.0);
        // SAFETY: a handle, a number each, and room for what is written.
        let all = unsafe {
            [
                library::lstmc_streams_step(handle, &at, &zero, 1),
                library::lstmc_streams_output(handle, at, output.as_mut_ptr(), words),
                library::lstmc_streams_top_k(handle, at, 1, &mut id, &mut best),
                library::lstmc_streams_score(handle, at, id, &mut score),
            ]
        };
        assert_eq!(all, [Status::LstmcOk; 4], "{}", last_error());
        assert!((best - score).abs() <= TOLERANCE, "log-probabilities {best} and {score}");
        let mut plain = Stream::open();
        read.iter().chain([&0]).for_each(|&token| plain.step(token, &mut logits));
        for (have, want) in output.iter().zip(&logits) {
            assert!((have - want).abs() <= TOLERANCE, "logits {have} and {want} after {read:?}");
        }
        let (mut likeliest, mut found) = (0, 0);
        // SAFETY: a handle, a prefix without letters, and room for what is written.
        let status = unsafe {
            let prefix = "".as_ptr().cast();
            library::lstmc_session_top_k_prefix(
                plain.handle,
                0,
                prefix,
                0,
                1,
                &mut likeliest,
                &mut best,
                &mut found,
            )
        };
        assert_eq!((status, found), (Status::LstmcOk, 1), "{}", last_error());
        // SAFETY: a handle that is not used again.
        unsafe { library::lstmc_session_free(plain.handle) };
    }
    // SAFETY: a handle that is not used again.
    unsafe { library::lstmc_streams_free(handle) };
}
