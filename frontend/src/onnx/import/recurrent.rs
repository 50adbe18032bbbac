//! The attributes of ONNX's recurrent layers.

use super::super::error::NodeProblem;
use super::attributes::Attributes;
use super::ops::Node;
use crate::ir::{Direction, Function, OnnxLstm, OnnxRnn, Type};

/// The operator of an LSTM node whose operands are `X, W, R, ...`.
pub(super) fn lstm(node: &mut Node<'_>) -> Result<OnnxLstm, NodeProblem> {
    let rnn = rnn(node, &["Sigmoid", "Tanh", "Tanh"])?;
    Ok(OnnxLstm {
        hidden_size: rnn.hidden_size,
        direction: rnn.direction,
        batch_first: rnn.batch_first,
        clip: rnn.clip,
        input_forget: node.attributes.flag("input_forget", false)?,
        activations: rnn.activations,
        dynamic: false,
    })
}

/// The operator of a GRU node.
pub(super) fn gru(node: &mut Node<'_>) -> Result<OnnxRnn, NodeProblem> {
    let linear_before_reset = node.attributes.flag("linear_before_reset", false)?;
    Ok(OnnxRnn { linear_before_reset, ..rnn(node, &["Sigmoid", "Tanh"])? })
}

/// What all layers have; `usual` are the functions of one direction.
pub(super) fn rnn(node: &mut Node<'_>, usual: &[&str]) -> Result<OnnxRnn, NodeProblem> {
    let (opset, recurrent) =
        (node.opset(), node.operands.get(2).and_then(|&r| node.importer.graph().fact(r)));
    let attributes = &mut node.attributes;
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
    let directions = if direction == Direction::Bidirectional { 2 } else { 1 };
    Ok(OnnxRnn {
        hidden_size: hidden_size(attributes, recurrent.map(|f| f.ty))?,
        direction,
        batch_first: opset >= 14 && attributes.flag("layout", false)?,
        clip,
        linear_before_reset: false,
        activations: activations(attributes, usual, directions)?,
    })
}

/// The attribute or, if it is not given, the last dimension of `R: [directions, rows, hidden]`. Both must agree.
fn hidden_size(attributes: &mut Attributes, recurrent: Option<Type>) -> Result<usize, NodeProblem> {
    let given = attributes.int("hidden_size")?;
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

/// The functions of each direction. A value of `activation_alpha` or `activation_beta` goes to the next function that has one.
fn activations(
    attributes: &mut Attributes,
    usual: &[&str],
    directions: usize,
) -> Result<Vec<Function>, NodeProblem> {
    let names = attributes.strings("activations")?;
    let mut names = names.unwrap_or_else(|| usual.repeat(directions).into_iter().map(String::from).collect());
    let expected = usual.len() * directions;
    // The schema's default names those of two directions, and some tools write it out.
    if names.len() == 2 * expected {
        names.truncate(expected);
    }
    if names.len() != expected {
        return Err(attributes.wrong("activations", &format!("{expected} functions"), names.len()));
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
