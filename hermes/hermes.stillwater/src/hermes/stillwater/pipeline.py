"""Stages in processes of their own, joined by channels."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, TextIO

from hermes.stillwater._board import (
    SENT,
    Board,
    StageStatistics,
    summarize,
)
from hermes.stillwater._links import NOTHING, Arrival, Inlet, Outlet
from hermes.stillwater._live import show
from hermes.stillwater._plan import Branches, Node, Step, make_plan
from hermes.stillwater._spawn import Child, refuse_in_child_import, start
from hermes.stillwater._watch import Watch
from hermes.stillwater.channel import Receiver, Sender, open_channel
from hermes.stillwater.errors import (
    ChannelError,
    InvalidPipeline,
    PipelineStopped,
)
from hermes.stillwater.process import (
    BUFFER_SIZE,
    DEPTH,
    PipelineProcess,
    stage,
)

__all__ = ("Pipeline", "StageStatistics")


class Pipeline:
    """Stages, one after another, each in processes of its own.

    ``source >> stage >> sink`` makes one. A list is branches side by side: all
    of them get every package, and the next stage gets a tuple of one package
    of each. Functions and iterables are wrapped by `hermes.stillwater.stage`.

    The processes live as long as the ``with`` block. Iterating gives what the
    last stage gives; where that is nothing, it waits for the end. Leaving the
    block before the end drops what is on its way.

    Args:
        *steps: Stages, pipelines, functions, iterables; lists of them.

    Raises:
        InvalidPipeline: If they cannot be joined like that.

    Example:
        ::

            with read >> clean >> [detect, plot] >> write as pipeline:
                for package in pipeline:
                    ...
    """

    def __init__(self, *steps: Any) -> None:
        self._steps = tuple(s for step in steps for s in _to_steps(step))
        if not self._steps:
            raise InvalidPipeline("a pipeline needs a stage")
        self._nodes, self._reader = make_plan(self._steps)
        self._run: _Run | None = None

    def __rshift__(self, other: Any) -> Pipeline:
        return Pipeline(*self._steps, other)

    def __rrshift__(self, other: Any) -> Pipeline:
        return Pipeline(other, *self._steps)

    def __enter__(self) -> Self:
        """Start the processes.

        Raises:
            CannotSpawn: If a stage cannot be sent to a process.
            InvalidPipeline: If the pipeline is running already.
        """
        if self._run is not None:
            raise InvalidPipeline("this pipeline is running already")
        refuse_in_child_import()
        self._run = _Run(self._nodes, self._reader)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """End all processes, within a second.

        Where the stream has ended, each has its `join_timeout` to tear down.

        Raises:
            Exception: What a stage raised, if nobody has seen it yet.
        """
        run, self._run = self._run, None
        if run is not None:
            failure = run.close(broken_off=error is not None)
            if failure is not None and error is None:
                raise failure

    def __iter__(self) -> Iterator[Any]:
        """Give what the last stage gives.

        Raises:
            Exception: What a stage raised, with its own traceback.
            StageDied: If a process ended by a signal.
            PipelineStopped: If the block is left meanwhile.
            InvalidPipeline: Outside of the block.
        """
        yield from self._running().packages()

    def run(self) -> Mapping[str, StageStatistics]:
        """Run from beginning to end, without giving anything.

        Returns:
            What each stage has done.

        Raises:
            Exception: See `__iter__` and `__enter__`.
        """
        with self:
            for _ in self:
                pass
            return self.statistics()

    def statistics(self) -> Mapping[str, StageStatistics]:
        """Tell what each stage has done so far.

        Raises:
            InvalidPipeline: Outside of the block.
        """
        return self._running().statistics()

    def live(
        self, file: TextIO | None = None, refresh_rate: float = 4
    ) -> contextlib.AbstractContextManager[None]:
        """Show a table of what the stages do, while a block lasts.

        Needs the extra ``progress``. The stage that is always busy is the
        bottleneck: packages wait before it, and none behind it.

        Args:
            file: Where to; stderr if None.
            refresh_rate: Tables per second [Hz].

        Raises:
            ExtraMissing: If the extra is not installed.
            InvalidPipeline: Outside of the pipeline's own block.
        """
        run = self._running()
        return show(lambda: run.statistics().values(), file, refresh_rate)

    @property
    def names(self) -> tuple[str, ...]:
        """The stages, each after those it reads from."""
        return tuple(node.name for node in self._nodes)

    def __repr__(self) -> str:
        state = "running" if self._run is not None else "not running"
        return f"<Pipeline {' >> '.join(self.names)}, {state}>"

    def _running(self) -> _Run:
        if self._run is None:
            msg = f"{self!r}: enter it first (`with ... as pipeline:`)"
            raise InvalidPipeline(msg)
        return self._run


def _to_steps(value: Any) -> tuple[Step, ...]:
    if isinstance(value, Pipeline):
        return value._steps
    if isinstance(value, PipelineProcess | Branches):
        return (value,)
    if isinstance(value, list) and any(map(_is_stage, value)):
        return (Branches(tuple(_to_steps(branch) for branch in value)),)
    return (stage(value),)


def _is_stage(value: object) -> bool:
    return callable(value) or isinstance(value, PipelineProcess | Pipeline)


class _Run:
    """One run of a pipeline: its processes and what joins them."""

    def __init__(self, nodes: list[Node], reader: Node) -> None:
        self._nodes = nodes
        self._rows = _number_rows(nodes)
        self._reading = threading.Lock()
        with contextlib.ExitStack() as opened:
            self._board = Board(sum(node.workers for node in nodes))
            opened.callback(self._board.close)
            self._channels = _Channels([*nodes, reader])
            opened.callback(self._channels.close)
            self._inlet = Inlet(self._channels.inputs(reader, 0))
            children: list[Child] = []
            opened.callback(_abandon, children)
            for node, worker in _all_workers(nodes):
                children.append(self._start(node, worker))
            self._channels.close_all_but(self._inlet)
            # Without us: who forgets to leave the block leaves no process
            # behind either.
            release = functools.partial(
                _release, self._reading, self._channels, self._board
            )
            self._watch = Watch(children, self._inlet.interrupt, release)
            opened.pop_all()
        self._arrivals = iter(self._inlet)
        self._is_known = False
        self._finalizer = weakref.finalize(self, _forget, self._watch)

    def packages(self) -> Iterator[Any]:
        """Give what the last stage gives."""
        while (arrival := self._next()) is not None:
            if arrival.package is not NOTHING:
                yield arrival.package

    def _next(self) -> Arrival | None:
        try:
            with self._reading:
                arrival = next(self._arrivals, None)
        except ChannelError:
            self._watch.settled.wait(1)
            raise self._explain(_LEFT) from None
        if arrival is None and not self._inlet.has_ended:
            raise self._explain(_BROKEN_OFF)
        return arrival

    def _explain(self, reason: str) -> BaseException:
        if self._watch.failure is None:
            return PipelineStopped(reason)
        self._is_known = True
        return self._watch.failure

    def close(self, *, broken_off: bool) -> BaseException | None:
        """End everything; return the failure that nobody has seen yet."""
        self._finalizer.detach()
        has_ended = self._inlet.has_ended and not broken_off
        if not has_ended:
            self._inlet.interrupt()
        self._watch.end(has_ended=has_ended)
        return None if self._is_known else self._watch.failure

    def statistics(self) -> Mapping[str, StageStatistics]:
        """See `Pipeline.statistics`."""
        now = time.monotonic_ns()
        rows = {
            node: [
                self._board.read(self._rows[node] + worker)
                for worker in range(node.workers)
            ]
            for node in self._nodes
        }
        return {
            node.name: summarize(
                node.name,
                rows[node],
                min(
                    (sum(r[SENT] for r in rows[n]) for n in node.inputs),
                    default=0,
                ),
                now,
            )
            for node in self._nodes
        }

    def _start(self, node: Node, worker: int) -> Child:
        channels = self._channels
        name = node.name + (f" #{worker + 1}" if node.workers > 1 else "")
        inlet = Inlet(channels.inputs(node, worker), worker, node.workers)
        outlet = Outlet(channels.outputs(node, worker), node.workers)
        row = self._rows[node] + worker
        counters = (self._board, row)
        more = (_log_levels(), node.is_branch)
        return start(name, (node.stage, inlet, outlet, *counters, *more))


_LEFT = "the pipeline was left before its stream had ended"
_BROKEN_OFF = (
    "reading the results was broken off by an exception before, perhaps in the"
    " middle of a package: enter the pipeline again"
)


def _release(
    reading: threading.Lock, channels: _Channels, board: Board
) -> None:
    with reading:
        channels.close()
    board.close()


def _forget(watch: Watch) -> None:
    watch.let_go()
    watch.stop()


def _log_levels() -> dict[str, int]:
    """Tell which loggers say how much; the root's name is empty."""
    loggers = logging.getLogger().manager.loggerDict
    levels = {
        name: logger.level
        for name, logger in loggers.items()
        if isinstance(logger, logging.Logger) and logger.level
    }
    return levels | {"": logging.getLogger().level}


def _all_workers(nodes: Iterable[Node]) -> Iterator[tuple[Node, int]]:
    for node in nodes:
        for worker in range(node.workers):
            yield node, worker


def _number_rows(nodes: Iterable[Node]) -> dict[Node, int]:
    rows, number = {}, 0
    for node in nodes:
        rows[node] = number
        number += node.workers
    return rows


class _Channels:
    """From every worker of a stage to every worker of those behind it."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._ends: dict[tuple[Node, Node], list[list[_Ends]]] = {}
        for node in nodes:
            options = _sizes(node)
            for source in node.inputs:
                self._ends[source, node] = [
                    [open_channel(*options) for _ in range(node.workers)]
                    for _ in range(source.workers)
                ]

    def inputs(self, node: Node, worker: int) -> list[list[Receiver]]:
        """What one worker of a stage reads."""
        return [
            [row[worker][1] for row in self._ends[source, node]]
            for source in node.inputs
        ]

    def outputs(self, node: Node, worker: int) -> list[list[Sender]]:
        """What it writes."""
        return [
            [ends[0] for ends in self._ends[node, reader][worker]]
            for reader in node.outputs
        ]

    def close_all_but(self, inlet: Inlet) -> None:
        """Close what the children have now."""
        kept = set(map(id, inlet.channels()))
        for end in self._all():
            if id(end) not in kept:
                end.close()

    def close(self) -> None:
        """Close everything."""
        for end in self._all():
            end.close()

    def _all(self) -> Iterator[Sender | Receiver]:
        for rows in self._ends.values():
            for row in rows:
                for ends in row:
                    yield from ends


_Ends = tuple[Sender, Receiver]


def _sizes(node: Node) -> tuple[int, int]:
    if node.stage is None:
        return BUFFER_SIZE, DEPTH
    return node.stage.buffer_size, node.stage.depth


def _abandon(children: Iterable[Child]) -> None:
    for child in children:
        child.process.kill()
        child.process.wait()
        child.close()
