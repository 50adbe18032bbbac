//! Object files for every target: what is in them, and that nothing is missing or left open.

use cranelift_object::object::read::archive::ArchiveFile;
use cranelift_object::object::read::{File, Object, ObjectSection, ObjectSymbol};
use cranelift_object::object::{
    Architecture, BinaryFormat, RelocationKind, RelocationTarget, SectionKind, SymbolSection,
};
use lstmc_backend::CompileError;
use lstmc_backend::object::{
    Cpu, Head, Object as Compiled, TRIPLES, Target, archive, check_name, compile, compile_c, header, module,
    suffixes,
};
use lstmc_frontend::ir::arbitrary::{
    Extras, Kind, Recurrence, language_model, language_model_of, random_map, recurrent_model_of,
};
use lstmc_frontend::ir::{Gru, Reset};
use lstmc_runtime::{Tokenizer, Vocabulary};
use std::collections::BTreeSet;

fn words(n: usize) -> Tokenizer {
    Tokenizer::words(Vocabulary::from_words((0..n).map(|i| format!("w{i}"))).unwrap())
}

fn compiled(target: &Target) -> Compiled {
    let graph = language_model_of(24, 2, 70, |name, shape| {
        let kind = Kind::ALL[name.bytes().map(usize::from).sum::<usize>() % Kind::ALL.len()];
        random_map(kind, shape, name.len() as u64)
    });
    compile(&graph, Some(&words(70)), target, "lm", &|_| "{}".into()).unwrap()
}

/// What the linker must find, what it must not look for, and where everything lies.
fn check(target: &Target, bytes: &[u8], head: Head) {
    let place = target.triple();
    let file = File::parse(bytes).unwrap();
    let (format, prefix) = match place {
        t if t.contains("apple") => (BinaryFormat::MachO, "_"),
        t if t.contains("windows") => (BinaryFormat::Coff, ""),
        _ => (BinaryFormat::Elf, ""),
    };
    let architecture = match place {
        t if t.starts_with("aarch64") => Architecture::Aarch64,
        t if t.starts_with("riscv64") => Architecture::Riscv64,
        _ => Architecture::X86_64,
    };
    assert_eq!((file.format(), file.architecture()), (format, architecture), "{place}");

    let symbols: Vec<_> =
        file.symbols().filter(|s| s.kind() != cranelift_object::object::SymbolKind::File).collect();
    let public: BTreeSet<String> =
        symbols.iter().filter(|s| s.is_global()).map(|s| s.name().unwrap().to_string()).collect();
    let wanted: BTreeSet<String> = suffixes(head).map(|s| format!("{prefix}lm_{s}")).collect();
    assert_eq!(public, wanted, "{place}: public symbols");
    let open: Vec<_> = symbols.iter().filter(|s| s.is_undefined() && !s.name().unwrap().is_empty()).collect();
    assert!(open.is_empty(), "{place}: {open:?}");

    let mut found = BTreeSet::new();
    for section in file.sections().filter(|s| s.size() > 0) {
        let name = section.name().unwrap();
        let kind = section.kind();
        let segment = section.segment_name().unwrap().unwrap_or_default();
        match kind {
            SectionKind::Text => {}
            SectionKind::ReadOnlyData if segment == "__DATA" => {}
            SectionKind::ReadOnlyData => assert!(section.align() >= 64, "{place}: {name}"),
            // The table of addresses is filled in by the loader, then protected. Section kinds of ELF do not tell.
            SectionKind::Data if name == ".data.rel.ro" => {}
            SectionKind::UninitializedData => assert_eq!(section.size(), 8, "{place}: {name}"),
            SectionKind::Linker | SectionKind::Metadata | SectionKind::Other => continue,
            other => panic!("{place}: section {name} is {other:?}"),
        }
        found.insert(format!("{kind:?}"));
        for (_, relocation) in section.relocations() {
            // Position-independent, and without a global offset table.
            let fixed = matches!(
                relocation.kind(),
                RelocationKind::Absolute | RelocationKind::GotRelative | RelocationKind::Got
            );
            assert!(kind != SectionKind::Text || !fixed, "{place}: {relocation:?}");
            if let RelocationTarget::Symbol(index) = relocation.target() {
                let symbol = file.symbol_by_index(index).unwrap();
                assert!(matches!(symbol.section(), SymbolSection::Section(_)), "{place}: {symbol:?}");
            }
        }
    }
    assert!(found.contains("Text") && found.contains("ReadOnlyData"), "{place}: {found:?}");
}

#[test]
fn objects_of_all_targets_define_the_interface_and_need_nothing() {
    for triple in TRIPLES {
        let cpus: &[&str] = if triple.starts_with("x86_64") {
            &[
                "generic",
                "ssse3",
                "sse4.1",
                "x86-64-v2",
                "x86-64-v3",
                "x86-64-v4",
                "x86-64-v3,avx-vnni",
                "avx512-vnni",
                "dispatch",
            ]
        } else if triple.starts_with("riscv64") {
            &["generic", "zba,zbb", "dispatch"]
        } else {
            &["generic", "dotprod", "dispatch"]
        };
        for cpu in cpus {
            let target = Target::new(triple, &cpu.parse::<Cpu>().unwrap()).unwrap();
            let object = compiled(&target);
            check(&target, &object.bytes, object.head);
            // One that chooses remembers what it chose, and writes nothing else.
            let file = File::parse(&*object.bytes).unwrap();
            let zeros = file.sections().filter(|s| s.kind() == SectionKind::UninitializedData);
            let written: u64 = zeros.map(|s| s.size()).sum();
            assert_eq!(written, if target.versions().len() > 1 { 8 } else { 0 }, "{triple}, {cpu}");
            assert_eq!(object.sizes.vocabulary, 70);
            assert_eq!(object.sizes.state % 64, 0);
        }
    }
}

#[test]
fn archives_list_the_public_symbols() {
    for triple in TRIPLES {
        let target = Target::new(triple, &Cpu::Generic).unwrap();
        let object = compiled(&target);
        let bytes = archive(&object.bytes, "lm", &target).unwrap();
        assert_eq!(bytes, archive(&object.bytes, "lm", &target).unwrap(), "{triple}: the same every time");
        let file = ArchiveFile::parse(&*bytes).unwrap();
        let symbols = file.symbols().unwrap().expect("a symbol table");
        let names: BTreeSet<String> =
            symbols.map(|s| String::from_utf8(s.unwrap().name().to_vec()).unwrap()).collect();
        let prefix = if triple.contains("apple") { "_" } else { "" };
        assert_eq!(names, suffixes(Head::Logits).map(|s| format!("{prefix}lm_{s}")).collect(), "{triple}");
        let members: Vec<_> = file.members().map(|m| m.unwrap()).collect();
        assert_eq!(members.len(), 1, "{triple}");
        check(&target, members[0].data(&*bytes).unwrap(), object.head);
    }
}

#[test]
fn the_same_model_gives_the_same_bytes() {
    let target = Target::new(TRIPLES[0], &Cpu::Generic).unwrap();
    assert_eq!(compiled(&target).bytes, compiled(&target).bytes);
}

#[test]
fn the_header_declares_what_the_object_defines() {
    let target = Target::new(TRIPLES[1], &Cpu::Generic).unwrap();
    let header = header(&compiled(&target), &target);
    for suffix in suffixes(Head::Logits) {
        assert!(
            header.contains(&format!(" lm_{suffix}(")) || header.contains(&format!("*lm_{suffix}(")),
            "{suffix}"
        );
    }
    assert!(!header.contains('@'), "every placeholder is filled in");
}

/// One operation a line; nothing that is not read.
#[test]
fn c_is_structured() {
    let target = Target::new(TRIPLES[0], &Cpu::Generic).unwrap();
    let graph = language_model(2, 1, 3, 1);
    let c = compile_c(&graph, Some(&words(3)), &target, "lm", "{}".into()).unwrap();
    assert_eq!((&*c.name, c.sizes.vocabulary), ("lm", 3));
    let text = String::from_utf8(c.bytes).unwrap();
    assert!(text.is_ascii() && !text[..text.find("static ").unwrap()].contains('@'));
    for suffix in suffixes(Head::Logits) {
        assert_eq!(text.matches(&format!("lm_{suffix}(")).count(), 1, "{suffix}");
    }
    let beginning = text.find("int lm_reset(").unwrap();
    let end = text.find("int lm_step(").unwrap();
    insta::assert_snapshot!(&text[beginning..end]);
    let word = text.find("const char *lm_word(").unwrap();
    insta::assert_snapshot!(text[word..].split("\nstatic const").next().unwrap());
}

/// A model of hidden vectors has no functions of probabilities, and says so.
#[test]
fn hidden_vectors_have_an_interface_of_their_own() {
    let gru = Recurrence::Gru(Gru::new(Reset::After));
    let extras = Extras { head: Head::Hidden, ..Extras::ALL };
    let graph = recurrent_model_of(&gru, [24, 2, 70], extras, |_, shape| random_map(Kind::Dense, shape, 1));
    let target = Target::new(TRIPLES[0], &Cpu::Generic).unwrap();
    let object = compile(&graph, None, &target, "lm", &|_| "{}".into()).unwrap();
    check(&target, &object.bytes, Head::Hidden);
    let [header, module] = [header(&object, &target), module(&object, &target)];
    for text in [&header, &module] {
        assert!(!text.contains('@') && !text.contains("lm_score") && !text.contains("lm_top_k"), "{text}");
        assert!(text.contains("lm_step") && text.contains(&object.sizes.outputs.to_string()), "{text}");
    }
    for suffix in suffixes(Head::Hidden) {
        assert!(header.contains(&format!("lm_{suffix}(")), "{suffix}");
    }
}

#[test]
fn names_and_words_that_c_cannot_have_are_refused() {
    for name in ["a", "lm_2", "Keyboard"] {
        assert!(check_name(name).is_ok(), "{name}");
    }
    for name in ["", "2a", "_a", "a-b", "int", "class", "fn", "m", "ä", &"a".repeat(65)] {
        assert!(check_name(name).is_err(), "{name}");
    }
    let target = Target::new(TRIPLES[0], &Cpu::Generic).unwrap();
    let with_nul = Tokenizer::words(Vocabulary::from_words(["a", "b\0c"]).unwrap());
    let error =
        compile(&language_model(2, 1, 2, 1), Some(&with_nul), &target, "lm", &|_| "{}".into()).unwrap_err();
    assert!(matches!(error, CompileError::Object(_)), "{error}");
    assert!(error.to_string().contains("word 1"), "{error}");
    let error =
        compile(&language_model(2, 1, 3, 1), Some(&words(2)), &target, "lm", &|_| "{}".into()).unwrap_err();
    assert_eq!(error.to_string(), "the vocabulary has 2 words, and the model 3");
}
