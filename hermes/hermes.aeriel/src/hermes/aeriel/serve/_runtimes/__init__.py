"""Which Triton a server is, and how it is started.

General layout:
    _protocol.py    what a runtime is: Request -> Launch
    _managed.py     ours, installed by `python -m hermes.aeriel.serve install`
    _system.py      one that is there already, also inside a container
    _apptainer.py   one in an image of Apptainer's or Singularity's
    _find.py        which of them

A fourth is a file beside these and a line in ``_find.py``.
"""

from hermes.aeriel.serve._runtimes._apptainer import ApptainerRuntime
from hermes.aeriel.serve._runtimes._find import choose_runtime, find_runtime
from hermes.aeriel.serve._runtimes._managed import (
    ManagedRuntime,
    install_command,
    managed_prefix,
)
from hermes.aeriel.serve._runtimes._protocol import (
    Bind,
    Launch,
    Request,
    Runtime,
)
from hermes.aeriel.serve._runtimes._system import SystemRuntime

__all__ = (
    "ApptainerRuntime",
    "Bind",
    "Launch",
    "ManagedRuntime",
    "Request",
    "Runtime",
    "SystemRuntime",
    "choose_runtime",
    "find_runtime",
    "install_command",
    "managed_prefix",
)
