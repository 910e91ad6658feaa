"""What a resource is like, written down at it, and compared: pure.

A program that is started again remembers nothing. So what was asked for stands
at the resource itself, wherever its cloud has room for a text; what can change
while it is there is read from the resource.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hermes.cloudbreak.specs import Observed, Spec

__all__ = ("differences", "record", "say_changes", "settings_of", "unrecord")

# Which resource it is, and how to get it, but not what it is like.
_IDENTITY = {"cluster", "exists_ok", "name", "zones"}


def settings_of(spec: Any) -> dict[str, Any]:
    """Give what a description says, as plain data.

    What it does not print may be secret: of that there are digests only.
    """
    return {
        each.name: _plain(getattr(spec, each.name), is_secret=not each.repr)
        for each in dataclasses.fields(spec)
        if each.name not in _IDENTITY
    }


def record(spec: Spec, live: Collection[str]) -> str:
    """Write down what was asked for.

    Args:
        spec: What was asked for.
        live: What the resource itself tells, and may come to be another.
    """
    kept = {n: v for n, v in spec.settings.items() if n not in live}
    return json.dumps(kept, sort_keys=True)


def unrecord(text: str) -> dict[str, Any]:
    """Read what `record` has written; nothing where it did not."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def differences(spec: Spec, observed: Observed) -> dict[str, tuple[Any, Any]]:
    """Give what is there, and what is wanted instead, by its name.

    What nobody knows of a resource is taken for right.
    """
    had = observed.settings
    found = {
        name: (had[name], value)
        for name, value in spec.settings.items()
        if name in had and had[name] != value
    }
    zones = getattr(spec, "zones", ())
    if zones and observed.where and observed.where not in zones:
        found["zones"] = (observed.where, " or ".join(zones))
    return found


def say_changes(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """Say what `differences` has found."""
    return ", ".join(
        f"{name} {_say(old)} -> {_say(new)}"
        for name, (old, new) in sorted(changes.items())
    )


def _say(value: Any) -> str:
    return '""' if value == "" else str(value)


def _plain(value: Any, *, is_secret: bool) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v, is_secret=is_secret) for k, v in value.items()}
    if isinstance(value, tuple):
        return [_plain(each, is_secret=is_secret) for each in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)  # says where a secret is, only
    if is_secret and value:
        return "sha256:" + hashlib.sha256(str(value).encode()).hexdigest()[:12]
    return value
