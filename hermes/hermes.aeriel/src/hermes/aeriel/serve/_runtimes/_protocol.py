"""What every runtime is asked, and what it has to answer."""

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ("SHELL_SAFE", "Bind", "Launch", "Request", "Runtime")

# The Python backend starts its stubs through a shell, with the paths as they
# are: anything outside this set would be split, or run.
SHELL_SAFE = re.compile(r"[\w./@%+=,-]+", re.ASCII)


@dataclass(frozen=True)
class Bind:
    """A file or folder of this machine that a container sees.

    Args:
        source: Its path here.
        target: Its path there.
        read_only: Whether the container must not write to it.
    """

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class Request:
    """What a server needs of its runtime.

    Args:
        repositories: Model repositories: directories, or URLs.
        environ: Our environment.
        env: Environment variables for the server; they win.
        with_gpus: Whether the server is to use GPUs.
        binds: What else a container shows to the server.
        loads_all: Whether the server loads every model at once.
    """

    repositories: tuple[str, ...]
    environ: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    with_gpus: bool = False
    binds: tuple[Bind, ...] = ()
    loads_all: bool = True


@dataclass(frozen=True)
class Launch:
    """How one server is started.

    Args:
        argv: What comes before the server's options.
        repositories: The model repositories as the server sees them.
        backend_directory: The backends; None for the server's default.
        env: The whole environment of what we start.
        outer: What starts the lifeline's shell; nothing if we do.
        handed: Variables for the server that do not go by the environment.
        cwd: Working directory; None for ours.
        pass_fds: Descriptors that the server inherits.
        may_be_killed: Whether, once everything is answered, nothing that
            anybody needs is lost with the server's own way to its end.
    """

    argv: tuple[str, ...]
    repositories: tuple[str, ...]
    env: Mapping[str, str]
    backend_directory: str | None = None
    outer: tuple[str, ...] = ()
    handed: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    pass_fds: tuple[int, ...] = ()
    may_be_killed: bool = False


class Runtime(Protocol):
    """Something that can run tritonserver; its ``str`` tells users which."""

    def launch(self, request: Request) -> AbstractContextManager[Launch]:
        """Prepare a start; what it opens is closed after the server has it.

        Raises:
            RuntimeUnusable: If this runtime cannot work.
            RepositoryUnusable: If it cannot serve such a repository.
        """
