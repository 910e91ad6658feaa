"""A step of an ensemble, and which tensors it can be joined by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hermes.quiver import _graph
from hermes.quiver.config import Dims, ModelConfig
from hermes.quiver.errors import DtypeMismatch, EnsembleError, ShapeMismatch
from hermes.quiver.models import ExposedTensor, Model

if TYPE_CHECKING:
    from hermes.quiver.repository import ModelRepository

__all__ = ("Step", "check_fit", "check_here", "keep_order", "shapes_fit")


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


def check_here(
    repository: ModelRepository, tensor: ExposedTensor, kind: str
) -> None:
    """Refuse tensors of other repositories, and outputs for inputs.

    Raises:
        EnsembleError: If it is no such tensor of a model of the repository.
    """
    if not isinstance(tensor, ExposedTensor):
        msg = (
            f"{tensor!r} is no tensor; give one of a model's, such as"
            f" model.{kind}s['name']"
        )
        raise EnsembleError(msg)
    model = repository.models.get(tensor.model.name)
    exposed = getattr(tensor.model, f"{kind}s")
    known = exposed.get(tensor.name)
    if model is not tensor.model or known != replace(tensor, step=0):
        msg = (
            f"{tensor} is no {kind} of a model of {repository.root};"
            f" {tensor.model.name!r} has {kind}s {[*exposed]}"
        )
        raise EnsembleError(msg)


def keep_order(config: ModelConfig, models: Mapping[str, Model]) -> None:
    """Have stateless models answer in order where a state comes after.

    Triton runs several instances of a model, on CPUs too unless told
    otherwise: a request can overtake another of its sequence, and an average
    would be that of another order.

    Args:
        config: An ensemble's configuration.
        models: The models of its repository, whose configurations change.
    """
    for name in _graph.before_states(config, models):
        model = models[name]
        if not model.config.dynamic_batching.preserve_ordering:
            model.config.dynamic_batching.preserve_ordering = True
            model.write_config()
