"""Models side by side: figures, and a page."""

from __future__ import annotations

import base64
import html
import os
import pathlib
import tempfile
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from . import _native
from ._native import Model
from ._progress import bar

if TYPE_CHECKING:
    from ._progress import Progress
    from ._types import Path, Text


class Comparison:
    """What `compare` found: `rows`, a dictionary for each model, the first of which is the reference."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]

    def _table(self) -> list[list[str]]:
        header = ["model", "bytes", "perplexity", "increase", "95% interval", "divergence", "agreement", "recall", "us/step"]
        return [header] + [
            [
                row["model"],
                f"{row['bytes']:,}",
                f"{row['perplexity']:.2f}",
                f"{row['increase']:+.2%}",
                f"{row['interval'][0]:+.2%} to {row['interval'][1]:+.2%}",
                f"{row['divergence']:.4f}",
                "/".join(f"{100 * x:.1f}" for x in row["agreement"].values()),
                "/".join(f"{100 * x:.1f}" for x in row["recall"].values()),
                f"{row['microseconds_per_step']:.1f}",
            ]
            for row in self.rows
        ]

    def __repr__(self) -> str:
        table = self._table()
        widths = [max(len(row[k]) for row in table) for k in range(len(table[0]))]
        lines = [
            "  ".join([row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])])
            for row in table
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        def row(cells: list[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        header, *rows = self._table()
        return "<table>" + row(header, "th") + "".join(row(r, "td") for r in rows) + "</table>"


class Report:
    """The page of `report`: one HTML file that needs no other file and no network. Notebooks show it."""

    def __init__(self, page: str) -> None:
        self.html = page

    def save(self, path: Path) -> None:
        """Writes the page."""
        path = pathlib.Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_text(self.html, encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def __repr__(self) -> str:
        return f"<lstmc.Report: {len(self.html):,} characters; save it, or let a notebook show it>"

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.html.encode()).decode()
        return f'<iframe src="data:text/html;base64,{data}" width="100%" height="900" style="border:0"></iframe>'


def compare(
    models: Sequence[Model],
    text: Text,
    *,
    resamples: int = 2000,
    seed: int = 1,
    progress: bool | Progress = True,
) -> Comparison:
    """Compares models on a text; the first is the reference.

    Each row has `model`, `bytes`, `perplexity`, `increase` (of perplexity above the reference's, as a fraction) with its 95% `interval` by paired bootstrap over lines,
    `divergence` (mean Kullback-Leibler divergence from the reference, in nats), `agreement` and `recall` by the number of best words, `calibration_error`, `keystrokes_saved` and
    `microseconds_per_step`.

    >>> found = lstmc.compare([model, model], ["the market was up", "the market was down"], progress=False)
    >>> found[1]["divergence"], found[1]["agreement"][1]
    (0.0, 1.0)
    """
    with bar(progress) as shown:
        rows = _native.compare(list(models), text, resamples=resamples, seed=seed, progress=shown)
    return Comparison(rows)


def report(
    models: Sequence[Model],
    text: Text,
    *,
    counts: Text | None = None,
    prompts: Iterable[str] | None = None,
    title: str | None = None,
) -> Report:
    """Models side by side as a page: plots of size and time against perplexity, every weight's representation, where the loss is, suggestions, and what bounds speed.

    `counts` is a text whose words are counted, to tell frequent from rare ones; `prompts` are beginnings of sentences to show the best next words of. Texts are paths or lines.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        # Models of one name are told apart by their folders' numbers.
        files: list[str] = []
        for number, model in enumerate(models):
            file = place / str(number) / f"{pathlib.Path(model.path).stem or model.name or 'model'}.lstmc"
            file.parent.mkdir()
            model.save(file)
            files.append(str(file))

        def path(given: Any, name: str) -> str:
            if isinstance(given, (str, os.PathLike)):
                return os.fspath(given)
            file = place / name
            file.write_text("".join(line.rstrip("\n") + "\n" for line in given), encoding="utf-8")
            return str(file)

        page = place / "page.html"
        arguments = ["report", *files, "--text", path(text, "text.txt"), "-o", str(page)]
        if counts is not None:
            arguments += ["--counts", path(counts, "counts.txt")]
        if prompts is not None:
            arguments += ["--prompts", path(prompts, "prompts.txt")]
        if title is not None:
            arguments += ["--title", title]
        _native.call(*arguments)
        return Report(page.read_text(encoding="utf-8"))
