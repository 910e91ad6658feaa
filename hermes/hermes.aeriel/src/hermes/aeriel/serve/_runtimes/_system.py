"""A Triton that somebody else installed, such as a container's around us."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hermes.aeriel.serve._command import server_environment
from hermes.aeriel.serve._runtimes._protocol import Launch, Request

__all__ = ("SystemRuntime",)


@dataclass(frozen=True)
class SystemRuntime:
    """A Triton that is there already, used as it is.

    Args:
        executable: Its ``tritonserver``.
    """

    executable: Path

    def __str__(self) -> str:
        return f"{self.executable}, used as it is"

    @contextmanager
    def launch(self, request: Request) -> Iterator[Launch]:
        """Prepare a start; see :class:`Runtime`."""
        backends = self.executable.resolve().parent.parent / "backends"
        yield Launch(
            argv=(str(self.executable),),
            repositories=request.repositories,
            backend_directory=str(backends) if backends.is_dir() else None,
            env=server_environment(
                request.environ, {}, request.env, isolate=False
            ),
        )
