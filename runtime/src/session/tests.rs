use super::*;
use crate::testing::{Bigram, log_softmax};
use crate::text::Vocabulary;

fn model() -> Model {
    let kernels = Bigram::new(&[&[0.0, 1.0, 2.0], &[0.5, 0.5, -3.0], &[1.0, 1.0, 1.0]]);
    let words = Tokenizer::words(Vocabulary::from_words(["<unk>", "<eos>", "the"]).unwrap());
    let description = Description { name: "bigram".into(), ..Description::default() };
    Model::new(Arc::new(kernels), Some(Arc::new(words)), description).unwrap()
}

fn broken(logit: f32) -> Model {
    let kernels = Bigram::new(&[&[0.0, logit], &[0.0, 0.0]]);
    Model::new(Arc::new(kernels), None, Description::default()).unwrap()
}

#[test]
fn models_and_sessions_cross_threads() {
    fn send<T: Send>(_: &T) {}
    fn send_and_sync<T: Send + Sync>(_: &T) {}
    send_and_sync(&model());
    send(&model().session());
}

#[test]
fn a_step_has_logits_and_a_state() {
    let mut session = model().session();
    assert_eq!(session.step(0).unwrap(), [1.0, 1.0, 2.0]);
    assert_eq!(session.step(0).unwrap(), [1.5, 1.0, 2.0]);
    session.reset();
    session.advance(0).unwrap();
    assert_eq!(session.step(2).unwrap(), [1.5, 1.0, 2.0]);
    assert_eq!(session.model().name(), "bigram");
}

#[test]
fn buffers_are_aligned() {
    let session = model().session();
    for address in
        [session.state.as_ptr().addr(), session.scratch.as_ptr().addr(), session.logits.as_ptr().addr()]
    {
        assert_eq!(address % crate::ALIGNMENT, 0);
    }
}

#[test]
fn top_k_is_sorted_and_ties_go_to_the_lower_id() {
    let mut session = model().session();
    let (mut ids, mut logp) = ([9; 5], [9.0; 5]);
    assert_eq!(session.top_k_into(0, &mut ids, &mut logp), Ok(3));
    assert_eq!(ids, [2, 0, 1, 9, 9]);
    assert_eq!(logp[..3], [2, 0, 1].map(|id: usize| log_softmax(&[1.0, 1.0, 2.0])[id]));

    assert_eq!(session.top_k_into(0, &mut ids[..1], &mut logp[..1]), Ok(1));
    session.reset();
    assert_eq!(session.top_k_into(0, &mut [], &mut []), Ok(0));
    assert_eq!(session.step(0).unwrap(), [1.5, 1.0, 2.0], "a top 0 consumes its token");
}

#[test]
fn scores_and_perplexity_agree_with_single_steps() {
    let tokens = [0, 1, 2, 2, 1, 0, 0, 2];
    let mut session = model().session();
    let mut expected = 0.0;
    for pair in tokens.windows(2) {
        expected += f64::from(log_softmax(session.step(pair[0]).unwrap())[pair[1] as usize]);
    }

    let perplexity = session.perplexity(&tokens).unwrap();
    assert_eq!(perplexity, (-expected / 7.0).exp());
    assert_eq!(session.perplexity(&tokens).unwrap(), perplexity, "the state is reset first");

    session.reset();
    assert_eq!(session.score(&tokens).unwrap(), expected);
    session.reset();
    // The same seven additions in another order, each rounded once.
    let pieces = session.score(&tokens[..4]).unwrap() + session.score(&tokens[3..]).unwrap();
    assert!((pieces - expected).abs() <= 7.0 * f64::EPSILON * expected.abs());
    assert_eq!(session.score(&[]), Ok(0.0));
    assert_eq!(session.score(&[1]), Ok(0.0));
}

#[test]
fn progress_grows_and_ends_at_the_last_target() {
    for length in [2, 256, 257, 1000] {
        let mut reports = Vec::new();
        let tokens = vec![1; length];
        model().session().perplexity_with_progress(&tokens, &mut |done| reports.push(done)).unwrap();
        assert!(reports.is_sorted());
        assert_eq!(reports.last(), Some(&(length - 1)));
        assert!(reports.len() <= 1 + length / 256);
    }
}

#[test]
fn a_state_can_be_saved_and_restored() {
    let model = model();
    let mut session = model.session();
    session.advance(0).unwrap();
    let saved = session.save_state();
    let logits = session.step(1).unwrap().to_vec();
    session.advance(2).unwrap();

    session.restore_state(&saved).unwrap();
    assert_eq!(session.step(1).unwrap(), logits);

    let mut other = model.session();
    other.restore_state(&SavedState::from_values(saved.values().to_vec())).unwrap();
    assert_eq!(other.step(1).unwrap(), logits);

    let mut reused = SavedState::default();
    other.save_state_into(&mut reused);
    assert_eq!(reused, other.save_state());
}

#[test]
fn the_vectors_of_a_state_have_names() {
    let mut session = model().session();
    session.advance(2).unwrap();
    session.advance(0).unwrap();
    let all: Vec<_> = session.state().collect();
    assert_eq!(all, [("low", &[1.0][..]), ("high", &[0.0, 0.5])]);
    assert_eq!(session.state_vector("high"), Some(&[0.0, 0.5][..]));
    assert_eq!(session.state_vector("h0"), None);
    assert_eq!(session.state_vector_mut("h0"), None);

    let mut saved = session.save_state();
    let high = session.model().layout().slot("high").unwrap().clone();
    assert_eq!(saved.vector(&high), Some(&[0.0, 0.5][..]));
    saved.vector_mut(&high).unwrap()[0] = 8.0;
    assert_eq!(SavedState::default().vector(&high), None);
    session.state_vector_mut("high").unwrap()[0] = 8.0;
    assert_eq!(session.save_state(), saved);
    assert_eq!(session.step(1).unwrap(), [1.0, 5.5, -2.75]);
}

#[test]
#[should_panic(expected = "lies within a state of 3 elements")]
fn vectors_beyond_the_state_are_refused() {
    let _ = Layout::new(1).with_state(3, vec![StateSlot { name: "h0".into(), offset: 2, len: 2 }]);
}

#[test]
#[should_panic(expected = "two vectors of the state have the name h0")]
fn vectors_of_one_name_are_refused() {
    let slot = StateSlot { name: "h0".into(), offset: 0, len: 1 };
    let _ = Layout::new(1).with_state(3, vec![slot.clone(), slot]);
}

/// Draws `COUNT` words after token 0 of a fresh stream and compares their shares with `expected`.
fn check_shares(sampling: &Sampling, expected: [f64; 3]) {
    const COUNT: usize = 20_000;
    // Five standard errors of a share, which is at most sqrt(1/4 / COUNT).
    let tolerance = 5.0 * (0.25 / COUNT as f64).sqrt();
    let mut session = model().session();
    let mut rng = Rng::new(42);
    let mut counts = [0usize; 3];
    for _ in 0..COUNT {
        session.reset();
        counts[session.sample(0, sampling, &mut rng).unwrap() as usize] += 1;
    }
    for (count, expected) in counts.into_iter().zip(expected) {
        let share = count as f64 / COUNT as f64;
        assert!((share - expected).abs() < tolerance, "{sampling:?}: {share} instead of {expected}");
        assert!(expected > 0.0 || count == 0, "{sampling:?}: drew an excluded word");
    }
}

#[test]
fn samples_follow_the_distribution() {
    let softmax = |logits: [f64; 3]| {
        let total: f64 = logits.iter().map(|x| x.exp()).sum();
        logits.map(|x| x.exp() / total)
    };
    let sampling = |temperature, top_k| Sampling { top_k, ..Sampling::at(temperature) };
    // After token 0 the logits are [1, 1, 2].
    check_shares(&sampling(1.0, None), softmax([1.0, 1.0, 2.0]));
    check_shares(&sampling(1.0, Some(3)), softmax([1.0, 1.0, 2.0]));
    check_shares(&sampling(1.0, Some(100)), softmax([1.0, 1.0, 2.0]));
    check_shares(&sampling(0.5, None), softmax([2.0, 2.0, 4.0]));
    check_shares(&sampling(2.0, None), softmax([0.5, 0.5, 1.0]));
    check_shares(&sampling(1.0, Some(2)), softmax([1.0, f64::NEG_INFINITY, 2.0]));
    check_shares(&sampling(0.5, Some(2)), softmax([2.0, f64::NEG_INFINITY, 4.0]));
    check_shares(&sampling(1.0, Some(1)), [0.0, 0.0, 1.0]);
    check_shares(&sampling(0.0, None), [0.0, 0.0, 1.0]);
}

#[test]
fn a_seed_repeats_its_text() {
    let text = |seed| {
        let (mut session, mut rng) = (model().session(), Rng::new(seed));
        let mut token = 0;
        let mut draw = || {
            token = session.sample(token, &Sampling::default(), &mut rng).unwrap();
            token
        };
        (0..50).map(|_| draw()).collect::<Vec<_>>()
    };
    assert_eq!(text(7), text(7));
    assert_ne!(text(7), text(8));
}

#[test]
fn an_error_leaves_the_state_alone() {
    let mut session = model().session();
    session.advance(1).unwrap();
    let before = session.save_state();
    let bad = Sampling::at(-1.0);
    assert!(session.step(3).is_err());
    assert!(session.score(&[0, 1, 3]).is_err());
    assert!(session.perplexity(&[0, 3]).is_err());
    assert!(session.perplexity(&[0]).is_err());
    assert!(session.top_k_into(0, &mut [0], &mut []).is_err());
    assert!(session.sample(0, &bad, &mut Rng::new(0)).is_err());
    assert!(session.restore_state(&SavedState::default()).is_err());
    assert_eq!(session.save_state(), before);
}

#[test]
fn output_that_is_not_finite_is_an_error() {
    for logit in [f32::NAN, f32::INFINITY] {
        let mut session = broken(logit).session();
        for sampling in
            [Sampling::default(), Sampling::at(0.0), Sampling { top_k: Some(1), ..Sampling::default() }]
        {
            session.reset();
            assert_eq!(session.sample(0, &sampling, &mut Rng::new(0)), Err(SessionError::NotFinite));
        }
        assert_eq!(session.perplexity(&[0, 1]), Err(SessionError::NotFinite));
    }
}

#[test]
fn an_impossible_word_has_infinite_perplexity() {
    let mut session = broken(f32::NEG_INFINITY).session();
    assert_eq!(session.perplexity(&[0, 1]), Ok(f64::INFINITY));
    session.reset();
    let (mut ids, mut logp) = ([0; 2], [0.0; 2]);
    assert_eq!(session.top_k_into(0, &mut ids, &mut logp), Ok(2));
    assert_eq!((ids, logp), ([0, 1], [0.0, f32::NEG_INFINITY]));
}

/// Kernels whose output is their state, a learned one at first, plus the token.
struct Prediction(Layout);

impl Kernels for Prediction {
    fn layout(&self) -> &Layout {
        &self.0
    }

    fn step(&self, state: &mut [f32], _: &mut [u8], token: u32, output: &mut [f32]) {
        state.iter_mut().for_each(|x| *x += token as f32);
        output.copy_from_slice(state);
    }
}

#[test]
fn a_hidden_vector_has_no_probabilities() {
    let slots = vec![StateSlot { name: "h0".into(), offset: 0, len: 2 }];
    let layout = Layout::new(5).with_hidden(2).with_state(2, slots).with_initial(vec![0.5, -1.0]);
    let model = Model::new(Arc::new(Prediction(layout)), None, Description::default()).unwrap();
    let (mut session, mut streams) = (model.session(), model.streams(2));
    for _ in 0..2 {
        assert_eq!(session.step(4).unwrap(), [4.5, 3.0]);
        assert_eq!(streams.step(&[4, 0]).unwrap(), [4.5, 3.0, 0.5, -1.0]);
        assert_eq!(streams.logits(1), [0.5, -1.0]);
        session.reset();
        (0..2).for_each(|stream| streams.reset(stream));
    }
    let errors = [
        session.score(&[0, 1]).unwrap_err(),
        session.perplexity(&[0, 1]).unwrap_err(),
        session.top_k_into(0, &mut [0], &mut [0.0]).unwrap_err(),
        session.sample(0, &Sampling::default(), &mut Rng::new(0)).unwrap_err(),
    ];
    assert!(errors.iter().all(|e| *e == SessionError::Hidden { width: 2 }), "{errors:?}");
    assert_eq!(session.state_vector("h0").unwrap(), [0.5, -1.0], "nothing is consumed");
    assert_eq!(
        errors[0].to_string(),
        "the model's output is a hidden vector of 2 elements, not logits: it gives no probabilities of words, so there is no scoring, \
         perplexity, suggestion or sampling; a step gives the vector"
    );
}

#[test]
fn errors() {
    let mut session = model().session();
    let sampling = |temperature, top_k| Sampling { top_k, ..Sampling::at(temperature) };
    let mut rng = Rng::new(0);
    let mut messages = vec![
        session.step(3).unwrap_err(),
        session.score(&[0, 1, 70_000]).unwrap_err(),
        session.perplexity(&[1]).unwrap_err(),
        session.restore_state(&SavedState::from_values(vec![0.0; 800])).unwrap_err(),
        session.top_k_into(0, &mut [0; 5], &mut [0.0; 4]).unwrap_err(),
        session.sample(0, &sampling(f32::NAN, None), &mut rng).unwrap_err(),
        session.sample(0, &sampling(-0.5, None), &mut rng).unwrap_err(),
        session.sample(0, &sampling(1.0, Some(0)), &mut rng).unwrap_err(),
        broken(f32::NAN).session().score(&[0, 1]).unwrap_err(),
    ]
    .into_iter()
    .map(|error| error.to_string())
    .collect::<Vec<_>>();

    let tokenizer = Arc::new(Tokenizer::words(Vocabulary::from_words(["the"]).unwrap()));
    let (two_words, no_words) = (Bigram::new(&[&[0.0, 0.0], &[0.0, 0.0]]), Bigram::new(&[]));
    for (kernels, tokenizer) in [(two_words, Some(tokenizer)), (no_words, None)] {
        let error = Model::new(Arc::new(kernels), tokenizer, Description::default()).unwrap_err();
        messages.push(error.to_string());
    }
    insta::assert_snapshot!(messages.join("\n"));
}

#[test]
fn a_nucleus_and_a_penalty() {
    // Probabilities of 0.6, 0.3 and 0.1 after every word but for the memory, which is reset.
    let row: [f32; 3] = [0.6f32.ln(), 0.3f32.ln(), 0.1f32.ln()];
    let model = Model::new(Arc::new(Bigram::new(&[&row[..]; 3])), None, Description::default()).unwrap();
    let mut rng = Rng::new(2);
    let mut shares = |sampling: &Sampling, seen: &[u32]| {
        let mut counts = [0; 3];
        for _ in 0..600 {
            let mut session = model.session();
            counts[session.sample_after(2, seen, sampling, &mut rng).unwrap() as usize] += 1;
        }
        counts
    };
    // With the memory, word 2 has 0.1 e = 0.27: 0.51, 0.26, 0.23.
    let p = |top_p| Sampling { top_p: Some(top_p), ..Sampling::default() };
    assert_eq!(shares(&p(0.5), &[]), [600, 0, 0]);
    let two = shares(&p(0.7), &[]);
    assert!(two[2] == 0 && two[0] > two[1] && two[1] > 100, "{two:?}");
    assert!(shares(&p(1.0), &[]).iter().all(|&n| n > 80));
    // All logits are negative or zero here: a penalty multiplies them.
    let penalty = Sampling { repetition_penalty: 9.0, ..Sampling::at(1.0) };
    let less = shares(&penalty, &[0, 0]);
    assert!(less[0] < 30, "{less:?}");
    let greedy = Sampling { repetition_penalty: 9.0, ..Sampling::at(0.0) };
    assert_eq!(shares(&greedy, &[0]).iter().position(|&n| n == 600), Some(1));
    for bad in [p(0.0), p(1.5), Sampling { repetition_penalty: 0.0, ..Sampling::default() }] {
        assert!(model.session().sample(0, &bad, &mut rng).is_err());
    }
}

#[test]
fn the_best_of_some_words_are_the_best_of_all_filtered() {
    let vocabulary = Vocabulary::from_words(["cat", "the", "car", "cab", "a"]).unwrap();
    let table: Vec<Vec<f32>> =
        (0..5).map(|a| (0..5).map(|b| ((a * 7 + b * 3) % 4) as f32).collect()).collect();
    let rows: Vec<&[f32]> = table.iter().map(|row| &row[..]).collect();
    let model = Model::new(Arc::new(Bigram::new(&rows)), None, Description::default()).unwrap();
    assert_eq!(vocabulary.with_prefix("ca"), [3, 2, 0]);
    assert_eq!(vocabulary.with_prefix("x"), [0; 0]);
    for prefix in ["", "ca", "car", "t", "x"] {
        let among = vocabulary.with_prefix(prefix);
        for token in 0..5 {
            let (mut all, mut scores) = ([0; 5], [0.0; 5]);
            model.session().top_k_into(token, &mut all, &mut scores).unwrap();
            for k in 0..4 {
                let (mut ids, mut some) = (vec![0; k], vec![0.0; k]);
                let n = model.session().top_k_among(token, among, &mut ids, &mut some).unwrap();
                let want = all.iter().zip(scores).filter(|(id, _)| among.contains(id)).take(k);
                assert_eq!(ids[..n], want.clone().map(|(id, _)| *id).collect::<Vec<_>>());
                assert!(some.iter().zip(want).all(|(have, (_, want))| (have - want).abs() < 1e-6));
            }
        }
    }
}
