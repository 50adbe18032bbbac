"""Record what ONNX Runtime computes for a language model, for tests that compare with it.

    python recorded_outputs.py [FOLDER]        FOLDER: testdata/ptb-small unless said

Reads FOLDER/model.onnx, vocab.txt, test.txt and valid.txt. Writes into FOLDER

    recorded.json          what the other files hold, and likelihoods and perplexities
    recorded-logits.f32    logits of the first 8 tokens of test.txt, [8, 1, vocabulary]
    recorded-hn.f32        hidden state after them, [layers, 1, hidden]
    recorded-cn.f32        cell state after them, [layers, 1, hidden]

The .f32 files are raw little-endian float32 values in row-major order.

Perplexity: text split on white space, every newline is `<eos>`, unknown words are `<unk>`; of N tokens the
inputs are 1..N-1 and the targets 2..N; one stream from zero state, state carried through the whole text;
exp of the mean negative natural log-likelihood, log-softmax and the sum in f64.
"""

import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime

RECORDED_TOKENS = 8
CHUNK = 256  # time steps per run; bounds the memory that logits take


def tokenize(text, ids):
    return [ids.get(word, ids["<unk>"]) for word in text.replace("\n", " <eos> ").split()]


class Model:
    def __init__(self, path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        layers, _, hidden = self.session.get_inputs()[1].shape
        self.zero = np.zeros((layers, 1, hidden), np.float32)

    def run(self, tokens, state):
        feeds = {"tokens": np.array(tokens, np.int64)[:, None], "h0": state[0], "c0": state[1]}
        logits, h, c = self.session.run(["logits", "hn", "cn"], feeds)
        return logits, (h, c)

    def log_likelihood(self, tokens):
        total, state = 0.0, (self.zero, self.zero)
        for start in range(0, len(tokens) - 1, CHUNK):
            end = min(start + CHUNK, len(tokens) - 1)
            logits, state = self.run(tokens[start:end], state)
            z = logits[:, 0].astype(np.float64)
            z -= z.max(axis=1, keepdims=True)
            log_z = np.log(np.exp(z).sum(axis=1))
            total += float((z[np.arange(end - start), tokens[start + 1 : end + 1]] - log_z).sum())
        return total


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "ptb-small"
    words = (folder / "vocab.txt").read_text().splitlines()
    ids = {word: i for i, word in enumerate(words)}
    model = Model(folder / "model.onnx")
    texts = {name: tokenize((folder / name).read_text(), ids) for name in ["test.txt", "valid.txt"]}

    first = texts["test.txt"][:RECORDED_TOKENS]
    logits, (h, c) = model.run(first, (model.zero, model.zero))
    arrays = {"logits": logits, "hn": h, "cn": c}
    for name, value in arrays.items():
        (folder / f"recorded-{name}.f32").write_bytes(value.astype("<f4").tobytes())

    report = {}
    for name, tokens in texts.items():
        total = model.log_likelihood(tokens)
        predictions = len(tokens) - 1
        report[name] = {
            "tokens": len(tokens),
            "predictions": predictions,
            "log_likelihood": total,
            "perplexity": math.exp(-total / predictions),
        }
    recorded = {
        "model": "model.onnx",
        "runtime": f"onnxruntime {onnxruntime.__version__}",
        "tokens": first,
        "words": [words[t] for t in first],
        "files": {name: {"file": f"recorded-{name}.f32", "dtype": "f32", "shape": list(v.shape)} for name, v in arrays.items()},
        "texts": report,
    }
    text = json.dumps(recorded, indent=2)
    text = re.sub(r"\[[^\[\]{}]*\]", lambda list_: re.sub(r"\s+", " ", list_[0]).replace("[ ", "[").replace(" ]", "]"), text)
    (folder / "recorded.json").write_text(text + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
