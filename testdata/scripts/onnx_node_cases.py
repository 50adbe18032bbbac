"""Write testdata/onnx: tests of single operators.

    python onnx_node_cases.py

Folders that begin with `test_` are cases of the `onnx` package for the operators and types that lstmc has, with
ONNX's own names: all of those in OPS, a few of those in MORE. The others are ours: what those leave out (casts to and
from integers, operators of older sets), recurrent layers with every direction, layout, activation and option, whose
outputs come from `lstm`, `gru` and `rnn` below, plain readings of the operators' specifications, and graphs with
branches, loops, functions, sparse and quantized tensors. Everything is checked with ONNX Runtime where that has the feature.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases

from cases import compare, new_folder, run_onnxruntime, run_reference, scrub, write_data_sets

ONNX = Path(__file__).parents[1] / "onnx"
OPS = """Add Cast Concat Constant ConstantOfShape Div Dropout Expand GRU Gather Gemm Identity LSTM LogSoftmax MatMul Mul RNN
ReduceMean Relu Reshape Shape Sigmoid Slice Softmax Split Squeeze Sub Tanh Transpose Unsqueeze""".split()
MORE = """Abs And ArgMax ArgMin BatchNormalization CastLike Ceil Celu Clip Conv Cos CumSum DequantizeLinear DynamicQuantizeLinear Einsum Equal Erf
Exp EyeLike Floor GatherElements GatherND Gelu Greater GreaterOrEqual GroupNormalization HardSwish Hardmax InstanceNormalization IsInf IsNaN LayerNormalization Less
LessOrEqual Log Loop MatMulInteger Max Mean Min Mish Mod Neg NegativeLogLikelihoodLoss NonZero OneHot Or PRelu Pad Pow
QuantizeLinear RMSNormalization Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMin ReduceProd ReduceSum
ReduceSumSquare ReverseSequence Round ScatterElements ScatterND Selu Sign Sin Size SoftmaxCrossEntropyLoss Sqrt Sum Swish Tile
TopK Trilu Where Xor""".split()
MORE_CASES = 4
TYPES = {getattr(TensorProto, t) for t in ["FLOAT", "FLOAT16", "DOUBLE", "INT32", "INT64", "BOOL", "INT8", "UINT8"]}
# Training, values that are not tensors, operators written with others, larger than needed.
SKIPPED = ["training_dropout", "training_mode", "dropout_random", "identity_sequence", "identity_opt", "expanded", "d3d4d5"]
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
    written = Counter()
    for case in cases:
        if case.model is None or case.model.functions or any(word in case.name for word in SKIPPED):
            continue
        graph = case.model.graph
        op = graph.node[0].op_type
        if len(graph.node) != 1 or op not in OPS and (op not in MORE or written[op] == MORE_CASES):
            continue
        if any(v.type.tensor_type.elem_type not in TYPES for v in [*graph.input, *graph.output]):
            continue
        if case.model.opset_import[0].version < 7:
            continue
        written[op] += 1
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
    y = np.pad(x, [(1, 0), (0, 0), (0, 2)], constant_values=3)
    single("pad_opset_10", "Pad", {"x": x}, {"y": y}, opset=10, pads=[1, 0, 0, 0, 0, 2], value=3.0)
    single("clip_opset_10", "Clip", {"x": x}, {"y": x.clip(-0.5, 0.5)}, opset=10, min=-0.5, max=0.5)
    single("reducesum_opset_11", "ReduceSum", {"x": x}, {"y": x.sum(axis=1, keepdims=True)}, opset=11, axes=[1])
    top = -np.sort(-x, axis=1)[:, :2]
    single("topk_opset_9", "TopK", {"x": x}, {"y": top, "i": np.argsort(-x, axis=1)[:, :2]}, opset=9, axis=1, k=2)
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


def recurrent(step, gates, X, W, R, B=None, sequence_lens=None, initial_h=None, direction="forward", layout=0):
    """GRU or RNN in f64, one stream and one step at a time. `step`: of the direction, the gates' products with x and
    with h (a function), and h."""
    if layout:
        X, initial_h = X.swapaxes(0, 1), None if initial_h is None else initial_h.swapaxes(0, 1)
    steps, streams, _ = X.shape
    directions, _, hidden = R.shape
    Y, Y_h = np.zeros((steps, directions, streams, hidden)), np.zeros((directions, streams, hidden))
    for d in range(directions):
        bias = np.zeros(2 * gates * hidden) if B is None else B[d].astype(np.float64)
        rows = lambda k: slice(k * hidden, (k + 1) * hidden)
        for b in range(streams):
            length = steps if sequence_lens is None else sequence_lens[b]
            H = np.zeros(hidden) if initial_h is None else initial_h[d, b].astype(np.float64)
            backward = direction == "reverse" or d == 1
            for t in reversed(range(length)) if backward else range(length):
                x = [W[d, rows(k)].astype(np.float64) @ X[t, b] + bias[rows(k)] for k in range(gates)]
                h = lambda k, state: R[d, rows(k)].astype(np.float64) @ state + bias[rows(gates + k)]
                H = step(d, x, h, H)
                Y[t, d, b] = H
            Y_h[d, b] = H
    if layout:
        Y, Y_h = Y.transpose(2, 0, 1, 3), Y_h.swapaxes(0, 1)
    return {"Y": Y.astype(np.float32), "Y_h": Y_h.astype(np.float32)}


def functions_of(kind, activations, activation_alpha, activation_beta):
    usual = ["Sigmoid", "Tanh"] if kind == "GRU" else ["Tanh"]
    return activation_functions(activations or usual * 2, activation_alpha, activation_beta)


def gru(activations=None, activation_alpha=(), activation_beta=(), clip=None, linear_before_reset=0, hidden_size=None, **rest):
    functions = functions_of("GRU", activations, activation_alpha, activation_beta)
    clipped = lambda v: v if clip is None else np.clip(v, -clip, clip)

    def step(d, x, h, H):
        f, g = functions[2 * d : 2 * d + 2]
        z, r = (f(clipped(x[k] + h(k, H))) for k in range(2))
        n = g(clipped(x[2] + (r * h(2, H) if linear_before_reset else h(2, r * H))))
        return (1 - z) * n + z * H

    return recurrent(step, 3, **rest)


def rnn(activations=None, activation_alpha=(), activation_beta=(), clip=None, hidden_size=None, **rest):
    functions = functions_of("RNN", activations, activation_alpha, activation_beta)
    clipped = lambda v: v if clip is None else np.clip(v, -clip, clip)
    return recurrent(lambda d, x, h, H: functions[d](clipped(x[0] + h(0, H))), 1, **rest)


def recurrent_case(rng, kind, name, steps=4, streams=3, inputs=3, hidden=5, scale=0.8, bias=True, lens=None, state=False, **attributes):
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    gates = 3 if kind == "GRU" else 1
    draw = lambda *shape: ((rng.random(shape) * 2 - 1) * scale).astype(np.float32)
    values = {"X": draw(steps, streams, inputs), "W": draw(directions, gates * hidden, inputs), "R": draw(directions, gates * hidden, hidden)}
    if bias:
        values["B"] = draw(directions, 2 * gates * hidden)
    if lens:
        values["sequence_lens"] = np.array(lens, np.int32)
    if state:
        values["initial_h"] = draw(directions, streams, hidden)
    if attributes.get("layout"):
        values |= {k: values[k].swapaxes(0, 1) for k in ["X", "initial_h"] if k in values}
    expected = (gru if kind == "GRU" else rnn)(**values, **attributes)
    slots = [k if k in values else "" for k in INPUTS[:6]]
    while not slots[-1]:
        slots.pop()
    single(f"{kind.lower()}_{name}", kind, values, expected, input_names=slots, hidden_size=hidden, **attributes)


def recurrent_cases(rng):
    for kind, resets in [("GRU", [0, 1]), ("RNN", [None])]:
        for reset in resets:
            own = {} if reset is None else {"linear_before_reset": reset}
            end = "" if reset is None else f"_reset_{reset}"
            case = lambda name, **options: recurrent_case(rng, kind, name + end, **own, **options)
            for direction in ["forward", "reverse", "bidirectional"]:
                for layout in [0, 1]:
                    case(f"{direction}_layout_{layout}_state_lens", direction=direction, layout=layout, state=True, lens=[4, 1, 3])
            case("no_bias", bias=False)
            case("clip", clip=0.3, scale=1.5, state=True)
            functions = ["HardSigmoid", "LeakyRelu", "Sigmoid", "ScaledTanh"] if kind == "GRU" else ["LeakyRelu", "ScaledTanh"]
            alphas = [0.3, 0.1, 1.7] if kind == "GRU" else [0.1, 1.7]
            betas = [0.4, 0.66] if kind == "GRU" else [0.66]
            case("activations_bidirectional", direction="bidirectional", activations=functions, activation_alpha=alphas,
                 activation_beta=betas, state=True)


def graph(name, nodes, inputs, constants, outputs, opset=21, functions=(), sparse=(), dtype=TensorProto.FLOAT):
    """Write a case of several nodes with the outputs of ONNX Runtime, or of the reference evaluator where it cannot."""
    info = lambda k, v: helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), [None] * v.ndim)
    tensors = [numpy_helper.from_array(v, k) if isinstance(v, np.ndarray) else v for k, v in constants.items()]
    results = [helper.make_tensor_value_info(o, dtype, None) for o in outputs]
    made = helper.make_graph(nodes, name, [info(*x) for x in inputs.items()], results, tensors, sparse_initializer=list(sparse))
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("pkg", 1)]
    model = helper.make_model(made, opset_imports=opsets, functions=list(functions), ir_version=10, producer_name="lstmc testdata")
    folder = new_folder(ONNX / name)
    (folder / "model.onnx").write_bytes(scrub(model).SerializeToString(deterministic=True))
    try:
        found, by = run_onnxruntime(folder / "model.onnx", inputs), "onnxruntime"
    except Exception:
        found, by = run_reference(folder / "model.onnx", inputs), "reference"
    write_data_sets(folder, [(inputs, dict(zip(outputs, found)))])
    print(f"{name}: recorded by {by}")


def quantized_graphs(rng):
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    node = lambda op, inputs, **a: helper.make_node(op, inputs, ["y"], domain="com.microsoft", **a)
    x = {"x": draw(3, 4)}
    graph("microsoft_gelu", [node("Gelu", ["x"])], x, {}, ["y"])
    graph("microsoft_quick_gelu", [node("QuickGelu", ["x"], alpha=1.5)], x, {}, ["y"])
    graph("microsoft_fast_gelu", [node("FastGelu", ["x", "b"])], x, {"b": draw(4)}, ["y"])
    graph("microsoft_bias_gelu", [node("BiasGelu", ["x", "b"])], x, {"b": draw(4)}, ["y"])
    graph("microsoft_fused_matmul", [node("FusedMatMul", ["x", "b"], alpha=0.5, transA=1, transB=1)], {"x": draw(2, 5, 3)},
          {"b": draw(2, 4, 5)}, ["y"])
    graph("microsoft_fused_gemm", [node("FusedGemm", ["x", "b", "c"], transB=1, activation="LeakyRelu", activation_alpha=0.1)], x,
          {"b": draw(5, 4), "c": draw(5)}, ["y"])
    rows, columns, block, blocks = 6, 20, 16, 2
    for bits in [4, 8]:
        codes = rng.integers(0, 255, (rows, blocks, block * bits // 8)).astype(np.uint8)
        zeros = rng.integers(0, 255, rows * -(-blocks * bits // 8)).astype(np.uint8)
        for inputs, name in [(["x", "q", "s"], "symmetric"), (["x", "q", "s", "z"], "zero_points")]:
            constants = {"q": codes, "s": draw(rows * blocks) * np.float32(0.01), "z": zeros}
            graph(f"microsoft_matmul_{bits}_bits_{name}", [node("MatMulNBits", inputs, K=columns, N=rows, bits=bits, block_size=block)],
                  {"x": draw(3, columns)}, {k: v for k, v in constants.items() if k in inputs}, ["y"])
    codes = helper.make_tensor("q", TensorProto.INT4, [8, 4], rng.integers(-8, 8, 32))
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph("dequantize_int4_blocks", [helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=0, block_size=4), product],
          {"x": draw(3, 8)}, {"q": codes, "s": draw(2, 4)}, ["y"])
    codes = helper.make_tensor("q", TensorProto.UINT16, [4], [1, 65535, 3, 4])
    graph("dequantize_uint16", [helper.make_node("DequantizeLinear", ["q", "s"], ["w"]), helper.make_node("Add", ["x", "w"], ["y"])],
          {"x": draw(4)}, {"q": codes, "s": np.array(0.5, np.float32)}, ["y"])
    values = numpy_helper.from_array(draw(3), "w")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([1, 5, 9])), [4, 3])
    graph("sparse_initialiser", [product], {"x": draw(2, 4)}, {}, ["y"], sparse=[sparse])


def control_flow(rng):
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    node, untyped = helper.make_node, helper.make_empty_tensor_value_info
    axes = numpy_helper.from_array(np.array([1]), "axes")
    then = helper.make_graph([node("Squeeze", ["x", "axes"], ["t"])], "then", [], [untyped("t")], [axes])
    otherwise = helper.make_graph([node("Identity", ["x"], ["e"])], "else", [], [untyped("e")])
    # TorchScript's squeeze(1): the branch that is not taken does not fit.
    nodes = [node("Shape", ["x"], ["shape"]), node("Gather", ["shape", "one"], ["size"]), node("Equal", ["size", "one"], ["c"]),
             node("If", ["c"], ["y"], then_branch=then, else_branch=otherwise)]
    for size in [1, 2]:
        graph(f"if_squeeze_of_{size}", nodes, {"x": draw(3, size, 4)}, {"one": np.array(1)}, ["y"])

    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("pkg", 1)]
    inner = helper.make_function("pkg", "Inner", ["a"], ["b"], [node("LeakyRelu", ["a"], ["b"])], opsets, ["slope"])
    reference = onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    inner.node[0].attribute.append(reference)
    body = [node("Inner", ["a"], ["b"], domain="pkg", slope=0.3), node("MatMul", ["b", "w"], ["c"])]
    outer = helper.make_function("pkg", "Outer", ["a", "w"], ["c"], body, opsets)
    calls = [node("Outer", ["x", "w"], ["b"], domain="pkg"), node("Outer", ["b", "w"], ["y"], domain="pkg")]
    graph("functions_in_functions", calls, {"x": draw(3, 4)}, {"w": draw(4, 4)}, ["y"], functions=[inner, outer])

    value = lambda name, dtype=TensorProto.FLOAT, shape=None: helper.make_tensor_value_info(name, dtype, shape)
    step = [node("MatMul", ["h", "R"], ["hr"]), node("Add", ["hr", "xt"], ["sum"]), node("Tanh", ["sum"], ["next"]),
            node("Identity", ["next"], ["out"])]
    pick, go = node("Gather", ["x", "i"], ["xt"], axis=0), node("Identity", ["go_on"], ["go"])
    loop = helper.make_graph([pick, *step, go], "loop", [value("i", TensorProto.INT64, []), value("go_on", TensorProto.BOOL, []), value("h")],
                             [value("go", TensorProto.BOOL, []), value("next"), value("out")])
    count = [node("Shape", ["x"], ["shape"]), node("Gather", ["shape", "zero"], ["n"])]
    graph("loop_rnn", [*count, node("Loop", ["n", "", "h0"], ["hn", "y"], body=loop)], {"x": draw(5, 2, 4), "h0": draw(2, 4)},
          {"R": draw(4, 4), "zero": np.array(0)}, ["hn", "y"])
    shape = [None, 4]
    scan = helper.make_graph(step, "scan", [value("h", shape=shape), value("xt", shape=shape)], [value("next", shape=shape), value("out", shape=shape)])
    for end, backward in [("", 0), ("_backward", 1)]:
        scanned = node("Scan", ["h0", "x"], ["hn", "y"], body=scan, num_scan_inputs=1, scan_input_directions=[backward],
                       scan_output_directions=[backward], scan_input_axes=[1], scan_output_axes=[1])
        graph(f"scan_rnn{end}", [scanned], {"x": draw(2, 5, 4), "h0": draw(2, 4)}, {"R": draw(4, 4)}, ["hn", "y"])


def main():
    new_folder(ONNX)
    from_onnx()
    older_and_casts(np.random.default_rng(1))
    lstm_cases(np.random.default_rng(2))
    recurrent_cases(np.random.default_rng(3))
    quantized_graphs(np.random.default_rng(4))
    control_flow(np.random.default_rng(5))


if __name__ == "__main__":
    main()
