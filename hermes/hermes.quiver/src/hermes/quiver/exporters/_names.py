"""Pure: what the outputs of a network are called."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from hermes.quiver.errors import InvalidInput
from hermes.quiver.exporters._types import Request

__all__ = ("as_declared", "name_outputs", "name_results", "unique_names")


def name_results(
    result: Any, path: tuple[str | int, ...] = ()
) -> list[tuple[str | None, Any]]:
    """What a call returned, one by one, with the names that it has for it.

    Names in names are joined by ``_``; what is None is left out.
    """
    items = _items(result)
    if items is not None:
        return [
            pair
            for key, item in items
            if item is not None
            for pair in name_results(item, (*path, key))
        ]
    if not path or (len(path) == 1 and isinstance(path[0], int)):
        return [(None, result)]
    prefix = ("output",) if isinstance(path[0], int) else ()
    return [("_".join(map(str, (*prefix, *path))), result)]


def _items(result: Any) -> list[tuple[str | int, Any]] | None:
    if is_dataclass(result):
        return [(f.name, getattr(result, f.name)) for f in fields(result)]
    if isinstance(result, Mapping):
        return [(str(name), value) for name, value in result.items()]
    if hasattr(result, "_fields"):
        return list(zip(result._fields, result, strict=True))
    if isinstance(result, tuple | list):
        return list(enumerate(result))
    return None


def name_outputs(
    request: Request,
    results: Sequence[str | None],
    taken: Sequence[str],
    own: Sequence[str] = (),
    invented: Collection[str] = (),
) -> list[str]:
    """Name the outputs: as asked, or else as the network calls them.

    Args:
        request: What is asked.
        results: Names that the network's results have for them.
        taken: Names that the inputs have.
        own: Names for results that have none.
        invented: Those of them that nobody chose.

    Raises:
        InvalidInput: If there are more or fewer, or a name comes twice.
    """
    if request.output_names is None:
        numbered = [f"output_{i}" for i in range(len(results))]
        names = [
            name or (own or numbered)[i] for i, name in enumerate(results)
        ]
        outputs = [tensor.name for tensor in request.outputs]
        declared = as_declared(names, {*invented, *numbered}, outputs)
        return unique_names(declared, taken)
    given = list(request.output_names)
    if len(given) != len(results):
        msg = f"output_names={given}, but the network gives {len(results)}"
        raise InvalidInput(msg)
    if len({*given, *taken}) < len(given) + len(taken):
        msg = (
            f"output_names={given} beside the inputs {[*taken]}: each tensor"
            " needs a name of its own"
        )
        raise InvalidInput(msg)
    return given


def unique_names(names: Sequence[str], taken: Sequence[str]) -> list[str]:
    """Number the names that are there already."""
    unique: list[str] = []
    for name in names:
        number, candidate = 0, name
        while candidate in {*taken, *unique}:
            number += 1
            candidate = f"{name}_{number}"
        unique.append(candidate)
    return unique


def as_declared(
    names: list[str], invented: Collection[str], declared: Sequence[str]
) -> list[str]:
    """Call the tensors as an earlier version does, if nobody named them.

    Keras counts its layers: it names the next network's tensors differently.
    """
    if len(declared) == len(names) and all(
        name == other or (name in invented and name not in declared)
        for name, other in zip(names, declared, strict=True)
    ):
        return list(declared)
    return names
