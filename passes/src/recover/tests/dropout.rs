//! Dropout of every kind.

use super::{STREAMS, WORDS, check_gradients_of, random_tokens, recovered, state_before};
use crate::Target;
use crate::recover::dropout::{Dropout, Drops};
use crate::recover::network::{Network, State};
use lstmc_frontend::ir::arbitrary::{Extras, Recurrence, SplitMix64, language_model, recurrent_model};
use lstmc_frontend::ir::print;

/// Gradients go through what was kept, in every recurrent layer without normalisation: of a vector that is dropped whole it is too steep for finite
/// differences.
#[test]
fn gradients_are_those_of_the_loss_with_dropout() {
    let cases = [
        Drops { inputs: 0.3, ..Drops::default() },
        Drops { inputs: 0.3, is_variational: true, ..Drops::default() },
        Drops { recurrent: 0.3, ..Drops::default() },
        Drops { words: 0.3, ..Drops::default() },
        Drops { inputs: 0.2, is_variational: true, recurrent: 0.2, words: 0.2 },
    ];
    for kind in Recurrence::all() {
        let graph = recurrent_model(&kind, [3, 2, WORDS], Extras::NONE, 2);
        if print(&graph).contains("layer_norm") {
            continue;
        }
        for drops in cases {
            let network: Network<f64> = Network::new(&graph, Some(&Target::new("*"))).unwrap();
            let compared = check_gradients_of(&graph, state_before(&network), "*", None, drops);
            assert!(compared > 50, "{kind:?}");
        }
    }
}

/// Words that are dropped are so wherever they are; without any word, all logits of a first step are the same.
#[test]
fn words_are_dropped_as_a_whole() {
    let graph = language_model(3, 1, WORDS, 1);
    let network: Network<f64> = Network::new(&graph, None).unwrap();
    let logits = |words: f64| {
        let mut rng = SplitMix64::new(1);
        let drops = Drops { words, ..Drops::default() };
        let dropout = Dropout { drops, rng: &mut rng };
        let tokens = random_tokens(STREAMS * 4, 2);
        let streams = tokens.len();
        let mut tape = network.forward(&tokens, streams, &mut State::default(), Some(dropout));
        let rows: Vec<Vec<f64>> = tape.take_logits(&network).chunks(WORDS).map(<[f64]>::to_vec).collect();
        tokens.into_iter().zip(rows).collect::<Vec<_>>()
    };
    for (words, distinct) in [(0.0, 5..8), (0.5, 2..7), (0.999_999, 1..2)] {
        let found = logits(words);
        for (a, x) in &found {
            assert!(found.iter().filter(|(b, _)| b == a).all(|(_, y)| x == y));
        }
        let mut rows: Vec<_> = found.into_iter().map(|(_, x)| x).collect();
        rows.sort_by(|a, b| a.partial_cmp(b).unwrap());
        rows.dedup();
        assert!(distinct.contains(&rows.len()), "{words}: {}", rows.len());
    }
}

/// Each option changes what is learnt, and averaging does.
#[test]
fn options_have_effects() {
    let run = |options: &str| {
        let passes = format!("recover(batch=4, epochs=2{options})");
        print(&recovered(&passes, language_model(12, 2, WORDS, 1), false).unwrap().graph)
    };
    let mut found: Vec<String> = [
        "",
        ", dropout=0.3",
        ", dropout=0.3, variational=true",
        ", recurrent-dropout=0.3",
        ", word-dropout=0.3",
        ", average=0.5",
    ]
    .map(run)
    .into();
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 6);
    // The mean of one step is that step.
    assert_eq!(run(", average=0.001"), run(""));
}

/// Averaged weights compete with the last ones, and the report says which were kept.
#[test]
fn averaged_weights_are_candidates() {
    let options = "lr=3, schedule=constant, epochs=6, batch=4, bptt=5, average=0.5, dropout=0.5";
    let run = recovered(&format!("recover({options})"), language_model(12, 1, WORDS, 1), true).unwrap();
    let notes = run.trail.records[0].notes.join("; ");
    assert!(notes.contains("averaged"), "{notes}");
}
