"""From a model as it is at hand to a compressed one."""

from __future__ import annotations

import os

from . import _native
from ._native import Model
from ._progress import bar

# As type checkers know it, without the time that importing `typing` takes.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ._progress import Progress
    from ._types import ModelLike, Text


def file_of(model: Any, inputs: Sequence[Any] | None) -> Any:
    """A model as a path, as a file's bytes, or as a `Model`; modules of PyTorch are exported to ONNX."""
    if isinstance(model, (str, os.PathLike, bytes, Model)):
        return model
    if hasattr(model, "SerializeToString"):
        return model.SerializeToString()
    if hasattr(model, "state_dict") and hasattr(model, "forward"):
        if inputs is None:
            raise ValueError(
                "inputs: a module of PyTorch is exported by running it; give example inputs, such as "
                "(tokens, (h0, c0)) with tokens of shape [time, batch]"
            )
        return exported(model, inputs)
    raise TypeError(
        f"model: expected a path, bytes, an lstmc.Model, an onnx.ModelProto or a torch.nn.Module; found {type(model).__name__}"
    )


def exported(module: Any, inputs: Sequence[Any]) -> bytes:
    """The ONNX model of a module, by the exporter of PyTorch."""
    import pathlib
    import tempfile
    import warnings

    import torch

    training = module.training
    module.eval()
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "model.onnx"
        try:
            # The tracing exporter leaves shapes as they are in the example, and warns of it: lstmc needs no others.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.onnx.export(module, tuple(inputs), file, dynamo=False)
        finally:
            module.train(training)
        return file.read_bytes()


def compile(
    model: ModelLike,
    *,
    inputs: Sequence[Any] | None = None,
    vocab: str | os.PathLike[str] | Sequence[str] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    bos: str | None = None,
    eos: str | None = None,
    unk: str | None = None,
    pad: str | None = None,
    passes: str | None = None,
    recipe: str | os.PathLike[str] | None = None,
    calibrate: Text | None = None,
    validate: Text | None = None,
    train: Text | None = None,
    teacher: ModelLike | None = None,
    max_increase: float | None = None,
    max_perplexity: float | None = None,
    strict: bool = False,
    entropy: bool = False,
    name: str | None = None,
    cpu: str = "best",
    threads: int = 0,
    progress: bool | Progress = True,
) -> Model:
    """Compresses a model, and compiles what is left for this machine when it first computes something.

    `model` is a path (`.onnx` or `.lstmc`), a file's bytes, a `Model`, an `onnx.ModelProto`, or a `torch.nn.Module` with example `inputs`, which is exported by
    PyTorch. `vocab`, `tokenizer` and the special tokens say how texts become tokens, as in `load`.

    The passes are text, `"low-rank(target=decoder, rank=96), quantize(bits=8)"`, or a `recipe`, a TOML file. They may need texts: `calibrate` to collect statistics
    on, `train` to train on, and `validate` to measure perplexity on before and after each lossy pass. A pass that raises it by more than the fraction `max_increase`, or above
    `max_perplexity`, is rejected; with `strict` that is an `Error`. `teacher` is a model that `recover(teacher=given)` learns from. `entropy` makes the saved file smaller.

    Ctrl-C ends it within moments, and leaves nothing behind.

    >>> small = lstmc.compile(onnx, vocab=words, passes="low-rank(target=decoder, rank=4, method=svd)", progress=False)
    >>> small.nbytes < model.nbytes
    True
    """
    source = file_of(model, inputs)
    with bar(progress) as shown:
        return _native.compile(
            source,
            vocab=vocab,
            tokenizer=tokenizer,
            bos=bos,
            eos=eos,
            unk=unk,
            pad=pad,
            passes=passes,
            recipe=recipe,
            calibrate=calibrate,
            validate=validate,
            train=train,
            teacher=None if teacher is None else file_of(teacher, None),
            max_increase=max_increase,
            max_perplexity=max_perplexity,
            strict=strict,
            entropy=entropy,
            name=name,
            cpu=cpu,
            threads=threads,
            progress=shown,
        )
