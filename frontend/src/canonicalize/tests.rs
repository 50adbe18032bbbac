//! Operators between the layers of a model, and at its end: the canonical graph computes what the generic one does.

use super::canonicalize;
use crate::interpret::{Interpreter, LanguageModel};
use crate::ir::{Graph, parse};
use crate::tensor::Tensor;

/// Features and words.
const N: usize = 6;

/// A model whose hidden vectors are `%h: [S, B, 6]`, and what it makes of them.
fn model(body: &str) -> Graph {
    let text = format!(
        "model \"m\" {{
  %tokens: i64[seq, batch] = input
  %x = onnx.gather @table, %tokens {{axis = 0}}
  %y, %last = onnx.rnn %x, @w, @r, none, none, none {{hidden_size = 6, direction = forward, batch_first = false, activations = [tanh]}}
  %h = onnx.squeeze %y, @one
{body}
  return logits %logits
}}
@table: f32[6, 4] random 1
@w: f32[1, 6, 4] random 2
@r: f32[1, 6, 6] random 3
@decoder: f32[6, 6] random 4
@second: f32[6, 6] random 5
@weights: f32[6, 2] random 7
@slopes: f32[6] random 6
@zero: f32[] [0]
@half: f32[] [0.5]
@small: f32[] [0.01]
@power: f32[1] [1.5]
@powers: f32[6] [0.5, 1.5, 2.5, -0.5, 0.25, -1.5]
@mixed: f32[6] [2, 3, 0.5, 2, 3, 0.5]
@one: i64[1] [1]
@two: i64[1] [2]
@none: i64[1] [0]
@axis: i64[1] [-1]
@pairs: i64[4] [0, 0, 3, 2]
@classes: i64[4] [0, 0, 2, 3]
@flat: i64[3] [0, 0, 6]
"
    );
    // Weights that the body does not read are left out.
    let is_used = |line: &&str| {
        line.strip_prefix('@').and_then(|l| l.split_once(':')).is_none_or(|(name, _)| {
            let name = format!("@{name}");
            text.split(|c: char| !(c.is_alphanumeric() || c == '@')).filter(|w| *w == name).count() > 1
        })
    };
    let text: String = text.lines().filter(is_used).map(|l| format!("{l}\n")).collect();
    parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

const TOKENS: [u32; 7] = [3, 0, 5, 1, 1, 4, 2];

/// The outputs of a generic graph and of its canonical form.
fn outputs(body: &str) -> (Vec<f64>, Vec<f64>) {
    let graph = model(body);
    let tokens = Tensor::from_i64([TOKENS.len(), 1], TOKENS.iter().map(|&t| t.into()).collect()).unwrap();
    let expected = Interpreter::in_f64(&graph).unwrap().run(&[("tokens", tokens)]).unwrap();
    let canonical = canonicalize(&graph).unwrap_or_else(|e| panic!("{e}\n{body}")).unwrap();
    let model = LanguageModel::<f64>::new(&canonical.graph).unwrap();
    let found = model.outputs(&mut model.state(), &TOKENS).unwrap();
    (expected[0].1.to_f64().unwrap().to_vec(), found)
}

/// Constants are folded in f32.
fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-5 * (1.0 + b.abs())
}

#[test]
fn operators_between_layers_compute_the_same() {
    let reduce = "{keep_dims = true, noop_with_empty_axes = false}";
    let bodies = [
        "%z = onnx.exp %h".to_string(),
        "%a = onnx.abs %h\n%b = add %a, @small\n%z = onnx.log %b".into(),
        "%a = onnx.greater_or_equal %h, @zero\n%b = add %h, @half\n%c = sigmoid %h\n%z = onnx.where %a, %b, %c".into(),
        "%a = onnx.less %h, @zero\n%b = onnx.greater %h, @half\n%c = onnx.or %a, %b\n%d = onnx.not %c\n%e = onnx.equal %h, %h\n\
         %f = onnx.and %d, %e\n%z = onnx.where %f, %h, @half"
            .into(),
        "%a = onnx.less_or_equal %h, @slopes\n%z = onnx.cast %a {to = f32}".into(),
        "%z = onnx.sign %h".into(),
        "%z = onnx.prelu %h, @slopes".into(),
        "%a = onnx.abs %h\n%z = onnx.pow %a, @power".into(),
        "%a = onnx.abs %h\n%z = onnx.pow %a, @powers".into(),
        "%z = onnx.softmax %h {axis = -1}".into(),
        format!("%a = onnx.reshape %h, @pairs {{allow_zero = false}}\n%b = onnx.reduce_max %a, @axis {reduce}\n%c = sub %a, %b\n\
                 %z = onnx.reshape %c, @flat {{allow_zero = false}}"),
        format!("%a = onnx.reshape %h, @pairs {{allow_zero = false}}\n%b = onnx.reduce_min %a, @axis {reduce}\n%s = onnx.reduce_sum %a, @axis {reduce}\n\
                 %m = onnx.reduce_mean %a, @two {reduce}\n%c = sub %s, %b\n%d = add %a, %c\n%e = mul %d, %m\n\
                 %z = onnx.reshape %e, @flat {{allow_zero = false}}"),
        "%a = onnx.reshape %h, @pairs {allow_zero = false}\n%b = onnx.transpose %a {perm = [0, 1, 3, 2]}\n%c = onnx.matmul %a, %b\n\
         %d = onnx.matmul %c, %a\n%z = onnx.reshape %d, @flat {allow_zero = false}"
            .into(),
        "%a = onnx.reshape %h, @pairs {allow_zero = false}\n%b = onnx.einsum %a, %a {equation = \"sbij,sbkj->sbik\"}\n\
         %c = onnx.einsum %b, %a {equation = \"sbik,sbkj->sbij\"}\n%z = onnx.reshape %c, @flat {allow_zero = false}"
            .into(),
        format!("%a = onnx.reduce_log_sum_exp %h, @axis {reduce}\n%z = sub %h, %a"),
        format!("%a = onnx.reduce_l1 %h, @axis {reduce}\n%z = div %h, %a"),
        format!("%a = onnx.exp %h\n%b = onnx.reduce_log_sum %a, @axis {reduce}\n%z = mul %h, %b"),
    ];
    for body in bodies {
        let (expected, found) = outputs(&format!("{body}\n%logits = onnx.matmul %z, @decoder"));
        assert!(found.len() == expected.len());
        for (a, b) in found.iter().zip(&expected) {
            assert!(near(*a, *b), "{a}, expected {b}\n{body}");
        }
    }
}

#[test]
fn exponents_of_several_kinds_are_refused() {
    let graph = model("%a = onnx.abs %h\n%z = onnx.pow %a, @mixed\n%logits = onnx.matmul %z, @decoder");
    assert!(canonicalize(&graph).is_err());
}

/// What a model returns as probabilities is taken as their logarithms.
#[test]
fn mixtures_of_softmaxes_become_log_probabilities() {
    let mixture = "%a = onnx.matmul %h, @decoder\n%b = onnx.matmul %h, @second\n%c = onnx.matmul %h, @weights\n%p = onnx.softmax %a {axis = -1}\n\
        %q = onnx.softmax %b {axis = -1}\n%w = onnx.softmax %c {axis = -1}\n%w0 = onnx.slice %w, @none, @one, @axis\n\
        %w1 = onnx.slice %w, @one, @two, @axis\n%u = mul %w0, %p\n%v = mul %q, %w1\n";
    let ends = [
        (format!("{mixture}%logits = add %u, %v"), true),
        (format!("{mixture}%s = add %u, %v\n%logits = onnx.log %s"), false),
        ("%a = onnx.matmul %h, @decoder\n%p = onnx.softmax %a {axis = -1}\n%s = add %p, @small\n%logits = onnx.log %s".into(), false),
        // Two classes of three words.
        (
            "%a = onnx.matmul %h, @decoder\n%c = onnx.matmul %h, @weights\n%w = onnx.softmax %c {axis = -1}\n\
             %r = onnx.reshape %a, @classes {allow_zero = false}\n%p = onnx.softmax %r {axis = -1}\n%s = onnx.unsqueeze %w, @axis\n\
             %t = mul %s, %p\n%logits = onnx.reshape %t, @flat {allow_zero = false}"
                .into(),
            true,
        ),
        ("%a = onnx.matmul %h, @decoder\n%p = onnx.log_softmax %a {axis = -1}\n%logits = onnx.exp %p".into(), true),
    ];
    for (body, is_probability) in ends {
        let (expected, found) = outputs(&body);
        for (found, expected) in found.chunks(N).zip(expected.chunks(N)) {
            let total = found.iter().map(|x| x.exp()).sum::<f64>().ln();
            for (&x, &y) in found.iter().zip(expected) {
                let (x, y) = if is_probability { (x - total, y.ln()) } else { (x, y) };
                assert!(near(x, y), "{x}, expected {y}\n{body}");
            }
        }
    }
}

/// A product of computed values is one of a token's own, never of different tokens.
#[test]
fn attention_is_refused_by_name() {
    let graph = model(
        "%a = onnx.transpose %h {perm = [1, 0, 2]}\n%b = onnx.transpose %h {perm = [1, 2, 0]}\n%c = onnx.matmul %a, %b\n\
         %d = onnx.softmax %c {axis = -1}\n%e = onnx.matmul %d, %a\n%f = onnx.transpose %e {perm = [1, 0, 2]}\n%logits = onnx.matmul %f, @decoder",
    );
    let error = canonicalize(&graph).unwrap_err().to_string();
    assert!(error.contains("it multiplies computed values with each other, as attention does"), "{error}");
}
