"""The requests in flight: each Future gets its end, whatever happens."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any

from hermes.aeriel._transport import Response
from hermes.aeriel.client._words import explain
from hermes.aeriel.errors import ClientError, DeadlineExceeded

__all__ = ("About", "InFlight", "Pending")


@dataclass(frozen=True, slots=True)
class About:
    """Which request it is, for errors.

    Attributes:
        model_name: Name of the model.
        request_id: What the caller calls it.
        sequence_id: The sequence it belongs to, as the caller calls it.
        is_update: Whether ``request_id`` is the position in the sequence.
    """

    model_name: str
    request_id: int | str | None = None
    sequence_id: int | None = None
    is_update: bool = False

    def __str__(self) -> str:
        name = "" if self.request_id is None else f" {self.request_id}"
        what = f"update{name}" if self.is_update else f"request{name}"
        if self.sequence_id is not None:
            what += f" of sequence {self.sequence_id}"
        return f"{what} to {self.model_name!r}"

    def tell(self, error: ClientError) -> ClientError:
        """The same error, saying which request it ended."""
        told = type(error)(
            f"{self}: {error}",
            request_id=self.request_id,
            sequence_id=self.sequence_id,
            server_message=error.server_message,
        )
        told.__cause__ = error.__cause__ or error
        return told


@dataclass(slots=True, eq=False)
class Pending:
    """A request that waits for its end.

    Attributes:
        about: Which request it is.
        timeout: Seconds that it may take.
        group: What ends together, when it does; compared by identity.
        hint: Why it may have had no answer in time.
        future: The caller's.
        deadline: When it has to have ended; on the clock of `InFlight`.
    """

    about: About
    timeout: float
    group: Any
    hint: str = ""
    future: Future[Any] = field(default_factory=Future)
    deadline: float = 0.0

    def result(self, response: Response) -> Any:
        """What the Future ends with; called once, before it does."""
        raise NotImplementedError

    def failing(self, error: ClientError) -> None:
        """Called once, before the Future ends with the error."""


class InFlight:
    """Pending requests by their ids on the wire, with a deadline each.

    A thread of its own looks after the deadlines, so that they hold when
    the server or the network stands still.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._pending: dict[str, Pending] = {}
        # What is due when: a request's deadline, by its id, or a call.
        self._due: list[tuple[float, int, str | Callable[[], object]]] = []
        self._counter = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._watcher = threading.Thread(
            target=self._watch, name="hermes-deadlines", daemon=True
        )
        self._watcher.start()

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._pending

    def add(self, request_id: str, pending: Pending) -> None:
        """Take a request over, before it is sent."""
        # From here on the caller cannot cancel it: it may be on the wire.
        pending.future.set_running_or_notify_cancel()
        pending.deadline = self._clock() + pending.timeout
        with self._changed:
            self._pending[request_id] = pending
            self._forget_answered()
            self._schedule(pending.deadline, request_id)

    def call_later(self, seconds: float, call: Callable[[], object]) -> None:
        """Call from the watching thread; not at all once it is closed."""
        with self._changed:
            self._schedule(self._clock() + seconds, call)

    def answer(self, response: Response) -> None:
        """Resolve the request that this answers; late answers are dropped."""
        if response.error is not None:
            self.fail(response.id, explain(response.error))
            return
        pending = self._take(response.id)
        if pending is None:
            return
        try:
            result = pending.result(response)
        except Exception as error:  # noqa: BLE001  # the future's to raise
            pending.future.set_exception(error)
        else:
            pending.future.set_result(result)

    def fail(self, request_id: str, error: ClientError) -> None:
        """Fail one request."""
        pending = self._take(request_id)
        if pending is not None:
            _fail(pending, error)

    def fail_all(self, error: ClientError, group: object = None) -> None:
        """Fail every request in flight, or those of one group."""
        with self._changed:
            failed = {
                request_id: pending
                for request_id, pending in self._pending.items()
                if group is None or pending.group is group
            }
            for request_id in failed:
                del self._pending[request_id]
        for pending in failed.values():
            _fail(pending, error)

    def close(self) -> None:
        """End the watching thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if threading.current_thread() is not self._watcher:
            self._watcher.join()

    def _take(self, request_id: str) -> Pending | None:
        with self._changed:
            return self._pending.pop(request_id, None)

    def _schedule(self, when: float, what: str | Callable[[], object]) -> None:
        entry = (when, next(self._counter), what)
        heapq.heappush(self._due, entry)
        if self._due[0] is entry:
            self._changed.notify()

    def _watch(self) -> None:
        while not self._closed:
            self._call_due()

    def _call_due(self) -> None:
        # A method of its own: what was called is not kept while it waits.
        with self._changed:
            self._forget_answered()
            calls = self._pop_due()
            if not calls and not self._closed:
                self._changed.wait(self._until_next())
        for call in calls:
            call()

    def _until_next(self) -> float | None:
        if not self._due:
            return None
        # Not for ever: a lock waits for some hundred years at most.
        return min(max(0.0, self._due[0][0] - self._clock()), 3600.0)

    def _pop_due(self) -> list[Callable[[], object]]:
        calls: list[Callable[[], object]] = []
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            what = heapq.heappop(self._due)[2]
            if not isinstance(what, str):
                calls.append(what)
            elif what in self._pending:
                calls.append(partial(self._expire, what))
        return calls

    def _expire(self, request_id: str) -> None:
        pending = self._take(request_id)
        if pending is not None:
            msg = f"no answer within {pending.timeout:g} s{pending.hint}"
            _fail(pending, DeadlineExceeded(msg))

    def _forget_answered(self) -> None:
        """Drop the deadlines of requests that need none any more."""
        while self._due:
            what = self._due[0][2]
            if not isinstance(what, str) or what in self._pending:
                return
            heapq.heappop(self._due)


def _fail(pending: Pending, error: ClientError) -> None:
    told = pending.about.tell(error)
    pending.failing(told)
    pending.future.set_exception(told)
