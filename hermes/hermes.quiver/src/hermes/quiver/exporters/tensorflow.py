"""A ``tf.Module``, or a function of TensorFlow's -> ONNX, SavedModel."""

from __future__ import annotations

import inspect
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes.quiver.errors import ExportFailed, InvalidInput
from hermes.quiver.exporters._described import (
    Known,
    Source,
    arguments,
    describe_inputs,
)
from hermes.quiver.exporters._inputs import refuse_unknown
from hermes.quiver.exporters._names import unique_names
from hermes.quiver.exporters._reasons import reason
from hermes.quiver.exporters._tensorflow import quietly, tf
from hermes.quiver.exporters._tensorflow_convert import check_opset, convert
from hermes.quiver.exporters._tensorflow_trace import (
    CPU,
    Traced,
    as_numpy,
    trace,
)
from hermes.quiver.exporters._types import (
    Arrays,
    Artifact,
    Request,
    Session,
)
from hermes.quiver.platforms import Platform

__all__ = (
    "onnx_of",
    "open_artifact",
    "savedmodel_of",
    "to_onnx",
    "to_savedmodel",
    "unchanged",
)

_SIGNATURE = "serving_default"
_FUNCTIONS = (
    tf.types.experimental.PolymorphicFunction,
    tf.types.experimental.ConcreteFunction,
)
_IDENTIFIER = re.compile(r"[A-Za-z]\w*", re.ASCII)


def to_onnx(network: Any, request: Request) -> Artifact:
    """Export what TensorFlow can call; it is left as it was.

    Raises:
        ExportFailed: If tf2onnx cannot convert it.
        InvalidInput: If the request does not fit the network.
    """
    return onnx_of(_source(network, request), request)


def to_savedmodel(network: Any, request: Request) -> Artifact:
    """Export what TensorFlow can call as a SavedModel.

    Raises:
        ExportFailed: If TensorFlow cannot trace or save it.
        InvalidInput: If the request does not fit the network.
    """
    return savedmodel_of(_source(network, request), request)


@contextmanager
def unchanged(network: Any) -> Iterator[None]:
    """Give a module's variables their values back."""
    before = [(v, v.numpy()) for v in getattr(network, "variables", ())]
    try:
        yield
    finally:
        for variable, value in before:
            if not np.array_equal(variable.numpy(), value):
                variable.assign(value)


def onnx_of(source: Source, request: Request) -> Artifact:
    """Export a network to ONNX; see `to_onnx`."""
    opset = check_opset(request.options)
    return convert(source, trace(source, request, device=CPU), opset)


def savedmodel_of(source: Source, request: Request) -> Artifact:
    """Export a network as a SavedModel; see `to_savedmodel`."""
    refuse_unknown(request.options, (), "this export to a SavedModel")
    traced = trace(source, request, device=None)
    names = [tensor.name for tensor in (*traced.inputs, *traced.outputs)]
    unusable = [name for name in names if not _IDENTIFIER.fullmatch(name)]
    if unusable:
        msg = (
            f"a SavedModel has no tensors called {unusable}, only such names"
            " as Python's variables have; give input_names or output_names"
        )
        raise InvalidInput(msg)
    return Artifact(
        files={
            f"{Platform.SAVEDMODEL.filename}/{name}": content
            for name, content in _save(source, traced).items()
        },
        inputs=traced.inputs,
        outputs=traced.outputs,
        samples=traced.samples,
        others=traced.others,
        reference=traced.reference,
        runtime=__name__,
    )


def _save(source: Source, traced: Traced) -> dict[str, bytes]:
    concrete = traced.concrete
    holder = tf.Module()
    # Not the network itself, which has its optimizer's variables, too.
    holder.held = list(concrete.variables)
    captured = [v for v, _ in concrete.graph.captures]
    resources = [v for v in captured if v.dtype == tf.resource]
    if len(resources) > len(concrete.variables):
        holder.network = source.owner  # it has tables
    with quietly(), _in_memory() as directory:
        try:
            tf.saved_model.save(
                holder, directory, signatures={_SIGNATURE: concrete}
            )
        except Exception as error:
            msg = f"TensorFlow cannot save {source.name}: {reason(error)}"
            raise ExportFailed(msg) from error
        return dict(_files(directory))


@contextmanager
def _in_memory() -> Iterator[str]:
    """A directory of TensorFlow's own, of which a killed process leaves none.

    It writes SavedModels nowhere but to directories.
    """
    directory = f"ram://{uuid.uuid4()}"
    tf.io.gfile.makedirs(directory)
    try:
        yield directory
    finally:
        tf.io.gfile.rmtree(directory)


def _files(directory: str) -> Iterator[tuple[str, bytes]]:
    for folder, _, names in tf.io.gfile.walk(directory):
        for name in sorted(names):
            path = f"{folder.rstrip('/')}/{name}"
            with tf.io.gfile.GFile(path, "rb") as file:
                yield path.removeprefix(f"{directory}/"), file.read()


def open_artifact(files: Mapping[str, bytes]) -> Session:
    """Load the SavedModel among a version's files."""
    with quietly(), tf.device(CPU), _in_memory() as directory:
        for name, content in files.items():
            path = f"{directory}/{name}"
            tf.io.gfile.makedirs(path.rpartition("/")[0])
            with tf.io.gfile.GFile(path, "wb") as file:
                file.write(content)
        loaded = tf.saved_model.load(
            f"{directory}/{Platform.SAVEDMODEL.filename}"
        )

    def run(names: Sequence[str], arrays: Arrays) -> list[npt.NDArray[Any]]:
        with quietly(), tf.device(CPU):
            tensors = {n: tf.constant(array) for n, array in arrays.items()}
            results = loaded.signatures[_SIGNATURE](**tensors)
        return [np.asarray(results[name].numpy()) for name in names]

    return run


def _source(network: Any, request: Request) -> Source:
    function = _function_of(network)
    structure = _signature(function)
    form = ""
    if structure is None:
        how = arguments(function, request)
        form = how.form_in_words
        known = [Known(name, is_invented=True) for name in how.names]

        def call(tensors: Sequence[Any]) -> Any:
            return how(function, tensors)
    else:
        known = _known(function, structure)

        def call(tensors: Sequence[Any]) -> Any:
            args, kwargs = tf.nest.pack_sequence_as(structure, [*tensors])
            return function(*args, **kwargs)

    return Source(
        name=type(network).__qualname__,
        inputs=describe_inputs(request, known),
        call=call,
        form=form,
        owner=network,
    )


def _function_of(network: Any) -> Any:
    """What is to be called of what TensorFlow has made."""
    if isinstance(network, _FUNCTIONS):
        return network
    signatures = getattr(network, "signatures", {})
    if _SIGNATURE in signatures:  # it was loaded
        return signatures[_SIGNATURE]
    if callable(network):
        return network.__call__
    msg = (
        f"{type(network).__qualname__} cannot be called: give it a __call__,"
        " or export one of its tf.functions"
    )
    raise InvalidInput(msg)


def _signature(function: Any) -> Any:
    """The arguments that a function insists on, as it takes them."""
    if isinstance(function, _FUNCTIONS[1]):
        return function.structured_input_signature
    signature = getattr(function, "input_signature", None)
    return None if signature is None else (signature, {})


def _known(function: Any, structure: Any) -> list[Known]:
    args, kwargs = structure
    specs = tf.nest.flatten(structure)
    names = [spec.name for spec in specs]
    if kwargs and not args:
        names = sorted(kwargs)
    elif None in names:
        parameters = list(inspect.signature(function).parameters)
        names = parameters[: len(specs)]
    return [
        Known(
            name,
            None if spec.shape.rank is None else tuple(spec.shape),
            as_numpy(spec.dtype),
        )
        for name, spec in zip(unique_names(names, ()), specs, strict=True)
    ]
