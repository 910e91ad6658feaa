"""Frameworks that talk: silent for as long as an export takes."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence

__all__ = ("quiet",)


@contextlib.contextmanager
def quiet(*loggers: str) -> Iterator[list[warnings.WarningMessage]]:
    """Keep warnings, prints and some loggers from the user.

    What matters of it is in the error that an exporter raises. Standard
    output is the whole process's: what other threads print meanwhile is lost
    too.

    Args:
        loggers: Names of loggers; those below them are silent too.

    Yields:
        The warnings, as they come.
    """
    with contextlib.ExitStack() as stack:
        for logger in _with_handlers(loggers):
            stack.enter_context(_without_handlers(logger))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
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
