//! Learning from a model that is given.

use super::{Interpreter, WORDS, text};
use crate::{Context, Pipeline, RunError, Settings, run};
use lstmc_frontend::ir::arbitrary::{Extras, Recurrence, language_model, recurrent_model};
use lstmc_frontend::ir::{Graph, Head, print};

fn taught(passes: &str, graph: Graph, teacher: Option<&Graph>) -> Result<crate::Run, RunError> {
    let (tokens, mut evaluator) = (text(), Interpreter(text()));
    let evaluator = Some(&mut evaluator as _);
    let context = Context { training: Some(&tokens), teacher, evaluator, ..Context::default() };
    run(&Pipeline::parse(passes).unwrap(), graph, Settings { context, ..Settings::default() })
}

/// The model before compression teaches the same if it is given, and another one something else.
#[test]
fn a_given_model_teaches() {
    let (graph, other) = (language_model(12, 1, WORDS, 1), language_model(5, 2, WORDS, 2));
    let learn = |options: &str, teacher: Option<&Graph>| {
        let passes = format!("recover(batch=4, distill=0.5{options})");
        print(&taught(&passes, graph.clone(), teacher).unwrap().graph)
    };
    let before = learn("", None);
    assert_eq!(before, learn("", Some(&other)));
    assert_eq!(before, learn(", teacher=given", Some(&graph)));
    assert_ne!(before, learn(", teacher=given", Some(&other)));
}

#[test]
fn what_cannot_teach_is_said() {
    let (wider, hidden) = (language_model(4, 1, WORDS + 1, 1), Extras { head: Head::Hidden, ..Extras::NONE });
    let hidden = recurrent_model(&Recurrence::MinGru, [4, 1, WORDS], hidden, 2);
    let error = |passes: &str, teacher| {
        taught(passes, language_model(4, 1, WORDS, 1), teacher).unwrap_err().to_string()
    };
    let errors = [
        error("recover(distill=0.5, teacher=given)", None),
        error("recover(teacher=given)", Some(&wider)),
        error("recover(distill=0.5, teacher=given)", Some(&wider)),
        error("recover(distill=0.5, teacher=given)", Some(&hidden)),
    ];
    insta::assert_snapshot!(errors.join("\n"));
}
