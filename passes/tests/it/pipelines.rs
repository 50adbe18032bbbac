//! Pipelines as text and as recipes, and the errors in them.

use lstmc_passes::Pipeline;
use lstmc_passes::options::{Kind, OptionInfo};
use lstmc_passes::{PassError, PassInfo, Target};

const fn option(name: &'static str, kind: Kind) -> OptionInfo {
    OptionInfo::new(name, kind, "what it is")
}

const fn info(name: &'static str, options: &'static [OptionInfo]) -> PassInfo {
    PassInfo {
        name,
        summary: "a pass",
        options,
        lossy: true,
        recovers: false,
        needs_calibration: |_| false,
        make: |_| Err(PassError::Options("it does not exist".into())),
    }
}

static TABLE: &[PassInfo] = &[
    info("canonicalize", &[]),
    info(
        "low-rank",
        &[
            option("target", Kind::Target).or("*"),
            option("rank", Kind::Integer { min: 1, max: i64::MAX }).required(),
        ],
    ),
    info(
        "prune",
        &[
            option("target", Kind::Target).or("*"),
            option("sparsity", Kind::Number { min: 0.0, max: 1.0 }).required(),
            option("block", Kind::Sizes),
            option("pattern", Kind::NOfM),
            option("method", Kind::Word(&["magnitude", "wanda", "obs"])).or("obs"),
            option("resolve", Kind::Flag).or("true"),
        ],
    ),
];

#[test]
fn text_prints_back() {
    let text = "canonicalize, low-rank(target=decoder, rank=96), prune(target=lstm*|embedding, sparsity=0.8, block=1x16)";
    assert_eq!(Pipeline::parse_with(text, TABLE).unwrap().to_string(), text);
    let spaced = "canonicalize ,\n  prune( sparsity = 80% , target = \"lstm0.*\" )";
    let expected = "canonicalize, prune(sparsity=0.8, target=lstm0.*)";
    assert_eq!(Pipeline::parse_with(spaced, TABLE).unwrap().to_string(), expected);
}

/// A recipe's strings may hold anything; the text form quotes what it must.
#[test]
fn values_of_recipes_print_back_as_text() {
    for target in ["a\"b", "\\", "a\\\"", "x, (y)", "\\n", " a ", "a\nb"] {
        let toml = toml::Value::String(target.into());
        let recipe = format!("[[pass]]\nname = \"prune\"\nsparsity = 0.5\ntarget = {toml}");
        let pipeline = Pipeline::from_recipe_with(&recipe, TABLE).unwrap();
        let text = pipeline.to_string();
        let again = Pipeline::parse_with(&text, TABLE).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(again.passes[0].options(), pipeline.passes[0].options(), "{text}");
    }
    let text = r#"prune(sparsity=0.5, target="a\b\c\"d")"#;
    let read = Pipeline::parse_with(text, TABLE).unwrap().passes[0].options();
    assert_eq!(read.get::<Target>("target").to_string(), r#"a\b\c"d"#);
}

#[test]
fn recipes_are_the_same_pipelines() {
    let recipe = "description = \"small\"\n\n[[pass]]\nname = \"canonicalize\"\n\n[[pass]]\nname = \"prune\"\ntarget = \"lstm*\"\n\
                  sparsity = 0.8\nblock = \"1x16\"\nresolve = false\n";
    let pipeline = Pipeline::from_recipe_with(recipe, TABLE).unwrap();
    assert_eq!(pipeline.description.as_deref(), Some("small"));
    assert_eq!(
        pipeline.to_string(),
        "canonicalize, prune(target=lstm*, sparsity=0.8, block=1x16, resolve=false)"
    );
    assert_eq!(pipeline.to_recipe(), recipe);
}

#[test]
fn defaults_are_filled_in() {
    let pipeline = Pipeline::parse_with("prune(sparsity=1)", TABLE).unwrap();
    let options = pipeline.passes[0].options();
    assert_eq!(options.get::<&str>("method"), "obs");
    assert_eq!(options.get::<f64>("sparsity"), 1.0);
    assert_eq!(options.given::<Vec<usize>>("block"), None);
    assert!(options.get::<bool>("resolve"));
}

#[test]
fn errors_point_at_their_place() {
    let texts = [
        "",
        "canonicalise",
        "canonicalize, quantize(bits=8)",
        "canonicalize(target=*)",
        "low-rank",
        "canonicalize, low-rank(rnak=3)",
        "low-rank(rank=0)",
        "low-rank(rank=9, rank=8)",
        "prune(sparsity=1.5)",
        "prune(sparsity=0.5, method=random)",
        "prune(sparsity=0.5, block=1by16)",
        "prune(sparsity=0.5, resolve=yes)",
        "prune(sparsity=0.5",
        "prune(sparsity=)",
        "prune(sparsity 0.5)",
        "prune(target=\"lstm*)",
        "canonicalize low-rank(rank=3)",
        "canonicalize,",
        "canonicalize,\n  prune(sparsity=0.5,\n    bloc=1x16)",
        "canonicalize, größe",
    ];
    let errors: Vec<String> =
        texts.iter().map(|t| Pipeline::parse_with(t, TABLE).unwrap_err().to_string()).collect();
    insta::assert_snapshot!(errors.join("\n\n"));
}

#[test]
fn errors_in_recipes_name_the_pass() {
    let recipes = [
        "",
        "passes = 3",
        "[[pass]]\nbits = 8",
        "[[pass]]\nname = \"canonicalize\"\n[[pass]]\nname = \"pruned\"",
        "[[pass]]\nname = \"prune\"\nsparsity = \"high\"",
        "[[pass]]\nname = \"prune\"",
    ];
    let errors: Vec<String> =
        recipes.iter().map(|t| Pipeline::from_recipe_with(t, TABLE).unwrap_err().to_string()).collect();
    insta::assert_snapshot!(errors.join("\n\n"));
}
