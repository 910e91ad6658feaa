"""A ``torch.nn.Module`` -> ONNX and TorchScript."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt
import onnx
import onnxscript  # noqa: F401  # torch.onnx needs it: fail here, named
import torch

from hermes.quiver.errors import ExportFailed, InvalidInput, QuiverError
from hermes.quiver.exporters._inputs import refuse_unknown
from hermes.quiver.exporters._quiet import quiet
from hermes.quiver.exporters._torch_errors import explain
from hermes.quiver.exporters._torch_network import (
    as_array,
    as_tensors,
    check_shapes,
    evaluating,
    unchanged,
)
from hermes.quiver.exporters._torch_prepare import Prepared, prepare
from hermes.quiver.exporters._types import (
    Arrays,
    Artifact,
    Request,
    Session,
    TensorInfo,
)
from hermes.quiver.exporters.onnx import check_size, describe
from hermes.quiver.platforms import Platform

__all__ = ("open_artifact", "to_onnx", "to_torchscript", "unchanged")

_jit: Any = torch.jit  # half of it has no types
# Below it torch's exporter has no operators, and its predecessor takes over.
_OLDEST_OPSET = 18
_OLDEST_RECORDED = 7
_LOGGERS = ("torch", "onnxscript", "onnx_ir")
_METHODS = ("trace", "script")
# Where the names of a TorchScript's inputs and outputs are kept in its file.
_NAMES = "hermes.json"


def to_onnx(network: torch.nn.Module, request: Request) -> Artifact:
    """Export a module in evaluation mode; it is left as it was.

    Option: ``opset_version``, of ONNX's operators. Below 18 torch's older
    exporter is used, which records what the network does with its example.

    Raises:
        ExportFailed: If torch cannot export it.
        InvalidInput: If the request does not fit the module's ``forward``.
    """
    refuse_unknown(request.options, ("opset_version",), "torch -> ONNX")
    opset = _opset(request.options.get("opset_version"))
    _refuse_script(network)
    check_shapes(network)
    state = [*network.parameters(), *network.buffers()]
    check_size(sum(t.numel() * t.element_size() for t in state))
    with evaluating(network):
        prepared = prepare(network, request)
        old = opset is not None and opset < _OLDEST_OPSET
        export, cure = _RECORDING if old else _CAPTURING
        proto, others = _attempt(
            prepared, "ONNX", cure, lambda: export(prepared, opset)
        )
    _check_opset(proto, opset)
    artifact = describe(proto)
    _check_inputs(artifact.inputs, prepared)
    return dataclasses.replace(
        artifact,
        samples=prepared.samples,
        others=others,
        reference=prepared.reference,
    )


def _opset(version: Any) -> int | None:
    latest = onnx.defs.onnx_opset_version()
    if version is None or (
        isinstance(version, int) and _OLDEST_RECORDED <= version <= latest
    ):
        return version
    msg = (
        f"opset_version={version!r} is none of {_OLDEST_RECORDED} to {latest}"
    )
    raise InvalidInput(msg)


def _refuse_script(network: torch.nn.Module) -> None:
    if isinstance(network, torch.jit.ScriptModule):
        msg = (
            "torch exports no ScriptModule to ONNX; give the module that it"
            " was made of, or use Platform.TORCHSCRIPT"
        )
        raise ExportFailed(msg)


def _check_opset(proto: onnx.ModelProto, wanted: int | None) -> None:
    """Torch leaves the opset as it is where it cannot convert, silently."""
    if wanted not in {None, proto.opset_import[0].version}:
        msg = (
            f"torch cannot export this network with opset_version={wanted};"
            " leave it out, or take an older one"
        )
        raise ExportFailed(msg)


def _check_inputs(inputs: Sequence[TensorInfo], prepared: Prepared) -> None:
    """Torch leaves out what is not used, and fixes sizes, silently."""
    names = [tensor.name for tensor in inputs]
    if names != list(prepared.samples):
        msg = (
            f"torch exported {prepared.name} with the inputs {names} instead"
            f" of {list(prepared.samples)}; does forward use them all?"
        )
        raise ExportFailed(msg)
    for name, tensor in zip(names, inputs, strict=True):
        if tensor.shape != prepared.shapes[name]:
            msg = (
                f"exported to ONNX, {prepared.name} takes {name}"
                f" {tensor.shape} only, not {prepared.shapes[name]}: it uses"
                " a size as a number of Python's, as len(x) and loops over x"
                " do (x.shape[0] is none); or fix that size in input_shapes"
            )
            raise ExportFailed(msg)


def _captured(prepared: Prepared, opset: int | None) -> onnx.ModelProto:
    program = torch.onnx.export(
        prepared.network,
        args=prepared.tensors(),
        dynamo=True,
        verbose=False,
        input_names=list(prepared.samples),
        output_names=list(prepared.outputs),
        dynamic_shapes={"tensors": _dynamic_shapes(prepared.shapes)},
        opset_version=opset,
        external_data=False,
    )
    if program is None:  # torch's annotation allows it
        msg = "torch exported nothing"
        raise ExportFailed(msg)
    return program.model_proto


def _dynamic_shapes(
    shapes: Mapping[str, tuple[int | None, ...]],
) -> tuple[dict[int, Any], ...]:
    # One symbol for the batch axis of every input: they vary together.
    batch = torch.export.Dim("batch", min=1)
    return tuple(
        {
            axis: batch if axis == 0 else torch.export.Dim.DYNAMIC
            for axis, size in enumerate(shape)
            if size is None
        }
        for shape in shapes.values()
    )


def _recorded(prepared: Prepared, opset: int | None) -> onnx.ModelProto:
    file: Any = io.BytesIO()  # torch's annotation has forgotten these
    with _without_fast_path():
        torch.onnx.export(
            prepared.network,
            prepared.tensors(),
            file,
            dynamo=False,
            input_names=list(prepared.samples),
            output_names=list(prepared.outputs),
            dynamic_axes={
                name: {
                    axis: f"{name}_{axis}" if axis else "batch"
                    for axis, size in enumerate(shape)
                    if size is None
                }
                for name, shape in prepared.shapes.items()
            },
            opset_version=opset,
        )
    return onnx.load_from_string(file.getvalue())


@contextmanager
def _without_fast_path() -> Iterator[None]:
    """ONNX has no operator for the fast path of torch's own transformers."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


_CAPTURING = (
    _captured,
    "try opset_version=17 (torch's older exporter) or Platform.TORCHSCRIPT",
)
_RECORDING = (
    _recorded,
    "leave opset_version out, or try Platform.TORCHSCRIPT",
)


def _attempt(
    prepared: Prepared, target: str, cure: str, export: Callable[[], Any]
) -> tuple[Any, tuple[Arrays, ...]]:
    """Export, and say which other examples the result is to be tried on."""
    try:
        with quiet(_LOGGERS) as heard:
            exported = export()
    except QuiverError:
        raise
    except Exception as error:
        what = f"{prepared.name} to {target}"
        msg = f"torch cannot export {what}: {explain(error, cure)}"
        raise ExportFailed(msg) from error
    others = prepared.others
    # A recording has only one side of each branch. Not every warning is of
    # one; the other side of zero mostly shows which are.
    if any(issubclass(w.category, _jit.TracerWarning) for w in heard.warnings):
        others = (*others, *prepared.negated())
    return exported, others


def to_torchscript(network: torch.nn.Module, request: Request) -> Artifact:
    """Record (or compile) a module in evaluation mode; it is left as it was.

    The result is frozen, and runs on the device that it is loaded to.
    Option: ``method``, ``"trace"`` (what it does with an example) or
    ``"script"`` (compiled, with branches and loops); what is a
    ``ScriptModule`` already is taken as it is.

    Raises:
        ExportFailed: If torch cannot export it.
        InvalidInput: If the request does not fit the module's ``forward``.
    """
    refuse_unknown(request.options, ("method",), "torch -> TORCHSCRIPT")
    is_script = isinstance(network, torch.jit.ScriptModule)
    method = request.options.get("method", _METHODS[is_script])
    if method not in _METHODS:
        msg = f"method={method!r} is none of {', '.join(_METHODS)}"
        raise InvalidInput(msg)
    check_shapes(network)
    with evaluating(network):
        prepared = prepare(network, request)
        _check_indices(list(prepared.outputs))
        make, other = (
            (_traced, "script") if method == "trace" else (_scripted, "trace")
        )
        content, others = _attempt(
            prepared,
            "TorchScript",
            f"try method={other!r}",
            lambda: _content(make(prepared), prepared),
        )
        outputs = prepared.output_infos()
    return Artifact(
        files={Platform.TORCHSCRIPT.filename: content},
        inputs=tuple(
            TensorInfo(name, shape, prepared.samples[name].dtype)
            for name, shape in prepared.shapes.items()
        ),
        outputs=outputs,
        samples=prepared.samples,
        others=others,
        reference=prepared.reference,
        runtime=__name__,
    )


def _check_indices(names: Sequence[str]) -> None:
    """Triton's backend takes the digits after ``__`` for an output's place."""
    places = [name.partition("__")[2] for name in names]
    if not all(place.isdigit() for place in places):
        return
    if [int(place) for place in places] != list(range(len(names))):
        msg = (
            f"output_names={list(names)}: Triton takes the digits after '__'"
            " for the output's place, which counts from 0"
        )
        raise InvalidInput(msg)


def _traced(prepared: Prepared) -> Any:
    # Triton finds inputs by the names of forward's arguments.
    network = prepared.network.with_signature(list(prepared.samples))
    return _jit.trace(network, prepared.tensors(), check_trace=False)


def _scripted(prepared: Prepared) -> Any:
    network = prepared.network.network
    is_script = isinstance(network, torch.jit.ScriptModule)
    module: Any = network if is_script else torch.jit.script(network)
    schema = module.forward.schema
    arguments = schema.arguments[1:]
    names = [argument.name for argument in arguments]
    given = list(prepared.samples)
    is_renamed = prepared.network.arguments is None
    fits = len(given) == len(names) if is_renamed else given == names
    if not fits or any(a.type.kind() != "TensorType" for a in arguments):
        msg = (
            f"Triton gives a script tensors for all its arguments, {names},"
            f" and not for {given} only (method='trace' keeps the defaults)"
        )
        raise InvalidInput(msg)
    if not _is_flat(schema.returns[0].type):
        msg = (
            f"the script returns {schema.returns[0].type}; Triton takes a"
            " tensor or a tuple of tensors (method='trace' makes one)"
        )
        raise InvalidInput(msg)
    return module


def _is_flat(kind: Any) -> bool:
    kinds = kind.elements() if kind.kind() == "TupleType" else [kind]
    return all(k.kind() == "TensorType" for k in kinds)


def _content(module: Any, prepared: Prepared) -> bytes:
    is_frozen = not hasattr(module, "training")
    module = _copy(module) if is_frozen else torch.jit.freeze(module)
    _follow_inputs(module.graph)
    names = {"inputs": [*prepared.samples], "outputs": [*prepared.outputs]}
    file = io.BytesIO()
    torch.jit.save(module, file, {_NAMES: json.dumps(names)})
    return file.getvalue()


def _copy(module: Any) -> Any:
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    return _jit.load(file)


def _follow_inputs(graph: Any) -> None:
    """Let new tensors be where the inputs are, not where the example was."""
    tensors = [
        value
        for value in graph.inputs()
        if isinstance(value.type(), torch._C.TensorType)
    ]
    kind = torch._C.DeviceObjType
    for node in graph.findAllNodes("prim::Constant"):
        if tensors and isinstance(node.output().type(), kind):
            device = graph.create("prim::device", tensors[:1])
            device.output().setType(kind.get())
            graph.prependNode(device)
            node.output().replaceAllUsesWith(device.output())
            node.destroy()


def open_artifact(files: Mapping[str, bytes]) -> Session:
    """Load the TorchScript among a version's files, on the CPU."""
    kept = {_NAMES: ""}
    with quiet(_LOGGERS):
        module = _jit.load(
            io.BytesIO(files[Platform.TORCHSCRIPT.filename]),
            map_location="cpu",
            _extra_files=kept,
        )
    names = json.loads(kept[_NAMES])

    def session(
        wanted: Sequence[str], feeds: Arrays
    ) -> list[npt.NDArray[Any]]:
        arrays = {name: feeds[name] for name in names["inputs"]}
        with torch.random.fork_rng([]), torch.no_grad():
            result = module(*as_tensors(arrays, torch.device("cpu")))
        outputs = result if isinstance(result, tuple) else (result,)
        given = dict(zip(names["outputs"], outputs, strict=True))
        return [as_array(given[name]) for name in wanted]

    return session
