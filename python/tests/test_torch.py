"""Modules of PyTorch: exact round trips, equal outputs, gradients, training in one and in two processes."""

from __future__ import annotations

import copy
import os
import pathlib
import subprocess
import sys

import lstmc
import numpy as np
import pytest
from conftest import DATA, ROOT, SMALL, TINY, WORDS

torch = pytest.importorskip("torch", reason="SKIPPED: torch is not installed")

from lstmc.torch import LowRank, Quantized, balance, from_torch, parameters_of, to_torch  # noqa: E402

LINES = ["the cat sat", "a dog ran a bird sang", "the fish swam"] * 30

# Every representation, and those that nest.
PASSES = [
    "canonicalize",
    "quantize(bits=8)",
    "quantize(bits=4, group=5)",
    "quantize(bits=3, asymmetric=true, group=3)",
    "quantize(bits=2, activations=f32)",
    "quantize(rate=2.5)",
    "prune(sparsity=0.7)",
    "prune(target=decoder, sparsity=0.5, block=4x1), quantize(bits=4)",
    "prune(target=lstm*, pattern=2:4)",
    "low-rank(target=embedding|decoder, rank=5)",
    "low-rank(target=lstm*, rank=5, shared=true), quantize(bits=4)",
    "tensor-train(target=embedding, rank=4)",
    "tensor-train(target=decoder, rank=3), quantize(bits=8, activations=f32)",
]

# Models of other kinds: folders of testdata/tiny.
KINDS = ["gru", "three-layers", "tied", "peephole", "log-softmax", "f16", "input-forget", "projected-dims"]


def identity(model: lstmc.Model) -> str:
    return model.ir()


def step_by_step(model: lstmc.Model, tokens: np.ndarray) -> np.ndarray:
    session = model.session()
    return np.stack([session.step(int(t)).copy() for t in tokens])


def outputs(module: torch.nn.Module, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        logits, _ = module(torch.from_numpy(tokens.astype(np.int64))[:, None])
    return logits[:, 0].numpy()


@pytest.mark.parametrize("passes", PASSES)
def test_round_trips_are_identical_and_outputs_equal(passes: str) -> None:
    model = lstmc.compile(TINY, vocab=WORDS, calibrate=LINES, passes=passes, progress=False)
    module = to_torch(model)
    back = from_torch(module)
    assert identity(back) == identity(model) and back.recipe.endswith(", torch")
    assert from_torch(copy.deepcopy(module)).ir() == model.ir()
    tokens = np.array([0, 3, 4, 9, 11, 2, 5, 7])
    # Sums of at most 8 products in another order. Where vectors are rounded to int8, a number next to the middle between two codes may get either: a step of 1/127 of
    # the largest, times weights below 1, through a few layers.
    rounds = any(isinstance(p, Quantized) and p.rounds for p in module.modules())
    bound = 0.05 if rounds else 1e-5
    assert np.abs(outputs(module, tokens) - step_by_step(model, tokens)).max() < bound


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_all_kinds(kind: str) -> None:
    model = lstmc.load(DATA / "tiny" / kind / "model.onnx")
    module = to_torch(model)
    assert from_torch(module).ir() == model.ir()
    tokens = np.array([0, 3, 4, 9, 11, 2, 5, 7])
    wanted = step_by_step(model, tokens)
    assert np.abs(outputs(module, tokens) - wanted).max() < 1e-5
    # In two windows, with the state between them.
    half = torch.from_numpy(tokens[:4])[:, None], torch.from_numpy(tokens[4:])[:, None]
    with torch.no_grad():
        _, state = module(half[0])
        logits, _ = module(half[1], state)
    assert np.abs(logits[:, 0].numpy() - wanted[4:]).max() < 1e-5


@pytest.mark.parametrize("passes", PASSES)
def test_everything_gets_a_gradient_and_the_loss_falls(passes: str) -> None:
    model = lstmc.compile(TINY, vocab=WORDS, calibrate=LINES, passes=passes, progress=False)
    module = to_torch(model)
    tokens = torch.from_numpy(model.encode("\n".join(LINES) + "\n").astype(np.int64))[:448].reshape(8, 56).T
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    losses = []
    for _ in range(12):
        logits, _ = module(tokens[:-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    # What was learned is in the model, in the same representation.
    trained = from_torch(module)
    assert [w["representation"].split("#")[0] for w in trained.weights] == [
        w["representation"].split("#")[0] for w in model.weights
    ]
    assert trained.eval(LINES, progress=False).perplexity < model.eval(LINES, progress=False).perplexity
    assert to_torch(trained) is not None and trained.nbytes <= 1.2 * model.nbytes


def test_shared_parts_are_one_module() -> None:
    passes = "low-rank(target=lstm*, rank=5, shared=true)"
    model = lstmc.compile(TINY, vocab=WORDS, calibrate=LINES, passes=passes, progress=False)
    module = to_torch(model)
    low_rank = [m for m in module.modules() if isinstance(m, LowRank)]
    assert len(low_rank) == 2 and low_rank[0].left is low_rank[1].left
    before = outputs(module, np.array([1, 2, 3]))
    balance(module)
    assert np.allclose(outputs(module, np.array([1, 2, 3])), before, atol=1e-5)


def test_scales_may_train_alone() -> None:
    model = lstmc.compile(TINY, vocab=WORDS, calibrate=LINES, passes="quantize(bits=4)", progress=False)
    module = to_torch(model)
    scales = {id(m.scales) for m in module.modules() if isinstance(m, Quantized)}
    assert scales <= {id(p) for p in parameters_of(module, Quantized)}


def test_mixed_precision_and_wrappers() -> None:
    model = lstmc.compile(TINY, vocab=WORDS, calibrate=LINES, passes="quantize(bits=4)", progress=False)
    module = to_torch(model)
    with torch.autocast("cpu", torch.bfloat16):
        logits, _ = module(torch.zeros(3, 2, dtype=torch.long))
    assert logits.shape == (3, 2, 32)
    assert from_torch(torch.nn.DataParallel(module)).ir() == model.ir()
    with pytest.raises(TypeError, match="Linear"):
        from_torch(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("extra", [[], ["--shard"]], ids=["replicated", "sharded"])
def test_two_processes_train_as_one(tmp_path: pathlib.Path, text: pathlib.Path, extra: list[str]) -> None:
    passes = "low-rank(target=embedding|decoder, rank=8, method=svd)"
    start = tmp_path / "start.lstmc"
    lstmc.compile(SMALL / "model.onnx", vocab=SMALL / "vocab.txt", passes=passes, progress=False).save(start)
    script = ROOT / "python" / "examples" / "train.py"
    train = [script, start, "--train", text, "--valid", text, "--epochs", "0.5", "--dropout", "0", "--device", "cpu"]

    def trained(command: list[object], name: str) -> float:
        output = tmp_path / f"{name}.lstmc"
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([str(c) for c in [*command, *train, *extra, "-o", output]], check=True, env=environment)
        return lstmc.load(output).eval(text, progress=False).perplexity

    two = trained([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"], "two")
    extra = []
    one = trained([sys.executable], "one")
    assert one < lstmc.load(start).eval(text, progress=False).perplexity
    assert abs(two / one - 1) < 1e-3


def test_models_of_torch_are_compiled() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(32, 8)
            self.lstm = torch.nn.LSTM(8, 8, 2)
            self.decoder = torch.nn.Linear(8, 32)

        def forward(self, tokens, h, c):  # type: ignore[no-untyped-def]
            x, (h, c) = self.lstm(self.embedding(tokens), (h, c))
            return self.decoder(x), h, c

    net, zeros = Net(), torch.zeros(2, 1, 8)
    inputs = (torch.zeros(4, 1, dtype=torch.long), zeros, zeros)
    model = lstmc.compile(net, inputs=inputs, vocab=WORDS, progress=False)
    assert net.training
    with torch.no_grad():
        wanted = net(torch.tensor([[3], [4]]), zeros, zeros)[0][:, 0].numpy()
    assert np.abs(step_by_step(model, np.array([3, 4])) - wanted).max() < 1e-5
    with pytest.raises(ValueError, match="inputs"):
        lstmc.compile(net)


def test_models_of_onnx_are_compiled() -> None:
    onnx = pytest.importorskip("onnx", reason="SKIPPED: onnx is not installed")
    assert lstmc.compile(onnx.load(TINY), progress=False).words == 32


def test_exports_run_in_onnx_runtime(tmp_path: pathlib.Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="SKIPPED: onnxruntime is not installed")
    model = lstmc.compile(TINY, vocab=WORDS, passes="low-rank(target=decoder, rank=4, method=svd)", progress=False)
    model.export(tmp_path / "m.onnx")
    session = runtime.InferenceSession(str(tmp_path / "m.onnx"))
    tokens = np.array([[0], [3], [4]])
    inputs = {"tokens": tokens, "h0": np.zeros((1, 1, 8), np.float32), "c0": np.zeros((1, 1, 8), np.float32)}
    assert np.abs(session.run(["logits"], inputs)[0][:, 0] - step_by_step(model, tokens[:, 0])).max() < 1e-5
