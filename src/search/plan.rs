//! What to try next.
//!
//! A [`Plan`] is run from the beginning after every round. Each of its steps asks for the figures of some candidates; the first step that lacks some ends the run, and they are the next round.
//! Everything follows from results, so a plan is the same whoever computed them.
//!
//! ```text
//!   for size       the size that the budget comes to ──▶ a ladder of rates ──▶ structures at that size, one at a time
//!                  ──▶ those that help, together ──▶ neighbours of the best, while they are better ──▶ its size, adjusted
//!   for time       8 bits ──▶ each choice of each group alone ──▶ shared out by effect (`solve::allocate`), measured, corrected
//!                  ──▶ neighbours of the best
//!   with training  after the size that the budget comes to: structures trained for a short time, a third of them for thrice as long, ...
//!                  ──▶ codes of the best at several sizes ──▶ these trained too
//! ```

use super::choice::{Budget, best};
use super::predict::{Additive, Effect, size_at};
use super::space::{Candidate, Quantizer, Role, Space, Structure, Training};
use super::{Found, Outcome, Point};
use lstmc_passes::solve::allocate::{Choice, allocate};
use std::fmt;

/// Why a search ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// All that the plan has was tried.
    Exhausted,
    /// As many candidates as allowed.
    Candidates,
    /// The time is over.
    Time,
    /// Asked to stop.
    Interrupted,
    /// Candidates are evaluated elsewhere.
    Waiting,
}

impl Stop {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Stop::Exhausted => "exhausted",
            Stop::Candidates => "candidates",
            Stop::Time => "time",
            Stop::Interrupted => "interrupted",
            Stop::Waiting => "waiting",
        }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stop::Exhausted => "all that the search has in mind was tried",
            Stop::Candidates => "the number of candidates is reached",
            Stop::Time => "the time is over",
            Stop::Interrupted => "interrupted",
            Stop::Waiting => "waits for candidates that are evaluated elsewhere",
        })
    }
}

/// How a plan goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// These pipelines are to be evaluated, the most promising first.
    Round(Vec<String>),
    /// It ends.
    End(Stop),
}

/// Bits a weight of the ladder: about a fifth less each time.
const RATES: [f64; 13] = [6.0, 4.6, 3.5, 2.8, 2.2, 1.8, 1.45, 1.15, 0.9, 0.7, 0.55, 0.42, 0.32];

/// Bits of all codes at the ladder's upper end: hardly any loss, whatever the text.
const UNIFORM: [u32; 2] = [8, 6];

/// Of the ladder's rates, one in so many tells where a budget of perplexity is met.
const COARSE: usize = 3;

/// Where the ladder begins if no size is given.
const USUAL_RATE: f64 = 1.0;

/// Attempts to meet a budget by size, and how far below it is near enough.
const TRIES: usize = 4;
/// See [`TRIES`].
const CLOSE: f64 = 0.03;

/// Rounds of corrected allocation, and of neighbours.
const ALLOCATIONS: usize = 4;
/// See [`ALLOCATIONS`].
const NEIGHBOURHOODS: usize = 8;

/// Neighbours or combinations of a round.
const TOGETHER: usize = 4;

/// Successive halving: the epochs of the first rung, how much longer the next ones are, their number.
const RUNGS: (f64, usize, usize) = (1.0, 3, 3);

/// Low ranks of the outer layers, as parts of the full one, that are trained too.
const TRAINED_RANKS: [f64; 2] = [0.33, 0.2];

/// Epochs of training codes, and the sizes at which that is tried, relative to the one at the budget.
const TUNING: (f64, [f64; 3]) = (1.0, [0.6, 0.36, 1.6]);

/// What is known of a pipeline, if anything.
pub type Known<'k> = dyn Fn(&str) -> Option<Outcome> + 'k;

/// The next step of a search with this budget. At most `most` candidates are evaluated; `seed` is that of training, if there is a text for it.
pub fn next(space: &Space, budget: Budget, known: &Known<'_>, most: usize, seed: Option<u64>) -> Next {
    let mut plan = Plan { space, budget, known, most, seed, asked: vec![], points: vec![] };
    let run = match budget {
        Budget::Microseconds(most) => plan.timed(most),
        _ => plan.sized(),
    };
    match run {
        Ok(()) => Next::End(Stop::Exhausted),
        Err(next) => next,
    }
}

struct Plan<'p> {
    space: &'p Space,
    budget: Budget,
    known: &'p Known<'p>,
    most: usize,
    seed: Option<u64>,
    /// Every pipeline so far.
    asked: Vec<String>,
    /// What there is of them.
    points: Vec<Point>,
}

/// A step's result, or what ends the run here.
type Step<T> = Result<T, Next>;

impl Plan<'_> {
    /// The figures of candidates, if there is a model of them; or they are the next round.
    fn ask(&mut self, candidates: &[Candidate]) -> Step<Vec<Option<Found>>> {
        let mut missing = vec![];
        let mut found = vec![];
        for candidate in candidates {
            let Some(pipeline) = self.space.pipeline(candidate) else {
                found.push(None);
                continue;
            };
            let is_new = !self.asked.contains(&pipeline);
            if is_new && self.asked.len() == self.most {
                return Err(if missing.is_empty() {
                    Next::End(Stop::Candidates)
                } else {
                    Next::Round(missing)
                });
            }
            let outcome = (self.known)(&pipeline);
            if is_new {
                self.asked.push(pipeline.clone());
                match &outcome {
                    None => missing.push(pipeline),
                    Some(Ok(found)) => self.points.push(Point { pipeline, found: *found }),
                    Some(Err(_)) => {}
                }
            }
            found.push(outcome.and_then(Result::ok));
        }
        if missing.is_empty() { Ok(found) } else { Err(Next::Round(missing)) }
    }

    fn ask_one(&mut self, candidate: &Candidate) -> Step<Option<Found>> {
        Ok(self.ask(std::slice::from_ref(candidate))?[0])
    }

    /// How much the loss may rise above that of a model with this perplexity.
    fn allowed_rise(&self, from: f64, found: &Found) -> f64 {
        match self.budget {
            Budget::Increase(most) => (found.before * (1.0 + most) / from).ln(),
            Budget::Perplexity(most) => (most / from).ln(),
            Budget::Bytes(_) | Budget::Microseconds(_) => f64::INFINITY,
        }
    }

    /// The size, as an argument of `quantize`, at which a candidate meets the budget; and the figures there. `near` has such sizes, and `from` the perplexity without codes, if
    /// it is not that of the model as given.
    fn meet(
        &mut self,
        candidate: &Candidate,
        near: &[(usize, Found)],
        from: Option<f64>,
    ) -> Step<Option<(usize, Found)>> {
        if let (Budget::Bytes(_), Some(last)) = (self.budget, near.last())
            && self.budget.is_met(&last.1)
        {
            return Ok(Some(*last));
        }
        let mut known = near.to_vec();
        let mut best: Option<(usize, Found)> = None;
        for _ in 0..TRIES {
            let bytes = match self.budget {
                Budget::Bytes(most) => match known.last() {
                    // What is stored beside the codes, and the last step of the pass, come on top.
                    Some((asked, found)) => *asked as f64 * most as f64 / found.bytes as f64 * 0.9995,
                    None => most as f64,
                },
                _ => {
                    let Some((_, any)) = known.first() else { return Ok(best) };
                    let from = from.unwrap_or(any.before);
                    let goal = self.allowed_rise(from, any) * (1.0 - CLOSE / 2.0);
                    let rise = |f: &Found| (f.perplexity / from).ln();
                    let curve: Vec<_> = known.iter().map(|(asked, f)| (*asked as f64, rise(f))).collect();
                    match size_at(&curve, goal) {
                        Some(bytes) => bytes,
                        // A first guess: half a bit a weight is half a nat.
                        None => curve[0].0 * if curve[0].1 > goal { 1.15 } else { 0.9 },
                    }
                }
            };
            let bytes = rounded(bytes);
            let Some(found) = self.ask_one(&at(candidate, bytes))? else { return Ok(best) };
            let repeats = known.iter().any(|(asked, _)| *asked == bytes);
            known.push((bytes, found));
            let excess = self.budget.excess(&found);
            let better = |old: &Found| match (self.budget.is_met(old), excess <= 0.0) {
                (true, true) => self.budget.objective(&found) < self.budget.objective(old),
                (met, meets) => meets && !met || meets == met && excess < self.budget.excess(old),
            };
            if best.as_ref().is_none_or(|(_, old)| better(old)) {
                best = Some((bytes, found));
            }
            let is_close = match self.budget {
                Budget::Bytes(_) => excess <= 0.0,
                _ => {
                    excess <= 0.0
                        && self.allowed_rise(found.perplexity, &found)
                            <= self.allowed_rise(from.unwrap_or(found.before), &found) * CLOSE
                }
            };
            if is_close || repeats {
                break;
            }
        }
        Ok(best)
    }

    /// For size.
    fn sized(&mut self) -> Step<()> {
        let parameters = self.space.parameters.max(1) as f64;
        let usual = match self.budget {
            Budget::Bytes(most) => 8.0 * most as f64 / parameters,
            _ => USUAL_RATE,
        };
        // What is over the budget cannot be the best, and waits.
        let distance = |rate: f64| (rate / usual).ln().abs() * if rate > usual { 2.0 } else { 1.0 };
        let ladder = |every: usize| -> Vec<Candidate> {
            let mut rates: Vec<f64> = RATES.into_iter().step_by(every).collect();
            rates.sort_by(|a, b| distance(*a).total_cmp(&distance(*b)));
            rates.into_iter().map(|rate| self.space.plain(Quantizer::Rate(rate))).collect()
        };
        let plain = self.space.plain(Quantizer::Rate(usual));
        let (coarse, mut fine) = (ladder(COARSE), ladder(1));
        fine.extend(UNIFORM.map(|bits| self.space.plain(Quantizer::Uniform(bits))));
        let near = match self.budget {
            Budget::Bytes(_) => vec![],
            _ => self.ask(&coarse)?.into_iter().flatten().map(|f| (f.bytes, f)).collect(),
        };
        let at_budget = self.meet(&plain, &near, None)?;
        if let (Some(seed), Some((bytes, _))) = (self.seed, at_budget) {
            self.trained(bytes, seed)?;
        }
        self.ask(&fine)?;
        let Some((bytes, reference)) = at_budget else { return Ok(()) };
        let (structures, found) = self.structured(bytes, reference)?;
        if structures != plain.structures {
            let better = Candidate { structures, ..plain };
            self.meet(&better, &[(bytes, found)], None)?;
        }
        Ok(())
    }

    /// The structures that are best in this many bytes, and their figures.
    fn structured(&mut self, bytes: usize, reference: Found) -> Step<(Vec<Structure>, Found)> {
        let plain = self.space.plain(Quantizer::Bytes(bytes));
        let with = |changes: &[(usize, Structure)]| {
            let mut candidate = plain.clone();
            changes.iter().for_each(|&(group, structure)| candidate.structures[group] = structure);
            candidate
        };
        let groups = self.space.groups.iter().enumerate();
        let singles: Vec<(usize, Structure)> =
            groups.flat_map(|(k, group)| group.coarse().into_iter().map(move |s| (k, s))).collect();
        let found = self.ask(&singles.iter().map(|&single| with(&[single])).collect::<Vec<_>>())?;
        // The best of each group that helps, the most helpful first.
        let mut helpful: Vec<(f64, (usize, Structure))> = vec![];
        let mut current = (plain.structures.clone(), reference);
        for (&(group, structure), found) in singles.iter().zip(found) {
            let Some(found) = found else { continue };
            let effect = (found.perplexity / reference.perplexity).ln();
            if found.perplexity < current.1.perplexity {
                current = (with(&[(group, structure)]).structures, found);
            }
            let other = helpful.iter_mut().find(|(_, (g, _))| *g == group);
            match other {
                _ if effect >= 0.0 => {}
                Some(old) if old.0 <= effect => {}
                Some(old) => *old = (effect, (group, structure)),
                None => helpful.push((effect, (group, structure))),
            }
        }
        helpful.sort_by(|a, b| a.0.total_cmp(&b.0));
        // Together: the first two, the first three, ...
        let together: Vec<Candidate> = (2..=helpful.len().min(TOGETHER + 1))
            .map(|n| with(&helpful[..n].iter().map(|(_, change)| *change).collect::<Vec<_>>()))
            .collect();
        for (candidate, found) in together.iter().zip(self.ask(&together)?) {
            if let Some(found) = found.filter(|f| f.perplexity < current.1.perplexity) {
                current = (candidate.structures.clone(), found);
            }
        }
        for _ in 0..NEIGHBOURHOODS {
            let mut near = vec![];
            for (k, group) in self.space.groups.iter().enumerate() {
                let now = current.0[k];
                // What is not changed yet was tried one at a time, but for the embedding's gentlest rank.
                if now == Structure::Dense && group.role != Role::Embedding {
                    continue;
                }
                for structure in group.near(now) {
                    let mut candidate = Candidate { structures: current.0.clone(), ..plain.clone() };
                    candidate.structures[k] = structure;
                    near.push(candidate);
                }
            }
            let before = current.1.perplexity;
            for (candidate, found) in near.iter().zip(self.ask(&near)?) {
                if let Some(found) = found.filter(|f| f.perplexity < current.1.perplexity) {
                    current = (candidate.structures.clone(), found);
                }
            }
            if current.1.perplexity >= before {
                break;
            }
        }
        Ok(current)
    }

    /// Successive halving (Jamieson and Talwalkar 2016) over structures and lengths of training.
    fn trained(&mut self, bytes: usize, seed: u64) -> Step<()> {
        let outer = |part: f64| -> Vec<Structure> {
            let low = |g: &super::space::Group| match g.role {
                Role::Embedding | Role::Output => g.rank(part),
                _ => Structure::Dense,
            };
            self.space.groups.iter().map(low).collect()
        };
        let mut arms = vec![self.space.plain(Quantizer::Kept).structures];
        arms.extend(TRAINED_RANKS.map(outer));
        arms.sort();
        arms.dedup();
        // A trained model bears more: its budget of perplexity is met at a smaller size.
        let bytes = match self.budget {
            Budget::Bytes(_) => bytes,
            _ => rounded(bytes as f64 * 0.7),
        };
        let (mut epochs, eta, rungs) = RUNGS;
        for rung in 0..rungs {
            let base = |structures: &Vec<Structure>| Candidate {
                structures: structures.clone(),
                training: Some(Training { epochs, seed }),
                ..self.space.plain(Quantizer::Kept)
            };
            let bases: Vec<Candidate> = arms.iter().map(base).collect();
            let trained = self.ask(&bases)?;
            let coded: Vec<Candidate> = bases.iter().map(|base| at(base, bytes)).collect();
            let found = self.ask(&coded)?;
            // Trained, and with codes.
            let mut ranked: Vec<(Found, Found, usize)> =
                (0..arms.len()).filter_map(|k| Some((trained[k]?, found[k]?, k))).collect();
            ranked.sort_by(|a, b| a.1.perplexity.total_cmp(&b.1.perplexity));
            if rung + 1 == rungs {
                let Some(&(trained, found, k)) = ranked.first() else { return Ok(()) };
                return self.coded(&bases[k], trained.perplexity, (bytes, found), seed);
            }
            arms = ranked.iter().take(ranked.len().div_ceil(eta)).map(|&(_, _, k)| arms[k].clone()).collect();
            epochs *= eta as f64;
        }
        Ok(())
    }

    /// Codes of a trained model with this perplexity, and the same trained, at several sizes.
    fn coded(&mut self, base: &Candidate, trained: f64, known: (usize, Found), seed: u64) -> Step<()> {
        let ladder = |every: usize| -> Vec<Candidate> {
            let rates = RATES.into_iter().step_by(every);
            rates.map(|rate| Candidate { quantizer: Quantizer::Rate(rate), ..base.clone() }).collect()
        };
        let mut near = vec![known];
        if !matches!(self.budget, Budget::Bytes(_)) {
            near.extend(self.ask(&ladder(COARSE))?.into_iter().flatten().map(|f| (f.bytes, f)));
        }
        let Some((bytes, _)) = self.meet(base, &near, Some(trained))? else { return Ok(()) };
        let (epochs, parts) = TUNING;
        let tuned = Candidate { tuning: Some(Training { epochs, seed }), ..base.clone() };
        if let Some(found) = self.ask_one(&at(&tuned, bytes))? {
            self.meet(&tuned, &[(bytes, found)], Some(trained))?;
        }
        self.ask(&parts.map(|part| at(&tuned, rounded(bytes as f64 * part))))?;
        self.ask(&ladder(1))?;
        Ok(())
    }

    /// For time.
    fn timed(&mut self, most: f64) -> Step<()> {
        let choices: Vec<Vec<(Structure, u32)>> = self.space.groups.iter().map(|g| g.timed()).collect();
        let build = |chosen: &[usize]| Candidate {
            structures: chosen.iter().zip(&choices).map(|(&k, all)| all[k].0).collect(),
            ..self
                .space
                .plain(Quantizer::Bits(chosen.iter().zip(&choices).map(|(&k, all)| all[k].1).collect()))
        };
        let first = vec![0; choices.len()];
        let single = |group: usize, k: usize| {
            let mut chosen = first.clone();
            chosen[group] = k;
            chosen
        };
        let all: Vec<(usize, usize)> =
            (0..choices.len()).flat_map(|g| (1..choices[g].len()).map(move |k| (g, k))).collect();
        let mut asked = vec![build(&first)];
        asked.extend(all.iter().map(|&(g, k)| build(&single(g, k))));
        let found = self.ask(&asked)?;
        let timed = |found: &Found| found.microseconds.map(|us| (found.perplexity.ln(), us));
        let Some((loss, time)) = found[0].as_ref().and_then(timed) else { return Ok(()) };
        let effect =
            |found: &Found| timed(found).map(|(l, us)| Effect { loss: l - loss, microseconds: us - time });
        // The measured effect of each choice of each group, fastest first; what failed is not a choice.
        let mut curves: Vec<Vec<(usize, Effect)>> = vec![vec![(0, Effect::default())]; choices.len()];
        for (&(group, k), found) in all.iter().zip(&found[1..]) {
            if let Some(effect) = found.as_ref().and_then(effect) {
                curves[group].push((k, effect));
            }
        }
        for curve in &mut curves {
            curve.sort_by(|a, b| a.1.microseconds.total_cmp(&b.1.microseconds).then(a.0.cmp(&b.0)));
        }
        let mut additive = Additive::default();
        let mut measured: Vec<(Vec<Effect>, Effect)> = vec![];
        let effects =
            |chosen: &[usize]| -> Vec<Effect> { curves.iter().zip(chosen).map(|(c, &k)| c[k].1).collect() };
        let made =
            |chosen: &[usize]| build(&curves.iter().zip(chosen).map(|(c, &k)| c[k].0).collect::<Vec<_>>());
        // Indices into curves from here on.
        let mut tried: Vec<(Vec<usize>, Found)> = vec![];
        for _ in 0..ALLOCATIONS {
            let fastest = || curves.iter().map(|_| 0).collect::<Vec<usize>>();
            let mut round: Vec<Vec<usize>> = vec![];
            for part in [1.0, 0.97, 0.93] {
                let options: Vec<Vec<Choice>> = curves
                    .iter()
                    .map(|curve| {
                        let choice = |(_, e): &(usize, Effect)| {
                            let effect = additive.predict([*e]);
                            Choice { size: effect.microseconds, error: effect.loss }
                        };
                        curve.iter().map(choice).collect()
                    })
                    .collect();
                // A small time that no choice reaches is nearest to the fastest of all.
                let chosen = allocate(&options, most * part - time).unwrap_or_else(fastest);
                if !round.contains(&chosen) && !tried.iter().any(|(c, _)| *c == chosen) {
                    round.push(chosen);
                }
            }
            if round.is_empty() {
                break;
            }
            let found = self.ask(&round.iter().map(|c| made(c)).collect::<Vec<_>>())?;
            for (chosen, found) in round.into_iter().zip(found) {
                let Some(found) = found else { continue };
                if let Some(effect) = effect(&found) {
                    measured.push((effects(&chosen), effect));
                }
                tried.push((chosen, found));
            }
            additive = Additive::corrected(&measured);
        }
        for _ in 0..NEIGHBOURHOODS {
            let budget = self.budget;
            let Some(best) = best(&budget, &self.points).cloned() else { return Ok(()) };
            let Some((now, at)) = tried.iter().find(|(_, f)| *f == best.found).cloned() else {
                return Ok(());
            };
            let mut near: Vec<(f64, Vec<usize>)> = vec![];
            let here = additive.predict(effects(&now));
            for (group, curve) in curves.iter().enumerate() {
                for k in (0..curve.len()).filter(|&k| k != now[group]) {
                    let mut chosen = now.clone();
                    chosen[group] = k;
                    let there = additive.predict(effects(&chosen));
                    let us =
                        at.microseconds.unwrap_or(f64::INFINITY) + there.microseconds - here.microseconds;
                    let is_new = !tried.iter().any(|(c, _)| *c == chosen);
                    let helps = if budget.is_met(&at) {
                        there.loss < here.loss && us <= most * 1.02
                    } else {
                        us < at.microseconds.unwrap_or(f64::INFINITY)
                    };
                    if is_new && helps {
                        let key = if budget.is_met(&at) { there.loss } else { us };
                        near.push((key, chosen));
                    }
                }
            }
            near.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
            near.truncate(TOGETHER);
            if near.is_empty() {
                break;
            }
            let found = self.ask(&near.iter().map(|(_, c)| made(c)).collect::<Vec<_>>())?;
            tried.extend(near.into_iter().zip(found).filter_map(|((_, c), f)| Some((c, f?))));
        }
        Ok(())
    }
}

/// A candidate with codes in so many bytes.
fn at(candidate: &Candidate, bytes: usize) -> Candidate {
    Candidate { quantizer: Quantizer::Bytes(bytes), ..candidate.clone() }
}

/// Four significant digits, rounded down: texts of pipelines stay short, and sizes within a budget.
fn rounded(bytes: f64) -> usize {
    let unit = 10f64.powi((bytes.max(1.0).log10().floor() as i32 - 3).max(0));
    ((bytes / unit).floor() * unit).max(1.0) as usize
}

#[cfg(test)]
mod tests {
    use super::super::space::tests::space;
    use super::*;
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    /// A model whose loss falls fourfold for each bit a weight; low ranks of the embedding help a little, all else does harm. Time is by codes and ranks.
    fn world(space: &Space, pipeline: &str) -> Outcome {
        let number = |name: &str| -> Option<f64> {
            let rest = pipeline.split(&format!("{name}=")).nth(1)?;
            rest.split([',', ')']).next()?.parse().ok()
        };
        let parameters = space.parameters as f64;
        if number("bytes").is_some_and(|b| b < 100.0) {
            return Err("too small".into());
        }
        let rate = number("rate").or(number("bytes").map(|b| 8.0 * b / parameters)).unwrap_or(4.0);
        let mut rise = 0.5 * 4f64.powf(1.0 - rate);
        rise *= if pipeline.contains("low-rank(target=embedding") { 0.9 } else { 1.0 };
        rise *= 1.3f64.powi(pipeline.matches("prune").count() as i32);
        rise *= if pipeline.contains("low-rank(target=decoder") { 1.2 } else { 1.0 };
        rise += 0.01 * pipeline.matches("bits=2").count() as f64;
        rise += 0.002 * pipeline.matches("bits=4").count() as f64;
        rise -= number("epochs").map_or(0.0, |e| 0.01 * (1.0 + e).ln());
        let us = 100.0
            - 10.0 * pipeline.matches("bits=4").count() as f64
            - 20.0 * pipeline.matches("bits=2").count() as f64
            - 9.0 * pipeline.matches("low-rank").count() as f64;
        let bytes = (rate * parameters / 8.0) as usize + 3;
        Ok(Found { bytes, perplexity: 100.0 * rise.exp(), before: 100.0, microseconds: Some(us) })
    }

    /// Runs a plan to its end; `at_once` of a round's candidates are evaluated before the plan is asked again.
    fn run(budget: Budget, most: usize, seed: Option<u64>, at_once: usize) -> (Vec<Point>, Stop) {
        let space = space();
        let results: RefCell<BTreeMap<String, Outcome>> = RefCell::default();
        loop {
            let known = |pipeline: &str| results.borrow().get(pipeline).cloned();
            match next(&space, budget, &known, most, seed) {
                Next::End(stop) => {
                    let points = results
                        .into_inner()
                        .into_iter()
                        .filter_map(|(pipeline, outcome)| Some(Point { pipeline, found: outcome.ok()? }));
                    return (points.collect(), stop);
                }
                Next::Round(missing) => {
                    assert!(!missing.is_empty());
                    for pipeline in missing.into_iter().take(at_once) {
                        let outcome = world(&space, &pipeline);
                        assert!(results.borrow_mut().insert(pipeline, outcome).is_none());
                    }
                }
            }
        }
    }

    #[test]
    fn budgets_are_met_and_used_up() {
        for budget in [
            Budget::Bytes(9000),
            Budget::Increase(0.05),
            Budget::Perplexity(104.0),
            Budget::Microseconds(70.0),
        ] {
            let (points, stop) = run(budget, 500, None, usize::MAX);
            assert_eq!(stop, Stop::Exhausted);
            let best = best(&budget, &points).unwrap();
            let excess = budget.excess(&best.found);
            // Choices of time are few and far between here.
            let least = if matches!(budget, Budget::Microseconds(_)) { -0.15 } else { -0.05 };
            assert!(excess <= 0.0 && excess > least, "{budget:?}: {best:?}");
            if !matches!(budget, Budget::Microseconds(_)) {
                assert!(best.pipeline.starts_with("low-rank(target=embedding"), "{best:?}");
            }
        }
    }

    #[test]
    fn impossible_budgets_end() {
        for budget in
            [Budget::Bytes(5), Budget::Increase(0.0), Budget::Perplexity(50.0), Budget::Microseconds(1.0)]
        {
            let (points, stop) = run(budget, 500, Some(1), usize::MAX);
            assert_eq!(stop, Stop::Exhausted, "{budget:?}");
            let best = best(&budget, &points).unwrap();
            assert!(
                budget.excess(&best.found) > -1e-3 || matches!(budget, Budget::Increase(_)),
                "{budget:?}: {best:?}"
            );
        }
    }

    /// Whether a round is evaluated whole or in pieces, the same candidates are asked for.
    #[test]
    fn pieces_of_rounds_are_the_same_search() {
        for budget in [Budget::Bytes(9000), Budget::Increase(0.05), Budget::Microseconds(70.0)] {
            let whole = run(budget, 500, Some(1), usize::MAX);
            assert_eq!(run(budget, 500, Some(1), 1), whole);
            assert_eq!(run(budget, 500, Some(1), 3), whole);
        }
    }

    #[test]
    fn candidates_are_counted() {
        let (points, stop) = run(Budget::Bytes(9000), 7, None, 2);
        assert_eq!((points.len(), stop), (7, Stop::Candidates));
    }

    #[test]
    fn training_is_halved() {
        let (points, _) = run(Budget::Bytes(9000), 500, Some(7), usize::MAX);
        let count = |epochs: &str| points.iter().filter(|p| p.pipeline.contains(epochs)).count();
        let [short, middle, long] = ["epochs=1, opt", "epochs=3, opt", "epochs=9, opt"].map(count);
        assert!(short > middle && middle == 2 && long > RATES.len(), "{short} {middle} {long}");
        assert_eq!(points.iter().filter(|p| p.pipeline.matches("recover").count() == 2).count(), 4);
        assert!(points.iter().any(|p| p.pipeline.contains("seed=7")));
    }

    #[test]
    fn sizes_are_short_and_not_above() {
        assert_eq!([1_234_567.0, 999.9, 0.2, 12_340.0].map(rounded), [1_234_000, 999, 1, 12_340]);
    }
}
