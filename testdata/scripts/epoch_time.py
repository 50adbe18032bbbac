"""Time that PyTorch takes for an epoch of what `recover` does by default: the same windows, loss, clip and step, on random weights.

usage: epoch_time.py TEXT.txt VOCAB.txt [--hidden N] [--windows N] [--threads N]

An lstm language model of two layers, as wide as its embedding; 20 streams in windows of 20 steps, state carried from window to window. Times some windows after a few
to warm up, and prints tokens per second and what an epoch would take at that speed. Every word must be in the vocabulary. Needs torch.
"""

import argparse
import time

import torch
from torch import nn

STREAMS, STEPS, RATE, CLIP = 20, 20, 0.3, 5.0
WARM_UP = 5


def read_streams(text, vocabulary):
    with open(vocabulary, encoding="utf-8") as f:
        index = {word: i for i, word in enumerate(f.read().split("\n")) if word}
    with open(text, encoding="utf-8") as f:
        tokens = [index[word] for word in f.read().replace("\n", " <eos> ").split()]
    length = len(tokens) // STREAMS
    return torch.tensor(tokens[: STREAMS * length]).view(STREAMS, length).t().contiguous(), len(index)


class Model(nn.Module):
    def __init__(self, words, hidden):
        super().__init__()
        self.embedding = nn.Embedding(words, hidden)
        self.lstm = nn.LSTM(hidden, hidden, 2)
        self.decoder = nn.Linear(hidden, words)

    def forward(self, x, state):
        y, state = self.lstm(self.embedding(x), state)
        return self.decoder(y), state


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("text")
    parser.add_argument("vocabulary")
    parser.add_argument("--hidden", type=int, default=200)
    parser.add_argument("--windows", type=int, default=100)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    streams, words = read_streams(args.text, args.vocabulary)
    model = Model(words, args.hidden)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    loss_of = nn.CrossEntropyLoss(reduction="sum")
    state, start = None, 0.0
    for k in range(WARM_UP + args.windows):
        if k == WARM_UP:
            start = time.perf_counter()
        steps = slice(k * STEPS, (k + 1) * STEPS)
        logits, state = model(streams[steps], state)
        targets = streams[steps.start + 1 : steps.stop + 1]
        loss = loss_of(logits.flatten(0, 1), targets.flatten()) / STREAMS
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        state = tuple(s.detach() for s in state)
    speed = args.windows * STREAMS * STEPS / (time.perf_counter() - start)
    print(f"{speed:.0f} tokens/s, {streams.numel() / speed:.0f} s an epoch")


if __name__ == "__main__":
    main()
