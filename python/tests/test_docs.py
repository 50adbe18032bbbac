"""The examples in docstrings and in the documentation run."""

from __future__ import annotations

import doctest
import inspect
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import lstmc
import pytest
from conftest import ROOT, TINY, WORDS

PARSER = doctest.DocTestParser()


def documented() -> Iterator[tuple[str, str]]:
    """Everything public with a docstring."""
    yield "lstmc", lstmc.__doc__ or ""
    for name in lstmc.__all__:
        value: Any = getattr(lstmc, name)
        if isinstance(value, str):
            continue
        assert value.__doc__, f"{name} has no documentation"
        yield name, value.__doc__
        if not inspect.isclass(value):
            continue
        for member, inner in vars(value).items():
            if not member.startswith("_"):
                assert inner.__doc__, f"{name}.{member} has no documentation"
                yield f"{name}.{member}", inner.__doc__


def run(name: str, text: str, folder: pathlib.Path) -> None:
    given = {"lstmc": lstmc, "onnx": TINY, "words": WORDS, "model": lstmc.load(TINY, vocab=WORDS)}
    test = PARSER.get_doctest(text, given, name, None, 0)
    before = pathlib.Path.cwd()
    os.chdir(folder)
    try:
        found = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
    finally:
        os.chdir(before)
    assert found.failed == 0, name


@pytest.mark.parametrize("name, text", [d for d in documented() if ">>>" in d[1]], ids=lambda x: x if len(x) < 40 else "")
def test_docstrings(name: str, text: str, tmp_path: pathlib.Path) -> None:
    run(name, text, tmp_path)


def test_the_page_and_the_module_for_torch(tmp_path: pathlib.Path) -> None:
    run("docs/python.md", (ROOT / "docs" / "python.md").read_text(), tmp_path)
    pytest.importorskip("torch", reason="SKIPPED: torch is not installed")
    import lstmc.torch

    run("lstmc.torch", lstmc.torch.__doc__ or "", tmp_path)
