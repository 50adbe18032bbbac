"""Write testdata/onnx: tests of single operators.

    python onnx_node_cases.py

Folders that begin with `test_` are the cases of the `onnx` package for the operators and types that lstmc has, with
ONNX's own names. The others are ours: what those leave out (casts to and from integers, operators of older sets), and
LSTM with every direction, layout, activation and option, whose outputs come from `lstm` below, a plain reading of
the operator's specification. Everything is checked with ONNX Runtime where that has the feature.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases

from cases import compare, new_folder, run_onnxruntime, run_reference, scrub, write_data_sets

ONNX = Path(__file__).parents[1] / "onnx"
OPS = """Add Cast Concat Constant ConstantOfShape Div Dropout Expand Gather Gemm Identity LSTM LogSoftmax MatMul Mul
ReduceMean Relu Reshape Shape Sigmoid Slice Softmax Split Squeeze Sub Tanh Transpose Unsqueeze""".split()
TYPES = {getattr(TensorProto, t) for t in ["FLOAT", "FLOAT16", "DOUBLE", "INT32", "INT64", "BOOL"]}
# Training, values that are not tensors, operators written with others.
SKIPPED = ["training_dropout", "dropout_random", "identity_sequence", "identity_opt", "expanded"]
ONNX_TYPES = {"f16": TensorProto.FLOAT16, "f32": TensorProto.FLOAT, "f64": TensorProto.DOUBLE,
              "i32": TensorProto.INT32, "i64": TensorProto.INT64, "bool": TensorProto.BOOL}
NUMPY_TYPES = {"f16": np.float16, "f32": np.float32, "f64": np.float64, "i32": np.int32, "i64": np.int64, "bool": np.bool_}


def check(folder, inputs, outputs):
    """Compare with ONNX Runtime, else with the reference evaluator. Says which one could."""
    for name, runner in [("onnxruntime", run_onnxruntime), ("reference", run_reference)]:
        try:
            found = runner(folder / "model.onnx", inputs)
        except Exception:
            continue
        try:
            compare(outputs, found)
        except AssertionError:
            if name == "reference":  # it ignores many attributes of LSTM
                return "neither"
            raise
        return name
    return "neither"


def write(name, model, data_sets):
    folder = new_folder(ONNX / name)
    (folder / "model.onnx").write_bytes(scrub(model).SerializeToString(deterministic=True))
    onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)
    write_data_sets(folder, data_sets)
    by = {check(folder, *data_set) for data_set in data_sets}
    print(f"{name}: opset {model.opset_import[0].version}, checked with {', '.join(sorted(by))}")


def from_onnx():
    np.random.seed(0)  # the package's cases draw from the global generator
    with np.errstate(all="ignore"):
        cases = sorted(collect_testcases(None), key=lambda case: case.name)
    for case in cases:
        if case.model is None or case.model.functions or any(word in case.name for word in SKIPPED):
            continue
        graph = case.model.graph
        if len(graph.node) != 1 or graph.node[0].op_type not in OPS:
            continue
        if any(v.type.tensor_type.elem_type not in TYPES for v in [*graph.input, *graph.output]):
            continue
        sets = []
        for inputs, outputs in case.data_sets:
            array = lambda v: numpy_helper.to_array(v) if isinstance(v, TensorProto) else np.asarray(v)
            named = lambda values, infos: {info.name: array(v) for info, v in zip(infos, values)}
            sets.append((named(inputs, graph.input), named(outputs, graph.output)))
        write(case.name, case.model, sets)


def single(name, op, inputs, outputs, opset=17, input_names=None, output_names=None, **attributes):
    """Write a case of one node. `inputs` and `outputs`: {name: array}; the names may be given where some are left out."""
    info = lambda k, v: helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
    node = helper.make_node(op, input_names or list(inputs), output_names or list(outputs), **attributes)
    graph = helper.make_graph([node], name, [info(*x) for x in inputs.items()], [info(*x) for x in outputs.items()])
    ir_version = 3 if opset < 9 else 8
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version, producer_name="lstmc testdata")
    write(name, model, [(inputs, outputs)])


def older_and_casts(rng):
    floats = np.array([0.0, -0.0, 0.5, -0.5, 1.0, -1.9, 2.5, 100.7, -300.2], np.float32)
    whole = np.array([0, 1, -1, 2, 7, 127, -128, 2047], np.int64)
    for source, target in [("f32", "i64"), ("f32", "i32"), ("f64", "i64"), ("f32", "bool"), ("i64", "f32"), ("i64", "f64"), ("i64", "i32"),
                           ("i32", "i64"), ("i32", "f32"), ("i64", "f16"), ("i64", "bool"), ("bool", "f32"), ("bool", "i64")]:
        x = {"f": floats, "i": whole, "b": np.array([True, False])}[source[0]].astype(NUMPY_TYPES[source])
        single(f"cast_{source}_to_{target}", "Cast", {"x": x}, {"y": x.astype(NUMPY_TYPES[target])}, to=ONNX_TYPES[target])

    # Before set 13, softmax worked on everything from `axis` (1 unless said) on as one row.
    x = rng.standard_normal((2, 3, 4)).astype(np.float32)
    for axis in [None, 0, 1, 2]:
        rows = x.reshape(int(np.prod(x.shape[: 1 if axis is None else axis])), -1).astype(np.float64)
        e = np.exp(rows - rows.max(axis=1, keepdims=True))
        p = (e / e.sum(axis=1, keepdims=True)).reshape(x.shape)
        suffix, attributes = ("default_axis", {}) if axis is None else (f"axis_{axis}", {"axis": axis})
        single(f"softmax_opset_11_{suffix}", "Softmax", {"x": x}, {"y": p.astype(np.float32)}, opset=11, **attributes)
        single(f"logsoftmax_opset_11_{suffix}", "LogSoftmax", {"x": x}, {"y": np.log(p).astype(np.float32)}, opset=11, **attributes)

    y = rng.standard_normal((1, 3, 1, 5)).astype(np.float32)
    single("squeeze_opset_11", "Squeeze", {"x": y}, {"y": y[:, :, 0]}, opset=11, axes=[2])
    single("squeeze_opset_11_all", "Squeeze", {"x": y}, {"y": y[0, :, 0]}, opset=11)
    single("unsqueeze_opset_11", "Unsqueeze", {"x": x}, {"y": x[None, :, None]}, opset=11, axes=[0, 2])
    single("split_opset_11", "Split", {"x": x}, {"a": x[..., :1], "b": x[..., 1:]}, opset=11, axis=2, split=[1, 3])
    single("split_opset_11_equal", "Split", {"x": x}, {"a": x[..., :2], "b": x[..., 2:]}, opset=11, axis=-1)
    single("slice_opset_9", "Slice", {"x": x}, {"y": x[:, 1:3, -3:-1]}, opset=9, axes=[1, 2], starts=[1, -3], ends=[2**31 - 1, -1])
    single("slice_opset_9_default_axes", "Slice", {"x": x}, {"y": x[1:2, :2]}, opset=9, starts=[1, 0], ends=[2, 2])
    single("dropout_opset_7", "Dropout", {"x": x}, {"y": x}, opset=7, ratio=0.7)
    single("reducemean_opset_13", "ReduceMean", {"x": x}, {"y": x.mean(axis=(0, 2))}, opset=13, axes=[0, -1], keepdims=0)
    single("gemm_opset_7", "Gemm", {"a": x[0], "b": x[1], "c": np.array([1, 2, 3], np.float32)},
           {"y": x[0] @ x[1].T + np.array([1, 2, 3], np.float32)}, opset=7, transB=1)
    single("div_i64_truncates", "Div", {"a": np.array([7, -7, 7, -7], np.int64), "b": np.array([2, 2, -2, -2], np.int64)},
           {"y": np.array([3, -3, -3, 3], np.int64)})


# The activation functions: name -> (function of x, alpha, beta; default alpha; default beta). None: takes no such value.
ACTIVATIONS = {
    "Relu": (lambda x, a, b: np.maximum(x, 0), None, None),
    "Tanh": (lambda x, a, b: np.tanh(x), None, None),
    "Sigmoid": (lambda x, a, b: 1 / (1 + np.exp(-x)), None, None),
    "Affine": (lambda x, a, b: a * x + b, 1.0, 0.0),
    "LeakyRelu": (lambda x, a, b: np.where(x >= 0, x, a * x), 0.01, None),
    "ThresholdedRelu": (lambda x, a, b: np.where(x >= a, x, 0), 1.0, None),
    "ScaledTanh": (lambda x, a, b: a * np.tanh(b * x), 1.0, 1.0),
    "HardSigmoid": (lambda x, a, b: np.clip(a * x + b, 0, 1), 0.2, 0.5),
    "Elu": (lambda x, a, b: np.where(x >= 0, x, a * (np.exp(np.minimum(x, 0)) - 1)), 1.0, None),
    "Softsign": (lambda x, a, b: x / (1 + np.abs(x)), None, None),
    "Softplus": (lambda x, a, b: np.log1p(np.exp(x)), None, None),
}


def activation_functions(names, alphas, betas):
    """Each function with its values; a value is taken from the lists only by a function that has one."""
    alphas, betas, result = list(alphas), list(betas), []
    for name in names:
        function, alpha, beta = ACTIVATIONS[name]
        if alpha is not None and alphas:
            alpha = alphas.pop(0)
        if beta is not None and betas:
            beta = betas.pop(0)
        result.append(lambda x, function=function, alpha=alpha, beta=beta: function(x, alpha, beta))
    return result


def lstm(X, W, R, B=None, sequence_lens=None, initial_h=None, initial_c=None, P=None, activations=None, activation_alpha=(),
         activation_beta=(), clip=None, direction="forward", input_forget=0, layout=0, hidden_size=None):
    """ONNX's LSTM in f64, one stream and one step at a time. Like ONNX Runtime, `clip` bounds what goes into f and g,
    but not the cell state that goes into h."""
    if layout:
        X = X.swapaxes(0, 1)
        initial_h, initial_c = (None if v is None else v.swapaxes(0, 1) for v in (initial_h, initial_c))
    steps, streams, _ = X.shape
    directions, _, hidden = R.shape
    limit = np.inf if clip is None else clip
    functions = activation_functions(activations or ["Sigmoid", "Tanh", "Tanh"] * directions, activation_alpha, activation_beta)
    Y = np.zeros((steps, directions, streams, hidden))
    Y_h, Y_c = np.zeros((directions, streams, hidden)), np.zeros((directions, streams, hidden))
    for d in range(directions):
        f, g, h = functions[3 * d : 3 * d + 3]
        clipped = lambda v: np.clip(v, -limit, limit)
        bias = np.zeros(4 * hidden) if B is None else B[d, : 4 * hidden].astype(np.float64) + B[d, 4 * hidden :]
        p_i, p_o, p_f = np.zeros((3, hidden)) if P is None else P[d].reshape(3, hidden).astype(np.float64)
        for b in range(streams):
            length = steps if sequence_lens is None else sequence_lens[b]
            H = np.zeros(hidden) if initial_h is None else initial_h[d, b].astype(np.float64)
            C = np.zeros(hidden) if initial_c is None else initial_c[d, b].astype(np.float64)
            backward = direction == "reverse" or d == 1
            for t in reversed(range(length)) if backward else range(length):
                i, o, forget, c = np.split(W[d].astype(np.float64) @ X[t, b] + R[d].astype(np.float64) @ H + bias, 4)
                i = f(clipped(i + p_i * C))
                forget = 1 - i if input_forget else f(clipped(forget + p_f * C))
                C = forget * C + i * g(clipped(c))
                H = f(clipped(o + p_o * C)) * h(C)
                Y[t, d, b] = H
            Y_h[d, b], Y_c[d, b] = H, C
    if layout:
        Y, Y_h, Y_c = Y.transpose(2, 0, 1, 3), Y_h.swapaxes(0, 1), Y_c.swapaxes(0, 1)
    return {"Y": Y.astype(np.float32), "Y_h": Y_h.astype(np.float32), "Y_c": Y_c.astype(np.float32)}


INPUTS = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]


def lstm_case(rng, name, steps=4, streams=3, inputs=3, hidden=5, scale=0.8, bias=True, lens=None, state=False, peepholes=False,
              outputs=("Y", "Y_h", "Y_c"), **attributes):
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    draw = lambda *shape: ((rng.random(shape) * 2 - 1) * scale).astype(np.float32)
    values = {"X": draw(steps, streams, inputs), "W": draw(directions, 4 * hidden, inputs), "R": draw(directions, 4 * hidden, hidden)}
    if bias:
        values["B"] = draw(directions, 8 * hidden)
    if lens:
        values["sequence_lens"] = np.array(lens, np.int32)
    if state:
        values |= {"initial_h": draw(directions, streams, hidden), "initial_c": draw(directions, streams, hidden)}
    if peepholes:
        values["P"] = draw(directions, 3 * hidden)
    if attributes.get("layout"):
        values |= {k: values[k].swapaxes(0, 1) for k in ["X", "initial_h", "initial_c"] if k in values}
    expected = lstm(**values, **attributes)
    slots = [k if k in values else "" for k in INPUTS]
    while not slots[-1]:
        slots.pop()
    produced = [k if k in outputs else "" for k in expected]
    while not produced[-1]:
        produced.pop()
    single(f"lstm_{name}", "LSTM", values, {k: expected[k] for k in outputs}, input_names=slots, output_names=produced,
           hidden_size=hidden, **attributes)


def lstm_cases(rng):
    case = lambda name, **options: lstm_case(rng, name, **options)
    for direction in ["forward", "reverse", "bidirectional"]:
        for layout in [0, 1]:
            case(f"{direction}_layout_{layout}", direction=direction, layout=layout)
            case(f"{direction}_layout_{layout}_state_lens", direction=direction, layout=layout, state=True, lens=[4, 1, 3])
    case("no_bias", bias=False)
    case("one_of_each", steps=1, streams=1, inputs=1, hidden=1, state=True)
    case("only_y", state=True, outputs=["Y"])
    case("only_last_hidden", outputs=["Y_h"])
    case("only_last_cell", outputs=["Y_c"])
    case("peepholes", peepholes=True, state=True)
    case("peepholes_bidirectional", peepholes=True, state=True, direction="bidirectional")
    case("clip", clip=0.3, scale=1.5, state=True)
    case("input_forget", input_forget=1, state=True)
    case("input_forget_peepholes", input_forget=1, peepholes=True, state=True)
    case("relu", activations=["Relu", "Relu", "Relu"], scale=0.5, state=True)
    case("hard_sigmoid_affine_leaky_relu", activations=["HardSigmoid", "Affine", "LeakyRelu"], activation_alpha=[0.3, 0.7, 0.1],
         activation_beta=[0.4, -0.2], state=True)
    case("softsign_softplus_elu", activations=["Softsign", "Softplus", "Elu"], activation_alpha=[0.6], state=True)
    case("sigmoid_scaled_tanh_thresholded_relu", activations=["Sigmoid", "ScaledTanh", "ThresholdedRelu"], activation_alpha=[1.7, 0.1],
         activation_beta=[0.66], state=True)
    case("default_alpha_beta", activations=["HardSigmoid", "LeakyRelu", "Elu"], state=True)
    case("activations_bidirectional", direction="bidirectional", activations=["Sigmoid", "Tanh", "Softsign", "HardSigmoid", "Elu", "Tanh"],
         activation_alpha=[0.25, 0.9], activation_beta=[0.45], state=True)
    case("everything", direction="bidirectional", activations=["HardSigmoid", "ScaledTanh", "LeakyRelu", "Sigmoid", "Softsign", "Tanh"],
         activation_alpha=[0.3, 1.5, 0.2], activation_beta=[0.4, 0.8], clip=0.7, input_forget=1, lens=[2, 4, 3], state=True, peepholes=True)


def main():
    new_folder(ONNX)
    from_onnx()
    older_and_casts(np.random.default_rng(1))
    lstm_cases(np.random.default_rng(2))


if __name__ == "__main__":
    main()
