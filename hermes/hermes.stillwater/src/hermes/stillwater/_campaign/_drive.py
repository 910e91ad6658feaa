"""Submits units, waits for them, and records what became of them."""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from concurrent.futures import wait as wait_for
from queue import Empty, SimpleQueue
from typing import NoReturn

from hermes.stillwater._campaign._interrupt import Interrupt
from hermes.stillwater._campaign._manifest import Manifest
from hermes.stillwater._campaign._output import Staging
from hermes.stillwater._campaign._plan import Order, Plan
from hermes.stillwater._campaign._progress import PERIOD, Meter, Show
from hermes.stillwater._campaign._rows import DONE, ERROR, FAILED, LOST, Row
from hermes.stillwater._campaign._work import Report, Task, work
from hermes.stillwater.errors import (
    CampaignError,
    ExecutorBroken,
    InvalidCampaign,
    WorkersUnusable,
)

__all__ = ("Drive",)

_logger = logging.getLogger("hermes.stillwater.campaign")
# For what an executor that broke still has to say.
_BROKEN_SECONDS = 5.0
# The least time between two looks at the progress.
_BLINK = 0.2


class Drive:
    """One run of a campaign.

    Args:
        plan: What is to be done.
        make: Turns an order into a task.
        units: Digest of each unit.
        manifest: Where it is recorded.
        staging: Where it is done.
        meter: Counts it.
        show: Shows it.
    """

    def __init__(
        self,
        plan: Plan,
        make: Callable[[Order], Task],
        units: Mapping[str, str],
        manifest: Manifest,
        staging: Staging,
        meter: Meter,
        show: Show,
    ) -> None:
        self._plan = plan
        self._make = make
        self._units = units
        self._manifest = manifest
        self._staging = staging
        self._meter = meter
        self._show = show
        self._flying: dict[Future[Report], Order] = {}
        self._landed: SimpleQueue[Future[Report] | None] = SimpleQueue()
        self._end: float | None = None
        self._shown = 0.0
        self._looked = time.monotonic()

    def run(self, executor: Executor, limit: int, grace: float) -> bool:
        """Do all that the plan has.

        Args:
            executor: Who does it.
            limit: Units in flight, at most.
            grace: Seconds for units in flight after Ctrl-C.

        Returns:
            Whether all was done; False after Ctrl-C, when units in flight
            were finished.

        Raises:
            KeyboardInterrupt: After Ctrl-C, when units in flight were given
                up.
            ExecutorBroken: If the executor gives up. What it has done is
                recorded.
            WorkersUnusable: If workers cannot be started.
            ManifestUnwritable: If what was done cannot be recorded.
        """
        with Interrupt(lambda: self._landed.put(None)) as interrupt:
            try:
                self._loop(interrupt, executor, limit, grace)
            finally:
                self._staging.stop()
                for future in self._flying:
                    future.cancel()
            if interrupt.is_asked and self._flying:
                raise KeyboardInterrupt
            return not interrupt.is_asked

    def _loop(
        self,
        interrupt: Interrupt,
        executor: Executor,
        limit: int,
        grace: float,
    ) -> None:
        self._tell(is_due=True)
        while True:
            if interrupt.is_asked:
                self._stop(grace)
            else:
                self._submit(executor, limit)
            if not self._flying or self._is_over():
                break
            self._settle(self._wait())
            self._look_around()
            self._tell()
        self._tell(is_due=True)

    def _submit(self, executor: Executor, limit: int) -> None:
        for order in self._plan.take(limit):
            task = self._make(order)
            try:
                future = executor.submit(work, task)
            except InvalidCampaign as error:
                error.add_note(f"it was the unit {order.key!r}")
                self._give_up(error)
            except Exception as error:  # noqa: BLE001  # of any executor
                self._give_up(error)
            self._flying[future] = order
            future.add_done_callback(self._landed.put)

    def _stop(self, grace: float) -> None:
        if self._end is None:
            self._end = time.monotonic() + grace
            self._staging.stop()
            _logger.warning(
                "stopping: units in flight have %g s; Ctrl-C again to stop"
                " at once",
                grace,
            )

    def _is_over(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end

    def _wait(self) -> list[Future[Report]]:
        """Wait for units, and give all that have landed."""
        timeout = PERIOD
        landed: list[Future[Report] | None] = []
        if self._end is not None:
            timeout = min(timeout, max(0.0, self._end - time.monotonic()))
        with contextlib.suppress(Empty):
            landed.append(self._landed.get(timeout=timeout))
            while True:
                landed.append(self._landed.get_nowait())
        return [f for f in landed if f is not None and f in self._flying]

    def _find(self, order: Order) -> Report | None:
        return Report.find(self._staging.folder, order.key, order.attempt)

    def _look_around(self) -> None:
        """Settle units that are done, but whose executor does not say so."""
        now = time.monotonic()
        if now - self._looked < PERIOD:
            return
        self._looked = now
        flying = list(self._flying.items())
        lost = [future for future, order in flying if self._find(order)]
        self._record(lost)
        for future in lost:
            future.cancel()

    def _settle(self, landed: Sequence[Future[Report]]) -> None:
        for future in landed:
            if not _is_sound(future):
                cancelled = future.cancelled()
                self._give_up(None if cancelled else future.exception())
        self._record(landed)

    def _record(self, landed: Iterable[Future[Report]]) -> None:
        rows = [self._row(future) for future in landed]
        self._manifest.append(row for row in rows if row is not None)

    def _give_up(self, error: BaseException | None) -> NoReturn:
        """Record what the executor has done nevertheless, and raise."""
        done, _ = wait_for(self._flying, _BROKEN_SECONDS)
        self._record([future for future in done if _is_sound(future)])
        if isinstance(error, CampaignError):
            raise error
        if isinstance(error, BrokenExecutor):
            orders = list(self._flying.values())
            self._manifest.append(map(self._suspect, orders))
        reason = "it cancelled units" if error is None else repr(error)
        msg = (
            f"the executor has given up ({reason}). What was done is"
            " recorded: run the campaign again with another one, and it goes"
            " on from there"
        )
        raise ExecutorBroken(msg) from error

    def _suspect(self, order: Order) -> Row:
        error = "it was in flight when the executor broke"
        return self._fail(order, _unknown(error), is_suspect=True)

    def _row(self, future: Future[Report]) -> Row | None:
        order = self._flying.pop(future)
        report = self._find(order)
        error = future.exception() if future.done() else None
        if error is not None and report is None:
            # Our own pool knows who died of what; others lose all that a
            # worker had, and Dask blames them all for it.
            is_suspect = not isinstance(error, CampaignError)
            text = "".join(traceback.format_exception(error))
            return self._fail(order, _unknown(text), is_suspect=is_suspect)
        report = report or future.result()
        if not report.is_begun:
            return None
        if report.error:
            return self._fail(order, report)
        self._plan.succeed(order)
        self._meter.finish(order.key, is_done=True)
        return self._make_row(order, DONE, report)

    def _fail(
        self, order: Order, report: Report, *, is_suspect: bool = False
    ) -> Row:
        _logger.info(
            "unit %s, attempt %d: %s",
            order.key,
            order.attempt,
            report.error.rstrip().rpartition("\n")[2],
        )
        if self._plan.fail(order, is_suspect=is_suspect):
            status = LOST if is_suspect else ERROR
        else:
            status = FAILED
            self._meter.finish(order.key, is_done=False)
        return self._make_row(order, status, report)

    def _make_row(self, order: Order, status: str, report: Report) -> Row:
        return Row(
            key=order.key,
            status=status,
            unit=self._units[order.key],
            attempt=order.attempt,
            outputs=report.outputs,
            seconds=round(report.seconds, 6),
            host=report.host,
            error=report.error,
            finished=round(time.time(), 3),
        )

    def _tell(self, *, is_due: bool = False) -> None:
        now = time.monotonic()
        if is_due or now - self._shown >= _BLINK:
            self._shown = now
            self._show(self._meter.read(len(self._flying), now))


def _is_sound(future: Future[Report]) -> bool:
    """Whether what it says is about the unit, and not the executor."""
    if future.cancelled():
        return False
    error = future.exception()
    return not isinstance(error, BrokenExecutor | WorkersUnusable)


def _unknown(error: str) -> Report:
    return Report(error=error, host="")
