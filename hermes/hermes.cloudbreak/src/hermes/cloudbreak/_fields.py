"""Pure: tables of a file, and their values as those of typed fields."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from hermes.cloudbreak.errors import InvalidSpec

__all__ = ("check_keys", "convert")


def check_keys(
    keys: Iterable[str], known: tuple[str, ...], where: str
) -> None:
    """Refuse keys that nobody knows, with the one that is nearest.

    Raises:
        InvalidSpec: If there is one.
    """
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = (
                f"did you mean {near[0]}?"
                if near
                else f"there are {', '.join(sorted(known))}"
            )
            raise InvalidSpec(f"{where} knows no {key}: {hint}")


def convert(hint: Any, value: Any, where: str, is_shown: bool) -> Any:
    """Turn a value of TOML into one of a field.

    Args:
        hint: The type of the field.
        value: The value.
        where: Its name, for errors.
        is_shown: Whether errors may say it: what is not printed elsewhere may
            be a secret.

    Raises:
        InvalidSpec: If it is of another type.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in {Union, types.UnionType}:
        return _convert_any(inner, value, where, is_shown)
    if origin is tuple and isinstance(value, list):
        return tuple(
            convert(inner[0], each, where, is_shown) for each in value
        )
    if origin is Mapping and isinstance(value, dict):
        return {
            k: convert(inner[1], v, f"{where}.{k}", is_shown)
            for k, v in value.items()
        }
    if value in inner if origin is Literal else _is_a(hint, value):
        return value
    given = repr(value) if is_shown else f"({_name(type(value))})"
    raise InvalidSpec(f"{where}={given}: give {_name(hint)}")


def _convert_any(
    hints: Iterable[Any], value: Any, where: str, is_shown: bool
) -> Any:
    errors = []
    for each in hints:
        if each is type(None):
            continue
        try:
            return convert(each, value, where, is_shown)
        except InvalidSpec as error:
            errors.append(error)
    raise errors[0]


def _is_a(hint: Any, value: Any) -> bool:
    if not isinstance(hint, type):
        return False
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _name(hint: Any) -> str:
    if get_origin(hint) is tuple or hint is list:
        return "a list of texts"
    if get_origin(hint) is Literal:
        return " or ".join(repr(each) for each in get_args(hint))
    names = {
        bool: "true or false",
        float: "a number",
        int: "a whole number",
        str: "a text",
    }
    return names.get(hint, "a table")
