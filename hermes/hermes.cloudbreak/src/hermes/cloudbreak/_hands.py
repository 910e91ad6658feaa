"""Several requests to a cloud at once, all of which are tried."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from hermes.cloudbreak.reconcile import Action

__all__ = ("Hands",)

_AT_ONCE = 16


class Hands:
    """Threads that act.

    Args:
        act_on: What one of them does.
    """

    def __init__(self, act_on: Callable[[Action], None]) -> None:
        self._act_on = act_on
        self._running: list[Future[None]] = []

    def wait(self, timeout: float) -> None:
        """Wait for what was going on when Ctrl-C came."""
        concurrent.futures.wait(self._running, timeout)

    def act(self, actions: Iterable[Action]) -> list[Exception]:
        """Act, several at once; all are tried before anybody gives up.

        Returns:
            What went wrong.
        """
        pool = ThreadPoolExecutor(_AT_ONCE, "hermes-cloud")
        futures = [pool.submit(self._act_on, each) for each in actions]
        try:
            concurrent.futures.wait(futures)
        finally:
            # Ctrl-C: what has not begun never does, and the rest is waited for
            # before anything is taken for gone.
            pool.shutdown(wait=False, cancel_futures=True)
            self._running = [
                each for each in (*self._running, *futures) if not each.done()
            ]
        errors = []
        for future in futures:
            try:
                future.result()
            except Exception as error:  # noqa: BLE001 - who calls decides
                errors.append(error)
        return errors
