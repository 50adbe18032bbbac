//! `lstmc verify`: ONNX test cases in the standard layout.

use super::CpuArgs;
use crate::Engine;
use crate::backend::Jit;
use crate::frontend::canonicalize::{canonicalize, trace};
use crate::frontend::interpret::Interpreter;
use crate::frontend::ir::{Graph, Onnx, Op};
use crate::frontend::onnx::{read, read_tensor, read_with_inputs};
use crate::frontend::tensor::{DType, Tensor};
use crate::runtime::{Description, Head, Model};
use crate::terminal::Usage;
use anyhow::{Context, bail};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Run ONNX test cases and compare their outputs
///
/// A case is a folder in ONNX's standard layout: model.onnx, and test_data_set_N/input_K.pb, output_K.pb. A folder of cases runs them all.
/// The interpreter runs any graph of supported operators and compares every output. The JIT runs recurrent models step by step, from the states that the
/// case gives, and compares the output that was compiled, in whatever form the model returns it: all steps or the last, flat or transposed, logits,
/// probabilities or costs (as log-probabilities), or a hidden vector.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  lstmc verify testdata/onnx testdata/tiny")]
pub(crate) struct Args {
    /// Cases, or folders of cases
    #[arg(value_name = "DIR", required = true)]
    dirs: Vec<PathBuf>,
    /// What computes
    #[arg(long, value_enum, default_value_t = Engine::Interpreter)]
    engine: Engine,
    #[command(flatten)]
    cpu: CpuArgs,
    /// Relative tolerance, as in ONNX's own runner
    #[arg(long, default_value_t = 1e-3)]
    rtol: f64,
    /// Absolute tolerance [default: 16 times the output's machine epsilon, or 8/127 if the file quantizes the vectors that products read, times
    /// its largest element if that is above 1]
    #[arg(long)]
    atol: Option<f64>,
    /// Print failures and the count only
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let mut cases = vec![];
    for dir in &args.dirs {
        find(dir, &mut cases)?;
    }
    let mut out = std::io::stdout().lock();
    let mut failed = 0;
    for case in &cases {
        match check(case, args) {
            Ok(what) if !args.quiet => writeln!(out, "ok    {} ({what})", case.display())?,
            Ok(_) => {}
            Err(e) => {
                failed += 1;
                writeln!(out, "FAIL  {}: {e:#}", case.display())?;
            }
        }
    }
    writeln!(out, "{} passed, {failed} failed", cases.len() - failed)?;
    drop(out);
    if failed > 0 {
        bail!("{failed} of {} cases failed", cases.len());
    }
    Ok(())
}

/// The cases below a folder, in order of their names.
fn find(dir: &Path, cases: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    if dir.join("model.onnx").exists() {
        cases.push(dir.into());
        return Ok(());
    }
    let entries = std::fs::read_dir(dir).map_err(|reason| crate::Error::Read { path: dir.into(), reason })?;
    let mut below: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|e| e.path())
        .filter(|p| p.join("model.onnx").exists() && !sets(p).is_empty())
        .collect();
    if below.is_empty() {
        let what = "no case here: expected model.onnx, or folders with model.onnx and test_data_set_0";
        return Err(Usage(format!("{}: {what}", dir.display())).into());
    }
    below.sort();
    cases.append(&mut below);
    Ok(())
}

fn sets(case: &Path) -> Vec<PathBuf> {
    (0..).map(|n| case.join(format!("test_data_set_{n}"))).take_while(|p| p.is_dir()).collect()
}

fn tensors(set: &Path, kind: &str) -> anyhow::Result<Vec<(String, Tensor)>> {
    (0..)
        .map(|n| set.join(format!("{kind}_{n}.pb")))
        .take_while(|p| p.is_file())
        .map(|p| Ok(read_tensor(&p)?))
        .collect()
}

fn check(case: &Path, args: &Args) -> anyhow::Result<String> {
    let sets = sets(case);
    if sets.is_empty() {
        bail!("no test_data_set_0 beside the model");
    }
    let mut most = 0.0f64;
    for set in &sets {
        let (inputs, outputs) = (tensors(set, "input")?, tensors(set, "output")?);
        let model = case.join("model.onnx");
        let found = match args.engine {
            Engine::Interpreter => interpreter(&model, inputs, &outputs, args),
            Engine::Jit => jit(&model, &inputs, &outputs, args),
        };
        let set = || set.file_name().unwrap_or_default().to_string_lossy().into_owned();
        most = most.max(found.with_context(set)?);
    }
    let sets = if sets.len() == 1 { "1 data set".into() } else { format!("{} data sets", sets.len()) };
    Ok(format!("{sets}, largest difference {most:.1e}"))
}

/// Runs a graph as imported. Short integer inputs (axes, shapes) become constants, which type inference needs them to be.
fn interpreter(
    model: &Path,
    inputs: Vec<(String, Tensor)>,
    outputs: &[(String, Tensor)],
    args: &Args,
) -> anyhow::Result<f64> {
    let is_parameter = |t: &Tensor| t.dtype() == DType::I64 && t.shape().len() == 1;
    let (fixed, free): (Vec<_>, Vec<_>) = inputs.into_iter().partition(|(_, t)| is_parameter(t));
    let graph = read_with_inputs(model, &fixed)?;
    let declared: Vec<String> =
        graph.sources(&Op::Input).iter().map(|&v| graph.name_of(v).to_string()).collect();
    let given: Vec<(&str, Tensor)> = free
        .iter()
        .filter(|(name, _)| declared.contains(name))
        .map(|(name, t)| (name.as_str(), t.clone()))
        .collect();
    let found = Interpreter::new(&graph)?.run(&given)?;
    let mut most = 0.0f64;
    for (name, want) in outputs {
        let Some((_, have)) = found.iter().find(|(n, _)| n == name) else { bail!("no output {name}") };
        most = most.max(compare(&graph, name, have, want, args)?);
    }
    Ok(most)
}

fn compare(graph: &Graph, name: &str, have: &Tensor, want: &Tensor, args: &Args) -> anyhow::Result<f64> {
    if have.shape() != want.shape() || have.dtype() != want.dtype() {
        let show = |t: &Tensor| format!("{}{:?}", t.dtype(), t.shape());
        bail!("output {name}: expected {}, found {}", show(want), show(have));
    }
    close(name, &have.to_f64()?, &want.to_f64()?, unit(graph, want.dtype()), args)
}

/// The absolute tolerance of an output near 1.
fn unit(graph: &Graph, dtype: DType) -> f64 {
    // ONNX Runtime rounds to its own integers, by a rule that depends on the processor.
    let rounds = |op: &Op| match op {
        Op::Onnx(op) => matches!(op, Onnx::DynamicQuantizeLinear {} | Onnx::QuantizeLinear { .. }),
        Op::OnnxLstm(lstm) => lstm.dynamic,
        _ => false,
    };
    if graph.nodes().any(|(_, n)| rounds(&n.op)) {
        return 8.0 / 127.0;
    }
    16.0 * match dtype {
        DType::F64 => f64::EPSILON,
        DType::F16 => f64::powi(2.0, -10),
        DType::Bf16 => f64::powi(2.0, -7),
        _ => f32::EPSILON.into(),
    }
}

/// The largest difference; an error if one is not within the tolerances.
fn close(name: &str, have: &[f64], want: &[f64], unit: f64, args: &Args) -> anyhow::Result<f64> {
    let largest = want.iter().filter(|w| w.is_finite()).fold(1.0f64, |m, w| m.max(w.abs()));
    let atol = args.atol.unwrap_or(unit * largest);
    let (mut most, mut first, mut wrong) = (0.0f64, None, 0);
    for (i, (h, w)) in have.iter().zip(want).enumerate() {
        let difference = if h == w || (h.is_nan() && w.is_nan()) { 0.0 } else { (h - w).abs() };
        most = most.max(difference);
        // A difference that is not a number is wrong too.
        if difference != 0.0 && (difference > atol + args.rtol * w.abs() || difference.is_nan()) {
            wrong += 1;
            first.get_or_insert((i, *h, *w));
        }
    }
    if let Some((i, h, w)) = first {
        let count = want.len();
        bail!(
            "output {name}, element {i}: expected {w}, found {h}; {wrong} of {count} elements differ by more than {atol:.1e} + {:.1e} of \
             the element, the largest difference is {most:.2e} (--atol and --rtol set what may differ)",
            args.rtol
        );
    }
    Ok(most)
}

/// Runs a recurrent model stream by stream in generated code.
fn jit(
    model: &Path,
    inputs: &[(String, Tensor)],
    outputs: &[(String, Tensor)],
    args: &Args,
) -> anyhow::Result<f64> {
    let imported = read(model)?;
    let canonical = canonicalize(&imported).map_err(crate::Error::from)?;
    let Some(canonical) = canonical else { bail!("the model is in language-model form already") };
    let jit = Jit::new(&canonical.graph, args.cpu.options())?;
    let compiled = Model::new(Arc::new(jit), None, Description::default())?;
    let mut shapes = BTreeMap::new();
    let mut given = BTreeMap::new();
    for value in [Op::Input, Op::State].iter().flat_map(|op| imported.sources(op)) {
        let name = imported.name_of(value);
        let Some((_, tensor)) = inputs.iter().find(|(n, _)| n == name) else {
            bail!("the case has no input `{name}`")
        };
        shapes.insert(value, tensor.shape().to_vec());
        given.insert(name.to_string(), tensor);
    }
    let places = trace(&imported, &canonical, &shapes).map_err(crate::Error::from)?;
    let Some(tokens) = given.get(&places.tokens) else {
        bail!("the model looks up tokens that it computes itself")
    };
    let Some((output, elements)) = &places.output else {
        bail!("the output that was compiled is inside the model: none of the case's outputs shows it")
    };
    let Some((_, want)) = outputs.iter().find(|(n, _)| n == output) else {
        bail!("the case has no output `{output}`")
    };
    let tokens = tokens.to_f64()?;
    let ids: Vec<u32> = match places.one_hot {
        None => tokens.iter().map(|&x| x as u32).collect(),
        Some(n) => {
            let one = |row: &[f64]| row.iter().position(|&x| x != 0.0).unwrap_or(0) as u32;
            tokens.chunks(n.max(1)).map(one).collect()
        }
    };
    let mut by_place = vec![vec![0; places.steps]; places.streams];
    for (&[step, stream], &id) in places.places.iter().zip(&ids) {
        by_place[stream][step] = id;
    }
    // The vectors of every step and stream.
    let mut vectors: Vec<Vec<Vec<f64>>> = vec![];
    for (stream, ids) in by_place.iter().enumerate() {
        let mut session = compiled.session();
        for (name, elements) in &places.states {
            let values = given[name].to_f32()?;
            for (element, &value) in elements.iter().zip(values.iter()) {
                if let Some(e) = element.as_ref().filter(|e| e.stream == stream) {
                    let Some(state) = session.state_vector_mut(&e.state) else {
                        bail!("no state `{}`", e.state)
                    };
                    state[e.unit] = value;
                }
            }
        }
        let mut steps = vec![];
        for &id in ids {
            steps.push(session.step(id)?.iter().map(|&x| f64::from(x)).collect());
        }
        vectors.push(steps);
    }
    let want_values = want.to_f64()?;
    if compiled.layout().head == Head::Hidden {
        let have: Vec<f64> = elements.iter().map(|&[t, b, f]| vectors[b][t][f]).collect();
        return close(output, &have, &want_values, unit(&imported, want.dtype()), args);
    }
    // What the model returns, as rows of log-probabilities.
    let words = vectors[0][0].len();
    let mut rows: BTreeMap<[usize; 2], Vec<f64>> = BTreeMap::new();
    let sign = if places.negated { -1.0 } else { 1.0 };
    for (&[t, b, f], &x) in elements.iter().zip(&want_values) {
        rows.entry([t, b]).or_insert_with(|| vec![f64::NAN; words])[f] = sign * x;
    }
    let (mut have, mut wanted) = (vec![], vec![]);
    for ([t, b], row) in rows {
        have.extend(log_probabilities(&vectors[b][t]));
        wanted.extend(log_probabilities(&row));
    }
    close(output, &have, &wanted, unit(&imported, want.dtype()), args)
}

/// Logits, probabilities or log-probabilities as log-probabilities.
fn log_probabilities(row: &[f64]) -> Vec<f64> {
    let sum: f64 = row.iter().sum();
    let is_distribution = row.iter().all(|&x| x >= 0.0) && (sum - 1.0).abs() < 1e-3;
    let logs: Vec<f64> = row.iter().map(|&x| if is_distribution { x.ln() } else { x }).collect();
    let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total = top + logs.iter().map(|x| (x - top).exp()).sum::<f64>().ln();
    logs.iter().map(|x| x - total).collect()
}
