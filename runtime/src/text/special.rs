//! Tokens with a meaning of their own.

use super::vocabulary::Vocabulary;
use std::fmt;

/// What a special token stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Role {
    /// The beginning of a sentence.
    Begin,
    /// The end of a sentence or a line.
    End,
    /// All that the vocabulary lacks.
    Unknown,
    /// What fills up batches in training, or a blank: it never occurs in a text.
    Pad,
}

impl Role {
    /// All, in the order of [`Special::ids`].
    pub const ALL: [Role; 4] = [Role::Begin, Role::End, Role::Unknown, Role::Pad];

    /// Its usual names, most usual first.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Role::Begin => &[
                "<s>",
                "<bos>",
                "<sos>",
                "<sos/eos>",
                "<BOS>",
                "<SOS>",
                "[BOS]",
                "[CLS]",
                "<|startoftext|>",
                "<|endoftext|>",
            ],
            Role::End => {
                &["<eos>", "</s>", "<sos/eos>", "<EOS>", "[EOS]", "[SEP]", "<|endoftext|>", "<|eos|>"]
            }
            Role::Unknown => &["<unk>", "[UNK]", "<UNK>", "<oov>", "<OOV>", "<|unk|>"],
            Role::Pad => &["<pad>", "[PAD]", "<PAD>", "<blk>", "<blank>", "<|pad|>"],
        }
    }

    /// The option of the command line that names its token.
    pub fn option(self) -> &'static str {
        match self {
            Role::Begin => "--bos",
            Role::End => "--eos",
            Role::Unknown => "--unk",
            Role::Pad => "--pad",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Begin => "beginning",
            Role::End => "end",
            Role::Unknown => "unknown",
            Role::Pad => "padding",
        })
    }
}

/// The tokens that stand for the beginning and the end of a sentence, for what is unknown, and for padding.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Special {
    /// By [`Role`], in the order of [`Role::ALL`].
    pub ids: [Option<u32>; 4],
}

impl Special {
    /// The tokens that have one of the usual names.
    pub fn guess(vocabulary: &Vocabulary) -> Special {
        let named = |role: Role| role.names().iter().find_map(|name| vocabulary.id(name));
        Special { ids: Role::ALL.map(named) }
    }

    /// With those of `other` for what is missing.
    #[must_use]
    pub fn or(self, other: Special) -> Special {
        Special { ids: std::array::from_fn(|role| self.ids[role].or(other.ids[role])) }
    }

    /// The token for this; `None` if there is none.
    pub fn get(&self, role: Role) -> Option<u32> {
        self.ids[role as usize]
    }

    /// With this token for it.
    #[must_use]
    pub fn with(mut self, role: Role, id: Option<u32>) -> Special {
        self.ids[role as usize] = id;
        self
    }
}
