//! Many texts that are scored together.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::aligned::Aligned;
use crate::kernels::Workspace;
use crate::session::{Model, SessionError};

/// Texts that share loaded weights.
const TEXTS: usize = 48;

/// Texts among which common beginnings are looked for.
const SHARING: usize = 1024;

/// Scores many independent texts, such as sentences or hypotheses: a weight is loaded once for several of them, and threads share the work.
/// Log-probabilities agree with those of a [`Session`](crate::Session) up to rounding.
///
/// ```
/// # fn example(model: &lstmc_runtime::Model) -> Result<(), lstmc_runtime::SessionError> {
/// let mut batch = model.batch(2);
/// let texts: [&[u32]; 3] = [&[1, 17, 4, 1], &[1, 9, 1], &[1, 17, 1]];
/// let scores: Vec<f64> = batch.score(&texts)?.iter().map(|each| each.iter().map(|&p| f64::from(p)).sum()).collect();
/// # let _ = scores;
/// # Ok(())
/// # }
/// ```
pub struct Batch {
    model: Model,
    workers: Vec<Worker>,
}

/// The memory of a thread.
struct Worker {
    scratch: Aligned<u8>, // [layout.scratch]
    workspace: Workspace,
}

/// Scores some texts.
type Score<'s> = dyn Fn(&mut Worker, &Model, &[&[u32]], &mut [Vec<f32>]) + Sync + 's;

impl Model {
    /// Memory to score texts with on this many threads; 0 means one for each core. Compile the model for one thread, so that only these share the work.
    pub fn batch(&self, threads: usize) -> Batch {
        let layout = self.layout();
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let worker = |_| Worker {
            scratch: Aligned::zeroed(layout.scratch),
            workspace: self.kernels().batch_workspace(TEXTS),
        };
        let threads = if threads == 0 { cores() } else { threads };
        Batch { model: self.clone(), workers: (0..threads).map(worker).collect() }
    }
}

impl Batch {
    /// The natural log-probabilities of all tokens but the first of each text, given those before it in its text, from the initial state.
    ///
    /// # Errors
    ///
    /// If the model has no logits, lacks one of the tokens, or its output is not finite: a log-probability is NaN or positive infinity.
    pub fn score<T: AsRef<[u32]> + Sync>(&mut self, texts: &[T]) -> Result<Vec<Vec<f32>>, SessionError> {
        self.check(texts)?;
        // Texts of similar length share the most steps. The longest come first, so that no thread ends with one.
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&n| std::cmp::Reverse(texts[n].as_ref().len()));
        self.run(texts, &order, TEXTS, &|worker, model, texts, found| worker.score(model, texts, found))
    }

    /// [`Batch::score`], where what texts have in common at their beginnings is computed once: the hypotheses of n-best lists, or completions of one
    /// prompt. Returns the number of tokens that were computed as well.
    ///
    /// # Errors
    ///
    /// As [`Batch::score`].
    pub fn score_shared<T: AsRef<[u32]> + Sync>(
        &mut self,
        texts: &[T],
    ) -> Result<(Vec<Vec<f32>>, usize), SessionError> {
        self.check(texts)?;
        let computed = AtomicUsize::new(0);
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&n| texts[n].as_ref());
        let found = self.run(texts, &order, SHARING, &|worker, model, texts, found| {
            computed.fetch_add(worker.score_shared(model, texts, found), Ordering::Relaxed);
        })?;
        Ok((found, computed.into_inner()))
    }

    fn check<T: AsRef<[u32]>>(&self, texts: &[T]) -> Result<(), SessionError> {
        self.model.check_logits()?;
        let vocabulary = self.model.layout().vocabulary;
        let mut tokens = texts.iter().flat_map(|text| text.as_ref());
        match tokens.find(|&&token| token as usize >= vocabulary) {
            Some(&token) => Err(SessionError::Token { token, vocabulary }),
            None => Ok(()),
        }
    }

    /// Shares out parts of this many texts among the threads.
    fn run<T: AsRef<[u32]> + Sync>(
        &mut self,
        texts: &[T],
        order: &[usize],
        together: usize,
        score: &Score<'_>,
    ) -> Result<Vec<Vec<f32>>, SessionError> {
        let parts: Vec<&[usize]> = order.chunks(together).collect();
        let (next, model) = (AtomicUsize::new(0), &self.model);
        let run = |worker: &mut Worker| {
            let mut done = vec![];
            while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                let texts: Vec<&[u32]> = part.iter().map(|&n| texts[n].as_ref()).collect();
                let mut found: Vec<Vec<f32>> =
                    texts.iter().map(|text| vec![0.0; text.len().saturating_sub(1)]).collect();
                score(worker, model, &texts, &mut found);
                done.extend(part.iter().copied().zip(found));
            }
            done
        };
        let needed = self.workers.len().min(parts.len()).max(1);
        let (first, others) = self.workers[..needed].split_first_mut().expect("there is a worker");
        let done = std::thread::scope(|scope| {
            let others: Vec<_> = others.iter_mut().map(|worker| scope.spawn(|| run(worker))).collect();
            let mut done = run(first);
            for other in others {
                done.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            done
        });
        let mut found = vec![vec![]; texts.len()];
        for (n, each) in done {
            if each.iter().any(|p| p.is_nan() || *p == f32::INFINITY) {
                return Err(SessionError::NotFinite);
            }
            found[n] = each;
        }
        Ok(found)
    }
}

impl Worker {
    /// Scores at most [`TEXTS`] texts, the longest first.
    fn score(&mut self, model: &Model, texts: &[&[u32]], found: &mut [Vec<f32>]) {
        let mut states = Aligned::zeroed(texts.len() * model.layout().state);
        reset(model, &mut states);
        let mut found: Vec<&mut [f32]> = found.iter_mut().map(|each| &mut each[..]).collect();
        model.kernels().score_batch(&mut states, &mut self.scratch, &mut self.workspace, texts, &mut found);
    }

    /// Scores texts in lexicographic order, all at the same position together, and returns the number of tokens computed.
    fn score_shared(&mut self, model: &Model, texts: &[&[u32]], found: &mut [Vec<f32>]) -> usize {
        let each = model.layout().state;
        let mut computed = 0;
        // The texts that have begun in the same way, and the state after that.
        let mut groups: Vec<Range<usize>> = std::iter::once(0..texts.len()).collect();
        let mut states = Aligned::zeroed(each);
        reset(model, &mut states);
        for position in 0.. {
            // A part of a group whose texts go on with the same two tokens: of the first texts, the beginning may still differ.
            let mut parts: Vec<(usize, Range<usize>)> = vec![];
            for (group, range) in groups.iter().enumerate() {
                let next = |n: usize| texts[n].get(position..position + 2);
                let mut start = range.start;
                while start < range.end {
                    let end = (start + 1..range.end).find(|&n| next(n) != next(start)).unwrap_or(range.end);
                    if next(start).is_some() {
                        parts.push((group, start..end));
                    }
                    start = end;
                }
            }
            if parts.is_empty() {
                return computed;
            }
            let mut after = Aligned::zeroed(parts.len() * each);
            for (n, (group, _)) in parts.iter().enumerate() {
                after[n * each..][..each].copy_from_slice(&states[group * each..][..each]);
            }
            let pairs: Vec<&[u32]> =
                parts.iter().map(|(_, range)| &texts[range.start][position..position + 2]).collect();
            let mut scores = vec![0.0; parts.len()];
            let mut places: Vec<&mut [f32]> = scores.chunks_mut(1).collect();
            for (n, (pairs, places)) in pairs.chunks(TEXTS).zip(places.chunks_mut(TEXTS)).enumerate() {
                let states = &mut after[n * TEXTS * each..][..pairs.len() * each];
                model.kernels().score_batch(states, &mut self.scratch, &mut self.workspace, pairs, places);
            }
            for ((_, range), score) in parts.iter().zip(&scores) {
                found[range.clone()].iter_mut().for_each(|found| found[position] = *score);
            }
            computed += parts.len();
            states = after;
            groups = parts.into_iter().map(|(_, range)| range).collect();
        }
        unreachable!("positions end with the longest text")
    }
}

/// Sets consecutive states to that before the first token.
fn reset(model: &Model, states: &mut [f32]) {
    let layout = model.layout();
    if layout.state > 0 {
        states.chunks_exact_mut(layout.state).for_each(|state| layout.reset(state));
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let threads = self.workers.len();
        f.debug_struct("Batch").field("model", &self.model).field("threads", &threads).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Description;
    use crate::testing::Bigram;

    #[test]
    fn texts_together_are_texts_apart() {
        let table: [&[f32]; 3] = [&[0.0, 1.0, 2.0], &[0.5, -1.0, 0.0], &[3.0, 0.0, 1.0]];
        let model = Model::new(Arc::new(Bigram::new(&table)), None, Description::default()).unwrap();
        // Equal texts, texts that begin another, texts without predictions, and more than are taken together.
        let mut texts: Vec<Vec<u32>> =
            vec![vec![0, 1, 2], vec![0, 1], vec![0, 1, 2], vec![], vec![2], vec![0, 1, 1, 1], vec![1, 1, 2]];
        texts.extend((0..100).map(|n| (0..n % 7).map(|k| (n / 7 + k * n) % 3).collect()));
        for threads in [1, 3] {
            let mut batch = model.batch(threads);
            let (shared, computed) = batch.score_shared(&texts).unwrap();
            assert_eq!(batch.score(&texts).unwrap(), shared);
            let mut prefixes: Vec<&[u32]> =
                texts.iter().flat_map(|t| (2..=t.len()).map(|n| &t[..n])).collect();
            prefixes.sort_unstable();
            prefixes.dedup();
            assert_eq!(computed, prefixes.len());
            for (text, found) in texts.iter().zip(shared) {
                let mut apart = vec![];
                model.session().score_each(text, &mut |part| apart.extend_from_slice(part)).unwrap();
                assert_eq!(apart, found);
            }
        }
        assert_eq!(model.batch(1).score(&[[0, 3]]), Err(SessionError::Token { token: 3, vocabulary: 3 }));
        assert!(model.batch(2).score::<Vec<u32>>(&[]).unwrap().is_empty());
    }
}
