"""Many segments, whatever happens on the way.

A `Campaign` computes units, each of which is one call of one function that
writes one file or folder. It may be killed at any moment, with its workers or
without, and is started again in the same way: it goes on from where it was,
and the outputs are those of a run that nothing happened to.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from hermes.stillwater._campaign._drive import Drive
from hermes.stillwater._campaign._identity import digest, name_of
from hermes.stillwater._campaign._manifest import Manifest, look
from hermes.stillwater._campaign._output import Staging, are_there
from hermes.stillwater._campaign._plan import Order, Plan
from hermes.stillwater._campaign._pool import Pool
from hermes.stillwater._campaign._progress import (
    Meter,
    Progress,
    Show,
    shown,
)
from hermes.stillwater._campaign._rows import Header, Row
from hermes.stillwater._campaign._servers import Slots, choose
from hermes.stillwater._campaign._standing import Standing, stand
from hermes.stillwater._campaign._units import Segment, collect, cost
from hermes.stillwater._campaign._work import Task
from hermes.stillwater.errors import InvalidCampaign

__all__ = (
    "Campaign",
    "CampaignStatus",
    "Failure",
    "Progress",
    "Segment",
)

# In flight on an executor that does not say how many workers it has: those
# that wait there cost nothing, and clusters grow by what waits.
_MANY = 1000


@dataclass(frozen=True)
class Failure:
    """Why a unit has failed.

    Attributes:
        error: What its last attempt raised, with the traceback.
        attempts: How many there were.
    """

    error: str
    attempts: int


@dataclass(frozen=True, repr=False)
class CampaignStatus:
    """How a campaign stands.

    Attributes:
        done: Units done by this run; all that are done if there was no run.
        skipped: Units that were done before this run.
        remaining: Units that wait.
        failed: Units that have failed, by their keys.
    """

    done: int
    skipped: int
    remaining: int
    failed: Mapping[str, Failure] = field(default_factory=dict)

    def __repr__(self) -> str:
        keys = ", ".join(list(self.failed)[:3])
        more = ", ..." if len(self.failed) > 3 else ""
        return (
            f"<CampaignStatus: {self.done} done, {self.skipped} done before,"
            f" {self.remaining} remaining, {len(self.failed)} failed"
            f"{f' ({keys}{more})' if keys else ''}>"
        )


class Campaign:
    """Units, the function that computes one, and the record of what is done.

    Making one reads and writes nothing.

    Args:
        units: `Segment`s, texts, objects with an attribute ``key``, or a
            mapping of keys to anything. The key names the output.
        run: ``run(unit, output)`` computes one unit, in a worker. ``output``
            is a path at which nothing is yet: it writes a file there, or
            makes a folder and writes into that. Only when it has returned is
            this moved to ``outputs / f"{key}{suffix}"``. With ``servers``, it
            is ``run(unit, output, endpoint=...)``. The same unit must give
            the same output whenever it is computed.
        manifest: A file of JSON lines, the record.
        outputs: Folder of the outputs; the manifest's if None. Workers on
            other machines must see it under the same path.
        suffix: Ending of the outputs' names, such as ``".h5"``.
        servers: ``"host:port"``, an endpoint, a list of them (a unit goes to
            the same one each time, unless it failed there), or a function
            that gives a context manager, which is entered once in each worker
            process: ``partial(serve, "models", wait=True, free_ports=True)``.
        slots: Sequences that a server has room for at the same time, or a
            function of the endpoint that says so. There are never more.
        sequences_per_unit: How many of them a unit streams at the same time.
        max_attempts: How often a unit is tried that raises, takes too long,
            or kills its worker.
        timeout: Seconds that a unit may take; its worker is killed then. Only
            for the campaign's own processes.
        identity: Instead of ``run``'s name and bound arguments: what must be
            the same for a manifest to be gone on with.

    Raises:
        InvalidCampaign: If units or options make no campaign.
    """

    def __init__(
        self,
        units: Mapping[str, Any] | Iterable[Any],
        run: Callable[..., Any],
        manifest: str | os.PathLike[str],
        *,
        outputs: str | os.PathLike[str] | None = None,
        suffix: str = "",
        servers: Any = None,
        slots: Slots | None = None,
        sequences_per_unit: int = 1,
        max_attempts: int = 3,
        timeout: float | None = None,
        identity: Any = None,
    ) -> None:
        if not callable(run):
            raise InvalidCampaign(f"run={run!r} cannot be called")
        _check_counts(
            max_attempts=max_attempts, sequences_per_unit=sequences_per_unit
        )
        _check_positive(timeout=1 if timeout is None else timeout)
        self._units = collect(units)
        self._run = run
        self._manifest = Path(manifest).absolute()
        self._outputs = Path(outputs or self._manifest.parent).absolute()
        self._suffix = suffix
        self._max_attempts = max_attempts
        self._timeout = timeout
        self._servers = choose(
            servers, slots, sequences_per_unit, uuid.uuid4().hex
        )
        decisive = [run if identity is None else identity, suffix]
        self._header = Header(name_of(run), digest(decisive))
        self._digests = {key: digest(u) for key, u in self._units.items()}
        self._check_names()

    def run(
        self,
        executor: Executor | None = None,
        *,
        workers: int | None = None,
        in_flight: int | None = None,
        progress: bool | str | Show = False,
        retry_failed: bool = False,
        grace: float = 30.0,
    ) -> CampaignStatus:
        """Compute the units that are not done.

        Ctrl-C (in the main thread) lets units in flight finish, and then
        raises KeyboardInterrupt; a second one ends them at once.

        Args:
            executor: Whose workers compute; None for processes of this
                machine, which then are started with the method "spawn", so
                that a script needs its ``if __name__ == "__main__":``.
            workers: How many processes; None for one on each CPU.
            in_flight: Units that the executor has at the same time; None for
                twice its workers, or 1000 where it does not say how many.
            progress: False: for the log only. True: a bar at a terminal if
                rich is installed (extra ``progress``), else lines;
                ``"rich"`` or ``"plain"`` to choose; or a function that is
                called with each `Progress`.
            retry_failed: Try those again that failed in an earlier run.
            grace: Seconds that units in flight have after Ctrl-C.

        Returns:
            What became of all units. Those that have failed raise nothing.

        Raises:
            InvalidCampaign: If options do not go together, or the function
                or a unit cannot be sent to a worker.
            CampaignRunning: If another process runs it.
            ManifestUnusable: If the manifest is another campaign's.
            ManifestUnwritable: If it, or the outputs, cannot be written.
            WorkersUnusable: If worker processes cannot be started.
            ExecutorBroken: If the given executor gives up.
            ExtraMissing: If ``progress="rich"`` needs an extra.
        """
        self._check_run(executor, workers, in_flight, grace)
        with contextlib.ExitStack() as stack:
            show = stack.enter_context(shown(progress))
            places = self._servers.places()
            manifest = stack.enter_context(
                Manifest(self._manifest, self._header, self._digests)
            )
            staging = Staging(self._outputs, self._manifest.name)
            stack.callback(staging.close)
            before = self._stand(manifest.last, retry_failed=retry_failed)
            plan = self._plan(before, places)
            drive = self._drive(plan, before, manifest, staging, show)
            engine = stack.enter_context(self._engine(executor, workers))
            is_complete = drive.run(engine, in_flight or _limit(engine), grace)
        if not is_complete:
            raise KeyboardInterrupt
        return self._status(self._stand(manifest.last), before)

    def status(self) -> CampaignStatus:
        """Read the manifest, whether or not a campaign is running.

        Raises:
            ManifestUnusable: If it is another campaign's.
        """
        last = look(self._manifest, self._header, self._digests)
        return self._status(self._stand(last))

    def outputs(self) -> dict[str, Path]:
        """Give the paths of the outputs of all units that are done.

        Raises:
            ManifestUnusable: If the manifest is another campaign's.
        """
        last = look(self._manifest, self._header, self._digests)
        done = self._stand(last).done
        return {k: self._final(k) for k in self._units if k in done}

    def __repr__(self) -> str:
        num, name = len(self._units), self._header.run
        return f"<Campaign: {name} of {num} units, {self._manifest}>"

    def _stand(
        self, last: Mapping[str, Row], *, retry_failed: bool = False
    ) -> Standing:
        is_good = functools.partial(are_there, self._outputs)
        return stand(self._units, last, is_good, retry_failed=retry_failed)

    def _status(
        self, now: Standing, before: Standing | None = None
    ) -> CampaignStatus:
        skipped = len(before.done) if before is not None else 0
        return CampaignStatus(
            done=len(now.done) - skipped,
            skipped=skipped,
            remaining=len(now.todo),
            failed={
                key: Failure(row.error, row.attempt)
                for key, row in now.failed.items()
            },
        )

    def _plan(self, before: Standing, places: tuple[int | None, ...]) -> Plan:
        return Plan(
            before.todo,
            self._max_attempts,
            before.attempts,
            before.suspects,
            self._servers.names,
            places,
        )

    def _drive(
        self,
        plan: Plan,
        before: Standing,
        manifest: Manifest,
        staging: Staging,
        show: Show,
    ) -> Drive:
        costs = {key: cost(unit) for key, unit in self._units.items()}
        return Drive(
            plan=plan,
            make=functools.partial(self._task, staging.folder),
            units=self._digests,
            manifest=manifest,
            staging=staging,
            meter=Meter(costs, before.done, before.failed.keys(), monotonic()),
            show=show,
        )

    def _final(self, key: str) -> Path:
        return self._outputs / f"{key}{self._suffix}"

    def _task(self, folder: Path, order: Order) -> Task:
        return Task(
            key=order.key,
            attempt=order.attempt,
            unit=self._units[order.key],
            run=self._run,
            server=self._servers.given[order.server],
            staging=folder,
            final=self._final(order.key),
        )

    @contextlib.contextmanager
    def _engine(
        self, executor: Executor | None, workers: int | None
    ) -> Iterator[Executor]:
        if executor is not None:
            yield executor
            return
        pool = Pool(workers or _num_cpus(), self._timeout)
        try:
            yield pool
            pool.shutdown()
        except BaseException:
            pool.kill()
            raise

    def _check_names(self) -> None:
        for key in self._units:
            final = self._final(key)
            if final == self._manifest or final.parent != self._outputs:
                msg = (
                    f"the output of {key!r} would be {final}: give another"
                    " suffix, another name for the manifest, or outputs="
                )
                raise InvalidCampaign(msg)

    def _check_run(
        self,
        executor: Any,
        workers: int | None,
        in_flight: int | None,
        grace: float,
    ) -> None:
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            msg = (
                "this process is a worker that imports the file which was"
                " run: put run() below `if __name__ == '__main__':`"
            )
            raise InvalidCampaign(msg)
        _check_positive(grace=grace)
        _check_counts(
            in_flight=1 if in_flight is None else in_flight,
            workers=1 if workers is None else workers,
        )
        if executor is None:
            return
        if not isinstance(executor, Executor):
            msg = (
                f"executor={executor!r} is no concurrent.futures.Executor;"
                " Dask's clients have get_executor()"
            )
            raise InvalidCampaign(msg)
        if workers is not None or self._timeout is not None:
            msg = (
                "workers= and timeout= are for the campaign's own processes:"
                " an executor has its own workers, and cannot end a unit"
            )
            raise InvalidCampaign(msg)


def _check_positive(**options: Any) -> None:
    for name, value in options.items():
        is_number = isinstance(value, int | float) and value is not True
        if not is_number or not value > 0:
            msg = f"{name}={value!r}: give a number above 0"
            raise InvalidCampaign(msg)


def _check_counts(**options: Any) -> None:
    for name, value in options.items():
        if not isinstance(value, int) or value is True or value < 1:
            msg = f"{name}={value!r}: give a whole number above 0"
            raise InvalidCampaign(msg)


def _limit(executor: Executor) -> int:
    workers = getattr(executor, "_max_workers", None)
    return 2 * workers if isinstance(workers, int) else _MANY


def _num_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
