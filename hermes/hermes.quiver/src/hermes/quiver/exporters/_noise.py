"""Foreign libraries that talk while they work."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence

__all__ = ("environment_kept", "quiet")

# Of two threads each would restore what the other one had set.
ONE_AT_A_TIME = threading.RLock()

# What TensorFlow's C++ begins its lines with: a date, or the level's letter.
_CHATTER = re.compile(
    rb"\d{4}-\d\d-\d\d [\d:.]+: [IW] |[IW]\d{4} [\d:.]+ |"
    rb"WARNING: All log messages before absl::InitializeLog|"
    rb"To enable the following instructions: "
)
# It takes for an error, too, that a machine has no GPU.
_ERRORS = re.compile(rb"\d{4}-\d\d-\d\d [\d:.]+: E |E\d{4} [\d:.]+ ")


@contextlib.contextmanager
def quiet(
    loggers: Sequence[str] = (),
) -> Iterator[list[logging.LogRecord]]:
    """Keep what others print, warn and log from the user's terminal.

    The C++ of TensorFlow writes to the process's standard error whatever
    Python's settings are, so that the descriptor itself is turned away for a
    while. What is not recognised as such chatter (another thread may write
    there, too) is written at the end; so are errors if something is raised.

    Args:
        loggers: Names of loggers that are to say nothing.

    Yields:
        The errors logged there meanwhile.
    """
    with (
        ONE_AT_A_TIME,
        warnings.catch_warnings(),
        _collected(loggers) as records,
        _turned_away(),
    ):
        warnings.simplefilter("ignore")
        yield records


@contextlib.contextmanager
def environment_kept(name: str) -> Iterator[None]:
    """Give a variable of the environment its value back."""
    value = os.environ.get(name)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextlib.contextmanager
def _collected(names: Sequence[str]) -> Iterator[list[logging.LogRecord]]:
    collector = _Collector()
    with contextlib.ExitStack() as undo:
        for name in names:
            logger = logging.getLogger(name)
            undo.callback(logger.setLevel, logger.level)
            undo.callback(setattr, logger, "propagate", logger.propagate)
            undo.callback(setattr, logger, "handlers", logger.handlers)
            logger.setLevel(logging.ERROR)
            logger.propagate = False
            logger.handlers = [collector]
        undo.enter_context(_root_spared())
        yield collector.records


@contextlib.contextmanager
def _root_spared() -> Iterator[None]:
    """Drop what this thread logs to the root logger itself.

    ``logging.warning`` would also configure logging where nobody has, unless
    there is a handler: the one that is used anyway where there is none.
    """
    root, thread = logging.getLogger(), threading.get_ident()

    def keep(record: logging.LogRecord) -> bool:
        return record.thread != thread

    spare = logging.lastResort if not root.handlers else None
    root.addFilter(keep)
    if spare is not None:
        root.addHandler(spare)
    try:
        yield
    finally:
        root.removeFilter(keep)
        if spare is not None:
            root.removeHandler(spare)


@contextlib.contextmanager
def _turned_away() -> Iterator[None]:
    try:
        stderr = os.dup(2)
    except OSError:  # a daemon has none
        yield
        return
    with os.fdopen(stderr, "wb", 0) as terminal, _file() as kept:
        os.dup2(kept, 2)
        dropped = [_CHATTER]
        try:
            yield
            dropped.append(_ERRORS)
        finally:
            os.dup2(terminal.fileno(), 2)
            for line in _lines(kept):
                if not any(pattern.match(line) for pattern in dropped):
                    terminal.write(line)


@contextlib.contextmanager
def _file() -> Iterator[int]:
    with tempfile.TemporaryFile(buffering=0) as file:
        yield file.fileno()


def _lines(descriptor: int) -> list[bytes]:
    os.lseek(descriptor, 0, os.SEEK_SET)
    with os.fdopen(os.dup(descriptor), "rb") as file:
        return file.readlines()
