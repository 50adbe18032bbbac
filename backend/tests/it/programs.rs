//! Models of every kind of step and cell.

use lstmc_frontend::ir::arbitrary::{Extras, Kind, Recurrence, random_map, recurrent_model_of};
use lstmc_frontend::ir::{Graph, Head, LinearMap, parse};

/// An LSTM with a projection, whose gates are normalised, in general steps; then a cell in the loop of a state that it feeds.
const NORMALISED: &str = "
  %r: f32[S, B, <M>] = state @initial
  %c: f32[S, B, <N>] = state
  %d: f32[S, B, <M>] = state
  %h: f32[B, <N>] = state
  %x0 = embedding %tokens, @embedding
  %g = linear %x0, @w, %r, @u, @b
  %i0 = features %g {from = 0, to = <N>}
  %f0 = features %g {from = <N>, to = <2N>}
  %o0 = features %g {from = <2N>, to = <3N>}
  %j0 = features %g {from = <3N>, to = <4N>}
  %i1 = layer_norm %i0, @scale, @shift {epsilon = 1e-2}
  %f1 = layer_norm %f0, none, @shift {epsilon = 1e-2}
  %o1 = layer_norm %o0 {epsilon = 1e-2}
  %i = sigmoid %i1
  %f = sigmoid %f1
  %o = sigmoid %o1
  %j = tanh %j0
  %ij = mul %i, %j
  %fc = mul %f, %c
  %c1 = add %fc, %ij
  %tc = tanh %c1
  %y = mul %o, %tc
  %p = linear %y, @projection
  %x1, %h.next = gru %d, %h, @gru.input, @gru.recurrent, @gru.bias {reset = after}
  %z = linear %x1, @z, %p, @z2, %r, @z2
  %e = tanh %z
  %both = concat %e, %x1, %d
  %logits = linear %both, @decoder
  return logits %logits, state %r = %p, state %c = %c1, state %d = %e, state %h = %h.next
}
@initial: f32[<M>] random 3
@embedding: f32[<V>, <M>] random 1
@w: f32[<4N>, <M>] random 2
@u: f32[<4N>, <M>] random 4
@b: f32[<4N>] random 5
@scale: f32[<N>] random 6
@shift: f32[<N>] random 7
@projection: f32[<M>, <N>] random 8
@gru.input: f32[<3N>, <M>] random 9
@gru.recurrent: f32[<3N>, <N>] random 10
@gru.bias: f32[<4N>] random 11
@z: f32[<M>, <N>] random 12
@z2: f32[<M>, <M>] random 13
@decoder: f32[<V>, <N+2M>] random 14
";

/// minGRUs, whose loops have no products; gates of one feature; a delayed embedding; probabilities of two clusters of words.
const CLUSTERS: &str = "
  %h: f32[S, B, <N>] = state
  %s: f32[S, B, <M>] = state @initial
  %x0 = embedding %tokens, @embedding
  %g = linear %x0, @w, %s, @w2, @b
  %z0 = features %g {from = 0, to = 1}
  %z = sigmoid %z0
  %new = features %g {from = 1, to = <N+1>}
  %d = sub %new, %h
  %zd = mul %z, %d
  %y = add %h, %zd
  %scaled = mul %y, @half
  %a = linear %scaled, @head
  %first = log_softmax %a
  %t0 = linear %scaled, @down
  %t = linear %t0, @tail, @tail.bias
  %second = log_softmax %t
  %most = features %first {from = 0, to = <K>}
  %cluster = features %first {from = <K>, to = <K+1>}
  %rest = add %second, %cluster
  %logits = concat %most, %rest
  return logits %logits, state %h = %y, state %s = %x0
}
@initial: f32[<M>] random 3
@embedding: f32[<V>, <M>] random 1
@w: f32[<N+1>, <M>] random 2
@w2: f32[<N+1>, <M>] random 4
@b: f32[<N+1>] random 5
@half: f32[1] [0.5]
@head: f32[<K+1>, <N>] random 6
@down: f32[<M>, <N>] random 7
@tail: f32[<V-K>, <M>] random 8
@tail.bias: f32[<V-K>] random 9
";

/// Logits of a map, which also feed back.
const CAPPED: &str = "
  %last: f32[S, B, <V>] = state
  %x0 = embedding %tokens, @embedding
  %y = linear %x0, @w, %last, @u
  %ratio = div %y, @cap
  %t = erf %ratio
  %logits = mul %t, @cap
  return logits %logits, state %last = %logits
}
@embedding: f32[<V>, <M>] random 1
@w: f32[<V>, <M>] random 2
@u: f32[<V>, <V>] random 3
@cap: f32[1] [1.5]
";

/// A transducer's prediction network.
const HIDDEN: &str = "
  %h: f32[B, <N>] = state @initial
  %c: f32[B, <N>] = state
  %x0 = embedding %tokens, @embedding
  %x1, %h.next, %c.next = lstm %x0, %h, %c, @input, @recurrent, @bias {gates = ifgo}
  %x2 = linear %x1, @projection
  %n = layer_norm %x2 {epsilon = 1e-2}
  return hidden %OUTPUT, state %h = %h.next, state %c = %c.next
}
@initial: f32[<N>] random 3
@embedding: f32[<V>, <M>] random 1
@input: f32[<4N>, <M>] random 4
@recurrent: f32[<4N>, <N>] random 5
@bias: f32[<4N>] random 6
@projection: f32[<M>, <N>] random 7
";

/// Every one of these models.
pub(crate) fn texts() -> Vec<String> {
    let hidden = ["x0", "x1", "x2", "n"].map(|name| HIDDEN.replace("OUTPUT", name));
    [NORMALISED, CLUSTERS, CAPPED].map(str::to_string).into_iter().chain(hidden).collect()
}

/// Models of every kind of recurrent layer, plain and with all that a model may have, of `n` units and `v` words.
pub(crate) fn recurrent(
    kinds: &[Recurrence],
    [n, v]: [usize; 2],
    mut map: impl FnMut(&str, [usize; 2]) -> LinearMap,
) -> Vec<(String, Graph)> {
    let extras = [Extras::NONE, Extras { head: Head::Hidden, ..Extras::ALL }, Extras::ALL];
    let all = kinds.iter().flat_map(|kind| extras.map(|extras| (kind, extras)));
    all.map(|(kind, extras)| {
        (format!("{kind:?}, {extras:?}"), recurrent_model_of(kind, [n, 2, v], extras, &mut map))
    })
    .collect()
}

/// A model of `n` units, `m` features and `v` words, at least 4, with matrices of one kind, or dense ones.
pub(crate) fn filled(text: &str, [n, m, v]: [usize; 3], kind: Option<Kind>, seed: u64) -> Graph {
    let k = v / 2;
    let sizes = [
        ("<N>", n),
        ("<2N>", 2 * n),
        ("<3N>", 3 * n),
        ("<4N>", 4 * n),
        ("<N+1>", n + 1),
        ("<N+2M>", n + 2 * m),
        ("<M>", m),
        ("<V>", v),
        ("<K>", k),
        ("<K+1>", k + 1),
        ("<V-K>", v - k),
    ];
    let body =
        sizes.iter().fold(text.to_string(), |text, (name, size)| text.replace(name, &size.to_string()));
    let head = format!("model \"m\" (vocabulary {v}) {{\n  %tokens: i64[S, B] = input");
    let mut graph = parse(&(head + &body)).unwrap_or_else(|e| panic!("{e}\n{body}"));
    let matrices: Vec<_> = graph
        .weights()
        .filter(|(_, w)| w.map.shape().len() == 2)
        .map(|(id, w)| (id, w.map.shape()))
        .collect();
    for (at, (id, shape)) in matrices.into_iter().enumerate().filter(|_| kind.is_some()) {
        let map = random_map(kind.unwrap(), [shape[0], shape[1]], seed + at as u64);
        graph.set_weight(id, map.into()).unwrap();
    }
    graph
}
