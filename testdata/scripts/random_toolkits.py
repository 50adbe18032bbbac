"""Random models in the forms that speech, keyboard, molecule and translation toolkits export. Used by random_models.py."""

import numpy as np

from random_graphs import F32, I32, I64, Pieces
from random_nodes import ACTIVATION, cell, cell_node, layout, scores


def model(draw):
    return draw.of(dict.fromkeys([icefall, nemo, espnet, keras, keras_step, paddle, gluon, molecules, keyboard, flair, fairseq, tensorflow, latent, sampling, sentences,
                                  projected_stack, hub, sherpa, chars, deep], 1))(draw)


def start(draw, name, batch_first=None, step=False, dtype=None):
    p = Pieces(draw, batch_first=batch_first, step=step)
    p.tags.insert(0, name)
    if dtype:
        p.dtype = dtype
    return p


def final(p, y, name, rows, *dims):
    p.net.op("Identity", [y], name)
    p.net.output(name, F32, *dims)
    return rows


def stack(p, x, kind, layers, states, inputs, dropout=False):
    """Plain LSTM or GRU nodes; x [S, B, inputs], states: by layer. Gives [S, B, n] and the last states by kind."""
    net, ends, n = p.net, [], p.n
    for k in range(layers):
        gates = {"LSTM": 4, "GRU": 3}[kind]
        given = [x, net.floats(1, gates * n, inputs), net.floats(1, gates * n, n), net.floats(1, 2 * gates * n), ""] + (states[k] if states else [])
        while not given[-1]:
            given.pop()
        more = {"linear_before_reset": 1} if kind == "GRU" else {}
        y, *end = net.op(kind, given, 3 if kind == "LSTM" else 2, hidden_size=n, **more)
        x, inputs = net.axes("Squeeze", y, [1]), n
        if dropout and k < layers - 1:
            x = net.op("Dropout", [x], 1)
        ends.append(end)
    return x, ends


def stacked(p, names, layers, form="split"):
    """State inputs [layers, B, n], as lists by layer."""
    net = p.net
    parts = []
    for name in names:
        p.state(name, layers, "batch", p.n)
        parts.append(net.split(name, [1] * layers, 0) if form == "split" else [net.slice(name, 0, k, k + 1) for k in range(layers)])
    return [list(s) for s in zip(*parts)]


def return_stacked(p, ends, names, given, layers):
    for j, (name, start) in enumerate(zip(names, given)):
        p.returns(p.net.op("Concat", [e[j] for e in ends], axis=0), name, start, layers, "batch", p.n)


def by_batch(p):
    return lambda o, s, b: o.reshape(b, s, p.vocabulary).swapaxes(0, 1)


def by_step(p):
    return lambda o, s, b: o.reshape(s, b, p.vocabulary)


def icefall(draw):
    """RnnLmModel of streaming export: x [N, L], h0, c0 -> log_probs [N, L, V], next_h0, next_c0; the table may be tied."""
    p = start(draw, "icefall", True)
    net, layers = p.net, draw.between(1, 3)
    tied = draw.yes(0.5)
    if tied:
        p.e = p.n
    table = net.floats(p.vocabulary, p.e)
    p.token_name, p.vector = "x", False
    net.input("x", p.dtype, p.dim("batch"), p.dim("seq"))
    tokens = "x" if p.dtype in (I64, I32) else net.op("Cast", ["x"], to=I64)
    x = net.op("Transpose", [net.op("Gather", [table, tokens])], perm=[1, 0, 2])
    x, ends = stack(p, x, "LSTM", layers, stacked(p, ["h0", "c0"], layers, draw.of({"split": 1, "slice": 1})), p.e)
    x = net.op("Transpose", [x], perm=[1, 0, 2])
    weight = table if tied else net.floats(p.vocabulary, p.n)
    y = net.op("Add", [net.op("MatMul", [x, net.op("Transpose", [weight], perm=[1, 0])]), net.floats(p.vocabulary)])
    y = net.softmax(y, "LogSoftmax")
    final(p, y, "log_probs", None, p.dim("batch"), p.dim("seq"), p.vocabulary)
    return_stacked(p, ends, ["next_h0", "next_c0"], ["h0", "c0"], layers)
    return p.case("toolkit", by_batch(p), "log_probs")


def nemo(draw):
    """RNNT decoder: targets [B, U], target_length [B], states [L, B, D] -> outputs [B, D, U], prednet_lengths, states. Blank is the last row, zero."""
    p = start(draw, "nemo", True, dtype=draw.of({I32: 2, I64: 1}))
    net, layers = p.net, draw.between(1, 2)
    p.token_name, p.vector = "targets", False
    net.input("targets", p.dtype, p.dim("batch"), p.dim("seq"))
    net.input("target_length", I32, p.dim("batch"))
    p.further["target_length"] = lambda s, b: np.full(b, s, np.int32)
    table = p.draw.floats(p.vocabulary, p.e)
    table[-1] = 0
    x = net.op("Transpose", [net.op("Gather", [net.weight("embedding", table), "targets"])], perm=[1, 0, 2])
    if draw.yes(0.4):  # a zero vector at the start
        p.tags.append("sos")
        shape = net.op("Shape", [x])
        zero = net.op("ConstantOfShape", [net.op("Concat", [net.ints(1), net.slice(shape, 0, 1, 3)], axis=0)])
        x = net.op("Concat", [zero, x], axis=0)
    x, ends = stack(p, x, "LSTM", layers, stacked(p, ["states.1", "onnx::Slice_3"], layers), p.e)
    x = net.op("Transpose", [x], perm=[1, 2, 0])
    final(p, x, "outputs", None, p.dim("batch"), p.n, None)
    net.op("Identity", ["target_length"], "prednet_lengths")
    net.output("prednet_lengths", I32, p.dim("batch"))
    return_stacked(p, ends, ["states", "162"], ["states.1", "onnx::Slice_3"], layers)
    return p.case("toolkit", None, "outputs")


def espnet(draw):
    """SequentialRNNLM: x [B, 1] or [1, B], in_hidden_k -> y [B, V] (log_softmax outside), out_hidden_k."""
    p = start(draw, "espnet", draw.yes(0.5), step=True)
    net, layers, kind = p.net, draw.between(1, 3), draw.of({"LSTM": 1, "GRU": 1})
    names = ["hidden", "cell"][: 2 if kind == "LSTM" else 1]
    x = p.embed("x")
    if p.batch_first:
        x = net.op("Transpose", [x], perm=[1, 0, 2])
    x, ends = stack(p, x, kind, layers, stacked(p, [f"in_{n}" for n in names], layers), p.e, True)
    y = net.op("Gather", [x, net.number(-1, np.int64)], axis=0)
    p.width = p.vocabulary
    y = net.linear(y, p.n, p.vocabulary, True, 2)
    if draw.yes(0.5):
        y = net.op("LogSoftmax", [y], axis=1)
    final(p, y, "y", None, p.dim("batch"), p.vocabulary)
    return_stacked(p, ends, [f"out_{n}" for n in names], [f"in_{n}" for n in names], layers)
    return p.case("toolkit", lambda o, s, b: o.reshape(1, b, p.vocabulary), "y")


def keras(draw):
    """What tf2onnx writes for Sequential(Embedding, LSTM or GRU.., Dense): float or int32 tokens, transposes around each node, Softmax."""
    p = start(draw, "keras", True, dtype=draw.of({F32: 2, I32: 1}))
    net, kind, layers = p.net, draw.of({"LSTM": 1, "GRU": 1}), draw.between(1, 2)
    p.token_name, p.vector = "embedding_input", False
    net.input("embedding_input", p.dtype, p.dim("batch"), p.dim("seq"))
    tokens = net.op("Cast", ["embedding_input"], to=I32) if p.dtype == F32 else "embedding_input"
    x, inputs = net.op("Gather", [net.floats(p.vocabulary, p.e), tokens], axis=0), p.e
    last_only = draw.yes(0.4)
    gates = 4 if kind == "LSTM" else 3
    for k in range(layers):
        x = net.op("Transpose", [x], perm=[1, 0, 2])
        streams = net.slice(net.op("Shape", [x]), 0, 1, 2)
        zero = net.op("Expand", [net.number(np.zeros((1, 1, p.n))), net.op("Concat", [net.ints(1), streams, net.ints(p.n)], axis=0)])
        bias = net.weight(net.new("B"), np.concatenate([draw.floats(1, gates * p.n), np.zeros((1, gates * p.n)) if kind == "LSTM" else draw.floats(1, gates * p.n)], 1), np.float32)
        more = {"linear_before_reset": 1} if kind == "GRU" else {}
        more |= {"activations": ["HardSigmoid", "Tanh", "Tanh"][: 3 if kind == "LSTM" else 2]} if draw.yes(0.2) else {}
        y, *ends = net.op(kind, [x, net.floats(1, gates * p.n, inputs), net.floats(1, gates * p.n, p.n), bias, "", zero] + ([zero] if kind == "LSTM" else []),
                          3 if kind == "LSTM" else 2, direction="forward", hidden_size=p.n, **more)
        x = net.op("Transpose", [net.axes("Squeeze", y, [1])], perm=[1, 0, 2])
        inputs = p.n
    if last_only:
        p.tags.append("last-state")
        p.width = p.vocabulary
        way = draw.of({"state": 1, "slice": 1})
        h = net.axes("Squeeze", ends[0], [0]) if way == "state" else net.axes("Squeeze", net.slice(x, 1, -1, 2**31 - 1), [1])
        y = net.op("Softmax", [net.op("Add", [net.op("MatMul", [h, net.floats(p.n, p.vocabulary)]), net.floats(p.vocabulary)])], axis=1)
        rows, dims = (lambda o, s, b: o.reshape(1, b, p.vocabulary)), [p.dim("batch"), p.vocabulary]
    else:
        if draw.yes(0.6):  # Tensordot of Dense on three axes
            flat = net.op("MatMul", [net.op("Reshape", [x, net.ints(-1, p.n)]), net.floats(p.n, p.vocabulary)])
            shape = net.op("Concat", [net.slice(net.op("Shape", [x]), 0, 0, 2), net.ints(p.vocabulary)], axis=0)
            y = net.op("Reshape", [flat, shape])
        else:
            y = net.op("MatMul", [x, net.floats(p.n, p.vocabulary)])
        y = net.softmax(net.op("Add", [y, net.floats(p.vocabulary)]))
        rows, dims = by_batch(p), [p.dim("batch"), p.dim("seq"), p.vocabulary]
    p.scale = "probabilities"
    final(p, y, "dense", None, *dims)
    return p.case("toolkit", rows, "dense")


def keras_step(draw):
    """A stateful Keras model made explicit: one token [B, 1] and states [B, n] per layer, Keras' layout of weights."""
    p = start(draw, "keras-step", True, step=True, dtype=draw.of({F32: 1, I32: 1}))
    net, layers = p.net, draw.between(1, 2)
    x = p.embed("input_1")
    inputs, outs = p.e, []
    kind = draw.of({"LSTM": 1, "GRU": 1})
    gates = 4 if kind == "LSTM" else 3
    for k in range(layers):
        x = net.op("Transpose", [x], perm=[1, 0, 2])
        names = [f"input_{2 + 2 * k + j}" for j in range(2 if kind == "LSTM" else 1)]
        states = [net.axes("Unsqueeze", p.state(s, "batch", p.n), [0]) for s in names]
        given = [x, net.floats(1, gates * p.n, inputs), net.floats(1, gates * p.n, p.n), net.floats(1, 2 * gates * p.n), "", *states]
        y, *ends = net.op(kind, given, 3 if kind == "LSTM" else 2, hidden_size=p.n, **({"linear_before_reset": 1} if kind == "GRU" else {}))
        x, inputs = net.op("Transpose", [net.axes("Squeeze", y, [1])], perm=[1, 0, 2]), p.n
        outs += [(net.axes("Squeeze", e, [0]), s) for e, s in zip(ends, names)]
    y = net.softmax(net.op("Add", [net.op("MatMul", [x, net.floats(p.n, p.vocabulary)]), net.floats(p.vocabulary)]))
    p.scale = "probabilities"
    final(p, y, "dense", None, p.dim("batch"), 1, p.vocabulary)
    for k, (value, name) in enumerate(outs):
        p.returns(value, f"lstm_{k}", name, "batch", p.n)
    return p.case("toolkit", by_batch(p), "dense")


def paddle(draw):
    """Paddle2ONNX: x [B, S], Y [S, 1, B, n] transposed to [S, B, 1, n] and reshaped, one softmax over axis 2, states cut by Slice with axes."""
    p = start(draw, "paddle", True, dtype=I64)
    net, layers, kind = p.net, draw.between(1, 2), draw.of({"LSTM": 2, "GRU": 1})
    x = p.embed("x")
    x = net.op("Transpose", [x], perm=[1, 0, 2])
    names = ["h", "c"][: 2 if kind == "LSTM" else 1]
    outside = draw.yes(0.5)
    if outside:
        states = stacked(p, names, layers, "slice")
    else:
        shape = net.op("Concat", [net.ints(1), net.slice(net.op("Shape", [x]), 0, 1, 2), net.ints(p.n)], axis=0)
        states = [[net.op("ConstantOfShape", [shape]) for _ in names] for _ in range(layers)]
    inputs, ends = p.e, []
    gates = 4 if kind == "LSTM" else 3
    for k in range(layers):
        given = [x, net.floats(1, gates * p.n, inputs), net.floats(1, gates * p.n, p.n), net.floats(1, 2 * gates * p.n), "", *states[k]]
        y, *end = net.op(kind, given, 3 if kind == "LSTM" else 2, hidden_size=p.n, direction="forward", **({"linear_before_reset": 1} if kind == "GRU" else {}))
        x, inputs = net.op("Reshape", [net.op("Transpose", [y], perm=[0, 2, 1, 3]), net.ints(0, 0, -1)]), p.n
        ends.append(end)
    x = net.op("Transpose", [x], perm=[1, 0, 2])
    y = net.op("Add", [net.op("MatMul", [x, net.floats(p.n, p.vocabulary)]), net.floats(p.vocabulary)])
    if draw.yes(0.5):
        y, p.scale = net.op("Softmax", [y], axis=2), "probabilities"
    final(p, y, "softmax_0.tmp_0", None, p.dim("batch"), p.dim("seq"), p.vocabulary)
    if outside:
        return_stacked(p, ends, [f"{s}_out" for s in names], names, layers)
    return p.case("toolkit", by_batch(p), "softmax_0.tmp_0")


def gluon(draw):
    """MXNet's word language model: tokens [S, B], fully connected layer on rows [S B, n], output flat or reshaped by Shape."""
    p = start(draw, "gluon", False)
    net, layers = p.net, draw.between(1, 2)
    x = p.embed("data")
    x, ends = stack(p, net.op("Dropout", [x], 1), "LSTM", layers, stacked(p, ["begin_state_0", "begin_state_1"], layers), p.e, True)
    rows = net.op("Reshape", [x, net.ints(-1, p.n)])
    y = net.op("Gemm", [rows, net.floats(p.vocabulary, p.n), net.floats(p.vocabulary)], transB=1)
    dims = [None, p.vocabulary]
    if draw.yes(0.5):
        y = net.op("Reshape", [y, net.op("Concat", [net.op("Shape", ["data"]), net.ints(-1)], axis=0)])
        dims = [p.dim("seq"), p.dim("batch"), p.vocabulary]
    final(p, y, "decoder0_fwd", None, *dims)
    return_stacked(p, ends, ["state_0", "state_1"], ["begin_state_0", "begin_state_1"], layers)
    return p.case("toolkit", by_step(p), "decoder0_fwd")


def molecules(draw):
    """REINVENT and char-RNNs: one token [B, 1] (or [B]), stacked states, LayerNorm scaled after the cells, logits squeezed to [B, V]."""
    p = start(draw, "molecules", True, step=True)
    net, layers, kind = p.net, draw.between(1, 3), draw.of({"LSTM": 1, "GRU": 1})
    names = ["hidden", "cell"][: 2 if kind == "LSTM" else 1]
    vector = draw.yes(0.4)
    x = p.embed("input", vector)
    x = net.axes("Unsqueeze", x, [0]) if vector else net.op("Transpose", [x], perm=[1, 0, 2])
    x, ends = stack(p, x, kind, layers, stacked(p, [f"{n}_in" for n in names], layers), p.e, True)
    if draw.yes(0.5):
        x = net.norm(x, p.n)
    y = net.linear(net.axes("Squeeze", x, [0]) if draw.yes(0.5) else net.op("Reshape", [x, net.ints(-1, p.n)]), p.n, p.vocabulary, True, 2)
    final(p, y, "logits", None, p.dim("batch"), p.vocabulary)
    return_stacked(p, ends, [f"{n}_out" for n in names], [f"{n}_in" for n in names], layers)
    return p.case("toolkit", lambda o, s, b: o.reshape(1, b, p.vocabulary), "logits")


def keyboard(draw):
    """Federated keyboards: a CIFG LSTM with a projection to the embedding's width and tied tables; one step or a sequence."""
    p = start(draw, "keyboard", draw.yes(0.5))
    net, layers = p.net, draw.between(1, 2)
    table = net.floats(p.vocabulary, p.e)
    p.token_name, p.vector = "tokens", False
    net.input("tokens", p.dtype, *([p.dim("batch"), p.dim("seq")] if p.batch_first else [p.dim("seq"), p.dim("batch")]))
    tokens = "tokens" if p.dtype in (I64, I32) else net.op("Cast", ["tokens"], to=I64)
    x = net.op("Gather", [table, tokens])
    if p.batch_first:
        x = net.op("Transpose", [x], perm=[1, 0, 2])
    states, ends = stacked(p, ["h", "c"], layers), []
    for k in range(layers):
        y, *end = net.op("LSTM", [x, net.floats(1, 4 * p.n, p.e), net.floats(1, 4 * p.n, p.n), net.floats(1, 8 * p.n), "", *states[k]], 3, hidden_size=p.n, input_forget=1)
        x = net.op("MatMul", [net.axes("Squeeze", y, [1]), net.floats(p.n, p.e)])
        ends.append(end)
    if p.batch_first:
        x = net.op("Transpose", [x], perm=[1, 0, 2])
    y = net.op("MatMul", [x, net.op("Transpose", [table], perm=[1, 0])])
    if draw.yes(0.5):
        y = net.op("Add", [y, net.floats(p.vocabulary)])
    final(p, y, "logits", None, None, None, p.vocabulary)
    return_stacked(p, ends, ["h_next", "c_next"], ["h", "c"], layers)
    return p.case("toolkit", by_batch(p) if p.batch_first else by_step(p), "logits")


def flair(draw):
    """A character model that returns the scores, the hidden vectors (rnn_output) and the last states."""
    p = start(draw, "flair", False)
    net = p.net
    x = p.embed("input")
    x, ends = stack(p, x, "LSTM", 1, stacked(p, ["hidden", "cell"], 1), p.e)
    rows = net.op("Reshape", [x, net.ints(-1, p.n)])
    y = net.op("Gemm", [rows, net.floats(p.vocabulary, p.n), net.floats(p.vocabulary)], transB=1)
    y = net.op("Reshape", [y, net.op("Concat", [net.slice(net.op("Shape", [x]), 0, 0, 2), net.ints(p.vocabulary)], axis=0)])
    final(p, y, "decoded", None, p.dim("seq"), p.dim("batch"), p.vocabulary)
    final(p, x, "rnn_output", None, p.dim("seq"), p.dim("batch"), p.n)
    return_stacked(p, ends, ["hidden_out", "cell_out"], ["hidden", "cell"], 1)
    return p.case("toolkit", by_step(p), "decoded")


def fairseq(draw):
    """LSTM decoder as a language model: cells step by step with [L, B, n] states, a projection of the output (additional_fc), shared tables."""
    p = start(draw, "fairseq", True, step=True)
    net, layers = p.net, draw.between(1, 3)
    x = net.axes("Squeeze", p.embed("prev_output_tokens"), [1])
    for s in ("prev_hiddens", "prev_cells"):
        p.state(s, layers, "batch", p.n)
    first, inputs, ends = x, p.e, []
    for k in range(layers):
        states = [net.op("Gather", [s, net.number(k, np.int64)], axis=0) for s in ("prev_hiddens", "prev_cells")]
        x, end = cell(net, "lstm", x, inputs, p.n, states)
        inputs = p.n
        ends.append(end)
    x = net.linear(x, p.n, p.e, True, 2)
    if draw.yes(0.5):
        x = net.op("Add", [x, first])
    y = net.op("MatMul", [x, net.floats(p.e, p.vocabulary)])
    y = net.op("LogSoftmax", [net.axes("Unsqueeze", y, [1])], axis=2)
    final(p, y, "log_probs", None, p.dim("batch"), 1, p.vocabulary)
    for j, s in enumerate(("prev_hiddens", "prev_cells")):
        p.returns(net.op("Concat", [net.axes("Unsqueeze", e[j], [0]) for e in ends], axis=0), s.replace("prev", "next"), s, layers, "batch", p.n)
    return p.case("toolkit", by_batch(p), "log_probs")


def tensorflow(draw):
    """TensorFlow 1's tuple states [L, 2, B, n], BasicLSTMCells of one step, Tile and Pack left over, probabilities."""
    p = start(draw, "tensorflow", True, step=True, dtype=I32)
    net, layers = p.net, draw.between(1, 2)
    x = net.op("Reshape", [p.embed("inputs"), net.ints(-1, p.e)])
    p.state("state_in", layers, 2, "batch", p.n)
    inputs, ends = p.e, []
    for k in range(layers):
        both = net.axes("Squeeze", net.slice("state_in", 0, k, k + 1), [0])
        c, h = [net.axes("Squeeze", s, [0]) for s in net.split(both, [1, 1], 0)]
        x, end = cell(net, "lstm-joined", x, inputs, p.n, [h, c])
        inputs = p.n
        ends.append(net.op("Concat", [net.axes("Unsqueeze", s, [0]) for s in reversed(end)], axis=0))
    y = net.op("Softmax", [net.op("Add", [net.op("MatMul", [x, net.floats(p.n, p.vocabulary)]), net.floats(p.vocabulary)])], axis=1)
    p.scale = "probabilities"
    final(p, y, "probs", None, p.dim("batch"), p.vocabulary)
    p.returns(net.op("Concat", [net.axes("Unsqueeze", e, [0]) for e in ends], axis=0), "state_out", "state_in", layers, 2, "batch", p.n)
    return p.case("toolkit", lambda o, s, b: o.reshape(1, b, p.vocabulary), "probs")


def latent(draw):
    """A decoder that is conditioned on a vector: not a function of tokens alone, so a refusal is right."""
    p = start(draw, "latent", False)
    net = p.net
    x = p.embed("tokens")
    net.input("z", F32, p.dim("batch"), 3)
    p.further["z"] = lambda s, b: np.ones((b, 3), np.float32)
    z = net.op("Expand", [net.axes("Unsqueeze", "z", [0]), net.op("Concat", [net.slice(net.op("Shape", [x]), 0, 0, 2), net.ints(3)], axis=0)])
    x, ends = stack(p, net.op("Concat", [x, z], axis=2), "GRU", 1, stacked(p, ["h0"], 1), p.e + 3)
    y = net.linear(x, p.n, p.vocabulary)
    final(p, y, "logits", None, p.dim("seq"), p.dim("batch"), p.vocabulary)
    return_stacked(p, ends, ["hn"], ["h0"], 1)
    return p.case("toolkit", None, "logits")


def sampling(draw):
    """The scores, and beside them what sampling needs: the best words, or all of it divided by a temperature that is an input."""
    p = start(draw, "sampling", draw.yes(0.5))
    net, layers = p.net, draw.between(1, 2)
    x = p.embed("tokens")
    if p.batch_first:
        x = net.op("Transpose", [x], perm=[1, 0, 2])
    x, ends = stack(p, x, "GRU", layers, stacked(p, ["h0"], layers), p.e)
    if p.batch_first:
        x = net.op("Transpose", [x], perm=[1, 0, 2])
    y = net.linear(x, p.n, p.vocabulary)
    d = [p.dim("batch"), p.dim("seq")] if p.batch_first else [p.dim("seq"), p.dim("batch")]
    way = draw.of({"best": 1, "argmax": 1, "both": 1, "temperature": 0.5, "sum": 0.5})
    p.tags.append(way)
    if way == "temperature":
        net.input("temperature", F32)
        p.further["temperature"] = lambda s, b: np.array(0.7, np.float32)
        y = net.op("Div", [y, "temperature"])
    final(p, y, "logits", None, *d, p.vocabulary)
    if way == "best":
        values, best = net.op("TopK", [y, net.ints(3)], 2, axis=-1)
        final(p, values, "values", None, *d, 3)
        net.op("Identity", [best], "best")
        net.output("best", I64, *d, 3)
    elif way == "argmax":
        net.op("ArgMax", [y], "best", axis=-1, keepdims=0)
        net.output("best", I64, *d)
    elif way == "both":
        net.op("Softmax", [y], "probabilities", axis=2)
        net.output("probabilities", F32, *d, p.vocabulary)
    elif way == "sum":
        net.op("Identity", [net.axes("ReduceSum", y, [-1], keepdims=0)], "sum")
        net.output("sum", F32, *d)
    return_stacked(p, ends, ["hn"], ["h0"], layers)
    return p.case("toolkit", by_batch(p) if p.batch_first else by_step(p), "logits")


def sentences(draw):
    """Tables padded to a multiple, a bias over only part of the words, scores cut to the vocabulary."""
    p = start(draw, "sentences", draw.yes(0.5))
    net = p.net
    x = p.embed("tokens")
    if p.batch_first:
        x = net.op("Transpose", [x], perm=[1, 0, 2])
    x, _ = stack(p, x, draw.of({"LSTM": 1, "GRU": 1}), draw.between(1, 2), None, p.e)
    if p.batch_first:
        x = net.op("Transpose", [x], perm=[1, 0, 2])
    y = net.op("Add", [net.op("MatMul", [x, net.floats(p.n, p.vocabulary + 5)]), net.floats(p.vocabulary + 5)])
    y = net.slice(y, 2, 0, p.vocabulary)
    p.width = p.vocabulary
    name, rows = layout(p, y, p.batch_first)
    return p.case("toolkit", rows, name)


def projected_stack(draw):
    """A stack with a linear map, a norm and a residual after each cell, all states in one tensor per kind."""
    p = start(draw, "projected-stack", False)
    net, layers = p.net, draw.between(1, 3)
    x = p.embed("tokens")
    states, ends = stacked(p, ["h0", "c0"], layers), []
    first = x
    for k in range(layers):
        y, end = cell_node(p, x, p.e, p.n, "LSTM", states[k], k)
        y = net.linear(net.axes("Squeeze", y, [1]), p.n, p.e)
        x = net.norm(net.op("Add", [x, y]), p.e)
        ends.append(end)
    y = scores(p, x, p.e, first, p.e)
    name, rows = layout(p, y, False)
    return_stacked(p, ends, ["hn", "cn"], ["h0", "c0"], layers)
    return p.case("toolkit", rows, name)


def hub(draw):
    """An RNN-T predictor of torchaudio: embedding, dropout, linear, norm, layer-normed cells of one step, linear, norm -> a vector."""
    p = start(draw, "hub", True, step=True)
    net, layers = p.net, draw.between(1, 2)
    x = net.axes("Squeeze", p.embed("input"), [1])
    x = net.norm(net.linear(x, p.e, p.e, True, 2), p.e)
    inputs, outs = p.e, []
    for k in range(layers):
        states = [p.state(f"state_{k}_{j}", "batch", p.n) for j in range(2)]
        x, end = cell(net, "lstm-normed", x, inputs, p.n, states)
        outs += list(zip(end, states))
        inputs = p.n
    y = net.norm(net.linear(x, p.n, 5, True, 2), 5)
    y = net.axes("Unsqueeze", y, [1])
    final(p, y, "output", None, p.dim("batch"), 1, 5)
    for value, name in outs:
        p.returns(value, name + "_out", name, "batch", p.n)
    return p.case("toolkit", None, "output")


def sherpa(draw):
    """A model of whole sentences with lengths: x [N, L], lengths [N] -> costs of each word; the lengths are passed to the nodes."""
    p = start(draw, "sherpa", True)
    net = p.net
    x = net.op("Transpose", [p.embed("x")], perm=[1, 0, 2])
    net.input("x_lens", I64, p.dim("batch"))
    p.further["x_lens"] = lambda s, b: np.full(b, s, np.int64)
    lengths = net.op("Cast", ["x_lens"], to=I32)
    y, h, c = net.op("LSTM", [x, net.floats(1, 4 * p.n, p.e), net.floats(1, 4 * p.n, p.n), net.floats(1, 8 * p.n), lengths], 3, hidden_size=p.n)
    y = net.linear(net.op("Transpose", [net.axes("Squeeze", y, [1])], perm=[1, 0, 2]), p.n, p.vocabulary)
    y = net.softmax(y, "LogSoftmax")
    final(p, y, "log_probs", None, p.dim("batch"), p.dim("seq"), p.vocabulary)
    return p.case("toolkit", by_batch(p), "log_probs")


def chars(draw):
    """A one-hot character model: float rows [B, S, V] or [S, B, V], no table at all."""
    p = start(draw, "chars", draw.yes(0.5))
    net = p.net
    d = [p.dim("batch"), p.dim("seq")] if p.batch_first else [p.dim("seq"), p.dim("batch")]
    net.input("one_hot", F32, *d, p.vocabulary)
    p.token_name, p.vector = "one_hot", False
    eye = np.eye(p.vocabulary, dtype=np.float32)
    p.tokens = lambda ids: np.ascontiguousarray(eye[ids.T if p.batch_first else ids])
    x = net.op("Transpose", ["one_hot"], perm=[1, 0, 2]) if p.batch_first else "one_hot"
    layers, kind = draw.between(1, 2), draw.of({"LSTM": 1, "GRU": 1})
    names = ["h0", "c0"][: 2 if kind == "LSTM" else 1]
    x, ends = stack(p, x, kind, layers, stacked(p, names, layers), p.vocabulary)
    if p.batch_first:
        x = net.op("Transpose", [x], perm=[1, 0, 2])
    p.width = p.vocabulary
    y = net.linear(x, p.n, p.vocabulary)
    name, rows = layout(p, y, p.batch_first)
    return_stacked(p, ends, [f"{s[0]}n" for s in names], names, layers)
    return p.case("toolkit", rows, name)


def deep(draw):
    """Cells of two kinds in one model, with a map between: an LSTM node, then a GRU node, then an RNN."""
    p = start(draw, "deep", False)
    net = p.net
    x = first = p.embed("tokens")
    inputs, outs = p.e, []
    for k, kind in enumerate(draw.rng.permutation(["LSTM", "GRU", "RNN"])):
        names = [f"{s}_{k}" for s in ("hc" if kind == "LSTM" else "h")]
        y, ends = cell_node(p, x, inputs, p.n, str(kind), [p.state(s, 1, "batch", p.n) for s in names], k)
        x, inputs = net.axes("Squeeze", y, [1]), p.n
        outs += list(zip(ends, names))
        if draw.yes(0.4):
            x = net.activation(net.linear(x, p.n, p.n), draw.of(ACTIVATION))
    y = scores(p, x, inputs, first, p.e)
    name, rows = layout(p, y, False)
    for value, s in outs:
        p.returns(value, s + "_next", s, 1, "batch", p.n)
    return p.case("toolkit", rows, name)
