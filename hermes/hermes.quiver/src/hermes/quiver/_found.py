"""Pure: what is known of a directory that was found in a repository.

Repositories are written by many hands. What cannot be understood is said,
never a reason to refuse the rest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hermes.quiver.config import ModelConfig
from hermes.quiver.errors import InvalidConfig
from hermes.quiver.platforms import Platform
from hermes.quiver.storage import CONFIG, Entry

__all__ = ("Found", "describe")

_ARTIFACT = re.compile(r"[0-9]+/(model\..+)")
_PLATFORMS = {platform.filename: platform for platform in Platform}


@dataclass(frozen=True)
class Found:
    """A model that was found.

    Attributes:
        config: Its configuration, as far as it can be read.
        problem: What is wrong with it; None if nothing is.
    """

    config: ModelConfig
    problem: str | None = None


def describe(entry: Entry) -> Found | None:
    """What is known of a directory; None if it is no model.

    A model has a configuration, or a version with an artifact of one of the
    names that Triton looks for.
    """
    if entry.config is None:
        return _without_config(entry)
    if isinstance(entry.config, Exception):
        problem = f"{CONFIG} cannot be read: {entry.config}"
        return Found(_blank(entry.name), problem)
    try:
        text = entry.config.decode()
    except UnicodeDecodeError as error:
        return Found(_blank(entry.name), f"{CONFIG} is no text: {error}")
    return _parsed(entry.name, text)


def _parsed(name: str, text: str) -> Found:
    try:
        config = ModelConfig.parse(text)
    except InvalidConfig as error:
        return Found(_rest(name, text), f"{CONFIG}, line {error}")
    if config.name not in {"", name}:
        problem = (
            f"{CONFIG} says name: {config.name!r}, which must be that of its"
            f" directory, {name!r}"
        )
        return Found(config, problem)
    # Triton takes the directory's name where the configuration has none.
    config.name = name
    return Found(config)


def _rest(name: str, text: str) -> ModelConfig:
    """What is left without the fields that we do not know."""
    try:
        config = ModelConfig.parse(text, lenient=True)
    except InvalidConfig:
        return _blank(name)
    config.name = name
    return config


def _without_config(entry: Entry) -> Found | None:
    artifacts = [m[1] for m in map(_ARTIFACT.fullmatch, entry.files) if m]
    if not artifacts:
        return None
    config = _blank(entry.name)
    known = [_PLATFORMS[name] for name in artifacts if name in _PLATFORMS]
    if known:
        config.execute_on(known[0])
    return Found(config)


def _blank(name: str) -> ModelConfig:
    config = ModelConfig.parse("")
    config.name = name
    return config
