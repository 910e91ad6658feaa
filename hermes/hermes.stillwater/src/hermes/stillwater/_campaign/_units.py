"""Units, and the names under which their outputs are known."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hermes.stillwater.errors import InvalidCampaign

__all__ = ("Segment", "collect", "cost")

# Keys name files, on any file system.
_KEY = re.compile(r"[A-Za-z0-9_+=,@-][A-Za-z0-9_.+=,@-]{0,199}")


@dataclass(frozen=True, order=True)
class Segment:
    """Contiguous data, which one sequence streams.

    Args:
        start: GPS seconds.
        duration: Seconds.
        shifts: Seconds by which each interferometer is shifted; none for
            data as they were taken.

    Raises:
        InvalidCampaign: If these are no numbers that make a segment.
    """

    start: float
    duration: float
    shifts: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        try:
            start, duration = float(self.start), float(self.duration)
            shifts = tuple(float(shift) for shift in self.shifts)
        except (TypeError, ValueError) as error:
            msg = f"no segment: {error}; give numbers, in seconds"
            raise InvalidCampaign(msg) from error
        if not all(map(math.isfinite, (start, duration, *shifts))) or (
            start < 0 or duration <= 0
        ):
            msg = (
                f"a segment from {start} with duration {duration} and shifts"
                f" {shifts}: give finite seconds, and a duration above 0"
            )
            raise InvalidCampaign(msg)
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "duration", duration)
        object.__setattr__(self, "shifts", shifts)

    @property
    def end(self) -> float:
        """GPS seconds of its first moment that is over."""
        return self.start + self.duration

    @property
    def key(self) -> str:
        """``start-duration``, and the shifts if there are any."""
        parts = [_number(self.start), _number(self.duration)]
        if self.shifts:
            parts.append("_".join(map(_number, self.shifts)))
        return "-".join(parts)


def collect(units: Mapping[str, Any] | Iterable[Any]) -> dict[str, Any]:
    """Give each unit its key.

    Raises:
        InvalidCampaign: If there are none, a key is missing, taken, or no
            name for a file.
    """
    if isinstance(units, str | bytes) or not isinstance(units, Iterable):
        msg = f"units={units!r}: give a sequence or a mapping of units"
        raise InvalidCampaign(msg)
    if isinstance(units, Mapping):
        pairs = list(units.items())
    else:
        pairs = [(_key(unit), unit) for unit in units]
    found: dict[str, Any] = {}
    for key, unit in pairs:
        _check(key)
        if key in found:
            msg = f"two units have the key {key!r}: {found[key]!r}, {unit!r}"
            raise InvalidCampaign(msg)
        found[key] = unit
    if not found:
        raise InvalidCampaign("no units were given: give at least one")
    return found


def cost(unit: Any) -> float:
    """How much work a unit is, in units of its own: its duration, or 1."""
    duration = getattr(unit, "duration", 1.0)
    if isinstance(duration, int | float) and 0 < duration < math.inf:
        return float(duration)
    return 1.0


def _key(unit: Any) -> Any:
    key = unit if isinstance(unit, str) else getattr(unit, "key", None)
    if key is None:
        msg = (
            f"the unit {unit!r} has no key: give Segments, texts, objects"
            " with an attribute `key`, or a mapping of keys to units"
        )
        raise InvalidCampaign(msg)
    return key


def _check(key: Any) -> None:
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        msg = (
            f"the key {key!r} cannot name a file: give up to 200 letters,"
            " digits and _.+=,@- and no dot in front"
        )
        raise InvalidCampaign(msg)


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)
