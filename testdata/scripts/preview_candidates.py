#!/usr/bin/env python3
"""How many words a cheap preview of the output layer leaves for an exact second look: preview_candidates.py MODEL.onnx VOCAB TEXT [TOKENS]

For each position of the text, the k best words are certainly among those whose preview plus its error bound reaches the k-th largest of
preview minus bound. Bounds are those of Cauchy and Schwarz: of the rounding error of a row with the hidden state, or, for the first singular
vectors, of the rest of the row with the rest of the hidden state. Needs `pip install onnx onnxruntime`; the model is one of PyTorch's
TorchScript-based exporter, whose output layer is one MatMul and one Add.
"""
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

K = 5


def main(model_path, vocabulary_path, text_path, count=8000):
    model = onnx.load(model_path)
    last = [node for node in model.graph.node if node.op_type == "MatMul"][-1]
    weights = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    rows = weights[last.input[1]].T.astype(np.float64)
    bias = next(w for w in weights.values() if w.shape == rows.shape[:1])
    words = {word: i for i, word in enumerate(open(vocabulary_path).read().split("\n"))}
    lines = open(text_path).read().splitlines()
    tokens = [words.get(w, words["<unk>"]) for line in lines for w in [*line.split(), "<eos>"]][: int(count)]
    model.graph.output.append(onnx.helper.make_tensor_value_info(last.input[0], onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    zero = np.zeros((2, 1, rows.shape[1]), np.float32)
    inputs = {"tokens": np.array(tokens).reshape(-1, 1), "h0": zero, "c0": zero}
    hidden = session.run([last.input[0]], inputs)[0].reshape(len(tokens), -1).astype(np.float64)
    length = np.linalg.norm(hidden, axis=1)

    def show(name, preview, bound):
        least = np.sort(preview - bound, axis=1)[:, -K]
        left = (preview + bound >= least[:, None]).sum(axis=1)
        print(f"{name:24} median {np.median(left):6.0f}   99% {np.percentile(left, 99):6.0f}   most {left.max():6}")

    print(f"of {len(rows)} words, left to look at for the {K} best, over {len(tokens)} positions:")
    for bits, group in [(8, rows.shape[1]), (4, rows.shape[1]), (4, 40)]:
        parts = rows.reshape(len(rows), -1, group)
        scale = abs(parts).max(axis=2, keepdims=True) / (2 ** (bits - 1) - 1)
        rounded = (np.round(parts / scale) * scale).reshape(rows.shape)
        error = np.linalg.norm(rows - rounded, axis=1)
        show(f"int{bits}, groups of {group}", hidden @ rounded.T + bias, np.outer(length, error))
    left, singular, right = np.linalg.svd(rows, full_matrices=False)
    for rank in [32, 64, 96]:
        small = hidden @ right[:rank].T
        rest = np.sqrt(np.maximum(length**2 - (small**2).sum(axis=1), 0))
        error = np.linalg.norm(left[:, rank:] * singular[rank:], axis=1)
        show(f"rank {rank}", small @ (left[:, :rank] * singular[:rank]).T + bias, np.outer(rest, error))


if len(sys.argv) < 4:
    sys.exit(__doc__)
main(*sys.argv[1:])
