"""Threads for a server that may be forgotten."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

__all__ = ("Threads",)


class Threads:
    """A daemon thread for each call; what gRPC needs of an Executor.

    The threads of a ThreadPoolExecutor are waited for when the interpreter
    ends: for ever, where one of them serves a stream that nobody closes.

    Args:
        name: What the threads are called.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._running: set[threading.Thread] = set()

    def submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        """Call it in a thread of its own."""
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - the Future's
                future.set_exception(error)
            finally:
                with self._lock:
                    self._running.discard(threading.current_thread())

        thread = threading.Thread(target=run, name=self._name, daemon=True)
        with self._lock:
            self._running.add(thread)
            thread.start()
        return future

    def join(self) -> None:
        """Wait for all of them."""
        with self._lock:
            running = list(self._running)
        for thread in running:
            thread.join()
