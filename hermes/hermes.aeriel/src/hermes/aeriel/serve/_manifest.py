"""What an installed runtime consists of, and whether all of it is there."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Self

__all__ = (
    "MANIFEST",
    "SOURCES",
    "TRITON_VERSION",
    "Manifest",
    "default_prefix",
    "digest",
    "list_files",
)

TRITON_VERSION = "2.51.0"
SOURCES = Path(__file__).parent / "runtime"
MANIFEST = "hermes-runtime.json"

# Raise it when the layout of the prefix changes.
_LAYOUT = "1"


@dataclass(frozen=True)
class Manifest:
    """Written last by an installation, so that its presence means success.

    Args:
        digest: Of the pins and backends that were installed.
        triton: Triton's version.
        python: Version of the runtime's Python, such as ``"3.11"``.
        libpython: Shared library that its stub needs; empty if Triton's own.
        files: Size in bytes of every file, by its path below the prefix.
        extras: What it can serve with besides.
        extra_files: As ``files``, of what only the extras need.
    """

    digest: str
    triton: str
    python: str
    libpython: str
    files: Mapping[str, int]
    extras: Sequence[str] = ()
    extra_files: Mapping[str, int] = field(default_factory=dict)

    def write(self, prefix: Path) -> None:
        """Write the manifest into ``prefix``."""
        text = json.dumps(asdict(self), indent=1, sort_keys=True)
        (prefix / MANIFEST).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, prefix: Path) -> Self | None:
        """Read the manifest in ``prefix``; None if there is none to read."""
        try:
            found = json.loads((prefix / MANIFEST).read_text("utf-8"))
            return cls(**found)
        except (OSError, ValueError, TypeError):
            return None

    def missing(self, prefix: Path, *, extras: bool) -> Iterator[str]:
        """Yield every file that is gone or has another size.

        Args:
            prefix: The runtime.
            extras: Whether to look at the files of extras, too: ten thousand.
        """
        files = {**self.files, **(self.extra_files if extras else {})}
        for name, size in files.items():
            try:
                whole = os.stat(prefix / name).st_size == size  # noqa: PTH116
            except OSError:
                whole = False
            if not whole:
                yield name


def list_files(prefix: Path) -> dict[str, int]:
    """Return the size of every file below ``prefix`` that cannot be remade."""
    return {
        str(path.relative_to(prefix)): path.stat().st_size
        for path in sorted(prefix.rglob("*"))
        if path.suffix != ".pyc" and path.is_file() and not path.is_symlink()
    }


@cache
def digest() -> str:
    """Return a short hash of the pins and backends in this package.

    It is part of a runtime's name and manifest: an upgraded aeriel never runs
    the backends of an older one.
    """
    hashed = hashlib.sha256(_LAYOUT.encode())
    for path in sorted(SOURCES.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            content = path.read_bytes()
            name = path.relative_to(SOURCES).as_posix()
            hashed.update(f"{name}\0{len(content)}\0".encode() + content)
    return hashed.hexdigest()[:12]


def default_prefix(environ: Mapping[str, str], python: str) -> Path:
    """Return where the runtime is installed unless told otherwise."""
    cache_home = environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache_home):  # noqa: PTH117 - XDG ignores others
        cache_home = environ.get("HOME") or str(Path.home())
        cache_home += "/.cache"
    name = f"{TRITON_VERSION}-py{python}-{digest()}"
    return Path(cache_home) / "hermes" / "triton" / name
