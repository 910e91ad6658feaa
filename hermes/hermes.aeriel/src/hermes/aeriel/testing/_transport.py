"""A fake of the seam between the client and the wire: no network at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Self

from hermes.aeriel._transport import Request, Response
from hermes.aeriel.errors import ClientError, ModelNotFound, StreamBroken
from hermes.aeriel.testing._engine import Engine, Refused
from hermes.aeriel.testing._models import FakeModel

__all__ = ("Answer", "FakeConnection", "FakeTransport")

Answer = Callable[[Request], Response | None]
Config = Mapping[str, Any]


class FakeTransport:
    """A server that is an object: give it to a client as ``transport=``.

    It answers in the thread that sends, so that a test has no threads but
    its own and decides what arrives when.

    Args:
        answer: Gives the response to a request; None to not answer it (yet:
            see `on_response`).
        configs: Configurations of its models by name, as mappings with
            Triton's field names.
        loadable: The same of models that must be loaded first.

    Attributes:
        answer: As given; may be changed at any time.
        configs: Those of the models that are ready.
        loadable: Those of the models that are not.
        requests: All requests, in the order in which they were sent.
        asked: Name and version of each model that was asked for.
        connections: All streams, in the order in which they were opened.
        is_closed: Whether the client has closed it.
    """

    def __init__(
        self,
        answer: Answer,
        configs: Mapping[str, Config],
        loadable: Mapping[str, Config] | None = None,
    ) -> None:
        self.answer = answer
        self.configs = dict(configs)
        self.loadable = dict(loadable or {})
        self.requests: list[Request] = []
        self.asked: list[tuple[str, int | None]] = []
        self.connections: list[FakeConnection] = []
        self.is_closed = False

    @classmethod
    def of(cls, *models: FakeModel) -> Self:
        """A server of models, which answers as `FakeTriton` does."""
        engine = Engine(models)

        def answer(request: Request) -> Response:
            try:
                return Response(request.id, engine.infer(request))
            except Refused as refused:
                return Response(request.id, error=refused.message)

        return cls(answer, {model.name: model.config for model in models})

    def __repr__(self) -> str:
        num_open = sum(connection.is_open for connection in self.connections)
        return (
            f"FakeTransport({', '.join(self.configs)};"
            f" {len(self.requests)} requests, {num_open} streams)"
        )

    def model_config(
        self,
        name: str,
        version: int | None,
        timeout: float,  # noqa: ARG002 - it answers at once
    ) -> Config:
        """See ``Transport.model_config``."""
        self.asked.append((name, version))
        if name not in self.configs:
            said = f"Request for unknown model: '{name}' is not found"
            msg = f"no model {name!r} on the fake server: {said}"
            raise ModelNotFound(msg, server_message=said)
        return self.configs[name]

    def load_model(
        self,
        name: str,
        timeout: float,  # noqa: ARG002 - it answers at once
    ) -> None:
        """See ``Transport.load_model``."""
        if name in self.loadable:
            self.configs[name] = self.loadable.pop(name)
        if name not in self.configs:
            said = f"failed to load '{name}', failed to poll from model"
            said = f"{said} repository"
            msg = f"the fake server cannot load {name!r}: {said}"
            raise ModelNotFound(msg, server_message=said)

    def connect(
        self,
        on_response: Callable[[Response], None],
        on_end: Callable[[ClientError | None], None],
    ) -> FakeConnection:
        """See ``Transport.connect``."""
        connection = FakeConnection(self, on_response, on_end)
        self.connections.append(connection)
        return connection

    def on_response(self, response: Response, connection: int = -1) -> None:
        """Let an answer arrive, on the last stream or another one."""
        self.connections[connection].on_response(response)

    def drop(self, reason: ClientError | None) -> None:
        """End the last stream, for a reason if the client did not want it."""
        self.connections[-1].drop(reason)

    def close(self) -> None:
        """See ``Transport.close``."""
        self.is_closed = True


class FakeConnection:
    """A stream of a `FakeTransport`, made by its ``connect``.

    Attributes:
        is_open: Whether it takes requests; may be set to False to have the
            next one refused.
    """

    def __init__(
        self,
        transport: FakeTransport,
        on_response: Callable[[Response], None],
        on_end: Callable[[ClientError | None], None],
    ) -> None:
        self.is_open = True
        self._transport = transport
        self._on_response = on_response
        self._on_end = on_end
        self._lock = threading.Lock()
        self._unanswered: set[str] = set()
        self._finishing = False
        self._ended = False

    def send(self, request: Request) -> None:
        """See ``Connection.send``."""
        with self._lock:
            if not self.is_open:
                raise StreamBroken("the stream has ended")
            self._unanswered.add(request.id)
            self._transport.requests.append(request)
        response = self._transport.answer(request)
        if response is not None:
            self.on_response(response)

    def on_response(self, response: Response) -> None:
        """Let an answer arrive."""
        self._on_response(response)
        with self._lock:
            self._unanswered.discard(response.id)
        self._end_if_done()

    def drop(self, reason: ClientError | None) -> None:
        """End the stream, for a reason if the client did not want it."""
        with self._lock:
            self.is_open = False
            if self._ended:
                return
            self._ended = True
        self._on_end(reason)

    def finish(self) -> None:
        """See ``Connection.finish``."""
        self._finishing = True
        self.is_open = False
        self._end_if_done()

    def close(self, timeout: float) -> None:  # noqa: ARG002 - ends at once
        """See ``Connection.close``."""
        self.drop(None)

    def _end_if_done(self) -> None:
        if self._finishing and not self._unanswered:
            self.drop(None)
