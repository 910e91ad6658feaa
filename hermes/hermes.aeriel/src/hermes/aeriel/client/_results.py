"""What a sequence answers with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from hermes.aeriel._html import table
from hermes.aeriel.errors import InvalidRequest

__all__ = ("StreamResult",)


@dataclass(frozen=True, eq=False)
class StreamResult:
    """The answer to one update of a sequence.

    Attributes:
        outputs: Arrays by the names of the model's outputs. Of an update
            shorter than the model's, only the predictions that it reached.
        index: Position of the update in its sequence, from 0.
        num_warmup: How many of the predictions, from the first, are not
            valid yet: their kernels begin before the stream did.
        latency: Seconds from sending the update to its answer.
    """

    outputs: Mapping[str, npt.NDArray[Any]]
    index: int
    num_warmup: int
    latency: float

    @property
    def output(self) -> npt.NDArray[Any]:
        """The array of a model with one output.

        Raises:
            InvalidRequest: If the model has several.
        """
        if len(self.outputs) != 1:
            msg = f"several outputs: take .outputs[name] of {[*self.outputs]}"
            raise InvalidRequest(msg)
        return next(iter(self.outputs.values()))

    @property
    def is_valid(self) -> bool:
        """Whether all of the predictions are."""
        return self.num_warmup == 0

    def __repr__(self) -> str:
        shapes = {name: array.shape for name, array in self.outputs.items()}
        return (
            f"StreamResult(index={self.index}, outputs={shapes},"
            f" num_warmup={self.num_warmup})"
        )

    def _repr_html_(self) -> str:
        state = "valid" if self.is_valid else f"{self.num_warmup} warming up"
        return table(
            [
                (name, array.shape, array.dtype, state)
                for name, array in self.outputs.items()
            ],
            head=(f"update {self.index}", "shape", "dtype", "predictions"),
        )
