"""The lines of a manifest: a header, then what became of units."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hermes.stillwater.errors import ManifestUnusable

__all__ = (
    "DONE",
    "ERROR",
    "FAILED",
    "LOST",
    "Header",
    "Output",
    "Row",
    "check",
    "latest",
    "read",
    "write",
)

# The last row of a unit says how it stands.
DONE = "done"
ERROR = "error"  # an attempt failed, and there are more
FAILED = "failed"  # it was the last attempt
LOST = "lost"  # an executor lost it, and perhaps others by its fault
_STATUSES = DONE, ERROR, FAILED, LOST
_REQUIRED = "key", "status", "unit", "attempt"
_OPENING = '{"hermes.campaign": 1, '


@dataclass(frozen=True)
class Header:
    """Whose manifest it is.

    Attributes:
        run: Name of the function.
        identity: Digest of what decides over the outputs.
    """

    run: str
    identity: str


@dataclass(frozen=True)
class Output:
    """A file.

    Attributes:
        path: Relative to the folder of outputs.
        size: Bytes.
        sha256: Of its content.
    """

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Row:
    """What became of one attempt at a unit.

    Attributes:
        key: The unit's.
        status: One of the four above.
        unit: Digest of the unit.
        attempt: From 1.
        outputs: What it wrote.
        seconds: How long it took.
        host: Where.
        error: What went wrong, with its traceback.
        finished: When, in seconds since 1970.
    """

    key: str
    status: str
    unit: str
    attempt: int
    outputs: tuple[Output, ...] = ()
    seconds: float = 0.0
    host: str = ""
    error: str = ""
    finished: float = 0.0


def write(line: Header | Row) -> bytes:
    """Make a line."""
    if isinstance(line, Header):
        text = _OPENING + json.dumps(asdict(line))[1:]
    else:
        fields = asdict(line).items()
        told = {k: v for k, v in fields if v or k in _REQUIRED}
        text = json.dumps(told)
    return text.encode() + b"\n"


def read(content: bytes) -> tuple[Header | None, list[Row], int]:
    """Read a manifest that may have been torn at its end.

    Args:
        content: Of the file.

    Returns:
        Its header (None if even that was torn, or there is nothing), its
        rows, and how many bytes at the start of the file are good.

    Raises:
        ManifestUnusable: If it is none, or damaged before its end.
    """
    lines = content.split(b"\n")
    whole, size = lines[:-1], len(content) - len(lines[-1])
    if not whole:
        if not _may_become_header(lines[-1]):
            raise ManifestUnusable("its first line is not a manifest's")
        return None, [], 0
    header = _header(whole[0])
    rows: list[Row] = []
    for number, line in enumerate(whole[1:], start=2):
        row = _row(line)
        if row is None and number < len(whole):
            raise ManifestUnusable(f"line {number} is damaged")
        if row is None:
            return header, rows, size - len(line) - 1
        rows.append(row)
    return header, rows, size


def latest(rows: Iterable[Row]) -> dict[str, Row]:
    """Keep the last row of each unit."""
    return {row.key: row for row in rows}


def check(
    found: Header,
    ours: Header,
    last: Mapping[str, Row],
    units: Mapping[str, str],
) -> None:
    """Refuse the manifest of another campaign.

    Args:
        found: The manifest's header.
        ours: What this campaign would write.
        last: The last row of each unit in the manifest.
        units: Digests of this campaign's units.

    Raises:
        ManifestUnusable: If the two do not go together.
    """
    if found != ours:
        msg = f"it was written by {found.run}, and this is {ours.run}"
        if found.run == ours.run:
            msg = f"it was written by {ours.run} with other arguments"
        raise ManifestUnusable(msg)
    for key in last.keys() & units.keys():
        if last[key].unit != units[key]:
            raise ManifestUnusable(f"its unit {key!r} was another one")
    if last and not last.keys() & units.keys():
        msg = f"it knows none of these units, but {min(last)!r}"
        raise ManifestUnusable(msg)


def _may_become_header(torn: bytes) -> bool:
    opening = _OPENING.encode()
    return torn.startswith(opening) or opening.startswith(torn)


def _header(line: bytes) -> Header:
    try:
        fields = json.loads(line)
        if fields.pop("hermes.campaign") != 1:
            msg = "a newer version of hermes-stillwater wrote it"
            raise ManifestUnusable(msg)
        return Header(**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ManifestUnusable):
            raise
        msg = "its first line is not a manifest's"
        raise ManifestUnusable(msg) from error


def _row(line: bytes) -> Row | None:
    try:
        fields: dict[str, Any] = json.loads(line)
        outputs = tuple(Output(**o) for o in fields.pop("outputs", ()))
        row = Row(**fields, outputs=outputs)
    except (ValueError, TypeError, AttributeError):
        return None
    return row if row.status in _STATUSES else None
