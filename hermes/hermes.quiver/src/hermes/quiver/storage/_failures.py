"""Errors of the operating system and of clients of buckets become ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hermes.quiver.errors import (
    QuiverError,
    StorageFailed,
    StorageForbidden,
)

__all__ = ("is_taken", "translated")

_FORBIDDEN = {401, 403}
# Of two creations at the same time S3 may answer one with 409.
_TAKEN = {409, 412}


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Raise quiver's errors for all others.

    Args:
        action: What is tried, to follow "cannot".

    Raises:
        StorageForbidden: If the user may not do it.
        StorageFailed: If it fails for another reason.
    """
    try:
        yield
    except QuiverError:
        raise
    except Exception as error:
        said = str(error) or type(error).__name__
        if isinstance(error, PermissionError) or _status(error) in _FORBIDDEN:
            msg = f"cannot {action}: you have no permission ({said})"
            raise StorageForbidden(msg) from error
        msg = f"cannot {action}: {said}"
        raise StorageFailed(msg) from error


def is_taken(error: BaseException) -> bool:
    """Whether an exclusive creation failed because something was there.

    s3fs has no exception of its own for it, only the HTTP status.
    """
    return isinstance(error, FileExistsError) or _status(error) in _TAKEN


def _status(error: BaseException) -> int | None:
    """HTTP status of an error: gcsfs's own, or the cause of s3fs's."""
    response: Any = getattr(error.__cause__, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(error, "code", None)
    return int(status) if str(status).isdecimal() else None
