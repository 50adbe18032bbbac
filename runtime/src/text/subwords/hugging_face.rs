//! Tokenizers of Hugging Face (`tokenizer.json`), run by their own crate.

use super::SubwordsError;
use crate::text::{Role, Special};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{ModelWrapper, Tokenizer};

/// A tokenizer.
pub(super) struct HuggingFace {
    tokenizer: Tokenizer,
    /// By id; `None` for ids that it leaves out.
    names: Vec<Option<String>>,
    /// Its token for what is unknown, with its name.
    unknown: Option<(u32, String)>,
    drops: bool,
    special: Special,
}

/// Ids that no token has, at most, beside as many as there are tokens.
const MAX_GAPS: usize = 1 << 16;

impl HuggingFace {
    /// Reads a file's bytes.
    pub(super) fn new(file: &[u8]) -> Result<HuggingFace, SubwordsError> {
        guarded(|| HuggingFace::parse(file)).map_err(|reason| SubwordsError::HuggingFace { reason })
    }

    fn parse(file: &[u8]) -> Result<HuggingFace, String> {
        let mut tokenizer = Tokenizer::from_bytes(file).map_err(|error| error.to_string())?;
        // A line is whole, and not filled up.
        tokenizer.with_padding(None).with_truncation(None).map_err(|error| error.to_string())?;
        let model = tokenizer.get_model();
        let unknown = match model {
            ModelWrapper::BPE(model) => model.unk_token.clone(),
            ModelWrapper::WordPiece(model) => Some(model.unk_token.clone()),
            ModelWrapper::WordLevel(model) => Some(model.unk_token.clone()),
            ModelWrapper::Unigram(model) => {
                unigram_unknown(file).and_then(|id| model.iter().nth(id)).map(|(name, _)| name.clone())
            }
        };
        let tokens = tokenizer.get_vocab(true);
        let drops = match model {
            ModelWrapper::BPE(model) => {
                let of_bytes = ByteLevel::alphabet().iter().all(|c| tokens.contains_key(&c.to_string()));
                unknown.is_none() && !model.byte_fallback && !of_bytes
            }
            _ => false,
        };
        let last = tokens.values().max().copied().ok_or("it has no tokens")? as usize;
        if last >= 2 * tokens.len() + MAX_GAPS {
            return Err(format!("it has {} tokens, and ids up to {last}", tokens.len()));
        }
        let mut special = Special::default();
        for role in Role::ALL {
            let is_special = |name: &&&str| tokenizer.get_added_vocabulary().is_special_token(name);
            let usual = role.names().iter().find(is_special).map(|name| name.to_string());
            let name = usual.filter(|_| role != Role::Unknown || unknown.is_none());
            let name = name.or_else(|| unknown.clone().filter(|_| role == Role::Unknown));
            special = special.with(role, name.and_then(|name| tokenizer.token_to_id(&name)));
        }
        let names = (0..=last as u32).map(|id| tokenizer.id_to_token(id)).collect();
        let unknown = unknown.and_then(|name| Some((tokenizer.token_to_id(&name)?, name)));
        if let ModelWrapper::BPE(model) = tokenizer.get_model()
            && model.dropout.is_some()
        {
            // For training: it cuts the same text in another way each time.
            let mut model = model.clone();
            model.dropout = None;
            tokenizer.with_model(model);
        }
        Ok(HuggingFace { tokenizer, names, unknown, drops, special })
    }

    /// The names of the tokens, in the order of their ids; `None` where there is none.
    pub(super) fn names(&self) -> impl Iterator<Item = Option<&str>> {
        self.names.iter().map(Option::as_deref)
    }

    /// The special tokens that the file names.
    pub(super) fn special(&self) -> Special {
        self.special
    }

    /// Whether characters that it does not know are left out.
    pub(super) fn drops(&self) -> bool {
        self.drops
    }

    /// In a few words.
    pub(super) fn summary(&self) -> &'static str {
        match self.tokenizer.get_model() {
            ModelWrapper::BPE(_) => "Hugging Face BPE",
            ModelWrapper::WordPiece(_) => "Hugging Face WordPiece",
            ModelWrapper::WordLevel(_) => "Hugging Face words",
            ModelWrapper::Unigram(_) => "Hugging Face unigram",
        }
    }

    /// The tokens of a line; `None` for what is unknown, which does not include the token for it, written in the text.
    pub(super) fn encode(&self, line: &str) -> Result<Vec<Option<u32>>, String> {
        let encoding = guarded(|| self.tokenizer.encode(line, false).map_err(|error| error.to_string()))?;
        let is_unknown = |id: u32, (start, end): (usize, usize)| {
            self.unknown
                .as_ref()
                .is_some_and(|(unknown, name)| id == *unknown && line.get(start..end) != Some(name))
        };
        let tokens = encoding.get_ids().iter().zip(encoding.get_offsets());
        Ok(tokens.map(|(&id, &offsets)| (!is_unknown(id, offsets)).then_some(id)).collect())
    }

    /// The text of some tokens.
    pub(super) fn decode(&self, tokens: &[u32]) -> String {
        guarded(|| self.tokenizer.decode(tokens, false).map_err(|error| error.to_string()))
            .unwrap_or_default()
    }
}

/// The id of a unigram model's token for what is unknown, which the crate does not tell.
fn unigram_unknown(file: &[u8]) -> Option<usize> {
    let file: serde_json::Value = serde_json::from_slice(file).ok()?;
    usize::try_from(file["model"]["unk_id"].as_u64()?).ok()
}

/// What the crate says. It trusts files, and a damaged one may make it panic; that is an error, too.
fn guarded<T>(of: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    // A tokenizer is not changed by what it is asked, but for caches, which it clears when a thread panicked.
    catch_unwind(AssertUnwindSafe(of)).unwrap_or_else(|_| Err("it makes the tokenizers crate panic".into()))
}
