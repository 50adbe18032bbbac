//! The interface of an object file for other languages: a C header, and a Rust module or crate.

use super::{ABI_VERSION, Head, Object, STATE_ALIGN, Target};

/// A C and C++ header.
pub fn header(object: &Object, target: &Target) -> String {
    filled(include_str!("templates/header.h.in"), object, target)
}

/// The beginning of a file of C.
pub(super) fn source(object: &Object, target: &Target) -> String {
    filled(include_str!("templates/source.c.in"), object, target)
}

/// The body of a Rust module, for `include!` if the library is linked by other means.
pub fn module(object: &Object, target: &Target) -> String {
    filled(include_str!("templates/module.rs.in"), object, target)
}

/// The files of a Rust crate by name, without the library, which must be placed next to them.
pub fn crate_files(object: &Object, target: &Target) -> [(&'static str, String); 3] {
    let library = format!(
        "//! A compiled LSTM language model, made by lstmc {} for {}.\n//!\n//! It allocates nothing and needs nothing but `core`.\n\
         #![no_std]\n\n{}",
        env!("CARGO_PKG_VERSION"),
        target.triple(),
        module(object, target)
    );
    [
        ("Cargo.toml", filled(include_str!("templates/Cargo.toml.in"), object, target)),
        ("build.rs", filled(include_str!("templates/build.rs.in"), object, target)),
        ("src/lib.rs", library),
    ]
}

/// A template with its `@words@` replaced.
fn filled(template: &str, object: &Object, target: &Target) -> String {
    let (arch, os) = target.rust_names();
    let words = [
        ("@name@", object.name.clone()),
        ("@NAME@", object.name.to_ascii_uppercase()),
        ("@version@", env!("CARGO_PKG_VERSION").into()),
        ("@triple@", target.triple().into()),
        ("@arch@", arch.into()),
        ("@os@", os.into()),
        ("@library@", target.library(&object.name)),
        ("@abi@", ABI_VERSION.to_string()),
        ("@state_size@", object.sizes.state.to_string()),
        ("@state_align@", STATE_ALIGN.to_string()),
        ("@vocabulary@", object.sizes.vocabulary.to_string()),
        ("@outputs@", object.sizes.outputs.to_string()),
    ];
    let text = of_head(template, object.head);
    words.iter().fold(text, |text, (word, value)| text.replace(word, value))
}

/// A template without the lines that belong to another output, which follow `@if logits@` or `@if hidden@` up to `@end@`.
fn of_head(template: &str, head: Head) -> String {
    let (mut text, mut is_kept) = (String::new(), true);
    for line in template.split_inclusive('\n') {
        match line.trim().strip_prefix("@if ").and_then(|rest| rest.strip_suffix('@')) {
            Some(name) => is_kept = name == head.name(),
            None if line.trim() == "@end@" => is_kept = true,
            None if is_kept => text += line,
            None => {}
        }
    }
    text
}
