"""Compress LSTM language models, and run them with kernels made for the model and the processor.

>>> import lstmc
>>> model = lstmc.compile(onnx, vocab=words, passes="quantize(bits=8, method=nearest)", progress=False)
>>> model.save("small.lstmc") > 0
True
>>> session = lstmc.load("small.lstmc").session()
>>> session.step(0).shape
(32,)

| | |
|---|---|
| `compile`, `load` | a `Model` from ONNX, PyTorch or a `.lstmc` file |
| `search` | the best model that a budget allows |
| `compare`, `report` | models side by side |
| `passes` | what pipelines may have |
| `lstmc.torch` | a compressed model as a module that trains in PyTorch, and back |

Texts are a file's path, lines (any iterable of `str`), or tokens (an array of integers). What can go wrong with a file, a text, a model or a pipeline is an `lstmc.Error`, or a
`ValueError` where an argument is to blame; the message says what to do.
"""

from ._compile import compile
from ._native import Error, Evaluation, Model, Session, Streams, __version__, load, passes

# Methods that show progress, which is Python's business.
from . import _model as _model

# As type checkers know it, without the time that importing `typing` takes.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._page import Comparison, Report, compare, report
    from ._search import Found, search

__all__ = [
    "Comparison",
    "Error",
    "Evaluation",
    "Found",
    "Model",
    "Report",
    "Session",
    "Streams",
    "__version__",
    "compare",
    "compile",
    "load",
    "passes",
    "report",
    "search",
]

# What needs other modules is imported when it is first used, so that `import lstmc` takes no time.
_LATER = {
    "Comparison": "_page",
    "Report": "_page",
    "compare": "_page",
    "report": "_page",
    "Found": "_search",
    "search": "_search",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_LATER[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
