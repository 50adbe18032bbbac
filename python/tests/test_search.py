"""From a budget to a model, with executors of several kinds; models side by side."""

from __future__ import annotations

import concurrent.futures
import json
import pathlib
import threading

import lstmc
import pytest
from conftest import TINY, WORDS

LINES = ["the market was up in the week", "the company said it was down"] * 20
OPTIONS = {"vocab": WORDS, "calibrate": LINES, "validate": LINES, "progress": False}


def figures(found: lstmc.Found) -> list[tuple[str, int, float]]:
    return [(p["pipeline"], p["bytes"], p["perplexity"]) for p in found.points]


def test_executors_give_the_same_frontier(tmp_path: pathlib.Path) -> None:
    own = lstmc.search(TINY, tmp_path / "own", max_bytes="1kB", candidates=12, **OPTIONS)
    assert own.met and own.best.nbytes <= 1000 and "best" in repr(own)
    assert json.loads((tmp_path / "own" / "frontier.json").read_text())["candidates"] == 12
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        other = lstmc.search(TINY, tmp_path / "other", max_bytes=1000, candidates=12, executor=pool, **OPTIONS)
    assert figures(own) == figures(other)
    # All is there already.
    again = lstmc.search(TINY, tmp_path / "own", max_bytes=1000, candidates=12, executor=_Nobody(), **OPTIONS)
    assert figures(again) == figures(own)


class _Nobody(concurrent.futures.Executor):
    def submit(self, *_: object, **__: object) -> concurrent.futures.Future:  # type: ignore[override, type-arg]
        raise AssertionError("nothing is left to do")


def test_dask(tmp_path: pathlib.Path) -> None:
    distributed = pytest.importorskip("distributed", reason="SKIPPED: dask[distributed] is not installed")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        with distributed.Client(cluster) as client:
            found = lstmc.search(TINY, tmp_path, max_bytes=1000, candidates=4, executor=client.get_executor(), **OPTIONS)
    assert found.list["candidates"] == 4


def test_an_end_keeps_what_was_found(tmp_path: pathlib.Path) -> None:
    class Enough(Exception):
        pass

    def progress(_: str, done: int, __: int) -> None:
        if done >= 3:
            raise Enough

    with pytest.raises(Enough), concurrent.futures.ThreadPoolExecutor(1) as pool:
        lstmc.search(TINY, tmp_path, max_bytes=1000, executor=pool, **{**OPTIONS, "progress": progress})
    assert json.loads((tmp_path / "frontier.json").read_text())["stop"] == "interrupted"
    assert threading.active_count() < 20


def test_budgets_are_checked(tmp_path: pathlib.Path) -> None:
    for wrong in ({}, {"max_bytes": 1, "max_increase": 0.1}, {"max_bytes": "many"}, {"max_perplexity": 0.5}):
        with pytest.raises(ValueError, match="budget|max_"):
            lstmc.search(TINY, tmp_path, **OPTIONS, **wrong)


def test_models_side_by_side(tiny: lstmc.Model, tmp_path: pathlib.Path) -> None:
    small = lstmc.compile(tiny, passes="quantize(bits=2, method=nearest)", name="small", progress=False)
    found = lstmc.compare([tiny, small], LINES, progress=False)
    first, second = found.rows
    assert first["divergence"] == 0 and first["increase"] == 0 and second["divergence"] > 0
    assert len(found) == 2 and "small" in repr(found) and found._repr_html_().count("<tr>") == 3
    page = lstmc.report([tiny, small], LINES, title="Two", prompts=["the market"])
    assert "<title>Two" in page.html and "small" in page.html and "iframe" in page._repr_html_()
    page.save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == page.html
    with pytest.raises(lstmc.Error, match="nowhere"):
        lstmc.report([tiny], "nowhere.txt")
