"""Stubs and examples pass pyright in strict mode; examples run."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT


def test_types() -> None:
    pytest.importorskip("torch", reason="SKIPPED: torch is not installed")
    pyright = shutil.which("pyright") or str(pathlib.Path(sys.executable).with_name("pyright"))
    if not pathlib.Path(pyright).exists():
        pytest.skip("SKIPPED: pyright is not installed")
    command = [pyright, "--pythonpath", sys.executable, "-p", str(ROOT / "python" / "pyproject.toml")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_tutorial(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("torch", reason="SKIPPED: torch is not installed")
    script = ROOT / "python" / "examples" / "tutorial.py"
    found = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    line = next(line for line in found.stdout.splitlines() if line.startswith("compressed:"))
    before, after = (float(line.split(word)[1].split(",")[0]) for word in ("perplexity", "trained"))
    assert after < before
    assert (tmp_path / "library" / "tutorial.c").exists()
