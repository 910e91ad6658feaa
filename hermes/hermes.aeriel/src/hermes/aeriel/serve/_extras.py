"""What the local runtime can be given besides ONNX and Python models."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ("EXTRAS", "Extra", "extras_needed", "platforms")


@dataclass(frozen=True)
class Extra:
    """A framework, and the models that it runs.

    Args:
        backend: Triton's name of its backend.
        platform: Triton's name of the kind of models.
        artifact: The usual name of their files.
    """

    backend: str
    platform: str
    artifact: str


# By what follows `--with`, which is also the module that is imported.
EXTRAS = {
    "tensorflow": Extra(
        backend="tensorflow",
        platform="tensorflow_savedmodel",
        artifact="model.savedmodel",
    ),
    "torch": Extra(
        backend="pytorch",
        platform="pytorch_libtorch",
        artifact="model.pt",
    ),
}

_ALWAYS = ("onnxruntime_onnx", "python")
_COMMENT = re.compile(r"#.*")
_KIND = re.compile(r"""\b(?:backend|platform)\s*:\s*["'](\w*)["']""")


def platforms(extras: Iterable[str]) -> tuple[str, ...]:
    """Return the kinds of models that a runtime with these can serve."""
    return (*_ALWAYS, *(EXTRAS[name].platform for name in extras))


def extras_needed(repository: Path) -> Iterator[tuple[str, str]]:
    """Yield every model that needs an extra, and the extra's name.

    Args:
        repository: A model repository, a directory.
    """
    for folder in sorted(repository.iterdir()):
        if folder.is_dir():
            for name, extra in EXTRAS.items():
                if _needs(folder, extra):
                    yield folder.name, name


def _needs(folder: Path, extra: Extra) -> bool:
    try:
        text = (folder / "config.pbtxt").read_text("utf-8", "replace")
    except OSError:
        text = ""
    kinds = {*_KIND.findall(_COMMENT.sub("", text))} - {""}
    if kinds:
        return bool(kinds & {extra.backend, extra.platform})
    # as Triton itself does where nobody has told it
    return any(
        file.parent.name.isdecimal()
        for file in folder.glob(f"*/{extra.artifact}")
    )
