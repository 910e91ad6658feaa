"""A sequence on its way: in order, each update once, and found again.

Triton keeps a sequence's state in the memory of one server. When that is
lost, the last ``replay_updates`` updates rebuild it exactly: the course sends
them to a new sequence, throws their answers away, and goes on where it was.
Nothing else is ever sent twice.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
from collections import deque
from functools import partial
from time import monotonic

from hermes.aeriel._transport import Request, Response
from hermes.aeriel.client._cleanup import Cleaner, ending
from hermes.aeriel.client._link import Lane, Link, is_answering
from hermes.aeriel.client._peers import Peer
from hermes.aeriel.client._updates import Policy, Update
from hermes.aeriel.client._words import explain_loss, is_lost
from hermes.aeriel.errors import (
    ClientClosed,
    ClientError,
    DeadlineExceeded,
    SequenceLost,
    ServerUnavailable,
    StreamBroken,
    UnsupportedModel,
)
from hermes.aeriel.specs import ModelSpec

__all__ = ("Course",)

# The pauses between recoveries that follow each other without an answer.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
# Seconds until the server is told again to end what was lost.
_FIRST_REMINDER = 0.5

# What says that the server, and with it the state, is out of reach.
_GONE = (ServerUnavailable, StreamBroken)

_log = logging.getLogger(__name__)


class Course:
    """The updates of one sequence, whatever server they are on.

    Args:
        link: The client's.
        spec: The model.
        policy: How to send.
        cleaner: Who ends what is lost and not recovered.
    """

    def __init__(
        self, link: Link, spec: ModelSpec, policy: Policy, cleaner: Cleaner
    ) -> None:
        self._link = link
        self._cleaner = cleaner
        self._spec = spec
        self._policy = policy
        depth = None if spec.stream is None else spec.stream.replay_updates
        self._can_recover = policy.replay and depth is not None
        self._might_recover = not policy.replay and depth is not None
        # Answered updates that a recovery sends again, and those to answer.
        kept = (depth or 0) if policy.replay else 0
        self._history: deque[Update] = deque(maxlen=kept)
        self._waiting: deque[Update] = deque()
        # Reentrant: a transport may answer while it sends.
        self._lock = threading.RLock()
        self._has_room = threading.Condition(self._lock)
        self._lane: Lane | None = None
        # Where the state is, or was: the server, and the sequence's id there.
        self._peer: Peer | None = None
        self._wire_id = policy.wire_id
        self._needs_start = True
        # Requests on the lane that nobody waits for: replays, and ENDs.
        self._replaying: set[str] = set()
        self._ends: set[str] = set()
        # Sequences that it lost since the last answer.
        self._left_behind: list[tuple[Peer, int]] = []
        self._is_recovering = False
        self._loss = ""
        self._num_recoveries = 0
        self._num_vain_recoveries = 0
        self._failure: ClientError | None = None
        self._last_answer = 0.0
        self._is_watched = False

    @property
    def is_on_server(self) -> bool:
        """Whether there is something to end."""
        return self._lane is not None or self._is_recovering

    @property
    def failure(self) -> ClientError | None:
        """What ended it before its time."""
        return self._failure

    @property
    def num_recoveries(self) -> int:
        """How often its state was rebuilt."""
        return self._num_recoveries

    def wait_for_room(self, timeout: float) -> None:
        """Wait until less than ``max_in_flight`` updates are under way.

        Not in a Future's callback: the answers that would make room come
        from that very thread.

        Raises:
            DeadlineExceeded: If there is no room in time.
        """
        limit = self._policy.max_in_flight
        with self._has_room:
            if is_answering():
                return
            if not self._has_room.wait_for(
                lambda: len(self._waiting) < limit or self._failure, timeout
            ):
                msg = (
                    f"not sent: {limit} updates (max_in_flight) had no answer"
                    f" within {timeout:g} s"
                )
                raise DeadlineExceeded(msg)

    def push(self, update: Update) -> None:
        """Send an update, now or when the server's state is rebuilt.

        Raises:
            SequenceLost: If an earlier update has failed.
            ServerUnavailable: If its server is gone.
            StreamBroken: If its server has ended its stream.
            ClientClosed: If the client is closed.
        """
        with self._lock:
            self._check_open()
            if update.index == 0:
                self._begin()
            self._waiting.append(update)
            self._link.in_flight.add(update.id, update)
            if self._lane is not None:
                self._transmit(update)
            else:
                update.hint = _hint(self._loss)
                if not self._is_recovering:
                    self._start_recovery()
            self._watch()

    def answered(self, update: Update) -> None:
        """An update's answer has come."""
        with self._lock:
            update.is_done = True
            self._num_vain_recoveries = 0
            self._left_behind.clear()
            while self._waiting and self._waiting[0].is_done:
                self._history.append(self._waiting.popleft())
            self._has_room.notify()
            if update.is_end and self._lane is not None:
                self._lane.leave()
                self._lane = None

    def failed(self, update: Update, error: ClientError) -> None:
        """An update has failed: what the server remembers is unknown.

        Those behind it fail with it, for their answers may be those to
        another stream.
        """
        with self._lock:
            behind = [u for u in self._waiting if u.index > update.index]
            before = [u for u in self._waiting if u.index < update.index]
            self._waiting = deque(before)
            self._history.clear()
            if self._failure is None:
                self._failure = error
                self._end_on_server()
            self._has_room.notify_all()
        lost = SequenceLost(
            f"update {update.index} before it failed ({error})",
            server_message=error.server_message,
        )
        for one in behind:
            self._link.in_flight.fail(one.id, lost)

    def _check_open(self) -> None:
        self._link.check_usable()
        failure = self._failure
        if failure is not None:
            # Whoever looks out for lost servers must see that in any update.
            is_gone = isinstance(failure, _GONE)
            what = "its server" if is_gone else "an update"
            raise (type(failure) if is_gone else SequenceLost)(
                f"the sequence has lost {what} ({failure}); begin another one",
                sequence_id=failure.sequence_id,
                server_message=failure.server_message,
            ) from failure

    def _begin(self, peer: Peer | None = None) -> None:
        """Open a lane for a new sequence on a server."""
        lane = self._link.open(self._receive, self._lose, peer)
        self._lane, self._peer = lane, lane.peer
        if self._num_recoveries and not self._policy.keeps_id:
            self._wire_id = self._link.new_sequence_id()
        self._needs_start = True
        self._replaying, self._ends = set(), set()
        if lane.has_ended:
            # Its end was reported before it was ours.
            self._lose(lane, StreamBroken(f"{lane.peer.address} is gone"))
            self._check_open()

    def _transmit(self, update: Update) -> None:
        lane = self._lane
        if lane is None:
            return
        start, self._needs_start = self._needs_start, False
        update.sent = monotonic()
        try:
            lane.send(self._request(update, start))
        except StreamBroken as error:
            self._lose(lane, error)
        if not self._can_recover:
            update.tensors = {}

    def _request(self, update: Update, start: bool) -> Request:
        return Request(
            self._spec.name,
            self._spec.version,
            update.id,
            update.tensors,
            self._wire_id,
            start,
            update.is_end,
            self._policy.outputs,
            self._policy.parameters,
        )

    def _receive(self, lane: Lane, response: Response) -> None:
        """Take an answer; called by the lane."""
        self._last_answer = monotonic()
        said = response.error
        if response.id in self._ends:
            # Ended; or gone already, which is an error.
            self._ends.discard(response.id)
        elif said is None and response.id in self._replaying:
            self._replaying.discard(response.id)
            self._left_behind.clear()
        elif said is None:
            self._link.in_flight.answer(response)
        elif is_lost(said):
            self._lose(lane, explain_loss(said))
        elif response.id in self._link.in_flight:
            self._link.in_flight.answer(response)
        else:
            msg = f"its state could not be rebuilt: {said}"
            self._give_up(SequenceLost(msg, server_message=said))

    def _lose(self, lane: Lane, error: ClientError) -> None:
        """The server's state is gone, or out of reach."""
        with self._lock:
            if lane is not self._lane:
                return
            self._lane = None
            lane.leave()
            if isinstance(error, ServerUnavailable):
                lane.peer.is_good = False
            is_final = isinstance(error, ClientClosed) or self._failure
            if self._can_recover and not is_final:
                self._loss = str(error)
                for update in self._waiting:
                    update.hint = _hint(self._loss)
                if not self._waiting or self._start_recovery():
                    return
            if isinstance(error, _GONE):
                self._cleaner.add(lane.peer, self._wire_id)
            error = self._final(error)
            if not self._waiting and self._failure is None:
                self._failure = error
                return
        self._give_up(error)

    def _final(self, error: ClientError) -> ClientError:
        """What the loss is to the caller, if it is not recovered from."""
        kind: type[ClientError] = SequenceLost
        if isinstance(error, (SequenceLost, *_GONE)) and self._might_recover:
            kind = type(error)
            cure = "client.sequence(replay=True) recovers from it"
        elif self._policy.replay and not self._can_recover:
            cure = (
                f"model {self._spec.name!r} does not say how many updates"
                " rebuild its state (replay_updates), so it cannot be rebuilt"
            )
        else:
            return error
        return kind(f"{error}; {cure}", server_message=error.server_message)

    def _give_up(self, error: ClientError) -> None:
        self._link.in_flight.fail_all(error, group=self)

    def _end_on_server(self) -> None:
        """Free the sequence's place there; nobody waits for the answer."""
        lane = self._lane
        if lane is not None:
            self._send_end(lane, self._wire_id)
            lane.finish()

    def _send_end(self, lane: Lane, wire_id: int) -> None:
        request = ending(self._spec, self._link.new_request_id(), wire_id)
        self._ends.add(request.id)
        with contextlib.suppress(StreamBroken):
            lane.send(request)

    def _start_recovery(self) -> bool:
        """Rebuild the state in another thread; False if it cannot be."""
        self._is_recovering = True
        try:
            self._link.start(self._recover, f"hermes-replay-{self._wire_id}")
        except ClientClosed:
            self._is_recovering = False
        return self._is_recovering

    def _recover(self) -> None:
        closing = self._link.peers.closing
        closing.wait(self._pause())
        while (left := self._time_left()) > 0 and not closing.is_set():
            try:
                peer, _ = self._link.peers.find(left, avoid=self._peer)
            except UnsupportedModel as error:
                self._give_up(error)
            except ClientError:
                # The oldest update's deadline ends this, not the error.
                closing.wait(min(left, _FIRST_PAUSE))
            else:
                _log.warning(
                    "sequence %s goes on at %s; it was lost: %s",
                    self._wire_id,
                    peer.address,
                    self._loss,
                )
                self._resume(peer)
                return
        with self._lock:
            self._is_recovering = False

    def _pause(self) -> float:
        """Seconds before the next attempt: none, but for vain ones."""
        if self._num_vain_recoveries == 0:
            return 0.0
        longest = _FIRST_PAUSE * 2.0 ** min(self._num_vain_recoveries, 10)
        return random.uniform(_FIRST_PAUSE, min(longest, _LONGEST_PAUSE))  # noqa: S311

    def _time_left(self) -> float:
        with self._lock:
            if self._failure is not None or not self._waiting:
                return 0.0
            return self._waiting[0].deadline - monotonic()

    def _resume(self, peer: Peer) -> None:
        """Send what rebuilds the state, and all that waits behind it."""
        with self._lock:
            self._is_recovering = False
            if self._failure is not None or not self._waiting:
                return
            before, old_id = self._peer, self._wire_id
            self._num_recoveries += 1
            self._num_vain_recoveries += 1
            with contextlib.suppress(ClientClosed, SequenceLost, *_GONE):
                self._begin(peer)
            if before is not None and (before, old_id) != (
                self._peer,
                self._wire_id,
            ):
                self._left_behind.append((before, old_id))
            lane = self._lane
            if lane is None:
                return
            self._leave_others(lane)
            self._clear_up(lane, _FIRST_REMINDER)
            again = [*self._history, *self._waiting]
            self._replaying = {u.id for u in again if u.is_done}
            for update in again:
                if self._lane is lane:
                    self._transmit(update)

    def _leave_others(self, lane: Lane) -> None:
        """Have what it left on other servers ended there."""
        for peer, wire_id in self._left_behind:
            if peer is not lane.peer:
                self._cleaner.add(peer, wire_id)
        self._left_behind = [
            left for left in self._left_behind if left[0] is lane.peer
        ]

    def _clear_up(self, lane: Lane, pause: float) -> None:
        """Free the places that it may still hold on this server.

        There may be no other place for the new sequence. Done again while
        that is not answered: what the server still had of the old connection
        may have begun a lost sequence after its end.
        """
        with self._lock:
            if lane is not self._lane:
                return
            for _, wire_id in self._left_behind:
                self._send_end(lane, wire_id)
            if self._left_behind:
                again = partial(self._clear_up, lane, 2 * pause)
                self._link.in_flight.call_later(pause, again)

    def _watch(self) -> None:
        """Have somebody look whether the answers have stopped."""
        limit = self._policy.stall_timeout
        if limit is not None and not self._is_watched:
            self._is_watched = True
            self._link.in_flight.call_later(limit, self._look)

    def _look(self) -> None:
        limit = self._policy.stall_timeout
        with self._lock:
            lane, self._is_watched = self._lane, False
            if limit is None or lane is None or not self._waiting:
                return
            since = max(self._waiting[0].sent, self._last_answer)
            silent = monotonic() - since
            if silent < limit:
                self._is_watched = True
                self._link.in_flight.call_later(limit - silent, self._look)
                return
        lane.peer.is_good = False
        msg = f"{lane.peer.address} has not answered for {silent:.1f} s"
        self._lose(lane, StreamBroken(msg))
        lane.close(0)


def _hint(loss: str) -> str:
    return f", nor a server to go on with: {loss}"
