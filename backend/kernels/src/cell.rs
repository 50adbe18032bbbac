//! The part of a cell after its products: its formula, unit by unit.
//!
//! ```text
//!   gates        [units / 8][gates][8]      the order of the lanes of packed panels
//!   states       [units] each, at their offsets in a stream's state, updated in place
//!   parameters   [parameters][units, padded to a panel]
//! ```

use crate::formula::{Ends, Terms, Way, check, evaluate};
use crate::layout::{PANEL, UNITS, gate_lanes};
use crate::level::Level;
use lstmc_frontend::ir::Formula;

/// A cell.
#[derive(Clone, Copy, Debug)]
pub struct Cell<'a> {
    formula: &'a Formula,
    units: usize,
    inputs: usize,
    states: usize,
    parameters: usize,
    way: Way,
}

/// The maximum number of inputs of a cell's formula.
const MOST: usize = 24;

impl<'a> Cell<'a> {
    /// A cell with this many units, whose formula has as inputs the gates' sums, the states and the parameters: this many of each. Results are the
    /// new states. There must be room for the units in whole parts of [`UNITS`].
    ///
    /// # Panics
    /// Where the formula has other inputs or results.
    pub fn new(formula: &'a Formula, units: usize, [gates, states, parameters]: [usize; 3]) -> Cell<'a> {
        let inputs = gates + states + parameters;
        check(formula, [inputs, states]);
        Cell { formula, units, inputs, states, parameters, way: Way::of(formula) }
    }
}

/// One step of one stream: new states from the gates' sums and the old states. Each of `gates` is a number of gates and the lanes that hold their
/// sums; `offsets` are the states'.
///
/// Errors of sigmoid and hyperbolic tangent are within [`MAX_SIGMOID_ERROR_ULPS`](crate::elementary::MAX_SIGMOID_ERROR_ULPS) and
/// [`MAX_TANH_ERROR_ULPS`](crate::elementary::MAX_TANH_ERROR_ULPS).
///
/// # Panics
/// If gates, a state or the parameters do not have an element for each unit, in whole parts, or are not as many as the cell has.
pub fn update(
    level: Level,
    cell: &Cell<'_>,
    gates: &[(usize, &[f32])],
    state: &mut [f32],
    offsets: impl Iterator<Item = usize>,
    parameters: &[f32],
    terms: &mut Terms,
) {
    let (padded, stride) = (cell.units.next_multiple_of(UNITS), cell.units.next_multiple_of(PANEL));
    assert!(parameters.len() >= cell.parameters * stride, "{} parameters", cell.parameters);
    let mut ends = Ends::<MOST>::new();
    for &(count, gates) in gates {
        let lanes = gate_lanes(count, cell.units);
        assert!(gates.len() >= lanes, "{lanes} f32s of gates, not {}", gates.len());
        for n in 0..count {
            ends.read(&gates[(n * UNITS).min(lanes)..], count * UNITS);
        }
    }
    let (base, len) = (state.as_mut_ptr(), state.len());
    for offset in offsets.take(cell.states) {
        assert!(offset <= len && len - offset >= padded, "a state of {padded} f32s at {offset} of {len}");
        // SAFETY: the state has this many f32s.
        ends.replace(unsafe { base.add(offset) });
    }
    for n in 0..cell.parameters {
        ends.read(&parameters[n * stride..][..padded], UNITS);
    }
    assert_eq!(ends.count(), [cell.inputs, cell.states], "inputs and states of the cell");
    // SAFETY: all of them have been measured here, counted just above, and compared with the formula in `Cell::new`.
    unsafe { evaluate(level, cell.formula, cell.way, &ends, padded, terms) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elementary::{MAX_SIGMOID_ERROR_ULPS, MAX_TANH_ERROR_ULPS};
    use crate::formula::{Row, map};
    use lstmc_frontend::ir::{
        Algebra, Binary, CellSpec, ERF_ERROR, FormulaBuilder, Function, GateOrder, Lstm, plain_lstm,
    };

    /// Each gate of all units, in the order of lanes.
    fn in_parts(gates: [&[f32]; 4]) -> Vec<f32> {
        let units = gates[0].len();
        (0..units).step_by(UNITS).flat_map(|u| gates.map(|g| &g[u..u + UNITS]).concat()).collect()
    }

    fn lstm() -> CellSpec {
        Lstm::new(GateOrder::Iofc).spec(false)
    }

    /// New cell and hidden states of an LSTM, all of whose cell states are `c`.
    fn step(level: Level, gates: &[f32], c: f32) -> (Vec<f32>, Vec<f32>) {
        let units = gates.len() / 4;
        let spec = lstm();
        let mut state = vec![0.0; units];
        state.resize(2 * units, c);
        let states = [0, units];
        let cell = Cell::new(&spec.formula, units, [4, 2, 0]);
        update(level, &cell, &[(4, gates)], &mut state, states.into_iter(), &[], &mut Terms::default());
        (state[units..].to_vec(), state[..units].to_vec())
    }

    /// With a cell state of zero or one and gates that let all through, or nothing, a unit shows each function by itself.
    #[test]
    fn every_level_is_within_the_bounds_of_its_functions() {
        let step_by = if cfg!(miri) { 200 } else { 1 };
        let mut x: Vec<f32> = (0..40_000).step_by(step_by).map(|i| (i as f32 - 20_000.0) / 1000.0).collect();
        x.extend([f32::MIN_POSITIVE, 1e-9, -1e-9, 1e4, -1e4, f32::MAX, f32::MIN, f32::INFINITY]);
        let (open, shut) = (vec![f32::INFINITY; x.len()], vec![f32::NEG_INFINITY; x.len()]);
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let check = |level: Level, what: &str, have: &[f32], f: &dyn Fn(f64) -> f64, bound: f64| {
            for (&x, &y) in x.iter().zip(have) {
                let error = (f64::from(y) - f(f64::from(x))).abs() / f64::from(f32::EPSILON);
                assert!(error <= bound, "{level:?}: {what} of {x:e}: {y}, {error:.2} ULP");
            }
        };
        for level in Level::all() {
            let run =
                |i: &[f32], o: &[f32], f: &[f32], g: &[f32], c: f32| step(level, &in_parts([i, o, f, g]), c);
            let (input, _) = run(&x, &open, &shut, &open, 3.0);
            check(level, "input", &input, &sigmoid, MAX_SIGMOID_ERROR_ULPS);
            let (forget, _) = run(&shut, &open, &x, &open, 1.0);
            check(level, "forget", &forget, &sigmoid, MAX_SIGMOID_ERROR_ULPS);
            let (cell, h) = run(&open, &open, &shut, &x, 0.0);
            check(level, "cell", &cell, &f64::tanh, MAX_TANH_ERROR_ULPS);
            // The error of the cell is passed on at most as it is.
            check(level, "tanh", &h, &|x| x.tanh().tanh(), 2.0 * MAX_TANH_ERROR_ULPS);
            let (_, output) = run(&shut, &x, &open, &open, 100.0);
            check(level, "output", &output, &sigmoid, MAX_SIGMOID_ERROR_ULPS);
        }
    }

    #[test]
    fn what_is_not_a_number_stays() {
        for level in Level::all() {
            let mut gates = vec![0.0; 5 * PANEL];
            gates[PANEL + 2 * UNITS + 3] = f32::NAN;
            let (c, h) = step(level, &gates, 0.5);
            for u in 0..5 * UNITS {
                assert_eq!(c[u].is_nan(), u == UNITS + 3, "{level:?}: c of unit {u}");
                assert_eq!(h[u].is_nan(), u == UNITS + 3, "{level:?}: h of unit {u}");
            }
        }
    }

    /// The compiled code for the plain LSTM matches its formula.
    #[test]
    fn the_plain_lstm_is_its_formula() {
        let mut b = FormulaBuilder::new();
        plain_lstm(&mut b);
        let spec = lstm();
        assert_eq!(b.build(|state| Some(spec.state_input(state))), spec.formula);
        let (units, gates) =
            (45, (0..4 * 48).map(|i| ((i * 37 % 101) as f32 - 50.0) / 9.0).collect::<Vec<_>>());
        for level in Level::all() {
            let cell = Cell::new(&spec.formula, units, [4, 2, 0]);
            assert_eq!(cell.way, Way::PlainLstm);
            let run = |way: Way| {
                let mut state: Vec<f32> = (0..96).map(|i| (i as f32 - 48.0) / 30.0).collect();
                let cell = Cell { way, ..cell };
                update(
                    level,
                    &cell,
                    &[(4, &gates)],
                    &mut state,
                    [0, 48].into_iter(),
                    &[],
                    &mut Terms::default(),
                );
                state
            };
            assert_eq!(run(Way::PlainLstm), run(Way::ByTerm), "{level:?}");
        }
    }

    /// The error function by a series of positive terms.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum, mut n) = (x.abs(), 0.0, 0.0);
        while term > 1e-20 * sum {
            sum += term;
            n += 1.0;
            term *= 2.0 * x * x / (2.0 * n + 1.0);
        }
        (2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum).copysign(x)
    }

    #[test]
    fn the_error_function_is_within_its_bound() {
        let mut b = FormulaBuilder::new();
        let x = b.input(0);
        let y = b.function(Function::Erf, &x);
        b.result(0, &y);
        let formula = b.build(|_| None);
        let step_by = if cfg!(miri) { 400 } else { 1 };
        let x: Vec<f32> = (0..40_000).step_by(step_by).map(|i| (i as f32 - 20_000.0) / 4000.0).collect();
        let x = &x[..x.len() / UNITS * UNITS];
        for level in Level::all() {
            let mut have = vec![0.0; x.len()];
            map(level, &formula, [Row::Each(x)].into_iter(), &mut have, &mut Terms::default());
            for (&x, &y) in x.iter().zip(&have) {
                let error = (f64::from(y) - erf(x.into())).abs();
                assert!(error <= ERF_ERROR, "{level:?}: erf({x}): {y}, off by {error:e}");
            }
        }
    }

    /// Every function and operation, as a cell of one gate, one state and one parameter, whose only state is the result.
    #[test]
    fn every_level_computes_every_function() {
        let mut x: Vec<f32> = (0..77).map(|i| (i as f32 - 38.0) / 7.0).collect();
        x.extend([f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 80.0, -80.0, 1e-20]);
        let units = x.len();
        x.resize(units.next_multiple_of(UNITS), 0.0);
        let operations = [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div, Binary::Max, Binary::Min];
        let functions = Function::ALL.into_iter().map(Ok).chain(operations.map(Err));
        for case in functions {
            let mut b = FormulaBuilder::new();
            let (gate, parameter) = (b.input(0), b.input(2));
            let y = match case {
                Ok(f) => b.function(f, &gate),
                Err(op) => b.binary(op, &gate, &parameter),
            };
            b.result(0, &y);
            let formula = b.build(|_| Some(1));
            let parameters: Vec<f32> =
                (0..units.next_multiple_of(PANEL)).map(|i| (i % 5) as f32 - 1.5).collect();
            let exact: Vec<f64> = x[..units].iter().map(|&x| x.into()).collect();
            let exact_parameters: Vec<f64> = parameters[..units].iter().map(|&x| x.into()).collect();
            let want = &formula.values(&[&exact, &exact, &exact_parameters])[0];
            for level in Level::all() {
                let mut state = vec![0.0; x.len()];
                let cell = Cell::new(&formula, units, [1, 1, 1]);
                update(
                    level,
                    &cell,
                    &[(1, &x)],
                    &mut state,
                    [0].into_iter(),
                    &parameters,
                    &mut Terms::default(),
                );
                for (u, (&y, &want)) in state.iter().zip(want).enumerate() {
                    // Functions of several steps, each within a few ULP of 1 or of its result.
                    let near = f64::from(y) == want
                        || (f64::from(y) - want).abs() <= 1e-6 * want.abs().max(1.0)
                        || y.is_nan() && want.is_nan();
                    assert!(near, "{level:?}: {case:?} of {}: {y}, expected {want}", x[u]);
                }
            }
        }
    }
}
