//! `recover`: trains the compressed model.
//!
//! *Lossy*, but it improves the model: gradient descent on the cross-entropy of a training text, in the weights' own representation. Masks do not
//! change, factors and cores are trained as such, and shared parts stay shared. The two factors of a map are first rescaled to similar size, which
//! does not change their product: descent on a product is slow if one factor is much larger than the other.
//!
//! ```text
//!   loss(window) = mean over streams of sum over steps of -log p(next word)           (Zaremba et al. 2014, code)
//!   with distill = m:   (1 - m) -log p(next word) + m sum_w -q(w) log p(w)            q: the teacher
//!   with rate-penalty = r:   + r sum over codes of ln(0.3 + |t|)                      t: the number that is rounded to a code
//!   g <- g min(1, clip / |g|)                                                         (Pascanu et al. 2013, algorithm 1)
//!   sgd:    w <- (1 - rate decay) w - rate g
//!   adamw:  w <- (1 - rate decay) w - rate m' / (sqrt(v') + 1e-8)                     (Loshchilov and Hutter 2019, algorithm 2)
//! ```
//!
//! The text is cut into `batch` streams that are read in parallel in windows of `bptt` steps; state is carried from window to window,
//! but gradients are not (truncated back-propagation, Williams and Peng 1990).
//!
//! Codes are trained straight through (Bengio et al. 2013): a number is rounded to a code in the forward pass, and gets its gradient as if it were
//! not rounded. The numbers are in units of the weights, or of steps with `adamw` where columns have factors. Scales and factors of columns are trained too (LSQ,
//! Esser et al. 2020), or alone with `codes=keep`; zero points do not change. `weights::codes` has the formulas.
//! Products take their vectors as f32 here, even if codes say `activations int8`; perplexity is measured with int8.
//!
//! The text is `Context::training`, the command line's `--train`: it is much longer than a pipeline and belongs to the run, like the calibration
//! and the validation text. Every `recover` of a pipeline reads the same text.
//!
//! The teacher is the model before the first pass that compresses (trained, if a `recover` came first), or `Context::teacher`, the command line's `--teacher`.
//!
//! Perplexity on the validation text is measured four times per epoch, and the best weights are kept (the initial ones included); without that text,
//! the last. With `average` the mean of the weights over the last part of the run competes with them. A run that diverges stops with the best so
//! far, and so does one that is interrupted ([`Context::interrupt`]). With a [`Checkpoint`] it is resumable, with bit-identical results. The same
//! seed gives the same weights on the same machine.
//!
//! `refit` is this pass with the output layer as its target and the whole loss from the original model.

mod cell;
mod dropout;
pub(crate) mod fisher;
mod formula;
mod loss;
mod network;
mod number;
mod optimizer;
pub(crate) mod reading;
mod run;
mod shard;
#[cfg(test)]
pub(crate) mod tests;
mod text;
mod train_contraction;
mod weights;

use crate::info::PassInfo;
use crate::options::{Kind, OptionInfo, Options};
use crate::pass::{Context, Outcome, Pass, PassError, Patch};
use crate::target::Target;
use dropout::Drops;
use lstmc_frontend::ir::{Graph, Head, Program, StepKind};
use network::Network;
use optimizer::{Method, Schedule};
use run::{Job, Plan, digest};
use text::Text;
use weights::{Coding, Units};

/// The optimizers' default rates.
const SGD_RATE: f64 = 0.3;
const ADAMW_RATE: f64 = 0.001;

const fn number(name: &'static str, max: f64, doc: &'static str) -> OptionInfo {
    OptionInfo::new(name, Kind::Number { min: 0.0, max }, doc)
}

const fn count(name: &'static str, doc: &'static str) -> OptionInfo {
    OptionInfo::new(name, Kind::Integer { min: 1, max: 1 << 20 }, doc)
}

/// The pass table's line.
pub(crate) const INFO: PassInfo = PassInfo {
    name: "recover",
    summary: "train the compressed model on a text",
    options: &[
        OptionInfo::target("the weights that are trained, by name; biases too"),
        number("epochs", 1000.0, "times that the text is read; may be a fraction").or("1"),
        number("lr", 1000.0, "the learning rate; 0.3 with sgd and 0.001 with adamw where it is not given"),
        OptionInfo::new(
            "schedule",
            Kind::Word(&["linear", "cosine", "step", "constant"]),
            "how the learning rate falls, or that it stays",
        )
        .or("linear"),
        OptionInfo::new("optimizer", Kind::Word(&["sgd", "adamw"]), "how weights follow their gradients")
            .or("sgd"),
        count("batch", "streams that are read side by side").or("20"),
        count("bptt", "steps that gradients go back").or("20"),
        number("clip", f64::MAX, "the greatest norm of the gradient").or("5"),
        number("dropout", 0.95, "the fraction of the inputs of lstm and linear layers that is left out")
            .or("0"),
        OptionInfo::new(
            "variational",
            Kind::Flag,
            "whether a stream's dropout is the same at all steps of a window",
        )
        .or("false"),
        number(
            "recurrent-dropout",
            0.95,
            "the fraction of what recurrent maps read that is left out, the same at all steps of a window",
        )
        .or("0"),
        number("word-dropout", 0.95, "the fraction of a window's words whose embedding is left out").or("0"),
        number("distill", 1.0, "the part of the loss that the teacher sets").or("0"),
        OptionInfo::new(
            "teacher",
            Kind::Word(&["before", "given"]),
            "the model before compression, or that of --teacher",
        )
        .or("before"),
        number("decay", 1.0, "weight decay, relative to the learning rate").or("0"),
        number("average", 1.0, "the last fraction of the run whose weights are averaged").or("0"),
        OptionInfo::new("codes", Kind::Word(&["train", "keep"]), "whether codes are trained").or("train"),
        OptionInfo::new(
            "factors",
            Kind::Word(&["train", "keep"]),
            "whether scales and factors of columns are trained",
        )
        .or("train"),
        OptionInfo::new(
            "dead-zone",
            Kind::Number { min: 0.5, max: 0.95 },
            "the fraction of a step from which on magnitudes of codes are rounded up",
        )
        .or("0.5"),
        number("rate-penalty", f64::MAX, "what the logarithm of a code's magnitude adds to the loss").or("0"),
        OptionInfo::new("seed", Kind::Integer { min: 0, max: i64::MAX }, "of the random choices of dropout")
            .or("1"),
    ],
    lossy: true,
    recovers: true,
    needs_calibration: |_| false,
    make: |options| Ok(Box::new(Recover::new("recover", options)?)),
};

/// The pass table's line of `refit`: [`INFO`] for the output layer only, towards the model before compression. Nothing before that layer is trained,
/// so no gradients go through the lstms, and the loss is convex if the layer is one matrix.
pub(crate) const REFIT: PassInfo = PassInfo {
    name: "refit",
    summary: "fit the output layer to what the model before compression says of a text",
    options: &[
        OptionInfo::new(
            "target",
            Kind::Target,
            "the weights that are fitted, by name; those of the output layer where it is not given",
        ),
        number("epochs", 1000.0, "times that the text is read; may be a fraction").or("0.25"),
        number("lr", 1000.0, "the learning rate of descent, which falls linearly to 0").or("0.3"),
        number("distill", 1.0, "the part of the loss that the model before compression sets").or("1"),
    ],
    lossy: true,
    recovers: true,
    needs_calibration: |_| false,
    make: |options| Ok(Box::new(Recover::new("refit", options)?)),
};

struct Recover {
    name: &'static str,
    /// `None` means the output layer.
    target: Option<Target>,
    plan: Plan,
    /// Whether the teacher is another model than that before compression.
    is_teacher_given: bool,
    /// All options, including defaults.
    options: String,
}

impl Recover {
    fn new(name: &'static str, options: &Options) -> Result<Recover, PassError> {
        // Options that `refit` does not have are as in `recover`.
        let all = options.clone().over(&Options::new(INFO.options, &[]));
        let method = if all.get::<&str>("optimizer") == "adamw" { Method::AdamW } else { Method::Sgd };
        let usual = if method == Method::AdamW { ADAMW_RATE } else { SGD_RATE };
        let trains_codes = all.get::<&str>("codes") == "train";
        let plan = Plan {
            epochs: all.get("epochs"),
            rate: all.given("lr").unwrap_or(usual),
            bptt: all.get("bptt"),
            batch: all.get("batch"),
            drops: Drops {
                inputs: all.get("dropout"),
                is_variational: all.get("variational"),
                recurrent: all.get("recurrent-dropout"),
                words: all.get("word-dropout"),
            },
            coding: Coding {
                codes: trains_codes,
                factors: all.get::<&str>("factors") == "train",
                // Adam's steps are of one size for all parameters; steps of codes are not.
                units: match method {
                    _ if !trains_codes => Units::Steps,
                    Method::AdamW => Units::StepsOfColumns,
                    Method::Sgd => Units::Weights,
                },
                dead_zone: all.get("dead-zone"),
                rate_penalty: all.get("rate-penalty"),
            },
            clip: all.get("clip"),
            method,
            schedule: match all.get("schedule") {
                "cosine" => Schedule::Cosine,
                "step" => Schedule::Step,
                "constant" => Schedule::Constant,
                _ => Schedule::Linear,
            },
            decay: all.get("decay"),
            distill: all.get("distill"),
            average: all.get("average"),
            seed: all.get::<usize>("seed") as u64,
        };
        for (name, value) in [("epochs", plan.epochs), ("lr", plan.rate), ("clip", plan.clip)] {
            if value <= 0.0 {
                return Err(PassError::Options(format!("{name}={value}: it must be more than 0")));
            }
        }
        let is_teacher_given = all.get::<&str>("teacher") == "given";
        if is_teacher_given && plan.distill == 0.0 {
            let why = "teacher=given has no effect without distill, the part of the loss that it sets";
            return Err(PassError::Options(why.into()));
        }
        let (target, options) = (options.given("target"), options.to_string());
        Ok(Recover { name, target, plan, is_teacher_given, options })
    }
}

impl Recover {
    /// The model that sets a part of the loss.
    fn teacher<'c>(
        &self,
        vocabulary: usize,
        context: &'c Context<'_>,
    ) -> Result<Option<&'c Graph>, PassError> {
        if self.plan.distill == 0.0 {
            return Ok(None);
        }
        if !self.is_teacher_given {
            return Ok(context.reference.as_ref());
        }
        let teacher = context.teacher.ok_or(PassError::NeedsTeacher)?;
        let program = Program::of(teacher)?;
        if program.head() == Head::Hidden {
            let why = "the teacher returns a hidden vector instead of the probabilities of words";
            return Err(PassError::Options(why.into()));
        }
        if program.vocabulary() != vocabulary {
            let found = program.vocabulary();
            let why =
                format!("the teacher has {found} words, and the model {vocabulary}: they must be the same");
            return Err(PassError::Options(why));
        }
        Ok(Some(teacher))
    }
}

impl Pass for Recover {
    fn run(&self, graph: &Graph, context: &mut Context<'_>) -> Result<Outcome, PassError> {
        let program = Program::of(graph)?;
        if program.head() == Head::Hidden {
            let why = "the model returns a hidden vector, and training needs the probabilities of words";
            return Err(PassError::Options(format!("{}: {why}", self.name)));
        }
        let vocabulary = program.vocabulary();
        let target = match &self.target {
            Some(target) => target.clone(),
            None => output_layer(graph)?,
        };
        target.weights(graph)?;
        let tokens = context.training.ok_or(PassError::NeedsTraining)?;
        let text = Text::new(tokens, &self.plan, vocabulary)?;
        let mut network = Network::with_codes(graph, Some(&target), self.plan.coding)?;
        network.weights.balance();
        let teacher = self.teacher(vocabulary, context)?;
        let taught_by = teacher.map_or("none".into(), digest);
        let teacher = teacher.map(|t| Network::new(t, None)).transpose()?;
        let (name, plan) = (self.name, &self.plan);
        let job = Job { name, graph, teacher: teacher.as_ref(), taught_by, text, plan };
        let found = job.run(&mut network, &self.options, context)?;
        Ok(match found.maps {
            Some(maps) => Outcome::Patch(Patch::weights(maps).with_notes(found.notes)),
            None => Outcome::NoEffect(found.notes.join("; ")),
        })
    }
}

/// The weights of the layer that computes logits.
fn output_layer(graph: &Graph) -> Result<Target, PassError> {
    let program = Program::of(graph)?;
    let mut products = program.steps().filter(|(_, s)| matches!(s.kind, StepKind::Apply(_)));
    let last = program.decoder().or(products.next_back().map(|(id, _)| id));
    let weights = last.into_iter().flat_map(|id| match &program.step(id).kind {
        StepKind::Apply(a) => a.terms.iter().map(|(_, w)| *w).chain(a.bias).collect(),
        _ => vec![],
    });
    let names: Vec<&str> = weights.map(|id| graph.weight(id).name.as_str()).collect();
    Ok(Target::new(names.join("|")))
}
