//! Models side by side on one text: how their probabilities and their best words differ, and how sure that is.
//!
//! ```text
//!   text ──▶ tokens ──▶ every model, on its thread ──▶ per token: loss, rank of the target, best words, confidence
//!                                                     per sentence: loss      ──▶ paired bootstrap
//!                                                     beside the first model: divergence, agreement
//! ```
//!
//! The first model is the reference: the others are compared with it. All must have the same words.

mod bootstrap;
mod keyboard;

pub use bootstrap::{Interval, paired_interval};

use crate::Error;
use keyboard::Keyboard;
use lstmc_runtime::{Encoded, Head, Model, Role, Session, SessionError, TextReader, Tokenizer};
use std::io::BufRead;
use std::path::Path;
use std::time::{Duration, Instant};

/// The numbers of best words that agreement and recall are measured with.
pub const BEST: [usize; 3] = [1, 3, 5];

/// Bins of confidence of the calibration error (Guo et al. 2017, section 2).
const BINS: usize = 15;

/// A model's figures on a text, the first one's with itself as reference. Logarithms are natural.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Compared {
    /// The mean negative log-probability of a predicted token.
    pub loss: f64,
    /// That of each predicted token, in order.
    pub losses: Vec<f32>,
    /// The perplexity relative to the reference, less 1: a 95% interval by paired bootstrap over sentences.
    pub increase: Interval,
    /// The mean Kullback-Leibler divergence of the model's next-word distribution from the reference's, `sum of p log(p / q)`, in nats;
    /// `p` is the reference's.
    pub divergence: f64,
    /// For each of [`BEST`], the mean share of the reference's best words that are the model's best words too.
    pub agreement: [f64; BEST.len()],
    /// For each of [`BEST`], how often the next word is among the best words.
    pub recall: [f64; BEST.len()],
    /// The expected calibration error of the best word: the mean distance of its probability from how often it is right, in bins of
    /// probability (Guo et al. 2017, equation 3).
    pub calibration_error: f64,
    /// The share of keystrokes that a keyboard with three suggestions saves; `None` where tokens are not words.
    pub keystrokes_saved: Option<f64>,
}

impl Compared {
    /// `exp` of the loss.
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }
}

/// The figures of several models on one text.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Comparison {
    /// In the order given; the first is the reference.
    pub models: Vec<Compared>,
    /// Predicted tokens.
    pub predicted: usize,
    /// Sentences.
    pub sentences: usize,
}

/// Steps of one timing, and how many there are; the best one counts.
const STEPS: usize = 200;
/// See [`STEPS`].
const TIMINGS: usize = 5;

/// What is summed up of one model.
struct Tally {
    session: Session,
    by_sentence: Vec<f64>, // [sentences]
    losses: Vec<f32>,      // [predicted]
    divergence: f64,
    agreed: [f64; BEST.len()],
    recalled: [usize; BEST.len()],
    bins: [Bin; BINS],
    keystrokes: f64,
}

/// Best words with a probability in some range.
#[derive(Clone, Copy, Default)]
struct Bin {
    confidence: f64,
    right: f64,
}

/// A token that is predicted.
struct Predicted {
    before: u32,
    sentence: usize,
    token: u32,
}

/// Tokens whose predictions are held at a time, so that models take their steps side by side.
const CHUNK: usize = 32;

/// A model's prediction of one token.
#[derive(Clone, Default)]
struct Prediction {
    log_probabilities: Vec<f32>, // [vocabulary]
    /// The reference's only.
    probabilities: Vec<f32>, // [vocabulary]
    best: Vec<u32>,
}

/// Compares models on a text of one or more sentences, each a list of tokens. The text is one stream, its state carried from sentence to sentence; its
/// first token is not predicted. `resamples` and `seed` are the bootstrap's; `progress` gets the number of tokens so far.
///
/// # Errors
///
/// If there is no model, a model has other words than the first one or returns no logits, or fewer than two tokens.
pub fn compare(
    models: &[Model],
    sentences: &[Vec<u32>],
    (resamples, seed): (usize, u64),
    progress: &mut dyn FnMut(usize),
) -> Result<Comparison, Error> {
    check(models)?;
    let tokenizer = models.iter().find_map(Model::tokenizer);
    let keyboard = tokenizer.and_then(|t| Keyboard::new(t));
    let tokens: Vec<(usize, u32)> =
        sentences.iter().enumerate().flat_map(|(n, s)| s.iter().map(move |&token| (n, token))).collect();
    let predicted: Vec<Predicted> = tokens
        .windows(2)
        .map(|pair| Predicted { before: pair[0].1, sentence: pair[1].0, token: pair[1].1 })
        .collect();
    if predicted.is_empty() {
        return Err(Error::Compare("a comparison needs a text of at least two tokens".into()));
    }
    let mut tallies: Vec<Tally> = models.iter().map(|m| Tally::new(m.session(), sentences.len())).collect();
    let mut predictions = vec![vec![Prediction::default(); CHUNK.min(predicted.len())]; models.len()];
    let mut done = 0;
    for chunk in predicted.chunks(CHUNK) {
        at_once(tallies.iter_mut().zip(&mut predictions), |(tally, predictions)| {
            chunk.iter().zip(predictions).try_for_each(|(next, prediction)| {
                prediction.read(&mut tally.session, next.before).map_err(Error::from)
            })
        })?;
        let reference = &mut predictions[0][..chunk.len()];
        reference.iter_mut().for_each(Prediction::weigh);
        let reference = &predictions[0];
        at_once(tallies.iter_mut().zip(&predictions), |(tally, predictions)| {
            for ((next, prediction), reference) in chunk.iter().zip(predictions).zip(reference) {
                tally.add(next, prediction, reference);
                tally.keystrokes += keyboard.as_ref().map_or(0.0, |k| k.strokes(next.token, prediction));
            }
            Ok(())
        })?;
        done += chunk.len();
        progress(done);
    }
    let mut counts = vec![0.0; sentences.len()];
    predicted.iter().for_each(|next| counts[next.sentence] += 1.0);
    let predicted = predicted.len();
    let typed = keyboard.map(|k| sentences.iter().flatten().skip(1).map(|&t| k.letters(t)).sum::<f64>());
    let reference = tallies[0].by_sentence.clone();
    let models = tallies.into_iter().map(|tally| {
        let increase = paired_interval(&reference, &tally.by_sentence, &counts, resamples, seed);
        tally.done(predicted as f64, increase, typed)
    });
    Ok(Comparison { models: models.collect(), predicted, sentences: sentences.len() })
}

/// Reads a text's lines as tokens, which together are the tokens of its stream, and counts the units that the vocabulary lacks. `path` names the text in errors.
///
/// # Errors
///
/// If it cannot be read, or has what the tokenizer cannot express.
pub fn sentences(
    tokenizer: &Tokenizer,
    path: &Path,
    input: impl BufRead,
) -> Result<(Vec<Vec<u32>>, usize), Error> {
    let mut reader = TextReader::new(tokenizer, input);
    let (mut encoded, mut sentences, mut start) = (Encoded::default(), vec![], 0);
    loop {
        let line = reader.line();
        let more = reader.stream(&mut encoded).map_err(|e| crate::text::in_file(path, e))?;
        if (reader.line() != line || !more) && encoded.tokens.len() > start {
            sentences.push(encoded.tokens[start..].to_vec());
            start = encoded.tokens.len();
        }
        if !more {
            return Ok((sentences, encoded.unknown));
        }
    }
}

/// The time of a step of each model, one after the other: the best of several timings, which take turns.
pub fn step_times(models: &[Model], sentences: &[Vec<u32>]) -> Result<Vec<Duration>, Error> {
    let tokens: Vec<u32> = sentences.iter().flatten().copied().cycle().take(STEPS).collect();
    let mut best = vec![Duration::MAX; models.len()];
    for _ in 0..TIMINGS {
        for (model, best) in models.iter().zip(&mut best) {
            let mut session = model.session();
            let started = Instant::now();
            for &token in &tokens {
                session.step(token)?;
            }
            *best = (*best).min(started.elapsed() / STEPS as u32);
        }
    }
    Ok(best)
}

/// Does something with every item, each on a thread of its own.
fn at_once<T: Send>(
    items: impl Iterator<Item = T>,
    f: impl Fn(T) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let f = &f;
    std::thread::scope(|scope| {
        let threads: Vec<_> = items.map(|item| scope.spawn(move || f(item))).collect();
        let ended = threads.into_iter().map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p)));
        ended.collect()
    })
}

/// Refuses models that cannot be compared.
fn check(models: &[Model]) -> Result<(), Error> {
    let Some((first, others)) = models.split_first() else {
        return Err(Error::Compare("a comparison needs at least one model".into()));
    };
    if let Some(model) = models.iter().find(|m| m.layout().head == Head::Hidden) {
        let why = "returns a hidden vector, and a comparison needs the probabilities of words";
        return Err(Error::Compare(format!("{} {why}", model.name())));
    }
    let words = |m: &Model| m.layout().vocabulary;
    for other in others {
        if words(other) != words(first) {
            return Err(Error::Compare(format!(
                "{} has {} words and {} has {}; models are compared on the same words",
                first.name(),
                words(first),
                other.name(),
                words(other)
            )));
        }
        let (Some(a), Some(b)) = (first.vocabulary(), other.vocabulary()) else { continue };
        if let Some((id, (a, b))) = a.words().zip(b.words()).enumerate().find(|(_, (a, b))| a != b) {
            return Err(Error::Compare(format!(
                "token {id} is `{}` in {} and `{}` in {}; models are compared on the same words, with the same ids",
                a.escape_debug(),
                first.name(),
                b.escape_debug(),
                other.name()
            )));
        }
    }
    Ok(())
}

impl Prediction {
    /// What a model says after a token.
    fn read(&mut self, session: &mut Session, before: u32) -> Result<(), SessionError> {
        let kernels = session.model().kernels().clone();
        let logits = session.step(before)?;
        let total = kernels.log_sum_exp(logits);
        self.log_probabilities.clear();
        self.log_probabilities.extend(logits.iter().map(|x| x - total));
        self.best.clear();
        let most = BEST[BEST.len() - 1];
        for (id, &x) in logits.iter().enumerate() {
            // The best so far in falling order, equal ones by rising id.
            let is_among = self.best.len() < most || x > logits[self.best[most - 1] as usize];
            if is_among {
                let at = self.best.partition_point(|&b| logits[b as usize] >= x);
                self.best.insert(at, id as u32);
                self.best.truncate(most);
            }
        }
        Ok(())
    }

    /// Takes down the probabilities themselves.
    fn weigh(&mut self) {
        self.probabilities.clear();
        self.probabilities.extend(self.log_probabilities.iter().map(|x| x.exp()));
    }

    /// The Kullback-Leibler divergence of another prediction from this one, in nats.
    fn divergence(&self, other: &Prediction) -> f64 {
        let both = self.log_probabilities.iter().zip(&other.log_probabilities);
        // A word that is impossible here counts nothing, whatever the other thinks of it.
        let term = |(&p, (a, b)): (&f32, (&f32, &f32))| if p > 0.0 { f64::from(p * (a - b)) } else { 0.0 };
        self.probabilities.iter().zip(both).map(term).sum()
    }

    /// The first of `best`, as far as there are so many.
    fn first(&self, count: usize) -> &[u32] {
        &self.best[..count.min(self.best.len())]
    }
}

impl Tally {
    fn new(session: Session, sentences: usize) -> Tally {
        Tally {
            session,
            by_sentence: vec![0.0; sentences],
            losses: vec![],
            divergence: 0.0,
            agreed: [0.0; BEST.len()],
            recalled: [0; BEST.len()],
            bins: [Bin::default(); BINS],
            keystrokes: 0.0,
        }
    }

    fn add(&mut self, next: &Predicted, found: &Prediction, reference: &Prediction) {
        let &Predicted { sentence, token: target, .. } = next;
        let loss = -found.log_probabilities[target as usize];
        self.by_sentence[sentence] += f64::from(loss);
        self.losses.push(loss);
        self.divergence += reference.divergence(found);
        for ((&k, agreed), recalled) in BEST.iter().zip(&mut self.agreed).zip(&mut self.recalled) {
            let (mine, theirs) = (found.first(k), reference.first(k));
            let common = theirs.iter().filter(|word| mine.contains(word)).count();
            *agreed += common as f64 / theirs.len().max(1) as f64;
            *recalled += usize::from(mine.contains(&target));
        }
        let Some(&best) = found.best.first() else { return };
        let confidence = f64::from(found.log_probabilities[best as usize]).exp();
        let bin = &mut self.bins[((confidence * BINS as f64) as usize).min(BINS - 1)];
        bin.confidence += confidence;
        bin.right += f64::from(u8::from(best == target));
    }

    fn done(self, count: f64, increase: Interval, typed: Option<f64>) -> Compared {
        Compared {
            loss: self.by_sentence.iter().sum::<f64>() / count,
            losses: self.losses,
            increase,
            // Rounding may leave less than nothing.
            divergence: (self.divergence / count).max(0.0),
            agreement: self.agreed.map(|sum| sum / count),
            recall: self.recalled.map(|n| n as f64 / count),
            calibration_error: self.bins.iter().map(|b| (b.confidence - b.right).abs()).sum::<f64>() / count,
            keystrokes_saved: typed.filter(|&n| n > 0.0).map(|n| 1.0 - self.keystrokes / n),
        }
    }
}

/// Tokens that no keyboard suggests.
fn is_special(tokenizer: &Tokenizer, token: u32) -> bool {
    Role::ALL.into_iter().any(|role| tokenizer.special().get(role) == Some(token))
}

#[cfg(test)]
mod tests;
