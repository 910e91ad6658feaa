"""From rows to what they mean: rates, latencies, the bottleneck; pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import nan
from statistics import median

from hermes.aeriel import _html
from hermes.aeriel.monitor._rows import Row

__all__ = ("Course", "StepSummary", "Summary", "courses", "summarize")

_HEAD = "model", "requests/s", "queue [ms]", "compute [ms]", "total [ms]"


@dataclass(frozen=True)
class StepSummary:
    """What one model did, on all servers together.

    Latencies are means per request in microseconds; None where there was no
    request.

    Attributes:
        model: Its name.
        num_requests: Requests that succeeded; inferences where the record
            does not tell requests.
        num_failures: Requests that failed, as far as the record tells.
        throughput: Requests per second.
        batch_size: Inferences per execution; None if the record does not
            tell executions.
        queue: Time that a request waited.
        compute: Time that it was worked on: inputs, inference, outputs.
        request: Time that it took in all.
        pending: Requests that waited, by the last poll of each server.
        is_ensemble: Whether it is an ensemble.
    """

    model: str
    num_requests: int
    num_failures: int
    throughput: float
    batch_size: float | None
    queue: float | None
    compute: float | None
    request: float | None
    pending: int | None
    is_ensemble: bool


@dataclass(frozen=True)
class Summary:
    """What all models did.

    Attributes:
        steps: One for each model, in the order of the rows.
        bottleneck: Name of the model in which requests spend most of their
            time, waiting or worked on; ensembles, which spend only what
            their steps spend, do not count. None without requests.
        is_saturated: Whether requests wait there for longer than they are
            worked on: it is given more than it can do.
    """

    steps: tuple[StepSummary, ...]
    bottleneck: str | None
    is_saturated: bool

    @property
    def verdict(self) -> str:
        """The bottleneck in words."""
        if self.bottleneck is None:
            return "no requests"
        where = ", where requests queue" if self.is_saturated else ""
        return f"bottleneck: {self.bottleneck}{where}"

    def _repr_html_(self) -> str:
        rows = (
            [
                step.model,
                f"{step.throughput:.1f}",
                *(
                    "" if t is None else f"{t / 1000:.2f}"
                    for t in (step.queue, step.compute, step.request)
                ),
            ]
            for step in self.steps
        )
        return _html.table(rows, _HEAD, self.verdict)


@dataclass(frozen=True)
class Course:
    """What one model did, against time.

    Attributes:
        model: Its name.
        times: Middles of the bins, in seconds since the first of all.
        throughput: Requests per second in each; NaN where there was no poll.
        queue: Mean time that a request waited, in microseconds; 0 where
            there was none.
        compute: Mean time that it was worked on.
    """

    model: str
    times: tuple[float, ...]
    throughput: tuple[float, ...]
    queue: tuple[float, ...]
    compute: tuple[float, ...]


def summarize(rows: Iterable[Row]) -> Summary:
    """What a record, or a part of one, comes to.

    Args:
        rows: Such as `hermes.aeriel.monitor.read` returns.
    """
    by_model: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_model[row.model].append(row)
    steps = tuple(_step(name, found) for name, found in by_model.items())
    # Where a server is saturated the wait before the slow step outgrows all
    # else; where it is not, the slow step is the one that computes longest.
    busy = [step for step in steps if step.num_requests]
    slowest = max(
        (step for step in busy if not step.is_ensemble),
        key=lambda step: (step.queue or 0) + (step.compute or 0),
        default=None,
    )
    if slowest is None:
        return Summary(steps, None, is_saturated=False)
    is_saturated = (slowest.queue or 0) > (slowest.compute or 0)
    return Summary(steps, slowest.model, is_saturated)


def courses(rows: Sequence[Row], num_bins: int = 200) -> list[Course]:
    """How throughput and latencies went, model by model.

    Args:
        rows: Such as `hermes.aeriel.monitor.read` returns.
        num_bins: Bins to cut the time into, at most; none is so short that
            it would often be without a poll.
    """
    if not rows:
        return []
    begins = [row.timestamp - (row.interval or 0) for row in rows]
    begin, end = min(begins), max(row.timestamp for row in rows)
    usual = median(row.interval or 0 for row in rows)
    width = max((end - begin) / num_bins, 2 * usual, 1e-6)
    size = max(1, round((end - begin) / width))
    width = (end - begin) / size or width
    bins: dict[str, list[list[Row]]] = {}
    for row in rows:
        mine = bins.setdefault(row.model, [[] for _ in range(size)])
        middle = row.timestamp - (row.interval or 0) / 2 - begin
        mine[min(int(middle / width), size - 1)].append(row)
    return [_course(model, found, width) for model, found in bins.items()]


def _course(model: str, bins: Sequence[Sequence[Row]], width: float) -> Course:
    steps = [_step(model, found) for found in bins]
    return Course(
        model,
        times=tuple((i + 0.5) * width for i in range(len(bins))),
        throughput=tuple(
            step.throughput if found else nan
            for step, found in zip(steps, bins, strict=True)
        ),
        queue=tuple(step.queue or 0.0 for step in steps),
        compute=tuple(step.compute or 0.0 for step in steps),
    )


def _step(model: str, rows: Sequence[Row]) -> StepSummary:
    num = sum(map(_num_requests, rows))
    executions = sum(row.executions or 0 for row in rows)
    count = sum(row.count or 0 for row in rows)
    return StepSummary(
        model=model,
        num_requests=num,
        num_failures=sum(row.failures or 0 for row in rows),
        throughput=sum(_throughputs(rows)),
        batch_size=count / executions if executions else None,
        queue=_mean(_sum(row.queue for row in rows), num),
        compute=_mean(_sum(_compute(rows)), num),
        request=_mean(_sum(row.request for row in rows), num),
        pending=_pending(rows),
        is_ensemble=any(row.is_ensemble for row in rows),
    )


def _num_requests(row: Row) -> int:
    return (row.count or 0) if row.requests is None else row.requests


def _throughputs(rows: Iterable[Row]) -> Iterator[float]:
    """Requests per second of each server."""
    by_ip: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_ip[row.ip].append(row)
    for found in by_ip.values():
        seconds = sum(row.interval or 0 for row in found)
        yield sum(map(_num_requests, found)) / seconds if seconds else 0.0


def _compute(rows: Iterable[Row]) -> Iterator[int | None]:
    for row in rows:
        yield from (row.compute_input, row.compute_infer, row.compute_output)


def _pending(rows: Iterable[Row]) -> int | None:
    latest = {r.ip: r.pending for r in rows if r.pending is not None}
    return sum(latest.values()) if latest else None


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _mean(total: int | None, num: int) -> float | None:
    return None if total is None or not num else total / num
