"""Threads, forks, memory, lifetimes."""

from __future__ import annotations

import concurrent.futures
import gc
import multiprocessing
import pathlib
import sys
import threading

import lstmc
import numpy as np
import pytest
from conftest import TINY, WORDS

TOKENS = np.arange(200) % 32


def perplexity(model: lstmc.Model) -> float:
    return model.eval(TOKENS, progress=False).perplexity


def compiled(passes: str) -> float:
    made = lstmc.compile(TINY, vocab=WORDS, calibrate=TOKENS, passes=passes, progress=False)
    return perplexity(made)


def resident() -> int:
    """Bytes of memory of this process."""
    pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loads_and_drops_leave_memory_as_it_was(tiny: lstmc.Model) -> None:
    data = tiny.to_bytes()

    def cycle(count: int) -> None:
        for _ in range(count):
            session = lstmc.load(data).session()
            session.step(3)
        gc.collect()

    cycle(500)
    before = resident()
    cycle(10_000)
    assert resident() - before < 8_000_000


def test_threads_share_a_model(tiny: lstmc.Model) -> None:
    wanted = tiny.score(TOKENS)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: tiny.score(TOKENS), range(50)):
            assert (found == wanted).all()


def test_a_session_has_one_user_at_a_time(tiny: lstmc.Model) -> None:
    session, failed = tiny.session(), []
    many = np.arange(200_000) % 32
    ready = threading.Barrier(2)

    def score() -> None:
        ready.wait()
        session.score(many)

    thread = threading.Thread(target=score)
    thread.start()
    ready.wait()
    while thread.is_alive():
        try:
            session.step(3)
        except RuntimeError as error:
            failed.append(error)
    thread.join()
    assert failed and all("borrowed" in str(error) for error in failed)


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_workers_of_every_kind(tiny: lstmc.Model, method: str) -> None:
    passes = "low-rank(target=decoder, rank=4), quantize(bits=4)"
    # All threads have been started before a fork.
    wanted = perplexity(tiny), compiled(passes)
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(perplexity, tiny).result(timeout=120) == wanted[0]
        assert pool.submit(compiled, passes).result(timeout=120) == wanted[1]
