"""What the tests use: models of `testdata`, and the texts of the Penn Treebank where they are."""

from __future__ import annotations

import os
import pathlib

import lstmc
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "testdata"
TINY = DATA / "tiny" / "one-layer" / "model.onnx"
WORDS = DATA / "tiny" / "vocab.txt"
SMALL = DATA / "ptb-small"
PTB = pathlib.Path(os.environ.get("LSTMC_PTB", ROOT.parent / "shared" / "ptb"))


@pytest.fixture(scope="session")
def tiny() -> lstmc.Model:
    """A model of 32 words."""
    return lstmc.load(TINY, vocab=WORDS)


@pytest.fixture(scope="session")
def small() -> lstmc.Model:
    """The bundled model of the Penn Treebank."""
    return lstmc.load(SMALL / "model.onnx", vocab=SMALL / "vocab.txt")


@pytest.fixture
def text() -> pathlib.Path:
    """An excerpt of the test text."""
    return SMALL / "test.txt"


@pytest.fixture
def ptb() -> pathlib.Path:
    """The folder of the whole texts."""
    if not (PTB / "ptb.test.txt").exists():
        pytest.skip(f"SKIPPED: the Penn Treebank is not in {PTB}; set LSTMC_PTB")
    return PTB
