//! The attributes of ONNX's LSTM.

use super::super::error::NodeProblem;
use super::attributes::Attributes;
use crate::ir::{Direction, Function, Graph, OnnxLstm, Operand};

/// The operator of an LSTM node whose operands are `X, W, R, ...`.
pub(super) fn lstm(
    attributes: &mut Attributes,
    opset: i64,
    graph: &Graph,
    operands: &[Operand],
) -> Result<OnnxLstm, NodeProblem> {
    let direction = match attributes.string("direction")?.as_deref() {
        None | Some("forward") => Direction::Forward,
        Some("reverse") => Direction::Reverse,
        Some("bidirectional") => Direction::Bidirectional,
        Some(other) => {
            return Err(attributes.wrong("direction", "forward, reverse or bidirectional", quoted(other)));
        }
    };
    let clip = attributes.float("clip")?;
    if let Some(clip) = clip.filter(|&c| c <= 0.0) {
        return Err(attributes.wrong("clip", "a number above zero", clip));
    }
    Ok(OnnxLstm {
        hidden_size: hidden_size(attributes, graph, operands)?,
        direction,
        batch_first: opset >= 14 && attributes.flag("layout", false)?,
        clip,
        input_forget: attributes.flag("input_forget", false)?,
        activations: activations(attributes, if direction == Direction::Bidirectional { 2 } else { 1 })?,
    })
}

/// The attribute or, if it is not given, the last dimension of `R: [directions, 4 hidden, hidden]`. Both must agree.
fn hidden_size(
    attributes: &mut Attributes,
    graph: &Graph,
    operands: &[Operand],
) -> Result<usize, NodeProblem> {
    let given = attributes.int("hidden_size")?;
    let recurrent = operands.get(2).and_then(|&r| graph.fact(r)).map(|f| f.ty);
    let inferred = recurrent.as_ref().and_then(|ty| ty.shape.get(2)).and_then(|d| d.as_constant());
    let found = match (given, inferred) {
        (Some(n), None) => usize::try_from(n).ok(),
        (Some(n), Some(m)) => usize::try_from(n).ok().filter(|&n| n == m),
        (None, m) => m,
    };
    found.filter(|&n| n > 0).ok_or_else(|| {
        let expected = match &recurrent {
            Some(ty) => format!("the last dimension of R: {ty}"),
            None => "the number of units".into(),
        };
        attributes.wrong("hidden_size", &expected, given.map_or("none".into(), |n| n.to_string()))
    })
}

/// `f, g, h` for each direction. A value of `activation_alpha` or `activation_beta` goes to the next function that has one.
fn activations(attributes: &mut Attributes, directions: usize) -> Result<Vec<Function>, NodeProblem> {
    let names = attributes.strings("activations")?;
    let names = names.unwrap_or_else(|| {
        ["Sigmoid", "Tanh", "Tanh"].repeat(directions).into_iter().map(String::from).collect()
    });
    if names.len() != 3 * directions {
        let expected = format!("{} functions", 3 * directions);
        return Err(attributes.wrong("activations", &expected, names.len()));
    }
    let mut alphas = attributes.floats("activation_alpha")?.unwrap_or_default().into_iter();
    let mut betas = attributes.floats("activation_beta")?.unwrap_or_default().into_iter();
    let mut functions = vec![];
    for name in &names {
        let known = Function::ALL.into_iter().find(|f| f.onnx_name().eq_ignore_ascii_case(name));
        let Some(mut function) = known else {
            let all = Function::ALL.map(Function::onnx_name);
            return Err(attributes.wrong("activations", &format!("one of {}", all.join(", ")), quoted(name)));
        };
        for (parameter, value) in function.parameters() {
            let given = if parameter == "alpha" { alphas.next() } else { betas.next() };
            *value = given.unwrap_or(*value);
        }
        functions.push(function);
    }
    for (attribute, rest) in [("activation_alpha", alphas.len()), ("activation_beta", betas.len())] {
        // Values for functions without parameters have no effect, but among functions with some it is ambiguous which one is meant.
        let parametric = functions.iter_mut().any(|f: &mut Function| !f.parameters().is_empty());
        if rest > 0 && parametric {
            let found = format!("{rest} more");
            return Err(attributes.wrong(attribute, "one value for each function that takes one", found));
        }
    }
    Ok(functions)
}

fn quoted(name: &str) -> String {
    super::Quoted(name).to_string()
}
