"""Types of arguments."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Protocol, TypeAlias, Union

import numpy as np
import numpy.typing as npt

from ._native import Model


class _Proto(Protocol):
    """An `onnx.ModelProto`."""

    def SerializeToString(self) -> bytes: ...


class _Module(Protocol):
    """A `torch.nn.Module`."""

    training: bool

    def state_dict(self) -> dict[str, Any]: ...


Path: TypeAlias = Union[str, "os.PathLike[str]"]
Tokens: TypeAlias = Union[npt.NDArray[np.integer[Any]], "list[int]"]
Text: TypeAlias = Union[Path, "Iterable[str]", Tokens]
ModelLike: TypeAlias = Union[Path, bytes, Model, _Proto, _Module]
