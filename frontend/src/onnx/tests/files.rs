//! Every model of `testdata`.

use crate::ir::Graph;
use crate::onnx::{read, read_tensor, read_with_inputs, write_tensor};
use crate::tensor::{DType, Tensor};
use crate::testing::check_all;
use std::path::{Path, PathBuf};

/// The folders in a folder of `testdata`, in order; none if there is no `testdata` (in the published crate).
pub(super) fn cases(folder: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata");
    let dir = root.join(folder);
    let mut cases: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .map(|e| e.unwrap().path())
        .filter(|p| p.is_dir())
        .collect();
    cases.sort();
    assert!(!cases.is_empty() || !root.exists(), "{} is missing", root.join(folder).display());
    cases
}

/// The inputs of a case's first data set.
fn inputs(case: &Path) -> Vec<(String, Tensor)> {
    let file = |k: usize| case.join(format!("test_data_set_0/input_{k}.pb"));
    (0..).map(file).take_while(|f| f.exists()).map(|f| read_tensor(&f).unwrap()).collect()
}

/// A case's graph; axes and shapes that are inputs are fixed.
fn graph(case: &Path) -> Graph {
    let shapes = inputs(case).into_iter().filter(|(_, t)| t.dtype() == DType::I64 && t.shape().len() == 1);
    let fixed: Vec<_> = if case.parent().unwrap().ends_with("onnx") { shapes.collect() } else { vec![] };
    read_with_inputs(&case.join("model.onnx"), &fixed).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn every_model_is_read() {
    check_all(["tiny", "onnx"].into_iter().flat_map(cases), |case| {
        let graph = graph(case);
        assert_eq!(graph.name, "model");
        assert!(!graph.outputs().is_empty());
    });
}

/// Inputs of a data set have the types that the graph declares.
#[test]
fn every_tensor_is_read_and_written_back() {
    let scratch = tempfile::tempdir().unwrap();
    check_all(["tiny", "onnx"].into_iter().flat_map(cases), |case| {
        let graph = graph(case);
        for (name, tensor) in inputs(case) {
            if let Some(value) = graph.value_named(&name) {
                let declared = graph.type_of(value);
                assert_eq!(tensor.dtype(), declared.dtype);
                assert_eq!(tensor.shape().len(), declared.shape.len());
            }
            let copy = scratch.path().join("copy.pb");
            write_tensor(&copy, &name, &tensor).unwrap();
            assert_eq!(read_tensor(&copy).unwrap(), (name, tensor));
        }
    });
}

/// Damaged files are refused here; good models of other kinds are read, and refused by canonicalisation. Each has its message.
#[test]
fn refused_models() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata");
    let mut lines = vec![];
    for case in cases("refused") {
        let found = match read(&case.join("model.onnx")) {
            Ok(_) => "is read".to_string(),
            Err(e) => e.to_string().replace(&root.display().to_string(), "testdata"),
        };
        let found = found.replace('\\', "/");
        lines.push(format!("{}:\n  {found}", case.file_name().unwrap().to_string_lossy()));
    }
    if !lines.is_empty() {
        let found = lines.join("\n");
        insta::assert_snapshot!(found);
    }
}
