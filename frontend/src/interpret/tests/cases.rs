//! Every case of `testdata`: what ONNX Runtime, PyTorch and the `onnx` package compute.

use super::{assert_close, numbers};
use crate::interpret::Interpreter;
use crate::ir::{Graph, Op};
use crate::onnx::{read_tensor, read_with_inputs};
use crate::tensor::{DType, Tensor};
use crate::testing::check_all;
use std::path::{Path, PathBuf};

/// The scripts that made the cases checked them with this tolerance.
const ABSOLUTE: f64 = 2e-5;
const RELATIVE: f64 = 1e-4;

/// The folders in a folder of `testdata`, in order; none if there is no `testdata` (in the published crate).
fn folders(of: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata").join(of);
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let mut folders: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    folders.sort();
    folders
}

fn tensors(set: &Path, kind: &str) -> Vec<(String, Tensor)> {
    let file = |k: usize| set.join(format!("{kind}_{k}.pb"));
    (0..).map(file).take_while(|f| f.exists()).map(|f| read_tensor(&f).unwrap()).collect()
}

/// Runs every data set of a case. Axes and shapes that are inputs are fixed where `fix` says so.
fn run(case: &Path, fix: bool) -> usize {
    let sets: Vec<PathBuf> =
        (0..).map(|n| case.join(format!("test_data_set_{n}"))).take_while(|set| set.exists()).collect();
    for set in &sets {
        let what = set.display().to_string();
        let inputs = tensors(set, "input");
        let is_fixed = |t: &Tensor| fix && t.dtype() == DType::I64 && t.shape().len() == 1;
        let (fixed, given): (Vec<_>, Vec<_>) = inputs.into_iter().partition(|(_, t)| is_fixed(t));
        let graph = read_with_inputs(&case.join("model.onnx"), &fixed).unwrap();
        let given: Vec<(&str, Tensor)> = given.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
        let single = Interpreter::new(&graph).unwrap().run(&given).unwrap_or_else(|e| panic!("{what}: {e}"));
        let double =
            Interpreter::in_f64(&graph).unwrap().run(&given).unwrap_or_else(|e| panic!("{what}: {e}"));
        let expected = tensors(set, "output");
        assert!(!expected.is_empty(), "{what}");
        for (name, tensor) in &expected {
            let find = |all: &[(String, Tensor)]| {
                let found = all.iter().find(|(n, _)| n == name).map(|(_, t)| t.clone());
                found.unwrap_or_else(|| panic!("{what} has no output {name}"))
            };
            assert_close(&find(&single), tensor, ABSOLUTE, RELATIVE, &what);
            // Half precision is where the two may differ.
            if tensor.dtype() == DType::F32 {
                let double = find(&double);
                assert_eq!(double.dtype(), DType::F64, "{what}");
                let rounded = numbers(&double).into_iter().map(|x| x as f32).collect();
                let rounded = Tensor::from_f32(double.shape(), rounded).unwrap();
                assert_close(&rounded, tensor, ABSOLUTE, RELATIVE, &what);
            }
        }
    }
    sets.len()
}

#[test]
fn single_operators() {
    check_all(folders("onnx"), |case| assert!(run(case, true) > 0));
}

#[test]
fn language_models_of_every_form() {
    check_all(folders("tiny"), |case| assert!(run(case, false) > 0));
}

/// What cannot be compiled can still be interpreted, if it can be read.
#[test]
fn models_of_other_kinds() {
    let cases = folders("refused");
    let known = |g: Graph| !g.nodes().any(|(_, n)| matches!(n.op, Op::Unknown { .. }));
    let readable = |case: &&PathBuf| read_with_inputs(&case.join("model.onnx"), &[]).is_ok_and(known);
    let mut sets = 0;
    check_all(cases.iter().filter(readable), |case| sets += run(case, false));
    assert!(cases.is_empty() || sets > 2, "{sets}");
}

/// The logits and states of a model trained on PTB, as ONNX Runtime computed them for the tokens in `recorded.json`.
#[test]
fn a_real_model() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/ptb-small");
    if !dir.exists() {
        return;
    }
    let recorded = |name: &str, shape: &[usize]| {
        let bytes = std::fs::read(dir.join(format!("recorded-{name}.f32"))).unwrap();
        Tensor::from_le_bytes(DType::F32, shape, &bytes).unwrap()
    };
    let tokens = Tensor::from_i64([8, 1], vec![102, 14, 24, 32, 752, 381, 2, 29]).unwrap();
    let zero = Tensor::from_f32([2, 1, 200], vec![0.0; 400]).unwrap();
    let graph = read_with_inputs(&dir.join("model.onnx"), &[]).unwrap();
    let inputs = [("tokens", tokens), ("h0", zero.clone()), ("c0", zero)];
    let results = Interpreter::new(&graph).unwrap().run(&inputs).unwrap();
    for (name, shape) in [("logits", [8, 1, 10_000]), ("hn", [2, 1, 200]), ("cn", [2, 1, 200])] {
        let (_, found) = results.iter().find(|(n, _)| n == name).unwrap();
        assert_close(found, &recorded(name, &shape), ABSOLUTE, RELATIVE, name);
    }
}
