//! The options of `prune`.

use super::{Competition, Method, Prune, gradual};
use crate::options::{Kind, OptionInfo, Options, Presence};
use crate::pass::PassError;
use crate::registry::PassInfo;
use crate::solve::Hessian;
use crate::solve::prune::{Pattern, Score};
use crate::target::Target;

const fn option(name: &'static str, kind: Kind, presence: Presence, doc: &'static str) -> OptionInfo {
    OptionInfo { name, kind, presence, doc }
}

/// The pass table's line.
pub(crate) const INFO: PassInfo = PassInfo {
    name: "prune",
    summary: "set weights to zero, store the others and re-solve them",
    options: &[
        option("target", Kind::Target, Presence::Default("*"), "the weights, by name"),
        option(
            "sparsity",
            Kind::Number { min: 0.0, max: 1.0 },
            Presence::Optional,
            "the fraction of weights that go; required without pattern",
        ),
        option("block", Kind::Sizes, Presence::Optional, "keep or drop blocks of outputs times inputs: 1x16"),
        option("pattern", Kind::NOfM, Presence::Optional, "keep n of every m consecutive inputs: 2:4"),
        option(
            "method",
            Kind::Word(&["alternate", "magnitude", "wanda", "obs", "sparsegpt"]),
            Presence::Default("alternate"),
            "how the mask is chosen",
        ),
        option(
            "scope",
            Kind::Word(&["global", "layer", "row"]),
            Presence::Default("global"),
            "which weights compete: of all layers, of each layer, of each row",
        ),
        option("resolve", Kind::Flag, Presence::Default("true"), "re-solve the weights that are kept"),
        option(
            "softmax-aware",
            Kind::Flag,
            Presence::Default("true"),
            "weigh rows of the output layer by how much the loss minds their errors",
        ),
        option(
            "bias-correction",
            Kind::Flag,
            Presence::Default("true"),
            "move biases so that mean outputs stay",
        ),
        option(
            "refit-rounds",
            Kind::Integer { min: 0, max: 100 },
            Presence::Default("2"),
            "rounds of refitting the output layer's bias to the words' mean probabilities; needs the text",
        ),
        option(
            "damping",
            Kind::Number { min: 0.0, max: 10.0 },
            Presence::Default("0.01"),
            "added to the diagonal of the inputs' second moment, relative to its mean",
        ),
        option(
            "steps",
            Kind::Integer { min: 1, max: 100 },
            Presence::Optional,
            "prune in so many steps, with training after each; needs recover",
        ),
        option(
            "recover",
            Kind::Number { min: 0.0, max: 1000.0 },
            Presence::Optional,
            "the epochs of training after each step",
        ),
    ],
    lossy: true,
    recovers: false,
    needs_calibration: |options| options.word("method") != Some("magnitude") || options.flag("resolve"),
    make: gradual::make,
};

impl Prune {
    pub(super) fn new(options: &Options) -> Result<Prune, PassError> {
        let wrong = |text: &str| Err(PassError::Options(text.into()));
        let (sparsity, block, n_of_m) =
            (options.number("sparsity"), options.sizes("block"), options.n_of_m("pattern"));
        let pattern = match (block, n_of_m) {
            (None, None) => Pattern::UNSTRUCTURED,
            (None, Some((n, m))) => Pattern::NOfM { n, m },
            (Some(&[rows, cols]), None) => Pattern::Block { rows, cols },
            (Some(_), None) => return wrong("block: expected two sizes, outputs times inputs, such as 1x16"),
            (Some(_), Some(_)) => return wrong("block and pattern are two patterns; give one of them"),
        };
        match (sparsity, n_of_m) {
            (None, None) => return wrong("give sparsity=0.8 or the like, or pattern=2:4 or the like"),
            (Some(_), Some((n, m))) => {
                let text = format!("sparsity and pattern={n}:{m} say two things; give one of them");
                return Err(PassError::Options(text));
            }
            (Some(1.0), None) => return wrong("sparsity=1 leaves nothing"),
            _ => {}
        }
        let method = match options.word("method") {
            Some("magnitude") => Method::Score(Score::Magnitude),
            Some("wanda") => Method::Score(Score::Activation),
            Some("obs") => Method::Score(Score::Obs),
            Some("sparsegpt") => Method::SparseGpt,
            _ => Method::Alternate,
        };
        if method == Method::Alternate && !options.flag("resolve") {
            return wrong(
                "method=alternate solves for mask and weights at once; resolve=false needs another method",
            );
        }
        let competition = match options.word("scope") {
            Some("layer") => Competition::Layer,
            Some("row") => Competition::Row,
            _ => Competition::Global,
        };
        Ok(Prune {
            target: options.target("target").unwrap_or(Target::new("*")),
            density: sparsity.map(|s| 1.0 - s),
            pattern,
            method,
            competition,
            resolves: options.flag("resolve"),
            softmax_aware: options.flag("softmax-aware"),
            bias_correction: options.flag("bias-correction"),
            refit_rounds: options.size("refit-rounds").unwrap_or(0),
            damping: options.number("damping").unwrap_or(Hessian::DAMPING),
        })
    }
}
