"""Python packages of the managed runtime: those that are here, and downloads.

A package of the pinned version that this interpreter has is not downloaded
again: its files get second names. PyPI's torch and what it is linked with are
gigabytes, which who exports TorchScript has on the disk already.
"""

import csv
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution
from pathlib import Path, PurePosixPath

from hermes.aeriel.errors import InstallFailed
from hermes.aeriel.serve._extras import EXTRAS
from hermes.aeriel.serve._manifest import SOURCES

__all__ = ("Pin", "check_extras", "lay_out", "lay_out_extra", "read_pins")

_PIN = re.compile(
    r"(?P<name>[\w.-]+)==(?P<version>[\w.]+)"
    r'(?: ; python_version (?P<sign><|>=) "3\.(?P<minor>\d+)")?'
)

# A server compiles nothing.
_UNNEEDED = frozenset({".a", ".cuh", ".h", ".hpp", ".pyc", ".pyi"})


@dataclass(frozen=True)
class Pin:
    """A distribution and its version."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


def check_extras(names: Iterable[str]) -> None:
    """Refuse what cannot be installed.

    Raises:
        InstallFailed: If there is no such extra.
    """
    for name in names:
        if name not in EXTRAS:
            raise InstallFailed(
                f"--with {name}: there is no such extra; there are "
                f"{', '.join(EXTRAS)}"
            )


def read_pins(file: str, python: tuple[int, int]) -> Iterator[tuple[Pin, ...]]:
    """Yield what a file of pins asks for, each with its alternatives.

    Args:
        file: Its name.
        python: Version of the Python that they are for.
    """
    for line in (SOURCES / file).read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            found = [_PIN.fullmatch(part) for part in line.split(" | ")]
            pins = tuple(
                Pin(match["name"], match["version"])
                for match in found
                if match and _applies(match, python)
            )
            if pins:
                yield pins


def _applies(match: re.Match[str], python: tuple[int, int]) -> bool:
    if match["sign"] is None:
        return True
    is_older = python < (3, int(match["minor"]))
    return is_older == (match["sign"] == "<")


def lay_out(
    pins: Iterable[Sequence[Pin]],
    site: Path,
    sources: Sequence[str],
    download: Callable[[Sequence[str]], object],
) -> None:
    """Put packages into a folder.

    Args:
        pins: Each with its alternatives.
        site: The folder, the ``site-packages`` of the runtime.
        sources: Folders that may have them.
        download: Installs what none of them has; called once, if at all.

    The files of a package that is found have two names afterwards, here and
    there, and are copies only across file systems. Whoever changes one in
    place changes both; pip and its like put new files.
    """
    missing = [
        str(choices[-1])
        for choices in pins
        if not any(_take(pin, site, sources) for pin in choices)
    ]
    if missing:
        download(missing)


def lay_out_extra(
    name: str,
    python: tuple[int, int],
    site: Path,
    sources: Sequence[str],
    download: Callable[[Sequence[str]], object],
) -> None:
    """Put an extra's packages into a folder; see :func:`lay_out`."""
    pins = [*read_pins(f"pins-{name}.txt", python)]
    cuda = [choices for choices in pins if _is_cuda(choices)]
    rest = [choices for choices in pins if choices not in cuda]
    lay_out(rest, site, sources, download)
    if not _is_for_cpus(name, site):
        lay_out(cuda, site, sources, download)


def _is_cuda(choices: Sequence[Pin]) -> bool:
    return choices[0].name.startswith("nvidia-")


def _is_for_cpus(name: str, site: Path) -> bool:
    found = Distribution.discover(name=name, path=[str(site)])
    return any(one.version.endswith("+cpu") for one in found)


def _take(pin: Pin, site: Path, sources: Sequence[str]) -> bool:
    """Give a package that is here a second name; False if it is not here."""
    for found in Distribution.discover(name=pin.name, path=[*sources]):
        # 2.15.0+cpu is 2.15.0, built in another way
        if found.version.partition("+")[0] == pin.version:
            files = _files_of(found)
            for file in files:
                _link(Path(str(found.locate_file(file))), site / file)
            return bool(files)
    return False


def _files_of(found: Distribution) -> list[PurePosixPath]:
    """Return a package's files; none if they are not all that it is."""
    installer = (found.read_text("INSTALLER") or "").strip()
    origin = found.read_text("direct_url.json") or ""
    # conda keeps libraries elsewhere, and an editable package is elsewhere
    if installer == "conda" or '"editable": true' in origin:
        return []
    sizes = {
        file: size
        for file, size in _recorded(found)
        if not file.is_absolute()
        and file.parts[0] != ".."
        and file.suffix not in _UNNEEDED
    }
    whole = (
        _is_whole(Path(str(found.locate_file(file))), size)
        for file, size in sizes.items()
    )
    return [*sizes] if all(whole) else []


def _recorded(found: Distribution) -> Iterator[tuple[PurePosixPath, str]]:
    """Yield what was installed, and its size in bytes where that is known.

    From Python 3.12 on, ``Distribution.files`` does not have what is gone.
    """
    record = found.read_text("RECORD") or ""
    for file, _, size in csv.reader(record.splitlines()):
        yield PurePosixPath(file), size


def _is_whole(file: Path, size: str) -> bool:
    try:
        return size in ("", str(file.stat().st_size))
    except OSError:
        return False


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return  # packages of one namespace share files
    try:
        os.link(source, target)
    except OSError:  # another file system, or another owner
        shutil.copy2(source, target)
