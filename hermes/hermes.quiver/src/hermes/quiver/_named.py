"""A dict whose missing keys are errors that name the keys there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn, TypeVar

__all__ = ("Named",)

Value = TypeVar("Value")


class Named(dict[str, Value]):
    """What has names, as a dict.

    Args:
        values: The values by name.
        error: What a missing name raises; a `KeyError` too.
        owner: What has no such name, in the message: ``"model 'x' has no
            input"``.
    """

    def __init__(
        self, values: Mapping[str, Value], error: type[KeyError], owner: str
    ) -> None:
        super().__init__(values)
        self._error = error
        self._owner = owner

    def __missing__(self, name: str) -> NoReturn:
        there = ", ".join(map(repr, self)) or "none"
        msg = f"{self._owner} {name!r}; there are: {there}"
        raise self._error(msg)
