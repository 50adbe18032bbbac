//! What the backend makes of a tiny model, as text; and that the instructions that matter are really there.

use crate::models::{Form, codes, map, model};
use crate::programs::{filled, texts};
use lstmc_backend::Level;
use lstmc_backend::isa::{OptLevel, X86_SERVER, host, target};
use lstmc_backend::{Stage, listing};
use lstmc_frontend::ir::arbitrary::{language_model, language_model_of};
use lstmc_frontend::ir::{CodeFormat, Granularity, Graph, Pattern};

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

/// Sums of gates that are apart, a loop, a learned state, a norm, slices and a scalar.
#[test]
fn plans_of_general_programs() {
    let isa = || target("x86_64-unknown-linux-gnu", X86_SERVER, OptLevel::None).unwrap();
    let plan = |text: &String| listing(&filled(text, [9, 8, 33], None, 1), isa(), Stage::Plan).unwrap();
    insta::assert_snapshot!(texts()[..2].iter().map(plan).collect::<String>());
}

#[test]
fn the_clif_of_a_tiny_models_output_layer() {
    let isa = target("x86_64-unknown-linux-gnu", X86_SERVER, OptLevel::None).unwrap();
    let text = listing(&language_model(2, 1, 4, 1), isa, Stage::Clif).unwrap();
    insta::assert_snapshot!(function(&text, "logits"));
}

/// A row of a table of f32s starts at any multiple of four bytes, in memory that the graph may have allocated. Everywhere else vectors are
/// aligned.
#[test]
fn rows_of_f32s_may_lie_anywhere() {
    let text = x86(X86_SERVER, Stage::Clif);
    let loads = |name: &str| -> Vec<&str> {
        function(&text, name).lines().filter(|l| l.contains("load.f32")).collect()
    };
    let rows = loads("gather");
    // Five elements: a vector and one more.
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert!(rows.iter().all(|l| !l.contains("aligned")), "{rows:?}");
    assert!(loads("logits").iter().all(|l| l.contains("aligned")));
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
        listing(&language_model(3, 1, 5, 1), host(Level::best(), OptLevel::Speed).unwrap(), Stage::Assembly)
            .unwrap();
    assert!(text.contains("; top_k"));
}

/// A model whose maps are all of one format, by row or in groups.
fn integers(format: CodeFormat, granularity: Granularity) -> Graph {
    model(Form::Codes(format, granularity), 64, 1, 320, 1)
}

/// A model whose output layer keeps one in five of its 16x1 blocks.
fn sparse(integer: bool) -> Graph {
    let form = Form::Sparse { pattern: Pattern::Block { rows: 16, cols: 1 }, keep: 5, integer };
    language_model_of(64, 1, 320, |name, shape| match name {
        "decoder" => map(form, name, shape, 1),
        _ => codes(CodeFormat::Int8, Granularity::Row, shape, 2),
    })
}

fn assembly(triple: &str, features: &[&str], graph: &Graph, name: &str) -> String {
    let isa = target(triple, features, OptLevel::None).unwrap();
    let text = listing(graph, isa, Stage::Assembly).unwrap();
    function(&text, name).to_string()
}

const X86: &str = "x86_64-unknown-linux-gnu";
const ARM: &str = "aarch64-unknown-linux-gnu";

#[test]
fn x86_multiplies_bytes_in_one_instruction() {
    let text = assembly(X86, X86_SERVER, &integers(CodeFormat::Int8, Granularity::Row), "panels_0");
    let count = |what: &str| text.lines().filter(|l| l.contains(what)).count();
    // Four quads a turn, of four vectors of eight outputs.
    assert_eq!(
        (count("{evex} vpdpbusd ymm"), count("vmovdqu ymm13, ymmword ptr [r8")),
        (4 * 4, 4 * 4),
        "{text}"
    );
    assert_eq!(count("vpxor ymm13"), 0, "weights are as the instruction takes them:\n{text}");
    let features: Vec<&str> = X86_SERVER.iter().copied().filter(|f| !f.contains("512")).collect();
    let vex = [&features[..], &["has_avx_vnni"]].concat();
    let text = assembly(X86, &vex, &integers(CodeFormat::Int8, Granularity::Row), "panels_0");
    assert_eq!(text.matches("{vex} vpdpbusd ymm").count(), 4 * 4, "{text}");
    let text = assembly(X86, &features, &integers(CodeFormat::Int8, Granularity::Row), "panels_0");
    assert_eq!(text.matches("vpmaddubsw ymm").count(), 2 * 4 * 4, "{text}");
    // Which the output layer calls; the activations' sum takes one more.
    let logits = assembly(X86, X86_SERVER, &integers(CodeFormat::Int8, Granularity::Row), "logits");
    assert!(logits.contains("call") && logits.matches("vpdpbusd").count() == 1, "{logits}");
}

/// A function of 256 bits from its first instruction to its last.
#[test]
fn the_product_of_four_bits_in_groups() {
    let features: Vec<&str> = X86_SERVER.iter().copied().filter(|f| !f.contains("512")).collect();
    insta::assert_snapshot!(assembly(
        X86,
        &features,
        &integers(CodeFormat::Int4, Granularity::Group(32)),
        "panels_0"
    ));
}

#[test]
fn arm64_separates_codes_of_four_and_two_bits_by_masks_alone() {
    for (format, levels) in [(CodeFormat::Int4, 2), (CodeFormat::Int2, 4)] {
        let text = assembly(ARM, &["has_dotprod"], &integers(format, Granularity::Group(32)), "logits");
        let count = |what: &str| text.lines().filter(|l| l.contains(what)).count();
        // The loop over groups holds one group of eight quads.
        // And one in the sum of the activations' codes.
        assert_eq!(count("sdot"), 8 * 8 + 1, "{text}");
        assert!(count("and v") >= 8 * 8 / levels * (levels - 1), "{text}");
        assert_eq!(count("ushr v") + count("sshr v"), 0, "no shifts of bytes:\n{text}");
    }
}

#[test]
fn plain_x86_multiplies_bytes_by_other_means() {
    let text = assembly(X86, &[], &integers(CodeFormat::Int8, Granularity::Row), "logits");
    assert!(!text.contains("vpdpbusd") && text.contains("pmullw"), "{text}");
}

#[test]
fn arm64_multiplies_bytes_in_one_instruction_where_it_has_it() {
    let text = assembly(ARM, &["has_dotprod"], &integers(CodeFormat::Int8, Granularity::Row), "logits");
    assert!(text.matches("sdot").count() >= 16 * 8, "{text}");
    let text = assembly(ARM, &[], &integers(CodeFormat::Int4, Granularity::Group(32)), "logits");
    assert!(!text.contains("sdot") && text.contains("smull"), "{text}");
}

#[test]
fn strips_read_their_inputs_by_index() {
    let text = assembly(X86, X86_SERVER, &sparse(false), "logits");
    let count = |what: &str| text.lines().filter(|l| l.contains(what)).count();
    // Two strips of sixteen outputs, four entries a turn.
    assert_eq!(count("vfmadd213ps"), 2 * 4 * 4, "{text}");
    let text = assembly(X86, X86_SERVER, &sparse(true), "logits");
    let dots = text.matches("vpdpbusd").count();
    // And one in the sum of the activations' codes.
    assert_eq!(dots, 2 * 4 + 1, "{text}");
}
