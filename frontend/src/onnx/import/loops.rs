//! Loop and Scan: their bodies become graphs of their own.

use super::super::error::NodeProblem;
use super::super::proto::{GraphProto, ValueInfoProto};
use super::ops::{Lowering, Node};
use super::{Frame, Importer, OnnxError, Scope, decode, dimension, dimensions};
use crate::ir::{Body, Dim, Graph, Loop, Op, Operand, OutputRole, Scan, Type};
use crate::tensor::DType;

/// A type as a body sees it: sizes that are not constants may differ there.
pub(super) fn inside(ty: &Type) -> Type {
    let dim = |d: &Dim| if d.as_constant().is_some() || *d == Dim::Rest { d.clone() } else { Dim::Unknown };
    Type::new(ty.dtype, ty.shape.iter().map(dim).collect())
}

/// The type of a body's input: as declared, else of the dtype of what it starts as.
fn input_type(input: &ValueInfoProto, otherwise: DType) -> Type {
    let tensor = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
    let dtype = tensor.and_then(|t| decode::stored_dtype(t.elem_type).ok()).unwrap_or(otherwise);
    if tensor.is_none_or(|t| t.shape.is_none()) {
        return Type::unranked(dtype);
    }
    let dim = |d: Option<&dimension::Value>| match d {
        Some(&dimension::Value::DimValue(n)) => usize::try_from(n).map_or(Dim::Unknown, Dim::from),
        _ => Dim::Unknown,
    };
    Type::new(dtype, dimensions(input).map(dim).collect())
}

/// The body, whose inputs start as values of these dtypes, and what it reads from outside.
fn body(
    importer: &mut Importer,
    mut proto: GraphProto,
    dtypes: &[DType],
) -> Result<(Graph, Vec<Operand>), OnnxError> {
    let scope = Scope::new(importer.scope().opset, importer.frames.len());
    let branch = importer.scope().branch;
    importer.frames.push(Frame::new("body"));
    importer.scopes.push(Scope { branch, ..scope });
    importer.initialisers(&mut proto)?;
    for (i, input) in proto.input.iter().enumerate() {
        let ty = input_type(input, dtypes.get(i).copied().unwrap_or(DType::F32));
        let value = importer.graph().add_source(Op::Input, &input.name, ty);
        importer.define(&input.name, value.into());
    }
    importer.nodes(&mut proto.node)?;
    let results = importer.results(proto.output.iter().map(|o| o.name.as_str()))?;
    for (i, operand) in results.into_iter().enumerate() {
        let name = format!("output{i}");
        let value = importer.value(operand, &name).map_err(|found| {
            super::interface("output", &proto.output[i].name, "a value that a node defines", &found)
        })?;
        importer.graph().add_output(OutputRole::Named(name), value);
    }
    importer.scopes.pop();
    Ok(importer.frames.pop().map(Frame::finish).unwrap_or_default())
}

fn dtypes(node: &mut Node<'_>) -> Vec<DType> {
    let graph = node.importer.graph();
    node.operands.iter().map(|&o| graph.fact(o).map_or(DType::F32, |f| f.ty.dtype)).collect()
}

fn inside_problem(e: OnnxError) -> NodeProblem {
    NodeProblem::Inside(Box::new(e))
}

pub(super) fn iterate(node: &mut Node<'_>) -> Result<Lowering, NodeProblem> {
    let proto = node.attributes.graph("body")?;
    // An iteration gets its number and the condition in place of the maximum and the first condition.
    let mut dtypes = dtypes(node);
    dtypes.splice(..dtypes.len().min(2), [DType::I64, DType::Bool]);
    let mut operands = std::mem::take(&mut node.operands);
    operands.resize(operands.len().max(2), Operand::None);
    let carried = operands.len() - 2;
    if proto.input.len() != operands.len() || proto.output.len() < carried + 1 {
        let found = format!("{} inputs and {} outputs", proto.input.len(), proto.output.len());
        return Err(node.attributes.wrong("body", &format!("a graph for {carried} carried values"), found));
    }
    let (graph, captured) = body(node.importer, proto, &dtypes).map_err(inside_problem)?;
    operands.extend(captured);
    Ok(Lowering::Node(Op::Loop(Box::new(Loop { carried, body: Body(graph.into()) })), operands))
}

pub(super) fn scan(node: &mut Node<'_>) -> Result<Lowering, NodeProblem> {
    if node.opset() < 9 {
        return Err(
            node.unsupported("a batch axis, as before opset 9", "export the model with a newer opset")
        );
    }
    let proto = node.attributes.graph("body")?;
    let scanned = usize::try_from(node.attributes.required_int("num_scan_inputs")?).unwrap_or(usize::MAX);
    let states = node.operands.len().checked_sub(scanned);
    let stacked = states.and_then(|states| proto.output.len().checked_sub(states));
    let (Some(states), Some(stacked), true) = (states, stacked, proto.input.len() == node.operands.len())
    else {
        let found = format!("{} inputs and {} outputs", proto.input.len(), proto.output.len());
        return Err(node.attributes.wrong("body", &format!("a graph for {scanned} scanned values"), found));
    };
    let mut list = |name: &str, n: usize| -> Result<Vec<i64>, NodeProblem> {
        let values = node.attributes.ints(name)?.unwrap_or_else(|| vec![0; n]);
        if values.len() == n {
            Ok(values)
        } else {
            Err(node.attributes.wrong(name, &format!("{n} numbers"), values.len()))
        }
    };
    let input_axes = list("scan_input_axes", scanned)?;
    let output_axes = list("scan_output_axes", stacked)?;
    let input_reversed = list("scan_input_directions", scanned)?.iter().map(|&d| d == 1).collect();
    let output_reversed = list("scan_output_directions", stacked)?.iter().map(|&d| d == 1).collect();
    let dtypes = dtypes(node);
    let mut operands = std::mem::take(&mut node.operands);
    let (graph, captured) = body(node.importer, proto, &dtypes).map_err(inside_problem)?;
    operands.extend(captured);
    let body = Body(graph.into());
    let scan = Scan { scanned, input_axes, input_reversed, output_axes, output_reversed, states, body };
    Ok(Lowering::Node(Op::Scan(Box::new(scan)), operands))
}
