"""Errors from one process to another, with what is known of their origin."""

from __future__ import annotations

import functools
import pickle
import traceback
from collections.abc import Iterator
from typing import Any, NamedTuple

from tblib import Traceback

from hermes.stillwater.errors import StageFailed

__all__ = ("Crossing", "pack_error", "unpack_error")


class Crossing(NamedTuple):
    """An error on its way.

    Attributes:
        pickled: How to make it again; None where that is not possible.
        trace: Where it was raised, if it was.
        text: All that Python would print of it.
        origin: What Python would print of its causes, which do not cross.
    """

    pickled: bytes | None
    trace: dict[str, Any] | None
    text: str
    origin: str


def pack_error(error: BaseException) -> Crossing:
    """Make an error ready to cross."""
    trace = error.__traceback__
    return Crossing(
        pickled=_pickle(error),
        trace=None if trace is None else Traceback(trace).to_dict(),
        text=_format(error),
        origin=_say_origin(error),
    )


def _format(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _say_origin(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return f":\n{_format(error)}"
    if error.__cause__ is not None:
        return f", because of\n{_format(error.__cause__)}"
    if error.__context__ is not None and not error.__suppress_context__:
        return f", while handling\n{_format(error.__context__)}"
    return ""


def unpack_error(crossing: Crossing, note: str) -> BaseException:
    """Make an error again.

    Args:
        crossing: What crossed.
        note: Where it comes from.

    Returns:
        The error, of its own type where that can be; else a `StageFailed`
        that tells all of it.
    """
    try:
        error = _remake(pickle.loads(crossing.pickled or b""))  # noqa: S301
        if crossing.trace is not None:
            trace = Traceback.from_dict(crossing.trace)
            error = error.with_traceback(trace.as_traceback())
    except Exception:  # noqa: BLE001
        return StageFailed(f"{note}:\n{crossing.text}")
    error.add_note(note + crossing.origin)
    return error


def _pickle(error: BaseException) -> bytes | None:
    """Find a way to make an error again that gives the same.

    Python's own way calls `__init__` with what that gave to its parent, which
    need not be what it takes. An error that is no `Exception` (`SystemExit`)
    must not end the program of somebody else.
    """
    if not isinstance(error, Exception):
        return None
    for recipe in _recipes(error):
        try:
            pickled = pickle.dumps(recipe)
            again = _remake(pickle.loads(pickled))  # noqa: S301
        except Exception:  # noqa: BLE001, S112
            continue
        if type(again) is type(error) and str(again) == str(error):
            return pickled
    return None


def _recipes(error: Exception) -> Iterator[Any]:
    yield error
    # Others replace how errors are pickled (TensorFlow and Dask do, by tblib),
    # and lose what an error was made of.
    reduced = error.__reduce__()
    if isinstance(reduced, tuple):
        make, args, *state = reduced
        yield make, args, (state or [None])[0] or {}
    make = functools.partial(type(error).__new__, type(error))
    for more in error.__dict__, {}:
        yield make, error.args, {"args": error.args, **more}


def _remake(recipe: Any) -> BaseException:
    if isinstance(recipe, BaseException):
        return recipe
    make, args, state = recipe
    error: BaseException = make(*args)
    for name, value in state.items():
        setattr(error, name, value)
    return error
