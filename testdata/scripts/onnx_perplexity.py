"""Perplexity of an ONNX language model under ONNX Runtime, defined as `lstmc eval` defines it.

usage: onnx_perplexity.py MODEL.onnx VOCAB.txt TEXT.txt [--chunk N]

The text is split on white space, every newline is the token <eos>, unknown words become <unk>; one stream, zero initial states, state
carried through the whole text; exp of the mean negative log-likelihood of every token but the first. Inputs are `tokens [S, B]` and states,
outputs `logits` and the states' next values in the same order. Needs onnxruntime and numpy.
"""

import argparse

import numpy as np
import onnxruntime as ort


def read_tokens(text, vocabulary):
    with open(vocabulary, encoding="utf-8") as f:
        index = {word: i for i, word in enumerate(f.read().split("\n")) if word}
    with open(text, encoding="utf-8") as f:
        words = f.read().replace("\n", " <eos> ").split()
    unknown = index.get("<unk>")
    tokens = [index.get(word, unknown) for word in words]
    if None in tokens:
        raise SystemExit("the text has unknown words and the vocabulary no <unk>")
    return np.array(tokens, np.int64)


def perplexity(model, tokens, chunk):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs, outputs = session.get_inputs(), [o.name for o in session.get_outputs()]
    states = {i.name: np.zeros([d if isinstance(d, int) else 1 for d in i.shape], np.float32) for i in inputs[1:]}
    total = 0.0
    for start in range(0, len(tokens) - 1, chunk):
        x = tokens[start : min(start + chunk, len(tokens) - 1)]
        target = tokens[start + 1 : start + 1 + len(x)]
        result = session.run(outputs, {inputs[0].name: x[:, None], **states})
        logits = result[0][:, 0].astype(np.float64)
        states = dict(zip(states, result[1:]))
        most = logits.max(1)
        total += (most + np.log(np.exp(logits - most[:, None]).sum(1)) - logits[np.arange(len(x)), target]).sum()
    return float(np.exp(total / (len(tokens) - 1)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("vocabulary")
    parser.add_argument("text")
    parser.add_argument("--chunk", type=int, default=200, help="tokens per run")
    args = parser.parse_args()
    print(f"{perplexity(args.model, read_tokens(args.text, args.vocabulary), args.chunk):.4f}")


if __name__ == "__main__":
    main()
