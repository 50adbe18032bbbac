#!/usr/bin/env python3
"""Trains two small language models to try tokenizers with: one of characters, one of SentencePiece's BPE pieces.

    pip install torch onnx onnxscript sentencepiece
    text_models.py --train ptb.train.txt --pieces testdata/subwords/bpe.model --out target/texts

Writes characters/model.onnx with its vocab.txt, and pieces/model.onnx. Inputs `tokens` i64 [seq, batch], `h0`, `c0` f32 [1, batch, units]; outputs `logits`, `hn`, `cn`. Weights are
rounded to what f16 can hold. The text of a model of characters is lines joined by the token <eos>; that of pieces, lines that each end with </s>, as one stream.
"""

import argparse
import math
import pathlib
import time

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn


class Model(nn.Module):
    def __init__(self, vocabulary, width, units):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, units)
        self.decoder = nn.Linear(units, vocabulary)

    def forward(self, tokens, h0, c0):
        y, (hn, cn) = self.lstm(self.embedding(tokens), (h0, c0))
        return self.decoder(y), hn, cn


def train(ids, vocabulary, width, units, seconds, steps=64, batch=64):
    torch.manual_seed(1)
    model = Model(vocabulary, width, units)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    ids = torch.tensor(ids[: len(ids) // batch * batch]).view(batch, -1).t().contiguous()
    started, losses, at = time.time(), [], 0
    h = c = torch.zeros(1, batch, units)
    while time.time() - started < seconds:
        if at + steps + 1 > len(ids):
            at, h, c = 0, torch.zeros_like(h), torch.zeros_like(c)
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * max(0.02, 1 - (time.time() - started) / seconds)
        x, y = ids[at : at + steps], ids[at + 1 : at + steps + 1]
        logits, h, c = model(x, h.detach(), c.detach())
        loss = nn.functional.cross_entropy(logits.view(-1, vocabulary), y.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        at += steps
    print(f"{len(losses)} steps, the last hundred: {np.mean(losses[-100:]) / math.log(2):.3f} bits per token")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
    return model.eval()


def export(model, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    units = model.lstm.hidden_size
    # Two tensors: of one that is given twice, the exporter makes one input, and leaves the other unused.
    h0, c0 = torch.zeros(1, 2, units), torch.zeros(1, 2, units)
    seq, batch = torch.export.Dim("seq"), torch.export.Dim("batch")
    shapes = ({0: seq, 1: batch}, {1: batch}, {1: batch})
    program = torch.onnx.export(
        model,
        (torch.zeros(3, 2, dtype=torch.long), h0, c0),
        input_names=["tokens", "h0", "c0"],
        output_names=["logits", "hn", "cn"],
        dynamic_shapes=shapes,
        dynamo=True,
    )
    proto = program.model_proto
    # Traces with local paths.
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for function in proto.functions:
        for node in function.node:
            del node.metadata_props[:]
    onnx.save(proto, path)
    print(path, path.stat().st_size, "bytes")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--train", type=pathlib.Path, required=True)
    parser.add_argument("--pieces", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--seconds", type=float, default=150)
    args = parser.parse_args()
    torch.set_num_threads(2)
    lines = [line.strip() for line in args.train.read_text().splitlines()]

    characters = ["<eos>", "<unk>"] + sorted({c for line in lines for c in line})
    ids = {c: n for n, c in enumerate(characters)}
    stream = [i for line in lines for i in [*(ids[c] for c in line), 0]]
    model = train(stream, len(characters), 24, 128, args.seconds)
    export(model, args.out / "characters" / "model.onnx")
    vocabulary = "".join(("\\u{20}" if c == " " else c) + "\n" for c in characters)
    (args.out / "characters" / "vocab.txt").write_text(vocabulary)

    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=args.pieces)
    stream = [i for line in lines for i in [*pieces.encode(line), pieces.eos_id()]]
    model = train(stream, pieces.get_piece_size(), 32, 64, args.seconds)
    export(model, args.out / "pieces" / "model.onnx")


main()
