//! What the backend makes of a tiny model, as text; and that the instructions that matter are really there.

use lstmc_backend::isa::{OptLevel, X86_SERVER, native, target};
use lstmc_backend::{Stage, listing};
use lstmc_frontend::ir::arbitrary::language_model;

fn x86(features: &[&str], stage: Stage) -> String {
    let isa = target("x86_64-unknown-linux-gnu", features, OptLevel::None).unwrap();
    listing(&language_model(5, 2, 70, 1), isa, stage).unwrap()
}

/// One function of a listing.
fn function<'t>(listing: &'t str, name: &str) -> &'t str {
    let from = listing.find(&format!("; {name}\n")).expect("the function is listed");
    let rest = &listing[from..];
    rest[2..].find("\n; ").map_or(rest, |end| &rest[..end + 2])
}

#[test]
fn the_plan_of_a_tiny_model() {
    insta::assert_snapshot!(x86(X86_SERVER, Stage::Plan));
}

#[test]
fn the_clif_of_a_tiny_models_output_layer() {
    let isa = target("x86_64-unknown-linux-gnu", X86_SERVER, OptLevel::None).unwrap();
    let text = listing(&language_model(2, 1, 4, 1), isa, Stage::Clif).unwrap();
    insta::assert_snapshot!(function(&text, "logits"));
}

#[test]
fn x86_fuses_multiply_and_add_and_moves_nothing_between_registers() {
    let isa = target("x86_64-unknown-linux-gnu", X86_SERVER, OptLevel::None).unwrap();
    let text = listing(&language_model(64, 1, 320, 1), isa, Stage::Assembly).unwrap();
    let logits = function(&text, "logits");
    let count = |what: &str| logits.lines().filter(|l| l.contains(what)).count();
    // The inner loop takes eight inputs a turn, times eight vectors of a panel.
    assert_eq!(count("vfmadd213ps"), 64, "{logits}");
    assert_eq!(count("vbroadcastss"), 8, "{logits}");
    assert_eq!(count("movdqa") + count("movaps %"), 0, "no copies between registers:\n{logits}");
    assert_eq!(count("rsp") - count("movq %rsp") - count("movq %rbp, %rsp"), 0, "no spills:\n{logits}");
}

#[test]
fn plain_x86_uses_no_fused_instruction_and_calls_no_library() {
    let text = x86(&[], Stage::Assembly);
    assert!(text.contains("mulps") && !text.contains("vfmadd"));
    assert!(!text.contains("fmaf"), "no call of a library function");
}

#[test]
fn arm64_multiplies_and_adds_in_one_instruction() {
    let isa = target("aarch64-unknown-linux-gnu", &[], OptLevel::None).unwrap();
    let text = listing(&language_model(64, 1, 320, 1), isa, Stage::Assembly).unwrap();
    assert!(function(&text, "logits").matches("fmla").count() >= 64);
}

#[test]
fn this_machine_can_be_compiled_for() {
    let text =
        listing(&language_model(3, 1, 5, 1), native(OptLevel::Speed).unwrap(), Stage::Assembly).unwrap();
    assert!(text.contains("; top_k"));
}
