"""What a Triton server decides, and what it says, without a wire."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from hermes.aeriel._transport import Request
from hermes.aeriel.testing import _tensors
from hermes.aeriel.testing._errors import InvalidFake
from hermes.aeriel.testing._models import FakeModel

__all__ = ("Engine", "Received", "Refused", "log_prefix")

Arrays = Mapping[str, npt.NDArray[Any]]

_ONLY_VERSION = 1
_BATCH_NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a"
    " batch dimension to be prepended to each input shape. If you want to"
    " specify the full shape including the batch dim in your input dims"
    " config, try setting max_batch_size to zero. See the model configuration"
    " docs for more info on max_batch_size."
)


class Refused(Exception):
    """The server refuses a request.

    Args:
        code: Name of gRPC's status.
        message: What Triton says.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True)
class Received(Request):
    """A request as a fake server got it.

    Attributes:
        number: Its number on the server, counted from 1.
        headers: Metadata of the call, or of the stream, that it came by.
    """

    number: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)


class Engine:
    """A server's models and their states. Any thread may use it.

    Args:
        models: The repository.
        explicit: Whether models are loaded on demand.
        loaded: Names of those that are loaded then from the beginning.

    Raises:
        InvalidFake: If names are not unique, or one to load is unknown.
    """

    def __init__(
        self,
        models: Iterable[FakeModel],
        *,
        explicit: bool = False,
        loaded: Iterable[str] = (),
    ) -> None:
        several = list(models)
        self._repository = {model.name: model for model in several}
        if len(self._repository) < len(several):
            names = sorted(model.name for model in several)
            raise InvalidFake(f"two models have one name: {names}")
        self._explicit = explicit
        self._loaded = set(loaded if explicit else self._repository)
        unknown = self._loaded - set(self._repository)
        if unknown:
            raise InvalidFake(f"no such model to load: {sorted(unknown)}")
        self._lock = threading.Lock()
        self._unloaded: set[str] = set()
        self._states: dict[tuple[str, int], Any] = {}

    @property
    def sequences(self) -> tuple[tuple[str, int], ...]:
        """Model and id of each sequence that has begun and not ended."""
        with self._lock:
            return tuple(self._states)

    def expire(self, sequence_id: int | None) -> None:
        """Forget a sequence of all models; None for all sequences."""
        with self._lock:
            self._states = {
                key: state
                for key, state in self._states.items()
                if sequence_id not in {None, key[1]}
            }

    def is_ready(self, name: str, version: int | None) -> bool:
        """Whether a model can serve."""
        return name in self._loaded and version in {None, _ONLY_VERSION}

    def model(self, name: str, version: int | None = None) -> FakeModel:
        """A model that can serve.

        Raises:
            Refused: If there is none.
        """
        if self.is_ready(name, version):
            return self._repository[name]
        if name in self._unloaded and version is None:
            why = f"'{name}' has no available versions"
        elif version is None:
            why = f"'{name}' is not found"
        else:
            why = f"'{name}' version {version} is not found"
        raise Refused("NOT_FOUND", f"Request for unknown model: {why}")

    def index(self, *, ready: bool) -> Mapping[str, bool]:
        """The models, and whether they can serve; only those that can."""
        return {
            name: name in self._loaded
            for name in sorted(self._repository)
            if name in self._loaded or not ready
        }

    def load(self, name: str) -> None:
        """Load a model, anew if it is there.

        Raises:
            Refused: If the server does not load on demand, or has it not.
        """
        self._check_explicit()
        if name not in self._repository:
            msg = f"failed to load '{name}', failed to poll from model"
            raise Refused("INTERNAL", f"{msg} repository")
        with self._lock:
            self._loaded.add(name)
            self._unloaded.discard(name)
            self._forget(name)

    def unload(self, name: str) -> None:
        """Unload a model; nothing happens if there is none.

        Raises:
            Refused: If the server does not load on demand.
        """
        self._check_explicit()
        with self._lock:
            if name in self._loaded:
                self._loaded.discard(name)
                self._unloaded.add(name)
                self._forget(name)

    def infer(self, request: Request) -> Arrays:
        """Answer a request.

        Raises:
            Refused: If it does not fit the model, or the model fails.
        """
        model = self.model(request.model_name, request.model_version)
        _check_names(model, request)
        for name, array in request.inputs.items():
            _check_tensor(model, request, name, array)
        outputs = self._run(model, request)
        wanted = request.outputs or outputs
        # in the model's order, not the request's
        return {name: a for name, a in outputs.items() if name in wanted}

    def _run(self, model: FakeModel, request: Request) -> Arrays:
        if not model.is_stateful:
            return _run(model, None, request)[1]
        key = (model.name, request.sequence_id)
        # One after another: a sequence's requests must not overtake.
        with self._lock:
            self._check_sequence(key, request)
            if request.sequence_start:
                self._states[key] = model.start()
            self._states[key], outputs = _run(
                model, self._states[key], request
            )
            if request.sequence_end:
                del self._states[key]
        return outputs

    def _check_sequence(self, key: tuple[str, int], request: Request) -> None:
        name, sequence_id = key
        if not sequence_id:
            msg = (
                f"inference request to model '{name}' must specify a non-zero"
                " or non-empty correlation ID"
            )
            raise Refused("INVALID_ARGUMENT", msg)
        if not request.sequence_start and key not in self._states:
            msg = (
                f"inference request for sequence {sequence_id} to model"
                f" '{name}' must specify the START flag on the first request"
                " of the sequence"
            )
            raise Refused("INVALID_ARGUMENT", msg)

    def _check_explicit(self) -> None:
        if not self._explicit:
            msg = "explicit model load / unload is not allowed if polling is"
            raise Refused("UNAVAILABLE", f"{msg} enabled")

    def _forget(self, name: str) -> None:
        self._states = {k: v for k, v in self._states.items() if k[0] != name}


def log_prefix(request_id: str) -> str:
    """How Triton begins some messages."""
    return f"[request id: {request_id or '<id_unknown>'}] "


def _run(model: FakeModel, state: Any, request: Request) -> tuple[Any, Arrays]:
    try:
        return model.run(state, request)
    except Exception as error:  # the model's author raises what they like
        msg = (
            "Failed to process the request(s) for model"
            f" '{model.name}', message: {type(error).__name__}: {error}"
        )
        raise Refused("INTERNAL", msg) from error


def _check_names(model: FakeModel, request: Request) -> None:
    declared = {kind: model.tensors(kind) for kind in ("input", "output")}
    given = {"input": request.inputs, "output": request.outputs}
    for kind, names in given.items():
        for name in names:
            if name not in declared[kind]:
                msg = (
                    f"unexpected inference {kind} '{name}' for model"
                    f" '{model.name}'"
                )
                raise Refused("INVALID_ARGUMENT", msg)
    optional = {
        t["name"] for t in model.config.get("input", ()) if t.get("optional")
    }
    required = [n for n in declared["input"] if n not in optional]
    missing = [n for n in required if n not in request.inputs]
    if missing:
        msg = (
            f"{log_prefix(request.id)}expected {len(required)} inputs but got"
            f" {len(request.inputs)} inputs for model '{model.name}'. Got"
            f" input(s) {_list(request.inputs)}, but missing required"
            f" input(s) {_list(missing)}. Please provide all required"
            " input(s)."
        )
        raise Refused("INVALID_ARGUMENT", msg)


def _check_tensor(
    model: FakeModel, request: Request, name: str, array: npt.NDArray[Any]
) -> None:
    wire, shape = model.tensors("input")[name]
    given = _tensors.to_wire(array.dtype)
    if given != wire:
        _refuse(
            request,
            f"inference input '{name}' data-type is '{given}', but model"
            f" '{model.name}' expects '{wire}'",
        )
    limit = model.max_batch_size
    if limit and array.ndim == len(shape) and array.shape[0] > limit:
        _refuse(
            request,
            f"inference request batch-size must be <= {limit} for"
            f" '{model.name}'",
        )
    if not _fits(array.shape, shape):
        _refuse(
            request,
            f"unexpected shape for input '{name}' for model '{model.name}'."
            f" Expected {_numbers(shape)}, got {_numbers(array.shape)}."
            f" {_BATCH_NOTE if limit else ''}",
        )


def _refuse(request: Request, message: str) -> None:
    raise Refused("INVALID_ARGUMENT", f"{log_prefix(request.id)}{message}")


def _fits(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    return len(shape) == len(declared) and all(
        size in {-1, given}
        for given, size in zip(shape, declared, strict=True)
    )


def _list(names: Iterable[str]) -> str:
    return "[" + ",".join(f"'{name}'" for name in names) + "]"


def _numbers(shape: Iterable[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
