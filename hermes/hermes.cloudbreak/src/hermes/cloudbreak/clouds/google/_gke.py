"""The wire to GKE: the only importer of its client.

Every call has a time limit and is made once: trying again is the
`Reconciler`'s, who knows until when. GKE's errors become ours here.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hermes.cloudbreak.clouds.google._credentials import Credentials
from hermes.cloudbreak.clouds.google._words import find_cause
from hermes.cloudbreak.errors import (
    AlreadyThere,
    CloudError,
    CloudUnavailable,
    NotThere,
    QuotaExceeded,
    Refused,
    StockOut,
)
from hermes.cloudbreak.specs import Cause

try:
    from google.api_core import exceptions
    from google.cloud.container_v1 import ClusterManagerClient
except ImportError as error:
    raise ImportError(
        f"GKE needs the extra `gcp` of hermes-cloudbreak ({error})",
        name=error.name,
    ) from error

__all__ = ("Wire",)

# How often in a row a new token may be refused before it is the key's fault.
_REFUSALS = 4
# What may be tried again.
_AGAIN = (
    exceptions.Aborted,
    exceptions.Cancelled,
    exceptions.RetryError,
    exceptions.ServerError,
    exceptions.TooManyRequests,
)
# Another operation of the same cluster runs, of which there is one at a time.
# Not all that say so give the reason.
_BUSY = ("CLUSTER_ALREADY_HAS_OPERATION", "")


class Wire:
    """Calls of GKE. Threads may share it.

    Args:
        credentials: Who asks; None if the transport knows.
        timeout: Seconds that a call may take.
        api_endpoint: Another address of GKE's API.
        transport: Another transport of its client.
    """

    def __init__(
        self,
        credentials: Credentials | None,
        timeout: float,
        api_endpoint: str | None = None,
        transport: Any = None,
    ) -> None:
        self._credentials = credentials
        self._timeout = timeout
        self._lock = threading.Lock()
        self._num_refusals = 0
        self._num_renewals = 0
        self._elsewhere = ThreadPoolExecutor(4, "hermes-gke")
        self._client = ClusterManagerClient(
            credentials=credentials.raw if credentials else None,
            transport=transport,
            client_options={"api_endpoint": api_endpoint},
        )

    def close(self) -> None:
        """Close the connection."""
        self._elsewhere.submit(self._client.transport.close).result()
        self._elsewhere.shutdown()

    def call(self, method: str, **request: Any) -> Any:
        """Call a method of GKE's client once.

        Raises:
            CloudError: In our words; `CloudUnavailable` if it may be tried
                again.
        """
        if threading.current_thread() is not threading.main_thread():
            return self._call(method, request)
        # Ctrl-C comes to the main thread. In the middle of gRPC it would leave
        # locks that nobody releases, and the next call would wait for ever.
        return self._elsewhere.submit(self._call, method, request).result()

    def _call(self, method: str, request: Mapping[str, Any]) -> Any:
        if self._credentials:
            self._credentials.renew()
        token = self._num_renewals
        try:
            answer = getattr(self._client, method)(
                request=request, retry=None, timeout=self._timeout
            )
        except exceptions.Unauthorized as error:
            raise self._say_unauthorized(error, token) from None
        except exceptions.GoogleAPIError as error:
            raise _translate(error) from error
        with self._lock:
            self._num_refusals = 0
        return answer

    def _say_unauthorized(self, error: Any, token: int) -> CloudError:
        """A token may have ended early; a wrong key is wrong every time.

        Args:
            error: What GKE says.
            token: How often tokens had been renewed before the call: those
                who share one that has ended are refused once, not each.
        """
        with self._lock:
            if token == self._num_renewals:
                self._num_renewals += 1
                self._num_refusals += 1
                if self._credentials:
                    self._credentials.renew(anyway=True)
            is_final = self._num_refusals >= _REFUSALS
        if not is_final:
            return CloudUnavailable(f"GKE refuses a token: {error.message}")
        return Refused(
            f"GKE refuses these credentials ({error.message}): give others"
        )


_KINDS: Mapping[type[Exception], type[CloudError]] = {
    exceptions.AlreadyExists: AlreadyThere,
    exceptions.NotFound: NotThere,
}
_CAUSES: Mapping[Cause, type[CloudError]] = {
    Cause.QUOTA: QuotaExceeded,
    Cause.STOCK_OUT: StockOut,
}


def _translate(error: exceptions.GoogleAPIError) -> CloudError:
    text = str(getattr(error, "message", error))
    reason = getattr(error, "reason", None) or ""
    if (kind := _KINDS.get(type(error))) is not None:
        return kind(text)
    cause = find_cause((reason,), text)
    if cause in _CAUSES and not isinstance(error, exceptions.ServerError):
        return _CAUSES[cause](text)
    if isinstance(error, exceptions.MethodNotImplemented):
        return Refused(text)
    if isinstance(error, exceptions.FailedPrecondition):
        return (CloudUnavailable if reason in _BUSY else Refused)(text)
    if isinstance(error, _AGAIN):
        return CloudUnavailable(text)
    return Refused(text)
