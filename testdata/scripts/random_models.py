"""Write random recurrent models, and see whether lstmc takes them and computes what ONNX Runtime does.

    python random_models.py --lstmc PATH [--count 100] [--seed 0] [--keep DIR] [--kinds torchscript,dynamo,nodes,toolkit] [--round-trip]

Needs what requirements.txt lists. A model is determined by its seed. Each one is a case in ONNX's standard layout, with the outputs that ONNX
Runtime computes without graph optimisations. `lstmc verify` runs the cases with both engines; `lstmc eval` then runs those that take and give
their states over a text, which checks that each state goes where it should. A model is

    accepted    lstmc compiles it and finds the recorded outputs,
    refused     lstmc says that it cannot compile it, or the interpreter cannot run it,
    different   lstmc computes something else, or stops without a message,
    invalid     the exporter or ONNX Runtime fails, so there is nothing to compare.

Refused and different cases are kept in DIR/seed-N, with `about.txt`.
"""

import argparse
import collections
import json
import logging
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from cases import scrub, write_data_sets

BATCH = 20
TEXT = 13  # tokens of a text for `lstmc eval`
PERPLEXITY = 2e-4  # relative: f32 rounding over TEXT steps, and more where a network amplifies it
QUANTIZED_PERPLEXITY = 0.1
VECTOR = 1e-4  # absolute, or of the largest element
STEPS = ((5, 1), (3, 2))  # steps and streams of the data sets, where both vary
KINDS = {"torchscript": 8, "dynamo": 0.6, "nodes": 8, "toolkit": 3}


class Draw:
    """Random choices."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def of(self, weights, name=None):
        """One of the keys, as often as their weights say."""
        keys = list(weights)
        p = np.array([weights[k] for k in keys], float)
        return keys[self.rng.choice(len(keys), p=p / p.sum())]

    def yes(self, probability):
        return self.rng.random() < probability

    def between(self, low, high):
        return int(self.rng.integers(low, high + 1))

    def floats(self, *shape, scale=0.7):
        return (self.rng.standard_normal(shape) * scale).astype(np.float32)


class Case:
    """A model and how to use it.

    `sizes`: pairs of steps and streams for the data sets. `tokens(ids [S, B])` is the token input, `states(B)` names and shapes of state
    inputs, `links` the pairs of state input and output, `rows(output, S, B)` the scores or vectors as [S, B, width] or [1, B, width] (None:
    not checked over a text), `words` whether they are scores of words, and `scale` what the scores are: "logits", "probabilities" or "costs". `more(S, B)` gives further inputs.
    """

    def __init__(self, kind, tags, model, vocabulary, sizes, tokens, states, links, rows, scale="logits", token_name="tokens", output="scores", more=None, words=True):
        self.kind, self.tags, self.model, self.vocabulary, self.sizes = kind, tags, model, vocabulary, sizes
        self.tokens, self.states, self.links, self.rows, self.scale = tokens, states, links, rows, scale
        self.token_name, self.output, self.more = token_name, output, more or (lambda s, b: {})
        self.words, self.perplexity = words, None


def torch_case(draw, exporter):
    import random_torch

    model = random_torch.LanguageModel(draw)
    named = draw.yes(0.7)
    opset = draw.between(18, 23) if exporter == "dynamo" else draw.between(11, 20)
    own_names = draw.yes(0.12)
    if own_names and exporter == "torchscript":
        model.dynamic = dict.fromkeys(model.dynamic, False)  # dims are given by name
    proto, (tokens, states, output, ends) = random_torch.export(model, exporter, opset, named, own_names)
    links = list(zip(states, ends)) if len(states) == len(ends) else []
    shapes = lambda b: dict(zip(states, model.state_shapes(b).values()))
    sizes = [tuple(size if model.dynamic[axis] else fixed for axis, size, fixed in zip(("seq", "batch"), s, model.fixed)) for s in STEPS]
    scale = {"softmax": "probabilities", "cost": "costs"}.get(model.tail, "logits")
    tags = model.tags + [f"fixed-{a}" for a in ("seq", "batch") if not model.dynamic[a]] + [f"opset-{opset}"] + ["own-names"] * own_names
    return Case(exporter, tags, proto, model.vocabulary, list(dict.fromkeys(sizes)), model.tokens, shapes, links, model.rows,
                "probabilities" if model.head == "mixture" else scale, tokens, output, words=model.head != "hidden")


def build(seed, kinds):
    draw = Draw(seed)
    kind = draw.of({k: KINDS[k] for k in KINDS})
    if kind not in kinds:
        return None
    if kind in ("torchscript", "dynamo"):
        case = torch_case(draw, kind)
    else:
        import random_nodes

        case = (random_nodes.nodes if kind == "nodes" else random_nodes.toolkit)(draw)
    rewritten(case, draw)
    return case


def rewritten(case, draw):
    """The model as a tool leaves it that is run after the exporter; None if the tool fails."""
    way = draw.of({"": 8, "ort-basic": 1, "ort-extended": 1, "inferred": 0.5, "constants": 0.5, "converted": 0.5, "quantized": 0.6, "weights-as-inputs": 0.3, "double": 0.4})
    if not way:
        return
    case.tags.append(way)
    model = case.model
    if way in ("ort-basic", "ort-extended", "quantized"):
        levels = onnxruntime.GraphOptimizationLevel
        with tempfile.TemporaryDirectory() as scratch:
            given, found = f"{scratch}/given.onnx", f"{scratch}/found.onnx"
            Path(given).write_bytes(model.SerializeToString())
            if way == "quantized":
                from onnxruntime.quantization import quantize_dynamic

                logging.disable(logging.CRITICAL)
                quantize_dynamic(given, found)
            else:
                session(given, levels.ORT_ENABLE_BASIC if way == "ort-basic" else levels.ORT_ENABLE_EXTENDED, found)
            case.model = onnx.load(found)
    elif way == "inferred":
        case.model = onnx.shape_inference.infer_shapes(model)
    elif way == "converted":
        now = next(o.version for o in model.opset_import if not o.domain)
        case.model = onnx.version_converter.convert_version(model, min(24, now + draw.between(1, 4)))
    elif way == "constants":
        nodes = [helper.make_node("Constant", [], [w.name], value=w) for w in model.graph.initializer]
        nodes += model.graph.node
        del model.graph.initializer[:], model.graph.node[:]
        model.graph.node.extend(nodes)
    elif way == "double":
        if {n.op_type for n in model.graph.node} & {"LSTM", "GRU", "RNN", "DequantizeLinear", "Erf", "LeakyRelu"}:
            case.tags.pop()  # ONNX Runtime or ONNX has no f64 of these
            return
        as_double(model.graph)
    elif way == "weights-as-inputs":
        model.graph.input.extend(helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in model.graph.initializer)


def as_double(graph):
    """Makes all f32 of a graph f64."""

    def tensor(t):
        if t.data_type == TensorProto.FLOAT:
            t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t).astype(np.float64), t.name))

    for value in [*graph.input, *graph.output, *graph.value_info]:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for t in graph.initializer:
        tensor(t)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                tensor(attribute.t)
            elif attribute.type == onnx.AttributeProto.GRAPH:
                as_double(attribute.g)
            elif attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE


def session(model, level=onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL, optimized=None):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = level
    if optimized:
        options.optimized_model_filepath = optimized
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def log_probabilities(case, rows):
    rows = rows.astype(np.float64)
    if case.scale == "probabilities":
        rows = np.log(rows)
    elif case.scale == "costs":
        rows = -rows
    top = rows.max(-1, keepdims=True)
    return rows - top - np.log(np.exp(rows - top).sum(-1, keepdims=True))


def like_inputs(case, feeds):
    """In the order of the graph's inputs, and of their types."""
    types = {i.name: helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type) for i in case.model.graph.input if i.name in feeds}
    return {name: np.asarray(feeds[name]).astype(dtype) for name, dtype in types.items()}


def trajectory(case, run, ids):
    """The model's vectors over a text from zero states, fed in pieces with the states carried; None where the model's form does not allow that."""
    if case.rows is None:
        return None
    names = [o.name for o in case.model.graph.output]
    seq, batch = case.sizes[0]
    if case.links:
        pieces = [ids[k : k + seq] for k in range(0, len(ids) - len(ids) % seq, seq)]
    elif not case.states(1) and len(case.sizes) > 1 and case.sizes[0][0] != case.sizes[1][0]:
        pieces = [ids]
    else:
        return None
    if set(dict(case.links)) != set(case.states(batch)):
        return None
    states = {name: np.zeros(shape, np.float32) for name, shape in case.states(batch).items()}
    rows = []
    for piece in pieces:
        tokens = np.repeat(piece[:, None], batch, 1)
        found = dict(zip(names, run.run(None, like_inputs(case, {case.token_name: case.tokens(tokens), **states, **case.more(*tokens.shape)}))))
        vectors = case.rows(found[case.output], *tokens.shape)
        if len(vectors) != len(piece):
            return None
        rows.append(vectors[:, 0])
        states = {i: found[o] for i, o in case.links}
    return np.concatenate(rows)


def perplexity(case, vectors, ids):
    rows = log_probabilities(case, vectors)
    total = [rows[t, ids[t + 1]] for t in range(len(rows) - 1)]
    return float(np.exp(min(-np.mean(total), 700.0)))


def run_exported(path, ids):
    """The vectors that an exported model computes over a text from zero states, token by token."""
    run = session(str(path))
    tokens, *states = run.get_inputs()
    values = {s.name: np.zeros([d if isinstance(d, int) else 1 for d in s.shape], np.float32) for s in states}
    vectors = []
    for token in ids:
        vector, *ends = run.run(None, {tokens.name: np.full([1] * len(tokens.shape), token), **values})
        vectors.append(vector.reshape(-1))
        values = dict(zip(values, ends))
    return np.array(vectors)


def write(case, folder, seed):
    """Write the case and record what ONNX Runtime computes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = scrub(case.model).SerializeToString()
    (folder / "model.onnx").write_bytes(model)
    run = session(model)
    rng = np.random.default_rng(seed + 1)
    sets = []
    for seq, batch in case.sizes:
        feeds = {case.token_name: case.tokens(rng.integers(0, case.vocabulary, (seq, batch))), **case.more(seq, batch)}
        for name, shape in case.states(batch).items():
            feeds[name] = (rng.standard_normal(shape) * 0.5).astype(np.float32)
        feeds = like_inputs(case, feeds)
        found = dict(zip([o.name for o in case.model.graph.output], run.run(None, feeds)))
        if not all(np.isfinite(v).all() for v in found.values()):
            raise ValueError("the outputs are not finite")
        sets.append((feeds, found))
    write_data_sets(folder, sets)
    case.ids = rng.integers(0, case.vocabulary, TEXT)
    case.vectors = trajectory(case, run, case.ids)
    if case.vectors is not None and case.words:
        case.ids = case.ids[: len(case.vectors)]
        case.perplexity = perplexity(case, case.vectors, case.ids)
        (folder / "vocab.txt").write_text("".join(f"w{k}\n" for k in range(case.vocabulary)))
        (folder / "text.txt").write_text(" ".join(f"w{k}" for k in case.ids))


def call(lstmc, *arguments):
    """Exit status (None: no end in time), standard output and standard error."""
    try:
        p = subprocess.run([lstmc, *map(str, arguments)], capture_output=True, text=True, timeout=120)
        return p.returncode, p.stdout, p.stderr
    except subprocess.TimeoutExpired:
        return None, "", "no end in 120 s"


def stopped(status):
    """Whether lstmc ended without a proper exit: a panic is 101, a signal negative."""
    return status is None or status < 0 or status == 101


def verify(lstmc, folders, engine):
    """By folder what `lstmc verify` says, "" where it passes."""
    status, out, error = call(lstmc, "verify", "--engine", engine, *folders)
    if stopped(status):
        if len(folders) == 1:
            return {folders[0]: f"stopped with {status}: {error.strip()[-600:]}"}
        return {f: said for folder in folders for f, said in verify(lstmc, [folder], engine).items()}
    found = dict.fromkeys(folders, "no word about this case")
    for line in out.splitlines():
        if match := re.match(r"(ok|FAIL)\s+(\S+?)(?: \(|: )(.*)", line):
            found[Path(match[2])] = "" if match[1] == "ok" else match[3]
    return found


def judge(lstmc, case, folder, said, round_trip):
    """What became of a case: the result and the message."""
    for engine, message in said.items():
        if re.search(r"^stopped|elements differ|^(test_data_set_\d+: )?output \w+: expected", message):
            return "different", f"{engine}: {message}"
    if said["jit"]:
        return "refused", said["jit"]
    if said["interpreter"]:
        return "refused", f"interpreter: {said['interpreter']}"
    if case.vectors is not None and not case.words and round_trip and "learned" not in case.tags:
        path = folder / "x.onnx"
        status, _, error = call(lstmc, "export", folder / "model.onnx", "-o", path)
        if status != 0:
            return "different" if stopped(status) else "refused", f"export: {error.strip()[-600:]}"
        try:
            found = run_exported(path, case.ids[: len(case.vectors)])
        except Exception as e:  # whatever ONNX Runtime raises
            return "different", f"export: {e}"
        error = np.abs(found - case.vectors).max() if found.shape == case.vectors.shape else np.inf
        if not error <= VECTOR * max(1, np.abs(case.vectors).max()) and "quantized" not in case.tags:
            return "different", f"export: vectors differ by {error}"
    if case.perplexity is None:
        return "accepted", ""
    models = {"": (folder / "model.onnx", ["jit", "interpreter"])}
    if round_trip:
        for what, arguments in {"compile": ["compile"], "export": ["export"]}.items():
            path = folder / ("x.lstmc" if what == "compile" else "x.onnx")
            status, _, error = call(lstmc, *arguments, folder / "model.onnx", "-o", path)
            if status != 0:
                return "different" if stopped(status) else "refused", f"{what}: {error.strip()[-600:]}"
            if what == "export":
                try:
                    session(str(path))
                except Exception as e:  # whatever ONNX Runtime raises
                    return "different", f"export: {e}"
            models[f"{what}: "] = path, ["jit"]
    for what, (path, engines) in models.items():
        for engine in engines:
            status, out, error = call(lstmc, "eval", path, "--vocab", folder / "vocab.txt", "--text", folder / "text.txt", "--json", "--threads", 1, "--engine", engine)
            if status != 0:
                return "different" if stopped(status) else "refused", f"{what}eval: {engine}: {error.strip()[-600:]}"
            found = json.loads(out)["perplexity"] or np.inf  # JSON has no infinity
            # Quantization of vectors is a rounding that the compiled model does not make.
            tolerance = QUANTIZED_PERPLEXITY if "quantized" in case.tags else PERPLEXITY
            if what == "export: " and "learned" in case.tags:
                continue  # an exported model's states are inputs
            if not (found > 1e100 and case.perplexity > 1e100) and not abs(found - case.perplexity) <= tolerance * case.perplexity:
                return "different", f"{what}eval: {engine}: perplexity {found}, expected {case.perplexity}"
    return "accepted", ""


def general(message):
    """A message without what is particular to one model."""
    message = message.split("\n")[0]
    message = re.sub(r"test_data_set_\d+: ", "", message)
    message = re.sub(r'"[^"]*"|`[^`]*`', '"_"', message)
    return re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "N", message)[:260]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lstmc", required=True)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", help="these seeds only, separated by commas; or a file with one a line")
    parser.add_argument("--keep", type=Path, help="where refused and different cases are kept")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--all", action="store_true", help="keep accepted cases as well")
    parser.add_argument("--round-trip", action="store_true", help="also compile to a .lstmc file and export to ONNX, and evaluate these")
    arguments = parser.parse_args()
    seeds = range(arguments.seed, arguments.seed + arguments.count)
    if arguments.seeds:
        path = Path(arguments.seeds)
        seeds = [int(s) for s in (path.read_text().split() if path.exists() else arguments.seeds.split(","))]
    counts, messages, examples = collections.defaultdict(collections.Counter), collections.Counter(), collections.defaultdict(list)

    def count(kind, seed, result, message, tags=()):
        counts[kind][result] += 1
        if message:
            key = f"{result}: {general(message)}"
            messages[key] += 1
            examples[key].append(seed)
            print(f"{seed} {kind} {result}: {message.splitlines()[0][:400]} [{' '.join(tags)}]", flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        batch = {}

        def finish():
            folders = list(batch)
            said = {e: verify(arguments.lstmc, folders, e) for e in ["jit", "interpreter"]}
            for folder, (seed, case) in batch.items():
                result, message = judge(arguments.lstmc, case, folder, {e: said[e][folder] for e in said}, arguments.round_trip)
                count(case.kind, seed, result, message, case.tags)
                if arguments.keep and (arguments.all or result != "accepted"):
                    (folder / "about.txt").write_text(f"{case.kind}: {' '.join(case.tags)}\n{result}: {message}\n")
                    shutil.copytree(folder, arguments.keep / folder.name, dirs_exist_ok=True)
                shutil.rmtree(folder)
            batch.clear()

        for seed in seeds:
            folder = Path(scratch) / f"seed-{seed}"
            case = None
            try:
                case = build(seed, arguments.kinds.split(","))
                if case is None:
                    continue
                write(case, folder, seed)
            except Exception as e:  # an exporter may fail in any way
                count(case.kind if case else "export", seed, "invalid", f"{type(e).__name__}: {e}".split("\n")[0][:200], case.tags if case else ())
                shutil.rmtree(folder, ignore_errors=True)
                continue
            batch[folder] = (seed, case)
            if len(batch) == BATCH:
                finish()
        if batch:
            finish()
    print()
    results = ["accepted", "refused", "different", "invalid"]
    total = collections.Counter()
    for kind, c in sorted(counts.items()):
        total += c
        print(f"{kind:12}" + "".join(f" {r} {c[r]:5}" for r in results))
    print(f"{'all':12}" + "".join(f" {r} {total[r]:5}" for r in results))
    for message, n in messages.most_common():
        print(f"{n:5} {message} (seeds {', '.join(map(str, examples[message][:4]))})")


if __name__ == "__main__":
    main()
