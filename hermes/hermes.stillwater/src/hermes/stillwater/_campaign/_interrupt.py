"""Ctrl-C: the first one asks, the second one does not."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ("Interrupt",)


class Interrupt:
    """What Ctrl-C does while it is entered, in the main thread.

    Args:
        wake: Called from the signal's handler at the first one; the second
            one raises KeyboardInterrupt wherever the program is.

    Attributes:
        is_asked: Whether there was one.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.is_asked = False
        self._wake = wake
        self._before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            if callable(before):  # else the program is to ignore it
                self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.is_asked:
            # What is done about it now is short, and must not be cut short.
            signal.signal(signal.SIGINT, _ignore)
            raise KeyboardInterrupt
        self.is_asked = True
        self._wake()


def _ignore(_number: int, _frame: FrameType | None) -> None:
    pass
