"""What goes into an exporter, and what comes out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes.quiver.config import Dims

__all__ = ("Arrays", "Artifact", "Request", "Session", "TensorInfo")

Arrays = dict[str, npt.NDArray[Any]]
# Runs an artifact: names of outputs, and the inputs -> those outputs.
Session = Callable[[Sequence[str], Arrays], list[npt.NDArray[Any]]]


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of an artifact; a None in its shape is variable."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype


@dataclass(frozen=True)
class Request:
    """How a network is to be exported; see `Model.export_version`.

    ``inputs`` and ``outputs`` are what the configuration declares, by an
    earlier version for instance: they hold where neither ``shapes`` nor
    ``samples`` are given. ``max_batch_size`` is the configuration's; 0 where
    nothing limits the batch.
    """

    shapes: Mapping[str, Dims] | Sequence[Dims] | None = None
    samples: Mapping[str, npt.ArrayLike] | Sequence[npt.ArrayLike] | None = (
        None
    )
    input_names: Sequence[str] | None = None
    output_names: Sequence[str] | None = None
    inputs: tuple[TensorInfo, ...] = ()
    outputs: tuple[TensorInfo, ...] = ()
    max_batch_size: int = 0
    verify: bool | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def declared(self) -> dict[str, Dims]:
        """Shapes of the declared inputs."""
        return {tensor.name: tensor.shape for tensor in self.inputs}


@dataclass(frozen=True)
class Artifact:
    """The result of an export.

    Attributes:
        files: Content by name, inside the version's directory.
        inputs: What it takes.
        outputs: What it gives.
        samples: Inputs to compare it with the network on, at several batch
            sizes.
        others: More of them, each compared as it is.
        reference: Computes the network's outputs, in their order; None if
            there is nothing to compare with.
        runtime: Name of the module whose ``open_artifact(files)`` gives a
            `Session` that runs it.
    """

    files: Mapping[str, bytes]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    samples: Arrays = field(default_factory=dict)
    others: tuple[Arrays, ...] = ()
    reference: Callable[[Arrays], list[npt.NDArray[Any]]] | None = None
    runtime: str = "hermes.quiver.verify"
