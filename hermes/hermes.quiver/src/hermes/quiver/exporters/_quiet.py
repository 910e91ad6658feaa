"""Frameworks that talk: silent for as long as an export takes."""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence

from hermes.quiver.exporters._noise import ONE_AT_A_TIME

__all__ = ("quiet",)

_STREAMS = (1, 2)  # standard output and error


@contextlib.contextmanager
def quiet(*loggers: str) -> Iterator[list[warnings.WarningMessage]]:
    """Keep warnings, standard error and some loggers from the user.

    What matters of it is in the error that an exporter raises. Standard error
    is the whole process's: what other threads write to it meanwhile is lost
    too, as is what is not Python's on standard output.

    Args:
        loggers: Names of loggers; those below them are silent too.

    Yields:
        The warnings, as they come.
    """
    with ONE_AT_A_TIME, contextlib.ExitStack() as stack:
        for logger in _with_handlers(loggers):
            stack.enter_context(_without_handlers(logger))
        stack.enter_context(_without_output())
        caught = stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        yield caught


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
def _without_handlers(logger: logging.Logger) -> Iterator[None]:
    handlers, propagate = list(logger.handlers), logger.propagate
    logger.handlers[:] = [logging.NullHandler()]
    logger.propagate = False
    try:
        yield
    finally:
        logger.handlers[:] = handlers
        logger.propagate = propagate


@contextlib.contextmanager
def _without_output() -> Iterator[None]:
    """Python's standard error, and what libraries in C++ write to."""
    flush = ctypes.CDLL(None).fflush
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, nowhere)
        if sys.stdout is not None:
            sys.stdout.flush()
        flush(None)
        for stream in filter(_is_open, _STREAMS):
            kept = os.dup(stream)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, stream)
            os.dup2(nowhere, stream)
        stack.callback(flush, None)
        yield


def _is_open(stream: int) -> bool:
    try:
        os.fstat(stream)
    except OSError:
        return False
    return True
