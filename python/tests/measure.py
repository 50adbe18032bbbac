"""Figures of the Python package that tests do not check, on the bundled model: run by hand, on a machine at rest.

    python tests/measure.py [FOLDER WITH ptb.test.txt, ptb.valid.txt, calibration.txt]

Prints the time of an import, of a step and of scoring beside the command line's, and perplexities of five pipelines beside what `lstmc eval` prints.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile
import time

import lstmc

ROOT = pathlib.Path(__file__).resolve().parents[2]
SMALL = ROOT / "testdata" / "ptb-small"
PIPELINES = [
    "quantize(bits=8)",
    "quantize(bits=4, group=40)",
    "quantize(bytes=580000)",
    "prune(target=decoder, sparsity=0.9)",
    "low-rank(target=decoder, rank=96), quantize(bits=8)",
]


def command_line(*arguments: object) -> dict[str, float]:
    command = [str(pathlib.Path(sys.executable).with_name("lstmc")), *map(str, arguments), "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    given = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else None
    calibration = (given or SMALL) / "calibration.txt"
    test, valid = ((given or SMALL) / (f"ptb.{name}.txt" if given else f"{name}.txt") for name in ("test", "valid"))

    code = "import time; t = time.perf_counter(); import lstmc; print(time.perf_counter() - t)"
    times = [float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout) for _ in range(5)]
    print(f"import: {min(times) * 1e3:.1f} ms")

    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "model.lstmc"
        for pipeline in PIPELINES:
            options = {"calibrate": calibration, "validate": valid, "progress": False}
            model = lstmc.compile(SMALL / "model.onnx", vocab=SMALL / "vocab.txt", passes=pipeline, **options)
            model.save(file)
            started = time.perf_counter()
            here = model.eval(test, progress=False).perplexity
            seconds = time.perf_counter() - started
            there = command_line("eval", file, "--text", test)
            same = "the same" if here == there["perplexity"] else "NOT THE SAME"
            print(f"{pipeline}: {here!r}, {same}; {seconds:.2f} s here, {there['seconds']:.2f} s there")
        model = lstmc.compile(SMALL / "model.onnx", vocab=SMALL / "vocab.txt", passes=PIPELINES[0], calibrate=calibration, progress=False)
        model.save(file)
        session, best = model.session(), float("inf")
        tokens = [k * 7919 % 10_000 for k in range(500)]
        for _ in range(10):
            started = time.perf_counter()
            for token in tokens:
                session.step(token)
            best = min(best, (time.perf_counter() - started) / len(tokens))
        there = command_line("bench", file)["decode_us_per_token"]
        print(f"a step: {best * 1e6:.2f} us here, {there:.2f} us by lstmc bench")
        started = time.perf_counter()
        session = model.session()
        for token in tokens:
            session.advance(token)
        print(f"{(time.perf_counter() - started) / len(tokens) * 1e6:.2f} us to advance")


if __name__ == "__main__":
    main()
