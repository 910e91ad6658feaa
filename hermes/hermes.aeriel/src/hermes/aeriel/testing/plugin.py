"""Fixtures for pytest; one line in a ``conftest.py`` enables them.

``pytest_plugins = ["hermes.aeriel.testing.plugin"]``

- ``triton_server(repository, **options)``: a real server, one per repository
  and session; skips the test where no Triton is installed.
- ``fake_triton(*models, **options)``: a `FakeTriton`, closed after the test.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hermes.aeriel.errors import RuntimeUnusable
from hermes.aeriel.serve import Server, serve
from hermes.aeriel.testing._fake import FakeTriton

__all__ = ("Servers", "fake_triton", "triton_server")


class Servers:
    """Real servers, one per repository: called with it, gives its server.

    Args:
        stack: Stops them.
        environ: Where ``CI`` says that a missing Triton is a failure.
    """

    def __init__(self, stack: ExitStack, environ: Mapping[str, str]) -> None:
        self._stack = stack
        self._environ = environ
        self._servers: dict[str, Server] = {}

    def __call__(self, repository: Any, **options: Any) -> Server:
        """A server that is ready; the same one for the same arguments.

        Args:
            repository: See ``serve()``.
            **options: More of its arguments; ports are free ones.
        """
        key = f"{_place(repository)} {sorted(options.items())!r}"
        if key not in self._servers:
            options = {"free_ports": True, "wait": True, **options}
            try:
                server = serve(repository, **options)
            except RuntimeUnusable as error:
                self._lack(f"no local Triton: {error}")
            self._servers[key] = self._stack.enter_context(server)
        return self._servers[key]

    def _lack(self, reason: str) -> None:
        if "CI" in self._environ:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def triton_server() -> Iterator[Servers]:
    """``triton_server(repository)``: a real server that is ready.

    Tests of one session share it, also what it remembers of sequences: a
    test that stops or kills its server uses ``serve()`` itself. Where no
    Triton is installed the test is skipped, or fails if ``CI`` is set.
    """
    with ExitStack() as stack:
        yield Servers(stack, os.environ)


@pytest.fixture
def fake_triton() -> Iterator[Callable[..., FakeTriton]]:
    """``fake_triton(*models, **options)``: a `FakeTriton` for this test."""
    with ExitStack() as stack:

        def start(*models: Any, **options: Any) -> FakeTriton:
            return stack.enter_context(FakeTriton(*models, **options))

        yield start


def _place(repository: Any) -> str:
    if isinstance(repository, str | os.PathLike):
        return str(Path(repository).absolute())
    return str(getattr(repository, "root", repository))
