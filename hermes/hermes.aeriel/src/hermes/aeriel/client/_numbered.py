"""Requests that are sent one by one, with the caller's sequence ids."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from hermes.aeriel._transport import Parameter, Request, Response
from hermes.aeriel.client._cleanup import Cleaner
from hermes.aeriel.client._inflight import Pending
from hermes.aeriel.client._link import Lane, Link
from hermes.aeriel.client._requests import Arrays
from hermes.aeriel.client._words import is_stopping
from hermes.aeriel.errors import ClientError, SequenceLost, StreamBroken
from hermes.aeriel.specs import ModelSpec

__all__ = ("Message", "Numbered", "Singles")


@dataclass(slots=True, eq=False, kw_only=True)
class Message(Pending):
    """A request until it is answered.

    Attributes:
        convert: Makes the Future's result of the outputs and of the
            seconds that they took.
    """

    convert: Callable[[Mapping[str, Any], float], Any]
    group: Any = None

    def result(self, response: Response) -> Any:
        """See `Pending.result`."""
        seconds = monotonic() - (self.deadline - self.timeout)
        return self.convert(response.outputs, seconds)


@dataclass(frozen=True)
class Numbered:
    """Where a request belongs.

    Attributes:
        id: The sequence, as the caller calls it; 0 if there is none.
        start: Whether it is the sequence's first.
        end: Whether it is the sequence's last.
    """

    id: int = 0
    start: bool = False
    end: bool = False


@dataclass
class _Place:
    lane: Lane
    wire_id: int


@dataclass
class Singles:
    """The lanes of such requests: one for all without a sequence.

    Two clients may call different sequences by one id. So that they do not
    share a state on the server, each has a random id there, unless the model
    reads the id.

    Attributes:
        link: The client's.
        spec: The model.
        cleaner: Who ends what is lost.
    """

    link: Link
    spec: ModelSpec
    cleaner: Cleaner
    _places: dict[int, _Place] = field(default_factory=dict)
    _lost: dict[int, ClientError] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def send(
        self,
        message: Message,
        inputs: Arrays,
        numbered: Numbered,
        outputs: tuple[str, ...],
        parameters: Mapping[str, Parameter],
    ) -> None:
        """Send a request.

        Raises:
            SequenceLost: If its sequence was lost and does not start anew.
            StreamBroken: If the connection has just ended.
            ClientClosed: If the client is closed.
        """
        self.link.check_usable()
        # One lock from the choice of the lane to the sending: of two threads
        # in one sequence, the one that starts it comes first.
        with self._lock:
            place = self._place(numbered)
            message.group = place.lane
            request = Request(
                self.spec.name,
                self.spec.version,
                self.link.new_request_id(),
                inputs,
                place.wire_id,
                numbered.start,
                numbered.end,
                outputs,
                parameters,
            )
            self.link.in_flight.add(request.id, message)
            try:
                place.lane.send(request)
            except ClientError as error:
                self._lose(place.lane, error)
                raise message.about.tell(error) from error
            if numbered.end:
                place.lane.finish()

    def _place(self, numbered: Numbered) -> _Place:
        place = self._places.get(numbered.id)
        if place is not None and place.lane.has_ended:
            self._lose(place.lane, StreamBroken("the connection has ended"))
            place = None
        if place is None:
            place = self._open(numbered)
            self._places[numbered.id] = place
        if numbered.end:
            # The id may begin another sequence at once.
            del self._places[numbered.id]
        return place

    def _open(self, numbered: Numbered) -> _Place:
        lost = self._lost.pop(numbered.id, None)
        if lost is not None and not numbered.start:
            self._lost[numbered.id] = lost
            msg = f"sequence {numbered.id} was lost ({lost}); start it again"
            raise SequenceLost(
                msg,
                sequence_id=numbered.id,
                server_message=lost.server_message,
            ) from lost
        lane = self.link.open(self._receive, self._lose)
        # Without START it is another client's to continue, if anybody's.
        private = numbered.start and not self.spec.sees_sequence_id
        wire_id = self.link.new_sequence_id() if private else numbered.id
        return _Place(lane, wire_id)

    def _receive(self, lane: Lane, response: Response) -> None:
        if response.error is not None and is_stopping(response.error):
            lane.peer.is_good = False
        self.link.in_flight.answer(response)

    def _lose(self, lane: Lane, error: ClientError) -> None:
        with self._lock:
            for number, place in list(self._places.items()):
                if place.lane is lane:
                    del self._places[number]
                    if number:
                        self._lost[number] = error
                        self.cleaner.add(lane.peer, place.wire_id)
        self.link.in_flight.fail_all(error, group=lane)
