"""Run the script that builds engines: here, in a container, on a node."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from hermes.quiver.errors import ExportFailed, InvalidInput, MissingExtra

__all__ = ("Built", "convert")

_SCRIPT = Path(__file__).with_name("_tensorrt_build.py")
_LOG_LINES = 5
# The script ends itself a little later than it is ended, wherever it runs.
_GRACE = 5.0


@dataclass(frozen=True)
class Built:
    """An engine.

    Attributes:
        plan: Its content.
        facts: What built it, and what it takes and gives.
    """

    plan: bytes
    facts: Mapping[str, Any]


def convert(
    graph: bytes,
    request: Mapping[str, Any],
    command: Sequence[str],
    timeout: float,
    timing_cache: Path | None = None,
) -> Built:
    """Build an engine in a process of its own.

    Args:
        graph: The ONNX file's content.
        request: What the script is asked for.
        command: Runs Python; the script and its directory follow.
            ``{directory}`` in it becomes the directory's path.
        timeout: Seconds after which the process is killed.
        timing_cache: A file of timings that is used and updated.

    Raises:
        ExportFailed: If no engine comes of it.
        InvalidInput: If the builder cannot do what is requested.
        MissingExtra: If there is no TensorRT where the command leads.
    """
    with tempfile.TemporaryDirectory(
        prefix="hermes-tensorrt-", ignore_cleanup_errors=True
    ) as name:
        directory = Path(name)
        (directory / "build.py").write_bytes(_SCRIPT.read_bytes())
        (directory / "model.onnx").write_bytes(graph)
        told = json.dumps({**request, "timeout": timeout + _GRACE})
        (directory / "request.json").write_text(told)
        cache = directory / "timing.cache"
        if timing_cache is not None:
            known = timing_cache.exists()
            cache.write_bytes(timing_cache.read_bytes() if known else b"")
        status = _run(command, directory, timeout)
        built = _read(directory, command[0], status)
        if timing_cache is not None:
            _replace(timing_cache, cache.read_bytes())
        return built


def _run(command: Sequence[str], directory: Path, timeout: float) -> int:
    process = None
    try:
        with _without_interrupts():
            process = _start(command, directory)
        _say_that_we_wait(process)
        return process.wait(timeout)
    except subprocess.TimeoutExpired as error:
        msg = (
            f"{command[0]} built no engine in timeout={timeout:g} s; give it"
            f" more. Its last lines: {_tail(directory)}"
        )
        raise ExportFailed(msg) from error
    finally:
        if process is not None:
            _end(process)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let Ctrl-C wait: between a process and its owner it finds neither.

    Other threads than the first one do not hear it anyway.
    """
    handler = signal.getsignal(signal.SIGINT)
    is_first = threading.current_thread() is threading.main_thread()
    if not is_first or not callable(handler):
        yield
        return
    missed: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda *heard: missed.append(heard))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        for heard in missed[:1]:
            handler(*heard)


def _start(command: Sequence[str], directory: Path) -> subprocess.Popen[bytes]:
    words = [word.replace("{directory}", str(directory)) for word in command]
    try:
        with (directory / "log").open("wb") as log:
            return subprocess.Popen(
                [*words, str(directory / "build.py"), str(directory)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        msg = f"cannot run command={command[0]!r}: {error}"
        raise ExportFailed(msg) from error


def _say_that_we_wait(process: subprocess.Popen[bytes]) -> None:
    """The pipe stays open, and the script ends when it closes."""
    assert process.stdin is not None  # noqa: S101  # for mypy
    # where it has ended already its status says why
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(b"!")
        process.stdin.flush()


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None  # noqa: S101  # for mypy
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    if process.poll() is None:
        # what another user's rights run (sudo) ends with its input
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)


def _read(directory: Path, program: str, status: int) -> Built:
    try:
        result = json.loads((directory / "result.json").read_text())
        facts, error = result.get("plan"), result.get("error")
        plan = (directory / "model.plan").read_bytes() if facts else b""
    except (OSError, ValueError, AttributeError) as cause:
        msg = (
            f"{program} ended with status {status} and left no engine; its"
            f" last lines: {_tail(directory)}"
        )
        raise ExportFailed(msg) from cause
    if error is not None:
        raise _error(error)
    return Built(plan, facts)


def _error(error: Mapping[str, Any]) -> Exception:
    kind, message = error["kind"], error["message"]
    if kind == "missing":
        msg = (
            f"{message}; install tensorrt there (hermes-quiver's extra"
            " 'tensorrt') or, for GPUs of the RTX kind, tensorrt-rtx"
        )
        return MissingExtra(msg)
    if kind == "request":
        return InvalidInput(message)
    if kind == "graph":  # and the log says the same
        return ExportFailed(message)
    log = "; ".join(error["log"])
    return ExportFailed(f"{message}. TensorRT's log: {log or 'nothing'}")


def _tail(directory: Path) -> str:
    text = (directory / "log").read_text(errors="replace")
    return " / ".join(text.splitlines()[-_LOG_LINES:]) or "none"


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        msg = f"timing_cache={str(path)!r} cannot be written: {error}"
        raise ExportFailed(msg) from error
    finally:
        partial.unlink(missing_ok=True)
