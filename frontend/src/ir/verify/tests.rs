use super::*;
use crate::ir::arbitrary::{Kind, language_model, language_model_of, random_map};
use crate::ir::graph::Output;
use crate::ir::op::Op;
use crate::ir::{Fact, parse};
use crate::tensor::DType;
use petgraph::stable_graph::NodeIndex;

fn model() -> Graph {
    language_model(4, 1, 6, 1)
}

fn node_of(graph: &Graph, value: &str) -> NodeIndex {
    NodeIndex::new(graph.producer(graph.value_named(value).unwrap()).0 as usize)
}

/// Verifies after `change`; the invariants broken, and the message.
fn broken(change: impl FnOnce(&mut Graph)) -> (Vec<&'static str>, String) {
    let mut graph = model();
    change(&mut graph);
    assert!(!graph.is_language_model());
    let errors = verify_language_model(&graph).unwrap_err();
    (errors.errors().iter().map(|e| e.invariant).collect(), errors.to_string())
}

#[test]
fn language_models_of_every_representation_pass() {
    for kind in Kind::ALL {
        let graph = language_model_of(4, 2, 10, |name, shape| random_map(kind, shape, name.len() as u64));
        verify_language_model(&graph).unwrap();
        verify(&graph).unwrap();
        assert!(graph.is_language_model());
    }
}

/// Breaks one invariant after the other, and shows the message of each.
#[test]
fn every_broken_invariant_is_shown_below_its_line() {
    type Change = fn(&mut Graph);
    let changes: [(&str, Change); 26] = [
        ("I1 I7 L6", |g| drop(g.remove_weight(g.weight_named("embedding").unwrap()))),
        ("I1 I4", |g| {
            let (at, other) = (node_of(g, "x0"), g.value_named("x1").unwrap());
            g.nodes_mut()[at].operands[0] = Operand::Value(other);
        }),
        ("I1", |g| {
            let at = node_of(g, "x0");
            g.nodes_mut()[at].operands[0] = Operand::Value(ValueId(99));
        }),
        ("I2", |g| {
            let (at, other) = (node_of(g, "logits"), g.value_named("x1").unwrap());
            g.nodes_mut()[at].results.push(other);
        }),
        ("I2", |g| {
            let at = node_of(g, "logits");
            g.nodes_mut()[at].results.push(ValueId(99));
        }),
        ("I2", |g| {
            let at = node_of(g, "logits");
            g.nodes_mut()[at].results.clear();
        }),
        ("I2", |g| {
            let (at, other) = (g.value_named("x0").unwrap(), g.producer(g.value_named("x1").unwrap()));
            g.values_mut().get_mut(&at).unwrap().node = other;
        }),
        ("I3", |g| {
            let at = g.value_named("x0").unwrap();
            g.values_mut().get_mut(&at).unwrap().fact = Fact::of_type(DType::F32, vec![7.into()]);
        }),
        ("I3", |g| {
            let at = g.value_named("x1").unwrap();
            g.values_mut().get_mut(&at).unwrap().fact.content = Some(vec![7.into()]);
        }),
        ("I3", |g| {
            let id = g.weight_named("decoder").unwrap();
            g.weights_mut().get_mut(&id).unwrap().map = random_map(Kind::Dense, [6, 5], 1).into();
        }),
        ("I3", |g| {
            let (at, weight) = (node_of(g, "h0"), g.weight_named("decoder").unwrap());
            g.nodes_mut()[at].operands.push(Operand::Weight(weight));
        }),
        ("I4", |g| {
            let (a, b) = (node_of(g, "logits"), node_of(g, "x0"));
            g.nodes_mut().add_edge(a, b, ());
        }),
        ("I5", |g| {
            let at = g.value_named("x1").unwrap();
            g.values_mut().get_mut(&at).unwrap().name = "x0".into();
        }),
        ("I5", |g| {
            let id = g.weight_named("lstm0.recurrent").unwrap();
            g.weights_mut().get_mut(&id).unwrap().name = "lstm0.input".into();
        }),
        ("I5", |g| {
            g.add_output(OutputRole::State(g.value_named("h0").unwrap()), g.value_named("h0.next").unwrap())
        }),
        ("I6", |g| {
            g.outputs_mut().push(Output { role: OutputRole::Named("logits".into()), value: ValueId(99) })
        }),
        ("I6", |g| g.outputs_mut()[1].role = OutputRole::State(g.value_named("x0").unwrap())),
        ("I6", |g| g.outputs_mut()[1].value = g.value_named("x0").unwrap()),
        ("I2 L2", |g| {
            let at = node_of(g, "tokens");
            g.nodes_mut()[at].results[0] = ValueId(99);
        }),
        ("I7", |g| g.add_weight("unused \"one\"", random_map(Kind::LowRank, [2, 3], 1)).map(|_| ()).unwrap()),
        ("L1", |g| g.vocabulary = None),
        ("L2", |g| {
            g.add_source(Op::Input, "lengths", Type::tokens());
        }),
        ("L3", |g| g.outputs_mut()[0].role = OutputRole::Named("scores".into())),
        ("L3", |g| g.outputs_mut()[0].value = g.value_named("x1").unwrap()),
        ("L4", |g| drop(g.outputs_mut().pop())),
        ("L6", |g| g.vocabulary = Some(7)),
    ];
    let mut shown = vec![];
    for (expected, change) in changes {
        let (invariants, message) = broken(change);
        for invariant in expected.split(' ').filter(|i| *i != "I7" || expected == "I7") {
            assert!(invariants.contains(&invariant), "{expected}: {message}");
        }
        shown.push(message);
    }
    insta::assert_snapshot!(shown.join("\n\n"));
}

#[test]
fn generic_operators_have_no_place_in_language_model_form() {
    let (invariants, message) = broken(|g| {
        let at = node_of(g, "logits");
        g.nodes_mut()[at].op = Op::Identity;
    });
    assert!(invariants.contains(&"L5"), "{message}");
    assert!(message.contains("L5: onnx.identity has no place in language-model form"), "{message}");
}

#[test]
fn generic_graphs_need_no_logits() {
    let graph = parse(
        "model \"m\" {\n  %x: f32[S, B, 2] = input\n  %y = linear %x, @w\n  return y %y\n}\n@w: f32[3, 2] random 1",
    );
    let graph = graph.unwrap();
    verify(&graph).unwrap();
    assert!(!graph.is_language_model());
}

#[test]
fn numbers_that_are_not_finite_are_found_wherever_they_are() {
    let text = "model \"m\" {\n  %x: f32[S, B, 2] = input\n  %y = linear %x, @w, @b\n  return y %y\n}\n\
        @w: low_rank [3, 2] { left: f32[3, 1] [0, nan, 1], right: sparse unstructured [1, 2] { mask: [1, 1], values: f32[1, 2] [1, -inf] } }\n\
        @b: f16[3] [65504, inf, 1]\n";
    insta::assert_snapshot!(verify(&parse(text).unwrap()).unwrap_err());
    for (i, x) in [(0, f32::NAN), (4095, f32::INFINITY), (4096, -f32::NAN), (9999, f32::NEG_INFINITY)] {
        let mut all = vec![f32::MAX; 10_000];
        assert_eq!(first_not_finite(&Tensor::from_f32([10_000], all.clone()).unwrap()), None);
        all[i] = x;
        assert_eq!(first_not_finite(&Tensor::from_f32([10_000], all).unwrap()), Some(i));
    }
    assert_eq!(first_not_finite(&Tensor::from_f64([2], vec![-f64::MAX, f64::NAN]).unwrap()), Some(1));
    let bf16 = half::bf16::from_f32;
    assert_eq!(first_not_finite(&Tensor::from_bf16([2], vec![bf16(-1.0), bf16(f32::NAN)]).unwrap()), Some(1));
}
