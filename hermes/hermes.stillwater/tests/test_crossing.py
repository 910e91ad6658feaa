"""Errors from one process to another."""

from __future__ import annotations

import copyreg
import threading
import traceback
from typing import Any

import pytest
from tblib.pickling_support import pickle_exception

from hermes.stillwater._crossing import pack_error, unpack_error
from hermes.stillwater.errors import StageFailed


class Positional(Exception):
    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"{name} has {number}")
        self.number = number


class Prefixed(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(f"no {text}")


class Holding(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class Unmakeable(Exception):
    def __new__(cls, *args: Any, secret: int) -> Unmakeable:  # noqa: ARG004,PYI034
        return super().__new__(cls, *args)

    def __init__(self, *args: Any, secret: int) -> None:
        super().__init__(*args)
        self.secret = secret


def raised(error: BaseException) -> BaseException:
    try:
        raise error  # noqa: TRY301
    except BaseException as caught:  # noqa: BLE001
        return caught


def cross(error: BaseException) -> BaseException:
    return unpack_error(pack_error(error), "raised in stage 'x'")


def test_errors_cross_where_others_replace_how_they_are_pickled(
    monkeypatch,
) -> None:
    """As importing TensorFlow, or Dask, does; it forgets what was decoded."""
    table = copyreg.dispatch_table
    monkeypatch.setitem(table, UnicodeDecodeError, pickle_exception)
    given = UnicodeDecodeError("utf-8", b"x", 0, 1, "bad")
    assert str(cross(raised(given))) == str(given)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("five"),
        FileNotFoundError(2, "No such file", "/a/b"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
        Positional("it", 3),
        Prefixed("way"),
        Holding("it holds"),
        KeyError("key"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_type_message_and_place_cross(error: Exception) -> None:
    again = cross(raised(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.__notes__ == ["raised in stage 'x'"]
    names = [f.name for f in traceback.extract_tb(again.__traceback__)]
    assert names[-1] == "raised"


def test_attributes_cross() -> None:
    assert cross(Positional("it", 3)).number == 3
    error = cross(FileNotFoundError(2, "No such file", "/a/b"))
    assert error.filename == "/a/b"


@pytest.mark.parametrize(
    "error", [Unmakeable("x", secret=1), SystemExit(3), KeyboardInterrupt()]
)
def test_what_cannot_or_must_not_cross_is_told(error: BaseException) -> None:
    again = cross(raised(error))
    assert type(again) is StageFailed
    assert "raised in stage 'x'" in str(again)
    assert type(error).__name__ in str(again)
    assert "in raised" in str(again)


def test_the_causes_of_an_error_are_told() -> None:
    error = ValueError("outer")
    error.__cause__ = raised(KeyError("inner"))
    (note,) = cross(error).__notes__
    assert "because of\n" in note
    assert "KeyError: 'inner'" in note
    error = ValueError("outer")
    error.__context__ = raised(KeyError("inner"))
    assert "while handling\n" in cross(error).__notes__[0]
    group = ExceptionGroup("both", [ValueError("a"), KeyError("b")])
    assert "KeyError: 'b'" in cross(raised(group)).__notes__[0]
