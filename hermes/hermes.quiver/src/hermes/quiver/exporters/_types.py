"""What goes into an exporter, and what comes out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes.quiver.config import Dims

__all__ = ("Arrays", "Artifact", "Request", "TensorInfo")

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Request:
    """How a network is to be exported; see `Model.export_version`.

    ``declared`` are the shapes of an earlier version's inputs: they hold
    where neither ``shapes`` nor ``samples`` are given.
    """

    shapes: Mapping[str, Dims] | Sequence[Dims] | None = None
    samples: Mapping[str, npt.ArrayLike] | Sequence[npt.ArrayLike] | None = (
        None
    )
    input_names: Sequence[str] | None = None
    output_names: Sequence[str] | None = None
    declared: Mapping[str, Dims] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of an artifact; a None in its shape is variable."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype


@dataclass(frozen=True)
class Artifact:
    """The result of an export.

    Attributes:
        content: Bytes of the file.
        inputs: What it takes.
        outputs: What it gives.
        samples: Inputs to compare it with the network on.
        reference: Computes the network's outputs, in their order; None if
            there is nothing to compare with.
    """

    content: bytes
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    samples: Arrays = field(default_factory=dict)
    reference: Callable[[Arrays], list[npt.NDArray[Any]]] | None = None
