"""Everything that cloudbreak raises.

    CloudbreakError
    ├── CloudError
    │   ├── AlreadyThere       (FileExistsError)
    │   ├── CloudUnavailable   (ConnectionError)
    │   ├── NotThere           (LookupError)
    │   ├── QuotaExceeded      (RuntimeError)
    │   ├── Refused            (ValueError)
    │   └── StockOut           (RuntimeError)
    ├── HostError
    │   ├── CommandFailed      (RuntimeError)
    │   ├── CommandTimeout     (TimeoutError)
    │   ├── ConnectionLost     (ConnectionError)
    │   ├── CopyFailed         (OSError)
    │   ├── HostKeyMismatch    (ConnectionError)
    │   ├── HostUnreachable    (ConnectionError)
    │   ├── HostsFailed        (RuntimeError)
    │   └── LoginRefused       (PermissionError)
    ├── InvalidSpec            (ValueError)
    ├── ReplicasFailed         (RuntimeError)
    ├── ResourceFailed         (RuntimeError)
    ├── StillThere             (TimeoutError)
    └── WaitTimeout            (TimeoutError)

A `CloudError` is what a cloud answers; an implementation of `Cloud` translates
its own errors into these. A `HostError` is about one machine and what it was
told to do, and `HostsFailed` about several. A message says what was given,
what was expected and what to do about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hermes.cloudbreak.ssh import Result

__all__ = (
    "AlreadyThere",
    "CloudError",
    "CloudUnavailable",
    "CloudbreakError",
    "CommandFailed",
    "CommandTimeout",
    "ConnectionLost",
    "CopyFailed",
    "HostError",
    "HostKeyMismatch",
    "HostUnreachable",
    "HostsFailed",
    "InvalidSpec",
    "LoginRefused",
    "NotThere",
    "QuotaExceeded",
    "Refused",
    "ReplicasFailed",
    "ResourceFailed",
    "StillThere",
    "StockOut",
    "WaitTimeout",
)


class CloudbreakError(Exception):
    """Something in cloudbreak went wrong."""


class CloudError(CloudbreakError):
    """A cloud answered with an error."""


class AlreadyThere(CloudError, FileExistsError):
    """The name belongs to something else already."""


class CloudUnavailable(CloudError, ConnectionError):
    """No answer, or one that asks to try again: nobody knows what was done."""


class NotThere(CloudError, LookupError):
    """There is nothing of that name."""


class QuotaExceeded(CloudError, RuntimeError):
    """The project may not have so much of something; the message names it."""


class Refused(CloudError, ValueError):
    """The cloud does not accept what was asked for, or who asks for it."""


class StockOut(CloudError, RuntimeError):
    """The cloud has none left in that zone."""


class HostError(CloudbreakError):
    """Something went wrong on a machine, or on the way to it."""


class CommandFailed(HostError, RuntimeError):
    """A command ended with an exit code that is not zero."""


class CommandTimeout(HostError, TimeoutError):
    """A command took too long; it says whether it was ended."""


class ConnectionLost(HostError, ConnectionError):
    """The connection ended before the command: nobody knows what it did."""


class CopyFailed(HostError, OSError):
    """A file was not copied; nothing of it is where it should have gone."""


class HostKeyMismatch(HostError, ConnectionError):
    """Who answers is not the machine that was expected; nothing was sent."""


class HostUnreachable(HostError, ConnectionError):
    """A machine did not answer in time."""


class LoginRefused(HostError, PermissionError):
    """A machine does not accept the user or the key."""


class HostsFailed(HostError, RuntimeError):
    """Something went wrong on some of many machines.

    Attributes:
        results: What became of all of them, by name: of those where all went
            well, too.
    """

    def __init__(self, message: str, results: Mapping[str, Result]) -> None:
        super().__init__(message)
        self.results = dict(results)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.results)


class InvalidSpec(CloudbreakError, ValueError):
    """A description that makes no resource; nothing was sent."""


class ReplicasFailed(CloudbreakError, RuntimeError):
    """Some servers of a deployment did not do what all were told.

    Attributes:
        failed: What each of them said, by its name.
    """

    def __init__(self, message: str, failed: Mapping[str, str]) -> None:
        super().__init__(message)
        self.failed = dict(failed)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.failed)


class ResourceFailed(CloudbreakError, RuntimeError):
    """A resource will not become ready."""


class StillThere(CloudbreakError, TimeoutError):
    """Resources that should be gone are still there, and cost money."""


class WaitTimeout(CloudbreakError, TimeoutError):
    """A resource was not ready in time."""
