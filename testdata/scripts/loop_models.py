"""Write testdata/exports/{scan,loop,unrolled}-*: language models that loop over the time steps, as converters and exporters write them.

    python loop_models.py ../exports
"""

import io
import pathlib
import sys

import numpy as np
import onnx
from cases import Net, run_onnxruntime, write_case
from onnx import TensorProto, helper

F32, I64, I32, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL
V, E, N = 11, 5, 6
random = np.random.default_rng(7)


def weights(*shape):
    return random.uniform(-0.8, 0.8, shape).astype(np.float32)


class Body(Net):
    """The body of a loop."""

    def __init__(self, start):
        super().__init__()
        self.count = start

    def graph(self):
        return helper.make_graph(self.nodes, "body", self.inputs, self.outputs, self.weights)


def number(net, value, dtype):
    net.count += 1
    return net.weight(f"number_{net.count}", value, dtype)


def tanh_step(body, x, h):
    """An RNN cell in plain operators."""
    sum_ = body.op("Add", [body.op("MatMul", [x, body.weight("wx", weights(E, N))]), body.op("MatMul", [h, body.weight("wh", weights(N, N))])])
    return body.op("Tanh", [body.op("Add", [sum_, body.weight("b", weights(N))])])


def lstm_step(body, x, h, c):
    """An LSTM cell as Keras orders its gates."""
    gates = body.op("Add", [body.op("MatMul", [x, body.weight("wx", weights(E, 4 * N))]), body.op("MatMul", [h, body.weight("wh", weights(N, 4 * N))])])
    i, f, g, o = body.op("Split", [body.op("Add", [gates, body.weight("b", weights(4 * N))])], 4, axis=-1)
    i, f, g, o = [body.op(k, [v]) for k, v in zip(["Sigmoid", "Sigmoid", "Tanh", "Sigmoid"], [i, f, g, o])]
    c = body.op("Add", [body.op("Mul", [f, c]), body.op("Mul", [i, g])])
    return body.op("Mul", [o, body.op("Tanh", [c])]), c


def decoder(net, y):
    y = net.op("MatMul", [y, net.weight("decoder", weights(N, V))])
    return net.op("Add", [y, net.weight("decoder_bias", weights(V))], "logits")


def zeros(net, x, axis, *more):
    """Zeros for each stream of `x`."""
    streams = net.op("Gather", [net.op("Shape", [x]), net.ints(axis)])
    return net.op("ConstantOfShape", [net.op("Concat", [streams, net.ints(*more)], axis=0)])


def steps(net, x, axis=0):
    return net.op("Gather", [net.op("Shape", [x]), number(net, axis, np.int64)])


def embedded(net, *tokens):
    net.input("tokens", I64, *tokens)
    return net.op("Gather", [net.weight("table", weights(V, E)), "tokens"])


def scan_batch_major():
    """Batch first; two scanned inputs, the second of them the embedding again; zero states; two scan outputs of which one is not used."""
    net = Net()
    x = embedded(net, "batch", "seq")
    scale = net.op("Sigmoid", [x])
    body = Body(100)
    for name, shape in [("h", [None, N]), ("c", [None, N]), ("xt", [None, E]), ("gt", [None, E])]:
        body.input(name, F32, *shape)
    h, c = lstm_step(body, body.op("Mul", ["xt", "gt"]), "h", "c")
    for name, value in [("h_next", h), ("c_next", c), ("y", h), ("c_all", c)]:
        body.op("Identity", [value], name)
        body.output(name, F32, None, N)
    h0, c0 = zeros(net, x, 0, N), zeros(net, x, 0, N)
    *_, y, _ = net.op("Scan", [h0, c0, x, scale], 4, body=body.graph(), num_scan_inputs=2, scan_input_axes=[1, 1], scan_output_axes=[1, 0])
    decoder(net, y)
    net.output("logits", F32, "batch", "seq", V)
    return net.model("scan"), [{"tokens": random.integers(0, V, (3, 7))}]


def scan_tokens():
    """The tokens are scanned and looked up in the body, which makes the logits; one state holds the hidden vector and the last embedding."""
    net = Net()
    net.input("tokens", I64, "seq", "batch")
    net.input("state", F32, "batch", N + E)
    body = Body(100)
    body.input("s", F32, None, N + E)
    body.input("token", I64, None)
    h, last = body.op("Split", ["s", body.ints(N, E)], 2, axis=1)
    x = body.op("Gather", [body.weight("table", weights(V, E)), "token"])
    mixed = body.op("Add", [x, body.op("Mul", [last, body.weight("mix", weights(E))])])
    h = tanh_step(body, mixed, h)
    body.op("Concat", [h, x], "s_next", axis=1)
    body.output("s_next", F32, None, N + E)
    decoder(body, h)
    body.output("logits", F32, None, V)
    net.op("Scan", ["state", "tokens"], ["state_next", "scores"], body=body.graph(), num_scan_inputs=1)
    net.output("scores", F32, "seq", "batch", V)
    net.output("state_next", F32, "batch", N + E)
    return net.model("scan"), [{"tokens": random.integers(0, V, (5, 2)), "state": weights(2, N + E)}]


def scan_reverse():
    net = Net()
    x = embedded(net, "seq", "batch")
    body = Body(100)
    body.input("h", F32, None, N)
    body.input("xt", F32, None, E)
    h = tanh_step(body, "xt", "h")
    for name in ["h_next", "y"]:
        body.op("Identity", [h], name)
        body.output(name, F32, None, N)
    options = {"scan_input_directions": [1], "scan_output_directions": [1]}
    _, y = net.op("Scan", [zeros(net, x, 1, N), x], 2, body=body.graph(), num_scan_inputs=1, **options)
    decoder(net, y)
    net.output("logits", F32, "seq", "batch", V)
    return net.model("scan"), [{"tokens": random.integers(0, V, (5, 2))}]


def loop_body(carried, dtype=I64):
    body = Body(100)
    body.input("iteration", I64)
    body.input("condition", BOOL)
    for name, kind, shape in carried:
        body.input(name, kind, *shape)
    return body


def loop_while():
    """TensorFlow's while loop, as tf2onnx writes it: no count, a condition, a counter of its own, batch first."""
    net = Net()
    x = net.op("Transpose", [embedded(net, "batch", "seq")], perm=[1, 0, 2])
    count = net.op("Cast", [steps(net, x)], to=I32)
    body = loop_body([("time", I32, []), ("h", F32, [None, N]), ("c", F32, [None, N])])
    h, c = lstm_step(body, body.op("Gather", [x, "time"], axis=0), "h", "c")
    body.op("Add", ["time", body.weight("one", 1, np.int32)], "time_next")
    body.op("Less", ["time_next", count], "goes_on")
    body.output("goes_on", BOOL)
    body.output("time_next", I32)
    for name, value in [("h_next", h), ("c_next", c), ("y", h)]:
        body.op("Identity", [value], name)
        body.output(name, F32, None, N)
    start = net.op("Less", [net.weight("zero", 0, np.int32), count])
    *_, y = net.op("Loop", ["", start, "zero", zeros(net, x, 1, N), zeros(net, x, 1, N)], 4, body=body.graph())
    decoder(net, net.op("Transpose", [y], perm=[1, 0, 2]))
    net.output("logits", F32, "batch", "seq", V)
    return net.model("loop"), [{"tokens": random.integers(0, V, (2, 6))}]


def loop_scatter():
    """The outputs are a carried tensor that is written step by step, as `ys[t] = h` in a scripted loop."""
    net = Net()
    x = embedded(net, "seq", "batch")
    body = loop_body([("h", F32, [None, N]), ("ys", F32, [None, None, N])])
    xt = body.op("Squeeze", [body.op("Slice", [x, *[body.op("Reshape", [v, body.ints(1)]) for v in
                                              ["iteration", body.op("Add", ["iteration", number(body, 1, np.int64)])]], body.ints(0)]), body.ints(0)])
    h = tanh_step(body, xt, "h")
    body.op("Identity", ["condition"], "condition_next")
    body.output("condition_next", BOOL)
    body.op("Identity", [h], "h_next")
    body.output("h_next", F32, None, N)
    at = body.op("Reshape", ["iteration", body.ints(1, 1)])
    body.op("ScatterND", ["ys", at, body.op("Unsqueeze", [h, body.ints(0)])], "ys_next")
    body.output("ys_next", F32, None, None, N)
    shape = net.op("Concat", [net.op("Shape", [x], start=0, end=2), net.ints(N)], axis=0)
    ys = net.op("ConstantOfShape", [shape])
    start = net.op("Expand", [net.weight("learned", weights(1, N)), net.op("Concat", [net.op("Shape", [x], start=1, end=2), net.ints(1)], axis=0)])
    _, ys = net.op("Loop", [steps(net, x), number(net, True, np.bool_), start, ys], 2, body=body.graph())
    decoder(net, ys)
    net.output("logits", F32, "seq", "batch", V)
    return net.model("loop"), [{"tokens": random.integers(0, V, (5, 2))}]


def loop_concat():
    """The outputs are joined in the loop, from an empty tensor on; all is inside the loop: tokens are looked up, words are scored."""
    net = Net()
    net.input("tokens", I64, "seq", "batch")
    net.input("h0", F32, 1, "batch", N)
    body = loop_body([("h", F32, [1, None, N]), ("ys", F32, [None, None, V])])
    token = body.op("Gather", ["tokens", "iteration"], axis=0)
    x = body.op("Gather", [body.weight("table", weights(V, E)), token])
    h = tanh_step(body, x, body.op("Squeeze", ["h", body.ints(0)]))
    body.op("Identity", ["condition"], "condition_next")
    body.output("condition_next", BOOL)
    body.op("Unsqueeze", [h, body.ints(0)], "h_next")
    body.output("h_next", F32, 1, None, N)
    logits = decoder(body, h)
    body.op("Concat", ["ys", body.op("Unsqueeze", [logits, body.ints(0)])], "ys_next", axis=0)
    body.output("ys_next", F32, None, None, V)
    empty = net.op("ConstantOfShape", [net.op("Concat", [net.ints(0), net.op("Shape", ["tokens"], start=1), net.ints(V)], axis=0)])
    net.op("Loop", [steps(net, "tokens"), "", "h0", empty], ["hn", "scores"], body=body.graph())
    net.output("scores", F32, "seq", "batch", V)
    net.output("hn", F32, 1, "batch", N)
    return net.model("loop"), [{"tokens": random.integers(0, V, (5, 2)), "h0": weights(1, 2, N)}]


def loop_layer():
    """The body is a layer of one time step, and the states are those of that layer."""
    net = Net()
    x = embedded(net, "seq", "batch")
    net.input("h0", F32, 1, "batch", N)
    net.input("c0", F32, 1, "batch", N)
    body = loop_body([("h", F32, [1, None, N]), ("c", F32, [1, None, N])])
    xt = body.op("Unsqueeze", [body.op("Gather", [x, "iteration"], axis=0), body.ints(0)])
    w = [body.weight("W", weights(1, 4 * N, E)), body.weight("R", weights(1, 4 * N, N)), body.weight("B", weights(1, 8 * N))]
    y, _, _ = body.op("LSTM", [xt, *w, "", "h", "c"], ["layer", "h_next", "c_next"], hidden_size=N)
    body.op("Identity", ["condition"], "condition_next")
    body.output("condition_next", BOOL)
    body.output("h_next", F32, 1, None, N)
    body.output("c_next", F32, 1, None, N)
    body.op("Squeeze", [y, body.ints(0, 1)], "y")
    body.output("y", F32, None, N)
    _, _, y = net.op("Loop", [steps(net, x), number(net, True, np.bool_), "h0", "c0"], ["hn", "cn", "ys"], body=body.graph())
    decoder(net, y)
    net.output("logits", F32, "seq", "batch", V)
    net.output("hn", F32, 1, "batch", N)
    net.output("cn", F32, 1, "batch", N)
    return net.model("loop"), [{"tokens": random.integers(0, V, (5, 2)), "h0": weights(1, 2, N), "c0": weights(1, 2, N)}]


def exported(module, example, names, results, dynamo, **options):
    import torch

    file = io.BytesIO()
    if dynamo:
        torch.onnx.export(module, example, input_names=names, output_names=results, dynamo=True, **options).save(file)
    else:
        torch.onnx.export(module, example, file, input_names=names, output_names=results, dynamo=False, **options)
    return onnx.load_from_string(file.getvalue())


def torch_cases():
    """Loops of PyTorch, as its exporters write them."""
    import torch
    from torch import Tensor, nn

    torch.manual_seed(3)

    class Unrolled(nn.Module):
        """A fixed number of steps of two layers; only the last step is scored."""

        def __init__(self):
            super().__init__()
            self.table, self.first, self.second, self.head = nn.Embedding(V, E), nn.LSTMCell(E, N), nn.GRUCell(N, N), nn.Linear(N, V)

        def forward(self, tokens):
            x = self.table(tokens)
            h = c = torch.zeros(tokens.shape[0], N)
            g = torch.zeros(tokens.shape[0], N)
            for t in range(5):
                h, c = self.first(x[:, t], (h, c))
                g = self.second(h, g)
            return self.head(g)

    class Layers(nn.Module):
        """nn.RNN, which the exporter unrolls."""

        def __init__(self):
            super().__init__()
            self.table, self.rnn, self.head = nn.Embedding(V, E), nn.RNN(E, N, 2, batch_first=True), nn.Linear(N, V)

        def forward(self, tokens, h0):
            y, hn = self.rnn(self.table(tokens), h0)
            return self.head(y), hn

    class Scripted(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.gates, self.new, self.head = nn.Embedding(V, E), nn.Linear(E + N, 2 * N), nn.Linear(E + N, N), nn.Linear(N, V)

        def forward(self, tokens: Tensor, h: Tensor):
            x = self.table(tokens)
            ys = torch.zeros([0, x.size(1), h.size(1)])
            for t in range(x.size(0)):
                z, r = torch.sigmoid(self.gates(torch.cat([x[t], h], 1))).chunk(2, 1)
                h = z * h + (1 - z) * torch.tanh(self.new(torch.cat([x[t], r * h], 1)))
                ys = torch.cat([ys, h.unsqueeze(0)])
            return self.head(ys), h

    tokens = lambda *shape: torch.from_numpy(random.integers(0, V, shape))
    yield "unrolled-last", exported(Unrolled().eval(), (tokens(2, 5),), ["tokens"], ["logits"], False), {"tokens": tokens(2, 5)}
    example = (tokens(2, 4), torch.zeros(2, 2, N))
    model = exported(Layers().eval(), example, ["tokens", "h0"], ["logits", "hn"], True)
    yield "unrolled-layers", model, {"tokens": tokens(2, 4), "h0": torch.from_numpy(weights(2, 2, N))}
    example = (tokens(4, 2), torch.zeros(2, N))
    axes = {"tokens": {0: "seq", 1: "batch"}, "h": {0: "batch"}}
    model = exported(torch.jit.script(Scripted().eval()), example, ["tokens", "h"], ["logits", "h_next"], False, dynamic_axes=axes)
    yield "loop-scripted", model, {"tokens": tokens(6, 3), "h": torch.from_numpy(weights(3, N))}


def main(folder):
    by_hand = [scan_batch_major, scan_tokens, scan_reverse, loop_while, loop_scatter, loop_concat, loop_layer]
    cases = [(make.__name__.replace("_", "-"), *make()) for make in by_hand]
    cases += [(name, model, [{k: v.numpy() for k, v in feeds.items()}]) for name, model, feeds in torch_cases()]
    for name, model, inputs in cases:
        path = folder / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        outputs = [run_onnxruntime(path, feeds) for feeds in inputs]
        path.unlink()
        names = [o.name for o in model.graph.output]
        write_case(folder / name, model, [(feeds, dict(zip(names, found))) for feeds, found in zip(inputs, outputs)])


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
