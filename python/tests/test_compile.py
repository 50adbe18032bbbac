"""Compression: pipelines, texts, budgets, progress."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
import threading
import time

import lstmc
import numpy as np
import pytest
from conftest import SMALL, TINY, WORDS

PASSES = "low-rank(target=decoder, rank=4), quantize(bits=4)"


def test_texts_of_every_kind_give_the_same_model(tiny: lstmc.Model, tmp_path: pathlib.Path) -> None:
    lines = ["the market was up in the week", "the company said it was down"] * 8
    file = tmp_path / "text.txt"
    file.write_text("".join(line + "\n" for line in lines))
    tokens = tiny.encode(file.read_text())
    made = [
        lstmc.compile(TINY, vocab=WORDS, passes=PASSES, calibrate=t, validate=file, progress=False)
        for t in (file, str(file), lines, iter(lines), tokens, tokens.astype(np.int64), tokens.tolist())
    ]
    assert len({m.ir() for m in made}) == 1
    report = made[0].report
    assert report is not None and [p["pass"] for p in report["passes"]] == ["canonicalize", "low-rank", "quantize"]
    assert report["after"]["perplexity"] == made[0].eval(file, progress=False).perplexity
    assert made[0].recipe == f"canonicalize, {PASSES}"


def test_models_of_every_kind(tiny: lstmc.Model) -> None:
    made = [
        lstmc.compile(m, vocab=WORDS, passes="quantize(bits=8, method=nearest)", progress=False)
        for m in (TINY, str(TINY), TINY.read_bytes(), tiny)
    ]
    assert len({m.ir().split("\n", 1)[1] for m in made}) == 1
    assert tiny.nbytes > made[0].nbytes
    with pytest.raises(TypeError, match="found int"):
        lstmc.compile(3)  # type: ignore[arg-type]


def test_recipes(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text('[[pass]]\nname = "quantize"\nbits = 8\nmethod = "nearest"\n')
    made = lstmc.compile(TINY, recipe=file, progress=False)
    assert "quantize(bits=8, method=nearest)" in made.recipe
    with pytest.raises(ValueError, match="not both"):
        lstmc.compile(TINY, recipe=file, passes="canonicalize")
    with pytest.raises(ValueError, match="unknown pass `shrink`"):
        lstmc.compile(TINY, passes="shrink")
    with pytest.raises(lstmc.Error, match="calibration text"):
        lstmc.compile(TINY, passes="quantize(bits=4)", progress=False)


def test_budgets(small: lstmc.Model, text: pathlib.Path) -> None:
    lines = text.read_text().splitlines()[:40]
    passes = "prune(target=decoder, sparsity=0.99, method=magnitude, resolve=false)"
    options = {"validate": lines, "progress": False, "passes": passes}
    kept = lstmc.compile(small, max_increase=0.001, **options)
    report = kept.report
    assert report is not None and "rejected" in str(report["passes"][-1]["verdict"]).lower()
    with pytest.raises(lstmc.Error, match="rejected"):
        lstmc.compile(small, max_increase=0.001, strict=True, **options)
    with pytest.raises(ValueError, match="max_increase"):
        lstmc.compile(small, max_increase=-1.0, **options)


def test_training_and_progress(text: pathlib.Path) -> None:
    seen: list[tuple[str, int, int]] = []
    options = {"vocab": SMALL / "vocab.txt", "train": text, "validate": text}
    passes = "low-rank(target=embedding|decoder, rank=16, method=svd), recover(epochs=2, optimizer=adamw, lr=0.002)"
    made = lstmc.compile(
        SMALL / "model.onnx", passes=passes, progress=lambda *status: seen.append(status), **options
    )
    report = made.report
    assert report is not None
    low_rank, recover = (p["after"]["perplexity"] for p in report["passes"][1:])
    assert recover < low_rank
    assert any(what.startswith("recover") for what, _, _ in seen) and all(d <= t for _, d, t in seen if t)


def test_what_progress_raises_ends_the_work(text: pathlib.Path) -> None:
    class Enough(Exception):
        pass

    def enough(*_: object) -> None:
        raise Enough

    started = time.monotonic()
    with pytest.raises(Enough):
        lstmc.compile(
            SMALL / "model.onnx",
            vocab=SMALL / "vocab.txt",
            train=text,
            passes="low-rank(target=decoder, rank=16, method=svd), recover(epochs=500)",
            progress=enough,
        )
    assert time.monotonic() - started < 60


def test_ctrl_c_ends_it() -> None:
    program = (
        "import lstmc, signal\n"
        # Where tests run in the background, the signal is ignored, and Python leaves it so.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "print('begun', flush=True)\n"
        f"lstmc.compile({str(SMALL / 'model.onnx')!r}, vocab={str(SMALL / 'vocab.txt')!r}, train={str(SMALL / 'test.txt')!r},\n"
        "    passes='recover(epochs=900)', progress=False)\n"
    )
    running = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None and running.stdout.readline() == "begun\n"
    time.sleep(2)
    running.send_signal(signal.SIGINT)
    try:
        _, errors = running.communicate(timeout=60)
    finally:
        running.kill()
    assert "KeyboardInterrupt" in errors and running.returncode != 0


def test_other_threads_run_meanwhile(text: pathlib.Path) -> None:
    count, done = 0, threading.Event()

    def work() -> None:
        lstmc.load(SMALL / "model.onnx", vocab=SMALL / "vocab.txt").eval(text, progress=False)
        done.set()

    threading.Thread(target=work).start()
    while not done.is_set():
        count += 1
        time.sleep(0.001)
    assert count > 20
