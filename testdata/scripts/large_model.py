"""Write a large LSTM language model with random weights, for measuring size and speed.

    python large_model.py OUT.onnx [--hidden 1500] [--layers 2] [--vocabulary 10000] [--seed 0]

The default is the "large" shape of Zaremba et al. (2014): 2 layers of 1500 units, 10,000 words, embedding and
decoder not tied; 66,022,000 parameters with one bias vector per layer as ONNX stores two halves (66,034,000 values),
264 MB. Inputs and outputs are as an export from PyTorch has them: `tokens` [seq, batch], `h0`, `c0`
[layers, batch, hidden] -> `logits` [seq, batch, vocabulary], `hn`, `cn`. The same seed writes the same bytes.
"""

import argparse

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def build(hidden, layers, vocabulary, seed):
    rng = np.random.default_rng(seed)
    nodes, weights = [], []

    def weight(name, *shape):
        values = rng.random(shape, np.float32)
        values -= 0.5
        values *= 0.08  # uniform in [-0.04, 0.04), as the paper initialises this shape
        weights.append(numpy_helper.from_array(values, name))
        return name

    def constant(name, values):
        weights.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    nodes.append(helper.make_node("Gather", [weight("embedding.weight", vocabulary, hidden), "tokens"], ["x0"]))
    axis = constant("direction_axis", [1])
    for layer in range(layers):
        start, end = constant(f"start{layer}", [layer]), constant(f"end{layer}", [layer + 1])
        first_axis = constant(f"axis{layer}", [0])
        for state in "hc":
            nodes.append(helper.make_node("Slice", [f"{state}0", start, end, first_axis], [f"{state}0_{layer}"]))
        inputs = [
            f"x{layer}",
            weight(f"lstm{layer}.W", 1, 4 * hidden, hidden),
            weight(f"lstm{layer}.R", 1, 4 * hidden, hidden),
            weight(f"lstm{layer}.B", 1, 8 * hidden),
            "",
            f"h0_{layer}",
            f"c0_{layer}",
        ]
        outputs = [f"y{layer}", f"hn_{layer}", f"cn_{layer}"]
        nodes.append(helper.make_node("LSTM", inputs, outputs, name=f"lstm{layer}", hidden_size=hidden))
        nodes.append(helper.make_node("Squeeze", [f"y{layer}", axis], [f"x{layer + 1}"]))
    for state in "hc":
        nodes.append(helper.make_node("Concat", [f"{state}n_{k}" for k in range(layers)], [f"{state}n"], axis=0))
    nodes.append(helper.make_node("MatMul", [f"x{layers}", weight("decoder.weight", hidden, vocabulary)], ["scores"]))
    nodes.append(helper.make_node("Add", ["scores", weight("decoder.bias", vocabulary)], ["logits"]))

    def value(name, dtype, *shape):
        return helper.make_tensor_value_info(name, dtype, shape)

    f32, i64 = TensorProto.FLOAT, TensorProto.INT64
    graph = helper.make_graph(
        nodes,
        "large_lstm_language_model",
        [value("tokens", i64, "seq", "batch"), value("h0", f32, layers, "batch", hidden), value("c0", f32, layers, "batch", hidden)],
        [value("logits", f32, "seq", "batch", vocabulary), value("hn", f32, layers, "batch", hidden), value("cn", f32, layers, "batch", hidden)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="lstmc testdata")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--hidden", type=int, default=1500)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = build(args.hidden, args.layers, args.vocabulary, args.seed)
    onnx.checker.check_model(model)
    with open(args.out, "wb") as file:
        file.write(model.SerializeToString(deterministic=True))
    parameters = sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == TensorProto.FLOAT)
    print(f"{args.out}: {parameters:,} float values")


if __name__ == "__main__":
    main()
