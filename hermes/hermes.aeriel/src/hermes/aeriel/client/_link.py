"""Between requests and wires: lanes, and all that the client must end."""

from __future__ import annotations

import itertools
import os
import secrets
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from time import monotonic
from typing import Any

from hermes.aeriel._fork import num_forks
from hermes.aeriel._transport import Request, Response
from hermes.aeriel.client._inflight import InFlight
from hermes.aeriel.client._peers import Peer, Peers
from hermes.aeriel.errors import (
    ClientClosed,
    ClientError,
    ClientForked,
    StreamBroken,
)

__all__ = ("MAX_SEQUENCE_ID", "Lane", "Link", "is_answering")

MAX_SEQUENCE_ID = 2**63 - 1
# What was sent may take this long to reach the server when the client closes.
_CLOSE_TIMEOUT = 0.4
# Leaving a sequence waits this long for the server to take the END; once
# that was in vain, nobody waits for that server again for some seconds.
_END_TIMEOUT = 0.4
_SILENCE = 5.0
_CLOSED = "the client is closed; make another one"

_thread = threading.local()


def is_answering() -> bool:
    """Whether this thread is the one that the next answers come from."""
    return getattr(_thread, "is_answering", False)


class Lane:
    """A stream to one server, for one sequence or for all other requests.

    Triton answers a stream in order, so that a sequence waiting for its slot
    would hold up those behind it: each has a lane of its own.

    Made by `Link.open`.

    Attributes:
        peer: The server.
        has_ended: Whether the stream has.
    """

    def __init__(
        self,
        link: Link,
        peer: Peer,
        on_response: Callable[[Lane, Response], None],
        on_lost: Callable[[Lane, ClientError], None],
    ) -> None:
        self.peer = peer
        self._link = link
        self._on_response = on_response
        self._on_lost = on_lost
        self._is_left = False
        self.has_ended = False
        self._connection = peer.transport.connect(self._answer, self._end)

    def send(self, request: Request) -> None:
        """Send a request.

        Raises:
            StreamBroken: If the stream has ended.
        """
        self._connection.send(request)

    def finish(self) -> None:
        """Let the stream end once all is answered."""
        self._connection.finish()

    def leave(self) -> None:
        """Let the stream end, and hear of it no more."""
        self._is_left = True
        self._connection.finish()

    def close(self, timeout: float) -> None:
        """End the stream within about ``timeout`` seconds."""
        self._connection.close(timeout)

    def _answer(self, response: Response) -> None:
        if self._is_left:
            return
        before, _thread.is_answering = is_answering(), True
        try:
            self._take(response)
        finally:
            _thread.is_answering = before

    def _take(self, response: Response) -> None:
        if response.error is not None and not response.id:
            # The server failed a request and did not say which: none of
            # those on this stream can be trusted to be answered.
            said = response.error
            self._lose(StreamBroken(said, server_message=said))
        else:
            self._on_response(self, response)

    def _end(self, reason: ClientError | None) -> None:
        self.has_ended = True
        self._link.forget(self)
        if reason is not None:
            self.peer.is_good = False
        elif self._link.is_closed:
            reason = ClientClosed("closed before it was answered")
        else:
            msg = f"{self.peer.address} ended the stream before the answer"
            reason = StreamBroken(msg)
        self._lose(reason)

    def _lose(self, reason: ClientError) -> None:
        if not self._is_left:
            self._is_left = True
            self._on_lost(self, reason)


class Link:
    """Everything of a client that has to end when it does.

    Args:
        peers: The servers.
        timeout: Seconds that a request may take, unless it says otherwise.
    """

    def __init__(self, peers: Peers, timeout: float) -> None:
        self.peers = peers
        self.timeout = timeout
        self.in_flight = InFlight()
        self._numbers = itertools.count(1)
        self._lanes: set[Lane] = set()
        self._threads: set[threading.Thread] = set()
        self._silent_since = -_SILENCE
        self._pid = os.getpid()
        self._num_forks = num_forks()
        self._lock = threading.Lock()

    @property
    def is_closed(self) -> bool:
        """Whether the client is closed, or closing."""
        return self.peers.closing.is_set()

    @property
    def is_forked(self) -> bool:
        """Whether this process is a child of the one it belongs to."""
        return num_forks() != self._num_forks

    def check_usable(self) -> None:
        """Refuse what would never be answered.

        Raises:
            ClientForked: If this is a forked child of the client's process.
            ClientClosed: If the client is closed.
        """
        if self.is_forked:
            msg = (
                f"this client was made in process {self._pid}, before the"
                f" fork that made this one ({os.getpid()}): make a client in"
                " the child"
            )
            raise ClientForked(msg)
        if self.is_closed:
            raise ClientClosed(_CLOSED)

    def new_request_id(self) -> str:
        """An id that no other request of this client has."""
        return str(next(self._numbers))

    def new_sequence_id(self) -> int:
        """A correlation ID that no other client will use; it is random."""
        return 1 + secrets.randbelow(MAX_SEQUENCE_ID)

    def open(
        self,
        on_response: Callable[[Lane, Response], None],
        on_lost: Callable[[Lane, ClientError], None],
        peer: Peer | None = None,
    ) -> Lane:
        """Open a lane.

        Args:
            on_response: Called with each answer that names its request.
            on_lost: Called once, unless the lane was left, when nothing
                more will come: also after `Lane.finish`.
            peer: The server; the next in turn by default.

        Raises:
            ClientClosed: If the client is closed.
        """
        lane = Lane(self, peer or self.peers.next(), on_response, on_lost)
        with self._lock:
            if not self.is_closed:
                if not lane.has_ended:
                    self._lanes.add(lane)
                return lane
        lane.close(0)
        raise ClientClosed(_CLOSED)

    def forget(self, lane: Lane) -> None:
        """A lane that has ended."""
        with self._lock:
            self._lanes.discard(lane)

    def start(self, run: Callable[[], None], name: str) -> None:
        """Run in a thread that ends soon after ``peers.closing`` is set.

        Raises:
            ClientClosed: If the client is closed.
        """

        def body() -> None:
            try:
                run()
            finally:
                with self._lock:
                    self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=body, name=name, daemon=True)
        with self._lock:
            if self.is_closed:
                raise ClientClosed(_CLOSED)
            self._threads.add(thread)
            thread.start()

    def wait_for_end(self, future: Future[Any]) -> None:
        """Wait for the answer to a sequence's END, but not for long."""
        try:
            future.exception(0 if self._is_silent() else _END_TIMEOUT)
        except TimeoutError:
            self._silent_since = monotonic()

    def _is_silent(self) -> bool:
        return monotonic() - self._silent_since < _SILENCE

    def end_forgotten(
        self,
        what: object,
        say: Callable[[], str],
        end: Callable[[], object],
    ) -> None:
        """Have what nobody holds any more ended, and tell.

        For the garbage collector, which may come while this thread holds
        any lock of the client: none is taken but one that is reentrant, and
        another thread ends it. At the program's end threads and connections
        go by themselves.

        Args:
            what: The client or sequence.
            say: Says what was not done to it.
            end: Ends it.
        """
        if self.is_closed or self.is_forked:
            return
        if not sys.is_finalizing():
            self.in_flight.call_later(0, end)
        warnings.warn(
            f"{say()}: use it as a context manager, or call close()",
            ResourceWarning,
            stacklevel=3,
            source=what,
        )

    def close(self) -> None:
        """End everything; returns within a second. Idempotent."""
        if self.is_forked:
            return
        with self._lock:
            if self.is_closed:
                return
            self.peers.closing.set()
            lanes = list(self._lanes)
            threads = list(self._threads)
        for lane in lanes:
            lane.finish()
        patience = 0.05 if self._is_silent() else _CLOSE_TIMEOUT
        deadline = monotonic() + patience
        for lane in lanes:
            lane.close(max(0.0, deadline - monotonic()))
        reason = ClientClosed("closed before it was answered")
        self.in_flight.fail_all(reason)
        self.in_flight.close()
        for peer in self.peers.all:
            peer.transport.close()
        for thread in threads:
            thread.join(max(0.0, deadline + _CLOSE_TIMEOUT - monotonic()))
