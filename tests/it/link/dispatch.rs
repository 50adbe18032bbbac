//! Libraries that choose their code when they run, on processors that an emulator pretends to be.

use super::logits::{bytes, jit, model};
use super::tools::{Machine, done, has, is_fusing};
use crate::program::Sandbox;
use lstmc::Source;
use lstmc::backend::Level;
use std::process::Command;

/// Name and passes of one model for each form of weights that levels read differently.
const MODELS: [(&str, &str); 3] = [
    ("int8", "quantize(bits=8, method=nearest)"),
    ("int4", "quantize(bits=4, group=40, method=nearest)"),
    (
        "sparse-int8",
        "prune(target=decoder, sparsity=0.9, block=32x1, method=magnitude, resolve=false), quantize(bits=8, method=nearest)",
    ),
];

const TOKENS: usize = 6;

/// A library's level on each of some processors of `emulator`, and that its numbers are those of the JIT: at that level, or at levels of another architecture, which have fused
/// multiply-add, at this machine's best, if that has it too.
fn check(machine: Machine, emulator: &str, processors: &[(&str, &str)]) {
    if !machine.is_there() || !has(emulator, "processors of other levels") {
        return;
    }
    let sandbox = Sandbox::new();
    for (name, passes) in MODELS {
        let source: Source = model(&sandbox, name, passes);
        let tokens: Vec<u32> = (0..TOKENS as u32).map(|i| i * 131).collect();
        let tokens_file = sandbox.file("tokens", bytes(&tokens));
        machine.library(&sandbox, &format!("{name}.lstmc"), "dispatch", name);
        let program = machine.program(&sandbox, "run", name, &["-static"]);
        for &(processor, level) in processors {
            let run = || {
                let mut command = Command::new(emulator);
                command.args(["-cpu", processor]).arg(&program);
                command
            };
            let printed = done(run().arg("info").arg(&tokens_file)).stdout;
            let info: serde_json::Value = serde_json::from_slice(&printed).unwrap();
            assert_eq!((&info["cpu"], &info["level"]), (&"dispatch".into(), &level.into()), "{processor}");
            let out = sandbox.path("logits");
            done(run().arg("logits").arg(&tokens_file).arg(&out));
            let fused = || Some(Level::best()).filter(|best| is_fusing(*best));
            let Some(here) = level.parse().ok().or_else(fused) else { continue };
            let logits = std::fs::read(out).unwrap();
            let logits: Vec<f32> = logits.as_chunks::<4>().0.iter().map(|b| f32::from_ne_bytes(*b)).collect();
            assert!(logits == jit(&source, here, &tokens), "{name}, {processor}: not what the JIT computes");
        }
    }
}

#[test]
fn a_library_chooses_what_the_processor_has() {
    let processors = [("qemu64", "plain"), ("Nehalem", "sse4.1"), ("Haswell", "avx2"), ("max", "avx2")];
    check(Machine::Here, "qemu-x86_64", &processors);
}

#[test]
fn a_library_chooses_on_arm64_too() {
    check(
        Machine::Arm64,
        "qemu-aarch64",
        &[("cortex-a53", "neon"), ("cortex-a76", "dotprod"), ("max", "dotprod")],
    );
}

#[test]
fn this_processor_has_its_best_level() {
    if !Machine::Here.is_there() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.tiny();
    Machine::Here.library(&sandbox, "tiny.lstmc", "dispatch", "here");
    let program = Machine::Here.program(&sandbox, "run", "here", &[]);
    let tokens = sandbox.file("tokens", bytes(&[1, 2]));
    let printed = done(Command::new(program).arg("info").arg(tokens)).stdout;
    let info: serde_json::Value = serde_json::from_slice(&printed).unwrap();
    // Generated code has no use for AVX-512 without products of bytes.
    let best = if Level::best().name() == "avx512" { "avx2" } else { Level::best().name() };
    assert_eq!(info["level"], best);
}
