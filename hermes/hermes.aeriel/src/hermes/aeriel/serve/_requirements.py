"""Pure: can this machine and this Python run the local Triton runtime?"""

import os
import platform
import re
import sys
import sysconfig
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

__all__ = ("Facts", "findings", "gather")

_GLIBC = (2, 35)
_PYTHONS = ((3, 11), (3, 12), (3, 13))
# Triton ships the one library of Python that its stub for 3.13 needs.
_BRINGS_LIBPYTHON = ((3, 13),)


@dataclass(frozen=True)
class Facts:
    """What matters of this machine and this interpreter.

    Args:
        system: Kernel name, such as ``"Linux"``.
        machine: Architecture, such as ``"x86_64"``.
        glibc: Version of the C library; None if it is another one.
        python: Major and minor version of this interpreter.
        free_threaded: Whether it was built without the GIL.
        libpython: Its shared library; None if it has none.
        ensurepip: Whether it can give a virtual environment its pip.
    """

    system: str
    machine: str
    glibc: tuple[int, ...] | None
    python: tuple[int, int]
    free_threaded: bool
    libpython: Path | None
    ensurepip: bool

    @property
    def needs_libpython(self) -> bool:
        """Whether Triton's stub needs this interpreter's shared library."""
        return self.python not in _BRINGS_LIBPYTHON


def findings(facts: Facts) -> tuple[str, ...]:
    """Return what is missing, one sentence each; nothing if all is there."""
    return (
        *_machine_findings(facts),
        *_python_findings(facts),
    )


def _machine_findings(facts: Facts) -> list[str]:
    found = []
    if facts.system != "Linux" or facts.machine not in ("x86_64", "AMD64"):
        found.append(
            "architecture: Triton's binaries are for Linux on x86-64, "
            f"this is {facts.system} on {facts.machine}"
        )
    if facts.glibc is None:
        found.append(
            "glibc: Triton needs the GNU C library, at least "
            f"{_dotted(_GLIBC)}; this system has another one"
        )
    elif facts.glibc < _GLIBC:
        found.append(
            f"glibc: Triton needs at least {_dotted(_GLIBC)}, this system "
            f"has {_dotted(facts.glibc)} (Debian 12 and Ubuntu 22.04 are new "
            "enough)"
        )
    return found


def _python_findings(facts: Facts) -> list[str]:
    version = _dotted(facts.python)
    if facts.python not in _PYTHONS or facts.free_threaded:
        flavour = " free-threaded" if facts.free_threaded else ""
        known = ", ".join(map(_dotted, _PYTHONS))
        return [
            f"Python: {version}{flavour} cannot run it, but one of {known} can"
        ]
    found = []
    if facts.needs_libpython and facts.libpython is None:
        found.append(
            f"libpython: libpython{version}.so.1.0 of this interpreter is "
            f"missing; on Debian and Ubuntu install libpython{version}, with "
            "pyenv build Python with PYTHON_CONFIGURE_OPTS=--enable-shared"
        )
    if not facts.ensurepip:
        found.append(
            "pip: this interpreter cannot create virtual environments; on "
            f"Debian and Ubuntu install python{version}-venv"
        )
    return found


def gather() -> Facts:
    """Look at this machine and this interpreter."""
    return Facts(
        system=platform.system(),
        machine=platform.machine(),
        glibc=_glibc(),
        python=sys.version_info[:2],
        free_threaded=bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        libpython=_libpython(),
        ensurepip=find_spec("ensurepip") is not None,
    )


def _glibc() -> tuple[int, ...] | None:
    try:
        name = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, OSError, ValueError):
        return None
    match = re.fullmatch(r"glibc (\d+)\.(\d+).*", name)
    return (int(match[1]), int(match[2])) if match else None


def _libpython() -> Path | None:
    name = f"libpython{_dotted(sys.version_info[:2])}.so.1.0"
    variables = sysconfig.get_config_vars("LIBDIR", "MULTIARCH")
    libdir, multiarch = (str(value) if value else "" for value in variables)
    base = Path(sys.base_prefix) / "lib"
    system = Path("/usr/lib")
    for directory in (
        base,
        base / multiarch,
        Path(libdir or base),
        Path(libdir or base) / multiarch,
        system / multiarch,
        Path("/usr/lib64"),
        system,
    ):
        if (directory / name).is_file():
            return (directory / name).resolve()
    return None


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
