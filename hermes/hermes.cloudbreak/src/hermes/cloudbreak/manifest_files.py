"""Manifests from YAML files, checked before anything is sent."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from hermes.cloudbreak._answers import Manifest
from hermes.cloudbreak._kubernetes import check_manifest
from hermes.cloudbreak.errors import InvalidSpec

try:
    import yaml
except ImportError as error:
    raise ImportError(
        "manifests in files need the extra `kubernetes` of hermes-cloudbreak "
        f"({error})",
        name=error.name,
    ) from error

__all__ = ("load_manifests",)

_PLACE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def load_manifests(
    path: str | os.PathLike[str], values: Mapping[str, object] | None = None
) -> list[Manifest]:
    """Read manifests, and put values where the file has ``${name}``.

    A value that is all there is in its place keeps its type: with
    ``replicas: ${n}``, ``n`` has to be a number.

    Args:
        path: A file with one or several documents.
        values: What to put in.

    Returns:
        The manifests. Fields are checked by the models of the official
        client; kinds that it does not know (a cluster may have more) are
        taken as they are.

    Raises:
        InvalidSpec: If the file is no YAML, has fields that are unknown or
            have a wrong type, or names that are twice; if a value is missing,
            or is used nowhere.
    """
    given, used = dict(values or {}), set[str]()
    text = Path(path).read_text(encoding="utf-8")
    try:
        documents = [
            each for each in yaml.load_all(text, _Loader) if each is not None
        ]
    except yaml.YAMLError as error:
        raise InvalidSpec(f"{path} is not YAML: {error}") from error
    missing = {n for n in _PLACE.findall(text) if n not in given}
    if missing:
        raise InvalidSpec(
            f"{path} needs values for {sorted(missing)}; given are "
            f"{sorted(given)}"
        )
    filled = [_fill(each, given, used) for each in documents]
    if unused := given.keys() - used:
        raise InvalidSpec(f"{path} has no place for {sorted(unused)}")
    problems = [
        f"document {number}: {problem}"
        for number, each in enumerate(filled, 1)
        for problem in _find_problems(each)
    ]
    if problems:
        raise InvalidSpec(f"{path}: " + "; ".join(problems))
    return filled


class _Loader(yaml.SafeLoader):
    """Refuses names that are twice in a mapping, of which YAML drops one."""

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Hashable, Any]:
        names = [self.construct_object(each, deep) for each, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{name!r} is there twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


def _find_problems(manifest: object) -> list[str]:
    if not isinstance(manifest, dict):
        return [f"a mapping is expected, not {manifest!r}"]
    named = manifest.get("metadata") or {}
    absent = [n for n in ("apiVersion", "kind") if n not in manifest]
    absent += [] if named.get("name") else ["metadata.name"]
    if absent:
        return [f"{', '.join(absent)} has to be there"]
    return check_manifest(manifest)


def _fill(each: Any, values: Mapping[str, object], used: set[str]) -> Any:
    if isinstance(each, dict):
        return {n: _fill(inner, values, used) for n, inner in each.items()}
    if isinstance(each, list):
        return [_fill(inner, values, used) for inner in each]
    if not isinstance(each, str):
        return each
    used.update(_PLACE.findall(each))
    if whole := _PLACE.fullmatch(each):
        return values[whole[1]]
    return _PLACE.sub(lambda found: str(values[found[1]]), each)
