"""Answers for programs that poll: what `InferenceClient.get` reads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

__all__ = ("Callback", "Mailbox")

Callback = Callable[[Any, Any, Any], Any]


class Mailbox:
    """Answers and errors in the order in which they came.

    Args:
        callback: Called with the answer, the request's id and the
            sequence's; what it returns is kept in place of the answer,
            unless it is None.
    """

    def __init__(self, callback: Callback | None) -> None:
        self._callback = callback
        self._items: deque[tuple[Any, BaseException | None]] = deque()
        self._lock = threading.Lock()

    def deliver(
        self, request_id: Any, sequence_id: Any, future: Future[Any]
    ) -> None:
        """Take what a Future has ended with; never raises."""
        error = future.exception()
        item: Any = None
        if error is None:
            item = (future.result(), request_id, sequence_id)
            if self._callback is not None:
                try:
                    item = self._callback(*item)
                except Exception as raised:  # noqa: BLE001  # get() raises it
                    item, error = None, raised
        if error is not None or item is not None:
            with self._lock:
                self._items.append((item, error))

    def get(self) -> Any:
        """The oldest answer; None if there is none.

        Raises:
            BaseException: The error that came in its place.
        """
        with self._lock:
            if not self._items:
                return None
            item, error = self._items.popleft()
        if error is not None:
            raise error
        return item

    def get_all(self) -> list[Any]:
        """The answers before the next error.

        Raises:
            BaseException: That error, if there is no answer before it.
        """
        found = []
        with self._lock:
            while self._items and self._items[0][1] is None:
                found.append(self._items.popleft()[0])
        if not found:
            first = self.get()
            found = [] if first is None else [first]
        return found
