"""From what a server said twice to what happened in between; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from hermes.aeriel.monitor._metrics import Gpu, ModelKey, Reading

__all__ = ("Moment", "Row", "Watched", "differences", "rows")


@dataclass(frozen=True)
class Row:
    """What a model of a server did between two polls.

    Durations are in microseconds and summed over the requests. None stands
    for what the server, or the file, does not tell.

    Attributes:
        timestamp: End of the interval, seconds since the epoch.
        ip: The server.
        model: Name of the model.
        count: Inferences: a request counts as many as its batch has.
        queue: Time that requests waited.
        compute_input: Time that their inputs were prepared.
        compute_infer: Time that the model ran.
        compute_output: Time that their outputs were extracted.
        request: Time that requests took in all.
        interval: Seconds since the poll before.
        requests: Requests that succeeded.
        executions: How often the model ran.
        failures: Requests that failed.
        pending: Requests that wait, at the time of the poll.
        gpu_utilization: Busy fraction of the model's GPUs, from 0 to 1; of
            all of the server's if the model names none.
        gpu_memory_used: Bytes of theirs that are in use.
        gpu_memory_total: Bytes that they have.
        is_ensemble: Whether it is an ensemble, which spends what its steps
            spend.
    """

    timestamp: float
    ip: str
    model: str
    count: int | None
    queue: int | None
    compute_input: int | None
    compute_infer: int | None
    compute_output: int | None
    request: int | None
    interval: float | None = None
    requests: int | None = None
    executions: int | None = None
    failures: int | None = None
    pending: int | None = None
    gpu_utilization: float | None = None
    gpu_memory_used: int | None = None
    gpu_memory_total: int | None = None
    is_ensemble: bool = False


@dataclass(frozen=True)
class Watched:
    """A model to watch.

    Attributes:
        name: Its name.
        version: The version to count; None for all.
        is_ensemble: Whether it is an ensemble.
    """

    name: str
    version: int | None = None
    is_ensemble: bool = False

    def covers(self, key: ModelKey) -> bool:
        """Whether that version of that model is meant."""
        name, version = key
        return name == self.name and (
            self.version is None or version == str(self.version)
        )


@dataclass(frozen=True)
class Moment:
    """When and where a poll was answered.

    Attributes:
        timestamp: Seconds since the epoch.
        interval: Seconds since the answer before.
        ip: The server.
    """

    timestamp: float
    interval: float
    ip: str


def differences(
    before: Reading, now: Reading
) -> dict[ModelKey, dict[str, int]]:
    """How far each model's counters went; never negative.

    Counters that go down, or had been gone, began anew: the server was
    restarted or the model loaded again.
    """
    return {
        key: _difference(before.counters.get(key, {}), counters)
        for key, counters in now.counters.items()
    }


def rows(
    before: Reading,
    now: Reading,
    moment: Moment,
    watched: Iterable[Watched],
) -> list[Row]:
    """A row for each model that is watched, also where nothing happened."""
    found = differences(before, now)
    return [_row(found, now, moment, model) for model in watched]


def _difference(
    before: Mapping[str, int], now: Mapping[str, int]
) -> dict[str, int]:
    # One model, one life: if one of its counters began anew, all did.
    has_restarted = any(value < before.get(n, 0) for n, value in now.items())
    start = {} if has_restarted else before
    return {name: value - start.get(name, 0) for name, value in now.items()}


def _row(
    found: Mapping[ModelKey, Mapping[str, int]],
    now: Reading,
    moment: Moment,
    model: Watched,
) -> Row:
    keys = [key for key in found if model.covers(key)]

    def total(name: str) -> int | None:
        # Without the model there is no traffic; without the family, no word.
        told = [found[key][name] for key in keys if name in found[key]]
        return sum(told) if told or not keys else None

    gpus = list(_gpus(now, keys))
    pending = [now.pending[key] for key in keys if key in now.pending]
    return Row(
        timestamp=moment.timestamp,
        ip=moment.ip,
        model=model.name,
        count=total("count"),
        queue=total("queue"),
        compute_input=total("compute_input"),
        compute_infer=total("compute_infer"),
        compute_output=total("compute_output"),
        request=total("request"),
        interval=moment.interval,
        requests=total("requests"),
        executions=total("executions"),
        failures=total("failures"),
        pending=sum(pending) if pending else None,
        gpu_utilization=_mean(g.utilization for g in gpus),
        gpu_memory_used=_sum(g.memory_used for g in gpus),
        gpu_memory_total=_sum(g.memory_total for g in gpus),
        is_ensemble=model.is_ensemble,
    )


def _gpus(now: Reading, keys: Iterable[ModelKey]) -> Iterator[Gpu]:
    named = {gpu for key in keys for gpu in now.gpus_of.get(key, ())}
    for name, gpu in now.gpus.items():
        if name in named or not named:
            yield gpu


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _sum(values: Iterable[float | None]) -> int | None:
    known = [value for value in values if value is not None]
    return round(sum(known)) if known else None
