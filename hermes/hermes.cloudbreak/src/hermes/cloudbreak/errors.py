"""Everything that cloudbreak raises.

    CloudbreakError
    ├── CloudError
    │   ├── AlreadyThere       (FileExistsError)
    │   ├── CloudUnavailable   (ConnectionError)
    │   ├── NotThere           (LookupError)
    │   ├── QuotaExceeded      (RuntimeError)
    │   ├── Refused            (ValueError)
    │   └── StockOut           (RuntimeError)
    ├── InvalidSpec            (ValueError)
    ├── ReplicasFailed         (RuntimeError)
    ├── ResourceFailed         (RuntimeError)
    ├── StillThere             (TimeoutError)
    └── WaitTimeout            (TimeoutError)

A `CloudError` is what a cloud answers; an implementation of `Cloud` translates
its own errors into these. A message says what was given, what was expected
and what to do about it.
"""

from collections.abc import Mapping

__all__ = (
    "AlreadyThere",
    "CloudError",
    "CloudUnavailable",
    "CloudbreakError",
    "InvalidSpec",
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
