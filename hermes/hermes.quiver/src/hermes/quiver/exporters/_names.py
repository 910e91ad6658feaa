"""Pure: what the outputs of a network are called."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from hermes.quiver.errors import InvalidInput
from hermes.quiver.exporters._types import Request

__all__ = ("as_declared", "name_outputs", "name_results", "unique_names")

# What outputs are called that nobody named.
_NUMBERED = re.compile(r"output(_\d+)+")


def name_results(
    result: Any, is_tensor: Callable[[Any], bool]
) -> list[tuple[str | None, Any]]:
    """What a call returned, one by one, with the names that it has for it.

    Names in names are joined by ``_``; what is None is left out.

    Raises:
        InvalidInput: If there is anything else than tensors in it, or none.
    """
    leaves = list(_leaves(result, ()))
    for path, leaf in leaves:
        if not is_tensor(leaf):
            where = f" as {'.'.join(path)}" if path else ""
            msg = (
                f"the network returns a {type(leaf).__qualname__}{where}; let"
                " it return tensors, or tuples, lists, dicts or dataclasses"
                " of them"
            )
            raise InvalidInput(msg)
    if not leaves:
        msg = "the network returns no tensor"
        raise InvalidInput(msg)
    is_plain = not isinstance(result, Mapping) and _fields(result) is None
    return [
        (None if is_plain and len(path) < 2 else _joined(path), leaf)
        for path, leaf in leaves
    ]


def _joined(path: Sequence[str]) -> str:
    # Triton's names have no place for one that begins with a number.
    prefix = ("output",) if path[0].isdigit() else ()
    return "_".join((*prefix, *path))


def _leaves(
    result: Any, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(result, Mapping):
        items = list(result.items())
    elif (names := _fields(result)) is not None:
        items = [(name, getattr(result, name)) for name in names]
    elif isinstance(result, tuple | list):
        items = list(enumerate(result))
    else:
        yield from [] if result is None else [(path, result)]
        return
    for key, item in items:
        yield from _leaves(item, (*path, str(key)))


def _fields(result: Any) -> Sequence[str] | None:
    if is_dataclass(result):
        return [field.name for field in fields(result)]
    names: Sequence[str] | None = getattr(result, "_fields", None)
    return names


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
    numbers = [f"output_{i}" for i in range(len(results))]
    names = [name or (own or numbers)[i] for i, name in enumerate(results)]
    if request.output_names is None:
        numbered = filter(_NUMBERED.fullmatch, names)
        outputs = [tensor.name for tensor in request.outputs]
        declared = as_declared(names, {*invented, *numbered}, outputs)
        return unique_names(declared, taken)
    given = list(request.output_names)
    if len(given) != len(results):
        msg = (
            f"output_names={given}, but the network gives {len(results)}"
            f" ({', '.join(names)})"
        )
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
