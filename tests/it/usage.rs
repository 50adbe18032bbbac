//! Commands that are called in a wrong way: exit code 2, and what would be right.

use crate::program::{Sandbox, TINY, TINY_WORDS};
use insta::assert_snapshot;
use lstmc::backend::Level;

/// Runs commands which must all be refused; what they print is one snapshot.
fn refused(commands: &[&[&str]]) -> String {
    let sandbox = Sandbox::new();
    commands.iter().map(|args| sandbox.refused(args)).collect()
}

#[test]
fn arguments() {
    assert_snapshot!(refused(&[
        &["frobnicate"],
        &["compile"],
        &["compile", TINY],
        &["compile", TINY, "--passes", "canonicalize", "--recipe", "recipe.toml", "-o", "[dir]/out.lstmc"],
        &["compile", TINY, "--print", "llvm"],
        &["compile", TINY, "--print-ir", "before"],
        &["compile", TINY, "--print-ir", "after=prune"],
        &["build", TINY, "-o", "[dir]/out"],
        &["build", TINY, "--name", "2fast", "-o", "[dir]/out"],
        &["build", TINY, "--name", "a", "--target", "s390x-unknown-linux-gnu", "-o", "[dir]/out"],
        &["build", TINY, "--name", "a", "--cpu", "turbo", "-o", "[dir]/out"],
        &["build", TINY, "--name", "a", "--emit", "dll", "-o", "[dir]/out"],
        &["eval", TINY],
        &["eval", TINY, "--text", "x", "--engine", "gpu"],
        &["inspect", TINY, "--ir", "--json"],
        &["bench", TINY, "--rounds", "0"],
        &["bench", TINY, "--plot", "[dir]/a.svg"],
        &["bench", TINY, "--roofline", "--threads", "2"],
        &["verify"],
    ]));
}

/// Levels that there are not, and those that this machine does not have, whichever they are.
#[test]
fn processor_levels() {
    let sandbox = Sandbox::new();
    let error = |name: &str| {
        let given = sandbox.refused(&["bench", TINY, "--cpu", name]);
        let variable = sandbox.command(&["bench", TINY]).env("LSTMC_CPU", name).output().unwrap();
        let variable = sandbox.outcome(variable);
        assert_eq!(variable.code, Some(2), "{}", variable.stderr);
        assert!(given.trim_end().ends_with(variable.stderr.trim_end()), "{given}{}", variable.stderr);
        given
    };
    let unknown = error("avx9");
    assert!(
        unknown.contains("exit 2") && unknown.contains("there is no processor level `avx9`"),
        "{unknown}"
    );
    for (name, _, level) in Level::known() {
        match level {
            Ok(_) => {
                assert_eq!(sandbox.json(&["bench", TINY, "--rounds", "1", "--cpu", name])["level"], name)
            }
            Err(_) => {
                let missing = error(name);
                let have = Level::all().into_iter().map(Level::name).collect::<Vec<_>>().join(", ");
                assert!(
                    missing.contains("exit 2") && missing.contains(&format!("it has {have}")),
                    "{missing}"
                );
            }
        }
    }
    let listed = sandbox.json(&["cpu"]);
    assert_eq!(listed["best"], Level::best().name());
    assert_eq!(listed["levels"].as_array().unwrap().len(), Level::known().count());
    assert!(sandbox.ok(&["cpu"]).contains("yes, the best one: the default"));
}

#[test]
fn passes() {
    let compile = |passes| ["compile", TINY, "--passes", passes, "-o", "[dir]/out.lstmc"];
    let all: Vec<[&str; 6]> = [
        "",
        "prume",
        "canonicalize, prume(sparsity=0.5)",
        "canonicalize(speed=fast)",
        "decode(speed=fast)",
        "decode(target=)",
        "decode(target=lstm*",
        "decode(target=a, target=b)",
        "canonicalize,,decode",
        "canonicalize; decode",
        "decode(target=layer7.*)",
    ]
    .into_iter()
    .map(compile)
    .collect();
    assert_snapshot!(refused(&all.iter().map(|c| &c[..]).collect::<Vec<_>>()));
}

#[test]
fn recipes() {
    let sandbox = Sandbox::new();
    let recipes = [
        ("not-toml", "passes = [\n"),
        ("empty", ""),
        ("unknown-key", "speed = \"fast\"\n"),
        ("no-name", "[[pass]]\ntarget = \"decoder\"\n"),
        ("unknown-pass", "[[pass]]\nname = \"prume\"\n"),
        ("unknown-option", "[[pass]]\nname = \"decode\"\nspeed = 1\n"),
        ("wrong-type", "[[pass]]\nname = \"decode\"\ntarget = 1.5\n"),
    ];
    let mut all = String::new();
    for (name, text) in recipes {
        sandbox.file(&format!("{name}.toml"), text);
        let recipe = format!("[dir]/{name}.toml");
        all += &sandbox.refused(&["compile", TINY, "--recipe", &recipe, "-o", "[dir]/out.lstmc"]);
    }
    all += &sandbox.refused(&["compile", TINY, "--recipe", "[dir]/missing.toml", "-o", "[dir]/out.lstmc"]);
    assert_snapshot!(all);
}

#[test]
fn prompts() {
    let suggest = ["suggest", TINY, "--vocab", TINY_WORDS, "--prompt"];
    let generate = ["generate", TINY, "--vocab", TINY_WORDS];
    let with = |args: &[&'static str], more: &[&'static str]| [args, more].concat();
    let all = [
        with(&suggest, &["the", "-k", "0"]),
        with(&suggest, &["the", "-k", "-1"]),
        with(&suggest, &["the", "-k", "99999999999"]),
        vec!["suggest", TINY, "--prompt", "the"],
        with(&generate, &["--temperature", "NaN"]),
        with(&generate, &["--temperature=-1"]),
        with(&generate, &["--temperature", "inf"]),
        with(&generate, &["--temperature", "warm"]),
        with(&generate, &["--top-k", "0"]),
        with(&generate, &["--seed=-1"]),
    ];
    assert_snapshot!(refused(&all.iter().map(|c| &c[..]).collect::<Vec<_>>()));
}

/// An empty prompt is the beginning of a sentence where the vocabulary has `<eos>`, and nothing where it has not.
#[test]
fn empty_prompts() {
    let sandbox = Sandbox::new();
    let words = std::fs::read_to_string(crate::program::root().join(TINY_WORDS)).unwrap();
    sandbox.file("no-eos.txt", words.replace("<eos>", "zebra"));
    for prompt in ["", " \t "] {
        let found = sandbox.json(&["suggest", TINY, "--vocab", TINY_WORDS, "--prompt", prompt]);
        assert_eq!(found.as_array().unwrap().len(), 5);
    }
    let mut all = sandbox.refused(&["suggest", TINY, "--vocab", "[dir]/no-eos.txt", "--prompt", ""]);
    all += &sandbox.refused(&["generate", TINY, "--vocab", "[dir]/no-eos.txt"]);
    assert_snapshot!(all);
}

#[test]
fn graphs_as_text() {
    let sandbox = Sandbox::new();
    sandbox.file("empty.ir", "");
    sandbox.file("words.ir", "the cat sat on the mat\n");
    sandbox.file("latin1.ir", b"model \"caf\xe9\" {\n");
    sandbox.file("cut.ir", "model \"m\" {\n  %x: f32[S, B, 8] = input\n  %y: f32[S, B, 8] = tanh %z\n");
    sandbox.file("huge.ir", "model \"m\" {\n  return\n}\n@w: f32[4294967296, 4294967296] random 1\n");
    sandbox.file(
        "deep.ir",
        format!("model \"m\" {{\n  return\n}}\n@w: {}", "low_rank[4, 4] rank 1 { left: ".repeat(50_000)),
    );
    sandbox.file("elided.ir", sandbox.ok(&["opt", "testdata/passes/decode.ir"]));
    let mut all = String::new();
    for name in ["empty", "words", "latin1", "cut", "huge", "deep", "missing"] {
        let found = sandbox.refused(&["opt", &format!("[dir]/{name}.ir")]);
        assert!(found.len() < 2000, "{found}");
        all += &found;
    }
    // The pass needs data that the text does not give.
    all += &sandbox.refused(&["opt", "[dir]/elided.ir", "--passes", "decode(target=lstm0.input)"]);
    assert_snapshot!(all);
}
