"""A step of an ensemble, and whether tensors of two steps fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hermes.quiver.config import Dims
from hermes.quiver.errors import DtypeMismatch, ShapeMismatch
from hermes.quiver.models import ExposedTensor, Model

__all__ = ("Step", "check_fit", "shapes_fit")


@dataclass(frozen=True)
class Step:
    """One of an ensemble's steps; made by `Ensemble.add_step`.

    Attributes:
        model: The model that it runs.
        index: Which of the ensemble's steps that run this model it is.
    """

    model: Model
    index: int

    @property
    def inputs(self) -> dict[str, ExposedTensor]:
        """The model's inputs, in this step."""
        return self._own(self.model.inputs)

    @property
    def outputs(self) -> dict[str, ExposedTensor]:
        """The model's outputs, in this step."""
        return self._own(self.model.outputs)

    def _own(
        self, tensors: dict[str, ExposedTensor]
    ) -> dict[str, ExposedTensor]:
        return {
            name: replace(tensor, step=self.index)
            for name, tensor in tensors.items()
        }


def shapes_fit(one: Dims, other: Dims) -> bool:
    """Whether a tensor of one shape can be taken for one of the other."""
    return len(one) == len(other) and all(
        a == b or None in {a, b} for a, b in zip(one, other, strict=True)
    )


def check_fit(source: ExposedTensor, target: ExposedTensor) -> None:
    """Refuse to join tensors that Triton could not pass on.

    Raises:
        ShapeMismatch: If their shapes do not fit.
        DtypeMismatch: If their dtypes differ.
    """
    if source.dtype != target.dtype:
        msg = (
            f"{source} is {source.dtype} but {target} is {target.dtype};"
            " cast inside one of the networks"
        )
        raise DtypeMismatch(msg)
    if not shapes_fit(source.shape, target.shape):
        msg = (
            f"{source} of shape {source.shape} does not fit {target} of"
            f" shape {target.shape}"
        )
        raise ShapeMismatch(msg)
