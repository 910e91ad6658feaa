"""A scripted Triton in this process.

General layout: clients connect to a `FaultyProxy` (the network), which
forwards to a gRPC server (`_service`), which asks an `Engine` (the models and
their sequences). What goes wrong is in a `Schedule`; what concerns
connections, such as a freeze or a reset, is done by the proxy, for gRPC gives
nobody its sockets.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Self, cast

import grpc

from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.errors import DeadlineExceeded
from hermes.aeriel.testing._engine import Engine, Received
from hermes.aeriel.testing._faults import Fault, Schedule
from hermes.aeriel.testing._messages import config_message
from hermes.aeriel.testing._models import FakeModel
from hermes.aeriel.testing._proxy import FaultyProxy, bound_socket
from hermes.aeriel.testing._service import handler
from hermes.aeriel.testing._threads import Threads

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = ("FakeTriton",)

_CLOSE_SECONDS = 10.0
_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)


class FakeTriton:
    """A scripted fake of Triton: a gRPC server on a free loopback port.

    Args:
        *models: Its models.
        explicit: Whether models are loaded on demand; all are loaded
            otherwise.
        loaded: Names of those loaded from the beginning, if ``explicit``.
        faults: What shall go wrong; see `inject`.

    Attributes:
        endpoint: Where it listens; for its gRPC only: nothing answers at the
            other two addresses.
        network: The proxy in front of it, for delays and the like.

    Raises:
        InvalidFake: If a model's configuration is none, or two have one
            name.

    A context manager; leaving it ends all that it started. It checks
    requests as Triton does and refuses them in Triton's words, keeps the
    state of sequences, and answers each stream in order.
    """

    def __init__(
        self,
        *models: FakeModel,
        explicit: bool = False,
        loaded: Iterable[str] = (),
        faults: Iterable[Fault] = (),
    ) -> None:
        self._new_engine = partial(
            Engine, models, explicit=explicit, loaded=tuple(loaded)
        )
        self._engine = self._new_engine()
        for model in models:
            config_message(model)
        self._schedule = Schedule()
        self._schedule.add(*faults)
        self._requests: list[Received] = []
        self._num_arrived = 0
        self._arrival = threading.Condition()
        self._lock = threading.RLock()
        # Not the same: what freezes may hold up the one who stops the server.
        self._gate = threading.RLock()
        self._moving = threading.Event()
        self._moving.set()
        self._threads = Threads("hermes-fake-triton")
        self._ends: list[threading.Event] = []
        self._server, self._host, address = self._start_server()
        self._is_running = True
        self.network = FaultyProxy(address)
        self._unused = [bound_socket(), bound_socket()]
        http, metrics = (
            f"127.0.0.1:{unused.getsockname()[1]}" for unused in self._unused
        )
        self.endpoint = Endpoint(self.network.address, http, metrics)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"FakeTriton({self.endpoint.grpc!r}, {self._state()},"
            f" {self.num_requests} requests, {len(self.faults)} faults to"
            " come)"
        )

    @property
    def requests(self) -> tuple[Received, ...]:
        """The inference requests that it got, in order."""
        with self._arrival:
            return tuple(self._requests)

    @property
    def num_requests(self) -> int:
        """How many inference requests it got."""
        return self._num_arrived

    @property
    def sequences(self) -> tuple[tuple[str, int], ...]:
        """Model and id of each sequence that it remembers."""
        return self._engine.sequences

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The faults that may still hit a request."""
        return self._schedule.pending

    def inject(self, *faults: Fault) -> None:
        """Let things go wrong from the next request on."""
        self._schedule.add(*faults)

    def heal(self) -> None:
        """Forget all faults to come, thaw, and accept connections."""
        self._schedule.clear()
        self.thaw()
        self.refuse(False)

    def wait_for_requests(self, num: int, timeout: float = 10.0) -> None:
        """Wait until it has got so many inference requests in all.

        Raises:
            DeadlineExceeded: If there are fewer after ``timeout`` seconds.
        """
        with self._arrival:
            if not self._arrival.wait_for(
                lambda: len(self._requests) >= num, timeout
            ):
                msg = f"{len(self._requests)} of {num} requests in {timeout} s"
                raise DeadlineExceeded(msg)

    def freeze(self) -> None:
        """Read nothing and answer nothing until `thaw`."""
        self._host.freeze()

    def thaw(self) -> None:
        """Go on after a freeze."""
        with self._gate:
            self.network.resume()
            self._moving.set()

    def drop(self) -> None:
        """Reset all connections, after what was answered has left."""
        self.network.drop(flush=True)

    def refuse(self, refusing: bool = True) -> None:
        """Refuse new connections, or accept them again."""
        with self._lock:
            self.network.refuse(refusing or not self._is_running)

    def expire(self, sequence_id: int | None = None) -> None:
        """Forget a sequence, or all, as an idle timeout does."""
        self._engine.expire(sequence_id)

    def stop(self, grace: float = 0.1) -> None:
        """End as a server does that is asked to; see `restart`.

        Args:
            grace: Seconds that requests may still take.
        """
        with self._lock:
            if self._is_running:
                self.network.refuse()
                self.thaw()
                self._server.stop(grace).wait()
                self.network.flush()
            self.kill()

    def kill(self) -> None:
        """End as a process does that is killed; see `restart`."""
        with self._lock:
            self._is_running = False
            self._engine = self._new_engine()
            self.network.refuse()
            self._leave(self._server, self._host)

    def restart(self) -> None:
        """Be a new server at the same port, which knows no sequence."""
        with self._lock:
            old = self._server, self._host
            # Requests that the old one still has must not change the new one.
            self._engine = self._new_engine()
            self._server, self._host, address = self._start_server()
            self._is_running = True
            self.network.redirect(address)
            self._leave(*old)
            self.network.refuse(False)

    def close(self) -> None:
        """End all that it started. Idempotent."""
        with self._lock:
            if self._state() == "closed":
                return
            self.kill()
        for end in self._ends:
            end.wait(_CLOSE_SECONDS)
        self._threads.join()
        self.network.close()
        for unused in self._unused:
            unused.close()
        self._unused.clear()

    def _start_server(self) -> tuple[grpc.Server, _Host, str]:
        host = _Host(self)
        # All that gRPC asks a pool for is submit().
        pool = cast("ThreadPoolExecutor", self._threads)
        server = grpc.server(pool, options=_OPTIONS)
        server.add_generic_rpc_handlers((handler(self._engine, host),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        return server, host, f"127.0.0.1:{port}"

    def _leave(self, server: grpc.Server, host: _Host) -> None:
        with self._gate:
            host.gone.set()
        self.network.drop()
        self.thaw()
        # Not waited for: a request may be what ends its own server.
        self._ends.append(server.stop(0))

    def _state(self) -> str:
        if not self._unused:
            return "closed"
        if not self._is_running:
            return "stopped"
        return "running" if self._moving.is_set() else "frozen"


class _Host:
    """A fake server as its service sees it; see `_service.Host`."""

    def __init__(self, fake: FakeTriton) -> None:
        self._fake = fake
        # set when the server that it belongs to has ended
        self.gone = threading.Event()
        self.drop = fake.drop
        self.expire = fake.expire
        self.kill = fake.kill
        self.restart = fake.restart

    def arrive(self, model: str) -> tuple[int, list[Fault]]:
        fake = self._fake
        with fake._arrival:
            fake._num_arrived += 1
            return fake._num_arrived, fake._schedule.due(model)

    def record(self, request: Received) -> None:
        with self._fake._arrival:
            self._fake._requests.append(request)
            self._fake._arrival.notify_all()

    def pass_gate(self) -> None:
        self._fake._moving.wait()

    def sleep(self, seconds: float) -> None:
        self.gone.wait(seconds)

    def freeze(self) -> None:
        fake = self._fake
        fake.network.flush()
        with fake._gate:
            if not self.gone.is_set():
                fake._moving.clear()
                fake.network.stall()

    def freeze_here(self, seconds: float | None) -> None:
        self.freeze()
        self._fake._moving.wait(seconds)
        with self._fake._gate:
            if not self.gone.is_set():
                self._fake.thaw()
