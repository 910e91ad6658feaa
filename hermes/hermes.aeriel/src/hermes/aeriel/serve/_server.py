"""``Server``: a server that runs, for as long as its object is in use."""

import math
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from hermes.aeriel import _html
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.errors import (
    PortTaken,
    ServerDied,
    ServerStopped,
    ServerTimeout,
)
from hermes.aeriel.serve import _models
from hermes.aeriel.serve._diagnosis import (
    describe_death,
    describe_delay,
    has_answered_all,
    has_given_up,
    lost_port,
    stub_failure,
)
from hermes.aeriel.serve._gpus import check_seen, uuids_on_host
from hermes.aeriel.serve._log import Log
from hermes.aeriel.serve._models import ModelState
from hermes.aeriel.serve._readiness import is_ready, read_metrics
from hermes.aeriel.serve._start import Running, Start

__all__ = ("Server",)

_WAIT_SECONDS = 300.0
_MODEL_SECONDS = 120.0
_POLL_SECONDS = 0.03
_QUESTION_SECONDS = 1.0
_MOVES = 4
# The last answers are on their way for so long, when all has been answered.
_LINGER_SECONDS = 0.3


@dataclass
class _Ending:
    """A server that stops, as its log tells.

    The local runtime has a stub for each place of a model. Triton ends them
    one by one, and takes more than a second for each.
    """

    read_new: Callable[[], str]
    may_be_killed: bool
    _answered: float = math.inf

    def is_over(self) -> bool:
        """Whether there is nothing to wait for."""
        said, now = self.read_new(), time.monotonic()
        if self.may_be_killed and has_answered_all(said):
            self._answered = now
        return has_given_up(said) or now - self._answered > _LINGER_SECONDS


class Server:
    """A Triton server that runs until this object is left or stopped.

    Not made by users: :func:`serve` returns it. It is a context manager;
    leaving it stops the server, and raises ServerDied if that has ended
    before and nobody was told yet. The server also ends when this process
    does, however that happens.
    """

    def __init__(self, start: Start, log: Log) -> None:
        self._start = start
        self._log = log
        self._last_log: str | None = None
        self._was_ready = False
        self._stub_failed = False
        self._told = False  # somebody, that it has died
        self._moves = 0
        # held while the process is replaced by another, or stopped
        self._changing = threading.Lock()
        self._running: Running = start.run(log)

    @property
    def endpoint(self) -> Endpoint:
        """Where the server listens, or will.

        With ``free_ports=True`` it is final when :meth:`wait` has returned: a
        port that another program takes meanwhile is replaced.
        """
        return self._running.endpoint

    def wait(self, timeout: float | None = None) -> Self:
        """Return when the server can serve every model.

        Args:
            timeout: Seconds to wait; None for five minutes.

        Returns:
            This server.

        Raises:
            ServerDied: If it ends, or cannot become ready any more.
            ServerTimeout: If it is not ready in time; it keeps running.
            ServerStopped: If it was stopped.
            GpuMismatch: If it sees other GPUs than it was given.
        """
        seconds = _WAIT_SECONDS if timeout is None else timeout
        deadline = time.monotonic() + seconds
        while not self._is_ready(deadline):
            left = deadline - time.monotonic()
            if left <= 0:
                raise ServerTimeout(
                    describe_delay(self._name, seconds, self.logs())
                )
            time.sleep(min(_POLL_SECONDS, left))
        self._running.reservation.close()
        return self

    def poll(self) -> int | None:
        """Return the exit code, or None while the server runs.

        One that a signal has ended has 128 plus the signal's number. After
        :meth:`stop` it is 0 if all requests were answered, however long
        Triton would have taken, or took, to unload its models.
        """
        code = self._running.process.poll()
        is_in_order = has_answered_all(self._last_log or "")
        return 0 if code is not None and is_in_order else code

    def models(self) -> list[ModelState]:
        """Return what the server's repositories have, and what is ready.

        Raises:
            ModelControlFailed: If the server does not say.
            ServerTimeout: If there is no answer in time.
        """
        address = self._running.probes.http
        return _models.index(address, _QUESTION_SECONDS * 5)

    def logs(self, tail: int | None = None) -> str:
        """Return what the server wrote.

        Args:
            tail: How many of the last lines; None for all.
        """
        log = self._log.read() if self._last_log is None else self._last_log
        if tail is None:
            return log
        return "".join(log.splitlines(keepends=True)[-tail:] if tail else [])

    def load_model(
        self,
        name: str,
        config: Mapping[str, Any] | None = None,
        timeout: float = _MODEL_SECONDS,
    ) -> None:
        """Load a model, or load it again; it is ready afterwards.

        The server must have been started with ``model_control="explicit"``.

        Args:
            name: The model, a folder of the repository.
            config: A configuration to use instead of the repository's, as a
                mapping of Triton's field names.
            timeout: Seconds that it may take.

        Raises:
            ModelControlFailed: If the server refuses, or cannot load it.
            ServerTimeout: If there is no answer in time.
        """
        _models.load(self._running.probes.http, name, config, timeout)

    def unload_model(
        self,
        name: str,
        timeout: float = _MODEL_SECONDS,
        *,
        dependents: bool = False,
    ) -> None:
        """Unload a model; it takes no request any more afterwards.

        Args:
            name: The model.
            timeout: Seconds that it may take.
            dependents: Unload the models that only it needed, too.

        Raises:
            ModelControlFailed: If the server refuses.
            ServerTimeout: If there is no answer in time.
        """
        address = self._running.probes.http
        _models.unload(address, name, timeout, dependents=dependents)

    def stop(self) -> None:
        """Stop the server and wait until it is gone.

        Requests in flight, and sequences that nobody has ended, are given
        five seconds to finish, or what ``--exit-timeout-secs`` in
        ``server_args`` says. Stopping twice, or in a forked child of the
        process that started the server, does nothing.
        """
        if self._last_log is not None or not self._running.process.is_ours:
            return
        with self._changing:
            if self._last_log is not None:
                return
            self._running.reservation.close()
            ending = _Ending(self._log.read_new, self._running.may_be_killed)
            self._running.process.stop(ending.is_over)
            # From now on the state is "stopped".
            self._last_log = self._log.read()
            self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        died = self._unexpected_end()
        self.stop()
        if died is None:
            return
        if error is None:
            raise ServerDied(died)
        error.add_note(f"meanwhile {died}")

    def __repr__(self) -> str:
        grpc = self.endpoint.grpc
        return f"<Server {self._name}, grpc {grpc}, {self._state()}>"

    def _repr_html_(self) -> str:
        start, endpoint = self._start, self.endpoint
        gpus = "all" if start.with_gpus else "none"
        return _html.table(
            [
                ("server", self._name),
                ("state", self._state()),
                ("gRPC", endpoint.grpc),
                ("HTTP", endpoint.http),
                ("metrics", endpoint.metrics),
                *(("repository", name) for name in start.repositories),
                ("Triton", start.runtime),
                ("GPUs", start.devices or gpus),
            ]
        )

    def __del__(self) -> None:
        # Not there if __init__ was not reached.
        running = getattr(self, "_running", None)
        if running is None or self._last_log is not None:
            return
        process = running.process
        if process.is_ours and process.poll() is None:
            warnings.warn(
                f"{self!r} was not stopped",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
            process.release()
            running.reservation.close()
            self._log.close()

    @property
    def _name(self) -> str:
        return self._start.server_id

    def _state(self) -> str:
        if self._last_log is not None:
            return "stopped"
        code = self._running.process.poll()
        return "running" if code is None else f"ended with exit code {code}"

    def _unexpected_end(self) -> str | None:
        """Return what to tell of a death that nobody was told of yet."""
        if self._told or self._last_log is not None:
            return None
        code = self._running.process.poll()
        if code is None:
            return None
        self._told = True
        return describe_death(self._name, code, self._log.read())

    def _is_ready(self, deadline: float) -> bool:
        if self._last_log is not None:
            raise ServerStopped(f"{self._name} was stopped")
        running = self._running
        code = running.process.poll()
        if code is not None or self._has_failed_stub():
            if code is not None and self._move(running):
                return False
            self._told = True
            raise ServerDied(
                describe_death(self._name, code, self._log.read())
            )
        question = min(_QUESTION_SECONDS, deadline - time.monotonic())
        ready = question > 0 and is_ready(running.probes, self._name, question)
        if ready and not self._was_ready:
            self._check_gpus(question)
        self._was_ready |= ready
        return ready

    def _move(self, lost: Running) -> bool:
        """Start again on other ports, if that is what it takes."""
        with self._changing:
            if self._running is not lost:
                return True  # another thread was quicker
            if (
                self._was_ready
                or not self._start.may_move
                or self._moves == _MOVES
                or not lost_port(self._log.read())
            ):
                return False
            self._moves += 1
            lost.reservation.close()
            lost.process.stop()
            self._log.begin_again()
            try:
                self._running = self._start.run(self._log)
            except PortTaken as error:
                self._told = True
                raise ServerDied(
                    f"{self._name} lost a port: {error}"
                ) from error
            return True

    def _check_gpus(self, timeout: float) -> None:
        if self._start.devices is None or not self._start.with_gpus:
            return
        check_seen(
            self._start.devices,
            self._log.read(),
            read_metrics(self._running.probes, timeout),
            uuids_on_host(),
        )

    def _has_failed_stub(self) -> bool:
        # A stub that was running and dies is started again by Triton.
        if not self._was_ready and not self._stub_failed:
            self._stub_failed = bool(stub_failure(self._log.read_new()))
        return self._stub_failed
