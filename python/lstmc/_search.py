"""From a budget to a model. Candidates are evaluated by any executor of `concurrent.futures`."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import pathlib
import time as clock
from typing import TYPE_CHECKING, Any

from . import _native
from ._compile import compile, file_of
from ._native import Model
from ._progress import bar

if TYPE_CHECKING:
    from ._progress import Progress
    from ._types import ModelLike, Path, Text

# How often a search looks whether its time is over, in seconds.
_TICK = 0.2


class Found:
    """What `search` found: `folder`, with the models and recipes of the frontier, and `list`, which `frontier.json` there holds."""

    def __init__(self, folder: pathlib.Path, found: dict[str, Any]) -> None:
        self.folder = folder
        self.list = found

    @property
    def met(self) -> bool:
        """Whether the best model meets the budget."""
        return bool(self.list["met"])

    @property
    def best(self) -> Model:
        """The best model, or the one nearest to the budget."""
        return _native.load(self.folder / "best.lstmc")

    @property
    def points(self) -> list[dict[str, Any]]:
        """The frontier from the largest model on: `pipeline`, `bytes`, `perplexity`, `increase`, `microseconds_per_step`, `file`, `recipe`."""
        return list(self.list["points"])

    def __repr__(self) -> str:
        best, end = self.list["best"], self.list["stop"]
        met = "best" if self.met else "nearest"
        return (
            f"<lstmc.Found: {met} {best['bytes']:,} bytes, perplexity {best['perplexity']:.3f}, "
            f"{len(self.points)} points of {self.list['candidates']} candidates ({end}) in {self.folder}>"
        )

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td style='text-align:right'>{p['bytes']:,}</td><td>{p['perplexity']:.3f}</td><td>{p['pipeline']}</td></tr>"
            for p in self.points
        )
        return f"<table><tr><th>bytes</th><th>perplexity</th><th>pipeline</th></tr>{rows}</table>"


def _candidate(model: Any, passes: str, texts: dict[str, Any]) -> Model:
    """The model that passes make: what an executor's worker runs."""
    return compile(model, passes=passes, entropy=True, progress=False, **texts)


def search(
    model: ModelLike,
    output: Path,
    *,
    calibrate: Text,
    validate: Text,
    train: Text | None = None,
    max_bytes: int | str | None = None,
    max_latency: float | str | None = None,
    max_increase: float | str | None = None,
    max_perplexity: float | None = None,
    time: float | None = None,
    candidates: int | None = None,
    executor: concurrent.futures.Executor | None = None,
    seed: int = 1,
    cpu: str = "best",
    progress: bool | Progress = True,
    **reading: Any,
) -> Found:
    """Searches the best model that one budget allows: passes and their options by themselves.

    The budget is `max_bytes` (a number, or text such as `"2MB"`), `max_latency` (microseconds of a step on this machine, or `"50us"`), `max_increase` of perplexity (a fraction, or
    `"2%"`), or `max_perplexity`. The search ends after `time` seconds or so many `candidates`, or when all that it has in mind was tried. `reading` are `vocab`, `tokenizer` and
    special tokens, as in `compile`.

    Everything that is found is in the folder `output`; called again with the same arguments, a search goes on after what is there. Candidates are evaluated one at a time in a process
    of their own, or by an `executor`: a process pool, Dask's (`client.get_executor()`), Ray's, or any other of `concurrent.futures`; models and texts travel there pickled.
    Ctrl-C, or what an executor raises, ends it; what was found by then is in the folder.
    """
    source = file_of(model, None)
    if not isinstance(source, Model) or reading:
        source = _native.load(source, cpu=cpu, **reading)
    # Lines are read more than once.
    calibrate, validate, train = (_kept(t) for t in (calibrate, validate, train))
    texts = {"calibrate": calibrate, "validate": validate, "train": train}
    running = _native.Search(
        source,
        output,
        calibrate=calibrate,
        validate=validate,
        train=train,
        max_bytes=max_bytes,
        max_latency=max_latency,
        max_increase=max_increase,
        max_perplexity=max_perplexity,
        candidates=candidates,
        seed=seed,
        cpu=cpu,
    )
    own = None
    if executor is None:
        # Not forked: a fork has only one of the threads that other libraries rely on.
        context = multiprocessing.get_context("spawn")
        executor = own = concurrent.futures.ProcessPoolExecutor(1, mp_context=context)
    end = None if time is None else clock.monotonic() + time
    try:
        with bar(progress) as shown:
            stop = _run(running, executor, source, texts, end, shown)
    except BaseException:
        if own is not None:
            _end(own)
        running.write("interrupted")
        raise
    if own is not None:
        _end(own)
    found = running.write(stop)
    if found is None:
        raise _native.Error(f"no candidate became a model ({stop}): the log is in {pathlib.Path(output) / 'log.txt'}")
    return Found(pathlib.Path(output), found)


def _kept(text: Any) -> Any:
    """A text that can be read more than once."""
    return list(text) if hasattr(text, "__next__") else text


def _end(own: concurrent.futures.ProcessPoolExecutor) -> None:
    """Ends a pool with what it is at, which nobody waits for."""
    processes = list((getattr(own, "_processes", None) or {}).values())
    own.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()


def _run(
    running: _native.Search,
    executor: concurrent.futures.Executor,
    source: Model,
    texts: dict[str, Any],
    end: float | None,
    shown: Any,
) -> str:
    """Evaluates round after round; returns why it ended."""
    while True:
        candidates = running.next_round()
        if candidates is None:
            return "exhausted"
        waiting: dict[concurrent.futures.Future[Model], str] = {}
        for pipeline, passes, trained in candidates:
            start = source if trained is None else _native.load(trained)
            waiting[executor.submit(_candidate, start, passes, texts)] = pipeline
        while waiting:
            done, _ = concurrent.futures.wait(waiting, timeout=_TICK, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                _take(running, waiting.pop(future), future)
            count, best = running.state()
            about = "" if best is None else f"; best: {best[0]:,} bytes, perplexity {best[1]:.2f}"
            shown(f"candidates{about}", count, 0)
            if end is not None and clock.monotonic() >= end:
                for future in waiting:
                    future.cancel()
                return "time"


def _take(running: _native.Search, pipeline: str, future: concurrent.futures.Future[Model]) -> None:
    """Takes in a candidate's model, or why there is none."""
    try:
        running.take(pipeline, future.result())
    except _native.Error as reason:
        running.take(pipeline, None, str(reason))
