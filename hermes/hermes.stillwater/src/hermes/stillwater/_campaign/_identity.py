"""What tells one unit, or one function, from another.

Not a pickle: equal values may have different ones. What has no description
here is compared by its type only.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np

__all__ = ("digest", "name_of")


def digest(value: Any) -> str:
    """Give the same text for equal values, in any process."""
    text = json.dumps(_describe(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def name_of(run: Any) -> str:
    """Give the name of a callable, for messages."""
    while isinstance(run, functools.partial):
        run = run.func
    name = getattr(run, "__qualname__", None)
    return name if isinstance(name, str) else type(run).__qualname__


def _describe(value: Any) -> Any:
    """Make JSON of it."""
    if value is None or isinstance(value, bool | int | str):
        return value if type(value).__module__ == "builtins" else str(value)
    if isinstance(value, float):
        return float(value).hex()
    if isinstance(value, np.ndarray | np.generic):
        return _array(np.asarray(value))
    if isinstance(value, FunctionType | BuiltinFunctionType | type):
        return _qualified(value)
    return _compound(value)


def _compound(value: Any) -> Any:
    if isinstance(value, Mapping):
        items = [[_describe(k), _describe(v)] for k, v in value.items()]
        return ["mapping", sorted(items, key=json.dumps)]
    if isinstance(value, list | tuple):
        return [_describe(item) for item in value]
    if isinstance(value, set | frozenset):
        return ["set", sorted(map(_describe, value), key=json.dumps)]
    if is_dataclass(value):
        pairs = {f.name: getattr(value, f.name) for f in fields(value)}
        return [_qualified(type(value)), _describe(pairs)]
    return _other(value)


def _other(value: Any) -> Any:
    if isinstance(value, functools.partial):
        parts = value.func, value.args, value.keywords
        return ["partial", *map(_describe, parts)]
    if isinstance(value, MethodType):
        return [_describe(value.__self__), value.__name__]
    if isinstance(value, bytes):
        return ["bytes", hashlib.sha256(value).hexdigest()]
    if isinstance(value, PurePath):
        return ["path", str(value)]
    if isinstance(value, Enum):
        return [_qualified(type(value)), value.name]
    return ["any", _qualified(type(value))]


def _array(array: np.ndarray[Any, Any]) -> Any:
    if array.dtype.hasobject:
        return ["objects", _describe(array.tolist())]
    content = hashlib.sha256(np.ascontiguousarray(array).tobytes())
    return ["array", array.dtype.str, array.shape, content.hexdigest()]


def _qualified(value: Any) -> str:
    # A function is the same one whether its file is run or imported.
    return f"{value.__qualname__}"
