"""A Keras 3 network -> what `exporters.tensorflow` makes of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard

import keras
import numpy as np

from hermes.quiver._extras import load
from hermes.quiver.errors import UnsupportedExport
from hermes.quiver.exporters._described import (
    Call,
    Known,
    Source,
    arguments,
    describe_inputs,
)
from hermes.quiver.exporters._types import Artifact, Request

__all__ = ("to_onnx", "to_savedmodel")

# What Keras calls an input that nobody named.
_UNNAMED = re.compile(r"(input_layer|keras_tensor)(_\d+)?")


def to_onnx(network: keras.Layer, request: Request) -> Artifact:
    """Export a Keras network in inference mode; it is left as it was.

    Raises:
        ExportFailed: If tf2onnx cannot convert it.
        InvalidInput: If the request does not fit the network.
        UnsupportedExport: If Keras runs on another backend than TensorFlow.
        MissingExtra: If the extra ``tensorflow`` is not installed.
    """
    artifact: Artifact = _tensorflow(keras.config.backend()).onnx_of(
        _source(network, request), request
    )
    return artifact


def to_savedmodel(network: keras.Layer, request: Request) -> Artifact:
    """Export a Keras network as a SavedModel; see `to_onnx`.

    Raises:
        ExportFailed: If TensorFlow cannot trace or save it.
        InvalidInput: If the request does not fit the network.
        UnsupportedExport: If Keras runs on another backend than TensorFlow.
        MissingExtra: If the extra ``tensorflow`` is not installed.
    """
    artifact: Artifact = _tensorflow(keras.config.backend()).savedmodel_of(
        _source(network, request), request
    )
    return artifact


def _tensorflow(backend: str) -> Any:
    if backend != "tensorflow":
        msg = (
            f"Keras runs on {backend} here, and is exported from TensorFlow:"
            " save the network with network.save('network.keras'), set"
            " KERAS_BACKEND=tensorflow in the environment of the process that"
            " exports it, and load it there with"
            " keras.saving.load_model('network.keras')"
        )
        raise UnsupportedExport(msg)
    return load("hermes.quiver.exporters.tensorflow")


def _source(network: keras.Layer, request: Request) -> Source:
    tensors = getattr(network, "inputs", None)
    if tensors:
        is_chain = isinstance(network, keras.Sequential)
        known: Sequence[Known] = [_known(t, network) for t in tensors]
        names = _output_names(network)
        form = tensors[0] if is_chain else network.input

        def call(values: Sequence[Any]) -> Any:
            structure = keras.tree.pack_sequence_as(form, [*values])
            return network(structure, training=False)

        in_words = ""
    else:
        how, known = _called(network, request)
        names, in_words = [], how.form_in_words

        def call(values: Sequence[Any]) -> Any:
            return how(network, values)

    return Source(
        name=type(network).__qualname__,
        inputs=describe_inputs(request, known),
        call=call,
        output_names=names,
        invented=_invented(network) if names else (),
        form=in_words,
        owner=network,
        unchanged=lambda: _unchanged(network),
    )


def _known(tensor: Any, network: keras.Model) -> Known:
    shape = tuple(tensor.shape)
    if isinstance(network, keras.Sequential) and not any(
        getattr(layer, "stateful", False) for layer in network.layers
    ):
        # What the first call came with, which it does not insist on.
        shape = (None, *shape[1:])
    name = tensor._keras_history.operation.name
    return Known(
        name,
        shape,
        _numpy(tensor.dtype),
        is_invented=_UNNAMED.fullmatch(name) is not None,
    )


def _output_names(network: keras.Model) -> list[str]:
    """Keras' own: those of the layers that the outputs come from."""
    if isinstance(network, keras.Sequential):
        return [network.layers[-1].name]
    return list(network.output_names)


def _invented(network: keras.Model) -> list[str]:
    """The layers with the names that Keras gives them, as ``conv1d_3``."""
    layers = getattr(network, "operations", network.layers)
    return [
        layer.name
        for layer in layers
        if re.sub(r"(_\d+)?$|_", "", layer.name)
        == type(layer).__name__.lower()
    ]


def _numpy(dtype: str) -> np.dtype:
    return np.dtype(object if dtype == "string" else dtype)


def _called(
    network: keras.Layer, request: Request
) -> tuple[Call, Sequence[Known]]:
    """How a network is called that has no inputs of its own.

    It remembers the shapes that it was built with, but does not insist.
    """
    how = arguments(network.call, request)
    shapes = (network.get_build_config() or {}).get("input_shape")
    if len(how.names) == 1 and _is_shape(shapes):
        return how, [_remembered(how.names[0], shapes)]
    if isinstance(shapes, Mapping) and all(map(_is_shape, shapes.values())):
        if how.form is None:
            how = Call(tuple(shapes), dict, how.options)
        return how, [_remembered(name, shapes.get(name)) for name in how.names]
    return how, [_remembered(name) for name in how.names]


def _remembered(name: str, shape: Sequence[int | None] | None = None) -> Known:
    return Known(
        name,
        None if shape is None else (None, *shape[1:]),
        is_binding=False,
        is_invented=True,
    )


def _is_shape(value: object) -> TypeGuard[Sequence[int | None]]:
    return isinstance(value, tuple | list) and all(
        size is None or isinstance(size, int) for size in value
    )


@contextmanager
def _unchanged(network: keras.Layer) -> Iterator[None]:
    """Undo what a call does to states, such as those of recurrent layers."""
    before = [(v, np.array(v)) for v in _states(network)]
    try:
        yield
    finally:
        for variable, value in before:
            if not np.array_equal(np.array(variable), value):
                variable.assign(value)


def _states(network: keras.Layer) -> list[Any]:
    remembered = [
        getattr(layer, "states", None) for layer in network._flatten_layers()
    ]
    # Keras does not count what a stateful layer remembers as its variables.
    own = [s for s in keras.tree.flatten(remembered) if s is not None]
    return [*network.non_trainable_variables, *own]
