"""Ask a server what its models are: what an ensemble runs."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from time import monotonic
from typing import Any

from hermes.aeriel._triton import TritonTransport
from hermes.aeriel.errors import (
    ClientError,
    DeadlineExceeded,
    ModelNotFound,
    ServerUnavailable,
)
from hermes.aeriel.monitor._metrics import Reading
from hermes.aeriel.monitor._rows import Watched
from hermes.aeriel.monitor._targets import Target, expand

__all__ = ("AllModels", "Models", "OneModel")

_QUESTION_SECONDS = 2.0
_PAUSE_SECONDS = 0.2


class OneModel:
    """A model, and what it runs.

    Args:
        name: Its name.
        version: Its version; None for all.
        patience: Seconds for which a server may be silent.
        stop: Setting it ends the wait for a server.
    """

    def __init__(
        self,
        name: str,
        version: int | None,
        patience: float,
        stop: threading.Event,
    ) -> None:
        self._name = name
        self._version = version
        self._patience = patience
        self._stop = stop
        self._found: dict[Target, tuple[Watched, ...]] = {}

    def find(self, target: Target) -> None:
        """Ask a server about it, before its metrics are read.

        Raises:
            ModelNotFound: If the server has no such model.
            ServerUnavailable: If it does not answer.
            DeadlineExceeded: If it does not answer in time.
        """
        end = monotonic() + self._patience
        while True:
            try:
                self._found[target] = self._ask(target)
            except (ServerUnavailable, DeadlineExceeded):
                if monotonic() > end:
                    raise
            else:
                return
            if self._stop.wait(_PAUSE_SECONDS):
                return

    def watched(
        self,
        target: Target,
        reading: Reading,  # noqa: ARG002 - AllModels needs it
    ) -> tuple[Watched, ...]:
        """What to make rows of."""
        return self._found.get(target, ())

    def _ask(self, target: Target) -> tuple[Watched, ...]:
        transport = TritonTransport(target.grpc)

        def config(name: str, version: int | None) -> Mapping[str, Any]:
            return transport.model_config(name, version, _QUESTION_SECONDS)

        try:
            return expand(self._name, self._version, config)
        finally:
            transport.close()


class AllModels:
    """All models of which a server tells something.

    Which of them are ensembles is asked once. A server that does not answer
    that, because its gRPC port is another one, is not asked again.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[Target, str], Watched] = {}
        self._is_silent: set[Target] = set()

    def find(self, target: Target) -> None:
        """Nothing to ask before the metrics are read."""

    def watched(self, target: Target, reading: Reading) -> tuple[Watched, ...]:
        """What to make rows of."""
        names = dict.fromkeys(name for name, _ in reading.counters)
        return tuple(self._one(target, name) for name in names)

    def _one(self, target: Target, name: str) -> Watched:
        key = target, name
        if key not in self._found:
            self._found[key] = Watched(
                name, is_ensemble=self._is_ensemble(target, name)
            )
        return self._found[key]

    def _is_ensemble(self, target: Target, name: str) -> bool:
        if target in self._is_silent:
            return False
        transport = TritonTransport(target.grpc)
        try:
            config = transport.model_config(name, None, _QUESTION_SECONDS)
        except ModelNotFound:
            return False  # its metrics are there, it is being unloaded
        except ClientError:
            self._is_silent.add(target)
            return False
        finally:
            transport.close()
        return "ensemble_scheduling" in config


Models = OneModel | AllModels
