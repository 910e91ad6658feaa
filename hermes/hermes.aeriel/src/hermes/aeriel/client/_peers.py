"""The servers that a client may use, and which of them it uses next."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from time import monotonic

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_any,
    stop_before_delay,
    stop_when_event_set,
    wait_random_exponential,
)
from tenacity.nap import sleep_using_event
from tenacity.stop import stop_base

from hermes.aeriel._transport import Transport
from hermes.aeriel.client._describe import (
    describe,
    is_stateful_alone,
    sees_sequence_id_alone,
    steps,
)
from hermes.aeriel.errors import (
    ClientClosed,
    ClientError,
    DeadlineExceeded,
    ModelNotFound,
    ServerUnavailable,
    UnsupportedModel,
)
from hermes.aeriel.specs import ModelSpec

__all__ = ("Model", "Peer", "Peers")

_WORTH_ANOTHER_TRY = (ServerUnavailable, DeadlineExceeded)
# A server that answers at all answers a question about a model within this.
_QUESTION_SECONDS = 3.0
# How long a new client asks, and how long where no server is there.
_MEETING_SECONDS, _ABSENT_SECONDS = 10.0, 1.0
# The first wait between two rounds, and the longest; both jittered.
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 1.0
# A lost server is asked this often whether it is back.
_SECONDS_BETWEEN_VISITS = 3.0
# What Triton says where models are not loaded on demand.
_LOADS_BY_ITSELF = "not allowed"


@dataclass(eq=False)
class Peer:
    """One server.

    Attributes:
        address: ``"host:port"``.
        transport: The way to it.
        is_good: Whether nothing has gone wrong since it described the model.
    """

    address: str
    transport: Transport
    is_good: bool = False


@dataclass(frozen=True)
class Model:
    """What the client asks its servers for.

    Attributes:
        name: Name of the model.
        version: Its version; None is the latest.
        load_timeout: Seconds that a server which loads models on demand may
            take to load it; None if it must not be asked to.
    """

    name: str
    version: int | None
    load_timeout: float | None


@dataclass
class Peers:
    """The servers of one client.

    Attributes:
        all: The servers, in the user's order.
        model: What they are asked for.
        closing: Set when the client closes: every wait ends.
        spec: The model as the first of them describes it.
    """

    all: Sequence[Peer]
    model: Model
    closing: threading.Event = field(default_factory=threading.Event)
    spec: ModelSpec | None = None
    _turn: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self) -> Peer:
        """The server whose turn it is; does not wait, nor ask it."""
        with self._lock:
            order = self._rotated()
            chosen = next((p for p in order if p.is_good), order[0])
            self._turn = self.all.index(chosen) + 1
        return chosen

    def meet(self, timeout: float | None) -> ModelSpec:
        """Find a server for the first time.

        Args:
            timeout: Seconds to go on for; None is long enough for a server
                that is slow, and not for one that is not there.

        Raises:
            ClientError: As `find`.
        """
        seconds = _MEETING_SECONDS if timeout is None else timeout
        patience = _ABSENT_SECONDS if timeout is None else timeout
        try:
            return self.find(seconds, patience=patience)[1]
        except ServerUnavailable as error:
            msg = (
                f"{error}; tried for {patience:g} s; where a server may still"
                " be starting, give more seconds as connect_timeout"
            )
            raise ServerUnavailable(
                msg, server_message=error.server_message
            ) from error

    def find(
        self,
        timeout: float,
        avoid: Peer | None = None,
        patience: float = math.inf,
    ) -> tuple[Peer, ModelSpec]:
        """A server that has just described the model, and its description.

        Asks all of them in turn, again and again with growing, jittered
        pauses.

        Args:
            timeout: Seconds to go on for.
            avoid: A server to ask after the others.
            patience: Seconds after which it is enough that no server is
                there.

        Raises:
            ServerUnavailable: If none answered.
            DeadlineExceeded: If none answered in time.
            ModelNotFound: If none has the model ready, or may load it.
            UnsupportedModel: If this client cannot handle the model, or a
                later server describes it unlike the first.
            ClientClosed: If the client is closed meanwhile.
        """
        end = monotonic() + timeout
        retrying = Retrying(
            retry=retry_if_exception_type(_WORTH_ANOTHER_TRY),
            wait=wait_random_exponential(_FIRST_WAIT, _LONGEST_WAIT),
            stop=stop_any(
                stop_before_delay(timeout),
                stop_when_event_set(self.closing),
                _StopIfAbsent(patience),
            ),
            sleep=sleep_using_event(self.closing),
            reraise=True,
        )
        return retrying(self._first_good, end, avoid)

    def watch(self) -> None:
        """Look after the servers that are not good, until the client closes.

        Needed where there are several: whoever has another one does not go
        back to a lost one by itself.
        """
        while not self.closing.is_set():
            for peer in self.all:
                if not peer.is_good and not self.closing.is_set():
                    with contextlib.suppress(ClientError):
                        self._check(peer, _QUESTION_SECONDS)
            self.closing.wait(_SECONDS_BETWEEN_VISITS)

    def _first_good(
        self, end: float, avoid: Peer | None
    ) -> tuple[Peer, ModelSpec]:
        errors: list[ClientError] = []
        for peer in self._asked_in_order(avoid):
            if self.closing.is_set():
                msg = "the client was closed"
                raise ClientClosed(msg)
            left = max(end - monotonic(), 0.01)
            if len(self.all) > 1:
                left = min(left, _QUESTION_SECONDS)
            try:
                return peer, self._check(peer, left)
            except ClientError as error:
                peer.is_good = False
                errors.append(error)
        raise _worst(errors)

    def _asked_in_order(self, avoid: Peer | None) -> Iterable[Peer]:
        with self._lock:
            order = self._rotated()
        return sorted(order, key=lambda peer: peer is avoid)

    def _rotated(self) -> list[Peer]:
        start = self._turn % len(self.all)
        return [*self.all[start:], *self.all[:start]]

    def _check(self, peer: Peer, timeout: float) -> ModelSpec:
        try:
            found = self._describe(peer.transport, timeout)
        except ModelNotFound as missing:
            self._load(peer.transport, missing)
            found = self._describe(peer.transport, timeout)
        if self.spec is None:
            self.spec = found
        elif found != self.spec:
            msg = (
                f"{peer.address} describes {self.model.name!r} unlike the"
                " server that this client was made for: give all servers the"
                " same repository, or make a new client"
            )
            raise UnsupportedModel(msg)
        peer.is_good = True
        return found

    def _load(self, transport: Transport, missing: ModelNotFound) -> None:
        if self.model.load_timeout is None:
            raise missing
        try:
            transport.load_model(self.model.name, self.model.load_timeout)
        except ModelNotFound as refused:
            said = refused.server_message or ""
            if _LOADS_BY_ITSELF in said:
                raise missing from None
            msg = f"{missing}; and it could not be loaded: {said}"
            raise ModelNotFound(msg, server_message=said) from refused

    def _describe(self, transport: Transport, timeout: float) -> ModelSpec:
        """Ask for the model, and for what it runs if it is an ensemble."""
        end = monotonic() + timeout

        def config(name: str, version: int | None) -> dict[str, object]:
            left = max(end - monotonic(), 0.01)
            return dict(transport.model_config(name, version, left))

        whole = config(self.model.name, self.model.version)
        parts = [config(*step) for step in steps(whole).items()]
        return describe(
            whole,
            self.model.version,
            any(map(is_stateful_alone, [whole, *parts])),
            sees_sequence_id=any(map(sees_sequence_id_alone, [whole, *parts])),
        )


class _StopIfAbsent(stop_base):
    """Stop after so many seconds, but not where a server is only slow."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __call__(self, state: RetryCallState) -> bool:
        outcome, since = state.outcome, state.seconds_since_start or 0.0
        return (
            since >= self._seconds
            and outcome is not None
            and isinstance(outcome.exception(), ServerUnavailable)
        )


def _worst(errors: Sequence[ClientError]) -> ClientError:
    """One error for those of all servers."""
    telling = next(
        (e for e in errors if isinstance(e, _WORTH_ANOTHER_TRY)), errors[-1]
    )
    if len(errors) == 1:
        return telling
    told = type(telling)(
        f"none of {len(errors)} servers can be used: "
        + "; ".join(map(str, errors)),
        server_message=telling.server_message,
    )
    told.__cause__ = telling
    return told
