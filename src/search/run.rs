//! A search under way: its plan, its folder, and what it knows.

use super::choice::{Budget, best, frontier};
use super::evaluate::{Parts, Setup};
use super::folder::Folder;
use super::plan::{Next, Stop, next};
use super::space::Space;
use super::{Found, Outcome, Point};
use crate::compare::step_times;
use crate::{Error, Source};
use lstmc_backend::Options;
use lstmc_frontend::ir::Graph;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The time of a step of a model elsewhere, in microseconds; or the layer whose time is not known.
pub type Predict = Box<dyn Fn(&Graph) -> Result<f64, String> + Send + Sync>;

/// How a search chooses.
pub struct Choosing {
    /// What is allowed.
    pub budget: Budget,
    /// The seed of training, if there is a text for it.
    pub seed: Option<u64>,
    /// Candidates at most, those of earlier calls included.
    pub most: usize,
    /// How code is generated that is timed.
    pub options: Options,
    /// Instead of times of this machine.
    pub predict: Option<Predict>,
}

/// A pipeline that is to be evaluated.
#[derive(Clone, Debug)]
pub struct Job {
    /// All passes, as text.
    pub pipeline: String,
    /// Where a model is that some of its passes made before.
    pub trained: Option<Trained>,
}

/// A trained model in the search's folder.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The passes that made it, as text, and those that are left.
    pub passes: [String; 2],
    /// Its file.
    pub model: PathBuf,
}

/// How a search goes on.
pub enum Round {
    /// These are to be evaluated.
    Jobs(Vec<Job>),
    /// It ends.
    End(Stop),
}

/// A search under way.
pub struct Search {
    choosing: Choosing,
    setup: Arc<Setup>,
    space: Space,
    pub(super) folder: Folder,
    /// What became of the pipelines that were asked for.
    known: BTreeMap<String, Outcome>,
    /// The time of a step, by key.
    latencies: BTreeMap<String, f64>,
    /// Models with a layer whose time is not known, and that layer.
    unknown: Vec<(String, String)>,
    /// The last round.
    asked: Vec<String>,
}

impl Search {
    /// A search that keeps everything in a folder, and goes on after what it finds there.
    ///
    /// # Errors
    ///
    /// If the model has nothing to compress, or the folder cannot be used.
    pub fn new(setup: Arc<Setup>, folder: &Path, choosing: Choosing) -> Result<Search, Error> {
        let source = setup.source();
        let space = Space::of(&source.graph, setup.table())
            .map_err(|e| Error::Search(format!("{}: {e}", source.path.display())))?;
        let folder = Folder::open(folder, setup.identity())?;
        let latencies = match choosing.predict {
            Some(_) => BTreeMap::new(),
            None => folder.latencies(choosing.options.level.name())?,
        };
        let (known, unknown, asked) = (BTreeMap::new(), vec![], vec![]);
        Ok(Search { choosing, setup, space, folder, known, latencies, unknown, asked })
    }

    /// What pipelines work on.
    pub fn setup(&self) -> &Arc<Setup> {
        &self.setup
    }

    /// Its files.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// What is allowed.
    pub fn budget(&self) -> Budget {
        self.choosing.budget
    }

    /// How code is generated that is timed.
    pub fn options(&self) -> Options {
        self.choosing.options
    }

    /// What became of candidates.
    pub fn known(&self) -> &BTreeMap<String, Outcome> {
        &self.known
    }

    /// Models whose time could not be predicted, each with a layer whose time is not known.
    pub fn unknown(&self) -> &[(String, String)] {
        &self.unknown
    }

    /// The models so far.
    pub fn points(&self) -> Vec<Point> {
        let point = |(pipeline, outcome): (&String, &Outcome)| {
            Some(Point { pipeline: pipeline.clone(), found: *outcome.as_ref().ok()? })
        };
        self.known.iter().filter_map(point).collect()
    }

    /// The best model so far.
    pub fn best(&self) -> Option<Point> {
        best(&self.choosing.budget, &self.points()).cloned()
    }

    /// What is to be evaluated next. What is in the folder already is taken from there.
    pub fn next_round(&mut self) -> Result<Round, Error> {
        loop {
            // All of it is known by now.
            let asked = std::mem::take(&mut self.asked);
            if matches!(self.choosing.budget, Budget::Microseconds(_)) {
                self.time(&asked)?;
            }
            let known = |pipeline: &str| self.known.get(pipeline).cloned();
            let Choosing { budget, most, seed, .. } = self.choosing;
            let round = match next(&self.space, budget, &known, most, seed) {
                Next::End(stop) => return Ok(Round::End(stop)),
                Next::Round(round) => round,
            };
            let mut missing = vec![];
            for pipeline in &round {
                match self.folder.load(pipeline)? {
                    Some(outcome) => {
                        self.learn(pipeline, outcome)?;
                    }
                    None => missing.push(Job { pipeline: pipeline.clone(), trained: self.trained(pipeline) }),
                }
            }
            self.asked = round;
            if !missing.is_empty() {
                return Ok(Round::Jobs(missing));
            }
        }
    }

    /// The model that a pipeline's training made, if there is one. Training that follows is towards the better of two models, so it must be better than the one as given.
    fn trained(&self, pipeline: &str) -> Option<Trained> {
        let Parts { first, rest, trains_again } = self.setup.parts(pipeline)?;
        let found = self.known.get(&first)?.as_ref().ok()?;
        let model = self.folder.model(&first);
        (model.is_file() && (!trains_again || found.perplexity < found.before))
            .then_some(Trained { passes: [first, rest], model })
    }

    /// Takes in what became of a candidate: keeps its model or the reason why there is none, and returns a line about it.
    pub fn take(&mut self, pipeline: &str, made: Result<Source, String>) -> Result<String, Error> {
        let outcome = match made {
            Ok(source) => {
                source.write(self.folder.model(pipeline))?;
                let lost = || {
                    Error::Search(format!("{}: cannot be read back", self.folder.model(pipeline).display()))
                };
                self.folder.load(pipeline)?.ok_or_else(lost)?
            }
            Err(reason) => {
                let outcome = Err(reason);
                self.folder.note(pipeline, &outcome)?;
                outcome
            }
        };
        self.learn(pipeline, outcome)
    }

    /// Adds an outcome; returns a line about it.
    fn learn(&mut self, pipeline: &str, outcome: Outcome) -> Result<String, Error> {
        let key = self.folder.key(pipeline);
        let line = match &outcome {
            Ok(f) => format!("{key}  {} bytes, perplexity {:.3}: {pipeline}", f.bytes, f.perplexity),
            Err(reason) => format!("{key}  failed: {reason}: {pipeline}"),
        };
        self.log(&line)?;
        let microseconds = self.latencies.get(&key).copied();
        let outcome = outcome.map(|found| Found { microseconds, ..found });
        self.known.insert(pipeline.into(), outcome);
        Ok(line)
    }

    /// Adds a line to the log.
    pub fn log(&self, line: &str) -> Result<(), Error> {
        let path = self.folder.file("log.txt");
        let opened = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        let written = opened.and_then(|mut file| writeln!(file, "{line}"));
        written.map_err(|reason| Error::Write { path, reason })
    }

    /// Times the models that have not been timed, all else at rest.
    pub(super) fn time(&mut self, pipelines: &[String]) -> Result<(), Error> {
        let tokens: Vec<Vec<u32>> = vec![self.setup.validation().to_vec()];
        let options = self.choosing.options;
        let mut is_changed = false;
        for pipeline in pipelines {
            let key = self.folder.key(pipeline);
            let Some(Ok(found)) = self.known.get_mut(pipeline) else { continue };
            if found.microseconds.is_some() {
                continue;
            }
            let source = Source::read(self.folder.model(pipeline))?;
            if let Some(predict) = &self.choosing.predict {
                match predict(&source.graph) {
                    Ok(time) => found.microseconds = Some(time),
                    Err(layer) => self.unknown.push((pipeline.clone(), layer)),
                }
                continue;
            }
            let time = step_times(&[source.compile(options)?], &tokens)?[0].as_secs_f64() * 1e6;
            found.microseconds = Some(time);
            self.latencies.insert(key, time);
            is_changed = true;
        }
        if is_changed {
            self.folder.keep_latencies(options.level.name(), &self.latencies)?;
        }
        Ok(())
    }

    /// The frontier from the largest model on, and the best one; all of them timed. None if there is no model.
    pub(super) fn timed_frontier(&mut self) -> Result<Option<(Vec<Point>, Point)>, Error> {
        let budget = self.choosing.budget;
        let points = self.points();
        let Some(best) = best(&budget, &points).cloned() else { return Ok(None) };
        let of_frontier = frontier(&budget, &points);
        let pipelines = of_frontier.iter().map(|p| &p.pipeline[..]).chain([&best.pipeline[..]]);
        self.time(&distinct(pipelines))?;
        let points = self.points();
        let find = |point: &Point| points.iter().find(|p| p.pipeline == point.pipeline).cloned();
        let best = find(&best).unwrap_or(best);
        Ok(Some((of_frontier.iter().filter_map(find).collect(), best)))
    }
}

/// Pipelines without a repeat, in order.
pub fn distinct<'p>(pipelines: impl Iterator<Item = &'p str>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    pipelines.filter(|p| seen.insert(p.to_string())).map(String::from).collect()
}
