//! Gradual pruning: reaches the sparsity in steps, each followed by training that recovers its loss.
//!
//! ```text
//!   s_k = s (1 - (1 - k / n)^3)   for k = 1..n: large steps at first, small ones at the end   (Zhu and Gupta 2017, equation 1)
//! ```

use super::Prune;
use crate::options::{Options, Value};
use crate::pass::{Context, Outcome, Pass, PassError, Patch};
use crate::recover;
use lstmc_frontend::ir::Graph;

/// Passes combined into one: each works on the result of those before.
struct Gradual(Vec<Box<dyn Pass>>);

/// Prunes at once, or in `steps` if given.
pub(super) fn make(options: &Options) -> Result<Box<dyn Pass>, PassError> {
    let at_once = Prune::new(options)?;
    let (steps, epochs) = match (options.given::<usize>("steps"), options.given("recover")) {
        (None, None) => return Ok(Box::new(at_once)),
        (Some(steps), Some(epochs)) => (steps, epochs),
        _ => return Err(PassError::Options("steps and recover go together: give both or none".into())),
    };
    let Some(sparsity) = options.given::<f64>("sparsity") else {
        return Err(PassError::Options("steps needs a sparsity to go to; a pattern says its own".into()));
    };
    let training = Options::new(recover::INFO.options, &[("epochs", Value::Number(epochs))]);
    let mut passes: Vec<Box<dyn Pass>> = vec![];
    for k in 1..=steps {
        let left = 1.0 - k as f64 / steps as f64;
        let step = options.clone().with("sparsity", Value::Number(sparsity * (1.0 - left.powi(3))));
        passes.push(Box::new(Prune::new(&step)?));
        passes.push((recover::INFO.make)(&training)?);
    }
    Ok(Box::new(Gradual(passes)))
}

impl Pass for Gradual {
    fn run(&self, graph: &Graph, context: &mut Context<'_>) -> Result<Outcome, PassError> {
        if context.training.is_none() {
            return Err(PassError::NeedsTraining);
        }
        let (mut now, mut notes) = (graph.clone(), vec![]);
        for pass in &self.0 {
            match pass.run(&now, context)? {
                Outcome::Patch(patch) => {
                    notes.extend_from_slice(&patch.notes);
                    now = patch.apply(&now).expect("maps have the shapes of those that they replace");
                    // The next step's statistics are of the model as trained.
                    if let Some(calibration) = &mut context.calibration {
                        calibration.refer_to_trained(&now);
                    }
                }
                Outcome::NoEffect(why) => notes.push(why),
            }
        }
        let changed = now.weights().filter(|(id, w)| w.map != graph.weight(*id).map);
        let weights: Vec<_> = changed.map(|(id, w)| (id, w.map.clone())).collect();
        Ok(match weights.is_empty() {
            true => Outcome::NoEffect(notes.join("; ")),
            false => Outcome::Patch(Patch::weights(weights).with_notes(notes)),
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::recover::tests::{WORDS, recovered};
    use lstmc_frontend::ir::LinearMap;
    use lstmc_frontend::ir::arbitrary::language_model;

    fn pruned(passes: &str) -> crate::Run {
        recovered(passes, language_model(12, 1, WORDS, 1), true).unwrap()
    }

    /// In three steps to 70%, the note of each step says how much is left, and the mask of a step is within that of the one before.
    #[test]
    fn sparsity_follows_the_cubic_schedule() {
        let run = pruned(
            "prune(target=lstm0.recurrent, sparsity=0.7, method=magnitude, resolve=false, bias-correction=false, steps=3, recover=1)",
        );
        let notes = &run.trail.records[0].notes;
        let kept: Vec<&str> = notes.iter().filter_map(|n| n.strip_prefix("kept: ")).collect();
        // 1 - 0.7 (1 - (2/3)^3), 1 - 0.7 (1 - (1/3)^3), 1 - 0.7, of 576.
        assert_eq!(kept, ["lstm0 50.7%", "lstm0 32.6%", "lstm0 30.0%"]);
        let id = run.graph.weight_named("lstm0.recurrent").unwrap();
        let LinearMap::Sparse(s) = &*run.graph.weight(id).map else { panic!("it is pruned") };
        let left = s.element_mask().unwrap().iter().filter(|kept| **kept).count();
        assert_eq!(left, 173);
    }

    /// A model that is trained while it is pruned is better than one that is trained afterwards for as long.
    #[test]
    fn training_on_the_way_helps() {
        let options = "sparsity=0.95, method=magnitude, resolve=false, bias-correction=false";
        let perplexity = |passes: &str| pruned(passes).trail.after().unwrap().perplexity.unwrap();
        let gradual = perplexity(&format!("prune({options}, steps=4, recover=10)"));
        let at_once = perplexity(&format!("prune({options}), recover(epochs=40)"));
        assert!(gradual < at_once, "{gradual}, {at_once}");
    }

    #[test]
    fn steps_need_training() {
        let error = |options: &str| {
            let passes = format!("prune({options})");
            let pipeline = crate::Pipeline::parse(&passes).unwrap();
            let graph = language_model(4, 1, WORDS, 1);
            crate::run(&pipeline, graph, crate::Settings::default()).unwrap_err().to_string()
        };
        assert!(error("sparsity=0.5, steps=2").ends_with("steps and recover go together: give both or none"));
        assert!(error("pattern=2:4, steps=2, recover=1").contains("steps needs a sparsity"));
        assert!(error("sparsity=0.5, steps=2, recover=1").contains("--train TEXT"));
    }
}
