"""Frameworks talk while they work: what they say ends here."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

__all__ = ("Heard", "quiet")

# Of two threads each would restore what the other one had set.
_ONE_AT_A_TIME = threading.RLock()
_STREAMS = (1, 2)  # standard output and error
# A line that was written, and whether something was raised -> is it of no use?
_Chatter = Callable[[bytes, bool], bool]


@dataclass(frozen=True)
class Heard:
    """What was said meanwhile, as it comes.

    Attributes:
        warnings: All warnings.
        errors: The errors that were logged.
    """

    warnings: list[warnings.WarningMessage]
    errors: list[logging.LogRecord]


def _anything(_line: bytes, _failed: bool) -> bool:
    return True


@contextlib.contextmanager
def quiet(
    loggers: Sequence[str] = (), is_chatter: _Chatter = _anything
) -> Iterator[Heard]:
    """Keep what others print, warn and log from the user's terminal.

    What matters of it is in the error that an exporter raises. Their C++
    writes whatever Python's settings are, so that the descriptors themselves
    are turned away for a while. They are the whole process's: what other
    threads write there meanwhile comes later, unless it is taken for chatter.

    Args:
        loggers: Names of loggers; those below them are silent too.
        is_chatter: Tells which lines are dropped, of those that are written
            to standard output and error; all of them by default.

    Yields:
        The warnings and errors.
    """
    with (
        _ONE_AT_A_TIME,
        _collected(loggers) as errors,
        _turned_away(is_chatter),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        yield Heard(caught, errors)


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
        for logger in _with_handlers(names):
            undo.callback(setattr, logger, "propagate", logger.propagate)
            undo.callback(setattr, logger, "handlers", logger.handlers)
            logger.propagate = False
            logger.handlers = [collector]
        undo.enter_context(_root_spared())
        yield collector.records


def _with_handlers(names: Sequence[str]) -> list[logging.Logger]:
    below = tuple(f"{name}." for name in names)
    return [
        logger
        for name, logger in logging.root.manager.loggerDict.copy().items()
        if isinstance(logger, logging.Logger)
        and name.startswith(below)
        and logger.handlers
    ] + [logging.getLogger(name) for name in names]


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
def _turned_away(is_chatter: _Chatter) -> Iterator[None]:
    flush = ctypes.CDLL(None).fflush
    with contextlib.ExitStack() as undo:
        if sys.stdout is not None:
            sys.stdout.flush()
        flush(None)
        for stream in filter(_is_open, _STREAMS):
            undo.enter_context(_written_later(stream, is_chatter))
        undo.callback(flush, None)
        if _is_open(2):  # Python's may be another
            stderr = undo.enter_context(os.fdopen(os.dup(2), "w", 1))
            undo.enter_context(contextlib.redirect_stderr(stderr))
        yield


@contextlib.contextmanager
def _written_later(stream: int, is_chatter: _Chatter) -> Iterator[None]:
    with (
        os.fdopen(os.dup(stream), "wb", 0) as terminal,
        tempfile.TemporaryFile(buffering=0) as kept,
    ):
        os.dup2(kept.fileno(), stream)
        failed = True
        try:
            yield
            failed = False
        finally:
            os.dup2(terminal.fileno(), stream)
            kept.seek(0)
            for line in kept.readlines():
                if not is_chatter(line, failed):
                    terminal.write(line)


def _is_open(stream: int) -> bool:
    try:
        os.fstat(stream)
    except OSError:  # a daemon has none
        return False
    return True
