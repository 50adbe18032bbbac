"""Write testdata/refused: files that lstmc must refuse, each for one reason; and to testdata/tiny the variants of the LSTM that no exporter writes.

    python refused_models.py

Some are good models of a kind that lstmc does not compile; these have a data set with what ONNX Runtime computes. The
others are damaged or hostile. Vocabulary 32, 8 hidden units, 1 layer.
"""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from cases import Net, new_folder, run_onnxruntime, scrub, write_data_sets
from tiny_models import LanguageModel, export

REFUSED = Path(__file__).parents[1] / "refused"
TINY = Path(__file__).parents[1] / "tiny"
VOCABULARY, HIDDEN = 32, 8
F32, I64 = TensorProto.FLOAT, TensorProto.INT64
EMBEDDING_BYTES = 4 * VOCABULARY * HIDDEN


def language_model(lstm=True, decoder="MatMul", peepholes=False, directions=1, after=None, **attributes):
    """tokens, h0, c0 -> logits, hn, cn with the LSTM's attributes as given."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: (rng.random(shape, np.float32) - 0.5).astype(np.float32)
    net = Net()
    net.input("tokens", I64, "seq", "batch")
    x = net.op("Gather", [net.weight("embedding.weight", draw(VOCABULARY, HIDDEN)), "tokens"])
    if lstm:
        net.input("h0", F32, 1, "batch", HIDDEN)
        net.input("c0", F32, 1, "batch", HIDDEN)
        inputs = [x, net.weight("lstm.W", draw(1, 4 * HIDDEN, HIDDEN)), net.weight("lstm.R", draw(1, 4 * HIDDEN, HIDDEN)),
                  net.weight("lstm.B", draw(1, 8 * HIDDEN)), "", "h0", "c0"]
        if peepholes:
            inputs.append(net.weight("lstm.P", draw(1, 3 * HIDDEN)))
        y = net.op("LSTM", inputs, ["y", "hn", "cn"], hidden_size=HIDDEN, **attributes)[0]
        x = net.op("Squeeze", [y, net.ints(1)])
    else:
        x = net.op("Tanh", [x])
    if after:
        x = after(net, x)
    weight = net.weight("decoder.weight", draw(HIDDEN, VOCABULARY))
    y = net.op("Einsum", [x, weight], equation="sbh,hv->sbv") if decoder == "Einsum" else net.op("MatMul", [x, weight])
    net.op("Add", [y, net.weight("decoder.bias", draw(VOCABULARY))], "logits")
    net.output("logits", F32, "seq", "batch", VOCABULARY)
    if lstm:
        net.output("hn", F32, 1, "batch", HIDDEN)
        net.output("cn", F32, 1, "batch", HIDDEN)
    return net


def write(name, model, record=True, to=REFUSED):
    folder = new_folder(to / name)
    path = folder / "model.onnx"
    path.write_bytes(scrub(model).SerializeToString(deterministic=True))
    if record:
        onnx.checker.check_model(str(path), full_check=True)
        rng = np.random.default_rng(1)
        inputs = {}
        for value in model.graph.input:
            dims = [{"seq": 4, "batch": 2}.get(d.dim_param, d.dim_value) for d in value.type.tensor_type.shape.dim]
            draw = rng.integers(0, VOCABULARY, dims) if value.type.tensor_type.elem_type == I64 else rng.random(dims, np.float32) - 0.5
            inputs[value.name] = draw
        outputs = dict(zip([o.name for o in model.graph.output], run_onnxruntime(path, inputs)))
        write_data_sets(folder, [(inputs, outputs)])
    print(name)


def other_kinds():
    """Good models, but not what lstmc compiles."""

    class Bidirectional(LanguageModel):
        def sample(self, *args):
            tokens, *states = super().sample(*args)
            return tokens, *(torch.cat([s, -s]) for s in states)

    class Gru(LanguageModel):
        def sample(self, *args):
            return super().sample(*args)[:2]

        def names(self):
            return ["tokens", "h0"], ["logits", "hn"]

    write("bidirectional", export(Bidirectional(20, layers=1, bidirectional=True), "dynamo"))
    write("gru", export(Gru(21, layers=1, cell=torch.nn.GRU), "dynamo"), to=TINY)
    write("reverse", language_model(direction="reverse").model("reverse"))
    write("einsum-decoder", language_model(decoder="Einsum").model("einsum-decoder"), to=TINY)
    unknown = lambda net, x: net.op("Frobnicate", [x], domain="com.example")
    model = language_model(after=unknown).model("custom-domain", domains=["com.example"])
    write("custom-domain", model, record=False)
    write("no-lstm", language_model(lstm=False).model("no-lstm"))


def variants():
    """LSTMs with what ONNX has and PyTorch has not: these are taken."""
    model = language_model(activations=["Sigmoid", "Relu", "Tanh"], clip=0.5).model("clip-activation")
    write("clip-activation", model, to=TINY)
    write("peephole", language_model(peepholes=True).model("peephole"), to=TINY)
    write("input-forget", language_model(input_forget=1).model("input-forget"), to=TINY)


def changed(name, change):
    """A good model with one thing changed."""
    model = language_model().model(name)
    change(model.graph, {t.name: t for t in model.graph.initializer}, {n.op_type: n for n in model.graph.node})
    write(name, model, record=False)


def external(location, offset=0, length=EMBEDDING_BYTES):
    def change(graph, weights, nodes):
        tensor = weights["embedding.weight"]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in [("location", location), ("offset", offset), ("length", length)]:
            tensor.external_data.add(key=key, value=str(value))

    return change


def dims(name, *values):
    def change(graph, weights, nodes):
        del weights[name].dims[:]
        weights[name].dims.extend(values)

    return change


def damaged():
    """Damaged and hostile files. `secret.bin` exists and has the right size: a careless loader would read it."""
    (REFUSED / "secret.bin").write_bytes(np.full(VOCABULARY * HIDDEN, 0.25, "<f4").tobytes())
    changed("external-outside", external("../secret.bin"))
    changed("external-outside-nested", external("weights/../../secret.bin"))
    changed("external-absolute", external("/secret.bin"))
    changed("external-missing", external("weights.bin"))
    changed("external-too-long", external("model.onnx", offset=64, length=2**40))
    changed("external-negative-offset", external("model.onnx", offset=-1))
    changed("external-offset-overflow", external("model.onnx", offset=2**64 - 1))

    changed("dims-overflow", dims("embedding.weight", 2**62, 8))
    changed("dims-huge", dims("embedding.weight", 2**40, 8))
    changed("dims-negative", dims("embedding.weight", -32, -8))
    changed("data-short", lambda g, w, n: setattr(w["embedding.weight"], "raw_data", w["embedding.weight"].raw_data[:-4]))

    def poison(name, value):
        def change(graph, weights, nodes):
            data = np.frombuffer(weights[name].raw_data, "<f4").copy()
            data[3] = value
            weights[name].raw_data = data.tobytes()

        return change

    changed("nan-weights", poison("lstm.R", np.nan))
    changed("infinite-weights", poison("decoder.weight", np.inf))

    def cycle(graph, weights, nodes):
        a = helper.make_node("Add", [nodes["Squeeze"].output[0], "looped"], ["sum"], name="cycle_a")
        b = helper.make_node("Tanh", ["sum"], ["looped"], name="cycle_b")
        nodes["MatMul"].input[0] = "looped"
        graph.node.extend([a, b])

    changed("cycle", cycle)
    changed("self-loop", lambda g, w, n: n["MatMul"].input.__setitem__(0, n["MatMul"].output[0]))
    changed("undefined-input", lambda g, w, n: n["MatMul"].input.__setitem__(0, "nobody"))
    changed("undefined-output", lambda g, w, n: setattr(g.output[0], "name", "nobody"))
    changed("duplicate-output", lambda g, w, n: n["Squeeze"].output.__setitem__(0, n["Gather"].output[0]))
    changed("duplicate-weight", lambda g, w, n: g.initializer.append(w["lstm.W"]))
    changed("lstm-shape", dims("lstm.R", 1, 8, 32))
    changed("lstm-hidden-size", lambda g, w, n: setattr(n["LSTM"].attribute[0], "i", 16))
    changed("decoder-shape", dims("decoder.weight", 4, 64))

    def huge_constant(graph, weights, nodes):
        shape = helper.make_tensor("huge_shape", I64, [3], [2**20, 2**20, 2**20])
        graph.initializer.append(shape)
        graph.node.append(helper.make_node("ConstantOfShape", ["huge_shape"], ["huge"], name="huge"))
        graph.node.append(helper.make_node("ReduceMean", ["huge"], ["mean"], keepdims=0, name="mean"))
        graph.node.append(helper.make_node("Add", ["scores", "mean"], ["logits"], name="last"))
        nodes["Add"].output[0] = "scores"

    changed("huge-constant", huge_constant)

    model = language_model().model("opset-unknown", opset=9999)
    write("opset-unknown", model, record=False)
    whole = language_model().model("truncated").SerializeToString(deterministic=True)
    for name, data in [("truncated", whole[: len(whole) // 2]), ("empty-file", b""), ("not-onnx", b"the cat sat on the mat\n" * 8)]:
        (new_folder(REFUSED / name) / "model.onnx").write_bytes(data)
        print(name)


def main():
    torch.set_num_threads(1)
    new_folder(REFUSED)
    other_kinds()
    variants()
    damaged()


if __name__ == "__main__":
    main()
