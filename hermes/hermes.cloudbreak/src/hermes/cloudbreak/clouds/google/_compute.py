"""Compute Engine's API: the only importer of its client.

One call each, with a time limit; what comes back is plain data. Threads may
share it: each call has a connection of its own while it lasts.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import queue
from collections.abc import Iterator, Mapping
from typing import Any

from hermes.cloudbreak.clouds.google._credentials import Credentials
from hermes.cloudbreak.errors import (
    AlreadyThere,
    CloudError,
    CloudUnavailable,
    NotThere,
    QuotaExceeded,
    Refused,
    StockOut,
)

try:
    import httplib2
    from googleapiclient.discovery import build
    from googleapiclient.errors import Error, HttpError
except ImportError as error:
    raise ImportError(
        f"Compute Engine needs the extra `gcp` of hermes-cloudbreak ({error})",
        name=error.name,
    ) from error

__all__ = ("ComputeAPI",)

# Seconds that a call may take, and instances on a page.
_LIMIT, _PAGE = 60.0, 500
_RATE = {"rateLimitExceeded", "userRateLimitExceeded"}
_BUSY = {"resourceNotReady", "resourceInUseByAnotherResource"}
_NONE_LEFT = {"insufficientCapacity", "ZONE_RESOURCE_POOL_EXHAUSTED"}
_NO_ANSWER = (
    OSError,
    httplib2.HttpLib2Error,
    http.client.HTTPException,  # such as an answer that is cut off
    Error,
    ValueError,
)


class ComputeAPI:
    """Calls of Compute Engine in one project.

    Every call may raise `CloudUnavailable` and `Refused`.

    Args:
        project: The project.
        credentials: Who asks.
        endpoint: Where to, if not to Google.
    """

    def __init__(
        self, project: str, credentials: Credentials, endpoint: str = ""
    ) -> None:
        self._project = project
        self._credentials = credentials
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()
        service = _service(endpoint)
        self._instances = service.instances()
        self._operations = service.zoneOperations()

    def close(self) -> None:
        """End the connections that wait for the next call."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()

    def list_instances(self, selection: str) -> list[dict[str, Any]]:
        """List machines of all zones.

        Raises:
            CloudUnavailable: Also if some zones do not answer: what is not
                told of would be taken for gone.
        """
        found: list[dict[str, Any]] = []
        token = None
        while True:
            page = self._call(
                self._instances.aggregatedList(
                    project=self._project,
                    filter=selection,
                    maxResults=_PAGE,
                    pageToken=token,
                )
            )
            _check_whole(page)
            for each in page.get("items", {}).values():
                found += each.get("instances", ())
            token = page.get("nextPageToken")
            if not token:
                return found

    def bulk_insert(
        self, zone: str, body: Mapping[str, Any], request_id: str
    ) -> dict[str, Any]:
        """Ask for machines; give the operation.

        Raises:
            AlreadyThere: If one of the names is taken.
            QuotaExceeded: If there may not be so many.
        """
        try:
            return self._call(
                self._instances.bulkInsert(
                    project=self._project,
                    zone=zone,
                    body=dict(body),
                    requestId=request_id,
                )
            )
        except NotThere as error:  # such as a zone that there is not
            raise Refused(str(error)) from error

    def set_labels(
        self, instance: Mapping[str, Any], labels: Mapping[str, str]
    ) -> None:
        """Ask for a machine to have labels, and no others.

        Args:
            instance: The machine, as it was listed.
            labels: What it has to have.

        Raises:
            NotThere: If there is none.
            CloudUnavailable: Also if they were changed since it was listed.
        """
        self._call(
            self._instances.setLabels(
                project=self._project,
                zone=str(instance["zone"]).rpartition("/")[2],
                instance=instance["name"],
                body={
                    "labels": dict(labels),
                    "labelFingerprint": instance.get("labelFingerprint", ""),
                },
            )
        )

    def delete_instance(self, zone: str, name: str) -> None:
        """Ask for the end of a machine.

        Raises:
            NotThere: If there is none.
        """
        self._call(
            self._instances.delete(
                project=self._project, zone=zone, instance=name
            )
        )

    def get_operation(self, zone: str, name: str) -> dict[str, Any]:
        """Look an operation up.

        Raises:
            NotThere: If it is long over.
        """
        return self._call(
            self._operations.get(
                project=self._project, zone=zone, operation=name
            )
        )

    def guest_attributes(
        self, zone: str, name: str, namespace: str
    ) -> dict[str, str]:
        """Read what programs on a machine say of it, so far.

        Returns:
            Values of a namespace by their keys.
        """
        try:
            found = self._call(
                self._instances.getGuestAttributes(
                    project=self._project,
                    zone=zone,
                    instance=name,
                    queryPath=f"{namespace}/",
                )
            )
        except NotThere:  # nothing was said yet
            return {}
        return {
            each["key"]: each.get("value", "")
            for each in found.get("queryValue", {}).get("items", ())
        }

    def serial_output(self, zone: str, name: str) -> str:
        """Read what a machine has written to its console.

        Raises:
            NotThere: If there is no such machine.
        """
        found = self._call(
            self._instances.getSerialPortOutput(
                project=self._project, zone=zone, instance=name
            )
        )
        return str(found.get("contents", ""))

    def _call(self, request: Any) -> dict[str, Any]:
        """Call; with a new token where the cloud says that it is none."""
        try:
            return self._send(request)
        except HttpError as error:
            if error.status_code != 401:
                raise _translate(error) from None
        self._credentials.renew(anyway=True)
        try:
            return self._send(request)
        except HttpError as error:
            raise _translate(error) from None

    def _send(self, request: Any) -> dict[str, Any]:
        if token := self._credentials.token():
            request.headers["authorization"] = f"Bearer {token}"
        try:
            with self._connection() as http:
                answer: dict[str, Any] = request.execute(http=http)
        except HttpError:
            raise
        except _NO_ANSWER as error:
            raise CloudUnavailable(
                f"no answer from Compute Engine ({_name(error)}); nobody "
                f"knows whether {request.methodId} was done"
            ) from error
        return answer

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Any]:
        try:
            http = self._idle.get_nowait()
        except queue.Empty:
            http = httplib2.Http(timeout=_LIMIT)
        try:
            yield http
        except BaseException:
            http.close()
            raise
        self._idle.put(http)


@functools.cache
def _service(endpoint: str) -> Any:
    """Read the discovery document, which takes a while, once."""
    return build(
        "compute",
        "v1",
        http=httplib2.Http(timeout=_LIMIT),
        static_discovery=True,
        client_options={"api_endpoint": endpoint} if endpoint else None,
    )


def _check_whole(page: Mapping[str, Any]) -> None:
    silent = list(page.get("unreachables", ()))
    for scope, each in page.get("items", {}).items():
        if each.get("warning", {}).get("code") == "UNREACHABLE":
            silent.append(scope)
    if silent:
        raise CloudUnavailable(
            f"Compute Engine does not say what is in {', '.join(silent)}"
        )


def _translate(error: HttpError) -> CloudError:
    status = int(error.status_code)
    reasons, said = _read(error)
    text = f"Compute Engine answers {status}: {said}"
    if reasons & _NONE_LEFT:
        return StockOut(text)
    # 412: somebody has changed it since we looked.
    if status in {412, 429} or status >= 500 or reasons & _RATE:
        return CloudUnavailable(text)
    if "quotaExceeded" in reasons:
        return QuotaExceeded(text)
    if status == 404:
        return NotThere(text)
    if status == 409:
        return (CloudUnavailable if reasons & _BUSY else AlreadyThere)(text)
    if status in {401, 403}:
        text += "; look at the credentials, and at what they may do"
    return Refused(text)


def _read(error: HttpError) -> tuple[set[str], str]:
    try:
        told = json.loads(error.content)["error"]
        reasons = {each.get("reason", "") for each in told.get("errors", ())}
        return reasons, str(told.get("message", ""))
    except (KeyError, TypeError, ValueError):
        return set(), str(error.reason)


def _name(error: Exception) -> str:
    return str(error) or type(error).__name__
