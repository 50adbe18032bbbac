#!/usr/bin/env python3
"""Time of an epoch of training, PyTorch beside lstmc: epoch_time.py LSTMC MODEL.onnx VOCAB TRAIN [ROUNDS]

Both train all weights of the uncompressed model on the first windows of the text: 20 streams, 20 steps, SGD, gradients clipped, no dropout,
all cores. They take turns, and the best round counts. What it takes to start is taken off: lstmc is timed over two lengths. Needs `pip install
torch`; the model is read only for its shape: two layers, as wide as its states.
"""
import pathlib
import subprocess
import sys
import tempfile
import time

import torch
from torch import nn

BATCH = BPTT = 20
SHORT, LONG = 50, 250  # windows


class Model(nn.Module):
    def __init__(self, words, width):
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.lstm = nn.LSTM(width, width, 2)
        self.decoder = nn.Linear(width, words)

    def forward(self, tokens, state):
        hidden, state = self.lstm(self.embedding(tokens), state)
        return self.decoder(hidden), state


def windows_of_torch(model, streams, count):
    started, state = time.perf_counter(), None
    for k in range(count):
        x = streams[k * BPTT : (k + 1) * BPTT]
        y = streams[k * BPTT + 1 : (k + 1) * BPTT + 1]
        logits, state = model(x, state)
        state = tuple(s.detach() for s in state)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten()) * BPTT
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(p.grad, alpha=-0.1)
    return time.perf_counter() - started


def windows_of_lstmc(lstmc, model, vocabulary, train, windows, epoch, folder):
    passes = f"recover(epochs={(windows + 0.1) / epoch:.8f}, lr=0.1)"
    command = [lstmc, "compile", model, "--vocab", vocabulary, "--train", train, "--passes", passes]
    started = time.perf_counter()
    subprocess.run([*command, "-o", f"{folder}/model.lstmc"], check=True, capture_output=True)
    return time.perf_counter() - started


def main(lstmc, model, vocabulary, train, rounds=3):
    words = {word: i for i, word in enumerate(pathlib.Path(vocabulary).read_text().split("\n"))}
    lines = pathlib.Path(train).read_text().splitlines()
    tokens = torch.tensor([words.get(w, words["<unk>"]) for line in lines for w in [*line.split(), "<eos>"]])
    length = len(tokens) // BATCH
    streams = tokens[: length * BATCH].view(BATCH, length).t().contiguous()
    epoch = -(-(length - 1) // BPTT)
    width = int(input_width(model))
    net = Model(len(words) - 1, width)
    windows_of_torch(net, streams, SHORT)
    best = [float("inf")] * 2
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(int(rounds)):
            best[0] = min(best[0], windows_of_torch(net, streams, LONG) / LONG)
            ours = [windows_of_lstmc(lstmc, model, vocabulary, train, n, epoch, folder) for n in (SHORT, LONG)]
            best[1] = min(best[1], (ours[1] - ours[0]) / (LONG - SHORT))
    for name, seconds in zip(["PyTorch " + torch.__version__, "lstmc"], best):
        rate = BATCH * BPTT / seconds
        print(f"{name:24} {seconds * 1e3:6.1f} ms a window   {rate:7.0f} tokens/s   {seconds * epoch:6.0f} s an epoch")
    print(f"lstmc / PyTorch: {best[1] / best[0]:.2f}, {torch.get_num_threads()} threads")


def input_width(path):
    import onnx

    states = [i for i in onnx.load(path, load_external_data=False).graph.input if i.name.startswith("h0")]
    return states[0].type.tensor_type.shape.dim[-1].dim_value


if len(sys.argv) < 5:
    sys.exit(__doc__)
main(*sys.argv[1:])
