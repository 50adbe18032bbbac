//! Files of C on microcontrollers, in an emulator of whole boards, against the JIT: with SIMD instructions, with vectors, and with neither
//! them nor floats.

use super::c::{mixed, tokens, write_c};
use super::logits::{bytes, jit};
use super::tools::{Machine, done, has, is_fusing, skipped};
use crate::program::{Sandbox, root};
use lstmc::Source;
use lstmc::backend::Level;
use lstmc::frontend::ir::Head;
use lstmc::frontend::ir::arbitrary::Recurrence;
use std::fs;
use std::process::Command;

/// A board of the emulator.
struct Board {
    machine: &'static str,
    /// Where its memories are.
    script: &'static str,
    options: &'static [&'static str],
    /// It has an instruction that multiplies and adds.
    fuses: bool,
}

const BOARDS: [Board; 3] = [
    Board {
        machine: "mps2-an500",
        script: "mps2-an500.ld",
        options: &["-mcpu=cortex-m7", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"],
        fuses: true,
    },
    Board {
        machine: "mps3-an547",
        script: "mps3-an547.ld",
        options: &["-mcpu=cortex-m55", "-mfloat-abi=hard"],
        fuses: true,
    },
    Board {
        machine: "mps2-an385",
        script: "mps2-an500.ld",
        options: &["-mcpu=cortex-m3", "-mfloat-abi=soft"],
        fuses: false,
    },
];

/// Whether programs for boards can be made and run.
fn is_there() -> bool {
    let what = "C on microcontrollers";
    let cc = "arm-none-eabi-gcc";
    if !has(cc, what) || !has("qemu-system-arm", what) {
        return false;
    }
    // A compiler that does not know where a file is prints its name.
    let newlib = done(Command::new(cc).arg("-print-file-name=nano.specs")).stdout != b"nano.specs\n";
    if !newlib {
        skipped(&format!("{what}: there is no newlib here"));
    }
    newlib
}

impl Board {
    /// What the C in a folder computes from the sandbox's tokens.
    fn logits(&self, sandbox: &Sandbox, folder: &str, optimization: &str) -> Vec<f32> {
        let (folder, example) = (sandbox.path(folder), root().join("examples/cortex-m"));
        let program = folder.join("run.elf");
        let mut cc = Command::new("arm-none-eabi-gcc");
        cc.args(["-std=c11", optimization, "-mthumb", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]);
        cc.args(self.options).arg("-I").arg(&folder).arg(folder.join("lm.c"));
        cc.arg(example.join("startup.c")).arg(root().join("tests/c/run.c")).arg("-L").arg(&example);
        cc.args(["-nostartfiles", "--specs=nano.specs", "--specs=rdimon.specs", "-T", self.script]);
        done(cc.args(["-lm", "-o"]).arg(&program));
        let out = sandbox.path("output");
        let arguments =
            format!("arg=run,arg=logits,arg={},arg={}", sandbox.path("tokens").display(), out.display());
        let mut qemu = Command::new("qemu-system-arm");
        qemu.args(["-M", self.machine, "-display", "none", "-monitor", "none", "-serial", "none"]);
        qemu.arg("-semihosting-config").arg(format!("enable=on,target=native,{arguments}"));
        done(qemu.arg("-kernel").arg(program));
        fs::read(out).unwrap().as_chunks::<4>().0.iter().map(|b| f32::from_ne_bytes(*b)).collect()
    }

    /// The level with this board's bits.
    fn level(&self) -> Option<Level> {
        let best = Level::best();
        if !self.fuses { Some(Level::PLAIN) } else { Some(best).filter(|best| is_fusing(*best)) }
    }
}

/// The bundled model of characters.
fn characters(sandbox: &Sandbox, name: &str, passes: &str) -> Source {
    let file = format!("[dir]/{name}.lstmc");
    let folder = "testdata/characters";
    let (model, vocabulary) = (format!("{folder}/model.onnx"), format!("{folder}/vocab.txt"));
    let of_text = ["--tokenizer", "characters", "--vocab", &vocabulary];
    sandbox.ok(&[&["compile", &model, "--passes", passes, "-o", &file], &of_text[..]].concat());
    Source::read(sandbox.path(&format!("{name}.lstmc"))).unwrap()
}

#[test]
fn c_on_microcontrollers_and_the_jit_agree() {
    if !is_there() {
        return;
    }
    let sandbox = Sandbox::new();
    let tokens = tokens(&sandbox);
    let [m7, m55, m3] = &BOARDS;
    let mut models = vec![
        ("int8", characters(&sandbox, "int8", "quantize(bits=8, method=nearest)"), vec![m7, m55, m3]),
        ("int4", characters(&sandbox, "int4", "quantize(bits=4, group=40, method=nearest)"), vec![m7, m55]),
        ("int2", characters(&sandbox, "int2", "quantize(bits=2, group=32, method=nearest)"), vec![m55]),
    ];
    let boards = [[m55], [m7]];
    for ((name, kind), boards) in ["signed", "unsigned"].into_iter().zip(Recurrence::general()).zip(boards) {
        let model = mixed(&kind, Head::Logits, models.len() as u64);
        model.write(sandbox.path(&format!("{name}.lstmc"))).unwrap();
        models.push((name, model, boards.to_vec()));
    }
    for (name, model, boards) in &models {
        // Weights as arm64 has them, with their signs, or as x86-64 does.
        let machine = if *name == "unsigned" { Machine::Here } else { Machine::Arm64 };
        write_c(&sandbox, &format!("{name}.lstmc"), machine.triple(), name);
        for board in boards {
            let output = board.logits(&sandbox, name, if model.tokenizer.is_some() { "-O2" } else { "-O1" });
            if let Some(level) = board.level() {
                assert_eq!(output, jit(model, level, &tokens), "{name} on {}", board.machine);
            }
        }
    }
}

#[test]
fn the_example_suggests_what_the_jit_does() {
    if !is_there() {
        return;
    }
    let sandbox = Sandbox::new();
    let model = characters(&sandbox, "int8", "quantize(bits=8, method=nearest)");
    let tokenizer = model.tokenizer.as_ref().unwrap();
    let id = |word: &str| tokenizer.vocabulary().id(word).unwrap();
    let text = ["<eos>", "t", "h"].map(id);
    sandbox.file("text", bytes(&text));
    let logits = jit(&model, Level::PLAIN, &text);
    let last = &logits[2 * tokenizer.vocabulary().len()..];
    let best = (0..last.len()).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
    let word = tokenizer.vocabulary().word(best as u32).unwrap();
    for core in ["m7", "m55"] {
        let mut run = Command::new(root().join("examples/cortex-m/run"));
        run.arg(core).arg(sandbox.path("int8.lstmc")).args(["t", "h"]);
        run.env("LSTMC", env!("CARGO_BIN_EXE_lstmc")).env("OUT", sandbox.path(core));
        let printed = String::from_utf8(done(&mut run).stdout).unwrap();
        assert!(printed.contains(&format!("\nh: {word} ")), "{core} does not suggest {word}:\n{printed}");
    }
}
