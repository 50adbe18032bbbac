"""Random recurrent models written node by node, as exporters other than PyTorch's do. Used by random_models.py."""

import numpy as np
from onnx import helper

from random_graphs import BOOL, F32, I32, I64, Graph, Pieces

ACTIVATION = {"Relu": 1, "Tanh": 1, "gelu": 1, "swish": 1, "Sigmoid": 0.5, "LeakyRelu": 0.5, "Elu": 0.5, "Selu": 0.3, "HardSigmoid": 0.3, "Softsign": 0.3, "Softplus": 0.3, "PRelu": 0.3}


def scores(p, x, n, skip, skip_width, rank=3, tied=None):
    """From hidden vectors to the scores: [.., vocabulary] or a hidden vector. Sets p.scale and p.width."""
    net, draw = p.net, p.draw
    before = draw.of({"": 6, "norm": 1, "rms": 0.5, "skip-sum": 0.7, "skip-concat": 0.7, "dropout": 0.7, "dense": 1, "scaled": 0.4, "highway": 0.3})
    if before:
        p.tags.append(f"head-{before}")
    if before == "norm":
        x = net.norm(x, n)
    elif before == "rms":
        x = net.rms(x, n)
    elif before == "skip-sum":
        s = skip if skip_width == n else net.linear(skip, skip_width, n, False, rank)
        x = net.op("Add", [x, s])
    elif before == "skip-concat":
        x, n = net.op("Concat", [x, skip], axis=-1), n + skip_width
    elif before == "dropout":
        x = net.op("Dropout", [x] + ([net.number(0.4)] if p.opset >= 12 and draw.yes(0.5) else []), 1)
    elif before == "dense":
        kind, width = draw.of(ACTIVATION), draw.between(3, 9)
        p.tags.append(kind)
        x, n = net.activation(net.linear(x, n, width, True, rank), kind), width
    elif before == "scaled":
        x = net.op("Mul", [x, net.floats(n)])
    elif before == "highway":
        t = net.op("Sigmoid", [net.linear(x, n, n, True, rank)])
        x = net.op("Add", [net.op("Mul", [t, net.op("Relu", [net.linear(x, n, n, True, rank)])]), net.op("Mul", [net.op("Sub", [net.number(1.0), t]), x])])
    head = draw.of({"linear": 8, "no-bias": 2, "two": 1, "hidden": 1, "bottleneck": 0.7})
    p.tags.append(head)
    if head == "hidden":
        p.width, p.hidden = n, True
        return x
    p.width = p.vocabulary
    if head == "bottleneck":
        x, n = net.linear(x, n, 3, False, rank), 3
    elif head == "two":
        x, n = net.op("Tanh", [net.linear(x, n, 5, True, rank)]), 5
    y = net.linear(x, n, p.vocabulary, head != "no-bias", rank)
    tail = draw.of({"": 8, "softmax": 2, "log-softmax": 2, "divided": 1, "capped": 1, "masked": 0.7, "log-of-softmax": 0.3, "by-exp": 0.3, "shifted": 0.5, "costs": 0.3, "epsilon": 0.2})
    if tail:
        p.tags.append(tail)
    softmax = lambda v, op="Softmax": net.op(op, [v], axis=-1 if p.opset >= 13 or draw.yes(0.5) else rank - 1)
    if tail == "softmax":
        p.scale = "probabilities"
        return softmax(y)
    if tail == "log-softmax":
        return softmax(y, "LogSoftmax")
    if tail == "divided":
        return net.op("Div", [y, net.number(0.8)])
    if tail == "capped":
        return net.op("Mul", [net.op("Tanh", [net.op("Div", [y, net.number(3.0)])]), net.number(3.0)])
    if tail == "masked":
        return net.op("Add", [y, net.weight(net.new("mask"), np.where(draw.rng.random(p.vocabulary) < 0.2, -1e4, 0.0), np.float32)])
    if tail == "log-of-softmax":
        return net.op("Log", [softmax(y)])
    if tail == "epsilon":
        return net.op("Log", [net.op("Add", [softmax(y), net.number(1e-10)])])
    if tail == "by-exp":
        p.scale = "probabilities"
        e = net.op("Exp", [net.op("Sub", [y, net.axes("ReduceMax", y, [-1], keepdims=1)])])
        return net.op("Div", [e, net.axes("ReduceSum", e, [-1], keepdims=1)])
    if tail == "shifted":
        return net.op("Sub", [y, net.axes("ReduceMax", y, [-1], keepdims=1)])
    if tail == "costs":
        p.scale = "costs"
        return net.op("Neg", [softmax(y, "LogSoftmax")])
    return y


def layout(p, y, batch_first, last_only=None):
    """Give the scores [S, B, w] a form. Returns the function from outputs back to rows."""
    net, w = p.net, p.width
    way = p.draw.of({"": 10, "flat": 1, "last": 1, "last-kept": 0.7, "last-gathered": 0.7, "transposed": 0.7, "swapped": 0.7, "rank-4": 0.3})
    if last_only:
        way = "last-already"
    elif way:
        p.tags.append(way)
    axis = 1 if batch_first else 0
    d = [p.dim("batch"), p.dim("seq")] if batch_first else [p.dim("seq"), p.dim("batch")]
    natural = lambda o, s, b: o.reshape(b, s, w).swapaxes(0, 1) if batch_first else o.reshape(s, b, w)
    name = p.draw.of({"output": 2, "y": 1, "hidden_states": 1} if p.hidden else {"logits": 2, "output": 2, "scores": 1, "Identity": 1, "3141": 0.5})
    dims, rows = [*d, w], natural
    one = lambda o, s, b: o.reshape(1, b, w)
    if way == "flat":
        y, dims = net.op("Reshape", [y, net.ints(-1, w)]), [None, w]
    elif way in ("last", "last-kept", "last-gathered"):
        if way == "last-gathered":
            y, dims = net.op("Gather", [y, net.number(-1, np.int64)], axis=axis), [p.dim("batch"), w]
        else:
            y = net.slice(y, axis, -1, 2**31 - 1)
            dims = [p.dim("batch"), 1, w] if batch_first else [1, p.dim("batch"), w]
            if way == "last":
                y, dims = net.axes("Squeeze", y, [axis]), [p.dim("batch"), w]
        rows = one
    elif way == "last-already":
        dims, rows = [p.dim("batch"), w], one
    elif way == "transposed":
        y, dims = net.op("Transpose", [y], perm=[0, 2, 1]), [d[0], w, d[1]]
        rows = lambda o, s, b: natural(o.swapaxes(1, 2), s, b)
    elif way == "swapped":
        y, dims = net.op("Transpose", [y], perm=[1, 0, 2]), [d[1], d[0], w]
        rows = lambda o, s, b: o.reshape(s, b, w) if batch_first else o.reshape(b, s, w).swapaxes(0, 1)
    elif way == "rank-4":
        y, dims = net.axes("Unsqueeze", y, [1]), [d[0], 1, d[1], w]
    net.op("Identity", [y], name)
    net.output(name, F32, *(dims if p.declared else [None] * len(dims)))
    return name, rows


NODE_ACTIVATIONS = ["Relu", "Tanh", "Sigmoid", "HardSigmoid", "Softsign", "Softplus", "Elu", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "Affine"]


def cell_node(p, x, inputs, n, kind, states, layer):
    """One LSTM, GRU or RNN node. `x`: [S, B, inputs]; states: initial states [1, B, n] or None. Gives [S, 1, B, n] and the last states."""
    net, draw = p.net, p.draw
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    attributes = {"hidden_size": n}
    w, r = net.floats(1, gates * n, inputs, scale=0.5), net.floats(1, gates * n, n, scale=0.5)
    bias = net.floats(1, 2 * gates * n, scale=0.5) if draw.yes(0.85) else ""
    given = [x, w, r, bias, "", *(states or ([""] * (2 if kind == "LSTM" else 1)))]
    if draw.yes(0.08):
        p.tags.append("lengths")
        shape = net.op("Shape", [x])
        length, streams = net.slice(shape, 0, 0, 1), net.slice(shape, 0, 1, 2)
        given[4] = net.op("Expand", [net.op("Cast", [length], to=I32), streams])
    if kind == "LSTM" and draw.yes(0.15):
        p.tags.append("peepholes")
        given.append(net.floats(1, 3 * n, scale=0.5))
    if kind == "LSTM" and draw.yes(0.15):
        p.tags.append("input-forget")
        attributes["input_forget"] = 1
    if kind == "GRU":
        attributes["linear_before_reset"] = draw.of({0: 1, 1: 2})
        p.tags.append("after" if attributes["linear_before_reset"] else "before")
    if draw.yes(0.12):
        p.tags.append("clip")
        attributes["clip"] = draw.of({0.5: 1, 2.0: 1})
    if draw.yes(0.2):
        count = {"LSTM": 3, "GRU": 2, "RNN": 1}[kind]
        names = [draw.of({"Sigmoid": 3, "HardSigmoid": 2, "Relu": 0.5, "Softsign": 0.5}) if k == 0 and count > 1 else draw.of(dict.fromkeys(NODE_ACTIVATIONS, 1)) for k in range(count)]
        attributes["activations"] = names
        p.tags += [f"activation-{a}" for a in names]
        defaults = {"HardSigmoid": (0.2, 0.5), "Elu": (1.0, 0), "LeakyRelu": (0.01, 0), "ThresholdedRelu": (0.4, 0), "ScaledTanh": (1.2, 0.7), "Affine": (0.5, 0.1)}
        if any(a in defaults for a in names):
            attributes["activation_alpha"] = [defaults.get(a, (0.0, 0))[0] for a in names if a in defaults]
            attributes["activation_beta"] = [defaults[a][1] for a in names if a in ("HardSigmoid", "ScaledTanh", "Affine")]
            if not attributes["activation_beta"]:
                del attributes["activation_beta"]
    while not given[-1]:
        given.pop()
    y, *ends = net.op(kind, given, 3 if kind == "LSTM" else 2, **attributes)
    return y, ends


def nodes(draw):
    """Layers as nodes, or one-step cells of plain operators, or a Scan or Loop over them."""
    way = draw.of({"nodes": 6, "step": 4, "scan": 1, "loop": 0.7})
    return sequence_model(draw) if way == "nodes" else step_model(draw) if way == "step" else scan_model(draw, way)


def sequence_model(draw):
    p = Pieces(draw)
    net = p.net
    kind = draw.of({"LSTM": 4, "GRU": 4, "RNN": 2})
    layers = draw.of({1: 3, 2: 3, 3: 1})
    p.tags += [kind, f"layers-{layers}"]
    names = ["h", "c"][: 2 if kind == "LSTM" else 1]
    n = p.n
    form = draw.of({"none": 3, "zeros": 1.5, "stacked": 4, "layers": 2, "flat-layers": 1, "together": 1, "learned": 0.7, "batch-major": 0.5, "rank-4": 0.3})
    p.tags.append(form)
    vector = draw.yes(0.12)
    if vector:
        p.batch = 1
    rows = p.embed(vector=vector)
    x = net.op("Transpose", [rows], perm=[1, 0, 2]) if p.batch_first and not vector else rows
    batch_first = p.batch_first and not vector
    wide = [n] * layers if form in ("stacked", "together", "batch-major", "rank-4") or draw.yes(0.6) else [draw.between(3, 9) for _ in range(layers)]
    # Initial states, [1, B, n] of each layer.
    starts = []
    if form == "stacked":
        for s in names:
            p.state(f"{s}0", layers, "batch", n)
            how = draw.of({"split": 1, "slice": 1, "gather": 1, "gather-list": 1})
            if how == "split":
                starts.append(net.split(f"{s}0", [1] * layers, 0))
            elif how == "slice":
                starts.append([net.slice(f"{s}0", 0, k, k + 1) for k in range(layers)])
            elif how == "gather":
                starts.append([net.axes("Unsqueeze", net.op("Gather", [f"{s}0", net.number(k, np.int64)], axis=0), [0]) for k in range(layers)])
            else:
                starts.append([net.op("Gather", [f"{s}0", net.ints(k)], axis=0) for k in range(layers)])
    elif form == "layers":
        starts = [[p.state(f"{s}_{k}", 1, "batch", wide[k]) for k in range(layers)] for s in names]
    elif form == "flat-layers":
        starts = [[net.axes("Unsqueeze", p.state(f"layer{k}/{s}", "batch", wide[k]), [0]) for k in range(layers)] for s in names]
    elif form == "together":
        parts = net.split(p.state("state", layers * len(names), "batch", n), [1] * (layers * len(names)), 0)
        starts = [parts[j * layers : (j + 1) * layers] for j in range(len(names))]
    elif form == "rank-4":
        p.state("state", layers, len(names), "batch", n)
        starts = [[net.op("Gather", [net.op("Gather", ["state", net.ints(k)], axis=0), net.number(j, np.int64)], axis=1) for k in range(layers)] for j in range(len(names))]
    elif form == "batch-major":
        for s in names:
            major = net.op("Transpose", [p.state(f"{s}0", "batch", layers, n)], perm=[1, 0, 2])
            starts.append(net.split(major, [1] * layers, 0))
    elif form in ("zeros", "learned"):
        streams = net.slice(net.op("Shape", [x]), 0, 1, 2)
        for _ in names:
            row = []
            for k in range(layers):
                shape = net.op("Concat", [net.ints(1), streams, net.ints(wide[k])], axis=0)
                if form == "learned":
                    row.append(net.op("Expand", [net.floats(1, 1, wide[k]), shape]))
                elif draw.yes(0.5):
                    row.append(net.op("ConstantOfShape", [shape]))
                else:
                    row.append(net.op("Expand", [net.number(0.0), shape]))
            starts.append(row)
    first, inputs, ends = x, p.e, []
    between = draw.of({"": 6, "norm": 1, "residual": 1, "dropout": 0.5, "dense": 0.7, "concat": 0.5}) if layers > 1 else ""
    if between:
        p.tags.append(f"between-{between}")
    for k in range(layers):
        y, end = cell_node(p, x, inputs, wide[k], kind, [s[k] for s in starts] if starts else None, k)
        last_only = None
        if k == layers - 1 and draw.yes(0.08):
            last_only = net.axes("Squeeze", end[0], [0])
        how = draw.of({"squeeze": 3, "reshape": 1, "transpose": 1})
        if how == "squeeze":
            y = net.axes("Squeeze", y, [1])
        elif how == "reshape":
            y = net.op("Reshape", [y, net.op("Concat", [net.slice(net.op("Shape", [x]), 0, 0, 2), net.ints(-1)], axis=0)])
        else:
            y = net.op("Reshape", [net.op("Transpose", [y], perm=[0, 2, 1, 3]), net.ints(0, 0, wide[k])])
        ends.append(end)
        width = wide[k]
        if k < layers - 1:
            if between == "norm":
                y = net.norm(y, width)
            elif between == "dropout":
                y = net.op("Dropout", [y], 1)
            elif between == "dense":
                y = net.op("Relu", [net.linear(y, width, width)])
            elif between == "concat":
                y, width = net.op("Concat", [y, first], axis=2), width + p.e
            elif between == "residual" and inputs == width:
                y = net.op("Add", [y, x])
        x, inputs = y, width
    if last_only:
        p.tags.append("last-state")
        y = scores_of_last(p, last_only, inputs)
        name, back = layout(p, y, False, True)
    else:
        skip = first
        if batch_first and draw.yes(0.8):
            x, skip = net.op("Transpose", [x], perm=[1, 0, 2]), rows
        else:
            batch_first = False
        y = scores(p, x, inputs, skip, p.e)
        name, back = layout(p, y, batch_first)
    # Next states.
    if form == "stacked":
        for j, s in enumerate(names):
            parts = [e[j] for e in ends]
            p.returns(net.op("Concat", parts, axis=0) if layers > 1 else parts[0], f"{s}n", f"{s}0", layers, "batch", n)
    elif form == "layers":
        for k in range(layers):
            for j, s in enumerate(names):
                p.returns(ends[k][j], f"{s}_{k}_next", f"{s}_{k}", 1, "batch", wide[k])
    elif form == "flat-layers":
        for k in range(layers):
            for j, s in enumerate(names):
                p.returns(net.axes("Squeeze", ends[k][j], [0]), f"layer{k}/{s}_out", f"layer{k}/{s}", "batch", wide[k])
    elif form == "together":
        p.returns(net.op("Concat", [e[j] for j in range(len(names)) for e in ends], axis=0), "state_out", "state", layers * len(names), "batch", n)
    elif form == "rank-4":
        rows4 = [net.op("Concat", [net.axes("Unsqueeze", s, [1]) for s in e], axis=1) for e in ends]
        p.returns(net.op("Concat", rows4, axis=0), "state_out", "state", layers, len(names), "batch", n)
    elif form == "batch-major":
        for j, s in enumerate(names):
            p.returns(net.op("Transpose", [net.op("Concat", [e[j] for e in ends], axis=0)], perm=[1, 0, 2]), f"{s}n", f"{s}0", "batch", layers, n)
    elif draw.yes(0.2):
        p.tags.append("states-out")
        for k in range(layers):
            net.op("Identity", [ends[k][0]], f"h_end_{k}")
            net.output(f"h_end_{k}", F32, 1, p.dim("batch"), wide[k])
    return p.case("nodes", back, name)


def scores_of_last(p, x, n):
    p.width = p.vocabulary
    y = p.net.linear(x, n, p.vocabulary, True, 2)
    if p.draw.yes(0.5):
        p.scale = "probabilities"
        return p.net.op("Softmax", [y], axis=1)
    return y


CELLS = ["lstm", "lstm-joined", "lstm-peephole", "lstm-coupled", "lstm-clipped", "lstm-normed", "lstm-projected", "lstm-hard", "gru", "gru-before", "gru-joined", "rnn",
         "rnn-relu", "min-gru", "leaky", "elu-rnn", "lstm-separate", "gru-separate", "rnn-two", "multiplicative", "zoneout", "sru", "mut", "gru-min-max"]


def cell(net, kind, x, inputs, n, states):
    """One step of a cell in plain operators, x [B, inputs], states [B, n]: the output and the next states."""
    op, one = net.op, net.number(1.0)
    lin = lambda v, i, o, b=True: net.linear(v, i, o, b, 2)
    sig, tanh = lambda v: op("Sigmoid", [v]), lambda v: op("Tanh", [v])
    add, mul = lambda a, b: op("Add", [a, b]), lambda a, b: op("Mul", [a, b])
    h = states[0]
    if kind.startswith("lstm") or kind == "multiplicative":
        c = states[1]
        width = n
        if kind == "lstm-projected":
            width = max(2, n - 1)
        count = 3 if kind == "lstm-coupled" else 4
        if kind == "multiplicative":
            h = mul(lin(x, inputs, n, False), lin(h, n, n, False))
        if kind == "lstm-joined":  # TensorFlow's BasicLSTMCell: i, j, f, o of [x, h], forget bias 1
            i, g, f, o = net.split(lin(op("Concat", [x, h], axis=1), inputs + n, 4 * n), [n] * 4, 1)
            f = add(f, one)
        elif kind == "lstm-separate":
            i, f, g, o = [add(lin(x, inputs, n), lin(h, n, n, False)) for _ in range(4)]
        elif kind == "lstm-normed":
            i, f, g, o = net.split(add(net.norm(lin(x, inputs, 4 * n, False), 4 * n), net.norm(lin(h, n, 4 * n, False), 4 * n)), [n] * 4, 1)
        else:
            parts = net.split(add(lin(x, inputs, count * n), lin(h, width, count * n, False)), [n] * count, 1)
            i, f, g, o = parts if count == 4 else (parts[0], None, *parts[1:])
        if kind == "lstm-peephole":
            i, f = add(i, mul(net.floats(n), c)), add(f, mul(net.floats(n), c))
        gate = (lambda v: op("HardSigmoid", [v], alpha=0.2, beta=0.5)) if kind == "lstm-hard" else sig
        i = gate(i)
        f = op("Sub", [one, i]) if f is None else gate(f)
        c = add(mul(f, c), mul(i, tanh(g)))
        if kind == "lstm-clipped":
            c = net.clip(c, -0.5, 0.5)
        if kind == "lstm-peephole":
            o = add(o, mul(net.floats(n), c))
        h = mul(gate(o), tanh(net.norm(c, n) if kind == "lstm-normed" else c))
        if kind == "lstm-projected":
            h = lin(h, n, width, False)
        return h, [h, c]
    if kind in ("gru", "gru-min-max"):
        xz, xr, xn = net.split(lin(x, inputs, 3 * n), [n] * 3, 1)
        hz, hr, hn = net.split(lin(h, n, 3 * n), [n] * 3, 1)
        z = sig(add(xz, hz))
        new = tanh(add(xn, mul(sig(add(xr, hr)), hn)))
        if kind == "gru-min-max":
            new = op("Max", [op("Min", [new, net.number(0.8)]), net.number(-0.8)])
        h = add(mul(z, h), mul(op("Sub", [one, z]), new)) if net.draw.yes(0.5) else add(new, mul(z, op("Sub", [h, new])))
    elif kind in ("gru-before", "gru-joined", "gru-separate"):
        if kind == "gru-joined":  # TensorFlow's GRUCell
            r, u = net.split(sig(lin(op("Concat", [x, h], axis=1), inputs + n, 2 * n)), [n] * 2, 1)
            new = tanh(lin(op("Concat", [x, mul(r, h)], axis=1), inputs + n, n))
        else:
            u, r = [sig(add(lin(x, inputs, n), lin(h, n, n, False))) for _ in range(2)]
            new = tanh(add(lin(x, inputs, n), lin(mul(r, h), n, n, False)))
        h = add(mul(u, h), mul(op("Sub", [one, u]), new))
    elif kind in ("rnn", "rnn-relu", "elu-rnn"):
        h = op({"rnn": "Tanh", "rnn-relu": "Relu", "elu-rnn": "Elu"}[kind], [add(lin(x, inputs, n), lin(h, n, n, False))])
    elif kind == "rnn-two":
        h = tanh(add(lin(x, inputs, n), lin(op("Relu", [lin(h, n, 4)]), 4, n, False)))
    elif kind == "min-gru":
        z = sig(lin(x, inputs, n))
        h = add(mul(op("Sub", [one, z]), h), mul(z, lin(x, inputs, n)))
    elif kind == "leaky":
        h = add(mul(net.number(0.9), h), mul(net.number(0.1), tanh(add(lin(x, inputs, n), lin(h, n, n, False)))))
    elif kind == "zoneout":
        new = tanh(add(lin(x, inputs, n), lin(h, n, n, False)))
        h = add(mul(net.weight(net.new("keep"), np.full(n, 0.85), np.float32), op("Sub", [new, h])), h)
    elif kind == "sru":
        f, r = sig(lin(x, inputs, n)), sig(lin(x, inputs, n))
        h = add(mul(f, h), mul(op("Sub", [one, f]), lin(x, inputs, n, False)))
        return add(mul(r, tanh(h)), mul(op("Sub", [one, r]), lin(x, inputs, n, False))), [h]
    elif kind == "mut":
        z = sig(lin(x, inputs, n))
        r = sig(add(lin(x, inputs, n), lin(h, n, n, False)))
        new = tanh(add(lin(mul(r, h), n, n), tanh(lin(x, inputs, n, False))))
        h = add(mul(new, z), mul(h, op("Sub", [one, z])))
    else:
        raise ValueError(kind)
    return h, [h]


def widths(kind, n):
    if kind == "lstm-projected":
        return [max(2, n - 1), n]
    return [n, n] if kind.startswith("lstm") or kind == "multiplicative" else [n]


def step_model(draw):
    """One step of plain operators, with states as inputs and outputs."""
    p = Pieces(draw, step=True)
    net = p.net
    kind = draw.of(dict.fromkeys(CELLS, 1))
    layers = draw.of({1: 4, 2: 3, 3: 1})
    p.tags += ["step", kind, f"layers-{layers}"]
    p.seq = 1
    vector = draw.yes(0.5)
    x = p.embed(draw.of({"tokens": 2, "input_ids": 1, "x": 1}), vector)
    if not vector:
        axis = 1 if p.batch_first else 0
        x = net.axes("Squeeze", x, [axis]) if draw.yes(0.6) else net.op("Reshape", [x, net.ints(-1, p.e)])
    first, inputs = x, p.e
    each = draw.of({"layers": 3, "stacked": 2, "flat": 1, "rank-3": 1})
    p.tags.append(each)
    kinds = [kind if draw.yes(0.85) else draw.of(dict.fromkeys(CELLS, 1)) for _ in range(layers)]
    sizes = [widths(k, p.n) for k in kinds]
    even = all(s == sizes[0] for s in sizes)
    if each == "stacked" and not even:
        each = "flat"
    states = []
    if each == "stacked":
        parts = [net.split(p.state("hc"[j] + "_in", layers, "batch", w), [1] * layers, 0) for j, w in enumerate(sizes[0])]
        states = [[net.axes("Squeeze", part[k], [0]) for part in parts] for k in range(layers)]
    elif each == "flat":
        p.state("state", "batch", sum(map(sum, sizes)))
        it = iter(net.split("state", [w for s in sizes for w in s], 1))
        states = [[next(it) for _ in s] for s in sizes]
    else:
        lead = [1] if each == "rank-3" else []
        states = [[p.state(f"state_{k}_{j}", *lead, "batch", w) for j, w in enumerate(s)] for k, s in enumerate(sizes)]
        if lead:
            states = [[net.axes("Squeeze", s, [0]) for s in ss] for ss in states]
    ends = []
    for k in range(layers):
        y, end = cell(net, kinds[k], x, inputs, p.n, states[k])
        ends.append(end)
        width = sizes[k][0]
        if k < layers - 1:
            between = draw.of({"": 5, "norm": 1, "dense": 1, "residual": 1, "rms": 0.4})
            p.tags += [f"between-{between}"] if between else []
            if between == "norm":
                y = net.norm(y, width)
            elif between == "rms":
                y = net.rms(y, width)
            elif between == "dense":
                y = net.op("Relu", [net.linear(y, width, width, True, 2)])
            elif between == "residual" and inputs == width:
                y = net.op("Add", [x, y])
        x, inputs = y, width
    y = scores(p, x, inputs, first, p.e, 2)
    if draw.yes(0.4):
        axis = 1 if p.batch_first else 0
        y = net.axes("Unsqueeze", y, [axis])
        name, back = layout(p, y, p.batch_first)
    else:
        name, back = layout(p, y, False, True)
    if each == "stacked":
        for j, w in enumerate(sizes[0]):
            p.returns(net.op("Concat", [net.axes("Unsqueeze", e[j], [0]) for e in ends], axis=0), "hc"[j] + "_out", "hc"[j] + "_in", layers, "batch", w)
    elif each == "flat":
        p.returns(net.op("Concat", [s for e in ends for s in e], axis=1), "state_next", "state", "batch", sum(map(sum, sizes)))
    else:
        for k, s in enumerate(sizes):
            for j, w in enumerate(s):
                end = net.axes("Unsqueeze", ends[k][j], [0]) if each == "rank-3" else ends[k][j]
                p.returns(end, f"state_{k}_{j}_next", f"state_{k}_{j}", *([1] if each == "rank-3" else []), "batch", w)
    return p.case("nodes", back, name)


def scan_model(draw, way):
    """A Scan or a Loop over a sequence, its body a step of plain operators."""
    p = Pieces(draw, batch_first=False)
    net = p.net
    kind = draw.of(dict.fromkeys(CELLS, 1))
    p.tags += [way, kind]
    sizes = widths(kind, p.n)
    x = p.embed()
    has_inputs = draw.yes(0.6)
    streams = net.slice(net.op("Shape", [x]), 0, 1, 2)
    starts = []
    for j, w in enumerate(sizes):
        if has_inputs:
            starts.append(p.state(f"state_{j}", "batch", w))
        else:
            starts.append(net.op("ConstantOfShape", [net.op("Concat", [streams, net.ints(w)], axis=0)]))
    body = Graph(draw, p.opset)
    body.count = 10000
    step_x = "step_x" if way == "scan" else body.op("Gather", [x, "iteration"], axis=0)
    y, ends = cell(body, kind, step_x, p.e, p.n, [f"body_state_{j}" for j in range(len(sizes))])
    ends = [body.op("Identity", [s]) for s in ends]
    y = body.op("Identity", [y])
    outside = draw.yes(0.5)  # weights in the outer graph
    value = helper.make_tensor_value_info
    state_infos = [value(f"body_state_{j}", F32, [None, w]) for j, w in enumerate(sizes)]
    outputs = [value(s, F32, [None, w]) for s, w in zip(ends, sizes)] + [value(y, F32, [None, sizes[0]])]
    weights = body.weights
    if outside:
        net.weights += body.weights
        weights = []
    if way == "scan":
        inner = helper.make_graph(body.nodes, "body", [*state_infos, value("step_x", F32, [None, p.e])], outputs, weights)
        *last, y = net.op("Scan", [*starts, x], len(sizes) + 1, body=inner, num_scan_inputs=1)
    else:
        body.nodes.insert(0, helper.make_node("Identity", ["condition_in"], ["condition_out"]))
        inner = helper.make_graph(body.nodes, "body", [value("iteration", I64, []), value("condition_in", BOOL, []), *state_infos],
                                  [value("condition_out", BOOL, []), *outputs], weights)
        trips = net.axes("Squeeze", net.slice(net.op("Shape", [x]), 0, 0, 1), [0])
        *last, y = net.op("Loop", [trips, net.number(True, np.bool_), *starts], len(sizes) + 1, body=inner)
    y = scores(p, y, sizes[0], x, p.e)
    name, back = layout(p, y, False)
    if has_inputs:
        for j, w in enumerate(sizes):
            p.returns(last[j], f"state_{j}_next", f"state_{j}", "batch", w)
    return p.case("nodes", back, name)


def toolkit(draw):
    import random_toolkits

    return random_toolkits.model(draw)
