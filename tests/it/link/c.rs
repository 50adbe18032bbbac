//! Files of C, compiled by every compiler that is here, against the JIT.
//!
//! All operations are the same as the JIT's, in the same order, and each rounds as IEEE 754 says. Results are therefore the same, bit for
//! bit, as those of a level that fuses multiplications with additions if the compiler may, and otherwise of the plain level: on every
//! processor, with its vectors or without.

use super::logits::{bytes, jit, model};
use super::tools::{Machine, done, has, is_fusing, skipped};
use crate::program::{Sandbox, root};
use lstmc::Source;
use lstmc::backend::Level;
use lstmc::frontend::ir::Head;
use lstmc::frontend::ir::arbitrary::{
    ALL_FORMATS_FROM, Extras, Kind, Recurrence, random_map, recurrent_model_of,
};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// A compiler, and what runs its programs.
#[derive(Clone, Copy)]
struct Compiler {
    cc: &'static str,
    emulator: Option<&'static str>,
}

const CC: Compiler = Compiler { cc: "cc", emulator: None };

impl Compiler {
    fn is_there(self) -> bool {
        let what = format!("C compiled by {}", self.cc);
        has(self.cc, &what) && self.emulator.is_none_or(|emulator| has(emulator, &what))
    }

    /// Compiles the C in a folder, without a warning, and `tests/c/NAME.c`.
    fn program(self, sandbox: &Sandbox, name: &str, folder: &str, options: &[&str]) -> PathBuf {
        let folder = sandbox.path(folder);
        let (object, program) = (folder.join("lm.o"), folder.join(name));
        let mut cc = Command::new(self.cc);
        cc.args(["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]).args(options);
        done(cc.arg("-c").arg(folder.join("lm.c")).arg("-o").arg(&object));
        let mut link = Command::new(self.cc);
        link.args(["-std=c11", "-O1"]).args(options).arg("-I").arg(&folder);
        if self.emulator.is_some() {
            link.arg("-static");
        }
        let main = root().join(format!("tests/c/{name}.c"));
        done(link.arg(main).arg(object).args(["-lm", "-o"]).arg(&program));
        program
    }

    fn command(self, program: PathBuf) -> Command {
        match self.emulator {
            None => Command::new(program),
            Some(emulator) => {
                let mut command = Command::new(emulator);
                command.arg(program);
                command
            }
        }
    }

    /// What the C in a folder computes from the sandbox's tokens.
    fn logits(self, sandbox: &Sandbox, folder: &str, options: &[&str]) -> Vec<f32> {
        let program = self.program(sandbox, "run", folder, options);
        let out = sandbox.path("output");
        done(self.command(program).arg("logits").arg(sandbox.path("tokens")).arg(&out));
        fs::read(out).unwrap().as_chunks::<4>().0.iter().map(|b| f32::from_ne_bytes(*b)).collect()
    }
}

/// Builds a model of the sandbox as C, in a folder.
pub(super) fn write_c(sandbox: &Sandbox, model: &str, triple: &str, folder: &str) {
    let (model, out) = (format!("[dir]/{model}"), format!("[dir]/{folder}"));
    sandbox.ok(&["build", &model, "--name", "lm", "--target", triple, "--emit", "c,header", "-o", &out]);
}

/// A model whose weights have every representation: a kind by name, drawn from a seed.
pub(super) fn mixed(kind: &Recurrence, head: Head, seed: u64) -> Source {
    let map = |name: &str, shape| {
        let n = name.bytes().map(usize::from).sum::<usize>() + seed as usize;
        random_map(Kind::ALL[n % Kind::ALL.len()], shape, ALL_FORMATS_FROM + seed + name.len() as u64)
    };
    let mut source = Source::read(root().join("testdata/tiny/dynamo/model.onnx")).unwrap();
    source = source.canonical().unwrap();
    let extras = Extras { head, ..Extras::ALL };
    (source.graph, source.tokenizer) = (recurrent_model_of(kind, [17, 1, 40], extras, map), None);
    source
}

const TOKENS: usize = 30;

/// Tokens of [`mixed`] models.
pub(super) fn tokens(sandbox: &Sandbox) -> Vec<u32> {
    let tokens: Vec<u32> = (0..TOKENS as u32).map(|i| i * 7 % 40).collect();
    sandbox.file("tokens", bytes(&tokens));
    tokens
}

/// Options, and the level whose bits the program must have.
fn options() -> [(&'static [&'static str], Level); 5] {
    let (best, plain) = (Level::best(), Level::PLAIN);
    [
        (&["-O2", "-march=native"], best),
        (&["-O1", "-march=native", "-DLSTMC_NO_VECTORS"], best),
        (&["-O2"], plain),
        (&["-O3", "-march=native"], best),
        (&["-O2", "-DLSTMC_NO_VECTORS"], plain),
    ]
}

/// Every kind of recurrent layer and of step, every representation, learned states and hidden vectors.
#[test]
fn c_of_every_kind_of_layer_and_the_jit_agree() {
    if !Machine::Here.is_there() {
        return;
    }
    let sandbox = Sandbox::new();
    let tokens = tokens(&sandbox);
    let clang = Compiler { cc: "clang", ..CC };
    let compilers = if clang.is_there() { vec![CC, CC, clang] } else { vec![CC] };
    for (n, kind) in Recurrence::general().into_iter().enumerate() {
        let head = if n % 4 == 3 { Head::Hidden } else { Head::Logits };
        let source = mixed(&kind, head, n as u64);
        let name = format!("{n}.lstmc");
        source.write(sandbox.path(&name)).unwrap();
        // Weights lie as another architecture has them, at times.
        let machine = if n % 3 == 1 { Machine::Arm64 } else { Machine::Here };
        write_c(&sandbox, &name, machine.triple(), &n.to_string());
        let (options, level) = options()[n % options().len()];
        let compiler = compilers[n % compilers.len()];
        let output = compiler.logits(&sandbox, &n.to_string(), options);
        assert_eq!(output, jit(&source, level, &tokens), "{kind:?}, {} {options:?}", compiler.cc);
    }
}

/// The bundled model, which has whole panels and long loops, with products of bytes by every kind of instruction that is here.
#[test]
fn c_of_products_of_bytes_and_the_jit_agree() {
    if !Machine::Here.is_there() {
        return;
    }
    let sandbox = Sandbox::new();
    let tokens: Vec<u32> = (0..TOKENS as u32).map(|i| i * 7).collect();
    sandbox.file("tokens", bytes(&tokens));
    for (name, passes) in [
        ("int8", "quantize(bits=8, method=nearest)"),
        ("int4", "quantize(bits=4, group=40, method=nearest)"),
        ("int2", "quantize(bits=2, group=40, method=nearest)"),
    ] {
        let source = model(&sandbox, name, passes);
        // Products in pairs, which neither a vector of the newest processors nor one of the oldest has, in 16 and in 32 bytes.
        let narrow = (&["-O2", "-mssse3"][..], Level::PLAIN);
        let wide = "avx2".parse().ok().map(|level| (&["-O2", "-march=x86-64-v3"][..], level));
        let pairs = [narrow].into_iter().chain(wide);
        for (machine, count) in [(Machine::Here, 3), (Machine::Arm64, 1)] {
            write_c(&sandbox, &format!("{name}.lstmc"), machine.triple(), name);
            for (options, level) in options().into_iter().take(count).chain(pairs.clone()) {
                let output = CC.logits(&sandbox, name, options);
                assert_eq!(output, jit(&source, level, &tokens), "{name}, {machine:?}, {options:?}");
            }
        }
    }
}

/// Mistakes have their status, and the C is free of what its standard leaves undefined.
#[test]
fn c_under_sanitizers() {
    if !Machine::Here.is_there() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.tiny();
    write_c(&sandbox, "tiny.lstmc", Machine::Here.triple(), "checked");
    let sanitize = "-fsanitize=address,undefined";
    sandbox.file("empty.c", "int main(void) { return 0; }");
    let mut cc = Command::new(CC.cc);
    cc.args([sanitize, "-o"]).arg(sandbox.path("empty")).arg(sandbox.path("empty.c"));
    if !cc.output().is_ok_and(|o| o.status.success()) {
        skipped("AddressSanitizer is not here");
        return;
    }
    for vectors in [&[][..], &["-DLSTMC_NO_VECTORS"]] {
        let options = [&["-O1", sanitize, "-fno-sanitize-recover=all"], vectors].concat();
        let program = CC.program(&sandbox, "check", "checked", &options);
        done(&mut Command::new(program));
    }
}

/// The same file on other processors, in emulation.
#[test]
fn c_on_other_processors_and_the_jit_agree() {
    let sandbox = Sandbox::new();
    let tokens = tokens(&sandbox);
    let source = mixed(&Recurrence::general()[0], Head::Logits, 3);
    source.write(sandbox.path("lm.lstmc")).unwrap();
    write_c(&sandbox, "lm.lstmc", Machine::Arm64.triple(), "lm");
    let machines: [(&str, &str, &[&str], bool); 5] = [
        ("aarch64-linux-gnu-gcc", "qemu-aarch64", &["-O2"], true),
        ("aarch64-linux-gnu-gcc", "qemu-aarch64", &["-O2", "-march=armv8.2-a+dotprod"], true),
        ("arm-linux-gnueabihf-gcc", "qemu-arm", &["-O1"], false),
        ("arm-linux-gnueabihf-gcc", "qemu-arm", &["-O2", "-mfpu=neon"], false),
        ("riscv64-linux-gnu-gcc", "qemu-riscv64", &["-O1"], true),
    ];
    let best = Level::best();
    for (cc, emulator, options, fuses) in machines {
        let compiler = Compiler { cc, emulator: Some(emulator) };
        if !compiler.is_there() {
            continue;
        }
        let output = compiler.logits(&sandbox, "lm", options);
        if !fuses || is_fusing(best) {
            let level = if fuses { best } else { Level::PLAIN };
            assert_eq!(output, jit(&source, level, &tokens), "{cc} {options:?}");
        }
    }
}
