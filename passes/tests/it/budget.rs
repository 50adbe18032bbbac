//! The driver: verification, the budget, stopping and observing, with passes made for it.

use lstmc_frontend::ir::{Graph, LinearMap, parse};
use lstmc_frontend::tensor::Tensor;
use lstmc_passes::options::{Kind, OptionInfo, Options};
use lstmc_passes::{
    Budget, Context, Evaluate, Outcome, Pass, PassError, PassInfo, Patch, Pipeline, Run, RunError, Settings,
    Verdict, run,
};

const MODEL: &str = r#"
model "tiny" (vocabulary 3) {
  %tokens: i64[S, B] = input
  %h0: f32[B, 2] = state
  %c0: f32[B, 2] = state
  %x0 = embedding %tokens, @embedding
  %x1, %h0.next, %c0.next = lstm %x0, %h0, %c0, @lstm0.input, @lstm0.recurrent, @lstm0.bias {gates = iofc}
  %logits = linear %x1, @decoder, @decoder.bias
  return logits %logits, state %h0 = %h0.next, state %c0 = %c0.next
}
@embedding: f32[3, 2] random 1
@lstm0.input: f32[8, 2] random 2
@lstm0.recurrent: f32[8, 2] random 3
@lstm0.bias: f32[8] random 4
@decoder: f32[3, 2] random 5
@decoder.bias: f32[3] random 6
"#;

/// Fills `@decoder` with a number, which the evaluator below takes for the perplexity.
struct Fill(f64);

impl Pass for Fill {
    fn run(&self, graph: &Graph, _: &mut Context<'_>) -> Result<Outcome, PassError> {
        let id = graph.weight_named("decoder").unwrap();
        let filled = match self.0 {
            0.0 => return Ok(Outcome::NoEffect("nothing to fill with".into())),
            x if x < 0.0 => Tensor::from_f32([1], vec![0.0]),
            x => Tensor::from_f32([3, 2], vec![x as f32; 6]),
        };
        Ok(Outcome::Patch(Patch::weights(vec![(id, LinearMap::Dense(filled.unwrap()))])))
    }
}

fn make(options: &Options) -> Result<Box<dyn Pass>, PassError> {
    Ok(Box::new(Fill(options.get("with"))))
}

/// Says what `@decoder` is filled with in the reference.
struct Tell;

impl Pass for Tell {
    fn run(&self, _: &Graph, context: &mut Context<'_>) -> Result<Outcome, PassError> {
        let reference = context.reference.as_ref().unwrap();
        let decoder = reference.weight(reference.weight_named("decoder").unwrap()).map.to_dense().unwrap();
        Ok(Outcome::NoEffect(decoder.to_f32().unwrap()[0].to_string()))
    }
}

static WITH: &[OptionInfo] =
    &[OptionInfo::new("with", Kind::Number { min: -1.0, max: 1000.0 }, "the number").required()];

static TABLE: &[PassInfo] = &[
    PassInfo {
        name: "fill",
        summary: "fill the decoder",
        options: WITH,
        lossy: true,
        recovers: false,
        needs_calibration: |_| false,
        make,
    },
    PassInfo {
        name: "set",
        summary: "the same, said to be lossless",
        options: WITH,
        lossy: false,
        recovers: false,
        needs_calibration: |_| false,
        make,
    },
    PassInfo {
        name: "refill",
        summary: "fill it with what is better",
        options: WITH,
        lossy: true,
        recovers: true,
        needs_calibration: |_| false,
        make,
    },
    PassInfo {
        name: "tell",
        summary: "tell what the reference is filled with",
        options: &[],
        lossy: true,
        recovers: false,
        needs_calibration: |_| false,
        make: |_| Ok(Box::new(Tell)),
    },
];

/// The reference is the model before it was compressed: trained, if training came first.
#[test]
fn the_reference_is_what_is_compressed() {
    let told = |passes: &str| {
        let pipeline = Pipeline::parse_with(passes, TABLE).unwrap();
        let run = run(&pipeline, parse(MODEL).unwrap(), Settings::default()).unwrap();
        match run.trail.records.last().unwrap().verdict.clone() {
            Verdict::NoEffect(what) => what,
            other => panic!("{other}"),
        }
    };
    assert_eq!(told("refill(with=5), fill(with=7), refill(with=6), tell"), "5");
    assert_eq!(told("fill(with=7), refill(with=6), tell"), told("tell"));
}

/// Perplexity is 100 for the model as it is, and the decoder's first element once that is filled.
struct FirstElement {
    calls: usize,
}

impl Evaluate for FirstElement {
    fn perplexity(&mut self, graph: &Graph) -> Result<f64, String> {
        self.calls += 1;
        let decoder = graph.weight(graph.weight_named("decoder").unwrap()).map.to_dense().unwrap();
        let first = f64::from(decoder.f32s().unwrap()[0]);
        Ok(if first < 2.0 { 100.0 } else { first })
    }
}

fn run_with(pipeline: &str, budget: Budget) -> (Result<Run, RunError>, usize) {
    let pipeline = Pipeline::parse_with(pipeline, TABLE).unwrap();
    let mut evaluator = FirstElement { calls: 0 };
    let mut settings = Settings { budget, ..Settings::default() };
    settings.context.evaluator = Some(&mut evaluator);
    let result = run(&pipeline, parse(MODEL).unwrap(), settings);
    (result, evaluator.calls)
}

fn decoder(graph: &Graph) -> f32 {
    graph.weight(graph.weight_named("decoder").unwrap()).map.to_dense().unwrap().f32s().unwrap()[0]
}

#[test]
fn a_pass_over_the_budget_is_rejected_and_the_run_goes_on() {
    let budget = Budget { max_perplexity: Some(120.0), ..Budget::default() };
    let (result, calls) = run_with("fill(with=110), fill(with=131.25), fill(with=115), fill(with=0)", budget);
    let run = result.unwrap();
    insta::assert_snapshot!(run.trail.to_string());
    assert_eq!(decoder(&run.graph), 115.0);
    assert_eq!(calls, 4, "once before, once after each patch");
    assert_eq!(run.trail.records[2].before.perplexity, Some(110.0), "not that of the rejected graph");
    assert_eq!(run.trail.records[0].weights_changed, ["decoder"]);
}

#[test]
fn an_increase_counts_from_before_the_first_lossy_pass() {
    let budget = Budget { max_increase: Some(0.1), ..Budget::default() };
    let run = run_with("set(with=1), fill(with=109), fill(with=111), fill(with=110)", budget).0.unwrap();
    let verdicts: Vec<String> = run.trail.records.iter().map(|r| r.verdict.to_string()).collect();
    assert_eq!(
        verdicts,
        ["applied", "applied", "rejected: perplexity 111.00 > 110.00 (100.00 and 10%)", "applied"]
    );
}

/// A pass and what recovers directly after it are judged together, and rejected together.
#[test]
fn what_recovers_is_judged_with_what_it_recovers() {
    let budget = Budget { max_perplexity: Some(120.0), ..Budget::default() };
    let kept = |pipeline| {
        let run = run_with(pipeline, budget).0.unwrap();
        let verdicts: Vec<bool> = run.trail.records.iter().map(|r| r.verdict == Verdict::Applied).collect();
        assert_eq!(run.trail.after().unwrap().perplexity, Some(f64::from(decoder(&run.graph)).max(100.0)));
        (decoder(&run.graph), verdicts)
    };
    assert_eq!(kept("fill(with=131), refill(with=115)"), (115.0, vec![true, true]));
    assert_eq!(kept("fill(with=131), refill(with=125), refill(with=115)"), (115.0, vec![true; 3]));
    assert_eq!(kept("fill(with=110), fill(with=131), refill(with=125)"), (110.0, vec![true, false, false]));
    assert_eq!(kept("set(with=1), fill(with=131), refill(with=0)"), (1.0, vec![true, false, false]));
    // Another pass between them, or none before, and each is judged alone.
    assert_eq!(
        kept("set(with=1), fill(with=131), set(with=0), refill(with=115)"),
        (115.0, vec![true, false, false, true])
    );
    assert_eq!(kept("fill(with=110), fill(with=0), refill(with=131)"), (110.0, vec![true, false, false]));
    let strict = Budget { strict: true, ..budget };
    assert!(run_with("fill(with=131), refill(with=115)", strict).0.is_ok());
    let error = run_with("fill(with=131), refill(with=125)", strict).0.unwrap_err();
    assert!(error.to_string().starts_with("pass 2, refill(with=125): rejected"), "{error}");
}

#[test]
fn a_strict_budget_stops_the_run() {
    let budget = Budget { max_perplexity: Some(120.0), strict: true, ..Budget::default() };
    let error = run_with("fill(with=110), fill(with=131)", budget).0.unwrap_err();
    insta::assert_snapshot!(error.to_string());
}

#[test]
fn a_budget_without_an_evaluator_is_an_error() {
    let budget = Budget { max_perplexity: Some(120.0), ..Budget::default() };
    let settings = Settings { budget, ..Settings::default() };
    let error = run(&Pipeline::default(), parse(MODEL).unwrap(), settings).unwrap_err();
    assert!(matches!(error, RunError::NoEvaluator));
}

#[test]
fn a_patch_that_does_not_fit_is_an_error() {
    let error = run_with("fill(with=-1)", Budget::default()).0.unwrap_err();
    insta::assert_snapshot!(error.to_string());
}

#[test]
fn a_run_stops_where_it_is_told_and_shows_each_graph() {
    let pipeline = Pipeline::parse_with("fill(with=1), fill(with=2), fill(with=3)", TABLE).unwrap();
    let mut seen = vec![];
    let mut observer = |record: &lstmc_passes::Record, graph: &Graph| {
        seen.push(format!("{} {}", record.invocation, decoder(graph)));
    };
    let settings = Settings { stop_after: Some(2), observer: Some(&mut observer), ..Settings::default() };
    let run = run(&pipeline, parse(MODEL).unwrap(), settings).unwrap();
    assert_eq!(seen, ["fill(with=1) 1", "fill(with=2) 2"]);
    assert_eq!(decoder(&run.graph), 2.0);
    assert_eq!(run.trail.records.len(), 2);
    assert!(run.trail.records.iter().all(|r| r.verdict == Verdict::Applied));
}

#[test]
fn a_trail_is_json() {
    let run = run_with("fill(with=110), fill(with=0)", Budget::default()).0.unwrap();
    insta::assert_snapshot!(serde_json::to_string_pretty(&run.trail).unwrap());
}
