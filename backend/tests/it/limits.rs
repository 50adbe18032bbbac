//! Small models that ask for more memory than any machine has.

use lstmc_backend::CompileError;
use lstmc_backend::{Jit, Options};
use lstmc_frontend::ir::arbitrary::{language_model_of, random_tensor};
use lstmc_frontend::ir::{Graph, LinearMap, LowRank, MapError, Part, TensorTrain};
use lstmc_frontend::tensor::DType;

fn dense(shape: [usize; 2]) -> LinearMap {
    LinearMap::Dense(random_tensor(DType::F32, &shape, 1).unwrap())
}

/// A chain of rank 1 with three modes for each side, as near to the cube root as they come.
fn train(shape: [usize; 2]) -> LinearMap {
    let modes = |n: usize| vec![(1..).find(|m: &usize| m.pow(3) >= n).unwrap(); 3];
    let (out, input) = (modes(shape[0]), modes(shape[1]));
    let cores = (0..3).map(|k| Part::new(dense([out[k], input[k]]))).collect();
    LinearMap::TensorTrain(TensorTrain::new(shape, out, input, cores).unwrap())
}

fn error(graph: &Graph) -> CompileError {
    Jit::new(graph, Options::default()).expect_err("more memory than there is")
}

#[test]
fn states_as_wide_as_kilobytes_of_cores_say_are_refused() {
    // Everything but the bias is a chain of three cores.
    let graph = language_model_of(1 << 22, 1, 27, |_, shape| train(shape));
    assert!(
        matches!(error(&graph), CompileError::TooWide { found, .. } if found > 1 << 24),
        "{}",
        error(&graph)
    );
}

#[test]
fn factors_that_stand_for_gigabytes_are_refused() {
    let factors = |shape: [usize; 2]| {
        let [left, right] = [dense([shape[0], 1]), dense([1, shape[1]])];
        LinearMap::LowRank(LowRank::new(Part::new(left), Part::new(right)).unwrap())
    };
    // A low-rank map is gathered and multiplied by its factors, which are small; a chain of cores in a layer is multiplied out.
    let graph = language_model_of(1 << 14, 1, 11, |name, shape| {
        if name == "lstm0.recurrent" { train(shape) } else { factors(shape) }
    });
    let error = error(&graph);
    assert!(
        matches!(error, CompileError::Map { error: MapError::TooLarge { elements }, .. } if elements == 1 << 30),
        "{error}"
    );
}
