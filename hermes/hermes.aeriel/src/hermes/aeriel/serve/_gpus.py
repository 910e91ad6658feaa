"""Which GPUs a server may use, and which it does."""

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hermes.aeriel.errors import GpuMismatch, InvalidServeOption

__all__ = (
    "Gpus",
    "ask_driver",
    "check_seen",
    "count_on_host",
    "uuids_on_host",
    "visible_devices",
)

Gpus = Sequence[int | str]

_VARIABLE = "CUDA_VISIBLE_DEVICES"
_ORDER = "CUDA_DEVICE_ORDER"
_IDENTIFIER = re.compile(r"(GPU|MIG)-[\w/-]+")
# One line for each GPU that Triton has opened.
_OPENED = re.compile(r"CUDA memory pool is created on device (\d+)")
_TELLS = "Started GRPCInferenceService"  # nothing to see in a silent log
_MEASURED = re.compile(r'^nv_gpu_\w+\{[^}]*gpu_uuid="([^"]+)"', re.MULTILINE)


def visible_devices(
    gpus: Gpus | None, environ: Mapping[str, str]
) -> dict[str, str]:
    """Return the variables that show the server these GPUs and no others.

    Args:
        gpus: Numbers, which count the GPUs that ``environ`` shows us, or
            identifiers (``"GPU-..."``, ``"MIG-..."``); None for no change.
        environ: Our environment.

    Raises:
        InvalidServeOption: If ``gpus`` is no sequence of them, or names one
            twice, or one that we are not shown.
    """
    if gpus is None:
        return {}
    items: Iterable[object] = gpus
    if isinstance(gpus, str) or not all(map(_is_gpu, items)):
        raise InvalidServeOption(
            "gpus must be a sequence such as [0, 1] or ['GPU-8f2c...'], got "
            f"{gpus!r}"
        )
    shown = _shown(environ)
    devices = [_device(gpu, shown) for gpu in gpus]
    if len(set(devices)) < len(devices):
        raise InvalidServeOption(f"gpus names a GPU twice: {list(gpus)!r}")
    variables = {_VARIABLE: ",".join(devices)}
    if any(map(str.isdecimal, devices)) and shown is None:
        # as nvidia-smi counts; CUDA itself begins with the fastest
        variables[_ORDER] = environ.get(_ORDER, "PCI_BUS_ID")
    return variables


def _is_gpu(gpu: object) -> bool:
    if isinstance(gpu, str):
        return gpu.isdecimal() or _IDENTIFIER.fullmatch(gpu) is not None
    return isinstance(gpu, int) and not isinstance(gpu, bool) and gpu >= 0


def _shown(environ: Mapping[str, str]) -> list[str] | None:
    """Return the GPUs that we are shown; None if that is all of them."""
    if _VARIABLE not in environ:
        return None
    shown = []
    for device in environ[_VARIABLE].split(","):
        name = device.strip()
        # CUDA itself reads no further than the first that it cannot use
        if not (name.isdecimal() or _IDENTIFIER.fullmatch(name)):
            break
        shown.append(name)
    return shown


def _device(gpu: int | str, shown: Sequence[str] | None) -> str:
    name = str(gpu)
    if shown is None or not name.isdecimal():
        return name
    if int(name) >= len(shown):
        raise InvalidServeOption(
            f"gpus names GPU {name}, but {_VARIABLE} shows us "
            f"{len(shown)}: {','.join(shown) or 'none'}; they are counted "
            "from 0"
        )
    return shown[int(name)]


def count_on_host(devices: Path = Path("/dev")) -> int:
    """Return how many NVIDIA GPUs this machine has.

    Args:
        devices: Where device files are.
    """
    return sum(
        1
        for path in devices.glob("nvidia*")
        if path.name[len("nvidia") :].isdecimal()
    ) or int((devices / "dxg").exists())  # Windows' subsystem for Linux


def uuids_on_host(path: str | None = None) -> dict[str, str]:
    """Return the identifier of every GPU by its number, as the driver counts.

    Args:
        path: Where to look for ``nvidia-smi``; None for the PATH.
    """
    lines = ask_driver("index,uuid", path)
    pairs = (line.split(",", 1) for line in lines)
    return {pair[0].strip(): pair[1].strip() for pair in pairs if pair[1:]}


def check_seen(
    devices: str, log: str, metrics: str, uuids: Mapping[str, str]
) -> None:
    """Compare the GPUs that a server was given with those that it sees.

    Args:
        devices: Its ``CUDA_VISIBLE_DEVICES``.
        log: What it wrote.
        metrics: What it measures.
        uuids: Identifiers of this machine's GPUs by their numbers.

    Raises:
        GpuMismatch: If it sees others, or more, or fewer.
    """
    given = [name for name in devices.split(",") if name]
    opened = set(_OPENED.findall(log))
    measured = set(_MEASURED.findall(metrics))
    is_known = opened or measured or _TELLS in log
    if is_known and len(opened or measured) != len(given):
        raise GpuMismatch(
            f"the server was given {_gpus(given)}, but sees "
            f"{_gpus(sorted(measured) or sorted(opened))}; see its log for the"
            " driver's messages, and gpus= for which it is to use"
        )
    expected = {uuids.get(name, name) for name in given}
    if _are_others(expected, measured):
        raise GpuMismatch(
            f"the server was given {_gpus(sorted(expected))}, but sees "
            f"{_gpus(sorted(measured))}"
        )


def _are_others(expected: set[str], measured: set[str]) -> bool:
    """Whether a GPU was measured that is not one of those expected.

    Identifiers may be abbreviated, and MIG's have another's in the metrics.
    """
    return all(name.startswith("GPU-") for name in expected) and any(
        not any(uuid.startswith(name) for name in expected)
        for uuid in measured
    )


def _gpus(names: Sequence[str]) -> str:
    if not names:
        return "no GPU"
    return f"{len(names)} GPU{'s'[: len(names) > 1]} ({', '.join(names)})"


def ask_driver(fields: str, path: str | None) -> list[str]:
    """What ``nvidia-smi`` says of each GPU; nothing where it cannot.

    Args:
        fields: Names of the fields, with commas between.
        path: Where to look for the program; None for PATH.
    """
    program = shutil.which("nvidia-smi", path=path)
    if program is None:
        return []
    try:
        answer = subprocess.run(
            [program, f"--query-gpu={fields}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return answer.stdout.splitlines()
