//! `lstmc verify`: ONNX test cases in the standard layout.

use super::CpuArgs;
use crate::backend::Jit;
use crate::frontend::interpret::Interpreter;
use crate::frontend::ir::Op;
use crate::frontend::onnx::{read_tensor, read_with_inputs};
use crate::frontend::tensor::{DType, Tensor};
use crate::runtime::{Description, Model, Session};
use crate::terminal::Usage;
use crate::{Engine, Source};
use anyhow::{Context, bail};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Run ONNX test cases and compare their outputs
///
/// A case is a folder in ONNX's standard layout: model.onnx, and test_data_set_N/input_K.pb, output_K.pb. A folder of cases runs them all.
/// The interpreter runs any graph of supported operators; the JIT runs language models, whose outputs are compared as log-probabilities.
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
    /// Absolute tolerance: of an f32 sum of a few dozen terms near 1
    #[arg(long, default_value_t = 2e-6)]
    atol: f64,
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
            Ok(sets) if !args.quiet => writeln!(out, "ok    {} ({sets})", case.display())?,
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
    for set in &sets {
        let (inputs, outputs) = (tensors(set, "input")?, tensors(set, "output")?);
        let model = case.join("model.onnx");
        match args.engine {
            Engine::Interpreter => interpreter(&model, inputs, &outputs, args),
            Engine::Jit => jit(&model, &inputs, &outputs, args),
        }
        .with_context(|| set.file_name().unwrap_or_default().to_string_lossy().into_owned())?;
    }
    Ok(if sets.len() == 1 { "1 data set".into() } else { format!("{} data sets", sets.len()) })
}

/// Runs a graph as imported. Short integer inputs (axes, shapes) become constants, which type inference needs them to be.
fn interpreter(
    model: &Path,
    inputs: Vec<(String, Tensor)>,
    outputs: &[(String, Tensor)],
    args: &Args,
) -> anyhow::Result<()> {
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
    for (name, want) in outputs {
        let Some((_, have)) = found.iter().find(|(n, _)| n == name) else { bail!("no output {name}") };
        compare(name, have, want, args)?;
    }
    Ok(())
}

fn compare(name: &str, have: &Tensor, want: &Tensor, args: &Args) -> anyhow::Result<()> {
    if have.shape() != want.shape() || have.dtype() != want.dtype() {
        let show = |t: &Tensor| format!("{}{:?}", t.dtype(), t.shape());
        bail!("output {name}: expected {}, found {}", show(want), show(have));
    }
    let (have, want) = (have.to_f64()?, want.to_f64()?);
    close(name, &have, &want, args)
}

fn close(name: &str, have: &[f64], want: &[f64], args: &Args) -> anyhow::Result<()> {
    for (i, (h, w)) in have.iter().zip(want).enumerate() {
        let same = h == w || (h.is_nan() && w.is_nan()) || (h - w).abs() <= args.atol + args.rtol * w.abs();
        if !same {
            bail!("output {name}, element {i}: expected {w}, found {h}");
        }
    }
    Ok(())
}

/// Runs a language model stream by stream in generated code.
fn jit(
    model: &Path,
    inputs: &[(String, Tensor)],
    outputs: &[(String, Tensor)],
    args: &Args,
) -> anyhow::Result<()> {
    let source = Source::read(model)?.canonical()?;
    let jit = Jit::new(&source.graph, args.cpu.options())?;
    let model = Model::new(Arc::new(jit), None, Description::default())?;
    let words = model.layout().vocabulary;
    let is_tokens = |t: &Tensor| !t.dtype().is_float() && t.shape().len() == 2;
    let Some((_, tokens)) = inputs.iter().find(|(_, t)| is_tokens(t)) else { bail!("no token input") };
    let shape = [tokens.shape()[0], tokens.shape()[1]];
    let is_logits = |t: &Tensor| t.dtype().is_float() && t.shape() == [shape[0], shape[1], words];
    let Some((name, want)) = outputs.iter().find(|(_, t)| is_logits(t)) else {
        bail!("no output of all logits, [{}, {}, {words}]", shape[0], shape[1])
    };
    let ids: Vec<u32> = tokens.to_f64()?.iter().map(|&x| x as u32).collect();
    let want = log_probabilities(&want.to_f64()?, words);
    let states: Vec<&Tensor> = inputs.iter().map(|(_, t)| t).filter(|t| t.dtype().is_float()).collect();
    // The canonical form does not tell which axis of the model's input counted time; the wrong one gives other numbers.
    let run = |time: usize| {
        let mut have = vec![0.0; want.len()];
        let streams = shape[1 - time];
        for stream in 0..streams {
            let mut session = model.session();
            begin(&mut session, &states, stream, streams)?;
            for step in 0..shape[time] {
                let at = if time == 0 { step * shape[1] + stream } else { stream * shape[1] + step };
                let logits: Vec<f64> = session.step(ids[at])?.iter().map(|&x| f64::from(x)).collect();
                have[at * words..(at + 1) * words].copy_from_slice(&log_probabilities(&logits, words));
            }
        }
        close(name, &have, &want, args)
    };
    run(0).or_else(|error| run(1).map_err(|_| error))
}

/// Gives one stream the state in stacked inputs `h, c: [layers, streams, hidden]`, or in `h, c` of each layer in turn.
fn begin(session: &mut Session, inputs: &[&Tensor], stream: usize, streams: usize) -> anyhow::Result<()> {
    if inputs.is_empty() {
        return Ok(());
    }
    let slots = session.model().layout().slots.clone();
    let stacked = inputs.len() == 2 && slots.len() >= 2;
    for (k, slot) in slots.iter().enumerate() {
        let (tensor, layer) =
            if stacked { (inputs[k % 2], k / 2) } else { (inputs[k.min(inputs.len() - 1)], 0) };
        let data = tensor.to_f32()?;
        let from = (layer * streams + stream) * slot.len;
        let Some(part) = data.get(from..from + slot.len) else {
            bail!("initial states of shape {:?} do not fit the model's", tensor.shape())
        };
        let state = session.state_vector_mut(&slot.name).expect("the model's own slot");
        state.copy_from_slice(part);
    }
    Ok(())
}

/// Rows of logits, probabilities or log-probabilities as log-probabilities.
fn log_probabilities(rows: &[f64], width: usize) -> Vec<f64> {
    let mut out = Vec::with_capacity(rows.len());
    for row in rows.chunks(width.max(1)) {
        let sum: f64 = row.iter().sum();
        let is_distribution = row.iter().all(|&x| x >= 0.0) && (sum - 1.0).abs() < 1e-4;
        let logs: Vec<f64> = row.iter().map(|&x| if is_distribution { x.ln() } else { x }).collect();
        let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total = top + logs.iter().map(|x| (x - top).exp()).sum::<f64>().ln();
        out.extend(logs.iter().map(|x| x - total));
    }
    out
}
