"""Sequences that were lost, but not by their servers.

When a connection breaks, or a client turns away from a server that stands
still, the server keeps the sequence's place until it has idled for too long:
a minute in which nobody else may have it.
"""

from __future__ import annotations

import threading
from time import monotonic

from hermes.aeriel._transport import Request, Response
from hermes.aeriel.client._link import Lane, Link
from hermes.aeriel.client._peers import Peer
from hermes.aeriel.client._requests import zeros
from hermes.aeriel.errors import ClientClosed, ClientError, StreamBroken
from hermes.aeriel.specs import ModelSpec

__all__ = ("Cleaner", "ending")

# By then the server's idle timeout has done it.
_GIVE_UP = 120.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 3.0


def ending(spec: ModelSpec, request_id: str, wire_id: int) -> Request:
    """A request that ends a sequence wherever it still is.

    Requests that the server dropped with a connection may have reached some
    of an ensemble's models and not the others. A mere END would be refused
    by the first that does not know the sequence, and never come to those
    that do; with START each of them takes it.
    """
    return Request(
        spec.name,
        spec.version,
        request_id,
        zeros(spec),
        wire_id,
        sequence_start=True,
        sequence_end=True,
    )


class Cleaner:
    """Frees places on servers, in a thread that runs while there are any.

    Args:
        link: The client's.
        spec: The model.
    """

    def __init__(self, link: Link, spec: ModelSpec) -> None:
        self._link = link
        self._spec = spec
        self._left: dict[tuple[Peer, int], float] = {}
        self._lock = threading.Lock()
        self._is_running = False

    def add(self, peer: Peer, wire_id: int) -> None:
        """Have a sequence ended, once its server can be reached."""
        if self._spec.sees_sequence_id:
            # The id may have begun another sequence there by then.
            return
        with self._lock:
            self._left[peer, wire_id] = monotonic() + _GIVE_UP
            if self._is_running:
                return
            self._is_running = True
        try:
            self._link.start(self._run, "hermes-cleanup")
        except ClientClosed:
            self._is_running = False

    def _run(self) -> None:
        closing, pause = self._link.peers.closing, _FIRST_PAUSE
        while not closing.wait(pause):
            pause = min(2 * pause, _LONGEST_PAUSE)
            for peer in self._peers():
                _Visit(self._link, self._spec, self, peer).wait()
            with self._lock:
                if not self._left:
                    self._is_running = False
                    return

    def _peers(self) -> set[Peer]:
        now = monotonic()
        with self._lock:
            self._left = {k: t for k, t in self._left.items() if t > now}
            return {peer for peer, _ in self._left}

    def left_on(self, peer: Peer) -> list[int]:
        """The sequences that it may still hold."""
        with self._lock:
            return [wire_id for one, wire_id in self._left if one is peer]

    def done(self, peer: Peer, wire_id: int) -> None:
        """One of them is known to be gone."""
        with self._lock:
            self._left.pop((peer, wire_id), None)


class _Visit:
    """One attempt at one server."""

    def __init__(
        self, link: Link, spec: ModelSpec, cleaner: Cleaner, peer: Peer
    ) -> None:
        self._link = link
        self._cleaner = cleaner
        self._peer = peer
        self._over = threading.Event()
        self._sent = {
            link.new_request_id(): wire_id for wire_id in cleaner.left_on(peer)
        }
        try:
            lane = link.open(self._take, self._end, peer)
            for request_id, wire_id in self._sent.items():
                lane.send(ending(spec, request_id, wire_id))
            lane.finish()
        except (ClientClosed, StreamBroken):
            self._over.set()

    def wait(self) -> None:
        """Return when all is answered, or the connection has ended."""
        end = monotonic() + _GIVE_UP
        while not self._over.wait(0.1):
            if self._link.is_closed or monotonic() > end:
                return

    def _take(self, lane: Lane, response: Response) -> None:  # noqa: ARG002
        # An error says that it is gone already.
        wire_id = self._sent.get(response.id)
        if wire_id is not None:
            self._cleaner.done(self._peer, wire_id)

    def _end(self, lane: Lane, reason: ClientError) -> None:  # noqa: ARG002
        self._over.set()
