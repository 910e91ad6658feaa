"""Have models loaded and unloaded by a running server."""

import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from hermes.aeriel.errors import ModelControlFailed, ServerTimeout
from hermes.aeriel.serve._readiness import ask

__all__ = ("ModelState", "index", "load", "unload")

_POLL_SECONDS = 0.02
# What Triton says where models are not loaded on demand.
_NOT_ALLOWED = "load / unload is not allowed"


@dataclass(frozen=True)
class ModelState:
    """One version of a model, as the server sees it.

    Args:
        name: The model.
        version: Its version; empty if none was loaded.
        state: ``"READY"``, ``"LOADING"``, ``"UNLOADING"``, ``"UNAVAILABLE"``;
            empty if it was never loaded.
        reason: Why, if the server says.
    """

    name: str
    version: str
    state: str
    reason: str


def index(address: str, timeout: float) -> list[ModelState]:
    """Return what the server's repositories have.

    Args:
        address: ``"host:port"`` of the server's HTTP service.
        timeout: Seconds that it may take.

    Raises:
        ModelControlFailed: If the server does not say.
        ServerTimeout: If there is no answer in time.
    """
    deadline = time.monotonic() + timeout
    path, what = "/v2/repository/index", "tell its models"
    status, answer = _ask(address, path, "{}", deadline, what)
    try:
        found = json.loads(answer)
    except ValueError:
        found = None
    if status != 200 or not isinstance(found, list):
        raise ModelControlFailed(
            f"the server at {address} did not {what}: {_message(answer)}"
        )
    words = ("name", "version", "state", "reason")
    return [
        ModelState(*(str(entry.get(word, "")) for word in words))
        for entry in found
    ]


def load(
    address: str, name: str, config: Mapping[str, Any] | None, timeout: float
) -> None:
    """Have a model loaded, or loaded again; it is ready afterwards.

    Args:
        address: ``"host:port"`` of the server's HTTP service.
        name: The model.
        config: A configuration to use instead of the repository's.
        timeout: Seconds that it may take.

    Raises:
        ModelControlFailed: If the server refuses, or cannot load it.
        ServerTimeout: If there is no answer in time.
    """
    parameters = {} if config is None else {"config": json.dumps(config)}
    _control(address, name, "load", parameters, timeout)


def unload(
    address: str, name: str, timeout: float, *, dependents: bool = False
) -> None:
    """Have a model unloaded; it takes no request any more afterwards.

    Args:
        address: ``"host:port"`` of the server's HTTP service.
        name: The model.
        timeout: Seconds that it may take.
        dependents: Unload the models that only it needed, too.

    Raises:
        ModelControlFailed: If the server refuses.
        ServerTimeout: If there is no answer in time.
    """
    deadline = time.monotonic() + timeout
    parameters = {"unload_dependents": True} if dependents else {}
    _control(address, name, "unload", parameters, timeout)
    # Triton answers as soon as it has begun.
    while _is_busy(address, name, deadline):
        time.sleep(_POLL_SECONDS)


def _control(
    address: str,
    name: str,
    verb: str,
    parameters: Mapping[str, Any],
    timeout: float,
) -> None:
    path = f"/v2/repository/models/{quote(name, safe='')}/{verb}"
    body = json.dumps({"parameters": parameters}) if parameters else "{}"
    what = f"{verb} model {name!r}"
    deadline = time.monotonic() + timeout
    status, answer = _ask(address, path, body, deadline, what)
    if status != 200:
        told = _message(answer)
        hint = "; start it with model_control='explicit'"
        raise ModelControlFailed(
            f"the server at {address} did not {what}: {told}"
            f"{hint if _NOT_ALLOWED in told else ''}"
        )


def _is_busy(address: str, name: str, deadline: float) -> bool:
    """Whether a version of a model is not yet unloaded."""
    left = max(0.0, deadline - time.monotonic())
    return any(
        model.name == name and model.state not in ("UNAVAILABLE", "")
        for model in index(address, left)
    )


def _ask(
    address: str, path: str, body: str, deadline: float, what: str
) -> tuple[int, bytes]:
    try:
        return ask(address, "POST", path, deadline, body)
    except TimeoutError as error:
        raise ServerTimeout(
            f"the server at {address} did not {what} in time; give it more "
            "with timeout="
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise ModelControlFailed(
            f"the server at {address} did not {what}: {error!r}; has it ended?"
        ) from error


def _message(answer: bytes) -> str:
    try:
        found = json.loads(answer)
    except ValueError:
        found = None
    told = found.get("error") if isinstance(found, dict) else None
    return str(told or answer.decode("utf-8", "replace")[:300])
