"""Which server a unit streams to.

Servers that are given are shared by all workers, and the campaign counts who
is on which (`Plan`). A server for each worker is started by the worker, and
counted there: workers have threads on some executors.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import util
from typing import Any

from hermes.stillwater.errors import InvalidCampaign, NoServerFree

__all__ = ("PerWorker", "Servers", "Slots", "borrow", "choose")

Slots = int | Callable[[Any], int]


@dataclass(frozen=True)
class PerWorker:
    """A server for each worker process.

    Attributes:
        start: Gives a context manager: the server, or what has it as its
            ``endpoint`` once it is entered.
        slots: Sequences that it has room for.
        sequences: That a unit has at the same time.
        token: The campaign's.
        patience: Seconds to wait for a free slot.
        idle: Seconds without a unit after which the server is stopped.
    """

    start: Callable[[], AbstractContextManager[Any]]
    slots: Slots
    sequences: int
    token: str
    patience: float = 3600.0
    idle: float = 60.0


@dataclass(frozen=True)
class Servers:
    """What units are told, and how many at a time.

    Attributes:
        names: One for each server; one that is empty if there are none.
        given: What units get, by number.
        slots: As the user gave them; None for any number.
        sequences: That a unit has at the same time.
    """

    names: tuple[str, ...] = ("",)
    given: tuple[Any, ...] = (None,)
    slots: Slots | None = None
    sequences: int = 1

    def places(self) -> tuple[int | None, ...]:
        """Give the units that each may have in flight; None for any number.

        Raises:
            InvalidCampaign: If one has no room for any.
        """
        slots = self.slots
        if slots is None:
            return (None,) * len(self.names)
        return tuple(
            num_places(
                slots(one) if callable(slots) else slots, self.sequences
            )
            for one in self.given
        )


def choose(
    servers: Any, slots: Slots | None, sequences: int, token: str
) -> Servers:
    """Understand what a user gave as servers.

    Args:
        servers: One, a list of them, or a function that gives one.
        slots: Sequences that each has room for.
        sequences: That a unit has at the same time.
        token: For a server for each worker.

    Raises:
        InvalidCampaign: If it is nothing that could be one, or has no room.
    """
    if servers is None:
        if slots is not None:
            raise InvalidCampaign(f"slots={slots!r} of what? Give servers=")
        return Servers()
    if slots is None:
        msg = (
            "servers= without slots=: say how many sequences each server has"
            " room for, as a number, or as a function of the endpoint"
        )
        raise InvalidCampaign(msg)
    if not callable(slots):
        num_places(slots, sequences)
    if callable(servers) and not hasattr(servers, "grpc"):
        return Servers(given=(PerWorker(servers, slots, sequences, token),))
    many = servers if isinstance(servers, list | tuple) else [servers]
    names = tuple(map(_name, many))
    if not names:
        raise InvalidCampaign("servers=[]: give at least one, or None")
    if len(set(names)) < len(names):
        msg = f"servers={list(names)}: one is given twice; add up its slots"
        raise InvalidCampaign(msg)
    return Servers(names, tuple(many), slots, sequences)


def num_places(slots: Any, sequences: int) -> int:
    """How many units may be on a server.

    Raises:
        InvalidCampaign: If none.
    """
    if isinstance(slots, bool) or not isinstance(slots, int):
        msg = f"slots are {slots!r}: give a number of sequences"
        raise InvalidCampaign(msg)
    if slots < sequences:
        msg = (
            f"a server has {slots} slots, and a unit streams {sequences}"
            " sequences: give the server's model more instances, or lower"
            " sequences_per_unit"
        )
        raise InvalidCampaign(msg)
    return slots // sequences


@contextmanager
def borrow(server: Any) -> Iterator[Any]:
    """Give a unit its endpoint, in the worker.

    Raises:
        NoServerFree: If the worker's own server has no slot in time.
    """
    if not isinstance(server, PerWorker):
        yield server
        return
    with _lock:
        keeper = _keepers.setdefault(server.token, _Keeper(server))
    with keeper.use() as endpoint:
        yield endpoint


def _name(server: Any) -> str:
    name = server if isinstance(server, str) else getattr(server, "grpc", "")
    if not isinstance(name, str) or not name:
        msg = (
            f"the server {server!r} is none: give 'host:port', an endpoint"
            " (with an attribute `grpc`), a list of these, or a function that"
            " starts one for each worker"
        )
        raise InvalidCampaign(msg)
    return name


class _Running:
    """A server that this process has started."""

    def __init__(self, maker: PerWorker) -> None:
        context = maker.start()
        if not hasattr(context, "__enter__"):
            msg = (
                f"servers= gave {context!r}, which `with` cannot enter: give"
                " a function such as partial(serve, 'models', wait=True)"
            )
            raise InvalidCampaign(msg)
        with ExitStack() as stack:
            server = stack.enter_context(context)
            self.endpoint = getattr(server, "endpoint", server)
            slots = maker.slots
            if callable(slots):
                slots = slots(self.endpoint)
            self.places = num_places(slots, maker.sequences)
            self._stack = stack.pop_all()
        self.num_users = 0
        self.is_stale = False

    def stop(self) -> None:
        """Leave it; never raises, for its units are done."""
        with contextlib.suppress(Exception):
            self._stack.close()


class _Keeper:
    """The server of this process: started when needed, stopped when not.

    After a unit has failed, the next one gets a new server: nobody here can
    tell whether the old one is well.
    """

    def __init__(self, maker: PerWorker) -> None:
        self._maker = maker
        self._changed = threading.Condition()
        self._running: _Running | None = None
        self._timer: threading.Timer | None = None

    @contextmanager
    def use(self) -> Iterator[Any]:
        """Hold one of its places.

        Raises:
            NoServerFree: If there is none in time.
        """
        running = self._enter()
        is_well = False
        try:
            yield running.endpoint
            is_well = True
        finally:
            self._leave(running, is_well=is_well)

    def close(self) -> None:
        """Stop it, if nobody is on it."""
        with self._changed:
            running = self._running
            if running is None or running.num_users:
                return
            self._running = None
            running.stop()

    def _enter(self) -> _Running:
        with self._changed:
            if self._timer is not None:
                self._timer.cancel()
            if not self._changed.wait_for(
                self._has_place, self._maker.patience
            ):
                msg = (
                    f"no slot was free for {self._maker.patience:g} s on the"
                    " worker's own server: start workers with as many threads"
                    " as it has room for units"
                )
                raise NoServerFree(msg)
            if self._running is None:
                self._running = _Running(self._maker)
                # Before the process goes, and whoever started it.
                util.Finalize(self, _Keeper.close, (self,), exitpriority=100)
            self._running.num_users += 1
            return self._running

    def _leave(self, running: _Running, *, is_well: bool) -> None:
        with self._changed:
            running.num_users -= 1
            if not is_well:
                running.is_stale = True
                if self._running is running:
                    self._running = None
            if not running.num_users:
                if running.is_stale:
                    running.stop()
                else:
                    self._wait_idle()
            self._changed.notify_all()

    def _wait_idle(self) -> None:
        self._timer = threading.Timer(self._maker.idle, self.close)
        self._timer.daemon = True
        self._timer.start()

    def _has_place(self) -> bool:
        running = self._running
        return running is None or running.num_users < running.places


_keepers: dict[str, _Keeper] = {}
_lock = threading.Lock()
