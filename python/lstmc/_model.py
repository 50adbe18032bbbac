"""The methods of `Model` that Python adds: those with progress, and how notebooks show it."""

from __future__ import annotations

from . import _native
from ._progress import bar

# As type checkers know it, without the time that importing `typing` takes.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._native import Evaluation, Model
    from ._progress import Progress
    from ._types import Text


def eval(
    self: Model,
    text: Text,
    *,
    sentences: bool = False,
    engine: str = "jit",
    progress: bool | Progress = True,
) -> Evaluation:
    """Measures how well the model predicts a text: a path, lines or tokens.

    The text is one stream, with the state carried from the beginning through all of it; with `sentences` each line is read by itself, between the tokens for a sentence's
    beginning and end. `engine` is `"jit"`, generated code, or `"interpreter"`, which defines what a model means.

    >>> model.eval(["the market was up", "the market was down"], progress=False).tokens
    10
    """
    if engine not in ("jit", "interpreter"):
        raise ValueError(f"engine: {engine!r}: expected jit or interpreter")
    with bar(progress) as shown:
        return self._eval(text, sentences=sentences, interpreter=engine == "interpreter", progress=shown)


def _repr_html_(self: Model) -> str:
    import html

    rows = "".join(
        f"<tr><td>{html.escape(w['name'])}</td><td>{' x '.join(map(str, w['shape']))}</td>"
        f"<td>{html.escape(w['representation'])}</td><td style='text-align:right'>{w['bytes']:,}</td></tr>"
        for w in self.weights
    )
    passes = "".join(
        f"<tr><td>{html.escape(p['invocation'])}</td><td style='text-align:right'>{p['after'].get('bytes') or 0:,}</td>"
        f"<td style='text-align:right'>{_perplexity(p['after'].get('perplexity'))}</td></tr>"
        for p in (self.report or {}).get("passes", [])
    )
    made = f"<table><tr><th>pass</th><th>bytes</th><th>perplexity</th></tr>{passes}</table>" if passes else ""
    return (
        f"<p><b>{html.escape(self.name)}</b>: {self.words:,} words, {self.nbytes:,} bytes of weights</p>"
        f"<table><tr><th>weight</th><th>shape</th><th>representation</th><th>bytes</th></tr>{rows}</table>{made}"
    )


def _perplexity(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


for method in (eval, _repr_html_):
    method.__qualname__ = f"Model.{method.__name__}"
    setattr(_native.Model, method.__name__, method)
