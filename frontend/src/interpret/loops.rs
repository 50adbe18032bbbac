//! Loop and Scan: each iteration runs the body.

use super::elements::{interleave, pick, strides, walk};
use super::movement::checked_axis;
use super::{Interpreter, evaluate};
use crate::ir::{Body, Graph, InferError, Loop, Op, Scan};
use crate::tensor::{DType, Tensor};

/// More iterations than any model makes.
const MAX_ITERATIONS: usize = 1 << 20;

/// Runs the body on its inputs in order. If any float is f64, everything is computed in f64.
fn run(body: &Graph, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, InferError> {
    let wrong = |e: super::InterpretError| InferError::new("a body that can be run", e.to_string());
    let wide = inputs.iter().any(|t| t.dtype() == DType::F64);
    let interpreter = if wide { Interpreter::in_f64(body) } else { Interpreter::new(body) }.map_err(wrong)?;
    let names = body.sources(&Op::Input);
    if names.len() != inputs.len() {
        return Err(InferError::new(format!("{} inputs of the body", names.len()), inputs.len().to_string()));
    }
    let named: Vec<(&str, Tensor)> = names.into_iter().map(|v| body.name_of(v)).zip(inputs).collect();
    Ok(interpreter.run(&named).map_err(wrong)?.into_iter().map(|(_, t)| t).collect())
}

/// The parts along a new axis; without parts, of the size that the body says.
fn stack(parts: &[Tensor], axis: i64, body: &Body, output: usize) -> Result<Tensor, InferError> {
    let declared = body.0.type_of(body.0.outputs()[output].value);
    let one: Vec<usize> = match parts.first() {
        Some(part) => part.shape().to_vec(),
        None => declared.shape.iter().map(|d| d.as_constant().unwrap_or(0)).collect(),
    };
    let rank = one.len() as i64 + 1;
    let at = if axis < 0 { axis + rank } else { axis };
    let at = usize::try_from(at).ok().filter(|&a| a < rank as usize);
    let at = at.ok_or_else(|| InferError::new(format!("an axis of {rank}"), axis.to_string()))?;
    if let Some(other) = parts.iter().find(|p| p.shape() != one || p.dtype() != parts[0].dtype()) {
        return Err(InferError::new(format!("{one:?} in every iteration"), format!("{:?}", other.shape())));
    }
    let mut shape = one.clone();
    shape.insert(at, parts.len());
    if parts.is_empty() {
        return Ok(Tensor::from_le_bytes(declared.dtype, shape, &[])?);
    }
    let parts: Vec<&Tensor> = parts.iter().collect();
    interleave(&parts, &shape, one[..at].iter().product())
}

pub(super) fn iterate(l: &Loop, operands: &[Option<Tensor>]) -> Result<Vec<Tensor>, InferError> {
    let scalar =
        |t: &Tensor, to: DType| evaluate(&Op::Cast { to }, &[Some(t.clone())]).map(|mut r| r.swap_remove(0));
    let truth = |t: &Tensor| Ok::<bool, InferError>(scalar(t, DType::Bool)?.bools()?.first() == Some(&true));
    let count = match operands.first().and_then(Option::as_ref) {
        Some(t) => scalar(t, DType::I64)?.i64s()?.first().copied().unwrap_or(0),
        None => i64::MAX,
    };
    let mut go = operands.get(1).and_then(Option::as_ref).map_or(Ok(true), truth)?;
    let given: Vec<Tensor> = operands.iter().skip(2).flatten().cloned().collect();
    if given.len() + 2 != operands.len().max(2)
        || given.len() < l.carried
        || l.body.0.outputs().len() <= l.carried
    {
        return Err(InferError::new("every carried value", "one missing"));
    }
    let (mut carried, captured) = (given[..l.carried].to_vec(), &given[l.carried..]);
    let outputs = l.body.0.outputs().len().saturating_sub(1 + l.carried);
    let mut stacked: Vec<Vec<Tensor>> = vec![vec![]; outputs];
    let mut i = 0;
    while go && i < count {
        if i as usize >= MAX_ITERATIONS {
            return Err(InferError::new(format!("at most {MAX_ITERATIONS} iterations"), "more"));
        }
        let mut inputs = vec![Tensor::from_i64([], vec![i])?, Tensor::from_bool([], vec![go])?];
        inputs.extend(carried.iter().chain(captured).cloned());
        let mut results = run(&l.body.0, inputs)?;
        let tail = results.split_off(1 + l.carried);
        stacked.iter_mut().zip(tail).for_each(|(all, t)| all.push(t));
        carried = results.split_off(1);
        go = truth(&results[0])?;
        i += 1;
    }
    for (k, parts) in stacked.iter().enumerate() {
        carried.push(stack(parts, 0, &l.body, 1 + l.carried + k)?);
    }
    Ok(carried)
}

pub(super) fn scan(s: &Scan, operands: &[Option<Tensor>]) -> Result<Vec<Tensor>, InferError> {
    let given: Vec<Tensor> = operands.iter().flatten().cloned().collect();
    if given.len() != operands.len()
        || given.len() < s.states + s.scanned
        || s.body.0.outputs().len() < s.states
        || s.input_axes.len() != s.scanned
    {
        return Err(InferError::new("every state and scanned value", "one missing"));
    }
    let (mut states, rest) = (given[..s.states].to_vec(), &given[s.states..]);
    let (scanned, captured) = rest.split_at(s.scanned);
    let mut axes = vec![];
    for (t, &axis) in scanned.iter().zip(&s.input_axes) {
        axes.push(checked_axis(axis, t)?);
    }
    let sizes: Vec<usize> = scanned.iter().zip(&axes).map(|(t, &a)| t.shape()[a]).collect();
    let count = sizes.first().copied().unwrap_or(0);
    if sizes.iter().any(|&n| n != count) {
        return Err(InferError::new("scanned values of one length", format!("{sizes:?}")));
    }
    let mut stacked: Vec<Vec<Tensor>> = vec![vec![]; s.body.0.outputs().len().saturating_sub(s.states)];
    for i in 0..count {
        let mut inputs = states.clone();
        for (k, t) in scanned.iter().enumerate() {
            let at = if s.input_reversed.get(k) == Some(&true) { count - 1 - i } else { i };
            let (mut shape, mut steps) = (t.shape().to_vec(), strides(t.shape()));
            shape.remove(axes[k]);
            let first = at as isize * steps.remove(axes[k]);
            inputs.push(pick(t, &shape, walk(&shape, &steps, first))?);
        }
        inputs.extend(captured.iter().cloned());
        let mut results = run(&s.body.0, inputs)?;
        let tail = results.split_off(s.states);
        states = results;
        stacked.iter_mut().zip(tail).for_each(|(all, t)| all.push(t));
    }
    for (k, parts) in stacked.iter_mut().enumerate() {
        if s.output_reversed.get(k) == Some(&true) {
            parts.reverse();
        }
        states.push(stack(parts, s.output_axes.get(k).copied().unwrap_or(0), &s.body, s.states + k)?);
    }
    Ok(states)
}
