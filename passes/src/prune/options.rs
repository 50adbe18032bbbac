//! The options of `prune`.

use super::{Competition, Method, Prune, gradual};
use crate::info::PassInfo;
use crate::options::{Kind, OptionInfo, Options};
use crate::pass::PassError;
use crate::sites::{DAMPING_OPTION, REFIT_OPTION};
use crate::solve::Hessian;
use crate::solve::prune::{Pattern, Score};

/// The pass table's line.
pub(crate) const INFO: PassInfo = PassInfo {
    name: "prune",
    summary: "set weights to zero, store the others and re-solve them",
    options: &[
        OptionInfo::target("the weights, by name"),
        OptionInfo::new(
            "sparsity",
            Kind::FRACTION,
            "the fraction of weights to remove; required without pattern",
        ),
        OptionInfo::new("block", Kind::Sizes, "keep or drop blocks of outputs times inputs: 1x16"),
        OptionInfo::new("pattern", Kind::NOfM, "keep n of every m consecutive inputs: 2:4"),
        OptionInfo::new(
            "method",
            Kind::Word(&["alternate", "magnitude", "wanda", "obs", "sparsegpt"]),
            "how the mask is chosen",
        )
        .or("alternate"),
        OptionInfo::new(
            "scope",
            Kind::Word(&["global", "layer", "row"]),
            "which weights compete: of all layers, of each layer, of each row",
        )
        .or("global"),
        OptionInfo::new("resolve", Kind::Flag, "re-solve the weights that are kept").or("true"),
        OptionInfo::new(
            "softmax-aware",
            Kind::Flag,
            "weigh rows of the output layer by how much the loss minds their errors",
        )
        .or("true"),
        OptionInfo::new("bias-correction", Kind::Flag, "move biases so that mean outputs stay").or("true"),
        REFIT_OPTION,
        DAMPING_OPTION.or_number(Hessian::DAMPING),
        OptionInfo::new(
            "steps",
            Kind::Integer { min: 1, max: 100 },
            "prune in so many steps, with training after each; needs recover",
        ),
        OptionInfo::new(
            "recover",
            Kind::Number { min: 0.0, max: 1000.0 },
            "the epochs of training after each step",
        ),
    ],
    lossy: true,
    recovers: false,
    needs_calibration: |options| options.get::<&str>("method") != "magnitude" || options.get("resolve"),
    make: gradual::make,
};

impl Prune {
    pub(super) fn new(options: &Options) -> Result<Prune, PassError> {
        let wrong = |text: &str| Err(PassError::Options(text.into()));
        let (sparsity, n_of_m): (Option<f64>, _) = (options.given("sparsity"), options.given("pattern"));
        let pattern = match (options.given::<Vec<usize>>("block").as_deref(), n_of_m) {
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
        let resolves: bool = options.get("resolve");
        let method = match options.get("method") {
            "magnitude" => Method::Score(Score::Magnitude),
            "wanda" => Method::Score(Score::Activation),
            "obs" => Method::Score(Score::Obs),
            "sparsegpt" => Method::SparseGpt,
            _ => Method::Alternate,
        };
        if method == Method::Alternate && !resolves {
            return wrong(
                "method=alternate solves for mask and weights at once; resolve=false needs another method",
            );
        }
        let competition = match options.get("scope") {
            "layer" => Competition::Layer,
            "row" => Competition::Row,
            _ => Competition::Global,
        };
        Ok(Prune {
            target: options.get("target"),
            density: sparsity.map(|s| 1.0 - s),
            pattern,
            method,
            competition,
            resolves,
            softmax_aware: options.get("softmax-aware"),
            bias_correction: options.get("bias-correction"),
            refit_rounds: options.get("refit-rounds"),
            damping: options.get("damping"),
        })
    }
}
