"""Write testdata/tiny: small language models in every form that the importer must understand.

    python tiny_models.py

Vocabulary 32, 8 hidden units, 2 layers unless a case is about something else; seeded random weights. Each case has
the outputs that PyTorch computes, and is checked with ONNX Runtime (with ONNX's reference evaluator where
ONNX Runtime lacks a feature). Data set 0 has 5 steps, 1 stream and zero state; data set 1 has 3 steps, 2 streams and random state.
"""

import io
import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import nn

from cases import Net, new_folder, run_onnxruntime, run_reference, scrub, write_case

TINY = Path(__file__).parents[1] / "tiny"
VOCABULARY, HIDDEN, LAYERS = 32, 8, 2
F32, I64 = TensorProto.FLOAT, TensorProto.INT64

WORDS = """the <unk> <eos> a cat dog bird fish sat ran sang swam on under over by mat tree house river
and but then it was small big old red blue quickly slowly""".split()
TEXT = """the cat sat on the mat
a small bird sang by the river and the fish swam slowly
then the old dog ran under the tree but it was big
the <unk> was blue and the house was red
the bird ran over the house quickly and the cat sat by it
"""


class LanguageModel(nn.Module):
    def __init__(self, seed, dim=HIDDEN, hidden=HIDDEN, layers=LAYERS, batch_first=False, bias=True, tied=False,
                 stateless=False, tail=None, cell=nn.LSTM, bidirectional=False):
        super().__init__()
        self.layers, self.hidden, self.batch_first, self.stateless, self.tail = layers, hidden, batch_first, stateless, tail
        self.embedding = nn.Embedding(VOCABULARY, dim)
        self.lstm = cell(dim, hidden, layers, batch_first=batch_first, bidirectional=bidirectional)
        self.decoder = nn.Linear(hidden * (2 if bidirectional else 1), VOCABULARY, bias=bias)
        generator = torch.Generator().manual_seed(seed)
        for p in self.parameters():
            nn.init.uniform_(p, -0.5, 0.5, generator=generator)
        if tied:
            self.decoder.weight = self.embedding.weight
        self.requires_grad_(False).eval()

    def forward(self, tokens, h0=None, c0=None):
        x = self.embedding(tokens)
        if h0 is None:
            y, state = self.lstm(x)
        elif c0 is None:
            y, state = self.lstm(x, h0)
        else:
            y, state = self.lstm(x, (h0, c0))
        logits = self.decoder(y)
        if self.tail:
            logits = self.tail(logits, dim=-1)
        if self.stateless:
            return logits
        return (logits, *state) if isinstance(state, tuple) else (logits, state)

    def sample(self, seed, seq, batch, zero):
        """Inputs as a tuple of tensors."""
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, seq) if self.batch_first else (seq, batch)
        tokens = torch.randint(0, VOCABULARY, shape, generator=generator)
        if self.stateless:
            return (tokens,)
        shape = (self.layers, batch, self.hidden)
        return tokens, *(torch.zeros(shape) if zero else torch.rand(shape, generator=generator) * 2 - 1 for _ in range(2))

    def names(self):
        return (["tokens"], ["logits"]) if self.stateless else (["tokens", "h0", "c0"], ["logits", "hn", "cn"])

    def data_sets(self, sizes=((5, 1), (3, 2))):
        inputs, outputs = self.names()
        result = []
        for n, (seq, batch) in enumerate(sizes):
            x = self.sample(100 + n, seq, batch, zero=n == 0)
            y = self(*x)
            y = y if isinstance(y, tuple) else (y,)
            result.append(({k: v.numpy() for k, v in zip(inputs, x)}, {k: v.numpy() for k, v in zip(outputs, y)}))
        return result


def export(model, exporter, static=False, optimize=True):
    """Export with one of PyTorch's two exporters, "dynamo" or "torchscript"."""
    inputs, outputs = model.names()
    sample = model.sample(0, 5, 1, True) if static else model.sample(0, 7, 2, True)
    file, options = io.BytesIO(), {"input_names": inputs, "output_names": outputs}
    sequence_axes = ("batch", "seq") if model.batch_first else ("seq", "batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "torchscript":
            axes = {} if static else {
                name: dict(enumerate(sequence_axes)) if name in ("tokens", "logits") else {1: "batch"} for name in inputs + outputs
            }
            torch.onnx.export(model, sample, file, dynamo=False, opset_version=17, dynamic_axes=axes, **options)
            return scrub(onnx.load_from_string(file.getvalue()))
        if not static:
            dims = {name: torch.export.Dim(name, min=1) for name in ("seq", "batch")}
            shapes = {"tokens": {k: dims[a] for k, a in enumerate(sequence_axes)}}
            shapes |= {name: {1: dims["batch"]} for name in inputs[1:]}
            options["dynamic_shapes"] = shapes
        program = torch.onnx.export(model, sample, dynamo=True, external_data=False, verbose=False, optimize=optimize, **options)
        return scrub(program.model_proto)


def exported():
    """Cases that PyTorch exports."""
    cases = {
        "batch-first": LanguageModel(2, batch_first=True),
        "tied": LanguageModel(3, tied=True),
        "stateless": LanguageModel(4, stateless=True),
        "log-softmax": LanguageModel(5, tail=torch.log_softmax),
        "softmax": LanguageModel(6, tail=torch.softmax),
        "one-layer": LanguageModel(7, layers=1),
        "three-layers": LanguageModel(8, layers=3),
        "matmul-decoder": LanguageModel(9, bias=False),
        "projected-dims": LanguageModel(10, dim=6),
    }
    model = LanguageModel(1)
    write_case(TINY / "dynamo", export(model, "dynamo"), model.data_sets())
    # Nothing folded: in larger models too, the optimizer leaves the reordering of the gates in the graph.
    write_case(TINY / "dynamo-unoptimized", export(model, "dynamo", optimize=False), model.data_sets())
    write_case(TINY / "torchscript", export(model, "torchscript"), model.data_sets())
    for name, model in cases.items():
        for exporter, suffix in [("dynamo", ""), ("torchscript", "-torchscript")]:
            write_case(TINY / (name + suffix), export(model, exporter), model.data_sets())
    model = LanguageModel(12)
    write_case(TINY / "external-data", export(model, "dynamo"), model.data_sets(), external="model.onnx.data")
    # Last: after a static export, PyTorch 2.15 makes the first axis of the next dynamic one static too.
    model = LanguageModel(11)
    for exporter, suffix in [("dynamo", ""), ("torchscript", "-torchscript")]:
        write_case(TINY / ("static-shape" + suffix), export(model, exporter, static=True), model.data_sets([(5, 1)]))


def gates(values, order):
    """Reorder the gates of PyTorch (input, forget, cell, output) along the first axis."""
    parts = dict(zip("ifco", np.split(values.numpy(), 4)))
    return np.concatenate([parts[gate] for gate in order])


def lstm_weights(model, layer):
    """W, R and B as ONNX wants them."""
    p = {name: gates(getattr(model.lstm, f"{name}_l{layer}"), "iofc") for name in ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]}
    return p["weight_ih"][None], p["weight_hh"][None], np.concatenate([p["bias_ih"], p["bias_hh"]])[None]


def state_ports(net, layers=LAYERS):
    for name in ["h0", "c0"]:
        net.input(name, F32, layers, "batch", HIDDEN)


def outputs(net, stateless=False, layers=LAYERS):
    net.output("logits", F32, "seq", "batch", VOCABULARY)
    for name in [] if stateless else ["hn", "cn"]:
        net.output(name, F32, layers, "batch", HIDDEN)


def f16():
    """Weights stored as f16, cast to f32 where they are used."""
    model = LanguageModel(13)
    for p in model.parameters():
        p.copy_(p.half().float())
    net = Net()

    def weight(name, values):
        return net.op("Cast", [net.weight(name, np.asarray(values).astype(np.float16))], to=F32)

    net.input("tokens", I64, "seq", "batch")
    state_ports(net)
    x = net.op("Gather", [weight("embedding", model.embedding.weight), "tokens"])
    states = [net.op("Split", [name, net.ints(1, 1)], LAYERS, axis=0) for name in ["h0", "c0"]]
    ends = []
    for k in range(LAYERS):
        w = [weight(f"lstm{k}.{n}", v) for n, v in zip("WRB", lstm_weights(model, k))]
        y, h, c = net.op("LSTM", [x, *w, "", states[0][k], states[1][k]], 3, hidden_size=HIDDEN)
        x = net.op("Squeeze", [y, net.ints(1)])
        ends.append((h, c))
    table = net.op("Transpose", [weight("decoder.weight", model.decoder.weight)], perm=[1, 0])
    net.op("Add", [net.op("MatMul", [x, table]), weight("decoder.bias", model.decoder.bias)], "logits")
    for name, parts in zip(["hn", "cn"], zip(*ends)):
        net.op("Concat", parts, name, axis=0)
    outputs(net)
    write_case(TINY / "f16", net.model("f16"), model.data_sets())


def dropout():
    """What dropout leaves in an inference graph: Dropout nodes that are off, and Identity."""
    model = LanguageModel(14)
    net = Net()
    net.input("tokens", I64, "seq", "batch")
    state_ports(net)
    ratio, off = net.weight("ratio", 0.35, np.float32), net.weight("training_mode", False, np.bool_)
    x = net.op("Gather", [net.weight("embedding", model.embedding.weight), "tokens"])
    x = net.op("Dropout", [x, ratio, off])
    ends = []
    for k in range(LAYERS):
        w = [net.weight(f"lstm{k}.{n}", v) for n, v in zip("WRB", lstm_weights(model, k))]
        state = [net.op("Gather", [name, net.ints(k)], axis=0) for name in ["h0", "c0"]]
        y, h, c = net.op("LSTM", [x, *w, "", *state], 3, hidden_size=HIDDEN)
        x = net.op("Squeeze", [y, net.ints(1)])
        # Between layers with its mask as a second output that nobody reads, after the last layer as Identity.
        x = net.op("Dropout", [x, ratio], 2)[0] if k < LAYERS - 1 else net.op("Identity", [x])
        ends.append((h, c))
    net.op("Gemm", [net.op("Reshape", [x, net.ints(-1, HIDDEN)]), net.weight("decoder.weight", model.decoder.weight),
                    net.weight("decoder.bias", model.decoder.bias)], "rows", transB=1)
    shape = net.op("Concat", [net.op("Shape", ["tokens"]), net.ints(VOCABULARY)], axis=0)
    net.op("Reshape", ["rows", shape], "logits")
    for name, parts in zip(["hn", "cn"], zip(*ends)):
        net.op("Identity", [net.op("Concat", parts, axis=0)], name)
    outputs(net)
    write_case(TINY / "dropout", net.model("dropout"), model.data_sets())


def opset_7():
    """A file of 2018: axes, split sizes and the dropout ratio are attributes, weights are listed as inputs."""
    model = LanguageModel(15)
    net = Net()
    net.input("tokens", I64, "seq", "batch")
    state_ports(net)
    x = net.op("Gather", [net.weight("embedding", model.embedding.weight), "tokens"])
    h0 = net.op("Split", ["h0"], LAYERS, axis=0, split=[1] * LAYERS)
    ends = []
    for k in range(LAYERS):
        w = [net.weight(f"lstm{k}.{n}", v) for n, v in zip("WRB", lstm_weights(model, k))]
        c0 = net.op("Slice", ["c0"], axes=[0], starts=[k], ends=[k + 1])
        y, h, c = net.op("LSTM", [x, *w, "", h0[k], c0], 3, hidden_size=HIDDEN)
        x = net.op("Squeeze", [y], axes=[1])
        x = net.op("Dropout", [x], ratio=0.5)
        ends.append((h, net.op("Unsqueeze", [net.op("Squeeze", [c], axes=[0])], axes=[0])))
    net.op("Add", [net.op("MatMul", [x, net.weight("decoder.weight", model.decoder.weight.T)]),
                   net.weight("decoder.bias", model.decoder.bias)], "logits")
    for name, parts in zip(["hn", "cn"], zip(*ends)):
        net.op("Concat", parts, name, axis=0)
    outputs(net)
    write_case(TINY / "opset-7", net.model("opset-7", opset=7, ir_version=3), model.data_sets())


def opset_newest(opset):
    """The newest operator set that ONNX Runtime runs, with forms that only newer sets have: Constant with
    value_ints, Shape of a range of axes, Split into a number of parts."""
    model = LanguageModel(16, stateless=True)
    net = Net()

    def ints(*values):
        return net.op("Constant", [], value_ints=values)

    net.input("tokens", I64, "seq", "batch")
    x = net.op("Gather", [net.weight("embedding", model.embedding.weight), "tokens"])
    batch = net.op("Shape", ["tokens"], start=1, end=2)
    shape = net.op("Concat", [ints(LAYERS), batch, ints(HIDDEN)], axis=0)
    zero = net.op("Split", [net.op("ConstantOfShape", [shape])], LAYERS, axis=0, num_outputs=LAYERS)
    for k in range(LAYERS):
        w = [net.weight(f"lstm{k}.{n}", v) for n, v in zip("WRB", lstm_weights(model, k))]
        y = net.op("LSTM", [x, *w, "", zero[k], zero[k]], hidden_size=HIDDEN)
        x = net.op("Squeeze", [y, ints(1)])
    net.op("Add", [net.op("MatMul", [x, net.op("Transpose", [net.weight("decoder.weight", model.decoder.weight)], perm=[1, 0])]),
                   net.weight("decoder.bias", model.decoder.bias)], "logits")
    outputs(net, stateless=True)
    write_case(TINY / "opset-newest", net.model("opset-newest", opset=opset, ir_version=10), model.data_sets())


def keras_weights(net, model, k):
    """A layer as Keras stores it, kernels [inputs, 4 units] with gates ifco and one bias, turned into ONNX's
    form by nodes. The forget bias (Keras starts it at 1) is a tensor of its own."""
    p = {n: gates(getattr(model.lstm, f"{n}_l{k}"), "ifco") for n in ["weight_ih", "weight_hh", "bias_ih"]}
    result = []
    for onnx_name, name, values in [("W", "kernel", p["weight_ih"]), ("R", "recurrent_kernel", p["weight_hh"])]:
        kernel = net.weight(f"lstm_{k}/{name}", values.T)
        i, f, c, o = net.op("Split", [kernel, net.ints(*[HIDDEN] * 4)], 4, axis=1)
        iofc = net.op("Transpose", [net.op("Concat", [i, o, f, c], axis=1)], perm=[1, 0])
        result.append(net.op("Unsqueeze", [iofc, net.ints(0)]))
    bias = dict(zip("ifco", np.split(p["bias_ih"], 4)))
    names = [net.weight(f"lstm_{k}/bias_{gate}", bias[gate]) for gate in "iofc"]
    zero = net.op("ConstantOfShape", [net.ints(4 * HIDDEN)])
    result.append(net.op("Unsqueeze", [net.op("Concat", [*names, zero], axis=0), net.ints(0)]))
    return result


def keras_model(seed, stateless):
    model = LanguageModel(seed, batch_first=True, stateless=stateless)
    for k in range(LAYERS):
        getattr(model.lstm, f"bias_hh_l{k}").zero_()
        getattr(model.lstm, f"bias_ih_l{k}")[HIDDEN : 2 * HIDDEN] += 1
    return model


def keras_like():
    """As converted from Keras, streams first: LSTM with layout 1, no states."""
    model = keras_model(17, stateless=True)
    net = Net()
    net.input("tokens", I64, "batch", "seq")
    x = net.op("Gather", [net.weight("embedding/embeddings", model.embedding.weight), "tokens"])
    for k in range(LAYERS):
        y = net.op("LSTM", [x, *keras_weights(net, model, k)], hidden_size=HIDDEN, layout=1)
        x = net.op("Squeeze", [y, net.ints(2)])
    net.op("Add", [net.op("MatMul", [x, net.weight("dense/kernel", model.decoder.weight.T)]),
                   net.weight("dense/bias", model.decoder.bias)], "logits")
    net.output("logits", F32, "batch", "seq", VOCABULARY)
    # ONNX Runtime has no layout 1.
    write_case(TINY / "keras-like", net.model("keras-like"), model.data_sets(), [run_reference])


def keras_like_states():
    """As a converter to ONNX writes a stateful Keras model: transposes around each LSTM, one [batch, units] input and
    output per layer and state, a softmax at the end."""
    model = keras_model(18, stateless=False)
    model.tail = torch.softmax
    net = Net()
    net.input("tokens", I64, "batch", "seq")
    for k in range(LAYERS):
        for state in "hc":
            net.input(f"state_{k}_{state}", F32, "batch", HIDDEN)
    net.output("probabilities", F32, "batch", "seq", VOCABULARY)
    x = net.op("Gather", [net.weight("embedding/embeddings", model.embedding.weight), "tokens"])
    for k in range(LAYERS):
        x = net.op("Transpose", [x], perm=[1, 0, 2])
        state = [net.op("Unsqueeze", [f"state_{k}_{s}", net.ints(0)]) for s in "hc"]
        y, h, c = net.op("LSTM", [x, *keras_weights(net, model, k), "", *state], 3, hidden_size=HIDDEN)
        x = net.op("Transpose", [net.op("Squeeze", [y, net.ints(1)])], perm=[1, 0, 2])
        for s, value in zip("hc", [h, c]):
            net.op("Squeeze", [value, net.ints(0)], f"new_state_{k}_{s}")
            net.output(f"new_state_{k}_{s}", F32, "batch", HIDDEN)
    scores = net.op("Add", [net.op("MatMul", [x, net.weight("dense/kernel", model.decoder.weight.T)]),
                            net.weight("dense/bias", model.decoder.bias)])
    net.op("Softmax", [scores], "probabilities", axis=-1)
    data_sets = []
    for inputs, results in model.data_sets():
        old = {f"state_{k}_{s}": inputs[f"{s}0"][k] for k in range(LAYERS) for s in "hc"}
        new = {f"new_state_{k}_{s}": results[f"{s}n"][k] for k in range(LAYERS) for s in "hc"}
        data_sets.append(({"tokens": inputs["tokens"], **old}, {"probabilities": results["logits"], **new}))
    write_case(TINY / "keras-like-states", net.model("keras-like-states"), data_sets)


def main():
    torch.set_num_threads(1)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    new_folder(TINY)
    assert len(WORDS) == len(set(WORDS)) == VOCABULARY and set(TEXT.split()) <= set(WORDS)
    (TINY / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (TINY / "text.txt").write_text(TEXT)
    exported()
    f16()
    dropout()
    opset_7()
    opset_newest(25)
    keras_like()
    keras_like_states()


if __name__ == "__main__":
    main()
