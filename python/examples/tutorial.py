"""From an untrained PyTorch module to a C library: train, compile, search, train the compressed model, suggest, build.

    python tutorial.py [FOLDER]

Takes a minute on a CPU. The text is made up by a small grammar, so that nothing needs to be fetched; `# %%` begins a cell for editors that run this as a notebook.
"""

# %%
from __future__ import annotations

import pathlib
import random
import sys
import tempfile
from typing import cast

import lstmc
import numpy as np
import torch
import torch.nn.functional as F
from lstmc.torch import from_torch, to_torch
from torch import Tensor, nn

# %% A text, and a model as one writes it in PyTorch.
NOUNS = "cat dog bird fish horse child farmer teacher".split()
VERBS = "sees hears follows likes finds".split()
WORDS = ["<unk>", "<eos>", "the", "a", "small", "old", "and", *NOUNS, *VERBS]


def sentence(source: random.Random) -> str:
    def thing() -> list[str]:
        adjective = [source.choice(["small", "old"])] if source.random() < 0.4 else []
        return [source.choice(["the", "a"]), *adjective, source.choice(NOUNS)]

    words = [*thing(), source.choice(VERBS), *thing()]
    return " ".join(words + (["and", source.choice(VERBS), *thing()] if source.random() < 0.3 else []))


class LanguageModel(nn.Module):
    def __init__(self, words: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, hidden)
        self.lstm = nn.LSTM(hidden, hidden)
        self.decoder = nn.Linear(hidden, words)

    def forward(self, tokens: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, (h, c) = cast("tuple[Tensor, tuple[Tensor, Tensor]]", self.lstm(self.embedding(tokens), (h, c)))
        return self.decoder(x), h, c


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def main(folder: pathlib.Path) -> None:
    source = random.Random(1)
    train, valid, test = ([sentence(source) for _ in range(n)] for n in (2000, 200, 200))

    # %% Train it for a while.
    torch.manual_seed(1)
    hidden, batch, steps = 64, 20, 25
    net, zeros = LanguageModel(len(WORDS), hidden), torch.zeros(1, batch, hidden)
    ids = {word: k for k, word in enumerate(WORDS)}
    tokens = torch.tensor([ids[w] for line in train for w in [*line.split(), "<eos>"]])
    tokens = tokens[: len(tokens) // batch * batch].reshape(batch, -1).T
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.005)
    for epoch in range(2):
        loss = torch.zeros(())
        for start in range(0, len(tokens) - steps, steps):
            loss = loss_of(net(tokens[start : start + steps], zeros, zeros)[0], tokens[start + 1 : start + steps + 1])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")

    # %% Compile it. Example inputs are of one stream; the model takes any length.
    state = torch.zeros(1, 1, hidden)
    inputs = (torch.zeros(4, 1, dtype=torch.long), state, state)
    model = lstmc.compile(net, inputs=inputs, vocab=WORDS, name="tutorial", progress=False)
    print(f"as given: {model.nbytes:,} bytes, perplexity {model.eval(test, progress=False).perplexity:.3f}")

    # %% Search the best model of 6 kB.
    found = lstmc.search(
        model, folder / "found", calibrate=train[:500], validate=valid, max_bytes="6kB", candidates=8, progress=False
    )
    print(found)

    # %% Train a compressed model, with its codes, in PyTorch.
    passes = "low-rank(target=lstm*, rank=16, shared=true), quantize(bits=4)"
    small = lstmc.compile(model, passes=passes, calibrate=train[:500], progress=False)
    before = small.eval(test, progress=False).perplexity
    module = to_torch(small)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.003)
    text = torch.from_numpy(small.encode("\n".join(train) + "\n").astype(np.int64))
    text = text[: len(text) // batch * batch].reshape(batch, -1).T
    for start in range(0, len(text) - steps, steps):
        logits, _ = cast("tuple[Tensor, object]", module(text[start : start + steps]))
        loss = loss_of(logits, text[start + 1 : start + steps + 1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trained = from_torch(module)
    after = trained.eval(test, progress=False).perplexity
    print(f"compressed: {trained.nbytes:,} bytes, perplexity {before:.3f}, trained {after:.3f}")

    # %% Side by side; use it; ship it.
    print(lstmc.compare([model, small, trained], test, progress=False))
    print(trained.suggest("the old", 3))
    built = trained.build(folder / "library", name="tutorial", emit=["c", "header"])
    print("built", ", ".join(file.name for file in built["files"]))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(pathlib.Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as place:
            main(pathlib.Path(place))
